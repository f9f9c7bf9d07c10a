package trust

import (
	"testing"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// TestWindow is about a signer that was good, bad for minutes, and good again:
// every verdict of the table, for every class whose incidents end.
func TestWindow(t *testing.T) {
	t.Parallel()
	from, until := at(10), at(10).Add(20*time.Minute)
	minute := func(side inventory.Side, n int, a inventory.Authority) inventory.Bound {
		return inventory.Bound{Side: side, Time: from.Add(time.Duration(n) * time.Minute), Authority: a, Verified: true}
	}
	up := func(n int) inventory.Bound { return minute(inventory.Upper, n, log1) }
	down := func(n int) inventory.Bound { return minute(inventory.Lower, n, ca) }
	whole := func(i Incident) Incident { i.From, i.Until = &from, &until; return i }
	lostCA, lostCT := of(FulcioCA, "CA", 20, ca), of(CTLog, "CT", 20, ct) // long after, so that it takes the lower bound alone
	for _, about := range []Incident{
		{ID: "I", Class: KMSKey, Signers: []signer.Identity{thief}},
		{ID: "I", Class: KeylessIdentity, Signers: []signer.Identity{release}},
		{ID: "I", Class: CIWorkflow, Selectors: []Selector{{Workflow: release.Subject + "/.ci/build.yml"}}},
		{ID: "I", Class: OIDCIssuer, Selectors: []Selector{{Issuer: issuer}}},
	} {
		for _, tc := range []struct {
			name   string
			bounds []inventory.Bound
			also   []Incident
			open   bool // the incident has no end yet
			want   Verdict
		}{
			{"good", []inventory.Bound{down(-30), up(-29)}, nil, false, ProvenBefore},
			{"good, by a hair", []inventory.Bound{up(-6)}, nil, false, ProvenBefore},
			{"within the skew before it", []inventory.Bound{down(-6), up(-5)}, nil, false, Unproven},
			{"made at its start", []inventory.Bound{down(0), up(1)}, nil, false, Inside},
			{"bad", []inventory.Bound{down(5), up(6)}, nil, false, Inside},
			{"bad, and no end yet", []inventory.Bound{down(5)}, nil, true, Inside},
			{"may be bad", []inventory.Bound{up(6)}, nil, false, Unproven},
			{"made in it, shown after it", []inventory.Bound{down(5), up(40)}, nil, false, Unproven},
			{"within the skew after it", []inventory.Bound{down(24), up(25)}, nil, false, Unproven},
			{"good again", []inventory.Bound{down(25), up(26)}, nil, false, ProvenAfter},
			{"good again, and nothing shows when", []inventory.Bound{up(26)}, nil, false, Unproven},
			{"would be good again, had it ended", []inventory.Bound{down(25), up(26)}, nil, true, Inside},
			{"stamped again later", []inventory.Bound{down(-30), up(-29), up(60)}, nil, false, ProvenBefore},
			{"stamped later only", []inventory.Bound{up(60)}, nil, false, Unproven},
			{"nothing known", nil, nil, false, Unproven},
			{"good again by the word of a lost CA", []inventory.Bound{down(25), up(26)}, []Incident{lostCA}, false, Unproven},
			{"good again by the word of a lost CT log", []inventory.Bound{down(25), up(26)}, []Incident{lostCT}, false, Unproven},
		} {
			s := keyless(release, 10)
			if about.Class == KMSKey {
				s = sig(thief)
				s.Requires = []inventory.Authority{ca, ct} // a key in a certificate, so that it has a lower bound
			}
			s.Bounds = tc.bounds
			i := whole(about)
			if tc.open {
				i.Until = nil
			}
			if err := i.Check(); err != nil {
				t.Fatal(err)
			}
			if got := Judge(s, append([]Incident{i}, tc.also...), skew); got.Verdict != tc.want || got.Contradiction {
				t.Errorf("%s, %s: %s (%s), want %s", about.Class, tc.name, got.Verdict, got.Reason, tc.want)
			}
		}
	}
}
