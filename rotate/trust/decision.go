package trust

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
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

// Policy is what Decide goes by, all of it part of the approved plan or of the
// inventory the plan was made from.
type Policy struct {
	Incidents []Incident // see Compiled
	Skew      time.Duration
	Primary   string            // ID of the incident whose signatures are to be replaced: only their own proven ones count
	Successor signer.Identity   // the new signer: only its signatures cover, because anchors will name it alone
	Keep      bool              // there is no successor: the signer stays trusted, and only its window is denied
	Rotates   []signer.Identity // no incident asks for the plan, and Primary is empty: see rotation.go
	// Formats are those to sign in, Legacy for ".sig" and ".att", Bundle for both
	// as bundles; nil: those in which each statement is consumed.
	Formats  []inventory.Format
	Vouchers []Voucher         // see Voucher
	Rogue    map[string]string // digest → why it is known to be bad
	Homes    []string          // repositories that the plan itself names as the organisation's own
	// Trusted reports whether the successor may take over what a signer said:
	// verifiers are or were meant to accept that one, where they will accept the
	// successor. An incident about an issuer or an authority is about everybody's
	// signatures; those of others concern no plan. What a signer made that the
	// primary incident names concerns the plan in any case, and proves nothing
	// unless it is one of those. nil: nobody knows, so that everybody's concern the
	// plan and only those of signers that the primary incident names prove anything.
	Trusted func(signer.Identity) bool
	// Unexplained reports whether a declared complete source covers a signature
	// and does not explain it. nil: unknown of all.
	Unexplained func(inventory.Signature) bool
	// Payload returns the signed payload of a signature: for a voucher's content
	// rule, and for what a claim is about besides. nil: none can be read.
	Payload func(inventory.Signature) ([]byte, error)
	// Unfit says, by a policy, why the new signer must not speak for a digest that a
	// claim is about besides its own artifact, or "". nil: it must for none.
	Unfit func(p Policy, digest string) string
	// Listed reports whether the list of a voucher holds a digest.
	Listed func(v Voucher, digest string) bool
	// Runs returns the authenticated records of completed CI runs that made a
	// digest.
	Runs func(digest string) []inventory.Record
	// Void says why a voucher does not count although it is approved, or "":
	// its signer vouched for what is known to be rogue.
	Void func(v Voucher) string
}

// primary returns the incident whose signatures are to be replaced.
func (p *Policy) primary() *Incident {
	for n := range p.Incidents {
		if p.Incidents[n].ID == p.Primary {
			return &p.Incidents[n]
		}
	}
	return nil
}

// Replaces reports whether a signature is of those that a plan replaces: the
// primary incident is about its signer, or takes from it what consumers demand.
func (p Policy) Replaces(s inventory.Signature) bool { return p.examine(s).Replaced }

// Judged is a signature with its judgement.
type Judged struct {
	inventory.Signature
	Judgement
	Replaced bool // the plan replaces it

	bare    bool // all its log entries and timestamps are lost to incidents
	linked  bool // it is of those that the plan could replace, whatever other incidents there are
	trusted bool // the successor may take over what its signer said
}

// examine judges a signature and says what the plan has to do with it.
func (p *Policy) examine(s inventory.Signature) Judged {
	j := Judged{Signature: s, Judgement: Judge(s, p.Incidents, p.Skew), bare: stripped(&s, p.Incidents)}
	if p.rotation() {
		p.rotates(&j)
		return j
	}
	primary := p.primary()
	if !s.Verified || primary == nil {
		return j
	}
	how := primary.linked(&s)
	if how == unlinked {
		return j
	}
	// An identity can be named that no verifier ever accepted: the thief's own.
	if p.Trusted == nil {
		j.trusted, j.linked = how == bySigner, true
	} else {
		j.trusted = p.Trusted(s.Signer)
		j.linked = how == bySigner || j.trusted
	}
	j.Replaced = j.linked && primary.concerns(&s, j.bare)
	return j
}

