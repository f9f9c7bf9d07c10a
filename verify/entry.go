package verify

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"time"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	rekorverify "github.com/sigstore/rekor-tiles/v2/pkg/verify"
	sgbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/proto"
)

// entry is one transparency log entry, as claimed.
type entry struct {
	log      string // hex log ID
	time     int64  // integrated time; 0: none claimed
	promised bool   // a signed entry timestamp is meant to sign the time
	raw      *protorekor.TransparencyLogEntry
	parsed   *tlog.Entry
	other    body  // set for bodies that sigstore-go cannot match
	err      error // why it cannot be read
}

// body is that of an entry of a kind that sigstore-go cannot match.
type body interface {
	signedBy() any // the certificate or public key it names, or nil
	// vouches reports whether the log vouches for the entry, and whether it is
	// about the envelope and signature of the claim.
	vouches(log *root.TransparencyLog, c *claim, e entry) error
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
	e.raw = tle
	err := guard(func() (err error) { e.parsed, err = tlog.ParseTransparencyLogEntry(tle); return err })
	if err != nil {
		e.parsed = nil
		if e.other = parseDSSE002(tle.GetCanonicalizedBody()); e.other == nil {
			e.err = fmt.Errorf("the log entry cannot be read: %s", brief(err.Error()))
		}
	} else {
		e.other = parseIntoto001(tle.GetCanonicalizedBody())
	}
	return e
}

// publicKey returns the certificate or public key the entry names, or nil.
func (e entry) publicKey() (pub any) {
	_ = guard(func() error { // what cannot be read names nobody
		switch {
		case e.other != nil:
			pub = e.other.signedBy()
		case e.parsed != nil:
			pub = e.parsed.PublicKey()
		}
		return nil
	})
	return pub
}

// checkEntry reports whether a log in the trusted root vouches that this
// signature by this signer was logged, and whether the log is known at all.
func (v *Verifier) checkEntry(c *claim, e entry, by key) (known bool, err error) {
	switch {
	case v.root == nil:
		return false, errors.New(noRoot)
	case e.err != nil:
		// The kinds of entry a client reads depend on its version, so an
		// unreadable entry confirms nothing and refutes nothing.
		return false, e.err
	case v.root.logs[e.log] == nil:
		return false, fmt.Errorf("the transparency log %s is not in the trusted root", e.log)
	case by.pub == nil:
		return false, errors.New("the signer's key is not known, so the log entry cannot be matched to it")
	}
	err = guard(func() error {
		if e.other == nil {
			return v.root.vouches(c, e, by)
		}
		if err := e.other.vouches(v.root.logs[e.log], c, e); err != nil {
			return err
		}
		named := e.other.signedBy()
		if c.leaf == nil {
			if !(keyContent{pub: by.pub}).CompareKey(named, nil) {
				return errors.New("the log entry is about another signer")
			}
			return nil
		}
		if cert, ok := named.(*x509.Certificate); !ok || !cert.Equal(c.leaf) {
			return errors.New("the log entry is about another signer")
		}
		if e.time != 0 && !sgbundle.NewCertificate(c.leaf).ValidAtTime(time.Unix(e.time, 0), nil) {
			return errors.New("integrated time outside certificate validity")
		}
		return nil
	})
	if err != nil {
		return true, errors.New(brief(err.Error()))
	}
	return true, nil
}

var errNoPromise = errors.New("the log entry has no signed entry timestamp, nor another proof")

