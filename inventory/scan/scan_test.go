package scan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/verify"
)

// sites are the registries every scan is tested against.
func (b *bench) sites() map[string]string {
	return map[string]string{"referrers API": b.Registry(), "fallback tags": b.old}
}

// fill pushes one of everything and returns the artifacts by name.
func (k *kase) fill(t testing.TB) map[string]name.Digest {
	t.Helper()
	ctx := t.Context()
	refs := map[string]name.Digest{}
	for _, n := range []string{"plain", "legacy", "att", "bundle", "all", "deleted", "oci11"} {
		refs[n] = k.push(t, n)
	}
	index, err := k.PushIndex(ctx, k.path, "index", k.path+"index")
	must(t, err)
	refs["index"] = k.at(t, index.DigestStr())
	m, err := k.client.Manifest(ctx, k.repo, index.DigestStr())
	must(t, err)
	children, err := registry.Descriptors(k.repo, m)
	must(t, err)
	refs["child"], refs["other child"] = k.at(t, children[0].Digest.String()), k.at(t, children[1].Digest.String())
	a := k.actor
	must(t, errors.Join(
		a.SignLegacy(ctx, refs["legacy"], sandbox.RekorV1), a.AttestLegacy(ctx, refs["att"], spdx, nil, sandbox.Timestamp), a.SignBundle(ctx, refs["bundle"], sandbox.RekorV2|sandbox.Timestamp),
		a.SignLegacy(ctx, refs["all"], sandbox.NoProof), a.AttestLegacy(ctx, refs["all"], spdx, nil, sandbox.NoProof), a.SignBundle(ctx, refs["all"], sandbox.NoProof), a.AttestBundle(ctx, refs["all"], spdx, nil, sandbox.NoProof),
		a.SignLegacy(ctx, refs["index"], sandbox.NoProof), a.SignBundle(ctx, refs["child"], sandbox.NoProof), a.SignLegacy(ctx, refs["deleted"], sandbox.NoProof)))
	must(t, k.client.Delete(ctx, k.repo, refs["deleted"].DigestStr()))

	// A ".sig" and an ".att" as OCI 1.1 referrers, as cosign's experimental mode
	// and its attestation referrers have them.
	must(t, errors.Join(a.SignLegacy(ctx, refs["oci11"], sandbox.RekorV1), a.AttestLegacy(ctx, refs["oci11"], spdx, nil, sandbox.NoProof)))
	sig, _ := k.tagged(t, refs["oci11"], inventory.Legacy)
	att, _ := k.tagged(t, refs["oci11"], inventory.LegacyAtt)
	for _, f := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt} {
		must(t, k.client.Delete(ctx, k.repo, verify.Tag(refs["oci11"].DigestStr(), f)))
	}
	sig.ArtifactType, sig.Config.MediaType = referrerType, referrerType
	att.ArtifactType = "application/vnd.in-toto+json"
	att.Config = k.blob(t, "application/vnd.oci.empty.v1+json", []byte("{}"))
	k.attach(t, refs["oci11"], sig)
	k.attach(t, refs["oci11"], att)

	// An SBOM beside an image, and one that refers to it: both unsigned claims,
	// both artifacts, both signed as such.
	sbom := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: k.blob(t, "application/vnd.oci.image.config.v1+json", []byte("{}")),
		Layers: []v1.Descriptor{k.blob(t, "text/spdx+json", []byte(`{"spdxVersion":"SPDX-2.3"}`))}}
	refs["sbom"] = k.at(t, k.put(t, strings.TrimSuffix(verify.Tag(refs["all"].DigestStr(), inventory.Legacy), ".sig")+".sbom", string(sbom.MediaType), sbom))
	sbom.ArtifactType = "text/spdx+json"
	refs["sbom referrer"] = k.at(t, k.attach(t, refs["all"], sbom))
	must(t, errors.Join(a.SignLegacy(ctx, refs["sbom"], sandbox.NoProof), a.SignBundle(ctx, refs["sbom referrer"], sandbox.NoProof)))
	return refs
}

const referrerType = "application/vnd.dev.cosign.artifact.sig.v1+json"

// filled is what a scan finds of what fill pushed, by the names of fill.
var filled = map[string]string{
	"plain": "legacy", "legacy": "legacy", "att": "legacy-att", "bundle": "bundle", "all": "bundle bundle legacy legacy-att",
	"index": "legacy", "child": "bundle", "other child": "", "deleted": "legacy", "oci11": "referrer referrer-att", "sbom": "legacy", "sbom referrer": "bundle",
}