// Proves reports whether the signature proves its statement good: it was made
// outside every window, or nothing of it but the witnesses of its time is lost.
// What another signer said, however well proven, was never the word of those
// that are replaced. In a rotation see leaves.
//
// What it asks of the plan must not depend on incidents other than the primary:
// else declaring one more could make a decision more trusting.
func (p *Policy) Proves(j *Judged) bool {
	if p.rotation() {
		return j.linked && p.leaves(j) == ""
	}
	if !j.linked || !j.trusted {
		return false
	}
	if j.Verdict == Unaffected {
		_, _, contradict := contradiction(&j.Signature, p.Skew)
		return !contradict
	}
	return j.Verdict.Proven()
}

// Outcome is a decision, the reason, and what follows from it.
type Outcome struct {
	Decision   Decision
	Reason     string
	Formats    []inventory.Format // what to re-sign in, for Resign
	Vouched    []int              // where no signature proves it good: every one of Policy.Vouchers that does
	Summary    bool               // for Resign: what is signed is a summary of it, see summary.go
	Also       []string           // for Resign of a claim: digests that it is about besides, each itself decided good
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
	q := p.ask(st, beside)
	if !q.isRogue && !q.touched {
		return Outcome{Signatures: q.sigs}, false
	}
	return q.decide(nil), true
}

// question is one statement under a policy.
type question struct {
	*Policy
	st      inventory.Statement
	beside  []inventory.Statement
	sigs    []Judged
	touched bool // the plan replaces a signature of it
	rogue   string
	isRogue bool

	missing   []inventory.Format // see uncovered
	elsewhere string
}

func (p *Policy) ask(st inventory.Statement, beside []inventory.Statement) *question {
	q := &question{Policy: p, st: st, beside: beside, sigs: make([]Judged, 0, len(st.Signatures))}
	for _, s := range st.Signatures {
		j := p.examine(s)
		q.touched = q.touched || j.Replaced
		q.sigs = append(q.sigs, j)
	}
	q.rogue, q.isRogue = p.Rogue[st.Artifact.Digest]
	q.isRogue = q.isRogue && (q.touched || !p.rotation()) // an incident's plan denies it, whoever signed it
	q.missing, q.elsewhere = q.uncovered()
	return q
}

// rule is one step of a decision. try returns what it decides, if it matches;
// miss says why it does not.
type rule struct {
	name string
	try  func(*question) (Outcome, bool)
	miss func(*question) string
}

// rules are tried in this order. What none of them decides is held.
var rules = []rule{
	{"marked rogue", (*question).denied, func(*question) string { return "no incident marks the digest rogue" }},
	{"covered", (*question).covered, (*question).whyUncovered},
	{"proven or vouched", (*question).proven, (*question).whyUnproven},
	{"unexplained", (*question).unexplained, (*question).whyNotUnexplained},
}

// decide walks the rules, and takes down what each found if trace is not nil.
func (q *question) decide(trace *[]RuleTrace) Outcome {
	note := func(name string, matched bool, why string) {
		*trace = append(*trace, RuleTrace{Rule: name, Matched: matched, Why: why})
	}
	for n := range rules {
		r := &rules[n]
		out, matched := r.try(q)
		if trace != nil {
			why := out.Reason
			if !matched {
				why = r.miss(q)
			}
			note(r.name, matched, why)
		}
		if matched {
			out.Signatures = q.sigs
			return out
		}
	}
	out := Outcome{Decision: Hold, Reason: q.whyHeld(), Signatures: q.sigs}
	if trace != nil {
		note("held", true, out.Reason)
	}
	return out
}

func (q *question) denied() (Outcome, bool) {
	if !q.isRogue {
		return Outcome{}, false
	}
	if q.rotation() {
		return Outcome{Decision: Hold, Reason: "marked rogue: " + q.rogue + "; a rotation denies nothing: the incident's plan does"}, true
	}
	return Outcome{Decision: Deny, Reason: "marked rogue: " + q.rogue}, true
}

