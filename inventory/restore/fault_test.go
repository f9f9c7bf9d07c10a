package restore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// mixed signs an image in every way, with a rogue signer in between, takes it
// all in and loses it. It returns what must stand in the end: manifests, and
// signatures.
func (k *kase) mixed(t *testing.T) (ref name.Digest, exact map[string]string, ids map[string]int) {
	t.Helper()
	ref = k.push(t, "app")
	ctx, none := t.Context(), sandbox.NoProof
	must(t, errors.Join(k.rogue.SignLegacy(ctx, ref, none), k.good.SignLegacy(ctx, ref, none), k.good.AttestLegacy(ctx, ref, spdx, nil, none),
		k.good.SignBundle(ctx, ref, none), k.good.AttestBundle(ctx, ref, spdx, nil, none)))
	exact = k.standing(t, ref.Context().Name(), ref.DigestStr())
	delete(exact, string(inventory.Legacy)) // the rogue signature is in it
	must(t, k.rogue.SignBundle(t.Context(), ref, sandbox.NoProof))
	ids = map[string]int{}
	for _, s := range k.ingest(t, ref, "") {
		if s.Signer == keyOf(t, k.good) {
			ids[s.ID] = 1
		}
	}
	k.state(t, k.rogue, signer.Tainted)
	k.gone(t, ref, "")
	k.wipe(t, ref.Context().Name(), ref.DigestStr())
	return ref, exact, ids
}

// invariant checks what must hold once a restore has run to its end: what may
// go back is there exactly once, nothing else is, and what was whole is whole.
func (k *kase) invariant(t *testing.T, ref name.Digest, exact map[string]string, ids map[string]int) {
	t.Helper()
	wantEqual(t, "signatures", k.ids(t, ref), ids)
	standing := k.standing(t, ref.Context().Name(), ref.DigestStr())
	delete(standing, string(inventory.Legacy))
	wantEqual(t, "whole manifests", digests(standing), digests(exact))
	list, err := k.SignaturesEver(t.Context(), inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr()})
	must(t, err)
	for _, s := range list {
		if s.Gone != (ids[s.ID] == 0) {
			t.Errorf("%s by %s: gone is %v", s.Format, s.Signer, s.Gone)
		}
	}
}

// TestFault disturbs each write in each way, then runs again.
func TestFault(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	both := []bool{true, false}
	for _, api := range both {
		probe := b.newCase(t, api)
		ref, exact, ids := probe.mixed(t)
		w := &wrapper{Registry: newClient()}
		got, _ := probe.restore(t, w, true)
		wantEqual(t, "undisturbed", got, want(true, func(r *Result) {
			r.Restored, r.Reasons, r.Manifests, r.Identical = 4, map[Reason]int64{SignerTainted: 2}, 4, 3
		}))
		probe.invariant(t, ref, exact, ids)
		if len(w.writes) != 9 {
			t.Fatalf("%d writes, want what is missing for each tag and 2 for each bundle: %v", len(w.writes), w.writes)
		}
		for at, what := range w.writes {
			for _, f := range faults {
				switch {
				case strings.Contains(f.name, "half") && (what != "attach" || api):
					continue
				case !api && !strings.Contains(f.name, "half") && f.fault != killedAfter:
					continue // it is the same
				}
				t.Run(fmt.Sprintf("referrers API=%v write %d (%s) %s", api, at+1, what, f.name), func(t *testing.T) {
					t.Parallel()
					testFault(t, b.newCase(t, api), at+1, f.fault)
				})
			}
		}
	}
}

