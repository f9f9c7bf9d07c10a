// Package durable writes files that survive a crash, and reads none that is no
// file.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile replaces the content of a file so that a reader finds, at any time
// and after a crash of the process or the machine, either all of the old
// content or all of the new: the new content is written beside it, synced,
// renamed over it, and the directory is synced.
func WriteFile(file string, content []byte, mode os.FileMode) (err error) {
	dir := filepath.Dir(file)
	f, err := os.CreateTemp(dir, "."+filepath.Base(file)+".*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	if _, err = f.Write(content); err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", file, err), os.Remove(f.Name()))
	}
	return syncDir(dir)
}

// CreateFile is WriteFile for a file that must not exist yet, and of which there is either all or nothing after an
// error or a crash. The error for one that exists is fs.ErrExist. On a file system without hard links, such as that of
// a memory stick, a crash can leave a part of it.
func CreateFile(file string, content []byte, mode os.FileMode) (err error) {
	dir := filepath.Dir(file)
	f, err := os.CreateTemp(dir, "."+filepath.Base(file)+".*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	if _, err = f.Write(content); err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	err = os.Link(f.Name(), file) // unlike a rename it replaces nothing
	if failed := new(os.LinkError); errors.As(err, &failed) {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("writing %s: %w", file, &fs.PathError{Op: "create", Path: file, Err: failed.Err})
		}
		err = createPlain(file, content, mode)
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// createPlain creates a file where there are no hard links.
func createPlain(file string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", file, err), os.Remove(file))
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}
