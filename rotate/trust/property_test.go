package trust

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// cases is how many random worlds each property is tried on.
const cases = 25_000

// property tries a property on so many random worlds.
func property(t *testing.T, try func(*rapid.T)) {
	t.Helper()
	n := 0
	for n < cases && !t.Failed() {
		rapid.Check(t, func(t *rapid.T) { n++; try(t) })
	}
	t.Logf("%d cases", n)
}

var (
	allSigners = []signer.Identity{thief, other, build, next, release, outside}
	allUppers  = []inventory.Authority{tsa, tsa2, log1, log2, journal, journal2}
	allLowers  = []inventory.Authority{ca, {Role: inventory.RoleCA, ID: "ca2"}}
	allCT      = []inventory.Authority{ct, {Role: inventory.RoleCT, ID: "ct2"}}
)

// one draws one of several.
func one[T any](t *rapid.T, what string, of ...T) T { return rapid.SampledFrom(of).Draw(t, what) }

func hour(t *rapid.T, what string) int { return rapid.IntRange(0, 20).Draw(t, what) }

func odds(t *rapid.T, what string, of int) bool { return rapid.IntRange(1, of).Draw(t, what) == 1 }

// world is a random inventory of one artifact with random incidents.
type world struct {
	statements []inventory.Statement
	policy     Policy
}

func drawSignature(t *rapid.T, id string) inventory.Signature {
	s := sig(one(t, "signer", allSigners...))
	s.ID = id
	s.Verified = !odds(t, "unverified", 6)
	s.Format = one(t, "format", inventory.Legacy, inventory.Legacy, inventory.Bundle, inventory.Referrer)
	if odds(t, "elsewhere", 6) {
		s.Location = "r.example/signatures"
	}
	s.Names = one(t, "names", "", "r.example/a", "r.example/b")
	s.FirstSeen = time.Time{}
	if !odds(t, "never seen", 8) {
		s.FirstSeen = at(hour(t, "seen"))
	}
	if kind := one(t, "type", inventory.SignPredicate, inventory.SignPredicate, provenanceType, provenanceType, vexType, inventory.SummaryPredicate); kind != inventory.SignPredicate {
		s.PredicateType, s.PayloadDigest = kind, one(t, "payload", "p1", "p2")
	}
	s.Content = inventory.Digest([]byte(s.PayloadDigest)) // what a summary of this payload names, see summaries
	for range rapid.IntRange(0, 3).Draw(t, "proofs") {
		s.Bounds = append(s.Bounds, inventory.Bound{Side: inventory.Upper, Time: at(hour(t, "time")), Authority: one(t, "authority", allUppers...), Verified: !odds(t, "false", 5)})
	}
	if s.Signer.Kind != signer.Keyless {
		return s
	}
	from := hour(t, "issued")
	s.Certificate = &signer.Certificate{NotBefore: at(from), NotAfter: at(from + one(t, "valid", 0, 1, 30)),
		Workflow: one(t, "workflow", "w1", "w2"), Ref: one(t, "ref", "r1", "r2"), Run: one(t, "run", "1", "2")}
	by := one(t, "CA", allLowers...)
	s.Requires = []inventory.Authority{by}
	if rapid.Bool().Draw(t, "one CT log") {
		s.Requires = append(s.Requires, one(t, "CT log", allCT...))
	}
	if odds(t, "one log", 6) {
		s.Requires = append(s.Requires, one(t, "log", log1, log2))
	}
	s.Bounds = append(s.Bounds, inventory.Bound{Side: inventory.Lower, Time: at(from), Authority: by, Verified: !odds(t, "false", 5)})
	return s
}

