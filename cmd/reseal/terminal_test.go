//go:build unix

package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

const passphrase = "never shown to anybody"

// terminal is a pseudo-terminal, and what was shown on it.
type terminal struct {
	t         *testing.T
	ours, tty *os.File

	mu    sync.Mutex
	shown bytes.Buffer
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	ours, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	s := &terminal{t: t, ours: ours, tty: tty}
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(s, ours) // ends with an error when the terminal is closed
	}()
	t.Cleanup(func() {
		_ = tty.Close()
		_ = ours.Close()
		<-read
	})
	return s
}

// Write takes what is shown.
func (s *terminal) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.Write(p)
}

func (s *terminal) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.String()
}

// await waits until the text was shown so many times.
func (s *terminal) await(text string, times int) {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); strings.Count(s.text(), text) < times; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("%q was not shown; shown was %q", text, s.text())
		}
	}
}

// press types keys.
func (s *terminal) press(keys string) {
	s.t.Helper()
	if _, err := s.ours.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// answer waits for a prompt and, once nothing is echoed any more, answers it.
func (s *terminal) answer(prompt, keys string) {
	s.t.Helper()
	s.await(prompt, 1)
	time.Sleep(200 * time.Millisecond) // the echo is off a moment after the prompt is shown
	s.press(keys)
}

// start runs reseal on the terminal, which controls it: Ctrl-C reaches it as a signal.
func (s *terminal) start(dir string, words ...string) *exec.Cmd {
	s.t.Helper()
	c := exec.Command("reseal", words...)
	c.Dir, c.Stdin, c.Stdout, c.Stderr = dir, s.tty, s.tty, s.tty
	c.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// ends waits for the command and checks how it ended, that the terminal echoes, and that no secret was shown.
func (s *terminal) ends(c *exec.Cmd, want int) {
	s.t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case err := <-ended:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			s.t.Fatal(err)
		}
		if code := c.ProcessState.ExitCode(); code != want {
			s.t.Errorf("exit code %d, want %d; shown was %q", code, want, s.text())
		}
	case <-time.After(30 * time.Second):
		_ = c.Process.Kill()
		<-ended
		s.t.Errorf("it did not end; shown was %q", s.text())
	}
	if strings.Contains(s.text(), passphrase) {
		s.t.Errorf("the password was shown: %q", s.text())
	}
	s.press("echoed?\n")
	s.await("echoed?", 1)
}

