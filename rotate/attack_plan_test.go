package rotate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

// may is the permission of a plan whose approvals do not matter here.
func (k *kase) may(t testing.TB, plan string) Permission {
	t.Helper()
	p, totals, err := LoadPlan(t.Context(), k.Store, plan)
	must(t, err)
	return Permission{plan: p, digest: plan, totals: totals, approvers: []string{"bob", "carol"}}
}

// carryOut re-signs what a plan says, as the engine does, and returns how many
// signatures it made.
func (k *kase) carryOut(t testing.TB, plan string) int {
	t.Helper()
	return k.carryOutAs(t, plan, k.next)
}

func (k *kase) carryOutAs(t testing.TB, plan string, next person) (n int) {
	t.Helper()
	for _, i := range k.items(t, plan, trust.Resign) {
		if i.Summary {
			continue // see made
		}
		for _, f := range i.Formats {
			g := signed(next, f, false)
			g.Repository, g.Digest, g.PredicateType, g.Names = i.Repository, i.Digest, i.PredicateType(), ""
			if _, payload, isClaim := strings.Cut(i.Statement, "#"); isClaim {
				g.PayloadDigest = payload
			}
			g.ID = inventory.SignatureID(g.Repository, g.Digest, f, next.id, g.PayloadDigest, nil)
			k.update(t, func(tx *store.Tx) error {
				return errors.Join(tx.PutSignature(t.Context(), g),
					tx.PutReissue(t.Context(), store.Reissue{Plan: plan, Seq: i.Seq, Format: f, State: "done", Content: g.Content, SignatureID: g.ID}))
			})
			n++
		}
	}
	return n
}

// withdraw withdraws an incident as a carried motion does.
func (k *kase) withdraw(t testing.TB, id string) {
	t.Helper()
	k.update(t, func(tx *store.Tx) error { return withdrawIncident(t.Context(), tx, k.Store, id, digest(900)) })
}

func (k *kase) record(t testing.TB, r inventory.Record) {
	t.Helper()
	r.ID, r.Source, r.Time = fmt.Sprint(r), "test", today
	k.update(t, func(tx *store.Tx) error { return tx.PutRecord(t.Context(), r) })
}

func (k *kase) source(t testing.TB, src trust.Source) {
	t.Helper()
	must(t, PutSource(t.Context(), k.Store, by, src))
}

// list keeps a known-good list.
func (k *kase) list(t testing.TB, of ...int) string {
	t.Helper()
	text := "# released\n\n"
	for _, n := range of {
		text += digest(n) + " # one\n"
	}
	d, n, err := PutList(t.Context(), k.Store, by, "builder", []byte(text))
	must(t, err)
	wantEqual(t, "digests in the list", n, len(of))
	return d
}

func decisions(items []Item) (out []string) {
	for _, i := range items {
		recall := ""
		if i.Recall {
			recall = " recall"
		}
		out = append(out, fmt.Sprintf("%s %s%s", i.Digest[len(i.Digest)-1:], i.Decision, recall))
	}
	return out
}

func earlier(days int) *time.Time {
	from := leaked.AddDate(0, 0, -days)
	return &from
}