func TestScan(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for site, host := range b.sites() {
		t.Run(site, func(t *testing.T) {
			t.Parallel()
			k := b.newCaseAt(t, host, "acme/"+strings.ReplaceAll(site, " ", "-")[:4])
			refs := k.fill(t)
			stranger, err := k.NewActor("stranger")
			must(t, err)
			must(t, stranger.SignLegacy(t.Context(), refs["plain"], sandbox.NoProof))
			got := k.scan(t, k.client)
			wantEqual(t, "result", got, Result{Repositories: 1, Artifacts: 12, Signatures: 15, Verified: 14, Unverified: 1})

			known := k.artifacts(t)
			wantEqual(t, "artifacts", len(known), len(filled))
			for n, want := range filled {
				a, ok := known[refs[n].DigestStr()]
				if !ok {
					t.Errorf("%s is not in the inventory", n)
					continue
				}
				tags := []string{n}
				if strings.Contains(n, "child") || strings.Contains(n, "sbom") || n == "deleted" {
					tags = nil
				}
				if len(a.Tags)+len(tags) > 0 {
					wantEqual(t, "tags of "+n, a.Tags, tags)
				}
				if (a.Size == 0) != (n == "deleted") {
					t.Errorf("the size of %s is %d", n, a.Size)
				}
				wantEqual(t, "formats of "+n, k.formats(t, refs[n]), want)
				for _, g := range k.signatures(t, refs[n]) {
					if g.Verified != (n != "plain") {
						t.Errorf("%s: verified is %v (%s)", n, g.Verified, g.Why)
					}
					k.restorable(t, g)
				}
			}
			for n, proofs := range map[string]int{"legacy": 1, "att": 1, "bundle": 1, "all": 0} {
				g := k.signatures(t, refs[n])[0]
				proven := 0
				for _, b := range g.Bounds {
					if b.Verified && b.Side == inventory.Upper {
						proven++
					}
				}
				wantEqual(t, "proofs of time of "+n, proven, proofs)
			}
			wantEqual(t, "problems", k.problems(t), []string(nil))

			// Nothing has changed.
			verified, journaled := k.judge.n.Load(), k.journaled(t)
			k.wire.take()
			again := k.scan(t, k.client)
			unchanged := again.Unchanged
			again.Unchanged = 0
			wantEqual(t, "second result", again, got)
			if unchanged < 15 {
				t.Errorf("%d references are unchanged", unchanged)
			}
			wantEqual(t, "verifications", k.judge.n.Load(), verified)
			wantEqual(t, "seen by the second scan", k.sightings(t, journaled), []string(nil))
			if n := k.wire.take()["GET manifests"] + k.wire.take()["GET blobs"]; n != 0 {
				t.Errorf("%d manifests and blobs fetched again", n)
			}
		})
	}
}

// restorable checks that the vault has every byte of a signature as the registry
// has it, or what those follow from.
func (k *kase) restorable(t testing.TB, g inventory.Signature) {
	t.Helper()
	raw, err := k.Vault(t.Context(), g.Manifest)
	must(t, err)
	var m v1.Manifest
	must(t, json.Unmarshal(raw, &m))
	for _, l := range m.Layers {
		if _, err := k.Vault(t.Context(), l.Digest.String()); err != nil {
			t.Errorf("a layer: %v", err)
		}
	}
	config, known := verify.Config(m)
	if !known {
		config, err = k.Vault(t.Context(), m.Config.Digest.String())
		must(t, err)
	}
	have, err := k.client.Blob(t.Context(), k.repo, m.Config.Digest.String(), 1<<20)
	must(t, err)
	wantEqual(t, "configuration", string(config), string(have))
}

// TestRequests counts every request of a first and a second scan.
func TestRequests(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const n = 12
	type counts = map[string]int
	for _, tc := range []struct {
		name, host    string
		sign          func(context.Context, name.Digest) error
		first, second counts
	}{
		{"legacy fallback", b.old, func(ctx context.Context, ref name.Digest) error { return b.actor.SignLegacy(ctx, ref, sandbox.RekorV1) },
			counts{"GET tags": 1, "GET referrers": 1, "GET manifests": 2 * n, "GET blobs": n},
			counts{"GET tags": 1, "GET referrers": 1, "HEAD manifests": 2 * n}},
		{"legacy api", b.Registry(), func(ctx context.Context, ref name.Digest) error { return b.actor.SignLegacy(ctx, ref, sandbox.RekorV1) },
			counts{"GET tags": 1, "GET referrers": n + 1, "GET manifests": 2 * n, "GET blobs": n},
			counts{"GET tags": 1, "GET referrers": n + 1, "HEAD manifests": 2 * n}},
		{"bundle fallback", b.old, func(ctx context.Context, ref name.Digest) error { return b.actor.SignBundle(ctx, ref, sandbox.RekorV1) },
			counts{"GET tags": 1, "GET referrers": 1, "GET manifests": 3 * n, "GET blobs": n},
			counts{"GET tags": 1, "GET referrers": 1, "HEAD manifests": 2 * n}},
		{"bundle api", b.Registry(), func(ctx context.Context, ref name.Digest) error { return b.actor.SignBundle(ctx, ref, sandbox.RekorV1) },
			counts{"GET tags": 1, "GET referrers": n + 1, "GET manifests": 2 * n, "GET blobs": n},
			counts{"GET tags": 1, "GET referrers": n + 1, "HEAD manifests": n}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := b.newCaseAt(t, tc.host, "acme/"+strings.ReplaceAll(tc.name, " ", "-"))
			for i := range n {
				must(t, tc.sign(t.Context(), k.push(t, fmt.Sprintf("v%d", i))))
			}
			for _, want := range []counts{tc.first, tc.second} {
				client, wire := newClient(t) // which has learned nothing yet
				verified := k.judge.n.Load()
				r := k.scan(t, client)
				wantEqual(t, "requests", wire.take(), want)
				wantEqual(t, "signatures", r.Verified, int64(n))
				wantEqual(t, "verifications", int(k.judge.n.Load()-verified), want["GET blobs"])
			}
		})
	}
}

