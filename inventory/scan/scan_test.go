package scan

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
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
	client   *registry.Client
	actor    *sandbox.Actor
	verifier *verify.Verifier
}

func newBench(t testing.TB) *bench {
	t.Helper()
	w, err := sandbox.Start(t.Context(), sandbox.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, w.Close()) })
	b := &bench{World: w, client: registry.New(registry.Options{Keychain: authn.NewMultiKeychain()})}
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
	path, repo string // without and with the registry
}

func (b *bench) newCase(t testing.TB, path string) *kase {
	t.Helper()
	s, err := store.Create(t.Context(), filepath.Join(t.TempDir(), "reseal.db"), time.Now)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return &kase{bench: b, Store: s, path: path, repo: b.Registry() + "/" + path}
}

func (k *kase) push(t testing.TB, tag string) name.Digest {
	t.Helper()
	ref, err := k.PushImage(t.Context(), k.path, tag, k.path+tag)
	must(t, err)
	return ref
}

func (k *kase) scanner(reg Registry) Scanner {
	return Scanner{Registry: reg, Store: k.Store, Verifier: k.verifier, Parallel: 2}
}

func (k *kase) scan(t testing.TB, reg Registry) (r Result) {
	t.Helper()
	must(t, k.scanner(reg).Repository(t.Context(), by, k.repo, &r))
	return r
}

func (k *kase) signatures(t testing.TB, ref name.Digest) []inventory.Signature {
	t.Helper()
	all, err := k.SignaturesOf(t.Context(), inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr()}, "")
	must(t, err)
	return all
}

