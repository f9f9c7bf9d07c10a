package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// cluster is a PostgreSQL server of this test run's own.
type cluster struct {
	base  string // URL of its one database
	dir   string
	stdin io.Closer // closed, or lost with this process: the server ends
	done  <-chan error
	tests atomic.Int64
}

// secret is the password of the cluster. No error may have it.
const secret = "pa55-of-the-cluster"

// postgres is started by the first test that needs it and stopped by TestMain.
var postgres struct {
	sync.Once
	*cluster
	err error
}

// newPostgres returns the URL of an empty database: a schema of its own.
func newPostgres(t *testing.T) string {
	t.Helper()
	postgres.Do(func() { postgres.cluster, postgres.err = startCluster() })
	if errors.Is(postgres.err, errNoPostgres) {
		t.Skip(postgres.err)
	}
	must(t, postgres.err)
	schema := fmt.Sprintf("test_%d", postgres.tests.Add(1))
	asAdmin(t, `CREATE SCHEMA `+schema)
	return postgres.base + "?search_path=" + schema
}

// asAdmin runs one statement beside reseal.
func asAdmin(t *testing.T, statement string) {
	t.Helper()
	db, err := sql.Open("pgx", postgres.base)
	must(t, err)
	defer db.Close()
	_, err = db.ExecContext(t.Context(), statement)
	must(t, err)
}

func createPostgres(t *testing.T) *Store {
	t.Helper()
	return create(t, newPostgres(t))
}

var errNoPostgres = errors.New("PostgreSQL 15 is not installed (apt-get install postgresql-15) and only root can install it")

const postgresBin = "/usr/lib/postgresql/15/bin"

func installPostgres() error {
	if _, err := os.Stat(postgresBin); err == nil {
		return nil
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		return errNoPostgres
	}
	// Debian's package would start a server of its own.
	if err := os.MkdirAll("/etc/postgresql-common", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile("/etc/postgresql-common/createcluster.conf", []byte("create_main_cluster = false\n"), 0o644); err != nil {
		return err
	}
	for _, args := range [][]string{{"update"}, {"install", "-y", "--no-install-recommends", "postgresql-15"}} {
		cmd := exec.Command(apt, args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", cmd, err, out)
		}
	}
	return nil
}

// startCluster starts a server on a free port of the loopback address. Its
// default collation is not the order of bytes, so that text which is not
// compared byte by byte stands out.
func startCluster() (_ *cluster, err error) {
	if err := installPostgres(); err != nil {
		return nil, err
	}
	c := &cluster{}
	if c.dir, err = os.MkdirTemp("", "reseal-postgres-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(c.dir))
		}
	}()
	as := &syscall.SysProcAttr{}
	if os.Geteuid() == 0 { // it refuses to run as root
		who, err := user.Lookup("postgres")
		if err != nil {
			return nil, err
		}
		uid, _ := strconv.ParseUint(who.Uid, 10, 32)
		gid, _ := strconv.ParseUint(who.Gid, 10, 32)
		as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := errors.Join(os.Chown(c.dir, int(uid), int(gid)), os.Chmod(c.dir, 0o755)); err != nil {
			return nil, err
		}
	}
	password := filepath.Join(c.dir, "password")
	if err := os.WriteFile(password, []byte(secret), 0o644); err != nil {
		return nil, err
	}
	init := exec.Command(postgresBin+"/initdb", "-D", c.dir+"/data", "-U", "reseal", "-A", "scram-sha-256", "--pwfile", password, "--no-sync", "-E", "UTF8",
		"--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US")
	init.SysProcAttr, init.Dir = as, c.dir
	if out, err := init.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", init, err, out)
	}
	for range 3 { // somebody else may take the port first
		if err = c.serve(as); err == nil {
			return c, nil
		}
	}
	return nil, err
}

