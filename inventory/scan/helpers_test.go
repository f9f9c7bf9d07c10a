package scan

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/verify"
)

const spdx = "https://spdx.dev/Document"

var (
	by        = journal.Author{Actor: "alice", Reason: "test"}
	errBroken = errors.New("it is broken")
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantEqual(t testing.TB, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\ngot  %+v\nwant %+v", what, got, want)
	}
}

// bench is a sandbox with one signer.
type bench struct {
	*sandbox.World
	old      string // the same registry without the referrers API
	actor    *sandbox.Actor
	verifier *verify.Verifier
}

func newBench(t testing.TB) *bench {
	t.Helper()
	w, err := sandbox.Start(t.Context(), sandbox.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, w.Close()) })
	b := &bench{World: w}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: w.Registry()})
	proxy.ModifyResponse = func(r *http.Response) error {
		r.Header.Del("OCI-Subject") // which promises a listing
		return nil
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/referrers/") {
			http.Error(w, "404 page not found", http.StatusNotFound)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	proxy.ErrorLog = s.Config.ErrorLog
	s.Start()
	t.Cleanup(s.Close)
	b.old = strings.TrimPrefix(s.URL, "http://")
	b.actor, err = w.NewActor("release")
	must(t, err)
	root, err := w.TrustedRoot()
	must(t, err)
	b.verifier, err = verify.New(verify.Trust{Root: root, Keys: []crypto.PublicKey{b.actor.PublicKey()}})
	must(t, err)
	return b
}

// kase is one repository and one store.
type kase struct {
	*bench
	*store.Store
	host       string
	path, repo string // without and with the registry
	client     *registry.Client
	wire       *wire
	judge      *judge
}

// judge counts verifications.
type judge struct {
	verify.Judge
	n atomic.Int64
}

func (j *judge) Stored(sub verify.Subject, f inventory.Format, annotations map[string]string, content []byte) inventory.Signature {
	j.n.Add(1)
	return j.Judge.Stored(sub, f, annotations, content)
}

func (b *bench) newCase(t testing.TB, path string) *kase { return b.newCaseAt(t, b.Registry(), path) }

func (b *bench) newCaseAt(t testing.TB, host, path string) *kase {
	t.Helper()
	k := &kase{bench: b, host: host, path: path, repo: host + "/" + path, Store: newStore(t), judge: &judge{Judge: b.verifier}}
	k.client, k.wire = newClient(t)
	return k
}

// now is when everything is seen: inventories are compared.
var now = time.Now()

func newStore(t testing.TB) *store.Store {
	t.Helper()
	s, err := store.Create(t.Context(), filepath.Join(t.TempDir(), "reseal.db"), func() time.Time { return now })
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

// wire counts the requests that pass, and answers some of them itself.
type wire struct {
	base http.RoundTripper

	mu    sync.Mutex
	count map[string]int // by "METHOD kind"
	act   func(*http.Request) *http.Response
}

func newClient(t testing.TB) (*registry.Client, *wire) {
	t.Helper()
	tr := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(tr.CloseIdleConnections)
	w := &wire{base: tr, count: map[string]int{}}
	return registry.New(registry.Options{Keychain: authn.NewMultiKeychain(), Transport: w}), w
}

func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	w.mu.Lock()
	act := w.act
	if req.URL.Scheme == "http" { // the ping tries TLS first
		w.count[req.Method+" "+kind(req.URL.Path)]++
	}
	w.mu.Unlock()
	if act != nil {
		if resp := act(req); resp != nil {
			resp.Request = req
			return resp, nil
		}
	}
	return w.base.RoundTrip(req)
}

func kind(path string) string {
	for _, k := range []string{"manifests", "blobs", "referrers", "tags"} {
		if strings.Contains(path, "/"+k+"/") {
			return k
		}
	}
	return strings.TrimPrefix(path, "/v2/")
}

// take returns the requests since the last call.
func (w *wire) take() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	count := w.count
	w.count = map[string]int{}
	delete(count, "GET ") // one ping
	return count
}

func (w *wire) answer(act func(*http.Request) *http.Response) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.act = act
}

