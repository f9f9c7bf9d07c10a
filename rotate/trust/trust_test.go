package trust

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

var (
	t0    = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	thief = signer.Identity{Kind: signer.Key, Subject: strings.Repeat("a", 64)}
	other = signer.Identity{Kind: signer.Key, Subject: strings.Repeat("b", 64)}
	build = signer.Identity{Kind: signer.Key, Subject: strings.Repeat("c", 64)}
	next  = signer.Identity{Kind: signer.Key, Subject: strings.Repeat("d", 64)}
	tsa   = inventory.Authority{Role: inventory.RoleTSA, ID: "tsa"}
	log1  = inventory.Authority{Role: inventory.RoleLog, ID: "log"}
)

func at(hours int) time.Time { return t0.Add(time.Duration(hours) * time.Hour) }

func ptr(t time.Time) *time.Time { return &t }

func upper(hours int, a inventory.Authority) inventory.Bound {
	return inventory.Bound{Side: inventory.Upper, Time: at(hours), Authority: a, Verified: true}
}

func lower(hours int, a inventory.Authority) inventory.Bound {
	return inventory.Bound{Side: inventory.Lower, Time: at(hours), Authority: a, Verified: true}
}

func sig(by signer.Identity, bounds ...inventory.Bound) inventory.Signature {
	return inventory.Signature{ID: "s", Repository: "r.example/a", Digest: "sha256:d", Format: inventory.Legacy, PredicateType: inventory.SignPredicate,
		Signer: by, Verified: true, Bounds: bounds, Names: "r.example/a", FirstSeen: at(100)}
}

func TestJudge(t *testing.T) {
	leak := Incident{ID: "I", Class: SigningKey, Signers: []signer.Identity{thief}, From: ptr(at(10))}
	unknown := Incident{ID: "I", Class: SigningKey, Signers: []signer.Identity{thief}}
	window := Incident{ID: "I", Class: "keyless", Signers: []signer.Identity{thief}, From: ptr(at(10)), Until: ptr(at(12))}
	tsaLost := Incident{ID: "T", Class: "tsa", Authorities: []inventory.Authority{tsa}, From: ptr(at(20))}
	forged := upper(1, tsa)
	forged.Verified, forged.Why = false, "no authority we trust"
	unverified := sig(thief, upper(1, tsa))
	unverified.Verified = false
	for _, tc := range []struct {
		name      string
		sig       inventory.Signature
		incidents []Incident
		want      Verdict
	}{
		{"does not verify", unverified, []Incident{leak}, Unverifiable},
		{"another signer", sig(other), []Incident{leak}, Unaffected},
		{"proof before", sig(thief, upper(5, tsa)), []Incident{leak}, ProvenBefore},
		{"proof within the skew", sig(thief, inventory.Bound{Side: inventory.Upper, Time: at(10).Add(-5 * time.Minute), Authority: tsa, Verified: true}), []Incident{leak}, Unproven},
		{"proof after", sig(thief, upper(11, tsa)), []Incident{leak}, Unproven},
		{"no proof", sig(thief), []Incident{leak}, Unproven},
		{"proof that did not verify", sig(thief, forged), []Incident{leak}, Unproven},
		{"earliest of two proofs counts", sig(thief, upper(11, log1), upper(5, tsa)), []Incident{leak}, ProvenBefore},
		{"start unknown", sig(thief, upper(-1000, tsa)), []Incident{unknown}, Unproven},
		{"made after it started", sig(thief, lower(11, tsa)), []Incident{leak}, Inside},
		{"not before proves no before", sig(thief, lower(5, tsa)), []Incident{leak}, Unproven},
		{"inside a window", sig(thief, lower(10, tsa), upper(11, log1)), []Incident{window}, Inside},
		{"after a window", sig(thief, lower(13, tsa)), []Incident{window}, ProvenAfter},
		{"just after a window", sig(thief, lower(12, tsa)), []Incident{window}, Unproven},
		{"authority under an incident", sig(thief, upper(5, tsa)), []Incident{leak, tsaLost}, Unproven},
		{"another authority holds", sig(thief, upper(5, tsa), upper(6, log1)), []Incident{leak, tsaLost}, ProvenBefore},
		{"worst of two incidents", sig(thief, upper(5, tsa)), []Incident{leak, {ID: "J", Class: SigningKey, Signers: []signer.Identity{thief}, From: ptr(at(3))}}, Unproven},
		{"contradiction", sig(thief, lower(9, log1), upper(5, tsa)), []Incident{leak}, Unproven},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Judge(tc.sig, tc.incidents, 5*time.Minute)
			if got.Verdict != tc.want {
				t.Errorf("verdict %s (%s), want %s", got.Verdict, got.Reason, tc.want)
			}
			if got.Reason == "" {
				t.Error("no reason given")
			}
			if got.Contradiction != (tc.name == "contradiction") {
				t.Errorf("contradiction = %v", got.Contradiction)
			}
		})
	}
}