// TestChanges changes one thing between two scans: the second sees it, and
// fetches nothing else.
func TestChanges(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	other, err := b.NewActor("other")
	must(t, err)
	type counts = map[string]int
	for n, tc := range []struct {
		name   string
		change func(t *testing.T, k *kase, refs map[string]name.Digest)
		seen   []string // what the second scan puts into the journal
		at     string   // the artifact it is about
		after  string   // the formats of its signatures then
		api    counts   // fetched, with the referrers API
		old    counts   // and without
	}{
		{"nothing", func(*testing.T, *kase, map[string]name.Digest) {}, nil, "all", filled["all"], nil, nil},
		{"new layer in an existing .sig", func(t *testing.T, k *kase, refs map[string]name.Digest) {
			must(t, other.SignLegacy(t.Context(), refs["legacy"], sandbox.NoProof))
		}, []string{"signature.reverified", "signature.seen", "tag.seen"}, "legacy", "legacy legacy", counts{"GET manifests": 1, "GET blobs": 2}, counts{"GET manifests": 1, "GET blobs": 2}},
		{"layer taken out of a .sig", func(t *testing.T, k *kase, refs map[string]name.Digest) {
			image, _ := k.tagged(t, refs["legacy"], inventory.Legacy)
			image.Layers = nil
			k.retag(t, refs["legacy"], inventory.Legacy, image)
		}, []string{"signature.gone", "tag.seen"}, "legacy", "", counts{"GET manifests": 1, "GET blobs": 1}, counts{"GET manifests": 1, "GET blobs": 1}},
		{"deleted .sig", func(t *testing.T, k *kase, refs map[string]name.Digest) {
			must(t, k.client.Delete(t.Context(), k.repo, verify.Tag(refs["all"].DigestStr(), inventory.Legacy)))
		}, []string{"signature.gone", "tag.gone"}, "all", "bundle bundle legacy-att", nil, nil},
		{"deleted .att", func(t *testing.T, k *kase, refs map[string]name.Digest) {
			must(t, k.client.Delete(t.Context(), k.repo, verify.Tag(refs["all"].DigestStr(), inventory.LegacyAtt)))
		}, []string{"signature.gone", "tag.gone"}, "all", "bundle bundle legacy", nil, nil},
		{"new referrer", func(t *testing.T, k *kase, refs map[string]name.Digest) {
			must(t, other.SignBundle(t.Context(), refs["bundle"], sandbox.NoProof))
		}, []string{"signature.seen", "tag.seen"}, "bundle", "bundle bundle", counts{"GET manifests": 2, "GET blobs": 2}, counts{"GET manifests": 3, "GET blobs": 2}},
		{"deleted referrer", func(t *testing.T, k *kase, refs map[string]name.Digest) {
			k.detach(t, refs["bundle"])
		}, []string{"signature.gone", "tag.seen"}, "bundle", "", nil, counts{"GET manifests": 1}},
		{"bundle where there was none", func(t *testing.T, k *kase, refs map[string]name.Digest) {
			must(t, k.actor.SignBundle(t.Context(), refs["other child"], sandbox.NoProof))
		}, []string{"signature.seen", "tag.seen"}, "other child", "bundle", counts{"GET manifests": 1, "GET blobs": 1}, counts{"GET manifests": 2, "GET blobs": 1}},
		{"moved tag", func(t *testing.T, k *kase, refs map[string]name.Digest) {
			ref, err := k.PushImage(t.Context(), k.path, "plain", k.path+"something else")
			must(t, err)
			refs["new"] = k.at(t, ref.DigestStr())
		}, []string{"artifact.seen", "tag.seen"}, "new", "", counts{"GET manifests": 1}, counts{"GET manifests": 1}},
		{"deleted tag", func(t *testing.T, k *kase, refs map[string]name.Digest) {
			must(t, k.client.Delete(t.Context(), k.repo, "legacy"))
		}, []string{"tag.gone"}, "legacy", "legacy", nil, nil},
		{"new image", func(t *testing.T, k *kase, refs map[string]name.Digest) {
			refs["new"] = k.push(t, "new")
			must(t, k.actor.SignLegacy(t.Context(), refs["new"], sandbox.NoProof))
		}, []string{"artifact.seen", "signature.seen", "tag.seen", "tag.seen"}, "new", "legacy", counts{"GET manifests": 2, "GET blobs": 1}, counts{"GET manifests": 2, "GET blobs": 1}},
	} {
		for site, host := range b.sites() {
			t.Run(tc.name+"/"+site, func(t *testing.T) {
				t.Parallel()
				k := b.newCaseAt(t, host, fmt.Sprintf("acme/changes%d%s", n, site[:3]))
				refs := k.fill(t)
				k.scan(t, k.client)
				tc.change(t, k, refs)
				journaled := k.journaled(t)
				k.wire.take()
				k.scan(t, k.client)

				seen := k.sightings(t, journaled)
				slices.Sort(seen)
				want, fetched := tc.seen, tc.old
				if host == k.Registry() {
					fetched = tc.api
					if strings.Contains(tc.name, "referrer") || strings.Contains(tc.name, "bundle") {
						want = want[:len(want)-1] // no tag has changed
					}
				}
				wantEqual(t, "seen", seen, want)
				got := k.wire.take()
				for _, kind := range []string{"GET manifests", "GET blobs"} {
					wantEqual(t, kind, got[kind], fetched[kind])
				}
				wantEqual(t, "formats of "+tc.at, k.formats(t, refs[tc.at]), tc.after)
				wantEqual(t, "problems", k.problems(t), []string(nil))

				journaled = k.journaled(t)
				k.scan(t, k.client)
				wantEqual(t, "seen by one more scan", k.sightings(t, journaled), []string(nil))
			})
		}
	}
}

