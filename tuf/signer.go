package tuf

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Fields that tuf-on-ci keeps in published metadata. Using the same ones lets either tool take a repository over.
const (
	fieldOwner     = "x-tuf-on-ci-keyowner"
	fieldOnlineURI = "x-tuf-on-ci-online-uri"
	fieldExpiry    = "x-tuf-on-ci-expiry-period" // whole days
)

// A Signer couples a private key, held here, in a file, a KMS or a token, with the TUF key that is published for it.
//
// The key id covers the published key's extra fields, so it depends on the owner or URI the Signer was made with.
// That matters only when a key enters a repository (Init): to sign for a repository that already lists the key, the
// published id is looked up by public key.
type Signer struct {
	private crypto.Signer
	key     *metadata.Key
	id      string
}

// NewSigner returns a Signer for the offline key of a person; owner ("@alice") is published with the key when not empty.
//
// It takes Ed25519 and ECDSA P-256 keys. Others are refused: go-tuf publishes every ECDSA key as nistp256, so that a
// P-384 signature would never verify, and RSA adds nothing here but size.
func NewSigner(private crypto.Signer, owner string) (Signer, error) {
	return newSigner(private, fieldOwner, owner)
}

// NewOnlineSigner returns a Signer for the key that signs snapshot and timestamp unattended; uri (such as
// "gcpkms:projects/…") says where that key lives and is published with it when not empty. Key types as for NewSigner.
func NewOnlineSigner(private crypto.Signer, uri string) (Signer, error) {
	return newSigner(private, fieldOnlineURI, uri)
}

func newSigner(private crypto.Signer, field, value string) (Signer, error) {
	if private == nil {
		return Signer{}, errors.New("tuf: signer: no private key given")
	}
	switch public := private.Public().(type) {
	case ed25519.PublicKey:
		if len(public) != ed25519.PublicKeySize {
			return Signer{}, fmt.Errorf("tuf: signer: Ed25519 public key of %d bytes instead of %d", len(public), ed25519.PublicKeySize)
		}
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() {
			return Signer{}, fmt.Errorf("tuf: signer: ECDSA curve %s is not supported: use a P-256 or an Ed25519 key", public.Curve.Params().Name)
		}
	default:
		return Signer{}, fmt.Errorf("tuf: signer: key type %T is not supported: use an Ed25519 or an ECDSA P-256 key", public)
	}
	key, err := metadata.KeyFromPublicKey(private.Public())
	if err != nil {
		return Signer{}, fmt.Errorf("tuf: signer: %w", err)
	}
	if value != "" {
		// Before ID: it covers this field, and it is computed once and kept.
		key.UnrecognizedFields = map[string]any{field: value}
	}
	id, err := key.ID()
	if err != nil {
		return Signer{}, fmt.Errorf("tuf: signer: key id: %w", err)
	}
	return Signer{private: private, key: key, id: id}, nil
}

// KeyID returns the id under which the key enters a repository: the SHA-256 of its canonical published form
// (TUF specification 4.2).
func (s Signer) KeyID() string { return s.id }

// name is how errors call a signer.
func (s Signer) name() string { return keyName(s.id, s.key) }

func keyName(id string, key *metadata.Key) string {
	short := id[:min(len(id), 12)]
	if key == nil {
		return short
	}
	for _, field := range []string{fieldOwner, fieldOnlineURI} {
		if v, ok := key.UnrecognizedFields[field].(string); ok {
			return v + " (" + short + ")"
		}
	}
	return short
}

// bytes signs payload and checks the result, so that a broken token or a wrong KMS mapping shows here and not at clients.
func (s Signer) bytes(payload []byte) ([]byte, error) {
	var opts crypto.SignerOpts = crypto.SHA256
	if _, ok := s.private.Public().(ed25519.PublicKey); ok {
		opts = crypto.Hash(0)
	}
	sig, err := crypto.SignMessage(s.private, rand.Reader, payload, opts)
	if err != nil {
		return nil, err
	}
	valid := false
	switch public := s.private.Public().(type) {
	case ed25519.PublicKey:
		valid = ed25519.Verify(public, payload, sig)
	case *ecdsa.PublicKey:
		digest := sha256.Sum256(payload)
		valid = ecdsa.VerifyASN1(public, digest[:], sig)
	}
	if !valid {
		return nil, errors.New("the signature does not verify with the signer's own public key")
	}
	return sig, nil
}

// A keyring is what a delegator says about a role: which keys, under which ids, and how many must sign.
type keyring struct {
	role      string
	ids       []string
	keys      map[string]*metadata.Key
	threshold int
}

// publishedID returns the id under which the ring lists the signer's public key.
func (k keyring) publishedID(s Signer) (string, error) {
	if s.private == nil {
		return "", errors.New("an empty signer was given: make signers with NewSigner")
	}
	for _, id := range k.ids {
		public, err := k.keys[id].ToPublicKey()
		if err != nil {
			continue // a key this version cannot read cannot be the signer's
		}
		if p, ok := public.(interface{ Equal(crypto.PublicKey) bool }); ok && p.Equal(s.private.Public()) {
			return id, nil
		}
	}
	return "", fmt.Errorf("key %s is not a key of role %q, which has: %s", s.name(), k.role, k.names())
}

func (k keyring) names() string {
	names := make([]string, len(k.ids))
	for i, id := range k.ids {
		names[i] = keyName(id, k.keys[id])
	}
	return strings.Join(names, ", ")
}

// sign replaces the signatures of m by those of signers, each under its published id. It refuses, before a key is
// touched, a signer that is not in the ring and a number of distinct keys below the threshold.
func sign[T metadata.Roles](ctx context.Context, m *metadata.Metadata[T], ring keyring, signers ...Signer) error {
	ids := make([]string, len(signers))
	var distinct []string
	for i, s := range signers {
		id, err := ring.publishedID(s)
		if err != nil {
			return err
		}
		ids[i] = id
		if !slices.Contains(distinct, id) {
			distinct = append(distinct, id)
		}
	}
	if len(distinct) < ring.threshold {
		return fmt.Errorf("role %q needs the signatures of %d keys and got signers for %d: add some of: %s",
			ring.role, ring.threshold, len(distinct), ring.names())
	}
	payload, err := cjson.EncodeCanonical(m.Signed)
	if err != nil {
		return fmt.Errorf("canonical form of %s: %w", ring.role, err)
	}
	m.Signatures = []metadata.Signature{}
	for i, s := range signers {
		if err := ctx.Err(); err != nil {
			return err
		}
		sig, err := s.bytes(payload)
		if err != nil {
			return fmt.Errorf("sign %s with key %s: %w", ring.role, s.name(), err)
		}
		setSignature(m, metadata.Signature{KeyID: ids[i], Signature: sig})
	}
	return nil
}

// setSignature puts sig in place of an earlier signature by the same key. The key ids of signatures must be unique
// (TUF specification 4.2): clients refuse a file that has one twice, which is what go-tuf's own Sign would produce.
func setSignature[T metadata.Roles](m *metadata.Metadata[T], sig metadata.Signature) {
	m.Signatures = slices.DeleteFunc(m.Signatures, func(old metadata.Signature) bool { return old.KeyID == sig.KeyID })
	m.Signatures = append(m.Signatures, sig)
}
