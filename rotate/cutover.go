package rotate

import (
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

// errHidden is why a good ".sig" is refused all the same.
var errHidden = errors.New("a bundle that nothing proves good makes cosign look past its \".sig\": take it away first (reseal cutover PLAN --prune, or by hand where it is nobody's), or have the image signed in a bundle, too")

// Dark is a deployed artifact that a consumer would refuse.
type Dark struct {
	Artifact string `json:"artifact"`
	Consumer string `json:"consumer"`
	Why      string `json:"why"`
	Accepted bool   `json:"accepted"` // its hold was accepted by name in the plan
}

// Cutover is what cutting over did, or would do.
type Cutover struct {
	Incident string   `json:"incident"` // or the rotation
	Plan     string   `json:"plan"`
	Applied  bool     `json:"applied"`
	Checked  int64    `json:"checked"` // (artifact, consumer) pairs verified under the new trust
	Dark     []Dark   `json:"dark"`
	Anchors  []string `json:"anchors"` // changed, or to be changed
	Already  []string `json:"already"` // that name the new signer already
	Others   []string `json:"others"`  // consumers that accept another signer, which is not replaced
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
	c := Cutover{Incident: p.plan.Incident, Plan: p.digest, Applied: apply, Dark: []Dark{}, Anchors: []string{}, Already: []string{}, Others: []string{}}
	if p.plan.Keep {
		return c, fmt.Errorf("plan %s keeps its signer: no anchor changes; \"reseal contain\" has the window denied", p.digest)
	}
	if p.plan.rotation() && len(p.plan.Replaced) == 0 {
		return c, fmt.Errorf("plan %s replaces no signer, only formats: no anchor changes; \"reseal rotation parity\" proves that nothing is missing", p.digest)
	}
	if err := p.plan.checkRotated(ctx, s); err != nil {
		return c, err
	}
	next, err := s.Signer(ctx, p.plan.NewSigner.ID())
	if err != nil {
		return c, err
	}
	anchor, err := emit.CosignKey(next)
	if err != nil {
		return c, err
	}
	// Everything is looked at before anything is written.
	change, err := c.anchors(ctx, s, p.plan, next)
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
	a := acts{store: s, by: by, apply: apply}
	for _, x := range change {
		if err := a.do(ctx, "anchor.keep", x.file, x.old, func() error { return nil }); err != nil {
			return c, err
		}
		if err := a.do(ctx, "anchor.write", x.file, anchor, func() error {
			return durable.WriteFile(x.file, anchor, 0o644)
		}); err != nil {
			return c, err
		}
	}
	if !apply {
		return c, nil
	}
	return c, s.Update(ctx, by, func(tx *store.Tx) error {
		// Anew: what was declared while the anchors were written must not be
		// undone.
		set, incidents, err := people(ctx, s)
		if err != nil {
			return err
		}
		if err := p.plan.checkNewSigner(set, incidents); err != nil {
			return fmt.Errorf("the anchors name it already: %w", err)
		}
		if err := p.plan.checkRotated(ctx, s); err != nil {
			return fmt.Errorf("the anchors name the new signer already: %w", err)
		}
		next, err := s.Signer(ctx, p.plan.NewSigner.ID())
		if err != nil {
			return err
		}
		next.State = signer.Active
		if err := tx.PutSigner(ctx, next); err != nil {
			return err
		}
		for _, id := range p.plan.Replaced {
			old, err := s.Signer(ctx, id.ID())
			if errors.Is(err, inventory.ErrNotFound) {
				continue // named before anything of it was seen
			}
			if err != nil {
				return err
			}
			old.State = signer.Revoked
			if p.plan.rotation() {
				old.State = signer.Old
			}
			if err := tx.PutSigner(ctx, old); err != nil {
				return err
			}
		}
		tx.Record(journal.Draft{Action: "cutover.done", Subject: p.plan.Incident, Digest: p.digest})
		return nil
	})
}

// rewrite is an anchor that is to name the new signer.
type rewrite struct {
	file string
	old  []byte
}

// anchors reads every consumer's anchor and tells those to be rewritten from
// the others. What an anchor pins must be known: the unknown stops and asks.
func (c *Cutover) anchors(ctx context.Context, s *store.Store, p Plan, next signer.Record) ([]rewrite, error) {
	var change []rewrite
	for _, consumer := range p.Consumers {
		old, err := os.ReadFile(consumer.Anchor)
		if err != nil {
			return nil, fmt.Errorf("anchor of consumer %s: %w", consumer.Name, err)
		}
		_, id, err := signer.ParsePublicKey(old)
		if err != nil {
			return nil, fmt.Errorf("anchor %s of consumer %s: %w", consumer.Anchor, consumer.Name, err)
		}
		switch {
		case id == next.Identity:
			c.Already = append(c.Already, consumer.Name)
		case slices.Contains(p.Replaced, id):
			c.Anchors = append(c.Anchors, consumer.Name)
			change = append(change, rewrite{consumer.Anchor, old})
		default:
			r, err := s.Signer(ctx, id.ID())
			if err != nil && !errors.Is(err, inventory.ErrNotFound) {
				return nil, err
			}
			if !r.Enrolled() || !r.State.Trusted() {
				return nil, fmt.Errorf("anchor %s of consumer %s pins %s, which is neither replaced by the plan nor enrolled as trusted: look at it, and correct the anchor or enrol the signer", consumer.Anchor, consumer.Name, id)
			}
			c.Others = append(c.Others, consumer.Name)
		}
	}
	return change, nil
}

// cover verifies every deployed artifact of the plan under the new trust, for
// every consumer concerned that is able to read a signature on it, or was until
// the signature vanished from the registry.
func (c *Cutover) cover(ctx context.Context, s *store.Store, accepts Accepts, p Permission, next signer.Record) error {
	policy, err := p.Current(ctx, s)
	if err != nil {
		return err
	}
	held := map[string]string{} // reasons
	denied := map[string]bool{} // what is meant to be refused keeps nobody from cutting over
	if _, err := Assess(ctx, s, policy, func(i Item) error {
		switch ref := i.Repository + "@" + i.Digest; {
		case !i.Deployed || i.PredicateType() != inventory.SignPredicate:
		case i.Decision == trust.Hold:
			held[ref] = i.Reason
		case i.Decision == trust.Deny:
			denied[ref] = true
		}
		return nil
	}); err != nil {
		return err
	}
	return eachArtifact(ctx, s, policy, func(arts []inventory.Artifact) error {
		for _, a := range arts {
			if _, rogue := policy.Rogue[a.Digest]; rogue || denied[a.Ref()] || !a.Deployed {
				continue
			}
			if err := c.coverOne(ctx, s, accepts, p.plan, policy, a, next, held[a.Ref()]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *Cutover) coverOne(ctx context.Context, s *store.Store, accepts Accepts, p Plan, policy trust.Policy, a inventory.Artifact, next signer.Record, held string) error {
	ever, err := s.SignaturesEver(ctx, a)
	if err != nil {
		return err
	}
	for _, place := range trust.Elsewhere(ever, policy) {
		c.Dark = append(c.Dark, Dark{Artifact: a.Ref(), Consumer: "whoever reads " + place,
			Why: "a proven signature is kept as " + place + ", where the new signer has none: sign it there by hand and scan", Accepted: slices.Contains(p.AcceptDark, a.Digest)})
	}
	for _, consumer := range p.Consumers {
		if slices.Contains(c.Others, consumer.Name) || !slices.ContainsFunc(ever, func(g inventory.Signature) bool {
			reads := g.Format == consumer.Reads || !g.Format.InFiles() && slices.Contains(p.Formats, consumer.Reads) // what it read elsewhere it finds there now
			return reads && g.Verified && g.PredicateType == inventory.SignPredicate && policy.Replaces(g)
		}) {
			continue
		}
		c.Checked++
		err := accepts(ctx, a.Repository, a.Digest, consumer.Reads, next)
		if err == nil && consumer.Reads == inventory.Legacy && trust.Hidden(ever, policy) {
			err = errHidden
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			d := Dark{Artifact: a.Ref(), Consumer: consumer.Name, Why: err.Error()}
			if errors.Is(err, errHidden) {
				d.Accepted = slices.Contains(p.AcceptDark, a.Digest)
			}
			if held != "" {
				d.Why, d.Accepted = "on hold: "+held, slices.Contains(p.AcceptDark, a.Digest)
			}
			c.Dark = append(c.Dark, d)
		}
	}
	return nil
}
