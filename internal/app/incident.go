package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

// Scope is what an incident is about.
type Scope struct {
	Signers     []string // names or IDs
	Selectors   []trust.Selector
	Authorities []inventory.Authority
	Matches     int64 // how many known signers the selectors are meant to match; below zero: not said
}

// MatchesError asks whether a pattern matches what it is meant to.
type MatchesError struct {
	Matched []signer.Record
	Meant   int64
}

func (e MatchesError) Error() string {
	if e.Meant < 0 {
		return fmt.Sprintf("the pattern matches %d of the signers known here: look at them, and say --matches %d if they are what you mean", len(e.Matched), len(e.Matched))
	}
	return fmt.Sprintf("the pattern matches %d of the signers known here, not %d: look at them first", len(e.Matched), e.Meant)
}

// resolve finds the signers of a scope, and asks before a pattern is used.
func (a *App) resolve(ctx context.Context, of trust.Incident, s Scope) (ids []signer.Identity, err error) {
	for _, text := range s.Signers {
		r, err := a.store.Signer(ctx, text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, r.Identity)
	}
	if slices.ContainsFunc(s.Selectors, func(x trust.Selector) bool { return x.IssuerRegexp != "" || x.SubjectRegexp != "" }) {
		of.Signers, of.Selectors, of.Authorities = ids, s.Selectors, nil
		matched, err := rotate.Matching(ctx, a.store, of)
		if err != nil {
			return nil, err
		}
		if int64(len(matched)) != s.Matches {
			return nil, MatchesError{matched, s.Matches}
		}
	}
	return ids, nil
}

// OpenIncident declares an incident.
func (a *App) OpenIncident(ctx context.Context, i rotate.Incident, s Scope, reason string) (rotate.Incident, error) {
	ids, err := a.resolve(ctx, i.Incident, s)
	if err != nil {
		return i, err
	}
	i.Signers, i.Selectors, i.Authorities = append(i.Signers, ids...), append(i.Selectors, s.Selectors...), append(i.Authorities, s.Authorities...)
	i.OpenedBy, i.OpenedAt = a.options.Actor, a.now()
	return i, rotate.OpenIncident(ctx, a.store, a.by("%s", reason), i)
}

// Amend widens an incident.
func (a *App) Amend(ctx context.Context, id string, w rotate.Amendment, s Scope, reason string) (rotate.Incident, error) {
	known, err := rotate.LoadIncident(ctx, a.store, id)
	if err != nil {
		return known, err
	}
	ids, err := a.resolve(ctx, known.Incident, s)
	if err != nil {
		return known, err
	}
	w.Signers, w.Selectors, w.Authorities = ids, s.Selectors, s.Authorities
	return rotate.Amend(ctx, a.store, a.by("%s", reason), id, w)
}

// CloseIncident closes an incident, or says what is missing.
func (a *App) CloseIncident(ctx context.Context, id, reason string) (rotate.Closing, error) {
	return rotate.Close(ctx, a.store, a.by("%s", reason), id, world{a}, a.now())
}

// world is what closing an incident asks of the world outside.
type world struct{ app *App }

