package trust

import (
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// examples has an incident of every class.
func examples() map[Class]Incident {
	of := func(c Class, r inventory.Role, id string) Incident {
		return Incident{ID: "I", Class: c, Authorities: []inventory.Authority{{Role: r, ID: id}}}
	}
	return map[Class]Incident{
		SigningKey:      {ID: "I", Class: SigningKey, Signers: []signer.Identity{thief}},
		KMSKey:          {ID: "I", Class: KMSKey, Signers: []signer.Identity{thief, other}},
		KeylessIdentity: {ID: "I", Class: KeylessIdentity, Signers: []signer.Identity{release}, Selectors: []Selector{{Issuer: issuer, SubjectRegexp: "^https://ci.example/acme/.*$"}}},
		CIWorkflow:      {ID: "I", Class: CIWorkflow, Selectors: []Selector{{Issuer: issuer, Workflow: "w"}, {Ref: "r"}, {SHA: "s"}, {Repository: "r"}, {Trigger: "t"}, {Run: "r"}}},
		OIDCIssuer:      {ID: "I", Class: OIDCIssuer, Selectors: []Selector{{Issuer: issuer}, {IssuerRegexp: "^https://oidc[.]example/.*$"}}},
		FulcioCA:        of(FulcioCA, inventory.RoleCA, "aa"),
		RekorLog:        of(RekorLog, inventory.RoleLog, "aa"),
		CTLog:           of(CTLog, inventory.RoleCT, "aa"),
		TSA:             of(TSA, inventory.RoleTSA, "aa"),
		TUFRole:         of(TUFRole, inventory.RoleTUF, "Online"),
	}
}

func TestIncidentCheck(t *testing.T) {
	t.Parallel()
	all := examples()
	for _, c := range Classes() {
		i, ok := all[c]
		if !ok {
			t.Fatalf("no example of %s", c)
		}
		if err := i.Check(); err != nil {
			t.Errorf("%s: %v", c, err)
		}
		i.From, i.Until = ptr(at(1)), ptr(at(2))
		if err := i.Check(); (err == nil) != c.Ends() {
			t.Errorf("%s with an end: %v", c, err)
		}
		i.From, i.Until = ptr(at(2)), ptr(at(2))
		if i.Check() == nil {
			t.Errorf("%s: a window without length was accepted", c)
		}
		// No class can be about what only another is about.
		for _, o := range Classes() {
			if (c == SigningKey || c == KMSKey) && (o == SigningKey || o == KMSKey) {
				continue
			}
			i := all[o]
			i.Class = c
			if o != c && i.Check() == nil {
				t.Errorf("what %s is about was accepted for %s", o, c)
			}
			both := all[c]
			both.Authorities = append(both.Authorities, all[o].Authorities...)
			both.Selectors = append(both.Selectors, all[o].Selectors...)
			both.Signers = append(both.Signers, all[o].Signers...)
			if o != c && both.Check() == nil {
				t.Errorf("%s was accepted together with what %s is about", c, o)
			}
		}
	}
	upperCase := signer.Identity{Kind: signer.Key, Subject: strings.ToUpper(thief.Subject)}
	for name, i := range map[string]Incident{
		"about nothing":                        {ID: "I", Class: SigningKey},
		"unknown class":                        {ID: "I", Class: "key", Signers: []signer.Identity{thief}},
		"no class":                             {ID: "I", Signers: []signer.Identity{thief}},
		"a key that names none":                {ID: "I", Class: SigningKey, Signers: []signer.Identity{upperCase}},
		"half a key":                           {ID: "I", Class: SigningKey, Signers: []signer.Identity{{Kind: signer.Key, Subject: thief.Subject[:32]}}},
		"a key with an issuer":                 {ID: "I", Class: SigningKey, Signers: []signer.Identity{{Kind: signer.Key, Subject: thief.Subject, Issuer: issuer}}},
		"half an identity":                     {ID: "I", Class: KeylessIdentity, Signers: []signer.Identity{{Kind: signer.Keyless, Subject: "s"}}},
		"an unknown signer":                    {ID: "I", Class: KeylessIdentity, Signers: []signer.Identity{{Kind: signer.Unknown}}},
		"an identity of any subject":           {ID: "I", Class: KeylessIdentity, Selectors: []Selector{{Issuer: issuer}}},
		"an identity of one run":               {ID: "I", Class: KeylessIdentity, Selectors: []Selector{{Subject: "s", Run: "r"}}},
		"an issuer's subject":                  {ID: "I", Class: OIDCIssuer, Selectors: []Selector{{Issuer: issuer, Subject: "s"}}},
		"an issuer's run":                      {ID: "I", Class: OIDCIssuer, Selectors: []Selector{{Issuer: issuer, Run: "r"}}},
		"a workflow without a run":             {ID: "I", Class: CIWorkflow, Selectors: []Selector{{Workflow: "w"}, {Issuer: issuer, Subject: "s"}}},
		"an empty selector":                    {ID: "I", Class: OIDCIssuer, Selectors: []Selector{{}}},
		"an issuer named twice":                {ID: "I", Class: OIDCIssuer, Selectors: []Selector{{Issuer: issuer, IssuerRegexp: "^a$"}}},
		"a subject named twice":                {ID: "I", Class: KeylessIdentity, Selectors: []Selector{{Subject: "a", SubjectRegexp: "^a$"}}},
		"a pattern without an end":             {ID: "I", Class: KeylessIdentity, Selectors: []Selector{{SubjectRegexp: "^a"}}},
		"an authority without a name":          of(TSA, "I", 1, inventory.Authority{Role: inventory.RoleTSA}),
		"an authority in the wrong case":       of(TSA, "I", 1, inventory.Authority{Role: inventory.RoleTSA, ID: "AA"}),
		"a role of another authority":          of(RekorLog, "I", 1, tsa),
		"a second authority of another role":   of(RekorLog, "I", 1, log1, ca),
		"the journal instead of its authority": of(TSA, "I", 1, journal),
	} {
		if i.Check() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// TestPattern tries to get a pattern through that matches a part of a text.
func TestPattern(t *testing.T) {
	t.Parallel()
	for _, expression := range []string{"", "a", "^a", "a$", "^a|b$", "^a$|^b$", "^a|^b$", "(?m)^a$", "(?m:^)a$", "^a(?m:$)", "^(?m)a$", "(?m)^(?:a)$", "^*a$", "^?a$", "^a$*", "^a$?",
		"^a|b|c$", "(^a)$", "^(a$)", "(?:^a$|b)", "^a$b|c", "^a\\$", "\\^a$", "[^a]$", "^a[$]", "^a\\b", "\\ba$", "^(", "^a{2000}$", "(?<!b)^a$", "^a$\n", "(?s)a.*$", "^", "$", "^|$"} {
		if re, err := Pattern(expression); err == nil {
			t.Errorf("%q was accepted as %s", expression, re)
		}
	}
	for _, tc := range []struct {
		expression string
		yes, no    []string
	}{
		{"^(?:a|b)$", []string{"a", "b"}, []string{"", "ab", "a\n", "\nb", "xa", "bx", "a\nb", "A"}},
		{"^https://ci[.]example/acme/.*$", []string{"https://ci.example/acme/", "https://ci.example/acme/x/y"},
			[]string{"https://ciXexample/acme/", "https://evil.example/https://ci.example/acme/", "https://ci.example/acme/\n", "https://ci.example/acme"}},
		{"(?i)^a$", []string{"a", "A"}, []string{"aa", "ä"}},
		{"\\Aa\\z", []string{"a"}, []string{"a\n", "ba"}},
		{"(?s)^a.b$", []string{"a\nb"}, []string{"a\nb\n"}},
		{"^a$$", []string{"a"}, []string{"a\n", "aa"}},
		{"^$", []string{""}, []string{"a", "\n"}},
	} {
		re, err := Pattern(tc.expression)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, s := range tc.yes {
			if !re.MatchString(s) {
				t.Errorf("%q does not match %q", tc.expression, s)
			}
		}
		for _, s := range tc.no {
			if re.MatchString(s) {
				t.Errorf("%q matches %q", tc.expression, s)
			}
		}
	}
}

// FuzzPattern looks for a pattern that is accepted and matches a text only
// because a part of it does.
func FuzzPattern(f *testing.F) {
	for _, s := range []string{"^a$", "^a|b$", "(?m)^a$", "^(?:a|b)$", "^(?m:a$)$", "^a.*$"} {
		f.Add(s, "a")
	}
	f.Fuzz(func(t *testing.T, expression, text string) {
		re, err := Pattern(expression)
		if err != nil {
			return
		}
		if at := re.FindStringIndex(text); at != nil && (at[0] != 0 || at[1] != len(text)) {
			t.Errorf("%q matches %d to %d of %q", expression, at[0], at[1], text)
		}
	})
}

func TestSelector(t *testing.T) {
	t.Parallel()
	s := keyless(release, 1, log1)
	c := s.Certificate
	for _, tc := range []struct {
		name   string
		sel    Selector
		want   bool
		signer bool // some certificate of the signer could be selected
	}{
		{"issuer", Selector{Issuer: issuer}, true, true},
		{"another issuer", Selector{Issuer: issuer + "/"}, false, false},
		{"issuer in another case", Selector{Issuer: strings.ToUpper(issuer)}, false, false},
		{"a text is no pattern", Selector{Subject: "https://ci.example/acme/releas."}, false, false},
		{"a text is no beginning", Selector{Subject: "https://ci.example/acme"}, false, false},
		{"subject", Selector{Issuer: issuer, Subject: release.Subject}, true, true},
		{"pattern", Selector{IssuerRegexp: "^https://oidc[.].*$", SubjectRegexp: "^https://ci[.]example/(?:acme|other)/.*$"}, true, true},
		{"pattern of another", Selector{Issuer: issuer, SubjectRegexp: "^https://ci[.]example/other/.*$"}, false, false},
		{"workflow", Selector{Workflow: c.Workflow}, true, true},
		{"another workflow", Selector{Workflow: c.Workflow + "@v2"}, false, true},
		{"all of it", Selector{Issuer: issuer, Subject: release.Subject, Workflow: c.Workflow, Ref: c.Ref, SHA: c.SHA, Repository: c.Repository, Trigger: c.Trigger, Run: c.Run}, true, true},
		{"all but the ref", Selector{Workflow: c.Workflow, Ref: "main", SHA: c.SHA}, false, true},
		{"all but the commit", Selector{Ref: c.Ref, SHA: "2"}, false, true},
		{"all but the repository", Selector{Ref: c.Ref, Repository: "x"}, false, true},
		{"all but the trigger", Selector{Ref: c.Ref, Trigger: "schedule"}, false, true},
		{"all but the run", Selector{Ref: c.Ref, Run: "x"}, false, true},
		{"run of another issuer", Selector{Issuer: "x", Run: c.Run}, false, false},
		{"a pattern no incident may have", Selector{SubjectRegexp: "("}, true, true},
		{"a pattern that is not anchored", Selector{SubjectRegexp: "^a|b$"}, true, true},
	} {
		for _, i := range append(Compiled([]Incident{{Selectors: []Selector{tc.sel}}}), Incident{Selectors: []Selector{tc.sel}}) {
			if got := i.Touches(s); got != tc.want || tc.sel.Matches(release, c) != tc.want {
				t.Errorf("%s: selected %v", tc.name, got)
			}
			if got := i.Names(release); got != tc.signer {
				t.Errorf("%s: names the signer %v", tc.name, got)
			}
			if i.Names(thief) || i.Touches(sig(thief)) {
				t.Errorf("%s: selects a key", tc.name)
			}
		}
	}
	bare := s
	bare.Certificate = nil
	if (Incident{Selectors: []Selector{{Ref: c.Ref}}}).Touches(bare) {
		t.Error("a run is selected without its certificate")
	}
}

// TestCompiled changes a selector after its patterns were compiled.
func TestCompiled(t *testing.T) {
	t.Parallel()
	given := []Incident{{ID: "I", Class: KeylessIdentity, Selectors: []Selector{{SubjectRegexp: "^nobody$"}}}}
	compiled := Compiled(given)
	compiled[0].Selectors = []Selector{{SubjectRegexp: "^https://ci.example/acme/.*$"}, {SubjectRegexp: "^somebody$"}}
	if !compiled[0].Names(release) || compiled[0].Names(outside) {
		t.Error("the pattern as it was compiled is used, not the one that stands there")
	}
	if given[0].patterns != nil {
		t.Error("what was given is changed")
	}
}

// TestTouches is about what a signature loses with the authorities of its
// proofs: what still verifies with all of them removed is touched by none.
func TestTouches(t *testing.T) {
	t.Parallel()
	lostLog, lostTSA := of(RekorLog, "L", 50, log1), of(TSA, "T", 50, tsa)
	late := func(s inventory.Signature, a inventory.Authority) inventory.Signature {
		s.Bounds = append(s.Bounds, upper(90, a))
		return s
	}
	early := sig(other, upper(2, log1))
	for _, tc := range []struct {
		name      string
		sig       inventory.Signature
		incidents []Incident
		want      Verdict
		rests     bool
		touches   string // IDs of the incidents that each alone touch it
	}{
		{"keyless, its only proof", keyless(release, 1, log1), []Incident{lostLog}, Unproven, false, "L"},
		{"keyless, made after the log was lost", keyless(release, 60, log1), []Incident{lostLog}, Inside, false, "L"},
		{"keyless, one of two proofs", keyless(release, 60, log1, tsa), []Incident{lostLog}, Unaffected, false, ""},
		{"keyless, both of two proofs", keyless(release, 60, log1, tsa), []Incident{lostLog, lostTSA}, Inside, false, ""},
		{"keyless, both of two proofs, seen by the journal", late(keyless(release, 1, log1, tsa), journal2), []Incident{lostLog, lostTSA}, Unproven, false, ""},
		{"keyless, the journal does not make it verify", func() inventory.Signature {
			s := keyless(release, 1, log1)
			s.Bounds = append(s.Bounds, upper(3, journal2))
			return s
		}(), []Incident{lostLog}, ProvenBefore, false, "L"},
		{"keyless, stamped again when its certificate had ended", late(keyless(release, 60, log1), tsa), []Incident{lostLog}, Inside, false, "L"},
		{"keyless, another log", keyless(release, 60, log2), []Incident{lostLog}, Unaffected, false, ""},
		{"keyless, its CA", keyless(release, 60, log1), []Incident{of(FulcioCA, "C", 50, ca)}, Unproven, false, "C"},
		{"keyless, its CA, made before", keyless(release, 1, log1), []Incident{of(FulcioCA, "C", 50, ca)}, ProvenBefore, false, "C"},
		{"keyless, its CT log", keyless(release, 60, log1), []Incident{of(CTLog, "C", 50, ct)}, Unproven, false, "C"},
		{"key without proofs", sig(other), []Incident{lostLog, lostTSA}, Unaffected, false, ""},
		{"key, journal only", sig(other, upper(2, journal)), []Incident{lostLog, lostTSA}, Unaffected, false, ""},
		{"key, its only proof", early, []Incident{lostLog}, Unaffected, true, ""},
		{"key, one of two proofs", sig(other, upper(2, log1), upper(2, tsa)), []Incident{lostLog}, Unaffected, false, ""},
		{"key, both of two proofs", sig(other, upper(2, log1), upper(2, tsa)), []Incident{lostLog, lostTSA}, Unaffected, true, ""},
		{"key, stamped again after it was seen", late(early, tsa2), []Incident{lostLog}, Unaffected, true, ""},
		{"key, its only proof minutes after it was seen", func() inventory.Signature {
			s := sig(other, upper(20, log1))
			s.FirstSeen = at(20).Add(-10 * time.Minute)
			return s
		}(), []Incident{lostLog}, Unaffected, true, ""},
		{"key without proofs, stamped by the lost log", func() inventory.Signature {
			s := sig(other, upper(20, log1))
			s.FirstSeen = at(10)
			return s
		}(), []Incident{lostLog}, Unaffected, false, ""},
		{"leaked key, its only proof", sig(thief, upper(2, log1)), []Incident{lostLog, leaked("K", 10, thief)}, Unproven, false, "K"},
		{"a TUF role touches no signature", keyless(release, 60, log1), []Incident{of(TUFRole, "R", 1, inventory.Authority{Role: inventory.RoleTUF, ID: "root"})}, Unaffected, false, ""},
	} {
		if tc.sig.Signer == other && tc.name == "key, stamped again after it was seen" {
			tc.sig.FirstSeen = at(3)
		}
		got := Judge(tc.sig, tc.incidents, skew)
		if got.Verdict != tc.want || got.Rests != tc.rests || got.Reason == "" {
			t.Errorf("%s: %s, rests %v (%s), want %s, %v", tc.name, got.Verdict, got.Rests, got.Reason, tc.want, tc.rests)
		}
		if Touched(tc.sig, tc.incidents) != (tc.want != Unaffected) {
			t.Errorf("%s: touched %v", tc.name, tc.want == Unaffected)
		}
		alone := ""
		for _, i := range tc.incidents {
			if i.Touches(tc.sig) {
				alone += i.ID
			}
		}
		if alone != tc.touches {
			t.Errorf("%s: touched by %q, want %q", tc.name, alone, tc.touches)
		}
	}
}

func TestCovers(t *testing.T) {
	t.Parallel()
	until := func(src Source, hour int) Source { src.Until = ptr(at(hour)); return src }
	since := func(src Source, hour int) Source { src.From = ptr(at(hour)); return src }
	always := Source{Name: "s", Kind: inventory.RecordKMS, Signer: thief}
	seen := func(s inventory.Signature, hour int) inventory.Signature {
		s.FirstSeen = time.Time{}
		if hour > 0 {
			s.FirstSeen = at(hour)
		}
		return s
	}
	unproven := upper(5, tsa)
	unproven.Verified = false
	forged := sig(thief)
	forged.Verified = false
	for _, tc := range []struct {
		name string
		src  Source
		sig  inventory.Signature
		want bool
	}{
		{"always", always, sig(thief), true},
		{"another signer", always, sig(other), false},
		{"does not verify", always, forged, false},
		{"since, and nothing shows that it is younger", since(always, 5), sig(thief, upper(9, tsa)), false},
		{"since, made before", since(always, 5), sig(thief, lower(4, ca)), false},
		{"since, made then", since(always, 5), sig(thief, lower(5, ca)), true},
		{"until, proven by then", until(always, 5), sig(thief, upper(5, tsa)), true},
		{"until, proven later", until(always, 5), sig(thief, upper(6, tsa)), false},
		{"until, the earliest proof counts", until(always, 5), sig(thief, upper(6, tsa), upper(4, log1)), true},
		{"until, back-dated by a lost authority", until(always, 5), sig(thief, upper(4, inventory.Authority{Role: inventory.RoleTSA, ID: "lost"})), false},
		{"since, dated by a lost authority", since(always, 5), sig(thief, lower(5, inventory.Authority{Role: inventory.RoleCA, ID: "lost"})), false},
		{"until, not verified", until(always, 5), sig(thief, unproven), false},
		{"until, seen by then", until(always, 5), seen(sig(thief), 4), true},
		{"until, seen by then and stamped later", until(always, 5), seen(sig(thief, upper(9, tsa)), 4), true},
		{"until, seen later", until(always, 5), seen(sig(thief), 6), false},
		{"until, never seen", until(always, 5), seen(sig(thief), 0), false},
		{"within", since(until(always, 9), 5), sig(thief, lower(5, ca), upper(9, tsa)), true},
		{"out of it", since(until(always, 9), 5), sig(thief, lower(5, ca), upper(10, tsa)), false},
	} {
		if got := Covers(tc.src, tc.sig, []Incident{of(TSA, "T", 1, inventory.Authority{Role: inventory.RoleTSA, ID: "lost"}), of(FulcioCA, "C", 1, inventory.Authority{Role: inventory.RoleCA, ID: "lost"})}); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestSourceCheck(t *testing.T) {
	t.Parallel()
	good := Source{Name: "ci", Kind: inventory.RecordCI, By: build, Signer: thief, From: ptr(at(1)), Until: ptr(at(2))}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	if err := (Source{Name: "kms", Kind: inventory.RecordKMS, Signer: thief}).Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Source){
		"no name":                    func(s *Source) { s.Name = "" },
		"no signer":                  func(s *Source) { s.Signer = signer.Identity{} },
		"no kind":                    func(s *Source) { s.Kind = "" },
		"nobody authenticates it":    func(s *Source) { s.By = signer.Identity{} },
		"its own signer":             func(s *Source) { s.By = s.Signer },
		"an interval without length": func(s *Source) { s.Until = s.From },
	} {
		s := good
		change(&s)
		if s.Check() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
