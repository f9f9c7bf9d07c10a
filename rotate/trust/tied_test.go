package trust

import (
	"testing"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

func TestTied(t *testing.T) {
	t.Parallel()
	authority := func(r inventory.Role, id string) inventory.Authority { return inventory.Authority{Role: r, ID: id} }
	tsa, other, log, ca, ct := authority(inventory.RoleTSA, "tsa"), authority(inventory.RoleTSA, "other"), authority(inventory.RoleLog, "log"),
		authority(inventory.RoleCA, "ca"), authority(inventory.RoleCT, "ct")
	proof := func(a inventory.Authority) inventory.Bound {
		return inventory.Bound{Side: inventory.Upper, Authority: a, Verified: true}
	}
	key := inventory.Signature{Verified: true, Signer: signer.Identity{Kind: signer.Key, Subject: "k"}, Bounds: []inventory.Bound{proof(tsa), proof(log)}}
	keyless := inventory.Signature{Verified: true, Signer: signer.Identity{Kind: signer.Keyless, Subject: "ci@x", Issuer: "https://i"},
		Certificate: new(signer.Certificate), Requires: []inventory.Authority{ca, ct}, Bounds: []inventory.Bound{proof(tsa)}}
	unread := inventory.Signature{Verified: true, Signer: key.Signer, Bounds: []inventory.Bound{{Side: inventory.Upper, Authority: tsa}}}
	about := func(a ...inventory.Authority) Incident { return Incident{ID: "I", Authorities: a} }
	for name, tc := range map[string]struct {
		signature inventory.Signature
		incidents []Incident
		tied      bool
		by        inventory.Authority
		lost      bool
	}{
		"no incident":                  {signature: key},
		"another authority":            {signature: key, incidents: []Incident{about(other, ca)}},
		"one of two that prove a time": {key, []Incident{about(tsa)}, true, tsa, false},
		"both that prove a time":       {key, []Incident{about(other), about(log), about(tsa)}, true, log, true},
		"a token nobody could verify":  {unread, []Incident{about(tsa)}, true, tsa, false},
		"the key":                      {key, []Incident{{ID: "I", Signers: []signer.Identity{key.Signer}}}, true, inventory.Authority{}, true},
		"the CA":                       {keyless, []Incident{about(ca)}, true, ca, true},
		"the CT log":                   {keyless, []Incident{about(ct)}, true, ct, true},
		"the issuer":                   {keyless, []Incident{{ID: "I", Selectors: []Selector{{Issuer: "https://i"}}}}, true, inventory.Authority{}, true},
		"another issuer":               {signature: keyless, incidents: []Incident{{ID: "I", Selectors: []Selector{{Issuer: "https://j"}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			i, by := Tied(tc.signature, tc.incidents)
			if (i != nil) != tc.tied || by != tc.by {
				t.Errorf("tied to %+v by %+v, want %v by %+v", i, by, tc.tied, tc.by)
			}
			lost := Lost(tc.signature, tc.incidents)
			if lost != tc.lost {
				t.Errorf("lost %v, want %v", lost, tc.lost)
			}
			// What the verdicts take for lost is.
			if j := Judge(tc.signature, tc.incidents, 0); (j.Verdict != Unaffected || j.Rests) != lost {
				t.Errorf("lost %v, and the verdict is %+v", lost, j)
			}
		})
	}
}
