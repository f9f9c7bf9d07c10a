package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/signer"
)

// suite is what every database must pass. open returns a store of its own,
// empty and closed with the test, whose clock is clock.
func suite(t *testing.T, open func(t *testing.T) *Store) {
	for _, tc := range []struct {
		name string
		test func(*testing.T, *Store)
	}{
		{"signer is enrolled, renamed, and told once", testSigner},
		{"signers are listed with what they did", testSigners},
		{"artifact keeps its first sighting", testArtifact},
		{"deployment mark", testDeployed},
		{"artifacts are paged, deployed first", testArtifactPages},
		{"signature keeps its first sighting", testSignature},
		{"signatures of many artifacts", testSignaturesOfAll},
		{"signature gone and back again", testGone},
		{"signatures of a plan are left out", testExceptPlan},
		{"problems", testProblems},
		{"what was taken away is looked at again", testLookAgain},
		{"vault", testVault},
		{"vault edited by hand", testVaultEdited},
		{"documents have versions", testDocuments},
		{"document prefixes are no patterns", testDocumentPrefix},
		{"plan items are paged", testPlanItems},
		{"plan is named by its digest", testNamePlan},
		{"reissues", testReissues},
		{"shards are made once and started again", testShards},
		{"each shard is claimed once", testShardRace},
		{"a lease that ended is taken over", testShardTakenOver},
		{"a lost claim has its shards looked at again", testShardRecheck},
		{"shards of some repositories, deployed first", testShardSelection},
		{"shards that were left alone", testShardLeft},
		{"two plans in one repository", testShardPlans},
		{"progress of shards", testShardProgress},
		{"a transaction for the queue", testShared},
		{"counts", testCounts},
		{"author without name or reason is refused", testNoAuthor},
		{"change without an entry is refused", testNoEntry},
		{"entry without a change is kept", testEntryOnly},
		{"error rolls everything back", testRollback},
		{"cancelled update changes nothing", testCancelled},
		{"one time for one update", testTime},
		{"journal hashes equal the recomputed tree", testJournalHashes},
		{"journal is read page by page", testJournalPages},
		{"journal edited by hand", testJournalEdited},
		{"updates side by side", testConcurrent},
		{"reading while writing sees whole updates", testSnapshot},
		{"every question has the answer of a plain search", testQuestions},
		{"listing while writing", testPagesWhileWriting},
		{"text that is none", testText},
		{"names that are too long", testLongNames},
		{"sightings are read back from the journal", testSightings},
		{"more sightings than one text holds", testSightingsBounded},
		{"bounds", testBounds},
		{"copies of a signature", testCopies},
		{"evidence is only ever added", testMergeKeeps},
		{"reverified", testReverified},
		{"identified", testIdentified},
		{"signatures in other repositories", testLocations},
		{"records of other systems", testRecords},
		{"scan", testScan},
		{"scan that is too old to go on", testScanAge},
		{"referrers", testReferrers},
		{"problems with one reference", testProblemReferences},
		{"anchored entries are bounds", testAnchored},
		{"anchored entries that are not believed", testAnchoredRefuses},
		{"anchored before it was identified", testIdentifiedAnchored},
		{"proofs from the journal", testProofs},
		{"rows that changed rightly", testNotEdited},
		{"documents journaled without their kind", testOlderEntries},
		{"whatever is spoilt is found", testCheck},
		{"version", testVersion},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			tc.test(t, s)
			checkJournal(t, s)
		})
	}
}

const (
	repo  = "registry.example/acme/app"
	other = "registry.example/acme/other"
)

var (
	by       = journal.Author{Actor: "alice", Reason: "test"}
	start    = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	errRefus = errors.New("refused by the test")
)

// clock starts at start and advances a second with every call.
func clock() func() time.Time {
	var mu sync.Mutex
	at := start.Add(-time.Second)
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		at = at.Add(time.Second)
		return at.Add(250 * time.Millisecond)
	}
}

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n) }

func key(n int) signer.Identity {
	return signer.Identity{Kind: signer.Key, Subject: fmt.Sprintf("%064x", n)}
}

func art(repository string, n int) inventory.Artifact {
	return inventory.Artifact{Repository: repository, Digest: digest(n), MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 100}
}

func sig(a inventory.Artifact, n int, by signer.Identity) inventory.Signature {
	return inventory.Signature{ID: fmt.Sprintf("%064x", n), Repository: a.Repository, Digest: a.Digest, Format: inventory.Legacy,
		Manifest: digest(1000 + n), Content: digest(2000 + n), PredicateType: inventory.SignPredicate, PayloadDigest: digest(2000 + n),
		Names: a.Repository, Signer: by, Verified: true,
		Requires: []inventory.Authority{{Role: inventory.RoleCA, ID: "ca"}},
		Bounds: []inventory.Bound{{Side: inventory.Upper, Time: start, Authority: inventory.Authority{Role: inventory.RoleTSA, ID: "tsa"}, Verified: true},
			{Side: inventory.Lower, Time: start, Authority: inventory.Authority{Role: inventory.RoleLog, ID: "log"}, Why: "it is forged"}}}
}

// do runs an update that must succeed and returns what it journaled, with each
// sighting as an entry of its own.
func do(t *testing.T, s *Store, fn func(*Tx) error) []journal.Entry {
	t.Helper()
	before := size(t, s)
	if err := s.Update(t.Context(), by, fn); err != nil {
		t.Fatal(err)
	}
	var out []journal.Entry
	for _, e := range entriesFrom(t, s, before) {
		if e.Action != Sighted {
			out = append(out, e)
			continue
		}
		lines, err := s.Sightings(t.Context(), e.Digest)
		must(t, err)
		wantEqual(t, "subject", e.Subject, fmt.Sprintf("%d sightings", len(lines)))
		for _, d := range lines {
			seen := e
			seen.Action, seen.Subject, seen.Digest = d.Action, d.Subject, d.Digest
			out = append(out, seen)
		}
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func size(t *testing.T, s *Store) int64 {
	t.Helper()
	c, err := s.JournalCheckpoint(t.Context())
	must(t, err)
	return c.Size
}

func entriesFrom(t *testing.T, s *Store, from int64) []journal.Entry {
	t.Helper()
	var out []journal.Entry
	for next := s.Journal(t.Context(), from); ; {
		line, err := next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		e, err := journal.ParseEntry(line)
		must(t, err)
		out = append(out, e)
	}
}

func actions(entries []journal.Entry) string {
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Action
	}
	return strings.Join(names, " ")
}

func wantActions(t *testing.T, got []journal.Entry, want string) {
	t.Helper()
	if a := actions(got); a != want {
		t.Errorf("journaled %q, want %q", a, want)
	}
}

func wantEqual(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\ngot  %+v\nwant %+v", what, got, want)
	}
}

