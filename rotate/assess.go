package rotate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

// page is how many artifacts are held in memory at once.
const page = 500

// Item is one line of a plan: what is done with one statement.
type Item struct {
	Seq        int64              `json:"seq"`
	Repository string             `json:"repository"`
	Digest     string             `json:"digest"`
	MediaType  string             `json:"media_type"`
	Size       int64              `json:"size"`
	Deployed   bool               `json:"deployed"`
	Tags       []string           `json:"tags,omitempty"`
	Statement  string             `json:"statement"` // see inventory.Signature.StatementKey
	Decision   trust.Decision     `json:"decision"`
	Reason     string             `json:"reason"`
	Recall     bool               `json:"recall,omitempty"`  // it was re-signed, and would not be any more
	Formats    []inventory.Format `json:"formats,omitempty"` // to re-sign in
	Summary    bool               `json:"summary,omitempty"` // not the statement is signed again, but a summary of it: see Plan.Summary
	Also       []string           `json:"also,omitempty"`    // digests that a claim to be re-signed is about besides, each decided good
	Signatures []ItemSignature    `json:"signatures"`

	reads   []inventory.Format // formats that the replaced signers' verified signatures are in
	vouched []int              // see trust.Outcome
	recall  []string           // IDs of the signatures that make it a recall
}

// ItemSignature is one signature an item was decided on, and its verdict. The
// list is the item's basis.
type ItemSignature struct {
	ID      string           `json:"id"`
	Signer  string           `json:"signer"`
	Format  inventory.Format `json:"format"`
	Content string           `json:"content"`
	Verdict trust.Verdict    `json:"verdict"`
	Why     string           `json:"why"`
	Proves  bool             `json:"proves,omitempty"` // it proves the statement good: what it says besides can be said again
	Bound   *inventory.Bound `json:"bound,omitempty"`  // where a summary names it: the proof of its time that the verdict rests on
}

// PredicateType returns the type of what the item states.
func (i Item) PredicateType() string {
	return inventory.Statement{Key: i.Statement}.PredicateType()
}

// Totals counts what an assessment found. What is below Vouched only plans
// have.
type Totals struct {
	Artifacts  int64                    `json:"artifacts"`
	Signatures int64                    `json:"signatures"`
	Deployed   int64                    `json:"deployed"`
	Verdicts   map[trust.Verdict]int64  `json:"verdicts"`
	Decisions  map[trust.Decision]int64 `json:"decisions"`           // of statements
	Recall     int64                    `json:"recall,omitempty"`    // statements re-signed that would not be any more
	Summaries  int64                    `json:"summaries,omitempty"` // statements of which a summary is signed instead
	Vouched    map[string]int64         `json:"vouched,omitempty"`   // voucher ID → statements that it alone makes good

	Sensitivity     []Shift               `json:"sensitivity,omitempty"`
	Orders          []OrderCost           `json:"orders,omitempty"`
	TimeAuthorities []inventory.Authority `json:"time_authorities,omitempty"` // outside every incident: their times may prove "before"
	Basis           string                `json:"basis,omitempty"`            // digest of the rows that were read
}

// Shift is what the decisions would be if the incident had begun earlier.
type Shift struct {
	Days      int                      `json:"days"`
	From      time.Time                `json:"from"`
	Decisions map[trust.Decision]int64 `json:"decisions"`
}

// maxSelected bounds the signers that artifacts are selected by. An incident
// about more of them is about most of the inventory, which is then read in one
// pass rather than signer by signer.
const maxSelected = 200

