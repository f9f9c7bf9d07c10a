package rotate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

const indexType = "application/vnd.oci.image.index.v1+json"

// garbled is a registry whose lists of referrers hold garbage besides.
type garbled struct{ PruneRegistry }

func (g garbled) Referrers(ctx context.Context, repository, digest string) ([]v1.Descriptor, error) {
	list, err := g.PruneRegistry.Referrers(ctx, repository, digest)
	return list, errors.Join(err, fmt.Errorf("index: %w", registry.ErrMalformed))
}

// sig is the ".sig" tag of an image.
func sig(ref name.Digest) string { return verify.Tag(ref.DigestStr(), inventory.Legacy) }

func (c *pruneCase) manifest(t testing.TB, reference string) registry.Manifest {
	t.Helper()
	m, err := c.client.Manifest(t.Context(), c.repository(), reference)
	must(t, err)
	return m
}

func (c *pruneCase) put(t testing.TB, reference, mediaType string, raw []byte) {
	t.Helper()
	_, _, err := c.client.PutManifest(t.Context(), c.repository(), reference, mediaType, raw)
	must(t, err)
}

// signedOnce is an image, re-signed and covered, with one rogue ".sig" layer
// beside. It returns the ID of the rogue one.
func (c *pruneCase) signedOnce(t testing.TB, deployed bool) (ref name.Digest, rogue string) {
	t.Helper()
	ref = c.push(t, "good")
	c.before(t, func() error { return c.grove.old.SignLegacy(t.Context(), ref, sandbox.RekorV1) })
	kept := c.scan(t, ref, false)
	must(t, c.grove.old.SignLegacy(t.Context(), ref, sandbox.NoProof))
	for id := range c.scan(t, ref, false) {
		if _, known := kept[id]; !known {
			rogue = id
		}
	}
	must(t, c.grove.next.SignLegacy(t.Context(), ref, sandbox.NoProof))
	c.scan(t, ref, deployed)
	c.approvePlan(t)
	return ref, rogue
}

// rogueOnly is an image, covered by the new signer in a bundle, whose ".sig" has
// nothing but a rogue signature.
func (c *pruneCase) rogueOnly(t testing.TB) (ref name.Digest, rogue inventory.Signature) {
	t.Helper()
	ref = c.push(t, "good")
	c.before(t, func() error { return c.grove.old.SignBundle(t.Context(), ref, sandbox.Timestamp) })
	must(t, errors.Join(c.grove.next.SignBundle(t.Context(), ref, sandbox.NoProof), c.grove.old.SignLegacy(t.Context(), ref, sandbox.NoProof)))
	for _, g := range c.scan(t, ref, false) {
		if g.Format == inventory.Legacy {
			rogue = g
		}
	}
	c.approvePlan(t)
	return ref, rogue
}

func rawLayers(t testing.TB, raw []byte) []json.RawMessage {
	t.Helper()
	var m struct {
		Layers []json.RawMessage `json:"layers"`
	}
	must(t, json.Unmarshal(raw, &m))
	return m.Layers
}

// write makes a tag name a manifest of layers.
func (c *pruneCase) write(t testing.TB, tag string, layers []json.RawMessage) registry.Manifest {
	t.Helper()
	raw, config, err := verify.Compose(v1.Manifest{}, layers, false)
	must(t, err)
	_, err = c.client.PutBlob(t.Context(), c.repository(), config)
	must(t, err)
	c.put(t, tag, ociManifest, raw)
	return c.manifest(t, tag)
}

func (c *pruneCase) pruned(t testing.TB, reg PruneRegistry) PruneResult {
	t.Helper()
	got, err := c.prune(t.Context(), reg, true)
	if err != nil {
		t.Fatalf("%v: %+v", err, got.Failed)
	}
	return got
}

func (c *pruneCase) there(t testing.TB, reference string) bool {
	t.Helper()
	_, err := c.client.Manifest(t.Context(), c.repository(), reference)
	if !errors.Is(err, registry.ErrNotFound) {
		must(t, err)
	}
	return err == nil
}

