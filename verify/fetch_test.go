package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/empty"
	"github.com/sigstore/cosign/v2/pkg/oci/mutate"
	"github.com/sigstore/cosign/v2/pkg/oci/static"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/inventory"
)

// TestConfig compares configurations with those that cosign itself makes.
func TestConfig(t *testing.T) {
	t.Parallel()
	var sigs []oci.Signature
	for n := range 3 {
		for _, recorded := range []bool{false, true} {
			made := must(mutate.AppendSignatures(empty.Signatures(), recorded, sigs...))(t)
			want := must(made.RawConfigFile())(t)
			var m v1.Manifest
			if err := json.Unmarshal(must(made.RawManifest())(t), &m); err != nil {
				t.Fatal(err)
			}
			got, known := Config(m)
			if known != (!recorded || n == 0 && len(want) == len(got) && string(want) == string(got)) || known && string(got) != string(want) {
				t.Errorf("%d signatures, time recorded %v: known %v\n%s\nwant\n%s", n, recorded, known, got, want)
			}
		}
		sigs = append(sigs, must(static.NewSignature(fmt.Appendf(nil, "payload %d", n), "c2ln"))(t))
	}
	hash := func(content string) v1.Hash {
		return must(v1.NewHash(inventory.Digest([]byte(content))))(t)
	}
	if got, known := Config(v1.Manifest{Config: v1.Descriptor{Digest: hash("{}")}}); !known || string(got) != "{}" {
		t.Errorf("empty: %q, %v", got, known)
	}
	if got, known := Config(v1.Manifest{Config: v1.Descriptor{Digest: hash("inline"), Data: []byte("inline")}}); !known || string(got) != "inline" {
		t.Errorf("inline: %q, %v", got, known)
	}
	for _, m := range []v1.Manifest{{}, {Config: v1.Descriptor{Digest: hash("another")}}, {Config: v1.Descriptor{Digest: hash("another"), Data: []byte("lie")}}} {
		if got, known := Config(m); known {
			t.Errorf("%+v: %q", m.Config, got)
		}
	}
}

// shelf is a registry in memory.
type shelf struct {
	manifests map[string]registry.Manifest // by "repository reference"
	blobs     map[string][]byte
	referrers map[string][]v1.Descriptor
	failing   map[string]error
	limits    map[string]int64 // that blobs were asked for with
}

func (s *shelf) Manifest(_ context.Context, repository, reference string) (registry.Manifest, error) {
	if err := s.failing[reference]; err != nil {
		return registry.Manifest{}, err
	}
	m, ok := s.manifests[repository+" "+reference]
	if !ok {
		return m, registry.ErrNotFound
	}
	return m, nil
}

func (s *shelf) Blob(_ context.Context, repository, digest string, limit int64) ([]byte, error) {
	s.limits[digest] = limit
	content, ok := s.blobs[repository+" "+digest]
	switch {
	case !ok:
		return nil, registry.ErrNotFound
	case int64(len(content)) > limit:
		return nil, registry.ErrTooLarge
	}
	return content, nil
}

func (s *shelf) Referrers(_ context.Context, repository, digest string) ([]v1.Descriptor, error) {
	return s.referrers[repository+" "+digest], s.failing[digest+" referrers"]
}

func (s *shelf) put(t testing.TB, repository, reference string, mediaType types.MediaType, manifest any) registry.Manifest {
	t.Helper()
	raw, ok := manifest.([]byte)
	if !ok {
		raw = must(json.Marshal(manifest))(t)
	}
	m := registry.Manifest{Digest: inventory.Digest(raw), MediaType: string(mediaType), Raw: raw, Size: int64(len(raw))}
	s.manifests[repository+" "+m.Digest] = m
	if reference != "" {
		s.manifests[repository+" "+reference] = m
	}
	return m
}

func (s *shelf) layer(t testing.TB, repository string, mediaType types.MediaType, content string) v1.Descriptor {
	t.Helper()
	digest := inventory.Digest([]byte(content))
	s.blobs[repository+" "+digest] = []byte(content)
	return v1.Descriptor{MediaType: mediaType, Size: int64(len(content)), Digest: must(v1.NewHash(digest))(t), Annotations: map[string]string{"content": content}}
}