func drawIncident(t *rapid.T, id string) Incident {
	i := Incident{ID: id, Class: one(t, "class", Classes()...)}
	switch i.Class {
	case SigningKey, KMSKey:
		i.Signers = []signer.Identity{one(t, "key", thief, thief, other, build)}
	case KeylessIdentity:
		if rapid.Bool().Draw(t, "by name") {
			i.Signers = []signer.Identity{one(t, "identity", release, outside)}
		} else {
			i.Selectors = []Selector{one(t, "selector", Selector{Subject: release.Subject}, Selector{Issuer: issuer, SubjectRegexp: "^https://ci[.]example/acme/.*$"},
				Selector{SubjectRegexp: "^https://ci[.]example/(?:acme|mallory)/.*$"})}
		}
	case CIWorkflow:
		i.Selectors = []Selector{one(t, "run", Selector{Workflow: "w1"}, Selector{Ref: "r1", Issuer: issuer}, Selector{Run: "1", Workflow: "w2"})}
	case OIDCIssuer:
		i.Selectors = []Selector{one(t, "issuer", Selector{Issuer: issuer}, Selector{IssuerRegexp: "^https://oidc[.].*$"}, Selector{Issuer: "https://other.example"})}
	case FulcioCA:
		i.Authorities = []inventory.Authority{one(t, "CA", allLowers...)}
	case RekorLog:
		i.Authorities = one(t, "logs", []inventory.Authority{log1}, []inventory.Authority{log2}, []inventory.Authority{log1, log2})
	case CTLog:
		i.Authorities = []inventory.Authority{one(t, "CT log", allCT...)}
	case TSA:
		i.Authorities = []inventory.Authority{one(t, "TSA", tsa, tsa2)}
	case TUFRole:
		i.Authorities = []inventory.Authority{{Role: inventory.RoleTUF, ID: "root"}}
	}
	if !odds(t, "start unknown", 4) {
		i.From = ptr(at(rapid.IntRange(2, 15).Draw(t, "from")))
	}
	if i.Class.Ends() && rapid.Bool().Draw(t, "ends") {
		i.Until = ptr(at(rapid.IntRange(16, 19).Draw(t, "until")))
	}
	if err := i.Check(); err != nil {
		t.Fatal(err)
	}
	return i
}

func drawPolicy(t *rapid.T) Policy {
	p := Policy{Skew: skew, Primary: "I0", Keep: odds(t, "keep", 4), Rogue: map[string]string{}}
	if !p.Keep {
		p.Successor = one(t, "successor", next, next, other, release)
	}
	for n := range rapid.IntRange(1, 3).Draw(t, "incidents") {
		p.Incidents = append(p.Incidents, drawIncident(t, fmt.Sprint("I", n)))
	}
	if odds(t, "rogue", 10) {
		p.Rogue[artifact.Digest] = "seen"
	}
	if odds(t, "formats", 4) {
		p.Formats = one(t, "formats", []inventory.Format{inventory.Legacy}, []inventory.Format{inventory.Bundle}, []inventory.Format{inventory.Bundle, inventory.Legacy})
	}
	if odds(t, "home", 3) {
		p.Homes = []string{artifact.Repository}
	}
	if !odds(t, "nobody knows who is trusted", 6) {
		trusted := rapid.SliceOfN(rapid.Bool(), len(allSigners), len(allSigners)).Draw(t, "trusted")
		p.Trusted = func(id signer.Identity) bool { return trusted[slices.Index(allSigners, id)] }
	}
	if odds(t, "complete source", 3) {
		by := rapid.SliceOfN(rapid.Bool(), 5, 5).Draw(t, "unexplained")
		p.Unexplained = func(s inventory.Signature) bool { return by[s.ID[1]-'0'] }
	}
	for range rapid.IntRange(0, 2).Draw(t, "vouchers") {
		v := Voucher{Kind: one(t, "kind", "", Attestation, KnownGood, CIRun), Signer: one(t, "voucher", allSigners...)}
		if odds(t, "stands", 3) {
			v.Standing = ptr(at(hour(t, "standing")))
		}
		switch v.Kind {
		case KnownGood:
			v.List = inventory.Digest(nil)
		case CIRun:
		default:
			v.PredicateType = provenanceType
		}
		if err := v.Check(); err != nil {
			t.Fatal(err)
		}
		p.Vouchers = append(p.Vouchers, v)
	}
	if !odds(t, "nothing can be read", 6) {
		p.Payload = summaries
	}
	if len(p.Vouchers) == 0 {
		return p
	}
	listed := !odds(t, "not listed", 3)
	p.Listed = func(Voucher, string) bool { return listed }
	if odds(t, "void", 6) {
		p.Void = func(Voucher) string { return "it vouched for a rogue digest" }
	}
	var records []inventory.Record
	for range rapid.IntRange(0, 2).Draw(t, "records") {
		r := run(one(t, "recorded by", p.Vouchers[0].Signer, build, thief), one(t, "run signed by", allSigners...))
		r.Failed = odds(t, "failed", 5)
		if odds(t, "names no signer", 3) {
			r.Signer = ""
		}
		records = append(records, r)
	}
	p.Runs = runs(records...)
	return p
}

