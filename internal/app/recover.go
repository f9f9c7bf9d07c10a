package app

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/internal/files"
	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/services"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/resign"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// MarkRogue adds digests that are known to be bad to an incident.
func (a *App) MarkRogue(ctx context.Context, incident string, rogue map[string]string, reason string) (rotate.Incident, error) {
	return rotate.MarkRogue(ctx, a.store, a.by("%s", reason), incident, rogue)
}

func (a *App) now() time.Time { return a.options.Now().UTC().Truncate(time.Second) }

// Incidents lists every incident.
func (a *App) Incidents(ctx context.Context) ([]rotate.Incident, error) {
	return rotate.Incidents(ctx, a.store)
}

// Incident returns one incident.
func (a *App) Incident(ctx context.Context, id string) (rotate.Incident, error) {
	return rotate.LoadIncident(ctx, a.store, id)
}

// Impact assesses what an incident, or a signer if it were compromised since
// ever, touches. visit may be nil.
func (a *App) Impact(ctx context.Context, incident string, suspect string, skew time.Duration, visit func(rotate.Item) error) (rotate.Totals, error) {
	var p trust.Policy
	var err error
	if suspect != "" {
		p, err = a.suspicion(ctx, suspect, skew)
	} else {
		p, err = a.policy(ctx, incident, skew)
	}
	if err != nil {
		return rotate.Totals{}, err
	}
	if visit == nil {
		visit = func(rotate.Item) error { return nil }
	}
	return rotate.Assess(ctx, a.store, p, visit)
}

// policy returns what decisions about an incident go by where there is no plan.
func (a *App) policy(ctx context.Context, incident string, skew time.Duration) (trust.Policy, error) {
	if skew < 0 {
		return trust.Policy{}, errors.New("clocks cannot differ by less than nothing: --skew is negative")
	}
	if _, err := rotate.LoadIncident(ctx, a.store, incident); err != nil {
		return trust.Policy{}, err
	}
	sources, err := rotate.Sources(ctx, a.store)
	if err != nil {
		return trust.Policy{}, err
	}
	return rotate.Plan{Incident: incident, Skew: skew, Sources: sources}.Current(ctx, a.store)
}

// suspicion returns what decisions would go by if a signer were compromised.
func (a *App) suspicion(ctx context.Context, suspect string, skew time.Duration) (trust.Policy, error) {
	const id = "what if" // no incident can be named so
	r, err := a.store.Signer(ctx, suspect)
	if err != nil {
		return trust.Policy{}, err
	}
	if skew < 0 {
		return trust.Policy{}, errors.New("clocks cannot differ by less than nothing: --skew is negative")
	}
	p, err := rotate.Plan{Incident: id, Skew: skew}.Current(ctx, a.store)
	if err != nil {
		return p, err
	}
	class := trust.SigningKey
	if r.Identity.Kind == signer.Keyless {
		class = trust.KeylessIdentity
	}
	p.Incidents = append(p.Incidents, trust.Incident{ID: id, Class: class, Signers: []signer.Identity{r.Identity}})
	return p, nil
}

// FindPlan returns the digest of the one plan that the start of one names.
func (a *App) FindPlan(ctx context.Context, text string) (string, error) {
	return rotate.FindPlan(ctx, a.store, text)
}

// Plan returns a plan by its digest or the start of it.
func (a *App) Plan(ctx context.Context, digest string) (rotate.Plan, string, rotate.Totals, error) {
	full, err := rotate.FindPlan(ctx, a.store, digest)
	if err != nil {
		return rotate.Plan{}, "", rotate.Totals{}, err
	}
	p, t, err := rotate.LoadPlan(ctx, a.store, full)
	return p, full, t, err
}

