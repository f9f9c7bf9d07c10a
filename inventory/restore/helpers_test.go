package restore

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
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
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

const (
	spdx = "https://spdx.dev/Document"
	vex  = "https://openvex.dev/ns/v0.2.0"

	ociManifest = string(types.OCIManifestSchema1)
	emptyType   = types.MediaType("application/vnd.oci.empty.v1+json")
)

var by = journal.Author{Actor: "alice", Reason: "test"}

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

// bench is a sandbox with two good signers and a rogue one, and its registry
// once more without a referrers API. Its tests use repositories of their own.
type bench struct {
	*sandbox.World
	good, other, rogue *sandbox.Actor
	plain              string // host of the registry without a referrers API
}

func newBench(t testing.TB) *bench {
	t.Helper()
	w, err := sandbox.Start(t.Context(), sandbox.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, w.Close()) })
	b := &bench{World: w}
	for name, actor := range map[string]**sandbox.Actor{"good": &b.good, "other": &b.other, "rogue": &b.rogue} {
		*actor, err = w.NewActor(name)
		must(t, err)
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: w.Registry()})
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	proxy.ModifyResponse = func(r *http.Response) error {
		r.Header.Del("OCI-Subject")
		return nil
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/referrers/") {
			http.NotFound(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	b.plain = strings.TrimPrefix(s.URL, "http://")
	return b
}

// kase is one store and one repository.
type kase struct {
	*bench
	*store.Store
	file   string
	path   string // of the repository
	api    bool
	client *registry.Client
	trust  *verify.Verifier
}

func (b *bench) newCase(t testing.TB, api bool) *kase {
	t.Helper()
	k := &kase{bench: b, file: filepath.Join(t.TempDir(), "reseal.db"), path: "acme/" + strings.ToLower(rand.Text()), api: api, client: newClient()}
	var err error
	k.Store, err = store.Create(t.Context(), k.file, time.Now)
	must(t, err)
	t.Cleanup(func() { must(t, k.Store.Close()) })
	root, err := b.TrustedRoot()
	must(t, err)
	k.state(t, b.good, signer.Active)
	k.state(t, b.other, signer.Old)
	k.trust, err = verify.New(verify.Trust{Root: root, Keys: []crypto.PublicKey{b.good.PublicKey(), b.other.PublicKey(), b.rogue.PublicKey()}})
	must(t, err)
	return k
}

func newClient() *registry.Client {
	return registry.New(registry.Options{Keychain: authn.NewMultiKeychain()})
}

func (k *kase) host() string {
	if k.api {
		return k.Registry()
	}
	return k.plain
}

// push pushes an image and returns it as the case's registry names it.
func (k *kase) push(t testing.TB, seed string) name.Digest {
	t.Helper()
	ref, err := k.PushImage(t.Context(), k.path, seed, k.path+seed)
	must(t, err)
	repo, err := name.NewRepository(k.host() + "/" + k.path)
	must(t, err)
	return repo.Digest(ref.DigestStr())
}

// all signs an image in every way there is.
func (k *kase) all(t testing.TB, ref name.Digest, a *sandbox.Actor) {
	t.Helper()
	ctx := t.Context()
	must(t, errors.Join(a.SignLegacy(ctx, ref, sandbox.RekorV1), a.AttestLegacy(ctx, ref, spdx, map[string]any{"name": "a <b> & c"}, sandbox.NoProof),
		a.SignBundle(ctx, ref, sandbox.Timestamp), a.AttestBundle(ctx, ref, spdx, nil, sandbox.NoProof)))
}

// refer attaches the layers of a signature tag as cosign's experimental OCI 1.1
// referrers have them.
func (k *kase) refer(t testing.TB, ref name.Digest, f inventory.Format) {
	t.Helper()
	raw, ok := k.tag(t, ref.Context().Name(), verify.Tag(ref.DigestStr(), f))
	if !ok {
		t.Fatal("there is nothing to refer with")
	}
	k.attach(t, ref, raw, func(m *v1.Manifest) {
		m.Annotations = map[string]string{"by": "test"}
		m.ArtifactType = "application/vnd.dev.cosign.artifact.sig.v1+json"
		m.Config.MediaType = types.MediaType(m.ArtifactType)
		if f == inventory.LegacyAtt {
			m.ArtifactType, m.Config = "application/vnd.in-toto+json", k.empty(t, ref)
		}
	})
}

// empty puts an empty configuration beside an image.
func (k *kase) empty(t testing.TB, ref name.Digest) v1.Descriptor {
	t.Helper()
	d, err := k.client.PutBlob(t.Context(), ref.Context().Name(), []byte("{}"))
	must(t, err)
	h, err := v1.NewHash(d)
	must(t, err)
	return v1.Descriptor{MediaType: emptyType, Size: 2, Digest: h}
}

func (k *kase) attach(t testing.TB, ref name.Digest, raw []byte, change func(*v1.Manifest)) string {
	t.Helper()
	var m v1.Manifest
	must(t, json.Unmarshal(raw, &m))
	subject, err := v1.NewHash(ref.DigestStr())
	must(t, err)
	m.Subject = &v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: subject, Size: 1}
	change(&m)
	raw, err = json.Marshal(m)
	must(t, err)
	d, err := k.client.Attach(t.Context(), ref.Context().Name(), raw, ociManifest, v1.Descriptor{ArtifactType: m.ArtifactType}, ref.DigestStr())
	must(t, err)
	return d
}

