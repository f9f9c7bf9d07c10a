package verify

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/reseal/reseal/signer"
)

// maxRSABits keeps a hostile key from costing seconds of arithmetic.
const maxRSABits = 8192

// key is a public key and the ways Sigstore clients sign with its kind.
type key struct {
	id         signer.Identity
	pub        crypto.PublicKey
	algorithms []algorithm
}

// algorithm is one way to sign with a key. Its hash is 0 where the message is
// signed as it is.
type algorithm struct {
	hash crypto.Hash
	signature.Verifier
}

// newKey knows, for each kind of key, today's default and what older clients
// and key services do: SHA-256 with the larger curves, Ed25519 with and without
// prehashing, RSA with either padding and every SHA-2.
func newKey(pub crypto.PublicKey) (key, error) {
	k := key{pub: pub}
	var errs []error
	add := func(h crypto.Hash, v signature.Verifier, err error) {
		if err != nil {
			errs = append(errs, err)
			return
		}
		k.algorithms = append(k.algorithms, algorithm{h, v})
	}
	ec := func(p *ecdsa.PublicKey, h crypto.Hash) {
		v, err := signature.LoadECDSAVerifier(p, h)
		add(h, v, err)
	}
	switch p := pub.(type) {
	case *ecdsa.PublicKey:
		switch p.Curve {
		case elliptic.P384():
			ec(p, crypto.SHA384)
		case elliptic.P521():
			ec(p, crypto.SHA512)
		}
		ec(p, crypto.SHA256)
	case ed25519.PublicKey:
		v, err := signature.LoadED25519Verifier(p)
		add(0, v, err)
		ph, err := signature.LoadED25519phVerifier(p)
		add(crypto.SHA512, ph, err)
	case *rsa.PublicKey:
		if p.N == nil || p.N.BitLen() > maxRSABits {
			return key{}, fmt.Errorf("an RSA key of more than %d bits is not supported", maxRSABits)
		}
		for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			v, err := signature.LoadRSAPKCS1v15Verifier(p, h)
			add(h, v, err)
			pss, err := signature.LoadRSAPSSVerifier(p, h, nil)
			add(h, pss, err)
		}
	default:
		return key{}, fmt.Errorf("a public key of type %T is not supported: use ECDSA, Ed25519 or RSA", pub)
	}
	if len(k.algorithms) == 0 {
		return key{}, errors.Join(errs...)
	}
	var err error
	k.id, err = signer.OfKey(pub)
	return k, err
}

var (
	errSignature = errors.New("the signature is of another key or over other bytes")
	errMessage   = errors.New("the key signs artifacts by another hash, or unhashed: without the artifact itself its signature cannot be checked")
)

// check reports whether the claim's signature was made with the key.
func (k key) check(c *claim) error {
	if !c.readable() {
		return errUnreadable
	}
	why := errMessage
	for _, a := range k.algorithms {
		err := guard(func() error {
			if a.hash == 0 {
				if c.message == nil {
					return errMessage
				}
				return a.VerifySignature(bytes.NewReader(c.signature), bytes.NewReader(c.message))
			}
			digest := c.digest(a.hash)
			if digest == nil {
				return errMessage
			}
			return a.VerifySignature(bytes.NewReader(c.signature), nil, options.WithDigest(digest))
		})
		if err == nil {
			return nil
		}
		if !errors.Is(err, errMessage) {
			why = errSignature
		}
	}
	return why
}

// signerOf finds the key that made a signature that carries no certificate.
//
// Keys of the trust come first. A hint and the key in a log entry are unsigned
// text: from an ECDSA signature a second key that also verifies it can be
// computed, so naming that one must not hide a key we know; among those we know
// they only say which to try first. A key nobody trusts is still who signed
// when the signature verifies with it.
func (v *Verifier) signerOf(c *claim) (key, signer.Identity, error) {
	unknown := signer.Identity{Kind: signer.Unknown}
	if len(c.signature) == 0 {
		return key{}, unknown, errors.New("it holds no signature")
	}
	hinted, named := fingerprint(c.hint), c.namedKeys()
	first := []string{hinted}
	for _, k := range named {
		first = append(first, k.id.Subject)
	}
	var untried error
	for _, id := range first {
		if i, ok := v.byID[id]; ok && v.keys[i].check(c) == nil {
			return v.keys[i], v.keys[i].id, nil
		}
	}
	for _, k := range v.keys {
		switch err := k.check(c); {
		case err == nil:
			return k, k.id, nil
		case errors.Is(err, errMessage):
			untried = err
		}
	}
	for _, k := range named {
		if k.check(c) == nil {
			return k, k.id, nil
		}
	}
	id := signer.Identity{Kind: signer.Key, Subject: hinted}
	i, trusted := v.byID[hinted]
	switch {
	case trusted:
		return key{}, id, fmt.Errorf("it does not verify with the key %s it names: %w", id.ID(), v.keys[i].check(c))
	case hinted != "":
		return key{}, id, fmt.Errorf("the key %s is not at hand: give it with --key", id.ID())
	case untried != nil:
		return key{}, unknown, fmt.Errorf("no known key verifies it: %w", untried)
	case len(named) > 0:
		return key{}, unknown, fmt.Errorf("no known key verifies it, nor does the key %s its log entry names: give the signer's public key with --key",
			named[len(named)-1].id.ID())
	}
	return key{}, unknown, errors.New("no known key verifies it: give the signer's public key with --key")
}

// namedKeys are the keys its log entries name.
func (c *claim) namedKeys() []key {
	var out []key
	for _, e := range c.entries {
		pub := e.publicKey()
		if pub == nil {
			continue
		}
		if _, isCertificate := pub.(*x509.Certificate); isCertificate {
			continue
		}
		var k key
		if err := guard(func() (err error) { k, err = newKey(pub); return err }); err == nil {
			out = append(out, k)
		}
	}
	return out
}

// fingerprint reads the hint cosign and sigstore-go write into key bundles:
// base64 of the SHA-256 of the SubjectPublicKeyInfo. Other hints are free text,
// and name no key.
func fingerprint(hint string) string {
	sum, err := base64.StdEncoding.DecodeString(hint)
	if err != nil || len(sum) != sha256.Size {
		return ""
	}
	return hex.EncodeToString(sum)
}

// keyContent is a signer's key as sigstore-go asks for it.
type keyContent struct{ pub crypto.PublicKey }

func (k keyContent) CompareKey(other any, _ root.TrustedMaterial) bool {
	o, ok := other.(interface{ Equal(crypto.PublicKey) bool })
	return ok && o.Equal(k.pub)
}
func (keyContent) ValidAtTime(time.Time, root.TrustedMaterial) bool { return true }
func (keyContent) Certificate() *x509.Certificate                   { return nil }
func (keyContent) Intermediates() []*x509.Certificate               { return nil }
func (keyContent) PublicKey() sgverify.PublicKeyProvider            { return anyHint{} }

type anyHint struct{}

func (anyHint) Hint() string { return "" }