// Plans lists the plans made for an incident, with who approved each.
func (a *App) Plans(ctx context.Context, incident string) ([]PlanState, error) {
	ids, err := a.store.DocumentIDs(ctx, store.KindPlan, "sha256:")
	if err != nil {
		return nil, err
	}
	var out []PlanState
	for _, id := range ids {
		p, t, err := rotate.LoadPlan(ctx, a.store, id)
		if err != nil {
			return nil, err
		}
		if p.Incident != incident {
			continue
		}
		st := PlanState{Plan: id, MadeAt: p.MadeAt, Proposer: p.Proposer, Totals: t, Quorum: p.Quorum}
		st.Approvers, err = rotate.ApprovedBy(ctx, a.store, id)
		if err != nil {
			return nil, err
		}
		if st.Reissues, err = a.store.ReissueCounts(ctx, id); err != nil {
			return nil, err
		}
		if st.BreakGlass, err = rotate.BreakGlasses(ctx, a.store, id); err != nil {
			return nil, err
		}
		out = append(out, st)
	}
	slices.SortFunc(out, func(x, y PlanState) int { return x.MadeAt.Compare(y.MadeAt) })
	return out, nil
}

// PlanState is a plan and how far it has come.
type PlanState struct {
	Plan      string           `json:"plan"`
	MadeAt    time.Time        `json:"made_at"`
	Proposer  string           `json:"proposer"`
	Quorum    int              `json:"quorum"`
	Approvers []string         `json:"approvers"`
	Totals    rotate.Totals    `json:"totals"`
	Reissues  map[string]int64 `json:"reissues"`

	BreakGlass []rotate.BreakGlass `json:"break_glass,omitempty"`
}

// Items calls visit with every item of a plan, or those of one decision.
func (a *App) Items(ctx context.Context, digest string, d trust.Decision, visit func(rotate.Item) error) error {
	return rotate.Items(ctx, a.store, digest, d, visit)
}

// registry returns the client for an act: in a dry run one that cannot write.
func (a *App) registry(apply bool) *registry.Client {
	if apply {
		return a.options.Registry
	}
	return registry.ReadOnly(a.options.Registry)
}

// Contained is what containing did, or would do.
type Contained struct {
	rotate.Contained
	BreakGlass *rotate.BreakGlass `json:"break_glass,omitempty"` // it was done on one person's word
}

// Contain publishes the revocation and takes the rogue artifacts away.
func (a *App) Contain(ctx context.Context, digest string, apply bool) (Contained, error) {
	p, err := a.permit(ctx, digest)
	if err != nil {
		return Contained{}, err
	}
	publish := a.options.Publish
	if publish == nil {
		publish = a.publishFile
	}
	c, err := rotate.Contain(ctx, a.store, a.registry(apply), publish, a.by("contain %s", p.Plan().Incident), p, apply)
	return Contained{c, p.BreakGlass()}, err
}

// publishFile keeps a revocation statement in the home, for people to carry to
// their verifiers.
func (a *App) publishFile(_ context.Context, path string, statement []byte) error {
	file := filepath.Join(a.options.Home, revocationsDir, filepath.Base(path))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("revocations: %w", err)
	}
	return durable.WriteFile(file, statement, 0o644)
}

// ResignOptions say how to re-sign, and what of the plan.
type ResignOptions struct {
	Plan     string
	Signer   signer.Source
	Services services.Services // asked for proofs of every new signature
	Files    resign.Files      // see App.OpenFiles
	Apply    bool
	Batch    bool    // one statement for many image signatures of a repository
	Parallel int     // artifacts published at once
	Rate     float64 // signatures a second; 0: no limit
	Only     Selection
	Lease    time.Duration                                         // on shards; default DefaultLease
	Progress func(done int64, r resign.Result, hosts []HostStatus) // hosts: of what this process did; nil: there is one
	Failed   func(resign.Failure)
}

// FileOptions say where files are, and the signatures made of them: directories
// that exist, or nothing.
type FileOptions struct {
	In       string // the files
	Out      string // their new signatures
	ByDigest bool   // also sign what is not there, by its digest alone
}