func (q *question) covered() (Outcome, bool) {
	if q.Keep || len(q.missing) > 0 || q.elsewhere != "" {
		return Outcome{}, false
	}
	reason := "covered by the new signer in every format it was consumed in"
	if len(q.Formats) > 0 {
		reason = fmt.Sprintf("covered by the new signer as %v, which the plan wants", q.wanted())
	}
	if !q.covers(anywhere...) {
		reason = "still covered by a signature of a trusted signer that stands outside every incident"
	}
	return Outcome{Decision: None, Reason: reason}, true
}

func (q *question) whyUncovered() string {
	switch {
	case q.Keep:
		return "there is no new signer that could cover it"
	case len(q.missing) > 0:
		return fmt.Sprintf("the new signer has no signature outside every incident as %v", q.missing)
	default:
		return "the new signer has none, and it is kept as " + q.elsewhere
	}
}

// proven is about what something outside every incident proves good.
func (q *question) proven() (Outcome, bool) {
	if q.contradiction() != "" {
		return Outcome{}, false
	}
	proof, atHome := q.proof()
	var vouched []int
	if proof == "" {
		if proof, vouched = q.vouched(); proof == "" {
			return Outcome{}, false
		}
	}
	hold := func(reason string) (Outcome, bool) { return Outcome{Decision: Hold, Reason: reason}, true }
	switch {
	case !atHome && !q.belongs() && q.rotation():
		return hold(fmt.Sprintf("%s; but it names another repository than %s, and the plan does not name this one as a home: as it is, who looks at the name refuses it here", proof, q.st.Artifact.Repository))
	case !atHome && !q.belongs():
		return hold(fmt.Sprintf("%s; but nothing shows that it belongs in %s: no proven payload names that repository, no scan from before the incident saw it there, and the plan does not name the repository as a home",
			proof, q.st.Artifact.Repository))
	case q.Keep && len(vouched) > 0:
		return Outcome{Decision: None, Vouched: vouched, Reason: proof + "; its signer stays trusted, so nobody else signs it: verifiers that deny the window refuse it until that signer signs it again"}, true
	case q.Keep:
		return Outcome{Decision: None, Reason: proof + "; its signer stays trusted, so there is nothing to sign again"}, true
	case q.elsewhere != "":
		return hold(fmt.Sprintf("%s; but it is kept as %s only, where no new signature can be put yet: sign it by hand", proof, q.elsewhere))
	case q.another():
		return Outcome{Decision: Resign, Reason: proof + "; it is its builder's word, which nobody else gives: a summary says that it was verified", Formats: q.missing, Summary: true}, true
	}
	also, why := q.also()
	if why != "" {
		return hold(proof + "; but " + why)
	}
	return Outcome{Decision: Resign, Reason: proof, Formats: q.missing, Vouched: vouched, Also: also}, true
}

// also returns the digests that a claim is about besides its own artifact, or says
// why the new signer must not speak for one of them. A claim is signed again byte
// for byte, and whoever can write to a registry puts it, as a bundle, on whatever
// it names: cosign then takes it for that one's signature. The payload of an image
// signature is made anew, of its image alone.
func (q *question) also() (digests []string, why string) {
	if q.st.PredicateType() == inventory.SignPredicate {
		return nil, ""
	}
	subjects, err := q.subjects()
	if err != nil {
		return nil, fmt.Sprintf("nobody can tell what else it is about (%s), and the new signer would speak for all of that", err)
	}
	for _, digest := range subjects {
		if digest == q.st.Artifact.Digest {
			continue
		}
		if why, rogue := q.Rogue[digest]; rogue {
			return nil, fmt.Sprintf("it is also about %s, which is marked rogue: %s", digest, why)
		}
		why := "nothing is known of that"
		if q.Unfit != nil {
			why = q.Unfit(*q.Policy, digest)
		}
		if why != "" {
			return nil, fmt.Sprintf("it is also about %s, for which the new signer would speak by it: %s", digest, why)
		}
		digests = append(digests, digest)
	}
	return digests, ""
}

