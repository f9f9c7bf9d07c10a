package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/tuf"
)

// onlineFlags name the public half of the online key.
func onlineFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "online", Usage: "public key `FILE` (PEM) of the online key, which signs snapshot and timestamp"},
		&cli.StringFlag{Name: "online-uri", Usage: "`URI` where its private half lives, published with it (tuf-on-ci reads it)"},
	}
}

func tufInitCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "init",
		Usage:     "found a repository: who holds root, targets and the deny list",
		Category:  tufCeremony,
		ArgsUsage: "DIR",
		Description: `Makes DIR and opens its first signing event, from public keys alone. Root and
targets are held by the --holder people, who keep their keys offline; the deny
list (targets under revocations/) by the --responder people on call; snapshot and
timestamp by the online key. No key may stand in two of these groups, except that
root and targets share theirs unless --targets-holder is given.

More than half of the holders must sign, and one of the responders, unless a
threshold says otherwise. Roles are good for 365 (root), 180 (targets), 365
(revocations), 21 (snapshot) and 7 (timestamp) days.

Next: every holder signs ("reseal tuf export"), then "reseal tuf publish".

Example:
  reseal tuf init trust --holder @alice=alice.pub --holder @bob=bob.pub --holder @carol=carol.pub \
    --responder @dave=dave.pub --responder @erin=erin.pub --online online.pub \
    --file trusted_root.json=trusted_root.json --reason "founding ceremony"` + exits(),
		Flags: append([]cli.Flag{
			&cli.StringSliceFlag{Name: "holder", Usage: "`@NAME=FILE`: a person who holds root and targets, and their public key (repeat)"},
			&cli.IntFlag{Name: "threshold", Usage: "`N` holders must sign root (default: more than half)"},
			&cli.StringSliceFlag{Name: "targets-holder", Usage: "`@NAME=FILE`: one who holds targets, if those are other people (repeat)"},
			&cli.IntFlag{Name: "targets-threshold", Usage: "`N` of them must sign targets (default: as root, or more than half)"},
			&cli.StringSliceFlag{Name: "responder", Usage: "`@NAME=FILE`: one on call, who may deny (repeat)"},
			&cli.IntFlag{Name: "responder-threshold", Usage: "`N` responders must sign a denial (default: 1)"},
			&cli.StringSliceFlag{Name: "file", Usage: "`NAME=FILE`: a first target (repeat)"},
			&cli.StringSliceFlag{Name: "period", Usage: "`ROLE=DAYS/DAYS`: how long a signature is good, and how long before its end it is due (repeat)"},
			&cli.StringFlag{Name: "reason", Usage: "`WHY`, for those who are asked to sign", Required: true},
			publishedFlag(),
		}, onlineFlags()...),
		Action: withInventory(func(c *cli.Context, a *app.App) error {
			f, err := ui.founding(c)
			if err != nil {
				return err
			}
			dir, err := filepath.Abs(c.Args().First())
			if err != nil {
				return err
			}
			var r *tuf.Repository
			var e *tuf.Event
			err = a.JournaledAs(c.Context, "tuf.init", dir, f.Reason, nil, func() (string, error) {
				r, e, err = tuf.Init(c.Context, c.Args().First(), tufOptions(c, a), f)
				if err != nil {
					return "", err
				}
				return eventOf(r, e.ID), nil
			})
			if err != nil {
				return err
			}
			return ui.proposedEvent(c, r, e)
		}),
	}
}