// OpenFiles opens the directories of files and of their signatures.
func (a *App) OpenFiles(o FileOptions) (f resign.Files, closeAll func() error, err error) {
	var closers []func() error
	closeAll = func() error {
		var errs []error
		for _, c := range closers {
			errs = append(errs, c())
		}
		return errors.Join(errs...)
	}
	f.ByDigest = o.ByDigest
	if o.In != "" {
		in, err := files.Open(o.In)
		if err != nil {
			return f, closeAll, fmt.Errorf("the directory of the files: %w", err)
		}
		closers, f.In = append(closers, in.Close), in
	}
	if o.Out != "" {
		out, err := files.Open(o.Out)
		if err != nil {
			return f, closeAll, errors.Join(fmt.Errorf("the directory for signatures of files, which has to be there: %w", err), closeAll())
		}
		closers, f.Out = append(closers, out.Close), out
	}
	return f, closeAll, nil
}

// Services opens the services that a signing configuration chooses, if there is
// one, and those named besides.
func (a *App) Services(config []byte, also services.Endpoints) (services.Services, error) {
	if config != nil {
		chosen, err := services.FromSigningConfig(config, a.now())
		if err != nil {
			return services.Services{}, err
		}
		also.Timestamps = append(chosen.Timestamps, also.Timestamps...)
		also.RekorV1 = append(chosen.RekorV1, also.RekorV1...)
		also.RekorV2 = append(chosen.RekorV2, also.RekorV2...)
	}
	return services.Open(also)
}

// FulcioOf returns the certificate authority for keyless signers that a signing
// configuration chooses, or "".
func FulcioOf(config []byte) (string, error) {
	e, err := services.FromSigningConfig(config, time.Now())
	return e.Fulcio, err
}

// Selection is the part of a plan that is worked on.
type Selection struct {
	Limit        int64    // statements at most; 0: all
	Deployed     bool     // only what is deployed
	Repositories []string // only these, or with a * at the end all that start so; none: all
}

// of returns which shards of a plan are selected.
func (o Selection) of(shards []store.Shard) (store.ShardSelection, error) {
	out := store.ShardSelection{Deployed: o.Deployed}
	for _, want := range o.Repositories {
		prefix, pattern := strings.CutSuffix(want, "*")
		found := false
		for _, s := range shards {
			if want != s.Repository && !(pattern && strings.HasPrefix(s.Repository, prefix)) {
				continue
			}
			if found = true; !slices.Contains(out.Repositories, s.Repository) {
				out.Repositories = append(out.Repositories, s.Repository)
			}
		}
		if !found {
			return out, fmt.Errorf("the plan re-signs nothing in %q: \"reseal incident show\" lists what it re-signs", want)
		}
	}
	return out, nil
}

// ToResign counts the signatures that re-signing a part of a plan makes.
func (a *App) ToResign(ctx context.Context, plan string, only Selection) (n int64, err error) {
	shards, err := rotate.Shards(ctx, a.store, plan, rotate.Totals{})
	if err != nil {
		return 0, err
	}
	sel, err := only.of(shards)
	if err != nil {
		return 0, err
	}
	if only.Limit == 0 {
		for _, s := range shards {
			if sel.Has(s) {
				n += s.Units
			}
		}
		return n, nil
	}
	left := only.Limit
	err = rotate.Items(ctx, a.store, plan, trust.Resign, func(i rotate.Item) error {
		if !sel.Has(store.Shard{Repository: i.Repository, Deployed: i.Deployed}) || left == 0 {
			return nil
		}
		left--
		n += int64(len(i.Formats))
		return nil
	})
	return n, err
}

// Resigned is what re-signing did, or would do.
type Resigned struct {
	Incident string `json:"incident"`
	Plan     string `json:"plan"`
	Applied  bool   `json:"applied"`
	resign.Result
	Denied          int64   `json:"denied"`
	OnHold          int64   `json:"on_hold"`
	Requests        int64   `json:"requests"`
	DurationSeconds float64 `json:"duration_seconds"`

	Hosts []HostStatus `json:"hosts,omitempty"` // where registries have more than one

	BreakGlass *rotate.BreakGlass `json:"break_glass,omitempty"` // it was done on one person's word
}

