package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
					return exportJournal(c, a, file)
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
			journalAnchor(ui), journalProve(ui), journalVerify(ui),
		},
	}
}

// exportJournal writes an export that is there as a whole or not at all. One
// that exists is never overwritten.
func exportJournal(c *cli.Context, a *app.App, file string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	if err := errors.Join(f.Chmod(0o644), a.ExportJournal(c.Context, f), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if err := os.Link(f.Name(), file); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

func journalAnchor(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "anchor",
		Usage: "put a checkpoint of the journal where nobody here can change it",
		Description: `A checkpoint commits to every entry. In a file or an image elsewhere it proves
that nothing before it was changed or cut. A timestamp token over it (RFC 3161)
also makes it a time proof: everything in the journal existed by then, every
signature ever sighted included, even by a key that used no log. One token covers
the whole inventory, touches no registry and needs no signing key.

Examples:
  reseal journal anchor --timestamp-server-url https://tsa.example/api/v1/timestamp
  reseal journal anchor --file /mnt/elsewhere/checkpoint
  reseal journal anchor --image registry.example/audit/reseal` + exits(),
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "timestamp-server-url", Usage: "`URL` of an RFC 3161 timestamp authority of the trusted root (repeat)"},
			&cli.StringSliceFlag{Name: "file", Usage: "`FILE` outside this machine's reach (repeat)"},
			&cli.StringSliceFlag{Name: "image", Usage: "`REPOSITORY` that gets the checkpoint as an OCI artifact (repeat)"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			o := app.AnchorOptions{TimestampURLs: c.StringSlice("timestamp-server-url"), Files: c.StringSlice("file"), Images: c.StringSlice("image")}
			if len(o.TimestampURLs)+len(o.Files)+len(o.Images) == 0 {
				return usageError{errors.New("anchor where? give --timestamp-server-url, --file or --image")}
			}
			p := ui.progress("signatures given a time proof", 0)
			o.Progress = func(n int64) { p.at(n, "") }
			list, err := a.AnchorJournal(c.Context, o)
			p.end()
			if wantsJSON(c) {
				return errors.Join(ui.object("anchored", map[string]any{"receipts": append([]app.Anchored{}, list...)}), err)
			}
			for _, x := range list {
				ui.printf("%d entries anchored: %s", x.Size, x.Where)
				if x.Signatures > 0 {
					ui.printf("  %d signatures are proven to have existed by %s", x.Signatures, x.Time.Format(time.RFC3339))
				}
			}
			return err
		}),
	}
}

func journalProve(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "prove",
		Usage: "print the proof that an entry is in the journal, or that it only grew",
		Description: `Prints JSON: an inclusion proof (RFC 6962) of one entry against the journal as it
is now, or with --from the consistency proof between the journal of that size and
now.

Examples:
  reseal journal prove --entry 42
  reseal journal prove --from 1000` + exits(),
		Flags: []cli.Flag{
			&cli.Int64Flag{Name: "entry", Value: -1, Usage: "`N` of the entry"},
			&cli.Int64Flag{Name: "from", Value: -1, Usage: "earlier `SIZE` of the journal"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			entry, from := c.Int64("entry"), c.Int64("from")
			if (entry < 0) == (from < 0) {
				return usageError{errors.New("prove what? give --entry or --from")}
			}
			if entry >= 0 {
				p, err := a.ProveEntry(c.Context, entry)
				if err != nil {
					return err
				}
				return ui.line(p)
			}
			p, err := a.ProveConsistency(c.Context, from)
			if err != nil {
				return err
			}
			return ui.line(p)
		}),
	}
}

func journalVerify(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "recompute the journal's Merkle tree and compare it with its checkpoints and with the database",
		Description: `Verifies the journal of the home: its tree against the last signed checkpoint and
against every checkpoint that was anchored, and each row of the database against
what the journal says of it. With --export it verifies a file made by "journal
export" instead: that needs neither home nor database nor network.
--checkpoint holds it against a checkpoint that was kept elsewhere: someone who
owns this machine can cut the journal and sign it anew, and only that tells.

Examples:
  reseal journal verify
  reseal journal verify --checkpoint /mnt/elsewhere/checkpoint
  reseal journal verify --export journal.txt --key journal.pub` + exits("3 it was changed"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "export", Usage: "exported `FILE` to verify"},
			&cli.StringFlag{Name: "key", Usage: "public key `FILE` of the journal (journal.pub)"},
			&cli.StringSliceFlag{Name: "checkpoint", Usage: "`FILE` with an earlier checkpoint (repeat)"},
		},
		Action: func(c *cli.Context) error {
			if (c.String("export") == "") != (c.String("key") == "") {
				return usageError{errors.New("--export and --key go together")}
			}
			var kept []journal.Receipt
			for _, file := range c.StringSlice("checkpoint") {
				content, err := ui.read(file, maxFile)
				if err != nil {
					return fmt.Errorf("--checkpoint: %w", err)
				}
				r, err := app.ReadReceipt(file, content)
				if err != nil {
					return fmt.Errorf("--checkpoint: %w", err)
				}
				kept = append(kept, r)
			}
			var state app.JournalState
			if c.String("export") != "" {
				st, err := verifyExport(ui, c.String("export"), c.String("key"), kept)
				if err != nil {
					return err
				}
				state = st
			} else if err := in(func(c *cli.Context, a *app.App) (err error) {
				if state, err = a.VerifyJournal(c.Context, kept...); err != nil {
					return fmt.Errorf("%w: %w", errRefused, err)
				}
				return nil
			})(c); err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.object("journal", state)
			}
			ui.printf("journal is whole: %d entries, root %s, %d under the last signed checkpoint, %d anchored checkpoints hold", state.Entries, state.Root, state.Checkpoint, state.Anchored)
			return nil
		},
	}
}

func verifyExport(ui *ui, file, keyFile string, kept []journal.Receipt) (app.JournalState, error) {
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
	cp, err := journal.VerifyExport(f, key, kept...)
	if err != nil {
		return app.JournalState{}, fmt.Errorf("%w: %s: %w", errRefused, file, err)
	}
	return app.JournalState{Entries: cp.Size, Root: cp.Root.String(), Checkpoint: cp.Size, Anchored: int64(len(kept))}, nil
}