// attackOnPruning is what somebody with access to the registry does to get more
// taken away than has to go, or less.
type attackOnPruning struct {
	name string
	test func(t *testing.T, c *pruneCase)
}

func attacksOnPruning() []attackOnPruning {
	return []attackOnPruning{
		{"pruning: the .sig tag names the artifact itself", func(t *testing.T, c *pruneCase) {
			ref, _ := c.signedOnce(t, true)
			m := c.manifest(t, ref.DigestStr())
			c.put(t, sig(ref), m.MediaType, m.Raw)
			got := c.pruned(t, c.client)
			wantEqual(t, "pruned and gone", []int{len(got.Pruned), len(got.Gone)}, []int{0, 1})
			if !c.there(t, ref.DigestStr()) || c.manifest(t, sig(ref)).Digest != m.Digest {
				t.Error("the artifact, or a tag that names it, was touched")
			}
		}},
		{"pruning: the .sig tag names another artifact", func(t *testing.T, c *pruneCase) {
			ref, _ := c.signedOnce(t, true)
			another := c.push(t, "another")
			m := c.manifest(t, another.DigestStr())
			c.put(t, sig(ref), m.MediaType, m.Raw)
			c.pruned(t, c.client)
			if !c.there(t, another.DigestStr()) || c.manifest(t, sig(ref)).Digest != m.Digest {
				t.Error("another artifact, or a tag that names it, was touched")
			}
		}},
		{"pruning: an artifact with a rogue signature among its layers", func(t *testing.T, c *pruneCase) {
			ref, rogue := c.signedOnce(t, true)
			image := rawLayers(t, c.manifest(t, ref.DigestStr()).Raw)
			mixed := c.write(t, sig(ref), append(rawLayers(t, c.manifest(t, sig(ref)).Raw), image...))
			c.scan(t, ref, true)
			got := c.pruned(t, c.client)
			wantEqual(t, "pruned", ids(got.Pruned), []string{rogue})
			if !c.there(t, mixed.Digest) {
				t.Error("an artifact was deleted")
			}
			if left := rawLayers(t, c.manifest(t, sig(ref)).Raw); len(left) != 3 || string(left[2]) != string(image[0]) {
				t.Errorf("left are %s, want all but the rogue one", left)
			}
			if len(got.Left) != 1 || !strings.Contains(got.Left[0], mixed.Digest) {
				t.Errorf("left by digest: %v", got.Left)
			}
		}},
		{"pruning: the manifest of rogue signatures is an artifact of the inventory", func(t *testing.T, c *pruneCase) {
			ref, rogue := c.rogueOnly(t)
			m := c.manifest(t, sig(ref))
			c.update(t, func(tx *store.Tx) error {
				return tx.PutArtifact(t.Context(), inventory.Artifact{Repository: c.repository(), Digest: m.Digest, MediaType: ociManifest, Size: m.Size})
			})
			got := c.pruned(t, c.client)
			if !slices.Contains(ids(got.Pruned), rogue.ID) {
				t.Errorf("pruned: %v", got.Pruned)
			}
			if !c.there(t, m.Digest) || len(rawLayers(t, c.manifest(t, sig(ref)).Raw)) != 0 {
				t.Error("the artifact was deleted, or verifiers still find its signatures")
			}
		}},
		{"pruning: garbage in the listing", func(t *testing.T, c *pruneCase) {
			good, recalled, rogue := c.mixed(t)
			was := map[string]string{}
			for _, ref := range []name.Digest{good, recalled} {
				for id, s := range c.standing(t, ref) {
					was[id] = s
				}
			}
			wantEqual(t, "pruned", len(c.pruned(t, garbled{c.client}).Pruned), len(rogue))
			c.settled(t, []name.Digest{good, recalled}, was, rogue)
		}},
		{"pruning: an index instead of the .sig manifest", func(t *testing.T, c *pruneCase) {
			ref, rogue := c.signedOnce(t, true)
			var list []string
			for _, l := range rawLayers(t, c.manifest(t, sig(ref)).Raw) {
				m := c.write(t, "part", []json.RawMessage{l})
				list = append(list, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, ociManifest, m.Digest, m.Size))
			}
			c.put(t, sig(ref), indexType, []byte(fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, indexType, strings.Join(list, ","))))
			c.scan(t, ref, true)
			before := c.standing(t, ref)
			got := c.pruned(t, c.client)
			wantEqual(t, "pruned", ids(got.Pruned), []string{rogue})
			delete(before, rogue)
			wantEqual(t, "left", c.standing(t, ref), before)
		}},
		{"pruning: the rogue claim's blob is lost", func(t *testing.T, c *pruneCase) {
			good, _, rogue := c.mixed(t)
			tag := verify.Tag(good.DigestStr(), inventory.LegacyAtt)
			for _, g := range rogue {
				if g.Format == inventory.LegacyAtt {
					c.deleteBlob(t, g.Content)
				}
			}
			wantEqual(t, "pruned", len(c.pruned(t, c.client).Pruned), len(rogue))
			wantEqual(t, "layers left", len(rawLayers(t, c.manifest(t, tag).Raw)), 1)
		}},
		{"pruning: what the new signer signed without a plan", func(t *testing.T, c *pruneCase) {
			ref, rogue := c.signedOnce(t, true)
			c.reissued(t, c.permit.Digest(), ref)
			// As if it had been there when the plan was carried out: nothing was made.
			c.edit(t, `UPDATE reissues SET content = '' WHERE plan = $1`, c.permit.Digest())
			early := c.now.Add(-100 * time.Hour)
			_, err := Amend(t.Context(), c.kase.Store, by, leak, Amendment{At: c.now, From: &early})
			must(t, err)
			got := c.pruned(t, c.client)
			for _, i := range got.Kept {
				if i.Cause == trust.CauseRecalled && !strings.Contains(i.Why, "no plan made it") {
					t.Errorf("kept: %s", i.Why)
				}
			}
			if causes(got.Kept)[trust.CauseRecalled] != 1 || slices.Contains(ids(got.Pruned), rogue) {
				t.Errorf("%+v", got)
			}
		}},
		{"pruning: the cover was deleted since the scan", func(t *testing.T, c *pruneCase) {
			ref, rogue := c.signedOnce(t, true)
			layers := rawLayers(t, c.manifest(t, sig(ref)).Raw)
			c.write(t, sig(ref), layers[:2]) // the new signer's came last
			got := c.pruned(t, c.client)
			wantEqual(t, "pruned and kept", []any{ids(got.Pruned), ids(got.Kept)}, []any{[]string(nil), []string{rogue}})
			wantEqual(t, "layers left", len(rawLayers(t, c.manifest(t, sig(ref)).Raw)), 2)
		}},
		{"pruning: a cover that the consumer refuses, though it verifies", func(t *testing.T, c *pruneCase) {
			ref, rogue := c.signedOnce(t, true)
			// cosign reads no simple signing payload of another type.
			layers := rawLayers(t, c.manifest(t, sig(ref)).Raw)
			layers[2] = json.RawMessage(strings.Replace(string(layers[2]), `"annotations":{`, `"annotations":{"dev.sigstore.cosign/bundle":"{\"Payload\":{\"body\":5}}",`, 1))
			c.write(t, sig(ref), layers)
			got := c.pruned(t, c.client)
			wantEqual(t, "pruned and kept", []any{ids(got.Pruned), ids(got.Kept)}, []any{[]string(nil), []string{rogue}})
		}},
		{"pruning: the thief signs once more meanwhile", func(t *testing.T, c *pruneCase) {
			ref, rogue := c.signedOnce(t, true)
			must(t, c.grove.old.SignLegacy(t.Context(), ref, sandbox.NoProof))
			got := c.pruned(t, c.client)
			wantEqual(t, "pruned", ids(got.Pruned), []string{rogue})
			if len(got.Kept) != 1 || !strings.Contains(got.Kept[0].Why, "no scan has seen it") {
				t.Errorf("kept: %+v", got.Kept)
			}
			c.scan(t, ref, true)
			wantEqual(t, "pruned after the scan", len(c.pruned(t, c.client).Pruned), 1)
		}},
		{"pruning: somebody else signs between the look and the write", func(t *testing.T, c *pruneCase) {
			ref, rogue := c.signedOnce(t, true)
			once := sync.OnceFunc(func() { must(t, c.grove.builder.SignLegacy(t.Context(), ref, sandbox.NoProof)) })
			w := &pruneWrapper{PruneRegistry: c.client, before: func(op, _ string) {
				if op == "blob" {
					once()
				}
			}}
			wantEqual(t, "pruned", ids(c.pruned(t, w).Pruned), []string{rogue})
			wantEqual(t, "layers left", len(rawLayers(t, c.manifest(t, sig(ref)).Raw)), 3)
		}},
		{"pruning: somebody else writes the rogue one back after the write", func(t *testing.T, c *pruneCase) {
			ref, rogue := c.signedOnce(t, true)
			was := rawLayers(t, c.manifest(t, sig(ref)).Raw)
			once := sync.OnceFunc(func() {
				must(t, c.grove.builder.SignLegacy(t.Context(), ref, sandbox.NoProof))
				now := rawLayers(t, c.manifest(t, sig(ref)).Raw)
				c.write(t, sig(ref), append(slices.Clone(was), now[len(now)-1]))
			})
			w := &pruneWrapper{PruneRegistry: c.client, after: func(op, _ string) {
				if op == "put" {
					once()
				}
			}}
			wantEqual(t, "pruned", ids(c.pruned(t, w).Pruned), []string{rogue})
			wantEqual(t, "layers left", len(rawLayers(t, c.manifest(t, sig(ref)).Raw)), 3)
		}},
		{"pruning: somebody else keeps writing the rogue one back", func(t *testing.T, c *pruneCase) {
			ref, _ := c.signedOnce(t, true)
			m := c.manifest(t, sig(ref))
			w := &pruneWrapper{PruneRegistry: c.client, after: func(op, _ string) {
				if op == "put" {
					c.put(t, sig(ref), ociManifest, m.Raw)
				}
			}}
			got, err := c.prune(t.Context(), w, true)
			if err == nil || len(got.Failed) != 1 || !strings.Contains(got.Failed[0].Why, "keeps writing") {
				t.Errorf("%v, %+v", err, got.Failed)
			}
			c.checkJournal(t)
		}},
		{"pruning: a recalled signature is all that a deployed image has", func(t *testing.T, c *pruneCase) {
			ref := c.push(t, "recalled")
			must(t, c.grove.old.SignLegacy(t.Context(), ref, sandbox.NoProof))
			c.scan(t, ref, true)
			plan := c.approvePlan(t)
			must(t, c.grove.next.SignLegacy(t.Context(), ref, sandbox.NoProof))
			c.scan(t, ref, true)
			c.reissued(t, plan, ref)
			got := c.pruned(t, c.client)
			wantEqual(t, "pruned and kept", []any{len(got.Pruned), causes(got.Kept)}, []any{0, map[trust.Cause]int{trust.CauseRogue: 1, trust.CauseRecalled: 1}})
			closing, err := Missing(t.Context(), c.kase.Store, leak, quietWorld{})
			must(t, err)
			wantEqual(t, "nothing carried out", len(closing.Missing) > 0, true)
			c.accept = []string{ref.DigestStr()}
			c.approvePlan(t)
			got = c.pruned(t, c.client)
			wantEqual(t, "pruned by name", causes(got.Pruned), map[trust.Cause]int{trust.CauseRogue: 1, trust.CauseRecalled: 1})
			wantEqual(t, "left", len(c.standing(t, ref)), 0)
		}},
		{"pruning: the old signer is still trusted somewhere", func(t *testing.T, c *pruneCase) {
			c.signedOnce(t, true)
			c.all = true
			_, err := c.prune(t.Context(), c.client, true)
			wantError(t, err, ErrNotCovered, "not revoked yet")
			c.update(t, func(tx *store.Tx) error { return tx.PutSigner(t.Context(), c.kase.old.record(signer.Revoked)) })
			must(t, os.WriteFile(c.anchor, c.kase.old.pem, 0o644))
			_, err = c.prune(t.Context(), c.client, true)
			wantError(t, err, ErrNotCovered, c.anchor, "still accepts")
			must(t, os.WriteFile(c.anchor, []byte("no key"), 0o644))
			_, err = c.prune(t.Context(), c.client, true)
			wantError(t, err, nil, "anchor")
			must(t, os.WriteFile(c.anchor, c.kase.next.pem, 0o644))
			wantEqual(t, "pruned", len(c.pruned(t, c.client).Pruned), 2)
		}},
	}
}

