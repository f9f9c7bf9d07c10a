package resign

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/signer"
)

// A pause stops one engine at the nth time it comes to a place, until it is
// woken.
type pause struct {
	place   string
	nth     int
	reached chan struct{}
	wake    chan struct{}

	mu   sync.Mutex
	seen int
}

func (p *pause) at(place string) {
	p.mu.Lock()
	hit := place == p.place
	if hit {
		p.seen++
		hit = p.seen == p.nth
	}
	p.mu.Unlock()
	if hit {
		close(p.reached)
		<-p.wake
	}
}

// pausedKey is a key whose owner may be paused before and after it signs.
type pausedKey struct {
	signer.Signer
	*pause
}

func (k pausedKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	k.at("before the key is used")
	sig, err := k.Signer.Sign(ctx, message)
	k.at("signed, not persisted")
	return sig, err
}

// pausedRegistry is a registry whose user may be paused before and after each
// request that matters.
type pausedRegistry struct {
	Registry
	*pause
}

func (r pausedRegistry) Manifest(ctx context.Context, repository, reference string) (registry.Manifest, error) {
	r.at("before a manifest is read")
	return r.Registry.Manifest(ctx, repository, reference)
}

func (r pausedRegistry) PutBlob(ctx context.Context, repository string, content []byte) (string, error) {
	r.at("before a blob is written")
	return r.Registry.PutBlob(ctx, repository, content)
}

func (r pausedRegistry) Listing(ctx context.Context, repository, digest string) (registry.Listing, error) {
	r.at("before a manifest is read")
	return r.Registry.Listing(ctx, repository, digest)
}

func (r pausedRegistry) PutManifest(ctx context.Context, repository, reference, mediaType string, raw []byte) (string, bool, error) {
	what := "a tag is written"
	if strings.HasPrefix(reference, "sha256:") {
		what = "a bundle is attached"
	}
	r.at("before " + what)
	d, indexed, err := r.Registry.PutManifest(ctx, repository, reference, mediaType, raw)
	r.at("after " + what)
	return d, indexed, err
}

// claimed returns an engine that has claimed the one shard of the case's work.
func (k *kase) claimed(t *testing.T, owner string, lease time.Duration, reg Registry, key signer.Signer) (Engine, store.Claim) {
	t.Helper()
	var c store.Claim
	must(t, k.Update(t.Context(), by, func(tx *store.Tx) (err error) {
		c, err = tx.ClaimShards(t.Context(), plan, owner, lease, store.ShardSelection{}, 100)
		return err
	}))
	if len(c.Shards) != 1 {
		t.Fatalf("%s claimed %d shards", owner, len(c.Shards))
	}
	e := k.engine(reg)
	e.Signer = signer.Always(key)
	e.Fence = func(ctx context.Context) error {
		return k.Update(ctx, by, func(tx *store.Tx) error { return tx.CheckShards(ctx, c) })
	}
	e.Hold = func(ctx context.Context, tx *store.Tx) error { return tx.CheckShards(ctx, c) }
	return e, c
}

// works runs an engine to the end of its claim, and reports whether its shard
// must be worked on once more.
func (k *kase) works(t *testing.T, e Engine, c store.Claim) (again bool) {
	t.Helper()
	e.Failed = func(f Failure) { t.Errorf("%s %s: %s", f.Item.PredicateType, f.Format, f.Why) }
	_, err := e.Run(t.Context(), list{items: k.items})
	must(t, err)
	must(t, k.Update(t.Context(), by, func(tx *store.Tx) error {
		n, err := tx.CompleteShards(t.Context(), c)
		again = n > 0
		return err
	}))
	return again
}

