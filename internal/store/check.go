package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
)

// maxFindings bounds what Check tells of each kind: a broken database may have
// a million of one.
const maxFindings = 100

// Check looks for what is wrong in the database: a damaged file, a journal that
// does not hash to what was stored for it, bytes in the vault that are not what
// their digest says, sightings and signed content that are missing, rows that
// point nowhere, contradict each other or are not what was journaled (see
// CheckJournal). It returns what it found, a sentence each; an error means that
// it could not look.
//
// It reads the whole database in one state of it, in little memory, and changes
// nothing.
func (s *Store) Check(ctx context.Context) ([]string, error) {
	var found []string
	c := checker{store: s, report: func(problem string) { found = append(found, problem) }, counts: map[string]int{}}
	checks := []func(context.Context) error{c.journal, c.vault, c.signatures, c.orphans, c.rows}
	if !s.postgres { // PostgreSQL keeps its files whole by itself
		checks = slices.Insert(checks, 0, c.file)
	}
	err := c.run(ctx, checks...)
	return found, err
}

type checker struct {
	store  *Store
	db     querier
	report func(problem string)
	counts map[string]int // by kind
}

// run runs checks on one state of the database.
func (c *checker) run(ctx context.Context, checks ...func(context.Context) error) error {
	return c.store.view(ctx, func(db querier) error {
		c.db = db
		for _, check := range checks {
			err := check(ctx)
			if corruptSQLite(err) {
				c.say("the file is damaged", "%v: restore it from a backup", err)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
}

// say reports what was found, unless there is enough of its kind.
func (c *checker) say(kind, format string, args ...any) {
	switch c.counts[kind]++; {
	case c.counts[kind] < maxFindings:
		c.report(fmt.Sprintf(format, args...))
	case c.counts[kind] == maxFindings:
		c.report(kind + ": and more of these")
	}
}

// each runs fn on every row of a query.
func (c *checker) each(ctx context.Context, fn func(*sql.Rows) error, query string, args ...any) (err error) {
	rows, err := c.db.QueryContext(ctx, query, args...)
	if err != nil {
		return failed(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return failed(rows.Err())
}

func (c *checker) file(ctx context.Context) error {
	return c.each(ctx, func(rows *sql.Rows) error {
		text, err := scanString(rows)
		if err == nil && text != "ok" {
			c.say("the file is damaged", "the file is damaged: %s: restore it from a backup", text)
		}
		return err
	}, fmt.Sprintf(`PRAGMA integrity_check(%d)`, maxFindings))
}

// page is how many rows of the journal, or of what is small, are read at once.
const page = 1000

// journal recomputes the hashes of the journal from its entries, and looks for
// the sightings that they stand for.
func (c *checker) journal(ctx context.Context) error {
	const changed = "the journal was changed"
	hashes := hashReader{db: c.db}
	// A hash that differs from what is stored is told once: what is over it
	// differs too, or does not, and means nothing more.
	type node struct {
		hash     tlog.Hash
		doubtful bool
	}
	var peaks []node // of the complete subtrees so far, the largest first
	for next := int64(0); ; {
		type entry struct {
			seq  int64
			body []byte
		}
		list, err := queryAll(ctx, c.db, func(rows *sql.Rows) (e entry, err error) {
			err = rows.Scan(&e.seq, &e.body)
			return e, err
		}, `SELECT seq, body FROM journal WHERE seq >= $1 ORDER BY seq LIMIT `+count(page), next)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			if _, seq, ok, err := hashes.next(ctx); err != nil {
				return err
			} else if ok {
				c.say(changed, "the journal was changed: it has hashes from number %d on of entries that it has not", seq)
			}
			return nil
		}
		sighted := map[string]int64{}
		for _, e := range list {
			if e.seq != next {
				c.say(changed, "the journal was changed: entries %d to %d are missing", next, e.seq-1)
				return nil // without them nothing after them can be recomputed
			}
			parsed, err := journal.ParseEntry(e.body)
			if err != nil || parsed.Index != e.seq {
				c.say(changed, "the journal was changed: entry %d is not what an entry there can be: %v", e.seq, err)
			} else if parsed.Action == Sighted {
				sighted[parsed.Digest] = e.seq
			}
			h := node{hash: tlog.RecordHash(e.body)}
			for level, size := 0, next; ; level, size = level+1, size>>1 {
				stored, _, ok, err := hashes.next(ctx)
				if err != nil {
					return err
				}
				differs := ok && stored != h.hash
				switch {
				case !ok:
					c.say(changed, "the journal was changed: the hashes of entry %d are missing", e.seq)
					return nil
				case differs && level == 0:
					c.say(changed, "the journal was changed: entry %d does not hash to what was stored for it", e.seq)
				case differs && !h.doubtful:
					c.say(changed, "the journal was changed: a hash over entries up to %d is not that of what it is over", e.seq)
				}
				h = node{stored, differs}
				if size&1 == 0 {
					break
				}
				left := peaks[len(peaks)-1]
				peaks = peaks[:len(peaks)-1]
				h = node{tlog.NodeHash(left.hash, h.hash), left.doubtful || h.doubtful}
			}
			peaks = append(peaks, h)
			next++
		}
		if err := c.inVault(ctx, sighted); err != nil {
			return err
		}
	}
}

// hashReader reads the stored hashes of the journal in order.
type hashReader struct {
	db    querier
	at    int64
	ahead []tlog.Hash
}

// next returns the next hash and its number; ok is false after the last.
func (r *hashReader) next(ctx context.Context) (h tlog.Hash, seq int64, ok bool, err error) {
	if len(r.ahead) == 0 {
		expected := r.at
		r.ahead, err = queryAll(ctx, r.db, func(rows *sql.Rows) (h tlog.Hash, err error) {
			var raw []byte
			var seq int64
			if err := rows.Scan(&seq, &raw); err != nil {
				return h, err
			}
			if len(raw) == len(h) && seq == expected { // else it equals no hash
				copy(h[:], raw)
			}
			expected++
			return h, nil
		}, `SELECT seq, hash FROM journal_hashes WHERE seq >= $1 ORDER BY seq LIMIT `+count(page), r.at)
		if err != nil || len(r.ahead) == 0 {
			return h, r.at, false, err
		}
	}
	h, seq = r.ahead[0], r.at
	r.ahead, r.at = r.ahead[1:], r.at+1
	return h, seq, true, nil
}

// inVault looks for the sightings of entries, by digest.
func (c *checker) inVault(ctx context.Context, sighted map[string]int64) error {
	if len(sighted) == 0 {
		return nil
	}
	var q query
	digests := make([]string, 0, len(sighted))
	for d := range sighted {
		digests = append(digests, d)
	}
	in(&q, "digest", digests)
	there, err := queryAll(ctx, c.db, scanString, `SELECT digest FROM vault`+q.where(), q.args...)
	if err != nil {
		return err
	}
	slices.SortFunc(digests, func(a, b string) int { return int(sighted[a] - sighted[b]) })
	for _, d := range digests {
		if !slices.Contains(there, d) {
			c.say("sightings are missing", "the sightings that entry %d of the journal stands for are missing: the vault has no %s", sighted[d], d)
		}
	}
	return nil
}

// vault recomputes the digest of everything in the vault.
func (c *checker) vault(ctx context.Context) error {
	const changed = "the vault was changed"
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxVaultItem))
	if err != nil {
		return fmt.Errorf("vault compression: %w", err)
	}
	defer dec.Close()
	return c.each(ctx, func(rows *sql.Rows) error {
		var digest string
		var packed sql.RawBytes
		if err := rows.Scan(&digest, &packed); err != nil {
			return failed(err)
		}
		h := sha256.New()
		if err := dec.Reset(bytes.NewReader(packed)); err != nil {
			return fmt.Errorf("vault: %w", err)
		}
		n, err := io.Copy(h, io.LimitReader(dec, maxVaultItem+1))
		switch {
		case err != nil:
			c.say(changed, "the vault was changed: %s cannot be read: %v", digest, err)
		case n > maxVaultItem:
			c.say(changed, "the vault was changed: %s is larger than anything kept there", digest)
		case "sha256:"+hex.EncodeToString(h.Sum(nil)) != digest:
			c.say(changed, "the vault was changed: what it keeps under %s are not those bytes", digest)
		}
		return nil
	}, `SELECT digest, body FROM vault ORDER BY digest`)
}

// signatures recomputes what rows of signatures repeat of their bounds.
func (c *checker) signatures(ctx context.Context) error {
	var s stored
	var lower, upper int64
	var single []bool // what the rows of bounds say
	compare := func() {
		if s.ID == "" {
			return
		}
		wantLower, wantUpper := window(s.Bounds)
		same := lower == wantLower && upper == wantUpper
		for i, b := range s.Bounds {
			same = same && single[i] == (s.Verified && alone(b, s.Bounds))
		}
		if !same {
			c.say("a signature contradicts itself", "signature %s: what is kept of its time is not what its bounds say: recompute it with \"reseal reverify\"", s.ID)
		}
	}
	err := c.each(ctx, func(rows *sql.Rows) error {
		var g stored
		var from, to int64
		var side, role, authority sql.NullString
		var at sql.NullInt64
		var verified, only sql.NullBool
		if err := rows.Scan(&g.seq, &g.ID, &g.Verified, &from, &to, &side, &at, &role, &authority, &verified, &only); err != nil {
			return failed(err)
		}
		if g.seq != s.seq || s.ID == "" {
			compare()
			s, lower, upper, single = g, from, to, single[:0]
		}
		if side.Valid && side.String != requires {
			s.Bounds = append(s.Bounds, inventory.Bound{Side: inventory.Side(side.String), Time: moment(at.Int64), Verified: verified.Bool,
				Authority: inventory.Authority{Role: inventory.Role(role.String), ID: authority.String}})
			single = append(single, only.Bool)
		}
		return nil
	}, `SELECT g.seq, g.id, g.verified, g.not_before, g.not_after, b.side, b.time, b.role, b.authority, b.verified, b.alone
		FROM signatures g LEFT JOIN bounds b ON b.signature = g.seq ORDER BY g.seq, b.n`)
	compare()
	return err
}

// orphans looks for rows that point nowhere.
func (c *checker) orphans(ctx context.Context) error {
	for _, o := range []struct{ what, query string }{
		{"signature %s is by a signer that is not there",
			`SELECT g.id FROM signatures g WHERE NOT EXISTS (SELECT 1 FROM signers s WHERE s.id = g.signer)`},
		{"signature %s is on an artifact that is not there",
			`SELECT g.id FROM signatures g WHERE NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.repository = g.repository AND a.digest = g.digest)`},
		{"the bytes of signature %s are missing from the vault: scan its repository again",
			`SELECT g.id FROM signatures g WHERE NOT EXISTS (SELECT 1 FROM vault v WHERE v.digest = g.content)`},
		{"a bound is of a signature that is not there (number %s)",
			`SELECT DISTINCT CAST(b.signature AS TEXT) FROM bounds b WHERE NOT EXISTS (SELECT 1 FROM signatures g WHERE g.seq = b.signature)`},
		{"a copy is of a signature that is not there (number %s)",
			`SELECT DISTINCT CAST(c.signature AS TEXT) FROM copies c WHERE NOT EXISTS (SELECT 1 FROM signatures g WHERE g.seq = c.signature)`},
	} {
		if err := c.each(ctx, func(rows *sql.Rows) error {
			id, err := scanString(rows)
			if err == nil {
				c.say(fmt.Sprintf(o.what, "..."), o.what, id)
			}
			return failed(err)
		}, o.query+` LIMIT `+count(maxFindings)); err != nil {
			return err
		}
	}
	return nil
}
