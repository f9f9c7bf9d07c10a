package durable

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

func TestWriteFile(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name         string
		old, content []byte // old nil: no file
		mode         os.FileMode
	}{
		{"a new file", nil, []byte("new"), 0o644},
		{"over an old one", []byte("old and longer"), []byte("new"), 0o644},
		{"nothing", []byte("old"), []byte{}, 0o600},
		{"a secret", []byte("old"), []byte("new"), 0o600},
		{"a large one", nil, bytes.Repeat([]byte("x"), 1<<20), 0o640},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "anchor.pub")
			if tc.old != nil {
				if err := os.WriteFile(file, tc.old, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			if err := WriteFile(file, tc.content, tc.mode); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(file)
			if err != nil || !bytes.Equal(got, tc.content) {
				t.Errorf("read %d bytes, %v, want %d", len(got), err, len(tc.content))
			}
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != tc.mode {
				t.Errorf("mode %v, %v, want %v", info.Mode(), err, tc.mode)
			}
			wantFiles(t, filepath.Dir(file), 1)
		})
	}
}

func wantFiles(t *testing.T, dir string, want int) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != want {
		t.Errorf("%d files are there, %v, want %d: %v", len(files), err, want, files)
	}
}

func TestWriteFileFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := WriteFile(filepath.Join(dir, "none", "file"), nil, 0o644); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: got %v", err)
	}
	// A directory stands where the file should be: what is written beside it goes away again.
	taken := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(taken, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(taken, []byte("new"), 0o644); err == nil {
		t.Error("written over a directory")
	}
	wantFiles(t, dir, 1)
}

// TestWriteFileIsAtomic reads while it is written: all of one content or all
// of the other.
func TestWriteFileIsAtomic(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	contents := [][]byte{bytes.Repeat([]byte("a"), 100_000), bytes.Repeat([]byte("b"), 50_000)}
	if err := WriteFile(file, contents[0], 0o644); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				got, err := os.ReadFile(file)
				if err != nil || !bytes.Equal(got, contents[0]) && !bytes.Equal(got, contents[1]) {
					t.Errorf("read %d bytes, %v", len(got), err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for n := range 40 {
		if err := WriteFile(file, contents[n%2], 0o644); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wg.Wait()
}

func TestCreateFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "alice.key")
	if err := CreateFile(file, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := CreateFile(file, []byte("second"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file that exists: got %v", err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "first" {
		t.Errorf("read %q, %v: it was overwritten", got, err)
	}
	link := file + ".link"
	if err := os.Symlink(filepath.Join(filepath.Dir(file), "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	if err := CreateFile(link, nil, 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("through a link that leads nowhere: got %v", err)
	}
	if err := CreateFile(filepath.Join(file, "none"), nil, 0o600); err == nil {
		t.Error("below a file: no error")
	}
	wantFiles(t, filepath.Dir(file), 2)
}