// detach deletes the first referrer of an image.
func (k *kase) detach(t testing.TB, ref name.Digest) {
	t.Helper()
	list, err := k.client.Referrers(t.Context(), k.repo, ref.DigestStr())
	must(t, err)
	must(t, k.client.Detach(t.Context(), k.repo, list[0].Digest.String(), ref.DigestStr()))
}

// TestComesBack deletes signatures and puts the same bytes back.
func TestComesBack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for site, host := range b.sites() {
		t.Run(site, func(t *testing.T) {
			t.Parallel()
			k := b.newCaseAt(t, host, "acme/back"+site[:3])
			ref := k.push(t, "app")
			must(t, errors.Join(k.actor.SignLegacy(t.Context(), ref, sandbox.RekorV1), k.actor.SignBundle(t.Context(), ref, sandbox.RekorV1)))
			k.scan(t, k.client)
			before := dump(t, k.Store)

			image, _ := k.tagged(t, ref, inventory.Legacy)
			list, err := k.client.Referrers(t.Context(), k.repo, ref.DigestStr())
			must(t, err)
			m, err := k.client.Manifest(t.Context(), k.repo, list[0].Digest.String())
			must(t, err)
			var bundle v1.Manifest
			must(t, json.Unmarshal(m.Raw, &bundle))
			must(t, k.client.Delete(t.Context(), k.repo, verify.Tag(ref.DigestStr(), inventory.Legacy)))
			k.detach(t, ref)
			k.scan(t, k.client)
			wantEqual(t, "signatures left", k.formats(t, ref), "")

			k.retag(t, ref, inventory.Legacy, image)
			k.attach(t, ref, bundle)
			k.scan(t, k.client)
			wantSame(t, "inventory", dump(t, k.Store), before)
		})
	}
}

// TestLocation has signatures in a repository of their own (COSIGN_REPOSITORY).
func TestLocation(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for site, host := range b.sites() {
		t.Run(site, func(t *testing.T) {
			t.Parallel()
			k := b.newCaseAt(t, host, "acme/located"+site[:3])
			away := b.newCaseAt(t, host, "acme/signatures"+site[:3])
			ctx := t.Context()
			ref := k.push(t, "app")
			other := k.push(t, "other")
			must(t, errors.Join(k.actor.SignLegacy(ctx, ref, sandbox.NoProof), k.actor.SignLegacy(ctx, other, sandbox.RekorV1), k.actor.AttestLegacy(ctx, other, spdx, nil, sandbox.NoProof)))
			// cosign v3 puts bundles there that refer to what is not there.
			copied, err := k.PushImage(ctx, away.path, "", k.path+"other")
			must(t, err)
			must(t, k.actor.SignBundle(ctx, away.at(t, copied.DigestStr()), sandbox.NoProof))
			must(t, away.client.Delete(ctx, away.repo, copied.DigestStr()))
			for _, f := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt} {
				image, _ := k.tagged(t, other, f)
				k.move(t, away, other, f, image)
			}
			scan := func(location string) Result {
				s := k.scanner(k.client)
				s.Location = location
				r, err := s.Run(ctx, by, targets(k.repo))
				must(t, err)
				return r
			}
			wantEqual(t, "without the location", scan("").Signatures, int64(1))
			wantEqual(t, "with the location", scan(away.repo).Verified, int64(4))
			places := map[string]string{}
			for _, g := range append(k.signatures(t, ref), k.signatures(t, other)...) {
				places[string(g.Format)+" "+g.Location] = g.Repository
			}
			wantEqual(t, "places", places, map[string]string{"legacy ": k.repo, "legacy " + away.repo: k.repo, "legacy-att " + away.repo: k.repo, "bundle " + away.repo: k.repo})

			journaled, verified := k.journaled(t), k.judge.n.Load()
			scan("")
			scan(away.repo)
			k.wire.take()
			r := scan(away.repo)
			wantEqual(t, "seen by three more scans", k.sightings(t, journaled), []string(nil))
			wantEqual(t, "fetched again", k.wire.take()["GET blobs"], 0)
			_ = verified
			wantEqual(t, "signatures", r.Signatures, int64(4))

			// What is deleted there is gone, and no other.
			must(t, away.client.Delete(ctx, away.repo, verify.Tag(other.DigestStr(), inventory.LegacyAtt)))
			scan(away.repo)
			wantEqual(t, "formats of other", k.formats(t, other), "bundle legacy")
			wantEqual(t, "formats of app", k.formats(t, ref), "legacy")
			image, _ := k.tagged(t, ref, inventory.Legacy)
			k.move(t, away, ref, inventory.Legacy, image)
			scan(away.repo)
			wantEqual(t, "formats of app, moved", k.formats(t, ref), "legacy")
			wantEqual(t, "problems", k.problems(t), []string(nil))
			must(t, away.client.Delete(ctx, away.repo, verify.Tag(other.DigestStr(), inventory.Legacy)))

			// A location that cannot be listed says nothing.
			s := k.scanner(&broken{Registry: k.client, tags: errBroken})
			s.Location = away.repo
			if r, err := s.Run(ctx, by, targets()); err != nil || r.Problems != 1 {
				t.Errorf("got %+v, %v", r, err)
			}
			wantEqual(t, "formats of other, unlisted", k.formats(t, other), "bundle legacy")
		})
	}
}

