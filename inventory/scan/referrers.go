package scan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/verify"
)

// maxReferrers bounds the referrers of one artifact.
const maxReferrers = 1000

// judgedReferrers is the version of what is read of referrers. When more is
// read of the same lists, it is raised, so that all of them are read again.
const judgedReferrers = "reseal.referrers/v1"

// A fingerprint begins with byAPI when the registry listed referrers. When it
// then says that it lists none at all, missed takes its place: one such answer,
// of a proxy or of a registry that is just starting, must not make everything
// look gone. Two scans have to hear it.
const (
	byAPI  = "api "
	missed = "missed"
)

// doubts reports whether the registry listed the referrers of an artifact when
// last asked, and now says for the first time that it lists none.
func (p *place) doubts(s store.ReferrerState) bool {
	return !p.api && !p.blind && strings.HasPrefix(s.Fingerprint, byAPI)
}

// perArtifact reports whether the referrers of every artifact are looked for.
// Where the registry does not list them they have a fallback tag.
func (p *place) perArtifact() bool { return p.api || p.elsewhere() }

// elsewhere reports whether another repository holds signatures besides.
func (p *place) elsewhere() bool { return p.Location != "" && p.Location != p.name }

// fallbackTag is the referrers tag of a digest (distribution-spec, "Referrers
// Tag Schema").
func fallbackTag(digest string) string { return strings.Replace(digest, ":", "-", 1) }

// fallback reads the referrers that a fallback tag lists.
func (p *place) fallback(ctx context.Context, t store.Tag, digest string) error {
	if p.perArtifact() { // then it is read with the other referrers
		if t.Digest != "" {
			return nil // and so is the artifact
		}
		var c change
		if _, err := p.known(ctx, &c, digest); err != nil || len(c.ops) == 0 {
			return err
		}
		return p.put(ctx, c)
	}
	if done, err := p.unchanged(ctx, t); done || err != nil {
		return err
	}
	var c change
	whole, err := p.known(ctx, &c, digest)
	if err != nil {
		return err
	}
	if err := p.put(ctx, c); err != nil {
		return err
	}
	var got gathered
	named, list, err := p.index(ctx, p.name, t.Name, &got)
	if err != nil {
		return p.unread(ctx, t.Name, err)
	}
	if err := p.readReferrers(ctx, p.fetcher(""), digest, list, &got); err != nil {
		return err
	}
	c = change{}
	if !got.Partial && !p.blind {
		p.keep(&c, digest, "", verify.ReferrerFormats(), got.seen)
	}
	if !got.Retry && whole {
		p.looked(&c, t.Name, named)
	}
	p.problems(&c, t.Name, got.problems...)
	return p.put(ctx, c)
}

// index reads a fallback tag, and returns the digest that it names and what it
// lists.
func (p *place) index(ctx context.Context, repository, reference string, got *gathered) (named string, list []v1.Descriptor, err error) {
	m, release, err := p.manifest(ctx, repository, reference)
	defer release()
	if err != nil {
		return "", nil, err
	}
	if !types.MediaType(m.MediaType).IsIndex() {
		got.problems = append(got.problems, fmt.Sprintf("%s lists referrers: it is no image index but %s", reference, m.MediaType))
		return m.Digest, nil, nil
	}
	if list, err = registry.Descriptors(repository, m); err != nil {
		got.problems = append(got.problems, err.Error())
	}
	return m.Digest, list, nil
}

// readReferrers reads the referrers of an artifact and hands over what they
// hold. All of a list that has changed is read: what else is known of a digest,
// that a tag names it or that it holds a signature, is whatever somebody pushed.
func (p *place) readReferrers(ctx context.Context, f verify.Fetcher, digest string, list []v1.Descriptor, got *gathered) error {
	if len(list) > maxReferrers {
		got.problems = append(got.problems, fmt.Sprintf("there are %d referrers, only the first %d were read", len(list), maxReferrers))
		got.Partial = true
		list = list[:maxReferrers]
	}
	for _, d := range list {
		if err := p.referrer(ctx, f, digest, d.Digest.String(), got); err != nil {
			return err
		}
	}
	return nil
}

