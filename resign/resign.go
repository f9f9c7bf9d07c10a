// Package resign signs again, with a new signer, what a plan decided to
// re-sign.
//
// One statement in one format is one unit of work: the decision is checked
// again, the intent is journaled, the new signature is made, verified as its
// consumer would and persisted, published, read back, and recorded. A unit
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
	"slices"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/services"
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
	Proven        []Source         // image signatures that are proven good: what they annotate the image with is said again
	Also          []string         // digests that a claim is about besides, each itself decided good
	Summary       []byte           // of an attestation that is not signed again: the payload that is signed instead, whose key StatementKey is
	Decided       string           // key of the statement that was decided: StatementKey, but of a summary
}

// Source is a stored signature.
type Source struct {
	Format  inventory.Format
	Content string // vault digest
}

// Work is an approved list of items.
type Work interface {
	// Items returns the next items after seq, in order; none is the end. Those of
	// one artifact follow one another.
	Items(ctx context.Context, after int64, limit int) ([]Item, error)
	// Still reports of each of some items whether the decision to re-sign it still
	// holds, by what is known now: why not, or "". It is asked by several at once,
	// for each chunk just before it is signed, and again while that takes long.
	Still(ctx context.Context, items []Item) (why []string, err error)
}

// Registry is what re-signing needs of a registry.
type Registry interface {
	verify.Registry
	Listing(ctx context.Context, repository, digest string) (registry.Listing, error)
	PutBlob(ctx context.Context, repository string, content []byte) (string, error)
	PutManifest(ctx context.Context, repository, reference, mediaType string, raw []byte) (string, bool, error)
	Extend(ctx context.Context, repository, subject string, l registry.Listing, add ...v1.Descriptor) error
	Serialise(ctx context.Context, repository, digest string) (unlock func(), err error)
}

// Result counts units of work.
type Result struct {
	Planned int64 `json:"planned"`
	Signed  int64 `json:"signed"`  // published by this run
	Already int64 `json:"already"` // found signed
	Held    int64 `json:"held"`
	Failed  int64 `json:"failed"`
	Left    int64 `json:"left"` // not tried: see LeftError
}

// Failure is a unit that was not signed, and why.
type Failure struct {
	Item   Item
	Format inventory.Format
	Why    string
}

// Engine re-signs.
type Engine struct {
	Registry Registry
	Store    *store.Store
	Signer   signer.Source
	Services services.Services    // asked for proofs of every new signature
	Root     root.TrustedMaterial // proves the times of the new signatures; nil: none is proven
	Plan     string
	By       journal.Author
	Apply    bool          // false: look and count, change nothing
	Parallel int           // artifacts published at once; default 8
	Making   int           // signatures made at once; default 192, as remote signers and logs take long
	Memory   int64         // bytes of signatures in the making and waiting to be published; default DefaultMemory
	Rate     rate.Limit    // signatures a second; 0: no limit
	Recheck  time.Duration // how old the word that a decision still holds may be when the key is used; default 250 ms
	Settle   time.Duration // how long after the last write to look again where others write, too; default 2 s

	Files Files // where files are, and the signatures that are made of them

	// Patience remembers where one unit after the other failed, for runs that
	// follow; nil: this run's own.
	Patience *Patience

	Batch bool // one statement for the image signatures of up to 1024 artifacts of a repository, as bundles

	// Outside says why a signature is not outside every incident, with its signer
	// and the services that prove something of it, or "". One that was just made
	// stops the run then, before it is published: so would all others be. Of those
	// that were there before (made is false) it says so only when consumers lose
	// them: one that an earlier run persisted is given up, and one that is published
	// counts for nothing. It is asked of every signature, so it must be cheap. nil:
	// there are no incidents.
	Outside func(ctx context.Context, s inventory.Signature, made bool) (why string, err error)

	// Settled is told of every unit worked through, before Progress is, and what
	// became of it: Done, Held or Failed; "": a dry run would sign it. May be nil.
	Settled  func(i Item, state string)
	Progress func(done int64, r Result) // done counts the units worked through
	Failed   func(Failure)              // told of every unit that is held or failed; may be nil

	// Fence and Hold let only one of several engines work on some items; nil:
	// there is no other. An error of theirs stops the run: it is no failure of a
	// unit, and nothing more is recorded. Fence is called before the key is used
	// and before each write to a registry, so it must be cheap. Hold is called
	// first in every transaction that records something.
	Fence func(ctx context.Context) error
	Hold  func(ctx context.Context, tx *store.Tx) error
}