// Resign carries out what an approved plan decided to re-sign. Any number of
// processes may do so at once with one database: each takes shards of the plan.
func (a *App) Resign(ctx context.Context, o ResignOptions) (Resigned, error) {
	p, err := a.permit(ctx, o.Plan)
	if err != nil {
		return Resigned{}, err
	}
	if err := checkSignerOf(p, o.Signer); err != nil {
		return Resigned{}, err
	}
	if err := rotate.CheckLimits(ctx, a.store, p.Plan(), p.Totals()); err != nil {
		return Resigned{}, err
	}
	e := a.engine(p, o)
	out := Resigned{Incident: p.Plan().Incident, Plan: p.Digest(), Applied: o.Apply, BreakGlass: p.BreakGlass(),
		Denied: p.Totals().Decisions[trust.Deny], OnHold: p.Totals().Decisions[trust.Hold]}
	before, start := a.Requests(), time.Now()
	shards, err := rotate.Shards(ctx, a.store, p.Digest(), p.Totals())
	if err != nil {
		return out, err
	}
	sel, err := o.Only.of(shards)
	if err != nil {
		return out, err
	}
	chosen := slices.DeleteFunc(slices.Clone(shards), func(s store.Shard) bool { return !sel.Has(s) })
	hosts := newHosts(chosen)
	if len(hosts) > 1 {
		e.Settled = func(i resign.Item, state string) { hosts.add(i.Repository, state, 1) }
	}
	if o.Progress != nil {
		e.Progress = func(done int64, r resign.Result) { o.Progress(done, r, hosts.several()) }
	}
	if o.Apply {
		out.Result, err = a.share(ctx, p, e, shards, sel, o)
	} else {
		out.Result, err = inOrder(ctx, e, &approved{store: a.store, permission: p, shards: chosen, limit: o.Only.Limit})
	}
	if len(hosts) > 1 && o.Apply { // what others did counts, too
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastAct)
		defer cancel()
		var tellErr error
		hosts, tellErr = a.hosts(last, p.Digest(), sel)
		err = errors.Join(err, tellErr)
	}
	out.Hosts = hosts.several()
	out.Requests, out.DurationSeconds = a.Requests()-before, time.Since(start).Seconds()
	if err == nil && out.Failed+out.Held > 0 {
		err = fmt.Errorf("%d signatures failed and %d are held back: run it again to resume, or make a new plan for what is held", out.Failed, out.Held)
	}
	return out, err
}

// checkSignerOf refuses a signer that is not the one a plan was approved with.
func checkSignerOf(p rotate.Permission, s signer.Source) error {
	if s.Identity() != p.Plan().NewSigner {
		return fmt.Errorf("the plan names %s as the new signer, the one given is %s", p.Plan().NewSigner, s.Identity())
	}
	return nil
}

// engine returns what carries out an approved plan.
func (a *App) engine(p rotate.Permission, o ResignOptions) resign.Engine {
	return resign.Engine{Registry: a.registry(o.Apply), Store: a.store, Signer: o.Signer, Services: o.Services, Root: a.root, Files: o.Files, Plan: p.Digest(),
		Apply: o.Apply, Batch: o.Batch, By: a.by("re-sign for %s", p.Plan().Incident), Parallel: o.Parallel, Rate: rate.Limit(o.Rate),
		Failed: o.Failed, Patience: &resign.Patience{}}
}

// approved gives the re-signing engine the items of some shards of an approved
// plan.
type approved struct {
	store      *store.Store
	permission rotate.Permission
	shards     []store.Shard   // in order
	drain      <-chan struct{} // closed: there are no more items; nil: never
	limit      int64           // items at most; 0: all
	part       part            // of the items
	apply      bool            // it is in earnest
	given      int64           // items so far, of whatever part
	ahead      []resign.Item
	cut        bool // there would have been more
}

