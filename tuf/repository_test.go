package tuf

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/signer"
)

func TestInitRefuses(t *testing.T) {
	o := newOrg(t)
	good := Founding{Root: Group{holdersOf(o.holders), 2}, Targets: Group{holdersOf(o.holders), 2}, Revocations: Group{holdersOf(o.responders), 1}, Online: Online{Key: o.online.Key}}
	unchanged(t, o.dir, func() {
		_, _, err := Init(t.Context(), o.dir, Options{}, good)
		refused(t, err, "repository already")
		// The source directory lost: the published one must not be founded over.
		_, _, err = Init(t.Context(), filepath.Join(t.TempDir(), "other"), Options{Published: o.published}, good)
		refused(t, err, "rebuild")
	})
	// Files of something else that are called as an event's are: an event that ends takes what is there with it.
	foreign := t.TempDir()
	check(t, os.MkdirAll(filepath.Join(foreign, "event"), 0o755))
	check(t, os.WriteFile(filepath.Join(foreign, "event", "handler.go"), []byte("package event"), 0o644))
	unchanged(t, foreign, func() {
		_, _, err := Init(t.Context(), foreign, Options{}, good)
		refused(t, err, "handler.go is in the way")
	})
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	rsaPEM, err := cryptoutils.MarshalPublicKeyToPEM(rsaKey.Public())
	check(t, err)
	for name, c := range map[string]struct {
		change func(*Founding)
		want   string
	}{
		"threshold too high":      {func(f *Founding) { f.Revocations.Threshold = 4 }, "threshold 4 of 3"},
		"negative threshold":      {func(f *Founding) { f.Root.Threshold = -1 }, "threshold -1"},
		"nobody":                  {func(f *Founding) { f.Root.Holders = nil; f.Root.Threshold = 0 }, "of 0 keys"},
		"key twice":               {func(f *Founding) { f.Root.Holders = []Holder{o.holders[0].Holder, {"@other", o.holders[0].Key}} }, "one key twice"},
		"holder twice":            {func(f *Founding) { f.Root.Holders = append(f.Root.Holders, newP256(t, "@alice").Holder) }, "@alice holds role \"root\" with two keys"},
		"online key is a holder":  {func(f *Founding) { f.Online.Key = o.holders[0].Key }, "needs to be one of its own"},
		"online key is responder": {func(f *Founding) { f.Online.Key = o.responders[0].Key }, "needs to be one of its own"},
		"responder is a holder":   {func(f *Founding) { f.Revocations.Holders = holdersOf(o.holders) }, "keys of their own"},
		"no online key":           {func(f *Founding) { f.Online = Online{} }, "no PEM"},
		"name without @":          {func(f *Founding) { f.Root.Holders = []Holder{{"alice", o.holders[0].Key}} }, "a name is @"},
		"private key": {func(f *Founding) {
			f.Root.Holders = []Holder{{"@a", []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")}}
		}, "private"},
		"RSA key":                  {func(f *Founding) { f.Root.Holders = []Holder{{"@a", rsaPEM}} }, "RSA key of 2048 bits"},
		"no days":                  {func(f *Founding) { f.Periods = map[string]Period{"timestamp": {0, 0}} }, "expiry period"},
		"signing period too long":  {func(f *Founding) { f.Periods = map[string]Period{"timestamp": {7, 7}} }, "signing period"},
		"period of nothing":        {func(f *Founding) { f.Periods = map[string]Period{"tmestamp": {7, 6}} }, "tmestamp"},
		"target escapes":           {func(f *Founding) { f.Files = map[string][]byte{"../x": nil} }, "stays inside"},
		"target under revocations": {func(f *Founding) { f.Files = map[string][]byte{"revocations/x": nil} }, "role"},
	} {
		t.Run(name, func(t *testing.T) {
			f := good
			c.change(&f)
			dir := filepath.Join(t.TempDir(), "new")
			_, _, err := Init(t.Context(), dir, Options{}, f)
			refused(t, err, c.want)
			if _, err := os.Stat(dir); err == nil {
				t.Error("directory was made")
			}
		})
	}
}

func TestInitDefaults(t *testing.T) {
	people := []person{newP256(t, "@a"), newP256(t, "@b"), newP256(t, "@c"), newP256(t, "@r")}
	f := Founding{Root: Group{Holders: holdersOf(people[:3])}, Targets: Group{Holders: holdersOf(people[:1])}, Revocations: Group{Holders: holdersOf(people[3:])}, Online: Online{Key: newP256(t, "").Key}}
	r, e, err := Init(t.Context(), t.TempDir(), Options{}, f)
	check(t, err)
	if list(e.Roles) != "root, targets, revocations" {
		t.Errorf("roles %v", e.Roles)
	}
	c, err := r.Check()
	check(t, err)
	var got []int
	for _, role := range c.Roles {
		got = append(got, role.Groups[0].Threshold)
	}
	if fmt.Sprint(got) != "[2 1 1]" || len(c.Problems) != 3 {
		t.Errorf("thresholds %v, problems %q", got, c.Problems)
	}
	// Nothing but the event is there, and withdrawing it leaves nothing.
	check(t, r.Withdraw(t.Context()))
	if got := listing(t, r.Dir()); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	_, _, err = Init(t.Context(), r.Dir(), Options{}, f)
	check(t, err)
}

func TestRevocationReachesClientsWithOlderCache(t *testing.T) {
	o := newOrg(t)
	ours, theirs := t.TempDir(), t.TempDir()
	if got := o.revocations(t, ours); len(got) != 0 {
		t.Fatalf("before: %v", got)
	}
	o.sigstoreTarget(t, theirs, "trusted_root.json")

	files := map[string][]byte{"revocations/index.json": []byte(`{"head":1}`), "revocations/1.json": []byte(`{"deny":["sha256:a"]}`)}
	repo, err := Open(o.dir, Options{}) // another process
	check(t, err)
	p, err := repo.PublishRevocations(t.Context(), files, signersOf([]person{o.responders[0], o.responders[2]}), o.online.Signer)
	check(t, err)
	if len(p.Files) != 5 || p.Files[4] != "timestamp.json" {
		t.Errorf("files %v", p.Files)
	}
	for name, cache := range map[string]string{"older cache": ours, "new cache": t.TempDir(), "no cache": ""} {
		if got := o.revocations(t, cache); !sameFiles(got, files) {
			t.Errorf("%s: got %q", name, got)
		}
	}
	if got := o.sigstoreTarget(t, theirs, "revocations/1.json"); string(got) != string(files["revocations/1.json"]) {
		t.Errorf("sigstore-go got %q", got)
	}
	o.revoke(t, map[string][]byte{"revocations/index.json": []byte(`{"head":2}`), "revocations/2.json": []byte(`{}`)})
	if got := o.revocations(t, ours); len(got) != 3 || string(got["revocations/index.json"]) != `{"head":2}` {
		t.Errorf("after the second publish: %q", got)
	}
}

func TestPublishRevocationsRefuses(t *testing.T) {
	o := newOrg(t)
	file := map[string][]byte{"revocations/1.json": []byte("{}")}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	all := signersOf(o.responders)
	for name, c := range map[string]struct {
		ctx     context.Context
		files   map[string][]byte
		signers []signer.Signer
		online  signer.Signer
		want    string
	}{
		"too few responders":              {t.Context(), file, all[:1], o.online.Signer, "needs the signatures of 2 keys and got signers for 1"},
		"one responder twice":             {t.Context(), file, []signer.Signer{all[0], all[0]}, o.online.Signer, "got signers for 1"},
		"no responders":                   {t.Context(), file, nil, o.online.Signer, "@dave"},
		"holders as responders":           {t.Context(), file, signersOf(o.holders), o.online.Signer, "is not a key of role"},
		"no signer":                       {t.Context(), file, []signer.Signer{nil, nil}, o.online.Signer, "no signer"},
		"no online signer":                {t.Context(), file, all, nil, "no online signer"},
		"wrong online key":                {t.Context(), file, all, all[0], `not a key of role "snapshot"`},
		"responders outside their paths":  {t.Context(), map[string][]byte{"trusted_root.json": nil}, all, o.online.Signer, "does not lie under"},
		"context ended":                   {canceled, file, all, o.online.Signer, "context canceled"},
		"revocation below a subdirectory": {t.Context(), map[string][]byte{"revocations/2026/1.json": nil}, all, o.online.Signer, "directly under"},
	} {
		t.Run(name, func(t *testing.T) {
			unchanged(t, o.dir, func() {
				_, err := o.repo.PublishRevocations(c.ctx, c.files, c.signers, c.online)
				refused(t, err, c.want)
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
			if _, err := o.repo.PublishRevocations(t.Context(), map[string][]byte{name: []byte("x")}, signersOf(o.responders), o.online.Signer); err == nil {
				t.Errorf("%q was published", name)
			}
			if name == "revocations" {
				continue // a good name for a target of the top level
			}
			if _, err := o.repo.Propose(t.Context(), Proposal{Changes: []Change{SetTarget{Name: strings.Replace(name, "revocations", "other", 1), Data: []byte("x")}}}); err == nil {
				t.Errorf("%q was proposed", name)
			}
		}
	})
}

func TestPublishDoesNotFollowLinksOutside(t *testing.T) {
	for _, at := range []func(*org) string{
		func(o *org) string { return filepath.Join(o.published, "targets", "revocations") },
		func(o *org) string { return filepath.Join(o.dir, "targets", "revocations") },
	} {
		o := newOrg(t)
		outside := t.TempDir()
		if err := os.Symlink(outside, at(o)); err != nil {
			t.Skipf("this file system has no symbolic links: %v", err)
		}
		if _, err := o.repo.PublishRevocations(t.Context(), map[string][]byte{"revocations/1.json": []byte("x")}, signersOf(o.responders), o.online.Signer); err == nil {
			t.Error("accepted")
		}
		if got := listing(t, outside); len(got) != 0 {
			t.Errorf("written outside: %v", got)
		}
	}
}

func TestOpenNamesTheDamagedFile(t *testing.T) {
	o := newOrg(t)
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("{}")})
	for _, name := range []string{"metadata/root.json", "metadata/root_history/1.root.json", "metadata/targets.json", "metadata/revocations.json", "metadata/snapshot.json", "metadata/timestamp.json"} {
		path := filepath.Join(o.dir, filepath.FromSlash(name))
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
			// The root is the same file twice; either is named.
			named := strings.Replace(strings.TrimSuffix(name, ".json"), "root_history/1.root", "root", 1)
			if name != "metadata/revocations.json" { // not read until somebody asks
				if _, err := Open(o.dir, Options{}); err == nil || !strings.Contains(err.Error(), named) {
					t.Errorf("%s %s: %v", name, damage, err)
				}
			}
			unchanged(t, o.published, func() {
				if _, err := o.repo.PublishRevocations(t.Context(), nil, signersOf(o.responders), o.online.Signer); err == nil || !strings.Contains(err.Error(), named) {
					t.Errorf("publish with %s %s: %v", name, damage, err)
				}
			})
			check(t, os.WriteFile(path, good, 0o644))
		}
	}
	_, err := Open(o.dir, Options{})
	check(t, err)
}

// ago opens repositories in the past.
func ago(d time.Duration) Options {
	return Options{Now: func() time.Time { return time.Now().Add(-d) }}
}

func TestExpiredRolesAreRenewedFromTheTop(t *testing.T) {
	// Targets live 180 days.
	o := newOrgIn(t, t.TempDir(), ago(190*day), func(f *Founding) { f.Periods = map[string]Period{revocationsRole: {100, 10}} })
	_, err := Revocations(t.Context(), FetchOptions{URL: o.url, Root: o.pinned})
	refused(t, err, "renew")
	o.repo, err = Open(o.dir, Options{TrustClock: true})
	check(t, err)
	unchanged(t, o.dir, func() {
		_, err := o.repo.PublishRevocations(t.Context(), nil, signersOf(o.responders), o.online.Signer)
		refused(t, err, "targets expired on")
		_, err = o.repo.Refresh(t.Context(), o.online.Signer, false)
		refused(t, err, "targets expired on")
	})
	o.change(t, Renew{"targets"})
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("{}")})
	if got := o.revocations(t, ""); len(got) != 1 {
		t.Errorf("got %q", got)
	}
	s, err := o.repo.load()
	check(t, err)
	m, err := s.role(revocationsRole)
	check(t, err)
	if left := time.Until(m.Signed.Expires); left < 99*day || left > 100*day {
		t.Errorf("revocations expire in %s: the period given to Init was not kept", left)
	}
}

