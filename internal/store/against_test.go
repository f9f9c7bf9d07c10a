package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/signer"
)

func journalProblems(t *testing.T, s *Store) (found []string) {
	t.Helper()
	must(t, s.CheckJournal(t.Context(), func(p string) { found = append(found, p) }))
	return found
}

// wantProblems wants problems that say something each, in order.
func wantProblems(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("found %d problems, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range min(len(got), len(want)) {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("found %q, want it to say %q", got[i], want[i])
		}
	}
}

// testEdited edits one row after another by hand, and wants each named.
func testEdited(t *testing.T, s *Store) {
	ctx := t.Context()
	everything(t, s)
	for _, body := range []string{"one", "two", "three"} {
		putDocument(t, s, KindIncident, "I-7", body)
	}
	putDocument(t, s, KindApproval, "I-7", "one") // another document of this name
	do(t, s, func(tx *Tx) error {
		for n := range 30 {
			if err := tx.PutRecord(ctx, inventory.Record{ID: fmt.Sprint("r-", n), Source: "kms", Kind: inventory.RecordKMS, Principal: "alice", Time: start}); err != nil {
				return err
			}
		}
		return nil
	})
	content, err := s.Vault(ctx, inventory.Digest([]byte("some-4-2")))
	must(t, err)
	leaf := lastSighted(t, s)
	type act struct {
		query string
		args  []any
	}
	do1 := func(query string, args ...any) act { return act{query, args} }
	const swap = `UPDATE signatures SET content = CASE WHEN id = 'some-4-2' THEN $1 ELSE $2 END WHERE id IN ('some-4-1', 'some-4-2')`
	for _, tc := range []struct {
		name        string
		spoil, mend act
		want        []string
	}{
		{"document", do1(`UPDATE documents SET body = 'two!' WHERE kind = 'incident' AND id = 'I-7' AND version = 2`), do1(`UPDATE documents SET body = 'two' WHERE kind = 'incident' AND id = 'I-7' AND version = 2`),
			[]string{`version 2 of the incident "I-7" was changed`}},
		{"document, newest version taken away", do1(`UPDATE documents SET kind = 'x', id = '' WHERE kind = 'incident' AND id = 'I-7' AND version = 3`), do1(`UPDATE documents SET kind = 'incident', id = 'I-7' WHERE kind = 'x'`),
			[]string{`version 3 of the incident "I-7" is missing`, `version 3 of the x "" is in no entry`}},
		{"document, the only one of its kind taken away", do1(`DELETE FROM documents WHERE kind = 'approval'`), do1(`INSERT INTO documents (kind, id, version, body) VALUES ('approval', 'I-7', 1, 'one')`),
			[]string{`version 1 of the approval "I-7" is missing`}},
		{"document of another kind put in its place", do1(`UPDATE documents SET id = 'I-8' WHERE kind = 'approval'`), do1(`UPDATE documents SET id = 'I-7' WHERE kind = 'approval'`),
			[]string{`version 1 of the approval "I-7" is missing`, `version 1 of the approval "I-8" is in no entry`}},
		{"document, versions renumbered", do1(`UPDATE documents SET version = 9 WHERE kind = 'incident' AND id = 'I-7' AND version = 2`), do1(`UPDATE documents SET version = 2 WHERE version = 9`),
			[]string{`version 2 of the incident "I-7" is missing`, `version 9 of the incident "I-7" is in no entry`}},
		{"document, an old version put again", do1(`INSERT INTO documents (kind, id, version, body) VALUES ('incident', 'I-7', 4, 'one')`), do1(`DELETE FROM documents WHERE version = 4`),
			[]string{`version 4 of the incident "I-7" is in no entry`}},
		{"signer, state", do1(`UPDATE signers SET state = 'old' WHERE name = 'zoé'`), do1(`UPDATE signers SET state = 'active' WHERE name = 'zoé'`),
			[]string{key(1).ID() + " was changed: it is old, entry 0 of the journal made it active"}},
		{"signer, key", do1(`UPDATE signers SET public_key = 'PEN' WHERE name = 'zoé'`), do1(`UPDATE signers SET public_key = 'PEM' WHERE name = 'zoé'`), []string{key(1).ID() + " was changed: its public key"}},
		{"signer, not enrolled any more", do1(`UPDATE signers SET state = 'observed', public_key = '' WHERE name = 'zoé'`), do1(`UPDATE signers SET state = 'active', public_key = 'PEM' WHERE name = 'zoé'`),
			[]string{key(1).ID() + " was changed: entry 0 of the journal made it active, now it is not enrolled"}},
		{"signer, enrolled by hand", do1(`UPDATE signers SET state = 'active' WHERE id = $1`, key(3).ID()), do1(`UPDATE signers SET state = 'observed' WHERE id = $1`, key(3).ID()), []string{key(3).ID() + " is active"}},
		{"signature", do1(`UPDATE signatures SET content = $1 WHERE id = 'some-4-2'`, inventory.Digest([]byte("some-4-1"))), do1(`UPDATE signatures SET content = $1 WHERE id = 'some-4-2'`, inventory.Digest([]byte("some-4-2"))),
			[]string{"signature some-4-2 was changed"}},
		{"signature, moved to another artifact", do1(`UPDATE signatures SET digest = $1 WHERE id = 'some-4-2'`, digest(5)), do1(`UPDATE signatures SET digest = $1 WHERE id = 'some-4-2'`, digest(4)), []string{"signature some-4-2 was changed"}},
		{"signature, moved to another repository", do1(`UPDATE signatures SET repository = 'x' WHERE id = 'some-4-2'`), do1(`UPDATE signatures SET repository = 'registry.example/some' WHERE id = 'some-4-2'`), []string{"signature some-4-2 was changed"}},
		{"signature, its ID", do1(`UPDATE signatures SET id = 'forged' WHERE id = 'some-4-2'`), do1(`UPDATE signatures SET id = 'some-4-2' WHERE id = 'forged'`), []string{"signature forged is in no entry", "signature some-4-2, which entry"}},
		{"contents of signatures swapped", do1(swap, inventory.Digest([]byte("some-4-1")), inventory.Digest([]byte("some-4-2"))), do1(swap, inventory.Digest([]byte("some-4-2")), inventory.Digest([]byte("some-4-1"))),
			[]string{"signature some-4-1 was changed", "signature some-4-2 was changed"}},
		{"earlier ID", do1(`UPDATE renamed SET now = 'some-4-2' WHERE id = 'renamed-from'`), do1(`UPDATE renamed SET now = 'renamed-to' WHERE id = 'renamed-from'`), []string{"earlier ID renamed-from was changed"}},
		{"earlier ID added", do1(`INSERT INTO renamed (id, now) VALUES ('some-4-1', 'some-4-2')`), do1(`DELETE FROM renamed WHERE id = 'some-4-1'`), []string{"earlier ID some-4-1 is in no entry"}},
		{"record", do1(`UPDATE records SET principal = 'bob' WHERE id = 'r-7'`), do1(`UPDATE records SET principal = 'alice' WHERE id = 'r-7'`), []string{"record r-7 was changed"}},
		{"record, who authenticated it", do1(`UPDATE records SET signed_by = 'bob' WHERE id = 'r-7'`), do1(`UPDATE records SET signed_by = '' WHERE id = 'r-7'`), []string{"record r-7 was changed"}},
		{"record, its time", do1(`UPDATE records SET time = time + 1 WHERE id = 'r-7'`), do1(`UPDATE records SET time = time - 1 WHERE id = 'r-7'`), []string{"record r-7 was changed"}},
		{"record added", do1(`INSERT INTO records (id, source, kind, signer, key_name, digest, message, run, principal, time, failed) VALUES ('forged', '', 'ci', '', '', '', '', '', '', 0, FALSE)`), do1(`DELETE FROM records WHERE id = 'forged'`), []string{"record forged is in no entry"}},
		{"record taken away", do1(`UPDATE records SET id = '' WHERE id = 'r-7'`), do1(`UPDATE records SET id = 'r-7' WHERE id = ''`), []string{"record  is in no entry", "record r-7, which entry"}},
		{"vault", do1(`UPDATE vault SET body = $1 WHERE digest = $2`, s.enc.EncodeAll([]byte("forged"), nil), inventory.Digest(content)), do1(`UPDATE vault SET body = $1 WHERE digest = $2`, s.enc.EncodeAll(content, nil), inventory.Digest(content)),
			[]string{inventory.Digest(content) + " are not those bytes"}},
		{"journal", do1(`UPDATE journal SET body = replace(body, 'alice', 'mallory') WHERE seq = $1`, leaf.Index), do1(`UPDATE journal SET body = replace(body, 'mallory', 'alice') WHERE seq = $1`, leaf.Index),
			[]string{fmt.Sprintf("entry %d does not hash", leaf.Index)}},
	} {
		edit(t, s, tc.spoil.query, tc.spoil.args...)
		// However few are looked at in one go, what is found is the same.
		for _, few := range []int{1, 3, documentsAtOnce} {
			s.documents, s.inOneGo = few, uint64(few)
			found := journalProblems(t, s)
			if few < documentsAtOnce && len(tc.want) > 1 { // in another order, perhaps
				slices.Sort(found)
				slices.Sort(tc.want)
			}
			t.Run(tc.name, func(t *testing.T) { wantProblems(t, found, tc.want...) })
		}
		edit(t, s, tc.mend.query, tc.mend.args...)
		if found := journalProblems(t, s); len(found) > 0 {
			t.Fatalf("%s: mended, and still: %q", tc.name, found)
		}
	}
}

