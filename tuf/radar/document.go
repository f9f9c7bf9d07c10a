package radar

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// document is one file of metadata, read as leniently as possible.
type document struct {
	name       string
	data       []byte
	signed     json.RawMessage
	payload    []byte // what is signed: the canonical form of signed (4.2)
	kind       string // _type
	spec       string // spec_version
	version    int64
	expires    string // as it is written
	signatures []mark
}

// mark is one entry of a list of signatures. One that is empty stands for a signature that is expected (tuf-on-ci).
type mark struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
}

// parse decodes a file of metadata.
func parse(name string, data []byte) (*document, error) {
	var envelope struct {
		Signed     json.RawMessage `json:"signed"`
		Signatures []mark          `json:"signatures"`
	}
	if err := json.Unmarshal(data, &envelope); err != nil {
		return nil, err
	}
	var head struct {
		Type    string `json:"_type"`
		Spec    string `json:"spec_version"`
		Version int64  `json:"version"`
		Expires string `json:"expires"`
	}
	if len(envelope.Signed) == 0 {
		return nil, errors.New("it has no signed part")
	}
	if err := json.Unmarshal(envelope.Signed, &head); err != nil {
		return nil, err
	}
	payload, err := cjson.EncodeCanonical(envelope.Signed)
	if err != nil {
		return nil, fmt.Errorf("it has no canonical form: %w", err)
	}
	return &document{
		name: name, data: data, signed: envelope.Signed, payload: payload, kind: head.Type, spec: head.Spec,
		version: head.Version, expires: head.Expires, signatures: envelope.Signatures,
	}, nil
}

// waits reports whether a signature is expected that is not there yet.
func (d *document) waits() bool {
	return slices.ContainsFunc(d.signatures, func(m mark) bool { return m.Sig == "" })
}

// twice returns the key ids that more than one signature is listed for.
func (d *document) twice() []string {
	var out []string
	seen := map[string]bool{}
	for _, m := range d.signatures {
		if seen[m.KeyID] && !slices.Contains(out, m.KeyID) {
			out = append(out, m.KeyID)
		}
		seen[m.KeyID] = true
	}
	return out
}

// ring is what a delegator says about a role.
type ring struct {
	keys      []holder
	threshold int
	fields    map[string]any
	unknown   []string // ids without a key
}

// holder is one key of a ring.
type holder struct {
	id          string
	key         *metadata.Key
	public      crypto.PublicKey // nil: it cannot be read
	fingerprint string           // of the public key, hex; its id when it cannot be read
	why         error            // why it cannot be read
	old         bool             // written in a way that go-tuf cannot read
}

// newRing collects the keys of a role. An id that is listed twice counts once.
func newRing(ids []string, keys map[string]*metadata.Key, threshold int, fields map[string]any) ring {
	r := ring{threshold: threshold, fields: fields}
	for n, id := range ids {
		switch k := keys[id]; {
		case slices.Contains(ids[:n], id):
		case k == nil:
			r.unknown = append(r.unknown, id)
		default:
			h := holder{id: id, key: k, fingerprint: id}
			h.public, h.old, h.why = public(k)
			if h.public != nil {
				der, err := x509.MarshalPKIXPublicKey(h.public)
				if err != nil {
					h.public, h.why = nil, err
				} else {
					sum := sha256.Sum256(der)
					h.fingerprint = hex.EncodeToString(sum[:])
				}
			}
			r.keys = append(r.keys, h)
		}
	}
	return r
}

func rootRing(root *metadata.RootType, role string) (ring, bool) {
	r := root.Roles[role]
	if r == nil {
		return ring{}, false
	}
	return newRing(r.KeyIDs, root.Keys, r.Threshold, r.UnrecognizedFields), true
}

// distinct returns how many public keys the ring has.
func (r ring) distinct() int {
	seen := map[string]bool{}
	for _, h := range r.keys {
		if h.public != nil {
			seen[h.fingerprint] = true
		}
	}
	return len(seen)
}

// signers returns the fingerprints of the keys of the ring that signed d.
func (r ring) signers(d *document) map[string]bool {
	out := map[string]bool{}
	for _, h := range r.keys {
		for _, m := range d.signatures {
			if m.KeyID == h.id && h.verify(d.payload, m.Sig) {
				out[h.fingerprint] = true
			}
		}
	}
	return out
}

// public reads a public key, also in the forms that go-tuf cannot read: a point in hexadecimal, as Sigstore's first
// roots have it, and the key type that P-384 keys of tuf-on-ci may have.
func public(k *metadata.Key) (key crypto.PublicKey, old bool, err error) {
	defer malformed(&err)
	if key, err = k.ToPublicKey(); err == nil {
		if ed, ok := key.(ed25519.PublicKey); ok && len(ed) != ed25519.PublicKeySize {
			return nil, true, fmt.Errorf("an Ed25519 key of %d bytes", len(ed))
		}
		return key, false, nil
	}
	if !strings.HasPrefix(k.Type, "ecdsa") {
		return nil, true, err
	}
	if point, hexErr := hex.DecodeString(k.Value.PublicKey); hexErr == nil {
		for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
			if key, err := ecdsa.ParseUncompressedPublicKey(curve, point); err == nil {
				return key, true, nil
			}
		}
		return nil, true, errors.New("no point of the curves P-256 or P-384")
	}
	parsed, pemErr := cryptoutils.UnmarshalPEMToPublicKey([]byte(k.Value.PublicKey))
	if pemErr != nil {
		return nil, true, pemErr
	}
	if _, ok := parsed.(*ecdsa.PublicKey); !ok {
		return nil, true, errors.New("no ECDSA key")
	}
	return parsed, true, nil
}

// hashOf returns the hash function a scheme signs with; Ed25519 does not ask.
func hashOf(scheme string) crypto.Hash {
	if scheme == metadata.KeySchemeECDSA_SHA2_P384 {
		return crypto.SHA384
	}
	return crypto.SHA256
}

// verify reports whether sig, in hexadecimal, is the key's signature over payload.
func (h holder) verify(payload []byte, sig string) bool {
	raw, err := hex.DecodeString(sig)
	if err != nil || len(raw) == 0 || h.public == nil {
		return false
	}
	var v signature.Verifier
	if k, ok := h.public.(*rsa.PublicKey); ok {
		v, err = signature.LoadRSAPSSVerifier(k, crypto.SHA256, &rsa.PSSOptions{Hash: crypto.SHA256})
	} else {
		v, err = signature.LoadVerifier(h.public, hashOf(h.key.Scheme))
	}
	return err == nil && v.VerifySignature(bytes.NewReader(raw), bytes.NewReader(payload)) == nil
}

// field returns a text that metadata declares about a key.
func (h holder) field(name string) string {
	s, _ := h.key.UnrecognizedFields[name].(string)
	return s
}

// trueID reports whether the id is the one that follows from the key as it is published (4.2).
func (h holder) trueID() bool {
	k := *h.key // its id is kept once computed
	data, err := cjson.EncodeCanonical(&k)
	if err != nil {
		return false
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]) == h.id
}

// misfit says in which way the declared type or scheme is not the key's; empty: it is.
func (h holder) misfit() string {
	k, ok := h.public.(*ecdsa.PublicKey)
	if !ok {
		return ""
	}
	want := map[string]string{"P-256": metadata.KeySchemeECDSA_SHA2_P256, "P-384": metadata.KeySchemeECDSA_SHA2_P384}[k.Curve.Params().Name]
	if want == h.key.Scheme {
		return ""
	}
	return fmt.Sprintf("a key on the curve %s with the scheme %s", k.Curve.Params().Name, h.key.Scheme)
}
