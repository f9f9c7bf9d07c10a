//go:build unix

package tuf

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// killedOnline is the online key that TestKill publishes with, in both of its processes.
func killedOnline(t *testing.T) person {
	return newPerson(t, "", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize)))
}

const (
	killDir = "RESEAL_TEST_KILL_DIR" // of the repository
	killAt  = "RESEAL_TEST_KILL_AT"  // how many points of its writes the process lives to see
)

// TestKillVictim is what TestKill runs in a process of its own.
func TestKillVictim(t *testing.T) {
	dir, ok := os.LookupEnv(killDir)
	if !ok {
		t.Skip("it is a process that TestKill starts")
	}
	left, err := strconv.Atoi(os.Getenv(killAt))
	check(t, err)
	r, err := Open(dir, Options{})
	check(t, err)
	r.hook = func(string, string) error {
		if left--; left < 0 {
			return errors.Join(syscall.Kill(os.Getpid(), syscall.SIGKILL), errors.New("survived"))
		}
		return nil
	}
	_, err = r.Publish(t.Context(), killedOnline(t).Signer)
	check(t, err)
}

// TestKill kills a process with SIGKILL at every point of every write of a publication that replaces root's keys, the
// online key and a target. Each time clients, with caches and without, still refresh, to the old state or the new one;
// and another process finishes it.
func TestKill(t *testing.T) {
	t.Parallel()
	const name = "trusted_root.json"
	base := &scene{*newOrg(t), ""}
	base.root = filepath.Dir(base.dir)
	kinds := []string{"go-tuf", "sigstore-go"}
	for _, kind := range kinds {
		_, err := look(kind, base.published, base.pinned, base.cache(kind), name)
		check(t, err)
	}
	carol := newP256(t, "@carol")
	base.propose(t, SetOnline{Online{killedOnline(t).Key, "x"}}, ReplaceKey{carol.Holder}, SetTarget{Name: name, Data: []byte("new")})
	base.sign(t, append([]person{carol}, base.holders...)...)

	for stop := 0; ; stop++ {
		s := base.copyTo(t, filepath.Join(t.TempDir(), "scene"))
		see := func(when string, allowed ...string) {
			t.Helper()
			for _, kind := range kinds {
				for who, cache := range map[string]string{"cached": s.cache(kind), "fresh": t.TempDir()} {
					data, err := look(kind, s.published, s.pinned, cache, name)
					if err != nil {
						t.Errorf("%d, %s: %s, %s, cannot refresh: %v", stop, when, kind, who, err)
					} else if string(data) != allowed[0] && string(data) != allowed[len(allowed)-1] {
						t.Errorf("%d, %s: %s, %s, sees %q", stop, when, kind, who, data)
					}
				}
			}
		}
		victim := exec.Command(os.Args[0], "-test.run", "^TestKillVictim$")
		victim.Env = append(os.Environ(), killDir+"="+s.dir, fmt.Sprintf("%s=%d", killAt, stop))
		out, err := victim.CombinedOutput()
		if err == nil {
			see("published", "new")
			if stop < 100 {
				t.Errorf("only %d points: the hook misses writes", stop)
			}
			t.Logf("killed at %d points", stop)
			return
		}
		exit := new(exec.ExitError)
		if !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if status, ok := exit.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("%d: %v: %s", stop, err, out)
		}
		see("after the kill", string(s.trustedRoot), "new")
		s.repo, err = Open(s.dir, Options{})
		check(t, err)
		if _, err := s.repo.Publish(t.Context(), killedOnline(t).Signer); err != nil && !errors.Is(err, ErrNoEvent) {
			t.Fatalf("%d: running it again: %v", stop, err)
		}
		see("after running it again", "new")
	}
}