// testNotEdited does whatever changes rows rightly: nothing is reported.
func testNotEdited(t *testing.T, s *Store) {
	ctx := t.Context()
	a := art(repo, 1)
	withBytes := func(tx *Tx, g inventory.Signature, content string) (_ inventory.Signature, err error) {
		g.Content, err = tx.PutVault(ctx, []byte(content))
		return g, err
	}
	put := func(g inventory.Signature, content string) inventory.Signature {
		t.Helper()
		do(t, s, func(tx *Tx) error {
			var err error
			if g, err = withBytes(tx, g, content); err != nil {
				return err
			}
			return tx.PutSignature(ctx, g)
		})
		for _, known := range everOf(t, s, a) {
			if known.ID == g.ID {
				return known
			}
		}
		t.Fatal("it is not there")
		return g
	}
	unknown := func(n int) inventory.Signature {
		g := sig(a, n, signer.Identity{Kind: signer.Unknown})
		g.Verified, g.Why, g.Bounds = false, "no known key verifies it", nil
		return g
	}
	reverify := func(old inventory.Signature, n int) {
		t.Helper()
		now := old
		now.ID, now.Signer, now.Verified, now.Why = sig(a, n, key(1)).ID, key(1), true, ""
		do(t, s, func(tx *Tx) error { return tx.Reverified(ctx, old, now) })
	}
	first := put(unknown(1), "first")
	reverify(first, 11) // gets another ID
	put(sig(a, 11, key(1)), "first, in other bytes")
	put(unknown(1), "first, seen again without its key, in other bytes")

	second := put(unknown(2), "second") // becomes one with another
	put(sig(a, 12, key(1)), "second, in other bytes")
	reverify(second, 12)

	put(sig(a, 3, key(1)), "third") // goes, and comes back with more
	do(t, s, func(tx *Tx) error {
		return tx.KeepSignatures(ctx, repo, a.Digest, "", inventory.Formats(), nil)
	})
	third := sig(a, 3, key(1))
	third.Bounds = append(third.Bounds, upper(9, authority(inventory.RoleTSA, "other")))
	put(third, "third, in other bytes")

	do(t, s, func(tx *Tx) error {
		r := inventory.Record{ID: "r", Source: "ci\x00\xff", By: "someone", Kind: inventory.RecordCI, Time: start.Add(123456789), Run: "\xff"}
		tx.Record(journal.Draft{Action: "signer.lost", Subject: key(1).ID()}) // no state
		tx.Record(journal.Draft{Action: "incident.note", Subject: "I-1", Digest: digest(1)})
		return errors.Join(tx.PutRecord(ctx, r), tx.PutRecord(ctx, inventory.Record{ID: "r", Time: start}),
			tx.PutSigner(ctx, signer.Record{Identity: key(1), Name: "a", State: signer.Active}), tx.PutSigner(ctx, signer.Record{Identity: key(1), Name: "b", State: signer.Old, PublicKey: []byte("PEM")}),
			tx.PutSigner(ctx, signer.Record{Identity: key(5), Name: "c", State: signer.Observed}))
	})
	for _, body := range []string{"", "one", "one", "", "two"} {
		putDocument(t, s, KindIncident, "I-1", body)
		putDocument(t, s, KindPlan, "I-1", body)
	}
	for _, few := range []int{1, 2, documentsAtOnce} {
		s.documents, s.inOneGo = few, uint64(few)
		wantProblems(t, journalProblems(t, s))
	}
	checkStore(t, s)
}