func TestAttackOnPlans(t *testing.T) {
	t.Parallel()
	image := inventory.SignPredicate
	runBy := func(k *kase, n int, by string) inventory.Record {
		return inventory.Record{Kind: inventory.RecordCI, By: by, Digest: digest(n), Run: "https://ci.example/1"}
	}
	for _, tc := range []struct {
		name string
		test func(t *testing.T, k *kase) // the incident is open, 3 is rogue, no plan is made
	}{
		{"replay: a good image's proof beside an SBOM of the thief", func(t *testing.T, k *kase) {
			k.put(t, repo, 1, claim(k.old, inventory.LegacyAtt, spdx, 66, false))
			plan, _ := k.plan(t, func(p *Plan) { p.Homes = []string{repo} })
			for _, i := range k.items(t, plan, trust.Resign) {
				if strings.HasSuffix(i.Statement, digest(66)) {
					t.Errorf("the thief's SBOM is re-signed: %+v", i)
				}
			}
		}},
		{"replay: a good signature's time on another digest that does not verify", func(t *testing.T, k *kase) {
			g := signed(k.old, inventory.Legacy, true)
			g.Verified, g.Why = false, "it is over another digest"
			k.put(t, repo, 8, g, signed(k.old, inventory.Bundle, false))
			plan, _ := k.plan(t, nil)
			wantEqual(t, "decision", k.item(t, plan, 8, image).Decision, trust.Hold)
		}},
		{"a rogue digest is added after the plan", func(t *testing.T, k *kase) {
			plan, _ := k.plan(t, nil)
			_, err := Amend(t.Context(), k.Store, by, leak, Amendment{At: today, Rogue: map[string]string{digest(1): rogueFor}})
			must(t, err)
			k.wantChanged(t, plan, k.item(t, plan, 1, image), "deny")
		}},
		{"what the image is annotated with turns out to be the thief's", func(t *testing.T, k *kase) {
			annotated := signed(k.old, inventory.Legacy, true)
			annotated.PayloadDigest, annotated.Content = digest(70), digest(71)
			annotated.Bounds = []inventory.Bound{{Side: inventory.Upper, Time: leaked.AddDate(0, 0, -3), Authority: tsa, Verified: true}}
			k.put(t, repo, 8, signed(k.old, inventory.Legacy, true), annotated)
			plan, _ := k.plan(t, nil)
			item := k.item(t, plan, 8, image)
			k.wantSame(t, plan, item)
			_, err := Amend(t.Context(), k.Store, by, leak, Amendment{At: today, From: earlier(5)})
			must(t, err)
			k.wantChanged(t, plan, item, "must not be said again")
			k.wantSame(t, plan, k.item(t, plan, 1, image)) // all that proved it does so still
			fresh, _ := k.plan(t, func(p *Plan) { p.MadeAt = today.Add(time.Hour) })
			for _, g := range k.item(t, fresh, 8, image).Signatures {
				if g.Proves != (g.Content == digest(51)) {
					t.Errorf("%s proves the image good: %v", g.Content, g.Proves)
				}
			}
		}},
		{"the rogue digest is slipped into a known-good list", func(t *testing.T, k *kase) {
			voucher := func(of ...int) func(*Plan) {
				return func(p *Plan) {
					p.Homes, p.Vouchers = []string{repo}, []trust.Voucher{{Kind: trust.KnownGood, Signer: k.builder.id, List: k.list(t, of...)}}
				}
			}
			good, totals := k.plan(t, voucher(2))
			wantEqual(t, "listed", k.item(t, good, 2, image).Decision, trust.Resign)
			wantEqual(t, "vouched for", totals.Vouched, map[string]int64{k.may(t, good).Plan().Vouchers[0].ID(): 1})
			bad, _ := k.plan(t, voucher(2, 3))
			item := k.item(t, bad, 2, image)
			wantEqual(t, "listed beside a rogue one", item.Decision, trust.Hold)
			wantEqual(t, "the rogue one", k.item(t, bad, 3, image).Decision, trust.Deny)
			d, err := DiffPlans(t.Context(), k.Store, good, bad, nil)
			must(t, err)
			wantEqual(t, "slipped in", d.Lists, []ListChange{{Signer: k.builder.id.ID(), Added: []string{digest(3)}, AddedTotal: 1}})
			wantEqual(t, "changed", []int64{d.Added, d.Removed, d.Changed}, []int64{0, 0, 1})
		}},
		{"a digest of an approved list turns out rogue", func(t *testing.T, k *kase) {
			plan, _ := k.plan(t, func(p *Plan) {
				p.Homes, p.Vouchers = []string{repo}, []trust.Voucher{{Kind: trust.KnownGood, Signer: k.builder.id, List: k.list(t, 2, 9)}}
			})
			item := k.item(t, plan, 2, image)
			k.wantSame(t, plan, item)
			_, err := MarkRogue(t.Context(), k.Store, by, leak, map[string]string{digest(9): rogueFor})
			must(t, err)
			k.wantChanged(t, plan, item, "hold")
		}},
		{"the voucher's signer attested what is rogue, and it was quarantined", func(t *testing.T, k *kase) {
			k.put(t, repo, 2, claim(k.builder, inventory.LegacyAtt, slsa, 61, false))
			voucher := func(p *Plan) {
				p.Homes, p.Vouchers = []string{repo}, []trust.Voucher{{Signer: k.builder.id, PredicateType: slsa}}
			}
			plan, _ := k.plan(t, voucher)
			wantEqual(t, "attested", k.item(t, plan, 2, image).Decision, trust.Resign)
			k.put(t, repo, 3, claim(k.builder, inventory.LegacyAtt, slsa, 62, false))
			k.update(t, func(tx *store.Tx) error {
				return tx.KeepSignatures(t.Context(), repo, digest(3), "", inventory.Formats(), nil)
			})
			k.wantChanged(t, plan, k.item(t, plan, 2, image), "hold")
		}},
		{"a standing voucher put after the start counts only in the plan itself", func(t *testing.T, k *kase) {
			v := trust.Voucher{Signer: k.builder.id, PredicateType: slsa}
			k.put(t, repo, 2, claim(k.builder, inventory.LegacyAtt, slsa, 61, false))
			_, err := PutVoucher(t.Context(), k.Store, by, v) // the clock is past the leak
			must(t, err)
			plan, _ := k.plan(t, func(p *Plan) { p.Homes = []string{repo} })
			wantEqual(t, "vouchers", len(k.may(t, plan).Plan().Vouchers), 0)
			wantEqual(t, "decision", k.item(t, plan, 2, image).Decision, trust.Hold)
			forged := v
			forged.Standing = earlier(100)
			plan, _ = k.plan(t, func(p *Plan) { p.Homes, p.Vouchers = []string{repo}, []trust.Voucher{forged} })
			wantEqual(t, "what the plan says of its age", k.may(t, plan).Plan().Vouchers[0].Standing, (*time.Time)(nil))
		}},
		{"a standing voucher is made older in the database", func(t *testing.T, k *kase) {
			_, err := PutVoucher(t.Context(), k.Store, by, trust.Voucher{Signer: k.builder.id, PredicateType: slsa})
			must(t, err)
			k.edit(t, `UPDATE documents SET body = replace(body, '"entry":', '"entry":1') WHERE kind = 'voucher'`)
			_, err = Vouchers(t.Context(), k.Store)
			wantError(t, err, nil, "another hand")
		}},
		{"the proposer vouches by a list of their own", func(t *testing.T, k *kase) {
			for person, says := range map[string]string{proposerName: "proposes the plan", "mallory": "not an enrolled approver"} {
				p := k.draft()
				p.Vouchers = []trust.Voucher{{Kind: trust.KnownGood, Signer: k.builder.id, Person: person, List: k.list(t, 2)}}
				_, _, _, err := MakePlan(t.Context(), k.Store, by, p)
				wantError(t, err, nil, says)
			}
		}},
		{"the new signer vouches for itself", func(t *testing.T, k *kase) {
			p := k.draft()
			p.Vouchers = []trust.Voucher{{Signer: k.next.id, PredicateType: spdx}}
			_, _, _, err := MakePlan(t.Context(), k.Store, by, p)
			wantError(t, err, nil, "new signer")
		}},
		{"a CI record that nobody, or somebody else, authenticated", func(t *testing.T, k *kase) {
			v := []trust.Voucher{{Kind: trust.CIRun, Signer: k.builder.id}}
			k.record(t, runBy(k, 2, ""))
			k.record(t, runBy(k, 2, k.stranger.id.ID()))
			failed := runBy(k, 2, k.builder.id.ID())
			failed.Failed = true
			k.record(t, failed)
			change := func(p *Plan) { p.Homes, p.Vouchers = []string{repo}, v }
			plan, _ := k.plan(t, change)
			wantEqual(t, "decision", k.item(t, plan, 2, image).Decision, trust.Hold)
			k.record(t, runBy(k, 2, k.builder.id.ID()))
			plan, _ = k.plan(t, change)
			wantEqual(t, "with a genuine record", k.item(t, plan, 2, image).Decision, trust.Resign)
			k.record(t, runBy(k, 3, k.builder.id.ID()))
			k.wantChanged(t, plan, k.item(t, plan, 2, image), "hold") // void: it vouched for the rogue one too
		}},
		{"forged CI records explain nothing, genuine ones do", func(t *testing.T, k *kase) {
			k.put(t, repo, 8, signed(k.old, inventory.Legacy, false))
			k.source(t, trust.Source{Name: "ci", Kind: inventory.RecordCI, By: k.builder.id, Signer: k.old.id})
			k.record(t, runBy(k, 2, k.builder.id.ID()))
			k.record(t, runBy(k, 8, k.stranger.id.ID()))
			plan, _ := k.plan(t, nil)
			wantEqual(t, "recorded and not", []trust.Decision{k.item(t, plan, 2, image).Decision, k.item(t, plan, 8, image).Decision}, []trust.Decision{trust.Hold, trust.Deny})
			item := k.item(t, plan, 8, image)
			k.open(t, "INC-2", k.builder.id) // whoever keeps the records is compromised: they accuse nobody
			k.wantChanged(t, plan, item, "hold")
		}},
		{"a use of the key that the key service has no record of", func(t *testing.T, k *kase) {
			g := signed(k.old, inventory.Legacy, false)
			g.PayloadDigest = digest(70)
			k.put(t, repo, 8, g)
			k.source(t, trust.Source{Name: "kms", Kind: inventory.RecordKMS, Signer: k.old.id})
			k.record(t, inventory.Record{Kind: inventory.RecordKMS, Signer: k.old.id.ID(), Message: digest(50)})
			k.record(t, inventory.Record{Kind: inventory.RecordKMS, Signer: k.builder.id.ID(), Message: digest(70)})
			k.record(t, inventory.Record{Kind: inventory.RecordKMS, Signer: k.old.id.ID(), Message: digest(70), Failed: true})
			plan, _ := k.plan(t, nil)
			wantEqual(t, "recorded and not", []trust.Decision{k.item(t, plan, 2, image).Decision, k.item(t, plan, 8, image).Decision}, []trust.Decision{trust.Hold, trust.Deny})
		}},
		{"a pushed tag explains nothing and proves nothing", func(t *testing.T, k *kase) {
			k.source(t, trust.Source{Name: "ci", Kind: inventory.RecordCI, By: k.builder.id, Signer: k.old.id})
			plan, _ := k.plan(t, nil)
			item := k.item(t, plan, 2, image)
			k.update(t, func(tx *store.Tx) error {
				return tx.PutArtifact(t.Context(), inventory.Artifact{Repository: repo, Digest: digest(2), MediaType: ociImage, Size: 100, Tags: []string{"v2", "released", "v99"}})
			})
			wantEqual(t, "decision", item.Decision, trust.Deny)
			k.wantSame(t, plan, item)
		}},
		{"reseal's own signature is no footprint of the thief", func(t *testing.T, k *kase) {
			plan, _ := k.plan(t, nil)
			k.carryOut(t, plan)
			own, err := k.ReissuesBySignature(t.Context(), []string{inventory.SignatureID(repo, digest(1), inventory.Legacy, k.next.id, digest(50), nil)})
			must(t, err)
			wantEqual(t, "made", len(own), 1)
			g := signed(k.next, inventory.Legacy, false)
			g.ID, g.Repository, g.Digest, g.FirstSeen = own[0].SignatureID, repo, digest(1), today
			sources := []trust.Source{{Name: "kms", Kind: inventory.RecordKMS, Signer: k.next.id}}
			is := unexplained(t.Context(), k.Store, sources, nil)
			wantEqual(t, "ours", is(g), false)
			g.ID = "another"
			wantEqual(t, "not ours", is(g), true)
		}},
		{"the start moves earlier after re-signing", func(t *testing.T, k *kase) {
			plan, _ := k.plan(t, nil)
			wantEqual(t, "signed", k.carryOut(t, plan), 3)
			again, totals := k.plan(t, nil)
			wantEqual(t, "nothing to recall", []int64{totals.Recall, totals.Decisions[trust.None]}, []int64{0, 4})
			_, err := Amend(t.Context(), k.Store, by, leak, Amendment{At: today, From: earlier(20)})
			must(t, err)
			recall, totals := k.plan(t, nil)
			wantEqual(t, "to recall", totals.Recall, int64(3))
			wantEqual(t, "items", decisions(k.items(t, recall, "")), []string{"1 hold recall", "1 hold recall", "2 hold", "7 hold", "3 deny", "4 none", "6 hold recall"})
			if i := k.item(t, recall, 1, image); !strings.Contains(i.Reason, plan) {
				t.Errorf("the reason does not name the plan: %s", i.Reason)
			}
			k.wantChanged(t, again, k.item(t, again, 1, image), "hold")
			// Also where only the new signature is left.
			k.update(t, func(tx *store.Tx) error {
				ours := inventory.SignatureID(repo, digest(1), inventory.Legacy, k.next.id, digest(50), nil)
				return tx.KeepSignatures(t.Context(), repo, digest(1), "", inventory.Formats(), []string{ours})
			})
			recall, totals = k.plan(t, nil)
			wantEqual(t, "still to recall", []int64{totals.Recall, int64(len(k.item(t, recall, 1, image).Signatures))}, []int64{2, 2})
		}},
		{"another incident takes the proof after re-signing", func(t *testing.T, k *kase) {
			plan, _ := k.plan(t, nil)
			k.carryOut(t, plan)
			must(t, OpenIncident(t.Context(), k.Store, by, Incident{Incident: trust.Incident{ID: "INC-2", Class: trust.TSA, Authorities: []inventory.Authority{tsa}}}))
			_, totals := k.plan(t, nil)
			wantEqual(t, "to recall", totals.Recall, int64(3))
			k.withdraw(t, "INC-2")
			_, totals = k.plan(t, nil)
			wantEqual(t, "to recall after the false alarm", totals.Recall, int64(0))
		}},
		{"the thief signs only good digests", func(t *testing.T, k *kase) {
			plan, _ := k.plan(t, nil)
			item := k.item(t, plan, 1, image)
			g := signed(k.old, inventory.Bundle, false)
			g.PayloadDigest = digest(77)
			k.put(t, repo, 1, g)
			k.wantSame(t, plan, item)
			again, _ := k.plan(t, nil)
			wantEqual(t, "decision", k.item(t, again, 1, image).Decision, trust.Resign)
		}},
		{"an item of a kept plan is edited", func(t *testing.T, k *kase) {
			plan, _ := k.plan(t, nil)
			k.edit(t, `UPDATE plan_items SET body = replace(body, '"decision":"hold"', '"decision":"resign"') WHERE instr(body, '"decision":"hold"') > 0`)
			_, _, err := LoadPlan(t.Context(), k.Store, plan)
			wantError(t, err, nil, "changed after it was made")
			_, err = DiffPlans(t.Context(), k.Store, plan, plan, nil)
			wantError(t, err, nil, "changed after it was made")
		}},
		{"a withdrawn incident counts nowhere", func(t *testing.T, k *kase) {
			plan, _ := k.plan(t, nil)
			k.withdraw(t, leak)
			wantEqual(t, "state", k.state(t, k.old), signer.Active)
			_, _, _, err := MakePlan(t.Context(), k.Store, by, k.draft())
			wantError(t, err, nil, "withdrawn")
			_, err = k.contain(t.Context(), newFakeRegistry(), k.may(t, plan), true)
			wantError(t, err, nil, "withdrawn")
			_, err = MarkRogue(t.Context(), k.Store, by, leak, map[string]string{digest(1): rogueFor})
			wantError(t, err, nil, "withdrawn")
			policy, err := k.may(t, plan).Current(t.Context(), k.Store)
			must(t, err)
			wantEqual(t, "its marks and rules", []int{len(policy.Rogue), len(policy.Incidents)}, []int{0, 0})
		}},
		{"the incident is widened after the plan", func(t *testing.T, k *kase) {
			plan, _ := k.plan(t, nil)
			item := k.item(t, plan, 1, image)
			_, err := Amend(t.Context(), k.Store, by, leak, Amendment{At: today, FromUnknown: true})
			must(t, err)
			k.wantChanged(t, plan, item, "hold")
		}},
		{"a plan that keeps a key the thief may hold", func(t *testing.T, k *kase) {
			p := k.draft()
			p.NewSigner, p.Keep = signer.Identity{}, true
			_, _, _, err := MakePlan(t.Context(), k.Store, by, p)
			wantError(t, err, nil, "cannot be kept")
		}},
		{"clocks that differ by less than nothing prove what the thief made older", func(t *testing.T, k *kase) {
			p := k.draft()
			p.Skew = -30 * 24 * time.Hour
			_, _, _, err := MakePlan(t.Context(), k.Store, by, p)
			wantError(t, err, nil, "less than nothing")
		}},
		{"the proposer vouches by a list under another name or key of theirs", func(t *testing.T, k *kase) {
			k.enrol(t, func(a *Approvers) { a.People[0].Aliases = []string{"alice@example.com"} })
			for _, v := range []trust.Voucher{{Signer: k.builder.id, Person: proposerName}, {Signer: k.alice.id}} {
				p := k.draft()
				v.Kind, v.List = trust.KnownGood, k.list(t, 2)
				p.Proposer, p.Vouchers = "Alice@example.com", []trust.Voucher{v}
				_, _, _, err := MakePlan(t.Context(), k.Store, by, p)
				wantError(t, err, nil, "proposes the plan")
			}
		}},
		{"a standing list keeps its signer, and who follows them, from proposing", func(t *testing.T, k *kase) {
			k.set(before)
			for _, person := range []string{proposerName, "mallory"} {
				_, err := PutVoucher(t.Context(), k.Store, by, trust.Voucher{Kind: trust.KnownGood, Signer: k.builder.id, Person: person, List: k.list(t, 2)})
				must(t, err)
			}
			k.set(today)
			plan, _ := k.plan(t, nil)
			wantEqual(t, "vouchers", len(k.may(t, plan).Plan().Vouchers), 0)
		}},
		{"one person alone vouches, and breaks the glass", func(t *testing.T, k *kase) {
			list := k.list(t, 2)
			plan, _ := k.plan(t, func(p *Plan) {
				p.Homes, p.Vouchers = []string{repo}, []trust.Voucher{{Kind: trust.KnownGood, Signer: k.builder.id, List: list}}
			})
			must(t, k.tryBreak(t, k.breaking(t, k.alice, plan, emergency)))
			decided := func() trust.Decision {
				policy, err := k.permit(t, plan).Current(t.Context(), k.Store)
				must(t, err)
				a := inventory.Artifact{Repository: repo, Digest: digest(2)}
				sigs, err := k.SignaturesOf(t.Context(), a, plan)
				must(t, err)
				return decideAll(a, sigs, policy)[0].Decision
			}
			wantEqual(t, "on one person's word", decided(), trust.Hold)
			k.approve(t, plan, k.bob, k.carol)
			wantEqual(t, "by a quorum", decided(), trust.Resign)
		}},
		{"a lesser incident about the same key asks fewer people", func(t *testing.T, k *kase) {
			k.enrol(t, func(a *Approvers) { a.Quorum, a.Severity = 1, map[string]int{"high": 3} })
			must(t, OpenIncident(t.Context(), k.Store, by, Incident{Severity: "low", OpenedAt: today,
				Incident: trust.Incident{ID: "INC-2", Class: trust.SigningKey, Signers: []signer.Identity{k.old.id}, From: &leaked}}))
			plan, _ := k.plan(t, func(p *Plan) { p.Incident = "INC-2" })
			wantEqual(t, "quorum", k.may(t, plan).Plan().Quorum, 3)
			k.approve(t, plan, k.bob, k.carol)
			k.wantMissing(t, plan, "2 of 3")
		}},
		{"an incident is made graver so that fewer people are asked", func(t *testing.T, k *kase) {
			k.enrol(t, func(a *Approvers) { a.Quorum, a.Severity = 1, map[string]int{"high": 3} })
			_, err := Amend(t.Context(), k.Store, by, leak, Amendment{At: today, Severity: "critical"})
			must(t, err)
			plan, _ := k.plan(t, nil)
			wantEqual(t, "quorum", k.may(t, plan).Plan().Quorum, 3)
			must(t, OpenIncident(t.Context(), k.Store, by, Incident{Severity: "sev 1", OpenedAt: today,
				Incident: trust.Incident{ID: "INC-2", Class: trust.SigningKey, Signers: []signer.Identity{k.builder.id}}}))
			_, err = Amend(t.Context(), k.Store, by, "INC-2", Amendment{At: today, Severity: "low"})
			wantError(t, err, nil, "less grave")
		}},
		{"a plan keeps an identity whose window has not ended, or does not any more", func(t *testing.T, k *kase) {
			id, until := oidcIdentity("release"), today.AddDate(0, 0, 3)
			must(t, OpenIncident(t.Context(), k.Store, by, Incident{Severity: "low", Incident: trust.Incident{ID: "INC-2", Class: trust.KeylessIdentity,
				Signers: []signer.Identity{id}, From: &leaked, Until: &until}}))
			keep := k.draft()
			keep.Incident, keep.NewSigner, keep.Keep = "INC-2", signer.Identity{}, true
			_, _, _, err := MakePlan(t.Context(), k.Store, by, keep)
			wantError(t, err, nil, "until then the attacker can sign")
			k.set(until)
			keep.MadeAt = until
			_, plan, _, err := MakePlan(t.Context(), k.Store, by, keep)
			must(t, err)
			k.approve(t, plan, k.bob, k.carol, k.dave)
			p := k.permit(t, plan)
			_, err = Amend(t.Context(), k.Store, by, "INC-2", Amendment{At: until, NoEnd: true})
			must(t, err)
			_, err = k.tryPermit(t, plan)
			wantError(t, err, nil, "cannot be kept")
			_, err = k.contain(t.Context(), newFakeRegistry(), p, true)
			wantError(t, err, nil, "cannot be kept")
		}},
		{"the incident is withdrawn for another after re-signing", func(t *testing.T, k *kase) {
			plan, _ := k.plan(t, nil)
			wantEqual(t, "signed", k.carryOut(t, plan), 3)
			k.withdraw(t, leak)
			must(t, OpenIncident(t.Context(), k.Store, by, Incident{Severity: "high", Incident: trust.Incident{ID: "INC-2", Class: trust.SigningKey,
				Signers: []signer.Identity{k.old.id}, From: earlier(20)}}))
			_, totals := k.plan(t, func(p *Plan) { p.Incident = "INC-2" })
			wantEqual(t, "to recall", totals.Recall, int64(3))
		}},
		{"a bundle with a claim goes onto an image that is on hold by now", func(t *testing.T, k *kase) {
			bundle, legacy := claim(k.old, inventory.Bundle, spdx, 60, true), claim(k.old, inventory.LegacyAtt, spdx, 60, true)
			k.put(t, repo, 8, signed(k.old, inventory.Legacy, true), bundle, legacy)
			plan, _ := k.plan(t, func(p *Plan) { p.Homes = []string{repo} })
			item := k.item(t, plan, 8, spdx)
			wantEqual(t, "formats", item.Formats, []inventory.Format{inventory.Bundle, inventory.LegacyAtt})
			k.wantSame(t, plan, item)
			// The thief takes the bundle and the image's proven signature away.
			left := inventory.SignatureID(repo, digest(8), inventory.LegacyAtt, k.old.id, legacy.PayloadDigest+legacy.PredicateType, nil)
			k.update(t, func(tx *store.Tx) error {
				return tx.KeepSignatures(t.Context(), repo, digest(8), "", inventory.Formats(), []string{left})
			})
			k.wantChanged(t, plan, item, "the image itself is not proven good")
		}},
		{"a good attestation of an image that nobody of ours signed", func(t *testing.T, k *kase) {
			k.put(t, repo, 8, signed(k.stranger, inventory.Legacy, true), claim(k.old, inventory.LegacyAtt, spdx, 60, true))
			plan, _ := k.plan(t, func(p *Plan) { p.Homes = []string{repo} })
			item := k.item(t, plan, 8, spdx)
			wantEqual(t, "decision", item.Decision, trust.Hold)
			if !strings.Contains(item.Reason, "the image itself is not proven good") {
				t.Error(item.Reason)
			}
			// It is signed by the new signer, for whom the attestation then adds nothing.
			k.put(t, repo, 8, signed(k.next, inventory.Legacy, false))
			plan, _ = k.plan(t, func(p *Plan) { p.Homes = []string{repo} })
			item = k.item(t, plan, 8, spdx)
			wantEqual(t, "decision once it is", item.Decision, trust.Resign)
			k.wantSame(t, plan, item)
		}},
		{"a good claim about an image and others", func(t *testing.T, k *kase) {
			for n, tc := range []struct {
				also []string
				want trust.Decision
				says string
			}{
				{nil, trust.Resign, "existed by"},
				{[]string{digest(1), digest(4)}, trust.Resign, "existed by"}, // to be re-signed, and covered
				{[]string{digest(3)}, trust.Hold, rogueFor},
				{[]string{digest(2)}, trust.Hold, "is on hold"},
				{[]string{digest(5)}, trust.Hold, "nothing is decided about it"},
				{[]string{digest(99)}, trust.Hold, "no scan has seen it"},
			} {
				n += 80
				g := claim(k.old, inventory.Bundle, spdx, 60, true)
				k.update(t, func(tx *store.Tx) (err error) {
					g.Content, err = tx.PutVault(t.Context(), stored(g.Format, about(append(tc.also, digest(n))...)))
					return err
				})
				k.put(t, repo, n, signed(k.old, inventory.Bundle, true), g)
				plan, _ := k.plan(t, func(p *Plan) { p.Homes = []string{repo} })
				item := k.item(t, plan, n, spdx)
				if item.Decision != tc.want || !strings.Contains(item.Reason, tc.says) {
					t.Errorf("also about %v: %s (%s), want %s (%s)", tc.also, item.Decision, item.Reason, tc.want, tc.says)
				}
				wantEqual(t, "also about", item.Also, map[bool][]string{true: tc.also}[tc.want == trust.Resign])
				if item.Also != nil {
					k.wantSame(t, plan, item)
					k.open(t, "INC-2", k.builder.id, 1)
					k.wantChanged(t, plan, item, "which is marked rogue")
					k.withdraw(t, "INC-2")
				}
			}
		}},
		{"a mark is taken back, and the plan still denies", func(t *testing.T, k *kase) {
			k.open(t, "INC-2", k.builder.id, 1)
			plan, _ := k.plan(t, nil)
			wantEqual(t, "decision", k.item(t, plan, 1, image).Decision, trust.Deny)
			k.withdraw(t, "INC-2")
			f := newFakeRegistry()
			c, err := k.contain(t.Context(), f, k.may(t, plan), true)
			must(t, err)
			wantEqual(t, "taken away", c.Quarantined, []string{repo + "@" + digest(3)})
			if len(c.Spared) != 1 || !strings.HasPrefix(c.Spared[0], repo+"@"+digest(1)+": ") {
				t.Errorf("spared: %q", c.Spared)
			}
			if _, there := f.manifests[digest(1)]; !there {
				t.Error("the good image is gone")
			}
		}},
		{"an older statement is published over a wider one", func(t *testing.T, k *kase) {
			plan, _ := k.plan(t, nil)
			f, n := newFakeRegistry(), 0
			publish := func(ctx context.Context, name string, statement []byte) error {
				if n++; n == 1 { // somebody else is faster
					_, err := Amend(ctx, k.Store, by, leak, Amendment{At: today, FromUnknown: true, Rogue: map[string]string{digest(9): rogueFor}})
					must(t, err)
				}
				return f.publish(ctx, name, statement)
			}
			_, err := Contain(t.Context(), k.Store, f, publish, by, k.may(t, plan), true)
			must(t, err)
			if last := string(f.manifests["published "+revocation]); strings.Contains(last, `"from"`) || !strings.Contains(last, digest(9)[len("sha256:"):]) {
				t.Errorf("what stands published is narrower than the incident: %s", last)
			}
		}},
		{"a rogue digest is marked after closing", func(t *testing.T, k *kase) {
			k.edit(t, `UPDATE documents SET body = replace(body, '"state":"open"', '"state":"closed"') WHERE kind = 'incident'`)
			i, err := MarkRogue(t.Context(), k.Store, by, leak, map[string]string{digest(3): rogueFor})
			must(t, err)
			wantEqual(t, "marked already", i.State, Closed)
			i, err = MarkRogue(t.Context(), k.Store, by, leak, map[string]string{digest(9): rogueFor})
			must(t, err)
			wantEqual(t, "marked anew", i.State, Open)
			_, err = MarkRogue(t.Context(), k.Store, by, leak, nil)
			must(t, err)
		}},
		{"a supplement's statement believes fewer times", func(t *testing.T, k *kase) {
			plan, whole := k.plan(t, nil)
			_, totals := k.plan(t, func(p *Plan) { p.Supplements = plan })
			wantEqual(t, "whose times count", totals.TimeAuthorities, whole.TimeAuthorities)
			wantEqual(t, "items", totals.Artifacts, int64(0))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := newCase(t)
			k.open(t, leak, k.old.id, 3)
			tc.test(t, k)
			k.checkJournal(t)
		})
	}
}