// referrer reads one manifest that refers to an artifact. What holds no
// signatures is an artifact itself, and may be signed.
func (p *place) referrer(ctx context.Context, f verify.Fetcher, digest, referrer string, got *gathered) error {
	m, release, err := p.manifest(ctx, p.holds(f), referrer)
	release()
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		got.failed(err)
		return nil
	}
	signed := false
	if err := p.holders(ctx, f, digest, referrer, m, got, func(m registry.Manifest) (verify.Holder, bool) {
		h := verify.OpenReferrer(m)
		signed = signed || !h.Empty()
		return h, !h.Empty()
	}); err != nil || signed || f.Location != "" || inventory.CheckDigest(m.Digest) != nil {
		return err
	}
	var c change
	p.artifacts(&c, []inventory.Artifact{{Repository: p.name, Digest: m.Digest, MediaType: m.MediaType, Size: m.Size}})
	return p.put(ctx, c)
}

// referrers reads the referrers of every artifact, and what another repository
// holds of it.
func (p *place) referrers(ctx context.Context) error {
	for range maxRounds {
		n, err := p.round(ctx)
		if err != nil || n == 0 {
			return err
		}
		if err := p.writer.flush(ctx); err != nil {
			return err
		}
	}
	left, err := p.Store.UnreadReferrers(ctx, p.scan, "", 1)
	if err != nil {
		return err
	}
	var c change
	if len(left) > 0 && p.perArtifact() {
		p.problems(&c, unprobed+"rounds", fmt.Sprintf("referrers of referrers are nested more than %d deep: not all were looked for", maxRounds))
	} else {
		p.problems(&c, unprobed+"rounds")
	}
	return p.writer.put(ctx, c)
}

// round works through the artifacts whose referrers were not read yet, and
// returns how many there were.
func (p *place) round(ctx context.Context) (n int64, err error) {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(p.Parallel)
	doubted := false
	for after := ""; gctx.Err() == nil; {
		var artifacts []store.ReferrerState
		if artifacts, err = p.Store.UnreadReferrers(gctx, p.scan, after, page); err != nil || len(artifacts) == 0 {
			break
		}
		after = artifacts[len(artifacts)-1].Digest
		if !p.perArtifact() { // some may be left from when the registry listed them
			artifacts = slices.DeleteFunc(artifacts, func(s store.ReferrerState) bool { return s.Fingerprint == "" })
		}
		if !doubted && slices.ContainsFunc(artifacts, p.doubts) {
			doubted = true
			var c change
			p.problems(&c, unprobed, "the registry listed referrers before, and now says that it lists none: what they hold is taken for gone if the next scan hears the same")
			if err = p.writer.put(gctx, c); err != nil {
				break
			}
		}
		var here, there map[string]string
		if here, there, err = p.named(gctx, artifacts); err != nil {
			break
		}
		n += int64(len(artifacts))
		p.count(Result{}, 0, int64(len(artifacts)))
		for _, s := range artifacts {
			g.Go(func() error { return p.look(gctx, s, here, there) })
		}
	}
	if failed := g.Wait(); failed != nil {
		return n, failed
	}
	return n, err
}

// named returns the tags about artifacts, with what they name as far as that is
// known: in their own repository and in the one that holds signatures besides.
func (p *place) named(ctx context.Context, artifacts []store.ReferrerState) (here, there map[string]string, err error) {
	var names []string
	for _, s := range artifacts {
		names = append(names, tagsOf(s.Digest)...)
	}
	if len(names) == 0 {
		return nil, nil, nil
	}
	if here, err = p.Store.TagsNamed(ctx, p.name, names); err == nil && p.elsewhere() {
		there, err = p.Store.TagsNamed(ctx, p.Location, names)
	}
	return here, there, err
}

func tagsOf(digest string) []string {
	return []string{fallbackTag(digest), verify.Tag(digest, inventory.Legacy), verify.Tag(digest, inventory.LegacyAtt)}
}

// view is what one repository lists about one artifact.
type view struct {
	fetcher verify.Fetcher
	list    []v1.Descriptor   // by the referrers API
	tags    map[string]string // that are there, with what they name
	unsure  []string          // why not all of this may be there to see
	got     gathered
}