const (
	// chunk is how many items are persisted in one transaction.
	chunk = 64
	// ahead is how many chunks are worked on at once: one is signed while another
	// is published. With services it takes more of them to keep these busy: a log
	// that answers once a second does so for all who wait.
	ahead, aheadOfServices = 3, 8
	// maxSubjects is how many artifacts one statement may name: verifiers read no
	// more (sigstore-go, "maxAllowedSubjects").
	maxSubjects = 1024
)

// unit is one item in one format.
type unit struct {
	Item
	format inventory.Format
	record store.Reissue
	made   *reissue      // to be published; nil: none yet
	found  *verify.Found // in the registry
	holder []byte        // the manifest that holds what was found: restoring it takes that, too
	err    error

	decisions *decisions // of its chunk

	weight   int64  // in memory until it is published, in bytes: an estimate
	batch    *batch // that it is signed in; nil: alone
	uploaded bool   // the content is in the repository
	already  bool   // counted as found
	wrote    bool   // published by this run
	good     bool   // read back, and accepted by its consumer's verifier
}

// open reports whether there is something left to do about the unit.
func (u *unit) open() bool { return u.record.State != Held && u.err == nil && !u.good }

// run is the state of one Run.
type run struct {
	Engine
	verifier *verify.Verifier
	fetcher  verify.Fetcher
	consumer verify.Consumer
	chain    []byte // PEM of what certifies keyless signers, as legacy signatures carry it
	making   chan struct{}
	writing  chan struct{}
	memory   *semaphore.Weighted // in bytes
	pace     *rate.Limiter

	mu        sync.Mutex
	done      int64
	result    Result
	contended []*place        // others write there, too
	sampled   int             // units published
	seen      map[string]bool // repositories of which one was read back whole

	loading sync.Mutex // held by whoever has a file in memory to sign it
}

