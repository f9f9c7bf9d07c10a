package app

import (
	"context"
	"fmt"
	"time"

	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// PruneOptions say which signatures to take away.
type PruneOptions struct {
	Plan     string
	All      bool // also what is proven good, of signers that are revoked and stand in no anchor
	Limits   rotate.PruneLimits
	Apply    bool
	Progress func(done, total int64, p rotate.PruneResult)
}

// PruneResult is what taking signatures away did, or would do.
type PruneResult struct {
	rotate.PruneResult
	Requests        int64   `json:"requests"`
	DurationSeconds float64 `json:"duration_seconds"`

	BreakGlass *rotate.BreakGlass `json:"break_glass,omitempty"` // it was done on one person's word
}

// Prune takes signatures away that must not stand any more, by an approved plan.
func (a *App) Prune(ctx context.Context, o PruneOptions) (PruneResult, error) {
	p, err := a.permit(ctx, o.Plan)
	if err != nil {
		return PruneResult{}, err
	}
	v, err := a.verifier(ctx)
	if err != nil {
		return PruneResult{}, err
	}
	if o.Apply {
		if err := a.nobodyResigns(ctx); err != nil {
			return PruneResult{}, err
		}
	}
	before, start := a.Requests(), time.Now()
	out := PruneResult{BreakGlass: p.BreakGlass()}
	out.PruneResult, err = rotate.Prune(ctx, a.store, a.registry(o.Apply), a.by("prune for %s", p.Plan().Incident), p, rotate.PruneOptions{
		All: o.All, Limits: o.Limits, Verifier: v, Accepts: a.acceptsFound, Anchors: world{a}.Anchors, Alone: a.nobodyResigns, Progress: o.Progress}, o.Apply)
	out.Requests, out.DurationSeconds = a.Requests()-before, time.Since(start).Seconds()
	return out, err
}

// nobodyResigns refuses to go on while somebody re-signs: they write to the same
// tags.
func (a *App) nobodyResigns(ctx context.Context) error {
	running, err := a.store.RunningShards(ctx)
	if err != nil {
		return err
	}
	for _, s := range running {
		if !isDead(s.Owner) {
			return fmt.Errorf("%s is re-signing in %s: prune when that is done (\"reseal resign %s --status\")", s.Owner, s.Repository, s.Plan)
		}
	}
	return nil
}

// acceptsFound asks a consumer that accepts one signer's key about a signature
// as it stands in the registry.
func (a *App) acceptsFound(ctx context.Context, found verify.Found, by signer.Record) error {
	pub, _, err := signer.ParsePublicKey(by.PublicKey)
	if err != nil {
		return err
	}
	return verify.Consumer{Key: pub, Root: a.root}.Accepts(ctx, found)
}
