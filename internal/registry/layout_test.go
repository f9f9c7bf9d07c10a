package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ggcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/cosign/v2/pkg/oci"
	coslayout "github.com/sigstore/cosign/v2/pkg/oci/layout"
	cosmutate "github.com/sigstore/cosign/v2/pkg/oci/mutate"
	"github.com/sigstore/cosign/v2/pkg/oci/signed"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
)

// directory is a layout written by hand.
type directory struct {
	t       *testing.T
	dir     string
	entries []any
}

func newDirectory(t *testing.T) *directory {
	t.Helper()
	d := &directory{t: t, dir: t.TempDir(), entries: []any{}}
	d.file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)
	return d
}

func (d *directory) file(name, content string) {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
		d.t.Fatal(err)
	}
}

// blob writes a blob and returns its descriptor.
func (d *directory) blob(mediaType, content string) v1.Descriptor {
	d.t.Helper()
	digest := digestOf([]byte(content))
	d.file(blobPath(digest), content)
	return desc(d.t, mediaType, digest, len(content))
}

// list adds an entry to index.json, with annotations in pairs.
func (d *directory) list(e v1.Descriptor, annotations ...string) v1.Descriptor {
	entry := descriptor(string(e.MediaType), e.Digest.String(), int(e.Size))
	notes := map[string]string{}
	for i := 0; i+1 < len(annotations); i += 2 {
		notes[annotations[i]] = annotations[i+1]
	}
	entry["annotations"] = notes
	d.entries = append(d.entries, entry)
	return e
}

