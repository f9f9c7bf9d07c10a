package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// VoucherKind is how somebody proves an artifact good.
type VoucherKind string

// The kinds of voucher.
const (
	Attestation VoucherKind = "attestation" // an attestation on the same digest: a builder's provenance, a rebuilder's match
	KnownGood   VoucherKind = "known-good"  // a list of digests that another signer or a named person signed
	CIRun       VoucherKind = "ci-run"      // an authenticated record of a CI run that made the digest
)

// Voucher is a policy that lets somebody outside every incident prove an
// artifact good. It counts only when it was journaled before the incident began
// or when a quorum approved the plan that lists it.
type Voucher struct {
	Kind          VoucherKind       `json:"kind"`                     // empty: attestation
	Signer        signer.Identity   `json:"signer"`                   // who attests, signed the list, or authenticated the record
	Person        string            `json:"person,omitempty"`         // of a list: the enrolled person who signed it
	PredicateType string            `json:"predicate_type,omitempty"` // of an attestation
	Content       map[string]string `json:"content,omitempty"`        // of an attestation: dotted path in the predicate → required value
	List          string            `json:"list,omitempty"`           // of a list: digest of its bytes, which are in the vault
	Repositories  []string          `json:"repositories,omitempty"`   // it vouches in these; empty: any
	Standing      *time.Time        `json:"standing,omitempty"`       // when it was journaled as a standing policy; nil: in the plan alone
}

// kind is the kind of the voucher: those that were kept before there were kinds
// are about attestations.
func (v *Voucher) kind() VoucherKind {
	if v.Kind == "" {
		return Attestation
	}
	return v.Kind
}

// ID returns a short name that stays the same whether the voucher stands or is
// in a plan alone: 16 hex digits of a digest of what it says.
func (v Voucher) ID() string {
	v.Kind, v.Standing = v.kind(), nil
	v.Repositories = slices.Compact(slices.Sorted(slices.Values(v.Repositories)))
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // texts and a map of texts: it cannot fail
	sum := sha256.Sum256(b.Bytes())
	return hex.EncodeToString(sum[:8])
}

// Check refuses a voucher that would vouch for anything.
func (v Voucher) Check() error {
	if v.Signer.Kind != signer.Key && v.Signer.Kind != signer.Keyless {
		return fmt.Errorf("voucher: no signer is named")
	}
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("voucher %s: %s", v.Signer.ID(), fmt.Sprintf(format, args...))
	}
	kind := v.kind()
	switch {
	case kind != Attestation && kind != KnownGood && kind != CIRun:
		return refuse("unknown kind %q: use %s, %s or %s", kind, Attestation, KnownGood, CIRun)
	case kind == Attestation && v.PredicateType == "":
		return refuse("no predicate type is named")
	case kind == Attestation && v.PredicateType == inventory.SignPredicate:
		return refuse("an image signature says nothing about how the image was made; name an attestation's predicate type")
	case kind != Attestation && (v.PredicateType != "" || len(v.Content) > 0):
		return refuse("a voucher of kind %s looks at no attestation: leave out predicate type and content rule", kind)
	case kind != KnownGood && (v.List != "" || v.Person != ""):
		return refuse("a voucher of kind %s has no list and no person: use kind %s", kind, KnownGood)
	}
	if kind == KnownGood {
		if err := inventory.CheckDigest(v.List); err != nil {
			return refuse("the list: %s", err)
		}
	}
	return nil
}

// vouched returns why approved vouchers prove the artifact good, or "", and
// which of them do. They are about the image: no claim about it is good because
// the image is.
func (q *question) vouched() (reason string, which []int) {
	if q.st.PredicateType() != inventory.SignPredicate || q.rotation() {
		return "", nil
	}
	for n := range q.Vouchers {
		v := &q.Vouchers[n]
		if q.doubt(v) != "" {
			continue
		}
		if which = append(which, n); reason != "" {
			continue
		}
		what := v.PredicateType
		switch {
		case v.kind() == KnownGood && v.Person != "":
			what = "list " + v.List + ", signed by " + v.Person
		case v.kind() == KnownGood:
			what = "list " + v.List
		case v.kind() == CIRun:
			what = "record of a CI run that made it"
		}
		reason = fmt.Sprintf("vouched for by %s, outside every incident (%s)", v.Signer.ID(), what)
	}
	return reason, which
}

// doubt says why a voucher does not prove the artifact good, or "".
func (q *question) doubt(v *Voucher) string {
	a := q.st.Artifact
	if len(v.Repositories) > 0 && !slices.Contains(v.Repositories, a.Repository) {
		return "it does not vouch in " + a.Repository
	}
	if i := named(v.Signer, q.Incidents); i != nil {
		return "its signer is in " + i.ID
	}
	if v.Standing != nil {
		// Whoever could sign could add a voucher, too.
		switch p := q.primary(); {
		case p == nil || p.From == nil:
			return "it is a standing one, and it is not known when the incident began"
		case !v.Standing.Before(p.From.Add(-q.Skew)):
			return "it is a standing one, and was made after the incident began"
		}
	}
	why := ""
	switch v.kind() {
	case Attestation:
		why = q.doubtAttestation(v)
	case KnownGood:
		if q.Listed == nil || !q.Listed(*v, a.Digest) {
			why = "its list does not hold the digest"
		}
	case CIRun:
		why = q.doubtRun(v)
	default:
		why = "its kind is unknown"
	}
	if why == "" && q.Void != nil {
		why = q.Void(*v)
	}
	return why
}

