package verify

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/digitorus/pkcs7"
	"github.com/digitorus/timestamp"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	sgbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/proto"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// entry is one transparency log entry, as claimed.
type entry struct {
	log      string // hex log ID
	time     int64  // integrated time; 0: none claimed
	promised bool   // has a signed entry timestamp
	parsed   *tlog.Entry
	key      crypto.PublicKey // the key its body names, when that is not a certificate
	intoto   *intoto001       // set for bodies of that kind
	err      error            // why it cannot be read
}

// intoto001 is a Rekor "intoto" 0.0.1 body, which cosign 1 and early 2 wrote
// for attestations. It records the hash of the envelope instead of the
// signature; sigstore-go reads it but cannot match it.
type intoto001 struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	Spec       struct {
		Content struct {
			Hash struct {
				Algorithm string `json:"algorithm"`
				Value     string `json:"value"`
			} `json:"hash"`
		} `json:"content"`
		PublicKey []byte `json:"publicKey"`
	} `json:"spec"`
}

// newEntry reads a log entry. A bundle v0.1 may hold an inclusion proof without
// its checkpoint; such a proof proves nothing and is put aside for the promise.
// Later versions must hold a whole proof (sigstore_bundle.proto).
func newEntry(tle *protorekor.TransparencyLogEntry, promiseSuffices bool) entry {
	e := entry{time: tle.GetIntegratedTime(), promised: len(tle.GetInclusionPromise().GetSignedEntryTimestamp()) > 0}
	if id := tle.GetLogId().GetKeyId(); len(id) <= 64 {
		e.log = hex.EncodeToString(id)
	}
	if len(tle.GetCanonicalizedBody()) > maxEvidence {
		e.err = fmt.Errorf("the log entry is larger than %d bytes", maxEvidence)
		return e
	}
	if promiseSuffices && e.promised && tle.GetInclusionProof() != nil && tle.GetInclusionProof().GetCheckpoint().GetEnvelope() == "" {
		tle = proto.Clone(tle).(*protorekor.TransparencyLogEntry)
		tle.InclusionProof = nil
	}
	err := guard(func() (err error) {
		if e.parsed, err = tlog.ParseTransparencyLogEntry(tle); err != nil {
			return err
		}
		if _, isCert := e.parsed.PublicKey().(*x509.Certificate); !isCert {
			e.key = e.parsed.PublicKey()
		}
		return nil
	})
	var body intoto001
	if json.Unmarshal(tle.GetCanonicalizedBody(), &body) == nil && body.Kind == "intoto" && body.APIVersion == "0.0.1" {
		e.intoto = &body
		if pub, ok := body.signedBy().(crypto.PublicKey); ok && err == nil {
			if _, isCert := pub.(*x509.Certificate); !isCert {
				e.key = pub
			}
		}
	}
	if err != nil {
		e.parsed, e.key = nil, nil
		e.err = fmt.Errorf("the log entry cannot be read: %s", brief(err.Error()))
	}
	return e
}

// signedBy returns the certificate or public key the body names, or nil.
func (b *intoto001) signedBy() any {
	block, _ := pem.Decode(b.Spec.PublicKey)
	if block == nil {
		return nil
	}
	if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
		return cert
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil
	}
	return pub
}

// token is one RFC 3161 token, as claimed.
type token struct {
	der  []byte
	over []byte // what it must stamp
	err  error
}

// entity shows sigstore-go one proof at a time.
type entity struct {
	sgverify.BaseSignedEntity
	content sgverify.SignatureContent
	signer  sgverify.VerificationContent
	entry   *tlog.Entry
}

func (e *entity) HasInclusionPromise() bool { return e.entry.HasInclusionPromise() }
func (e *entity) HasInclusionProof() bool   { return e.entry.HasInclusionProof() }
func (e *entity) SignatureContent() (sgverify.SignatureContent, error) {
	return e.content, nil
}
func (e *entity) VerificationContent() (sgverify.VerificationContent, error) {
	return e.signer, nil
}
func (e *entity) TlogEntries() ([]*tlog.Entry, error) { return []*tlog.Entry{e.entry}, nil }

// upperBounds judges every log entry and token of a claim. It returns the
// bounds, the times that are proven, and, when logs in the trusted root were
// asked and none confirms the signature, why.
func (v *Verifier) upperBounds(c *claim, pub crypto.PublicKey) (bounds []inventory.Bound, times []time.Time, logProblem error) {
	logged := false
	for i, e := range c.entries {
		if i == maxEntries {
			bounds = append(bounds, unread(inventory.RoleLog, "log entries", len(c.entries), maxEntries))
			break
		}
		known, err := v.checkEntry(c, e, pub)
		logged = logged || err == nil
		if err != nil && known && logProblem == nil {
			logProblem = err
		}
		if err == nil && !e.promised && e.time != 0 {
			err = errors.New("the log did not sign this time: it stands beside a mere inclusion proof")
		}
		b := inventory.Bound{Side: inventory.Upper, Authority: inventory.Authority{Role: inventory.RoleLog, ID: e.log}}
		if e.time != 0 {
			b.Time = moment(time.Unix(e.time, 0))
		}
		switch {
		case err != nil && (e.time != 0 || e.promised):
			b.Why = err.Error()
			bounds = append(bounds, b)
		case err == nil && e.time != 0:
			b.Verified = true
			bounds = append(bounds, b)
			times = append(times, time.Unix(e.time, 0))
		}
	}
	for i, t := range c.tokens {
		if i == maxTokens {
			bounds = append(bounds, unread(inventory.RoleTSA, "timestamps", len(c.tokens), maxTokens))
			break
		}
		b := v.stamped(t)
		bounds = append(bounds, b)
		if b.Verified {
			times = append(times, b.Time)
		}
	}
	if logged {
		logProblem = nil
	}
	return bounds, times, logProblem
}

