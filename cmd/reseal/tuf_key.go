package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/signer"
)

func tufKeyCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:        "key",
		Usage:       "make a holder's key file, or show the public half of a key",
		Category:    tufCeremony,
		Subcommands: []*cli.Command{tufKeyNewCommand(ui), tufKeyShowCommand(ui)},
	}
}

func tufKeyNewCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "new",
		Usage:     "make an encrypted key file, and print its public key",
		ArgsUsage: "NAME",
		Description: `Writes NAME.key, encrypted as cosign does, and NAME.pub. The password is asked for
on a terminal, or taken from COSIGN_PASSWORD; there is no key without one. Files
that exist are left alone. Hardware tokens and key services keep a key better.

Examples:
  reseal tuf key new alice
  reseal tuf key new alice --type ed25519` + exits(),
		Flags: []cli.Flag{&cli.StringFlag{Name: "type", Value: app.KeyTypes()[0], Usage: "`TYPE`: " + strings.Join(app.KeyTypes(), ", ")}},
		Action: func(c *cli.Context) error {
			if !slices.Contains(app.KeyTypes(), c.String("type")) {
				return usageError{fmt.Errorf("--type %q: expected one of %s", c.String("type"), strings.Join(app.KeyTypes(), ", "))}
			}
			name := c.Args().First()
			private, public := name+".key", name+".pub"
			key, err := app.NewKeyFile(private, public, c.String("type"), ui.newPassword(c.Context, private))
			if err != nil {
				return err
			}
			return ui.showKey(c, key, private)
		},
	}
}

func tufKeyShowCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "show",
		Usage:     "print the public half of a key, wherever it is kept",
		ArgsUsage: "REF",
		Description: `REF is ` + keyUsage + `.

Examples:
  reseal tuf key show alice.key > alice.pub
  reseal tuf key show gcpkms://projects/p/locations/global/keyRings/r/cryptoKeys/k > online.pub` + exits(),
		Action: func(c *cli.Context) error {
			key, err := tufKey(c, ui, "key", c.Args().First())
			if err != nil {
				return err
			}
			pem, err := cryptoutils.MarshalPublicKeyToPEM(key.PublicKey())
			if err != nil {
				return err
			}
			return ui.showKey(c, pem, "")
		},
	}
}

// showKey prints a public key, and its fingerprint beside it.
func (u *ui) showKey(c *cli.Context, pem []byte, private string) error {
	_, id, err := signer.ParsePublicKey(pem)
	if err != nil {
		return err
	}
	if wantsJSON(c) {
		out := map[string]any{"public_key": string(pem), "fingerprint": id.Subject}
		if private != "" {
			out["private_key_file"] = private
		}
		return u.object("tuf-key", out)
	}
	if _, err := fmt.Fprint(u.out, string(pem)); err != nil {
		return err
	}
	if private != "" {
		u.notef("%s is encrypted with the password: keep both, apart", private)
	}
	u.notef("SHA256:%s", id.Subject)
	return nil
}
