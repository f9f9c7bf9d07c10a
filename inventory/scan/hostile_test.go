package scan

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/verify"
)

func manifest(t testing.TB, mediaType types.MediaType, digest string, raw any) registry.Manifest {
	t.Helper()
	content, ok := raw.([]byte)
	if !ok {
		var err error
		content, err = json.Marshal(raw)
		must(t, err)
	}
	if digest == "" {
		digest = inventory.Digest(content)
	}
	return registry.Manifest{Digest: digest, MediaType: string(mediaType), Raw: content, Size: int64(len(content))}
}

func hash(t testing.TB, digest string) v1.Hash {
	t.Helper()
	h, err := v1.NewHash(digest)
	must(t, err)
	return h
}

func numbered(n int) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%064x", n)} }

// TestBroken breaks one thing: the scan goes on, the problem is listed, and
// the rest is found.
func TestBroken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for n, tc := range []struct {
		name     string
		spoil    func(t *testing.T, k *kase, bad name.Digest, reg *broken)
		problem  string // empty: none
		artifact bool   // the bad image is in the inventory all the same
		sigs     int    // found on it
	}{
		{"image manifest cannot be read", func(_ *testing.T, _ *kase, _ name.Digest, reg *broken) {
			reg.failing["bad"] = errBroken
		}, "broken", true, 2}, // by its signature tag
		{"a tag that is listed and not there", func(_ *testing.T, _ *kase, _ name.Digest, reg *broken) {
			reg.failing["bad"] = registry.ErrNotFound
		}, "not found", true, 2},
		{"a signature tag that is listed and not there", func(_ *testing.T, _ *kase, bad name.Digest, reg *broken) {
			reg.failing[verify.Tag(bad.DigestStr(), inventory.Legacy)] = registry.ErrNotFound
		}, "not found", true, 1},
		{"index is malformed", func(t *testing.T, _ *kase, _ name.Digest, reg *broken) {
			reg.manifests["bad"] = manifest(t, types.OCIImageIndex, "", []byte(`{"manifests":[{"digest":5}]}`))
		}, "no descriptors", true, 2},
		{"index lists itself", func(t *testing.T, _ *kase, bad name.Digest, reg *broken) {
			self := v1.Descriptor{MediaType: types.OCIImageIndex, Digest: hash(t, bad.DigestStr())}
			m := manifest(t, types.OCIImageIndex, bad.DigestStr(), v1.IndexManifest{Manifests: []v1.Descriptor{self, self}})
			reg.manifests["bad"], reg.manifests[bad.DigestStr()] = m, m
		}, "", true, 2},
		{"indexes list each other without end", func(t *testing.T, _ *kase, _ name.Digest, reg *broken) {
			for n := range 100 {
				m := manifest(t, types.OCIImageIndex, numbered(n).String(), v1.IndexManifest{Manifests: []v1.Descriptor{{MediaType: types.OCIImageIndex, Digest: numbered(n + 1)}}})
				reg.manifests[m.Digest] = m
				if n == 0 {
					reg.manifests["bad"] = m
				}
			}
		}, "nested", true, 2},
		{"index lists a thousand indexes", func(t *testing.T, _ *kase, _ name.Digest, reg *broken) {
			var list []v1.Descriptor
			for n := range 1000 {
				list = append(list, v1.Descriptor{MediaType: types.OCIImageIndex, Digest: numbered(n)})
				reg.manifests[numbered(n).String()] = manifest(t, types.OCIImageIndex, numbered(n).String(), v1.IndexManifest{Manifests: []v1.Descriptor{}})
			}
			reg.manifests["bad"] = manifest(t, types.OCIImageIndex, "", v1.IndexManifest{Manifests: list})
		}, "more than 100 indexes", true, 2},
		{"index lists an index that is not there", func(t *testing.T, _ *kase, _ name.Digest, reg *broken) {
			reg.manifests["bad"] = manifest(t, types.OCIImageIndex, "", v1.IndexManifest{Manifests: []v1.Descriptor{{MediaType: types.OCIImageIndex, Digest: numbered(1)}}})
		}, "404", true, 2},
		{"index lists layers and odd digests", func(t *testing.T, _ *kase, _ name.Digest, reg *broken) {
			reg.manifests["bad"] = manifest(t, types.OCIImageIndex, "", []byte(`{"manifests":[
				{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":1,"digest":"`+numbered(1).String()+`"},
				{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,"digest":"sha512:`+strings.Repeat("0", 128)+`"}]}`))
		}, "SHA-256", true, 2},
		{"signature manifest cannot be read", func(_ *testing.T, _ *kase, bad name.Digest, reg *broken) {
			reg.failing[verify.Tag(bad.DigestStr(), inventory.Legacy)] = errBroken
		}, "broken", true, 1},
		{"signature manifest is malformed", func(t *testing.T, _ *kase, bad name.Digest, reg *broken) {
			reg.manifests[verify.Tag(bad.DigestStr(), inventory.Legacy)] = manifest(t, types.OCIManifestSchema1, "", []byte(`{"layers":{}}`))
		}, "malformed manifest", true, 1},
		{"signature blob is missing", func(t *testing.T, k *kase, bad name.Digest, reg *broken) {
			image, _ := k.tagged(t, bad, inventory.Legacy)
			reg.failing[image.Layers[0].Digest.String()] = registry.ErrNotFound
		}, "not found", true, 1},
		{"bundle manifest cannot be read", func(t *testing.T, k *kase, bad name.Digest, reg *broken) {
			list, err := k.client.Referrers(t.Context(), k.repo, bad.DigestStr())
			must(t, err)
			reg.failing[list[0].Digest.String()] = errBroken
		}, "broken", true, 1},
		{"referrers cannot be listed to the end", func(_ *testing.T, _ *kase, bad name.Digest, reg *broken) {
			reg.failing[bad.DigestStr()+" referrers"] = errBroken
		}, "broken", true, 2},
		{"more layers than anyone reads", func(t *testing.T, k *kase, bad name.Digest, reg *broken) {
			image, _ := k.tagged(t, bad, inventory.Legacy)
			for range 4999 {
				image.Layers = append(image.Layers, image.Layers[0])
			}
			reg.manifests[verify.Tag(bad.DigestStr(), inventory.Legacy)] = manifest(t, types.OCIManifestSchema1, "", image)
		}, "5000 layers", true, 2},
		{"a layer that says it is huge", func(t *testing.T, k *kase, bad name.Digest, reg *broken) {
			image, _ := k.tagged(t, bad, inventory.Legacy)
			image.Layers[0].Size = 1 << 40
			reg.manifests[verify.Tag(bad.DigestStr(), inventory.Legacy)] = manifest(t, types.OCIManifestSchema1, "", image)
		}, "no more than", true, 1},
		{"a layer that is larger than it says", func(t *testing.T, k *kase, bad name.Digest, reg *broken) {
			image, _ := k.tagged(t, bad, inventory.Legacy)
			image.Layers[0].Size = 10
			reg.manifests[verify.Tag(bad.DigestStr(), inventory.Legacy)] = manifest(t, types.OCIManifestSchema1, "", image)
		}, "more than 10 bytes", true, 1},
		{"layers that together are too much", func(t *testing.T, k *kase, bad name.Digest, reg *broken) {
			image, _ := k.tagged(t, bad, inventory.Legacy)
			for n := range 500 { // none is there: none is to be asked for once it is too much
				image.Layers = append(image.Layers, v1.Descriptor{Digest: numbered(n), Size: 1 << 20, MediaType: image.Layers[0].MediaType})
			}
			reg.manifests[verify.Tag(bad.DigestStr(), inventory.Legacy)] = manifest(t, types.OCIManifestSchema1, "", image)
		}, "404", true, 2},
		{"a configuration that is not there", func(t *testing.T, k *kase, bad name.Digest, reg *broken) {
			image, _ := k.tagged(t, bad, inventory.Legacy)
			image.Config.Digest = numbered(1)
			reg.manifests[verify.Tag(bad.DigestStr(), inventory.Legacy)] = manifest(t, types.OCIManifestSchema1, "", image)
		}, "its configuration", true, 2},
		{"a bundle among two layers", func(t *testing.T, k *kase, bad name.Digest, reg *broken) {
			list, err := k.client.Referrers(t.Context(), k.repo, bad.DigestStr())
			must(t, err)
			m, err := k.client.Manifest(t.Context(), k.repo, list[0].Digest.String())
			must(t, err)
			var image v1.Manifest
			must(t, json.Unmarshal(m.Raw, &image))
			image.Layers = append(image.Layers, image.Layers[0])
			reg.manifests[m.Digest] = manifest(t, types.OCIManifestSchema1, m.Digest, image)
		}, "a bundle among 2 layers", true, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := b.newCase(t, fmt.Sprintf("acme/broken%d", n))
			good, bad := k.push(t, "good"), k.push(t, "bad")
			for _, ref := range []name.Digest{good, bad} {
				must(t, errors.Join(k.actor.SignLegacy(t.Context(), ref, sandbox.NoProof), k.actor.SignBundle(t.Context(), ref, sandbox.NoProof)))
			}
			reg := &broken{Registry: k.client, manifests: map[string]registry.Manifest{}, failing: map[string]error{}}
			tc.spoil(t, k, bad, reg)
			for range 2 {
				r := k.scan(t, reg)
				problems := k.problems(t)
				if tc.problem == "" {
					wantEqual(t, "problems", problems, []string(nil))
				} else if !strings.Contains(strings.Join(problems, "\n"), tc.problem) || int(r.Problems) != len(problems) {
					t.Errorf("problems are %.300q (%d counted), want one that says %q", problems, r.Problems, tc.problem)
				}
				wantEqual(t, "signatures of the good image", len(k.signatures(t, good)), 2)
				for _, g := range k.signatures(t, good) {
					if !g.Verified {
						t.Errorf("the good image's %s is no longer verified: %s", g.Format, g.Why)
					}
				}
				if _, ok := k.artifacts(t)[bad.DigestStr()]; ok != tc.artifact {
					t.Errorf("the bad image is in the inventory: %v", ok)
				}
				wantEqual(t, "signatures of the bad image", len(k.signatures(t, bad)), tc.sigs)
			}
			// Once it is repaired, the problem is forgotten.
			if tc.name == "a bundle among two layers" {
				return // what a digest stands for does not change
			}
			k.scan(t, k.client)
			wantEqual(t, "problems once it is repaired", k.problems(t), []string(nil))
			wantEqual(t, "signatures once it is repaired", len(k.signatures(t, bad)), 2)
		})
	}
}

