package trust

import (
	"fmt"
	"slices"

	"github.com/reseal/reseal/inventory"
)

// Cause is why a signature is to be taken away.
type Cause string

// The causes.
const (
	CauseRogue    Cause = "rogue"    // a replaced signer made it, and nothing places it outside the window
	CauseRecalled Cause = "recalled" // an earlier plan made it, and would not do so now
	CauseReplaced Cause = "replaced" // a replaced signer made it, whom nobody trusts any more
)

// Reader is a verifier as deployed: what it reads, and whom it trusts now.
type Reader struct {
	Name  string
	Reads inventory.Format // legacy or bundle
	Ours  bool             // what the plan replaces was made for it
	// Trusts reports whether its anchor, as it is now, names who made a signature.
	Trusts func(inventory.Signature) bool
	// Accepts asks the verifier itself about a signature by one whom it trusts.
	// nil: it is taken to accept what verifies.
	Accepts func(inventory.Signature) error
}

func (r *Reader) takes(s *inventory.Signature) bool {
	return s.Verified && s.Location == "" && r.Trusts(*s) && (r.Accepts == nil || r.Accepts(*s) == nil)
}

// Sight is what a kind of verifier looks at on an artifact.
type Sight string

// The sights there are. Anybody who reads either is a cosign since 2.6: where it
// finds any bundle it looks past the ".sig", whatever the bundle says.
const (
	SeesSig     Sight = "sig"     // the ".sig" alone: podman, skopeo, CRI-O, policy-controller
	SeesBundles Sight = "bundles" // bundles alone
	SeesEither  Sight = "either"  // the bundles, and the ".sig" where there is none
)

// Seen returns which signatures on an artifact such a verifier takes for
// signatures of the image. A bundle of any predicate is one to cosign; what is
// in an ".att" or in another repository is none to anybody.
func (v Sight) Seen(on []inventory.Signature) (seen []inventory.Signature) {
	var sig, bundles []inventory.Signature
	for _, s := range on {
		switch {
		case s.Location != "" || s.Gone:
		case s.Format == inventory.Bundle:
			bundles = append(bundles, s)
		case s.Format == inventory.Legacy:
			sig = append(sig, s)
		}
	}
	if v == SeesSig || v == SeesEither && len(bundles) == 0 {
		return sig
	}
	return bundles
}

// Removal is the question which signatures are to be taken off one artifact.
type Removal struct {
	Artifact   inventory.Artifact
	Standing   []inventory.Signature // what stands on it now
	Ever       []inventory.Signature // what ever did
	Decided    map[string]Outcome    // by statement, as it is decided now
	Recalled   map[string]string     // ID of a signature that a plan made and would not make now → why
	Fixed      map[string]string     // ID of a signature that must be left alone → why
	All        bool                  // also what is proven good, of signers whom nobody trusts any more
	AcceptDark bool                  // that it goes dark was accepted by name, if it is on hold
	Readers    []Reader              // the consumers that are known
	// Otherwise stands for whoever else runs the artifact, where no consumer that
	// is known reads it: see Reader.Trusts and Reader.Accepts.
	Otherwise Reader
}

// Removed is what is to become of one signature.
type Removed struct {
	inventory.Signature
	Cause Cause
	Why   string // why it is to be taken away
	Kept  string // why it is not, and what to do; "": it is taken away
}

// Remove says which signatures are to be taken off an artifact, and which of
// those that ought to be are kept, and why: in the order in which they stand.
//
// The last valid signature of a deployed artifact is never taken away: one by a
// signer that its consumers trust now, which stands outside every incident, must
// be left wherever they read, unless the artifact is denied, or is on hold and
// was accepted as dark by name. Nor is one whose statement is yet to be
// re-signed on the strength of it.
func (p Policy) Remove(q Removal) []Removed {
	r := removal{Removal: q, policy: p}
	r.image = q.Decided[inventory.SignPredicate].Decision
	if _, rogue := p.Rogue[q.Artifact.Digest]; rogue {
		r.image = Deny
	}
	for _, s := range q.Standing {
		if cause, why := r.cause(s); cause != "" {
			r.out = append(r.out, Removed{Signature: s, Cause: cause, Why: why, Kept: r.untouchable(s, cause)})
		}
	}
	// What is kept for one reason may be what another one needs gone, or there.
	for r.keepUnsigned() || r.keepLast() {
	}
	return r.out
}

