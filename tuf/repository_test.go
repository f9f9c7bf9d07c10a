package tuf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"github.com/reseal/reseal/internal/durable"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestInitLayout(t *testing.T) {
	o := newOrg(t)
	for _, name := range []string{"1.root.json", "1.targets.json", "1.revocations.json", "1.snapshot.json", "timestamp.json"} {
		data, err := os.ReadFile(filepath.Join(o.dir, name))
		check(t, err)
		var m struct{ Signed struct{ Expires string } }
		check(t, json.Unmarshal(data, &m))
		if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`).MatchString(m.Signed.Expires) {
			t.Errorf("%s expires %q: want whole seconds in UTC", name, m.Signed.Expires)
		}
	}
	matches, err := filepath.Glob(filepath.Join(o.dir, "targets", "????????????????????????????????????????????????????????????????.trusted_root.json"))
	check(t, err)
	if len(matches) != 1 {
		t.Errorf("trusted_root.json under its hash: %v", matches)
	}
	for _, want := range []string{`"x-tuf-on-ci-keyowner": "@alice"`, `"x-tuf-on-ci-online-uri": "gcpkms:`, `"x-tuf-on-ci-expiry-period": 7`} {
		if !strings.Contains(string(o.pinned), want) {
			t.Errorf("root lacks %s", want)
		}
	}
	if leftovers, _ := filepath.Glob(filepath.Join(o.dir, "*", tempName)); len(leftovers) != 0 {
		t.Errorf("left over: %v", leftovers)
	}
	_, err = Open(o.dir)
	check(t, err)
}

func TestInitRefuses(t *testing.T) {
	o := newOrg(t)
	good := InitOptions{
		RootKeys: o.holders, RootThreshold: 2, TargetsKeys: o.holders, TargetsThreshold: 2,
		RevocationKeys: o.responders, RevocationThreshold: 1, OnlineKey: o.online,
	}
	unchanged(t, o.dir, func() {
		if _, err := Init(o.dir, good); err == nil || !strings.Contains(err.Error(), "repository already") {
			t.Errorf("over an existing repository: %v", err)
		}
		check(t, os.Rename(filepath.Join(o.dir, "timestamp.json"), o.dir+".timestamp"))
		if _, err := Init(o.dir, good); err == nil || !strings.Contains(err.Error(), "no timestamp.json") {
			t.Errorf("over a damaged repository: %v", err)
		}
		check(t, os.Rename(o.dir+".timestamp", filepath.Join(o.dir, "timestamp.json")))
	})
	for name, change := range map[string]func(*InitOptions){
		"no threshold":             func(o *InitOptions) { o.RootThreshold = 0 },
		"threshold too high":       func(o *InitOptions) { o.RevocationThreshold = 4 },
		"key twice":                func(x *InitOptions) { x.RootKeys = []Signer{o.holders[0], o.holders[0]} },
		"online key is a holder":   func(x *InitOptions) { x.OnlineKey = o.holders[0] },
		"responder is a holder":    func(x *InitOptions) { x.RevocationKeys = o.holders },
		"empty signer":             func(o *InitOptions) { o.OnlineKey = Signer{} },
		"fraction of a day":        func(o *InitOptions) { o.TimestampExpiry = time.Hour },
		"negative period":          func(o *InitOptions) { o.RootExpiry = -24 * time.Hour },
		"target escapes":           func(o *InitOptions) { o.Targets = map[string][]byte{"../x": nil} },
		"target under revocations": func(o *InitOptions) { o.Targets = map[string][]byte{"revocations/x": nil} },
	} {
		t.Run(name, func(t *testing.T) {
			options := good
			change(&options)
			dir := filepath.Join(t.TempDir(), "new")
			if _, err := Init(dir, options); err == nil {
				t.Error("accepted")
			} else if _, err := os.Stat(dir); err == nil {
				t.Error("directory was made")
			}
		})
	}
}

func TestRevocationReachesClientsWithOlderCache(t *testing.T) {
	o := newOrg(t)
	ours, theirs := t.TempDir(), t.TempDir()
	if got := o.revocations(t, ours); len(got) != 0 {
		t.Fatalf("before: %v", got)
	}
	o.sigstoreTarget(t, theirs, "trusted_root.json")

	files := map[string][]byte{"revocations/index.json": []byte(`{"head":1}`), "revocations/1.json": []byte(`{"deny":["sha256:a"]}`)}
	// From another process, which knows the keys but not the owners they are published under.
	repo, err := Open(o.dir)
	check(t, err)
	responders := []Signer{newTestSigner(t, o.responders[0].private, ""), newTestSigner(t, o.responders[2].private, "@someone")}
	check(t, repo.PublishRevocations(t.Context(), files, responders, newTestSigner(t, o.online.private, "")))

	for name, cache := range map[string]string{"older cache": ours, "new cache": t.TempDir(), "no cache": ""} {
		if got := o.revocations(t, cache); !sameFiles(got, files) {
			t.Errorf("%s: got %q", name, got)
		}
	}
	if got := o.sigstoreTarget(t, theirs, "revocations/1.json"); string(got) != string(files["revocations/1.json"]) {
		t.Errorf("sigstore-go got %q", got)
	}
	if got := o.sigstoreTarget(t, theirs, "trusted_root.json"); string(got) != string(o.trustedRoot) {
		t.Errorf("sigstore-go got %q", got)
	}

	o.revoke(t, map[string][]byte{"revocations/index.json": []byte(`{"head":2}`), "revocations/2.json": []byte(`{}`)})
	got := o.revocations(t, ours)
	if len(got) != 3 || string(got["revocations/index.json"]) != `{"head":2}` {
		t.Errorf("after the second publish: %q", got)
	}
}

