// Package files finds signed files in a directory by their digest, and writes
// signatures into one so that nothing that is there is ever overwritten.
//
// Names are below the directory and cannot lead out of it, also where somebody
// puts a symbolic link in the way.
package files

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/reseal/reseal/internal/durable"
)

// Dir is a directory. It is safe for concurrent use.
type Dir struct {
	name string
	root *os.Root

	walking  chan struct{} // has room for whoever walks
	sweeping sync.Once
	byHash   map[string][]string // nil: nobody has walked yet
}

// Open opens a directory that exists.
func Open(dir string) (*Dir, error) {
	root, err := durable.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Dir{name: dir, root: root, walking: make(chan struct{}, 1)}, nil
}

// Close closes the directory.
func (d *Dir) Close() error { return d.root.Close() }

// String returns the name that the directory was opened by.
func (d *Dir) String() string { return d.name }

// Find returns the names of the regular files below the directory that have a
// digest ("sha256:<hex>"), in order; none is no error. The first call reads every
// file there is. What changes afterwards is not seen: check what you read.
func (d *Dir) Find(ctx context.Context, digest string) ([]string, error) {
	select {
	case d.walking <- struct{}{}:
		defer func() { <-d.walking }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if d.byHash == nil {
		found, err := d.walk(ctx)
		if err != nil {
			return nil, fmt.Errorf("files in %s: %w", d.name, err)
		}
		d.byHash = found
	}
	return d.byHash[digest], nil
}

func (d *Dir) walk(ctx context.Context) (map[string][]string, error) {
	found := map[string][]string{}
	err := fs.WalkDir(d.root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case !e.Type().IsRegular() || strings.HasPrefix(e.Name(), prefix):
			return nil
		}
		f, err := d.Reader(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it is gone again
		}
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		digest := "sha256:" + hex.EncodeToString(h.Sum(nil))
		found[digest] = append(found[digest], name)
		return nil
	})
	return found, err
}

// Reader opens a regular file. An error wraps fs.ErrNotExist where there is none.
func (d *Dir) Reader(name string) (io.ReadCloser, error) {
	f, err := d.open(name)
	if err != nil {
		return nil, err // and no typed nil
	}
	return f, nil
}

func (d *Dir) open(name string) (*os.File, error) {
	// A link is refused where it can be seen. Where one appears later the root
	// keeps it inside.
	info, err := d.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", path.Join(d.name, name), durable.ErrNotRegular)
	}
	return durable.OpenIn(d.root, name)
}

// Read returns the content of a regular file of at most limit bytes.
func (d *Dir) Read(name string, limit int64) ([]byte, error) {
	f, err := d.Reader(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%s is longer than %d bytes", path.Join(d.name, name), limit)
	}
	return content, err
}

// Create writes a file that is not there, with the directories above it. Readers,
// also after a crash of the machine, find either none of it or all. Whatever has
// the name is left alone, and the error wraps fs.ErrExist.
func (d *Dir) Create(name string, content []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %s: %w", path.Join(d.name, name), err)
		}
	}()
	if !fs.ValidPath(name) || name == "." {
		return fmt.Errorf("%q is no name below a directory", name)
	}
	dir := path.Dir(name)
	if err := durable.MkdirAll(d.root, dir); err != nil {
		return err
	}
	if _, err := d.root.Lstat(name); err == nil {
		return fs.ErrExist
	}
	d.sweeping.Do(func() { d.sweep(time.Now().Add(-leftAfter)) })
	temporary := path.Join(dir, prefix+rand.Text()+suffix)
	f, err := d.root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if _, err = f.Write(content); err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = d.place(temporary, name)
	}
	err = errors.Join(err, d.root.Remove(temporary))
	return cmp.Or(err, durable.SyncDir(d.root, dir))
}

// Sync makes a file that is there last, whoever wrote it, with the directories
// that it is in.
func (d *Dir) Sync(name string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("syncing %s: %w", path.Join(d.name, name), err)
		}
	}()
	f, err := d.open(name)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	dir := path.Dir(name)
	if err := durable.MkdirAll(d.root, dir); err != nil { // it syncs what it finds
		return err
	}
	return durable.SyncDir(d.root, dir)
}

// place gives a file its name, which nothing must have.
func (d *Dir) place(temporary, name string) error {
	err := d.root.Link(temporary, name)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	return fmt.Errorf("%w (a file gets its name by a hard link, so that it overwrites nothing: does the file system know those?)", err)
}

// How temporary files are called, and how old one is that a crash left behind.
const (
	prefix, suffix = ".reseal-", ".tmp"
	leftAfter      = time.Hour
)

// sweep takes away what crashes left behind. What cannot be taken away is left.
func (d *Dir) sweep(before time.Time) {
	_ = fs.WalkDir(d.root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), prefix) || !strings.HasSuffix(e.Name(), suffix) {
			return nil
		}
		if info, err := e.Info(); err == nil && info.ModTime().Before(before) {
			_ = d.root.Remove(name)
		}
		return nil
	})
}