// summaries reads every signature as a summary of the provenance that has the
// same payload digest.
func summaries(s inventory.Signature) ([]byte, error) {
	return inventory.Summary{Artifact: artifact, Verifier: "urn:x", Plan: artifact.Digest,
		Inputs: []inventory.SummaryInput{{Digest: s.Content}}}.Payload()
}

func drawWorld(t *rapid.T) world {
	var sigs []inventory.Signature
	for n := range rapid.IntRange(1, 5).Draw(t, "signatures") {
		sigs = append(sigs, drawSignature(t, fmt.Sprint("s", n)))
	}
	return world{inventory.Statements(artifact, sigs), drawPolicy(t)}
}

// decideAll decides every statement; what no plan is concerned with counts as
// none.
func (w world) decideAll() []Decision {
	var out []Decision
	for _, st := range w.statements {
		o, ok := Decide(st, w.statements, w.policy)
		if !ok {
			o.Decision = None
		}
		out = append(out, o.Decision)
	}
	return out
}

func noMoreTrust(t *rapid.T, what string, before, after []Decision) {
	for n := range before {
		if Compare(after[n], before[n]) > 0 {
			t.Fatalf("%s moved statement %d from %s to %s", what, n, before[n], after[n])
		}
	}
}

// lost says by other means than the rules whether an incident takes an
// authority.
func (w world) lost(a inventory.Authority) bool {
	if a.Role == inventory.RoleJournal && w.lost(inventory.Authority{Role: inventory.RoleTSA, ID: a.ID}) {
		return true
	}
	return slices.ContainsFunc(w.policy.Incidents, func(i Incident) bool { return slices.Contains(i.Authorities, a) })
}

// compromised says so of a signer, whatever was signed.
func (w world) compromised(id signer.Identity) bool {
	return slices.ContainsFunc(w.policy.Incidents, func(i Incident) bool {
		return slices.Contains(i.Signers, id) ||
			slices.ContainsFunc(i.Selectors, func(s Selector) bool {
				if id.Kind != signer.Keyless || s.Issuer != "" && s.Issuer != id.Issuer {
					return false
				}
				switch {
				case s.Subject != "":
					return s.Subject == id.Subject
				case s.SubjectRegexp == "^https://ci[.]example/acme/.*$":
					return id == release
				}
				return true
			})
	})
}

