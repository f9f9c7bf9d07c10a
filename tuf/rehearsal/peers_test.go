//go:build e2e && linux

package rehearsal

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	sigstore "github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata/fetcher"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/tuf"
)

// peerKinds are the kinds of clients that are walked: the two libraries in process, and real programs.
var peerKinds = []string{"go-tuf", "sigstore-go", "cosign2", "cosign3", "tuf-js"}

// peerPatience is for one run of one program.
const peerPatience = 2 * time.Minute

// A stack is what clients are to use their trusted root for: files signed and logged by the organisation, and by an
// attacker with a log of its own.
type stack struct {
	dir  string
	root map[string][]byte // trusted roots, by "good" and evil
}

func newStack(t *testing.T) *stack {
	t.Helper()
	s := &stack{dir: t.TempDir(), root: map[string][]byte{}}
	for _, name := range []string{"good", evil} {
		w, err := sandbox.Start(t.Context(), sandbox.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = w.Close() })
		actor, err := w.NewActor(name)
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := actor.SignBlob(t.Context(), []byte(name), sandbox.RekorV1)
		if err != nil {
			t.Fatal(err)
		}
		if s.root[name], err = w.TrustedRootJSON(); err != nil {
			t.Fatal(err)
		}
		for suffix, data := range map[string][]byte{"": []byte(name), ".pub": actor.PublicKeyPEM(), ".json": bundle} {
			if err := os.WriteFile(filepath.Join(s.dir, name+suffix), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return s
}

// content is a trusted root in which the address of the first log tells the state.
func (s *stack) content(state string) []byte {
	name := "good"
	if state == evil {
		name = evil
	}
	var tr map[string]any
	if err := json.Unmarshal(s.root[name], &tr); err != nil {
		return nil
	}
	tr["tlogs"].([]any)[0].(map[string]any)["baseUrl"] = "https://log.example.test/" + state
	data, err := json.Marshal(tr)
	if err != nil {
		return nil
	}
	return data
}

// A site is where clients of one world find what is served, at one address whatever it is.
type site struct {
	*httptest.Server
	dir     atomic.Value // string
	missing atomic.Int64 // the status for what is not there; 404 when 0
}

func newSite(t *testing.T) *site {
	s := &site{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		dir := s.dir.Load().(string)
		if code := int(s.missing.Load()); code != 0 {
			if _, err := os.Stat(filepath.Join(dir, filepath.FromSlash(r.URL.Path))); err != nil {
				http.Error(rw, http.StatusText(code), code)
				return
			}
		}
		http.FileServer(http.Dir(dir)).ServeHTTP(rw, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// peers are the clients of one world.
type peers struct {
	*crowd
	t     *testing.T
	stack *stack
	site  *site
	js    *jsClient
	cells map[string]*cell // by kind
}

// A cell of the matrix counts what clients of a kind did in a scenario, each from one root and once.
type cell struct {
	roots                     int // the most there were to start from
	followed, fooled, refused int
}

func (c *cell) String() string {
	out := fmt.Sprintf("%d/%d", c.followed, c.refused)
	if c.fooled > 0 {
		out += fmt.Sprintf(" (%d)", c.fooled)
	}
	return out
}

func newPeers(t *testing.T, s *stack) *peers {
	p := &peers{crowd: newCrowd(t), t: t, stack: s, site: newSite(t), js: startJS(t), cells: map[string]*cell{}}
	for _, kind := range peerKinds {
		p.cells[kind] = &cell{}
	}
	return p
}

// get is one run of a client, which keeps what it knows in cache: what it has then for the target.
func (p *peers) get(kind, served string, root []byte, cache string, bundle string) ([]byte, error) {
	p.site.dir.Store(served)
	switch kind {
	case "tuf-js":
		return p.js.get(p.site.URL, root, cache)
	case "cosign2", "cosign3":
		if _, err := os.Stat(filepath.Join(cache, ".sigstore")); errors.Is(err, fs.ErrNotExist) {
			return p.initialize(kind, root, cache)
		}
		// What people do with it from then on.
		if err := cosign(p.t, kind, cache, "verify-blob", "--new-bundle-format", "--key", filepath.Join(p.stack.dir, bundle+".pub"),
			"--bundle", filepath.Join(p.stack.dir, bundle+".json"), filepath.Join(p.stack.dir, bundle)); err != nil {
			return nil, err
		}
		return p.cached(cache)
	case "reseal":
		files, err := tuf.Fetch(p.t.Context(), tuf.FetchOptions{URL: p.site.URL, Root: root, CacheDir: cache, Names: []string{Target}})
		return files[Target], err
	}
	return getBy(kind, p.site.URL, fetcher.NewDefaultFetcher(), root, cache)
}

// initialize is cosign initialize.
func (p *peers) initialize(kind string, root []byte, home string) ([]byte, error) {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	file := filepath.Join(home, "installed.json")
	if err := os.WriteFile(file, root, 0o600); err != nil {
		return nil, err
	}
	if err := cosign(p.t, kind, home, "initialize", "--mirror", p.site.URL, "--root", file); err != nil {
		return nil, err
	}
	return p.cached(home)
}

// cached is the trusted root that cosign uses.
func (p *peers) cached(home string) ([]byte, error) {
	return os.ReadFile(filepath.Join(home, ".sigstore", "root", sigstore.URLToPath(p.site.URL), "targets", Target))
}

func peer(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("RESEAL_PEERS")
	if dir == "" {
		dir = filepath.Join("..", "..", "bin", "peers")
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v: run \"make peers\" first, or set RESEAL_PEERS", err)
	}
	return path
}

// cosign runs one with a home of its own, so that no configuration and no cache of whoever runs the test is seen.
func cosign(t *testing.T, kind, home string, args ...string) error {
	ctx, cancel := context.WithTimeout(t.Context(), peerPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, peer(t, kind), args...)
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "OTEL_TRACES_EXPORTER=none"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() < 0 {
		t.Errorf("%s %s was killed: %v", kind, args[0], err)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", kind, strings.Join(args, " "), err, out)
	}
	return nil
}

// jsClient is a process that runs tuf-js once for every line.
type jsClient struct {
	mu  sync.Mutex
	in  io.Writer
	out *bufio.Reader
}

func startJS(t *testing.T) *jsClient {
	t.Helper()
	cmd := exec.Command("node", filepath.Join(peer(t, "tuf-js"), "client.js"))
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("tuf-js: %v: %s", err, stderr.String())
		}
	})
	return &jsClient{in: in, out: bufio.NewReader(out)}
}

// errJS is what tuf-js says.
type errJS string

func (e errJS) Error() string { return string(e) }

func (j *jsClient) get(url string, root []byte, dir string) ([]byte, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := json.NewEncoder(j.in).Encode(map[string]any{"url": url, "name": Target, "dir": dir, "root": root}); err != nil {
		return nil, err
	}
	line, err := j.out.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("tuf-js ended: %w", err)
	}
	var answer struct {
		Data  []byte
		Error errJS
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, answer.Error
	}
	return answer.Data, nil
}

