package trust

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// summary is a summary by a signer that names contents.
func summary(by signer.Identity, f inventory.Format, contents ...string) inventory.Signature {
	s := sig(by)
	s.ID, s.PredicateType, s.PayloadDigest, s.Names, s.Format = "v"+by.ID(), inventory.SummaryPredicate, strings.Join(contents, ","), "", f
	return s
}

// reads returns what reads the summaries that summary makes, for an artifact.
func reads(about inventory.Artifact) func(inventory.Signature) ([]byte, error) {
	return func(s inventory.Signature) ([]byte, error) {
		x := inventory.Summary{Artifact: about, Verifier: "urn:x", Plan: inventory.Digest([]byte("plan"))}
		for _, c := range strings.Split(s.PayloadDigest, ",") {
			x.Inputs = append(x.Inputs, inventory.SummaryInput{Digest: c})
		}
		return x.Payload()
	}
}

// TestSummary is about provenance by the compromised signer beside what is
// decided about the image.
func TestSummary(t *testing.T) {
	const content, another = "sha256:c1", "sha256:c2"
	built := func(f inventory.Format, by signer.Identity, bounds ...inventory.Bound) inventory.Signature {
		s := provenance(by, bounds...)
		s.Format, s.Content, s.Names = f, content, ""
		return s
	}
	proven := sig(thief, upper(1, tsa))
	bundle := func(s inventory.Signature) inventory.Signature { s.Format = inventory.Bundle; return s }
	rogue := built(inventory.Bundle, thief)
	old := built(inventory.LegacyAtt, thief, upper(1, tsa))
	oldBundle := built(inventory.Bundle, thief, upper(1, tsa))
	lost := of(TSA, "T", 10, tsa)
	elsewhere := artifact
	elsewhere.Repository = "r.example/b"
	for _, tc := range []struct {
		name    string
		sigs    []inventory.Signature
		policy  func(*Policy)
		want    Decision
		formats []inventory.Format
		says    string
	}{
		{name: "proven, beside a proven image", sigs: []inventory.Signature{proven, old}, want: Resign, formats: []inventory.Format{inventory.LegacyAtt}, says: "a summary says"},
		{name: "proven, as a bundle", sigs: []inventory.Signature{bundle(proven), oldBundle}, want: Resign, formats: []inventory.Format{inventory.Bundle}},
		{name: "proven, in both", sigs: []inventory.Signature{proven, old, oldBundle}, want: Resign, formats: []inventory.Format{inventory.Bundle, inventory.LegacyAtt}},
		{name: "rogue", sigs: []inventory.Signature{proven, rogue}, want: Hold, says: "no authority"},
		{name: "its proof is lost", sigs: []inventory.Signature{proven, old}, policy: func(p *Policy) { p.Incidents = append(p.Incidents, lost) }, want: Hold},
		// cosign takes the bundle of a summary for a signature of the image.
		{name: "proven, as a bundle on an image on hold", sigs: []inventory.Signature{bundle(sig(thief)), oldBundle}, want: Hold, says: "make verifiers accept the image"},
		{name: "proven, as a bundle on an image nobody signed", sigs: []inventory.Signature{oldBundle}, want: Hold, says: "make verifiers accept the image"},
		{name: "proven, of an image on hold", sigs: []inventory.Signature{sig(thief), old}, want: Hold, says: "would say that it passed"},
		{name: "proven, of an image of another signer", sigs: []inventory.Signature{sig(other), old}, want: Hold, says: "would say that it passed"},
		{name: "summarised", sigs: []inventory.Signature{proven, old, summary(next, inventory.LegacyAtt, content)}, want: None, says: "covered by the new signer"},
		{name: "summarised among others", sigs: []inventory.Signature{proven, old, summary(next, inventory.LegacyAtt, another, content)}, want: None},
		{name: "summarised in another format only", sigs: []inventory.Signature{proven, old, summary(next, inventory.Bundle, content)}, want: Resign},
		{name: "summarised in one format of two", sigs: []inventory.Signature{proven, old, oldBundle, summary(next, inventory.LegacyAtt, content)}, want: Resign, formats: []inventory.Format{inventory.Bundle}},
		{name: "another attestation is summarised", sigs: []inventory.Signature{proven, old, summary(next, inventory.LegacyAtt, another)}, want: Resign},
		{name: "summarised by the thief", sigs: []inventory.Signature{proven, old, summary(thief, inventory.LegacyAtt, content)}, want: Resign},
		{name: "summarised by somebody else", sigs: []inventory.Signature{proven, old, summary(other, inventory.LegacyAtt, content)}, want: Resign},
		{name: "summarised about a copy elsewhere", sigs: []inventory.Signature{proven, old, summary(next, inventory.LegacyAtt, content)},
			policy: func(p *Policy) { p.Payload = reads(elsewhere) }, want: Resign},
		{name: "the summary does not verify", sigs: []inventory.Signature{proven, old, forged(summary(next, inventory.LegacyAtt, content))}, want: Resign},
		{name: "the summary cannot be read", sigs: []inventory.Signature{proven, old, summary(next, inventory.LegacyAtt, content)},
			policy: func(p *Policy) {
				p.Payload = func(inventory.Signature) ([]byte, error) { return nil, errors.New("it is not in the vault") }
			}, want: Resign},
		{name: "its summariser is in an incident", sigs: []inventory.Signature{proven, old, summary(next, inventory.LegacyAtt, content)},
			policy: func(p *Policy) { p.Incidents = append(p.Incidents, leaked("J", 5, next)) }, want: Resign},
		{name: "a thief's attestation beside a summary of another", sigs: []inventory.Signature{proven, rogue, summary(next, inventory.Bundle, another)}, want: Hold},
		{name: "by a signer that stays", sigs: []inventory.Signature{proven, old}, policy: func(p *Policy) {
			p.Keep, p.Successor = true, signer.Identity{}
		}, want: None, says: "stays trusted"},
		{name: "rotated", sigs: []inventory.Signature{sig(other), built(inventory.LegacyAtt, other)}, policy: func(p *Policy) { *p = rotation() }, want: Resign, says: "a summary says"},
		{name: "rotated, and an incident is about its signer", sigs: []inventory.Signature{sig(other), built(inventory.LegacyAtt, other, upper(1, tsa))},
			policy: func(p *Policy) { *p = rotation(leaked("J", 5, other)) }, want: Hold},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := Policy{Incidents: []Incident{leaked("I", 10, thief)}, Primary: "I", Skew: skew, Successor: next, Homes: []string{artifact.Repository}, Payload: reads(artifact)}
			if tc.policy != nil {
				tc.policy(&p)
			}
			statements := inventory.Statements(artifact, tc.sigs)
			var image *Outcome
			var out Outcome
			for _, st := range statements {
				o, ok := Decide(st, statements, p)
				if !ok {
					continue
				}
				explained(t, st, statements, p)
				switch st.PredicateType() {
				case inventory.SignPredicate:
					image = &o
				case provenanceType:
					out = o
				}
			}
			out = WithClaims(image, out)
			if out.Decision != tc.want || !strings.Contains(out.Reason, tc.says) {
				t.Errorf("%s (%s), want %s (%s)", out.Decision, out.Reason, tc.want, tc.says)
			}
			if out.Summary != (tc.want == Resign) {
				t.Errorf("summary: %v", out.Summary)
			}
			if tc.formats != nil && !slices.Equal(out.Formats, tc.formats) {
				t.Errorf("formats %v, want %v", out.Formats, tc.formats)
			}
		})
	}
	t.Run("of what is signed again by its own signer, nothing is said", func(t *testing.T) {
		p := rotation()
		p.Successor = other
		st := inventory.Statements(artifact, []inventory.Signature{built(inventory.LegacyAtt, other)})
		if out, ok := Decide(st[0], st, p); !ok || out.Decision != None || out.Summary {
			t.Errorf("%s (%s)", out.Decision, out.Reason)
		}
	})
}

