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

func showPlan(c *cli.Context, ui *ui, a *app.App, digest string) error {
	p, full, totals, err := a.Plan(c.Context, digest)
	if err != nil {
		return err
	}
	only := trust.Decision(c.String("decision"))
	if wantsJSON(c) {
		items := []rotate.Item{}
		if err := a.Items(c.Context, full, only, func(i rotate.Item) error {
			if i.Recall || !c.Bool("recall") {
				items = append(items, i)
			}
			return nil
		}); err != nil {
			return err
		}
		return ui.object("plan", planJSON{Digest: full, Header: p, Totals: totals, Items: items})
	}
	ui.plan(full, p, totals)
	return a.Items(c.Context, full, only, func(i rotate.Item) error {
		if i.Recall || !c.Bool("recall") {
			ui.item(i)
		}
		return nil
	})
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
	if p.Supplements != "" {
		u.printf("supplement: to plan %s: what stands there is left out", short(p.Supplements))
	}
	for _, id := range p.Rotates {
		u.printf("rotated:    %s, because it is trusted and no incident is about it", id)
	}
	for _, old := range p.Replaced {
		u.printf("replaced:   %s", old)
	}
	if p.Keep {
		u.printf("new signer: none; the signer stays trusted and only its window is denied")
	} else {
		u.printf("new signer: %s", p.NewSigner)
	}
	for _, v := range p.Vouchers {
		u.printf("voucher:    %s: makes %d statements good that nothing else does", voucherWords(v), t.Vouched[v.ID()])
	}
	for _, x := range p.Sources {
		u.printf("source:     %s", sourceWords(x))
	}
	if len(p.Formats) > 0 {
		u.printf("formats:    %v, whatever each statement is consumed in", p.Formats)
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
	u.printf("limits:     at most %d statements re-signed; clocks may differ by %s; it expires %s", p.Limits.MaxArtifacts, p.Skew, p.ExpiresAt.Format(time.RFC3339))
	if p.Unread > 0 {
		u.printf("unread:     the last scans could not read %d things; the plan knows nothing of them", p.Unread)
	}
	u.totals(t)
	if t.Summaries > 0 {
		u.printf("summaries:  of %d provenance attestations nothing is signed again; a summary by %s says that each was verified", t.Summaries, p.Verifier)
	}
	for _, s := range t.Sensitivity {
		u.printf("if it had begun %d days earlier: %s", s.Days, decisionWords(s.Decisions))
	}
	if t.Recall > 0 {
		what := "incident"
		if len(p.Rotates) > 0 {
			what = "rotation"
		}
		u.printf("RECALL:     %d statements were re-signed that should not have been: \"reseal %s show %s --plan %s --recall\" lists them", t.Recall, what, p.Incident, short(digest))
	}
	for _, o := range t.Orders {
		if len(o.Consumers) == 0 {
			continue // nobody's verifier is waiting
		}
		chosen := ""
		if o.Order == p.Order {
			chosen = " (chosen)"
		}
		u.printf("%s%s:", o.Order, chosen)
		for _, k := range o.Consumers {
			u.printf("  %s: %d workloads would fail now, rogue accepted for %s", k.Consumer, k.WouldFail, time.Duration(k.ExposureSeconds*float64(time.Second)).Round(time.Second))
		}
		if o.Assumed != "" {
			u.printf("  assumed: %s", o.Assumed)
		}
	}
}

// voucherWords says who may vouch with what.
func voucherWords(v trust.Voucher) string {
	var words string
	switch v.Kind {
	case trust.KnownGood:
		who := v.Signer.String()
		if v.Person != "" {
			who = v.Person
		}
		words = fmt.Sprintf("list %s signed by %s", short(v.List), who)
	case trust.CIRun:
		words = fmt.Sprintf("CI runs recorded by %s", v.Signer)
	default:
		words = fmt.Sprintf("%s may vouch with %s", v.Signer, v.PredicateType)
		for _, path := range slices.Sorted(maps.Keys(v.Content)) {
			words += fmt.Sprintf(", %s=%s", path, v.Content[path])
		}
	}
	if len(v.Repositories) > 0 {
		words += " in " + strings.Join(v.Repositories, ", ")
	}
	if v.Standing != nil {
		words += ", standing since " + day(*v.Standing)
	}
	return words
}

// sourceWords says what a source is complete for.
func sourceWords(x trust.Source) string {
	from, until := "ever", "now"
	if x.From != nil {
		from = x.From.Format(time.RFC3339)
	}
	if x.Until != nil {
		until = x.Until.Format(time.RFC3339)
	}
	return fmt.Sprintf("%s (%s) is complete for %s from %s to %s", x.Name, x.Kind, x.Signer, from, until)
}

func decisionWords(counts map[trust.Decision]int64) string {
	var words []string
	for _, d := range trust.Decisions() {
		words = append(words, fmt.Sprintf("%s %d", d, counts[d]))
	}
	return strings.Join(words, ", ")
}

func incidentPlan(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "plan",
		Usage:     "make the plan: what is denied, held, re-signed, and by whom; explain it; compare it",
		ArgsUsage: "INCIDENT",
		Description: `The plan is complete and immutable; people approve its digest. It rests on the
inventory as it is now: scan first. --key signs it as proposed by --as; without
it nobody can tell which of the approvers proposed it, and one more must approve.

A voucher lets somebody outside every incident prove an artifact good:
  signer=NAME,type=PREDICATE_TYPE     attestations by NAME, e.g. the builder's
                                      provenance; also repository=REPO, and
                                      predicate fields as field.path=VALUE
  known-good=FILE,bundle=FILE         digests, one a line, in a file that another
  known-good=FILE,signature=FILE      signer signed with "cosign sign-blob"
  known-good=FILE,signature=FILE,person=NAME    or an enrolled person did
  ci-run=NAME                         CI records that NAME authenticated
Standing vouchers ("reseal voucher add") from before the incident count anyway.

A home is a repository that the plan itself declares to be yours. It is needed
where neither the proven payload nor a scan from before the incident says so.

With --keep the signer stays trusted and only what it made in the window is
denied: for an identity that is good again.

Examples:
  reseal incident plan INC-1 --new-signer next --as carol --key carol.key \
    --voucher signer=builder,type=https://slsa.dev/provenance/v1
  reseal incident plan INC-2 --keep --voucher ci-run=ci
  reseal incident plan INC-1 --explain sha256:...
  reseal incident plan INC-1 --plan 3f9a2c --diff 77ab01` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "new-signer", Usage: "`NAME` or ID of the signer that re-signs"},
			&cli.BoolFlag{Name: "keep", Usage: "re-sign nothing: the signer is good again"},
			&cli.StringFlag{Name: "order", Value: string(rotate.ContinuityFirst), Usage: "`ORDER`: continuity-first or contain-first"},
			&formatsFlag,
			&cli.StringFlag{Name: "supplement", Usage: "leave out what stands already in this plan, by its `DIGEST`"},
			&cli.StringSliceFlag{Name: "voucher", Usage: "`KEY=VALUE[,...]`, see above (repeat)"},
			&cli.StringSliceFlag{Name: "home-repository", Usage: "`REPOSITORY` of ours (repeat)"},
			&cli.StringSliceFlag{Name: "accept-dark", Usage: "`DIGEST` of a deployed artifact whose hold is accepted (repeat)"},
			&cli.Int64Flag{Name: "max-artifacts", Value: 10000, Usage: "stop when more than `N` statements would be re-signed"},
			&cli.Float64Flag{Name: "max-share", Usage: "stop when more than this `SHARE` (0 to 1) of the inventory would be re-signed"},
			&cli.DurationFlag{Name: "expires", Value: 7 * 24 * time.Hour, Usage: "the plan may be approved and carried out for this `TIME`"},
			&cli.Float64Flag{Name: "rate", Usage: "statements that are re-signed a second, for the estimate of the exposure (default: 5)"},
			&skewFlag,
			&cli.StringFlag{Name: "as", Usage: "`NAME` of the proposer, as enrolled (default: the actor)"},
			&cli.StringFlag{Name: "key", Usage: "private key `REF` of the proposer: a file (COSIGN_PASSWORD), a KMS URI or a PKCS #11 URI"},
			&cli.StringFlag{Name: "explain", Usage: "make no plan: tell how the artifact with this `DIGEST` is decided, and why"},
			&cli.StringFlag{Name: "diff", Usage: "make no plan: say what --plan changes against this one, by its `DIGEST`"},
			&cli.StringFlag{Name: "plan", Usage: "for --explain and --diff: the plan, by its `DIGEST` (default: the incident's newest)"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			incident := c.Args().First()
			switch {
			case c.String("explain") != "":
				return explain(c, ui, a, incident)
			case c.String("diff") != "":
				return diff(c, ui, a, incident)
			}
			o := app.PlanOptions{Incident: incident, NewSigner: c.String("new-signer"), Keep: c.Bool("keep"), Order: rotate.Order(c.String("order")),
				Formats: words(c.String("formats")), Supplements: c.String("supplement"), Homes: c.StringSlice("home-repository"), AcceptDark: c.StringSlice("accept-dark"),
				Skew: c.Duration("skew"), Expires: c.Duration("expires"), Rate: c.Float64("rate"),
				Limits: rotate.Limits{MaxArtifacts: c.Int64("max-artifacts"), MaxShare: c.Float64("max-share")}}
			if o.Keep == (o.NewSigner != "") {
				return usageError{errors.New("who re-signs? give --new-signer, or --keep when the signer is good again")}
			}
			key, err := ui.proposer(c, a)
			if err != nil {
				return err
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
			return ui.proposed(c, a, key, p, digest, totals)
		}),
	}
}

