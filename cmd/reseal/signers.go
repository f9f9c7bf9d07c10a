package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
)

func signersCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:        "signers",
		Usage:       "list every signer and what it signed",
		Description: "Example:\n  reseal signers --json" + exits(),
		Flags:       []cli.Flag{csvFlag()},
		Action: in(func(c *cli.Context, a *app.App) error {
			list, err := a.Signers(c.Context)
			if err != nil {
				return err
			}
			type row struct {
				ID         string     `json:"id"`
				Kind       string     `json:"kind"`
				Subject    string     `json:"subject"`
				Issuer     string     `json:"issuer"`
				Name       string     `json:"name"`
				State      string     `json:"state"`
				Artifacts  int64      `json:"artifacts"`
				Signatures int64      `json:"signatures"`
				FirstSeen  *time.Time `json:"first_seen"`
				LastSeen   *time.Time `json:"last_seen"`
			}
			rows := make([]row, len(list))
			text := [][]string{{"NAME", "STATE", "ARTIFACTS", "SIGNATURES", "FIRST SEEN", "LAST SEEN", "SIGNER"}}
			for i, s := range list {
				rows[i] = row{ID: s.Identity.ID(), Kind: string(s.Identity.Kind), Subject: s.Identity.Subject, Issuer: s.Identity.Issuer,
					Name: s.Name, State: string(s.State), Artifacts: s.Artifacts, Signatures: s.Signatures}
				if !s.FirstSeen.IsZero() {
					rows[i].FirstSeen, rows[i].LastSeen = &s.FirstSeen, &s.LastSeen
				}
				name := s.Name
				if name == "" {
					name = "-"
				}
				text = append(text, []string{name, string(s.State), fmt.Sprint(s.Artifacts), fmt.Sprint(s.Signatures), day(s.FirstSeen), day(s.LastSeen), s.Identity.String()})
			}
			switch {
			case wantsJSON(c):
				return ui.object("signers", map[string]any{"signers": rows})
			case c.Bool("csv"):
				return ui.csv(text)
			}
			ui.table(text)
			return nil
		}),
	}
}

func artifactsCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "artifacts",
		Usage: "list artifacts, deployed first",
		Description: `With --json prints one object a line, with --csv a table for a spreadsheet.

Examples:
  reseal artifacts --signer release --alone
  reseal artifacts --repository "registry.example/acme/*" --csv` + exits(),
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "signer", Usage: "only what this signer signed: `NAME` or ID (repeat)"},
			&cli.StringFlag{Name: "repository", Usage: "only in this `REPOSITORY`; with a * at the end: in all that start so"},
			&cli.StringFlag{Name: "digest", Usage: "only this `DIGEST`"},
			&cli.BoolFlag{Name: "alone", Usage: "only what no other trusted signer has signed, with --signer"},
			csvFlag(),
		},
		Action: in(func(c *cli.Context, a *app.App) (err error) {
			sel := store.Selection{Digest: c.String("digest"), Alone: c.Bool("alone")}
			sel.Repository, sel.Prefix = repositoryOrPrefix(c.String("repository"))
			if sel.Signers, err = signerIDs(c, a); err != nil {
				return err
			}
			if sel.Alone && len(sel.Signers) == 0 {
				return usageError{errors.New("--alone asks for what a signer signed alone: name it with --signer")}
			}
			rows := ui.rows(c, "artifact", "repository", "digest", "tags", "deployed", "media_type", "size", "first_seen")
			for art, err := range a.Artifacts(c.Context, sel) {
				if err != nil {
					return err
				}
				mark := " "
				if art.Deployed {
					mark = "*"
				}
				if err := rows.put(artifactJSON(art), fmt.Sprintf("%s %s %s", mark, art.Ref(), strings.Join(art.Tags, ",")),
					art.Repository, art.Digest, strings.Join(art.Tags, " "), fmt.Sprint(art.Deployed), art.MediaType, fmt.Sprint(art.Size), stamp(art.FirstSeen)); err != nil {
					return err
				}
			}
			return rows.end()
		}),
	}
}

func artifactJSON(a inventory.Artifact) any {
	return struct {
		Repository string    `json:"repository"`
		Digest     string    `json:"digest"`
		MediaType  string    `json:"media_type"`
		Size       int64     `json:"size"`
		Deployed   bool      `json:"deployed"`
		Tags       []string  `json:"tags"`
		FirstSeen  time.Time `json:"first_seen"`
	}{a.Repository, a.Digest, a.MediaType, a.Size, a.Deployed, a.Tags, a.FirstSeen}
}