func TestRefresh(t *testing.T) {
	o := newOrg(t)
	unchanged(t, o.dir, func() {
		got, err := o.repo.Refresh(t.Context(), nil, false) // nothing is due: no key is needed
		check(t, err)
		if got.Timestamp || got.Snapshot || got.Next.Before(time.Now()) || got.Next.After(time.Now().Add(day+time.Minute)) {
			t.Errorf("got %+v", got)
		}
	})
	for _, c := range []struct {
		later               time.Duration
		force               bool
		timestamp, snapshot bool
	}{
		{0, true, true, false},
		{23 * time.Hour, false, false, false},
		{25 * time.Hour, false, true, false},  // 7 days, due 6 before
		{50 * time.Hour, false, true, false},  // and again
		{50 * time.Hour, false, false, false}, // not twice
		{8 * day, false, true, true},          // the snapshot: 21 days, due 14 before
		{8*day + 1, false, false, false},      //
		{60 * day, false, true, true},         // both had expired meanwhile
		{60*day + 2*day, false, true, false},  //
		{60*day + 8*day, false, true, true},   //
		{181 * day, false, false, false},      // targets expired
	} {
		repo, err := Open(o.dir, Options{Now: func() time.Time { return time.Now().Add(c.later) }, TrustClock: c.later > 180*day})
		check(t, err)
		got, err := repo.Refresh(t.Context(), o.online.Signer, c.force)
		if c.later > 180*day {
			refused(t, err, "targets expired")
			continue
		}
		check(t, err)
		if got.Timestamp != c.timestamp || got.Snapshot != c.snapshot {
			t.Errorf("%s later: %+v", c.later, got)
		}
		if c.timestamp && !c.snapshot && list(got.Published.Files) != "timestamp.json" {
			t.Errorf("%s later: it wrote %v", c.later, got.Published.Files)
		}
		if got.Timestamp && !got.Next.After(time.Now().Add(c.later)) {
			t.Errorf("%s later: the next is due on %s already", c.later, got.Next)
		}
	}
	_, err := o.repo.Refresh(t.Context(), o.online.Signer, true)
	refused(t, err, "set the clock")
}