// move moves a signature manifest to another repository.
func (k *kase) move(t testing.TB, to *kase, ref name.Digest, f inventory.Format, image v1.Manifest) {
	t.Helper()
	for _, d := range append([]v1.Descriptor{image.Config}, image.Layers...) {
		content, err := k.client.Blob(t.Context(), k.repo, d.Digest.String(), 1<<20)
		must(t, err)
		to.blob(t, string(d.MediaType), content)
	}
	to.retag(t, ref, f, image)
	must(t, k.client.Delete(t.Context(), k.repo, verify.Tag(ref.DigestStr(), f)))
}

// TestArtifact scans single artifacts.
func TestArtifact(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for site, host := range b.sites() {
		t.Run(site, func(t *testing.T) {
			t.Parallel()
			k := b.newCaseAt(t, host, "acme/single"+site[:3])
			refs := k.fill(t)
			scan := func(target string) Result {
				k.wire.take()
				r, err := k.scanner(k.client).Run(t.Context(), by, targets(target))
				must(t, err)
				if k.wire.take()["GET tags"] != 0 {
					t.Errorf("%s: the tags were listed", target)
				}
				return r
			}
			wantEqual(t, "all", scan(k.repo+":all"), Result{Artifacts: 1, Signatures: 4, Verified: 4})
			wantEqual(t, "index", scan(refs["index"].String()), Result{Artifacts: 3, Signatures: 2, Verified: 2})
			wantEqual(t, "oci11", scan(k.repo+":oci11"), Result{Artifacts: 1, Signatures: 2, Verified: 2})
			wantEqual(t, "none", scan(k.repo+":none"), Result{Problems: 1})
			wantEqual(t, "tags of all", k.artifacts(t)[refs["all"].DigestStr()].Tags, []string{"all"})
			if problems := k.problems(t); len(problems) != 1 || !strings.Contains(problems[0], "none") {
				t.Errorf("problems: %q", problems)
			}
			k.scan(t, k.client)
			for n, want := range filled {
				if n != "plain" {
					wantEqual(t, "formats of "+n, k.formats(t, refs[n]), want)
				}
			}
			// What is gone from one artifact is gone, and nothing else is.
			must(t, k.client.Delete(t.Context(), k.repo, verify.Tag(refs["all"].DigestStr(), inventory.Legacy)))
			must(t, k.client.Delete(t.Context(), k.repo, verify.Tag(refs["legacy"].DigestStr(), inventory.Legacy)))
			k.detach(t, refs["bundle"])
			wantEqual(t, "all again", scan(k.repo+":all"), Result{Artifacts: 1, Signatures: 3, Verified: 3})
			scan(refs["bundle"].String())
			for n, want := range map[string]string{"all": "bundle bundle legacy-att", "bundle": "", "legacy": "legacy", "index": "legacy"} {
				wantEqual(t, "formats of "+n, k.formats(t, refs[n]), want)
			}
		})
	}
}

