package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/reseal/reseal/internal/queue"
	"github.com/reseal/reseal/internal/services"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/resign"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/signer"
)

// Queued is what was left to the workers, or would be.
type Queued struct {
	Incident string `json:"incident"`
	Plan     string `json:"plan"`
	Applied  bool   `json:"applied"`
	Items    int64  `json:"items"`
	Shards   int64  `json:"shards"` // to be worked on
	Jobs     int64  `json:"jobs"`   // queued now; the others were already

	BreakGlass *rotate.BreakGlass `json:"break_glass,omitempty"` // it was done on one person's word
}

// Enqueue leaves it to the workers to carry out what an approved plan decided to
// re-sign: one job for each shard, inserted in the transaction that starts the
// step.
func (a *App) Enqueue(ctx context.Context, plan string, part Selection, apply bool) (Queued, error) {
	p, err := a.permit(ctx, plan)
	if err != nil {
		return Queued{}, err
	}
	if err := rotate.CheckLimits(ctx, a.store, p.Plan(), p.Totals()); err != nil {
		return Queued{}, err
	}
	out := Queued{Incident: p.Plan().Incident, Plan: p.Digest(), Applied: apply, BreakGlass: p.BreakGlass()}
	shards, err := rotate.Shards(ctx, a.store, p.Digest(), p.Totals())
	if err != nil {
		return out, err
	}
	only, err := part.of(shards)
	if err != nil {
		return out, err
	}
	if !a.store.Shared() {
		return out, store.ErrNotPostgres
	}
	if !apply {
		for _, s := range shards {
			if only.Has(s) {
				out.Shards++
				out.Items += s.Items
			}
		}
		return out, nil
	}
	if err := a.MigrateQueue(ctx); err != nil {
		return out, err
	}
	by := a.by("re-sign for %s", p.Plan().Incident)
	if err := a.freeDead(ctx, by, p.Digest()); err != nil {
		return out, err
	}
	return out, a.store.Update(ctx, by, func(tx *store.Tx) error {
		ready, err := tx.StartShards(ctx, p.Digest(), shards, only, true)
		if err != nil {
			return err
		}
		jobs := make([]queue.Job, len(ready))
		out.Shards, out.Items = int64(len(ready)), 0
		for i, s := range ready {
			jobs[i] = jobOf(s, 0)
			out.Items += s.Items
		}
		return tx.Postgres(func(pg pgx.Tx) error {
			out.Jobs, err = queue.Insert(ctx, pg, queueOf(p.Plan().NewSigner), jobs, slog.New(slog.DiscardHandler))
			return err
		})
	})
}

func jobOf(s store.Shard, round int64) queue.Job {
	return queue.Job{Plan: s.Plan, Shard: s.N, Epoch: s.Epoch, Round: round, Ahead: s.Deployed}
}

// queueOf names the queue of what a signer signs: a worker takes what its key is
// for.
func queueOf(s signer.Identity) string {
	sum := sha256.Sum256([]byte(s.ID()))
	return "resign_" + hex.EncodeToString(sum[:16])
}

// MigrateQueue makes or updates the tables of the queue. A database that is a
// file has none.
func (a *App) MigrateQueue(ctx context.Context) error {
	if !a.store.Shared() {
		return nil
	}
	return queue.Migrate(ctx, a.options.Database, slog.New(slog.DiscardHandler))
}

// WorkOptions say how a worker works.
type WorkOptions struct {
	Signer   signer.Source
	Services services.Services // asked for proofs of every new signature
	Files    resign.Files      // see App.OpenFiles
	Batch    bool              // one statement for many image signatures of a repository
	Parallel int               // artifacts at once
	Rate     float64           // signatures a second; 0: no limit
	Lease    time.Duration     // on a shard; default DefaultLease
	Grace    time.Duration     // how long what is in flight may take once Drain is closed; default half of Lease
	Drain    <-chan struct{}   // closed: end what is in flight, give the rest back and return
	Log      *slog.Logger
}

// Worked is what a worker did.
type Worked struct {
	Shards int64 `json:"shards"` // completed
	Lost   int64 `json:"lost"`   // to other workers
	resign.Result
}

const (
	shardsAtOnce = 2                  // while one ends, the next has begun
	mostAttempts = 5                  // at a shard with failures, until the next run
	retryPause   = 2 * queue.MaxPause // after which a shard that nobody took is queued again
	overdueShown = 200                // shards queued again at once
)

