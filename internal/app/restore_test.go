package app

import (
	"testing"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

// TestAttack is about what may not be put back although no signer of it is
// tainted.
func TestAttack(t *testing.T) {
	from := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	ca, log := inventory.Authority{Role: inventory.RoleCA, ID: "ca"}, inventory.Authority{Role: inventory.RoleLog, ID: "log"}
	denied := suspect([]trust.Incident{
		{ID: "CA", Class: trust.FulcioCA, Authorities: []inventory.Authority{ca}, From: &from},
		{ID: "ISSUER", Class: trust.OIDCIssuer, Selectors: []trust.Selector{{Issuer: "https://stolen.example"}}, From: &from},
	})
	by := func(issuer string, requires inventory.Authority, at time.Time) inventory.Signature {
		return inventory.Signature{Verified: true, Signer: signer.Identity{Kind: signer.Keyless, Issuer: issuer, Subject: "ci"},
			Requires: []inventory.Authority{requires}, Bounds: []inventory.Bound{{Side: inventory.Upper, Time: at, Authority: log, Verified: true}}}
	}
	other := inventory.Authority{Role: inventory.RoleCA, ID: "other"}
	for name, tc := range map[string]struct {
		sig  inventory.Signature
		want bool
	}{
		"a certificate of the stolen CA":             {by("https://good.example", ca, from.Add(time.Hour)), true},
		"one that is proven older":                   {by("https://good.example", ca, from.Add(-time.Hour)), false},
		"an identity of the stolen issuer, enrolled": {by("https://stolen.example", other, from.Add(time.Hour)), true},
		"of no concern":                              {by("https://good.example", other, from.Add(time.Hour)), false},
	} {
		t.Run("restored: "+name, func(t *testing.T) {
			if why := denied(tc.sig); (why != "") != tc.want {
				t.Errorf("left out because %q, want it left out: %v", why, tc.want)
			}
		})
	}
}
