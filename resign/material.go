package resign

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// Media types and annotations, as cosign writes them.
const (
	simpleSigningType = "application/vnd.dev.cosign.simplesigning.v1+json"
	envelopeType      = "application/vnd.dsse.envelope.v1+json"
	intotoType        = "application/vnd.in-toto+json"
	bundleType        = "application/vnd.dev.sigstore.bundle.v0.3+json"

	signatureAnnotation = "dev.cosignproject.cosign/signature"
	timestampAnnotation = "dev.sigstore.cosign/rfc3161timestamp"
	predicateAnnotation = "predicateType"
)

// maxLayers is how many signatures cosign reads of one manifest.
const maxLayers = 1000

// layer is the persisted form of a legacy signature or attestation: the blob
// and the annotations that go with it. A bundle is persisted as it is.
type layer struct {
	MediaType   types.MediaType   `json:"media_type"`
	Annotations map[string]string `json:"annotations"`
	Blob        []byte            `json:"blob"`
}

// make signs a unit and returns the bytes to persist and the ID that the
// signature will have in the inventory.
func (r *run) make(ctx context.Context, u *unit) (content []byte, id string, err error) {
	message := []byte(nil)
	if u.PredicateType != inventory.SignPredicate {
		stored, err := r.Store.Vault(ctx, u.SourceContent)
		if err != nil {
			return nil, "", err
		}
		if message, err = verify.Payload(u.SourceFormat, stored); err != nil {
			return nil, "", fmt.Errorf("the payload to re-issue: %w", err)
		}
		// What is approved is the statement; where its bytes are kept is only what
		// the database says.
		if is := u.PredicateType + "#" + inventory.Digest(message); is != u.StatementKey {
			return nil, "", fmt.Errorf("the payload to re-issue is not the one that was approved (%s, not %s): see \"reseal db check\"", is, u.StatementKey)
		}
	}
	switch u.format {
	case inventory.Legacy:
		return r.makeLegacy(ctx, u)
	case inventory.LegacyAtt:
		return r.makeEnvelope(ctx, u, message)
	case inventory.Bundle:
		return r.makeBundle(ctx, u, message)
	}
	return nil, "", fmt.Errorf("format %q cannot be written", u.format)
}

func (r *run) makeLegacy(ctx context.Context, u *unit) ([]byte, string, error) {
	ref, err := name.NewDigest(u.Repository + "@" + u.Digest)
	if err != nil {
		return nil, "", err
	}
	message, err := payload.Cosign{Image: ref}.MarshalJSON()
	if err != nil {
		return nil, "", err
	}
	sig, err := r.Signer.Sign(ctx, message)
	if err != nil {
		return nil, "", fmt.Errorf("signing: %w", err)
	}
	l := layer{MediaType: simpleSigningType, Blob: message,
		Annotations: map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(sig)}}
	return r.pack(ctx, u, l, sig, sig, message)
}

func (r *run) makeEnvelope(ctx context.Context, u *unit, message []byte) ([]byte, string, error) {
	sig, err := r.Signer.Sign(ctx, dsse.PAE(intotoType, message))
	if err != nil {
		return nil, "", fmt.Errorf("signing: %w", err)
	}
	envelope, err := json.Marshal(dsse.Envelope{PayloadType: intotoType, Payload: base64.StdEncoding.EncodeToString(message),
		Signatures: []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(sig)}}})
	if err != nil {
		return nil, "", err
	}
	l := layer{MediaType: envelopeType, Blob: envelope,
		Annotations: map[string]string{signatureAnnotation: "", predicateAnnotation: u.PredicateType}}
	return r.pack(ctx, u, l, envelope, sig, message)
}

// pack stamps a layer, if a timestamp is wanted, and returns it as persisted.
// What cosign stamps differs: the signature of a ".sig" layer, the whole
// envelope of an ".att" layer.
func (r *run) pack(ctx context.Context, u *unit, l layer, stamped, sig, message []byte) ([]byte, string, error) {
	if r.Timestamp != nil {
		token, err := r.Timestamp.GetTimestamp(ctx, stamped)
		if err != nil {
			return nil, "", fmt.Errorf("timestamp: %w", err)
		}
		note, err := json.Marshal(map[string][]byte{"SignedRFC3161Timestamp": token})
		if err != nil {
			return nil, "", err
		}
		l.Annotations[timestampAnnotation] = string(note)
	}
	content, err := json.Marshal(l)
	return content, inventory.SignatureID(u.Repository, u.Digest, u.format, r.Signer.Identity(), inventory.Digest(message), sig), err
}

