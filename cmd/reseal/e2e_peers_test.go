//go:build (e2e || bench) && linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	password   = "correct horse battery staple" // of every key
	processes  = 4                              // peers run side by side
	patience   = 2 * time.Minute                // for one command
	isolatedIn = "RESEAL_E2E_ISOLATED"
)

// world is a directory with real servers and real clients at work in it. Every
// command runs in that directory, with an empty home, so that no configuration
// and no cache of whoever runs the test is seen.
type world struct {
	*testing.T
	dir      string
	host     string // of the registry
	tsa      string // URL that timestamps are asked of
	registry *server
	env      []string // of commands, beyond what every command has

	server    string // URL of PostgreSQL, once it was started
	databases int    // made in it
}

// newWorld starts a registry and a timestamp authority and makes the keys and
// the sigstore configuration files. Files are named as they are used in
// commands: old.key, old.pub, trusted_root.json and so on.
func newWorld(t *testing.T) *world {
	w := &world{T: t, dir: t.TempDir(), host: freeAddress(t)}
	for _, name := range []string{"reseal", "cosign2", "cosign3", "registry", "crane", "timestamp-server", "fulcio", "rekor-tiles"} {
		if _, err := os.Stat(binary(t, name)); err != nil {
			t.Fatalf("%v: run \"make build peers\" first, or set RESEAL_BIN and RESEAL_PEERS", err)
		}
	}
	for _, dir := range []string{"home", "storage", "anchors"} {
		w.check(os.Mkdir(w.path(dir), 0o700))
	}
	w.write("registry.yml", fmt.Sprintf(`version: 0.1
log: {level: error}
storage:
  filesystem: {rootdirectory: %q}
  delete: {enabled: true}
http: {addr: %q}
`, w.path("storage"), w.host))
	w.startRegistry()

	address := freeAddress(t)
	host, port, err := net.SplitHostPort(address)
	w.check(err)
	w.tsa = "http://" + address + "/api/v1/timestamp"
	w.serve(w.tsa+"/certchain", "timestamp-server", "serve", "--scheme", "http", "--host", host, "--port", port,
		"--timestamp-signer", "memory", "--disable-ntp-monitoring")
	w.write("tsa.pem", w.get(w.tsa+"/certchain"))

	w.parallel(6, func(n int) error {
		name := []string{"old", "new", "builder", "alice", "bob", "carol"}[n]
		return w.cosign2("generate-key-pair", "--output-key-prefix", name).failure()
	})
	const since = "start-time=2020-01-01T00:00:00Z"
	w.ok(w.cosign3("trusted-root", "create", "--out", "trusted_root.json",
		"--tsa", "url="+w.tsa+",certificate-chain=tsa.pem,"+since))
	w.ok(w.cosign3("signing-config", "create", "--out", "with-tsa.json",
		"--tsa", "url="+w.tsa+",api-version=1,operator=e2e,"+since, "--tsa-config", "ANY"))
	w.ok(w.cosign3("signing-config", "create", "--out", "without-tsa.json"))
	w.write("provenance.json", `{"buildDefinition":{"buildType":"https://builder.example/v1","externalParameters":{},"resolvedDependencies":[]},
"runDetails":{"builder":{"id":"https://builder.example"},"metadata":{"invocationId":"1"}}}`)
	w.write("sbom.json", `{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","name":"e2e","dataLicense":"CC0-1.0","documentNamespace":"https://e2e.example/sbom",
"creationInfo":{"created":"2026-01-01T00:00:00Z","creators":["Tool: e2e"]},"packages":[]}`)
	w.write("vex.json", `{"@context":"https://openvex.dev/ns/v0.2.0","@id":"https://e2e.example/vex","author":"release","timestamp":"2026-01-01T00:00:00Z","version":1,
"statements":[{"vulnerability":{"name":"CVE-2026-0001"},"products":[{"@id":"pkg:oci/app"}],"status":"not_affected","justification":"vulnerable_code_not_present"}]}`)
	return w
}