// TestAttack tries to break laws 1 and 2: each case is something a thief can
// put into a registry, and what must not come of it.
func TestAttack(t *testing.T) {
	leak := Incident{ID: "I", Class: SigningKey, Signers: []signer.Identity{thief}, From: ptr(at(10))}
	artifact := inventory.Artifact{Repository: "r.example/a", Digest: "sha256:d"}
	provenance := func(by signer.Identity) inventory.Signature {
		s := sig(by)
		s.ID, s.PredicateType, s.PayloadDigest = "p"+by.Subject[:2], "https://slsa.dev/provenance/v1", "sha256:p"
		return s
	}
	claim := func(by signer.Identity, payload string, bounds ...inventory.Bound) inventory.Signature {
		s := sig(by, bounds...)
		s.ID, s.PredicateType, s.PayloadDigest = "c"+payload, "https://openvex.dev/ns/v0.2.0", payload
		return s
	}
	named := func(s inventory.Signature, repository string) inventory.Signature {
		s.Names = repository
		return s
	}
	format := func(s inventory.Signature, f inventory.Format) inventory.Signature {
		s.ID, s.Format = s.ID+string(f), f
		return s
	}
	voucher := Voucher{Signer: build, PredicateType: "https://slsa.dev/provenance/v1"}
	before := func(s inventory.Signature) inventory.Signature { s.FirstSeen = at(1); return s }
	for _, tc := range []struct {
		name   string
		sigs   []inventory.Signature
		policy Policy
		about  string // predicate type of the statement judged
		want   Decision
	}{
		{name: "rogue image without proof", sigs: []inventory.Signature{sig(thief)}, want: Hold},
		{name: "rogue image stamped after the theft", sigs: []inventory.Signature{sig(thief, upper(11, tsa))}, want: Hold},
		{name: "certificate notBefore before the theft", sigs: []inventory.Signature{sig(thief, lower(1, log1))}, want: Hold},
		{name: "marked rogue though proven", sigs: []inventory.Signature{sig(thief, upper(1, tsa))}, policy: Policy{Rogue: map[string]string{"sha256:d": "seen"}}, want: Deny},
		{name: "signature by a signer nobody trusts", sigs: []inventory.Signature{sig(thief), {ID: "x", Format: inventory.Legacy, PredicateType: inventory.SignPredicate, Signer: other, Verified: true}}, want: Hold},
		{name: "trusted signature that does not verify", sigs: []inventory.Signature{sig(thief), {ID: "x", Format: inventory.Legacy, PredicateType: inventory.SignPredicate, Signer: build, Why: "forged"}}, want: Hold},
		{name: "trusted signature in a format the consumer cannot read", sigs: []inventory.Signature{sig(thief), format(sig(build), inventory.Bundle)}, want: Hold},
		{name: "proven signature by a signer nobody ever trusted", sigs: []inventory.Signature{sig(thief, upper(11, tsa)), {ID: "x", Format: inventory.Legacy,
			PredicateType: inventory.SignPredicate, Signer: other, Verified: true, Names: "r.example/a", Bounds: []inventory.Bound{upper(1, tsa)}}},
			policy: Policy{Incidents: []Incident{{ID: "O", Class: SigningKey, Signers: []signer.Identity{other}, From: ptr(at(10))}}}, want: Hold},
		{name: "rogue signature on a good image", sigs: []inventory.Signature{sig(thief, upper(1, tsa)), sig(thief, upper(11, tsa))}, want: Resign},
		{name: "rogue claim on a good image", about: "https://openvex.dev/ns/v0.2.0",
			sigs: []inventory.Signature{sig(thief, upper(1, tsa)), claim(thief, "good", upper(1, tsa)), claim(thief, "rogue")}, want: Hold},
		{name: "provenance does not vouch for a claim", about: "https://openvex.dev/ns/v0.2.0",
			sigs: []inventory.Signature{provenance(build), claim(thief, "rogue")}, policy: Policy{Vouchers: []Voucher{voucher}, Homes: []string{"r.example/a"}}, want: Hold},
		{name: "good copy in the thief's repository", sigs: []inventory.Signature{named(sig(thief, upper(1, tsa)), "r.example/elsewhere")}, want: Hold},
		{name: "good copy where a plan says so", sigs: []inventory.Signature{named(sig(thief, upper(1, tsa)), "r.example/elsewhere")}, policy: Policy{Homes: []string{"r.example/a"}}, want: Resign},
		{name: "vouched and seen before", sigs: []inventory.Signature{before(sig(thief)), provenance(build)}, policy: Policy{Vouchers: []Voucher{voucher}}, want: Resign},
		{name: "vouched but never seen before", sigs: []inventory.Signature{sig(thief), provenance(build)}, policy: Policy{Vouchers: []Voucher{voucher}}, want: Hold},
		{name: "vouched by the compromised signer", sigs: []inventory.Signature{before(sig(thief)), provenance(thief)},
			policy: Policy{Vouchers: []Voucher{{Signer: thief, PredicateType: "https://slsa.dev/provenance/v1"}}}, want: Hold},
		{name: "vouched by somebody the plan does not name", sigs: []inventory.Signature{before(sig(thief)), provenance(other)}, policy: Policy{Vouchers: []Voucher{voucher}}, want: Hold},
		{name: "content rule that the provenance does not meet", sigs: []inventory.Signature{before(sig(thief)), provenance(build)},
			policy: Policy{Vouchers: []Voucher{{Signer: build, PredicateType: "https://slsa.dev/provenance/v1", Content: map[string]string{"builder.id": "ours"}}},
				Payload: func(inventory.Signature) ([]byte, error) {
					return []byte(`{"predicate":{"builder":{"id":"theirs"}}}`), nil
				}}, want: Hold},
		{name: "content rule met", sigs: []inventory.Signature{before(sig(thief)), provenance(build)},
			policy: Policy{Vouchers: []Voucher{{Signer: build, PredicateType: "https://slsa.dev/provenance/v1", Content: map[string]string{"builder.id": "ours"}}},
				Payload: func(inventory.Signature) ([]byte, error) {
					return []byte(`{"predicate":{"builder":{"id":"ours"}}}`), nil
				}}, want: Resign},
		{name: "provenance is not re-asserted", about: "https://slsa.dev/provenance/v1", sigs: []inventory.Signature{func() inventory.Signature {
			s := provenance(thief)
			s.Bounds = []inventory.Bound{upper(1, tsa)}
			return s
		}()}, want: Hold},
		{name: "signature of another enrolled signer in another format", sigs: []inventory.Signature{format(sig(thief), inventory.Bundle), sig(build, upper(1, tsa))}, want: Hold},
		{name: "proven signature of another compromised signer", sigs: []inventory.Signature{sig(thief), sig(build, upper(1, tsa))},
			policy: Policy{Incidents: []Incident{{ID: "B", Class: SigningKey, Signers: []signer.Identity{build}, From: ptr(at(10))}}}, want: Hold},
		{name: "wholly unexplained", sigs: []inventory.Signature{sig(thief)}, policy: Policy{Unexplained: map[string]bool{"s": true}}, want: Deny},
		{name: "thief signs a good digest", sigs: []inventory.Signature{sig(thief, upper(1, tsa)), format(sig(thief), inventory.Bundle)},
			policy: Policy{Unexplained: map[string]bool{"sbundle": true}}, want: Resign},
		{name: "kept where nothing can be written", sigs: []inventory.Signature{format(sig(thief, upper(1, tsa)), inventory.Referrer)}, want: Hold},
		{name: "kept in another repository only", sigs: []inventory.Signature{located(sig(thief, upper(1, tsa)))}, want: Hold},
		{name: "thief adds one where nothing can be written", sigs: []inventory.Signature{sig(thief, upper(1, tsa)), format(sig(thief), inventory.Referrer), located(sig(thief))}, want: Resign},
		{name: "covered, and one left where nothing can be written", sigs: []inventory.Signature{sig(thief, upper(1, tsa)), sig(next), format(sig(thief), inventory.Referrer)}, want: None},
		{name: "the new signer's in another repository covers nothing", sigs: []inventory.Signature{sig(thief, upper(1, tsa)), located(sig(next))}, want: Resign},
		{name: "contradicting proofs", sigs: []inventory.Signature{sig(thief, upper(1, tsa), lower(5, log1))}, want: Hold},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := tc.policy
			p.Incidents, p.Skew, p.Replaced, p.Successor = append(p.Incidents, leak), 5*time.Minute, []signer.Identity{thief}, next
			statements := inventory.Statements(artifact, tc.sigs)
			about := tc.about
			if about == "" {
				about = inventory.SignPredicate
			}
			st := statements[slices.IndexFunc(statements, func(s inventory.Statement) bool {
				return s.PredicateType() == about && !strings.HasSuffix(s.Key, "#good")
			})]
			out, ok := Decide(st, statements, p)
			if !ok || out.Decision != tc.want {
				t.Errorf("decided %q (%s), want %s", out.Decision, out.Reason, tc.want)
			}
			if out.Reason == "" {
				t.Error("no reason given")
			}
			if (out.Decision == Resign) != (len(out.Formats) > 0) {
				t.Errorf("formats %v for %s", out.Formats, out.Decision)
			}
		})
	}
}

