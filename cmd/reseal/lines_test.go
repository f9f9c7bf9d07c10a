package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/runbooks"
)

// A commandLine is a line that people are told to type.
type commandLine struct {
	where string
	words []string
	part  bool // something is left out of it: "..."
}

// linesOf returns the command lines of a text that begin with reseal, those within a pipe included.
func linesOf(where, text string) []commandLine {
	var out []commandLine
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "$ "))
		if !strings.Contains(line, "reseal ") {
			continue
		}
		line = strings.ReplaceAll(line, " TIME", " 2026-01-02T03:04:05Z")
		for _, words := range shellWords(line) {
			if len(words) < 2 || words[0] != "reseal" {
				continue
			}
			whole := slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == "..." || w == "…" })
			out = append(out, commandLine{where, whole, len(whole) < len(words)})
		}
	}
	return out
}

// shellWords splits a line as a shell does, into the commands of a pipe or list, without comment and redirections.
func shellWords(line string) [][]string {
	var out [][]string
	var words []string
	var word strings.Builder
	quoted, inWord, skip := rune(0), false, false
	end := func() {
		if inWord && !skip {
			words = append(words, word.String())
		}
		if inWord {
			skip = false
		}
		word.Reset()
		inWord = false
	}
	runes := []rune(line)
	for n := 0; n < len(runes); n++ {
		switch r := runes[n]; {
		case quoted != 0 && r == quoted:
			quoted = 0
		case quoted != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quoted, inWord = r, true
		case r == '#' && !inWord:
			n = len(runes)
		case r == ' ' || r == '\t':
			end()
		case r == '|' && inWord && n+1 < len(runes) && runes[n+1] != ' ': // DIR|URL
			word.WriteRune(r)
		case r == '|' || r == '&' || r == ';':
			end()
			out, words = append(out, words), nil
		case r == '>' || r == '<':
			end()
			skip = true
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	end()
	return append(out, words)
}

// whyWrong gives a line to the command line as it is, where nothing is done, and returns why it is refused.
func whyWrong(l commandLine) error {
	ui := &ui{out: new(bytes.Buffer), err: new(bytes.Buffer)}
	root := newApp(ui)
	root.Commands = commands(ui)
	ran := false
	var idle func([]*cli.Command)
	idle = func(list []*cli.Command) {
		for _, c := range list {
			idle(c.Subcommands)
			c.Action = func(*cli.Context) error { ran = true; return nil }
		}
	}
	idle(root.Commands)
	if l.part { // what it needs may stand where something was left out
		var open func([]*cli.Command)
		open = func(list []*cli.Command) {
			for _, c := range list {
				open(c.Subcommands)
				if len(c.Subcommands) == 0 {
					optional(c.Flags)
					c.ArgsUsage = "[WORD]..."
				}
			}
		}
		open(root.Commands)
	}
	finish(root.Commands)
	err := root.RunContext(context.Background(), arrange(root, l.words))
	switch {
	case err != nil && l.part && strings.HasPrefix(err.Error(), "flag needs an argument"):
		return nil
	case err != nil:
		return err
	case ui.unknown != nil:
		return ui.unknown
	case !ran && !l.part && !slices.Contains(l.words, "--help") && !slices.Contains(l.words, "--version"):
		return errors.New("it does nothing")
	}
	return nil
}

// TestCommandLinesAreChecked has the check find what it is there for.
func TestCommandLinesAreChecked(t *testing.T) {
	for line, want := range map[string]string{
		"reseal tuf status DIR":                               "",
		"reseal tuf status --root r.json DIR --json":          "",
		"reseal tuf stats DIR":                                "no command",
		"reseal nonsense":                                     "no command",
		"reseal tuf":                                          "it does nothing",
		"reseal tuf status DIR --rot r.json":                  "flag provided but not defined",
		"reseal tuf status DIR MORE":                          "takes [DIR|URL], got 2",
		"reseal tuf propose DIR --renew root":                 "needs --reason",
		"reseal tuf propose DIR --renew root ...":             "",
		"reseal tuf publish":                                  "takes DIR, got 0",
		"reseal tuf refresh DIR --every often":                "invalid value",
		"reseal tuf refresh DIR --every":                      "invalid value",
		"kubectl get pods | reseal deployed --pods -":         "",
		"kubectl get pods | reseal deployed":                  "takes FILE|-, got 0",
		"$ reseal scan r > out.txt # for later":               "",
		`reseal tuf propose D --renew root --reason "a 'b c"`: "",
	} {
		lines := linesOf("", line)
		if len(lines) != 1 {
			t.Errorf("%s: %d commands", line, len(lines))
			continue
		}
		err := whyWrong(lines[0])
		if got := fmt.Sprint(err); want == "" && err != nil || want != "" && !strings.Contains(got, want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
}

// TestCommandLines checks every command line that a runbook, a page of the documentation or a help text tells people to
// type against the command line as it is: that the command and its flags are there, and what it needs is given.
func TestCommandLines(t *testing.T) {
	all, err := runbooks.List()
	if err != nil {
		t.Fatal(err)
	}
	var lines []commandLine
	few := func(where string, from []commandLine, least int) {
		t.Helper()
		if len(from) < least {
			t.Errorf("%s has %d command lines: are they found?", where, len(from))
		}
		lines = append(lines, from...)
	}
	for _, rb := range all {
		where := "runbook " + rb.Name
		few(where, linesOf(where, rb.Render()), 2)
		for _, s := range rb.Steps {
			lines = append(lines, linesOf(where+", "+s.Name, strings.Join(s.Commands, "\n"))...)
		}
	}
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) < 5 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	n := 0
	for _, page := range append(pages, "../../README.md", "../../CONTRIBUTING.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range strings.Split("\n"+string(text), "\n```") {
			if i%2 == 1 {
				found := linesOf(filepath.Base(page), block)
				n += len(found)
				lines = append(lines, found...)
				continue
			}
			for _, span := range regexp.MustCompile("`(reseal [^`]+)`").FindAllStringSubmatch(block, -1) { // in a sentence one names the command alone
				for _, l := range linesOf(filepath.Base(page), strings.ReplaceAll(span[1], "\n", " ")) {
					lines = append(lines, commandLine{l.where, l.words, true})
				}
			}
		}
	}
	if n < 100 {
		t.Errorf("the documentation has %d command lines: are they found?", n)
	}
	var help func(string, []*cli.Command)
	help = func(name string, list []*cli.Command) {
		for _, c := range list {
			help(name+" "+c.Name, c.Subcommands)
			_, examples, _ := strings.Cut(c.Description, "\nExample")
			lines = append(lines, linesOf(name+" "+c.Name+" --help", examples)...)
		}
	}
	help("reseal", commands(&ui{}))
	for _, l := range lines {
		if err := whyWrong(l); err != nil {
			t.Errorf("%s: %v: %s", l.where, err, strings.Join(l.words, " "))
		}
	}
	t.Logf("%d command lines", len(lines))
}