func (k *kase) artifacts(t testing.TB) map[string]inventory.Artifact {
	t.Helper()
	all, _, err := k.Artifacts(t.Context(), store.Selection{}, store.Place{}, 1000)
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

func (k *kase) actions(t testing.TB, from int) (out []string) {
	t.Helper()
	for next := k.Journal(t.Context(), int64(from)); ; {
		line, err := next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		e, err := journal.ParseEntry(line)
		must(t, err)
		out = append(out, e.Action)
	}
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
	raw, err := json.Marshal(image)
	must(t, err)
	_, _, err = k.client.PutManifest(t.Context(), k.repo, verify.Tag(ref.DigestStr(), f), string(image.MediaType), raw)
	must(t, err)
}

// broken is a registry in which some things are not as they should be.
type broken struct {
	Registry
	manifests map[string]registry.Manifest // by reference, instead of what is there
	failing   map[string]error             // by reference or blob digest
	tags      error
	block     chan struct{} // a manifest asked for closes it and waits for the end
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

func (b *broken) Blob(ctx context.Context, repository, digest string, limit int64) ([]byte, error) {
	if err := b.failing[digest]; err != nil {
		return nil, err
	}
	return b.Registry.Blob(ctx, repository, digest, limit)
}

func (b *broken) Referrers(ctx context.Context, repository, digest string) ([]v1.Descriptor, error) {
	list, err := b.Registry.Referrers(ctx, repository, digest)
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

// fill pushes one of everything and returns the images by name.
func (k *kase) fill(t testing.TB) map[string]name.Digest {
	t.Helper()
	ctx := t.Context()
	refs := map[string]name.Digest{}
	for _, n := range []string{"plain", "legacy", "att", "bundle", "all", "deleted"} {
		refs[n] = k.push(t, n)
	}
	index, err := k.PushIndex(ctx, k.path, "index", k.path+"index")
	must(t, err)
	refs["index"] = index
	m, err := k.client.Manifest(ctx, k.repo, index.DigestStr())
	must(t, err)
	children, err := childrenOf(m)
	must(t, err)
	refs["child"], refs["other child"] = index.Context().Digest(children[0].Digest.String()), index.Context().Digest(children[1].Digest.String())
	a := k.actor
	must(t, errors.Join(
		a.SignLegacy(ctx, refs["legacy"], sandbox.RekorV1), a.AttestLegacy(ctx, refs["att"], spdx, nil, sandbox.Timestamp), a.SignBundle(ctx, refs["bundle"], sandbox.RekorV2|sandbox.Timestamp),
		a.SignLegacy(ctx, refs["all"], sandbox.NoProof), a.AttestLegacy(ctx, refs["all"], spdx, nil, sandbox.NoProof), a.SignBundle(ctx, refs["all"], sandbox.NoProof), a.AttestBundle(ctx, refs["all"], spdx, nil, sandbox.NoProof),
		a.SignLegacy(ctx, refs["index"], sandbox.NoProof), a.SignBundle(ctx, refs["child"], sandbox.NoProof), a.SignLegacy(ctx, refs["deleted"], sandbox.NoProof)))
	must(t, k.client.Delete(ctx, k.repo, refs["deleted"].DigestStr()))
	return refs
}

func TestScan(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t, "acme/app")
	refs := k.fill(t)
	stranger, err := k.NewActor("stranger")
	must(t, err)
	must(t, stranger.SignLegacy(t.Context(), refs["plain"], sandbox.NoProof))
	got := k.scan(t, k.client)
	wantEqual(t, "result", got, Result{Repositories: 1, Artifacts: 9, Signatures: 11, Verified: 10, Unverified: 1})

	formats := map[string]string{"plain": "legacy", "legacy": "legacy", "att": "legacy-att", "bundle": "bundle", "all": "bundle bundle legacy legacy-att",
		"index": "legacy", "child": "bundle", "other child": "", "deleted": "legacy"}
	known := k.artifacts(t)
	wantEqual(t, "artifacts", len(known), len(formats))
	for n, want := range formats {
		a, ok := known[refs[n].DigestStr()]
		if !ok {
			t.Errorf("%s is not in the inventory", n)
			continue
		}
		tags := []string{n}
		if strings.Contains(n, "child") || n == "deleted" {
			tags = []string{}
		}
		wantEqual(t, "tags of "+n, a.Tags, tags)
		if (a.Size == 0) != (n == "deleted") {
			t.Errorf("the size of %s is %d", n, a.Size)
		}
		counts := map[string]int{}
		var formats []string
		for _, g := range k.signatures(t, refs[n]) {
			counts[string(g.Format)]++
			if g.Verified != (n != "plain") {
				t.Errorf("%s: verified is %v (%s)", n, g.Verified, g.Why)
			}
			for _, d := range []string{g.Content, g.Manifest} {
				if _, err := k.Vault(t.Context(), d); err != nil {
					t.Errorf("%s: %v", n, err)
				}
			}
		}
		for _, f := range []string{"bundle", "legacy", "legacy-att"} {
			for range counts[f] {
				formats = append(formats, f)
			}
		}
		wantEqual(t, "formats of "+n, strings.Join(formats, " "), want)
	}
	for n, roles := range map[string]int{"legacy": 1, "att": 1, "bundle": 1, "all": 0} {
		g := k.signatures(t, refs[n])[0]
		proven := 0
		for _, b := range g.Bounds {
			if b.Verified && b.Side == inventory.Upper {
				proven++
			}
		}
		wantEqual(t, "proofs of time of "+n, proven, roles)
	}
	wantEqual(t, "problems", k.problems(t), []string(nil))
}

func TestScanAgain(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t, "acme/app")
	refs := k.fill(t)
	first := k.scan(t, k.client)
	journaled := len(k.actions(t, 0))
	wantEqual(t, "second result", k.scan(t, k.client), first)
	wantEqual(t, "journaled by the second scan", k.actions(t, journaled), []string(nil))

	// One signature is deleted, one layer is taken out, one image is moved.
	must(t, k.client.Delete(t.Context(), k.repo, verify.Tag(refs["legacy"].DigestStr(), inventory.Legacy)))
	list, err := k.client.Referrers(t.Context(), k.repo, refs["bundle"].DigestStr())
	must(t, err)
	must(t, k.client.Detach(t.Context(), k.repo, list[0].Digest.String(), refs["bundle"].DigestStr()))
	_, err = k.PushImage(t.Context(), k.path, "plain", "something else")
	must(t, err)
	k.scan(t, k.client)
	wantEqual(t, "signatures left", len(k.signatures(t, refs["legacy"]))+len(k.signatures(t, refs["bundle"])), 0)
	counts := map[string]int{}
	for _, a := range k.actions(t, journaled) {
		counts[a]++
	}
	wantEqual(t, "journaled by the third scan", counts, map[string]int{"signature.gone": 2, "artifact.seen": 1, "tag.seen": 1})
	journaled = len(k.actions(t, 0))
	k.scan(t, k.client)
	wantEqual(t, "journaled by the fourth scan", k.actions(t, journaled), []string(nil))
}

// TestBroken breaks one thing: the scan goes on, the problem is listed, and
// the rest is found.
func TestBroken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	manifest := func(mediaType types.MediaType, digest string, raw any) registry.Manifest {
		content, ok := raw.([]byte)
		if !ok {
			var err error
			content, err = json.Marshal(raw)
			must(t, err)
		}
		return registry.Manifest{Digest: digest, MediaType: string(mediaType), Raw: content, Size: int64(len(content))}
	}
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
		{"image manifest is malformed", func(_ *testing.T, _ *kase, bad name.Digest, reg *broken) {
			reg.manifests["bad"] = manifest(types.OCIManifestSchema1, bad.DigestStr(), []byte("{"))
		}, "malformed manifest", true, 2},
		{"index is malformed", func(_ *testing.T, _ *kase, bad name.Digest, reg *broken) {
			reg.manifests["bad"] = manifest(types.OCIImageIndex, bad.DigestStr(), []byte(`{"manifests":[{"digest":5}]}`))
		}, "malformed manifest", true, 2},
		{"index lists itself", func(_ *testing.T, _ *kase, bad name.Digest, reg *broken) {
			h, err := v1.NewHash(bad.DigestStr())
			must(t, err)
			m := manifest(types.OCIImageIndex, bad.DigestStr(), v1.IndexManifest{Manifests: []v1.Descriptor{{Digest: h}, {Digest: h}}})
			reg.manifests["bad"], reg.manifests[bad.DigestStr()] = m, m
		}, "", true, 2},
		{"indexes list each other without end", func(_ *testing.T, _ *kase, bad name.Digest, reg *broken) {
			for n := range 100 {
				next := v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%064x", n+1)}
				at := v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%064x", n)}
				m := manifest(types.OCIImageIndex, at.String(), v1.IndexManifest{Manifests: []v1.Descriptor{{Digest: next}}})
				reg.manifests[at.String()] = m
				if n == 0 {
					m.Digest = bad.DigestStr()
					reg.manifests["bad"] = m
				}
			}
		}, "nested", true, 2},
		{"index lists what is not there", func(_ *testing.T, _ *kase, bad name.Digest, reg *broken) {
			h := v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("1", 64)}
			reg.manifests["bad"] = manifest(types.OCIImageIndex, bad.DigestStr(), v1.IndexManifest{Manifests: []v1.Descriptor{{Digest: h}}})
		}, "404", true, 2},
		{"signature manifest cannot be read", func(_ *testing.T, _ *kase, bad name.Digest, reg *broken) {
			reg.failing[verify.Tag(bad.DigestStr(), inventory.Legacy)] = errBroken
		}, "broken", true, 1},
		{"signature manifest is malformed", func(_ *testing.T, _ *kase, bad name.Digest, reg *broken) {
			reg.manifests[verify.Tag(bad.DigestStr(), inventory.Legacy)] = manifest(types.OCIManifestSchema1, bad.DigestStr(), []byte(`{"layers":{}}`))
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
		{"hostile annotation", func(t *testing.T, k *kase, bad name.Digest, _ *broken) {
			image, _ := k.tagged(t, bad, inventory.Legacy)
			image.Layers[0].Annotations["dev.sigstore.cosign/bundle"] = `{"Payload":{"body":5}}`
			k.retag(t, bad, inventory.Legacy, image)
		}, "", true, 2},
		{"hostile signature annotation", func(t *testing.T, k *kase, bad name.Digest, _ *broken) {
			image, _ := k.tagged(t, bad, inventory.Legacy)
			image.Layers[0].Annotations["dev.cosignproject.cosign/signature"] = "\x00%%%"
			k.retag(t, bad, inventory.Legacy, image)
		}, "", true, 2},
		{"more layers than anyone reads", func(t *testing.T, k *kase, bad name.Digest, reg *broken) {
			image, _ := k.tagged(t, bad, inventory.Legacy)
			for range 1500 {
				image.Layers = append(image.Layers, image.Layers[0])
			}
			raw, err := json.Marshal(image)
			must(t, err)
			reg.manifests[verify.Tag(bad.DigestStr(), inventory.Legacy)] = manifest(types.OCIManifestSchema1, inventory.Digest(raw), raw)
		}, "1501 layers", true, 2},
		{"signature tag of nothing", func(t *testing.T, k *kase, bad name.Digest, _ *broken) {
			_, m := k.tagged(t, bad, inventory.Legacy)
			_, _, err := k.client.PutManifest(t.Context(), k.repo, "sha256-"+strings.Repeat("0", 64)+".sig", m.MediaType, m.Raw)
			must(t, err)
		}, "", true, 2},
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
			r := k.scan(t, reg)
			problems := k.problems(t)
			if tc.problem == "" {
				wantEqual(t, "problems", problems, []string(nil))
			} else if !strings.Contains(strings.Join(problems, "\n"), tc.problem) || r.Problems == 0 {
				t.Errorf("problems are %v (%d counted), want one that says %q", problems, r.Problems, tc.problem)
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

			// Once it is repaired, the problem is forgotten.
			if tc.problem != "" {
				k.scan(t, k.client)
				wantEqual(t, "problems once it is repaired", k.problems(t), []string(nil))
				wantEqual(t, "signatures once it is repaired", len(k.signatures(t, bad)), 2)
			}
		})
	}
}

