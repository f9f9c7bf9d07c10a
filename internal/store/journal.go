package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/reseal/reseal/journal"
	"golang.org/x/mod/sumdb/tlog"
)

// Update runs fn in a write transaction. Everything fn changes and every entry
// it records is committed together, or nothing is. fn must record at least one
// entry if it changes anything, and must not use the Tx after it returns.
//
// Updates are serial, whichever process they come from.
func (s *Store) Update(ctx context.Context, by journal.Author, fn func(*Tx) error) error {
	if err := by.Check(); err != nil {
		return err
	}
	sqlTx, conn, release, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer release()
	defer func() { _ = sqlTx.Rollback() }() // after a commit it does nothing; a panic in fn must not keep the writer
	tx := &Tx{tx: sqlTx, conn: conn, store: s, by: by, now: s.now().UTC().Truncate(time.Second), prepared: map[string]*sql.Stmt{}, observed: map[string]bool{}}
	if err := tx.run(ctx, fn); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("database: %w, and nothing of this is recorded", err)
	}
	if err := s.committed(sqlTx.Commit()); err != nil {
		return err
	}
	s.remember(tx.observed)
	return nil
}

// Tx is a write transaction in which everything changed is journaled.
type Tx struct {
	tx    *sql.Tx
	conn  *sql.Conn // with PostgreSQL
	store *Store
	by    journal.Author
	now   time.Time

	prepared map[string]*sql.Stmt
	changed  bool
	recorded []journal.Draft
	body     []byte // of the sightings not yet in the vault
	sighted  int64  // lines of body
	anchored []anchoring

	observed map[string]bool // IDs of signers that have a row, of those this transaction came across
	artifact [2]string       // repository and digest of the last one put
	next     int64           // number of the next signature; 0: not known yet
}

func (t *Tx) run(ctx context.Context, fn func(*Tx) error) error {
	if err := fn(t); err != nil {
		return err
	}
	if err := t.keepSightings(ctx); err != nil {
		return err
	}
	t.recordAnchored()
	if t.changed && len(t.recorded) == 0 {
		return errors.New("database: a change without a journal entry was refused")
	}
	return t.appendJournal(ctx)
}

// Record adds an entry to the journal.
func (t *Tx) Record(d journal.Draft) { t.recorded = append(t.recorded, d) }

// exec changes rows and returns how many.
func (t *Tx) exec(ctx context.Context, query string, args ...any) (int64, error) {
	n, err := t.scratch(ctx, query, args...)
	t.changed = t.changed || n > 0
	return n, err
}

// scratch changes rows that nothing is believed for: where a scan stands, and
// bytes under their own digest.
func (t *Tx) scratch(ctx context.Context, query string, args ...any) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, failed(err)
	}
	if err := checkArgs(args); err != nil {
		return 0, err
	}
	var r sql.Result
	var err error
	if t.store.postgres { // pgx prepares by itself, for the life of a connection
		r, err = t.tx.ExecContext(ctx, query, args...)
	} else {
		stmt := t.prepared[query]
		if stmt == nil {
			if stmt, err = t.tx.PrepareContext(ctx, query); err != nil {
				return 0, failed(err)
			}
			t.prepared[query] = stmt
		}
		// A statement here takes microseconds; watching the context for it would
		// take a goroutine.
		r, err = stmt.ExecContext(context.WithoutCancel(ctx), args...)
	}
	if err != nil {
		return 0, failed(err)
	}
	return r.RowsAffected()
}

// checkArgs refuses text that is no text in one of the databases, in what is
// written and in what is asked for, so that both give one answer.
func checkArgs(args []any) error {
	for _, a := range args {
		if text, ok := a.(string); ok {
			if err := checkText(text); err != nil {
				return fmt.Errorf("database: %w", err)
			}
		}
	}
	return nil
}

// checkText refuses what no text column of both databases holds.
func checkText(s string) error {
	if strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) {
		return fmt.Errorf("%.80q has a NUL character or is not UTF-8: it cannot be kept as text", s)
	}
	return nil
}

// maxName bounds what rows are found by, in bytes: an index of PostgreSQL holds
// no more than three such names.
const maxName = 800

