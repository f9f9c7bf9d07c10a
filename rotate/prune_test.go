package rotate

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

const vex = "https://openvex.dev/ns/v0.2.0"

// grove is a sandbox with its signers, and its registry once more without a
// referrers API. Its tests use repositories of their own.
type grove struct {
	*sandbox.World
	old, next, builder *sandbox.Actor
	plain              string // host of the registry without a referrers API
	root               *root.TrustedRoot
	clock              sync.Mutex // of the sandbox, while it lies in the past
}

func newGrove(t testing.TB) *grove {
	t.Helper()
	w, err := sandbox.Start(t.Context(), sandbox.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, w.Close()) })
	g := &grove{World: w}
	for name, actor := range map[string]**sandbox.Actor{"old": &g.old, "next": &g.next, "builder": &g.builder} {
		*actor, err = w.NewActor(name)
		must(t, err)
	}
	g.root, err = w.TrustedRoot()
	must(t, err)
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
	g.plain = strings.TrimPrefix(s.URL, "http://")
	return g
}

// before lets the sandbox's clock lie in the past while do runs.
func (g *grove) before(t testing.TB, do func() error) {
	t.Helper()
	g.clock.Lock()
	defer g.clock.Unlock()
	g.Clock().Rewind(time.Now().Add(-72 * time.Hour))
	defer g.Clock().Live()
	must(t, do())
}

func newClient() *registry.Client {
	return registry.New(registry.Options{Keychain: authn.NewMultiKeychain()})
}

// pruneCase is a store, a repository, an open incident since yesterday and two
// consumers that pin the new signer.
type pruneCase struct {
	*kase
	*grove
	path   string
	api    bool
	client *registry.Client
	trust  *verify.Verifier
	permit Permission
	accept []string // digests accepted as dark
	anchor string   // file
	limits PruneLimits
	all    bool
	alone  func(context.Context) error
}

func actorPerson(t testing.TB, a *sandbox.Actor) person {
	t.Helper()
	id, err := signer.OfKey(a.PublicKey())
	must(t, err)
	return person{name: a.Name(), pem: a.PublicKeyPEM(), id: id}
}

func (g *grove) newCase(t testing.TB, api bool) *pruneCase {
	t.Helper()
	c := &pruneCase{grove: g, path: "acme/" + strings.ToLower(rand.Text()), api: api, client: newClient()}
	c.kase = &kase{file: filepath.Join(t.TempDir(), "reseal.db"), now: time.Now().UTC().Truncate(time.Second)}
	k := c.kase
	k.alice, k.bob, k.carol, k.dave = newPerson(t, proposerName), newPerson(t, "bob"), newPerson(t, "carol"), newPerson(t, "dave")
	k.old, k.next, k.builder = actorPerson(t, g.old), actorPerson(t, g.next), actorPerson(t, g.builder)
	var err error
	k.Store, err = store.Create(t.Context(), k.file, k.clock)
	must(t, err)
	t.Cleanup(func() { must(t, c.kase.Store.Close()) })
	must(t, Enroll(t.Context(), k.Store, by, k.approvers(2)))
	k.update(t, func(tx *store.Tx) error {
		return errors.Join(tx.PutSigner(t.Context(), k.old.record(signer.Active)), tx.PutSigner(t.Context(), k.next.record(signer.Standby)),
			tx.PutSigner(t.Context(), k.builder.record(signer.Active)))
	})
	c.trust, err = verify.New(verify.Trust{Root: g.root, Keys: []crypto.PublicKey{g.old.PublicKey(), g.next.PublicKey(), g.builder.PublicKey()}})
	must(t, err)
	c.anchor = filepath.Join(t.TempDir(), "anchor.pub")
	must(t, os.WriteFile(c.anchor, k.next.pem, 0o644))
	from := k.now.Add(-24 * time.Hour)
	must(t, OpenIncident(t.Context(), k.Store, by, Incident{Incident: trust.Incident{ID: leak, Class: trust.SigningKey, Signers: []signer.Identity{k.old.id}, From: &from},
		Title: "key copied", Severity: "high", OpenedBy: proposerName, OpenedAt: k.now, Rogue: map[string]string{}}))
	return c
}

