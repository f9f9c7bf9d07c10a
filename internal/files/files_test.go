package files

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T) (*Dir, string) {
	t.Helper()
	dir := t.TempDir()
	d, err := Open(dir)
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	return d, dir
}

func digest(content string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(content))) }

// there lists everything below a directory.
func there(t *testing.T, dir string) (names []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if !e.IsDir() {
			name, relErr := filepath.Rel(dir, path)
			names, err = append(names, name), errors.Join(err, relErr)
		}
		return err
	}))
	return names
}

func TestFind(t *testing.T) {
	t.Parallel()
	d, dir := open(t)
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, []byte("one"), 0o600))
	must(t, os.MkdirAll(filepath.Join(dir, "sub", "deep"), 0o755))
	for name, content := range map[string]string{"b": "one", "sub/deep/a": "one", "two": "two", "empty": ""} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	must(t, os.Symlink(outside, filepath.Join(dir, "link")))
	must(t, os.Symlink("two", filepath.Join(dir, "inner")))
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644))
	for content, want := range map[string][]string{"one": {"b", "sub/deep/a"}, "two": {"two"}, "": {"empty"}, "three": nil} {
		got, err := d.Find(t.Context(), digest(content))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: found %v, %v, want %v", content, got, err, want)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	d.byHash = nil
	if _, err := d.Find(ended, digest("one")); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	d, dir := open(t)
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o644))
	got, err := d.Read("file", 7)
	must(t, err)
	if string(got) != "content" {
		t.Errorf("read %q", got)
	}
	if _, err := d.Read("file", 6); err == nil || !strings.Contains(err.Error(), "longer than 6 bytes") {
		t.Errorf("too long: %v", err)
	}
	if _, err := d.Read("none", 6); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
}

func TestCreate(t *testing.T) {
	t.Parallel()
	d, dir := open(t)
	long := strings.Repeat("n", 240) + ".sig"
	for _, name := range []string{"a.sig", "sub/deep/a.sig", "sub/b.sig", long} {
		must(t, d.Create(name, []byte(name)))
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != name {
			t.Errorf("%s: read %q, %v", name, got, err)
		}
		if err := d.Create(name, []byte("other")); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s was written twice: %v", name, err)
		}
	}
	if got, want := there(t, dir), []string{"a.sig", long, "sub/b.sig", "sub/deep/a.sig"}; !slices.Equal(got, want) {
		t.Errorf("there are %v, want %v", got, want)
	}
	if err := d.Create("a.sig/b", nil); err == nil {
		t.Error("a file was taken for a directory")
	}
}

