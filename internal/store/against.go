package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/signer"
)

// CheckJournal holds the database against its journal and tells which row is
// not what was journaled: an entry that does not hash to what was stored for it,
// bytes in the vault that are not what their digest says, a version of a
// document, an enrolled signer, a signature, its earlier ID or a record that was
// edited, added or taken away by another hand. It calls report with a sentence for each, and for
// no more than 100 of a kind; an error means that it could not look.
//
// Lines of plans are covered by the digest of their plan: rotate.LoadPlan holds
// them to it. What a scan can read again (tags, manifests of artifacts, problems)
// and bounds, which "reseal reverify" recomputes from the vault, are not compared.
//
// It reads the whole database in one state of it, in little memory, and changes
// nothing. That the journal itself is that of before only a checkpoint that was
// anchored elsewhere tells.
func (s *Store) CheckJournal(ctx context.Context, report func(problem string)) error {
	c := checker{store: s, report: report, counts: map[string]int{}}
	return c.run(ctx, c.journal, c.vault, c.rows)
}

// rows compares rows with the journal.
func (c *checker) rows(ctx context.Context) error {
	for _, compare := range []func(context.Context) error{c.documents, c.signers, c.sightings} {
		if err := compare(ctx); errors.Is(err, errUnreadable) {
			c.say("not compared", "what else the database has cannot be compared with the journal: %v", err)
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// errUnreadable is that of a journal or sightings that cannot be compared with.
var errUnreadable = errors.New("it cannot be followed")

// entries runs fn on every entry of the journal, in order.
func (c *checker) entries(ctx context.Context, fn func(journal.Entry) error) error {
	next := entriesOf(ctx, c.db, 0)
	for n := int64(0); ; n++ {
		line, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		e, err := journal.ParseEntry(line)
		if err != nil || e.Index != n {
			return fmt.Errorf("%w: entry %d is not what an entry there can be", errUnreadable, n)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

// documentsAtOnce is how many documents are compared in one reading of the
// journal.
const documentsAtOnce = 20_000

// documentKey names a document.
type documentKey struct{ kind, id string }

func (k documentKey) compare(o documentKey) int {
	return cmp.Or(strings.Compare(k.kind, o.kind), strings.Compare(k.id, o.id))
}

// journaled is a digest that an entry has.
type journaled struct {
	digest string
	entry  int64
}

// documents compares every version of every document, range by range.
func (c *checker) documents(ctx context.Context) error {
	for after := (documentKey{}); ; {
		keys, err := queryAll(ctx, c.db, func(rows *sql.Rows) (k documentKey, err error) {
			err = rows.Scan(&k.kind, &k.id)
			return k, err
		}, `SELECT DISTINCT kind, id FROM documents WHERE (kind, id) > ($1, $2) ORDER BY kind, id LIMIT `+count(c.store.documents), after.kind, after.id)
		if err != nil {
			return err
		}
		last := len(keys) < c.store.documents // and whatever was journaled after it
		upTo := documentKey{}
		if !last {
			upTo = keys[len(keys)-1]
		}
		if err := c.documentsIn(ctx, keys, after, upTo, last); err != nil || last {
			return err
		}
		after = upTo
	}
}

// documentsIn compares the documents after one key and up to another, or all
// after it.
func (c *checker) documentsIn(ctx context.Context, keys []documentKey, after, upTo documentKey, last bool) error {
	have := make(map[documentKey]map[int64]string, len(keys)) // digests by version
	named := map[string][]documentKey{}
	for _, k := range keys {
		have[k] = map[int64]string{}
		named[k.id] = append(named[k.id], k)
	}
	if len(keys) > 0 {
		end := keys[len(keys)-1]
		if err := c.each(ctx, func(rows *sql.Rows) error {
			var k documentKey
			var version int64
			var body sql.RawBytes
			if err := rows.Scan(&k.kind, &k.id, &version, &body); err != nil {
				return failed(err)
			}
			have[k][version] = inventory.Digest(body)
			return nil
		}, `SELECT kind, id, version, body FROM documents WHERE (kind, id) > ($1, $2) AND (kind, id) <= ($3, $4)`, after.kind, after.id, end.kind, end.id); err != nil {
			return err
		}
	}
	told := map[documentKey][]journaled{} // in order of version
	if err := c.entries(ctx, func(e journal.Entry) error {
		k := documentKey{e.Kind, e.Subject}
		switch {
		case e.Kind != "":
			if k.compare(after) > 0 && (last || k.compare(upTo) <= 0) {
				told[k] = append(told[k], journaled{e.Digest, e.Index})
			}
		case e.Digest != "": // an entry of before kinds were journaled, perhaps
			for _, k := range named[e.Subject] {
				if version := int64(len(told[k]) + 1); have[k][version] == e.Digest {
					told[k] = append(told[k], journaled{e.Digest, e.Index})
				}
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for k := range told {
		if have[k] == nil {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, documentKey.compare)
	const changed = "a document is not what was journaled"
	for _, k := range keys {
		for i, t := range told[k] {
			switch digest, ok := have[k][int64(i+1)]; {
			case !ok:
				c.say(changed, "version %d of the %s %q is missing: entry %d of the journal has it with the digest %s", i+1, k.kind, k.id, t.entry, t.digest)
			case digest != t.digest:
				c.say(changed, "version %d of the %s %q was changed: its digest is %s, entry %d of the journal has %s", i+1, k.kind, k.id, digest, t.entry, t.digest)
			}
		}
		for _, version := range slices.Sorted(maps.Keys(have[k])) {
			if version < 1 || version > int64(len(told[k])) {
				c.say(changed, "version %d of the %s %q is in no entry of the journal", version, k.kind, k.id)
			}
		}
	}
	return nil
}

// signers compares the state and the key of every enrolled signer.
func (c *checker) signers(ctx context.Context) error {
	type enrolled struct {
		state signer.State
		journaled
	}
	told := map[string]enrolled{}
	if err := c.entries(ctx, func(e journal.Entry) error {
		if state, ok := strings.CutPrefix(e.Action, "signer."); ok && e.Kind == "" {
			switch st := signer.State(state); st {
			case signer.Observed, signer.Standby, signer.Active, signer.Old, signer.Tainted, signer.Revoked:
				told[e.Subject] = enrolled{st, journaled{e.Digest, e.Index}}
			}
		}
		return nil
	}); err != nil {
		return err
	}
	const changed = "a signer is not what was journaled"
	if err := c.each(ctx, func(rows *sql.Rows) error {
		var id string
		var state signer.State
		var public sql.RawBytes
		if err := rows.Scan(&id, &state, &public); err != nil {
			return failed(err)
		}
		t, ok := told[id]
		delete(told, id)
		switch {
		case !ok:
			c.say(changed, "signer %s is %s, or has a public key, and is in no entry of the journal", id, state)
		case state != t.state:
			c.say(changed, "signer %s was changed: it is %s, entry %d of the journal made it %s", id, state, t.entry, t.state)
		case inventory.Digest(public) != t.digest:
			c.say(changed, "signer %s was changed: its public key is not the one of entry %d of the journal", id, t.entry)
		}
		return nil
	}, `SELECT id, state, public_key FROM signers WHERE state <> $1 OR public_key <> '' ORDER BY id`, string(signer.Observed)); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(told)) {
		if t := told[id]; t.state != signer.Observed || t.digest != inventory.Digest(nil) {
			c.say(changed, "signer %s was changed: entry %d of the journal made it %s, now it is not enrolled", id, t.entry, t.state)
		}
	}
	return nil
}

// The rows that sightings tell of.
const (
	aSignature = "signature"
	aRecord    = "record"
	aRename    = "earlier ID" // of a signature, with its later one for a digest
)

// rowsSighted runs fn on the rows that sightings tell of: their ID, and the
// digest that the journal has of them, of a signature with what it is on.
func (c *checker) rowsSighted(ctx context.Context, fn func(what, id, digest string) error) error {
	if err := c.each(ctx, func(rows *sql.Rows) error {
		var id, content, repository, digest string
		if err := rows.Scan(&id, &content, &repository, &digest); err != nil {
			return failed(err)
		}
		return fn(aSignature, id, content+" on "+repository+"@"+digest)
	}, `SELECT id, content, repository, digest FROM signatures ORDER BY seq`); err != nil {
		return err
	}
	if err := c.each(ctx, func(rows *sql.Rows) error {
		var id, now string
		if err := rows.Scan(&id, &now); err != nil {
			return failed(err)
		}
		return fn(aRename, id, now)
	}, `SELECT id, now FROM renamed ORDER BY id`); err != nil {
		return err
	}
	return c.each(ctx, func(rows *sql.Rows) error {
		r, err := scanEvidence(rows)
		if err != nil {
			return failed(err)
		}
		digest, err := recordDigest(r)
		if err != nil {
			return err
		}
		return fn(aRecord, r.ID, digest)
	}, `SELECT `+evidenceColumns+` FROM records ORDER BY id`)
}

// telling is one thing that the journal says of a row: that it was seen with a
// digest.
type telling struct{ what, id, digest string }

// tellings runs fn on all that the journal says of signatures and records.
// renamed is the ID that a signature had until then, if it had another.
func (c *checker) tellings(ctx context.Context, fn func(e journal.Entry, t telling, renamed string)) error {
	return c.entries(ctx, func(e journal.Entry) error {
		if e.Action != Sighted {
			return nil
		}
		packed, err := packedVault(ctx, c.db, e.Digest)
		if errors.Is(err, inventory.ErrNotFound) {
			return fmt.Errorf("%w: the sightings of entry %d are missing", errUnreadable, e.Index)
		} else if err != nil {
			return err
		}
		body, err := c.store.unpack(e.Digest, packed)
		if err != nil {
			return fmt.Errorf("%w: the sightings of entry %d are not those that were journaled", errUnreadable, e.Index)
		}
		err = eachSighting(e.Digest, body, func(d journal.Draft) error {
			if d.Action == recordSeen {
				fn(e, telling{aRecord, d.Subject, d.Digest}, "")
			} else if id, was, on, ok := sightedSignature(d); ok {
				fn(e, telling{aSignature, id, d.Digest + " on " + on}, was)
				if was != "" {
					fn(e, telling{aRename, was, id}, "")
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%w: %w", errUnreadable, err)
		}
		return nil
	})
}

// buckets is into how many parts, by ID, the rows and what the journal says of
// them are summed up.
const buckets = 1 << 14

// inOneGo is how many rows of parts that differ are compared in one reading of
// the journal.
const inOneGo = 50_000

// sightings compares signatures and records with what the journal saw, in
// memory that does not grow with their number. Both sides are summed up in one
// reading of each, by a hash that nobody can foresee; only the rows of parts
// whose sums differ are looked at one by one.
func (c *checker) sightings(ctx context.Context) error {
	seed := maphash.MakeSeed()
	part := func(what, id string) int { return int(maphash.String(seed, what+id) % buckets) }
	hash := func(what, id, digest string) uint64 {
		return maphash.Comparable(seed, telling{what, id, digest})
	}
	var sums, sizes [buckets]uint64
	if err := c.tellings(ctx, func(_ journal.Entry, t telling, renamed string) {
		sums[part(t.what, t.id)] += hash(t.what, t.id, t.digest)
		sizes[part(t.what, t.id)]++
		if renamed != "" {
			sums[part(t.what, renamed)] -= hash(t.what, renamed, t.digest)
		}
	}); err != nil {
		return err
	}
	if err := c.rowsSighted(ctx, func(what, id, digest string) error {
		sums[part(what, id)] -= hash(what, id, digest)
		sizes[part(what, id)]++
		return nil
	}); err != nil {
		return err
	}
	var look [buckets]bool
	var some uint64
	for n := range buckets {
		if sums[n] != 0 {
			look[n] = true
			some += sizes[n]
		}
		if some > 0 && (some >= c.store.inOneGo || n == buckets-1) {
			if err := c.oneByOne(ctx, func(what, id string) bool { return look[part(what, id)] }); err != nil {
				return err
			}
			look, some = [buckets]bool{}, 0
		}
	}
	return nil
}

// oneByOne compares some signatures and records.
func (c *checker) oneByOne(ctx context.Context, wanted func(what, id string) bool) error {
	type row struct{ what, id string }
	told := map[row][]journaled{}
	if err := c.tellings(ctx, func(e journal.Entry, t telling, renamed string) {
		if wanted(t.what, t.id) {
			told[row{t.what, t.id}] = append(told[row{t.what, t.id}], journaled{t.digest, e.Index})
		}
		if renamed != "" {
			delete(told, row{t.what, renamed})
		}
	}); err != nil {
		return err
	}
	const changed = "a row is not what was journaled"
	if err := c.rowsSighted(ctx, func(what, id, digest string) error {
		if !wanted(what, id) {
			return nil
		}
		t, ok := told[row{what, id}]
		delete(told, row{what, id})
		switch {
		case !ok:
			c.say(changed, "%s %s is in no entry of the journal", what, id)
		case !slices.ContainsFunc(t, func(j journaled) bool { return j.digest == digest }): // where two IDs became one, either is right
			c.say(changed, "%s %s was changed: the database has it with %s, entry %d of the journal with %s", what, id, digest, t[len(t)-1].entry, t[len(t)-1].digest)
		}
		return nil
	}); err != nil {
		return err
	}
	missing := slices.SortedFunc(maps.Keys(told), func(a, b row) int { return compare(a.what, b.what, a.id, b.id) })
	for _, r := range missing {
		if r.what == aRename { // without it a signature has no better a proof, at worst
			continue
		}
		c.say(changed, "%s %s, which entry %d of the journal saw, is missing", r.what, r.id, told[r][0].entry)
	}
	return nil
}
