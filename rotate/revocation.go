package rotate

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
)

// RevocationPredicate is the predicate type of a revocation statement.
const RevocationPredicate = "https://reseal.dev/revocation/v1"

// Revocation is a revocation statement: an in-toto statement whose subjects
// are the denied digests. It is published as a TUF target and never attached
// to an artifact: a bundle by a trusted signer on the denied digest would make
// cosign accept it, whatever the bundle says.
type Revocation struct {
	Type          string              `json:"_type"`
	Subject       []RevocationSubject `json:"subject"`
	PredicateType string              `json:"predicateType"`
	Predicate     RevocationBody      `json:"predicate"`
}

// RevocationSubject is one denied digest.
type RevocationSubject struct {
	Digest map[string]string `json:"digest"`
}

// RevocationBody says what is no longer to be believed, and since when.
type RevocationBody struct {
	trust.Incident
	Before    string                `json:"before"`                     // what holds for signatures proven older: "keep"
	Inside    string                `json:"inside"`                     // for all others: "deny"
	After     string                `json:"after,omitempty"`            // for those proven younger, where the window ends: "keep"
	Witnesses []inventory.Authority `json:"time_authorities,omitempty"` // whose times may prove "before"; empty: none
	Reason    string                `json:"reason"`
	Plan      string                `json:"plan"`
	Approvers []string              `json:"approvers"`

	BreakGlass string    `json:"break_glass,omitempty"` // it was issued without a quorum, by whom and why
	IssuedAt   time.Time `json:"issued_at"`
}

// revocationName is the name an incident's statement is published under.
func revocationName(incident string) string { return "revocations/" + incident + ".json" }

// Revoke returns the revocation statement of an approved plan, in canonical
// form. incidents are those that count by now, and denied every digest known to
// be bad by now, not only by the plan: a statement is never narrower than one
// published before it.
func Revoke(i Incident, p Permission, incidents []trust.Incident, denied map[string]string) ([]byte, error) {
	r := Revocation{Type: "https://in-toto.io/Statement/v1", PredicateType: RevocationPredicate, Subject: []RevocationSubject{},
		Predicate: RevocationBody{Incident: i.Incident, Before: "keep", Inside: "deny", Reason: i.Title, Plan: p.digest,
			Approvers: slices.Sorted(slices.Values(p.approvers)), IssuedAt: p.plan.MadeAt,
			Witnesses: outside(p.totals.TimeAuthorities, incidents)}}
	if i.Until != nil {
		r.Predicate.After = "keep"
	}
	if g := p.breakGlass; g != nil {
		r.Predicate.BreakGlass = fmt.Sprintf("without a quorum, on the word of %s: %s", g.By, g.Reason)
	}
	for _, d := range slices.Sorted(maps.Keys(denied)) {
		if err := inventory.CheckDigest(d); err != nil {
			return nil, err
		}
		r.Subject = append(r.Subject, RevocationSubject{Digest: map[string]string{"sha256": trimAlgorithm(d)}})
	}
	return canonical(r)
}
