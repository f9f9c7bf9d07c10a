package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/internal/clock"
	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/tuf"
	"github.com/reseal/reseal/tuf/radar"
)

func tufRefreshCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "refresh",
		Usage:     "sign timestamp and snapshot again when they are due",
		Category:  tufDaily,
		ArgsUsage: "DIR",
		Description: `For cron, or with --loop as a service. It needs the online key alone, goes on while
a signing event is open, and does no harm when run too often. A publication that
was cut off is finished first. With --loop a failure is told and tried again.

It cannot sign root, targets and delegated roles, such as revocations: each that has
expired or soon will is named, with who can sign it and when it ends.

A clock that is behind the last timestamp, or two months past its end, is refused: set
it. If it is right, because it was ahead once or the repository was left alone for so
long, --trust-clock says so; with --force the timestamp is dated anew.

Without --apply it says what is due.

Examples:
  reseal tuf refresh trust --online-key gcpkms://projects/p/locations/global/keyRings/r/cryptoKeys/k --apply
  reseal tuf refresh trust --online-key online.key --apply --loop --every 30m
  reseal tuf refresh trust` + exits("3 a role it cannot sign has expired", "4 one expires soon: have its holders sign it anew"),
		Flags: []cli.Flag{
			onlineKeyFlag(), publishedFlag(), trustClockFlag(), &applyFlag,
			&cli.BoolFlag{Name: "force", Usage: "sign the timestamp in any case"},
			warnDaysFlag(),
			&cli.BoolFlag{Name: "loop", Usage: "go on until stopped"},
			&cli.DurationFlag{Name: "every", Value: time.Hour, Usage: "with --loop: look again after `DURATION`"},
		},
		Action: withTUF(func(c *cli.Context, a *app.App, r *tuf.Repository) error {
			switch {
			case c.IsSet("every") && !c.Bool("loop"):
				return usageError{errors.New("--every goes with --loop")}
			case c.Bool("loop") && !c.Bool("apply"):
				return usageError{errors.New("--loop goes with --apply")}
			case c.Bool("loop") && c.Bool("trust-clock"):
				return usageError{errors.New("--trust-clock is for one run that somebody looks at, not for --loop")}
			case c.Duration("every") < time.Second:
				return usageError{errors.New("--every must be a second or more")}
			}
			if _, err := warnDays(c); err != nil {
				return err
			}
			if !c.Bool("apply") {
				return ui.wouldRefresh(c, r)
			}
			online, err := onlineKey(c, ui)
			if err != nil {
				return err
			}
			for {
				err := ui.refresh(c, a, r, online)
				if !c.Bool("loop") {
					return err
				}
				if c.Context.Err() != nil {
					return nil // stopped, as is meant
				}
				if err != nil {
					ui.notef("%s: %v; looking again in %s", stamp(time.Now()), err, c.Duration("every"))
				}
				if clock.Sleep(c.Context, c.Duration("every")) != nil {
					return nil
				}
			}
		}),
	}
}