// removal is one Remove.
type removal struct {
	Removal
	policy Policy
	image  Decision // about the artifact itself; "": it is of no concern
	out    []Removed
}

// cause says why a signature is to be taken away, if it is.
func (r *removal) cause(s inventory.Signature) (Cause, string) {
	if why := r.Recalled[s.ID]; why != "" {
		return CauseRecalled, why
	}
	j := r.policy.examine(s)
	switch {
	case !j.Replaced:
		return "", ""
	case j.Verdict == Inside || j.Verdict == Unproven:
		return CauseRogue, j.Reason
	case r.All:
		return CauseReplaced, "nobody trusts " + s.Signer.ID() + " any more"
	}
	return "", ""
}

// untouchable says why a signature is kept, whatever else stands there.
func (r *removal) untouchable(s inventory.Signature, cause Cause) string {
	switch {
	case r.Fixed[s.ID] != "":
		return r.Fixed[s.ID]
	case s.Format.InFiles() || s.Repository == inventory.Files:
		return "it is a file, which no registry holds: whoever keeps the file removes it"
	case cause == CauseRecalled:
		return ""
	case cause == CauseReplaced && inventory.IsProvenance(s.PredicateType):
		return "it is proven to be its builder's word, which nobody gives again: a summary of it names it, and it stays"
	case r.image == Deny:
		return "the artifact is denied: \"reseal contain\" takes it away with everything on it"
	case r.image == Hold && s.PredicateType == inventory.SignPredicate && !r.AcceptDark && (!r.All || r.Artifact.Deployed):
		return "the artifact is on hold, and what holds it is what a person has to look at: mark it rogue, vouch for it in a new plan, or accept it as dark"
	}
	return ""
}

// goes reports whether a signature is taken away as things are.
func (r *removal) goes(id string) bool {
	return slices.ContainsFunc(r.out, func(x Removed) bool { return x.ID == id && x.Kept == "" })
}

// left returns what stands on the artifact afterwards.
func (r *removal) left() []inventory.Signature {
	return slices.DeleteFunc(slices.Clone(r.Standing), func(s inventory.Signature) bool { return r.goes(s.ID) })
}

// keep keeps what would be taken away of some signatures, and reports whether
// that is any.
func (r *removal) keep(why string, which func(inventory.Signature) bool) (any bool) {
	for n := range r.out {
		if x := &r.out[n]; x.Kept == "" && which(x.Signature) {
			x.Kept, any = why, true
		}
	}
	return any
}

// keepUnsigned keeps the signatures of statements that could not be re-signed
// without them: they may be all that shows there is such a statement.
func (r *removal) keepUnsigned() (any bool) {
	beside := inventory.Statements(r.Artifact, r.left())
	for key, was := range r.Decided {
		if was.Decision != Resign {
			continue
		}
		at := slices.IndexFunc(beside, func(st inventory.Statement) bool { return st.Key == key })
		if at >= 0 {
			if now, ok := Decide(beside[at], beside, r.policy); ok && Compare(now.Decision, Resign) >= 0 {
				continue
			}
		}
		any = r.keep("it is yet to be re-signed, on the strength of this one: \"reseal resign\" first",
			func(s inventory.Signature) bool { return s.StatementKey() == key }) || any
	}
	return any
}

