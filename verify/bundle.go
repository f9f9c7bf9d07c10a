package verify

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/reseal/reseal/inventory"
)

// The media types of Sigstore bundles (sigstore_bundle.proto).
const (
	bundleV01    = "application/vnd.dev.sigstore.bundle+json;version=0.1"
	bundleV02    = "application/vnd.dev.sigstore.bundle+json;version=0.2"
	bundleV03Old = "application/vnd.dev.sigstore.bundle+json;version=0.3"
	bundleV03    = "application/vnd.dev.sigstore.bundle.v0.3+json"
)

// bundle verifies a Sigstore bundle, v0.1 to v0.3. It is read as protobuf
// JSON and not by sigstore-go's own reader, which gives up on a whole bundle
// for one log entry of a kind it does not know.
func (v *Verifier) bundle(sub Subject, f inventory.Format, raw []byte) inventory.Signature {
	out := start(sub, f, raw)
	return safely(&out, func() []byte {
		c := newClaim(sub)
		if l := parseLocal(f, raw); l != nil {
			c.readLocal(l, &out)
		} else if b, lost, err := parseBundle(raw); err != nil {
			c.problem("%s", err)
		} else {
			c.readContent(b, &out)
			c.readMaterial(b)
			c.readLost(lost)
		}
		v.judge(c, &out)
		return c.signature
	})
}

// parseBundle reads a bundle. Proofs that are no protobuf JSON are left out of it
// and told, so that one of them hides neither who signed nor the other proofs.
func parseBundle(raw []byte) (*protobundle.Bundle, unreadable, error) {
	if len(raw) > maxContent {
		return nil, unreadable{}, fmt.Errorf("the bundle is larger than %d bytes", maxContent)
	}
	var b protobundle.Bundle
	err := unmarshal(raw, &b)
	if err == nil {
		return &b, unreadable{}, nil
	}
	if b, lost, ok := salvage(raw); ok {
		lost.whole = err
		return b, lost, nil
	}
	return nil, unreadable{}, fmt.Errorf("it is not a Sigstore bundle: %s", brief(err.Error()))
}

func unmarshal(raw []byte, into proto.Message) error {
	return guard(func() error { return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw, into) })
}

// unreadable is what of a bundle is no protobuf JSON, with why.
type unreadable struct {
	whole           error // nil: all of it can be read
	entries, tokens []error
}

// salvage reads a bundle without its proofs, and then each proof by itself.
func salvage(raw []byte) (*protobundle.Bundle, unreadable, bool) {
	var lost unreadable
	var top, material, stamps map[string]json.RawMessage
	var entries, tokens []json.RawMessage
	if json.Unmarshal(raw, &top) != nil || json.Unmarshal(top["verificationMaterial"], &material) != nil {
		return nil, lost, false
	}
	// What is missing or malformed here leaves nothing to read.
	_ = json.Unmarshal(material["tlogEntries"], &entries)
	_ = json.Unmarshal(material["timestampVerificationData"], &stamps)
	_ = json.Unmarshal(stamps["rfc3161Timestamps"], &tokens)
	delete(material, "tlogEntries")
	delete(material, "timestampVerificationData")
	rest, err := json.Marshal(material)
	if err != nil {
		return nil, lost, false
	}
	top["verificationMaterial"] = rest
	whole, err := json.Marshal(top)
	var b protobundle.Bundle
	if err != nil || unmarshal(whole, &b) != nil || b.GetVerificationMaterial() == nil {
		return nil, lost, false
	}
	b.VerificationMaterial.TimestampVerificationData = &protobundle.TimestampVerificationData{}
	for _, raw := range entries[:min(len(entries), maxEntries+1)] {
		var e protorekor.TransparencyLogEntry
		if err := unmarshal(raw, &e); err != nil {
			lost.entries = append(lost.entries, fmt.Errorf("the log entry cannot be read: %s", brief(err.Error())))
			continue
		}
		b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, &e)
	}
	for _, raw := range tokens[:min(len(tokens), maxTokens+1)] {
		var t protocommon.RFC3161SignedTimestamp
		if err := unmarshal(raw, &t); err != nil {
			lost.tokens = append(lost.tokens, fmt.Errorf("the timestamp cannot be read: %s", brief(err.Error())))
			continue
		}
		d := b.VerificationMaterial.TimestampVerificationData
		d.Rfc3161Timestamps = append(d.Rfc3161Timestamps, &t)
	}
	return &b, lost, true
}

func (c *claim) readContent(b *protobundle.Bundle, out *inventory.Signature) {
	switch b.GetMediaType() {
	case bundleV01, bundleV02, bundleV03Old, bundleV03:
	default:
		c.problem("the bundle is of media type %q: expected a Sigstore bundle v0.1, v0.2 or v0.3", brief(b.GetMediaType()))
	}
	switch {
	case b.GetDsseEnvelope() != nil:
		env := b.GetDsseEnvelope()
		var sigs [][]byte
		if len(env.GetSignatures()) == 1 {
			sigs = [][]byte{env.GetSignatures()[0].GetSig()}
		}
		c.readEnvelope(env.GetPayloadType(), env.GetPayload(), sigs, len(env.GetSignatures()), out)
	case b.GetMessageSignature() != nil:
		c.readMessageSignature(b.GetMessageSignature(), out)
	default:
		c.problem("the bundle holds neither an envelope nor a message signature")
	}
}

