// Package trust decides what can still be believed.
//
// It holds the two rules everything else obeys: Judge says what the open
// incidents mean for one signature, Decide says what is done with one
// statement. Both are pure functions of their arguments; they read no clock,
// no database and no network, and give a reason a sceptic can check.
package trust

import (
	"fmt"
	"slices"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// Class is the kind of thing that was compromised.
type Class string

// The classes of incident.
const (
	SigningKey Class = "signing-key" // a private key whose bytes the attacker may hold
)

// Incident is a declared compromise, as the rules see it.
type Incident struct {
	ID          string                `json:"id"`
	Class       Class                 `json:"class"`
	Signers     []signer.Identity     `json:"signers,omitempty"`
	Authorities []inventory.Authority `json:"authorities,omitempty"`
	From        *time.Time            `json:"from,omitempty"`  // start of the window; nil: unknown, the signer's first use
	Until       *time.Time            `json:"until,omitempty"` // end of the window; nil: no end
}

// Check refuses what no incident of its class can say.
func (i Incident) Check() error {
	if len(i.Signers) == 0 && len(i.Authorities) == 0 {
		return fmt.Errorf("incident %s names no signer and no authority", i.ID)
	}
	if i.Until != nil && i.Class == SigningKey {
		return fmt.Errorf("incident %s: a key that was copied has no end of its window, the thief keeps it: leave out the end", i.ID)
	}
	if i.From != nil && i.Until != nil && !i.From.Before(*i.Until) {
		return fmt.Errorf("incident %s: its window ends before it starts", i.ID)
	}
	return nil
}

func (i Incident) touches(s inventory.Signature) bool {
	return slices.Contains(i.Signers, s.Signer) ||
		slices.ContainsFunc(s.Requires, func(a inventory.Authority) bool { return slices.Contains(i.Authorities, a) })
}

// Touched reports whether any of the incidents is about the signature's signer
// or about an authority without which it does not verify.
func Touched(s inventory.Signature, incidents []Incident) bool {
	return slices.ContainsFunc(incidents, func(i Incident) bool { return i.touches(s) })
}

// Verdict is what the open incidents mean for one signature.
type Verdict string

// The verdicts.
const (
	Unverifiable Verdict = "unverifiable"  // the signature itself does not verify
	Unaffected   Verdict = "unaffected"    // no incident touches it
	ProvenBefore Verdict = "proven-before" // it existed before the window
	ProvenAfter  Verdict = "proven-after"  // it was made after the window
	Inside       Verdict = "inside"        // it was made within the window
	Unproven     Verdict = "unproven"      // nothing shows when it was made: treated as inside
)

// Proven reports whether the verdict places a signature safely outside the
// window of every incident about it.
func (v Verdict) Proven() bool { return v == ProvenBefore || v == ProvenAfter }

// Judgement is a verdict and why.
type Judgement struct {
	Verdict       Verdict
	Reason        string
	Contradiction bool // its bounds contradict each other: held, whatever else holds
}

// Judge says what the open incidents, all together, mean for one signature.
//
// U is the earliest verified upper bound and L the latest verified lower bound
// whose authority is outside every incident; skew is how far honest clocks may
// differ. With several incidents about one signature the least trusting answer
// holds. Later proofs never worsen a verdict: a later upper bound is simply not
// the earliest.
func Judge(s inventory.Signature, incidents []Incident, skew time.Duration) Judgement {
	if !s.Verified {
		return Judgement{Verdict: Unverifiable, Reason: "the signature does not verify: " + s.Why}
	}
	if !Touched(s, incidents) {
		return Judgement{Verdict: Unaffected, Reason: "no open incident is about " + s.Signer.ID()}
	}
	// Proofs that contradict each other stay suspicious even when one of them
	// comes from an authority of an incident: else declaring one more incident
	// could make a decision more trusting.
	if upper, lower := bounds(s, nil); upper != nil && lower != nil && lower.Time.After(upper.Time.Add(skew)) {
		return Judgement{Verdict: Unproven, Contradiction: true, Reason: fmt.Sprintf(
			"its proofs contradict each other: made after %s (%s) and before %s (%s)",
			stamp(lower.Time), describe(lower.Authority), stamp(upper.Time), describe(upper.Authority))}
	}
	upper, lower := bounds(s, incidents)
	var worst Judgement
	for _, i := range incidents {
		if !i.touches(s) {
			continue
		}
		if j := judgeOne(i, upper, lower, skew); worst.Verdict == "" || rank(j.Verdict) < rank(worst.Verdict) {
			worst = j
		}
	}
	return worst
}

func judgeOne(i Incident, upper, lower *inventory.Bound, skew time.Duration) Judgement {
	switch {
	case i.From != nil && upper != nil && upper.Time.Before(i.From.Add(-skew)):
		return Judgement{Verdict: ProvenBefore, Reason: fmt.Sprintf("existed by %s (%s), before %s starts at %s",
			stamp(upper.Time), describe(upper.Authority), i.ID, stamp(*i.From))}
	case i.Until != nil && lower != nil && !lower.Time.Before(i.Until.Add(skew)):
		return Judgement{Verdict: ProvenAfter, Reason: fmt.Sprintf("made after %s (%s), when %s had ended at %s",
			stamp(lower.Time), describe(lower.Authority), i.ID, stamp(*i.Until))}
	case lower != nil && (i.From == nil || !lower.Time.Before(*i.From)) &&
		(i.Until == nil || upper != nil && upper.Time.Before(*i.Until)):
		return Judgement{Verdict: Inside, Reason: fmt.Sprintf("made after %s (%s), within %s",
			stamp(lower.Time), describe(lower.Authority), i.ID)}
	case i.From == nil:
		return Judgement{Verdict: Unproven, Reason: "the start of " + i.ID + " is unknown, so nothing can be proven older"}
	case upper != nil:
		return Judgement{Verdict: Unproven, Reason: fmt.Sprintf("the earliest proof of its time is %s (%s), not before %s starts at %s",
			stamp(upper.Time), describe(upper.Authority), i.ID, stamp(*i.From))}
	default:
		return Judgement{Verdict: Unproven, Reason: "no authority outside the incident proves when it was made"}
	}
}

// bounds returns the earliest upper and the latest lower bound that verified
// and rest on an authority outside every incident.
func bounds(s inventory.Signature, incidents []Incident) (upper, lower *inventory.Bound) {
	for n := range s.Bounds {
		b := &s.Bounds[n]
		if !b.Verified || slices.ContainsFunc(incidents, func(i Incident) bool { return slices.Contains(i.Authorities, b.Authority) }) {
			continue
		}
		switch {
		case b.Side == inventory.Upper && (upper == nil || b.Time.Before(upper.Time)):
			upper = b
		case b.Side == inventory.Lower && (lower == nil || b.Time.After(lower.Time)):
			lower = b
		}
	}
	return upper, lower
}

// rank orders verdicts by how much they let one believe.
func rank(v Verdict) int {
	return slices.Index([]Verdict{Unverifiable, Inside, Unproven, ProvenAfter, ProvenBefore, Unaffected}, v)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func describe(a inventory.Authority) string {
	id := a.ID
	if len(id) > 12 {
		id = id[:12]
	}
	return string(a.Role) + " " + id
}
