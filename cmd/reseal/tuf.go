package main

import (
	"errors"
	"fmt"
	"net"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/tuf"
)

func tufCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:        "tuf",
		Usage:       "administer the trust root",
		Subcommands: []*cli.Command{tufStatusCommand(ui), trustedRootCommand(ui), signingConfigCommand(ui), tufBundleCommand(ui), tufServeCommand(ui)},
	}
}

func tufServeCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "serve",
		Usage:     "serve a published repository on this machine, for trying",
		ArgsUsage: "DIR",
		Description: `Until Ctrl-C. It listens on 127.0.0.1 alone; in production any static web server
does, which must answer 404, not 403, for what is not there.

Examples:
  reseal tuf serve published
  reseal tuf serve published --port 8800
  cosign initialize --mirror http://127.0.0.1:8800 --root published/1.root.json` + exits(),
		Flags: []cli.Flag{&cli.IntFlag{Name: "port", Usage: "`PORT` to listen on; 0: a free one"}},
		Action: func(c *cli.Context) error {
			port := c.Int("port")
			if port < 0 || port > 65535 {
				return usageError{errors.New("--port is a number from 0 to 65535")}
			}
			l, err := new(net.ListenConfig).Listen(c.Context, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				return fmt.Errorf("%w: choose another --port", err)
			}
			url := "http://" + l.Addr().String()
			if wantsJSON(c) {
				if err := ui.object("tuf-serve", map[string]any{"url": url, "directory": c.Args().First()}); err != nil {
					return errors.Join(err, l.Close())
				}
			} else {
				ui.printf("%s", url)
			}
			ui.notef("serving %s until Ctrl-C", c.Args().First())
			return tuf.Serve(c.Context, l, c.Args().First())
		},
	}
}