// checkNames refuses names that are too long to find anything by.
func checkNames(names ...string) error {
	for _, name := range names {
		if len(name) > maxName {
			return fmt.Errorf("database: %.80q... is longer than %d bytes: it cannot be kept as a name", name, maxName)
		}
	}
	return nil
}

// clean makes text that only describes fit for a text column. What names
// something is never cleaned: it would name something else.
func clean(s string) string {
	if checkText(s) == nil {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// Sighted is the action of the entries that stand for what a scan or an import
// saw: a million sightings are not a million entries. The entry's digest is
// that of a text in the vault, with a line for each sighting; see Sightings.
const Sighted = "inventory.sighted"

// maxSightings bounds the text of one entry, in bytes.
const maxSightings = 32 << 20

var (
	escape   = strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`)
	unescape = strings.NewReplacer(`\\`, `\`, `\t`, "\t", `\n`, "\n")
)

// sight adds a line to the transaction's sightings.
func (t *Tx) sight(ctx context.Context, action, subject, digest string) error {
	if strings.ContainsAny(subject, "\\\t\n") {
		subject = escape.Replace(subject)
	}
	t.body = append(t.body, action...)
	t.body = append(t.body, '\t')
	t.body = append(t.body, subject...)
	t.body = append(t.body, '\t')
	t.body = append(t.body, digest...)
	t.body = append(t.body, '\n')
	t.sighted++
	if len(t.body) < maxSightings {
		return nil
	}
	return t.keepSightings(ctx)
}

func (t *Tx) keepSightings(ctx context.Context) error {
	if t.sighted == 0 {
		return nil
	}
	digest, err := t.PutVault(ctx, t.body)
	if err != nil {
		return err
	}
	t.Record(journal.Draft{Action: Sighted, Subject: strconv.FormatInt(t.sighted, 10) + " sightings", Digest: digest})
	t.body, t.sighted = t.body[:0], 0
	return nil
}

// Sightings returns what an entry of the action Sighted stands for, by the
// entry's digest, in the order in which it was seen.
func (s *Store) Sightings(ctx context.Context, digest string) ([]journal.Draft, error) {
	body, err := s.Vault(ctx, digest)
	if err != nil {
		return nil, err
	}
	var out []journal.Draft
	err = eachSighting(digest, body, func(d journal.Draft) error {
		out = append(out, d)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// eachSighting runs fn on every line of a text of sightings, which the vault
// keeps under the digest.
func eachSighting(digest string, body []byte, fn func(journal.Draft) error) error {
	n := 0
	for line := range bytes.Lines(body) {
		n++
		f := strings.Split(strings.TrimSuffix(string(line), "\n"), "\t")
		if len(f) != 3 {
			return fmt.Errorf("%s in the vault is no list of sightings: line %d has %d fields, not 3", digest, n, len(f))
		}
		if strings.Contains(f[1], `\`) {
			f[1] = unescape.Replace(f[1])
		}
		if err := fn(journal.Draft{Action: f[0], Subject: f[1], Digest: f[2]}); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tx) appendJournal(ctx context.Context) error {
	if len(t.recorded) == 0 {
		return nil
	}
	var next int64
	if err := t.tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(seq)+1, 0) FROM journal`).Scan(&next); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	peaks, err := t.peaks(ctx, next)
	if err != nil {
		return err
	}
	var entries, hashes []any
	at := tlog.StoredHashIndex(0, next)
	keep := func(h tlog.Hash) { // a hash of its own, for it is inserted later
		hashes = append(hashes, at, h[:])
		at++
	}
	for _, d := range t.recorded {
		// An entry of text that is none would not be in canonical form.
		e := journal.Entry{Index: next, Time: t.now, Actor: clean(t.by.Actor), Reason: clean(t.by.Reason),
			Action: clean(d.Action), Subject: clean(d.Subject), Digest: clean(d.Digest), Kind: clean(d.Kind)}
		body, err := e.Marshal()
		if err != nil {
			return err
		}
		if entries, err = t.insertPairs(ctx, insertEntries, append(entries, next, string(body)), false); err != nil {
			return err
		}
		h := tlog.RecordHash(body)
		keep(h)
		for size := next; size&1 == 1; size >>= 1 { // as tlog.StoredHashes, without reading back
			h = tlog.NodeHash(peaks[len(peaks)-1], h)
			peaks = peaks[:len(peaks)-1]
			keep(h)
		}
		peaks = append(peaks, h)
		next++
		if hashes, err = t.insertPairs(ctx, insertHashes, hashes, false); err != nil {
			return err
		}
	}
	if _, err := t.insertPairs(ctx, insertHashes, hashes, true); err != nil {
		return err
	}
	_, err = t.insertPairs(ctx, insertEntries, entries, true)
	return err
}

// peaks returns the roots of the complete subtrees of the first size entries of
// the journal, the largest first.
func (t *Tx) peaks(ctx context.Context, size int64) ([]tlog.Hash, error) {
	var at []int64
	for level := 62; level >= 0; level-- {
		if size>>level&1 == 1 {
			at = append(at, tlog.StoredHashIndex(level, size>>level-1))
		}
	}
	found, err := readHashes(ctx, t.tx, at)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return found, nil
}

const insertEntries, insertHashes = `INSERT INTO journal (seq, body) VALUES `, `INSERT INTO journal_hashes (seq, hash) VALUES `

// rowsAtOnce is how many rows one statement inserts: one costs more than a row,
// and one of very many rows more than a few.
const rowsAtOnce = 32

// insertPairs inserts rows of the journal or of its hashes, as many as fill
// statements, or all, and returns those that are left.
func (t *Tx) insertPairs(ctx context.Context, insert string, values []any, all bool) ([]any, error) {
	for len(values) >= 2*rowsAtOnce || all && len(values) > 0 {
		n := min(len(values), 2*rowsAtOnce)
		if _, err := t.exec(ctx, insert+pairs(n/2), values[:n]...); err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
		values = append(values[:0], values[n:]...)
	}
	return values, nil
}

// pairs returns the placeholders of n rows of two columns.
func pairs(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "($%d, $%d)", 2*i+1, 2*i+2)
	}
	return b.String()
}

