package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/reseal/reseal/journal"
)

// The states of a shard.
const (
	ShardReady   = "ready"   // waits for a worker
	ShardRunning = "running" // a worker has it, or had it and died: see Until
	ShardDone    = "done"    // every unit was looked at, signed or held back
	ShardFailed  = "failed"  // with a reason; the next run tries it again
)

// Shard is a run of a plan's lines in one repository. No other shard of the plan
// has lines about the same digest there.
type Shard struct {
	Plan        string
	N           int64 // in the order of the plan, from 1
	Repository  string
	Deployed    bool
	First, Last int64 // lines of the plan, both included; others than those to re-sign may be between
	Items       int64
	Units       int64 // items, each as often as it has formats
	State       string
	Epoch       int64 // of the last claim; 0: none yet
	Owner       string
	Since       time.Time
	Until       time.Time // running: the end of the lease; ready: when it should have been claimed
	Attempts    int64     // claims since the step was started
	Queued      bool      // it was left to the workers
	Signed      int64     // units that are signed, when the last claim ended
	Held        int64
	Failed      int64
	Why         string
}

// made is what never changes of a shard.
func (s Shard) made() Shard {
	return Shard{Plan: s.Plan, N: s.N, Repository: s.Repository, Deployed: s.Deployed, First: s.First, Last: s.Last, Items: s.Items, Units: s.Units}
}

// ShardSelection says which shards of a plan are meant. Empty fields select all.
type ShardSelection struct {
	N            int64    // only this one
	Repositories []string // only of these
	Deployed     bool     // only of what is deployed
}

// Has reports whether a shard is selected.
func (sel ShardSelection) Has(s Shard) bool {
	return (sel.N == 0 || sel.N == s.N) && (len(sel.Repositories) == 0 || slices.Contains(sel.Repositories, s.Repository)) && (!sel.Deployed || s.Deployed)
}

func (sel ShardSelection) where(plan string) (q query) {
	q.and("plan = %s", plan)
	if sel.N != 0 {
		q.and("n = %s", sel.N)
	}
	if len(sel.Repositories) > 0 {
		in(&q, "repository", sel.Repositories)
	}
	if sel.Deployed {
		q.conditions = append(q.conditions, "deployed")
	}
	return q
}

func (sel ShardSelection) claimable(plan string, now int64) query {
	q := sel.where(plan)
	q.and("(state = %s OR state = %s AND until <= %s)", ShardReady, ShardRunning, now)
	return q
}

// Claim is the right to work on some shards of a plan, until its lease ends or
// somebody else has claimed them.
type Claim struct {
	Plan   string
	Owner  string
	Epoch  int64
	Shards []Shard // in the order of the plan; none: there was nothing to claim
}

// ErrLeaseLost is returned to a worker whose lease ended and whose shards
// somebody else has by now. Nothing it does is recorded any more.
var ErrLeaseLost = errors.New("the lease on these shards was lost to another worker")

// clock returns the time in milliseconds: of the database server, so that
// machines whose clocks differ agree on when a lease ends.
func (s *Store) clock(ctx context.Context, db querier) (now int64, err error) {
	if !s.postgres {
		return s.now().UnixMilli(), nil
	}
	err = row(ctx, db, []any{&now}, `SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)`)
	return now, err
}

const shardColumns = `plan, n, repository, deployed, first_seq, last_seq, items, units, state, epoch, owner, since, until, attempts, queued, signed, held, failed, why`

func scanShard(rows *sql.Rows) (s Shard, err error) {
	var since, until int64
	err = rows.Scan(&s.Plan, &s.N, &s.Repository, &s.Deployed, &s.First, &s.Last, &s.Items, &s.Units,
		&s.State, &s.Epoch, &s.Owner, &since, &until, &s.Attempts, &s.Queued, &s.Signed, &s.Held, &s.Failed, &s.Why)
	if since > 0 {
		s.Since = time.UnixMilli(since).UTC()
	}
	if until > 0 {
		s.Until = time.UnixMilli(until).UTC()
	}
	return s, err
}

// Shards returns every shard of a plan, in order; none: the step was never
// started.
func (s *Store) Shards(ctx context.Context, plan string) ([]Shard, error) {
	return queryAll(ctx, s.read, scanShard, `SELECT `+shardColumns+` FROM shards WHERE plan = $1 ORDER BY n`, plan)
}

