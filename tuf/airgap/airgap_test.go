package airgap

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/signer"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// key is a signer of bundles.
type key struct{ private crypto.Signer }

func newKey(t testing.TB) key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	return key{private}
}

func (k key) Identity() signer.Identity {
	id, err := signer.OfKey(k.private.Public())
	if err != nil {
		panic(err)
	}
	return id
}

func (k key) PublicKey() crypto.PublicKey { return k.private.Public() }

func (k key) Sign(_ context.Context, message []byte) ([]byte, error) {
	if _, ok := k.private.(ed25519.PrivateKey); ok {
		return k.private.Sign(rand.Reader, message, crypto.Hash(0))
	}
	sum := sha256.Sum256(message)
	return k.private.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// world is a repository on one side, and a mirror on the other.
type world struct {
	*sandbox.TUF
	t      testing.TB
	key    key
	mirror string
	bundle int
	clock  time.Time
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, key: newKey(t), mirror: filepath.Join(t.TempDir(), "mirror"), clock: time.Now().UTC().Truncate(time.Second)}
	var err error
	w.TUF, err = sandbox.NewTUF(func() time.Time { return w.clock })
	check(t, err)
	w.put("trusted_root.json", "{}", "signing_config.v0.2.json", "{}", "revocations/index.json", "[1]", "revocations/1.json", "one", "a/b/c.txt", "deep")
	check(t, w.Publish())
	return w
}

func (w *world) put(pairs ...string) {
	w.t.Helper()
	for n := 0; n < len(pairs); n += 2 {
		check(w.t, w.Put(pairs[n], []byte(pairs[n+1])))
	}
}

func (w *world) now() time.Time { return w.clock }

// export makes the next bundle, a minute after the one before.
func (w *world) export() string {
	w.t.Helper()
	w.clock = w.clock.Add(time.Minute)
	w.bundle++
	file := filepath.Join(w.t.TempDir(), fmt.Sprintf("%d.tar.gz", w.bundle))
	_, err := Export(w.t.Context(), w.write(), file, ExportOptions{Signer: w.key, Now: w.now})
	check(w.t, err)
	return file
}

func (w *world) write() string {
	w.t.Helper()
	dir := w.t.TempDir()
	check(w.t, sandbox.WriteFiles(dir, w.Files()))
	return dir
}

func (w *world) options() ImportOptions {
	return ImportOptions{Root: w.Files()["1.root.json"], Key: w.key.PublicKey(), Now: w.now}
}

func (w *world) take(file string, o ImportOptions) (Imported, error) {
	w.t.Helper()
	return Import(w.t.Context(), file, w.mirror, o)
}

func (w *world) must(file string) Imported {
	w.t.Helper()
	x, err := w.take(file, w.options())
	check(w.t, err)
	return x
}

// listing returns every file below dir with its content, but what an import remembers.
func listing(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	check(t, fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || name == stateName {
			return err
		}
		out[name], err = os.ReadFile(filepath.Join(dir, name))
		return err
	}))
	return out
}

func same(a, b map[string][]byte) bool { return maps.EqualFunc(a, b, bytes.Equal) }

// client refreshes from a directory from a root, and returns the content of a target.
func client(t testing.TB, dir string, root []byte, target string) (string, error) {
	t.Helper()
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	cfg, err := config.New(server.URL, root)
	check(t, err)
	cfg.DisableLocalCache, cfg.LocalMetadataDir = true, filepath.Join(os.DevNull, "none")
	up, err := updater.New(cfg)
	check(t, err)
	if err := up.Refresh(); err != nil {
		return "", err
	}
	info, err := up.GetTargetInfo(target)
	if err != nil {
		return "", err
	}
	_, data, err := up.DownloadTarget(info, "", "")
	return string(data), err
}

func TestRoundTrip(t *testing.T) {
	w := newWorld(t)
	first := w.export()
	x := w.must(first)
	if !x.Applied || x.Written != x.Files || len(x.Former) != 0 || !slices.Equal(x.DenyList, []string{"revocations/1.json", "revocations/index.json"}) || x.Signer != w.key.Identity().ID() {
		t.Errorf("%+v", x)
	}
	if got := listing(t, w.mirror); !same(got, w.Files()) {
		t.Errorf("the mirror has %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(w.Files())))
	}
	// The same again is nothing to do.
	before := stats(t, w.mirror)
	if x = w.must(first); x.Written != 0 {
		t.Errorf("%+v", x)
	}
	if !maps.Equal(before, stats(t, w.mirror)) {
		t.Error("the second import of a bundle touched files")
	}
	// A holder replaces a key, the online key is replaced, a digest is denied.
	w.Lose("@carol")
	check(t, w.Hold("root", 2, sandbox.TUFHolders...))
	check(t, w.Rotate())
	w.Lose("online")
	check(t, w.Hold("snapshot", 1, "online"))
	check(t, w.Hold("timestamp", 1, "online"))
	check(t, w.Rotate())
	w.put("revocations/2.json", "two", "revocations/index.json", "[1,2]")
	check(t, w.Publish())
	x = w.must(w.export())
	if x.Former["root"] != 1 || x.Versions["root"] != 3 || x.Former["revocations"] != 1 || x.Versions["revocations"] != 2 || x.Written == x.Files {
		t.Errorf("%+v", x)
	}
	for v := range 3 {
		got, err := client(t, w.mirror, w.Files()[fmt.Sprintf("%d.root.json", v+1)], "revocations/index.json")
		if err != nil || got != "[1,2]" {
			t.Errorf("a client from root %d sees %q, %v", v+1, got, err)
		}
	}
	// Without a key or a root given: what was remembered counts.
	w.put("revocations/3.json", "three")
	check(t, w.Publish())
	if x, err := w.take(w.export(), ImportOptions{Now: w.now}); err != nil || x.Signer != w.key.Identity().ID() {
		t.Errorf("%+v, %v", x, err)
	}
}

// stats returns when each file was written.
func stats(t testing.TB, dir string) map[string]time.Time {
	t.Helper()
	out := map[string]time.Time{}
	check(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		out[name] = info.ModTime()
		return err
	}))
	return out
}

