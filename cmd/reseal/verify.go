package main

import (
	"errors"
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

Example:
  reseal verify registry.example/acme/app:1.2` + exits("3 refused"),
		Flags: []cli.Flag{&skewFlag},
		Action: in(func(c *cli.Context, a *app.App) error {
			image := c.Args().First()
			v, err := a.Verify(c.Context, image, c.Duration("skew"))
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