func ids(items []PruneItem) (out []string) {
	for _, i := range items {
		out = append(out, i.Signature)
	}
	return out
}

func (c *pruneCase) deleteBlob(t testing.TB, digest string) {
	t.Helper()
	host, path, _ := strings.Cut(c.repository(), "/")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, "http://"+host+"/v2/"+path+"/blobs/"+digest, nil)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	must(t, resp.Body.Close())
	if resp.StatusCode != http.StatusAccepted {
		t.Fatalf("deleting a blob: %s", resp.Status)
	}
}

// TestPruneElsewhere has signatures in a repository of their own
// (COSIGN_REPOSITORY), which are nobody's last.
func TestPruneElsewhere(t *testing.T) {
	t.Parallel()
	g := newGrove(t)
	c := g.newCase(t, true)
	ref := c.push(t, "good")
	c.before(t, func() error { return c.grove.old.SignLegacy(t.Context(), ref, sandbox.RekorV1) })
	must(t, errors.Join(c.grove.old.SignLegacy(t.Context(), ref, sandbox.NoProof), c.grove.next.SignLegacy(t.Context(), ref, sandbox.NoProof)))
	elsewhere := c.repository() + "-signatures"
	m := c.manifest(t, sig(ref))
	var image v1.Manifest
	must(t, json.Unmarshal(m.Raw, &image))
	for _, l := range append(image.Layers, image.Config) {
		content, err := c.client.Blob(t.Context(), c.repository(), l.Digest.String(), 1<<20)
		must(t, err)
		_, err = c.client.PutBlob(t.Context(), elsewhere, content)
		must(t, err)
	}
	_, _, err := c.client.PutManifest(t.Context(), elsewhere, sig(ref), m.MediaType, m.Raw)
	must(t, err)
	look := func() verify.Fetched {
		f := verify.Fetcher{Registry: c.client, Verifier: c.trust, Location: elsewhere}
		return f.Signatures(t.Context(), verify.Subject{Repository: c.repository(), Digest: ref.DigestStr()}, verify.Everywhere)
	}
	c.write(t, sig(ref), rawLayers(t, m.Raw)[2:]) // here is the new signer's alone
	c.scan(t, ref, true)
	c.update(t, func(tx *store.Tx) (err error) {
		for _, f := range look().Found {
			err = errors.Join(err, tx.PutSignature(t.Context(), f.Signature))
		}
		return err
	})
	c.approvePlan(t)
	before := look().Found
	got := c.pruned(t, c.client)
	if len(got.Pruned) != 1 || got.Pruned[0].Location != elsewhere || got.Pruned[0].Signature != before[1].ID {
		t.Fatalf("pruned: %+v", got.Pruned)
	}
	wantEqual(t, "left there", len(look().Found), 2)
	wantEqual(t, "left here", len(rawLayers(t, c.manifest(t, sig(ref)).Raw)), 1)
	wantEqual(t, "again", len(c.pruned(t, c.client).Pruned), 0)
	c.checkJournal(t)
}

