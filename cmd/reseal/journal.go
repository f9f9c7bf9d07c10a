package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/journal"
)

func journalCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "journal",
		Usage: "show, export and verify the record of everything that was done",
		Subcommands: []*cli.Command{
			{
				Name:        "show",
				Usage:       "print the entries",
				Description: "With --json prints one entry a line.\n\nExample:\n  reseal journal show --from 100 --sightings" + exits(),
				Flags: []cli.Flag{
					&cli.Int64Flag{Name: "from", Usage: "start at entry `N`"},
					&cli.BoolFlag{Name: "sightings", Usage: "print each thing sighted, too"},
				},
				Action: in(func(c *cli.Context, a *app.App) error {
					next := a.Journal(c.Context, c.Int64("from"))
					for {
						e, err := next()
						if errors.Is(err, io.EOF) {
							return nil
						}
						if err != nil {
							return err
						}
						if wantsJSON(c) {
							if err := ui.object("journal-entry", e); err != nil {
								return err
							}
							continue
						}
						ui.printf("%d %s %s (%s) %s %s %s", e.Index, e.Time.Format(time.RFC3339), e.Actor, e.Reason, e.Action, e.Subject, short(e.Digest))
						if !c.Bool("sightings") || e.Action != store.Sighted {
							continue
						}
						sightings, err := a.Sightings(c.Context, e.Digest)
						if err != nil {
							return err
						}
						for _, s := range sightings {
							ui.printf("    %s %s %s", s.Action, s.Subject, short(s.Digest))
						}
					}
				}),
			},
			{
				Name:        "export",
				Usage:       "write all entries and a signed checkpoint to a file",
				ArgsUsage:   "FILE|-",
				Description: "Anyone can verify the file offline with journal.pub.\n\nExample:\n  reseal journal export journal.txt" + exits(),
				Action: in(func(c *cli.Context, a *app.App) error {
					file := c.Args().First()
					if file == "-" {
						return a.ExportJournal(c.Context, ui.out)
					}
					f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
					if err != nil {
						return fmt.Errorf("export: %w", err)
					}
					return errors.Join(a.ExportJournal(c.Context, f), f.Sync(), f.Close())
				}),
			},
			{
				Name:      "sightings",
				Usage:     "print what one entry says was sighted",
				ArgsUsage: "DIGEST",
				Description: `A scan journals what it sees in one entry for each commit; the entry's digest is
the SHA-256 of these very bytes: one line for each sighting, with what
happened, to what, and the digest of the bytes seen.

Example:
  reseal journal sightings sha256:... | sha256sum` + exits(),
				Action: in(func(c *cli.Context, a *app.App) error {
					body, err := a.Vault(c.Context, c.Args().First())
					if err != nil {
						return err
					}
					_, err = ui.out.Write(body)
					return err
				}),
			},
			journalVerify(ui),
		},
	}
}

func journalVerify(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "recompute the journal's Merkle tree and compare it with its checkpoint",
		Description: `Verifies the journal of the home or, with --export, a file made by "journal
export": that needs neither home nor database nor network.

Examples:
  reseal journal verify
  reseal journal verify --export journal.txt --key journal.pub` + exits("3 it was changed"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "export", Usage: "exported `FILE` to verify"},
			&cli.StringFlag{Name: "key", Usage: "public key `FILE` of the journal (journal.pub)"},
		},
		Action: func(c *cli.Context) error {
			if (c.String("export") == "") != (c.String("key") == "") {
				return usageError{errors.New("--export and --key go together")}
			}
			var state app.JournalState
			if c.String("export") != "" {
				st, err := verifyExport(ui, c.String("export"), c.String("key"))
				if err != nil {
					return err
				}
				state = st
			} else if err := in(func(c *cli.Context, a *app.App) (err error) {
				if state, err = a.VerifyJournal(c.Context); err != nil {
					return fmt.Errorf("%w: %w", errRefused, err)
				}
				return nil
			})(c); err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.object("journal", state)
			}
			ui.printf("journal is whole: %d entries, root %s, %d under the last signed checkpoint", state.Entries, state.Root, state.Checkpoint)
			return nil
		},
	}
}

func verifyExport(ui *ui, file, keyFile string) (app.JournalState, error) {
	public, err := ui.read(keyFile, maxFile)
	if err != nil {
		return app.JournalState{}, err
	}
	key, err := app.JournalKey(public)
	if err != nil {
		return app.JournalState{}, err
	}
	f, err := os.Open(file)
	if err != nil {
		return app.JournalState{}, err
	}
	defer f.Close()
	cp, err := journal.VerifyExport(f, key)
	if err != nil {
		return app.JournalState{}, fmt.Errorf("%w: %s: %w", errRefused, file, err)
	}
	return app.JournalState{Entries: cp.Size, Root: cp.Root.String(), Checkpoint: cp.Size}, nil
}
