package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/signer"
)

// everything has something in every table.
func everything(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	do(t, s, func(tx *Tx) error {
		return tx.PutSigner(ctx, signer.Record{Identity: key(1), Name: "zoé", State: signer.Active, PublicKey: []byte("PEM")})
	})
	for n := range 30 {
		do(t, s, func(tx *Tx) error {
			a := art(repo, n)
			a.Tags = []string{fmt.Sprint("v", n)}
			if err := tx.PutArtifact(ctx, a); err != nil {
				return err
			}
			return putSome(ctx, tx, "some", n)
		})
	}
	g := sig(art("registry.example/some", 1), 5, key(0))
	g.ID, g.Manifest = "some-1-0", digest(1)
	g.Bounds = []inventory.Bound{upper(3, authority(inventory.RoleTSA, "another"))}
	g.Certificate = &signer.Certificate{Serial: "01", NotBefore: start, NotAfter: start.Add(time.Minute)}
	unknown := sig(art("registry.example/other", 1), 7, signer.Identity{Kind: signer.Unknown})
	unknown.ID = "renamed-from"
	do(t, s, func(tx *Tx) error {
		var err error
		if unknown.Content, err = tx.PutVault(ctx, []byte("renamed")); err != nil {
			return err
		}
		return tx.PutSignature(ctx, unknown)
	})
	sc := begin(t, s, repo)
	list(t, s, sc, "listed", "sha256-"+strings.Repeat("a", 64)+".sig")
	do(t, s, func(tx *Tx) error {
		_, err := tx.StartShards(ctx, "p", []Shard{{Plan: "p", N: 1, Repository: repo, First: 1, Last: 1, Items: 1, Units: 1}}, ShardSelection{}, false)
		return errors.Join(err, tx.PutSignature(ctx, g), tx.KeepSignatures(ctx, g.Repository, g.Digest, "", inventory.Formats(), []string{g.ID}), tx.SetDeployed(ctx, repo, digest(2)),
			tx.PutProblem(ctx, inventory.Problem{Repository: repo, Reference: "v1", Problem: "it is broken"}), tx.PutReferrers(ctx, sc, digest(1), "fingerprint"),
			tx.PutRecord(ctx, inventory.Record{ID: "r", Source: "ci", By: key(1).ID(), Kind: inventory.RecordCI, Time: start, Failed: true}),
			tx.PutDocument(ctx, KindIncident, "I-1", "incident.opened", []byte(`{"a":"ü"}`)), tx.AddPlanItem(ctx, "p", 1, []byte("line")),
			tx.PutReissue(ctx, Reissue{Plan: "p", Seq: 1, Format: inventory.Bundle, State: "done"}))
	})
	h := ever(t, s, art("registry.example/other", 1))
	now := h
	now.ID, now.Signer = "renamed-to", key(1)
	do(t, s, func(tx *Tx) error { return tx.Reverified(ctx, h, now) })
	anchorEntry(t, s, lastSighted(t, s), 5, "tsa")
}

// dump returns every row of every table.
func dump(t *testing.T, s *Store) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	must(t, s.eachTable(t.Context(), func(table string, columns []string, next func() ([]any, error)) error {
		out[table] = []string{strings.Join(columns, " ")}
		for {
			values, err := next()
			if err != nil {
				slices.Sort(out[table])
				if len(out[table]) < 2 {
					t.Errorf("table %s is empty", table)
				}
				return nil
			}
			out[table] = append(out[table], fmt.Sprintf("%T%v", values, values))
		}
	}))
	return out
}

// newLocation returns where nothing is yet, in one of the databases.
func newLocation(t *testing.T, database string) string {
	t.Helper()
	if database == "PostgreSQL" {
		return newPostgres(t)
	}
	return filepath.Join(t.TempDir(), "reseal.db")
}

func TestCopy(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"SQLite", "PostgreSQL"} {
		for _, to := range []string{"SQLite", "PostgreSQL"} {
			t.Run(from+" to "+to, func(t *testing.T) {
				t.Parallel()
				s := create(t, newLocation(t, from))
				everything(t, s)
				checkStore(t, s)
				target := newLocation(t, to)
				must(t, s.CopyTo(t.Context(), target))
				copied, err := Open(t.Context(), target, clock())
				must(t, err)
				defer copied.Close()
				wantEqual(t, "what was copied", dump(t, copied), dump(t, s))
				checkStore(t, copied)
				checkJournal(t, copied)
				do(t, copied, func(tx *Tx) error { return putSome(t.Context(), tx, "later", 1) }) // it is used like any other
				checkStore(t, copied)

				if err := s.CopyTo(t.Context(), target); err == nil || !strings.Contains(err.Error(), "already") || strings.Contains(err.Error(), secret) {
					t.Errorf("over a database: got %v, want a refusal", err)
				}
				if to == "SQLite" {
					wantFiles(t, filepath.Dir(target), 3) // and the two of its log
					info, err := os.Stat(target)
					must(t, err)
					wantEqual(t, "mode", info.Mode().Perm(), os.FileMode(0o600))
				}
			})
		}
	}
}

