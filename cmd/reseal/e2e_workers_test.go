//go:build e2e && linux

package main

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

const (
	workerLease = 8 * time.Second
	workerPause = time.Minute // of a worker that is stopped and goes on
)

// workersWorld is a sandbox whose registry answers slowly, a PostgreSQL server
// and the commands of several machines.
type workersWorld struct {
	*testing.T
	*sandbox.World
	dir      string
	host     string // of the slow registry
	latency  atomic.Int64
	postgres *postgresServer
	actors   map[string]*sandbox.Actor
	made     string // the plan
}

// TestWorkers has three real workers re-sign a plan: one is killed, one is paused
// for a minute, far longer than its lease, one is stopped and another started, and the database
// is restarted. In the end every planned statement is signed by the new signer
// once, and nothing else is.
func TestWorkers(t *testing.T) {
	w := newWorkersWorld(t)
	begun := time.Now()
	step := func(format string, args ...any) {
		t.Logf("%6.1f s  %s", time.Since(begun).Seconds(), fmt.Sprintf(format, args...))
	}
	images := w.publish(300)
	step("%d images pushed and signed by the old key", len(images))
	w.open(images)
	plan := w.plan(images)
	w.fails(4, "resign", plan, "--workers", "--apply")
	w.approve(plan)
	step("planned and approved")

	if got := w.ok("resign", plan, "--workers", "--json"); !strings.Contains(got, `"applied":false`) {
		t.Errorf("dry run: %s", got)
	}
	w.ok("resign", plan, "--workers", "--apply")
	if again := w.ok("resign", plan, "--workers", "--apply", "--json"); !strings.Contains(again, `"jobs":0`) {
		t.Errorf("queued twice: %s", again)
	}
	w.latency.Store(int64(60 * time.Millisecond))
	killed, paused, stopped := w.worker("killed"), w.worker("paused"), w.worker("stopped")
	workers := func(s workerStatus) string { return fmt.Sprintf("%d signed, %d left, %+v", s.Signed, s.Left, s.Shards) }
	at := func(signed int64) workerStatus {
		return w.until("some are signed", func(s workerStatus) bool { return s.Signed >= signed && len(s.Workers) > 0 })
	}
	s := at(30)
	if len(s.Workers) != 3 {
		t.Errorf("workers at work: %+v", s.Workers)
	}
	w.check(paused.cmd.Process.Signal(syscall.SIGSTOP))
	step("one is paused: %s", workers(s))
	pausedAt := time.Now()
	s = at(60)
	w.check(killed.cmd.Process.Kill())
	<-killed.exited
	step("one is killed: %s", workers(s))
	s = at(80)
	w.check(stopped.cmd.Process.Signal(syscall.SIGTERM))
	if code := stopped.wait(t); code != 0 {
		t.Errorf("the worker that was stopped exited with %d:\n%s", code, stopped.log(t))
	}
	step("one was stopped, exit code 0: %s", workers(s))
	other := w.worker("other")
	s = w.until("the other one works, too", func(s workerStatus) bool {
		return slices.ContainsFunc(s.Workers, func(x struct{ Owner string }) bool {
			return strings.Contains(x.Owner, fmt.Sprintf("/%d/", other.cmd.Process.Pid))
		})
	})
	w.postgres.stop(t)
	time.Sleep(time.Second)
	w.postgres.start(t)
	step("the database was restarted: %s", workers(s))
	time.Sleep(time.Until(pausedAt.Add(workerPause)))
	w.check(paused.cmd.Process.Signal(syscall.SIGCONT))
	step("the paused one goes on")

	s = w.until("all is done", func(s workerStatus) bool { return s.Left == 0 && s.Shards.Ready+s.Shards.Running == 0 })
	step("all is done: %s", workers(s))
	time.Sleep(2 * time.Second) // whatever is late
	s = w.until("all is done", func(s workerStatus) bool { return s.Left == 0 && s.Shards.Ready+s.Shards.Running == 0 })
	for _, x := range []*workerProcess{paused, other} {
		w.check(x.cmd.Process.Signal(syscall.SIGTERM))
		if code := x.wait(t); code != 0 {
			t.Errorf("%s exited with %d:\n%s", x.name, code, x.log(t))
		}
	}
	if !strings.Contains(paused.log(t), "lost") {
		t.Errorf("the worker that was paused did not notice that it lost its shards:\n%s", paused.log(t))
	}
	if s.Signed+s.Already != s.Planned || s.Failed+s.Held != 0 {
		t.Errorf("%+v", s)
	}
	w.latency.Store(0)
	w.invariant(images, s.Planned)
	w.ok("journal", "verify")
	w.ok("db", "check")
	step("each of %d statements is signed by the new key once, nothing else is, and the old signatures are there", s.Planned)

	r := w.ok("resign", plan, "--key", "next.key", "--apply", "--json")
	var result struct{ Planned, Signed, Already, Held, Failed int64 }
	w.check(json.Unmarshal([]byte(r), &result))
	if result.Signed+result.Held+result.Failed > 0 || result.Already != s.Planned {
		t.Errorf("run once more, here: %s", r)
	}
	for _, x := range []*workerProcess{killed, paused, stopped, other} {
		if strings.Contains(x.log(t), postgresSecret) {
			t.Errorf("%s logs the password of the database", x.name)
		}
	}
}

