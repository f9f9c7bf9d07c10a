package rotate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

// ErrNotReady is returned when an incident cannot be closed yet.
var ErrNotReady = errors.New("not ready to be closed")

// Pinned is a place where signers are pinned, as it is now.
type Pinned struct {
	Place string // what a person finds it by
	Pins  []inventory.Pin
}

// World is the outside world as closing looks at it.
type World interface {
	// Anchors returns every anchor there is.
	Anchors(ctx context.Context) ([]Pinned, error)
	// Present reports whether a registry still serves an artifact.
	Present(ctx context.Context, repository, digest string) (bool, error)
	// Sealed reports whether the evidence pack of an incident is sealed.
	Sealed(ctx context.Context, incident string) (bool, error)
}

// Closing is what closing an incident, or a rotation, found.
type Closing struct {
	Incident string   `json:"incident"` // or the rotation
	Plan     string   `json:"plan"`     // the one carried out last
	Missing  []string `json:"missing"`  // what has to be done first; empty: it is closed
	Accepted []string `json:"accepted"` // deployed holds that were accepted as dark
	Unknown  []string `json:"unknown"`  // anchors that pin by a name only their consumer resolves: a person has to look

	keep bool // the plan keeps the signer
}

// Close closes an incident: the old signer stands in no anchor, no deployed
// artifact is on hold, what is rogue is denied and gone, nothing re-signed is to
// be recalled, and the evidence pack is sealed. Otherwise the error wraps
// ErrNotReady and Closing.Missing says what to do. A closed incident counts in
// every judgement as before.
func Close(ctx context.Context, s *store.Store, by journal.Author, id string, w World, now time.Time) (Closing, error) {
	c, i, err := look(ctx, s, id, w)
	if err != nil {
		return c, err
	}
	if err := c.verdict("incident " + id); err != nil {
		return c, err
	}
	return c, s.Update(ctx, by, func(tx *store.Tx) error {
		again, err := LoadIncident(ctx, s, id)
		if err != nil {
			return err
		}
		before, err := canonical(i)
		if err != nil {
			return err
		}
		after, err := canonical(again)
		if err != nil {
			return err
		}
		if string(before) != string(after) {
			return fmt.Errorf("incident %s changed while it was looked at: close it again", id)
		}
		if c.keep { // it stays trusted, as before
			if err := i.untaint(ctx, tx, s); err != nil {
				return err
			}
		}
		i.State, i.ClosedAt = Closed, &now
		return i.put(ctx, tx, "incident.closed")
	})
}

// Missing says what has to be done before an open incident can be closed.
func Missing(ctx context.Context, s *store.Store, id string, w World) (Closing, error) {
	c, _, err := look(ctx, s, id, w)
	return c, err
}

// look looks at everything that closing an open incident depends on.
func look(ctx context.Context, s *store.Store, id string, w World) (Closing, Incident, error) {
	c := Closing{Incident: id, Missing: []string{}, Accepted: []string{}, Unknown: []string{}}
	i, err := LoadIncident(ctx, s, id)
	if err != nil {
		return c, i, err
	}
	switch i.State {
	case Withdrawn:
		return c, i, errWithdrawn(id)
	case Closed:
		return c, i, fmt.Errorf("incident %s is closed already", id)
	}
	done, err := carriedOut(ctx, s, id)
	if err != nil {
		return c, i, err
	}
	c.Plan = done.plan
	for _, look := range []func(context.Context, *store.Store, Incident, deeds, World) error{c.decisions, c.anchors, c.rogue, c.pack} {
		if err := look(ctx, s, i, done, w); err != nil {
			return c, i, err
		}
	}
	c.settle()
	return c, i, nil
}

// settle puts what was found in order.
func (c *Closing) settle() {
	for _, l := range []*[]string{&c.Missing, &c.Accepted, &c.Unknown} {
		slices.Sort(*l)
		*l = slices.Compact(*l)
	}
}

// verdict refuses to close what something is missing for.
func (c *Closing) verdict(what string) error {
	if c.settle(); len(c.Missing) > 0 {
		return fmt.Errorf("%s: %w: %s", what, ErrNotReady, strings.Join(c.Missing, "; "))
	}
	return nil
}

func (c *Closing) miss(format string, args ...any) {
	c.Missing = append(c.Missing, fmt.Sprintf(format, args...))
}

// deeds is what the journal says was carried out about an incident.
type deeds struct {
	plan      string      // the last plan contained or cut over by
	statement *Revocation // the last revocation statement published
}

// carriedOut reads the journal for the acts that plans about an incident did.
func carriedOut(ctx context.Context, s *store.Store, incident string) (c deeds, err error) {
	published := revocationName(incident)
	for next := s.Journal(ctx, 0); ; {
		line, err := next()
		if errors.Is(err, io.EOF) {
			return c, nil
		}
		if err != nil {
			return c, err
		}
		e, err := journal.ParseEntry(line)
		if err != nil {
			return c, err
		}
		switch {
		case e.Action == "cutover.done" && e.Subject == incident:
			c.plan = e.Digest
		case e.Action == "revocation.done" && e.Subject == published:
			body, err := s.Vault(ctx, e.Digest)
			if err != nil {
				return c, err
			}
			c.statement = &Revocation{}
			if err := json.Unmarshal(body, c.statement); err != nil {
				return c, fmt.Errorf("revocation statement %s: %w", e.Digest, err)
			}
			c.plan = c.statement.Predicate.Plan
		}
	}
}