// explain tells the whole reasoning about one artifact.
func explain(c *cli.Context, ui *ui, a *app.App, incident string) error {
	list, err := a.Explain(c.Context, incident, c.String("plan"), c.String("explain"), c.Duration("skew"))
	if err != nil {
		return err
	}
	if wantsJSON(c) {
		return ui.object("explanation", map[string]any{"incident": incident, "artifacts": list})
	}
	for _, x := range list {
		ui.explanation(x)
	}
	return nil
}

// diff says what a plan changes against an earlier one.
func diff(c *cli.Context, ui *ui, a *app.App, incident string) error {
	changes := []rotate.ItemChange{}
	d, err := a.Diff(c.Context, incident, c.String("diff"), c.String("plan"), func(ch rotate.ItemChange) error {
		if wantsJSON(c) {
			changes = append(changes, ch)
			return nil
		}
		ui.change(ch)
		return nil
	})
	if err != nil {
		return err
	}
	if wantsJSON(c) {
		return ui.object("plan-diff", struct {
			rotate.PlanDiff
			Items []rotate.ItemChange `json:"items"`
		}{d, changes})
	}
	ui.planDiff(d)
	return nil
}

func incidentApprove(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "approve",
		Usage:     "approve a plan or a motion with your key",
		ArgsUsage: "PLAN|MOTION",
		Description: `Sign here with --key, or anywhere: --request prints the exact bytes, and
--signature brings back what "cosign sign-blob", "ssh-keygen -Y sign -n file" or
"cosign sign-blob --bundle" (keyless) made of them.
The proposer cannot approve, nor can a key that is under an incident. With
--propose the signature says who proposes, and approves nothing.

Examples:
  reseal incident approve 3f9a2c --as alice --key alice.key
  reseal incident approve 3f9a2c --as alice --request > request.json
  ssh-keygen -Y sign -n file -f ~/.ssh/id_ed25519 request.json
  reseal incident approve 3f9a2c --as alice --signature request.json.sig` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "as", Usage: "`NAME` of the approver, as enrolled", Required: true},
			&cli.StringFlag{Name: "key", Usage: "private key `REF` of the approver: a file (COSIGN_PASSWORD), a KMS URI or a PKCS #11 URI"},
			&cli.StringFlag{Name: "signature", Usage: "`FILE` with the signature over the request, or with a Sigstore bundle"},
			&cli.BoolFlag{Name: "request", Usage: "print what is to be signed"},
			&cli.BoolFlag{Name: "propose", Usage: "show that you propose it; it approves nothing"},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			digest := c.Args().First()
			as, key, signature, propose := c.String("as"), c.String("key"), c.String("signature"), c.Bool("propose")
			var full string
			switch {
			case c.Bool("request") && key == "" && signature == "":
				request, err := a.ApprovalRequest(c.Context, digest, as)
				if err != nil {
					return err
				}
				_, err = ui.out.Write(request)
				return err
			case key != "" && signature == "":
				if !wantsJSON(c) {
					if err := ui.matter(c, a, digest); err != nil { // what is about to be approved
						return err
					}
				}
				k, err := a.OpenKey(c.Context, keyOptions(c, ui, key))
				if err != nil {
					return err
				}
				if full, err = a.ApproveWithKey(c.Context, digest, as, k, propose); err != nil {
					return err
				}
			case signature != "" && key == "":
				text, err := ui.read(signature, maxFile)
				if err != nil {
					return fmt.Errorf("--signature: %w", err)
				}
				if full, err = a.Approve(c.Context, digest, as, text, propose); err != nil {
					return fmt.Errorf("--signature %s: %w", signature, err)
				}
			default:
				return usageError{errors.New("approve how? give one of --key, --signature and --request")}
			}
			if wantsJSON(c) {
				return ui.object("approval", map[string]any{"plan": full, "approver": as, "proposal": propose})
			}
			did := "approved"
			if propose {
				did = "proposes"
			}
			ui.printf("%s %s %s", as, did, full)
			return nil
		}),
	}
}

