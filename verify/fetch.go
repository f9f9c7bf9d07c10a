package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/inventory"
)

// Bounds on what one artifact may make a reader fetch.
const (
	maxLayers    = 1000      // of one ".sig" or ".att" manifest, as cosign has it
	maxReferrers = 1000      // of one artifact
	maxImages    = 32        // of an index where a signature manifest is expected
	maxPayload   = 1 << 20   // bytes of one simple signing payload
	maxFetch     = 100 << 20 // bytes of one bundle or envelope: SBOMs are large
	maxTotal     = 128 << 20 // bytes of the signatures of one manifest, or that are read of one artifact at once
)

var (
	// errBroken marks what no verifier can read, however often it is read.
	errBroken = errors.New("unreadable")
	// errRest marks what is there and is not read.
	errRest = errors.New("not read to the end")
)

// Media types by which stored signatures are known. cosign takes a referrer for
// a bundle by its one layer's, whatever artifact type and annotations say.
const (
	bundlePrefix      = "application/vnd.dev.sigstore.bundle"
	simpleSigningType = "application/vnd.dev.cosign.simplesigning.v1+json"
	envelopeType      = "application/vnd.dsse.envelope.v1+json"
	referrerType      = "application/vnd.dev.cosign.artifact.sig.v1+json"
)

// IsSignature reports whether a layer of a media type is one that cosign writes
// signatures into.
func IsSignature(t types.MediaType) bool {
	return t == simpleSigningType || t == envelopeType || strings.HasPrefix(string(t), bundlePrefix)
}

// Registry is what reading signatures needs of a registry.
type Registry interface {
	Manifest(ctx context.Context, repository, reference string) (registry.Manifest, error)
	Blob(ctx context.Context, repository, digest string, limit int64) ([]byte, error)
	Referrers(ctx context.Context, repository, digest string) ([]v1.Descriptor, error)
}

// Judge verifies one stored signature: see [Verifier.Stored].
type Judge interface {
	Stored(sub Subject, f inventory.Format, annotations map[string]string, content []byte) inventory.Signature
}

// Found is a signature as it stands in a registry, with its exact bytes.
type Found struct {
	inventory.Signature
	Annotations map[string]string // of its layer, for legacy formats
	Content     []byte            // payload, envelope or bundle
}

// Fetched is every signature found on one artifact and what could not be read.
type Fetched struct {
	Found    []Found
	Holders  []Holder // the manifests that were read
	Problems []inventory.Problem
	// Unknown is set when something could not be read that may be a good
	// signature. What is malformed, too large or lost is none, to any verifier.
	Unknown error
	// Retry is set when reading the same manifests again may find more: what
	// could not be read is not all their own fault.
	Retry bool
	// Partial is set when signatures that were there before may still be there:
	// with Retry, and when a bound was reached.
	Partial bool
}

func (f *Fetched) problem(sub Subject, reference string, err error) {
	is := func(kind error) bool { return errors.Is(err, kind) }
	broken := slices.ContainsFunc([]error{registry.ErrMalformed, registry.ErrTooLarge, registry.ErrDigest, registry.ErrNotFound, errBroken, errRest}, is)
	if !broken && f.Unknown == nil {
		f.Unknown = err
	}
	f.Retry = f.Retry || !is(errBroken) && !is(errRest)
	f.Partial = f.Partial || !is(errBroken)
	f.Problems = append(f.Problems, inventory.Problem{Repository: sub.Repository, Reference: reference, Problem: err.Error()})
}

// Add adds what was found elsewhere on the same artifact.
func (f *Fetched) Add(other Fetched) {
	f.Found = append(f.Found, other.Found...)
	f.Holders = append(f.Holders, other.Holders...)
	f.Problems = append(f.Problems, other.Problems...)
	f.Retry = f.Retry || other.Retry
	f.Partial = f.Partial || other.Partial
	if f.Unknown == nil {
		f.Unknown = other.Unknown
	}
}

// Where says in which places to look for signatures.
type Where func(f inventory.Format) bool