// checkJournal recomputes the tree from the entries.
func checkJournal(t *testing.T, s *Store) {
	t.Helper()
	var tree journal.Tree
	for next := s.Journal(t.Context(), 0); ; {
		line, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		must(t, tree.Add(line))
	}
	c, err := s.JournalCheckpoint(t.Context())
	must(t, err)
	must(t, tree.Check(c))
}

func testSigner(t *testing.T, s *Store) {
	ctx := t.Context()
	r := signer.Record{Identity: key(1), Name: "release", State: signer.Active, PublicKey: []byte("PEM")}
	put := func() []journal.Entry { return do(t, s, func(tx *Tx) error { return tx.PutSigner(ctx, r) }) }
	wantActions(t, put(), "signer.active")
	wantActions(t, put(), "") // nothing changed
	r.State = signer.Tainted
	e := put()
	wantActions(t, e, "signer.tainted")
	wantEqual(t, "subject", e[0].Subject, r.Identity.ID())
	wantEqual(t, "digest", e[0].Digest, inventory.Digest(r.PublicKey))
	r.Name = "release-2026"
	wantActions(t, put(), "signer.tainted")
	r.PublicKey = []byte("PEM 2")
	wantActions(t, put(), "signer.tainted")

	for _, by := range []string{"release-2026", r.Identity.ID()} {
		got, err := s.Signer(ctx, by)
		must(t, err)
		wantEqual(t, "signer by "+by, got, r)
	}
	keyless := signer.Record{Identity: signer.Identity{Kind: signer.Keyless, Subject: "ci@example", Issuer: "https://oidc.example"}, Name: "ci", State: signer.Standby, PublicKey: []byte{}}
	do(t, s, func(tx *Tx) error { return tx.PutSigner(ctx, keyless) })
	got, err := s.Signer(ctx, "ci")
	must(t, err)
	wantEqual(t, "keyless signer", got, keyless)

	for _, unknown := range []string{"", "release", key(9).ID(), "%"} {
		if _, err := s.Signer(ctx, unknown); !errors.Is(err, inventory.ErrNotFound) {
			t.Errorf("signer %q: got %v, want ErrNotFound", unknown, err)
		}
	}
	twin := signer.Record{Identity: key(2), Name: "ci", State: signer.Standby}
	do(t, s, func(tx *Tx) error { return tx.PutSigner(ctx, twin) })
	if _, err := s.Signer(ctx, "ci"); err == nil || !strings.Contains(err.Error(), "ambiguous") {
		t.Errorf("a name of two signers: got %v, want it called ambiguous", err)
	}
}

func testSigners(t *testing.T, s *Store) {
	ctx := t.Context()
	one, two := art(repo, 1), art(repo, 2)
	do(t, s, func(tx *Tx) error {
		return errors.Join(tx.PutArtifact(ctx, one), tx.PutArtifact(ctx, two), tx.PutSignature(ctx, sig(one, 1, key(7))))
	})
	do(t, s, func(tx *Tx) error {
		return errors.Join(tx.PutSignature(ctx, sig(one, 2, key(7))), tx.PutSignature(ctx, sig(two, 3, key(7))),
			tx.PutSignature(ctx, sig(two, 4, key(8))))
	})
	do(t, s, func(tx *Tx) error {
		return tx.KeepSignatures(ctx, repo, two.Digest, "", inventory.Formats(), []string{sig(two, 3, key(7)).ID})
	})
	for n, name := range map[int]string{1: "zoe", 2: "adam"} {
		do(t, s, func(tx *Tx) error {
			return tx.PutSigner(ctx, signer.Record{Identity: key(n), Name: name, State: signer.Active, PublicKey: []byte{}})
		})
	}
	got, err := s.Signers(ctx)
	must(t, err)
	row := func(n int, name string, st signer.State) SignerSummary {
		return SignerSummary{Record: signer.Record{Identity: key(n), Name: name, State: st, PublicKey: []byte{}}}
	}
	seven, eight := row(7, "", signer.Observed), row(8, "", signer.Observed)
	seven.Artifacts, seven.Signatures, seven.FirstSeen, seven.LastSeen = 2, 3, start, start.Add(time.Second)
	eight.FirstSeen, eight.LastSeen = start.Add(time.Second), start.Add(time.Second) // its one signature is gone
	wantEqual(t, "signers", got, []SignerSummary{row(2, "adam", signer.Active), row(1, "zoe", signer.Active), seven, eight})
}

func testArtifact(t *testing.T, s *Store) {
	ctx := t.Context()
	get := func(a inventory.Artifact) inventory.Artifact {
		t.Helper()
		got, _, err := s.Artifacts(ctx, Selection{Repository: a.Repository, Digest: a.Digest}, Place{}, 10)
		must(t, err)
		if len(got) != 1 {
			t.Fatalf("found %d artifacts, want 1", len(got))
		}
		return got[0]
	}
	put := func(a inventory.Artifact) []journal.Entry {
		t.Helper()
		return do(t, s, func(tx *Tx) error { return tx.PutArtifact(ctx, a) })
	}
	a := art(repo, 1)
	a.Tags = []string{"v1", "latest"}
	entries := put(a)
	wantActions(t, entries, "artifact.seen tag.seen tag.seen")
	wantEqual(t, "entry", []string{entries[0].Subject, entries[0].Digest, entries[1].Subject}, []string{a.Ref(), a.Digest, repo + ":v1"})
	wantActions(t, put(a), "")
	got := get(a)
	slices.Sort(got.Tags)
	want := a
	want.FirstSeen, want.Tags = start, []string{"latest", "v1"}
	wantEqual(t, "artifact", got, want)

	// A tag moves.
	b := art(repo, 2)
	b.Tags = []string{"latest"}
	wantActions(t, put(b), "artifact.seen tag.seen")
	wantEqual(t, "tags after the move", [][]string{get(a).Tags, get(b).Tags}, [][]string{{"v1"}, {"latest"}})

	// Known by its signatures before its manifest was seen.
	early := inventory.Artifact{Repository: repo, Digest: digest(3)}
	wantActions(t, put(early), "artifact.seen")
	seen := get(early).FirstSeen
	wantActions(t, put(art(repo, 3)), "artifact.seen")
	want = art(repo, 3)
	want.FirstSeen, want.Tags = seen, []string{}
	wantEqual(t, "artifact whose manifest came later", get(early), want)
	smaller := art(repo, 3)
	smaller.Size = 1
	wantActions(t, put(smaller), "")
	wantActions(t, put(early), "")
	wantEqual(t, "size", get(early).Size, int64(100))

	// The same digest elsewhere is another artifact.
	wantActions(t, put(art(other, 1)), "artifact.seen")
}

