package store

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/signer"
)

// world is an inventory in memory, against which the answers of a store are
// held: whatever is asked, all of it is looked through.
type world struct {
	artifacts  []inventory.Artifact // in the order they are listed in
	signatures []inventory.Signature
	states     map[signer.Identity]signer.State
}

var (
	worldRepositories = []string{"registry.example/acme", "registry.example/acme/app", "registry.example/acme/app_1", "registry.example/acme/appX1", "registry.example/zoé", "registry.example:5000/a", "file"}
	worldPredicates   = []string{inventory.SignPredicate, "https://spdx.dev/Document"}
	worldTags         = []string{"v1", "latest", "a name with spaces"}
	worldAuthorities  = []inventory.Authority{{Role: inventory.RoleCA, ID: "a"}, {Role: inventory.RoleLog, ID: "a"}, {Role: inventory.RoleLog, ID: "b"}, {Role: inventory.RoleTSA, ID: "a"}}
)

// makeWorld fills a store and the model with the same things.
func makeWorld(t *testing.T, s *Store) *world {
	t.Helper()
	ctx := t.Context()
	r := rand.New(rand.NewPCG(7, 11))
	some := func(n int) bool { return r.IntN(n) == 0 }
	w := &world{states: map[signer.Identity]signer.State{}}
	for n, st := range []signer.State{signer.Observed, signer.Standby, signer.Active, signer.Old, signer.Tainted, signer.Revoked} {
		w.states[key(n)] = st
		if st != signer.Observed {
			do(t, s, func(tx *Tx) error {
				return tx.PutSigner(ctx, signer.Record{Identity: key(n), Name: fmt.Sprint("signer-", n), State: st, PublicKey: []byte{}})
			})
		}
	}
	moment := func() time.Time { return start.Add(time.Duration(r.IntN(40)-30) * time.Second) }
	id := 0
	for range 45 {
		a := art(worldRepositories[r.IntN(len(worldRepositories))], r.IntN(12))
		a.Digest = fmt.Sprintf("sha256:%02x%062x", r.IntN(3)*16, r.IntN(8))
		if slices.ContainsFunc(w.artifacts, func(b inventory.Artifact) bool { return a.Ref() == b.Ref() }) {
			continue
		}
		a.Tags = []string{}
		for _, tag := range worldTags {
			if some(4) && !slices.ContainsFunc(w.artifacts, func(b inventory.Artifact) bool {
				return b.Repository == a.Repository && slices.Contains(b.Tags, tag)
			}) {
				a.Tags = append(a.Tags, tag)
			}
		}
		slices.Sort(a.Tags)
		a.Deployed = some(4)
		var gone []string
		var seen []string
		do(t, s, func(tx *Tx) error {
			a.FirstSeen = tx.now
			if err := tx.PutArtifact(ctx, a); err != nil {
				return err
			}
			if a.Deployed {
				if err := tx.SetDeployed(ctx, a.Repository, a.Digest); err != nil {
					return err
				}
			}
			for range r.IntN(7) {
				id++
				g := sig(a, id, key(r.IntN(6)))
				g.ID = fmt.Sprintf("%064x", r.Uint64())
				g.Format = inventory.Formats()[r.IntN(3)]
				g.PredicateType = worldPredicates[r.IntN(2)]
				g.Verified = !some(4)
				g.FirstSeen = tx.now
				g.Requires, g.Bounds = nil, nil
				if some(3) {
					g.Requires = []inventory.Authority{worldAuthorities[0]}
				}
				for range r.IntN(4) {
					g.Bounds = append(g.Bounds, inventory.Bound{Side: []inventory.Side{inventory.Upper, inventory.Upper, inventory.Lower}[r.IntN(3)],
						Time: moment(), Authority: worldAuthorities[r.IntN(len(worldAuthorities))], Verified: !some(3)})
				}
				if err := tx.PutSignature(ctx, g); err != nil {
					return err
				}
				if g.Gone = some(5); g.Gone {
					gone = append(gone, g.ID)
				} else {
					seen = append(seen, g.ID)
				}
				w.signatures = append(w.signatures, g)
			}
			return nil
		})
		if len(gone) > 0 {
			do(t, s, func(tx *Tx) error {
				return tx.KeepSignatures(ctx, a.Repository, a.Digest, "", inventory.Formats(), seen)
			})
		}
		w.artifacts = append(w.artifacts, a)
	}
	slices.SortFunc(w.artifacts, func(a, b inventory.Artifact) int {
		late := func(a inventory.Artifact) int {
			if a.Deployed {
				return 0
			}
			return 1
		}
		return cmp.Or(late(a)-late(b), strings.Compare(a.Repository, b.Repository), strings.Compare(a.Digest, b.Digest))
	})
	slices.SortFunc(w.signatures, func(a, b inventory.Signature) int {
		return cmp.Or(strings.Compare(a.Repository, b.Repository), strings.Compare(a.Digest, b.Digest), strings.Compare(a.ID, b.ID))
	})
	return w
}

