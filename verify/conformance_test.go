package verify

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// TestConformance takes every bundle case of sigstore/sigstore-conformance the
// way an import does: a folder whose name ends in _fail must be refused, any
// other accepted. There are no exceptions.
func TestConformance(t *testing.T) {
	t.Parallel()
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
	var agree atomic.Int64
	total := 0
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
			sub := Subject{Repository: inventory.Files, Digest: inventory.Digest(read(t, at("artifact"), filepath.Join(dir, "a.txt")))}
			content := read(t, at("bundle.sigstore.json"), "")
			s := must(New(trust))(t).Stored(sub, inventory.Detached, nil, content)
			if s.Format != inventory.Detached {
				t.Errorf("format %q", s.Format)
			}
			accepted := s.Verified && s.Signer == want
			t.Logf("accepted %v, signer %s: %s", accepted, s.Signer, s.Why)
			for _, b := range s.Bounds {
				t.Logf("  %s %s %s verified %v: %s", b.Authority.Role, b.Side, b.Time, b.Verified, b.Why)
			}
			if accepted == strings.HasSuffix(c.Name(), "_fail") {
				t.Errorf("accepted %v", accepted)
				return
			}
			if about, err := Subjects(content); accepted && (err != nil || !slices.Contains(about, sub.Digest)) {
				t.Errorf("it is about %v, %v: not among them %s, for which it was accepted", about, err, sub.Digest)
				return
			}
			agree.Add(1)
		})
	}
	if agree.Load() != int64(total) || total == 0 {
		t.Errorf("%d of %d cases agree", agree.Load(), total)
	}
	t.Logf("conformance: %d of %d", agree.Load(), total)
}