// located is a signature kept in another repository than its artifact.
func located(s inventory.Signature) inventory.Signature {
	s.ID += "elsewhere"
	s.Location = "r.example/signatures"
	return s
}

func TestDecideLeavesAlone(t *testing.T) {
	leak := Incident{ID: "I", Class: SigningKey, Signers: []signer.Identity{thief}, From: ptr(at(10))}
	p := Policy{Incidents: []Incident{leak}, Replaced: []signer.Identity{thief}, Successor: next}
	a := inventory.Artifact{Repository: "r.example/a", Digest: "sha256:d"}
	junk := sig(thief)
	junk.Verified = false
	for name, sigs := range map[string][]inventory.Signature{"untouched": {sig(other)}, "unverifiable": {junk}} {
		st := inventory.Statements(a, sigs)
		if out, ok := Decide(st[0], st, p); ok {
			t.Errorf("%s: decided %s, want no decision", name, out.Decision)
		}
	}
	covered := inventory.Statements(a, []inventory.Signature{sig(thief), sig(next)})
	if out, _ := Decide(covered[0], covered, p); out.Decision != None {
		t.Errorf("covered: decided %s, want none", out.Decision)
	}
}

// world is a random inventory of one artifact with random incidents.
type world struct {
	statements []inventory.Statement
	policy     Policy
}

