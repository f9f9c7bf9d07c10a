package runbooks

import (
	"context"
	"fmt"
	"time"
)

// State is where a step stands.
type State string

// The states of a step. Noted is of an event that belongs to no step or to
// the middle of one.
const (
	Started State = "started"
	Done    State = "done"
	Failed  State = "failed"
	Skipped State = "skipped"
	Noted   State = "noted"
)

// Event is something that happened during a run.
type Event struct {
	Time  time.Time `json:"time"`
	Step  string    `json:"step,omitempty"`
	State State     `json:"state"`
	Text  string    `json:"text"`
}

// Result is what a step did, in one line.
type Result struct {
	Summary string
}

// StepRecord is how a step went.
type StepRecord struct {
	Name     string
	Action   Action
	State    State
	Started  time.Time
	Duration time.Duration
	Summary  string // or why it failed or was skipped
}

// Run takes the steps of a runbook one after the other and tells observe,
// which may be nil, of each. When a step fails it stops, and the records say
// which steps were skipped. It keeps nothing: a run that was interrupted starts
// over, and the actions find what is done already.
func Run(ctx context.Context, rb Runbook, do func(context.Context, Step) (Result, error), observe func(Event)) ([]StepRecord, error) {
	if err := rb.Lint(); err != nil {
		return nil, fmt.Errorf("runbook %s: %w", rb.Name, err)
	}
	if observe == nil {
		observe = func(Event) {}
	}
	var failed error
	records := make([]StepRecord, 0, len(rb.Steps))
	for _, s := range rb.Steps {
		r := StepRecord{Name: s.Name, Action: s.Action, Started: time.Now().Round(0)}
		if failed == nil {
			failed = ctx.Err()
		}
		if failed != nil {
			r.State, r.Summary = Skipped, "an earlier step did not succeed"
			if ctx.Err() != nil {
				r.Summary = "the run was interrupted"
			}
			records = append(records, r)
			continue
		}
		observe(Event{Time: r.Started, Step: s.Name, State: Started})
		res, err := do(ctx, s)
		r.Duration = time.Since(r.Started)
		r.State, r.Summary = Done, res.Summary
		if err != nil {
			r.State, r.Summary = Failed, err.Error()
			failed = fmt.Errorf("step %s: %w", s.Name, err)
		}
		observe(Event{Time: r.Started.Add(r.Duration), Step: s.Name, State: r.State, Text: r.Summary})
		records = append(records, r)
	}
	return records, failed
}