func (s *shelf) refer(t testing.TB, repository string, m registry.Manifest) {
	t.Helper()
	key := repository + " " + subject().Digest
	s.referrers[key] = append(s.referrers[key], v1.Descriptor{MediaType: types.MediaType(m.MediaType), Digest: must(v1.NewHash(m.Digest))(t)})
}

// echo takes every content for a signature.
type echo struct{}

func (echo) Stored(sub Subject, f inventory.Format, annotations map[string]string, content []byte) inventory.Signature {
	return inventory.Signature{ID: string(content), Repository: sub.Repository, Digest: sub.Digest, Format: f, Names: annotations["content"]}
}

func newShelf() *shelf {
	return &shelf{manifests: map[string]registry.Manifest{}, blobs: map[string][]byte{}, referrers: map[string][]v1.Descriptor{},
		failing: map[string]error{}, limits: map[string]int64{}}
}

func image(layers ...v1.Descriptor) v1.Manifest {
	empty := v1.Descriptor{MediaType: "application/vnd.oci.empty.v1+json", Size: 2, Digest: v1.Hash{Algorithm: "sha256", Hex: strings.TrimPrefix(inventory.Digest([]byte("{}")), "sha256:")}}
	return v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: empty, Layers: layers}
}

const bundleType types.MediaType = bundleV03

// TestFetch finds every format in every place, here and in another repository.
func TestFetch(t *testing.T) {
	t.Parallel()
	for _, location := range []string{"", "registry.example/signatures"} {
		at := repo
		if location != "" {
			at = location
		}
		s := newShelf()
		sub := subject()
		s.put(t, at, Tag(sub.Digest, inventory.Legacy), types.OCIManifestSchema1, image(s.layer(t, at, "x/odd", "sig one"), s.layer(t, at, simpleSigningType, "sig two")))
		index := v1.IndexManifest{Manifests: []v1.Descriptor{{MediaType: types.OCIManifestSchema1, Digest: must(v1.NewHash(
			s.put(t, at, "", types.OCIManifestSchema1, image(s.layer(t, at, envelopeType, "att"))).Digest))(t)}, {MediaType: types.OCIImageIndex, Digest: image().Config.Digest}}}
		s.put(t, at, Tag(sub.Digest, inventory.LegacyAtt), types.OCIImageIndex, index)
		experimental := image(s.layer(t, at, "x/odd", "referrer sig"), s.layer(t, at, simpleSigningType, "referrer sig two"))
		experimental.Config.MediaType = referrerType
		old := image(s.layer(t, at, "application/vnd.dev.sigstore.bundle+json;version=0.1", "old bundle"))
		both := image(s.layer(t, at, bundleType, "never read"), s.layer(t, at, bundleType, "nor this"))
		sbom := image(s.layer(t, at, "text/spdx+json", "sbom"))
		sbom.ArtifactType = "application/vnd.in-toto+json"
		for _, m := range []v1.Manifest{experimental, old, both, sbom, image(s.layer(t, at, bundleType, "bundle")), image(s.layer(t, at, envelopeType, "referrer att"))} {
			s.refer(t, at, s.put(t, at, "", types.OCIManifestSchema1, m))
		}
		f := Fetcher{Registry: s, Verifier: echo{}, Location: location}
		got := f.Signatures(t.Context(), sub, Everywhere)
		var found []string
		for _, g := range got.Found {
			if g.Location != location || g.Repository != repo || s.manifests[at+" "+g.Manifest].Raw == nil {
				t.Errorf("%s is in %q of %q (%s)", g.ID, g.Location, g.Repository, g.Manifest)
			}
			if (g.Annotations == nil) != (g.Format == inventory.Bundle) || g.Annotations != nil && g.Names != g.ID {
				t.Errorf("%s has the annotations %v", g.ID, g.Annotations)
			}
			found = append(found, string(g.Format)+" "+g.ID)
		}
		want := []string{"bundle bundle", "bundle old bundle", "legacy sig one", "legacy sig two", "legacy-att att", "referrer referrer sig", "referrer referrer sig two", "referrer-att referrer att"}
		if slices.Sort(found); !slices.Equal(found, want) {
			t.Errorf("found %q, want %q", found, want)
		}
		if len(got.Problems) != 1 || !strings.Contains(got.Problems[0].Problem, "bundle among 2 layers") || got.Unknown != nil || got.Retry || got.Partial {
			t.Errorf("problems %+v, unknown %v, retry %v, partial %v", got.Problems, got.Unknown, got.Retry, got.Partial)
		}
		for format, n := range map[inventory.Format]int{inventory.Legacy: 2, inventory.LegacyAtt: 1, inventory.Bundle: 2, inventory.Referrer: 2, inventory.ReferrerAtt: 1, inventory.Detached: 0} {
			if got := f.Signatures(t.Context(), sub, Only(format)); len(got.Found) != n {
				t.Errorf("only %s: %d found, want %d", format, len(got.Found), n)
			}
		}
		if got := (Fetcher{Registry: s, Verifier: echo{}, Location: "registry.example/none"}).Signatures(t.Context(), sub, Everywhere); len(got.Found)+len(got.Problems) != 0 {
			t.Errorf("elsewhere: %+v", got)
		}
	}
}

