package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
)

// shardsOf makes n shards of a plan, of ten items each: the first two are of what
// is deployed, and every other one is in the other repository.
func shardsOf(plan string, n int) (out []Shard) {
	for i := range n {
		s := Shard{Plan: plan, N: int64(i) + 1, Repository: repo, Deployed: i < 2, First: int64(10*i) + 1, Last: int64(10*i) + 10, Items: 10, Units: 20}
		if i%2 == 1 {
			s.Repository = other
		}
		out = append(out, s)
	}
	return out
}

func startShards(t *testing.T, s *Store, plan string, n int) []Shard {
	t.Helper()
	var ready []Shard
	do(t, s, func(tx *Tx) (err error) {
		ready, err = tx.StartShards(t.Context(), plan, shardsOf(plan, n), ShardSelection{}, false)
		return err
	})
	return ready
}

func claimShards(t *testing.T, s *Store, plan, owner string, lease time.Duration, sel ShardSelection, items int64) Claim {
	t.Helper()
	var c Claim
	do(t, s, func(tx *Tx) (err error) {
		c, err = tx.ClaimShards(t.Context(), plan, owner, lease, sel, items)
		return err
	})
	return c
}

func numbers(shards []Shard) string {
	var b strings.Builder
	for _, s := range shards {
		fmt.Fprintf(&b, "%d ", s.N)
	}
	return strings.TrimSpace(b.String())
}

// states lists every shard of a plan with its state.
func states(t *testing.T, s *Store, plan string) string {
	t.Helper()
	all, err := s.Shards(t.Context(), plan)
	must(t, err)
	out := make([]string, len(all))
	for i, sh := range all {
		out[i] = sh.State
	}
	return strings.Join(out, " ")
}

func complete(t *testing.T, s *Store, c Claim) (again int64) {
	t.Helper()
	do(t, s, func(tx *Tx) (err error) {
		again, err = tx.CompleteShards(t.Context(), c)
		return err
	})
	return again
}

// testShardLeft leaves four shards alone: one untried, one with a failure, one of
// which all is signed or held, and one of another claim.
func testShardLeft(t *testing.T, s *Store) {
	ctx := t.Context()
	startShards(t, s, "p", 4)
	c := claimShards(t, s, "p", "a", time.Hour, ShardSelection{}, 30)
	claimShards(t, s, "p", "b", time.Hour, ShardSelection{}, 10)
	do(t, s, func(tx *Tx) error {
		tx.Record(journal.Draft{Action: "test"})
		err := tx.PutReissue(ctx, Reissue{Plan: "p", Seq: 11, Format: "legacy", State: "failed", Why: "denied"})
		for seq := range int64(10) {
			for f, state := range map[inventory.Format]string{inventory.Legacy: "done", inventory.Bundle: "held"} {
				err = errors.Join(err, tx.PutReissue(ctx, Reissue{Plan: "p", Seq: 21 + seq, Format: f, State: state}))
			}
		}
		return err
	})
	do(t, s, func(tx *Tx) error {
		_, err := tx.CompleteShards(ctx, c)
		for n := range int64(4) {
			err = errors.Join(err, tx.LeaveShard(ctx, c, n+1, "left alone"))
		}
		return err
	})
	wantEqual(t, "states", states(t, s, "p"), "failed failed done running")
	all, err := s.Shards(ctx, "p")
	must(t, err)
	wantEqual(t, "why", []string{all[0].Why, all[1].Why, all[2].Why, all[3].Why}, []string{"left alone", "denied", "", ""})
}

