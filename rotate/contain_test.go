package rotate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

const revocation = "revocations/" + leak + ".json"

// wanted is the registry once artifact 3 is contained.
func wanted(t *testing.T, k *kase, p Permission) map[string]string {
	t.Helper()
	i, err := LoadIncident(t.Context(), k.Store, leak)
	must(t, err)
	statement, err := Revoke(i, p, Rules([]Incident{i}), p.plan.Rogue)
	must(t, err)
	return map[string]string{digest(1): "good image", digest(40): "good signatures",
		"tag sha256-" + strings.TrimPrefix(digest(1), "sha256:") + ".sig": digest(40),
		"published " + revocation: string(statement)}
}

func (k *kase) contain(ctx context.Context, f *fakeRegistry, p Permission, apply bool) (Contained, error) {
	return Contain(ctx, k.Store, f, f.publish, by, p, apply)
}

func TestContainDryRun(t *testing.T) {
	t.Parallel()
	k, plan, p := approved(t, nil)
	f := newFakeRegistry()
	had, journaled := f.state(), len(k.entries(t))
	c, err := k.contain(t.Context(), f, p, false)
	must(t, err)
	wantEqual(t, "result", c, Contained{Incident: leak, Plan: plan, Published: revocation, Quarantined: []string{repo + "@" + digest(3)}, Absent: []string{}, Elsewhere: []string{}, Spared: []string{}, Failed: []string{}})
	wantEqual(t, "registry", f.state(), had)
	wantEqual(t, "writes", f.writes, []string(nil))
	wantEqual(t, "journal", len(k.entries(t)), journaled)
	wantEqual(t, "locked", f.locked, false)
}

// TestContainGarbage has garbage in the list of referrers, which anybody can
// push: what is known to be rogue goes all the same, and with a listing that
// cannot be read for another reason nothing does.
func TestContainGarbage(t *testing.T) {
	t.Parallel()
	k, _, p := approved(t, nil)
	f := newFakeRegistry()
	f.listing = errors.New("connection lost")
	c, err := k.contain(t.Context(), f, p, true)
	if err == nil || len(c.Failed) == 0 {
		t.Errorf("the listing could not be read: %v, %+v", err, c)
	}
	wantEqual(t, "written", f.writes, []string{"publish " + revocation})
	f.listing = fmt.Errorf("index: %w", registry.ErrMalformed)
	c, err = k.contain(t.Context(), f, p, true)
	must(t, err)
	wantEqual(t, "quarantined", c.Quarantined, []string{repo + "@" + digest(3)})
	if len(f.manifests) > 0 && f.manifests[digest(3)] != nil {
		t.Error("the rogue artifact is still there")
	}
}

// TestAttackContain has somebody who can push name a good image as what hangs on
// a rogue one: it is not deleted with that.
func TestAttackContain(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		plant func(*fakeRegistry)
		good  int
		says  string
	}{
		{"as its signatures", func(f *fakeRegistry) { f.tags[verify.Tag(digest(3), inventory.Legacy)] = digest(1) }, 1, "an artifact of its own"},
		{"as a referrer", func(f *fakeRegistry) { f.subjects[digest(1)] = digest(3) }, 1, "an artifact of its own"},
		{"as its signatures, no scan has seen it", func(f *fakeRegistry) {
			f.manifests[digest(41)] = []byte(layered("application/vnd.oci.image.layer.v1.tar+gzip", ""))
			f.tags[verify.Tag(digest(3), inventory.Legacy)] = digest(41)
		}, 41, "holds more than signatures"},
		{"as a referrer, no scan has seen it", func(f *fakeRegistry) {
			f.manifests[digest(41)] = []byte(layered("application/vnd.oci.image.layer.v1.tar+gzip", ""))
			f.subjects[digest(41)] = digest(3)
		}, 41, "does not say that it is about the artifact"},
		{"as a referrer, the signatures of a good one", func(f *fakeRegistry) {
			f.manifests[digest(40)] = []byte(itsSignatures)
			f.subjects[digest(40)] = digest(3)
		}, 40, "does not say that it is about the artifact"},
		{"as its signatures, those of a good one", func(f *fakeRegistry) {
			f.manifests[digest(40)] = []byte(itsSignatures)
			f.tags[verify.Tag(digest(3), inventory.Legacy)] = digest(40)
		}, 40, "names, too"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k, _, p := approved(t, nil)
			k.update(t, func(tx *store.Tx) error {
				return tx.PutTag(t.Context(), store.Scan{Repository: repo}, verify.Tag(digest(1), inventory.Legacy), digest(40))
			})
			f := newFakeRegistry()
			tc.plant(f)
			c, err := k.contain(t.Context(), f, p, true)
			if err == nil || len(c.Failed) != 1 || !strings.Contains(c.Failed[0], tc.says) {
				t.Errorf("%v, %q", err, c.Failed)
			}
			if f.manifests[digest(tc.good)] == nil {
				t.Error("what is good was deleted")
			}
			for _, n := range []int{3, 31, 32, 33} {
				if f.manifests[digest(n)] != nil {
					t.Errorf("%s is still there", f.manifests[digest(n)])
				}
			}
		})
	}
}