func testDeployed(t *testing.T, s *Store) {
	ctx := t.Context()
	do(t, s, func(tx *Tx) error {
		return errors.Join(tx.PutArtifact(ctx, art(repo, 1)), tx.PutArtifact(ctx, art(other, 1)), tx.PutArtifact(ctx, art(repo, 2)))
	})
	deployed := func() (refs []string) {
		t.Helper()
		all, _, err := s.Artifacts(ctx, Selection{}, Place{}, 10)
		must(t, err)
		for _, a := range all {
			if a.Deployed {
				refs = append(refs, a.Ref())
			}
		}
		return refs
	}
	wantActions(t, do(t, s, func(tx *Tx) error { return tx.SetDeployed(ctx, repo, digest(1)) }), "artifact.deployed")
	wantEqual(t, "deployed in one repository", deployed(), []string{art(repo, 1).Ref()})
	do(t, s, func(tx *Tx) error { return tx.SetDeployed(ctx, "", digest(1)) })
	wantEqual(t, "deployed anywhere", deployed(), []string{art(repo, 1).Ref(), art(other, 1).Ref()})
	do(t, s, func(tx *Tx) error { return tx.PutArtifact(ctx, art(repo, 1)) })
	wantEqual(t, "deployed after a rescan", deployed(), []string{art(repo, 1).Ref(), art(other, 1).Ref()})
	for _, where := range []string{"", repo} {
		err := s.Update(ctx, by, func(tx *Tx) error { return tx.SetDeployed(ctx, where, digest(99)) })
		if !errors.Is(err, inventory.ErrNotFound) {
			t.Errorf("unknown artifact in %q: got %v, want ErrNotFound", where, err)
		}
	}
	if err := s.Update(ctx, by, func(tx *Tx) error { return tx.SetDeployed(ctx, other, digest(2)) }); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("artifact in another repository: got %v, want ErrNotFound", err)
	}
}

// testArtifactPages compares every selection, in pages of every size, with a
// plain sort and filter.
func testArtifactPages(t *testing.T, s *Store) {
	ctx := t.Context()
	var all []inventory.Artifact
	signedBy := map[string][]int{}
	random := rand.New(rand.NewPCG(1, 2))
	do(t, s, func(tx *Tx) error {
		for n := range 40 {
			a := art([]string{repo, other, "registry.example:5000/z"}[n%3], random.IntN(30))
			if slices.ContainsFunc(all, func(b inventory.Artifact) bool { return a.Ref() == b.Ref() }) {
				continue
			}
			if err := tx.PutArtifact(ctx, a); err != nil {
				return err
			}
			if random.IntN(3) == 0 {
				a.Deployed = true
				if err := tx.SetDeployed(ctx, a.Repository, a.Digest); err != nil {
					return err
				}
			}
			for k := range 3 { // 0, 1 or several signers
				if random.IntN(3) == 0 {
					signedBy[a.Ref()] = append(signedBy[a.Ref()], k)
					if err := tx.PutSignature(ctx, sig(a, n*10+k, key(k))); err != nil {
						return err
					}
				}
			}
			a.FirstSeen, a.Tags = start, []string{}
			all = append(all, a)
		}
		return nil
	})
	slices.SortFunc(all, func(a, b inventory.Artifact) int {
		late := func(a inventory.Artifact) int {
			if a.Deployed {
				return 0
			}
			return 1
		}
		return cmp.Or(late(a)-late(b), strings.Compare(a.Repository, b.Repository), strings.Compare(a.Digest, b.Digest))
	})
	ids := func(ks ...int) (out []string) {
		for _, k := range ks {
			out = append(out, key(k).ID())
		}
		return out
	}
	for _, sel := range []struct {
		name string
		Selection
	}{
		{"everything", Selection{}},
		{"one repository", Selection{Repository: other}},
		{"one digest", Selection{Digest: all[3].Digest}},
		{"one artifact", Selection{Repository: all[3].Repository, Digest: all[3].Digest}},
		{"one signer", Selection{Signers: ids(1)}},
		{"two signers", Selection{Signers: ids(0, 2)}},
		{"a signer nobody has", Selection{Signers: ids(9)}},
		{"digests", Selection{Digests: []string{all[0].Digest, all[5].Digest, digest(99)}}},
		{"a signer, and digests besides", Selection{Signers: ids(1), Digests: []string{all[0].Digest, all[5].Digest}}},
		{"a signer in one repository", Selection{Signers: ids(1), Repository: repo}},
		{"a repository nobody has", Selection{Repository: "registry.example/none"}},
	} {
		var want []inventory.Artifact
		for _, a := range all {
			named := len(sel.Signers)+len(sel.Digests) == 0 || slices.Contains(sel.Digests, a.Digest) ||
				slices.ContainsFunc(signedBy[a.Ref()], func(k int) bool { return slices.Contains(sel.Signers, key(k).ID()) })
			if named && (sel.Repository == "" || sel.Repository == a.Repository) && (sel.Digest == "" || sel.Digest == a.Digest) {
				want = append(want, a)
			}
		}
		for _, limit := range []int{1, 2, 7, 1000} {
			var got []inventory.Artifact
			for at := (Place{}); ; {
				page, next, err := s.Artifacts(ctx, sel.Selection, at, limit)
				must(t, err)
				if len(page) > limit {
					t.Fatalf("%s: a page of %d has %d", sel.name, limit, len(page))
				}
				if len(page) == 0 {
					break
				}
				got, at = append(got, page...), next
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s, in pages of %d:\ngot  %v\nwant %v", sel.name, limit, got, want)
			}
		}
	}
}

