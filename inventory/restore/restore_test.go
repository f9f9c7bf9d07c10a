package restore

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// cosignAccepts verifies an image as cosign would.
func cosignAccepts(t *testing.T, b *bench, ref name.Digest, key crypto.PublicKey, f inventory.Format) {
	t.Helper()
	v, err := signature.LoadVerifier(key, crypto.SHA256)
	must(t, err)
	root, err := b.TrustedRoot()
	must(t, err)
	co := &cosign.CheckOpts{SigVerifier: v, TrustedMaterial: root, Offline: true, IgnoreSCT: true, IgnoreTlog: true,
		NewBundleFormat: f == inventory.Bundle, ClaimVerifier: cosign.IntotoSubjectClaimVerifier}
	if f == inventory.Legacy {
		co.ClaimVerifier = cosign.SimpleClaimVerifier
		_, _, err = cosign.VerifyImageSignatures(t.Context(), ref, co)
	} else {
		_, _, err = cosign.VerifyImageAttestations(t.Context(), ref, co)
	}
	if err != nil {
		t.Errorf("cosign refuses the %s: %v", f, err)
	}
}

// both runs a test on a registry with a referrers API and on one without.
func both(t *testing.T, b *bench, test func(t *testing.T, k *kase)) {
	for _, api := range []bool{true, false} {
		t.Run(fmt.Sprintf("referrers API=%v", api), func(t *testing.T) {
			t.Parallel()
			test(t, b.newCase(t, api))
		})
	}
}

// TestRestore loses every signature in every format and puts all of them back,
// to the byte.
func TestRestore(t *testing.T) {
	t.Parallel()
	both(t, newBench(t), func(t *testing.T, k *kase) {
		ref := k.push(t, "app")
		repository, digest := ref.Context().Name(), ref.DigestStr()
		k.all(t, ref, k.good)
		k.all(t, ref, k.other)
		k.refer(t, ref, inventory.Legacy)
		k.refer(t, ref, inventory.LegacyAtt)
		before, ids := k.standing(t, repository, digest), k.ids(t, ref)
		k.ingest(t, ref, "")
		k.gone(t, ref, "")
		k.wipe(t, repository, digest)
		wantEqual(t, "signatures", len(ids), 12)
		wantEqual(t, "gone", k.countGone(t, ref), 12)

		put := want(false, func(r *Result) { r.Restored, r.Manifests, r.Identical = 12, 8, 8 })
		got, items := k.restore(t, newClient(), false)
		wantEqual(t, "dry run", got, put)
		wantEqual(t, "told of", outcomes(items), map[Outcome]int{Restored: 12})
		wantEqual(t, "standing after the dry run", k.standing(t, repository, digest), map[string]string{})
		wantEqual(t, "gone after the dry run", k.countGone(t, ref), 12)
		wantEqual(t, "intents of the dry run", k.actions(t)["restore.intended"], 0)

		put.Applied = true
		got, items = k.restore(t, newClient(), true)
		wantEqual(t, "result", got, put)
		wantEqual(t, "standing", digests(k.standing(t, repository, digest)), digests(before))
		wantEqual(t, "signatures", k.ids(t, ref), ids)
		wantEqual(t, "gone", k.countGone(t, ref), 0)
		wantEqual(t, "intended, done", []int{k.actions(t)["restore.intended"], k.actions(t)["restore.done"]}, []int{8, 8})
		for _, i := range items {
			if i.Outcome != Restored || !i.Identical || i.Manifest != i.Signature.Manifest || i.Place == "" {
				t.Errorf("told %+v", i)
			}
		}
		for _, f := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt, inventory.Bundle} {
			cosignAccepts(t, k.bench, ref, k.good.PublicKey(), f)
		}

		w := &wrapper{Registry: newClient()}
		got, _ = k.restore(t, w, true)
		wantEqual(t, "second result", got, want(true, func(r *Result) { r.Already = 12 }))
		wantEqual(t, "second writes", w.writes, []string(nil))
		wantEqual(t, "second intents", k.actions(t)["restore.intended"], 8)
	})
}