// binary returns where a program is.
func binary(t *testing.T, name string) string {
	path := filepath.Join("..", "..", "bin", "peers", name)
	if dir := os.Getenv("RESEAL_PEERS"); dir != "" {
		path = filepath.Join(dir, name)
	}
	if suffix, ok := strings.CutPrefix(name, "reseal"); ok {
		path = filepath.Join("..", "..", "bin", "reseal")
		if bin := os.Getenv("RESEAL_BIN"); bin != "" {
			path = bin
		}
		path += suffix // of another build of it
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}

func (w *world) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) write(name, content string) {
	w.Helper()
	w.check(os.WriteFile(w.path(name), []byte(content), 0o600))
}

func (w *world) read(name string) string {
	w.Helper()
	content, err := os.ReadFile(w.path(name))
	w.check(err)
	return string(content)
}

func (w *world) get(url string) string {
	w.Helper()
	resp, err := http.Get(url)
	w.check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	w.check(err)
	if resp.StatusCode/100 != 2 {
		w.Fatalf("GET %s: %s: %s", url, resp.Status, body)
	}
	return string(body)
}

// parallel calls do with 0 to n-1, a few at a time, and fails with every error.
func (w *world) parallel(n int, do func(n int) error) {
	w.Helper()
	errs := make([]error, n)
	var g errgroup.Group
	g.SetLimit(processes)
	for i := range n {
		g.Go(func() error {
			errs[i] = do(i)
			return nil
		})
	}
	g.Wait() //nolint:errcheck // the errors are in errs
	w.check(errors.Join(errs...))
}

// A result is what a command did.
type result struct {
	command        string
	code           int // -1: killed
	stdout, stderr string
}

func (r result) String() string {
	return fmt.Sprintf("%s\nexit code %d\nstdout: %s\nstderr: %s", r.command, r.code, r.stdout, r.stderr)
}

// failure is nil when the command succeeded.
func (r result) failure() error { return r.unless(0) }

// unless is nil when the command exited as expected.
func (r result) unless(code int) error {
	if r.code == code {
		return nil
	}
	return fmt.Errorf("expected exit code %d of: %s", code, r)
}

// with returns the world as commands see it that have more environment.
func (w *world) with(env ...string) *world {
	other := *w
	other.env = append(slices.Clone(w.env), env...)
	return &other
}

func (w *world) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(binary(w.T, name), args...)
	cmd.Dir = w.dir
	cmd.Env = append([]string{"HOME=" + w.path("home"), "PATH=" + os.Getenv("PATH"), "COSIGN_PASSWORD=" + password, "OTEL_TRACES_EXPORTER=none"}, w.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (w *world) run(name string, args ...string) result {
	return w.runFor(patience, name, args...)
}

// runFor runs a command and kills it with SIGKILL when the time is over.
func (w *world) runFor(d time.Duration, name string, args ...string) result {
	r := result{command: name + " " + strings.Join(args, " ")}
	var stdout, stderr bytes.Buffer
	cmd := w.command(name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		r.code, r.stderr = -1, err.Error()
		return r
	}
	kill := time.AfterFunc(d, func() { cmd.Process.Kill() }) //nolint:errcheck // it may be over already
	err := cmd.Wait()
	kill.Stop()
	r.code, r.stdout, r.stderr = cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		r.stderr += err.Error()
	}
	return r
}

func (w *world) cosign2(args ...string) result { return w.run("cosign2", args...) }
func (w *world) cosign3(args ...string) result { return w.run("cosign3", args...) }
func (w *world) reseal(args ...string) result {
	return w.run("reseal", append([]string{"--home", "reseal", "--actor", "carol"}, args...)...)
}

// ok fails the test unless the command succeeded.
func (w *world) ok(r result) result {
	w.Helper()
	return w.exits(r, 0)
}

// exits fails the test unless the command exited with the code.
func (w *world) exits(r result, code int) result {
	w.Helper()
	w.check(r.unless(code))
	return r
}