func named(signers []string, id signer.Identity) bool { return slices.Contains(signers, id.ID()) }

// alone reports what SignatureFilter.Alone asks of a signature.
func (w *world) alone(g inventory.Signature, signers []string) bool {
	return !slices.ContainsFunc(w.signatures, func(h inventory.Signature) bool {
		return h.Repository == g.Repository && h.Digest == g.Digest && h.PredicateType == g.PredicateType && h.Verified && !h.Gone &&
			h.Signer != g.Signer && !named(signers, h.Signer) && w.states[h.Signer].Trusted()
	})
}

// evidence returns the authorities of the verified evidence of a signature, and
// those on which all of its kind stands.
func evidence(g inventory.Signature) (all, only []inventory.Authority) {
	var upper []inventory.Authority
	for _, b := range g.Bounds {
		if b.Verified {
			all = append(all, b.Authority)
			if b.Side == inventory.Upper && !slices.Contains(upper, b.Authority) {
				upper = append(upper, b.Authority)
			}
		}
	}
	if g.Verified {
		all, only = append(all, g.Requires...), slices.Clone(g.Requires)
		if len(upper) == 1 {
			only = append(only, upper...)
		}
	}
	return all, only
}

func (w *world) signaturesBy(f SignatureFilter) (out []inventory.Signature) {
	for _, g := range w.signatures {
		var lower, upper time.Time
		for _, b := range g.Bounds {
			switch {
			case !b.Verified:
			case b.Side == inventory.Upper && (upper.IsZero() || b.Time.Before(upper)):
				upper = b.Time
			case b.Side == inventory.Lower && b.Time.After(lower):
				lower = b.Time
			}
		}
		if upper.IsZero() {
			upper = g.FirstSeen
		}
		_, only := evidence(g)
		if (len(f.Signers) == 0 || named(f.Signers, g.Signer)) && (f.Repository == "" || g.Repository == f.Repository) &&
			strings.HasPrefix(g.Repository, f.Prefix) && strings.HasPrefix(g.Digest, f.Digest) && (f.Format == "" || g.Format == f.Format) &&
			(f.Predicate == "" || g.PredicateType == f.Predicate) && (f.Verified == nil || g.Verified == *f.Verified) &&
			(f.From.IsZero() || !upper.Before(f.From)) && (f.Until.IsZero() || lower.Before(f.Until)) && (!f.Alone || w.alone(g, f.Signers)) &&
			(f.RestsOn == nil || slices.Contains(only, *f.RestsOn)) && (f.Gone || !g.Gone) {
			out = append(out, g)
		}
	}
	return out
}

func (w *world) artifactsBy(sel Selection) (out []inventory.Artifact) {
	for _, a := range w.artifacts {
		by, single := false, false
		for _, g := range w.signatures {
			if g.Repository != a.Repository || g.Digest != a.Digest {
				continue
			}
			by = by || named(sel.Signers, g.Signer)
			rests, _ := evidence(g)
			by = by || !g.Gone && slices.ContainsFunc(sel.Authorities, func(a inventory.Authority) bool { return slices.Contains(rests, a) })
			single = single || (len(sel.Signers) == 0 || named(sel.Signers, g.Signer)) && !g.Gone && w.alone(g, sel.Signers)
		}
		if (len(sel.Signers)+len(sel.Digests)+len(sel.Authorities) == 0 || by || slices.Contains(sel.Digests, a.Digest)) && (sel.Repository == "" || a.Repository == sel.Repository) &&
			strings.HasPrefix(a.Repository, sel.Prefix) && (sel.Digest == "" || a.Digest == sel.Digest) &&
			(sel.Tag == "" || slices.Contains(a.Tags, sel.Tag)) && (!sel.Alone || single) {
			out = append(out, a)
		}
	}
	return out
}