func TestCheckWritesNothing(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	o.Check = true
	file := w.export()
	x, err := w.take(file, o)
	if err != nil || x.Applied || x.Written != x.Files {
		t.Errorf("%+v, %v", x, err)
	}
	if _, err := os.Stat(w.mirror); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a mirror: %v", err)
	}
	w.must(file)
	before := listing(t, w.mirror)
	w.put("revocations/2.json", "two")
	check(t, w.Publish())
	if x, err = w.take(w.export(), o); err != nil || x.Written == 0 || !same(before, listing(t, w.mirror)) {
		t.Errorf("%+v, %v", x, err)
	}
}

func TestExportIsDeterministic(t *testing.T) {
	w := newWorld(t)
	dir := w.write()
	var got [][]byte
	for n := range 2 {
		file := filepath.Join(t.TempDir(), fmt.Sprint(n))
		x, err := Export(t.Context(), dir, file, ExportOptions{Signer: w.key, Now: w.now})
		check(t, err)
		data, err := os.ReadFile(file)
		check(t, err)
		if x.SHA256 != digest(data) || x.Size != int64(len(data)) {
			t.Errorf("%+v", x)
		}
		got = append(got, data)
		check(t, os.Chtimes(filepath.Join(dir, "timestamp.json"), time.Unix(1, 0), time.Unix(1, 0)))
	}
	if !bytes.Equal(got[0], got[1]) {
		t.Error("two exports of one state differ")
	}
}

func TestExportRefuses(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(w *world)
		kind  Kind
	}{
		{"a root is missing", func(w *world) {
			check(t, w.Rotate())
			check(t, w.Rotate())
			check(t, w.Publish())
			delete(w.Files(), "2.root.json")
		}, Incomplete},
		{"targets are missing", func(w *world) { delete(w.Files(), "1.targets.json") }, Incomplete},
		{"a target is missing", func(w *world) { delete(w.Files(), w.target("a/b/c.txt")) }, Incomplete},
		{"a target is changed", func(w *world) { w.Files()[w.target("a/b/c.txt")] = []byte("pool") }, Corrupt},
		{"it has expired", func(w *world) { w.clock = w.clock.AddDate(0, 0, 8) }, Stale},
		{"root by others", func(w *world) { w.Files()["1.root.json"] = newWorld(t).Files()["1.root.json"] }, Untrusted},
		{"nothing is there", func(w *world) { clear(w.Files()) }, Incomplete},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			tc.spoil(w)
			file := filepath.Join(t.TempDir(), "bundle")
			_, err := Export(t.Context(), w.write(), file, ExportOptions{Signer: w.key, Now: w.now})
			var r Refusal
			if !errors.As(err, &r) || r.Kind != tc.kind || r.Do == "" {
				t.Errorf("%v, want %s", err, tc.kind)
			}
			wantEmpty(t, filepath.Dir(file))
		})
	}
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "bundle")
	check(t, os.WriteFile(file, []byte("kept"), 0o644))
	if _, err := Export(t.Context(), w.write(), file, ExportOptions{Now: w.now}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("written over a file: %v", err)
	}
	source := t.TempDir()
	check(t, sandbox.WriteFiles(source, w.Source()))
	if _, err := Export(t.Context(), source, file+"2", ExportOptions{Now: w.now}); err == nil || !strings.Contains(err.Error(), "repository's source") {
		t.Errorf("a source: %v", err)
	}
	check(t, sandbox.WriteFiles(filepath.Join(source, "published"), w.Files()))
	if _, err := Export(t.Context(), source, file+"3", ExportOptions{Now: w.now}); err != nil {
		t.Errorf("what a source publishes: %v", err)
	}
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		t.Errorf("%v, %v is left there", list, err)
	}
}

// target returns the name of the file of a target.
func (w *world) target(name string) string {
	for _, m := range w.Targets {
		if f := m.Targets[name]; f != nil {
			dir, base := filepath.Split(name)
			return "targets/" + dir + f.Hashes["sha256"].String() + "." + base
		}
	}
	w.t.Fatalf("there is no target %s", name)
	return ""
}

func TestSigners(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	w := newWorld(t)
	w.key = key{p256}
	w.must(w.export())
	// Unsigned, to a mirror that takes signed ones only.
	w.clock = w.clock.Add(time.Minute)
	file := filepath.Join(t.TempDir(), "unsigned")
	_, err = Export(t.Context(), w.write(), file, ExportOptions{Now: w.now})
	check(t, err)
	wantRefusal(t, w, file, ImportOptions{Now: w.now}, Unsigned)
	// By a new key: only when that is given.
	w.key = newKey(t)
	next := w.export()
	wantRefusal(t, w, next, ImportOptions{Now: w.now}, Unsigned)
	w.must(next)
	// Unsigned, to a mirror that asks for nothing: TUF alone decides.
	w.mirror = filepath.Join(t.TempDir(), "other")
	if x, err := w.take(file, ImportOptions{Root: w.Files()["1.root.json"], Now: w.now}); err != nil || x.Signer != "" {
		t.Errorf("%+v, %v", x, err)
	}
}

