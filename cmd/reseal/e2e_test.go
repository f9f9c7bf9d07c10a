//go:build e2e && linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// apart is how long the inventory, the theft and the attack lie apart, so that
// timestamps, which count whole seconds, cannot be on the wrong side.
const apart = 3 * time.Second

// TestRecovery signs images with real cosign, lets a thief of the key sign
// others with real cosign, recovers with nothing but reseal's commands, and lets
// real cosign judge what came of it.
func TestRecovery(t *testing.T) {
	if isolated(t) {
		return
	}
	w := newWorld(t)
	step := w.steps()

	images := fleet(w.host, 20)
	w.parallel(len(images), func(n int) error { return w.publish(images[n]) })
	step("push %d images and sign them with the old key", len(images))

	w.initialise()
	before := w.scan(images)
	w.equal("signatures found before the theft", before.Signatures, len(images)+count(images, func(i *image) bool { return i.provenance })+
		count(images, func(i *image) bool { return i.sbom }))
	w.equal("signatures that do not verify before the theft", before.Unverified, 0)
	w.equal("states of the signers", w.signerStates(), "builder active, release active, release-2 standby")
	step("init and scan")

	from := w.theft()
	a := w.attack(images)
	images = append(images, a.images...)
	step("theft at %s, attack", from.Format(time.RFC3339))

	w.judged(images, "before the recovery", map[string]func(*image) bool{
		"old.pub": func(*image) bool { return true },
		"new.pub": func(*image) bool { return false },
	})
	a.judged(w, "old.pub", true)
	step("real cosign accepts everything by the old key, the attacker's included")

	decode[scanned](w, w.reseal("scan", w.host, "--json")) // the whole registry
	w.deploy(images)
	w.openIncident(from, images)
	impact := decode[struct {
		Artifacts, Deployed int
	}](w, w.reseal("impact", "INC-1", "--json"))
	w.equal("artifacts in the blast radius", impact.Artifacts, len(images))
	w.equal("deployed artifacts in the blast radius", impact.Deployed, count(images, func(i *image) bool { return i.deployed }))
	plan := w.plan()
	items := w.checkPlan(plan, images, a)
	step("scan, deployed, incident open, impact, plan")

	resign := append(w.resignArgs(plan), "--apply")
	untouched := w.storage()
	w.exits(w.reseal(resign...), 4)
	w.exits(w.approve(plan, "alice"), 0)
	w.exits(w.reseal(resign...), 4)
	if r := w.approve(plan, "carol"); r.code == 0 {
		t.Errorf("the proposer approved her own plan: %s", r)
	}
	w.exits(w.reseal(resign...), 4)
	w.exits(w.approve(plan, "bob"), 0)
	w.sameStorage("without approvals", untouched)
	step("approve: nothing is signed before")

	anchors := w.read("anchors/cluster.pub") + w.read("anchors/ci.pub")
	w.ok(w.reseal("contain", plan))
	w.ok(w.reseal(w.resignArgs(plan)...))
	w.exits(w.reseal("cutover", plan), 5)
	w.exits(w.reseal("cutover", plan, "--apply"), 5)
	w.sameStorage("by dry runs", untouched)
	w.equal("anchors after dry runs and a refused cut-over", w.read("anchors/cluster.pub")+w.read("anchors/ci.pub"), anchors)
	step("dry runs change nothing, the cut-over is refused while deployed images are not covered")

	w.ok(w.reseal("contain", plan, "--apply"))
	for _, i := range images {
		w.present(i, !i.known)
	}
	step("contain")

	units := 0
	for _, item := range items {
		if item.Decision == "resign" {
			units += len(item.Formats)
		}
	}
	done := decode[resigned](w, w.reseal(append(resign, "--json")...))
	w.equal("result of re-signing", done.counts(), resigned{Planned: units, Signed: units}.counts())
	again := decode[resigned](w, w.reseal(append(resign, "--json")...))
	w.equal("result of re-signing again", again.counts(), resigned{Planned: units, Already: units}.counts())
	step("re-sign %d signatures in %.1f s with %d requests", done.Signed, done.DurationSeconds, done.Requests)

	w.ok(w.reseal("cutover", plan, "--apply"))
	w.equal("anchor of the cluster", w.read("anchors/cluster.pub"), w.read("new.pub"))
	w.equal("anchor of ci", w.read("anchors/ci.pub"), w.read("new.pub"))
	w.equal("states of the signers", w.signerStates(), "builder active, release revoked, release-2 active")
	w.ok(w.reseal("contain", plan, "--apply"))
	w.ok(w.reseal("cutover", plan, "--apply"))
	step("cut over; contain and cut over again")

	resignedOnly := func(i *image) bool { return i.want() == "resign" }
	table := w.judged(images, "after the recovery", map[string]func(*image) bool{
		"new.pub":                         resignedOnly,
		"new.pub --use-signed-timestamps": resignedOnly,
		"old.pub":                         func(i *image) bool { return !i.known }, // nothing good was taken away
	})
	a.judged(w, "new.pub", false)
	a.judged(w, "old.pub", true)
	w.parallel(len(images), func(n int) error {
		i := images[n]
		var errs []error
		for _, cosign := range []string{"cosign2", "cosign3"} {
			if i.sbom {
				errs = append(errs, w.judgeClaim(cosign, "new.pub", "spdxjson", i).unless(0))
			}
			if i.provenance {
				errs = append(errs, w.judgeClaim(cosign, "builder.pub", "slsaprovenance1", i).unless(0))
			}
		}
		return errors.Join(errs...)
	})
	step("real cosign judges images, SBOMs, provenance and what the attacker added")

	w.once(images)
	step("every statement is signed by the new key once, nothing else is")

	w.parallel(len(images), func(n int) error {
		i := images[n]
		r := w.reseal("verify", i.ref())
		switch {
		case i.known && r.code > 0:
			return nil // it is gone
		case i.want() == "resign":
			return r.unless(0)
		}
		return r.unless(3)
	})
	w.ok(w.reseal("journal", "verify"))
	step("reseal verify and reseal journal verify")

	step("evidence pack, verified by two programs, with a byte flipped in each of %d files; close", w.evidence(done.Signed))

	report := summary(images, table, items)
	fmt.Print(report)
	t.Log("\n" + report)
}

