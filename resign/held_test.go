package resign

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// hookedKey tells of every use of a key.
type hookedKey struct {
	signer.Signer
	used func()
}

func (k hookedKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	k.used()
	return k.Signer.Sign(ctx, message)
}

// many plans n image signatures of artifacts that are nowhere.
func (k *kase) many(n int) {
	for m := range n {
		k.items = append(k.items, Item{Seq: int64(m + 1), Repository: k.Registry() + "/" + k.repo, Digest: inventory.Digest([]byte{byte(m), byte(m >> 8)}),
			PredicateType: inventory.SignPredicate, StatementKey: inventory.SignPredicate, Formats: []inventory.Format{inventory.Legacy}})
	}
}

// TestHeldMeanwhile has everything marked rogue when the key was used once. What
// is ahead, and what waits for its turn, is not signed any more.
func TestHeldMeanwhile(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	k.many(4 * chunk)
	var marked atomic.Bool
	e := k.engine(k.client)
	e.Signer = signer.Always(hookedKey{k.next, func() { marked.Store(true) }})
	e.Parallel, e.Rate, e.Recheck = 8, 200, 10*time.Millisecond
	got, err := e.Run(t.Context(), list{k.items, func(Item) (string, error) {
		if marked.Load() {
			return "marked rogue", nil
		}
		return "", nil
	}})
	must(t, err)
	if k.next.signed > 20 {
		t.Errorf("the key was used %d times, %d of them after all was marked", k.next.signed, k.next.signed-1)
	}
	wantEqual(t, "result", got, Result{Planned: 4 * chunk, Signed: int64(k.next.signed), Held: 4*chunk - int64(k.next.signed)})
	for _, r := range k.reissues(t) {
		if r.State != Done && (r.State != Held || r.Why != "marked rogue" || r.Content != "") {
			t.Errorf("item %d is %s (%s) with the content %q", r.Seq, r.State, r.Why, r.Content)
		}
	}
}

// TestHeldInBatch has an image marked rogue when the statement that would name it
// is about to be signed.
func TestHeldInBatch(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	var refs []name.Digest
	for n := range 4 {
		refs = append(refs, k.push(t, fmt.Sprint(n)))
		must(t, k.old.SignBundle(t.Context(), refs[n], sandbox.NoProof))
		k.plan(t, refs[n])
	}
	rogue := refs[0].DigestStr()
	e := k.engine(k.client)
	e.Batch, e.Recheck = true, time.Nanosecond
	got, err := e.Run(t.Context(), list{k.items, func(i Item) (string, error) {
		if i.Digest == rogue && len(k.reissues(t)) > 0 { // the intent is journaled
			return "marked rogue", nil
		}
		return "", nil
	}})
	must(t, err)
	wantEqual(t, "result", got, Result{Planned: 4, Signed: 3, Held: 1})
	wantEqual(t, "uses of the key", k.next.signed, 1)
	for _, ref := range refs {
		for _, f := range k.found(t, ref) {
			subjects, err := verify.Subjects(f.Content)
			must(t, err)
			if f.Signer == k.next.id && slices.Contains(subjects, rogue) {
				t.Errorf("the new signer states %s, which is marked, on %s", rogue, ref)
			}
		}
	}
}

// TestAskedOnce counts how often it is asked whether the decisions still hold: once
// for each chunk where it is signed in no time.
func TestAskedOnce(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	k.many(3 * chunk)
	var asked atomic.Int64
	e := k.engine(k.client)
	e.Parallel, e.Recheck = 8, time.Hour
	got, err := e.Run(t.Context(), list{k.items, func(Item) (string, error) {
		asked.Add(1)
		return "", nil
	}})
	must(t, err)
	wantEqual(t, "result", got, Result{Planned: 3 * chunk, Signed: 3 * chunk})
	wantEqual(t, "items asked about", asked.Load(), int64(3*chunk))
}
