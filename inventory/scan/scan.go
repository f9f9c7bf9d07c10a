// Package scan fills the inventory from registries.
//
// For every artifact it looks in every place cosign looks: the ".sig" and
// ".att" tags, the OCI 1.1 referrers and their fallback tags, and where wanted
// another repository (COSIGN_REPOSITORY). The exact bytes go to the vault, what
// verifies and what does not goes to the inventory, and what cannot be read is
// kept as a problem: one broken image never stops a scan.
//
// A scan is incremental. What the inventory has is not fetched again: each tag
// costs one request that asks whether it still names the same manifest, and
// each artifact one for its referrers where the registry lists them. Where a
// scan stands is in the database, with what it found: it needs no more memory
// for a million artifacts than for ten, and after a crash it goes on.
package scan

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/verify"
)

const (
	defaultParallel     = 8
	defaultRepositories = 4

	// maxBadTargets bounds how many of the targets that are none an error names.
	maxBadTargets = 10

	// maxName bounds the name of a repository with its registry, in bytes
	// (distribution-spec, "Pulling manifests").
	maxName = 255
)

// Registry is what a scan reads. To scan a whole registry it must have
// Repositories too, as [registry.Client] has it.
type Registry interface {
	verify.Registry
	Tags(ctx context.Context, repository string) iter.Seq2[string, error]
	Head(ctx context.Context, repository, reference, known string) (digest string, err error)
	ReferrersAPI(ctx context.Context, repository, digest string) ([]v1.Descriptor, error)
}

// Result counts what is there, whether it was read now or had not changed.
type Result struct {
	Repositories int64 `json:"repositories"`
	Artifacts    int64 `json:"artifacts"`
	Signatures   int64 `json:"signatures"`
	Verified     int64 `json:"verified"`
	Unverified   int64 `json:"unverified"`
	Problems     int64 `json:"problems"`
	Unchanged    int64 `json:"unchanged"` // tags and lists of referrers that were not read again
}

func (r *Result) add(o Result) {
	r.Repositories += o.Repositories
	r.Artifacts += o.Artifacts
	r.Signatures += o.Signatures
	r.Verified += o.Verified
	r.Unverified += o.Unverified
	r.Problems += o.Problems
	r.Unchanged += o.Unchanged
}

// Progress is how far a scan has got.
type Progress struct {
	Repository   string // where the scan was last
	Repositories int64  // done
	Done, Total  int64  // tags and lists of referrers: looked at, and known to be there so far
	Result       Result // of repositories that are done what is there, of others what was read so far
	Retries      int64  // requests that had to be sent again
}

// Scanner scans registries into a store.
type Scanner struct {
	Registry     Registry
	Store        *store.Store
	Verifier     verify.Judge
	Location     string         // repository that holds signatures besides (COSIGN_REPOSITORY); may be empty
	Parallel     int            // references read at once in one repository; default 8
	Repositories int            // repositories scanned at once; default 4
	Progress     func(Progress) // called after each reference, one call at a time; may be nil
}

// run is one Run.
type run struct {
	Scanner
	writer *writer
	memory *semaphore.Weighted // bytes in flight, see room

	additive bool // nothing known is taken back: see Import

	mu       sync.Mutex
	progress Progress
	bad      []error // targets that are none
}

// Run scans targets: repositories, whole registries (a host without a path),
// and single artifacts ("repository:tag" or "repository@sha256:..."). What
// cannot be read is kept as a problem and counted, and the rest goes on; so it
// is with a target that is none of these, and the error names it at the end.
// Any other error means that the scan had to stop; run it again to go on.
//
// A repository whose scan was stopped in the middle a few minutes ago is scanned
// from there; after that it is looked at anew, and what was read then is not
// fetched again. A single artifact is always read anew; other artifacts of
// its repository are left as they are.
func (s Scanner) Run(ctx context.Context, by journal.Author, targets iter.Seq2[string, error]) (Result, error) {
	return s.run(ctx, by, func(ctx context.Context, r *run) error {
		if err := r.prepareLocation(ctx); err != nil {
			return err
		}
		return r.targets(ctx, targets)
	})
}

// Import takes in what a registry-like source, an image layout, has under the
// name of a repository. What the inventory knows of that repository stays: the
// source is not the registry, and what it lacks is not gone. Its tags are not
// the registry's either. What cannot be read is kept as a problem.
func (s Scanner) Import(ctx context.Context, by journal.Author, repository string) (Result, error) {
	repo, err := name.NewRepository(repository)
	if err != nil {
		return Result{}, fmt.Errorf("repository %q: %w", repository, err)
	}
	return s.run(ctx, by, func(ctx context.Context, r *run) error {
		r.additive = true
		return r.everyTag(ctx, repo.Name())
	})
}

