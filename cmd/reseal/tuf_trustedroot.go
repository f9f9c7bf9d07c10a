package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/inventory/evidence"
	"github.com/reseal/reseal/tuf/trustedroot"
)

// signingConfigFile is what Sigstore calls the file beside its trusted root.
const signingConfigFile = "signing_config.v0.2.json"

func trustedRootCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "trusted-root",
		Usage: "show and edit trusted_root.json: whose certificates, log entries and timestamps clients believe",
		Subcommands: []*cli.Command{
			trustedRootNew(ui), trustedRootShow(ui), trustedRootAdd(ui), trustedRootEnd(ui), trustedRootRemove(ui), trustedRootDiff(ui),
		},
	}
}

func signingConfigCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "signing-config",
		Usage: "show and edit signing_config.v0.2.json: which services clients sign with",
		Subcommands: []*cli.Command{
			signingConfigNew(ui), signingConfigShow(ui), signingConfigAdd(ui), signingConfigEnd(ui), signingConfigRemove(ui), signingConfigUse(ui), signingConfigDiff(ui),
		},
	}
}

// fileFlag names the file that is shown or edited.
func fileFlag(name string) cli.Flag {
	return &cli.StringFlag{Name: "file", Usage: "the `FILE`, " + name + " for example", Required: true}
}

// editFlags are those of every edit.
func editFlags(name string, more ...cli.Flag) []cli.Flag {
	return append(append([]cli.Flag{fileFlag(name)}, more...),
		&cli.StringFlag{Name: "reason", Usage: "`WHY`, for the journal; goes with --apply"},
		&cli.BoolFlag{Name: "apply", Usage: "write the file; without this only what would change is shown"},
	)
}

func acceptLoss() cli.Flag {
	return &cli.BoolFlag{Name: "accept-loss", Usage: "agree that the signatures named stop verifying"}
}

func leaveNone() cli.Flag {
	return &cli.BoolFlag{Name: "leave-none", Usage: "agree that clients find no such service then"}
}

func timeFlag(name, usage string) cli.Flag {
	return &cli.TimestampFlag{Name: name, Layout: time.RFC3339, Usage: usage}
}

// at returns a time flag, zero if it was not given.
func at(c *cli.Context, name string) time.Time {
	if t := moment(c, name); t != nil {
		return *t
	}
	return time.Time{}
}

// withInventory runs what a command does with the home there is, or with nil
// where there is none and none was asked for.
func withInventory(do func(*cli.Context, *app.App) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		o, err := options(c)
		if err != nil {
			return err
		}
		if global(c, "home") == "" && global(c, "db") == "" && !app.HasHome(o) {
			return do(c, nil)
		}
		return in(do)(c)
	}
}

// document returns the document that a command is about.
func document(c *cli.Context, a *app.App) app.TrustFile {
	return app.TrustFile{Path: c.String("file"), Home: a}
}

// existing returns a document's content.
func existing(c *cli.Context, d app.TrustFile, what string) ([]byte, error) {
	b, err := d.Read()
	if err == nil && b == nil {
		err = fmt.Errorf("there is no %s in %s: \"reseal tuf %s new\" makes one", strings.ReplaceAll(what, "-", " "), c.String("file"), what)
	}
	return b, err
}

// editRoot makes an edit of a trusted root, says what it does and, where that is
// asked for and agreed to, does it.
func (u *ui) editRoot(edit func(*cli.Context, *trustedroot.Root) ([]string, error)) cli.ActionFunc {
	return withInventory(func(c *cli.Context, a *app.App) error {
		d := document(c, a)
		old, err := existing(c, d, "trusted-root")
		if err != nil {
			return err
		}
		e, err := app.EditTrustedRoot(old, func(r *trustedroot.Root) ([]string, error) { return edit(c, r) })
		if err != nil {
			return err
		}
		return u.trustChange(c, a, d, "trusted-root", e)
	})
}

