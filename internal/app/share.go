package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/resign"
	"github.com/reseal/reseal/rotate"
)

// DefaultLease is how long a worker that is not heard of keeps its shards.
const DefaultLease = time.Minute

const (
	// claimItems is how many items a process claims first that works on a plan
	// alone: more, up to claimMost, while a claim is done within claimTime, because
	// each begins with nothing to publish. shareItems is the least it claims where
	// others work on the plan, too.
	claimItems = 512
	claimMost  = 8192
	claimTime  = 10 * time.Second
	shareItems = 64
	batchItems = 1024 // that one statement can name

	waitAtMost  = 500 * time.Millisecond // between two looks at what others are doing
	lastAct     = 10 * time.Second       // for what is recorded after an interruption
	aliveOnHost = syscall.Signal(0)      // asks whether a process is there
)

// share carries out a plan together with whoever else does: it starts the step,
// then takes shards until none is left, those of the dead included, and counts
// what others did, too.
func (a *App) share(ctx context.Context, p rotate.Permission, e resign.Engine, shards []store.Shard, sel store.ShardSelection, o ResignOptions) (resign.Result, error) {
	owner, plan := newOwner(), p.Digest()
	if o.Lease <= 0 {
		o.Lease = DefaultLease
	}
	if err := a.freeDead(ctx, e.By, plan); err != nil {
		return resign.Result{}, err
	}
	if err := a.store.Update(ctx, e.By, func(tx *store.Tx) error {
		_, err := tx.StartShards(ctx, plan, shards, sel, false)
		return err
	}); err != nil {
		return resign.Result{}, err
	}
	var total resign.Result
	var done, given int64
	mine := map[int64]bool{}
	var left resign.LeftError
	tell, settled := e.Progress, e.Settled
	size := int64(claimItems)
	for o.Only.Limit == 0 || given < o.Only.Limit {
		p, err := a.again(ctx, p) // as workers do, at each claim
		if err != nil {
			return total, err
		}
		l, err := a.claim(ctx, e.By, plan, owner, sel, size, o)
		if err != nil {
			return total, err
		}
		start := time.Now()
		if len(l.claim.Shards) == 0 {
			more, err := a.wait(ctx, e.By, plan, sel)
			if err != nil {
				return total, err
			}
			if !more {
				break
			}
			continue
		}
		again := slices.ContainsFunc(l.claim.Shards, func(s store.Shard) bool { return mine[s.N] })
		if e.Progress, e.Settled = nil, nil; !again {
			e.Settled = settled
			if tell != nil {
				e.Progress = func(n int64, r resign.Result) { tell(done+n, plus(total, r)) }
			}
		}
		w := &approved{store: a.store, permission: p, shards: l.claim.Shards}
		if o.Only.Limit > 0 {
			w.limit = o.Only.Limit - given
		}
		r, err := l.run(ctx, e, w)
		if errors.As(err, &left) { // the rest goes on; e remembers
			err = nil
		}
		if !errors.Is(err, store.ErrLeaseLost) {
			given += w.given
		}
		if again { // it is counted at the end, all of it
			r = resign.Result{Signed: r.Signed}
		}
		if err == nil && (w.cut || w.limit > 0 && w.given == w.limit) {
			// The next run completes them, which looks once more at what is done.
			return plus(total, r), errors.Join(left.OrNil(), l.release(ctx, "the limit was reached", 0))
		}
		if err == nil {
			err = l.update(ctx, func(tx *store.Tx) error {
				return complete(ctx, tx, l.claim, left)
			})
		}
		switch {
		case errors.Is(err, store.ErrLeaseLost):
			if err := l.lost(ctx); err != nil {
				return total, err
			}
			continue // somebody else has them, or had
		case err != nil:
			return plus(total, r), errors.Join(err, l.release(ctx, "stopped", 0))
		}
		total = plus(total, r)
		done += r.Signed + r.Already + r.Held + r.Failed
		for _, s := range l.claim.Shards {
			mine[s.N] = true
		}
		if time.Since(start) < claimTime {
			size = min(2*size, claimMost)
		}
	}
	all, err := a.store.Shards(ctx, plan)
	if err != nil {
		return total, err
	}
	// Whatever was looked at twice, or by others, counts once.
	sum := resign.Result{}
	for _, s := range all {
		if !sel.Has(s) {
			continue
		}
		r := resign.Result{Planned: s.Units, Already: s.Signed, Held: s.Held, Failed: s.Units - s.Signed - s.Held}
		if left.In(s.Repository) != "" {
			r.Left, r.Failed = r.Failed-s.Failed, s.Failed
		}
		sum = plus(sum, r)
	}
	sum.Signed = min(total.Signed, sum.Already)
	sum.Already -= sum.Signed
	return sum, left.OrNil()
}

// complete ends a claim that was worked on, but for what was left alone.
func complete(ctx context.Context, tx *store.Tx, c store.Claim, left resign.LeftError) error {
	if _, err := tx.CompleteShards(ctx, c); err != nil {
		return err
	}
	for _, s := range c.Shards {
		if why := left.In(s.Repository); why != "" {
			if err := tx.LeaveShard(ctx, c, s.N, "left alone, for one signature after the other failed there: "+why+": run it again when the reason is gone"); err != nil {
				return err
			}
		}
	}
	return nil
}

func plus(x, y resign.Result) resign.Result {
	return resign.Result{Planned: x.Planned + y.Planned, Signed: x.Signed + y.Signed, Already: x.Already + y.Already, Held: x.Held + y.Held, Failed: x.Failed + y.Failed, Left: x.Left + y.Left}
}

