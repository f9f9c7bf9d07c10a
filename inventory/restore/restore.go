// Package restore puts signatures that a registry lost back into it, from the
// vault.
//
// It looks at what the registry holds, and writes only what is missing, as the
// exact bytes that were there. What is denied, unverified, or made by a signer
// that is tainted or revoked stays out; where it shared a manifest with what
// may go back, that manifest is written without it. Nothing that the registry
// holds is taken away.
//
// Intents are journaled before anything is written, and what came of them
// after. A restore resumes by looking: it may be killed at any moment and run
// again, and puts nothing back twice.
package restore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

const (
	batch = 50 // artifacts whose intents are journaled together

	// maxRounds is how often an artifact is looked at anew because somebody
	// else wrote to it.
	maxRounds = 3
)

// Registry is what restoring needs of a registry.
type Registry interface {
	verify.Registry
	Head(ctx context.Context, repository, reference, known string) (digest string, err error)
	HasBlob(ctx context.Context, repository, digest string) (bool, error)
	PutBlob(ctx context.Context, repository string, content []byte) (string, error)
	PutManifest(ctx context.Context, repository, reference, mediaType string, raw []byte) (digest string, indexed bool, err error)
	Attach(ctx context.Context, repository string, manifest []byte, mediaType string, desc v1.Descriptor, subject string) (string, error)
	Serialise(ctx context.Context, repository, digest string) (unlock func(), err error)
	Requests() int64
}

// rehearsal is a registry to which nothing is written.
type rehearsal struct{ Registry }

func (rehearsal) PutBlob(_ context.Context, _ string, content []byte) (string, error) {
	return inventory.Digest(content), nil
}

func (rehearsal) PutManifest(_ context.Context, _, _, _ string, raw []byte) (string, bool, error) {
	return inventory.Digest(raw), true, nil
}

func (rehearsal) Attach(_ context.Context, _ string, manifest []byte, _ string, _ v1.Descriptor, _ string) (string, error) {
	return inventory.Digest(manifest), nil
}

// Options says what is put back.
type Options struct {
	Selection store.Selection // of artifacts; the zero value selects all
	Verifier  verify.Judge    // what it does not verify is not put back
	Parallel  int             // artifacts worked on at once; default 8

	// MaxArtifacts is how many artifacts may be written to. A batch of 50 that
	// would exceed it is not begun: the error is ErrOverLimit. 0: no limit.
	MaxArtifacts int64

	// Denied says why a signature must not go back, or "". May be nil.
	Denied func(inventory.Signature) string
	// DeniedArtifact says why nothing may be put onto an artifact, or "". May be nil.
	DeniedArtifact func(inventory.Artifact) string

	// Report is told what became of every signature, one at a time. May be nil.
	Report func(Item)
}

// ErrOverLimit is returned when more would be written than the ceiling allows.
var ErrOverLimit = errors.New("over the ceiling")

// Outcome is what became of a signature.
type Outcome string

// The outcomes.
const (
	Restored       Outcome = "restored"        // put back; in a dry run, it would be
	Already        Outcome = "already"         // the registry has it
	LeftOut        Outcome = "left_out"        // it may not go back, see Reason
	MissingSubject Outcome = "missing_subject" // the registry does not have the artifact
	Skipped        Outcome = "skipped"         // it is a file and no registry's affair
	Failed         Outcome = "failed"
)

// Reason is why a signature is left out.
type Reason string

// The reasons, in the order in which they are looked for.
const (
	ArtifactDenied Reason = "artifact_denied"
	Unverified     Reason = "unverified"
	SignerTainted  Reason = "signer_tainted"
	SignerRevoked  Reason = "signer_revoked"
	Denied         Reason = "denied"
	NoCopy         Reason = "no_copy" // no manifest in the vault holds it, or it does not verify as it is there
	// ImageUnsigned: verifiers take a bundle of any predicate for an image
	// signature, and those on the artifact are left out.
	ImageUnsigned Reason = "image_unsigned"
)

// Item is what became of one signature.
type Item struct {
	Signature inventory.Signature
	Outcome   Outcome
	Reason    Reason // of what is left out
	Why       string // the reason in detail, or the error
	Place     string // where it was put: "host/path:tag" or "host/path@digest"
	Manifest  string // digest of the manifest that was written there, or stands there
	Identical bool   // that manifest has the exact bytes of one that was lost
}

// Result counts signatures, but for Artifacts, Written, Manifests, Identical and
// Requests.
type Result struct {
	Applied        bool             `json:"applied"`
	Artifacts      int64            `json:"artifacts"` // with signatures, looked at
	Written        int64            `json:"written"`   // of those, written to
	Signatures     int64            `json:"signatures"`
	Restored       int64            `json:"restored"`
	Already        int64            `json:"already"`
	LeftOut        int64            `json:"left_out"`
	Reasons        map[Reason]int64 `json:"reasons"` // of what is left out
	MissingSubject int64            `json:"missing_subject"`
	Skipped        int64            `json:"skipped"`
	Failed         int64            `json:"failed"`
	Manifests      int64            `json:"manifests"` // written
	Identical      int64            `json:"identical"` // of those, the exact bytes that were lost
	Requests       int64            `json:"requests"`
}

func (r *Result) add(i Item) {
	r.Signatures++
	switch i.Outcome {
	case Restored:
		r.Restored++
	case Already:
		r.Already++
	case LeftOut:
		r.LeftOut++
		r.Reasons[i.Reason]++
	case MissingSubject:
		r.MissingSubject++
	case Skipped:
		r.Skipped++
	case Failed:
		r.Failed++
	}
}