// Items implements resign.Work.
func (w *approved) Items(ctx context.Context, after int64, limit int) ([]resign.Item, error) {
	for len(w.ahead) < limit && len(w.shards) > 0 {
		s := w.shards[0]
		w.shards = w.shards[1:]
		items, err := rotate.ItemRange(ctx, w.store, w.permission.Digest(), trust.Resign, s.First, s.Last)
		if err != nil {
			return nil, err
		}
		for _, i := range items {
			if w.limit > 0 && w.given == w.limit {
				w.cut, w.shards = true, nil
				break
			}
			if w.given++; !w.part.takes(i) {
				continue
			}
			r, err := w.itemOf(i)
			if err != nil {
				return nil, err
			}
			w.ahead = append(w.ahead, r)
		}
	}
	w.ahead = slices.DeleteFunc(w.ahead, func(i resign.Item) bool { return i.Seq <= after })
	page := slices.Clip(w.ahead[:min(limit, len(w.ahead))])
	select {
	case <-w.drain:
		w.cut = w.cut || len(page) > 0
		return nil, nil
	default:
	}
	w.ahead = w.ahead[len(page):]
	return page, nil
}

// itemOf gives the engine what it needs of an item.
func (w *approved) itemOf(i rotate.Item) (r resign.Item, err error) {
	r = resign.Item{Seq: i.Seq, Repository: i.Repository, Digest: i.Digest, MediaType: i.MediaType, Size: i.Size,
		PredicateType: i.PredicateType(), StatementKey: i.Statement, Decided: i.Statement, Formats: i.Formats, Also: i.Also}
	if i.Summary {
		if r.Summary, err = w.permission.Plan().Summary(w.permission.Digest(), i); err != nil {
			return r, err
		}
		r.PredicateType, r.StatementKey = inventory.SummaryPredicate, inventory.SummaryPredicate+"#"+inventory.Digest(r.Summary)
	}
	for _, g := range i.Signatures {
		if g.Verdict == trust.Unverifiable {
			continue
		}
		r.SourceFormat, r.SourceContent = g.Format, g.Content
		// What only a voucher proves is the image. What the signature said besides
		// may be the thief's.
		if g.Proves {
			r.Proven = append(r.Proven, resign.Source{Format: g.Format, Content: g.Content})
		}
	}
	return r, nil
}

// Still implements resign.Work. It looks anew at what is known: an incident
// declared during a long run counts from then on.
func (w *approved) Still(ctx context.Context, items []resign.Item) ([]string, error) {
	asked := make([]rotate.Item, len(items))
	for n, i := range items {
		asked[n] = rotate.Item{Repository: i.Repository, Digest: i.Digest, Statement: i.Decided, Decision: trust.Resign, Formats: i.Formats}
		for _, g := range i.Proven {
			asked[n].Signatures = append(asked[n].Signatures, rotate.ItemSignature{Content: g.Content, Proves: true})
		}
	}
	policy, err := w.permission.Current(ctx, w.store)
	if err != nil {
		return nil, err
	}
	why, err := rotate.Still(ctx, w.store, w.permission.Digest(), policy, asked)
	for n := range why {
		if why[n] == "" && err == nil {
			why[n], err = w.early(ctx, items[n])
		}
	}
	return why, err
}

// Cutover is what cutting over did, or would do.
type Cutover struct {
	rotate.Cutover
	Recorded   int64              `json:"recorded"`              // of Checked: of files, by what was read back when they were signed or imported
	BreakGlass *rotate.BreakGlass `json:"break_glass,omitempty"` // it was done on one person's word
}

// CutOver removes the old signer from the anchors of an approved plan. Where the
// directory of the files' signatures is given they are looked at again.
func (a *App) CutOver(ctx context.Context, digest string, files resign.Files, apply bool) (Cutover, error) {
	p, err := a.permit(ctx, digest)
	if err != nil {
		return Cutover{}, err
	}
	recorded := int64(0)
	accepts := func(ctx context.Context, repository, digest string, f inventory.Format, by signer.Record) error {
		if repository == inventory.Files && files.Out == nil {
			recorded++
		}
		return a.accepts(ctx, files, repository, digest, f, by)
	}
	c, err := rotate.CutOver(ctx, a.store, accepts, a.by("cut-over for %s", p.Plan().Incident), p, apply)
	return Cutover{c, recorded, p.BreakGlass()}, err
}

