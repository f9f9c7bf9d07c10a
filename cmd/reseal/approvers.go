package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/rotate"
)

// peopleFlags say who may approve and how many must.
func peopleFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "approver", Usage: "`NAME[:ROLE...]=CREDENTIAL` of a person who may approve: a public key file as cosign or ssh-keygen writes it, or issuer=URL,subject=SAN (repeat; the same name again adds a credential)"},
		&cli.StringSliceFlag{Name: "proposer", Usage: "`NAME=CREDENTIAL` of a person who may propose and never approves (repeat)"},
		&cli.StringSliceFlag{Name: "alias", Usage: "`NAME=ACCOUNT` by which the journal knows a person, too (repeat)"},
		&cli.IntFlag{Name: "quorum", Value: 2, Usage: "`N` approvals make a plan approved"},
		&cli.StringSliceFlag{Name: "quorum-for", Usage: "`SEVERITY=N`: more for incidents of this severity (repeat)"},
		&cli.StringSliceFlag{Name: "role", Usage: "`ROLE=N`: as many of the approvals must be by people of this role (repeat)"},
	}
}

// people reads the flags of peopleFlags.
func (u *ui) people(c *cli.Context) (rotate.Approvers, error) {
	a := rotate.Approvers{Quorum: c.Int("quorum"), Severity: map[string]int{}, Roles: map[string]int{}}
	for _, flag := range []string{"approver", "proposer"} {
		for _, value := range c.StringSlice(flag) {
			who, credential, ok := strings.Cut(value, "=")
			if !ok || who == "" || credential == "" {
				return a, usageError{fmt.Errorf("--%s %q: expected NAME=FILE or NAME=issuer=URL,subject=SAN", flag, value)}
			}
			cred, err := u.credential(credential)
			if err != nil {
				return a, fmt.Errorf("--%s %s: %w", flag, who, err)
			}
			name, roles, _ := strings.Cut(who, ":")
			var list []string
			if roles != "" {
				list = strings.Split(roles, ":")
			}
			at := slices.IndexFunc(a.People, func(p rotate.Person) bool { return p.Name == name })
			if at < 0 {
				a.People = append(a.People, rotate.Person{Name: name, ProposesOnly: flag == "proposer"})
				at = len(a.People) - 1
			}
			p := &a.People[at]
			if p.ProposesOnly != (flag == "proposer") {
				return a, usageError{fmt.Errorf("%s is given as --approver and as --proposer", name)}
			}
			p.Credentials = append(p.Credentials, cred)
			for _, r := range list {
				if !slices.Contains(p.Roles, r) {
					p.Roles = append(p.Roles, r)
				}
			}
		}
	}
	for _, value := range c.StringSlice("alias") {
		name, account, ok := strings.Cut(value, "=")
		at := slices.IndexFunc(a.People, func(p rotate.Person) bool { return p.Name == name })
		if !ok || account == "" || at < 0 {
			return a, usageError{fmt.Errorf("--alias %q: expected NAME=ACCOUNT with the name of a person given here", value)}
		}
		a.People[at].Aliases = append(a.People[at].Aliases, account)
	}
	for flag, into := range map[string]map[string]int{"quorum-for": a.Severity, "role": a.Roles} {
		for _, value := range c.StringSlice(flag) {
			name, number, _ := strings.Cut(value, "=")
			n, err := strconv.Atoi(number)
			if err != nil || name == "" || n < 1 {
				return a, usageError{fmt.Errorf("--%s %q: expected a name and a number above zero, as NAME=2", flag, value)}
			}
			into[name] = n
		}
	}
	return a, nil
}

// credential reads what a person signs with.
func (u *ui) credential(text string) (rotate.Credential, error) {
	if strings.HasPrefix(text, "issuer=") || strings.HasPrefix(text, "subject=") {
		var cred rotate.Credential
		for _, part := range strings.Split(text, ",") {
			switch key, value, _ := strings.Cut(part, "="); key {
			case "issuer":
				cred.Issuer = value
			case "subject":
				cred.Subject = value
			default:
				return cred, usageError{fmt.Errorf("%q: expected issuer=URL,subject=SAN", text)}
			}
		}
		return cred, nil
	}
	content, err := u.read(text, maxFile)
	if err != nil {
		return rotate.Credential{}, err
	}
	if strings.Contains(string(content), "-----BEGIN") {
		return rotate.Credential{PublicKey: string(content)}, nil
	}
	return rotate.Credential{SSH: strings.TrimSpace(string(content))}, nil
}

func approversCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "approvers",
		Usage: "who may approve, and how many must",
		Subcommands: []*cli.Command{
			{
				Name: "show", Usage: "show the people, their roles and the quorum", Description: "Example:\n  reseal approvers show" + exits(),
				Action: in(func(c *cli.Context, a *app.App) error {
					set, err := a.Approvers(c.Context)
					if err != nil {
						return err
					}
					if wantsJSON(c) {
						return ui.line(set)
					}
					ui.approvers(set)
					return ui.motionsAbout(c, a, "approvers")
				}),
			},
			{
				Name:  "change",
				Usage: "replace the set, with the quorum of the one in force",
				Description: `Without --motion the whole new set is proposed; people approve its digest as they
approve a plan; with --motion it comes into force. Plans made before must be made
anew.

Examples:
  reseal approvers change --approver alice=alice.pub --approver dave=dave_ssh.pub --quorum 2 --reason "bob left"
  reseal incident approve 5d0c11 --as alice --key alice.key
  reseal approvers change --motion 5d0c11` + exits("4 not approved"),
				Flags: append([]cli.Flag{
					&cli.StringFlag{Name: "reason", Usage: "`WHY`, for the journal"},
					&cli.StringFlag{Name: "motion", Usage: "carry out the approved change of this `DIGEST`"},
				}, peopleFlags()...),
				Action: in(func(c *cli.Context, a *app.App) error {
					if c.IsSet("reason") == c.IsSet("motion") {
						return usageError{errors.New("give the new set with --reason to propose it, or --motion to carry it out")}
					}
					m := rotate.Motion{Kind: rotate.ApproversKind, Subject: "approvers", Reason: c.String("reason")}
					if c.IsSet("reason") {
						set, err := ui.people(c)
						if err != nil {
							return err
						}
						m.Approvers = &set
					}
					return ui.motion(c, a, m)
				}),
			},
		},
	}
}

// approvers prints a set of approvers.
func (u *ui) approvers(a rotate.Approvers) {
	u.printf("quorum: %d", a.Quorum)
	for _, s := range slices.Sorted(maps.Keys(a.Severity)) {
		u.printf("quorum for %s incidents: %d", s, a.Severity[s])
	}
	for _, r := range slices.Sorted(maps.Keys(a.Roles)) {
		u.printf("of them with the role %s: %d", r, a.Roles[r])
	}
	for _, p := range a.People {
		words := []string{p.Name}
		if p.ProposesOnly {
			words = append(words, "proposes only")
		}
		if len(p.Roles) > 0 {
			words = append(words, "roles "+strings.Join(p.Roles, ", "))
		}
		if len(p.Aliases) > 0 {
			words = append(words, "also "+strings.Join(p.Aliases, ", "))
		}
		u.printf("%s", strings.Join(words, "; "))
		for _, cred := range p.Credentials {
			u.printf("  %s", cred)
		}
	}
}
