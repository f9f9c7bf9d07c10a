package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
)

func incidentCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "incident",
		Usage: "declare what is compromised, plan what is done, approve it, close it",
		Subcommands: []*cli.Command{
			incidentOpen(ui), incidentAmend(ui), incidentMark(ui), incidentList(ui), incidentShow(ui), incidentPlan(ui), incidentApprove(ui),
			incidentBreakGlass(ui), incidentWithdraw(ui), incidentClose(ui),
		},
	}
}

// scopeFlags say what an incident is about.
func scopeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "signer", Usage: "compromised signer, `NAME` or ID from \"reseal signers\" (repeat)"},
		&cli.StringFlag{Name: "certificate-identity", Usage: "keyless signatures with this `SAN`, exactly"},
		&cli.StringFlag{Name: "certificate-identity-regexp", Usage: "with a SAN that this anchored `PATTERN` matches as a whole"},
		&cli.StringFlag{Name: "certificate-oidc-issuer", Usage: "with this OIDC issuer `URL`, exactly"},
		&cli.StringFlag{Name: "certificate-oidc-issuer-regexp", Usage: "with an issuer that this anchored `PATTERN` matches as a whole"},
		&cli.StringFlag{Name: "workflow", Usage: "made by this workflow: the Build Signer `URI` of the certificate"},
		&cli.StringFlag{Name: "ref", Usage: "made from this source `REF`, e.g. refs/heads/main"},
		&cli.StringFlag{Name: "sha", Usage: "made from this source `COMMIT`"},
		&cli.StringFlag{Name: "source-repository", Usage: "made from this source repository `URI`"},
		&cli.StringFlag{Name: "trigger", Usage: "made by a build with this `TRIGGER`, e.g. pull_request_target"},
		&cli.StringFlag{Name: "run", Usage: "made by this run: its `URL`"},
		&cli.StringSliceFlag{Name: "authority", Usage: "compromised authority, `ROLE:ID` from \"reseal authorities\"; ROLE is ca, log, ct, tsa or tuf (repeat)"},
		&cli.Int64Flag{Name: "matches", Value: -1, Usage: "a pattern is meant to match `N` of the signers known here"},
	}
}

// scope reads the flags of scopeFlags.
func scope(c *cli.Context) (app.Scope, error) {
	s := app.Scope{Signers: c.StringSlice("signer"), Matches: c.Int64("matches")}
	x := trust.Selector{Issuer: c.String("certificate-oidc-issuer"), IssuerRegexp: c.String("certificate-oidc-issuer-regexp"),
		Subject: c.String("certificate-identity"), SubjectRegexp: c.String("certificate-identity-regexp"),
		Workflow: c.String("workflow"), Ref: c.String("ref"), SHA: c.String("sha"), Repository: c.String("source-repository"),
		Trigger: c.String("trigger"), Run: c.String("run")}
	if x != (trust.Selector{}) {
		s.Selectors = append(s.Selectors, x)
	}
	for _, text := range c.StringSlice("authority") {
		role, id, ok := strings.Cut(text, ":")
		if !ok || role == "" || id == "" {
			return s, usageError{fmt.Errorf("--authority %q: expected ROLE:ID, as \"reseal authorities\" lists them", text)}
		}
		s.Authorities = append(s.Authorities, inventory.Authority{Role: inventory.Role(role), ID: id})
	}
	return s, nil
}

// moment returns a time flag in UTC, nil if it was not given.
func moment(c *cli.Context, name string) *time.Time {
	t := c.Timestamp(name)
	if t == nil {
		return nil
	}
	utc := t.UTC()
	return &utc
}

func classNames() string {
	var names []string
	for _, class := range trust.Classes() {
		names = append(names, string(class))
	}
	return strings.Join(names, ", ")
}

