package trust

import (
	"slices"

	"github.com/reseal/reseal/inventory"
)

// SLSA provenance is the word of a builder: whoever verifies it binds the signer
// to the builder it names. So no other signer gives it again. Where it is proven
// good, the new signer says in a summary that it was verified, by whom and for
// what; the old attestation stays where it is.

// another reports whether what is stated is a builder's word and the new signer
// is another than who is proven to have given it.
func (q *question) another() bool {
	if !inventory.IsProvenance(q.st.PredicateType()) {
		return false
	}
	for n := range q.sigs {
		if s := &q.sigs[n]; s.Signer == q.Successor && q.Proves(s) {
			return false
		}
	}
	return true
}

// summarised reports whether a summary by the new signer, outside every incident,
// is there in one of the formats and names an attestation of the statement.
func (q *question) summarised(formats ...inventory.Format) bool {
	if !inventory.IsProvenance(q.st.PredicateType()) || q.Payload == nil {
		return false
	}
	for n := range q.beside {
		st := &q.beside[n]
		if st.PredicateType() != inventory.SummaryPredicate {
			continue
		}
		for _, s := range st.Signatures {
			if s.Signer != q.Successor || s.Location != "" || !slices.Contains(formats, s.Format) {
				continue
			}
			if j := q.examine(s); !j.stands() {
				continue
			}
			payload, err := q.Payload(s)
			if err != nil {
				continue // what cannot be read covers nothing
			}
			for _, digest := range inventory.Summarises(payload, q.st.Artifact) {
				if slices.ContainsFunc(q.sigs, func(o Judged) bool { return o.linked && o.Content == digest }) {
					return true
				}
			}
		}
	}
	return false
}

// Bound returns the proof of its time that the verdict of a signature which
// proves what it states rests on, nil where it rests on none.
func (p *Policy) Bound(j *Judged) *inventory.Bound {
	upper, lower := bounds(&j.Signature, p.Incidents)
	switch j.Verdict {
	case ProvenBefore:
		return upper
	case ProvenAfter:
		return lower
	}
	return nil
}
