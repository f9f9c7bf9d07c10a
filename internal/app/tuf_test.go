package app

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/tuf"
)

// denyList is a repository whose keys are all at hand.
type denyList struct {
	repository *tuf.Repository
	keys       map[string]signer.Signer
	source     TUFSource
}

func newDenyList(t *testing.T) denyList {
	t.Helper()
	d := denyList{keys: map[string]signer.Signer{}}
	holders := map[string]tuf.Holder{}
	for _, who := range []string{"@alice", "@dave", "@online"} {
		_, private, err := ed25519.GenerateKey(nil)
		check(t, err)
		d.keys[who], err = signer.InMemory(private)
		check(t, err)
		public, err := cryptoutils.MarshalPublicKeyToPEM(private.Public())
		check(t, err)
		holders[who] = tuf.Holder{Name: who, Key: public}
	}
	dir := filepath.Join(t.TempDir(), "trust")
	alice := tuf.Group{Holders: []tuf.Holder{holders["@alice"]}}
	var err error
	d.repository, _, err = tuf.Init(t.Context(), dir, tuf.Options{}, tuf.Founding{Root: alice, Targets: alice,
		Revocations: tuf.Group{Holders: []tuf.Holder{holders["@dave"]}}, Online: tuf.Online{Key: holders["@online"].Key}})
	check(t, err)
	request, err := d.repository.Export()
	check(t, err)
	for _, who := range []string{"@alice", "@dave"} {
		signed, err := tuf.SignRequest(t.Context(), request, d.keys[who], nil, tuf.Options{})
		check(t, err)
		_, err = d.repository.Import(t.Context(), signed)
		check(t, err)
	}
	_, err = d.repository.Publish(t.Context(), d.keys["@online"])
	check(t, err)
	server := httptest.NewServer(http.FileServer(http.Dir(d.repository.Published())))
	t.Cleanup(server.Close)
	root, err := os.ReadFile(filepath.Join(d.repository.Published(), "1.root.json"))
	check(t, err)
	d.source = TUFSource{URL: server.URL, Root: root}
	return d
}

func (d denyList) publish(t *testing.T, name string, statement []byte) {
	t.Helper()
	_, err := d.repository.PublishRevocations(t.Context(), map[string][]byte{name: statement}, []signer.Signer{d.keys["@dave"]}, d.keys["@online"])
	check(t, err)
}