func wantRefusal(t testing.TB, w *world, file string, o ImportOptions, want Kind) {
	t.Helper()
	before := listing(t, w.mirror)
	_, err := Import(t.Context(), file, w.mirror, o)
	var r Refusal
	switch {
	case err == nil:
		t.Errorf("imported, want a refusal: %s", want)
	case !errors.As(err, &r) || r.Kind != want:
		t.Errorf("%v, want a refusal: %s", err, want)
	default:
		t.Logf("refused: %v", err)
	}
	if after := listing(t, w.mirror); !same(before, after) || (before == nil) != (after == nil) {
		t.Error("the mirror changed")
	}
}

// A repository recovers from versions that a thief of the online key counted up, and the mirror follows.
func TestFastForwardRecovery(t *testing.T) {
	w := newWorld(t)
	w.must(w.export())
	honest := [2]int64{w.Snapshot.Version, w.Timestamp.Version}
	w.Snapshot.Version, w.Timestamp.Version = 1<<40, 1<<40
	check(t, w.Publish())
	w.must(w.export())
	w.Snapshot.Version, w.Timestamp.Version = honest[0]+1, honest[1]+1
	check(t, w.Publish())
	wantRefusal(t, w, w.export(), w.options(), Rollback)
	w.Lose("online")
	check(t, w.Hold("snapshot", 1, "online"))
	check(t, w.Hold("timestamp", 1, "online"))
	check(t, w.Rotate())
	check(t, w.Publish())
	w.must(w.export())
	if got, err := client(t, w.mirror, w.Files()["1.root.json"], "revocations/index.json"); err != nil || got != "[1]" {
		t.Errorf("%q, %v", got, err)
	}
}

// rewrite packs a bundle anew with another content, and a manifest that fits and is signed when the key is given.
func rewrite(t testing.TB, file string, k *key, change func(m *Manifest, files map[string][]byte)) string {
	t.Helper()
	m, files := unpack(t, file)
	change(&m, files)
	m.Files = nil
	for _, name := range slices.Sorted(maps.Keys(files)) {
		m.Files = append(m.Files, File{name, int64(len(files[name])), digest(files[name])})
	}
	manifest, err := json.Marshal(m)
	check(t, err)
	var sig []byte
	if k != nil {
		sig, err = sign(t.Context(), k, manifest)
		check(t, err)
	}
	var list []entry
	for _, f := range m.Files {
		list = append(list, entry{tar.Header{Name: f.Name, Size: f.Size}, files[f.Name]})
	}
	return archive(t, manifest, sig, list...)
}

type entry struct {
	tar.Header
	data []byte
}

func archive(t testing.TB, manifest, sig []byte, list ...entry) string {
	t.Helper()
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	tw := tar.NewWriter(gz)
	list = append([]entry{{tar.Header{Name: manifestName, Size: int64(len(manifest))}, manifest}, {tar.Header{Name: signatureName, Size: int64(len(sig))}, sig}}, list...)
	for _, e := range list {
		e.Mode = 0o644
		check(t, tw.WriteHeader(&e.Header))
		_, err := tw.Write(e.data)
		check(t, err)
	}
	check(t, errors.Join(tw.Close(), gz.Close()))
	file := filepath.Join(t.TempDir(), "crafted.tar.gz")
	check(t, os.WriteFile(file, b.Bytes(), 0o644))
	return file
}

func unpack(t testing.TB, file string) (m Manifest, files map[string][]byte) {
	t.Helper()
	f, err := os.Open(file)
	check(t, err)
	defer f.Close()
	b, err := openBundle(f, DefaultMaxSize, func([]byte, []byte) error { return nil })
	check(t, err)
	files = map[string][]byte{}
	check(t, b.each(t.Context(), func(f File, r io.Reader) error {
		data, err := io.ReadAll(r)
		files[f.Name] = data
		return err
	}))
	return b.manifest, files
}

