package app

import (
	"bufio"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/inventory/scan"
	"github.com/reseal/reseal/signer"
)

// ErrIncomplete is returned by a scan that left something unread.
var ErrIncomplete = errors.New("not everything could be read")

// Scan scans repositories, or whole registries (a host without a path), into
// the inventory. keys are further public keys that may have signed. What
// cannot be read is counted and kept; the error then wraps ErrIncomplete.
func (a *App) Scan(ctx context.Context, targets []string, keys []crypto.PublicKey, progress func(string, scan.Result)) (scan.Result, error) {
	var r scan.Result
	v, err := a.verifier(ctx, keys...)
	if err != nil {
		return r, err
	}
	s := scan.Scanner{Registry: a.options.Registry, Store: a.store, Verifier: v, Progress: progress}
	var unread []error
	for repository, err := range a.repositories(ctx, targets) {
		if err == nil {
			err = s.Repository(ctx, a.by("scan of %s", repository), repository, &r)
		}
		switch {
		case ctx.Err() != nil:
			return r, ctx.Err()
		case err != nil:
			r.Problems++
			unread = append(unread, err)
		}
	}
	if r.Problems > 0 {
		return r, errors.Join(fmt.Errorf("%w: %d problems", ErrIncomplete, r.Problems), errors.Join(unread...))
	}
	return r, nil
}

// repositories yields the repositories that targets name.
func (a *App) repositories(ctx context.Context, targets []string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, t := range targets {
			if !strings.Contains(t, "/") {
				for repo, err := range a.options.Registry.Repositories(ctx, t) {
					if !yield(repo, err) {
						return
					}
				}
				continue
			}
			repo, err := name.NewRepository(t)
			if err != nil {
				err = fmt.Errorf("repository %q: %w", t, err)
			}
			if !yield(repo.Name(), err) {
				return
			}
		}
	}
}

// Requests returns how many requests were sent to registries so far.
func (a *App) Requests() int64 { return a.options.Registry.Requests() }

// Problems lists what the last scans could not read.
func (a *App) Problems(ctx context.Context) ([]inventory.Problem, error) {
	return a.store.Problems(ctx)
}

// Signers lists every signer, enrolled ones first.
func (a *App) Signers(ctx context.Context) ([]store.SignerSummary, error) {
	return a.store.Signers(ctx)
}

// EnrollSigner enrols a signer or changes its state.
func (a *App) EnrollSigner(ctx context.Context, r signer.Record, reason string) (signer.Record, error) {
	if err := checkSigner(&r); err != nil {
		return r, err
	}
	return r, a.store.Update(ctx, a.by("%s", reason), func(tx *store.Tx) error {
		records, err := a.store.Records(ctx)
		if err != nil {
			return err
		}
		for _, known := range records {
			switch {
			case known.Identity == r.Identity && (known.State == signer.Tainted || known.State == signer.Revoked):
				return fmt.Errorf("signer %s is %s: a signer does not come back from that", r.Identity.ID(), known.State)
			case known.Identity != r.Identity && known.Name == r.Name:
				return fmt.Errorf("signer name %s is taken by %s: choose another", r.Name, known.Identity.ID())
			}
		}
		return tx.PutSigner(ctx, r)
	})
}

// Signer finds a signer by name or ID.
func (a *App) Signer(ctx context.Context, idOrName string) (signer.Record, error) {
	return a.store.Signer(ctx, idOrName)
}

// Artifacts yields the artifacts selected, deployed first.
func (a *App) Artifacts(ctx context.Context, sel store.Selection) iter.Seq2[inventory.Artifact, error] {
	return func(yield func(inventory.Artifact, error) bool) {
		var at store.Place
		for {
			page, next, err := a.store.Artifacts(ctx, sel, at, 500)
			if err != nil {
				yield(inventory.Artifact{}, err)
				return
			}
			for _, art := range page {
				if !yield(art, nil) {
					return
				}
			}
			if len(page) == 0 {
				return
			}
			at = next
		}
	}
}

// MarkDeployed reads a list of what runs, one "repository@sha256:<hex>" or bare
// digest a line, and marks it. Nothing is marked unless every line can be read.
// What the inventory does not have is returned, and is no error: much runs that
// others signed.
func (a *App) MarkDeployed(ctx context.Context, source string, r io.Reader) (marked int, unknown []string, err error) {
	type place struct{ repository, digest string }
	var places []place
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		repository, digest, named := strings.Cut(line, "@")
		if !named {
			repository, digest = "", line
		}
		if err := inventory.CheckDigest(digest); err != nil {
			return 0, nil, fmt.Errorf("%s line %d: %w", source, n, err)
		}
		if named {
			repo, err := name.NewRepository(repository)
			if err != nil {
				return 0, nil, fmt.Errorf("%s line %d: %w", source, n, err)
			}
			repository = repo.Name()
		}
		places = append(places, place{repository, digest})
	}
	if err := lines.Err(); err != nil {
		return 0, nil, fmt.Errorf("%s: %w", source, err)
	}
	err = a.store.Update(ctx, a.by("deployed according to %s", source), func(tx *store.Tx) error {
		for _, p := range places {
			err := tx.SetDeployed(ctx, p.repository, p.digest)
			switch {
			case errors.Is(err, inventory.ErrNotFound):
				unknown = append(unknown, strings.TrimPrefix(p.repository+"@"+p.digest, "@"))
			case err != nil:
				return err
			default:
				marked++
			}
		}
		return nil
	})
	return marked, unknown, err
}
