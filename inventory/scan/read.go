package scan

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/verify"
)

// Bounds on what one tag may make a scan read.
const (
	maxDepth    = 3      // of indexes within indexes
	maxIndexes  = 100    // within one index, at whatever depth
	maxChildren = 10_000 // of one index and those within it
)

// Bounds on memory, in bytes. What is read has its room reserved before, and
// gives it back when it is committed.
const (
	maxMemory   = 256 << 20
	maxManifest = 8 << 20 // what a registry client takes
	overhead    = 16 << 10
	maxConfig   = 1 << 20 // of the configuration of a manifest of signatures
)

// room waits until n bytes more fit in memory and returns how to give them
// back. Who has some must not ask for more: all of it could be had by those who
// wait.
func (r *run) room(ctx context.Context, n int64) (release func(), err error) {
	n = min(n+overhead, maxMemory)
	if !r.memory.TryAcquire(n) {
		r.writer.wanted.Add(1) // a commit makes room
		defer r.writer.wanted.Add(-1)
		if err := r.writer.put(ctx, change{now: true}); err != nil {
			return func() {}, err
		}
		if err := r.memory.Acquire(ctx, n); err != nil {
			return func() {}, err
		}
	}
	return sync.OnceFunc(func() { r.memory.Release(n) }), nil
}

// manifest reads a manifest. Release gives back the room that it takes, parsed
// too; with an error there is none to give back, and calling it does nothing.
func (p *place) manifest(ctx context.Context, repository, reference string) (m registry.Manifest, release func(), err error) {
	if release, err = p.room(ctx, maxManifest); err != nil {
		return m, func() {}, err
	}
	m, err = p.Registry.Manifest(ctx, repository, reference)
	parsed := 8 * m.Size
	if err == nil && parsed <= maxManifest {
		return m, release, nil
	}
	release()
	if err == nil {
		release, err = p.room(ctx, parsed)
	}
	return m, release, err
}

// subject reads the tags about one artifact.
func (p *place) subject(ctx context.Context, tags []store.Tag) error {
	for _, t := range tags {
		var err error
		m := signatureTag.FindStringSubmatch(t.Name)
		switch {
		case m == nil || m[2] == ".sbom": // unsigned, but an artifact that may be signed
			err = p.image(ctx, t)
		case m[2] == "":
			err = p.fallback(ctx, t, "sha256:"+m[1])
		case m[2] == ".sig":
			err = p.signature(ctx, t, "sha256:"+m[1], inventory.Legacy)
		default:
			err = p.signature(ctx, t, "sha256:"+m[1], inventory.LegacyAtt)
		}
		if err != nil {
			return err
		}
		p.count(Result{}, 1, 0)
	}
	return nil
}

// unchecked is what a problem refers to when a registry did not say whether
// something has changed. What was wrong with it before is another problem.
func unchecked(reference string) string { return reference + " unchecked" }

// unchanged reports whether there is nothing more to do about a tag: it still
// names what it named, or the registry does not say.
func (p *place) unchanged(ctx context.Context, t store.Tag) (bool, error) {
	if t.Digest == "" {
		return false, nil
	}
	digest, err := p.Registry.Head(ctx, p.name, t.Name, t.Digest)
	var c change
	switch {
	case ctx.Err() != nil:
		return true, ctx.Err()
	case errors.Is(err, registry.ErrNotFound) || err == nil && digest != t.Digest:
		c.clear(p.name, unchecked(t.Name))
		return false, p.writer.put(ctx, c)
	case err != nil:
		p.problems(&c, unchecked(t.Name), err.Error())
		return true, p.writer.put(ctx, c)
	}
	c.clear(p.name, unchecked(t.Name))
	p.looked(&c, t.Name, digest)
	p.count(Result{Unchanged: 1}, 0, 0)
	return true, p.writer.put(ctx, c)
}

// unread is what becomes of a tag that was not read. One that the registry
// lists and does not have is a problem; where none was listed it is just not
// there.
func (p *place) unread(ctx context.Context, tag string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var c change
	if errors.Is(err, registry.ErrNotFound) {
		if p.scan.ID == 0 {
			return p.lost(ctx, tag)
		}
		p.empty(&c, tag)
		c.add(func(ctx context.Context, tx *store.Tx) error { // it is listed, and what it names is not known
			return errors.Join(tx.RemoveTag(ctx, p.scan, tag), tx.Listed(ctx, p.scan, []string{tag}))
		})
	}
	p.problems(&c, tag, err.Error())
	return p.writer.put(ctx, c)
}

// image reads the artifact that a tag names.
func (p *place) image(ctx context.Context, t store.Tag) error {
	if done, err := p.unchanged(ctx, t); done || err != nil {
		return err
	}
	found, problems, err := p.walk(ctx, t.Name)
	if err != nil {
		return p.unread(ctx, t.Name, err)
	}
	var c change
	p.artifacts(&c, found)
	// What an index lists and is not there, or is too deep, is no reason to read
	// it again before it changes; what could not be reached is.
	if len(problems) == 0 || !retriable(problems) {
		p.looked(&c, t.Name, found[0].Digest)
	}
	p.problems(&c, t.Name, texts(problems)...)
	return p.put(ctx, c)
}