func (q *question) doubtAttestation(v *Voucher) string {
	why := "it has no such attestation on the artifact"
	for n := range q.beside {
		st := &q.beside[n]
		if v.PredicateType == inventory.SignPredicate || st.PredicateType() != v.PredicateType {
			continue
		}
		for m := range st.Signatures {
			s := &st.Signatures[m]
			if s.Signer != v.Signer {
				continue
			}
			upper, lower, contradict := contradiction(s, q.Skew)
			switch j := Judge(*s, q.Incidents, q.Skew); {
			case contradict:
				why = "its attestation proves nothing: " + contradictory(upper, lower)
			case j.Verdict != Unaffected || j.Rests:
				why = "its attestation does not stand outside every incident: " + j.Reason
			case !q.contentHolds(v, s):
				why = "its attestation does not say what the voucher demands"
			default:
				return ""
			}
		}
	}
	return why
}

// contentHolds reports whether the predicate says all that the voucher demands.
func (q *question) contentHolds(v *Voucher, s *inventory.Signature) bool {
	if len(v.Content) == 0 {
		return true
	}
	if q.Payload == nil {
		return false
	}
	payload, err := q.Payload(*s)
	if err != nil {
		return false
	}
	says, known := PredicateSays(payload, v.Content)
	return says && known
}

// PredicateSays reports whether the predicate of a statement, given its payload,
// says all that is demanded: dotted paths and the texts that stand there. known
// is false where the payload is no statement.
func PredicateSays(payload []byte, content map[string]string) (says, known bool) {
	var statement struct {
		Predicate any `json:"predicate"`
	}
	if json.Unmarshal(payload, &statement) != nil || inventory.CheckPredicate(payload) != nil {
		return false, false
	}
	for path, want := range content {
		at := statement.Predicate
		for _, key := range strings.Split(path, ".") {
			m, _ := at.(map[string]any)
			at = m[key]
		}
		if got, isString := at.(string); !isString || got != want {
			return false, true
		}
	}
	return true, true
}

// doubtRun says why no record of a CI run vouches, or "". In an incident about
// workflows or identities, a genuine record of a genuine run is what the
// attacker makes: of one about a workflow or an issuer, also where another key
// signed what the run built.
func (q *question) doubtRun(v *Voucher) string {
	runs := "" // the incident in which runs of nobody known prove nothing
	for n := range q.Incidents {
		i := &q.Incidents[n]
		switch i.Class {
		case CIWorkflow, OIDCIssuer:
			runs = i.ID
		case KeylessIdentity:
		default:
			continue
		}
		// The primary incident concerns one of them: else nothing is decided.
		if slices.ContainsFunc(q.sigs, func(s Judged) bool { return i.concerns(&s.Signature, s.bare) }) {
			return "records of CI runs prove nothing in " + i.ID + ", which is of class " + string(i.Class)
		}
	}
	why := "it has no record of a completed CI run that made the artifact"
	if q.Runs == nil {
		return why
	}
	by := v.Signer.ID()
	for _, r := range q.Runs(q.st.Artifact.Digest) {
		if r.Kind != inventory.RecordCI || r.By != by || r.Digest != q.st.Artifact.Digest || r.Failed {
			continue
		}
		if i := q.namedID(r.Signer); i != nil {
			why = "the signer of the CI run is in " + i.ID
			continue
		}
		if runs != "" && !strings.HasPrefix(r.Signer, string(signer.Keyless)+":") {
			why = "the CI run may be one of " + runs + ": its record names no identity it ran as"
			continue
		}
		return ""
	}
	return why
}

// namedID returns the incident that names the signer of an ID, if one may. Of
// an ID alone nobody can say whether a selector selects it, so that of a keyless
// signer counts as selected unless it is one on the artifact that is not.
func (q *question) namedID(id string) *Incident {
	if id == "" {
		return nil
	}
	known := func() (signer.Identity, bool) {
		for n := range q.beside {
			for m := range q.beside[n].Signatures {
				if s := &q.beside[n].Signatures[m]; s.Signer.ID() == id {
					return s.Signer, true
				}
			}
		}
		return signer.Identity{}, false
	}
	for n := range q.Incidents {
		i := &q.Incidents[n]
		if slices.ContainsFunc(i.Signers, func(x signer.Identity) bool { return x.ID() == id }) {
			return i
		}
		if len(i.Selectors) == 0 || !strings.HasPrefix(id, string(signer.Keyless)+":") {
			continue
		}
		if by, ok := known(); !ok || i.Names(by) {
			return i
		}
	}
	return nil
}
