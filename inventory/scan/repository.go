package scan

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"golang.org/x/sync/errgroup"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/verify"
)

const (
	page   = 1000 // names read from or written to the database at once
	listed = 10   // pages of a listing that are kept together

	// maxProbes bounds how many artifacts are asked for to find out whether the
	// registry lists referrers.
	maxProbes = 5

	// maxRounds bounds how often artifacts are looked for that only referrers
	// tell of: those of those are artifacts too.
	maxRounds = 3
)

// What problems with listings refer to. No tag is named so.
const (
	unlisted  = "tags/list"
	uncharted = "_catalog/"
	unprobed  = "referrers/"
)

// isTag is a tag (distribution-spec, "Pulling manifests"). Others cannot be
// asked for.
var isTag = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

// signatureTag is a tag of cosign's, or the referrers tag of the distribution
// specification.
var signatureTag = regexp.MustCompile(`^sha256-([0-9a-f]{64})(\.sig|\.att|\.sbom)?$`)

// place is one repository while it is scanned.
type place struct {
	*run
	name string
	scan store.Scan // without an ID when a single artifact is read: nothing is noted then of how far it got

	// api is set when the registry lists referrers, and blind when that could
	// not be found out.
	api, blind bool

	mu   sync.Mutex
	live Result // what was counted of it so far
}

// repository scans one repository.
func (r *run) repository(ctx context.Context, name string) error {
	p := &place{run: r, name: name}
	if ok, err := p.list(ctx); !ok || err != nil {
		return err
	}
	images, signatures, checked, err := r.Store.TagCounts(ctx, p.scan)
	if err != nil {
		return err
	}
	p.count(Result{}, checked, images+signatures)
	// In this order every artifact is known before what is said of it is read.
	for _, phase := range []func(context.Context) error{
		p.images, r.writer.flush, p.probe, p.signatures, p.gone, r.writer.flush, p.referrers, p.end,
	} {
		if err := phase(ctx); err != nil {
			return err
		}
	}
	return nil
}

// list takes in the names of the tags. It reports whether all were read: a
// repository that cannot be listed is left as it was.
func (p *place) list(ctx context.Context) (bool, error) {
	var tags []string
	odd, pages := 0, 0
	keep := func() (err error) {
		if p.scan.ID == 0 { // not before the registry says that there is a repository
			if p.scan, err = p.Store.BeginScan(ctx, p.writer.by, p.name); err != nil {
				return err
			}
		}
		list := tags
		tags = nil
		var c change
		c.add(func(ctx context.Context, tx *store.Tx) error { return tx.Listed(ctx, p.scan, list) })
		if err := p.writer.put(ctx, c); err != nil {
			return err
		}
		if pages++; pages%listed == 0 { // a listing comes faster than it is kept
			return p.writer.flush(ctx)
		}
		return nil
	}
	var c change
	for tag, err := range p.Registry.Tags(ctx, p.name) {
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case err != nil:
			p.problems(&c, unlisted, err.Error())
			return false, p.writer.put(ctx, c)
		case !isTag.MatchString(tag):
			odd++
			continue
		}
		if tags = append(tags, tag); len(tags) == page {
			if err := keep(); err != nil {
				return false, err
			}
		}
	}
	if err := keep(); err != nil {
		return false, err
	}
	if odd > 0 {
		p.problems(&c, unlisted, fmt.Sprintf("%d of the names that the registry lists are no tags", odd))
	} else {
		p.problems(&c, unlisted)
	}
	if err := p.writer.put(ctx, c); err != nil {
		return false, err
	}
	return true, p.writer.flush(ctx)
}

func (p *place) images(ctx context.Context) error     { return p.tags(ctx, false) }
func (p *place) signatures(ctx context.Context) error { return p.tags(ctx, true) }

// tags works through the tags that this scan has not looked at. Those about one
// artifact stand together and are worked through one after the other.
func (p *place) tags(ctx context.Context, signature bool) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(p.Parallel)
	var same []store.Tag
	start := func() {
		if tags := same; len(tags) > 0 {
			g.Go(func() error { return p.subject(gctx, tags) })
		}
		same = nil
	}
	var err error
	for after := ""; gctx.Err() == nil; {
		var tags []store.Tag
		if tags, err = p.Store.Unchecked(gctx, p.scan, signature, after, page); err != nil || len(tags) == 0 {
			break
		}
		for _, t := range tags {
			if len(same) > 0 && (!signature || subjectOf(t.Name) != subjectOf(same[0].Name)) {
				start()
			}
			same = append(same, t)
		}
		after = tags[len(tags)-1].Name
	}
	start()
	if failed := g.Wait(); failed != nil {
		return failed
	}
	return err
}

// subjectOf returns the digest of the artifact that a signature tag is about,
// or the tag itself where it is none.
func subjectOf(tag string) string {
	if m := signatureTag.FindStringSubmatch(tag); m != nil {
		return "sha256:" + m[1]
	}
	return tag
}

// probe finds out whether the registry lists referrers.
func (p *place) probe(ctx context.Context) error {
	var digests []string
	some, err := p.Store.UnreadReferrers(ctx, p.scan, "", maxProbes)
	if err != nil {
		return err
	}
	for _, s := range some {
		digests = append(digests, s.Digest)
	}
	if len(digests) == 0 {
		tags, err := p.Store.Unchecked(ctx, p.scan, true, "", 1)
		if err != nil || len(tags) == 0 {
			return err // nothing is here
		}
		digests = append(digests, subjectOf(tags[0].Name))
	}
	return p.ask(ctx, digests...)
}

