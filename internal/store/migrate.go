package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewerSchema is returned by Open for a database that a newer reseal wrote.
var ErrNewerSchema = errors.New("the database has a newer schema than this reseal knows")

// dialect makes PostgreSQL of a migration. Text is compared byte by byte in
// both, so that a listing has one order.
var dialect = strings.NewReplacer(" INTEGER ", " BIGINT ", " BLOB ", " BYTEA ", " TEXT ", ` TEXT COLLATE "C" `, ") WITHOUT ROWID", ")")

// schema returns the numbered migrations, in order.
func schema() ([]string, error) {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		if number, _, _ := strings.Cut(path.Base(name), "_"); number != fmt.Sprintf("%04d", i+1) {
			return nil, fmt.Errorf("migration %s is not number %d", name, i+1)
		}
	}
	return names, nil
}

// Version returns the number of the newest migration applied to the database,
// and of the newest this reseal knows.
func (s *Store) Version(ctx context.Context) (have, known int, err error) {
	names, err := schema()
	if err != nil {
		return 0, 0, err
	}
	have, err = s.version(ctx, s.read)
	return have, len(names), err
}

// Pending returns what Version does, of a database that is not open. It changes
// nothing.
func Pending(ctx context.Context, location string) (have, known int, err error) {
	s, err := connect(ctx, location, time.Now, false)
	if err != nil {
		return 0, 0, err
	}
	have, known, err = s.Version(ctx)
	return have, known, errors.Join(err, s.Close())
}

// version reads the version of the schema; 0: there is none.
func (s *Store) version(ctx context.Context, q querier) (version int, err error) {
	query := `PRAGMA user_version`
	if s.postgres {
		query = postgresVersion
	}
	err = q.QueryRowContext(ctx, query).Scan(&version)
	if s.postgres && missingTable(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("database %s cannot be read: %w", s.location, err)
	}
	return version, nil
}

// migrate applies the migrations that are missing, each in a transaction of its
// own.
func (s *Store) migrate(ctx context.Context, create bool) error {
	names, err := schema()
	if err != nil {
		return err
	}
	have, err := s.version(ctx, s.write)
	switch {
	case err != nil:
		return err
	case have > len(names):
		return fmt.Errorf("%w: %s has version %d, this reseal knows %d: use the newer reseal", ErrNewerSchema, s.location, have, len(names))
	case create && have > 0:
		return fmt.Errorf("database %s exists already: choose another place, or work with the one that is there", s.location)
	case s.postgres && !create && have == 0:
		return fmt.Errorf("reseal has no tables in the database %s: run \"reseal init\" first, or name the right one with --db", s.location)
	}
	for n := have; n < len(names); n++ {
		tx, err := s.write.BeginTx(ctx, nil)
		if err != nil {
			return failed(err)
		}
		err = s.apply(ctx, tx, names[n], n, create)
		if err == nil {
			err = failed(tx.Commit())
		}
		if err != nil {
			_ = tx.Rollback()
			return fmt.Errorf("migrating %s with %s: %w", s.location, names[n], err)
		}
	}
	return nil
}

// apply takes the schema from version n to the next, unless another process has
// done it meanwhile.
func (s *Store) apply(ctx context.Context, tx *sql.Tx, name string, n int, create bool) error {
	body, err := fs.ReadFile(migrations, name)
	if err != nil {
		return err
	}
	if s.postgres {
		if _, err := tx.ExecContext(ctx, lockMigrations); err != nil {
			return failed(err)
		}
	}
	have, err := s.versionIn(ctx, tx)
	switch {
	case err != nil:
		return err
	case have > n && create:
		return errors.New("reseal has tables there already: choose another place")
	case have > n:
		return nil
	}
	text := string(body)
	if s.postgres {
		text = dialect.Replace(text) + setPostgresVersion(n+1)
	} else {
		text += "\nPRAGMA user_version = " + strconv.Itoa(n+1)
	}
	_, err = tx.ExecContext(ctx, text)
	return failed(err)
}

// versionIn reads the version within a transaction, which a missing table would
// end.
func (s *Store) versionIn(ctx context.Context, tx *sql.Tx) (int, error) {
	if s.postgres {
		var there bool
		if err := tx.QueryRowContext(ctx, postgresVersioned).Scan(&there); err != nil || !there {
			return 0, err
		}
	}
	return s.version(ctx, tx)
}