func TestBound(t *testing.T) {
	p := Policy{Incidents: []Incident{{ID: "I", Class: KMSKey, Signers: []signer.Identity{thief}, From: ptr(at(10)), Until: ptr(at(12))}}, Primary: "I", Skew: skew, Successor: next}
	for _, tc := range []struct {
		name  string
		sig   inventory.Signature
		bound *inventory.Bound
		ok    bool
	}{
		{"before", sig(thief, upper(7, log1), upper(5, tsa)), ptrTo(upper(5, tsa)), true},
		{"after", sig(thief, lower(13, tsa)), ptrTo(lower(13, tsa)), true},
		{"unproven", sig(thief, upper(11, tsa)), nil, false},
		{"of no concern", sig(other, upper(1, tsa)), nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j := p.examine(tc.sig)
			bound := p.Bound(&j)
			if ok := p.Proves(&j); ok != tc.ok || (bound == nil) != (tc.bound == nil) || bound != nil && *bound != *tc.bound {
				t.Errorf("%v %v, want %v %v", bound, ok, tc.bound, tc.ok)
			}
		})
	}
	r := rotation()
	j := r.examine(sig(other, upper(5, tsa)))
	if bound := r.Bound(&j); !r.Proves(&j) || bound != nil {
		t.Errorf("rotated: %v", bound)
	}
}

func ptrTo[T any](v T) *T { return &v }

// TestNoSummaryOfWhatIsNotBelieved: nothing is said of an attestation, in any
// world, that would not be signed again if it were a claim of anybody's.
func TestNoSummaryOfWhatIsNotBelieved(t *testing.T) {
	t.Parallel()
	seen := 0
	property(t, func(t *rapid.T) {
		w := drawWorld(t)
		for _, st := range w.statements {
			out, ok := Decide(st, w.statements, w.policy)
			if !ok || !out.Summary {
				if ok && out.Decision == Resign && inventory.IsProvenance(st.PredicateType()) && !slices.ContainsFunc(st.Signatures, func(s inventory.Signature) bool { return s.Signer == w.policy.Successor }) {
					t.Fatalf("%s is signed again by another", st.Key)
				}
				continue
			}
			seen++
			claim := st
			claim.Key, w.policy.Payload = vexType+"#p1", summaries
			if as, _ := Decide(claim, w.statements, w.policy); as.Decision != Resign {
				t.Fatalf("a summary (%s) of what would be decided %s (%s)", out.Reason, as.Decision, as.Reason)
			}
			if !slices.ContainsFunc(out.Signatures, func(j Judged) bool { return w.policy.Proves(&j) }) {
				t.Fatalf("a summary that names nothing (%s)", out.Reason)
			}
		}
	})
	if seen < cases/1000 {
		t.Errorf("%d summaries only", seen)
	}
}