// TestTargets scans a registry, and what is no target.
func TestTargets(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k := b.newCase(t, "acme/app")
	for _, path := range []string{"acme/app", "acme/web", "other"} {
		ref, err := b.PushImage(t.Context(), path, "v1", path)
		must(t, err)
		must(t, k.actor.SignLegacy(t.Context(), ref, sandbox.NoProof))
	}
	var last Progress
	s := k.scanner(k.client)
	s.Progress = func(p Progress) {
		if p.Done < last.Done || p.Done > p.Total || p.Repositories < last.Repositories {
			t.Errorf("after %+v came %+v", last, p)
		}
		last = p
	}
	r, err := s.Run(t.Context(), by, targets(k.Registry()))
	must(t, err)
	wantEqual(t, "result", r, Result{Repositories: 3, Artifacts: 3, Signatures: 3, Verified: 3})
	last.Repository = ""
	wantEqual(t, "last progress", last, Progress{Repositories: 3, Done: 9, Total: 9, Result: r})

	r, err = k.scanner(k.client).Run(t.Context(), by, func(yield func(string, error) bool) {
		_ = yield("Not/A:Target!", nil) && yield("", nil) && yield("a\x00b", nil) && yield("r.example/"+strings.Repeat("x", 900), nil) && yield(k.repo, nil) && yield(k.Registry()+"/acme/none", nil) && yield("", errBroken)
	})
	for _, want := range []string{"Not/A:Target!", `""`, `a\x00b`, "r.example/xxx", errBroken.Error()} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not tell of %q: %v", want, err)
		}
	}
	wantEqual(t, "result", r, Result{Repositories: 1, Artifacts: 1, Signatures: 1, Verified: 1, Problems: 6, Unchanged: 3})
	if got := k.problems(t); len(got) != 1 || !strings.Contains(got[0], "acme/none") {
		t.Errorf("problems: %q", got)
	}
	r, err = k.scanner(&broken{Registry: k.client}).Run(t.Context(), by, targets(k.Registry()))
	if err == nil || r.Problems != 1 {
		t.Errorf("a registry that lists no repositories: %+v, %v", r, err)
	}
	if _, err := k.scanner(k.client).Run(t.Context(), journal.Author{}, targets(k.repo)); err == nil {
		t.Error("scanned for nobody")
	}
}

// TestUnlisted has repositories whose tags cannot be listed: what is known of
// them stays as it is.
func TestUnlisted(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t, "acme/app")
	ref := k.push(t, "app")
	must(t, k.actor.SignLegacy(t.Context(), ref, sandbox.NoProof))
	for range 2 {
		wantEqual(t, "result", k.scan(t, &broken{Registry: k.client, tags: errBroken}).Problems, int64(1))
		if got := k.problems(t); len(got) != 1 || !strings.Contains(got[0], errBroken.Error()) {
			t.Errorf("problems: %q", got)
		}
		k.scan(t, k.client)
		wantEqual(t, "problems once it is repaired", k.problems(t), []string(nil))
		wantEqual(t, "signatures", k.formats(t, ref), "legacy")
	}
}

// TestRegistryLosesReferrers has a repository move to a registry that does not
// list referrers, and so lose them. It takes two scans to believe that.
func TestRegistryLosesReferrers(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t, "acme/app")
	ref, other := k.push(t, "app"), k.push(t, "other")
	must(t, errors.Join(k.actor.SignBundle(t.Context(), ref, sandbox.NoProof), k.actor.SignLegacy(t.Context(), other, sandbox.NoProof)))
	k.scan(t, k.client)
	client, wire := newClient(t)
	without := func(status int) {
		wire.answer(func(req *http.Request) *http.Response {
			if kind(req.URL.Path) != "referrers" {
				return nil
			}
			return reply(status, "text/plain", strings.NewReader("no"))
		})
	}
	without(http.StatusForbidden) // it may have them: nobody can say
	wantEqual(t, "problems", k.scan(t, client).Problems, int64(1))
	wantEqual(t, "formats", k.formats(t, ref), "bundle")
	for range 2 { // it says once that it does not
		client, wire = newClient(t)
		without(http.StatusNotFound)
		wantEqual(t, "problems", k.scan(t, client).Problems, int64(1))
		wantEqual(t, "formats", k.formats(t, ref), "bundle")
		r, err := k.scanner(client).Run(t.Context(), by, targets(ref.String()))
		must(t, err)
		wantEqual(t, "problems of the artifact alone", r.Problems, int64(1))
		wantEqual(t, "formats after a scan of the artifact alone", k.formats(t, ref), "bundle")
		wantEqual(t, "problems when it lists them after all", k.scan(t, k.client).Problems, int64(0))
	}
	for n := range 3 { // and it stays so
		wantEqual(t, "problems", k.scan(t, client).Problems, int64(max(0, 1-n)))
		wantEqual(t, "formats", k.formats(t, ref), []string{"bundle", "", ""}[n])
		wantEqual(t, "formats of the other", k.formats(t, other), "legacy")
	}
	k.scan(t, k.client)
	wantEqual(t, "formats when they are back", k.formats(t, ref), "bundle")
}

