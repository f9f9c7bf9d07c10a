package tuf

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"
)

func TestGoTUFUpdater(t *testing.T) {
	o := newOrg(t)
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("one")})
	cfg, err := config.New(o.url, o.pinned)
	check(t, err)
	cfg.LocalMetadataDir = t.TempDir()
	cfg.LocalTargetsDir = t.TempDir()
	up, err := updater.New(cfg)
	check(t, err)
	for name, want := range map[string]string{"trusted_root.json": string(o.trustedRoot), "revocations/1.json": "one"} {
		info, err := up.GetTargetInfo(name)
		check(t, err)
		_, data, err := up.DownloadTarget(info, "", "")
		check(t, err)
		if string(data) != want {
			t.Errorf("%s: %q", name, data)
		}
	}
}

func TestFetchNames(t *testing.T) {
	o := newOrg(t)
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("one"), "revocations/2.json": []byte("two")})
	got, err := Fetch(t.Context(), FetchOptions{URL: o.url + "/", Root: o.pinned, CacheDir: t.TempDir(), Names: []string{"trusted_root.json", "revocations/2.json"}})
	check(t, err)
	if len(got) != 2 || string(got["trusted_root.json"]) != string(o.trustedRoot) || string(got["revocations/2.json"]) != "two" {
		t.Errorf("got %q", got)
	}
	if _, err := Fetch(t.Context(), FetchOptions{URL: o.url, Root: o.pinned, Names: []string{"revocations/3.json"}}); err == nil || !strings.Contains(err.Error(), "revocations/3.json") {
		t.Errorf("missing target: %v", err)
	}
}

func TestFetchRefusesBadOptions(t *testing.T) {
	o := newOrg(t)
	for name, f := range map[string]FetchOptions{
		"no root":          {URL: o.url, Names: []string{"x"}},
		"not metadata":     {URL: o.url, Root: []byte("{}"), Names: []string{"x"}},
		"no names":         {URL: o.url, Root: o.pinned},
		"names and prefix": {URL: o.url, Root: o.pinned, Names: []string{"x"}, Prefix: "x/"},
		"prefix":           {URL: o.url, Root: o.pinned, Prefix: "x"},
		"scheme":           {URL: "file:///x", Root: o.pinned, Names: []string{"x"}},
		"query":            {URL: o.url + "?a", Root: o.pinned, Names: []string{"x"}},
		"no delegation":    {URL: o.url, Root: o.pinned, Prefix: "x/"},
	} {
		if _, err := Fetch(t.Context(), f); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestClientRefusesTampering(t *testing.T) {
	o := newOrg(t)
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("one")})
	target, err := filepath.Glob(filepath.Join(o.dir, "targets", "revocations", "*.1.json"))
	check(t, err)
	if len(target) != 1 {
		t.Fatal(target)
	}
	paths := []string{target[0]}
	for _, name := range []string{"timestamp.json", "2.snapshot.json", "1.targets.json", "2.revocations.json"} {
		paths = append(paths, filepath.Join(o.dir, name))
	}
	for _, path := range paths {
		good, err := os.ReadFile(path)
		check(t, err)
		bad := []byte(strings.Replace(string(good), "20", "30", 1))
		if path == target[0] {
			bad = []byte("two")
		}
		for damage, data := range map[string][]byte{"tampered": bad, "removed": nil} {
			check(t, os.Remove(path))
			if data != nil {
				check(t, os.WriteFile(path, data, 0o644))
			}
			if got, err := Revocations(t.Context(), FetchOptions{URL: o.url, Root: o.pinned}); err == nil {
				t.Errorf("%s %s: got %q", filepath.Base(path), damage, got)
			}
			check(t, os.WriteFile(path, good, 0o644))
		}
	}
}

func TestClientRefusesAnotherRoot(t *testing.T) {
	o, other := newOrg(t), newOrg(t)
	_, err := Revocations(t.Context(), FetchOptions{URL: o.url, Root: other.pinned})
	if err == nil || !strings.Contains(err.Error(), "pinned root") {
		t.Errorf("got %v", err)
	}
}

func TestClientRefusesRollback(t *testing.T) {
	o := newOrg(t)
	cache := t.TempDir()
	old := t.TempDir()
	check(t, os.CopyFS(filepath.Join(old, "r"), os.DirFS(o.dir)))
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("one")})
	o.revocations(t, cache)
	mirror := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(old, "r"))))
	defer mirror.Close()
	_, err := Revocations(t.Context(), FetchOptions{URL: mirror.URL, Root: o.pinned, CacheDir: cache})
	if err == nil || !strings.Contains(err.Error(), "rollback") {
		t.Errorf("got %v", err)
	}
}