// evidence says by other means than the rules whether anything outside every
// incident speaks for a statement: a bound of a signature whose signer may be
// replaced, such a signature that no incident is about, or a voucher.
func (w world) evidence(st inventory.Statement) bool {
	p := w.policy
	for _, s := range st.Signatures {
		if !s.Verified || p.Trusted != nil && !p.Trusted(s.Signer) && !slices.Contains(p.Incidents[0].Signers, s.Signer) {
			continue
		}
		required := slices.ContainsFunc(s.Requires, w.lost)
		if !required && !w.compromised(s.Signer) {
			return true
		}
		for _, b := range s.Bounds {
			if b.Verified && !w.lost(b.Authority) && (b.Side == inventory.Upper || !required) {
				return true
			}
		}
	}
	if st.Key != inventory.SignPredicate {
		return false
	}
	for _, v := range p.Vouchers {
		if w.compromised(v.Signer) || p.Void != nil || v.Standing != nil && (p.Incidents[0].From == nil || !v.Standing.Before(p.Incidents[0].From.Add(-skew))) {
			continue
		}
		switch v.Kind {
		case KnownGood:
			if p.Listed(v, artifact.Digest) {
				return true
			}
		case CIRun:
			ofRuns := slices.Contains([]Class{KeylessIdentity, CIWorkflow, OIDCIssuer}, p.Incidents[0].Class)
			if !ofRuns && slices.ContainsFunc(p.Runs(artifact.Digest), func(r inventory.Record) bool {
				signed := slices.IndexFunc(allSigners, func(id signer.Identity) bool { return id.ID() == r.Signer })
				return r.By == v.Signer.ID() && !r.Failed && (signed < 0 || !w.compromised(allSigners[signed]))
			}) {
				return true
			}
		default:
			for _, beside := range w.statements {
				for _, s := range beside.Signatures {
					if s.Verified && s.Signer == v.Signer && s.PredicateType == v.PredicateType && !slices.ContainsFunc(s.Requires, w.lost) {
						return true
					}
				}
			}
		}
	}
	return false
}

// sound says by other means than the rules whether a signature by somebody who is
// trusted has to do with no incident.
func (w world) sound(s inventory.Signature) bool {
	p := w.policy
	return s.Verified && (s.Signer == p.Successor || p.Trusted != nil && p.Trusted(s.Signer)) &&
		!slices.ContainsFunc(s.Requires, w.lost) &&
		!slices.ContainsFunc(p.Incidents, func(i Incident) bool {
			return slices.Contains(i.Signers, s.Signer) || slices.ContainsFunc(i.Selectors, func(x Selector) bool { return x.Matches(s.Signer, s.Certificate) })
		})
}

// TestNeverBelievedWithoutEvidence also holds the explanation against the
// decision, and a denial against what it takes to accuse.
func TestNeverBelievedWithoutEvidence(t *testing.T) {
	t.Parallel()
	seen := map[Decision]int{}
	property(t, func(t *rapid.T) {
		w := drawWorld(t)
		for _, st := range w.statements {
			explained(t, st, w.statements, w.policy)
			out, ok := Decide(st, w.statements, w.policy)
			seen[out.Decision]++
			switch {
			case !ok:
				if slices.ContainsFunc(st.Signatures, w.policy.Replaces) {
					t.Fatalf("%s is a concern of the plan", st.Key)
				}
			case out.Decision == Resign, out.Decision == None && w.policy.Keep:
				if !w.evidence(st) {
					t.Fatalf("%s for %s without evidence (%s)", out.Decision, st.Key, out.Reason)
				}
			case out.Decision == None:
				if !slices.ContainsFunc(w.statements, func(by inventory.Statement) bool {
					return (by.Key == st.Key || by.PredicateType() == inventory.SummaryPredicate) && slices.ContainsFunc(by.Signatures, w.sound)
				}) {
					t.Fatalf("%s is covered (%s) by nothing that is outside every incident", st.Key, out.Reason)
				}
			case out.Decision == Deny && len(w.policy.Rogue) == 0:
				for _, beside := range w.statements {
					for _, s := range beside.Signatures {
						if w.policy.Unexplained == nil || !w.policy.Unexplained(s) {
							t.Fatalf("denied, and nobody says that %s is unexplained", s.ID)
						}
					}
				}
			}
		}
	})
	for _, d := range Decisions() {
		if seen[d] < cases/1000 {
			t.Errorf("%s was decided %d times only: the worlds show nothing about it", d, seen[d])
		}
	}
	t.Log(seen)
}

