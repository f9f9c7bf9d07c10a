package rotate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// ErrNoParity says that a proof of parity has exceptions.
var ErrNoParity = errors.New("no parity")

// Parity is the proof that a rotation lost nothing and added nothing: what the
// old signer says of an artifact the new one says, in the format asked about,
// with the same payload, and nothing more. A summary stands for the provenance
// that it names.
type Parity struct {
	Rotation   string            `json:"rotation"`
	Plan       string            `json:"plan"`
	From       string            `json:"from"` // signer ID
	To         string            `json:"to"`
	Registry   bool              `json:"registry"` // as the registry is now; otherwise as the last scan found it
	Holds      bool              `json:"holds"`    // there is no exception
	Artifacts  int64             `json:"artifacts"`
	Statements int64             `json:"statements"` // that are to be there, counted once for each format
	Equal      int64             `json:"equal"`
	Summarised int64             `json:"summarised"`
	Exceptions []ParityException `json:"exceptions"`
}

// ParityException is a statement that is not on both sides.
type ParityException struct {
	Artifact  string           `json:"artifact"`
	Statement string           `json:"statement,omitempty"`
	Format    inventory.Format `json:"format,omitempty"`
	What      string           `json:"what"` // missing, added or unknown
	Why       string           `json:"why"`
}

// What an exception is.
const (
	ParityMissing = "missing" // said before, and not in the format asked about
	ParityAdded   = "added"   // not said before
	ParityUnknown = "unknown" // it could not be read
)

// Sight is what is seen on one artifact.
type Sight struct {
	Signatures []inventory.Signature
	Payload    func(inventory.Signature) ([]byte, error)
}

// Look returns what is on an artifact now, as far as it can be read, and an error
// where anything could not be.
type Look func(ctx context.Context, a inventory.Artifact) (Sight, error)

// Stored returns what the inventory knows to be on an artifact.
func Stored(ctx context.Context, s *store.Store, a inventory.Artifact) (Sight, error) {
	sigs, err := s.SignaturesOf(ctx, a, "")
	return Sight{sigs, payloadOf(ctx, s)}, err
}

// CheckParity holds what the new signer of a rotation's plan says of every
// artifact that the old one signed against what that one says. look is nil where
// the inventory is to be believed, as it is after a scan.
func CheckParity(ctx context.Context, s *store.Store, rotation, plan string, look Look) (Parity, error) {
	c := Parity{Rotation: rotation, Plan: plan, Registry: look != nil, Exceptions: []ParityException{}}
	if plan == "" {
		return c, fmt.Errorf("rotation %s has no plan: \"reseal rotation plan\" makes one", rotation)
	}
	p, _, err := LoadPlan(ctx, s, plan)
	if err != nil {
		return c, err
	}
	if !p.rotation() || p.Incident != rotation {
		return c, fmt.Errorf("plan %s is about %s, not about the rotation %s", plan, p.Incident, rotation)
	}
	c.From, c.To = p.Rotates[0].ID(), p.NewSigner.ID()
	policy, err := p.Current(ctx, s)
	if err != nil {
		return c, err
	}
	if look == nil {
		look = func(ctx context.Context, a inventory.Artifact) (Sight, error) { return Stored(ctx, s, a) }
	}
	err = eachArtifact(ctx, s, policy, func(arts []inventory.Artifact) error {
		for _, a := range arts {
			sight, err := look(ctx, a)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				c.Exceptions = append(c.Exceptions, ParityException{Artifact: a.Ref(), What: ParityUnknown, Why: err.Error()})
				continue
			}
			items, err := decideOne(ctx, s, a, sight.Signatures, policy)
			if err != nil {
				return err
			}
			c.compare(p, a, sight, items)
		}
		return nil
	})
	c.Holds = err == nil && len(c.Exceptions) == 0
	return c, err
}