// TestWideIndex has an index of more images than anyone has.
func TestWideIndex(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k := b.newCaseAt(t, b.old, "acme/wide")
	k.push(t, "bad")
	var list []v1.Descriptor
	for n := range maxChildren + 5000 {
		list = append(list, v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: 7, Digest: numbered(n)})
	}
	m := manifest(t, types.OCIImageIndex, "", v1.IndexManifest{Manifests: list})
	r := k.scan(t, &broken{Registry: k.client, manifests: map[string]registry.Manifest{"bad": m}})
	wantEqual(t, "result", r, Result{Repositories: 1, Artifacts: maxChildren, Problems: 1})
	if problems := k.problems(t); len(problems) != 1 || !strings.Contains(problems[0], "more than 10000 manifests") {
		t.Errorf("problems: %q", problems)
	}
}

// endless is content without end, of which it counts what is read.
type endless struct{ read *atomic.Int64 }

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.read.Add(int64(len(p)))
	return len(p), nil
}

// TestHostileRegistry has a registry, or something before it, answer as none
// should: bounded, reported, and the rest goes on.
func TestHostileRegistry(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var read atomic.Int64
	for n, tc := range []struct {
		name    string
		answer  func(t *testing.T, k *kase, bad name.Digest) func(*http.Request) *http.Response // nil: what is there
		problem string
		sigs    int // of the bad image
	}{
		{"a manifest of two gigabytes", func(_ *testing.T, _ *kase, _ name.Digest) func(*http.Request) *http.Response {
			return func(req *http.Request) *http.Response {
				if !strings.HasSuffix(req.URL.Path, "/manifests/bad") {
					return nil
				}
				r := reply(200, string(types.OCIManifestSchema1), endless{&read}, "Content-Length", "2147483648")
				r.ContentLength = 2 << 30
				return r
			}
		}, "too large", 2},
		{"a blob of two gigabytes", func(t *testing.T, k *kase, bad name.Digest) func(*http.Request) *http.Response {
			image, _ := k.tagged(t, bad, inventory.Legacy)
			return func(req *http.Request) *http.Response {
				if !strings.HasSuffix(req.URL.Path, image.Layers[0].Digest.String()) {
					return nil
				}
				return reply(200, "application/octet-stream", endless{&read})
			}
		}, "too large", 1},
		{"another manifest than asked for", func(_ *testing.T, _ *kase, bad name.Digest) func(*http.Request) *http.Response {
			return func(req *http.Request) *http.Response {
				if !strings.HasSuffix(req.URL.Path, "/manifests/bad") {
					return nil
				}
				return reply(200, string(types.OCIManifestSchema1), strings.NewReader(`{"schemaVersion":2}`), "Docker-Content-Digest", bad.DigestStr())
			}
		}, "does not match its digest", 2},
		{"another blob than asked for", func(t *testing.T, k *kase, bad name.Digest) func(*http.Request) *http.Response {
			image, _ := k.tagged(t, bad, inventory.Legacy)
			return func(req *http.Request) *http.Response {
				if !strings.HasSuffix(req.URL.Path, image.Layers[0].Digest.String()) {
					return nil
				}
				return reply(200, "application/octet-stream", strings.NewReader("x"))
			}
		}, "does not match its digest", 1},
		{"referrers that go in circles", func(_ *testing.T, _ *kase, bad name.Digest) func(*http.Request) *http.Response {
			return func(req *http.Request) *http.Response {
				if !strings.HasSuffix(req.URL.Path, "/referrers/"+bad.DigestStr()) {
					return nil
				}
				return reply(200, string(types.OCIImageIndex), strings.NewReader(`{"manifests":[]}`), "Link", `<?page=2>; rel="next"`)
			}
		}, "circles", 1},
		{"referrers without end", func(_ *testing.T, _ *kase, bad name.Digest) func(*http.Request) *http.Response {
			var n atomic.Int64
			return func(req *http.Request) *http.Response {
				if !strings.HasSuffix(req.URL.Path, "/referrers/"+bad.DigestStr()) {
					return nil
				}
				return reply(200, string(types.OCIImageIndex), strings.NewReader(`{"manifests":[]}`), "Link", fmt.Sprintf(`<?page=%d>; rel="next"`, n.Add(1)))
			}
		}, "more than 256 pages", 1},
		{"referrers that refer to referrers without end", func(_ *testing.T, _ *kase, bad name.Digest) func(*http.Request) *http.Response {
			var n atomic.Int64
			return func(req *http.Request) *http.Response {
				invented := func(n int64) []byte { return fmt.Appendf(nil, `{"schemaVersion":2,"layers":[],"n":%d}`, n) }
				digest := func(n int64) string { return inventory.Digest(invented(n)) }
				if strings.Contains(req.URL.Path, "/referrers/"+bad.DigestStr()) || strings.Contains(req.URL.Path, "/referrers/") && n.Load() > 0 {
					return reply(200, string(types.OCIImageIndex), strings.NewReader(`{"manifests":[{"digest":"`+digest(n.Add(1))+`"}]}`))
				}
				for i := range n.Load() + 1 {
					if strings.HasSuffix(req.URL.Path, "/manifests/"+digest(i)) {
						return reply(200, string(types.OCIManifestSchema1), bytes.NewReader(invented(i)))
					}
				}
				return nil
			}
		}, "nested more than", 1},
		{"names that are no tags", func(_ *testing.T, k *kase, _ name.Digest) func(*http.Request) *http.Response {
			return func(req *http.Request) *http.Response {
				if kind(req.URL.Path) != "tags" {
					return nil
				}
				list, err := json.Marshal(map[string]any{"tags": []string{"good", "../../x", "a\x00b", "", strings.Repeat("x", 1<<20), "ü", "bad\n", "?last=1"}})
				if err != nil {
					return nil
				}
				return reply(200, "application/json", bytes.NewReader(list))
			}
		}, "7 of the names", 0},
		{"text that no database takes", func(t *testing.T, k *kase, _ name.Digest) func(*http.Request) *http.Response {
			return func(req *http.Request) *http.Response {
				if !strings.HasSuffix(req.URL.Path, "/manifests/bad") {
					return nil
				}
				return reply(200, "application/vnd.oci.image.index.v1+json", strings.NewReader(`{"manifests":[
					{"mediaType":"","size":-5,"digest":"`+numbered(1).String()+`","annotations":{"a\u0000":"\ud800"}},
					{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":9223372036854775807,"digest":"`+numbered(2).String()+`","platform":{"os":"\u0000"}}]}`))
			}
		}, "404", 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := b.newCase(t, fmt.Sprintf("acme/hostile%d", n))
			good, bad := k.push(t, "good"), k.push(t, "bad")
			for _, ref := range []name.Digest{good, bad} {
				must(t, errors.Join(k.actor.SignLegacy(t.Context(), ref, sandbox.NoProof), k.actor.SignBundle(t.Context(), ref, sandbox.NoProof)))
			}
			client, wire := newClient(t)
			wire.answer(tc.answer(t, k, bad))
			if strings.HasPrefix(tc.name, "names") {
				must(t, k.client.Delete(t.Context(), k.repo, verify.Tag(good.DigestStr(), inventory.Legacy)))
			}
			k.scan(t, client)
			problems := strings.Join(k.problems(t), "\n")
			if !strings.Contains(problems, tc.problem) || (problems == "") != (tc.problem == "") {
				t.Errorf("problems are %q, want one that says %q", problems, tc.problem)
			}
			wantEqual(t, "signatures of the bad image", len(k.signatures(t, bad)), tc.sigs)
			if !strings.HasPrefix(tc.name, "names") && !strings.HasPrefix(tc.name, "referrers that refer") {
				wantEqual(t, "formats of the good image", k.formats(t, good), "bundle legacy")
			}
			if n := len(k.artifacts(t)); n > 10 {
				t.Errorf("%d artifacts", n)
			}
		})
	}
	t.Cleanup(func() {
		if n := read.Load(); n == 0 || n > 64<<20 {
			t.Errorf("%d bytes of content without end were read", n)
		}
	})
}