// OpenShards returns the shards of a plan that are ready or running, and for how
// long the lease of the first of them lasts; 0 or less: one may be claimed.
func (s *Store) OpenShards(ctx context.Context, plan string, sel ShardSelection) (open []Shard, wait time.Duration, err error) {
	err = s.view(ctx, func(db querier) error {
		now, err := s.clock(ctx, db)
		if err != nil {
			return err
		}
		q := sel.where(plan)
		q.and("state IN (%s, %s)", ShardReady, ShardRunning)
		if open, err = queryAll(ctx, db, scanShard, `SELECT `+shardColumns+` FROM shards`+q.where()+` ORDER BY n`, q.args...); err != nil {
			return err
		}
		for i, o := range open {
			left := time.Duration(0)
			if o.State == ShardRunning {
				left = o.Until.Sub(time.UnixMilli(now))
			}
			if i == 0 || left < wait {
				wait = left
			}
		}
		return nil
	})
	return open, wait, err
}

// RunningShards returns the shards, of whatever plan, that somebody works on.
func (s *Store) RunningShards(ctx context.Context) (out []Shard, err error) {
	err = s.view(ctx, func(db querier) error {
		now, err := s.clock(ctx, db)
		if err != nil {
			return err
		}
		out, err = queryAll(ctx, db, scanShard, `SELECT `+shardColumns+` FROM shards WHERE state = $1 AND until > $2 ORDER BY plan, n`, ShardRunning, now)
		return err
	})
	return out, err
}

// OverdueShards returns shards left to the workers, of whatever plan, whose lease
// ended or that nobody claimed for longer than patience, at most limit.
func (s *Store) OverdueShards(ctx context.Context, patience time.Duration, limit int) (out []Shard, err error) {
	err = s.view(ctx, func(db querier) error {
		now, err := s.clock(ctx, db)
		if err != nil {
			return err
		}
		out, err = queryAll(ctx, db, scanShard, `SELECT `+shardColumns+` FROM shards
			WHERE queued AND (state = $1 AND until <= $2 OR state = $3 AND until <= $4) ORDER BY plan, n LIMIT `+count(limit),
			ShardRunning, now, ShardReady, now-patience.Milliseconds())
		return err
	})
	return out, err
}

// StartShards starts, or starts again, what a plan re-signs, here or, where
// queued, by the workers. made are the shards of the plan; they are kept the
// first time, and starting again keeps the same. Where nobody is at work on those
// selected, each is made ready, also what is done, so that all of it is looked at
// anew. Otherwise the caller joins in and nothing but what is left is worked on.
// It returns the shards that may be claimed.
func (t *Tx) StartShards(ctx context.Context, plan string, made []Shard, sel ShardSelection, queued bool) ([]Shard, error) {
	now, err := t.store.clock(ctx, t.tx)
	if err != nil {
		return nil, err
	}
	have, err := queryAll(ctx, t.tx, scanShard, `SELECT `+shardColumns+` FROM shards WHERE plan = $1 ORDER BY n`, plan)
	if err != nil {
		return nil, err
	}
	epoch, joined := int64(0), false
	for _, s := range have {
		epoch = max(epoch, s.Epoch)
		working := s.State == ShardRunning && s.Until.UnixMilli() > now
		joined = joined || working && sel.Has(s)
	}
	if !slices.EqualFunc(have, made, func(x, y Shard) bool { return x.made() == y.made() }) {
		if slices.ContainsFunc(have, func(s Shard) bool { return s.State == ShardRunning && s.Until.UnixMilli() > now }) {
			return nil, fmt.Errorf("plan %s is being re-signed in other shards than these: wait for the workers to end, or stop them", plan)
		}
		if _, err := t.exec(ctx, `DELETE FROM shards WHERE plan = $1`, plan); err != nil {
			return nil, err
		}
		for _, s := range made {
			if err := checkNames(plan, s.Repository); err != nil {
				return nil, err
			}
			if _, err := t.exec(ctx, `INSERT INTO shards (`+shardColumns+`, again)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, '', 0, $11, 0, FALSE, 0, 0, 0, '', FALSE)`,
				plan, s.N, s.Repository, s.Deployed, s.First, s.Last, s.Items, s.Units, ShardReady, epoch, now); err != nil {
				return nil, err
			}
		}
	}
	if !joined {
		q := sel.where(plan)
		q.and("state IN (%s, %s)", ShardDone, ShardFailed)
		set := fmt.Sprintf(`UPDATE shards SET state = %s, until = %s, attempts = 0, again = FALSE, why = ''`, q.mark(ShardReady), q.mark(now))
		if _, err := t.exec(ctx, set+q.where(), q.args...); err != nil {
			return nil, err
		}
	}
	if queued {
		q := sel.where(plan)
		if _, err := t.exec(ctx, `UPDATE shards SET queued = TRUE`+q.where(), q.args...); err != nil {
			return nil, err
		}
	}
	t.Record(journal.Draft{Action: "resign.started", Subject: "plan " + plan})
	q := sel.claimable(plan, now)
	return queryAll(ctx, t.tx, scanShard, `SELECT `+shardColumns+` FROM shards`+q.where()+` ORDER BY n`, q.args...)
}