// fleet returns images of an organisation, half of them legacy. Of 20 in a
// format, 10 have a timestamp, 7 have none but provenance, and 3 have nothing.
func fleet(host string, perFormat int) []*image {
	repositories := []string{"/platform/api", "/platform/web", "/edge/gateway", "/edge/agent"}
	var out []*image
	for _, format := range []string{legacy, bundle} {
		for n := range perFormat {
			share := float64(n) / float64(perFormat)
			i := &image{repository: host + repositories[n%4], tag: fmt.Sprintf("%s-1.%d", format, n), format: format,
				index: n == 0, timestamp: share < .5, provenance: .5 <= share && share < .85}
			i.sbom = n == 1 || format == bundle && n < 4
			i.provenance = i.provenance || format == legacy && i.sbom // two claims in one ".att"
			i.deployed = i.want() == "resign" && n%3 != 2
			out = append(out, i)
		}
	}
	return out
}

// An attack is what the thief of the old key does.
type attack struct {
	images  []*image // made by the thief
	added   []*image // good images that got a second signature
	claimed *image   // good image that got a VEX statement
}

// origin is an annotation that only the attacker's added signatures have, so
// that cosign can be asked about them alone.
const origin = "origin=attacker"

func (w *world) attack(images []*image) attack {
	w.Helper()
	good := func(format string, n int) *image {
		i := slices.IndexFunc(images, func(i *image) bool { return i.format == format })
		return images[i+n]
	}
	a := attack{
		images: []*image{
			{repository: w.host + "/platform/api", tag: "legacy-9.1", format: legacy, rogue: true, known: true},
			{repository: w.host + "/edge/agent", tag: "bundle-9.2", format: bundle, rogue: true, known: true},
			{repository: w.host + "/platform/web", tag: "hotfix", format: legacy, rogue: true, timestamp: true},
		},
		added:   []*image{good(legacy, 2), good(bundle, 2)},
		claimed: good(bundle, 5),
	}
	w.parallel(6, func(n int) error {
		switch {
		case n < 3:
			return w.publish(a.images[n])
		case n < 5:
			return w.sign(a.added[n-3], n == 3, origin)
		}
		return w.attest(a.claimed, "old.key", "openvex", "vex.json", false)
	})
	return a
}

