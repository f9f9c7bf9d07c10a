//go:build unix

package durable

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const createDir = "RESEAL_TEST_CREATE_DIR"

func created() []byte { return bytes.Repeat([]byte("reseal\n"), 32<<20/7) }

// TestCreateFileVictim is what TestCreateFileKilled runs in a process of its own.
func TestCreateFileVictim(t *testing.T) {
	dir, ok := os.LookupEnv(createDir)
	if !ok {
		t.Skip("it is a process that TestCreateFileKilled starts")
	}
	if err := CreateFile(filepath.Join(dir, "file"), created(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestCreateFileKilled kills a process with SIGKILL while it writes: what it leaves is not in the way of the next one.
func TestCreateFileKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	victim := exec.Command(os.Args[0], "-test.run", "^TestCreateFileVictim$")
	victim.Env = append(os.Environ(), createDir+"="+dir)
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Microsecond) {
		if entries, _ := os.ReadDir(dir); len(entries) > 0 || time.Now().After(deadline) {
			break
		}
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait() // killed
	file := filepath.Join(dir, "file")
	if data, err := os.ReadFile(file); err == nil {
		if !bytes.Equal(data, created()) {
			t.Errorf("%d of %d bytes are left under its name", len(data), len(created()))
		}
		return
	}
	if err := CreateFile(file, created(), 0o644); err != nil {
		t.Errorf("the next one: %v", err)
	}
}