// editConfig does the same for a signing config.
func (u *ui) editConfig(edit func(*cli.Context, *trustedroot.Config) ([]string, error)) cli.ActionFunc {
	return withInventory(func(c *cli.Context, a *app.App) error {
		d := document(c, a)
		old, err := existing(c, d, "signing-config")
		if err != nil {
			return err
		}
		e, err := app.EditSigningConfig(old, func(x *trustedroot.Config) ([]string, error) { return edit(c, x) })
		if err != nil {
			return err
		}
		return u.trustChange(c, a, d, "signing-config", e)
	})
}

// trustChange says what a change does and, with --apply, makes it.
func (u *ui) trustChange(c *cli.Context, a *app.App, d app.TrustFile, what string, e app.TrustEdit) error {
	apply := c.Bool("apply")
	if apply && c.String("reason") == "" {
		return usageError{fmt.Errorf("why? --apply goes with --reason")}
	}
	stops, err := u.stops(c, a, e)
	if err != nil {
		return err
	}
	agreed := e.Agreed(stops, time.Now())
	if agreed != nil && c.Bool("accept-loss") {
		agreed = nil
	}
	if apply && agreed == nil {
		if err := d.Write(c.Context, e, c.String("reason")); err != nil {
			return err
		}
	}
	if err := u.trustChanges(c, what, e, stops, apply && agreed == nil); err != nil {
		return err
	}
	if apply {
		return agreed
	}
	if agreed != nil {
		u.notef("%v", agreed)
	}
	if !wantsJSON(c) {
		u.printf("nothing was written: add --apply --reason WHY")
	}
	return nil
}

// stops asks the inventory what a change would stop; nil: there is none, or
// nothing to ask.
func (u *ui) stops(c *cli.Context, a *app.App, e app.TrustEdit) (*app.Stops, error) {
	if a == nil || len(e.Lost) == 0 {
		return nil, nil
	}
	p := u.progress("signatures", 0)
	s, err := a.WhatStops(c.Context, e, func(d evidence.Difference) {
		p.at(d.Signatures, fmt.Sprintf("%d would stop", d.Refused+d.Unlogged+d.Untimed))
	})
	p.end()
	return &s, err
}

// trustChanges prints a change.
func (u *ui) trustChanges(c *cli.Context, what string, e app.TrustEdit, stops *app.Stops, applied bool) error {
	if wantsJSON(c) {
		return u.object("tuf."+what, map[string]any{
			"file": c.String("file"), "applied": applied, "changes": append([]trustedroot.Change{}, e.Changes...),
			"warnings": append([]string{}, e.Warnings...), "lost": append([]trustedroot.Loss{}, e.Lost...), "inventory": stops,
		})
	}
	for _, x := range e.Changes {
		u.printf("%s %s", x.What, x.Subject)
		for _, line := range x.Details {
			u.printf("  %s", line)
		}
	}
	switch {
	case len(e.Changes) > 0:
	case e.Old == nil && e.New != nil:
		u.printf("a new file, with nobody in it")
	default:
		u.printf("nothing changes")
	}
	for _, l := range e.Lost {
		u.printf("lost: evidence of %s%s: %s", l.Authority, bounds(l), l.Why)
	}
	if stops != nil {
		d := stops.Judged
		u.printf("in the inventory: %d of %d signatures that may be touched are refused, %d are without their log entry, %d without proof of time; %d deployed artifacts have one of these, %d of them no other",
			d.Refused, d.Signatures, d.Unlogged, d.Untimed, d.Deployed, d.Dark)
		for _, ref := range d.DarkArtifacts {
			u.printf("  goes dark: %s", ref)
		}
		if d.Lost > 0 {
			u.printf("  %d are not in the vault any more: they are judged by what is known of them", d.Lost)
		}
		for _, text := range stops.Untold {
			u.printf("  not in these numbers: %s", text)
		}
		if stops.Another {
			u.printf("  the inventory was verified against another trusted root: what rests on an authority that is not in that is not in these numbers")
		}
	}
	for _, w := range e.Warnings {
		u.notef("warning: %s", w)
	}
	if applied {
		u.printf("wrote %s", c.String("file"))
	}
	return nil
}

