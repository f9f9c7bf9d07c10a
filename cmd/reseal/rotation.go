package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/signer"
)

func rotationCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "rotation",
		Usage: "change a signer, or the formats it signs in, without an incident",
		Subcommands: []*cli.Command{
			rotationPlan(ui), rotationList(ui), rotationShow(ui), incidentApprove(ui), rotationParity(ui), rotationClose(ui),
		},
	}
}

func rotationPlan(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "plan",
		Usage:     "make the plan: what the new signer signs again because the old one is trusted",
		ArgsUsage: "NAME",
		Description: `Everything that verifies, was signed by the old signer, and is in no incident is
signed again by the new one, in the formats it is consumed in. Nothing is denied.
As soon as an incident about either signer is open, nothing more is signed, and
the incident's plan recalls what it cannot prove good.

It is approved, carried out and resumed as any plan is, and takes as many people
as the gravest incident: reseal incident approve, resign, cutover. The old signer
is "old" then, and still trusted; the new one is "active".

With --formats it is signed in these instead: "legacy" (".sig", ".att"), "bundle",
or "consumers" for what the configured consumers read. From a signer to itself
only the formats change. The image's own bundle always comes before any other,
because cosign looks past a ".sig" as soon as there is one. Afterwards
"reseal rotation parity" proves that nothing was lost or added.

--key signs the plan as proposed by --as; without it nobody can tell which of the
approvers proposed it, and one more must approve.

Examples:
  reseal rotation plan ROT-2026 --from release --to next --reason "yearly" \
    --as carol --key carol.key
  reseal rotation plan BUNDLES --from release --to release --formats bundle \
    --reason "the cluster reads bundles from May on"` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "from", Usage: "`NAME` or ID of the signer in use", Required: true},
			&cli.StringFlag{Name: "to", Usage: "`NAME` or ID of the signer on standby", Required: true},
			&cli.StringFlag{Name: "reason", Usage: "`WHY`, for the journal", Required: true},
			&formatsFlag,
			&cli.StringFlag{Name: "supplement", Usage: "leave out what stands already in this plan, by its `DIGEST`"},
			&cli.StringSliceFlag{Name: "home-repository", Usage: "`REPOSITORY` of ours, where signatures name another (repeat)"},
			&cli.StringSliceFlag{Name: "accept-dark", Usage: "`DIGEST` of a deployed artifact whose hold is accepted (repeat)"},
			&cli.Int64Flag{Name: "max-artifacts", Value: 10000, Usage: "stop when more than `N` statements would be re-signed"},
			&cli.Float64Flag{Name: "max-share", Usage: "stop when more than this `SHARE` (0 to 1) of the inventory would be re-signed"},
			&cli.DurationFlag{Name: "expires", Value: 7 * 24 * time.Hour, Usage: "the plan may be approved and carried out for this `TIME`"},
			&skewFlag,
			&cli.StringFlag{Name: "as", Usage: "`NAME` of the proposer, as enrolled (default: the actor)"},
			&cli.StringFlag{Name: "key", Usage: "private key `REF` of the proposer: a file (COSIGN_PASSWORD), a KMS URI or a PKCS #11 URI"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			o := app.RotationOptions{Rotation: c.Args().First(), From: c.String("from"), To: c.String("to"), Formats: words(c.String("formats")), Supplements: c.String("supplement"),
				Homes: c.StringSlice("home-repository"), AcceptDark: c.StringSlice("accept-dark"), Skew: c.Duration("skew"), Expires: c.Duration("expires"),
				Limits: rotate.Limits{MaxArtifacts: c.Int64("max-artifacts"), MaxShare: c.Float64("max-share")}}
			key, err := ui.proposer(c, a)
			if err != nil {
				return err
			}
			p, digest, totals, err := a.PlanRotation(c.Context, o, c.String("reason"))
			if err != nil {
				return err
			}
			return ui.proposed(c, a, key, p, digest, totals)
		}),
	}
}