// TestWorkersRefuse has a worker look itself at what it is given: whoever can
// write to the queue cannot have anything signed that nobody approved.
func TestWorkersRefuse(t *testing.T) {
	w := newWorkersWorld(t)
	images := w.publish(12)
	w.open(images)
	forged := w.plan(images)
	plan := w.plan(images, "--expires", "15s")
	w.approve(plan)
	w.ok("resign", plan, "--workers", "--apply")
	db, err := pgx.Connect(t.Context(), w.postgres.url)
	w.check(err)
	defer db.Close(context.Background()) //nolint:errcheck // the server goes anyway
	for _, statement := range []string{
		`INSERT INTO shards SELECT replace(plan, $1, $2), n, repository, deployed, first_seq, last_seq, items, units, state, epoch, owner, since, until, attempts, queued, again, signed, held, failed, why FROM shards WHERE plan = $1`,
		`INSERT INTO river_job (args, kind, max_attempts, queue, state, priority) SELECT jsonb_set(args, '{plan}', to_jsonb(replace(args->>'plan', $1, $2))), kind, max_attempts, queue, 'available', priority FROM river_job WHERE args->>'plan' = $1`,
	} {
		_, err := db.Exec(t.Context(), statement, plan, forged)
		w.check(err)
	}
	time.Sleep(15 * time.Second) // the plan that was approved is too old now
	worker := w.worker("worker")
	for name, refused := range map[string]string{"a job for a plan that nobody approved": forged, "a plan that expired in the queue": plan} {
		t.Run(name, func(t *testing.T) {
			w.made = refused
			s := w.until("all is refused", func(s workerStatus) bool { return s.Shards.Total > 0 && s.Shards.Failed == s.Shards.Total })
			if s.Signed+s.Already > 0 || len(s.Reasons) == 0 || !strings.Contains(s.Reasons[0].Why, "not approved") {
				t.Errorf("%+v", s)
			}
		})
	}
	w.check(worker.cmd.Process.Signal(syscall.SIGTERM))
	if code := worker.wait(t); code != 0 {
		t.Errorf("exit code %d:\n%s", code, worker.log(t))
	}
	for _, i := range images {
		i.want = "nothing"
	}
	w.invariant(images, 0)
	w.ok("journal", "verify")
}

