package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	fake "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	ociManifest = string(types.OCIManifestSchema1)
	ociIndex    = string(types.OCIImageIndex)
	bundleType  = "application/vnd.dev.sigstore.bundle.v0.3+json"
)

// recorder notes the requests that pass, and injects faults.
type recorder struct {
	base http.RoundTripper

	mu     sync.Mutex
	lines  []string
	faults []*fault
}

// fault acts in place of the first times requests that match "METHOD /path".
type fault struct {
	match string
	times int
	act   func(*http.Request, http.RoundTripper) (*http.Response, error)
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	line := req.Method + " " + req.URL.Path
	act := r.note(line, req.URL.Scheme)
	if act != nil {
		return act(req, r.base)
	}
	return r.base.RoundTrip(req)
}

func (r *recorder) note(line, scheme string) func(*http.Request, http.RoundTripper) (*http.Response, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if scheme != "https" { // the ping tries TLS first
		r.lines = append(r.lines, line)
	}
	for _, f := range r.faults {
		if f.times > 0 && strings.Contains(line, f.match) {
			f.times--
			return f.act
		}
	}
	return nil
}

// take returns the requests since the last call.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := r.lines
	r.lines = nil
	return lines
}

func (r *recorder) inject(match string, times int, act func(*http.Request, http.RoundTripper) (*http.Response, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, &fault{match, times, act})
}

func reply(status int, contentType, body string, header ...string) func(*http.Request, http.RoundTripper) (*http.Response, error) {
	return func(req *http.Request, _ http.RoundTripper) (*http.Response, error) {
		h := http.Header{"Content-Type": {contentType}}
		for i := 0; i+1 < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: status, Header: h, Request: req, ContentLength: -1,
			Body: io.NopCloser(strings.NewReader(body))}, nil
	}
}

func resetBefore(*http.Request, http.RoundTripper) (*http.Response, error) {
	return nil, &net.OpError{Op: "write", Net: "tcp", Err: errors.New("connection reset by peer")}
}

func resetAfter(req *http.Request, base http.RoundTripper) (*http.Response, error) {
	resp, err := base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	return nil, &net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")}
}

// newTestClient returns a client that does not sleep, its recorder, and the sleeps.
func newTestClient(t *testing.T, o Options) (*Client, *recorder, func() []time.Duration) {
	t.Helper()
	tr := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(tr.CloseIdleConnections)
	rec := &recorder{base: tr}
	o.Transport = rec
	if o.Keychain == nil {
		o.Keychain = authn.NewMultiKeychain()
	}
	c := New(o)
	var mu sync.Mutex
	var slept []time.Duration
	c.wire.sleep = func(ctx context.Context, d time.Duration) error {
		mu.Lock()
		defer mu.Unlock()
		slept = append(slept, d)
		return ctx.Err()
	}
	return c, rec, func() []time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return slept
	}
}

func fakeHandler(referrers bool) http.Handler {
	return fake.New(fake.Logger(log.New(io.Discard, "", 0)), fake.WithReferrersSupport(referrers))
}

func serve(t *testing.T, h http.Handler) (host string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// serveDistribution starts the real distribution registry on a free port.
func serveDistribution(t *testing.T) (host string) {
	t.Helper()
	binary, err := filepath.Abs("../../bin/peers/registry")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Skip("the distribution registry is not there: run make peers")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host = l.Addr().String()
	l.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"+
		"storage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: %s}\n", filepath.Join(dir, "data"), host)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for range 200 {
		if resp, err := http.Get("http://" + host + "/v2/"); err == nil {
			resp.Body.Close()
			return host
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the distribution registry does not answer")
	return ""
}

// image pushes a minimal image under a tag and returns its descriptor.
func image(t *testing.T, c *Client, repo, tag string) v1.Descriptor {
	t.Helper()
	config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"x":"` + tag + `"}`)
	digest, err := c.PutBlob(t.Context(), repo, config)
	if err != nil {
		t.Fatal(err)
	}
	raw := mustJSON(t, map[string]any{
		"schemaVersion": 2, "mediaType": ociManifest,
		"config": descriptor("application/vnd.oci.image.config.v1+json", digest, len(config)),
		"layers": []any{},
	})
	digest, _, err = c.PutManifest(t.Context(), repo, tag, ociManifest, raw)
	if err != nil {
		t.Fatal(err)
	}
	return desc(t, ociManifest, digest, len(raw))
}

// bundleFor returns a bundle manifest about a subject and the blob it refers to.
func bundleFor(t *testing.T, subject v1.Descriptor, content string) (manifest, blob []byte) {
	t.Helper()
	blob = []byte(content)
	return mustJSON(t, map[string]any{
		"schemaVersion": 2, "mediaType": ociManifest, "artifactType": bundleType,
		"config":      descriptor("application/vnd.oci.empty.v1+json", digestOf([]byte("{}")), 2),
		"layers":      []any{descriptor(bundleType, digestOf(blob), len(blob))},
		"subject":     subject,
		"annotations": map[string]string{"dev.sigstore.bundle.content": "dsse-envelope"},
	}), blob
}

func descriptor(mediaType, digest string, size int) map[string]any {
	return map[string]any{"mediaType": mediaType, "digest": digest, "size": size}
}

func desc(t *testing.T, mediaType, digest string, size int) v1.Descriptor {
	t.Helper()
	h, err := v1.NewHash(digest)
	if err != nil {
		t.Fatal(err)
	}
	return v1.Descriptor{MediaType: types.MediaType(mediaType), Digest: h, Size: int64(size)}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func collect(seq iter.Seq2[string, error]) (list []string, err error) {
	for v, err := range seq {
		if err != nil {
			return list, err
		}
		list = append(list, v)
	}
	return list, nil
}