func TestPublishTargets(t *testing.T) {
	o := newOrg(t)
	cache := t.TempDir()
	o.sigstoreTarget(t, cache, "trusted_root.json")
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("{}")})
	check(t, o.repo.PublishTargets(t.Context(), map[string][]byte{"trusted_root.json": []byte("new"), "policy/approvers.json": []byte("[]")},
		o.holders[1:], o.online))
	if got := o.sigstoreTarget(t, cache, "trusted_root.json"); string(got) != "new" {
		t.Errorf("got %q", got)
	}
	if got := o.sigstoreTarget(t, cache, "policy/approvers.json"); string(got) != "[]" {
		t.Errorf("got %q", got)
	}
	if got := o.revocations(t, ""); len(got) != 1 {
		t.Errorf("revocations: %q", got)
	}
}

func TestPublishRefuses(t *testing.T) {
	o := newOrg(t)
	file := map[string][]byte{"revocations/1.json": []byte("{}")}
	top := map[string][]byte{"trusted_root.json": []byte("evil")}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		publish func(context.Context, map[string][]byte, []Signer, Signer) error
		ctx     context.Context
		files   map[string][]byte
		signers []Signer
		online  Signer
		want    string
	}{
		"too few responders":              {o.repo.PublishRevocations, t.Context(), file, o.responders[:1], o.online, "needs the signatures of 2 keys and got signers for 1"},
		"one responder twice":             {o.repo.PublishRevocations, t.Context(), file, []Signer{o.responders[0], o.responders[0]}, o.online, "got signers for 1"},
		"no responders":                   {o.repo.PublishRevocations, t.Context(), file, nil, o.online, "@dave"},
		"holders as responders":           {o.repo.PublishRevocations, t.Context(), file, o.holders, o.online, "is not a key of role"},
		"empty signer":                    {o.repo.PublishRevocations, t.Context(), file, []Signer{{}, {}}, o.online, "NewSigner"},
		"wrong online key":                {o.repo.PublishRevocations, t.Context(), file, o.responders, o.responders[0], `not a key of role "snapshot"`},
		"responders outside their paths":  {o.repo.PublishRevocations, t.Context(), top, o.responders, o.online, "does not lie under"},
		"responders as targets holders":   {o.repo.PublishTargets, t.Context(), top, o.responders, o.online, "is not a key of role"},
		"too few targets holders":         {o.repo.PublishTargets, t.Context(), top, o.holders[:1], o.online, "got signers for 1"},
		"targets hide a revocation":       {o.repo.PublishTargets, t.Context(), file, o.holders, o.online, "belongs to the role"},
		"context ended":                   {o.repo.PublishRevocations, canceled, file, o.responders, o.online, "context canceled"},
		"revocation below a subdirectory": {o.repo.PublishRevocations, t.Context(), map[string][]byte{"revocations/2026/1.json": nil}, o.responders, o.online, "directly under"},
	} {
		t.Run(name, func(t *testing.T) {
			unchanged(t, o.dir, func() {
				if err := c.publish(c.ctx, c.files, c.signers, c.online); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want an error with %q", err, c.want)
				}
			})
		})
	}
}

func TestTargetNames(t *testing.T) {
	o := newOrg(t)
	unchanged(t, filepath.Dir(o.dir), func() {
		for _, name := range []string{
			"", ".", "revocations", "revocations/", "revocations/..", "revocations/../x", "revocations/../../x", "../revocations/x", "/revocations/x", "revocations//x",
			"revocations/./x", `revocations/..\x`, "revocations/.x", "revocations/a b", "revocations/a%2fb", "revocations/a?b", "revocations/a#b",
			"revocations/\x00", "revocations/é", "revocations/a:b", "revocations/" + strings.Repeat("a", 150),
		} {
			err := o.repo.PublishRevocations(t.Context(), map[string][]byte{name: []byte("x")}, o.responders, o.online)
			if err == nil || !strings.Contains(err.Error(), "nothing was written") {
				t.Errorf("%q: %v", name, err)
			}
		}
	})
}

func TestPublishDoesNotFollowLinksOutside(t *testing.T) {
	o := newOrg(t)
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(o.dir, "targets", "revocations")); err != nil {
		t.Skipf("this file system has no symbolic links: %v", err)
	}
	if err := o.repo.PublishRevocations(t.Context(), map[string][]byte{"revocations/1.json": []byte("x")}, o.responders, o.online); err == nil {
		t.Error("accepted")
	}
	if got := listing(t, outside); len(got) != 0 {
		t.Errorf("written outside: %v", got)
	}
}