// TestUnreadIsNotGone scans known signatures while they cannot be read.
func TestUnreadIsNotGone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for site, host := range b.sites() {
		t.Run(site, func(t *testing.T) {
			t.Parallel()
			k := b.newCaseAt(t, host, "acme/unread"+site[:3])
			ref := k.push(t, "app")
			must(t, errors.Join(k.actor.SignLegacy(t.Context(), ref, sandbox.NoProof), k.actor.SignBundle(t.Context(), ref, sandbox.NoProof)))
			k.scan(t, k.client)
			before := dump(t, k.Store)
			for _, failing := range []string{verify.Tag(ref.DigestStr(), inventory.Legacy), fallbackTag(ref.DigestStr()), ref.DigestStr() + " referrers", "app"} {
				want := int64(1)
				if strings.HasSuffix(failing, "referrers") != (host == b.Registry()) && failing != "app" && !strings.HasSuffix(failing, ".sig") {
					want = 0 // it is not asked for
				}
				r := k.scan(t, &broken{Registry: k.client, failing: map[string]error{failing: errBroken}})
				wantEqual(t, "problems with "+failing, r.Problems, want)
				wantEqual(t, "signatures with "+failing, k.formats(t, ref), "bundle legacy")
				k.scan(t, k.client)
				wantSame(t, "inventory after "+failing, dump(t, k.Store), before)
			}
		})
	}
}

// TestMissing has tags that are listed and not there, and that come back.
func TestMissing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k := b.newCaseAt(t, b.old, "acme/missing")
	ref := k.push(t, "app")
	must(t, errors.Join(k.actor.SignLegacy(t.Context(), ref, sandbox.NoProof), k.actor.AttestLegacy(t.Context(), ref, spdx, nil, sandbox.NoProof), k.actor.SignBundle(t.Context(), ref, sandbox.NoProof)))
	k.scan(t, k.client)
	before := dump(t, k.Store)
	for tag, left := range map[string]string{
		verify.Tag(ref.DigestStr(), inventory.Legacy):    "bundle legacy-att",
		verify.Tag(ref.DigestStr(), inventory.LegacyAtt): "bundle legacy",
		fallbackTag(ref.DigestStr()):                     "legacy legacy-att",
		"app":                                            "bundle legacy legacy-att",
	} {
		for range 2 {
			r := k.scan(t, &broken{Registry: k.client, failing: map[string]error{tag: registry.ErrNotFound}})
			wantEqual(t, "problems without "+tag, r.Problems, int64(1))
			wantEqual(t, "formats without "+tag, k.formats(t, ref), left)
		}
		k.scan(t, k.client)
		wantSame(t, "inventory with "+tag+" again", dump(t, k.Store), before)
	}
	must(t, k.client.Delete(t.Context(), k.repo, "app"))
	k.scan(t, &broken{Registry: k.client, failing: map[string]error{verify.Tag(ref.DigestStr(), inventory.Legacy): registry.ErrNotFound}})
	must(t, k.client.Delete(t.Context(), k.repo, verify.Tag(ref.DigestStr(), inventory.Legacy)))
	wantEqual(t, "problems when it is not listed any more", k.scan(t, k.client).Problems, int64(0))
}

// counting stops a scan at the nth request.
type counting struct {
	Registry
	mu    sync.Mutex
	left  int
	calls int
	stop  func()
}

func (c *counting) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls++; c.calls == c.left {
		c.stop()
	}
}

func (c *counting) Manifest(ctx context.Context, repository, reference string) (registry.Manifest, error) {
	c.tick()
	return c.Registry.Manifest(ctx, repository, reference)
}

func (c *counting) Head(ctx context.Context, repository, reference, known string) (string, error) {
	c.tick()
	return c.Registry.Head(ctx, repository, reference, known)
}

func (c *counting) Blob(ctx context.Context, repository, digest string, limit int64) ([]byte, error) {
	c.tick()
	return c.Registry.Blob(ctx, repository, digest, limit)
}

func (c *counting) ReferrersAPI(ctx context.Context, repository, digest string) ([]v1.Descriptor, error) {
	c.tick()
	return c.Registry.ReferrersAPI(ctx, repository, digest)
}

// TestResume stops a scan at every request it makes, once it and what goes on
// from there: in the end the inventory is that of a scan that was not disturbed.
func TestResume(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for site, host := range b.sites() {
		t.Run(site, func(t *testing.T) {
			t.Parallel()
			k := b.newCaseAt(t, host, "acme/resume"+site[:3])
			k.fill(t)
			undisturbed := &counting{Registry: k.client}
			k.scan(t, undisturbed)
			want := dump(t, k.Store)
			for stop := 1; stop <= undisturbed.calls; stop += 7 {
				k.Store = newStore(t)
				for _, left := range []int{stop, stop / 2, stop, 0} {
					ctx, cancel := context.WithCancel(t.Context())
					s := k.scanner(&counting{Registry: k.client, left: left, stop: cancel})
					_, err := s.Run(ctx, by, targets(k.repo))
					if err != nil && !errors.Is(err, context.Canceled) {
						t.Fatal(err)
					}
					if left == 0 {
						must(t, err)
					}
					cancel()
				}
				wantSame(t, fmt.Sprintf("stopped at request %d of %d", stop, undisturbed.calls), dump(t, k.Store), want)
			}
		})
	}
}