// state is what a client has cached, without what says only when it looked.
func state(dir string) (map[string]string, error) {
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		switch d.Name() {
		case "root.json", "timestamp.json", "snapshot.json", "targets.json", Target:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			out[path] = fmt.Sprintf("%x", sha256.Sum256(data))
		}
		return nil
	})
	return out, err
}

func changed(before, after map[string]string) string {
	for path, sum := range before {
		if after[path] != sum {
			return path
		}
	}
	return ""
}

// watch holds clients of every kind to what a stage says. At an honest one they are offered, besides, what attackers
// make of it who have stolen a single root key: all refuse, and what they know stays as it is.
func (p *peers) watch(ctx context.Context, w *World, s Stage) error {
	for _, kind := range peerKinds {
		c := p.cells[kind]
		c.roots = max(c.roots, len(s.Roots))
		if !s.Fooled {
			if err := p.installedAnew(kind, s); err != nil {
				return err
			}
		}
		if s.Repinned {
			continue
		}
		// Those that have looked before were installed with the oldest root.
		if !s.Attack || s.Refused {
			if err := p.look(kind, "faithful", 0, s, p.cache("faithful "+kind)); err != nil {
				return err
			}
		}
		if err := p.look(kind, "fooled", 0, s, p.cache("fooled "+kind)); err != nil {
			return err
		}
		if !s.Fooled {
			if err := p.initializedAgain(kind, s); err != nil {
				return err
			}
		}
	}
	if s.Attack {
		return nil
	}
	return p.offer(ctx, w, s)
}