// TestAttack has bundles made by somebody who wants the other side to believe what it must not. Unless it is said, they
// even have the key that signs bundles.
func TestAttack(t *testing.T) {
	for _, tc := range []struct {
		name   string
		attack func(t *testing.T, w *world, old string) (string, ImportOptions) // old: a bundle of the first state
		want   Kind
	}{
		{"an older bundle", func(t *testing.T, w *world, old string) (string, ImportOptions) { return old, w.options() }, Rollback},
		{"an older state with a new date", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return rewrite(t, old, &w.key, func(m *Manifest, _ map[string][]byte) { m.Created = w.now() }), w.options()
		}, Rollback},
		{"an older deny list under a new timestamp", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			// The thief has the online key.
			w.Snapshot.Meta["revocations.json"].Version = 1
			data := w.Files()["1.revocations.json"]
			sum := sha256.Sum256(data)
			w.Snapshot.Meta["revocations.json"] = &metadata.MetaFiles{Version: 1, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
			check(t, w.Publish())
			return craft(t, w), w.options()
		}, Rollback},
		{"an older deny list under a new online key", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			w.Lose("online")
			check(t, w.Hold("snapshot", 1, "online"))
			check(t, w.Hold("timestamp", 1, "online"))
			check(t, w.Rotate())
			data := w.Files()["1.revocations.json"]
			sum := sha256.Sum256(data)
			w.Snapshot.Meta["revocations.json"] = &metadata.MetaFiles{Version: 1, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
			check(t, w.Publish())
			return craft(t, w), w.options()
		}, Rollback},
		{"a role dropped from the snapshot", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			delete(w.Snapshot.Meta, "revocations.json")
			check(t, w.Publish())
			return w.export(), w.options()
		}, Rollback},
		{"a role dropped from the snapshot under a new online key", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			w.Lose("online")
			check(t, w.Hold("snapshot", 1, "online"))
			check(t, w.Hold("timestamp", 1, "online"))
			check(t, w.Rotate())
			delete(w.Snapshot.Meta, "revocations.json")
			check(t, w.Publish())
			return w.export(), w.options()
		}, Rollback},
		{"another content under the same versions", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			w.Timestamp.Version--
			w.clock = w.clock.Add(time.Minute) // another expiry
			check(t, w.Publish())
			return w.export(), w.options()
		}, Rollback},
		{"a newer root left out", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			check(t, w.Rotate())
			check(t, w.Publish())
			w.must(w.export())
			check(t, w.Publish())
			file := w.export()
			return rewrite(t, file, &w.key, func(m *Manifest, files map[string][]byte) {
				delete(files, "2.root.json")
				m.Versions["root"] = 1
			}), w.options()
		}, Rollback},
		{"a root in between left out", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			check(t, w.Rotate())
			check(t, w.Rotate())
			check(t, w.Publish())
			return rewrite(t, w.export(), &w.key, func(_ *Manifest, files map[string][]byte) { delete(files, "2.root.json") }), w.options()
		}, Incomplete},
		{"another first root", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			o := newWorld(t)
			o.key, o.clock = w.key, w.clock
			return o.export(), ImportOptions{Now: w.now, Key: w.key.PublicKey()}
		}, Untrusted},
		{"a whole repository of the thief's for the first import", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			o := newWorld(t)
			o.key = w.key
			w.mirror = filepath.Join(t.TempDir(), "new")
			return o.export(), w.options()
		}, Untrusted},
		{"the first import without a root", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			w.mirror = filepath.Join(t.TempDir(), "new")
			return w.export(), ImportOptions{Now: w.now, Key: w.key.PublicKey()}
		}, Untrusted},
		{"signed by another key", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			w.key = newKey(t)
			return w.export(), ImportOptions{Now: w.now}
		}, Unsigned},
		{"not signed", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return rewrite(t, w.export(), nil, func(*Manifest, map[string][]byte) {}), w.options()
		}, Unsigned},
		{"a date changed after signing", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			file := w.export()
			m, files := unpack(t, file)
			m.Created = m.Created.Add(time.Hour)
			manifest, err := json.Marshal(m)
			check(t, err)
			var list []entry
			for _, f := range m.Files {
				list = append(list, entry{tar.Header{Name: f.Name, Size: f.Size}, files[f.Name]})
			}
			return archive(t, manifest, signatureOf(t, file), list...), w.options()
		}, Unsigned},
		{"made in the future", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			o := w.options()
			o.Now = func() time.Time { return w.clock.Add(-time.Hour) }
			return w.export(), o
		}, Stale},
		{"kept back until it expired", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			file := w.export()
			w.clock = w.clock.AddDate(0, 0, 8)
			return file, w.options()
		}, Stale},
		{"kept back longer than is allowed", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			file, o := w.export(), w.options()
			w.clock = w.clock.Add(49 * time.Hour)
			o.MaxAge = 48 * time.Hour
			return file, o
		}, Stale},
		{"a statement of the deny list left out", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return rewrite(t, w.export(), &w.key, func(_ *Manifest, files map[string][]byte) { delete(files, w.target("revocations/2.json")) }), w.options()
		}, Incomplete},
		{"the deny list's role left out", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return rewrite(t, w.export(), &w.key, func(_ *Manifest, files map[string][]byte) { delete(files, "2.revocations.json") }), w.options()
		}, Incomplete},
		{"an empty deny list in the manifest", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return rewrite(t, w.export(), &w.key, func(m *Manifest, _ map[string][]byte) { m.DenyList = []string{} }), w.options()
		}, Corrupt},
		{"a target's content changed", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return rewrite(t, w.export(), &w.key, func(_ *Manifest, files map[string][]byte) { files[w.target("trusted_root.json")] = []byte("()") }), w.options()
		}, Corrupt},
		{"metadata changed", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return rewrite(t, w.export(), &w.key, func(_ *Manifest, files map[string][]byte) {
				files["1.targets.json"] = bytes.Replace(files["1.targets.json"], []byte("trusted_root.json"), []byte("trusted_r00t.json"), 1)
			}), w.options()
		}, Corrupt},
		{"a file more than is signed", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return rewrite(t, w.export(), &w.key, func(_ *Manifest, files map[string][]byte) { files["targets/evil.sh"] = []byte("#!") }), w.options()
		}, Unknown},
		{"an old version beside the new", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			_, before := unpack(t, old)
			return rewrite(t, w.export(), &w.key, func(_ *Manifest, files map[string][]byte) { files["1.revocations.json"] = before["1.revocations.json"] }), w.options()
		}, Unknown},
		{"a file in the tar and not in the manifest", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return hidden(t, w, entry{tar.Header{Name: "targets/zzz", Size: 1}, []byte("x")}), w.options()
		}, Unknown},
		{"a symbolic link", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return hidden(t, w, entry{tar.Header{Name: "timestamp.json", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, nil}), w.options()
		}, Unknown},
		{"a path that leads out", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return rewrite(t, w.export(), &w.key, func(_ *Manifest, files map[string][]byte) { files["targets/../../evil"] = []byte("x") }), w.options()
		}, Unknown},
		{"an absolute path", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return rewrite(t, w.export(), &w.key, func(_ *Manifest, files map[string][]byte) { files["/etc/cron.d/evil"] = []byte("x") }), w.options()
		}, Unknown},
		{"what an import remembers", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return rewrite(t, w.export(), &w.key, func(_ *Manifest, files map[string][]byte) { files[stateName] = []byte("{}") }), w.options()
		}, Unknown},
		{"something behind the end", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			file := w.export()
			f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
			check(t, err)
			_, err = f.Write([]byte("x"))
			check(t, errors.Join(err, f.Close()))
			return file, w.options()
		}, Unknown},
		{"a second stream behind the first", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			file := w.export()
			data, err := os.ReadFile(file)
			check(t, err)
			check(t, os.WriteFile(file, append(data, data...), 0o644))
			return file, w.options()
		}, Unknown},
		{"cut off", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			file := w.export()
			st, err := os.Stat(file)
			check(t, err)
			check(t, os.Truncate(file, st.Size()-20))
			return file, w.options()
		}, Corrupt},
		{"a bomb that the manifest owns up to", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			o := w.options()
			o.MaxSize = 1 << 20
			return rewrite(t, w.export(), &w.key, func(_ *Manifest, files map[string][]byte) { files["targets/bomb"] = make([]byte, 2<<20) }), o
		}, TooLarge},
		{"a bomb in place of a small file", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			file := w.export()
			m, _ := unpack(t, file)
			manifest, sig := manifestOf(t, file)
			return archive(t, manifest, sig, entry{tar.Header{Name: m.Files[0].Name, Size: 8 << 20}, make([]byte, 8<<20)}), w.options()
		}, Corrupt},
		{"a manifest without end", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return archive(t, bytes.Repeat([]byte(" "), maxManifest+1), nil), w.options()
		}, TooLarge},
		{"no bundle at all", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			file := filepath.Join(t.TempDir(), "x")
			check(t, os.WriteFile(file, []byte("<html>"), 0o644))
			return file, w.options()
		}, Corrupt},
		{"a file twice", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return repacked(t, w, func(list []entry) []entry { return slices.Insert(list, 3, list[2]) }), w.options()
		}, Unknown},
		{"all files twice", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return repacked(t, w, func(list []entry) []entry { return slices.Concat(list, list) }), w.options()
		}, Unknown},
		{"files in another order", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return repacked(t, w, func(list []entry) []entry { slices.Reverse(list); return list }), w.options()
		}, Unknown},
		{"two files that changed places", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return repacked(t, w, func(list []entry) []entry { list[1], list[2] = list[2], list[1]; return list }), w.options()
		}, Unknown},
		{"a hard link", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return hidden(t, w, entry{tar.Header{Name: "timestamp.json", Typeflag: tar.TypeLink, Linkname: "1.root.json"}, nil}), w.options()
		}, Unknown},
		{"a pipe in the bundle", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return hidden(t, w, entry{tar.Header{Name: "timestamp.json", Typeflag: tar.TypeFifo}, nil}), w.options()
		}, Unknown},
		{"a device", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return hidden(t, w, entry{tar.Header{Name: "timestamp.json", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 5}, nil}), w.options()
		}, Unknown},
		{"a directory", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return hidden(t, w, entry{tar.Header{Name: "timestamp.json", Typeflag: tar.TypeDir}, nil}), w.options()
		}, Unknown},
		{"a path that leads out in the tar alone", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return repacked(t, w, func(list []entry) []entry { list[2].Name = "../" + list[2].Name; return list }), w.options()
		}, Unknown},
		{"packed twice", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			data, err := os.ReadFile(w.export())
			check(t, err)
			var b bytes.Buffer
			gz := gzip.NewWriter(&b)
			_, err = gz.Write(data)
			check(t, errors.Join(err, gz.Close()))
			file := filepath.Join(t.TempDir(), "twice.tar.gz.gz")
			check(t, os.WriteFile(file, b.Bytes(), 0o644))
			return file, w.options()
		}, Corrupt},
		{"a bundle in a bundle", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			data, err := os.ReadFile(w.export())
			check(t, err)
			var b bytes.Buffer
			gz := gzip.NewWriter(&b)
			tw := tar.NewWriter(gz)
			check(t, tw.WriteHeader(&tar.Header{Name: "bundle.tar.gz", Size: int64(len(data)), Mode: 0o644}))
			_, err = tw.Write(data)
			check(t, errors.Join(err, tw.Close(), gz.Close()))
			file := filepath.Join(t.TempDir(), "outer.tar.gz")
			check(t, os.WriteFile(file, b.Bytes(), 0o644))
			return file, w.options()
		}, Unknown},
		{"two roles whose names differ in case alone", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			for _, role := range []string{"team", "Team"} {
				check(t, w.Delegate("targets", metadata.DelegatedRole{Name: role, Threshold: 1, Paths: []string{role + "/*"}}, "@gina"))
				check(t, w.PutIn(role, role+"/x", []byte(role)))
			}
			check(t, w.Publish())
			return craft(t, w), w.options()
		}, Unknown},
		{"a directory with the name of a file", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			w.put("x", "x")
			file := strings.TrimPrefix(w.target("x"), "targets/")
			w.put(strings.ToUpper(file)+"/y", "y")
			check(t, w.Publish())
			return craft(t, w), w.options()
		}, Unknown},
		{"a role below another left out", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			nest(t, w)
			check(t, w.Publish())
			return rewrite(t, w.export(), &w.key, func(_ *Manifest, files map[string][]byte) { delete(files, "1.deep.json") }), w.options()
		}, Incomplete},
		{"an older state of a role below another", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			nest(t, w)
			check(t, w.Publish())
			before := *w.Snapshot.Meta["deep.json"]
			content := w.Files()["1.deep.json"]
			check(t, w.PutIn("deep", "team/tools/saw", []byte("s")))
			check(t, w.Publish())
			w.must(w.export())
			w.Snapshot.Meta["deep.json"] = &before
			w.Files()["1.deep.json"] = content
			check(t, w.Publish())
			return craft(t, w), w.options()
		}, Rollback},
		{"null in place of a key", func(t *testing.T, w *world, old string) (string, ImportOptions) {
			return rewrite(t, w.export(), &w.key, func(_ *Manifest, files map[string][]byte) {
				files["2.root.json"] = []byte(`{"signed":{"_type":"root","version":2,"keys":{"a":null},"roles":{"root":{"keyids":["a"],"threshold":1}}},"signatures":[]}`)
			}), w.options()
		}, Untrusted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			old := w.export()
			w.must(old)
			w.put("revocations/2.json", "two", "revocations/index.json", "[1,2]")
			check(t, w.Publish())
			w.must(w.export())
			file, o := tc.attack(t, w, old)
			wantRefusal(t, w, file, o, tc.want)
		})
	}
	t.Run("cut off anywhere", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		data, err := os.ReadFile(w.export())
		check(t, err)
		cut := filepath.Join(t.TempDir(), "cut.tar.gz")
		for n := 0; n < len(data); n += max(1, len(data)/60) {
			check(t, os.WriteFile(cut, data[:n], 0o644))
			if _, err := w.take(cut, w.options()); err == nil {
				t.Errorf("imported the first %d of %d bytes", n, len(data))
			}
			if _, err := os.Stat(w.mirror); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("the first %d bytes left something behind: %v", n, err)
			}
		}
	})
	t.Run("the mirror's directory has a link to outside", func(t *testing.T) {
		w := newWorld(t)
		outside := t.TempDir()
		check(t, os.MkdirAll(w.mirror, 0o755))
		check(t, os.Symlink(outside, filepath.Join(w.mirror, "targets")))
		if _, err := w.take(w.export(), w.options()); err == nil {
			t.Error("imported through the link")
		}
		wantEmpty(t, outside)
	})
	t.Run("a pipe in place of a file", func(t *testing.T) {
		w := newWorld(t)
		o := ExportOptions{Signer: w.key, Now: w.now}
		check(t, sandbox.Pipes(w.write(), t.TempDir(), func(dir, name string) {
			if _, err := Export(t.Context(), dir, filepath.Join(t.TempDir(), "out.tar.gz"), o); err == nil || !strings.Contains(err.Error(), filepath.Base(name)) {
				t.Errorf("exported with a pipe in place of %s: %v", name, err)
			}
		}))
		w.must(w.export())
		w.put("revocations/2.json", "two", "revocations/index.json", "[1,2]")
		check(t, w.Publish())
		next := w.export()
		check(t, sandbox.Pipes(w.mirror, t.TempDir(), func(dir, name string) {
			if _, err := Import(t.Context(), next, dir, w.options()); err != nil && !strings.Contains(err.Error(), filepath.Base(name)) {
				t.Errorf("imported with a pipe in place of %s: %v", name, err)
			}
		}))
		pipe := filepath.Join(t.TempDir(), "pipe")
		check(t, syscall.Mkfifo(pipe, 0o644))
		check(t, sandbox.Ends("a bundle", func() {
			if _, err := w.take(pipe, w.options()); err == nil || !strings.Contains(err.Error(), pipe) {
				t.Errorf("imported a pipe: %v", err)
			}
		}))
		for _, dir := range []string{pipe, pipe + "/targets"} {
			check(t, sandbox.Ends("a directory", func() {
				if _, err := Import(t.Context(), next, dir, w.options()); err == nil {
					t.Error("imported into a pipe")
				}
				if _, err := Export(t.Context(), dir, filepath.Join(t.TempDir(), "out.tar.gz"), o); err == nil {
					t.Error("exported a pipe")
				}
			}))
		}
	})
}

