package drill

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/internal/web"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/runbooks"
)

// maxNamed is how many images a finding names before it counts the others.
const maxNamed = 5

// respond walks the runbook with the prober beside it, and scores.
func (d *director) respond(ctx context.Context, o Options, s *scenario, responder Responder) (Report, error) {
	p, err := newProber(s)
	if err != nil {
		return Report{}, err
	}
	before, err := p.sweep(ctx)
	if err != nil {
		return Report{}, err
	}
	if err := s.stands(before); err != nil {
		return Report{}, err
	}
	r := Report{Schema: ReportSchema, Name: d.rb.Name, Title: d.rb.Title, Images: o.Images, Rogue: s.rogueThings(),
		Deployed: s.count(func(a *artifact) bool { return a.deployed }), StartedAt: before.at, FirstRogue: s.firstRogue, Dir: d.dirs.root}
	d.tell(p, sweep{})

	stop := p.watch(ctx)
	var items []rotate.Item
	var held []Held
	var probing error
	records, runErr := runbooks.Run(ctx, d.rb, func(ctx context.Context, st runbooks.Step) (runbooks.Result, error) {
		if probing != nil {
			return runbooks.Result{}, probing
		}
		out, err := responder.Do(ctx, st.Action)
		if len(out.Items) > 0 {
			items = out.Items
		}
		held = append(held, out.Held...)
		return runbooks.Result{Summary: out.Summary}, err
	}, func(e Event) {
		d.observe(e)
		if e.State != runbooks.Done && e.State != runbooks.Failed || probing != nil {
			return
		}
		// Here and not in the step, whose time is the product's alone.
		last := p.last
		var now sweep
		if now, probing = p.sweep(ctx); probing == nil {
			r.mark(now)
			d.tell(p, last)
		}
	})
	if runErr == nil && probing == nil {
		probing = d.strikeAgain(ctx, s)
	}
	if probing == nil && ctx.Err() == nil {
		last := p.last
		var now sweep
		if now, probing = p.sweep(ctx); probing == nil {
			r.mark(now)
			d.tell(p, last)
		}
	}
	if err := errors.Join(ctx.Err(), probing, stop()); err != nil {
		return Report{}, err
	}
	r.EndedAt = s.world.Clock().Now()
	for _, rec := range records {
		r.Steps = append(r.Steps, Step{Name: rec.Name, State: rec.State, Seconds: seconds(rec.Duration), Summary: rec.Summary})
	}
	r.Groups = s.groups(items)
	r.Holds = s.holds(items, held)
	r.score(p, items)
	if o.Keep {
		r.Addresses = s.world.Addresses()
	}
	return d.publish(r)
}

// strikeAgain lets the attacker sign once more after the recovery.
func (d *director) strikeAgain(ctx context.Context, s *scenario) error {
	late, err := s.strikeAgain(ctx)
	if err != nil {
		return err
	}
	s.late = late
	d.note(s.world.Clock().Now(), "the attacker, who still has the key, signs %d more images", len(late))
	return nil
}

// stands checks that the scenario is what it claims to be, before anything is
// measured by it.
func (s *scenario) stands(before sweep) error {
	var errs []error
	for _, c := range s.consumers {
		if len(before.rogue[c.Name]) == 0 {
			errs = append(errs, fmt.Errorf("%s accepts nothing of the attacker's, although it trusts the stolen key", c.Name))
		}
	}
	if len(before.refused) > 0 {
		errs = append(errs, fmt.Errorf("good images are refused from the start: %s", some(before.refused)))
	}
	if len(before.laundered) > 0 {
		errs = append(errs, fmt.Errorf("the new key was used before the attack was known: %s", some(before.laundered)))
	}
	if len(errs) > 0 {
		return fmt.Errorf("the scenario does not stand: %w", errors.Join(errs...))
	}
	return nil
}

// tell notes what a sweep found that the one before it had not.
func (d *director) tell(p *prober, last sweep) {
	now := p.last
	for _, c := range p.scenario.consumers {
		n, was := len(now.rogue[c.Name]), len(last.rogue[c.Name])
		switch {
		case n == was:
		case n == 0:
			d.note(now.at, "probe: %s accepts nothing of the attacker's any more", c.Name)
		default:
			d.note(now.at, "probe: %s accepts %s of the attacker's", c.Name, things(n))
		}
	}
	if now.dark != last.dark {
		d.note(now.at, "probe: %d deployed good images are refused", now.dark)
	}
	if n := len(now.laundered); n != len(last.laundered) {
		d.note(now.at, "probe: LAUNDERED: the new key vouches for %s that nothing proves good: %s", things(n), some(now.laundered))
	}
	if now.recovered() && !last.recovered() {
		d.note(now.at, "probe: every good image passes with the new key")
	}
}

