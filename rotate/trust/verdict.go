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
	Verdict       Verdict `json:"verdict"`
	Reason        string  `json:"reason"`
	Contradiction bool    `json:"contradiction,omitempty"` // its bounds contradict each other: held, whatever else holds
	// Rests: its key is in no incident, but every log entry and timestamp that
	// proves its time rests on an authority in one. It is proof that the key
	// signed; consumers that demand a log entry or timestamp refuse it.
	Rests bool `json:"rests,omitempty"`
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
	bare := stripped(&s, incidents)
	if !touched(&s, incidents, bare) {
		if bare {
			return Judgement{Verdict: Unaffected, Rests: true, Reason: "no open incident is about " + s.Signer.ID() +
				", but every log entry and timestamp of the signature rests on an authority in one: verifiers that demand one refuse it"}
		}
		return Judgement{Verdict: Unaffected, Reason: "no open incident is about " + s.Signer.ID()}
	}
	// Proofs that contradict each other stay suspicious even when one of them
	// comes from an authority of an incident: else declaring one more incident
	// could make a decision more trusting.
	if upper, lower, contradict := contradiction(&s, skew); contradict {
		return Judgement{Verdict: Unproven, Contradiction: true, Reason: contradictory(upper, lower)}
	}
	upper, lower := bounds(&s, incidents)
	var worst Judgement
	for n := range incidents {
		i := &incidents[n]
		if !i.judges(&s, bare) {
			continue
		}
		if j := judgeOne(i, i.witness(&s, incidents, upper), upper, lower, skew); worst.Verdict == "" || rank(j.Verdict) < rank(worst.Verdict) {
			worst = j
		}
	}
	return worst
}

// judgeOne judges by one incident. witness is the earliest upper bound that may
// prove "before", upper the earliest of all: that one may still place a signature
// inside.
func judgeOne(i *Incident, witness, upper, lower *inventory.Bound, skew time.Duration) Judgement {
	switch {
	case i.From != nil && witness != nil && witness.Time.Before(i.From.Add(-skew)):
		return Judgement{Verdict: ProvenBefore, Reason: fmt.Sprintf("existed by %s (%s), before %s starts at %s",
			stamp(witness.Time), describe(witness.Authority), i.ID, stamp(*i.From))}
	case i.Until != nil && lower != nil && !lower.Time.Before(i.Until.Add(skew)):
		return Judgement{Verdict: ProvenAfter, Reason: fmt.Sprintf("made after %s (%s), when %s had ended at %s",
			stamp(lower.Time), describe(lower.Authority), i.ID, stamp(*i.Until))}
	case lower != nil && (i.From == nil || !lower.Time.Before(*i.From)) &&
		(i.Until == nil || upper != nil && upper.Time.Before(*i.Until)):
		return Judgement{Verdict: Inside, Reason: fmt.Sprintf("made after %s (%s), within %s",
			stamp(lower.Time), describe(lower.Authority), i.ID)}
	case i.From == nil:
		return Judgement{Verdict: Unproven, Reason: "the start of " + i.ID + " is unknown, so nothing can be proven older"}
	case upper != nil && upper.Time.Before(i.From.Add(-skew)):
		return Judgement{Verdict: Unproven, Reason: fmt.Sprintf("existed by %s (%s), which is none of those whose times prove that something is older than %s",
			stamp(upper.Time), describe(upper.Authority), i.ID)}
	case upper != nil:
		return Judgement{Verdict: Unproven, Reason: fmt.Sprintf("the earliest proof of its time is %s (%s), not before %s starts at %s",
			stamp(upper.Time), describe(upper.Authority), i.ID, stamp(*i.From))}
	default:
		return Judgement{Verdict: Unproven, Reason: "no authority outside every incident proves when it was made"}
	}
}

// bounds returns the earliest upper and the latest lower bound that verified
// and that no incident takes away.
func bounds(s *inventory.Signature, incidents []Incident) (upper, lower *inventory.Bound) {
	for n := range s.Bounds {
		b := &s.Bounds[n]
		if !b.Verified {
			continue
		}
		if _, _, lost := lostTo(b, s, incidents); lost {
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

// contradiction reports whether a signature is proven to be younger than it is
// proven to be old.
func contradiction(s *inventory.Signature, skew time.Duration) (upper, lower *inventory.Bound, contradict bool) {
	upper, lower = bounds(s, nil)
	return upper, lower, upper != nil && lower != nil && lower.Time.After(upper.Time.Add(skew))
}

func contradictory(upper, lower *inventory.Bound) string {
	return fmt.Sprintf("its proofs contradict each other: made after %s (%s) and before %s (%s)",
		stamp(lower.Time), describe(lower.Authority), stamp(upper.Time), describe(upper.Authority))
}

// lostTo returns the incident that takes away a bound of a signature, and the
// authority it does so by: the one that the bound rests on or, for a lower
// bound, one without which the signature does not verify at all. Whoever holds
// the key of a CA or CT log issues certificates of any date.
func lostTo(b *inventory.Bound, s *inventory.Signature, incidents []Incident) (i *Incident, by inventory.Authority, lost bool) {
	for n := range incidents {
		i = &incidents[n]
		if i.namesAuthority(b.Authority) {
			return i, b.Authority, true
		}
		if b.Side != inventory.Lower {
			continue
		}
		for _, by := range s.Requires {
			if i.namesAuthority(by) {
				return i, by, true
			}
		}
	}
	return nil, inventory.Authority{}, false
}

// settled is how long after we first saw a signature a proof may still be one of
// its own: clocks differ, and logs take their time.
const settled = time.Hour

// shown reports whether a bound is evidence that consumers themselves look at:
// a log entry or a timestamp of the time of signing. The journal is ours alone.
// What came later is a counter-stamp, which anybody can add: of a keyless
// signature when its certificate was no longer valid, of one by a key when we
// had seen it already.
func shown(s *inventory.Signature, b *inventory.Bound) bool {
	if !b.Verified || b.Side != inventory.Upper || b.Authority.Role != inventory.RoleLog && b.Authority.Role != inventory.RoleTSA {
		return false
	}
	if s.Signer.Kind == signer.Keyless {
		return s.Certificate == nil || !b.Time.Before(s.Certificate.NotBefore) && !b.Time.After(s.Certificate.NotAfter)
	}
	return s.FirstSeen.IsZero() || !b.Time.After(s.FirstSeen.Add(settled))
}

// stripped reports whether a signature had verified log entries or timestamps
// and every one of them rests on an authority in an incident. One that never had
// any has nothing to lose.
func stripped(s *inventory.Signature, incidents []Incident) bool {
	had := false
	for n := range s.Bounds {
		b := &s.Bounds[n]
		if !shown(s, b) {
			continue
		}
		had = true
		if !slices.ContainsFunc(incidents, func(i Incident) bool { return i.namesAuthority(b.Authority) }) {
			return false
		}
	}
	return had
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
