package tuf

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// grown is an organisation whose repository has a past: three roots, a role with bins, revocations.
func grown(t *testing.T) *org {
	t.Helper()
	o := newOrg(t)
	o.change(t, Renew{"root"})
	o.online = newP256(t, "")
	o.propose(t, SetOnline{Online{o.online.Key, "second"}}, AddRole{Name: "files", Paths: []string{"files/*"}, Terminating: true, Holders: holdersOf(o.holders), Threshold: 2, BinBits: 2},
		SetTarget{Name: "files/one", Data: []byte("one")}, SetTarget{Name: "dir/two.json", Data: []byte("two")})
	o.sign(t, o.holders...)
	o.publish(t)
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("1")})
	return o
}

func TestRebuild(t *testing.T) {
	o := grown(t)
	roots := map[int][]byte{}
	for v := 1; v <= 3; v++ {
		data, err := os.ReadFile(filepath.Join(o.published, fmt.Sprintf("%d.root.json", v)))
		check(t, err)
		roots[v] = data
	}
	// What there was, without the published directory.
	want := map[string]string{}
	for name, text := range listing(t, o.dir) {
		if rel, err := filepath.Rel(o.dir, name); err == nil && !strings.HasPrefix(rel, "published") {
			want[rel] = text
		}
	}
	for name, mirror := range map[string]Mirror{"directory": DirMirror(o.published), "URL": URLMirror(o.url, nil)} {
		for v, root := range roots {
			dir := filepath.Join(t.TempDir(), "new")
			r, got, err := Rebuild(t.Context(), dir, Options{Published: o.published}, mirror, root)
			check(t, err)
			if got.First != 1 || got.Versions["root"] != 3 || got.Targets != 5 || len(got.Expired) != 0 {
				t.Errorf("%s, from root %d: %+v", name, v, got)
			}
			have := map[string]string{}
			for name, text := range listing(t, dir) {
				rel, err := filepath.Rel(dir, name)
				check(t, err)
				have[rel] = text
			}
			if !maps.Equal(have, want) {
				t.Errorf("%s, from root %d: %d files, before %d", name, v, len(have), len(want))
			}
			_, _, err = Rebuild(t.Context(), dir, Options{}, mirror, root)
			refused(t, err, "repository already")
			o.repo = r
		}
	}
	o.change(t, SetTarget{Name: "files/one", Data: []byte("new")})
	if got := o.sigstoreTarget(t, t.TempDir(), "files/one"); string(got) != "new" {
		t.Errorf("got %q", got)
	}
	// The mirror need not have the roots before the pinned one.
	check(t, os.Remove(filepath.Join(o.published, "1.root.json")))
	r, got, err := Rebuild(t.Context(), t.TempDir(), Options{Published: o.published}, DirMirror(o.published), roots[2])
	check(t, err)
	if got.First != 2 {
		t.Errorf("%+v", got)
	}
	_, err = r.Refresh(t.Context(), o.online.Signer, true)
	check(t, err)
}

func TestRebuildRefuses(t *testing.T) {
	o, other := grown(t), newOrg(t)
	_, _, err := Rebuild(t.Context(), t.TempDir(), Options{}, DirMirror(o.published), other.pinned)
	refused(t, err, "another repository")
	_, _, err = Rebuild(t.Context(), t.TempDir(), Options{}, DirMirror(t.TempDir()), o.pinned)
	refused(t, err, "not the pinned one")
	// Any file tampered with or missing.
	check(t, filepath.WalkDir(o.published, func(path string, e fs.DirEntry, err error) error {
		name := filepath.Base(path)
		if err != nil || e.IsDir() || strings.HasPrefix(name, "1.") && name != "1.root.json" && !strings.HasPrefix(name, "1.files") {
			return err
		}
		good, err := os.ReadFile(path)
		check(t, err)
		current := false
		for damage, data := range map[string][]byte{"tampered": append([]byte("x"), good...), "missing": nil} {
			if data == nil {
				check(t, os.Remove(path))
			} else {
				check(t, os.WriteFile(path, data, 0o644))
			}
			_, _, err := Rebuild(t.Context(), t.TempDir(), Options{}, DirMirror(o.published), o.pinned)
			current = current || err != nil
			if err == nil && (name == "timestamp.json" || strings.HasSuffix(name, ".root.json") && name != "3.root.json" || strings.Contains(path, "targets"+string(filepath.Separator))) {
				t.Errorf("rebuilt with %s %s", path, damage)
			}
			check(t, os.WriteFile(path, good, 0o644))
		}
		return nil
	}))
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = Rebuild(canceled, t.TempDir(), Options{}, URLMirror(o.url, nil), o.pinned)
	refused(t, err, "context canceled")
}

