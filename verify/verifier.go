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

	"github.com/sigstore/sigstore-go/pkg/root"

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

// Verifier verifies stored signatures against one Trust. It does not change
// after New and is safe for concurrent use.
type Verifier struct {
	root        *material // nil: none was given
	keys        []key     // in order of their fingerprints
	byID        map[string]int
	fingerprint string
	inflating   chan struct{} // has room for what may be uncompressed at once
}

// New returns a Verifier that trusts t as it is now.
func New(t Trust) (*Verifier, error) {
	v := &Verifier{byID: map[string]int{}, inflating: make(chan struct{}, maxInflating)}
	for i, pub := range t.Keys {
		k, err := newKey(pub)
		if err != nil {
			return nil, fmt.Errorf("trusted key %d: %w", i+1, err)
		}
		v.keys = append(v.keys, k)
	}
	slices.SortFunc(v.keys, func(a, b key) int { return strings.Compare(a.id.Subject, b.id.Subject) })
	v.keys = slices.CompactFunc(v.keys, func(a, b key) bool { return a.id == b.id })
	for i, k := range v.keys {
		v.byID[k.id.Subject] = i
	}
	if t.Root != nil {
		v.root = newMaterial(t.Root)
	}
	v.fingerprint = inventory.Digest([]byte(v.describe()))
	return v, nil
}

// material is a fixed copy of a trusted root, with room for the one key the
// signature at hand is checked against.
type material struct {
	tsas []root.TimestampingAuthority
	cas  []root.CertificateAuthority
	logs map[string]*root.TransparencyLog
	ct   map[string]*root.TransparencyLog
	key  key

	issuers [][]*x509.Certificate // the certificates of each CA, its root last
	held    map[string]bool       // their fingerprints
}

func newMaterial(r root.TrustedMaterial) *material {
	m := &material{
		tsas: slices.Clone(r.TimestampingAuthorities()),
		cas:  slices.Clone(r.FulcioCertificateAuthorities()),
		logs: maps.Clone(r.RekorLogs()),
		ct:   maps.Clone(r.CTLogs()),
		held: map[string]bool{},
	}
	for _, ca := range m.cas {
		f, ok := ca.(*root.FulcioCertificateAuthority)
		if !ok || f.Root == nil {
			continue
		}
		certs := append(slices.Clone(f.Intermediates), f.Root)
		m.issuers = append(m.issuers, certs)
		for _, c := range certs {
			m.held[fingerprintOf(c)] = true
		}
	}
	return m
}

// withKey returns the material with k as the answer to every hint: hints are
// not signed and choose nothing here.
func (m *material) withKey(k key) *material {
	c := *m
	c.key = k
	return &c
}

func (m *material) TimestampingAuthorities() []root.TimestampingAuthority     { return m.tsas }
func (m *material) FulcioCertificateAuthorities() []root.CertificateAuthority { return m.cas }
func (m *material) RekorLogs() map[string]*root.TransparencyLog               { return m.logs }
func (m *material) CTLogs() map[string]*root.TransparencyLog                  { return m.ct }

func (m *material) PublicKeyVerifier(string) (root.TimeConstrainedVerifier, error) {
	if len(m.key.algorithms) == 0 {
		return nil, errors.New("no public key at hand")
	}
	return root.NewExpiringKey(m.key.algorithms[0], time.Time{}, time.Time{}), nil
}

// judge fills in who signed, whether that verifies, and the bounds.
func (v *Verifier) judge(c *claim, out *inventory.Signature) {
	problems := slices.Clone(c.problems)
	readable := c.readable()
	if !readable && len(problems) == 0 { // else why not is in problems already
		problems = append(problems, errUnreadable.Error())
	}
	var by key
	if c.leaf != nil {
		var err error
		if out.Signer, out.Certificate, err = readCertificate(c.leaf); err != nil {
			problems = append(problems, err.Error())
		}
		by.pub = c.leaf.PublicKey
		var k key
		if err := guard(func() (err error) { k, err = newKey(by.pub); return err }); err != nil {
			problems = append(problems, "the key in its certificate: "+err.Error())
		} else if by = k; readable {
			if err := by.check(c); err != nil {
				problems = append(problems, "the signature does not verify with the key in its certificate: "+err.Error())
			}
		}
	} else {
		var err error
		by, out.Signer, err = v.signerOf(c)
		if err != nil && (len(problems) == 0 || readable && !c.certified) {
			problems = append(problems, err.Error())
		}
	}

	bounds, times, timeless, logProblem := v.upperBounds(c, by)
	out.Bounds = append(out.Bounds, bounds...)
	if c.leaf != nil {
		lower, requires, err := v.issuance(c, times, bounds)
		out.Bounds = append(out.Bounds, lower)
		if err == nil && len(timeless) == 1 {
			// Consumers demand a log entry. That of a log that gives no time, as of
			// Rekor v2, is in no bound.
			requires = append(requires, inventory.Authority{Role: inventory.RoleLog, ID: timeless[0]})
		}
		out.Requires = requires
		if v.root != nil && len(requires) > 0 && v.root.held[requires[0].ID] {
			out.Certificate.CA = requires[0].ID
		}
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
	out.Value = sig
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

// spaces makes one line of a text. protobuf puts no-break spaces in its errors,
// here and there, so that nobody relies on them.
var spaces = strings.NewReplacer("\n", " ", "\u00a0", " ")

// brief is hostile text, or an error that may repeat some, short enough for a reason.
func brief(s string) string {
	c, _ := clean(spaces.Replace(s))
	if len(c) > 300 {
		c = strings.ToValidUTF8(c[:300], "") + "…"
	}
	return c
}