// bounds says which evidence is lost.
func bounds(l trustedroot.Loss) string {
	s := ""
	if !l.After.IsZero() {
		s += " after " + l.After.Format(time.RFC3339)
	}
	if !l.Before.IsZero() {
		s += " before " + l.Before.Format(time.RFC3339)
	}
	return s
}

// create makes a new file.
func (u *ui) create(what string, make func() (app.TrustEdit, error)) cli.ActionFunc {
	return withInventory(func(c *cli.Context, a *app.App) error {
		d := document(c, a)
		b, err := d.Read()
		if err != nil {
			return err
		}
		if b != nil {
			return fmt.Errorf("%s exists already: edit it, or name another", c.String("file"))
		}
		e, err := make()
		if err != nil {
			return err
		}
		return u.trustChange(c, a, d, what, e)
	})
}

func trustedRootNew(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "new",
		Usage: "make one that trusts nobody, for a stack of your own",
		Description: `Example:
  reseal tuf trusted-root new --file trusted_root.json --apply --reason "a stack of our own"` + exits(),
		Flags: editFlags("trusted_root.json"),
		Action: ui.create("trusted-root", func() (app.TrustEdit, error) {
			return app.EditTrustedRoot(nil, func(*trustedroot.Root) ([]string, error) { return nil, nil })
		}),
	}
}

func trustedRootShow(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "show",
		Usage: "list whom it trusts, with the IDs to select them by",
		Description: `Also says what in it some clients do not read and, with the signing config beside
it, which services make what nobody would trust.

Example:
  reseal tuf trusted-root show --file trusted_root.json` + exits(),
		Flags: []cli.Flag{fileFlag("trusted_root.json"), configFlag()},
		Action: func(c *cli.Context) error {
			text, err := existing(c, document(c, nil), "trusted-root")
			if err != nil {
				return err
			}
			r, err := trustedroot.Parse(text)
			if err != nil {
				return err
			}
			notes := r.Notes()
			config, err := besides(c)
			if err != nil {
				return err
			}
			if config != nil {
				notes = append(notes, trustedroot.Agree(r, config, time.Now())...)
			}
			if wantsJSON(c) {
				return ui.object("tuf.trusted-root.show", map[string]any{"file": c.String("file"),
					"authorities": append([]trustedroot.Authority{}, r.Authorities()...), "notes": append([]string{}, notes...)})
			}
			rows := [][]string{{"KIND", "ID", "FROM", "UNTIL", "URL", "SUBJECT OR KEY", "OPERATOR"}}
			for _, a := range r.Authorities() {
				rows = append(rows, []string{string(a.Kind), a.ID, day(a.Start), day(a.End), a.URL, a.Subject + a.Key, a.Operator})
			}
			ui.table(rows)
			for _, n := range notes {
				ui.notef("note: %s", n)
			}
			return nil
		},
	}
}

// configFlag names the signing config beside a trusted root.
func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "signing-config", Usage: "the signing config `FILE`, which tells Rekor v2 from v1 (default: " + signingConfigFile + " beside the trusted root, if there is one)"}
}

