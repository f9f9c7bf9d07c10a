package rotate

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

// Limits are the ceilings of a plan. Over one, nothing is done.
type Limits struct {
	MaxArtifacts int64   `json:"max_artifacts"` // that may be re-signed; 0: no limit
	MaxShare     float64 `json:"max_share"`     // of the inventory that may be re-signed, 0 to 1; 0: no limit
}

// ErrOverLimit is returned when a plan would do more than its ceilings allow.
var ErrOverLimit = errors.New("over the ceiling")

// Consumer is a verifier as deployed, and where its trust is written down.
type Consumer struct {
	Name   string           `json:"name" yaml:"name"`
	Reads  inventory.Format `json:"reads" yaml:"reads"`   // legacy or bundle; of files detached or blob
	Anchor string           `json:"anchor" yaml:"anchor"` // file with the one public key it accepts, as cosign's --key reads it
}

// Plan is the complete, immutable list of what is done about an incident, or in
// a rotation. Its digest covers this header, every Item and the Totals, and is
// what people approve.
type Plan struct {
	Schema      string            `json:"schema"`
	Incident    string            `json:"incident"`  // or the rotation
	Incidents   []trust.Incident  `json:"incidents"` // every incident that counted when it was made
	Proposer    string            `json:"proposer"`
	MadeAt      time.Time         `json:"made_at"`
	NewSigner   signer.Identity   `json:"new_signer"`
	Keep        bool              `json:"keep,omitempty"`    // no new signer: the window is denied, the signer stays
	Rotates     []signer.Identity `json:"rotates,omitempty"` // no incident: the new signer takes over what these say, see Rotation
	Order       Order             `json:"order"`
	Replaced    []signer.Identity `json:"replaced"` // the compromised signers that the new one replaces
	Skew        time.Duration     `json:"skew_ns"`
	Vouchers    []trust.Voucher   `json:"vouchers"`
	Sources     []trust.Source    `json:"sources,omitempty"` // declared complete
	Rogue       map[string]string `json:"rogue"`
	Homes       []string          `json:"homes"`
	AcceptDark  []string          `json:"accept_dark"` // deployed digests whose hold is accepted by name
	Consumers   []Consumer        `json:"consumers"`
	Limits      Limits            `json:"limits"`
	Unread      int64             `json:"unread"` // what the last scans could not read, and the plan therefore does not know
	Quorum      int               `json:"quorum"`
	Approvers   string            `json:"approvers"` // digest of the approver set
	ExpiresAt   time.Time         `json:"expires_at"`
	Severity    string            `json:"severity"`              // of the incident
	Rate        float64           `json:"rate"`                  // statements taken to be re-signed a second
	Supplements string            `json:"supplements,omitempty"` // digest of the plan of which this lists only what is new or changed
	Verifier    string            `json:"verifier,omitempty"`    // URI of who says in summaries that something was verified; default: of the new signer

	Formats []inventory.Format `json:"formats,omitempty"` // to sign in, see trust.Policy; empty: those each statement is consumed in
}

// Policy returns what decisions are made by under the plan.
func (p Plan) Policy(ctx context.Context, s *store.Store) (trust.Policy, error) {
	return p.policy(ctx, s, p.Incidents, p.Rogue)
}

// Current returns the policy under the incidents as they are now, so that what
// was learnt since counts against trust.
func (p Plan) Current(ctx context.Context, s *store.Store) (trust.Policy, error) {
	set, incidents, err := people(ctx, s)
	if err != nil {
		return trust.Policy{}, err
	}
	if err := p.checkNewSigner(set, incidents); err != nil {
		return trust.Policy{}, err
	}
	return p.policy(ctx, s, Rules(incidents), p.rogueNow(incidents))
}

// policy returns what decisions are made by under some incidents and marks. What
// it looks up in the store while it decides and cannot read proves nothing and
// accuses nobody.
func (p Plan) policy(ctx context.Context, s *store.Store, incidents []trust.Incident, rogue map[string]string) (trust.Policy, error) {
	if p.Skew < 0 { // it would prove what was made inside a window to be older
		return trust.Policy{}, fmt.Errorf("clocks cannot differ by %s, less than nothing", p.Skew)
	}
	incidents = trust.Compiled(incidents)
	lists, err := loadLists(ctx, s, p.Vouchers)
	if err != nil {
		return trust.Policy{}, err
	}
	voided, err := void(ctx, s, p.Vouchers, rogue, lists)
	if err != nil {
		return trust.Policy{}, err
	}
	trusted, primary := Enrolled, p.Incident
	if p.rotation() {
		trusted, primary = inUse, ""
	}
	known, err := trusted(ctx, s)
	if err != nil {
		return trust.Policy{}, err
	}
	return trust.Policy{
		Incidents: incidents, Skew: p.Skew, Primary: primary, Rotates: p.Rotates, Successor: p.NewSigner, Keep: p.Keep, Formats: p.Formats,
		Vouchers: p.Vouchers, Rogue: rogue, Homes: p.Homes,
		Trusted:     known,
		Unexplained: unexplained(ctx, s, p.Sources, incidents),
		Payload:     payloadOf(ctx, s),
		Unfit:       unfit(ctx, s),
		Listed:      func(v trust.Voucher, digest string) bool { return lists[v.List].holds(digest) },
		Runs:        runs(ctx, s),
		Void:        func(v trust.Voucher) string { return voided[v.ID()] },
	}, nil
}

