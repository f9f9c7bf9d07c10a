package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/runbooks"
	"github.com/reseal/reseal/runbooks/drill"
)

// errDrill is the error of a drill that was lost.
var errDrill = errors.New("the drill was not passed")

func drillCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "drill",
		Usage:     "rehearse a recovery in a sandbox, with an attacker in it",
		ArgsUsage: "[NAME]",
		Description: `Needs no server and no configuration. A registry, a CA, logs, a timestamp
authority and a TUF repository run in this process; a key leaks; the runbook is
walked with the same code as in earnest; a prober verifies every image with
cosign's own library before, during and after. It is passed only if nothing was
laundered and nothing good went dark.

Examples:
  reseal drill signing-key
  reseal drill signing-key --images 500 --json
  reseal drill signing-key --keep        # then point cosign at the sandbox` + exits(),
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "images", Value: 24, Usage: "`N` good images, 24 or more"},
			&cli.BoolFlag{Name: "keep", Usage: "leave the sandbox running afterwards and print its addresses"},
			&cli.StringFlag{Name: "dir", Usage: "empty `DIR` to work in (default: a temporary one)"},
		},
		Action: func(c *cli.Context) error {
			name := drill.SigningKey
			if c.Args().Present() {
				name = c.Args().First()
			}
			if name != drill.SigningKey {
				return usageError{fmt.Errorf("there is no drill %q: there is %s", name, drill.SigningKey)}
			}
			asJSON := wantsJSON(c)
			o := drill.Options{Images: c.Int("images"), Keep: c.Bool("keep"), Dir: c.String("dir")}
			if !asJSON {
				o.Observe = ui.event
			}
			show := func(r drill.Report) error {
				if asJSON {
					return ui.line(r)
				}
				ui.drill(r)
				return nil
			}
			if o.Keep {
				o.Kept = func(ctx context.Context, r drill.Report) error {
					if err := show(r); err != nil {
						return err
					}
					ui.kept(ctx, r)
					return nil
				}
			}
			r, err := app.Drill(c.Context, o)
			if err != nil {
				return err
			}
			if !o.Keep {
				if err := show(r); err != nil {
					return err
				}
			}
			if !r.Passed {
				return fmt.Errorf("%w: %s", errDrill, strings.Join(r.Findings, "; "))
			}
			return nil
		},
	}
}

// event prints one line of a drill's timeline.
func (u *ui) event(e drill.Event) {
	at := e.Time.UTC().Format("2006-01-02 15:04:05")
	switch e.State {
	case runbooks.Started:
	case runbooks.Noted:
		u.printf("%s  %s", at, e.Text)
	default:
		u.printf("%s  %-8s %s: %s", at, e.Step, e.State, e.Text)
	}
}

// kept prints what is there to look at and waits until it is stopped.
func (u *ui) kept(ctx context.Context, r drill.Report) {
	for _, a := range r.Addresses {
		u.notef("%-10s %s", a.Name, a.URL)
	}
	u.notef("files      %s", r.Dir)
	u.notef("the sandbox is running; stop it with Ctrl-C")
	<-ctx.Done()
}

// drill prints the table and the score.
func (u *ui) drill(r drill.Report) {
	u.printf("")
	rows := [][]string{{"GROUP", "IMAGES", "DEPLOYED", "VERDICTS", "DECISIONS"}}
	for _, g := range r.Groups {
		rows = append(rows, []string{g.Name, fmt.Sprint(g.Images), fmt.Sprint(g.Deployed), counts(g.Verdicts), decisionCounts(g.Decisions)})
	}
	u.table(rows)
	for _, h := range r.Holds {
		u.printf("on hold: %s %s (%s): %s", h.Artifact, h.What, h.Group, h.Reason)
	}
	u.printf("")
	for _, k := range r.Consumers {
		u.printf("consumer %-8s reads %-6s  exposure %s, outage %s", k.Name, k.Reads, seconds(&k.Exposure), seconds(&k.Outage))
	}
	u.printf("time to contain %s, time to recover %s, exposure %s, outage %s, %d verifications by the prober",
		seconds(r.TimeToContain), seconds(r.TimeToRecover), seconds(&r.Exposure), seconds(&r.Outage), r.Probes)
	u.printf("laundered %d, dark %d, accepted dark %d", r.Laundered, r.Dark, r.AcceptedDark)
	for _, f := range r.Findings {
		u.printf("finding: %s", f)
	}
	verdict := "PASSED"
	if !r.Passed {
		verdict = "NOT PASSED"
	}
	u.printf("%s: report %s", verdict, r.ReportPath)
}

func counts(m map[trust.Verdict]int) string {
	var words []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		words = append(words, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(words, ", ")
}

func decisionCounts(m map[trust.Decision]int) string {
	var words []string
	for _, d := range trust.Decisions() {
		if m[d] > 0 {
			words = append(words, fmt.Sprintf("%s %d", d, m[d]))
		}
	}
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, ", ")
}

// seconds prints a duration in seconds; nil is never.
func seconds(s *float64) string {
	if s == nil {
		return "never"
	}
	d := time.Duration(*s * float64(time.Second))
	if d > time.Minute {
		return d.Round(time.Second).String()
	}
	return d.Round(time.Millisecond).String()
}