// Run works through the items. What cannot be signed is counted and reported
// to e.Failed, and the rest goes on. LeftError means that some was not tried, any
// other error that the run had to stop; running it again resumes it.
func (e Engine) Run(ctx context.Context, work Work) (Result, error) {
	r, err := e.start(ctx)
	if err != nil {
		return Result{}, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(ahead)
	if !e.Services.None() {
		g.SetLimit(aheadOfServices)
	}
	err = r.chunks(gctx, work, func(items []Item) {
		g.Go(func() error { return r.chunk(gctx, work, items) })
	})
	if chunkErr := g.Wait(); chunkErr != nil {
		err = chunkErr // what came of the others follows from it
	}
	if err == nil {
		err = r.settle(ctx)
	}
	if err == nil {
		err = r.Patience.err()
	}
	return r.result, err
}

func (e Engine) start(ctx context.Context) (*run, error) {
	if e.Parallel < 1 {
		e.Parallel = 8
	}
	if e.Making < 1 {
		e.Making = 192
	}
	if e.Recheck == 0 {
		e.Recheck = 250 * time.Millisecond
	}
	if e.Memory < 1 {
		e.Memory = DefaultMemory
	}
	if e.Settle == 0 {
		e.Settle = 2 * time.Second
	}
	if e.Patience == nil {
		e.Patience = &Patience{}
	}
	r := &run{Engine: e, seen: map[string]bool{}, making: make(chan struct{}, e.Making), writing: make(chan struct{}, e.Parallel),
		memory: semaphore.NewWeighted(e.Memory), pace: rate.NewLimiter(rate.Inf, 1)}
	if e.Rate > 0 {
		r.pace = rate.NewLimiter(e.Rate, 1)
	}
	trusted := verify.Trust{Root: e.Root}
	r.consumer = verify.Consumer{Identity: e.Signer.Identity(), Root: e.Root}
	if e.Signer.Identity().Kind == signer.Keyless {
		if err := e.keyless(); err != nil {
			return nil, err
		}
		r.chain = chainOf(e.Root)
	} else {
		c, err := e.Signer.Credential(ctx)
		if err != nil {
			return nil, err
		}
		trusted.Keys, r.consumer.Key = []crypto.PublicKey{c.PublicKey()}, c.PublicKey()
	}
	var err error
	if r.verifier, err = verify.New(trusted); err != nil {
		return nil, err
	}
	r.fetcher = verify.Fetcher{Registry: e.Registry, Verifier: r.verifier}
	return r, nil
}

// keyless refuses what no verifier would accept of a keyless signer.
func (e Engine) keyless() error {
	switch {
	case e.Root == nil:
		return errors.New("a keyless signature is verified with a trusted root, and this home has none: give \"reseal init\" the --trusted-root of your verifiers")
	case e.Services.None():
		return errors.New("a keyless signature outlives its certificate only with a proof of its time: name a timestamp authority or a log (--timestamp-server-url, --rekor-url or --signing-config)")
	}
	return nil
}

// chunks gives do the items of the work, a chunk at a time and never one
// artifact in two.
func (r *run) chunks(ctx context.Context, work Work, do func(items []Item)) error {
	size := chunk
	if r.Batch {
		size = maxSubjects
	}
	var after int64
	page := func() ([]Item, error) {
		items, err := work.Items(ctx, after, size)
		if len(items) > 0 {
			after = items[len(items)-1].Seq
		}
		return items, err
	}
	items, err := page()
	for err == nil && len(items) > 0 {
		var next []Item
		next, err = page()
		for err == nil && len(next) > 0 && sameArtifact(items[len(items)-1], next[0]) {
			items, next = append(items, next[0]), next[1:]
			if len(next) == 0 {
				next, err = page()
			}
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		do(items)
		items = next
	}
	return err
}

func sameArtifact(a, b Item) bool { return a.Repository == b.Repository && a.Digest == b.Digest }

func (r *run) chunk(ctx context.Context, work Work, items []Item) error {
	units, err := r.units(ctx, items)
	if err != nil {
		return err
	}
	d := &decisions{work: work, items: items}
	if err := r.decide(ctx, units, d); err != nil {
		return err
	}
	if err := r.weigh(ctx, units); err != nil {
		return err
	}
	groups := r.groups(units)
	if r.Apply && r.Batch && len(groups) > 1 {
		if err := r.signFirst(ctx, units); err != nil {
			return err
		}
	}
	for _, g := range groups {
		if g = r.leave(g); len(g) == 0 {
			continue
		}
		if err := r.within(ctx, g, func() error { return r.group(ctx, g, d) }); err != nil {
			return err
		}
		if !r.Apply {
			continue
		}
		if err := r.Patience.judge(g); err != nil {
			return err
		}
	}
	return nil
}

// group works on units that are held in memory together.
func (r *run) group(ctx context.Context, units []*unit, d *decisions) error {
	artifacts := places(units)
	toLook := slices.DeleteFunc(slices.Clone(artifacts), func(list []*place) bool { return !slices.ContainsFunc(list, r.looksAt) })
	if err := r.each(ctx, toLook, r.look); err != nil {
		return err
	}
	if !r.Apply {
		for _, u := range units {
			r.count(u)
			u.found, u.holder = nil, nil
		}
		return nil
	}
	if err := r.decide(ctx, units, d); err != nil { // looking may have taken long
		return err
	}
	if err := r.sign(ctx, units); err != nil {
		return err
	}
	if err := r.each(ctx, artifacts, r.publish); err != nil {
		return errors.Join(err, r.keep(context.WithoutCancel(ctx), units))
	}
	return r.keep(ctx, units)
}

// signFirst signs the images of a chunk that is divided, so that one statement
// still signs many of them. They are published with what else their artifact has,
// from what was persisted.
func (r *run) signFirst(ctx context.Context, units []*unit) error {
	var images []*unit
	for _, u := range units {
		if u.PredicateType == inventory.SignPredicate && u.format == inventory.Bundle && !r.Patience.has(u.Repository) {
			images = append(images, u)
		}
	}
	return r.within(ctx, images, func() error {
		if err := r.each(ctx, places(images), r.look); err != nil {
			return err
		}
		err := r.sign(ctx, images)
		for _, u := range images {
			u.made = nil
		}
		return err
	})
}

// leave leaves units alone that are in repositories where there is no use in going
// on, and returns the others. They stay as they are.
func (r *run) leave(units []*unit) []*unit {
	if !r.Apply {
		return units
	}
	all := len(units)
	units = slices.DeleteFunc(units, func(u *unit) bool { return u.record.State != Held && r.Patience.has(u.Repository) })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Left += int64(all - len(units))
	return units
}

// units lists the work of some items that still may be done.
func (r *run) units(ctx context.Context, items []Item) ([]*unit, error) {
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
		for _, f := range i.Formats {
			u := &unit{Item: i, format: f, record: known[key{i.Seq, f}]}
			u.record.Plan, u.record.Seq, u.record.Format = r.Plan, i.Seq, f
			if u.record.State == Held { // it was once; it is looked at anew
				u.record.State, u.record.Why = "", ""
			}
			out = append(out, u)
		}
	}
	r.mu.Lock()
	r.result.Planned += int64(len(out))
	r.mu.Unlock()
	return out, nil
}

// decisions are those on the items of a chunk, as they are now.
type decisions struct {
	work  Work
	items []Item

	mu  sync.Mutex
	at  time.Time        // when they were asked for
	why map[int64]string // why an item is not to be signed any more, by its number
}

// of says why an item is not to be signed any more, or "". What is older than
// age is asked for anew, of all of the chunk at once.
func (d *decisions) of(ctx context.Context, seq int64, age time.Duration) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.why[seq] == "" && (d.at.IsZero() || time.Since(d.at) >= age) {
		at := time.Now()
		why, err := d.work.Still(ctx, d.items)
		if err != nil {
			return "", err
		}
		d.at = at
		if d.why == nil {
			d.why = map[int64]string{}
		}
		for n, i := range d.items {
			if why[n] != "" { // and stays so, whatever is said later
				d.why[i.Seq] = why[n]
			}
		}
	}
	return d.why[seq], nil
}

