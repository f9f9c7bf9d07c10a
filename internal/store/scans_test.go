package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
)

func begin(t *testing.T, s *Store, repository string) Scan {
	t.Helper()
	sc, err := s.BeginScan(t.Context(), by, repository)
	must(t, err)
	return sc
}

func list(t *testing.T, s *Store, sc Scan, tags ...string) {
	t.Helper()
	wantActions(t, do(t, s, func(tx *Tx) error { return tx.Listed(t.Context(), sc, tags) }), "") // a list of names says nothing yet
}

// tagPages returns all pages of a listing of tags as "name=digest".
func tagPages(t *testing.T, read func(ctx context.Context, after string, limit int) ([]Tag, error)) string {
	t.Helper()
	var out []string
	for after := ""; ; {
		page, err := read(t.Context(), after, 2)
		must(t, err)
		if len(page) == 0 {
			return strings.Join(out, " ")
		}
		for _, tag := range page {
			out = append(out, tag.Name+"="+strings.TrimLeft(strings.TrimPrefix(tag.Digest, "sha256:"), "0"))
			after = tag.Name
		}
	}
}

func unchecked(t *testing.T, s *Store, sc Scan, signature bool) string {
	t.Helper()
	return tagPages(t, func(ctx context.Context, after string, limit int) ([]Tag, error) {
		return s.Unchecked(ctx, sc, signature, after, limit)
	})
}

// testScan walks through two scans of a repository, the second of which finds
// some of it as it was, some moved and some gone.
func testScan(t *testing.T, s *Store) {
	ctx := t.Context()
	signed := func(n int) string { return strings.Replace(digest(n), ":", "-", 1) }
	tags := []string{"v1", "v2", "latest", signed(1) + ".sig", signed(2) + ".att", signed(3), "sha256-short.sig", "sha256-" + strings.Repeat("g", 64)}
	sc := begin(t, s, repo)
	list(t, s, sc, tags[:3]...)
	list(t, s, sc, tags[3:]...)
	list(t, s, begin(t, s, other), "elsewhere")
	wantEqual(t, "image tags", unchecked(t, s, sc, false), "latest= sha256-"+strings.Repeat("g", 64)+"= sha256-short.sig= v1= v2=")
	wantEqual(t, "signature tags", unchecked(t, s, sc, true), signed(1)+".sig= "+signed(2)+".att= "+signed(3)+"=")

	put := func(sc Scan, tag string, n int) []journal.Entry {
		t.Helper()
		return do(t, s, func(tx *Tx) error { return tx.PutTag(ctx, sc, tag, digest(n)) })
	}
	e := put(sc, "v1", 1)
	wantActions(t, e, "tag.seen")
	wantEqual(t, "entry", []string{e[0].Subject, e[0].Digest}, []string{repo + ":v1", digest(1)})
	wantActions(t, put(sc, "v1", 1), "")
	put(sc, "v2", 2)
	put(sc, signed(1)+".sig", 11)
	put(sc, "unlisted", 3) // somebody named it
	counts := func(sc Scan) []int64 {
		t.Helper()
		images, signatures, checked, err := s.TagCounts(ctx, sc)
		must(t, err)
		return []int64{images, signatures, checked}
	}
	wantEqual(t, "counts", counts(sc), []int64{6, 3, 4})

	// Interrupted and begun again, it goes on.
	again := begin(t, s, repo)
	wantEqual(t, "the scan that goes on", []any{again.ID, again.Started}, []any{sc.ID, sc.Started})
	list(t, s, again, tags...)
	wantEqual(t, "image tags", unchecked(t, s, again, false), "latest= sha256-"+strings.Repeat("g", 64)+"= sha256-short.sig=")
	for _, tag := range []string{"latest", "sha256-" + strings.Repeat("g", 64), "sha256-short.sig"} {
		put(again, tag, 1)
	}
	put(again, signed(2)+".att", 12)
	put(again, signed(3), 13)
	wantEqual(t, "nothing is left", unchecked(t, s, again, false)+unchecked(t, s, again, true), "")
	wantActions(t, do(t, s, func(tx *Tx) error { return tx.EndScan(ctx, again) }), "")

	named, err := s.TagsNamed(ctx, repo, append(slices.Clone(tags), "none"))
	must(t, err)
	wantEqual(t, "what tags name", []any{len(named), named["v2"], named[signed(1)+".sig"]}, []any{len(tags), digest(2), digest(11)})

	// An artifact has no tags that hold signatures.
	do(t, s, func(tx *Tx) error {
		if err := tx.PutTag(ctx, again, signed(9)+".sig", digest(1)); err != nil {
			return err
		}
		return tx.PutArtifact(ctx, art(repo, 1))
	})
	arts, _, err := s.Artifacts(ctx, Selection{Digest: digest(1)}, Place{}, 9)
	must(t, err)
	wantEqual(t, "tags of the artifact", arts[0].Tags, []string{"latest", "sha256-" + strings.Repeat("g", 64), "sha256-short.sig", "v1"})

	// The next scan is another one.
	next := begin(t, s, repo)
	if next.ID <= again.ID {
		t.Errorf("scan %d follows %d", next.ID, again.ID)
	}
	list(t, s, next, "v1", "v2", "latest", "new", signed(1)+".sig")
	wantEqual(t, "all is to be looked at again", unchecked(t, s, next, false), "latest=1 new= v1=1 v2=2")
	wantActions(t, put(next, "v1", 1), "")         // as it was
	wantActions(t, put(next, "v2", 1), "tag.seen") // moved
	gone := func(sc Scan) string {
		t.Helper()
		return tagPages(t, func(ctx context.Context, after string, limit int) ([]Tag, error) {
			return s.TagsGone(ctx, sc, after, limit)
		})
	}
	wantEqual(t, "gone", strings.Count(gone(next), "="), 6)
	e = do(t, s, func(tx *Tx) error { return tx.RemoveTag(ctx, next, "unlisted") })
	wantActions(t, e, "tag.gone")
	wantEqual(t, "entry", []string{e[0].Subject, e[0].Digest}, []string{repo + ":unlisted", digest(3)})
	wantActions(t, do(t, s, func(tx *Tx) error { return tx.RemoveTag(ctx, next, "new") }), "") // listed, never found
	wantActions(t, do(t, s, func(tx *Tx) error { return tx.RemoveTag(ctx, next, "never") }), "")
	wantActions(t, do(t, s, func(tx *Tx) error { return tx.EndScan(ctx, next) }), "tag.gone tag.gone tag.gone tag.gone tag.gone")
	wantEqual(t, "gone", gone(next), "")
	wantEqual(t, "tags elsewhere", gone(Scan{ID: 99, Repository: other}), "elsewhere=")

	// To look at one tag is no scan, and disturbs none.
	running := begin(t, s, repo)
	list(t, s, running, "v1", "v2", "latest", signed(1)+".sig")
	put(Scan{Repository: repo}, "v1", 5)
	put(Scan{Repository: repo}, "v1", 5)
	put(Scan{Repository: repo}, "extra", 5)
	wantEqual(t, "gone", gone(running), "extra=5")
	wantEqual(t, "not looked at by the scan", unchecked(t, s, running, false), "latest=1 v1=5 v2=1")
}

