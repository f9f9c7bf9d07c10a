package airgap

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/reseal/reseal/internal/durable"
)

// tempName is the same for every write into a directory. Writers hold the directory's lock, so there is at most one;
// and what a killed writer left is replaced by the next one instead of piling up.
const tempName = ".reseal.tmp"

// mirror is a directory that is written to.
type mirror struct {
	*os.Root
	hook func(point, name string) error // for tests: see reach
}

// write stores a file so that a reader finds, at any time and after a crash of the process or of the machine, either what
// was there before or all of r; and so that it is durable when write returns nil. When r fails nothing is replaced.
func (m mirror) write(name string, r io.Reader) error {
	dir := path.Dir(name)
	temp := path.Join(dir, tempName)
	if err := m.reach("start", name); err != nil {
		return err
	}
	if err := durable.MkdirAll(m.Root, dir); err != nil {
		return err
	}
	if err := m.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	w, err := m.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer w.Close() // for the error paths; the result that counts is checked below
	if err := m.reach("created", name); err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		return errors.Join(err, m.Remove(temp))
	}
	// The content before the name: else a crash could leave the name with nothing behind it.
	if err := w.Sync(); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := m.reach("synced", name); err != nil {
		return err
	}
	if err := m.Rename(temp, name); err != nil {
		return err
	}
	if err := m.reach("renamed", name); err != nil {
		return err
	}
	if err := durable.SyncDir(m.Root, dir); err != nil {
		return err
	}
	return m.reach("done", name)
}

// reach tells the test hook how far a write has come; an error from it stops there, as a crash would.
func (m mirror) reach(point, name string) error {
	if m.hook == nil {
		return nil
	}
	return m.hook(point, name)
}