// refresh signs what is due, once, and tells of the roles that it cannot sign. Only when something is due, there is
// something to journal.
func (u *ui) refresh(c *cli.Context, a *app.App, r *tuf.Repository, online signer.Signer) error {
	list, offline, err := dueRoles(c, r)
	for _, d := range list { // now, and not in the night when it is due
		if !slices.ContainsFunc(d.keys, func(k radar.Key) bool { return k.Fingerprint == online.Identity().Subject }) {
			return fmt.Errorf("key %s is not a key of role %q: which is the online key? \"reseal tuf status --json\" has its fingerprint", online.Identity().ID(), d.Role)
		}
	}
	look := err != nil || c.Bool("force") || slices.ContainsFunc(list, func(d due) bool { return d.Now })
	var out *tuf.Refreshed
	act := func() error {
		out, err = r.Refresh(c.Context, online, c.Bool("force"))
		return err
	}
	if a != nil && look {
		err = a.Journaled(c.Context, "tuf.refresh", r.Dir(), clockWord(c, "tuf refresh"), nil, act)
	} else {
		err = act()
	}
	var unread error
	if err == nil && (out.Finished || offline == nil) { // it is another state now, or could not be read before
		_, offline, unread = dueRoles(c, r)
	}
	if err != nil {
		u.expiring(c.Args().First(), offline)
		if past := expiringError(c, offline); errors.Is(past, errRefused) {
			err = errors.Join(err, past) // most likely it is why
		}
		return err
	}
	if wantsJSON(c) {
		err := u.object("tuf-refresh", struct {
			Applied bool `json:"applied"`
			*tuf.Refreshed
			Expiring []expiring `json:"expiring"`
		}{true, out, offline})
		return errors.Join(err, unread, expiringError(c, offline))
	}
	if out.Finished {
		u.printf("finished a change that was cut off")
	}
	switch {
	case out.Snapshot:
		u.printf("signed snapshot and timestamp, good until %s; the next is due %s", stamp(out.Expires), stamp(out.Next))
	case out.Timestamp:
		u.printf("signed timestamp, good until %s; the next is due %s", stamp(out.Expires), stamp(out.Next))
	default:
		u.printf("nothing is due before %s", stamp(out.Next))
	}
	u.expiring(c.Args().First(), offline)
	return errors.Join(unread, expiringError(c, offline))
}

// expiring is a role that the online key cannot sign, and that has expired or is to be signed anew.
type expiring struct {
	Role      string         `json:"role"`
	Version   int64          `json:"version"`
	Severity  radar.Severity `json:"severity"` // error: it has expired
	Expires   time.Time      `json:"expires"`
	DaysLeft  int            `json:"days_left"`
	Threshold int            `json:"threshold"`
	Holders   []string       `json:"holders"` // who can sign it
}

// expiring names each role whose time is over, or nearly.
func (u *ui) expiring(dir string, list []expiring) {
	for _, x := range list {
		when, end := "expires", fmt.Sprintf("%s left", daysLeft(x.DaysLeft))
		if x.Severity == radar.Error {
			when, end = "expired", "every client refuses it"
		}
		u.notef("%s: %s %d %s on %s, %s: %d of %s must sign it anew (reseal tuf propose %s --renew %s)",
			strings.ToUpper(string(x.Severity)), x.Role, x.Version, when, stamp(x.Expires), end, x.Threshold, strings.Join(x.Holders, " "), dir, x.Role)
	}
}

// expiringError turns the roles that expire into the exit code.
func expiringError(c *cli.Context, list []expiring) error {
	var past, soon []string
	for _, x := range list {
		if x.Severity == radar.Error {
			past = append(past, x.Role)
		} else {
			soon = append(soon, x.Role)
		}
	}
	switch {
	case len(past) > 0:
		return fmt.Errorf("%w: %s: expired: %s", errRefused, c.Args().First(), strings.Join(past, ", "))
	case len(soon) > 0:
		return fmt.Errorf("%s %w: expires soon: %s", c.Args().First(), errAttention, strings.Join(soon, ", "))
	}
	return nil
}

// due is when an online role is to be signed again.
type due struct {
	Role    string    `json:"role"`
	Expires time.Time `json:"expires"`
	Due     time.Time `json:"due"`
	Now     bool      `json:"now"`

	keys []radar.Key
}

