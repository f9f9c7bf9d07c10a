// Package store keeps the inventory, the plans and the journal in one SQL
// database. SQLite is the embedded default.
//
// There is one way to change anything: Update, which takes who and why and
// commits the change together with its journal entries or not at all. A change
// without a journal entry does not commit. What Update has returned from is on
// disk (synchronous=FULL).
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	_ "modernc.org/sqlite" // the database driver
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewerSchema is returned by Open for a database that a newer reseal wrote.
var ErrNewerSchema = errors.New("the database has a newer schema than this reseal knows")

// Store is an open database. It is safe for concurrent use.
type Store struct {
	write *sql.DB // one connection: SQLite has one writer
	read  *sql.DB
	now   func() time.Time
	enc   *zstd.Encoder
	dec   *zstd.Decoder
}

// Create makes a new database at file and refuses one that exists.
func Create(ctx context.Context, file string, now func() time.Time) (*Store, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("database %s exists already: choose another place, or work with the one that is there", file)
	}
	if err != nil {
		return nil, fmt.Errorf("creating database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("creating database: %w", err)
	}
	return open(ctx, file, now)
}

// Open opens the database at file, which must exist, and brings its schema up
// to date. A database of a newer schema is refused untouched (ErrNewerSchema).
// now gives the time that journal entries carry.
func Open(ctx context.Context, file string, now func() time.Time) (*Store, error) {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no database at %s: run \"reseal init\" first, or name the right one with --db", file)
	case err != nil:
		return nil, fmt.Errorf("opening database: %w", err)
	case info.Size() == 0:
		return nil, fmt.Errorf("the database %s is empty: it was cut off; restore it from a backup", file)
	}
	return open(ctx, file, now)
}

func open(ctx context.Context, file string, now func() time.Time) (*Store, error) {
	s := &Store{now: now}
	var err error
	if s.enc, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1)); err != nil {
		return nil, fmt.Errorf("vault compression: %w", err)
	}
	if s.dec, err = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxVaultItem)); err != nil {
		return nil, fmt.Errorf("vault compression: %w", err)
	}
	if s.write, err = sql.Open("sqlite", dsn(file, "_txlock=immediate&_pragma=journal_mode(wal)&_pragma=synchronous(full)")); err != nil {
		return nil, fmt.Errorf("opening database %s: %w", file, err)
	}
	s.write.SetMaxOpenConns(1)
	if err := s.migrate(ctx, file); err != nil {
		s.write.Close()
		return nil, err
	}
	if s.read, err = sql.Open("sqlite", dsn(file, "mode=ro&_pragma=query_only(1)")); err != nil {
		s.write.Close()
		return nil, fmt.Errorf("opening database %s: %w", file, err)
	}
	s.read.SetMaxOpenConns(4)
	return s, nil
}

// Close releases the database.
func (s *Store) Close() error {
	s.dec.Close()
	return errors.Join(s.read.Close(), s.write.Close(), s.enc.Close())
}

func dsn(file, options string) string {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: file}).EscapedPath()}
	return u.String() + "?_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)&" + options
}

// migrate applies the numbered migrations that are missing, each in a
// transaction of its own.
func (s *Store) migrate(ctx context.Context, file string) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	var version int
	if err := s.write.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
		return fmt.Errorf("database %s cannot be read: %w", file, err)
	}
	if version > len(names) {
		return fmt.Errorf("%w: %s has version %d, this reseal knows %d: use the newer reseal", ErrNewerSchema, file, version, len(names))
	}
	for n := version; n < len(names); n++ {
		if number, _, _ := strings.Cut(path.Base(names[n]), "_"); number != fmt.Sprintf("%04d", n+1) {
			return fmt.Errorf("migration %s is not number %d", names[n], n+1)
		}
		body, err := fs.ReadFile(migrations, names[n])
		if err != nil {
			return err
		}
		tx, err := s.write.BeginTx(ctx, nil)
		if err != nil {
			return fmt.Errorf("migrating %s: %w", file, err)
		}
		_, err = tx.ExecContext(ctx, string(body)+"\nPRAGMA user_version = "+strconv.Itoa(n+1))
		if err != nil {
			return errors.Join(fmt.Errorf("migrating %s with %s: %w", file, names[n], err), tx.Rollback())
		}
		if err := tx.Commit(); err != nil {
			return fmt.Errorf("migrating %s with %s: %w", file, names[n], err)
		}
	}
	return nil
}
