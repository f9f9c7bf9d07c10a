// Package resign signs again, with a new signer, what a plan decided to
// re-sign.
//
// One statement in one format is one unit of work: the decision is checked
// again, the intent is journaled, the new signature is made and persisted,
// published, read back and verified as its consumer would, and recorded. A unit
// resumes by looking at the registry, then by publishing the persisted bytes,
// and signs anew only when there are none; so a run may be killed at any moment
// and started again, and no statement ends up signed twice.
//
// What may be re-signed is not decided here: see rotate.
package resign

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"golang.org/x/sync/errgroup"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// The states of a unit of work, in order.
const (
	Intended = "intended" // journaled; the key may have been used, no bytes are known
	Signed   = "signed"   // the signed bytes are in the vault, they may be published
	Done     = "done"     // read back from the registry and verified
	Failed   = "failed"   // with a reason; tried again by the next run
	Held     = "held"     // the inventory no longer leads to the plan's decision
)

// Item is one statement to sign again.
type Item struct {
	Seq           int64
	Repository    string
	Digest        string
	MediaType     string // of the artifact's manifest
	Size          int64
	PredicateType string
	StatementKey  string
	Formats       []inventory.Format
	SourceFormat  inventory.Format // of the stored signature that carries a claim's exact payload
	SourceContent string           // its vault digest
}

// Work is an approved list of items.
type Work interface {
	// Items returns the next items after seq, in order; none is the end.
	Items(ctx context.Context, after int64, limit int) ([]Item, error)
	// Still reports whether the decision to re-sign an item still holds, and
	// why not.
	Still(ctx context.Context, i Item) (why string, ok bool, err error)
}

// Registry is what re-signing needs of a registry.
type Registry interface {
	verify.Registry
	PutBlob(ctx context.Context, repository string, content []byte) (string, error)
	PutManifest(ctx context.Context, repository, reference, mediaType string, raw []byte) (string, bool, error)
	Attach(ctx context.Context, repository string, manifest []byte, mediaType string, desc v1.Descriptor, subject string) (string, error)
	Serialise(ctx context.Context, repository, digest string) (unlock func(), err error)
}

// Result counts units of work.
type Result struct {
	Planned int64 `json:"planned"`
	Signed  int64 `json:"signed"`  // published by this run
	Already int64 `json:"already"` // found signed
	Held    int64 `json:"held"`
	Failed  int64 `json:"failed"`
}

// Failure is a unit that was not signed, and why.
type Failure struct {
	Item   Item
	Format inventory.Format
	Why    string
}

// Engine re-signs.
type Engine struct {
	Registry  Registry
	Store     *store.Store
	Signer    signer.Signer
	Root      root.TrustedMaterial     // proves the times of the new signatures; nil: none is proven
	Timestamp *sign.TimestampAuthority // stamps every new signature; nil: none
	Plan      string
	By        journal.Author
	Apply     bool                       // false: look and count, change nothing
	Parallel  int                        // artifacts published at once; default 8
	Progress  func(done int64, r Result) // done counts the units worked through
	Failed    func(Failure)              // told of every unit that is held or failed; may be nil
}

// chunk is how many items are persisted in one transaction.
const chunk = 64

// unit is one item in one format.
type unit struct {
	Item
	format   inventory.Format
	record   store.Reissue
	content  []byte // what is stored in the vault: see material.go
	found    *verify.Found
	holder   []byte // the manifest that holds what was found: restoring it takes that, too
	wrote    bool   // published by this run
	verified bool   // read back and accepted by its consumer's verifier
	err      error
}

// run is the state of one Run.
type run struct {
	Engine
	fetcher  verify.Fetcher
	consumer verify.Consumer
	mu       sync.Mutex
	done     int64
	result   Result
}

