package verify

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/reseal/reseal/inventory"
)

// intotoPayload is the DSSE payload type of an in-toto statement.
const intotoPayload = "application/vnd.in-toto+json"

// Bounds of sigstore-go on one in-toto statement.
const (
	maxSubjects       = 1024
	maxSubjectDigests = 32
)

// Legacy verifies one layer of a cosign ".sig" manifest: its annotations and
// its blob, a simple signing payload (containers-signature(5)). The layer does
// not hold the key it was signed with.
func (v *Verifier) Legacy(sub Subject, annotations map[string]string, payload []byte) inventory.Signature {
	out := start(sub, inventory.Legacy, payload)
	out.PredicateType = inventory.SignPredicate
	return safely(&out, func() []byte {
		c := &claim{payload: payload}
		if payload == nil {
			c.payload = []byte{}
		}
		out.Names = c.readSimpleSigning(sub)
		encoded := annotations[static.SignatureAnnotationKey]
		c.readSignature(encoded)
		c.readAnnotations(annotations, c.signature)
		v.judge(c, &out)
		if c.signature == nil {
			return []byte(encoded)
		}
		return c.signature
	})
}

// LegacyAttestation verifies one layer of a cosign ".att" manifest: its
// annotations and its blob, a DSSE envelope around an in-toto statement. Its
// RFC 3161 token stamps the whole envelope as stored.
func (v *Verifier) LegacyAttestation(sub Subject, annotations map[string]string, envelope []byte) inventory.Signature {
	out := start(sub, inventory.LegacyAtt, envelope)
	return safely(&out, func() []byte {
		c := &claim{stored: envelope}
		if env, err := parseEnvelope(envelope); err != nil {
			c.problem("%s", err)
		} else {
			c.readEnvelope(env, sub, &out)
		}
		c.readAnnotations(annotations, envelope)
		v.judge(c, &out)
		return c.signature
	})
}

// readSimpleSigning checks what a simple signing payload says and returns the
// repository it names.
func (c *claim) readSimpleSigning(sub Subject) (names string) {
	var p payload.SimpleContainerImage
	if err := inventory.CheckDigest(sub.Digest); err != nil {
		c.problem("the artifact cannot be checked: %s", brief(err.Error()))
	}
	if len(c.payload) > maxContent {
		c.payload = nil
		c.problem("the payload is larger than %d bytes", maxContent)
		return ""
	}
	if err := json.Unmarshal(c.payload, &p); err != nil {
		c.problem("the payload is not simple signing JSON: %s", brief(err.Error()))
		return ""
	}
	if p.Critical.Type != payload.CosignSignatureType {
		c.problem("the payload is of type %q, not %q", brief(p.Critical.Type), payload.CosignSignatureType)
	}
	if d := p.Critical.Image.DockerManifestDigest; d != sub.Digest {
		c.problem("it signs %q, not %s it is attached to", brief(d), brief(sub.Digest))
	}
	return repositoryName(p.Critical.Identity.DockerReference)
}

// repositoryName returns the repository a reference names in the form the
// inventory uses, or the reference itself when it names none.
func repositoryName(ref string) string {
	if len(ref) <= maxText {
		if r, err := name.NewRepository(ref); err == nil {
			return r.Name()
		}
		if r, err := name.ParseReference(ref); err == nil {
			return r.Context().Name()
		}
	}
	ref, _ = clean(ref)
	return ref
}

func (c *claim) readSignature(encoded string) {
	if encoded == "" {
		c.problem("it holds no signature: the annotation %s is missing", static.SignatureAnnotationKey)
		return
	}
	sig, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(encoded) > maxEvidence {
		c.problem("the annotation %s is not a base64 signature", static.SignatureAnnotationKey)
		return
	}
	c.signature = sig
}

// readAnnotations takes the certificate, log entry and token out of a layer's
// annotations (cosign's signature specification). As in cosign, an empty
// annotation is an absent one.
func (c *claim) readAnnotations(annotations map[string]string, stamped []byte) {
	if s := annotations[static.CertificateAnnotationKey]; s != "" {
		c.certified = true
		leaf, err := parsePEM(s)
		if err != nil {
			c.problem("its certificate cannot be read: %s", brief(err.Error()))
		}
		c.leaf = leaf
	}
	if s := annotations[static.BundleAnnotationKey]; s != "" {
		c.entries = append(c.entries, parseRekorBundle(s))
	}
	if s := annotations[static.RFC3161TimestampAnnotationKey]; s != "" {
		c.tokens = append(c.tokens, parseToken(s, stamped))
	}
}

