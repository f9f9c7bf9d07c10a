package main

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/tuf"
	"github.com/reseal/reseal/tuf/radar"
)

func tufRevokeCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "revoke",
		Usage:     "deny digests, in seconds: by responders and the online key alone",
		Category:  tufEmergency,
		ArgsUsage: "DIR [DIGEST]...",
		Description: `A dry run unless --apply is given. Publishes a revocation statement that denies the
digests, or with --plan that of an incident's approved plan: its signer, its window
and every digest it denies. No holder of root or targets is needed, and an open
signing event goes on. Clients refuse them with their next refresh.

Give --key once for each responder whose signature is needed. Nothing is ever taken
back here: a statement that denies less than the one published under its name, or
revokes fewer signers or a shorter window, is refused. That needs the holders of
targets ("reseal tuf propose --accept"). With --renew nothing is denied, and
the deny list is signed for another period.

Examples:
  reseal tuf revoke trust sha256:9f86... --reason "leaked release key signed it" \
    --key dave.key --online-key gcpkms://projects/p/locations/global/keyRings/r/cryptoKeys/k --apply
  reseal tuf revoke trust --plan 3f9a2c --key dave.key --key erin.key --online-key online.key --apply
  reseal tuf revoke trust --renew --key dave.key --online-key online.key --apply` + exits("4 the plan is not approved"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "reason", Usage: "`WHY`: whoever is refused reads it"},
			&cli.StringFlag{Name: "plan", Usage: "publish what the plan of an incident denies: `DIGEST` of the plan"},
			&cli.BoolFlag{Name: "renew", Usage: "deny nothing more: sign the deny list for another period"},
			&cli.StringSliceFlag{Name: "key", Usage: "sign as responder with the key `REF`: " + keyUsage + " (repeat)"},
			onlineKeyFlag(), publishedFlag(), trustClockFlag(), &applyFlag,
		},
		Action: withTUF(func(c *cli.Context, a *app.App, r *tuf.Repository) error {
			start := time.Now()
			x, err := ui.denial(c, a, r)
			if err != nil {
				return err
			}
			x.Applied = c.Bool("apply")
			if !x.Applied {
				return ui.wouldRevoke(c, r, x)
			}
			var responders []signer.Signer
			if len(c.StringSlice("key")) == 0 {
				return usageError{errors.New("who signs? give --key REF, once for each responder")}
			}
			if c.String("online-key") == "" {
				return usageError{errors.New("snapshot and timestamp have to be signed, too: give --online-key REF")}
			}
			for _, ref := range c.StringSlice("key") {
				key, err := tufKey(c, ui, "key", ref)
				if err != nil {
					return err
				}
				responders = append(responders, key)
			}
			online, err := onlineKey(c, ui)
			if err != nil {
				return err
			}
			files := map[string][]byte{}
			if x.Name != "" {
				files[x.Name] = x.statement
			}
			err = ui.journaled(c, a, "tuf.revoke", nonEmpty(x.Name, "revocations"), clockWord(c, nonEmpty(c.String("reason"), "tuf revoke")), x.statement, func() error {
				x.Publication, err = r.PublishRevocations(c.Context, files, responders, online)
				return err
			})
			if err != nil {
				return err
			}
			x.Seconds = time.Since(start).Seconds()
			if wantsJSON(c) {
				return ui.object("tuf-revoke", x)
			}
			ui.revocation(x)
			ui.publication(x.Publication, time.Since(start))
			return nil
		}),
	}
}

// revocation is what is denied, or would be.
type revocation struct {
	Applied bool     `json:"applied"`
	Name    string   `json:"name,omitempty"` // of the statement; empty: the role is renewed
	Digests []string `json:"digests"`
	Reason  string   `json:"reason,omitempty"`
	Seconds float64  `json:"seconds,omitempty"` // from the start of the command until it was published
	*tuf.Publication

	statement []byte
}

// denial makes the statement that the command line asks for.
func (u *ui) denial(c *cli.Context, a *app.App, r *tuf.Repository) (x revocation, err error) {
	x = revocation{Digests: []string{}, Reason: c.String("reason")}
	for _, arg := range c.Args().Tail() {
		x.Digests = append(x.Digests, arg[strings.LastIndex(arg, "@")+1:])
	}
	modes := 0
	for _, given := range []bool{len(x.Digests) > 0, c.IsSet("plan"), c.Bool("renew")} {
		if given {
			modes++
		}
	}
	if modes != 1 {
		return x, usageError{errors.New("what is denied? give digests, or --plan, or --renew")}
	}
	switch {
	case c.Bool("renew"):
		return x, nil
	case c.IsSet("plan"):
		if a == nil {
			return x, errors.New("--plan: there is no home here that has plans: give --home or --db")
		}
		x.Name, x.statement, x.Digests, err = a.PlanRevocation(c.Context, c.String("plan"))
	default:
		var by string
		if by, err = tufActor(c); err != nil {
			return x, err
		}
		if x.Reason == "" {
			return x, usageError{errors.New("why? give --reason: whoever is refused reads it")}
		}
		x.Name, x.statement, err = rotate.Deny(x.Digests, x.Reason, []string{by}, time.Now())
		if err != nil {
			return x, usageError{err}
		}
	}
	if err != nil {
		return x, err
	}
	return x, r.CheckRevocations(map[string][]byte{x.Name: x.statement})
}

// revocation prints what is denied.
func (u *ui) revocation(x revocation) {
	if x.Name == "" {
		u.printf("%s the deny list", u.verb(x.Applied, "renewed", "would renew"))
		return
	}
	u.printf("%s %s by %s", u.verb(x.Applied, "denied", "would deny"), plural(len(x.Digests), "digest"), x.Name)
	for _, d := range x.Digests {
		u.printf("  %s", d)
	}
}

// wouldRevoke says what would be published, and who has to sign it.
func (u *ui) wouldRevoke(c *cli.Context, r *tuf.Repository, x revocation) error {
	if wantsJSON(c) {
		return u.object("tuf-revoke", struct {
			revocation
			Statement json.RawMessage `json:"statement,omitempty"`
		}{x, x.statement})
	}
	u.revocation(x)
	s, err := radar.Read(c.Context, r.Dir(), radar.Options{SkipTargets: true})
	if err != nil {
		return err
	}
	for _, role := range s.Roles {
		if role.Name == "revocations" {
			var names []string
			for _, k := range role.Keys {
				names = append(names, nonEmpty(k.Owner, k.ID))
			}
			u.printf("%d of these sign it, each with --key: %s", role.Threshold, strings.Join(names, " "))
		}
	}
	u.dryRun(false)
	return nil
}