// installedAnew lets clients look that know nothing but a root, whichever.
func (p *peers) installedAnew(kind string, s Stage) error {
	for i := range s.Roots {
		p.fresh++
		if err := p.look(kind, "installed anew", i, s, p.cache(fmt.Sprint("anew ", p.fresh))); err != nil {
			return err
		}
	}
	return nil
}

// initializedAgain lets somebody call cosign initialize who did so before.
func (p *peers) initializedAgain(kind string, s Stage) error {
	if !strings.HasPrefix(kind, "cosign") {
		return nil
	}
	who := "fooled " + kind
	p.fresh++
	home := p.cache(fmt.Sprint("again ", p.fresh))
	if err := os.CopyFS(home, os.DirFS(p.cache(who))); err != nil {
		return err
	}
	p.site.dir.Store(s.Served)
	got, err := p.initialize(kind, s.Roots[0], home)
	return p.judge(kind, who+", initialized again", 0, s, got, err)
}

// offer shows clients what was made from the honest state by somebody with one root key and keys of their own.
func (p *peers) offer(ctx context.Context, w *World, s Stage) error {
	own, _, err := w.key(P256)
	if err != nil {
		return err
	}
	admins, _, err := w.admins()
	if err != nil {
		return err
	}
	admins = slices.DeleteFunc(admins, func(name string) bool { return len(w.holders[name]) == 0 })
	for _, root := range []bool{true, false} {
		a, err := w.attack("offer")
		if err != nil {
			return err
		}
		offered := Stage{Scenario: s.Scenario, Step: s.Step, Served: a.dir, Roots: s.Roots, Attack: true, Refused: true}
		what := "offered metadata by nobody known"
		if root {
			what = "offered a root by one of its holders"
			if err := a.usurp(ctx, own, w.stolen(admins[0])...); err != nil {
				return err
			}
		}
		if err := a.target(ctx, Target, w.content(evil), own); err != nil {
			return err
		}
		if err := a.serve(ctx, a.timestamp.Signed.Version+10, own); err != nil {
			return err
		}
		for _, kind := range peerKinds {
			err := func() error {
				if root || s.Repinned {
					if err := p.installedAnew(kind, offered); err != nil || s.Repinned {
						return err
					}
				}
				return p.look(kind, "faithful", 0, offered, p.cache("faithful "+kind))
			}()
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
		}
		if err := os.RemoveAll(filepath.Dir(a.dir)); err != nil {
			return err
		}
	}
	return nil
}

// look lets one client look and holds it to what the stage says.
func (p *peers) look(kind, who string, i int, s Stage, cache string) error {
	before, err := state(cache)
	if err != nil {
		return err
	}
	bundle := "good"
	if s.Want != nil && bytes.Equal(s.Want, p.stack.content(evil)) {
		bundle = evil
	}
	got, err := p.get(kind, s.Served, s.Roots[i], cache, bundle)
	if err := p.judge(kind, who, i, s, got, err); err != nil || !s.Refused {
		return err
	}
	after, err := state(cache)
	if err != nil {
		return err
	}
	if file := changed(before, after); file != "" {
		return fmt.Errorf("%s, %s from root %d, refuses, and yet its %s changed", kind, who, i+1, file)
	}
	return nil
}

// judge compares what a client did with what the stage says, and counts it.
func (p *peers) judge(kind, who string, i int, s Stage, got []byte, err error) error {
	c := p.cells[kind]
	switch {
	case s.Refused && err == nil:
		return fmt.Errorf("%s, %s from root %d, follows: it gets %.200s", kind, who, i+1, got)
	case s.Refused:
		c.refused++
	case err != nil:
		return fmt.Errorf("%s, %s from root %d, does not follow: %w", kind, who, i+1, err)
	case s.Want != nil && !bytes.Equal(got, s.Want):
		return fmt.Errorf("%s, %s from root %d, gets %.200s instead of %.200s", kind, who, i+1, got, s.Want)
	case s.Attack:
		c.fooled++
	default:
		c.followed++
	}
	return nil
}

