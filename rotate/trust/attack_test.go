package trust

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// provenance is an attestation of how the artifact was built.
func provenance(by signer.Identity, bounds ...inventory.Bound) inventory.Signature {
	s := sig(by, bounds...)
	s.ID, s.PredicateType, s.PayloadDigest = "p"+by.ID(), provenanceType, "sha256:p"
	return s
}

// claim is a statement of the organisation's own about the artifact.
func claim(by signer.Identity, payload string, bounds ...inventory.Bound) inventory.Signature {
	s := sig(by, bounds...)
	s.ID, s.PredicateType, s.PayloadDigest = "c"+payload, vexType, payload
	return s
}

// statement returns what reads every claim as one about some digests.
func statement(digests ...string) func(inventory.Signature) ([]byte, error) {
	var subjects []string
	for _, d := range digests {
		subjects = append(subjects, fmt.Sprintf(`{"digest":{"sha256":%q}}`, strings.TrimPrefix(d, "sha256:")))
	}
	return func(inventory.Signature) ([]byte, error) {
		return fmt.Appendf(nil, `{"subject":[%s]}`, strings.Join(subjects, ",")), nil
	}
}

func naming(s inventory.Signature, repository string) inventory.Signature {
	s.Names = repository
	return s
}

func format(s inventory.Signature, f inventory.Format) inventory.Signature {
	s.ID, s.Format = s.ID+string(f), f
	return s
}

// located is a signature kept in another repository than its artifact.
func located(s inventory.Signature) inventory.Signature {
	s.ID += "elsewhere"
	s.Location = "r.example/signatures"
	return s
}

func seen(s inventory.Signature, hour int) inventory.Signature {
	s.FirstSeen = at(hour)
	return s
}

func forged(s inventory.Signature) inventory.Signature {
	s.Verified, s.Why = false, "over other bytes"
	return s
}

func run(by, of signer.Identity) inventory.Record {
	return inventory.Record{ID: "r", Source: "ci", By: by.ID(), Kind: inventory.RecordCI, Signer: of.ID(), Digest: artifact.Digest, Run: "https://ci.example/1", Time: at(1)}
}

func runs(records ...inventory.Record) func(string) []inventory.Record {
	return func(string) []inventory.Record { return records }
}