func drawWorld(t *rapid.T) world {
	signers := []signer.Identity{thief, other, build, next}
	authorities := []inventory.Authority{tsa, log1}
	hour := rapid.IntRange(0, 20)
	var sigs []inventory.Signature
	for n := range rapid.IntRange(1, 5).Draw(t, "signatures") {
		s := sig(rapid.SampledFrom(signers).Draw(t, "signer"))
		s.ID = fmt.Sprint("s", n)
		s.Verified = rapid.IntRange(0, 4).Draw(t, "verified") > 0
		s.Format = rapid.SampledFrom([]inventory.Format{inventory.Legacy, inventory.Bundle, inventory.Referrer}).Draw(t, "format")
		if rapid.IntRange(0, 4).Draw(t, "place") == 0 {
			s = located(s)
		}
		s.FirstSeen = at(hour.Draw(t, "seen"))
		s.Names = rapid.SampledFrom([]string{"", "r.example/a", "r.example/b"}).Draw(t, "names")
		if kind := rapid.SampledFrom([]string{inventory.SignPredicate, "https://slsa.dev/provenance/v1", "https://openvex.dev/ns/v0.2.0"}).Draw(t, "type"); kind != inventory.SignPredicate {
			s.PredicateType = kind
			s.PayloadDigest = rapid.SampledFrom([]string{"p1", "p2"}).Draw(t, "payload")
		}
		for range rapid.IntRange(0, 3).Draw(t, "bounds") {
			s.Bounds = append(s.Bounds, inventory.Bound{Side: rapid.SampledFrom([]inventory.Side{inventory.Upper, inventory.Lower}).Draw(t, "side"),
				Time: at(hour.Draw(t, "time")), Authority: rapid.SampledFrom(authorities).Draw(t, "authority"), Verified: rapid.Bool().Draw(t, "ok")})
		}
		sigs = append(sigs, s)
	}
	p := Policy{Skew: 5 * time.Minute, Successor: next, Rogue: map[string]string{}}
	for range rapid.IntRange(1, 2).Draw(t, "incidents") {
		i := drawIncident(t)
		p.Incidents, p.Replaced = append(p.Incidents, i), append(p.Replaced, i.Signers...)
	}
	if rapid.Bool().Draw(t, "voucher") {
		p.Vouchers = []Voucher{{Signer: rapid.SampledFrom(signers).Draw(t, "vouches"), PredicateType: "https://slsa.dev/provenance/v1"}}
	}
	if rapid.Bool().Draw(t, "home") {
		p.Homes = []string{"r.example/a"}
	}
	return world{inventory.Statements(inventory.Artifact{Repository: "r.example/a", Digest: "sha256:d"}, sigs), p}
}

