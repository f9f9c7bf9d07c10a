package rotate

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
)

// ArtifactExplanation is all that is known of an artifact in one repository, and
// how it is decided about.
type ArtifactExplanation struct {
	Repository string                 `json:"repository"`
	Digest     string                 `json:"digest"`
	Deployed   bool                   `json:"deployed"`
	Tags       []string               `json:"tags,omitempty"`
	FirstSeen  time.Time              `json:"first_seen"`
	Rogue      string                 `json:"rogue,omitempty"` // why it is marked rogue
	Statements []StatementExplanation `json:"statements"`
}

// StatementExplanation is the reasoning about one statement.
type StatementExplanation struct {
	Statement   string            `json:"statement"`
	Decision    trust.Decision    `json:"decision"` // what the rules, the image and recalls together come to; empty: no concern of the policy
	Reason      string            `json:"reason"`
	Recall      bool              `json:"recall,omitempty"`
	Explanation trust.Explanation `json:"explanation"` // what each rule found
	Sightings   []Sighting        `json:"sightings"`
	Planned     *Planned          `json:"planned,omitempty"` // what the plan asked about says; nil: nothing
}

// Sighting is when our own inventory saw a signature.
type Sighting struct {
	Signature string     `json:"signature"`
	FirstSeen time.Time  `json:"first_seen"`
	Gone      bool       `json:"gone,omitempty"`     // no longer at its place, so it counts for nothing
	Anchored  *time.Time `json:"anchored,omitempty"` // the anchored journal proves that it existed by then
	// Unexplained: a complete source covers it and no record of ours accounts for
	// it. Otherwise nothing is known against it.
	Unexplained bool `json:"unexplained,omitempty"`
}

// Planned is what a plan says about a statement.
type Planned struct {
	Plan     string         `json:"plan"`
	Seq      int64          `json:"seq"`
	Decision trust.Decision `json:"decision"`
	Reason   string         `json:"reason"`
	Recall   bool           `json:"recall,omitempty"`
	Changed  bool           `json:"changed,omitempty"` // the inventory would decide otherwise now
}

// ExplainArtifact explains every statement about a digest in every repository
// under a policy. With the digest of a plan it also tells what that plan says.
func ExplainArtifact(ctx context.Context, s *store.Store, policy trust.Policy, plan, digest string) ([]ArtifactExplanation, error) {
	if err := inventory.CheckDigest(digest); err != nil {
		return nil, err
	}
	planned := map[itemKey]Planned{}
	if plan != "" {
		if _, _, err := LoadPlan(ctx, s, plan); err != nil {
			return nil, err
		}
		if err := Items(ctx, s, plan, "", func(i Item) error {
			if i.Digest == digest {
				planned[keyOf(i)] = Planned{Plan: plan, Seq: i.Seq, Decision: i.Decision, Reason: i.Reason, Recall: i.Recall}
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	policy.Incidents = trust.Compiled(policy.Incidents)
	var out []ArtifactExplanation
	for at := (store.Place{}); ; {
		arts, next, err := s.Artifacts(ctx, store.Selection{Digest: digest}, at, page)
		if err != nil {
			return nil, err
		}
		if len(arts) == 0 {
			break
		}
		at = next
		for _, a := range arts {
			x, err := explainArtifact(ctx, s, policy, a, plan, planned)
			if err != nil {
				return nil, err
			}
			out = append(out, x)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: %w in the inventory: scan the repositories it could be in", digest, inventory.ErrNotFound)
	}
	return out, nil
}

func explainArtifact(ctx context.Context, s *store.Store, policy trust.Policy, a inventory.Artifact, plan string, planned map[itemKey]Planned) (ArtifactExplanation, error) {
	x := ArtifactExplanation{Repository: a.Repository, Digest: a.Digest, Deployed: a.Deployed, Tags: a.Tags, FirstSeen: a.FirstSeen,
		Rogue: policy.Rogue[a.Digest], Statements: []StatementExplanation{}}
	ever, err := s.SignaturesEver(ctx, a)
	if err != nil {
		return x, err
	}
	at, err := s.SignaturesOf(ctx, a, plan) // as the plan looks at it, when it is carried out
	if err != nil {
		return x, err
	}
	items, err := decideOne(ctx, s, a, at, policy)
	if err != nil {
		return x, err
	}
	beside := inventory.Statements(a, at)
	for _, all := range inventory.Statements(a, ever) { // also what is gone altogether
		st := inventory.Statement{Artifact: a, Key: all.Key}
		if n := slices.IndexFunc(beside, func(b inventory.Statement) bool { return b.Key == all.Key }); n >= 0 {
			st = beside[n]
		}
		e := StatementExplanation{Statement: all.Key, Sightings: []Sighting{}}
		e.Explanation, _ = trust.Explain(st, beside, policy)
		e.Reason = e.Explanation.Reason
		key := itemKey(hashed(a.Repository, a.Digest, all.Key))
		for _, i := range items {
			if i.Statement == all.Key {
				e.Decision, e.Reason, e.Recall = i.Decision, i.Reason, i.Recall
			}
		}
		if p, ok := planned[key]; ok {
			p.Changed = p.Decision != e.Decision
			e.Planned = &p
		}
		for _, g := range all.Signatures {
			e.Sightings = append(e.Sightings, sighting(g, policy))
		}
		x.Statements = append(x.Statements, e)
	}
	return x, nil
}

func sighting(g inventory.Signature, policy trust.Policy) Sighting {
	out := Sighting{Signature: g.ID, FirstSeen: g.FirstSeen, Gone: g.Gone}
	for _, b := range g.Bounds {
		if b.Verified && b.Side == inventory.Upper && b.Authority.Role == inventory.RoleJournal && (out.Anchored == nil || b.Time.Before(*out.Anchored)) {
			out.Anchored = &b.Time
		}
	}
	out.Unexplained = policy.Unexplained != nil && policy.Unexplained(g)
	return out
}
