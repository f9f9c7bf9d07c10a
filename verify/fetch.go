package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/inventory"
)

// Bounds on what one artifact may make a reader fetch.
const (
	maxLayers    = 1000      // of one ".sig" or ".att" manifest, as cosign has it
	maxReferrers = 1000      // of one artifact
	maxPayload   = 1 << 20   // bytes of one simple signing payload
	maxFetch     = 100 << 20 // bytes of one bundle or envelope: SBOMs are large
	maxTotal     = 128 << 20 // bytes of all signatures of one artifact
)

// errBroken marks what no verifier can read.
var errBroken = errors.New("unreadable")

// bundlePrefix starts the media type of every Sigstore bundle layer.
const bundlePrefix = "application/vnd.dev.sigstore.bundle"

// Registry is what reading signatures needs of a registry.
type Registry interface {
	Manifest(ctx context.Context, repository, reference string) (registry.Manifest, error)
	Blob(ctx context.Context, repository, digest string, limit int64) ([]byte, error)
	Referrers(ctx context.Context, repository, digest string) ([]v1.Descriptor, error)
}

// Found is a signature as it stands in a registry, with its exact bytes.
type Found struct {
	inventory.Signature
	Annotations map[string]string // of its layer, for legacy formats
	Content     []byte            // payload, envelope or bundle
}

// Fetched is every signature found on one artifact and what could not be read.
type Fetched struct {
	Found     []Found
	Manifests [][]byte // the manifests that hold them
	Problems  []inventory.Problem
	// Unknown is set when something could not be read that may be a good
	// signature. What is malformed, too large or lost is none, to any verifier.
	Unknown error
}

func (f *Fetched) problem(sub Subject, reference string, err error) {
	broken := slices.ContainsFunc([]error{registry.ErrMalformed, registry.ErrTooLarge, registry.ErrDigest, registry.ErrNotFound, errBroken},
		func(kind error) bool { return errors.Is(err, kind) })
	if !broken && f.Unknown == nil {
		f.Unknown = err
	}
	f.Problems = append(f.Problems, inventory.Problem{Repository: sub.Repository, Reference: reference, Problem: err.Error()})
}

// Where says in which places to look for signatures.
type Where func(f inventory.Format) bool

// Everywhere looks in every place cosign looks.
func Everywhere(inventory.Format) bool { return true }

// Only looks where the formats given are stored.
func Only(formats ...inventory.Format) Where {
	return func(f inventory.Format) bool { return slices.Contains(formats, f) }
}

// Fetcher reads signatures from a registry and verifies them.
type Fetcher struct {
	Registry Registry
	Verifier *Verifier
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

// Signatures reads every signature of an artifact. It does not fail: what
// cannot be read is a problem, and the rest is read all the same.
func (f Fetcher) Signatures(ctx context.Context, sub Subject, where Where) Fetched {
	var out Fetched
	if where(inventory.Legacy) {
		f.layers(ctx, sub, inventory.Legacy, maxPayload, f.Verifier.Legacy, &out)
	}
	if where(inventory.LegacyAtt) {
		f.layers(ctx, sub, inventory.LegacyAtt, maxFetch, f.Verifier.LegacyAttestation, &out)
	}
	if where(inventory.Bundle) {
		f.bundles(ctx, sub, &out)
	}
	return out
}

// blob reads one signature's content, within what one artifact may cost.
func (f Fetcher) blob(ctx context.Context, sub Subject, digest string, limit int64, out *Fetched) ([]byte, error) {
	left := int64(maxTotal)
	for _, have := range out.Found {
		left -= int64(len(have.Content))
	}
	if left <= 0 {
		return nil, fmt.Errorf("%w: the signatures of one artifact are larger than %d bytes together", errBroken, maxTotal)
	}
	return f.Registry.Blob(ctx, sub.Repository, digest, min(limit, left))
}

// layers reads a ".sig" or ".att" manifest: one signature a layer.
func (f Fetcher) layers(ctx context.Context, sub Subject, format inventory.Format, limit int64,
	check func(Subject, map[string]string, []byte) inventory.Signature, out *Fetched) {
	tag := Tag(sub.Digest, format)
	m, err := f.Registry.Manifest(ctx, sub.Repository, tag)
	if errors.Is(err, registry.ErrNotFound) {
		return
	}
	if err != nil {
		out.problem(sub, tag, err)
		return
	}
	var image v1.Manifest
	if err := json.Unmarshal(m.Raw, &image); err != nil {
		out.problem(sub, tag, fmt.Errorf("%w: malformed manifest: %w", errBroken, err))
		return
	}
	if len(image.Layers) > maxLayers {
		out.problem(sub, tag, fmt.Errorf("%w: it has %d layers, only the first %d were read", errBroken, len(image.Layers), maxLayers))
		image.Layers = image.Layers[:maxLayers]
	}
	out.Manifests = append(out.Manifests, m.Raw)
	for _, layer := range image.Layers {
		content, err := f.blob(ctx, sub, layer.Digest.String(), limit, out)
		if err != nil {
			out.problem(sub, tag+" layer "+layer.Digest.String(), err)
			continue
		}
		sig := check(sub, layer.Annotations, content)
		sig.Manifest = m.Digest
		out.Found = append(out.Found, Found{Signature: sig, Annotations: layer.Annotations, Content: content})
	}
}

// bundles reads the Sigstore bundles that refer to an artifact.
func (f Fetcher) bundles(ctx context.Context, sub Subject, out *Fetched) {
	referrers, err := f.Registry.Referrers(ctx, sub.Repository, sub.Digest)
	if err != nil { // what is malformed in a listing does not hide the rest of it
		out.problem(sub, sub.Digest+" referrers", err)
	}
	if len(referrers) > maxReferrers {
		out.problem(sub, sub.Digest+" referrers", fmt.Errorf("there are %d, only the first %d were read", len(referrers), maxReferrers))
		referrers = referrers[:maxReferrers]
	}
	for _, d := range referrers {
		digest := d.Digest.String()
		m, err := f.Registry.Manifest(ctx, sub.Repository, digest)
		if err != nil {
			out.problem(sub, digest, err)
			continue
		}
		var image v1.Manifest
		if err := json.Unmarshal(m.Raw, &image); err != nil {
			out.problem(sub, digest, fmt.Errorf("%w: malformed manifest: %w", errBroken, err))
			continue
		}
		// cosign takes a referrer for a bundle by its one layer's media type,
		// whatever artifact type and annotations say.
		if len(image.Layers) != 1 || !strings.HasPrefix(string(image.Layers[0].MediaType), bundlePrefix) {
			continue
		}
		content, err := f.blob(ctx, sub, image.Layers[0].Digest.String(), maxFetch, out)
		if err != nil {
			out.problem(sub, digest, err)
			continue
		}
		sig := f.Verifier.Bundle(sub, content)
		sig.Manifest = m.Digest
		out.Manifests = append(out.Manifests, m.Raw)
		out.Found = append(out.Found, Found{Signature: sig, Content: content})
	}
}

// Accepts reports whether the consumer accepts a signature as it was found.
// Claims in ".att" manifests are not image signatures: whoever reads them
// verifies them as the Verifier did.
func (c Consumer) Accepts(ctx context.Context, f Found) error {
	sub := Subject{Repository: f.Repository, Digest: f.Digest}
	switch f.Format {
	case inventory.Legacy:
		return c.Legacy(ctx, sub, f.Annotations, f.Content)
	case inventory.Bundle:
		return c.Bundle(ctx, sub, f.Content)
	}
	return nil
}
