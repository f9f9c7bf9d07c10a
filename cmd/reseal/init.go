package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/signer"
)

// maxFile bounds a file that a flag names, in bytes.
const maxFile = 16 << 20

func initCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "init",
		Usage: "make a home: database, configuration, approvers, known signers",
		Description: `Enrols who may approve a plan, which signers are trusted, and which verifiers
(consumers) there are, each with the file that says which key it accepts.

Example:
  reseal init --approver alice=alice.pub --approver bob=bob.pub --quorum 2 \
    --signer release=cosign.pub --standby next=next.pub --trusted-root root.json \
    --consumer ci=bundle=/etc/ci/cosign.pub --consumer cluster=legacy=/etc/cluster/cosign.pub` + exits(),
		Flags: append(peopleFlags(),
			&cli.StringSliceFlag{Name: "signer", Usage: "`NAME=PUBLIC_KEY_FILE` of a signer in use (repeat)"},
			&cli.StringSliceFlag{Name: "standby", Usage: "`NAME=PUBLIC_KEY_FILE` of a signer that is trusted but not used yet (repeat)"},
			&cli.StringFlag{Name: "trusted-root", Usage: "trusted_root.json `FILE`: which CAs, logs and timestamp authorities may prove a time"},
			&cli.StringSliceFlag{Name: "consumer", Usage: "`NAME=FORMAT=ANCHOR_FILE` of a verifier; FORMAT is legacy or bundle, or of files detached or blob (repeat)"},
		),
		Action: func(c *cli.Context) error {
			o, err := options(c)
			if err != nil {
				return err
			}
			var in app.InitOptions
			if in.Approvers, err = ui.people(c); err != nil {
				return err
			}
			for _, kind := range []struct {
				flag  string
				state signer.State
			}{{"signer", signer.Active}, {"standby", signer.Standby}} {
				for _, v := range c.StringSlice(kind.flag) {
					name, key, err := ui.namedFile(kind.flag, v)
					if err != nil {
						return err
					}
					in.Signers = append(in.Signers, signer.Record{Name: name, State: kind.state, PublicKey: key})
				}
			}
			for _, v := range c.StringSlice("consumer") {
				parts := strings.SplitN(v, "=", 3)
				if len(parts) != 3 {
					return usageError{fmt.Errorf("--consumer %q: expected NAME=FORMAT=ANCHOR_FILE", v)}
				}
				in.Consumers = append(in.Consumers, rotate.Consumer{Name: parts[0], Reads: inventory.Format(parts[1]), Anchor: parts[2]})
			}
			if file := c.String("trusted-root"); file != "" {
				if in.TrustedRoot, err = ui.read(file, maxFile); err != nil {
					return fmt.Errorf("trusted root: %w", err)
				}
			}
			if err := app.Init(c.Context, o, in); err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.object("init", map[string]any{"home": o.Home, "approvers": in.Approvers.Able(), "quorum": in.Approvers.Quorum, "signers": len(in.Signers), "consumers": len(in.Consumers)})
			}
			ui.printf("home %s is ready: %d approvers (quorum %d), %d signers, %d consumers", o.Home, in.Approvers.Able(), in.Approvers.Quorum, len(in.Signers), len(in.Consumers))
			if in.TrustedRoot == nil {
				ui.notef("no trusted root was given: no time will be provable until there is one (--trusted-root)")
			}
			return nil
		},
	}
}

// namedFile reads the file of a NAME=FILE flag.
func (u *ui) namedFile(flag, value string) (name string, content []byte, err error) {
	name, file, ok := strings.Cut(value, "=")
	if !ok || name == "" || file == "" {
		return "", nil, usageError{fmt.Errorf("--%s %q: expected NAME=FILE", flag, value)}
	}
	content, err = u.read(file, maxFile)
	if err != nil {
		return "", nil, fmt.Errorf("--%s %s: %w", flag, name, err)
	}
	return name, content, nil
}

func signerCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "signer",
		Usage: "enrol a signer, try it, promote it",
		Subcommands: []*cli.Command{signerListCommand(ui), signerTestCommand(ui), signerPromoteCommand(ui), {
			Name:      "add",
			Usage:     "enrol a signer, or change its state",
			ArgsUsage: "NAME",
			Description: `A standby signer is trusted before it is used: it is what an incident is
recovered with.

Examples:
  reseal signer add next --key next.pub --state standby --reason "yearly standby"
  reseal signer add release-ci --state active --reason "signs every release" \
    --certificate-identity https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main \
    --certificate-oidc-issuer https://token.actions.githubusercontent.com` + exits(),
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "key", Usage: "public key `FILE`"},
				&cli.StringFlag{Name: "certificate-identity", Usage: "`SAN` of a keyless signer"},
				&cli.StringFlag{Name: "certificate-oidc-issuer", Usage: "and the `URL` of its OIDC issuer"},
				&cli.StringFlag{Name: "state", Value: string(signer.Standby), Usage: "`STATE`: standby, active or old"},
				&cli.StringFlag{Name: "reason", Usage: "`WHY`, for the journal", Required: true},
			},
			Action: in(func(c *cli.Context, a *app.App) error {
				name := c.Args().First()
				state, err := signer.ParseState(c.String("state"))
				if err != nil {
					return usageError{err}
				}
				enrol := signer.Record{Name: name, State: state}
				keyless := c.IsSet("certificate-identity") || c.IsSet("certificate-oidc-issuer")
				switch {
				case keyless == c.IsSet("key"):
					return usageError{errors.New("who signs? give --key, or --certificate-identity and --certificate-oidc-issuer")}
				case keyless:
					enrol.Identity = signer.Identity{Kind: signer.Keyless, Subject: c.String("certificate-identity"), Issuer: c.String("certificate-oidc-issuer")}
				default:
					if enrol.PublicKey, err = ui.read(c.String("key"), maxFile); err != nil {
						return fmt.Errorf("public key: %w", err)
					}
				}
				r, err := a.EnrollSigner(c.Context, enrol, c.String("reason"))
				if err != nil {
					return err
				}
				if wantsJSON(c) {
					return ui.object("signer", map[string]any{"id": r.Identity.ID(), "name": r.Name, "state": r.State})
				}
				ui.printf("%s is %s: %s", r.Name, r.State, r.Identity.ID())
				return nil
			}),
		}},
	}
}