// TestUnreadIsNotGone scans a known image while it cannot be read.
func TestUnreadIsNotGone(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t, "acme/app")
	ref := k.push(t, "app")
	must(t, k.actor.SignLegacy(t.Context(), ref, sandbox.NoProof))
	k.scan(t, k.client)
	tag := verify.Tag(ref.DigestStr(), inventory.Legacy)
	r := k.scan(t, &broken{Registry: k.client, failing: map[string]error{tag: errBroken}})
	wantEqual(t, "problems", r.Problems, int64(1))
	wantEqual(t, "signatures", len(k.signatures(t, ref)), 1)
}

func TestUnlisted(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t, "acme/app")
	ref := k.push(t, "app")
	must(t, k.actor.SignLegacy(t.Context(), ref, sandbox.NoProof))
	var r Result
	if err := k.scanner(&broken{Registry: k.client, tags: errBroken}).Repository(t.Context(), by, k.repo, &r); !errors.Is(err, errBroken) {
		t.Errorf("got %v, want %v", err, errBroken)
	}
	if err := k.scanner(k.client).Repository(t.Context(), by, k.Registry()+"/acme/none", &r); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("a repository that is not there: got %v, want ErrNotFound", err)
	}
	wantEqual(t, "result", r, Result{})
	wantEqual(t, "journal", k.actions(t, 0), []string(nil))
	if err := k.scanner(k.client).Repository(t.Context(), journal.Author{}, k.repo, &r); err == nil {
		t.Error("scanned for nobody")
	}
}

