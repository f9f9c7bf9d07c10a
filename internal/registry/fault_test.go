package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// faulty is a fake registry with an image, behind a client that can be disturbed.
func faulty(t *testing.T) (c *Client, rec *recorder, slept func() []time.Duration, repo string, img v1.Descriptor) {
	t.Helper()
	c, rec, slept = newTestClient(t, Options{})
	repo = serve(t, fakeHandler(false)) + "/acme/app"
	img = image(t, c, repo, "v1")
	rec.take()
	return c, rec, slept, repo, img
}

func TestTooManyRequests(t *testing.T) {
	c, rec, slept, repo, _ := faulty(t)
	rec.inject("GET /v2/acme", 1, reply(429, "application/json", `{}`, "Retry-After", "7"))
	rec.inject("GET /v2/acme", 1, reply(429, "application/json", `{}`, "Retry-After", "86400"))
	rec.inject("GET /v2/acme", 1, reply(429, "application/json", `{}`))
	if _, err := c.Manifest(t.Context(), repo, "v1"); err != nil {
		t.Fatal(err)
	}
	got := slept()
	if len(got) != 3 || got[0] != 7*time.Second || got[1] != maxRetryAfter || got[2] > 2*time.Second {
		t.Errorf("slept %v", got)
	}

	if n := c.Retries(); n != 3 {
		t.Errorf("%d retries, want 3", n)
	}

	rec.inject("GET /v2/acme", 99, reply(429, "application/json", `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}`))
	rec.take()
	_, err := c.Manifest(t.Context(), repo, "v1")
	var e *Error
	if !errors.As(err, &e) || e.Status != 429 || !strings.Contains(err.Error(), "slow down") || !strings.Contains(err.Error(), "fewer at once") {
		t.Errorf("error: %v", err)
	}
	if n := len(rec.take()); n != maxAttempts {
		t.Errorf("%d attempts", n)
	}
	if got := slept()[3]; got < maxRetryAfter/2 {
		t.Errorf("the next request waited %v: the host had asked for silence", got)
	}
}

func TestRetryAfterDate(t *testing.T) {
	w := newWire(nil, 1)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	w.now = func() time.Time { return now }
	for value, want := range map[string]time.Duration{
		now.Add(5 * time.Second).Format(http.TimeFormat): 5 * time.Second,
		now.Add(time.Hour).Format(http.TimeFormat):       maxRetryAfter,
		"3": 3 * time.Second, "-1": -time.Second, "": 0, "soon": 0, "99999999999999": maxRetryAfter,
	} {
		if got := w.retryAfter(value); got != want {
			t.Errorf("Retry-After %q: %v, want %v", value, got, want)
		}
	}
}

