package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/inventory/evidence"
)

func reverifyCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "reverify",
		Usage: "judge all stored evidence anew, after the trusted root or the known keys changed",
		Description: `Recomputes every signature and every proof of time from the exact bytes in
the vault. Nothing is asked of any registry. Proofs of authorities that are no
longer trusted are taken away; signatures of unknown signers whose key has been
enrolled since get their signer. Interrupted, it is run again.

Examples:
  reseal reverify
  reseal reverify --trusted-root trusted_root.json` + exits(),
		Flags: []cli.Flag{&cli.StringFlag{Name: "trusted-root", Usage: "make this `FILE` the trusted root first"}},
		Action: in(func(c *cli.Context, a *app.App) error {
			var root []byte
			if file := c.String("trusted-root"); file != "" {
				var err error
				if root, err = ui.read(file, maxFile); err != nil {
					return fmt.Errorf("--trusted-root: %w", err)
				}
			}
			counts, err := a.Counts(c.Context)
			if err != nil {
				return err
			}
			p := ui.progress("signatures", counts.Signatures)
			r, err := a.Reverify(c.Context, root, func(r evidence.Reverified) {
				p.at(r.Signatures, fmt.Sprintf("%d changed", r.Changed))
			})
			p.end()
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.object("reverify", r)
			}
			ui.printf("%d signatures: %d verified, %d not; %d changed, %d of them because the signer is known now",
				r.Signatures, r.Verified, r.Unverified, r.Changed, r.Identified)
			if r.Lost > 0 {
				ui.printf("%d are not in the vault any more and stay as they were: \"reseal db check\" says more", r.Lost)
			}
			return nil
		}),
	}
}

func authoritiesCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "authorities",
		Usage: "list the CAs, logs and timestamp authorities that the evidence rests on",
		Description: `ALONE counts the signatures that nothing else proves: those would lose their
proof, or stop verifying, with that authority.

Example:
  reseal authorities --json` + exits(),
		Flags: []cli.Flag{csvFlag()},
		Action: in(func(c *cli.Context, a *app.App) error {
			list, err := a.Authorities(c.Context)
			if err != nil {
				return err
			}
			rows := ui.rows(c, "authority", "role", "id", "signatures", "alone")
			for _, x := range list {
				object := struct {
					Role       inventory.Role `json:"role"`
					ID         string         `json:"id"`
					Signatures int64          `json:"signatures"`
					Alone      int64          `json:"alone"`
				}{x.Role, x.ID, x.Signatures, x.Alone}
				text := fmt.Sprintf("%s:%s  %d signatures, %d on it alone", x.Role, x.ID, x.Signatures, x.Alone)
				if err := rows.put(object, text, string(x.Role), x.ID, fmt.Sprint(x.Signatures), fmt.Sprint(x.Alone)); err != nil {
					return err
				}
			}
			return rows.end()
		}),
	}
}

func anchorsCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "anchors",
		Usage: "keep and list the places where signers are pinned",
		Subcommands: []*cli.Command{
			{
				Name:      "import",
				Usage:     "read policy files",
				ArgsUsage: "FILE...",
				Description: `Reads ClusterImagePolicy and TrustRoot, Kyverno policies, policy.json of
containers/image, trusted_root.json and PEM public keys. A file with several
policies gives several anchors.

Example:
  reseal anchors import cluster-policy.yaml /etc/containers/policy.json` + exits(),
				Action: in(func(c *cli.Context, a *app.App) error {
					list, err := a.ImportAnchors(c.Context, c.Args().Slice())
					if err != nil {
						return err
					}
					return ui.anchors(c, list)
				}),
			},
			{
				Name:  "list",
				Usage: "list anchors, or those that pin a signer",
				Description: `With --signer also those that pin something by a name that only their consumer
can resolve, such as a KMS URI or a Secret: it may be that signer.

Example:
  reseal anchors list --signer release` + exits(),
				Flags: []cli.Flag{&cli.StringFlag{Name: "signer", Usage: "only where this signer is pinned: `NAME` or ID"}, csvFlag()},
				Action: in(func(c *cli.Context, a *app.App) error {
					list, err := a.Anchors(c.Context, c.String("signer"))
					if err != nil {
						return err
					}
					return ui.anchors(c, list)
				}),
			},
		},
	}
}

// anchors prints anchors.
func (u *ui) anchors(c *cli.Context, list []inventory.Anchor) error {
	rows := u.rows(c, "anchor", "kind", "file", "name", "scope", "formats", "pins")
	for _, x := range list {
		var pins, formats []string
		for _, p := range x.Pins {
			pins = append(pins, pinText(p))
		}
		for _, f := range x.Formats {
			formats = append(formats, string(f))
		}
		text := fmt.Sprintf("%s %s in %s", x.Kind, x.Name, x.File)
		for _, p := range pins {
			text += "\n    " + p
		}
		for _, n := range x.Notes {
			text += "\n    note: " + n
		}
		if err := rows.put(x, text, x.Kind, x.File, x.Name, strings.Join(x.Scope, " "), strings.Join(formats, " "), strings.Join(pins, "; ")); err != nil {
			return err
		}
	}
	return rows.end()
}

func pinText(p inventory.Pin) string {
	switch {
	case p.Key != "":
		return "key:sha256:" + p.Key
	case p.Reference != "": // only its consumer can resolve it
		return strings.TrimSpace(string(p.Authority.Role) + " " + p.Reference)
	case p.Authority != (inventory.Authority{}):
		return string(p.Authority.Role) + ":" + p.Authority.ID
	}
	subject, issuer := p.Subject, p.Issuer
	if p.SubjectRegexp != "" {
		subject = "/" + p.SubjectRegexp + "/"
	}
	if p.IssuerRegexp != "" {
		issuer = "/" + p.IssuerRegexp + "/"
	}
	return fmt.Sprintf("%s (issuer %s)", subject, issuer)
}

func problemsCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "problems",
		Usage:     "list what scans could not read, or forget it",
		ArgsUsage: "[forget] [REPOSITORY]",
		Description: `A problem is forgotten by itself when what it is about is read well again. Every
plan says how many there are. "forget" is for a repository that is no more.

Examples:
  reseal problems
  reseal problems forget registry.example/former --reason "decommissioned"` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "reason", Usage: "`WHY` it is forgotten, for the journal"},
			csvFlag(),
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			if c.NArg() > 0 {
				if c.Args().First() != "forget" || c.NArg() != 2 || c.String("reason") == "" {
					return usageError{errors.New("write: reseal problems forget REPOSITORY --reason WHY")}
				}
				n, err := a.ForgetProblems(c.Context, c.Args().Get(1), c.String("reason"))
				if err != nil {
					return err
				}
				if wantsJSON(c) {
					return ui.object("problems.forget", map[string]any{"forgotten": n})
				}
				ui.printf("%d forgotten", n)
				return nil
			}
			problems, err := a.Problems(c.Context)
			if err != nil {
				return err
			}
			rows := ui.rows(c, "problem", "repository", "reference", "problem")
			for _, p := range problems {
				if err := rows.put(p, fmt.Sprintf("%s %s: %s", p.Repository, p.Reference, p.Problem), p.Repository, p.Reference, p.Problem); err != nil {
					return err
				}
			}
			return rows.end()
		}),
	}
}

func dbCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "db",
		Usage: "look after the database",
		Subcommands: []*cli.Command{
			{
				Name:  "check",
				Usage: "look for damage: rows, vault contents, journal",
				Description: `Reads everything and changes nothing.

Example:
  reseal db check` + exits("3 damaged"),
				Action: in(func(c *cli.Context, a *app.App) error {
					problems, err := a.CheckDatabase(c.Context)
					if err != nil {
						return err
					}
					if len(problems) > 0 {
						err = fmt.Errorf("%w: the database is damaged: restore it from a backup", errRefused)
					}
					if wantsJSON(c) {
						return errors.Join(ui.object("db.check", map[string]any{"problems": append([]string{}, problems...)}), err)
					}
					for _, p := range problems {
						ui.printf("%s", p)
					}
					if err == nil {
						ui.printf("no damage found")
					}
					return err
				}),
			},
			{
				Name:  "migrate",
				Usage: "bring the schema up to date",
				Description: `Every command does so when it opens the database; this one does nothing else. In
PostgreSQL it also makes the tables of the workers' queue (river_*), as "resign
--workers" does.

Example:
  reseal db migrate` + exits(),
				Action: in(func(c *cli.Context, a *app.App) error {
					if err := a.MigrateQueue(c.Context); err != nil {
						return err
					}
					version, err := a.SchemaVersion(c.Context)
					if err != nil {
						return err
					}
					if wantsJSON(c) {
						return ui.object("db.migrate", map[string]any{"version": version})
					}
					ui.printf("the schema has version %d, the newest this reseal knows", version)
					return nil
				}),
			},
			{
				Name:      "backup",
				Usage:     "copy the database while others work with it",
				ArgsUsage: "FILE|URL",
				Description: `The copy is consistent and complete. A PostgreSQL inventory can be backed up
to a SQLite file, and the reverse: that is also how to move from one to the
other. The target must not exist, or be empty.

Examples:
  reseal db backup reseal-backup.db
  reseal db backup postgres://reseal@db.example/reseal` + exits(),
				Action: in(func(c *cli.Context, a *app.App) error {
					if err := a.BackUp(c.Context, c.Args().First()); err != nil {
						return err
					}
					if wantsJSON(c) {
						return ui.object("db.backup", map[string]any{"done": true})
					}
					ui.printf("done")
					return nil
				}),
			},
		},
	}
}

func exportCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "export",
		Usage: "print the whole inventory as JSON lines",
		Description: `Signers, artifacts, signatures and problems, one object a line, in an order
that does not depend on how they were found. The first line names the version.

Example:
  reseal export > inventory.jsonl` + exits(),
		Action: in(func(c *cli.Context, a *app.App) error {
			if err := ui.object("export", struct{}{}); err != nil {
				return err
			}
			signers, err := a.SignerRecords(c.Context)
			if err != nil {
				return err
			}
			for _, id := range slices.Sorted(maps.Keys(signers)) {
				r := signers[id]
				if err := ui.object("signer", signerJSON{id, string(r.Identity.Kind), r.Identity.Subject, r.Identity.Issuer, r.Name, string(r.State)}); err != nil {
					return err
				}
			}
			for art, err := range a.Artifacts(c.Context, store.Selection{}) {
				if err != nil {
					return err
				}
				if err := ui.object("artifact", artifactJSON(art)); err != nil {
					return err
				}
			}
			for sig, err := range a.Signatures(c.Context, store.SignatureFilter{Gone: true}) {
				if err != nil {
					return err
				}
				if err := ui.object("signature", signatureJSON(sig, signers[sig.Signer.ID()])); err != nil {
					return err
				}
			}
			problems, err := a.Problems(c.Context)
			if err != nil {
				return err
			}
			for _, p := range problems {
				if err := ui.object("problem", p); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}