// TestAttack is what somebody who can push, and no more, may try.
func TestAttack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for n, tc := range []struct {
		name string
		push func(t *testing.T, k *kase, ref name.Digest) // between two scans
	}{
		{"signature manifest without layers", func(t *testing.T, k *kase, ref name.Digest) {
			image, _ := k.tagged(t, ref, inventory.Legacy)
			image.Layers = []v1.Descriptor{}
			k.retag(t, ref, inventory.LegacyAtt, image)
		}},
		{"the same signature stripped of its proofs, after it", func(t *testing.T, k *kase, ref name.Digest) {
			image, _ := k.tagged(t, ref, inventory.Legacy)
			image.Layers = append(image.Layers, stripped(image.Layers[0]))
			k.retag(t, ref, inventory.Legacy, image)
		}},
		{"the same signature stripped of its proofs, before it", func(t *testing.T, k *kase, ref name.Digest) {
			image, _ := k.tagged(t, ref, inventory.Legacy)
			image.Layers = []v1.Descriptor{stripped(image.Layers[0]), image.Layers[0]}
			k.retag(t, ref, inventory.Legacy, image)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := b.newCase(t, fmt.Sprintf("acme/attack%d", n))
			ref := k.push(t, "app")
			must(t, k.actor.SignLegacy(t.Context(), ref, sandbox.RekorV1|sandbox.Timestamp))
			k.scan(t, k.client)
			before := k.signatures(t, ref)
			tc.push(t, k, ref)
			k.scan(t, k.client)
			journaled := len(k.actions(t, 0))
			k.scan(t, k.client)
			wantEqual(t, "journaled by one more scan", k.actions(t, journaled), []string(nil))
			after := k.signatures(t, ref)
			wantEqual(t, "signatures", len(after), 1)
			wantEqual(t, "proofs of the signature", after[0].Bounds, before[0].Bounds)
		})
	}
}

