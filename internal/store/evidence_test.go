package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/signer"
)

func authority(r inventory.Role, id string) inventory.Authority {
	return inventory.Authority{Role: r, ID: id}
}

func upper(seconds int, a inventory.Authority) inventory.Bound {
	return inventory.Bound{Side: inventory.Upper, Time: start.Add(time.Duration(seconds) * time.Second), Authority: a, Verified: true}
}

// ever returns the one signature of an artifact.
func ever(t *testing.T, s *Store, a inventory.Artifact) inventory.Signature {
	t.Helper()
	all, err := s.SignaturesEver(t.Context(), a)
	must(t, err)
	if len(all) != 1 {
		t.Fatalf("found %d signatures, want 1", len(all))
	}
	return all[0]
}

// testSightings reads the journal as a stranger would: each entry's digest is
// that of a text that says what was seen.
func testSightings(t *testing.T, s *Store) {
	ctx := t.Context()
	a := art(repo, 1)
	a.Tags = []string{"a\ttab", "a\nline", `a\t`, `a\`}
	from := size(t, s)
	must(t, s.Update(ctx, by, func(tx *Tx) error {
		if err := tx.PutSigner(ctx, signer.Record{Identity: key(1), Name: "release", State: signer.Active}); err != nil {
			return err
		}
		if err := tx.PutArtifact(ctx, a); err != nil {
			return err
		}
		for n := range 3 {
			if err := tx.PutSignature(ctx, sig(a, n, key(1))); err != nil {
				return err
			}
		}
		return tx.PutProblem(ctx, inventory.Problem{Repository: repo, Reference: "v2", Problem: "it is broken"})
	}))
	e := entriesFrom(t, s, from)
	wantActions(t, e, "signer.active inventory.sighted") // what people do stays an entry of its own
	wantEqual(t, "subject", e[1].Subject, "9 sightings")
	body, err := s.Vault(ctx, e[1].Digest)
	must(t, err)
	wantEqual(t, "digest of the text", inventory.Digest(body), e[1].Digest)
	lines, err := s.Sightings(ctx, e[1].Digest)
	must(t, err)
	want := []journal.Draft{{Action: "artifact.seen", Subject: a.Ref(), Digest: a.Digest}}
	for _, tag := range a.Tags {
		want = append(want, journal.Draft{Action: "tag.seen", Subject: repo + ":" + tag, Digest: a.Digest})
	}
	for n := range 3 {
		want = append(want, journal.Draft{Action: "signature.seen", Subject: sig(a, n, key(1)).ID + " on " + a.Ref(), Digest: sig(a, n, key(1)).Content})
	}
	wantEqual(t, "sightings", lines, append(want, journal.Draft{Action: "scan.problem", Subject: repo + " v2"}))
	if _, err := s.Sightings(ctx, digest(77)); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("sightings of nothing: got %v, want ErrNotFound", err)
	}
	if _, err := s.Sightings(ctx, putVault(t, s, []byte("a bundle"))); err == nil || !strings.Contains(err.Error(), "no list of sightings") {
		t.Errorf("sightings of something else: got %v", err)
	}
}

// testSightingsBounded sees more in one update than one text holds.
func testSightingsBounded(t *testing.T, s *Store) {
	ctx := t.Context()
	long := strings.Repeat("x", 1<<20)
	from := size(t, s)
	must(t, s.Update(ctx, by, func(tx *Tx) error {
		for n := range 40 {
			if err := tx.sight(ctx, "test", fmt.Sprint(n, long), ""); err != nil {
				return err
			}
		}
		return nil
	}))
	n := 0
	for _, e := range entriesFrom(t, s, from) {
		lines, err := s.Sightings(ctx, e.Digest)
		must(t, err)
		for _, d := range lines {
			if !strings.HasPrefix(d.Subject, fmt.Sprintf("%dxx", n)) {
				t.Fatalf("sighting %d is %.60q", n, d.Subject)
			}
			n++
		}
	}
	wantEqual(t, "sightings", n, 40)
}

// testBounds looks at what is kept of bounds beside them.
func testBounds(t *testing.T, s *Store) {
	ctx := t.Context()
	rekor, tsa, ca := authority(inventory.RoleLog, "rekor"), authority(inventory.RoleTSA, "tsa"), authority(inventory.RoleCA, "fulcio")
	lower := inventory.Bound{Side: inventory.Lower, Time: start.Add(-time.Hour), Authority: ca, Verified: true}
	unverified := upper(-9000, authority(inventory.RoleLog, "forged"))
	unverified.Verified, unverified.Why = false, "its key is not trusted"
	unread := inventory.Bound{Side: inventory.Upper, Authority: authority(inventory.RoleTSA, ""), Why: "it is malformed"} // without a time
	for n, tc := range []struct {
		name        string
		bounds      []inventory.Bound
		requires    []inventory.Authority
		unverified  bool
		upper       int64
		lower       int64
		alone, with []inventory.Authority
	}{
		{name: "nothing"},
		{name: "one proof", bounds: []inventory.Bound{upper(7, tsa)}, upper: start.Unix() + 7, alone: []inventory.Authority{tsa}, with: []inventory.Authority{tsa}},
		{name: "two of one authority", bounds: []inventory.Bound{upper(7, tsa), upper(3, tsa)}, upper: start.Unix() + 3, alone: []inventory.Authority{tsa}, with: []inventory.Authority{tsa}},
		{name: "two of two", bounds: []inventory.Bound{upper(7, tsa), upper(5, rekor)}, upper: start.Unix() + 5, with: []inventory.Authority{rekor, tsa}},
		{name: "the other does not verify", bounds: []inventory.Bound{unverified, unread, upper(7, tsa)}, upper: start.Unix() + 7, alone: []inventory.Authority{tsa}, with: []inventory.Authority{tsa}},
		{name: "keyless", bounds: []inventory.Bound{upper(7, tsa), upper(5, rekor), lower}, requires: []inventory.Authority{ca}, upper: start.Unix() + 5, lower: start.Unix() - 3600,
			alone: []inventory.Authority{ca}, with: []inventory.Authority{ca, rekor, tsa}},
		{name: "keyless, does not verify", bounds: []inventory.Bound{upper(5, rekor)}, requires: []inventory.Authority{ca}, unverified: true, upper: start.Unix() + 5, with: []inventory.Authority{rekor}},
	} {
		a := art("registry.example/"+fmt.Sprint(n), n)
		g := sig(a, n, key(1))
		g.Bounds, g.Requires, g.Verified = tc.bounds, tc.requires, !tc.unverified
		do(t, s, func(tx *Tx) error { return tx.PutSignature(ctx, g) })
		got := ever(t, s, a)
		g.FirstSeen = got.FirstSeen
		wantEqual(t, tc.name, got, g)
		var from, to int64
		must(t, s.read.QueryRowContext(ctx, `SELECT not_before, not_after FROM signatures WHERE id = $1`, g.ID).Scan(&from, &to))
		wantEqual(t, tc.name+": window", []int64{from, to}, []int64{tc.lower, tc.upper})
		for _, by := range []inventory.Authority{rekor, tsa, ca, authority(inventory.RoleLog, "forged"), authority(inventory.RoleCA, "tsa")} {
			page, _, err := s.Signatures(ctx, SignatureFilter{RestsOn: &by, Repository: a.Repository}, SignaturePlace{}, 9)
			must(t, err)
			wantEqual(t, fmt.Sprintf("%s: rests on %v alone", tc.name, by), len(page) == 1, slices.Contains(tc.alone, by))
		}
		do(t, s, func(tx *Tx) error {
			return tx.KeepSignatures(ctx, a.Repository, a.Digest, "", inventory.Formats(), nil)
		})
		do(t, s, func(tx *Tx) error { return tx.PutSignature(ctx, g) }) // there again, so that its authorities are listed
		list, err := s.Authorities(ctx)
		must(t, err)
		var with []inventory.Authority
		for _, a := range list {
			with = append(with, a.Authority)
		}
		wantEqual(t, tc.name+": authorities", with, tc.with)
		do(t, s, func(tx *Tx) error {
			return tx.KeepSignatures(ctx, a.Repository, a.Digest, "", inventory.Formats(), nil)
		})
		list, err = s.Authorities(ctx)
		must(t, err)
		for _, a := range list {
			wantEqual(t, tc.name+": what is gone rests on", []int64{a.Signatures, a.Alone}, []int64{0, 0})
		}
		// Leave nothing for the next.
		_, err = s.write.ExecContext(ctx, `DELETE FROM bounds`)
		must(t, err)
	}
}

// testCopies follows one signature through manifests that hold it with other
// evidence: those that together give all of it, or may yet give some, are remembered, and
// no others.
func testCopies(t *testing.T, s *Store) {
	ctx := t.Context()
	rekor, tsa, other := authority(inventory.RoleLog, "rekor"), authority(inventory.RoleTSA, "tsa"), authority(inventory.RoleTSA, "other")
	type step struct {
		manifest   int
		bounds     []inventory.Bound
		unverified bool
		gone       bool // before it
		want       []int
	}
	failing := upper(1, tsa)
	failing.Verified, failing.Why = false, "no"
	for n, tc := range []struct {
		name   string
		format inventory.Format
		steps  []step
	}{
		{"a tag moves to a manifest with as much", inventory.Legacy, []step{{manifest: 1, bounds: []inventory.Bound{upper(1, rekor)}, want: []int{1}},
			{manifest: 2, bounds: []inventory.Bound{upper(1, rekor)}, want: []int{2}}, {manifest: 3, bounds: []inventory.Bound{upper(1, rekor), upper(2, tsa)}, want: []int{3}}}},
		{"a tag moves to one with less", inventory.Legacy, []step{{manifest: 1, bounds: []inventory.Bound{upper(1, rekor)}, want: []int{1}}, {manifest: 2, want: []int{2, 1}},
			{manifest: 3, want: []int{3, 1}}, {manifest: 4, want: []int{4, 1}}, {manifest: 5, bounds: []inventory.Bound{upper(1, rekor)}, want: []int{5}}}},
		{"each with something of its own", inventory.LegacyAtt, []step{{manifest: 1, bounds: []inventory.Bound{upper(1, rekor)}, want: []int{1}},
			{manifest: 2, bounds: []inventory.Bound{upper(1, tsa)}, want: []int{2, 1}}, {manifest: 3, bounds: []inventory.Bound{upper(1, other)}, want: []int{3, 1, 2}},
			{manifest: 4, want: []int{4, 1, 2, 3}}, {manifest: 2, bounds: []inventory.Bound{upper(1, tsa)}, want: []int{2, 1, 3}}}},
		{"a proof that no longer verifies", inventory.Legacy, []step{{manifest: 1, bounds: []inventory.Bound{upper(1, tsa)}, want: []int{1}}, {manifest: 2, bounds: []inventory.Bound{failing}, want: []int{2, 1}}}},
		{"one that does not verify", inventory.Legacy, []step{{manifest: 1, want: []int{1}}, {manifest: 2, unverified: true, want: []int{2, 1}}}},
		{"one that verifies at last", inventory.Legacy, []step{{manifest: 1, unverified: true, want: []int{1}}, {manifest: 2, want: []int{2, 1}}}},
		{"a lookalike of what cannot be checked yet", inventory.Legacy, []step{{manifest: 1, bounds: []inventory.Bound{failing}, want: []int{1}},
			{manifest: 2, bounds: []inventory.Bound{failing}, want: []int{2, 1}}, {manifest: 3, bounds: []inventory.Bound{failing}, want: []int{3, 1, 2}}}},
		{"a lookalike of what does not verify yet", inventory.Bundle, []step{{manifest: 1, unverified: true, want: []int{1}}, {manifest: 2, unverified: true, want: []int{1, 2}}}},
		{"a second bundle with nothing new", inventory.Bundle, []step{{manifest: 1, bounds: []inventory.Bound{upper(1, rekor)}, want: []int{1}}, {manifest: 2, want: []int{1}},
			{manifest: 3, bounds: []inventory.Bound{upper(1, rekor)}, want: []int{1}}}},
		{"a second bundle with another proof", inventory.Bundle, []step{{manifest: 1, bounds: []inventory.Bound{upper(1, rekor)}, want: []int{1}},
			{manifest: 2, bounds: []inventory.Bound{upper(1, tsa)}, want: []int{1, 2}}, {manifest: 1, bounds: []inventory.Bound{upper(1, rekor)}, want: []int{1, 2}}}},
		{"a second bundle with all of it and more", inventory.Bundle, []step{{manifest: 1, bounds: []inventory.Bound{upper(1, rekor)}, want: []int{1}},
			{manifest: 2, bounds: []inventory.Bound{upper(1, tsa), upper(1, rekor)}, want: []int{2}}, {manifest: 1, bounds: []inventory.Bound{upper(1, rekor)}, want: []int{2}}}},
		{"a second referrer that verifies", inventory.Referrer, []step{{manifest: 1, unverified: true, want: []int{1}}, {manifest: 2, want: []int{2, 1}}, {manifest: 1, unverified: true, want: []int{2, 1}}}},
		{"another file", inventory.Detached, []step{{manifest: 1, bounds: []inventory.Bound{upper(1, rekor)}, want: []int{1}}, {manifest: 2, bounds: []inventory.Bound{upper(2, tsa)}, want: []int{1, 2}}}},
		{"gone, and back in another bundle", inventory.Bundle, []step{{manifest: 1, bounds: []inventory.Bound{upper(1, rekor)}, want: []int{1}}, {manifest: 2, gone: true, want: []int{2, 1}}}},
	} {
		a := art("registry.example/"+fmt.Sprint(n), n)
		for i, st := range tc.steps {
			g := sig(a, n, key(1))
			g.Format, g.Manifest, g.Bounds, g.Verified = tc.format, digest(st.manifest), st.bounds, !st.unverified
			if st.gone {
				do(t, s, func(tx *Tx) error {
					return tx.KeepSignatures(ctx, a.Repository, a.Digest, "", inventory.Formats(), nil)
				})
			}
			do(t, s, func(tx *Tx) error { return tx.PutSignature(ctx, g) })
			wantActions(t, do(t, s, func(tx *Tx) error { return tx.PutSignature(ctx, g) }), "") // it changes nothing twice
			var want []string
			for _, m := range st.want {
				want = append(want, digest(m))
			}
			got, err := s.Copies(ctx, g.ID)
			must(t, err)
			wantEqual(t, fmt.Sprintf("%s, step %d", tc.name, i+1), got, want)
			wantEqual(t, tc.name+": its own manifest", ever(t, s, a).Manifest, want[0])
		}
	}
	if _, err := s.Copies(ctx, "none"); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("copies of no signature: got %v, want ErrNotFound", err)
	}
}

// testMergeKeeps puts a signature again and again with whatever evidence: what
// verified once stays, and its copies together give all of it.
func testMergeKeeps(t *testing.T, s *Store) {
	ctx := t.Context()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		a := art("registry.example/"+fmt.Sprint(n), n)
		format := rapid.SampledFrom(inventory.Formats()).Draw(t, "format")
		gives := map[string][]inventory.Signature{} // by manifest
		proven := map[inventory.Bound]bool{}
		verified := false
		for range rapid.IntRange(1, 6).Draw(t, "sightings") {
			g := sig(a, n, key(1))
			g.Format, g.Manifest = format, digest(rapid.IntRange(1, 4).Draw(t, "manifest"))
			if known := gives[g.Manifest]; len(known) > 0 {
				g = known[0] // the same bytes say the same
			} else {
				g.Bounds = nil
				for _, id := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 3, rapid.ID).Draw(t, "authorities") {
					b := upper(0, authority(inventory.RoleTSA, id))
					b.Verified = rapid.Bool().Draw(t, "proof verifies")
					g.Bounds = append(g.Bounds, b)
				}
				g.Verified = rapid.Bool().Draw(t, "verifies")
				gives[g.Manifest] = append(gives[g.Manifest], g)
			}
			for _, b := range g.Bounds {
				if b.Verified {
					proven[b] = true
				}
			}
			verified = verified || g.Verified
			if err := s.Update(ctx, by, func(tx *Tx) error { return tx.PutSignature(ctx, g) }); err != nil {
				t.Fatal(err)
			}
		}
		all, err := s.SignaturesEver(ctx, a)
		if err != nil || len(all) != 1 {
			t.Fatal(len(all), err)
		}
		have := map[inventory.Bound]bool{}
		for _, b := range all[0].Bounds {
			if b.Verified {
				have[b] = true
			}
		}
		if len(have) != len(proven) || all[0].Verified != verified {
			t.Fatalf("proven are %v and verified is %v, kept are %v and %v", proven, verified, have, all[0].Verified)
		}
		copies, err := s.Copies(ctx, all[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		again := gives[copies[0]][0]
		for _, m := range copies[1:] {
			again = inventory.Merge(again, gives[m][0])
		}
		again.FirstSeen, again.Manifest = all[0].FirstSeen, all[0].Manifest
		count := map[inventory.Bound]int{}
		for _, b := range all[0].Bounds {
			count[b]++
		}
		for _, b := range again.Bounds {
			count[b]--
		}
		for b, n := range count {
			if n != 0 {
				t.Fatalf("copies %v give %v and not %v: %v", copies, again.Bounds, all[0].Bounds, b)
			}
		}
		if again.Verified != all[0].Verified {
			t.Fatalf("by its copies %v verified is %v, want %v", copies, again.Verified, all[0].Verified)
		}
	})
}

// testReverified replaces what is known by what was recomputed.
func testReverified(t *testing.T, s *Store) {
	ctx := t.Context()
	a := art(repo, 1)
	tsa, rekor := authority(inventory.RoleTSA, "tsa"), authority(inventory.RoleLog, "rekor")
	g := sig(a, 1, key(1))
	g.Bounds = []inventory.Bound{upper(5, tsa), upper(9, rekor)}
	do(t, s, func(tx *Tx) error { return tx.PutSignature(ctx, g) })
	known := ever(t, s, a)
	reverify := func(old, now inventory.Signature) []journal.Entry {
		t.Helper()
		return do(t, s, func(tx *Tx) error { return tx.Reverified(ctx, old, now) })
	}
	wantActions(t, reverify(known, known), "")

	now := known // the timestamp authority is not trusted any more
	now.Bounds = slices.Clone(known.Bounds)
	now.Bounds[0].Verified, now.Bounds[0].Why = false, "its authority is not trusted"
	now.Certificate, now.Value = &signer.Certificate{Serial: "1"}, []byte("signature")
	wantActions(t, reverify(known, now), "signature.reverified")
	now.Value = nil
	wantEqual(t, "a proof taken away", ever(t, s, a), now)
	var to int64
	must(t, s.read.QueryRowContext(ctx, `SELECT not_after FROM signatures`).Scan(&to))
	wantEqual(t, "its upper bound", to, start.Unix()+9)

	known = now // nor is its key
	now.Verified, now.Why, now.Bounds = false, "no known key verifies it", nil
	wantActions(t, reverify(known, now), "signature.reverified")
	wantEqual(t, "everything taken away", ever(t, s, a), now)

	// A scan found another proof meanwhile: that one stays.
	old := now
	late := now
	late.Verified, late.Why, late.Bounds = true, "", []inventory.Bound{upper(3, rekor)}
	do(t, s, func(tx *Tx) error { return tx.PutSignature(ctx, late) })
	now.Bounds = []inventory.Bound{upper(4, tsa)}
	reverify(old, now)
	got := ever(t, s, a)
	wantEqual(t, "what came meanwhile", []any{got.Verified, got.Why, got.Bounds}, []any{true, "", []inventory.Bound{upper(4, tsa), upper(3, rekor)}})

	if err := s.Update(ctx, by, func(tx *Tx) error {
		return tx.Reverified(ctx, sig(a, 9, key(1)), sig(a, 9, key(1)))
	}); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("a signature nobody knows: got %v, want ErrNotFound", err)
	}
}

// testIdentified learns by whom a signature is.
func testIdentified(t *testing.T, s *Store) {
	ctx := t.Context()
	a := art(repo, 1)
	unknown := sig(a, 1, signer.Identity{Kind: signer.Unknown})
	unknown.Verified, unknown.Why, unknown.Bounds = false, "no known key verifies it", nil
	do(t, s, func(tx *Tx) error {
		tx.Record(journal.Draft{Action: "test"})
		return errors.Join(tx.PutSignature(ctx, unknown), tx.PutReissue(ctx, Reissue{Plan: "p", Seq: 1, Format: inventory.Legacy, SignatureID: unknown.ID}))
	})
	old := ever(t, s, a)
	now := old
	now.ID, now.Signer, now.Verified, now.Why = sig(a, 2, key(1)).ID, key(1), true, ""
	now.Bounds = []inventory.Bound{upper(1, authority(inventory.RoleTSA, "tsa"))}
	e := do(t, s, func(tx *Tx) error { return tx.Reverified(ctx, old, now) })
	wantActions(t, e, "signature.identified")
	if !strings.Contains(e[0].Subject, old.ID) || !strings.HasPrefix(e[0].Subject, now.ID) {
		t.Errorf("the entry's subject is %q: it should name both", e[0].Subject)
	}
	wantEqual(t, "signature", ever(t, s, a), now)
	rest, err := s.SignaturesOf(ctx, a, "p")
	must(t, err)
	wantEqual(t, "without the plan that made it", len(rest), 0)

	// Both are known, for a scan had the key before it was reverified.
	b := art(other, 2)
	first, second := sig(b, 3, signer.Identity{Kind: signer.Unknown}), sig(b, 4, key(1))
	first.Verified, first.Why, first.Bounds = false, "no known key verifies it", nil
	second.Manifest = digest(88)
	second.Bounds = []inventory.Bound{upper(1, authority(inventory.RoleTSA, "tsa"))}
	do(t, s, func(tx *Tx) error { return tx.PutSignature(ctx, first) })
	do(t, s, func(tx *Tx) error {
		return errors.Join(tx.PutSignature(ctx, second), tx.KeepSignatures(ctx, b.Repository, b.Digest, "", inventory.Formats(), []string{second.ID}))
	})
	both, err := s.SignaturesEver(ctx, b)
	must(t, err)
	was, is := both[0], both[1]
	found := was
	found.ID, found.Signer, found.Verified, found.Why = second.ID, key(1), true, ""
	found.Bounds = []inventory.Bound{upper(2, authority(inventory.RoleLog, "rekor"))}
	wantActions(t, do(t, s, func(tx *Tx) error { return tx.Reverified(ctx, was, found) }), "signature.identified")
	is.Bounds = append(is.Bounds, found.Bounds...)
	is.FirstSeen = was.FirstSeen
	wantEqual(t, "both in one", ever(t, s, b), is)
	copies, err := s.Copies(ctx, second.ID)
	must(t, err)
	wantEqual(t, "copies", copies, []string{second.Manifest, first.Manifest})
}

// testLocations tells apart where the signatures of one artifact are held.
func testLocations(t *testing.T, s *Store) {
	ctx := t.Context()
	a := art(repo, 1)
	here, there, bundle := sig(a, 1, key(1)), sig(a, 2, key(1)), sig(a, 3, key(1))
	here.Location, there.Location, bundle.Format = repo, other, inventory.Bundle
	put := func() {
		t.Helper()
		do(t, s, func(tx *Tx) error {
			return errors.Join(tx.PutSignature(ctx, here), tx.PutSignature(ctx, there), tx.PutSignature(ctx, bundle))
		})
	}
	for _, tc := range []struct {
		name, location string
		formats        []inventory.Format
		seen           []string
		left           []string
	}{
		{"of no format", "", nil, nil, []string{here.ID, there.ID, bundle.ID}},
		{"of one format, here", "", []inventory.Format{inventory.Legacy}, nil, []string{there.ID, bundle.ID}},
		{"of one format, here by name", repo, []inventory.Format{inventory.Legacy}, nil, []string{there.ID, bundle.ID}},
		{"of one format, there", other, []inventory.Format{inventory.Legacy, inventory.LegacyAtt}, nil, []string{here.ID, bundle.ID}},
		{"of another format, there", other, []inventory.Format{inventory.Bundle}, nil, []string{here.ID, there.ID, bundle.ID}},
		{"of every format, here, one seen", "", inventory.Formats(), []string{bundle.ID}, []string{there.ID, bundle.ID}},
		{"elsewhere", "registry.example/elsewhere", inventory.Formats(), nil, []string{here.ID, there.ID, bundle.ID}},
	} {
		put()
		do(t, s, func(tx *Tx) error { return tx.KeepSignatures(ctx, repo, a.Digest, tc.location, tc.formats, tc.seen) })
		left, err := s.SignaturesOf(ctx, a, "")
		must(t, err)
		var ids []string
		for _, g := range left {
			ids = append(ids, g.ID)
			wantEqual(t, "location", g.Location, map[string]string{there.ID: other}[g.ID])
		}
		wantEqual(t, tc.name, ids, tc.left)
	}
}

// testRecords imports records twice and asks for them.
func testRecords(t *testing.T, s *Store) {
	ctx := t.Context()
	var all []inventory.Record
	for n := range 20 {
		all = append(all, inventory.Record{ID: fmt.Sprintf("%02d", n), Source: "ci", By: key(n % 4).ID(), Kind: []inventory.RecordKind{inventory.RecordCI, inventory.RecordKMS}[n/10], Signer: key(n % 2).ID(), Key: "arn:aws:kms:key", Digest: digest(n % 3),
			Run: "https://ci.example/1", Principal: "alice", Time: start.Add(time.Duration(n) * time.Minute), Failed: n%5 == 0})
	}
	put := func() []journal.Entry {
		t.Helper()
		return do(t, s, func(tx *Tx) error {
			for _, r := range all {
				if err := tx.PutRecord(ctx, r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	e := put()
	wantActions(t, e, strings.TrimSpace(strings.Repeat("record.seen ", len(all))))
	wantEqual(t, "subject", e[3].Subject, "03")
	wantActions(t, put(), "")
	changed := all[3]
	changed.Principal = "mallory"
	wantActions(t, do(t, s, func(tx *Tx) error { return tx.PutRecord(ctx, changed) }), "") // a record is what it was
	for _, f := range []RecordFilter{{}, {Kind: inventory.RecordCI}, {Kind: inventory.RecordKMS, Signer: key(1).ID()}, {Kind: "none"}, {Signer: key(1).ID()}, {Digest: digest(2)}, {Signer: key(0).ID(), Digest: digest(1)}, {Signer: "none"},
		{From: start.Add(5 * time.Minute)}, {Until: start.Add(5 * time.Minute)}, {Signer: key(1).ID(), From: start.Add(3*time.Minute + time.Millisecond), Until: start.Add(9*time.Minute + time.Millisecond)}} {
		var want []inventory.Record
		for _, r := range all {
			if (f.Kind == "" || r.Kind == f.Kind) && (f.Signer == "" || r.Signer == f.Signer) && (f.Digest == "" || r.Digest == f.Digest) && !r.Time.Before(f.From) && (f.Until.IsZero() || r.Time.Before(f.Until)) {
				want = append(want, r)
			}
		}
		for _, limit := range []int{1, 7, 100} {
			var got []inventory.Record
			for after := ""; ; after = got[len(got)-1].ID {
				page, err := s.EvidenceRecords(ctx, f, after, limit)
				must(t, err)
				if len(page) == 0 {
					break
				}
				got = append(got, page...)
			}
			wantEqual(t, fmt.Sprintf("%+v in pages of %d", f, limit), got, want)
		}
	}
}