// Everywhere looks in every place cosign looks.
func Everywhere(inventory.Format) bool { return true }

// Only looks where the formats given are stored.
func Only(formats ...inventory.Format) Where {
	return func(f inventory.Format) bool { return slices.Contains(formats, f) }
}

// ReferrerFormats are the formats that are stored as OCI referrers.
func ReferrerFormats() []inventory.Format {
	return []inventory.Format{inventory.Bundle, inventory.Referrer, inventory.ReferrerAtt}
}

// Tag returns the tag under which cosign keeps the legacy signatures of an
// artifact: "sha256-<hex>.sig" or ".att".
func Tag(digest string, f inventory.Format) string {
	suffix := ".sig"
	if f == inventory.LegacyAtt {
		suffix = ".att"
	}
	return strings.Replace(digest, ":", "-", 1) + suffix
}

// Holder is a manifest that may hold signatures, taken apart.
type Holder struct {
	registry.Manifest
	Image     v1.Manifest // empty when it is malformed
	reference string      // for messages
	layers    []layer
	broken    error
}

type layer struct {
	v1.Descriptor
	format inventory.Format
}

// limit is how many bytes of a layer are read. A layer that is larger than its
// manifest says is refused by every verifier.
func (l layer) limit() int64 {
	most := int64(maxFetch)
	if l.format == inventory.Legacy || l.format == inventory.Referrer {
		most = maxPayload
	}
	return max(0, min(l.Size, most))
}

// OpenTag takes apart what a ".sig" or ".att" tag names: each of its layers is
// a signature.
func OpenTag(tag string, f inventory.Format, m registry.Manifest) Holder {
	h := open(tag, m)
	for _, l := range h.Image.Layers {
		h.layers = append(h.layers, layer{l, f})
	}
	return h.bounded()
}

// OpenReferrer takes apart a manifest that refers to an artifact: it is a
// bundle, cosign's experimental form of a ".sig" or ".att", or no signature at
// all, see [Holder.Empty].
func OpenReferrer(m registry.Manifest) Holder {
	h := open(m.Digest, m)
	signature := h.Image.ArtifactType == referrerType || h.Image.Config.MediaType == referrerType
	for _, l := range h.Image.Layers {
		switch {
		case strings.HasPrefix(string(l.MediaType), bundlePrefix):
			h.layers = append(h.layers, layer{l, inventory.Bundle})
			if len(h.Image.Layers) != 1 {
				h.broken = fmt.Errorf("%w: it holds a bundle among %d layers: verifiers read it from a manifest of one", errBroken, len(h.Image.Layers))
			}
		case l.MediaType == envelopeType:
			h.layers = append(h.layers, layer{l, inventory.ReferrerAtt})
		case signature || l.MediaType == simpleSigningType:
			h.layers = append(h.layers, layer{l, inventory.Referrer})
		}
	}
	if h.broken != nil {
		h.layers = nil
	}
	return h.bounded()
}

func open(reference string, m registry.Manifest) Holder {
	h := Holder{Manifest: m, reference: reference}
	if err := json.Unmarshal(m.Raw, &h.Image); err != nil {
		h.Image = v1.Manifest{}
		h.broken = fmt.Errorf("%w: malformed manifest: %s", errBroken, brief(err.Error()))
	}
	return h
}

func (h Holder) bounded() Holder {
	if n := len(h.layers); n > maxLayers {
		h.layers = h.layers[:maxLayers]
		h.broken = fmt.Errorf("%w: it has %d layers, only the first %d were read", errRest, n, maxLayers)
	}
	return h
}

// Empty reports whether the manifest is well-formed and holds no signatures.
func (h Holder) Empty() bool { return len(h.layers) == 0 && h.broken == nil }

// Size is how many bytes reading its signatures takes at most, as it says
// itself.
func (h Holder) Size() int64 {
	n := int64(0)
	for _, l := range h.layers {
		n += l.limit()
	}
	return min(n, maxTotal)
}