func TestContain(t *testing.T) {
	t.Parallel()
	k, plan, p := approved(t, nil)
	f := newFakeRegistry()
	journaled := len(k.entries(t))
	f.intend = func(ref string, content []byte) {
		// The vault has it, and the intent is the last thing in the journal.
		all := k.entries(t)
		last := all[len(all)-1]
		if !strings.HasSuffix(last.Action, ".intended") {
			t.Errorf("%s: the journal ends with %s, want an intent", ref, last.Action)
		}
		if ref != revocation {
			got, err := k.Vault(t.Context(), inventory.Digest(content))
			if err != nil || string(got) != string(content) {
				t.Errorf("%s is deleted before it is in the vault: %v", ref, err)
			}
			wantEqual(t, "digest of the intent", last.Digest, inventory.Digest(content))
		}
		if !f.locked && ref != revocation {
			t.Errorf("%s: written without the lock", ref)
		}
	}
	c, err := k.contain(t.Context(), f, p, true)
	must(t, err)
	want := Contained{Incident: leak, Plan: plan, Applied: true, Published: revocation, Quarantined: []string{repo + "@" + digest(3)}, Absent: []string{}, Elsewhere: []string{}, Spared: []string{}, Failed: []string{}}
	wantEqual(t, "result", c, want)
	wantEqual(t, "registry", f.state(), wanted(t, k, p))
	wantEqual(t, "writes", f.writes, []string{"publish " + revocation, "delete " + digest(3), "detach " + digest(32), "detach " + digest(33), "delete " + digest(30), "delete " + digest(31)})
	var got []string
	for _, e := range k.entries(t)[journaled:] {
		got = append(got, e.Action)
	}
	wantEqual(t, "journal", strings.Join(got, " "), "revocation.intended revocation.done"+strings.Repeat(" quarantine.intended quarantine.done", 5)+" inventory.sighted")
	for _, raw := range []string{rogueImage, itsSignatures, itsAttestations, itsBundle, anotherReferrer} {
		if _, err := k.Vault(t.Context(), inventory.Digest([]byte(raw))); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	}
	sigs, err := k.SignaturesOf(t.Context(), inventory.Artifact{Repository: repo, Digest: digest(3)}, "")
	must(t, err)
	wantEqual(t, "its signatures in the inventory", len(sigs), 0)

	// Again: nothing is left to take away.
	f.writes = nil
	c, err = k.contain(t.Context(), f, p, true)
	must(t, err)
	want.Quarantined, want.Absent = want.Absent, want.Quarantined
	wantEqual(t, "second result", c, want)
	wantEqual(t, "second writes", f.writes, []string{"publish " + revocation})
	wantEqual(t, "registry", f.state(), wanted(t, k, p))
	k.checkJournal(t)
}