// TestAttack tries to break laws 1 and 2: each case is something a thief can
// put into a registry, a log or a record, and what must not come of it. Beside
// the attacks stands what is decided without them.
func TestAttack(t *testing.T) {
	t.Parallel()
	leak := leaked("I", 10, thief)
	voucher := Voucher{Signer: build, PredicateType: provenanceType}
	standing := func(hour int) Voucher { v := voucher; v.Standing = ptr(at(hour)); return v }
	list := Voucher{Kind: KnownGood, Signer: build, List: inventory.Digest(nil)}
	record := Voucher{Kind: CIRun, Signer: build}
	listed := func(Voucher, string) bool { return true }
	vouched := []inventory.Signature{seen(sig(thief), 1), provenance(build)}
	with := func(v ...Voucher) Policy { return Policy{Vouchers: v, Listed: listed} }
	records := func(r ...inventory.Record) Policy { return Policy{Vouchers: []Voucher{record}, Runs: runs(r...)} }
	lists := func(more ...Incident) Policy { return Policy{Incidents: more} }
	// primary makes the first incident the one whose signatures are replaced.
	primary := func(p Policy, i Incident) Policy {
		p.Incidents, p.Primary = append([]Incident{i}, p.Incidents...), i.ID
		if p.Trusted == nil {
			p.Trusted = func(id signer.Identity) bool { return id == release || id == other }
		}
		return p
	}
	identity := Incident{ID: "ID", Class: KeylessIdentity, Signers: []signer.Identity{release}, From: ptr(at(10)), Until: ptr(at(12))}
	lostLog, lostTSA, lostCA, lostCT := of(RekorLog, "LOG", 10, log1), of(TSA, "TSA", 10, tsa), of(FulcioCA, "CA", 10, ca), of(CTLog, "CT", 10, ct)
	journalled := func(s inventory.Signature, hour int, a inventory.Authority) inventory.Signature {
		s.Bounds = append(slices.Clone(s.Bounds), upper(hour, a))
		return s
	}
	payload := func(text string) func(inventory.Signature) ([]byte, error) {
		return func(inventory.Signature) ([]byte, error) { return []byte(text), nil }
	}
	fit := func(Policy, string) string { return "" }
	content := voucher
	content.Content = map[string]string{"builder.id": "ours"}

	for _, tc := range []struct {
		name   string
		sigs   []inventory.Signature
		policy Policy
		about  string   // predicate type of the statement judged; empty: the image
		want   Decision // empty: no concern of the plan
	}{
		{name: "rogue image without proof", sigs: []inventory.Signature{sig(thief)}, want: Hold},
		{name: "rogue image stamped after the theft", sigs: []inventory.Signature{sig(thief, upper(11, tsa))}, want: Hold},
		{name: "marked rogue though proven", sigs: []inventory.Signature{sig(thief, upper(1, tsa))}, policy: Policy{Rogue: map[string]string{"sha256:d": "seen"}}, want: Deny},
		{name: "marked rogue though vouched for", sigs: vouched, policy: Policy{Vouchers: []Voucher{voucher}, Rogue: map[string]string{"sha256:d": "seen"}}, want: Deny},
		{name: "marked rogue, signed by nobody", policy: Policy{Rogue: map[string]string{"sha256:d": "seen"}}, want: Deny},

		// Times.
		{name: "back-dated certificate", sigs: []inventory.Signature{sig(thief, lower(1, ca))}, want: Hold},
		{name: "back-dated certificate of a stolen identity", sigs: []inventory.Signature{keyless(release, 1)}, policy: primary(Policy{}, identity), want: Hold},
		{name: "certificate dated after the window by a lost CA", sigs: []inventory.Signature{keyless(release, 13, log1)}, policy: primary(lists(of(FulcioCA, "CA", 30, ca)), identity), want: Hold},
		{name: "certificate dated after the window, its CT log lost", sigs: []inventory.Signature{keyless(release, 13, log1)}, policy: primary(lists(of(CTLog, "CT", 30, ct)), identity), want: Hold},
		{name: "named identity that no verifier accepted, long before the window", sigs: []inventory.Signature{keyless(release, 1, log1)},
			policy: primary(Policy{Trusted: func(id signer.Identity) bool { return id == other }}, identity), want: Hold},
		{name: "certificate dated after the window", sigs: []inventory.Signature{keyless(release, 13, log1)}, policy: primary(Policy{}, identity), want: Resign},
		{name: "signed entry timestamp of a lost log", sigs: []inventory.Signature{sig(thief, upper(1, log1))}, policy: lists(lostLog), want: Hold},
		{name: "signed entry timestamp of a lost log as the only proof of a keyless signature", sigs: []inventory.Signature{keyless(release, 1, log1)}, policy: primary(Policy{}, lostLog), want: Hold},
		{name: "token of a lost authority", sigs: []inventory.Signature{sig(thief, upper(1, tsa))}, policy: lists(lostTSA), want: Hold},
		{name: "token of a lost authority beside a true late one", sigs: []inventory.Signature{sig(thief, upper(1, tsa), upper(11, tsa2))}, policy: lists(lostTSA), want: Hold},
		{name: "journal anchored by a lost authority", sigs: []inventory.Signature{sig(thief, upper(1, journal))}, policy: lists(lostTSA), want: Hold},
		{name: "journal anchored by a sound authority", sigs: []inventory.Signature{sig(thief, upper(1, journal2))}, policy: lists(lostTSA), want: Resign},
		{name: "certificate of a lost CA, logged too late", sigs: []inventory.Signature{keyless(release, 11, log1)}, policy: primary(Policy{}, lostCA), want: Hold},
		{name: "certificate of a lost CA, logged before", sigs: []inventory.Signature{keyless(release, 1, log1)}, policy: primary(Policy{}, lostCA), want: Resign},
		{name: "certificate of a lost CT log, logged too late", sigs: []inventory.Signature{keyless(release, 11, log1)}, policy: primary(Policy{}, lostCT), want: Hold},
		{name: "contradicting proofs", sigs: []inventory.Signature{sig(thief, upper(1, tsa), lower(5, ca))}, want: Hold},
		{name: "contradicting proofs, wholly unexplained", sigs: []inventory.Signature{sig(thief, upper(1, tsa), lower(5, ca))}, policy: Policy{Unexplained: func(inventory.Signature) bool { return true }}, want: Deny},
		{name: "counter-stamp to worsen a verdict", sigs: []inventory.Signature{sig(thief, upper(1, tsa), upper(90, log1))}, want: Resign},
		{name: "counter-stamp to better a verdict", sigs: []inventory.Signature{seen(sig(thief, upper(11, tsa2)), 12)}, policy: lists(lostTSA), want: Hold},
		{name: "counter-stamp by a lost log, to bring a sound signature into the plan", sigs: []inventory.Signature{seen(sig(other, upper(20, log1)), 5)}, policy: primary(Policy{}, lostLog), want: ""},
		{name: "counter-stamp to bring a forged keyless signature out of the plan", sigs: []inventory.Signature{journalled(keyless(release, 1, log1), 90, tsa2)}, policy: primary(Policy{}, lostLog), want: Hold},

		// Signatures of others.
		{name: "signature by a signer nobody trusts", sigs: []inventory.Signature{sig(thief), seen(format(sig(other), inventory.Legacy), 1)}, want: Hold},
		{name: "trusted signature that does not verify", sigs: []inventory.Signature{sig(thief), forged(sig(build, upper(1, tsa)))}, want: Hold},
		{name: "good signature copied onto a rogue artifact", sigs: []inventory.Signature{sig(thief), forged(sig(thief, upper(1, tsa)))}, want: Hold},
		{name: "trusted signature in a format the consumer cannot read", sigs: []inventory.Signature{sig(thief), format(sig(build), inventory.Bundle)}, want: Hold},
		{name: "the new signer's in a format the consumer cannot read", sigs: []inventory.Signature{sig(thief, upper(1, tsa)), format(sig(next), inventory.Bundle)}, want: Resign},
		{name: "proven signature by a signer nobody ever trusted", sigs: []inventory.Signature{sig(thief, upper(11, tsa)), sig(other, upper(1, tsa))}, policy: lists(leaked("O", 10, other)), want: Hold},
		{name: "proven signature of another compromised signer", sigs: []inventory.Signature{sig(thief), sig(build, upper(1, tsa))}, policy: lists(leaked("B", 10, build)), want: Hold},
		{name: "an outsider's image in our repository, when their CA is lost", sigs: []inventory.Signature{keyless(outside, 1, log1)}, policy: primary(Policy{}, lostCA), want: ""},
		{name: "an outsider's image in our repository, when the issuer is lost", sigs: []inventory.Signature{keyless(outside, 1, log1)},
			policy: primary(Policy{}, Incident{ID: "O", Class: OIDCIssuer, Selectors: []Selector{{Issuer: issuer}}, From: ptr(at(10))}), want: ""},
		{name: "an outsider's proven signature beside a late one of ours", sigs: []inventory.Signature{keyless(outside, 1, log1), keyless(release, 11, log1)}, policy: primary(Policy{}, lostCA), want: Hold},
		{name: "an outsider's signature, and nobody says who is trusted", sigs: []inventory.Signature{keyless(outside, 1, log1)},
			policy: Policy{Primary: "CA", Incidents: []Incident{lostCA}}, want: Hold},
		{name: "seen before with an outsider's signature", sigs: []inventory.Signature{sig(thief), seen(sig(other), 1), provenance(build)}, policy: with(voucher), want: Hold},

		// Statements.
		{name: "rogue signature on a good image", sigs: []inventory.Signature{sig(thief, upper(1, tsa)), sig(thief, upper(11, tsa))}, want: Resign},
		{name: "rogue claim on a good image", about: vexType, sigs: []inventory.Signature{sig(thief, upper(1, tsa)), claim(thief, "good", upper(1, tsa)), claim(thief, "rogue")}, want: Hold},
		{name: "rogue claim by a stolen identity on a good image", about: vexType, policy: primary(Policy{}, identity), sigs: []inventory.Signature{keyless(release, 1, log1),
			func() inventory.Signature {
				s := keyless(release, 11, log1)
				s.PredicateType, s.PayloadDigest = vexType, "rogue"
				return s
			}()}, want: Hold},
		{name: "provenance does not vouch for a claim", about: vexType, sigs: []inventory.Signature{provenance(build), claim(thief, "rogue")},
			policy: Policy{Vouchers: []Voucher{voucher}, Homes: []string{"r.example/a"}}, want: Hold},
		{name: "a list does not vouch for a claim", about: vexType, sigs: []inventory.Signature{seen(claim(thief, "rogue"), 1)}, policy: with(list), want: Hold},
		{name: "good claim that is also about an image marked rogue", about: vexType, sigs: []inventory.Signature{sig(thief, upper(1, tsa)), claim(thief, "release", upper(1, tsa))},
			policy: Policy{Payload: statement(artifact.Digest, "sha256:r"), Unfit: fit, Rogue: map[string]string{"sha256:r": "seen"}}, want: Hold},
		{name: "good claim that is also about an image on hold", about: vexType, sigs: []inventory.Signature{sig(thief, upper(1, tsa)), claim(thief, "release", upper(1, tsa))},
			policy: Policy{Payload: statement(artifact.Digest, "sha256:r"), Unfit: func(Policy, string) string { return "it is on hold" }}, want: Hold},
		{name: "good claim that is also about what nobody knows", about: vexType, sigs: []inventory.Signature{sig(thief, upper(1, tsa)), claim(thief, "release", upper(1, tsa))},
			policy: Policy{Payload: statement(artifact.Digest, "sha256:r")}, want: Hold},
		{name: "good claim of which nobody can read what it is about", about: vexType, sigs: []inventory.Signature{sig(thief, upper(1, tsa)), claim(thief, "release", upper(1, tsa))},
			policy: Policy{Payload: func(inventory.Signature) ([]byte, error) { return nil, errors.New("lost") }, Unfit: fit}, want: Hold},
		{name: "good claim that can be read in two ways", about: vexType, sigs: []inventory.Signature{sig(thief, upper(1, tsa)), claim(thief, "release", upper(1, tsa))},
			policy: Policy{Payload: payload(`{"subject":[],"Subject":[{"digest":{"sha256":"r"}}]}`), Unfit: fit}, want: Hold},
		{name: "good claim about several images that are good", about: vexType, sigs: []inventory.Signature{sig(thief, upper(1, tsa)), claim(thief, "release", upper(1, tsa))},
			policy: Policy{Payload: statement(artifact.Digest, "sha256:r"), Unfit: fit}, want: Resign},
		{name: "a CI run does not vouch for a claim", about: vexType, sigs: []inventory.Signature{seen(claim(thief, "rogue"), 1)}, policy: records(run(build, other)), want: Hold},

		{name: "kept elsewhere beside one by a stolen key whose other timestamp is not lost", policy: primary(lists(leaked("KEY", 10, other)), lostTSA),
			sigs: []inventory.Signature{located(sig(other, upper(11, tsa))), sig(other, upper(11, tsa), upper(11, tsa2))}, want: Hold},
		{name: "kept elsewhere beside one of an honest key whose other timestamp is not lost", policy: primary(Policy{}, lostTSA),
			sigs: []inventory.Signature{located(sig(other, upper(11, tsa))), sig(other, upper(11, tsa), upper(11, tsa2))}, want: None},
		{name: "kept elsewhere beside one of somebody, and nobody knows who is trusted", policy: Policy{Incidents: []Incident{lostTSA}, Primary: "TSA"},
			sigs: []inventory.Signature{located(sig(other, upper(11, tsa))), sig(other, upper(11, tsa), upper(11, tsa2))}, want: Hold},

		// Places.
		{name: "good copy in the thief's repository", sigs: []inventory.Signature{naming(sig(thief, upper(1, tsa)), "r.example/elsewhere")}, want: Hold},
		{name: "good copy where a plan says so", sigs: []inventory.Signature{naming(sig(thief, upper(1, tsa)), "r.example/elsewhere")}, policy: Policy{Homes: []string{"r.example/a"}}, want: Resign},
		{name: "good copy in the thief's repository, named by the thief", sigs: []inventory.Signature{naming(sig(thief, upper(1, tsa)), "r.example/elsewhere"), sig(thief)}, want: Hold},
		{name: "unsigned image seen early and signed by the thief later", sigs: []inventory.Signature{sig(thief)}, want: Hold},
		{name: "unsigned image seen early, signed by the thief later, and on a list", sigs: []inventory.Signature{sig(thief)}, policy: with(list), want: Hold},
		{name: "kept where nothing can be written", sigs: []inventory.Signature{format(sig(thief, upper(1, tsa)), inventory.Referrer)}, want: Hold},
		{name: "kept in another repository only", sigs: []inventory.Signature{located(sig(thief, upper(1, tsa)))}, want: Hold},
		{name: "thief adds one where nothing can be written", sigs: []inventory.Signature{sig(thief, upper(1, tsa)), format(sig(thief), inventory.Referrer), located(sig(thief))}, want: Resign},
		{name: "covered, and one left where nothing can be written", sigs: []inventory.Signature{sig(thief, upper(1, tsa)), sig(next), format(sig(thief), inventory.Referrer)}, want: None},
		{name: "the new signer's in another repository covers nothing", sigs: []inventory.Signature{sig(thief, upper(1, tsa)), located(sig(next))}, want: Resign},
		{name: "the new signer's rests on a lost log", sigs: []inventory.Signature{sig(thief, upper(1, tsa)), sig(next, upper(20, log1))}, policy: lists(lostLog), want: Resign},

		// Vouchers.
		{name: "vouched and seen before", sigs: vouched, policy: with(voucher), want: Resign},
		{name: "vouched but never seen before", sigs: []inventory.Signature{sig(thief), provenance(build)}, policy: with(voucher), want: Hold},
		{name: "vouched and seen within the skew", sigs: []inventory.Signature{func() inventory.Signature { s := sig(thief); s.FirstSeen = at(10).Add(-skew); return s }(), provenance(build)}, policy: with(voucher), want: Hold},
		{name: "vouched and seen, and nobody knows when the theft was", sigs: vouched, policy: primary(with(voucher), Incident{ID: "U", Class: SigningKey, Signers: []signer.Identity{thief}}), want: Hold},
		{name: "vouched in another repository", sigs: vouched, policy: with(Voucher{Signer: build, PredicateType: provenanceType, Repositories: []string{"r.example/b"}}), want: Hold},
		{name: "vouched by the compromised signer", sigs: []inventory.Signature{seen(sig(thief), 1), provenance(thief)}, policy: with(Voucher{Signer: thief, PredicateType: provenanceType}), want: Hold},
		{name: "vouched before the theft by the compromised signer", sigs: []inventory.Signature{seen(sig(thief), 1), provenance(thief, upper(1, tsa))}, policy: with(Voucher{Signer: thief, PredicateType: provenanceType}), want: Hold},
		{name: "vouched by a list of the compromised signer", sigs: vouched, policy: with(Voucher{Kind: KnownGood, Signer: thief, List: list.List}), want: Hold},
		{name: "vouched by records of the compromised signer", sigs: vouched, policy: Policy{Vouchers: []Voucher{{Kind: CIRun, Signer: thief}}, Runs: runs(run(thief, other))}, want: Hold},
		{name: "vouched by somebody the plan does not name", sigs: []inventory.Signature{seen(sig(thief), 1), provenance(other)}, policy: with(voucher), want: Hold},
		{name: "vouched in a forged attestation", sigs: []inventory.Signature{seen(sig(thief), 1), forged(provenance(build))}, policy: with(voucher), want: Hold},
		{name: "vouched in an attestation whose proofs contradict each other", sigs: []inventory.Signature{seen(sig(thief), 1), provenance(build, upper(1, tsa), lower(5, ca))}, policy: with(voucher), want: Hold},
		{name: "vouched by an image signature", sigs: []inventory.Signature{seen(sig(thief), 1), sig(build)}, policy: with(Voucher{Signer: build, PredicateType: inventory.SignPredicate}), want: Hold},
		{name: "vouched in an attestation that rests on a lost log", sigs: []inventory.Signature{seen(sig(thief), 1), provenance(build, upper(1, log1))}, policy: Policy{Vouchers: []Voucher{voucher}, Incidents: []Incident{lostLog}}, want: Hold},
		{name: "vouched by one whose workflow is compromised", sigs: []inventory.Signature{seen(sig(thief), 1), provenance(release)},
			policy: Policy{Vouchers: []Voucher{{Signer: release, PredicateType: provenanceType}}, Incidents: []Incident{{ID: "W", Class: CIWorkflow, Selectors: []Selector{{Workflow: "another"}}}}}, want: Hold},
		{name: "vouched by a bot that attests everything", sigs: vouched, policy: Policy{Vouchers: []Voucher{voucher}, Void: func(Voucher) string { return "it vouched for sha256:e, which is rogue" }}, want: Hold},
		{name: "standing voucher from before the theft", sigs: vouched, policy: with(standing(9)), want: Resign},
		{name: "standing voucher added after the theft", sigs: vouched, policy: with(standing(11)), want: Hold},
		{name: "standing voucher added within the skew", sigs: vouched, policy: Policy{Vouchers: []Voucher{func() Voucher { v := voucher; v.Standing = ptr(at(10).Add(-skew)); return v }()}}, want: Hold},
		{name: "standing voucher, and nobody knows when the theft was", sigs: vouched, policy: primary(with(standing(1)), Incident{ID: "U", Class: SigningKey, Signers: []signer.Identity{thief}}), want: Hold},
		{name: "content rule that the provenance does not meet", sigs: vouched, policy: Policy{Vouchers: []Voucher{content}, Payload: payload(`{"predicate":{"builder":{"id":"theirs"}}}`)}, want: Hold},
		{name: "content rule, and the provenance is not to be had", sigs: vouched, policy: with(content), want: Hold},
		{name: "content rule, and the provenance says it elsewhere", sigs: vouched, policy: Policy{Vouchers: []Voucher{content}, Payload: payload(`{"predicate":{"builder.id":"ours","builder":[{"id":"ours"}]},"builder":{"id":"ours"}}`)}, want: Hold},
		{name: "content rule met", sigs: vouched, policy: Policy{Vouchers: []Voucher{content}, Payload: payload(`{"predicate":{"builder":{"id":"ours"}}}`)}, want: Resign},
		{name: "on a known-good list", sigs: []inventory.Signature{seen(sig(thief), 1)}, policy: with(list), want: Resign},
		{name: "not on the list", sigs: []inventory.Signature{seen(sig(thief), 1)}, policy: Policy{Vouchers: []Voucher{list}, Listed: func(Voucher, string) bool { return false }}, want: Hold},
		{name: "the list is not to be had", sigs: []inventory.Signature{seen(sig(thief), 1)}, policy: Policy{Vouchers: []Voucher{list}}, want: Hold},

		// Records of CI runs.
		{name: "CI run", sigs: []inventory.Signature{seen(sig(thief), 1)}, policy: records(run(build, other)), want: Resign},
		{name: "forged record of a CI run", sigs: []inventory.Signature{seen(sig(thief), 1)}, policy: records(run(other, other)), want: Hold},
		{name: "record of a CI run that nobody authenticated", sigs: []inventory.Signature{seen(sig(thief), 1)}, policy: records(func() inventory.Record { r := run(build, other); r.By = ""; return r }()), want: Hold},
		{name: "record of a CI run that failed", sigs: []inventory.Signature{seen(sig(thief), 1)}, policy: records(func() inventory.Record { r := run(build, other); r.Failed = true; return r }()), want: Hold},
		{name: "record of a CI run about another digest", sigs: []inventory.Signature{seen(sig(thief), 1)}, policy: records(func() inventory.Record { r := run(build, other); r.Digest = "sha256:e"; return r }()), want: Hold},
		{name: "audit log of a key as a CI run", sigs: []inventory.Signature{seen(sig(thief), 1)}, policy: records(func() inventory.Record { r := run(build, other); r.Kind = inventory.RecordKMS; return r }()), want: Hold},
		{name: "CI run of nobody known while a workflow is stolen too", sigs: []inventory.Signature{seen(sig(thief), 1)}, policy: func() Policy {
			r := run(build, other)
			r.Signer = ""
			p := records(r)
			p.Incidents = []Incident{{ID: "W", Class: CIWorkflow, Selectors: []Selector{{Workflow: "w"}}, From: ptr(at(10))}}
			return p
		}(), want: Hold},
		{name: "CI run that the compromised signer signed", sigs: []inventory.Signature{seen(sig(thief), 1)}, policy: records(run(build, thief)), want: Hold},
		{name: "CI run of an identity that an incident may select", sigs: []inventory.Signature{seen(sig(thief), 1)},
			policy: Policy{Vouchers: []Voucher{record}, Runs: runs(run(build, release)), Incidents: []Incident{{ID: "W", Class: OIDCIssuer, Selectors: []Selector{{Issuer: "https://other.example"}}}}}, want: Hold},
		{name: "CI run of an identity that no incident selects", sigs: []inventory.Signature{seen(sig(thief), 1), provenance(release)},
			policy: Policy{Vouchers: []Voucher{record}, Runs: runs(run(build, release)), Incidents: []Incident{{ID: "W", Class: OIDCIssuer, Selectors: []Selector{{Issuer: "https://other.example"}}}}}, want: Resign},
		{name: "CI run in a workflow incident", sigs: []inventory.Signature{seen(keyless(release, 11, log1), 1)},
			policy: primary(records(run(build, other)), Incident{ID: "W", Class: CIWorkflow, Selectors: []Selector{{Repository: release.Subject}}, From: ptr(at(10))}), want: Hold},
		{name: "CI run in an issuer incident", sigs: []inventory.Signature{seen(keyless(release, 11, log1), 1)},
			policy: primary(records(run(build, other)), Incident{ID: "W", Class: OIDCIssuer, Selectors: []Selector{{Issuer: issuer}}, From: ptr(at(10))}), want: Hold},
		{name: "CI run when an identity is stolen", sigs: []inventory.Signature{seen(keyless(release, 11, log1), 1)}, policy: primary(records(run(build, other)), identity), want: Hold},
		{name: "CI run of a key beside a signature of a compromised workflow", sigs: []inventory.Signature{seen(sig(thief), 1), keyless(release, 11, log1)},
			policy: Policy{Vouchers: []Voucher{record}, Runs: runs(run(build, other)), Incidents: []Incident{{ID: "W", Class: CIWorkflow, Selectors: []Selector{{Repository: release.Subject}}, From: ptr(at(10))}}}, want: Hold},
		{name: "list in a workflow incident", sigs: []inventory.Signature{seen(keyless(release, 11, log1), 1)},
			policy: primary(with(list), Incident{ID: "W", Class: CIWorkflow, Selectors: []Selector{{Repository: release.Subject}}, From: ptr(at(10))}), want: Resign},

		// Accusations.
		{name: "wholly unexplained", sigs: []inventory.Signature{sig(thief)}, policy: Policy{Unexplained: func(s inventory.Signature) bool { return s.ID == "s" }}, want: Deny},
		{name: "nobody knows what is explained", sigs: []inventory.Signature{sig(thief)}, want: Hold},
		{name: "thief signs a good digest", sigs: []inventory.Signature{sig(thief, upper(1, tsa)), format(sig(thief), inventory.Bundle)},
			policy: Policy{Unexplained: func(s inventory.Signature) bool { return s.ID == "sbundle" }}, want: Resign},
		{name: "thief signs a good digest of another signer", sigs: []inventory.Signature{format(sig(thief), inventory.Bundle), sig(other)},
			policy: Policy{Unexplained: func(s inventory.Signature) bool { return s.Signer == thief }}, want: Hold},
		{name: "thief signs a digest that carries an explained claim", sigs: []inventory.Signature{sig(thief), claim(other, "good")},
			policy: Policy{Unexplained: func(s inventory.Signature) bool { return s.Signer == thief }}, want: Hold},
		{name: "thief signs a good digest whose signature no key of ours verifies", sigs: []inventory.Signature{sig(thief), forged(sig(other))},
			policy: Policy{Unexplained: func(s inventory.Signature) bool { return s.Signer == thief }}, want: Hold},

		// A key that stays, and a log or timestamp authority that is lost.
		{name: "key signature that rests on a lost log", sigs: []inventory.Signature{sig(other, upper(11, log1))}, policy: primary(Policy{}, lostLog), want: Resign},
		{name: "key signature that rests on a lost log, in the thief's repository", sigs: []inventory.Signature{naming(sig(other, upper(11, log1)), "")}, policy: primary(Policy{}, lostLog), want: Hold},
		{name: "an outsider's key signature that rests on a lost log", sigs: []inventory.Signature{sig(build, upper(11, log1))}, policy: primary(Policy{}, lostLog), want: ""},
		{name: "leaked key's signature that rests on a lost log", sigs: []inventory.Signature{sig(other, upper(1, log1))}, policy: primary(lists(leaked("K", 10, other)), lostLog), want: Hold},
		{name: "key signature that was never logged", sigs: []inventory.Signature{sig(other)}, policy: primary(Policy{}, lostLog), want: ""},
		{name: "the same key signs again", sigs: []inventory.Signature{sig(other, upper(11, log1)), sig(other, upper(20, log2))},
			policy: func() Policy { p := primary(Policy{}, lostLog); p.Successor = other; return p }(), want: None},
		{name: "the same key is not covered by itself", sigs: []inventory.Signature{sig(other, upper(11, log1))},
			policy: func() Policy { p := primary(Policy{}, lostLog); p.Successor = other; return p }(), want: Resign},

		// The signer stays, and its window is denied.
		{name: "kept and proven", sigs: []inventory.Signature{keyless(release, 1, log1)}, policy: primary(Policy{Keep: true}, identity), want: None},
		{name: "kept and made in the window", sigs: []inventory.Signature{keyless(release, 11, log1)}, policy: primary(Policy{Keep: true}, identity), want: Hold},
		{name: "kept, made in the window and unexplained", sigs: []inventory.Signature{keyless(release, 11, log1)},
			policy: primary(Policy{Keep: true, Unexplained: func(inventory.Signature) bool { return true }}, identity), want: Deny},
		{name: "kept, made in the window and vouched for", sigs: []inventory.Signature{seen(keyless(release, 11, log1), 1)}, policy: primary(Policy{Keep: true, Vouchers: []Voucher{list}, Listed: listed}, identity), want: None},
		{name: "kept, and covered by nobody", sigs: []inventory.Signature{keyless(release, 11, log1), sig(next)}, policy: primary(Policy{Keep: true}, identity), want: Hold},
		{name: "kept, proven and in the thief's repository", sigs: []inventory.Signature{naming(keyless(release, 1, log1), "")}, policy: primary(Policy{Keep: true}, identity), want: Hold},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := tc.policy
			p.Skew = skew
			if p.Primary == "" {
				p.Incidents, p.Primary = append(p.Incidents, leak), leak.ID
			}
			if p.Successor == (signer.Identity{}) && !p.Keep {
				p.Successor = next
			}
			for _, i := range p.Incidents {
				if err := i.Check(); err != nil {
					t.Fatal(err)
				}
			}
			about := tc.about
			if about == "" {
				about = inventory.SignPredicate
			}
			statements := inventory.Statements(artifact, tc.sigs)
			st := inventory.Statement{Artifact: artifact, Key: about}
			if len(tc.sigs) > 0 {
				st = statements[slices.IndexFunc(statements, func(s inventory.Statement) bool {
					return s.PredicateType() == about && !strings.HasSuffix(s.Key, "#good")
				})]
			}
			out, ok := Decide(st, statements, p)
			if out.Decision != tc.want || ok != (tc.want != "") {
				t.Fatalf("decided %q (%s), want %q", out.Decision, out.Reason, tc.want)
			}
			if ok && out.Reason == "" {
				t.Error("no reason given")
			}
			if (out.Decision == Resign) != (len(out.Formats) > 0) {
				t.Errorf("formats %v for %s", out.Formats, out.Decision)
			}
			explained(t, st, statements, p)
		})
	}
	for _, tc := range pruneAttacks() {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.run(t)
		})
	}
}

