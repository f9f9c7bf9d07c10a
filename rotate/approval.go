package rotate

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
	"github.com/sigstore/sigstore/pkg/signature"
)

// ErrNeedsApproval is returned when a plan has not been approved by enough
// people.
var ErrNeedsApproval = errors.New("not approved")

// Approver is a person who may approve, and the key they do it with.
type Approver struct {
	Name      string `json:"name"`
	PublicKey string `json:"public_key"` // PEM
}

// Approvers is who may approve, and how many of them must.
type Approvers struct {
	Schema string     `json:"schema"`
	Quorum int        `json:"quorum"`
	People []Approver `json:"people"`
}

// Check refuses a set in which two people could be one, or in which the quorum
// cannot be reached.
func (a Approvers) Check() error {
	names, keys := map[string]bool{}, map[signer.Identity]string{}
	for _, p := range a.People {
		if p.Name == "" || p.Name != strings.TrimSpace(p.Name) {
			return fmt.Errorf("approvers: %q is no name: use one without spaces around it", p.Name)
		}
		if names[strings.ToLower(p.Name)] {
			return fmt.Errorf("approvers: %s is listed twice", p.Name)
		}
		names[strings.ToLower(p.Name)] = true
		_, id, err := signer.ParsePublicKey([]byte(p.PublicKey))
		if err != nil {
			return fmt.Errorf("approvers: %s: %w", p.Name, err)
		}
		if other, ok := keys[id]; ok {
			return fmt.Errorf("approvers: %s and %s have the same key", other, p.Name)
		}
		keys[id] = p.Name
	}
	if a.Quorum < 1 || a.Quorum > len(a.People) {
		return fmt.Errorf("approvers: a quorum of %d cannot be reached by %d people", a.Quorum, len(a.People))
	}
	return nil
}

// Digest identifies the set.
func (a Approvers) Digest() string {
	body, err := canonical(a)
	if err != nil { // strings and an int always marshal
		return ""
	}
	return inventory.Digest(body)
}

// Enroll keeps the approver set. Changing a set that exists is refused here.
func Enroll(ctx context.Context, s *store.Store, by journal.Author, a Approvers) error {
	a.Schema = ApproversSchema
	if err := a.Check(); err != nil {
		return err
	}
	body, err := canonical(a)
	if err != nil {
		return err
	}
	return s.Update(ctx, by, func(tx *store.Tx) error {
		if _, err := s.Document(ctx, store.KindApprovers, "approvers"); err == nil {
			return errors.New("approvers are enrolled already")
		} else if !errors.Is(err, inventory.ErrNotFound) {
			return err
		}
		return tx.PutDocument(ctx, store.KindApprovers, "approvers", "approvers.enrolled", body)
	})
}

// LoadApprovers returns the approver set in force.
func LoadApprovers(ctx context.Context, s *store.Store) (Approvers, error) {
	var a Approvers
	err := load(ctx, s, store.KindApprovers, "approvers", &a)
	if errors.Is(err, inventory.ErrNotFound) {
		return a, errors.New("no approvers are enrolled: \"reseal init --approver NAME=PUB\" enrols them")
	}
	return a, err
}

// Approval is one person's signature over a plan.
type Approval struct {
	Schema    string    `json:"schema"`
	Plan      string    `json:"plan"`
	Approver  string    `json:"approver"`
	Signature string    `json:"signature"` // base64, over ApprovalRequest; what "cosign sign-blob" prints
	At        time.Time `json:"at"`
}

// ApprovalRequest returns the exact bytes a person signs to approve a plan.
// They can be signed anywhere with "cosign sign-blob".
func ApprovalRequest(plan, incident, approver string) ([]byte, error) {
	return canonical(struct {
		Schema   string `json:"schema"`
		Plan     string `json:"plan"`
		Incident string `json:"incident"`
		Approver string `json:"approver"`
	}{ApprovalSchema, plan, incident, approver})
}

// Approve checks one approval and keeps it.
func Approve(ctx context.Context, s *store.Store, by journal.Author, a Approval) error {
	a.Schema = ApprovalSchema
	p, _, err := LoadPlan(ctx, s, a.Plan)
	if err != nil {
		return err
	}
	approvers, err := LoadApprovers(ctx, s)
	if err != nil {
		return err
	}
	incidents, err := Incidents(ctx, s)
	if err != nil {
		return err
	}
	if err := checkApproval(p, a, approvers, incidents); err != nil {
		return err
	}
	body, err := canonical(a)
	if err != nil {
		return err
	}
	return s.Update(ctx, by, func(tx *store.Tx) error {
		return tx.PutDocument(ctx, store.KindApproval, a.Plan+" "+a.Approver, "plan.approved", body)
	})
}