// decisions looks at what is decided now by the last plan's policy.
func (c *Closing) decisions(ctx context.Context, s *store.Store, i Incident, done deeds, w World) error {
	if done.plan == "" {
		c.miss("no plan about it was carried out: make one, have it approved, and contain and cut over by it")
		return nil
	}
	p, _, err := LoadPlan(ctx, s, done.plan)
	if err != nil {
		return err
	}
	c.keep = p.Keep
	policy, err := p.Current(ctx, s)
	if err != nil {
		return err
	}
	_, err = Assess(ctx, s, policy, func(item Item) error {
		ref := item.Repository + "@" + item.Digest
		if _, marked := policy.Rogue[item.Digest]; item.Decision == trust.Deny && !marked { // for what is marked see rogue
			present, err := w.Present(ctx, item.Repository, item.Digest)
			if err == nil && present {
				c.miss("%s is denied and still in the registry: contain by a plan that denies it (%s)", ref, item.Reason)
			}
			return err
		}
		switch {
		case item.Recall && item.Repository == inventory.Files && slices.Contains(p.AcceptDark, item.Digest):
			c.Accepted = append(c.Accepted, ref)
		case item.Recall && item.Repository == inventory.Files:
			c.miss("%s (%s) was re-signed and would not be any more, and no registry holds it: see to it that nobody offers its new signature any more, and say so by name in a new plan (--accept-dark) (%s)", ref, item.PredicateType(), item.Reason)
		case item.Recall:
			c.miss("%s (%s) was re-signed and would not be any more: take the new signature away with \"reseal cutover PLAN --prune --apply\", by an approved plan%s (%s)", ref, item.PredicateType(), darkWord(item, p), item.Reason)
		case item.Decision == trust.Deny:
			present, err := w.Present(ctx, item.Repository, item.Digest)
			if err != nil {
				return err
			}
			if present {
				c.miss("%s is denied and still in the registry: contain by a plan that denies it (%s)", ref, item.Reason)
			}
		case !item.Deployed:
		case item.Decision == trust.Hold && slices.Contains(p.AcceptDark, item.Digest):
			c.Accepted = append(c.Accepted, ref)
		case item.Decision == trust.Hold:
			c.miss("%s (%s) is deployed and on hold: replace it, vouch for it in a new plan, or have it accepted as dark (%s)", ref, item.PredicateType(), item.Reason)
		case item.Decision == trust.Resign:
			c.miss("%s (%s) is deployed and not re-signed yet: re-sign it", ref, item.PredicateType())
		}
		return nil
	})
	return err
}

// darkWord says what taking the last signature of a deployed artifact away needs
// besides.
func darkWord(i Item, p Plan) string {
	if !i.Deployed || i.Decision != trust.Hold || slices.Contains(p.AcceptDark, i.Digest) {
		return ""
	}
	return " that accepts it as dark if nothing else is left to verify it by"
}

// anchors looks for the old signers in every anchor.
func (c *Closing) anchors(ctx context.Context, s *store.Store, i Incident, done deeds, w World) error {
	var gone []signer.Identity
	if done.plan != "" {
		p, err := loadHeader(ctx, s, done.plan)
		if err != nil || p.Keep {
			return err
		}
		gone = p.Replaced
	}
	now, err := replaced(ctx, s, i.Incident)
	if err != nil {
		return err
	}
	return c.pinned(ctx, append(slices.Clone(gone), now...), w)
}

// pinned looks for signers in every anchor.
func (c *Closing) pinned(ctx context.Context, gone []signer.Identity, w World) error {
	if len(gone) == 0 {
		return nil
	}
	all, err := w.Anchors(ctx)
	if err != nil {
		return err
	}
	for _, a := range all {
		for _, pin := range a.Pins {
			if pin.Reference != "" {
				c.Unknown = append(c.Unknown, fmt.Sprintf("%s pins %s", a.Place, pin.Reference))
			}
			for _, id := range gone {
				if pin.Matches(id) {
					c.miss("%s still accepts %s: cut over", a.Place, id)
				}
			}
		}
	}
	return nil
}

// rogue looks whether what is rogue is denied, and gone wherever it was seen.
func (c *Closing) rogue(ctx context.Context, s *store.Store, i Incident, done deeds, w World) error {
	denied := map[string]bool{}
	if done.statement == nil {
		c.miss("no revocation statement was published: contain by an approved plan")
	} else {
		for _, subject := range done.statement.Subject {
			denied["sha256:"+subject.Digest["sha256"]] = true
		}
		said, err := canonical(done.statement.Predicate.Incident)
		if err != nil {
			return err
		}
		is, err := canonical(i.Incident)
		if err != nil {
			return err
		}
		if string(said) != string(is) {
			c.miss("the incident was widened since its revocation statement was published: contain again, by a plan made since")
		}
	}
	for _, d := range slices.Sorted(maps.Keys(i.Rogue)) {
		if !denied[d] && done.statement != nil {
			c.miss("rogue %s is not denied by the published revocation statement: contain again", d)
		}
		for at := (store.Place{}); ; {
			arts, next, err := s.Artifacts(ctx, store.Selection{Digest: d}, at, page)
			if err != nil {
				return err
			}
			if len(arts) == 0 {
				break
			}
			at = next
			for _, a := range arts {
				present, err := w.Present(ctx, a.Repository, d)
				if err != nil {
					return err
				}
				if present {
					c.miss("rogue %s is still in the registry: contain by a plan that denies it", a.Ref())
				}
			}
		}
	}
	return nil
}

func (c *Closing) pack(ctx context.Context, _ *store.Store, i Incident, _ deeds, w World) error {
	sealed, err := w.Sealed(ctx, i.ID)
	if err == nil && !sealed {
		c.miss("the evidence pack is not sealed: seal it")
	}
	return err
}