// formatsFlag chooses the formats of a plan.
var formatsFlag = cli.StringFlag{Name: "formats", Usage: "sign in `FORMATS`: legacy, bundle or both, separated by a comma, or consumers (default: those each statement is consumed in)"}

// words splits a list at its commas.
func words(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

func rotationList(ui *ui) *cli.Command {
	return &cli.Command{
		Name:        "list",
		Usage:       "list the rotations",
		Description: "Example:\n  reseal rotation list" + exits(),
		Action: in(func(c *cli.Context, a *app.App) error {
			list, err := a.Rotations(c.Context)
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.object("rotations", map[string]any{"rotations": append([]rotate.Rotation{}, list...)})
			}
			rows := [][]string{{"ROTATION", "STATE", "FROM", "TO", "OPENED"}}
			for _, r := range list {
				rows = append(rows, []string{r.ID, string(r.State), r.From.String(), r.To.String(), day(r.OpenedAt) + " by " + r.OpenedBy})
			}
			ui.table(rows)
			return nil
		}),
	}
}

func rotationShow(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "show",
		Usage:     "show a rotation and its plans, or every line of a plan",
		ArgsUsage: "NAME",
		Description: `Examples:
  reseal rotation show ROT-2026
  reseal rotation show ROT-2026 --plan 3f9a2c --decision hold` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "plan", Usage: "list what this plan, by its `DIGEST`, does"},
			&cli.StringFlag{Name: "decision", Usage: "only this `DECISION`: hold, resign or none"},
			&cli.BoolFlag{Name: "recall", Usage: "only what was signed again and should not have been"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			if plan := c.String("plan"); plan != "" {
				return showPlan(c, ui, a, plan)
			}
			r, err := a.Rotation(c.Context, c.Args().First())
			if err != nil {
				return err
			}
			plans, err := a.Plans(c.Context, r.ID)
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.line(struct {
					rotate.Rotation
					Plans []app.PlanState `json:"plans"`
				}{r, append([]app.PlanState{}, plans...)})
			}
			ui.printf("%s (%s)", r.ID, r.State)
			ui.printf("  from: %s", r.From)
			ui.printf("  to:   %s", r.To)
			ui.plans(plans)
			return nil
		}),
	}
}

func rotationParity(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "parity",
		Usage:     "prove that the new signatures say what the old ones do, no less and no more",
		ArgsUsage: "NAME",
		Description: `For every artifact the old signer signed: each statement of its that verifies is
there by the new signer, in the format it was to be signed in, over the same
digest and with the same payload; and the new signer says nothing else there. A
summary stands for the provenance it names. Every exception is listed.

It goes by the last scan; with --registry by the registry as it is now.

Examples:
  reseal rotation parity BUNDLES
  reseal rotation parity BUNDLES --registry --json` + exits("5 there are exceptions"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "plan", Usage: "the plan, by its `DIGEST` (default: the newest)"},
			&cli.BoolFlag{Name: "registry", Usage: "look at the registry itself"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			p, err := a.Parity(c.Context, c.Args().First(), c.String("plan"), c.Bool("registry"))
			if err != nil {
				return err
			}
			if !p.Holds {
				err = fmt.Errorf("rotation %s: %w: %d exceptions", p.Rotation, rotate.ErrNoParity, len(p.Exceptions))
			}
			if wantsJSON(c) {
				return errors.Join(ui.object("parity", p), err)
			}
			where := "as the last scan found it"
			if p.Registry {
				where = "as the registry is now"
			}
			ui.printf("plan %s, %s", short(p.Plan), where)
			ui.printf("%d artifacts, %d statements to be there: %d equal, %d summarised, %d exceptions", p.Artifacts, p.Statements, p.Equal, p.Summarised, len(p.Exceptions))
			for _, x := range p.Exceptions {
				ui.printf("  %s: %s %s %s: %s", x.What, x.Artifact, x.Format, x.Statement, x.Why)
			}
			return err
		}),
	}
}

