package rotate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
)

// RevocationPredicate is the predicate type of a revocation statement.
const RevocationPredicate = "https://reseal.dev/revocation/v1"

const statementType = "https://in-toto.io/Statement/v1"

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

// RevocationOf returns the revocation statement of an approved plan by what is
// known now, and the name it is published under.
func RevocationOf(ctx context.Context, s *store.Store, p Permission) (name string, statement []byte, err error) {
	if p.plan.rotation() {
		return "", nil, fmt.Errorf("plan %s rotates a signer that nothing is known against: it denies nothing", p.digest)
	}
	d, err := p.denial(ctx, s)
	return revocationName(p.plan.Incident), d.statement, err
}

// Deny returns a revocation statement that denies digests and says nothing
// about a signer, for the first minutes of an incident, and the name it is
// published under. The name follows from the digests, so that a statement never
// replaces one that denies others.
func Deny(digests []string, reason string, by []string, at time.Time) (name string, statement []byte, err error) {
	digests = slices.Compact(slices.Sorted(slices.Values(digests)))
	if len(digests) == 0 {
		return "", nil, errors.New("no digests are given to deny")
	}
	if strings.TrimSpace(reason) == "" {
		return "", nil, errors.New("no reason is given: whoever is refused reads it")
	}
	id := "deny-" + trimAlgorithm(inventory.Digest([]byte(strings.Join(digests, "\n"))))[:16]
	r := Revocation{Type: statementType, PredicateType: RevocationPredicate,
		Predicate: RevocationBody{Incident: trust.Incident{ID: id}, Before: "keep", Inside: "deny", Reason: reason, Approvers: by, IssuedAt: at.UTC().Truncate(time.Second)}}
	for _, d := range digests {
		if err := inventory.CheckDigest(d); err != nil {
			return "", nil, err
		}
		r.Subject = append(r.Subject, RevocationSubject{Digest: map[string]string{"sha256": trimAlgorithm(d)}})
	}
	statement, err = canonical(r)
	return revocationName(id), statement, err
}

// ParseRevocation reads a revocation statement. Whoever cannot read one must
// not go on as if it were not there: what it denies is not known.
func ParseRevocation(statement []byte) (Revocation, error) {
	var r Revocation
	if err := json.Unmarshal(statement, &r); err != nil {
		return r, fmt.Errorf("revocation statement: %w", err)
	}
	if r.Type != statementType || r.PredicateType != RevocationPredicate {
		return r, fmt.Errorf("revocation statement: %q of type %q is none that this version reads: update it", r.PredicateType, r.Type)
	}
	for _, d := range r.Denied() {
		if err := inventory.CheckDigest(d); err != nil {
			return r, fmt.Errorf("revocation statement: %w", err)
		}
	}
	if i := r.Predicate.Incident; r.names() {
		if err := i.Check(); err != nil {
			return r, fmt.Errorf("revocation statement of %s: %w", i.ID, err)
		}
	}
	return r, nil
}

// Denied returns the digests that the statement denies.
func (r Revocation) Denied() []string {
	var out []string
	for _, s := range r.Subject {
		out = append(out, "sha256:"+s.Digest["sha256"])
	}
	return out
}

// Lacks says in words what was takes away and r, put in its place, would not:
// digests, signers, authorities, a part of the window. It says nothing where r
// takes away as much or more. A selector counts as kept only as it was written.
func (r Revocation) Lacks(was Revocation) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	denied := map[string]bool{}
	for _, d := range r.Denied() {
		denied[d] = true
	}
	for _, d := range was.Denied() {
		if !denied[d] {
			say("it no longer denies %s", d)
		}
	}
	a, b := was.Predicate.Incident, r.Predicate.Incident
	for _, id := range a.Signers {
		if !slices.Contains(b.Signers, id) {
			say("it no longer revokes the signer %s", id)
		}
	}
	for _, x := range a.Selectors {
		if !slices.Contains(b.Selectors, x) {
			text, err := canonical(x)
			if err != nil {
				text = fmt.Appendf(nil, "%+v", x)
			}
			say("it no longer revokes what the selector %s selects", text)
		}
	}
	for _, x := range a.Authorities {
		if !slices.Contains(b.Authorities, x) {
			say("it no longer revokes the %s %s", x.Role, x.ID)
		}
	}
	if !was.names() {
		return out
	}
	stamp := func(t *time.Time, none string) string {
		if t == nil {
			return none
		}
		return t.UTC().Format(time.RFC3339)
	}
	if b.From != nil && (a.From == nil || b.From.After(*a.From)) {
		say("its window starts later, at %s and not %s", stamp(b.From, ""), stamp(a.From, "with the signer's first use"))
	}
	if b.Until != nil && (a.Until == nil || b.Until.Before(*a.Until)) {
		say("its window ends earlier, at %s and not %s", stamp(b.Until, ""), stamp(a.Until, "never"))
	}
	return out
}

// shownDigests is how many denied digests a statement names in words.
const shownDigests = 20

// Words says what the statement takes away, for those who are asked to sign it.
func (r Revocation) Words() []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	p := r.Predicate
	denied := r.Denied()
	for _, d := range denied[:min(len(denied), shownDigests)] {
		say("denies %s", d)
	}
	if n := len(denied) - shownDigests; n > 0 {
		say("denies %d digests more", n)
	}
	for _, id := range p.Signers {
		say("revokes the signer %s", id)
	}
	for _, x := range p.Selectors {
		text, err := canonical(x)
		if err != nil {
			text = fmt.Appendf(nil, "%+v", x)
		}
		say("revokes what the selector %s selects", text)
	}
	for _, a := range p.Authorities {
		say("revokes the %s %s", a.Role, a.ID)
	}
	if r.names() {
		from, until := "the signer's first use", "no end"
		if p.From != nil {
			from = p.From.UTC().Format(time.RFC3339)
		}
		if p.Until != nil {
			until = p.Until.UTC().Format(time.RFC3339)
		}
		say("its window is from %s to %s", from, until)
		var by []string
		for _, w := range p.Witnesses {
			by = append(by, string(w.Role)+" "+w.ID)
		}
		if len(by) == 0 {
			by = []string{"nobody"}
		}
		say("what is older is believed by the times of %s", strings.Join(by, ", "))
	}
	if len(out) == 0 {
		say("denies nothing")
	}
	say("is of %s, for %q", p.ID, p.Reason)
	return out
}

// names reports whether the statement is about a signer or an authority, too.
func (r Revocation) names() bool {
	i := r.Predicate.Incident
	return i.Class != "" || len(i.Signers)+len(i.Selectors)+len(i.Authorities) > 0
}

// Revoked returns what statements say: the incidents they are about, with whose
// times prove that something is older, and the digests they deny, with why.
func Revoked(statements []Revocation) (incidents []trust.Incident, denied map[string]string) {
	denied = map[string]string{}
	for _, r := range statements {
		for _, d := range r.Denied() {
			denied[d] = r.Predicate.ID + ": " + r.Predicate.Reason
		}
		if r.names() {
			incidents = append(incidents, r.Predicate.Incident.ProvenBy(r.Predicate.Witnesses))
		}
	}
	return trust.Compiled(incidents), denied
}

// Revoke returns the revocation statement of an approved plan, in canonical
// form. incidents are those that count by now, and denied every digest known to
// be bad by now, not only by the plan: a statement is never narrower than one
// published before it.
func Revoke(i Incident, p Permission, incidents []trust.Incident, denied map[string]string) ([]byte, error) {
	r := Revocation{Type: statementType, PredicateType: RevocationPredicate, Subject: []RevocationSubject{},
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