// TestPruneWithoutDeletion has a registry that deletes nothing: no verifier may
// find what had to go where that can be had, and what is left is told.
func TestPruneWithoutDeletion(t *testing.T) {
	t.Parallel()
	g := newGrove(t)
	t.Run("tags", func(t *testing.T) {
		t.Parallel()
		c := g.newCase(t, true)
		ref, rogue := c.signedOnce(t, true)
		old := c.manifest(t, sig(ref)).Digest
		got := c.pruned(t, &pruneWrapper{PruneRegistry: c.client, refuse: true})
		wantEqual(t, "pruned", ids(got.Pruned), []string{rogue})
		if len(got.Left) != 1 || !strings.Contains(got.Left[0], old) || !strings.Contains(got.Left[0], "garbage collection") {
			t.Errorf("left: %v", got.Left)
		}
		wantEqual(t, "layers left", len(rawLayers(t, c.manifest(t, sig(ref)).Raw)), 2)
		wantEqual(t, "again", len(c.pruned(t, c.client).Pruned), 0)
	})
	t.Run("a tag of which nothing is left", func(t *testing.T) {
		t.Parallel()
		c := g.newCase(t, true)
		ref, rogue := c.rogueOnly(t)
		got, _ := c.prune(t.Context(), &pruneWrapper{PruneRegistry: c.client, refuse: true}, true)
		if !slices.Contains(ids(got.Pruned), rogue.ID) {
			t.Errorf("pruned: %v, failed: %v", got.Pruned, got.Failed)
		}
		wantEqual(t, "layers left", len(rawLayers(t, c.manifest(t, sig(ref)).Raw)), 0)
	})
	for _, api := range []bool{true, false} {
		t.Run(fmt.Sprintf("referrers, API=%v", api), func(t *testing.T) {
			t.Parallel()
			c := g.newCase(t, api)
			good, recalled, rogue := c.mixed(t)
			w := &pruneWrapper{PruneRegistry: undeletable{c.client, api}, refuse: true}
			got, err := c.prune(t.Context(), w, true)
			if api { // they are listed for as long as they are there
				wantEqual(t, "failed", len(got.Failed), 3)
				if err == nil || !strings.Contains(got.Failed[0].Why, "deletion switched off") {
					t.Errorf("%v, %v", err, got.Failed)
				}
				return
			}
			must(t, err)
			wantEqual(t, "pruned", len(got.Pruned), len(rogue))
			for _, ref := range []name.Digest{good, recalled} {
				for id := range c.standing(t, ref) {
					if _, away := rogue[id]; away {
						t.Errorf("verifiers still find %s", id)
					}
				}
			}
			wantEqual(t, "left", len(got.Left) >= 3, true)
		})
	}
}

