// Package store keeps the inventory, the plans and the journal in one SQL
// database: SQLite, the embedded default, or PostgreSQL, when more than one
// machine works. What callers see is the same.
//
// There is one way to change anything: Update, which takes who and why and
// commits the change together with its journal entries or not at all. A change
// without a journal entry does not commit. What Update has returned from is on
// disk. Any number of processes may work with one database: updates are serial.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Store is an open database. It is safe for concurrent use.
type Store struct {
	location string // without its password
	postgres bool
	write    *sql.DB // one connection: there is one writer
	read     *sql.DB
	known    *sql.Stmt // see isKnown
	now      func() time.Time
	enc      *zstd.Encoder
	dec      *zstd.Decoder

	// few is how many candidates are read and sorted for one page, where an index
	// gives them in another order.
	few int

	// documents and inOneGo are how many are held against the journal at once.
	documents int
	inOneGo   uint64

	silence atomic.Int64 // milliseconds that an update may be silent, with PostgreSQL

	mu      sync.Mutex
	signers map[string]struct{} // some of those that have a row; none ever loses it
}

// Create makes a new database and refuses one that exists. location is the name
// of a file, or the postgres:// URL of a database that reseal has no tables in.
func Create(ctx context.Context, location string, now func() time.Time) (*Store, error) {
	s, err := connect(ctx, location, now, true)
	if err != nil {
		return nil, err
	}
	return s.ready(ctx, true)
}

// Open opens a database, which must exist, and brings its schema up to date. A
// database of a newer schema is refused untouched (ErrNewerSchema). location is
// as for Create. now gives the time that journal entries carry.
func Open(ctx context.Context, location string, now func() time.Time) (*Store, error) {
	s, err := connect(ctx, location, now, false)
	if err != nil {
		return nil, err
	}
	return s.ready(ctx, false)
}

func connect(ctx context.Context, location string, now func() time.Time, create bool) (*Store, error) {
	s := &Store{now: now, location: Redact(location), postgres: isPostgres(location), few: 10_000, documents: documentsAtOnce, inOneGo: inOneGo, signers: map[string]struct{}{}}
	s.SetSilence(silence)
	var err error
	// What goes in and out of the vault is small; a window of a megabyte bounds
	// the memory.
	if s.enc, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20)); err != nil {
		return nil, fmt.Errorf("vault compression: %w", err)
	}
	if s.dec, err = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxVaultItem), zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true)); err != nil {
		return nil, fmt.Errorf("vault compression: %w", err)
	}
	if s.postgres {
		err = s.connectPostgres(ctx, location)
	} else {
		err = s.connectSQLite(location, create)
	}
	if err != nil {
		s.dec.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) ready(ctx context.Context, create bool) (*Store, error) {
	if err := s.migrate(ctx, create); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	var err error
	if s.known, err = s.read.PrepareContext(ctx, isKnown); err != nil {
		return nil, errors.Join(failed(err), s.Close())
	}
	return s, nil
}

// Close releases the database.
func (s *Store) Close() error {
	s.dec.Close()
	return errors.Join(s.read.Close(), s.write.Close(), s.enc.Close())
}

// maxRemembered bounds how many signers are remembered to have a row.
const maxRemembered = 20_000

func (s *Store) remembers(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.signers[id]
	return ok
}

// remember takes note of signers that have a row for certain.
func (s *Store) remember(ids map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range ids {
		if len(s.signers) == maxRemembered {
			clear(s.signers)
		}
		s.signers[id] = struct{}{}
	}
}

// begin starts the one write transaction there is at a time. release is called
// when it is over. conn is its connection, with PostgreSQL.
func (s *Store) begin(ctx context.Context) (tx *sql.Tx, conn *sql.Conn, release func(), err error) {
	if !s.postgres {
		tx, err = s.write.BeginTx(ctx, nil)
		return tx, nil, func() {}, failed(err)
	}
	if conn, err = s.write.Conn(ctx); err != nil {
		return nil, nil, nil, failed(err)
	}
	release = func() { _ = conn.Close() }
	// A transaction that ends with its context would end in the middle of a
	// commit, and nobody would know how that went. Its statements have contexts
	// of their own.
	tx, err = conn.BeginTx(context.WithoutCancel(ctx), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err == nil {
		if _, err = tx.ExecContext(ctx, lockWriters, strconv.FormatInt(s.silence.Load(), 10)); err != nil {
			_ = tx.Rollback()
		}
	}
	if err != nil {
		release()
		return nil, nil, nil, failed(err)
	}
	return tx, conn, release, nil
}

// ErrOutcomeUnknown is returned by Update when the connection was lost while
// the database was committing: the update is recorded in whole or not at all.
var ErrOutcomeUnknown = errors.New("the connection was lost while committing, and it is not known whether this was recorded: see \"reseal journal show\" before doing it again")

// failed says of an error of the database what to do about it.
func failed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), lostPostgres(err):
		return fmt.Errorf("database: the connection was lost and nothing of this is recorded: run it again when the database answers: %w", err)
	case fullSQLite(err):
		return fmt.Errorf("database: it could not be read or written, and nothing of this is recorded: is the disk full? make room and run it again: %w", err)
	case busySQLite(err):
		return fmt.Errorf("database: another process has been writing for %v: run it again when that is done: %w", busyTimeout, err)
	}
	return fmt.Errorf("database: %w", err)
}
