// Package signer names who signs.
//
// A signer is a key, known by the SHA-256 of its SubjectPublicKeyInfo, or a
// keyless identity, known by its OIDC issuer and certificate SAN. How a key is
// reached (a file, a KMS URI, a PKCS#11 object) is no part of its identity.
// The package does no I/O.
package signer

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind says how a signer is identified.
type Kind string

// The kinds of signer.
const (
	Key     Kind = "key"     // a public key, by fingerprint
	Keyless Kind = "keyless" // an OIDC identity, by issuer and SAN
	Unknown Kind = "unknown" // a signature whose signer no key at hand identifies
)

// Identity identifies a signer. Two signatures have the same signer exactly
// when their identities are equal.
type Identity struct {
	Kind    Kind   `json:"kind"`
	Subject string `json:"subject,omitempty"` // key fingerprint in hex, or the certificate's SAN
	Issuer  string `json:"issuer,omitempty"`  // OIDC issuer of a keyless identity
}

// ID returns the short, stable, printable form of the identity. It is what
// commands take and what the inventory is keyed by.
func (i Identity) ID() string {
	switch i.Kind {
	case Key:
		return "key:sha256:" + i.Subject
	case Keyless:
		sum := sha256.Sum256([]byte(i.Issuer + "\x00" + i.Subject))
		return "keyless:sha256:" + hex.EncodeToString(sum[:])
	default:
		return string(Unknown)
	}
}

// String returns a form a person recognises.
func (i Identity) String() string {
	if i.Kind == Keyless {
		return fmt.Sprintf("%s (issuer %s)", i.Subject, i.Issuer)
	}
	return i.ID()
}

// Certificate is what the certificate of a keyless signer says beyond who
// signed: which run of which workflow it was issued to, and by whom (Fulcio's
// OID information, 1.3.6.1.4.1.57264.1). None of it is believed by itself: it
// is as good as the signature that the certificate verifies.
type Certificate struct {
	Serial     string    `json:"serial"`       // hex
	CA         string    `json:"ca,omitempty"` // SHA-256 of the issuing certificate, hex; empty when the trusted root does not have it
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"`
	Workflow   string    `json:"workflow,omitempty"`   // Build Signer URI, or the build config that a reusable workflow replaces
	Ref        string    `json:"ref,omitempty"`        // Source Repository Ref
	SHA        string    `json:"sha,omitempty"`        // Source Repository Digest
	Repository string    `json:"repository,omitempty"` // Source Repository URI
	Trigger    string    `json:"trigger,omitempty"`    // Build Trigger
	Run        string    `json:"run,omitempty"`        // Run Invocation URI
	Runner     string    `json:"runner,omitempty"`     // Runner Environment
}

// OfKey returns the identity of a public key: the hex SHA-256 of its PKIX DER.
func OfKey(pub crypto.PublicKey) (Identity, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return Identity{}, fmt.Errorf("public key of type %T has no fingerprint: %w", pub, err)
	}
	sum := sha256.Sum256(der)
	return Identity{Kind: Key, Subject: hex.EncodeToString(sum[:])}, nil
}

// ParsePublicKey reads one PEM-encoded SubjectPublicKeyInfo (as cosign writes
// cosign.pub) and returns the key and its identity.
func ParsePublicKey(data []byte) (crypto.PublicKey, Identity, error) {
	block, rest := pem.Decode(data)
	switch {
	case block == nil:
		return nil, Identity{}, errors.New("no PEM block: expected a public key as in cosign.pub")
	case strings.Contains(block.Type, "PRIVATE"):
		return nil, Identity{}, fmt.Errorf("PEM block is %q: expected a PUBLIC KEY, not a private one", block.Type)
	case block.Type != "PUBLIC KEY":
		return nil, Identity{}, fmt.Errorf("PEM block is %q: expected PUBLIC KEY", block.Type)
	case len(strings.TrimSpace(string(rest))) > 0:
		return nil, Identity{}, errors.New("more than one PEM block: expected exactly one public key")
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, Identity{}, fmt.Errorf("parsing public key: %w", err)
	}
	id, err := OfKey(pub)
	return pub, id, err
}

// State is where a signer stands in its life (the words are SPIRE's).
type State string

// The states of a signer, in the order they are passed through.
const (
	Observed State = "observed" // seen in the inventory, never enrolled: trusted by nobody here
	Standby  State = "standby"  // pre-trusted, not in use yet
	Active   State = "active"   // signs today
	Old      State = "old"      // trusted, no longer used
	Tainted  State = "tainted"  // an incident about it is open
	Revoked  State = "revoked"  // removed from every anchor
)

// Trusted reports whether verifiers are meant to accept the signer.
func (s State) Trusted() bool { return s == Standby || s == Active || s == Old }

// ParseState reads a state a person may enrol a signer in.
func ParseState(s string) (State, error) {
	switch st := State(s); st {
	case Standby, Active, Old:
		return st, nil
	}
	return "", fmt.Errorf("signer state %q: use standby, active or old", s)
}

// Record is what is known of one signer.
type Record struct {
	Identity  Identity
	Name      string // given when enrolled
	State     State
	PublicKey []byte // PEM, for keys
}

// Enrolled reports whether verifiers are meant to accept the signer, or were
// until an incident.
func (r Record) Enrolled() bool { return r.Name != "" && r.State != Observed }

// Signer makes signatures with one key. Implementations are safe for
// concurrent use.
type Signer interface {
	Identity() Identity
	PublicKey() crypto.PublicKey
	// Sign returns the signature over message (not over its digest), in the
	// encoding cosign stores: ASN.1 DER for ECDSA, raw for Ed25519.
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// DigestSigner is a Signer that can also sign a message of which only the SHA-256
// digest is at hand. Tokens and keyless credentials are none.
type DigestSigner interface {
	Signer
	// SignDigest returns a signature as Sign does over a message with the given
	// SHA-256 digest. It fails for a key that signs messages as they are.
	SignDigest(ctx context.Context, digest []byte) ([]byte, error)
}

// Credential is what signatures are made with, for a time.
type Credential struct {
	Signer
	// Certificate is the DER of the certificate that names the signer, without
	// its chain; nil when signatures are verified with the key alone.
	Certificate []byte
	// Until is when it is no longer to be used; zero: it does not end.
	Until time.Time
}

// Source gives what to sign with as one identity. A key is always the same; a
// keyless identity gets a new one every few minutes. Implementations are safe
// for concurrent use.
type Source interface {
	Identity() Identity
	// Credential returns what to sign with now. Ask for each signature anew,
	// after any waiting and not before it.
	Credential(ctx context.Context) (Credential, error)
}

// Always is the source of one key.
func Always(s Signer) Source { return always{s} }

type always struct{ Signer }

func (a always) Credential(context.Context) (Credential, error) {
	return Credential{Signer: a.Signer}, nil
}
