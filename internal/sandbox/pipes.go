//go:build unix

package sandbox

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Ends does something, and returns an error when it has not ended after a minute:
// it waits for what never comes.
func Ends(what string, do func()) error {
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
		return nil
	case <-time.After(time.Minute):
		return fmt.Errorf("%s: it still waits", what)
	}
}

// Pipes does something with a copy of a directory for each file in it, made below
// the directory to. That file is a pipe in the copy, which keeps waiting whoever
// opens it as a file; name is its path in the copy.
func Pipes(dir, to string, do func(copied, name string)) error {
	n := 0
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		n++
		copied := filepath.Join(to, strconv.Itoa(n))
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			return err
		}
		pipe := filepath.Join(copied, name)
		if err := os.Remove(pipe); err != nil {
			return err
		}
		if err := syscall.Mkfifo(pipe, 0o644); err != nil {
			return err
		}
		return Ends(name, func() { do(copied, name) })
	})
}