// matter prints what a digest, which somebody is about to sign for, stands for.
func (u *ui) matter(c *cli.Context, a *app.App, digest string) error {
	m, full, err := a.Motion(c.Context, digest)
	if err == nil {
		u.printf("motion %s: %s of %s, proposed by %s: %s", full, m.Kind, m.Subject, m.Proposer, m.Reason)
		if m.Approvers != nil {
			u.approvers(*m.Approvers)
		}
		return nil
	}
	if !errors.Is(err, inventory.ErrNotFound) {
		return err
	}
	p, full, totals, err := a.Plan(c.Context, digest)
	if err != nil {
		return err
	}
	u.plan(full, p, totals)
	return nil
}

func incidentBreakGlass(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "break-glass",
		Usage:     "carry a plan out without its quorum, on one person's word",
		ArgsUsage: "PLAN",
		Description: `For the night when the others cannot be reached. One enrolled person signs for it
and says why. It stands in the journal, in the revocation statement and in every
report for good. It replaces the quorum and nothing else: nothing is re-signed
that nothing proves good.

Example:
  reseal incident break-glass 3f9a2c --as alice --key alice.key \
    --reason "release key used right now, bob and carol not reachable since 02:10"` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "as", Usage: "your `NAME`, as enrolled", Required: true},
			&cli.StringFlag{Name: "key", Usage: "your private key `REF`: a file (COSIGN_PASSWORD), a KMS URI or a PKCS #11 URI", Required: true},
			&cli.StringFlag{Name: "reason", Usage: "`WHY` it cannot wait for the others", Required: true},
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			k, err := a.OpenKey(c.Context, keyOptions(c, ui, c.String("key")))
			if err != nil {
				return err
			}
			full, err := a.BreakGlass(c.Context, c.Args().First(), c.String("as"), c.String("reason"), k)
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.object("break-glass", map[string]any{"plan": full, "by": c.String("as"), "reason": c.String("reason")})
			}
			ui.notef("BREAK-GLASS: plan %s may be carried out without its quorum. This stays in every report.", full)
			ui.printf("%s broke the glass for %s", c.String("as"), full)
			return nil
		}),
	}
}

