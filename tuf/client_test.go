package tuf

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestFetchNames(t *testing.T) {
	o := newOrg(t)
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("one"), "revocations/2.json": []byte("two")})
	got, err := Fetch(t.Context(), FetchOptions{URL: o.url + "/", Root: o.pinned, CacheDir: t.TempDir(), Names: []string{"trusted_root.json", "revocations/2.json"}})
	check(t, err)
	if len(got) != 2 || string(got["trusted_root.json"]) != string(o.trustedRoot) || string(got["revocations/2.json"]) != "two" {
		t.Errorf("got %q", got)
	}
	_, err = Fetch(t.Context(), FetchOptions{URL: o.url, Root: o.pinned, Names: []string{"revocations/3.json"}})
	refused(t, err, "revocations/3.json")
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

// TestAttackOnClients serves clients what an attacker has: a mirror, old files, a stolen online key.
func TestAttackOnClients(t *testing.T) {
	t.Run("tampered or missing files", func(t *testing.T) {
		o := newOrg(t)
		o.revoke(t, map[string][]byte{"revocations/1.json": []byte("one")})
		target, err := filepath.Glob(filepath.Join(o.published, "targets", "revocations", "*.1.json"))
		check(t, err)
		if len(target) != 1 {
			t.Fatal(target)
		}
		paths := []string{target[0]}
		for _, name := range []string{"timestamp.json", "2.snapshot.json", "1.targets.json", "2.revocations.json"} {
			paths = append(paths, filepath.Join(o.published, name))
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
	})
	t.Run("another repository", func(t *testing.T) {
		o, other := newOrg(t), newOrg(t)
		_, err := Revocations(t.Context(), FetchOptions{URL: o.url, Root: other.pinned})
		refused(t, err, "pinned root")
	})
	t.Run("a mirror of an old state", func(t *testing.T) {
		o := newOrg(t)
		cache := t.TempDir()
		old := filepath.Join(t.TempDir(), "r")
		check(t, os.CopyFS(old, os.DirFS(o.published)))
		o.revoke(t, map[string][]byte{"revocations/1.json": []byte("one")})
		o.revocations(t, cache)
		mirror := httptest.NewServer(http.FileServer(http.Dir(old)))
		defer mirror.Close()
		_, err := Revocations(t.Context(), FetchOptions{URL: mirror.URL, Root: o.pinned, CacheDir: cache})
		refused(t, err, "rollback")
	})
	t.Run("a mirror that hides the rotation of a stolen online key", func(t *testing.T) {
		o := newOrg(t)
		hidden := filepath.Join(t.TempDir(), "hidden")
		check(t, os.CopyFS(hidden, os.DirFS(o.dir)))
		stolen, cache := o.online, t.TempDir()
		o.revocations(t, cache)

		o.online = newEd25519(t, "")
		o.propose(t, SetOnline{Online{o.online.Key, "x"}})
		o.sign(t, o.holders...)
		o.publish(t)
		o.revoke(t, map[string][]byte{"revocations/1.json": []byte("one")})
		if got := o.revocations(t, cache); len(got) != 1 {
			t.Fatalf("got %q", got)
		}

		repo, err := Open(hidden, Options{})
		check(t, err)
		for range 5 { // newer by number than anything the client has seen
			_, err := repo.Refresh(t.Context(), stolen.Signer, true)
			check(t, err)
		}
		mirror := httptest.NewServer(http.FileServer(http.Dir(repo.Published())))
		defer mirror.Close()
		if got, err := Revocations(t.Context(), FetchOptions{URL: mirror.URL, Root: o.pinned, CacheDir: cache}); err == nil {
			t.Errorf("believed the stolen key: %q", got)
		}
	})
	t.Run("responders speak for other paths", func(t *testing.T) {
		o := newOrg(t)
		o.force(t, o.online, func(d *draft) {
			m := editTargets(t, d, revocationsRole)
			for name, data := range map[string]string{"trusted_root.json": "evil", "new.json": "evil", "revocations/a/b.json": "evil", "revocations/1.json": "one"} {
				check(t, addTarget(m, name, []byte(data)))
				d.files[name] = []byte(data)
			}
		}, o.responders...)
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
	})
	t.Run("metadata with null in it", func(t *testing.T) {
		o := newOrg(t)
		m, err := metadata.Timestamp().FromFile(filepath.Join(o.published, "timestamp.json"))
		check(t, err)
		m.Signed.Version++
		m.Signed.Meta = map[string]*metadata.MetaFiles{}
		s, err := o.repo.load()
		check(t, err)
		ring, err := rootRing(s.Root, metadata.TIMESTAMP)
		check(t, err)
		doc, err := newDocument(metadata.TIMESTAMP, m)
		check(t, err)
		check(t, sign(t.Context(), doc, ring, o.online.Signer))
		data, err := doc.encode()
		check(t, err)
		for _, file := range []string{filepath.Join(o.published, "timestamp.json"), filepath.Join(o.dir, "metadata", "timestamp.json")} {
			check(t, os.WriteFile(file, data, 0o644))
		}
		_, err = Revocations(t.Context(), FetchOptions{URL: o.url, Root: o.pinned})
		refused(t, err, "malformed")
		_, err = Open(o.dir, Options{})
		refused(t, err, "timestamp.json")
	})
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
	cache := filepath.Join(t.TempDir(), "[cache]")
	o.revocations(t, cache)
	files, err := fs.Glob(os.DirFS(cache), "*/*.json")
	check(t, err)
	if len(files) < 5 {
		t.Fatal(files)
	}
	for _, f := range files {
		check(t, os.WriteFile(filepath.Join(cache, f), nil, 0o600))
		o.revocations(t, cache)
	}
}

// A password in an address reaches the server, and no error.
func TestPasswordStaysOutOfErrors(t *testing.T) {
	o := newOrg(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "user" || password != "s3cret" {
			t.Errorf("asked as %q", user)
		}
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer server.Close()
	served := strings.Replace(server.URL, "http://", "http://user:s3cret@", 1)
	for _, address := range []string{served, "http://user:s3cret@127.0.0.1:1", "ftp://user:s3cret@127.0.0.1"} {
		_, fetched := Revocations(t.Context(), FetchOptions{URL: address, Root: o.pinned})
		_, mirrored := URLMirror(address, nil)(t.Context(), "1.root.json", 100)
		for _, err := range []error{fetched, mirrored} {
			if err == nil || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%v", err)
			}
		}
	}
}