// vouches holds an entry against the claim as sigstore-go does.
func (m *material) vouches(c *claim, e entry, by key) error {
	if !e.parsed.HasInclusionPromise() && !e.parsed.HasInclusionProof() {
		return errNoPromise
	}
	_, algorithm, _ := e.parsed.GetHashedRekordDigest()
	content, err := c.content(algorithm)
	if err != nil {
		return err
	}
	proof := &entity{content: content, entry: e.parsed, signer: keyContent{pub: by.pub}}
	if c.leaf != nil {
		proof.signer = sgbundle.NewCertificate(c.leaf)
	} else {
		m = m.withKey(by)
	}
	if _, err = sgverify.VerifyTlogEntry(proof, m, 1, true); err != nil && e.promised {
		// sigstore-go passes over what a log did not sign, and then only says
		// that nothing is left.
		if err := tlog.VerifySET(e.parsed, m.logs); err != nil {
			return fmt.Errorf("the log's signed entry timestamp does not verify: %w", err)
		}
	}
	return err
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

func parseIntoto001(raw []byte) body {
	var b intoto001
	if !bytes.Contains(raw, []byte(`"intoto"`)) || json.Unmarshal(raw, &b) != nil || b.Kind != "intoto" || b.APIVersion != "0.0.1" {
		return nil
	}
	return &b
}

func (b *intoto001) signedBy() any {
	block, _ := pem.Decode(b.Spec.PublicKey)
	if block == nil {
		return nil
	}
	return parseSigner(block.Bytes)
}

func (b *intoto001) vouches(log *root.TransparencyLog, c *claim, e entry) error {
	sum := sha256.Sum256(c.stored)
	switch {
	case !e.parsed.HasInclusionPromise():
		return errNoPromise
	case c.stored == nil || b.Spec.Content.Hash.Algorithm != "sha256" || b.Spec.Content.Hash.Value != hex.EncodeToString(sum[:]):
		return errors.New("the log entry is about another envelope")
	}
	if err := tlog.VerifySET(e.parsed, map[string]*root.TransparencyLog{e.log: log}); err != nil {
		return fmt.Errorf("the log's signed entry timestamp does not verify: %w", err)
	}
	return nil
}

// dsse002 is a Rekor v2 "dsse" 0.0.2 body (rekor/v2/dsse.proto), which cosign
// 2.6 writes. sigstore-go reads it no more, and gives up on a bundle that holds
// one.
type dsse002 struct {
	Kind       string `json:"kind"`
	APIVersion string `json:"apiVersion"`
	Spec       struct {
		DSSE struct {
			PayloadHash struct {
				Algorithm string `json:"algorithm"`
				Digest    []byte `json:"digest"`
			} `json:"payloadHash"`
			Signatures []struct {
				Content  []byte `json:"content"`
				Verifier struct {
					PublicKey   rawBytes `json:"publicKey"`
					Certificate rawBytes `json:"x509Certificate"`
				} `json:"verifier"`
			} `json:"signatures"`
		} `json:"dsseV002"`
	} `json:"spec"`
}

type rawBytes struct {
	DER []byte `json:"rawBytes"`
}

func parseDSSE002(raw []byte) body {
	var b dsse002
	if json.Unmarshal(raw, &b) != nil || b.Kind != "dsse" || b.APIVersion != "0.0.2" || len(b.Spec.DSSE.Signatures) != 1 {
		return nil
	}
	return &b
}

func (b *dsse002) signedBy() any {
	by := b.Spec.DSSE.Signatures[0].Verifier
	if len(by.Certificate.DER) > 0 {
		return parseSigner(by.Certificate.DER)
	}
	return parseSigner(by.PublicKey.DER)
}

func (b *dsse002) vouches(log *root.TransparencyLog, c *claim, e entry) error {
	sum := sha256.Sum256(c.payload)
	hash := b.Spec.DSSE.PayloadHash
	switch {
	case e.promised:
		return errors.New("a Rekor v2 entry has no signed entry timestamp")
	case e.raw.GetInclusionProof() == nil:
		return errors.New("a Rekor v2 entry must have an inclusion proof")
	case !c.enveloped || hash.Algorithm != "SHA2_256" || !bytes.Equal(hash.Digest, sum[:]):
		return errors.New("the log entry is about another payload")
	case !bytes.Equal(b.Spec.DSSE.Signatures[0].Content, c.signature):
		return errors.New("the log entry is about another signature")
	}
	origin, err := url.Parse(log.BaseURL)
	if err != nil || origin.Hostname() == "" {
		return errors.New("the trusted root has no URL of the log, which its checkpoints are named after")
	}
	key, err := signature.LoadVerifier(log.PublicKey, log.SignatureHashFunc)
	if err != nil {
		return err
	}
	checkpoint, err := note.NewNoteVerifier(origin.Hostname(), key)
	if err != nil {
		return err
	}
	return rekorverify.VerifyLogEntry(e.raw, checkpoint)
}

// parseSigner reads a certificate or public key, or returns nil.
func parseSigner(der []byte) any {
	if cert, err := x509.ParseCertificate(der); err == nil {
		return cert
	}
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil
	}
	return pub
}