// Run works through the items. What cannot be signed is counted and reported
// to e.Failed, and the rest goes on; an error means that the run had to stop,
// and that running it again resumes it.
func (e Engine) Run(ctx context.Context, work Work) (Result, error) {
	v, err := verify.New(verify.Trust{Root: e.Root, Keys: []crypto.PublicKey{e.Signer.PublicKey()}})
	if err != nil {
		return Result{}, err
	}
	if e.Parallel < 1 {
		e.Parallel = 8
	}
	r := &run{Engine: e, fetcher: verify.Fetcher{Registry: e.Registry, Verifier: v}, consumer: verify.Consumer{Key: e.Signer.PublicKey()}}
	for after := int64(0); ; {
		items, err := work.Items(ctx, after, chunk)
		if err != nil || len(items) == 0 {
			return r.result, err
		}
		after = items[len(items)-1].Seq
		if err := r.chunk(ctx, work, items); err != nil {
			return r.result, err
		}
	}
}

func (r *run) chunk(ctx context.Context, work Work, items []Item) error {
	units, err := r.units(ctx, work, items)
	if err != nil {
		return err
	}
	if err := r.each(ctx, units, r.look); err != nil {
		return err
	}
	if !r.Apply {
		for _, u := range units {
			r.count(u)
		}
		return nil
	}
	if err := r.sign(ctx, units); err != nil {
		return err
	}
	if err := r.each(ctx, units, r.publish); err != nil {
		return errors.Join(err, r.record(context.WithoutCancel(ctx), units))
	}
	return r.record(ctx, units)
}

// units lists the work of some items that still may be done.
func (r *run) units(ctx context.Context, work Work, items []Item) ([]*unit, error) {
	records, err := r.Store.Reissues(ctx, r.Plan, items[0].Seq, items[len(items)-1].Seq)
	if err != nil {
		return nil, err
	}
	type key struct {
		seq    int64
		format inventory.Format
	}
	known := map[key]store.Reissue{}
	for _, rec := range records {
		known[key{rec.Seq, rec.Format}] = rec
	}
	var out []*unit
	for _, i := range items {
		why, ok, err := work.Still(ctx, i)
		if err != nil {
			return nil, err
		}
		for _, f := range i.Formats {
			r.result.Planned++
			u := &unit{Item: i, format: f, record: known[key{i.Seq, f}]}
			u.record.Plan, u.record.Seq, u.record.Format = r.Plan, i.Seq, f
			switch {
			case !ok:
				u.record.State, u.record.Why = Held, why
			case u.record.State == Held: // it was once; it is looked at anew
				u.record.State, u.record.Why = "", ""
			}
			out = append(out, u)
		}
	}
	return out, nil
}