// Config returns the configuration of a manifest of signatures where it follows
// from the manifest: cosign makes an image configuration of nothing but the
// layers' digests, and an empty object for bundles. Any other is only to be had
// where the manifest is.
func Config(manifest v1.Manifest) ([]byte, bool) {
	candidates := [][]byte{[]byte("{}"), manifest.Config.Data}
	for _, layers := range [][]v1.Descriptor{manifest.Layers, {}, nil} {
		image, err := LayersConfig(layers)
		if err != nil {
			return nil, false
		}
		candidates = append(candidates, image)
	}
	for _, content := range candidates {
		if inventory.Digest(content) == manifest.Config.Digest.String() {
			return content, true
		}
	}
	return nil, false
}

// LayersConfig is the image configuration that cosign gives its signature
// manifests: nothing but the layers' digests. With an empty list it is that of the
// manifests that reseal makes anew, so that all of a repository have the same: no
// consumer looks for the layers in it, and cosign itself writes one that lacks a
// layer when two signatures have the same payload.
func LayersConfig(layers []v1.Descriptor) ([]byte, error) {
	c := v1.ConfigFile{RootFS: v1.RootFS{Type: "layers"}}
	if layers != nil {
		c.RootFS.DiffIDs = []v1.Hash{}
	}
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.Digest)
		c.History = append(c.History, v1.History{})
	}
	return json.Marshal(c)
}

// Fetcher reads signatures from a registry and verifies them.
type Fetcher struct {
	Registry Registry
	Verifier Judge
	Location string // repository that holds the signatures, where that is not the artifact's (COSIGN_REPOSITORY)
}

func (f Fetcher) location(sub Subject) string {
	if f.Location != "" {
		return f.Location
	}
	return sub.Repository
}

// Signatures reads every signature of an artifact. It does not fail: what
// cannot be read is a problem, and the rest is read all the same.
func (f Fetcher) Signatures(ctx context.Context, sub Subject, where Where) Fetched {
	var out Fetched
	left := int64(maxTotal)
	for _, format := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt} {
		if !where(format) {
			continue
		}
		tag := Tag(sub.Digest, format)
		m, err := f.Registry.Manifest(ctx, f.location(sub), tag)
		if errors.Is(err, registry.ErrNotFound) {
			continue
		}
		if err != nil {
			out.problem(sub, tag, err)
			continue
		}
		images, odd := f.images(ctx, sub, tag, m)
		out.Add(odd)
		for _, image := range images {
			out.Add(f.read(ctx, sub, OpenTag(tag, format, image), &left))
		}
	}
	if slices.ContainsFunc(ReferrerFormats(), where) {
		out.Add(f.referrers(ctx, sub, where, &left))
	}
	return out
}

// Images returns the digests of the image manifests in which verifiers look for
// signatures where they find an index instead; none if m is no index. What
// cannot be read of it is a problem in what is returned besides.
func Images(sub Subject, reference string, m registry.Manifest) ([]string, Fetched) {
	var out Fetched
	if !types.MediaType(m.MediaType).IsIndex() {
		return nil, out
	}
	list, err := registry.Descriptors(sub.Repository, m)
	if err != nil {
		out.problem(sub, reference, fmt.Errorf("%w: %w", errBroken, err))
	}
	var digests []string
	for _, d := range list {
		if d.MediaType.IsIndex() {
			continue // no verifier looks deeper
		}
		if len(digests) == maxImages {
			out.problem(sub, reference, fmt.Errorf("%w: it is an index of %d manifests, only the first %d were read", errRest, len(list), maxImages))
			break
		}
		digests = append(digests, d.Digest.String())
	}
	return digests, out
}

// images reads the image manifests in which verifiers look for signatures: m
// itself, or if it is an index those that it lists.
func (f Fetcher) images(ctx context.Context, sub Subject, reference string, m registry.Manifest) ([]registry.Manifest, Fetched) {
	digests, out := Images(sub, reference, m)
	if !types.MediaType(m.MediaType).IsIndex() {
		return []registry.Manifest{m}, out
	}
	var images []registry.Manifest
	for _, d := range digests {
		image, err := f.Registry.Manifest(ctx, f.location(sub), d)
		if err != nil {
			out.problem(sub, reference+" manifest "+d, err)
			continue
		}
		images = append(images, image)
	}
	return images, out
}

