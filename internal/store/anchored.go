package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
)

// anchoredBatch is how many signatures get their bound with one set of
// statements.
const anchoredBatch = 512

// anchoring is what a transaction gave the signatures of consecutive entries.
type anchoring struct {
	at          int64
	by          string
	first, last int64 // numbers of the entries
	n           int64 // of signatures
}

// Anchored gives the signatures that an entry of the action Sighted says were
// first seen, or first known by their signer, an upper bound: they existed by
// the time at, when a checkpoint over the entry was stamped. The authority has
// the role inventory.RoleJournal and the ID of who stamped it. One that has an
// earlier bound of that authority keeps it. Other entries give nothing.
//
// A signature of which other bytes are kept than the entry saw gets nothing and
// is reported. One that got another ID since, when its signer became known, is
// found by that; one that is not there any more gets nothing.
//
// It returns how many signatures have a bound that is new or earlier. Of
// however many, one entry of the action "journal.anchored" is made for what one
// transaction does with one stamp.
//
// That the stamp verifies, and that the journal up to the entry is that of the
// stamped checkpoint, is for the caller to check before.
func (t *Tx) Anchored(ctx context.Context, entry journal.Entry, at time.Time, by inventory.Authority, report func(problem string)) (n int64, err error) {
	if by.Role != inventory.RoleJournal || by.ID == "" || at.Unix() <= 0 {
		return 0, fmt.Errorf("database: an anchored entry is proved by an authority of the role %q and at a time, not by %q %q at %s", inventory.RoleJournal, by.Role, by.ID, at)
	}
	if err := checkNames(by.ID); err != nil {
		return 0, err
	}
	if entry.Action != Sighted {
		return 0, nil
	}
	if err := t.isJournaled(ctx, entry); err != nil {
		return 0, err
	}
	body, err := t.store.Vault(ctx, entry.Digest)
	if err != nil {
		return 0, err
	}
	stamp := anchoring{at: ceiling(at), by: by.ID, first: entry.Index, last: entry.Index}
	var batch []sighted
	give := func() error {
		some, err := t.giveBounds(ctx, stamp, batch, report)
		n, batch = n+some, batch[:0]
		return err
	}
	if err := eachSighting(entry.Digest, body, func(d journal.Draft) error {
		id, _, _, ok := sightedSignature(d)
		if !ok {
			return nil
		}
		if batch = append(batch, sighted{id, d.Digest, d.Action == signatureSeen}); len(batch) < anchoredBatch {
			return nil
		}
		return give()
	}); err != nil {
		return 0, err
	}
	if err := give(); err != nil || n == 0 {
		return n, err
	}
	stamp.n = n
	if last := len(t.anchored) - 1; last >= 0 && t.anchored[last].at == stamp.at && t.anchored[last].by == stamp.by {
		t.anchored[last].first = min(t.anchored[last].first, stamp.first)
		t.anchored[last].last = max(t.anchored[last].last, stamp.last)
		t.anchored[last].n += n
	} else {
		t.anchored = append(t.anchored, stamp)
	}
	return n, nil
}

// recordAnchored journals what Anchored did.
func (t *Tx) recordAnchored() {
	for _, a := range t.anchored {
		t.Record(journal.Draft{Action: "journal.anchored", Subject: fmt.Sprintf("%d signatures of entries %d to %d existed by %s: %s",
			a.n, a.first, a.last, moment(a.at).Format(time.RFC3339), a.by)})
	}
	t.anchored = nil
}

// isJournaled refuses an entry that the journal does not have.
func (t *Tx) isJournaled(ctx context.Context, e journal.Entry) error {
	line, err := e.Marshal()
	if err != nil {
		return err
	}
	var have []byte
	err = row(ctx, t.tx, []any{&have}, `SELECT body FROM journal WHERE seq = $1`, e.Index)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("journal: entry %d: %w", e.Index, err)
	}
	if !bytes.Equal(have, line) {
		return fmt.Errorf("journal: entry %d is not the one that was given", e.Index)
	}
	return nil
}

// sighted is a signature as a sighting tells of it.
type sighted struct {
	id, content string
	seen        bool // for the first time: what is kept of it are these bytes
}

