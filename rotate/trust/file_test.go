package trust

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

const sbomType = "https://spdx.dev/Document"

// TestFiles decides statements about files.
func TestFiles(t *testing.T) {
	t.Parallel()
	const file = "sha256:f"
	on := func(f inventory.Format, s inventory.Signature) inventory.Signature {
		s.ID = fmt.Sprintf("%s %s %s", f, s.PredicateType, s.Signer.Subject[:1])
		s.Repository, s.Digest, s.Format, s.Names = inventory.Files, file, f, ""
		return s
	}
	about := func(predicate string, s inventory.Signature) inventory.Signature {
		s.PredicateType, s.PayloadDigest, s.ID = predicate, "sha256:p", s.ID+predicate
		return s
	}
	good, bad := sig(thief, upper(5, tsa)), sig(thief)
	ours := func(f inventory.Format) inventory.Signature { return on(f, sig(next)) }
	gone := ours(inventory.Detached)
	gone.Gone = true
	early := on(inventory.Blob, good)
	early.FirstSeen = at(1)
	detached, blob := []inventory.Format{inventory.Detached}, []inventory.Format{inventory.Blob}
	home := func(p *Policy) { p.Homes = []string{inventory.Files} }
	formats := func(list ...inventory.Format) func(*Policy) {
		return func(p *Policy) { p.Homes, p.Formats = []string{inventory.Files}, list }
	}
	for _, tc := range []struct {
		name    string
		policy  func(*Policy)
		sigs    []inventory.Signature
		about   string // statement type; default: of the file itself
		want    Decision
		formats []inventory.Format
		says    string
	}{
		{"a bundle", home, []inventory.Signature{on(inventory.Detached, good)}, "", Resign, detached, "existed by"},
		{"a blob signature", home, []inventory.Signature{on(inventory.Blob, good)}, "", Resign, blob, "existed by"},
		{"both", home, []inventory.Signature{on(inventory.Detached, good), on(inventory.Blob, good)}, "", Resign, []inventory.Format{inventory.Blob, inventory.Detached}, "existed by"},
		{"seen before", func(*Policy) {}, []inventory.Signature{early}, "", Resign, blob, "existed by"},
		{"nobody says that it is at home", func(*Policy) {}, []inventory.Signature{on(inventory.Blob, good)}, "", Hold, nil, "does not name the repository as a home"},
		{"not proven", home, []inventory.Signature{on(inventory.Detached, bad)}, "", Hold, nil, "proves when"},
		{"covered", home, []inventory.Signature{on(inventory.Detached, good), ours(inventory.Detached)}, "", None, nil, "covered"},
		{"covered as something else", home, []inventory.Signature{on(inventory.Detached, good), ours(inventory.Blob)}, "", Resign, detached, "existed by"},
		{"covered once, and gone", home, []inventory.Signature{on(inventory.Detached, good), gone}, "", Resign, detached, "existed by"},
		{"to bundles", formats(inventory.Bundle), []inventory.Signature{on(inventory.Blob, good)}, "", Resign, detached, "existed by"},
		{"to legacy", formats(inventory.Legacy), []inventory.Signature{on(inventory.Detached, good)}, "", Resign, blob, "existed by"},
		{"to both", formats(inventory.Bundle, inventory.Legacy), []inventory.Signature{on(inventory.Detached, good)}, "", Resign, []inventory.Format{inventory.Blob, inventory.Detached}, "existed by"},
		{"a claim to legacy", formats(inventory.Legacy), []inventory.Signature{about(sbomType, on(inventory.Detached, good))}, sbomType, Resign, detached, "existed by"},
		{"rogue", func(p *Policy) { home(p); p.Rogue = map[string]string{file: "found"} }, []inventory.Signature{on(inventory.Detached, good)}, "", Deny, nil, "found"},
		{"a claim", home, []inventory.Signature{about(sbomType, on(inventory.Detached, good))}, sbomType, Resign, detached, "existed by"},
		{"a claim, and the file is good", home, []inventory.Signature{on(inventory.Blob, good), about(sbomType, on(inventory.Detached, good))}, sbomType, Resign, detached, "existed by"},
		{"a claim, and the file is on hold", home, []inventory.Signature{on(inventory.Blob, bad), about(sbomType, on(inventory.Detached, good))}, sbomType, Hold, nil, "the file itself is not proven good"},
		{"a claim in the form of a blob signature", home, []inventory.Signature{about(sbomType, on(inventory.Blob, good))}, sbomType, Hold, nil, "kept as blob only"},
		{"provenance", home, []inventory.Signature{about(provenanceType, on(inventory.Detached, good))}, provenanceType, Resign, detached, "a summary says"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := Policy{Incidents: []Incident{leaked("I", 10, thief)}, Primary: "I", Successor: next, Skew: skew,
				Trusted: func(id signer.Identity) bool { return id == thief }, Payload: statement(file)}
			tc.policy(&p)
			statements := inventory.Statements(inventory.Artifact{Repository: inventory.Files, Digest: file}, tc.sigs)
			var image *Outcome
			var got Outcome
			for _, st := range statements {
				out, ok := Decide(st, statements, p)
				if !ok {
					t.Fatalf("%s is of no concern", st.Key)
				}
				if st.Key == inventory.SignPredicate {
					image = &out
				}
				if st.PredicateType() == tc.about || tc.about == "" && st.Key == inventory.SignPredicate {
					got = out
				}
			}
			if tc.about != "" {
				got = WithClaims(image, got)
			}
			if got.Decision != tc.want || !slices.Equal(got.Formats, tc.formats) || !strings.Contains(got.Reason, tc.says) {
				t.Errorf("decided %s in %v because %q, want %s in %v because %q", got.Decision, got.Formats, got.Reason, tc.want, tc.formats, tc.says)
			}
			if tc.about == provenanceType && !got.Summary {
				t.Error("the builder's word is given by another")
			}
		})
	}
	t.Run("of an image", func(t *testing.T) {
		t.Parallel()
		// A bundle about an image that somebody has in a file is nothing that a
		// consumer of images reads: it is signed by hand, as before.
		s := good
		s.Format = inventory.Detached
		statements := inventory.Statements(artifact, []inventory.Signature{s})
		out, _ := Decide(statements[0], statements, Policy{Incidents: []Incident{leaked("I", 10, thief)}, Primary: "I", Successor: next, Skew: skew})
		if out.Decision != Hold || !strings.Contains(out.Reason, "kept as detached only") {
			t.Errorf("decided %s: %s", out.Decision, out.Reason)
		}
	})
	t.Run("nothing is elsewhere", func(t *testing.T) {
		t.Parallel()
		p := Policy{Incidents: []Incident{leaked("I", 10, thief)}, Primary: "I", Successor: next, Skew: skew}
		if got := Elsewhere([]inventory.Signature{on(inventory.Detached, good), on(inventory.Blob, good)}, p); len(got) > 0 {
			t.Errorf("kept elsewhere: %v", got)
		}
	})
}
