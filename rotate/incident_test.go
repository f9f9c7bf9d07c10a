package rotate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

func oidcIdentity(subject string) signer.Identity {
	return signer.Identity{Kind: signer.Keyless, Issuer: issuer, Subject: subject}
}

// keylessBy is an image signature of a run.
func keylessBy(id signer.Identity, workflow string, proven bool) inventory.Signature {
	g := signed(person{id: id}, inventory.Bundle, proven)
	g.PayloadDigest = digest(len(id.Subject))
	g.Certificate = &signer.Certificate{Workflow: workflow, NotBefore: before.Add(-time.Hour), NotAfter: before.Add(time.Hour)}
	return g
}

func TestAmend(t *testing.T) {
	t.Parallel()
	end, later := leaked.AddDate(0, 0, 5), leaked.AddDate(0, 0, 6)
	for _, tc := range []struct {
		name   string
		change Amendment
		refuse string // "": accepted
		what   string
	}{
		{"an earlier start", Amendment{From: earlier(3)}, "", "from 2026-11-01T00:00:00Z to 2026-10-29T00:00:00Z"},
		{"a start not known any more", Amendment{FromUnknown: true}, "", "to unknown"},
		{"a later start", Amendment{From: &end}, "later than", ""},
		{"the same again", Amendment{From: &leaked, Severity: "high"}, "changes nothing", ""},
		{"nothing", Amendment{}, "changes nothing", ""},
		{"start given and unknown", Amendment{From: earlier(1), FromUnknown: true}, "at once", ""},
		{"an earlier end", Amendment{Until: earlier(-1)}, "earlier than", ""},
		{"a later end", Amendment{Until: &later}, "", "until 2026-11-06T00:00:00Z to 2026-11-07T00:00:00Z"},
		{"no end", Amendment{NoEnd: true}, "", "to none"},
		{"end given and taken away", Amendment{Until: &later, NoEnd: true}, "at once", ""},
		{"a signer more", Amendment{Signers: []signer.Identity{oidcIdentity("new")}}, "", "signer new"},
		{"an authority in a class of signers", Amendment{Authorities: []inventory.Authority{tsa}}, "not about the tsa", ""},
		{"a selector more", Amendment{Selectors: []trust.Selector{{Issuer: issuer, SubjectRegexp: "^b.*$"}}}, "", `"subject_regexp":"^b.*$"`},
		{"a pattern that is not anchored", Amendment{Selectors: []trust.Selector{{Issuer: issuer, SubjectRegexp: "b.*"}}}, "anchored", ""},
		{"graver", Amendment{Severity: "critical"}, "", `from "high" to critical`},
		{"less grave", Amendment{Severity: "low"}, "less grave", ""},
		{"of no known gravity", Amendment{Severity: "dire"}, "use one of", ""},
		{"a rogue digest", Amendment{Rogue: map[string]string{digest(4): "seen"}}, "", digest(4) + " marked rogue: seen"},
		{"a rogue that is no digest", Amendment{Rogue: map[string]string{"v4": "seen"}}, "digest", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := newCase(t)
			was := Incident{Incident: trust.Incident{ID: leak, Class: trust.KeylessIdentity, Signers: []signer.Identity{oidcIdentity("a")}, From: &leaked, Until: &end}, Severity: "high"}
			must(t, OpenIncident(t.Context(), k.Store, by, was))
			tc.change.At = today
			got, err := Amend(t.Context(), k.Store, by, leak, tc.change)
			kept, loadErr := LoadIncident(t.Context(), k.Store, leak)
			must(t, loadErr)
			if tc.refuse != "" {
				wantError(t, err, nil, tc.refuse)
				wantEqual(t, "changes kept", len(kept.Changes), 0)
				return
			}
			must(t, err)
			wantEqual(t, "changes", len(kept.Changes), 1)
			c := kept.Changes[0]
			wantEqual(t, "who, when and why", []any{c.Actor, c.Reason, c.At.Equal(today)}, []any{by.Actor, by.Reason, true})
			if !strings.Contains(c.What, tc.what) {
				t.Errorf("it says %q, want %q", c.What, tc.what)
			}
			wantEqual(t, "returned", fmt.Sprint(got.Changes), fmt.Sprint(kept.Changes))
			versions, err := k.DocumentVersions(t.Context(), store.KindIncident, leak)
			must(t, err)
			wantEqual(t, "versions", len(versions), 2)
		})
	}
	t.Run("an unknown start is never made known", func(t *testing.T) {
		t.Parallel()
		k := newCase(t)
		must(t, OpenIncident(t.Context(), k.Store, by, Incident{Incident: trust.Incident{ID: leak, Class: trust.SigningKey, Signers: []signer.Identity{k.old.id}}}))
		for _, a := range []Amendment{{From: earlier(1000)}, {Until: &end}} {
			_, err := Amend(t.Context(), k.Store, by, leak, a)
			wantError(t, err, nil, "only ever widened")
		}
	})
}