// JournalCheckpoint returns what commits to the journal as it is now.
func (s *Store) JournalCheckpoint(ctx context.Context) (journal.Checkpoint, error) {
	var size int64
	if err := s.read.QueryRowContext(ctx, `SELECT COALESCE(MAX(seq)+1, 0) FROM journal`).Scan(&size); err != nil {
		return journal.Checkpoint{}, fmt.Errorf("journal: %w", err)
	}
	return s.JournalCheckpointAt(ctx, size)
}

// JournalCheckpointAt returns what commits to the first size entries of the
// journal, by its stored hashes.
func (s *Store) JournalCheckpointAt(ctx context.Context, size int64) (journal.Checkpoint, error) {
	root, err := tlog.TreeHash(size, s.hashes(ctx))
	if err != nil {
		return journal.Checkpoint{}, fmt.Errorf("journal: %w", err)
	}
	return journal.Checkpoint{Size: size, Root: root}, nil
}

// hashes reads the stored hashes of the journal.
func (s *Store) hashes(ctx context.Context) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) { return readHashes(ctx, s.read, indexes) })
}

// JournalProof returns the proof that one entry is among the first size entries
// of the journal, by its stored hashes.
func (s *Store) JournalProof(ctx context.Context, index, size int64) (journal.Proof, error) {
	if err := s.haveEntries(ctx, size); err != nil {
		return journal.Proof{}, err
	}
	if index < 0 || index >= size {
		return journal.Proof{}, fmt.Errorf("journal: entry %d is not among the first %d", index, size)
	}
	var line []byte
	if err := row(ctx, s.read, []any{&line}, `SELECT body FROM journal WHERE seq = $1`, index); err != nil {
		return journal.Proof{}, fmt.Errorf("journal: entry %d: %w", index, err)
	}
	hashes, err := tlog.ProveRecord(size, index, s.hashes(ctx))
	if err != nil {
		return journal.Proof{}, fmt.Errorf("journal: %w", err)
	}
	return journal.Proof{Schema: journal.ProofSchema, Entry: string(line), Index: index, Size: size, Hashes: append(tlog.RecordProof{}, hashes...)}, nil
}