// mark keeps when containment and recovery came, and takes it back when they
// did not last.
func (r *Report) mark(s sweep) {
	for _, m := range []struct {
		reached bool
		at      **float64
	}{{s.contained(), &r.TimeToContain}, {s.recovered(), &r.TimeToRecover}} {
		switch {
		case !m.reached:
			*m.at = nil
		case *m.at == nil:
			v := seconds(s.at.Sub(r.StartedAt))
			*m.at = &v
		}
	}
}

// score says whether the drill was passed, and if not, why.
func (r *Report) score(p *prober, items []rotate.Item) {
	s, last := p.scenario, p.last
	var dark map[*artifact]string
	r.Consumers, dark = p.tracker.score(r.EndedAt)
	for _, c := range r.Consumers {
		r.Exposure, r.Outage = max(r.Exposure, c.Exposure), max(r.Outage, c.Outage)
	}
	r.Laundered, r.Dark, r.Probes = len(p.everLaundered), len(dark), p.probes.Load()
	r.Findings = []string{}
	find := func(format string, args ...any) { r.Findings = append(r.Findings, fmt.Sprintf(format, args...)) }
	for _, st := range r.Steps {
		switch st.State {
		case runbooks.Failed:
			find("step %s failed: %s", st.Name, st.Summary)
		case runbooks.Skipped:
			find("step %s was not reached", st.Name)
		}
	}
	if r.Laundered > 0 {
		find("laundered: the new key was made to vouch for %s that nothing proves good: %s", things(r.Laundered), some(slices.Sorted(maps.Keys(p.everLaundered))))
	}
	if r.Dark > 0 {
		var names []string
		for a, why := range dark {
			names = append(names, a.String()+" at "+why)
		}
		slices.Sort(names)
		find("dark: %d deployed good images were refused: %s", r.Dark, some(names))
	}
	for _, c := range s.consumers {
		if n := last.rogue[c.Name]; len(n) > 0 {
			slices.Sort(n)
			find("exposed: %s still accepts %s of the attacker's: %s", c.Name, things(len(n)), some(n))
		}
	}
	if n := len(last.refused); n > 0 {
		find("refused: %d good images do not pass at their consumer: %s", n, some(last.refused))
	}
	if n := len(last.unsigned); n > 0 {
		find("not recovered: %s not signed by the new key: %s", things(n), some(last.unsigned))
	}
	s.checkDecisions(items, r.Holds, find)
	r.Passed = len(r.Findings) == 0
}

// expectedHold is a statement that nothing proves good.
type expectedHold struct{ ref, predicateType string }

// expectedHolds is what the plan must leave for a person.
func (s *scenario) expectedHolds() map[expectedHold]*artifact {
	out := map[expectedHold]*artifact{}
	for _, a := range s.artifacts {
		if a.good && !a.proven || a.rogue && a.group != groupRogue {
			out[expectedHold{a.ref.Name(), inventory.SignPredicate}] = a
		}
		if a.vex != nil {
			out[expectedHold{a.ref.Name(), vex}] = a
		}
	}
	return out
}

// checkDecisions compares the holds and denials with the truth.
func (s *scenario) checkDecisions(items []rotate.Item, holds []Hold, find func(string, ...any)) {
	expected := s.expectedHolds()
	var missing, surplus, denied []string
	decisions := map[expectedHold]trust.Decision{}
	for _, i := range items {
		decisions[expectedHold{i.Repository + "@" + i.Digest, i.PredicateType()}] = i.Decision
	}
	for k, a := range expected {
		if d := decisions[k]; d != trust.Hold {
			missing = append(missing, fmt.Sprintf("%s of %s (%s)", what(k.predicateType), a, cmp.Or(string(d), "not in the plan")))
		}
	}
	for _, h := range holds {
		if !h.Expected {
			surplus = append(surplus, fmt.Sprintf("%s of %s (%s)", h.What, cmp.Or(h.Tag, h.Artifact), h.Reason))
		}
	}
	for _, a := range s.artifacts {
		k := expectedHold{a.ref.Name(), inventory.SignPredicate}
		if a.group == groupRogue && decisions[k] != trust.Deny {
			denied = append(denied, fmt.Sprintf("%s (%s)", a, cmp.Or(string(decisions[k]), "not in the plan")))
		}
	}
	for _, f := range []struct {
		text  string
		names []string
	}{
		{"not held: nothing proves these good, and the plan does not hold them", missing},
		{"held without need: these are proven good", surplus},
		{"not denied, although reported as rogue", denied},
	} {
		if len(f.names) > 0 {
			slices.Sort(f.names)
			find("%s: %s", f.text, some(f.names))
		}
	}
}