// A statement is published under the incident's name, and the index of them has one that no incident may take.
func TestIncidentNamedIndex(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	for _, name := range []string{"index", "INDEX"} {
		err := OpenIncident(t.Context(), k.Store, by, Incident{Incident: trust.Incident{ID: name, Class: trust.SigningKey, Signers: []signer.Identity{k.old.id}}})
		wantError(t, err, nil, "taken for the index")
	}
	k.open(t, "index-2026", k.old.id)
}

// TestWithdrawRestores opens incidents that overlap, in either order.
func TestWithdrawRestores(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"INC-A", "INC-B"} {
		t.Run(first+" first", func(t *testing.T) {
			t.Parallel()
			k := newCase(t)
			k.open(t, "INC-A", k.old.id)
			k.open(t, "INC-B", k.old.id)
			second := map[string]string{"INC-A": "INC-B", "INC-B": "INC-A"}[first]
			k.withdraw(t, first)
			wantEqual(t, "another incident is about it", k.state(t, k.old), signer.Tainted)
			k.withdraw(t, second)
			wantEqual(t, "no incident is about it", k.state(t, k.old), signer.Active)
			k.checkJournal(t)
		})
	}
	t.Run("a revoked signer stays revoked", func(t *testing.T) {
		t.Parallel()
		k := newCase(t)
		k.open(t, leak, k.old.id)
		k.update(t, func(tx *store.Tx) error { return tx.PutSigner(t.Context(), k.old.record(signer.Revoked)) })
		k.withdraw(t, leak)
		wantEqual(t, "state", k.state(t, k.old), signer.Revoked)
		err := k.Update(t.Context(), by, func(tx *store.Tx) error { return withdrawIncident(t.Context(), tx, k.Store, leak, digest(1)) })
		wantError(t, err, nil, "withdrawn already")
	})
}

func TestMatching(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	a, ab, b := oidcIdentity("a"), oidcIdentity("ab"), oidcIdentity("b")
	k.put(t, repo, 20, keylessBy(a, "w1", true), keylessBy(ab, "w2", true), keylessBy(b, "w1", true))
	for _, tc := range []struct {
		name  string
		class trust.Class
		x     trust.Selector
		want  []signer.Identity
	}{
		{"exact", trust.KeylessIdentity, trust.Selector{Issuer: issuer, Subject: "a"}, []signer.Identity{a}},
		{"pattern", trust.KeylessIdentity, trust.Selector{Issuer: issuer, SubjectRegexp: "^a.*$"}, []signer.Identity{a, ab}},
		{"issuer", trust.OIDCIssuer, trust.Selector{Issuer: issuer}, []signer.Identity{a, ab, b}},
		{"another issuer", trust.OIDCIssuer, trust.Selector{Issuer: issuer + "/x"}, nil},
		{"runs of a workflow", trust.CIWorkflow, trust.Selector{Workflow: "w1"}, []signer.Identity{a, b}},
	} {
		i := trust.Incident{ID: leak, Class: tc.class, Selectors: []trust.Selector{tc.x}}
		got, err := Matching(t.Context(), k.Store, i)
		must(t, err)
		set := func(ids []signer.Identity) map[signer.Identity]bool {
			out := map[signer.Identity]bool{}
			for _, id := range ids {
				out[id] = true
			}
			return out
		}
		var ids []signer.Identity
		for _, r := range got {
			ids = append(ids, r.Identity)
		}
		wantEqual(t, tc.name, set(ids), set(tc.want))
	}
	_, err := Matching(t.Context(), k.Store, trust.Incident{ID: leak, Class: trust.KeylessIdentity, Selectors: []trust.Selector{{Issuer: issuer, SubjectRegexp: "a|b"}}})
	wantError(t, err, nil, "anchored")
	// Opening taints what it matches, also what was only observed.
	must(t, OpenIncident(t.Context(), k.Store, by, Incident{Incident: trust.Incident{ID: leak, Class: trust.KeylessIdentity,
		Selectors: []trust.Selector{{Issuer: issuer, SubjectRegexp: "^a.*$"}}, From: &leaked}}))
	for id, want := range map[signer.Identity]signer.State{a: signer.Tainted, ab: signer.Tainted, b: signer.Observed} {
		wantEqual(t, id.Subject, k.state(t, person{id: id}), want)
	}
	k.withdraw(t, leak)
	wantEqual(t, "after the withdrawal", k.state(t, person{id: a}), signer.Observed)
}

