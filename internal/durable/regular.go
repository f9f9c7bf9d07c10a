package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// ErrNotRegular is why something that stands where a file should is not read.
var ErrNotRegular = errors.New("it is no regular file")

// Open opens a regular file to read it. Anything else that somebody may have put
// in its place, such as a pipe, a socket, a device or a directory, is refused: to
// open it may wait forever, and to read it may never end. The error is an
// fs.PathError with the name, and wraps ErrNotRegular.
func Open(name string) (*os.File, error) {
	return open(name, os.Stat, os.OpenFile)
}

// OpenIn is Open for a file below root, by its slash-separated path.
func OpenIn(root *os.Root, name string) (*os.File, error) {
	return open(name, root.Stat, root.OpenFile)
}

// open looks before it opens, since to open a device may do something, and after
// it, since another may have the name by then. It never waits for a writer.
func open(name string, stat func(string) (fs.FileInfo, error), openFile func(string, int, fs.FileMode) (*os.File, error)) (*os.File, error) {
	info, err := stat(name)
	if err != nil {
		return nil, err
	}
	refused := &fs.PathError{Op: "open", Path: name, Err: ErrNotRegular}
	if !info.Mode().IsRegular() {
		return nil, refused
	}
	f, err := openFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err == nil && !info.Mode().IsRegular() {
		err = refused
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ReadFile returns the content of a regular file; see Open.
func ReadFile(name string) ([]byte, error) { return readAll(Open(name)) }

// ReadFileIn is ReadFile for a file below root; see OpenIn.
func ReadFileIn(root *os.Root, name string) ([]byte, error) { return readAll(OpenIn(root, name)) }

func readAll(f *os.File, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// OpenRoot is os.OpenRoot, which waits forever where a pipe has the name.
func OpenRoot(dir string) (*os.Root, error) {
	if dir != "" {
		dir += string(filepath.Separator) // only a directory has a name that ends so
	}
	return os.OpenRoot(dir)
}

// ReadDirIn returns what is in a directory below root, in order of the names. It
// fails where something else has the name, instead of waiting for it.
func ReadDirIn(root *os.Root, dir string) ([]fs.DirEntry, error) {
	d, err := root.OpenFile(dir, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	list, err := d.ReadDir(-1)
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, err
}