// giveBounds gives signatures a bound and returns how many.
func (t *Tx) giveBounds(ctx context.Context, stamp anchoring, batch []sighted, report func(string)) (int64, error) {
	if len(batch) == 0 {
		return 0, nil
	}
	ids := make([]string, len(batch))
	for i, s := range batch {
		ids[i] = s.id
	}
	type kept struct {
		seq         int64
		id, content string
	}
	read := func(selected, id string, ids []string) ([]kept, error) {
		var q query
		in(&q, id, padded(ids))
		return queryAll(ctx, t.tx, func(rows *sql.Rows) (k kept, err error) {
			err = rows.Scan(&k.seq, &k.id, &k.content)
			return k, err
		}, selected+q.where(), q.args...)
	}
	found, err := read(`SELECT seq, id, content FROM signatures`, "id", ids)
	if err != nil {
		return 0, err
	}
	byID := make(map[string]kept, len(found))
	for _, k := range found {
		byID[k.id] = k
	}
	var seqs []int64
	var missing []string
	content := map[string]string{}
	for _, s := range batch {
		switch k, ok := byID[s.id]; {
		case !ok:
			missing = append(missing, s.id)
			content[s.id] = s.content
		case k.content == s.content:
			seqs = append(seqs, k.seq)
		case s.seen: // when two IDs became one, the bytes of either are kept
			report(fmt.Sprintf("signature %s: entry %d of the journal saw it in %s, now it is kept in %s: the row was changed by another hand, and the entry proves nothing for it",
				s.id, stamp.first, s.content, k.content))
		}
	}
	if len(missing) > 0 {
		if found, err = read(`SELECT g.seq, r.id, g.content FROM renamed r JOIN signatures g ON g.id = r.now`, "r.id", missing); err != nil {
			return 0, err
		}
		for _, k := range found {
			if k.content == content[k.id] {
				seqs = append(seqs, k.seq)
			}
		}
	}
	if len(seqs) == 0 {
		return 0, nil
	}
	seqs = padded(seqs)
	run := func(statement string, values ...any) (int64, error) {
		var q query
		at := make([]string, len(seqs))
		for i, seq := range seqs {
			at[i] = q.mark(seq)
		}
		marks := []any{strings.Join(at, ", ")}
		for _, v := range values {
			marks = append(marks, q.mark(v))
		}
		return t.exec(ctx, fmt.Sprintf(statement, marks...), q.args...)
	}
	earlier, err := run(`UPDATE bounds SET time = %[2]s WHERE signature IN (%[1]s) AND side = 'upper' AND role = %[3]s AND authority = %[4]s AND verified AND time > %[2]s`,
		stamp.at, string(inventory.RoleJournal), stamp.by)
	if err != nil {
		return 0, err
	}
	added, err := run(`INSERT INTO bounds (signature, n, side, time, role, authority, verified, alone, why)
		SELECT g.seq, (SELECT COALESCE(MAX(b.n) + 1, 0) FROM bounds b WHERE b.signature = g.seq), 'upper', CAST(%[2]s AS BIGINT), CAST(%[3]s AS TEXT), CAST(%[4]s AS TEXT), TRUE,
			g.verified AND NOT EXISTS (SELECT 1 FROM bounds b WHERE b.signature = g.seq AND b.side = 'upper' AND b.verified), ''
		FROM signatures g WHERE g.seq IN (%[1]s) AND NOT EXISTS (SELECT 1 FROM bounds b
			WHERE b.signature = g.seq AND b.side = 'upper' AND b.role = CAST(%[3]s AS TEXT) AND b.authority = CAST(%[4]s AS TEXT) AND b.verified)`,
		stamp.at, string(inventory.RoleJournal), stamp.by)
	if err != nil {
		return 0, err
	}
	if added > 0 { // what rested on another anchor alone does not any more
		if _, err := run(`UPDATE bounds SET alone = FALSE WHERE signature IN (%[1]s) AND side = 'upper' AND role = %[2]s AND authority <> %[3]s AND alone`,
			string(inventory.RoleJournal), stamp.by); err != nil {
			return 0, err
		}
	}
	if added+earlier > 0 {
		if _, err := run(`UPDATE signatures SET not_after = %[2]s WHERE seq IN (%[1]s) AND (not_after = 0 OR not_after > %[2]s)`, stamp.at); err != nil {
			return 0, err
		}
	}
	return added + earlier, nil
}

// padded repeats the last of some values until their number is a power of two,
// so that a list of them makes few different statements.
func padded[T any](values []T) []T {
	for n := len(values); n&(n-1) != 0; n++ {
		values = append(values, values[len(values)-1])
	}
	return values
}

// DropAnchored takes away every bound that Anchored gave and returns how many.
// Whoever owns the database can write such bounds, and no bytes in the vault
// tell: to check them is to drop them and to give them anew, in the same
// transaction, by the receipts that still verify. It makes one entry of the
// action "journal.unanchored".
func (t *Tx) DropAnchored(ctx context.Context) (int64, error) {
	role := string(inventory.RoleJournal)
	if _, err := t.exec(ctx, `UPDATE signatures SET not_after = COALESCE((SELECT MIN(b.time) FROM bounds b
			WHERE b.signature = signatures.seq AND b.side = 'upper' AND b.verified AND b.role <> $1), 0)
		WHERE seq IN (SELECT c.signature FROM bounds c WHERE c.role = $1 AND c.verified)`, role); err != nil {
		return 0, err
	}
	n, err := t.exec(ctx, `DELETE FROM bounds WHERE role = $1`, role)
	if err != nil || n == 0 {
		return 0, err
	}
	t.Record(journal.Draft{Action: "journal.unanchored", Subject: fmt.Sprintf("%d bounds", n)})
	return n, nil
}
