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

// called gives a signature an ID that a table can speak of.
func called(id string, s inventory.Signature) inventory.Signature {
	s.ID = id
	return s
}

// TestSeen says what each kind of verifier takes for image signatures once
// some of what stands on an artifact is gone.
func TestSeen(t *testing.T) {
	t.Parallel()
	on := []inventory.Signature{
		called("sig", sig(next)), called("sig by another", sig(other)), called("att", format(claim(next, "sha256:sbom"), inventory.LegacyAtt)),
		called("bundle", format(sig(next), inventory.Bundle)), called("sbom bundle", format(claim(next, "sha256:sbom"), inventory.Bundle)),
		called("garbage bundle", forged(format(sig(thief), inventory.Bundle))), called("experimental", format(sig(next), inventory.Referrer)),
		called("elsewhere", located(sig(next))),
	}
	for _, tc := range []struct {
		left                 string // of the above, separated by semicolons
		sig, bundles, either string
	}{
		{"", "", "", ""},
		{"sig", "sig", "", "sig"},
		{"att", "", "", ""},
		{"experimental;elsewhere", "", "", ""},
		{"sig;att", "sig", "", "sig"},
		{"bundle", "", "bundle", "bundle"},
		{"sig;bundle", "sig", "bundle", "bundle"},
		{"sig;bundle;sbom bundle", "sig", "bundle;sbom bundle", "bundle;sbom bundle"},
		// The bundle that signs the image is gone, and its SBOM remains: cosign looks past the ".sig".
		{"sig;sbom bundle", "sig", "sbom bundle", "sbom bundle"},
		{"sig;sig by another;garbage bundle", "sig;sig by another", "garbage bundle", "garbage bundle"},
		{"sig;elsewhere;experimental;att", "sig", "", "sig"},
	} {
		left := slices.DeleteFunc(slices.Clone(on), func(s inventory.Signature) bool {
			return !slices.Contains(strings.Split(tc.left, ";"), s.ID)
		})
		for sight, want := range map[Sight]string{SeesSig: tc.sig, SeesBundles: tc.bundles, SeesEither: tc.either} {
			var got []string
			for _, s := range sight.Seen(left) {
				got = append(got, s.ID)
			}
			if strings.Join(got, ";") != want {
				t.Errorf("of %q %s sees %q, want %q", tc.left, sight, strings.Join(got, ";"), want)
			}
		}
	}
}

// pruneCase is one artifact with what stands on it.
type pruneCase struct {
	name     string
	on       []inventory.Signature
	ever     []inventory.Signature
	deployed bool
	reads    []inventory.Format // of the consumers; none: none is known
	anchor   signer.Identity    // whom they trust; default: next
	refuses  string             // ID of a signature that their verifier refuses all the same
	recalled []string
	fixed    string              // ID of one that is left alone whatever happens
	decided  map[string]Decision // of the image and of claims by their type, where it is not what Decide says
	dark     bool
	all      bool
	policy   func(*Policy)
	want     string // IDs taken away, separated by spaces
	keeps    string // what the reason says of every one kept
}

func (tc pruneCase) run(t *testing.T) {
	t.Helper()
	p := Policy{Incidents: []Incident{leaked("I", 10, thief)}, Primary: "I", Successor: next, Skew: skew}
	p.Trusted = func(id signer.Identity) bool { return id == thief }
	if tc.policy != nil {
		tc.policy(&p)
	}
	a := artifact
	a.Deployed = tc.deployed
	q := Removal{Artifact: a, Standing: tc.on, Ever: append(slices.Clone(tc.on), tc.ever...), Decided: map[string]Outcome{}, Recalled: map[string]string{},
		All: tc.all, AcceptDark: tc.dark}
	statements := inventory.Statements(a, tc.on)
	for _, st := range statements {
		out, ok := Decide(st, statements, p)
		if d, given := tc.decided[st.PredicateType()]; given {
			out.Decision, ok = d, true
		}
		if ok {
			q.Decided[st.Key] = out
		}
	}
	if tc.fixed != "" {
		q.Fixed = map[string]string{tc.fixed: "it is left alone"}
	}
	for _, id := range tc.recalled {
		q.Recalled[id] = "re-signed under a plan that would not do so now"
	}
	anchor := tc.anchor
	if anchor == (signer.Identity{}) {
		anchor = next
	}
	reader := Reader{Trusts: func(s inventory.Signature) bool { return s.Signer == anchor }, Ours: anchor == next || anchor == thief,
		Accepts: func(s inventory.Signature) error {
			if s.ID == tc.refuses {
				return errors.New("refused")
			}
			return nil
		}}
	for n, f := range tc.reads {
		r := reader
		r.Name, r.Reads = fmt.Sprintf("consumer %d", n+1), f
		q.Readers = append(q.Readers, r)
	}
	q.Otherwise = reader
	q.Otherwise.Name = "whoever runs it"
	var gone []string
	for _, x := range p.Remove(q) {
		if x.Kept == "" {
			gone = append(gone, x.ID)
			continue
		}
		if tc.keeps == "" || !strings.Contains(x.Kept, tc.keeps) {
			t.Errorf("%s is kept because %q, want a reason that says %q", x.ID, x.Kept, tc.keeps)
		}
	}
	if got := strings.Join(gone, " "); got != tc.want {
		t.Errorf("taken away: %q, want %q", got, tc.want)
	}
}