// stripped is a signature layer with nothing but the signature.
func stripped(l v1.Descriptor) v1.Descriptor {
	const signature = "dev.cosignproject.cosign/signature"
	l.Annotations = map[string]string{signature: l.Annotations[signature]}
	return l
}

func TestCancelled(t *testing.T) {
	k := newBench(t).newCase(t, "acme/app")
	for n := range 20 {
		must(t, k.actor.SignLegacy(t.Context(), k.push(t, fmt.Sprintf("v%d", n)), sandbox.NoProof))
	}
	k.scan(t, k.client) // connections are open now
	journaled := len(k.actions(t, 0))
	for _, tc := range []struct {
		name string
		run  func(ctx context.Context, cancel func()) error
	}{
		{"before it starts", func(ctx context.Context, cancel func()) error {
			cancel()
			return k.scanner(k.client).Repository(ctx, by, k.repo, &Result{})
		}},
		{"while the registry does not answer", func(ctx context.Context, cancel func()) error {
			reg := &broken{Registry: k.client, block: make(chan struct{}, 1)}
			go func() {
				<-reg.block
				cancel()
			}()
			return k.scanner(reg).Repository(ctx, by, k.repo, &Result{})
		}},
		{"after the first artifact", func(ctx context.Context, cancel func()) error {
			s := k.scanner(k.client)
			s.Progress = func(string, Result) { cancel() }
			return s.Repository(ctx, by, k.repo, &Result{})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- tc.run(ctx, cancel) }()
			select {
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want it cancelled", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it does not come back")
			}
			for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before+2; { // a connection may be new
				if time.Now().After(deadline) {
					stacks := make([]byte, 1<<16)
					t.Fatalf("%d goroutines became %d:\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
				}
				time.Sleep(10 * time.Millisecond)
			}
			wantEqual(t, "journal", len(k.actions(t, 0)), journaled)
		})
	}
}