func (c *cluster) serve(as *syscall.SysProcAttr) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if err := l.Close(); err != nil {
		return err
	}
	var log bytes.Buffer
	// The shell outlives this process, however that ends, and takes the server along.
	cmd := exec.Command("/bin/sh", "-c", `"$@" </dev/null & server=$!; cat >/dev/null; kill -INT $server; wait $server`, "sh",
		postgresBin+"/postgres", "-D", c.dir+"/data", "-k", c.dir, "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200")
	cmd.SysProcAttr, cmd.Dir, cmd.Stdout, cmd.Stderr = as, c.dir, &log, &log
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	c.done = done
	c.base = (&url.URL{Scheme: "postgres", User: url.UserPassword("reseal", secret), Host: "127.0.0.1:" + port, Path: "/postgres"}).String()
	db, err := sql.Open("pgx", c.base)
	if err != nil {
		return err
	}
	defer db.Close()
	for range 300 {
		if err = db.Ping(); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.Join(fmt.Errorf("the server does not answer: %w", err), c.stop(), fmt.Errorf("its log:\n%s", log.String()))
}

func (c *cluster) stop() error {
	err := c.stdin.Close()
	select {
	case <-c.done: // the shell says how a signal ended it, which is what was asked for
	case <-time.After(30 * time.Second):
		err = errors.Join(err, errors.New("the server does not stop"))
	}
	return err
}

// stopPostgres ends the server of this run, if there is one.
func stopPostgres() error {
	if postgres.cluster == nil {
		return nil
	}
	return errors.Join(postgres.stop(), os.RemoveAll(postgres.dir))
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	suite(t, createPostgres)
}

// TestPostgresSecrets makes every error that a location can cause: none has the
// password.
func TestPostgresSecrets(t *testing.T) {
	t.Parallel()
	base := newPostgres(t)
	ctx := t.Context()
	u, err := url.Parse(base)
	must(t, err)
	change := func(fn func(*url.URL)) string {
		v := *u
		fn(&v)
		return v.String()
	}
	for _, tc := range []struct{ name, location, says string }{
		{"no tables yet", base, "reseal init"},
		{"another password", change(func(v *url.URL) { v.User = url.UserPassword("reseal", secret+"x") }), "password authentication failed"},
		{"another user", change(func(v *url.URL) { v.User = url.UserPassword("mallory", secret) }), "password authentication failed"},
		{"another database", change(func(v *url.URL) { v.Path = "/none" }), "none"},
		{"nobody answers", change(func(v *url.URL) { v.Host = "127.0.0.1:1" }), "127.0.0.1:1"},
		{"no host of that name", change(func(v *url.URL) { v.Host = "none.invalid:5432" }), "none.invalid"},
		{"no such option", base + "&sslmode=maybe&password=" + secret, "postgres://USER@HOST"},
		{"a port that is none", "postgres://reseal:" + secret + "@127.0.0.1:port/postgres", "postgres://USER@HOST"},
		{"no URL", "postgres://reseal:" + secret + "@[::1/postgres%zz", "postgres://USER@HOST"},
		{"the other scheme", strings.Replace(base, "postgres://", "postgresql://", 1), "reseal init"},
	} {
		for what, open := range map[string]func() error{
			"opening": func() error { _, err := Open(ctx, tc.location, clock()); return err },
			"asking":  func() error { _, _, err := Pending(ctx, tc.location); return err },
		} {
			err := open()
			if what == "asking" && strings.Contains(tc.says, "reseal init") {
				must(t, err)
				continue
			}
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s, %s: got %v, want %q", tc.name, what, err, tc.says)
			} else if strings.Contains(err.Error(), secret) {
				t.Errorf("%s, %s: the password is in the error: %v", tc.name, what, err)
			}
		}
	}
	wantEqual(t, "redacted", Redact("postgresql://u:"+secret+"@h:5432/db?password="+secret), "postgres://u@h:5432/db")
	wantEqual(t, "redacted", Redact("postgres://u:"+secret+"@[::1/db"), "postgres://...")
	wantEqual(t, "a file", Redact("/var/lib/reseal.db"), "/var/lib/reseal.db")

	have, known, err := Pending(ctx, base)
	must(t, err)
	wantEqual(t, "pending", have < known, true)
	s, err := Create(ctx, base, clock())
	must(t, err)
	must(t, s.Close())
	if _, err := Create(ctx, base, clock()); err == nil || !strings.Contains(err.Error(), "exists already") || strings.Contains(err.Error(), secret) {
		t.Errorf("creating over a database: got %v", err)
	}
	have, known, err = Pending(ctx, base)
	must(t, err)
	wantEqual(t, "pending", have, known)
	again, err := Open(ctx, base, clock())
	must(t, err)
	must(t, again.Close())
}