func (c *pruneCase) host() string {
	if c.api {
		return c.Registry()
	}
	return c.plain
}

func (c *pruneCase) repository() string { return c.host() + "/" + c.path }

// push pushes an image and returns it as the case's registry names it.
func (c *pruneCase) push(t testing.TB, seed string) name.Digest {
	t.Helper()
	ref, err := c.PushImage(t.Context(), c.path, seed, c.path+seed)
	must(t, err)
	repo, err := name.NewRepository(c.repository())
	must(t, err)
	return repo.Digest(ref.DigestStr())
}

// scan enters an image and what stands on it into the inventory.
func (c *pruneCase) scan(t testing.TB, ref name.Digest, deployed bool) (out map[string]inventory.Signature) {
	t.Helper()
	m, err := c.client.Manifest(t.Context(), ref.Context().Name(), ref.DigestStr())
	must(t, err)
	f := verify.Fetcher{Registry: c.client, Verifier: c.trust}
	got := f.Signatures(t.Context(), verify.Subject{Repository: ref.Context().Name(), Digest: ref.DigestStr()}, verify.Everywhere)
	out = map[string]inventory.Signature{}
	c.update(t, func(tx *store.Tx) error {
		err := tx.PutArtifact(t.Context(), inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr(), MediaType: m.MediaType, Size: m.Size})
		for _, h := range got.Holders {
			_, vaultErr := tx.PutVault(t.Context(), h.Raw)
			err = errors.Join(err, vaultErr)
		}
		for _, f := range got.Found {
			_, vaultErr := tx.PutVault(t.Context(), f.Content)
			err = errors.Join(err, vaultErr, tx.PutSignature(t.Context(), f.Signature))
			out[f.ID] = f.Signature
		}
		if deployed {
			err = errors.Join(err, tx.SetDeployed(t.Context(), ref.Context().Name(), ref.DigestStr()))
		}
		return err
	})
	return out
}

// approvePlan makes a plan and has it approved.
func (c *pruneCase) approvePlan(t testing.TB) string {
	t.Helper()
	_, d, _, err := MakePlan(t.Context(), c.kase.Store, by, Plan{Incident: leak, Proposer: proposerName, MadeAt: c.now, NewSigner: c.kase.next.id, Skew: time.Minute,
		Homes: []string{c.repository()}, AcceptDark: c.accept,
		Consumers: []Consumer{{Name: "ci", Reads: inventory.Legacy, Anchor: c.anchor}, {Name: "cluster", Reads: inventory.Bundle, Anchor: c.anchor}}})
	must(t, err)
	must(t, c.tryApprove(t, c.proposal(t, c.alice, d)))
	c.approve(t, d, c.bob, c.carol)
	c.permit = c.kase.permit(t, d)
	return d
}