// testSignaturesOfAll asks of many artifacts at once what is asked of each.
func testSignaturesOfAll(t *testing.T, s *Store) {
	ctx := t.Context()
	var arts []inventory.Artifact
	do(t, s, func(tx *Tx) error {
		for n := range 7 {
			a := art([]string{repo, other}[n%2], n/2)
			arts = append(arts, a)
			for i := range n % 4 { // some have none
				g := sig(a, 10*n+i, key(i))
				g.Bounds = append(g.Bounds, upper(i+1, authority(inventory.RoleTSA, "tsa")), upper(i+2, authority(inventory.RoleLog, "log")))
				if err := tx.PutSignature(ctx, g); err != nil {
					return err
				}
			}
		}
		return tx.KeepSignatures(ctx, arts[3].Repository, arts[3].Digest, "", inventory.Formats(), nil) // they are gone
	})
	arts = append(arts, art(repo, 99)) // unknown
	slices.Reverse(arts)
	got, err := s.SignaturesOfAll(ctx, arts)
	must(t, err)
	for n, a := range arts {
		want, err := s.SignaturesOf(ctx, a, "")
		must(t, err)
		wantEqual(t, a.Ref(), got[n], want)
	}
	none, err := s.SignaturesOfAll(ctx, nil)
	must(t, err)
	wantEqual(t, "of none", len(none), 0)
}

func testSignature(t *testing.T, s *Store) {
	ctx := t.Context()
	a := art(repo, 1)
	g := sig(a, 1, key(1))
	put := func() []journal.Entry { return do(t, s, func(tx *Tx) error { return tx.PutSignature(ctx, g) }) }
	got := func() inventory.Signature {
		t.Helper()
		all, err := s.SignaturesOf(ctx, a, "")
		must(t, err)
		if len(all) != 1 {
			t.Fatalf("found %d signatures, want 1", len(all))
		}
		return all[0]
	}
	e := put()
	wantActions(t, e, "artifact.seen signature.seen") // no signature without its artifact
	wantEqual(t, "digest in the journal", e[1].Digest, g.Content)
	if !strings.Contains(e[1].Subject, g.ID) || !strings.Contains(e[1].Subject, a.Ref()) {
		t.Errorf("the entry's subject is %q: it should name signature and artifact", e[1].Subject)
	}
	g.FirstSeen = start
	wantEqual(t, "signature", got(), g)
	wantActions(t, put(), "")

	for _, tc := range []struct {
		name   string
		change func()
	}{
		{"moved to another manifest", func() { g.Manifest = digest(77) }},
		{"another proof", func() {
			g.Bounds = append(slices.Clone(g.Bounds), inventory.Bound{Side: inventory.Upper, Time: start, Authority: inventory.Authority{Role: inventory.RoleLog, ID: "another"}, Verified: true})
		}},
		{"a proof verifies now", func() {
			g.Bounds = slices.Clone(g.Bounds)
			g.Bounds[1].Verified, g.Bounds[1].Why = true, ""
		}},
	} {
		tc.change()
		if e := actions(put()); e != "signature.reverified" {
			t.Errorf("%s: journaled %q", tc.name, e)
		}
		wantEqual(t, tc.name, got(), g)
		if e := put(); len(e) > 0 {
			t.Errorf("%s: journaled again, %q", tc.name, actions(e))
		}
	}
	// A copy without proofs, or one that does not verify, takes nothing away.
	kept := g
	for name, change := range map[string]func(){
		"stripped of its proofs":  func() { g.Bounds = nil },
		"a proof does not verify": func() { g.Bounds = slices.Clone(kept.Bounds); g.Bounds[0].Verified, g.Bounds[0].Why = false, "no" },
		"it does not verify":      func() { g.Verified, g.Why = false, "no key" },
	} {
		g = kept
		change()
		wantActions(t, put(), "")
		wantEqual(t, name, got(), kept)
	}
	bare := sig(art(repo, 2), 5, signer.Identity{Kind: signer.Unknown})
	bare.Requires, bare.Bounds, bare.Verified, bare.Why = nil, nil, false, "no known key verifies it"
	do(t, s, func(tx *Tx) error { return tx.PutSignature(ctx, bare) })
	all, err := s.SignaturesOf(ctx, art(repo, 2), "")
	must(t, err)
	bare.FirstSeen = all[0].FirstSeen
	wantEqual(t, "signature without evidence", all, []inventory.Signature{bare})
}

func testGone(t *testing.T, s *Store) {
	ctx := t.Context()
	a, b := art(repo, 1), art(other, 1)
	first, second, elsewhere := sig(a, 1, key(1)), sig(a, 2, key(1)), sig(b, 3, key(1))
	keep := func(ids ...string) []journal.Entry {
		t.Helper()
		return do(t, s, func(tx *Tx) error { return tx.KeepSignatures(ctx, repo, a.Digest, "", inventory.Formats(), ids) })
	}
	present := func() (ids []string) {
		t.Helper()
		for _, at := range []inventory.Artifact{a, b} {
			all, err := s.SignaturesOf(ctx, at, "")
			must(t, err)
			for _, g := range all {
				ids = append(ids, g.ID)
			}
		}
		return ids
	}
	do(t, s, func(tx *Tx) error {
		return errors.Join(tx.PutSignature(ctx, first), tx.PutSignature(ctx, second), tx.PutSignature(ctx, elsewhere))
	})
	wantActions(t, keep(first.ID, second.ID), "")
	e := keep(first.ID)
	wantActions(t, e, "signature.gone")
	if !strings.HasPrefix(e[0].Subject, second.ID) {
		t.Errorf("gone is %s, want %s", e[0].Subject, second.ID)
	}
	wantEqual(t, "present", present(), []string{first.ID, elsewhere.ID})
	wantActions(t, keep(first.ID), "")
	wantActions(t, keep(), "signature.gone")
	wantEqual(t, "present", present(), []string{elsewhere.ID})
	wantActions(t, do(t, s, func(tx *Tx) error { return tx.PutSignature(ctx, second) }), "signature.reverified")
	wantEqual(t, "present", present(), []string{second.ID, elsewhere.ID})
	got, err := s.SignaturesOf(ctx, a, "")
	must(t, err)
	wantEqual(t, "first sighting of what came back", got[0].FirstSeen, start)
}