// TestKeepPlan keeps an identity whose window has ended.
func TestKeepPlan(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	id := oidcIdentity("release")
	k.update(t, func(tx *store.Tx) error {
		return tx.PutSigner(t.Context(), signer.Record{Identity: id, Name: "release", State: signer.Active})
	})
	k.set(before)
	k.put(t, repo, 20, keylessBy(id, "w", true))
	k.put(t, repo, 21, keylessBy(id, "w", false))
	k.set(today)
	until := leaked.AddDate(0, 0, 1)
	must(t, OpenIncident(t.Context(), k.Store, by, Incident{Incident: trust.Incident{ID: leak, Class: trust.KeylessIdentity, Signers: []signer.Identity{id}, From: &leaked, Until: &until}}))
	keep := func(p *Plan) { p.NewSigner, p.Keep = signer.Identity{}, true }
	plan, totals := k.plan(t, keep)
	wantEqual(t, "decisions", decisions(k.items(t, plan, "")), []string{"4 none", "5 hold"})
	p := k.may(t, plan)
	wantEqual(t, "replaced", p.Plan().Replaced, []signer.Identity{})
	wantEqual(t, "nothing is re-signed", totals.Decisions[trust.Resign], int64(0))
	_, err := CutOver(t.Context(), k.Store, nil, by, p, true)
	wantError(t, err, nil, "keeps its signer")
	i, err := LoadIncident(t.Context(), k.Store, leak)
	must(t, err)
	statement, err := Revoke(i, p, Rules([]Incident{i}), nil)
	must(t, err)
	if !strings.Contains(string(statement), `"after":"keep"`) || !strings.Contains(string(statement), `"time_authorities":[{"role":"tsa","id":"tsa"}]`) {
		t.Errorf("the statement does not say what holds after, or by whose time: %s", statement)
	}
	both := k.draft()
	both.Keep = true
	_, _, _, err = MakePlan(t.Context(), k.Store, by, both)
	wantError(t, err, nil, "choose one")
}

// TestAuthorityPlan is about everything that rests on an authority.
func TestAuthorityPlan(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	ca := inventory.Authority{Role: inventory.RoleCA, ID: "ca"}
	id := oidcIdentity("release")
	k.update(t, func(tx *store.Tx) error {
		return tx.PutSigner(t.Context(), signer.Record{Identity: id, Name: "release", State: signer.Active})
	})
	g := keylessBy(id, "w", true)
	g.Requires = []inventory.Authority{ca}
	k.put(t, repo, 20, g)
	must(t, OpenIncident(t.Context(), k.Store, by, Incident{Incident: trust.Incident{ID: leak, Class: trust.FulcioCA, Authorities: []inventory.Authority{ca}, From: &leaked}}))
	plan, _ := k.plan(t, func(p *Plan) { p.Homes = []string{repo} })
	wantEqual(t, "decisions", decisions(k.items(t, plan, "")), []string{"4 resign"})
	wantEqual(t, "replaced", k.may(t, plan).Plan().Replaced, []signer.Identity{})
}