// tag returns the manifest that a tag names.
func (k *kase) tag(t testing.TB, repository, tag string) ([]byte, bool) {
	t.Helper()
	m, err := k.client.Manifest(t.Context(), repository, tag)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, false
	}
	must(t, err)
	return m.Raw, true
}

// standing returns what stands in a registry on an image: the manifests, by
// tag or by digest.
func (k *kase) standing(t testing.TB, repository, digest string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, f := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt} {
		if raw, ok := k.tag(t, repository, verify.Tag(digest, f)); ok {
			out[string(f)] = string(raw)
		}
	}
	list, err := k.client.Referrers(t.Context(), repository, digest)
	must(t, err)
	for _, d := range list {
		m, err := k.client.Manifest(t.Context(), repository, d.Digest.String())
		must(t, err)
		if out[m.Digest] != "" {
			t.Errorf("%s is listed twice", m.Digest)
		}
		out[m.Digest] = string(m.Raw)
	}
	return out
}

// digests says what stands somewhere in few words.
func digests(standing map[string]string) map[string]string {
	out := map[string]string{}
	for what, raw := range standing {
		out[what] = inventory.Digest([]byte(raw))[7:19]
	}
	return out
}

// found reads every signature that stands on an image.
func (k *kase) found(t testing.TB, ref name.Digest, location string) []verify.Found {
	t.Helper()
	f := verify.Fetcher{Registry: k.client, Verifier: k.trust, Location: location}
	got := f.Signatures(t.Context(), subject(ref), verify.Everywhere)
	for _, p := range got.Problems {
		t.Errorf("%s: %s", p.Reference, p.Problem)
	}
	return got.Found
}

func subject(ref name.Digest) verify.Subject {
	return verify.Subject{Repository: ref.Context().Name(), Digest: ref.DigestStr()}
}

// ids returns how often each signature stands on an image.
func (k *kase) ids(t testing.TB, ref name.Digest) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, f := range k.found(t, ref, "") {
		out[f.ID]++
	}
	return out
}

// ingest enters an image and what stands on it into the inventory, as a scan
// does.
func (k *kase) ingest(t testing.TB, ref name.Digest, location string) []inventory.Signature {
	t.Helper()
	m, err := k.client.Manifest(t.Context(), ref.Context().Name(), ref.DigestStr())
	must(t, err)
	f := verify.Fetcher{Registry: k.client, Verifier: k.trust, Location: location}
	got := f.Signatures(t.Context(), subject(ref), verify.Everywhere)
	var out []inventory.Signature
	must(t, k.Update(t.Context(), by, func(tx *store.Tx) error {
		err := tx.PutArtifact(t.Context(), inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr(), MediaType: m.MediaType, Size: m.Size})
		for _, h := range got.Holders {
			_, vaultErr := tx.PutVault(t.Context(), h.Raw)
			err = errors.Join(err, vaultErr)
		}
		for _, f := range got.Found {
			_, vaultErr := tx.PutVault(t.Context(), f.Content)
			err = errors.Join(err, vaultErr, tx.PutSignature(t.Context(), f.Signature))
			out = append(out, f.Signature)
		}
		return err
	}))
	return out
}

// gone marks every signature of an image as gone.
func (k *kase) gone(t testing.TB, ref name.Digest, location string) {
	t.Helper()
	must(t, k.Update(t.Context(), by, func(tx *store.Tx) error {
		return tx.KeepSignatures(t.Context(), ref.Context().Name(), ref.DigestStr(), location, inventory.Formats(), nil)
	}))
}

func (k *kase) countGone(t testing.TB, ref name.Digest) (n int) {
	t.Helper()
	list, err := k.SignaturesEver(t.Context(), inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr()})
	must(t, err)
	for _, s := range list {
		if s.Gone {
			n++
		}
	}
	return n
}

