package scan

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/verify"
)

// artifact reads one artifact, what it lists if it is an index, and their
// signatures. It is read anew, and no list of tags is needed.
func (r *run) artifact(ctx context.Context, repository, reference string) error {
	p := &place{run: r, name: repository}
	found, problems, err := p.walk(ctx, reference)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var c change
	if err != nil {
		p.problems(&c, reference, err.Error())
		return p.put(ctx, c)
	}
	p.artifacts(&c, found)
	if inventory.CheckDigest(reference) != nil && !retriable(problems) && !r.additive {
		c.add(func(ctx context.Context, tx *store.Tx) error {
			return tx.PutTag(ctx, store.Scan{Repository: repository}, reference, found[0].Digest)
		})
	}
	p.problems(&c, reference, texts(problems)...)
	if err := p.put(ctx, c); err != nil {
		return err
	}
	if err := p.ask(ctx, found[0].Digest); err != nil {
		return err
	}
	if err := r.writer.flush(ctx); err != nil {
		return err
	}
	p.count(Result{}, 0, int64(len(found)))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(p.Parallel)
	for _, a := range found {
		g.Go(func() error { return p.everything(gctx, a.Digest) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := r.writer.flush(ctx); err != nil {
		return err
	}
	return p.recount(ctx, found)
}

// everyTag reads what each tag names, and then what signature tags hold about
// artifacts that no tag names.
func (r *run) everyTag(ctx context.Context, repository string) error {
	var subjects []string
	for tag, err := range r.Registry.Tags(ctx, repository) {
		if err != nil {
			return err
		}
		if m := signatureTag.FindStringSubmatch(tag); m != nil && m[2] != ".sbom" {
			subjects = append(subjects, "sha256:"+m[1])
			continue
		}
		if err := r.artifact(ctx, repository, tag); err != nil {
			return err
		}
	}
	slices.Sort(subjects)
	p := &place{run: r, name: repository}
	for _, digest := range slices.Compact(subjects) {
		known, err := r.Store.Known(ctx, repository, digest)
		if err != nil {
			return err
		}
		if known {
			continue // and its signatures were read with it
		}
		if err := p.ask(ctx, digest); err != nil {
			return err
		}
		if err := p.everything(ctx, digest); err != nil {
			return err
		}
	}
	return nil
}

// everything reads every signature of one artifact, wherever it may be.
func (p *place) everything(ctx context.Context, digest string) error {
	for _, f := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt} {
		if err := p.signature(ctx, store.Tag{Name: verify.Tag(digest, f)}, digest, f); err != nil {
			return err
		}
	}
	here, there := map[string]string{}, map[string]string{}
	if !p.api {
		here[fallbackTag(digest)] = ""
	}
	for _, tag := range tagsOf(digest) {
		there[tag] = ""
	}
	return p.look(ctx, store.ReferrerState{Digest: digest}, here, there)
}

// recount counts the signatures that are there, read now or known before.
func (p *place) recount(ctx context.Context, found []inventory.Artifact) error {
	var n Result
	for _, a := range found {
		all, err := p.Store.SignaturesOf(ctx, a, "")
		if err != nil {
			return err
		}
		for _, s := range all {
			if n.Signatures++; s.Verified {
				n.Verified++
			} else {
				n.Unverified++
			}
		}
	}
	p.count(Result{
		Artifacts:  int64(len(found)) - p.live.Artifacts,
		Signatures: n.Signatures - p.live.Signatures,
		Verified:   n.Verified - p.live.Verified,
		Unverified: n.Unverified - p.live.Unverified,
	}, 0, 0)
	return nil
}