// A mirror with the stolen former online key hides the root that rotated it out.
func TestClientRemembersRotatedRoot(t *testing.T) {
	o := newOrg(t)
	hidden := filepath.Join(t.TempDir(), "hidden")
	check(t, os.CopyFS(hidden, os.DirFS(o.dir)))
	stolen := o.online
	cache := t.TempDir()
	o.revocations(t, cache)

	online := newEd25519(t, "")
	s, err := load(o.repo.read)
	check(t, err)
	s.Root.Signed.Version++
	s.Root.Signed.Keys[online.id] = online.key
	for _, role := range []string{metadata.SNAPSHOT, metadata.TIMESTAMP} {
		s.Root.Signed.Roles[role].KeyIDs = []string{online.id}
	}
	ring, err := s.ring(metadata.ROOT)
	check(t, err)
	check(t, sign(t.Context(), s.Root, ring, o.holders...))
	root, err := s.Root.ToBytes(true)
	check(t, err)
	files, err := o.repo.commit(t.Context(), s, online)
	check(t, err)
	check(t, o.repo.writeAll(t.Context(), append([]file{{"2.root.json", root}}, files...)))
	o.online = online
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("one")})
	if got := o.revocations(t, cache); len(got) != 1 {
		t.Fatalf("got %q", got)
	}

	attacker, err := Open(hidden)
	check(t, err)
	for range 5 { // newer by number than anything the client has seen
		s, err := load(attacker.read)
		check(t, err)
		files, err := attacker.commit(t.Context(), s, stolen)
		check(t, err)
		check(t, attacker.writeAll(t.Context(), files))
	}
	mirror := httptest.NewServer(http.FileServer(http.Dir(hidden)))
	defer mirror.Close()
	if got, err := Revocations(t.Context(), FetchOptions{URL: mirror.URL, Root: o.pinned, CacheDir: cache}); err == nil {
		t.Errorf("believed the stolen key: %q", got)
	}
}

// What responders list outside revocations/ is neither fetched nor believed.
func TestDelegatedRoleSpeaksOnlyForItsPaths(t *testing.T) {
	o := newOrg(t)
	s, err := load(o.repo.read)
	check(t, err)
	m := s.Targets[revocationsRole]
	var files []file
	for name, data := range map[string]string{"trusted_root.json": "evil", "new.json": "evil", "revocations/a/b.json": "evil", "revocations/1.json": "one"} {
		f, err := addTarget(m, name, []byte(data))
		check(t, err)
		files = append(files, f)
	}
	m.Signed.Version++
	f, err := s.signTargets(t.Context(), revocationsRole, o.responders)
	check(t, err)
	commit, err := o.repo.commit(t.Context(), s, o.online)
	check(t, err)
	check(t, o.repo.writeAll(t.Context(), append(append(files, f), commit...)))
	if got := o.revocations(t, ""); len(got) != 1 || string(got["revocations/1.json"]) != "one" {
		t.Errorf("got %q", got)
	}
	if got := o.sigstoreTarget(t, t.TempDir(), "trusted_root.json"); string(got) != string(o.trustedRoot) {
		t.Errorf("trusted_root.json by responders: %q", got)
	}
	for _, name := range []string{"new.json", "revocations/a/b.json"} {
		if _, err := Fetch(t.Context(), FetchOptions{URL: o.url, Root: o.pinned, Names: []string{name}}); err == nil {
			t.Errorf("%s by responders was believed", name)
		}
	}
}

func TestFetchHonoursContext(t *testing.T) {
	o := newOrg(t)
	entered := make(chan struct{}, 1)
	hang := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-r.Context().Done()
	}))
	defer hang.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	start := time.Now()
	_, err := Revocations(ctx, FetchOptions{URL: hang.URL, Root: o.pinned, CacheDir: t.TempDir()})
	if !errors.Is(err, context.Canceled) || time.Since(start) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
}

func TestTornCacheHeals(t *testing.T) {
	o := newOrg(t)
	cache := t.TempDir()
	o.revocations(t, cache)
	files, err := filepath.Glob(filepath.Join(cache, "*", "*.json"))
	check(t, err)
	if len(files) < 5 {
		t.Fatal(files)
	}
	for _, f := range files {
		check(t, os.WriteFile(f, nil, 0o600))
		o.revocations(t, cache)
	}
}

func TestFetchSurvivesNullMetadata(t *testing.T) {
	o := newOrg(t)
	s, err := load(o.repo.read)
	check(t, err)
	s.Timestamp.Signed.Version++
	s.Timestamp.Signed.Meta = map[string]*metadata.MetaFiles{}
	ring, err := s.ring(metadata.TIMESTAMP)
	check(t, err)
	check(t, sign(t.Context(), s.Timestamp, ring, o.online))
	data, err := s.Timestamp.ToBytes(true)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(o.dir, "timestamp.json"), data, 0o644))
	if _, err := Revocations(t.Context(), FetchOptions{URL: o.url, Root: o.pinned}); err == nil || !strings.Contains(err.Error(), "malformed") {
		t.Errorf("client: %v", err)
	}
	if _, err := Open(o.dir); err == nil || !strings.Contains(err.Error(), "timestamp.json") {
		t.Errorf("open: %v", err)
	}
}
