package rotate

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

func wantError(t *testing.T, err error, is error, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("accepted")
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("got %v, want it to be %v", err, is)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("got %q, want it to say %q", err, s)
		}
	}
}

// attack is an attempt on a case in which one plan is made: alice has proposed
// and signed it, and nobody has approved.
type attack struct {
	name string
	test func(t *testing.T, k *kase, plan string)
}

func TestAttack(t *testing.T) {
	t.Parallel()
	for _, a := range slices.Concat(attacksOnApprovals(), attacksOnCredentials(), attacksOnBreakGlass(), attacksOnMotions(), attacksOnPlans()) {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			k := newCase(t)
			k.open(t, leak, k.old.id, 3)
			plan, _ := k.plan(t, nil)
			a.test(t, k, plan)
			k.checkJournal(t)
		})
	}
	g := newGrove(t)
	for _, a := range attacksOnPruning() {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			a.test(t, g.newCase(t, true))
		})
	}
}

func attacksOnPlans() []attack {
	return []attack{
		{"new signer is tainted", func(t *testing.T, k *kase, _ string) {
			p := k.draft()
			p.NewSigner = k.old.id
			_, _, _, err := MakePlan(t.Context(), k.Store, by, p)
			wantError(t, err, nil, "new signer", "under incident")
		}},
		{"new signer is not enrolled", func(t *testing.T, k *kase, _ string) {
			p := k.draft()
			p.NewSigner = k.stranger.id
			_, _, _, err := MakePlan(t.Context(), k.Store, by, p)
			wantError(t, err, nil, "not enrolled")
			k.put(t, repo, 8, signed(k.stranger, inventory.Legacy, true)) // observed only
			_, _, _, err = MakePlan(t.Context(), k.Store, by, p)
			wantError(t, err, nil, "not enrolled")
		}},
		{"new signer under an incident since the approval", func(t *testing.T, k *kase, plan string) {
			k.approve(t, plan, k.bob, k.carol)
			p := k.permit(t, plan)
			k.open(t, "INC-2", k.next.id)
			_, err := p.Current(t.Context(), k.Store)
			wantError(t, err, nil, "incident")
			k.permit(t, plan) // containment must not wait for another signer
		}},
		{"voucher under an incident", func(t *testing.T, k *kase, _ string) {
			p := k.draft()
			p.Vouchers = []trust.Voucher{{Signer: k.old.id, PredicateType: slsa}}
			_, _, _, err := MakePlan(t.Context(), k.Store, by, p)
			wantError(t, err, nil, "voucher", "under an incident")
		}},
		{"voucher that vouches for anything", func(t *testing.T, k *kase, _ string) {
			for _, v := range []trust.Voucher{{}, {Signer: k.builder.id}, {PredicateType: slsa}, {Signer: k.builder.id, PredicateType: inventory.SignPredicate}} {
				p := k.draft()
				p.Vouchers = []trust.Voucher{v}
				if _, _, _, err := MakePlan(t.Context(), k.Store, by, p); err == nil {
					t.Errorf("%+v: accepted", v)
				}
			}
		}},
		{"voucher under an incident since the approval", func(t *testing.T, k *kase, _ string) {
			k.put(t, repo, 2, claim(k.builder, inventory.LegacyAtt, slsa, 61, false))
			plan, _ := k.plan(t, func(p *Plan) {
				p.Homes, p.Vouchers = []string{repo}, []trust.Voucher{{Signer: k.builder.id, PredicateType: slsa}}
			})
			k.approve(t, plan, k.bob, k.carol)
			item := k.item(t, plan, 2, inventory.SignPredicate)
			wantEqual(t, "decision", item.Decision, trust.Resign)
			k.open(t, "INC-2", k.builder.id)
			k.wantChanged(t, plan, item, "hold")
		}},
		{"the new signer is an approver's own key", func(t *testing.T, k *kase, plan string) {
			k.approve(t, plan, k.bob, k.carol)
			p := k.permit(t, plan)
			for what, c := range map[string]Credential{"PEM": {PublicKey: string(k.next.pem)}, "SSH": {SSH: newSSH(t, k.next.key).line}} {
				set := k.approvers(2)
				with(c)(&set)
				err := set.CheckApart(k.next.id)
				wantError(t, err, nil, "bob signs approvals as", k.next.id.String())
				if p.Plan().checkNewSigner(set, nil) == nil {
					t.Errorf("%s: the plan names it", what)
				}
			}
			k.enrol(t, with(Credential{PublicKey: string(k.next.pem)}))
			_, _, _, err := MakePlan(t.Context(), k.Store, by, k.draft())
			wantError(t, err, nil, "the new signer is an approver's own", "bob")
			_, err = p.Current(t.Context(), k.Store)
			wantError(t, err, nil, "the new signer is an approver's own", "bob")
			_, _, err = k.tryRotate(t, turn, k.builder, k.next, nil)
			wantError(t, err, nil, "the new signer is an approver's own", "bob")
		}},
		{"the new signer is an approver's own identity, in another case", func(t *testing.T, k *kase, _ string) {
			robot := signer.Record{Identity: signer.Identity{Kind: signer.Keyless, Issuer: issuer, Subject: "Bob@ACME.example"}, Name: "robot", State: signer.Standby}
			k.update(t, func(tx *store.Tx) error { return tx.PutSigner(t.Context(), robot) })
			k.enrol(t, with(bobKeyless))
			p := k.draft()
			p.NewSigner = robot.Identity
			_, _, _, err := MakePlan(t.Context(), k.Store, by, p)
			wantError(t, err, nil, "the new signer is an approver's own", "bob")
		}},
		{"the new signer's key is enrolled for an approver", func(t *testing.T, k *kase, _ string) {
			for _, proposes := range []bool{false, true} { // who only proposes may break the glass
				_, err := Move(t.Context(), k.Store, by, k.change(t, func(a *Approvers) {
					a.People = append(a.People, Person{Name: "erin", Credentials: []Credential{{PublicKey: string(k.next.pem)}}, ProposesOnly: proposes})
				}))
				wantError(t, err, nil, "erin", "next is on standby")
			}
			erin := newPerson(t, "erin")
			m := k.move(t, k.change(t, func(a *Approvers) {
				a.People = append(a.People, Person{Name: "erin", Credentials: []Credential{{PublicKey: string(erin.pem)}}})
			}))
			k.approve(t, m, k.bob, k.carol)
			k.update(t, func(tx *store.Tx) error { return tx.PutSigner(t.Context(), erin.record(signer.Standby)) }) // meanwhile
			wantError(t, k.carry(t, m), nil, "signer erin is on standby")
		}},
		{"accepted dark names no digest", func(t *testing.T, k *kase, _ string) {
			p := k.draft()
			p.AcceptDark = []string{"*"}
			_, _, _, err := MakePlan(t.Context(), k.Store, by, p)
			wantError(t, err, nil, "accepted dark")
		}},
		{"over the ceiling of artifacts", func(t *testing.T, k *kase, _ string) {
			plan, _ := k.plan(t, func(p *Plan) { p.Homes, p.Limits.MaxArtifacts = []string{repo, elsewhere}, 3 })
			k.approve(t, plan, k.bob, k.carol)
			p := k.permit(t, plan)
			wantError(t, CheckLimits(t.Context(), k.Store, p.Plan(), p.Totals()), ErrOverLimit, "4", "3")
		}},
		{"over the ceiling of the inventory's share", func(t *testing.T, k *kase, _ string) {
			plan, _ := k.plan(t, func(p *Plan) { p.Homes, p.Limits.MaxShare = []string{repo, elsewhere}, 0.5 })
			k.approve(t, plan, k.bob, k.carol)
			p := k.permit(t, plan)
			wantError(t, CheckLimits(t.Context(), k.Store, p.Plan(), p.Totals()), ErrOverLimit, "50%")
		}},
		{"inventory changed: a copy stripped of its proofs", func(t *testing.T, k *kase, plan string) {
			item := k.item(t, plan, 1, inventory.SignPredicate)
			k.put(t, repo, 1, signed(k.old, inventory.Legacy, false))
			k.wantSame(t, plan, item)
		}},
		{"inventory changed: signature gone", func(t *testing.T, k *kase, plan string) {
			item := k.item(t, plan, 1, inventory.SignPredicate)
			k.update(t, func(tx *store.Tx) error {
				return tx.KeepSignatures(t.Context(), repo, digest(1), "", inventory.Formats(), nil)
			})
			k.wantChanged(t, plan, item, "no longer in the inventory")
		}},
		{"inventory changed: another proof only", func(t *testing.T, k *kase, plan string) {
			item := k.item(t, plan, 1, inventory.SignPredicate)
			g := signed(k.old, inventory.Legacy, true)
			g.Bounds = append(g.Bounds, inventory.Bound{Side: inventory.Upper, Time: today, Authority: tsa, Verified: true})
			k.put(t, repo, 1, g)
			k.wantSame(t, plan, item)
		}},
		{"incident about the time authority since the approval", func(t *testing.T, k *kase, plan string) {
			item := k.item(t, plan, 1, inventory.SignPredicate)
			k.wantSame(t, plan, item)
			must(t, OpenIncident(t.Context(), k.Store, by, Incident{Incident: trust.Incident{ID: "INC-2", Class: "tsa", Authorities: []inventory.Authority{tsa}}}))
			k.wantChanged(t, plan, item, "hold")
		}},
		{"marked rogue since the approval", func(t *testing.T, k *kase, plan string) {
			item := k.item(t, plan, 1, inventory.SignPredicate)
			k.open(t, "INC-2", k.builder.id, 1)
			k.wantChanged(t, plan, item, "deny")
		}},
		{"marked rogue in the same incident since the approval", func(t *testing.T, k *kase, plan string) {
			item := k.item(t, plan, 1, inventory.SignPredicate)
			_, err := MarkRogue(t.Context(), k.Store, by, leak, map[string]string{"v1": rogueFor})
			wantError(t, err, nil, "digest")
			k.wantSame(t, plan, item)
			i, err := MarkRogue(t.Context(), k.Store, by, leak, map[string]string{digest(1): rogueFor})
			must(t, err)
			wantEqual(t, "rogue", i.Rogue, map[string]string{digest(1): rogueFor, digest(3): rogueFor})
			k.wantChanged(t, plan, item, "deny")
		}},
		{"plan nobody made", func(t *testing.T, k *kase, _ string) {
			_, err := k.tryPermit(t, digest(9))
			wantError(t, err, inventory.ErrNotFound)
		}},
	}
}

