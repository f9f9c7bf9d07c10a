package rotate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/verify"
)

// maxReferrers bounds what is read of the referrers of one artifact besides
// those that are known to hold a signature.
const maxReferrers = 1000

// shelf is what one repository holds on an artifact, as it stands there.
type shelf struct {
	place   string                     // the repository
	holders []*holder                  // in the order in which they are emptied
	found   map[string]verify.Found    // by ID
	lost    map[string]bool            // IDs of signatures whose blobs are lost and that stand there all the same
	raw     map[string][]byte          // the manifests of holders by digest
	broken  map[inventory.Format]error // formats of which not all could be read
}

// has reports whether a signature stands there.
func (s *shelf) has(id string) bool {
	_, found := s.found[id]
	return found || s.lost[id]
}

// holder is what a tag names, or a referrer: a manifest of signatures, or an
// index of such.
type holder struct {
	tag    string // empty: a referrer
	top    registry.Manifest
	sheets []*sheet
}

// sheet is a manifest of signatures, taken apart.
type sheet struct {
	registry.Manifest
	image  v1.Manifest
	layers []json.RawMessage // as they stand in the manifest
	ids    []string          // of the signatures in the layers; empty: it is none, or nobody can read it
}

// look reads what one repository holds on an artifact. What no verifier can
// read is no signature; what may be one and cannot be read is an error.
func (r *pruning) look(ctx context.Context, a inventory.Artifact, place string) (*shelf, error) {
	s := &shelf{place: place, found: map[string]verify.Found{}, lost: map[string]bool{}, raw: map[string][]byte{}, broken: map[inventory.Format]error{}}
	for _, f := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt} {
		tag := verify.Tag(a.Digest, f)
		m, err := r.registry.Manifest(ctx, place, tag)
		switch {
		case errors.Is(err, registry.ErrNotFound):
			continue
		case unreadable(err):
			s.broken[f] = err
			continue
		case err != nil:
			return nil, err
		}
		if err := r.open(ctx, s, a, place, &holder{tag: tag, top: m}, f); err != nil {
			return nil, err
		}
	}
	if err := r.lookAtReferrers(ctx, s, a, place); err != nil {
		return nil, err
	}
	// The reverse of the order in which they are published: claims in bundles,
	// which hide a ".sig" from cosign, go first, and a ".sig" last.
	slices.SortStableFunc(s.holders, func(x, y *holder) int { return cmp.Compare(s.rank(x), s.rank(y)) })
	return s, nil
}

