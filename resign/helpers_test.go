package resign

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
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
	plan = "sha256:plan"
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

// ecKey is a signer.Signer that counts how often it signs.
type ecKey struct {
	private *ecdsa.PrivateKey
	id      signer.Identity
	mu      sync.Mutex
	signed  int
}

func newKey(t testing.TB) *ecKey {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	id, err := signer.OfKey(private.Public())
	must(t, err)
	return &ecKey{private: private, id: id}
}

func (k *ecKey) Identity() signer.Identity   { return k.id }
func (k *ecKey) PublicKey() crypto.PublicKey { return k.private.Public() }
func (k *ecKey) Sign(_ context.Context, message []byte) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.signed++
	sum := sha256.Sum256(message)
	return ecdsa.SignASN1(rand.Reader, k.private, sum[:])
}

// list is work written by hand.
type list struct {
	items []Item
	still func(Item) (why string, err error) // nil: all of it
}

func (l list) Items(_ context.Context, after int64, limit int) (out []Item, _ error) {
	for _, i := range l.items {
		if i.Seq > after && len(out) < limit {
			out = append(out, i)
		}
	}
	return out, nil
}

func (l list) Still(_ context.Context, items []Item) ([]string, error) {
	out := make([]string, len(items))
	for n, i := range items {
		if l.still == nil {
			continue
		}
		var err error
		if out[n], err = l.still(i); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// withoutReferrers is a client of the sandbox's registry as of one without a
// referrers API: referrers are kept in the fallback tag.
func withoutReferrers() *registry.Client {
	return registry.New(registry.Options{Keychain: authn.NewMultiKeychain(), Transport: noReferrers{http.DefaultTransport}})
}

type noReferrers struct{ http.RoundTripper }

func (n noReferrers) RoundTrip(req *http.Request) (*http.Response, error) {
	if strings.Contains(req.URL.Path, "/referrers/") {
		return &http.Response{StatusCode: http.StatusNotFound, Status: "404 Not Found", Header: http.Header{"Content-Type": {"application/json"}},
			Body: io.NopCloser(strings.NewReader(`{"errors":[{"code":"NOT_FOUND"}]}`)), Request: req, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}, nil
	}
	resp, err := n.RoundTripper.RoundTrip(req)
	if err == nil {
		resp.Header.Del("OCI-Subject")
	}
	return resp, err
}

// bench is a sandbox with an old and a new signer. Its tests use repositories
// of their own.
type bench struct {
	*sandbox.World
	client *registry.Client
	old    *sandbox.Actor
	listed *registry.Client // knows the referrers that the actors attached, where client does not; nil: client does
}

func newBench(t testing.TB) *bench {
	t.Helper()
	w, err := sandbox.Start(t.Context(), sandbox.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, w.Close()) })
	b := &bench{World: w, client: registry.New(registry.Options{Keychain: authn.NewMultiKeychain()})}
	b.old, err = w.NewActor("old")
	must(t, err)
	return b
}

// kase is one store, one new key and one repository.
type kase struct {
	*bench
	*store.Store
	file  string
	repo  string
	next  *ecKey
	items []Item
}

func (b *bench) newCase(t testing.TB) *kase {
	t.Helper()
	k := &kase{bench: b, file: filepath.Join(t.TempDir(), "reseal.db"), next: newKey(t), repo: "acme/" + strings.ToLower(rand.Text())}
	var err error
	k.Store, err = store.Create(t.Context(), k.file, time.Now)
	must(t, err)
	t.Cleanup(func() { must(t, k.Store.Close()) })
	return k
}

func (k *kase) push(t testing.TB, seed string) name.Digest {
	t.Helper()
	ref, err := k.PushImage(t.Context(), k.repo, seed, k.repo+seed)
	must(t, err)
	return ref
}

var sbom = map[string]any{"spdxVersion": "SPDX-2.3", "name": "a <b> & c", "n": 1.5}

// all signs an image in every way there is.
func (k *kase) all(t testing.TB, ref name.Digest) {
	t.Helper()
	must(t, errors.Join(k.old.SignLegacy(t.Context(), ref, sandbox.NoProof), k.old.AttestLegacy(t.Context(), ref, spdx, sbom, sandbox.NoProof),
		k.old.SignBundle(t.Context(), ref, sandbox.NoProof), k.old.AttestBundle(t.Context(), ref, spdx, sbom, sandbox.NoProof)))
	if k.listed == nil {
		return
	}
	list, err := k.listed.Referrers(t.Context(), ref.Context().Name(), ref.DigestStr())
	must(t, err)
	must(t, k.client.Extend(t.Context(), ref.Context().Name(), ref.DigestStr(), registry.Listing{}, list...))
}

func subjectOf(ref name.Digest) verify.Subject {
	return verify.Subject{Repository: ref.Context().Name(), Digest: ref.DigestStr()}
}

// found reads every signature on an image, knowing old and new key.
func (k *kase) found(t testing.TB, ref name.Digest, keys ...crypto.PublicKey) []verify.Found {
	t.Helper()
	v, err := verify.New(verify.Trust{Keys: append(keys, k.old.PublicKey(), k.next.PublicKey())})
	must(t, err)
	got := verify.Fetcher{Registry: k.client, Verifier: v}.Signatures(t.Context(), subjectOf(ref), verify.Everywhere)
	for _, p := range got.Problems {
		t.Errorf("%s: %s", p.Reference, p.Problem)
	}
	return got.Found
}

