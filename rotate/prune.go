package rotate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// PruneRegistry is what taking single signatures away needs.
type PruneRegistry interface {
	Registry
	PutBlob(ctx context.Context, repository string, content []byte) (string, error)
	PutManifest(ctx context.Context, repository, reference, mediaType string, raw []byte) (digest string, indexed bool, err error)
	Attach(ctx context.Context, repository string, manifest []byte, mediaType string, desc v1.Descriptor, subject string) (string, error)
}

// PruneLimits are the ceilings of a pruning. Over one, nothing is taken away.
type PruneLimits struct {
	MaxSignatures int64   `json:"max_signatures"` // 0: no limit
	MaxShare      float64 `json:"max_share"`      // of the inventory's signatures, 0 to 1; 0: no limit
}

// PruneOptions say what is taken away, and how the world is looked at.
type PruneOptions struct {
	All      bool // also what is proven good, of signers that are revoked and stand in no anchor
	Limits   PruneLimits
	Verifier verify.Judge
	// Accepts asks a consumer that accepts one signer about a signature as it
	// stands in the registry. The error says why it is refused.
	Accepts func(ctx context.Context, found verify.Found, by signer.Record) error
	// Anchors returns every anchor there is, see World.
	Anchors func(ctx context.Context) ([]Pinned, error)
	// Alone says why nothing may be taken away now, for somebody else writes to the
	// same tags. It is asked before each artifact, so it must be cheap; nil: nobody
	// does.
	Alone    func(ctx context.Context) error
	Progress func(done, total int64, p PruneResult) // in artifacts; may be nil
}

// PruneItem is what became of one signature.
type PruneItem struct {
	Artifact      string           `json:"artifact"`
	Deployed      bool             `json:"deployed"`
	Signature     string           `json:"signature"` // ID
	Signer        string           `json:"signer"`
	Format        inventory.Format `json:"format"`
	Location      string           `json:"location,omitempty"` // repository that holds it, where that is not the artifact's
	PredicateType string           `json:"predicate_type"`
	Cause         trust.Cause      `json:"cause"`
	Why           string           `json:"why"` // why it is to be taken away; of what is kept or failed, why it is not
}

// PruneResult is what taking signatures away did, or would do.
type PruneResult struct {
	Incident string      `json:"incident"`
	Plan     string      `json:"plan"`
	Applied  bool        `json:"applied"`
	All      bool        `json:"all_replaced"`
	Limits   PruneLimits `json:"limits"`
	Pruned   []PruneItem `json:"pruned"`
	Kept     []PruneItem `json:"kept"`
	Gone     []PruneItem `json:"gone"` // no longer in the registry
	Failed   []PruneItem `json:"failed"`
	Left     []string    `json:"left"` // manifests that no verifier finds any more and that can still be had by digest, with reasons
}

// maxPruneRounds is how often a place is looked at anew because somebody else
// wrote to it.
const maxPruneRounds = 5

// errOverwritten means that somebody else wrote to the same place.
var errOverwritten = errors.New("somebody else keeps writing there: run it again")

// Prune takes signatures away that must not stand any more: what the replaced
// signers made and nothing places outside the window, on artifacts that are good
// themselves, and what was re-signed and would not be now (trust.Policy.Remove
// has the rules). Each goes into the vault first. It may be run again: what is
// gone already is left alone.
//
// Over a ceiling the error wraps ErrOverLimit, and nothing is taken away.
func Prune(ctx context.Context, s *store.Store, reg PruneRegistry, by journal.Author, p Permission, o PruneOptions, apply bool) (PruneResult, error) {
	r := &pruning{acts: acts{store: s, by: by, apply: apply}, registry: reg, permission: p, options: o, past: newPast(s),
		result: PruneResult{Incident: p.plan.Incident, Plan: p.digest, Applied: apply, All: o.All, Limits: o.Limits,
			Pruned: []PruneItem{}, Kept: []PruneItem{}, Gone: []PruneItem{}, Failed: []PruneItem{}, Left: []string{}}}
	if err := r.prepare(ctx); err != nil {
		return r.result, err
	}
	total, err := r.measure(ctx)
	if err != nil {
		return r.result, err
	}
	done := int64(0)
	err = eachArtifact(ctx, s, r.policy, func(arts []inventory.Artifact) error {
		// Anew: what is declared, or cut over, during a long run counts from the
		// next page on.
		if err := r.prepare(ctx); err != nil {
			return err
		}
		arts, _, err := r.concerned(ctx, arts)
		if err != nil {
			return err
		}
		for _, a := range arts {
			if apply && o.Alone != nil {
				if err := o.Alone(ctx); err != nil {
					return err
				}
			}
			some, err := r.artifact(ctx, a)
			if err != nil {
				return err
			}
			if some {
				done++
				if o.Progress != nil {
					o.Progress(done, total, r.result)
				}
			}
		}
		return nil
	})
	slices.Sort(r.result.Left)
	r.result.Left = slices.Compact(r.result.Left)
	if n := len(r.result.Failed); err == nil && n > 0 {
		err = fmt.Errorf("%d signatures could not be taken away: look at the reasons, and run it again", n)
	}
	return r.result, err
}

