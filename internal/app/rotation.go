package app

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/resign"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/verify"
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
	Formats     []string      // legacy, bundle, or "consumers" for what these read; none: those each statement is consumed in
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
	if p.Formats, err = a.formats(o.Formats); err != nil {
		return fail(err)
	}
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

// formats reads the formats of a plan; "consumers" stands for what the configured
// ones read.
func (a *App) formats(words []string) (out []inventory.Format, err error) {
	add := func(f inventory.Format) {
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	for _, w := range words {
		if w != "consumers" {
			add(inventory.Format(w))
			continue
		}
		if len(a.config.Consumers) == 0 {
			return nil, errors.New("formats: no consumers are configured that would say what they read: name legacy or bundle")
		}
		for _, c := range a.config.Consumers {
			switch c.Reads { // of files: see trust.Policy
			case inventory.Detached:
				add(inventory.Bundle)
			case inventory.Blob:
				add(inventory.Legacy)
			default:
				add(c.Reads)
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// part is the part of an approved plan that is worked on.
type part int

const (
	whole  part = iota
	images      // the image signatures alone
	claims      // all else
)

// inOrder runs an engine on items of an approved plan. Where the plan brings
// bundles to artifacts that may have had none, the image signatures of all come
// before any claim: cosign looks past a ".sig" as soon as a bundle of any kind is
// there.
func inOrder(ctx context.Context, e resign.Engine, w *approved) (resign.Result, error) {
	w.apply, e.Outside = e.Apply, (&watch{store: w.store}).outside
	if len(w.permission.Plan().Formats) == 0 {
		return e.Run(ctx, w)
	}
	var sum resign.Result
	var left error // e remembers it from one part to the next
	all, tell, cut := *w, e.Progress, false
	for _, part := range []part{images, claims} {
		*w = all
		w.part = part
		before := sum
		if tell != nil {
			e.Progress = func(done int64, r resign.Result) { tell(before.Planned+done, plus(before, r)) }
		}
		r, err := e.Run(ctx, w)
		sum, cut = plus(before, r), cut || w.cut
		if left = err; err != nil && !errors.As(err, new(resign.LeftError)) {
			return sum, err
		}
	}
	w.cut = cut
	return sum, left
}

// takes reports whether an item is in the part.
func (p part) takes(i rotate.Item) bool {
	return p == whole || (p == images) == (i.PredicateType() == inventory.SignPredicate)
}

// early says why it is too early for a claim of a plan that chooses formats, or
// "": a bundle with it would hide a ".sig" before the image has a bundle of its
// own.
func (w *approved) early(ctx context.Context, i resign.Item) (string, error) {
	p := w.permission.Plan()
	if !w.apply || len(p.Formats) == 0 || i.PredicateType == inventory.SignPredicate || !slices.Contains(i.Formats, inventory.Bundle) {
		return "", nil
	}
	sigs, err := w.store.SignaturesOf(ctx, inventory.Artifact{Repository: i.Repository, Digest: i.Digest}, "")
	if err != nil || slices.ContainsFunc(sigs, func(g inventory.Signature) bool {
		return g.Verified && g.Signer == p.NewSigner && g.Format == inventory.Bundle && g.PredicateType == inventory.SignPredicate && g.Location == ""
	}) {
		return "", err
	}
	return "the image has no bundle of its own by the new signer yet, and one with a claim would make cosign look past its \".sig\": sign the image first, by running it again", nil
}

// Parity proves, or refutes, that what a plan of a rotation signed says exactly
// what was said before: as the last scan found it, or as it is in the registry
// now.
func (a *App) Parity(ctx context.Context, rotation, plan string, fromRegistry bool) (rotate.Parity, error) {
	if _, err := rotate.LoadRotation(ctx, a.store, rotation); err != nil {
		return rotate.Parity{}, err
	}
	full, err := a.newest(ctx, rotation, plan)
	if err != nil {
		return rotate.Parity{}, err
	}
	var look rotate.Look
	if fromRegistry {
		if look, err = a.look(ctx); err != nil {
			return rotate.Parity{}, err
		}
	}
	return rotate.CheckParity(ctx, a.store, rotation, full, look)
}

// look returns what looks at the registry itself.
func (a *App) look(ctx context.Context) (rotate.Look, error) {
	v, err := a.verifier(ctx)
	if err != nil {
		return nil, err
	}
	f := verify.Fetcher{Registry: a.registry(false), Verifier: v}
	return func(ctx context.Context, art inventory.Artifact) (rotate.Sight, error) {
		if art.Repository == inventory.Files { // no registry has it
			return rotate.Stored(ctx, a.store, art)
		}
		got := f.Signatures(ctx, verify.Subject{Repository: art.Repository, Digest: art.Digest}, verify.Everywhere)
		s := rotate.Sight{Payload: func(g inventory.Signature) ([]byte, error) {
			at := slices.IndexFunc(got.Found, func(f verify.Found) bool { return f.ID == g.ID })
			return verify.Payload(g.Format, got.Found[at].Content)
		}}
		for _, found := range got.Found {
			s.Signatures = append(s.Signatures, found.Signature)
		}
		return s, got.Unknown
	}, nil
}
