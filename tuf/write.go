package tuf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/reseal/reseal/internal/durable"
)

// A file is one to be stored, by its slash-separated path below a directory.
type file struct {
	name string
	data []byte
}

// tempName is the same for every write into a directory. Writers hold the repository's lock, so there is at most one;
// and what a killed writer left is replaced by the next one instead of piling up.
const tempName = ".reseal.tmp"

// writeAll stores files below dir, in their order as far as the file system keeps one: a reader finds, at any time and
// after a crash of the process or of the machine, either what was there before or all of a file. When writeAll returns
// nil they are durable. It stops at the first error and leaves what it wrote. What has to be there before something else
// is belongs into a call of its own.
func (r *Repository) writeAll(ctx context.Context, dir string, files []file) error {
	if err := makeDir(dir); err != nil {
		return err
	}
	root, err := durable.OpenRoot(dir) // no path, not even by way of a symbolic link, leads out of it
	if err != nil {
		return err
	}
	defer root.Close()
	return r.writeIn(ctx, root, files)
}

func (r *Repository) writeIn(ctx context.Context, root *os.Root, files []file) error {
	var dirs []string // each once: with many files, syncing them is most of the work
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := path.Dir(f.name)
		if !slices.Contains(dirs, at) {
			// Also those that are found are synced: the writer that made them may have been killed before it could.
			if err := durable.MkdirAll(root, at); err != nil {
				return fmt.Errorf("write %s: %w", f.name, err)
			}
			dirs = append(dirs, at)
		}
		if err := r.write(root, f); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	for _, d := range dirs {
		if err := durable.SyncDir(root, d); err != nil {
			return err
		}
		if err := r.reach("synced", d); err != nil {
			return err
		}
	}
	return nil
}

// makeDir makes a directory that lasts; a parent that may not be read cannot be synced.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	parent, err := os.OpenRoot(filepath.Dir(dir))
	if err != nil {
		return nil
	}
	defer parent.Close()
	return durable.SyncDir(parent, ".")
}

// write puts f in place of what has its name, in a directory that exists. The content is durable, its name not yet.
func (r *Repository) write(root *os.Root, f file) error {
	dir := path.Dir(f.name)
	temp := path.Join(dir, tempName)
	if err := r.reach("start", f.name); err != nil {
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
	return r.reach("renamed", f.name)
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
	if err := durable.SyncDir(root, dir); err != nil {
		return err
	}
	return r.reach("done", name)
}

// remove removes a file below dir, durably. It is no error when it is not there.
func (r *Repository) remove(dir, name string) error {
	root, err := durable.OpenRoot(dir)
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
	return durable.SyncDir(root, path.Dir(name))
}

// reach tells the test hook how far a write has come; an error from it stops there, as a crash would.
func (r *Repository) reach(point, name string) error {
	if r.hook == nil {
		return nil
	}
	return r.hook(point, name)
}
