package trust

import (
	"slices"

	"github.com/reseal/reseal/inventory"
)

// Tied returns an incident that is about the signer of a signature, or about any
// authority that vouches for it, even one that it could do without; nil: there is
// none. by is that authority, zero where it is about the signer. Nothing new is
// signed with one that an incident is about.
func Tied(s inventory.Signature, incidents []Incident) (i *Incident, by inventory.Authority) {
	for n := range incidents {
		i := &incidents[n]
		if slices.Contains(i.Signers, s.Signer) || i.selects(&s) {
			return i, inventory.Authority{}
		}
		for _, a := range s.Requires {
			if i.namesAuthority(a) {
				return i, a
			}
		}
		for _, b := range s.Bounds { // verified or not: the service said so
			if i.namesAuthority(b.Authority) {
				return i, b.Authority
			}
		}
	}
	return nil, inventory.Authority{}
}

// Lost reports whether consumers lose a signature to the incidents: they are
// about its signer, about an authority without which it does not verify, or about
// all that prove its time.
func Lost(s inventory.Signature, incidents []Incident) bool {
	bare := stripped(&s, incidents)
	return bare || touched(&s, incidents, bare)
}