// reissued says that a plan made the signatures of the new signer on an image.
func (c *pruneCase) reissued(t testing.TB, plan string, ref name.Digest) {
	t.Helper()
	sigs, err := c.kase.Store.SignaturesOf(t.Context(), inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr()}, "")
	must(t, err)
	c.update(t, func(tx *store.Tx) error {
		tx.Record(journal.Draft{Action: "resign.done", Subject: ref.String()})
		for n, g := range sigs {
			if g.Signer == c.kase.next.id {
				if err := tx.PutReissue(t.Context(), store.Reissue{Plan: plan, Seq: int64(n + 1), Format: g.Format, State: "done", Content: g.Content, SignatureID: g.ID}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (c *pruneCase) prune(ctx context.Context, reg PruneRegistry, apply bool) (PruneResult, error) {
	return Prune(ctx, c.kase.Store, reg, by, c.permit, PruneOptions{All: c.all, Limits: c.limits, Verifier: c.trust, Alone: c.alone,
		Accepts: func(ctx context.Context, found verify.Found, by signer.Record) error {
			pub, _, err := signer.ParsePublicKey(by.PublicKey)
			if err != nil {
				return err
			}
			return verify.Consumer{Key: pub, Root: c.root}.Accepts(ctx, found)
		},
		Anchors: func(context.Context) ([]Pinned, error) {
			content, err := os.ReadFile(c.anchor)
			if err != nil {
				return nil, err
			}
			_, id, err := signer.ParsePublicKey(content)
			return []Pinned{{Place: c.anchor, Pins: []inventory.Pin{{Key: id.Subject}}}}, err
		}}, apply)
}

// standing returns what stands in the registry on an image: by ID of each
// signature, the layer that holds it, to the byte.
func (c *pruneCase) standing(t testing.TB, ref name.Digest) map[string]string {
	t.Helper()
	f := verify.Fetcher{Registry: c.client, Verifier: c.trust}
	got := f.Signatures(t.Context(), verify.Subject{Repository: ref.Context().Name(), Digest: ref.DigestStr()}, verify.Everywhere)
	for _, p := range got.Problems {
		t.Errorf("%s: %s", p.Reference, p.Problem)
	}
	raw := map[string][]byte{}
	for _, h := range got.Holders {
		raw[h.Digest] = h.Raw
	}
	out := map[string]string{}
	for _, f := range got.Found {
		var m struct {
			Layers []json.RawMessage `json:"layers"`
		}
		must(t, json.Unmarshal(raw[f.Manifest], &m))
		at := slices.IndexFunc(m.Layers, func(l json.RawMessage) bool {
			var d v1.Descriptor
			must(t, json.Unmarshal(l, &d))
			return d.Digest.String() == f.Signature.Content && (f.Format == inventory.Bundle || d.Annotations["dev.cosignproject.cosign/signature"] == f.Annotations["dev.cosignproject.cosign/signature"])
		})
		if at < 0 {
			t.Fatalf("%s is in no layer", f.ID)
		}
		if out[f.ID] != "" {
			t.Errorf("%s stands there twice", f.ID)
		}
		out[f.ID] = string(f.Format) + " " + string(m.Layers[at]) + " " + string(f.Content)
	}
	return out
}

// accepts is what the consumers of the case say of an image: as cosign verifies,
// in the format that each reads.
func (c *pruneCase) accepts(t testing.TB, ref name.Digest, f inventory.Format, by crypto.PublicKey) error {
	t.Helper()
	fetched := verify.Fetcher{Registry: c.client, Verifier: c.trust}.Signatures(t.Context(), verify.Subject{Repository: ref.Context().Name(), Digest: ref.DigestStr()}, verify.Only(f))
	err := errors.New("there is none")
	for _, found := range fetched.Found {
		if err = (verify.Consumer{Key: by, Root: c.root}).Accepts(t.Context(), found); err == nil {
			return nil
		}
	}
	return err
}

// mixed is a deployed image that is good, re-signed and covered with what the
// thief made, and one that was re-signed and would not be now. It returns the
// images, and what must go of each.
func (c *pruneCase) mixed(t testing.TB) (good, recalled name.Digest, rogue map[string]inventory.Signature) {
	t.Helper()
	ctx, none := t.Context(), sandbox.NoProof
	good, recalled = c.push(t, "good"), c.push(t, "recalled")
	old, next, builder := c.grove.old, c.grove.next, c.grove.builder
	c.before(t, func() error {
		return errors.Join(old.SignLegacy(ctx, good, sandbox.RekorV1), old.SignBundle(ctx, good, sandbox.Timestamp))
	})
	kept := c.scan(t, good, false)
	must(t, errors.Join(old.SignLegacy(ctx, good, none), old.AttestLegacy(ctx, good, vex, map[string]any{"status": "<fixed> & well"}, none),
		old.SignBundle(ctx, good, none), old.AttestBundle(ctx, good, vex, nil, none)))
	rogue = c.scan(t, good, false)
	for id := range kept {
		delete(rogue, id)
	}
	must(t, errors.Join(builder.AttestLegacy(ctx, good, slsa, nil, none), builder.AttestBundle(ctx, good, slsa, nil, none),
		next.SignLegacy(ctx, good, none), next.SignBundle(ctx, good, none)))
	for id, g := range c.scan(t, good, true) {
		if _, must := rogue[id]; must {
			rogue[id] = g // its tag names another manifest by now
		}
	}
	must(t, old.SignLegacy(ctx, recalled, none))
	c.scan(t, recalled, false)
	plan := c.approvePlan(t)
	must(t, errors.Join(next.SignLegacy(ctx, recalled, none), next.SignBundle(ctx, recalled, none)))
	for id, g := range c.scan(t, recalled, false) {
		if g.Signer == c.kase.next.id {
			rogue[id] = g
		}
	}
	c.reissued(t, plan, recalled)
	return good, recalled, rogue
}

// settled checks what must hold once a pruning has run to its end.
func (c *pruneCase) settled(t testing.TB, refs []name.Digest, was map[string]string, rogue map[string]inventory.Signature) {
	t.Helper()
	now := map[string]string{}
	for _, ref := range refs {
		for id, s := range c.standing(t, ref) {
			now[id] = s
		}
		known, err := c.kase.Store.SignaturesEver(t.Context(), inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr()})
		must(t, err)
		for _, g := range known {
			if _, away := rogue[g.ID]; away != g.Gone {
				t.Errorf("the inventory says of %s (%s) by %s: gone %v", g.PredicateType, g.Format, g.Signer, g.Gone)
			}
		}
	}
	want := map[string]string{}
	for id, s := range was {
		if _, away := rogue[id]; !away {
			want[id] = s
		}
	}
	wantEqual(t, "what stands there", now, want)
	incidents, err := Incidents(t.Context(), c.kase.Store)
	must(t, err)
	for id, g := range rogue {
		for what, digest := range map[string]string{"layer": g.Content, "manifest": g.Manifest} {
			if _, err := c.kase.Store.Vault(t.Context(), digest); err != nil {
				t.Errorf("the vault has no %s of %s: %v", what, id, err)
			}
		}
		if why, err := WhyPruned(t.Context(), c.kase.Store, incidents, id); err != nil || why == "" {
			t.Errorf("%s may be put back: %q, %v", id, why, err)
		}
		if _, err := c.client.Manifest(t.Context(), g.Repository, g.Manifest); !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("the manifest %s of %s can still be had: %v", g.Manifest, id, err)
		}
	}
	for _, f := range []inventory.Format{inventory.Legacy, inventory.Bundle} {
		if err := c.accepts(t, refs[0], f, c.grove.next.PublicKey()); err != nil {
			t.Errorf("the good image is refused (%s): %v", f, err)
		}
		if err := c.accepts(t, refs[1], f, c.grove.next.PublicKey()); err == nil {
			t.Errorf("the recalled image is accepted (%s)", f)
		}
	}
	c.checkJournal(t)
	if problems, err := c.kase.Store.Check(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("the database: %v, %v", problems, err)
	}
	marks := map[string]int{}
	for _, e := range c.entries(t) {
		if e.Action == "signature.pruned" {
			marks[e.Subject]++
		}
	}
	for id := range rogue {
		if marks[id] == 0 {
			t.Errorf("the journal does not tell what became of %s", id)
		}
	}
	wantEqual(t, "marks", len(marks), len(rogue))
}

func causes(items []PruneItem) map[trust.Cause]int {
	out := map[trust.Cause]int{}
	for _, i := range items {
		out[i.Cause]++
	}
	return out
}

// TestPruneStops has somebody begin to re-sign after one of two artifacts was
// pruned: nothing more is taken away until that is done.
func TestPruneStops(t *testing.T) {
	t.Parallel()
	c := newGrove(t).newCase(t, true)
	c.mixed(t)
	busy := errors.New("somebody re-signs")
	asked := 0
	c.alone = func(context.Context) error {
		if asked++; asked > 1 {
			return busy
		}
		return nil
	}
	w := &pruneWrapper{PruneRegistry: c.client}
	if _, err := c.prune(t.Context(), w, false); err != nil || asked != 0 {
		t.Errorf("a dry run: got %v after %d questions", err, asked)
	}
	first, err := c.prune(t.Context(), w, true)
	if !errors.Is(err, busy) || asked != 2 || len(first.Pruned) == 0 || len(first.Pruned) >= 6 {
		t.Errorf("got %d taken away, %v after %d questions, want it to stop in between", len(first.Pruned), err, asked)
	}
	c.alone = nil
	second, err := c.prune(t.Context(), w, true)
	must(t, err)
	wantEqual(t, "taken away in all", len(first.Pruned)+len(second.Pruned), 6)
}

func TestPrune(t *testing.T) {
	t.Parallel()
	g := newGrove(t)
	for _, api := range []bool{true, false} {
		t.Run(fmt.Sprintf("referrers API=%v", api), func(t *testing.T) {
			t.Parallel()
			c := g.newCase(t, api)
			good, recalled, rogue := c.mixed(t)
			refs := []name.Digest{good, recalled}
			was := map[string]string{}
			for _, ref := range refs {
				for id, s := range c.standing(t, ref) {
					was[id] = s
				}
			}
			journaled := len(c.entries(t))

			w := &pruneWrapper{PruneRegistry: c.client}
			got, err := c.prune(t.Context(), w, false)
			must(t, err)
			wantEqual(t, "dry run", []any{got.Applied, causes(got.Pruned), len(got.Gone), len(got.Failed), len(got.Left)},
				[]any{false, map[trust.Cause]int{trust.CauseRogue: 4, trust.CauseRecalled: 2}, 0, 0, 0})
			wantEqual(t, "kept", causes(got.Kept), map[trust.Cause]int{trust.CauseRogue: 1})
			wantEqual(t, "writes of the dry run", w.writes, []string(nil))
			wantEqual(t, "journal after the dry run", len(c.entries(t)), journaled)

			for _, limits := range []PruneLimits{{MaxSignatures: 5}, {MaxShare: 0.3}} {
				c.limits = limits
				if _, err := c.prune(t.Context(), w, true); !errors.Is(err, ErrOverLimit) {
					t.Errorf("%+v: %v, want %v", limits, err, ErrOverLimit)
				}
			}
			wantEqual(t, "writes over the ceiling", w.writes, []string(nil))
			c.limits = PruneLimits{MaxSignatures: 6, MaxShare: 0.5}

			got, err = c.prune(t.Context(), w, true)
			must(t, err)
			wantEqual(t, "result", []any{got.Applied, causes(got.Pruned), len(got.Gone), len(got.Failed), len(got.Left)},
				[]any{true, map[trust.Cause]int{trust.CauseRogue: 4, trust.CauseRecalled: 2}, 0, 0, 0})
			c.settled(t, refs, was, rogue)
			for _, ref := range refs { // what is left is what cosign would have written
				for _, tag := range []string{verify.Tag(ref.DigestStr(), inventory.Legacy), verify.Tag(ref.DigestStr(), inventory.LegacyAtt)} {
					m, err := c.client.Manifest(t.Context(), c.repository(), tag)
					if errors.Is(err, registry.ErrNotFound) {
						continue
					}
					must(t, err)
					var image v1.Manifest
					must(t, json.Unmarshal(m.Raw, &image))
					config, ok := verify.Config(image)
					if !ok || !bytes.Contains(config, []byte("diff_ids")) {
						t.Errorf("%s has the configuration %s", tag, image.Config.Digest)
					}
					if has, err := c.client.HasBlob(t.Context(), c.repository(), image.Config.Digest.String()); err != nil || !has {
						t.Errorf("the configuration of %s is not there: %v", tag, err)
					}
				}
			}

			w.writes = nil
			got, err = c.prune(t.Context(), w, true)
			must(t, err)
			wantEqual(t, "again", []int{len(got.Pruned), len(got.Kept), len(got.Gone), len(w.writes)}, []int{0, 1, 0, 0})

			// Closing has no recall to complain of any more.
			closing, err := Missing(t.Context(), c.kase.Store, leak, quietWorld{})
			must(t, err)
			for _, m := range closing.Missing {
				if strings.Contains(m, "re-signed and would not be") {
					t.Errorf("missing: %s", m)
				}
			}
		})
	}
}

// TestWhyPruned is about what may be put back after all: what a false alarm took
// away, and what a later plan made again to the byte.
func TestWhyPruned(t *testing.T) {
	t.Parallel()
	g := newGrove(t)
	c := g.newCase(t, true)
	_, recalled, rogue := c.mixed(t)
	c.pruned(t, c.client)
	why := func(id string, change func(*Incident)) string {
		incidents, err := Incidents(t.Context(), c.kase.Store)
		must(t, err)
		if change != nil {
			change(&incidents[0])
		}
		why, err := WhyPruned(t.Context(), c.kase.Store, incidents, id)
		must(t, err)
		return why
	}
	for id, s := range rogue {
		if !strings.Contains(why(id, nil), c.permit.Digest()) {
			t.Errorf("%s: %q, want the plan", id, why(id, nil))
		}
		wantEqual(t, "after a false alarm", why(id, func(i *Incident) { i.State = Withdrawn }), "")
		wantEqual(t, "another incident's false alarm", why(id, func(i *Incident) { i.ID, i.State = "INC-2", Withdrawn }) != "", true)
		if s.Digest != recalled.DigestStr() {
			continue
		}
		again := func(plan, content string) {
			c.update(t, func(tx *store.Tx) error {
				tx.Record(journal.Draft{Action: "resign.done", Subject: id})
				return tx.PutReissue(t.Context(), store.Reissue{Plan: plan, Seq: 9, Format: s.Format, State: "done", Content: content, SignatureID: id})
			})
		}
		again("found by another plan", "")
		wantEqual(t, "found there by another plan", why(id, nil) != "", true)
		again("made by another plan", s.Content)
		wantEqual(t, "made again", why(id, nil), "")
	}
	wantEqual(t, "never pruned", why("unknown", nil), "")
}

// quietWorld is a world in which nothing is left to do.
type quietWorld struct{}

func (quietWorld) Anchors(context.Context) ([]Pinned, error)             { return nil, nil }
func (quietWorld) Present(context.Context, string, string) (bool, error) { return false, nil }
func (quietWorld) Sealed(context.Context, string) (bool, error)          { return true, nil }

// pruneWrapper counts the writes to a registry and disturbs one of them.
type pruneWrapper struct {
	PruneRegistry
	failAt int // number of the write, from 1
	fault  fault
	kill   context.CancelFunc
	file   string // database to copy when killed
	copied string
	writes []string
	before func(op, reference string) // each write; may be nil
	after  func(op, reference string) // each write that was done; may be nil
	refuse bool                       // deletes nothing
}

func (w *pruneWrapper) write(ctx context.Context, op, reference string, act func() error) error {
	if w.before != nil {
		w.before(op, reference)
	}
	w.writes = append(w.writes, op+" "+reference)
	if len(w.writes) != w.failAt {
		err := act()
		if err == nil && w.after != nil {
			w.after(op, reference)
		}
		return err
	}
	switch w.fault {
	case lost:
		return errFault
	case doneButError:
		return errors.Join(errFault, act())
	case killedBefore:
		w.die()
		return ctx.Err()
	default:
		err := act()
		w.die()
		return errors.Join(err, ctx.Err())
	}
}

// die ends the process: what the database has by now is all that is kept.
func (w *pruneWrapper) die() {
	dir := filepath.Dir(w.file) + "-killed"
	if err := os.CopyFS(dir, os.DirFS(filepath.Dir(w.file))); err != nil {
		panic(err)
	}
	w.copied = filepath.Join(dir, filepath.Base(w.file))
	w.kill()
}

var errDeletesNothing = &registry.Error{Op: "delete", Status: http.StatusMethodNotAllowed, Err: registry.ErrUnsupported}

func (w *pruneWrapper) PutBlob(ctx context.Context, repository string, content []byte) (d string, err error) {
	err = w.write(ctx, "blob", inventory.Digest(content), func() error {
		d, err = w.PruneRegistry.PutBlob(ctx, repository, content)
		return err
	})
	return d, err
}

func (w *pruneWrapper) PutManifest(ctx context.Context, repository, reference, mediaType string, raw []byte) (d string, indexed bool, err error) {
	err = w.write(ctx, "put", reference, func() error {
		d, indexed, err = w.PruneRegistry.PutManifest(ctx, repository, reference, mediaType, raw)
		return err
	})
	return d, indexed, err
}

func (w *pruneWrapper) Attach(ctx context.Context, repository string, manifest []byte, mediaType string, desc v1.Descriptor, subject string) (d string, err error) {
	err = w.write(ctx, "attach", subject, func() error {
		d, err = w.PruneRegistry.Attach(ctx, repository, manifest, mediaType, desc, subject)
		return err
	})
	return d, err
}

func (w *pruneWrapper) Detach(ctx context.Context, repository, digest, subject string) error {
	return w.write(ctx, "detach", digest, func() error {
		return w.PruneRegistry.Detach(ctx, repository, digest, subject)
	})
}

func (w *pruneWrapper) Delete(ctx context.Context, repository, reference string) error {
	return w.write(ctx, "delete", reference, func() error {
		if w.refuse {
			return errDeletesNothing
		}
		return w.PruneRegistry.Delete(ctx, repository, reference)
	})
}

// pruneFaults disturbs each write of a pruning in each way: the run after it
// ends where an undisturbed one does.
func pruneFaults(t *testing.T) {
	t.Helper()
	g := newGrove(t)
	for _, api := range []bool{true, false} {
		probe := g.newCase(t, api)
		probe.mixed(t)
		w := &pruneWrapper{PruneRegistry: probe.client}
		_, err := probe.prune(t.Context(), w, true)
		must(t, err)
		if len(w.writes) < 10 {
			t.Fatalf("only %d writes: %v", len(w.writes), w.writes)
		}
		for at, what := range w.writes {
			op, _, _ := strings.Cut(what, " ")
			for kind, f := range faults {
				if !api && op != "detach" && f != killedAfter {
					continue // it is the same
				}
				t.Run(fmt.Sprintf("pruning, referrers API=%v, write %d (%s) %s", api, at+1, op, kind), func(t *testing.T) {
					t.Parallel()
					c := g.newCase(t, api)
					good, recalled, rogue := c.mixed(t)
					refs := []name.Digest{good, recalled}
					was := map[string]string{}
					for _, ref := range refs {
						for id, s := range c.standing(t, ref) {
							was[id] = s
						}
					}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					w := &pruneWrapper{PruneRegistry: c.client, failAt: at + 1, fault: f, kill: cancel, file: c.file}
					got, err := c.prune(ctx, w, true)
					if len(w.writes) <= at {
						t.Fatalf("only %v were written", w.writes)
					}
					if killed := f == killedBefore || f == killedAfter; killed != errors.Is(err, context.Canceled) {
						t.Fatalf("%v, %+v", err, got.Failed)
					}
					for _, ref := range refs[:1] {
						for _, f := range []inventory.Format{inventory.Legacy, inventory.Bundle} {
							if err := c.accepts(t, ref, f, c.grove.next.PublicKey()); err != nil {
								t.Errorf("the good image went dark (%s): %v", f, err)
							}
						}
					}
					for _, i := range got.Pruned {
						for _, ref := range refs {
							if _, there := c.standing(t, ref)[i.Signature]; there {
								t.Errorf("told that %s is gone, and it stands there", i.Signature)
							}
						}
					}
					if w.copied != "" {
						s, err := store.Open(t.Context(), w.copied, c.kase.clock)
						must(t, err)
						must(t, c.kase.Store.Close())
						c.kase.Store = s
						c.permit = c.kase.permit(t, c.permit.Digest())
					}
					c.checkJournal(t)

					_, err = c.prune(t.Context(), c.client, true)
					must(t, err)
					c.settled(t, refs, was, rogue)
					quiet := &pruneWrapper{PruneRegistry: c.client}
					last, err := c.prune(t.Context(), quiet, true)
					must(t, err)
					wantEqual(t, "third run", []int{len(last.Pruned), len(last.Kept), len(last.Gone), len(quiet.writes)}, []int{0, 1, 0, 0})
				})
			}
		}
	}
}
