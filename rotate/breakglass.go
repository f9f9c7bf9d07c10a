package rotate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
)

// minReason is how long a reason must be to say anything, in characters.
const minReason = 10

// BreakGlass is one person's signed word that a plan is carried out without its
// quorum, and why. It replaces the quorum and nothing else.
type BreakGlass struct {
	Schema    string    `json:"schema"`
	Plan      string    `json:"plan"`
	By        string    `json:"by"` // enrolled name
	Reason    string    `json:"reason"`
	Signature string    `json:"signature"` // over BreakGlassRequest, in a form as Approval's
	At        time.Time `json:"at"`
}

// BreakGlassRequest returns the exact bytes a person signs to carry out a plan
// without its quorum. expires is the plan's own.
func BreakGlassRequest(plan, incident, by, reason string, expires time.Time) ([]byte, error) {
	return canonical(struct {
		Schema   string    `json:"schema"`
		Plan     string    `json:"plan"`
		Incident string    `json:"incident"`
		By       string    `json:"by"`
		Reason   string    `json:"reason"`
		Expires  time.Time `json:"expires_at"`
	}{BreakGlassSchema, plan, incident, by, reason, expires.UTC()})
}

// Break keeps a person's word that a plan is carried out without its quorum.
// Whoever is enrolled may give it, the proposer too. g.At is the time now.
func Break(ctx context.Context, s *store.Store, judge Judge, by journal.Author, g BreakGlass) error {
	g.Schema = BreakGlassSchema
	b, err := loadBallot(ctx, s, PlanKind, g.Plan)
	if err != nil {
		return err
	}
	set, incidents, err := people(ctx, s)
	if err != nil {
		return err
	}
	if err := b.checkStanding(set, g.At); err != nil {
		return err
	}
	if err := b.checkGlass(judge, g, set, counting(incidents)); err != nil {
		return err
	}
	body, err := canonical(g)
	if err != nil {
		return err
	}
	return s.Update(ctx, by, func(tx *store.Tx) error {
		return tx.PutDocument(ctx, store.KindBreakGlass, g.Plan+" "+g.By, "plan.break-glass", body)
	})
}

func (b ballot) checkGlass(judge Judge, g BreakGlass, set Approvers, incidents []trust.Incident) error {
	if g.Plan != b.digest {
		return fmt.Errorf("break-glass by %s is about plan %s, not about %s", g.By, g.Plan, b)
	}
	if utf8.RuneCountInString(strings.TrimSpace(g.Reason)) < minReason {
		return fmt.Errorf("break-glass by %s: a reason of at least %d characters is needed: it stays in every report", g.By, minReason)
	}
	p, err := set.person(g.By)
	if err != nil {
		return fmt.Errorf("break-glass: %w", err)
	}
	request, err := BreakGlassRequest(g.Plan, b.subject, g.By, g.Reason, b.expires)
	if err != nil {
		return err
	}
	if _, err := p.checkSigned(judge, g.Signature, request, incidents); err != nil {
		return fmt.Errorf("break-glass by %s does not verify over %s with the reason given: %w", g.By, b, err)
	}
	return nil
}

// glass returns how the glass was broken for a plan, or nil, and whether that
// still counts. One that no longer counts is returned all the same, because it
// happened; refused says why each such does not count.
func (b ballot) glass(ctx context.Context, s *store.Store, judge Judge, set Approvers, incidents []trust.Incident) (g *BreakGlass, counts bool, refused, err error) {
	all, err := BreakGlasses(ctx, s, b.digest)
	if err != nil {
		return nil, false, nil, err
	}
	for n := range all {
		if err := b.checkGlass(judge, all[n], set, incidents); err != nil {
			refused = errors.Join(refused, err)
			continue
		}
		return &all[n], true, refused, nil
	}
	if len(all) > 0 {
		g = &all[0]
	}
	return g, false, refused, nil
}

// BreakGlasses returns every break-glass of a plan as it was recorded, whether
// it still counts or not, by name; with an empty digest those of every plan.
func BreakGlasses(ctx context.Context, s *store.Store, plan string) ([]BreakGlass, error) {
	prefix := plan
	if plan != "" {
		prefix += " "
	}
	return loadAll[BreakGlass](ctx, s, store.KindBreakGlass, prefix)
}