// drawSome draws one of values, or most often the zero value.
func drawSome[T any](t *rapid.T, label string, values ...T) (v T) {
	if rapid.IntRange(0, 2).Draw(t, label+"?") > 0 {
		return v
	}
	return rapid.SampledFrom(values).Draw(t, label)
}

func drawSigners(t *rapid.T) (ids []string) {
	for range drawSome(t, "signers", 1, 2, 3) {
		ids = append(ids, key(rapid.IntRange(0, 6).Draw(t, "signer")).ID())
	}
	return ids
}

func drawPrefix(t *rapid.T) string {
	return drawSome(t, "prefix", "registry.example/", "registry.example/acme", "registry.example/acme/app_", "registry.example/a%", "registry.example/zo\u00e9", "registry.example/zoe", "z", "\U0010FFFF")
}

// testQuestions asks whatever can be asked, in pages of any size.
func testQuestions(t *testing.T, s *Store) {
	ctx := t.Context()
	w := makeWorld(t, s)
	rapid.Check(t, func(t *rapid.T) {
		s.few = rapid.SampledFrom([]int{0, 3, 10_000}).Draw(t, "few") // which index leads must not matter
		f := SignatureFilter{Signers: drawSigners(t), Repository: drawSome(t, "repository", append(slices.Clone(worldRepositories), "none")...), Prefix: drawPrefix(t),
			Digest: drawSome(t, "digest", "sha256:", "sha256:1", "sha256:10", "sha256:%", w.artifacts[1].Digest, w.artifacts[9].Digest, digest(99)),
			Format: drawSome(t, "format", inventory.Formats()[:3]...), Predicate: drawSome(t, "predicate", append(slices.Clone(worldPredicates), "none")...),
			Alone: drawSome(t, "alone", true), Gone: drawSome(t, "gone", true)}
		if rapid.Bool().Draw(t, "asks whether it verified") {
			verified := rapid.Bool().Draw(t, "verified")
			f.Verified = &verified
		}
		if rapid.Bool().Draw(t, "asks what it rests on") {
			a := rapid.SampledFrom(append(slices.Clone(worldAuthorities), inventory.Authority{Role: inventory.RoleTSA, ID: "b"})).Draw(t, "authority")
			f.RestsOn = &a
		}
		second := rapid.IntRange(-40, 60)
		f.From = drawSome(t, "from", start.Add(time.Duration(second.Draw(t, "from"))*time.Second), start.Add(500*time.Millisecond))
		f.Until = drawSome(t, "until", start.Add(time.Duration(second.Draw(t, "until"))*time.Second), start.Add(500*time.Millisecond))
		limit := rapid.SampledFrom([]int{1, 3, 1000}).Draw(t, "limit")

		var got []inventory.Signature
		for at := (SignaturePlace{}); ; {
			page, next, err := s.Signatures(ctx, f, at, limit)
			if err != nil || len(page) > limit {
				t.Fatalf("%+v: a page of %d has %d, %v", f, limit, len(page), err)
			}
			if len(page) == 0 {
				break
			}
			got, at = append(got, page...), next
		}
		if want := w.signaturesBy(f); !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v:\ngot  %s\nwant %s", f, signatureIDs(got), signatureIDs(want))
		}

		sel := Selection{Signers: f.Signers, Repository: f.Repository, Prefix: f.Prefix, Alone: f.Alone, Tag: drawSome(t, "tag", append(slices.Clone(worldTags), "none")...),
			Digest:  drawSome(t, "whole digest", w.artifacts[0].Digest, w.artifacts[len(w.artifacts)-1].Digest, digest(99)),
			Digests: drawSome(t, "digests", []string{w.artifacts[0].Digest}, []string{w.artifacts[2].Digest, w.artifacts[len(w.artifacts)-2].Digest, digest(99)})}
		sel.Authorities = drawSome(t, "authorities", worldAuthorities[:1], worldAuthorities[1:3], []inventory.Authority{{Role: inventory.RoleTSA, ID: "b"}})
		var artifacts []inventory.Artifact
		for at := (Place{}); ; {
			page, next, err := s.Artifacts(ctx, sel, at, limit)
			if err != nil || len(page) > limit {
				t.Fatalf("%+v: a page of %d has %d, %v", sel, limit, len(page), err)
			}
			if len(page) == 0 {
				break
			}
			artifacts, at = append(artifacts, page...), next
		}
		if want := w.artifactsBy(sel); !reflect.DeepEqual(artifacts, want) {
			t.Fatalf("%+v:\ngot  %+v\nwant %+v", sel, artifacts, want)
		}

		blast, err := s.Blast(ctx, f.Signers)
		if want := w.blast(f.Signers, true); err != nil || blast != want {
			t.Fatalf("blast radius of %v:\ngot  %+v, %v\nwant %+v", f.Signers, blast, err, want)
		}
	})
	authorities, err := s.Authorities(ctx)
	must(t, err)
	var want []AuthoritySummary
	for _, a := range worldAuthorities {
		sum := AuthoritySummary{Authority: a}
		for _, g := range w.signatures {
			all, only := evidence(g)
			if !g.Gone && slices.Contains(all, a) {
				sum.Signatures++
			}
			if !g.Gone && slices.Contains(only, a) {
				sum.Alone++
			}
		}
		want = append(want, sum)
	}
	wantEqual(t, "authorities", authorities, want)
	uses, err := s.RestingOn(ctx, append(slices.Clone(worldAuthorities), inventory.Authority{Role: inventory.RoleTSA, ID: "b"}))
	must(t, err)
	wanted := []AuthorityUse{}
	for _, sum := range append(want, AuthoritySummary{Authority: inventory.Authority{Role: inventory.RoleTSA, ID: "b"}}) {
		use := AuthorityUse{AuthoritySummary: sum}
		deployed := map[string]bool{}
		for _, g := range w.signatures {
			all, _ := evidence(g)
			if slices.Contains(all, sum.Authority) && !g.Gone && slices.ContainsFunc(w.artifacts, func(a inventory.Artifact) bool {
				return a.Deployed && a.Repository == g.Repository && a.Digest == g.Digest
			}) {
				deployed[g.Repository+"@"+g.Digest] = true
			}
			for _, b := range g.Bounds {
				if b.Verified && b.Side == inventory.Upper && b.Authority == sum.Authority && b.Time.After(use.Latest) {
					use.Latest = b.Time
				}
			}
		}
		use.Deployed = int64(len(deployed))
		wanted = append(wanted, use)
	}
	wantEqual(t, "what rests on authorities", uses, wanted)
	signers, err := s.Signers(ctx)
	must(t, err)
	for _, r := range signers {
		b := w.blast([]string{r.Identity.ID()}, false)
		wantEqual(t, "signer "+r.Name, []any{r.Artifacts, r.Signatures, r.FirstSeen, r.LastSeen}, []any{b.Artifacts, b.Signatures, b.First, b.Last})
	}
	for _, repository := range worldRepositories {
		var c RepositoryCounts
		c.Artifacts = int64(len(w.artifactsBy(Selection{Repository: repository})))
		for _, g := range w.signaturesBy(SignatureFilter{Repository: repository}) {
			c.Signatures++
			if g.Verified {
				c.Verified++
			}
		}
		got, err := s.RepositoryCounts(ctx, repository)
		must(t, err)
		wantEqual(t, "counts of "+repository, got, c)
	}
}

