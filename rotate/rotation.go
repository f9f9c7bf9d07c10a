package rotate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

// Rotation is a change that no incident asks for: of a signer, because it is
// time, or of the formats that one and the same signer signs in. Its plans are
// made, approved, limited and carried out as those of an incident are. They rest
// on nothing but that From is trusted: see trust.Policy.Rotates.
type Rotation struct {
	Schema   string          `json:"schema"`
	ID       string          `json:"id"`
	From     signer.Identity `json:"from"`
	To       signer.Identity `json:"to"` // From where only formats change
	State    IncidentState   `json:"state"`
	OpenedBy string          `json:"opened_by"`
	OpenedAt time.Time       `json:"opened_at"`
	ClosedAt *time.Time      `json:"closed_at,omitempty"`
}

// OpenRotation keeps a rotation. One that is open already and says the same is
// left as it is, so that another plan can be made for it.
func OpenRotation(ctx context.Context, s *store.Store, by journal.Author, r Rotation) error {
	r.Schema, r.State, r.ClosedAt = RotationSchema, Open, nil
	if !incidentName.MatchString(r.ID) {
		return fmt.Errorf("rotation %q: give it a name of letters, digits, dots, dashes and underscores, e.g. ROT-2026", r.ID)
	}
	return s.Update(ctx, by, func(tx *store.Tx) error {
		switch known, err := LoadRotation(ctx, s, r.ID); {
		case err != nil && !errors.Is(err, inventory.ErrNotFound):
			return err
		case err != nil:
		case known.State != Open:
			return fmt.Errorf("rotation %s is %s: choose another name for another rotation", r.ID, known.State)
		case known.From != r.From || known.To != r.To:
			return fmt.Errorf("rotation %s is from %s to %s: choose another name for another rotation", r.ID, known.From, known.To)
		default:
			return nil
		}
		if _, err := s.Document(ctx, store.KindIncident, r.ID); err == nil {
			return fmt.Errorf("%s is the name of an incident: choose another name, else plans of both could be taken for one another", r.ID)
		} else if !errors.Is(err, inventory.ErrNotFound) {
			return err
		}
		return r.put(ctx, tx, "rotation.opened")
	})
}

func (r Rotation) put(ctx context.Context, tx *store.Tx, action string) error {
	body, err := canonical(r)
	if err != nil {
		return err
	}
	return tx.PutDocument(ctx, store.KindRotation, r.ID, action, body)
}

// LoadRotation returns a rotation by name.
func LoadRotation(ctx context.Context, s *store.Store, id string) (Rotation, error) {
	var r Rotation
	err := load(ctx, s, store.KindRotation, id, &r)
	if errors.Is(err, inventory.ErrNotFound) {
		return r, fmt.Errorf("%w: \"reseal rotation list\" lists those that are known", err)
	}
	return r, err
}

// Rotations returns every rotation, in order of name.
func Rotations(ctx context.Context, s *store.Store) ([]Rotation, error) {
	return loadAll[Rotation](ctx, s, store.KindRotation, "")
}

// rotation reports whether the plan is that of a rotation.
func (p Plan) rotation() bool { return len(p.Rotates) > 0 }

// rotate completes a plan of a rotation: who is rotated is what its record says.
// Its severity stays empty, so that it takes as many people as the gravest
// incident: else a rotation would be a way around them.
func (p *Plan) rotate(ctx context.Context, s *store.Store, incidents []Incident, approvers Approvers) error {
	r, err := LoadRotation(ctx, s, p.Incident)
	if err != nil {
		return err
	}
	p.Rotates, p.Replaced, p.Severity = []signer.Identity{r.From}, []signer.Identity{}, ""
	switch {
	case p.Keep || p.Order != "":
		return errors.New("a rotation keeps no compromised signer and contains nothing: leave out what is for incidents")
	case len(p.Vouchers) > 0:
		return errors.New("a rotation believes no voucher: what only a voucher proves good is no longer trusted, so open an incident")
	case p.NewSigner != r.To:
		return fmt.Errorf("rotation %s is to %s, not to %s", r.ID, r.To, p.NewSigner)
	}
	if err := p.checkRotation(ctx, s); err != nil {
		return err
	}
	if i := names(Rules(incidents), r.From); i != "" {
		return fmt.Errorf("%s is under incident %s: make a plan for that", r.From, i)
	}
	if err := p.checkRotated(ctx, s); err != nil {
		return err
	}
	next, err := p.newSigner(ctx, s, incidents, approvers)
	if err != nil {
		return err
	}
	if next.State != signer.Standby && next.State != signer.Active {
		return fmt.Errorf("the new signer %s is %s: rotate to one on standby or in use", next.Name, next.State)
	}
	if r.From != r.To {
		p.Replaced = []signer.Identity{r.From}
	} else if len(p.Formats) == 0 {
		return fmt.Errorf("rotation %s changes neither the signer nor the formats: name the formats to sign in, or another signer", r.ID)
	}
	return nil
}

// checkRotation refuses a plan whose rotation is over.
func (p Plan) checkRotation(ctx context.Context, s *store.Store) error {
	if !p.rotation() {
		return nil
	}
	r, err := LoadRotation(ctx, s, p.Incident)
	if err == nil && r.State != Open {
		err = fmt.Errorf("%w: rotation %s is %s: there is nothing to carry out", ErrNeedsApproval, r.ID, r.State)
	}
	return err
}