func reply(status int, contentType string, body io.Reader, header ...string) *http.Response {
	h := http.Header{"Content-Type": {contentType}}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, ContentLength: -1, Body: io.NopCloser(body)}
}

func (k *kase) push(t testing.TB, tag string) name.Digest {
	t.Helper()
	ref, err := k.PushImage(t.Context(), k.path, tag, k.path+tag)
	must(t, err)
	return k.at(t, ref.DigestStr())
}

// at names a digest in the repository of the case.
func (k *kase) at(t testing.TB, digest string) name.Digest {
	t.Helper()
	ref, err := name.NewDigest(k.repo + "@" + digest)
	must(t, err)
	return ref
}

func (k *kase) scanner(reg Registry) Scanner {
	return Scanner{Registry: reg, Store: k.Store, Verifier: k.judge, Parallel: 2}
}

func (k *kase) scan(t testing.TB, reg Registry) Result {
	t.Helper()
	r, err := k.scanner(reg).Run(t.Context(), by, targets(k.repo))
	must(t, err)
	return r
}

func targets(list ...string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, t := range list {
			if !yield(t, nil) {
				return
			}
		}
	}
}

func (k *kase) signatures(t testing.TB, ref name.Digest) []inventory.Signature {
	t.Helper()
	all, err := k.SignaturesOf(t.Context(), inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr()}, "")
	must(t, err)
	return all
}

// formats are the formats of the signatures of an artifact that are there.
func (k *kase) formats(t testing.TB, ref name.Digest) string {
	t.Helper()
	var out []string
	for _, g := range k.signatures(t, ref) {
		out = append(out, string(g.Format))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (k *kase) artifacts(t testing.TB) map[string]inventory.Artifact {
	t.Helper()
	all, _, err := k.Artifacts(t.Context(), store.Selection{}, store.Place{}, 10_000)
	must(t, err)
	out := map[string]inventory.Artifact{}
	for _, a := range all {
		out[a.Digest] = a
	}
	return out
}

func (k *kase) problems(t testing.TB) (out []string) {
	t.Helper()
	all, err := k.Problems(t.Context())
	must(t, err)
	for _, p := range all {
		out = append(out, p.Reference+": "+p.Problem)
	}
	return out
}

// wantSame compares two dumps, and shows where they part.
func wantSame(t testing.TB, what, got, want string) {
	t.Helper()
	g, w := append(strings.Split(got, "\n"), ""), append(strings.Split(want, "\n"), "")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			t.Errorf("%s: line %d of %d:\ngot  %s\nwant %s", what, i+1, len(w)-1, g[i], w[i])
			return
		}
	}
}

// dump is all that a scan can put into an inventory, as text.
func dump(t testing.TB, s *store.Store) string {
	t.Helper()
	var lines []string
	artifacts, _, err := s.Artifacts(t.Context(), store.Selection{}, store.Place{}, 10_000)
	must(t, err)
	for _, a := range artifacts {
		lines = append(lines, fmt.Sprintf("%+v", a))
		all, err := s.SignaturesEver(t.Context(), a)
		must(t, err)
		for _, g := range all {
			raw, err := json.Marshal(g)
			must(t, err)
			lines = append(lines, string(raw))
			for _, digest := range []string{g.Manifest, g.Content} {
				if _, err := s.Vault(t.Context(), digest); err != nil {
					t.Errorf("signature %s: %v", g.ID, err)
				}
			}
		}
	}
	problems, err := s.Problems(t.Context())
	must(t, err)
	for _, p := range problems {
		lines = append(lines, fmt.Sprintf("%+v", p))
	}
	return strings.Join(lines, "\n")
}

// sightings lists what was seen since an entry of the journal.
func (k *kase) sightings(t testing.TB, from int64) (out []string) {
	t.Helper()
	for next := k.Journal(t.Context(), from); ; {
		line, err := next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		e, err := journal.ParseEntry(line)
		must(t, err)
		wantEqual(t, "action", e.Action, store.Sighted)
		list, err := k.Sightings(t.Context(), e.Digest)
		must(t, err)
		for _, s := range list {
			out = append(out, s.Action)
		}
	}
}

func (k *kase) journaled(t testing.TB) int64 {
	t.Helper()
	c, err := k.JournalCheckpoint(t.Context())
	must(t, err)
	return c.Size
}