// decode reads the JSON that a command printed.
func decode[T any](w *world, r result) T {
	w.Helper()
	w.ok(r)
	var v T
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil {
		w.Fatalf("%v in the output of: %s", err, r)
	}
	return v
}

// A server is a peer that runs until it is stopped.
type server struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

func (s *server) stop() {
	s.cmd.Process.Kill() //nolint:errcheck // it may be gone already
	<-s.exited
}

func (w *world) startRegistry() {
	w.Helper()
	w.registry = w.serve("http://"+w.host+"/v2/", "registry", "serve", "registry.yml")
}

// serve starts a server and waits until the URL answers.
func (w *world) serve(url, name string, args ...string) *server {
	w.Helper()
	log, err := os.OpenFile(w.path(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	w.check(err)
	defer log.Close()
	s := &server{cmd: w.command(name, args...), exited: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	w.check(s.cmd.Start())
	go func() {
		s.cmd.Wait() //nolint:errcheck // it is killed in the end
		close(s.exited)
	}()
	w.Cleanup(s.stop)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case <-s.exited:
			w.Fatalf("%s ended at once: %s", name, w.read(name+".log"))
		default:
		}
		if resp, err := http.Get(url); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s
			}
		}
	}
	w.Fatalf("%s does not answer at %s: %s", name, url, w.read(name+".log"))
	return nil
}

func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// isolated runs the calling test again in a network of its own, when that is
// allowed, and reports whether it did. timestamp-server listens on a fixed port
// of every address, and cosign asks a server on the Internet for a trust root;
// there, the one disturbs nobody and the other gets no answer. Where it is not
// allowed the test runs as it is.
func isolated(t *testing.T) bool {
	if os.Getenv(isolatedIn) != "" {
		return false
	}
	ip, err := exec.LookPath("ip")
	if err != nil || os.Getuid() != 0 {
		return false
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	args := []string{"-c", `"$0" link set lo up && exec "$@"`, ip, self, "-test.run=^" + t.Name() + "$", "-test.count=1"}
	if deadline, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+time.Until(deadline).String())
	}
	cmd := exec.CommandContext(ctx, "sh", args...)
	cmd.Env = append(os.Environ(), isolatedIn+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Logf("no network of its own: %v", err)
		return false
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("in a network of its own: %v", err)
	}
	return true
}

var accessLog = regexp.MustCompile(`"([A-Z]+) (\S+) HTTP/[0-9.]+" ([0-9]{3}) `)

// runUntil runs a command and kills it with SIGKILL when the registry has
// answered so many requests of it.
func (w *world) runUntil(requests int, name string, args ...string) result {
	r := result{command: name + " " + strings.Join(args, " ")}
	log, err := os.Open(w.path("registry.log"))
	w.check(err)
	defer log.Close()
	_, err = log.Seek(0, io.SeekEnd)
	w.check(err)
	cmd := w.command(name, args...)
	w.check(cmd.Start())
	exited := make(chan struct{})
	go func() {
		cmd.Wait() //nolint:errcheck // the exit code says it
		close(exited)
	}()
	for running := true; running; {
		select {
		case <-exited:
			running = false
		case <-time.After(time.Millisecond):
			more, err := io.ReadAll(log)
			w.check(err)
			if requests -= len(accessLog.FindAll(more, -1)); requests <= 0 {
				cmd.Process.Kill() //nolint:errcheck // it may be over already
			}
		}
	}
	r.code = cmd.ProcessState.ExitCode()
	return r
}

// requests returns the requests that the registry has answered so far.
func (w *world) requests() []string {
	w.Helper()
	content, err := os.ReadFile(w.path("registry.log"))
	w.check(err)
	var out []string
	for _, m := range accessLog.FindAllSubmatch(content, -1) {
		out = append(out, string(bytes.Join(m[1:], []byte(" "))))
	}
	return out
}
