package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/signer"
)

// lastSighted returns the newest entry that stands for sightings.
func lastSighted(t *testing.T, s *Store) journal.Entry {
	t.Helper()
	all := entriesFrom(t, s, 0)
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Action == Sighted {
			return all[i]
		}
	}
	t.Fatal("nothing was sighted")
	return journal.Entry{}
}

// anchorEntry gives what an entry saw a bound and returns how many got it, what
// was reported and what was journaled.
func anchorEntry(t *testing.T, s *Store, e journal.Entry, seconds int, id string) (n int64, problems []string, entries []journal.Entry) {
	t.Helper()
	entries = do(t, s, func(tx *Tx) (err error) {
		n, err = tx.Anchored(t.Context(), e, start.Add(time.Duration(seconds)*time.Second), authority(inventory.RoleJournal, id), func(p string) { problems = append(problems, p) })
		return err
	})
	return n, problems, entries
}

func testAnchored(t *testing.T, s *Store) {
	ctx := t.Context()
	rekor, tsa, one, two := authority(inventory.RoleLog, "rekor"), authority(inventory.RoleTSA, "tsa"), authority(inventory.RoleJournal, "one"), authority(inventory.RoleJournal, "two")
	forged := upper(1, tsa)
	forged.Verified, forged.Why = false, "it is forged"
	lower := inventory.Bound{Side: inventory.Lower, Time: start, Authority: authority(inventory.RoleCA, "ca"), Verified: true}
	a := art(repo, 1)
	var sigs []inventory.Signature
	for n, bounds := range [][]inventory.Bound{nil, {upper(5, rekor)}, {upper(500, rekor)}, {upper(500, rekor), upper(400, tsa)}, {forged}, {lower, forged}, {upper(5, rekor)}} {
		g := sig(a, n, key(1))
		g.Bounds, g.Verified = bounds, n != 6
		sigs = append(sigs, g)
	}
	// More than one batch, and not a power of two.
	for n := len(sigs); n < anchoredBatch+77; n++ {
		g := sig(a, n, key(1))
		g.Bounds, g.Requires = nil, nil
		sigs = append(sigs, g)
	}
	do(t, s, func(tx *Tx) error {
		for i, g := range sigs {
			var err error
			if g.Content, err = tx.PutVault(ctx, []byte(g.ID)); err != nil {
				return err
			}
			sigs[i] = g
			if err := tx.PutSignature(ctx, g); err != nil {
				return err
			}
		}
		return nil
	})
	e := lastSighted(t, s)
	do(t, s, func(tx *Tx) error {
		return tx.KeepSignatures(ctx, repo, a.Digest, "", inventory.Formats(), []string{sigs[0].ID, sigs[1].ID, sigs[3].ID})
	})
	want := map[string]inventory.Signature{}
	read := func() []inventory.Signature {
		t.Helper()
		all, err := s.SignaturesEver(ctx, a)
		must(t, err)
		return all
	}
	for _, g := range read() {
		want[g.ID] = g
	}
	anchor := func(seconds int, by inventory.Authority, changed int64) {
		t.Helper()
		n, problems, entries := anchorEntry(t, s, e, seconds, by.ID)
		wantEqual(t, "signatures that got a bound", n, changed)
		wantEqual(t, "problems", problems, []string(nil))
		if changed > 0 {
			wantActions(t, entries, "journal.anchored")
			for _, part := range []string{fmt.Sprint(changed, " signatures"), start.Add(time.Duration(seconds) * time.Second).Format(time.RFC3339), by.ID} {
				if !strings.Contains(entries[0].Subject, part) {
					t.Errorf("the entry's subject is %q, want %q in it", entries[0].Subject, part)
				}
			}
		} else {
			wantActions(t, entries, "")
		}
		for _, g := range read() {
			known := want[g.ID]
			known.Bounds = inventory.Merge(known, inventory.Signature{Bounds: []inventory.Bound{upper(seconds, by)}}).Bounds
			want[g.ID] = known
			wantEqual(t, "signature", g, known)
		}
		checkStore(t, s) // the window, and what rests on one authority alone
	}
	all := int64(len(sigs))
	anchor(100, one, all)
	anchor(100, one, 0)
	anchor(110, one, 0) // later proofs add nothing
	anchor(90, one, all)
	rests := func(by inventory.Authority) (ids []string) {
		t.Helper()
		page, _, err := s.Signatures(ctx, SignatureFilter{RestsOn: &by, Gone: true, Digest: a.Digest}, SignaturePlace{}, 1000)
		must(t, err)
		for _, g := range page {
			ids = append(ids, g.ID)
		}
		slices.Sort(ids)
		return ids
	}
	wantEqual(t, "rest on the log alone, as consumers see it", rests(rekor), []string{sigs[1].ID, sigs[2].ID})
	if ids := rests(one); len(ids) != len(sigs)-4 || slices.Contains(ids, sigs[1].ID) || slices.Contains(ids, sigs[3].ID) {
		t.Errorf("%d of %d rest on the journal alone", len(ids), len(sigs))
	}
	anchor(95, two, all)
	wantEqual(t, "rest on one of two anchors", len(rests(one))+len(rests(two)), 0)
	wantEqual(t, "rest on the log alone still", rests(rekor), []string{sigs[1].ID, sigs[2].ID})

	list, err := s.Authorities(ctx)
	must(t, err)
	for _, sum := range list {
		if w, ok := map[inventory.Authority][2]int64{rekor: {2, 1}, one: {3, 0}}[sum.Authority]; ok { // those that are not gone
			wantEqual(t, "what hangs on "+sum.ID, [2]int64{sum.Signatures, sum.Alone}, w)
		}
	}

	// Whatever else comes to be known, the bounds stay.
	journalBounds := func(g inventory.Signature) (n int) {
		for _, b := range g.Bounds {
			if b.Authority.Role == inventory.RoleJournal {
				n++
			}
		}
		return n
	}
	again := sigs[1]
	again.Manifest, again.Bounds = digest(777), []inventory.Bound{upper(3, tsa), upper(5, rekor)}
	do(t, s, func(tx *Tx) error { return tx.PutSignature(ctx, again) })
	got := want[again.ID]
	for _, g := range read() {
		if g.ID == again.ID {
			got = g
		}
	}
	wantEqual(t, "bounds by the journal after another sighting", journalBounds(got), 2)
	wantEqual(t, "its manifest gives all that any can", got.Manifest, again.Manifest)
	copies, err := s.Copies(ctx, again.ID)
	must(t, err)
	wantEqual(t, "its copies", copies, []string{again.Manifest})
	now := got
	now.Bounds = []inventory.Bound{upper(5, rekor)} // what its bytes still prove
	now.ID, now.Signer = sig(a, 9000, key(2)).ID, key(2)
	do(t, s, func(tx *Tx) error { return tx.Reverified(ctx, got, now) })
	for _, g := range read() {
		if g.ID == now.ID {
			wantEqual(t, "bounds after reverifying", g.Bounds, []inventory.Bound{upper(5, rekor), upper(90, one), upper(95, two)})
		}
	}
	checkStore(t, s)

	// The entry that says what its ID is now proves no more than the one before.
	n, problems, _ := anchorEntry(t, s, lastSighted(t, s), 200, "one")
	wantEqual(t, "by a later entry", []any{n, problems}, []any{int64(0), []string(nil)})
	n, problems, _ = anchorEntry(t, s, lastSighted(t, s), 200, "three")
	wantEqual(t, "by a later entry and another authority", []any{n, problems}, []any{int64(1), []string(nil)})
	n, problems, _ = anchorEntry(t, s, e, 200, "four")
	wantEqual(t, "with the one that has another ID", []any{n, problems}, []any{all, []string(nil)})
	checkStore(t, s)

	// They are checked by being given anew: what was forged does not come back.
	edit(t, s, `UPDATE bounds SET time = time - 50 WHERE role = 'journal' AND authority = 'one'`)
	edit(t, s, `UPDATE signatures SET not_after = (SELECT MIN(time) FROM bounds WHERE signature = seq AND verified AND side = 'upper')`)
	edit(t, s, `INSERT INTO bounds (signature, n, side, time, role, authority, verified, alone, why) SELECT seq, 99, 'upper', 9, 'journal', 'forged', FALSE, FALSE, '' FROM signatures WHERE id = $1`, sigs[0].ID)
	entries := do(t, s, func(tx *Tx) error {
		if _, err := tx.DropAnchored(ctx); err != nil {
			return err
		}
		_, err := tx.Anchored(ctx, e, start.Add(90*time.Second), one, func(p string) { t.Error(p) })
		return err
	})
	wantActions(t, entries, "journal.unanchored journal.anchored")
	for _, g := range read() {
		var by []inventory.Bound
		for _, b := range g.Bounds {
			if b.Authority.Role == inventory.RoleJournal {
				by = append(by, b)
			}
		}
		wantEqual(t, "bounds given anew", by, []inventory.Bound{upper(90, one)})
	}
	checkStore(t, s)
	do(t, s, func(tx *Tx) error {
		n, err := tx.DropAnchored(ctx)
		wantEqual(t, "dropped", n, all)
		return err
	})
	checkStore(t, s)
	wantActions(t, do(t, s, func(tx *Tx) error {
		_, err := tx.DropAnchored(ctx)
		return err
	}), "")
}