// testOlderEntries has documents that were journaled before entries named their
// kind.
func testOlderEntries(t *testing.T, s *Store) {
	ctx := t.Context()
	old := func(version int, body string) {
		t.Helper()
		do(t, s, func(tx *Tx) error {
			tx.Record(journal.Draft{Action: "incident.opened", Subject: "I-1", Digest: inventory.Digest([]byte(body))})
			tx.Record(journal.Draft{Action: "incident.other", Subject: "I-1", Digest: digest(version)}) // of something else
			_, err := tx.exec(ctx, `INSERT INTO documents (kind, id, version, body) VALUES ($1, 'I-1', $2, $3)`, KindIncident, version, body)
			return err
		})
	}
	old(1, "one")
	old(2, "two")
	putDocument(t, s, KindIncident, "I-1", "three")
	wantProblems(t, journalProblems(t, s))
	edit(t, s, `UPDATE documents SET body = 'forged' WHERE version = 3`)
	wantProblems(t, journalProblems(t, s), `version 3 of the incident "I-1" was changed`)
	edit(t, s, `UPDATE documents SET body = 'three' WHERE version = 3`)
	wantProblems(t, journalProblems(t, s))
	edit(t, s, `UPDATE documents SET body = 'forged' WHERE version = 2`)
	if found := strings.Join(journalProblems(t, s), "\n"); !strings.Contains(found, `version 2 of the incident "I-1"`) {
		t.Errorf("found %s", found)
	}
	edit(t, s, `UPDATE documents SET body = 'two' WHERE version = 2`)
}