// put hands over a change and keeps its room until it is committed.
func (p *place) put(ctx context.Context, c change) error {
	release, err := p.room(ctx, c.bytes)
	if err != nil {
		return err
	}
	c.kept = release
	return p.writer.put(ctx, c)
}

func (p *place) artifacts(c *change, found []inventory.Artifact) {
	c.artifacts(found)
	p.count(Result{Artifacts: int64(len(found))}, 0, 0)
}

// errBounded marks what is not read because there is too much of it.
var errBounded = errors.New("not read to the end")

// retriable reports whether reading again may end better, without a change.
func retriable(problems []error) bool {
	for _, err := range problems {
		if !errors.Is(err, errBounded) {
			return true
		}
	}
	return false
}

func texts(problems []error) (out []string) {
	for _, err := range problems {
		out = append(out, err.Error())
	}
	return out
}

// walk returns the artifact that a reference names, first, and everything an
// index lists, at any depth. Of images the descriptor in the index says enough.
// What is wrong within an index is in problems, and err is for the reference
// itself.
func (p *place) walk(ctx context.Context, reference string) (found []inventory.Artifact, problems []error, err error) {
	type node struct {
		reference string
		depth     int
	}
	seen, indexes := map[string]bool{}, 0
	for next := []node{{reference, 0}}; len(next) > 0; next = next[1:] {
		at := next[0]
		m, release, err := p.manifest(ctx, p.name, at.reference)
		if err != nil {
			if ctx.Err() != nil || at.depth == 0 {
				return nil, nil, err
			}
			problems = append(problems, err)
			continue
		}
		found = append(found, inventory.Artifact{Repository: p.name, Digest: m.Digest, MediaType: m.MediaType, Size: m.Size})
		seen[m.Digest] = true
		if !types.MediaType(m.MediaType).IsIndex() {
			release()
			continue
		}
		list, err := registry.Descriptors(p.name, m)
		release()
		if err != nil {
			problems = append(problems, fmt.Errorf("%w: %w", errBounded, err)) // the bytes under a digest stay what they are
		}
		for _, d := range list {
			child := inventory.Artifact{Repository: p.name, Digest: d.Digest.String(), MediaType: string(d.MediaType), Size: max(0, d.Size)}
			switch {
			case seen[child.Digest] || !isManifest(d.MediaType):
			case inventory.CheckDigest(child.Digest) != nil:
				problems = append(problems, fmt.Errorf("%w: %s lists %s: only SHA-256 digests are known here", errBounded, m.Digest, child.Digest))
			case len(found) >= maxChildren:
				return found, append(problems, fmt.Errorf("%w: it lists more than %d manifests", errBounded, maxChildren)), nil
			case d.MediaType != "" && !d.MediaType.IsIndex():
				seen[child.Digest] = true
				found = append(found, child)
			case at.depth == maxDepth:
				problems = append(problems, fmt.Errorf("%w: indexes are nested more than %d deep", errBounded, maxDepth))
			case indexes == maxIndexes:
				return found, append(problems, fmt.Errorf("%w: it lists more than %d indexes", errBounded, maxIndexes)), nil
			default:
				indexes++
				seen[child.Digest] = true
				next = append(next, node{child.Digest, at.depth + 1})
			}
		}
	}
	return found, problems, nil
}

// isManifest reports whether what an index lists is a manifest, as far as it
// says: build caches are indexes of layers.
func isManifest(t types.MediaType) bool {
	return t == "" || t.IsImage() || t.IsIndex() || t == artifactManifest
}

// artifactManifest is from image-spec 1.1 before its release.
const artifactManifest = "application/vnd.oci.artifact.manifest.v1+json"

// known makes sure that the artifact is in the inventory that signatures are
// about. One that was deleted since is: its signatures are evidence all the
// same. It reports whether what is in the inventory is all that can be had.
func (p *place) known(ctx context.Context, c *change, digest string) (bool, error) {
	known, err := p.Store.Known(ctx, p.name, digest)
	if known || err != nil {
		return true, err
	}
	found, problems, err := p.walk(ctx, digest)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case errors.Is(err, registry.ErrNotFound):
		found, err = []inventory.Artifact{{Repository: p.name, Digest: digest}}, nil
	case err != nil:
		found, problems = []inventory.Artifact{{Repository: p.name, Digest: digest}}, []error{err}
	}
	p.artifacts(c, found)
	p.problems(c, digest, texts(problems)...)
	return err == nil && !retriable(problems), nil
}

// fetcher reads signatures in a repository: in the artifacts' own, or in the
// location given.
func (p *place) fetcher(location string) verify.Fetcher {
	return verify.Fetcher{Registry: p.Registry, Verifier: p.Verifier, Location: location}
}

