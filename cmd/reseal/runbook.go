package main

import (
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/runbooks"
)

func runbookCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "runbook",
		Usage: "show the recoveries that are written down",
		Subcommands: []*cli.Command{
			{
				Name:        "list",
				Usage:       "list the runbooks",
				Description: "Example:\n  reseal runbook list" + exits(),
				Action: func(c *cli.Context) error {
					list, err := runbooks.List()
					if err != nil {
						return err
					}
					if wantsJSON(c) {
						return ui.object("runbooks", map[string]any{"runbooks": list})
					}
					for _, rb := range list {
						ui.printf("%s  %s", rb.Name, rb.Title)
					}
					return nil
				},
			},
			{
				Name:        "render",
				Usage:       "print a runbook as prose, for a person without the tool",
				ArgsUsage:   "NAME",
				Description: "Example:\n  reseal runbook render signing-key > on-paper.txt" + exits(),
				Action: func(c *cli.Context) error {
					name := c.Args().First()
					rb, err := runbooks.Load(name)
					if err != nil {
						return err
					}
					if wantsJSON(c) {
						return ui.object("runbook", rb)
					}
					for line := range strings.Lines(rb.Render()) {
						ui.printf("%s", strings.TrimSuffix(line, "\n"))
					}
					return nil
				},
			},
		},
	}
}