func incidentOpen(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "open",
		Usage:     "declare a signer or an authority compromised",
		ArgsUsage: "NAME",
		Description: `The classes are ` + classNames() + `.

What is named is tainted at once: no plan trusts it any more. Without --from
nothing it signed can be proven older than the compromise. An end (--until) is
possible only where the attacker cannot keep the power to sign: an identity, a
workflow, an issuer, the use of a KMS key. Whoever copied a key keeps it.

Names are exact. A pattern must begin with ^ and end with $, and is used only
when --matches says how many of the known signers it is meant to match: without
it, reseal prints them and stops.

Examples:
  reseal incident open INC-1 --signer release --from 2026-11-20T08:00:00Z \
    --title "release key in a public CI log" --reason "reported by security" \
    --rogue sha256:...="found on the mirror"
  reseal incident open INC-2 --class keyless-identity \
    --certificate-identity https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main \
    --certificate-oidc-issuer https://token.actions.githubusercontent.com \
    --from 2026-05-11T19:20:00Z --until 2026-05-11T19:26:00Z --reason "cache poisoned"
  reseal incident open INC-3 --class tsa --authority tsa:75a2... --reason "key in a backup"` + exits("4 a pattern waits for --matches"),
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "class", Value: string(trust.SigningKey), Usage: "what was compromised: `CLASS`"},
			&cli.TimestampFlag{Name: "from", Layout: time.RFC3339, Usage: "start of the compromise, `RFC3339`; leave out if unknown"},
			&cli.TimestampFlag{Name: "until", Layout: time.RFC3339, Usage: "end of the compromise, `RFC3339`"},
			&cli.StringFlag{Name: "title", Usage: "what happened, in a `LINE`"},
			&cli.StringFlag{Name: "severity", Value: "high", Usage: "`LEVEL`: low, medium, high or critical"},
			&cli.StringFlag{Name: "reason", Usage: "how it is known: `WHY`, for the journal", Required: true},
			&cli.StringSliceFlag{Name: "rogue", Usage: "`DIGEST=WHY` of an artifact known to be the attacker's (repeat)"},
		}, scopeFlags()...),
		Action: in(func(c *cli.Context, a *app.App) error {
			i := rotate.Incident{Title: c.String("title"), Severity: c.String("severity")}
			i.ID, i.Class, i.From, i.Until, i.Rogue = c.Args().First(), trust.Class(c.String("class")), moment(c, "from"), moment(c, "until"), rogue(c)
			s, err := scope(c)
			if err != nil {
				return err
			}
			i, err = a.OpenIncident(c.Context, i, s, c.String("reason"))
			if err != nil {
				return ui.matches(c, err)
			}
			if wantsJSON(c) {
				return ui.line(i)
			}
			ui.printf("incident %s is open; next: reseal impact %s", i.ID, i.ID)
			return nil
		}),
	}
}

// matches prints what a pattern matches before it is used.
func (u *ui) matches(c *cli.Context, err error) error {
	var ask app.MatchesError
	if errors.As(err, &ask) {
		for _, r := range ask.Matched {
			u.notef("matches %s", r.Identity)
		}
	}
	return err
}

func incidentAmend(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "amend",
		Usage:     "widen an incident: earlier, longer, more signers",
		ArgsUsage: "NAME",
		Description: `What was learnt later only ever makes an incident wider: it starts earlier, ends
later or not at all, is about more signers. Every change is kept with its
reason. What was re-signed on the narrower belief is listed for recall in the
next plan.

Examples:
  reseal incident amend INC-1 --from 2026-11-12T00:00:00Z --reason "seen in an older log"
  reseal incident amend INC-1 --from-unknown --reason "logs are gone"` + exits("4 a pattern waits for --matches"),
		Flags: append([]cli.Flag{
			&cli.TimestampFlag{Name: "from", Layout: time.RFC3339, Usage: "earlier start, `RFC3339`"},
			&cli.BoolFlag{Name: "from-unknown", Usage: "nobody knows when it started"},
			&cli.TimestampFlag{Name: "until", Layout: time.RFC3339, Usage: "later end, `RFC3339`"},
			&cli.BoolFlag{Name: "no-end", Usage: "it has not ended"},
			&cli.StringFlag{Name: "title", Usage: "what happened, in a `LINE`"},
			&cli.StringFlag{Name: "severity", Usage: "`LEVEL`: low, medium, high or critical"},
			&cli.StringFlag{Name: "reason", Usage: "how it is known: `WHY`, for the journal", Required: true},
		}, scopeFlags()...),
		Action: in(func(c *cli.Context, a *app.App) error {
			s, err := scope(c)
			if err != nil {
				return err
			}
			i, err := a.Amend(c.Context, c.Args().First(), rotate.Amendment{From: moment(c, "from"), FromUnknown: c.Bool("from-unknown"),
				Until: moment(c, "until"), NoEnd: c.Bool("no-end"), Title: c.String("title"), Severity: c.String("severity")}, s, c.String("reason"))
			if err != nil {
				return ui.matches(c, err)
			}
			if wantsJSON(c) {
				return ui.line(i)
			}
			ui.printf("incident %s is amended (%d changes so far); next: reseal incident plan %s", i.ID, len(i.Changes), i.ID)
			return nil
		}),
	}
}

