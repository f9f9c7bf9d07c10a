package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// lockWriters makes updates serial, as they are in SQLite. It is an advisory
	// lock of the journal's, in whatever schema that is: a lock of the table would
	// stop and be stopped by its maintenance. Whoever has it, or waits for it, and
	// is silent for too long in the middle of the transaction loses both: a machine
	// that is paused or cut off must not stop all others.
	lockWriters = `SELECT set_config('idle_in_transaction_session_timeout', $1, TRUE), pg_advisory_xact_lock('journal'::regclass::oid::bigint)`

	// lockMigrations does it before there is a journal. The number is "reseal".
	lockMigrations = `SELECT pg_advisory_xact_lock(125779768702316)`

	postgresVersioned = `SELECT to_regclass('reseal_schema') IS NOT NULL`
	postgresVersion   = `SELECT COALESCE(MAX(version), 0) FROM reseal_schema`

	// durable undoes what a server may have been told: that a commit need not be
	// on disk when it is answered.
	durable = `SELECT set_config('synchronous_commit', 'on', FALSE) WHERE current_setting('synchronous_commit') = 'off'`
)

// silence is how long an update may be silent. Making a plan of a large inventory
// reads for a while between two lines.
const silence = 2 * time.Minute

// SetSilence bounds, from the next update on, how long one may take between two
// statements before PostgreSQL takes its process for dead and rolls it back.
func (s *Store) SetSilence(d time.Duration) { s.silence.Store(max(d, time.Second).Milliseconds()) }

func setPostgresVersion(n int) string {
	text := fmt.Sprintf("\nINSERT INTO reseal_schema (version) VALUES (%d);", n)
	if n == 1 {
		text = "\nCREATE TABLE reseal_schema (version BIGINT PRIMARY KEY);" + text
	}
	return text
}

func isPostgres(location string) bool {
	return strings.HasPrefix(location, "postgres://") || strings.HasPrefix(location, "postgresql://")
}

// Redact returns a location of a database without its password, fit for a
// message.
func Redact(location string) string {
	if !isPostgres(location) {
		return location
	}
	u, err := url.Parse(location)
	if err != nil {
		return "postgres://..."
	}
	out := url.URL{Scheme: "postgres", Host: u.Host, Path: u.Path}
	if name := u.User.Username(); name != "" {
		out.User = url.User(name)
	}
	return out.String()
}

func (s *Store) connectPostgres(ctx context.Context, location string) error {
	config, err := pgx.ParseConfig(location)
	if err != nil {
		// The error may quote the URL, and with it the password.
		return fmt.Errorf("the location of the database cannot be read: write it as postgres://USER@HOST:PORT/DATABASE, its password in PGPASSWORD or ~/.pgpass")
	}
	config.RuntimeParams["jit"] = "off" // compiling takes longer than any query here
	reader := config.Copy()
	reader.RuntimeParams["default_transaction_read_only"] = "on"
	s.write = stdlib.OpenDB(*config, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, durable)
		return err
	}))
	s.write.SetMaxOpenConns(1)
	s.read = stdlib.OpenDB(*reader)
	s.read.SetMaxOpenConns(4)
	var encoding string
	err = s.read.QueryRowContext(ctx, `SHOW server_encoding`).Scan(&encoding)
	switch {
	case err != nil:
		err = fmt.Errorf("connecting to the database %s: %w", s.location, err)
	case encoding != "UTF8":
		err = fmt.Errorf("the database %s has the encoding %s: make one with UTF8 (createdb -E UTF8)", s.location, encoding)
	default:
		return nil
	}
	return errors.Join(err, s.read.Close(), s.write.Close())
}

// ErrNotPostgres is returned for what only PostgreSQL can do.
var ErrNotPostgres = errors.New("the database is a file: several machines share one in PostgreSQL (\"reseal db backup URL\" copies this one there, --db URL works with it)")

// Postgres runs fn within this transaction, as pgx knows it, for a queue that
// keeps its jobs in the same database: what fn does is committed together with
// the rest or not at all. It is no way around the journal: fn must not touch a
// table of reseal's. Where the database is not PostgreSQL it returns
// ErrNotPostgres.
func (t *Tx) Postgres(fn func(pgx.Tx) error) error {
	if t.conn == nil {
		return ErrNotPostgres
	}
	return t.conn.Raw(func(c any) error { return fn(sharedTx{c.(*stdlib.Conn).Conn()}) })
}

type connection = pgx.Conn

// sharedTx is a transaction that Update alone begins and ends.
type sharedTx struct{ *connection }

var errShared = errors.New("database: the transaction is not for its user to begin or end")

func (t sharedTx) Begin(context.Context) (pgx.Tx, error) { return nil, errShared }
func (t sharedTx) Commit(context.Context) error          { return errShared }
func (t sharedTx) Rollback(context.Context) error        { return errShared }
func (t sharedTx) LargeObjects() pgx.LargeObjects        { return pgx.LargeObjects{} }
func (t sharedTx) Conn() *pgx.Conn                       { return t.connection }

func missingTable(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "42P01"
}

// lostPostgres reports whether an error means that the connection is gone.
func lostPostgres(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return strings.HasPrefix(answer.Code, "08") || strings.HasPrefix(answer.Code, "57P")
	}
	var network net.Error
	return errors.Is(err, driver.ErrBadConn) || errors.As(err, &network)
}

// committed says of an error of a commit what is known after it.
func (s *Store) committed(err error) error {
	var answer *pgconn.PgError
	if err == nil || !s.postgres || errors.Is(err, pgx.ErrTxCommitRollback) || errors.As(err, &answer) && !lostPostgres(err) {
		return failed(err)
	}
	return fmt.Errorf("database: %w: %w", ErrOutcomeUnknown, err)
}
