package tuf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sigstore "github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"
)

var errCrash = errors.New("crash")

// look is one run of a client over a published directory: what it gets for a target.
func look(kind, served string, root []byte, cache, name string) ([]byte, error) {
	f := fetcherOf(func(file string) ([]byte, error) { return os.ReadFile(filepath.Join(served, filepath.FromSlash(file))) })
	if kind == "sigstore-go" {
		c, err := sigstore.New(&sigstore.Options{Root: root, RepositoryBaseURL: walkURL, CachePath: cache, Fetcher: f})
		if err != nil {
			return nil, err
		}
		return c.GetTarget(name)
	}
	cfg, err := config.New(walkURL, root)
	if err != nil {
		return nil, err
	}
	cfg.Fetcher, cfg.LocalMetadataDir, cfg.LocalTargetsDir = f, cache, filepath.Join(cache, "targets")
	up, err := updater.New(cfg)
	if err != nil {
		return nil, err
	}
	info, err := up.GetTargetInfo(name)
	if err != nil {
		return nil, err
	}
	_, data, err := up.DownloadTarget(info, "", "")
	return data, err
}

// A scene is a repository and the caches of clients, to be copied for every crash.
type scene struct {
	org
	root string // everything lies below it
}

func (s *scene) cache(kind string) string { return filepath.Join(s.root, "cache", kind) }

func (s *scene) copyTo(t *testing.T, dir string) *scene {
	t.Helper()
	check(t, os.CopyFS(dir, os.DirFS(s.root)))
	c := &scene{s.org, dir}
	c.dir, c.published = filepath.Join(dir, "repository"), filepath.Join(dir, "repository", publishedDir)
	return c
}

// TestFault stops every kind of publication at every point of every file write, as a crash would, and looks at it with
// clients of both kinds: what they had cached must lead them, as must nothing, to the state before or to the new one.
func TestFault(t *testing.T) {
	const name = "trusted_root.json"
	online := newEd25519(t, "")
	newKeys := []person{newP256(t, "@alice"), newP256(t, "@bob"), newEd25519(t, "@carol")}
	for _, c := range []struct {
		what    string
		target  string
		prepare func(*testing.T, *scene)
		publish func(context.Context, *scene) error
	}{
		// The hardest: clients with the new root refuse everything before, and those without it everything after.
		{"publish a root with other online and targets keys", name, func(t *testing.T, s *scene) {
			changes := []Change{SetOnline{Online{online.Key, "x"}}, SetTarget{Name: name, Data: []byte("new")}}
			for _, p := range newKeys {
				changes = append(changes, ReplaceKey{p.Holder})
			}
			s.propose(t, changes...)
			s.sign(t, append(append(s.holders, s.responders...), newKeys...)...)
		}, func(ctx context.Context, s *scene) error {
			_, err := s.repo.Publish(ctx, online.Signer)
			return err
		}},
		{"publish targets", name, func(t *testing.T, s *scene) {
			s.propose(t, SetTarget{Name: name, Data: []byte("new")}, SetTarget{Name: "dir/other.json", Data: []byte("other")})
			s.sign(t, s.holders...)
		}, func(ctx context.Context, s *scene) error {
			_, err := s.repo.Publish(ctx, s.online.Signer)
			return err
		}},
		{"publish revocations", "revocations/1.json", func(t *testing.T, s *scene) {
			s.revoke(t, map[string][]byte{"revocations/1.json": []byte("old")})
		}, func(ctx context.Context, s *scene) error {
			_, err := s.repo.PublishRevocations(ctx, map[string][]byte{"revocations/1.json": []byte("new")}, signersOf(s.responders), s.online.Signer)
			return err
		}},
		{"refresh", "", nil, func(ctx context.Context, s *scene) error {
			_, err := s.repo.Refresh(ctx, s.online.Signer, true)
			return err
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			base := &scene{*newOrg(t), ""}
			base.root = filepath.Dir(base.dir)
			if c.prepare != nil {
				c.prepare(t, base)
			}
			old := []byte("old")
			if c.target == "" {
				c.target = name
			}
			if c.target == name {
				old = base.trustedRoot
			}
			for _, kind := range []string{"go-tuf", "sigstore-go"} {
				_, err := look(kind, base.published, base.pinned, base.cache(kind), c.target)
				check(t, err)
			}
			seen := false // the new state, by a crash that came earlier
			for stop := 0; ; stop++ {
				s := base.copyTo(t, filepath.Join(t.TempDir(), "scene"))
				var err error
				s.repo, err = Open(s.dir, Options{})
				check(t, err)
				var reached, where string
				n := 0
				s.repo.hook = func(point, name string) error {
					if n++; n > stop {
						reached, where = point, name
						return errCrash
					}
					return nil
				}
				err = c.publish(t.Context(), s)
				if err == nil {
					if stop < 20 {
						t.Errorf("only %d points: the hook misses writes", stop)
					}
					return // every point was tried
				}
				if !errors.Is(err, errCrash) {
					t.Fatal(err)
				}
				at := fmt.Sprintf("%03d %s %s", stop, where, reached)
				see := func(when string) (new bool) {
					t.Helper()
					var got []string
					for _, kind := range []string{"go-tuf", "sigstore-go"} {
						for who, cache := range map[string]string{"cached": s.cache(kind), "fresh": t.TempDir()} {
							data, err := look(kind, s.published, s.pinned, cache, c.target)
							if err != nil {
								t.Errorf("%s, %s: %s, %s, cannot refresh: %v", at, when, kind, who, err)
							}
							got = append(got, string(data))
						}
					}
					for _, g := range got {
						if g != got[0] || (g != string(old) && g != "new") {
							t.Errorf("%s, %s: clients see %q", at, when, got)
							break
						}
					}
					return got[0] == "new"
				}
				new := see("after the crash")
				if seen && !new {
					t.Errorf("%s: the old state is back, after an earlier crash had left the new one", at)
				}
				seen = seen || new
				// The next process.
				s.repo, err = Open(s.dir, Options{})
				check(t, err)
				// At the very end there is nothing left to finish, and no event to publish.
				if err := c.publish(t.Context(), s); err != nil && (!new || !errors.Is(err, ErrNoEvent)) {
					t.Fatalf("%s: running it again: %v", at, err)
				}
				if !see("after running it again") && string(old) != "new" && c.what != "refresh" {
					t.Errorf("%s: running it again did not publish", at)
				}
				if leftovers(t, s.dir) {
					t.Errorf("%s: something is left over", at)
				}
				if stop%6 != 0 {
					continue
				}
				// And one more of another kind: nothing of the crash is in its way.
				signer := s.online
				if strings.Contains(c.what, "other online") {
					signer = online
				}
				_, err = s.repo.PublishRevocations(t.Context(), map[string][]byte{"revocations/last.json": []byte("last")}, signersOf(s.responders[:2]), signer.Signer)
				check(t, err)
				if data, err := look("go-tuf", s.published, s.pinned, s.cache("go-tuf"), "revocations/last.json"); err != nil || string(data) != "last" {
					t.Errorf("%s: after another publication: %q, %v", at, data, err)
				}
			}
		})
	}
}