func unread(r inventory.Role, what string, have, read int) inventory.Bound {
	return inventory.Bound{Side: inventory.Upper, Authority: inventory.Authority{Role: r},
		Why: fmt.Sprintf("it carries %d %s: only the first %d were read", have, what, read)}
}

// checkEntry reports whether a log in the trusted root vouches that this
// signature by this signer was logged, and whether the log is known at all.
func (v *Verifier) checkEntry(c *claim, e entry, pub crypto.PublicKey) (known bool, err error) {
	switch {
	case v.root == nil:
		return false, errors.New(noRoot)
	case e.err != nil:
		// The kinds of entry a client reads depend on its version, so an
		// unreadable entry confirms nothing and refutes nothing.
		return false, e.err
	case v.root.logs[e.log] == nil:
		return false, fmt.Errorf("the transparency log %s is not in the trusted root", e.log)
	case pub == nil:
		return false, errors.New("the signer's key is not known, so the log entry cannot be matched to it")
	}
	err = guard(func() error {
		if e.promised {
			if err := tlog.VerifySET(e.parsed, v.root.logs); err != nil {
				return fmt.Errorf("the log's signed entry timestamp does not verify: %w", err)
			}
		}
		if e.intoto != nil {
			return e.intoto.matches(c, e, pub)
		}
		_, algorithm, _ := e.parsed.GetHashedRekordDigest()
		content, err := c.content(algorithm)
		if err != nil {
			return err
		}
		proof := &entity{content: content, entry: e.parsed, signer: keyContent{pub: pub}}
		m := v.root
		if c.leaf != nil {
			proof.signer = sgbundle.NewCertificate(c.leaf)
		} else {
			k, err := newKey(pub)
			if err != nil {
				return err
			}
			m = m.withKey(k.verifiers[0])
		}
		_, err = sgverify.VerifyTlogEntry(proof, m, 1, true)
		return err
	})
	if err != nil {
		return true, errors.New(brief(err.Error()))
	}
	return true, nil
}

// matches holds an "intoto" 0.0.1 entry, whose promise was verified, against the claim.
func (b *intoto001) matches(c *claim, e entry, pub crypto.PublicKey) error {
	sum := sha256.Sum256(c.stored)
	switch {
	case !e.promised:
		return errors.New("the log entry has no signed entry timestamp")
	case c.stored == nil || b.Spec.Content.Hash.Algorithm != "sha256" || b.Spec.Content.Hash.Value != hex.EncodeToString(sum[:]):
		return errors.New("the log entry is about another envelope")
	}
	by := b.signedBy()
	if c.leaf == nil && (keyContent{pub: pub}).CompareKey(by, nil) {
		return nil
	}
	cert, ok := by.(*x509.Certificate)
	if c.leaf == nil || !ok || !cert.Equal(c.leaf) {
		return errors.New("the log entry is about another signer")
	}
	if !sgbundle.NewCertificate(c.leaf).ValidAtTime(time.Unix(e.time, 0), nil) {
		return errors.New("integrated time outside certificate validity")
	}
	return nil
}

// stamped judges one RFC 3161 token (a TimeStampResp, RFC 3161 section 2.4.2).
func (v *Verifier) stamped(t token) inventory.Bound {
	b := inventory.Bound{Side: inventory.Upper, Authority: inventory.Authority{Role: inventory.RoleTSA}}
	refuse := func(format string, args ...any) inventory.Bound {
		b.Why = fmt.Sprintf(format, args...)
		return b
	}
	if t.err != nil {
		return refuse("%s", t.err)
	}
	if len(t.over) == 0 {
		return refuse("there is no signature the timestamp could be about")
	}
	if len(t.der) > maxEvidence {
		return refuse("the timestamp is larger than %d bytes", maxEvidence)
	}
	var embedded *x509.Certificate
	if err := guard(func() error {
		ts, err := timestamp.ParseResponse(t.der)
		if err != nil {
			return err
		}
		b.Time = moment(ts.Time)
		p7, err := pkcs7.Parse(ts.RawToken)
		if err != nil {
			return err
		}
		embedded = p7.GetOnlySigner()
		return nil
	}); err != nil {
		return refuse("the timestamp cannot be read: %s", brief(err.Error()))
	}
	if embedded != nil {
		b.Authority.ID = fingerprintOf(embedded)
	}
	if v.root == nil {
		return refuse(noRoot)
	}
	if len(v.root.tsas) == 0 {
		return refuse("the trusted root has no timestamp authority")
	}
	var why []string
	for _, tsa := range v.root.tsas {
		var ts *root.Timestamp
		err := guard(func() (err error) { ts, err = tsa.Verify(t.der, t.over); return err })
		if err != nil {
			why = append(why, err.Error())
			continue
		}
		if s, ok := tsa.(*root.SigstoreTimestampingAuthority); ok && s.Leaf != nil {
			b.Authority.ID = fingerprintOf(s.Leaf)
		}
		b.Time, b.Verified = moment(ts.Time), true
		return b
	}
	return refuse("no timestamp authority in the trusted root verifies it: %s", brief(strings.Join(why, "; ")))
}