// keyed makes a directory with the key file alice.key.
func keyed(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	c := exec.Command("reseal", "tuf", "key", "new", "alice")
	c.Dir, c.Env = dir, []string{"HOME=" + dir, "COSIGN_PASSWORD=" + passphrase}
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// TestPrompt answers what is asked on a terminal.
func TestPrompt(t *testing.T) {
	t.Parallel()
	dir := keyed(t)
	const prompt = "password for alice.key: "
	show := []string{"tuf", "key", "show", "alice.key"}
	for _, tc := range []struct {
		name, typed string
		code        int
		shown       string
	}{
		{"the password", passphrase + "\n", exitDone, "BEGIN PUBLIC KEY"},
		{"a wrong password", passphrase + "?\n", exitFailed, "alice.key cannot be decrypted: is the password right"},
		{"Ctrl-C", passphrase + "\x03", exitInterrupted, "interrupted: run the same command again"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newTerminal(t)
			c := s.start(dir, show...)
			s.answer(prompt, tc.typed)
			s.ends(c, tc.code)
			if !strings.Contains(s.text(), tc.shown) {
				t.Errorf("shown was %q", s.text())
			}
		})
	}
	t.Run("terminated", func(t *testing.T) { // as by a service manager
		s := newTerminal(t)
		c := s.start(dir, show...)
		s.answer(prompt, passphrase)
		if err := c.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		s.ends(c, exitInterrupted)
	})
	t.Run("a new password", func(t *testing.T) {
		s := newTerminal(t)
		c := s.start(dir, "tuf", "key", "new", "bob")
		s.answer("password for bob.key: ", passphrase+"\n")
		s.answer("password for bob.key, once more: ", passphrase+"\n")
		s.ends(c, exitDone)
		for _, name := range []string{"bob.key", "bob.pub"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("a new password, mistyped", func(t *testing.T) {
		s := newTerminal(t)
		c := s.start(dir, "tuf", "key", "new", "carol")
		s.answer("password for carol.key: ", passphrase+"\n")
		s.answer("password for carol.key, once more: ", passphrase+"?\n")
		s.ends(c, exitFailed)
		if !strings.Contains(s.text(), "the two passwords differ: nothing was written") {
			t.Errorf("shown was %q", s.text())
		}
		if left, err := filepath.Glob(filepath.Join(dir, "*carol*")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %q, %v", left, err)
		}
	})
	t.Run("no terminal", func(t *testing.T) {
		c := exec.Command("reseal", show...)
		c.Dir, c.Env, c.Stdin = dir, []string{"HOME=" + dir}, strings.NewReader(passphrase+"\n")
		out, err := c.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "no password for alice.key: set COSIGN_PASSWORD, or run this on a terminal") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("the PIN", func(t *testing.T) {
		s := newTerminal(t)
		u := &ui{in: s.tty, out: s.tty, err: s.tty}
		got := make(chan []byte, 1)
		go func() {
			pin, _ := u.pin(t.Context())()
			got <- pin
		}()
		s.answer("PIN of the token: ", passphrase+"\n")
		if pin := <-got; string(pin) != passphrase {
			t.Errorf("got %q", pin)
		}
		if strings.Contains(s.text(), passphrase) {
			t.Errorf("the PIN was shown: %q", s.text())
		}
	})
}

// TestConsent is asked whether to sign a founding event.
func TestConsent(t *testing.T) {
	t.Parallel()
	dir := keyed(t)
	for _, who := range []string{"bob", "carol", "dave", "online"} {
		c := exec.Command("reseal", "tuf", "key", "new", who)
		c.Dir, c.Env = dir, []string{"HOME=" + dir, "COSIGN_PASSWORD=" + passphrase}
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	founding := exec.Command("reseal", "tuf", "init", "trust", "--holder", "@alice=alice.pub", "--holder", "@bob=bob.pub", "--holder", "@carol=carol.pub", "--responder", "@dave=dave.pub", "--online", "online.pub", "--reason", "founding")
	founding.Dir, founding.Env = dir, []string{"HOME=" + dir}
	if out, err := founding.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sign := []string{"tuf", "sign", "trust", "--first", "--key", "alice.key"}
	signed := func() bool {
		t.Helper()
		root, err := os.ReadFile(filepath.Join(dir, "trust", "event", "metadata", "root.json"))
		if err != nil {
			t.Fatal(err)
		}
		return !bytes.Contains(bytes.ReplaceAll(root, []byte(" "), nil), []byte(`"signatures":[]`)) && bytes.Count(root, []byte(`"sig": ""`)) < bytes.Count(root, []byte(`"sig"`))
	}
	for _, tc := range []struct {
		name, keys string
		want       int
		says       string
	}{
		{"no", "no\n", exitApproval, "it was not signed"},
		{"nothing typed", "\n", exitApproval, "it was not signed"},
		{"Ctrl-D", "\x04", exitFailed, "no answer was given"},
		{"Ctrl-C", "ye\x03", exitInterrupted, "interrupted"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newTerminal(t)
			c := s.start(dir, sign...)
			s.answer("Type yes: ", tc.keys)
			s.ends(c, tc.want)
			if !strings.Contains(s.text(), tc.says) || strings.Contains(s.text(), "password") {
				t.Errorf("shown was %q", s.text())
			}
			if signed() {
				t.Error("it was signed")
			}
		})
	}
	t.Run("yes", func(t *testing.T) {
		s := newTerminal(t)
		c := s.start(dir, sign...)
		s.answer("Type yes: ", "yes\n")
		s.answer("password for alice.key: ", passphrase+"\n")
		s.ends(c, exitDone)
		if !signed() {
			t.Errorf("it was not signed; shown was %q", s.text())
		}
	})
}

// TestProgress shows one line that changes on a terminal, and plain lines elsewhere.
func TestProgress(t *testing.T) {
	t.Parallel()
	show := func(out io.Writer) {
		u := &ui{err: out}
		p := u.progress("signatures", 200)
		p.every, p.start = 0, time.Now().Add(-10*time.Second)
		p.at(50, "1 failed")
		p.at(100, strings.Repeat("long ", 40))
		p.at(150, "2 failed")
		p.end()
		u.notef("done")
	}
	s := newTerminal(t)
	if err := pty.Setsize(s.tty, &pty.Winsize{Rows: 24, Cols: 60}); err != nil {
		t.Fatal(err)
	}
	show(s.tty)
	s.await("done\r\n", 1)
	const clear = "\r\x1b[K"
	lines := strings.Split(s.text(), clear)
	if len(lines) != 5 || lines[0] != "" || lines[1] != "signatures: 50 of 200, 5/s, 30s left, 1 failed" || lines[3] != "signatures: 150 of 200, 15/s, 3s left, 2 failed" || lines[4] != "done\r\n" {
		t.Errorf("on a terminal: %q", lines)
	}
	if len(lines) > 2 && (len(lines[2]) >= 60 || strings.Contains(lines[2], "\n") || !strings.HasPrefix(lines[2], "signatures: 100 of 200, 10/s, 10s left, long")) {
		t.Errorf("a line that does not fit: %q", lines[2])
	}
	if p := (&ui{err: s.tty}).progress("x", 0); p.every != 100*time.Millisecond {
		t.Errorf("on a terminal every %s", p.every)
	}

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	show(w)
	if p := (&ui{err: w}).progress("x", 0); p.every != 10*time.Second {
		t.Errorf("elsewhere every %s", p.every)
	}
	w.Close()
	piped, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(string(piped), "\n"); strings.ContainsAny(string(piped), "\r\x1b") || len(lines) != 5 || lines[0] != "signatures: 50 of 200, 5/s, 30s left, 1 failed" || lines[3] != "done" {
		t.Errorf("elsewhere: %q", lines)
	}
}
