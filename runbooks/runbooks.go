// Package runbooks is the catalogue of recoveries: for each class of
// compromise, the steps in the order in which they are taken, and why.
//
// A runbook is YAML and says nothing about how a step is done. Render prints
// it for a person who has to go without the tool; Run walks through it.
package runbooks

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Schema is the version of the grammar.
const Schema = "reseal.runbook/v1"

// Action is what a step does.
type Action string

// The actions a step can have.
const (
	Scan    Action = "scan"
	Declare Action = "declare"
	Impact  Action = "impact"
	Plan    Action = "plan"
	Approve Action = "approve"
	Contain Action = "contain"
	Resign  Action = "resign"
	CutOver Action = "cutover"
	Verify  Action = "verify"
	Report  Action = "report"
)

// The actions on a TUF repository. Their steps name the commands themselves.
const (
	TUFLook      Action = "tuf-look"
	TUFRevoke    Action = "tuf-revoke"
	TUFPropose   Action = "tuf-propose"
	TUFSign      Action = "tuf-sign"
	TUFPublish   Action = "tuf-publish"
	TUFRefresh   Action = "tuf-refresh"
	TUFRepublish Action = "tuf-republish"
	TUFRebuild   Action = "tuf-rebuild"
	TUFFound     Action = "tuf-found"
	TUFRepin     Action = "tuf-repin"
)

// Actions lists every action.
func Actions() []Action {
	return []Action{Scan, Declare, Impact, Plan, Approve, Contain, Resign, CutOver, Verify, Report,
		TUFLook, TUFRevoke, TUFPropose, TUFSign, TUFPublish, TUFRefresh, TUFRepublish, TUFRebuild, TUFFound, TUFRepin}
}

// Stop ends the run when a step fails. So far there is no other way to go on.
const Stop = "stop"

// Runbook is a recovery, step by step.
type Runbook struct {
	Schema  string `yaml:"schema" json:"schema"`
	Name    string `yaml:"name" json:"name"`
	Title   string `yaml:"title" json:"title"`
	Summary string `yaml:"summary" json:"summary"`
	Steps   []Step `yaml:"steps" json:"steps"`
}

// Step is one step of a runbook.
type Step struct {
	Name            string `yaml:"name" json:"name"`
	Action          Action `yaml:"action" json:"action"`
	Why             string `yaml:"why" json:"why"`
	Precondition    string `yaml:"precondition,omitempty" json:"precondition,omitempty"` // for a person to check; the action checks its own
	Approval        bool   `yaml:"approval,omitempty" json:"approval,omitempty"`         // people must agree before the run goes on
	PointOfNoReturn bool   `yaml:"point_of_no_return,omitempty" json:"point_of_no_return,omitempty"`
	OnFailure       string `yaml:"on_failure" json:"on_failure"`
	// Commands are what a person types; empty: what is usual for the action.
	Commands []string `yaml:"commands,omitempty" json:"commands,omitempty"`
}

//go:embed *.yaml
var catalogue embed.FS

// List returns every runbook of the catalogue, by name.
func List() ([]Runbook, error) { return list(catalogue) }

// Load returns a runbook of the catalogue.
func Load(name string) (Runbook, error) {
	all, err := List()
	if err != nil {
		return Runbook{}, err
	}
	var names []string
	for _, rb := range all {
		if rb.Name == name {
			return rb, nil
		}
		names = append(names, rb.Name)
	}
	return Runbook{}, fmt.Errorf("there is no runbook %q: there are %s", name, strings.Join(names, ", "))
}

func list(fsys fs.FS) ([]Runbook, error) {
	files, err := fs.Glob(fsys, "*.yaml")
	if err != nil {
		return nil, err
	}
	out := make([]Runbook, 0, len(files))
	for _, file := range files {
		raw, err := fs.ReadFile(fsys, file)
		if err != nil {
			return nil, err
		}
		rb, err := Parse(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if want := strings.TrimSuffix(path.Base(file), ".yaml"); rb.Name != want {
			return nil, fmt.Errorf("%s: the runbook is named %q, its file %q", file, rb.Name, want)
		}
		out = append(out, rb)
	}
	return out, nil
}

// Parse reads a runbook. A field that the grammar does not know is an error,
// and so is everything that Lint refuses.
func Parse(raw []byte) (Runbook, error) {
	var rb Runbook
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&rb); errors.Is(err, io.EOF) {
		return rb, errors.New("the file is empty")
	} else if err != nil {
		return rb, err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return rb, errors.New("there is more than one document in the file")
	}
	return rb, rb.Lint()
}

var nameRule = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

// Lint reports everything that is wrong with a runbook.
func (rb Runbook) Lint() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if rb.Schema != Schema {
		bad("schema is %q, expected %q", rb.Schema, Schema)
	}
	if !nameRule.MatchString(rb.Name) {
		bad("name %q: expected lower-case words joined by hyphens", rb.Name)
	}
	if strings.TrimSpace(rb.Title) == "" {
		bad("there is no title")
	}
	if strings.TrimSpace(rb.Summary) == "" {
		bad("there is no summary")
	}
	if len(rb.Steps) == 0 {
		bad("there are no steps")
	}
	seen := map[string]bool{}
	for n, s := range rb.Steps {
		at := fmt.Sprintf("step %d (%s)", n+1, s.Name)
		if !nameRule.MatchString(s.Name) {
			bad("%s: name: expected lower-case words joined by hyphens", at)
		}
		if seen[s.Name] {
			bad("%s: another step has the same name", at)
		}
		seen[s.Name] = true
		if !slices.Contains(Actions(), s.Action) {
			bad("%s: action %q is not known: expected one of %s", at, s.Action, join(Actions()))
		}
		if strings.TrimSpace(s.Why) == "" {
			bad("%s: it does not say why", at)
		}
		for _, c := range s.Commands {
			if !strings.HasPrefix(c, "reseal ") || strings.ContainsAny(c, "\n\r") {
				bad("%s: command %q: expected one line that begins with reseal", at, c)
			}
		}
		if s.OnFailure != Stop {
			bad("%s: on_failure is %q, expected %q", at, s.OnFailure, Stop)
		}
	}
	return errors.Join(errs...)
}

func join(actions []Action) string {
	words := make([]string, len(actions))
	for n, a := range actions {
		words[n] = string(a)
	}
	return strings.Join(words, ", ")
}