// TestWorkersCutOff stops a worker that has no time to end what is in flight, by
// a second signal and by the end of its grace; another goes on from there.
func TestWorkersCutOff(t *testing.T) {
	w := newWorkersWorld(t)
	images := w.publish(40)
	w.open(images)
	plan := w.plan(images)
	w.approve(plan)
	w.ok("resign", plan, "--workers", "--apply")
	for name, stop := range map[string]func(*workerProcess){
		"second signal": func(p *workerProcess) {
			time.Sleep(200 * time.Millisecond)
			w.check(p.cmd.Process.Signal(syscall.SIGINT))
		},
		"end of the grace": func(*workerProcess) {},
	} {
		w.latency.Store(int64(700 * time.Millisecond))
		p := w.worker(name, "--grace", "1s")
		w.until("it is at work", func(s workerStatus) bool {
			return slices.ContainsFunc(s.Workers, func(x struct{ Owner string }) bool {
				return strings.Contains(x.Owner, fmt.Sprintf("/%d/", p.cmd.Process.Pid))
			})
		})
		time.Sleep(500 * time.Millisecond)
		w.check(p.cmd.Process.Signal(syscall.SIGTERM))
		stop(p)
		if code := p.wait(t); code != 130 {
			t.Errorf("%s: exit code %d\n%s", name, code, p.log(t))
		}
		if s := w.until("anything", func(workerStatus) bool { return true }); s.Shards.Running > 0 || s.Left == 0 {
			t.Errorf("%s: %+v: its shards are not given back, or it was too quick", name, s)
		}
	}
	w.latency.Store(0)
	last := w.worker("last")
	s := w.until("all is done", func(s workerStatus) bool { return s.Left == 0 && s.Shards.Ready+s.Shards.Running == 0 })
	w.check(last.cmd.Process.Signal(syscall.SIGTERM))
	if code := last.wait(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	w.invariant(images, s.Planned)
}

// workerImage is one image and what must become of it.
type workerImage struct {
	ref    name.Digest // in the slow registry
	bundle bool
	want   string // resign, hold, deny
}

func newWorkersWorld(t *testing.T) *workersWorld {
	w := &workersWorld{T: t, dir: t.TempDir(), actors: map[string]*sandbox.Actor{}}
	if _, err := os.Stat(binary(t, "reseal")); err != nil {
		t.Fatalf("%v: run \"make build\" first, or set RESEAL_BIN", err)
	}
	var err error
	w.World, err = sandbox.Start(t.Context(), sandbox.Options{})
	w.check(err)
	t.Cleanup(func() { w.check(w.Close()) })
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: w.Registry()})
	proxy.ErrorHandler = func(rw http.ResponseWriter, _ *http.Request, _ error) { rw.WriteHeader(http.StatusBadGateway) } // a client was killed
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.check(err)
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Duration(w.latency.Load()))
		proxy.ServeHTTP(rw, r)
	})}
	go server.Serve(l) //nolint:errcheck // it is closed in the end
	t.Cleanup(func() { server.Close() })
	w.host = l.Addr().String()
	for _, who := range []string{"old", "next", "alice", "bob", "carol"} {
		a, err := w.NewActor(who)
		w.check(err)
		private, err := a.EncryptedKey([]byte(password))
		w.check(err)
		w.check(errors.Join(os.WriteFile(filepath.Join(w.dir, who+".key"), private, 0o600), os.WriteFile(filepath.Join(w.dir, who+".pub"), a.PublicKeyPEM(), 0o644)))
		w.actors[who] = a
	}
	root, err := w.TrustedRootJSON()
	w.check(err)
	w.check(os.WriteFile(filepath.Join(w.dir, "root.json"), root, 0o644))
	w.postgres = newPostgresServer(t)
	return w
}

func (w *workersWorld) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// publish pushes images and signs them as of three days ago, most of them with a
// proof of that time.
func (w *workersWorld) publish(n int) []*workerImage {
	w.Clock().Rewind(time.Now().Add(-72 * time.Hour))
	defer w.Clock().Live()
	images := make([]*workerImage, n)
	var g errgroup.Group
	g.SetLimit(4)
	for n := range images {
		g.Go(func() error {
			i := &workerImage{bundle: n%2 == 1, want: "resign"}
			images[n] = i
			proof := sandbox.RekorV1
			switch {
			case n%60 == 7:
				i.want, proof = "hold", sandbox.NoProof
			case n%60 == 8:
				i.want = "deny"
			}
			ref, err := w.PushImage(w.Context(), fmt.Sprintf("acme/app-%d", n%5), fmt.Sprintf("v%d", n), fmt.Sprint("image ", n))
			if err != nil {
				return err
			}
			if i.ref, err = name.NewDigest(strings.Replace(ref.String(), w.Registry(), w.host, 1)); err != nil {
				return err
			}
			if i.bundle {
				return w.actors["old"].SignBundle(w.Context(), ref, proof)
			}
			return w.actors["old"].SignLegacy(w.Context(), ref, proof)
		})
	}
	w.check(g.Wait())
	return images
}

// open makes the home and opens the incident.
func (w *workersWorld) open(images []*workerImage) {
	w.check(os.WriteFile(filepath.Join(w.dir, "ci.pub"), w.actors["old"].PublicKeyPEM(), 0o644))
	w.ok("init", "--quorum", "2", "--approver", "alice=alice.pub", "--approver", "bob=bob.pub", "--approver", "carol=carol.pub",
		"--signer", "release=old.pub", "--standby", "next=next.pub", "--trusted-root", "root.json", "--consumer", "ci=bundle=ci.pub", "--consumer", "cluster=legacy=ci.pub")
	w.ok("scan", w.host)
	open := []string{"incident", "open", "INC-1", "--signer", "release", "--from", time.Now().Add(-24 * time.Hour).UTC().Format(time.RFC3339), "--reason", "stolen"}
	for _, i := range images {
		if i.want == "deny" {
			open = append(open, "--rogue", i.ref.DigestStr()+"=seen")
		}
	}
	w.ok(open...)
}

