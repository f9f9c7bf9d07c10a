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
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/reseal/reseal/signer"
)

// A person is a holder with the private half of their key.
type person struct {
	Holder
	signer.Signer
}

func newPerson(t testing.TB, name string, key crypto.Signer) person {
	t.Helper()
	s, err := signer.InMemory(key)
	check(t, err)
	public, err := cryptoutils.MarshalPublicKeyToPEM(key.Public())
	check(t, err)
	return person{Holder{name, public}, s}
}

func newEd25519(t testing.TB, name string) person {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	check(t, err)
	return newPerson(t, name, key)
}

func newECDSA(t testing.TB, name string, curve elliptic.Curve) person {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	check(t, err)
	return newPerson(t, name, key)
}

func newP256(t testing.TB, name string) person { return newECDSA(t, name, elliptic.P256()) }

func holdersOf(people []person) []Holder {
	var out []Holder
	for _, p := range people {
		out = append(out, p.Holder)
	}
	return out
}

func signersOf(people []person) []signer.Signer {
	var out []signer.Signer
	for _, p := range people {
		out = append(out, p.Signer)
	}
	return out
}

// An org is a repository with its key holders and a web server.
type org struct {
	dir, published, url string
	repo                *Repository
	holders             []person // root and targets, 2 of 3
	responders          []person // revocations, 2 of 3
	online              person
	pinned              []byte // the root that clients were installed with
	trustedRoot         []byte
}

func newOrg(t testing.TB) *org {
	t.Helper()
	return newOrgIn(t, filepath.Join(t.TempDir(), "repository"), Options{}, nil)
}

func newOrgIn(t testing.TB, dir string, options Options, change func(*Founding)) *org {
	t.Helper()
	o := &org{
		dir: dir, published: filepath.Join(dir, publishedDir),
		holders:     []person{newEd25519(t, "@alice"), newP256(t, "@bob"), newECDSA(t, "@carol", elliptic.P384())},
		responders:  []person{newP256(t, "@dave"), newEd25519(t, "@erin"), newEd25519(t, "@frank")},
		online:      newEd25519(t, ""),
		trustedRoot: []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`),
	}
	f := Founding{
		Root: Group{holdersOf(o.holders), 2}, Targets: Group{holdersOf(o.holders), 2}, Revocations: Group{holdersOf(o.responders), 2},
		Online: Online{o.online.Key, "gcpkms:projects/p/locations/global/keyRings/r/cryptoKeys/k"},
		Files:  map[string][]byte{"trusted_root.json": o.trustedRoot, "signing_config.v0.2.json": []byte("{}")},
	}
	if change != nil {
		change(&f)
	}
	var err error
	o.repo, _, err = Init(t.Context(), dir, options, f)
	check(t, err)
	o.sign(t, append(o.holders, o.responders...)...)
	o.publish(t)
	o.pinned, err = os.ReadFile(filepath.Join(o.repo.Published(), "1.root.json"))
	check(t, err)
	server := httptest.NewServer(http.FileServer(http.Dir(o.published)))
	t.Cleanup(server.Close)
	o.url = server.URL
	return o
}

// copied is an organisation that publishes to the directory away, and a copy of its repository, made after before.
func copied(t *testing.T, before func(*org)) (o *org, r *Repository, away string) {
	t.Helper()
	away = filepath.Join(t.TempDir(), "away")
	o = newOrgIn(t, filepath.Join(t.TempDir(), "repository"), Options{Published: away}, nil)
	if before != nil {
		before(o)
	}
	dir := filepath.Join(t.TempDir(), "copy")
	check(t, os.CopyFS(dir, os.DirFS(o.dir)))
	r, err := Open(dir, Options{Published: away})
	check(t, err)
	return o, r, away
}

// sign lets people sign the open event from its exported file, those it does not ask left out.
func (o *org) sign(t testing.TB, people ...person) {
	t.Helper()
	request, err := o.repo.Export()
	check(t, err)
	known := o.pinned
	if s, err := o.repo.load(); err == nil && !s.empty() {
		known = s.roots[0]
	}
	q, err := ReadRequest(request, known, Options{Now: o.repo.clock})
	check(t, err)
	for _, p := range people {
		signed, err := q.Sign(t.Context(), p.Signer)
		if err != nil {
			continue
		}
		_, err = o.repo.Import(t.Context(), signed)
		check(t, err)
	}
}

func (o *org) propose(t testing.TB, changes ...Change) *Event {
	t.Helper()
	e, err := o.repo.Propose(t.Context(), Proposal{Changes: changes, Accept: []string{"trusted_root.json"}})
	check(t, err)
	return e
}

func (o *org) publish(t testing.TB) *Publication {
	t.Helper()
	p, err := o.repo.Publish(t.Context(), o.online.Signer)
	check(t, err)
	return p
}

// change proposes, lets all holders sign, and publishes.
func (o *org) change(t testing.TB, changes ...Change) *Publication {
	t.Helper()
	o.propose(t, changes...)
	o.sign(t, append(o.holders, o.responders...)...)
	return o.publish(t)
}

func (o *org) revoke(t testing.TB, files map[string][]byte) {
	t.Helper()
	_, err := o.repo.PublishRevocations(t.Context(), files, signersOf(o.responders[:2]), o.online.Signer)
	check(t, err)
}

func (o *org) revocations(t testing.TB, cache string) map[string][]byte {
	t.Helper()
	got, err := Revocations(t.Context(), FetchOptions{URL: o.url, Root: o.pinned, CacheDir: cache})
	check(t, err)
	return got
}

// sigstoreTarget gets a target the way cosign does.
func (o *org) sigstoreTarget(t testing.TB, cache, name string) []byte {
	t.Helper()
	c, err := sigstore.New(&sigstore.Options{Root: o.pinned, RepositoryBaseURL: o.url, CachePath: cache})
	check(t, err)
	data, err := c.GetTarget(name)
	check(t, err)
	return data
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// listing returns every file below dir with its content.
func listing(t testing.TB, dir string) map[string]string {
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
func unchanged(t testing.TB, dir string, do func()) {
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