// style is the format of a statement whatever it states, and about whatever:
// Legacy stands for ".sig" and ".att" and for the blob signature of a file, Bundle
// for a file's detached bundle, too.
func style(g inventory.Signature) inventory.Format {
	switch {
	case g.Format == inventory.LegacyAtt, g.Format == inventory.Blob:
		return inventory.Legacy
	case g.Format == inventory.Detached && g.Repository == inventory.Files:
		return inventory.Bundle
	}
	return g.Format
}

// compare compares both sides on one artifact.
func (c *Parity) compare(p Plan, a inventory.Artifact, sight Sight, items []Item) {
	by := func(id signer.Identity, of func(inventory.Signature) bool) []inventory.Signature {
		return slices.DeleteFunc(slices.Clone(sight.Signatures), func(g inventory.Signature) bool { return !g.Verified || g.Signer != id || !of(g) })
	}
	here := func(g inventory.Signature, f inventory.Format) bool { return style(g) == f && g.Location == "" }
	targets := p.Formats
	if len(targets) == 0 {
		for _, g := range by(p.Rotates[0], func(inventory.Signature) bool { return true }) {
			if f := style(g); !slices.Contains(targets, f) {
				targets = append(targets, f)
			}
		}
		slices.Sort(targets)
	}
	seen := false
	for _, f := range targets {
		source := by(p.Rotates[0], func(g inventory.Signature) bool {
			switch {
			case p.Rotates[0] == p.NewSigner: // what it says in other formats
				return !here(g, f)
			case len(p.Formats) == 0: // what it is consumed as stays what it is consumed as
				return style(g) == f
			}
			return true
		})
		if len(source) == 0 {
			continue
		}
		seen = true
		c.compareIn(f, a, source, by(p.NewSigner, func(g inventory.Signature) bool { return here(g, f) }), sight, items)
	}
	if seen {
		c.Artifacts++
	}
}

// compareIn compares what is said in the source with what is said in one format.
func (c *Parity) compareIn(f inventory.Format, a inventory.Artifact, source, target []inventory.Signature, sight Sight, items []Item) {
	except := func(statement, what, why string) {
		c.Exceptions = append(c.Exceptions, ParityException{Artifact: a.Ref(), Statement: statement, Format: f, What: what, Why: why})
	}
	said := map[string]bool{}       // statements in the target
	summarised := map[string]bool{} // contents that a summary there names
	summaries := map[string]bool{}  // statements that are one of the source's contents
	for _, g := range target {
		key := g.StatementKey()
		said[key] = true
		if g.PredicateType != inventory.SummaryPredicate {
			continue
		}
		payload, err := sight.Payload(g)
		if err != nil {
			except(key, ParityUnknown, err.Error())
			continue
		}
		for _, digest := range inventory.Summarises(payload, a) {
			if slices.ContainsFunc(source, func(o inventory.Signature) bool { return o.Content == digest }) {
				summarised[digest], summaries[key] = true, true
			}
		}
	}
	told := map[string]bool{}
	for _, st := range inventory.Statements(a, source) {
		told[st.Key] = true
		c.Statements++
		switch {
		case said[st.Key]:
			c.Equal++
		case inventory.IsProvenance(st.PredicateType()) && slices.ContainsFunc(st.Signatures, func(g inventory.Signature) bool { return summarised[g.Content] }):
			c.Summarised++
		default:
			except(st.Key, ParityMissing, whyMissing(st.Key, items))
		}
	}
	for _, st := range inventory.Statements(a, target) {
		if !told[st.Key] && !summaries[st.Key] {
			except(st.Key, ParityAdded, "the old signer does not say it in what was to be taken over")
		}
	}
}

// whyMissing says what the plan would do with a statement that is missing.
func whyMissing(statement string, items []Item) string {
	at := slices.IndexFunc(items, func(i Item) bool { return i.Statement == statement })
	if at < 0 {
		return "no signature of it is there"
	}
	return strings.Join([]string{string(items[at].Decision), items[at].Reason}, ": ")
}
