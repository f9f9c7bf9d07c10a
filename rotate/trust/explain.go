package trust

import (
	"github.com/reseal/reseal/inventory"
)

// Explanation is a decision and how it came about.
type Explanation struct {
	Decision   Decision             `json:"decision"` // empty when the statement is no concern of the plan
	Reason     string               `json:"reason"`
	Formats    []inventory.Format   `json:"formats,omitempty"`
	Vouched    []int                `json:"vouched,omitempty"` // see Outcome
	Summary    bool                 `json:"summary,omitempty"` // see Outcome
	Signatures []ExplainedSignature `json:"signatures"`
	Rules      []RuleTrace          `json:"rules"` // in the order tried, to the first that matched
}

// RuleTrace is one rule and what it found.
type RuleTrace struct {
	Rule    string `json:"rule"`
	Matched bool   `json:"matched"`
	Why     string `json:"why"`
}

// ExplainedSignature is a signature, its judgement, and what that rests on.
type ExplainedSignature struct {
	ID        string           `json:"id"`
	Signer    string           `json:"signer"` // its ID
	Format    inventory.Format `json:"format"`
	Location  string           `json:"location,omitempty"`
	Judgement                  // see Judge
	Replaced  bool             `json:"replaced"` // the plan replaces it
	Trusted   bool             `json:"trusted"`  // the successor may take over what its signer said
	Incidents []ExplainedTouch `json:"incidents"`
	Bounds    []ExplainedBound `json:"bounds"`
}

// ExplainedTouch is an incident that takes something from a signature.
type ExplainedTouch struct {
	Incident string `json:"incident"`
	By       string `json:"by"`
}

// ExplainedBound is a bound and whether it counts.
type ExplainedBound struct {
	inventory.Bound
	Counts  bool   `json:"counts"`
	Because string `json:"because,omitempty"` // why it does not count
}

// Explain walks the same rules as Decide and says what each found. It returns
// false where Decide does.
func Explain(st inventory.Statement, beside []inventory.Statement, p Policy) (Explanation, bool) {
	q := p.ask(st, beside)
	x := Explanation{Signatures: []ExplainedSignature{}, Rules: []RuleTrace{}}
	for n := range q.sigs {
		x.Signatures = append(x.Signatures, p.explain(&q.sigs[n]))
	}
	if !q.isRogue && !q.touched {
		x.Reason = "no signature of it is one that the plan replaces"
		return x, false
	}
	out := q.decide(&x.Rules)
	x.Decision, x.Reason, x.Formats, x.Vouched, x.Summary = out.Decision, out.Reason, out.Formats, out.Vouched, out.Summary
	return x, true
}

func (p *Policy) explain(j *Judged) ExplainedSignature {
	x := ExplainedSignature{ID: j.ID, Signer: j.Signer.ID(), Format: j.Format, Location: j.Location, Judgement: j.Judgement,
		Replaced: j.Replaced, Trusted: j.trusted, Incidents: []ExplainedTouch{}, Bounds: []ExplainedBound{}}
	for n := range p.Incidents {
		i := &p.Incidents[n]
		if j.Verified && i.concerns(&j.Signature, j.bare) {
			x.Incidents = append(x.Incidents, ExplainedTouch{i.ID, i.how(&j.Signature)})
		}
	}
	for n := range j.Bounds {
		b := ExplainedBound{Bound: j.Bounds[n]}
		i, by, lost := lostTo(&b.Bound, &j.Signature, p.Incidents)
		switch {
		case !b.Verified:
			b.Because = "it did not verify: " + b.Why
		case lost && by == b.Authority:
			b.Because = "its authority is in " + i.ID
		case lost:
			b.Because = "the signature rests on the " + describe(by) + ", which is in " + i.ID
		default:
			b.Counts = true
		}
		x.Bounds = append(x.Bounds, b)
	}
	return x
}

// how says by what an incident concerns a signature.
func (i *Incident) how(s *inventory.Signature) string {
	switch i.linked(s) {
	case bySigner:
		return "it names the signer " + s.Signer.ID()
	case bySelector:
		return "it selects the certificate of " + s.Signer.String()
	case byRequired:
		for _, a := range s.Requires {
			if i.namesAuthority(a) {
				return "without the " + describe(a) + " the signature does not verify"
			}
		}
	}
	return "all its log entries and timestamps rest on authorities in incidents"
}