// TestResumes stops a scan in the middle: what was read is not read again.
func TestResumes(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t, "acme/app")
	const n = 30
	for i := range n {
		must(t, k.actor.SignLegacy(t.Context(), k.push(t, fmt.Sprintf("v%d", i)), sandbox.NoProof))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reg := &counting{Registry: k.client, left: 2 * n, stop: cancel}
	s := k.scanner(reg)
	s.Progress = func(Progress) { time.Sleep(20 * time.Millisecond) } // so that there are commits
	if _, err := s.Run(ctx, by, targets(k.repo)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	rest := &counting{Registry: k.client}
	r := k.scan(t, rest)
	wantEqual(t, "signatures", r.Verified, int64(n))
	if most := 4*n + 2 - n; rest.calls > most {
		t.Errorf("%d requests when it went on, of %d: want at most %d", rest.calls, 4*n+2, most)
	}
}

// TestTwoScanners has two processes scan one repository at once.
func TestTwoScanners(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for site, host := range b.sites() {
		t.Run(site, func(t *testing.T) {
			t.Parallel()
			k := b.newCaseAt(t, host, "acme/two"+site[:3])
			k.fill(t)
			k.scan(t, k.client)
			want := dump(t, k.Store)
			k.Store = newStore(t)
			for range 3 {
				var both sync.WaitGroup
				for range 2 {
					both.Go(func() {
						client, _ := newClient(t)
						if _, err := k.scanner(client).Run(t.Context(), by, targets(k.repo, k.repo)); err != nil {
							t.Error(err)
						}
					})
				}
				both.Wait()
				wantSame(t, "inventory", dump(t, k.Store), want)
			}
		})
	}
}

// TestOvertaken has a scan stand still while others begin and end: when it goes
// on, it takes nothing of theirs for gone.
func TestOvertaken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for site, host := range b.sites() {
		t.Run(site, func(t *testing.T) {
			t.Parallel()
			k := b.newCaseAt(t, host, "acme/overtaken"+site[:3])
			k.fill(t)
			k.scan(t, k.client)
			want := dump(t, k.Store)
			for _, at := range []int{1, 5, 12} {
				stands, goesOn := make(chan struct{}), make(chan struct{})
				slow := &counting{Registry: k.client, left: at, stop: func() {
					close(stands)
					<-goesOn
				}}
				done := make(chan error)
				go func() {
					s := k.scanner(slow)
					s.Parallel = 1
					_, err := s.Run(t.Context(), by, targets(k.repo))
					done <- err
				}()
				<-stands
				for range 3 {
					k.scan(t, k.client)
				}
				journaled := k.journaled(t)
				close(goesOn)
				must(t, <-done)
				k.scan(t, k.client)
				wantEqual(t, "seen afterwards", k.sightings(t, journaled), []string(nil))
				wantSame(t, "inventory", dump(t, k.Store), want)
			}
		})
	}
}

// TestBackOff has a registry that is overloaded now and then.
func TestBackOff(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t, "acme/app")
	for i := range 4 {
		must(t, k.actor.SignLegacy(t.Context(), k.push(t, fmt.Sprintf("v%d", i)), sandbox.NoProof))
	}
	n := 0
	k.wire.answer(func(req *http.Request) *http.Response { // with the wire's lock not held: see RoundTrip
		k.wire.mu.Lock()
		defer k.wire.mu.Unlock()
		if n++; n%5 != 0 {
			return nil
		}
		if n%2 == 0 {
			return reply(http.StatusTooManyRequests, "application/json", strings.NewReader(`{}`))
		}
		return reply(http.StatusServiceUnavailable, "text/html", strings.NewReader("<html>"))
	})
	var last Progress
	s := k.scanner(k.client)
	s.Progress = func(p Progress) { last = p }
	r, err := s.Run(t.Context(), by, targets(k.repo))
	must(t, err)
	wantEqual(t, "result", r, Result{Repositories: 1, Artifacts: 4, Signatures: 4, Verified: 4})
	if last.Retries == 0 || last.Retries != k.client.Retries() {
		t.Errorf("%d retries told of, of %d", last.Retries, k.client.Retries())
	}
}

func TestCancelled(t *testing.T) {
	k := newBench(t).newCase(t, "acme/app")
	for n := range 20 {
		must(t, k.actor.SignLegacy(t.Context(), k.push(t, fmt.Sprintf("v%d", n)), sandbox.NoProof))
	}
	k.scan(t, k.client) // connections are open now
	for _, tc := range []struct {
		name string
		run  func(ctx context.Context, cancel func()) error
	}{
		{"before it starts", func(ctx context.Context, cancel func()) error {
			cancel()
			_, err := k.scanner(k.client).Run(ctx, by, targets(k.repo))
			return err
		}},
		{"while the registry does not answer", func(ctx context.Context, cancel func()) error {
			reg := &broken{Registry: k.client, block: make(chan struct{}, 1)}
			go func() {
				<-reg.block
				cancel()
			}()
			_, err := k.scanner(reg).Run(ctx, by, targets(k.repo))
			return err
		}},
		{"after the first artifact", func(ctx context.Context, cancel func()) error {
			s := k.scanner(k.client)
			s.Progress = func(Progress) { cancel() }
			_, err := s.Run(ctx, by, targets(k.repo))
			return err
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
		})
	}
}