func checkApproval(p Plan, a Approval, approvers Approvers, incidents []Incident) error {
	at := slices.IndexFunc(approvers.People, func(x Approver) bool { return x.Name == a.Approver })
	if at < 0 {
		return fmt.Errorf("%s is not an enrolled approver", a.Approver)
	}
	if strings.EqualFold(a.Approver, strings.TrimSpace(p.Proposer)) {
		return fmt.Errorf("%s proposed the plan and cannot approve it", a.Approver)
	}
	pub, id, err := signer.ParsePublicKey([]byte(approvers.People[at].PublicKey))
	if err != nil {
		return fmt.Errorf("approver %s: %w", a.Approver, err)
	}
	if slices.ContainsFunc(incidents, func(i Incident) bool { return slices.Contains(i.Signers, id) }) {
		return fmt.Errorf("the key of approver %s is itself under an incident", a.Approver)
	}
	request, err := ApprovalRequest(a.Plan, p.Incident, a.Approver)
	if err != nil {
		return err
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(a.Signature))
	if err != nil {
		return fmt.Errorf("approval by %s: the signature is not base64: %w", a.Approver, err)
	}
	v, err := signature.LoadDefaultVerifier(pub)
	if err != nil {
		return fmt.Errorf("approver %s: %w", a.Approver, err)
	}
	if err := v.VerifySignature(bytes.NewReader(raw), bytes.NewReader(request)); err != nil {
		return fmt.Errorf("approval by %s does not verify over plan %s: it must sign exactly what \"reseal incident approve --request\" prints: %w", a.Approver, a.Plan, err)
	}
	return nil
}

// ApprovedBy returns who has given an approval of a plan, by name.
func ApprovedBy(ctx context.Context, s *store.Store, digest string) ([]string, error) {
	bodies, err := s.Documents(ctx, store.KindApproval, digest+" ")
	names := make([]string, len(bodies))
	for n, b := range bodies {
		var a Approval
		if err := json.Unmarshal(b, &a); err != nil {
			return nil, fmt.Errorf("approval of %s: %w", digest, err)
		}
		names[n] = a.Approver
	}
	return names, err
}

// Permission is the right to carry out one plan. Only Permit makes one.
type Permission struct {
	plan      Plan
	digest    string
	totals    Totals
	approvers []string
}

// Plan returns the approved plan.
func (p Permission) Plan() Plan { return p.plan }

// Digest returns the digest of the approved plan.
func (p Permission) Digest() string { return p.digest }

// Totals returns what the approved plan counts.
func (p Permission) Totals() Totals { return p.totals }

// Approvers returns who approved, by name.
func (p Permission) Approvers() []string { return p.approvers }

// Permit checks that a plan is whole and approved by a quorum of distinct people, each approval being verified anew. Without a
// quorum the error wraps ErrNeedsApproval and says who is missing.
func Permit(ctx context.Context, s *store.Store, digest string) (Permission, error) {
	p, t, err := LoadPlan(ctx, s, digest)
	if err != nil {
		return Permission{}, err
	}
	perm := Permission{plan: p, digest: digest, totals: t}
	approvers, err := LoadApprovers(ctx, s)
	if err != nil {
		return Permission{}, err
	}
	if approvers.Digest() != p.Approvers {
		return Permission{}, fmt.Errorf("%w: the approver set changed after plan %s was made: make a new plan", ErrNeedsApproval, digest)
	}
	incidents, err := Incidents(ctx, s)
	if err != nil {
		return Permission{}, err
	}
	bodies, err := s.Documents(ctx, store.KindApproval, digest+" ")
	if err != nil {
		return Permission{}, err
	}
	var refused []error
	for _, b := range bodies {
		var a Approval
		if err := json.Unmarshal(b, &a); err != nil {
			return Permission{}, fmt.Errorf("approval of %s: %w", digest, err)
		}
		if a.Plan != digest || slices.Contains(perm.approvers, a.Approver) {
			continue
		}
		if err := checkApproval(p, a, approvers, incidents); err != nil {
			refused = append(refused, err) // does not count, and does not spoil the others
			continue
		}
		perm.approvers = append(perm.approvers, a.Approver)
	}
	if len(perm.approvers) < approvers.Quorum {
		var missing []string
		for _, x := range approvers.People {
			if x.Name != p.Proposer && !slices.Contains(perm.approvers, x.Name) {
				missing = append(missing, x.Name)
			}
		}
		return Permission{}, errors.Join(fmt.Errorf("%w: plan %s has %d of %d approvals; still able to approve: %s",
			ErrNeedsApproval, digest, len(perm.approvers), approvers.Quorum, strings.Join(missing, ", ")), errors.Join(refused...))
	}
	return perm, nil
}

// checkNewSigner refuses a new signer that an incident is about, also one
// declared since the plan was approved.
func (p Plan) checkNewSigner(incidents []Incident) error {
	for _, i := range incidents {
		if slices.Contains(i.Signers, p.NewSigner) {
			return fmt.Errorf("the new signer %s is itself under incident %s: choose another in a new plan", p.NewSigner, i.ID)
		}
	}
	return nil
}

// Current returns the policy of an approved plan under the incidents as they
// are now, so that what was learnt since the approval counts against trust.
func (p Permission) Current(ctx context.Context, s *store.Store) (trust.Policy, error) {
	policy := p.plan.Policy(ctx, s)
	incidents, err := Incidents(ctx, s)
	if err != nil {
		return policy, err
	}
	if err := p.plan.checkNewSigner(incidents); err != nil {
		return policy, err
	}
	policy.Incidents = nil
	for _, i := range incidents {
		policy.Incidents = append(policy.Incidents, i.Incident)
	}
	policy.Rogue = p.plan.rogueNow(incidents)
	return policy, nil
}

// rogueNow is what the plan marks rogue and what was marked since.
func (p Plan) rogueNow(incidents []Incident) map[string]string {
	rogue := maps.Clone(p.Rogue)
	if rogue == nil {
		rogue = map[string]string{}
	}
	for _, i := range incidents {
		for d, why := range i.Rogue {
			rogue[d] = i.ID + ": " + why
		}
	}
	return rogue
}

func trimAlgorithm(digest string) string { return strings.TrimPrefix(digest, "sha256:") }