// TestFault disturbs each write of a containment, and of a pruning, in each way:
// the run after it ends where an undisturbed one does.
func TestFault(t *testing.T) {
	t.Parallel()
	pruneFaults(t)
	for write := 1; write <= 6; write++ {
		for name, kind := range faults {
			t.Run(fmt.Sprintf("write %d %s", write, name), func(t *testing.T) {
				t.Parallel()
				k, _, p := approved(t, nil)
				f := newFakeRegistry()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				f.failAt, f.fault, f.kill = write, kind, cancel
				c, err := k.contain(ctx, f, p, true)
				if err == nil {
					t.Fatalf("the fault went unnoticed: %+v", c)
				}
				if len(f.writes) < write {
					t.Fatalf("only %v were written", f.writes)
				}
				if write > 1 && ctx.Err() == nil && len(c.Failed) != 1 {
					t.Errorf("failed are %v, want the artifact", c.Failed)
				}
				if f.locked {
					t.Error("the lock is held after the failure")
				}
				k.checkJournal(t)

				f.failAt = 0
				c, err = k.contain(t.Context(), f, p, true)
				must(t, err)
				wantEqual(t, "artifacts", len(c.Quarantined)+len(c.Absent), 1)
				wantEqual(t, "registry", f.state(), wanted(t, k, p))
				for _, raw := range []string{rogueImage, itsSignatures, itsAttestations, itsBundle, anotherReferrer} {
					if _, err := k.Vault(t.Context(), inventory.Digest([]byte(raw))); err != nil {
						t.Errorf("%s is lost: %v", raw, err)
					}
				}
				for _, e := range k.entries(t) {
					if e.Action == "quarantine.done" && e.Digest == "" {
						t.Errorf("%s went without its bytes", e.Subject)
					}
				}
				k.checkJournal(t)
			})
		}
	}
}

func TestContainStopsWithoutPublishing(t *testing.T) {
	t.Parallel()
	k, _, p := approved(t, nil)
	f := newFakeRegistry()
	had := f.state()
	if _, err := Contain(t.Context(), k.Store, f, func(context.Context, string, []byte) error { return errFault }, by, p, true); !errors.Is(err, errFault) {
		t.Errorf("got %v, want %v", err, errFault)
	}
	wantEqual(t, "registry", f.state(), had)
}

// wall is the anchors of two consumers, and what they accept.
type wall struct {
	legacy, bundle string // files
	refuse         map[string]bool
	mu             sync.Mutex
	asked          []string
}

func (w *wall) accepts(_ context.Context, repository, d string, f inventory.Format, by signer.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, fmt.Sprintf("%s@%s %s %s", repository, d, f, by.Name))
	if w.refuse[d] {
		return errors.New("no signature by the new signer is there")
	}
	return nil
}

func (w *wall) consumers() []Consumer {
	return []Consumer{{Name: "ci", Reads: inventory.Legacy, Anchor: w.legacy}, {Name: "cluster", Reads: inventory.Bundle, Anchor: w.bundle}}
}

// walled is an approved case with two consumers that pin the old key. 2 and 7
// are on hold.
func walled(t *testing.T, dark ...string) (*kase, *wall, Permission) {
	t.Helper()
	dir := t.TempDir()
	w := &wall{legacy: filepath.Join(dir, "ci.pub"), bundle: filepath.Join(dir, "cluster.pub"), refuse: map[string]bool{digest(2): true, digest(7): true}}
	k, _, p := approved(t, func(p *Plan) { p.Consumers, p.AcceptDark = w.consumers(), dark })
	w.pin(t, k.old.pem, k.old.pem)
	return k, w, p
}

func (w *wall) pin(t *testing.T, legacy, bundle []byte) {
	t.Helper()
	must(t, os.WriteFile(w.legacy, legacy, 0o644))
	must(t, os.WriteFile(w.bundle, bundle, 0o644))
}

func (w *wall) pinned(t *testing.T) [2]string {
	t.Helper()
	var out [2]string
	for i, file := range []string{w.legacy, w.bundle} {
		content, err := os.ReadFile(file)
		must(t, err)
		out[i] = string(content)
	}
	return out
}

func (k *kase) both(p person) [2]string { return [2]string{string(p.pem), string(p.pem)} }

