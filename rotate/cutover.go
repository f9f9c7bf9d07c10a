package rotate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/emit"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

// ErrNotCovered is returned when removing the old signer would leave a
// deployed good artifact in the dark.
var ErrNotCovered = errors.New("not covered")

// Dark is a deployed artifact that a consumer would refuse.
type Dark struct {
	Artifact string `json:"artifact"`
	Consumer string `json:"consumer"`
	Why      string `json:"why"`
	Accepted bool   `json:"accepted"` // its hold was accepted by name in the plan
}

// Cutover is what cutting over did, or would do.
type Cutover struct {
	Incident string   `json:"incident"`
	Plan     string   `json:"plan"`
	Applied  bool     `json:"applied"`
	Checked  int64    `json:"checked"` // (artifact, consumer) pairs verified under the new trust
	Dark     []Dark   `json:"dark"`
	Anchors  []string `json:"anchors"` // changed, or to be changed
	Already  []string `json:"already"` // that name the new signer already
}

// Accepts verifies one artifact, as it is in the registry now, the way a
// consumer of the given format does that accepts nobody but one signer. The
// error says why it is refused.
type Accepts func(ctx context.Context, repository, digest string, f inventory.Format, by signer.Record) error

// CutOver removes the old signer from every anchor of an approved plan and
// puts the new one there, but only when every deployed good artifact passes
// under the new trust (ErrNotCovered otherwise, with the list). It may be run
// again.
func CutOver(ctx context.Context, s *store.Store, accepts Accepts, by journal.Author, p Permission, apply bool) (Cutover, error) {
	c := Cutover{Incident: p.plan.Incident, Plan: p.digest, Applied: apply, Dark: []Dark{}, Anchors: []string{}, Already: []string{}}
	next, err := s.Signer(ctx, p.plan.NewSigner.ID())
	if err != nil {
		return c, err
	}
	if err := c.cover(ctx, s, accepts, p, next); err != nil {
		return c, err
	}
	blocking := 0
	for _, d := range c.Dark {
		if !d.Accepted {
			blocking++
		}
	}
	if blocking > 0 {
		return c, fmt.Errorf("%w: %d deployed artifacts would go dark: re-sign them, vouch for them in a new plan, or accept each by name with --accept-dark", ErrNotCovered, blocking)
	}
	anchor, err := emit.CosignKey(next)
	if err != nil {
		return c, err
	}
	i, err := LoadIncident(ctx, s, p.plan.Incident)
	if err != nil {
		return c, err
	}
	a := acts{store: s, by: by, apply: apply}
	for _, consumer := range p.plan.Consumers {
		old, err := os.ReadFile(consumer.Anchor)
		if err != nil {
			return c, fmt.Errorf("anchor of consumer %s: %w", consumer.Name, err)
		}
		if bytes.Equal(old, anchor) {
			c.Already = append(c.Already, consumer.Name)
			continue
		}
		_, id, err := signer.ParsePublicKey(old)
		if err != nil {
			return c, fmt.Errorf("anchor %s of consumer %s: %w", consumer.Anchor, consumer.Name, err)
		}
		if !slices.Contains(i.Signers, id) {
			return c, fmt.Errorf("anchor %s of consumer %s pins %s, which incident %s is not about: look at it and take the consumer out of the plan, or correct the anchor", consumer.Anchor, consumer.Name, id, i.ID)
		}
		c.Anchors = append(c.Anchors, consumer.Name)
		if err := a.do(ctx, "anchor.keep", consumer.Anchor, old, func() error { return nil }); err != nil {
			return c, err
		}
		if err := a.do(ctx, "anchor.write", consumer.Anchor, anchor, func() error {
			return durable.WriteFile(consumer.Anchor, anchor, 0o644)
		}); err != nil {
			return c, err
		}
	}
	if !apply {
		return c, nil
	}
	return c, s.Update(ctx, by, func(tx *store.Tx) error {
		next.State = signer.Active
		if err := tx.PutSigner(ctx, next); err != nil {
			return err
		}
		for _, id := range i.Signers {
			old, err := s.Signer(ctx, id.ID())
			if err != nil {
				return err
			}
			old.State = signer.Revoked
			if err := tx.PutSigner(ctx, old); err != nil {
				return err
			}
		}
		tx.Record(journal.Draft{Action: "cutover.done", Subject: i.ID, Digest: p.digest})
		return nil
	})
}

// cover verifies every deployed artifact of the plan under the new trust, for
// every consumer that was able to read a signature on it.
func (c *Cutover) cover(ctx context.Context, s *store.Store, accepts Accepts, p Permission, next signer.Record) error {
	policy, err := p.Current(ctx, s)
	if err != nil {
		return err
	}
	_, err = Assess(ctx, s, policy, func(i Item) error {
		if !i.Deployed || i.Decision == trust.Deny || i.PredicateType() != inventory.SignPredicate {
			return nil
		}
		for _, consumer := range p.plan.Consumers {
			if !slices.ContainsFunc(i.Signatures, func(g ItemSignature) bool {
				return g.Format == consumer.Reads && g.Verdict != trust.Unverifiable && g.Signer != next.Identity.ID()
			}) {
				continue
			}
			c.Checked++
			if err := accepts(ctx, i.Repository, i.Digest, consumer.Reads, next); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				why := err.Error()
				if i.Decision == trust.Hold {
					why = "on hold: " + i.Reason
				}
				c.Dark = append(c.Dark, Dark{Artifact: i.Repository + "@" + i.Digest, Consumer: consumer.Name, Why: why,
					Accepted: i.Decision == trust.Hold && slices.Contains(p.plan.AcceptDark, i.Digest)})
			}
		}
		return nil
	})
	return err
}