// ask sets whether the registry lists referrers, by asking for those of some
// artifacts until one answer tells.
func (p *place) ask(ctx context.Context, digests ...string) error {
	var c change
	var err error
	for _, digest := range digests {
		_, err = p.Registry.ReferrersAPI(ctx, p.name, digest)
		told := err == nil
		for _, kind := range []error{registry.ErrUnsupported, registry.ErrNotFound, registry.ErrMalformed, registry.ErrTooLarge} {
			told = told || errors.Is(err, kind)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if told {
			p.api = !errors.Is(err, registry.ErrUnsupported)
			p.problems(&c, unprobed)
			return p.writer.put(ctx, c)
		}
	}
	p.blind = true
	p.problems(&c, unprobed, err.Error())
	return p.writer.put(ctx, c)
}

// gone removes the tags that are no longer listed, and marks what they held.
func (p *place) gone(ctx context.Context) error {
	for after := ""; ; {
		tags, err := p.Store.TagsGone(ctx, p.scan, after, page)
		if err != nil || len(tags) == 0 {
			return err
		}
		for _, t := range tags {
			if err := p.lost(ctx, t.Name); err != nil {
				return err
			}
		}
		after = tags[len(tags)-1].Name
	}
}

// lost removes a tag that is not there, and marks what it held as gone.
func (p *place) lost(ctx context.Context, tag string) error {
	if p.additive {
		return nil
	}
	var c change
	p.empty(&c, tag)
	if p.scan.ID != 0 {
		c.add(func(ctx context.Context, tx *store.Tx) error { return tx.RemoveTag(ctx, p.scan, tag) })
	}
	p.problems(&c, tag)
	p.problems(&c, unchecked(tag))
	return p.writer.put(ctx, c)
}

// empty marks as gone what a tag held.
func (p *place) empty(c *change, tag string) {
	if m := signatureTag.FindStringSubmatch(tag); m != nil {
		digest := "sha256:" + m[1]
		switch {
		case m[2] == ".sig":
			p.keep(c, digest, "", []inventory.Format{inventory.Legacy}, nil)
		case m[2] == ".att":
			p.keep(c, digest, "", []inventory.Format{inventory.LegacyAtt}, nil)
		case m[2] == "" && !p.perArtifact() && !p.blind:
			p.keep(c, digest, "", verify.ReferrerFormats(), nil)
		}
	}
}

// end finishes the scan and counts what is there.
func (p *place) end(ctx context.Context) error {
	var c change
	c.add(func(ctx context.Context, tx *store.Tx) error { return tx.EndScan(ctx, p.scan) })
	if err := p.writer.put(ctx, c); err != nil {
		return err
	}
	if err := p.writer.flush(ctx); err != nil {
		return err
	}
	n, err := p.Store.RepositoryCounts(ctx, p.name)
	if err != nil {
		return err
	}
	p.count(Result{
		Repositories: 1,
		Artifacts:    n.Artifacts - p.live.Artifacts,
		Signatures:   n.Signatures - p.live.Signatures,
		Verified:     n.Verified - p.live.Verified,
		Unverified:   n.Signatures - n.Verified - p.live.Unverified,
		Problems:     n.Problems - p.live.Problems,
	}, 0, 0)
	return nil
}

// count adds to what is counted of the repository.
func (p *place) count(add Result, done, total int64) {
	p.mu.Lock()
	p.live.add(add)
	p.mu.Unlock()
	p.run.count(p.name, add, done, total)
}

// problems keeps what could not be read of a reference, or that all of it could.
func (p *place) problems(c *change, reference string, problems ...string) {
	if len(problems) == 0 {
		c.clear(p.name, reference)
		return
	}
	text := problems[0]
	if more := len(problems) - 1; more > 0 {
		text = fmt.Sprintf("%s (and %d more)", text, more)
	}
	c.problem(inventory.Problem{Repository: p.name, Reference: reference, Problem: text})
	p.count(Result{Problems: 1}, 0, 0)
}

// keep marks as gone what is not among the signatures seen at a place.
func (p *place) keep(c *change, digest, location string, formats []inventory.Format, seen []string) {
	if p.additive {
		return
	}
	c.add(func(ctx context.Context, tx *store.Tx) error {
		return tx.KeepSignatures(ctx, p.name, digest, location, formats, seen)
	})
}

// looked notes what a tag names and that it was looked at.
func (p *place) looked(c *change, tag, digest string) {
	if p.scan.ID != 0 {
		c.add(func(ctx context.Context, tx *store.Tx) error { return tx.PutTag(ctx, p.scan, tag, digest) })
	}
}

// prepareLocation lists the repository that holds signatures besides. It is not
// scanned: what it lists is looked at with the artifacts it is about.
func (r *run) prepareLocation(ctx context.Context) error {
	if r.Location == "" {
		return nil
	}
	repo, err := name.NewRepository(r.Location)
	if err != nil {
		return fmt.Errorf("repository of signatures %q: %w", r.Location, err)
	}
	r.Location = ""
	p := &place{run: r, name: repo.Name()}
	ok, err := p.list(ctx)
	if ok {
		r.Location = p.name
	}
	return err // what cannot be listed is a problem, and what it holds stays as it was
}