// TestFencePaused has two engines work on one shard. One is paused, for longer
// than its lease, at each step; the other takes the shard over and ends its work;
// then the first goes on from where it was. Afterwards every statement is signed
// by the new signer once, no signature is lost, and the journal is complete.
func TestFencePaused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, place := range []string{"before a manifest is read", "before the key is used", "signed, not persisted", "before a blob is written",
		"before a tag is written", "after a tag is written", "before a bundle is attached", "after a bundle is attached"} {
		for _, nth := range []int{1, 2, 3} {
			for _, late := range []string{"when the other has ended", "while the other works"} {
				t.Run(place+" "+string(rune('0'+nth))+" "+late, func(t *testing.T) {
					t.Parallel()
					k := b.newCase(t)
					ref := k.push(t, "app")
					k.all(t, ref)
					// A second claim in the same ".att" tag: who writes the tag with what he
					// read before the pause takes away what the other added.
					must(t, k.old.AttestLegacy(t.Context(), ref, "https://cyclonedx.org/bom", map[string]any{"bomFormat": "CycloneDX"}, 0))
					k.plan(t, ref)
					before := k.found(t, ref)
					must(t, k.Update(t.Context(), by, func(tx *store.Tx) error {
						_, err := tx.StartShards(t.Context(), plan, []store.Shard{{Plan: plan, N: 1, Repository: ref.Context().Name(), First: 1, Last: 10, Items: 5, Units: 5}}, store.ShardSelection{}, true)
						return err
					}))
					p := &pause{place: place, nth: nth, reached: make(chan struct{}), wake: make(chan struct{})}
					first, lost := k.claimed(t, "first", time.Hour, pausedRegistry{machine(), p}, pausedKey{k.next, p})
					ended := make(chan error, 1)
					go func() {
						_, err := first.Run(t.Context(), list{items: k.items})
						ended <- err
					}()
					select {
					case <-p.reached:
					case err := <-ended:
						must(t, err)
						t.Skipf("five statements do not get there %d times", nth)
					}
					must(t, k.Update(t.Context(), by, func(tx *store.Tx) error { return tx.FreeShards(t.Context(), "first") }))
					second, held := k.claimed(t, "second", time.Hour, machine(), k.next)
					goesOn := func() {
						close(p.wake)
						if err := <-ended; !errors.Is(err, store.ErrLeaseLost) {
							t.Errorf("the one that was paused ended with %v", err)
						}
						if err := k.Update(t.Context(), by, func(tx *store.Tx) error { return tx.RecheckShards(t.Context(), lost) }); err != nil {
							t.Error(err)
						}
					}
					if late == "while the other works" {
						q := &pause{place: "before a blob is written", nth: 1, reached: make(chan struct{}), wake: make(chan struct{})}
						second.Registry = pausedRegistry{machine(), q}
						go func() {
							select {
							case <-q.reached:
							case <-t.Context().Done():
								return
							}
							defer close(q.wake)
							goesOn()
						}()
						again := k.works(t, second, held)
						select {
						case <-q.reached:
							if !again {
								t.Error("nobody looks again at what the one that was paused may have overwritten")
							}
						default: // the other had nothing left to write
							goesOn()
						}
					} else {
						k.works(t, second, held)
						goesOn()
					}
					third, c := k.claimed(t, "third", time.Hour, k.client, k.next)
					if k.works(t, third, c) {
						t.Error("a shard is looked at without end")
					}

					after := k.found(t, ref)
					wantEqual(t, "statements", count(after, k.next.id), count(before, k.oldID(t)))
					for statement, n := range count(after, k.next.id) {
						wantEqual(t, statement, n, 1)
					}
					k.keptAll(t, before, after)
					for _, r := range k.reissues(t) {
						wantEqual(t, "state of a unit", r.State, Done)
					}
					wantIntents(t, k)
					k.checkJournal(t)
				})
			}
		}
	}
}

// machine returns a client of a machine of its own: within one, writers of the
// same digest wait for each other.
func machine() *registry.Client {
	return registry.New(registry.Options{Keychain: authn.NewMultiKeychain()})
}

// TestFenceDown stops a run, and records nothing, when nobody can say whether
// the items are still ours: it is no failure of a statement.
func TestFenceDown(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	ref := k.push(t, "app")
	k.all(t, ref)
	k.plan(t, ref)
	down := errors.New("the database does not answer")
	for name, set := range map[string]func(*Engine){
		"fence": func(e *Engine) { e.Fence = func(context.Context) error { return down } },
		"hold":  func(e *Engine) { e.Hold = func(context.Context, *store.Tx) error { return down } },
	} {
		e := k.engine(k.client)
		e.Failed = func(f Failure) { t.Errorf("%s: reported as failed: %s", name, f.Why) }
		set(&e)
		if _, err := e.Run(t.Context(), list{items: k.items}); !errors.Is(err, down) {
			t.Errorf("%s: got %v", name, err)
		}
		wantEqual(t, name+": signed", k.next.signed, 0)
		for _, r := range k.reissues(t) {
			if r.State != Intended {
				t.Errorf("%s: a unit is recorded as %s", name, r.State)
			}
		}
	}
	wantEqual(t, "by the new signer", len(count(k.found(t, ref), k.next.id)), 0)
}