// Many files are written many at a time, and each no more often than it has to be. Stopped in the middle, clients see the
// state before or the new one, all of it, and whoever comes next finishes it and leaves nothing behind.
func TestManyFiles(t *testing.T) {
	t.Parallel()
	const many = 2*batch + 40
	base := &scene{*newOrg(t), ""}
	base.root = filepath.Dir(base.dir)
	name := func(n int) string { return fmt.Sprintf("files/%d.txt", n) }
	var changes []Change
	for n := range many {
		changes = append(changes, SetTarget{Name: name(n), Data: fmt.Append(nil, "content ", n)})
	}
	base.propose(t, append(changes, SetTarget{Name: "trusted_root.json", Data: []byte("new")})...)
	base.sign(t, base.holders...)
	// run publishes a copy of it, stopped at a point.
	run := func(stop int) (s *scene, points, created int, err error) {
		s = base.copyTo(t, filepath.Join(t.TempDir(), "scene"))
		s.repo, err = Open(s.dir, Options{})
		check(t, err)
		s.repo.hook = func(point, _ string) error {
			if point == "created" {
				created++
			}
			if points++; points > stop {
				return errCrash
			}
			return nil
		}
		_, err = s.repo.Publish(t.Context(), s.online.Signer)
		return s, points, created, err
	}
	_, all, created, err := run(1 << 30)
	check(t, err)
	if created > many+20 {
		t.Errorf("%d files were made to publish %d", created, many)
	}
	for part := range 6 {
		stop := all*(part*2+1)/12 + part // in every phase, and not at the bounds of one
		s, _, _, err := run(stop)
		if !errors.Is(err, errCrash) {
			t.Fatalf("%d of %d: %v", stop, all, err)
		}
		see := func(allowed ...string) (got string) {
			t.Helper()
			data, err := look("go-tuf", s.published, s.pinned, t.TempDir(), "trusted_root.json")
			if err != nil || string(data) != allowed[0] && string(data) != allowed[len(allowed)-1] {
				t.Errorf("stopped at %d of %d: clients see %q, %v", stop, all, data, err)
			}
			return string(data)
		}
		see(string(s.trustedRoot), "new")
		s.repo, err = Open(s.dir, Options{})
		check(t, err)
		if _, err := s.repo.Publish(t.Context(), s.online.Signer); err != nil {
			t.Fatalf("stopped at %d of %d, running it again: %v", stop, all, err)
		}
		see("new")
		for _, n := range []int{0, batch - 1, batch, many - 1} {
			for _, file := range []string{targetsDir + "/" + name(n), publishedDir + "/" + publishedTarget(name(n), fmt.Append(nil, "content ", n))} {
				if got, err := s.repo.read(file); err != nil || string(got) != fmt.Sprint("content ", n) {
					t.Errorf("stopped at %d of %d: %s has %q, %v", stop, all, file, got, err)
				}
			}
		}
		if leftovers(t, s.dir) {
			t.Errorf("stopped at %d of %d: something is left over", stop, all)
		}
	}
}

