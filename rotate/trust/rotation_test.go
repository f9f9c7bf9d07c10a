package trust

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// rotation is a policy that rotates other to next.
func rotation(incidents ...Incident) Policy {
	return Policy{Incidents: incidents, Skew: skew, Rotates: []signer.Identity{other}, Successor: next,
		Trusted: func(id signer.Identity) bool { return id == other || id == build }, Payload: statement(artifact.Digest)}
}

// decided is what one image signature beside others comes to.
func decided(p Policy, sigs ...inventory.Signature) Outcome {
	statements := inventory.Statements(artifact, sigs)
	out, ok := Decide(statements[0], statements, p)
	if !ok {
		out.Reason = "no concern"
	}
	return out
}

func TestRotation(t *testing.T) {
	in := func(f inventory.Format, s inventory.Signature) inventory.Signature {
		s.Format = f
		if f == inventory.Bundle {
			s.Names = ""
		}
		return s
	}
	elsewhere := sig(other)
	elsewhere.Names = "r.example/b"
	broken := sig(other)
	broken.Verified, broken.Why = false, "it is over another digest"
	distrusted := rotation()
	distrusted.Trusted = func(signer.Identity) bool { return false }
	nobody := rotation()
	nobody.Trusted = nil
	unexplained := rotation()
	unexplained.Unexplained = func(inventory.Signature) bool { return true }
	rogue := rotation()
	rogue.Rogue = map[string]string{artifact.Digest: "INC-1: seen"}
	home := rotation()
	home.Homes = []string{artifact.Repository}
	vouched := rotation(leaked("I", 10, other))
	vouched.Vouchers = []Voucher{{Kind: KnownGood, Signer: build, List: inventory.Digest(nil)}}
	vouched.Listed = func(Voucher, string) bool { return true }
	proof := sig(other, upper(5, tsa))
	signed := []inventory.Signature{sig(other), sig(next)}
	for _, tc := range []struct {
		name string
		p    Policy
		sigs []inventory.Signature
		want Decision // empty: no concern of the plan
		says string
	}{
		{"trusted, and in no incident", rotation(), []inventory.Signature{sig(other)}, Resign, "without anything that is in an incident"},
		{"signed by the successor already", rotation(), signed, None, "covered by the new signer"},
		{"signed by the successor in another format", rotation(), []inventory.Signature{sig(other), in(inventory.Bundle, sig(other)), sig(next)}, Resign, ""},
		{"by another signer", rotation(), []inventory.Signature{sig(build)}, "", "no concern"},
		{"does not verify", rotation(), []inventory.Signature{broken}, "", "no concern"},
		{"an incident about another signer", rotation(leaked("I", 10, thief)), []inventory.Signature{sig(other)}, Resign, ""},
		{"an incident about the signer", rotation(leaked("I", 10, other)), []inventory.Signature{sig(other)}, Hold, "to that incident's plan"},
		{"an incident about the signer, proven older", rotation(leaked("I", 10, other)), []inventory.Signature{proof}, Hold, "to that incident's plan"},
		{"an incident about the signer, vouched", vouched, []inventory.Signature{sig(other)}, Hold, "to that incident's plan"},
		{"every proof rests on a lost authority", rotation(of(TSA, "T", 10, tsa)), []inventory.Signature{proof}, Hold, "rests on an authority"},
		{"one proof of two rests on a lost authority", rotation(of(TSA, "T", 10, tsa)), []inventory.Signature{sig(other, upper(5, tsa), upper(6, log1))}, Resign, ""},
		{"proofs contradict each other", rotation(), []inventory.Signature{sig(other, lower(9, log1), upper(5, tsa))}, Hold, "contradict"},
		{"nobody enrolled the signer", distrusted, []inventory.Signature{sig(other)}, Hold, "not trusted any more"},
		{"nobody knows who is trusted", nobody, []inventory.Signature{sig(other)}, Hold, "not trusted any more"},
		{"unexplained", unexplained, []inventory.Signature{sig(other)}, Hold, "no record of ours accounts for it"},
		{"marked rogue", rogue, []inventory.Signature{sig(other)}, Hold, "INC-1: seen; a rotation denies nothing"},
		{"marked rogue, and covered", rogue, signed, Hold, "INC-1: seen"},
		{"marked rogue, by another signer", rogue, []inventory.Signature{sig(thief)}, "", "no concern"},
		{"names another repository", rotation(), []inventory.Signature{elsewhere}, Hold, "it names another repository"},
		{"names another repository, and the plan names this one", home, []inventory.Signature{elsewhere}, Resign, ""},
		{"names none, as a bundle", rotation(), []inventory.Signature{in(inventory.Bundle, sig(other))}, Resign, ""},
		{"kept where nothing can be put", rotation(), []inventory.Signature{in(inventory.Referrer, sig(other))}, Hold, "sign it by hand"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out := decided(tc.p, tc.sigs...)
			if out.Decision != tc.want || !strings.Contains(out.Reason, tc.says) {
				t.Errorf("%s (%s), want %s (%s)", out.Decision, out.Reason, tc.want, tc.says)
			}
			statements := inventory.Statements(artifact, tc.sigs)
			if x, _ := Explain(statements[0], statements, tc.p); x.Decision != out.Decision || tc.want != "" && x.Reason != out.Reason {
				t.Errorf("explained as %s (%s)", x.Decision, x.Reason)
			}
		})
	}
	into := func(successor signer.Identity, formats ...inventory.Format) Policy {
		p := rotation()
		p.Successor, p.Formats = successor, formats
		return p
	}
	about := func(kind string, f inventory.Format, by signer.Identity) inventory.Signature {
		s := in(f, sig(by))
		s.PredicateType, s.PayloadDigest, s.Names = kind, "p", ""
		return s
	}
	for _, tc := range []struct {
		name    string
		p       Policy
		sigs    []inventory.Signature // decided is what the last is about, as the image leaves it
		want    Decision
		formats []inventory.Format
	}{
		{"the same signer, in another format", into(other, inventory.Bundle), []inventory.Signature{sig(other)}, Resign, []inventory.Format{inventory.Bundle}},
		{"the same signer, there already", into(other, inventory.Bundle), []inventory.Signature{in(inventory.Bundle, sig(other)), sig(other)}, None, nil},
		{"the same signer, back", into(other, inventory.Legacy), []inventory.Signature{in(inventory.Bundle, sig(other))}, Resign, []inventory.Format{inventory.Legacy}},
		{"another signer, in another format only", into(next, inventory.Bundle), []inventory.Signature{sig(other)}, Resign, []inventory.Format{inventory.Bundle}},
		{"another signer, in both", into(next, inventory.Bundle, inventory.Legacy), []inventory.Signature{sig(other)}, Resign, []inventory.Format{inventory.Bundle, inventory.Legacy}},
		{"another signer, in one of both already", into(next, inventory.Bundle, inventory.Legacy), []inventory.Signature{sig(next), sig(other)}, Resign, []inventory.Format{inventory.Bundle}},
		{"a claim, back", into(other, inventory.Legacy), []inventory.Signature{in(inventory.Bundle, sig(other)), about(vexType, inventory.Bundle, other)}, Resign, []inventory.Format{inventory.LegacyAtt}},
		{"a claim, beside an image signature that goes with it", into(other, inventory.Bundle), []inventory.Signature{sig(other), about(vexType, inventory.LegacyAtt, other)}, Resign, []inventory.Format{inventory.Bundle}},
		{"a claim, its image is there already", into(other, inventory.Bundle), []inventory.Signature{in(inventory.Bundle, sig(other)), about(vexType, inventory.LegacyAtt, other)}, Resign, []inventory.Format{inventory.Bundle}},
		// It would hide the other signer's ".sig".
		{"a claim, on an image of another signer", into(other, inventory.Bundle), []inventory.Signature{sig(build), about(vexType, inventory.LegacyAtt, other)}, Hold, nil},
		{"a claim, on an image that names another place", into(other, inventory.Bundle), []inventory.Signature{elsewhere, about(vexType, inventory.LegacyAtt, other)}, Hold, nil},
		{"its own provenance", into(other, inventory.Bundle), []inventory.Signature{sig(other), about(provenanceType, inventory.LegacyAtt, other)}, Resign, []inventory.Format{inventory.Bundle}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			statements := inventory.Statements(artifact, tc.sigs)
			var image *Outcome
			var out Outcome
			for _, st := range statements {
				o, ok := Decide(st, statements, tc.p)
				if ok {
					explained(t, st, statements, tc.p)
				}
				if ok && st.Key == inventory.SignPredicate {
					image = &o
				}
				out = o
			}
			if len(statements) > 1 {
				out = WithClaims(image, out)
			}
			if out.Decision != tc.want || !slices.Equal(out.Formats, tc.formats) || out.Summary {
				t.Errorf("%s as %v (%s), want %s as %v", out.Decision, out.Formats, out.Reason, tc.want, tc.formats)
			}
		})
	}
	t.Run("keyless, its CA is lost", func(t *testing.T) {
		p := rotation(of(FulcioCA, "C", 30, ca))
		p.Rotates, p.Trusted = []signer.Identity{release}, func(signer.Identity) bool { return true }
		if out := decided(p, keyless(release, 5, log1)); out.Decision != Hold || !strings.Contains(out.Reason, "incident's plan") {
			t.Errorf("%s (%s)", out.Decision, out.Reason)
		}
	})
}