func TestBursts(t *testing.T) {
	for name, act := range map[string]func(*http.Request, http.RoundTripper) (*http.Response, error){
		"503":          reply(503, "text/html", "<html>busy"),
		"502":          reply(502, "text/html", "<html>"),
		"reset before": resetBefore,
		"reset after":  resetAfter,
		"truncated": func(req *http.Request, base http.RoundTripper) (*http.Response, error) {
			resp, err := base.RoundTrip(req)
			if err == nil {
				resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("{"), brokenReader{}))
			}
			return resp, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, rec, _, repo, img := faulty(t)
			rec.inject("GET /v2/acme/app/manifests", 3, act)
			rec.inject("PUT /v2/acme/app/manifests/sha256", 3, act)
			rec.inject("POST /v2/acme", 3, act)
			if _, err := c.Manifest(t.Context(), repo, "v1"); err != nil {
				t.Errorf("reading: %v", err)
			}
			manifest, blob := bundleFor(t, img, name)
			if _, err := c.PutBlob(t.Context(), repo, blob); err != nil {
				t.Errorf("a blob: %v", err)
			}
			if _, _, err := c.PutManifest(t.Context(), repo, digestOf(manifest), ociManifest, manifest); err != nil {
				t.Errorf("a manifest by digest: %v", err)
			}
		})
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestTagWriteIsNotRepeatedBlindly(t *testing.T) {
	for name, f := range map[string]struct {
		act       func(*http.Request, http.RoundTripper) (*http.Response, error)
		happened  bool
		ambiguous bool
	}{
		"reset before": {resetBefore, false, true},
		"reset after":  {resetAfter, true, true},
		"503":          {reply(503, "text/plain", ""), false, true},
		"500":          {reply(500, "text/plain", ""), false, true},
		"refused":      {reply(400, "application/json", `{"errors":[{"code":"MANIFEST_INVALID","message":"no"}]}`), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			c, rec, _, repo, img := faulty(t)
			rec.inject("PUT /v2/acme/app/manifests/moved", 1, f.act)
			m := must[Manifest](t)(c.Manifest(t.Context(), repo, img.Digest.String()))
			rec.take()
			_, _, err := c.PutManifest(t.Context(), repo, "moved", ociManifest, m.Raw)
			if err == nil || errors.Is(err, ErrAmbiguous) != f.ambiguous {
				t.Fatalf("error: %v", err)
			}
			if n := len(rec.take()); n != 1 {
				t.Errorf("sent %d times", n)
			}
			if _, err := c.Manifest(t.Context(), repo, "moved"); (err == nil) != f.happened {
				t.Errorf("the tag: %v", err)
			}
		})
	}
	t.Run("429 is for the caller to wait for", func(t *testing.T) {
		c, rec, slept, repo, img := faulty(t)
		m := must[Manifest](t)(c.Manifest(t.Context(), repo, img.Digest.String()))
		rec.inject("PUT /v2/acme/app/manifests/moved", 1, reply(429, "text/plain", "", "Retry-After", "7"))
		rec.take()
		for range 2 { // refused, and then not even sent: the host wants silence
			_, _, err := c.PutManifest(t.Context(), repo, "moved", ociManifest, m.Raw)
			if !errors.Is(err, ErrThrottled) || errors.Is(err, ErrAmbiguous) {
				t.Errorf("error: %v", err)
			}
		}
		if n := len(rec.take()); n != 1 || len(slept()) != 0 {
			t.Errorf("sent %d times, and waited %v", n, slept())
		}
		if _, _, err := c.PutManifest(t.Context(), repo, img.Digest.String(), ociManifest, m.Raw); err != nil || len(slept()) == 0 {
			t.Errorf("by digest: %v, and waited %v", err, slept())
		}
	})
	t.Run("nothing listens", func(t *testing.T) {
		c, rec, slept, repo, img := faulty(t)
		m := must[Manifest](t)(c.Manifest(t.Context(), repo, img.Digest.String()))
		rec.inject("PUT /v2/acme/app/manifests/moved", 1, func(*http.Request, http.RoundTripper) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		})
		reads := 0
		if err := anew(t.Context(), c.wire.sleep, func() error {
			reads++
			_, _, err := c.PutManifest(t.Context(), repo, "moved", ociManifest, m.Raw)
			return err
		}); err != nil || reads != 2 || len(slept()) != 1 {
			t.Errorf("%v, after %d reads and %v", err, reads, slept())
		}
	})
	t.Run("cancelled in flight", func(t *testing.T) {
		c, rec, _, repo, img := faulty(t)
		ctx, cancel := context.WithCancel(t.Context())
		rec.inject("PUT /v2/acme/app/manifests/moved", 1, func(req *http.Request, _ http.RoundTripper) (*http.Response, error) {
			cancel()
			<-req.Context().Done()
			return nil, req.Context().Err()
		})
		m := must[Manifest](t)(c.Manifest(t.Context(), repo, img.Digest.String()))
		_, _, err := c.PutManifest(ctx, repo, "moved", ociManifest, m.Raw)
		if !errors.Is(err, ErrAmbiguous) || !errors.Is(err, context.Canceled) {
			t.Errorf("error: %v", err)
		}
	})
	t.Run("fallback index", func(t *testing.T) {
		c, rec, _, repo, img := faulty(t)
		must[string](t)(c.PutBlob(t.Context(), repo, []byte("{}")))
		manifest, _ := bundleFor(t, img, "one")
		rec.inject("PUT /v2/acme/app/manifests/sha256-", 1, resetAfter)
		d := v1.Descriptor{ArtifactType: bundleType}
		_, err := c.Attach(t.Context(), repo, manifest, ociManifest, d, img.Digest.String())
		if !errors.Is(err, ErrAmbiguous) {
			t.Fatalf("error: %v", err)
		}
		// Looking shows that it is there, and attaching again writes no index.
		list := must[[]v1.Descriptor](t)(c.Referrers(t.Context(), repo, img.Digest.String()))
		if len(list) != 1 {
			t.Errorf("referrers: %v", list)
		}
		rec.take()
		must[string](t)(c.Attach(t.Context(), repo, manifest, ociManifest, d, img.Digest.String()))
		if got := rec.take(); len(got) != 2 {
			t.Errorf("requests %q", got)
		}
	})
}