// Enrolled returns what reports whether verifiers are, or were, meant to accept
// a signer.
func Enrolled(ctx context.Context, s *store.Store) (func(signer.Identity) bool, error) {
	return those(ctx, s, signer.Record.Enrolled)
}

// those returns what reports of which signers something is true.
func those(ctx context.Context, s *store.Store, is func(signer.Record) bool) (func(signer.Identity) bool, error) {
	records, err := s.Records(ctx)
	if err != nil {
		return nil, err
	}
	known := map[signer.Identity]bool{}
	for _, r := range records {
		if is(r) {
			known[r.Identity] = true
		}
	}
	return func(id signer.Identity) bool { return known[id] }, nil
}

// MakePlan makes the plan, keeps it, and returns its digest. p needs its
// parameters filled in; what the inventory knows is added here.
func MakePlan(ctx context.Context, s *store.Store, by journal.Author, p Plan) (Plan, string, Totals, error) {
	p.Schema = PlanSchema
	if err := p.complete(ctx, s); err != nil {
		return p, "", Totals{}, err
	}
	header, err := canonical(p)
	if err != nil {
		return p, "", Totals{}, err
	}
	policy, err := p.Policy(ctx, s)
	if err != nil {
		return p, "", Totals{}, err
	}
	work := newAssessment(s, policy)
	work.also = newForecast(p, policy)
	if work.skip, err = p.supplemented(ctx, s); err != nil {
		return p, "", Totals{}, err
	}
	provisional := "making:" + rand.Text()
	sum := newPlanDigest(header)
	var totals Totals
	var digest string
	err = s.Update(ctx, by, func(tx *store.Tx) error {
		if err := work.run(ctx, func(i Item) error {
			line, err := canonical(i)
			if err != nil {
				return err
			}
			sum.line(line)
			return tx.AddPlanItem(ctx, provisional, i.Seq, line)
		}); err != nil {
			return err
		}
		work.also.end(&work.totals)
		if p.rotation() {
			work.totals.Orders = nil // there is no attacker to be weighed against an outage
		}
		totals = work.totals
		tail, err := canonical(totals)
		if err != nil {
			return err
		}
		sum.line(tail)
		digest = sum.digest()
		if err := tx.NamePlan(ctx, provisional, digest); err != nil {
			return err
		}
		body, err := canonical(planDocument{Header: header, Totals: tail})
		if err != nil {
			return err
		}
		return tx.PutDocument(ctx, store.KindPlan, digest, "plan.made", body)
	})
	return p, digest, totals, err
}

// planLife is how long a plan may be approved and carried out where it does not
// say itself.
const planLife = 7 * 24 * time.Hour