// holds lists what waits for a person, deployed first.
func (s *scenario) holds(items []rotate.Item, held []Held) []Hold {
	byRef, expected := s.byRef(), s.expectedHolds()
	out := []Hold{}
	add := func(ref, predicateType, reason string) {
		h := Hold{Artifact: ref, What: what(predicateType), Reason: reason, Expected: expected[expectedHold{ref, predicateType}] != nil}
		if a := byRef[ref]; a != nil {
			h.Tag, h.Group = a.String(), a.group
		}
		out = append(out, h)
	}
	for _, i := range items {
		if i.Decision == trust.Hold {
			add(i.Repository+"@"+i.Digest, i.PredicateType(), i.Reason)
		}
	}
	for _, h := range held {
		if !slices.ContainsFunc(out, func(o Hold) bool { return o.Artifact == h.Artifact }) {
			add(h.Artifact, inventory.SignPredicate, h.Reason)
		}
	}
	return out
}

// groups counts verdicts and decisions by group.
func (s *scenario) groups(items []rotate.Item) []Group {
	byRef := s.byRef()
	out := make([]Group, 0, len(groups()))
	for _, name := range groups() {
		g := Group{Name: name, Verdicts: map[trust.Verdict]int{}, Decisions: map[trust.Decision]int{}}
		for _, a := range s.artifacts {
			if a.group != name {
				continue
			}
			g.Images++
			if a.deployed {
				g.Deployed++
			}
			g.Rogue = a.rogue || name == groupSignedBy || name == groupVEX
		}
		for _, i := range items {
			if a := byRef[i.Repository+"@"+i.Digest]; a != nil && a.group == name {
				g.Decisions[i.Decision]++
				for _, sig := range i.Signatures {
					g.Verdicts[sig.Verdict]++
				}
			}
		}
		out = append(out, g)
	}
	return out
}

func (s *scenario) byRef() map[string]*artifact {
	out := map[string]*artifact{}
	for _, a := range s.artifacts {
		out[a.ref.Name()] = a
	}
	return out
}

// rogueThings counts what the attacker made.
func (s *scenario) rogueThings() int {
	return s.count(func(a *artifact) bool { return a.rogue || a.group == groupSignedBy || a.vex != nil })
}

// what names a statement by its predicate type.
func what(predicateType string) string {
	if predicateType == inventory.SignPredicate {
		return "image signature"
	}
	return predicateType
}

func things(n int) string {
	if n == 1 {
		return "1 thing"
	}
	return fmt.Sprintf("%d things", n)
}

// some names the first of many.
func some(names []string) string {
	if extra := len(names) - maxNamed; extra > 0 {
		return strings.Join(names[:maxNamed], "; ") + fmt.Sprintf("; and %d more", extra)
	}
	return strings.Join(names, "; ")
}

// publish writes the reports.
func (d *director) publish(r Report) (Report, error) {
	r.ReportPath, r.JSONPath = filepath.Join(d.dirs.root, "report.html"), filepath.Join(d.dirs.root, "report.json")
	d.note(r.EndedAt, "%s", r.Verdict())
	r.Events = d.events
	if err := web.WriteFile(r.ReportPath, page(r)); err != nil {
		return r, err
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return r, err
	}
	return r, durable.WriteFile(r.JSONPath, append(raw, '\n'), 0o644)
}

// Verdict is the outcome in one line.
func (r Report) Verdict() string {
	if r.Passed {
		return "PASSED: nothing was laundered, nothing good went dark, and nothing of the attacker's is accepted any more"
	}
	return fmt.Sprintf("FAILED: %d laundered, %d dark, %d findings", r.Laundered, r.Dark, len(r.Findings))
}

// span is a duration as a person says it.
func span(secs float64) string {
	d := time.Duration(secs * float64(time.Second))
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
}
