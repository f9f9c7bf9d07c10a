package inventory

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/signer"
)

func TestCheckDigest(t *testing.T) {
	t.Parallel()
	hex := strings.Repeat("0a", 32)
	for _, good := range []string{"sha256:" + hex, Digest(nil), Digest([]byte("x"))} {
		if err := CheckDigest(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "sha256:", hex, "sha256:" + hex[1:], "sha256:" + hex + "0", "sha256:" + strings.ToUpper(hex), "sha512:" + hex,
		"sha256:" + hex[1:] + "g", " sha256:" + hex, "sha256:" + hex + "\n", "sha256:" + hex[1:] + "\x00", "sha256-" + hex, "sha256:" + strings.Repeat("ä", 32)} {
		if CheckDigest(bad) == nil {
			t.Errorf("%q is no digest", bad)
		}
	}
}

func TestDigest(t *testing.T) {
	t.Parallel()
	if got, want := Digest([]byte("abc")), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestSignatureID gives every field a value of its neighbour: no two are one
// signature.
func TestSignatureID(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	by := signer.Identity{Kind: signer.Key, Subject: "k"}
	other := SignatureID("r", "d", "legacy", signer.Identity{Kind: signer.Keyless, Subject: "k"}, "p", []byte("s"))
	seen[other] = "another signer's"
	for _, f := range [][5]string{
		{"r", "d", "legacy", "p", "s"}, {"r2", "d", "legacy", "p", "s"}, {"r", "d2", "legacy", "p", "s"}, {"r", "d", "bundle", "p", "s"},
		{"r", "d", "legacy", "p2", "s"}, {"r", "d", "legacy", "p", "s2"}, {"rd", "", "legacy", "p", "s"}, {"", "rd", "legacy", "p", "s"},
		{"r", "d", "legacy", "ps", ""}, {"r", "d", "legacy", "", "ps"}, {"r", "d", "legacyp", "", "s"}, {"r1:d", "", "legacy", "p", "s"}, {"", "", "", "", ""},
	} {
		id := SignatureID(f[0], f[1], Format(f[2]), by, f[3], []byte(f[4]))
		if other, ok := seen[id]; ok || len(id) != 64 {
			t.Errorf("%q has the ID %s of %s", f, id, other)
		}
		seen[id] = fmt.Sprint(f)
		if again := SignatureID(f[0], f[1], Format(f[2]), by, f[3], []byte(f[4])); again != id {
			t.Errorf("%q has two IDs", f)
		}
	}
}

func TestStatements(t *testing.T) {
	t.Parallel()
	const spdx, vex = "https://spdx.dev/Document", "https://openvex.dev/ns/v0.2.0"
	sig := func(id, predicate, payload string, f Format) Signature {
		return Signature{ID: id, PredicateType: predicate, PayloadDigest: payload, Format: f, FirstSeen: time.Unix(0, 0)}
	}
	a := Artifact{Repository: "r.example/a", Digest: "sha256:d"}
	got := Statements(a, []Signature{
		sig("1", spdx, "p", LegacyAtt), sig("2", SignPredicate, "q", Legacy), sig("3", spdx, "p2", Bundle),
		sig("4", SignPredicate, "q2", Bundle), sig("5", spdx, "p", Bundle), sig("6", vex, "p", LegacyAtt),
	})
	var lines []string
	for _, st := range got {
		line := st.PredicateType() + ":"
		for _, s := range st.Signatures {
			line += " " + s.ID
		}
		lines = append(lines, line)
		if st.Artifact.Ref() != "r.example/a@sha256:d" {
			t.Errorf("about %s", st.Artifact.Ref())
		}
	}
	want := []string{spdx + ": 1 5", SignPredicate + ": 2 4", spdx + ": 3", vex + ": 6"}
	if strings.Join(lines, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	if got := Statements(a, nil); len(got) != 0 {
		t.Errorf("no signatures state %v", got)
	}
}

func TestIsProvenance(t *testing.T) {
	t.Parallel()
	for predicate, want := range map[string]bool{"https://slsa.dev/provenance/v1": true, "https://slsa.dev/provenance/v0.2": true,
		"https://slsa.dev/verification_summary/v1": false, "https://slsa.dev/provenance": false, SignPredicate: false, "": false} {
		if IsProvenance(predicate) != want {
			t.Errorf("%q: got %v", predicate, !want)
		}
	}
}