// besides reads the signing config beside a trusted root, or nil.
func besides(c *cli.Context) (*trustedroot.Config, error) {
	file, given := c.String("signing-config"), c.IsSet("signing-config")
	if !given {
		file = filepath.Join(filepath.Dir(c.String("file")), signingConfigFile)
	}
	text, err := app.TrustFile{Path: file}.Read()
	switch {
	case err != nil:
		return nil, err
	case text == nil && given:
		return nil, fmt.Errorf("--signing-config: %w", &fs.PathError{Op: "open", Path: file, Err: os.ErrNotExist})
	case text == nil:
		return nil, nil
	}
	config, err := trustedroot.ParseConfig(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return config, nil
}

func trustedRootAdd(ui *ui) *cli.Command {
	add := func(k trustedroot.Kind, usage, example string, flags ...cli.Flag) *cli.Command {
		common := []cli.Flag{
			&cli.StringFlag{Name: "url", Usage: "`URL` of the service", Required: true},
			&cli.StringFlag{Name: "operator", Usage: "who runs it, a `NAME` such as sigstore.dev"},
			timeFlag("start", "nothing of it counts before, `RFC3339`"),
			timeFlag("end", "nothing of it counts after, `RFC3339`"),
		}
		return &cli.Command{
			Name:        string(k),
			Usage:       usage,
			Description: "Example:\n  reseal tuf trusted-root add " + example + exits(),
			Flags:       editFlags("trusted_root.json", append(flags, common...)...),
			Action: ui.editRoot(func(c *cli.Context, r *trustedroot.Root) ([]string, error) {
				a := trustedroot.Addition{Kind: k, URL: c.String("url"), Operator: c.String("operator"), Start: at(c, "start"), End: at(c, "end"), RekorVersion: c.Int("api-version")}
				file := c.String("certificate-chain") + c.String("key")
				var err error
				if a.PEM, err = ui.read(file, maxFile); err != nil {
					return nil, err
				}
				if id := c.String("log-id"); id != "" {
					if a.LogID, err = hex.DecodeString(id); err != nil {
						return nil, usageError{fmt.Errorf("--log-id %q: expected hex digits", id)}
					}
				}
				_, warnings, err := r.Add(a, time.Now())
				return warnings, err
			}),
		}
	}
	chain := func() cli.Flag {
		return &cli.StringFlag{Name: "certificate-chain", Usage: "PEM `FILE` with its certificate and those above it, up to the trust anchor", Required: true}
	}
	key := func() cli.Flag {
		return &cli.StringFlag{Name: "key", Usage: "PEM `FILE` with its public key", Required: true}
	}
	id := func() cli.Flag {
		return &cli.StringFlag{Name: "log-id", Usage: "its `ID` in hex, where it is known otherwise: it is compared"}
	}
	return &cli.Command{
		Name:  "add",
		Usage: "trust a CA, a log, a CT log or a timestamp authority",
		Subcommands: []*cli.Command{
			add(trustedroot.CA, "trust a certificate authority for signers (Fulcio); its start is by default that of its chain",
				`ca --file trusted_root.json --certificate-chain ca.pem --url https://fulcio.example`, chain()),
			add(trustedroot.Log, "trust a transparency log (Rekor)",
				`log --file trusted_root.json --key rekor.pub --api-version 2 --url https://log2026-1.rekor.example --start 2026-01-01T00:00:00Z`,
				key(), id(), &cli.IntFlag{Name: "api-version", Usage: "`N`: 1 for Rekor v1, 2 for Rekor v2, whose log ID depends on the URL"}),
			add(trustedroot.CTLog, "trust a certificate transparency log",
				`ctlog --file trusted_root.json --key ctfe.pub --url https://ctfe.example/2026 --start 2026-01-01T00:00:00Z`, key(), id()),
			add(trustedroot.TSA, "trust a timestamp authority (RFC 3161); its start is by default that of its chain",
				`tsa --file trusted_root.json --certificate-chain tsa.pem --url https://timestamp.example/api/v1/timestamp`, chain()),
		},
	}
}

// selected reads the arguments KIND SELECTOR.
func selected(c *cli.Context) (trustedroot.Kind, string, error) {
	k, err := trustedroot.ParseKind(c.Args().First())
	if err != nil {
		return "", "", usageError{err}
	}
	return k, c.Args().Get(1), nil
}

const selectors = `KIND is ca, log, ctlog or tsa. SELECTOR is its URL, the subject or common name of
one of its certificates, or the beginning of its ID or of a fingerprint in hex;
where several match, they are listed and nothing is done.`

func trustedRootEnd(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "end",
		Usage:     "let the evidence of an authority count until a time and no longer",
		ArgsUsage: "KIND SELECTOR",
		Description: selectors + `

An end retires an authority whose key is safe. It stops no stolen key of a log
or a timestamp authority, which can put any time into what it signs: remove that.
Clients do not look at the end of a Rekor v2 log, so there it is refused.

What would stop verifying is asked of the inventory, where there is a home, by
verifying every signature that rests on the authority under both trusted roots.
With --apply the file is written only when that is nothing, or with --accept-loss.

Example:
  reseal tuf trusted-root end ca sigstore-intermediate --at 2026-05-11T19:20:00Z --file trusted_root.json` + exits("4 signatures would stop verifying, or several authorities match"),
		Flags: editFlags("trusted_root.json", timeFlag("at", "`RFC3339`"), configFlag(), acceptLoss()),
		Action: ui.editRoot(func(c *cli.Context, r *trustedroot.Root) ([]string, error) {
			k, selector, err := selected(c)
			if err != nil {
				return nil, err
			}
			if !c.IsSet("at") {
				return nil, usageError{errors.New("when does it end? give --at")}
			}
			config, err := besides(c)
			if err != nil {
				return nil, err
			}
			_, warnings, err := r.End(k, selector, at(c, "at"), config, time.Now())
			return warnings, err
		}),
	}
}