// explanation prints the whole reasoning about one artifact.
func (u *ui) explanation(x rotate.ArtifactExplanation) {
	mark := ""
	if x.Deployed {
		mark = ", deployed"
	}
	u.printf("%s@%s%s, first seen %s", x.Repository, x.Digest, mark, x.FirstSeen.Format(time.RFC3339))
	if x.Rogue != "" {
		u.printf("  marked rogue: %s", x.Rogue)
	}
	for _, st := range x.Statements {
		decision := string(st.Decision)
		if decision == "" {
			decision = "no concern of the plan"
		}
		u.printf("  %s", st.Statement)
		u.printf("    %s: %s", decision, st.Reason)
		for _, s := range st.Explanation.Signatures {
			u.explainedSignature(s)
			for _, seen := range st.Sightings {
				if seen.Signature == s.ID {
					u.sighting(seen)
				}
			}
		}
		for _, r := range st.Explanation.Rules {
			matched := "no "
			if r.Matched {
				matched = "YES"
			}
			u.printf("    rule %s %s: %s", matched, r.Rule, r.Why)
		}
		if p := st.Planned; p != nil {
			changed := ""
			if p.Changed {
				changed = "; the inventory decides otherwise now"
			}
			u.printf("    plan %s, line %d, says %s%s", short(p.Plan), p.Seq, p.Decision, changed)
		}
	}
}