func (s Scanner) run(ctx context.Context, by journal.Author, do func(context.Context, *run) error) (Result, error) {
	if err := by.Check(); err != nil {
		return Result{}, err
	}
	if s.Parallel < 1 {
		s.Parallel = defaultParallel
	}
	if s.Repositories < 1 {
		s.Repositories = defaultRepositories
	}
	r := &run{Scanner: s, writer: newWriter(s.Store, by), memory: semaphore.NewWeighted(maxMemory)}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.writer.run(ctx) })
	g.Go(func() error {
		defer r.writer.close()
		return do(ctx, r)
	})
	err := g.Wait()
	if err == nil && len(r.bad) > 0 {
		err = errors.Join(r.bad...)
	}
	return r.progress.Result, err
}

// targets scans what is to be scanned, several repositories at once.
func (r *run) targets(parent context.Context, targets iter.Seq2[string, error]) error {
	g, ctx := errgroup.WithContext(parent)
	g.SetLimit(r.Repositories)
	for t, err := range r.resolve(ctx, targets) {
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			r.mu.Lock()
			if r.progress.Result.Problems++; len(r.bad) < maxBadTargets {
				r.bad = append(r.bad, err)
			}
			r.mu.Unlock()
			continue
		}
		g.Go(func() error { return t(ctx) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return parent.Err()
}

// resolve yields how each target is scanned, the repositories of registries one
// by one.
func (r *run) resolve(ctx context.Context, targets iter.Seq2[string, error]) iter.Seq2[func(context.Context) error, error] {
	return func(yield func(func(context.Context) error, error) bool) {
		repository := func(name string) bool {
			return yield(func(ctx context.Context) error { return r.repository(ctx, name) }, nil)
		}
		for t, err := range targets {
			if err != nil {
				yield(nil, err)
				return
			}
			if _, err := name.NewRegistry(t, name.StrictValidation); err == nil && !strings.Contains(t, "/") {
				if !r.catalog(ctx, t, repository, func(err error) bool { return yield(nil, err) }) {
					return
				}
				continue
			}
			if repo, err := name.NewRepository(t); err == nil && len(repo.Name()) <= maxName {
				if !repository(repo.Name()) {
					return
				}
				continue
			}
			ref, err := name.ParseReference(t)
			if err != nil || len(ref.Context().Name()) > maxName {
				err = fmt.Errorf("target %.300q is no registry, repository or image: write host[:port][/path[:tag or @digest]]", t)
			}
			if !yield(func(ctx context.Context) error {
				return r.artifact(ctx, ref.Context().Name(), ref.Identifier())
			}, err) {
				return
			}
		}
	}
}

// isRepository is the name of a repository (distribution-spec, "Pulling manifests").
var isRepository = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)

// catalog calls found for each repository of a registry. It reports whether to
// go on.
func (r *run) catalog(ctx context.Context, host string, found func(string) bool, bad func(error) bool) bool {
	lister, ok := r.Registry.(interface {
		Repositories(ctx context.Context, registry string) iter.Seq2[string, error]
	})
	if !ok {
		return bad(fmt.Errorf("target %q: it is no registry that lists its repositories: name them", host))
	}
	problem, odd := "", 0
	for repo, err := range lister.Repositories(ctx, host) {
		if err != nil {
			problem = err.Error()
			break
		}
		if len(repo) > maxName || !isRepository.MatchString(strings.TrimPrefix(repo, host+"/")) {
			odd++
			continue
		}
		if !found(repo) {
			return false
		}
	}
	if problem == "" && odd > 0 {
		problem = fmt.Sprintf("%d of the names that the registry lists are no repositories", odd)
	}
	var c change
	if problem == "" {
		c.clear(host, uncharted)
	} else {
		c.problem(inventory.Problem{Repository: host, Reference: uncharted, Problem: problem})
		r.count(host, Result{Problems: 1}, 0, 0)
	}
	return r.writer.put(ctx, c) == nil
}

// count adds to what is counted and tells of it.
func (r *run) count(repository string, add Result, done, total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &r.progress
	p.Repository = repository
	p.Repositories += add.Repositories
	p.Result.add(add)
	p.Done += done
	p.Total += total
	if retrier, ok := r.Registry.(interface{ Retries() int64 }); ok {
		p.Retries = retrier.Retries()
	}
	if r.Progress != nil {
		r.Progress(*p)
	}
}