// repacked packs what a good bundle holds in another way, under the same manifest.
func repacked(t testing.TB, w *world, change func([]entry) []entry) string {
	t.Helper()
	file := w.export()
	m, files := unpack(t, file)
	manifest, sig := manifestOf(t, file)
	var list []entry
	for _, f := range m.Files {
		list = append(list, entry{tar.Header{Name: f.Name, Size: f.Size}, files[f.Name]})
	}
	return archive(t, manifest, sig, change(list)...)
}

// nest delegates from targets to team, from there to tools and from there to deep.
func nest(t testing.TB, w *world) {
	t.Helper()
	check(t, w.Delegate("targets", metadata.DelegatedRole{Name: "team", Threshold: 2, Paths: []string{"team/*", "team/*/*"}}, "@gina", "@hans"))
	check(t, w.Delegate("team", metadata.DelegatedRole{Name: "tools", Threshold: 1, Paths: []string{"team/tools/*"}}, "@ines"))
	check(t, w.Delegate("tools", metadata.DelegatedRole{Name: "deep", Threshold: 2, Paths: []string{"team/tools/*"}, Terminating: true}, "@judy", "@karl"))
	check(t, w.PutIn("team", "team/readme", []byte("t")))
	check(t, w.PutIn("deep", "team/tools/hammer", []byte("h")))
}

