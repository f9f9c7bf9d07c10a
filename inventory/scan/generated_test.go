package scan

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime/metrics"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/verify"
)

// generated is a registry of one repository with any number of images, each
// with one legacy signature. Nothing is kept of them but which is which.
type generated struct {
	n   int
	key *ecdsa.PrivateKey
	by  map[[8]byte]uint32 // the start of the digests of images and payloads
}

const generatedPage = 450 // images in one page of the list of tags

func newGenerated(t testing.TB, n int) *generated {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	g := &generated{n: n, key: key, by: make(map[[8]byte]uint32, 2*n)}
	for i := range uint32(n) {
		image := sha256.Sum256(g.image(i))
		payload := sha256.Sum256(g.payload(i))
		g.by[[8]byte(image[:])], g.by[[8]byte(payload[:])] = i, i
	}
	return g
}

func (g *generated) image(i uint32) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"sha256:%064x"},"layers":[]}`, i)
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

func (g *generated) payload(i uint32) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"registry.example/acme/app"},"image":{"docker-manifest-digest":"sha256:%s"},"type":"cosign container image signature"},"optional":null}`,
		digestOf(g.image(i)))
}

func (g *generated) signature(i uint32) ([]byte, error) {
	payload := g.payload(i)
	sum := sha256.Sum256(payload)
	sig, err := g.key.Sign(nil, sum[:], crypto.SHA256) // deterministic: each time the same manifest
	if err != nil {
		return nil, err
	}
	digest := hex.EncodeToString(sum[:])
	config := fmt.Sprintf(`{"architecture":"","created":"0001-01-01T00:00:00Z","history":[{"created":"0001-01-01T00:00:00Z"}],"os":"","rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"config":{}}`, digest)
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":%d,"digest":"sha256:%s"},"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":%d,"digest":"sha256:%s","annotations":{"dev.cosignproject.cosign/signature":"%s"}}]}`,
		len(config), digestOf([]byte(config)), len(payload), digest, base64.StdEncoding.EncodeToString(sig)), nil
}

func (g *generated) find(digest string) (uint32, bool) {
	raw, err := hex.DecodeString(digest)
	if err != nil || len(raw) != sha256.Size {
		return 0, false
	}
	i, ok := g.by[[8]byte(raw)]
	return i, ok
}

func (g *generated) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v2/acme/app/")
	ref := path[strings.LastIndexByte(path, '/')+1:]
	var content []byte
	var err error
	switch kind := strings.TrimSuffix(path, ref); {
	case r.URL.Path == "/v2/":
		return
	case path == "tags/list":
		g.list(w, r)
		return
	case kind == "manifests/" && strings.HasSuffix(ref, ".sig"):
		if i, ok := g.find(strings.TrimSuffix(strings.TrimPrefix(ref, "sha256-"), ".sig")); ok {
			content, err = g.signature(i)
		}
	case kind == "manifests/" && ref[0] == 'v':
		if i, bad := strconv.ParseUint(ref[1:], 10, 32); bad == nil && int(i) < g.n {
			content = g.image(uint32(i))
		}
	case kind == "blobs/":
		if i, ok := g.find(strings.TrimPrefix(ref, "sha256:")); ok {
			content = g.payload(i)
		}
	}
	if content == nil || err != nil {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	h := w.Header()
	h.Set("Docker-Content-Digest", "sha256:"+digestOf(content))
	h.Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	h.Set("Content-Length", strconv.Itoa(len(content)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(content)
	}
}

func (g *generated) list(w http.ResponseWriter, r *http.Request) {
	page, _ := strconv.Atoi(r.URL.Query().Get("page")) // none is the first
	if (page+1)*generatedPage < g.n {
		w.Header().Set("Link", fmt.Sprintf(`</v2/acme/app/tags/list?page=%d>; rel="next"`, page+1))
	}
	w.Header().Set("Content-Type", "application/json")
	sep := `{"tags":[`
	for i := page * generatedPage; i < min((page+1)*generatedPage, g.n); i++ {
		fmt.Fprintf(w, `%s"v%d","sha256-%s.sig"`, sep, i, digestOf(g.image(uint32(i))))
		sep = ","
	}
	fmt.Fprint(w, "]}")
}

// RoundTrip answers without a network.
func (g *generated) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "https" {
		return nil, http.ErrSchemeMismatch
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

func (g *generated) scan(ctx context.Context, t testing.TB, host string, transport http.RoundTripper, progress func(Progress)) Result {
	t.Helper()
	v, err := verify.New(verify.Trust{Keys: []crypto.PublicKey{g.key.Public()}})
	must(t, err)
	client := registry.New(registry.Options{Keychain: authn.NewMultiKeychain(), Transport: transport})
	s := Scanner{Registry: client, Store: newStore(t), Verifier: v, Progress: progress}
	r, err := s.Run(ctx, by, targets(host+"/acme/app"))
	must(t, err)
	problems, err := s.Store.Problems(ctx)
	must(t, err)
	if len(problems) > 0 {
		t.Errorf("problems: %+v", problems)
	}
	return r
}

// TestMemory scans ten times as many artifacts in the same memory. It does not
// run beside other tests.
func TestMemory(t *testing.T) {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	peak := func(n int) (most uint64) {
		g := newGenerated(t, n)
		r := g.scan(t.Context(), t, "127.0.0.1:1", g, func(Progress) {
			metrics.Read(live)
			most = max(most, live[0].Value.Uint64())
		})
		wantEqual(t, "result", r, Result{Repositories: 1, Artifacts: int64(n), Signatures: int64(n), Verified: int64(n)})
		return most
	}
	few, many := peak(150), peak(1500)
	t.Logf("live heap: %d KiB with 150 artifacts, %d KiB with 1500", few>>10, many>>10)
	if many > few+16<<20 {
		t.Errorf("the live heap grew from %d to %d bytes", few, many)
	}
}