// dueRoles returns the roles that a refresh signs, and those of the others that need their holders.
func dueRoles(c *cli.Context, r *tuf.Repository) ([]due, []expiring, error) {
	days, err := warnDays(c)
	if err != nil {
		return nil, nil, err
	}
	s, err := radar.Read(c.Context, r.Dir(), radar.Options{WarnDays: days, SkipTargets: true})
	if err != nil {
		return nil, nil, err
	}
	list, offline := []due{}, []expiring{}
	for _, role := range s.Roles {
		if role.Name == "snapshot" || role.Name == "timestamp" {
			at := role.Expires.AddDate(0, 0, -role.SigningPeriod)
			list = append(list, due{role.Name, role.Expires, at, !time.Now().Before(at), role.Keys})
		}
	}
	for _, role := range s.Offline() {
		x := expiring{role.Name, role.Version, role.Expiry, role.Expires, role.DaysLeft, role.Threshold, []string{}}
		for _, k := range role.Keys {
			x.Holders = append(x.Holders, keyName(k))
		}
		offline = append(offline, x)
	}
	return list, offline, nil
}

// wouldRefresh says what is due.
func (u *ui) wouldRefresh(c *cli.Context, r *tuf.Repository) error {
	list, offline, err := dueRoles(c, r)
	if err != nil {
		return err
	}
	if wantsJSON(c) {
		err := u.object("tuf-refresh", map[string]any{"applied": false, "roles": list, "expiring": offline})
		return errors.Join(err, expiringError(c, offline))
	}
	for _, d := range list {
		what := "due " + stamp(d.Due)
		if d.Now {
			what = "due now"
		}
		u.printf("%s is good until %s: %s", d.Role, stamp(d.Expires), what)
	}
	u.expiring(c.Args().First(), offline)
	u.dryRun(false)
	return expiringError(c, offline)
}

func tufWalkCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "walk",
		Usage:     "walk clients from every root there ever was to what is published",
		Category:  tufDaily,
		ArgsUsage: "DIR",
		Description: `Changes nothing. "reseal tuf publish" does the same before it publishes.

Example:
  reseal tuf walk trust` + exits("3 a client does not reach it"),
		Flags: []cli.Flag{publishedFlag()},
		Action: withTUF(func(c *cli.Context, a *app.App, r *tuf.Repository) error {
			walked, err := r.Walk(c.Context)
			if err != nil {
				return fmt.Errorf("%w: %w", errRefused, err)
			}
			if wantsJSON(c) {
				return ui.object("tuf-walk", map[string]any{"walked": walked})
			}
			for _, w := range walked {
				ui.printf("%s reaches it", w)
			}
			return nil
		}),
	}
}

func tufRepublishCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "republish",
		Usage:     "make the published directory say again what was published from here",
		Category:  tufRepair,
		ArgsUsage: "DIR",
		Description: `For a published directory that was lost, rolled back, or overwritten by somebody
with the online key. It needs no keys. Clients that were shown higher versions in
the meantime follow only after a new online key: docs/tuf.md, "online key stolen".
Without --apply it looks at what is published and says what is wrong with it.

It is refused when a version is published that is newer than the directory's and that
the holders of its role signed: the directory is an old copy, and would take a denial
back. Rebuild it from what is published. Only when thieves signed that version,
--discard names it, and it is removed from what is published.

Examples:
  reseal tuf republish trust
  reseal tuf republish trust --apply
  reseal tuf republish trust --discard targets=8 --apply` + exits("3 without --apply: something is wrong with what is published"),
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "discard", Usage: "take back what thieves published: `ROLE=VERSION` (repeat)"},
			publishedFlag(), &applyFlag,
		},
		Action: withTUF(func(c *cli.Context, a *app.App, r *tuf.Repository) error {
			discard, err := discarded(c)
			if err != nil {
				return err
			}
			if !c.Bool("apply") {
				return ui.wouldRepublish(c, r, discard)
			}
			reason := "tuf republish"
			for _, text := range c.StringSlice("discard") {
				reason += " --discard " + text
			}
			var out *tuf.Republished
			err = ui.journaled(c, a, "tuf.republish", r.Dir(), reason, nil, func() error {
				var err error
				out, err = r.Republish(c.Context, discard)
				return err
			})
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.object("tuf-republish", struct {
					Applied bool `json:"applied"`
					*tuf.Republished
				}{true, out})
			}
			for _, name := range out.Removed {
				ui.printf("removed %s, which is not what was published from here", name)
			}
			for _, name := range out.Written {
				ui.printf("wrote %s", name)
			}
			if len(out.Removed)+len(out.Written) == 0 {
				ui.printf("it says so already")
			}
			if len(out.Walked) == 0 {
				ui.notef("no client follows yet: something has expired, see \"reseal tuf status %s\"", c.Args().First())
			}
			return nil
		}),
	}
}