func rotationClose(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "close",
		Usage:     "close a rotation, or say what is missing",
		ArgsUsage: "NAME",
		Description: `A rotation closes when everything deployed that the old signer signed is signed
again, nothing is to be recalled, and the old signer stands in no anchor. With
--abandon it ends where it is: what was signed stays signed.

Examples:
  reseal rotation close ROT-2026 --reason "done"
  reseal rotation close ROT-2026 --abandon --reason "the new key is another"` + exits("5 something is missing"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "reason", Usage: "`WHY`, for the journal", Required: true},
			&cli.BoolFlag{Name: "abandon", Usage: "end it where it is: its plans are void"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			name := c.Args().First()
			if c.Bool("abandon") {
				if err := a.AbandonRotation(c.Context, name, c.String("reason")); err != nil {
					return err
				}
				if wantsJSON(c) {
					return ui.object("closing", map[string]any{"incident": name, "abandoned": true})
				}
				ui.printf("rotation %s is abandoned", name)
				return nil
			}
			closing, err := a.CloseRotation(c.Context, name, c.String("reason"))
			return ui.closing(c, "rotation "+name, closing, err)
		}),
	}
}

// closing tells how closing an incident or a rotation went.
func (u *ui) closing(c *cli.Context, what string, closing rotate.Closing, err error) error {
	if wantsJSON(c) && (err == nil || errors.Is(err, rotate.ErrNotReady)) {
		return errors.Join(u.object("closing", closing), err)
	}
	for _, m := range closing.Missing {
		u.printf("missing: %s", m)
	}
	if errors.Is(err, rotate.ErrNotReady) { // what is missing is printed already
		err = fmt.Errorf("%s: %w", what, rotate.ErrNotReady)
	}
	if err != nil {
		return err
	}
	u.printf("%s is closed", what)
	return nil
}

// proposer returns the key that a plan is proposed with, nil if there is none.
func (u *ui) proposer(c *cli.Context, a *app.App) (signer.Signer, error) {
	file := c.String("key")
	switch {
	case c.Duration("skew") < 0:
		return nil, usageError{errors.New("--skew cannot be negative")}
	case c.Duration("expires") <= 0:
		return nil, usageError{errors.New("--expires must be in the future")}
	case c.String("as") != "" && file == "":
		return nil, usageError{errors.New("--as goes with --key: a name alone proves nothing")}
	case file == "":
		return nil, nil
	}
	return a.OpenKey(c.Context, keyOptions(c, u, file))
}

// proposed signs a plan that was made as its proposer, and shows it.
func (u *ui) proposed(c *cli.Context, a *app.App, key signer.Signer, p rotate.Plan, digest string, totals rotate.Totals) error {
	if key != nil {
		as := c.String("as")
		if as == "" {
			as = p.Proposer
		}
		if _, err := a.ApproveWithKey(c.Context, digest, as, key, true); err != nil {
			return fmt.Errorf("plan %s is made; proposing it: %w", digest, err)
		}
	}
	if wantsJSON(c) {
		return u.object("plan", planJSON{Digest: digest, Header: p, Totals: totals})
	}
	u.plan(digest, p, totals)
	u.printf("next: %d people approve it with: reseal incident approve %s --as NAME --key FILE", p.Quorum, short(digest))
	if key == nil {
		u.notef("it is not signed by who proposes it, so one more must approve: \"reseal incident approve %s --propose\" signs it", short(digest))
	}
	return nil
}

// plans lists plans and how far each has come.
func (u *ui) plans(plans []app.PlanState) {
	for _, p := range plans {
		u.printf("  plan %s by %s at %s: %d of %d approvals (%s)", short(p.Plan), p.Proposer, day(p.MadeAt), len(p.Approvers), p.Quorum, strings.Join(p.Approvers, ", "))
		for i := range p.BreakGlass {
			u.brokenGlass(&p.BreakGlass[i])
		}
		for _, state := range slices.Sorted(maps.Keys(p.Reissues)) {
			u.printf("    %s %d", state, p.Reissues[state])
		}
	}
}
