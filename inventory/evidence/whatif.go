package evidence

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/verify"
)

// maxDark bounds the artifacts that a Difference names; it counts all.
const maxDark = 100

// Difference is what another trust makes of the signatures that are at their
// place.
type Difference struct {
	Signatures int64 `json:"signatures"` // judged: all on artifacts that the change can touch
	Refused    int64 `json:"refused"`    // verified, and would not any more
	Unlogged   int64 `json:"unlogged"`   // would verify still, without the log entry that most clients ask for
	Untimed    int64 `json:"untimed"`    // would verify still, and nothing would prove when they were made
	Artifacts  int64 `json:"artifacts"`  // with a signature of one of these three
	Deployed   int64 `json:"deployed"`   // of these
	Dark       int64 `json:"dark"`       // of the deployed ones, without any other signature
	Lost       int64 `json:"lost"`       // their bytes are not in the vault any more: judged by what is known of them

	DarkArtifacts []string `json:"dark_artifacts"` // the first of them, by digest
}

// Takes reports whether the change takes anything away.
func (d Difference) Takes() bool { return d.Refused+d.Unlogged+d.Untimed > 0 }

// WhatIf judges signatures from the exact bytes in the vault, as they are
// trusted now and as they would be, and counts the difference. It looks at the
// artifacts with a signature that rests on one of the authorities given, and
// changes nothing. Progress, which may be nil, is told as it goes.
func WhatIf(ctx context.Context, s *store.Store, now, then *verify.Verifier, authorities []inventory.Authority, progress func(Difference)) (Difference, error) {
	d := Difference{DarkArtifacts: []string{}}
	if len(authorities) == 0 {
		return d, nil
	}
	var mu sync.Mutex
	for at := (store.Place{}); ; {
		artifacts, next, err := s.Artifacts(ctx, store.Selection{Authorities: authorities}, at, page)
		if err != nil || len(artifacts) == 0 {
			slices.Sort(d.DarkArtifacts)
			return d, err
		}
		at = next
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(min(runtime.GOMAXPROCS(0), maxParallel))
		for _, a := range artifacts {
			g.Go(func() error {
				of, err := whatIf(gctx, s, now, then, a, authorities)
				mu.Lock()
				defer mu.Unlock()
				d.add(of)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return d, err
		}
		if progress != nil {
			progress(d)
		}
	}
}

// whatIf judges the signatures of one artifact.
func whatIf(ctx context.Context, s *store.Store, now, then *verify.Verifier, a inventory.Artifact, authorities []inventory.Authority) (Difference, error) {
	var d Difference
	stood, stands := false, false
	for at := (store.SignaturePlace{}); ; {
		sigs, next, err := s.Signatures(ctx, store.SignatureFilter{Repository: a.Repository, Digest: a.Digest}, at, page)
		if err != nil {
			return d, err
		}
		if len(sigs) == 0 {
			break
		}
		at = next
		for _, known := range sigs {
			d.Signatures++
			after, err := again(ctx, s, then, known)
			var before inventory.Signature
			switch {
			case errors.Is(err, inventory.ErrNotFound):
				d.Lost++
				before, after = known, without(known, authorities)
			case err != nil:
				return d, err
			default:
				if before, err = again(ctx, s, now, known); err != nil {
					return d, err
				}
			}
			if !before.Verified {
				continue
			}
			stood = true
			logged, timed := proofs(before)
			logs, times := proofs(after)
			switch {
			case !after.Verified:
				d.Refused++
			case logged && !logs:
				d.Unlogged++
			case timed && !times:
				d.Untimed++
			default:
				stands = true
			}
		}
	}
	if d.Takes() {
		d.Artifacts = 1
		if a.Deployed {
			d.Deployed = 1
		}
		if a.Deployed && stood && !stands {
			d.Dark, d.DarkArtifacts = 1, []string{a.Ref()}
		}
	}
	return d, nil
}

// proofs reports whether a log confirms a signature, and whether anything proves
// its time to others: the journal does so to us alone.
func proofs(s inventory.Signature) (logged, timed bool) {
	for _, b := range s.Bounds {
		if b.Verified && b.Side == inventory.Upper && b.Authority.Role != inventory.RoleJournal {
			logged, timed = logged || b.Authority.Role == inventory.RoleLog, true
		}
	}
	return logged || slices.ContainsFunc(s.Requires, func(a inventory.Authority) bool { return a.Role == inventory.RoleLog }), timed
}

// without returns a signature without what rests on authorities, where it cannot
// be judged anew.
func without(s inventory.Signature, authorities []inventory.Authority) inventory.Signature {
	if slices.ContainsFunc(s.Requires, func(a inventory.Authority) bool { return slices.Contains(authorities, a) }) {
		s.Verified = false
	}
	s.Bounds = slices.DeleteFunc(slices.Clone(s.Bounds), func(b inventory.Bound) bool { return slices.Contains(authorities, b.Authority) })
	return s
}

func (d *Difference) add(o Difference) {
	d.Signatures += o.Signatures
	d.Refused += o.Refused
	d.Unlogged += o.Unlogged
	d.Untimed += o.Untimed
	d.Artifacts += o.Artifacts
	d.Deployed += o.Deployed
	d.Dark += o.Dark
	d.Lost += o.Lost
	d.DarkArtifacts = append(d.DarkArtifacts, o.DarkArtifacts[:min(len(o.DarkArtifacts), maxDark-len(d.DarkArtifacts))]...)
}