// messageHashes are the hashes a message signature may know its artifact by.
var messageHashes = map[protocommon.HashAlgorithm]crypto.Hash{
	protocommon.HashAlgorithm_SHA2_256: crypto.SHA256,
	protocommon.HashAlgorithm_SHA2_384: crypto.SHA384,
	protocommon.HashAlgorithm_SHA2_512: crypto.SHA512,
}

// readMessageSignature takes down a signature over the artifact itself: the
// artifact is the payload, so its digest is the payload's. The digest in the
// bundle is a mere claim until the signature verifies over it.
func (c *claim) readMessageSignature(m *protocommon.MessageSignature, out *inventory.Signature) {
	out.PredicateType = inventory.SignPredicate
	if len(m.GetSignature()) > maxEvidence {
		c.problem("the signature in the bundle is larger than %d bytes", maxEvidence)
		return
	}
	c.signature = m.GetSignature()
	digest, alg := m.GetMessageDigest().GetDigest(), m.GetMessageDigest().GetAlgorithm()
	h, ok := messageHashes[alg]
	if !ok || len(digest) != h.Size() {
		c.problem("it signs an artifact by a digest of %d bytes (%s): only SHA2_256, SHA2_384 and SHA2_512 can be verified", len(digest), alg)
		return
	}
	c.hash = h
	c.digests[h] = digest
	switch {
	case h == crypto.SHA256:
		out.PayloadDigest = "sha256:" + hex.EncodeToString(digest)
		if out.PayloadDigest != c.sub.Digest {
			c.problem("it signs %s, not %s it is attached to", out.PayloadDigest, brief(c.sub.Digest))
			return
		}
	case c.sub.Content == nil:
		out.PayloadDigest = c.sub.Digest
		c.problem("it signs an artifact by its %s digest: whether that is %s cannot be said without the artifact itself", alg, brief(c.sub.Digest))
		return
	case !bytes.Equal(digest, sum(h, c.sub.Content)):
		c.problem("it signs %s:%s, not %s it is attached to", hashNames[h], hex.EncodeToString(digest), brief(c.sub.Digest))
		return
	default:
		out.PayloadDigest = c.sub.Digest
	}
	c.message = c.sub.Content // nil unless it is at hand
}

func (c *claim) readMaterial(b *protobundle.Bundle) {
	m := b.GetVerificationMaterial()
	chain := m.GetX509CertificateChain()
	c.certified = chain != nil || m.GetCertificate() != nil
	switch {
	case chain != nil:
		certs := chain.GetCertificates()
		if len(certs) == 0 {
			c.problem("the bundle's certificate chain is empty")
			break
		}
		if t := b.GetMediaType(); t == bundleV03 || t == bundleV03Old {
			c.problem("a v0.3 bundle holds one certificate, not a chain")
		}
		c.readLeaf(certs[0].GetRawBytes())
		if len(certs) > maxChain {
			c.problem("the bundle's certificate chain has %d certificates: at most %d are read", len(certs), maxChain)
			certs = certs[:maxChain]
		}
		var others []*x509.Certificate
		for _, other := range certs[1:] {
			if len(other.GetRawBytes()) > maxEvidence {
				continue
			}
			if cert, err := x509.ParseCertificate(other.GetRawBytes()); err == nil {
				others = append(others, cert)
			}
		}
		if c.readChain(others) { // sigstore_common.proto forbids it
			c.problem("the bundle brings its own root certificate")
		}
	case m.GetCertificate() != nil:
		c.readLeaf(m.GetCertificate().GetRawBytes())
	case m.GetPublicKey() != nil:
		c.hint = m.GetPublicKey().GetHint()
	default:
		c.problem("the bundle names no signer")
	}
	// One more than is judged, so that the surplus is reported.
	for _, e := range m.GetTlogEntries()[:min(len(m.GetTlogEntries()), maxEntries+1)] {
		c.entries = append(c.entries, newEntry(e, b.GetMediaType() == bundleV01))
	}
	stamps := m.GetTimestampVerificationData().GetRfc3161Timestamps()
	for _, t := range stamps[:min(len(stamps), maxTokens+1)] {
		c.tokens = append(c.tokens, token{der: t.GetSignedTimestamp(), over: c.signature})
	}
}

// readLost takes down the proofs that were left out. The signature is none to
// clients: they give up on the whole bundle.
func (c *claim) readLost(lost unreadable) {
	if lost.whole != nil {
		c.problem("proofs in it cannot be read, and clients give up on the whole bundle: %s", brief(lost.whole.Error()))
	}
	for _, err := range lost.entries {
		c.entries = append(c.entries, entry{promised: true, err: err})
	}
	for _, err := range lost.tokens {
		c.tokens = append(c.tokens, token{err: err})
	}
}

func (c *claim) readLeaf(der []byte) {
	if len(der) > maxEvidence {
		c.problem("its certificate is larger than %d bytes", maxEvidence)
		return
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		c.problem("its certificate cannot be read: %s", brief(err.Error()))
		return
	}
	c.leaf = leaf
}
