package rotate

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

const turn = "ROT-1"

// tryRotate opens a rotation and makes a plan for it, which alice signs.
func (k *kase) tryRotate(t testing.TB, id string, from, to person, change func(*Plan)) (string, Totals, error) {
	t.Helper()
	if err := OpenRotation(t.Context(), k.Store, by, Rotation{ID: id, From: from.id, To: to.id, OpenedBy: proposerName, OpenedAt: today}); err != nil {
		return "", Totals{}, err
	}
	p := k.draft()
	p.Incident, p.NewSigner = id, to.id
	if change != nil {
		change(&p)
	}
	_, d, totals, err := MakePlan(t.Context(), k.Store, by, p)
	if err == nil {
		must(t, k.tryApprove(t, k.proposal(t, k.alice, d)))
	}
	return d, totals, err
}

func (k *kase) rotate(t testing.TB, change func(*Plan)) (string, Totals) {
	t.Helper()
	plan, totals, err := k.tryRotate(t, turn, k.old, k.next, change)
	must(t, err)
	return plan, totals
}

// standby enrols one more signer on standby.
func (k *kase) standby(t testing.TB, name string) person {
	t.Helper()
	p := newPerson(t, name)
	k.update(t, func(tx *store.Tx) error { return tx.PutSigner(t.Context(), p.record(signer.Standby)) })
	return p
}

func TestRotationPlan(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	plan, totals := k.rotate(t, nil)
	wantEqual(t, "items", decisions(k.items(t, plan, "")), []string{"1 resign", "1 resign", "2 resign", "7 resign", "3 resign", "4 none", "6 resign"})
	wantEqual(t, "what is weighed against an attacker", []int{len(totals.Sensitivity), len(totals.Orders)}, []int{0, 0})
	k.approve(t, plan, k.bob)
	k.wantMissing(t, plan, "1 of 2", "carol, dave")
	k.approve(t, plan, k.carol)
	p := k.permit(t, plan)
	wantEqual(t, "replaced", p.Plan().Replaced, []signer.Identity{k.old.id})
	policy, err := p.Current(t.Context(), k.Store)
	must(t, err)
	for _, i := range k.items(t, plan, trust.Resign) {
		if why, err := Still(t.Context(), k.Store, plan, policy, []Item{i}); err != nil || why[0] != "" {
			t.Errorf("%s: %s %v", i.Digest, why, err)
		}
	}
	wantEqual(t, "signed", k.carryOut(t, plan), 6)
	for _, i := range k.items(t, plan, trust.Resign) { // a run that resumes decides as the first did
		if why, err := Still(t.Context(), k.Store, plan, policy, []Item{i}); err != nil || why[0] != "" {
			t.Errorf("resumed: %s: %s %v", i.Digest, why, err)
		}
	}
	again, totals := k.rotate(t, nil)
	wantEqual(t, "all is signed", []int64{totals.Decisions[trust.None], totals.Recall}, []int64{7, 0})
	wantEqual(t, "what the second supplements", len(k.items(t, again, trust.Resign)), 0)
	if _, err := Contain(t.Context(), k.Store, newFakeRegistry(), nil, by, p, true); err == nil || !strings.Contains(err.Error(), "nothing to contain") {
		t.Errorf("contained: %v", err)
	}
	if _, err := Prune(t.Context(), k.Store, nil, by, p, PruneOptions{All: true}, true); err == nil || !strings.Contains(err.Error(), "nothing of it is taken away") {
		t.Errorf("pruned: %v", err)
	}
	k.checkJournal(t)
}

