//go:build e2e && linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The formats an image is signed and consumed in.
const (
	legacy = "legacy"
	bundle = "bundle"
)

// The predicate types that statements are told apart by.
const (
	signType       = "https://sigstore.dev/cosign/sign/v1"
	provenanceType = "https://slsa.dev/provenance/v1"
	sbomType       = "https://spdx.dev/Document"
)

// An image is one of those the test pushes, with what was done to it and what
// must become of it.
type image struct {
	repository string // with the registry
	tag        string
	digest     string
	format     string

	index      bool // of two images
	timestamp  bool // on its signature, from before the theft
	provenance bool // by the builder, which is not compromised
	sbom       bool // by the old key, with a timestamp from before the theft
	deployed   bool
	both       bool // signed in the other format, too
	rogue      bool // made by the attacker
	known      bool // to be rogue, when the incident is opened
}

func (i *image) ref() string { return i.repository + "@" + i.digest }

// want is the decision that the plan must come to.
func (i *image) want() string {
	switch {
	case i.known:
		return "deny"
	case !i.rogue && (i.timestamp || i.provenance):
		return "resign"
	}
	return "hold"
}

// other is the image as one in the other format.
func (i *image) other() *image {
	o := *i
	o.format = map[string]string{legacy: bundle, bundle: legacy}[i.format]
	return &o
}

// group is how the summary calls what became of an image.
func (i *image) group() string {
	switch {
	case i.rogue:
		return "rogue"
	case i.want() == "resign":
		return "re-signed"
	}
	return "held"
}

func (i *image) String() string {
	return fmt.Sprintf("%s image %s:%s (%s)", i.format, i.repository, i.tag, i.ref())
}

