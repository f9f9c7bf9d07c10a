package verify

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// Stored verifies one stored signature of any format. Content is the payload,
// envelope or bundle, and annotations are those of the layer that holds it;
// bundles have none. Content that is compressed is taken as cosign takes it.
func (v *Verifier) Stored(sub Subject, f inventory.Format, annotations map[string]string, content []byte) inventory.Signature {
	if !compressed(f, content) {
		return v.plain(sub, f, annotations, content)
	}
	v.inflating <- struct{}{}
	defer func() { <-v.inflating }()
	inflated, err := inflate(f, content)
	if err != nil {
		out := start(sub, f, content)
		return safely(&out, func() []byte {
			out.Why = err.Error()
			return nil
		})
	}
	out := v.plain(sub, f, annotations, inflated)
	out.Content = inventory.Digest(content)
	return out
}

// plain verifies a signature whose content is not compressed.
func (v *Verifier) plain(sub Subject, f inventory.Format, annotations map[string]string, content []byte) inventory.Signature {
	switch f {
	case inventory.Legacy, inventory.Referrer:
		return v.simpleSigning(sub, f, annotations, content)
	case inventory.LegacyAtt, inventory.ReferrerAtt:
		return v.attestation(sub, f, annotations, content)
	case inventory.Bundle, inventory.Detached:
		return v.bundle(sub, f, content)
	case inventory.Blob:
		return v.blob(sub, content)
	}
	out := start(sub, f, content)
	return safely(&out, func() []byte {
		out.Why = errFormat(f).Error()
		return nil
	})
}

func errFormat(f inventory.Format) error {
	return fmt.Errorf("signature format %q is not known", brief(string(f)))
}

// Payload returns the signed payload within stored content: a simple signing
// payload itself, or the payload of the DSSE envelope in an attestation or
// bundle. It says nothing about whether the signature verifies.
func Payload(f inventory.Format, content []byte) ([]byte, error) {
	if len(content) > maxContent {
		return nil, fmt.Errorf("the content is larger than %d bytes", maxContent)
	}
	content, err := inflate(f, content)
	if err != nil {
		return nil, err
	}
	switch f {
	case inventory.Legacy, inventory.Referrer:
		return content, nil
	case inventory.LegacyAtt, inventory.ReferrerAtt:
		return storedPayload(content)
	case inventory.Bundle, inventory.Detached, inventory.Blob:
		if l := parseLocal(f, content); l != nil {
			if _, env := l.content(); env != nil {
				return storedPayload(env)
			}
			return nil, errNoEnvelope
		}
		b, _, err := parseBundle(content)
		if err != nil {
			return nil, err
		}
		if b.GetDsseEnvelope() == nil {
			return nil, errNoEnvelope
		}
		return b.GetDsseEnvelope().GetPayload(), nil
	}
	return nil, errFormat(f)
}

var errNoEnvelope = errors.New("the bundle holds no envelope: a message signature signs the artifact itself")

func storedPayload(envelope []byte) ([]byte, error) {
	env, err := parseEnvelope(envelope)
	if err != nil {
		return nil, err
	}
	body, err := env.DecodeB64Payload()
	if err != nil {
		return nil, errors.New("the payload of the envelope is not base64")
	}
	return body, nil
}