// Work takes shards of whatever approved plan names the signer, until it is told
// to drain or ctx ends. It checks itself, at each shard, that the plan may be
// carried out.
func (a *App) Work(ctx context.Context, o WorkOptions) (Worked, error) {
	if !a.store.Shared() {
		return Worked{}, store.ErrNotPostgres
	}
	if o.Lease <= 0 {
		o.Lease = DefaultLease
	}
	if o.Grace <= 0 {
		o.Grace = o.Lease / 2
	}
	if err := a.MigrateQueue(ctx); err != nil {
		return Worked{}, err
	}
	a.store.SetSilence(o.Lease / 2)
	w := &worker{App: a, o: o, owner: newOwner(), permissions: map[string]rotate.Permission{}}
	overdue, stop := context.WithCancel(ctx)
	var g sync.WaitGroup
	g.Go(func() { w.requeue(overdue) })
	o.Log.Info("waiting for work", "worker", w.owner, "signer", o.Signer.Identity().ID())
	err := queue.Run(ctx, o.Drain, queue.Options{Location: a.options.Database, Name: queueOf(o.Signer.Identity()), AtOnce: shardsAtOnce,
		Log: slog.New(atLeastWarn{o.Log.Handler()}), Grace: o.Grace, Work: w.work})
	stop()
	g.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done, err
}

// worker is one run of Work.
type worker struct {
	*App
	o     WorkOptions
	owner string
	busy  atomic.Int64 // shards in hand

	mu          sync.Mutex
	done        Worked
	permissions map[string]rotate.Permission // whose plan was read and held to its digest
}

// work works on one shard. What it returns is for the queue: nil when there is
// nothing left to do with the job.
func (w *worker) work(ctx context.Context, j queue.Job, complete func(context.Context, pgx.Tx) error) error {
	w.busy.Add(1)
	defer w.busy.Add(-1)
	log := w.o.Log.With("plan", j.Plan, "shard", j.Shard)
	by := w.by("re-sign as a worker")
	select {
	case <-w.o.Drain:
		return queue.ErrAgain
	default:
	}
	o := ResignOptions{Plan: j.Plan, Signer: w.o.Signer, Services: w.o.Services, Files: w.o.Files, Apply: true, Batch: w.o.Batch,
		Parallel: max(w.o.Parallel/shardsAtOnce, 1), Rate: w.o.Rate / shardsAtOnce, Lease: w.o.Lease}
	l, err := w.claim(ctx, by, j.Plan, w.owner, store.ShardSelection{N: j.Shard}, claimItems, o)
	if err != nil {
		return err
	}
	if len(l.claim.Shards) == 0 {
		return nil // it is done, or somebody has it: then it is queued again if he dies
	}
	shard := l.claim.Shards[0]
	p, err := w.permitted(ctx, j.Plan)
	if err != nil {
		return w.gaveUp(ctx, log, l, shard, err)
	}
	if err := checkSignerOf(p, w.o.Signer); err != nil {
		return w.refuse(ctx, log, l, err)
	}
	work := &approved{store: w.store, permission: p, shards: l.claim.Shards, drain: w.o.Drain}
	e := w.engine(p, o)
	e.Memory = resign.DefaultMemory / shardsAtOnce
	e.Failed = func(f resign.Failure) {
		log.Warn("not signed", "artifact", f.Item.Repository+"@"+f.Item.Digest, "format", f.Format, "why", f.Why)
	}
	r, err := l.run(ctx, e, work)
	switch {
	case errors.Is(err, store.ErrLeaseLost):
		return w.lostOne(ctx, log, l)
	case err != nil:
		return w.gaveUp(ctx, log, l, shard, err)
	case work.cut:
		log.Info("given back", "signed", r.Signed)
		w.count(0, r)
		if err := l.release(ctx, "given back by a worker that was stopped", 0); err != nil {
			return err
		}
		return queue.ErrAgain
	case r.Failed > 0 && shard.Attempts < mostAttempts:
		w.count(0, r)
		return w.gaveUp(ctx, log, l, shard, fmt.Errorf("%d signatures failed", r.Failed))
	}
	var again int64
	err = l.update(ctx, func(tx *store.Tx) error {
		if again, err = tx.CompleteShards(ctx, l.claim); err != nil || again > 0 {
			return err
		}
		return tx.Postgres(func(pg pgx.Tx) error { return complete(ctx, pg) })
	})
	switch {
	case errors.Is(err, store.ErrLeaseLost):
		return w.lostOne(ctx, log, l)
	case err != nil:
		return errors.Join(err, l.release(ctx, err.Error(), retryPause))
	case again > 0:
		return queue.ErrAgain
	}
	w.count(1, r)
	log.Info("done", "signed", r.Signed, "already", r.Already, "held", r.Held, "failed", r.Failed)
	return nil
}