// testAnchoredRefuses gives Anchored what it must not believe.
func testAnchoredRefuses(t *testing.T, s *Store) {
	ctx := t.Context()
	a := art(repo, 1)
	good, edited := sig(a, 1, key(1)), sig(a, 2, key(1))
	do(t, s, func(tx *Tx) error { return errors.Join(tx.PutSignature(ctx, good), tx.PutSignature(ctx, edited)) })
	e := lastSighted(t, s)
	other := e
	other.Reason = "another"
	missing := e
	missing.Index = 4711
	anchor := authority(inventory.RoleJournal, "tsa")
	for name, tc := range map[string]struct {
		entry journal.Entry
		at    time.Time
		by    inventory.Authority
	}{
		"an entry that is another": {other, start, anchor},
		"an entry that is missing": {missing, start, anchor},
		"no time":                  {e, time.Time{}, anchor},
		"another role":             {e, start, authority(inventory.RoleTSA, "tsa")},
		"nobody":                   {e, start, authority(inventory.RoleJournal, "")},
		"a name that is too long":  {e, start, authority(inventory.RoleJournal, strings.Repeat("x", maxName+1))},
	} {
		if err := s.Update(ctx, by, func(tx *Tx) error {
			_, err := tx.Anchored(ctx, tc.entry, tc.at, tc.by, func(string) {})
			return err
		}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	edit(t, s, `UPDATE signatures SET content = $1 WHERE id = $2`, digest(9), edited.ID)
	n, problems, _ := anchorEntry(t, s, e, 10, "tsa")
	if n != 1 || len(problems) != 1 || !strings.Contains(problems[0], edited.ID) || !strings.Contains(problems[0], digest(9)) || !strings.Contains(problems[0], edited.Content) {
		t.Errorf("%d got a bound, reported is %q", n, problems)
	}
	for _, g := range everOf(t, s, a) {
		has := slices.ContainsFunc(g.Bounds, func(b inventory.Bound) bool { return b.Authority == anchor })
		wantEqual(t, "has a bound", has, g.ID == good.ID)
	}
	edit(t, s, `UPDATE signatures SET content = $1 WHERE id = $2`, edited.Content, edited.ID)
	putDocument(t, s, KindIncident, "I-1", "{}")
	all := entriesFrom(t, s, 0)
	n, _, _ = anchorEntry(t, s, all[len(all)-1], 10, "tsa")
	wantEqual(t, "an entry that saw nothing", n, int64(0))
	edit(t, s, `UPDATE vault SET body = $1 WHERE digest = $2`, s.enc.EncodeAll([]byte("forged"), nil), e.Digest)
	if err := s.Update(ctx, by, func(tx *Tx) error {
		_, err := tx.Anchored(ctx, e, start, anchor, func(string) {})
		return err
	}); err == nil || !strings.Contains(err.Error(), e.Digest) {
		t.Errorf("forged sightings: got %v", err)
	}
}

func everOf(t *testing.T, s *Store, a inventory.Artifact) []inventory.Signature {
	t.Helper()
	all, err := s.SignaturesEver(t.Context(), a)
	must(t, err)
	return all
}

// testIdentifiedAnchored learns by whom a signature is after its bytes were
// anchored: the earlier bound stays its own.
func testIdentifiedAnchored(t *testing.T, s *Store) {
	ctx := t.Context()
	a := art(repo, 1)
	unknown := sig(a, 1, signer.Identity{Kind: signer.Unknown})
	unknown.Verified, unknown.Why, unknown.Bounds = false, "no known key verifies it", nil
	do(t, s, func(tx *Tx) error { return tx.PutSignature(ctx, unknown) })
	anchorEntry(t, s, lastSighted(t, s), 10, "tsa")
	old := ever(t, s, a)
	now := old
	now.ID, now.Signer, now.Verified, now.Why, now.Bounds = sig(a, 2, key(1)).ID, key(1), true, "", nil
	twin := now
	twin.Content = digest(99) // a scan that has the key sees it in other bytes first
	do(t, s, func(tx *Tx) error { return tx.PutSignature(ctx, twin) })
	do(t, s, func(tx *Tx) error { return tx.Reverified(ctx, old, now) })
	n, problems, _ := anchorEntry(t, s, lastSighted(t, s), 20, "tsa")
	wantEqual(t, "by the entry that says whose it is", []any{n, problems}, []any{int64(0), []string(nil)})
	wantEqual(t, "bounds", ever(t, s, a).Bounds, []inventory.Bound{upper(10, authority(inventory.RoleJournal, "tsa"))})
}
