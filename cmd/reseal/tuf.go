package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/tuf"
)

func tufCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "tuf",
		Usage: "administer the trust root",
		Description: `A signature leaked, a digest has to be refused now:
  reseal tuf revoke DIR sha256:... --reason WHY --key responder.key --online-key REF --apply

Holders or keys change, a role expires, a target is new (a ceremony):
  reseal tuf propose DIR --replace-key @carol=carol-new.pub --reason WHY
  reseal tuf diff DIR, reseal tuf export DIR request.json       to every holder
  reseal tuf sign request.json carol.sig --root root.json --key carol.key   each on their machine
  reseal tuf import DIR carol.sig, reseal tuf check DIR
  reseal tuf publish DIR --online-key REF --apply

Every day:  reseal tuf refresh DIR --online-key REF --apply, reseal tuf status DIR
Recovery, case by case: docs/tuf.md, reseal runbook list`,
		Subcommands: []*cli.Command{
			tufKeyCommand(ui), tufInitCommand(ui), tufProposeCommand(ui), tufDiffCommand(ui), tufExportCommand(ui), tufSignCommand(ui), tufImportCommand(ui),
			tufCheckCommand(ui), tufPublishCommand(ui), tufWithdrawCommand(ui),
			trustedRootCommand(ui), signingConfigCommand(ui),
			tufRevokeCommand(ui),
			tufRefreshCommand(ui), tufStatusCommand(ui), tufWalkCommand(ui), tufServeCommand(ui), tufBundleCommand(ui),
			tufRepublishCommand(ui), tufRebuildCommand(ui), tufRepinKitCommand(ui),
		},
	}
}

// Where the steps of a ceremony, and the rest, stand in the help.
const (
	tufCeremony  = "Ceremony, in this order"
	tufEmergency = "Emergency"
	tufDaily     = "Every day"
	tufRepair    = "Repair"
)

// publishedFlag says where clients read from.
func publishedFlag() cli.Flag {
	return &cli.StringFlag{Name: "published", Usage: "`DIR` that is served to clients (default: published in the repository's directory)"}
}

func trustClockFlag() cli.Flag {
	return &cli.BoolFlag{Name: "trust-clock", Usage: "this machine's clock is right, though it is behind the last timestamp or far ahead of it"}
}

// clockWord adds to the reason of what is done that the clock was vouched for.
func clockWord(c *cli.Context, reason string) string {
	if c.Bool("trust-clock") {
		reason += " (--trust-clock)"
	}
	return reason
}

func onlineKeyFlag() cli.Flag {
	return &cli.StringFlag{Name: "online-key", Usage: "sign snapshot and timestamp with the key `REF`: " + keyUsage}
}

// withTUF runs what a command does with the repository that its first argument names, and with the home there is, or nil.
func withTUF(do func(*cli.Context, *app.App, *tuf.Repository) error) cli.ActionFunc {
	return withInventory(func(c *cli.Context, a *app.App) error {
		r, err := tuf.Open(c.Args().First(), tufOptions(c, a))
		if err != nil {
			return err
		}
		return do(c, a, r)
	})
}

// tufOptions says how a repository is used, and what of it would stop verifying; a is nil where there is no home.
func tufOptions(c *cli.Context, a *app.App) tuf.Options {
	return tuf.Options{Published: c.String("published"), Guard: a.Guard(c.Context), Words: app.TargetWords, TrustClock: c.Bool("trust-clock")}
}

// journaled does what changes the outside world, and journals it in the home if there is one.
func (u *ui) journaled(c *cli.Context, a *app.App, action, subject, reason string, content []byte, act func() error) error {
	if a == nil {
		u.notef("this is in no journal: there is no home (\"reseal init\")")
	}
	return a.Journaled(c.Context, action, subject, reason, content, act)
}