// referrers reads the signatures that refer to an artifact.
func (f Fetcher) referrers(ctx context.Context, sub Subject, where Where, left *int64) Fetched {
	var out Fetched
	list, err := f.Registry.Referrers(ctx, f.location(sub), sub.Digest)
	if err != nil { // what is malformed in a listing does not hide the rest of it
		out.problem(sub, sub.Digest+" referrers", err)
	}
	if len(list) > maxReferrers {
		out.problem(sub, sub.Digest+" referrers", fmt.Errorf("%w: there are %d, only the first %d were read", errRest, len(list), maxReferrers))
		list = list[:maxReferrers]
	}
	for _, d := range list {
		digest := d.Digest.String()
		m, err := f.Registry.Manifest(ctx, f.location(sub), digest)
		if err != nil {
			out.problem(sub, digest, err)
			continue
		}
		images, odd := f.images(ctx, sub, digest, m)
		out.Add(odd)
		for _, image := range images {
			h := OpenReferrer(image)
			h.layers = slices.DeleteFunc(h.layers, func(l layer) bool { return !where(l.format) })
			out.Add(f.read(ctx, sub, h, left))
		}
	}
	return out
}

// Read reads and verifies the signatures in one manifest.
func (f Fetcher) Read(ctx context.Context, sub Subject, h Holder) Fetched {
	left := int64(maxTotal)
	return f.read(ctx, sub, h, &left)
}

// read takes what it reads from what is left.
func (f Fetcher) read(ctx context.Context, sub Subject, h Holder, left *int64) Fetched {
	out := Fetched{Holders: []Holder{h}}
	if h.broken != nil {
		out.problem(sub, h.reference, h.broken)
	}
	for _, l := range h.layers {
		content, err := f.blob(ctx, sub, l, *left)
		if err != nil {
			out.problem(sub, h.reference+" layer "+l.Digest.String(), err)
			continue
		}
		*left -= int64(len(content))
		annotations := l.Annotations
		if l.format == inventory.Bundle {
			annotations = nil
		}
		sig := f.Verifier.Stored(sub, l.format, annotations, content)
		sig.Manifest = h.Digest
		if at := f.location(sub); at != sub.Repository {
			sig.Location = at
		}
		out.Found = append(out.Found, Found{Signature: sig, Annotations: annotations, Content: content})
	}
	return out
}

func (f Fetcher) blob(ctx context.Context, sub Subject, l layer, left int64) ([]byte, error) {
	limit := l.limit()
	switch {
	case limit < l.Size:
		return nil, fmt.Errorf("%w: it has %d bytes, and no more than %d are read", errBroken, l.Size, limit)
	case limit > left:
		return nil, fmt.Errorf("%w: the signatures read together are larger than %d bytes", errRest, maxTotal)
	case len(l.Data) > 0 && inventory.Digest(l.Data) == l.Digest.String():
		return l.Data, nil
	}
	return f.Registry.Blob(ctx, f.location(sub), l.Digest.String(), limit)
}

// Accepts reports whether the consumer accepts a signature as it was found.
func (c Consumer) Accepts(ctx context.Context, f Found) error {
	sub := Subject{Repository: f.Repository, Digest: f.Digest}
	switch f.Format {
	case inventory.Legacy, inventory.Referrer:
		return c.Legacy(ctx, sub, f.Annotations, f.Content)
	case inventory.LegacyAtt, inventory.ReferrerAtt:
		return c.Attestation(ctx, sub, f.Annotations, f.Content)
	case inventory.Bundle:
		return c.Bundle(ctx, sub, f.Content)
	case inventory.Detached, inventory.Blob:
		return c.File(ctx, sub, f.Format, f.Content)
	}
	return nil
}
