package main

import (
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/inventory/scan"
	"github.com/reseal/reseal/signer"
)

func scanCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "scan",
		Usage:     "find every signature in registries and keep it in the inventory",
		ArgsUsage: "REPOSITORY|REGISTRY...",
		Description: `Reads only. A registry without a path means every repository in its catalog.
One broken image never stops a scan: it is counted, listed, and the exit code
is 1.

Examples:
  reseal scan registry.example/acme/app registry.example/acme/web
  reseal scan registry.example --key former.pub` + exits(),
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "key", Usage: "public key `FILE` that may have signed, without enrolling it (repeat)"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			targets := c.Args().Slice()
			var keys []crypto.PublicKey
			for _, file := range c.StringSlice("key") {
				content, err := ui.read(file, maxFile)
				if err != nil {
					return fmt.Errorf("--key: %w", err)
				}
				pub, _, err := signer.ParsePublicKey(content)
				if err != nil {
					return fmt.Errorf("--key %s: %w", file, err)
				}
				keys = append(keys, pub)
			}
			start := time.Now()
			p := ui.progress("artifacts", 0)
			r, scanErr := a.Scan(c.Context, targets, keys, func(repository string, r scan.Result) {
				p.at(r.Artifacts, fmt.Sprintf("%d signatures, %d problems, in %s", r.Signatures, r.Problems, repository))
			})
			p.end()
			if scanErr != nil && !errors.Is(scanErr, app.ErrIncomplete) {
				return scanErr
			}
			problems, err := a.Problems(c.Context)
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				out := struct {
					scan.Result
					Requests        int64               `json:"requests"`
					DurationSeconds float64             `json:"duration_seconds"`
					Unread          []inventory.Problem `json:"unread"`
				}{r, a.Requests(), time.Since(start).Seconds(), append([]inventory.Problem{}, problems...)}
				return errors.Join(ui.object("scan", out), scanErr)
			}
			ui.printf("%d repositories, %d artifacts, %d signatures: %d verified, %d not; %d requests in %s",
				r.Repositories, r.Artifacts, r.Signatures, r.Verified, r.Unverified, a.Requests(), time.Since(start).Round(time.Millisecond))
			for _, x := range problems {
				ui.printf("not read: %s %s: %s", x.Repository, x.Reference, x.Problem)
			}
			return scanErr
		}),
	}
}

func deployedCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "deployed",
		Usage:     "mark what is running somewhere",
		ArgsUsage: "FILE|-",
		Description: `Reads one "repository@sha256:<hex>" or bare digest a line. What is deployed
comes first in every plan and is what the cut-over gate protects.

Example:
  reseal deployed running.txt` + exits(),
		Action: in(func(c *cli.Context, a *app.App) error {
			file := c.Args().First()
			source, r := file, io.Reader(ui.in)
			if source != "-" {
				f, err := os.Open(source)
				if err != nil {
					return err
				}
				defer f.Close()
				r = f
			}
			n, unknown, err := a.MarkDeployed(c.Context, source, r)
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.object("deployed", map[string]any{"marked": n, "unknown": append([]string{}, unknown...)})
			}
			ui.printf("%d marked as deployed, %d not in the inventory", n, len(unknown))
			for _, ref := range unknown {
				ui.printf("not in the inventory: %s", ref)
			}
			return nil
		}),
	}
}

// day prints a time for a person; nothing when there is none.
func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04")
}

// short shortens digests and fingerprints for a table.
func short(id string) string {
	head, hex, ok := strings.Cut(id, "sha256:")
	if !ok || len(hex) <= 12 {
		return id
	}
	return head + hex[:12]
}
