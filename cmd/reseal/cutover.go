package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/rotate"
)

func cutoverCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "cutover",
		Usage:     "remove the old signer from every anchor, if nothing good goes dark",
		ArgsUsage: "PLAN",
		Description: `Verifies every deployed artifact, as it is in the registry now, under the new
trust. Of files it looks at the signatures that are in --files-out now, beside
every copy of the file that --files has; without these it believes what was read
back when they were signed or imported, and says so. Only if all pass are the
anchors of the plan's consumers rewritten. This is the point of no return: the
old signer is revoked. After a rotation without an incident it is "old" instead,
and still trusted.

With --prune it changes no anchor and takes single signatures away instead: what
the replaced signers made and nothing places outside the window, on artifacts
that are good themselves, and what an earlier plan re-signed and nobody would
now (a recall). Each goes into the vault first, and stays out when signatures
are restored. The last valid signature of a deployed artifact is kept and
listed, unless the artifact is on hold and the plan accepts it as dark. What
stands in the registry now is looked at; what changed since the last scan is
left for the next one.

Examples:
  reseal cutover 3f9a2c --apply
  reseal cutover 3f9a2c --files dist/ --files-out resigned/ --apply
  reseal cutover 3f9a2c --prune
  reseal cutover 3f9a2c --prune --all-replaced --limit 5000 --apply` + exits("4 the plan is not approved", "5 a deployed artifact would go dark, or over a ceiling"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "files-out", Usage: "`DIR` that new signatures of files were put in"},
			&cli.StringFlag{Name: "files", Usage: "`DIR` below which the files are, as given to reseal resign"},
			&cli.BoolFlag{Name: "prune", Usage: "take rogue and recalled signatures away; no anchor is changed"},
			&cli.BoolFlag{Name: "all-replaced", Usage: "with --prune: after the cut-over, every signature of the replaced signers"},
			&cli.Int64Flag{Name: "limit", Value: 1000, Usage: "with --prune: stop before taking more than `N` signatures away; 0: no limit"},
			&cli.Float64Flag{Name: "max-share", Usage: "with --prune: stop before taking more than this `SHARE` of the inventory's signatures away, 0 to 1; 0: no limit"},
			&applyFlag,
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			plan := c.Args().First()
			if c.Bool("prune") {
				for _, name := range []string{"files", "files-out"} {
					if c.IsSet(name) {
						return usageError{fmt.Errorf("--%s does not go with --prune: nothing of files is taken away", name)}
					}
				}
				return prune(ui, c, a, plan)
			}
			for _, name := range []string{"all-replaced", "limit", "max-share"} {
				if c.IsSet(name) {
					return usageError{fmt.Errorf("--%s goes with --prune", name)}
				}
			}
			if c.IsSet("files") && !c.IsSet("files-out") {
				return usageError{errors.New("--files goes with --files-out: where are the signatures?")}
			}
			files, closeFiles, err := a.OpenFiles(filesOptions(c))
			if err != nil {
				return err
			}
			defer closeFiles() //nolint:errcheck // nothing was written
			r, runErr := a.CutOver(c.Context, plan, files, c.Bool("apply"))
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
			if r.Recorded > 0 {
				ui.printf("%d of these checks are of files that nobody looked at again: they go by what was read back when they were signed or imported. Where the directory of the signatures is, give it (--files-out)", r.Recorded)
			}
			for _, name := range r.Anchors {
				ui.printf("%s the anchor of %s", ui.verb(r.Applied && runErr == nil, "rewrote", "would rewrite"), name)
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

// prune takes single signatures away.
func prune(ui *ui, c *cli.Context, a *app.App, plan string) error {
	limits := rotate.PruneLimits{MaxSignatures: c.Int64("limit"), MaxShare: c.Float64("max-share")}
	if limits.MaxSignatures < 0 || !(limits.MaxShare >= 0 && limits.MaxShare <= 1) {
		return usageError{errors.New("--limit is a number of signatures, and --max-share a share between 0 and 1")}
	}
	p := ui.progress("artifacts", 0)
	r, runErr := a.Prune(c.Context, app.PruneOptions{Plan: plan, All: c.Bool("all-replaced"), Limits: limits, Apply: c.Bool("apply"),
		Progress: func(done, total int64, r rotate.PruneResult) {
			p.of(done, total, fmt.Sprintf("%d taken away, %d kept, %d failed", len(r.Pruned), len(r.Kept), len(r.Failed)))
		}})
	p.end()
	if runErr != nil && r.Incident == "" {
		return runErr
	}
	if wantsJSON(c) {
		return errors.Join(ui.object("prune", r), runErr)
	}
	ui.brokenGlass(r.BreakGlass)
	verb := ui.verb(r.Applied, "took away", "would take away")
	for _, i := range r.Pruned {
		ui.printf("%s %s", verb, pruneLine(i))
		ui.printf("    %s", i.Why)
	}
	ui.printf("%d signatures %s, %d kept, %d gone already, %d failed; %d requests in %s", len(r.Pruned), ui.verb(r.Applied, "taken away", "to take away"),
		len(r.Kept), len(r.Gone), len(r.Failed), r.Requests, time.Duration(r.DurationSeconds*float64(time.Second)).Round(time.Millisecond))
	for _, list := range []struct {
		what  string
		items []rotate.PruneItem
	}{{"kept", r.Kept}, {"failed", r.Failed}} {
		by := map[string][]rotate.PruneItem{}
		for _, i := range list.items {
			by[i.Why] = append(by[i.Why], i)
		}
		for _, why := range slices.Sorted(maps.Keys(by)) {
			ui.printf("%s, %d: %s", list.what, len(by[why]), why)
			for n, i := range by[why] {
				if n == maxPruneLines {
					ui.printf("  and %d more: --json lists all", len(by[why])-n)
					break
				}
				ui.printf("  %s", pruneLine(i))
			}
		}
	}
	for _, left := range r.Left {
		ui.printf("no verifier finds it any more, but it can still be had by digest: %s", left)
	}
	if !errors.Is(runErr, rotate.ErrOverLimit) {
		ui.dryRun(r.Applied)
	}
	return runErr
}

// maxPruneLines is how many signatures are shown of those kept, or failed, for
// one reason.
const maxPruneLines = 20

func pruneLine(i rotate.PruneItem) string {
	at := ""
	if i.Location != "" {
		at = " in " + i.Location
	}
	deployed := ""
	if i.Deployed {
		deployed = ", deployed"
	}
	return fmt.Sprintf("%s  %s (%s%s) by %s on %s%s", i.Cause, i.PredicateType, i.Format, at, i.Signer, i.Artifact, deployed)
}
