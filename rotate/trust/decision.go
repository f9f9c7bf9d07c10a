package trust

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// Decision is what is done with one statement.
type Decision string

// The decisions, from the least trusting to the most.
const (
	Deny   Decision = "deny"   // known bad: refused wherever a verifier can
	Hold   Decision = "hold"   // nothing proves it good: not re-signed, a person must look
	Resign Decision = "resign" // proven good: signed again by the new signer
	None   Decision = "none"   // covered by the new signer already
)

// Decisions lists every decision in trust order.
func Decisions() []Decision { return []Decision{Deny, Hold, Resign, None} }

// Compare orders decisions by trust: deny < hold < resign < none.
func Compare(a, b Decision) int {
	return cmp.Compare(slices.Index(Decisions(), a), slices.Index(Decisions(), b))
}

// Voucher is a policy that lets one signer's claim prove an artifact good. It
// counts only when a quorum approved the plan that lists it.
type Voucher struct {
	Signer        signer.Identity   `json:"signer"`
	PredicateType string            `json:"predicate_type"`
	Repositories  []string          `json:"repositories,omitempty"` // empty: any
	Content       map[string]string `json:"content,omitempty"`      // dotted path in the predicate → required value
}

// Check refuses a voucher that would vouch for anything.
func (v Voucher) Check() error {
	switch {
	case v.Signer.Kind != signer.Key && v.Signer.Kind != signer.Keyless:
		return fmt.Errorf("voucher: no signer is named")
	case v.PredicateType == "":
		return fmt.Errorf("voucher %s: no predicate type is named", v.Signer.ID())
	case v.PredicateType == inventory.SignPredicate:
		return fmt.Errorf("voucher %s: an image signature says nothing about how the image was made; name an attestation's predicate type", v.Signer.ID())
	}
	return nil
}

// Policy is what Decide goes by, all of it part of the approved plan or of the
// inventory the plan was made from.
type Policy struct {
	Incidents   []Incident
	Skew        time.Duration
	Replaced    []signer.Identity // whose signatures are to be replaced: only their own proven ones count
	Successor   signer.Identity   // the new signer: only its signatures cover, because anchors will name it alone
	Vouchers    []Voucher         // see Voucher
	Rogue       map[string]string // digest → why it is known to be bad
	Homes       []string          // repositories that the plan itself names as the organisation's own
	Unexplained map[string]bool   // signature IDs that a complete source does not explain; absent: unknown
	// Payload returns the signed payload of a signature, for a voucher's
	// content rule.
	Payload func(inventory.Signature) ([]byte, error)
}

// Judged is a signature with its judgement.
type Judged struct {
	inventory.Signature
	Judgement
}

// Outcome is a decision, the reason, and what follows from it.
type Outcome struct {
	Decision   Decision
	Reason     string
	Formats    []inventory.Format // what to re-sign in, for Resign
	Signatures []Judged
}

// Decide says what is done with one statement, the first rule that matches:
// marked rogue, still covered, proven or vouched, wholly unexplained, held.
// beside is every statement about the same artifact at the same place; claims
// in it may vouch for the artifact, never for one another.
//
// A statement that none of the replaced signers verifiably made is no concern of
// a plan: ok is false.
func Decide(st inventory.Statement, beside []inventory.Statement, p Policy) (out Outcome, ok bool) {
	touched := false
	for _, s := range st.Signatures {
		j := Judge(s, p.Incidents, p.Skew)
		out.Signatures = append(out.Signatures, Judged{s, j})
		touched = touched || s.Verified && slices.Contains(p.Replaced, s.Signer) && Touched(s, p.Incidents)
	}
	rogue, isRogue := p.Rogue[st.Artifact.Digest]
	if !isRogue && !touched {
		return out, false
	}
	out.Decision, out.Reason, out.Formats = p.decide(st, beside, out.Signatures, rogue, isRogue)
	return out, true
}

