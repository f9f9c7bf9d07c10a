package rotate

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

var (
	digestA = "sha256:" + strings.Repeat("a", 64)
	digestB = "sha256:" + strings.Repeat("b", 64)
)

func TestDeny(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 27, 3, 0, 0, 5, time.UTC)
	name, statement, err := Deny([]string{digestB, digestA, digestB}, "leaked key", []string{"dave"}, at)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRevocation(statement)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Denied(); !slices.Equal(got, []string{digestA, digestB}) {
		t.Errorf("denies %v", got)
	}
	incidents, denied := Revoked([]Revocation{r})
	if len(incidents) != 0 {
		t.Errorf("it is about signers: %v", incidents)
	}
	if why := denied[digestA]; !strings.HasSuffix(why, ": leaked key") {
		t.Errorf("denied because %q", why)
	}
	again, _, err := Deny([]string{digestA, digestB}, "another reason", nil, at)
	if err != nil || again != name {
		t.Errorf("the same digests have the name %s, %v, before %s", again, err, name)
	}
	other, _, err := Deny([]string{digestA}, "leaked key", nil, at)
	if err != nil || other == name {
		t.Errorf("other digests have the same name %s, %v: one would replace the other", other, err)
	}
	for what, do := range map[string]func() error{
		"nothing":          func() error { _, _, err := Deny(nil, "x", nil, at); return err },
		"no reason":        func() error { _, _, err := Deny([]string{digestA}, " ", nil, at); return err },
		"a tag":            func() error { _, _, err := Deny([]string{"app:v1"}, "x", nil, at); return err },
		"a digest cut off": func() error { _, _, err := Deny([]string{digestA[:70]}, "x", nil, at); return err },
	} {
		if do() == nil {
			t.Errorf("%s: a statement was made", what)
		}
	}
}

func TestParseRevocation(t *testing.T) {
	t.Parallel()
	key := signer.Identity{Kind: signer.Key, Subject: strings.Repeat("c", 64)}
	good := Revocation{Type: statementType, PredicateType: RevocationPredicate, Subject: []RevocationSubject{{map[string]string{"sha256": digestA[7:]}}},
		Predicate: RevocationBody{Incident: trust.Incident{ID: "INC-1", Class: trust.SigningKey, Signers: []signer.Identity{key}}, Reason: "leaked"}}
	parse := func(r Revocation) (Revocation, error) {
		raw, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return ParseRevocation(raw)
	}
	r, err := parse(good)
	if err != nil {
		t.Fatal(err)
	}
	incidents, denied := Revoked([]Revocation{r})
	if len(incidents) != 1 || !incidents[0].Names(key) || !slices.Equal(slices.Collect(maps.Keys(denied)), []string{digestA}) {
		t.Errorf("got %v and %v", incidents, denied)
	}
	for what, change := range map[string]func(*Revocation){
		"another predicate": func(r *Revocation) { r.PredicateType = "https://reseal.dev/revocation/v2" },
		"another type":      func(r *Revocation) { r.Type = "" },
		"no sha256":         func(r *Revocation) { r.Subject = []RevocationSubject{{map[string]string{"sha512": "00"}}} },
		"a digest of none":  func(r *Revocation) { r.Subject = []RevocationSubject{{map[string]string{"sha256": "x"}}} },
		"unknown class":     func(r *Revocation) { r.Predicate.Class = "everything" },
		"no class":          func(r *Revocation) { r.Predicate.Class = "" },
		"no signer":         func(r *Revocation) { r.Predicate.Signers = nil },
	} {
		bad := good
		change(&bad)
		if _, err := parse(bad); err == nil {
			t.Errorf("%s: it is taken, and what it denies may not be known", what)
		}
	}
	if _, err := ParseRevocation([]byte("denied")); err == nil {
		t.Error("text is taken")
	}
}
