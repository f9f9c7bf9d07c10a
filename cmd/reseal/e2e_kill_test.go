//go:build e2e && linux

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// kills is how many moments of a re-signing run are tried.
const kills = 100

// TestKillResign kills "reseal resign" at random moments of its whole run, half
// of them by the requests it has sent and half by the time, runs it again, and
// compares the registry with that of a run nobody disturbed.
func TestKillResign(t *testing.T) {
	if isolated(t) {
		return
	}
	w := newWorld(t)
	step := w.steps()

	images := fleet(w.host, 3)
	images[1].both = true
	for _, format := range []string{legacy, bundle} {
		images = append(images, &image{repository: w.host + "/edge/agent", tag: format + "-held", format: format})
	}
	w.parallel(len(images), func(n int) error { return w.publish(images[n]) })
	w.initialise()
	w.scan(images)
	from := w.theft()
	w.deploy(images)
	w.openIncident(from, images)
	plan := w.plan()
	w.ok(w.approve(plan, "alice"))
	w.ok(w.approve(plan, "bob"))
	before := w.state(images)
	w.save()
	step("%d images signed, planned and approved", len(images))

	resign := append(w.resignArgs(plan), "--apply", "--json")
	sent, start := len(w.requests()), time.Now()
	whole := decode[resigned](w, w.reseal(resign...))
	duration := time.Since(start)
	requests := len(w.requests()) - sent
	w.equal("result of the undisturbed run", whole.counts(), resigned{Planned: whole.Planned, Signed: whole.Planned}.counts())
	w.once(images)
	undisturbed := w.state(images)
	w.equal("signatures by the new key", undisturbed.byNew(), whole.Planned)
	w.equal("what was there before, after the undisturbed run", strings.Join(undisturbed.without("new"), "\n"), strings.Join(before.without("new"), "\n"))
	step("undisturbed: %d signatures with %d requests in %s", whole.Planned, requests, duration.Round(time.Millisecond))

	done := resigned{Planned: whole.Planned, Already: whole.Planned}.counts()
	amid, over := 0, 0
	for n := range kills {
		w.restore()
		var moment string
		var killed result
		if n%2 == 0 {
			after := rand.N(requests)
			moment = fmt.Sprintf("%d of %d requests", after, requests)
			killed = w.runUntil(after, "reseal", append([]string{"--home", "reseal", "--actor", "carol"}, resign...)...)
		} else {
			after := rand.N(duration)
			moment = fmt.Sprintf("%s of %s", after.Round(time.Millisecond), duration.Round(time.Millisecond))
			killed = w.runFor(after, "reseal", append([]string{"--home", "reseal", "--actor", "carol"}, resign...)...)
		}
		if killed.code > 0 {
			w.Fatalf("to be killed after %s: %s", moment, killed)
		}
		left := w.state(images).byNew()
		switch {
		case killed.code == 0:
			over++
		case 0 < left && left < whole.Planned:
			amid++
		}
		resumed := decode[resigned](w, w.reseal(resign...))
		fmt.Printf("e2e  killed after %s (exit code %2d): %2d of %d signatures in the registry; resumed: %s\n",
			moment, killed.code, left, whole.Planned, resumed.counts())
		if resumed.Failed > 0 || resumed.Signed+resumed.Already != whole.Planned {
			t.Errorf("killed after %s: the resumed run reports %s", moment, resumed.counts())
		}
		if n%10 < 2 {
			again := decode[resigned](w, w.reseal(resign...))
			w.equal(fmt.Sprintf("killed after %s: running once more", moment), again.counts(), done)
		}
		w.ok(w.reseal("journal", "verify"))
		if got := w.state(images); !slices.Equal(got, undisturbed) {
			t.Errorf("killed after %s and resumed, the registry is not as an undisturbed run leaves it:\n%s\nexpected:\n%s",
				moment, strings.Join(got, "\n"), strings.Join(undisturbed, "\n"))
		}
	}
	step("%d runs: %d came to their end before they could be killed, %d were killed with some signatures published and others not", kills, over, amid)
	if amid < kills/10 {
		t.Errorf("only %d kills came while signatures were being published: this shows little", amid)
	}
}

// A state is every tag in the registry and everything attached to the images,
// a line each, without what is different at every signing.
type state []string

func (w *world) state(images []*image) state {
	w.Helper()
	lines := make([][]string, len(images))
	reader := w.reader()
	w.parallel(len(images), func(n int) error {
		found, err := reader.attached(images[n])
		for _, a := range found {
			lines[n] = append(lines[n], images[n].ref()+" has "+a.String())
		}
		return err
	})
	s := state(slices.Concat(lines...))
	repositories := map[string]bool{}
	for _, i := range images {
		if repositories[i.repository] {
			continue
		}
		repositories[i.repository] = true
		repo, err := name.NewRepository(i.repository)
		w.check(err)
		tags, err := remote.List(repo)
		w.check(err)
		for _, tag := range tags {
			line := repo.Tag(tag).String()
			if !strings.HasPrefix(tag, "sha256-") {
				desc, err := remote.Head(repo.Tag(tag))
				w.check(err)
				line += " is " + desc.Digest.String()
			}
			s = append(s, line)
		}
	}
	slices.Sort(s)
	return s
}

// without returns the state without what one key signed.
func (s state) without(key string) state {
	return slices.DeleteFunc(slices.Clone(s), func(line string) bool { return strings.HasSuffix(line, " "+key) })
}

func (s state) byNew() int { return len(s) - len(s.without("new")) }

// save keeps the registry and reseal's home as they are, for restore.
func (w *world) save() {
	w.Helper()
	for _, dir := range []string{"storage", "reseal"} {
		w.check(os.CopyFS(w.path("saved", dir), os.DirFS(w.path(dir))))
	}
}

// restore puts the registry and reseal's home back.
func (w *world) restore() {
	w.Helper()
	w.registry.stop()
	for _, dir := range []string{"storage", "reseal"} {
		w.check(os.RemoveAll(w.path(dir)))
		w.check(os.CopyFS(w.path(dir), os.DirFS(w.path("saved", dir))))
	}
	w.startRegistry()
}
