// Package scan fills the inventory from registries.
//
// For every artifact it looks in every place cosign looks: the ".sig" and
// ".att" tags and the OCI 1.1 referrers. The exact bytes go to the vault, what
// verifies and what does not goes to the inventory, and what cannot be read is
// kept as a problem: one broken image never stops a scan.
package scan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"regexp"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/verify"
)

const (
	maxDepth = 3  // of indexes within indexes
	batch    = 50 // artifacts written in one transaction
)

// Registry is what a scan reads.
type Registry interface {
	verify.Registry
	Tags(ctx context.Context, repository string) iter.Seq2[string, error]
}

// Result counts what a scan found.
type Result struct {
	Repositories int64 `json:"repositories"`
	Artifacts    int64 `json:"artifacts"`
	Signatures   int64 `json:"signatures"`
	Verified     int64 `json:"verified"`
	Unverified   int64 `json:"unverified"`
	Problems     int64 `json:"problems"`
}

func (r *Result) add(f finding) {
	r.Artifacts++
	for _, s := range f.Found {
		r.Signatures++
		if s.Verified {
			r.Verified++
		} else {
			r.Unverified++
		}
	}
	r.Problems += int64(len(f.Problems))
}

// Scanner scans repositories into a store.
type Scanner struct {
	Registry Registry
	Store    *store.Store
	Verifier *verify.Verifier
	Parallel int                               // artifacts read at once; default 8
	Progress func(repository string, r Result) // called after each artifact; may be nil
}

// Repository scans one repository and adds what it finds to r. An artifact
// that cannot be read is a problem in r, not an error; an error means that the
// repository as a whole could not be listed or the inventory not be written.
func (s Scanner) Repository(ctx context.Context, by journal.Author, repository string, r *Result) error {
	l, err := s.list(ctx, repository)
	if err != nil {
		return err
	}
	r.Repositories++
	if err := s.Store.Update(ctx, by, func(tx *store.Tx) error {
		return tx.ClearProblems(ctx, repository)
	}); err != nil {
		return err
	}
	if s.Parallel < 1 {
		s.Parallel = 8
	}
	g, ctx := errgroup.WithContext(ctx)
	work, found := make(chan finding), make(chan finding)
	g.Go(func() error {
		defer close(work)
		return s.artifacts(ctx, repository, l, work)
	})
	g.Go(func() error {
		defer close(found)
		readers, ctx := errgroup.WithContext(ctx)
		for range s.Parallel {
			readers.Go(func() error {
				for f := range work {
					if err := send(ctx, found, s.read(ctx, l, f)); err != nil {
						return err
					}
				}
				return ctx.Err()
			})
		}
		return readers.Wait()
	})
	g.Go(func() error { return s.keep(ctx, by, repository, found, r) })
	return g.Wait()
}