// TestSync has somebody else write a file, who may not have synced it.
func TestSync(t *testing.T) {
	t.Parallel()
	d, dir := open(t)
	must(t, os.MkdirAll(filepath.Join(dir, "sub", "deep"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "sub", "deep", "a.sig"), []byte("content"), 0o444))
	must(t, os.WriteFile(filepath.Join(dir, "b.sig"), nil, 0o644))
	must(t, os.Symlink("b.sig", filepath.Join(dir, "link.sig")))
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipe.sig"), 0o644))
	for _, name := range []string{"sub/deep/a.sig", "b.sig"} {
		must(t, d.Sync(name))
	}
	for _, name := range []string{"none.sig", "none/a.sig", "sub", "link.sig", "pipe.sig", "../b.sig"} {
		if err := d.Sync(name); err == nil || !strings.Contains(err.Error(), "syncing ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, want := there(t, dir), []string{"b.sig", "link.sig", "pipe.sig", "sub/deep/a.sig"}; !slices.Equal(got, want) {
		t.Errorf("there are %v, want %v", got, want)
	}
}

// TestCreateOnce has many write the same name: one of them does, and whoever
// reads meanwhile reads all of it.
func TestCreateOnce(t *testing.T) {
	t.Parallel()
	d, _ := open(t)
	var written atomic.Int64
	var wg sync.WaitGroup
	for n := range 16 {
		content := bytes.Repeat([]byte{byte('a' + n)}, 64<<10)
		wg.Go(func() {
			err := d.Create("dir/it", content)
			if err == nil {
				written.Add(1)
			} else if !errors.Is(err, fs.ErrExist) {
				t.Error(err)
			}
			got, err := d.Read("dir/it", 1<<20)
			if err != nil || len(got) != len(content) || !bytes.Equal(got, bytes.Repeat(got[:1], len(got))) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	if written.Load() != 1 {
		t.Errorf("written %d times", written.Load())
	}
}

// TestLeftOver has a crash leave a temporary file behind, and another process
// write one just now.
func TestLeftOver(t *testing.T) {
	t.Parallel()
	d, dir := open(t)
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	for _, name := range []string{prefix + "OLD" + suffix, "sub/" + prefix + "OLD" + suffix, prefix + "NEW" + suffix, "old.tmp"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("cont"), 0o644))
		if !strings.Contains(name, "NEW") {
			must(t, os.Chtimes(filepath.Join(dir, name), time.Time{}, time.Now().Add(-2*leftAfter)))
		}
	}
	must(t, d.Create("sub/a.sig", []byte("content")))
	if got, want := there(t, dir), []string{prefix + "NEW" + suffix, "old.tmp", "sub/a.sig"}; !slices.Equal(got, want) {
		t.Errorf("there are %v, want %v", got, want)
	}
	if found, err := d.Find(t.Context(), digest("cont")); err != nil || !slices.Equal(found, []string{"old.tmp"}) {
		t.Errorf("found %v, %v", found, err)
	}
}

// TestReadOnly has nothing left behind where nothing can be written.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if os.Getuid() == 0 { // who may write everywhere but here
		dir = "/proc"
	} else {
		must(t, os.Chmod(dir, 0o555))
		t.Cleanup(func() { must(t, os.Chmod(dir, 0o755)) })
	}
	d, err := Open(dir)
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	d.sweeping.Do(func() {}) // not all of /proc
	for _, name := range []string{"a.sig", "sub/a.sig"} {
		if err := d.Create(name, []byte("content")); err == nil {
			t.Errorf("%s was written", name)
		}
	}
}

// TestFullDisk writes where files can become no longer than a page: nothing of a
// longer one is left behind.
func TestFullDisk(t *testing.T) {
	const inside = "RESEAL_TEST_FULL_DISK"
	if dir := os.Getenv(inside); dir != "" {
		signal.Ignore(syscall.SIGXFSZ)
		must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 4096, Max: 4096}))
		d, err := Open(dir)
		must(t, err)
		must(t, d.Create("short.sig", make([]byte, 4096)))
		if err := d.Create("long.sig", make([]byte, 4097)); !errors.Is(err, syscall.EFBIG) {
			t.Errorf("got %v", err)
		}
		return
	}
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestFullDisk$")
	cmd.Env = append(os.Environ(), inside+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if got := there(t, dir); !slices.Equal(got, []string{"short.sig"}) {
		t.Errorf("there are %v", got)
	}
}

func TestAttack(t *testing.T) {
	t.Parallel()
	t.Run("names and links that lead out of the directory", func(t *testing.T) {
		t.Parallel()
		d, dir := open(t)
		outside := t.TempDir()
		must(t, os.Symlink(outside, filepath.Join(dir, "away")))
		must(t, os.Symlink(filepath.Join(outside, "planted"), filepath.Join(dir, "a.sig")))
		must(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600))
		must(t, os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "read.sig")))
		for _, name := range []string{"../a.sig", "/a.sig", "sub/../../a.sig", "away/a.sig", "away/sub/a.sig", "a.sig", "", ".", "..", "sub//a"} {
			if err := d.Create(name, []byte("content")); err == nil {
				t.Errorf("%q was written", name)
			}
		}
		for _, name := range []string{"../secret", "away/secret", "read.sig", filepath.Join(outside, "secret")} {
			if got, err := d.Read(name, 100); err == nil {
				t.Errorf("%q was read: %q", name, got)
			}
		}
		if got := there(t, outside); !slices.Equal(got, []string{"secret"}) {
			t.Errorf("outside there are %v", got)
		}
		if found, err := d.Find(t.Context(), digest("secret")); err != nil || len(found) > 0 {
			t.Errorf("what is outside was found: %v, %v", found, err)
		}
	})
}