// accepts reports whether a consumer that accepts one signer's key, and reads
// one format, accepts an artifact as it is in the registry now.
func (a *App) accepts(ctx context.Context, files resign.Files, repository, digest string, f inventory.Format, by signer.Record) error {
	pub, _, err := signer.ParsePublicKey(by.PublicKey)
	if err != nil {
		return err
	}
	v, err := verify.New(verify.Trust{Root: a.root, Keys: []crypto.PublicKey{pub}})
	if err != nil {
		return err
	}
	sub := verify.Subject{Repository: repository, Digest: digest}
	if repository == inventory.Files {
		return a.acceptsFile(ctx, files, sub, f, by.Identity, verify.Consumer{Key: pub, Root: a.root})
	}
	got := verify.Fetcher{Registry: a.options.Registry, Verifier: v}.Signatures(ctx, sub, verify.Only(f))
	consumer := verify.Consumer{Key: pub, Root: a.root}
	refused := errors.New("no signature by the new signer is there")
	for _, found := range got.Found {
		if !found.Verified || found.Signer != by.Identity || found.PredicateType != inventory.SignPredicate {
			continue
		}
		err = consumer.Accepts(ctx, found)
		if err == nil {
			return a.bundlesKnown(ctx, sub, f)
		}
		refused = err
	}
	for _, p := range got.Problems {
		refused = errors.Join(refused, errors.New(p.Problem))
	}
	return refused
}

// acceptsFile is accepts of a file: what was read back when it was written, or
// imported, and is in the directory of signatures still, if that is given. Nobody
// can look at every place that people fetch files from.
func (a *App) acceptsFile(ctx context.Context, files resign.Files, sub verify.Subject, f inventory.Format, by signer.Identity, consumer verify.Consumer) error {
	sigs, err := a.store.SignaturesOf(ctx, inventory.Artifact{Repository: sub.Repository, Digest: sub.Digest}, "")
	if err != nil {
		return err
	}
	refused := fmt.Errorf("no signature by the new signer is known in format %s", f)
	for _, g := range sigs {
		if g.Format != f || !g.Verified || g.Signer != by || g.PredicateType != inventory.SignPredicate {
			continue
		}
		content, err := a.store.Vault(ctx, g.Content)
		if err != nil {
			return err
		}
		refused = consumer.File(ctx, sub, f, content)
		if refused == nil && files.Out != nil {
			if refused = files.Holds(ctx, sub.Digest, f, content); refused != nil {
				refused = fmt.Errorf("its signature by the new signer is not in the directory of signatures (--files-out): %w", refused)
			}
		}
		if refused == nil {
			return nil
		}
	}
	if files.Out == nil {
		refused = fmt.Errorf("%w (nobody looked: this is what was read back when files were signed or imported; --files-out has them looked at again)", refused)
	}
	return refused
}

// bundlesKnown refuses a ".sig" beside which bundles stand that no scan has seen:
// cosign would look past it, and nobody has judged them.
func (a *App) bundlesKnown(ctx context.Context, sub verify.Subject, f inventory.Format) error {
	if f != inventory.Legacy {
		return nil
	}
	v, err := a.verifier(ctx)
	if err != nil {
		return err
	}
	ever, err := a.store.SignaturesEver(ctx, inventory.Artifact{Repository: sub.Repository, Digest: sub.Digest})
	if err != nil {
		return err
	}
	for _, found := range (verify.Fetcher{Registry: a.options.Registry, Verifier: v}).Signatures(ctx, sub, verify.Only(inventory.Bundle)).Found {
		if !slices.ContainsFunc(ever, func(s inventory.Signature) bool { return s.Content == found.Signature.Content }) {
			return fmt.Errorf("the bundle %s beside its \".sig\" came after the last scan, and cosign would look past the \".sig\": scan %s again", found.Manifest, sub.Repository)
		}
	}
	return nil
}