// complete adds what the inventory knows and refuses a plan that rests on what
// is itself under an incident.
func (p *Plan) complete(ctx context.Context, s *store.Store) error {
	incidents, err := Incidents(ctx, s)
	if err != nil {
		return err
	}
	p.Incidents, p.Rogue, p.Quorum = Rules(incidents), Rogue(incidents), 0
	p.Vouchers = slices.Clone(p.Vouchers)
	for n, f := range p.Formats {
		if f != inventory.Legacy && f != inventory.Bundle || slices.Contains(p.Formats[:n], f) {
			return fmt.Errorf("formats %v: use %s, %s, or each of them once", p.Formats, inventory.Legacy, inventory.Bundle)
		}
	}
	if l := p.Limits; l.MaxArtifacts < 0 || !(l.MaxShare >= 0 && l.MaxShare <= 1) { // NaN is no share either
		return fmt.Errorf("limits of %d statements and a share of %g would stop nothing: give a number of statements, and a share between 0 and 1", l.MaxArtifacts, l.MaxShare)
	}
	if p.Rate == 0 {
		p.Rate = defaultRate
	}
	if p.Rate < 0 || math.IsNaN(p.Rate) || math.IsInf(p.Rate, 0) {
		return fmt.Errorf("a rate of %g statements a second is none", p.Rate)
	}
	approvers, err := LoadApprovers(ctx, s)
	if err != nil {
		return err
	}
	_, err = s.Document(ctx, store.KindRotation, p.Incident)
	switch {
	case err == nil:
		err = p.rotate(ctx, s, incidents, approvers)
	case errors.Is(err, inventory.ErrNotFound):
		err = p.answer(ctx, s, incidents, approvers)
	}
	if err != nil {
		return err
	}
	if err := p.checkVerifier(); err != nil {
		return err
	}
	if p.Sources, err = Sources(ctx, s); err != nil {
		return err
	}
	for _, d := range p.AcceptDark {
		if err := inventory.CheckDigest(d); err != nil {
			return fmt.Errorf("accepted dark: %w", err)
		}
	}
	problems, err := s.Problems(ctx)
	if err != nil {
		return err
	}
	p.Unread = int64(len(problems))
	p.Approvers = approvers.Digest()
	for _, severity := range append(p.severities(incidents), p.Severity) {
		p.Quorum = max(p.Quorum, approvers.Needed(severity))
	}
	if p.ExpiresAt.IsZero() {
		p.ExpiresAt = p.MadeAt.Add(planLife)
	}
	return nil
}

// answer completes a plan about an incident.
func (p *Plan) answer(ctx context.Context, s *store.Store, incidents []Incident, approvers Approvers) error {
	at := slices.IndexFunc(incidents, func(i Incident) bool { return i.ID == p.Incident })
	switch {
	case at < 0:
		return fmt.Errorf("incident %q: %w: \"reseal incident list\" lists those that are known", p.Incident, inventory.ErrNotFound)
	case !incidents[at].counts():
		return errWithdrawn(p.Incident)
	}
	primary := incidents[at]
	p.Rotates, p.Severity = nil, primary.Severity
	if p.Order == "" {
		p.Order = ContinuityFirst
	}
	if p.Order != ContainFirst && p.Order != ContinuityFirst {
		return fmt.Errorf("order %q: use %s or %s", p.Order, ContainFirst, ContinuityFirst)
	}
	if err := p.replace(ctx, s, primary.Incident, incidents, approvers); err != nil {
		return err
	}
	if err := p.checkVouchers(ctx, s, approvers); err != nil {
		return err
	}
	return p.vouch(ctx, s, primary.Incident, approvers)
}

// replace says which signers the plan replaces, and refuses a new signer that
// could not.
func (p *Plan) replace(ctx context.Context, s *store.Store, primary trust.Incident, incidents []Incident, approvers Approvers) error {
	p.Replaced = []signer.Identity{}
	if p.Keep {
		if p.NewSigner != (signer.Identity{}) {
			return errors.New("a plan that keeps its signer names no new one: choose one of both")
		}
		return p.checkKept(primary, p.MadeAt)
	}
	if _, err := p.newSigner(ctx, s, incidents, approvers); err != nil {
		return err
	}
	var err error
	p.Replaced, err = replaced(ctx, s, primary)
	return err
}

// newSigner returns the new signer, and refuses one that nobody is meant to
// accept.
func (p Plan) newSigner(ctx context.Context, s *store.Store, incidents []Incident, approvers Approvers) (signer.Record, error) {
	next, err := s.Signer(ctx, p.NewSigner.ID())
	if err != nil && !errors.Is(err, inventory.ErrNotFound) {
		return next, err
	}
	if err := p.checkNewSigner(approvers, incidents); err != nil {
		return next, err
	}
	if !next.Enrolled() || !next.State.Trusted() {
		return next, fmt.Errorf("the new signer %s is not enrolled as trusted: \"reseal signer add NAME --key PUB --state standby\" enrols it", p.NewSigner)
	}
	return next, nil
}

// checkKept refuses to keep a signer that the attacker can still use at the time
// now, as far as the incident, as it is by now, tells.
func (p Plan) checkKept(primary trust.Incident, now time.Time) error {
	switch {
	case !p.Keep:
		return nil
	case !primary.Class.Ends() || primary.Until == nil:
		return fmt.Errorf("the signer of %s cannot be kept: nobody knows that the attacker can no longer sign. That takes a class that ends and the end of the window", primary.ID)
	case primary.Until.After(now):
		return fmt.Errorf("the signer of %s cannot be kept: its window ends at %s, and until then the attacker can sign. Wait for that, or name a new signer", primary.ID, primary.Until.UTC().Format(time.RFC3339))
	}
	return nil
}

