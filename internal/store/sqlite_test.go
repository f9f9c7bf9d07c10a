package store

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// childEnv makes the test binary a writer of documents, "NAME FILE COUNT",
// that prints the index of every update it has committed.
const childEnv = "RESEAL_TEST_WRITER"

func TestMain(m *testing.M) {
	if args := os.Getenv(childEnv); args != "" {
		if err := writer(strings.SplitN(args, "|", 3)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

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
	for n := range count {
		if err := s.Update(ctx, by, func(tx *Tx) error {
			return tx.PutDocument(ctx, KindPlan, fmt.Sprintf("%s-%06d", args[0], n), "test.put", []byte("body"))
		}); err != nil {
			return err
		}
		fmt.Println(n)
	}
	return s.Close()
}

func child(t *testing.T, name, file string, count int) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%d", childEnv, name, file, count))
	cmd.Stderr = os.Stderr
	return cmd
}

func create(t *testing.T, file string) *Store {
	t.Helper()
	s, err := Create(t.Context(), file, clock())
	must(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	suite(t, func(t *testing.T) *Store { return create(t, filepath.Join(t.TempDir(), "reseal.db")) })
}

func TestFileNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"with space.db", "question?.db", "per%20cent.db", "hash#.db", "ämter.db", "a&b=c.db"} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), name)
			s := create(t, file)
			putDocument(t, s, KindPlan, "p", "body")
			if _, err := os.Stat(file); err != nil {
				t.Errorf("the database is not where it was named: %v", err)
			}
			again, err := Open(t.Context(), file, clock())
			must(t, err)
			_, err = again.Document(t.Context(), KindPlan, "p")
			must(t, err)
			must(t, again.Close())
		})
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "reseal.db")
	if _, err := Open(t.Context(), file, clock()); err == nil || !strings.Contains(err.Error(), "reseal init") {
		t.Errorf("a missing database: got %v, want advice", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening a missing database made one: %v", err)
	}
	s, err := Create(t.Context(), file, clock())
	must(t, err)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	putDocument(t, s, KindPlan, "p", "body")
	must(t, s.Close())
	if _, err := Create(t.Context(), file, clock()); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("creating over a database: got %v", err)
	}
	again, err := Open(t.Context(), file, clock())
	must(t, err)
	got, err := again.Document(t.Context(), KindPlan, "p")
	must(t, err)
	wantEqual(t, "what was committed", string(got), "body")
	checkJournal(t, again)
	must(t, again.Close())
	if _, err := Create(t.Context(), filepath.Join(dir, "none", "reseal.db"), clock()); err == nil {
		t.Error("created in a directory that is not there")
	}
}

// snapshot returns the content of every file of a directory.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	files, err := os.ReadDir(dir)
	must(t, err)
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(dir, f.Name()))
		must(t, err)
		out[f.Name()] = string(content)
	}
	return out
}

func TestNewerSchemaIsLeftAlone(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "reseal.db")
	s, err := Create(t.Context(), file, clock())
	must(t, err)
	putDocument(t, s, KindPlan, "p", "body")
	must(t, s.Close())
	db, err := sql.Open("sqlite", file)
	must(t, err)
	_, err = db.ExecContext(t.Context(), `PRAGMA user_version = 999`)
	must(t, err)
	must(t, db.Close())

	before := snapshot(t, filepath.Dir(file))
	_, err = Open(t.Context(), file, clock())
	if !errors.Is(err, ErrNewerSchema) || !strings.Contains(err.Error(), "999") {
		t.Errorf("got %v, want ErrNewerSchema with the version", err)
	}
	after := snapshot(t, filepath.Dir(file))
	if len(before) != len(after) || before["reseal.db"] != after["reseal.db"] {
		t.Errorf("the refused database was touched: %d files became %d", len(before), len(after))
	}
}