// gaveUp ends the work on a shard that could not be done: until the queue gives
// it out again or, where people must act first or enough was tried, for good.
func (w *worker) gaveUp(ctx context.Context, log *slog.Logger, l *lease, shard store.Shard, why error) error {
	mustAct := errors.Is(why, rotate.ErrNeedsApproval) || errors.Is(why, rotate.ErrOverLimit)
	if mustAct || shard.Attempts >= mostAttempts && ctx.Err() == nil {
		return w.refuse(ctx, log, l, why)
	}
	return errors.Join(why, l.release(ctx, why.Error(), retryPause))
}

// refuse fails a shard until somebody starts the step again.
func (w *worker) refuse(ctx context.Context, log *slog.Logger, l *lease, why error) error {
	log.Error("refused", "why", why)
	err := l.update(ctx, func(tx *store.Tx) error { return tx.FailShards(ctx, l.claim, why.Error()) })
	if errors.Is(err, store.ErrLeaseLost) {
		return w.lostOne(ctx, log, l)
	}
	return err
}

// lostOne ends the work on a shard that somebody else has by now. The job stays,
// so that the shard is looked at once more.
func (w *worker) lostOne(ctx context.Context, log *slog.Logger, l *lease) error {
	log.Warn("lost to another worker")
	w.mu.Lock()
	w.done.Lost++
	w.mu.Unlock()
	if err := l.lost(ctx); err != nil {
		return err
	}
	return queue.ErrAgain
}

func (w *worker) count(shards int64, r resign.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done.Shards += shards
	w.done.Result = plus(w.done.Result, r)
}

// permitted checks whether a plan may be carried out now. The plan itself is read
// and held to its digest once.
func (w *worker) permitted(ctx context.Context, plan string) (rotate.Permission, error) {
	w.mu.Lock()
	p, ok := w.permissions[plan]
	w.mu.Unlock()
	if !ok {
		p, err := w.permit(ctx, plan)
		if err == nil {
			err = rotate.CheckLimits(ctx, w.store, p.Plan(), p.Totals())
		}
		if err == nil {
			w.mu.Lock()
			w.permissions[plan] = p
			w.mu.Unlock()
		}
		return p, err
	}
	return w.again(ctx, p)
}

// requeue queues shards again that a dead worker had and, while this one has
// nothing to do, those that seem to have been forgotten.
func (w *worker) requeue(ctx context.Context) {
	tick := time.NewTicker(max(w.o.Lease/2, 100*time.Millisecond))
	defer tick.Stop()
	mine := map[string]bool{} // plans that name this worker's signer
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := w.requeueOnce(ctx, mine); err != nil && ctx.Err() == nil {
			w.o.Log.Warn("looking for what dead workers left behind", "error", err)
		}
	}
}

func (w *worker) requeueOnce(ctx context.Context, mine map[string]bool) error {
	overdue, err := w.store.OverdueShards(ctx, 2*w.o.Lease, overdueShown)
	if err != nil {
		return err
	}
	var jobs []queue.Job
	for _, s := range overdue {
		own, ok := mine[s.Plan]
		if !ok {
			by, err := rotate.NewSigner(ctx, w.store, s.Plan)
			if err != nil {
				return err
			}
			own = by == w.o.Signer.Identity()
			mine[s.Plan] = own
		}
		round := int64(0)
		if s.State == store.ShardReady {
			// Whoever had its job may have died before he claimed the shard.
			round = time.Now().Unix() / int64(max(retryPause/time.Second, 1))
		}
		if own && (s.State == store.ShardRunning || w.busy.Load() == 0) {
			jobs = append(jobs, jobOf(s, round))
		}
	}
	if len(jobs) == 0 {
		return nil
	}
	return w.store.Update(ctx, w.by("queue again what a dead worker had"), func(tx *store.Tx) error {
		return tx.Postgres(func(pg pgx.Tx) error {
			n, err := queue.Insert(ctx, pg, queueOf(w.o.Signer.Identity()), jobs, slog.New(slog.DiscardHandler))
			if n > 0 {
				w.o.Log.Info("queued again", "shards", n)
			}
			return err
		})
	})
}

// atLeastWarn leaves out what the queue says of its own coming and going.
type atLeastWarn struct{ slog.Handler }

// Enabled implements slog.Handler.
func (h atLeastWarn) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
}