func TestAddingAnIncidentNeverAddsTrust(t *testing.T) {
	t.Parallel()
	property(t, func(t *rapid.T) {
		w := drawWorld(t)
		before := w.decideAll()
		w.policy.Incidents = append(slices.Clone(w.policy.Incidents), drawIncident(t, "J"))
		noMoreTrust(t, "adding an incident", before, w.decideAll())
	})
}

// Whoever is told whose times prove "before" believes no more than who believes
// everybody's.
func TestNamingWitnessesNeverAddsTrust(t *testing.T) {
	t.Parallel()
	property(t, func(t *rapid.T) {
		w := drawWorld(t)
		before := w.decideAll()
		var witnesses []inventory.Authority
		for _, a := range allUppers {
			if rapid.Bool().Draw(t, "a witness") {
				witnesses = append(witnesses, a)
			}
		}
		open := w.policy.Incidents
		w.policy.Incidents = slices.Clone(open)
		for n := range w.policy.Incidents {
			w.policy.Incidents[n] = open[n].ProvenBy(witnesses)
		}
		noMoreTrust(t, "naming witnesses", before, w.decideAll())
		for _, st := range w.statements {
			for _, s := range st.Signatures {
				was, now := Judge(s, open, skew), Judge(s, w.policy.Incidents, skew)
				if was.Verdict != now.Verdict && (was.Verdict != ProvenBefore || now.Verdict != Unproven) {
					t.Fatalf("%+v, and with witnesses %v %+v", was, witnesses, now)
				}
			}
		}
	})
}

func TestWideningAWindowNeverAddsTrust(t *testing.T) {
	t.Parallel()
	property(t, func(t *rapid.T) {
		w := drawWorld(t)
		before := w.decideAll()
		w.policy.Incidents = slices.Clone(w.policy.Incidents)
		i := &w.policy.Incidents[rapid.IntRange(0, len(w.policy.Incidents)-1).Draw(t, "which")]
		later := time.Duration(rapid.IntRange(1, 5).Draw(t, "by")) * time.Hour
		switch rapid.IntRange(0, 3).Draw(t, "how") {
		case 0:
			i.From = nil
		case 1:
			if i.From != nil {
				i.From = ptr(i.From.Add(-later))
			}
		case 2:
			i.Until = nil
		case 3:
			if i.Until != nil {
				i.Until = ptr(i.Until.Add(later))
			}
		}
		noMoreTrust(t, "widening a window", before, w.decideAll())
	})
}

// TestALaterProofChangesNothing counter-stamps, as anybody can, after we have
// seen the signatures and after their certificates.
func TestALaterProofChangesNothing(t *testing.T) {
	t.Parallel()
	property(t, func(t *rapid.T) {
		w := drawWorld(t)
		for n := range w.statements {
			for m := range w.statements[n].Signatures {
				if s := &w.statements[n].Signatures[m]; s.FirstSeen.IsZero() {
					s.FirstSeen = at(20)
				}
			}
		}
		before := w.decideAll()
		for n := range w.statements {
			for m := range w.statements[n].Signatures {
				s := &w.statements[n].Signatures[m]
				s.Bounds = append(slices.Clone(s.Bounds), upper(1000, one(t, "later", allUppers...)))
			}
		}
		for n, d := range w.decideAll() {
			if d != before[n] {
				t.Fatalf("a later proof moved statement %d from %s to %s", n, before[n], d)
			}
		}
	})
}

func TestOrderDoesNotMatter(t *testing.T) {
	t.Parallel()
	property(t, func(t *rapid.T) {
		w := drawWorld(t)
		decided := map[string]Decision{}
		for n, d := range w.decideAll() {
			decided[w.statements[n].Key] = d
		}
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		shuffle(r, w.statements)
		for _, st := range w.statements {
			shuffle(r, st.Signatures)
			for n := range st.Signatures {
				shuffle(r, st.Signatures[n].Bounds)
			}
		}
		shuffle(r, w.policy.Incidents)
		shuffle(r, w.policy.Vouchers)
		for n, d := range w.decideAll() {
			if d != decided[w.statements[n].Key] {
				t.Fatalf("order moved %s from %s to %s", w.statements[n].Key, decided[w.statements[n].Key], d)
			}
		}
	})
}

