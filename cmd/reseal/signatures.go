package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

func signaturesCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name:  "signatures",
		Usage: "list signatures with their signer and the evidence of their time",
		Description: `With --json prints one object a line, with --csv a table for a spreadsheet.
--from and --until select what cannot be excluded to have been signed in
between: by its earliest verified proof, or else by when it was first seen.

Examples:
  reseal signatures --signer release --from 2026-11-01T00:00:00Z --until 2026-11-08T12:00:00Z
  reseal signatures --signer release --alone
  reseal signatures --rests-on tsa:4f0c... --json` + exits(),
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "signer", Usage: "by this signer: `NAME` or ID (repeat)"},
			&cli.StringFlag{Name: "repository", Usage: "on artifacts of this `REPOSITORY`; with a * at the end: of all that start so"},
			&cli.StringFlag{Name: "digest", Usage: "on this artifact: `DIGEST` or the start of it"},
			&cli.StringFlag{Name: "format", Usage: "stored in this `FORMAT`: " + formatNames()},
			&cli.StringFlag{Name: "predicate", Usage: "that state this predicate `TYPE`"},
			&cli.TimestampFlag{Name: "from", Layout: time.RFC3339, Usage: "perhaps made at or after this time, `RFC3339`"},
			&cli.TimestampFlag{Name: "until", Layout: time.RFC3339, Usage: "perhaps made before this time, `RFC3339`"},
			&cli.BoolFlag{Name: "alone", Usage: "where no other trusted signer has signed the same"},
			&cli.StringFlag{Name: "rests-on", Usage: "that rest on this authority alone: `ROLE:ID` from \"reseal authorities\""},
			&cli.BoolFlag{Name: "unverified", Usage: "that do not verify"},
			&cli.BoolFlag{Name: "gone", Usage: "also those that are no longer at their place"},
			csvFlag(),
		},
		Action: in(func(c *cli.Context, a *app.App) error {
			f, err := filterOf(c, a)
			if err != nil {
				return err
			}
			signers, err := a.SignerRecords(c.Context)
			if err != nil {
				return err
			}
			rows := ui.rows(c, "signature", "repository", "digest", "format", "predicate_type", "signer", "signer_name", "verified",
				"not_before", "not_after", "run", "location", "gone", "why", "id")
			for sig, err := range a.Signatures(c.Context, f) {
				if err != nil {
					return err
				}
				by := signers[sig.Signer.ID()]
				lower, upper := span(sig)
				run := ""
				if sig.Certificate != nil {
					run = sig.Certificate.Run
				}
				if err := rows.put(signatureJSON(sig, by), signatureText(sig, by),
					sig.Repository, sig.Digest, string(sig.Format), sig.PredicateType, sig.Signer.ID(), by.Name, fmt.Sprint(sig.Verified),
					stamp(lower), stamp(upper), run, sig.Location, fmt.Sprint(sig.Gone), sig.Why, sig.ID); err != nil {
					return err
				}
			}
			if len(f.Signers) > 0 && !f.Gone {
				b, err := a.BlastOf(c.Context, f.Signers)
				if err != nil {
					return err
				}
				if b.Gone > 0 {
					ui.notef("%d more by these signers are no longer at their place: --gone lists them, too", b.Gone)
				}
			}
			return rows.end()
		}),
	}
}

func formatNames() string {
	var names []string
	for _, f := range inventory.Formats() {
		names = append(names, string(f))
	}
	return strings.Join(names, ", ")
}

// filterOf reads the flags that select signatures.
func filterOf(c *cli.Context, a *app.App) (f store.SignatureFilter, err error) {
	f = store.SignatureFilter{Digest: c.String("digest"), Format: inventory.Format(c.String("format")), Predicate: c.String("predicate"),
		Alone: c.Bool("alone"), Gone: c.Bool("gone")}
	f.Repository, f.Prefix = repositoryOrPrefix(c.String("repository"))
	if f.Signers, err = signerIDs(c, a); err != nil {
		return f, err
	}
	if f.Format != "" && !strings.Contains(", "+formatNames()+",", " "+string(f.Format)+",") {
		return f, usageError{fmt.Errorf("--format %s: use one of %s", f.Format, formatNames())}
	}
	if f.Alone && len(f.Signers) == 0 {
		return f, usageError{errors.New("--alone asks for what a signer signed alone: name it with --signer")}
	}
	if c.Bool("unverified") {
		f.Verified = new(bool)
	}
	if from := c.Timestamp("from"); from != nil {
		f.From = *from
	}
	if until := c.Timestamp("until"); until != nil {
		f.Until = *until
	}
	if text := c.String("rests-on"); text != "" {
		role, id, ok := strings.Cut(text, ":")
		if !ok || id == "" {
			return f, usageError{fmt.Errorf("--rests-on %s: write ROLE:ID as \"reseal authorities\" prints it", text)}
		}
		f.RestsOn = &inventory.Authority{Role: inventory.Role(role), ID: id}
	}
	return f, nil
}