var (
	legacyReader = []inventory.Format{inventory.Legacy}
	bundleReader = []inventory.Format{inventory.Bundle}

	goodOld   = called("good", sig(thief, upper(1, tsa)))
	rogueOld  = called("rogue", sig(thief))
	goodNew   = called("new", sig(next))
	goodOldB  = called("goodb", format(sig(thief, upper(1, tsa)), inventory.Bundle))
	rogueOldB = called("rogueb", format(sig(thief), inventory.Bundle))
	goodNewB  = called("newb", format(sig(next), inventory.Bundle))
	rogueVEX  = called("vex", format(claim(thief, "sha256:v"), inventory.LegacyAtt))
	rogueVEXB = called("vexb", format(claim(thief, "sha256:v"), inventory.Bundle))
	buildB    = called("provenance", format(provenance(build), inventory.Bundle))
)

func TestRemove(t *testing.T) {
	t.Parallel()
	on := func(sigs ...inventory.Signature) []inventory.Signature { return sigs }
	for _, tc := range []pruneCase{
		{name: "rogue beside a good one, nobody runs it", on: on(goodOld, rogueOld), want: "rogue"},
		{name: "rogue claims too", on: on(goodOld, rogueOld, rogueVEX, rogueVEXB), want: "rogue vex vexb"},
		{name: "proven good stays", on: on(goodOld, goodNew)},
		{name: "of a signer of no concern", on: on(goodOld, called("x", sig(other)), buildB)},
		{name: "what does not verify is nobody's", on: on(goodOld, forged(rogueOld))},
		{name: "on hold", on: on(rogueOld), keeps: "on hold"},
		{name: "on hold, its claims are not", on: on(rogueOld, rogueVEX), want: "vex", keeps: "on hold"},
		{name: "on hold and all asked for", on: on(rogueOld), all: true, want: "rogue"},
		{name: "on hold and deployed, all asked for", on: on(rogueOld), all: true, deployed: true, reads: legacyReader, keeps: "on hold"},
		{name: "on hold and deployed, accepted as dark", on: on(rogueOld), dark: true, deployed: true, reads: legacyReader, want: "rogue"},
		{name: "accepted as dark, and good", on: on(goodOld, rogueOld), dark: true, deployed: true, reads: legacyReader, keeps: "no valid image signature"},
		{name: "denied: for contain", on: on(rogueOld, rogueVEX), decided: map[string]Decision{inventory.SignPredicate: Deny}, keeps: "reseal contain"},
		{name: "marked rogue: for contain", on: on(rogueOld), policy: func(p *Policy) { p.Rogue = map[string]string{"sha256:d": "seen"} }, keeps: "reseal contain"},
		{name: "a file", on: on(goodOld, called("file", format(rogueOld, inventory.Detached))), keeps: "no registry"},
		{name: "vouched for and not re-signed yet", on: on(seen(rogueOld, 1), buildB),
			policy: func(p *Policy) { p.Vouchers = []Voucher{{Signer: build, PredicateType: provenanceType}} }, keeps: "yet to be re-signed"},
		{name: "vouched for and re-signed", on: on(seen(rogueOld, 1), buildB, goodNew),
			policy: func(p *Policy) { p.Vouchers = []Voucher{{Signer: build, PredicateType: provenanceType}} }, want: "rogue"},
		{name: "all, and not re-signed yet", on: on(goodOld), all: true, keeps: "yet to be re-signed"},
		{name: "all, re-signed", on: on(goodOld, rogueOld, goodNew), all: true, want: "good rogue"},
		{name: "all, summarised provenance stays", on: on(goodOld, goodNew, called("p", format(provenance(thief, upper(1, tsa)), inventory.LegacyAtt))), all: true,
			decided: map[string]Decision{provenanceType: None}, want: "good", keeps: "a summary of it names it"},
		{name: "all, rogue provenance does not", on: on(goodOld, goodNew, called("p", format(provenance(thief), inventory.LegacyAtt))), all: true, want: "good p"},
		{name: "the window of a signer that stays", on: on(called("in", keyless(release, 11, log1)), called("before", keyless(release, 1, log1))), deployed: true,
			policy: func(p *Policy) {
				p.Incidents = []Incident{{ID: "I", Class: KeylessIdentity, Signers: []signer.Identity{release}, From: ptr(at(10)), Until: ptr(at(12))}}
				p.Trusted, p.Keep = nil, true
			}, anchor: release, want: "in"},

		// Deployed: what the consumers need.
		{name: "before the cut-over, a good old one is left", on: on(goodOld, rogueOld), deployed: true, reads: legacyReader, anchor: thief, want: "rogue"},
		{name: "before the cut-over, nothing good is left", on: on(rogueOld, goodNew), deployed: true, reads: legacyReader, anchor: thief, keeps: "no valid image signature"},
		{name: "after it, re-signed", on: on(goodOld, rogueOld, goodNew), deployed: true, reads: legacyReader, want: "rogue"},
		{name: "after it, not re-signed", on: on(goodOld, rogueOld), deployed: true, reads: legacyReader, keeps: "no valid image signature"},
		{name: "re-signed in the other format only", on: on(goodOld, rogueOld, goodNewB), deployed: true, reads: legacyReader, keeps: "no valid image signature"},
		{name: "two consumers, both covered", on: on(goodOld, rogueOld, goodNew, goodOldB, rogueOldB, goodNewB), deployed: true,
			reads: []inventory.Format{inventory.Legacy, inventory.Bundle}, want: "rogue rogueb"},
		{name: "two consumers, one covered", on: on(goodOld, rogueOld, goodNew, goodOldB, rogueOldB), deployed: true,
			reads: []inventory.Format{inventory.Legacy, inventory.Bundle}, want: "rogue", keeps: "no valid image signature"},
		{name: "no consumer is known", on: on(goodOld, rogueOld), deployed: true, keeps: "whoever runs it"},
		{name: "no consumer is known, re-signed", on: on(goodOld, rogueOld, goodNew), deployed: true, want: "rogue"},
		{name: "a consumer of another signer, which signed it", on: on(called("x", sig(other)), goodOld, rogueOld), deployed: true, reads: legacyReader, anchor: other, want: "rogue"},
		{name: "a rogue claim where no verifier takes it for a signature", on: on(goodOld, rogueOld, rogueVEX), deployed: true, reads: legacyReader, want: "vex", keeps: "no valid image signature"},
		{name: "in another repository it is nobody's last", on: on(goodOld, rogueOld, located(rogueOldB)), deployed: true, reads: legacyReader, want: "rogueb" + "elsewhere", keeps: "no valid image signature"},

		// Recalls.
		{name: "recalled", on: on(goodNew), recalled: []string{"new"}, want: "new"},
		{name: "recalled, on hold, deployed", on: on(rogueOld, goodNew), decided: map[string]Decision{inventory.SignPredicate: Hold}, recalled: []string{"new"},
			deployed: true, reads: legacyReader, keeps: "hold"},
		{name: "recalled, deployed, accepted as dark", on: on(rogueOld, goodNew), decided: map[string]Decision{inventory.SignPredicate: Hold}, recalled: []string{"new"},
			deployed: true, reads: legacyReader, dark: true, want: "rogue new"},
		{name: "recalled, deployed, denied", on: on(goodNew), decided: map[string]Decision{inventory.SignPredicate: Deny}, recalled: []string{"new"},
			deployed: true, reads: legacyReader, want: "new"},
		{name: "recalled, deployed, signed once more by the same and rightly", on: on(goodNew, called("rightly", sig(next))), decided: map[string]Decision{inventory.SignPredicate: Hold},
			recalled: []string{"new"}, deployed: true, reads: legacyReader, want: "new"},
		{name: "a recalled one is nobody's cover", on: on(goodOld, rogueOld, goodNew), decided: map[string]Decision{inventory.SignPredicate: Hold}, recalled: []string{"new"},
			deployed: true, reads: legacyReader, keeps: "hold"},

		// What remains must be readable.
		{name: "a rogue bundle hid the .sig", on: on(goodOld, goodNew, rogueVEXB), deployed: true, reads: legacyReader, want: "vexb"},
		{name: "its bundle goes, and another's attestation would hide the .sig", on: on(goodOld, goodNew, called("newb", format(sig(next), inventory.Bundle)), buildB),
			recalled: []string{"newb"}, deployed: true, reads: legacyReader, keeps: "look past its \".sig\""},
		{name: "its bundle goes, and nothing hides the .sig", on: on(goodOld, goodNew, goodNewB), recalled: []string{"newb"}, deployed: true, reads: legacyReader, want: "newb"},
		{name: "the .sig was hidden all along", on: on(goodOld, rogueOld, goodNew, buildB), deployed: true, reads: legacyReader, want: "rogue"},
		{name: "a claim is no image signature for one that reads bundles", on: on(goodOldB, rogueOldB, called("sbom", format(claim(next, "sha256:s"), inventory.Bundle))),
			deployed: true, reads: bundleReader, keeps: "no valid image signature"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.run(t)
		})
	}
}

