package rotate

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.open(t, leak, k.old.id, 3)
	plan, totals := k.plan(t, nil)
	var got []string
	for n, i := range k.items(t, plan, "") {
		if i.Seq != int64(n+1) {
			t.Errorf("item %d has number %d", n+1, i.Seq)
		}
		got = append(got, fmt.Sprintf("%s %s %v deployed=%v %s %v", i.Repository[len("registry.example/"):], i.Digest[len(i.Digest)-1:], i.PredicateType(), i.Deployed, i.Decision, i.Formats))
	}
	wantEqual(t, "items", got, []string{
		"acme/app 1 " + inventory.SignPredicate + " deployed=true resign [legacy]",
		"acme/app 1 " + spdx + " deployed=true resign [legacy-att]",
		"acme/app 2 " + inventory.SignPredicate + " deployed=true hold []",
		"acme/other 7 " + inventory.SignPredicate + " deployed=true hold []", // nothing shows that it belongs there
		"acme/app 3 " + inventory.SignPredicate + " deployed=false deny []",
		"acme/app 4 " + inventory.SignPredicate + " deployed=false none []",
		"acme/other 6 " + inventory.SignPredicate + " deployed=false resign [bundle]",
	})
	wantEqual(t, "sensitivity", fmt.Sprint(totals.Sensitivity[0].Days, totals.Sensitivity[0].Decisions, totals.Sensitivity[1].Days, totals.Sensitivity[1].Decisions),
		"7 map[deny:1 hold:2 none:1 resign:3] 30 map[deny:1 hold:5 none:1]") // before is 10 days before the leak
	wantEqual(t, "witnesses", totals.TimeAuthorities, []inventory.Authority{tsa})
	must(t, inventory.CheckDigest(totals.Basis))
	totals.Sensitivity, totals.Orders, totals.TimeAuthorities, totals.Basis = nil, nil, nil, ""
	wantEqual(t, "totals", totals, Totals{Artifacts: 6, Signatures: 8, Deployed: 3,
		Verdicts:  map[trust.Verdict]int64{trust.ProvenBefore: 5, trust.Unproven: 2, trust.Unaffected: 1},
		Decisions: map[trust.Decision]int64{trust.Resign: 3, trust.Hold: 2, trust.Deny: 1, trust.None: 1}})
	if t.Failed() {
		return
	}
	// In a home that the plan names, what is proven is re-signed.
	plan, _ = k.plan(t, func(p *Plan) { p.Homes = []string{repo, elsewhere} })
	resign := k.items(t, plan, trust.Resign)
	if len(resign) != 4 {
		t.Errorf("%d items are re-signed, want 4 (1 twice, 6, 7)", len(resign))
	}
	page, err := ItemPage(t.Context(), k.Store, plan, trust.Resign, resign[0].Seq, 2)
	must(t, err)
	wantEqual(t, "a page", page, resign[1:3])
	k.checkJournal(t)
}

// TestPlanWithoutCeiling refuses limits that stop nothing, as a share in per cent.
func TestPlanWithoutCeiling(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.open(t, leak, k.old.id)
	for _, l := range []Limits{{MaxArtifacts: -1}, {MaxShare: -0.1}, {MaxShare: 20}, {MaxShare: math.NaN()}, {MaxShare: math.Inf(1)}} {
		p := k.draft()
		p.Limits = l
		_, _, _, err := MakePlan(t.Context(), k.Store, by, p)
		wantError(t, err, nil, "would stop nothing")
	}
}

// TestPlanOrder makes many artifacts with many claims: deployed first, and
// within an artifact its image signature before its claims.
func TestPlanOrder(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.open(t, leak, k.old.id)
	for n := 100; n < 130; n++ {
		where := []string{repo, elsewhere}[n%2]
		k.put(t, where, n, claim(k.old, inventory.Bundle, "https://a.example/claim", n, true), signed(k.old, inventory.Bundle, true),
			claim(k.old, inventory.LegacyAtt, spdx, n, true), signed(k.old, inventory.Legacy, true))
		if n%3 == 0 {
			k.deploy(t, where, n)
		}
	}
	plan, _ := k.plan(t, nil)
	items := k.items(t, plan, "")
	late := func(v bool) int {
		if v {
			return 0
		}
		return 1
	}
	order := func(a, b Item) int {
		return cmp.Or(cmp.Compare(late(a.Deployed), late(b.Deployed)), strings.Compare(a.Repository, b.Repository), strings.Compare(a.Digest, b.Digest),
			cmp.Compare(late(a.PredicateType() == inventory.SignPredicate), late(b.PredicateType() == inventory.SignPredicate)), strings.Compare(a.Statement, b.Statement))
	}
	if len(items) < 90 || !slices.IsSortedFunc(items, order) {
		for _, i := range items {
			t.Logf("%d %v %s@%s %s", i.Seq, i.Deployed, i.Repository, i.Digest, i.Statement)
		}
		t.Errorf("%d items are not in order", len(items))
	}
}

