package main

import (
	"errors"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
)

func cutoverCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "cutover",
		Usage:     "remove the old signer from every anchor, if nothing good goes dark",
		ArgsUsage: "PLAN",
		Description: `Verifies every deployed artifact, as it is in the registry now, under the new
trust. Only if all pass are the anchors of the plan's consumers rewritten. This
is the point of no return: the old signer is revoked.

Example:
  reseal cutover 3f9a2c --apply` + exits("4 the plan is not approved", "5 a deployed artifact would go dark"),
		Flags: []cli.Flag{&applyFlag},
		Action: in(func(c *cli.Context, a *app.App) error {
			plan := c.Args().First()
			r, runErr := a.CutOver(c.Context, plan, c.Bool("apply"))
			if runErr != nil && r.Incident == "" {
				return runErr
			}
			if wantsJSON(c) {
				return errors.Join(ui.object("cutover", r), runErr)
			}
			ui.brokenGlass(r.BreakGlass)
			ui.printf("%d checks of deployed artifacts under the new trust, %d would be refused", r.Checked, len(r.Dark))
			for _, d := range r.Dark {
				accepted := ""
				if d.Accepted {
					accepted = " (accepted in the plan)"
				}
				ui.printf("  dark for %s: %s: %s%s", d.Consumer, d.Artifact, d.Why, accepted)
			}
			for _, name := range r.Anchors {
				ui.printf("%s the anchor of %s", ui.verb(r.Applied, "rewrote", "would rewrite"), name)
			}
			for _, name := range r.Already {
				ui.printf("the anchor of %s names the new signer already", name)
			}
			for _, name := range r.Others {
				ui.printf("%s accepts another signer and is left alone", name)
			}
			if runErr == nil {
				ui.dryRun(r.Applied)
			}
			return runErr
		}),
	}
}