func drawIncident(t *rapid.T) Incident {
	i := Incident{ID: "I", Class: "any"}
	if rapid.IntRange(0, 3).Draw(t, "about") > 0 {
		i.Signers = []signer.Identity{rapid.SampledFrom([]signer.Identity{thief, other}).Draw(t, "compromised")}
	} else {
		i.Authorities = []inventory.Authority{rapid.SampledFrom([]inventory.Authority{tsa, log1}).Draw(t, "lost")}
	}
	if rapid.Bool().Draw(t, "known start") {
		i.From = ptr(at(rapid.IntRange(2, 15).Draw(t, "from")))
	}
	if rapid.Bool().Draw(t, "ends") {
		i.Until = ptr(at(rapid.IntRange(16, 19).Draw(t, "until")))
	}
	return i
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

func TestNeverResignWithoutEvidenceOutsideEveryIncident(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		for n, d := range w.decideAll() {
			if d != Resign {
				continue
			}
			st := w.statements[n]
			if !hasEvidence(st, w) {
				t.Fatalf("statement %s was to be re-signed without evidence: %+v", st.Key, st)
			}
		}
	})
}

// hasEvidence says by other means than the rules whether anything outside
// every incident speaks for a statement.
func hasEvidence(st inventory.Statement, w world) bool {
	lost := func(a inventory.Authority) bool {
		return slices.ContainsFunc(w.policy.Incidents, func(i Incident) bool { return slices.Contains(i.Authorities, a) })
	}
	compromised := func(id signer.Identity) bool {
		return slices.ContainsFunc(w.policy.Incidents, func(i Incident) bool { return slices.Contains(i.Signers, id) })
	}
	for _, s := range st.Signatures {
		for _, b := range s.Bounds {
			if s.Verified && slices.Contains(w.policy.Replaced, s.Signer) && b.Verified && !lost(b.Authority) {
				return true
			}
		}
	}
	for _, v := range w.policy.Vouchers {
		for _, beside := range w.statements {
			for _, s := range beside.Signatures {
				if st.PredicateType() == inventory.SignPredicate && s.Verified && s.Signer == v.Signer && s.PredicateType == v.PredicateType && !compromised(s.Signer) {
					return true
				}
			}
		}
	}
	return false
}

