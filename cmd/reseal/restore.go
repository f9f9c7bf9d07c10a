package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/inventory/restore"
)

func restoreCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "put signatures that a registry lost back from the vault",
		ArgsUsage: "REPOSITORY...",
		Description: `Looks at what each artifact still carries and puts back what the inventory has
besides, as the exact bytes that were there. Left out is what does not verify,
what a tainted or revoked signer made, and whatever an incident marks as rogue.
A repository with a * at its end stands for all that start so.

Examples:
  reseal restore registry.example/acme/app
  reseal restore "registry.example/*" --apply` + exits("5 over --max-artifacts"),
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "signer", Usage: "only on what this signer signed: `NAME` or ID (repeat)"},
			&cli.Int64Flag{Name: "max-artifacts", Usage: "stop before writing to more than `N` artifacts"},
			&cli.BoolFlag{Name: "list", Usage: "list every signature and what becomes of it"},
			&cli.BoolFlag{Name: "apply", Usage: "do it; without this nothing is written"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			ids, err := signerIDs(c, a)
			if err != nil {
				return err
			}
			apply := c.Bool("apply")
			o := app.RestoreOptions{Repositories: c.Args().Slice(), Signers: ids, MaxArtifacts: c.Int64("max-artifacts")}
			o.Report = func(i restore.Item) {
				if wantsJSON(c) || i.Outcome != restore.Failed && !c.Bool("list") {
					return
				}
				ui.printf("%s  %s@%s  %s  %s", outcome(i, apply), i.Signature.Repository, short(i.Signature.Digest), i.Signature.Format, strings.TrimSpace(string(i.Reason)+" "+i.Why))
			}
			p := ui.progress("artifacts", 0)
			r, err := a.Restore(c.Context, o, apply, func(r restore.Result) {
				p.at(r.Artifacts, fmt.Sprintf("%d restored, %d left out, %d failed", r.Restored, r.LeftOut, r.Failed))
			})
			p.end()
			if err != nil {
				return err
			}
			if r.Failed > 0 {
				err = fmt.Errorf("%d signatures could not be put back: run it again when the reason is gone", r.Failed)
			}
			if wantsJSON(c) {
				return errors.Join(ui.object("restore", r), err)
			}
			done := "restored"
			if !apply {
				done = "would be restored"
			}
			ui.printf("%d artifacts with %d signatures: %d %s, %d there already, %d left out, %d without their artifact, %d failed; %d manifests, %d of them byte for byte; %d requests",
				r.Artifacts, r.Signatures, r.Restored, done, r.Already, r.LeftOut, r.MissingSubject, r.Failed, r.Manifests, r.Identical, r.Requests)
			for _, why := range slices.Sorted(maps.Keys(r.Reasons)) {
				ui.printf("left out, %s: %d", strings.ReplaceAll(string(why), "_", " "), r.Reasons[why])
			}
			if !apply && r.Restored > 0 {
				ui.printf("nothing was written: add --apply")
			}
			return err
		}),
	}
}

func outcome(i restore.Item, apply bool) string {
	if i.Outcome == restore.Restored && !apply {
		return "would be restored"
	}
	return strings.ReplaceAll(string(i.Outcome), "_", " ")
}