// founding reads the flags of tuf init.
func (u *ui) founding(c *cli.Context) (f tuf.Founding, err error) {
	f = tuf.Founding{Reason: c.String("reason"), Periods: map[string]tuf.Period{}, Files: map[string][]byte{}}
	if f.By, err = tufActor(c); err != nil {
		return f, err
	}
	for _, g := range []struct {
		flag, threshold string
		into            *tuf.Group
	}{{"holder", "threshold", &f.Root}, {"targets-holder", "targets-threshold", &f.Targets}, {"responder", "responder-threshold", &f.Revocations}} {
		if g.into.Holders, err = u.holders(c, g.flag); err != nil {
			return f, err
		}
		if g.into.Threshold = c.Int(g.threshold); c.IsSet(g.threshold) && g.into.Threshold < 1 {
			return f, usageError{fmt.Errorf("--%s must be at least 1", g.threshold)}
		}
		if len(g.into.Holders) == 0 && g.flag != "targets-holder" {
			return f, usageError{fmt.Errorf("%s needs --%s @NAME=FILE, once for each person", c.Command.HelpName, g.flag)}
		}
	}
	if len(f.Targets.Holders) == 0 {
		f.Targets.Holders = f.Root.Holders
		if f.Targets.Threshold == 0 {
			f.Targets.Threshold = f.Root.Threshold
		}
	}
	if f.Online, err = u.online(c); err != nil {
		return f, err
	}
	for _, text := range c.StringSlice("period") {
		role, p, err := period(text)
		if err != nil {
			return f, err
		}
		f.Periods[role] = p
	}
	for _, text := range c.StringSlice("file") {
		name, data, err := u.tufTarget("--file", text)
		if err != nil {
			return f, err
		}
		f.Files[name] = data
	}
	return f, nil
}

func tufProposeCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "propose",
		Usage:     "open a signing event: holders, keys, thresholds, periods, roles, targets",
		Category:  tufCeremony,
		ArgsUsage: "DIR",
		Description: `Everything that is given is changed in one event, in the order of the flags below.
Nothing that clients see changes before it is published. There is one event at a
time: --amend adds to the open one, and drops the signatures that no longer fit.

What would make something stop verifying is refused, unless --accept names it.
ROLE is root, targets, revocations or a role of your own.

Examples:
  reseal tuf propose trust --replace-key @carol=carol-2.pub --reason "new laptop"
  reseal tuf propose trust --add-holder root:@dan=dan.pub --remove-holder root:@bob --remove-holder targets:@bob --reason "bob leaves"
  reseal tuf propose trust --online online-2.pub --reason "online key stolen"
  reseal tuf propose trust --target trusted_root.json=new.json --reason "new log"
  reseal tuf propose trust --restore targets=7 --reason "version 8 is the thief's"
  reseal tuf propose trust --add-role releases --path 'releases/*' --role-holder @rita=rita.pub --reason "release team"
  reseal tuf propose trust --amend --renew root --reason "and it is due"` +
			exits("4 something would stop verifying and is not accepted"),
		Flags: append(append([]cli.Flag{
			&cli.StringSliceFlag{Name: "remove-role", Usage: "end the delegation to `ROLE` (repeat)"},
			&cli.StringFlag{Name: "add-role", Usage: "delegate to the new role `NAME`, with the flags from --path to --non-terminating"},
			&cli.StringSliceFlag{Name: "path", Usage: "`PATTERN` of targets the new role may publish, e.g. 'releases/*' (repeat)"},
			&cli.StringSliceFlag{Name: "role-holder", Usage: "`@NAME=FILE` of a holder of the new role (repeat)"},
			&cli.IntFlag{Name: "role-threshold", Value: 1, Usage: "`N` of them must sign"},
			&cli.IntFlag{Name: "bins", Usage: "spread the new role's targets over 2^`BITS` bins, when there are very many"},
			&cli.StringFlag{Name: "parent", Value: "targets", Usage: "`ROLE` that delegates to the new one"},
			&cli.BoolFlag{Name: "non-terminating", Usage: "later roles may speak for the new role's paths, too"},
			&cli.StringSliceFlag{Name: "restore", Usage: "`ROLE=VERSION` as it was published, or ROLE=FILE with its metadata, under a new version (repeat)"},
			&cli.StringSliceFlag{Name: "replace-key", Usage: "`@NAME=FILE`: the same person with a new key, in every role they hold (repeat)"},
			&cli.StringSliceFlag{Name: "add-holder", Usage: "`ROLE:@NAME=FILE`: another holder of a role (repeat)"},
			&cli.StringSliceFlag{Name: "remove-holder", Usage: "`ROLE:@NAME`, or ROLE:KEYID: one who leaves a role (repeat)"},
			&cli.StringSliceFlag{Name: "threshold", Usage: "`ROLE=N` of its holders must sign (repeat)"},
			&cli.StringSliceFlag{Name: "period", Usage: "`ROLE=DAYS/DAYS`: how long a signature is good, and how long before its end it is due (repeat)"},
		}, onlineFlags()...),
			&cli.StringSliceFlag{Name: "remove-target", Usage: "`NAME` of a target that goes (repeat)"},
			&cli.StringSliceFlag{Name: "target", Usage: "`NAME=FILE`: a target that is new or replaced (repeat)"},
			&cli.StringSliceFlag{Name: "renew", Usage: "sign `ROLE` again as it is, for another period (repeat)"},
			&cli.StringSliceFlag{Name: "accept", Usage: "`NAME` of a target or role: that it stops verifying is meant (repeat)"},
			&cli.BoolFlag{Name: "amend", Usage: "change the open event"},
			&cli.StringFlag{Name: "reason", Usage: "`WHY`, for those who are asked to sign", Required: true},
			publishedFlag(),
		),
		Action: withTUF(func(c *cli.Context, a *app.App, r *tuf.Repository) error {
			var err error
			p := tuf.Proposal{Reason: c.String("reason"), Accept: c.StringSlice("accept")}
			if p.By, err = tufActor(c); err != nil {
				return err
			}
			if p.Changes, err = ui.changes(c, r); err != nil {
				return err
			}
			if len(p.Changes) == 0 {
				return usageError{fmt.Errorf("what is to change? see %s --help", c.Command.HelpName)}
			}
			do := r.Propose
			if c.Bool("amend") {
				do = r.Amend
			}
			var e *tuf.Event
			err = a.JournaledAs(c.Context, "tuf.propose", r.Dir(), p.Reason, nil, func() (string, error) {
				if e, err = do(c.Context, p); err != nil {
					return "", err
				}
				return eventOf(r, e.ID), nil
			})
			var loss *tuf.LossError
			switch {
			case errors.As(err, &loss):
				return fmt.Errorf("%w (--accept NAME): %w", err, errAttention)
			case errors.Is(err, tuf.ErrEventOpen):
				return fmt.Errorf("%w (--amend, or \"reseal tuf withdraw\")", err)
			case err != nil:
				return err
			}
			return ui.proposedEvent(c, r, e)
		}),
	}
}

