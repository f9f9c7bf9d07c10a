package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
)

func verifyCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "say whether an image can be believed, with every incident honoured",
		ArgsUsage: "IMAGE",
		Description: `Unlike other verifiers it knows times: a signature by a compromised signer
still counts when it is proven to be older than the compromise.

With --tuf-url it first gets what is revoked from that TUF repository, and fails
when it cannot; --tuf-root is the root that you pin, any version. What it once got
from there goes on being denied, also without these flags.

Examples:
  reseal verify registry.example/acme/app:1.2
  reseal verify registry.example/acme/app:1.2 --tuf-url https://tuf.example --tuf-root 1.root.json` + exits("3 refused"),
		Flags: []cli.Flag{
			&skewFlag,
			&cli.StringFlag{Name: "tuf-url", Usage: "honour what the TUF repository at `URL` revokes"},
			&cli.StringFlag{Name: "tuf-root", Usage: "`FILE` with a root of that repository, received in a way you trust"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			image := c.Args().First()
			o := app.VerifyOptions{Skew: c.Duration("skew"), TUF: app.TUFSource{URL: c.String("tuf-url")}}
			if (c.String("tuf-url") == "") != (c.String("tuf-root") == "") {
				return usageError{errors.New("--tuf-url and --tuf-root go together: where the repository is, and the root you pin")}
			}
			if file := c.String("tuf-root"); file != "" {
				var err error
				if o.TUF.Root, err = ui.read(file, maxFile); err != nil {
					return fmt.Errorf("--tuf-root: %w", err)
				}
			}
			v, err := a.Verify(c.Context, image, o)
			if err != nil {
				return err
			}
			if !v.Accepted {
				err = refused(v)
			}
			if wantsJSON(c) {
				return errors.Join(ui.object("verify", v), err)
			}
			for _, s := range v.Signatures {
				mark, name := " ", s.Name
				if s.Counts {
					mark = "+"
				}
				if name == "" {
					name = short(s.Signer)
				}
				when := "no proof of time"
				if s.Time != nil {
					when = "by " + s.Time.Format(time.RFC3339)
				}
				ui.printf("%s %s (%s) %s %s: %s, %s: %s", mark, name, s.State, s.Format, s.PredicateType, s.Verdict, when, s.Why)
			}
			if v.Accepted {
				ui.printf("accepted: %s", v.Subject)
			}
			return err
		}),
	}
}
