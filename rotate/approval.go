package rotate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
)

// ErrNeedsApproval is returned when a plan or a motion has not been approved by
// enough people.
var ErrNeedsApproval = errors.New("not approved")

// What people approve.
const (
	PlanKind       = "plan"
	WithdrawalKind = "withdrawal" // a motion to withdraw an incident: a false alarm
	ApproversKind  = "approvers"  // a motion to change who may approve
)

// proposal stands for a name in the ID of a proposer's signature.
const proposal = "proposal"

// Approval is one person's signature over a plan or a motion.
type Approval struct {
	Schema    string    `json:"schema"`
	Kind      string    `json:"kind"`   // PlanKind, WithdrawalKind or ApproversKind
	Digest    string    `json:"digest"` // of the plan or motion
	Approver  string    `json:"approver"`
	Signature string    `json:"signature"` // over ApprovalRequest: base64 of a raw signature, an armored SSHSIG, or a Sigstore bundle
	At        time.Time `json:"at"`
	Proposal  bool      `json:"proposal,omitempty"` // by the proposer: it proves who proposed, and approves nothing
}

// Form says what the signature was made with.
func (a Approval) Form() string {
	switch text := strings.TrimSpace(a.Signature); {
	case strings.HasPrefix(text, "-----BEGIN"):
		return "SSH key"
	case strings.HasPrefix(text, "{"):
		return "keyless identity"
	}
	return "key"
}

// ApprovalRequest returns the exact bytes a person signs to approve a plan or a
// motion, or to sign a proposal of their own. digest is of the plan or motion,
// subject what it is about, expires when it does. They can be signed anywhere
// with "cosign sign-blob" or "ssh-keygen -Y sign -n file".
func ApprovalRequest(kind, digest, subject, approver string, expires time.Time) ([]byte, error) {
	return canonical(struct {
		Schema   string    `json:"schema"`
		Kind     string    `json:"kind"`
		Digest   string    `json:"digest"`
		Subject  string    `json:"subject"`
		Approver string    `json:"approver"`
		Expires  time.Time `json:"expires_at"`
	}{ApprovalSchema, kind, digest, subject, approver, expires.UTC()})
}

// ballot is what people vote on: a plan or a motion.
type ballot struct {
	kind, digest, subject string
	proposer              string    // as the proposer named himself
	expires               time.Time // it and every vote on it
	approvers             string    // digest of the approver set it was made under
}

func (p Plan) ballot(digest string) ballot {
	return ballot{kind: PlanKind, digest: digest, subject: p.Incident, proposer: p.Proposer, expires: p.ExpiresAt, approvers: p.Approvers}
}

func loadBallot(ctx context.Context, s *store.Store, kind, digest string) (ballot, error) {
	if kind == PlanKind {
		p, _, err := LoadPlan(ctx, s, digest)
		return p.ballot(digest), err
	}
	m, err := LoadMotion(ctx, s, digest)
	if err == nil && m.Kind != kind {
		err = fmt.Errorf("%s is a motion about %s, not a %s", digest, m.Kind, kind)
	}
	return m.ballot(digest), err
}

func (b ballot) String() string {
	if b.kind == PlanKind {
		return "plan " + b.digest
	}
	return fmt.Sprintf("the motion %s (%s)", b.digest, b.kind)
}