// discarded reads the versions that --discard names.
func discarded(c *cli.Context) (map[string]int64, error) {
	out := map[string]int64{}
	for _, text := range c.StringSlice("discard") {
		role, number, _ := strings.Cut(text, "=")
		v, err := strconv.ParseInt(number, 10, 64)
		if role == "" || err != nil || v < 1 {
			return nil, usageError{fmt.Errorf("--discard %q: expected ROLE=VERSION, such as targets=8", text)}
		}
		out[role] = v
	}
	return out, nil
}

// wouldRepublish says what is wrong with the published directory.
func (u *ui) wouldRepublish(c *cli.Context, r *tuf.Repository, discard map[string]int64) error {
	problems := []radar.Problem{}
	s, err := radar.Read(c.Context, r.Published(), radar.Options{})
	switch {
	case err != nil:
		problems = append(problems, radar.Problem{Severity: radar.Error, Code: "unreadable", What: err.Error(), Do: "republish"})
	default:
		problems = append(problems, s.Problems...)
	}
	ours, err := durable.ReadFile(filepath.Join(r.Dir(), "metadata", "timestamp.json"))
	if err != nil {
		return err
	}
	if theirs, err := durable.ReadFile(filepath.Join(r.Published(), "timestamp.json")); err != nil || string(theirs) != string(ours) {
		problems = append(problems, radar.Problem{Severity: radar.Error, Code: "unpublished", Role: "timestamp",
			What: "timestamp.json is not the one that was published from here", Do: "republish"})
	}
	if err := r.CheckRepublish(discard); err != nil {
		problems = append(problems, radar.Problem{Severity: radar.Error, Code: "old-copy", What: err.Error(), Do: "rebuild"})
	}
	if slices.ContainsFunc(problems, func(p radar.Problem) bool { return p.Severity == radar.Error }) {
		err = fmt.Errorf("%w: %s: what is published is not sound", errRefused, r.Published())
	} else {
		err = nil
	}
	if wantsJSON(c) {
		return errors.Join(u.object("tuf-republish", map[string]any{"applied": false, "problems": problems}), err)
	}
	for _, p := range problems {
		u.printf("%s: %s", strings.ToUpper(string(p.Severity)), p.What)
	}
	u.dryRun(false)
	return err
}

func tufRebuildCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "rebuild",
		Usage:     "make a repository's directory again from what it published",
		Category:  tufRepair,
		ArgsUsage: "DIR",
		Description: `When the directory is lost: everything is taken from a mirror and verified from a
root that you know down to every target. An open signing event is lost. Without
--apply it does so in a directory beside DIR, which it removes again.

What is published is the mirror when that is a directory, and DIR/published after
"reseal tuf republish DIR --apply" otherwise.

Examples:
  reseal tuf rebuild trust --from https://tuf.example --root 1.root.json
  reseal tuf rebuild trust --from /srv/tuf --published /srv/tuf --root 1.root.json --apply` + exits("3 the mirror is not what the root leads to"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "from", Usage: "`DIR|URL` of a mirror of what was published", Required: true},
			&cli.StringFlag{Name: "root", Usage: "`FILE` with a root that you know, any version", Required: true},
			publishedFlag(), &applyFlag,
		},
		Action: func(c *cli.Context) (err error) {
			root, err := ui.rootFlag(c)
			if err != nil {
				return err
			}
			dir, from := c.Args().First(), c.String("from")
			mirror := tuf.DirMirror(from)
			if u, err := url.Parse(from); err == nil && u.Host != "" {
				mirror = tuf.URLMirror(from, nil)
			}
			if _, err := os.Stat(filepath.Join(dir, "metadata", "root.json")); err == nil {
				return fmt.Errorf("there is a repository already in %s: choose an empty directory", dir)
			}
			into := dir
			if !c.Bool("apply") {
				if into, err = os.MkdirTemp(filepath.Dir(filepath.Clean(dir)), ".rebuild-*"); err != nil {
					return err
				}
				defer func() { err = errors.Join(err, os.RemoveAll(into)) }()
			}
			_, out, err := tuf.Rebuild(c.Context, into, tufOptions(c, nil), mirror, root)
			switch {
			case errors.As(err, new(*os.PathError)), errors.As(err, new(*url.Error)), errors.Is(err, context.Canceled):
				return err
			case err != nil:
				return fmt.Errorf("%w: %w", errRefused, err)
			}
			if wantsJSON(c) {
				return ui.object("tuf-rebuild", struct {
					Directory string `json:"directory"`
					Applied   bool   `json:"applied"`
					*tuf.Rebuilt
				}{dir, c.Bool("apply"), out})
			}
			ui.printf("%s %s: %s, %s, roots from %d", ui.verb(c.Bool("apply"), "rebuilt", "would rebuild"), dir, versionList(out.Versions, nil), plural(out.Targets, "target"), out.First)
			for _, x := range out.Expired {
				ui.notef("expired: %s: nobody can say that the mirror has the newest", x)
			}
			ui.dryRun(c.Bool("apply"))
			return nil
		},
	}
}

func tufRepinKitCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "repin-kit",
		Usage:     "write what clients need to trust a new root by hand",
		Category:  tufRepair,
		ArgsUsage: "ROOT DIR",
		Description: `When so many root keys are lost or stolen that the old root can vouch for nothing, a
new repository is founded and its first root has to reach every client by another
way. Writes into DIR the root, its checksum and a text for people. ROOT is a
published root, such as published/1.root.json.

Example:
  reseal tuf repin-kit trust-2/published/1.root.json kit --name "Acme releases" --url https://tuf.acme.example` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "what people call the repository: `TEXT`", Required: true},
			&cli.StringFlag{Name: "url", Usage: "`URL` where clients find it", Required: true},
		},
		Action: func(c *cli.Context) error {
			root, err := ui.read(c.Args().First(), maxFile)
			if err != nil {
				return err
			}
			if u, err := url.Parse(c.String("url")); err != nil || u.Host == "" || strings.ContainsFunc(c.String("url")+c.String("name"), hidden) {
				return usageError{errors.New("--url is the http or https address of the published directory, and --name one line")}
			}
			kit, err := tuf.RepinKit(root, c.String("name"), c.String("url"))
			if err != nil {
				return err
			}
			dir := c.Args().Get(1)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			var m struct {
				Signed struct {
					Version int64 `json:"version"`
				} `json:"signed"`
			}
			if err := json.Unmarshal(root, &m); err != nil {
				return err
			}
			file := fmt.Sprintf("%d.root.json", m.Signed.Version) // as the text calls it
			for _, f := range []struct {
				name    string
				content []byte
			}{{file, kit.Root}, {file + ".sha256", []byte(kit.SHA256 + "  " + file + "\n")}, {"README.txt", []byte(kit.Text)}} {
				if err := durable.CreateFile(filepath.Join(dir, f.name), f.content, 0o644); err != nil {
					return err
				}
			}
			if wantsJSON(c) {
				return ui.object("tuf-repin-kit", map[string]any{"directory": dir, "file": file, "sha256": kit.SHA256, "text": kit.Text})
			}
			for line := range strings.Lines(kit.Text) {
				ui.printf("%s", strings.TrimSuffix(line, "\n"))
			}
			ui.notef("written to %s: send text and file by different ways", dir)
			return nil
		},
	}
}
