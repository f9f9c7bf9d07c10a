package tuf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
)

// A file is one to be stored, by its slash-separated path below a directory.
type file struct {
	name string
	data []byte
}

// tempName is the same for every write into a directory. Writers hold the repository's lock, so there is at most one;
// and what a killed writer left is replaced by the next one instead of piling up.
const tempName = ".reseal.tmp"

// writeAll stores files below dir in order, each as write does. It stops at the first error and leaves what it wrote.
func (r *Repository) writeAll(ctx context.Context, dir string, files []file) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir) // no path, not even by way of a symbolic link, leads out of it
	if err != nil {
		return err
	}
	defer root.Close()
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.write(root, f); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	return nil
}

// write stores f so that a reader finds, at any time and after a crash of the process or of the machine, either what
// was there before or all of f; and so that f is durable when write returns nil.
func (r *Repository) write(root *os.Root, f file) error {
	dir := path.Dir(f.name)
	temp := path.Join(dir, tempName)
	if err := r.reach("start", f.name); err != nil {
		return err
	}
	if err := mkdirAll(root, dir); err != nil {
		return err
	}
	if err := root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	w, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer w.Close() // for the error paths; the result that counts is checked below
	if err := r.reach("created", f.name); err != nil {
		return err
	}
	if _, err := w.Write(f.data); err != nil {
		return err
	}
	// The content before the name: else a crash could leave the name with nothing behind it.
	if err := w.Sync(); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := r.reach("synced", f.name); err != nil {
		return err
	}
	if err := root.Rename(temp, f.name); err != nil {
		return err
	}
	if err := r.reach("renamed", f.name); err != nil {
		return err
	}
	if err := syncDir(root, dir); err != nil {
		return err
	}
	return r.reach("done", f.name)
}

// link makes name a symbolic link to target, which is relative to name's directory, in place of what has that name.
func (r *Repository) link(root *os.Root, target, name string) error {
	dir := path.Dir(name)
	temp := path.Join(dir, tempName)
	if err := r.reach("start", name); err != nil {
		return err
	}
	if err := root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := root.Symlink(target, temp); err != nil {
		return err
	}
	if err := r.reach("linked", name); err != nil {
		return err
	}
	if err := root.Rename(temp, name); err != nil {
		return err
	}
	if err := r.reach("renamed", name); err != nil {
		return err
	}
	if err := syncDir(root, dir); err != nil {
		return err
	}
	return r.reach("done", name)
}

// remove removes a file below dir, durably. It is no error when it is not there.
func (r *Repository) remove(dir, name string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := r.reach("remove", name); err != nil {
		return err
	}
	if err := root.Remove(name); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := r.reach("removed", name); err != nil {
		return err
	}
	return syncDir(root, path.Dir(name))
}

// reach tells the test hook how far a write has come; an error from it stops there, as a crash would.
func (r *Repository) reach(point, name string) error {
	if r.hook == nil {
		return nil
	}
	return r.hook(point, name)
}

// mkdirAll makes dir and its parents durable. It also syncs directories it finds, since the writer that made them may
// have been killed before it could.
func mkdirAll(root *os.Root, dir string) error {
	if dir == "." {
		return nil
	}
	if err := mkdirAll(root, path.Dir(dir)); err != nil {
		return err
	}
	if err := root.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(root, path.Dir(dir))
}

func syncDir(root *os.Root, dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there; renames are journaled by the file system
	}
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