// checkStanding refuses what nobody can approve any more.
func (b ballot) checkStanding(set Approvers, now time.Time) error {
	if set.Digest() != b.approvers {
		return fmt.Errorf("%w: the approver set changed after %s was made: make a new one", ErrNeedsApproval, b)
	}
	if b.expires.IsZero() {
		return fmt.Errorf("%w: %s says no end of the time in which it may be approved and carried out: make a new one", ErrNeedsApproval, b)
	}
	if !now.Before(b.expires) {
		return fmt.Errorf("%w: %s expired at %s: make a new one and have it approved", ErrNeedsApproval, b, b.expires.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkApproval refuses an approval, or a proposer's signature, that does not
// count.
func (b ballot) checkApproval(judge Judge, a Approval, set Approvers, incidents []trust.Incident) error {
	if a.Kind != b.kind || a.Digest != b.digest {
		return fmt.Errorf("approval by %s is of the %s %s, not of %s", a.Approver, a.Kind, a.Digest, b)
	}
	p, err := set.person(a.Approver)
	if err != nil {
		return err
	}
	switch proposed := p.is(b.proposer); {
	case a.Proposal && !proposed:
		return fmt.Errorf("%s cannot sign as the proposer of %s: it says that %q proposed it, which is no name or alias of theirs", a.Approver, b, b.proposer)
	case !a.Proposal && proposed:
		return fmt.Errorf("%s proposed %s and cannot approve it", a.Approver, b)
	case !a.Proposal && p.ProposesOnly:
		return fmt.Errorf("%s is enrolled to propose only and cannot approve %s", a.Approver, b)
	}
	request, err := ApprovalRequest(b.kind, b.digest, b.subject, a.Approver, b.expires)
	if err != nil {
		return err
	}
	if _, err := p.checkSigned(judge, a.Signature, request, incidents); err != nil {
		return fmt.Errorf("approval by %s does not verify over %s: it must sign exactly what \"reseal incident approve --request\" prints: %w", a.Approver, b, err)
	}
	return nil
}

// Approve checks one approval, or a proposer's signature, and keeps it. a.At is
// the time now. judge may be nil where no keyless signature is expected.
func Approve(ctx context.Context, s *store.Store, judge Judge, by journal.Author, a Approval) error {
	a.Schema = ApprovalSchema
	b, err := loadBallot(ctx, s, a.Kind, a.Digest)
	if err != nil {
		return err
	}
	set, incidents, err := people(ctx, s)
	if err != nil {
		return err
	}
	if err := b.checkStanding(set, a.At); err != nil {
		return err
	}
	if err := b.checkApproval(judge, a, set, counting(incidents)); err != nil {
		return err
	}
	body, err := canonical(a)
	if err != nil {
		return err
	}
	under, action := a.Approver, a.Kind+".approved"
	if a.Proposal {
		under, action = proposal, a.Kind+".proposed"
	}
	return s.Update(ctx, by, func(tx *store.Tx) error {
		return tx.PutDocument(ctx, store.KindApproval, a.Digest+" "+under, action, body)
	})
}

// people returns who may approve, and every incident.
func people(ctx context.Context, s *store.Store) (Approvers, []Incident, error) {
	set, err := LoadApprovers(ctx, s)
	if err != nil {
		return set, nil, err
	}
	incidents, err := Incidents(ctx, s)
	return set, incidents, err
}

// ApprovedBy returns who has given an approval of a plan or a motion, by name.
// Whether each still counts is for Permit and Carry to say.
func ApprovedBy(ctx context.Context, s *store.Store, digest string) ([]string, error) {
	all, err := loadAll[Approval](ctx, s, store.KindApproval, digest+" ")
	names := []string{}
	for _, a := range all {
		if !a.Proposal {
			names = append(names, a.Approver)
		}
	}
	return names, err
}

// votes is what was counted of a ballot.
type votes struct {
	approvers []Person
	proposed  bool    // the proposer signed
	refused   []error // why others do not count
}

// count verifies every approval of a ballot anew. One that does not verify does
// not count, and does not spoil the others.
func (b ballot) count(ctx context.Context, s *store.Store, judge Judge, set Approvers, incidents []trust.Incident) (votes, error) {
	var v votes
	bodies, err := s.Documents(ctx, store.KindApproval, b.digest+" ")
	if err != nil {
		return v, err
	}
	for _, body := range bodies {
		var a Approval
		if err := json.Unmarshal(body, &a); err != nil {
			v.refused = append(v.refused, fmt.Errorf("approval of %s: %w", b, err))
			continue
		}
		counted := slices.ContainsFunc(v.approvers, func(p Person) bool { return p.Name == a.Approver })
		if counted && !a.Proposal {
			continue
		}
		if err := b.checkApproval(judge, a, set, incidents); err != nil {
			v.refused = append(v.refused, err)
			continue
		}
		if a.Proposal {
			v.proposed = true
			continue
		}
		p, err := set.person(a.Approver)
		if err != nil {
			return v, err
		}
		v.approvers = append(v.approvers, p)
	}
	return v, nil
}

func (v votes) names() []string {
	names := make([]string, len(v.approvers))
	for n, p := range v.approvers {
		names[n] = p.Name
	}
	return names
}

// checkQuorum refuses a ballot that too few approved. Who proposed is known only
// where the proposer signed; otherwise any of the approvers may be the one, so
// the quorum and the roles must hold without whichever it is.
func (v votes) checkQuorum(b ballot, set Approvers, severities []string, incidents []trust.Incident) error {
	need := 0
	for _, severity := range severities {
		need = max(need, set.Needed(severity))
	}
	unknown := 0
	if !v.proposed {
		unknown = 1
	}
	roles := missingRoles(set.Roles, v.approvers, unknown)
	if len(v.approvers) >= need+unknown && len(roles) == 0 {
		return nil
	}
	var able []string
	for _, p := range set.People {
		if !p.ProposesOnly && !p.is(b.proposer) && !slices.Contains(v.names(), p.Name) && p.able(incidents) {
			able = append(able, p.Name)
		}
	}
	says := fmt.Sprintf("%s has %d of %d approvals", b, len(v.approvers), need+unknown)
	if len(roles) > 0 {
		says += "; missing: " + strings.Join(roles, ", ")
	}
	says += "; still able to approve: " + strings.Join(able, ", ")
	if len(able) == 0 {
		says += "nobody"
	}
	if unknown > 0 {
		says += fmt.Sprintf("; the proposal is not signed, so any approver may be the proposer: %d approvals are enough once %q signs it", need, b.proposer)
	}
	return errors.Join(fmt.Errorf("%w: %s", ErrNeedsApproval, says), errors.Join(v.refused...))
}

// Permission is the right to carry out one plan. Only Permit makes one.
type Permission struct {
	plan       Plan
	digest     string
	totals     Totals
	approvers  []string
	breakGlass *BreakGlass
	at         time.Time // when it was given
	alone      bool      // it rests on the glass that was broken: no quorum approved
}

// Plan returns the approved plan.
func (p Permission) Plan() Plan { return p.plan }

// Digest returns the digest of the approved plan.
func (p Permission) Digest() string { return p.digest }

// Totals returns what the approved plan counts.
func (p Permission) Totals() Totals { return p.totals }

// Approvers returns who approved, by name.
func (p Permission) Approvers() []string { return p.approvers }

// BreakGlass returns how somebody went past the quorum, or nil where nobody
// did. It stays when a quorum approves the plan after all, and belongs in every
// report.
func (p Permission) BreakGlass() *BreakGlass { return p.breakGlass }

// Permit checks that a plan is whole, that it has not expired at the time now,
// and that a quorum of distinct people approved it or one broke the glass. Every
// signature is verified anew. Without a quorum the error wraps ErrNeedsApproval
// and says who and what is missing. judge may be nil: keyless approvals do not
// count then.
func Permit(ctx context.Context, s *store.Store, judge Judge, digest string, now time.Time) (Permission, error) {
	p, t, err := LoadPlan(ctx, s, digest)
	if err != nil {
		return Permission{}, err
	}
	return Permission{plan: p, digest: digest, totals: t}.Again(ctx, s, judge, now)
}

// Again checks anew what Permit checks, but for the lines of the plan, which are
// read once: the time, the incidents, who may approve and every signature of
// those who did.
func (p Permission) Again(ctx context.Context, s *store.Store, judge Judge, now time.Time) (Permission, error) {
	return permit(ctx, s, judge, p.plan, p.totals, p.digest, now)
}

func permit(ctx context.Context, s *store.Store, judge Judge, p Plan, t Totals, digest string, now time.Time) (Permission, error) {
	set, incidents, err := people(ctx, s)
	if err != nil {
		return Permission{}, err
	}
	b := p.ballot(digest)
	if err := b.checkStanding(set, now); err != nil {
		return Permission{}, err
	}
	if err := p.checkRotation(ctx, s); err != nil {
		return Permission{}, err
	}
	for _, i := range incidents {
		switch {
		case i.ID != p.Incident:
		case !i.counts():
			return Permission{}, fmt.Errorf("%w: incident %s of plan %s was withdrawn: there is nothing to carry out", ErrNeedsApproval, i.ID, digest)
		default:
			if err := p.checkKept(i.Incident, now); err != nil {
				return Permission{}, err
			}
		}
	}
	// What was learnt since the plan was made may ask for more people, never for
	// fewer.
	severities := append(p.severities(incidents), p.Severity)
	rules := counting(incidents)
	v, err := b.count(ctx, s, judge, set, rules)
	if err != nil {
		return Permission{}, err
	}
	glass, broken, refused, err := b.glass(ctx, s, judge, set, rules)
	if err != nil {
		return Permission{}, err
	}
	err = v.checkQuorum(b, set, severities, rules)
	if err != nil && !broken {
		return Permission{}, errors.Join(err, refused)
	}
	return Permission{plan: p, digest: digest, totals: t, approvers: v.names(), breakGlass: glass, at: now, alone: err != nil}, nil
}

// severities returns those of every incident that is about what the plan's own
// is about: one more, which anybody may declare and call less grave, is no way
// around the people it takes.
func (p Plan) severities(incidents []Incident) (out []string) {
	at := slices.IndexFunc(incidents, func(i Incident) bool { return i.ID == p.Incident })
	if at < 0 {
		return nil
	}
	primary := incidents[at].Incident
	about := append(slices.Clone(p.Replaced), primary.Signers...)
	for _, i := range incidents {
		if i.ID == p.Incident || i.counts() && (slices.ContainsFunc(about, i.Names) || slices.ContainsFunc(i.Signers, primary.Names) ||
			slices.ContainsFunc(i.Selectors, func(x trust.Selector) bool { return slices.Contains(primary.Selectors, x) }) ||
			slices.ContainsFunc(i.Authorities, func(x inventory.Authority) bool { return slices.Contains(primary.Authorities, x) })) {
			out = append(out, i.Severity)
		}
	}
	return out
}

// Current returns the policy of an approved plan under the incidents as they
// are now, so that what was learnt since the approval counts against trust.
// Vouchers that only the plan itself lists count by its quorum: where one person
// stands in for it they vouch for nothing.
func (p Permission) Current(ctx context.Context, s *store.Store) (trust.Policy, error) {
	return p.counted().Current(ctx, s)
}

// counted is the plan with the vouchers that count.
func (p Permission) counted() Plan {
	plan := p.plan
	if p.alone {
		plan.Vouchers = slices.DeleteFunc(slices.Clone(plan.Vouchers), func(v trust.Voucher) bool { return v.Standing == nil })
	}
	return plan
}

func trimAlgorithm(digest string) string { return strings.TrimPrefix(digest, "sha256:") }