// testScanAge leaves a scan for a day.
func testScanAge(t *testing.T, s *Store) {
	at := start
	s.now = func() time.Time { return at }
	first := begin(t, s, repo)
	elsewhere := begin(t, s, other)
	if elsewhere.ID == first.ID {
		t.Error("two repositories have one scan")
	}
	at = start.Add(resumable - time.Second)
	wantEqual(t, "within a day", begin(t, s, repo).ID, first.ID)
	at = start.Add(resumable)
	second := begin(t, s, repo)
	if second.ID <= elsewhere.ID || !second.Started.Equal(at) {
		t.Errorf("after a day: %+v, want another scan than %+v", second, first)
	}
	wantEqual(t, "and that goes on", begin(t, s, repo).ID, second.ID)
	if _, err := s.BeginScan(t.Context(), journal.Author{}, repo); err == nil {
		t.Error("nobody began a scan")
	}
	wantEqual(t, "journal", size(t, s), int64(0))
}

// testReferrers asks for the referrers of each artifact once a scan.
func testReferrers(t *testing.T, s *Store) {
	ctx := t.Context()
	do(t, s, func(tx *Tx) error {
		for n := range 5 {
			if err := tx.PutArtifact(ctx, art(repo, n)); err != nil {
				return err
			}
		}
		return tx.PutArtifact(ctx, art(other, 1))
	})
	unread := func(sc Scan) (out []string) {
		t.Helper()
		for after := ""; ; {
			page, err := s.UnreadReferrers(ctx, sc, after, 2)
			must(t, err)
			if len(page) == 0 {
				return out
			}
			for _, r := range page {
				out = append(out, r.Digest[70:]+r.Fingerprint)
				after = r.Digest
			}
		}
	}
	put := func(sc Scan, n int, fingerprint string) {
		t.Helper()
		wantActions(t, do(t, s, func(tx *Tx) error { return tx.PutReferrers(ctx, sc, digest(n), fingerprint) }), "")
	}
	sc := begin(t, s, repo)
	wantEqual(t, "at first", unread(sc), []string{"0", "1", "2", "3", "4"})
	put(sc, 1, "a")
	put(sc, 3, "b")
	wantEqual(t, "later", unread(begin(t, s, repo)), []string{"0", "2", "4"})
	do(t, s, func(tx *Tx) error { return tx.EndScan(ctx, sc) })
	do(t, s, func(tx *Tx) error { return tx.PutArtifact(ctx, art(repo, 1)) })
	wantEqual(t, "the next time", unread(begin(t, s, repo)), []string{"0", "1a", "2", "3b", "4"})
	if err := s.Update(ctx, by, func(tx *Tx) error { return tx.PutReferrers(ctx, sc, digest(9), "a") }); err == nil {
		t.Error("an artifact nobody knows has referrers")
	}
	for n, want := range map[int]bool{1: true, 9: false} {
		known, err := s.Known(ctx, repo, digest(n))
		must(t, err)
		wantEqual(t, fmt.Sprintf("artifact %d is known", n), known, want)
	}
	do(t, s, func(tx *Tx) error {
		return tx.PutArtifact(ctx, inventory.Artifact{Repository: repo, Digest: digest(9)})
	})
	known, err := s.Known(ctx, repo, digest(9))
	must(t, err)
	wantEqual(t, "an artifact without its manifest is known", known, false)
}