// blast counts what signers signed: ever, or what is still at its place.
func (w *world) blast(signers []string, ever bool) (b Blast) {
	artifacts, repositories := map[string]bool{}, map[string]bool{}
	for _, g := range w.signatures {
		if !named(signers, g.Signer) {
			continue
		}
		if b.First.IsZero() || g.FirstSeen.Before(b.First) {
			b.First = g.FirstSeen
		}
		if g.FirstSeen.After(b.Last) {
			b.Last = g.FirstSeen
		}
		if ever && g.Gone {
			b.Gone++
		}
		if ever || !g.Gone {
			b.Signatures++
			artifacts[g.Repository+"@"+g.Digest], repositories[g.Repository] = true, true
		}
	}
	for _, a := range w.artifacts {
		if artifacts[a.Ref()] {
			b.Artifacts++
			if a.Deployed {
				b.Deployed++
			}
		}
	}
	b.Repositories = int64(len(repositories))
	return b
}

func signatureIDs(list []inventory.Signature) string {
	var out []string
	for _, g := range list {
		out = append(out, g.Repository+" "+g.Digest[:12]+" "+g.ID[48:])
	}
	return strings.Join(out, "\n     ")
}

// testPagesWhileWriting lists while others write: what was there before and
// stays is listed once, in order.
func testPagesWhileWriting(t *testing.T, s *Store) {
	ctx := t.Context()
	const first = 200
	put := func(n int) error {
		return s.Update(ctx, by, func(tx *Tx) error {
			return tx.PutSignature(ctx, sig(art(fmt.Sprintf("registry.example/r%d", n%7), n), n, key(n%3)))
		})
	}
	for n := range first {
		must(t, put(n))
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for n := first; ; n++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			err := put(n)
			if err == nil && n%3 == 0 { // another becomes deployed, and so changes its place
				err = s.Update(ctx, by, func(tx *Tx) error { return tx.SetDeployed(ctx, "", digest(n)) })
			}
			if err != nil {
				done <- err
				return
			}
		}
	}()
	for range 3 {
		seen := map[string]int{}
		last := SignaturePlace{}
		for at := last; ; {
			page, next, err := s.Signatures(ctx, SignatureFilter{Signers: []string{key(0).ID(), key(1).ID()}}, at, 7)
			must(t, err)
			if len(page) == 0 {
				break
			}
			for _, g := range page {
				here := SignaturePlace{g.Repository, g.Digest, g.ID}
				if compare(here.Repository, last.Repository, here.Digest, last.Digest, here.ID, last.ID) <= 0 {
					t.Fatalf("%v is listed after %v", here, last)
				}
				seen[g.ID], last = seen[g.ID]+1, here
			}
			at = next
		}
		for n := range first {
			if want := min(2-n%3, 1); seen[fmt.Sprintf("%064x", n)] != want {
				t.Fatalf("signature %d is listed %d times, want %d", n, seen[fmt.Sprintf("%064x", n)], want)
			}
		}
		listed := map[string]int{}
		for at := (Place{}); ; {
			page, next, err := s.Artifacts(ctx, Selection{Signers: []string{key(0).ID(), key(1).ID()}}, at, 7)
			must(t, err)
			if len(page) == 0 {
				break
			}
			for _, a := range page {
				listed[a.Ref()]++
			}
			at = next
		}
		for n := range first {
			ref := art(fmt.Sprintf("registry.example/r%d", n%7), n).Ref()
			if want := min(2-n%3, 1); listed[ref] != want {
				t.Fatalf("artifact %d is listed %d times, want %d", n, listed[ref], want)
			}
		}
	}
	close(stop)
	must(t, <-done)
}