// checkRotated refuses to rotate a signer that is not trusted, also where that is
// so only since the plan was approved.
func (p Plan) checkRotated(ctx context.Context, s *store.Store) error {
	for _, id := range p.Rotates {
		r, err := s.Signer(ctx, id.ID())
		if err != nil {
			return err
		}
		if !usable(r) {
			return fmt.Errorf("%s is %s: only an enrolled signer in use, or one that was, can be rotated; what is known against it is for an incident's plan", id, r.State)
		}
	}
	return nil
}

// usable reports whether a signer is one whose word a rotation takes over: it
// signed with everybody's knowledge, and nothing is known against it.
func usable(r signer.Record) bool {
	return r.Enrolled() && (r.State == signer.Active || r.State == signer.Old)
}

// inUse returns what reports whether a rotation takes over the word of a signer.
func inUse(ctx context.Context, s *store.Store) (func(signer.Identity) bool, error) {
	return those(ctx, s, usable)
}

// CloseRotation closes a rotation once nothing is left to do: everything that is
// deployed is signed again or its hold was accepted, nothing is to be recalled,
// and the old signer stands in no anchor. Otherwise the error wraps ErrNotReady
// and Closing.Missing says what to do.
func CloseRotation(ctx context.Context, s *store.Store, by journal.Author, id string, w World, now time.Time) (Closing, error) {
	c := Closing{Incident: id, Missing: []string{}, Accepted: []string{}, Unknown: []string{}}
	r, err := LoadRotation(ctx, s, id)
	if err != nil {
		return c, err
	}
	if r.State != Open {
		return c, fmt.Errorf("rotation %s is %s already", id, r.State)
	}
	if err := c.rotated(ctx, s, r); err != nil {
		return c, err
	}
	if r.From != r.To {
		if err := c.pinned(ctx, []signer.Identity{r.From}, w); err != nil {
			return c, err
		}
	}
	if err := c.verdict("rotation " + id); err != nil {
		return c, err
	}
	return c, endRotation(ctx, s, by, id, Closed, &now)
}

// AbandonRotation ends a rotation that is not to be carried out, or not to its
// end. What was signed stays signed.
func AbandonRotation(ctx context.Context, s *store.Store, by journal.Author, id string) error {
	return endRotation(ctx, s, by, id, Withdrawn, nil)
}

func endRotation(ctx context.Context, s *store.Store, by journal.Author, id string, state IncidentState, at *time.Time) error {
	return s.Update(ctx, by, func(tx *store.Tx) error {
		r, err := LoadRotation(ctx, s, id)
		if err != nil {
			return err
		}
		if r.State != Open {
			return fmt.Errorf("rotation %s is %s already", id, r.State)
		}
		r.State, r.ClosedAt = state, at
		return r.put(ctx, tx, "rotation."+string(state))
	})
}

// rotated looks at what is left to do by the newest plan that was carried out.
func (c *Closing) rotated(ctx context.Context, s *store.Store, r Rotation) error {
	done, err := carriedOut(ctx, s, r.ID)
	if err != nil {
		return err
	}
	c.Plan = done.plan
	if r.From == r.To { // no anchor changes, so that nothing but the signatures tells
		if c.Plan, err = newestSigned(ctx, s, r.ID); err != nil {
			return err
		}
	}
	if c.Plan == "" {
		c.miss("no plan of it was carried out: make one, have it approved, re-sign and cut over by it")
		return nil
	}
	p, _, err := LoadPlan(ctx, s, c.Plan)
	if err != nil {
		return err
	}
	policy, err := p.Current(ctx, s)
	if err != nil {
		return err
	}
	_, err = Assess(ctx, s, policy, func(i Item) error {
		ref := i.Repository + "@" + i.Digest
		switch {
		case i.Recall:
			c.miss("%s (%s) was signed again and would not be any more: an incident's plan recalls it (%s)", ref, i.PredicateType(), i.Reason)
		case !i.Deployed || i.Decision == trust.None:
		case i.Decision == trust.Hold && slices.Contains(p.AcceptDark, i.Digest):
			c.Accepted = append(c.Accepted, ref)
		case i.Decision == trust.Hold:
			c.miss("%s (%s) is deployed and on hold: replace it, or have it accepted as dark (%s)", ref, i.PredicateType(), i.Reason)
		default:
			c.miss("%s (%s) is deployed and not signed again yet: re-sign it", ref, i.PredicateType())
		}
		return nil
	})
	return err
}

// newestSigned returns the newest plan of a rotation that anything was signed
// by, or "".
func newestSigned(ctx context.Context, s *store.Store, rotation string) (newest string, err error) {
	ids, err := s.DocumentIDs(ctx, store.KindPlan, "sha256:")
	if err != nil {
		return "", err
	}
	var made time.Time
	for _, id := range ids {
		p, err := loadHeader(ctx, s, id)
		if err != nil {
			return "", err
		}
		if p.Incident != rotation || p.MadeAt.Before(made) {
			continue
		}
		counts, err := s.ReissueCounts(ctx, id)
		if err != nil {
			return "", err
		}
		if len(counts) > 0 {
			newest, made = id, p.MadeAt
		}
	}
	return newest, nil
}