func (p Policy) decide(st inventory.Statement, beside []inventory.Statement, sigs []Judged, rogue string, isRogue bool) (Decision, string, []inventory.Format) {
	if isRogue {
		return Deny, "marked rogue: " + rogue, nil
	}
	missing, elsewhere := p.uncovered(sigs)
	if len(missing) == 0 && elsewhere == "" {
		return None, "covered by the new signer in every format it was consumed in", nil
	}
	for _, s := range sigs {
		if s.Contradiction {
			return Hold, s.Reason, nil
		}
	}
	if reason, good := p.good(st, beside, sigs); good {
		if elsewhere != "" {
			return Hold, fmt.Sprintf("%s; but it is kept as %s only, where no new signature can be put yet: sign it by hand", reason, elsewhere), nil
		}
		if inventory.IsProvenance(st.PredicateType()) {
			return Hold, "provenance is its builder's word and is never re-asserted by another signer: keep the old attestation, " + reason, nil
		}
		return Resign, reason, missing
	} else if reason != "" {
		return Hold, reason, nil
	}
	if p.allUnexplained(beside) {
		return Deny, "every signature on the artifact is unexplained: no record of ours accounts for any", nil
	}
	return Hold, worstReason(sigs), nil
}

// writable reports whether a signature like this one can be put beside it by
// the new signer.
func writable(s inventory.Signature) bool {
	return s.Location == "" && slices.Contains([]inventory.Format{inventory.Legacy, inventory.LegacyAtt, inventory.Bundle}, s.Format)
}

// keptAs says where a signature is kept.
func keptAs(s inventory.Signature) string {
	if s.Location == "" {
		return string(s.Format)
	}
	return string(s.Format) + " in " + s.Location
}

// uncovered returns the formats in which the statement was consumed and would
// not be accepted once everything in an incident is removed. elsewhere says
// where it is kept when no new signature can be put in any such place. A place
// of that kind beside others does not count: an attacker who adds one to a good
// statement must not keep it from being re-signed.
func (p Policy) uncovered(sigs []Judged) (missing []inventory.Format, elsewhere string) {
	consumed := false
	for _, s := range sigs {
		if !s.Verified || !slices.Contains(p.Replaced, s.Signer) {
			continue
		}
		if !writable(s.Signature) {
			elsewhere = keptAs(s.Signature)
			continue
		}
		consumed = true
		if !slices.Contains(missing, s.Format) && !p.covers(sigs, s.Format) {
			missing = append(missing, s.Format)
		}
	}
	if consumed || p.covers(sigs, inventory.Legacy, inventory.LegacyAtt, inventory.Bundle) {
		elsewhere = ""
	}
	slices.Sort(missing)
	return missing, elsewhere
}

// Elsewhere returns where proven image signatures of the replaced signers are
// kept besides, in places no new signature is put by re-signing, and the new
// signer has none. What is not proven does not count: a thief could put it
// anywhere.
func Elsewhere(sigs []inventory.Signature, p Policy) (places []string) {
	for _, s := range sigs {
		if s.Gone || s.PredicateType != inventory.SignPredicate || writable(s) || slices.Contains(places, keptAs(s)) ||
			!slices.Contains(p.Replaced, s.Signer) || !Judge(s, p.Incidents, p.Skew).Verdict.Proven() {
			continue
		}
		if !slices.ContainsFunc(sigs, func(o inventory.Signature) bool {
			return !o.Gone && keptAs(o) == keptAs(s) && o.Signer == p.Successor && Judge(o, p.Incidents, p.Skew).Verdict == Unaffected
		}) {
			places = append(places, keptAs(s))
		}
	}
	return places
}

// covers reports whether the new signer's signature, outside every incident, is
// there in one of the formats.
func (p Policy) covers(sigs []Judged, formats ...inventory.Format) bool {
	return slices.ContainsFunc(sigs, func(o Judged) bool {
		return o.Verdict == Unaffected && o.Signer == p.Successor && o.Location == "" && slices.Contains(formats, o.Format)
	})
}