func TestDryRunWritesNothing(t *testing.T) {
	t.Parallel()
	both(t, newBench(t), func(t *testing.T, k *kase) {
		ref := k.push(t, "app")
		k.all(t, ref, k.good)
		k.ingest(t, ref, "")
		k.wipe(t, ref.Context().Name(), ref.DigestStr())
		w := &wrapper{Registry: newClient()}
		got, _ := k.restore(t, w, false)
		wantEqual(t, "restored", got.Restored, int64(4))
		wantEqual(t, "writes", w.writes, []string(nil))
		ro := registry.ReadOnly(newClient())
		k.restore(t, ro, false)
		wantEqual(t, "writes held back", len(ro.Would()), 0)
	})
}

// TestPartly has part of what was signed still standing, in several ways.
func TestPartly(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, tc := range []struct {
		name string
		// lose signs, ingests and loses; what it returns must stand in the end.
		lose func(t *testing.T, k *kase, ref name.Digest) map[string]string
		want Result
	}{
		{"a tag that somebody overwrote gets back what it lost, as it was", func(t *testing.T, k *kase, ref name.Digest) map[string]string {
			tag := verify.Tag(ref.DigestStr(), inventory.Legacy)
			must(t, k.good.SignLegacy(t.Context(), ref, sandbox.NoProof))
			first, _ := k.tag(t, ref.Context().Name(), tag)
			must(t, k.other.SignLegacy(t.Context(), ref, sandbox.NoProof))
			before := k.standing(t, ref.Context().Name(), ref.DigestStr())
			k.ingest(t, ref, "")
			k.put(t, ref.Context().Name(), tag, first)
			return before
		}, Result{Restored: 1, Already: 1, Manifests: 1, Identical: 1}},
		{"two manifests that replaced each other become one", func(t *testing.T, k *kase, ref name.Digest) map[string]string {
			tag := verify.Tag(ref.DigestStr(), inventory.Legacy)
			must(t, k.good.SignLegacy(t.Context(), ref, sandbox.NoProof))
			k.ingest(t, ref, "")
			first, _ := k.tag(t, ref.Context().Name(), tag)
			k.wipe(t, ref.Context().Name(), ref.DigestStr())
			must(t, k.other.SignLegacy(t.Context(), ref, sandbox.NoProof))
			k.ingest(t, ref, "")
			second, _ := k.tag(t, ref.Context().Name(), tag)
			k.wipe(t, ref.Context().Name(), ref.DigestStr())
			return map[string]string{"layers of " + string(inventory.Legacy): layerSet(t, first, second)}
		}, Result{Restored: 2, Manifests: 1}},
		{"the manifest that replaced another gets what that one had", func(t *testing.T, k *kase, ref name.Digest) map[string]string {
			tag := verify.Tag(ref.DigestStr(), inventory.Legacy)
			must(t, k.good.SignLegacy(t.Context(), ref, sandbox.NoProof))
			k.ingest(t, ref, "")
			first, _ := k.tag(t, ref.Context().Name(), tag)
			k.wipe(t, ref.Context().Name(), ref.DigestStr())
			must(t, k.other.SignLegacy(t.Context(), ref, sandbox.NoProof))
			k.ingest(t, ref, "")
			second, _ := k.tag(t, ref.Context().Name(), tag)
			return map[string]string{"layers of " + string(inventory.Legacy): layerSet(t, first, second)}
		}, Result{Restored: 1, Already: 1, Manifests: 1}},
		{"what others added since stays", func(t *testing.T, k *kase, ref name.Digest) map[string]string {
			must(t, k.good.SignLegacy(t.Context(), ref, sandbox.NoProof))
			k.ingest(t, ref, "")
			first, _ := k.tag(t, ref.Context().Name(), verify.Tag(ref.DigestStr(), inventory.Legacy))
			k.wipe(t, ref.Context().Name(), ref.DigestStr())
			must(t, k.rogue.SignLegacy(t.Context(), ref, sandbox.RekorV1)) // no scan saw it
			second, _ := k.tag(t, ref.Context().Name(), verify.Tag(ref.DigestStr(), inventory.Legacy))
			return map[string]string{"layers of " + string(inventory.Legacy): layerSet(t, first, second)}
		}, Result{Restored: 1, Manifests: 1}},
		{"only blobs are lost", func(t *testing.T, k *kase, ref name.Digest) map[string]string {
			k.all(t, ref, k.good)
			before := k.standing(t, ref.Context().Name(), ref.DigestStr())
			k.ingest(t, ref, "")
			for _, raw := range before {
				var m v1.Manifest
				must(t, json.Unmarshal([]byte(raw), &m))
				k.deleteBlob(t, ref.Context().Name(), m.Layers[0].Digest.String())
			}
			return before
		}, Result{Restored: 4}},
		{"a copy without its proof stands in its place", func(t *testing.T, k *kase, ref name.Digest) map[string]string {
			tag := verify.Tag(ref.DigestStr(), inventory.Legacy)
			must(t, k.good.SignLegacy(t.Context(), ref, sandbox.RekorV1|sandbox.Timestamp))
			k.ingest(t, ref, "")
			full, _ := k.tag(t, ref.Context().Name(), tag)
			var m v1.Manifest
			must(t, json.Unmarshal(full, &m))
			delete(m.Layers[0].Annotations, "dev.sigstore.cosign/bundle")
			stripped, err := json.Marshal(m)
			must(t, err)
			k.put(t, ref.Context().Name(), tag, stripped)
			k.ingest(t, ref, "")
			return map[string]string{"layers of " + string(inventory.Legacy): layerSet(t, full, stripped)}
		}, Result{Restored: 1, Manifests: 1}},
		{"a bundle that somebody attached again in another manifest is there", func(t *testing.T, k *kase, ref name.Digest) map[string]string {
			must(t, k.good.SignBundle(t.Context(), ref, sandbox.NoProof))
			k.ingest(t, ref, "")
			for _, raw := range k.standing(t, ref.Context().Name(), ref.DigestStr()) {
				k.attach(t, ref, []byte(raw), func(m *v1.Manifest) { m.Annotations = map[string]string{"other": "wrapper"} })
				must(t, k.client.Detach(t.Context(), ref.Context().Name(), inventory.Digest([]byte(raw)), ref.DigestStr()))
			}
			return k.standing(t, ref.Context().Name(), ref.DigestStr())
		}, Result{Already: 1}},
		{"a manifest that nobody can read, because it says that its layer is smaller", func(t *testing.T, k *kase, ref name.Digest) map[string]string {
			tag := verify.Tag(ref.DigestStr(), inventory.Legacy)
			must(t, k.good.SignLegacy(t.Context(), ref, sandbox.NoProof))
			k.ingest(t, ref, "")
			raw, _ := k.tag(t, ref.Context().Name(), tag)
			m := manifestOf(t, raw)
			m.Layers[0].Size--
			small, err := json.Marshal(m)
			must(t, err)
			k.put(t, ref.Context().Name(), tag, small)
			return map[string]string{"layers of " + string(inventory.Legacy): layerSet(t, raw, small)}
		}, Result{Restored: 1, Manifests: 1}},
		{"a bundle that nobody reads, because it is not alone in its manifest", func(t *testing.T, k *kase, ref name.Digest) map[string]string {
			must(t, k.good.SignBundle(t.Context(), ref, sandbox.NoProof))
			k.ingest(t, ref, "")
			before := k.standing(t, ref.Context().Name(), ref.DigestStr())
			for _, raw := range k.standing(t, ref.Context().Name(), ref.DigestStr()) {
				crowded := k.attach(t, ref, []byte(raw), func(m *v1.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) })
				must(t, k.client.Detach(t.Context(), ref.Context().Name(), inventory.Digest([]byte(raw)), ref.DigestStr()))
				before[crowded] = k.standing(t, ref.Context().Name(), ref.DigestStr())[crowded]
			}
			return before
		}, Result{Restored: 1, Manifests: 1, Identical: 1}},
		{"a configuration that cannot be made again stands in the registry", func(t *testing.T, k *kase, ref name.Digest) map[string]string {
			k.odd(t, ref)
			k.ingest(t, ref, "")
			before := k.standing(t, ref.Context().Name(), ref.DigestStr())
			must(t, k.client.Delete(t.Context(), ref.Context().Name(), verify.Tag(ref.DigestStr(), inventory.Legacy)))
			return before
		}, Result{Restored: 1, Manifests: 1, Identical: 1}},
		{"a configuration that cannot be made again is lost", func(t *testing.T, k *kase, ref name.Digest) map[string]string {
			k.odd(t, ref)
			k.ingest(t, ref, "")
			raw, _ := k.tag(t, ref.Context().Name(), verify.Tag(ref.DigestStr(), inventory.Legacy))
			k.wipe(t, ref.Context().Name(), ref.DigestStr())
			return map[string]string{"layers of " + string(inventory.Legacy): layerSet(t, raw)}
		}, Result{Restored: 1, Manifests: 1}},
		{"cosign's referrers that hold the same signatures come back in the fewest manifests", func(t *testing.T, k *kase, ref name.Digest) map[string]string {
			must(t, k.good.SignLegacy(t.Context(), ref, sandbox.NoProof))
			k.refer(t, ref, inventory.Legacy)
			first := k.standing(t, ref.Context().Name(), ref.DigestStr())
			must(t, k.other.SignLegacy(t.Context(), ref, sandbox.NoProof))
			k.refer(t, ref, inventory.Legacy)
			before := k.standing(t, ref.Context().Name(), ref.DigestStr())
			k.ingest(t, ref, "")
			k.wipe(t, ref.Context().Name(), ref.DigestStr())
			delete(first, string(inventory.Legacy))
			maps.DeleteFunc(before, func(digest, _ string) bool { return first[digest] != "" })
			return before
		}, Result{Restored: 4, Manifests: 2, Identical: 2}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			both(t, b, func(t *testing.T, k *kase) {
				ref := k.push(t, "app")
				stands := tc.lose(t, k, ref)
				result := want(true, func(r *Result) {
					r.Restored, r.Already, r.Manifests, r.Identical = tc.want.Restored, tc.want.Already, tc.want.Manifests, tc.want.Identical
				})
				got, _ := k.restore(t, newClient(), true)
				wantEqual(t, "result", got, result)
				k.check(t, ref, stands)
				w := &wrapper{Registry: newClient()}
				got, _ = k.restore(t, w, true)
				wantEqual(t, "second result", got, want(true, func(r *Result) { r.Already = result.Signatures }))
				wantEqual(t, "second writes", w.writes, []string(nil))
				k.check(t, ref, stands)
				wantEqual(t, "gone", k.countGone(t, ref), 0)
				list, err := k.SignaturesEver(t.Context(), inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr()})
				must(t, err)
				for _, s := range list {
					if raw, ok := k.tag(t, ref.Context().Name(), verify.Tag(ref.DigestStr(), s.Format)); ok && s.Format == inventory.Legacy {
						wantEqual(t, "manifest, as the inventory has it", s.Manifest, inventory.Digest(raw))
					}
				}
				if strings.Contains(tc.name, "nobody") {
					return // what stands there is a problem to whoever reads it
				}
				for _, f := range k.found(t, ref, "") {
					if !f.Verified {
						t.Errorf("%s does not verify: %s", f.Format, f.Why)
					}
				}
			})
		})
	}
}