// pruneAttacks are what a thief does to have the last valid signature of
// something deployed taken away.
func pruneAttacks() []pruneCase {
	on := func(sigs ...inventory.Signature) []inventory.Signature { return sigs }
	both := []inventory.Format{inventory.Legacy, inventory.Bundle}
	garbage := called("garbage", forged(format(sig(outside), inventory.Bundle)))
	foreign := called("foreign", format(sig(outside), inventory.Bundle))
	hold := map[string]Decision{inventory.SignPredicate: Hold}
	cover := called("cover", sig(next))
	return []pruneCase{
		{name: "a bad signature by the same signer as cover for the last one", on: on(goodOld, forged(cover), goodNew), recalled: []string{"new"}, decided: hold, deployed: true, reads: legacyReader, keeps: "no valid image signature"},
		{name: "a signature as cover that the consumer's verifier refuses", on: on(goodOld, cover, goodNew), refuses: "cover", recalled: []string{"new"}, decided: hold, deployed: true, reads: legacyReader, keeps: "no valid image signature"},
		{name: "a cover in another repository", on: on(goodOld, located(cover), goodNew), recalled: []string{"new"}, decided: hold, deployed: true, reads: legacyReader, keeps: "no valid image signature"},
		{name: "a cover that is gone", on: on(goodOld, func() inventory.Signature { c := cover; c.Gone = true; return c }(), goodNew), recalled: []string{"new"}, decided: hold, deployed: true, reads: legacyReader, keeps: "no valid image signature"},
		{name: "a cover by the thief's own signer", on: on(goodOld, rogueOld, called("cover", sig(outside))), deployed: true, reads: legacyReader, keeps: "no valid image signature"},
		{name: "a cover by the stolen signer itself", on: on(rogueOld, called("rogue2", sig(thief)), goodNew), deployed: true, reads: legacyReader, anchor: thief, keeps: "no valid image signature"},
		{name: "a cover that another plan has to recall", on: on(goodOld, goodNew, cover), recalled: []string{"new", "cover"}, decided: hold, deployed: true, reads: legacyReader, keeps: "no valid image signature"},
		{name: "garbage among the bundles so that the .sig seems hidden already", on: on(goodOld, garbage, goodNew), recalled: []string{"new"}, decided: hold, deployed: true, reads: both, keeps: "accept"},
		{name: "a true bundle by a stranger so that the .sig seems hidden already", on: on(goodOld, foreign, goodNew), recalled: []string{"new"}, decided: hold, deployed: true, reads: both, keeps: "accept"},
		{name: "garbage, and a consumer that is known to read bundles only", on: on(goodOld, garbage, goodNew), recalled: []string{"new"}, decided: hold, deployed: true, reads: bundleReader, keeps: "would accept it no more"},
		{name: "a cover that ought to be recalled and cannot be", on: on(goodOld, rogueOld, goodNew), recalled: []string{"new"}, fixed: "new", deployed: true, reads: legacyReader, keeps: "l"},
		{name: "a cover by the stolen signer that no scan has seen yet", on: on(rogueOld, called("rogue2", sig(thief)), goodNew), fixed: "rogue2", deployed: true, reads: legacyReader, anchor: thief, keeps: "l"},
		{name: "a claim as cover", on: on(goodOldB, goodNewB, called("sbom", format(claim(next, "sha256:s"), inventory.Bundle))), recalled: []string{"newb"}, decided: hold, deployed: true, reads: bundleReader, keeps: "no valid image signature"},
		{name: "a copy in the other format as cover", on: on(goodOld, goodNew, called("cover", format(sig(next), inventory.Bundle))), recalled: []string{"new"}, decided: hold, deployed: true, reads: both, keeps: "no valid image signature"},
		{name: "it was never signed as the consumer reads, until the thief did", on: on(rogueOldB), ever: on(goodNew), decided: hold, deployed: true, reads: bundleReader, all: true, keeps: "on hold"},
		{name: "claims to be one that was recalled", on: on(called("new", sig(outside)), goodNewB, goodOldB), recalled: []string{"another"}, deployed: true, reads: bundleReader},
	}
}