// TestOneMoreIncident is about signatures that only several incidents together
// take something from: none of them may be the proof that was missing before.
func TestOneMoreIncident(t *testing.T) {
	t.Parallel()
	lostLog, lostTSA := of(RekorLog, "LOG", 10, log1), of(TSA, "TSA", 10, tsa)
	both := keyless(release, 1, log1, tsa)
	both.ID, both.Bounds = "both", append(both.Bounds, upper(2, journal2))
	late := keyless(release, 11, log1)
	byKey := sig(other, upper(2, log1), upper(2, tsa), upper(2, journal2))
	twice := format(both, inventory.Referrer)
	twice.Bounds = append(slices.Clone(twice.Bounds), upper(11, log2))
	twice.Certificate = &signer.Certificate{NotBefore: at(1), NotAfter: at(20)}
	for _, tc := range []struct {
		name          string
		sigs          []inventory.Signature
		before, after Decision
	}{
		{"what stands is proof as well as what is proven", []inventory.Signature{late, both}, Resign, Resign},
		{"of a key, too", []inventory.Signature{late, byKey}, Resign, Resign},
		{"what stands is where a new signature can be put", []inventory.Signature{format(late, inventory.Referrer), both}, None, Resign},
		{"what stands cannot be written", []inventory.Signature{late, format(both, inventory.Referrer)}, Resign, Resign},
		{"nothing is lost before", []inventory.Signature{both}, "", Resign},
		{"nothing is lost after either", []inventory.Signature{twice}, "", ""},
		{"contradicting itself, it proves nothing", []inventory.Signature{late, func() inventory.Signature {
			s := both
			s.Bounds = append(slices.Clone(s.Bounds), lower(5, allLowers[1]))
			return s
		}()}, Hold, Hold},
	} {
		p := Policy{Primary: "LOG", Incidents: []Incident{lostLog}, Skew: skew, Successor: next, Trusted: func(id signer.Identity) bool { return id == release || id == other }}
		st := inventory.Statements(artifact, tc.sigs)
		if out, _ := Decide(st[0], st, p); out.Decision != tc.before {
			t.Errorf("%s: before %q (%s), want %q", tc.name, out.Decision, out.Reason, tc.before)
		}
		explained(t, st[0], st, p)
		p.Incidents = append(p.Incidents, lostTSA)
		if out, _ := Decide(st[0], st, p); out.Decision != tc.after {
			t.Errorf("%s: after %q (%s), want %q", tc.name, out.Decision, out.Reason, tc.after)
		}
		explained(t, st[0], st, p)
	}
}

