package rotate

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

var (
	digestA = "sha256:" + strings.Repeat("a", 64)
	digestB = "sha256:" + strings.Repeat("b", 64)
)

func TestDeny(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 27, 3, 0, 0, 5, time.UTC)
	name, statement, err := Deny([]string{digestB, digestA, digestB}, "leaked key", []string{"dave"}, at)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRevocation(statement)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Denied(); !slices.Equal(got, []string{digestA, digestB}) {
		t.Errorf("denies %v", got)
	}
	incidents, denied := Revoked([]Revocation{r})
	if len(incidents) != 0 {
		t.Errorf("it is about signers: %v", incidents)
	}
	if why := denied[digestA]; !strings.HasSuffix(why, ": leaked key") {
		t.Errorf("denied because %q", why)
	}
	again, _, err := Deny([]string{digestA, digestB}, "another reason", nil, at)
	if err != nil || again != name {
		t.Errorf("the same digests have the name %s, %v, before %s", again, err, name)
	}
	other, _, err := Deny([]string{digestA}, "leaked key", nil, at)
	if err != nil || other == name {
		t.Errorf("other digests have the same name %s, %v: one would replace the other", other, err)
	}
	for what, do := range map[string]func() error{
		"nothing":          func() error { _, _, err := Deny(nil, "x", nil, at); return err },
		"no reason":        func() error { _, _, err := Deny([]string{digestA}, " ", nil, at); return err },
		"a tag":            func() error { _, _, err := Deny([]string{"app:v1"}, "x", nil, at); return err },
		"a digest cut off": func() error { _, _, err := Deny([]string{digestA[:70]}, "x", nil, at); return err },
	} {
		if do() == nil {
			t.Errorf("%s: a statement was made", what)
		}
	}
}

func TestParseRevocation(t *testing.T) {
	t.Parallel()
	key := signer.Identity{Kind: signer.Key, Subject: strings.Repeat("c", 64)}
	good := Revocation{Type: statementType, PredicateType: RevocationPredicate, Subject: []RevocationSubject{{map[string]string{"sha256": digestA[7:]}}},
		Predicate: RevocationBody{Incident: trust.Incident{ID: "INC-1", Class: trust.SigningKey, Signers: []signer.Identity{key}}, Reason: "leaked"}}
	parse := func(r Revocation) (Revocation, error) {
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return ParseRevocation(raw)
	}
	r, err := parse(good)
	if err != nil {
		t.Fatal(err)
	}
	incidents, denied := Revoked([]Revocation{r})
	if len(incidents) != 1 || !incidents[0].Names(key) || !slices.Equal(slices.Collect(maps.Keys(denied)), []string{digestA}) {
		t.Errorf("got %v and %v", incidents, denied)
	}
	for what, change := range map[string]func(*Revocation){
		"another predicate": func(r *Revocation) { r.PredicateType = "https://reseal.dev/revocation/v2" },
		"another type":      func(r *Revocation) { r.Type = "" },
		"no sha256":         func(r *Revocation) { r.Subject = []RevocationSubject{{map[string]string{"sha512": "00"}}} },
		"a digest of none":  func(r *Revocation) { r.Subject = []RevocationSubject{{map[string]string{"sha256": "x"}}} },
		"unknown class":     func(r *Revocation) { r.Predicate.Class = "everything" },
		"no class":          func(r *Revocation) { r.Predicate.Class = "" },
		"no signer":         func(r *Revocation) { r.Predicate.Signers = nil },
	} {
		bad := good
		change(&bad)
		if _, err := parse(bad); err == nil {
			t.Errorf("%s: it is taken, and what it denies may not be known", what)
		}
	}
	if _, err := ParseRevocation([]byte("denied")); err == nil {
		t.Error("text is taken")
	}
}

// A statement says whose times prove that something is older: nobody else's do,
// whatever a client trusts besides.
func TestAttackOnTimeAuthorities(t *testing.T) {
	t.Parallel()
	key := signer.Identity{Kind: signer.Key, Subject: strings.Repeat("c", 64)}
	from := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	named, other := inventory.Authority{Role: inventory.RoleTSA, ID: "named"}, inventory.Authority{Role: inventory.RoleTSA, ID: "the-thief-s"}
	upper := func(a inventory.Authority, days int) inventory.Bound {
		return inventory.Bound{Side: inventory.Upper, Time: from.AddDate(0, 0, days), Verified: true, Authority: a}
	}
	for what, c := range map[string]struct {
		witnesses []inventory.Authority
		bounds    []inventory.Bound
		want      trust.Verdict
	}{
		"nobody is named":                    {nil, []inventory.Bound{upper(other, -100)}, trust.Unproven},
		"by one that is not named":           {[]inventory.Authority{named}, []inventory.Bound{upper(other, -100)}, trust.Unproven},
		"by both, the named one within":      {[]inventory.Authority{named}, []inventory.Bound{upper(other, -100), upper(named, 1)}, trust.Unproven},
		"by both":                            {[]inventory.Authority{named}, []inventory.Bound{upper(other, -100), upper(named, -1)}, trust.ProvenBefore},
		"by the named one":                   {[]inventory.Authority{named}, []inventory.Bound{upper(named, -1)}, trust.ProvenBefore},
		"by the named one, in another role":  {[]inventory.Authority{named}, []inventory.Bound{upper(inventory.Authority{Role: inventory.RoleLog, ID: "named"}, -1)}, trust.Unproven},
		"by the named one, and not verified": {[]inventory.Authority{named}, []inventory.Bound{{Side: inventory.Upper, Time: from.AddDate(0, 0, -1), Authority: named}}, trust.Unproven},
	} {
		raw, err := json.Marshal(Revocation{Type: statementType, PredicateType: RevocationPredicate,
			Predicate: RevocationBody{Incident: trust.Incident{ID: "INC-1", Class: trust.SigningKey, Signers: []signer.Identity{key}, From: &from}, Witnesses: c.witnesses, Reason: "leaked"}})
		if err != nil {
			t.Fatal(err)
		}
		r, err := ParseRevocation(raw)
		if err != nil {
			t.Fatal(err)
		}
		rules, _ := Revoked([]Revocation{r})
		if j := trust.Judge(inventory.Signature{Signer: key, Verified: true, Bounds: c.bounds}, rules, time.Minute); j.Verdict != c.want {
			t.Errorf("%s: %+v, want %s", what, j, c.want)
		}
	}
}

