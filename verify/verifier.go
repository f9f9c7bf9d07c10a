// Package verify turns stored signatures into verified evidence.
//
// It says of one stored signature who made it, whether it verifies over the
// artifact it is attached to, and which of the times it carries are proven and
// by whom. Each proof is judged alone: one that is broken or unreadable is kept
// with the reason and hides no other. What is trusted comes from the caller;
// there is no network and no clock.
//
// The input is hostile: whoever can write to a registry wrote it. Nothing here
// fails or panics on it; what does not verify says why.
package verify

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	sgbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// Bounds on what is read. The first is cosign's own limit for an attachment,
// the next two are sigstore-go's for one bundle.
const (
	maxContent  = 128 << 20 // bytes of a payload, envelope or bundle
	maxEntries  = 32        // transparency log entries of one signature
	maxTokens   = 32        // RFC 3161 tokens of one signature
	maxEvidence = 1 << 20   // bytes of an annotation, a log entry, a token or a certificate
	maxText     = 1024      // bytes of a name or type taken from a signature
)

const noRoot = "no trusted root was given: use --trusted-root"

// Trust is what signatures are checked against.
type Trust struct {
	Root root.TrustedMaterial // CAs, logs and TSAs; nil: no time can be proven and no keyless signer verified
	Keys []crypto.PublicKey   // keys that may have signed
}

// Subject is the artifact a signature is attached to.
type Subject struct {
	Repository string
	Digest     string // "sha256:<hex>"
}

// Verifier verifies stored signatures against one Trust. It does not change
// after New and is safe for concurrent use.
type Verifier struct {
	root *material // nil: none was given
	keys []key
}

// New returns a Verifier that trusts t as it is now.
func New(t Trust) (*Verifier, error) {
	v := &Verifier{}
	for i, pub := range t.Keys {
		k, err := newKey(pub)
		if err != nil {
			return nil, fmt.Errorf("trusted key %d: %w", i+1, err)
		}
		if !slices.ContainsFunc(v.keys, func(o key) bool { return o.id == k.id }) {
			v.keys = append(v.keys, k)
		}
	}
	if t.Root != nil {
		v.root = newMaterial(t.Root)
	}
	return v, nil
}

// material is a fixed copy of a trusted root, with room for the one key the
// signature at hand is checked against.
type material struct {
	tsas []root.TimestampingAuthority
	cas  []root.CertificateAuthority
	logs map[string]*root.TransparencyLog
	ct   map[string]*root.TransparencyLog
	key  signature.Verifier
}

func newMaterial(r root.TrustedMaterial) *material {
	return &material{
		tsas: slices.Clone(r.TimestampingAuthorities()),
		cas:  slices.Clone(r.FulcioCertificateAuthorities()),
		logs: maps.Clone(r.RekorLogs()),
		ct:   maps.Clone(r.CTLogs()),
	}
}

// withKey returns the material with k as the answer to every hint: hints are
// not signed and choose nothing here.
func (m *material) withKey(k signature.Verifier) *material {
	var c material
	if m != nil {
		c = *m
	}
	c.key = k
	return &c
}

func (m *material) TimestampingAuthorities() []root.TimestampingAuthority     { return m.tsas }
func (m *material) FulcioCertificateAuthorities() []root.CertificateAuthority { return m.cas }
func (m *material) RekorLogs() map[string]*root.TransparencyLog               { return m.logs }
func (m *material) CTLogs() map[string]*root.TransparencyLog                  { return m.ct }

func (m *material) PublicKeyVerifier(string) (root.TimeConstrainedVerifier, error) {
	if m.key == nil {
		return nil, errors.New("no public key at hand")
	}
	return root.NewExpiringKey(m.key, time.Time{}, time.Time{}), nil
}

// claim is a stored signature taken apart, before any of it is believed.
// Exactly one of payload, envelope and digest says what was signed; all are
// empty when that could not be read.
type claim struct {
	signature []byte
	payload   []byte         // signed as it is: a simple signing payload
	envelope  *dsse.Envelope // a DSSE envelope with this one signature
	stored    []byte         // the envelope as stored
	digest    []byte         // SHA-256 of the artifact, of a message signature
	leaf      *x509.Certificate
	hint      string
	entries   []entry
	tokens    []token
	problems  []string // why it cannot verify, whoever signed

	certified  bool // a certificate was meant to name the signer
	unreadable bool // what was signed could not be read
}