// JournalConsistency returns the proof that the first size entries of the
// journal begin with the first old ones, by its stored hashes.
func (s *Store) JournalConsistency(ctx context.Context, old, size int64) (journal.Consistency, error) {
	if err := s.haveEntries(ctx, size); err != nil {
		return journal.Consistency{}, err
	}
	if old < 0 || old > size {
		return journal.Consistency{}, fmt.Errorf("journal: the first %d entries do not begin with %d", size, old)
	}
	out := journal.Consistency{Schema: journal.ConsistencySchema, Old: old, Size: size, Hashes: tlog.TreeProof{}}
	if old == 0 { // any journal begins with none
		return out, nil
	}
	hashes, err := tlog.ProveTree(size, old, s.hashes(ctx))
	if err != nil {
		return journal.Consistency{}, fmt.Errorf("journal: %w", err)
	}
	out.Hashes = append(out.Hashes, hashes...)
	return out, nil
}

// haveEntries refuses a size that the journal does not have yet.
func (s *Store) haveEntries(ctx context.Context, size int64) error {
	var have int64
	if err := row(ctx, s.read, []any{&have}, `SELECT COALESCE(MAX(seq)+1, 0) FROM journal`); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if size < 0 || size > have {
		return fmt.Errorf("journal: it has %d entries, not %d", have, size)
	}
	return nil
}

func readHashes(ctx context.Context, db querier, indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	if len(indexes) == 0 {
		return out, nil
	}
	var q query
	marks := make([]string, len(indexes))
	for i, at := range indexes {
		marks[i] = q.mark(at)
	}
	type hashRow struct {
		seq int64
		raw []byte
	}
	found, err := queryAll(ctx, db, func(rows *sql.Rows) (h hashRow, err error) {
		err = rows.Scan(&h.seq, &h.raw)
		return h, err
	}, `SELECT seq, hash FROM journal_hashes WHERE seq IN (`+strings.Join(marks, ", ")+`)`, q.args...)
	if err != nil {
		return nil, err
	}
	for i, at := range indexes {
		n := slices.IndexFunc(found, func(h hashRow) bool { return h.seq == at })
		switch {
		case n < 0:
			return nil, fmt.Errorf("journal hash %d is missing", at)
		case len(found[n].raw) != tlog.HashSize:
			return nil, fmt.Errorf("journal hash %d is %d bytes long", at, len(found[n].raw))
		}
		copy(out[i][:], found[n].raw)
	}
	return out, nil
}

// Journal returns a function that yields the entries from seq on, one a call,
// as their canonical bytes, then io.EOF.
func (s *Store) Journal(ctx context.Context, from int64) func() ([]byte, error) {
	return entriesOf(ctx, s.read, from)
}

func entriesOf(ctx context.Context, db querier, from int64) func() ([]byte, error) {
	var page [][]byte
	next := from
	return func() ([]byte, error) {
		if len(page) == 0 {
			var err error
			page, err = queryAll(ctx, db, scanBytes,
				`SELECT body FROM journal WHERE seq >= $1 ORDER BY seq LIMIT 1000`, next)
			if err != nil {
				return nil, fmt.Errorf("journal: %w", err)
			}
			if len(page) == 0 {
				return nil, io.EOF
			}
			next += int64(len(page))
		}
		line := page[0]
		page = page[1:]
		return line, nil
	}
}

func scanBytes(rows *sql.Rows) ([]byte, error) {
	var b []byte
	err := rows.Scan(&b)
	return b, err
}

func scanString(rows *sql.Rows) (string, error) {
	var v string
	err := rows.Scan(&v)
	return v, err
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// queryAll runs a query whose result is known to be small: a page.
func queryAll[T any](ctx context.Context, q querier, scan func(*sql.Rows) (T, error), query string, args ...any) (out []T, err error) {
	if err := checkArgs(args); err != nil {
		return nil, err
	}
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, failed(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, failed(err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, failed(err)
	}
	return out, nil
}

// row runs a query of one row.
func row(ctx context.Context, q querier, into []any, query string, args ...any) error {
	if err := checkArgs(args); err != nil {
		return err
	}
	return failed(q.QueryRowContext(ctx, query, args...).Scan(into...))
}

// view runs fn on one state of the database, however many queries it makes.
func (s *Store) view(ctx context.Context, fn func(querier) error) error {
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return failed(err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	return fn(tx)
}