// pruning is one Prune.
type pruning struct {
	acts
	registry   PruneRegistry
	permission Permission
	options    PruneOptions
	policy     trust.Policy
	past       *past
	consumers  []pinnedReader
	otherwise  pinnedReader
	inventory  int64 // signatures in the inventory when it began
	result     PruneResult
}

// pinnedReader is a consumer and the signer whom its anchor names.
type pinnedReader struct {
	trust.Reader
	anchor signer.Record
}

// prepare finds out by which rules to go, and whom the consumers trust now.
func (r *pruning) prepare(ctx context.Context) error {
	plan := r.permission.plan
	if plan.rotation() {
		return fmt.Errorf("plan %s rotates a signer that is still trusted: nothing of it is taken away. What must not stand is for an incident's plan", r.permission.digest)
	}
	incidents, err := Incidents(ctx, r.store)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(incidents, func(i Incident) bool { return i.ID == plan.Incident })
	switch {
	case at < 0:
		return fmt.Errorf("incident %s: %w", plan.Incident, inventory.ErrNotFound)
	case !incidents[at].counts():
		return errWithdrawn(plan.Incident)
	}
	primary := incidents[at].Incident
	if err := plan.checkKept(primary, r.permission.at); err != nil {
		return err
	}
	// Not Current: what the thief made must not wait for another new signer.
	if r.policy, err = r.permission.counted().policy(ctx, r.store, Rules(incidents), plan.rogueNow(incidents)); err != nil {
		return err
	}
	r.consumers = nil
	for _, c := range plan.Consumers {
		content, err := os.ReadFile(c.Anchor)
		if err != nil {
			return fmt.Errorf("anchor of consumer %s: %w", c.Name, err)
		}
		_, id, err := signer.ParsePublicKey(content)
		if err != nil {
			return fmt.Errorf("anchor %s of consumer %s: %w", c.Anchor, c.Name, err)
		}
		r.consumers = append(r.consumers, pinnedReader{anchor: signer.Record{Identity: id, PublicKey: content},
			Reader: trust.Reader{Name: "consumer " + c.Name, Reads: c.Reads, Trusts: func(g inventory.Signature) bool { return g.Signer == id },
				Ours: id == plan.NewSigner || slices.Contains(plan.Replaced, id) || primary.Names(id)}})
	}
	r.otherwise.Name = "whoever runs it"
	r.otherwise.Trusts = func(g inventory.Signature) bool { return g.Signer == plan.NewSigner }
	if plan.Keep {
		r.otherwise.Trusts = r.policy.Replaces
	} else if r.otherwise.anchor, err = r.store.Signer(ctx, plan.NewSigner.ID()); err != nil {
		return err
	}
	if r.options.All {
		return r.checkCutOver(ctx)
	}
	return nil
}