func parsePEM(s string) (*x509.Certificate, error) {
	if len(s) > maxEvidence {
		return nil, fmt.Errorf("it is larger than %d bytes", maxEvidence)
	}
	block, _ := pem.Decode([]byte(s))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("it is not a PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// rekorBundle is cosign's RekorBundle with the types it is meant to have.
type rekorBundle struct {
	SignedEntryTimestamp []byte
	Payload              struct {
		Body           string `json:"body"`
		IntegratedTime int64  `json:"integratedTime"`
		LogIndex       int64  `json:"logIndex"`
		LogID          string `json:"logID"`
	}
}

func decodeRekorBundle(s string) (b rekorBundle, body, log []byte, err error) {
	if len(s) > maxEvidence {
		return b, nil, nil, fmt.Errorf("the annotation %s is larger than %d bytes", static.BundleAnnotationKey, maxEvidence)
	}
	if err = json.Unmarshal([]byte(s), &b); err == nil {
		if body, err = base64.StdEncoding.DecodeString(b.Payload.Body); err == nil {
			log, err = hex.DecodeString(b.Payload.LogID)
		}
	}
	if err != nil {
		err = fmt.Errorf("the annotation %s is not a Rekor bundle: %s", static.BundleAnnotationKey, brief(err.Error()))
	}
	return b, body, log, err
}

// parseRekorBundle turns a Rekor v1 bundle annotation into a log entry. It
// holds a promise and no proof.
func parseRekorBundle(s string) entry {
	b, body, log, err := decodeRekorBundle(s)
	if err != nil {
		return entry{promised: true, time: b.Payload.IntegratedTime, err: err}
	}
	var kind struct {
		Kind       string `json:"kind"`
		APIVersion string `json:"apiVersion"`
	}
	// A body that is no JSON object is refused when the entry is read.
	_ = json.Unmarshal(body, &kind)
	e := newEntry(&protorekor.TransparencyLogEntry{
		LogIndex:          b.Payload.LogIndex,
		LogId:             &protocommon.LogId{KeyId: log},
		KindVersion:       &protorekor.KindVersion{Kind: kind.Kind, Version: kind.APIVersion},
		IntegratedTime:    b.Payload.IntegratedTime,
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: b.SignedEntryTimestamp},
		CanonicalizedBody: body,
	}, true)
	if !e.promised && e.err == nil {
		e.promised, e.err = true, errors.New("the log entry has no signed entry timestamp")
	}
	return e
}

func parseToken(s string, over []byte) token {
	var t struct{ SignedRFC3161Timestamp []byte }
	if len(s) > 2*maxEvidence {
		return token{err: fmt.Errorf("the annotation %s is larger than %d bytes", static.RFC3161TimestampAnnotationKey, 2*maxEvidence)}
	}
	if err := json.Unmarshal([]byte(s), &t); err != nil {
		return token{err: fmt.Errorf("the annotation %s holds no timestamp: %s", static.RFC3161TimestampAnnotationKey, brief(err.Error()))}
	}
	return token{der: t.SignedRFC3161Timestamp, over: over}
}

// parseEnvelope reads a DSSE envelope (DSSE 1.0.2, JSON) as stored.
func parseEnvelope(b []byte) (*dsse.Envelope, error) {
	if len(b) > maxContent {
		return nil, fmt.Errorf("the envelope is larger than %d bytes", maxContent)
	}
	var env dsse.Envelope
	if err := json.Unmarshal(b, &env); err != nil {
		return nil, fmt.Errorf("it is not a DSSE envelope: %s", brief(err.Error()))
	}
	return &env, nil
}

// readEnvelope takes the signature and the statement out of an envelope. The
// key ID in it is an unsigned hint and is left behind.
func (c *claim) readEnvelope(env *dsse.Envelope, sub Subject, out *inventory.Signature) {
	body, err := env.DecodeB64Payload()
	if err != nil {
		c.problem("the payload of the envelope is not base64")
		return
	}
	out.PayloadDigest = inventory.Digest(body)
	if len(env.Signatures) != 1 {
		c.problem("the envelope holds %d signatures, not one: it cannot be said who vouches for it", len(env.Signatures))
	} else {
		sig := env.Signatures[0].Sig
		c.signature, err = base64.StdEncoding.DecodeString(sig)
		if err != nil {
			c.signature, err = base64.URLEncoding.DecodeString(sig)
		}
		if err != nil || len(sig) > maxEvidence {
			c.signature = nil
			c.problem("the signature in the envelope is not base64")
		} else {
			c.envelope = &dsse.Envelope{
				PayloadType: env.PayloadType,
				Payload:     base64.StdEncoding.EncodeToString(body),
				Signatures:  []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(c.signature)}},
			}
		}
	}
	if env.PayloadType != intotoPayload {
		c.problem("the envelope holds %q, not an in-toto statement", brief(env.PayloadType))
		return
	}
	c.readStatement(body, sub, out)
}

// readStatement checks an in-toto statement (v0.1 or v1). The predicate, which
// may be large, is left unread.
func (c *claim) readStatement(body []byte, sub Subject, out *inventory.Signature) {
	var st struct {
		Type          string `json:"_type"`
		PredicateType string `json:"predicateType"`
		Subject       []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	if err := json.Unmarshal(body, &st); err != nil {
		c.problem("the payload is not an in-toto statement: %s", brief(err.Error()))
		return
	}
	switch st.Type {
	case "https://in-toto.io/Statement/v0.1", "https://in-toto.io/Statement/v1":
	default:
		c.problem("the statement is of type %q: expected in-toto Statement v0.1 or v1", brief(st.Type))
	}
	var ok bool
	if out.PredicateType, ok = clean(st.PredicateType); !ok {
		c.problem("the statement's predicate type is not text that can be kept")
	}
	if err := inventory.CheckDigest(sub.Digest); err != nil {
		c.problem("the artifact cannot be checked: %s", brief(err.Error()))
		return
	}
	if len(st.Subject) > maxSubjects {
		c.problem("the statement has %d subjects: verifiers read at most %d", len(st.Subject), maxSubjects)
		return
	}
	want, first := strings.TrimPrefix(sub.Digest, "sha256:"), ""
	for _, s := range st.Subject {
		if len(s.Digest) > maxSubjectDigests {
			c.problem("a subject of the statement has %d digests: verifiers read at most %d", len(s.Digest), maxSubjectDigests)
			return
		}
		d := s.Digest["sha256"]
		if strings.EqualFold(d, want) {
			return
		}
		if first == "" {
			first = d
		}
	}
	switch {
	case first == "":
		c.problem("the statement names no artifact by sha256, so not %s it is attached to", sub.Digest)
	default:
		c.problem("the statement is about sha256:%s, not %s it is attached to", brief(first), sub.Digest)
	}
}