// claim takes the next shards, of so many items: as said for a process that is
// alone, fewer the less is left where others take some, too.
func (a *App) claim(ctx context.Context, by journal.Author, plan, owner string, sel store.ShardSelection, items int64, o ResignOptions) (*lease, error) {
	l := &lease{store: a.store, by: by, length: o.Lease}
	l.last(time.Now())
	err := a.store.Update(ctx, by, func(tx *store.Tx) error {
		waiting, others, err := tx.Waiting(ctx, plan, owner, sel)
		if err != nil {
			return err
		}
		if o.Batch {
			items = max(items, batchItems)
		}
		if others {
			items = min(items, max(shareItems, waiting/4))
		}
		l.claim, err = tx.ClaimShards(ctx, plan, owner, o.Lease, sel, items)
		return err
	})
	return l, err
}

// wait waits for shards that others have, and reports whether there are any.
func (a *App) wait(ctx context.Context, by journal.Author, plan string, sel store.ShardSelection) (more bool, err error) {
	open, left, err := a.store.OpenShards(ctx, plan, sel)
	if err != nil || len(open) == 0 {
		return false, err
	}
	if err := a.freeDead(ctx, by, plan); err != nil {
		return false, err
	}
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-time.After(min(max(left, waitAtMost/10), waitAtMost)):
		return true, nil
	}
}

// newOwner names this process among those that claim shards.
func newOwner() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), rand.Text()[:8])
}

// freeDead ends the leases of processes of this machine that are there no more,
// so that nobody waits for them. That a process seems to be dead may be wrong,
// across containers for one: it then finds its lease lost, as after a pause.
func (a *App) freeDead(ctx context.Context, by journal.Author, plan string) error {
	open, _, err := a.store.OpenShards(ctx, plan, store.ShardSelection{})
	if err != nil {
		return err
	}
	dead := map[string]bool{}
	for _, s := range open {
		if s.State == store.ShardRunning && isDead(s.Owner) {
			dead[s.Owner] = true
		}
	}
	if len(dead) == 0 {
		return nil
	}
	return a.store.Update(ctx, by, func(tx *store.Tx) error {
		for owner := range dead {
			if err := tx.FreeShards(ctx, owner); err != nil {
				return err
			}
		}
		return nil
	})
}

// isDead reports whether an owner was a process of this machine and is no more.
func isDead(owner string) bool {
	f := strings.Split(owner, "/")
	host, err := os.Hostname()
	if err != nil || len(f) != 3 || f[0] != host {
		return false
	}
	pid, err := strconv.Atoi(f[1])
	if err != nil {
		return false
	}
	p, err := os.FindProcess(pid)
	return err == nil && errors.Is(p.Signal(aliveOnHost), os.ErrProcessDone)
}

// lease keeps a claim while this process works on its shards, and tells when it
// was lost.
type lease struct {
	store  *store.Store
	by     journal.Author
	claim  store.Claim
	length time.Duration

	mu    sync.Mutex
	until time.Time // till then nobody else can have the shards
}

// run works on the shards of the claim. The error wraps store.ErrLeaseLost when
// somebody else has them by now.
func (l *lease) run(ctx context.Context, e resign.Engine, w *approved) (resign.Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		l.keep(ctx, cancel)
	}()
	e.Fence, e.Hold = l.fence, func(ctx context.Context, tx *store.Tx) error { return tx.CheckShards(ctx, l.claim) }
	r, err := inOrder(ctx, e, w)
	cancel(nil)
	<-kept
	if cause := context.Cause(ctx); errors.Is(cause, store.ErrLeaseLost) {
		err = cause
	}
	return r, err
}

// keep extends the lease long before it ends. A database that does not answer is
// asked again; if it is silent for too long, fence stops the work.
func (l *lease) keep(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(max(l.length/3, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := l.extend(ctx); errors.Is(err, store.ErrLeaseLost) {
				cancel(err)
				return
			}
		}
	}
}

// fence is resign.Engine.Fence. It asks the database only where the clock of
// this machine does not rule out that the lease has ended, as after a pause.
func (l *lease) fence(ctx context.Context) error {
	l.mu.Lock()
	until := l.until
	l.mu.Unlock()
	// The monotonic clock of some systems stands still while they sleep, and the
	// other may be set back.
	if now := time.Now(); now.Before(until) && now.Round(0).Before(until.Round(0)) {
		return nil
	}
	return l.extend(ctx)
}

func (l *lease) extend(ctx context.Context) error {
	now := time.Now()
	if err := l.update(ctx, func(tx *store.Tx) error { return tx.ExtendShards(ctx, l.claim, l.length) }); err != nil {
		return err
	}
	l.last(now)
	return nil
}

// last takes note that the lease was given at a time or a little later.
func (l *lease) last(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = at.Add(l.length - l.length/10) // a write may take a while to arrive
}

func (l *lease) update(ctx context.Context, fn func(*store.Tx) error) error {
	return l.store.Update(ctx, l.by, fn)
}

// lost has the shards looked at once more, by whoever has them now: a write of
// this process may have reached a registry after they were lost.
func (l *lease) lost(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastAct)
	defer cancel()
	return l.update(ctx, func(tx *store.Tx) error { return tx.RecheckShards(ctx, l.claim) })
}

// release gives the shards up, also when ctx has ended.
func (l *lease) release(ctx context.Context, why string, pause time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastAct)
	defer cancel()
	err := l.update(ctx, func(tx *store.Tx) error { return tx.ReleaseShards(ctx, l.claim, why, pause) })
	if errors.Is(err, store.ErrLeaseLost) {
		return l.lost(ctx)
	}
	return err
}