func wantFiles(t *testing.T, dir string, want int) {
	t.Helper()
	files, err := os.ReadDir(dir)
	must(t, err)
	if len(files) != want {
		t.Errorf("%d files are there, want %d: %v", len(files), want, files)
	}
}

// TestTables holds the list of tables against the databases: none is forgotten
// by a copy.
func TestTables(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, location string) {
		s := create(t, location)
		query := `SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name`
		if s.postgres {
			query = `SELECT table_name::text FROM information_schema.tables WHERE table_schema = current_schema() AND table_name <> 'reseal_schema' ORDER BY table_name`
		}
		got, err := queryAll(t.Context(), s.read, scanString, query)
		must(t, err)
		slices.Sort(got)
		wantEqual(t, "tables", got, slices.Sorted(slices.Values(tables)))
	})
}

// TestCopyWhileWriting copies while updates are committed: the copy is of one
// moment.
func TestCopyWhileWriting(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"SQLite", "PostgreSQL"} {
		t.Run("to "+to, func(t *testing.T) {
			eachDatabase(t, func(t *testing.T, location string) {
				s := create(t, location)
				do(t, s, func(tx *Tx) error { // some size, so that the copy takes some time
					for n := range 40 {
						if _, err := tx.PutVault(t.Context(), bytes.Repeat([]byte(fmt.Sprintf("%08d", n)), 1000)); err != nil {
							return err
						}
					}
					return nil
				})
				c := child(t, "a", location, 1_000_000, 5*time.Millisecond)
				out, err := c.StdoutPipe()
				must(t, err)
				must(t, c.Start())
				_, err = out.Read(make([]byte, 1)) // it has begun
				must(t, err)
				for range 2 {
					target := newLocation(t, to)
					must(t, s.CopyTo(t.Context(), target))
					copied, err := Open(t.Context(), target, clock())
					must(t, err)
					wantWhole(t, copied, 1)
					must(t, copied.Close())
				}
				must(t, c.Process.Kill())
				_ = c.Wait() // it was killed
			})
		})
	}
}

// TestCopyFails leaves nothing behind.
func TestCopyFails(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, location string) {
		s := create(t, location)
		everything(t, s)
		dir := t.TempDir()
		taken := filepath.Join(dir, "taken")
		must(t, os.WriteFile(taken, []byte("something else"), 0o644))
		for _, tc := range []struct{ target, says string }{
			{taken, "exists already"},
			{filepath.Join(dir, "none", "copy.db"), "no such file"},
			{location, "already"},
		} {
			if err := s.CopyTo(t.Context(), tc.target); err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), secret) {
				t.Errorf("to %s: got %v, want %q", Redact(tc.target), err, tc.says)
			}
		}
		content, err := os.ReadFile(taken)
		must(t, err)
		wantEqual(t, "what was there", string(content), "something else")

		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		for _, to := range []string{"SQLite", "PostgreSQL"} {
			target := newLocation(t, to)
			if err := s.CopyTo(cancelled, target); !errors.Is(err, context.Canceled) {
				t.Errorf("to %s: got %v, want it cancelled", to, err)
			}
			if _, err := Open(t.Context(), target, clock()); err == nil {
				t.Errorf("there is a copy in %s", to)
			}
		}
		wantFiles(t, dir, 1)
		if s.postgres {
			return
		}
		// A row that cannot be copied, after others that could.
		edit(t, s, `UPDATE plan_items SET body = CAST(x'61ff' AS TEXT)`)
		target := newLocation(t, "PostgreSQL")
		if err := s.CopyTo(t.Context(), target); err == nil || !strings.Contains(err.Error(), "plan_items") {
			t.Errorf("a row that cannot be copied: got %v, want its table named", err)
		}
		edit(t, s, `UPDATE plan_items SET body = 'mended'`)
		must(t, s.CopyTo(t.Context(), target)) // nothing was there
	})
}

// edit changes the database by another hand.
func edit(t *testing.T, s *Store, statement string, args ...any) {
	t.Helper()
	conn, err := s.write.Conn(t.Context())
	must(t, err)
	defer conn.Close()
	off, on := `PRAGMA foreign_keys = OFF`, `PRAGMA foreign_keys = ON`
	if s.postgres {
		off, on = `SET session_replication_role = replica`, `SET session_replication_role = DEFAULT`
	}
	for _, st := range []string{off, statement, on} {
		var some []any
		if st == statement {
			some = args
		}
		if _, err := conn.ExecContext(t.Context(), st, some...); err != nil {
			t.Fatal(err)
		}
	}
}