func TestPostgresNewerSchema(t *testing.T) {
	t.Parallel()
	s := createPostgres(t)
	_, err := s.write.ExecContext(t.Context(), `INSERT INTO reseal_schema (version) VALUES (999)`)
	must(t, err)
	if err := s.migrate(t.Context(), false); !errors.Is(err, ErrNewerSchema) || !strings.Contains(err.Error(), "999") {
		t.Errorf("got %v, want ErrNewerSchema with the version", err)
	}
}

// TestPostgresEncoding refuses a database that holds no Unicode.
func TestPostgresEncoding(t *testing.T) {
	t.Parallel()
	base := newPostgres(t)
	asAdmin(t, `CREATE DATABASE latin ENCODING LATIN1 LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0`)
	if _, err := Create(t.Context(), strings.Replace(base, "/postgres?", "/latin?", 1), clock()); err == nil || !strings.Contains(err.Error(), "UTF8") {
		t.Errorf("got %v, want it refused with advice", err)
	}
}

// TestPostgresDurable finds a server that was told to answer before a commit is
// on disk.
func TestPostgresDurable(t *testing.T) {
	t.Parallel()
	s := create(t, newPostgres(t)+"&synchronous_commit=off")
	must(t, s.Update(t.Context(), by, func(tx *Tx) error {
		var setting string
		must(t, row(t.Context(), tx.tx, []any{&setting}, `SHOW synchronous_commit`))
		wantEqual(t, "synchronous_commit of an update", setting, "on")
		return nil
	}))
}

// TestPostgresReadOnly cannot change anything but in an update.
func TestPostgresReadOnly(t *testing.T) {
	t.Parallel()
	s := createPostgres(t)
	if _, err := s.read.ExecContext(t.Context(), `DELETE FROM journal`); err == nil {
		t.Error("a reader deleted the journal")
	}
}

// TestPostgresMaintained vacuums the journal while updates are committed: they
// do not wait for each other.
func TestPostgresMaintained(t *testing.T) {
	t.Parallel()
	s := createPostgres(t)
	must(t, s.Update(t.Context(), by, func(tx *Tx) error {
		if err := tx.PutDocument(t.Context(), KindPlan, "p", "test.put", nil); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		other, err := sql.Open("pgx", locationOf(s))
		must(t, err)
		defer other.Close()
		_, err = other.ExecContext(ctx, `VACUUM journal`)
		return err
	}))
	putDocument(t, s, KindPlan, "q", "")
}

// locationOf returns the whole location of a store, with its password.
func locationOf(s *Store) string {
	var schema string
	if err := s.read.QueryRow(`SELECT current_schema()`).Scan(&schema); err != nil {
		panic(err)
	}
	return postgres.base + "?search_path=" + schema
}

// TestPostgresLost loses the connection in the middle of an update: nothing is
// recorded, the error says so, and the next update goes well.
func TestPostgresLost(t *testing.T) {
	t.Parallel()
	s := createPostgres(t)
	err := s.Update(t.Context(), by, func(tx *Tx) error {
		if err := tx.PutDocument(t.Context(), KindPlan, "lost", "test.put", nil); err != nil {
			return err
		}
		var pid int
		must(t, row(t.Context(), tx.tx, []any{&pid}, `SELECT pg_backend_pid()`))
		asAdmin(t, fmt.Sprintf(`SELECT pg_terminate_backend(%d, 10000)`, pid))
		return tx.PutDocument(t.Context(), KindPlan, "never", "test.put", nil)
	})
	if err == nil || !strings.Contains(err.Error(), "nothing of this is recorded") || errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("got %v, want it said that nothing is recorded", err)
	}
	putDocument(t, s, KindPlan, "next", "")
	ids, err := s.DocumentIDs(t.Context(), KindPlan, "")
	must(t, err)
	wantEqual(t, "documents", ids, []string{"next"})
	checkStore(t, s)
}