// TestFaultThrottledTag has another writer write between the read and the write
// of a list of referrers, which the registry then wants to have later: what that
// one wrote is not lost. One who is refused for good is told so.
func TestFaultThrottledTag(t *testing.T) {
	for name, header := range map[string][]string{"429": nil, "429 with Retry-After": {"Retry-After", "7"}} {
		t.Run(name, func(t *testing.T) {
			c, rec, slept, repo, img := faulty(t)
			c.wire.now = func() time.Time { // sleeping takes no time
				now := time.Now()
				for _, d := range slept() {
					now = now.Add(d)
				}
				return now
			}
			other, _, _ := newTestClient(t, Options{})
			must[string](t)(other.PutBlob(t.Context(), repo, []byte("{}")))
			manifest := func(what string) []byte {
				raw, _ := bundleFor(t, img, what)
				return raw
			}
			meanwhile := func(what string) {
				rec.inject("PUT /v2/acme/app/manifests/sha256-", 1, func(req *http.Request, base http.RoundTripper) (*http.Response, error) {
					attach(t, other, repo, manifest(what), img)
					return reply(429, "text/plain", "", header...)(req, base)
				})
			}
			listed := func(after string, want int) {
				t.Helper()
				if list := must[[]v1.Descriptor](t)(c.Referrers(t.Context(), repo, img.Digest.String())); len(list) != want {
					t.Errorf("%d referrers after %s, want %d", len(list), after, want)
				}
			}
			mine := manifest("mine")
			meanwhile("theirs")
			attach(t, c, repo, mine, img)
			listed("Attach", 2)

			extra := manifest("extra")
			l := must[Listing](t)(c.Listing(t.Context(), repo, img.Digest.String()))
			_, _, err := c.PutManifest(t.Context(), repo, digestOf(extra), ociManifest, extra)
			if err != nil {
				t.Fatal(err)
			}
			d := v1.Descriptor{Size: int64(len(extra)), Digest: must[v1.Hash](t)(v1.NewHash(digestOf(extra)))}
			meanwhile("theirs, too")
			if err := c.Extend(t.Context(), repo, img.Digest.String(), l, d); err != nil {
				t.Fatal(err)
			}
			listed("Extend", 4)

			meanwhile("theirs, again")
			if err := c.Detach(t.Context(), repo, digestOf(mine), img.Digest.String()); err != nil {
				t.Fatal(err)
			}
			listed("Detach", 4)
			if len(slept()) < 3 {
				t.Errorf("waited only %v", slept())
			}

			rec.inject("PUT /v2/acme/app/manifests/sha256-", 99, reply(429, "application/json", `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}`, header...))
			rec.take()
			d.Digest = img.Digest
			err = c.Extend(t.Context(), repo, img.Digest.String(), Listing{}, d)
			if err == nil || !strings.Contains(err.Error(), "slow down") || !strings.Contains(err.Error(), "fewer at once") {
				t.Errorf("error: %v", err)
			}
			if lines := slices.DeleteFunc(rec.take(), func(l string) bool { return !strings.HasPrefix(l, "PUT ") }); len(lines) != maxAttempts {
				t.Errorf("%d attempts: %q", len(lines), lines)
			}
		})
	}
}

// TestExtendOld adds to a list that was read long ago.
func TestExtendOld(t *testing.T) {
	c, _, _, repo, img := faulty(t)
	must[string](t)(c.PutBlob(t.Context(), repo, []byte("{}")))
	l := must[Listing](t)(c.Listing(t.Context(), repo, img.Digest.String()))
	l.at = l.at.Add(-2 * Old)
	theirs, _ := bundleFor(t, img, "theirs")
	attach(t, c, repo, theirs, img)
	mine, _ := bundleFor(t, img, "mine")
	if _, _, err := c.PutManifest(t.Context(), repo, digestOf(mine), ociManifest, mine); err != nil {
		t.Fatal(err)
	}
	d := v1.Descriptor{Size: int64(len(mine)), Digest: must[v1.Hash](t)(v1.NewHash(digestOf(mine)))}
	if err := c.Extend(t.Context(), repo, img.Digest.String(), l, d); err != nil {
		t.Fatal(err)
	}
	if list := must[[]v1.Descriptor](t)(c.Referrers(t.Context(), repo, img.Digest.String())); len(list) != 2 {
		t.Errorf("%d referrers, want 2", len(list))
	}
}

// An upload that is cut off at its last request is begun anew.
func TestUploadInTwoSteps(t *testing.T) {
	c, rec, _, repo, _ := faulty(t)
	big := make([]byte, maxMonolithic+1)
	rec.inject("PUT /v2/acme/app/blobs", 1, resetAfter)
	rec.inject("PUT /v2/acme/app/blobs", 1, resetBefore)
	d := must[string](t)(c.PutBlob(t.Context(), repo, big))
	if got := rec.take(); len(got) != 6 {
		t.Errorf("requests %q", got)
	}
	must[[]byte](t)(c.Blob(t.Context(), repo, d, 1<<20))
	rec.take()
	must[string](t)(c.PutBlob(t.Context(), repo, big))
	if got := rec.take(); len(got) != 0 {
		t.Errorf("uploaded again: %q", got)
	}
}