// TestFetchProblems tells apart what reading again may mend and what not.
func TestFetchProblems(t *testing.T) {
	t.Parallel()
	sub := subject()
	tag := Tag(sub.Digest, inventory.Legacy)
	broken := errors.New("it is broken")
	for name, tc := range map[string]struct {
		spoil                   func(t *testing.T, s *shelf)
		problem                 string
		found                   int
		unknown, retry, partial bool
	}{
		"unreachable": {func(_ *testing.T, s *shelf) { s.failing[tag] = broken }, "broken", 0, true, true, true},
		"malformed": {func(t *testing.T, s *shelf) { s.put(t, repo, tag, types.OCIManifestSchema1, []byte(`{"layers":5}`)) },
			"malformed manifest", 0, false, false, false},
		"lost layer": {func(t *testing.T, s *shelf) { delete(s.blobs, repo+" "+inventory.Digest([]byte("two"))) }, "not found", 1, false, true, true},
		"huge layer": {func(t *testing.T, s *shelf) {
			l := s.layer(t, repo, "x", "one")
			l.Size = maxPayload + 1
			s.put(t, repo, tag, types.OCIManifestSchema1, image(l, s.layer(t, repo, "x", "two")))
		}, "no more than 1048576 are read", 1, false, false, false},
		"negative layer": {func(t *testing.T, s *shelf) {
			l := s.layer(t, repo, "x", "one")
			l.Size = -1
			s.put(t, repo, tag, types.OCIManifestSchema1, image(l, s.layer(t, repo, "x", "two")))
		}, "too large", 1, false, true, true},
		"larger than it says": {func(t *testing.T, s *shelf) {
			l := s.layer(t, repo, "x", "one")
			l.Size = 2
			s.put(t, repo, tag, types.OCIManifestSchema1, image(l, s.layer(t, repo, "x", "two")))
		}, "too large", 1, false, true, true},
		"too many layers": {func(t *testing.T, s *shelf) {
			s.put(t, repo, tag, types.OCIManifestSchema1, image(slices.Repeat([]v1.Descriptor{s.layer(t, repo, "x", "one")}, 5000)...))
		}, "5000 layers", 1000, false, false, true},
		"too much in all": {func(t *testing.T, s *shelf) {
			m := image()
			for n := range 400 {
				l := s.layer(t, repo, "x", fmt.Sprint(n))
				l.Size = maxPayload
				s.blobs[repo+" "+l.Digest.String()] = make([]byte, maxPayload)
				m.Layers = append(m.Layers, l)
			}
			s.put(t, repo, tag, types.OCIManifestSchema1, m)
		}, "larger than 134217728 bytes", 128, false, false, true},
		"wide index": {func(t *testing.T, s *shelf) {
			one := s.put(t, repo, "", types.OCIManifestSchema1, image(s.layer(t, repo, "x", "one")))
			d := v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: must(v1.NewHash(one.Digest))(t)}
			s.put(t, repo, tag, types.OCIImageIndex, v1.IndexManifest{Manifests: slices.Repeat([]v1.Descriptor{d}, 100)})
		}, "index of 100 manifests", maxImages, false, false, true},
		"many referrers": {func(t *testing.T, s *shelf) {
			m := s.put(t, repo, "", types.OCIManifestSchema1, image(s.layer(t, repo, bundleType, "bundle")))
			for range 1500 {
				s.refer(t, repo, m)
			}
		}, "there are 1500", 1002, false, false, true},
		"half a list": {func(t *testing.T, s *shelf) {
			s.failing[sub.Digest+" referrers"] = registry.ErrMalformed
			s.refer(t, repo, s.put(t, repo, "", types.OCIManifestSchema1, image(s.layer(t, repo, bundleType, "bundle"))))
		}, "malformed", 3, false, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShelf()
			s.put(t, repo, tag, types.OCIManifestSchema1, image(s.layer(t, repo, "x", "one"), s.layer(t, repo, "x", "two")))
			tc.spoil(t, s)
			got := Fetcher{Registry: s, Verifier: echo{}}.Signatures(t.Context(), sub, Everywhere)
			if len(got.Problems) == 0 || !strings.Contains(got.Problems[0].Problem, tc.problem) {
				t.Errorf("problems %+v, want one that says %q", got.Problems, tc.problem)
			}
			if len(got.Found) != tc.found || (got.Unknown != nil) != tc.unknown || got.Retry != tc.retry || got.Partial != tc.partial {
				t.Errorf("%d found, unknown %v, retry %v, partial %v", len(got.Found), got.Unknown, got.Retry, got.Partial)
			}
			for digest, limit := range s.limits {
				if limit < 0 || limit > maxPayload {
					t.Errorf("%s was asked for with the limit %d", digest, limit)
				}
			}
		})
	}
}