func TestCutOver(t *testing.T) {
	t.Parallel()
	k, w, p := walled(t, digest(2), digest(7))
	journaled := len(k.entries(t))
	c, err := CutOver(t.Context(), k.Store, w.accepts, by, p, false)
	must(t, err)
	want := Cutover{Incident: leak, Plan: p.Digest(), Checked: 3, Anchors: []string{"ci", "cluster"}, Already: []string{}, Others: []string{}, Dark: []Dark{
		{Artifact: repo + "@" + digest(2), Consumer: "ci", Why: c.Dark[0].Why, Accepted: true},
		{Artifact: elsewhere + "@" + digest(7), Consumer: "cluster", Why: c.Dark[1].Why, Accepted: true}}}
	wantEqual(t, "dry run", c, want)
	for _, d := range c.Dark {
		if !strings.HasPrefix(d.Why, "on hold: ") {
			t.Errorf("%s is dark because %q, want the hold's reason", d.Artifact, d.Why)
		}
	}
	wantEqual(t, "anchors after the dry run", w.pinned(t), k.both(k.old))
	wantEqual(t, "journal after the dry run", len(k.entries(t)), journaled)
	wantEqual(t, "states after the dry run", []signer.State{k.state(t, k.old), k.state(t, k.next)}, []signer.State{signer.Tainted, signer.Standby})
	wantEqual(t, "asked", w.asked, []string{repo + "@" + digest(1) + " legacy next", repo + "@" + digest(2) + " legacy next", elsewhere + "@" + digest(7) + " bundle next"})

	c, err = CutOver(t.Context(), k.Store, w.accepts, by, p, true)
	must(t, err)
	want.Applied = true
	wantEqual(t, "cut-over", c, want)
	wantEqual(t, "anchors", w.pinned(t), k.both(k.next))
	wantEqual(t, "states", []signer.State{k.state(t, k.old), k.state(t, k.next)}, []signer.State{signer.Revoked, signer.Active})
	kept, err := k.Vault(t.Context(), inventory.Digest(k.old.pem))
	must(t, err)
	wantEqual(t, "old key in the vault", string(kept), string(k.old.pem))
	var got []string
	for _, e := range k.entries(t)[journaled:] {
		got = append(got, e.Action)
	}
	one := "anchor.keep.intended anchor.keep.done anchor.write.intended anchor.write.done "
	wantEqual(t, "journal", strings.Join(got, " "), one+one+"signer.active signer.revoked cutover.done")
	left, err := filepath.Glob(filepath.Join(filepath.Dir(w.legacy), ".*"))
	wantEqual(t, "left over files", fmt.Sprint(left, err), "[] <nil>")

	c, err = CutOver(t.Context(), k.Store, w.accepts, by, p, true)
	must(t, err)
	want.Anchors, want.Already = want.Already, want.Anchors
	wantEqual(t, "again", c, want)
	k.checkJournal(t)
}

func TestCutOverRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		dark   []string // accepted in the plan
		refuse int      // besides 2 and 7, which are on hold
		change func(t *testing.T, k *kase, w *wall)
		is     error
		says   string
	}{
		{name: "a hold that nobody accepted", dark: []string{digest(2)}, is: ErrNotCovered, says: "1 deployed"},
		{name: "no hold was accepted", is: ErrNotCovered, says: "2 deployed"},
		{name: "not re-signed yet", dark: []string{digest(2), digest(7)}, refuse: 1, is: ErrNotCovered, says: "1 deployed"},
		{name: "good, refused, and accepted as dark all the same", dark: []string{digest(1), digest(2), digest(7)}, refuse: 1, is: ErrNotCovered, says: "1 deployed"},
		{name: "deployed since the plan", dark: []string{digest(2), digest(7)}, refuse: 6, is: ErrNotCovered, says: "1 deployed",
			change: func(t *testing.T, k *kase, _ *wall) { k.deploy(t, elsewhere, 6) }},
		{name: "its signatures were deleted from the registry", dark: []string{digest(2), digest(7)}, refuse: 1, is: ErrNotCovered, says: "1 deployed",
			change: func(t *testing.T, k *kase, _ *wall) {
				k.update(t, func(tx *store.Tx) error {
					return tx.KeepSignatures(t.Context(), repo, digest(1), "", inventory.Formats(), nil)
				})
			}},
		{name: "an anchor that pins somebody else", dark: []string{digest(2), digest(7)}, says: "nor enrolled as trusted",
			change: func(t *testing.T, k *kase, w *wall) { w.pin(t, k.stranger.pem, k.old.pem) }},
		{name: "an anchor that is no key", dark: []string{digest(2), digest(7)}, says: "ci",
			change: func(t *testing.T, k *kase, w *wall) { w.pin(t, []byte("key"), k.old.pem) }},
		{name: "an anchor with two keys", dark: []string{digest(2), digest(7)}, says: "ci",
			change: func(t *testing.T, k *kase, w *wall) { w.pin(t, append(k.old.pem, k.stranger.pem...), k.old.pem) }},
		{name: "an anchor that is not there", dark: []string{digest(2), digest(7)}, says: "ci",
			change: func(t *testing.T, k *kase, w *wall) { must(t, os.Remove(w.legacy)); must(t, os.Mkdir(w.legacy, 0o755)) }},
		{name: "the new signer's key on record is another's", dark: []string{digest(2), digest(7)}, says: "is that of",
			change: func(t *testing.T, k *kase, _ *wall) {
				r := k.next.record(signer.Standby)
				r.PublicKey = k.stranger.pem
				k.update(t, func(tx *store.Tx) error { return tx.PutSigner(t.Context(), r) })
			}},
		{name: "a proven signature is also kept where the new signer has none", dark: []string{digest(2), digest(7)}, is: ErrNotCovered, says: "1 deployed",
			change: func(t *testing.T, k *kase, _ *wall) {
				k.update(t, func(tx *store.Tx) error {
					g := signed(k.old, inventory.Legacy, true)
					g.ID, g.Repository, g.Digest, g.Location = "elsewhere", repo, digest(1), "r.example/signatures"
					return tx.PutSignature(t.Context(), g)
				})
			}},
		{name: "the new signer is under an incident since the approval", dark: []string{digest(2), digest(7)}, says: "incident",
			change: func(t *testing.T, k *kase, _ *wall) { k.open(t, "INC-2", k.next.id) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k, w, p := walled(t, tc.dark...)
			if tc.refuse > 0 {
				w.refuse[digest(tc.refuse)] = true
			}
			if tc.change != nil {
				tc.change(t, k, w)
			}
			cluster, err := os.ReadFile(w.bundle)
			must(t, err)
			journaled, states := len(k.entries(t)), []signer.State{k.state(t, k.old), k.state(t, k.next)}
			for _, apply := range []bool{false, true} {
				_, err := CutOver(t.Context(), k.Store, w.accepts, by, p, apply)
				if err == nil {
					t.Errorf("apply=%v: done", apply)
				} else if tc.is != nil && !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("apply=%v: got %v, want %v that says %q", apply, err, tc.is, tc.says)
				}
			}
			wantEqual(t, "journal", len(k.entries(t)), journaled)
			wantEqual(t, "states", []signer.State{k.state(t, k.old), k.state(t, k.next)}, states)
			now, err := os.ReadFile(w.bundle)
			must(t, err)
			wantEqual(t, "the other anchor", string(now), string(cluster))
		})
	}
}