// A blob that was collected after its upload is uploaded again once a manifest was refused.
func TestRefusedManifestForgetsUploads(t *testing.T) {
	c, rec, _, repo, _ := faulty(t)
	must[string](t)(c.PutBlob(t.Context(), repo, []byte("{}")))
	rec.inject("PUT /v2/acme/app/manifests", 1, reply(400, "application/json", `{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}`))
	if _, _, err := c.PutManifest(t.Context(), repo, "x", ociManifest, []byte("{}")); err == nil {
		t.Fatal("no error")
	}
	rec.take()
	must[string](t)(c.PutBlob(t.Context(), repo, []byte("{}")))
	if got := rec.take(); len(got) != 1 {
		t.Errorf("requests %q", got)
	}
}

func TestLies(t *testing.T) {
	good := `{"schemaVersion":2,"mediaType":"` + ociManifest + `"}`
	digest := digestOf([]byte(good))
	other := digestOf([]byte("other"))
	for name, f := range map[string]struct {
		ref  string
		act  func(*http.Request, http.RoundTripper) (*http.Response, error)
		kind error
	}{
		"lying digest by tag":    {"v1", reply(200, ociManifest, good, "Docker-Content-Digest", other), ErrDigest},
		"lying digest by digest": {other, reply(200, ociManifest, good, "Docker-Content-Digest", other), ErrDigest},
		"oversized":              {"v1", reply(200, ociManifest, strings.Repeat(" ", maxManifest+1)), ErrTooLarge},
		"no JSON":                {"v1", reply(200, ociManifest, "what"), ErrMalformed},
		"page":                   {"v1", reply(200, "text/html; charset=utf-8", "<html>please log in"), ErrMalformed},
		"two media types":        {"v1", reply(200, ociIndex, good), ErrMalformed},
		"no media type":          {"v1", reply(200, "application/json", "{}"), ErrMalformed},
		"generic media type":     {digest, reply(200, "application/json", good), nil},
		"announced is right":     {"v1", reply(200, ociManifest, good, "Docker-Content-Digest", digest), nil},
	} {
		t.Run(name, func(t *testing.T) {
			c, rec, _, repo, _ := faulty(t)
			rec.inject("GET /v2/acme", 99, f.act)
			m, err := c.Manifest(t.Context(), repo, f.ref)
			if f.kind == nil {
				if err != nil || m.Digest != digest || m.MediaType != ociManifest {
					t.Errorf("%+v, %v", m, err)
				}
				return
			}
			if !errors.Is(err, f.kind) {
				t.Errorf("error: %v, want %v", err, f.kind)
			}
			if err != nil && (len(err.Error()) > 700 || !strings.Contains(err.Error(), repo)) {
				t.Errorf("error text: %v", err)
			}
		})
	}
	t.Run("written", func(t *testing.T) {
		c, rec, _, repo, _ := faulty(t)
		rec.inject("PUT /v2/acme", 1, reply(201, "", "", "Docker-Content-Digest", other))
		if _, _, err := c.PutManifest(t.Context(), repo, "v2", ociManifest, []byte(good)); !errors.Is(err, ErrDigest) {
			t.Errorf("error: %v", err)
		}
	})
	t.Run("blob", func(t *testing.T) {
		c, rec, _, repo, _ := faulty(t)
		rec.inject("GET /v2/acme", 1, reply(200, "", "not it"))
		if _, err := c.Blob(t.Context(), repo, other, 100); !errors.Is(err, ErrDigest) {
			t.Errorf("error: %v", err)
		}
	})
	t.Run("page with 404", func(t *testing.T) {
		c, rec, _, repo, _ := faulty(t)
		rec.inject("/v2/acme", 99, reply(404, "text/html", "<html>nothing here"))
		_, err := c.Manifest(t.Context(), repo, "v1")
		if err == nil || errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "web page") {
			t.Errorf("error: %v", err)
		}
		if err := c.Delete(t.Context(), repo, "v1"); err == nil {
			t.Error("deleting on a web page succeeded")
		}
	})
}