func (r *pruning) lookAtReferrers(ctx context.Context, s *shelf, a inventory.Artifact, place string) error {
	list, err := r.registry.Referrers(ctx, place, a.Digest)
	switch {
	case errors.Is(err, registry.ErrMalformed): // garbage in a listing, which anybody can push, must not hide the rest
	case errors.Is(err, registry.ErrTooLarge):
		list = nil
		for _, f := range verify.ReferrerFormats() {
			s.broken[f] = err
		}
	case err != nil:
		return err
	}
	known, err := r.store.SignaturesOf(ctx, a, "")
	if err != nil {
		return atHome{err}
	}
	wanted := map[string]bool{}
	for _, g := range known {
		wanted[g.Manifest] = true
	}
	slices.SortStableFunc(list, func(x, y v1.Descriptor) int {
		late := func(d v1.Descriptor) int {
			if wanted[d.Digest.String()] {
				return 0
			}
			return 1
		}
		return cmp.Compare(late(x), late(y))
	})
	seen := map[string]bool{}
	for n, d := range list {
		digest := d.Digest.String()
		if seen[digest] || n >= maxReferrers && !wanted[digest] {
			continue
		}
		seen[digest] = true
		m, err := r.registry.Manifest(ctx, place, digest)
		if unreadable(err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := r.open(ctx, s, a, place, &holder{top: m}, ""); err != nil {
			return err
		}
	}
	return nil
}

// unreadable reports whether no verifier can read what gives this error.
func unreadable(err error) bool {
	return slices.ContainsFunc([]error{registry.ErrNotFound, registry.ErrMalformed, registry.ErrTooLarge, registry.ErrDigest},
		func(kind error) bool { return errors.Is(err, kind) })
}

// open takes apart what a tag of a format names, or a referrer, and puts it on
// the shelf if it holds signatures.
func (r *pruning) open(ctx context.Context, s *shelf, a inventory.Artifact, place string, h *holder, f inventory.Format) error {
	sub := verify.Subject{Repository: a.Repository, Digest: a.Digest}
	fetcher := verify.Fetcher{Registry: r.registry, Verifier: r.options.Verifier, Location: place}
	images := []registry.Manifest{h.top}
	digests, odd := verify.Images(sub, cmp.Or(h.tag, h.top.Digest), h.top)
	if len(digests) > 0 || len(odd.Problems) > 0 { // it is an index
		images = nil
		s.raw[h.top.Digest] = h.top.Raw
	}
	for _, d := range digests {
		m, err := r.registry.Manifest(ctx, place, d)
		if unreadable(err) {
			continue
		}
		if err != nil {
			return err
		}
		images = append(images, m)
	}
	holds := false
	for _, m := range images {
		opened := verify.OpenReferrer(m)
		if h.tag != "" {
			opened = verify.OpenTag(h.tag, f, m)
		}
		got := fetcher.Read(ctx, sub, opened)
		if got.Unknown != nil {
			return got.Unknown
		}
		one, err := r.sheet(ctx, s, sub, m, got, f)
		if err != nil {
			return err
		}
		h.sheets = append(h.sheets, one)
		s.raw[m.Digest] = m.Raw
		holds = holds || slices.ContainsFunc(one.ids, func(id string) bool { return id != "" })
		for _, found := range got.Found {
			if _, twice := s.found[found.ID]; !twice {
				s.found[found.ID] = found
			}
		}
		if got.Partial && slices.Contains(one.ids, "") {
			formats := verify.ReferrerFormats()
			if h.tag != "" {
				formats = []inventory.Format{f}
			}
			for _, f := range formats {
				s.broken[f] = fmt.Errorf("not all of %s@%s can be read, so nobody can say that it is gone", place, m.Digest)
			}
		}
	}
	if holds {
		s.holders = append(s.holders, h)
	}
	return nil
}

// sheet takes a manifest apart and says which signature each layer is.
func (r *pruning) sheet(ctx context.Context, s *shelf, sub verify.Subject, m registry.Manifest, got verify.Fetched, f inventory.Format) (*sheet, error) {
	one := &sheet{Manifest: m}
	parts := struct {
		Layers *[]json.RawMessage `json:"layers"`
	}{&one.layers}
	if json.Unmarshal(m.Raw, &one.image) != nil || json.Unmarshal(m.Raw, &parts) != nil || len(one.layers) != len(one.image.Layers) {
		return &sheet{Manifest: m}, nil // no verifier reads it
	}
	one.ids = make([]string, len(one.layers))
	for n, l := range one.image.Layers {
		at := slices.IndexFunc(got.Found, func(x verify.Found) bool {
			return x.Signature.Content == l.Digest.String() && (x.Format == inventory.Bundle || maps.Equal(x.Annotations, l.Annotations))
		})
		if at >= 0 {
			one.ids[n] = got.Found[at].ID
			continue
		}
		if f == "" {
			continue
		}
		// Its blob may be lost in the registry alone: whoever pushes that again
		// has the signature back.
		content, err := r.store.Vault(ctx, l.Digest.String())
		switch {
		case errors.Is(err, inventory.ErrNotFound):
		case err != nil:
			return nil, atHome{err}
		default:
			one.ids[n] = r.options.Verifier.Stored(sub, f, l.Annotations, content).ID
			s.lost[one.ids[n]] = true
		}
	}
	return one, nil
}

// rank is the order in which holders are emptied.
func (s *shelf) rank(h *holder) int {
	switch {
	case h.tag != "":
		return 2
	case slices.ContainsFunc(h.sheets, func(x *sheet) bool {
		return slices.ContainsFunc(x.ids, func(id string) bool { return s.found[id].PredicateType == inventory.SignPredicate })
	}):
		return 1
	}
	return 0
}

// with returns what stands on the artifact: what was found on the shelf, with
// what the inventory knows of it, and what is known to stand elsewhere.
func (s *shelf) with(known []inventory.Signature) (out []inventory.Signature) {
	seen := map[string]bool{}
	for _, g := range known {
		found, ok := s.found[g.ID]
		switch {
		case ok:
			first := g.FirstSeen
			g = inventory.Merge(g, found.Signature)
			g.FirstSeen, seen[g.ID] = first, true
			out = append(out, g)
		case s.lost[g.ID] || cmp.Or(g.Location, g.Repository) != s.place:
			out = append(out, g)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.found)) {
		if !seen[id] {
			out = append(out, s.found[id].Signature)
		}
	}
	return out
}