// look reads the referrers of an artifact, and what another repository holds of
// it, unless all of that is as it was.
func (p *place) look(ctx context.Context, s store.ReferrerState, here, there map[string]string) error {
	if p.doubts(s) {
		var c change
		p.asked(&c, s.Digest, missed)
		p.count(Result{}, 1, 0)
		return p.put(ctx, c)
	}
	views := []*view{p.own(ctx, s.Digest, here)}
	if p.elsewhere() {
		views = append(views, p.other(ctx, s.Digest, there))
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	lines, unsure := []string{judgedReferrers}, []string(nil)
	for _, v := range views {
		lines = append(lines, v.lines()...)
		unsure = append(unsure, v.unsure...)
	}
	fingerprint := inventory.Digest([]byte(strings.Join(lines, "\n")))
	if p.api {
		fingerprint = byAPI + fingerprint
	}
	var c change
	p.problems(&c, unchecked(s.Digest), unsure...)
	if fingerprint == s.Fingerprint && len(unsure) == 0 {
		p.asked(&c, s.Digest, fingerprint)
		p.count(Result{Unchanged: 1}, 1, 0)
		return p.put(ctx, c)
	}
	problems, whole := []string(nil), len(unsure) == 0
	for _, v := range views {
		if err := p.read(ctx, &c, s, v); err != nil {
			return err
		}
		problems = append(problems, v.got.problems...)
		whole = whole && !v.got.Retry
	}
	switch {
	case !whole || p.blind:
		fingerprint = s.Fingerprint
	case !p.perArtifact():
		fingerprint = "" // from now on the tags tell
	}
	p.asked(&c, s.Digest, fingerprint)
	p.problems(&c, s.Digest+" referrers", problems...)
	p.count(Result{}, 1, 0)
	return p.put(ctx, c)
}

// asked notes that the referrers of an artifact were looked for.
func (p *place) asked(c *change, digest, fingerprint string) {
	if p.scan.ID != 0 {
		c.add(func(ctx context.Context, tx *store.Tx) error {
			return tx.PutReferrers(ctx, p.scan, digest, fingerprint)
		})
	}
}

// own is what the artifact's own repository lists. What its ".sig" and ".att"
// tags name is read with the tags: here it only tells whether what another
// repository holds is the only copy.
func (p *place) own(ctx context.Context, digest string, tags map[string]string) *view {
	v := &view{fetcher: p.fetcher(""), tags: map[string]string{}}
	if p.api && v.ask(ctx, p.Registry, p.name, digest) {
		// The registry lists referrers, and of this artifact it says that there is
		// no such thing: that is so only if the artifact itself is gone.
		if _, err := p.Registry.Head(ctx, p.name, digest, ""); !errors.Is(err, registry.ErrNotFound) {
			v.unsure = append(v.unsure, "the registry lists referrers of other artifacts, and says of this one that there is no list")
		}
	}
	v.got.Partial = p.blind
	tag := fallbackTag(digest)
	if known, ok := tags[tag]; ok {
		v.head(ctx, p.Registry, p.name, tag, known)
	}
	if p.scan.ID == 0 && !p.api && !p.blind && len(v.tags) == 0 && ctx.Err() == nil {
		// A scan of the repository can hear it twice, see missed; this one cannot.
		held, err := p.held(ctx, digest, "")
		if err != nil {
			v.unsure = append(v.unsure, err.Error())
		} else if held {
			v.unsure = append(v.unsure, "referrers were known, and the registry now says that there is no list: scan the repository")
		}
	}
	for _, t := range tagsOf(digest)[1:] {
		if named, ok := tags[t]; ok && p.elsewhere() {
			v.tags[t] = named
		}
	}
	return v
}

// other is what the repository that holds signatures besides lists.
func (p *place) other(ctx context.Context, digest string, tags map[string]string) *view {
	v := &view{fetcher: p.fetcher(p.Location), tags: map[string]string{}}
	if v.ask(ctx, p.Registry, p.Location, digest) && ctx.Err() == nil {
		// Nothing may have been there ever: this repository does not hold the
		// artifact itself. What was there is not gone for one such answer.
		held, err := p.held(ctx, digest, p.Location)
		if err != nil {
			v.unsure = append(v.unsure, err.Error())
		} else if _, tagged := tags[fallbackTag(digest)]; held && !tagged {
			v.unsure = append(v.unsure, "referrers in "+p.Location+" were known, and the registry now says that there is no list")
		}
	}
	for _, t := range tagsOf(digest) {
		if known, ok := tags[t]; ok {
			v.head(ctx, p.Registry, p.Location, t, known)
		}
	}
	return v
}

// ask asks for the list of referrers and reports whether the registry says that
// there is none.
func (v *view) ask(ctx context.Context, r Registry, repository, digest string) (none bool) {
	list, err := r.ReferrersAPI(ctx, repository, digest)
	v.list = list
	none = errors.Is(err, registry.ErrUnsupported) || errors.Is(err, registry.ErrNotFound)
	if err != nil && !none {
		v.unsure = append(v.unsure, err.Error())
	}
	return none
}

// held reports whether signatures in referrers are known that are at a location.
func (p *place) held(ctx context.Context, digest, location string) (bool, error) {
	stored, err := p.Store.SignaturesOf(ctx, inventory.Artifact{Repository: p.name, Digest: digest}, "")
	return slices.ContainsFunc(stored, func(s inventory.Signature) bool {
		return s.Location == location && slices.Contains(verify.ReferrerFormats(), s.Format)
	}), err
}

func (v *view) head(ctx context.Context, r Registry, repository, tag, known string) {
	named, err := r.Head(ctx, repository, tag, known)
	switch {
	case err == nil:
		v.tags[tag] = named
	case !errors.Is(err, registry.ErrNotFound):
		v.unsure = append(v.unsure, err.Error())
	}
}

// lines are what a view is known by again.
func (v *view) lines() []string {
	var out []string
	for _, d := range v.list {
		out = append(out, "referrer "+d.Digest.String())
	}
	for tag, named := range v.tags {
		out = append(out, "tag "+tag+" "+named)
	}
	slices.Sort(out)
	return append([]string{"in " + v.fetcher.Location}, slices.Compact(out)...)
}

// read reads what is new in a view, and marks as gone what is not in it.
func (p *place) read(ctx context.Context, c *change, s store.ReferrerState, v *view) error {
	digest, repository := s.Digest, p.holds(v.fetcher)
	v.got.Partial = v.got.Partial || len(v.unsure) > 0
	unseen := v.got.Partial
	list := v.list
	tag := fallbackTag(digest)
	if named, ok := v.tags[tag]; ok {
		index, tagged, err := p.index(ctx, repository, tag, &v.got)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			v.got.failed(err)
		case index != named: // it changed just now
			v.got.Retry = true
		}
		list = append(list, tagged...)
	}
	if err := p.readReferrers(ctx, v.fetcher, digest, distinct(list), &v.got); err != nil {
		return err
	}
	if named, ok := v.tags[tag]; ok && v.fetcher.Location == "" && !v.got.Retry {
		p.looked(c, tag, named)
	}
	if !v.got.Partial {
		p.keep(c, digest, v.fetcher.Location, verify.ReferrerFormats(), v.got.seen)
	}
	if v.fetcher.Location == "" {
		return nil
	}
	for _, f := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt} {
		var got gathered
		tag := verify.Tag(digest, f)
		if _, ok := v.tags[tag]; ok {
			var err error
			if _, got, err = p.tag(ctx, v.fetcher, digest, tag, f); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if !errors.Is(err, registry.ErrNotFound) {
					got.failed(err)
				}
			}
		}
		if !got.Partial && !unseen {
			p.keep(c, digest, v.fetcher.Location, []inventory.Format{f}, got.seen)
		}
		v.got.problems = append(v.got.problems, got.problems...)
		v.got.Retry = v.got.Retry || got.Retry
	}
	return nil
}

// distinct leaves out what is listed again.
func distinct(list []v1.Descriptor) (out []v1.Descriptor) {
	seen := map[v1.Hash]bool{}
	for _, d := range list {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			out = append(out, d)
		}
	}
	return out
}
