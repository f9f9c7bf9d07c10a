package drill

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/reseal/reseal/internal/web"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/runbooks"
)

// page turns a report into what a manager reads.
func page(r Report) web.Page {
	p := web.Page{
		Title:     "Drill: " + strings.ToLower(r.Title[:min(1, len(r.Title))]) + r.Title[min(1, len(r.Title)):],
		Subtitle:  fmt.Sprintf("%s UTC, %d good images in a sandbox, %d of them deployed, and %d things the attacker made", r.StartedAt.UTC().Format("2 January 2006 15:04"), r.Images, r.Deployed, r.Rogue),
		Passed:    r.Passed,
		Verdict:   strings.TrimSpace(r.Verdict()[strings.Index(r.Verdict(), ":")+1:]) + ".",
		Sentences: sentences(r),
		Tiles: []web.Tile{
			{Label: "Laundered", Value: strconv.Itoa(r.Laundered), Note: "bad or unproven things that the new key vouches for; must be 0", Tone: tone(r.Laundered == 0)},
			{Label: "Dark", Value: strconv.Itoa(r.Dark), Note: "deployed good images that were refused; must be 0", Tone: tone(r.Dark == 0)},
			{Label: "Time to contain", Value: reached(r.TimeToContain), Note: "until nothing of the attacker's was accepted anywhere", Tone: tone(r.TimeToContain != nil)},
			{Label: "Time to recover", Value: reached(r.TimeToRecover), Note: "until every good image passed with the new key", Tone: tone(r.TimeToRecover != nil)},
			{Label: "Exposure", Value: span(r.Exposure), Note: "from the first rogue signature on, at the slowest consumer", Tone: web.Neutral},
			{Label: "Outage", Value: outage(r.Outage), Note: "while a deployed good image was refused", Tone: tone(r.Outage == 0)},
		},
		Timeline: timeline(r),
		Decisions: web.Table{Caption: "The plan's answer for each kind of image. Verdicts count signatures, decisions count statements.",
			Columns: []string{"Group", "Images", "Deployed", "Verdicts", "Decisions"}},
		Findings: r.Findings,
		Footer: fmt.Sprintf("The score rests on %d verifications with cosign's library, with the key that stood in each consumer's anchor at that moment, not on the tool's own records. Schema %s.",
			r.Probes, r.Schema),
	}
	for _, e := range r.Events {
		t := web.Neutral
		if e.State == runbooks.Failed {
			t = web.Bad
		}
		what := e.Step
		if e.State == runbooks.Started {
			continue // the line that says how it ended is enough here
		}
		p.Events = append(p.Events, web.Event{At: e.Time, What: what, Text: e.Text, Tone: t})
	}
	for _, g := range r.Groups {
		p.Decisions.Rows = append(p.Decisions.Rows, []string{g.Name, strconv.Itoa(g.Images), strconv.Itoa(g.Deployed), counts(g.Verdicts), counts(g.Decisions)})
	}
	for _, h := range r.Holds {
		_, digest, _ := strings.Cut(h.Artifact, "@")
		name := h.Tag
		if name == "" {
			name = h.Artifact
		}
		p.Holds = append(p.Holds, web.Hold{Artifact: name, Digest: digest, Kind: h.Group, What: h.What, Reason: h.Reason, Expected: h.Expected})
	}
	for _, c := range r.Consumers {
		w := web.Consumer{Name: c.Name, Reads: c.Reads, Exposure: span(c.Exposure), Outage: outage(c.Outage), Tone: tone(!c.Exposed)}
		if c.Exposed {
			w.Exposure += ", and still exposed"
		}
		p.Consumers = append(p.Consumers, w)
	}
	return p
}

// counts prints what was counted, in order of the names: "hold 2, resign 20".
func counts[K ~string](m map[K]int) string {
	var words []string
	for k, n := range m {
		words = append(words, fmt.Sprintf("%s %d", k, n))
	}
	slices.Sort(words)
	if words == nil {
		return "none"
	}
	return strings.Join(words, ", ")
}

// sentences is what happened, what it cost, and what is left to do.
func sentences(r Report) []string {
	attack := fmt.Sprintf("A signing key was stolen and used for %d things before anybody answered; the response took %s.", r.Rogue, span(seconds(r.EndedAt.Sub(r.StartedAt))))
	signed := 0
	for _, g := range r.Groups {
		signed += g.Decisions[trust.Resign]
	}
	cost := fmt.Sprintf("The attacker's work would have been accepted for %s in all, and no deployed good image was refused at any moment.", span(r.Exposure))
	if r.TimeToContain == nil {
		cost = "The attacker's work is still accepted, so in earnest the incident would go on."
	} else if r.Dark > 0 {
		cost = fmt.Sprintf("The attacker's work would have been accepted for %s in all, and %d deployed good images were refused for up to %s.", span(r.Exposure), r.Dark, span(r.Outage))
	}
	left := fmt.Sprintf("%d statements that something else proves good were planned to be signed again with the new key, and %d wait for a person because nothing proves them good.", signed, len(r.Holds))
	if !r.Passed {
		left = fmt.Sprintf("The drill failed for %d reasons, listed below, which are what to repair before the day it is needed.", len(r.Findings))
		if len(r.Findings) == 1 {
			left = "The drill failed for one reason, given below, which is what to repair before the day it is needed."
		}
	}
	return []string{attack, cost, left}
}

// timeline draws the steps, and how long each consumer was exposed.
func timeline(r Report) web.Timeline {
	t := web.Timeline{Caption: "The response, from the first step to the last probe. Between the steps the prober looks at everything.",
		Seconds: seconds(r.EndedAt.Sub(r.StartedAt))}
	started := map[string]float64{}
	for _, e := range r.Events {
		if e.State == runbooks.Started {
			started[e.Step] = seconds(e.Time.Sub(r.StartedAt))
		}
	}
	for _, s := range r.Steps {
		from, ran := started[s.Name]
		if !ran {
			continue
		}
		b := web.Bar{Label: s.Name, From: from, To: from + s.Seconds, Note: span(s.Seconds), Tone: web.Neutral}
		if s.State == runbooks.Failed {
			b.Note, b.Tone = b.Note+", failed", web.Bad
		}
		t.Bars = append(t.Bars, b)
	}
	for _, c := range r.Consumers {
		// What was before the response is off the scale: hours, against seconds.
		b := web.Bar{Label: c.Name + " exposed", To: c.Exposure - seconds(r.StartedAt.Sub(r.FirstRogue)), Note: "until here", Tone: web.Bad}
		if c.Exposed {
			b.Note = "to the end"
		}
		t.Bars = append(t.Bars, b)
	}
	if r.TimeToContain != nil {
		t.Marks = append(t.Marks, web.Mark{At: *r.TimeToContain, Label: "contained after " + span(*r.TimeToContain)})
	}
	if r.TimeToRecover != nil {
		t.Marks = append(t.Marks, web.Mark{At: *r.TimeToRecover, Label: "recovered after " + span(*r.TimeToRecover)})
	}
	return t
}

func tone(good bool) web.Tone {
	if good {
		return web.Good
	}
	return web.Bad
}

func outage(secs float64) string {
	if secs == 0 {
		return "none"
	}
	return span(secs)
}

func reached(secs *float64) string {
	if secs == nil {
		return "never"
	}
	return span(*secs)
}