func (r *run) makeBundle(ctx context.Context, u *unit, message []byte) ([]byte, string, error) {
	if message == nil {
		var err error
		if message, err = signStatement(u.Digest); err != nil {
			return nil, "", err
		}
	}
	pair, err := newKeypair(r.Signer)
	if err != nil {
		return nil, "", err
	}
	options := sign.BundleOptions{Context: ctx}
	if r.Timestamp != nil {
		options.TimestampAuthorities = []*sign.TimestampAuthority{r.Timestamp}
	}
	b, err := sign.Bundle(&sign.DSSEData{Data: message, PayloadType: intotoType}, pair, options)
	if err != nil {
		return nil, "", fmt.Errorf("signing: %w", err)
	}
	raw, err := protojson.Marshal(b)
	if err != nil {
		return nil, "", err
	}
	var compact bytes.Buffer // protojson varies its white space on purpose
	if err := json.Compact(&compact, raw); err != nil {
		return nil, "", err
	}
	sig := b.GetDsseEnvelope().GetSignatures()[0].GetSig()
	return compact.Bytes(), inventory.SignatureID(u.Repository, u.Digest, u.format, r.Signer.Identity(), inventory.Digest(message), sig), nil
}

// signStatement is the in-toto statement of a cosign v3 image signature.
func signStatement(digest string) ([]byte, error) {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return json.Marshal(struct {
		Type      string           `json:"_type"`
		Subject   []map[string]any `json:"subject"`
		Predicate string           `json:"predicateType"`
		Body      map[string]any   `json:"predicate"`
	}{"https://in-toto.io/Statement/v1", []map[string]any{{"digest": map[string]string{algorithm: hex}}}, inventory.SignPredicate, map[string]any{}})
}

// write publishes the persisted bytes of a unit.
func (r *run) write(ctx context.Context, u *unit) error {
	unlock, err := r.Registry.Serialise(ctx, u.Repository, u.Digest)
	if err != nil {
		return err
	}
	defer unlock()
	if u.format == inventory.Bundle {
		return r.attachBundle(ctx, u)
	}
	return r.appendLayer(ctx, u)
}

func (r *run) attachBundle(ctx context.Context, u *unit) error {
	if _, err := r.Registry.PutBlob(ctx, u.Repository, u.content); err != nil {
		return err
	}
	empty := []byte("{}")
	if _, err := r.Registry.PutBlob(ctx, u.Repository, empty); err != nil {
		return err
	}
	subject, err := v1.NewHash(u.Digest)
	if err != nil {
		return err
	}
	annotations := map[string]string{"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": u.PredicateType}
	manifest, err := json.Marshal(struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     types.MediaType   `json:"mediaType"`
		ArtifactType  string            `json:"artifactType"`
		Config        v1.Descriptor     `json:"config"`
		Layers        []v1.Descriptor   `json:"layers"`
		Subject       v1.Descriptor     `json:"subject"`
		Annotations   map[string]string `json:"annotations"`
	}{2, types.OCIManifestSchema1, bundleType,
		describe("application/vnd.oci.empty.v1+json", empty),
		[]v1.Descriptor{describe(bundleType, u.content)},
		v1.Descriptor{MediaType: types.MediaType(u.MediaType), Size: u.Size, Digest: subject}, annotations})
	if err != nil {
		return err
	}
	entry := describe(types.OCIManifestSchema1, manifest)
	entry.ArtifactType, entry.Annotations = bundleType, annotations
	_, err = r.Registry.Attach(ctx, u.Repository, manifest, string(types.OCIManifestSchema1), entry, u.Digest)
	return err
}