// push makes an image and gives it to the registry.
func push(ctx context.Context, i *image) error {
	ref, err := name.ParseReference(i.repository + ":" + i.tag)
	if err != nil {
		return err
	}
	if i.index {
		index, err := random.Index(512, 1, 2)
		if err != nil {
			return err
		}
		digest, err := index.Digest()
		if err != nil {
			return err
		}
		i.digest = digest.String()
		return remote.WriteIndex(ref, index, remote.WithContext(ctx))
	}
	img, err := random.Image(512, 1)
	if err != nil {
		return err
	}
	if i.provenance { // both media types are about
		img = mutate.MediaType(img, types.OCIManifestSchema1)
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	i.digest = digest.String()
	return remote.Write(ref, img, remote.WithContext(ctx))
}

// sign signs an image with the old key in its format, with the annotations.
func (w *world) sign(i *image, timestamp bool, annotations ...string) error {
	args := []string{"sign", "--key", "old.key", "--yes"}
	for _, a := range annotations {
		args = append(args, "-a", a)
	}
	return w.cosignFor(i, append(append(args, w.services(i, timestamp)...), i.ref())).failure()
}

// attest attaches a claim to an image in its format.
func (w *world) attest(i *image, key, predicateType, predicate string, timestamp bool) error {
	args := []string{"attest", "--key", key, "--yes", "--type", predicateType, "--predicate", predicate}
	return w.cosignFor(i, append(append(args, w.services(i, timestamp)...), i.ref())).failure()
}

// cosignFor runs the cosign whose format the image is in.
func (w *world) cosignFor(i *image, args []string) result {
	if i.format == legacy {
		return w.cosign2(args...)
	}
	return w.cosign3(args...)
}

// services returns the flags that say which services a signature is made with:
// never a log, a timestamp authority if wanted.
func (w *world) services(i *image, timestamp bool) []string {
	switch {
	case i.format == legacy && timestamp:
		return []string{"--tlog-upload=false", "--timestamp-server-url", w.tsa}
	case i.format == legacy:
		return []string{"--tlog-upload=false"}
	case timestamp:
		return []string{"--trusted-root", "trusted_root.json", "--signing-config", "with-tsa.json"}
	}
	return []string{"--trusted-root", "trusted_root.json", "--signing-config", "without-tsa.json"}
}

// publish pushes an image and signs it as its fields say. What is done to one
// image is done in turn: tags are read, changed and written back.
func (w *world) publish(i *image) error {
	if err := push(w.Context(), i); err != nil {
		return fmt.Errorf("push %s: %w", i, err)
	}
	err := w.sign(i, i.timestamp)
	if err == nil && i.both {
		err = w.sign(i.other(), i.timestamp)
	}
	if err == nil && i.provenance {
		err = w.attest(i, "builder.key", "slsaprovenance1", "provenance.json", false)
	}
	if err == nil && i.sbom {
		err = w.attest(i, "old.key", "spdxjson", "sbom.json", true)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", i, err)
	}
	return nil
}

// judge asks a real cosign whether it accepts an image by a key. Extra flags
// make it stricter.
func (w *world) judge(cosign, key string, i *image, extra ...string) result {
	args := append([]string{"verify", "--key", key, "--insecure-ignore-tlog", "--trusted-root", "trusted_root.json"}, extra...)
	return w.run(cosign, append(args, i.ref())...)
}

// judgeClaim asks a real cosign whether it accepts a claim about an image.
func (w *world) judgeClaim(cosign, key, predicateType string, i *image) result {
	return w.run(cosign, "verify-attestation", "--key", key, "--insecure-ignore-tlog", "--trusted-root", "trusted_root.json",
		"--type", predicateType, i.ref())
}

// An attached is a signature found in the registry, read and verified here
// without any code of reseal.
type attached struct {
	format  string // legacy, legacy-att or bundle
	claim   string // predicate type
	payload string // digest
	key     string // name of the key that verifies it, or "nobody"

	timestamp bool // it has one; whether it is valid is for cosign to say
	signature []byte
}

func (a attached) String() string {
	return fmt.Sprintf("%s %s %s timestamp=%t by %s", a.format, a.claim, a.payload, a.timestamp, a.key)
}

// reader reads what is attached to images.
type reader struct {
	keys map[string]*ecdsa.PublicKey
}

// reader knows the keys that every world has, and those named.
func (w *world) reader(more ...string) reader {
	r := reader{map[string]*ecdsa.PublicKey{}}
	for _, name := range append([]string{"old", "new", "builder"}, more...) {
		block, _ := pem.Decode([]byte(w.read(name + ".pub")))
		if block == nil {
			w.Fatalf("%s.pub is no PEM file", name)
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		w.check(err)
		r.keys[name] = key.(*ecdsa.PublicKey)
	}
	return r
}

func (r reader) signer(message, signature []byte) string {
	sum := sha256.Sum256(message)
	for name, key := range r.keys {
		if ecdsa.VerifyASN1(key, sum[:], signature) {
			return name
		}
	}
	return "nobody"
}

// attached returns everything attached to an image, sorted.
func (r reader) attached(i *image) ([]attached, error) {
	repo, err := name.NewRepository(i.repository)
	if err != nil {
		return nil, err
	}
	tag := strings.Replace(i.digest, ":", "-", 1)
	var out []attached
	signatures, err := manifest(repo.Tag(tag + ".sig"))
	if err != nil {
		return nil, err
	}
	for _, layer := range signatures.Layers {
		payload, err := blob(repo, layer)
		if err != nil {
			return nil, err
		}
		signature, err := base64.StdEncoding.DecodeString(layer.Annotations["dev.cosignproject.cosign/signature"])
		if err != nil {
			return nil, err
		}
		out = append(out, attached{"legacy", signType, digest(payload), r.signer(payload, signature), stamped(layer), signature})
	}
	claims, err := manifest(repo.Tag(tag + ".att"))
	if err != nil {
		return nil, err
	}
	for _, layer := range claims.Layers {
		content, err := blob(repo, layer)
		if err != nil {
			return nil, err
		}
		var e envelope
		if err := json.Unmarshal(content, &e); err != nil {
			return nil, err
		}
		out = append(out, r.claim("legacy-att", e, stamped(layer)))
	}
	referrers, err := manifest(repo.Tag(tag)) // the registry has no referrers API
	if err != nil {
		return nil, err
	}
	for _, desc := range referrers.Manifests {
		referrer, err := manifest(repo.Digest(desc.Digest.String()))
		if err != nil {
			return nil, err
		}
		for _, layer := range referrer.Layers {
			content, err := blob(repo, layer)
			if err != nil {
				return nil, err
			}
			var b struct {
				DSSEEnvelope         envelope
				VerificationMaterial struct {
					TimestampVerificationData struct{ RFC3161Timestamps []any }
				}
			}
			if err := json.Unmarshal(content, &b); err != nil {
				return nil, err
			}
			out = append(out, r.claim("bundle", b.DSSEEnvelope, len(b.VerificationMaterial.TimestampVerificationData.RFC3161Timestamps) > 0))
		}
	}
	slices.SortFunc(out, func(a, b attached) int { return strings.Compare(a.String(), b.String()) })
	return out, nil
}

// stamped reports whether a layer of a ".sig" or ".att" has a timestamp.
func stamped(layer v1.Descriptor) bool {
	return layer.Annotations["dev.sigstore.cosign/rfc3161timestamp"] != ""
}

// envelope is a DSSE envelope around an in-toto statement.
type envelope struct {
	PayloadType string
	Payload     []byte
	Signatures  []struct{ Sig []byte }
}

func (r reader) claim(format string, e envelope, timestamp bool) attached {
	a := attached{format: format, claim: "nothing", payload: digest(e.Payload), key: "nobody", timestamp: timestamp}
	var statement struct{ PredicateType string }
	if json.Unmarshal(e.Payload, &statement) == nil {
		a.claim = statement.PredicateType
	}
	signed := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(e.PayloadType), e.PayloadType, len(e.Payload), e.Payload)
	if len(e.Signatures) == 1 {
		a.signature = e.Signatures[0].Sig
		a.key = r.signer(signed, a.signature)
	}
	return a
}

// anyManifest is an image manifest or an index.
type anyManifest struct {
	Config    v1.Descriptor
	Layers    []v1.Descriptor
	Manifests []v1.Descriptor
}

// manifest returns a manifest, or an empty one when there is none.
func manifest(ref name.Reference) (anyManifest, error) {
	var m anyManifest
	desc, err := remote.Get(ref)
	if isNotFound(err) {
		return m, nil
	} else if err != nil {
		return m, err
	}
	return m, json.Unmarshal(desc.Manifest, &m)
}

func isNotFound(err error) bool {
	absent := (*transport.Error)(nil)
	return errors.As(err, &absent) && absent.StatusCode == http.StatusNotFound
}

func blob(repo name.Repository, desc v1.Descriptor) ([]byte, error) {
	layer, err := remote.Layer(repo.Digest(desc.Digest.String()))
	if err != nil {
		return nil, err
	}
	content, err := layer.Compressed()
	if err != nil {
		return nil, err
	}
	defer content.Close()
	return io.ReadAll(content)
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