// subjects returns what the statement names, by the first of its signatures that
// can be read: they have one payload.
func (q *question) subjects() (out []string, err error) {
	err = errors.New("its payload cannot be read")
	for n := range q.sigs {
		if !q.sigs[n].Verified || q.Payload == nil {
			continue
		}
		var payload []byte
		if payload, err = q.Payload(q.sigs[n].Signature); err == nil {
			return inventory.Subjects(payload)
		}
	}
	return nil, err
}

// proof returns what a signature proves the statement good by, and whether a
// payload that is so proven names the repository.
func (q *question) proof() (reason string, atHome bool) {
	for n := range q.sigs {
		s := &q.sigs[n]
		if !q.Proves(s) {
			continue
		}
		// Who reads what names no repository accepts it wherever it is.
		if s.Names == q.st.Artifact.Repository || q.rotation() && s.Names == "" {
			return s.proofReason(), true
		}
		if reason == "" {
			reason = s.proofReason()
		}
	}
	return reason, false
}

func (j *Judged) proofReason() string {
	if j.Verdict != Unaffected {
		return j.Reason
	}
	return "still verifies as a signature by " + j.Signer.ID() + " without anything that is in an incident"
}

// belongs reports whether something else than a proven payload shows that the
// statement belongs where it is.
func (q *question) belongs() bool {
	return slices.Contains(q.Homes, q.st.Artifact.Repository) || !q.rotation() && q.heldBefore()
}

func (q *question) whyUnproven() string {
	if why := q.contradiction(); why != "" {
		return why
	}
	if q.rotation() {
		return q.whyLeft()
	}
	why := "no signature of those that the plan replaces is proven to be made outside every incident"
	for n := range q.sigs {
		if s := &q.sigs[n]; s.linked && !s.trusted && (s.Verdict == Unaffected || s.Verdict.Proven()) {
			why = s.Signer.ID() + " is not known to be trusted by anybody, so what it signed proves nothing"
		}
	}
	if q.st.PredicateType() != inventory.SignPredicate {
		return why + "; vouchers are about images, never about claims"
	}
	if len(q.Vouchers) == 0 {
		return why + "; the plan has no voucher"
	}
	for n := range q.Vouchers {
		v := &q.Vouchers[n]
		why += "; the voucher " + v.ID() + " does not vouch for it: " + q.doubt(v)
	}
	return why
}

func (q *question) unexplained() (Outcome, bool) {
	if q.explained() != "" {
		return Outcome{}, false
	}
	return Outcome{Decision: Deny, Reason: "every signature on the artifact is unexplained: no record of ours accounts for any"}, true
}

// explained says why not every signature on the artifact is unexplained, or "".
func (q *question) explained() string {
	if q.rotation() {
		return "a rotation denies nothing"
	}
	if q.Unexplained == nil {
		return "no declared complete source covers its signer and time"
	}
	n := 0
	for _, st := range q.beside {
		for _, s := range st.Signatures {
			if !q.Unexplained(s) {
				return "not every signature on the artifact is covered by a complete source that has no record of it"
			}
			n++
		}
	}
	if n == 0 {
		return "it carries no signature"
	}
	return ""
}

func (q *question) whyNotUnexplained() string { return q.explained() }

// whyHeld returns the reason of the touched signature a reader should see
// first.
func (q *question) whyHeld() string {
	if why := q.contradiction(); why != "" {
		return why
	}
	if q.rotation() {
		return q.whyLeft()
	}
	reason, at := "nothing proves it good", -1
	for n := range q.sigs {
		s := &q.sigs[n]
		if s.linked && !s.trusted {
			return s.Signer.ID() + " is not known to be trusted by anybody: enrol it if verifiers accepted it"
		}
		if s.Verdict == Unaffected || s.Verdict == Unverifiable {
			continue
		}
		if r := rank(s.Verdict); at < 0 || r > at {
			reason, at = s.Reason, r
		}
	}
	return reason
}

func (q *question) contradiction() string {
	for n := range q.sigs {
		if q.sigs[n].Contradiction {
			return q.sigs[n].Reason
		}
		if q.rotation() && q.sigs[n].linked { // no incident is about it, so that it is judged by no window
			if upper, lower, contradict := contradiction(&q.sigs[n].Signature, q.Skew); contradict {
				return contradictory(upper, lower)
			}
		}
	}
	return ""
}