// judged asks real cosign whether it accepts by a key what the attacker added
// to good images.
func (a attack) judged(w *world, key string, accepted bool) {
	w.Helper()
	for _, cosign := range []string{"cosign2", "cosign3"} {
		results := []result{w.judgeClaim(cosign, key, "openvex", a.claimed)}
		for _, i := range a.added {
			if cosign == "cosign2" && i.format == bundle {
				continue // cosign v2 does not look at the annotations in bundles
			}
			results = append(results, w.judge(cosign, key, i, "-a", origin))
		}
		for _, r := range results {
			if r.code < 0 || (r.code == 0) != accepted {
				w.Errorf("expected accepted=%t of what the attacker added: %s", accepted, r)
			}
		}
	}
}

// initialise makes reseal's home: three approvers, the old key, the builder's,
// the key in reserve, and a consumer of each format.
func (w *world) initialise() {
	w.Helper()
	w.write("anchors/cluster.pub", w.read("old.pub"))
	w.write("anchors/ci.pub", w.read("old.pub"))
	w.ok(w.reseal("init", "--quorum", "2",
		"--approver", "alice=alice.pub", "--approver", "bob=bob.pub", "--approver", "carol=carol.pub",
		"--signer", "release=old.pub", "--signer", "builder=builder.pub", "--standby", "release-2=new.pub",
		"--trusted-root", "trusted_root.json",
		"--consumer", "cluster=legacy=anchors/cluster.pub", "--consumer", "ci=bundle=anchors/ci.pub"))
}

func (w *world) signerStates() string {
	w.Helper()
	list := decode[struct {
		Signers []struct{ Name, State string }
	}](w, w.reseal("signers", "--json"))
	var states []string
	for _, s := range list.Signers {
		states = append(states, s.Name+" "+s.State)
	}
	slices.Sort(states)
	return strings.Join(states, ", ")
}

type scanned struct {
	Repositories, Artifacts, Signatures, Verified, Unverified int
}

func (w *world) scan(images []*image) scanned {
	w.Helper()
	repositories := map[string]bool{}
	for _, i := range images {
		repositories[i.repository] = true
	}
	args := append([]string{"scan", "--json"}, slices.Sorted(maps.Keys(repositories))...)
	s := decode[scanned](w, w.reseal(args...))
	w.equal("repositories scanned", s.Repositories, len(repositories))
	return s
}

// theft waits, returns the time of the theft, and waits again.
func (w *world) theft() time.Time {
	time.Sleep(apart)
	from := time.Now().UTC().Truncate(time.Second)
	time.Sleep(apart)
	return from
}

func (w *world) deploy(images []*image) {
	w.Helper()
	var lines strings.Builder
	for _, i := range images {
		if i.deployed {
			fmt.Fprintln(&lines, i.ref())
		}
	}
	w.write("deployed.txt", lines.String())
	w.ok(w.reseal("deployed", "deployed.txt"))
}

func (w *world) openIncident(from time.Time, images []*image) {
	w.Helper()
	args := []string{"incident", "open", "INC-1", "--signer", "release", "--from", from.Format(time.RFC3339),
		"--title", "release key stolen", "--severity", "high", "--reason", "seen in a paste"}
	for _, i := range images {
		if i.known {
			args = append(args, "--rogue", i.digest+"=not built by us")
		}
	}
	w.ok(w.reseal(args...))
}

// plan makes the plan and returns its digest.
func (w *world) plan() string {
	w.Helper()
	p := decode[struct{ Schema, Plan string }](w, w.reseal("incident", "plan", "INC-1", "--new-signer", "release-2",
		"--voucher", "signer=builder,type="+provenanceType, "--skew", "1s", "--as", "carol", "--key", "carol.key", "--json"))
	w.equal("schema of the plan", p.Schema, "reseal.plan/v1")
	return p.Plan
}