// TestCutOverIsAtomic reads an anchor all the while: it is the old key or the
// new one, never something between.
func TestCutOverIsAtomic(t *testing.T) {
	t.Parallel()
	k, w, p := walled(t, digest(2), digest(7))
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			f, err := os.Open(w.legacy)
			if err != nil {
				t.Error(err)
				return
			}
			content, err := io.ReadAll(f)
			f.Close()
			if s := string(content); err != nil || s != string(k.old.pem) && s != string(k.next.pem) {
				t.Errorf("the anchor was %q, %v", content, err)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for range 5 {
		_, err := CutOver(t.Context(), k.Store, w.accepts, by, p, true)
		must(t, err)
		must(t, os.WriteFile(w.legacy+".new", k.old.pem, 0o644)) // back, as an operator might
		must(t, os.Rename(w.legacy+".new", w.legacy))
	}
	close(done)
	wg.Wait()
}

// TestFaultInCutOver stops a cut-over half way; the next one ends it.
func TestFaultInCutOver(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		spoil func(t *testing.T, k *kase, w *wall, cancel func()) (repair func())
	}{
		{"second anchor cannot be read", func(t *testing.T, k *kase, w *wall, _ func()) func() {
			must(t, os.Rename(w.bundle, w.bundle+".away"))
			return func() { must(t, os.Rename(w.bundle+".away", w.bundle)) }
		}},
		{"second anchor is not ours", func(t *testing.T, k *kase, w *wall, _ func()) func() {
			w.pin(t, k.old.pem, k.stranger.pem)
			return func() { must(t, os.WriteFile(w.bundle, k.old.pem, 0o644)) }
		}},
		{"killed while checking", func(t *testing.T, k *kase, w *wall, cancel func()) func() {
			w.refuse = map[string]bool{}
			cancel()
			return func() {}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k, w, p := walled(t, digest(2), digest(7))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			repair := tc.spoil(t, k, w, cancel)
			if c, err := CutOver(ctx, k.Store, w.accepts, by, p, true); err == nil {
				t.Fatalf("the fault went unnoticed: %+v", c)
			}
			wantEqual(t, "states", []signer.State{k.state(t, k.old), k.state(t, k.next)}, []signer.State{signer.Tainted, signer.Standby})
			repair()
			c, err := CutOver(t.Context(), k.Store, w.accepts, by, p, true)
			must(t, err)
			wantEqual(t, "consumers", len(c.Anchors)+len(c.Already), 2)
			wantEqual(t, "anchors", w.pinned(t), k.both(k.next))
			wantEqual(t, "states", []signer.State{k.state(t, k.old), k.state(t, k.next)}, []signer.State{signer.Revoked, signer.Active})
			k.checkJournal(t)
		})
	}
}

