package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

func incidentCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "incident",
		Usage: "declare what is compromised, plan what is done, approve it",
		Subcommands: []*cli.Command{
			incidentOpen(ui), incidentMark(ui), incidentList(ui), incidentShow(ui), incidentPlan(ui), incidentApprove(ui),
		},
	}
}

func incidentOpen(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "open",
		Usage:     "declare a signing key compromised",
		ArgsUsage: "NAME",
		Description: `The signer is tainted at once: no plan trusts it any more. Without --from
nothing it signed can be proven older than the compromise. A key that leaked
has no end of its window: the thief keeps it.

Example:
  reseal incident open INC-1 --signer release --from 2026-11-20T08:00:00Z \
    --title "release key in a public CI log" --reason "reported by security" \
    --rogue sha256:...="found on the mirror"` + exits(),
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "signer", Usage: "compromised signer, `NAME` or ID from \"reseal signers\" (repeat)", Required: true},
			&cli.TimestampFlag{Name: "from", Layout: time.RFC3339, Usage: "start of the compromise, `RFC3339`; leave out if unknown"},
			&cli.StringFlag{Name: "title", Usage: "what happened, in a `LINE`"},
			&cli.StringFlag{Name: "severity", Value: "high", Usage: "`LEVEL`: low, medium, high or critical"},
			&cli.StringFlag{Name: "reason", Usage: "how it is known: `WHY`, for the journal", Required: true},
			&cli.StringSliceFlag{Name: "rogue", Usage: "`DIGEST=WHY` of an artifact known to be the attacker's (repeat)"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			name := c.Args().First()
			i := rotate.Incident{Title: c.String("title"), Severity: c.String("severity")}
			i.ID, i.Class = name, trust.SigningKey
			if from := c.Timestamp("from"); from != nil {
				t := from.UTC()
				i.From = &t
			}
			i.Rogue = rogue(c)
			i, err := a.OpenIncident(c.Context, i, c.StringSlice("signer"), c.String("reason"))
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.line(i)
			}
			ui.printf("incident %s is open; next: reseal impact %s", i.ID, i.ID)
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
			ui.printf("%s: %s (%s, %s)", i.ID, i.Title, i.Severity, i.State)
			for _, s := range i.Signers {
				ui.printf("  compromised: %s", s)
			}
			from := "unknown: nothing can be proven older"
			if i.From != nil {
				from = i.From.Format(time.RFC3339)
			}
			ui.printf("  from: %s", from)
			for d, why := range i.Rogue {
				ui.printf("  rogue: %s: %s", d, why)
			}
			for _, p := range plans {
				ui.printf("  plan %s by %s at %s: %d of %d approvals (%s)", short(p.Plan), p.Proposer, day(p.MadeAt), len(p.Approvers), p.Quorum, strings.Join(p.Approvers, ", "))
				for state, n := range p.Reissues {
					ui.printf("    %s %d", state, n)
				}
			}
			return nil
		}),
	}
}

func showPlan(c *cli.Context, ui *ui, a *app.App, digest string) error {
	p, full, totals, err := a.Plan(c.Context, digest)
	if err != nil {
		return err
	}
	only := trust.Decision(c.String("decision"))
	if wantsJSON(c) {
		items := []rotate.Item{}
		if err := a.Items(c.Context, full, only, func(i rotate.Item) error { items = append(items, i); return nil }); err != nil {
			return err
		}
		return ui.object("plan", planJSON{Digest: full, Header: p, Totals: totals, Items: items})
	}
	ui.plan(full, p, totals)
	return a.Items(c.Context, full, only, func(i rotate.Item) error { ui.item(i); return nil })
}

type planJSON struct {
	Digest string        `json:"plan"`
	Header rotate.Plan   `json:"header"`
	Totals rotate.Totals `json:"totals"`
	Items  []rotate.Item `json:"items,omitempty"`
}

// plan prints what people approve.
func (u *ui) plan(digest string, p rotate.Plan, t rotate.Totals) {
	u.printf("plan %s for %s, proposed by %s", digest, p.Incident, p.Proposer)
	for _, old := range p.Replaced {
		u.printf("replaced:   %s", old)
	}
	u.printf("new signer: %s", p.NewSigner)
	for _, v := range p.Vouchers {
		u.printf("voucher:    %s may vouch with %s", v.Signer, v.PredicateType)
	}
	for _, h := range p.Homes {
		u.printf("home:       %s", h)
	}
	for _, d := range p.AcceptDark {
		u.printf("accepted dark: %s", d)
	}
	for _, k := range p.Consumers {
		u.printf("consumer:   %s reads %s, anchor %s", k.Name, k.Reads, k.Anchor)
	}
	u.printf("limits:     at most %d statements re-signed; clocks may differ by %s", p.Limits.MaxArtifacts, p.Skew)
	if p.Unread > 0 {
		u.printf("unread:     the last scans could not read %d things; the plan knows nothing of them", p.Unread)
	}
	u.totals(t)
}