// changes reads the flags of tuf propose, in the order in which they take effect.
func (u *ui) changes(c *cli.Context, r *tuf.Repository) ([]tuf.Change, error) {
	var out []tuf.Change
	for _, role := range c.StringSlice("remove-role") {
		out = append(out, tuf.RemoveRole{Name: role})
	}
	role, err := u.newRole(c)
	if err != nil {
		return nil, err
	}
	if role != nil {
		out = append(out, *role)
	}
	for _, read := range []struct {
		flag string
		to   func(flag, text string) (tuf.Change, error)
	}{
		{"restore", func(flag, text string) (tuf.Change, error) {
			role, what, err := pair(flag, text, "=", "ROLE=VERSION or ROLE=FILE")
			if err != nil {
				return nil, err
			}
			var known []byte
			if version, e := strconv.ParseInt(what, 10, 64); e == nil {
				known, err = r.PublishedRole(role, version)
			} else {
				known, err = u.read(what, maxTarget)
			}
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", flag, text, err)
			}
			return tuf.Restore{Role: role, Known: known}, nil
		}},
		{"replace-key", func(flag, text string) (tuf.Change, error) {
			h, err := u.holder(flag, text)
			return tuf.ReplaceKey{Holder: h}, err
		}},
		{"add-holder", func(flag, text string) (tuf.Change, error) {
			role, who, err := pair(flag, text, ":", "ROLE:@NAME=FILE, e.g. root:@dan=dan.pub")
			if err != nil {
				return nil, err
			}
			h, err := u.holder(flag, who)
			return tuf.AddHolder{Role: role, Holder: h}, err
		}},
		{"remove-holder", func(flag, text string) (tuf.Change, error) {
			role, who, err := pair(flag, text, ":", "ROLE:@NAME, e.g. root:@bob")
			return tuf.RemoveHolder{Role: role, Name: who}, err
		}},
		{"threshold", func(flag, text string) (tuf.Change, error) {
			role, number, err := pair(flag, text, "=", "ROLE=N, e.g. root=2")
			if err != nil {
				return nil, err
			}
			n, err := strconv.Atoi(number)
			if err != nil {
				return nil, usageError{fmt.Errorf("%s %q: expected ROLE=N, e.g. root=2", flag, text)}
			}
			return tuf.SetThreshold{Role: role, Threshold: n}, nil
		}},
		{"period", func(_, text string) (tuf.Change, error) {
			role, p, err := period(text)
			return tuf.SetPeriod{Role: role, Period: p}, err
		}},
	} {
		for _, text := range c.StringSlice(read.flag) {
			change, err := read.to("--"+read.flag, text)
			if err != nil {
				return nil, err
			}
			out = append(out, change)
		}
	}
	switch {
	case c.IsSet("online"):
		online, err := u.online(c)
		if err != nil {
			return nil, err
		}
		out = append(out, tuf.SetOnline{Online: online})
	case c.IsSet("online-uri"):
		return nil, usageError{errors.New("--online-uri goes with --online, the public key")}
	}
	for _, name := range c.StringSlice("remove-target") {
		out = append(out, tuf.RemoveTarget{Name: name})
	}
	for _, text := range c.StringSlice("target") {
		name, data, err := u.tufTarget("--target", text)
		if err != nil {
			return nil, err
		}
		out = append(out, tuf.SetTarget{Name: name, Data: data})
	}
	for _, role := range c.StringSlice("renew") {
		out = append(out, tuf.Renew{Role: role})
	}
	return out, nil
}