// Waiting returns how many items of a plan are in shards that may be claimed,
// and whether somebody else than owner is at work on the plan.
func (t *Tx) Waiting(ctx context.Context, plan, owner string, sel ShardSelection) (items int64, others bool, err error) {
	now, err := t.store.clock(ctx, t.tx)
	if err != nil {
		return 0, false, err
	}
	q := sel.claimable(plan, now)
	if err := row(ctx, t.tx, []any{&items}, `SELECT COALESCE(SUM(items), 0) FROM shards`+q.where(), q.args...); err != nil {
		return 0, false, err
	}
	var n int64
	err = row(ctx, t.tx, []any{&n}, `SELECT COUNT(*) FROM shards WHERE plan = $1 AND state = $2 AND owner <> $3 AND until > $4`, plan, ShardRunning, owner, now)
	return items, n > 0, err
}

// atOnce bounds how many shards one claim has.
const atOnce = 500

// ClaimShards gives the next shards of a plan to owner, until lease has passed:
// those that are ready, and those that somebody else did not finish while his
// lease lasted, which is journaled. It takes one at least, if there is one, and
// no more than have so many items together. What another plan is at work on in
// the same repository is left alone: both would write the same tags.
func (t *Tx) ClaimShards(ctx context.Context, plan, owner string, lease time.Duration, sel ShardSelection, items int64) (Claim, error) {
	c := Claim{Plan: plan, Owner: owner}
	now, err := t.store.clock(ctx, t.tx)
	if err != nil {
		return c, err
	}
	q := sel.claimable(plan, now)
	q.and("NOT EXISTS (SELECT 1 FROM shards o WHERE o.repository = shards.repository AND o.plan <> shards.plan AND o.state = %s AND o.until > %s)", ShardRunning, now)
	open, err := queryAll(ctx, t.tx, scanShard, `SELECT `+shardColumns+` FROM shards`+q.where()+` ORDER BY n LIMIT `+count(atOnce), q.args...)
	if err != nil || len(open) == 0 {
		return c, err
	}
	if err := row(ctx, t.tx, []any{&c.Epoch}, `SELECT MAX(epoch) + 1 FROM shards WHERE plan = $1`, plan); err != nil {
		return c, err
	}
	for _, s := range open {
		if items -= s.Items; len(c.Shards) > 0 && items < 0 {
			break
		}
		if s.State == ShardRunning {
			t.Record(journal.Draft{Action: "resign.taken-over", Subject: fmt.Sprintf("shard %d of plan %s (%s) from %s", s.N, plan, s.Repository, s.Owner)})
		}
		if _, err := t.scratch(ctx, `UPDATE shards SET state = $1, epoch = $2, owner = $3, since = $4, until = $5, attempts = attempts + 1, again = FALSE, why = ''
			WHERE plan = $6 AND n = $7`, ShardRunning, c.Epoch, owner, now, now+lease.Milliseconds(), plan, s.N); err != nil {
			return c, err
		}
		s.State, s.Epoch, s.Owner, s.Attempts = ShardRunning, c.Epoch, owner, s.Attempts+1
		c.Shards = append(c.Shards, s)
	}
	return c, nil
}

