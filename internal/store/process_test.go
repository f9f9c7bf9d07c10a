package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/inventory"
)

// childEnv makes the test binary a writer, "NAME|LOCATION|COUNT|PAUSE", that
// prints the index of every update it has committed.
const childEnv = "RESEAL_TEST_WRITER"

func TestMain(m *testing.M) {
	if args := os.Getenv(childEnv); args != "" {
		if err := writer(strings.SplitN(args, "|", 4)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if err := stopPostgres(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// perUpdate is how many signatures a writer adds with each document.
const perUpdate = 5

func writer(args []string) error {
	ctx := context.Background()
	s, err := Open(ctx, args[1], time.Now)
	if err != nil {
		return err
	}
	count, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	pause, err := time.ParseDuration(args[3])
	if err != nil {
		return err
	}
	for n := range count {
		time.Sleep(pause)
		if err := s.Update(ctx, by, func(tx *Tx) error {
			return errors.Join(putSome(ctx, tx, args[0], n), tx.PutDocument(ctx, KindPlan, fmt.Sprintf("%s-%06d", args[0], n), "test.put", []byte("body")))
		}); err != nil {
			return err
		}
		fmt.Println(n)
	}
	return s.Close()
}

// putSome puts signatures that nobody else puts, with their bytes.
func putSome(ctx context.Context, tx *Tx, name string, n int) error {
	for i := range perUpdate {
		g := sig(art("registry.example/"+name, n), n*perUpdate+i, key(i))
		g.ID = fmt.Sprintf("%s-%d-%d", name, n, i)
		var err error
		if g.Content, err = tx.PutVault(ctx, []byte(g.ID)); err != nil {
			return err
		}
		if err := tx.PutSignature(ctx, g); err != nil {
			return err
		}
	}
	return nil
}

func child(t *testing.T, name, location string, count int, pause time.Duration) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%d|%v", childEnv, name, location, count, pause))
	cmd.Stderr = os.Stderr
	return cmd
}

func create(t *testing.T, location string) *Store {
	t.Helper()
	s, err := Create(t.Context(), location, clock())
	must(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// eachDatabase runs a test for both databases, with a location of its own.
func eachDatabase(t *testing.T, test func(t *testing.T, location string)) {
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		test(t, filepath.Join(t.TempDir(), "reseal.db"))
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		test(t, newPostgres(t))
	})
}

// checkStore wants nothing to be wrong in a database.
func checkStore(t *testing.T, s *Store) {
	t.Helper()
	found, err := s.Check(t.Context())
	must(t, err)
	wantEqual(t, "found in the database", found, []string(nil))
}

// wantWhole wants every update whole: for each document its signatures and two
// entries of the journal.
func wantWhole(t *testing.T, s *Store, atLeast int) {
	t.Helper()
	ids, err := s.DocumentIDs(t.Context(), KindPlan, "")
	must(t, err)
	if len(ids) < atLeast {
		t.Errorf("%d updates are there, %d were committed", len(ids), atLeast)
	}
	counts, err := s.Counts(t.Context())
	must(t, err)
	wantEqual(t, "size of the inventory", counts, Counts{Artifacts: int64(len(ids)), Signatures: int64(len(ids) * perUpdate)})
	wantEqual(t, "journal", size(t, s), int64(2*len(ids)))
	checkStore(t, s)
}

func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, location string) {
		s := create(t, location)
		const each = 25
		children := []*exec.Cmd{child(t, "a", location, each, 0), child(t, "b", location, each, 0)}
		for _, c := range children {
			must(t, c.Start())
		}
		for n := range each { // and this one
			do(t, s, func(tx *Tx) error {
				return errors.Join(putSome(t.Context(), tx, "c", n), tx.PutDocument(t.Context(), KindPlan, fmt.Sprintf("c-%06d", n), "test.put", nil))
			})
		}
		for _, c := range children {
			if err := c.Wait(); err != nil {
				t.Errorf("writer: %v", err)
			}
		}
		wantWhole(t, s, 3*each)
		wantEqual(t, "journal", size(t, s), int64(2*3*each))
	})
}

