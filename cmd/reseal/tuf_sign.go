package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/tuf"
)

// maxRequest bounds a signing request, in bytes: it holds the metadata of what changes.
const maxRequest = 512 << 20

func tufSignCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "sign",
		Usage:     "on a holder's machine: show what an event changes, and sign it",
		Category:  tufCeremony,
		ArgsUsage: "REQUEST|DIR [SIGNATURE]",
		Description: `Reads a signing request, or the open event of a repository's directory. What it
changes is computed here, from a root that you know: the one you were given when
you became a holder, and after each change of root the new one. It is refused when it does not
descend from that root. Only the founding event has no root yet: say --first, and
compare every key with its holder.

Which roots were shown and signed is remembered in the home (tuf/known-roots), and a
request that hides one of them, to have another root of its version signed, is refused.
When you signed a root whose event was amended or withdrawn since, which another holder
can tell you, --another-root signs the other one.

It shows the change and asks. Without a terminal, --yes answers; --event makes sure
that it is the event you were told of by another way. The signature goes to the file
SIGNATURE, to be sent back; of a directory, into its event.

Examples:
  reseal tuf sign request.json alice.sig --root 3.root.json --key alice.key
  reseal tuf sign request.json alice.sig --root 3.root.json --key "pkcs11:token=root;object=alice?module-path=..." --event 1f0c9a77b2d4e6f83a5b1d9c0e7f2846 --yes
  reseal tuf sign trust --root 3.root.json --key awskms:///alias/root-alice
  reseal tuf sign request.json alice.sig --first --key alice.key` +
			exits("3 the request is refused", "4 nobody said yes"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "key", Usage: "sign with the key `REF`: " + keyUsage, Required: true},
			&cli.StringFlag{Name: "root", Usage: "`FILE` with the newest root of the repository that you know"},
			&cli.BoolFlag{Name: "first", Usage: "it is the founding event: there is no root to know yet"},
			&cli.BoolFlag{Name: "another-root", Usage: "sign a root although another one of its version was signed here: its event was amended or withdrawn"},
			&cli.StringFlag{Name: "event", Usage: "refuse every event but the one with this `ID`"},
			&cli.BoolFlag{Name: "yes", Usage: "do not ask"},
			publishedFlag(),
		},
		Action: withInventory(func(c *cli.Context, a *app.App) error {
			known, err := ui.rootFlag(c)
			if err != nil {
				return err
			}
			if (known == nil) == !c.Bool("first") {
				return usageError{errors.New("which root of the repository do you know? give --root FILE, or --first when it is being founded")}
			}
			request, repository, err := ui.signingRequest(c, a)
			if err != nil {
				return err
			}
			o, err := holderOptions(c, a)
			if err != nil {
				return err
			}
			q, err := tuf.ReadRequest(request, known, o)
			if stale := (*tuf.StaleRequestError)(nil); errors.As(err, &stale) && stale.Signed {
				return fmt.Errorf("%w: %w: give --another-root", errRefused, err)
			} else if err != nil {
				return fmt.Errorf("%w: %w", errRefused, err)
			}
			d := q.Diff()
			if id := c.String("event"); id != "" && id != d.Event {
				return fmt.Errorf("%w: this is event %s, not %s: ask the repository's operator by another way", errRefused, d.Event, id)
			}
			if !wantsJSON(c) {
				ui.tufDiff(d)
			}
			if err := ui.consent(c, d); err != nil {
				return err
			}
			key, err := tufKey(c, ui, "key", c.String("key"))
			if err != nil {
				return err
			}
			into := c.Args().Get(1)
			if repository != nil {
				into = repository.Dir()
			}
			err = a.Journaled(c.Context, "tuf.sign", into+" event "+d.Event, nonEmpty(d.Reason, "tuf sign"), nil, func() error {
				signed, err := q.Sign(c.Context, key)
				if err != nil {
					return err
				}
				if repository == nil {
					return durable.CreateFile(into, signed, 0o644)
				}
				_, err = repository.Import(c.Context, signed)
				return err
			})
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.object("tuf-sign", map[string]any{"event": d.Event, "key": key.Identity().ID(), "into": into, "diff": d})
			}
			ui.printf("")
			ui.printf("signed event %s with %s: %s", d.Event, key.Identity().ID(), into)
			if repository == nil {
				ui.printf("next: send %s back", into)
			}
			return nil
		}),
	}
}

// holderOptions are those of a holder, who remembers roots in the home, also where it has no database yet.
func holderOptions(c *cli.Context, a *app.App) (tuf.Options, error) {
	o := tufOptions(c, a)
	at, err := options(c)
	o.Known, o.AnotherRoot = filepath.Join(at.Home, "tuf", "known-roots"), c.Bool("another-root")
	return o, err
}

// signingRequest reads what is to be signed: a file, or the open event of a directory, which is returned too.
func (u *ui) signingRequest(c *cli.Context, a *app.App) ([]byte, *tuf.Repository, error) {
	at := c.Args().First()
	if info, err := os.Stat(at); err == nil && info.IsDir() {
		if c.NArg() != 1 {
			return nil, nil, usageError{errors.New("the signature of a directory's event goes into the event: name no file for it")}
		}
		r, err := tuf.Open(at, tufOptions(c, a))
		if err != nil {
			return nil, nil, err
		}
		data, err := r.Export()
		return data, r, err
	}
	if c.NArg() != 2 {
		return nil, nil, usageError{errors.New("name a file for the signature, after that of the request")}
	}
	if _, err := os.Lstat(c.Args().Get(1)); err == nil { // before a key is used
		return nil, nil, fmt.Errorf("%s exists: choose another name for the signature", c.Args().Get(1))
	}
	data, err := u.read(at, maxRequest)
	return data, nil, err
}

// consent asks whether what was shown is to be signed.
func (u *ui) consent(c *cli.Context, d tuf.Diff) error {
	if c.Bool("yes") {
		return nil
	}
	var line []byte
	err := errNoTerminal
	if !wantsJSON(c) { // else nothing was shown yet
		u.notef("")
		line, err = u.ask(c.Context, fmt.Sprintf("sign event %s? Type yes: ", d.Event), func(f *os.File) ([]byte, error) { return bufio.NewReader(f).ReadBytes('\n') })
	}
	switch {
	case errors.Is(err, errNoTerminal):
		return fmt.Errorf("event %s %w: look at what it changes, and sign with --yes, or on a terminal", d.Event, errAttention)
	case err != nil:
		return err
	case strings.TrimSpace(string(line)) != "yes":
		return fmt.Errorf("event %s %w: it was not signed", d.Event, errAttention)
	}
	return nil
}