// run is the state of one Restore.
type run struct {
	Options
	registry Registry
	store    *store.Store
	by       journal.Author
	apply    bool
	result   Result

	mu     sync.Mutex
	states map[string]signer.State // of the signers of a batch
}

// Restore puts back the lost signatures of the artifacts selected. Without
// apply it reads, decides and counts the same, and writes nothing. What cannot
// be put back is counted and told to o.Report, and the rest goes on; an error
// means that the restore had to stop, and that running it again resumes it.
// progress is called after every batch of artifacts and may be nil.
func Restore(ctx context.Context, s *store.Store, reg Registry, by journal.Author, o Options, apply bool, progress func(Result)) (Result, error) {
	if o.Verifier == nil {
		return Result{}, errors.New("restore: no verifier: what cannot be verified is not put back")
	}
	if o.Parallel < 1 {
		o.Parallel = 8
	}
	r := &run{Options: o, registry: reg, store: s, by: by, apply: apply, result: Result{Applied: apply, Reasons: map[Reason]int64{}}}
	if !apply {
		r.registry = rehearsal{reg}
	}
	before := reg.Requests()
	for after := (store.Place{}); ; {
		page, next, err := s.Artifacts(ctx, o.Selection, after, batch)
		if err == nil && len(page) > 0 {
			err = r.batch(ctx, page)
		}
		r.result.Requests = reg.Requests() - before
		if err != nil || len(page) == 0 {
			return r.result, err
		}
		after = next
		if progress != nil {
			now := r.result
			now.Reasons = maps.Clone(now.Reasons)
			progress(now)
		}
	}
}

// batch restores a page of artifacts.
func (r *run) batch(ctx context.Context, page []inventory.Artifact) error {
	r.states = map[string]signer.State{} // anew: a signer may have been tainted since
	tasks := make([]*task, len(page))
	for n, a := range page {
		tasks[n] = &task{run: r, artifact: a}
	}
	if err := r.each(ctx, tasks, (*task).look); err != nil {
		return err
	}
	for range maxRounds {
		work := pick(tasks, func(t *task) bool { return len(t.units) > 0 })
		if len(work) == 0 {
			break
		}
		if err := r.intend(ctx, work); err != nil {
			return err
		}
		err := r.each(ctx, work, (*task).write)
		if err == nil {
			err = r.each(ctx, pick(work, func(t *task) bool { return t.again }), (*task).look)
		}
		if err != nil {
			return errors.Join(err, r.finish(context.WithoutCancel(ctx), tasks, true))
		}
	}
	return r.finish(ctx, tasks, false)
}

func pick(tasks []*task, want func(*task) bool) (out []*task) {
	for _, t := range tasks {
		if want(t) {
			out = append(out, t)
		}
	}
	return out
}

// each works on artifacts side by side. An error of do stops all of them.
func (r *run) each(ctx context.Context, tasks []*task, do func(*task, context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.Parallel)
	for _, t := range tasks {
		g.Go(func() error { return do(t, ctx) })
	}
	return g.Wait()
}

// intend makes what is about to be written durable: the intents in the journal,
// and the bytes that are not in the vault yet.
func (r *run) intend(ctx context.Context, work []*task) error {
	for _, t := range work {
		if !t.counted {
			t.counted = true
			r.result.Written++
		}
	}
	if r.MaxArtifacts > 0 && r.result.Written > r.MaxArtifacts {
		return fmt.Errorf("%w: signatures would go back onto more than %d artifacts: raise the limit, or select fewer", ErrOverLimit, r.MaxArtifacts)
	}
	if !r.apply {
		return nil
	}
	return r.store.Update(ctx, r.by, func(tx *store.Tx) error {
		for _, t := range work {
			for _, u := range t.units {
				for _, content := range u.made {
					if _, err := tx.PutVault(ctx, content); err != nil {
						return err
					}
				}
				tx.Record(u.entry("intended"))
			}
		}
		return nil
	})
}

// finish keeps and reports what became of every signature. When the run had to
// stop, that is only what it reached.
func (r *run) finish(ctx context.Context, tasks []*task, stopped bool) error {
	if err := r.record(ctx, tasks); err != nil {
		return err
	}
	for _, t := range tasks {
		if len(t.rows) > 0 {
			r.result.Artifacts++
		}
		for _, u := range t.tried {
			if u.done && u.raw != nil {
				r.result.Manifests++
				if u.identical {
					r.result.Identical++
				}
			}
		}
		for _, row := range t.rows {
			i, known := t.item(row, stopped)
			if !known {
				continue
			}
			r.result.add(i)
			if r.Report != nil {
				r.Report(i)
			}
		}
	}
	return nil
}

// record journals what came of the intents, and enters what is in the registry
// into the inventory: it is not gone any more.
func (r *run) record(ctx context.Context, tasks []*task) error {
	if !r.apply {
		return nil
	}
	return r.store.Update(ctx, r.by, func(tx *store.Tx) error {
		for _, t := range tasks {
			for _, u := range t.tried {
				switch {
				case u.done:
					tx.Record(u.entry("done"))
				case u.err != nil:
					tx.Record(u.entry("failed"))
				}
			}
			for _, row := range t.rows {
				if row.found == nil || !row.Gone && row.last == nil && !row.moved {
					continue
				}
				if err := tx.PutSignature(ctx, *row.found); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// state returns the state of a signer.
func (r *run) state(ctx context.Context, id signer.Identity) (signer.State, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := id.ID()
	if s, known := r.states[key]; known {
		return s, nil
	}
	record, err := r.store.Signer(ctx, key)
	if err != nil {
		return "", err
	}
	r.states[key] = record.State
	return record.State, nil
}