// drawRotation draws a policy that no incident asks for, in a world of them.
func drawRotation(t *rapid.T) Policy {
	p := drawPolicy(t)
	p.Primary, p.Keep, p.Vouchers = "", false, nil
	p.Rotates = []signer.Identity{one(t, "rotated", thief, other, release)}
	p.Successor = one(t, "successor", next, next, p.Rotates[0])
	return p
}

// TestRotationTakesOverOnlyWhatStands: nothing is taken over that an incident
// is about, in whatever way, that nobody is meant to trust, or that anybody
// denies.
func TestRotationTakesOverOnlyWhatStands(t *testing.T) {
	t.Parallel()
	seen := map[Decision]int{}
	property(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.policy = drawRotation(t)
		p := w.policy
		for _, st := range w.statements {
			explained(t, st, w.statements, p)
			out, ok := Decide(st, w.statements, p)
			if !ok {
				continue
			}
			seen[out.Decision]++
			switch {
			case out.Decision == Deny:
				t.Fatalf("a rotation denies %s (%s)", st.Key, out.Reason)
			case out.Decision != Resign:
				continue
			case len(p.Rogue) > 0:
				t.Fatalf("what is rogue is signed again (%s)", out.Reason)
			case !slices.ContainsFunc(st.Signatures, func(s inventory.Signature) bool {
				return s.Verified && s.Signer == p.Rotates[0] && p.Trusted != nil && p.Trusted(s.Signer) && !w.compromised(s.Signer) &&
					!slices.ContainsFunc(s.Requires, w.lost) && (p.Unexplained == nil || !p.Unexplained(s))
			}):
				t.Fatalf("signed again, and nobody trusted said so (%s): %+v", out.Reason, st)
			}
		}
	})
	for _, d := range []Decision{Hold, Resign, None} {
		if seen[d] < cases/1000 {
			t.Errorf("%s was decided %d times only: the worlds show nothing about it", d, seen[d])
		}
	}
	t.Log(seen)
}

// TestAddingAnIncidentNeverAddsTrustToARotation also says that nothing a new
// incident names is signed again.
func TestAddingAnIncidentNeverAddsTrustToARotation(t *testing.T) {
	t.Parallel()
	property(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.policy = drawRotation(t)
		before := w.decideAll()
		i := drawIncident(t, "J")
		w.policy.Incidents = append(slices.Clone(w.policy.Incidents), i)
		after := w.decideAll()
		noMoreTrust(t, "adding an incident", before, after)
		for n, d := range after {
			if d == Resign && i.Names(w.policy.Rotates[0]) {
				t.Fatalf("statement %d is signed again, and %s names its signer", n, fmt.Sprint(i))
			}
		}
	})
}