// TestHead has registries that answer HEAD in their own ways.
func TestHead(t *testing.T) {
	good := `{"schemaVersion":2,"mediaType":"` + ociManifest + `"}`
	digest, known := digestOf([]byte(good)), digestOf([]byte("known"))
	for name, f := range map[string]struct {
		head, get func(*http.Request, http.RoundTripper) (*http.Response, error)
		known     string
		want      string
		kind      error
		gets      int
	}{
		"announced":            {head: reply(200, ociManifest, "", "Docker-Content-Digest", digest), want: digest},
		"unchanged":            {head: reply(304, "", ""), known: known, want: known},
		"changed":              {head: reply(200, ociManifest, "", "Docker-Content-Digest", digest), known: known, want: digest},
		"304 nobody asked for": {head: reply(304, "", ""), kind: &Error{}},
		"no digest":            {head: reply(200, ociManifest, ""), get: reply(200, ociManifest, good), want: digest, gets: 1},
		"odd digest":           {head: reply(200, ociManifest, "", "Docker-Content-Digest", "sha256:xyz"), get: reply(200, ociManifest, good), known: known, want: digest, gets: 1},
		"another algorithm":    {head: reply(200, ociManifest, "", "Docker-Content-Digest", "sha512:"+strings.Repeat("0", 128)), get: reply(200, ociManifest, good), want: digest, gets: 1},
		"no HEAD":              {head: reply(405, "text/plain", ""), get: reply(200, ociManifest, good), want: digest, gets: 1},
		"no HEAD, and lies":    {head: reply(405, "text/plain", ""), get: reply(200, ociManifest, good, "Docker-Content-Digest", known), kind: ErrDigest, gets: 1},
		"gone":                 {head: reply(404, "application/json", ""), known: known, kind: ErrNotFound},
		"page":                 {head: reply(404, "text/html", ""), known: known, kind: &Error{}},
		"denied":               {head: reply(403, "application/json", ""), known: known, kind: ErrDenied},
	} {
		t.Run(name, func(t *testing.T) {
			c, rec, _, repo, _ := faulty(t)
			asked := ""
			rec.inject("HEAD /v2/acme", 1, func(req *http.Request, base http.RoundTripper) (*http.Response, error) {
				asked = req.Header.Get("If-None-Match")
				return f.head(req, base)
			})
			if f.get != nil {
				rec.inject("GET /v2/acme", 1, f.get)
			}
			got, err := c.Head(t.Context(), repo, "v1", f.known)
			var e *Error
			switch {
			case got != f.want:
				t.Errorf("got %q, want %q", got, f.want)
			case f.kind == nil && err != nil, f.kind != nil && !errors.As(err, &e):
				t.Errorf("error: %v", err)
			case f.kind != nil && !errors.As(f.kind, &e) && !errors.Is(err, f.kind):
				t.Errorf("error: %v, want %v", err, f.kind)
			}
			if errors.As(f.kind, &e) && errors.Is(err, ErrNotFound) {
				t.Errorf("not found, says %v", err)
			}
			if want := ""; f.known != "" {
				if want = `"` + f.known + `"`; asked != want {
					t.Errorf("If-None-Match %s, want %s", asked, want)
				}
			}
			if lines := rec.take(); len(lines) != 1+f.gets {
				t.Errorf("requests: %q", lines)
			}
		})
	}
	c, rec, _, repo, _ := faulty(t)
	for reference, known := range map[string]string{"../x": "", "v1": "sha256:\"\r\nx: y"} {
		if _, err := c.Head(t.Context(), repo, reference, known); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q, known as %q: %v, want ErrMalformed", reference, known, err)
		}
	}
	if lines := rec.take(); len(lines) != 0 {
		t.Errorf("requests: %q", lines)
	}
}