// newRole reads the flags of a new delegation.
func (u *ui) newRole(c *cli.Context) (*tuf.AddRole, error) {
	if !c.IsSet("add-role") {
		for _, flag := range []string{"path", "role-holder", "role-threshold", "bins", "parent", "non-terminating"} {
			if c.IsSet(flag) {
				return nil, usageError{fmt.Errorf("--%s goes with --add-role NAME", flag)}
			}
		}
		return nil, nil
	}
	holders, err := u.holders(c, "role-holder")
	if err != nil {
		return nil, err
	}
	return &tuf.AddRole{Name: c.String("add-role"), Parent: c.String("parent"), Paths: c.StringSlice("path"), Terminating: !c.Bool("non-terminating"),
		Holders: holders, Threshold: c.Int("role-threshold"), BinBits: c.Int("bins")}, nil
}

// eventOf is how the journal calls a signing event.
func eventOf(r *tuf.Repository, id string) string { return r.Dir() + " event " + id }

// proposedEvent shows an event that was opened or amended.
func (u *ui) proposedEvent(c *cli.Context, r *tuf.Repository, e *tuf.Event) error {
	d, err := r.Diff()
	if err != nil {
		return err
	}
	if wantsJSON(c) {
		return u.object("tuf-propose", struct {
			Event *tuf.Event `json:"event"`
			Diff  tuf.Diff   `json:"diff"`
		}{e, d})
	}
	u.tufDiff(d)
	for _, s := range e.Dropped {
		u.notef("no longer signed: %s", s)
	}
	u.printf("")
	dir := c.Args().First()
	u.printf("next: reseal tuf export %s FILE, to those who sign; reseal tuf check %s says who that is", dir, dir)
	return nil
}

