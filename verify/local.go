package verify

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"

	"github.com/reseal/reseal/inventory"
)

// localBundle is what "cosign sign-blob" and "attest-blob" wrote with --bundle
// before there were Sigstore bundles (cosign's LocalSignedPayload). It does not
// say what it signs; its log entry may.
type localBundle struct {
	Signature string          `json:"base64Signature"` // of an attestation: its envelope
	Cert      string          `json:"cert"`            // PEM, mostly in base64
	Rekor     json.RawMessage `json:"rekorBundle"`
	Stamp     json.RawMessage `json:"rfc3161Timestamp"` // of a blob signature: see BlobSignature
}

// parseLocal reads such a bundle, or returns nil for any other content.
func parseLocal(f inventory.Format, raw []byte) *localBundle {
	var l localBundle
	if !f.InFiles() || len(raw) > maxContent || !bytes.Contains(raw, []byte(`"base64Signature"`)) ||
		json.Unmarshal(raw, &l) != nil || l.Signature == "" {
		return nil
	}
	return &l
}

// content is the signature of a blob, or the envelope of an attestation.
func (l *localBundle) content() (sig, envelope []byte) {
	b, err := base64.StdEncoding.DecodeString(l.Signature)
	if err != nil {
		return nil, nil
	}
	if env, err := parseEnvelope(b); err == nil && env.PayloadType != "" {
		return nil, b
	}
	return b, nil
}

func (l *localBundle) logged() bool  { return len(l.Rekor) > 0 && string(l.Rekor) != "null" }
func (l *localBundle) stamped() bool { return len(l.Stamp) > 0 && string(l.Stamp) != "null" }

func (l *localBundle) subjects() ([]string, error) {
	if _, envelope := l.content(); envelope != nil {
		env, err := parseEnvelope(envelope)
		if err != nil {
			return nil, err
		}
		body, err := storedPayload(envelope)
		if err != nil {
			return nil, err
		}
		return statementSubjects(env.PayloadType, body)
	}
	var entry struct {
		Spec struct {
			Data struct {
				Hash struct {
					Algorithm string `json:"algorithm"`
					Value     string `json:"value"`
				} `json:"hash"`
			} `json:"data"`
		} `json:"spec"`
	}
	if l.logged() {
		if _, body, _, err := decodeRekorBundle(string(l.Rekor)); err == nil && json.Unmarshal(body, &entry) == nil {
			d := entry.Spec.Data.Hash.Algorithm + ":" + entry.Spec.Data.Hash.Value
			if inventory.CheckDigest(d) == nil {
				return []string{d}, nil
			}
		}
	}
	return nil, errors.New("the bundle is of a kind that does not say what it signs: give the artifact itself")
}

// readLocal takes such a bundle apart. A blob's signature is held against the
// digest of the artifact itself.
func (c *claim) readLocal(l *localBundle, out *inventory.Signature) {
	sig, envelope := l.content()
	switch {
	case envelope != nil:
		c.stored = envelope
		if env, err := parseEnvelope(envelope); err != nil {
			c.problem("%s", err)
		} else {
			c.readStoredEnvelope(env, out)
		}
	case sig == nil || len(sig) > maxEvidence:
		c.problem("the signature in the bundle is not base64, or larger than %d bytes", maxEvidence)
	default:
		out.PredicateType, out.PayloadDigest = inventory.SignPredicate, c.sub.Digest
		c.signature, c.message = sig, c.sub.Content
		if digest, err := hex.DecodeString(strings.TrimPrefix(c.sub.Digest, "sha256:")); err == nil && len(digest) == sha256.Size {
			c.hash = crypto.SHA256
			c.digests[c.hash] = digest
		}
	}
	if l.Cert != "" {
		pem := []byte(l.Cert)
		if b, err := base64.StdEncoding.DecodeString(l.Cert); err == nil {
			pem = b
		}
		c.readPEM(string(pem))
	}
	if l.logged() {
		c.entries = append(c.entries, parseRekorBundle(string(l.Rekor)))
	}
	if out.Format == inventory.Blob && l.stamped() {
		c.tokens = append(c.tokens, parseToken(string(l.Stamp), c.signature))
	}
}