func TestPlanDigest(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.open(t, leak, k.old.id, 3)
	plan, _ := k.plan(t, nil)
	again, _ := k.plan(t, nil)
	wantEqual(t, "the same plan again", again, plan)
	wantEqual(t, "its items", len(k.items(t, plan, "")), 7)

	// sha256 over the lines: header, items, totals.
	var doc planDocument
	must(t, load(t.Context(), k.Store, store.KindPlan, plan, &doc))
	kept, err := k.PlanItems(t.Context(), plan, 0, 1000)
	must(t, err)
	lines := [][]byte{doc.Header}
	for _, l := range kept {
		lines = append(lines, l.Body)
	}
	h := sha256.New()
	for _, line := range append(lines, doc.Totals) {
		if bytes.ContainsAny(line, "\n\r") {
			t.Errorf("more than one line: %q", line)
		}
		h.Write(append(bytes.Clone(line), '\n'))
	}
	wantEqual(t, "digest over the lines", "sha256:"+hex.EncodeToString(h.Sum(nil)), plan)

	loaded, totals, err := LoadPlan(t.Context(), k.Store, plan)
	must(t, err)
	header, err := canonical(loaded)
	must(t, err)
	tail, err := canonical(totals)
	must(t, err)
	wantEqual(t, "header and totals as loaded", string(header)+string(tail), string(doc.Header)+string(doc.Totals))

	for name, change := range map[string]func(*Plan){
		"another proposer": func(p *Plan) { p.Proposer = "bob" },
		"another time":     func(p *Plan) { p.MadeAt = p.MadeAt.Add(time.Second) },
		"another limit":    func(p *Plan) { p.Limits.MaxArtifacts = 9 },
		"a home":           func(p *Plan) { p.Homes = []string{repo} },
		"accepted dark":    func(p *Plan) { p.AcceptDark = []string{digest(2)} },
		"a consumer":       func(p *Plan) { p.Consumers = []Consumer{{Name: "ci", Reads: inventory.Legacy, Anchor: "cosign.pub"}} },
	} {
		if other, _ := k.plan(t, change); other == plan {
			t.Errorf("%s: the digest stayed the same", name)
		}
	}
}

// TestPlanIsDeterministic makes one plan in two stores that were filled with
// the same content in another order.
func TestPlanIsDeterministic(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	twin := &kase{file: k.file + ".twin", now: before, alice: k.alice, bob: k.bob, carol: k.carol, dave: k.dave,
		old: k.old, next: k.next, builder: k.builder}
	var err error
	twin.Store, err = store.Create(t.Context(), twin.file, twin.clock)
	must(t, err)
	t.Cleanup(func() { must(t, twin.Close()) })
	must(t, Enroll(t.Context(), twin.Store, by, twin.approvers(2)))
	fill := []func(){
		func() {
			twin.put(t, repo, 1, claim(k.old, inventory.LegacyAtt, spdx, 60, true), signed(k.old, inventory.Legacy, true))
		},
		func() { twin.put(t, repo, 2, signed(k.old, inventory.Legacy, false)) },
		func() { twin.put(t, repo, 3, signed(k.old, inventory.Legacy, false)) },
		func() {
			twin.put(t, repo, 4, signed(k.next, inventory.Legacy, true), signed(k.old, inventory.Legacy, true))
		},
		func() { twin.put(t, repo, 5, signed(k.builder, inventory.Legacy, true)) },
		func() { twin.put(t, elsewhere, 6, signed(k.old, inventory.Bundle, true)) },
	}
	slices.Reverse(fill)
	for _, f := range fill {
		f()
	}
	twin.set(today)
	twin.put(t, elsewhere, 7, signed(k.old, inventory.Bundle, true))
	twin.deploy(t, elsewhere, 7)
	twin.deploy(t, repo, 2)
	twin.deploy(t, repo, 1)
	for _, r := range []signer.Record{k.next.record(signer.Standby), k.builder.record(signer.Active), k.old.record(signer.Active)} {
		twin.update(t, func(tx *store.Tx) error { return tx.PutSigner(t.Context(), r) })
	}
	twin.set(today.Add(time.Hour))
	k.open(t, leak, k.old.id, 3)
	twin.open(t, leak, k.old.id, 3)
	mine, _ := k.plan(t, nil)
	theirs, _ := twin.plan(t, nil)
	wantEqual(t, "digest", theirs, mine)
	wantEqual(t, "items", twin.items(t, theirs, ""), k.items(t, mine, ""))
}

