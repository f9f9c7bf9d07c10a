package rotate

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

// voter is one person of a random set, and what they did.
type voter struct {
	person
	entry    Person
	tainted  bool   // the key is under an incident
	approval string // "", "good", or what is wrong with it
}

// TestPermitFollowsTheRule draws approver sets, proposers and approvals, and
// holds Permit to the rule as a person would count it.
func TestPermitFollowsTheRule(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.open(t, leak, k.old.id)
	pool := make([]voter, 7)
	for n := range pool {
		p := newPerson(t, fmt.Sprintf("p%d", n))
		pool[n] = voter{person: p, entry: Person{Name: p.name, Aliases: []string{"account-" + p.name}, Credentials: []Credential{{PublicKey: string(p.pem)}}}}
	}
	for n := range pool[:2] {
		pool[n].tainted = true
		k.declare(t, trust.Incident{ID: "INC-" + pool[n].name, Class: trust.SigningKey, Signers: []signer.Identity{pool[n].id}})
	}
	permitted, refused, made := 0, 0, today
	rapid.Check(t, func(r *rapid.T) {
		people := rapid.Permutation(pool).Draw(r, "people")[:rapid.IntRange(2, 6).Draw(r, "how many")]
		people = slices.Clone(people)
		set := Approvers{Quorum: rapid.IntRange(1, 3).Draw(r, "quorum"), Roles: map[string]int{}}
		if rapid.Bool().Draw(r, "graver") {
			set.Severity = map[string]int{"high": set.Quorum + rapid.IntRange(0, 1).Draw(r, "more")}
		}
		if rapid.Bool().Draw(r, "needs a role") {
			set.Roles["security"] = rapid.IntRange(1, 2).Draw(r, "of the role")
		}
		for n := range people {
			v := &people[n]
			v.entry.ProposesOnly = rapid.IntRange(0, 5).Draw(r, "proposes only") == 0
			if rapid.Bool().Draw(r, "role") {
				v.entry.Roles = []string{"security"}
			}
			v.approval = rapid.SampledFrom([]string{"good", "good", "good", "", "by another key", "of another plan"}).Draw(r, "approval")
			set.People = append(set.People, v.entry)
		}
		if set.Check() != nil {
			r.Skip("it could never approve anything")
		}
		proposer := rapid.SampledFrom(people).Draw(r, "proposer")
		name := rapid.SampledFrom([]string{proposer.name, strings.ToUpper(proposer.name), "account-" + proposer.name, "made-up"}).Draw(r, "name of the proposer")
		signs := rapid.Bool().Draw(r, "the proposer signs")

		k.update(t, func(tx *store.Tx) error { return putApprovers(t.Context(), tx, "approvers.changed", set) })
		made = made.Add(time.Second)
		plan, _ := k.unsigned(t, func(p *Plan) { p.MadeAt, p.Proposer = made, name })
		file := func(under string, a Approval) { // as somebody who writes to the database would
			body, err := canonical(a)
			must(t, err)
			k.update(t, func(tx *store.Tx) error {
				return tx.PutDocument(t.Context(), store.KindApproval, plan+" "+under, "plan.approved", body)
			})
		}
		for _, v := range people {
			a := k.approval(t, v.person, plan)
			switch v.approval {
			case "":
				continue
			case "by another key":
				_, request := k.request(t, plan, v.name)
				a.Signature = k.stranger.sign(t, request)
			case "of another plan":
				request, err := ApprovalRequest(PlanKind, digest(9), leak, v.name, ends)
				must(t, err)
				a.Signature = v.sign(t, request)
			}
			file(v.name, a)
		}
		if signs {
			file(proposal, k.proposal(t, proposer.person, plan))
		}

		// The rule: whoever may be the proposer is left out, and the others are
		// counted.
		known := name != "made-up"
		proven := signs && known && !proposer.tainted
		var counted []voter
		for _, v := range people {
			if v.approval == "good" && !v.tainted && !v.entry.ProposesOnly && !(known && v.name == proposer.name) {
				counted = append(counted, v)
			}
		}
		enough := func(left []voter) bool {
			security := 0
			for _, v := range left {
				if slices.Contains(v.entry.Roles, "security") {
					security++
				}
			}
			return len(left) >= max(set.Quorum, set.Severity["high"]) && security >= set.Roles["security"]
		}
		want := enough(counted)
		if !proven {
			for n := range counted {
				want = want && enough(slices.Delete(slices.Clone(counted), n, n+1))
			}
		}

		p, err := k.tryPermit(t, plan)
		if (err == nil) != want || err != nil && !errors.Is(err, ErrNeedsApproval) {
			r.Fatalf("permitted: %v (%v), want %v: %d counted of %+v, proven %v", err == nil, err, want, len(counted), set, proven)
		}
		if err != nil {
			refused++
			return
		}
		permitted++
		var names []string
		for _, v := range counted {
			names = append(names, v.name)
		}
		slices.Sort(names)
		if !slices.Equal(p.Approvers(), names) {
			r.Fatalf("approved by %v, want %v", p.Approvers(), names)
		}
	})
	if permitted == 0 || refused == 0 {
		t.Errorf("%d permitted and %d refused: the drawing shows nothing", permitted, refused)
	}
}

// TestReachable holds Check to its promise: a set that passes can approve
// somebody's plan when everybody else does.
func TestReachable(t *testing.T) {
	t.Parallel()
	var keys []person
	for n := range 5 {
		keys = append(keys, newPerson(t, fmt.Sprintf("p%d", n)))
	}
	rapid.Check(t, func(r *rapid.T) {
		set := Approvers{Quorum: rapid.IntRange(1, 5).Draw(r, "quorum"), Roles: map[string]int{"a": rapid.IntRange(1, 3).Draw(r, "a")}}
		for _, p := range keys[:rapid.IntRange(1, 5).Draw(r, "people")] {
			x := Person{Name: p.name, Credentials: []Credential{{PublicKey: string(p.pem)}}, ProposesOnly: rapid.Bool().Draw(r, "only")}
			if rapid.Bool().Draw(r, "role") {
				x.Roles = []string{"a"}
			}
			set.People = append(set.People, x)
		}
		reachable := false
		for _, proposer := range set.People {
			v := votes{proposed: true}
			for _, p := range set.People {
				if p.Name != proposer.Name && !p.ProposesOnly {
					v.approvers = append(v.approvers, p)
				}
			}
			b := ballot{kind: PlanKind, proposer: proposer.Name}
			reachable = reachable || v.checkQuorum(b, set, []string{"critical"}, nil) == nil
		}
		if err := set.Check(); (err == nil) != reachable {
			r.Fatalf("reachable: %v, check: %v", reachable, err)
		}
	})
}