// put writes a manifest under a tag.
func (k *kase) put(t testing.TB, repository, tag string, raw []byte) {
	t.Helper()
	_, _, err := k.client.PutManifest(t.Context(), repository, tag, ociManifest, raw)
	must(t, err)
}

// odd signs an image with a configuration that says more than cosign's does.
func (k *kase) odd(t testing.TB, ref name.Digest) {
	t.Helper()
	must(t, k.good.SignLegacy(t.Context(), ref, sandbox.NoProof))
	tag := verify.Tag(ref.DigestStr(), inventory.Legacy)
	raw, _ := k.tag(t, ref.Context().Name(), tag)
	var m v1.Manifest
	must(t, json.Unmarshal(raw, &m))
	content := []byte(fmt.Sprintf(`{"odd":%q}`, ref.String()))
	d, err := k.client.PutBlob(t.Context(), ref.Context().Name(), content)
	must(t, err)
	m.Config.Digest, err = v1.NewHash(d)
	must(t, err)
	m.Config.Size = int64(len(content))
	raw, err = json.Marshal(m)
	must(t, err)
	k.put(t, ref.Context().Name(), tag, raw)
}

// layerSet returns the layers of manifests, in an order of their own.
func layerSet(t testing.TB, manifests ...[]byte) string {
	t.Helper()
	var all []string
	for _, raw := range manifests {
		all = append(all, layersOf(t, raw)...)
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// check holds what stands on an image against what must: whole manifests, or
// "layers of" a format.
func (k *kase) check(t *testing.T, ref name.Digest, want map[string]string) {
	t.Helper()
	got := k.standing(t, ref.Context().Name(), ref.DigestStr())
	for what := range want {
		if f, ok := strings.CutPrefix(what, "layers of "); ok {
			got[what] = layerSet(t, []byte(got[f]))
			delete(got, f)
		}
	}
	wantEqual(t, "standing", digests(got), digests(want))
}

// TestLocation has signatures that are kept in another repository
// (COSIGN_REPOSITORY).
func TestLocation(t *testing.T) {
	t.Parallel()
	both(t, newBench(t), func(t *testing.T, k *kase) {
		ref := k.push(t, "app")
		repository, location := ref.Context().Name(), ref.Context().Name()+"-signatures"
		k.all(t, ref, k.good)
		stands := k.move(t, ref, location)
		k.ingest(t, ref, location)
		k.wipe(t, location, ref.DigestStr())
		got, items := k.restore(t, newClient(), true)
		wantEqual(t, "result", got, want(true, func(r *Result) { r.Restored, r.Manifests, r.Identical = 4, 4, 4 }))
		wantEqual(t, "in the location", digests(k.standing(t, location, ref.DigestStr())), digests(stands))
		wantEqual(t, "in the repository", k.standing(t, repository, ref.DigestStr()), map[string]string{})
		for _, i := range items {
			if !strings.HasPrefix(i.Place, location) || i.Signature.Location != location {
				t.Errorf("%+v", i)
			}
		}
		wantEqual(t, "signatures", len(k.found(t, ref, location)), 4)
	})
}

// move moves what stands on an image to another repository, and returns it.
func (k *kase) move(t testing.TB, ref name.Digest, location string) map[string]string {
	t.Helper()
	repository := ref.Context().Name()
	for what, raw := range k.standing(t, repository, ref.DigestStr()) {
		if strings.HasPrefix(what, "legacy") {
			k.put(t, location, verify.Tag(ref.DigestStr(), inventory.Format(what)), []byte(raw))
		} else {
			_, err := k.client.Attach(t.Context(), location, []byte(raw), ociManifest, v1.Descriptor{}, ref.DigestStr())
			must(t, err)
		}
		must(t, k.client.Delete(t.Context(), repository, inventory.Digest([]byte(raw))))
	}
	must(t, k.client.Delete(t.Context(), repository, strings.Replace(ref.DigestStr(), ":", "-", 1)))
	return k.standing(t, location, ref.DigestStr())
}

// TestLeftOut has everything that may not go back beside what may.
func TestLeftOut(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	good := func(i inventory.Signature) bool { return i.Signer.Subject == keyOf(t, b.good).Subject }
	for _, tc := range []struct {
		name   string
		before func(t *testing.T, k *kase, ref name.Digest) func(*Options)
		want   Result
		stays  func(inventory.Signature) bool // what stands in the end
	}{
		{"signer tainted", func(t *testing.T, k *kase, _ name.Digest) func(*Options) {
			k.state(t, k.rogue, signer.Tainted)
			return nil
		}, Result{Restored: 4, Reasons: map[Reason]int64{SignerTainted: 4}, Manifests: 4, Identical: 2}, good},
		{"signer revoked", func(t *testing.T, k *kase, _ name.Digest) func(*Options) {
			k.state(t, k.rogue, signer.Revoked)
			return nil
		}, Result{Restored: 4, Reasons: map[Reason]int64{SignerRevoked: 4}, Manifests: 4, Identical: 2}, good},
		{"signatures denied", func(t *testing.T, k *kase, _ name.Digest) func(*Options) {
			return func(o *Options) {
				o.Denied = func(s inventory.Signature) string {
					if good(s) {
						return ""
					}
					return "rogue since tuesday"
				}
			}
		}, Result{Restored: 4, Reasons: map[Reason]int64{Denied: 4}, Manifests: 4, Identical: 2}, good},
		{"artifact denied", func(t *testing.T, k *kase, ref name.Digest) func(*Options) {
			return func(o *Options) {
				o.DeniedArtifact = func(a inventory.Artifact) string {
					if a.Digest == ref.DigestStr() {
						return "rogue image"
					}
					return ""
				}
			}
		}, Result{Reasons: map[Reason]int64{ArtifactDenied: 8}}, func(inventory.Signature) bool { return false }},
		{"no longer trusted", func(t *testing.T, k *kase, _ name.Digest) func(*Options) {
			v, err := verify.New(verify.Trust{Keys: []crypto.PublicKey{k.good.PublicKey()}})
			must(t, err)
			return func(o *Options) { o.Verifier = v }
			// A log entry names the key that signed.
		}, Result{Restored: 5, Reasons: map[Reason]int64{NoCopy: 3}, Manifests: 4, Identical: 3},
			func(s inventory.Signature) bool { return good(s) || s.Format == inventory.Legacy }},
		{"all image signatures denied: no bundle passes for one", func(t *testing.T, k *kase, _ name.Digest) func(*Options) {
			k.state(t, k.rogue, signer.Tainted)
			return func(o *Options) {
				o.Denied = func(s inventory.Signature) string {
					if s.PredicateType == inventory.SignPredicate {
						return "denied"
					}
					return ""
				}
			}
		}, Result{Restored: 1, Reasons: map[Reason]int64{SignerTainted: 4, Denied: 2, ImageUnsigned: 1}, Manifests: 1},
			func(s inventory.Signature) bool { return good(s) && s.Format == inventory.LegacyAtt }},
		{"image signatures by a tainted signer and a stranger: no bundle passes for one", func(t *testing.T, k *kase, ref name.Digest) func(*Options) {
			k.state(t, k.rogue, signer.Tainted)
			k.state(t, k.other, signer.Observed)
			must(t, k.other.SignLegacy(t.Context(), ref, sandbox.NoProof))
			return func(o *Options) {
				o.Denied = func(s inventory.Signature) string {
					if good(s) && s.PredicateType == inventory.SignPredicate {
						return "denied"
					}
					return ""
				}
			}
		}, Result{Restored: 2, Reasons: map[Reason]int64{SignerTainted: 4, Denied: 2, ImageUnsigned: 1}, Manifests: 2},
			func(s inventory.Signature) bool {
				return good(s) && s.Format == inventory.LegacyAtt || s.Signer == keyOf(t, b.other)
			}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			both(t, b, func(t *testing.T, k *kase) {
				ref := k.push(t, "app")
				k.all(t, ref, k.good)
				k.all(t, ref, k.rogue)
				change := tc.before(t, k, ref)
				if change == nil {
					change = func(*Options) {}
				}
				known := k.ingest(t, ref, "")
				k.wipe(t, ref.Context().Name(), ref.DigestStr())
				stays := map[string]int{}
				for _, s := range known {
					if tc.stays(s) {
						stays[s.ID] = 1
					}
				}
				for _, apply := range []bool{false, true} {
					got, items := k.restore(t, newClient(), apply, change)
					wantEqual(t, fmt.Sprintf("result, apply=%v", apply), got, want(apply, func(r *Result) {
						r.Restored, r.Reasons, r.Manifests, r.Identical = tc.want.Restored, tc.want.Reasons, tc.want.Manifests, tc.want.Identical
					}))
					for _, i := range items {
						if (i.Outcome == LeftOut) != (i.Reason != "") || (i.Outcome == LeftOut) != (i.Why != "") {
							t.Errorf("told %+v", i)
						}
					}
				}
				wantEqual(t, "signatures", k.ids(t, ref), stays)
				w := &wrapper{Registry: newClient()}
				got, _ := k.restore(t, w, true, change)
				wantEqual(t, "second", []int64{got.Restored, got.Already, int64(len(w.writes))}, []int64{0, tc.want.Restored, 0})
			})
		})
	}
}

// TestOrder puts claims back after what says that the image is signed:
// verifiers that find a bundle look no further.
func TestOrder(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t, true)
	ref := k.push(t, "app")
	must(t, errors.Join(k.good.AttestBundle(t.Context(), ref, vex, nil, sandbox.NoProof), k.good.AttestBundle(t.Context(), ref, spdx, nil, sandbox.NoProof)))
	k.all(t, ref, k.good)
	k.ingest(t, ref, "")
	k.wipe(t, ref.Context().Name(), ref.DigestStr())
	var order []string
	w := &wrapper{Registry: newClient(), afterPut: func(_, reference string) {
		order = append(order, "tag")
		if reference == ref.DigestStr() {
			list, err := k.client.Referrers(t.Context(), ref.Context().Name(), ref.DigestStr())
			must(t, err)
			order[len(order)-1] = list[len(list)-1].Annotations["dev.sigstore.bundle.predicateType"]
		}
	}}
	k.restore(t, w, true)
	slices.Sort(order[3:])
	wantEqual(t, "order", order, []string{"tag", inventory.SignPredicate, "tag", vex, spdx, spdx})
}

