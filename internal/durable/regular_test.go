//go:build unix

package durable

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/reseal/reseal/internal/sandbox"
)

func TestOpen(t *testing.T) {
	dir, err := os.MkdirTemp("", "d") // a short name: a socket's has at most 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600))
	must(os.Symlink("file", filepath.Join(dir, "link")))
	must(os.Mkdir(filepath.Join(dir, "directory"), 0o700))
	must(syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	must(os.Symlink("pipe", filepath.Join(dir, "link-to-pipe")))
	must(os.Symlink("/dev/zero", filepath.Join(dir, "device")))
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	must(err)
	defer l.Close()
	root, err := OpenRoot(dir)
	must(err)
	defer root.Close()

	for name, want := range map[string]error{
		"file": nil, "link": nil, "none": fs.ErrNotExist, "directory": ErrNotRegular, "pipe": ErrNotRegular, "link-to-pipe": ErrNotRegular,
		"device": ErrNotRegular, "socket": ErrNotRegular,
	} {
		must(sandbox.Ends(name, func() {
			for in, read := range map[string]func() ([]byte, error){
				"":       func() ([]byte, error) { return ReadFile(filepath.Join(dir, name)) },
				"below ": func() ([]byte, error) { return ReadFileIn(root, name) },
			} {
				got, err := read()
				if in != "" && name == "device" { // it is not below
					if err == nil {
						t.Error("a link out of the root was followed")
					}
					continue
				}
				if !errors.Is(err, want) || err == nil && string(got) != "content" {
					t.Errorf("%s%s: %q, %v, want %v", in, name, got, err, want)
				}
				if err != nil && !strings.Contains(err.Error(), name) {
					t.Errorf("%s%s is not named: %v", in, name, err)
				}
			}
		}))
		must(sandbox.Ends(name, func() {
			r, err := OpenRoot(filepath.Join(dir, name))
			if (err == nil) != (name == "directory") {
				t.Errorf("%s as a directory: %v", name, err)
			}
			if err == nil {
				r.Close()
			}
			if _, err := ReadDirIn(root, name); (err == nil) != (name == "directory") {
				t.Errorf("%s as a directory below: %v", name, err)
			}
		}))
	}
	if _, err := OpenRoot(""); err == nil {
		t.Error("no name at all is taken for a directory")
	}
	list, err := ReadDirIn(root, ".")
	must(err)
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"device", "directory", "file", "link", "link-to-pipe", "pipe", "socket"}) {
		t.Errorf("%v", names)
	}
}