func testExceptPlan(t *testing.T, s *Store) {
	ctx := t.Context()
	a := art(repo, 1)
	old, fresh := sig(a, 1, key(1)), sig(a, 2, key(2))
	do(t, s, func(tx *Tx) error {
		tx.Record(journal.Draft{Action: "test"})
		return errors.Join(tx.PutSignature(ctx, old), tx.PutSignature(ctx, fresh),
			tx.PutReissue(ctx, Reissue{Plan: "p", Seq: 1, Format: inventory.Legacy, State: "done", SignatureID: fresh.ID}))
	})
	for plan, want := range map[string][]string{"": {old.ID, fresh.ID}, "q": {old.ID, fresh.ID}, "p": {old.ID}} {
		all, err := s.SignaturesOf(ctx, a, plan)
		must(t, err)
		var ids []string
		for _, g := range all {
			ids = append(ids, g.ID)
		}
		wantEqual(t, fmt.Sprintf("without plan %q", plan), ids, want)
	}
}

func testProblems(t *testing.T, s *Store) {
	ctx := t.Context()
	put := func(p inventory.Problem) []journal.Entry {
		t.Helper()
		return do(t, s, func(tx *Tx) error { return tx.PutProblem(ctx, p) })
	}
	first := inventory.Problem{Repository: repo, Reference: "v1", Problem: "malformed"}
	again := first
	again.Problem = "too large"
	elsewhere := inventory.Problem{Repository: other, Problem: "denied"}
	wantActions(t, put(first), "scan.problem")
	wantActions(t, put(again), "scan.problem")
	put(elsewhere)
	got, err := s.Problems(ctx)
	must(t, err)
	wantEqual(t, "problems", got, []inventory.Problem{again, elsewhere})
	clearAll := func() []journal.Entry {
		return do(t, s, func(tx *Tx) error { return tx.ClearProblems(ctx, repo, "") })
	}
	wantActions(t, clearAll(), "scan.problems.cleared")
	wantActions(t, clearAll(), "")
	got, err = s.Problems(ctx)
	must(t, err)
	wantEqual(t, "problems after clearing one repository", got, []inventory.Problem{elsewhere})

	var want []inventory.Problem // more than a page of any size
	do(t, s, func(tx *Tx) error {
		for n := range 2*page + 1 {
			p := inventory.Problem{Repository: fmt.Sprintf("registry.example/%02d", n/100), Reference: fmt.Sprintf("%02d", n%100), Problem: "denied"}
			want = append(want, p)
			if err := tx.PutProblem(ctx, p); err != nil {
				return err
			}
		}
		return nil
	})
	want = append(want, elsewhere)
	got, err = s.Problems(ctx)
	must(t, err)
	wantEqual(t, "all problems", got, want)
	got, err = s.ProblemPage(ctx, want[99], 3)
	must(t, err)
	wantEqual(t, "a page", got, want[100:103])
}

func putVault(t *testing.T, s *Store, content []byte) (d string) {
	t.Helper()
	do(t, s, func(tx *Tx) (err error) {
		tx.Record(journal.Draft{Action: "test"})
		d, err = tx.PutVault(t.Context(), content)
		return err
	})
	return d
}

func testVault(t *testing.T, s *Store) {
	random := make([]byte, 1<<20)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	for name, content := range map[string][]byte{
		"nothing": {}, "one byte": {0}, "text": []byte("a bundle"), "a megabyte of noise": random, "a megabyte of zeros": make([]byte, 1<<20),
	} {
		for range 2 { // the second time it is there
			d := putVault(t, s, content)
			wantEqual(t, name+": digest", d, inventory.Digest(content))
			got, err := s.Vault(t.Context(), d)
			must(t, err)
			if !bytes.Equal(got, content) {
				t.Errorf("%s: %d bytes came back for %d", name, len(got), len(content))
			}
			sizes, err := s.VaultSizes(t.Context(), []string{d, digest(1)})
			must(t, err)
			if size, said := sizes[d]; size != int64(len(content)) && (said || len(content) >= 256) || len(sizes) > 1 {
				t.Errorf("%s: sizes %v, want %d", name, sizes, len(content))
			}
		}
	}
	for _, d := range []string{digest(1), ""} {
		if _, err := s.Vault(t.Context(), d); !errors.Is(err, inventory.ErrNotFound) {
			t.Errorf("%q: got %v, want ErrNotFound", d, err)
		}
	}
}

func testVaultEdited(t *testing.T, s *Store) {
	for name, body := range map[string][]byte{
		"other content":  s.enc.EncodeAll([]byte("forged"), nil),
		"not compressed": []byte("forged"),
		"cut off":        s.enc.EncodeAll([]byte("content cut off"), nil)[:12],
	} {
		d := putVault(t, s, []byte("content "+name))
		_, err := s.write.ExecContext(t.Context(), `UPDATE vault SET body = $1 WHERE digest = $2`, body, d)
		must(t, err)
		if got, err := s.Vault(t.Context(), d); err == nil || !strings.Contains(err.Error(), d) {
			t.Errorf("%s: got %q, %v, want an error that names %s", name, got, err, d)
		}
	}
}

func putDocument(t *testing.T, s *Store, kind, id, body string) []journal.Entry {
	t.Helper()
	return do(t, s, func(tx *Tx) error { return tx.PutDocument(t.Context(), kind, id, "test.put", []byte(body)) })
}

func testDocuments(t *testing.T, s *Store) {
	ctx := t.Context()
	for _, d := range [][3]string{{KindIncident, "I-1", "one"}, {KindIncident, "I-2", "two"}, {KindIncident, "I-1", "one again"},
		{KindPlan, "I-1", "a plan"}, {KindIncident, "I-1", "one at last"}, {KindIncident, "J", "three"}} {
		e := putDocument(t, s, d[0], d[1], d[2])
		wantActions(t, e, "test.put")
		wantEqual(t, "entry", []string{e[0].Kind, e[0].Subject, e[0].Digest}, []string{d[0], d[1], inventory.Digest([]byte(d[2]))})
	}
	got, err := s.Document(ctx, KindIncident, "I-1")
	must(t, err)
	wantEqual(t, "newest version", string(got), "one at last")
	for prefix, want := range map[string]string{"": "one at last,two,three", "I-": "one at last,two", "I-2": "two", "x": ""} {
		all, err := s.Documents(ctx, KindIncident, prefix)
		must(t, err)
		wantEqual(t, fmt.Sprintf("documents %q", prefix), string(bytes.Join(all, []byte(","))), want)
	}
	for prefix, want := range map[string]string{"": "I-1,I-2,J", "I-": "I-1,I-2", "x": ""} {
		ids, err := s.DocumentIDs(ctx, KindIncident, prefix)
		must(t, err)
		wantEqual(t, fmt.Sprintf("IDs %q", prefix), strings.Join(ids, ","), want)
	}
	for _, id := range []string{"", "I", "I-3"} {
		if _, err := s.Document(ctx, KindIncident, id); !errors.Is(err, inventory.ErrNotFound) {
			t.Errorf("document %q: got %v, want ErrNotFound", id, err)
		}
	}
	versions, err := s.DocumentVersions(ctx, KindIncident, "I-1")
	must(t, err)
	wantEqual(t, "all versions", string(bytes.Join(versions, []byte(","))), "one,one again,one at last")
	if _, err := s.DocumentVersions(ctx, KindPlan, "I-2"); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("versions of a document nobody put: got %v, want ErrNotFound", err)
	}
}