// CheckShards refuses a claim that is no longer good, with ErrLeaseLost. A
// transaction that begins so records nothing for who lost the claim.
func (t *Tx) CheckShards(ctx context.Context, c Claim) error {
	var n int
	if err := row(ctx, t.tx, []any{&n}, `SELECT COUNT(*) FROM shards WHERE plan = $1 AND epoch = $2 AND owner = $3 AND state = $4`,
		c.Plan, c.Epoch, c.Owner, ShardRunning); err != nil {
		return err
	}
	return c.whole(n)
}

func (c Claim) whole(n int) error {
	if n != len(c.Shards) {
		return fmt.Errorf("%w (%d of %d left, plan %s)", ErrLeaseLost, n, len(c.Shards), c.Plan)
	}
	return nil
}

// ExtendShards makes the lease of a claim last from now on again, as long as
// nobody else has taken the shards: also when it had ended.
func (t *Tx) ExtendShards(ctx context.Context, c Claim, lease time.Duration) error {
	now, err := t.store.clock(ctx, t.tx)
	if err != nil {
		return err
	}
	n, err := t.scratch(ctx, `UPDATE shards SET until = $1 WHERE plan = $2 AND epoch = $3 AND owner = $4 AND state = $5`,
		now+lease.Milliseconds(), c.Plan, c.Epoch, c.Owner, ShardRunning)
	if err != nil {
		return err
	}
	return c.whole(int(n))
}

// CompleteShards ends a claim whose work was done: its shards are done, or
// failed if any of their units is. It returns how many must be worked on once
// more, because of RecheckShards: these are ready again.
func (t *Tx) CompleteShards(ctx context.Context, c Claim) (again int64, err error) {
	if err := t.CheckShards(ctx, c); err != nil {
		return 0, err
	}
	now, err := t.store.clock(ctx, t.tx)
	if err != nil {
		return 0, err
	}
	// A unit of work is in the states that package resign gives it.
	const units = `(SELECT COUNT(*) FROM reissues r WHERE r.plan = shards.plan AND r.seq BETWEEN shards.first_seq AND shards.last_seq AND r.state = `
	const mine = ` WHERE plan = $1 AND epoch = $2`
	if _, err := t.scratch(ctx, `UPDATE shards SET signed = `+units+`'done'), held = `+units+`'held'), failed = `+units+`'failed')`+mine, c.Plan, c.Epoch); err != nil {
		return 0, err
	}
	if again, err = t.scratch(ctx, `UPDATE shards SET state = $3, until = $4, again = FALSE`+mine+` AND again`, c.Plan, c.Epoch, ShardReady, now); err != nil {
		return 0, err
	}
	_, err = t.scratch(ctx, `UPDATE shards SET state = CASE WHEN failed > 0 THEN $3 ELSE $4 END, until = $5,
		why = COALESCE((SELECT MIN(r.why) FROM reissues r WHERE r.plan = shards.plan AND r.seq BETWEEN shards.first_seq AND shards.last_seq AND r.state = 'failed'), '')`+
		mine+` AND state = $6`, c.Plan, c.Epoch, ShardFailed, ShardDone, now, ShardRunning)
	return again, err
}

// LeaveShard fails a shard of a claim that was just completed, of which units were
// left alone, unless all of them are signed or held. Why is that of a unit that
// failed, if there is one.
func (t *Tx) LeaveShard(ctx context.Context, c Claim, n int64, why string) error {
	_, err := t.scratch(ctx, `UPDATE shards SET state = $1, why = CASE WHEN failed > 0 THEN why ELSE $2 END
		WHERE plan = $3 AND n = $4 AND epoch = $5 AND state IN ($1, $6) AND signed + held < units`, ShardFailed, clean(why), c.Plan, n, c.Epoch, ShardDone)
	return err
}

// ReleaseShards gives up a claim before its work is done: the shards are ready
// for anybody, who should claim them after a pause.
func (t *Tx) ReleaseShards(ctx context.Context, c Claim, why string, pause time.Duration) error {
	return t.giveUp(ctx, c, ShardReady, why, pause)
}