func TestUnknownFieldsAreKept(t *testing.T) {
	o := newOrg(t)
	unknown := map[string]any{"a": []any{"b", true, nil}}
	o.force(t, o.online, func(d *draft) {
		root, err := d.editRoot()
		check(t, err)
		root.UnrecognizedFields["x-other"] = unknown
		root.Roles["targets"].UnrecognizedFields = map[string]any{"x-role": unknown}
		d.root.UnrecognizedFields = map[string]any{"x-outside": "kept"}
		m := editTargets(t, d, "targets")
		m.UnrecognizedFields["x-other"] = unknown
		m.Delegations.UnrecognizedFields = map[string]any{"x-delegations": "kept"}
		m.Delegations.Roles[0].UnrecognizedFields = map[string]any{"x-delegation": "kept"}
		for _, target := range m.Targets {
			custom := json.RawMessage(`{"custom":1}`)
			target.Custom = &custom
			target.UnrecognizedFields = map[string]any{"x-target": "kept"}
		}
	}, o.holders...)
	count := func() string {
		out := ""
		for _, file := range []string{"root.json", "targets.json"} {
			data, err := os.ReadFile(filepath.Join(o.dir, "metadata", file))
			check(t, err)
			for _, field := range []string{"x-other", "x-role", "x-outside", "x-delegations", "x-delegation\"", "x-target", `"custom": {`} {
				out += fmt.Sprint(strings.Count(string(data), field), " ")
			}
		}
		return out
	}
	before := count()
	if strings.Count(before, "0") > 6 {
		t.Fatal(before)
	}
	bob := newP256(t, "@bob")
	o.propose(t, ReplaceKey{bob.Holder}, SetThreshold{"root", 3}, SetPeriod{"targets", Period{99, 9}}, SetThreshold{"revocations", 3}, SetTarget{Name: "trusted_root.json", Data: []byte("new")})
	o.sign(t, append(append(o.holders, bob), o.responders...)...)
	o.publish(t)
	if after := count(); after != before {
		t.Errorf("unknown fields: %s, before %s", after, before)
	}
}