// each runs do on every unit that is not held: artifacts side by side, the
// units of one artifact one after the other, because they share tags.
func (r *run) each(ctx context.Context, units []*unit, do func(context.Context, *unit) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.Parallel)
	for start := 0; start < len(units); {
		end := start
		for end < len(units) && units[end].Repository == units[start].Repository && units[end].Digest == units[start].Digest {
			end++
		}
		same := units[start:end]
		start = end
		g.Go(func() error {
			for _, u := range same {
				if u.record.State == Held || u.err != nil {
					continue
				}
				if err := do(gctx, u); err != nil {
					if gctx.Err() != nil {
						return gctx.Err()
					}
					u.err = err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// look finds what an earlier run, or somebody else with the same key, has
// published already.
func (r *run) look(ctx context.Context, u *unit) error {
	found, err := r.find(ctx, u)
	if err != nil {
		return fmt.Errorf("looking for an earlier signature: %w", err)
	}
	u.found = found
	return nil
}

func (r *run) find(ctx context.Context, u *unit) (*verify.Found, error) {
	fetched := r.fetcher.Signatures(ctx, verify.Subject{Repository: u.Repository, Digest: u.Digest}, verify.Only(u.format))
	for n := range fetched.Found {
		f := &fetched.Found[n]
		if f.Verified && f.Signer == r.Signer.Identity() && f.StatementKey() == u.StatementKey {
			for _, h := range fetched.Holders {
				if h.Digest == f.Manifest {
					u.holder = h.Raw
				}
			}
			return f, nil
		}
	}
	return nil, fetched.Unknown
}

// sign makes and persists the signatures that are missing. Every intent is on
// disk before the key is used, and every signed byte before anything is
// published.
func (r *run) sign(ctx context.Context, units []*unit) error {
	var missing []*unit
	for _, u := range units {
		if u.record.State == Held || u.err != nil || u.found != nil {
			continue
		}
		if u.record.Content != "" {
			content, err := r.Store.Vault(ctx, u.record.Content)
			if err != nil {
				return err
			}
			u.content = content
			continue
		}
		missing = append(missing, u)
	}
	if len(missing) == 0 {
		return nil
	}
	if err := r.save(ctx, missing, func(u *unit) { u.record.State, u.record.Why = Intended, "" }); err != nil {
		return err
	}
	for _, u := range missing {
		if err := ctx.Err(); err != nil {
			return err
		}
		if u.content, u.record.SignatureID, u.err = r.make(ctx, u); u.err == nil {
			u.record.State = Signed
		}
	}
	return r.Store.Update(ctx, r.By, func(tx *store.Tx) error {
		for _, u := range missing {
			if u.err != nil {
				continue
			}
			var err error
			if u.record.Content, err = tx.PutVault(ctx, u.content); err != nil {
				return err
			}
			if err := r.put(ctx, tx, u); err != nil {
				return err
			}
		}
		return nil
	})
}

// publish puts the persisted bytes where consumers look, unless they are there,
// reads them back and verifies them as the consumer would.
func (r *run) publish(ctx context.Context, u *unit) error {
	if u.found == nil {
		if err := r.write(ctx, u); err != nil {
			return err
		}
		found, err := r.find(ctx, u)
		if err != nil {
			return fmt.Errorf("reading back: %w", err)
		}
		if found == nil {
			return errors.New("reading back: the signature is not there: another writer may have overwritten it; run again")
		}
		u.found, u.wrote = found, true
	}
	u.record.SignatureID = u.found.ID
	if err := r.consumer.Accepts(ctx, *u.found); err != nil {
		return fmt.Errorf("the signature read back is not accepted by its consumer's verifier: %w", err)
	}
	u.verified = true
	return nil
}

// record keeps what became of every unit and enters the new signatures into
// the inventory.
func (r *run) record(ctx context.Context, units []*unit) error {
	var changed []*unit
	for _, u := range units {
		known := u.record.State == Done
		switch {
		case u.record.State == Held:
		case u.err != nil:
			u.record.State, u.record.Why = Failed, u.err.Error()
		case u.verified:
			u.record.State, u.record.Why = Done, ""
		default:
			continue // not reached: the run was stopped
		}
		r.tally(u, !u.wrote)
		if !known || u.record.State != Done {
			changed = append(changed, u)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	return r.Store.Update(ctx, r.By, func(tx *store.Tx) error {
		for _, u := range changed {
			if err := r.put(ctx, tx, u); err != nil {
				return err
			}
			if u.record.State != Done {
				continue
			}
			for _, content := range [][]byte{u.found.Content, u.holder} {
				if _, err := tx.PutVault(ctx, content); err != nil {
					return err
				}
			}
			if err := tx.PutSignature(ctx, u.found.Signature); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *run) save(ctx context.Context, units []*unit, change func(*unit)) error {
	return r.Store.Update(ctx, r.By, func(tx *store.Tx) error {
		for _, u := range units {
			change(u)
			if err := r.put(ctx, tx, u); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *run) put(ctx context.Context, tx *store.Tx, u *unit) error {
	tx.Record(journal.Draft{Action: "resign." + u.record.State, Digest: u.record.Content,
		Subject: fmt.Sprintf("%s@%s %s %s plan %s", u.Repository, u.Digest, u.format, u.PredicateType, r.Plan)})
	return tx.PutReissue(ctx, u.record)
}

// count tells what a dry run would have done with a unit.
func (r *run) count(u *unit) {
	if u.err != nil {
		u.record.State, u.record.Why = Failed, u.err.Error()
	}
	r.tally(u, u.found != nil)
}

func (r *run) tally(u *unit, already bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done++
	switch {
	case u.record.State == Held:
		r.result.Held++
	case u.record.State == Failed:
		r.result.Failed++
	case already:
		r.result.Already++
	case r.Apply:
		r.result.Signed++
	}
	if r.Failed != nil && (u.record.State == Held || u.record.State == Failed) {
		r.Failed(Failure{Item: u.Item, Format: u.format, Why: u.record.Why})
	}
	if r.Progress != nil {
		r.Progress(r.done, r.result)
	}
}