// TestCutOverCountsWhatIsKnownNow accepts what was learnt since the approval.
func TestCutOverCountsWhatIsKnownNow(t *testing.T) {
	t.Parallel()
	k, w, p := walled(t, digest(2), digest(7))
	w.refuse[digest(1)] = true
	k.open(t, "INC-2", k.builder.id, 1) // 1 turned out to be rogue: it may go dark
	c, err := CutOver(t.Context(), k.Store, w.accepts, by, p, true)
	must(t, err)
	for _, d := range c.Dark {
		if strings.HasSuffix(d.Artifact, digest(1)) {
			t.Errorf("a rogue artifact is counted as dark: %+v", d)
		}
	}
	wantEqual(t, "still the only decision it could have", k.item(t, p.Digest(), 1, inventory.SignPredicate).Decision, trust.Resign)
	var last journal.Entry
	for _, e := range k.entries(t) {
		last = e
	}
	wantEqual(t, "last entry", last.Action, "cutover.done")
}

// TestQuarantineKeepsContent takes away a bundle that no scan has seen: its
// content is in the vault before its manifest is deleted.
func TestQuarantineKeepsContent(t *testing.T) {
	t.Parallel()
	k, _, p := approved(t, nil)
	f := newFakeRegistry()
	content := []byte("a bundle pushed a minute ago")
	f.blobs = map[string][]byte{inventory.Digest(content): content}
	f.manifests[digest(32)] = fmt.Appendf(nil, `{"schemaVersion":2,"subject":{"digest":%q,"size":1},"layers":[{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","digest":%q,"size":1},
		{"mediaType":"x","digest":%q,"size":1}]}`, digest(3), inventory.Digest(content), digest(99))
	_, err := k.contain(t.Context(), f, p, true)
	must(t, err)
	got, err := k.Vault(t.Context(), inventory.Digest(content))
	must(t, err)
	wantEqual(t, "kept content", string(got), string(content))
}

// TestOtherConsumerIsLeftAlone cuts over where a consumer accepts another
// signer, which no incident is about.
func TestOtherConsumerIsLeftAlone(t *testing.T) {
	t.Parallel()
	k, w, p := walled(t, digest(2), digest(7))
	w.pin(t, k.old.pem, k.builder.pem)
	c, err := CutOver(t.Context(), k.Store, w.accepts, by, p, true)
	must(t, err)
	wantEqual(t, "rewritten", c.Anchors, []string{"ci"})
	wantEqual(t, "left alone", c.Others, []string{"cluster"})
	wantEqual(t, "anchors", w.pinned(t), [2]string{string(k.next.pem), string(k.builder.pem)})
}