// TestHostileCatalog has a registry that lists what are no repositories.
func TestHostileCatalog(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t, "acme/app")
	must(t, k.actor.SignLegacy(t.Context(), k.push(t, "v1"), sandbox.NoProof))
	k.wire.answer(func(req *http.Request) *http.Response {
		if kind(req.URL.Path) != "_catalog" {
			return nil
		}
		return reply(200, "application/json", strings.NewReader(`{"repositories":["acme/app","../x","A B","a\u0000b",""]}`))
	})
	r, err := k.scanner(k.client).Run(t.Context(), by, targets(k.Registry()))
	must(t, err)
	wantEqual(t, "result", r, Result{Repositories: 1, Artifacts: 1, Signatures: 1, Verified: 1, Problems: 1})
	if got := k.problems(t); len(got) != 1 || !strings.Contains(got[0], "4 of the names") {
		t.Errorf("problems: %q", got)
	}
	k.wire.answer(nil)
	r, err = k.scanner(k.client).Run(t.Context(), by, targets(k.Registry()))
	must(t, err)
	wantEqual(t, "problems once it is repaired", r.Problems, int64(0))
	wantEqual(t, "problems once it is repaired", k.problems(t), []string(nil))
}

// pushed is what somebody who can push, and no more, may try.
func pushed(t *testing.T, b *bench) {
	for n, tc := range []struct {
		name  string
		push  func(t *testing.T, k *kase, ref name.Digest) // between two scans
		after int                                          // signatures then
	}{
		{"signature manifest without layers", func(t *testing.T, k *kase, ref name.Digest) {
			image, _ := k.tagged(t, ref, inventory.Legacy)
			image.Layers = []v1.Descriptor{}
			k.retag(t, ref, inventory.LegacyAtt, image)
		}, 1},
		{"the same signature stripped of its proofs, after it", func(t *testing.T, k *kase, ref name.Digest) {
			image, _ := k.tagged(t, ref, inventory.Legacy)
			image.Layers = append(image.Layers, stripped(image.Layers[0]))
			k.retag(t, ref, inventory.Legacy, image)
		}, 1},
		{"the same signature stripped of its proofs, before it", func(t *testing.T, k *kase, ref name.Digest) {
			image, _ := k.tagged(t, ref, inventory.Legacy)
			image.Layers = []v1.Descriptor{stripped(image.Layers[0]), image.Layers[0]}
			k.retag(t, ref, inventory.Legacy, image)
		}, 1},
		{"the same signature stripped of its proofs, instead of it", func(t *testing.T, k *kase, ref name.Digest) {
			image, _ := k.tagged(t, ref, inventory.Legacy)
			image.Layers = []v1.Descriptor{stripped(image.Layers[0])}
			k.retag(t, ref, inventory.Legacy, image)
		}, 1},
		{"the signature behind an index, where cosign finds it", func(t *testing.T, k *kase, ref name.Digest) {
			_, m := k.tagged(t, ref, inventory.Legacy)
			k.put(t, verify.Tag(ref.DigestStr(), inventory.Legacy), string(types.OCIImageIndex), v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex,
				Manifests: []v1.Descriptor{{MediaType: types.MediaType(m.MediaType), Size: m.Size, Digest: hash(t, m.Digest)}}})
		}, 1},
		{"hostile annotations", func(t *testing.T, k *kase, ref name.Digest) {
			image, _ := k.tagged(t, ref, inventory.Legacy)
			for _, a := range []map[string]string{
				{"dev.sigstore.cosign/bundle": `{"Payload":{"body":5}}`}, {"dev.cosignproject.cosign/signature": "\x00%%%"},
				{"dev.sigstore.cosign/certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"}, {strings.Repeat("x", 1<<16): "\ud7ff"},
			} {
				l := image.Layers[0]
				l.Annotations = a
				image.Layers = append(image.Layers, l)
			}
			k.retag(t, ref, inventory.Legacy, image)
		}, 3}, // without any signature three of them are one
		{"a compressed layer that would be huge", func(t *testing.T, k *kase, ref name.Digest) {
			var bomb bytes.Buffer
			w := gzip.NewWriter(&bomb)
			_, err := io.Copy(w, io.LimitReader(endless{new(atomic.Int64)}, 16<<20))
			must(t, errors.Join(err, w.Close()))
			image, _ := k.tagged(t, ref, inventory.Legacy)
			l := k.blob(t, string(image.Layers[0].MediaType), bomb.Bytes())
			l.Annotations = image.Layers[0].Annotations
			image.Layers = append(image.Layers, l)
			k.retag(t, ref, inventory.Legacy, image)
		}, 2},
		{"statements that name no text", func(t *testing.T, k *kase, ref name.Digest) {
			statement := `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"\u0000","digest":{"sha256":"` + strings.TrimPrefix(ref.DigestStr(), "sha256:") + `"}}],"predicateType":"x\u0000\u001b[31m\ud800","predicate":{}}`
			envelope, err := json.Marshal(map[string]any{"payloadType": "application/vnd.in-toto+json", "payload": base64.StdEncoding.EncodeToString([]byte(statement)),
				"signatures": []any{map[string]string{"keyid": "\x00", "sig": "AAAA"}}})
			must(t, err)
			bundle := []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"\u0000"}},"dsseEnvelope":` + string(envelope) + `}`)
			image, _ := k.tagged(t, ref, inventory.Legacy)
			image.Config = k.blob(t, "application/vnd.oci.empty.v1+json", []byte("{}"))
			for mediaType, content := range map[string][]byte{"application/vnd.dev.sigstore.bundle.v0.3+json": bundle, "application/vnd.dsse.envelope.v1+json": envelope,
				"application/vnd.dev.sigstore.bundle+json;version=\u00009": []byte("{"), "application/vnd.dev.cosign.simplesigning.v1+json": nil} {
				image.Layers = []v1.Descriptor{k.blob(t, mediaType, content)}
				k.attach(t, ref, image)
			}
		}, 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := b.newCase(t, fmt.Sprintf("acme/attack%d", n))
			ref := k.push(t, "app")
			must(t, k.actor.SignLegacy(t.Context(), ref, sandbox.RekorV1|sandbox.Timestamp))
			k.scan(t, k.client)
			before := k.signatures(t, ref)[0]
			tc.push(t, k, ref)
			k.scan(t, k.client)
			journaled := k.journaled(t)
			k.scan(t, k.client)
			wantEqual(t, "seen by one more scan", k.sightings(t, journaled), []string(nil))
			after := k.signatures(t, ref)
			wantEqual(t, "signatures", len(after), tc.after)
			found := false
			for _, g := range after {
				if g.ID == before.ID {
					found = true
					wantEqual(t, "proofs of the signature", g.Bounds, before.Bounds)
				} else if g.Verified {
					t.Errorf("%s is verified", g.Format)
				}
				k.restorable(t, g)
			}
			wantEqual(t, "the signature is there", found, true)
			wantEqual(t, "problems", k.problems(t), []string(nil))
		})
	}
}

// stripped is a signature layer with nothing but the signature.
func stripped(l v1.Descriptor) v1.Descriptor {
	const signature = "dev.cosignproject.cosign/signature"
	l.Annotations = map[string]string{signature: l.Annotations[signature]}
	return l
}

// TestMemoryInFlight has many large attestations read at once.
func TestMemoryInFlight(t *testing.T) {
	t.Parallel()
	reg := &heavy{size: 60 << 20}
	s := Scanner{Registry: reg, Store: newStore(t), Verifier: reg, Parallel: 16}
	got, err := s.Run(t.Context(), by, targets("r.example/acme/app"))
	must(t, err)
	wantEqual(t, "signatures", got.Signatures, int64(heavies))
	if most := reg.most.Load(); most == 0 || most > maxMemory/4/reg.size+1 {
		t.Errorf("%d attestations of %d bytes were read at once", most, reg.size)
	}
}

const heavies = 12

// heavy is a registry of large attestations, none of which is really there.
type heavy struct {
	size      int64
	now, most atomic.Int64
}

func (h *heavy) Tags(context.Context, string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for n := range heavies {
			if !yield(verify.Tag(numbered(n).String(), inventory.LegacyAtt), nil) {
				return
			}
		}
	}
}

func (h *heavy) Manifest(_ context.Context, _, reference string) (registry.Manifest, error) {
	if !strings.HasSuffix(reference, ".att") {
		return registry.Manifest{}, registry.ErrNotFound
	}
	raw := fmt.Appendf(nil, `{"layers":[{"mediaType":"x","size":%d,"digest":%q}]}`, h.size, strings.TrimSuffix(strings.Replace(reference, "-", ":", 1), ".att"))
	return registry.Manifest{Digest: inventory.Digest(raw), MediaType: string(types.OCIManifestSchema1), Raw: raw, Size: int64(len(raw))}, nil
}

func (h *heavy) Head(context.Context, string, string, string) (string, error) {
	return "", registry.ErrNotFound
}

func (h *heavy) Blob(ctx context.Context, _, digest string, limit int64) ([]byte, error) {
	now := h.now.Add(1)
	for most := h.most.Load(); now > most && !h.most.CompareAndSwap(most, now); most = h.most.Load() {
	}
	runtime.Gosched()
	defer h.now.Add(-1)
	return []byte(digest), ctx.Err()
}

func (h *heavy) Referrers(context.Context, string, string) ([]v1.Descriptor, error) { return nil, nil }

func (h *heavy) ReferrersAPI(context.Context, string, string) ([]v1.Descriptor, error) {
	return nil, registry.ErrUnsupported
}

func (h *heavy) Stored(sub verify.Subject, f inventory.Format, _ map[string]string, content []byte) inventory.Signature {
	return inventory.Signature{ID: string(content), Repository: sub.Repository, Digest: sub.Digest, Format: f, Content: inventory.Digest(content)}
}
