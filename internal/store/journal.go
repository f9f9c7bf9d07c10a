package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/reseal/reseal/journal"
	"golang.org/x/mod/sumdb/tlog"
)

// Update runs fn in a write transaction. Everything fn changes and every entry
// it records is committed together, or nothing is. fn must record at least one
// entry if it changes anything, and must not use the Tx after it returns.
func (s *Store) Update(ctx context.Context, by journal.Author, fn func(*Tx) error) error {
	if err := by.Check(); err != nil {
		return err
	}
	sqlTx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	defer func() { _ = sqlTx.Rollback() }() // after a commit it does nothing; a panic in fn must not keep the writer
	tx := &Tx{tx: sqlTx, store: s, by: by, now: s.now().UTC().Truncate(time.Second)}
	if err := tx.run(ctx, fn); err != nil {
		return err
	}
	if err := sqlTx.Commit(); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	return nil
}

// Tx is a write transaction in which everything changed is journaled.
type Tx struct {
	tx    *sql.Tx
	store *Store
	by    journal.Author
	now   time.Time

	changed  bool
	recorded []journal.Draft
}

func (t *Tx) run(ctx context.Context, fn func(*Tx) error) error {
	if err := fn(t); err != nil {
		return err
	}
	if t.changed && len(t.recorded) == 0 {
		return errors.New("database: a change without a journal entry was refused")
	}
	return t.appendJournal(ctx)
}

// Record adds an entry to the journal.
func (t *Tx) Record(d journal.Draft) { t.recorded = append(t.recorded, d) }

// exec changes rows and returns how many.
func (t *Tx) exec(ctx context.Context, query string, args ...any) (int64, error) {
	r, err := t.tx.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, fmt.Errorf("database: %w", err)
	}
	n, err := r.RowsAffected()
	t.changed = t.changed || n > 0
	return n, err
}

func (t *Tx) appendJournal(ctx context.Context) error {
	if len(t.recorded) == 0 {
		return nil
	}
	var next int64
	if err := t.tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(seq)+1, 0) FROM journal`).Scan(&next); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	// Hashes of this transaction are read back while it grows.
	fresh := map[int64]tlog.Hash{}
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, at := range indexes {
			if h, ok := fresh[at]; ok {
				out[i] = h
				continue
			}
			h, err := readHashes(ctx, t.tx, []int64{at})
			if err != nil {
				return nil, err
			}
			out[i] = h[0]
		}
		return out, nil
	})
	for _, d := range t.recorded {
		e := journal.Entry{Index: next, Time: t.now, Actor: t.by.Actor, Reason: t.by.Reason, Action: d.Action, Subject: d.Subject, Digest: d.Digest}
		body, err := e.Marshal()
		if err != nil {
			return err
		}
		hashes, err := tlog.StoredHashes(next, body, reader)
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		at := tlog.StoredHashIndex(0, next)
		for i, h := range hashes {
			fresh[at+int64(i)] = h
			if _, err := t.tx.ExecContext(ctx, `INSERT INTO journal_hashes (seq, hash) VALUES ($1, $2)`, at+int64(i), h[:]); err != nil {
				return fmt.Errorf("journal: %w", err)
			}
		}
		if _, err := t.tx.ExecContext(ctx, `INSERT INTO journal (seq, body) VALUES ($1, $2)`, next, string(body)); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		next++
	}
	return nil
}

// JournalCheckpoint returns what commits to the journal as it is now.
func (s *Store) JournalCheckpoint(ctx context.Context) (journal.Checkpoint, error) {
	var size int64
	if err := s.read.QueryRowContext(ctx, `SELECT COUNT(*) FROM journal`).Scan(&size); err != nil {
		return journal.Checkpoint{}, fmt.Errorf("journal: %w", err)
	}
	return s.JournalCheckpointAt(ctx, size)
}

// JournalCheckpointAt returns what commits to the first size entries of the
// journal, by its stored hashes.
func (s *Store) JournalCheckpointAt(ctx context.Context, size int64) (journal.Checkpoint, error) {
	root, err := tlog.TreeHash(size, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		return readHashes(ctx, s.read, indexes)
	}))
	if err != nil {
		return journal.Checkpoint{}, fmt.Errorf("journal: %w", err)
	}
	return journal.Checkpoint{Size: size, Root: root}, nil
}

func readHashes(ctx context.Context, q querier, indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		var raw []byte
		err := q.QueryRowContext(ctx, `SELECT hash FROM journal_hashes WHERE seq = $1`, at).Scan(&raw)
		if err == nil && len(raw) != tlog.HashSize {
			err = fmt.Errorf("%d bytes long", len(raw))
		}
		if err != nil {
			return nil, fmt.Errorf("journal hash %d: %w", at, err)
		}
		copy(out[i][:], raw)
	}
	return out, nil
}

// Journal returns a function that yields the entries from seq on, one a call,
// as their canonical bytes, then io.EOF.
func (s *Store) Journal(ctx context.Context, from int64) func() ([]byte, error) {
	var page [][]byte
	next := from
	return func() ([]byte, error) {
		if len(page) == 0 {
			var err error
			page, err = queryAll(ctx, s.read, scanBytes,
				`SELECT body FROM journal WHERE seq >= $1 ORDER BY seq LIMIT 1000`, next)
			if err != nil {
				return nil, fmt.Errorf("journal: %w", err)
			}
			if len(page) == 0 {
				return nil, io.EOF
			}
			next += int64(len(page))
		}
		line := page[0]
		page = page[1:]
		return line, nil
	}
}

func scanBytes(rows *sql.Rows) ([]byte, error) {
	var b []byte
	err := rows.Scan(&b)
	return b, err
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// queryAll runs a query whose result is known to be small: a page.
func queryAll[T any](ctx context.Context, q querier, scan func(*sql.Rows) (T, error), query string, args ...any) (out []T, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("database: %w", err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	return out, nil
}