// good reports whether something the incidents do not touch proves the
// statement good where it is. A reason without good says why what would
// otherwise prove it is not enough.
func (p Policy) good(st inventory.Statement, beside []inventory.Statement, sigs []Judged) (reason string, good bool) {
	proof := ""
	for _, s := range sigs {
		// What another signer said, however well proven, was never the word of
		// the one that is replaced.
		if slices.Contains(p.Replaced, s.Signer) && s.Verdict.Proven() {
			proof = s.Reason
			if s.Names == st.Artifact.Repository {
				return proof, true
			}
		}
	}
	if proof == "" && st.PredicateType() == inventory.SignPredicate {
		proof = p.vouched(st.Artifact, beside)
	}
	if proof == "" {
		return "", false
	}
	if slices.Contains(p.Homes, st.Artifact.Repository) || p.heldBefore(sigs) {
		return proof, true
	}
	return fmt.Sprintf("%s; but nothing shows that it belongs in %s: no proven payload names that repository, no scan from before the incident saw it there, and the plan does not name the repository as a home",
		proof, st.Artifact.Repository), false
}

// heldBefore reports whether our own inventory saw a signature of the statement
// here before every incident about any of its signers began.
func (p Policy) heldBefore(sigs []Judged) bool {
	for _, i := range p.Incidents {
		if !slices.ContainsFunc(sigs, func(s Judged) bool { return i.touches(s.Signature) }) {
			continue
		}
		if i.From == nil || !slices.ContainsFunc(sigs, func(s Judged) bool {
			return s.Verified && !s.FirstSeen.IsZero() && s.FirstSeen.Before(i.From.Add(-p.Skew))
		}) {
			return false
		}
	}
	return true
}

// vouched returns why an approved voucher proves the artifact good, or "".
func (p Policy) vouched(a inventory.Artifact, beside []inventory.Statement) string {
	for _, v := range p.Vouchers {
		if len(v.Repositories) > 0 && !slices.Contains(v.Repositories, a.Repository) {
			continue
		}
		for _, st := range beside {
			if st.PredicateType() != v.PredicateType {
				continue
			}
			for _, s := range st.Signatures {
				if s.Signer == v.Signer && Judge(s, p.Incidents, p.Skew).Verdict == Unaffected && p.contentHolds(v, s) {
					return fmt.Sprintf("vouched for by %s, outside every incident (%s)", v.Signer.ID(), v.PredicateType)
				}
			}
		}
	}
	return ""
}

func (p Policy) contentHolds(v Voucher, s inventory.Signature) bool {
	if len(v.Content) == 0 {
		return true
	}
	if p.Payload == nil {
		return false
	}
	payload, err := p.Payload(s)
	if err != nil {
		return false
	}
	var statement struct {
		Predicate any `json:"predicate"`
	}
	if json.Unmarshal(payload, &statement) != nil {
		return false
	}
	for path, want := range v.Content {
		at := statement.Predicate
		for _, key := range strings.Split(path, ".") {
			m, _ := at.(map[string]any)
			at = m[key]
		}
		if got, isString := at.(string); !isString || got != want {
			return false
		}
	}
	return true
}

func (p Policy) allUnexplained(beside []inventory.Statement) bool {
	n := 0
	for _, st := range beside {
		for _, s := range st.Signatures {
			if !p.Unexplained[s.ID] {
				return false
			}
			n++
		}
	}
	return n > 0
}

// WithClaims lowers the decisions about the claims on one artifact to what the
// decision about the artifact itself allows: cosign takes a bundle of any
// predicate by a trusted signer for a signature of the image, so none goes onto
// an artifact that is not itself covered or proven good.
func WithClaims(image *Outcome, claim Outcome) Outcome {
	if claim.Decision != Resign || !slices.Contains(claim.Formats, inventory.Bundle) {
		return claim
	}
	if image != nil && (image.Decision == Resign || image.Decision == None) {
		return claim
	}
	claim.Decision, claim.Formats = Hold, nil
	claim.Reason += "; but the image itself is not proven good, and a bundle with any claim about it would make verifiers accept the image"
	return claim
}

// worstReason returns the reason of the touched signature a reader should see
// first.
func worstReason(sigs []Judged) string {
	reason, at := "nothing proves it good", -1
	for _, s := range sigs {
		if s.Verdict == Unaffected || s.Verdict == Unverifiable {
			continue
		}
		if r := rank(s.Verdict); at < 0 || r > at {
			reason, at = s.Reason, r
		}
	}
	return reason
}