func testDocumentPrefix(t *testing.T, s *Store) {
	ids := []string{"100%", "100x", "Ärger", "a_b", "axb", "ä"}
	for _, id := range ids {
		putDocument(t, s, KindApproval, id, id)
	}
	for prefix, want := range map[string]string{"100%": "100%", "a_": "a_b", "Är": "Ärger", "ä": "ä", "'": ""} {
		got, err := s.DocumentIDs(t.Context(), KindApproval, prefix)
		must(t, err)
		wantEqual(t, fmt.Sprintf("prefix %q", prefix), strings.Join(got, ","), want)
	}
}

func testPlanItems(t *testing.T, s *Store) {
	ctx := t.Context()
	do(t, s, func(tx *Tx) error {
		tx.Record(journal.Draft{Action: "test"})
		for n := int64(1); n <= 23; n++ {
			if err := tx.AddPlanItem(ctx, "p", n*2, fmt.Append(nil, n*2)); err != nil {
				return err
			}
		}
		return tx.AddPlanItem(ctx, "q", 1, []byte("another plan"))
	})
	for _, limit := range []int{1, 4, 100} {
		var got, want []string
		for n := 1; n <= 23; n++ {
			want = append(want, fmt.Sprint(n*2))
		}
		for after := int64(0); ; {
			lines, err := s.PlanItems(ctx, "p", after, limit)
			must(t, err)
			if len(lines) == 0 {
				break
			}
			for _, line := range lines {
				got = append(got, string(line.Body))
				wantEqual(t, "seq", fmt.Sprint(line.Seq), string(line.Body))
			}
			after = lines[len(lines)-1].Seq
		}
		wantEqual(t, fmt.Sprintf("items in pages of %d", limit), got, want)
	}
	err := s.Update(ctx, by, func(tx *Tx) error {
		tx.Record(journal.Draft{Action: "test"})
		return tx.AddPlanItem(ctx, "p", 2, nil)
	})
	if err == nil {
		t.Error("one place in a plan was given twice")
	}
}

func testNamePlan(t *testing.T, s *Store) {
	ctx := t.Context()
	plan := func(provisional string) {
		t.Helper()
		do(t, s, func(tx *Tx) error {
			for n := int64(1); n <= 3; n++ {
				if err := tx.AddPlanItem(ctx, provisional, n, []byte("line")); err != nil {
					return err
				}
			}
			if err := tx.NamePlan(ctx, provisional, "sha256:p"); err != nil {
				return err
			}
			return tx.PutDocument(ctx, KindPlan, "sha256:p", "plan.made", []byte("{}"))
		})
	}
	for _, provisional := range []string{"making:1", "making:2"} { // made again: the same plan
		plan(provisional)
		for name, want := range map[string]int{"sha256:p": 3, provisional: 0} {
			lines, err := s.PlanItems(ctx, name, 0, 100)
			must(t, err)
			wantEqual(t, "items of "+name, len(lines), want)
		}
	}
}

func testReissues(t *testing.T, s *Store) {
	ctx := t.Context()
	put := func(r Reissue) {
		t.Helper()
		do(t, s, func(tx *Tx) error {
			tx.Record(journal.Draft{Action: "test"})
			return tx.PutReissue(ctx, r)
		})
	}
	a := Reissue{Plan: "p", Seq: 1, Format: inventory.Legacy, State: "intended"}
	b := Reissue{Plan: "p", Seq: 1, Format: inventory.Bundle, State: "failed", Why: "registry is down"}
	c := Reissue{Plan: "p", Seq: 3, Format: inventory.Legacy, State: "intended"}
	for _, r := range []Reissue{a, b, c, {Plan: "q", Seq: 1, Format: inventory.Legacy, State: "done"}} {
		put(r)
	}
	a.State, a.Content, a.SignatureID = "done", digest(1), "sig"
	put(a)
	for _, tc := range []struct {
		low, high int64
		want      []Reissue
	}{{1, 3, []Reissue{b, a, c}}, {1, 1, []Reissue{b, a}}, {2, 2, nil}, {3, 9, []Reissue{c}}} {
		got, err := s.Reissues(ctx, "p", tc.low, tc.high)
		must(t, err)
		wantEqual(t, fmt.Sprintf("reissues %d to %d", tc.low, tc.high), got, tc.want)
	}
	d := Reissue{Plan: "o", Seq: 7, Format: inventory.Bundle, State: "done", SignatureID: "sig"}
	e := Reissue{Plan: "p", Seq: 9, Format: inventory.Bundle, State: "done", SignatureID: "other"}
	put(d)
	put(e)
	many := []string{"sig", "", "none", "sig"} // none of these is nobody's
	for n := range 1200 {
		many = append(many, fmt.Sprint("none-", n))
	}
	for _, tc := range []struct {
		ids  []string
		want []Reissue
	}{{nil, nil}, {[]string{""}, nil}, {[]string{"none"}, nil}, {[]string{"sig"}, []Reissue{d, a}}, {many, []Reissue{d, a}}, {[]string{"sig", "other"}, []Reissue{e, d, a}}} {
		got, err := s.ReissuesBySignature(ctx, tc.ids)
		must(t, err)
		wantEqual(t, "reissues by signature", got, tc.want)
	}
	do(t, s, func(tx *Tx) error {
		tx.Record(journal.Draft{Action: "test"})
		_, err := tx.exec(ctx, `DELETE FROM reissues WHERE seq > 6`)
		return err
	})
	counts, err := s.ReissueCounts(ctx, "p")
	must(t, err)
	wantEqual(t, "counts", counts, map[string]int64{"done": 1, "failed": 1, "intended": 1})
	counts, err = s.ReissueCounts(ctx, "none")
	must(t, err)
	wantEqual(t, "counts of no plan", counts, map[string]int64{})
}

