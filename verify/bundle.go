package verify

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/reseal/reseal/inventory"
)

// The media types of Sigstore bundles (sigstore_bundle.proto).
const (
	bundleV01    = "application/vnd.dev.sigstore.bundle+json;version=0.1"
	bundleV02    = "application/vnd.dev.sigstore.bundle+json;version=0.2"
	bundleV03Old = "application/vnd.dev.sigstore.bundle+json;version=0.3"
	bundleV03    = "application/vnd.dev.sigstore.bundle.v0.3+json"
)

// Bundle verifies a Sigstore bundle, v0.1 to v0.3. It is read as protobuf
// JSON and not by sigstore-go's own reader, which gives up on a whole bundle
// for one log entry of a kind it does not know.
func (v *Verifier) Bundle(sub Subject, raw []byte) inventory.Signature {
	out := start(sub, inventory.Bundle, raw)
	return safely(&out, func() []byte {
		c := &claim{}
		b, err := parseBundle(raw)
		if err != nil {
			c.problem("%s", err)
			v.judge(c, &out)
			return nil
		}
		c.readContent(b, sub, &out)
		c.readMaterial(b)
		v.judge(c, &out)
		return c.signature
	})
}

func parseBundle(raw []byte) (*protobundle.Bundle, error) {
	if len(raw) > maxContent {
		return nil, fmt.Errorf("the bundle is larger than %d bytes", maxContent)
	}
	var b protobundle.Bundle
	err := guard(func() error { return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw, &b) })
	if err != nil {
		return nil, fmt.Errorf("it is not a Sigstore bundle: %s", brief(err.Error()))
	}
	return &b, nil
}

func (c *claim) readContent(b *protobundle.Bundle, sub Subject, out *inventory.Signature) {
	switch b.GetMediaType() {
	case bundleV01, bundleV02, bundleV03Old, bundleV03:
	default:
		c.problem("the bundle is of media type %q: expected a Sigstore bundle v0.1, v0.2 or v0.3", brief(b.GetMediaType()))
	}
	switch {
	case b.GetDsseEnvelope() != nil:
		c.readEnvelope(envelopeOf(b), sub, out)
	case b.GetMessageSignature() != nil:
		// The artifact itself is the payload, so its digest is the payload's.
		out.PredicateType = inventory.SignPredicate
		m := b.GetMessageSignature()
		c.signature = m.GetSignature()
		digest, alg := m.GetMessageDigest().GetDigest(), m.GetMessageDigest().GetAlgorithm()
		if alg != protocommon.HashAlgorithm_SHA2_256 || len(digest) != sha256.Size {
			c.problem("it signs an artifact by a digest of %d bytes (%s): only SHA2_256 can be held against %s",
				len(digest), alg, brief(sub.Digest))
			return
		}
		c.digest = digest
		out.PayloadDigest = "sha256:" + hex.EncodeToString(digest)
		if out.PayloadDigest != sub.Digest {
			c.problem("it signs %s, not %s it is attached to", out.PayloadDigest, brief(sub.Digest))
		}
	default:
		c.problem("the bundle holds neither an envelope nor a message signature")
	}
}

func envelopeOf(b *protobundle.Bundle) *dsse.Envelope {
	e := b.GetDsseEnvelope()
	env := &dsse.Envelope{PayloadType: e.GetPayloadType(), Payload: base64.StdEncoding.EncodeToString(e.GetPayload())}
	for _, s := range e.GetSignatures() {
		env.Signatures = append(env.Signatures, dsse.Signature{Sig: base64.StdEncoding.EncodeToString(s.GetSig())})
	}
	return env
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
		for _, other := range certs[1:] {
			// The root of trust is the verifier's to choose (sigstore_common.proto).
			if cert, err := x509.ParseCertificate(other.GetRawBytes()); err == nil && cert.CheckSignatureFrom(cert) == nil {
				c.problem("the bundle brings its own root certificate")
				break
			}
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

// Payload returns the signed payload within stored content: a simple signing
// payload itself, or the payload of the DSSE envelope in an attestation or
// bundle. It says nothing about whether the signature verifies.
func Payload(f inventory.Format, content []byte) ([]byte, error) {
	if len(content) > maxContent {
		return nil, fmt.Errorf("the content is larger than %d bytes", maxContent)
	}
	switch f {
	case inventory.Legacy:
		return content, nil
	case inventory.LegacyAtt:
		env, err := parseEnvelope(content)
		if err != nil {
			return nil, err
		}
		body, err := env.DecodeB64Payload()
		if err != nil {
			return nil, errors.New("the payload of the envelope is not base64")
		}
		return body, nil
	case inventory.Bundle:
		b, err := parseBundle(content)
		if err != nil {
			return nil, err
		}
		if b.GetDsseEnvelope() == nil {
			return nil, errors.New("the bundle holds no envelope: a message signature signs the artifact itself")
		}
		return b.GetDsseEnvelope().GetPayload(), nil
	}
	return nil, fmt.Errorf("signature format %q is not known", f)
}
