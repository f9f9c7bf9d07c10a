package main

import (
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
			if wantsJSON(c) {
				return ui.object("signers", map[string]any{"signers": rows})
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
		Description: `With --json prints one object a line.

Examples:
  reseal artifacts --signer release
  reseal artifacts --repository registry.example/acme/app` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "signer", Usage: "only what this signer signed: `NAME` or ID"},
			&cli.StringFlag{Name: "repository", Usage: "only in this `REPOSITORY`"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			sel := store.Selection{Repository: c.String("repository")}
			if name := c.String("signer"); name != "" {
				r, err := a.Signer(c.Context, name)
				if err != nil {
					return err
				}
				sel.Signers = []string{r.Identity.ID()}
			}
			for art, err := range a.Artifacts(c.Context, sel) {
				if err != nil {
					return err
				}
				if wantsJSON(c) {
					if err := ui.object("artifact", artifactJSON(art)); err != nil {
						return err
					}
					continue
				}
				mark := " "
				if art.Deployed {
					mark = "*"
				}
				ui.printf("%s %s %s", mark, art.Ref(), strings.Join(art.Tags, ","))
			}
			return nil
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