func trustedRootRemove(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "remove",
		Usage:     "trust nothing of an authority any more, of whatever time",
		ArgsUsage: "KIND SELECTOR",
		Description: selectors + `

What would stop verifying is asked of the inventory, where there is a home, by
verifying every signature that rests on the authority under both trusted roots.
With --apply the file is written only when that is nothing, or with --accept-loss.

Example:
  reseal tuf trusted-root remove tsa https://timestamp.example/api/v1/timestamp --file trusted_root.json` + exits("4 signatures would stop verifying, or several authorities match"),
		Flags: editFlags("trusted_root.json", acceptLoss()),
		Action: ui.editRoot(func(c *cli.Context, r *trustedroot.Root) ([]string, error) {
			k, selector, err := selected(c)
			if err != nil {
				return nil, err
			}
			_, warnings, err := r.Remove(k, selector)
			return warnings, err
		}),
	}
}

func trustedRootDiff(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "diff",
		Usage:     "say what is different in another trusted root, and what would stop verifying",
		ArgsUsage: "OLD NEW",
		Description: `Example:
  reseal tuf trusted-root diff trusted_root.json proposed.json` + exits(),
		Action: withInventory(func(c *cli.Context, a *app.App) error {
			old, new, err := ui.two(c)
			if err != nil {
				return err
			}
			e, err := app.CompareTrustedRoots(old, new)
			if err != nil {
				return err
			}
			stops, err := ui.stops(c, a, e)
			if err != nil {
				return err
			}
			return ui.trustChanges(c, "trusted-root.diff", e, stops, false)
		}),
	}
}

// two reads the files that the arguments OLD NEW name.
func (u *ui) two(c *cli.Context) (old, new []byte, err error) {
	if old, err = u.read(c.Args().Get(0), maxFile); err != nil {
		return nil, nil, err
	}
	new, err = u.read(c.Args().Get(1), maxFile)
	return old, new, err
}

func signingConfigNew(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "new",
		Usage: "make one without services, for a stack of your own",
		Description: `Example:
  reseal tuf signing-config new --file signing_config.v0.2.json --apply --reason "a stack of our own"` + exits(),
		Flags: editFlags(signingConfigFile),
		Action: ui.create("signing-config", func() (app.TrustEdit, error) {
			return app.EditSigningConfig(nil, func(*trustedroot.Config) ([]string, error) { return nil, nil })
		}),
	}
}

