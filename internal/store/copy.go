package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"
)

// tables are all tables, those that others refer to first.
var tables = []string{"signers", "artifacts", "tags", "signatures", "bounds", "copies", "renamed", "problems", "scans", "records",
	"vault", "documents", "plan_items", "reissues", "shards", "journal", "journal_hashes"}

// CopyTo copies the whole database, as it is at one moment and while others
// work with it, to another location: a file that does not exist, or the
// postgres:// URL of a database that reseal has no tables in. The copy is there
// in whole or not at all.
func (s *Store) CopyTo(ctx context.Context, location string) error {
	var err error
	if isPostgres(location) {
		err = s.copyToPostgres(ctx, location)
	} else {
		err = s.copyToFile(ctx, location)
	}
	if err != nil {
		return fmt.Errorf("copying the database to %s: %w", Redact(location), err)
	}
	return nil
}

func (s *Store) copyToFile(ctx context.Context, file string) (err error) {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = errors.New("it exists already: choose another place")
		}
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	made := filepath.Join(dir, "copy.db")
	if s.postgres {
		err = s.copyRowsToFile(ctx, made)
	} else {
		err = s.backup(ctx, made)
	}
	if err != nil {
		return err
	}
	if err := syncPath(made); err != nil {
		return err
	}
	// A link, unlike a renaming, replaces nothing that has come there meanwhile.
	if err := os.Link(made, file); errors.Is(err, fs.ErrExist) {
		return err
	} else if err != nil { // not every file system has links
		if err := os.Rename(made, file); err != nil {
			return err
		}
	}
	return syncPath(filepath.Dir(file))
}

// syncPath makes a file or a directory durable.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// backup copies one SQLite file to another, page by page.
func (s *Store) backup(ctx context.Context, file string) (err error) {
	conn, err := s.read.Conn(ctx)
	if err != nil {
		return failed(err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	// Within one transaction the pages are of one moment, whoever writes
	// meanwhile, and the backup does not start over.
	tx, err := conn.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return failed(err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	if _, err := s.version(ctx, tx); err != nil {
		return err
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	return conn.Raw(func(c any) error {
		from, ok := c.(interface {
			NewBackup(string) (*sqlite.Backup, error)
		})
		if !ok {
			return fmt.Errorf("a connection of type %T makes no backups", c)
		}
		b, err := from.NewBackup(dsn(file, ""))
		if err != nil {
			return failed(err)
		}
		for more := true; more; {
			if err := ctx.Err(); err != nil {
				return errors.Join(err, b.Finish())
			}
			if more, err = b.Step(4096); err != nil {
				return errors.Join(failed(err), b.Finish())
			}
		}
		return failed(b.Finish())
	})
}

// copyRowsToFile copies all rows to a new SQLite file, which nobody else sees
// before it is whole.
func (s *Store) copyRowsToFile(ctx context.Context, file string) (err error) {
	to, err := Create(ctx, file, time.Now)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	return s.eachTable(ctx, func(table string, columns []string, next func() ([]any, error)) error {
		for {
			if more, err := insertRows(ctx, to.write, table, columns, next); err != nil || !more {
				return err
			}
		}
	})
}

// insertRows inserts as many rows as one transaction should have, and reports
// whether more may follow.
func insertRows(ctx context.Context, db *sql.DB, table string, columns []string, next func() ([]any, error)) (more bool, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, failed(err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	marks := make([]string, len(columns))
	for i := range marks {
		marks[i] = fmt.Sprintf("$%d", i+1)
	}
	stmt, err := tx.PrepareContext(ctx, `INSERT INTO `+table+` (`+strings.Join(columns, ", ")+`) VALUES (`+strings.Join(marks, ", ")+`)`)
	if err != nil {
		return false, failed(err)
	}
	for range 20_000 {
		values, err := next()
		if errors.Is(err, io.EOF) {
			return false, failed(tx.Commit())
		}
		if err != nil {
			return false, err
		}
		if _, err := stmt.ExecContext(context.WithoutCancel(ctx), values...); err != nil {
			return false, failed(err)
		}
	}
	return true, failed(tx.Commit())
}

func (s *Store) copyToPostgres(ctx context.Context, location string) (err error) {
	to, err := connect(ctx, location, time.Now, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	conn, err := to.write.Conn(ctx)
	if err != nil {
		return failed(err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return failed(err)
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	names, err := schema()
	if err != nil {
		return err
	}
	for n, name := range names {
		if err := to.apply(ctx, tx, name, n, true); err != nil {
			return err
		}
	}
	if err := s.eachTable(ctx, func(table string, columns []string, next func() ([]any, error)) error {
		return conn.Raw(func(c any) error {
			_, err := c.(*stdlib.Conn).Conn().CopyFrom(ctx, pgx.Identifier{table}, columns, pgx.CopyFromFunc(func() ([]any, error) {
				values, err := next()
				if errors.Is(err, io.EOF) {
					return nil, nil
				}
				return values, err
			}))
			return err
		})
	}); err != nil {
		return err
	}
	return failed(tx.Commit())
}

// eachTable runs fn on every table, in one state of the database. next yields
// the values of a row, which are valid until the one after, then io.EOF.
func (s *Store) eachTable(ctx context.Context, fn func(table string, columns []string, next func() ([]any, error)) error) error {
	return s.view(ctx, func(db querier) error {
		for _, table := range tables {
			if err := eachRow(ctx, db, table, fn); err != nil {
				return fmt.Errorf("table %s: %w", table, err)
			}
		}
		return nil
	})
}

func eachRow(ctx context.Context, db querier, table string, fn func(string, []string, func() ([]any, error)) error) (err error) {
	rows, err := db.QueryContext(ctx, `SELECT * FROM `+table)
	if err != nil {
		return failed(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	types, err := rows.ColumnTypes()
	if err != nil {
		return failed(err)
	}
	columns, values, into := make([]string, len(types)), make([]any, len(types)), make([]any, len(types))
	for i, t := range types {
		columns[i] = t.Name()
		switch t.DatabaseTypeName() {
		case "TEXT":
			into[i] = new(string)
		case "INTEGER", "BIGINT", "INT8":
			into[i] = new(int64)
		case "BOOLEAN", "BOOL":
			into[i] = new(bool)
		case "BLOB", "BYTEA":
			into[i] = new([]byte)
		default:
			return fmt.Errorf("column %s has the type %s, which cannot be copied", t.Name(), t.DatabaseTypeName())
		}
	}
	return fn(table, columns, func() ([]any, error) {
		if !rows.Next() {
			if err := rows.Err(); err != nil {
				return nil, failed(err)
			}
			return nil, io.EOF
		}
		if err := rows.Scan(into...); err != nil {
			return nil, failed(err)
		}
		for i := range into {
			switch v := into[i].(type) {
			case *string:
				values[i] = *v
			case *int64:
				values[i] = *v
			case *bool:
				values[i] = *v
			case *[]byte:
				values[i] = *v
			}
		}
		return values, nil
	})
}