func testCounts(t *testing.T, s *Store) {
	ctx := t.Context()
	a := art(repo, 1)
	do(t, s, func(tx *Tx) error {
		return errors.Join(tx.PutArtifact(ctx, a), tx.PutArtifact(ctx, art(other, 1)), tx.PutSignature(ctx, sig(a, 1, key(1))), tx.PutSignature(ctx, sig(a, 2, key(1))))
	})
	do(t, s, func(tx *Tx) error {
		return tx.KeepSignatures(ctx, repo, a.Digest, "", inventory.Formats(), []string{sig(a, 1, key(1)).ID})
	})
	got, err := s.Counts(ctx)
	must(t, err)
	wantEqual(t, "counts", got, Counts{Artifacts: 2, Signatures: 1})
}

func testNoAuthor(t *testing.T, s *Store) {
	for _, by := range []journal.Author{{}, {Actor: "alice"}, {Reason: "test"}, {Actor: " ", Reason: "test"}, {Actor: "alice", Reason: "\t"}} {
		err := s.Update(t.Context(), by, func(*Tx) error {
			t.Errorf("%+v got as far as changing something", by)
			return nil
		})
		if err == nil {
			t.Errorf("%+v: accepted", by)
		}
	}
	wantEqual(t, "journal", size(t, s), int64(0))
}

func testNoEntry(t *testing.T, s *Store) {
	ctx := t.Context()
	for name, fn := range map[string]func(*Tx) error{
		"plan item": func(tx *Tx) error { return tx.AddPlanItem(ctx, "p", 1, nil) },
		"reissue":   func(tx *Tx) error { return tx.PutReissue(ctx, Reissue{Plan: "p", Seq: 1}) },
	} {
		if err := s.Update(ctx, by, fn); err == nil || !strings.Contains(err.Error(), "without a journal entry") {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	// Bytes under their own digest change nothing that is believed.
	if err := s.Update(ctx, by, func(tx *Tx) error { _, err := tx.PutVault(ctx, []byte("x")); return err }); err != nil {
		t.Errorf("vault: %v", err)
	}
	lines, err := s.PlanItems(ctx, "p", 0, 10)
	must(t, err)
	wantEqual(t, "refused plan items", len(lines), 0)
	wantActions(t, do(t, s, func(*Tx) error { return nil }), "")
}

func testEntryOnly(t *testing.T, s *Store) {
	e := do(t, s, func(tx *Tx) error {
		tx.Record(journal.Draft{Action: "a", Subject: "s", Digest: digest(1)})
		tx.Record(journal.Draft{Action: "b"})
		return nil
	})
	wantEqual(t, "entries", e, []journal.Entry{
		{Index: 0, Time: start, Actor: by.Actor, Reason: by.Reason, Action: "a", Subject: "s", Digest: digest(1)},
		{Index: 1, Time: start, Actor: by.Actor, Reason: by.Reason, Action: "b"},
	})
}

func testRollback(t *testing.T, s *Store) {
	ctx := t.Context()
	putDocument(t, s, KindPlan, "kept", "kept")
	before, err := s.JournalCheckpoint(ctx)
	must(t, err)
	err = s.Update(ctx, by, func(tx *Tx) error {
		a := art(repo, 1)
		if err := errors.Join(tx.PutArtifact(ctx, a), tx.PutSignature(ctx, sig(a, 1, key(1))),
			tx.PutDocument(ctx, KindPlan, "lost", "plan.made", nil), tx.PutProblem(ctx, inventory.Problem{Repository: repo})); err != nil {
			return err
		}
		return errRefus
	})
	if !errors.Is(err, errRefus) {
		t.Fatalf("got %v, want %v", err, errRefus)
	}
	after, err := s.JournalCheckpoint(ctx)
	must(t, err)
	wantEqual(t, "journal", after, before)
	counts, err := s.Counts(ctx)
	must(t, err)
	wantEqual(t, "counts", counts, Counts{})
	signers, err := s.Signers(ctx)
	must(t, err)
	wantEqual(t, "signers", len(signers), 0)
	ids, err := s.DocumentIDs(ctx, KindPlan, "")
	must(t, err)
	wantEqual(t, "documents", ids, []string{"kept"})
	// A statement that the database refuses, after others it took.
	err = s.Update(ctx, by, func(tx *Tx) error {
		tx.Record(journal.Draft{Action: "test"})
		return errors.Join(tx.AddPlanItem(ctx, "p", 1, nil), tx.AddPlanItem(ctx, "p", 1, nil))
	})
	if err == nil {
		t.Error("a duplicate was accepted")
	}
	e := putDocument(t, s, KindPlan, "next", "next")
	wantEqual(t, "index after failures", e[0].Index, before.Size)
}

func testCancelled(t *testing.T, s *Store) {
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Update(ctx, by, func(tx *Tx) error {
		err := tx.PutDocument(ctx, KindPlan, "p", "plan.made", nil)
		cancel()
		return err
	})
	if err == nil {
		t.Error("committed after cancellation")
	}
	if err := s.Update(ctx, by, func(*Tx) error { t.Error("began after cancellation"); return nil }); err == nil {
		t.Error("accepted after cancellation")
	}
	wantEqual(t, "journal", size(t, s), int64(0))
	putDocument(t, s, KindPlan, "p", "")
}

func testTime(t *testing.T, s *Store) {
	e := do(t, s, func(tx *Tx) error {
		wantEqual(t, "now", tx.now, start)
		return errors.Join(tx.PutArtifact(t.Context(), art(repo, 1)), tx.PutArtifact(t.Context(), art(repo, 2)))
	})
	e = append(e, do(t, s, func(tx *Tx) error { return tx.PutArtifact(t.Context(), art(repo, 3)) })...)
	for i, want := range []time.Time{start, start, start.Add(time.Second)} {
		wantEqual(t, fmt.Sprintf("time of entry %d", i), e[i].Time, want)
	}
}

func testJournalHashes(t *testing.T, s *Store) {
	ctx := t.Context()
	random := rand.New(rand.NewPCG(3, 4))
	var tree journal.Tree
	at := int64(0)
	for range 150 {
		fail := random.IntN(4) == 0
		err := s.Update(ctx, by, func(tx *Tx) error {
			for range random.IntN(9) {
				tx.Record(journal.Draft{Action: "test", Subject: strings.Repeat("ü<", random.IntN(20)), Digest: digest(random.IntN(1000))})
			}
			if fail {
				return errRefus
			}
			return nil
		})
		if fail != errors.Is(err, errRefus) {
			t.Fatal(err)
		}
		for _, e := range entriesFrom(t, s, at) {
			line, err := e.Marshal()
			must(t, err)
			must(t, tree.Add(line))
			at++
		}
		c, err := s.JournalCheckpoint(ctx)
		must(t, err)
		must(t, tree.Check(c))
	}
	// And for every earlier size.
	tree = journal.Tree{}
	for _, e := range entriesFrom(t, s, 0) {
		c, err := s.JournalCheckpointAt(ctx, e.Index)
		must(t, err)
		must(t, tree.Check(c))
		line, err := e.Marshal()
		must(t, err)
		must(t, tree.Add(line))
	}
	if c, err := s.JournalCheckpointAt(ctx, at+1); err == nil {
		t.Errorf("a checkpoint beyond the end: %v", c)
	}
}

func testJournalPages(t *testing.T, s *Store) {
	const n = 2500 // more than two pages
	do(t, s, func(tx *Tx) error {
		for range n {
			tx.Record(journal.Draft{Action: "test"})
		}
		return nil
	})
	for _, from := range []int64{0, 1, 999, 1000, 2499, 2500, 9999} {
		got := entriesFrom(t, s, from)
		wantEqual(t, fmt.Sprintf("entries from %d", from), int64(len(got)), max(0, n-from))
		for i, e := range got {
			if e.Index != from+int64(i) {
				t.Fatalf("from %d: entry %d has index %d", from, i, e.Index)
			}
		}
	}
}

func testJournalEdited(t *testing.T, s *Store) {
	ctx := t.Context()
	for n := range 5 {
		putDocument(t, s, KindPlan, fmt.Sprint(n), "")
	}
	var body string
	must(t, s.read.QueryRowContext(ctx, `SELECT body FROM journal WHERE seq = 2`).Scan(&body))
	edit := func(to string) {
		t.Helper()
		_, err := s.write.ExecContext(ctx, `UPDATE journal SET body = $1 WHERE seq = 2`, to)
		must(t, err)
	}
	edit(strings.Replace(body, "alice", "mallory", 1))
	var tree journal.Tree
	for _, e := range entriesFrom(t, s, 0) {
		line, err := e.Marshal()
		must(t, err)
		must(t, tree.Add(line))
	}
	c, err := s.JournalCheckpoint(ctx)
	must(t, err)
	if tree.Check(c) == nil {
		t.Error("an edited entry went unnoticed")
	}
	edit(body)
}

func testConcurrent(t *testing.T, s *Store) {
	const writers, each = 8, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				err := s.Update(t.Context(), by, func(tx *Tx) error {
					if n%5 == 4 {
						_ = tx.PutDocument(t.Context(), KindPlan, "lost", "test.put", nil)
						return errRefus
					}
					return tx.PutDocument(t.Context(), KindPlan, fmt.Sprintf("%d-%d", w, n), "test.put", nil)
				})
				if (n%5 == 4) != errors.Is(err, errRefus) {
					t.Errorf("writer %d, update %d: %v", w, n, err)
				}
			}
		})
	}
	wg.Wait()
	wantEqual(t, "journal", size(t, s), int64(writers*each*4/5))
	ids, err := s.DocumentIDs(t.Context(), KindPlan, "")
	must(t, err)
	wantEqual(t, "documents", len(ids), writers*each*4/5)
}