func TestRotationIsRefused(t *testing.T) {
	t.Parallel()
	state := func(k *kase, p person, to signer.State) func(*testing.T) {
		return func(t *testing.T) {
			k.update(t, func(tx *store.Tx) error { return tx.PutSigner(t.Context(), p.record(to)) })
		}
	}
	for _, tc := range []struct {
		name     string
		from, to func(*kase) person
		given    func(t *testing.T, k *kase)
		change   func(*Plan)
		says     string
	}{
		{name: "the old signer is under an incident", given: func(t *testing.T, k *kase) { k.open(t, leak, k.old.id) }, says: "under incident INC-1"},
		{name: "the new signer is under an incident", given: func(t *testing.T, k *kase) { k.open(t, leak, k.next.id) }, says: "under incident INC-1"},
		{name: "the old signer was never enrolled", from: func(k *kase) person { return k.stranger }, given: func(t *testing.T, k *kase) { k.put(t, repo, 9, signed(k.stranger, inventory.Legacy, true)) }, says: "is observed"},
		{name: "the old signer is on standby", given: func(t *testing.T, k *kase) { state(k, k.old, signer.Standby)(t) }, says: "is standby"},
		{name: "the old signer is revoked", given: func(t *testing.T, k *kase) { state(k, k.old, signer.Revoked)(t) }, says: "is revoked"},
		{name: "the new signer was never enrolled", to: func(k *kase) person { return k.stranger }, says: "not enrolled as trusted"},
		{name: "the new signer is out of use", given: func(t *testing.T, k *kase) { state(k, k.next, signer.Old)(t) }, says: "is old"},
		{name: "with a voucher", change: func(p *Plan) { p.Vouchers = []trust.Voucher{{}} }, says: "believes no voucher"},
		{name: "that keeps a signer", change: func(p *Plan) { p.Keep = true }, says: "keeps no compromised signer"},
		{name: "to somebody else than was said", change: func(p *Plan) { p.NewSigner = signer.Identity{} }, says: "not to"},
		{name: "under the name of an incident", given: func(t *testing.T, k *kase) { k.open(t, turn, k.builder.id) }, says: "name of an incident"},
		{name: "under the name of another", given: func(t *testing.T, k *kase) {
			must(t, OpenRotation(t.Context(), k.Store, by, Rotation{ID: turn, From: k.builder.id, To: k.next.id}))
		}, says: "choose another name"},
		{name: "that was abandoned", given: func(t *testing.T, k *kase) {
			must(t, OpenRotation(t.Context(), k.Store, by, Rotation{ID: turn, From: k.old.id, To: k.next.id}))
			must(t, AbandonRotation(t.Context(), k.Store, by, turn))
		}, says: "is withdrawn"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := newCase(t)
			if tc.given != nil {
				tc.given(t, k)
			}
			from, to := k.old, k.next
			if tc.from != nil {
				from = tc.from(k)
			}
			if tc.to != nil {
				to = tc.to(k)
			}
			if _, _, err := k.tryRotate(t, turn, from, to, tc.change); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
		})
	}
	t.Run("an incident under the name of a rotation", func(t *testing.T) {
		t.Parallel()
		k := newCase(t)
		k.rotate(t, nil)
		i := Incident{Incident: trust.Incident{ID: turn, Class: trust.SigningKey, Signers: []signer.Identity{k.old.id}}}
		if err := OpenIncident(t.Context(), k.Store, by, i); err == nil || !strings.Contains(err.Error(), "name of a rotation") {
			t.Errorf("got %v", err)
		}
	})
}