type item struct {
	Repository, Digest, Statement, Decision, Reason string
	Formats                                         []string
}

// checkPlan compares the plan's decisions with what the test knows of every
// image.
func (w *world) checkPlan(plan string, images []*image, a attack) []item {
	w.Helper()
	items := decode[struct{ Items []item }](w, w.reseal("incident", "show", "INC-1", "--plan", plan, "--json")).Items
	find := func(i *image, predicateType string) item {
		for _, it := range items {
			typ, _, _ := strings.Cut(it.Statement, "#")
			if it.Repository == i.repository && it.Digest == i.digest && typ == predicateType {
				return it
			}
		}
		return item{Decision: "not in the plan"}
	}
	expect := func(i *image, predicateType, decision, format string) {
		got := find(i, predicateType)
		if got.Decision != decision || got.Reason == "" {
			w.Errorf("%s, %s: expected %s with a reason, the plan says %+v", i, predicateType, decision, got)
		}
		if decision == "resign" && !slices.Equal(got.Formats, []string{format}) {
			w.Errorf("%s, %s: expected to be re-signed as %s, the plan says %v", i, predicateType, format, got.Formats)
		}
	}
	claims := map[string]string{legacy: "legacy-att", bundle: bundle}
	total := len(images)
	for _, i := range images {
		expect(i, signType, i.want(), i.format)
		if i.sbom {
			expect(i, sbomType, "resign", claims[i.format])
			total++
		}
	}
	held := 0
	for _, it := range items {
		if it.Repository == a.claimed.repository && it.Digest == a.claimed.digest && strings.Contains(it.Statement, "openvex") {
			w.equal("decision about the attacker's VEX statement", it.Decision, "hold")
			w.equal("a reason for it", it.Reason != "", true)
			total++
			held++
		}
	}
	w.equal("VEX statements in the plan", held, 1)
	w.equal("items in the plan", len(items), total)
	if w.Failed() {
		w.FailNow()
	}
	return items
}

func (w *world) approve(plan, who string) result {
	return w.run("reseal", "--home", "reseal", "--actor", who, "incident", "approve", plan, "--as", who, "--key", who+".key")
}

func (w *world) resignArgs(plan string) []string {
	return []string{"resign", plan, "--key", "new.key", "--timestamp-server-url", w.tsa}
}

// resigned is what "reseal resign --json" reports.
type resigned struct {
	Planned, Signed, Already, Failed, Requests int
	DurationSeconds                            float64 `json:"duration_seconds"`
}

func (r resigned) counts() string {
	return fmt.Sprintf("planned %d, signed %d, already %d, failed %d", r.Planned, r.Signed, r.Already, r.Failed)
}

// once reads the registry and checks that the new key signed every statement
// that was to be re-signed once, in its format and with a timestamp, and nothing
// else.
func (w *world) once(images []*image) {
	w.Helper()
	r := w.reader()
	w.parallel(len(images), func(n int) error {
		i := images[n]
		found, err := r.attached(i)
		if err != nil {
			return fmt.Errorf("%s: %w", i, err)
		}
		want := map[string]int{}
		if i.want() == "resign" {
			want[i.format+" "+signType] = 1
		}
		if i.want() == "resign" && i.both {
			want[i.other().format+" "+signType] = 1
		}
		if i.sbom && i.format == legacy {
			want["legacy-att "+sbomType] = 1
		} else if i.sbom {
			want["bundle "+sbomType] = 1
		}
		got := map[string]int{}
		for _, a := range found {
			if a.key == "new" {
				got[a.format+" "+a.claim]++
			}
			if a.key == "new" && !a.timestamp {
				return fmt.Errorf("%s: a new signature has no timestamp: %s", i, a)
			}
		}
		if !maps.Equal(got, want) {
			return fmt.Errorf("%s: signed by the new key: %v, expected %v; attached is: %v", i, got, want, found)
		}
		return nil
	})
}

// present checks whether the registry has an image, by digest and by tag.
func (w *world) present(i *image, want bool) {
	w.Helper()
	for _, text := range []string{i.ref(), i.repository + ":" + i.tag} {
		ref, err := name.ParseReference(text)
		w.check(err)
		_, err = remote.Head(ref)
		absent := isNotFound(err)
		if !absent {
			w.check(err)
		}
		if absent == want {
			w.Errorf("%s: expected %s to be in the registry: %t", i, text, want)
		}
	}
}