// testSnapshot reads while updates of two documents each are committed: a
// reader finds both or none.
func testSnapshot(t *testing.T, s *Store) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				ids, err := s.DocumentIDs(t.Context(), KindPlan, "")
				if err != nil || len(ids)%2 != 0 {
					t.Errorf("read %d documents, %v, want an even number", len(ids), err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for n := range 30 {
		do(t, s, func(tx *Tx) error {
			return errors.Join(tx.PutDocument(t.Context(), KindPlan, fmt.Sprintf("a%d", n), "test.put", nil),
				tx.PutDocument(t.Context(), KindPlan, fmt.Sprintf("b%d", n), "test.put", nil))
		})
	}
	close(done)
	wg.Wait()
}

// testProofs proves every entry and every beginning of a journal, in every size
// it had.
func testProofs(t *testing.T, s *Store) {
	ctx := t.Context()
	var tree journal.Tree
	sizes := []journal.Checkpoint{tree.Checkpoint()}
	for n := range 20 {
		do(t, s, func(tx *Tx) error {
			for range n % 4 { // several at once
				tx.Record(journal.Draft{Action: "test", Subject: fmt.Sprint(n)})
			}
			return nil
		})
	}
	for _, e := range entriesFrom(t, s, 0) {
		line, err := e.Marshal()
		must(t, err)
		must(t, tree.Add(line))
		sizes = append(sizes, tree.Checkpoint())
	}
	last := int64(len(sizes) - 1)
	for size, c := range sizes {
		for n := range int64(size) {
			p, err := s.JournalProof(ctx, n, int64(size))
			must(t, err)
			must(t, p.Check(c))
			if size < int(last) && p.Check(sizes[last]) == nil {
				t.Errorf("the proof of entry %d of %d passes for %d", n, size, last)
			}
		}
		p, err := s.JournalConsistency(ctx, int64(size), last)
		must(t, err)
		must(t, p.Check(c, sizes[last]))
	}
	for _, at := range [][2]int64{{-1, 5}, {5, 5}, {0, 0}, {0, last + 1}, {0, -1}} {
		if p, err := s.JournalProof(ctx, at[0], at[1]); err == nil {
			t.Errorf("entry %d of %d: got %+v", at[0], at[1], p)
		}
	}
	for _, at := range [][2]int64{{-1, 5}, {6, 5}, {1, last + 1}, {0, -1}} {
		if p, err := s.JournalConsistency(ctx, at[0], at[1]); err == nil {
			t.Errorf("from %d to %d: got %+v", at[0], at[1], p)
		}
	}
}
