package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/inventory/evidence"
)

func importCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "import",
		Usage: "take in signatures and records that no registry has",
		Subcommands: []*cli.Command{
			importBundleCommand(ui), importBlobCommand(ui), importLayoutCommand(ui), importCICommand(ui),
			importLogCommand(ui, app.SourceCloudTrail, "an AWS CloudTrail log of a KMS key",
				`Takes every Sign call of a CloudTrail file: event lines, a log file with
"Records", or what "aws cloudtrail lookup-events" prints.`),
			importLogCommand(ui, app.SourceGCPAudit, "a GCP Cloud Audit log of a KMS key",
				`Takes every AsymmetricSign call of an audit log: entries as lines, or what
"gcloud logging read --format=json" prints.`),
		},
	}
}

func importBundleCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "bundle",
		Usage:     "detached Sigstore bundles, as cosign sign-blob --bundle writes them",
		ArgsUsage: "FILE|DIR...",
		Description: `A directory stands for every *.sigstore.json, *.sigstore and *.bundle below
it. What a bundle is about is read from the bundle itself.

Examples:
  reseal import bundle app.tar.gz.sigstore.json
  reseal import bundle dist/ --key former.pub` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "repository", Usage: "`REPOSITORY` that the artifacts are in (default: they are files)"},
			&cli.StringFlag{Name: "digest", Usage: "`DIGEST` of the one artifact, where the bundle does not say"},
			keyFlag(),
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			digest := c.String("digest")
			if digest != "" {
				if err := inventory.CheckDigest(digest); err != nil {
					return usageError{fmt.Errorf("--digest: %w", err)}
				}
				if c.NArg() > 1 {
					return usageError{errors.New("--digest is about one bundle: give one file")}
				}
			}
			keys, err := ui.keys(c)
			if err != nil {
				return err
			}
			p := ui.progress("bundles", 0)
			r, importErr := a.ImportBundles(c.Context, c.Args().Slice(), c.String("repository"), digest, keys, func(r evidence.Imported) {
				p.at(r.Files, fmt.Sprintf("%d signatures, %d problems", r.Signatures, r.Problems))
			})
			p.end()
			if importErr != nil && !errors.Is(importErr, app.ErrIncomplete) {
				return importErr
			}
			if wantsJSON(c) {
				return errors.Join(ui.object("import", r), importErr)
			}
			ui.printf("%d bundles, %d artifacts, %d signatures: %d verified, %d not", r.Files, r.Artifacts, r.Signatures, r.Verified, r.Unverified)
			return importErr
		}),
	}
}

func importBlobCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "blob",
		Usage:     "signatures over files, as cosign sign-blob --output-signature writes them",
		ArgsUsage: "FILE|DIR...",
		Description: `A directory stands for every *.sig below it. A signature does not say what it
signs: FILE.sig is taken to be over FILE beside it, unless --file or --digest
says otherwise. FILE.pem, .crt or .cert beside it is its certificate, and
FILE.rfc3161.json its timestamp.

Examples:
  reseal import blob dist/
  reseal import blob app.sig --file app.tar.gz --certificate app.pem
  reseal import blob app.sig --digest sha256:9f86d081... --key former.pub` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "file", Usage: "the signed `FILE`"},
			&cli.StringFlag{Name: "digest", Usage: "`DIGEST` of the signed file, where that is not at hand"},
			&cli.StringFlag{Name: "certificate", Usage: "`FILE` with the signer's certificate"},
			&cli.StringFlag{Name: "rfc3161-timestamp", Usage: "`FILE` with the timestamp over the signature"},
			keyFlag(),
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			o := app.BlobImport{Paths: c.Args().Slice(), File: c.String("file"), Digest: c.String("digest"),
				Certificate: c.String("certificate"), Timestamp: c.String("rfc3161-timestamp")}
			if o.Digest != "" {
				if err := inventory.CheckDigest(o.Digest); err != nil {
					return usageError{fmt.Errorf("--digest: %w", err)}
				}
			}
			switch {
			case len(o.Paths) == 0:
				return usageError{errors.New("which signatures? give files or directories")}
			case o.File != "" && o.Digest != "":
				return usageError{errors.New("--file and --digest say the same thing: give one of them")}
			case len(o.Paths) > 1 && (o.File != "" || o.Digest != "" || o.Certificate != "" || o.Timestamp != ""):
				return usageError{errors.New("--file, --digest, --certificate and --rfc3161-timestamp are about one signature: give one file")}
			}
			keys, err := ui.keys(c)
			if err != nil {
				return err
			}
			p := ui.progress("signatures", 0)
			r, importErr := a.ImportBlobs(c.Context, o, keys, func(r evidence.Imported) {
				p.at(r.Files, fmt.Sprintf("%d signatures, %d problems", r.Signatures, r.Problems))
			})
			p.end()
			if importErr != nil && !errors.Is(importErr, app.ErrIncomplete) {
				return importErr
			}
			if wantsJSON(c) {
				return errors.Join(ui.object("import", r), importErr)
			}
			ui.printf("%d signatures over %d files: %d verified, %d not", r.Signatures, r.Artifacts, r.Verified, r.Unverified)
			return importErr
		}),
	}
}

func importLayoutCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "layout",
		Usage:     "an OCI image layout directory, also as cosign save writes it",
		ArgsUsage: "DIR",
		Description: `Example:
  reseal import layout ./app-layout --repository registry.example/acme/app` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "repository", Required: true, Usage: "`REPOSITORY` that the artifacts belong to"},
			keyFlag(),
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			keys, err := ui.keys(c)
			if err != nil {
				return err
			}
			return ui.scan(c, a, func(progress scanProgress) (scanResult, error) {
				return a.ImportLayout(c.Context, c.Args().First(), c.String("repository"), keys, progress)
			})
		}),
	}
}

func importCICommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "ci",
		Usage:     "what a CI system says it signed, as signed JSON lines",
		ArgsUsage: "FILE",
		Description: `One object a line: digest, signer, run, time. The file counts as the word of
whoever signed it with "cosign sign-blob", who must be an enrolled signer.

Example:
  reseal import ci runs.jsonl --bundle runs.jsonl.sigstore.json` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "bundle", Usage: "Sigstore bundle `FILE` over it"},
			&cli.StringFlag{Name: "signature", Usage: "detached signature `FILE` over it"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			return ui.imported(c, a, app.RecordImport{File: c.Args().First(), Source: app.SourceCI, Bundle: c.String("bundle"), Signature: c.String("signature")})
		}),
	}
}

func importLogCommand(ui *ui, source app.RecordSource, usage, about string) *cli.Command {
	return &cli.Command{
		Name:      string(source),
		Usage:     usage,
		ArgsUsage: "FILE",
		Description: about + `
The log names the key as its service does: --signer says which signer that is.

Example:
  reseal import ` + string(source) + ` log.json --signer release` + exits(),
		Flags: []cli.Flag{&cli.StringFlag{Name: "signer", Usage: "the signer behind the key: `NAME` or ID"}},
		Action: in(func(c *cli.Context, a *app.App) error {
			return ui.imported(c, a, app.RecordImport{File: c.Args().First(), Source: source, Signer: c.String("signer")})
		}),
	}
}

// imported takes in records and says what came of it.
func (u *ui) imported(c *cli.Context, a *app.App, o app.RecordImport) error {
	r, importErr := a.ImportRecords(c.Context, o)
	if importErr != nil && !errors.Is(importErr, app.ErrIncomplete) {
		return importErr
	}
	if wantsJSON(c) {
		return errors.Join(u.object("records", r), importErr)
	}
	u.printf("%d records, %d of them refused by the service", r.Records, r.Failed)
	if r.By != "" {
		u.printf("signed by %s", r.By)
	}
	for _, line := range r.Unread {
		u.printf("not read: %s", line)
	}
	return importErr
}
