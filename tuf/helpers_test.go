package tuf

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	sigstore "github.com/sigstore/sigstore-go/pkg/tuf"
)

// An org is a repository with its key holders and a web server.
type org struct {
	dir, url    string
	repo        *Repository
	holders     []Signer // root and targets, 2 of 3
	responders  []Signer // revocations, 2 of 3
	online      Signer
	pinned      []byte
	trustedRoot []byte
}

func newOrg(t *testing.T) *org {
	t.Helper()
	return newOrgIn(t, filepath.Join(t.TempDir(), "repository"), nil)
}

func newOrgIn(t *testing.T, dir string, change func(*InitOptions)) *org {
	t.Helper()
	o := &org{
		dir:         dir,
		holders:     []Signer{newEd25519(t, "@alice"), newP256(t, "@bob"), newEd25519(t, "@carol")},
		responders:  []Signer{newP256(t, "@dave"), newEd25519(t, "@erin"), newEd25519(t, "@frank")},
		trustedRoot: []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`),
	}
	_, key, err := ed25519.GenerateKey(nil)
	check(t, err)
	o.online, err = NewOnlineSigner(key, "gcpkms:projects/p/locations/global/keyRings/r/cryptoKeys/k")
	check(t, err)
	options := InitOptions{
		RootKeys: o.holders, RootThreshold: 2,
		TargetsKeys: o.holders, TargetsThreshold: 2,
		RevocationKeys: o.responders, RevocationThreshold: 2,
		OnlineKey: o.online,
		Targets:   map[string][]byte{"trusted_root.json": o.trustedRoot, "signing_config.v0.2.json": []byte("{}")},
	}
	if change != nil {
		change(&options)
	}
	o.repo, err = Init(dir, options)
	check(t, err)
	o.pinned, err = os.ReadFile(filepath.Join(dir, "1.root.json"))
	check(t, err)
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	o.url = server.URL
	return o
}

func (o *org) revoke(t *testing.T, files map[string][]byte) {
	t.Helper()
	check(t, o.repo.PublishRevocations(t.Context(), files, o.responders[:2], o.online))
}

func (o *org) revocations(t *testing.T, cache string) map[string][]byte {
	t.Helper()
	got, err := Revocations(t.Context(), FetchOptions{URL: o.url, Root: o.pinned, CacheDir: cache})
	check(t, err)
	return got
}

// sigstoreTarget gets a target the way cosign does.
func (o *org) sigstoreTarget(t *testing.T, cache, name string) []byte {
	t.Helper()
	c, err := sigstore.New(&sigstore.Options{Root: o.pinned, RepositoryBaseURL: o.url, CachePath: cache})
	check(t, err)
	data, err := c.GetTarget(name)
	check(t, err)
	return data
}

func newEd25519(t *testing.T, owner string) Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	check(t, err)
	return newTestSigner(t, key, owner)
}

func newP256(t *testing.T, owner string) Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	return newTestSigner(t, key, owner)
}

func newTestSigner(t *testing.T, key crypto.Signer, owner string) Signer {
	t.Helper()
	s, err := NewSigner(key, owner)
	check(t, err)
	return s
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// listing returns every file below dir with its content.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		out[path] = string(data)
		return err
	}))
	return out
}

// unchanged fails the test when what do does changes any file below dir.
func unchanged(t *testing.T, dir string, do func()) {
	t.Helper()
	before := listing(t, dir)
	do()
	if after := listing(t, dir); !maps.Equal(before, after) {
		t.Errorf("files changed: %d before, %d after", len(before), len(after))
	}
}

func sameFiles(a, b map[string][]byte) bool {
	return maps.EqualFunc(a, b, func(x, y []byte) bool { return string(x) == string(y) })
}