// TestMarksMadeAtOnce marks digests from many sides: none is lost.
func TestMarksMadeAtOnce(t *testing.T) {
	t.Parallel()
	k, _, p := approved(t, nil)
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			if _, err := MarkRogue(t.Context(), k.Store, by, leak, map[string]string{digest(100 + n): "seen"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	i, err := LoadIncident(t.Context(), k.Store, leak)
	must(t, err)
	for n := range 20 {
		if i.Rogue[digest(100+n)] == "" {
			t.Errorf("the mark of %s was lost", digest(100+n))
		}
	}
	// The statement of an older plan denies them all the same.
	f := newFakeRegistry()
	c, err := k.contain(t.Context(), f, p, true)
	must(t, err)
	wantEqual(t, "denied elsewhere", len(c.Elsewhere), 20)
	if published := string(f.state()["published "+revocation]); strings.Count(published, `"sha256":`) != 21 {
		t.Errorf("the statement denies %d digests, want 21: %s", strings.Count(published, `"sha256":`), published)
	}
}

// TestContainUnexplained denies what nothing of ours explains, as long as that is
// so and nothing speaks for the same content elsewhere.
func TestContainUnexplained(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.open(t, leak, k.old.id, 3)
	// 2 stays without a record, 8 gets one after the approval, and 9 is a good
	// image that the thief copied into another repository and signed there.
	for _, n := range []int{8, 9} {
		g := signed(k.old, inventory.Legacy, false)
		g.PayloadDigest = digest(70 + n)
		k.put(t, repo, n, g)
	}
	k.put(t, elsewhere, 9, signed(k.builder, inventory.Legacy, true))
	k.source(t, trust.Source{Name: "ci", Kind: inventory.RecordCI, By: k.builder.id, Signer: k.old.id})
	plan, _ := k.plan(t, nil)
	for _, n := range []int{2, 8, 9} {
		wantEqual(t, "decision", k.item(t, plan, n, inventory.SignPredicate).Decision, trust.Deny)
	}
	k.approve(t, plan, k.bob, k.carol)
	p := k.permit(t, plan)
	k.record(t, inventory.Record{Kind: inventory.RecordCI, By: k.builder.id.ID(), Digest: digest(8)})

	f := newFakeRegistry()
	for _, n := range []int{2, 8, 9} {
		f.manifests[digest(n)] = []byte("image")
	}
	c, err := k.contain(t.Context(), f, p, true)
	must(t, err)
	wantEqual(t, "taken away", c.Quarantined, []string{repo + "@" + digest(2), repo + "@" + digest(3)})
	if len(c.Spared) != 2 || !strings.HasPrefix(c.Spared[0], repo+"@"+digest(8)) || !strings.Contains(c.Spared[1], elsewhere) {
		t.Errorf("left alone: %q", c.Spared)
	}
	var said Revocation
	must(t, json.Unmarshal([]byte(f.state()["published "+revocation]), &said))
	var denied []string
	for _, x := range said.Subject {
		denied = append(denied, "sha256:"+x.Digest["sha256"])
	}
	wantEqual(t, "denied", denied, []string{digest(2), digest(3)})

	// Again, when its signatures are gone from the inventory too.
	k.update(t, func(tx *store.Tx) error {
		return tx.KeepSignatures(t.Context(), repo, digest(2), "", inventory.Formats(), nil)
	})
	c, err = k.contain(t.Context(), f, p, true)
	must(t, err)
	wantEqual(t, "absent", c.Absent, []string{repo + "@" + digest(2), repo + "@" + digest(3)})
}

// TestAttackOnCutOver is about what happens while anchors are written, and about
// what the thief has deployed.
func TestAttackOnCutOver(t *testing.T) {
	t.Parallel()
	t.Run("the new signer comes under an incident meanwhile", func(t *testing.T) {
		t.Parallel()
		k, w, p := walled(t, digest(2), digest(7))
		once := false
		accepts := func(ctx context.Context, repository, d string, f inventory.Format, by signer.Record) error {
			if !once {
				once = true
				k.open(t, "INC-2", k.next.id)
			}
			return w.accepts(ctx, repository, d, f, by)
		}
		_, err := CutOver(t.Context(), k.Store, accepts, by, p, true)
		wantError(t, err, nil, "itself under incident INC-2")
		wantEqual(t, "its state", k.state(t, k.next), signer.Tainted)
	})
	t.Run("an unexplained artifact is deployed and keeps the old signer in", func(t *testing.T) {
		t.Parallel()
		k := newCase(t)
		k.open(t, leak, k.old.id, 3)
		k.put(t, repo, 8, signed(k.old, inventory.Legacy, false))
		k.deploy(t, repo, 8)
		for _, n := range []int{2, 7} {
			k.record(t, inventory.Record{Kind: inventory.RecordCI, By: k.builder.id.ID(), Digest: digest(n)})
		}
		k.source(t, trust.Source{Name: "ci", Kind: inventory.RecordCI, By: k.builder.id, Signer: k.old.id})
		anchor := filepath.Join(t.TempDir(), "ci.pub")
		must(t, os.WriteFile(anchor, k.old.pem, 0o644))
		plan, _ := k.plan(t, func(p *Plan) {
			p.AcceptDark, p.Consumers = []string{digest(2), digest(7)}, []Consumer{{Name: "ci", Reads: inventory.Legacy, Anchor: anchor}}
		})
		wantEqual(t, "decision", k.item(t, plan, 8, inventory.SignPredicate).Decision, trust.Deny)
		accepts := func(_ context.Context, _, d string, _ inventory.Format, _ signer.Record) error {
			if d == digest(1) {
				return nil
			}
			return errors.New("no signature by the new signer is there")
		}
		_, err := CutOver(t.Context(), k.Store, accepts, by, k.may(t, plan), true)
		must(t, err)
	})
}