// plan makes a plan, which until asks for from then on.
func (w *workersWorld) plan(images []*workerImage, flags ...string) string {
	plan := append([]string{"incident", "plan", "INC-1", "--new-signer", "next", "--key", "carol.key", "--json"}, flags...)
	for n := range 5 {
		plan = append(plan, "--home-repository", fmt.Sprintf("%s/acme/app-%d", w.host, n))
	}
	var made struct {
		Plan   string
		Totals struct{ Decisions map[string]int64 }
	}
	w.check(json.Unmarshal([]byte(w.ok(plan...)), &made))
	want := map[string]int64{}
	for _, i := range images {
		want[i.want]++
	}
	for d, n := range want {
		if made.Totals.Decisions[d] != n {
			w.Fatalf("%d statements are to %s, want %d", made.Totals.Decisions[d], d, n)
		}
	}
	w.made = made.Plan
	return made.Plan
}

func (w *workersWorld) approve(plan string) {
	w.ok("incident", "approve", plan, "--as", "alice", "--key", "alice.key")
	w.ok("incident", "approve", plan, "--as", "bob", "--key", "bob.key")
}

func (w *workersWorld) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary(w.T, "reseal"), append([]string{"--home", "home", "--db", w.postgres.url, "--actor", "carol"}, args...)...)
	cmd.Dir = w.dir
	cmd.Env = []string{"HOME=" + w.dir, "PATH=" + os.Getenv("PATH"), "COSIGN_PASSWORD=" + password}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (w *workersWorld) ok(args ...string) string {
	w.Helper()
	return w.fails(0, args...)
}