// rogue reads the --rogue flags; without a reason of its own a digest gets that
// of the command.
func rogue(c *cli.Context) map[string]string {
	out := map[string]string{}
	for _, v := range c.StringSlice("rogue") {
		digest, why, _ := strings.Cut(v, "=")
		if why == "" {
			why = c.String("reason")
		}
		out[digest] = why
	}
	return out
}

func incidentMark(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "mark",
		Usage:     "mark more artifacts as the attacker's",
		ArgsUsage: "NAME",
		Description: `Counts at once: an approved plan no longer re-signs what is marked. A new plan
denies it.

Example:
  reseal incident mark INC-1 --rogue sha256:... --reason "not built by us"` + exits(),
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "rogue", Usage: "`DIGEST=WHY` (repeat)", Required: true},
			&cli.StringFlag{Name: "reason", Usage: "how it is known: `WHY`, for the journal", Required: true},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			i, err := a.MarkRogue(c.Context, c.Args().First(), rogue(c), c.String("reason"))
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.line(i)
			}
			ui.printf("%s has %d artifacts marked rogue; next: reseal incident plan %s", i.ID, len(i.Rogue), i.ID)
			return nil
		}),
	}
}

func incidentList(ui *ui) *cli.Command {
	return &cli.Command{
		Name:        "list",
		Usage:       "list the incidents",
		Description: "Example:\n  reseal incident list" + exits(),
		Action: in(func(c *cli.Context, a *app.App) error {
			list, err := a.Incidents(c.Context)
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.object("incidents", map[string]any{"incidents": append([]rotate.Incident{}, list...)})
			}
			rows := [][]string{{"INCIDENT", "STATE", "SEVERITY", "FROM", "OPENED", "TITLE"}}
			for _, i := range list {
				from := "unknown"
				if i.From != nil {
					from = day(*i.From)
				}
				rows = append(rows, []string{i.ID, string(i.State), i.Severity, from, day(i.OpenedAt) + " by " + i.OpenedBy, i.Title})
			}
			ui.table(rows)
			return nil
		}),
	}
}

func incidentShow(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "show",
		Usage:     "show an incident and its plans, or every line of a plan",
		ArgsUsage: "NAME",
		Description: `Examples:
  reseal incident show INC-1
  reseal incident show INC-1 --plan 3f9a2c --decision hold` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "plan", Usage: "list what this plan, by its `DIGEST`, does"},
			&cli.StringFlag{Name: "decision", Usage: "only this `DECISION`: deny, hold, resign or none"},
			&cli.BoolFlag{Name: "recall", Usage: "only what was re-signed and should not have been"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			name := c.Args().First()
			if plan := c.String("plan"); plan != "" {
				return showPlan(c, ui, a, plan)
			}
			i, err := a.Incident(c.Context, name)
			if err != nil {
				return err
			}
			plans, err := a.Plans(c.Context, i.ID)
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.line(struct {
					rotate.Incident
					Plans []app.PlanState `json:"plans"`
				}{i, append([]app.PlanState{}, plans...)})
			}
			ui.incident(i)
			ui.plans(plans)
			return ui.motionsAbout(c, a, i.ID)
		}),
	}
}

// motionsAbout prints the motions about an incident or the approvers.
func (u *ui) motionsAbout(c *cli.Context, a *app.App, subject string) error {
	list, err := a.Motions(c.Context)
	if err != nil {
		return err
	}
	for _, m := range list {
		if m.Subject != subject {
			continue
		}
		state := fmt.Sprintf("signed by %d (%s)", len(m.ApprovedBy), strings.Join(m.ApprovedBy, ", "))
		if m.Carried != nil {
			state = "carried out " + day(m.Carried.At)
		}
		u.printf("  motion %s, %s by %s at %s: %s", short(m.Digest), m.Kind, m.Proposer, day(m.MadeAt), state)
	}
	return nil
}

