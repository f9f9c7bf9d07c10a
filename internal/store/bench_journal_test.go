//go:build bench

package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
)

// benchJournal measures a journal of so many entries, appended in transactions
// of a thousand.
func benchJournal(t *testing.T, dir string, entries int) {
	t.Helper()
	ctx := t.Context()
	s, err := Create(ctx, filepath.Join(dir, "journal.db"), clock())
	must(t, err)
	defer s.Close()
	empty, err := Create(ctx, filepath.Join(dir, "bare-journal.db"), clock())
	must(t, err)
	must(t, empty.Close())
	db, err := sql.Open("sqlite", dsn(filepath.Join(dir, "bare-journal.db"), writerPragmas))
	must(t, err)
	defer db.Close()
	db.SetMaxOpenConns(1)

	// The same bytes by both, in turn: an entry, and two hashes or so.
	var ours, theirs time.Duration
	for from := 0; from < entries; from += perBatch {
		size := min(perBatch, entries-from)
		digests := make([]string, size)
		for i := range digests {
			digests[i] = inventory.Digest(fmt.Append(nil, "entry", from+i))
		}
		runtime.GC() // nobody pays for what was made here
		at := time.Now()
		must(t, s.Update(ctx, by, func(tx *Tx) error {
			for i, d := range digests {
				tx.Record(journal.Draft{Action: "incident.opened", Subject: fmt.Sprintf("INC-%07d", from+i), Digest: d, Kind: KindIncident})
			}
			return nil
		}))
		ours += time.Since(at)
		lines := benchRows(t, s, `SELECT seq, body FROM journal WHERE seq >= $1 ORDER BY seq`, int64(from))
		hashes := benchRows(t, s, `SELECT seq, hash FROM journal_hashes WHERE seq > $1 ORDER BY seq`, benchLast(t, db))
		runtime.GC()
		at = time.Now()
		tx, err := db.BeginTx(context.Background(), nil)
		must(t, err)
		for _, part := range []struct {
			table string
			rows  [][]any
		}{{"journal", lines}, {"journal_hashes", hashes}} {
			stmt, err := tx.PrepareContext(context.Background(), `INSERT INTO `+part.table+` VALUES ($1, $2)`)
			must(t, err)
			for _, values := range part.rows {
				if _, err := stmt.ExecContext(context.Background(), values...); err != nil {
					t.Fatal(err)
				}
			}
		}
		must(t, tx.Commit())
		theirs += time.Since(at)
	}
	rate := func(d time.Duration) float64 { return float64(entries) / d.Seconds() }
	report(t, "journal/append", rate(ours), rate(theirs), "entries/s", theirs.Seconds()/ours.Seconds())

	// A checkpoint and a proof read a few hashes; bare, as many rows by number.
	var c journal.Checkpoint
	timed := func(n int, fn func(int)) float64 {
		at := time.Now()
		for i := range n {
			fn(i)
		}
		return time.Since(at).Seconds() * 1000 / float64(n)
	}
	few := func(int) {
		for n := range 20 {
			var h []byte
			must(t, db.QueryRowContext(ctx, `SELECT hash FROM journal_hashes WHERE seq = $1`, int64(n)*int64(entries)/10).Scan(&h))
		}
	}
	bare := timed(200, few)
	mine := timed(200, func(int) {
		c, err = s.JournalCheckpoint(ctx)
		must(t, err)
	})
	report(t, "journal/checkpoint", mine, bare, "ms", bare/mine)
	mine = timed(200, func(i int) {
		p, err := s.JournalProof(ctx, int64(i)*int64(entries)/200, c.Size)
		must(t, err)
		must(t, p.Check(c))
	})
	report(t, "journal/proof", mine, bare, "ms", bare/mine)
	p, err := s.JournalConsistency(ctx, c.Size/3, c.Size)
	must(t, err)
	then, err := s.JournalCheckpointAt(ctx, c.Size/3)
	must(t, err)
	must(t, p.Check(then, c))

	// Verifying an export; bare, one SHA-256 over its bytes.
	private, public, err := note.GenerateKey(nil, "reseal.bench")
	must(t, err)
	sign, err := note.NewSigner(private)
	must(t, err)
	verify, err := note.NewVerifier(public)
	must(t, err)
	signed, err := c.Sign(sign)
	must(t, err)
	file := filepath.Join(dir, "journal.export")
	f, err := os.Create(file)
	must(t, err)
	at := time.Now()
	must(t, journal.WriteExport(f, s.Journal(ctx, 0), signed))
	must(t, f.Close())
	t.Logf("exported %d entries in %v", entries, time.Since(at).Round(time.Millisecond))
	at = time.Now()
	f, err = os.Open(file)
	must(t, err)
	h := sha256.New()
	_, err = io.Copy(h, f)
	must(t, err)
	must(t, f.Close())
	hashing := time.Since(at).Seconds()
	f, err = os.Open(file)
	must(t, err)
	defer f.Close()
	before := rssAnon(t)
	at = time.Now()
	got, err := journal.VerifyExport(f, verify)
	must(t, err)
	took := time.Since(at).Seconds()
	wantEqual(t, "checkpoint", got, c)
	report(t, "journal/verify", took*1000, hashing*1000, "ms", hashing/took)
	t.Logf("RssAnon grew by %.1f MiB while verifying", rssAnon(t)-before)
}

// benchAnchored gives the signatures of some of an inventory's sightings a
// bound, and holds all rows against the journal.
func benchAnchored(t *testing.T, s *Store, most int64) {
	t.Helper()
	ctx := t.Context()
	var n int64
	var took time.Duration
	for _, e := range entriesFrom(t, s, 0) { // not those that this makes
		if e.Action != Sighted || n >= most {
			continue
		}
		at := time.Now()
		must(t, s.Update(ctx, by, func(tx *Tx) error {
			some, err := tx.Anchored(ctx, e, start, inventory.Authority{Role: inventory.RoleJournal, ID: stamps.ID}, func(p string) { t.Error(p) })
			n += some
			return err
		}))
		took += time.Since(at)
	}
	t.Logf("%d signatures got a bound of an anchored checkpoint: %.0f/s", n, float64(n)/took.Seconds())
	before := rssAnon(t)
	c := checker{store: s, report: func(p string) { t.Error(p) }, counts: map[string]int{}}
	at := time.Now()
	must(t, c.run(ctx, c.rows))
	t.Logf("all rows held against the journal in %v, RssAnon grew by %.1f MiB", time.Since(at).Round(time.Millisecond), rssAnon(t)-before)
}

func benchRows(t *testing.T, s *Store, query string, from int64) [][]any {
	t.Helper()
	out, err := queryAll(t.Context(), s.read, func(rows *sql.Rows) ([]any, error) {
		var seq int64
		var v any
		err := rows.Scan(&seq, &v)
		return []any{seq, v}, err
	}, query, from)
	must(t, err)
	return out
}

// benchLast returns the number of the last hash, or -1.
func benchLast(t *testing.T, db *sql.DB) (n int64) {
	t.Helper()
	must(t, db.QueryRowContext(t.Context(), `SELECT COALESCE(MAX(seq), -1) FROM journal_hashes`).Scan(&n))
	return n
}
