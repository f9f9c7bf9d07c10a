package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"github.com/urfave/cli/v2"
	"golang.org/x/mod/sumdb/note"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/rotate/pack"
)

func evidenceCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "evidence",
		Usage: "pack what was done about an incident so that a stranger can verify it",
		Subcommands: []*cli.Command{
			{
				Name:      "pack",
				Usage:     "make and seal the evidence pack of an incident",
				ArgsUsage: "INCIDENT PATH",
				Description: `Writes a directory, or a tar when PATH ends in .tar: the incident with its history,
plans, approvals, revocation statements, statements before and after, the
journal's entries about it with their proofs, and a report for people. Its README
says how anybody verifies it without reseal.

Examples:
  reseal evidence pack INC-1 inc-1-evidence
  reseal evidence pack INC-1 inc-1-evidence.tar` + exits(),
				Action: in(func(c *cli.Context, a *app.App) error {
					sealed, err := a.PackEvidence(c.Context, c.Args().Get(0), c.Args().Get(1))
					if err != nil {
						return err
					}
					if wantsJSON(c) {
						return ui.object("evidence", sealed)
					}
					ui.printf("%s is sealed: manifest %s, journal entry %d", sealed.Path, sealed.Manifest, sealed.Entry)
					ui.printf("next: reseal evidence verify %s, and keep journal.pub where whoever verifies it can trust it", sealed.Path)
					return nil
				}),
			},
			{
				Name:      "verify",
				Usage:     "verify an evidence pack; needs no home, database or network",
				ArgsUsage: "PATH",
				Description: `Every file against the sealed manifest, the seal and the journal's entries against
the signed checkpoint, the digests of the plans, and the approvals. Without --key
the pack's own journal key is used, which shows that the pack is whole but not
whose it is.

Example:
  reseal evidence verify inc-1-evidence --key journal.pub` + exits("3 it was changed"),
				Flags: []cli.Flag{&cli.StringFlag{Name: "key", Usage: "public key `FILE` of the journal (journal.pub), from whoever made the pack"}},
				Action: func(c *cli.Context) error {
					var key note.Verifier
					if file := c.String("key"); file != "" {
						public, err := ui.read(file, maxFile)
						if err == nil {
							key, err = app.JournalKey(public)
						}
						if err != nil {
							return fmt.Errorf("--key %s: %w", file, err)
						}
					}
					r, err := app.VerifyEvidence(c.Args().First(), key)
					if errors.As(err, new(*fs.PathError)) { // it could not be read, which says nothing about it
						return err
					}
					if err != nil {
						return fmt.Errorf("%w: %w", errRefused, err)
					}
					if wantsJSON(c) {
						err = ui.line(r)
					} else {
						ui.checks(r)
					}
					if !r.OK() {
						return errors.Join(err, fmt.Errorf("%w: %s is not what was sealed", errRefused, c.Args().First()))
					}
					return err
				},
			},
		},
	}
}

// checks prints what was checked of an evidence pack.
func (u *ui) checks(r pack.Result) {
	for _, x := range r.Checks {
		mark := "ok   "
		switch {
		case !x.OK:
			mark = "WRONG"
		case x.Unchecked:
			mark = "part "
		}
		u.printf("%s %s: %s", mark, x.Name, x.Detail)
	}
	for _, b := range r.BreakGlass {
		u.printf("%s", b)
	}
	for _, w := range r.Warnings {
		u.notef("%s", w)
	}
}

func reportCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "report",
		Usage:     "tell the story of an incident for people",
		ArgsUsage: "INCIDENT",
		Description: `What was compromised, what was decided and why, who approved, what was done when,
what is still missing. A broken glass stands at its top.

Examples:
  reseal report INC-1 --html report.html
  reseal report INC-1 > report.md` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "html", Usage: "write it as HTML to this `FILE`; else Markdown is printed"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			r, err := a.IncidentReport(c.Context, c.Args().First())
			if err != nil {
				return err
			}
			if file := c.String("html"); file != "" {
				var page bytes.Buffer
				if err := r.HTML(&page); err != nil {
					return err
				}
				return durable.WriteFile(file, page.Bytes(), 0o644)
			}
			if wantsJSON(c) {
				return ui.object("report", r)
			}
			return r.Markdown(ui.out)
		}),
	}
}