// wipe takes everything off an image: manifests, tags and blobs.
func (k *kase) wipe(t testing.TB, repository, digest string) {
	t.Helper()
	for _, raw := range k.standing(t, repository, digest) {
		k.wipeBlobs(t, repository, []byte(raw))
		must(t, k.client.Delete(t.Context(), repository, inventory.Digest([]byte(raw))))
	}
	fallback := strings.Replace(digest, ":", "-", 1)
	must(t, k.client.Delete(t.Context(), repository, fallback))
	if left := k.standing(t, repository, digest); len(left) > 0 {
		t.Fatalf("still there: %v", left)
	}
}

func (k *kase) wipeBlobs(t testing.TB, repository string, manifest []byte) {
	t.Helper()
	var m v1.Manifest
	must(t, json.Unmarshal(manifest, &m))
	for _, d := range append(m.Layers, m.Config) {
		if d.Digest.String() == inventory.Digest([]byte("{}")) {
			continue // the sandbox shares its blobs, and other tests need this one
		}
		k.deleteBlob(t, repository, d.Digest.String())
	}
}

func (k *kase) deleteBlob(t testing.TB, repository, digest string) {
	t.Helper()
	if has, err := k.client.HasBlob(t.Context(), repository, digest); err != nil || !has {
		must(t, err)
		return
	}
	host, path, _ := strings.Cut(repository, "/")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, "http://"+host+"/v2/"+path+"/blobs/"+digest, nil)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		t.Fatalf("deleting a blob: %s", resp.Status)
	}
}

// state enrols a signer in a state.
func (k *kase) state(t testing.TB, a *sandbox.Actor, s signer.State) {
	t.Helper()
	id, err := signer.OfKey(a.PublicKey())
	must(t, err)
	must(t, k.Update(t.Context(), by, func(tx *store.Tx) error {
		return tx.PutSigner(t.Context(), signer.Record{Identity: id, Name: a.Name(), State: s, PublicKey: a.PublicKeyPEM()})
	}))
}

// restore restores the case's repository.
func (k *kase) restore(t testing.TB, reg Registry, apply bool, change ...func(*Options)) (Result, []Item) {
	t.Helper()
	var items []Item
	o := Options{Verifier: k.trust, Report: func(i Item) { items = append(items, i) },
		Selection: store.Selection{Repository: k.host() + "/" + k.path}}
	for _, c := range change {
		c(&o)
	}
	r, err := Restore(t.Context(), k.Store, reg, by, o, apply, nil)
	must(t, err)
	for _, i := range items {
		if i.Outcome == Failed {
			t.Logf("%s %s: %s", i.Signature.Format, i.Signature.PredicateType, i.Why)
		}
	}
	r.Requests, r.Written = 0, 0
	return r, items
}

// want is a Result of these outcomes.
func want(apply bool, change func(*Result)) Result {
	r := Result{Applied: apply, Artifacts: 1, Reasons: map[Reason]int64{}}
	change(&r)
	for _, n := range r.Reasons {
		r.LeftOut += n
	}
	r.Signatures = r.Restored + r.Already + r.LeftOut + r.MissingSubject + r.Skipped + r.Failed
	return r
}

func (k *kase) actions(t testing.TB) map[string]int {
	t.Helper()
	out := map[string]int{}
	for next := k.Journal(t.Context(), 0); ; {
		line, err := next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		e, err := journal.ParseEntry(line)
		must(t, err)
		out[e.Action]++
	}
}

// reopen lets the case go on with a copy of the database, as it was when the
// process was killed.
func (k *kase) reopen(t testing.TB, file string) {
	t.Helper()
	s, err := store.Open(t.Context(), file, time.Now)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	k.Store = s
}

// fault is what goes wrong with one write.
type fault int

const (
	lost          fault = iota + 1 // not done, and said so
	doneButError                   // done, but reported failed
	unknown                        // done, and nobody knows
	unknownLost                    // not done, and nobody knows
	stoppedBefore                  // the context ends before it
	stoppedAfter                   // the context ends after it
	killedBefore                   // the process ends before it: nothing is recorded any more
	killedAfter                    // the process ends after it
	half                           // a referrer is written, and not listed
	killedHalf                     // the process ends then
)

var faults = []struct {
	name string
	fault
}{{"lost", lost}, {"done but reported failed", doneButError}, {"outcome unknown, done", unknown}, {"outcome unknown, lost", unknownLost},
	{"stopped before", stoppedBefore}, {"stopped after", stoppedAfter}, {"killed before", killedBefore}, {"killed after", killedAfter},
	{"half done", half}, {"killed when half done", killedHalf}}

// stops reports whether a run ends with the fault.
func (f fault) stops() bool {
	return slices.Contains([]fault{stoppedBefore, stoppedAfter, killedBefore, killedAfter, killedHalf}, f)
}

var errFault = errors.New("injected fault")