// Responders who publish the very content of an open event do not take the event's files away.
func TestOpenEventKeepsItsFiles(t *testing.T) {
	o := newOrg(t)
	same := []byte("{}")
	e := o.propose(t, SetTarget{Name: "revocations/a.json", Data: same}, SetTarget{Name: "x.json", Data: same})
	o.revoke(t, map[string][]byte{"revocations/a.json": same})
	if got, err := o.repo.Event(); err != nil || got.ID != e.ID {
		t.Errorf("the event is %v, %v", got, err)
	}
}

// A change of roots that was cut off, and whose repository was then restored from a backup that knows nothing of it, is
// in nobody's way.
func TestAbandonedReveal(t *testing.T) {
	base := &scene{*newOrg(t), ""}
	base.root = filepath.Dir(base.dir)
	online := newP256(t, "")
	for _, at := range []string{before, after} {
		s := base.copyTo(t, filepath.Join(t.TempDir(), "scene"))
		backup := filepath.Join(t.TempDir(), "backup")
		check(t, os.CopyFS(backup, os.DirFS(s.dir)))
		var err error
		s.repo, err = Open(s.dir, Options{})
		check(t, err)
		s.propose(t, SetOnline{Online{online.Key, "x"}})
		s.sign(t, s.holders...)
		seen := 0
		s.repo.hook = func(point, name string) error {
			if name == "2.root.json" && point == "renamed" && at == before || name == current && point == "renamed" && at == after {
				if seen++; at == before || seen == 2 {
					return errCrash
				}
			}
			return nil
		}
		if _, err := s.repo.Publish(t.Context(), online.Signer); !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		check(t, os.RemoveAll(filepath.Join(s.dir, "event")))
		check(t, os.RemoveAll(filepath.Join(s.dir, "metadata")))
		check(t, os.CopyFS(filepath.Join(s.dir, "metadata"), os.DirFS(filepath.Join(backup, "metadata"))))
		s.repo, err = Open(s.dir, Options{})
		check(t, err)
		_, err = s.repo.Republish(t.Context(), nil)
		if at == after { // clients have seen it: it is not to be abandoned
			refused(t, err, "rebuild it from the published directory")
			rebuilt := filepath.Join(t.TempDir(), "rebuilt")
			s.repo, _, err = Rebuild(t.Context(), rebuilt, Options{Published: s.published}, DirMirror(s.published), s.pinned)
			check(t, err)
			s.dir, s.online = rebuilt, online
		}
		check(t, err)
		_, err = s.repo.Refresh(t.Context(), s.online.Signer, true) // writes the timestamp alone
		check(t, err)
		if _, err := look("go-tuf", s.published, s.pinned, t.TempDir(), "trusted_root.json"); err != nil {
			t.Errorf("%s, after a refresh: %v", at, err)
		}
		s.propose(t, SetThreshold{"root", 3})
		s.sign(t, s.holders...)
		s.publish(t)
		if data, err := look("go-tuf", s.published, s.pinned, t.TempDir(), "trusted_root.json"); err != nil || string(data) != string(s.trustedRoot) {
			t.Errorf("%s: %q, %v", at, data, err)
		}
		if leftovers(t, s.dir) {
			t.Errorf("%s: something is left over", at)
		}
	}
}

// leftovers reports whether temporary files or links are left in a repository.
func leftovers(t *testing.T, dir string) bool {
	t.Helper()
	found := false
	check(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && (strings.HasPrefix(e.Name(), tempName) || e.Name() == revealDir || e.Name() == filepath.Base(pendingDir) || e.Type()&fs.ModeSymlink != 0) {
			t.Log(p)
			found = true
		}
		return err
	}))
	return found
}