// TestNested carries roles that delegated roles delegate to, with their targets.
func TestNested(t *testing.T) {
	w := newWorld(t)
	nest(t, w)
	check(t, w.Publish())
	x := w.must(w.export())
	if x.Versions["deep"] != 1 || x.Versions["tools"] != 1 || x.Versions["team"] != 1 {
		t.Errorf("%+v", x.Versions)
	}
	got := listing(t, w.mirror)
	for _, name := range []string{"1.team.json", "1.tools.json", "1.deep.json", w.target("team/readme"), w.target("team/tools/hammer")} {
		if want := w.Files()[name]; len(want) == 0 || !bytes.Equal(got[name], want) {
			t.Errorf("%s is not in the mirror: %v", name, slices.Sorted(maps.Keys(got)))
		}
	}
	for name, want := range map[string]string{"team/readme": "t", "team/tools/hammer": "h"} {
		if got, err := client(t, w.mirror, w.Files()["1.root.json"], name); err != nil || got != want {
			t.Errorf("%s: a client sees %q, %v", name, got, err)
		}
	}
	check(t, w.PutIn("deep", "team/tools/hammer", []byte("H")))
	check(t, w.PutIn("targets", "LICENSE", []byte("the same")))
	check(t, w.PutIn("targets", "license", []byte("the same"))) // one file, wherever names are not told apart
	check(t, w.Publish())
	if x = w.must(w.export()); x.Versions["deep"] != 2 || x.Former["deep"] != 1 {
		t.Errorf("%+v", x)
	}
	if got, err := client(t, w.mirror, w.Files()["1.root.json"], "team/tools/hammer"); err != nil || got != "H" {
		t.Errorf("a client sees %q, %v", got, err)
	}
	dir := w.write()
	check(t, os.Remove(filepath.Join(dir, "2.deep.json")))
	if _, err := Export(t.Context(), dir, filepath.Join(t.TempDir(), "x"), ExportOptions{Signer: w.key, Now: w.now}); err == nil || !strings.Contains(err.Error(), "2.deep.json") {
		t.Errorf("exported without a role: %v", err)
	}
}

