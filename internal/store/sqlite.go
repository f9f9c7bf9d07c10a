package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// busyTimeout is how long one process waits for its turn to write. Whoever
// waits tries again and again, and may find others writing many times over.
const busyTimeout = time.Minute

const (
	// Memory of a connection does not grow with the database: 16 MiB for the
	// writer, whose transactions touch thousands of pages of the indexes by
	// digest, and the default of 2 MiB for each reader, which reads what the
	// system caches anyway. The write-ahead log may grow to 64 MiB before it is
	// copied into the database, so that a page written by every transaction of an
	// import is copied once. synchronous(full): a commit is on disk.
	writerPragmas = "_txlock=immediate&_pragma=journal_mode(wal)&_pragma=synchronous(full)&_pragma=cache_size(-16384)&_pragma=wal_autocheckpoint(16384)"
	readerPragmas = "mode=ro&_pragma=query_only(1)"
)

func (s *Store) connectSQLite(file string, create bool) (err error) {
	if create {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("database %s exists already: choose another place, or work with the one that is there", file)
		}
		if err != nil {
			return fmt.Errorf("creating database: %w", err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("creating database: %w", err)
		}
	} else {
		info, err := os.Stat(file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("there is no database at %s: run \"reseal init\" first, or name the right one with --db", file)
		case err != nil:
			return fmt.Errorf("opening database: %w", err)
		case info.Size() == 0:
			return fmt.Errorf("the database %s is empty: it was cut off; restore it from a backup", file)
		}
	}
	if s.write, err = sql.Open("sqlite", dsn(file, writerPragmas)); err != nil {
		return fmt.Errorf("opening database %s: %w", file, err)
	}
	s.write.SetMaxOpenConns(1)
	if s.read, err = sql.Open("sqlite", dsn(file, readerPragmas)); err != nil {
		return errors.Join(fmt.Errorf("opening database %s: %w", file, err), s.write.Close())
	}
	s.read.SetMaxOpenConns(4)
	return nil
}

func dsn(file, options string) string {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: file}).EscapedPath()}
	return fmt.Sprintf("%s?_pragma=busy_timeout(%d)&_pragma=foreign_keys(1)&%s", u.String(), busyTimeout.Milliseconds(), options)
}

func busySQLite(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_BUSY && !errors.Is(err, context.Canceled)
}

// fullSQLite reports whether an error means that a file could not be written, as
// when the disk is full.
func fullSQLite(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_FULL || e.Code()&0xff == sqlite3.SQLITE_IOERR)
}

// corruptSQLite reports whether an error means that the file is no whole database.
func corruptSQLite(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_CORRUPT || e.Code()&0xff == sqlite3.SQLITE_NOTADB)
}