// What is published under a name in use may only take more away: a thief with a
// responder's key, or somebody with another home, must not give anything back.
func TestLacks(t *testing.T) {
	t.Parallel()
	a, b := signer.Identity{Kind: signer.Key, Subject: strings.Repeat("a", 64)}, signer.Identity{Kind: signer.Key, Subject: strings.Repeat("b", 64)}
	log := inventory.Authority{Role: inventory.RoleLog, ID: "l"}
	workflow, other := trust.Selector{Workflow: "w"}, trust.Selector{Workflow: "x"}
	day := func(n int) *time.Time {
		d := time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC)
		return &d
	}
	statement := func(from, until *time.Time, digests ...string) Revocation {
		r := Revocation{Predicate: RevocationBody{Incident: trust.Incident{Class: trust.KMSKey, Signers: []signer.Identity{a, b},
			Selectors: []trust.Selector{workflow}, Authorities: []inventory.Authority{log}, From: from, Until: until}}}
		for _, d := range digests {
			r.Subject = append(r.Subject, RevocationSubject{map[string]string{"sha256": d[7:]}})
		}
		return r
	}
	without := func(change func(*trust.Incident)) Revocation {
		r := statement(day(2), day(8), digestA)
		change(&r.Predicate.Incident)
		return r
	}
	published := statement(day(2), day(8), digestA)
	for what, c := range map[string]struct {
		was, now Revocation
		want     []string // in this order
	}{
		"the same":             {published, statement(day(2), day(8), digestA), nil},
		"wider in every way":   {published, statement(nil, nil, digestB, digestA), nil},
		"an earlier start":     {published, statement(day(1), day(8), digestA), nil},
		"a later end":          {published, statement(day(2), day(9), digestA), nil},
		"a signer more":        {without(func(i *trust.Incident) { i.Signers = i.Signers[:1] }), published, nil},
		"about a signer, too":  {Revocation{}, published, nil},
		"a digest dropped":     {published, statement(day(2), day(8), digestB), []string{"no longer denies " + digestA}},
		"a signer dropped":     {published, without(func(i *trust.Incident) { i.Signers = i.Signers[:1] }), []string{"no longer revokes the signer " + b.String()}},
		"a selector dropped":   {published, without(func(i *trust.Incident) { i.Selectors = nil }), []string{`the selector {"workflow":"w"}`}},
		"a selector exchanged": {published, without(func(i *trust.Incident) { i.Selectors = []trust.Selector{other} }), []string{`the selector {"workflow":"w"}`}},
		"an authority dropped": {published, without(func(i *trust.Incident) { i.Authorities = nil }), []string{"no longer revokes the " + string(log.Role) + " l"}},
		"a later start":        {published, statement(day(3), day(8), digestA), []string{"starts later, at 2026-11-03T00:00:00Z and not 2026-11-02T00:00:00Z"}},
		"a start, known now":   {statement(nil, nil), statement(day(1), nil), []string{"starts later, at 2026-11-01T00:00:00Z and not with the signer's first use"}},
		"an earlier end":       {published, statement(day(2), day(7), digestA), []string{"ends earlier, at 2026-11-07T00:00:00Z and not 2026-11-08T00:00:00Z"}},
		"an end":               {statement(nil, nil), statement(nil, day(9)), []string{"ends earlier, at 2026-11-09T00:00:00Z and not never"}},
		"a shifted window":     {published, statement(day(1), day(7), digestA), []string{"ends earlier"}},
		"none in its place": {published, Revocation{}, []string{"no longer denies", "no longer revokes the signer " + a.String(),
			"no longer revokes the signer " + b.String(), "selector", "no longer revokes the " + string(log.Role)}},
	} {
		got := c.now.Lacks(c.was)
		if !slices.EqualFunc(got, c.want, strings.Contains) {
			t.Errorf("%s: says %q, want %q", what, got, c.want)
		}
	}
}