// TestFetchInline takes what is in a descriptor itself, if it is what the digest
// says.
func TestFetchInline(t *testing.T) {
	t.Parallel()
	s := newShelf()
	good, lie := s.layer(t, repo, "x", "good"), s.layer(t, repo, "x", "true")
	delete(s.blobs, repo+" "+good.Digest.String())
	good.Data, lie.Data = []byte("good"), []byte("lie!")
	s.put(t, repo, Tag(subject().Digest, inventory.Legacy), types.OCIManifestSchema1, image(good, lie))
	got := Fetcher{Registry: s, Verifier: echo{}}.Signatures(t.Context(), subject(), Everywhere)
	if len(got.Found) != 2 || got.Found[0].ID != "good" || got.Found[1].ID != "true" || len(s.limits) != 1 {
		t.Errorf("%+v", got)
	}
}

func FuzzHolder(f *testing.F) {
	f.Add([]byte(`{"layers":[{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","size":3,"digest":"sha256:` + strings.Repeat("0", 64) + `"}]}`))
	f.Add([]byte(`{"artifactType":"application/vnd.dev.cosign.artifact.sig.v1+json","layers":[{"size":-1,"data":"AAAA","annotations":{"a":"b"}}]}`))
	f.Add([]byte(`{"manifests":[{"digest":5},null]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := registry.Manifest{Digest: inventory.Digest(raw), MediaType: string(types.OCIManifestSchema1), Raw: raw, Size: int64(len(raw))}
		for _, h := range []Holder{OpenTag("t", inventory.Legacy, m), OpenTag("t", inventory.LegacyAtt, m), OpenReferrer(m)} {
			if n := h.Size(); n < 0 || n > maxTotal {
				t.Errorf("it says it has %d bytes", n)
			}
			got := Fetcher{Registry: newShelf(), Verifier: echo{}}.Read(t.Context(), subject(), h)
			if n := len(got.Found) + len(got.Problems); n > maxLayers+1 || n == 0 && len(h.layers) > 0 {
				t.Errorf("%d signatures and problems", n)
			}
			if h.Empty() != (len(got.Found)+len(got.Problems) == 0) {
				t.Errorf("empty %v, found %+v", h.Empty(), got)
			}
			Config(h.Image)
		}
		m.MediaType = string(types.OCIImageIndex)
		if digests, _ := Images(subject(), "t", m); len(digests) > maxImages {
			t.Errorf("%d images", len(digests))
		}
	})
}