func send[T any](ctx context.Context, to chan<- T, v T) error {
	select {
	case to <- v:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// listing is the tags of a repository, told apart.
type listing struct {
	images     []string        // tags that name artifacts
	signatures map[string]bool // ".sig" and ".att" tags
	signed     []string        // digests that a signature tag tells of
}

var signatureTag = regexp.MustCompile(`^sha256-([0-9a-f]{64})(\.sig|\.att|\.sbom)?$`)

func (s Scanner) list(ctx context.Context, repository string) (listing, error) {
	l := listing{signatures: map[string]bool{}}
	for tag, err := range s.Registry.Tags(ctx, repository) {
		if err != nil {
			return l, err
		}
		m := signatureTag.FindStringSubmatch(tag)
		if m == nil {
			l.images = append(l.images, tag)
			continue
		}
		l.signatures[tag] = true
		l.signed = append(l.signed, "sha256:"+m[1])
	}
	return l, nil
}

// finding is what is known of one artifact.
type finding struct {
	artifact inventory.Artifact
	verify.Fetched
}

func (f finding) broken(reference string, err error) finding {
	f.Problems = append(f.Problems, inventory.Problem{Repository: f.artifact.Repository, Reference: reference, Problem: err.Error()})
	return f
}

// walk is one walk over the artifacts of a repository.
type walk struct {
	Scanner
	repository string
	seen       map[string]bool
	out        chan<- finding
}

// artifacts sends what the tags name, what indexes name, and what only a
// signature tag tells of.
func (s Scanner) artifacts(ctx context.Context, repository string, l listing, out chan<- finding) error {
	w := walk{Scanner: s, repository: repository, seen: map[string]bool{}, out: out}
	for _, tag := range l.images {
		if err := w.visit(ctx, tag, tag, 0); err != nil {
			return err
		}
	}
	for _, digest := range l.signed {
		if err := w.visit(ctx, digest, "", 0); err != nil {
			return err
		}
	}
	return nil
}

// visit sends the artifact that a tag or digest names, and what it lists.
func (w walk) visit(ctx context.Context, reference, tag string, depth int) error {
	if w.seen[reference] {
		return nil
	}
	f := finding{artifact: inventory.Artifact{Repository: w.repository}}
	if tag == "" {
		f.artifact.Digest = reference
		w.seen[reference] = true
	}
	m, err := w.Registry.Manifest(ctx, w.repository, reference)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if tag == "" && depth == 0 && errors.Is(err, registry.ErrNotFound) {
			return send(ctx, w.out, f) // signed once, deleted since: its signatures are evidence all the same
		}
		return send(ctx, w.out, f.broken(reference, err))
	}
	f.artifact.Digest, f.artifact.MediaType, f.artifact.Size = m.Digest, m.MediaType, m.Size
	if tag != "" {
		f.artifact.Tags = []string{tag}
	}
	known := w.seen[m.Digest] && tag != ""
	w.seen[m.Digest] = true
	children, err := childrenOf(m)
	if err != nil {
		f = f.broken(reference, err)
	}
	if len(children) > 0 && depth == maxDepth {
		f = f.broken(reference, fmt.Errorf("indexes are nested more than %d deep", maxDepth))
		children = nil
	}
	if err := send(ctx, w.out, f); err != nil || known {
		return err
	}
	for _, c := range children {
		if err := w.visit(ctx, c.Digest.String(), "", depth+1); err != nil {
			return err
		}
	}
	return nil
}

// childrenOf returns what an index lists; an image lists nothing.
func childrenOf(m registry.Manifest) ([]v1.Descriptor, error) {
	var index v1.IndexManifest
	if err := json.Unmarshal(m.Raw, &index); err != nil {
		return nil, fmt.Errorf("malformed manifest: %w", err)
	}
	if !types.MediaType(m.MediaType).IsIndex() {
		return nil, nil
	}
	return index.Manifests, nil
}

// read adds the signatures of an artifact to what is known of it.
func (s Scanner) read(ctx context.Context, l listing, f finding) finding {
	if f.artifact.Digest == "" {
		return f
	}
	fetcher := verify.Fetcher{Registry: s.Registry, Verifier: s.Verifier}
	sub := verify.Subject{Repository: f.artifact.Repository, Digest: f.artifact.Digest}
	got := fetcher.Signatures(ctx, sub, func(format inventory.Format) bool {
		return format == inventory.Bundle || l.signatures[verify.Tag(sub.Digest, format)]
	})
	got.Problems = append(f.Problems, got.Problems...)
	f.Fetched = got
	return f
}

func (s Scanner) keep(ctx context.Context, by journal.Author, repository string, found <-chan finding, r *Result) error {
	var pending []finding
	flush := func() error {
		err := s.Store.Update(ctx, by, func(tx *store.Tx) error {
			for _, f := range pending {
				if err := put(ctx, tx, f); err != nil {
					return err
				}
			}
			return nil
		})
		pending = pending[:0]
		return err
	}
	for f := range found {
		pending = append(pending, f)
		r.add(f)
		if s.Progress != nil {
			s.Progress(repository, *r)
		}
		if len(pending) == batch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return flush()
}

func put(ctx context.Context, tx *store.Tx, f finding) error {
	for _, p := range f.Problems {
		if err := tx.PutProblem(ctx, p); err != nil {
			return err
		}
	}
	if f.artifact.Digest == "" {
		return nil
	}
	if err := tx.PutArtifact(ctx, f.artifact); err != nil {
		return err
	}
	for _, raw := range f.Manifests {
		if _, err := tx.PutVault(ctx, raw); err != nil {
			return err
		}
	}
	seen := make([]string, len(f.Found))
	for i, sig := range f.Found {
		seen[i] = sig.ID
		if _, err := tx.PutVault(ctx, sig.Content); err != nil {
			return err
		}
		if err := tx.PutSignature(ctx, sig.Signature); err != nil {
			return err
		}
	}
	if len(f.Problems) > 0 {
		return nil // what could not be read is not gone
	}
	return tx.KeepSignatures(ctx, f.artifact.Repository, f.artifact.Digest, seen)
}