// craft makes a bundle of what is published, whatever Export thinks of it, with files from elsewhere.
func craft(t testing.TB, w *world) string {
	t.Helper()
	all, files := w.Files(), map[string][]byte{}
	s, err := verify(func(name string) ([]byte, error) {
		if data, ok := all[name]; ok {
			return data, nil
		}
		return nil, fs.ErrNotExist
	}, 1, w.Root.Version, trust{root: all["1.root.json"], now: w.now()})
	check(t, err)
	for name := range s.files {
		files[name] = all[name]
	}
	m := Manifest{Schema: schema, Created: w.now(), Root: digest(all["1.root.json"]), Oldest: 1, Versions: s.versions, Expires: s.expires, DenyList: s.denied}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		m.Files = append(m.Files, File{name, int64(len(files[name])), digest(files[name])})
	}
	manifest, err := json.Marshal(m)
	check(t, err)
	sig, err := sign(t.Context(), w.key, manifest)
	check(t, err)
	var list []entry
	for _, f := range m.Files {
		list = append(list, entry{tar.Header{Name: f.Name, Size: f.Size}, files[f.Name]})
	}
	return archive(t, manifest, sig, list...)
}

// hidden adds an entry to a good bundle that its manifest does not know.
func hidden(t testing.TB, w *world, extra entry) string {
	t.Helper()
	file := w.export()
	m, files := unpack(t, file)
	manifest, sig := manifestOf(t, file)
	var list []entry
	for _, f := range m.Files {
		if f.Name == extra.Name {
			list = append(list, extra)
			extra.Name = ""
			continue
		}
		list = append(list, entry{tar.Header{Name: f.Name, Size: f.Size}, files[f.Name]})
	}
	if extra.Name != "" {
		list = append(list, extra)
	}
	return archive(t, manifest, sig, list...)
}

func manifestOf(t testing.TB, file string) (manifest, sig []byte) {
	t.Helper()
	f, err := os.Open(file)
	check(t, err)
	defer f.Close()
	b, err := openBundle(f, DefaultMaxSize, func([]byte, []byte) error { return nil })
	check(t, err)
	return b.raw, b.signature
}

func signatureOf(t testing.TB, file string) []byte {
	_, sig := manifestOf(t, file)
	return sig
}

var errCrash = errors.New("crash")