// selection is every artifact a plan could be about. It reports false where
// there is none.
func selection(ctx context.Context, s *store.Store, p trust.Policy) (store.Selection, bool, error) {
	var sel store.Selection
	for _, id := range p.Rotates {
		sel.Signers = append(sel.Signers, id.ID())
	}
	if len(p.Rotates) > 0 { // what is rogue and by others is no concern of a rotation
		return sel, true, nil
	}
	for _, i := range p.Incidents {
		if i.ID != p.Primary {
			continue
		}
		for _, id := range i.Signers {
			sel.Signers = append(sel.Signers, id.ID())
		}
		sel.Authorities = i.Authorities
		if len(i.Selectors) == 0 {
			continue
		}
		records, err := s.Records(ctx)
		if err != nil {
			return sel, false, err
		}
		for _, r := range records {
			if id := r.Identity.ID(); i.Names(r.Identity) && !slices.Contains(sel.Signers, id) {
				if sel.Signers = append(sel.Signers, id); len(sel.Signers) > maxSelected {
					return store.Selection{}, true, nil
				}
			}
		}
	}
	sel.Digests = slices.Sorted(maps.Keys(p.Rogue))
	return sel, len(sel.Signers)+len(sel.Authorities)+len(sel.Digests) > 0, nil
}

// eachArtifact calls visit with every artifact that a plan could be about, the
// deployed first.
func eachArtifact(ctx context.Context, s *store.Store, p trust.Policy, visit func([]inventory.Artifact) error) error {
	sel, any, err := selection(ctx, s, p)
	if err != nil || !any {
		return err
	}
	for at := (store.Place{}); ; {
		arts, next, err := s.Artifacts(ctx, sel, at, page)
		if err != nil || len(arts) == 0 {
			return err
		}
		at = next
		if err := visit(arts); err != nil {
			return err
		}
	}
}

// Assess decides every statement of the signers that the policy replaces, and
// about every artifact it marks rogue, in plan order, and calls visit with each.
// Memory does not grow with the inventory.
func Assess(ctx context.Context, s *store.Store, p trust.Policy, visit func(Item) error) (Totals, error) {
	a := newAssessment(s, p)
	err := a.run(ctx, visit)
	return a.totals, err
}

// assessment is one pass over the inventory.
type assessment struct {
	store  *store.Store
	policy trust.Policy
	past   *past
	totals Totals
	skip   func(Item) bool // leaves items out; nil: none
	also   *forecast       // what plans say besides; nil: nothing
}

func newAssessment(s *store.Store, p trust.Policy) *assessment {
	p.Incidents = trust.Compiled(p.Incidents)
	return &assessment{store: s, policy: p, past: newPast(s),
		totals: Totals{Verdicts: map[trust.Verdict]int64{}, Decisions: map[trust.Decision]int64{}}}
}