func keyOf(t testing.TB, a *sandbox.Actor) signer.Identity {
	t.Helper()
	id, err := signer.OfKey(a.PublicKey())
	must(t, err)
	return id
}

func TestNotToBeRestored(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t, true)
	ref := k.push(t, "app")
	k.all(t, ref, k.good)
	k.ingest(t, ref, "")
	k.wipe(t, ref.Context().Name(), ref.DigestStr())
	must(t, k.Update(t.Context(), by, func(tx *store.Tx) error {
		detached := inventory.Signature{ID: "d", Repository: ref.Context().Name(), Digest: ref.DigestStr(), Format: inventory.Detached, Verified: true,
			Signer: keyOf(t, k.good), PredicateType: spdx}
		file := detached
		file.ID, file.Repository = "f", inventory.Files
		return errors.Join(tx.PutSignature(t.Context(), detached), tx.PutSignature(t.Context(), file))
	}))
	must(t, k.client.Delete(t.Context(), ref.Context().Name(), ref.DigestStr()))
	everything := func(o *Options) { o.Selection = store.Selection{} }
	w := &wrapper{Registry: newClient()}
	got, items := k.restore(t, w, true, everything)
	wantEqual(t, "result", got, want(true, func(r *Result) { r.Artifacts, r.MissingSubject, r.Skipped = 2, 4, 2 }))
	wantEqual(t, "told of", outcomes(items), map[Outcome]int{MissingSubject: 4, Skipped: 2})
	wantEqual(t, "writes", w.writes, []string(nil))

	// Once the image is there again, so are its signatures.
	k.push(t, "app")
	got, _ = k.restore(t, newClient(), true, everything)
	wantEqual(t, "result", got, want(true, func(r *Result) { r.Artifacts, r.Restored, r.Skipped, r.Manifests, r.Identical = 2, 4, 2, 4, 4 }))
}