// appendLayer adds a layer to the ".sig" or ".att" manifest and keeps every
// layer that is there. The tag is read, changed and written without a
// compare-and-swap, which is why callers serialise and read back.
func (r *run) appendLayer(ctx context.Context, u *unit) error {
	var l layer
	if err := json.Unmarshal(u.content, &l); err != nil {
		return fmt.Errorf("persisted signature: %w", err)
	}
	tag := verify.Tag(u.Digest, u.format)
	image := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	m, err := r.Registry.Manifest(ctx, u.Repository, tag)
	switch {
	case errors.Is(err, registry.ErrNotFound):
	case err != nil:
		return err
	case !types.MediaType(m.MediaType).IsImage():
		return fmt.Errorf("%s:%s is a %s and would be lost by adding to it: move it away first", u.Repository, tag, m.MediaType)
	default:
		if err := json.Unmarshal(m.Raw, &image); err != nil {
			return fmt.Errorf("%s:%s is malformed and would be lost by adding to it: move it away first: %w", u.Repository, tag, err)
		}
	}
	if len(image.Layers) >= maxLayers {
		return fmt.Errorf("%s:%s has %d signatures, and verifiers read no more than %d: remove what does not belong there first", u.Repository, tag, len(image.Layers), maxLayers)
	}
	d := describe(l.MediaType, l.Blob)
	d.Annotations = l.Annotations
	if slices.ContainsFunc(image.Layers, func(have v1.Descriptor) bool {
		return have.Digest == d.Digest && maps.Equal(have.Annotations, d.Annotations)
	}) {
		return nil // an earlier run got this far
	}
	image.Layers = append(image.Layers, d)

	config, err := signatureConfig(image.Layers)
	if err != nil {
		return err
	}
	image.Config = describe(types.OCIConfigJSON, config)
	for _, blob := range [][]byte{l.Blob, config} {
		if _, err := r.Registry.PutBlob(ctx, u.Repository, blob); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(image)
	if err != nil {
		return err
	}
	_, _, err = r.Registry.PutManifest(ctx, u.Repository, tag, string(image.MediaType), raw)
	return err
}

// signatureConfig is the image configuration that cosign gives its signature
// manifests: nothing but the layers' digests.
func signatureConfig(layers []v1.Descriptor) ([]byte, error) {
	c := v1.ConfigFile{RootFS: v1.RootFS{Type: "layers"}}
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.Digest)
		c.History = append(c.History, v1.History{})
	}
	return json.Marshal(c)
}

func describe(mediaType types.MediaType, content []byte) v1.Descriptor {
	h, _, err := v1.SHA256(bytes.NewReader(content))
	if err != nil { // reading from memory does not fail
		return v1.Descriptor{}
	}
	return v1.Descriptor{MediaType: mediaType, Size: int64(len(content)), Digest: h}
}

// keypair lets sigstore-go sign with a signer.Signer.
type keypair struct {
	signer.Signer
	pem       string
	hint      string
	details   signature.AlgorithmDetails
	algorithm string
}

func newKeypair(s signer.Signer) (sign.Keypair, error) {
	pem, err := cryptoutils.MarshalPublicKeyToPEM(s.PublicKey())
	if err != nil {
		return nil, err
	}
	algorithm := "ECDSA"
	if _, isRSA := s.PublicKey().(*rsa.PublicKey); isRSA {
		algorithm = "RSA"
	}
	details, err := signature.GetDefaultAlgorithmDetails(s.PublicKey())
	if err != nil {
		return nil, fmt.Errorf("key %s cannot sign bundles: %w", s.Identity().ID(), err)
	}
	if details.GetHashType() == crypto.Hash(0) {
		return nil, fmt.Errorf("key %s cannot sign bundles: use an ECDSA P-256 key", s.Identity().ID())
	}
	// The hint cosign writes: base64 of the fingerprint.
	fingerprint, err := hex.DecodeString(s.Identity().Subject)
	return keypair{Signer: s, pem: string(pem), hint: base64.StdEncoding.EncodeToString(fingerprint), details: details, algorithm: algorithm}, err
}

func (k keypair) GetHashAlgorithm() protocommon.HashAlgorithm { return k.details.GetProtoHashType() }
func (k keypair) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	return k.details.GetSignatureAlgorithm()
}
func (k keypair) GetHint() []byte                  { return []byte(k.hint) }
func (k keypair) GetKeyAlgorithm() string          { return k.algorithm }
func (k keypair) GetPublicKey() crypto.PublicKey   { return k.Signer.PublicKey() }
func (k keypair) GetPublicKeyPem() (string, error) { return k.pem, nil }

func (k keypair) SignData(ctx context.Context, data []byte) (sig, digest []byte, err error) {
	h := k.details.GetHashType().New()
	h.Write(data)
	sig, err = k.Signer.Sign(ctx, data)
	return sig, h.Sum(nil), err
}