// writable reports whether a signature like this one can be put beside it by
// the new signer. A claim about a file is written as a bundle only.
func writable(s inventory.Signature) bool {
	switch s.Format {
	case inventory.Legacy, inventory.LegacyAtt, inventory.Bundle:
		return s.Location == "" && s.Repository != inventory.Files
	case inventory.Detached:
		return s.Repository == inventory.Files
	case inventory.Blob:
		return s.Repository == inventory.Files && s.PredicateType == inventory.SignPredicate
	}
	return false
}

// anywhere are the formats that new signatures are written in.
var anywhere = []inventory.Format{inventory.Legacy, inventory.LegacyAtt, inventory.Bundle, inventory.Detached, inventory.Blob}

// keptAs says where a signature is kept.
func keptAs(s inventory.Signature) string {
	if s.Location == "" {
		return string(s.Format)
	}
	return string(s.Format) + " in " + s.Location
}

// wanted returns the formats that the plan wants the statement in.
func (q *question) wanted() (out []inventory.Format) {
	for _, f := range q.Formats {
		claim := q.st.PredicateType() != inventory.SignPredicate
		switch {
		case q.st.Artifact.Repository == inventory.Files && f == inventory.Legacy && !claim:
			f = inventory.Blob
		case q.st.Artifact.Repository == inventory.Files:
			f = inventory.Detached
		case f == inventory.Legacy && claim:
			f = inventory.LegacyAtt
		}
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

// uncovered returns the formats in which the statement was consumed, or in which
// the plan wants it, and would not be accepted once everything in an incident is
// removed. elsewhere says where it is kept when no new signature can be put in
// any such place. A place of that kind beside others does not count: an attacker
// who adds one to a good statement must not keep it from being re-signed. What the
// plan does not replace covers its format only if it stands: another incident may
// be about it.
func (q *question) uncovered() (missing []inventory.Format, elsewhere string) {
	consumed := false
	for n := range q.sigs {
		s := &q.sigs[n]
		switch {
		case !s.linked:
		case !writable(s.Signature):
			if at := keptAs(s.Signature); elsewhere == "" || at < elsewhere {
				elsewhere = at
			}
		default:
			consumed = true
			formats := []inventory.Format{s.Format}
			if len(q.Formats) > 0 {
				formats = q.wanted()
			}
			for _, f := range formats {
				if (s.Replaced || !s.trusted || !s.stands()) && !slices.Contains(missing, f) && !q.covers(f) {
					missing = append(missing, f)
				}
			}
		}
	}
	if consumed || q.covers(anywhere...) {
		elsewhere = ""
	}
	slices.Sort(missing)
	return missing, elsewhere
}

// covers reports whether the new signer's signature, outside every incident, is
// there in one of the formats.
func (q *question) covers(formats ...inventory.Format) bool {
	for n := range q.sigs {
		if o := &q.sigs[n]; o.Signer == q.Successor && o.stands() && o.Location == "" && slices.Contains(formats, o.Format) {
			return true
		}
	}
	return q.summarised(formats...)
}

// stands reports whether consumers still accept the signature with everything
// in an incident removed.
func (j *Judged) stands() bool { return j.Verdict == Unaffected && !j.Rests && !j.Gone }

// heldBefore reports whether our own inventory saw a signature of the replaced
// signers here before every incident about any signature of the statement
// began. That the artifact was here proves nothing: anybody may have put it
// there unsigned.
func (q *question) heldBefore() bool {
	for n := range q.Incidents {
		i := &q.Incidents[n]
		if !slices.ContainsFunc(q.sigs, func(s Judged) bool { return i.concerns(&s.Signature, s.bare) }) {
			continue
		}
		if i.From == nil || !slices.ContainsFunc(q.sigs, func(s Judged) bool {
			return s.linked && s.trusted && !s.FirstSeen.IsZero() && s.FirstSeen.Before(i.From.Add(-q.Skew))
		}) {
			return false
		}
	}
	return true
}

// Hidden reports whether cosign looks past the ".sig" of an artifact for the sake
// of bundles that a thief may have put there. A bundle excuses that when it is by
// the new signer, proven good, or of a trusted signer of no concern, and any when
// it was seen before every incident began: consumers that look past a ".sig" did so
// then.
func Hidden(sigs []inventory.Signature, p Policy) bool {
	bundles := SeesBundles.Seen(sigs)
	return len(bundles) > 0 && !slices.ContainsFunc(bundles, func(s inventory.Signature) bool {
		if p.seenBefore(s) {
			return true
		}
		j := p.examine(s)
		trusted := s.Signer == p.Successor || p.Trusted == nil || p.Trusted(s.Signer)
		return trusted && !j.Replaced && (j.Verdict == Unaffected || j.Verdict.Proven()) || p.Proves(&j)
	})
}

// seenBefore reports whether our own inventory saw a signature before every
// incident began.
func (p *Policy) seenBefore(s inventory.Signature) bool {
	return !s.FirstSeen.IsZero() && !slices.ContainsFunc(p.Incidents, func(i Incident) bool {
		return i.From == nil || !s.FirstSeen.Before(i.From.Add(-p.Skew))
	})
}

// Elsewhere returns where proven image signatures that a plan replaces are kept
// besides, in places no new signature is put by re-signing, and the new signer
// has none. What is not proven does not count: a thief could put it anywhere.
func Elsewhere(sigs []inventory.Signature, p Policy) (places []string) {
	var all []Judged
	for _, s := range sigs {
		all = append(all, p.examine(s))
	}
	for n := range all {
		s := &all[n]
		at := keptAs(s.Signature)
		if s.Gone || s.PredicateType != inventory.SignPredicate || writable(s.Signature) || slices.Contains(places, at) ||
			!s.Replaced || !p.Proves(s) {
			continue
		}
		if !slices.ContainsFunc(all, func(o Judged) bool { return o.stands() && o.Signer == p.Successor && keptAs(o.Signature) == at }) {
			places = append(places, at)
		}
	}
	return places
}

// Signed reports whether a new signer's own signature of the artifact stands there,
// outside every incident. Where no signer that is replaced signed the artifact,
// nothing is decided about it; but then a claim by the new signer adds nothing.
func (p Policy) Signed(sigs []inventory.Signature, by signer.Identity) bool {
	return slices.ContainsFunc(sigs, func(s inventory.Signature) bool {
		if s.PredicateType != inventory.SignPredicate || s.Signer != by || s.Location != "" {
			return false
		}
		j := p.examine(s)
		return j.stands()
	})
}

// WithClaims lowers the decisions about the claims on one artifact to what the
// decision about the artifact itself allows: cosign takes a bundle of any
// predicate by a trusted signer for a signature of the image, so none goes onto
// an artifact that is not itself covered or proven good.
//
// That holds in whatever format: whoever can write to a registry makes a bundle of
// the envelope in an ".att", and a summary says that the artifact passed. Only of a
// file that nobody signed, as many have only attestations, it is said: whoever
// makes it of a file sees to it that it is a file (package resign).
func WithClaims(image *Outcome, claim Outcome) Outcome {
	file := slices.Contains(claim.Formats, inventory.Detached)
	undecided := image == nil || image.Decision == ""
	if claim.Decision != Resign || file && undecided || !undecided && (image.Decision == Resign || image.Decision == None) {
		return claim
	}
	bundle := slices.Contains(claim.Formats, inventory.Bundle)
	what, why := "image", "a bundle with any claim about it would make verifiers accept the image"
	switch {
	case file:
		what, why = "file", "a bundle with any claim about it speaks for it"
	case claim.Summary && !bundle:
		why = "a summary would say that it passed"
	case !bundle:
		why = "a bundle that anybody can make of the envelope would make verifiers accept the image"
	}
	claim.Decision, claim.Formats, claim.Summary, claim.Also = Hold, nil, false, nil
	claim.Reason += "; but the " + what + " itself is not proven good, and " + why
	return claim
}
