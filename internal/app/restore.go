package app

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/inventory/restore"
	"github.com/reseal/reseal/rotate"
)

// RestoreOptions say which signatures to put back.
type RestoreOptions struct {
	Repositories []string // with a "*" at the end: all that start so
	Signers      []string // IDs; none: of any signer
	MaxArtifacts int64    // ceiling; 0: none
	Report       func(restore.Item)
}

// Restore puts signatures that registries lost back from the vault. What the
// incidents mark as rogue stays out, and whatever a tainted or revoked signer
// made.
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
	denied := func(art inventory.Artifact) string {
		for _, i := range incidents {
			if why, ok := i.Rogue[art.Digest]; ok {
				return fmt.Sprintf("%s: %s", i.ID, why)
			}
		}
		return ""
	}
	for _, sel := range selections {
		options := restore.Options{Selection: sel, Verifier: v, Report: o.Report, DeniedArtifact: denied}
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
