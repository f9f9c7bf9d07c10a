package app

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/inventory/records"
	"github.com/reseal/reseal/inventory/scan"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// ErrIncomplete is returned by a scan that left something unread.
var ErrIncomplete = errors.New("not everything could be read")

// ScanOptions say what to scan and how.
type ScanOptions struct {
	Targets  iter.Seq2[string, error] // repositories, registries (a host without a path), images
	Keys     []crypto.PublicKey       // further keys that may have signed; they are kept, and trusted by nobody
	Location string                   // repository that holds the signatures instead (COSIGN_REPOSITORY)
}

// Targets yields targets that are known from the start.
func Targets(list ...string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, t := range list {
			if !yield(t, nil) {
				return
			}
		}
	}
}

// Scan scans targets into the inventory. What cannot be read is counted and
// kept; the error then wraps ErrIncomplete.
func (a *App) Scan(ctx context.Context, o ScanOptions, progress func(scan.Progress)) (scan.Result, error) {
	v, err := a.scanning(ctx, o.Keys)
	if err != nil {
		return scan.Result{}, err
	}
	s := scan.Scanner{Registry: a.options.Registry, Store: a.store, Verifier: v, Location: o.Location, Progress: progress}
	r, err := s.Run(ctx, a.by("scan"), o.Targets)
	if err == nil && r.Problems > 0 {
		err = fmt.Errorf("%w: %d problems", ErrIncomplete, r.Problems)
	}
	return r, err
}

// scanning returns the verifier of a scan. Keys are kept as observed signers,
// so that what they verify can be verified again. The trust is noted that an
// empty inventory is filled with.
func (a *App) scanning(ctx context.Context, keys []crypto.PublicKey) (*verify.Verifier, error) {
	if err := a.observe(ctx, keys); err != nil {
		return nil, err
	}
	v, err := a.verifier(ctx)
	if err != nil {
		return nil, err
	}
	c, err := a.store.Counts(ctx)
	if err != nil || c.Signatures > 0 {
		return v, err
	}
	return v, a.trusting(ctx, v)
}

func (a *App) observe(ctx context.Context, keys []crypto.PublicKey) error {
	known, err := a.SignerRecords(ctx)
	if err != nil {
		return err
	}
	var fresh []signer.Record
	for _, key := range keys {
		id, err := signer.OfKey(key)
		if err != nil {
			return err
		}
		r, ok := known[id.ID()]
		if len(r.PublicKey) > 0 {
			continue
		}
		if !ok {
			r = signer.Record{Identity: id, State: signer.Observed}
		}
		if r.PublicKey, err = cryptoutils.MarshalPublicKeyToPEM(key); err != nil {
			return fmt.Errorf("key %s: %w", id.ID(), err)
		}
		fresh = append(fresh, r)
	}
	if len(fresh) == 0 {
		return nil
	}
	return a.store.Update(ctx, a.by("keys that may have signed"), func(tx *store.Tx) error {
		for _, r := range fresh {
			if err := tx.PutSigner(ctx, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// Requests returns how many requests were sent to registries so far.
func (a *App) Requests() int64 { return a.options.Registry.Requests() }

// Problems lists what the last scans could not read.
func (a *App) Problems(ctx context.Context) ([]inventory.Problem, error) {
	return a.store.Problems(ctx)
}

// ForgetProblems forgets what could not be read of a repository.
func (a *App) ForgetProblems(ctx context.Context, repository, reason string) (n int, err error) {
	list, err := a.store.Problems(ctx)
	if err != nil {
		return 0, err
	}
	for _, p := range list {
		if p.Repository == repository {
			n++
		}
	}
	if n == 0 {
		return 0, fmt.Errorf("problems with %s: %w: \"reseal problems\" lists them", repository, inventory.ErrNotFound)
	}
	return n, a.store.Update(ctx, a.by("%s", reason), func(tx *store.Tx) error {
		return tx.ClearProblems(ctx, repository, "")
	})
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
		if r.State == signer.Standby {
			if err := a.checkApart(ctx, r); err != nil {
				return err
			}
		}
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

// checkApart refuses a signer that is to become trusted and that an approver
// signs as.
func (a *App) checkApart(ctx context.Context, r signer.Record) error {
	set, err := rotate.LoadApprovers(ctx, a.store)
	if err != nil {
		return err
	}
	if err := set.CheckApart(r.Identity); err != nil {
		return fmt.Errorf("signer %s: %w", r.Name, err)
	}
	return nil
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

// Deployed is what came of marking what runs.
type Deployed struct {
	Marked       int      `json:"marked"`
	Unknown      []string `json:"unknown"`      // not in the inventory: much runs that others signed
	Undetermined []string `json:"undetermined"` // it runs, but not even its digest is known
}

// MarkDeployed reads what runs, from a plain list or from JSON of Kubernetes
// pods, and marks it. Nothing is marked unless all of it can be read.
func (a *App) MarkDeployed(ctx context.Context, source string, r io.Reader, pods bool) (Deployed, error) {
	d := Deployed{Unknown: []string{}, Undetermined: []string{}}
	entries := records.List(r)
	if pods {
		entries = records.Pods(r)
	}
	type place struct{ repository, digest string }
	seen := map[place]bool{}
	var places []place
	for e, err := range entries {
		if err != nil {
			return d, fmt.Errorf("%s: %w", source, err)
		}
		at := place{e.Repository, e.Digest}
		switch {
		case e.Digest == "":
			d.Undetermined = append(d.Undetermined, fmt.Sprintf("%s/%s %s: %s", e.Namespace, e.Pod, e.Container, e.Why))
		case !seen[at]:
			seen[at] = true
			places = append(places, at)
		}
	}
	err := a.store.Update(ctx, a.by("deployed according to %s", source), func(tx *store.Tx) error {
		d.Marked, d.Unknown = 0, d.Unknown[:0]
		for _, p := range places {
			err := tx.SetDeployed(ctx, p.repository, p.digest)
			switch {
			case errors.Is(err, inventory.ErrNotFound):
				d.Unknown = append(d.Unknown, strings.TrimPrefix(p.repository+"@"+p.digest, "@"))
			case err != nil:
				return err
			default:
				d.Marked++
			}
		}
		return nil
	})
	return d, err
}

// Counts returns the size of the inventory.
func (a *App) Counts(ctx context.Context) (store.Counts, error) { return a.store.Counts(ctx) }