// TestFault stops an import at every point of every write, as kill -9 would, and looks at the mirror with clients.
func TestFault(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, w *world)
		gap    bool // clients are refused between the root and the timestamp
	}{
		{"a denial", func(t *testing.T, w *world) { w.put("revocations/2.json", "two", "revocations/index.json", "[1,2]") }, false},
		{"a holder leaves", func(t *testing.T, w *world) {
			check(t, w.Hold("root", 2, "@alice", "@bob"))
			check(t, w.Rotate())
			w.put("revocations/2.json", "two", "revocations/index.json", "[1,2]")
		}, false},
		{"the online key is replaced", func(t *testing.T, w *world) {
			w.Lose("online")
			check(t, w.Hold("snapshot", 1, "online"))
			check(t, w.Hold("timestamp", 1, "online"))
			check(t, w.Rotate())
			w.put("revocations/2.json", "two", "revocations/index.json", "[1,2]")
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			first := w.export()
			tc.change(t, w)
			check(t, w.Publish())
			second := w.export()
			for stop := 0; ; stop++ {
				w.mirror = filepath.Join(t.TempDir(), "mirror")
				w.must(first)
				var where string
				n, rooted, committed := 0, false, false
				o := w.options()
				o.hook = func(point, name string) error {
					rooted = rooted || name == "2.root.json" && point == "renamed"
					committed = committed || name == "timestamp.json" && point == "renamed"
					if n++; n > stop {
						where = name + " " + point
						return errCrash
					}
					return nil
				}
				_, err := w.take(second, o)
				if err == nil {
					if stop < 25 {
						t.Errorf("only %d points: the hook misses writes", stop)
					}
					return
				}
				if !errors.Is(err, errCrash) {
					t.Fatal(err)
				}
				for v := range int64(2) {
					root, ok := w.Files()[fmt.Sprintf("%d.root.json", v+1)]
					if !ok {
						continue
					}
					got, err := client(t, w.mirror, root, "revocations/index.json")
					switch {
					case tc.gap && !committed && (rooted || v == 1):
						if err == nil {
							t.Errorf("%s: a client from root %d is not refused", where, v+1)
						}
					case v == 1 && !rooted && !committed && err != nil: // it comes from ahead
						t.Errorf("%s: a client from root 2: %v", where, err)
					case err != nil:
						t.Errorf("%s: a client from root %d: %v", where, v+1, err)
					case committed && got != "[1,2]" || !committed && got != "[1]":
						t.Errorf("%s: a client from root %d sees %s", where, v+1, got)
					}
				}
				// What was begun is not undone by the bundle before.
				if _, err := w.take(first, w.options()); err == nil && committed {
					t.Errorf("%s: the bundle before was taken", where)
				}
				w.must(second)
				if got := listing(t, w.mirror); !same(got, union(t, first, second)) {
					t.Errorf("%s: after the next import there are %v", where, slices.Sorted(maps.Keys(got)))
				}
			}
		})
	}
}

// union is what a mirror has after two bundles.
func union(t testing.TB, first, second string) map[string][]byte {
	_, all := unpack(t, first)
	_, b := unpack(t, second)
	maps.Copy(all, b)
	return all
}

// The next import repairs what was damaged in the mirror.
func TestRepair(t *testing.T) {
	w := newWorld(t)
	file := w.export()
	w.must(file)
	check(t, os.Remove(filepath.Join(w.mirror, w.target("a/b/c.txt"))))
	check(t, os.WriteFile(filepath.Join(w.mirror, w.target("trusted_root.json")), []byte("()"), 0o644))
	if x := w.must(file); x.Written != 2 {
		t.Errorf("%+v", x)
	}
	if !same(listing(t, w.mirror), w.Files()) {
		t.Error("the mirror is not whole")
	}
}

func TestContext(t *testing.T) {
	w := newWorld(t)
	file := w.export()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Import(ctx, file, w.mirror, w.options()); !errors.Is(err, context.Canceled) {
		t.Errorf("import: %v", err)
	}
	if _, err := Export(ctx, w.write(), filepath.Join(t.TempDir(), "x"), ExportOptions{Now: w.now}); !errors.Is(err, context.Canceled) {
		t.Errorf("export: %v", err)
	}
}

// FuzzBundle reads whatever somebody brings on a stick.
func FuzzBundle(f *testing.F) {
	w := newWorld(f)
	good := w.export()
	data, err := os.ReadFile(good)
	check(f, err)
	gz, err := gzip.NewReader(bytes.NewReader(data))
	check(f, err)
	plain, err := io.ReadAll(gz)
	check(f, err)
	f.Add(plain)
	manifest, _ := manifestOf(f, good)
	var empty bytes.Buffer
	tw := tar.NewWriter(&empty)
	check(f, tw.WriteHeader(&tar.Header{Name: manifestName, Size: int64(len(manifest)), Mode: 0o644}))
	_, err = tw.Write(manifest)
	check(f, errors.Join(err, tw.Close()))
	f.Add(empty.Bytes())
	_, want := unpack(f, good)
	f.Fuzz(func(t *testing.T, content []byte) {
		var b bytes.Buffer
		gz, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
		check(t, err)
		_, err = gz.Write(content)
		check(t, errors.Join(err, gz.Close()))
		file := filepath.Join(t.TempDir(), "bundle")
		check(t, os.WriteFile(file, b.Bytes(), 0o644))
		mirror := filepath.Join(t.TempDir(), "mirror")
		_, err = Import(t.Context(), file, mirror, ImportOptions{Root: w.Files()["1.root.json"], Now: w.now, MaxSize: 8 << 20})
		got := listing(t, mirror)
		if err != nil && len(got) > 0 || err == nil && !same(got, want) {
			t.Errorf("%v, and the mirror has %v", err, slices.Sorted(maps.Keys(got)))
		}
	})
}