func TestRebuildSaysWhatExpired(t *testing.T) {
	o := newOrgIn(t, t.TempDir(), ago(30*day), nil)
	_, got, err := Rebuild(t.Context(), t.TempDir(), Options{}, DirMirror(o.published), o.pinned)
	check(t, err)
	if len(got.Expired) != 2 || !strings.HasPrefix(got.Expired[0], "timestamp") || !strings.HasPrefix(got.Expired[1], "snapshot") {
		t.Errorf("%+v", got)
	}
}

func TestRepublish(t *testing.T) {
	o := grown(t)
	unchanged(t, o.dir, func() {
		got, err := o.repo.Republish(t.Context(), nil)
		check(t, err)
		if len(got.Written) != 0 || len(got.Removed) != 0 || len(got.Walked) != 6 {
			t.Errorf("with nothing to do: %+v", got)
		}
	})
	want := o.revocations(t, "")
	check(t, os.RemoveAll(o.published))
	got, err := o.repo.Republish(t.Context(), nil)
	check(t, err)
	if got.Written[len(got.Written)-1] != "timestamp.json" {
		t.Errorf("written: %v", got.Written)
	}
	if got := o.revocations(t, ""); !sameFiles(got, want) {
		t.Errorf("got %q", got)
	}
	for _, name := range []string{"files/one", "dir/two.json", "trusted_root.json"} {
		o.sigstoreTarget(t, t.TempDir(), name)
	}
	// What has expired is no reason not to: it is renewed afterwards.
	old := newOrgIn(t, t.TempDir(), ago(10*day), nil)
	old.repo, err = Open(old.dir, Options{})
	check(t, err)
	check(t, os.RemoveAll(old.published))
	_, err = old.repo.Republish(t.Context(), nil)
	check(t, err)
	_, err = old.repo.Refresh(t.Context(), old.online.Signer, false)
	check(t, err)
	// An old copy of the directory, from before root was changed, does not take clients back.
	away := filepath.Join(t.TempDir(), "away")
	moved := newOrgIn(t, filepath.Join(t.TempDir(), "repository"), Options{Published: away}, nil)
	copied := filepath.Join(t.TempDir(), "copy")
	check(t, os.CopyFS(copied, os.DirFS(moved.dir)))
	moved.change(t, SetThreshold{"root", 3})
	unchanged(t, away, func() {
		r, err := Open(copied, Options{Published: away})
		check(t, err)
		_, err = r.Republish(t.Context(), nil)
		refused(t, err, "it is an old copy; rebuild it")
	})
	// A target that is in neither directory any more is named.
	check(t, os.RemoveAll(filepath.Join(o.published, "targets", "dir")))
	check(t, os.RemoveAll(filepath.Join(o.dir, "targets", "dir")))
	_, err = o.repo.Republish(t.Context(), nil)
	refused(t, err, "dir/two.json")
}

