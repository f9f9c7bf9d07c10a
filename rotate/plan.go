package rotate

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// page is how many artifacts are held in memory at once.
const page = 500

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
	Reads  inventory.Format `json:"reads" yaml:"reads"`   // legacy or bundle
	Anchor string           `json:"anchor" yaml:"anchor"` // file with the one public key it accepts, as cosign's --key reads it
}

// Plan is the complete, immutable list of what is done about an incident. Its
// digest covers this header, every Item and the Totals, and is what people
// approve.
type Plan struct {
	Schema     string            `json:"schema"`
	Incident   string            `json:"incident"`
	Incidents  []trust.Incident  `json:"incidents"` // every incident known when it was made
	Proposer   string            `json:"proposer"`
	MadeAt     time.Time         `json:"made_at"`
	NewSigner  signer.Identity   `json:"new_signer"`
	Replaced   []signer.Identity `json:"replaced"` // the compromised signers that the new one replaces
	Skew       time.Duration     `json:"skew_ns"`
	Vouchers   []trust.Voucher   `json:"vouchers"`
	Rogue      map[string]string `json:"rogue"`
	Homes      []string          `json:"homes"`
	AcceptDark []string          `json:"accept_dark"` // deployed digests whose hold is accepted by name
	Consumers  []Consumer        `json:"consumers"`
	Limits     Limits            `json:"limits"`
	Unread     int64             `json:"unread"` // what the last scans could not read, and the plan therefore does not know
	Quorum     int               `json:"quorum"`
	Approvers  string            `json:"approvers"` // digest of the approver set
}

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
	Formats    []inventory.Format `json:"formats,omitempty"` // to re-sign in
	Signatures []ItemSignature    `json:"signatures"`
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
}

// PredicateType returns the type of what the item states.
func (i Item) PredicateType() string {
	return inventory.Statement{Key: i.Statement}.PredicateType()
}

// Totals counts what an assessment found.
type Totals struct {
	Artifacts  int64                    `json:"artifacts"`
	Signatures int64                    `json:"signatures"`
	Deployed   int64                    `json:"deployed"`
	Verdicts   map[trust.Verdict]int64  `json:"verdicts"`
	Decisions  map[trust.Decision]int64 `json:"decisions"` // of statements
}

// Policy returns what decisions are made by under the plan.
func (p Plan) Policy(ctx context.Context, s *store.Store) trust.Policy {
	return trust.Policy{
		Incidents: p.Incidents, Skew: p.Skew, Replaced: p.Replaced, Successor: p.NewSigner,
		Vouchers: p.Vouchers, Rogue: p.Rogue, Homes: p.Homes,
		Payload: func(g inventory.Signature) ([]byte, error) {
			content, err := s.Vault(ctx, g.Content)
			if err != nil {
				return nil, err
			}
			return verify.Payload(g.Format, content)
		},
	}
}

// selection is every artifact a plan could be about.
func selection(p trust.Policy) store.Selection {
	var sel store.Selection
	for _, id := range p.Replaced {
		sel.Signers = append(sel.Signers, id.ID())
	}
	for d := range p.Rogue {
		sel.Digests = append(sel.Digests, d)
	}
	slices.Sort(sel.Digests)
	return sel
}

// Assess decides every statement of the signers that the policy replaces, and
// about every artifact it marks rogue, in plan order, and calls visit with each. Memory does not grow with the inventory.
func Assess(ctx context.Context, s *store.Store, p trust.Policy, visit func(Item) error) (Totals, error) {
	t := Totals{Verdicts: map[trust.Verdict]int64{}, Decisions: map[trust.Decision]int64{}}
	sel := selection(p)
	var at store.Place
	var seq int64
	for {
		arts, next, err := s.Artifacts(ctx, sel, at, page)
		if err != nil {
			return t, err
		}
		if len(arts) == 0 {
			return t, nil
		}
		at = next
		for _, a := range arts {
			sigs, err := s.SignaturesOf(ctx, a, "")
			if err != nil {
				return t, err
			}
			items := decideArtifact(a, sigs, p)
			if len(items) == 0 {
				continue
			}
			t.Artifacts++
			if a.Deployed {
				t.Deployed++
			}
			for _, item := range items {
				seq++
				item.Seq = seq
				t.Decisions[item.Decision]++
				for _, g := range item.Signatures {
					t.Signatures++
					t.Verdicts[g.Verdict]++
				}
				if err := visit(item); err != nil {
					return t, err
				}
			}
		}
	}
}

