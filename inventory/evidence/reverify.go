// Package evidence judges what is stored, not what is in a registry: it
// recomputes the evidence of signatures when what is trusted has changed, and
// it takes in detached bundles.
package evidence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"runtime"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

const (
	page        = 256 // signatures recomputed between two commits
	maxParallel = 8   // signatures judged at once: one may be a hundred megabytes
)

// Reverified counts what a recomputation found.
type Reverified struct {
	Signatures int64 `json:"signatures"` // looked at
	Unaffected int64 `json:"unaffected"` // of these, by keys alone: nothing that can change bears on them
	Changed    int64 `json:"changed"`
	Identified int64 `json:"identified"` // of the changed: the signer was not known before
	Verified   int64 `json:"verified"`   // after it
	Unverified int64 `json:"unverified"`
	Lost       int64 `json:"lost"` // their bytes are not in the vault any more
}

// Reverify recomputes the evidence of every signature from the exact bytes in
// the vault, those that are gone from their registry included. Proofs of
// authorities that the verifier no longer trusts are taken away, and those of
// newly trusted ones count. Nothing is asked of any registry. Interrupted, it
// is run again: what it has done so far stays done.
func Reverify(ctx context.Context, s *store.Store, v *verify.Verifier, by journal.Author, progress func(Reverified)) (Reverified, error) {
	var r Reverified
	var at store.SignaturePlace
	renamed := map[string]verify.Subject{} // on the artifact the last page ended with: the listing may come upon them again
	for {
		sigs, next, err := s.Signatures(ctx, store.SignatureFilter{Gone: true}, at, page)
		if err != nil || len(sigs) == 0 {
			return r, err
		}
		at = next
		sigs = slices.DeleteFunc(sigs, func(g inventory.Signature) bool { _, seen := renamed[g.ID]; return seen })
		now := make([]inventory.Signature, len(sigs))
		lost := make([]bool, len(sigs))
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(min(runtime.GOMAXPROCS(0), maxParallel))
		for i, old := range sigs {
			if settled(old) {
				now[i] = old
				r.Unaffected++
				continue
			}
			g.Go(func() (err error) {
				now[i], err = again(gctx, s, v, old)
				if errors.Is(err, inventory.ErrNotFound) {
					now[i], lost[i], err = old, true, nil
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return r, err
		}
		if err := keep(ctx, s, by, sigs, now); err != nil {
			return r, err
		}
		for i := range sigs {
			r.add(sigs[i], now[i], lost[i])
			if sigs[i].ID != now[i].ID {
				renamed[now[i].ID] = verify.Subject{Repository: now[i].Repository, Digest: now[i].Digest}
			}
		}
		maps.DeleteFunc(renamed, func(_ string, on verify.Subject) bool {
			return on.Repository != at.Repository || on.Digest != at.Digest
		})
		if progress != nil {
			progress(r)
		}
	}
}

// settled reports whether no trusted root and no further key can change what
// is known: a key's signature that verifies and carries no proof of time. What
// the journal proves of it is not in it.
func settled(s inventory.Signature) bool {
	return s.Verified && s.Signer.Kind == signer.Key &&
		!slices.ContainsFunc(s.Bounds, func(b inventory.Bound) bool { return b.Authority.Role != inventory.RoleJournal })
}

func (r *Reverified) add(old, now inventory.Signature, lost bool) {
	r.Signatures++
	if lost {
		r.Lost++
	}
	if !same(old, now) {
		r.Changed++
	}
	if old.ID != now.ID {
		r.Identified++
	}
	if now.Verified {
		r.Verified++
	} else {
		r.Unverified++
	}
}

// same reports whether two states of one signature say the same of it.
func same(a, b inventory.Signature) bool {
	a.Value, b.Value = nil, nil
	return reflect.DeepEqual(a, b)
}

func keep(ctx context.Context, s *store.Store, by journal.Author, old, now []inventory.Signature) error {
	changed := false
	for i := range old {
		changed = changed || !same(old[i], now[i])
	}
	if !changed {
		return nil
	}
	return s.Update(ctx, by, func(tx *store.Tx) error {
		for i := range old {
			if same(old[i], now[i]) {
				continue
			}
			if err := tx.Reverified(ctx, old[i], now[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// again judges one signature anew from every copy of it that contributed to
// what is known. It returns inventory.ErrNotFound when none is in the vault.
func again(ctx context.Context, s *store.Store, v *verify.Verifier, old inventory.Signature) (inventory.Signature, error) {
	sub := verify.Subject{Repository: old.Repository, Digest: old.Digest}
	var out *inventory.Signature
	for c, err := range copiesOf(ctx, s, old) {
		if err != nil {
			return old, err
		}
		now := v.Stored(sub, old.Format, c.annotations, c.content)
		if inventory.SignatureID(old.Repository, old.Digest, old.Format, old.Signer, now.PayloadDigest, now.Value) != old.ID {
			continue // another signature in the same manifest
		}
		if out != nil {
			now = inventory.Merge(*out, now)
		}
		out = &now
	}
	if out == nil {
		return old, fmt.Errorf("signature %s: its bytes are %w in the vault", old.ID, inventory.ErrNotFound)
	}
	out.Manifest, out.Content, out.Location, out.FirstSeen, out.Gone = old.Manifest, old.Content, old.Location, old.FirstSeen, old.Gone
	for _, b := range old.Bounds {
		if b.Authority.Role == inventory.RoleJournal { // no copy of the signature has these
			out.Bounds = append(out.Bounds, b)
		}
	}
	return *out, nil
}

// stored is the bytes of one copy of a signature.
type stored struct {
	annotations map[string]string
	content     []byte
}

// copiesOf yields the copies of a signature one by one: whoever can push can
// make a manifest name one large layer a thousand times.
func copiesOf(ctx context.Context, s *store.Store, sig inventory.Signature) iter.Seq2[stored, error] {
	return func(yield func(stored, error) bool) {
		manifests, err := s.Copies(ctx, sig.ID)
		if err != nil {
			yield(stored{}, err)
			return
		}
		var last string // digest of content
		var content []byte
		seen := map[string]bool{}
		for _, digest := range manifests {
			raw, err := s.Vault(ctx, digest)
			if errors.Is(err, inventory.ErrNotFound) {
				continue
			}
			if err != nil || sig.Format.InFiles() { // a file is all there is
				if !yield(stored{content: raw}, err) {
					return
				}
				continue
			}
			var m v1.Manifest
			if json.Unmarshal(raw, &m) != nil {
				continue // it was never read
			}
			for _, layer := range m.Layers {
				// A bundle is one layer, and copies of a signature may be in different
				// bundles; of a ".sig" only the layers with its payload are of interest.
				d := layer.Digest.String()
				same, err := json.Marshal(layer.Annotations)
				if err != nil {
					continue // a map of strings
				}
				key := d + string(same)
				if sig.Format != inventory.Bundle && d != sig.Content || seen[key] {
					continue
				}
				seen[key] = true
				if d != last {
					content, err = s.Vault(ctx, d)
					if errors.Is(err, inventory.ErrNotFound) {
						last = ""
						continue
					}
					last = d
				}
				if !yield(stored{layer.Annotations, content}, err) {
					return
				}
			}
		}
	}
}