// signature reads what a ".sig" or ".att" tag holds.
func (p *place) signature(ctx context.Context, t store.Tag, digest string, f inventory.Format) error {
	if done, err := p.unchanged(ctx, t); done || err != nil {
		return err
	}
	var c change
	whole, err := p.known(ctx, &c, digest)
	if err != nil {
		return err
	}
	if len(c.ops) > 0 {
		if err := p.put(ctx, c); err != nil {
			return err
		}
	}
	named, got, err := p.tag(ctx, p.fetcher(""), digest, t.Name, f)
	if err != nil {
		return p.unread(ctx, t.Name, err)
	}
	c = change{}
	if !got.Partial {
		p.keep(&c, digest, "", []inventory.Format{f}, got.seen)
	}
	if !got.Retry && whole {
		p.looked(&c, t.Name, named)
	}
	p.problems(&c, t.Name, got.problems...)
	return p.writer.put(ctx, c)
}

// gathered is what was found in one place, when it has been handed over.
type gathered struct {
	seen           []string // IDs of signatures
	problems       []string
	Partial, Retry bool // as in verify.Fetched
}

func (g *gathered) failed(err error) {
	g.problems = append(g.problems, err.Error())
	g.Partial, g.Retry = true, true
}

// tag reads the manifest that a ".sig" or ".att" tag names and hands over what
// it holds. It returns the digest of the manifest.
func (p *place) tag(ctx context.Context, f verify.Fetcher, digest, tag string, format inventory.Format) (named string, got gathered, err error) {
	m, release, err := p.manifest(ctx, p.holds(f), tag)
	release()
	if err != nil {
		return "", got, err
	}
	err = p.holders(ctx, f, digest, tag, m, &got, func(m registry.Manifest) (verify.Holder, bool) { return verify.OpenTag(tag, format, m), true })
	return m.Digest, got, err
}

// holds returns the repository a fetcher reads from.
func (p *place) holds(f verify.Fetcher) string {
	if f.Location != "" {
		return f.Location
	}
	return p.name
}

// holders reads the signatures in a manifest, or if it is an index in those
// that it lists: verifiers do. What open refuses holds none.
func (p *place) holders(ctx context.Context, f verify.Fetcher, digest, reference string, m registry.Manifest, got *gathered,
	open func(registry.Manifest) (verify.Holder, bool)) error {
	sub := verify.Subject{Repository: p.name, Digest: digest}
	if !types.MediaType(m.MediaType).IsIndex() {
		if h, ok := open(m); ok {
			return p.holder(ctx, f, sub, h, got)
		}
		return nil
	}
	images, odd := verify.Images(sub, reference, m)
	got.take(odd)
	kept := false
	for _, image := range images {
		m, release, err := p.manifest(ctx, p.holds(f), image)
		release()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			got.failed(err)
			continue
		}
		h, ok := open(m)
		if !ok {
			continue
		}
		kept = true
		if err := p.holder(ctx, f, sub, h, got); err != nil {
			return err
		}
	}
	if !kept {
		return nil
	}
	var c change
	c.vault(m.Raw) // what it lists is found through it
	return p.put(ctx, c)
}

func (g *gathered) take(f verify.Fetched) {
	for _, found := range f.Found {
		g.seen = append(g.seen, found.ID)
	}
	for _, problem := range f.Problems {
		g.problems = append(g.problems, problem.Problem)
	}
	g.Partial, g.Retry = g.Partial || f.Partial, g.Retry || f.Retry
}

// holder reads the signatures in one manifest and hands them over.
func (p *place) holder(ctx context.Context, f verify.Fetcher, sub verify.Subject, h verify.Holder, got *gathered) error {
	// The content itself, what verifying makes of it, and the manifest.
	release, err := p.room(ctx, 4*(h.Size()+int64(len(h.Raw))))
	if err != nil {
		return err
	}
	c := change{kept: release}
	fetched := f.Read(ctx, sub, h)
	if ctx.Err() != nil {
		release()
		return ctx.Err()
	}
	c.vault(h.Raw)
	if err := p.config(ctx, &c, p.holds(f), h); err != nil {
		fetched.Problems = append(fetched.Problems, inventory.Problem{Problem: "its configuration, which restoring it takes: " + err.Error()})
		fetched.Retry = fetched.Retry || !errors.Is(err, registry.ErrTooLarge)
	}
	var add Result
	for _, found := range fetched.Found {
		c.vault(found.Content)
		c.signature(found.Signature)
		if add.Signatures++; found.Verified {
			add.Verified++
		} else {
			add.Unverified++
		}
	}
	got.take(fetched)
	p.count(add, 0, 0)
	return p.writer.put(ctx, c)
}

// config keeps the configuration of a manifest, where it does not follow from
// the manifest.
func (p *place) config(ctx context.Context, c *change, repository string, h verify.Holder) error {
	d := h.Image.Config.Digest
	if _, known := verify.Config(h.Image); known || d.Hex == "" {
		return nil
	}
	config, err := p.Registry.Blob(ctx, repository, d.String(), maxConfig)
	if err == nil {
		c.vault(config)
	}
	return err
}