// tufDiff prints what an event changes.
func (u *ui) tufDiff(d tuf.Diff) {
	u.printf("event %s%s", d.Event, proposedBy(d.By, d.Reason))
	for _, r := range d.Roles {
		u.printf("")
		if r.From == 0 {
			u.printf("%s %d is new, good until %s", r.Role, r.To, day(r.Expires))
		} else {
			u.printf("%s %d → %d, good until %s (now %s)", r.Role, r.From, r.To, day(r.Expires), day(r.Was))
		}
		for _, line := range r.Changes {
			u.printf("  %-10s  %s", line.What, line.Text)
		}
		if len(r.Changes) == 0 {
			u.printf("  nothing but version and expiry")
		}
		for _, w := range r.Warnings {
			u.printf("  WARNING     %s", w)
		}
		u.printf("  to sign     sha256:%s", r.Digest)
	}
}

// proposedBy says who proposes an event and why, in their words.
func proposedBy(by, reason string) string {
	out := ""
	if by != "" {
		out += ", proposed by " + by
	}
	if reason != "" {
		out += ": " + reason
	}
	return out
}

func tufDiffCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "diff",
		Usage:     "say in words what the open signing event changes",
		Category:  tufCeremony,
		ArgsUsage: "DIR",
		Description: `Computed from the metadata that is to be signed and the metadata that is published,
never from what was asked for. Compare the key fingerprints with their holders.

Example:
  reseal tuf diff trust` + exits(),
		Flags: []cli.Flag{publishedFlag()},
		Action: withTUF(func(c *cli.Context, a *app.App, r *tuf.Repository) error {
			d, err := r.Diff()
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.object("tuf-diff", d)
			}
			ui.tufDiff(d)
			return nil
		}),
	}
}

func tufCheckCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "say who signed the open event, who is missing, and whether it can be published",
		Category:  tufCeremony,
		ArgsUsage: "DIR",
		Description: `Example:
  reseal tuf check trust` + exits("4 it cannot be published yet"),
		Flags: []cli.Flag{publishedFlag(), trustClockFlag()},
		Action: withTUF(func(c *cli.Context, a *app.App, r *tuf.Repository) error {
			check, err := r.Check()
			if err != nil {
				return err
			}
			if len(check.Problems) > 0 {
				err = fmt.Errorf("event %s %w: %s", check.Event.ID, errAttention, plural(len(check.Problems), "problem"))
			}
			if wantsJSON(c) {
				return errors.Join(ui.object("tuf-check", check), err)
			}
			ui.tufCheck(check)
			if err == nil {
				ui.printf("next: reseal tuf publish %s --online-key REF --apply", c.Args().First())
			}
			return err
		}),
	}
}

// tufCheck prints how far an event is.
func (u *ui) tufCheck(check tuf.Check) {
	e := check.Event
	u.printf("event %s, open since %s%s", e.ID, stamp(e.Opened), proposedBy(e.By, e.Reason))
	for _, r := range check.Roles {
		for _, g := range r.Groups {
			of := ""
			if g.Of != "" {
				of = " by its " + g.Of + " holders"
			}
			line := fmt.Sprintf("  %s %d%s: %d of %d", r.Role, r.Version, of, len(g.Signed), g.Threshold)
			if len(g.Signed) > 0 {
				line += ", signed by " + signerNames(g.Signed)
			}
			if !g.Done() {
				line += "; not yet " + signerNames(g.Missing)
			}
			u.printf("%s", line)
		}
	}
	for _, l := range e.Accepted {
		u.printf("  accepted: %s: %s", l.Name, strings.Join(l.What, "; "))
	}
	for _, w := range check.Warnings {
		u.printf("  WARNING: %s", w)
	}
	for _, p := range check.Problems {
		u.printf("  → %s", p)
	}
	if len(check.Problems) == 0 {
		u.printf("  it can be published")
	}
}

func signerNames(signers []tuf.Signer) string {
	var out []string
	for _, s := range signers {
		out = append(out, s.String())
	}
	return strings.Join(out, " ")
}

func tufExportCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "export",
		Usage:     "write the open event into one file for its holders to sign",
		Category:  tufCeremony,
		ArgsUsage: "DIR FILE",
		Description: `The file holds what it takes to check it on a machine that has nothing else. Send
it by any way; tell the event's id by another. FILE must not exist yet.

Example:
  reseal tuf export trust request.json` + exits(),
		Flags: []cli.Flag{publishedFlag()},
		Action: withTUF(func(c *cli.Context, a *app.App, r *tuf.Repository) error {
			e, err := r.Event()
			if err != nil {
				return err
			}
			data, err := r.Export()
			if err != nil {
				return err
			}
			file := c.Args().Get(1)
			if err := durable.CreateFile(file, data, 0o644); err != nil {
				return err
			}
			sum := sha256.Sum256(data)
			if wantsJSON(c) {
				return ui.object("tuf-export", map[string]any{"event": e.ID, "file": file, "bytes": len(data), "sha256": hex.EncodeToString(sum[:])})
			}
			ui.printf("%s asks to sign event %s, %d bytes, sha256:%x", file, e.ID, len(data), sum)
			known := "--root FILE"
			if _, err := os.Stat(filepath.Join(r.Dir(), "metadata", "root.json")); errors.Is(err, fs.ErrNotExist) {
				known = "--first"
			}
			ui.printf("next, each holder: reseal tuf sign %s NAME.sig %s --key REF --event %s", file, known, e.ID)
			return nil
		}),
	}
}

func tufImportCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "import",
		Usage:     "take holders' signature files into the open event",
		Category:  tufCeremony,
		ArgsUsage: "DIR FILE...",
		Description: `Every signature is verified. A file that is for another event or by another key is
refused as a whole, and the files after it are not looked at; what was taken
before stays taken. Taking one again does no harm.

Example:
  reseal tuf import trust alice.sig bob.sig` + exits("3 a signature file is refused"),
		Flags: []cli.Flag{publishedFlag()},
		Action: withTUF(func(c *cli.Context, a *app.App, r *tuf.Repository) error {
			type taken struct {
				File       string       `json:"file"`
				Signatures []tuf.Signed `json:"signatures"`
			}
			files := []taken{}
			var refusal error
			for _, file := range c.Args().Tail() {
				data, err := ui.read(file, maxFile)
				if err != nil {
					refusal = err
					break
				}
				var signed []tuf.Signed
				err = a.Journaled(c.Context, "tuf.import", r.Dir()+" "+filepath.Base(file), "tuf import", data, func() error {
					signed, err = r.Import(c.Context, data)
					return err
				})
				if err != nil {
					if refusal = fmt.Errorf("%s: %w", file, err); !errors.Is(err, tuf.ErrNoEvent) && !errors.As(err, new(*fs.PathError)) {
						refusal = fmt.Errorf("%w: %w", errRefused, refusal)
					}
					break
				}
				files = append(files, taken{file, signed})
			}
			if wantsJSON(c) {
				return errors.Join(ui.object("tuf-signatures", map[string]any{"files": files}), refusal)
			}
			for _, f := range files {
				for _, s := range f.Signatures {
					again := ""
					if s.Again {
						again = ", again"
					}
					ui.printf("%s: %s signed by %s%s", f.File, s.Role, tuf.Signer{KeyID: s.KeyID, Owner: s.Owner}, again)
				}
			}
			if refusal == nil {
				ui.printf("next: reseal tuf check %s", c.Args().First())
			}
			return refusal
		}),
	}
}

func tufPublishCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "publish",
		Usage:     "publish the open event once it has its signatures",
		Category:  tufCeremony,
		ArgsUsage: "DIR",
		Description: `A dry run unless --apply is given. Nothing is written unless clients that start
from every past root, and from what they have cached, reach the new state. A
publication that was cut off at any point is finished by the next command that
changes the repository.

Examples:
  reseal tuf publish trust
  reseal tuf publish trust --online-key gcpkms://projects/p/locations/global/keyRings/r/cryptoKeys/k --apply` +
			exits("4 signatures are missing, or something else stops it"),
		Flags: []cli.Flag{onlineKeyFlag(), publishedFlag(), trustClockFlag(), &applyFlag},
		Action: withTUF(func(c *cli.Context, a *app.App, r *tuf.Repository) error {
			if !c.Bool("apply") {
				return ui.wouldPublish(c, r)
			}
			e, err := r.Event()
			if errors.Is(err, tuf.ErrCutOff) { // publishing finishes it; what it was nobody can say before
				e, err = &tuf.Event{Reason: "finish what was cut off"}, nil
			}
			if err != nil {
				return err
			}
			online, err := onlineKey(c, ui)
			if err != nil {
				return err
			}
			start := time.Now()
			var p *tuf.Publication
			err = ui.journaled(c, a, "tuf.publish", eventOf(r, e.ID), clockWord(c, nonEmpty(e.Reason, "tuf publish")), nil, func() error {
				p, err = r.Publish(c.Context, online)
				return err
			})
			if errors.As(err, new(*tuf.NotReadyError)) {
				return fmt.Errorf("%w: %w", errAttention, err)
			}
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.object("tuf-publish", tufPublished{Event: e.ID, Applied: true, Publication: p})
			}
			if p.Finished {
				ui.printf("finished a change that was cut off")
				return nil
			}
			ui.publication(p, time.Since(start))
			return nil
		}),
	}
}

// tufPublished is what publishing did, or would do.
type tufPublished struct {
	Event    string   `json:"event"`
	Applied  bool     `json:"applied"`
	Problems []string `json:"problems,omitempty"`
	*tuf.Publication
}

// wouldPublish is publishing without publishing.
func (u *ui) wouldPublish(c *cli.Context, r *tuf.Repository) error {
	check, err := r.Check()
	if err != nil {
		return err
	}
	d, err := r.Diff()
	if err != nil {
		return err
	}
	if len(check.Problems) > 0 {
		err = fmt.Errorf("event %s %w: it cannot be published yet", check.Event.ID, errAttention)
	}
	if wantsJSON(c) {
		return errors.Join(u.object("tuf-publish", tufPublished{Event: check.Event.ID, Problems: check.Problems}), err)
	}
	u.tufDiff(d)
	u.printf("")
	u.tufCheck(check)
	u.dryRun(false)
	return err
}

func nonEmpty(text, or string) string {
	if text == "" {
		return or
	}
	return text
}

func tufWithdrawCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "withdraw",
		Usage:     "end the open event without a trace",
		Category:  tufCeremony,
		ArgsUsage: "DIR",
		Description: `Nothing of it was ever published. It is refused once its publication has begun.
Without --apply it only says what would be dropped.

Example:
  reseal tuf withdraw trust --apply` + exits(),
		Flags: []cli.Flag{publishedFlag(), &applyFlag},
		Action: withTUF(func(c *cli.Context, a *app.App, r *tuf.Repository) error {
			out := map[string]any{"applied": c.Bool("apply")}
			what := "the open event"
			e, err := r.Event() // a damaged one can be withdrawn, too
			switch {
			case errors.Is(err, tuf.ErrNoEvent):
				return err
			case err != nil:
				ui.notef("the event is damaged: %v", err)
			default:
				out["event"] = e.ID
				what = fmt.Sprintf("event %s for %s, open since %s", e.ID, strings.Join(e.Roles, ", "), stamp(e.Opened))
			}
			if c.Bool("apply") {
				subject := r.Dir() + " event"
				if e != nil {
					subject = eventOf(r, e.ID)
				}
				if err := a.Journaled(c.Context, "tuf.withdraw", subject, "tuf withdraw", nil, func() error { return r.Withdraw(c.Context) }); err != nil {
					return err
				}
			}
			if wantsJSON(c) {
				return ui.object("tuf-withdraw", out)
			}
			ui.printf("%s %s", ui.verb(c.Bool("apply"), "withdrew", "would withdraw"), what)
			ui.dryRun(c.Bool("apply"))
			return nil
		}),
	}
}