func signingConfigShow(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "show",
		Usage: "list the services, and which of them clients use now",
		Description: `Example:
  reseal tuf signing-config show --file signing_config.v0.2.json` + exits(),
		Flags: []cli.Flag{fileFlag(signingConfigFile)},
		Action: func(c *cli.Context) error {
			text, err := existing(c, document(c, nil), "signing-config")
			if err != nil {
				return err
			}
			config, err := trustedroot.ParseConfig(text)
			if err != nil {
				return err
			}
			type row struct {
				trustedroot.Service
				Used bool `json:"used"`
			}
			type choice struct {
				Selector string `json:"selector"`
				Count    uint32 `json:"count,omitempty"`
				Problem  string `json:"problem,omitempty"`
			}
			list, choices := []row{}, map[trustedroot.ServiceKind]choice{}
			used := map[trustedroot.ServiceKind][]trustedroot.Service{}
			for _, k := range trustedroot.ServiceKinds() {
				var how choice
				how.Selector, how.Count = config.Uses(k)
				if used[k], err = config.Picks(k, time.Now()); err != nil {
					how.Problem = err.Error()
				}
				choices[k] = how
			}
			for _, s := range config.Services() {
				list = append(list, row{s, slices.ContainsFunc(used[s.Kind], func(u trustedroot.Service) bool { return u.URL == s.URL && u.Version == s.Version })})
			}
			if wantsJSON(c) {
				return ui.object("tuf.signing-config.show", map[string]any{"file": c.String("file"), "services": list, "choices": choices})
			}
			rows := [][]string{{"KIND", "URL", "API", "FROM", "UNTIL", "OPERATOR", "USED NOW"}}
			for _, s := range list {
				is := "no"
				if s.Used {
					is = "yes"
				}
				rows = append(rows, []string{string(s.Kind), s.URL, fmt.Sprint(s.Version), day(s.Start), day(s.End), s.Operator, is})
			}
			ui.table(rows)
			for _, k := range trustedroot.ServiceKinds() {
				if why := choices[k].Problem; why != "" {
					ui.notef("note: clients find no %s service: %s", k, why)
				}
			}
			return nil
		},
	}
}

// selectedService reads the arguments KIND SELECTOR, and --api-version.
func selectedService(c *cli.Context) (trustedroot.ServiceKind, string, uint32, error) {
	k, err := trustedroot.ParseServiceKind(c.Args().First())
	if err != nil {
		return "", "", 0, usageError{err}
	}
	version, err := small(c, "api-version")
	return k, c.Args().Get(1), version, err
}

// small reads a number that is few digits long.
func small(c *cli.Context, name string) (uint32, error) {
	n := c.Uint(name)
	if n > 1000 {
		return 0, usageError{fmt.Errorf("--%s %d: that is too large", name, n)}
	}
	return uint32(n), nil
}

func versionFlag(value uint, usage string) cli.Flag {
	return &cli.UintFlag{Name: "api-version", Value: value, Usage: usage}
}

func signingConfigAdd(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "add",
		Usage:     "let clients sign with a service",
		ArgsUsage: "KIND URL",
		Description: `KIND is fulcio, oidc, rekor or tsa. Clients use the highest API version that they
know and, of one operator, the service that started last. Whoever verifies must
trust the service before: reseal tuf trusted-root add.

Example:
  reseal tuf signing-config add rekor https://log2026-1.rekor.example --api-version 2 \
    --operator example.com --start 2026-07-01T00:00:00Z --file signing_config.v0.2.json` + exits(),
		Flags: editFlags(signingConfigFile,
			versionFlag(1, "major API version `N`"),
			&cli.StringFlag{Name: "operator", Usage: "who runs it, a `NAME` such as sigstore.dev", Required: true},
			timeFlag("start", "no client uses it before, `RFC3339`"),
			timeFlag("end", "no client uses it after, `RFC3339`")),
		Action: ui.editConfig(func(c *cli.Context, config *trustedroot.Config) ([]string, error) {
			k, url, version, err := selectedService(c)
			if err != nil {
				return nil, err
			}
			return config.Add(trustedroot.Service{Kind: k, URL: url, Version: version, Operator: c.String("operator"), Start: at(c, "start"), End: at(c, "end")}, time.Now())
		}),
	}
}

