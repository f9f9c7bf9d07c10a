package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"github.com/reseal/reseal/inventory"
)

// BlobSignature is a signature over a file as "cosign sign-blob" writes it into
// files of its own: the signature, and beside it perhaps a certificate and a
// timestamp. The inventory keeps them as one, in the form of cosign's local bundle.
type BlobSignature struct {
	Signature   []byte          `json:"base64Signature"`
	Certificate string          `json:"cert,omitempty"`             // PEM
	Entry       json.RawMessage `json:"rekorBundle,omitempty"`      // cosign's Rekor bundle; no file of its own holds it
	Timestamp   json.RawMessage `json:"rfc3161Timestamp,omitempty"` // cosign's RFC 3161 timestamp
}

// NewBlobSignature puts the contents of files together: of "--output-signature",
// and where there are any of "--output-certificate" and "--rfc3161-timestamp".
// It fails on what cosign could not read either.
func NewBlobSignature(sig, certificate, timestamp []byte) (BlobSignature, error) {
	var out BlobSignature
	for _, part := range [][]byte{sig, certificate, timestamp} {
		if len(part) > maxEvidence {
			return out, fmt.Errorf("it is larger than %d bytes", maxEvidence)
		}
	}
	var err error
	text := bytes.TrimSpace(sig)
	if out.Signature, err = base64.StdEncoding.DecodeString(string(text)); err != nil { // "--b64=false": the bytes themselves
		out.Signature = sig
	}
	if len(out.Signature) == 0 {
		return out, errors.New("the signature is empty")
	}
	if len(certificate) > 0 {
		text := bytes.TrimSpace(certificate)
		if decoded, err := base64.StdEncoding.DecodeString(string(text)); err == nil { // as cosign writes it
			text = decoded
		}
		leaf, err := parsePEM(string(text))
		if err != nil {
			return out, fmt.Errorf("the certificate cannot be read: %s", brief(err.Error()))
		}
		out.Certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}))
	}
	if len(timestamp) > 0 {
		if t := parseToken(string(timestamp), out.Signature); t.err != nil {
			return out, fmt.Errorf("the timestamp cannot be read: %s", brief(t.err.Error()))
		}
		out.Timestamp = bytes.TrimSpace(timestamp)
	}
	return out, nil
}

// Content returns the form it is stored in. The same signature has the same.
func (b BlobSignature) Content() ([]byte, error) { return json.Marshal(b) }

// ParseBlobSignature reads the stored form.
func ParseBlobSignature(content []byte) (BlobSignature, error) {
	var b BlobSignature
	if err := json.Unmarshal(content, &b); err != nil {
		return b, fmt.Errorf("it is no stored blob signature: %s", brief(err.Error()))
	}
	return b, nil
}

// blob verifies a blob signature.
func (v *Verifier) blob(sub Subject, raw []byte) inventory.Signature {
	out := start(sub, inventory.Blob, raw)
	return safely(&out, func() []byte {
		c := newClaim(sub)
		if l := parseLocal(inventory.Blob, raw); l != nil {
			c.readLocal(l, &out)
		} else {
			out.PredicateType = inventory.SignPredicate
			c.problem("it is no stored blob signature")
		}
		v.judge(c, &out)
		return c.signature
	})
}

// bundle returns a local bundle as a Sigstore bundle v0.1, which may hold a log's
// promise and nothing more.
func (l *localBundle) bundle(sub Subject) (*protobundle.Bundle, error) {
	sig, envelope := l.content()
	digest, err := hex.DecodeString(strings.TrimPrefix(sub.Digest, "sha256:"))
	if sig == nil || envelope != nil || err != nil || len(digest) != sha256.Size {
		return nil, errors.New("it is no signature over a file")
	}
	m := &protobundle.VerificationMaterial{Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{}}}
	if l.Cert != "" {
		text := []byte(l.Cert)
		if b, err := base64.StdEncoding.DecodeString(l.Cert); err == nil {
			text = b
		}
		leaf, err := parsePEM(string(text))
		if err != nil {
			return nil, err
		}
		m.Content = &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: &protocommon.X509CertificateChain{
			Certificates: []*protocommon.X509Certificate{{RawBytes: leaf.Raw}}}}
	}
	if l.logged() {
		e := parseRekorBundle(string(l.Rekor))
		if e.err != nil {
			return nil, e.err
		}
		m.TlogEntries = []*protorekor.TransparencyLogEntry{e.raw}
	}
	if l.stamped() {
		t := parseToken(string(l.Stamp), sig)
		if t.err != nil {
			return nil, t.err
		}
		m.TimestampVerificationData = &protobundle.TimestampVerificationData{Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: t.der}}}
	}
	return &protobundle.Bundle{MediaType: bundleV01, VerificationMaterial: m, Content: &protobundle.Bundle_MessageSignature{
		MessageSignature: &protocommon.MessageSignature{Signature: sig,
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: digest}}}}, nil
}