// plan enters an image into the inventory and every statement on it, or those
// in the formats given, into the work.
func (k *kase) plan(t testing.TB, ref name.Digest, formats ...inventory.Format) {
	t.Helper()
	m, err := k.client.Manifest(t.Context(), ref.Context().Name(), ref.DigestStr())
	must(t, err)
	found := k.found(t, ref)
	must(t, k.Update(t.Context(), by, func(tx *store.Tx) error {
		err := tx.PutArtifact(t.Context(), inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr(), MediaType: m.MediaType, Size: m.Size})
		for _, f := range found {
			_, vaultErr := tx.PutVault(t.Context(), f.Content)
			err = errors.Join(err, vaultErr, tx.PutSignature(t.Context(), f.Signature))
		}
		return err
	}))
	for _, f := range found {
		if len(formats) > 0 && !slices.Contains(formats, f.Format) {
			continue
		}
		k.items = append(k.items, Item{Seq: int64(len(k.items) + 1), Repository: ref.Context().Name(), Digest: ref.DigestStr(), MediaType: m.MediaType, Size: m.Size,
			PredicateType: f.PredicateType, StatementKey: f.StatementKey(), Formats: []inventory.Format{f.Format},
			SourceFormat: f.Format, SourceContent: f.Signature.Content})
	}
}

func (k *kase) engine(reg Registry) Engine {
	return Engine{Registry: reg, Store: k.Store, Signer: signer.Always(k.next), Plan: plan, By: by, Apply: true, Parallel: 1, Settle: time.Millisecond}
}

func (k *kase) run(t testing.TB, reg Registry) Result {
	t.Helper()
	e := k.engine(reg)
	e.Failed = func(f Failure) { t.Logf("%s %s: %s", f.Item.PredicateType, f.Format, f.Why) }
	r, err := e.Run(t.Context(), list{items: k.items})
	must(t, err)
	return r
}

// count counts the good signatures by a key on an image, by format and
// statement.
func count(found []verify.Found, by signer.Identity) map[string]int {
	out := map[string]int{}
	for _, f := range found {
		if f.Signer == by && f.Verified {
			out[string(f.Format)+" "+f.StatementKey()]++
		}
	}
	return out
}

func (k *kase) oldID(t testing.TB) signer.Identity {
	t.Helper()
	id, err := signer.OfKey(k.old.PublicKey())
	must(t, err)
	return id
}

func (k *kase) entries(t testing.TB) (out []journal.Entry) {
	t.Helper()
	for next := k.Journal(t.Context(), 0); ; {
		line, err := next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		e, err := journal.ParseEntry(line)
		must(t, err)
		out = append(out, e)
	}
}

func (k *kase) checkJournal(t testing.TB) {
	t.Helper()
	var tree journal.Tree
	for _, e := range k.entries(t) {
		line, err := e.Marshal()
		must(t, err)
		must(t, tree.Add(line))
	}
	c, err := k.JournalCheckpoint(t.Context())
	must(t, err)
	must(t, tree.Check(c))
}

func (k *kase) reissues(t testing.TB) []store.Reissue {
	t.Helper()
	rows, err := k.Reissues(t.Context(), plan, 0, 1<<40)
	must(t, err)
	return rows
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
	stoppedBefore                  // the context ends before it
	stoppedAfter                   // the context ends after it
	killedBefore                   // the process ends before it: nothing is recorded any more
	killedAfter                    // the process ends after it
)

var faults = []struct {
	name string
	fault
}{{"lost", lost}, {"done but reported failed", doneButError}, {"stopped before", stoppedBefore}, {"stopped after", stoppedAfter},
	{"killed before", killedBefore}, {"killed after", killedAfter}}

var errFault = errors.New("injected fault")

// wrapper counts the writes to a registry and disturbs one of them.
type wrapper struct {
	Registry
	failAt   int // number of the write, from 1; -1: every one
	fault    fault
	stop     context.CancelFunc
	file     string // the database to copy when killed
	copied   string
	afterTag func(repository, tag string) error // after a tag was written
	mu       sync.Mutex
	writes   []string
}

func (w *wrapper) write(ctx context.Context, what string, act func() error) error {
	w.mu.Lock()
	w.writes = append(w.writes, what)
	hit := len(w.writes) == w.failAt || w.failAt < 0
	w.mu.Unlock()
	if !hit {
		return act()
	}
	switch w.fault {
	case lost:
		return errFault
	case doneButError:
		return errors.Join(errFault, act())
	case killedBefore, stoppedBefore:
		w.kill()
		return act()
	default:
		err := act()
		w.kill()
		return errors.Join(err, ctx.Err())
	}
}

func (w *wrapper) kill() {
	if w.fault == killedBefore || w.fault == killedAfter {
		dir := filepath.Dir(w.file) + "-killed"
		if err := os.CopyFS(dir, os.DirFS(filepath.Dir(w.file))); err != nil {
			panic(err)
		}
		w.copied = filepath.Join(dir, filepath.Base(w.file))
	}
	w.stop()
}

func (w *wrapper) PutBlob(ctx context.Context, repository string, content []byte) (d string, err error) {
	err = w.write(ctx, "blob", func() error {
		d, err = w.Registry.PutBlob(ctx, repository, content)
		return err
	})
	return d, err
}

func (w *wrapper) PutManifest(ctx context.Context, repository, reference, mediaType string, raw []byte) (d string, indexed bool, err error) {
	err = w.write(ctx, "manifest "+reference, func() error {
		d, indexed, err = w.Registry.PutManifest(ctx, repository, reference, mediaType, raw)
		if err == nil && w.afterTag != nil {
			err = w.afterTag(repository, reference)
		}
		return err
	})
	return d, indexed, err
}

func (w *wrapper) Extend(ctx context.Context, repository, subject string, l registry.Listing, add ...v1.Descriptor) error {
	return w.write(ctx, "list", func() error { return w.Registry.Extend(ctx, repository, subject, l, add...) })
}

type storeTx = store.Tx

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func sum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
