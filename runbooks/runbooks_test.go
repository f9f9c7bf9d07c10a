package runbooks

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const good = `schema: reseal.runbook/v1
name: leak
title: A leak
summary: It leaks.
steps:
  - {name: look, action: scan, why: to know, on_failure: stop}
  - {name: act, action: cutover, why: to stop it, point_of_no_return: true, on_failure: stop}
`

func TestParse(t *testing.T) {
	if rb, err := Parse([]byte(good)); err != nil || rb.Name != "leak" || len(rb.Steps) != 2 || !rb.Steps[1].PointOfNoReturn || rb.Steps[1].Action != CutOver {
		t.Fatalf("%+v, %v", rb, err)
	}
	for name, tc := range map[string]struct{ old, new, want string }{
		"unknown field":         {"name: leak", "name: leak\nowner: me", "owner"},
		"unknown field of step": {"why: to know", "why: to know, timeout: 3", "timeout"},
		"a key twice":           {"name: leak", "name: leak\nname: other", "already defined"},
		"another schema":        {"runbook/v1", "runbook/v2", "schema"},
		"no name":               {"name: leak", "name: ''", `name ""`},
		"a path for a name":     {"name: leak", "name: ../leak", "hyphens"},
		"no title":              {"title: A leak", "title: ' '", "title"},
		"no summary":            {"summary: It leaks.", "", "summary"},
		"unknown action":        {"action: scan", "action: dance", `action "dance" is not known: expected one of scan, declare`},
		"no action":             {"action: scan, ", "", `action ""`},
		"two of a name":         {"name: act", "name: look", "same name"},
		"no why":                {"why: to know, ", "", "say why"},
		"no on_failure":         {"why: to know, on_failure: stop", "why: to know", "on_failure"},
		"going on regardless":   {"why: to know, on_failure: stop", "why: to know, on_failure: continue", `"continue"`},
		"a word for a flag":     {"point_of_no_return: true", "point_of_no_return: maybe", "bool"},
		"no command of ours":    {"why: to know,", "why: to know, commands: [rm -rf /],", "begins with reseal"},
		"two documents":         {"steps:", "---\nsteps:", "more than one document"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(good, tc.old, tc.new, 1)
			if text == good {
				t.Fatal("nothing was changed")
			}
			if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
	for name, text := range map[string]string{"empty": "", "no steps": "schema: reseal.runbook/v1\nname: a\ntitle: a\nsummary: a\n", "a list": "- a"} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestLintReportsEverything(t *testing.T) {
	err := Runbook{Steps: []Step{{}}}.Lint()
	for _, want := range []string{"schema", "name", "title", "summary", "action", "why", "on_failure"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: nothing about %s", err, want)
		}
	}
}

func TestCatalogue(t *testing.T) {
	all, err := List()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("it is empty")
	}
	rb, err := Load("signing-key")
	if err != nil {
		t.Fatal(err)
	}
	var actions []Action
	for _, s := range rb.Steps {
		actions = append(actions, s.Action)
	}
	tuf := func(a Action) bool { return strings.HasPrefix(string(a), "tuf-") }
	if !slices.Equal(actions, slices.DeleteFunc(Actions(), tuf)) {
		t.Errorf("actions %v", actions)
	}
	used := map[Action]bool{}
	for _, rb := range all {
		for _, s := range rb.Steps {
			used[s.Action] = true
			if tuf(s.Action) != strings.HasPrefix(rb.Name, "tuf-") {
				t.Errorf("%s: step %s is %s", rb.Name, s.Name, s.Action)
			}
		}
	}
	for _, a := range Actions() {
		if !used[a] {
			t.Errorf("no runbook has a step %s", a)
		}
	}
	if _, err := Load("nothing"); err == nil || !strings.Contains(err.Error(), "signing-key") {
		t.Errorf("error %v does not say what there is", err)
	}
	if _, err := list(fstest.MapFS{"other.yaml": {Data: []byte(good)}}); err == nil {
		t.Error("a runbook in a file of another name was taken")
	}
	if _, err := list(fstest.MapFS{"leak.yaml": {Data: []byte("no")}}); err == nil || !strings.Contains(err.Error(), "leak.yaml") {
		t.Errorf("error %v does not name the file", err)
	}
}

var update = flag.Bool("update", false, "rewrite the golden files")

func TestRender(t *testing.T) {
	rb, err := Load("signing-key")
	if err != nil {
		t.Fatal(err)
	}
	got, file := rb.Render(), filepath.Join("testdata", "signing-key.txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the text differs from %s: look at it and run the test with -update\n%s", file, got)
	}
	for _, a := range Actions() {
		if h := help(a); len(h.commands) == 0 || h.byHand == "" || h.title == string(a) {
			t.Errorf("%s: %+v", a, h)
		}
	}
}

func TestRun(t *testing.T) {
	rb, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	for name, tc := range map[string]struct {
		fail   map[string]error
		states []State
		events int
	}{
		"all is well":          {nil, []State{Done, Done}, 4},
		"the first step fails": {map[string]error{"look": broken}, []State{Failed, Skipped}, 2},
		"the last step fails":  {map[string]error{"act": broken}, []State{Done, Failed}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			var events []Event
			records, err := Run(t.Context(), rb, func(_ context.Context, s Step) (Result, error) {
				return Result{Summary: "did " + s.Name}, tc.fail[s.Name]
			}, func(e Event) { events = append(events, e) })
			if (err != nil) != (tc.fail != nil) || err != nil && !errors.Is(err, broken) {
				t.Errorf("error %v", err)
			}
			var states []State
			for _, r := range records {
				states = append(states, r.State)
				if r.Summary == "" {
					t.Errorf("%s: no summary", r.Name)
				}
			}
			if !slices.Equal(states, tc.states) || len(events) != tc.events {
				t.Errorf("states %v, %d events", states, len(events))
			}
		})
	}
	t.Run("interrupted", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		records, err := Run(ctx, rb, func(context.Context, Step) (Result, error) { cancel(); return Result{}, nil }, nil)
		if !errors.Is(err, context.Canceled) || len(records) != 2 || records[1].State != Skipped || !strings.Contains(records[1].Summary, "interrupted") {
			t.Errorf("%v, %+v", err, records)
		}
	})
	t.Run("not fit to run", func(t *testing.T) {
		if _, err := Run(t.Context(), Runbook{Name: "empty"}, nil, nil); err == nil {
			t.Error("an empty runbook ran")
		}
	})
}
