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

	"github.com/reseal/reseal/signer"
)

// maxRSABits keeps a hostile key from costing seconds of arithmetic.
const maxRSABits = 8192

// key is a public key and the ways Sigstore clients sign with its kind.
type key struct {
	id        signer.Identity
	pub       crypto.PublicKey
	verifiers []signature.Verifier
}

// newKey knows, for each kind of key, today's default and what older clients
// did: SHA-256 with the larger curves, Ed25519 with and without prehashing.
func newKey(pub crypto.PublicKey) (key, error) {
	k := key{pub: pub}
	var errs []error
	add := func(v signature.Verifier, err error) {
		if err != nil {
			errs = append(errs, err)
			return
		}
		k.verifiers = append(k.verifiers, v)
	}
	switch p := pub.(type) {
	case *ecdsa.PublicKey:
		switch p.Curve {
		case elliptic.P384():
			add(signature.LoadECDSAVerifier(p, crypto.SHA384))
		case elliptic.P521():
			add(signature.LoadECDSAVerifier(p, crypto.SHA512))
		}
		add(signature.LoadECDSAVerifier(p, crypto.SHA256))
	case ed25519.PublicKey:
		add(signature.LoadED25519Verifier(p))
		add(signature.LoadED25519phVerifier(p))
	case *rsa.PublicKey:
		if p.N == nil || p.N.BitLen() > maxRSABits {
			return key{}, fmt.Errorf("an RSA key of more than %d bits is not supported", maxRSABits)
		}
		add(signature.LoadRSAPKCS1v15Verifier(p, crypto.SHA256))
	default:
		return key{}, fmt.Errorf("a public key of type %T is not supported: use ECDSA, Ed25519 or RSA", pub)
	}
	if len(k.verifiers) == 0 {
		return key{}, errors.Join(errs...)
	}
	var err error
	k.id, err = signer.OfKey(pub)
	return k, err
}

// check reports whether the claim's signature was made with the key.
func (k key) check(c *claim) error {
	content, err := c.content("")
	if err != nil {
		return err
	}
	for _, v := range k.verifiers {
		err = guard(func() error {
			tm := (*material)(nil).withKey(v)
			vc := keyContent{pub: k.pub}
			switch {
			case c.envelope != nil:
				return sgverify.VerifySignature(content, vc, tm)
			case c.digest != nil:
				return sgverify.VerifySignatureWithArtifactDigests(content, vc, tm,
					[]sgverify.ArtifactDigest{{Algorithm: "sha256", Digest: c.digest}})
			default:
				return v.VerifySignature(bytes.NewReader(c.signature), bytes.NewReader(c.payload))
			}
		})
		if err == nil {
			return nil
		}
	}
	return errors.New(brief(err.Error()))
}

func (c *claim) verifies(pub crypto.PublicKey) error {
	var k key
	if err := guard(func() (err error) { k, err = newKey(pub); return err }); err != nil {
		return err
	}
	return k.check(c)
}

// signerOf finds the key that made a signature that carries no certificate.
//
// Keys of the trust come first. A hint and the key in a log entry are unsigned
// text: from an ECDSA signature a second key that also verifies it can be
// computed, so naming that one must not hide a key we know. A key nobody trusts
// is still who signed when the signature verifies with it.
func (v *Verifier) signerOf(c *claim) (key, signer.Identity, error) {
	unknown := signer.Identity{Kind: signer.Unknown}
	if len(c.signature) == 0 {
		return key{}, unknown, errors.New("it holds no signature")
	}
	for _, k := range v.keys {
		if k.check(c) == nil {
			return k, k.id, nil
		}
	}
	named := ""
	for _, e := range c.entries {
		if e.key == nil {
			continue
		}
		var k key
		if err := guard(func() (err error) { k, err = newKey(e.key); return err }); err != nil {
			continue
		}
		if k.check(c) == nil {
			return k, k.id, nil
		}
		named = k.id.ID()
	}
	if sum, ok := fingerprint(c.hint); ok {
		id := signer.Identity{Kind: signer.Key, Subject: sum}
		for _, k := range v.keys {
			if k.id == id {
				return key{}, id, fmt.Errorf("it does not verify with the key %s it names", id.ID())
			}
		}
		return key{}, id, fmt.Errorf("the key %s is not at hand: give it with --key", id.ID())
	}
	if named != "" {
		return key{}, unknown, fmt.Errorf("no known key verifies it, nor does the key %s its log entry names: give the signer's public key with --key", named)
	}
	return key{}, unknown, errors.New("no known key verifies it: give the signer's public key with --key")
}

// fingerprint reads the hint cosign and sigstore-go write into key bundles:
// base64 of the SHA-256 of the SubjectPublicKeyInfo. Other hints are free text.
func fingerprint(hint string) (string, bool) {
	sum, err := base64.StdEncoding.DecodeString(hint)
	if err != nil || len(sum) != sha256.Size {
		return "", false
	}
	return hex.EncodeToString(sum), true
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
