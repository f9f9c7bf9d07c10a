package main

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/tuf/radar"
)

// errAttention ends a command that found something a person has to see to.
var errAttention = errors.New("needs attention")

func tufStatusCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "status",
		Category:  tufDaily,
		Usage:     "tell who can sign what, until when, and what is wrong with a TUF repository",
		ArgsUsage: "[DIR|URL]",
		Description: `Reads any repository and changes nothing: a directory or web address with
timestamp.json and N.root.json in it, or a directory with metadata/ as tuf-on-ci
keeps it, the open signing event included. Default: this directory.

Without --root it believes the oldest root it finds; give the root your clients
pin when the source is not yours. docs/tuf-status.md says what each problem means.

Examples:
  reseal tuf status
  reseal tuf status https://tuf-repo-cdn.sigstore.dev --root root.json
  reseal tuf status --history root-signing/
  reseal tuf status https://tuf.example --json --warn-days 45` + exits("3 clients refuse it, or cannot follow it", "4 somebody has to act soon"),
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "history", Usage: "show every root: who held it and what it changed"},
			&cli.StringFlag{Name: "root", Usage: "`FILE` with a root that is trusted"},
			warnDaysFlag(),
			&cli.BoolFlag{Name: "no-targets", Usage: "do not read the target files of a directory"},
		},
		Action: func(c *cli.Context) error {
			days, err := warnDays(c)
			if err != nil {
				return err
			}
			o := radar.Options{WarnDays: days, SkipTargets: c.Bool("no-targets")}
			root, err := ui.rootFlag(c)
			if err != nil {
				return err
			}
			o.Root = root
			source := c.Args().First()
			if source == "" {
				source = "."
			}
			s, err := radar.Read(c.Context, source, o)
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				err = ui.object("tuf-status", s)
			} else {
				ui.tufStatus(s, c.Bool("history"))
			}
			if err != nil {
				return err
			}
			return statusError(s)
		},
	}
}

func warnDaysFlag() cli.Flag {
	return &cli.IntFlag{Name: "warn-days", Value: radar.DefaultWarnDays, Usage: "warn `DAYS` before a role expires, or at half of its life when it is shorter"}
}

func warnDays(c *cli.Context) (int, error) {
	days := c.Int("warn-days")
	if days < 1 {
		return 0, usageError{errors.New("--warn-days is a number of days, from 1")}
	}
	return days, nil
}

// statusError turns what was found into the exit code.
func statusError(s radar.Status) error {
	n := 0
	for _, p := range s.Problems {
		if p.Severity == s.Severity {
			n++
		}
	}
	switch s.Severity {
	case radar.Error:
		return fmt.Errorf("%w: %s: %s", errRefused, s.Repository, plural(n, "error"))
	case radar.Warning:
		return fmt.Errorf("%s %w: %s", s.Repository, errAttention, plural(n, "warning"))
	}
	return nil
}