// tagged returns the signature manifest of an image.
func (k *kase) tagged(t testing.TB, ref name.Digest, f inventory.Format) (v1.Manifest, registry.Manifest) {
	t.Helper()
	m, err := k.client.Manifest(t.Context(), k.repo, verify.Tag(ref.DigestStr(), f))
	must(t, err)
	var image v1.Manifest
	must(t, json.Unmarshal(m.Raw, &image))
	return image, m
}

// retag writes the signature manifest of an image.
func (k *kase) retag(t testing.TB, ref name.Digest, f inventory.Format, image v1.Manifest) {
	t.Helper()
	k.put(t, verify.Tag(ref.DigestStr(), f), string(image.MediaType), image)
}

func (k *kase) put(t testing.TB, reference, mediaType string, manifest any) (digest string) {
	t.Helper()
	raw, err := json.Marshal(manifest)
	must(t, err)
	digest, _, err = k.client.PutManifest(t.Context(), k.repo, reference, mediaType, raw)
	must(t, err)
	return digest
}

// attach makes a manifest refer to an image.
func (k *kase) attach(t testing.TB, ref name.Digest, image v1.Manifest) (digest string) {
	t.Helper()
	m, err := k.client.Manifest(t.Context(), k.repo, ref.DigestStr())
	must(t, err)
	hash, err := v1.NewHash(ref.DigestStr())
	must(t, err)
	image.Subject = &v1.Descriptor{MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: hash, Size: m.Size}
	raw, err := json.Marshal(image)
	must(t, err)
	unlock, err := k.client.Serialise(t.Context(), k.repo, ref.DigestStr())
	must(t, err)
	defer unlock()
	digest, err = k.client.Attach(t.Context(), k.repo, raw, string(image.MediaType), v1.Descriptor{ArtifactType: image.ArtifactType}, ref.DigestStr())
	must(t, err)
	return digest
}

// blob uploads content and returns its descriptor.
func (k *kase) blob(t testing.TB, mediaType string, content []byte) v1.Descriptor {
	t.Helper()
	digest, err := k.client.PutBlob(t.Context(), k.repo, content)
	must(t, err)
	hash, err := v1.NewHash(digest)
	must(t, err)
	return v1.Descriptor{MediaType: types.MediaType(mediaType), Digest: hash, Size: int64(len(content))}
}

// broken is a registry in which some things are not as they should be.
type broken struct {
	Registry
	manifests map[string]registry.Manifest // by reference, instead of what is there
	failing   map[string]error             // by reference, blob digest or "digest referrers"
	tags      error
	block     chan struct{} // a manifest asked for is told of it and waits for the end
}

func (b *broken) Manifest(ctx context.Context, repository, reference string) (registry.Manifest, error) {
	if b.block != nil {
		select {
		case b.block <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return registry.Manifest{}, ctx.Err()
	}
	if err := b.failing[reference]; err != nil {
		return registry.Manifest{}, err
	}
	if m, ok := b.manifests[reference]; ok {
		return m, nil
	}
	return b.Registry.Manifest(ctx, repository, reference)
}

func (b *broken) Head(ctx context.Context, repository, reference, known string) (string, error) {
	if b.block != nil || b.failing[reference] != nil || b.manifests[reference].Digest != "" {
		m, err := b.Manifest(ctx, repository, reference)
		return m.Digest, err
	}
	return b.Registry.Head(ctx, repository, reference, known)
}

func (b *broken) Blob(ctx context.Context, repository, digest string, limit int64) ([]byte, error) {
	if err := b.failing[digest]; err != nil {
		return nil, err
	}
	return b.Registry.Blob(ctx, repository, digest, limit)
}

func (b *broken) ReferrersAPI(ctx context.Context, repository, digest string) ([]v1.Descriptor, error) {
	list, err := b.Registry.ReferrersAPI(ctx, repository, digest)
	return list, errors.Join(err, b.failing[digest+" referrers"])
}

func (b *broken) Tags(ctx context.Context, repository string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for tag, err := range b.Registry.Tags(ctx, repository) {
			if !yield(tag, err) {
				return
			}
		}
		if b.tags != nil {
			yield("", b.tags)
		}
	}
}