// TestCannot has places to which nothing can be added: they are left as they
// are, and what should be there is listed as failed.
func TestCannot(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, tc := range []struct {
		name, says string
		set        func(t *testing.T, k *kase, repository, tag string, old []byte)
	}{
		{"an index", "cannot be added to", func(t *testing.T, k *kase, repository, tag string, _ []byte) {
			_, _, err := k.client.PutManifest(t.Context(), repository, tag, string(types.OCIImageIndex),
				[]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`))
			must(t, err)
		}},
		{"a manifest of another kind", "cannot be added to", func(t *testing.T, k *kase, repository, tag string, _ []byte) {
			const kind = "application/vnd.oci.artifact.manifest.v1+json"
			_, _, err := k.client.PutManifest(t.Context(), repository, tag, kind, []byte(`{"mediaType":"`+kind+`","blobs":[]}`))
			must(t, err)
		}},
		{"too many signatures", "no more than 1000", func(t *testing.T, k *kase, repository, tag string, old []byte) {
			var m v1.Manifest
			must(t, json.Unmarshal(old, &m))
			m.Layers = slices.Repeat(m.Layers, 1000)
			for n := range m.Layers {
				m.Layers[n].Annotations = map[string]string{"dev.cosignproject.cosign/signature": "AAAA", "n": fmt.Sprint(n)}
			}
			raw, err := json.Marshal(m)
			must(t, err)
			k.put(t, repository, tag, raw)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := b.newCase(t, true)
			ref := k.push(t, "app")
			repository, tag := ref.Context().Name(), verify.Tag(ref.DigestStr(), inventory.Legacy)
			must(t, errors.Join(k.good.SignLegacy(t.Context(), ref, sandbox.NoProof), k.good.SignBundle(t.Context(), ref, sandbox.NoProof)))
			k.ingest(t, ref, "")
			old, _ := k.tag(t, repository, tag)
			for digest := range k.standing(t, repository, ref.DigestStr()) {
				if strings.HasPrefix(digest, "sha256:") {
					must(t, k.client.Detach(t.Context(), repository, digest, ref.DigestStr()))
				}
			}
			tc.set(t, k, repository, tag, old)
			before, _ := k.tag(t, repository, tag)
			got, items := k.restore(t, newClient(), true)
			wantEqual(t, "result", got, want(true, func(r *Result) { r.Failed, r.Restored, r.Manifests, r.Identical = 1, 1, 1, 1 }))
			for _, i := range items {
				if i.Outcome == Failed && !strings.Contains(i.Why, tc.says) {
					t.Errorf("says %q", i.Why)
				}
			}
			after, _ := k.tag(t, repository, tag)
			wantEqual(t, "what is there", string(after), string(before))
		})
	}
}