// plural writes a number of things.
func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// tufStatus prints the state of a repository for people.
func (u *ui) tufStatus(s radar.Status, history bool) {
	rows := [][]string{{"ROLE", "VERSION", "EXPIRES", "LEFT", "SIGNED", "WHO CAN SIGN"}}
	for _, r := range s.Roles {
		name := r.Name
		if r.Delegator != "" && r.Delegator != "root" && r.Delegator != "targets" {
			name = r.Delegator + " → " + name
		}
		if r.Bins != nil {
			name += fmt.Sprintf(" (%d)", r.Bins.Count)
		}
		rows = append(rows, []string{
			name, strconv.FormatInt(r.Version, 10), r.Expires.Format("2006-01-02"), daysLeft(r.DaysLeft),
			fmt.Sprintf("%d, needs %d of %d%s", r.Signatures, r.Threshold, len(r.Keys), refusedMark(r.Verified)), keyNames(r.Keys),
		})
	}
	u.table(rows)
	c := s.RootChain
	chain := "whole"
	if !c.Verified {
		chain = "BROKEN"
	}
	from := "believed as found"
	if s.Pinned != 0 {
		from = fmt.Sprintf("root %d is pinned", s.Pinned)
	}
	u.printf("")
	u.printf("roots %d to %d: %s (%s)", c.First, c.Last, chain, from)
	if history {
		u.printf("")
		u.table(tufHistory(s))
	}
	for _, e := range s.Events {
		state := "waits for signatures"
		if e.Ready {
			state = "has all signatures: publish it"
		}
		u.printf("")
		u.printf("%s %d %s", e.Role, e.Version, state)
		for _, n := range e.Needs {
			line := fmt.Sprintf("  by the keys of %s: %d of %d", n.By, len(n.Signed), n.Threshold)
			if len(n.Signed) > 0 {
				line += ", signed by " + strings.Join(n.Signed, ", ")
			}
			if len(n.Signed) < n.Threshold {
				line += "; not yet " + strings.Join(n.Missing, ", ")
			}
			u.printf("%s", line)
		}
	}
	if len(s.Problems) > 0 {
		u.printf("")
	}
	for _, p := range s.Problems {
		line := fmt.Sprintf("%-7s  %s", strings.ToUpper(string(p.Severity)), p.What)
		if len(p.Refuse) > 0 {
			line += " [" + strings.Join(p.Refuse, ", ") + "]"
		}
		u.printf("%s", line)
		u.printf("%-7s  → %s", "", p.Do)
	}
}

func daysLeft(days int) string {
	switch {
	case days < 0:
		return "EXPIRED"
	case days == 1:
		return "1 day"
	}
	return fmt.Sprintf("%d days", days)
}

func refusedMark(verified bool) string {
	if verified {
		return ""
	}
	return ": REFUSED"
}

// keyNames names the holders of keys; one whose signature is missing stands in brackets.
func keyNames(keys []radar.Key) string {
	var out []string
	for _, k := range keys {
		name := keyName(k)
		if !k.Signed {
			name = "(" + name + ")"
		}
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

// keyName is what the holder of a key is called.
func keyName(k radar.Key) string {
	return cmp.Or(k.Owner, k.URI, k.ID[:min(len(k.ID), 8)])
}

// tufHistory is the table of every root.
func tufHistory(s radar.Status) [][]string {
	rows := [][]string{{"ROOT", "SIGNED ABOUT", "EXPIRES", "NEEDS", "SIGNED BY", "CHANGES"}}
	for _, r := range s.RootChain.Roots {
		about := "?"
		if r.SignedAbout != nil {
			about = r.SignedAbout.Format("2006-01-02")
		}
		row := []string{
			strconv.FormatInt(r.Version, 10), about, r.Expires.Format("2006-01-02"), fmt.Sprintf("%d of %d", r.Threshold, len(r.Holders)),
			strings.Join(r.SignedBy, " "), "",
		}
		for n, change := range rootChanges(r) { // one a line
			if n > 0 {
				rows = append(rows, row)
				row = make([]string, len(row))
			}
			row[len(row)-1] = change
		}
		rows = append(rows, row)
	}
	return rows
}

// rootChanges tells in words what a root changed.
func rootChanges(r radar.Root) []string {
	var out, people []string
	if r.Why != "" {
		out = append(out, "REFUSED: "+r.Why)
	}
	for _, who := range r.Joined {
		people = append(people, "+"+who)
	}
	for _, who := range r.Left {
		people = append(people, "−"+who)
	}
	if len(people) > 0 {
		out = append(out, strings.Join(people, " "))
	}
	for _, x := range r.Replaced {
		out = append(out, fmt.Sprintf("%s: key %.8s → %.8s", x.Owner, x.From, x.To))
	}
	if len(r.Renamed) > 0 {
		out = append(out, "root: the same keys under new ids")
	}
	return append(out, r.Changes...)
}