func incidentPlan(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "plan",
		Usage:     "make the plan: what is denied, held, re-signed, and by whom",
		ArgsUsage: "INCIDENT",
		Description: `The plan is complete and immutable; people approve its digest. It rests on the
inventory as it is now: scan first.

A voucher lets somebody outside the incident prove an artifact good, e.g. the
builder by its provenance: signer=NAME,type=PREDICATE_TYPE and optionally
repository=REPO and predicate fields that must match, as field.path=VALUE.

A home is a repository that the plan itself declares to be yours. It is needed
where neither the proven payload nor a scan from before the incident says so.

Example:
  reseal incident plan INC-1 --new-signer next \
    --voucher signer=builder,type=https://slsa.dev/provenance/v1` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "new-signer", Usage: "`NAME` or ID of the signer that re-signs", Required: true},
			&cli.StringSliceFlag{Name: "voucher", Usage: "`signer=NAME,type=URI[,...]` (repeat)"},
			&cli.StringSliceFlag{Name: "home-repository", Usage: "`REPOSITORY` of ours (repeat)"},
			&cli.StringSliceFlag{Name: "accept-dark", Usage: "`DIGEST` of a deployed artifact whose hold is accepted (repeat)"},
			&cli.Int64Flag{Name: "max-artifacts", Value: 10000, Usage: "stop when more than `N` statements would be re-signed"},
			&cli.Float64Flag{Name: "max-share", Usage: "stop when more than this `SHARE` (0 to 1) of the inventory would be re-signed"},
			&skewFlag,
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			incident := c.Args().First()
			o := app.PlanOptions{Incident: incident, NewSigner: c.String("new-signer"), Homes: c.StringSlice("home-repository"),
				AcceptDark: c.StringSlice("accept-dark"), Skew: c.Duration("skew"),
				Limits: rotate.Limits{MaxArtifacts: c.Int64("max-artifacts"), MaxShare: c.Float64("max-share")}}
			if o.Skew < 0 {
				return usageError{errors.New("--skew cannot be negative")}
			}
			for _, v := range c.StringSlice("voucher") {
				voucher, err := parseVoucher(c, a, v)
				if err != nil {
					return err
				}
				o.Vouchers = append(o.Vouchers, voucher)
			}
			p, digest, totals, err := a.MakePlan(c.Context, o)
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.object("plan", planJSON{Digest: digest, Header: p, Totals: totals})
			}
			ui.plan(digest, p, totals)
			ui.printf("next: %d people approve it with: reseal incident approve %s --as NAME --key FILE", p.Quorum, short(digest))
			return nil
		}),
	}
}

func parseVoucher(c *cli.Context, a *app.App, text string) (trust.Voucher, error) {
	v := trust.Voucher{Content: map[string]string{}}
	for _, part := range strings.Split(text, ",") {
		key, value, ok := strings.Cut(part, "=")
		if !ok || value == "" {
			return v, usageError{fmt.Errorf("--voucher %q: expected key=value, got %q", text, part)}
		}
		switch key {
		case "signer":
			r, err := a.Signer(c.Context, value)
			if err != nil {
				return v, fmt.Errorf("--voucher: %w", err)
			}
			if !r.State.Trusted() {
				return v, fmt.Errorf("--voucher: signer %s is %s: only an enrolled, untainted signer can vouch", value, r.State)
			}
			v.Signer = r.Identity
		case "type":
			v.PredicateType = value
		case "repository":
			v.Repositories = append(v.Repositories, value)
		default:
			v.Content[key] = value
		}
	}
	if v.Signer == (signer.Identity{}) || v.PredicateType == "" {
		return v, usageError{fmt.Errorf("--voucher %q: name a signer and a type", text)}
	}
	return v, nil
}

func incidentApprove(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "approve",
		Usage:     "approve a plan with your key",
		ArgsUsage: "PLAN",
		Description: `Sign here with --key, or anywhere: --request prints the exact bytes,
"cosign sign-blob" signs them, and --signature brings the result back.
The proposer cannot approve, nor can a key that is under an incident.

Examples:
  reseal incident approve 3f9a2c --as alice --key alice.key
  reseal incident approve 3f9a2c --as alice --request > request.json
  reseal incident approve 3f9a2c --as alice --signature request.sig` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "as", Usage: "`NAME` of the approver, as enrolled", Required: true},
			&cli.StringFlag{Name: "key", Usage: "private key `FILE` of the approver (COSIGN_PASSWORD)"},
			&cli.StringFlag{Name: "signature", Usage: "`FILE` with the base64 signature over the request"},
			&cli.BoolFlag{Name: "request", Usage: "print what is to be signed"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			plan := c.Args().First()
			as, key, signature := c.String("as"), c.String("key"), c.String("signature")
			var full string
			switch {
			case c.Bool("request") && key == "" && signature == "":
				request, err := a.ApprovalRequest(c.Context, plan, as)
				if err != nil {
					return err
				}
				_, err = ui.out.Write(request)
				return err
			case key != "" && signature == "":
				p, digest, totals, err := a.Plan(c.Context, plan)
				if err != nil {
					return err
				}
				if !wantsJSON(c) {
					ui.plan(digest, p, totals) // what is about to be approved
				}
				k, err := app.LoadKey(key, ui.password(key))
				if err != nil {
					return err
				}
				if full, err = a.ApproveWithKey(c.Context, plan, as, k); err != nil {
					return err
				}
			case signature != "" && key == "":
				text, err := ui.read(signature, maxFile)
				if err != nil {
					return fmt.Errorf("--signature: %w", err)
				}
				raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
				if err != nil {
					return fmt.Errorf("--signature %s: not base64: %w", signature, err)
				}
				if full, err = a.Approve(c.Context, plan, as, raw); err != nil {
					return err
				}
			default:
				return usageError{errors.New("approve how? give one of --key, --signature and --request")}
			}
			if wantsJSON(c) {
				return ui.object("approval", map[string]any{"plan": full, "approver": as})
			}
			ui.printf("%s approved plan %s", as, full)
			return nil
		}),
	}
}
