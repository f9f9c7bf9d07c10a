package trust

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

const (
	provenanceType = "https://slsa.dev/provenance/v1"
	vexType        = "https://openvex.dev/ns/v0.2.0"
	issuer         = "https://oidc.example"
	skew           = 5 * time.Minute
)

var (
	t0      = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	thief   = signer.Identity{Kind: signer.Key, Subject: strings.Repeat("a", 64)}
	other   = signer.Identity{Kind: signer.Key, Subject: strings.Repeat("b", 64)}
	build   = signer.Identity{Kind: signer.Key, Subject: strings.Repeat("c", 64)}
	next    = signer.Identity{Kind: signer.Key, Subject: strings.Repeat("d", 64)}
	release = signer.Identity{Kind: signer.Keyless, Issuer: issuer, Subject: "https://ci.example/acme/release"}
	outside = signer.Identity{Kind: signer.Keyless, Issuer: issuer, Subject: "https://ci.example/mallory/any"}

	tsa      = inventory.Authority{Role: inventory.RoleTSA, ID: "tsa"}
	tsa2     = inventory.Authority{Role: inventory.RoleTSA, ID: "tsa2"}
	log1     = inventory.Authority{Role: inventory.RoleLog, ID: "log"}
	log2     = inventory.Authority{Role: inventory.RoleLog, ID: "log2"}
	ca       = inventory.Authority{Role: inventory.RoleCA, ID: "ca"}
	ct       = inventory.Authority{Role: inventory.RoleCT, ID: "ct"}
	journal  = inventory.Authority{Role: inventory.RoleJournal, ID: "tsa"}
	journal2 = inventory.Authority{Role: inventory.RoleJournal, ID: "tsa2"}

	artifact = inventory.Artifact{Repository: "r.example/a", Digest: "sha256:d", FirstSeen: t0.Add(time.Hour)}
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

// keyless is a signature by an identity whose certificate is valid for an hour,
// proven by the given authorities in that hour.
func keyless(by signer.Identity, hour int, proofs ...inventory.Authority) inventory.Signature {
	s := sig(by, lower(hour, ca))
	s.ID = "k"
	s.Certificate = &signer.Certificate{NotBefore: at(hour), NotAfter: at(hour + 1), Workflow: by.Subject + "/.ci/build.yml", Ref: "refs/heads/main",
		SHA: strings.Repeat("1", 40), Repository: by.Subject, Trigger: "push", Run: by.Subject + "/runs/1"}
	s.Requires = []inventory.Authority{ca, ct}
	for _, a := range proofs {
		s.Bounds = append(s.Bounds, inventory.Bound{Side: inventory.Upper, Time: at(hour).Add(time.Minute), Authority: a, Verified: true})
	}
	return s
}

// of is an incident that began at an hour.
func of(class Class, id string, from int, authorities ...inventory.Authority) Incident {
	return Incident{ID: id, Class: class, Authorities: authorities, From: ptr(at(from))}
}

func leaked(id string, from int, by ...signer.Identity) Incident {
	return Incident{ID: id, Class: SigningKey, Signers: by, From: ptr(at(from))}
}

func TestJudge(t *testing.T) {
	leak := Incident{ID: "I", Class: SigningKey, Signers: []signer.Identity{thief}, From: ptr(at(10))}
	unknown := Incident{ID: "I", Class: SigningKey, Signers: []signer.Identity{thief}}
	window := Incident{ID: "I", Class: KMSKey, Signers: []signer.Identity{thief}, From: ptr(at(10)), Until: ptr(at(12))}
	tsaLost := Incident{ID: "T", Class: TSA, Authorities: []inventory.Authority{tsa}, From: ptr(at(20))}
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
		{"journal", sig(thief, upper(5, journal)), []Incident{leak}, ProvenBefore},
		{"journal anchored by an authority under an incident", sig(thief, upper(5, journal)), []Incident{leak, tsaLost}, Unproven},
		{"journal anchored by another", sig(thief, upper(5, journal2)), []Incident{leak, tsaLost}, ProvenBefore},
		{"the journal itself", sig(thief, upper(5, journal)), []Incident{leak, of(TSA, "J", 20, journal)}, Unproven},
		{"the journal itself, its authority stays", sig(thief, upper(5, tsa)), []Incident{leak, of(TSA, "J", 20, journal)}, ProvenBefore},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Judge(tc.sig, tc.incidents, skew)
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

func TestDecideLeavesAlone(t *testing.T) {
	leak := Incident{ID: "I", Class: SigningKey, Signers: []signer.Identity{thief}, From: ptr(at(10))}
	p := Policy{Incidents: []Incident{leak}, Primary: leak.ID, Successor: next}
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
	for _, d := range Decisions() {
		got := WithClaims(&Outcome{Decision: d}, legacy)
		if want := d == Resign || d == None; (got.Decision == Resign) != want {
			t.Errorf("image on %s: the attestation of whose envelope anybody can make a bundle is on %s", d, got.Decision)
		}
	}
	for _, image := range []*Outcome{nil, {}} {
		if got := WithClaims(image, legacy); got.Decision != Hold {
			t.Errorf("image nobody decided about: its attestation is on %s", got.Decision)
		}
		if got := WithClaims(image, Outcome{Decision: Resign, Formats: []inventory.Format{inventory.Detached}}); got.Decision != Resign {
			t.Errorf("file that nobody signed: its attestation is on %s", got.Decision)
		}
	}
}

// TestElsewhere is about places where a proven signature is kept besides and
// verifiers may read it, which re-signing does not reach.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	trusted := func(id signer.Identity) bool { return id == release || id == other }
	leak := Policy{Primary: "I", Incidents: []Incident{leaked("I", 10, thief)}, Skew: skew, Successor: next, Trusted: func(id signer.Identity) bool { return id == thief || trusted(id) }}
	lost := Policy{Primary: "L", Incidents: []Incident{of(RekorLog, "L", 10, log1)}, Skew: skew, Successor: next, Trusted: trusted}
	gone := located(sig(thief, upper(1, tsa)))
	gone.Gone = true
	goneNew := located(sig(next))
	goneNew.Gone = true
	for name, tc := range map[string]struct {
		policy Policy
		sigs   []inventory.Signature
		want   []string
	}{
		"proven":                     {leak, []inventory.Signature{located(sig(thief, upper(1, tsa))), format(sig(thief, upper(1, tsa)), inventory.Referrer)}, []string{"legacy in r.example/signatures", "referrer"}},
		"unproven":                   {leak, []inventory.Signature{located(sig(thief, upper(11, tsa)))}, nil},
		"gone":                       {leak, []inventory.Signature{gone}, nil},
		"a claim":                    {leak, []inventory.Signature{located(claim(thief, "c", upper(1, tsa)))}, nil},
		"beside the artifact":        {leak, []inventory.Signature{sig(thief, upper(1, tsa))}, nil},
		"of another":                 {leak, []inventory.Signature{located(sig(other, upper(1, tsa)))}, nil},
		"the new signer's is there":  {leak, []inventory.Signature{located(sig(thief, upper(1, tsa))), located(sig(next))}, nil},
		"the new signer's was there": {leak, []inventory.Signature{located(sig(thief, upper(1, tsa))), goneNew}, []string{"legacy in r.example/signatures"}},
		"of a key, on a lost log":    {lost, []inventory.Signature{located(sig(other, upper(1, log1))), located(sig(next, upper(1, log1)))}, []string{"legacy in r.example/signatures"}},
		"of an outsider's key":       {lost, []inventory.Signature{located(sig(build, upper(1, log1)))}, nil},
	} {
		if got := Elsewhere(tc.sigs, tc.policy); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// TestHidden is about bundles that make cosign look past a ".sig".
func TestHidden(t *testing.T) {
	t.Parallel()
	identity := Incident{ID: "J", Class: KeylessIdentity, Signers: []signer.Identity{release}, From: ptr(at(10)), Until: ptr(at(12))}
	p := Policy{Primary: "I", Incidents: []Incident{leaked("I", 10, thief), identity}, Skew: skew, Successor: next,
		Trusted: func(id signer.Identity) bool { return id == thief || id == other || id == release }}
	bundle := func(s inventory.Signature) inventory.Signature { return format(s, inventory.Bundle) }
	rogue, proven := bundle(claim(thief, "vex", upper(11, tsa))), bundle(sig(thief, upper(1, tsa)))
	gone := rogue
	gone.Gone = true
	early := bundle(provenance(build))
	early.FirstSeen = p.Incidents[0].From.Add(-24 * time.Hour)
	for name, tc := range map[string]struct {
		sigs []inventory.Signature
		want bool
	}{
		"no bundle":                          {[]inventory.Signature{sig(next), format(claim(thief, "vex"), inventory.LegacyAtt)}, false},
		"a rogue claim":                      {[]inventory.Signature{sig(next), rogue}, true},
		"two rogue ones":                     {[]inventory.Signature{sig(next), rogue, bundle(sig(thief))}, true},
		"a rogue one and garbage":            {[]inventory.Signature{sig(next), rogue, forged(bundle(sig(other)))}, true},
		"garbage":                            {[]inventory.Signature{sig(next), forged(bundle(sig(thief)))}, true},
		"a rogue one that is gone":           {[]inventory.Signature{sig(next), gone}, false},
		"a rogue one elsewhere":              {[]inventory.Signature{sig(next), located(rogue)}, false},
		"a proven one beside":                {[]inventory.Signature{sig(next), rogue, proven}, false},
		"one by the new signer beside":       {[]inventory.Signature{sig(next), rogue, bundle(sig(next))}, false},
		"one of a trusted signer beside":     {[]inventory.Signature{sig(next), rogue, bundle(provenance(other))}, false},
		"one that another incident is about": {[]inventory.Signature{sig(next), rogue, bundle(keyless(release, 11, log1))}, true},
		"one from before another incident":   {[]inventory.Signature{sig(next), rogue, bundle(keyless(release, 1, log1))}, false},
		"one of a stranger beside":           {[]inventory.Signature{sig(next), rogue, bundle(provenance(build))}, true},
		"one of a stranger, from before":     {[]inventory.Signature{sig(next), rogue, early}, false},
	} {
		if got := Hidden(tc.sigs, p); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// TestExplainSays is about what an explanation tells a sceptic.
func TestExplainSays(t *testing.T) {
	t.Parallel()
	unverified := upper(1, tsa2)
	unverified.Verified, unverified.Why = false, "no such authority"
	s := keyless(release, 11, log1)
	s.Bounds = append(s.Bounds, upper(11, journal), unverified)
	p := Policy{Primary: "W", Skew: skew, Successor: next, Trusted: func(id signer.Identity) bool { return id == release },
		Vouchers: []Voucher{{Kind: CIRun, Signer: build}, {Signer: build, PredicateType: provenanceType}},
		Incidents: []Incident{{ID: "W", Class: CIWorkflow, Selectors: []Selector{{Ref: "refs/heads/main"}}, From: ptr(at(10))},
			of(CTLog, "CT", 50, ct), of(TSA, "TSA", 50, tsa), of(RekorLog, "LOG", 50, log1)}}
	st := inventory.Statements(artifact, []inventory.Signature{s})
	x, ok := Explain(st[0], st, p)
	if !ok {
		t.Fatal("no concern of the plan")
	}
	text, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{
		`"decision":"hold"`, `"rule":"marked rogue","matched":false,"why":"no incident marks the digest rogue"`, `"rule":"held","matched":true`,
		"the new signer has no signature outside every incident as [legacy]",
		"the voucher " + p.Vouchers[0].ID() + " does not vouch for it: records of CI runs prove nothing in W, which is of class ci-workflow",
		"the voucher " + p.Vouchers[1].ID() + " does not vouch for it: it has no such attestation on the artifact",
		`"incident":"W","by":"it selects the certificate of https://ci.example/acme/release (issuer https://oidc.example)"`,
		`"incident":"CT","by":"without the ct ct the signature does not verify"`,
		`"incident":"LOG","by":"all its log entries and timestamps rest on authorities in incidents"`,
		`"because":"the signature rests on the ct ct, which is in CT"`, `"because":"its authority is in LOG"`, `"because":"its authority is in TSA"`,
		`"because":"it did not verify: no such authority"`, `"verdict":"unproven"`,
	} {
		if !strings.Contains(string(text), says) {
			t.Errorf("it does not say %s: %s", says, text)
		}
	}
	if x, ok := Explain(st[0], st, Policy{Primary: "I", Incidents: []Incident{leaked("I", 1, thief)}}); ok || x.Decision != "" || x.Reason == "" || len(x.Signatures) != 1 {
		t.Errorf("no concern of the plan: %+v", x)
	}
}

func BenchmarkDecide(b *testing.B) {
	p := Policy{Primary: "I", Skew: skew, Successor: next, Trusted: func(id signer.Identity) bool { return id == release },
		Vouchers: []Voucher{{Signer: build, PredicateType: provenanceType}},
		Incidents: Compiled([]Incident{{ID: "I", Class: KeylessIdentity, Selectors: []Selector{{Issuer: issuer, SubjectRegexp: "^https://ci[.]example/(?:acme|other)/.*$"}}, From: ptr(at(10))},
			of(TSA, "T", 10, tsa), leaked("K", 10, thief)})}
	st := inventory.Statements(artifact, []inventory.Signature{keyless(release, 1, log1, tsa2), provenance(build)})
	b.ReportAllocs()
	for b.Loop() {
		if out, _ := Decide(st[0], st, p); out.Decision != Resign {
			b.Fatal(out.Reason)
		}
	}
}