// testPrefixEnd holds the range of a prefix against what starts with it.
func TestPrefixEnd(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOf(rapid.SampledFrom([]rune{0, 'a', 'b', 0x7f, 0x80, 0x7ff, 0x800, 0xd7ff, 0xe000, 0xffff, 0x10000, 0x10ffff}))
		prefix, s := text.Draw(t, "prefix"), text.Draw(t, "text")
		if rapid.Bool().Draw(t, "starts so") {
			s = prefix + s
		}
		end := prefixEnd(prefix)
		if err := checkText(strings.ReplaceAll(end, "\x00", "")); err != nil {
			t.Fatal(err)
		}
		if in := s >= prefix && (end == "" || s < end); in != strings.HasPrefix(s, prefix) {
			t.Fatalf("%q is in the range from %q to %q: %v", s, prefix, end, in)
		}
	})
}

// testLongNames has names that an index of PostgreSQL does not hold.
func testLongNames(t *testing.T, s *Store) {
	ctx := t.Context()
	noise := make([]byte, 5000)
	for i := range noise {
		noise[i] = byte('a' + rand.IntN(26)) // what does not compress
	}
	long := string(noise)
	a, g := art(repo, 1), sig(art(repo, 1), 1, key(1))
	for name, fn := range map[string]func(*Tx) error{
		"repository":       func(tx *Tx) error { a := a; a.Repository = long; return tx.PutArtifact(ctx, a) },
		"tag":              func(tx *Tx) error { a := a; a.Tags = []string{long}; return tx.PutArtifact(ctx, a) },
		"listed tag":       func(tx *Tx) error { return tx.Listed(ctx, Scan{Repository: repo}, []string{"v1", long}) },
		"tag looked at":    func(tx *Tx) error { return tx.PutTag(ctx, Scan{Repository: repo}, long, digest(1)) },
		"signature ID":     func(tx *Tx) error { g := g; g.ID = long; return tx.PutSignature(ctx, g) },
		"document":         func(tx *Tx) error { return tx.PutDocument(ctx, KindPlan, long, "a", nil) },
		"record":           func(tx *Tx) error { return tx.PutRecord(ctx, inventory.Record{ID: long}) },
		"problem's place":  func(tx *Tx) error { return tx.PutProblem(ctx, inventory.Problem{Repository: long}) },
		"signature's home": func(tx *Tx) error { g := g; g.Repository = long; return tx.PutSignature(ctx, g) },
	} {
		if err := s.Update(ctx, by, fn); err == nil || !strings.Contains(err.Error(), "longer than") {
			t.Errorf("%s: got %.200v, want a refusal", name, err)
		}
	}
	// As long as they may be, in every index at once.
	name := func(n int) string { return long[n : n+maxName] }
	a.Repository, a.Tags = name(0), []string{name(1)}
	g.Repository, g.Manifest, g.Names, g.PredicateType, g.Why = a.Repository, name(3), long, long, long
	g.Signer = signer.Identity{Kind: signer.Keyless, Subject: long, Issuer: long}
	g.Bounds = []inventory.Bound{{Side: inventory.Upper, Authority: inventory.Authority{Role: inventory.RoleLog, ID: long}, Why: long}}
	do(t, s, func(tx *Tx) error {
		if err := tx.PutArtifact(ctx, a); err != nil {
			return err
		}
		if err := tx.PutSignature(ctx, g); err != nil {
			return err
		}
		if err := tx.PutRecord(ctx, inventory.Record{ID: name(4), Signer: name(5), Digest: name(6), Key: long}); err != nil {
			return err
		}
		for _, ref := range []string{long, long + "x"} {
			if err := tx.PutProblem(ctx, inventory.Problem{Repository: a.Repository, Reference: ref, Problem: long}); err != nil {
				return err
			}
		}
		return tx.PutDocument(ctx, KindPlan, name(7), "a", noise)
	})
	wantEqual(t, "signature", ever(t, s, a).Signer, g.Signer)
	do(t, s, func(tx *Tx) error { return tx.ClearProblems(ctx, a.Repository, long) })
	got, err := s.Problems(ctx)
	must(t, err)
	wantEqual(t, "problems left", len(got), 1)
}