// known says why an item is not to be signed any more, as was learnt by now.
func (d *decisions) known(seq int64) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.why[seq]
}

// decide holds the units that are not to be signed any more.
func (r *run) decide(ctx context.Context, units []*unit, d *decisions) error {
	changed := d.at.IsZero()
	for _, u := range units {
		why, err := d.of(ctx, u.Seq, r.Recheck)
		if err != nil {
			return err
		}
		u.decisions = d
		if why != "" && u.record.State != Held {
			u.record.State, u.record.Why, changed = Held, why, true
		}
	}
	if !changed {
		return nil
	}
	return r.unbatch(ctx, units)
}

// each runs do on the places of every artifact: artifacts side by side, the
// places of one artifact one after the other.
func (r *run) each(ctx context.Context, artifacts [][]*place, do func(context.Context, *place) error) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, list := range artifacts {
		select {
		case r.writing <- struct{}{}:
		case <-gctx.Done():
			return errors.Join(gctx.Err(), g.Wait())
		}
		g.Go(func() error {
			defer func() { <-r.writing }()
			for _, p := range list {
				if !p.open() {
					continue
				}
				if err := do(gctx, p); err != nil {
					if gctx.Err() != nil {
						return gctx.Err()
					}
					if errors.As(err, new(stopped)) {
						return err
					}
					p.fail(err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// stopped is why the whole run has to stop.
type stopped struct{ error }

func (s stopped) Unwrap() error { return s.error }

// fence asks whether this engine may still act.
func (r *run) fence(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return stopped{err}
	}
	if r.Fence == nil {
		return nil
	}
	if err := r.Fence(ctx); err != nil {
		return stopped{err}
	}
	return nil
}

// update records something, unless another engine has the items.
func (r *run) update(ctx context.Context, fn func(*store.Tx) error) error {
	return r.Store.Update(ctx, r.By, func(tx *store.Tx) error {
		if r.Hold != nil {
			if err := r.Hold(ctx, tx); err != nil {
				return stopped{err}
			}
		}
		return fn(tx)
	})
}

// keep records what became of every unit and enters the new signatures into
// the inventory.
func (r *run) keep(ctx context.Context, units []*unit) error {
	var changed, told []*unit
	for _, u := range units {
		known := u.record.State == Done
		switch {
		case u.record.State == Held:
		case u.err != nil:
			u.record.State, u.record.Why = Failed, u.err.Error()
		case u.good:
			u.record.State, u.record.Why = Done, ""
		default:
			continue // not reached: the run was stopped
		}
		told = append(told, u)
		if !known || u.record.State != Done {
			changed = append(changed, u)
		}
	}
	if len(changed) > 0 {
		if err := r.update(ctx, func(tx *store.Tx) error {
			for _, u := range changed {
				if err := r.enter(ctx, tx, u); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	for _, u := range told { // what is counted as signed is recorded
		u.already = !u.wrote
		r.tally(u, u.already)
		u.made, u.found, u.holder = nil, nil, nil // they are in the vault
	}
	return nil
}

// enter records the state of a unit, and its signature if there is one.
func (r *run) enter(ctx context.Context, tx *store.Tx, u *unit) error {
	if err := r.put(ctx, tx, u); err != nil || u.record.State != Done {
		return err
	}
	for _, content := range [][]byte{u.found.Content, u.holder} {
		if _, err := tx.PutVault(ctx, content); err != nil {
			return err
		}
	}
	return tx.PutSignature(ctx, u.found.Signature)
}

func (r *run) put(ctx context.Context, tx *store.Tx, u *unit) error {
	tx.Record(journal.Draft{Action: "resign." + u.record.State, Digest: u.record.Content,
		Subject: fmt.Sprintf("%s@%s %s %s plan %s", u.Repository, u.Digest, u.format, u.PredicateType, r.Plan)})
	return tx.PutReissue(ctx, u.record)
}

// count tells what a dry run would have done with a unit.
func (r *run) count(u *unit) {
	if u.record.State == Failed { // in an earlier run: this one would try it again
		u.record.State, u.record.Why = "", ""
	}
	if u.err != nil {
		u.record.State, u.record.Why = Failed, u.err.Error()
	}
	r.tally(u, u.found != nil)
}

func (r *run) tally(u *unit, already bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done++
	state := ""
	switch {
	case u.record.State == Held:
		state = Held
		r.result.Held++
	case u.record.State == Failed:
		state = Failed
		r.result.Failed++
		r.Patience.failed(u)
	case already:
		state = Done
		r.result.Already++
		r.Patience.worked(u)
	case r.Apply:
		state = Done
		r.result.Signed++
		r.Patience.worked(u)
	}
	if r.Failed != nil && (u.record.State == Held || u.record.State == Failed) {
		r.Failed(Failure{Item: u.Item, Format: u.format, Why: u.record.Why})
	}
	if r.Settled != nil {
		r.Settled(u.Item, state)
	}
	if r.Progress != nil {
		r.Progress(r.done, r.result)
	}
}