// undeletable is a registry that deletes nothing, with or without a referrers
// API.
type undeletable struct {
	*registry.Client
	api bool
}

func (u undeletable) Detach(ctx context.Context, repository, digest, subject string) error {
	if !u.api { // the index can be written
		tag := strings.Replace(subject, ":", "-", 1)
		m, err := u.Manifest(ctx, repository, tag)
		if err != nil {
			return err
		}
		var index map[string]any
		if err := json.Unmarshal(m.Raw, &index); err != nil {
			return err
		}
		list, _ := index["manifests"].([]any)
		index["manifests"] = slices.DeleteFunc(list, func(d any) bool { return d.(map[string]any)["digest"] == digest })
		raw, err := json.Marshal(index)
		if err != nil {
			return err
		}
		if _, _, err := u.PutManifest(ctx, repository, tag, m.MediaType, raw); err != nil {
			return err
		}
	}
	return errDeletesNothing
}

// TestPruneBesideWriters has eight writers on one image at the same time, of
// whom one prunes: nothing of the others is lost.
func TestPruneBesideWriters(t *testing.T) {
	t.Parallel()
	const writers = 7
	g := newGrove(t)
	c := g.newCase(t, true)
	ref, rogue := c.signedOnce(t, true)
	must(t, c.grove.old.SignBundle(t.Context(), ref, sandbox.NoProof))
	must(t, c.grove.next.SignBundle(t.Context(), ref, sandbox.NoProof))
	c.scan(t, ref, true)
	// What they write was signed beforehand.
	var layers []json.RawMessage
	var bundles []registry.Manifest
	spare := c.path + "/spare"
	other, err := c.PushImage(t.Context(), spare, "good", c.path+"good")
	must(t, err)
	if other.DigestStr() != ref.DigestStr() {
		t.Fatal("the images differ")
	}
	from := c.host() + "/" + spare
	for range writers {
		a, err := c.NewActor("writer")
		must(t, err)
		must(t, errors.Join(a.SignLegacy(t.Context(), other, sandbox.NoProof), a.SignBundle(t.Context(), other, sandbox.NoProof)))
	}
	m, err := c.client.Manifest(t.Context(), from, sig(ref))
	must(t, err)
	layers = rawLayers(t, m.Raw)
	list, err := c.client.Referrers(t.Context(), from, ref.DigestStr())
	must(t, err)
	for _, d := range list {
		m, err := c.client.Manifest(t.Context(), from, d.Digest.String())
		must(t, err)
		bundles = append(bundles, m)
	}
	copyBlobs := func(raw []byte) {
		var image v1.Manifest
		must(t, json.Unmarshal(raw, &image))
		for _, l := range append(image.Layers, image.Config) {
			content, err := c.client.Blob(t.Context(), from, l.Digest.String(), 1<<20)
			must(t, err)
			_, err = c.client.PutBlob(t.Context(), c.repository(), content)
			must(t, err)
		}
	}
	copyBlobs(m.Raw)
	for _, b := range bundles {
		copyBlobs(b.Raw)
	}
	before := c.standing(t, ref)

	var wait sync.WaitGroup
	failed := make(chan error, writers+1)
	for n := range writers {
		wait.Add(1)
		go func() {
			defer wait.Done()
			failed <- c.append(t.Context(), ref, layers[n], bundles[n])
		}()
	}
	wait.Add(1)
	var got PruneResult
	go func() {
		defer wait.Done()
		var err error
		got, err = c.prune(t.Context(), c.client, true)
		failed <- err
	}()
	wait.Wait()
	close(failed)
	for err := range failed {
		must(t, err)
	}
	if !slices.Contains(ids(got.Pruned), rogue) {
		t.Errorf("pruned: %v", got.Pruned)
	}
	after := c.standing(t, ref)
	for _, id := range ids(got.Pruned) {
		if after[id] != "" {
			t.Errorf("%s is still there", id)
		}
		delete(before, id)
	}
	for id, s := range before {
		if after[id] != s {
			t.Errorf("%.12s… was changed or lost", id)
		}
	}
	wantEqual(t, "signatures", len(after), len(before)+2*writers)
	c.checkJournal(t)
}

// append adds a layer to the ".sig" tag of an image, and a bundle to its
// referrers, as another writer of this process would.
func (c *pruneCase) append(ctx context.Context, ref name.Digest, layer json.RawMessage, bundle registry.Manifest) error {
	unlock, err := c.client.Serialise(ctx, c.repository(), ref.DigestStr())
	if err != nil {
		return err
	}
	defer unlock()
	m, err := c.client.Manifest(ctx, c.repository(), sig(ref))
	if err != nil {
		return err
	}
	var now struct {
		Layers []json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(m.Raw, &now); err != nil {
		return err
	}
	raw, config, err := verify.Compose(v1.Manifest{}, append(now.Layers, layer), false)
	if err != nil {
		return err
	}
	if _, err := c.client.PutBlob(ctx, c.repository(), config); err != nil {
		return err
	}
	if _, _, err := c.client.PutManifest(ctx, c.repository(), sig(ref), ociManifest, raw); err != nil {
		return err
	}
	_, err = c.client.Attach(ctx, c.repository(), bundle.Raw, bundle.MediaType, v1.Descriptor{}, ref.DigestStr())
	return err
}