// image writes a manifest that differs by name.
func (d *directory) image(name string) v1.Descriptor {
	return d.blob(ociManifest, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"c","digest":%q,"size":0},"layers":[],"annotations":{"name":%q}}`,
		ociManifest, digestOf(nil), name))
}

func (d *directory) open() *Layout {
	d.t.Helper()
	d.file("index.json", string(mustJSON(d.t, map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": d.entries})))
	return openLayout(d.t, d.dir)
}

func openLayout(t *testing.T, dir string) *Layout {
	t.Helper()
	l := must[*Layout](t)(OpenLayout(dir))
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

const here = "anything"

func digestsOf(list []v1.Descriptor) (out []string) {
	for _, d := range list {
		out = append(out, d.Digest.String())
	}
	slices.Sort(out)
	return out
}

func TestLayout(t *testing.T) {
	t.Parallel()
	d := newDirectory(t)
	v1tag, bare, whole := d.list(d.image("tagged"), refName, "v1"), d.list(d.image("bare")), d.list(d.image("whole"), refName, "r.example/acme/app:v2")
	twin := d.list(d.image("twin"), refName, "v1")
	d.list(bare) // listed twice is listed once
	manifest, blob := bundleFor(t, v1tag, `{"a":"bundle"}`)
	d.blob(bundleType, string(blob))
	orphan := d.blob(ociManifest, string(manifest)) // as cosign v3 saves it: in no list
	manifest, _ = bundleFor(t, v1tag, `{"another":"bundle"}`)
	listed := d.list(d.blob(ociManifest, string(manifest))) // as oras copies it
	tagged := d.image("by tag")
	d.list(d.blob(ociIndex, string(mustJSON(t, v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{tagged, orphan}}))),
		refName, fallbackTag(v1tag.Digest.String()))
	l, ctx := d.open(), t.Context()

	tags := must[[]string](t)(collect(l.Tags(ctx, here)))
	want := []string{"v1", fallbackTag(v1tag.Digest.String()), fallbackTag(bare.Digest.String()), fallbackTag(whole.Digest.String()), fallbackTag(twin.Digest.String())}
	if !slices.Equal(tags, want) {
		t.Errorf("tags %v, want %v", tags, want)
	}
	for _, ref := range []string{"v1", v1tag.Digest.String()} {
		m, err := l.Manifest(ctx, here, ref)
		if err != nil || m.Digest != v1tag.Digest.String() || m.MediaType != ociManifest || digestOf(m.Raw) != m.Digest || m.Size != int64(len(m.Raw)) {
			t.Errorf("%s: %+v, %v", ref, m, err)
		}
		if head, err := l.Head(ctx, here, ref, ""); err != nil || head != m.Digest {
			t.Errorf("%s: head %s, %v", ref, head, err)
		}
	}
	if got := must[[]byte](t)(l.Blob(ctx, here, digestOf(blob), 100)); string(got) != string(blob) {
		t.Errorf("blob %s", got)
	}

	list := must[[]v1.Descriptor](t)(l.Referrers(ctx, here, v1tag.Digest.String()))
	if got, want := digestsOf(list), digestsOf([]v1.Descriptor{orphan, listed, tagged}); !slices.Equal(got, want) {
		t.Errorf("referrers %v, want %v", got, want)
	}
	at := slices.IndexFunc(list, func(r v1.Descriptor) bool { return r.Digest == orphan.Digest })
	if r := list[at]; r.ArtifactType != bundleType || r.Size != orphan.Size || r.MediaType != orphan.MediaType || r.Annotations["dev.sigstore.bundle.content"] != "dsse-envelope" {
		t.Errorf("described as %+v", r)
	}
	if list, err := l.ReferrersAPI(ctx, here, bare.Digest.String()); len(list) != 0 || err != nil {
		t.Errorf("referrers of what has none: %v, %v", list, err)
	}
	// The tag by which an artifact without a tag is found names its referrers.
	m, err := l.Manifest(ctx, here, fallbackTag(bare.Digest.String()))
	head, err2 := l.Head(ctx, here, fallbackTag(bare.Digest.String()), "")
	if err != nil || err2 != nil || head != m.Digest || m.Digest != digestOf(m.Raw) || m.MediaType != ociIndex || len(must[*v1.IndexManifest](t)(parseIndexManifest(m.Raw)).Manifests) != 0 {
		t.Errorf("%s: %+v, %v, %v", head, m, err, err2)
	}
}

func parseIndexManifest(raw []byte) (*v1.IndexManifest, error) {
	var m v1.IndexManifest
	return &m, json.Unmarshal(raw, &m)
}

func TestLayoutNotFound(t *testing.T) {
	t.Parallel()
	d := newDirectory(t)
	img := d.image("lost")
	d.list(img, refName, "v1")
	l, ctx, none := d.open(), t.Context(), digestOf([]byte("none"))
	if err := os.Remove(filepath.Join(d.dir, blobPath(img.Digest.String()))); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"v1", img.Digest.String(), "v2", none, fallbackTag(none), "sha256-x"} {
		if _, err := l.Manifest(ctx, here, ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", ref, err)
		}
		if _, err := l.Head(ctx, here, ref, ""); !errors.Is(err, ErrNotFound) {
			t.Errorf("head %s: %v, want ErrNotFound", ref, err)
		}
	}
	if _, err := l.Blob(ctx, here, none, 10); !errors.Is(err, ErrNotFound) {
		t.Errorf("blob: %v, want ErrNotFound", err)
	}
	var e *Error
	if _, err := l.Manifest(ctx, here, "v2"); !errors.As(err, &e) || e.Op != "get manifest" || e.Repository != here || e.Reference != "v2" || err.Error() != "get manifest anything:v2: not found" {
		t.Errorf("%v", err)
	}
	if list, err := l.Referrers(ctx, here, none); len(list) != 0 || err != nil {
		t.Errorf("%v, %v", list, err)
	}
	stopped, stop := context.WithCancel(ctx)
	stop()
	_, err1 := l.Manifest(stopped, here, "v1")
	_, err2 := l.Blob(stopped, here, none, 10)
	_, err3 := collect(d.open().Tags(stopped, here))
	for _, err := range []error{err1, err2, err3} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want %v", err, context.Canceled)
		}
	}
}

// TestLayoutSaved reads what cosign itself saves.
func TestLayoutSaved(t *testing.T) {
	t.Parallel()
	img := must[v1.Image](t)(random.Image(10, 1))
	sig := must[oci.Signature](t)(static.NewSignature([]byte("payload"), "c2ln"))
	att := must[oci.Signature](t)(static.NewAttestation([]byte(`{"payloadType":"x"}`)))
	check := func(t *testing.T, dir string, digest v1.Hash) {
		l := openLayout(t, dir)
		tags := must[[]string](t)(collect(l.Tags(t.Context(), here)))
		tag := fallbackTag(digest.String())
		if want := []string{tag + ".sig", tag + ".att", tag}; !slices.Equal(tags, want) {
			t.Fatalf("tags %v, want %v", tags, want)
		}
		for tag, want := range map[string]string{tag + ".sig": "payload", tag + ".att": `{"payloadType":"x"}`} {
			m := must[Manifest](t)(l.Manifest(t.Context(), here, tag))
			var image v1.Manifest
			if err := json.Unmarshal(m.Raw, &image); err != nil || len(image.Layers) != 1 {
				t.Fatalf("%s: %v, %s", tag, err, m.Raw)
			}
			if got := must[[]byte](t)(l.Blob(t.Context(), here, image.Layers[0].Digest.String(), 100)); string(got) != want {
				t.Errorf("%s: %s", tag, got)
			}
		}
		if m := must[Manifest](t)(l.Manifest(t.Context(), here, digest.String())); digestOf(m.Raw) != digest.String() {
			t.Errorf("the image is %s", m.Digest)
		}
	}
	t.Run("image", func(t *testing.T) {
		si := must[oci.SignedImage](t)(cosmutate.AttachSignatureToImage(signed.Image(img), sig))
		si = must[oci.SignedImage](t)(cosmutate.AttachAttestationToImage(si, att))
		dir := t.TempDir()
		if err := coslayout.WriteSignedImage(dir, si); err != nil {
			t.Fatal(err)
		}
		check(t, dir, must[v1.Hash](t)(img.Digest()))
	})
	t.Run("index", func(t *testing.T) {
		index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img})
		si := must[oci.SignedImageIndex](t)(cosmutate.AttachSignatureToImageIndex(signed.ImageIndex(index), sig))
		si = must[oci.SignedImageIndex](t)(cosmutate.AttachAttestationToImageIndex(si, att))
		dir := t.TempDir()
		if err := coslayout.WriteSignedImageIndex(dir, si); err != nil {
			t.Fatal(err)
		}
		check(t, dir, must[v1.Hash](t)(index.Digest()))
		child := must[v1.Hash](t)(img.Digest())
		if m := must[Manifest](t)(openLayout(t, dir).Manifest(t.Context(), here, child.String())); digestOf(m.Raw) != child.String() {
			t.Errorf("the child is %s", m.Digest)
		}
	})
	t.Run("written by go-containerregistry", func(t *testing.T) {
		dir := t.TempDir()
		p := must[ggcrlayout.Path](t)(ggcrlayout.Write(dir, empty.Index))
		if err := p.AppendImage(img, ggcrlayout.WithAnnotations(map[string]string{refName: "v1"})); err != nil {
			t.Fatal(err)
		}
		m := must[Manifest](t)(openLayout(t, dir).Manifest(t.Context(), here, "v1"))
		if want := must[v1.Hash](t)(img.Digest()); m.Digest != want.String() {
			t.Errorf("v1 is %s", m.Digest)
		}
	})
}

func TestLayoutRefused(t *testing.T) {
	t.Parallel()
	d, other := digestOf([]byte("x")), digestOf([]byte("y"))
	entry := func(mediaType, digest, notes string) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":1,"annotations":{%s}}`, mediaType, digest, notes)
	}
	const sigs, image = `"kind":"dev.cosignproject.cosign/sigs"`, `"kind":"dev.cosignproject.cosign/image"`
	for name, c := range map[string]struct {
		marker, index string
		kind          error
		says          string
	}{
		"no marker":           {index: `{"manifests":[]}`, kind: ErrNotFound, says: "is this an OCI layout?"},
		"marker is no JSON":   {marker: "x", index: `{"manifests":[]}`, kind: ErrMalformed, says: "imageLayoutVersion"},
		"version 2":           {marker: `{"imageLayoutVersion":"2.0.0"}`, index: `{"manifests":[]}`, kind: ErrMalformed, says: "1.0.0"},
		"no index":            {marker: "1", kind: ErrNotFound, says: "index.json"},
		"index is no JSON":    {marker: "1", index: `{"manifests":[`, kind: ErrMalformed, says: "index.json"},
		"index is an image":   {marker: "1", index: `{"mediaType":"` + ociManifest + `","manifests":[]}`, kind: ErrMalformed, says: "no image index"},
		"no manifests":        {marker: "1", index: `{}`, kind: ErrMalformed, says: "no list"},
		"manifests is null":   {marker: "1", index: `{"manifests":null}`, kind: ErrMalformed, says: "no list"},
		"manifests is object": {marker: "1", index: `{"manifests":{}}`, kind: ErrMalformed, says: "no list"},
		"entry is no object":  {marker: "1", index: `{"manifests":[5]}`, kind: ErrMalformed, says: "entry 1"},
		"entry without one":   {marker: "1", index: `{"manifests":[{}]}`, kind: ErrMalformed, says: "entry 1 has no digest"},
		"path in a digest":    {marker: "1", index: `{"manifests":[` + entry(ociManifest, "sha256:../../../etc/passwd", "") + `]}`, kind: ErrMalformed, says: "entry 1"},
		"odd algorithm":       {marker: "1", index: `{"manifests":[` + entry(ociManifest, "..:"+d[7:], "") + `]}`, kind: ErrMalformed, says: "entry 1"},
		"two media types":     {marker: "1", index: `{"manifests":[` + entry(ociManifest, d, "") + "," + entry(ociIndex, d, "") + `]}`, kind: ErrMalformed, says: "is listed as"},
		"signatures of none":  {marker: "1", index: `{"manifests":[` + entry(ociManifest, d, sigs) + `]}`, kind: ErrMalformed, says: "no image is before it"},
		"signatures twice": {marker: "1", index: `{"manifests":[` + entry(ociManifest, d, image) + "," + entry(ociManifest, other, sigs) + "," + entry(ociManifest, other, sigs) + `]}`,
			kind: ErrMalformed, says: "is a second sha256-"},
		"too many":  {marker: "1", index: `{"manifests":[` + strings.Repeat(`{"digest":"`+d+`"},`, maxLayoutEntries) + "{}]}", kind: ErrTooLarge, says: "entries"},
		"too large": {marker: "1", index: strings.Repeat(" ", maxLayoutIndex+1), kind: ErrTooLarge, says: "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := &directory{t: t, dir: t.TempDir()}
			switch c.marker {
			case "":
			case "1":
				dir.file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)
			default:
				dir.file("oci-layout", c.marker)
			}
			if c.index != "" {
				dir.file("index.json", c.index)
			}
			l, err := OpenLayout(dir.dir)
			if l != nil || !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), dir.dir) {
				t.Errorf("got %v, want %v that says %q", err, c.kind, c.says)
			}
		})
	}
	if l, err := OpenLayout(filepath.Join(t.TempDir(), "none")); l != nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