// closable is the world as closing sees it.
type closable struct {
	anchors []Pinned
	present map[string]bool
	sealed  bool
}

func (w *closable) Anchors(context.Context) ([]Pinned, error) { return w.anchors, nil }
func (w *closable) Present(_ context.Context, repository, d string) (bool, error) {
	return w.present[repository+"@"+d], nil
}
func (w *closable) Sealed(context.Context, string) (bool, error) { return w.sealed, nil }

func TestClose(t *testing.T) {
	t.Parallel()
	ready := func(t *testing.T) (*kase, *closable) {
		k := newCase(t)
		k.open(t, leak, k.old.id, 3)
		plan, _ := k.plan(t, func(p *Plan) { p.AcceptDark = []string{digest(2), digest(7)} })
		k.carryOut(t, plan)
		_, err := k.contain(t.Context(), newFakeRegistry(), k.may(t, plan), true)
		must(t, err)
		return k, &closable{sealed: true, present: map[string]bool{}, anchors: []Pinned{
			{Place: "policy.yaml", Pins: []inventory.Pin{{Key: k.next.id.Subject}}}, {Place: "kms.yaml", Pins: []inventory.Pin{{Reference: "awskms:///x"}}}}}
	}
	for _, tc := range []struct {
		name  string
		spoil func(t *testing.T, k *kase, w *closable)
		says  []string // each in a sentence of its own
	}{
		{"an anchor pins the old signer", func(_ *testing.T, k *kase, w *closable) {
			w.anchors = append(w.anchors, Pinned{Place: "ci.pub", Pins: []inventory.Pin{{Key: k.old.id.Subject}}})
		}, []string{"ci.pub still accepts"}},
		{"deployed and on hold", func(t *testing.T, k *kase, _ *closable) {
			k.put(t, repo, 8, signed(k.old, inventory.Legacy, false))
			k.deploy(t, repo, 8)
		}, []string{"deployed and on hold"}},
		{"deployed and not re-signed", func(t *testing.T, k *kase, _ *closable) {
			k.put(t, repo, 8, signed(k.old, inventory.Legacy, true))
			k.deploy(t, repo, 8)
		}, []string{"not re-signed yet"}},
		{"rogue and still served", func(_ *testing.T, _ *kase, w *closable) { w.present[repo+"@"+digest(3)] = true }, []string{"still in the registry"}},
		{"rogue since the statement", func(t *testing.T, k *kase, _ *closable) {
			_, err := MarkRogue(t.Context(), k.Store, by, leak, map[string]string{digest(9): rogueFor})
			must(t, err)
		}, []string{"is not denied"}},
		{"unexplained and still served", func(t *testing.T, k *kase, w *closable) {
			k.put(t, repo, 8, signed(k.old, inventory.Legacy, false))
			k.source(t, trust.Source{Name: "ci", Kind: inventory.RecordCI, By: k.builder.id, Signer: k.old.id})
			p := k.draft()
			p.Supplements, p.AcceptDark = "", []string{digest(2), digest(7)}
			_, plan, _, err := MakePlan(t.Context(), k.Store, by, p)
			must(t, err)
			wantEqual(t, "decision", k.item(t, plan, 8, inventory.SignPredicate).Decision, trust.Deny)
			_, err = k.contain(t.Context(), newFakeRegistry(), k.may(t, plan), true)
			must(t, err)
			k.put(t, repo, 8, signed(k.old, inventory.Legacy, false)) // pushed again, and seen by a scan
			w.present[repo+"@"+digest(8)] = true
		}, []string{"is denied and still in the registry"}},
		{"not sealed", func(_ *testing.T, _ *kase, w *closable) { w.sealed = false }, []string{"not sealed"}},
		{"widened since", func(t *testing.T, k *kase, _ *closable) {
			_, err := Amend(t.Context(), k.Store, by, leak, Amendment{At: today, From: earlier(20)})
			must(t, err)
		}, []string{"re-signed and would not be any more", "widened since"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k, w := ready(t)
			tc.spoil(t, k, w)
			c, err := Close(t.Context(), k.Store, by, leak, w, today)
			wantError(t, err, ErrNotReady, tc.says...)
			for _, says := range tc.says {
				if !slices.ContainsFunc(c.Missing, func(m string) bool { return strings.Contains(m, says) }) || !slices.IsSorted(c.Missing) {
					t.Errorf("missing are %q, want one that says %q, in order", c.Missing, says)
				}
			}
			i, err := LoadIncident(t.Context(), k.Store, leak)
			must(t, err)
			wantEqual(t, "state", i.State, Open)
		})
	}
	t.Run("nothing was carried out", func(t *testing.T) {
		t.Parallel()
		k := newCase(t)
		k.open(t, leak, k.old.id)
		_, err := Close(t.Context(), k.Store, by, leak, &closable{sealed: true}, today)
		wantError(t, err, ErrNotReady, "no plan", "no revocation statement")
	})
	t.Run("ready", func(t *testing.T) {
		t.Parallel()
		k, w := ready(t)
		c, err := Close(t.Context(), k.Store, by, leak, w, today)
		must(t, err)
		wantEqual(t, "accepted", c.Accepted, []string{repo + "@" + digest(2), elsewhere + "@" + digest(7)})
		wantEqual(t, "unknown", c.Unknown, []string{"kms.yaml pins awskms:///x"})
		i, err := LoadIncident(t.Context(), k.Store, leak)
		must(t, err)
		wantEqual(t, "state", []any{i.State, i.ClosedAt.Equal(today), len(Rules([]Incident{i}))}, []any{Closed, true, 1})
		_, err = Close(t.Context(), k.Store, by, leak, w, today)
		wantError(t, err, nil, "closed already")
		k.checkJournal(t)
	})
}