// incident prints what was declared.
func (u *ui) incident(i rotate.Incident) {
	u.printf("%s: %s (%s, %s, %s)", i.ID, i.Title, i.Class, i.Severity, i.State)
	for _, s := range i.Signers {
		u.printf("  compromised: %s", s)
	}
	for _, s := range i.Selectors {
		u.printf("  compromised: %s", selectorWords(s))
	}
	for _, a := range i.Authorities {
		u.printf("  compromised: %s %s", a.Role, a.ID)
	}
	from, until := "unknown: nothing can be proven older", "open: it has no end"
	if i.From != nil {
		from = i.From.Format(time.RFC3339)
	}
	if i.Until != nil {
		until = i.Until.Format(time.RFC3339)
	}
	u.printf("  from:  %s", from)
	u.printf("  until: %s", until)
	for _, d := range slices.Sorted(maps.Keys(i.Rogue)) {
		u.printf("  rogue: %s: %s", d, i.Rogue[d])
	}
	for _, ch := range i.Changes {
		u.printf("  changed %s by %s: %s (%s)", day(ch.At), ch.Actor, ch.What, ch.Reason)
	}
}

// selectorWords says what a selector selects.
func selectorWords(s trust.Selector) string {
	var words []string
	for _, f := range [][2]string{{"issuer", s.Issuer}, {"issuer matching", s.IssuerRegexp}, {"identity", s.Subject}, {"identity matching", s.SubjectRegexp},
		{"workflow", s.Workflow}, {"ref", s.Ref}, {"sha", s.SHA}, {"repository", s.Repository}, {"trigger", s.Trigger}, {"run", s.Run}} {
		if f[1] != "" {
			words = append(words, f[0]+" "+f[1])
		}
	}
	return strings.Join(words, ", ")
}

func incidentWithdraw(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "withdraw",
		Usage:     "take a false alarm back, with the quorum",
		ArgsUsage: "NAME",
		Description: `An incident makes things less trusted, so anybody may open one; taking it back
makes things trusted again, so a quorum must agree. Without --motion the
withdrawal is proposed; people approve its digest; with --motion it is carried.

Examples:
  reseal incident withdraw INC-1 --reason "the key in the log was a test key"
  reseal incident approve 5d0c11 --as alice --key alice.key
  reseal incident withdraw INC-1 --motion 5d0c11` + exits("4 not approved"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "reason", Usage: "why it was none: `WHY`"},
			&cli.StringFlag{Name: "motion", Usage: "carry out the approved withdrawal of this `DIGEST`"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			name := c.Args().First()
			if c.IsSet("reason") == c.IsSet("motion") {
				return usageError{errors.New("give --reason to propose the withdrawal, or --motion to carry it out")}
			}
			return ui.motion(c, a, rotate.Motion{Kind: rotate.WithdrawalKind, Subject: name, Reason: c.String("reason")})
		}),
	}
}

// motion proposes what needs the quorum, or carries it out with --motion.
func (u *ui) motion(c *cli.Context, a *app.App, m rotate.Motion) error {
	if digest := c.String("motion"); digest != "" {
		done, err := a.Carry(c.Context, digest, m.Kind, m.Subject)
		if err != nil {
			return err
		}
		if wantsJSON(c) {
			return u.line(done)
		}
		u.printf("done: %s of %s", done.Kind, done.Subject)
		return nil
	}
	digest, err := a.Move(c.Context, m)
	if err != nil {
		return err
	}
	if wantsJSON(c) {
		return u.object("motion", map[string]any{"motion": digest, "kind": m.Kind, "subject": m.Subject})
	}
	u.printf("proposed: %s of %s, motion %s", m.Kind, m.Subject, digest)
	u.printf("next: reseal incident approve %s --as NAME --key FILE, by as many people as for a plan", short(digest))
	u.notef("it is not signed by who proposes it, so one more must approve: \"reseal incident approve %s --propose\" signs it", short(digest))
	return nil
}

func incidentClose(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "close",
		Usage:     "close an incident, or say what is missing",
		ArgsUsage: "NAME",
		Description: `An incident closes when the old signer stands in no anchor, no deployed artifact
is on hold, what is rogue is gone or denied, nothing is left to recall, and the
evidence pack is sealed. A closed incident still counts in every judgement.

Example:
  reseal incident close INC-1 --reason "recovered"` + exits("5 something is missing"),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "reason", Usage: "`WHY`, for the journal", Required: true},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			name := c.Args().First()
			closing, err := a.CloseIncident(c.Context, name, c.String("reason"))
			return ui.closing(c, "incident "+name, closing, err)
		}),
	}
}