// TestAttack has a layout made to be read as something else, or to make
// its reader leave the directory.
func TestAttack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	outside := filepath.Join(t.TempDir(), "secret")
	manifest := `{"schemaVersion":2,"mediaType":"` + ociManifest + `","config":{"mediaType":"c","digest":"` + digestOf(nil) + `","size":0},"layers":[]}`
	if err := os.WriteFile(outside, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	digest := digestOf([]byte(manifest))
	entry := desc(t, ociManifest, digest, len(manifest))

	t.Run("link out of the directory", func(t *testing.T) {
		d := newDirectory(t)
		d.list(entry, refName, "v1")
		path := filepath.Join(d.dir, blobPath(digest))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(outside, path)); err != nil {
			t.Fatal(err)
		}
		l := d.open()
		if m, err := l.Manifest(ctx, here, "v1"); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "links are not followed") || m.Raw != nil {
			t.Errorf("%+v, %v", m, err)
		}
		if b, err := l.Blob(ctx, here, digest, 1<<20); !errors.Is(err, ErrMalformed) || b != nil {
			t.Errorf("%s, %v", b, err)
		}
		if _, err := l.Head(ctx, here, "v1", ""); !errors.Is(err, ErrMalformed) {
			t.Error(err)
		}
		if tags, err := collect(l.Tags(ctx, here)); err != nil || len(tags) != 1 {
			t.Errorf("%v, %v: one broken blob hides the rest", tags, err)
		}
	})
	t.Run("directory that is a link", func(t *testing.T) {
		d := newDirectory(t)
		d.list(entry, refName, "v1")
		elsewhere := newDirectory(t)
		elsewhere.blob(ociManifest, manifest)
		if err := os.Symlink(filepath.Join(elsewhere.dir, "blobs"), filepath.Join(d.dir, "blobs")); err != nil {
			t.Fatal(err)
		}
		if m, err := d.open().Manifest(ctx, here, "v1"); err == nil || m.Raw != nil {
			t.Errorf("%+v, %v", m, err)
		}
	})
	t.Run("index.json that is a link", func(t *testing.T) {
		d := newDirectory(t)
		if err := os.Symlink(outside, filepath.Join(d.dir, "index.json")); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenLayout(d.dir); !errors.Is(err, ErrMalformed) {
			t.Error(err)
		}
	})
	t.Run("pipe that never answers", func(t *testing.T) {
		d := newDirectory(t)
		path := filepath.Join(d.dir, blobPath(digest))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), syscall.Mkfifo(path, 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := d.open().Manifest(ctx, here, digest); !errors.Is(err, ErrMalformed) {
			t.Error(err)
		}
	})
	t.Run("path in a reference", func(t *testing.T) {
		l := newDirectory(t).open()
		for _, ref := range []string{"../../secret", "sha256:../../secret", "sha256:/" + outside, "..:" + digest[7:], "sha256:" + strings.ToUpper(digest[7:]), "", "sha512:" + digest[7:]} {
			for what, err := range map[string]error{
				"manifest":  second(l.Manifest(ctx, here, ref)),
				"head":      second(l.Head(ctx, here, ref, "")),
				"blob":      second(l.Blob(ctx, here, ref, 1<<20)),
				"referrers": second(l.Referrers(ctx, here, ref)),
			} {
				if !errors.Is(err, ErrMalformed) {
					t.Errorf("%s %q: %v, want ErrMalformed", what, ref, err)
				}
			}
		}
	})
	t.Run("content that is not what its digest says", func(t *testing.T) {
		d := newDirectory(t)
		d.list(entry, refName, "v1")
		d.file(blobPath(digest), strings.Replace(manifest, `"layers":[]`, `"layers":[],"subject":{"mediaType":"x","size":1,"digest":"`+digest+`"}`, 1))
		l := d.open()
		if _, err := l.Manifest(ctx, here, "v1"); !errors.Is(err, ErrDigest) {
			t.Error(err)
		}
		if _, err := l.Blob(ctx, here, digest, 1<<20); !errors.Is(err, ErrDigest) {
			t.Error(err)
		}
		if list, err := l.Referrers(ctx, here, digest); len(list) != 0 || err != nil {
			t.Errorf("what it is not refers to something: %v, %v", list, err)
		}
	})
	t.Run("two media types", func(t *testing.T) {
		d := newDirectory(t)
		img := d.image("x")
		img.MediaType = types.OCIImageIndex
		d.list(img, refName, "v1")
		if _, err := d.open().Manifest(ctx, here, "v1"); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "index.json says") {
			t.Error(err)
		}
	})
	t.Run("too large", func(t *testing.T) {
		d := newDirectory(t)
		big := d.blob(ociManifest, manifest+strings.Repeat(" ", maxManifest))
		d.list(big, refName, "v1")
		l := d.open()
		if _, err := l.Manifest(ctx, here, "v1"); !errors.Is(err, ErrTooLarge) {
			t.Error(err)
		}
		if _, err := l.Blob(ctx, here, big.Digest.String(), 10); !errors.Is(err, ErrTooLarge) {
			t.Error(err)
		}
		if b, err := l.Blob(ctx, here, big.Digest.String(), big.Size); err != nil || int64(len(b)) != big.Size {
			t.Errorf("%d, %v", len(b), err)
		}
	})
	t.Run("index within an index within an index", func(t *testing.T) {
		d := newDirectory(t)
		inner := d.image("x")
		for range 50 {
			inner = d.blob(ociIndex, string(mustJSON(t, v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{inner}})))
		}
		d.list(inner, refName, "v1")
		l := d.open()
		if m, err := l.Manifest(ctx, here, "v1"); err != nil || m.MediaType != ociIndex {
			t.Errorf("%+v, %v", m, err)
		}
		if tags, err := collect(l.Tags(ctx, here)); err != nil || !slices.Equal(tags, []string{"v1"}) {
			t.Errorf("%v, %v", tags, err)
		}
	})
	t.Run("referrers that are odd", func(t *testing.T) {
		d := newDirectory(t)
		img := d.list(d.image("x"), refName, "v1")
		good, _ := bundleFor(t, img, "{}")
		d.blob(ociManifest, string(good))
		d.blob(ociManifest, `{"subject":{"digest":5}}`)
		d.blob(ociManifest, `{"subject":{"digest":"`+img.Digest.String()+`"}}`) // of no kind
		d.blob(ociManifest, `{"subject":null,"layers":[]}`)
		d.blob(ociManifest, `[]`)
		d.file("blobs/sha256/short", "{}")
		d.file("blobs/sha256/"+strings.Repeat("a", 64)+"/x", "{}")
		list, err := d.open().Referrers(ctx, here, img.Digest.String())
		if want := []string{digestOf(good)}; err != nil || !slices.Equal(digestsOf(list), want) {
			t.Errorf("%v, %v, want %v", digestsOf(list), err, want)
		}
	})
	t.Run("manifest that does not say what it is", func(t *testing.T) {
		d := newDirectory(t)
		image, index := d.blob("", `{"schemaVersion":2,"config":{},"layers":[]}`), d.blob("", `{"schemaVersion":2,"manifests":[]}`)
		both, none := d.blob("", `{"layers":[],"manifests":[]}`), d.blob("", `{}`)
		l := d.open()
		for digest, want := range map[string]string{image.Digest.String(): ociManifest, index.Digest.String(): ociIndex} {
			if m, err := l.Manifest(ctx, here, digest); err != nil || m.MediaType != want {
				t.Errorf("%+v, %v, want %s", m, err, want)
			}
		}
		for _, digest := range []string{both.Digest.String(), none.Digest.String()} {
			if _, err := l.Manifest(ctx, here, digest); !errors.Is(err, ErrMalformed) {
				t.Error(err)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }

// FuzzLayoutIndex reads any index.json: it never panics, and what it lists can
// be asked for.
func FuzzLayoutIndex(f *testing.F) {
	d := digestOf([]byte("{}"))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"` + ociManifest + `","digest":"` + d + `","size":2,"annotations":{"org.opencontainers.image.ref.name":"v1"}}]}`))
	f.Add([]byte(`{"manifests":[{"digest":"` + d + `","annotations":{"kind":"dev.cosignproject.cosign/image"}},{"digest":"` + d + `","annotations":{"kind":"dev.cosignproject.cosign/sigs"}}]}`))
	f.Add([]byte(`{"manifests":[{"digest":"sha256:../../x"}]}`))
	f.Add([]byte(`{"manifests":null,"mediaType":5}`))
	dir := f.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755), os.WriteFile(filepath.Join(dir, blobPath(d)), []byte("{}"), 0o600)); err != nil {
		f.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		l := &Layout{root: root, tags: map[string]string{}, types: map[string]string{}}
		if err := l.parse(raw); err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
				t.Errorf("%v is of no kind", err)
			}
			return
		}
		seen := map[string]bool{}
		for tag, err := range l.Tags(t.Context(), here) {
			if err != nil {
				t.Fatal(err)
			}
			if !isTag(tag) || seen[tag] {
				t.Errorf("%q is no tag, or twice", tag)
			}
			seen[tag] = true
			if _, err := l.Head(t.Context(), here, tag, ""); err != nil && !errors.Is(err, ErrNotFound) {
				t.Errorf("%q: %v", tag, err)
			}
			if m, err := l.Manifest(t.Context(), here, tag); err == nil && digestOf(m.Raw) != m.Digest {
				t.Errorf("%q is not %s", tag, m.Digest)
			}
		}
	})
}