func signingConfigEnd(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "end",
		Usage:     "let clients use a service until a time and no longer",
		ArgsUsage: "KIND SELECTOR",
		Description: `KIND is fulcio, oidc, rekor or tsa, and SELECTOR the service's URL or operator. It is
refused where clients would find no such service from some time on.

Example:
  reseal tuf signing-config end rekor https://rekor.example --at 2026-07-01T00:00:00Z --file signing_config.v0.2.json` + exits("4 several services match", "5 clients would find no service"),
		Flags: editFlags(signingConfigFile, timeFlag("at", "`RFC3339`"), versionFlag(0, "the one of major API version `N`"), leaveNone()),
		Action: ui.editConfig(func(c *cli.Context, config *trustedroot.Config) ([]string, error) {
			k, selector, version, err := selectedService(c)
			if err != nil {
				return nil, err
			}
			if !c.IsSet("at") {
				return nil, usageError{errors.New("when does it end? give --at")}
			}
			_, warnings, err := config.End(k, selector, version, at(c, "at"), time.Now(), c.Bool("leave-none"))
			return warnings, err
		}),
	}
}

func signingConfigRemove(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "remove",
		Usage:     "let no client use a service any more",
		ArgsUsage: "KIND SELECTOR",
		Description: `KIND is fulcio, oidc, rekor or tsa, and SELECTOR the service's URL or operator. It is
refused where clients would find no such service now or later.

Example:
  reseal tuf signing-config remove rekor https://rekor.example --file signing_config.v0.2.json` + exits("4 several services match", "5 clients would find no service"),
		Flags: editFlags(signingConfigFile, versionFlag(0, "the one of major API version `N`"), leaveNone()),
		Action: ui.editConfig(func(c *cli.Context, config *trustedroot.Config) ([]string, error) {
			k, selector, version, err := selectedService(c)
			if err != nil {
				return nil, err
			}
			_, warnings, err := config.Remove(k, selector, version, time.Now(), c.Bool("leave-none"))
			return warnings, err
		}),
	}
}

func signingConfigUse(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "use",
		Usage:     "say how many logs or timestamp authorities clients use",
		ArgsUsage: "KIND HOW",
		Description: `KIND is rekor or tsa. HOW is any (one of them), all, or exact, which goes with
--count. Clients take one of each operator.

Example:
  reseal tuf signing-config use tsa exact --count 2 --file signing_config.v0.2.json` + exits("5 clients would find too few"),
		Flags: editFlags(signingConfigFile, &cli.UintFlag{Name: "count", Usage: "how many, a `NUMBER`"}),
		Action: ui.editConfig(func(c *cli.Context, config *trustedroot.Config) ([]string, error) {
			k, how, _, err := selectedService(c)
			if err != nil {
				return nil, err
			}
			count, err := small(c, "count")
			if err != nil {
				return nil, err
			}
			return config.Use(k, how, count, time.Now())
		}),
	}
}

func signingConfigDiff(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "diff",
		Usage:     "say what is different in another signing config",
		ArgsUsage: "OLD NEW",
		Description: `Example:
  reseal tuf signing-config diff signing_config.v0.2.json proposed.json` + exits(),
		Action: func(c *cli.Context) error {
			old, new, err := ui.two(c)
			if err != nil {
				return err
			}
			changes, err := trustedroot.DiffConfig(old, new)
			if err != nil {
				return err
			}
			return ui.trustChanges(c, "signing-config.diff", app.TrustEdit{Changes: changes}, nil, false)
		},
	}
}