// replaced returns the signers that an incident is about and that a plan takes
// out of the anchors: those it names, and those known that it selects. An
// incident about an authority takes none.
func replaced(ctx context.Context, s *store.Store, i trust.Incident) ([]signer.Identity, error) {
	out := append([]signer.Identity{}, i.Signers...)
	if len(i.Selectors) == 0 {
		return out, nil
	}
	matching, err := Matching(ctx, s, i)
	for _, r := range matching {
		if !slices.Contains(out, r.Identity) {
			out = append(out, r.Identity)
		}
	}
	return out, err
}

// checkNewSigner refuses a new signer that an incident is about, also one
// declared since the plan was approved, and one that an approver signs as.
func (p Plan) checkNewSigner(approvers Approvers, incidents []Incident) error {
	if i := names(Rules(incidents), p.NewSigner); i != "" {
		return fmt.Errorf("the new signer %s is itself under incident %s: choose another in a new plan", p.NewSigner, i)
	}
	if err := approvers.CheckApart(p.NewSigner); err != nil {
		return fmt.Errorf("the new signer is an approver's own: %w", err)
	}
	return nil
}

// rogueNow is what the plan marks rogue and what is marked by now. A mark of an
// incident that was withdrawn since counts no more.
func (p Plan) rogueNow(incidents []Incident) map[string]string {
	rogue := maps.Clone(p.Rogue)
	if rogue == nil {
		rogue = map[string]string{}
	}
	for _, i := range incidents {
		for d := range i.Rogue {
			if !i.counts() && strings.HasPrefix(rogue[d], i.ID+": ") {
				delete(rogue, d)
			}
		}
	}
	maps.Copy(rogue, Rogue(incidents))
	return rogue
}

// planDocument is how a plan's header and totals are kept: the exact bytes
// that were hashed.
type planDocument struct {
	Header json.RawMessage `json:"header"`
	Totals json.RawMessage `json:"totals"`
}

// planDigest hashes a plan line by line: the header, every item, the totals,
// each followed by a newline. "reseal incident plan --export" writes just these
// lines, so that sha256sum over the file gives the digest.
type planDigest struct{ h hash.Hash }

func newPlanDigest(header []byte) planDigest {
	d := planDigest{sha256.New()}
	d.line(header)
	return d
}

func (d planDigest) line(b []byte) {
	d.h.Write(b)
	d.h.Write([]byte{'\n'})
}

func (d planDigest) digest() string { return "sha256:" + hex.EncodeToString(d.h.Sum(nil)) }

// FindPlan returns the digest of the one plan that the given text names: a
// digest or an unambiguous start of one, with or without "sha256:".
func FindPlan(ctx context.Context, s *store.Store, text string) (string, error) {
	return find(ctx, s, store.KindPlan, text)
}

// LoadPlan returns a plan and its totals, after checking that header, items
// and totals still hash to the digest: a plan that was edited is refused.
func LoadPlan(ctx context.Context, s *store.Store, digest string) (Plan, Totals, error) {
	var (
		p   Plan
		t   Totals
		doc planDocument
	)
	if err := load(ctx, s, store.KindPlan, digest, &doc); err != nil {
		return p, t, err
	}
	sum := newPlanDigest(doc.Header)
	err := eachLine(ctx, s, digest, 0, math.MaxInt64, func(line []byte) (bool, error) {
		sum.line(line)
		return true, nil
	})
	if err != nil {
		return p, t, err
	}
	sum.line(doc.Totals)
	if got := sum.digest(); got != digest {
		return p, t, fmt.Errorf("plan %s was changed after it was made (it now hashes to %s): make a new plan and have it approved", digest, got)
	}
	if err := json.Unmarshal(doc.Header, &p); err != nil {
		return p, t, fmt.Errorf("plan %s: %w", digest, err)
	}
	if err := json.Unmarshal(doc.Totals, &t); err != nil {
		return p, t, fmt.Errorf("plan %s: %w", digest, err)
	}
	return p, t, nil
}

// loadHeader returns a plan without checking that it is whole.
func loadHeader(ctx context.Context, s *store.Store, digest string) (p Plan, err error) {
	var doc planDocument
	if err := load(ctx, s, store.KindPlan, digest, &doc); err != nil {
		return p, err
	}
	if err := json.Unmarshal(doc.Header, &p); err != nil {
		return p, fmt.Errorf("plan %s: %w", digest, err)
	}
	return p, nil
}