func testFault(t *testing.T, k *kase, at int, f fault) {
	ref, exact, ids := k.mixed(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &wrapper{Registry: newClient(), failAt: at, fault: f, stop: cancel, file: k.file}
	var told []Item
	o := Options{Verifier: k.trust, Report: func(i Item) { told = append(told, i) }}
	first, err := Restore(ctx, k.Store, w, by, o, true, nil)
	if f.stops() != (err != nil) {
		t.Fatalf("got %v, want an error only when the run had to stop", err)
	}
	if len(w.writes) < at {
		t.Fatalf("only %d writes", len(w.writes))
	}
	standing := k.ids(t, ref)
	for _, i := range told {
		if i.Outcome == Restored && standing[i.Signature.ID] != 1 {
			t.Errorf("told that %s is restored, it stands %d times", i.Signature.Format, standing[i.Signature.ID])
		}
	}
	if f == unknown || f == unknownLost { // a run finds out by itself
		wantEqual(t, "restored, failed, manifests", []int64{first.Restored, first.Failed, first.Manifests}, []int64{4, 0, 4})
		k.invariant(t, ref, exact, ids)
	}
	if w.copied != "" {
		k.reopen(t, w.copied)
	}

	second, items := k.restore(t, newClient(), true)
	wantEqual(t, "restored or already, failed, left out", []int64{second.Restored + second.Already, second.Failed, second.LeftOut}, []int64{4, 0, 2})
	wantEqual(t, "told of", len(items), 6)
	k.invariant(t, ref, exact, ids)

	quiet := &wrapper{Registry: newClient()}
	third, _ := k.restore(t, quiet, true)
	wantEqual(t, "third run", []int64{third.Restored, third.Already, int64(len(quiet.writes))}, []int64{0, 4, 0})
	k.invariant(t, ref, exact, ids)
	if problems, err := k.Check(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("the database: %v, %v", problems, err)
	}
	actions := k.actions(t)
	if actions["restore.intended"] < actions["restore.done"]+actions["restore.failed"] || actions["restore.done"] > 5 {
		t.Errorf("the journal tells %v", actions)
	}
}

// TestAttack has an attacker in the vault, in the registry, and between a look
// and a write.
func TestAttack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	run := func(name string, test func(t *testing.T, k *kase, ref name.Digest)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			both(t, b, func(t *testing.T, k *kase) { test(t, k, k.push(t, "app")) })
		})
	}
	run("rogue signatures of a tainted signer in the vault", func(t *testing.T, k *kase, ref name.Digest) {
		k.all(t, ref, k.rogue)
		k.refer(t, ref, inventory.Legacy)
		k.ingest(t, ref, "")
		k.state(t, k.rogue, signer.Tainted)
		k.wipe(t, ref.Context().Name(), ref.DigestStr())
		w := &wrapper{Registry: newClient()}
		got, _ := k.restore(t, w, true)
		wantEqual(t, "result", got, want(true, func(r *Result) { r.Reasons = map[Reason]int64{SignerTainted: 5} }))
		wantEqual(t, "writes", w.writes, []string(nil))
	})
	run("a signer tainted while the run goes on", func(t *testing.T, k *kase, ref name.Digest) {
		if !k.api {
			t.Skip("it is the same")
		}
		for n := range batch {
			must(t, k.rogue.SignLegacy(t.Context(), ref, sandbox.NoProof))
			k.ingest(t, ref, "")
			k.wipe(t, ref.Context().Name(), ref.DigestStr())
			ref = k.push(t, fmt.Sprint("app", n))
		}
		must(t, k.rogue.SignLegacy(t.Context(), ref, sandbox.NoProof))
		k.ingest(t, ref, "")
		k.wipe(t, ref.Context().Name(), ref.DigestStr())
		once := sync.OnceFunc(func() { k.state(t, k.rogue, signer.Tainted) })
		got, err := Restore(t.Context(), k.Store, newClient(), by, Options{Verifier: k.trust}, true, func(Result) { once() })
		must(t, err)
		wantEqual(t, "restored, left out", []int64{got.Restored, got.LeftOut}, []int64{batch, 1})
	})
	run("a forged signature that never verified", func(t *testing.T, k *kase, ref name.Digest) {
		stranger := k.push(t, "another")
		must(t, errors.Join(k.good.SignLegacy(t.Context(), stranger, sandbox.NoProof), k.good.SignLegacy(t.Context(), ref, sandbox.NoProof)))
		// A good signature, on another image than it is about.
		tag := verify.Tag(ref.DigestStr(), inventory.Legacy)
		raw, _ := k.tag(t, ref.Context().Name(), tag)
		forged, _ := k.tag(t, ref.Context().Name(), verify.Tag(stranger.DigestStr(), inventory.Legacy))
		k.put(t, ref.Context().Name(), tag, withLayers(t, raw, append(layersOf(t, raw), layersOf(t, forged)...)))
		k.ingest(t, ref, "")
		k.wipe(t, ref.Context().Name(), ref.DigestStr())
		got, items := k.restore(t, newClient(), true)
		wantEqual(t, "result", got, want(true, func(r *Result) {
			r.Restored, r.Manifests, r.Reasons = 1, 1, map[Reason]int64{Unverified: 1}
		}))
		wantEqual(t, "signatures", len(k.ids(t, ref)), 1)
		for _, i := range items {
			if i.Outcome == LeftOut && !strings.Contains(i.Why, "it is attached to") {
				t.Errorf("left out because %q", i.Why)
			}
		}
	})
	run("a manifest of the vault that mixes good and rogue layers", func(t *testing.T, k *kase, ref name.Digest) {
		must(t, errors.Join(k.rogue.SignLegacy(t.Context(), ref, sandbox.NoProof), k.good.SignLegacy(t.Context(), ref, sandbox.NoProof)))
		tag := verify.Tag(ref.DigestStr(), inventory.Legacy)
		mixed, _ := k.tag(t, ref.Context().Name(), tag)
		// Beside them a bundle, a copy of a layer, and a subject that is another image.
		other := k.push(t, "other")
		bundle := k.blob(t, ref, `{"any":"bundle"}`)
		layers := append(layersOf(t, mixed), layersOf(t, mixed)[1],
			fmt.Sprintf(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","digest":%q,"size":16}`, bundle))
		crafted := withLayers(t, mixed, layers)
		crafted = []byte(strings.Replace(string(crafted), `"schemaVersion":2,`,
			`"schemaVersion":2,"annotations":{"a":"b"},"artifactType":"x/y","subject":{"mediaType":"`+ociManifest+`","size":1,"digest":"`+other.DigestStr()+`"},`, 1))
		k.put(t, ref.Context().Name(), tag, crafted)
		k.ingest(t, ref, "")
		k.state(t, k.rogue, signer.Tainted)
		k.wipe(t, ref.Context().Name(), ref.DigestStr())
		got, _ := k.restore(t, newClient(), true)
		wantEqual(t, "restored, identical", []int64{got.Restored, got.Identical}, []int64{1, 0})
		raw, _ := k.tag(t, ref.Context().Name(), tag)
		wantEqual(t, "layers", layersOf(t, raw), layersOf(t, mixed)[1:2])
		if m := manifestOf(t, raw); m.Subject != nil || m.ArtifactType != "" || m.Annotations["a"] != "b" {
			t.Errorf("wrote %s", raw)
		}
		if list, err := k.client.Referrers(t.Context(), ref.Context().Name(), other.DigestStr()); err != nil || len(list) > 0 {
			t.Errorf("another image has referrers now: %v, %v", list, err)
		}
	})
	run("a manifest of the vault that refers to another image", func(t *testing.T, k *kase, ref name.Digest) {
		must(t, k.good.SignLegacy(t.Context(), ref, sandbox.NoProof))
		tag, other := verify.Tag(ref.DigestStr(), inventory.Legacy), k.push(t, "other")
		raw, _ := k.tag(t, ref.Context().Name(), tag)
		k.put(t, ref.Context().Name(), tag, []byte(strings.Replace(string(raw), `"schemaVersion":2,`,
			`"schemaVersion":2,"subject":{"mediaType":"`+ociManifest+`","size":1,"digest":"`+other.DigestStr()+`"},`, 1)))
		k.ingest(t, ref, "")
		k.wipe(t, ref.Context().Name(), ref.DigestStr())
		got, _ := k.restore(t, newClient(), true)
		wantEqual(t, "restored, identical", []int64{got.Restored, got.Identical}, []int64{1, 0})
		now, _ := k.tag(t, ref.Context().Name(), tag)
		wantEqual(t, "written", string(now), string(raw))
	})
	run("what others noted on a manifest stays", func(t *testing.T, k *kase, ref name.Digest) {
		must(t, k.good.SignLegacy(t.Context(), ref, sandbox.NoProof))
		tag := verify.Tag(ref.DigestStr(), inventory.Legacy)
		first, _ := k.tag(t, ref.Context().Name(), tag)
		must(t, k.other.SignLegacy(t.Context(), ref, sandbox.NoProof))
		k.ingest(t, ref, "")
		whole, _ := k.tag(t, ref.Context().Name(), tag)
		k.put(t, ref.Context().Name(), tag, []byte(strings.Replace(string(first), `"schemaVersion":2,`, `"schemaVersion":2,"annotations":{"a":"b"},`, 1)))
		k.restore(t, newClient(), true)
		now, _ := k.tag(t, ref.Context().Name(), tag)
		wantEqual(t, "layers", layersOf(t, now), layersOf(t, whole))
		wantEqual(t, "annotations", manifestOf(t, now).Annotations, map[string]string{"a": "b"})
	})
	run("referrers of the vault that mix good and rogue layers", func(t *testing.T, k *kase, ref name.Digest) {
		for _, a := range []*sandbox.Actor{k.rogue, k.good} {
			must(t, errors.Join(a.SignLegacy(t.Context(), ref, sandbox.NoProof), a.AttestLegacy(t.Context(), ref, spdx, nil, sandbox.NoProof)))
		}
		k.refer(t, ref, inventory.Legacy)
		k.refer(t, ref, inventory.LegacyAtt)
		k.ingest(t, ref, "")
		k.state(t, k.rogue, signer.Tainted)
		k.wipe(t, ref.Context().Name(), ref.DigestStr())
		got, _ := k.restore(t, newClient(), true)
		wantEqual(t, "result", got, want(true, func(r *Result) { r.Restored, r.Manifests, r.Reasons = 4, 4, map[Reason]int64{SignerTainted: 4} }))
		found := k.found(t, ref, "")
		wantEqual(t, "signatures", len(found), 4)
		for _, f := range found {
			if f.Signer != keyOf(t, k.good) || !f.Verified {
				t.Errorf("%s stands, by %s", f.Format, f.Signer)
			}
		}
		for what, raw := range k.standing(t, ref.Context().Name(), ref.DigestStr()) {
			m := manifestOf(t, []byte(raw))
			if config, ok := verify.Config(m); !ok || (m.Config.MediaType == emptyType) != (string(config) == "{}") {
				t.Errorf("the configuration of %s", raw)
			}
			if strings.HasPrefix(what, "sha256") && (m.ArtifactType == "" || m.Subject.Digest.String() != ref.DigestStr() || m.Annotations["by"] != "test") {
				t.Errorf("wrote %s", raw)
			}
		}
	})
	run("a denied digest, in another repository too", func(t *testing.T, k *kase, ref name.Digest) {
		k.all(t, ref, k.good)
		k.ingest(t, ref, "")
		k.wipe(t, ref.Context().Name(), ref.DigestStr())
		w := &wrapper{Registry: newClient()}
		got, _ := k.restore(t, w, true, func(o *Options) {
			o.DeniedArtifact = func(a inventory.Artifact) string {
				if a.Digest == ref.DigestStr() {
					return "denied"
				}
				return ""
			}
		})
		wantEqual(t, "result", got, want(true, func(r *Result) { r.Reasons = map[Reason]int64{ArtifactDenied: 4} }))
		wantEqual(t, "writes", w.writes, []string(nil))
	})
	run("another writer between look and write", func(t *testing.T, k *kase, ref name.Digest) {
		k.all(t, ref, k.good)
		known := k.ingest(t, ref, "")
		k.wipe(t, ref.Context().Name(), ref.DigestStr())
		tag, reads := verify.Tag(ref.DigestStr(), inventory.Legacy), 0
		w := &wrapper{Registry: newClient(), onRead: func(_, reference string) {
			if reference == tag {
				if reads++; reads == 2 {
					must(t, k.other.SignLegacy(t.Context(), ref, sandbox.NoProof))
				}
			}
		}}
		got, _ := k.restore(t, w, true)
		wantEqual(t, "restored, failed", []int64{got.Restored, got.Failed}, []int64{4, 0})
		ids := k.ids(t, ref)
		wantEqual(t, "signatures", len(ids), 5)
		for _, s := range known {
			wantEqual(t, string(s.Format), ids[s.ID], 1)
		}
	})
	run("another writer overwrites what was written", func(t *testing.T, k *kase, ref name.Digest) {
		must(t, errors.Join(k.good.SignLegacy(t.Context(), ref, sandbox.NoProof), k.good.SignBundle(t.Context(), ref, sandbox.NoProof)))
		k.ingest(t, ref, "")
		k.wipe(t, ref.Context().Name(), ref.DigestStr())
		must(t, k.other.SignLegacy(t.Context(), ref, sandbox.NoProof))
		tag, times := verify.Tag(ref.DigestStr(), inventory.Legacy), 1
		theirs, _ := k.tag(t, ref.Context().Name(), tag)
		w := &wrapper{Registry: newClient(), afterPut: func(repository, reference string) {
			if reference == tag && times > 0 {
				times--
				k.put(t, repository, tag, theirs)
			}
		}}
		got, _ := k.restore(t, w, true)
		wantEqual(t, "once", got, want(true, func(r *Result) { r.Restored, r.Manifests, r.Identical = 2, 2, 1 }))
		wantEqual(t, "signatures", len(k.ids(t, ref)), 3)

		k.put(t, ref.Context().Name(), tag, theirs)
		times = 1000
		got, items := k.restore(t, w, true)
		wantEqual(t, "without end", got, want(true, func(r *Result) { r.Already, r.Failed = 1, 1 }))
		at := slices.IndexFunc(items, func(i Item) bool { return i.Outcome == Failed })
		if !strings.Contains(items[at].Why, "another writer") {
			t.Errorf("failed because %q", items[at].Why)
		}
	})
	run("a referrers index that was emptied", func(t *testing.T, k *kase, ref name.Digest) {
		if k.api {
			t.Skip("there is no index")
		}
		k.all(t, ref, k.good)
		k.ingest(t, ref, "")
		ids := k.ids(t, ref)
		_, _, err := k.client.PutManifest(t.Context(), ref.Context().Name(), strings.Replace(ref.DigestStr(), ":", "-", 1), string(types.OCIImageIndex),
			[]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`))
		must(t, err)
		got, _ := k.restore(t, newClient(), true)
		wantEqual(t, "result", got, want(true, func(r *Result) { r.Restored, r.Already, r.Manifests, r.Identical = 2, 2, 2, 2 }))
		wantEqual(t, "signatures", k.ids(t, ref), ids)
	})
	run("a referrers list without end", func(t *testing.T, k *kase, ref name.Digest) {
		must(t, errors.Join(k.good.SignLegacy(t.Context(), ref, sandbox.NoProof), k.good.SignBundle(t.Context(), ref, sandbox.NoProof)))
		k.ingest(t, ref, "")
		k.wipe(t, ref.Context().Name(), ref.DigestStr())
		got, items := k.restore(t, crowd{newClient()}, true)
		wantEqual(t, "result", got, want(true, func(r *Result) { r.Restored, r.Failed, r.Manifests, r.Identical = 1, 1, 1, 1 }))
		at := slices.IndexFunc(items, func(i Item) bool { return i.Outcome == Failed })
		if !strings.Contains(items[at].Why, "1001 referrers") {
			t.Errorf("failed because %q", items[at].Why)
		}
	})
}

// crowd lists more referrers than anybody reads.
type crowd struct{ Registry }

func (crowd) Referrers(context.Context, string, string) ([]v1.Descriptor, error) {
	return make([]v1.Descriptor, maxReferrers+1), nil
}

// TestRefused has a registry that refuses to be read or written, in one place
// or in all: the rest goes on.
func TestRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, tc := range []struct {
		name   string
		refuse func(ref name.Digest) string // "METHOD /path" that is refused
		want   Result
	}{
		{"the image", func(ref name.Digest) string { return "HEAD " + path(ref) + "/manifests/" + ref.DigestStr() }, Result{Failed: 4}},
		{"a signature tag", func(ref name.Digest) string {
			return "GET " + path(ref) + "/manifests/" + verify.Tag(ref.DigestStr(), inventory.LegacyAtt)
		},
			Result{Failed: 1, Restored: 3, Manifests: 3, Identical: 3}},
		{"referrers", func(ref name.Digest) string { return "GET " + path(ref) + "/referrers/" }, Result{Failed: 2, Restored: 2, Manifests: 2, Identical: 2}},
		{"looking for blobs", func(ref name.Digest) string { return "HEAD " + path(ref) + "/blobs/" }, Result{Failed: 4}},
		{"blobs", func(ref name.Digest) string { return "POST " + path(ref) + "/blobs/" }, Result{Failed: 4}},
		{"tags", func(ref name.Digest) string { return "PUT " + path(ref) + "/manifests/sha256-" }, Result{Failed: 2, Restored: 2, Manifests: 2, Identical: 2}},
		{"manifests", func(ref name.Digest) string { return "PUT " + path(ref) + "/manifests/" }, Result{Failed: 4}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := b.newCase(t, true)
			ref := k.push(t, "app")
			k.all(t, ref, k.good)
			k.ingest(t, ref, "")
			k.wipe(t, ref.Context().Name(), ref.DigestStr())
			c := registry.New(registry.Options{Keychain: authn.NewMultiKeychain(), Transport: refuser{tc.refuse(ref)}})
			got, items := k.restore(t, c, true)
			wantEqual(t, "result", got, want(true, func(r *Result) {
				r.Failed, r.Restored, r.Manifests, r.Identical = tc.want.Failed, tc.want.Restored, tc.want.Manifests, tc.want.Identical
			}))
			for _, i := range items {
				if i.Outcome == Failed && !strings.Contains(i.Why, "403") {
					t.Errorf("failed because %q", i.Why)
				}
			}
			got, _ = k.restore(t, newClient(), true)
			wantEqual(t, "restored or already once it is allowed", got.Restored+got.Already, int64(4))
		})
	}
}

func path(ref name.Digest) string { return "/v2/" + ref.Context().RepositoryStr() }

// refuser refuses requests that begin so.
type refuser struct{ prefix string }

func (r refuser) RoundTrip(req *http.Request) (*http.Response, error) {
	if strings.HasPrefix(req.Method+" "+req.URL.Path, r.prefix) {
		return &http.Response{StatusCode: http.StatusForbidden, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
	}
	return http.DefaultTransport.RoundTrip(req)
}

// TestMany has more artifacts than one batch takes.
func TestMany(t *testing.T) {
	t.Parallel()
	const n = batch + 10
	b := newBench(t)
	k, quiet := b.newCase(t, true), b.newCase(t, true)
	for i := range n {
		ref := k.push(t, fmt.Sprint("v", i))
		must(t, k.good.SignLegacy(t.Context(), ref, sandbox.NoProof))
		k.ingest(t, ref, "")
		k.wipe(t, ref.Context().Name(), ref.DigestStr())
	}
	other := quiet.push(t, "other") // in the same inventory, and not selected
	must(t, k.good.SignLegacy(t.Context(), other, sandbox.NoProof))
	k.ingest(t, other, "")
	k.wipe(t, other.Context().Name(), other.DigestStr())
	o := Options{Verifier: k.trust, Selection: store.Selection{Prefix: k.host() + "/" + k.path}}

	o.MaxArtifacts = n - 1
	got, err := Restore(t.Context(), k.Store, newClient(), by, o, true, nil)
	if !errors.Is(err, ErrOverLimit) || got.Restored != batch {
		t.Errorf("restored %d, %v: want a batch and %v", got.Restored, err, ErrOverLimit)
	}
	var progress []Result
	o.MaxArtifacts = n
	got, err = Restore(t.Context(), k.Store, newClient(), by, o, true, func(r Result) { progress = append(progress, r) })
	must(t, err)
	wantEqual(t, "artifacts, restored, already, failed", []int64{got.Artifacts, got.Restored, got.Already, got.Failed}, []int64{n, 10, batch, 0})
	wantEqual(t, "progress", []int64{int64(len(progress)), progress[0].Artifacts, progress[1].Artifacts}, []int64{2, batch, n})
	wantEqual(t, "last progress", progress[1], got)
	wantEqual(t, "written to", got.Written, int64(10))
	// HEAD image, GET tag, HEAD blob; of what is put back also two HEADs and two
	// POSTs of blobs, GET, PUT and GET of the tag instead of one HEAD; and a ping.
	if most := int64(n*3 + 10*6 + 2); got.Requests > most {
		t.Errorf("%d requests, want no more than %d", got.Requests, most)
	}
	wantEqual(t, "not selected", k.countGone(t, other), 0)
	if raw, ok := k.tag(t, other.Context().Name(), verify.Tag(other.DigestStr(), inventory.Legacy)); ok {
		t.Errorf("what was not selected is there: %s", raw)
	}
}

// TestSideBySide has several restores at once: nothing stands twice.
func TestSideBySide(t *testing.T) {
	t.Parallel()
	both(t, newBench(t), func(t *testing.T, k *kase) {
		ref, exact, ids := k.mixed(t)
		client := newClient()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				got, err := Restore(t.Context(), k.Store, client, by, Options{Verifier: k.trust}, true, nil)
				if err != nil || got.Restored+got.Already != 4 || got.Failed != 0 {
					t.Errorf("%+v, %v", got, err)
				}
			})
		}
		wg.Wait()
		k.invariant(t, ref, exact, ids)
	})
}

func TestNoVerifier(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t, true)
	if _, err := Restore(t.Context(), k.Store, newClient(), by, Options{}, true, nil); err == nil {
		t.Error("it restores what nobody verified")
	}
}