// FailShards ends a claim whose work must not be done, or cannot.
func (t *Tx) FailShards(ctx context.Context, c Claim, why string) error {
	return t.giveUp(ctx, c, ShardFailed, why, 0)
}

func (t *Tx) giveUp(ctx context.Context, c Claim, state, why string, pause time.Duration) error {
	now, err := t.store.clock(ctx, t.tx)
	if err != nil {
		return err
	}
	n, err := t.scratch(ctx, `UPDATE shards SET state = $1, why = $2, until = $3 WHERE plan = $4 AND epoch = $5 AND owner = $6 AND state = $7`,
		state, clean(why), now+pause.Milliseconds(), c.Plan, c.Epoch, c.Owner, ShardRunning)
	if err != nil {
		return err
	}
	return c.whole(int(n))
}

// RecheckShards has the shards of a claim that was lost looked at once more:
// whoever lost it may have been writing to a registry when he did.
func (t *Tx) RecheckShards(ctx context.Context, c Claim) error {
	now, err := t.store.clock(ctx, t.tx)
	if err != nil {
		return err
	}
	for _, s := range c.Shards {
		n, err := t.scratch(ctx, `UPDATE shards SET state = CASE WHEN state IN ($1, $2) THEN $3 ELSE state END,
			until = CASE WHEN state IN ($1, $2) THEN $4 ELSE until END, again = (state = $5)
			WHERE plan = $6 AND n = $7 AND epoch <> $8`, ShardDone, ShardFailed, ShardReady, now, ShardRunning, c.Plan, s.N, c.Epoch)
		if err != nil {
			return err
		}
		if n > 0 {
			t.Record(journal.Draft{Action: "resign.rechecked", Subject: fmt.Sprintf("shard %d of plan %s (%s), which %s lost", s.N, c.Plan, s.Repository, c.Owner)})
		}
	}
	return nil
}

// FreeShards ends the leases of an owner who is known to be dead.
func (t *Tx) FreeShards(ctx context.Context, owner string) error {
	now, err := t.store.clock(ctx, t.tx)
	if err != nil {
		return err
	}
	_, err = t.scratch(ctx, `UPDATE shards SET until = $1 WHERE owner = $2 AND state = $3 AND until > $1`, now, owner, ShardRunning)
	return err
}

// ShardUnits counts units of one shard that are in one state.
type ShardUnits struct {
	N      int64
	State  string // as package resign calls it
	Made   bool   // the signature was made for this plan, not found
	Units  int64
	Recent int64 // of Units, those that came into the state since a time
}

// ShardProgress counts what became of the units of a plan's shards so far.
func (s *Store) ShardProgress(ctx context.Context, plan string, since time.Time) ([]ShardUnits, error) {
	return queryAll(ctx, s.read, func(rows *sql.Rows) (u ShardUnits, err error) {
		err = rows.Scan(&u.N, &u.State, &u.Made, &u.Units, &u.Recent)
		return u, err
	}, `SELECT s.n, r.state, r.content <> '', COUNT(*), SUM(CASE WHEN r.at >= $2 THEN 1 ELSE 0 END)
		FROM shards s JOIN reissues r ON r.plan = s.plan AND r.seq BETWEEN s.first_seq AND s.last_seq
		WHERE s.plan = $1 GROUP BY s.n, r.state, r.content <> '' ORDER BY s.n`, plan, since.Unix())
}

// Reason is why units of a plan are in a state, and how many.
type Reason struct {
	State string `json:"state"`
	Why   string `json:"why"`
	Units int64  `json:"units"`
}

// ReissueReasons groups the reasons of the units of a plan that have one, the
// most frequent first.
func (s *Store) ReissueReasons(ctx context.Context, plan string, limit int) ([]Reason, error) {
	return queryAll(ctx, s.read, func(rows *sql.Rows) (r Reason, err error) {
		err = rows.Scan(&r.State, &r.Why, &r.Units)
		return r, err
	}, `SELECT state, why, COUNT(*) AS units FROM reissues WHERE plan = $1 AND why <> '' GROUP BY state, why ORDER BY units DESC, state, why LIMIT `+count(limit), plan)
}

// Shared reports whether several machines may work with the database.
func (s *Store) Shared() bool { return s.postgres }