func TestOrders(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.open(t, leak, k.old.id, 3)
	k.put(t, repo, 4, signed(k.old, inventory.Bundle, true)) // legacy is covered, the bundle is not
	k.deploy(t, repo, 4)
	plan, totals := k.plan(t, func(p *Plan) {
		p.Consumers = []Consumer{{Name: "ci", Reads: inventory.Legacy}, {Name: "cluster", Reads: inventory.Bundle}}
		p.AcceptDark, p.Rate, p.Order = []string{digest(2)}, 2, ContainFirst
	})
	wantEqual(t, "chosen", k.may(t, plan).Plan().Order, ContainFirst)
	wantEqual(t, "contain first", totals.Orders[0].Consumers, []ConsumerCost{{"ci", 2, 0}, {"cluster", 2, 0}})
	wantEqual(t, "continuity first", totals.Orders[1].Consumers, []ConsumerCost{{"ci", 0, 2}, {"cluster", 1, 2}})
	for _, change := range []func(*Plan){func(p *Plan) { p.Rate = -1 }, func(p *Plan) { p.Order = "any" }} {
		p := k.draft()
		change(&p)
		if _, _, _, err := MakePlan(t.Context(), k.Store, by, p); err == nil {
			t.Errorf("accepted: %+v", p)
		}
	}
}

func TestStandingVouchers(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.set(before)
	k.put(t, repo, 2, claim(k.builder, inventory.LegacyAtt, slsa, 61, false))
	v := trust.Voucher{Signer: k.builder.id, PredicateType: slsa}
	id, err := PutVoucher(t.Context(), k.Store, by, v)
	must(t, err)
	_, err = PutVoucher(t.Context(), k.Store, by, v)
	wantError(t, err, nil, "stands already")
	k.set(today)
	k.open(t, leak, k.old.id, 3)
	plan, totals := k.plan(t, nil)
	wantEqual(t, "since", k.may(t, plan).Plan().Vouchers[0].Standing.Equal(before), true)
	wantEqual(t, "decision", k.item(t, plan, 2, inventory.SignPredicate).Decision, trust.Resign)
	wantEqual(t, "it alone", totals.Vouched, map[string]int64{id: 1})
	must(t, RemoveVoucher(t.Context(), k.Store, by, id))
	all, err := Vouchers(t.Context(), k.Store)
	must(t, err)
	wantEqual(t, "left", len(all), 0)
	wantError(t, RemoveVoucher(t.Context(), k.Store, by, id), nil, "removed already")
	again, _ := k.plan(t, nil)
	d, err := DiffPlans(t.Context(), k.Store, plan, again, nil)
	must(t, err)
	wantEqual(t, "changed", []int64{int64(len(d.Header)), d.Changed, d.Same}, []int64{1, 1, 6})
	wantEqual(t, "what", d.Header[0].What, "vouchers")
	_, err = PutVoucher(t.Context(), k.Store, by, trust.Voucher{Signer: k.old.id, PredicateType: slsa})
	wantError(t, err, nil, "under incident")
}

func TestParseList(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		digest(2) + "\n" + digest(1) + "\r\n" + digest(2): 2,
		"# nothing\n":                          -1,
		"":                                     -1,
		"sha256:00":                            -1,
		strings.ToUpper(digest(10)):            -1,
		digest(1) + " " + digest(2):            -1,
		"  " + digest(1) + "  # the only one ": 1,
	} {
		l, err := parseList([]byte(text))
		if (err != nil) != (want < 0) || err == nil && len(l) != want {
			t.Errorf("%q: %d digests, %v", text, len(l), err)
		}
		if err == nil && (!l.holds(digest(1)) || l.holds(digest(3)) || l.holds("v1")) {
			t.Errorf("%q holds the wrong digests", text)
		}
	}
}

