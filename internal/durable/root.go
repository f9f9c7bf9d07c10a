package durable

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"runtime"
)

// MkdirAll makes a directory below root, by its slash-separated path, and its
// parents, so that they last. It also syncs directories that it finds: the writer
// that made them may have been killed before it could.
func MkdirAll(root *os.Root, dir string) error {
	if dir == "." {
		return nil
	}
	if err := MkdirAll(root, path.Dir(dir)); err != nil {
		return err
	}
	if err := root.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(root, path.Dir(dir))
}

// SyncDir makes the names in a directory below root last.
func SyncDir(root *os.Root, dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there; renames are journaled by the file system
	}
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