func decideArtifact(a inventory.Artifact, sigs []inventory.Signature, p trust.Policy) []Item {
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
	image := outcomes[inventory.SignPredicate] // none decided: no claim may speak for it
	var items []Item
	for key, out := range outcomes {
		if key != inventory.SignPredicate {
			out = trust.WithClaims(&image, out)
		}
		item := Item{Repository: a.Repository, Digest: a.Digest, MediaType: a.MediaType, Size: a.Size, Deployed: a.Deployed,
			Tags: a.Tags, Statement: key, Decision: out.Decision, Reason: out.Reason, Formats: out.Formats}
		for _, g := range out.Signatures {
			item.Signatures = append(item.Signatures, ItemSignature{ID: g.ID, Signer: g.Signer.ID(), Format: g.Format,
				Content: g.Content, Verdict: g.Verdict, Why: g.Reason})
		}
		items = append(items, item)
	}
	// Within an artifact the image signature comes first: a bundle of any kind
	// makes cosign look past the ".sig" tag.
	slices.SortFunc(items, func(x, y Item) int {
		first := func(i Item) int {
			if i.PredicateType() == inventory.SignPredicate {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(first(x), first(y)), strings.Compare(x.Statement, y.Statement))
	})
	return items
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
	provisional := "making:" + rand.Text()
	sum := newPlanDigest(header)
	var totals Totals
	var digest string
	err = s.Update(ctx, by, func(tx *store.Tx) error {
		totals, err = Assess(ctx, s, p.Policy(ctx, s), func(i Item) error {
			line, err := canonical(i)
			if err != nil {
				return err
			}
			sum.line(line)
			return tx.AddPlanItem(ctx, provisional, i.Seq, line)
		})
		if err != nil {
			return err
		}
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

// complete adds what the inventory knows and refuses a plan that rests on what
// is itself under an incident.
func (p *Plan) complete(ctx context.Context, s *store.Store) error {
	incidents, err := Incidents(ctx, s)
	if err != nil {
		return err
	}
	p.Rogue = map[string]string{}
	for _, i := range incidents {
		p.Incidents = append(p.Incidents, i.Incident)
		if i.ID == p.Incident {
			p.Replaced = i.Signers
		}
		for d, why := range i.Rogue {
			p.Rogue[d] = i.ID + ": " + why
		}
	}
	tainted := func(id signer.Identity) bool {
		return slices.ContainsFunc(p.Incidents, func(i trust.Incident) bool { return slices.Contains(i.Signers, id) })
	}
	next, err := s.Signer(ctx, p.NewSigner.ID())
	if err != nil && !errors.Is(err, inventory.ErrNotFound) {
		return err
	}
	if err := p.checkNewSigner(incidents); err != nil {
		return err
	}
	if !next.Enrolled() || !next.State.Trusted() {
		return fmt.Errorf("the new signer %s is not enrolled as trusted: \"reseal signer add NAME --key PUB --state standby\" enrols it", p.NewSigner)
	}
	for _, v := range p.Vouchers {
		if err := v.Check(); err != nil {
			return err
		}
		if tainted(v.Signer) {
			return fmt.Errorf("voucher %s is itself under an incident: it proves nothing", v.Signer)
		}
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
	approvers, err := LoadApprovers(ctx, s)
	if err != nil {
		return err
	}
	p.Approvers, p.Quorum = approvers.Digest(), approvers.Quorum
	return nil
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
	prefix := "sha256:" + trimAlgorithm(text)
	if len(prefix) < len("sha256:")+6 {
		return "", fmt.Errorf("plan %q: give its digest, or at least the first 6 digits of it", text)
	}
	docs, err := s.DocumentIDs(ctx, store.KindPlan, prefix)
	switch {
	case err != nil:
		return "", err
	case len(docs) == 0:
		return "", fmt.Errorf("plan %s: %w: \"reseal incident show\" lists the plans of an incident", text, inventory.ErrNotFound)
	case len(docs) > 1:
		return "", fmt.Errorf("plan %s: %d plans start so: give more digits", text, len(docs))
	}
	return docs[0], nil
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
	err := eachLine(ctx, s, digest, 0, func(line []byte) (bool, error) {
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

func eachItem(ctx context.Context, s *store.Store, digest string, d trust.Decision, after int64, visit func(Item) (bool, error)) error {
	return eachLine(ctx, s, digest, after, func(line []byte) (bool, error) {
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

// eachLine calls visit with the lines of a plan after seq until it returns
// false. A line that stands elsewhere than it says is refused: the digest covers
// what lines say, not where they are kept.
func eachLine(ctx context.Context, s *store.Store, digest string, after int64, visit func([]byte) (bool, error)) error {
	for {
		lines, err := s.PlanItems(ctx, digest, after, page)
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
}

// Still reports whether the inventory, as it is now, leads to the same
// decision about an item as when the plan was made. why says what changed.
func Still(ctx context.Context, s *store.Store, digest string, policy trust.Policy, i Item) (why string, ok bool, err error) {
	a := inventory.Artifact{Repository: i.Repository, Digest: i.Digest}
	sigs, err := s.SignaturesOf(ctx, a, digest)
	if err != nil {
		return "", false, err
	}
	for _, now := range decideArtifact(a, sigs, policy) {
		if now.Statement != i.Statement {
			continue
		}
		if now.Decision != i.Decision {
			return fmt.Sprintf("the plan says %s, the inventory now says %s (%s)", i.Decision, now.Decision, now.Reason), false, nil
		}
		return "", true, nil
	}
	return "the statement is no longer in the inventory", false, nil
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
