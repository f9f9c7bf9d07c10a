package main

import (
	"bufio"
	"crypto"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/inventory/scan"
	"github.com/reseal/reseal/signer"
)

type (
	scanProgress = func(scan.Progress)
	scanResult   = scan.Result
)

func scanCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "scan",
		Usage:     "find every signature in registries and keep it in the inventory",
		ArgsUsage: "REPOSITORY|REGISTRY|IMAGE|-...",
		Description: `Reads only. A registry without a path means every repository in its catalog, an
image is scanned alone, and - reads targets from standard input, one a line.
What did not change since the last scan is not fetched again; interrupted, a
scan resumes where it stopped. One broken image never stops a scan: it is
counted, listed, and the exit code is 1.

Examples:
  reseal scan registry.example/acme/app registry.example/acme/web
  reseal scan registry.example --key former.pub
  reseal scan registry.example/acme/app --cosign-repository registry.example/signatures
  crane catalog registry.example | sed s,^,registry.example/, | reseal scan -` + exits(),
		Flags: []cli.Flag{
			keyFlag(),
			&cli.StringFlag{Name: "cosign-repository", Usage: "`REPOSITORY` that holds the signatures instead, as COSIGN_REPOSITORY has it"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			keys, err := ui.keys(c)
			if err != nil {
				return err
			}
			o := app.ScanOptions{Targets: ui.targets(c), Keys: keys, Location: c.String("cosign-repository")}
			return ui.scan(c, a, func(progress scanProgress) (scanResult, error) { return a.Scan(c.Context, o, progress) })
		}),
	}
}

func keyFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "key", Usage: "public key `FILE` that may have signed, without enrolling it (repeat)"}
}

// keys reads the files that --key names.
func (u *ui) keys(c *cli.Context) (keys []crypto.PublicKey, err error) {
	for _, file := range c.StringSlice("key") {
		content, err := u.read(file, maxFile)
		if err != nil {
			return nil, fmt.Errorf("--key: %w", err)
		}
		pub, _, err := signer.ParsePublicKey(content)
		if err != nil {
			return nil, fmt.Errorf("--key %s: %w", file, err)
		}
		keys = append(keys, pub)
	}
	return keys, nil
}

// targets yields the arguments, and for "-" the lines of standard input.
func (u *ui) targets(c *cli.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, arg := range c.Args().Slice() {
			if arg != "-" {
				if !yield(arg, nil) {
					return
				}
				continue
			}
			lines := bufio.NewScanner(u.in)
			for lines.Scan() {
				line := strings.TrimSpace(lines.Text())
				if line == "" || strings.HasPrefix(line, "#") {
					continue
				}
				if !yield(line, nil) {
					return
				}
			}
			if err := lines.Err(); err != nil && !yield("", fmt.Errorf("standard input: %w", err)) {
				return
			}
		}
	}
}

// scan runs a scan with its progress and says what came of it.
func (u *ui) scan(c *cli.Context, a *app.App, do func(scanProgress) (scanResult, error)) error {
	start := time.Now()
	p := u.progress("looked at", 0)
	r, scanErr := do(func(now scan.Progress) {
		p.of(now.Done, now.Total, fmt.Sprintf("%d artifacts, %d signatures, %d problems, %d retries, %d repositories, in %s",
			now.Result.Artifacts, now.Result.Signatures, now.Result.Problems, now.Retries, now.Repositories, now.Repository))
	})
	p.end()
	if scanErr != nil && !errors.Is(scanErr, app.ErrIncomplete) {
		return scanErr
	}
	problems, err := a.Problems(c.Context)
	if err != nil {
		return err
	}
	stale, err := a.Stale(c.Context)
	if err != nil {
		return err
	}
	if stale {
		u.notef("the trusted root or the known keys changed since the inventory was verified: run \"reseal reverify\"")
	}
	if wantsJSON(c) {
		out := struct {
			scan.Result
			Requests        int64               `json:"requests"`
			DurationSeconds float64             `json:"duration_seconds"`
			Stale           bool                `json:"stale"` // reverify is due
			Unread          []inventory.Problem `json:"unread"`
		}{r, a.Requests(), time.Since(start).Seconds(), stale, append([]inventory.Problem{}, problems...)}
		return errors.Join(u.object("scan", out), scanErr)
	}
	u.printf("%d repositories, %d artifacts, %d signatures: %d verified, %d not; %d requests in %s",
		r.Repositories, r.Artifacts, r.Signatures, r.Verified, r.Unverified, a.Requests(), time.Since(start).Round(time.Millisecond))
	for _, x := range problems {
		u.printf("not read: %s %s: %s", x.Repository, x.Reference, x.Problem)
	}
	return scanErr
}

func deployedCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "deployed",
		Usage:     "mark what is running somewhere",
		ArgsUsage: "FILE|-",
		Description: `Reads one "repository@sha256:<hex>" or bare digest a line, or with --pods what
"kubectl get pods -A -o json" prints. What is deployed comes first in every
plan and is what the cut-over gate protects.

Examples:
  reseal deployed running.txt
  kubectl get pods -A -o json | reseal deployed --pods -` + exits(),
		Flags: []cli.Flag{&cli.BoolFlag{Name: "pods", Usage: "the file is JSON of Kubernetes pods"}},
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
			d, err := a.MarkDeployed(c.Context, source, r, c.Bool("pods"))
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.object("deployed", d)
			}
			ui.printf("%d marked as deployed, %d not in the inventory, %d cannot be told by digest", d.Marked, len(d.Unknown), len(d.Undetermined))
			for _, ref := range d.Unknown {
				ui.printf("not in the inventory: %s", ref)
			}
			for _, what := range d.Undetermined {
				ui.printf("cannot be told: %s", what)
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
