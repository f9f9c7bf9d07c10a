package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
)

// defaultSkew is how far honest clocks may differ.
const defaultSkew = 5 * time.Minute

var skewFlag = cli.DurationFlag{Name: "skew", Value: defaultSkew, Usage: "how far honest clocks may `DIFFER`"}

func impactCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:      "impact",
		Usage:     "show what an incident touches, or what a signer's compromise would",
		ArgsUsage: "[INCIDENT]",
		Description: `Reads the inventory only and changes nothing.

Examples:
  reseal impact INC-1
  reseal impact --signer release` + exits(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "signer", Usage: "what if this signer, `NAME` or ID, were compromised since ever"},
			&cli.BoolFlag{Name: "list", Usage: "list every statement with its decision and the reason"},
			&skewFlag,
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			incident, suspect := c.Args().First(), c.String("signer")
			if (incident == "") == (suspect == "") {
				return usageError{errors.New("impact of what? name one incident, or one signer with --signer")}
			}
			b, err := a.Blast(c.Context, incident, suspect)
			if err != nil {
				return err
			}
			if !wantsJSON(c) && b.Signatures > 0 { // at once, before each is judged; it counts named signers only
				ui.notef("%d signatures (%d of them gone from their place) on %d artifacts in %d repositories, %d deployed, first seen %s, last %s",
					b.Signatures, b.Gone, b.Artifacts, b.Repositories, b.Deployed, day(b.First), day(b.Last))
			}
			var visit func(rotate.Item) error
			if c.Bool("list") && !wantsJSON(c) {
				visit = func(i rotate.Item) error { ui.item(i); return nil }
			}
			t, err := a.Impact(c.Context, incident, suspect, c.Duration("skew"), visit)
			if err != nil {
				return err
			}
			if wantsJSON(c) {
				return ui.object("impact", struct {
					Incident string `json:"incident,omitempty"`
					Signer   string `json:"signer,omitempty"`
					rotate.Totals
				}{incident, suspect, t})
			}
			ui.totals(t)
			return nil
		}),
	}
}

// item prints one line of a plan or assessment.
func (u *ui) item(i rotate.Item) {
	mark := " "
	if i.Deployed {
		mark = "*"
	}
	u.printf("%s %-6s %s@%s %s", mark, i.Decision, i.Repository, i.Digest, i.PredicateType())
	u.printf("         %s", i.Reason)
}

// totals prints what an assessment counted.
func (u *ui) totals(t rotate.Totals) {
	u.printf("%d artifacts (%d deployed), %d signatures", t.Artifacts, t.Deployed, t.Signatures)
	var verdicts, decisions []string
	for _, v := range []trust.Verdict{trust.Unaffected, trust.ProvenBefore, trust.ProvenAfter, trust.Unproven, trust.Inside, trust.Unverifiable} {
		if t.Verdicts[v] > 0 {
			verdicts = append(verdicts, fmt.Sprintf("%s %d", v, t.Verdicts[v]))
		}
	}
	for _, d := range trust.Decisions() {
		decisions = append(decisions, fmt.Sprintf("%s %d", d, t.Decisions[d]))
	}
	u.printf("verdicts:  %s", strings.Join(verdicts, ", "))
	u.printf("decisions: %s", strings.Join(decisions, ", "))
}
