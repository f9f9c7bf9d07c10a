package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/tuf/airgap"
)

func tufBundleCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:        "bundle",
		Category:    tufDaily,
		Usage:       "carry a published repository, with its deny list, to where no network leads",
		Subcommands: []*cli.Command{tufBundleExportCommand(ui), tufBundleImportCommand(ui)},
	}
}

func tufBundleExportCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "export",
		Usage:     "write a published repository into one signed and dated file",
		ArgsUsage: "DIR FILE",
		Description: `Every root, the metadata in force and every target, the deny list among them, as a
.tar.gz with a manifest that is signed like a blob by cosign. What clients would
refuse is not exported. FILE must not exist yet.

Examples:
  reseal tuf bundle export published tuf-2026-11-27.tar.gz --key bundle.key
  reseal tuf bundle export published tuf.tar.gz --key awskms:///alias/bundle --root 7.root.json` + exits("3 clients would refuse it"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "key", Usage: "sign with `KEY`: a cosign key file, a KMS URI or a PKCS #11 URI"},
			&cli.BoolFlag{Name: "unsigned", Usage: "do not sign: nobody can then be sure of the date"},
			&cli.StringFlag{Name: "root", Usage: "`FILE` with a root that is trusted; else the oldest is"},
		},
		Action: func(c *cli.Context) error {
			if (c.String("key") == "") == !c.Bool("unsigned") {
				return usageError{errors.New("who signs the bundle? give --key, or --unsigned")}
			}
			var o airgap.ExportOptions
			root, err := ui.rootFlag(c)
			if err != nil {
				return err
			}
			o.Root = root
			if key := c.String("key"); key != "" {
				if o.Signer, err = app.OpenKey(c.Context, keyOptions(c, ui, key)); err != nil {
					return err
				}
			}
			x, err := airgap.Export(c.Context, c.Args().Get(0), c.Args().Get(1), o)
			if err != nil {
				return refusal(err)
			}
			if wantsJSON(c) {
				return ui.object("tuf-bundle", x)
			}
			ui.printf("%s holds %s, %d bytes, sha256:%s", x.Path, plural(x.Files, "file"), x.Size, x.SHA256)
			ui.printf("  made:      %s", stamp(x.Created))
			ui.printf("  good till: %s, when clients begin to refuse it", stamp(x.Expires))
			ui.printf("  versions:  %s", versionList(x.Versions, nil))
			ui.printf("  deny list: %s", plural(len(x.DenyList), "file"))
			if x.Signer == "" {
				ui.notef("it is not signed: whoever imports it cannot be sure of its date")
			} else {
				ui.printf("  signer:    %s", x.Signer)
			}
			return nil
		},
	}
}

func tufBundleImportCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "import",
		Usage:     "bring a bundle into a directory that clients use as a mirror",
		ArgsUsage: "FILE DIR",
		Description: `A dry run unless --apply is given: everything is verified, and nothing is written.
The bundle is taken as a whole or refused: when it is not signed by the key, does
not follow from the trusted root or from what was imported before, is older than
that, has expired or is older than --max-age, lacks a file or has one too many.

The first import needs --root, received in a way you trust. --key is remembered
in the directory: later bundles must be signed by it, too. An import that was cut
off is completed by running it again.

Examples:
  reseal tuf bundle import tuf.tar.gz mirror --root 1.root.json --key bundle.pub
  reseal tuf bundle import tuf.tar.gz mirror --root 1.root.json --key bundle.pub --apply
  reseal tuf bundle import tuf-next.tar.gz mirror --max-age 48h --apply` + exits("3 the bundle is refused"),
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "apply", Usage: "write; else only verify"},
			&cli.StringFlag{Name: "root", Usage: "`FILE` with a root that is trusted"},
			&cli.StringFlag{Name: "key", Usage: "public key `FILE` (PEM) of whoever signs bundles"},
			&cli.DurationFlag{Name: "max-age", Usage: "refuse a bundle that was made longer ago than `DURATION` (default: its own expiry decides)"},
			&cli.Int64Flag{Name: "max-size", Value: airgap.DefaultMaxSize, Usage: "refuse a bundle whose files have more than so many `BYTES`"},
		},
		Action: func(c *cli.Context) error {
			o := airgap.ImportOptions{MaxAge: c.Duration("max-age"), MaxSize: c.Int64("max-size"), Check: !c.Bool("apply")}
			if o.MaxAge < 0 || o.MaxSize < 1 {
				return usageError{errors.New("--max-age and --max-size must be positive")}
			}
			root, err := ui.rootFlag(c)
			if err != nil {
				return err
			}
			o.Root = root
			if file := c.String("key"); file != "" {
				pem, err := ui.read(file, maxFile)
				if err != nil {
					return fmt.Errorf("--key: %w", err)
				}
				if o.Key, _, err = signer.ParsePublicKey(pem); err != nil {
					return fmt.Errorf("--key %s: %w", file, err)
				}
			}
			x, err := airgap.Import(c.Context, c.Args().Get(0), c.Args().Get(1), o)
			if err != nil {
				return refusal(err)
			}
			if wantsJSON(c) {
				return ui.object("tuf-import", x)
			}
			switch {
			case x.Written == 0:
				ui.printf("%s has it all already", x.Directory)
			case x.Applied:
				ui.printf("%s is up to date: %d of %s written", x.Directory, x.Written, plural(x.Files, "file"))
			default:
				ui.printf("the bundle is good: %d of %s would be written to %s", x.Written, plural(x.Files, "file"), x.Directory)
			}
			ui.printf("  made:      %s, %s ago", stamp(x.Created), time.Since(x.Created).Round(time.Minute))
			ui.printf("  good till: %s, when clients begin to refuse it", stamp(x.Expires))
			ui.printf("  versions:  %s", versionList(x.Versions, x.Former))
			ui.printf("  deny list: %s", plural(len(x.DenyList), "file"))
			if x.Signer == "" {
				ui.notef("no --key is pinned: the date of the bundle is whatever its maker wrote")
			} else {
				ui.printf("  signer:    %s", x.Signer)
			}
			if !x.Applied && x.Written > 0 {
				ui.notef("nothing was written: add --apply")
			}
			return nil
		},
	}
}

// rootFlag reads the file that --root names, if it names one.
func (u *ui) rootFlag(c *cli.Context) ([]byte, error) {
	file := c.String("root")
	if file == "" {
		return nil, nil
	}
	root, err := u.read(file, maxFile)
	if err != nil {
		return nil, fmt.Errorf("--root: %w", err)
	}
	return root, nil
}

// refusal marks an error that says no about what was given, and not that something failed.
func refusal(err error) error {
	if errors.As(err, new(airgap.Refusal)) {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	return err
}

// versionList writes the versions of roles, and from which they come.
func versionList(versions, former map[string]int64) string {
	var out []string
	for _, role := range slices.Sorted(maps.Keys(versions)) {
		text := fmt.Sprintf("%s %d", role, versions[role])
		if was := former[role]; was != 0 && was != versions[role] {
			text = fmt.Sprintf("%s %d → %d", role, was, versions[role])
		}
		out = append(out, text)
	}
	const most = 12
	if len(out) > most {
		out = append(out[:most], fmt.Sprintf("and %d more", len(out)-most))
	}
	return strings.Join(out, ", ")
}
