package tuf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/reseal/reseal/internal/durable"
)

// A file is one to be stored, by its slash-separated path below a directory.
type file struct {
	name string
	data []byte
	from string // another name below the directory, under which it may be durable already, and is to go; empty: none
	temp string // the name that it is written under
}

// tempName begins the names of files that are being written. Writers hold the repository's lock, so there is at most
// one; and since a file has the same temporary name whenever the same files are written, what a killed writer left is
// replaced by whoever finishes for it, instead of piling up.
const tempName = ".reseal.tmp"

// tempOf is the name under which file n of a call is written, in the directory that it is for.
func tempOf(name string, n int) string {
	temp := tempName
	if n > 0 {
		temp = fmt.Sprintf("%s-%d", tempName, n)
	}
	return path.Join(path.Dir(name), temp)
}

// Files are written this many at a time, and synced by as many at once as makes the file system do it in one go: waiting
// for the disk for every file by itself is nearly all that writing thousands of small files takes.
const (
	batch  = 256
	syncer = 64
)

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
		at := path.Dir(f.name)
		if slices.Contains(dirs, at) {
			continue
		}
		// Also those that are found are synced: the writer that made them may have been killed before it could.
		if err := durable.MkdirAll(root, at); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
		dirs = append(dirs, at)
	}
	var write []file
	for n, f := range files {
		moved, err := r.move(root, f)
		if err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
		if !moved {
			f.temp = tempOf(f.name, n)
			write = append(write, f)
		}
	}
	for together := range slices.Chunk(write, batch) {
		if err := r.writeTogether(ctx, root, together); err != nil {
			return err
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

// move moves a file that is durable under another name, if it is there and what it should be. Its new name is not
// durable yet.
func (r *Repository) move(root *os.Root, f file) (moved bool, err error) {
	if f.from == "" || isLink(root, f.from) {
		return false, nil
	}
	if data, err := root.ReadFile(f.from); err != nil || !bytes.Equal(data, f.data) {
		return false, nil
	}
	if err := r.reach("move", f.name); err != nil {
		return false, err
	}
	if root.Rename(f.from, f.name) != nil {
		return false, nil // it can be written all the same
	}
	return true, r.reach("moved", f.name)
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

// writeTogether puts files in place of what has their names, in their order, in directories that exist. Their content is
// durable before the first has its name: else a crash could leave a name with nothing behind it. The names are not yet.
func (r *Repository) writeTogether(ctx context.Context, root *os.Root, files []file) error {
	open := make([]*os.File, 0, len(files))
	defer func() {
		for _, w := range open {
			w.Close() // for the error paths: the others are closed already, and checked
		}
	}()
	for _, f := range files {
		w, err := r.writeTemp(ctx, root, f)
		if w != nil {
			open = append(open, w)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	var all errgroup.Group
	all.SetLimit(syncer)
	for n, w := range open {
		all.Go(func() error {
			if err := errors.Join(w.Sync(), w.Close()); err != nil {
				return fmt.Errorf("write %s: %w", files[n].name, err)
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	for _, f := range files {
		if err := r.reach("synced", f.name); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
		if err := root.Rename(f.temp, f.name); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
		if err := r.reach("renamed", f.name); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	return nil
}

// writeTemp writes the content of f under another name, and returns the file, open, if there is one.
func (r *Repository) writeTemp(ctx context.Context, root *os.Root, f file) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := r.reach("start", f.name); err != nil {
		return nil, err
	}
	if err := root.Remove(f.temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	w, err := root.OpenFile(f.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	if err := r.reach("created", f.name); err != nil {
		return w, err
	}
	_, err = w.Write(f.data)
	return w, err
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

// remove removes files below dir, durably when it returns nil. It is no error when one is not there.
func (r *Repository) remove(dir string, names ...string) error {
	root, err := durable.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var dirs []string
	for _, name := range names {
		if err := r.reach("remove", name); err != nil {
			return err
		}
		if err := root.Remove(name); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		if err := r.reach("removed", name); err != nil {
			return err
		}
		if at := path.Dir(name); !slices.Contains(dirs, at) {
			dirs = append(dirs, at)
		}
	}
	for _, d := range dirs {
		if err := durable.SyncDir(root, d); err != nil {
			return err
		}
	}
	return nil
}

// reach tells the test hook how far a write has come; an error from it stops there, as a crash would.
func (r *Repository) reach(point, name string) error {
	if r.hook == nil {
		return nil
	}
	return r.hook(point, name)
}