// A crash while an event is proposed, amended, signed or withdrawn leaves the event before or after, whole.
func TestFaultOfEvents(t *testing.T) {
	base := &scene{*newOrg(t), ""}
	base.root = filepath.Dir(base.dir)
	propose := func(ctx context.Context, r *Repository) error {
		_, err := r.Propose(ctx, Proposal{Changes: []Change{SetThreshold{"root", 3}, SetTarget{Name: "a.json", Data: []byte("a")}}})
		return err
	}
	amend := func(ctx context.Context, r *Repository) error {
		_, err := r.Amend(ctx, Proposal{Changes: []Change{SetThreshold{"targets", 3}, SetTarget{Name: "a.json", Data: []byte("b")}, SetTarget{Name: "c.json", Data: []byte("c")}}})
		return err
	}
	withdraw := func(ctx context.Context, r *Repository) error { return r.Withdraw(ctx) }
	for _, c := range []struct {
		what   string
		before []func(context.Context, *Repository) error
		do     func(context.Context, *Repository) error
	}{
		{"propose", nil, propose},
		{"amend", []func(context.Context, *Repository) error{propose}, amend},
		{"withdraw", []func(context.Context, *Repository) error{propose, amend}, withdraw},
	} {
		t.Run(c.what, func(t *testing.T) {
			state := func(r *Repository) string {
				e, err := r.Event()
				if errors.Is(err, ErrNoEvent) {
					return "none"
				}
				check(t, err)
				d, err := r.Diff()
				check(t, err)
				return fmt.Sprint(e.ID, d)
			}
			ready := func() *Repository {
				s := base.copyTo(t, filepath.Join(t.TempDir(), "scene"))
				r, err := Open(s.dir, Options{Now: func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }})
				check(t, err)
				for _, f := range c.before {
					check(t, f(t.Context(), r))
				}
				return r
			}
			r := ready()
			published := listing(t, r.published)
			before := state(r)
			check(t, c.do(t.Context(), r))
			after := state(r)
			if before == after {
				t.Fatal("nothing changes")
			}
			for stop := 0; ; stop++ {
				r := ready()
				n := 0
				r.hook = func(string, string) error {
					if n++; n > stop {
						return errCrash
					}
					return nil
				}
				err := c.do(t.Context(), r)
				if err == nil {
					if stop < 10 {
						t.Errorf("only %d points", stop)
					}
					break
				}
				if !errors.Is(err, errCrash) {
					t.Fatal(err)
				}
				r.hook = nil
				if _, err := r.Event(); err != nil && !errors.Is(err, ErrNoEvent) && !errors.Is(err, ErrCutOff) {
					t.Errorf("point %d: %v", stop, err)
				}
				check(t, r.change(t.Context(), func() error { return nil })) // whoever comes next
				if got := state(r); got != before && got != after {
					t.Errorf("point %d: the event is neither the one before nor the one after: %s", stop, got)
				}
				if got := listing(t, r.published); len(got) != len(published) {
					t.Errorf("point %d: something was published", stop)
				}
				if c.what == "withdraw" {
					if err := r.Withdraw(t.Context()); err != nil && !errors.Is(err, ErrNoEvent) {
						t.Error(err)
					}
					if _, err := os.Stat(filepath.Join(r.dir, eventDir)); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("point %d: the event left a trace: %v", stop, err)
					}
				}
			}
		})
	}
}

// Whoever finishes a publication does so where it was begun, and not where they happen to look.
func TestFinishedWhereItBegan(t *testing.T) {
	away := filepath.Join(t.TempDir(), "away")
	o := newOrgIn(t, filepath.Join(t.TempDir(), "repository"), Options{Published: away}, nil)
	before := listing(t, away)
	o.repo.hook = func(point, name string) error {
		if name == "2.revocations.json" {
			return errCrash
		}
		return nil
	}
	_, err := o.repo.PublishRevocations(t.Context(), map[string][]byte{"revocations/a.json": []byte("a")}, signersOf(o.responders[:2]), o.online.Signer)
	if !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	r, err := Open(o.dir, Options{})
	check(t, err)
	unchanged(t, filepath.Dir(o.dir), func() {
		_, err = r.Refresh(t.Context(), o.online.Signer, false)
		refused(t, err, "was cut off, and the published directory given now is")
	})
	o.repo.hook = nil
	got, err := o.repo.Refresh(t.Context(), o.online.Signer, false)
	check(t, err)
	if after := listing(t, away); !got.Finished || len(after) <= len(before) {
		t.Errorf("%+v, %d files, before %d", got, len(after), len(before))
	}
	o.revoke(t, map[string][]byte{"revocations/b.json": []byte("b")})
}