// checkCutOver refuses to take away what is proven good of a signer that
// somebody still trusts.
func (r *pruning) checkCutOver(ctx context.Context) error {
	plan := r.permission.plan
	switch {
	case plan.Keep:
		return fmt.Errorf("plan %s keeps its signer: what is proven good of it stays", r.permission.digest)
	case len(plan.Replaced) == 0:
		return fmt.Errorf("plan %s replaces no signer: there is nothing of one to take away", r.permission.digest)
	}
	anchors, err := r.options.Anchors(ctx)
	if err != nil {
		return err
	}
	for _, id := range plan.Replaced {
		record, err := r.store.Signer(ctx, id.ID())
		if errors.Is(err, inventory.ErrNotFound) {
			continue // named before anything of it was seen
		}
		if err != nil {
			return err
		}
		if record.State != signer.Revoked {
			return fmt.Errorf("%w: %s is %s and not revoked yet: \"reseal cutover %s --apply\" first", ErrNotCovered, id, record.State, r.permission.digest)
		}
		for _, a := range anchors {
			if slices.ContainsFunc(a.Pins, func(p inventory.Pin) bool { return p.Matches(id) }) {
				return fmt.Errorf("%w: %s still accepts %s: cut over there first", ErrNotCovered, a.Place, id)
			}
		}
	}
	return nil
}

// measure counts, by what the inventory knows, the artifacts that something is
// to be done about, and refuses what is over a ceiling.
func (r *pruning) measure(ctx context.Context) (artifacts int64, err error) {
	signatures := int64(0)
	err = eachArtifact(ctx, r.store, r.policy, func(arts []inventory.Artifact) error {
		arts, all, err := r.concerned(ctx, arts)
		if err != nil {
			return err
		}
		for n, a := range arts {
			decided, err := r.decide(ctx, a, all[n], nil)
			if err != nil {
				return err
			}
			if len(decided) > 0 {
				artifacts++
			}
			for _, x := range decided {
				if x.Kept == "" {
					signatures++
				}
			}
		}
		return nil
	})
	if err != nil {
		return artifacts, err
	}
	c, err := r.store.Counts(ctx)
	if err != nil {
		return artifacts, err
	}
	r.inventory = c.Signatures
	return artifacts, r.checkLimits(signatures)
}

func (r *pruning) checkLimits(n int64) error {
	l := r.options.Limits
	if l.MaxSignatures > 0 && n > l.MaxSignatures {
		return fmt.Errorf("%w: %d signatures would be taken away, the limit is %d: look at the list of a dry run, and raise the limit", ErrOverLimit, n, l.MaxSignatures)
	}
	if share := float64(n) / float64(max(r.inventory, 1)); l.MaxShare > 0 && share > l.MaxShare {
		return fmt.Errorf("%w: %.0f%% of the inventory's signatures would be taken away, the limit is %.0f%%: look at the list of a dry run, and raise the limit",
			ErrOverLimit, share*100, l.MaxShare*100)
	}
	return nil
}

// concerned returns those of some artifacts on which a signature stands that may
// have to go, with what stands there as far as the inventory knows.
func (r *pruning) concerned(ctx context.Context, arts []inventory.Artifact) (some []inventory.Artifact, standing [][]inventory.Signature, err error) {
	all, err := r.store.SignaturesOfAll(ctx, arts)
	if err != nil {
		return nil, nil, err
	}
	own, err := r.past.made(ctx, all...)
	if err != nil {
		return nil, nil, err
	}
	for n, sigs := range all {
		if slices.ContainsFunc(sigs, func(g inventory.Signature) bool {
			return own[g.ID] != "" || r.policy.Replaces(g) && (r.options.All || !trust.Judge(g, r.policy.Incidents, r.policy.Skew).Verdict.Proven())
		}) {
			some, standing = append(some, arts[n]), append(standing, sigs)
		}
	}
	return some, standing, nil
}