func (a *assessment) run(ctx context.Context, visit func(Item) error) error {
	var seq int64
	return eachArtifact(ctx, a.store, a.policy, func(arts []inventory.Artifact) error {
		all, err := a.store.SignaturesOfAll(ctx, arts)
		if err != nil {
			return err
		}
		own, err := a.past.made(ctx, all...)
		if err != nil {
			return err
		}
		for n, art := range arts {
			sigs := all[n]
			items, err := decideArtifact(ctx, a.past, own, art, sigs, a.policy)
			if err != nil {
				return err
			}
			if a.also != nil && len(items) > 0 {
				a.also.witness(sigs)
			}
			if a.skip != nil {
				items = slices.DeleteFunc(items, a.skip)
			}
			if len(items) == 0 {
				continue
			}
			if a.also != nil {
				a.also.note(art, sigs, items)
			}
			a.totals.Artifacts++
			if art.Deployed {
				a.totals.Deployed++
			}
			for _, item := range items {
				seq++
				item.Seq = seq
				a.count(item)
				if err := visit(item); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (a *assessment) count(i Item) {
	t := &a.totals
	t.Decisions[i.Decision]++
	if i.Recall {
		t.Recall++
	}
	if i.Summary {
		t.Summaries++
	}
	if len(i.vouched) == 1 && (i.Decision == trust.Resign || i.Decision == trust.None) {
		if t.Vouched == nil {
			t.Vouched = map[string]int64{}
		}
		t.Vouched[a.policy.Vouchers[i.vouched[0]].ID()]++
	}
	for _, g := range i.Signatures {
		t.Signatures++
		t.Verdicts[g.Verdict]++
	}
}

// decideArtifact decides every statement about an artifact, and lowers what was
// re-signed on evidence that no longer holds. own has the plans that made
// signatures, by the IDs of these.
func decideArtifact(ctx context.Context, past *past, own map[string]string, a inventory.Artifact, sigs []inventory.Signature, p trust.Policy) ([]Item, error) {
	items := decideAll(a, sigs, p)
	if !slices.ContainsFunc(sigs, func(g inventory.Signature) bool { return own[g.ID] != "" }) {
		return items, nil
	}
	return past.recall(ctx, a, sigs, items, p)
}

// decideOne decides every statement about one artifact alone.
func decideOne(ctx context.Context, s *store.Store, a inventory.Artifact, sigs []inventory.Signature, p trust.Policy) ([]Item, error) {
	past := newPast(s)
	own, err := past.made(ctx, sigs)
	if err != nil {
		return nil, err
	}
	return decideArtifact(ctx, past, own, a, sigs, p)
}

func decideAll(a inventory.Artifact, sigs []inventory.Signature, p trust.Policy) []Item {
	return decideFor(p.Successor, a, sigs, p)
}

// decideFor is decideAll for a new signer that the policy need not name.
func decideFor(by signer.Identity, a inventory.Artifact, sigs []inventory.Signature, p trust.Policy) []Item {
	statements := inventory.Statements(a, sigs)
	if _, rogue := p.Rogue[a.Digest]; rogue && len(statements) == 0 {
		// Denied even before anybody signed it.
		statements = []inventory.Statement{{Artifact: a, Key: inventory.SignPredicate}}
	}
	outcomes := map[string]trust.Outcome{}
	for _, st := range statements {
		if out, ok := trust.Decide(st, statements, p); ok {
			outcomes[st.Key] = out
		}
	}
	image, decided := outcomes[inventory.SignPredicate] // none decided: no claim may speak for it
	if !decided && p.Signed(sigs, by) {
		image.Decision = trust.None
	}
	var items []Item
	for key, out := range outcomes {
		if key != inventory.SignPredicate {
			out = trust.WithClaims(&image, out)
		}
		item := Item{Repository: a.Repository, Digest: a.Digest, MediaType: a.MediaType, Size: a.Size, Deployed: a.Deployed,
			Tags: a.Tags, Statement: key, Decision: out.Decision, Reason: out.Reason, Formats: out.Formats, Summary: out.Summary, Also: out.Also, vouched: out.Vouched}
		for _, g := range out.Signatures {
			is := ItemSignature{ID: g.ID, Signer: g.Signer.ID(), Format: g.Format,
				Content: g.Content, Verdict: g.Verdict, Why: g.Reason, Proves: p.Proves(&g)}
			if out.Summary && is.Proves {
				is.Bound = p.Bound(&g)
			}
			item.Signatures = append(item.Signatures, is)
			if g.Verified && g.Replaced && !slices.Contains(item.reads, g.Format) {
				item.reads = append(item.reads, g.Format)
			}
		}
		items = append(items, item)
	}
	sortItems(items)
	return items
}

// sortItems puts the items of one artifact in order: the image signature comes
// first, because a bundle of any kind makes cosign look past the ".sig" tag.
func sortItems(items []Item) {
	slices.SortFunc(items, func(x, y Item) int {
		first := func(i Item) int {
			if i.PredicateType() == inventory.SignPredicate {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(first(x), first(y)), strings.Compare(x.Statement, y.Statement))
	})
}

// unfit returns what says by a policy why the new signer must not speak for a
// digest, or "": no repository is known in which the image itself is covered or to
// be re-signed. What cannot be looked up is not fit.
func unfit(ctx context.Context, s *store.Store) func(trust.Policy, string) string {
	return func(p trust.Policy, digest string) string {
		p.Unfit = nil // claims about it, perhaps the one that is asked about, do not decide about itself
		why := "no scan has seen it"
		for at := (store.Place{}); ; {
			arts, next, err := s.Artifacts(ctx, store.Selection{Digest: digest}, at, page)
			if err != nil {
				return err.Error()
			}
			if len(arts) == 0 {
				return why
			}
			at = next
			all, err := s.SignaturesOfAll(ctx, arts)
			if err != nil {
				return err.Error()
			}
			for n, a := range arts {
				items, err := decideOne(ctx, s, a, all[n], p)
				if err != nil {
					return err.Error()
				}
				image := slices.IndexFunc(items, func(i Item) bool { return i.Statement == inventory.SignPredicate })
				switch {
				case image < 0 && p.Signed(all[n], p.Successor):
					return ""
				case image < 0:
					why = "nothing is decided about it in " + a.Repository
				case items[image].Decision == trust.Resign || items[image].Decision == trust.None:
					return ""
				default:
					why = fmt.Sprintf("in %s it is on %s (%s)", a.Repository, items[image].Decision, items[image].Reason)
				}
			}
		}
	}
}

// past is what earlier plans re-signed.
type past struct {
	store *store.Store
	plans map[string]Plan // headers, by digest

	enrolled func(signer.Identity) bool // once it was asked for, see Enrolled
}

func newPast(s *store.Store) *past { return &past{store: s, plans: map[string]Plan{}} }

// made returns which plan made each of the signatures that a plan made.
func (h *past) made(ctx context.Context, all ...[]inventory.Signature) (map[string]string, error) {
	var ids []string
	for _, sigs := range all {
		for _, g := range sigs {
			ids = append(ids, g.ID)
		}
	}
	rows, err := h.store.ReissuesBySignature(ctx, ids)
	own := map[string]string{}
	for _, r := range rows {
		own[r.SignatureID] = r.Plan
	}
	return own, err
}

// recall lowers the items whose statement was re-signed by a plan that would
// not do so now, and adds those that are of no other concern. Our own signatures
// are left out of that question: what was re-signed never proves itself. What is
// no longer at its place still proves what it proved.
func (h *past) recall(ctx context.Context, a inventory.Artifact, sigs []inventory.Signature, items []Item, p trust.Policy) ([]Item, error) {
	ever, err := h.store.SignaturesEver(ctx, a)
	if err != nil {
		return nil, err
	}
	own, err := h.made(ctx, ever)
	if err != nil {
		return nil, err
	}
	others := slices.DeleteFunc(slices.Clone(ever), func(g inventory.Signature) bool { return own[g.ID] != "" })
	plans := map[string][]inventory.Signature{} // those at their place
	about := map[string]string{}                // what each of them was made for
	for _, g := range sigs {
		if plan := own[g.ID]; plan != "" {
			plans[plan] = append(plans[plan], g)
			if about[g.ID], err = madeFor(g, a, ever, p); err != nil {
				return nil, err
			}
		}
	}
	for _, plan := range slices.Sorted(maps.Keys(plans)) {
		nows, err := h.again(ctx, plan, a, others, p)
		if err != nil {
			return nil, err
		}
		for _, now := range nows {
			made := slices.DeleteFunc(slices.Clone(plans[plan]), func(g inventory.Signature) bool { return about[g.ID] != now.Statement })
			if len(made) == 0 || trust.Compare(now.Decision, trust.Resign) >= 0 {
				continue
			}
			at := slices.IndexFunc(items, func(i Item) bool { return i.Statement == now.Statement })
			if at < 0 {
				for _, g := range made {
					j := trust.Judge(g, p.Incidents, p.Skew)
					now.Signatures = append(now.Signatures, ItemSignature{ID: g.ID, Signer: g.Signer.ID(), Format: g.Format, Content: g.Content, Verdict: j.Verdict, Why: j.Reason})
				}
				items, at = append(items, now), len(items)
			}
			i := &items[at]
			for _, g := range made {
				i.recall = append(i.recall, g.ID)
			}
			if i.Recall && trust.Compare(i.Decision, now.Decision) <= 0 {
				continue // by another plan, for a graver reason
			}
			i.Recall, i.Decision, i.Formats, i.Summary, i.Also, i.vouched = true, now.Decision, nil, false, nil, nil
			i.Reason = fmt.Sprintf("re-signed under plan %s, which would not be done now: %s", plan, now.Reason)
		}
	}
	sortItems(items)
	return items, nil
}

// again decides about an artifact anew, as a plan that re-signed something on
// it would now. What a rotation took over, it did because no incident was about
// it: now every one that is about it is asked.
func (h *past) again(ctx context.Context, plan string, a inventory.Artifact, sigs []inventory.Signature, p trust.Policy) ([]Item, error) {
	then := p
	then.Rotates, then.Successor, then.Keep = nil, signer.Identity{}, false
	of, err := h.planOf(ctx, plan)
	if err != nil {
		return nil, err
	}
	if !of.rotation() {
		then.Primary = of.Incident
		if !slices.ContainsFunc(p.Incidents, func(i trust.Incident) bool { return i.ID == then.Primary }) {
			then.Primary = p.Primary // it was withdrawn, perhaps for the one that is asked about
		}
		return decideFor(of.NewSigner, a, sigs, then), nil
	}
	if h.enrolled == nil {
		if h.enrolled, err = Enrolled(ctx, h.store); err != nil {
			return nil, err
		}
	}
	then.Trusted = h.enrolled
	var out []Item
	for _, i := range p.Incidents {
		then.Primary = i.ID
		out = append(out, decideFor(of.NewSigner, a, sigs, then)...)
	}
	return out, nil
}

func (h *past) planOf(ctx context.Context, plan string) (Plan, error) {
	if p, known := h.plans[plan]; known {
		return p, nil
	}
	p, err := loadHeader(ctx, h.store, plan)
	if errors.Is(err, inventory.ErrNotFound) {
		err = fmt.Errorf("signatures are recorded under plan %s, which is not kept: %w", plan, err)
	}
	if err != nil {
		return p, err
	}
	h.plans[plan] = p
	return p, nil
}

// forecast is what a plan says besides its decisions: how they hang on when the
// incident began, what either order of acting costs, and what was read.
type forecast struct {
	shifts      []trust.Policy
	sensitivity []Shift
	costs       costs
	incidents   []trust.Incident
	authorities map[inventory.Authority]bool
	basis       hash.Hash
}

func newForecast(p Plan, policy trust.Policy) *forecast {
	f := &forecast{costs: newCosts(p), incidents: policy.Incidents, authorities: map[inventory.Authority]bool{}, basis: sha256.New()}
	for _, days := range []int{7, 30} {
		at := slices.IndexFunc(policy.Incidents, func(i trust.Incident) bool { return i.ID == policy.Primary })
		if at < 0 || policy.Incidents[at].From == nil {
			break
		}
		shifted := policy
		shifted.Incidents = slices.Clone(policy.Incidents)
		from := policy.Incidents[at].From.AddDate(0, 0, -days)
		shifted.Incidents[at].From = &from
		shifted.Incidents = trust.Compiled(shifted.Incidents)
		f.shifts = append(f.shifts, shifted)
		f.sensitivity = append(f.sensitivity, Shift{Days: days, From: from, Decisions: map[trust.Decision]int64{}})
	}
	return f
}

// note takes in one artifact with the items that the plan has of it.
func (f *forecast) note(a inventory.Artifact, sigs []inventory.Signature, items []Item) {
	for n, shifted := range f.shifts {
		for _, i := range decideAll(a, sigs, shifted) {
			at := slices.IndexFunc(items, func(o Item) bool { return o.Statement == i.Statement })
			if at < 0 {
				continue
			}
			d := i.Decision
			if trust.Compare(items[at].Decision, d) < 0 { // it is recalled, and would be all the more
				d = items[at].Decision
			}
			f.sensitivity[n].Decisions[d]++
		}
	}
	f.costs.note(items)
	fmt.Fprintf(f.basis, "artifact %q %v\n", a.Ref(), a.Deployed)
	for _, g := range sigs {
		fmt.Fprintf(f.basis, "signature %q %v\n", g.ID, g.Verified)
		for _, b := range g.Bounds {
			fmt.Fprintf(f.basis, "%s %d %s %q %v\n", b.Side, b.Time.Unix(), b.Authority.Role, b.Authority.ID, b.Verified)
		}
	}
}

// witness takes in whose times the plan rests on: also of what a supplement
// leaves out, because the statement that is published by it is about that too.
func (f *forecast) witness(sigs []inventory.Signature) {
	for _, g := range sigs {
		for _, b := range g.Bounds {
			if b.Verified && b.Side == inventory.Upper && g.Verified {
				f.authorities[b.Authority] = true
			}
		}
	}
}

// end adds what was found to the totals.
func (f *forecast) end(t *Totals) {
	t.Sensitivity, t.Orders = f.sensitivity, f.costs.orders()
	t.TimeAuthorities = outside(slices.Collect(maps.Keys(f.authorities)), f.incidents)
	t.Basis = "sha256:" + hex.EncodeToString(f.basis.Sum(nil))
}

// outside returns the authorities that no incident is about, in order. A time in
// our own journal is the word of the timestamp authority that anchored it.
func outside(all []inventory.Authority, incidents []trust.Incident) []inventory.Authority {
	all = slices.DeleteFunc(slices.Clone(all), func(a inventory.Authority) bool {
		return slices.ContainsFunc(incidents, func(i trust.Incident) bool {
			return slices.Contains(i.Authorities, a) ||
				a.Role == inventory.RoleJournal && slices.Contains(i.Authorities, inventory.Authority{Role: inventory.RoleTSA, ID: a.ID})
		})
	})
	slices.SortFunc(all, func(a, b inventory.Authority) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// Order is in which order a person means to carry out a plan.
type Order string

// The orders. The plan does the same either way.
const (
	ContainFirst    Order = "contain-first"    // consumers refuse the old signer at once; what is not re-signed yet fails
	ContinuityFirst Order = "continuity-first" // everything good is re-signed first; rogue artifacts are accepted meanwhile
)

// OrderCost is what an order costs, so that a person can choose.
type OrderCost struct {
	Order     Order          `json:"order"`
	Consumers []ConsumerCost `json:"consumers"`
	Rate      float64        `json:"rate"`    // statements re-signed a second
	Assumed   string         `json:"assumed"` // what the numbers take for granted
}

// ConsumerCost is what an order costs one consumer.
type ConsumerCost struct {
	Consumer        string  `json:"consumer"`
	WouldFail       int64   `json:"would_fail"`       // deployed artifacts that it would refuse and that are not denied
	ExposureSeconds float64 `json:"exposure_seconds"` // how long it still accepts what the old signer signs
}

// defaultRate is how many statements are taken to be re-signed a second where
// the plan does not say.
const defaultRate = 5

// costs counts what both orders cost.
type costs struct {
	plan      Plan
	now, last []int64 // by consumer: refused if the old signer goes now, and once all is re-signed
	resign    int64   // statements
}

func newCosts(p Plan) costs {
	return costs{plan: p, now: make([]int64, len(p.Consumers)), last: make([]int64, len(p.Consumers))}
}

func (c *costs) note(items []Item) {
	for _, i := range items {
		if i.Decision == trust.Resign {
			c.resign++
		}
		if !i.Deployed || i.Statement != inventory.SignPredicate {
			continue
		}
		for n, consumer := range c.plan.Consumers {
			if !slices.Contains(i.reads, consumer.Reads) {
				continue
			}
			switch {
			case i.Decision == trust.Hold:
				c.now[n]++
				if !slices.Contains(c.plan.AcceptDark, i.Digest) {
					c.last[n]++
				}
			case i.Decision == trust.Resign && slices.Contains(i.Formats, consumer.Reads):
				c.now[n]++
			}
		}
	}
}

func (c *costs) orders() []OrderCost {
	first := OrderCost{Order: ContainFirst, Consumers: []ConsumerCost{}, Rate: c.plan.Rate,
		Assumed: "every consumer stops trusting the old signer at once"}
	then := OrderCost{Order: ContinuityFirst, Consumers: []ConsumerCost{}, Rate: c.plan.Rate,
		Assumed: fmt.Sprintf("%d statements are re-signed at %g a second from the moment of approval, then every consumer stops trusting the old signer at once; holds accepted as dark are not counted", c.resign, c.plan.Rate)}
	for n, consumer := range c.plan.Consumers {
		first.Consumers = append(first.Consumers, ConsumerCost{Consumer: consumer.Name, WouldFail: c.now[n]})
		then.Consumers = append(then.Consumers, ConsumerCost{Consumer: consumer.Name, WouldFail: c.last[n], ExposureSeconds: float64(c.resign) / c.plan.Rate})
	}
	return []OrderCost{first, then}
}

// Still reports of each of some items of a plan whether the inventory, as it is
// now, leads to the same decision as when the plan was made: what changed, or
// "". Items of one artifact follow one another. A bundle with a claim takes more
// than the claim's own decision, see trust.WithClaims: the formats asked about
// are the item's, not those that would be chosen now.
func Still(ctx context.Context, s *store.Store, digest string, policy trust.Policy, items []Item) ([]string, error) {
	var arts []inventory.Artifact
	for n, i := range items {
		if n == 0 || i.Repository != items[n-1].Repository || i.Digest != items[n-1].Digest {
			arts = append(arts, inventory.Artifact{Repository: i.Repository, Digest: i.Digest})
		}
	}
	all, err := s.SignaturesOfAllBut(ctx, arts, digest)
	if err != nil {
		return nil, err
	}
	past := newPast(s)
	own, err := past.made(ctx, all...)
	if err != nil {
		return nil, err
	}
	why := make([]string, len(items))
	at := -1
	var now []Item
	for n, i := range items {
		if at < 0 || arts[at].Repository != i.Repository || arts[at].Digest != i.Digest {
			at++
			if now, err = decideArtifact(ctx, past, own, arts[at], all[at], policy); err != nil {
				return nil, err
			}
		}
		why[n] = i.changed(now)
	}
	return why, nil
}

// changed says what is otherwise than an item of a plan says, or "". now is what
// is decided about its artifact now.
func (i Item) changed(now []Item) string {
	at := slices.IndexFunc(now, func(o Item) bool { return o.Statement == i.Statement })
	if at < 0 {
		return notInInventory
	}
	n := now[at]
	if n.Decision != i.Decision {
		return fmt.Sprintf("the plan says %s, the inventory now says %s (%s)", i.Decision, n.Decision, n.Reason)
	}
	// Another signature may prove it, but not what this one says besides.
	for _, g := range i.Signatures {
		if g.Proves && (i.Statement == inventory.SignPredicate || n.Summary) &&
			!slices.ContainsFunc(n.Signatures, func(o ItemSignature) bool { return o.Proves && o.Content == g.Content }) {
			return fmt.Sprintf("the signature with the content %s proved it when the plan was made, and does not now, so what it says besides must not be said again: make a new plan", g.Content)
		}
	}
	if i.Decision != trust.Resign || i.Statement == inventory.SignPredicate {
		return ""
	}
	on := slices.IndexFunc(now, func(o Item) bool { return o.Statement == inventory.SignPredicate })
	if on < 0 { // nothing is decided about the image, and the claim is to be signed all the same
		return ""
	}
	claim := trust.WithClaims(&trust.Outcome{Decision: now[on].Decision}, trust.Outcome{Decision: i.Decision, Formats: i.Formats, Reason: n.Reason, Summary: n.Summary})
	if claim.Decision == i.Decision {
		return ""
	}
	return claim.Reason
}

// notInInventory is why a statement cannot be decided any more.
const notInInventory = "the statement is no longer in the inventory"