// testCheck spoils a database in one way after another.
func testCheck(t *testing.T, s *Store) {
	ctx := t.Context()
	everything(t, s)
	for n := range 21 {
		putDocument(t, s, KindPlan, fmt.Sprint(n), "")
	}
	checkStore(t, s)
	one := func(query string) (text string) {
		t.Helper()
		must(t, s.read.QueryRowContext(ctx, query).Scan(&text))
		return text
	}
	sighted := one(`SELECT body FROM journal WHERE body LIKE '%inventory.sighted%' ORDER BY seq LIMIT 1`)
	entry, err := journal.ParseEntry([]byte(sighted))
	must(t, err)
	content := inventory.Digest([]byte("some-3-1"))
	body := func(digest string) (b []byte) {
		t.Helper()
		must(t, s.read.QueryRowContext(ctx, `SELECT body FROM vault WHERE digest = $1`, digest).Scan(&b))
		return b
	}
	var hash, leaf []byte
	must(t, s.read.QueryRowContext(ctx, `SELECT hash FROM journal_hashes WHERE seq = 6`).Scan(&hash))
	must(t, s.read.QueryRowContext(ctx, `SELECT hash FROM journal_hashes WHERE seq = 0`).Scan(&leaf))
	type row struct {
		query string
		args  []any
	}
	for _, tc := range []struct {
		name        string
		spoil, mend row
		want        []string // said, in order
	}{
		{"an entry edited", row{`UPDATE journal SET body = replace(body, 'alice', 'mallory') WHERE seq = 3`, nil}, row{`UPDATE journal SET body = replace(body, 'mallory', 'alice') WHERE seq = 3`, nil}, []string{"entry 3 does not hash"}},
		{"an entry that is none", row{`UPDATE journal SET body = ' ' || body WHERE seq = 3`, nil}, row{`UPDATE journal SET body = substr(body, 2) WHERE seq = 3`, nil}, []string{"entry 3 is not what", "entry 3 does not hash", "cannot be compared"}},
		{"an entry lost", row{`UPDATE journal SET seq = 1003 WHERE seq = 3`, nil}, row{`UPDATE journal SET seq = 3 WHERE seq = 1003`, nil}, []string{"entries 3 to 3 are missing", "cannot be compared"}},
		{"the last entry lost", row{`UPDATE journal SET seq = -1 WHERE seq = (SELECT MAX(seq) FROM journal)`, nil}, row{`UPDATE journal SET seq = (SELECT MAX(seq)+1 FROM journal) WHERE seq = -1`, nil}, []string{"it has hashes", `version 1 of the plan "20" is in no entry`}},
		{"a leaf hash edited", row{`UPDATE journal_hashes SET hash = $1 WHERE seq = 0`, []any{hash}}, row{`UPDATE journal_hashes SET hash = $1 WHERE seq = 0`, []any{leaf}}, []string{"entry 0 does not hash"}},
		{"a hash over others edited", row{`UPDATE journal_hashes SET hash = $1 WHERE seq = 6`, []any{make([]byte, 32)}}, row{`UPDATE journal_hashes SET hash = $1 WHERE seq = 6`, []any{hash}}, []string{"a hash over entries up to 3"}},
		{"a hash cut short", row{`UPDATE journal_hashes SET hash = $1 WHERE seq = 6`, []any{hash[:31]}}, row{`UPDATE journal_hashes SET hash = $1 WHERE seq = 6`, []any{hash}}, []string{"a hash over entries up to 3"}},
		{"a hash lost", row{`UPDATE journal_hashes SET seq = 100000 WHERE seq = (SELECT MAX(seq) FROM journal_hashes)`, nil}, row{`UPDATE journal_hashes SET seq = (SELECT MAX(seq)+1 FROM journal_hashes WHERE seq < 100000) WHERE seq = 100000`, nil}, []string{"entry 58 does not hash", "it has hashes from number 113 on"}},
		{"a vault item forged", row{`UPDATE vault SET body = $1 WHERE digest = $2`, []any{s.enc.EncodeAll([]byte("forged"), nil), content}}, row{`UPDATE vault SET body = $1 WHERE digest = $2`, []any{body(content), content}}, []string{content + " are not those bytes"}},
		{"a vault item cut", row{`UPDATE vault SET body = $1 WHERE digest = $2`, []any{body(content)[:7], content}}, row{`UPDATE vault SET body = $1 WHERE digest = $2`, []any{body(content), content}}, []string{content + " cannot be read"}},
		{"sightings lost", row{`DELETE FROM vault WHERE digest = $1`, []any{entry.Digest}}, row{`INSERT INTO vault (digest, body) VALUES ($1, $2)`, []any{entry.Digest, body(entry.Digest)}}, []string{fmt.Sprintf("entry %d of the journal stands for are missing", entry.Index), "cannot be compared"}},
		{"signed bytes lost", row{`DELETE FROM vault WHERE digest = $1`, []any{content}}, row{`INSERT INTO vault (digest, body) VALUES ($1, $2)`, []any{content, body(content)}}, []string{"bytes of signature some-3-1 are missing"}},
		{"a signer lost", row{`UPDATE signers SET id = 'x' WHERE id = $1`, []any{key(2).ID()}}, row{`UPDATE signers SET id = $1 WHERE id = 'x'`, []any{key(2).ID()}}, slices.Repeat([]string{"by a signer that is not there"}, 30)},
		{"an artifact lost", row{`UPDATE artifacts SET repository = 'x' WHERE repository = 'registry.example/some' AND digest = $1`, []any{digest(3)}}, row{`UPDATE artifacts SET repository = 'registry.example/some' WHERE repository = 'x'`, nil}, slices.Repeat([]string{"on an artifact that is not there"}, 5)},
		{"bounds of nothing", row{`INSERT INTO bounds (signature, n, side, time, role, authority, verified, alone, why) VALUES (777, 0, 'upper', 0, '', '', FALSE, FALSE, '')`, nil}, row{`DELETE FROM bounds WHERE signature = 777`, nil}, []string{"a bound is of a signature that is not there (number 777)"}},
		{"copies of nothing", row{`INSERT INTO copies (signature, manifest) VALUES (777, '')`, nil}, row{`DELETE FROM copies WHERE signature = 777`, nil}, []string{"a copy is of a signature that is not there (number 777)"}},
		{"a proof made earlier", row{`UPDATE bounds SET time = time - 7 WHERE verified AND signature = (SELECT seq FROM signatures WHERE id = 'some-3-1')`, nil}, row{`UPDATE bounds SET time = time + 7 WHERE verified AND signature = (SELECT seq FROM signatures WHERE id = 'some-3-1')`, nil}, []string{"signature some-3-1: what is kept of its time"}},
		{"a window moved", row{`UPDATE signatures SET not_after = not_after + 1 WHERE id = 'some-3-1'`, nil}, row{`UPDATE signatures SET not_after = not_after - 1 WHERE id = 'some-3-1'`, nil}, []string{"signature some-3-1: what is kept of its time"}},
		{"another proof hidden", row{`UPDATE bounds SET alone = NOT alone WHERE n = 0 AND signature = (SELECT seq FROM signatures WHERE id = 'some-3-1')`, nil}, row{`UPDATE bounds SET alone = NOT alone WHERE n = 0 AND signature = (SELECT seq FROM signatures WHERE id = 'some-3-1')`, nil}, []string{"signature some-3-1: what is kept of its time"}},
		{"more than anybody reads", row{`UPDATE signatures SET not_after = not_after + 1`, nil}, row{`UPDATE signatures SET not_after = not_after - 1`, nil}, append(slices.Repeat([]string{"what is kept of its time"}, 99), "and more of these")},
	} {
		edit(t, s, tc.spoil.query, tc.spoil.args...)
		found, err := s.Check(ctx)
		must(t, err)
		if len(found) != len(tc.want) {
			t.Errorf("%s: found %d, want %d:\n%s", tc.name, len(found), len(tc.want), strings.Join(found, "\n"))
		}
		for i, want := range tc.want {
			if i < len(found) && !strings.Contains(found[i], want) {
				t.Errorf("%s: found %q, want %q", tc.name, found[i], want)
			}
		}
		edit(t, s, tc.mend.query, tc.mend.args...)
	}
	checkStore(t, s)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Check(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func testVersion(t *testing.T, s *Store) {
	have, known, err := s.Version(t.Context())
	must(t, err)
	names, err := schema()
	must(t, err)
	wantEqual(t, "version", []int{have, known}, []int{len(names), len(names)})
}

// TestCheckDamagedFile overwrites pages of a file.
func TestCheckDamagedFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "reseal.db")
	s, err := Create(t.Context(), file, clock())
	must(t, err)
	everything(t, s)
	must(t, s.Close())
	content, err := os.ReadFile(file)
	must(t, err)
	for at := 20 * 4096; at+4096 <= len(content); at += 8192 {
		copy(content[at:], bytes.Repeat([]byte{0xa5}, 2048))
	}
	must(t, os.WriteFile(file, content, 0o600))
	s, err = Open(t.Context(), file, clock())
	must(t, err)
	defer s.Close()
	found, err := s.Check(t.Context())
	must(t, err)
	if len(found) == 0 || !strings.Contains(found[0], "damaged") || !strings.Contains(found[0], "backup") {
		t.Errorf("found %q, want the damage and what to do", found)
	}
}