// still asks whether an item of an approved plan holds under what is known now.
func (k *kase) still(t *testing.T, plan string, i Item) (string, bool) {
	t.Helper()
	p, totals, err := LoadPlan(t.Context(), k.Store, plan)
	must(t, err)
	policy, err := Permission{plan: p, digest: plan, totals: totals}.Current(t.Context(), k.Store)
	must(t, err)
	why, err := Still(t.Context(), k.Store, plan, policy, []Item{i})
	must(t, err)
	return why[0], why[0] == ""
}

func (k *kase) wantChanged(t *testing.T, plan string, i Item, says string) {
	t.Helper()
	if why, ok := k.still(t, plan, i); ok || !strings.Contains(why, says) {
		t.Errorf("still %v, %q, want a change that says %q", ok, why, says)
	}
}

func (k *kase) wantSame(t *testing.T, plan string, i Item) {
	t.Helper()
	if why, ok := k.still(t, plan, i); !ok || why != "" {
		t.Errorf("still %v, %q, want no change", ok, why)
	}
}

// TestAttackOnApprovedPlan edits an approved plan in the database: it is no
// longer permitted, unless the edit changes nothing of what is done.
func TestAttackOnApprovedPlan(t *testing.T) {
	t.Parallel()
	const item = `UPDATE plan_items SET body = replace(body, $1, $2) WHERE instr(body, $1) > 0`
	const doc = `UPDATE documents SET body = replace(body, $1, $2) WHERE kind = 'plan' AND instr(body, $1) > 0`
	for _, tc := range []struct {
		name  string
		query string
		args  func(k *kase) []any
	}{
		{"header: new signer", doc, func(k *kase) []any { return []any{k.next.id.Subject, k.stranger.id.Subject} }},
		{"header: limits", doc, func(*kase) []any { return []any{`"max_artifacts":10`, `"max_artifacts":99`} }},
		{"header: proposer", doc, func(*kase) []any { return []any{`"proposer":"alice"`, `"proposer":"zoe"`} }},
		{"header: quorum", doc, func(*kase) []any { return []any{`"quorum":2`, `"quorum":1`} }},
		{"header: rogue", doc, func(*kase) []any { return []any{digest(3), digest(1)} }},
		{"header: white space", doc, func(*kase) []any { return []any{`"schema":"reseal.plan/v1",`, `"schema": "reseal.plan/v1",`} }},
		{"totals", doc, func(*kase) []any { return []any{`"resign":3`, `"resign":0`} }},
		{"item: decision", item, func(*kase) []any { return []any{`"decision":"hold"`, `"decision":"resign"`} }},
		{"item: digest", item, func(*kase) []any { return []any{digest(2), digest(1)} }},
		{"item: repository", item, func(*kase) []any { return []any{elsewhere, repo} }},
		{"item dropped", `DELETE FROM plan_items WHERE seq = 5`, nil},
		{"last item dropped", `DELETE FROM plan_items WHERE seq = 7`, nil},
		{"item added", `INSERT INTO plan_items SELECT plan, 8, body FROM plan_items WHERE seq = 1`, nil},
		{"item added before the first", `INSERT INTO plan_items SELECT plan, 0, body FROM plan_items WHERE seq = 1`, nil},
		{"items in another order", `UPDATE plan_items SET seq = 8 - seq + 100`, nil},
		{"two items in one row", `UPDATE plan_items SET body = body || char(10) || (SELECT body FROM plan_items WHERE seq = 7) WHERE seq = 6`, nil},
		{"another version of the plan", `INSERT INTO documents SELECT kind, id, version + 1, replace(body, 'alice', 'zoe') FROM documents WHERE kind = 'plan'`, nil},
		{"items numbered anew", `UPDATE plan_items SET seq = seq + 100`, nil},
		{"a gap in the numbers", `UPDATE plan_items SET seq = 9 WHERE seq = 7`, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k, plan, _ := approved(t, func(p *Plan) { p.Limits.MaxArtifacts = 10 })
			var args []any
			if tc.args != nil {
				args = tc.args(k)
			}
			was := map[trust.Decision][]Item{}
			for _, d := range append(trust.Decisions(), "") {
				was[d] = k.items(t, plan, d)
			}
			approval := k.approval(t, k.dave, plan)
			k.edit(t, tc.query, args...)
			_, permitErr := k.tryPermit(t, plan)
			approveErr := k.tryApprove(t, approval)
			if (permitErr == nil) != (approveErr == nil) {
				t.Errorf("permit: %v, approve: %v", permitErr, approveErr)
			}
			if permitErr != nil {
				return
			}
			for d, items := range was { // then the edit must have no effect
				if now := k.items(t, plan, d); !reflect.DeepEqual(now, items) {
					t.Errorf("permitted, and %d items are listed as %q, want the %d that were approved", len(now), d, len(items))
				}
			}
		})
	}
}
