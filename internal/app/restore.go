package app

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/inventory/restore"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
)

// RestoreOptions say which signatures to put back.
type RestoreOptions struct {
	Repositories []string // with a "*" at the end: all that start so
	Signers      []string // IDs; none: of any signer
	MaxArtifacts int64    // ceiling; 0: none
	Report       func(restore.Item)
}

// Restore puts signatures that registries lost back from the vault. What the
// incidents mark as rogue stays out, whatever a tainted or revoked signer made,
// what an authority in an incident could have been made to vouch for, and what
// was pruned.
func (a *App) Restore(ctx context.Context, o RestoreOptions, apply bool, progress func(restore.Result)) (restore.Result, error) {
	total := restore.Result{Applied: apply, Reasons: map[restore.Reason]int64{}}
	selections := make([]store.Selection, len(o.Repositories))
	for i, r := range o.Repositories {
		selections[i].Signers = o.Signers
		if prefix, ok := strings.CutSuffix(r, "*"); ok {
			selections[i].Prefix = prefix
			continue
		}
		repo, err := name.NewRepository(r)
		if err != nil {
			return total, fmt.Errorf("repository %q: %w", r, err)
		}
		selections[i].Repository = repo.Name()
	}
	v, err := a.verifier(ctx)
	if err != nil {
		return total, err
	}
	incidents, err := rotate.Incidents(ctx, a.store)
	if err != nil {
		return total, err
	}
	rogue := rotate.Rogue(incidents)
	denied := func(art inventory.Artifact) string { return rogue[art.Digest] }
	suspect := a.leftOut(ctx, incidents)
	for _, sel := range selections {
		options := restore.Options{Selection: sel, Verifier: v, Report: o.Report, Denied: suspect, DeniedArtifact: denied}
		if o.MaxArtifacts > 0 {
			if options.MaxArtifacts = o.MaxArtifacts - total.Written; options.MaxArtifacts <= 0 {
				return total, fmt.Errorf("%w: %d artifacts", restore.ErrOverLimit, o.MaxArtifacts)
			}
		}
		r, err := restore.Restore(ctx, a.store, a.options.Registry, a.by("restore"), options, apply, progress)
		total = sum(total, r)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// leftOut returns what says why a signature must not go back, or "": it is not
// to be believed, or was taken away on purpose.
func (a *App) leftOut(ctx context.Context, incidents []rotate.Incident) func(inventory.Signature) string {
	suspect := suspect(rotate.Rules(incidents))
	return func(g inventory.Signature) string {
		if why := suspect(g); why != "" {
			return why
		}
		why, err := rotate.WhyPruned(ctx, a.store, incidents, g.ID)
		if err != nil {
			return "nobody can say whether it was taken away on purpose: " + err.Error()
		}
		return why
	}
}

// restoreSkew is how far honest clocks may differ.
const restoreSkew = 5 * time.Minute

// suspect returns what says why a signature is not to be believed, or "". The
// states of signers do not tell: those of an authority in an incident are as
// they were, and an identity may be enrolled after it was selected.
func suspect(incidents []trust.Incident) func(inventory.Signature) string {
	incidents = trust.Compiled(incidents)
	return func(g inventory.Signature) string {
		j := trust.Judge(g, incidents, restoreSkew)
		if j.Verdict == trust.Unverifiable || j.Verdict == trust.Unaffected || j.Verdict.Proven() {
			return ""
		}
		return j.Reason
	}
}

func sum(a, b restore.Result) restore.Result {
	a.Artifacts += b.Artifacts
	a.Signatures += b.Signatures
	a.Restored += b.Restored
	a.Already += b.Already
	a.LeftOut += b.LeftOut
	a.MissingSubject += b.MissingSubject
	a.Skipped += b.Skipped
	a.Failed += b.Failed
	a.Written += b.Written
	a.Manifests += b.Manifests
	a.Identical += b.Identical
	a.Requests += b.Requests
	for why, n := range b.Reasons {
		a.Reasons[why] += n
	}
	return a
}