func TestReferrersAnswers(t *testing.T) {
	const empty = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`
	for name, f := range map[string]struct {
		act      func(*http.Request, http.RoundTripper) (*http.Response, error)
		kind     error
		fallback bool // the fallback tag is read
		known    bool // the answer tells whether there is an API
	}{
		"empty":              {reply(200, ociIndex, empty), nil, false, true},
		"404 text":           {reply(404, "text/plain", "404 page not found"), nil, true, true},
		"404 page":           {reply(404, "text/html", "<html>"), nil, true, true},
		"404 of a name":      {reply(404, "application/json", `{"errors":[{"code":"NAME_UNKNOWN"}]}`), nil, true, false},
		"405":                {reply(405, "text/plain", ""), nil, true, true},
		"400 unsupported":    {reply(400, "application/json", `{"errors":[{"code":"UNSUPPORTED"}]}`), nil, true, true},
		"400 otherwise":      {reply(400, "application/json", `{"errors":[{"code":"DIGEST_INVALID"}]}`), &Error{}, false, false},
		"403":                {reply(403, "application/json", `{"errors":[{"code":"DENIED"}]}`), ErrDenied, false, false},
		"500":                {reply(500, "text/plain", "x"), &Error{}, false, false},
		"page":               {reply(200, "text/html", "<html>"), ErrMalformed, false, false},
		"no index":           {reply(200, "application/json", `{"schemaVersion":2}`), ErrMalformed, false, false},
		"wrong content type": {reply(200, ociManifest, empty), ErrMalformed, false, false},
		"circle":             {reply(200, ociIndex, empty, "Link", `<?page=2>; rel="next"`), ErrMalformed, false, true},
		"elsewhere":          {reply(200, ociIndex, empty, "Link", `<http://169.254.169.254/x>; rel="next"`), ErrMalformed, false, true},
		"endless":            {endless(), ErrTooLarge, false, true},
		"odd entry":          {reply(200, ociIndex, `{"manifests":[{"digest":"md5:00"}]}`), ErrMalformed, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			c, rec, _, repo, img := faulty(t)
			rec.inject("/referrers/", 10000, f.act)
			_, err := c.Referrers(t.Context(), repo, img.Digest.String())
			var e *Error
			switch {
			case f.kind == nil && err != nil:
				t.Fatalf("error: %v", err)
			case f.kind != nil && !errors.As(err, &e):
				t.Fatalf("error: %v", err)
			case errors.As(f.kind, &e):
			case !errors.Is(err, f.kind):
				t.Fatalf("error: %v, want %v", err, f.kind)
			}
			read := slices.ContainsFunc(rec.take(), func(l string) bool { return strings.Contains(l, "/manifests/sha256-") })
			if read != f.fallback {
				t.Errorf("fallback read: %v", read)
			}
			at, _ := parseRepository(repo)
			if _, known := c.hasReferrers(at); known != f.known {
				t.Errorf("known: %v", known)
			}
			_, err = c.ReferrersAPI(t.Context(), repo, img.Digest.String())
			if errors.Is(err, ErrUnsupported) != (f.fallback && f.known) || errors.Is(err, ErrNotFound) != (f.fallback && !f.known) {
				t.Errorf("ReferrersAPI: %v", err)
			}
		})
	}
}

func endless() func(*http.Request, http.RoundTripper) (*http.Response, error) {
	var n atomic.Int64
	return func(req *http.Request, base http.RoundTripper) (*http.Response, error) {
		return reply(200, ociIndex, `{"manifests":[]}`, "Link", fmt.Sprintf(`<?page=%d>; rel="next"`, n.Add(1)))(req, base)
	}
}

func TestReferrersPages(t *testing.T) {
	c, rec, _, repo, img := faulty(t)
	entry := func(s string) string {
		return fmt.Sprintf(`{"manifests":[{"mediaType":%q,"size":1,"digest":%q},{"digest":7}]}`, ociManifest, digestOf([]byte(s)))
	}
	rec.inject("/referrers/", 1, reply(200, ociIndex, entry("1"), "Link", `</first,one>; rel="prev", </v2/acme/app/referrers/more?n=2,3>; foo="x"; rel=next`))
	rec.inject("/referrers/more", 1, reply(200, ociIndex, entry("2")))
	list, err := c.Referrers(t.Context(), repo, img.Digest.String())
	if len(list) != 2 || !errors.Is(err, ErrMalformed) {
		t.Errorf("%v, %v: want both good entries, and the odd ones reported", list, err)
	}
}

// A page that breaks off is not the end of the list, nor a registry without the API.
func TestReferrersPageLost(t *testing.T) {
	c, rec, _, repo, img := faulty(t)
	rec.inject("/referrers/sha256", 2, reply(200, ociIndex, `{"manifests":[]}`, "Link", `</v2/acme/app/referrers/more>; rel="next"`))
	rec.inject("/referrers/more", 2, reply(404, "application/json", `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`))
	for _, ask := range []func(context.Context, string, string) ([]v1.Descriptor, error){c.Referrers, c.ReferrersAPI} {
		rec.take()
		if list, err := ask(t.Context(), repo, img.Digest.String()); err == nil {
			t.Errorf("got %v and no error", list)
		}
		if lines := rec.take(); len(lines) != 2 {
			t.Errorf("requests: %q", lines)
		}
	}
}

func TestDescriptors(t *testing.T) {
	d := digestOf([]byte("x"))
	m := Manifest{Digest: d, Raw: []byte(`{"manifests":[{"digest":"` + d + `"},{"digest":5},null,{"digest":"` + d + `","size":3}]}`)}
	list, err := Descriptors("r.example/a", m)
	if len(list) != 2 || list[1].Size != 3 || !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "2 of the entries") {
		t.Errorf("%v, %v", list, err)
	}
	for _, raw := range []string{"", "{", "[]", `{"manifests":{}}`, `{"layers":[]}`} {
		if list, err := Descriptors("r.example/a", Manifest{Digest: d, Raw: []byte(raw)}); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v, %v", raw, list, err)
		}
	}
}