// TestRemovalLeavesALight takes signatures off random artifacts: only such as
// have to go, nothing that is yet to be re-signed, and of what is deployed
// nothing that any of its consumers needs.
func TestRemovalLeavesALight(t *testing.T) {
	t.Parallel()
	property(t, func(t *rapid.T) {
		w := drawWorld(t)
		p := w.policy
		q := Removal{Artifact: artifact, Decided: map[string]Outcome{}, Recalled: map[string]string{}, All: odds(t, "all", 2), AcceptDark: odds(t, "dark", 4)}
		q.Artifact.Deployed = !odds(t, "not deployed", 4)
		for _, st := range w.statements {
			q.Standing = append(q.Standing, st.Signatures...)
			if out, ok := Decide(st, w.statements, p); ok {
				q.Decided[st.Key] = out
			}
		}
		for _, s := range q.Standing {
			if s.Signer == p.Successor && odds(t, "recalled", 3) {
				q.Recalled[s.ID] = "it would not be done now"
			}
		}
		reader := func(f inventory.Format) Reader {
			by := one(t, "anchor", allSigners...)
			refused := one(t, "refused", "", "s0", "s1", "s2")
			return Reader{Name: string(f), Reads: f, Ours: odds(t, "ours", 2), Trusts: func(s inventory.Signature) bool { return s.Signer == by },
				Accepts: func(s inventory.Signature) error {
					if s.ID == refused {
						return errors.New("refused")
					}
					return nil
				}}
		}
		for _, f := range []inventory.Format{inventory.Legacy, inventory.Bundle} {
			if !odds(t, "no consumer", 3) {
				q.Readers = append(q.Readers, reader(f))
			}
		}
		q.Otherwise = reader("")
		q.Ever = q.Standing

		gone := map[string]Removed{}
		for _, x := range p.Remove(q) {
			if x.Kept == "" {
				gone[x.ID] = x
			}
		}
		var left []inventory.Signature
		for _, s := range q.Standing {
			x, away := gone[s.ID]
			if !away {
				left = append(left, s)
				continue
			}
			if _, recalled := q.Recalled[s.ID]; recalled {
				continue
			}
			if v := Judge(s, p.Incidents, p.Skew).Verdict; !p.Replaces(s) || !q.All && v != Inside && v != Unproven {
				t.Fatalf("%s (%s) is taken away as %s", s.ID, v, x.Cause)
			}
		}
		if len(gone) == 0 {
			return
		}
		beside := inventory.Statements(q.Artifact, left)
		for key, was := range q.Decided {
			touched := slices.ContainsFunc(slices.Collect(maps.Values(gone)), func(x Removed) bool { return x.StatementKey() == key })
			if was.Decision != Resign || !touched {
				continue
			}
			at := slices.IndexFunc(beside, func(st inventory.Statement) bool { return st.Key == key })
			if at < 0 {
				t.Fatalf("nothing is left of %s, which is to be re-signed", key)
			}
			if now, ok := Decide(beside[at], beside, p); !ok || Compare(now.Decision, Resign) < 0 {
				t.Fatalf("%s was to be re-signed and is now %s", key, now.Decision)
			}
		}
		image := q.Decided[inventory.SignPredicate].Decision
		if _, rogue := p.Rogue[artifact.Digest]; !q.Artifact.Deployed || rogue || image == Deny || image == Hold && q.AcceptDark {
			return
		}
		for _, r := range q.Readers {
			accepted := func(on []inventory.Signature, f inventory.Format) bool {
				return slices.ContainsFunc(on, func(s inventory.Signature) bool {
					return s.Format == f && s.Location == "" && s.Verified && r.Trusts(s) && r.Accepts(s) == nil && s.PredicateType == inventory.SignPredicate
				})
			}
			if accepted(q.Standing, r.Reads) && !accepted(left, r.Reads) {
				t.Fatalf("the consumer of %s accepted it, and does not any more: %v", r.Reads, gone)
			}
		}
	})
}