// NewSigner returns who re-signs by a plan, without checking that the plan is
// whole.
func NewSigner(ctx context.Context, s *store.Store, digest string) (signer.Identity, error) {
	p, err := loadHeader(ctx, s, digest)
	return p.NewSigner, err
}

// Lines yields the lines that a plan's digest is made of, each to be followed by
// a newline: its header, every item, its totals.
func Lines(ctx context.Context, s *store.Store, digest string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var doc planDocument
		if err := load(ctx, s, store.KindPlan, digest, &doc); err != nil {
			yield(nil, err)
			return
		}
		more := yield(doc.Header, nil)
		if !more {
			return
		}
		err := eachLine(ctx, s, digest, 0, math.MaxInt64, func(line []byte) (bool, error) {
			more = yield(line, nil)
			return more, nil
		})
		switch {
		case err != nil:
			yield(nil, err)
		case more:
			yield(doc.Totals, nil)
		}
	}
}

// Items calls visit with every item of a plan, in order, or with those of one
// decision.
func Items(ctx context.Context, s *store.Store, digest string, d trust.Decision, visit func(Item) error) error {
	return eachItem(ctx, s, digest, d, 0, func(i Item) (bool, error) { return true, visit(i) })
}

// ItemPage returns the next items of one decision after seq.
func ItemPage(ctx context.Context, s *store.Store, digest string, d trust.Decision, after int64, limit int) ([]Item, error) {
	var items []Item
	err := eachItem(ctx, s, digest, d, after, func(i Item) (bool, error) {
		items = append(items, i)
		return len(items) < limit, nil
	})
	return items, err
}

// ItemRange returns the items of one decision among the lines from first to
// last, both included.
func ItemRange(ctx context.Context, s *store.Store, digest string, d trust.Decision, first, last int64) ([]Item, error) {
	var items []Item
	err := eachLine(ctx, s, digest, first-1, last, func(line []byte) (bool, error) {
		var i Item
		if err := json.Unmarshal(line, &i); err != nil {
			return false, fmt.Errorf("plan %s: %w", digest, err)
		}
		if i.Decision == d {
			items = append(items, i)
		}
		return true, nil
	})
	return items, err
}

func eachItem(ctx context.Context, s *store.Store, digest string, d trust.Decision, after int64, visit func(Item) (bool, error)) error {
	return eachLine(ctx, s, digest, after, math.MaxInt64, func(line []byte) (bool, error) {
		var i Item
		if err := json.Unmarshal(line, &i); err != nil {
			return false, fmt.Errorf("plan %s: %w", digest, err)
		}
		if d != "" && i.Decision != d {
			return true, nil
		}
		return visit(i)
	})
}

// eachLine calls visit with the lines of a plan after one and up to the last, until
// it returns false. A line that stands elsewhere than it says is refused: the digest covers
// what lines say, not where they are kept.
func eachLine(ctx context.Context, s *store.Store, digest string, after, last int64, visit func([]byte) (bool, error)) error {
	for after < last {
		lines, err := s.PlanItems(ctx, digest, after, int(min(page, last-after))) // of a shard, and not more
		if err != nil || len(lines) == 0 {
			return err
		}
		for _, l := range lines {
			var at struct {
				Seq int64 `json:"seq"`
			}
			if err := json.Unmarshal(l.Body, &at); err != nil || at.Seq != l.Seq || l.Seq != after+1 {
				return fmt.Errorf("plan %s was changed after it was made (at line %d): make a new plan and have it approved", digest, after+1)
			}
			after = l.Seq
			if more, err := visit(l.Body); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// CheckLimits refuses a plan that re-signs more than its ceilings allow. It
// returns an error that wraps ErrOverLimit.
func CheckLimits(ctx context.Context, s *store.Store, p Plan, t Totals) error {
	n := t.Decisions[trust.Resign]
	if p.Limits.MaxArtifacts > 0 && n > p.Limits.MaxArtifacts {
		return fmt.Errorf("%w: the plan re-signs %d statements, its limit is %d: make a smaller plan or a new one with a higher limit", ErrOverLimit, n, p.Limits.MaxArtifacts)
	}
	if p.Limits.MaxShare <= 0 {
		return nil
	}
	c, err := s.Counts(ctx)
	if err != nil {
		return err
	}
	if share := float64(n) / float64(max(c.Artifacts, 1)); share > p.Limits.MaxShare {
		return fmt.Errorf("%w: the plan re-signs %.0f%% of the inventory, its limit is %.0f%%: make a smaller plan or a new one with a higher limit",
			ErrOverLimit, share*100, p.Limits.MaxShare*100)
	}
	return nil
}