// What is under the fallback tag can be anything: whoever can push put it there.
func TestFallbackThatIsNoIndex(t *testing.T) {
	c, _, _, repo, img := faulty(t)
	m := must[Manifest](t)(c.Manifest(t.Context(), repo, img.Digest.String()))
	if _, _, err := c.PutManifest(t.Context(), repo, fallbackTag(img.Digest.String()), ociManifest, m.Raw); err != nil {
		t.Fatal(err)
	}
	must[string](t)(c.PutBlob(t.Context(), repo, []byte("{}")))
	manifest, _ := bundleFor(t, img, "one")
	if _, err := c.Referrers(t.Context(), repo, img.Digest.String()); !errors.Is(err, ErrMalformed) {
		t.Errorf("Referrers: %v", err)
	}
	d, err := c.Attach(t.Context(), repo, manifest, ociManifest, v1.Descriptor{}, img.Digest.String())
	if !errors.Is(err, ErrMalformed) {
		t.Errorf("Attach: %v", err)
	}
	if err := c.Detach(t.Context(), repo, d, img.Digest.String()); err != nil {
		t.Errorf("Detach: %v", err)
	}
	if _, err := c.Manifest(t.Context(), repo, d); !errors.Is(err, ErrNotFound) {
		t.Errorf("the referrer is still there: %v", err)
	}
}

func TestAttachWantsItsSubject(t *testing.T) {
	c, rec, _, repo, img := faulty(t)
	manifest, _ := bundleFor(t, img, "one")
	_, err := c.Attach(t.Context(), repo, manifest, ociManifest, v1.Descriptor{}, digestOf([]byte("other")))
	if !errors.Is(err, ErrMalformed) || len(rec.take()) != 0 {
		t.Errorf("error: %v", err)
	}
}

// A registry that indexes referrers says OCI-Subject, and then the fallback tag is left alone.
func TestAttachIndexed(t *testing.T) {
	c, rec, _, repo, img := faulty(t)
	manifest, _ := bundleFor(t, img, "one")
	rec.inject("PUT /v2/acme", 1, reply(201, "", "", "OCI-Subject", img.Digest.String()))
	must[string](t)(c.Attach(t.Context(), repo, manifest, ociManifest, v1.Descriptor{}, img.Digest.String()))
	if got := rec.take(); len(got) != 1 {
		t.Errorf("requests %q", got)
	}
}

func TestListings(t *testing.T) {
	names := make([]string, 2500)
	for i := range names {
		names[i] = fmt.Sprintf("t%05d", i)
	}
	for _, linked := range []bool{true, false} {
		t.Run(fmt.Sprintf("linked=%v", linked), func(t *testing.T) {
			h := func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v2/" {
					return
				}
				i, _ := slices.BinarySearch(names, r.FormValue("last")+"\x00")
				end := min(i+1000, len(names))
				if linked && end < len(names) {
					w.Header().Set("Link", fmt.Sprintf(`</v2/a/b/tags/list?n=1000&last=%s>; rel="next"`, names[end-1]))
				}
				json.NewEncoder(w).Encode(map[string]any{"tags": names[i:end]})
			}
			c, _, _ := newTestClient(t, Options{})
			got, err := collect(c.Tags(t.Context(), serve(t, http.HandlerFunc(h))+"/a/b"))
			if err != nil || !slices.Equal(got, names) {
				t.Errorf("%d tags, %v", len(got), err)
			}
		})
	}
	t.Run("a size the registry refuses", func(t *testing.T) {
		c, rec, _, repo, _ := faulty(t)
		rec.inject("tags/list", 1, reply(400, "application/json", `{"errors":[{"code":"PAGINATION_NUMBER_INVALID"}]}`))
		if got, err := collect(c.Tags(t.Context(), repo)); err != nil || !slices.Equal(got, []string{"v1"}) {
			t.Errorf("%v, %v", got, err)
		}
	})
	t.Run("begins anew", func(t *testing.T) { // a registry that ignores "last"
		c, rec, _, repo, _ := faulty(t)
		page := string(mustJSON(t, map[string]any{"tags": names[:1000]}))
		rec.inject("tags/list", 99, reply(200, "application/json", page))
		if got, err := collect(c.Tags(t.Context(), repo)); err != nil || len(got) != 1000 {
			t.Errorf("%d tags, %v", len(got), err)
		}
	})
	t.Run("pages by token, the last one full", func(t *testing.T) { // and in an order of its own
		c, rec, _, repo, _ := faulty(t)
		for i, link := range []string{`</v2/acme/app/tags/list?token=x>; rel="next"`, ""} {
			page := slices.Clone(names[i*1000 : (i+1)*1000])
			slices.Reverse(page)
			rec.inject("tags/list", 1, reply(200, "application/json", string(mustJSON(t, map[string]any{"tags": page})), "Link", link))
		}
		if got, err := collect(c.Tags(t.Context(), repo)); err != nil || len(got) != 2000 {
			t.Errorf("%d tags, %v", len(got), err)
		}
		if lines := rec.take(); len(lines) != 2 {
			t.Errorf("requests: %q", lines)
		}
	})
	t.Run("stops", func(t *testing.T) {
		c, _, _, repo, _ := faulty(t)
		for range c.Tags(t.Context(), repo) {
			break
		}
	})
}