// TestFault kills a writer in the middle of its updates: what it said was
// committed is there, nothing else is there in part, and the journal is whole.
func TestFault(t *testing.T) {
	t.Parallel()
	for _, after := range []int{1, 7, 23} {
		t.Run(fmt.Sprintf("killed after %d updates", after), func(t *testing.T) {
			eachDatabase(t, func(t *testing.T, location string) {
				s, err := Create(t.Context(), location, clock())
				must(t, err)
				must(t, s.Close())
				c := child(t, "a", location, 1_000_000, 0)
				out, err := c.StdoutPipe()
				must(t, err)
				must(t, c.Start())
				committed := -1
				lines := bufio.NewScanner(out)
				for lines.Scan() {
					if committed, err = strconv.Atoi(lines.Text()); err != nil {
						break // a line cut off by the kill
					}
					if committed == after {
						must(t, c.Process.Kill())
					}
				}
				if err := c.Wait(); err == nil {
					t.Fatal("the writer was not killed")
				}
				if committed < after {
					t.Fatalf("the writer got as far as update %d, want at least %d", committed, after)
				}

				s, err = Open(t.Context(), location, clock())
				must(t, err)
				defer s.Close()
				do(t, s, func(tx *Tx) error { // the dead hold no lock
					return errors.Join(putSome(t.Context(), tx, "after", 0), tx.PutDocument(t.Context(), KindPlan, "after", "test.put", nil))
				})
				for n := 0; n <= committed; n++ {
					if _, err := s.Document(t.Context(), KindPlan, fmt.Sprintf("a-%06d", n)); err != nil {
						t.Errorf("update %d was committed and is lost: %v", n, err)
					}
				}
				wantWhole(t, s, committed+2)
				checkJournal(t, s)
			})
		})
	}
}

// TestScanGoesOnElsewhere interrupts a scan: what one process began, another
// continues.
func TestScanGoesOnElsewhere(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, location string) {
		first := create(t, location)
		sc := begin(t, first, repo)
		list(t, first, sc, "v1", "v2", "v3")
		do(t, first, func(tx *Tx) error { return tx.PutTag(t.Context(), sc, "v2", digest(1)) })
		second, err := Open(t.Context(), location, clock())
		must(t, err)
		defer second.Close()
		again := begin(t, second, repo)
		wantEqual(t, "scan", again.ID, sc.ID)
		wantEqual(t, "left to look at", unchecked(t, second, again, false), "v1= v3=")
	})
}

// TestMigrate opens a database that an older reseal wrote.
func TestMigrate(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, location string) {
		ctx := t.Context()
		s, err := Create(ctx, location, clock())
		must(t, err)
		old := inventory.Record{ID: "old", Source: "ci", Kind: inventory.RecordCI, Time: start}
		do(t, s, func(tx *Tx) error { return tx.PutRecord(ctx, old) })
		downgrade := []string{`ALTER TABLE records DROP COLUMN signed_by`, `DROP TABLE renamed`, `DROP TABLE shards`, `ALTER TABLE reissues DROP COLUMN at`, `PRAGMA user_version = 1`}
		if s.postgres {
			downgrade[len(downgrade)-1] = `DELETE FROM reseal_schema WHERE version > 1`
		}
		for _, statement := range downgrade {
			_, err := s.write.ExecContext(ctx, statement)
			must(t, err)
		}
		must(t, s.Close())
		have, known, err := Pending(ctx, location)
		must(t, err)
		if have != 1 || known < 2 {
			t.Errorf("version %d of %d, want 1 of 2 or more", have, known)
		}
		s, err = Open(ctx, location, clock())
		must(t, err)
		defer s.Close()
		now := inventory.Record{ID: "now", Source: "ci", By: "someone", Kind: inventory.RecordCI, Time: start}
		do(t, s, func(tx *Tx) error { return tx.PutRecord(ctx, now) })
		got, err := s.EvidenceRecords(ctx, RecordFilter{}, "", 10)
		must(t, err)
		wantEqual(t, "records", got, []inventory.Record{now, old})
		checkStore(t, s)
	})
}