// signerIDs returns the IDs of the signers that --signer names.
func signerIDs(c *cli.Context, a *app.App) (ids []string, err error) {
	for _, name := range c.StringSlice("signer") {
		if name == string(signer.Unknown) {
			ids = append(ids, name)
			continue
		}
		r, err := a.Signer(c.Context, name)
		if err != nil {
			return nil, err
		}
		ids = append(ids, r.Identity.ID())
	}
	return ids, nil
}

// repositoryOrPrefix reads a repository, or with a "*" at its end what
// repositories start with.
func repositoryOrPrefix(text string) (repository, prefix string) {
	if p, ok := strings.CutSuffix(text, "*"); ok {
		return "", p
	}
	return text, ""
}

// span returns between which times a signature was made: what is proven, and
// otherwise only that it is not newer than when it was first seen.
func span(s inventory.Signature) (lower, upper time.Time) {
	for _, b := range s.Bounds {
		switch {
		case !b.Verified:
		case b.Side == inventory.Lower && b.Time.After(lower):
			lower = b.Time
		case b.Side == inventory.Upper && (upper.IsZero() || b.Time.Before(upper)):
			upper = b.Time
		}
	}
	if upper.IsZero() {
		upper = s.FirstSeen
	}
	return lower, upper
}

// stamp prints a time for a machine; nothing when there is none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func signatureText(s inventory.Signature, by signer.Record) string {
	mark, who := " ", by.Name
	if !s.Verified {
		mark = "!"
	}
	if who == "" {
		who = s.Signer.String()
	}
	what := "image signature"
	if s.PredicateType != inventory.SignPredicate {
		what = s.PredicateType
	}
	when := "not proven"
	for _, b := range s.Bounds {
		if b.Verified && b.Side == inventory.Upper {
			_, upper := span(s)
			when = "by " + day(upper)
		}
	}
	text := fmt.Sprintf("%s %s@%s  %s  %s  %s  %s", mark, s.Repository, short(s.Digest), s.Format, what, who, when)
	if s.Gone {
		text += "  gone"
	}
	if !s.Verified {
		text += "  " + s.Why
	}
	return text
}

type signerJSON struct {
	ID      string `json:"id"`
	Kind    string `json:"kind"`
	Subject string `json:"subject"`
	Issuer  string `json:"issuer"`
	Name    string `json:"name"`
	State   string `json:"state"`
}

func signatureJSON(s inventory.Signature, by signer.Record) any {
	return struct {
		ID            string              `json:"id"`
		Repository    string              `json:"repository"`
		Digest        string              `json:"digest"`
		Format        inventory.Format    `json:"format"`
		Location      string              `json:"location,omitempty"`
		Manifest      string              `json:"manifest"`
		Content       string              `json:"content"`
		PredicateType string              `json:"predicate_type"`
		PayloadDigest string              `json:"payload_digest"`
		Names         string              `json:"names,omitempty"`
		Signer        signerJSON          `json:"signer"`
		Certificate   *signer.Certificate `json:"certificate,omitempty"`
		Verified      bool                `json:"verified"`
		Why           string              `json:"why,omitempty"`
		Bounds        []inventory.Bound   `json:"bounds"`
		FirstSeen     time.Time           `json:"first_seen"`
		Gone          bool                `json:"gone"`
	}{s.ID, s.Repository, s.Digest, s.Format, s.Location, s.Manifest, s.Content, s.PredicateType, s.PayloadDigest, s.Names,
		signerJSON{s.Signer.ID(), string(s.Signer.Kind), s.Signer.Subject, s.Signer.Issuer, by.Name, string(by.State)},
		s.Certificate, s.Verified, s.Why, append([]inventory.Bound{}, s.Bounds...), s.FirstSeen, s.Gone}
}
