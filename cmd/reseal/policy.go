package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
)

// parseVoucher reads KEY=VALUE[,...].
func parseVoucher(c *cli.Context, a *app.App, text string) (trust.Voucher, error) {
	o := app.VoucherOptions{Content: map[string]string{}}
	kinds := 0
	for _, part := range strings.Split(text, ",") {
		key, value, ok := strings.Cut(part, "=")
		if !ok || value == "" {
			return trust.Voucher{}, usageError{fmt.Errorf("--voucher %q: expected key=value, got %q", text, part)}
		}
		switch key {
		case "signer":
			o.Kind, o.Signer, kinds = trust.Attestation, value, kinds+1
		case "known-good":
			o.Kind, o.List, kinds = trust.KnownGood, value, kinds+1
		case "ci-run":
			o.Kind, o.Signer, kinds = trust.CIRun, value, kinds+1
		case "type":
			o.PredicateType = value
		case "bundle":
			o.Bundle = value
		case "signature":
			o.Signature = value
		case "person":
			o.Person = value
		case "repository":
			o.Repositories = append(o.Repositories, value)
		default:
			o.Content[key] = value
		}
	}
	if kinds != 1 {
		return trust.Voucher{}, usageError{fmt.Errorf("--voucher %q: name one of signer, known-good and ci-run", text)}
	}
	v, err := a.Voucher(c.Context, o)
	if err != nil {
		return v, fmt.Errorf("--voucher %q: %w", text, err)
	}
	return v, nil
}

func voucherCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "voucher",
		Usage: "say before any incident who may prove an artifact good",
		Subcommands: []*cli.Command{
			{
				Name:      "add",
				Usage:     "make a standing voucher",
				ArgsUsage: "VOUCHER",
				Description: `It counts in an incident that began after it was added. "reseal incident plan
--help" tells how a voucher is written.

Example:
  reseal voucher add signer=builder,type=https://slsa.dev/provenance/v1,builder.id=https://builder.example \
    --reason "the builder has its own key"` + exits(),
				Flags: []cli.Flag{&cli.StringFlag{Name: "reason", Usage: "`WHY`, for the journal", Required: true}},
				Action: in(func(c *cli.Context, a *app.App) error {
					v, err := parseVoucher(c, a, c.Args().First())
					if err != nil {
						return err
					}
					id, err := a.AddVoucher(c.Context, v, c.String("reason"))
					if err != nil {
						return err
					}
					if wantsJSON(c) {
						return ui.object("voucher", map[string]any{"id": id, "voucher": v})
					}
					ui.printf("voucher %s: %s", id, voucherWords(v))
					return nil
				}),
			},
			{
				Name: "list", Usage: "list the standing vouchers", Description: "Example:\n  reseal voucher list" + exits(),
				Action: in(func(c *cli.Context, a *app.App) error {
					list, err := a.Vouchers(c.Context)
					if err != nil {
						return err
					}
					if wantsJSON(c) {
						return ui.object("vouchers", map[string]any{"vouchers": append([]trust.Voucher{}, list...)})
					}
					for _, v := range list {
						ui.printf("%s  %s", v.ID(), voucherWords(v))
					}
					return nil
				}),
			},
			{
				Name: "remove", Usage: "take a standing voucher back", ArgsUsage: "ID",
				Description: "Example:\n  reseal voucher remove 3a7c01 --reason \"the builder is retired\"" + exits(),
				Flags:       []cli.Flag{&cli.StringFlag{Name: "reason", Usage: "`WHY`, for the journal", Required: true}},
				Action: in(func(c *cli.Context, a *app.App) error {
					id := c.Args().First()
					if err := a.RemoveVoucher(c.Context, id, c.String("reason")); err != nil {
						return err
					}
					if wantsJSON(c) {
						return ui.object("voucher", map[string]any{"id": id, "removed": true})
					}
					ui.printf("voucher %s is removed", id)
					return nil
				}),
			},
		},
	}
}

func sourceCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "source",
		Usage: "say which records are complete for which signer",
		Subcommands: []*cli.Command{
			{
				Name:      "add",
				Usage:     "declare a source of records complete",
				ArgsUsage: "NAME",
				Description: `What a signer signed, and a complete source does not explain, is unexplained: an
artifact all of whose signatures are so is denied. Nothing is unexplained where no
source is declared complete for the signer and the time.

The source stands in every plan made from then on, for the approvers to see.

Examples:
  reseal source add ci-2026 --kind ci --signer release --by ci --from 2026-01-01T00:00:00Z --reason "all releases go through it"
  reseal source add trail --kind kms --signer release-kms --reason "whole trail imported"` + exits(),
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "kind", Usage: "`KIND` of its records: ci or kms", Required: true},
					&cli.StringFlag{Name: "signer", Usage: "`NAME` or ID of the signer it tells everything of", Required: true},
					&cli.StringFlag{Name: "by", Usage: "`NAME` or ID of who authenticates its records (kind ci)"},
					&cli.TimestampFlag{Name: "from", Layout: time.RFC3339, Usage: "it is complete from here on, `RFC3339`; leave out if it always was"},
					&cli.TimestampFlag{Name: "until", Layout: time.RFC3339, Usage: "and until here, `RFC3339`"},
					&cli.StringFlag{Name: "reason", Usage: "`WHY` it is complete, for the journal", Required: true},
				},
				Action: in(func(c *cli.Context, a *app.App) error {
					kind := inventory.RecordKind(c.String("kind"))
					if (kind == inventory.RecordCI) != (c.String("by") != "") {
						return usageError{errors.New("--by names who authenticates CI records; KMS audit logs have nobody")}
					}
					x, err := a.AddSource(c.Context, trust.Source{Name: c.Args().First(), Kind: kind, From: moment(c, "from"), Until: moment(c, "until")},
						c.String("signer"), c.String("by"), c.String("reason"))
					if err != nil {
						return err
					}
					if wantsJSON(c) {
						return ui.object("source", x)
					}
					ui.printf("source %s", sourceWords(x))
					return nil
				}),
			},
			{
				Name: "list", Usage: "list the sources declared complete", Description: "Example:\n  reseal source list" + exits(),
				Action: in(func(c *cli.Context, a *app.App) error {
					list, err := a.Sources(c.Context)
					if err != nil {
						return err
					}
					if wantsJSON(c) {
						return ui.object("sources", map[string]any{"sources": append([]trust.Source{}, list...)})
					}
					for _, x := range list {
						ui.printf("%s", sourceWords(x))
					}
					return nil
				}),
			},
		},
	}
}