func TestFindPlan(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.open(t, leak, k.old.id)
	plan, _ := k.plan(t, nil)
	for _, text := range []string{plan, strings.TrimPrefix(plan, "sha256:"), plan[:20], plan[7:13]} {
		got, err := FindPlan(t.Context(), k.Store, text)
		if err != nil || got != plan {
			t.Errorf("%q: got %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", plan[7:12], "sha256", "000000"} {
		if got, err := FindPlan(t.Context(), k.Store, text); err == nil {
			t.Errorf("%q: found %q", text, got)
		}
	}
}

func TestOpenIncident(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	until := leaked.AddDate(0, 0, 1)
	good := Incident{Incident: trust.Incident{ID: leak, Class: trust.SigningKey, Signers: []signer.Identity{k.old.id}, From: &leaked}}
	for name, change := range map[string]func(*Incident){
		"no name":                  func(i *Incident) { i.ID = "" },
		"about nothing":            func(i *Incident) { i.Signers = nil },
		"a key's leak has no end":  func(i *Incident) { i.Until = &until },
		"rogue is no digest":       func(i *Incident) { i.Rogue = map[string]string{"v1": "bad"} },
		"a signer nobody knows":    func(i *Incident) { i.Signers = []signer.Identity{k.stranger.id} },
		"one known, one not known": func(i *Incident) { i.Signers = []signer.Identity{k.old.id, k.stranger.id} },
	} {
		i := good
		change(&i)
		if err := OpenIncident(t.Context(), k.Store, by, i); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	wantEqual(t, "state after refusals", k.state(t, k.old), signer.Active)
	must(t, OpenIncident(t.Context(), k.Store, by, good))
	wantEqual(t, "state", k.state(t, k.old), signer.Tainted)
	if err := OpenIncident(t.Context(), k.Store, by, good); err == nil {
		t.Error("opened twice")
	}
	got, err := LoadIncident(t.Context(), k.Store, leak)
	must(t, err)
	wantEqual(t, "incident", []any{got.State, got.Schema, got.Signers}, []any{Open, IncidentSchema, good.Signers})
	if _, err := LoadIncident(t.Context(), k.Store, "INC-9"); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("unknown incident: got %v", err)
	}
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.open(t, leak, k.old.id, 3, 250, 17)
	plan, _ := k.plan(t, nil)
	k.approve(t, plan, k.carol, k.bob)
	i, err := LoadIncident(t.Context(), k.Store, leak)
	must(t, err)
	first, err := Revoke(i, k.permit(t, plan), Rules([]Incident{i}), k.permit(t, plan).plan.Rogue)
	must(t, err)
	k.set(today.AddDate(0, 1, 0))
	k.approve(t, plan, k.bob) // once more
	second, err := Revoke(i, k.permit(t, plan), Rules([]Incident{i}), k.permit(t, plan).plan.Rogue)
	must(t, err)
	if !bytes.Equal(first, second) {
		t.Errorf("two statements of one plan differ:\n%s\n%s", first, second)
	}
	var r Revocation
	must(t, json.Unmarshal(first, &r))
	again, err := canonical(r)
	must(t, err)
	if !bytes.Equal(first, again) || bytes.Contains(first, []byte("\n")) {
		t.Errorf("not in canonical form:\n%s\n%s", first, again)
	}
	var denied []string
	for _, s := range r.Subject {
		denied = append(denied, "sha256:"+s.Digest["sha256"])
	}
	wantEqual(t, "denied, in order", denied, []string{digest(3), digest(17), digest(250)})
	wantEqual(t, "statement", []any{r.Type, r.PredicateType, r.Predicate.ID, r.Predicate.Signers, r.Predicate.From.Equal(leaked), r.Predicate.Plan, r.Predicate.Approvers, r.Predicate.IssuedAt},
		[]any{"https://in-toto.io/Statement/v1", RevocationPredicate, leak, []signer.Identity{k.old.id}, true, plan, []string{"bob", "carol"}, today})
}

func TestRevocationWithoutRogues(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.open(t, leak, k.old.id)
	plan, _ := k.plan(t, nil)
	k.approve(t, plan, k.carol, k.bob)
	i, err := LoadIncident(t.Context(), k.Store, leak)
	must(t, err)
	statement, err := Revoke(i, k.permit(t, plan), Rules([]Incident{i}), k.permit(t, plan).plan.Rogue)
	must(t, err)
	if !bytes.Contains(statement, []byte(`"subject":[]`)) {
		t.Errorf("no list of subjects in %s", statement)
	}
}