// line is the name of the row in which everything happens in one world.
const line = "all of them, one after the other"

// promised is what the matrix has to have.
var promised = []string{
	"holder joins", "holder leaves", "same person, new key", "threshold up", "threshold down", "online key", "algorithm", "responders", "periods",
	"role with bins", "several at once", "online key stolen, fast-forward", "targets keys stolen", "snapshot rolled back", "root key stolen, below threshold",
	"root keys stolen, at threshold", "keys lost, below threshold", "keys lost, at threshold", "root expired", "targets expired", "timestamp expired",
	"repository directory lost", "published directory lost", line,
}

// TestPeers plays every rotation and every recovery, each after an earlier rotation, and then all of them in one world.
// Clients of every kind are walked through, from every root there was, and with what they had cached before. It prints
// the matrix of what they did and fails when anything is missing from it.
func TestPeers(t *testing.T) {
	s := newStack(t)
	rows := map[string]*peers{}
	var mu sync.Mutex
	play := func(name string, f func(*testing.T, *peers) error) func(*testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			p := newPeers(t, s)
			if err := f(t, p); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			defer mu.Unlock()
			rows[name] = p
		}
	}
	names := []string{line}
	t.Run("each", func(t *testing.T) {
		t.Run(line, play(line, func(t *testing.T, p *peers) error { return p.playLine(t) }))
		for _, scenario := range slices.Concat(Rotations(), Recoveries()) {
			names = append(names, scenario.Name)
			t.Run(scenario.Name, play(scenario.Name, func(t *testing.T, p *peers) error { return p.play(t, scenario) }))
		}
	})
	for _, name := range promised {
		if !slices.Contains(names, name) {
			t.Errorf("%s: is not played", name)
		}
	}
	t.Log("how often clients, from that many roots, followed / refused an attack, as they must (and believed one that they could not know of)")
	t.Logf("%-34s %5s %s", "", "roots", columns(func(kind string) string { return kind }))
	for _, name := range names {
		p := rows[name]
		if p == nil {
			t.Errorf("%s: was not walked to its end", name)
			continue
		}
		t.Logf("%-34s %5d %s", name, p.cells[peerKinds[0]].roots, columns(func(kind string) string {
			c := p.cells[kind]
			if c.followed == 0 || c.refused == 0 || c.roots == 0 {
				t.Errorf("%s: %s did not follow or was offered nothing to refuse: %+v", name, kind, *c)
			}
			return c.String()
		}))
	}
}

func columns(of func(kind string) string) string {
	var out strings.Builder
	for _, kind := range peerKinds {
		fmt.Fprintf(&out, " %12s", of(kind))
	}
	return out.String()
}

// play plays a scenario after a rotation that nobody watches.
func (p *peers) play(t *testing.T, scenario Scenario) error {
	w, err := FoundWith(t.Context(), t.TempDir(), scenario.Behind, p.stack.content, func(context.Context, Stage) error { return nil })
	if err != nil {
		return err
	}
	earlier := slices.IndexFunc(Rotations(), func(s Scenario) bool { return s.Name == "online key" })
	if err := w.Play(t.Context(), Rotations()[earlier]); err != nil {
		return err
	}
	w.watch = func(ctx context.Context, s Stage) error { return p.watch(ctx, w, s) }
	return w.Play(t.Context(), scenario)
}

// playLine plays all scenarios in one world. In between only those look that were there from the beginning; in the end,
// all there are.
func (p *peers) playLine(t *testing.T) error {
	w, err := FoundWith(t.Context(), t.TempDir(), 0, p.stack.content, func(_ context.Context, s Stage) error {
		if s.Attack {
			return nil
		}
		for _, kind := range peerKinds {
			if err := p.look(kind, "faithful", 0, s, p.cache("faithful "+kind)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	scenarios := slices.DeleteFunc(slices.Concat(Rotations(), Recoveries()), func(s Scenario) bool { return s.Last || s.Behind > 0 })
	if err := w.Play(t.Context(), scenarios...); err != nil {
		return err
	}
	w.watch = func(ctx context.Context, s Stage) error { return p.watch(ctx, w, s) }
	return w.look(t.Context(), "the end")
}