// fails wants a command to exit with a code and returns what it printed.
func (w *workersWorld) fails(code int, args ...string) string {
	w.Helper()
	var stdout, stderr bytes.Buffer
	cmd := w.command(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != code {
		w.Fatalf("%s: exit code %d, want %d (%v)\n%s%s", strings.Join(args, " "), got, code, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// workerProcess is one "reseal worker".
type workerProcess struct {
	name   string
	file   string // its log
	cmd    *exec.Cmd
	exited chan struct{}
}

func (w *workersWorld) worker(name string, flags ...string) *workerProcess {
	w.Helper()
	p := &workerProcess{name: name, file: filepath.Join(w.dir, name+".log"), exited: make(chan struct{}),
		cmd: w.command(append([]string{"worker", "--key", "next.key", "--timestamp-server-url", w.TSAURL(), "--lease", workerLease.String()}, flags...)...)}
	log, err := os.Create(p.file)
	w.check(err)
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	w.check(p.cmd.Start())
	go func() {
		p.cmd.Wait() //nolint:errcheck // the exit code says it
		close(p.exited)
	}()
	w.Cleanup(func() {
		p.cmd.Process.Kill() //nolint:errcheck // it may be over
		<-p.exited
		if w.Failed() {
			w.Logf("%s:\n%s", name, p.log(w.T))
		}
	})
	return p
}

func (p *workerProcess) log(t *testing.T) string {
	text, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (p *workerProcess) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(time.Minute):
		t.Fatalf("%s does not end:\n%s", p.name, p.log(t))
		return -1
	}
}

// workerStatus is what "resign --status --json" says.
type workerStatus struct {
	Schema                                       string
	Planned, Signed, Already, Held, Failed, Left int64
	Shards                                       struct{ Total, Ready, Running, Done, Failed int64 }
	Workers                                      []struct{ Owner string }
	Reasons                                      []struct{ Why string }
}

// until asks for the status until it is as wanted.
func (w *workersWorld) until(what string, is func(workerStatus) bool) workerStatus {
	w.Helper()
	var s workerStatus
	for deadline := time.Now().Add(4 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		s = workerStatus{}
		w.check(json.Unmarshal([]byte(w.ok("resign", w.made, "--status", "--json")), &s))
		if is(s) {
			return s
		}
	}
	w.Fatalf("waited too long until %s: %+v\n%s", what, s, w.ok("resign", w.made, "--status"))
	return s
}

// invariant reads every image as consumers do.
func (w *workersWorld) invariant(images []*workerImage, planned int64) {
	w.Helper()
	v, err := verify.New(verify.Trust{Keys: []crypto.PublicKey{w.actors["old"].PublicKey(), w.actors["next"].PublicKey()}})
	w.check(err)
	client := registry.New(registry.Options{Keychain: authn.NewMultiKeychain()})
	next, err := signer.OfKey(w.actors["next"].PublicKey())
	w.check(err)
	total := int64(0)
	for _, i := range images {
		got := verify.Fetcher{Registry: client, Verifier: v}.Signatures(w.Context(), verify.Subject{Repository: i.ref.Context().Name(), Digest: i.ref.DigestStr()}, verify.Everywhere)
		if got.Unknown != nil || len(got.Problems) > 0 {
			w.Errorf("%s: %v %v", i.ref, got.Unknown, got.Problems)
		}
		byOld, byNext := 0, 0
		format := inventory.Legacy
		if i.bundle {
			format = inventory.Bundle
		}
		for _, f := range got.Found {
			switch {
			case !f.Verified || f.Format != format:
				w.Errorf("%s: a %s of %s that nobody made (%s)", i.ref, f.Format, f.Signer, f.Why)
			case f.Signer == next:
				byNext++
			default:
				byOld++
			}
		}
		want := 0
		if i.want == "resign" {
			want = 1
		}
		if byOld != 1 || byNext != want {
			w.Errorf("%s (%s): %d signatures by the old key, %d by the new one, want 1 and %d", i.ref, i.want, byOld, byNext, want)
		}
		total += int64(byNext)
	}
	if total != planned {
		w.Errorf("%d signatures by the new key, %d planned", total, planned)
	}
}

// postgresServer is a PostgreSQL server that can be restarted.
type postgresServer struct {
	dir, port, url string
	as             *syscall.SysProcAttr
	cmd            *exec.Cmd
	exited         chan struct{}
}

const (
	postgresBin    = "/usr/lib/postgresql/15/bin"
	postgresSecret = "pa55-of-the-workers"
)

func newPostgresServer(t *testing.T) *postgresServer {
	t.Helper()
	if _, err := os.Stat(postgresBin); err != nil {
		t.Skip("PostgreSQL 15 is not installed (apt-get install postgresql-15)")
	}
	dir, err := os.MkdirTemp("", "reseal-workers-")
	if err != nil {
		t.Fatal(err)
	}
	s := &postgresServer{dir: dir, as: &syscall.SysProcAttr{Pdeathsig: syscall.SIGINT}}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if os.Geteuid() == 0 { // it refuses to run as root
		who, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.ParseUint(who.Uid, 10, 32)
		gid, _ := strconv.ParseUint(who.Gid, 10, 32)
		s.as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := errors.Join(os.Chown(dir, int(uid), int(gid)), os.Chmod(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(dir, "password")
	if err := os.WriteFile(secret, []byte(postgresSecret), 0o644); err != nil {
		t.Fatal(err)
	}
	init := exec.Command(postgresBin+"/initdb", "-D", dir+"/data", "-U", "reseal", "-A", "scram-sha-256", "--pwfile", secret, "--no-sync", "-E", "UTF8")
	init.SysProcAttr, init.Dir = s.as, dir
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", init, err, out)
	}
	_, s.port, err = net.SplitHostPort(freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	s.url = (&url.URL{Scheme: "postgres", User: url.UserPassword("reseal", postgresSecret), Host: "127.0.0.1:" + s.port, Path: "/postgres"}).String()
	s.start(t)
	t.Cleanup(func() { s.stop(t) })
	return s
}

func (s *postgresServer) start(t *testing.T) {
	t.Helper()
	s.cmd = exec.Command(postgresBin+"/postgres", "-D", s.dir+"/data", "-k", s.dir, "-p", s.port, "-c", "listen_addresses=127.0.0.1")
	s.cmd.SysProcAttr, s.cmd.Dir = s.as, s.dir
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		cmd.Wait() //nolint:errcheck // it is stopped in the end
		close(exited)
	}(s.cmd, s.exited)
	ready := func() bool {
		cmd := exec.Command(postgresBin+"/pg_isready", "-h", "127.0.0.1", "-p", s.port)
		return cmd.Run() == nil
	}
	for deadline := time.Now().Add(30 * time.Second); !ready(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("PostgreSQL does not answer")
		}
	}
}

// stop ends the server at once, with the connections it has.
func (s *postgresServer) stop(t *testing.T) {
	t.Helper()
	s.cmd.Process.Signal(syscall.SIGINT) //nolint:errcheck // it may be over
	select {
	case <-s.exited:
	case <-time.After(30 * time.Second):
		t.Error("PostgreSQL does not stop")
		s.cmd.Process.Kill() //nolint:errcheck // it may be over
		<-s.exited
	}
}
