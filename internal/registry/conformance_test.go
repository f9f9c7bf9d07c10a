package registry

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// traits is how registries differ where the specification lets them.
type traits struct {
	api        bool // has the referrers API
	monolithic bool // takes a blob in one request
}

func TestConformance(t *testing.T) {
	for name, r := range map[string]struct {
		start func(*testing.T) string
		traits
	}{
		"fake":         {func(t *testing.T) string { return serve(t, fakeHandler(false)) }, traits{monolithic: true}},
		"fake-api":     {func(t *testing.T) string { return serve(t, fakeHandler(true)) }, traits{api: true, monolithic: true}},
		"distribution": {serveDistribution, traits{}},
	} {
		t.Run(name, func(t *testing.T) { conformance(t, r.start(t), r.traits) })
	}
}

// conformance is what every registry must make of this client.
func conformance(t *testing.T, host string, is traits) {
	repo := host + "/acme/app"

	t.Run("content", func(t *testing.T) {
		c, rec, _ := newTestClient(t, Options{})
		img := image(t, c, repo, "v1")
		if n := count(rec.take(), "GET /v2/"); n != 1 {
			t.Errorf("%d pings, want 1", n)
		}
		m := must[Manifest](t)(c.Manifest(t.Context(), repo, "v1"))
		if m.Digest != img.Digest.String() || m.MediaType != ociManifest || m.Size != img.Size || digestOf(m.Raw) != m.Digest {
			t.Errorf("got %s %s %d", m.Digest, m.MediaType, m.Size)
		}
		if again := must[Manifest](t)(c.Manifest(t.Context(), repo, m.Digest)); string(again.Raw) != string(m.Raw) {
			t.Error("by digest the manifest is another")
		}
		blob := []byte("a blob")
		d := must[string](t)(c.PutBlob(t.Context(), repo, blob))
		if got := must[[]byte](t)(c.Blob(t.Context(), repo, d, 6)); string(got) != "a blob" {
			t.Errorf("blob = %q", got)
		}
		if _, err := c.Blob(t.Context(), repo, d, 5); !errors.Is(err, ErrTooLarge) {
			t.Errorf("a blob over the limit: %v", err)
		}
		big := make([]byte, 3<<20)
		d = must[string](t)(c.PutBlob(t.Context(), repo, big))
		if got := must[[]byte](t)(c.Blob(t.Context(), repo, d, 4<<20)); len(got) != len(big) {
			t.Errorf("a large blob came back with %d bytes", len(got))
		}
	})

	t.Run("head", func(t *testing.T) {
		c, rec, _ := newTestClient(t, Options{})
		img := image(t, c, repo, "head")
		rec.take()
		digest, other := img.Digest.String(), digestOf([]byte("other"))
		for _, known := range []string{"", other, digest} {
			for _, reference := range []string{"head", digest} {
				if got := must[string](t)(c.Head(t.Context(), repo, reference, known)); got != digest {
					t.Errorf("%s, known as %q: got %s, want %s", reference, known, got, digest)
				}
				if got, want := rec.take(), []string{"HEAD /v2/acme/app/manifests/" + reference}; !slices.Equal(got, want) {
					t.Errorf("%s, known as %q: %q, want %q", reference, known, got, want)
				}
			}
		}
		if _, err := c.Head(t.Context(), repo, "none", digest); !errors.Is(err, ErrNotFound) {
			t.Errorf("a tag that is not there: %v", err)
		}
	})

	t.Run("not found", func(t *testing.T) {
		c, _, _ := newTestClient(t, Options{})
		none := digestOf([]byte("none"))
		_, err1 := c.Manifest(t.Context(), repo, "none")
		_, err2 := c.Manifest(t.Context(), repo, none)
		_, err3 := c.Blob(t.Context(), repo, none, 10)
		_, err4 := collect(c.Tags(t.Context(), host+"/no/such"))
		for i, err := range []error{err1, err2, err3, err4} {
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("%d: %v, want ErrNotFound", i+1, err)
			}
		}
		if err := c.Delete(t.Context(), repo, none); err != nil {
			t.Errorf("deleting what is not there: %v", err)
		}
		if list, err := c.Referrers(t.Context(), host+"/no/such", none); err != nil || len(list) != 0 {
			t.Errorf("referrers of nothing: %v, %v", list, err)
		}
	})

	t.Run("listings", func(t *testing.T) {
		c, _, _ := newTestClient(t, Options{})
		many := host + "/many"
		want := []string{}
		for _, tag := range []string{"a", "b", "c"} {
			image(t, c, many, tag)
			want = append(want, tag)
		}
		if got := must[[]string](t)(collect(c.Tags(t.Context(), many))); !slices.Equal(got, want) {
			t.Errorf("tags %v, want %v", got, want)
		}
		if got := must[[]string](t)(collect(c.Repositories(t.Context(), host))); !slices.Contains(got, many) {
			t.Errorf("repositories %v, want %s among them", got, many)
		}
	})

	t.Run("attach", func(t *testing.T) {
		c, rec, _ := newTestClient(t, Options{})
		repo := host + "/attach"
		img := image(t, c, repo, "v1")
		must[string](t)(c.PutBlob(t.Context(), repo, []byte("{}")))
		rec.take()
		manifest, blob := bundleFor(t, img, "bundle one")
		must[string](t)(c.PutBlob(t.Context(), repo, blob))
		blobRequests := rec.take()
		wantBlob := 2
		if is.monolithic {
			wantBlob = 1
		}
		if len(blobRequests) != wantBlob {
			t.Errorf("PutBlob: %d requests %q, want %d", len(blobRequests), blobRequests, wantBlob)
		}
		d := attach(t, c, repo, manifest, img)
		tag := "/v2/attach/manifests/" + fallbackTag(img.Digest.String())
		want := []string{"PUT /v2/attach/manifests/" + d, "GET " + tag, "PUT " + tag}
		if got := rec.take(); !slices.Equal(got, want) {
			t.Errorf("Attach: %q, want %q", got, want)
		}
		attach(t, c, repo, manifest, img)
		if got := rec.take(); len(got) != 2 {
			t.Errorf("Attach again: %q, want no write of the index", got)
		}
		list := must[[]v1.Descriptor](t)(c.Referrers(t.Context(), repo, img.Digest.String()))
		if len(list) != 1 || list[0].Digest.String() != d || list[0].Annotations["dev.sigstore.bundle.content"] != "dsse-envelope" {
			t.Errorf("referrers = %+v", list)
		}
		first := rec.take()
		must[[]v1.Descriptor](t)(c.Referrers(t.Context(), repo, img.Digest.String()))
		second := rec.take()
		if is.api && (len(first) != 1 || len(second) != 1) || !is.api && (len(first) != 2 || len(second) != 1) {
			t.Errorf("Referrers: %q then %q", first, second)
		}
		alone, err := c.ReferrersAPI(t.Context(), repo, img.Digest.String())
		asked := rec.take()
		switch {
		case is.api && (err != nil || len(alone) != 1 || len(asked) != 1):
			t.Errorf("ReferrersAPI: %v, %v, %q", alone, err, asked)
		case !is.api && (!errors.Is(err, ErrUnsupported) || len(asked) != 0):
			t.Errorf("ReferrersAPI without one: %v, %v, %q", alone, err, asked)
		}
		t.Logf("requests: blob %d, attach 3, referrers %d then %d", len(blobRequests), len(first), len(second))
	})

	t.Run("detach", func(t *testing.T) {
		c, rec, _ := newTestClient(t, Options{})
		repo := host + "/detach"
		img := image(t, c, repo, "v1")
		must[string](t)(c.PutBlob(t.Context(), repo, []byte("{}")))
		var digests []string
		for _, content := range []string{"one", "two"} {
			manifest, blob := bundleFor(t, img, content)
			must[string](t)(c.PutBlob(t.Context(), repo, blob))
			digests = append(digests, attach(t, c, repo, manifest, img))
		}
		rec.take()
		for i, d := range digests {
			for range 2 { // the second time it is not there
				if err := c.Detach(t.Context(), repo, d, img.Digest.String()); err != nil {
					t.Fatal(err)
				}
			}
			list := must[[]v1.Descriptor](t)(c.Referrers(t.Context(), repo, img.Digest.String()))
			if len(list) != 1-i {
				t.Errorf("after detaching %d: %+v", i+1, list)
			}
			if _, err := c.Manifest(t.Context(), repo, d); !errors.Is(err, ErrNotFound) {
				t.Errorf("the referrer is still there: %v", err)
			}
		}
		// What was emptied takes entries again.
		manifest, _ := bundleFor(t, img, "one")
		attach(t, c, repo, manifest, img)
	})

	t.Run("an entry that lists what is gone", func(t *testing.T) {
		c, _, _ := newTestClient(t, Options{})
		repo := host + "/gone"
		img := image(t, c, repo, "v1")
		must[string](t)(c.PutBlob(t.Context(), repo, []byte("{}")))
		var digests []string
		for _, content := range []string{"one", "two", "three"} {
			manifest, blob := bundleFor(t, img, content)
			must[string](t)(c.PutBlob(t.Context(), repo, blob))
			digests = append(digests, attach(t, c, repo, manifest, img))
			if len(digests) == 2 { // deleted as by hand, without the index
				if err := c.Delete(t.Context(), repo, digests[1]); err != nil {
					t.Fatal(err)
				}
			}
		}
		list := must[[]v1.Descriptor](t)(c.Referrers(t.Context(), repo, img.Digest.String()))
		got := []string{}
		for _, d := range list {
			got = append(got, d.Digest.String())
		}
		slices.Sort(got)
		want := []string{digests[0], digests[2]}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("referrers %v, want %v", got, want)
		}
	})

	t.Run("delete tag", func(t *testing.T) {
		c, _, _ := newTestClient(t, Options{})
		img := image(t, c, repo, "gone")
		if err := c.Delete(t.Context(), repo, "gone"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Manifest(t.Context(), repo, "gone"); !errors.Is(err, ErrNotFound) {
			t.Errorf("the tag is still there: %v", err)
		}
		if _, err := c.Manifest(t.Context(), repo, img.Digest.String()); err != nil {
			t.Errorf("the manifest went with its tag: %v", err)
		}
	})

	t.Run("index keeps what it does not know", func(t *testing.T) {
		c, _, _ := newTestClient(t, Options{})
		repo := host + "/keep"
		img, other := image(t, c, repo, "v1"), image(t, c, repo, "v2")
		before := map[string]any{
			"schemaVersion": 2, "mediaType": ociIndex,
			"annotations": map[string]string{"a<b>&c": "ü 1.0"},
			"x-unknown":   map[string]any{"n": json.Number("12345678901234567890.10")},
			"manifests": []any{map[string]any{
				"mediaType": ociManifest, "digest": other.Digest.String(), "size": other.Size,
				"annotations": map[string]string{"k": "<v>"}, "x-more": []any{1, "two", nil},
				"artifactType": "application/x-unknown", "data": "e30=",
			}},
		}
		if _, _, err := c.PutManifest(t.Context(), repo, fallbackTag(img.Digest.String()), ociIndex, mustJSON(t, before)); err != nil {
			t.Fatal(err)
		}
		must[string](t)(c.PutBlob(t.Context(), repo, []byte("{}")))
		manifest, blob := bundleFor(t, img, "one")
		must[string](t)(c.PutBlob(t.Context(), repo, blob))
		d := attach(t, c, repo, manifest, img)
		read := func() map[string]any {
			m := must[Manifest](t)(c.Manifest(t.Context(), repo, fallbackTag(img.Digest.String())))
			return decode(t, m.Raw)
		}
		after := read()
		entries := after["manifests"].([]any)
		if len(entries) != 2 {
			t.Fatalf("entries: %v", entries)
		}
		after["manifests"] = entries[:1]
		if want := decode(t, mustJSON(t, before)); !reflect.DeepEqual(after, want) {
			t.Errorf("the index became\n%v\nwant\n%v", after, want)
		}
		if err := c.Detach(t.Context(), repo, d, img.Digest.String()); err != nil {
			t.Fatal(err)
		}
		if got, want := read(), decode(t, mustJSON(t, before)); !reflect.DeepEqual(got, want) {
			t.Errorf("after detaching the index is\n%v\nwant\n%v", got, want)
		}
	})

	t.Run("rehearsal", func(t *testing.T) {
		c, rec, _ := newTestClient(t, Options{})
		repo := host + "/dry"
		img := image(t, c, repo, "v1")
		rec.take()
		dry := ReadOnly(c)
		manifest, blob := bundleFor(t, img, "one")
		bd := must[string](t)(dry.PutBlob(t.Context(), repo, blob))
		d := attach(t, dry, repo, manifest, img)
		if err := dry.Detach(t.Context(), repo, d, img.Digest.String()); err != nil {
			t.Fatal(err)
		}
		if err := dry.Delete(t.Context(), repo, "v1"); err != nil {
			t.Fatal(err)
		}
		for _, line := range rec.take() {
			if !strings.HasPrefix(line, http.MethodGet) {
				t.Errorf("a rehearsal sent %s", line)
			}
		}
		got := dry.Would()
		subject := img.Digest.String()
		want := []Would{
			{"put blob", repo, bd, bd},
			{"attach", repo, subject, d},
			{"put manifest", repo, fallbackTag(subject), ""},
			{"delete referrer", repo, subject, d},
			{"delete", repo, "v1", ""},
		}
		if len(got) == len(want) {
			want[2].Digest = got[2].Digest
		}
		if !slices.Equal(got, want) {
			t.Fatalf("would:\n%v\nwant\n%v", got, want)
		}
		// The same for real writes what the rehearsal announced.
		must[string](t)(c.PutBlob(t.Context(), repo, []byte("{}")))
		must[string](t)(c.PutBlob(t.Context(), repo, blob))
		attach(t, c, repo, manifest, img)
		if m := must[Manifest](t)(c.Manifest(t.Context(), repo, fallbackTag(subject))); m.Digest != got[2].Digest {
			t.Errorf("the index is %s, announced was %s", m.Digest, got[2].Digest)
		}
	})
}

func attach(t *testing.T, c *Client, repo string, manifest []byte, subject v1.Descriptor) string {
	t.Helper()
	unlock, err := c.Serialise(t.Context(), repo, subject.Digest.String())
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	d := v1.Descriptor{ArtifactType: bundleType, Annotations: map[string]string{"dev.sigstore.bundle.content": "dsse-envelope"}}
	return must[string](t)(c.Attach(t.Context(), repo, manifest, ociManifest, d, subject.Digest.String()))
}

func decode(t *testing.T, raw []byte) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func count(lines []string, want string) (n int) {
	for _, l := range lines {
		if l == want {
			n++
		}
	}
	return n
}
