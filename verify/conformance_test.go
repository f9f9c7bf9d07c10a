package verify

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// TestConformance runs the bundle cases of sigstore/sigstore-conformance: a
// folder whose name ends in _fail must be refused, any other accepted.
func TestConformance(t *testing.T) {
	data := os.Getenv("RESEAL_TESTDATA")
	if data == "" {
		data = filepath.Join("..", "..", "shared", "data")
	}
	dir := filepath.Join(data, "sigstore-conformance", "bundle-verify")
	cases, err := os.ReadDir(dir)
	if err != nil {
		t.Skipf("no conformance data in %s: set RESEAL_TESTDATA to where it is", data)
	}
	read := func(t *testing.T, path, instead string) []byte {
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) && instead != "" {
			b, err = os.ReadFile(instead)
		}
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	agree, total := 0, 0
	for _, c := range cases {
		if !c.IsDir() {
			continue
		}
		total++
		t.Run(c.Name(), func(t *testing.T) {
			at := func(f string) string { return filepath.Join(dir, c.Name(), f) }
			tr := must(root.NewTrustedRootFromJSON(read(t, at("trusted_root.json"),
				filepath.Join(data, "sigstore-root-signing", "targets", "trusted_root.json"))))(t)
			trust := Trust{Root: tr}
			want := signer.Identity{Kind: signer.Keyless,
				Subject: "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main",
				Issuer:  "https://token.actions.githubusercontent.com"}
			if b, err := os.ReadFile(at("identity")); err == nil {
				want.Subject = strings.TrimSpace(string(b))
			}
			if b, err := os.ReadFile(at("issuer")); err == nil {
				want.Issuer = strings.TrimSpace(string(b))
			}
			if b, err := os.ReadFile(at("key.pub")); err == nil {
				pub, id, err := signer.ParsePublicKey(b)
				if err != nil {
					t.Fatal(err)
				}
				trust.Keys, want = append(trust.Keys, pub), id
			}
			sub := Subject{Repository: "files", Digest: inventory.Digest(read(t, at("artifact"), filepath.Join(dir, "a.txt")))}
			s := must(New(trust))(t).Bundle(sub, read(t, at("bundle.sigstore.json"), ""))
			accepted := s.Verified && s.Signer == want
			t.Logf("accepted %v, signer %s: %s", accepted, s.Signer, s.Why)
			for _, b := range s.Bounds {
				t.Logf("  %s %s %s verified %v: %s", b.Authority.Role, b.Side, b.Time, b.Verified, b.Why)
			}
			if accepted == strings.HasSuffix(c.Name(), "_fail") {
				t.Errorf("accepted %v", accepted)
				return
			}
			agree++
		})
	}
	t.Logf("%d of %d cases agree", agree, total)
}