func (u *ui) explainedSignature(s trust.ExplainedSignature) {
	u.printf("    signature %s, %s, by %s", short(s.ID), s.Format, s.Signer)
	u.printf("      %s: %s", s.Verdict, s.Reason)
	for _, i := range s.Incidents {
		u.printf("      %s: %s", i.Incident, i.By)
	}
	for _, b := range s.Bounds {
		side, counts := "existed by", "counts"
		if b.Side == inventory.Lower {
			side = "made after"
		}
		if !b.Counts {
			counts = "does not count: " + b.Because
		}
		u.printf("      %s %s, %s %s: %s", side, b.Time.Format(time.RFC3339), b.Authority.Role, short(b.Authority.ID), counts)
	}
}

func (u *ui) sighting(s rotate.Sighting) {
	u.printf("      our inventory saw it first at %s", s.FirstSeen.Format(time.RFC3339))
	if s.Anchored != nil {
		u.printf("      the anchored journal proves that it existed by %s", s.Anchored.Format(time.RFC3339))
	}
	if s.Gone {
		u.printf("      it is gone from its place")
	}
	if s.Unexplained {
		u.printf("      unexplained: a complete source covers it, and no record of ours accounts for it")
	}
}

// change prints one difference between two plans.
func (u *ui) change(ch rotate.ItemChange) {
	from, to, i := "(new)", "(gone)", ch.Now
	if ch.Was != nil {
		from = string(ch.Was.Decision)
	}
	if ch.Now != nil {
		to = string(ch.Now.Decision)
	} else {
		i = ch.Was
	}
	u.printf("%s -> %s %s@%s %s", from, to, i.Repository, i.Digest, i.PredicateType())
	u.printf("         %s", i.Reason)
}

// planDiff prints what differs besides the decisions.
func (u *ui) planDiff(d rotate.PlanDiff) {
	for _, h := range d.Header {
		switch {
		case h.Was == "":
			u.printf("%s: new: %s", h.What, h.Now)
		case h.Now == "":
			u.printf("%s: gone: %s", h.What, h.Was)
		default:
			u.printf("%s: %s -> %s", h.What, h.Was, h.Now)
		}
	}
	for _, l := range d.Lists {
		who := l.Signer
		if l.Person != "" {
			who = l.Person
		}
		u.printf("known-good list of %s: %d digests more, %d fewer", who, l.AddedTotal, l.RemovedTotal)
		for _, x := range l.Added {
			u.printf("  + %s", x)
		}
		for _, x := range l.Removed {
			u.printf("  - %s", x)
		}
	}
	u.printf("%d statements changed, %d new, %d gone, %d as before", d.Changed, d.Added, d.Removed, d.Same)
}