func TestRestore(t *testing.T) {
	o := newOrg(t)
	good, err := o.repo.PublishedRole("targets", 1)
	check(t, err)
	o.change(t, SetTarget{Name: "trusted_root.json", Data: []byte("evil")}, SetTarget{Name: "evil.json", Data: []byte("evil")}, RemoveHolder{"revocations", "@frank"})
	_, err = o.repo.Propose(t.Context(), Proposal{Changes: []Change{Restore{"targets", good}}})
	refused(t, err, "evil.json: the target is removed")
	_, err = o.repo.Propose(t.Context(), Proposal{Changes: []Change{Restore{"targets", good}}, Accept: []string{"evil.json"}})
	refused(t, err, "comes back, which does not hold role revocations any more")
	_, err = o.repo.Propose(t.Context(), Proposal{Changes: []Change{Restore{"targets", good}, RemoveHolder{"revocations", "@frank"}}, Accept: []string{"evil.json"}})
	check(t, err)
	check(t, o.repo.Withdraw(t.Context()))
	_, err = o.repo.Propose(t.Context(), Proposal{Changes: []Change{Restore{"targets", good}}, Accept: []string{"evil.json", "revocations"}})
	check(t, err)
	o.sign(t, o.holders...)
	p := o.publish(t)
	if p.Versions["targets"] != 3 {
		t.Errorf("%+v", p)
	}
	s, err := o.repo.load()
	check(t, err)
	m, err := parseTargets(good)
	check(t, err)
	if len(s.Targets["targets"].Signed.Targets) != 2 || fmt.Sprint(s.Targets["targets"].Signed.Delegations.Roles) != fmt.Sprint(m.Signed.Delegations.Roles) {
		t.Errorf("%+v", s.Targets["targets"].Signed)
	}
	if got := o.sigstoreTarget(t, t.TempDir(), "trusted_root.json"); string(got) != string(o.trustedRoot) {
		t.Errorf("got %q", got)
	}
	_, err = o.repo.PublishedRole("../../x", 1)
	refused(t, err, "a name is letters")
}

// What was signed by those who held a role at the time is a known good, whoever holds it now.
func TestRestoreOfFormerHolders(t *testing.T) {
	o := newOrg(t)
	former := o.holders
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("1")})
	var changes []Change
	for i, name := range []string{"@alice", "@bob", "@carol"} {
		p := newP256(t, name)
		o.holders = append(o.holders[:i:i], append([]person{p}, o.holders[i+1:]...)...)
		changes = append(changes, ReplaceKey{p.Holder})
	}
	for i, name := range []string{"@dave", "@erin", "@frank"} {
		p := newP256(t, name)
		o.responders = append(o.responders[:i:i], append([]person{p}, o.responders[i+1:]...)...)
		changes = append(changes, ReplaceKey{p.Holder})
	}
	o.propose(t, changes...)
	o.sign(t, append(append(slices.Clone(former), o.holders...), o.responders...)...)
	o.publish(t)
	for role, version := range map[string]int64{"targets": 1, "revocations": 2} {
		known, err := o.repo.PublishedRole(role, version)
		check(t, err)
		_, err = o.repo.Propose(t.Context(), Proposal{Changes: []Change{Restore{role, known}}, Accept: []string{"revocations"}})
		check(t, err)
		check(t, o.repo.Withdraw(t.Context()))
	}
}

func TestRepinKit(t *testing.T) {
	o := newOrg(t)
	k, err := RepinKit(o.pinned, "example.test", o.url)
	check(t, err)
	for _, want := range []string{k.SHA256, "1.root.json", o.url, "@alice", fingerprintOf(t, o.holders[0]), "--root-checksum " + k.SHA256, "another way"} {
		if !strings.Contains(k.Text, want) {
			t.Errorf("the text lacks %q", want)
		}
	}
	_, err = RepinKit([]byte(strings.Replace(string(o.pinned), `"version": 1`, `"version": 2`, 1)), "x", "y")
	refused(t, err, "not signed")
	_, err = RepinKit([]byte("{}"), "x", "y")
	if err == nil {
		t.Error("accepted")
	}
}

func TestTargets(t *testing.T) {
	o := grown(t)
	got, err := o.repo.Targets()
	check(t, err)
	if len(got) != 5 || string(got["files/one"]) != "one" || string(got["revocations/1.json"]) != "1" {
		t.Errorf("got %q", got)
	}
	walked, err := o.repo.Walk(t.Context())
	check(t, err)
	if len(walked) != 6 {
		t.Errorf("walked %v", walked)
	}
}