// wrapper counts the writes to a registry and disturbs one of them.
type wrapper struct {
	Registry
	failAt    int // number of the write, from 1
	fault     fault
	stop      context.CancelFunc
	file      string                             // the database to copy when killed
	beforePut func(repository, reference string) // before a manifest is written
	afterPut  func(repository, reference string) // after it was
	onRead    func(repository, reference string) // before a manifest is read
	mu        sync.Mutex
	copied    string
	writes    []string
}

func (w *wrapper) write(ctx context.Context, what string, act func(hit bool) error) error {
	w.mu.Lock()
	w.writes = append(w.writes, what)
	hit := len(w.writes) == w.failAt
	w.mu.Unlock()
	if !hit {
		return act(false)
	}
	switch w.fault {
	case lost:
		return errFault
	case doneButError, half:
		return errors.Join(errFault, act(true))
	case unknown:
		return errors.Join(registry.ErrAmbiguous, act(true))
	case unknownLost:
		return registry.ErrAmbiguous
	case killedBefore, stoppedBefore:
		w.kill()
		return act(true)
	default:
		err := act(true)
		w.kill()
		return errors.Join(err, ctx.Err())
	}
}

func (w *wrapper) kill() {
	if w.fault == killedBefore || w.fault == killedAfter || w.fault == killedHalf {
		dir := filepath.Dir(w.file) + "-killed"
		if err := os.CopyFS(dir, os.DirFS(filepath.Dir(w.file))); err != nil {
			panic(err)
		}
		w.copied = filepath.Join(dir, filepath.Base(w.file))
	}
	w.stop()
}

func (w *wrapper) Manifest(ctx context.Context, repository, reference string) (registry.Manifest, error) {
	if w.onRead != nil {
		w.onRead(repository, reference)
	}
	return w.Registry.Manifest(ctx, repository, reference)
}

func (w *wrapper) PutBlob(ctx context.Context, repository string, content []byte) (d string, err error) {
	err = w.write(ctx, "blob", func(bool) error {
		d, err = w.Registry.PutBlob(ctx, repository, content)
		return err
	})
	return d, err
}

func (w *wrapper) PutManifest(ctx context.Context, repository, reference, mediaType string, raw []byte) (d string, indexed bool, err error) {
	err = w.write(ctx, "manifest", func(bool) error {
		if w.beforePut != nil {
			w.beforePut(repository, reference)
		}
		d, indexed, err = w.Registry.PutManifest(ctx, repository, reference, mediaType, raw)
		if err == nil && w.afterPut != nil {
			w.afterPut(repository, reference)
		}
		return err
	})
	return d, indexed, err
}

func (w *wrapper) Attach(ctx context.Context, repository string, manifest []byte, mediaType string, desc v1.Descriptor, subject string) (d string, err error) {
	err = w.write(ctx, "attach", func(hit bool) error {
		if hit && (w.fault == half || w.fault == killedHalf) {
			d, _, err = w.Registry.PutManifest(ctx, repository, inventory.Digest(manifest), mediaType, manifest)
			return err
		}
		d, err = w.Registry.Attach(ctx, repository, manifest, mediaType, desc, subject)
		if err == nil && w.afterPut != nil {
			w.afterPut(repository, subject)
		}
		return err
	})
	return d, err
}

// outcomes groups items by what became of them.
func outcomes(items []Item) map[Outcome]int {
	out := map[Outcome]int{}
	for _, i := range items {
		out[i.Outcome]++
	}
	return out
}

func layersOf(t testing.TB, raw []byte) (out []string) {
	t.Helper()
	var m v1.Manifest
	must(t, json.Unmarshal(raw, &m))
	for _, l := range m.Layers {
		b, err := json.Marshal(l)
		must(t, err)
		out = append(out, string(b))
	}
	return out
}

func manifestOf(t testing.TB, raw []byte) (m v1.Manifest) {
	t.Helper()
	must(t, json.Unmarshal(raw, &m))
	return m
}

// withLayers returns a manifest with these layers instead of its own.
func withLayers(t testing.TB, raw []byte, layers []string) []byte {
	t.Helper()
	old, _, found := strings.Cut(string(raw), `"layers":[`)
	if !found {
		t.Fatal("no layers")
	}
	return []byte(old + `"layers":[` + strings.Join(layers, ",") + "]}")
}

// blob puts a blob beside an image and in the vault.
func (k *kase) blob(t testing.TB, ref name.Digest, content string) string {
	t.Helper()
	d, err := k.client.PutBlob(t.Context(), ref.Context().Name(), []byte(content))
	must(t, err)
	must(t, k.Update(t.Context(), by, func(tx *store.Tx) error {
		_, err := tx.PutVault(t.Context(), []byte(content))
		return err
	}))
	return d
}
