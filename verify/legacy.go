package verify

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

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

// simpleSigning verifies one layer of a cosign ".sig" manifest: its annotations
// and its blob, a simple signing payload (containers-signature(5)). The layer
// does not hold the key it was signed with.
func (v *Verifier) simpleSigning(sub Subject, f inventory.Format, annotations map[string]string, payload []byte) inventory.Signature {
	out := start(sub, f, payload)
	out.PredicateType = inventory.SignPredicate
	return safely(&out, func() []byte {
		c := newClaim(sub)
		out.Names = c.readSimpleSigning(payload)
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

// attestation verifies one layer of a cosign ".att" manifest: its annotations
// and its blob, a DSSE envelope around an in-toto statement. Its RFC 3161 token
// stamps the whole envelope as stored.
func (v *Verifier) attestation(sub Subject, f inventory.Format, annotations map[string]string, envelope []byte) inventory.Signature {
	out := start(sub, f, envelope)
	return safely(&out, func() []byte {
		c := newClaim(sub)
		c.stored = envelope
		if env, err := parseEnvelope(envelope); err != nil {
			c.problem("%s", err)
		} else {
			c.readStoredEnvelope(env, &out)
		}
		c.readAnnotations(annotations, envelope)
		v.judge(c, &out)
		return c.signature
	})
}

// readSimpleSigning checks what a simple signing payload says and returns the
// repository it names.
func (c *claim) readSimpleSigning(message []byte) (names string) {
	if len(message) > maxContent {
		c.problem("the payload is larger than %d bytes", maxContent)
		return ""
	}
	if c.message = message; message == nil {
		c.message = []byte{}
	}
	var p payload.SimpleContainerImage
	if err := json.Unmarshal(message, &p); err != nil {
		c.problem("the payload is not simple signing JSON: %s", brief(err.Error()))
		return ""
	}
	if err := inventory.CheckSimpleSigning(message); err != nil {
		c.problem("the payload can be read in two ways: %s", brief(err.Error()))
		return ""
	}
	if p.Critical.Type != payload.CosignSignatureType {
		c.problem("the payload is of type %q, not %q", brief(p.Critical.Type), payload.CosignSignatureType)
	}
	if d := p.Critical.Image.DockerManifestDigest; d != c.sub.Digest {
		c.problem("it signs %q, not %s it is attached to", brief(d), brief(c.sub.Digest))
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

// readAnnotations takes the certificates, log entry and token out of a layer's
// annotations (cosign's signature specification). As in cosign, an empty
// annotation is an absent one.
func (c *claim) readAnnotations(annotations map[string]string, stamped []byte) {
	if s := annotations[static.CertificateAnnotationKey]; s != "" {
		c.readPEM(s)
		c.readChain(parseChain([]byte(annotations[static.ChainAnnotationKey])))
	}
	if s := annotations[static.BundleAnnotationKey]; s != "" {
		c.entries = append(c.entries, parseRekorBundle(s))
	}
	if s := annotations[static.RFC3161TimestampAnnotationKey]; s != "" {
		c.tokens = append(c.tokens, parseToken(s, stamped))
	}
}

// readPEM takes the signer's certificate.
func (c *claim) readPEM(s string) {
	c.certified = true
	leaf, err := parsePEM(s)
	if err != nil {
		c.problem("its certificate cannot be read: %s", brief(err.Error()))
	}
	c.leaf = leaf
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
	e.promised = true // it must be: there is nothing else in it
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

// readStoredEnvelope takes the payload and signature out of an envelope. The
// key ID in it is an unsigned hint and is left behind.
func (c *claim) readStoredEnvelope(env *dsse.Envelope, out *inventory.Signature) {
	body, err := env.DecodeB64Payload()
	if err != nil {
		c.problem("the payload of the envelope is not base64")
		return
	}
	var sigs [][]byte
	for _, s := range env.Signatures[:min(len(env.Signatures), 2)] {
		sig, err := base64.StdEncoding.DecodeString(s.Sig)
		if err != nil {
			sig, err = base64.URLEncoding.DecodeString(s.Sig)
		}
		if err != nil {
			sig = nil
			c.problem("the signature in the envelope is not base64")
		}
		sigs = append(sigs, sig)
	}
	c.readEnvelope(env.PayloadType, body, sigs, len(env.Signatures), out)
}

// readEnvelope checks the content of an envelope. Only the first of its
// signatures are given beside their number: there may be but one.
func (c *claim) readEnvelope(payloadType string, body []byte, sigs [][]byte, signatures int, out *inventory.Signature) {
	out.PayloadDigest = inventory.Digest(body)
	switch {
	case signatures != 1 || len(sigs) != 1:
		c.problem("the envelope holds %d signatures, not one: it cannot be said who vouches for it", signatures)
	case len(sigs[0]) > maxEvidence:
		c.problem("the signature in the envelope is larger than %d bytes", maxEvidence)
	default:
		c.signature = sigs[0]
		c.enveloped, c.payloadType, c.payload = true, payloadType, body
		c.message = dsse.PAE(payloadType, body)
	}
	if payloadType != intotoPayload {
		c.problem("the envelope holds %q, not an in-toto statement", brief(payloadType))
		return
	}
	c.readStatement(body, out)
}

// intotoStatement is what is read of an in-toto statement. The predicate, which
// may be large, is left unread.
type intotoStatement struct {
	Type          string `json:"_type"`
	PredicateType string `json:"predicateType"`
	Subject       []struct {
		Digest map[string]string `json:"digest"`
	} `json:"subject"`
}

// readStatement checks an in-toto statement (v0.1 or v1).
func (c *claim) readStatement(body []byte, out *inventory.Signature) {
	var st intotoStatement
	if err := json.Unmarshal(body, &st); err != nil {
		c.problem("the payload is not an in-toto statement: %s", brief(err.Error()))
		return
	}
	if err := inventory.CheckStatement(body); err != nil {
		c.problem("the statement can be read in two ways: %s", brief(err.Error()))
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
	if len(st.Subject) > maxSubjects {
		c.problem("the statement has %d subjects: verifiers read at most %d", len(st.Subject), maxSubjects)
		return
	}
	first := ""
	for _, s := range st.Subject {
		if len(s.Digest) > maxSubjectDigests {
			c.problem("a subject of the statement has %d digests: verifiers read at most %d", len(s.Digest), maxSubjectDigests)
			return
		}
		if c.sub.named(s.Digest) {
			return
		}
		if first == "" {
			first = s.Digest["sha256"]
		}
	}
	if first == "" {
		c.problem("the statement names no artifact by sha256, so not %s it is attached to", brief(c.sub.Digest))
		return
	}
	c.problem("the statement is about sha256:%s, not %s it is attached to", brief(first), brief(c.sub.Digest))
}
