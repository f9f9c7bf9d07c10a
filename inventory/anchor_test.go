package inventory

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/reseal/reseal/signer"
)

func TestPinMatches(t *testing.T) {
	t.Parallel()
	const (
		issuer   = "https://token.actions.githubusercontent.com"
		workflow = "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main"
	)
	fingerprint := strings.Repeat("ab", 32)
	key := signer.Identity{Kind: signer.Key, Subject: fingerprint}
	ci := signer.Identity{Kind: signer.Keyless, Issuer: issuer, Subject: workflow}
	alice := signer.Identity{Kind: signer.Keyless, Issuer: "https://accounts.example.com", Subject: "alice@example.com"}
	plain := signer.Identity{Kind: signer.Keyless, Subject: fingerprint} // a certificate without an issuer
	unknown := signer.Identity{Kind: signer.Unknown}
	all := []signer.Identity{key, ci, alice, plain, unknown, {}}
	for name, tc := range map[string]struct {
		pin  Pin
		want []signer.Identity
	}{
		"nothing":                   {Pin{}, nil},
		"key":                       {Pin{Key: fingerprint}, []signer.Identity{key}},
		"another key":               {Pin{Key: strings.Repeat("cd", 32)}, nil},
		"part of a key":             {Pin{Key: fingerprint[:10]}, nil},
		"identity":                  {Pin{Issuer: issuer, Subject: workflow}, []signer.Identity{ci}},
		"another issuer":            {Pin{Issuer: "https://accounts.example.com", Subject: workflow}, nil},
		"any subject of an issuer":  {Pin{Issuer: issuer}, []signer.Identity{ci}},
		"subject of any issuer":     {Pin{Subject: "alice@example.com"}, []signer.Identity{alice}},
		"exact is not a prefix":     {Pin{Issuer: issuer, Subject: "https://github.com/acme/app"}, nil},
		"exact is no expression":    {Pin{Issuer: issuer, Subject: ".*"}, nil},
		"expression anywhere":       {Pin{IssuerRegexp: "actions", SubjectRegexp: "acme/app"}, []signer.Identity{ci}},
		"expression, anchored":      {Pin{Issuer: issuer, SubjectRegexp: `^https://github\.com/acme/app$`}, nil},
		"expression, anchored, all": {Pin{Issuer: issuer, SubjectRegexp: `^https://github\.com/acme/.+$`}, []signer.Identity{ci}},
		"both must hold":            {Pin{Issuer: issuer, IssuerRegexp: "example", SubjectRegexp: "."}, nil},
		"any":                       {Pin{IssuerRegexp: ".*", SubjectRegexp: ".*"}, []signer.Identity{ci, alice, plain}},
		"broken expression":         {Pin{Issuer: issuer, SubjectRegexp: "("}, nil},
		"a fingerprint as subject":  {Pin{Subject: fingerprint}, []signer.Identity{plain}},
		"authority":                 {Pin{Authority: Authority{Role: RoleCA, ID: fingerprint}}, nil},
		"role of an authority":      {Pin{Authority: Authority{Role: RoleLog}}, nil},
		"reference":                 {Pin{Reference: "awskms:///alias/release"}, nil},
		"reference beside issuer":   {Pin{Issuer: issuer, Reference: "cel:variables.subject"}, nil},
	} {
		for _, id := range all {
			want := false
			for _, w := range tc.want {
				want = want || w == id
			}
			if got := tc.pin.Matches(id); got != want {
				t.Errorf("%s: %v for %v", name, got, id)
			}
		}
	}
}

// TestAnchorJSON holds the names that are stored and printed.
func TestAnchorJSON(t *testing.T) {
	t.Parallel()
	got, err := json.Marshal(Anchor{ID: "1", Kind: "policy.json", File: "/etc/containers/policy.json", Name: "docker:r.example", Scope: []string{"r.example"},
		Formats: []Format{Legacy}, Notes: []string{"n"}, Pins: []Pin{{Key: "k"}, {Issuer: "i", IssuerRegexp: "ir", Subject: "s", SubjectRegexp: "sr"},
			{Authority: Authority{Role: RoleCT, ID: "c"}}, {Reference: "r"}}})
	const want = `{"id":"1","kind":"policy.json","file":"/etc/containers/policy.json","name":"docker:r.example","scope":["r.example"],"formats":["legacy"],` +
		`"pins":[{"key":"k"},{"issuer":"i","issuer_regexp":"ir","subject":"s","subject_regexp":"sr"},{"authority":{"role":"ct","id":"c"}},{"reference":"r"}],"notes":["n"]}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
}