func (c *claim) problem(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// content is what was signed, as sigstore-go sees it. A log may have recorded
// another hash of the payload than SHA-256; algorithm is the one it names.
func (c *claim) content(algorithm string) (sgverify.SignatureContent, error) {
	switch {
	case c.envelope != nil:
		return &sgbundle.Envelope{Envelope: c.envelope}, nil
	case c.digest != nil:
		return sgbundle.NewMessageSignature(c.digest, "sha256", c.signature), nil
	case c.payload != nil:
		h := crypto.SHA256
		switch algorithm {
		case "sha384":
			h = crypto.SHA384
		case "sha512":
			h = crypto.SHA512
		default:
			algorithm = "sha256"
		}
		w := h.New()
		w.Write(c.payload)
		return sgbundle.NewMessageSignature(w.Sum(nil), algorithm, c.signature), nil
	}
	return nil, errors.New("what was signed cannot be read")
}

// judge fills in who signed, whether that verifies, and the bounds.
func (v *Verifier) judge(c *claim, out *inventory.Signature) {
	problems := slices.Clone(c.problems)
	if _, err := c.content(""); err != nil {
		// Nothing can be checked over it, and why not is in problems already.
		if len(problems) == 0 {
			problems = append(problems, err.Error())
		}
		c.unreadable = true
	}
	var pub crypto.PublicKey
	if c.leaf != nil {
		id, err := identityOf(c.leaf)
		out.Signer = id
		if err != nil {
			problems = append(problems, err.Error())
		}
		pub = c.leaf.PublicKey
		if err := c.verifies(pub); err != nil && !c.unreadable {
			problems = append(problems, "the signature does not verify with the key in its certificate: "+err.Error())
		}
	} else {
		k, id, err := v.signerOf(c)
		out.Signer = id
		switch {
		case err == nil:
			pub = k.pub
		case len(problems) == 0 || !c.unreadable && !c.certified:
			problems = append(problems, err.Error())
		}
	}

	bounds, times, logProblem := v.upperBounds(c, pub)
	out.Bounds = append(out.Bounds, bounds...)
	if c.leaf != nil {
		lower, requires, err := v.issuance(c.leaf, times, bounds)
		out.Bounds = append(out.Bounds, lower)
		out.Requires = requires
		switch {
		case err != nil:
			problems = append(problems, err.Error())
		case logProblem != nil:
			// Deployed verifiers refuse a keyless signature whose log entry is false.
			problems = append(problems, "its transparency log entry does not verify: "+logProblem.Error())
		}
	}
	out.Verified = len(problems) == 0
	out.Why = strings.Join(problems, "; ")
}

// start fills what is known before anything is read.
func start(sub Subject, f inventory.Format, content []byte) inventory.Signature {
	return inventory.Signature{
		Repository:    sub.Repository,
		Digest:        sub.Digest,
		Format:        f,
		Content:       inventory.Digest(content),
		PayloadDigest: inventory.Digest(content), // until the payload within is found
		Signer:        signer.Identity{Kind: signer.Unknown},
	}
}

// safely runs one whole verification. Its own parts are guarded already; this
// is for what nobody thought of.
func safely(out *inventory.Signature, read func() []byte) inventory.Signature {
	var sig []byte
	if err := guard(func() error { sig = read(); return nil }); err != nil {
		out.Verified, out.Why = false, err.Error()
	}
	out.ID = inventory.SignatureID(out.Repository, out.Digest, out.Format, out.Signer, out.PayloadDigest, sig)
	return *out
}

// guard calls into code that may panic on hostile input.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is malformed, reading it broke off: %s", brief(fmt.Sprint(p)))
		}
	}()
	return f()
}

// moment is a time as evidence keeps it. A claimed time no calendar writes
// with four digits is none: it could not be stored as text.
func moment(t time.Time) time.Time {
	t = t.UTC().Truncate(time.Second)
	if t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

// clean returns s as it can be stored and printed, and whether that is s itself.
func clean(s string) (string, bool) {
	c := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
	if len(c) > maxText {
		c = strings.ToValidUTF8(c[:maxText], "") + "…"
	}
	return c, c == s
}

// brief is hostile text, or an error that may repeat some, short enough for a reason.
func brief(s string) string {
	c, _ := clean(strings.ReplaceAll(s, "\n", " "))
	if len(c) > 300 {
		c = strings.ToValidUTF8(c[:300], "") + "…"
	}
	return c
}