// TestPostgresSilent has a process fall silent in the middle of an update, as one
// that is paused: the others go on, and nothing of it is recorded.
func TestPostgresSilent(t *testing.T) {
	t.Parallel()
	s := createPostgres(t)
	other, err := Open(t.Context(), locationOf(s), clock())
	must(t, err)
	defer other.Close()
	s.SetSilence(0) // a second is the least
	err = s.Update(t.Context(), by, func(tx *Tx) error {
		if err := tx.PutDocument(t.Context(), KindPlan, "silent", "test.put", nil); err != nil {
			return err
		}
		putDocument(t, other, KindPlan, "meanwhile", "")
		return tx.PutDocument(t.Context(), KindPlan, "late", "test.put", nil)
	})
	if err == nil || errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("got %v, want it known that nothing is recorded", err)
	}
	putDocument(t, s, KindPlan, "next", "")
	ids, err := other.DocumentIDs(t.Context(), KindPlan, "")
	must(t, err)
	wantEqual(t, "documents", ids, []string{"meanwhile", "next"})
	checkStore(t, other)
}

// TestPostgresCommitLost loses the answer to a commit, and the commit itself:
// in both cases nobody can say whether it is recorded.
func TestPostgresCommitLost(t *testing.T) {
	t.Parallel()
	for name, answered := range map[string]bool{"the answer": true, "the question": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			location := newPostgres(t)
			direct := create(t, location)
			s, err := Open(t.Context(), cutAtCommit(t, location, answered), clock())
			must(t, err)
			defer s.Close()
			err = s.Update(t.Context(), by, func(tx *Tx) error {
				return tx.PutDocument(t.Context(), KindPlan, "p", "test.put", nil)
			})
			if !errors.Is(err, ErrOutcomeUnknown) || !strings.Contains(err.Error(), "journal show") {
				t.Errorf("got %v, want it said that the outcome is unknown, and what to do", err)
			}
			ids, err := direct.DocumentIDs(t.Context(), KindPlan, "")
			must(t, err)
			if answered {
				wantEqual(t, "documents", ids, []string{"p"})
			} else {
				wantEqual(t, "documents", len(ids), 0)
			}
			checkStore(t, direct)
		})
	}
}

// cutAtCommit returns the location of a server through a connection that ends
// when a commit is sent: after it has reached the server, or before.
func cutAtCommit(t *testing.T, location string, deliver bool) string {
	t.Helper()
	u, err := url.Parse(location)
	must(t, err)
	server := u.Host
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go relay(client, server, deliver)
		}
	}()
	u.Host = l.Addr().String()
	return u.String()
}

func relay(client net.Conn, server string, deliver bool) {
	defer client.Close()
	upstream, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer upstream.Close()
	var mu sync.Mutex
	cut := false
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := upstream.Read(buf)
			mu.Lock()
			dead := cut
			mu.Unlock()
			if dead || err != nil {
				client.Close()
				return
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if bytes.Contains(buf[:n], []byte("commit\x00")) {
			mu.Lock()
			cut = true
			mu.Unlock()
			if deliver {
				_, _ = upstream.Write(buf[:n])
				time.Sleep(500 * time.Millisecond) // it is carried out
			}
			return
		}
		if _, err := upstream.Write(buf[:n]); err != nil {
			return
		}
	}
}

// TestPostgresCancelled waits for another writer no longer than it may.
func TestPostgresCancelled(t *testing.T) {
	t.Parallel()
	s := createPostgres(t)
	must(t, s.Update(t.Context(), by, func(*Tx) error {
		other, err := Open(t.Context(), locationOf(s), clock())
		must(t, err)
		defer other.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := other.Update(ctx, by, func(*Tx) error { t.Error("two write at once"); return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want it to have waited long enough", err)
		}
		return nil
	}))
	putDocument(t, s, KindPlan, "next", "")
}