func TestConcurrentPublishers(t *testing.T) {
	o := newOrg(t)
	var wg sync.WaitGroup
	const n = 6
	for i := range n {
		repo, err := Open(o.dir, Options{})
		check(t, err)
		wg.Go(func() {
			files := map[string][]byte{fmt.Sprintf("revocations/%d.json", i): []byte("{}")}
			if _, err := repo.PublishRevocations(t.Context(), files, signersOf(o.responders), o.online.Signer); err != nil {
				t.Error(err)
			}
			if _, err := repo.Refresh(t.Context(), o.online.Signer, true); err != nil {
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
	if _, err := o.repo.PublishRevocations(ctx, nil, signersOf(o.responders), o.online.Signer); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// A token stands for a device that signs with another key than it shows, with another hash, or not at all.
type token struct {
	signer.Signer
	sign func([]byte) ([]byte, error)
}

func (k token) Sign(_ context.Context, b []byte) ([]byte, error) { return k.sign(b) }

func TestBrokenSignerPublishesNothing(t *testing.T) {
	o := newOrg(t)
	other := newEd25519(t, "@other")
	for want, f := range map[string]func([]byte) ([]byte, error){
		"does not verify": func(b []byte) ([]byte, error) { return other.Sign(context.Background(), b) },
		"token removed":   func([]byte) ([]byte, error) { return nil, errors.New("token removed") },
	} {
		broken := token{o.responders[1].Signer, f}
		unchanged(t, o.dir, func() {
			_, err := o.repo.PublishRevocations(t.Context(), nil, []signer.Signer{o.responders[0].Signer, broken}, o.online.Signer)
			refused(t, err, want)
		})
	}
}

func newP384Key(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	check(t, err)
	return key
}

// A P-384 key that signs with SHA-256, as key services set up for cosign do, is refused with the reason.
func TestP384SignsWithSHA384(t *testing.T) {
	private := newP384Key(t)
	p := newPerson(t, "@p384", private)
	root := metadata.Root(time.Now().UTC().Truncate(time.Second))
	id, pub, err := p.publish()
	check(t, err)
	if pub.Scheme != "ecdsa-sha2-nistp384" || pub.Type != "ecdsa" {
		t.Errorf("published as %s, %s", pub.Type, pub.Scheme)
	}
	check(t, root.Signed.AddKey(pub, metadata.ROOT))
	if !strings.Contains(strings.Join(root.Signed.Roles["root"].KeyIDs, " "), id) {
		t.Errorf("id %s is not the one that the library computes", id)
	}
	ring, err := rootRing(root, metadata.ROOT)
	check(t, err)
	doc, err := newDocument(metadata.ROOT, root)
	check(t, err)
	check(t, sign(t.Context(), doc, ring, p.Signer))
	check(t, root.VerifyDelegate(metadata.ROOT, root)) // as clients do
	err = sign(t.Context(), doc, ring, token{p.Signer, func(b []byte) ([]byte, error) {
		return crypto.SignMessage(private, rand.Reader, b, crypto.SHA256)
	}})
	refused(t, err, "ECDSA P-384 with SHA-384")
}

func TestSigningAgainReplaces(t *testing.T) {
	root := metadata.Root(time.Now().UTC().Truncate(time.Second))
	people := []person{newEd25519(t, "@alice"), newP256(t, "@bob")}
	for _, p := range people {
		_, key, err := p.publish()
		check(t, err)
		check(t, root.Signed.AddKey(key, metadata.ROOT))
	}
	ring, err := rootRing(root, metadata.ROOT)
	check(t, err)
	doc, err := newDocument(metadata.ROOT, root)
	check(t, err)
	for range 2 {
		check(t, sign(t.Context(), doc, ring, signersOf(append(people, people...))...))
	}
	data, err := doc.encode()
	check(t, err)
	root, err = parseRoot(data)
	check(t, err)
	if len(root.Signatures) != 2 {
		t.Errorf("%d signatures", len(root.Signatures))
	}
	check(t, root.VerifyDelegate(metadata.ROOT, root))
}

// TestManyRoots: more roots than clients follow in one refresh stop no publication, and are warned of before.
func TestManyRoots(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]bool{199: false, 200: true, 256: true, 300: true} {
		if text := tooManyRoots(1, 1+n); (text != "") != want {
			t.Errorf("%d roots after the first: %q", n, text)
		}
	}
	o := newOrg(t)
	s, err := o.repo.load()
	check(t, err)
	// As a publication would leave it, but for its walks, which take their time.
	var steps []step
	for range clientRoots + 2 {
		d := o.repo.draft(s)
		_, err := d.editRoot()
		check(t, err)
		doc, err := d.document(metadata.ROOT)
		check(t, err)
		rings, err := d.rings(metadata.ROOT)
		check(t, err)
		*doc.signatures = nil
		for _, p := range o.holders[:2] {
			id := rings[0].idOf(p.PublicKey())
			sig, err := signOne(t.Context(), doc, id, rings[0].keys[id], p.Signer)
			check(t, err)
			doc.put(sig)
		}
		data, err := doc.encode()
		check(t, err)
		s.Root, err = parseRoot(data)
		check(t, err)
		s.roots = append(s.roots, data)
		steps = append(steps, write(inSource, historyFile(doc.version), data), write(inPublished, versioned(metadata.ROOT, doc.version), data))
	}
	check(t, o.repo.commit(t.Context(), append(steps, write(inSource, roleFile(metadata.ROOT), s.roots[len(s.roots)-1]))))
	// The walk from the first root alone: all of them take their time.
	s, err = o.repo.load()
	check(t, err)
	_, err = walk{after: s}.goTUF(o.pinned, "", false, o.repo.readPublished, time.Now())
	check(t, err)
	o.propose(t, Renew{"targets"})
	c, err := o.repo.Check()
	check(t, err)
	if got := list(c.Warnings); !strings.Contains(got, "root 259 is 258 roots after root 1") {
		t.Errorf("warnings: %s", got)
	}
}