func shuffle[T any](r *rand.Rand, s []T) {
	r.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}

// TestNothingRogueIsBelieved puts a thief into the world who makes only what a
// thief can make, on an artifact that is rogue: with a compromised signer in its
// window, with a lost CA whatever certificates, with a lost log or timestamp
// authority whatever times, and nothing that an honest authority, signer or
// voucher would say. No decision may believe any of it.
func TestNothingRogueIsBelieved(t *testing.T) {
	t.Parallel()
	touched := 0
	property(t, func(t *rapid.T) {
		w := world{policy: drawPolicy(t)}
		p := &w.policy
		p.Rogue, p.Homes = nil, []string{artifact.Repository} // nothing but proofs stands between
		p.Trusted = func(id signer.Identity) bool { return id != outside }
		p.Vouchers = slices.DeleteFunc(p.Vouchers, func(v Voucher) bool { return v.Signer == outside }) // no quorum approves the thief
		honest := func(v Voucher) bool { return !w.compromised(v.Signer) }
		p.Listed = func(v Voucher, _ string) bool { return !honest(v) }
		p.Runs = func(string) (out []inventory.Record) {
			for _, v := range p.Vouchers {
				r := run(v.Signer, one(t, "run signed by", allSigners...))
				if honest(v) { // it tells truly of a run that the thief made
					r.Failed = true
				}
				out = append(out, r)
			}
			return out
		}
		var sigs []inventory.Signature
		for n := range rapid.IntRange(1, 4).Draw(t, "signatures") {
			if s, ok := w.drawForgery(t, fmt.Sprint("s", n)); ok {
				sigs = append(sigs, s)
			}
		}
		w.statements = inventory.Statements(artifact, sigs)
		for _, st := range w.statements {
			out, ok := Decide(st, w.statements, *p)
			if !ok {
				continue
			}
			touched++
			if out.Decision == Resign || out.Decision == None {
				t.Fatalf("%s for a rogue artifact (%s): %+v", out.Decision, out.Reason, st)
			}
		}
	})
	if touched < cases/10 {
		t.Errorf("%d statements only were any concern of a plan", touched)
	}
}

// drawForgery draws a signature that the thief can make, or false when the
// incidents leave him none by the signer that was drawn.
func (w world) drawForgery(t *rapid.T, id string) (inventory.Signature, bool) {
	s := drawSignature(t, id)
	// Since when the thief can sign so, and until when.
	var from, until *time.Time
	can := s.Signer == outside // himself, whom nobody trusts
	for _, i := range w.policy.Incidents {
		by := slices.Contains(i.Signers, s.Signer) || slices.ContainsFunc(i.Selectors, func(x Selector) bool { return x.Matches(s.Signer, s.Certificate) })
		forged := i.Class == FulcioCA && len(s.Requires) > 0 && i.Authorities[0] == s.Requires[0]
		if by || forged {
			can, from, until = true, i.From, i.Until
			break
		}
	}
	if !can {
		return s, false
	}
	start, end := at(0), at(40)
	if from != nil {
		start = *from
	}
	if until != nil {
		end = *until
	}
	made := start.Add(time.Duration(rapid.Int64Range(0, int64(end.Sub(start)/time.Minute)-1).Draw(t, "made")) * time.Minute)
	s.FirstSeen = made.Add(time.Hour)
	for n := range s.Bounds {
		b := &s.Bounds[n]
		lost := w.lost(b.Authority)
		if b.Side == inventory.Lower {
			// An honest CA and CT log date a certificate when they issue it.
			lost = slices.ContainsFunc(s.Requires, w.lost)
			if !lost {
				b.Time = made
				s.Certificate.NotBefore, s.Certificate.NotAfter = made, made.Add(10*time.Minute)
			}
			continue
		}
		if !lost {
			b.Time = made.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "stamped after")) * time.Minute)
		}
	}
	return s, true
}