// A ballot says what real cosign said of groups of images.
type ballot map[string]map[string]tally // group → judge → tally

type tally struct{ accepted, of int }

// judged asks both versions of cosign about every image by every key, compares
// with what is expected, and counts. A key may be followed by flags.
func (w *world) judged(images []*image, when string, keys map[string]func(*image) bool) ballot {
	w.Helper()
	var mu sync.Mutex
	counted := ballot{}
	w.parallel(len(images), func(n int) error {
		i := images[n]
		var errs []error
		for key, expected := range keys {
			flags := strings.Fields(key)
			for _, cosign := range []string{"cosign2", "cosign3"} {
				r := w.judge(cosign, flags[0], i, flags[1:]...)
				if r.code < 0 || (r.code == 0) != expected(i) {
					errs = append(errs, fmt.Errorf("%s, %s, %s: expected accepted=%t of: %s", when, i.group(), i, expected(i), r))
				}
				mu.Lock()
				group, judge := i.format+" "+i.group(), cosign+" "+key
				if counted[group] == nil {
					counted[group] = map[string]tally{}
				}
				c := counted[group][judge]
				c.of++
				if r.code == 0 {
					c.accepted++
				}
				counted[group][judge] = c
				mu.Unlock()
			}
		}
		return errors.Join(errs...)
	})
	return counted
}

// summary draws what became of the images of each format, what real cosign said
// of each group, and why statements are held.
func summary(images []*image, b ballot, items []item) string {
	judges := []string{"cosign2 new.pub", "cosign3 new.pub", "cosign2 old.pub", "cosign3 old.pub"}
	var out strings.Builder
	fmt.Fprintf(&out, "accepted by real cosign, of all images of the group:\n%-7s %-9s %6s", "format", "group", "images")
	for _, judge := range judges {
		fmt.Fprintf(&out, "  %s", judge)
	}
	out.WriteString("\n")
	for _, format := range []string{legacy, bundle} {
		for _, group := range []string{"re-signed", "held", "rogue"} {
			n := count(images, func(i *image) bool { return i.format == format && i.group() == group })
			fmt.Fprintf(&out, "%-7s %-9s %6d", format, group, n)
			for _, judge := range judges {
				t := b[format+" "+group][judge]
				fmt.Fprintf(&out, "  %*s", len(judge), fmt.Sprintf("%d/%d", t.accepted, t.of))
			}
			out.WriteString("\n")
		}
	}
	reasons := map[string]int{}
	for _, it := range items {
		if it.Decision == "hold" {
			reasons[it.Reason]++
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		fmt.Fprintf(&out, "held %d: %s\n", reasons[reason], reason)
	}
	return out.String()
}

// storage returns the digest of every file the registry keeps.
func (w *world) storage() map[string]string {
	w.Helper()
	files := map[string]string{}
	w.check(filepath.WalkDir(w.path("storage"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		files[path] = digest(content)
		return err
	}))
	return files
}

func (w *world) sameStorage(when string, before map[string]string) {
	w.Helper()
	now := w.storage()
	for path, content := range now {
		if before[path] != content {
			w.Errorf("%s: the registry's %s was written", when, path)
		}
	}
	for path := range before {
		if now[path] == "" {
			w.Errorf("%s: the registry's %s was deleted", when, path)
		}
	}
}

func (w *world) equal(what string, got, want any) {
	w.Helper()
	if got != want {
		w.Errorf("%s: got %v, expected %v", what, got, want)
	}
}

// steps returns a function that tells what was done and how long it took.
func (w *world) steps() func(format string, args ...any) {
	last := time.Now()
	return func(format string, args ...any) {
		fmt.Printf("e2e %6.1fs  %s\n", time.Since(last).Seconds(), fmt.Sprintf(format, args...))
		last = time.Now()
	}
}

func count(images []*image, is func(*image) bool) int {
	n := 0
	for _, i := range images {
		if is(i) {
			n++
		}
	}
	return n
}