func TestAddingAnIncidentNeverAddsTrust(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		before := w.decideAll()
		w.policy.Incidents = append(slices.Clone(w.policy.Incidents), drawIncident(t))
		noMoreTrust(t, "adding an incident", before, w.decideAll())
	})
}

func TestWideningAWindowNeverAddsTrust(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		before := w.decideAll()
		w.policy.Incidents = slices.Clone(w.policy.Incidents)
		i := &w.policy.Incidents[0]
		switch rapid.IntRange(0, 2).Draw(t, "how") {
		case 0:
			i.From = nil
		case 1:
			if i.From != nil {
				i.From = ptr(i.From.Add(-time.Duration(rapid.IntRange(1, 5).Draw(t, "earlier")) * time.Hour))
			}
		case 2:
			i.Until = nil
		}
		noMoreTrust(t, "widening a window", before, w.decideAll())
	})
}

func TestALaterUpperBoundChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		before := w.decideAll()
		for n := range w.statements {
			for m := range w.statements[n].Signatures {
				s := &w.statements[n].Signatures[m]
				s.Bounds = append(slices.Clone(s.Bounds), upper(1000, rapid.SampledFrom([]inventory.Authority{tsa, log1}).Draw(t, "authority")))
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
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		decided := map[string]Decision{}
		for n, d := range w.decideAll() {
			decided[w.statements[n].Key] = d
		}
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		r.Shuffle(len(w.statements), func(i, j int) { w.statements[i], w.statements[j] = w.statements[j], w.statements[i] })
		for _, st := range w.statements {
			r.Shuffle(len(st.Signatures), func(i, j int) { st.Signatures[i], st.Signatures[j] = st.Signatures[j], st.Signatures[i] })
		}
		slices.Reverse(w.policy.Incidents)
		for n, d := range w.decideAll() {
			if d != decided[w.statements[n].Key] {
				t.Fatalf("order moved %s from %s to %s", w.statements[n].Key, decided[w.statements[n].Key], d)
			}
		}
	})
}

func TestIncidentCheck(t *testing.T) {
	for name, i := range map[string]Incident{
		"end for an extractable key": {ID: "I", Class: SigningKey, Signers: []signer.Identity{thief}, From: ptr(at(1)), Until: ptr(at(2))},
		"about nothing":              {ID: "I", Class: SigningKey},
		"ends before it starts":      {ID: "I", Class: "keyless", Signers: []signer.Identity{thief}, From: ptr(at(2)), Until: ptr(at(1))},
	} {
		if i.Check() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// TestNoClaimMakesAnImageAccepted tries to get a bundle onto an image that
// nothing proves good: law 12.
func TestNoClaimMakesAnImageAccepted(t *testing.T) {
	bundle := Outcome{Decision: Resign, Reason: "proven", Formats: []inventory.Format{inventory.Bundle}}
	for _, d := range Decisions() {
		got := WithClaims(&Outcome{Decision: d}, bundle)
		if want := d == Resign || d == None; (got.Decision == Resign) != want {
			t.Errorf("image on %s: the claim is on %s", d, got.Decision)
		}
	}
	if got := WithClaims(nil, bundle); got.Decision != Hold || len(got.Formats) > 0 {
		t.Errorf("image nobody decided about: the claim is on %s in %v", got.Decision, got.Formats)
	}
	legacy := Outcome{Decision: Resign, Formats: []inventory.Format{inventory.LegacyAtt}}
	if got := WithClaims(&Outcome{Decision: Hold}, legacy); got.Decision != Resign {
		t.Errorf("an attestation that no verifier takes for an image signature is on %s", got.Decision)
	}
}