// identityOf names a keyless signer as sigstore-go does: issuer extension and
// first SAN. A certificate without a SAN is named by its subject.
func identityOf(leaf *x509.Certificate) (signer.Identity, error) {
	id := signer.Identity{Kind: signer.Keyless}
	var sum certificate.Summary
	err := guard(func() (err error) { sum, err = certificate.SummarizeCertificate(leaf); return err })
	if err != nil {
		id.Subject, _ = clean(leaf.Subject.String())
		return id, fmt.Errorf("its certificate names no signer: %s", brief(err.Error()))
	}
	var okIssuer, okSubject bool
	id.Issuer, okIssuer = clean(sum.Issuer)
	id.Subject, okSubject = clean(sum.SubjectAlternativeName)
	if !okIssuer || !okSubject {
		return id, errors.New("its certificate names a signer no text can hold (control characters or excessive length)")
	}
	return id, nil
}

// issuance checks a keyless signer's certificate: a chain to a CA of the root
// at every proven time, as the Sigstore client specification has it, and a
// certificate timestamp of a log in the root. The lower bound it returns is
// verified exactly when both hold.
func (v *Verifier) issuance(leaf *x509.Certificate, times []time.Time, upper []inventory.Bound) (inventory.Bound, []inventory.Authority, error) {
	b := inventory.Bound{Side: inventory.Lower, Time: moment(leaf.NotBefore), Authority: inventory.Authority{Role: inventory.RoleCA}}
	if v.root == nil {
		b.Why = noRoot
		return b, nil, errors.New(noRoot)
	}
	// Go leaves a SAN of type OtherName unhandled; sigstore-go reads it itself.
	cert := *leaf
	cert.UnhandledCriticalExtensions = nil
	for _, oid := range leaf.UnhandledCriticalExtensions {
		if !oid.Equal(cryptoutils.SANOID) {
			cert.UnhandledCriticalExtensions = append(cert.UnhandledCriticalExtensions, oid)
		}
	}
	var chains [][]*x509.Certificate
	err := func() error {
		if len(times) == 0 {
			why := ""
			for _, u := range upper {
				why += "; " + string(u.Authority.Role) + ": " + u.Why
			}
			return errors.New("no verified time says when it was signed, so its certificate cannot be checked" + brief(why))
		}
		for _, t := range times {
			if err := guard(func() (err error) {
				chains, err = sgverify.VerifyLeafCertificate(t, &cert, v.root)
				return err
			}); err != nil {
				return fmt.Errorf("its certificate does not chain to a CA of the trusted root at %s: %s",
					moment(t).Format(time.RFC3339), brief(err.Error()))
			}
		}
		if len(chains) == 0 || len(chains[0]) < 2 {
			return errors.New("its certificate is not issued by a CA of the trusted root")
		}
		if err := guard(func() error { return sgverify.VerifySignedCertificateTimestamp(chains, 1, v.root) }); err != nil {
			return fmt.Errorf("its certificate was not logged: %s", brief(err.Error()))
		}
		return nil
	}()
	var issuer *x509.Certificate
	if len(chains) > 0 && len(chains[0]) > 1 {
		issuer = chains[0][1]
	} else {
		issuer = v.root.issuerOf(leaf)
	}
	var requires []inventory.Authority
	if issuer != nil {
		b.Authority.ID = fingerprintOf(issuer)
		requires = []inventory.Authority{b.Authority}
	}
	if err != nil {
		b.Why = err.Error()
		return b, requires, err
	}
	b.Verified = true
	return b, requires, nil
}

// issuerOf finds the CA that signed a certificate, at whatever time.
func (m *material) issuerOf(leaf *x509.Certificate) *x509.Certificate {
	for _, ca := range m.cas {
		f, ok := ca.(*root.FulcioCertificateAuthority)
		if !ok {
			continue
		}
		for _, c := range append(append([]*x509.Certificate{}, f.Intermediates...), f.Root) {
			if c != nil && bytes.Equal(c.RawSubject, leaf.RawIssuer) && leaf.CheckSignatureFrom(c) == nil {
				return c
			}
		}
	}
	return nil
}

func fingerprintOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}