func TestReferences(t *testing.T) {
	c, rec, _, repo, _ := faulty(t)
	for _, ref := range []string{"", "../x", "a/b", "sha256:12", "a?b", "-a", "sha256:" + strings.Repeat("g", 64), strings.Repeat("a", 129)} {
		if _, err := c.Manifest(t.Context(), repo, ref); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", ref, err)
		}
		if err := c.Delete(t.Context(), repo, ref); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	for _, repo := range []string{"", "acme", "acme/app", "localhost:5000", "127.0.0.1:5000/UP", "127.0.0.1:5000/"} {
		if _, err := c.Manifest(t.Context(), repo, "v1"); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", repo, err)
		}
	}
	if len(rec.take()) != 0 {
		t.Error("something was sent")
	}
	if got := fallbackTag("sha512:" + strings.Repeat("a", 128)); got != "sha512-"+strings.Repeat("a", 64) {
		t.Error(got)
	}
}

func TestPerHost(t *testing.T) {
	var now, most atomic.Int64
	h := fakeHandler(false)
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		time.Sleep(5 * time.Millisecond)
		h.ServeHTTP(w, r)
	}))
	c, rec, _ := newTestClient(t, Options{PerHost: 3})
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			c.PutBlob(t.Context(), fmt.Sprintf("%s/r%d", host, i%7), []byte{byte(i)})
		})
	}
	wg.Wait()
	if most.Load() != 3 {
		t.Errorf("%d at once, want 3", most.Load())
	}
	if lines := rec.take(); count(lines, "GET /v2/") != 1 || c.Requests() != int64(len(lines)) {
		t.Errorf("%d pings, %d requests, counted %d", count(lines, "GET /v2/"), len(lines), c.Requests())
	}
}

func TestSerialise(t *testing.T) {
	c := New(Options{})
	repo, d := "localhost:5000/a/b", digestOf(nil)
	n := 0
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			unlock, err := c.Serialise(t.Context(), repo, d)
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			defer unlock() // twice does no harm
			n++
		})
	}
	wg.Wait()
	if n != 50 || len(c.locks.held) != 0 {
		t.Errorf("n = %d, %d locks left", n, len(c.locks.held))
	}
	unlock, err := c.Serialise(t.Context(), repo, d)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	other, err := c.Serialise(t.Context(), repo, digestOf([]byte("other")))
	if err != nil {
		t.Fatal(err)
	}
	other()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Serialise(ctx, repo, d); !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v", err)
	}
}

// Sixteen writers on one subject lose nothing.
func TestSerialisedAttach(t *testing.T) {
	c, _, _, repo, img := faulty(t)
	must[string](t)(c.PutBlob(t.Context(), repo, []byte("{}")))
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			manifest, _ := bundleFor(t, img, fmt.Sprint(i))
			attach(t, c, repo, manifest, img)
		})
	}
	wg.Wait()
	if list := must[[]v1.Descriptor](t)(c.Referrers(t.Context(), repo, img.Digest.String())); len(list) != 16 {
		t.Errorf("%d referrers, want 16", len(list))
	}
}

// TestDeletionSwitchedOff tells a registry that deletes nothing from one that
// fails, also by the words of those that answer 400.
func TestDeletionSwitchedOff(t *testing.T) {
	t.Parallel()
	c, rec, _ := newTestClient(t, Options{})
	repo := serve(t, fakeHandler(true)) + "/acme/app"
	for name, tc := range map[string]struct {
		status int
		body   string
		want   bool
	}{
		"405":             {http.StatusMethodNotAllowed, "", true},
		"400 UNSUPPORTED": {http.StatusBadRequest, `{"errors":[{"code":"UNSUPPORTED","message":"no"}]}`, true},
		"400":             {http.StatusBadRequest, `{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}`, false},
		"403":             {http.StatusForbidden, "", false},
	} {
		rec.inject("DELETE", 1, reply(tc.status, "application/json", tc.body))
		err := c.Delete(t.Context(), repo, digestOf([]byte(name)))
		if err == nil || errors.Is(err, ErrUnsupported) != tc.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