func TestOpenNamesTheDamagedFile(t *testing.T) {
	o := newOrg(t)
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("{}")})
	for _, name := range []string{"1.root.json", "1.targets.json", "2.revocations.json", "2.snapshot.json", "timestamp.json"} {
		path := filepath.Join(o.dir, name)
		good, err := os.ReadFile(path)
		check(t, err)
		changed := regexp.MustCompile(`"expires": "20`).ReplaceAll(good, []byte(`"expires": "30`))
		for damage, bad := range map[string][]byte{
			"changed": changed, "empty": {}, "torn": good[:len(good)/2], "other": []byte("{}"),
			"null keys": regexp.MustCompile(`("[0-9a-f]{64}": )\{`).ReplaceAll(changed, []byte(`${1}null, "x$1": {`)), "missing": nil,
		} {
			if bad == nil {
				check(t, os.Remove(path))
			} else {
				check(t, os.WriteFile(path, bad, 0o644))
			}
			if _, err := Open(o.dir); err == nil || !strings.Contains(err.Error(), ": "+name) {
				t.Errorf("%s %s: %v", name, damage, err)
			}
			if err := o.repo.PublishRevocations(t.Context(), nil, o.responders, o.online); err == nil || !strings.Contains(err.Error(), ": "+name) {
				t.Errorf("publish with %s %s: %v", name, damage, err)
			}
			check(t, os.WriteFile(path, good, 0o644))
		}
	}
	_, err := Open(o.dir)
	check(t, err)
}

func TestExpiredRolesAreRenewedFromTheTop(t *testing.T) {
	past := time.Now().AddDate(0, 0, -190) // targets live 180 days
	o := newOrgIn(t, t.TempDir(), func(o *InitOptions) {
		o.Now = func() time.Time { return past }
		o.RevocationsExpiry = 100 * day
	})
	_, err := Revocations(t.Context(), FetchOptions{URL: o.url, Root: o.pinned})
	if err == nil || !strings.Contains(err.Error(), "renew") {
		t.Errorf("client of an expired repository: %v", err)
	}
	repo, err := Open(o.dir)
	check(t, err)
	unchanged(t, o.dir, func() {
		err = repo.PublishRevocations(t.Context(), nil, o.responders, o.online)
		if err == nil || !strings.Contains(err.Error(), "targets expired on") {
			t.Errorf("below expired targets: %v", err)
		}
	})
	check(t, repo.PublishTargets(t.Context(), nil, o.holders, o.online))
	check(t, repo.PublishRevocations(t.Context(), map[string][]byte{"revocations/1.json": []byte("{}")}, o.responders, o.online))
	if got := o.revocations(t, ""); len(got) != 1 {
		t.Errorf("got %q", got)
	}
	s, err := load(repo.read)
	check(t, err)
	if left := time.Until(s.Targets[revocationsRole].Signed.Expires); left < 99*day || left > 100*day {
		t.Errorf("revocations expire in %s: the period given to Init was not kept", left)
	}
}

func TestUnknownFieldsAreKept(t *testing.T) {
	o := newOrg(t)
	s, err := load(o.repo.read)
	check(t, err)
	s.Targets[revocationsRole].Signed.UnrecognizedFields["x-other"] = map[string]any{"a": []any{"b"}}
	s.Targets[revocationsRole].Signed.Version++
	f, err := s.signTargets(t.Context(), revocationsRole, o.responders)
	check(t, err)
	commit, err := o.repo.commit(t.Context(), s, o.online)
	check(t, err)
	check(t, o.repo.writeAll(t.Context(), append([]file{f}, commit...)))
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("{}")})
	s, err = load(o.repo.read)
	check(t, err)
	m := s.Targets[revocationsRole].Signed
	if m.Version != 3 || fmt.Sprint(m.UnrecognizedFields["x-other"]) != "map[a:[b]]" {
		t.Errorf("version %d, fields %v", m.Version, m.UnrecognizedFields)
	}
}

func TestConcurrentPublishers(t *testing.T) {
	o := newOrg(t)
	var wg sync.WaitGroup
	const n = 6
	for i := range n {
		repo, err := Open(o.dir)
		check(t, err)
		wg.Go(func() {
			files := map[string][]byte{fmt.Sprintf("revocations/%d.json", i): []byte("{}")}
			if err := repo.PublishRevocations(t.Context(), files, o.responders, o.online); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := o.revocations(t, ""); len(got) != n {
		t.Errorf("%d of %d published", len(got), n)
	}
}

func TestPublishWaitsForTheLockUntilTheContextEnds(t *testing.T) {
	o := newOrg(t)
	unlock, err := durable.Lock(t.Context(), o.dir)
	check(t, err)
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := o.repo.PublishRevocations(ctx, nil, o.responders, o.online); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
