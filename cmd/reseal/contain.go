package main

import (
	"errors"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/rotate"
)

var applyFlag = cli.BoolFlag{Name: "apply", Usage: "do it; without this, only say what would be done"}

func containCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "contain",
		Usage:     "publish the revocation and take rogue artifacts out of the registry",
		ArgsUsage: "PLAN",
		Description: `Every denied artifact goes into the vault first, then out of the registry with
its signatures. The revocation statement is written to revocations/ in the home.
A stolen key signs the next digest a second later: what ends the exposure is the
cut-over.

Example:
  reseal contain 3f9a2c --apply` + exits("4 the plan is not approved"),
		Flags: []cli.Flag{&applyFlag},
		Action: in(func(c *cli.Context, a *app.App) error {
			plan := c.Args().First()
			r, runErr := a.Contain(c.Context, plan, c.Bool("apply"))
			if runErr != nil && r.Incident == "" {
				return runErr
			}
			if wantsJSON(c) {
				return errors.Join(ui.object("contain", r), runErr)
			}
			ui.brokenGlass(r.BreakGlass)
			verb := ui.verb(r.Applied, "published", "would publish")
			ui.printf("%s %s", verb, r.Published)
			for _, ref := range r.Quarantined {
				ui.printf("%s %s", ui.verb(r.Applied, "took away", "would take away"), ref)
			}
			for _, ref := range r.Absent {
				ui.printf("already gone: %s", ref)
			}
			for _, ref := range r.Spared {
				ui.printf("left alone, though the plan denies it (its mark was taken back, or it is proven good by now): %s", ref)
			}
			for _, digest := range r.Elsewhere {
				ui.printf("denied, but not taken away by this plan (no scan saw it, it was marked since, or it is a file): %s", digest)
			}
			for _, x := range r.Spared {
				ui.printf("left alone: %s", x)
			}
			ui.dryRun(r.Applied)
			return runErr
		}),
	}
}

// brokenGlass says loudly that something is done on one person's word.
func (u *ui) brokenGlass(g *rotate.BreakGlass) {
	if g != nil {
		u.notef("BREAK-GLASS: without its quorum, on the word of %s since %s: %s", g.By, g.At.Format(time.RFC3339), g.Reason)
	}
}

func (u *ui) verb(applied bool, did, would string) string {
	if applied {
		return did
	}
	return would
}

func (u *ui) dryRun(applied bool) {
	if !applied {
		u.notef("this was a dry run: nothing was changed; --apply does it")
	}
}