// tufKey opens a key that signs TUF metadata.
func tufKey(c *cli.Context, ui *ui, flag, reference string) (signer.Signer, error) {
	if reference == "" {
		return nil, usageError{fmt.Errorf("who signs? give --%s REF", flag)}
	}
	o := keyOptions(c, ui, reference)
	o.Metadata = true
	return app.OpenKey(c.Context, o)
}

// onlineKey opens the key that --online-key refers to.
func onlineKey(c *cli.Context, ui *ui) (signer.Signer, error) {
	return tufKey(c, ui, "online-key", c.String("online-key"))
}

// publicKey reads the public key that a flag names.
func (u *ui) publicKey(flag, file string) ([]byte, error) {
	if file == "" {
		return nil, usageError{fmt.Errorf("%s: no public key file is named", flag)}
	}
	pem, err := u.read(file, maxFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	if _, _, err := signer.ParsePublicKey(pem); err != nil {
		return nil, fmt.Errorf("%s %s: %w", flag, file, err)
	}
	return pem, nil
}

// pair splits the value of a flag at its first sign.
func pair(flag, text, sign, form string) (string, string, error) {
	a, b, ok := strings.Cut(text, sign)
	if !ok || a == "" || b == "" {
		return "", "", usageError{fmt.Errorf("%s %q: expected %s", flag, text, form)}
	}
	return a, b, nil
}

// holder reads "@name=FILE".
func (u *ui) holder(flag, text string) (tuf.Holder, error) {
	name, file, err := pair(flag, text, "=", "@NAME=FILE, e.g. @alice=alice.pub")
	if err != nil {
		return tuf.Holder{}, err
	}
	key, err := u.publicKey(flag, file)
	return tuf.Holder{Name: name, Key: key}, err
}

// holders reads a flag that is given once for each holder.
func (u *ui) holders(c *cli.Context, flag string) ([]tuf.Holder, error) {
	var out []tuf.Holder
	for _, text := range c.StringSlice(flag) {
		h, err := u.holder("--"+flag, text)
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}

// online reads the public half of the online key.
func (u *ui) online(c *cli.Context) (tuf.Online, error) {
	key, err := u.publicKey("--online", c.String("online"))
	return tuf.Online{Key: key, URI: c.String("online-uri")}, err
}

// period reads "ROLE=DAYS/DAYS".
func period(text string) (string, tuf.Period, error) {
	const form = "ROLE=DAYS/DAYS: how long it is good, and how long before its end it is due, e.g. root=365/60"
	role, days, err := pair("--period", text, "=", form)
	if err != nil {
		return "", tuf.Period{}, err
	}
	expiry, signing, _ := strings.Cut(days, "/")
	var p tuf.Period
	if p.Expiry, err = strconv.Atoi(expiry); err == nil {
		p.Signing, err = strconv.Atoi(signing)
	}
	if err != nil {
		return "", tuf.Period{}, usageError{fmt.Errorf("--period %q: expected %s", text, form)}
	}
	return role, p, nil
}

// tufTarget reads "NAME=FILE".
func (u *ui) tufTarget(flag, text string) (string, []byte, error) {
	name, file, err := pair(flag, text, "=", "NAME=FILE, e.g. trusted_root.json=new.json")
	if err != nil {
		return "", nil, err
	}
	data, err := u.read(file, maxTarget)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", flag, err)
	}
	return name, data, app.CheckStatement(name, data)
}

// maxTarget bounds a target that is read from a file, in bytes.
const maxTarget = 256 << 20

// tufActor is who proposes, as those who sign see it.
func tufActor(c *cli.Context) (string, error) {
	o, err := options(c)
	return o.Actor, err
}

// publication tells what was published.
func (u *ui) publication(p *tuf.Publication, took time.Duration) {
	u.printf("published %s", versionList(p.Versions, nil))
	for _, name := range p.Files {
		u.printf("  %s", name)
	}
	u.printf("%s reached it before it was published, in %s", plural(len(p.Walked), "client"), took.Round(10*time.Millisecond))
}

func tufServeCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "serve",
		Usage:     "serve a published repository on this machine, for trying",
		Category:  tufDaily,
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