func testShards(t *testing.T, s *Store) {
	ctx := t.Context()
	must(t, onlyEntry(s, "resign.started", func() { startShards(t, s, "p", 3) }))
	first, err := s.Shards(ctx, "p")
	must(t, err)
	for i := range first {
		wantEqual(t, "what was made", first[i].made(), shardsOf("p", 3)[i])
	}
	wantEqual(t, "ready again", numbers(startShards(t, s, "p", 3)), "1 2 3")
	again, err := s.Shards(ctx, "p")
	must(t, err)
	wantEqual(t, "made again", again, first)

	c := claimShards(t, s, "p", "a", time.Hour, ShardSelection{}, 20)
	wantEqual(t, "claimed", numbers(c.Shards), "1 2")
	wantEqual(t, "left for who joins", numbers(startShards(t, s, "p", 3)), "3")
	do(t, s, func(tx *Tx) error { return tx.FailShards(ctx, c, "its \x00 reason") })
	wantEqual(t, "states", states(t, s, "p"), "failed failed ready")
	c = claimShards(t, s, "p", "a", time.Hour, ShardSelection{}, 20)
	wantEqual(t, "claimed of what is ready", numbers(c.Shards), "3")
	wantEqual(t, "who joins does not repeat what failed", numbers(startShards(t, s, "p", 3)), "")
	wantEqual(t, "none again", complete(t, s, c), int64(0))
	wantEqual(t, "states", states(t, s, "p"), "failed failed done")
	wantEqual(t, "started again", numbers(startShards(t, s, "p", 3)), "1 2 3")

	// Other shards of the same plan: another reseal cuts it otherwise.
	epoch := claimShards(t, s, "p", "a", time.Hour, ShardSelection{}, 10).Epoch
	err = s.Update(ctx, by, func(tx *Tx) error {
		_, err := tx.StartShards(ctx, "p", shardsOf("p", 2), ShardSelection{}, false)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "wait for the workers") {
		t.Errorf("cut otherwise while somebody works: got %v", err)
	}
	do(t, s, func(tx *Tx) error { return tx.FreeShards(ctx, "a") })
	wantEqual(t, "cut otherwise", numbers(startShards(t, s, "p", 2)), "1 2")
	if got := claimShards(t, s, "p", "b", time.Hour, ShardSelection{}, 10).Epoch; got <= epoch {
		t.Errorf("epoch %d after %d: whoever had the old shards may take himself for their owner", got, epoch)
	}
	none, err := s.Shards(ctx, "q")
	must(t, err)
	wantEqual(t, "shards of another plan", len(none), 0)
}

// onlyEntry runs fn and wants just one entry to be journaled by it.
func onlyEntry(s *Store, action string, fn func()) error {
	before, err := s.JournalCheckpoint(context.Background())
	if err != nil {
		return err
	}
	fn()
	next := s.Journal(context.Background(), before.Size)
	line, err := next()
	if err != nil {
		return err
	}
	e, err := journal.ParseEntry(line)
	if err != nil {
		return err
	}
	if _, err := next(); err == nil || e.Action != action {
		return fmt.Errorf("journaled %q and perhaps more, want %q alone", e.Action, action)
	}
	return nil
}

func testShardRace(t *testing.T, s *Store) {
	startShards(t, s, "p", 40)
	var mu sync.Mutex
	got := map[int64]string{}
	epochs := map[int64]string{}
	var wg sync.WaitGroup
	for n := range 8 {
		owner := fmt.Sprint("worker-", n)
		wg.Go(func() {
			for {
				var c Claim
				if err := s.Update(t.Context(), by, func(tx *Tx) (err error) {
					c, err = tx.ClaimShards(t.Context(), "p", owner, time.Hour, ShardSelection{}, 25)
					return err
				}); err != nil {
					t.Error(err)
					return
				}
				if len(c.Shards) == 0 {
					return
				}
				if len(c.Shards) > 2 {
					t.Errorf("%d shards of ten items are claimed for 25", len(c.Shards))
				}
				mu.Lock()
				if epochs[c.Epoch] != "" {
					t.Errorf("epoch %d of %s is that of %s", c.Epoch, owner, epochs[c.Epoch])
				}
				epochs[c.Epoch] = owner
				for _, sh := range c.Shards {
					if got[sh.N] != "" {
						t.Errorf("shard %d is claimed by %s and by %s", sh.N, got[sh.N], owner)
					}
					got[sh.N] = owner
				}
				mu.Unlock()
				if err := s.Update(t.Context(), by, func(tx *Tx) error {
					_, err := tx.CompleteShards(t.Context(), c)
					return err
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	wantEqual(t, "shards claimed", len(got), 40)
	open, _, err := s.OpenShards(t.Context(), "p", ShardSelection{})
	must(t, err)
	wantEqual(t, "open", len(open), 0)
}

func testShardTakenOver(t *testing.T, s *Store) {
	ctx := t.Context()
	startShards(t, s, "p", 2)
	old := claimShards(t, s, "p", "a", time.Hour, ShardSelection{}, 20)
	wantEqual(t, "claimed", numbers(old.Shards), "1 2")
	running, err := s.RunningShards(ctx)
	must(t, err)
	wantEqual(t, "running", numbers(running), "1 2")
	wantEqual(t, "nothing is left", numbers(claimShards(t, s, "p", "b", time.Hour, ShardSelection{}, 20).Shards), "")
	_, wait, err := s.OpenShards(ctx, "p", ShardSelection{})
	must(t, err)
	if wait < 50*time.Minute || wait > time.Hour {
		t.Errorf("the lease of an hour lasts for %s", wait)
	}
	do(t, s, func(tx *Tx) error { return tx.ExtendShards(ctx, old, -time.Second) }) // it ended
	_, wait, err = s.OpenShards(ctx, "p", ShardSelection{})
	must(t, err)
	if wait > 0 {
		t.Errorf("a lease that ended lasts for %s", wait)
	}
	running, err = s.RunningShards(ctx)
	must(t, err)
	wantEqual(t, "running when the lease has ended", numbers(running), "")
	do(t, s, func(tx *Tx) error { return tx.CheckShards(ctx, old) }) // nobody else wanted them yet
	do(t, s, func(tx *Tx) error { return tx.ExtendShards(ctx, old, time.Hour) })
	wantEqual(t, "nothing is left", numbers(claimShards(t, s, "p", "b", time.Hour, ShardSelection{}, 20).Shards), "")
	do(t, s, func(tx *Tx) error { return tx.FreeShards(ctx, "nobody") })
	wantEqual(t, "nothing is left", numbers(claimShards(t, s, "p", "b", time.Hour, ShardSelection{}, 20).Shards), "")

	do(t, s, func(tx *Tx) error { return tx.FreeShards(ctx, "a") })
	var now Claim
	must(t, onlyEntry(s, "resign.taken-over", func() { now = claimShards(t, s, "p", "b", time.Hour, ShardSelection{}, 10) }))
	wantEqual(t, "taken over", numbers(now.Shards), "1")
	if now.Epoch <= old.Epoch {
		t.Errorf("epoch %d after %d", now.Epoch, old.Epoch)
	}
	wantEqual(t, "attempts", now.Shards[0].Attempts, int64(2))
	// Whoever had it can do nothing any more, in whatever way he tries.
	for name, act := range map[string]func(*Tx) error{
		"check":    func(tx *Tx) error { return tx.CheckShards(ctx, old) },
		"extend":   func(tx *Tx) error { return tx.ExtendShards(ctx, old, time.Hour) },
		"complete": func(tx *Tx) error { _, err := tx.CompleteShards(ctx, old); return err },
		"release":  func(tx *Tx) error { return tx.ReleaseShards(ctx, old, "", 0) },
		"fail":     func(tx *Tx) error { return tx.FailShards(ctx, old, "") },
	} {
		err := s.Update(ctx, by, func(tx *Tx) error {
			if err := act(tx); err != nil {
				return err
			}
			return tx.PutDocument(ctx, KindPlan, "late", "test.put", nil)
		})
		if !errors.Is(err, ErrLeaseLost) {
			t.Errorf("%s with a lost claim: got %v", name, err)
		}
	}
	if _, err := s.Document(ctx, KindPlan, "late"); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("a lost claim recorded something: %v", err)
	}
	do(t, s, func(tx *Tx) error { return tx.CheckShards(ctx, now) })
	complete(t, s, now)
	wantEqual(t, "states", states(t, s, "p"), "done running")
	if err := s.Update(ctx, by, func(tx *Tx) error { return tx.CheckShards(ctx, now) }); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("a claim that ended: got %v", err)
	}
	// The same owner again is no excuse for an old claim.
	second := claimShards(t, s, "p", "b", -time.Second, ShardSelection{}, 10)
	third := claimShards(t, s, "p", "b", time.Hour, ShardSelection{}, 10)
	wantEqual(t, "claimed twice", numbers(second.Shards)+" "+numbers(third.Shards), "2 2")
	if err := s.Update(ctx, by, func(tx *Tx) error { return tx.CheckShards(ctx, second) }); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("the older claim of the same owner: got %v", err)
	}
	do(t, s, func(tx *Tx) error { return tx.ReleaseShards(ctx, third, "stopped", time.Hour) })
	wantEqual(t, "states", states(t, s, "p"), "done ready")
}

func testShardRecheck(t *testing.T, s *Store) {
	ctx := t.Context()
	startShards(t, s, "p", 3)
	old := claimShards(t, s, "p", "a", -time.Second, ShardSelection{}, 30)
	one := claimShards(t, s, "p", "b", time.Hour, ShardSelection{}, 10)
	two := claimShards(t, s, "p", "c", time.Hour, ShardSelection{}, 10)
	complete(t, s, one)
	wantEqual(t, "states", states(t, s, "p"), "done running running")
	do(t, s, func(tx *Tx) error { return tx.RecheckShards(ctx, old) })
	wantEqual(t, "states once the late one has said so", states(t, s, "p"), "ready running running")
	wantEqual(t, "to be looked at again", complete(t, s, two), int64(1))
	wantEqual(t, "states", states(t, s, "p"), "ready ready running") // the third is still that of the late one
	again := claimShards(t, s, "p", "d", time.Hour, ShardSelection{}, 30)
	wantEqual(t, "claimed again", numbers(again.Shards), "1 2 3")
	wantEqual(t, "to be looked at again", complete(t, s, again), int64(0))
	wantEqual(t, "states", states(t, s, "p"), "done done done")
}

func testShardSelection(t *testing.T, s *Store) {
	ctx := t.Context()
	startShards(t, s, "p", 6)
	for _, tc := range []struct {
		sel  ShardSelection
		want string
	}{{ShardSelection{Deployed: true}, "1 2"}, {ShardSelection{Repositories: []string{other}}, "2 4 6"}, {ShardSelection{Repositories: []string{other, repo}}, "1 2 3 4 5 6"},
		{ShardSelection{Repositories: []string{"none"}}, ""}, {ShardSelection{N: 5}, "5"}, {ShardSelection{N: 5, Deployed: true}, ""}, {ShardSelection{}, "1 2 3 4 5 6"}} {
		open, _, err := s.OpenShards(ctx, "p", tc.sel)
		must(t, err)
		wantEqual(t, fmt.Sprintf("open of %+v", tc.sel), numbers(open), tc.want)
		wantEqual(t, fmt.Sprintf("has of %+v", tc.sel), numbers(slices.DeleteFunc(shardsOf("p", 6), func(sh Shard) bool { return !tc.sel.Has(sh) })), tc.want)
		c := claimShards(t, s, "p", "a", time.Hour, tc.sel, 1000)
		wantEqual(t, fmt.Sprintf("claimed of %+v", tc.sel), numbers(c.Shards), tc.want)
		do(t, s, func(tx *Tx) error {
			items, others, err := tx.Waiting(ctx, "p", "b", ShardSelection{})
			wantEqual(t, "waiting", items, int64(60-10*len(c.Shards)))
			wantEqual(t, "somebody works", others, len(c.Shards) > 0)
			tx.Record(journal.Draft{Action: "test"})
			return errors.Join(err, tx.ReleaseShards(ctx, c, "", 0))
		})
	}
	// Starting some leaves the rest as it is.
	complete(t, s, claimShards(t, s, "p", "a", time.Hour, ShardSelection{}, 1000))
	do(t, s, func(tx *Tx) error {
		_, err := tx.StartShards(ctx, "p", shardsOf("p", 6), ShardSelection{Repositories: []string{other}}, true)
		return err
	})
	wantEqual(t, "states", states(t, s, "p"), "done ready done ready done ready")
	overdue, err := s.OverdueShards(ctx, -time.Hour, 10)
	must(t, err)
	wantEqual(t, "overdue", numbers(overdue), "2 4 6")
	overdue, err = s.OverdueShards(ctx, time.Hour, 10)
	must(t, err)
	wantEqual(t, "overdue by an hour", numbers(overdue), "")
	claimShards(t, s, "p", "a", -time.Second, ShardSelection{}, 10)
	overdue, err = s.OverdueShards(ctx, time.Hour, 10)
	must(t, err)
	wantEqual(t, "overdue, as its lease ended", numbers(overdue), "2")
}

func testShardPlans(t *testing.T, s *Store) {
	ctx := t.Context()
	startShards(t, s, "p", 2)
	startShards(t, s, "q", 4)
	c := claimShards(t, s, "p", "a", time.Hour, ShardSelection{Repositories: []string{other}}, 100)
	wantEqual(t, "claimed of one plan", numbers(c.Shards), "2")
	wantEqual(t, "claimed of the other", numbers(claimShards(t, s, "q", "b", time.Hour, ShardSelection{}, 100).Shards), "1 3")
	complete(t, s, c)
	wantEqual(t, "claimed when the first was done", numbers(claimShards(t, s, "q", "b", time.Hour, ShardSelection{}, 100).Shards), "2 4")
	wantEqual(t, "the first plan has to wait now", numbers(claimShards(t, s, "p", "a", time.Hour, ShardSelection{}, 100).Shards), "")
	do(t, s, func(tx *Tx) error { return tx.FreeShards(ctx, "b") })
	wantEqual(t, "but not for the dead", numbers(claimShards(t, s, "p", "a", time.Hour, ShardSelection{}, 100).Shards), "1")
}

func testShardProgress(t *testing.T, s *Store) {
	ctx := t.Context()
	startShards(t, s, "p", 2)
	c := claimShards(t, s, "p", "a", time.Hour, ShardSelection{}, 20)
	do(t, s, func(tx *Tx) error {
		tx.Record(journal.Draft{Action: "test"})
		var err error
		for seq, r := range map[int64]Reissue{1: {State: "done", Content: "c"}, 2: {State: "done"}, 3: {State: "held", Why: "changed"}, 4: {State: "intended"},
			11: {State: "done", Content: "c"}, 12: {State: "failed", Why: "registry is down"}, 13: {State: "failed", Why: "registry is down"}, 14: {State: "failed", Why: "denied"}} {
			r.Plan, r.Seq, r.Format = "p", seq, inventory.Legacy
			err = errors.Join(err, tx.PutReissue(ctx, r))
		}
		return errors.Join(err, tx.PutReissue(ctx, Reissue{Plan: "q", Seq: 1, Format: inventory.Legacy, State: "failed", Why: "of another plan"}))
	})
	got, err := s.ShardProgress(ctx, "p", start)
	must(t, err)
	slices.SortFunc(got, func(a, b ShardUnits) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	wantEqual(t, "progress", got, []ShardUnits{{1, "done", false, 1, 1}, {1, "done", true, 1, 1}, {1, "held", false, 1, 1}, {1, "intended", false, 1, 1},
		{2, "done", true, 1, 1}, {2, "failed", false, 3, 3}})
	got, err = s.ShardProgress(ctx, "p", start.Add(1000*time.Hour))
	must(t, err)
	wantEqual(t, "recent, later", got[0].Recent, int64(0))
	reasons, err := s.ReissueReasons(ctx, "p", 2)
	must(t, err)
	wantEqual(t, "reasons", reasons, []Reason{{"failed", "registry is down", 2}, {"failed", "denied", 1}})
	complete(t, s, c)
	wantEqual(t, "states", states(t, s, "p"), "done failed")
	all, err := s.Shards(ctx, "p")
	must(t, err)
	wantEqual(t, "counts of the first", []any{all[0].Signed, all[0].Held, all[0].Failed, all[0].Why}, []any{int64(2), int64(1), int64(0), ""})
	wantEqual(t, "counts of the second", []any{all[1].Signed, all[1].Held, all[1].Failed, all[1].Why}, []any{int64(1), int64(0), int64(3), "denied"})
	wantEqual(t, "ready again", numbers(startShards(t, s, "p", 2)), "1 2")
}

// testShared runs what a queue does within an update: it is committed with it or
// not at all, and cannot end it.
func testShared(t *testing.T, s *Store) {
	ctx := t.Context()
	if !s.Shared() {
		err := s.Update(ctx, by, func(tx *Tx) error { return tx.Postgres(func(pgx.Tx) error { return nil }) })
		if !errors.Is(err, ErrNotPostgres) || !strings.Contains(err.Error(), "db backup") {
			t.Errorf("got %v, want it said what to do", err)
		}
		return
	}
	insert := func(pg pgx.Tx) error {
		if _, err := pg.Exec(ctx, `CREATE TABLE IF NOT EXISTS foreign_jobs (n BIGINT)`); err != nil {
			return err
		}
		_, err := pg.Exec(ctx, `INSERT INTO foreign_jobs VALUES ($1)`, int64(7))
		return err
	}
	err := s.Update(ctx, by, func(tx *Tx) error { return errors.Join(tx.Postgres(insert), errRefus) })
	if !errors.Is(err, errRefus) {
		t.Errorf("got %v", err)
	}
	var there bool
	must(t, s.read.QueryRowContext(ctx, `SELECT to_regclass('foreign_jobs') IS NOT NULL`).Scan(&there))
	wantEqual(t, "there after it was rolled back", there, false)
	do(t, s, func(tx *Tx) error {
		return tx.Postgres(func(pg pgx.Tx) error {
			_, err := pg.Begin(ctx)
			for what, err := range map[string]error{"begin": err, "commit": pg.Commit(ctx), "rollback": pg.Rollback(ctx)} {
				if err == nil {
					t.Errorf("the queue may %s the transaction", what)
				}
			}
			return insert(pg)
		})
	})
	var n int64
	must(t, s.read.QueryRowContext(ctx, `SELECT n FROM foreign_jobs`).Scan(&n))
	wantEqual(t, "committed", n, int64(7))
	_, err = s.write.ExecContext(ctx, `DROP TABLE foreign_jobs`)
	must(t, err)
}