// decide says which signatures of an artifact are to be taken away, of those
// that stand there. shelf is what was seen of them in the registry; nil: nobody
// looked.
func (r *pruning) decide(ctx context.Context, a inventory.Artifact, standing []inventory.Signature, on *shelf) ([]trust.Removed, error) {
	own, err := r.past.made(ctx, standing)
	if err != nil {
		return nil, err
	}
	items, err := decideArtifact(ctx, r.past, own, a, standing, r.policy)
	if err != nil {
		return nil, err
	}
	ever, err := r.store.SignaturesEver(ctx, a)
	if err != nil {
		return nil, err
	}
	q := trust.Removal{Artifact: a, Standing: standing, Ever: ever, Decided: map[string]trust.Outcome{}, Recalled: map[string]string{}, Fixed: map[string]string{},
		All: r.options.All, AcceptDark: slices.Contains(r.permission.plan.AcceptDark, a.Digest), Otherwise: r.reader(ctx, r.otherwise, on)}
	for _, c := range r.consumers {
		q.Readers = append(q.Readers, r.reader(ctx, c, on))
	}
	for _, i := range items {
		q.Decided[i.Statement] = trust.Outcome{Decision: i.Decision, Reason: i.Reason, Formats: i.Formats}
		for _, id := range i.recall {
			q.Recalled[id] = i.Reason
		}
	}
	rows, err := r.store.ReissuesBySignature(ctx, slices.Collect(maps.Keys(q.Recalled)))
	if err != nil {
		return nil, err
	}
	for id := range q.Recalled {
		if !slices.ContainsFunc(rows, func(x store.Reissue) bool { return x.SignatureID == id && x.Content != "" }) {
			q.Fixed[id] = "no plan made it: it was there already when one would have, so it is somebody's own word with the new signer: ask who signed it"
		}
	}
	if on != nil {
		for _, g := range standing {
			if on.has(g.ID) && !slices.ContainsFunc(ever, func(e inventory.Signature) bool { return e.ID == g.ID }) {
				q.Fixed[g.ID] = "no scan has seen it yet: scan the repository, and run it again"
			}
		}
	}
	return r.policy.Remove(q), nil
}

// reader returns a consumer that asks its own verifier about what stands in the
// registry.
func (r *pruning) reader(ctx context.Context, c pinnedReader, on *shelf) trust.Reader {
	if on == nil || len(c.anchor.PublicKey) == 0 {
		return c.Reader
	}
	said := map[string]error{}
	c.Accepts = func(g inventory.Signature) error {
		err, asked := said[g.ID]
		if found, ok := on.found[g.ID]; ok && !asked {
			err = r.options.Accepts(ctx, found, c.anchor)
			said[g.ID] = err
		}
		return err
	}
	return c.Reader
}

// artifact takes the signatures off one artifact that have to go, and reports
// whether there was anything to decide.
func (r *pruning) artifact(ctx context.Context, a inventory.Artifact) (bool, error) {
	known, err := r.store.SignaturesOf(ctx, a, "")
	if err != nil {
		return false, err
	}
	first, err := r.decide(ctx, a, known, nil)
	if err != nil || len(first) == 0 {
		return false, err
	}
	var places []string
	for _, x := range first {
		if place := cmp.Or(x.Location, a.Repository); x.Kept == "" && !slices.Contains(places, place) {
			places = append(places, place)
		}
	}
	for _, x := range first {
		if x.Kept != "" && !slices.Contains(places, cmp.Or(x.Location, a.Repository)) {
			r.result.Kept = append(r.result.Kept, item(a, x, x.Kept))
		}
	}
	for _, place := range places {
		err := errOverwritten
		for round := 0; round < maxPruneRounds && errors.Is(err, errOverwritten); round++ {
			err = r.place(ctx, a, place, first)
		}
		switch {
		case ctx.Err() != nil:
			return true, ctx.Err()
		case errors.Is(err, ErrOverLimit), errors.As(err, new(atHome)):
			return true, err
		case err != nil:
			for _, x := range first {
				if x.Kept == "" && cmp.Or(x.Location, a.Repository) == place {
					r.result.Failed = append(r.result.Failed, item(a, x, err.Error()))
				}
			}
		}
	}
	return true, nil
}

// atHome is an error of our own database: the run has to stop.
type atHome struct{ error }

func (e atHome) Unwrap() error { return e.error }

func item(a inventory.Artifact, x trust.Removed, why string) PruneItem {
	return PruneItem{Artifact: a.Ref(), Deployed: a.Deployed, Signature: x.ID, Signer: x.Signer.ID(), Format: x.Format, Location: x.Location,
		PredicateType: x.PredicateType, Cause: x.Cause, Why: why}
}

