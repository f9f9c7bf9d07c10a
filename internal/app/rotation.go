package app

import (
	"context"
	"time"

	"github.com/reseal/reseal/rotate"
)

// RotationOptions are the parameters of a rotation's plan that people choose.
type RotationOptions struct {
	Rotation    string
	From, To    string // names or IDs
	Supplements string // digest, or the start of it, of the plan that this one adds to
	Homes       []string
	AcceptDark  []string
	Skew        time.Duration
	Expires     time.Duration // from now; 0: the default
	Limits      rotate.Limits
}

// PlanRotation opens a rotation, unless it is open already, and makes and keeps a
// plan for it, proposed by the actor.
func (a *App) PlanRotation(ctx context.Context, o RotationOptions, reason string) (rotate.Plan, string, rotate.Totals, error) {
	fail := func(err error) (rotate.Plan, string, rotate.Totals, error) {
		return rotate.Plan{}, "", rotate.Totals{}, err
	}
	from, err := a.store.Signer(ctx, o.From)
	if err != nil {
		return fail(err)
	}
	to, err := a.store.Signer(ctx, o.To)
	if err != nil {
		return fail(err)
	}
	p := rotate.Plan{Incident: o.Rotation, Proposer: a.options.Actor, MadeAt: a.options.Now().UTC(), NewSigner: to.Identity, Skew: o.Skew,
		Homes: o.Homes, AcceptDark: o.AcceptDark, Consumers: a.config.Consumers, Verifier: a.config.VerifierID, Limits: o.Limits}
	if o.Expires > 0 {
		p.ExpiresAt = a.now().Add(o.Expires)
	}
	if o.Supplements != "" {
		if p.Supplements, err = rotate.FindPlan(ctx, a.store, o.Supplements); err != nil {
			return fail(err)
		}
	}
	if err := rotate.OpenRotation(ctx, a.store, a.by("%s", reason), rotate.Rotation{ID: o.Rotation, From: from.Identity, To: to.Identity,
		OpenedBy: a.options.Actor, OpenedAt: a.now()}); err != nil {
		return fail(err)
	}
	return rotate.MakePlan(ctx, a.store, a.by("plan for %s", o.Rotation), p)
}

// Rotations lists every rotation.
func (a *App) Rotations(ctx context.Context) ([]rotate.Rotation, error) {
	return rotate.Rotations(ctx, a.store)
}

// Rotation returns one rotation.
func (a *App) Rotation(ctx context.Context, id string) (rotate.Rotation, error) {
	return rotate.LoadRotation(ctx, a.store, id)
}

// CloseRotation closes a rotation, or says what is missing.
func (a *App) CloseRotation(ctx context.Context, id, reason string) (rotate.Closing, error) {
	return rotate.CloseRotation(ctx, a.store, a.by("%s", reason), id, world{a}, a.now())
}

// AbandonRotation ends a rotation that is not to be carried out to its end.
func (a *App) AbandonRotation(ctx context.Context, id, reason string) error {
	return rotate.AbandonRotation(ctx, a.store, a.by("%s", reason), id)
}
