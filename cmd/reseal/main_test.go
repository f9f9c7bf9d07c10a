package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// TestArrange and TestHelp are not parallel: urfave/cli applies its one global
// help flag in every application set up, and a process of reseal has one.
func TestArrange(t *testing.T) {
	root := newApp(&ui{})
	for line, want := range map[string]string{
		"":                                   "",
		"signers":                            "signers",
		"--json signers":                     "--json signers",
		"signers --json":                     "signers --json",
		"resign PLAN --key k --apply":        "resign --key k --apply PLAN",
		"resign --apply PLAN --key=k":        "resign --apply --key=k PLAN",
		"--home h resign PLAN --key k":       "--home h resign --key k PLAN",
		"incident open I --signer s --json":  "incident open --signer s --json I",
		"incident open -- --odd":             "incident open -- --odd",
		"scan a --key k b":                   "scan --key k a b",
		"nonsense --flag":                    "--flag nonsense",
		"deployed -":                         "deployed -",
		"incident nonsense --signer s":       "incident --signer nonsense s",
		"resign PLAN --unknown --key k more": "resign --unknown --key k PLAN more",
	} {
		got := strings.Join(arrange(root, append([]string{"reseal"}, strings.Fields(line)...))[1:], " ")
		if got != want {
			t.Errorf("%q arranged as %q, want %q", line, got, want)
		}
	}
}

// TestHelp holds every command to an example and its exit codes.
func TestHelp(t *testing.T) {
	var visit func(prefix string, list []*cli.Command)
	visit = func(prefix string, list []*cli.Command) {
		for _, c := range list {
			name := prefix + " " + c.Name
			if len(c.Subcommands) > 0 {
				visit(name, c.Subcommands)
				continue
			}
			var out, errs bytes.Buffer
			args := append(strings.Fields(name), "--help")
			if code := run(context.Background(), args, strings.NewReader(""), &out, &errs); code != 0 || errs.Len() > 0 {
				t.Errorf("%s --help: exit code %d, %s", name, code, errs.String())
			}
			for _, want := range []string{"Example", "Exit codes: 0 done", name, "--json"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%s --help does not have %q:\n%s", name, want, out.String())
				}
			}
		}
	}
	visit("reseal", commands(&ui{}))
}

// drillReport is what outside checks read of "drill --json".
type drillReport struct {
	Schema       string
	Name         string
	Passed       *bool
	Contain      *float64 `json:"time_to_contain_seconds"`
	Recover      *float64 `json:"time_to_recover_seconds"`
	Exposure     *float64 `json:"exposure_seconds"`
	Outage       *float64 `json:"outage_seconds"`
	Laundered    *int
	Dark         *int
	AcceptedDark *int `json:"accepted_dark"`
	Steps        []struct {
		Name, State string
		Seconds     *float64
	}
}

func TestDrillJSON(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	code := run(context.Background(), []string{"reseal", "drill", "signing-key", "--json", "--dir", t.TempDir()}, strings.NewReader(""), &out, &errs)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	var r drillReport
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("not one JSON object: %v\n%s", err, out.String())
	}
	if r.Schema != "reseal.drill/v1" || r.Name != "signing-key" || r.Passed == nil || !*r.Passed ||
		r.Laundered == nil || *r.Laundered != 0 || r.Dark == nil || *r.Dark != 0 || r.AcceptedDark == nil ||
		r.Contain == nil || r.Recover == nil || r.Exposure == nil || r.Outage == nil {
		t.Errorf("a field of the contract is missing or wrong: %s", out.String())
	}
	var names []string
	for _, s := range r.Steps {
		names = append(names, s.Name)
		if s.State != "done" || s.Seconds == nil {
			t.Errorf("step %+v", s)
		}
	}
	for _, want := range []string{"scan", "contain", "resign", "cutover", "verify"} {
		if !slices.Contains(names, want) {
			t.Errorf("there is no step %q in %v", want, names)
		}
	}
	if errs.Len() > 0 {
		t.Errorf("standard error: %s", errs.String())
	}
}

// TestLaunderingIsNoticed builds a reseal whose verdict rule says
// "proven-before" of everything, and expects the drill to find out: the prober
// must not depend on the rule it checks.
func TestLaunderingIsNoticed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rule, err := filepath.Abs(filepath.Join("..", "..", "rotate", "trust", "verdict.go"))
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(rule)
	if err != nil {
		t.Fatal(err)
	}
	const head = "func Judge(s inventory.Signature, incidents []Incident, skew time.Duration) Judgement {\n"
	if strings.Count(string(source), head) != 1 {
		t.Fatalf("the verdict rule is not where this test looks for it: %s", rule)
	}
	mutant := filepath.Join(dir, "verdict.go")
	body := strings.Replace(string(source), head, head+"\tif s.Verified {\n\t\treturn Judgement{Verdict: ProvenBefore, Reason: \"always\"}\n\t}\n", 1)
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {rule: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string][]byte{mutant: []byte(body), filepath.Join(dir, "overlay.json"): overlay} {
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(dir, "reseal")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the mutant: %v\n%s", err, out)
	}
	drill := exec.Command(binary, "drill", "signing-key", "--json", "--dir", filepath.Join(dir, "drill"))
	out, err := drill.Output()
	if err == nil {
		t.Error("the drill was passed by a reseal that believes everything")
	}
	var r drillReport
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("drill of the mutant: %v\n%s", err, out)
	}
	if r.Laundered == nil || *r.Laundered == 0 || r.Passed == nil || *r.Passed {
		t.Errorf("nobody noticed: %s", out)
	}
	t.Logf("laundered %d", *r.Laundered)
}