// Annotations returns what an image signature says of the image besides its
// digest, as "cosign sign -a" has it: the optional part of a simple signing
// payload, or the annotations that a bundle's statement gives the image. It says
// nothing about whether the signature verifies.
func Annotations(sub Subject, f inventory.Format, content []byte) (map[string]any, error) {
	message, err := Payload(f, content)
	if errors.Is(err, errNoEnvelope) { // a message signature says nothing but the digest
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if f == inventory.Legacy || f == inventory.Referrer {
		var p payload.SimpleContainerImage
		if err := json.Unmarshal(message, &p); err != nil {
			return nil, fmt.Errorf("the payload is not simple signing JSON: %s", brief(err.Error()))
		}
		if err := inventory.CheckSimpleSigning(message); err != nil {
			return nil, fmt.Errorf("the payload can be read in two ways: %s", brief(err.Error()))
		}
		return p.Optional, nil
	}
	var statement struct {
		Subject []struct {
			Digest      map[string]string `json:"digest"`
			Annotations map[string]any    `json:"annotations"`
		} `json:"subject"`
	}
	if err := json.Unmarshal(message, &statement); err != nil {
		return nil, fmt.Errorf("the payload is no in-toto statement: %s", brief(err.Error()))
	}
	if err := inventory.CheckStatement(message); err != nil {
		return nil, fmt.Errorf("the statement can be read in two ways: %s", brief(err.Error()))
	}
	for _, s := range statement.Subject {
		if sub.named(s.Digest) {
			return s.Annotations, nil
		}
	}
	return nil, nil
}

// Subjects returns the digests ("sha256:<hex>") of the artifacts a detached
// bundle is about: the subjects of its statement, or its message digest. It
// says nothing about whether the signature verifies.
func Subjects(content []byte) ([]string, error) {
	if l := parseLocal(inventory.Detached, content); l != nil {
		return l.subjects()
	}
	b, _, err := parseBundle(content)
	if err != nil {
		return nil, err
	}
	if m := b.GetMessageSignature(); m != nil {
		d := m.GetMessageDigest()
		if messageHashes[d.GetAlgorithm()] != crypto.SHA256 || len(d.GetDigest()) != sha256.Size {
			return nil, fmt.Errorf("the bundle knows its artifact by a digest of %d bytes (%s), and the inventory by SHA2_256: give the artifact itself",
				len(d.GetDigest()), d.GetAlgorithm())
		}
		return []string{"sha256:" + hex.EncodeToString(d.GetDigest())}, nil
	}
	if b.GetDsseEnvelope() == nil {
		return nil, errors.New("the bundle holds neither an envelope nor a message signature")
	}
	return statementSubjects(b.GetDsseEnvelope().GetPayloadType(), b.GetDsseEnvelope().GetPayload())
}

// StatementSubjects returns the same of an in-toto statement.
func StatementSubjects(statement []byte) ([]string, error) {
	return statementSubjects(intotoPayload, statement)
}

func statementSubjects(payloadType string, payload []byte) ([]string, error) {
	if payloadType != intotoPayload {
		return nil, fmt.Errorf("the envelope holds %q, not an in-toto statement", brief(payloadType))
	}
	var st intotoStatement
	if err := json.Unmarshal(payload, &st); err != nil {
		return nil, fmt.Errorf("the payload is not an in-toto statement: %s", brief(err.Error()))
	}
	if err := inventory.CheckStatement(payload); err != nil {
		return nil, fmt.Errorf("the statement can be read in two ways: %s", brief(err.Error()))
	}
	if len(st.Subject) > maxSubjects {
		return nil, fmt.Errorf("the statement has %d subjects: verifiers read at most %d", len(st.Subject), maxSubjects)
	}
	var out []string
	seen := map[string]bool{}
	for _, s := range st.Subject {
		d := "sha256:" + strings.ToLower(s.Digest["sha256"])
		if inventory.CheckDigest(d) == nil && !seen[d] {
			seen[d] = true
			out = append(out, d)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the statement names no artifact by sha256: give the artifact itself")
	}
	return out, nil
}

// Blob returns which of the trusted keys signed content. The signature is as
// "cosign sign-blob" writes it: base64, or the bytes themselves.
func (v *Verifier) Blob(content, sig []byte) (signer.Identity, error) {
	unknown := signer.Identity{Kind: signer.Unknown}
	if len(content) > maxContent || len(sig) > maxEvidence {
		return unknown, fmt.Errorf("more than %d bytes, or a signature of more than %d, are not read", maxContent, maxEvidence)
	}
	trimmed := bytes.TrimSpace(sig)
	if len(trimmed) == 0 {
		return unknown, errors.New("the signature is empty")
	}
	forms := [][]byte{sig}
	if decoded, err := base64.StdEncoding.DecodeString(string(trimmed)); err == nil {
		forms = append(forms, decoded)
	}
	c := &claim{message: content, digests: map[crypto.Hash][]byte{}}
	if content == nil {
		c.message = []byte{}
	}
	for _, form := range forms {
		c.signature = form
		for _, k := range v.keys {
			if k.check(c) == nil {
				return k.id, nil
			}
		}
	}
	return unknown, errors.New("no trusted key verifies the signature: enrol the signer's public key")
}
