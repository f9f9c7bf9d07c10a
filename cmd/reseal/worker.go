package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
)

func workerCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "worker",
		Usage: "re-sign, together with other machines, what was left to the workers",
		Description: `Takes shards of whatever approved plan names this key as the new signer, from a
PostgreSQL inventory that any number of workers share; "reseal resign PLAN
--workers --apply" leaves a plan to them. It runs until it is stopped.

The first interrupt or SIGTERM drains it: what is in flight is finished, the rest
is given back, and it exits with 0. A second one, or the end of --grace, cuts it
off; other workers go on from there. A worker that dies is noticed when its lease
ends; one that was paused for longer finds its shards taken and records nothing.

Example:
  COSIGN_PASSWORD=... reseal worker --db postgres://reseal@db.example/reseal --key next.key` + exits(),
		Flags: slices.Concat(signerFlags(), servicesFlags(), filesFlags(), []cli.Flag{
			&cli.BoolFlag{Name: "batch", Usage: "sign many images of a repository with one statement"},
			&cli.Float64Flag{Name: "rate", Usage: "no more than `N` signatures a second"},
			&cli.IntFlag{Name: "parallel", Value: 8, Usage: "work on `N` artifacts at once"},
			&cli.DurationFlag{Name: "lease", Value: app.DefaultLease, Usage: "`TIME` after which a worker that is not heard of counts as dead"},
			&cli.DurationFlag{Name: "grace", Usage: "`TIME` that what is in flight may take once it drains (default: half of --lease)"},
		}),
		Action: withSigner(ui, func(c *cli.Context, a *app.App, who app.SignerOptions) error {
			if c.Duration("lease") < time.Second {
				return usageError{errors.New("--lease must be a second or more")}
			}
			if c.Float64("rate") < 0 || c.Int("parallel") < 1 {
				return usageError{errors.New("--rate cannot be negative, and --parallel is at least 1")}
			}
			stamps, err := ui.services(c, a)
			if err != nil {
				return err
			}
			source, err := a.OpenSigner(c.Context, who)
			if err != nil {
				return err
			}
			files, closeFiles, err := a.OpenFiles(filesOptions(c))
			if err != nil {
				return err
			}
			defer closeFiles() //nolint:errcheck // nothing is left to be written
			// The context of the command ends with the first signal, which only drains.
			ctx, cancel := context.WithCancel(context.WithoutCancel(c.Context))
			defer cancel()
			drain := make(chan struct{})
			stop := onSignals(ctx, func() { close(drain) }, cancel)
			defer stop()
			r, err := a.Work(ctx, app.WorkOptions{Signer: source, Services: stamps, Files: files, Batch: c.Bool("batch"), Parallel: c.Int("parallel"), Rate: c.Float64("rate"),
				Lease: c.Duration("lease"), Grace: c.Duration("grace"), Drain: drain, Log: slog.New(slog.NewTextHandler(ui.err, nil))})
			if err != nil && r.Shards == 0 && ctx.Err() == nil {
				return err
			}
			if wantsJSON(c) {
				return errors.Join(ui.object("worker", r), err)
			}
			ui.printf("%d shards completed, %d lost to other workers: %d signed, %d signed already, %d held back, %d failed",
				r.Shards, r.Lost, r.Signed, r.Already, r.Held, r.Failed)
			return err
		}),
	}
}

// onSignals calls first at the first interrupt or SIGTERM and second at the
// next, until it is stopped.
func onSignals(ctx context.Context, first, second func()) (stop func()) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for _, act := range []func(){first, second} {
			select {
			case <-ctx.Done():
				return
			case <-signals:
				act()
			}
		}
	}()
	return func() { signal.Stop(signals) }
}

// enqueue leaves a plan to the workers.
func enqueue(c *cli.Context, ui *ui, a *app.App) error {
	q, err := a.Enqueue(c.Context, c.Args().First(), selection(c), c.Bool("apply"))
	if err != nil {
		return err
	}
	if wantsJSON(c) {
		return ui.object("resign-queued", q)
	}
	ui.brokenGlass(q.BreakGlass)
	if q.Applied {
		ui.printf("%d statements in %d shards are left to the workers, %d of these queued now", q.Items, q.Shards, q.Jobs)
		ui.printf("next: reseal worker --key FILE, on any number of machines; reseal resign %s --status", short(q.Plan))
	} else {
		ui.printf("%d statements in %d shards would be left to the workers", q.Items, q.Shards)
	}
	ui.dryRun(q.Applied)
	return nil
}

// resignStatus tells how far a plan has come.
func resignStatus(c *cli.Context, ui *ui, a *app.App) error {
	s, err := a.Status(c.Context, c.Args().First())
	if err != nil {
		return err
	}
	if wantsJSON(c) {
		return ui.object("resign-status", s)
	}
	ui.printf("plan %s for %s: %d statements, %d signatures", s.Plan, s.Incident, s.Items, s.Planned)
	ui.printf("signatures: %d signed, %d signed already, %d held back, %d failed, %d left", s.Signed, s.Already, s.Held, s.Failed, s.Left)
	if s.Shards.Total == 0 {
		ui.printf("it was never started")
		return nil
	}
	rate := fmt.Sprintf("%.1f a second over the last minute", s.Rate)
	if s.ETA != nil && s.Left > 0 {
		rate += fmt.Sprintf(", %s left", time.Duration(*s.ETA*float64(time.Second)).Round(time.Second))
	}
	ui.printf("rate:       %s", rate)
	ui.printf("shards:     %d done, %d failed, %d running, %d ready", s.Shards.Done, s.Shards.Failed, s.Shards.Running, s.Shards.Ready)
	for _, w := range s.Workers {
		ui.printf("worker:     %s has %s since %s, %.1f a second, counts as dead at %s", w.Owner, shardWords(w.Shards),
			w.Since.Format(time.RFC3339), w.Rate, w.Until.Format(time.RFC3339))
	}
	ui.hosts(s.Hosts)
	for _, r := range s.Reasons {
		ui.printf("  %s %d times: %s", r.State, r.Units, r.Why)
	}
	return nil
}

func shardWords(list []int64) string {
	if len(list) > 8 {
		return fmt.Sprintf("%d shards", len(list))
	}
	return "shard " + strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ", "), "[]")
}