// TestBroken opens what is no usable database: one error, on one line, that
// names the file and is no panic.
func TestBroken(t *testing.T) {
	t.Parallel()
	whole := filepath.Join(t.TempDir(), "whole.db")
	s, err := Create(t.Context(), whole, clock())
	must(t, err)
	for n := range 50 {
		putDocument(t, s, KindPlan, fmt.Sprint(n), strings.Repeat("body", 500))
	}
	must(t, s.Close())
	content, err := os.ReadFile(whole)
	must(t, err)
	noise := bytes.Repeat([]byte("noise"), 4000)
	for _, tc := range []struct {
		name    string
		content []byte
	}{
		{"not a database", noise},
		{"a short text", []byte("hello")},
		{"header overwritten", append(bytes.Clone(noise[:100]), content[100:]...)},
		{"first page overwritten", append(append(bytes.Clone(content[:100]), noise[:4000]...), content[4100:]...)},
		{"cut after the first page", content[:4096]},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "reseal.db")
			must(t, os.WriteFile(file, tc.content, 0o600))
			s, err := Open(t.Context(), file, clock())
			if err == nil { // the version can still be read: then the first use must say so
				defer s.Close()
				_, err = s.Signers(t.Context())
				if err == nil {
					_, err = s.JournalCheckpoint(t.Context())
				}
			}
			if err == nil {
				t.Fatal("nothing was noticed")
			}
			if text := err.Error(); strings.Contains(text, "\n") || !strings.Contains(text, "database") {
				t.Errorf("got %q, want one line that says it is the database", text)
			}
		})
	}
	t.Run("a directory", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := Open(t.Context(), dir, clock()); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v, want an error that names it", err)
		}
	})
	t.Run("not ours to read", func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Skip("the superuser may read everything")
		}
		file := filepath.Join(t.TempDir(), "reseal.db")
		must(t, os.WriteFile(file, content, 0))
		if _, err := Open(t.Context(), file, clock()); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("got %v, want an error that names it", err)
		}
	})
}

func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "reseal.db")
	s := create(t, file)
	const each = 40
	children := []*exec.Cmd{child(t, "a", file, each), child(t, "b", file, each)}
	for _, c := range children {
		must(t, c.Start())
	}
	for n := range each { // and this one
		putDocument(t, s, KindPlan, fmt.Sprintf("c-%06d", n), "body")
	}
	for _, c := range children {
		if err := c.Wait(); err != nil {
			t.Errorf("writer: %v", err)
		}
	}
	ids, err := s.DocumentIDs(t.Context(), KindPlan, "")
	must(t, err)
	wantEqual(t, "documents", len(ids), 3*each)
	wantEqual(t, "journal", size(t, s), int64(3*each))
	checkJournal(t, s)
}

// TestFault kills a writer in the middle of its updates: what it said was
// committed is there, and the journal is whole.
func TestFault(t *testing.T) {
	t.Parallel()
	for _, after := range []int{1, 7, 23} {
		t.Run(fmt.Sprintf("killed after %d updates", after), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "reseal.db")
			s, err := Create(t.Context(), file, clock())
			must(t, err)
			must(t, s.Close())
			c := child(t, "a", file, 1_000_000)
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

			s, err = Open(t.Context(), file, clock())
			must(t, err)
			defer s.Close()
			for n := 0; n <= committed; n++ {
				if _, err := s.Document(t.Context(), KindPlan, fmt.Sprintf("a-%06d", n)); err != nil {
					t.Errorf("update %d was committed and is lost: %v", n, err)
				}
			}
			if got := size(t, s); got < int64(committed+1) {
				t.Errorf("journal has %d entries, want at least %d", got, committed+1)
			}
			ids, err := s.DocumentIDs(t.Context(), KindPlan, "")
			must(t, err)
			wantEqual(t, "documents and entries", int64(len(ids)), size(t, s))
			checkJournal(t, s)
			putDocument(t, s, KindPlan, "after", "body")
			checkJournal(t, s)
		})
	}
}
