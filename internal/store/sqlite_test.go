package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/reseal/reseal/inventory"
)

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

// explainer keeps the plan of every query it passes on.
type explainer struct {
	querier
	t     *testing.T
	plans []string
}

func (e *explainer) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	steps, err := queryAll(ctx, e.querier, func(rows *sql.Rows) (step string, err error) {
		var n any
		err = rows.Scan(&n, &n, &n, &step)
		return step, err
	}, `EXPLAIN QUERY PLAN `+query, args...)
	must(e.t, err)
	e.plans = append(e.plans, query+"\n\t"+strings.Join(steps, "\n\t"))
	return e.querier.QueryContext(ctx, query, args...)
}

// TestPlans holds that no page of a listing reads or sorts the whole inventory:
// each is found along an index, in its order.
func TestPlans(t *testing.T) {
	t.Parallel()
	s := create(t, filepath.Join(t.TempDir(), "reseal.db"))
	everything(t, s)
	one, two := key(0).ID(), key(1).ID()
	verified := true
	tsa := authority(inventory.RoleTSA, "tsa")
	place := Place{Repository: repo, Digest: digest(3)}
	for name, sel := range map[string]Selection{
		"all": {}, "repository": {Repository: repo}, "prefix": {Prefix: "registry"}, "digest": {Digest: digest(1)}, "signer": {Signers: []string{one}},
		"signers": {Signers: []string{one, two}}, "signer alone": {Signers: []string{one}, Alone: true}, "tag": {Tag: "v1"},
		"signer, repository": {Signers: []string{one}, Repository: repo}, "signer, prefix": {Signers: []string{one}, Prefix: "registry"}, "digests": {Digests: []string{digest(1), digest(2)}},
		"authority": {Authorities: []inventory.Authority{tsa}}, "authorities, prefix": {Authorities: []inventory.Authority{tsa, {Role: inventory.RoleCA, ID: "ca"}}, Prefix: "registry"},
		"authority, signer, digest": {Authorities: []inventory.Authority{tsa}, Signers: []string{one}, Repository: repo, Digests: []string{digest(2)}},
	} {
		for _, few := range []int{0, 10_000} {
			for _, after := range []Place{{}, place} {
				s.few = few
				e := &explainer{querier: s.read, t: t}
				_, err := deployed(t.Context(), e, sel, after, 5)
				must(t, err)
				_, err = s.undeployed(t.Context(), e, sel, after, 5)
				must(t, err)
				wantIndexed(t, name, e.plans, sel.Digest != "" || len(sel.Digests) > 0 || few > 0 && len(sel.Authorities) > 0)
				if byAuthority := strings.Contains(strings.Join(e.plans, "\n"), "bounds_by_authority"); byAuthority != (len(sel.Authorities) > 0) {
					t.Errorf("%s: the index by authority is used: %v\n%s", name, byAuthority, strings.Join(e.plans, "\n"))
				}
			}
		}
	}
	for name, f := range map[string]SignatureFilter{
		"all": {}, "gone too": {Gone: true}, "repository": {Repository: repo}, "prefix": {Prefix: "registry"}, "signer": {Signers: []string{one}}, "signers": {Signers: []string{one, two}},
		"signer alone": {Signers: []string{one}, Alone: true}, "window": {Signers: []string{one}, From: start, Until: start}, "the rest": {Format: inventory.Legacy, Predicate: "p", Verified: &verified},
		"digest": {Digest: digest(1)}, "start of a digest": {Digest: "sha256:0"}, "authority": {RestsOn: &tsa}, "signer and authority": {Signers: []string{one}, RestsOn: &tsa},
	} {
		for _, few := range []int{0, 10_000} {
			for _, after := range []SignaturePlace{{}, {Repository: repo, Digest: digest(3), ID: "x"}} {
				s.few = few
				e := &explainer{querier: s.read, t: t}
				_, err := s.selectSignatures(t.Context(), e, f, after, 5)
				must(t, err)
				wantIndexed(t, name, e.plans, few > 0 && (f.Digest != "" || f.RestsOn != nil))
			}
		}
	}
}

// wantIndexed refuses plans that read a table from end to end, or sort more
// than a few rows.
func wantIndexed(t *testing.T, name string, plans []string, few bool) {
	t.Helper()
	for _, plan := range plans {
		for _, step := range strings.Split(plan, "\n\t")[1:] {
			scans := strings.HasPrefix(step, "SCAN ") && !strings.Contains(step, "USING")
			sorts := strings.Contains(step, "TEMP B-TREE FOR") && !strings.Contains(step, "LAST TERM") && !strings.Contains(step, "string_agg") && !few
			if scans || sorts {
				t.Errorf("%s: %s", name, plan)
			}
		}
	}
}