// Anchors implements rotate.World: the files of the consumers as they are now,
// and the anchors that were imported.
func (w world) Anchors(ctx context.Context) ([]rotate.Pinned, error) {
	var out []rotate.Pinned
	for _, c := range w.app.config.Consumers {
		content, err := os.ReadFile(c.Anchor)
		if err != nil {
			return nil, fmt.Errorf("anchor of consumer %s: %w", c.Name, err)
		}
		_, id, err := signer.ParsePublicKey(content)
		if err != nil {
			return nil, fmt.Errorf("anchor %s of consumer %s: %w", c.Anchor, c.Name, err)
		}
		out = append(out, rotate.Pinned{Place: "consumer " + c.Name + ", " + c.Anchor, Pins: []inventory.Pin{{Key: id.Subject}}})
	}
	list, err := w.app.Anchors(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, x := range list {
		out = append(out, rotate.Pinned{Place: x.Kind + " " + x.Name + " in " + x.File, Pins: x.Pins})
	}
	return out, nil
}

// Present implements rotate.World.
func (w world) Present(ctx context.Context, repository, digest string) (bool, error) {
	if repository == inventory.Files {
		return false, nil
	}
	_, err := w.app.options.Registry.Manifest(ctx, repository, digest)
	if errors.Is(err, registry.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Sealed implements rotate.World.
func (w world) Sealed(ctx context.Context, incident string) (bool, error) {
	return w.app.sealed(ctx, incident)
}

// PlanOptions are the parameters of a plan that people choose.
type PlanOptions struct {
	Incident    string
	NewSigner   string // name or ID; empty with Keep
	Keep        bool
	Order       rotate.Order
	Supplements string // digest, or the start of it, of the plan that this one adds to
	Vouchers    []trust.Voucher
	Homes       []string
	AcceptDark  []string
	Skew        time.Duration
	Expires     time.Duration // from now; 0: the default
	Rate        float64       // statements re-signed a second, for the estimate; 0: the default
	Formats     []string      // legacy, bundle, or "consumers" for what these read; none: those each statement is consumed in
	Limits      rotate.Limits
}

// MakePlan makes and keeps a plan, proposed by the actor.
func (a *App) MakePlan(ctx context.Context, o PlanOptions) (rotate.Plan, string, rotate.Totals, error) {
	i, err := rotate.LoadIncident(ctx, a.store, o.Incident)
	if err != nil {
		return rotate.Plan{}, "", rotate.Totals{}, err
	}
	// To the nanosecond: plans of one incident are listed in the order they were
	// made.
	p := rotate.Plan{Incident: i.ID, Proposer: a.options.Actor, MadeAt: a.options.Now().UTC(), Keep: o.Keep, Order: o.Order, Skew: o.Skew, Rate: o.Rate,
		Vouchers: o.Vouchers, Homes: o.Homes, AcceptDark: o.AcceptDark, Consumers: a.config.Consumers, Verifier: a.config.VerifierID, Limits: o.Limits}
	if p.Formats, err = a.formats(o.Formats); err != nil {
		return p, "", rotate.Totals{}, err
	}
	if o.Expires > 0 {
		p.ExpiresAt = a.now().Add(o.Expires)
	}
	if !o.Keep {
		next, err := a.store.Signer(ctx, o.NewSigner)
		if err != nil {
			return p, "", rotate.Totals{}, err
		}
		p.NewSigner = next.Identity
	}
	if o.Supplements != "" {
		if p.Supplements, err = rotate.FindPlan(ctx, a.store, o.Supplements); err != nil {
			return p, "", rotate.Totals{}, err
		}
	}
	return rotate.MakePlan(ctx, a.store, a.by("plan for %s", o.Incident), p)
}

// newest returns the digest of the plan that is named, or of the newest one of
// an incident; empty when it has none.
func (a *App) newest(ctx context.Context, incident, named string) (string, error) {
	if named != "" {
		return rotate.FindPlan(ctx, a.store, named)
	}
	plans, err := a.Plans(ctx, incident)
	if err != nil || len(plans) == 0 {
		return "", err
	}
	return plans[len(plans)-1].Plan, nil
}

// Explain tells how the artifact with a digest is decided, everywhere it is,
// under a plan (the incident's newest, if none is named), or, where there is no
// plan, as the incidents stand.
func (a *App) Explain(ctx context.Context, incident, plan, digest string, skew time.Duration) ([]rotate.ArtifactExplanation, error) {
	if err := inventory.CheckDigest(digest); err != nil {
		return nil, err
	}
	if _, err := rotate.LoadIncident(ctx, a.store, incident); err != nil {
		return nil, err
	}
	full, err := a.newest(ctx, incident, plan)
	if err != nil {
		return nil, err
	}
	var policy trust.Policy
	if full == "" {
		if policy, err = a.policy(ctx, incident, skew); err != nil {
			return nil, err
		}
	} else {
		p, _, err := rotate.LoadPlan(ctx, a.store, full)
		if err != nil {
			return nil, err
		}
		if policy, err = p.Policy(ctx, a.store); err != nil {
			return nil, err
		}
	}
	return rotate.ExplainArtifact(ctx, a.store, policy, full, digest)
}

// Diff says what a plan (the incident's newest, if none is named) changes
// against an earlier one.
func (a *App) Diff(ctx context.Context, incident, from, to string, visit func(rotate.ItemChange) error) (rotate.PlanDiff, error) {
	older, err := rotate.FindPlan(ctx, a.store, from)
	if err != nil {
		return rotate.PlanDiff{}, err
	}
	newer, err := a.newest(ctx, incident, to)
	if err != nil {
		return rotate.PlanDiff{}, err
	}
	return rotate.DiffPlans(ctx, a.store, older, newer, visit)
}