// TestAttackOnRotations has a thief sign with the old key before anybody knows,
// while it is being rotated.
func TestAttackOnRotations(t *testing.T) {
	t.Parallel()
	image := inventory.SignPredicate
	for _, tc := range []struct {
		name string
		test func(t *testing.T, k *kase)
	}{
		{"the thief signs before the incident is known, and it is signed again", func(t *testing.T, k *kase) {
			plan, _ := k.rotate(t, nil)
			k.carryOut(t, plan)
			k.open(t, leak, k.old.id)
			last := k.standby(t, "last")
			for _, to := range []person{k.next, last} {
				recall, totals := k.plan(t, func(p *Plan) { p.NewSigner = to.id })
				// 1 and 6 are proven older. 7 was put there later, 2 and 3 nobody can date.
				wantEqual(t, "to recall", totals.Recall, int64(3))
				for _, n := range []int{2, 3} {
					i := k.item(t, recall, n, image)
					if !i.Recall || i.Decision != trust.Hold || !strings.Contains(i.Reason, plan) {
						t.Errorf("%d: %s, recall %v: %s", n, i.Decision, i.Recall, i.Reason)
					}
				}
				if i := k.item(t, recall, 1, image); i.Recall {
					t.Errorf("what is proven older is recalled: %s", i.Reason)
				}
			}
			_, err := MarkRogue(t.Context(), k.Store, by, leak, map[string]string{digest(3): rogueFor})
			must(t, err)
			recall, _ := k.plan(t, nil)
			i := k.item(t, recall, 3, image)
			wantEqual(t, "what is rogue", []any{i.Decision, i.Recall}, []any{trust.Deny, true})
		}},
		{"it is rotated twice, and the first signer's signatures are taken away", func(t *testing.T, k *kase) {
			plan, _ := k.rotate(t, nil)
			k.carryOut(t, plan)
			last := k.standby(t, "last")
			k.update(t, func(tx *store.Tx) error {
				ours := inventory.SignatureID(repo, digest(3), inventory.Legacy, k.next.id, digest(50), nil)
				return errors.Join(tx.PutSigner(t.Context(), k.next.record(signer.Active)),
					tx.KeepSignatures(t.Context(), repo, digest(3), "", inventory.Formats(), []string{ours}))
			})
			second, _, err := k.tryRotate(t, "ROT-2", k.next, last, nil)
			must(t, err)
			k.carryOutAs(t, second, last)
			k.open(t, leak, k.old.id)
			recall, _ := k.plan(t, func(p *Plan) { p.NewSigner = last.id })
			if i := k.item(t, recall, 3, image); !i.Recall || i.Decision != trust.Hold {
				t.Errorf("%s, recall %v: %s", i.Decision, i.Recall, i.Reason)
			}
		}},
		{"an incident is opened after the approval", func(t *testing.T, k *kase) {
			plan, _ := k.rotate(t, nil)
			k.approve(t, plan, k.bob, k.carol)
			p := k.permit(t, plan)
			k.open(t, leak, k.old.id)
			policy, err := p.Current(t.Context(), k.Store)
			must(t, err)
			for _, i := range k.items(t, plan, trust.Resign) {
				if why, err := Still(t.Context(), k.Store, plan, policy, []Item{i}); err != nil || !strings.Contains(why[0], "now says hold") {
					t.Errorf("%s may still be signed again: %q %v", i.Digest, why, err)
				}
			}
			accepts := func(context.Context, string, string, inventory.Format, signer.Record) error { return nil }
			if _, err := CutOver(t.Context(), k.Store, accepts, by, p, true); err == nil || !strings.Contains(err.Error(), "is tainted") {
				t.Errorf("cut over: %v", err)
			}
			wantEqual(t, "state", k.state(t, k.old), signer.Tainted)
			k.withdraw(t, leak) // a false alarm
			policy, err = p.Current(t.Context(), k.Store)
			must(t, err)
			if why, err := Still(t.Context(), k.Store, plan, policy, []Item{k.item(t, plan, 2, image)}); err != nil || why[0] != "" {
				t.Errorf("after the false alarm: %s %v", why, err)
			}
		}},
		{"an incident about the new signer after the approval", func(t *testing.T, k *kase) {
			plan, _ := k.rotate(t, nil)
			k.approve(t, plan, k.bob, k.carol)
			p := k.permit(t, plan)
			k.open(t, leak, k.next.id)
			if _, err := p.Current(t.Context(), k.Store); err == nil || !strings.Contains(err.Error(), "itself under incident") {
				t.Errorf("got %v", err)
			}
		}},
		{"an incident about the authority that every time rests on", func(t *testing.T, k *kase) {
			plan, _ := k.rotate(t, nil)
			p := k.may(t, plan)
			must(t, OpenIncident(t.Context(), k.Store, by, Incident{Incident: trust.Incident{ID: "INC-2", Class: trust.TSA, Authorities: []inventory.Authority{tsa}}}))
			policy, err := p.Current(t.Context(), k.Store)
			must(t, err)
			k.wantChanged(t, plan, k.item(t, plan, 1, image), "hold")
			if why, err := Still(t.Context(), k.Store, plan, policy, []Item{k.item(t, plan, 2, image)}); err != nil || why[0] != "" {
				t.Errorf("what has no time at all: %s %v", why, err)
			}
		}},
		{"a digest that another incident marks rogue", func(t *testing.T, k *kase) {
			k.open(t, leak, k.builder.id, 3)
			plan, totals := k.rotate(t, nil)
			wantEqual(t, "denied", totals.Decisions[trust.Deny], int64(0))
			wantEqual(t, "the rogue one", k.item(t, plan, 3, image).Decision, trust.Hold)
		}},
		{"a digest is marked rogue after the approval", func(t *testing.T, k *kase) {
			k.open(t, leak, k.builder.id)
			plan, _ := k.rotate(t, nil)
			_, err := MarkRogue(t.Context(), k.Store, by, leak, map[string]string{digest(2): rogueFor})
			must(t, err)
			k.wantChanged(t, plan, k.item(t, plan, 2, image), "hold")
		}},
		{"a good copy in the thief's repository, which its signature does not name", func(t *testing.T, k *kase) {
			g := signed(k.old, inventory.Legacy, true)
			g.Names = repo
			k.put(t, "registry.example/mallory/app", 1, g)
			plan, _ := k.rotate(t, nil)
			for _, i := range k.items(t, plan, trust.Resign) {
				if strings.Contains(i.Repository, "mallory") {
					t.Errorf("%s is signed again in %s", i.Digest, i.Repository)
				}
			}
		}},
		{"a use of the key that no record accounts for", func(t *testing.T, k *kase) {
			g := signed(k.old, inventory.Legacy, false)
			g.PayloadDigest = digest(70)
			k.put(t, repo, 8, g)
			k.source(t, trust.Source{Name: "kms", Kind: inventory.RecordKMS, Signer: k.old.id})
			k.record(t, inventory.Record{Kind: inventory.RecordKMS, Signer: k.old.id.ID(), Message: digest(50)})
			plan, _ := k.rotate(t, nil)
			wantEqual(t, "recorded and not", []trust.Decision{k.item(t, plan, 2, image).Decision, k.item(t, plan, 8, image).Decision}, []trust.Decision{trust.Resign, trust.Hold})
		}},
		{"a rotation takes fewer people than the incident it hides", func(t *testing.T, k *kase) {
			set := k.approvers(1)
			set.Severity = map[string]int{"critical": 3}
			k.update(t, func(tx *store.Tx) error { return putApprovers(t.Context(), tx, "approvers.changed", set) })
			plan, _ := k.rotate(t, nil)
			k.approve(t, plan, k.bob, k.carol)
			k.wantMissing(t, plan, "2 of 3")
		}},
		{"a rotation that is over is carried out", func(t *testing.T, k *kase) {
			plan, _ := k.rotate(t, nil)
			k.approve(t, plan, k.bob, k.carol)
			must(t, AbandonRotation(t.Context(), k.Store, by, turn))
			if _, err := k.tryPermit(t, plan); !errors.Is(err, ErrNeedsApproval) || !strings.Contains(err.Error(), "is withdrawn") {
				t.Errorf("got %v", err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := newCase(t)
			tc.test(t, k)
		})
	}
}

// TestRotationsNeverAddTrustToAnIncident holds the plans of incidents, made while a rotation is open and after it was carried out, against those made
// as if there were none: of what nothing proves good no more is believed.
func TestRotationsNeverAddTrustToAnIncident(t *testing.T) {
	t.Parallel()
	for _, from := range []*time.Time{&leaked, earlier(30), nil} {
		build := func(rotate, carry bool) (out map[string]Item) {
			k := newCase(t)
			k.put(t, repo, 20, signed(k.old, inventory.Legacy, true), signed(k.old, inventory.Bundle, false), signed(k.builder, inventory.Bundle, true))
			k.put(t, repo, 21, signed(k.old, inventory.Bundle, false), claim(k.old, inventory.Bundle, spdx, 63, true))
			k.put(t, repo, 22, signed(k.builder, inventory.Bundle, false), signed(k.old, inventory.Legacy, false), claim(k.old, inventory.LegacyAtt, spdx, 64, false))
			if rotate {
				plan, _ := k.rotate(t, nil)
				if carry {
					k.carryOut(t, plan)
				}
			}
			must(t, OpenIncident(t.Context(), k.Store, by, Incident{Incident: trust.Incident{ID: leak, Class: trust.SigningKey, Signers: []signer.Identity{k.old.id}, From: from}}))
			plan, _ := k.plan(t, nil)
			out = map[string]Item{}
			for _, i := range k.items(t, plan, "") {
				out[i.Repository+i.Digest+i.Statement] = i
			}
			return out
		}
		without, open, done := build(false, false), build(true, false), build(true, true)
		for key, i := range without {
			if open[key].Decision != i.Decision {
				t.Errorf("an open rotation moved %s from %s to %s", key, i.Decision, open[key].Decision)
			}
			now := done[key]
			if trust.Compare(i.Decision, trust.Resign) < 0 && (trust.Compare(now.Decision, i.Decision) > 0 || !now.Recall) {
				t.Errorf("a rotation moved %s from %s to %s (recall %v)", key, i.Decision, now.Decision, now.Recall)
			}
		}
	}
}

func TestRotationCutOverAndClose(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	w := &wall{legacy: t.TempDir() + "/ci.pub", bundle: t.TempDir() + "/cluster.pub", refuse: map[string]bool{digest(2): true}}
	w.pin(t, k.old.pem, k.old.pem)
	plan, _ := k.rotate(t, func(p *Plan) { p.Consumers = w.consumers() })
	k.approve(t, plan, k.bob, k.carol)
	p := k.permit(t, plan)
	if c, err := CutOver(t.Context(), k.Store, w.accepts, by, p, true); !errors.Is(err, ErrNotCovered) || len(c.Dark) != 1 {
		t.Errorf("cut over before all is signed: %v %+v", err, c.Dark)
	}
	wantEqual(t, "anchors", w.pinned(t), k.both(k.old))
	there := &world{pins: func() []Pinned {
		var out []Pinned
		for _, x := range w.pinned(t) {
			_, id, err := signer.ParsePublicKey([]byte(x))
			must(t, err)
			out = append(out, Pinned{Place: "wall", Pins: []inventory.Pin{{Key: id.Subject}}})
		}
		return out
	}}
	missing := func(says ...string) {
		t.Helper()
		c, err := CloseRotation(t.Context(), k.Store, by, turn, there, today)
		if !errors.Is(err, ErrNotReady) {
			t.Errorf("closed: %v", err)
		}
		for _, s := range says {
			if !slices.ContainsFunc(c.Missing, func(m string) bool { return strings.Contains(m, s) }) {
				t.Errorf("missing %q, want %q", c.Missing, s)
			}
		}
	}
	missing("no plan of it was carried out", "still accepts")
	k.carryOut(t, plan)
	w.refuse = nil
	c, err := CutOver(t.Context(), k.Store, w.accepts, by, p, true)
	must(t, err)
	wantEqual(t, "anchors rewritten", c.Anchors, []string{"ci", "cluster"})
	wantEqual(t, "anchors", w.pinned(t), k.both(k.next))
	wantEqual(t, "states", []signer.State{k.state(t, k.old), k.state(t, k.next)}, []signer.State{signer.Old, signer.Active})
	c, err = CutOver(t.Context(), k.Store, w.accepts, by, p, true)
	must(t, err)
	wantEqual(t, "again", c.Already, []string{"ci", "cluster"})

	k.put(t, repo, 8, signed(k.old, inventory.Legacy, true))
	k.deploy(t, repo, 8)
	missing("not signed again yet")
	k.update(t, func(tx *store.Tx) error {
		return tx.KeepSignatures(t.Context(), repo, digest(8), "", inventory.Formats(), nil)
	})
	_, err = CloseRotation(t.Context(), k.Store, by, turn, there, today)
	must(t, err)
	r, err := LoadRotation(t.Context(), k.Store, turn)
	must(t, err)
	wantEqual(t, "state", []any{r.State, *r.ClosedAt}, []any{Closed, today})
	if _, err := k.tryPermit(t, plan); err == nil {
		t.Error("the plan of a closed rotation may be carried out")
	}
	k.checkJournal(t)
}

// TestRotationIntoAnotherFormat has a consumer that reads bundles from now on:
// it is asked about what was signed as ".sig" only.
func TestRotationIntoAnotherFormat(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	w := &wall{legacy: t.TempDir() + "/ci.pub", bundle: t.TempDir() + "/cluster.pub", refuse: map[string]bool{digest(1): true}}
	w.pin(t, k.old.pem, k.old.pem)
	plan, _ := k.rotate(t, func(p *Plan) { p.Consumers, p.Formats = w.consumers()[1:], []inventory.Format{inventory.Bundle} })
	i := k.item(t, plan, 1, inventory.SignPredicate)
	wantEqual(t, "formats", i.Formats, []inventory.Format{inventory.Bundle})
	k.approve(t, plan, k.bob, k.carol)
	if c, err := CutOver(t.Context(), k.Store, w.accepts, by, k.permit(t, plan), true); !errors.Is(err, ErrNotCovered) || c.Checked != 3 || len(c.Dark) != 1 {
		t.Errorf("cut over: %v %+v", err, c)
	}
	for _, formats := range [][]inventory.Format{{inventory.LegacyAtt}, {inventory.Bundle, inventory.Bundle}} {
		if _, _, err := k.tryRotate(t, turn, k.old, k.next, func(p *Plan) { p.Formats = formats }); err == nil || !strings.Contains(err.Error(), "use legacy, bundle") {
			t.Errorf("%v: %v", formats, err)
		}
	}
}

// world is the outside world as closing sees it.
type world struct{ pins func() []Pinned }

func (w *world) Anchors(context.Context) ([]Pinned, error)           { return w.pins(), nil }
func (*world) Present(context.Context, string, string) (bool, error) { return true, nil }
func (*world) Sealed(context.Context, string) (bool, error)          { return true, nil }