// TestAttack has somebody who owns the database, and perhaps the journal's key.
func TestAttack(t *testing.T) {
	t.Parallel()
	t.Run("row edited by hand", func(t *testing.T) {
		eachDatabase(t, func(t *testing.T, location string) { testEdited(t, create(t, location)) })
	})
	t.Run("journal truncated, written anew and signed with the real key", func(t *testing.T) {
		t.Parallel()
		private, public, err := note.GenerateKey(nil, "reseal.test")
		must(t, err)
		sign, err := note.NewSigner(private)
		must(t, err)
		verify, err := note.NewVerifier(public)
		must(t, err)
		s := create(t, filepath.Join(t.TempDir(), "reseal.db"))
		for n := range 9 {
			putDocument(t, s, KindIncident, fmt.Sprint("I-", n), "honest")
		}
		anchor := func() journal.Receipt {
			c, err := s.JournalCheckpoint(t.Context())
			must(t, err)
			signed, err := c.Sign(sign)
			must(t, err)
			return journal.Receipt{Schema: journal.ReceiptSchema, Kind: journal.ReceiptFile, Where: "checkpoint.txt", Checkpoint: string(signed), Time: start}
		}
		export := func() string {
			var b strings.Builder
			must(t, journal.WriteExport(&b, s.Journal(t.Context(), 0), []byte(anchor().Checkpoint)))
			return b.String()
		}
		kept := anchor()
		putDocument(t, s, KindIncident, "I-9", "honest")
		if _, err := journal.VerifyExport(strings.NewReader(export()), verify, kept); err != nil {
			t.Fatalf("before the attack: %v", err)
		}
		for _, at := range []string{`journal WHERE seq >= 6`, `journal_hashes WHERE seq >= 10`, `documents WHERE id >= 'I-6'`} {
			edit(t, s, `DELETE FROM `+at)
		}
		if _, err := journal.VerifyExport(strings.NewReader(export()), verify, kept); err == nil || !strings.Contains(err.Error(), "was cut: it has 6 entries") || !strings.Contains(err.Error(), "checkpoint.txt") {
			t.Errorf("truncated: got %v", err)
		}
		for n := range 5 {
			putDocument(t, s, KindIncident, fmt.Sprint("J-", n), "forged")
		}
		wantProblems(t, journalProblems(t, s)) // by itself the database is in order,
		if _, err := journal.VerifyExport(strings.NewReader(export()), verify); err != nil {
			t.Errorf("and so is its export: %v", err)
		}
		if _, err := journal.VerifyExport(strings.NewReader(export()), verify, kept); err == nil || !strings.Contains(err.Error(), "contradicts the checkpoint of 9 entries anchored in checkpoint.txt") {
			t.Errorf("written anew: got %v", err)
		}
		p, err := s.JournalConsistency(t.Context(), 9, 11)
		must(t, err)
		then, err := kept.Check(verify)
		must(t, err)
		now, err := s.JournalCheckpoint(t.Context())
		must(t, err)
		if p.Check(then, now) == nil {
			t.Error("the journal written anew proves to begin with the old one")
		}
	})
}