// testText has text that is no text in one of the databases, wherever text goes.
func testText(t *testing.T, s *Store) {
	ctx := t.Context()
	for _, bad := range []string{"a\x00b", "a\xffb", "\xed\xa0\x80"} {
		a, g := art(repo, 1), sig(art(repo, 1), 1, key(1))
		for name, fn := range map[string]func(*Tx) error{
			"repository":        func(tx *Tx) error { a := a; a.Repository += bad; return tx.PutArtifact(ctx, a) },
			"tag":               func(tx *Tx) error { a := a; a.Tags = []string{bad}; return tx.PutArtifact(ctx, a) },
			"listed tag":        func(tx *Tx) error { return tx.Listed(ctx, Scan{Repository: repo}, []string{bad}) },
			"signature ID":      func(tx *Tx) error { g := g; g.ID = bad; return tx.PutSignature(ctx, g) },
			"signer":            func(tx *Tx) error { g := g; g.Signer.Subject = bad; return tx.PutSignature(ctx, g) },
			"name of a signer":  func(tx *Tx) error { return tx.PutSigner(ctx, signer.Record{Identity: key(1), Name: bad}) },
			"document":          func(tx *Tx) error { return tx.PutDocument(ctx, KindPlan, "p", "a", []byte(bad)) },
			"ID of a document":  func(tx *Tx) error { return tx.PutDocument(ctx, KindPlan, bad, "a", nil) },
			"digest":            func(tx *Tx) error { return tx.SetDeployed(ctx, "", bad) },
			"subject of record": func(tx *Tx) error { return tx.PutRecord(ctx, inventory.Record{ID: "r", Digest: bad}) },
		} {
			err := s.Update(ctx, by, fn)
			if err == nil || !strings.Contains(err.Error(), "cannot be kept as text") || strings.ContainsAny(err.Error(), bad[1:2]) {
				t.Errorf("%s %q: got %v, want a refusal that can be printed", name, bad, err)
			}
		}
		for name, fn := range map[string]func() error{
			"signer": func() error { _, err := s.Signer(ctx, bad); return err },
			"prefix": func() error { _, _, err := s.Artifacts(ctx, Selection{Prefix: bad}, Place{}, 1); return err },
			"repository": func() error {
				_, _, err := s.Signatures(ctx, SignatureFilter{Repository: bad}, SignaturePlace{}, 1)
				return err
			},
			"document":   func() error { _, err := s.Document(ctx, KindPlan, bad); return err },
			"vault":      func() error { _, err := s.Vault(ctx, bad); return err },
			"signatures": func() error { _, err := s.SignaturesOf(ctx, inventory.Artifact{Digest: bad}, ""); return err },
		} {
			if err := fn(); err == nil || !strings.Contains(err.Error(), "cannot be kept as text") {
				t.Errorf("asking for a %s %q: got %v, want a refusal", name, bad, err)
			}
		}
	}
	wantEqual(t, "journal", size(t, s), int64(0))

	// What only describes is cleaned, so that one broken image stops no scan.
	const bad, cleaned = "a\x00b\xffc", "a\uFFFDb\uFFFDc"
	a := art(repo, 1)
	a.MediaType = bad
	g := sig(a, 1, key(1))
	g.Why, g.Names, g.PredicateType, g.Bounds[0].Why, g.Bounds[0].Authority.ID = bad, bad, bad, bad, bad
	do(t, s, func(tx *Tx) error {
		tx.Record(journal.Draft{Action: "test", Subject: bad})
		if err := tx.PutArtifact(ctx, a); err != nil {
			return err
		}
		if err := tx.PutSignature(ctx, g); err != nil {
			return err
		}
		return tx.PutProblem(ctx, inventory.Problem{Repository: repo, Reference: bad, Problem: bad})
	})
	artifacts, _, err := s.Artifacts(ctx, Selection{}, Place{}, 9)
	must(t, err)
	sigs, err := s.SignaturesOf(ctx, a, "")
	must(t, err)
	problems, err := s.Problems(ctx)
	must(t, err)
	wantEqual(t, "media type", artifacts[0].MediaType, cleaned)
	wantEqual(t, "signature", []string{sigs[0].Why, sigs[0].Names, sigs[0].PredicateType, sigs[0].Bounds[0].Why, sigs[0].Bounds[0].Authority.ID},
		[]string{cleaned, cleaned, cleaned, cleaned, cleaned})
	wantEqual(t, "problems", problems, []inventory.Problem{{Repository: repo, Reference: cleaned, Problem: cleaned}})
	do(t, s, func(tx *Tx) error { return tx.PutSignature(ctx, g) }) // and found to be the same again
	do(t, s, func(tx *Tx) error { return tx.ClearProblems(ctx, repo, bad) })
	problems, err = s.Problems(ctx)
	must(t, err)
	wantEqual(t, "problems", len(problems), 0)
}