// keepLast keeps the last valid signatures of a deployed artifact.
func (r *removal) keepLast() (any bool) {
	if !r.Artifact.Deployed || r.image == Deny || r.image == Hold && r.AcceptDark {
		return false
	}
	for _, reader := range r.readers() {
		if why := r.unread(&reader); why != "" {
			any = r.keep(why, func(s inventory.Signature) bool { return s.Location == "" && s.Format == reader.Reads }) || any
		}
		if why := r.hidden(&reader); why != "" {
			any = r.keep(why, func(s inventory.Signature) bool {
				return s.Location == "" && (s.Format == inventory.Legacy || s.Format == inventory.Bundle)
			}) || any
		}
	}
	return any
}

// readers returns the consumers that are known, and where none of those reads
// the artifact one for each format that somebody must have read it in.
func (r *removal) readers() []Reader {
	if slices.ContainsFunc(r.Readers, func(x Reader) bool { return r.concerns(&x) }) {
		return r.Readers
	}
	out := slices.Clone(r.Readers)
	for _, f := range []inventory.Format{inventory.Legacy, inventory.Bundle} {
		x := r.Otherwise
		x.Reads, x.Ours = f, true
		out = append(out, x)
	}
	return out
}

// concerns reports whether a consumer can ever have read an image signature of
// the artifact.
func (r *removal) concerns(x *Reader) bool {
	reads := func(s inventory.Signature) bool {
		return s.Format == x.Reads && s.Location == "" && s.Verified && s.PredicateType == inventory.SignPredicate &&
			(x.Trusts(s) || x.Ours && r.policy.Replaces(s))
	}
	return slices.ContainsFunc(r.Ever, reads) || slices.ContainsFunc(r.Standing, reads)
}

// valid reports whether a consumer accepts a signature, and may.
func (r *removal) valid(x *Reader, s *inventory.Signature) bool {
	if r.Recalled[s.ID] != "" || !x.takes(s) {
		return false
	}
	j := r.policy.examine(*s)
	return j.stands() || j.Verdict.Proven() && !j.Gone
}

// unread says what is missing for a consumer that reads its own format and no
// other, or "".
func (r *removal) unread(x *Reader) string {
	if !r.concerns(x) {
		return ""
	}
	sight := SeesSig
	if x.Reads == inventory.Bundle {
		sight = SeesBundles
	}
	for _, s := range sight.Seen(r.left()) {
		if s.PredicateType == inventory.SignPredicate && r.valid(x, &s) {
			return ""
		}
	}
	why := fmt.Sprintf("the artifact is deployed, and no valid image signature (%s) by whom %s trusts now would be left: ", x.Reads, x.Name)
	if r.image == Hold {
		return why + "it is on hold, so replace it, or accept it as dark in a new plan (--accept-dark)"
	}
	return why + "re-sign it and cut over first"
}

// hidden says why a cosign would refuse afterwards what it accepts now, or "".
// It is asked twice: with every bundle that is there, and with none by those
// whom the consumer does not trust. What others put there, which may be no
// bundle to cosign at all, must not be an excuse.
func (r *removal) hidden(x *Reader) string {
	accepts := func(seen []inventory.Signature) bool {
		return slices.ContainsFunc(seen, func(s inventory.Signature) bool { return x.takes(&s) })
	}
	foreign := func(s inventory.Signature) bool { return s.Format == inventory.Bundle && !x.takes(&s) }
	for _, all := range []bool{true, false} {
		before, after := slices.Clone(r.Standing), r.left()
		if !all {
			before, after = slices.DeleteFunc(before, foreign), slices.DeleteFunc(after, foreign)
		}
		switch {
		case !accepts(SeesEither.Seen(before)) || accepts(SeesEither.Seen(after)):
		case accepts(SeesSig.Seen(after)):
			return fmt.Sprintf("the artifact is deployed, and cosign would find only the other bundles that remain, look past its \".sig\" and refuse it for %s: sign it in a bundle too, or take the other bundles away first", x.Name)
		default:
			return fmt.Sprintf("the artifact is deployed, and %s would accept it no more: re-sign it and cut over first, or accept it as dark in a new plan (--accept-dark)", x.Name)
		}
	}
	return ""
}
