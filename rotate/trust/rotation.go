package trust

import "slices"

// A rotation is a plan that no incident asks for. It rests on one thing: those
// whom it rotates are trusted now, and nothing that they signed has to do with
// any incident. So it takes over what verifiers accept anyway, and no more; what
// an incident touches, whatever could be proven about it, is for that incident's
// plan to decide. It denies nothing and believes no voucher.
//
// Incidents never learn of rotations: a rotation is no part of what Judge is
// given, so that none can make a verdict about an incident more trusting.

// rotation reports whether the policy is that of a rotation.
func (p *Policy) rotation() bool { return len(p.Rotates) > 0 }

// rotates says what a rotation has to do with a signature that was judged.
func (p *Policy) rotates(j *Judged) {
	if !j.Verified || !slices.Contains(p.Rotates, j.Signer) {
		return
	}
	j.linked, j.Replaced = true, true
	j.trusted = p.Trusted != nil && p.Trusted(j.Signer)
}

// leaves says why a rotation does not take over what a signature says, or "".
func (p *Policy) leaves(j *Judged) string {
	switch {
	case !j.trusted:
		return j.Signer.ID() + " is not trusted any more: a rotation takes over only what an enrolled signer in use, or one that was, has said"
	case j.Verdict != Unaffected:
		return j.Reason + "; a rotation leaves what an incident is about to that incident's plan"
	case j.Rests:
		return j.Reason + "; a rotation leaves that to the incident's plan"
	case named(j.Signer, p.Incidents) != nil:
		return j.Signer.ID() + " may be in " + named(j.Signer, p.Incidents).ID + "; a rotation leaves what an incident is about to that incident's plan"
	case p.Unexplained != nil && p.Unexplained(j.Signature):
		return "a complete source covers the signature and no record of ours accounts for it: look at it before anybody signs it again, it may be the first that is seen of an incident"
	}
	if upper, lower, contradict := contradiction(&j.Signature, p.Skew); contradict {
		return contradictory(upper, lower)
	}
	return ""
}

// whyLeft returns why a rotation takes over none of the signatures it is about.
func (q *question) whyLeft() string {
	for n := range q.sigs {
		if s := &q.sigs[n]; s.linked {
			if why := q.leaves(s); why != "" {
				return why
			}
		}
	}
	return "no signature of those that the plan rotates is there"
}