// tester is a test or one case of a property.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

// explained holds an explanation against the decision it explains.
func explained(t tester, st inventory.Statement, beside []inventory.Statement, p Policy) {
	t.Helper()
	out, ok := Decide(st, beside, p)
	x, okay := Explain(st, beside, p)
	if ok != okay || x.Decision != out.Decision || ok && x.Reason != out.Reason || !slices.Equal(x.Formats, out.Formats) || !slices.Equal(x.Vouched, out.Vouched) {
		t.Fatalf("explained as %s (%s), decided %s (%s)", x.Decision, x.Reason, out.Decision, out.Reason)
	}
	if x.Reason == "" || len(x.Signatures) != len(st.Signatures) || ok != (len(x.Rules) > 0) {
		t.Fatalf("explained poorly: %+v", x)
	}
	for n, r := range x.Rules {
		if r.Why == "" || r.Rule == "" || r.Matched != (n == len(x.Rules)-1) || r.Matched && r.Why != x.Reason {
			t.Fatalf("rule %d of %d: %+v", n+1, len(x.Rules), r)
		}
	}
	for n, s := range x.Signatures {
		upper, lower := bounds(&st.Signatures[n], p.Incidents)
		for m, b := range s.Bounds {
			if b.Counts == (b.Because != "") {
				t.Fatalf("bound %+v", b)
			}
			if at := &st.Signatures[n].Bounds[m]; (at == upper || at == lower) && !b.Counts {
				t.Fatalf("the bound %+v is used and does not count", b)
			}
		}
		touched := s.Verdict != Unaffected && s.Verdict != Unverifiable
		if (touched || s.Rests || s.Replaced && !p.rotation()) && len(s.Incidents) == 0 || !touched && !s.Rests && len(s.Incidents) > 0 {
			t.Fatalf("%s and rests %v by %v", s.Verdict, s.Rests, s.Incidents)
		}
	}
}