// event publishes changes that everybody has signed.
func (d denyList) event(t *testing.T, changes ...tuf.Change) {
	t.Helper()
	_, err := d.repository.Propose(t.Context(), tuf.Proposal{Changes: changes, Accept: []string{withdrawnFile, "all"}})
	check(t, err)
	request, err := d.repository.Export()
	check(t, err)
	for _, who := range []string{"@alice", "@dave"} {
		signed, err := tuf.SignRequest(t.Context(), request, d.keys[who], d.source.Root, tuf.Options{})
		if err != nil {
			continue // who is not asked
		}
		_, err = d.repository.Import(t.Context(), signed)
		check(t, err)
	}
	_, err = d.repository.Publish(t.Context(), d.keys["@online"])
	check(t, err)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// denied returns what a home denies by a repository.
func (d denyList) denied(ctx context.Context, home string) ([]string, error) {
	statements, err := (&App{options: Options{Home: home}}).revoked(ctx, d.source)
	var out []string
	for _, s := range statements {
		out = append(out, s.Denied()...)
	}
	return out, err
}

func TestAttackDenyList(t *testing.T) {
	t.Parallel()
	digest := "sha256:" + strings.Repeat("a", 64)
	name, statement, err := rotate.Deny([]string{digest}, "leaked", nil, time.Now())
	check(t, err)

	t.Run("a denial taken back by whoever has a responder's key", func(t *testing.T) {
		t.Parallel()
		d, home := newDenyList(t), t.TempDir()
		d.publish(t, name, statement)
		if got, err := d.denied(t.Context(), home); err != nil || !slices.Equal(got, []string{digest}) {
			t.Fatalf("denies %v, %v", got, err)
		}
		var r rotate.Revocation
		check(t, json.Unmarshal(statement, &r))
		r.Subject = []rotate.RevocationSubject{}
		empty, err := json.Marshal(r)
		check(t, err)
		d.publish(t, name, empty)
		if got, err := d.denied(t.Context(), home); err != nil || !slices.Contains(got, digest) {
			t.Errorf("denies %v, %v: the thief took the denial back", got, err)
		}
	})

	t.Run("a signer and a window taken back by whoever has a responder's key", func(t *testing.T) {
		t.Parallel()
		d, home := newDenyList(t), t.TempDir()
		leaked := signer.Identity{Kind: signer.Key, Subject: strings.Repeat("c", 64)}
		from, later := time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC), time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
		incident := func(who signer.Identity, from time.Time) []byte {
			var r rotate.Revocation
			check(t, json.Unmarshal(statement, &r))
			r.Predicate.Incident = trust.Incident{ID: "INC-1", Class: trust.SigningKey, Signers: []signer.Identity{who}, From: &from}
			text, err := json.Marshal(r)
			check(t, err)
			return text
		}
		const name = "revocations/INC-1.json"
		wide := incident(leaked, from)
		// Signed between the two starts: the later window would believe it.
		s := inventory.Signature{Verified: true, Signer: leaked, Bounds: []inventory.Bound{{Side: inventory.Upper, Verified: true,
			Time: from.Add(24 * time.Hour), Authority: inventory.Authority{Role: inventory.RoleTSA, ID: "tsa"}}}}
		guard := (*App)(nil).Guard(t.Context())
		for what, narrow := range map[string][]byte{
			"starts later":                 incident(leaked, later),
			"no longer revokes the signer": incident(signer.Identity{Kind: signer.Key, Subject: strings.Repeat("d", 64)}, from),
			"no longer denies":             []byte(strings.Replace(string(wide), strings.Repeat("a", 64), strings.Repeat("b", 64), 1)),
			"clients could not read it":    []byte("{}"),
		} {
			if lost := guard(name, wide, narrow); len(lost) != 1 || !strings.Contains(lost[0], what) {
				t.Errorf("those who would publish it are told %q, want %q", lost, what)
			}
		}
		if lost := append(guard(name, nil, []byte("denied")), guard(name, nil, wide)...); len(lost) != 1 || !strings.Contains(lost[0], "clients could not read it") {
			t.Errorf("a new one: %q", lost)
		}
		for _, content := range [][]byte{nil, []byte("denied"), []byte("{}")} {
			if CheckStatement(name, content) == nil {
				t.Errorf("%q is taken for a statement", content)
			}
		}
		if err := errors.Join(CheckStatement(name, wide), CheckStatement("revocations/index.json", []byte("[]")), CheckStatement("x.json", nil)); err != nil {
			t.Error(err)
		}
		said := strings.Join(TargetWords(name, nil, wide), "\n")
		for _, want := range []string{"denies " + digest, "revokes the signer " + leaked.String(), "from 2026-11-02T00:00:00Z to no end", "by the times of nobody", `is of INC-1, for "leaked"`} {
			if !strings.Contains(said, want) {
				t.Errorf("who signs is told %q, which lacks %q", said, want)
			}
		}
		if said := TargetWords(name, nil, nil); len(said) != 1 || !strings.Contains(said[0], "nobody can say what it denies") {
			t.Errorf("of what is not at hand: %q", said)
		}
		if lost := guard(name, wide, nil); len(lost) != 2 {
			t.Errorf("removed: %q", lost)
		}
		if lost := append(guard(name, incident(leaked, later), wide), guard("revocations/index.json", []byte("{}"), []byte("[]"))...); len(lost) != 0 {
			t.Errorf("wider, and the index: %q", lost)
		}
		if lost := guard(name, []byte("torn"), wide); len(lost) != 1 || !strings.Contains(lost[0], "nobody can say") {
			t.Errorf("in place of what nobody can read: %q", lost)
		}

		for _, published := range [][]byte{wide, incident(leaked, later), incident(signer.Identity{Kind: signer.Key, Subject: strings.Repeat("d", 64)}, from)} {
			d.publish(t, name, published) // the thief's tool has no guard
			statements, err := (&App{options: Options{Home: home}}).revoked(t.Context(), d.source)
			check(t, err)
			rules, denied := rotate.Revoked(statements)
			if j := trust.Judge(s, rules, 0); j.Verdict != trust.Unproven || denied[digest] == "" {
				t.Errorf("%v, denied %v: something was taken back", j, denied)
			}
		}
	})

	t.Run("a denial taken back before another root is pinned", func(t *testing.T) {
		t.Parallel()
		d, home := newDenyList(t), t.TempDir()
		d.publish(t, name, statement)
		if got, err := d.denied(t.Context(), home); err != nil || !slices.Equal(got, []string{digest}) {
			t.Fatalf("denies %v, %v", got, err)
		}
		d.publish(t, name, []byte(strings.Replace(string(statement), strings.Repeat("a", 64), strings.Repeat("b", 64), 1)))
		d.source.Root = append(slices.Clone(d.source.Root), '\n') // the same, as another way brings it
		if got, err := d.denied(t.Context(), home); err != nil || !slices.Contains(got, digest) {
			t.Errorf("denies %v, %v: the denial is forgotten", got, err)
		}
	})

	// A false mass denial with a responder's key and the online key is withdrawn by the holders of targets, and by nobody
	// else: not by a role that may publish everything, nor by another repository.
	t.Run("a denial withdrawn by others than the holders of targets", func(t *testing.T) {
		t.Parallel()
		d, other, home := newDenyList(t), newDenyList(t), t.TempDir()
		sum := sha256.Sum256(statement)
		list := []byte(`{"schema":"reseal.withdrawn/v1","statements":["sha256:` + hex.EncodeToString(sum[:]) + `"]}`)
		denied := func(what string, d denyList, want bool) {
			t.Helper()
			got, err := d.denied(t.Context(), home)
			if err != nil || slices.Contains(got, digest) != want {
				t.Errorf("%s: denies %v, %v", what, got, err)
			}
		}
		d.publish(t, name, statement)
		denied("published", d, true)
		other.event(t, tuf.SetTarget{Name: withdrawnFile, Data: list})
		denied("withdrawn in another repository", other, true)
		d.publish(t, "revocations/withdrawn.json", statement)
		denied("by responders, under their own paths", d, true)
		_, err := d.repository.PublishRevocations(t.Context(), map[string][]byte{withdrawnFile: list}, []signer.Signer{d.keys["@dave"]}, d.keys["@online"])
		if err == nil {
			t.Error("a responder published it")
		}
		public, err := cryptoutils.MarshalPublicKeyToPEM(d.keys["@dave"].PublicKey())
		check(t, err)
		d.event(t, tuf.AddRole{Name: "all", Paths: []string{"*"}, Threshold: 1, Holders: []tuf.Holder{{Name: "@rita", Key: public}}})
		d.event(t, tuf.SetTarget{Name: withdrawnFile, Data: list, Role: "all"})
		denied("by a role for everything", d, true)
		d.event(t, tuf.RemoveTarget{Name: withdrawnFile}, tuf.RemoveRole{Name: "all"})

		d.event(t, tuf.SetTarget{Name: withdrawnFile, Data: list})
		denied("by the holders of targets", d, false)
		asked := d.source
		d.source = TUFSource{}
		denied("remembered, where no repository is asked", d, false)
		d.source = asked
		d.publish(t, name, statement)
		denied("the same again by responders", d, false)
		d.event(t, tuf.RemoveTarget{Name: withdrawnFile})
		denied("taken off the list", d, true)
		d.event(t, tuf.SetTarget{Name: withdrawnFile, Data: []byte("{}")})
		if got, err := d.denied(t.Context(), home); err == nil {
			t.Errorf("denies %v, by a list that cannot be read", got)
		}
		guard := (*App)(nil).Guard(t.Context())
		if lost := guard(withdrawnFile, nil, list); len(lost) != 1 || !strings.Contains(lost[0], "no longer counts") {
			t.Errorf("those who sign it are told %q", lost)
		}
		if lost := append(guard(withdrawnFile, list, list), guard(withdrawnFile, list, nil)...); len(lost) != 0 || CheckStatement(withdrawnFile, []byte("{}")) == nil {
			t.Errorf("%q", lost)
		}
	})

	t.Run("killed while a denial was kept", func(t *testing.T) {
		t.Parallel()
		d, home := newDenyList(t), t.TempDir()
		d.publish(t, name, statement)
		if _, err := d.denied(t.Context(), home); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(home, tufDir, "seen-*", "*.json"))
		check(t, err)
		check(t, os.Truncate(files[0], 7))
		if got, err := d.denied(t.Context(), home); err != nil || !slices.Equal(got, []string{digest}) {
			t.Errorf("denies %v, %v", got, err)
		}
	})

	t.Run("a home whose name is a pattern", func(t *testing.T) {
		t.Parallel()
		d, home := newDenyList(t), filepath.Join(t.TempDir(), "[home]")
		d.publish(t, name, statement)
		if got, err := d.denied(t.Context(), home); err != nil || !slices.Equal(got, []string{digest}) {
			t.Errorf("denies %v, %v", got, err)
		}
	})

	t.Run("a statement that cannot be read, in place of a denial", func(t *testing.T) {
		t.Parallel()
		for _, text := range []string{"", "[]", "{}", strings.Replace(string(statement), "/v1", "/v9", 1), strings.Replace(string(statement), "aaaa", "zzzz", 1)} {
			d, home := newDenyList(t), t.TempDir()
			d.publish(t, name, []byte(text))
			if got, err := d.denied(t.Context(), home); err == nil {
				t.Errorf("%q: denies %v, and goes on", text, got)
			}
		}
	})

	t.Run("a denial under the name of the index", func(t *testing.T) {
		t.Parallel()
		d, home := newDenyList(t), t.TempDir()
		d.publish(t, "revocations/index.json", []byte(`[{"sequence":1}]`)) // none, and nobody stumbles over it
		if got, err := d.denied(t.Context(), home); err != nil || len(got) != 0 {
			t.Fatalf("denies %v, %v", got, err)
		}
		d.publish(t, "revocations/index.json", statement)
		if got, err := d.denied(t.Context(), home); err != nil || !slices.Equal(got, []string{digest}) {
			t.Errorf("denies %v, %v: the denial is passed over", got, err)
		}
		if lost := (*App)(nil).Guard(t.Context())("revocations/index.json", statement, []byte("[]")); len(lost) == 0 {
			t.Error("it can be replaced")
		}
	})

	t.Run("a mirror that holds the newest denial back", func(t *testing.T) {
		t.Parallel()
		d, home := newDenyList(t), t.TempDir()
		old, err := os.ReadFile(filepath.Join(d.repository.Published(), "timestamp.json"))
		check(t, err)
		d.publish(t, name, statement)
		if _, err := d.denied(t.Context(), home); err != nil {
			t.Fatal(err)
		}
		check(t, os.WriteFile(filepath.Join(d.repository.Published(), "timestamp.json"), old, 0o644))
		if got, err := d.denied(t.Context(), home); err == nil {
			t.Errorf("denies %v, and goes on with an older state", got)
		}
	})
}