func TestDiffAndSupplement(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.open(t, leak, k.old.id, 3)
	first, _ := k.plan(t, nil)
	k.deploy(t, repo, 4) // moves to the front
	k.put(t, repo, 8, signed(k.old, inventory.Legacy, false))
	k.put(t, repo, 2, signed(k.old, inventory.Legacy, true)) // a proof was found
	k.update(t, func(tx *store.Tx) error {
		return tx.KeepSignatures(t.Context(), elsewhere, digest(6), "", inventory.Formats(), nil)
	})
	second, _ := k.plan(t, func(p *Plan) { p.Limits.MaxArtifacts = 5 })
	var got []string
	d, err := DiffPlans(t.Context(), k.Store, first, second, func(c ItemChange) error {
		say := func(i *Item) string {
			if i == nil {
				return "-"
			}
			return i.Digest[len(i.Digest)-1:] + " " + string(i.Decision)
		}
		got = append(got, say(c.Was)+" > "+say(c.Now))
		return nil
	})
	must(t, err)
	wantEqual(t, "items", got, []string{"2 hold > 2 resign", "- > 8 hold", "6 resign > -"})
	wantEqual(t, "counts", []int64{d.Added, d.Removed, d.Changed, d.Same}, []int64{1, 1, 1, 5})
	wantEqual(t, "header", d.Header, []HeaderChange{{What: "limits", Was: `{"max_artifacts":0,"max_share":0}`, Now: `{"max_artifacts":5,"max_share":0}`}})
	third, totals := k.plan(t, func(p *Plan) { p.Supplements = first })
	wantEqual(t, "supplement", decisions(k.items(t, third, "")), []string{"2 resign", "8 hold"})
	wantEqual(t, "its totals", totals.Decisions, map[trust.Decision]int64{trust.Resign: 1, trust.Hold: 1})
	fourth, _ := k.plan(t, func(p *Plan) { p.Supplements = third })
	wantEqual(t, "supplement of the supplement", len(k.items(t, fourth, "")), 0)
	k.open(t, "INC-2", k.builder.id)
	p := k.draft()
	p.Incident, p.Supplements = "INC-2", first
	_, _, _, err = MakePlan(t.Context(), k.Store, by, p)
	wantError(t, err, nil, "cannot be supplemented")
}

func TestExplainArtifact(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.open(t, leak, k.old.id, 3)
	k.source(t, trust.Source{Name: "kms", Kind: inventory.RecordKMS, Signer: k.old.id})
	plan, _ := k.plan(t, nil)
	policy, err := k.may(t, plan).Current(t.Context(), k.Store)
	must(t, err)
	x, err := ExplainArtifact(t.Context(), k.Store, policy, plan, digest(1))
	must(t, err)
	wantEqual(t, "repositories", []any{len(x), x[0].Repository, x[0].Deployed, len(x[0].Statements)}, []any{1, repo, true, 2})
	for _, st := range x[0].Statements {
		wantEqual(t, st.Statement, []any{st.Decision, st.Planned.Decision, st.Planned.Changed, st.Sightings[0].Unexplained, st.Sightings[0].FirstSeen.Equal(before)},
			[]any{trust.Resign, trust.Resign, false, true, true})
		if len(st.Explanation.Rules) == 0 || len(st.Explanation.Signatures) == 0 {
			t.Errorf("no reasoning about %s", st.Statement)
		}
	}
	_, err = MarkRogue(t.Context(), k.Store, by, leak, map[string]string{digest(1): rogueFor})
	must(t, err)
	policy, err = k.may(t, plan).Current(t.Context(), k.Store)
	must(t, err)
	x, err = ExplainArtifact(t.Context(), k.Store, policy, plan, digest(1))
	must(t, err)
	wantEqual(t, "since it is marked", []any{x[0].Statements[0].Decision, x[0].Statements[0].Planned.Changed, strings.Contains(x[0].Rogue, rogueFor)}, []any{trust.Deny, true, true})
	_, err = ExplainArtifact(t.Context(), k.Store, policy, "", digest(404))
	wantError(t, err, inventory.ErrNotFound)
	if _, err := ExplainArtifact(t.Context(), k.Store, policy, "", "v1"); err == nil {
		t.Error("a tag was explained")
	}
}
