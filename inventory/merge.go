package inventory

import "slices"

// maxBounds is how many bounds are kept of one signature before those that did
// not verify are left out: anybody can push more of them.
const maxBounds = 64

// Merge returns what two sightings of one signature say together. That it
// verified once stays true, with what it was found to require, and so does
// every proof that verified: a copy without them, which anybody can push, takes
// nothing away. Of one authority only the best proof counts, so that stamping a
// public signature again and again, which anybody can do, adds nothing.
func Merge(known, now Signature) Signature {
	out := known
	if !known.Verified {
		out.Requires, out.Verified, out.Why = now.Requires, now.Verified, now.Why
		if now.Verified && now.Certificate != nil || out.Certificate == nil {
			out.Certificate = now.Certificate // what did not verify may bring any certificate
		}
	}
	out.Bounds = slices.Clone(known.Bounds)
	for _, b := range now.Bounds {
		out.Bounds = withBound(out.Bounds, b)
	}
	return out
}

// withBound adds a bound to those known.
func withBound(all []Bound, b Bound) []Bound {
	of := func(k Bound) bool { return k.Side == b.Side && k.Authority == b.Authority }
	if !b.Verified {
		if len(all) < maxBounds && !slices.ContainsFunc(all, func(k Bound) bool { return of(k) && k.Time.Equal(b.Time) }) {
			all = append(all, b)
		}
		return all
	}
	if at := slices.IndexFunc(all, func(k Bound) bool { return of(k) && k.Verified }); at >= 0 {
		better := b.Time.Before(all[at].Time)
		if b.Side == Lower {
			better = b.Time.After(all[at].Time)
		}
		if better {
			all[at] = b
		}
		return all
	}
	if at := slices.IndexFunc(all, func(k Bound) bool { return of(k) && k.Time.Equal(b.Time) }); at >= 0 {
		all[at] = b
		return all
	}
	return append(all, b)
}
