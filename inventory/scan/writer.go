package scan

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
)

// A batch is closed by whichever of these is reached first: a commit waits for
// the disk, and most changes are a few hundred bytes.
const (
	batchChanges = 512
	batchBytes   = 16 << 20
	batchTime    = 250 * time.Millisecond
)

// change is what one reference changes in the inventory. All of it is
// committed together.
type change struct {
	ops   []func(context.Context, *store.Tx) error
	bytes int64
	now   bool   // commit without waiting for more
	kept  func() // called after the commit; may be nil
}

func (c *change) add(op func(context.Context, *store.Tx) error) { c.ops = append(c.ops, op) }

func (c *change) artifacts(list []inventory.Artifact) {
	c.bytes += int64(len(list)) * 256
	c.add(func(ctx context.Context, tx *store.Tx) error {
		for _, a := range list {
			if err := tx.PutArtifact(ctx, a); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *change) vault(content []byte) {
	c.bytes += int64(len(content))
	c.add(func(ctx context.Context, tx *store.Tx) error {
		_, err := tx.PutVault(ctx, content)
		return err
	})
}

func (c *change) signature(s inventory.Signature) {
	c.add(func(ctx context.Context, tx *store.Tx) error { return tx.PutSignature(ctx, s) })
}

func (c *change) problem(p inventory.Problem) {
	c.add(func(ctx context.Context, tx *store.Tx) error { return tx.PutProblem(ctx, p) })
}

func (c *change) clear(repository, reference string) {
	c.add(func(ctx context.Context, tx *store.Tx) error { return tx.ClearProblems(ctx, repository, reference) })
}

// writer commits the changes of all repositories of a run, many at once.
type writer struct {
	store *store.Store
	by    journal.Author
	in    chan change

	wanted atomic.Int64 // how many wait for what is given back after a commit
}

func newWriter(s *store.Store, by journal.Author) *writer {
	return &writer{store: s, by: by, in: make(chan change, batchChanges)}
}

// put hands over a change, which is committed some time later, after those
// handed over before it.
func (w *writer) put(ctx context.Context, c change) error {
	select {
	case w.in <- c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flush returns when everything handed over before is committed.
func (w *writer) flush(ctx context.Context) error {
	done := make(chan struct{})
	if err := w.put(ctx, change{now: true, kept: func() { close(done) }}); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close says that nothing will be handed over any more.
func (w *writer) close() { close(w.in) }

// run commits until the writer is closed or ctx ends.
func (w *writer) run(ctx context.Context) error {
	for {
		batch, more, err := w.collect(ctx)
		if err != nil {
			return err
		}
		if err := w.commit(ctx, batch); err != nil {
			return err
		}
		if !more {
			return nil
		}
	}
}

// collect returns a batch, and whether more may follow.
func (w *writer) collect(ctx context.Context) (batch []change, more bool, err error) {
	var late <-chan time.Time
	bytes, now := int64(0), false
	for len(batch) < batchChanges && bytes < batchBytes {
		var c change
		open := true
		select {
		case c, open = <-w.in: // what is there already goes along
		default:
			if now || len(batch) > 0 && w.wanted.Load() > 0 {
				return batch, true, nil
			}
			select {
			case c, open = <-w.in:
			case <-late:
				return batch, true, nil
			case <-ctx.Done():
				return nil, false, ctx.Err()
			}
		}
		if !open {
			return batch, false, nil
		}
		if len(batch) == 0 {
			late = time.After(batchTime)
		}
		batch, bytes, now = append(batch, c), bytes+c.bytes, now || c.now
	}
	return batch, true, nil
}

func (w *writer) commit(ctx context.Context, batch []change) error {
	ops := 0
	for _, c := range batch {
		ops += len(c.ops)
	}
	if ops > 0 {
		if err := w.store.Update(ctx, w.by, func(tx *store.Tx) error {
			for _, c := range batch {
				for _, op := range c.ops {
					if err := op(ctx, tx); err != nil {
						return err
					}
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	for _, c := range batch {
		if c.kept != nil {
			c.kept()
		}
	}
	return nil
}
