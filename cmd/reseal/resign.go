package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/resign"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
)

func resignCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "resign",
		Usage:     "sign again, with the new signer, what the plan proved good",
		ArgsUsage: "PLAN",
		Description: `Each statement is signed in the formats it was consumed in. Stop it whenever
you like, or lose the machine: the same command resumes, and signs nothing
twice.

Example:
  reseal resign 3f9a2c --key next.key --apply` + exits("4 the plan is not approved", "5 over a ceiling"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "key", Usage: "private key `FILE` of the new signer (COSIGN_PASSWORD)", Required: true},
			&cli.StringFlag{Name: "timestamp-server-url", Usage: "RFC 3161 authority `URL` that stamps every new signature"},
			&cli.IntFlag{Name: "parallel", Value: 8, Usage: "work on `N` artifacts at once"},
			&applyFlag,
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			plan := c.Args().First()
			_, full, _, err := a.Plan(c.Context, plan)
			if err != nil {
				return err
			}
			var total int64
			if err := a.Items(c.Context, full, trust.Resign, func(i rotate.Item) error { total += int64(len(i.Formats)); return nil }); err != nil {
				return err
			}
			key, err := app.LoadKey(c.String("key"), ui.password(c.String("key")))
			if err != nil {
				return err
			}
			p := ui.progress("signatures", total)
			reasons := map[string]int{}
			r, runErr := a.Resign(c.Context, app.ResignOptions{
				Plan: full, Signer: key, TimestampURL: c.String("timestamp-server-url"), Apply: c.Bool("apply"), Parallel: c.Int("parallel"),
				Progress: func(done int64, r resign.Result) {
					p.at(done, fmt.Sprintf("%d failed, %d held", r.Failed, r.Held))
				},
				Failed: func(f resign.Failure) { reasons[f.Why]++ },
			})
			p.end()
			if runErr != nil && r.Incident == "" {
				return runErr
			}
			if wantsJSON(c) {
				return errors.Join(ui.object("resign", r), runErr)
			}
			ui.brokenGlass(r.BreakGlass)
			signed := fmt.Sprintf("%d signed", r.Signed)
			if !r.Applied {
				signed = fmt.Sprintf("%d to sign", r.Planned-r.Already-r.Held-r.Failed)
			}
			ui.printf("%d planned: %s, %d signed already, %d held back, %d failed; %d denied, %d on hold; %d requests in %s",
				r.Planned, signed, r.Already, r.Held, r.Failed, r.Denied, r.OnHold, r.Requests,
				time.Duration(r.DurationSeconds*float64(time.Second)).Round(time.Millisecond))
			for why, n := range reasons {
				ui.printf("  %d times: %s", n, why)
			}
			ui.dryRun(r.Applied)
			return runErr
		}),
	}
}