// testProblemReferences clears the problems with one reference.
func testProblemReferences(t *testing.T, s *Store) {
	ctx := t.Context()
	do(t, s, func(tx *Tx) error {
		for _, reference := range []string{"v1", "v2", ""} {
			if err := tx.PutProblem(ctx, inventory.Problem{Repository: repo, Reference: reference, Problem: "malformed"}); err != nil {
				return err
			}
		}
		return nil
	})
	e := do(t, s, func(tx *Tx) error { return tx.ClearProblems(ctx, repo, "v1") })
	wantActions(t, e, "scan.problems.cleared")
	wantEqual(t, "subject", e[0].Subject, repo+" v1")
	wantActions(t, do(t, s, func(tx *Tx) error { return tx.ClearProblems(ctx, repo, "v1") }), "")
	got, err := s.Problems(ctx)
	must(t, err)
	wantEqual(t, "problems left", got, []inventory.Problem{{Repository: repo, Problem: "malformed"}, {Repository: repo, Reference: "v2", Problem: "malformed"}})
}

// testLookAgain forgets how the tags and referrers of one artifact were seen.
func testLookAgain(t *testing.T, s *Store) {
	ctx := t.Context()
	a, b := art(repo, 1), art(repo, 2)
	name := func(a inventory.Artifact, suffix string) string {
		return strings.Replace(a.Digest, ":", "-", 1) + suffix
	}
	sc, err := s.BeginScan(ctx, by, repo)
	must(t, err)
	all := []string{name(a, ""), name(a, ".sig"), name(a, ".att"), name(b, ".sig"), "v1"}
	do(t, s, func(tx *Tx) error {
		err := errors.Join(tx.PutArtifact(ctx, a), tx.PutArtifact(ctx, b), tx.Listed(ctx, sc, all), tx.PutReferrers(ctx, sc, a.Digest, "seen"), tx.PutReferrers(ctx, sc, b.Digest, "seen"))
		for n, tag := range all {
			err = errors.Join(err, tx.PutTag(ctx, sc, tag, digest(10+n)))
		}
		return errors.Join(err, tx.EndScan(ctx, sc))
	})
	must(t, s.Update(ctx, by, func(tx *Tx) error { return tx.LookAgain(ctx, a.Repository, a.Digest, a.Repository) }))
	sc, err = s.BeginScan(ctx, by, repo)
	must(t, err)
	must(t, s.Update(ctx, by, func(tx *Tx) error { return tx.Listed(ctx, sc, all) }))
	var got []string
	for _, signature := range []bool{true, false} {
		tags, err := s.Unchecked(ctx, sc, signature, "", 10)
		must(t, err)
		for _, tag := range tags {
			got = append(got, tag.Name+" "+tag.Digest)
		}
	}
	wantEqual(t, "tags", got, []string{name(a, "") + " ", name(a, ".att") + " ", name(a, ".sig") + " ", name(b, ".sig") + " " + digest(13), "v1 " + digest(14)})
	states, err := s.UnreadReferrers(ctx, sc, "", 10)
	must(t, err)
	wantEqual(t, "referrers", states, []ReferrerState{{Digest: a.Digest}, {Digest: b.Digest, Fingerprint: "seen"}})
}