// place takes away what has to go of what one repository holds on an artifact.
// first is what was decided by the inventory alone. An error that wraps
// errOverwritten asks to begin anew.
func (r *pruning) place(ctx context.Context, a inventory.Artifact, place string, first []trust.Removed) error {
	unlock, err := r.registry.Serialise(ctx, place, a.Digest)
	if err != nil {
		return err
	}
	defer unlock()
	on, err := r.look(ctx, a, place)
	if err != nil {
		return err
	}
	known, err := r.store.SignaturesOf(ctx, a, "")
	if err != nil {
		return atHome{err}
	}
	decided, err := r.decide(ctx, a, on.with(known), on)
	if err != nil {
		return atHome{err}
	}
	out := outcome{drop: map[string]trust.Removed{}, why: map[string]error{}}
	for _, x := range decided {
		switch {
		case cmp.Or(x.Location, a.Repository) != place:
		case x.Kept == "":
			out.drop[x.ID] = x
		default:
			out.kept = append(out.kept, x)
		}
	}
	for _, x := range first {
		switch {
		case cmp.Or(x.Location, a.Repository) != place || on.has(x.ID):
		case !slices.ContainsFunc(known, func(g inventory.Signature) bool { return g.ID == x.ID }): // somebody has dealt with it
		case on.broken[x.Format] != nil:
			out.failed = append(out.failed, item(a, x, on.broken[x.Format].Error()))
		default:
			out.gone = append(out.gone, x)
		}
	}
	if err := r.checkLimits(int64(len(r.result.Pruned) + len(out.drop))); err != nil {
		return err
	}
	if r.apply {
		if err := r.carryOut(ctx, a, place, on, known, &out); err != nil {
			return err
		}
	}
	for _, x := range decided { // in their order
		if _, dropped := out.drop[x.ID]; !dropped {
			continue
		}
		if err := out.why[x.ID]; err != nil {
			r.result.Failed = append(r.result.Failed, item(a, x, err.Error()))
		} else {
			r.result.Pruned = append(r.result.Pruned, item(a, x, x.Why))
		}
	}
	for _, x := range out.gone {
		if err := out.why[x.ID]; err != nil {
			r.result.Failed = append(r.result.Failed, item(a, x, err.Error()))
		} else {
			r.result.Gone = append(r.result.Gone, item(a, x, x.Why))
		}
	}
	for _, x := range out.kept {
		r.result.Kept = append(r.result.Kept, item(a, x, x.Kept))
	}
	r.result.Failed = append(r.result.Failed, out.failed...)
	r.result.Left = append(r.result.Left, out.left...)
	return nil
}

// outcome is what is done at one place, and what came of it.
type outcome struct {
	drop   map[string]trust.Removed // by ID
	why    map[string]error         // of those that are not done with, by ID
	gone   []trust.Removed
	kept   []trust.Removed
	failed []PruneItem
	left   []string
}

// PruneSchema is the schema of a PruneMark.
const PruneSchema = "reseal.pruned/v1"

// PruneMark remembers that a signature was taken away on purpose: it is not
// lost, and must not be put back.
type PruneMark struct {
	Schema    string           `json:"schema"`
	Signature string           `json:"signature"` // ID
	Artifact  string           `json:"artifact"`
	Format    inventory.Format `json:"format"`
	Location  string           `json:"location,omitempty"`
	Incident  string           `json:"incident"`
	Plan      string           `json:"plan"`
	Cause     trust.Cause      `json:"cause"`
	Why       string           `json:"why"`
	Made      []string         `json:"made,omitempty"` // plans that had made it
}

// WhyPruned says why a signature was taken away on purpose, or "". What a false
// alarm took away counts as lost, and so does what a later plan made again: some
// keys sign the same twice.
func WhyPruned(ctx context.Context, s *store.Store, incidents []Incident, signature string) (string, error) {
	var m PruneMark
	err := load(ctx, s, store.KindPruned, signature, &m)
	if errors.Is(err, inventory.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if slices.ContainsFunc(incidents, func(i Incident) bool { return i.ID == m.Incident && !i.counts() }) {
		return "", nil
	}
	made, err := s.ReissuesBySignature(ctx, []string{signature})
	if err != nil {
		return "", err
	}
	if slices.ContainsFunc(made, func(x store.Reissue) bool { return x.Content != "" && !slices.Contains(m.Made, x.Plan) }) {
		return "", nil
	}
	return fmt.Sprintf("taken away under plan %s: %s", m.Plan, m.Why), nil
}
