package tuf

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/reseal/reseal/internal/sandbox"
)

// request is an exported request to be tampered with.
func (o *org) request(t *testing.T) requestFile {
	t.Helper()
	data, err := o.repo.Export()
	check(t, err)
	var f requestFile
	check(t, json.Unmarshal(data, &f))
	return f
}

// seal makes a request say what it is of, as an attacker would after changing it.
func seal(t *testing.T, f *requestFile) []byte {
	t.Helper()
	d := &draft{state: newState(nil), roles: map[string]*targetsMeta{}}
	for role, data := range f.After {
		var err error
		if role == metadata.ROOT {
			d.root, err = parseRoot(data)
		} else {
			d.roles[role], err = parseTargets(data)
		}
		check(t, err)
	}
	var err error
	f.Event, err = d.id(f.By, f.Reason)
	check(t, err)
	data, err := json.Marshal(f)
	check(t, err)
	return data
}

func edit(t *testing.T, data json.RawMessage, old, new string) json.RawMessage {
	t.Helper()
	if !strings.Contains(string(data), old) {
		t.Fatalf("%q is not in %s", old, data)
	}
	return json.RawMessage(strings.ReplaceAll(string(data), old, new))
}

// TestAttack plays whoever stands between the repository and its holders, or has some of its keys.
func TestAttack(t *testing.T) {
	t.Run("request of another repository", func(t *testing.T) {
		o, other := newOrg(t), newOrg(t)
		o.propose(t, Renew{"root"})
		data, err := o.repo.Export()
		check(t, err)
		_, err = ReadRequest(data, other.pinned, Options{})
		refused(t, err, "another repository")
		_, err = ReadRequest(data, nil, Options{})
		refused(t, err, "give the root that you know")
	})
	t.Run("request as if there had been no repository", func(t *testing.T) {
		o := newOrg(t)
		mallory := newP256(t, "@mallory")
		f := Founding{Root: Group{[]Holder{o.holders[0].Holder, mallory.Holder}, 1}, Targets: Group{[]Holder{mallory.Holder}, 1}, Revocations: Group{holdersOf(o.responders), 1}, Online: Online{Key: newP256(t, "").Key}}
		r, _, err := Init(t.Context(), t.TempDir(), Options{}, f)
		check(t, err)
		data, err := r.Export()
		check(t, err)
		_, err = ReadRequest(data, o.pinned, Options{})
		refused(t, err, "no request for the repository that you know")
	})
	t.Run("request that begins at an old state", func(t *testing.T) {
		o := newOrg(t)
		old := filepath.Join(t.TempDir(), "old")
		check(t, os.CopyFS(old, os.DirFS(o.dir)))
		o.change(t, SetThreshold{"root", 3})
		newest, err := os.ReadFile(filepath.Join(o.published, "2.root.json"))
		check(t, err)
		r, err := Open(old, Options{})
		check(t, err)
		_, err = r.Propose(t.Context(), Proposal{Changes: []Change{Renew{"root"}}})
		check(t, err)
		data, err := r.Export()
		check(t, err)
		_, err = ReadRequest(data, newest, Options{})
		refused(t, err, "somebody wants an old state back")
	})
	t.Run("request that hides a root, to have a second one of its version signed", func(t *testing.T) {
		o := newOrg(t)
		old := filepath.Join(t.TempDir(), "old")
		check(t, os.CopyFS(old, os.DirFS(o.dir)))
		o.holders = append(o.holders, newP256(t, "@carol"))
		homes := map[string]string{}
		for _, p := range o.holders {
			homes[p.Name] = t.TempDir()
		}
		// Every holder gives the root of the founding, which is what each request begins at.
		signs := func(r *Repository, p person, another bool) error {
			data, err := r.Export()
			check(t, err)
			signed, err := SignRequest(t.Context(), data, p.Signer, o.pinned, Options{Known: homes[p.Name], AnotherRoot: another})
			if err == nil {
				_, err = r.Import(t.Context(), signed)
			}
			return err
		}
		o.propose(t, ReplaceKey{o.holders[3].Holder}) // carol's key was stolen
		check(t, signs(o.repo, o.holders[0], false))
		check(t, signs(o.repo, o.holders[1], false))
		check(t, signs(o.repo, o.holders[0], false)) // again, and the same
		o.publish(t)

		r, err := Open(old, Options{})
		check(t, err)
		_, err = r.Propose(t.Context(), Proposal{Changes: []Change{Renew{"root"}}, Reason: "due"})
		check(t, err)
		err = signs(r, o.holders[0], false)
		refused(t, err, "another root 2 than this one")
		var stale *StaleRequestError
		if !errors.As(err, &stale) || !stale.Signed {
			t.Errorf("%v: not told apart from an amended event", err)
		}
		refused(t, signs(r, o.holders[1], false), "another root 2 than this one")
		check(t, signs(r, o.holders[2], false)) // the thief, who remembers what she likes
		_, err = r.Publish(t.Context(), o.online.Signer)
		refused(t, err, "root lacks 1 signature(s)")

		// Who was shown the newer root since is not led back by a word either, and not before a root that was.
		o.propose(t, SetThreshold{"root", 3})
		check(t, signs(o.repo, o.holders[0], false))
		refused(t, signs(r, o.holders[0], true), "this machine was shown root 2 before")
		check(t, r.Withdraw(t.Context()))
		_, err = r.Propose(t.Context(), Proposal{Changes: []Change{SetTarget{Name: "evil.txt", Data: []byte("evil")}}})
		check(t, err)
		refused(t, signs(r, o.holders[0], true), "this machine was shown root 2 before")
	})
	t.Run("request with a second root, published with stolen keys", func(t *testing.T) {
		o := newOrg(t)
		old := filepath.Join(t.TempDir(), "old")
		check(t, os.CopyFS(old, os.DirFS(o.dir)))
		home := t.TempDir()
		o.change(t, SetThreshold{"root", 3})
		o.propose(t, Renew{"root"})
		data, err := o.repo.Export()
		check(t, err)
		_, err = SignRequest(t.Context(), data, o.holders[0].Signer, o.pinned, Options{Known: home})
		check(t, err)

		other := *o
		other.repo, err = Open(old, Options{})
		check(t, err)
		other.change(t, Renew{"root"})
		other.propose(t, SetThreshold{"root", 1})
		data, err = other.repo.Export()
		check(t, err)
		_, err = ReadRequest(data, o.pinned, Options{Known: home, AnotherRoot: true})
		refused(t, err, "two roots of one version were signed")
	})
	t.Run("what is remembered of roots cannot be read", func(t *testing.T) {
		o := newOrg(t)
		o.propose(t, Renew{"root"})
		data, err := o.repo.Export()
		check(t, err)
		for name, content := range map[string]string{"torn": "{", "of a later version": `{"schema":"reseal.tuf-known-roots/v2","published":{},"signed":{}}`} {
			home := t.TempDir()
			check(t, os.WriteFile(filepath.Join(home, "a.json"), []byte(content), 0o600))
			_, err := ReadRequest(data, o.pinned, Options{Known: home})
			refused(t, err, "a.json")
			if err == nil {
				t.Errorf("%s: believed", name)
			}
		}
	})
	t.Run("last known good altered where it is published", func(t *testing.T) {
		o := newOrg(t)
		o.revoke(t, map[string][]byte{"revocations/1.json": []byte("1")})
		o.change(t, SetTarget{Name: "trusted_root.json", Data: []byte("evil")})
		evil, good := []byte("evil too"), map[string][]byte{}
		for _, role := range []string{"targets", "revocations"} {
			var err error
			good[role], err = o.repo.PublishedRole(role, 1)
			check(t, err)
		}
		tamper := func(role string, signers ...person) []byte {
			file := filepath.Join(o.published, "1."+role+".json")
			m, err := parseTargets(good[role])
			check(t, err)
			check(t, addTarget(&m.Signed, "evil.json", evil))
			if len(signers) > 0 {
				m.Signatures = nil
			}
			doc, err := newDocument(role, m)
			check(t, err)
			for _, p := range signers {
				id, key, err := p.Holder.publish()
				check(t, err)
				sig, err := signOne(t.Context(), doc, id, key, p.Signer)
				check(t, err)
				doc.put(sig)
			}
			out, err := m.ToBytes(true)
			check(t, err)
			check(t, os.WriteFile(file, out, 0o644))
			check(t, os.WriteFile(filepath.Join(o.published, publishedTarget("evil.json", evil)), evil, 0o644))
			known, err := o.repo.PublishedRole(role, 1)
			check(t, err)
			return known
		}
		for name, known := range map[string]struct {
			role string
			data []byte
		}{
			"targets":                       {"targets", tamper("targets")},
			"targets by one of two":         {"targets", tamper("targets", o.holders[0])},
			"targets by responders":         {"targets", tamper("targets", o.responders...)},
			"revocations":                   {"revocations", tamper("revocations")},
			"revocations by a thief":        {"revocations", tamper("revocations", newP256(t, "@dave"), newP256(t, "@erin"))},
			"revocations as targets' own":   {"revocations", tamper("targets")},
			"no metadata of that signature": {"targets", tamper("revocations", o.responders...)},
		} {
			_, err := o.repo.Propose(t.Context(), Proposal{Changes: []Change{Restore{known.role, known.data}}, Accept: []string{"trusted_root.json", "revocations/1.json", "revocations"}})
			if err == nil {
				t.Errorf("%s: taken", name)
			}
			refused(t, err, "was not signed by those who held that role")
		}
		// Nor does a delegation that nobody signed say who held a role.
		thief := newP256(t, "@mallory")
		m, err := parseTargets(good["targets"])
		check(t, err)
		id, key, err := thief.Holder.publish()
		check(t, err)
		m.Signed.Delegations.Keys[id] = key
		m.Signed.Delegations.Roles[0].KeyIDs, m.Signed.Delegations.Roles[0].Threshold = []string{id}, 1
		out, err := m.ToBytes(true)
		check(t, err)
		check(t, os.WriteFile(filepath.Join(o.published, "1.targets.json"), out, 0o644))
		_, err = o.repo.Propose(t.Context(), Proposal{Changes: []Change{Restore{"revocations", tamper("revocations", thief)}}, Accept: []string{"revocations/1.json"}})
		refused(t, err, "was not signed by those who held that role")
	})
	t.Run("denial taken back by responders alone, in an event made by hand", func(t *testing.T) {
		o := newOrg(t)
		o.revoke(t, map[string][]byte{"revocations/deny.json": []byte("deny")})
		remove := Proposal{Changes: []Change{RemoveTarget{Name: "revocations/deny.json"}}, Accept: []string{"revocations/deny.json"}}
		_, err := o.repo.Propose(t.Context(), remove)
		check(t, err)
		o.sign(t, o.responders...)
		_, err = o.repo.Publish(t.Context(), o.online.Signer)
		refused(t, err, "targets lacks 2 signature(s)")
		check(t, o.repo.Withdraw(t.Context()))

		// As whoever holds the directory makes it.
		s, err := o.repo.load()
		check(t, err)
		d := o.repo.draft(s)
		check(t, remove.Changes[0].apply(d))
		check(t, o.repo.change(t.Context(), func() error {
			_, err := o.repo.store(t.Context(), eventState{Opened: time.Now().UTC()}, d)
			return err
		}))
		o.sign(t, o.responders...)
		c, err := o.repo.Check()
		check(t, err)
		if len(c.Problems) != 1 || !strings.Contains(c.Problems[0], "revocations/deny.json: the target is removed: responders can only widen") {
			t.Errorf("%q", c.Problems)
		}
		_, err = o.repo.Publish(t.Context(), o.online.Signer)
		refused(t, err, "responders can only widen")
	})
	t.Run("request with a made-up past", func(t *testing.T) {
		o := newOrg(t)
		o.propose(t, SetTarget{Name: "trusted_root.json", Data: []byte("evil")})
		f := o.request(t)
		// As if the target had been what it is to become: the holder would see no change.
		var evil struct {
			Signed struct{ Targets map[string]json.RawMessage }
		}
		check(t, json.Unmarshal(f.After["targets"], &evil))
		var before map[string]json.RawMessage
		check(t, json.Unmarshal(f.Before["targets"], &before))
		var signed map[string]json.RawMessage
		check(t, json.Unmarshal(before["signed"], &signed))
		var err error
		signed["targets"], err = json.Marshal(evil.Signed.Targets)
		check(t, err)
		before["signed"], err = json.Marshal(signed)
		check(t, err)
		f.Before["targets"], err = json.Marshal(before)
		check(t, err)
		_, err = ReadRequest(seal(t, &f), o.pinned, Options{})
		refused(t, err, "published targets is not signed")
		// Or as if there had been none.
		delete(f.Before, "targets")
		_, err = ReadRequest(seal(t, &f), o.pinned, Options{})
		refused(t, err, "targets is published and does not come with it")
	})
	t.Run("request that adds something within a target", func(t *testing.T) {
		o := newOrg(t)
		o.propose(t, SetTarget{Name: "trusted_root.json", Data: []byte("mallory's CA")}, SetTarget{Name: "new.json", Data: []byte("new")})
		words := func(name string, old, new []byte) []string {
			return []string{fmt.Sprintf("%q before %d bytes", new, len(old))}
		}
		told := func(f requestFile) string {
			t.Helper()
			q, err := ReadRequest(seal(t, &f), o.pinned, Options{Words: words})
			check(t, err)
			return fmt.Sprint(q.Diff())
		}
		f := o.request(t)
		for _, want := range []string{fmt.Sprintf(`content trusted_root.json: "mallory's CA" before %d bytes`, len(o.trustedRoot)), `content new.json: "new" before 0 bytes`} {
			if got := told(f); !strings.Contains(got, want) {
				t.Errorf("the holder is not told %q: %s", want, got)
			}
		}
		f.Content = nil
		if got := told(f); strings.Contains(got, "mallory") || !strings.Contains(got, "trusted_root.json: its content is not at hand, so that nobody can say what it changes") {
			t.Errorf("the holder is not warned: %s", got)
		}
		r, err := Open(o.dir, Options{Words: words})
		check(t, err)
		d, err := r.Diff()
		check(t, err)
		if got := fmt.Sprint(d); !strings.Contains(got, "mallory's CA") {
			t.Errorf("not told: %s", got)
		}
	})
	t.Run("request that hides what it takes away", func(t *testing.T) {
		o := newOrg(t)
		o.change(t, AddRole{Name: "releases", Paths: []string{"releases/*"}, Holders: holdersOf(o.holders), Threshold: 1})
		o.change(t, SetTarget{Name: "releases/a", Data: []byte("a")})
		_, err := o.repo.Propose(t.Context(), Proposal{Changes: []Change{RemoveTarget{Name: "releases/a"}}, Accept: []string{"releases/a"}})
		check(t, err)
		f := o.request(t)
		delete(f.Before, "releases")
		_, err = ReadRequest(seal(t, &f), o.pinned, Options{})
		refused(t, err, "releases is published and does not come with it")
		// Nor are those fooled who are shown nothing of what delegates to it.
		delete(f.Before, "targets")
		_, err = ReadRequest(seal(t, &f), o.pinned, Options{})
		if err == nil {
			t.Error("it is taken")
		}
		check(t, o.repo.Withdraw(t.Context()))
		// A role that begins again honestly goes on from a version that is not shown.
		_, err = o.repo.Propose(t.Context(), Proposal{Changes: []Change{RemoveRole{"releases"}}, Accept: []string{"releases"}})
		check(t, err)
		o.sign(t, o.holders...)
		o.publish(t)
		o.propose(t, AddRole{Name: "releases", Paths: []string{"releases/*"}, Holders: holdersOf(o.holders), Threshold: 1})
		d, err := o.repo.Diff()
		check(t, err)
		if got := fmt.Sprint(d); !strings.Contains(got, "no version before 3 is shown") {
			t.Errorf("the holder is not told: %s", got)
		}
	})
	t.Run("request whose metadata was changed on the way", func(t *testing.T) {
		o := newOrg(t)
		o.propose(t, SetThreshold{"root", 3})
		f := o.request(t)
		f.After["root"] = edit(t, f.After["root"], `"threshold": 3`, `"threshold": 1`)
		data, err := json.Marshal(f)
		check(t, err)
		_, err = ReadRequest(data, o.pinned, Options{})
		refused(t, err, "damaged")
		// Made to fit, it says what it does, and its signatures are of no use to the event.
		q, err := ReadRequest(seal(t, &f), o.pinned, Options{})
		check(t, err)
		if got := fmt.Sprint(q.Diff()); !strings.Contains(got, "1 of 3 must sign, before 2 of 3") || !strings.Contains(got, "one key alone can sign") {
			t.Errorf("the holder is not told: %s", got)
		}
		signed, err := q.Sign(t.Context(), o.holders[0].Signer)
		check(t, err)
		unchanged(t, o.dir, func() {
			_, err = o.repo.Import(t.Context(), signed)
			refused(t, err, "have it signed again")
		})
	})
	t.Run("request that leaves out a root version", func(t *testing.T) {
		o := newOrg(t)
		o.propose(t, SetThreshold{"root", 3})
		f := o.request(t)
		f.After["root"] = edit(t, f.After["root"], `"version": 2`, `"version": 3`)
		_, err := ReadRequest(seal(t, &f), o.pinned, Options{})
		refused(t, err, "clients would refuse it")
	})
	t.Run("request that goes back to a lower version", func(t *testing.T) {
		o := newOrg(t)
		o.change(t, Renew{"targets"})
		o.propose(t, Renew{"targets"})
		f := o.request(t)
		f.After["targets"] = edit(t, f.After["targets"], `"version": 3`, `"version": 2`)
		_, err := ReadRequest(seal(t, &f), o.pinned, Options{})
		refused(t, err, "clients would refuse it")
	})
	t.Run("request with a key under an old key's id", func(t *testing.T) {
		o := newOrg(t)
		o.propose(t, Renew{"root"})
		f := o.request(t)
		mallory := newEd25519(t, "@alice")
		_, own, err := mallory.publish()
		check(t, err)
		_, alice, err := o.holders[0].publish()
		check(t, err)
		f.After["root"] = edit(t, f.After["root"], alice.Value.PublicKey, own.Value.PublicKey)
		q, err := ReadRequest(seal(t, &f), o.pinned, Options{})
		check(t, err)
		if got := fmt.Sprint(q.Diff().Roles[0].Warnings); !strings.Contains(got, "stands for another key than before") {
			t.Errorf("the holder is not told: %s", got)
		}
	})
	t.Run("one person with two keys", func(t *testing.T) {
		o := newOrg(t)
		mallory := newEd25519(t, "@mallory")
		o.propose(t, AddHolder{"root", mallory.Holder})
		f := o.request(t)
		f.After["root"] = edit(t, f.After["root"], "@mallory", "@alice")
		q, err := ReadRequest(seal(t, &f), o.pinned, Options{})
		check(t, err)
		if got := fmt.Sprint(q.Diff().Roles[0].Warnings); !strings.Contains(got, "@alice has two keys of role root") || !strings.Contains(got, "not the digest of the key") {
			t.Errorf("the holder is not told: %s", got)
		}
	})
	t.Run("one key as two people's", func(t *testing.T) {
		o := newOrg(t)
		dan, eve := newEd25519(t, "@dan"), newEd25519(t, "@eve")
		o.propose(t, AddHolder{"root", dan.Holder}, AddHolder{"root", eve.Holder})
		f := o.request(t)
		public := func(p person) string { return hex.EncodeToString(p.PublicKey().(ed25519.PublicKey)) }
		f.After["root"] = edit(t, f.After["root"], public(eve), public(dan))
		q, err := ReadRequest(seal(t, &f), o.pinned, Options{})
		check(t, err)
		if got := fmt.Sprint(q.Diff().Roles[0].Warnings); !strings.Contains(got, "role root has one key twice, as @dan") {
			t.Errorf("the holder is not told: %s", got)
		}
	})
	t.Run("names that hide what is said", func(t *testing.T) {
		o := newOrg(t)
		o.propose(t, SetThreshold{"root", 3}, SetTarget{Name: "x.json", Data: []byte("x")})
		f := o.request(t)
		const hides = `\u001b[2K\u202e`
		f.After["root"] = edit(t, f.After["root"], "@alice", "@alice"+hides)
		f.After["targets"] = edit(t, f.After["targets"], `"x.json"`, `"x.json`+hides+`"`)
		f.By, f.Reason = "\x1b[1A", "\u202e"
		q, err := ReadRequest(seal(t, &f), o.pinned, Options{})
		check(t, err)
		got := fmt.Sprint(q.Diff())
		if strings.ContainsAny(got, "\x1b\u202e") || strings.Count(got, `\u001b`) < 3 {
			t.Errorf("got %q", got)
		}
	})
	t.Run("owner's name that hides what is said, in the event itself", func(t *testing.T) {
		o := newOrg(t)
		o.propose(t, SetThreshold{"root", 3}, SetThreshold{"targets", 3})
		s, err := o.repo.load()
		check(t, err)
		e, d, err := o.repo.openEvent(s)
		check(t, err)
		for _, key := range d.root.Signed.Keys { // as whoever holds the directory writes them
			if owner := ownerOf(key); owner != "" {
				key.UnrecognizedFields[fieldOwner] = owner + "\x1b[2K\u202e"
			}
		}
		check(t, o.repo.change(t.Context(), func() error {
			d.docs = nil
			_, err := o.repo.store(t.Context(), e, d)
			return err
		}))
		data, err := o.repo.Export()
		check(t, err)
		signed, err := SignRequest(t.Context(), data, o.holders[0].Signer, o.pinned, Options{})
		check(t, err)
		taken, err := o.repo.Import(t.Context(), signed)
		check(t, err)
		c, err := o.repo.Check()
		check(t, err)
		got := fmt.Sprint(taken, c.Roles, c.Problems, c.Warnings)
		amended, err := o.repo.Amend(t.Context(), Proposal{Changes: []Change{SetThreshold{"root", 2}}})
		check(t, err)
		got += fmt.Sprint(amended.Dropped)
		if len(amended.Dropped) == 0 || strings.ContainsAny(got, "\x1b\u202e") || strings.Count(got, `\u001b`) < 4 {
			t.Errorf("got %q", got)
		}
	})
	t.Run("request with another proposer or reason than its event", func(t *testing.T) {
		o := newOrg(t)
		_, err := o.repo.Propose(t.Context(), Proposal{By: "carol", Reason: "new laptop", Changes: []Change{Renew{"root"}}})
		check(t, err)
		for what, change := range map[string]func(*requestFile){
			"proposer":      func(f *requestFile) { f.By = "alice" },
			"reason":        func(f *requestFile) { f.Reason = "alice said so" },
			"none":          func(f *requestFile) { f.By, f.Reason = "", "" },
			"one for other": func(f *requestFile) { f.By, f.Reason = f.By+`"`+"\nreason \"new", "laptop" },
		} {
			f := o.request(t)
			id := f.Event
			if len(id) != 32 {
				t.Errorf("an event's id has %d digits", len(id))
			}
			change(&f)
			data, err := json.Marshal(f)
			check(t, err)
			_, err = ReadRequest(data, o.pinned, Options{})
			refused(t, err, "it is damaged")
			seal(t, &f)
			if f.Event == id {
				t.Errorf("%s: the event that was told of has the same id", what)
			}
		}
	})
	t.Run("request with countless bins", func(t *testing.T) {
		o := newOrg(t)
		o.propose(t, AddRole{Name: "files", Paths: []string{"files/*"}, Holders: []Holder{o.holders[0].Holder}, Threshold: 1, BinBits: 1})
		f := o.request(t)
		f.After["files"] = edit(t, f.After["files"], `"bit_length": 1`, `"bit_length": 32`)
		data, err := json.Marshal(f)
		check(t, err)
		_, err = ReadRequest(data, o.pinned, Options{})
		refused(t, err, "more than this version takes")
	})
	t.Run("request with a role that leads out of the directory", func(t *testing.T) {
		o := newOrg(t)
		o.propose(t, Renew{"targets"})
		f := o.request(t)
		f.After["../../targets"] = f.After["targets"]
		data, err := json.Marshal(f)
		check(t, err)
		_, err = ReadRequest(data, o.pinned, Options{})
		refused(t, err, "a name is letters")
	})

	t.Run("signature file", func(t *testing.T) {
		o := newOrg(t)
		o.propose(t, SetThreshold{"root", 3}, Renew{"targets"})
		data, err := o.repo.Export()
		check(t, err)
		good, err := SignRequest(t.Context(), data, o.holders[0].Signer, o.pinned, Options{})
		check(t, err)
		_, err = SignRequest(t.Context(), data, newP256(t, "@mallory").Signer, o.pinned, Options{})
		refused(t, err, "is not asked for anything")
		var f signatureFile
		check(t, json.Unmarshal(good, &f))
		other := f.Signatures[1]
		for name, c := range map[string]struct {
			change func(*signatureFile)
			want   string
		}{
			"for another role":   {func(f *signatureFile) { f.Signatures[0].Role = "targets"; f.Signatures = f.Signatures[:1] }, "another targets"},
			"for no role of it":  {func(f *signatureFile) { f.Signatures[0].Role = "revocations" }, "does not change"},
			"by another key":     {func(f *signatureFile) { f.Signatures[0].KeyID = strings.Repeat("0", 64) }, "not asked to sign"},
			"of another holder":  {func(f *signatureFile) { id, _, _ := o.holders[1].publish(); f.Signatures[0].KeyID = id }, "does not verify"},
			"of other metadata":  {func(f *signatureFile) { f.Signatures[0].Sig = other.Sig }, "does not verify"},
			"with no signature":  {func(f *signatureFile) { f.Signatures[0].Sig = nil }, ""},
			"with one twice":     {func(f *signatureFile) { f.Signatures = append(f.Signatures, f.Signatures[0]) }, "signed twice"},
			"with none":          {func(f *signatureFile) { f.Signatures = nil }, "no signatures"},
			"for another schema": {func(f *signatureFile) { f.Schema = requestSchema }, "schema"},
		} {
			var f signatureFile
			check(t, json.Unmarshal(good, &f))
			c.change(&f)
			bad, err := json.Marshal(f)
			check(t, err)
			unchanged(t, o.dir, func() {
				if _, err := o.repo.Import(t.Context(), bad); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		_, err = o.repo.Import(t.Context(), good)
		check(t, err)
		again, err := o.repo.Import(t.Context(), good)
		check(t, err)
		if len(again) != 2 || !again[0].Again {
			t.Errorf("again: %+v", again)
		}
		check(t, o.repo.Withdraw(t.Context()))
		o.propose(t, SetThreshold{"root", 3}, Renew{"targets"}, SetThreshold{"targets", 3})
		_, err = o.repo.Import(t.Context(), good)
		refused(t, err, "have it signed again")
	})
	t.Run("event's files changed where they lie", func(t *testing.T) {
		o := newOrg(t)
		o.propose(t, SetTarget{Name: "trusted_root.json", Data: []byte("new")})
		o.sign(t, o.holders...)
		file := filepath.Join(o.dir, "event", "metadata", "targets.json")
		good, err := os.ReadFile(file)
		check(t, err)
		check(t, os.WriteFile(file, edit(t, good, `"version": 2`, `"version": 3`), 0o644))
		for _, f := range []func() error{
			func() error { _, err := o.repo.Publish(t.Context(), o.online.Signer); return err },
			func() error { _, err := o.repo.Export(); return err },
			func() error { _, err := o.repo.Check(); return err },
		} {
			refused(t, f(), "not what was proposed")
		}
		check(t, os.WriteFile(file, good, 0o644))
		// The file behind the target: clients would not take it, so neither does anybody before.
		check(t, os.WriteFile(filepath.Join(o.dir, "event", "targets", "trusted_root.json"), []byte("evil"), 0o644))
		unchanged(t, o.published, func() {
			_, err := o.repo.Publish(t.Context(), o.online.Signer)
			refused(t, err, "nothing was published")
		})
	})
	t.Run("new holders without the old", func(t *testing.T) {
		o := newOrg(t)
		thieves := []person{newP256(t, "@x"), newP256(t, "@y")}
		o.propose(t, AddHolder{"root", thieves[0].Holder}, AddHolder{"root", thieves[1].Holder}, RemoveHolder{"root", "@alice"}, RemoveHolder{"root", "@bob"}, RemoveHolder{"root", "@carol"})
		o.sign(t, thieves...)
		_, err := o.repo.Publish(t.Context(), o.online.Signer)
		refused(t, err, "of the old holders")
		check(t, o.repo.Withdraw(t.Context()))
		o.propose(t, AddHolder{"root", thieves[0].Holder}, AddHolder{"root", thieves[1].Holder}, SetThreshold{"root", 4})
		o.sign(t, o.holders...)
		_, err = o.repo.Publish(t.Context(), o.online.Signer)
		refused(t, err, "of the new holders")
	})
	t.Run("published state overwritten with the online key", func(t *testing.T) {
		o := newOrg(t)
		evil := filepath.Join(t.TempDir(), "evil")
		check(t, os.CopyFS(evil, os.DirFS(o.dir)))
		thief, err := Open(evil, Options{})
		check(t, err)
		_, err = thief.Refresh(t.Context(), o.online.Signer, true)
		check(t, err)
		stolen, err := os.ReadFile(filepath.Join(thief.Published(), "timestamp.json"))
		check(t, err)
		check(t, os.WriteFile(filepath.Join(o.published, "timestamp.json"), stolen, 0o644))
		unchanged(t, o.dir, func() {
			_, err := o.repo.Refresh(t.Context(), o.online.Signer, true)
			refused(t, err, "somebody has the online key")
			_, err = o.repo.PublishRevocations(t.Context(), nil, signersOf(o.responders), o.online.Signer)
			refused(t, err, "somebody has the online key, republish, after which denials go on")
		})
		_, err = o.repo.Republish(t.Context(), nil)
		check(t, err)
		o.revoke(t, nil)
	})
	t.Run("old copy of the directory republished", func(t *testing.T) {
		o, r, away := copied(t, nil)
		o.revoke(t, map[string][]byte{"revocations/deny.json": []byte("deny")})
		stays := func(when string) {
			t.Helper()
			unchanged(t, away, func() {
				_, err := r.Republish(t.Context(), nil)
				refused(t, err, "version 2 of revocations is published, signed by its holders, and this directory has version 1")
				refused(t, r.CheckRepublish(nil), "rebuild it from the published directory")
				_, err = r.Republish(t.Context(), map[string]int64{"revocations": 3})
				refused(t, err, "version 2 of revocations")
				_, err = r.Republish(t.Context(), map[string]int64{"targets": 2, "revocations": 2})
				refused(t, err, "there is no version 2 of targets to discard")
			})
			if t.Failed() {
				t.Fatal(when)
			}
		}
		stays("as it was published")
		// The thief's timestamp leads to the state before.
		s, err := r.load()
		check(t, err)
		o.forward(t, s, away)
		stays("with a thief's timestamp")
		check(t, os.Remove(filepath.Join(away, "timestamp.json")))
		stays("without a timestamp")
	})
	t.Run("targets signed by thieves, discarded by name", func(t *testing.T) {
		o, r, away := copied(t, nil)
		o.change(t, SetTarget{Name: "evil.json", Data: []byte("evil")})
		o.change(t, SetTarget{Name: "evil.json", Data: []byte("evil, too")})
		_, err := r.Republish(t.Context(), map[string]int64{"targets": 2})
		refused(t, err, "version 3 of targets is published")
		check(t, r.CheckRepublish(map[string]int64{"targets": 3}))
		got, err := r.Republish(t.Context(), map[string]int64{"targets": 3})
		check(t, err)
		if list(got.Removed) != "2.targets.json, 3.targets.json" {
			t.Errorf("removed %v", got.Removed)
		}
		if _, err := look("go-tuf", away, o.pinned, t.TempDir(), "evil.json"); err == nil {
			t.Error("clients still get the thieves' target")
		}
		_, err = r.Republish(t.Context(), nil)
		check(t, err)
	})
	t.Run("newer role that no holder signed", func(t *testing.T) {
		o := newOrg(t)
		data, err := os.ReadFile(filepath.Join(o.published, "1.targets.json"))
		check(t, err)
		check(t, os.WriteFile(filepath.Join(o.published, "2.targets.json"), edit(t, data, `"version": 1`, `"version": 2`), 0o644))
		check(t, os.WriteFile(filepath.Join(o.published, "3.targets.json"), data, 0o644))
		check(t, os.WriteFile(filepath.Join(o.published, "4.revocations.json"), []byte("null"), 0o644))
		_, err = o.repo.Republish(t.Context(), nil)
		check(t, err)
	})
	t.Run("publication cut off before a backup, finished after it", func(t *testing.T) {
		o, r, away := copied(t, cutOffDenial)
		o.revoke(t, map[string][]byte{"revocations/two.json": []byte("two")}) // finishes the first, and publishes
		for _, of := range []string{"this version", "one before"} {
			if of == "one before" {
				withoutReplaces(t, r)
			}
			unchanged(t, away, func() {
				_, err := r.Refresh(t.Context(), o.online.Signer, false)
				refused(t, err, "rebuild it from the published one")
				_, err = r.PublishRevocations(t.Context(), nil, signersOf(o.responders[:2]), o.online.Signer)
				refused(t, err, "was cut off here, and a timestamp of version 3 was published since")
				_, err = r.Republish(t.Context(), nil)
				refused(t, err, "version 3 of revocations is published")
				refused(t, r.CheckRepublish(nil), "version 3 of revocations is published")
			})
		}
		check(t, os.Remove(filepath.Join(away, "timestamp.json")))
		_, err := r.Refresh(t.Context(), o.online.Signer, false)
		refused(t, err, "version 3 of revocations is published")
	})
	t.Run("publication cut off, and the online key's thief publishes", func(t *testing.T) {
		for _, of := range []string{"this version", "one before"} {
			o, r, away := copied(t, cutOffDenial)
			s, err := load(o.repo.read) // as it was: nothing of metadata/ is written yet
			check(t, err)
			o.forward(t, s, away)
			if of == "one before" {
				withoutReplaces(t, r)
			}
			_, err = r.Refresh(t.Context(), o.online.Signer, false)
			refused(t, err, "if somebody has the online key, republish")
			_, err = r.Republish(t.Context(), nil)
			check(t, err)
			if data, err := look("go-tuf", away, o.pinned, t.TempDir(), "revocations/one.json"); string(data) != "one" {
				t.Errorf("%s: the denial is not published: %q, %v", of, data, err)
			}
		}
	})
	t.Run("version raised to the limit", func(t *testing.T) {
		o := newOrg(t)
		o.force(t, o.online, func(d *draft) { editTargets(t, d, "targets").Version = maxVersion }, o.holders...)
		_, err := o.repo.Propose(t.Context(), Proposal{Changes: []Change{Renew{"targets"}}})
		refused(t, err, "fast-forward")
		_, err = o.repo.PublishRevocations(t.Context(), nil, signersOf(o.responders), o.online.Signer)
		check(t, err) // the others go on
		for _, v := range []string{"9223372036854775808", "-9223372036854775809", "1e30", "1.5", `"2"`} {
			data, err := os.ReadFile(filepath.Join(o.published, "1.targets.json"))
			check(t, err)
			if _, err := parseTargets(edit(t, data, `"version": 1`, `"version": `+v)); err == nil {
				t.Errorf("version %s was read", v)
			}
		}
	})
	t.Run("root dropped from the past", func(t *testing.T) {
		o := newOrg(t)
		for range 2 {
			o.change(t, Renew{"root"})
		}
		for _, file := range []string{filepath.Join(o.dir, "metadata", "root_history", "2.root.json"), filepath.Join(o.published, "2.root.json")} {
			data, err := os.ReadFile(file)
			check(t, err)
			check(t, os.Remove(file))
			if _, err := o.repo.Refresh(t.Context(), o.online.Signer, true); err == nil {
				t.Errorf("published without %s", file)
			}
			check(t, os.WriteFile(file, data, 0o644))
		}
		_, err := o.repo.Refresh(t.Context(), o.online.Signer, true)
		check(t, err)
	})
	t.Run("root that clients would stumble over", func(t *testing.T) {
		o := newOrg(t)
		stray := filepath.Join(o.published, "2.root.json")
		check(t, os.WriteFile(stray, []byte("{}"), 0o644))
		_, err := o.repo.Refresh(t.Context(), o.online.Signer, true)
		refused(t, err, "a client would not follow")
		got, err := o.repo.Republish(t.Context(), nil)
		check(t, err)
		if _, err := os.Stat(stray); !errors.Is(err, fs.ErrNotExist) || list(got.Removed) != "2.root.json" {
			t.Errorf("%+v, %v", got, err)
		}
		_, err = o.repo.Refresh(t.Context(), o.online.Signer, true)
		check(t, err)
	})
	t.Run("clock set back", func(t *testing.T) {
		o := newOrg(t)
		r, err := Open(o.dir, ago(2*day))
		check(t, err)
		_, err = r.Refresh(t.Context(), o.online.Signer, true)
		refused(t, err, "set the clock")
	})
	t.Run("clock set ahead", func(t *testing.T) {
		now := time.Now()
		clock := func() time.Time { return now }
		o := newOrgIn(t, filepath.Join(t.TempDir(), "repository"), Options{Now: clock}, nil)
		deny := func(r *Repository, name string) error {
			_, err := r.PublishRevocations(t.Context(), map[string][]byte{"revocations/" + name: []byte(name)}, signersOf(o.responders[:2]), o.online.Signer)
			return err
		}
		trusting, err := Open(o.dir, Options{Now: clock, TrustClock: true})
		check(t, err)
		now = now.AddDate(0, 5, 0)
		unchanged(t, o.dir, func() {
			_, err = o.repo.Refresh(t.Context(), o.online.Signer, true)
			refused(t, err, "would lock the repository")
			refused(t, deny(o.repo, "no.json"), "would lock the repository")
		})
		_, err = trusting.Refresh(t.Context(), o.online.Signer, false) // by mistake, or by a version before
		check(t, err)
		now = time.Now()
		refused(t, deny(o.repo, "no.json"), "say so (--trust-clock)")
		check(t, deny(trusting, "deny.json"))
		check(t, deny(o.repo, "next.json")) // as usual from then on
		if data, err := look("go-tuf", o.published, o.pinned, t.TempDir(), "revocations/deny.json"); string(data) != "deny.json" {
			t.Errorf("%q, %v", data, err)
		}
		// An event, which brings a new timestamp.
		now = now.AddDate(0, 3, 0)
		_, err = o.repo.Propose(t.Context(), Proposal{Changes: []Change{Renew{"root"}}})
		check(t, err)
		o.sign(t, o.holders...)
		_, err = o.repo.Publish(t.Context(), o.online.Signer)
		refused(t, err, "would lock the repository")
		_, err = trusting.Publish(t.Context(), o.online.Signer)
		check(t, err)
	})
	t.Run("clock of the proposer wrong", func(t *testing.T) {
		o := newOrg(t)
		r, err := Open(o.dir, ago(-3*365*day))
		check(t, err)
		_, err = r.Propose(t.Context(), Proposal{Changes: []Change{Renew{"root"}, Renew{"targets"}}})
		check(t, err)
		data, err := r.Export()
		check(t, err)
		q, err := ReadRequest(data, o.pinned, Options{})
		check(t, err)
		if got := fmt.Sprint(q.Diff()); strings.Count(got, "clock that it was made with may be wrong") != 2 {
			t.Errorf("the holder is not told: %s", got)
		}
		q, err = ReadRequest(data, o.pinned, ago(-20*365*day))
		check(t, err)
		if got := fmt.Sprint(q.Diff()); strings.Count(got, "expired already") != 2 {
			t.Errorf("the holder is not told: %s", got)
		}
	})
	t.Run("duplicate signatures", func(t *testing.T) {
		o := newOrg(t)
		for _, file := range []string{"root.json", "targets.json"} {
			file = filepath.Join(o.dir, "metadata", file)
			good, err := os.ReadFile(file)
			check(t, err)
			var m map[string]json.RawMessage
			check(t, json.Unmarshal(good, &m))
			var sigs []json.RawMessage
			check(t, json.Unmarshal(m["signatures"], &sigs))
			m["signatures"], err = json.Marshal(append(sigs, sigs[0]))
			check(t, err)
			bad, err := json.Marshal(m)
			check(t, err)
			check(t, os.WriteFile(file, bad, 0o644))
			_, err = Open(o.dir, Options{})
			if err == nil || !strings.Contains(err.Error(), "multiple signatures") && !strings.Contains(err.Error(), "hash verification") {
				t.Errorf("%s: %v", file, err)
			}
			check(t, os.WriteFile(file, good, 0o644))
		}
	})
	t.Run("one key under two ids, to count twice", func(t *testing.T) {
		o := newOrg(t)
		s, err := o.repo.load()
		check(t, err)
		d := o.repo.draft(s)
		root, err := d.editRoot()
		check(t, err)
		_, key, err := (Holder{"@twin", o.holders[0].Key}).publish()
		check(t, err)
		id, err := key.ID()
		check(t, err)
		root.Keys[id] = key
		root.Roles["root"].KeyIDs = append(root.Roles["root"].KeyIDs, id)
		doc, err := d.document("root")
		check(t, err)
		for _, id := range []string{root.Roles["root"].KeyIDs[0], id} {
			sig, err := signOne(t.Context(), doc, id, root.Keys[id], o.holders[0].Signer)
			check(t, err)
			doc.put(sig)
		}
		ring, err := d.ring("root")
		check(t, err)
		if got := ring.valid(doc.payload, *doc.signatures); len(got) != 1 || ring.met(doc) {
			t.Errorf("counted: %v", got)
		}
		refused(t, d.validate(), "one key twice")
	})
	t.Run("one key for the online role and a person", func(t *testing.T) {
		o := newOrg(t)
		rita := newP256(t, "@rita")
		o.holders = append(o.holders, rita) // to sign what she is asked for
		o.change(t, AddRole{Name: "releases", Paths: []string{"releases/*"}, Holders: []Holder{rita.Holder}, Threshold: 1})
		for what, c := range map[string]struct {
			change Change
			why    string
		}{
			"the online key is a responder's":  {SetOnline{Online{Key: o.responders[0].Key}}, "online key is a key of role"},
			"the online key is of a role":      {SetOnline{Online{Key: rita.Key}}, "online key is a key of role"},
			"the online key is a root key":     {SetOnline{Online{Key: o.holders[0].Key}}, "online key is a key of role"},
			"a responder's key becomes root":   {AddHolder{"root", o.responders[0].Holder}, "responders need keys of their own"},
			"a root key becomes a responder's": {AddHolder{"revocations", o.holders[0].Holder}, "responders need keys of their own"},
		} {
			_, err := o.repo.Propose(t.Context(), Proposal{Changes: []Change{c.change}})
			if err == nil {
				t.Errorf("%s: it is proposed", what)
				check(t, o.repo.Withdraw(t.Context()))
				continue
			}
			refused(t, err, c.why)
		}
	})
	t.Run("deny list narrowed under a name in use", func(t *testing.T) {
		o := newOrgIn(t, filepath.Join(t.TempDir(), "repository"), Options{Guard: func(name string, old, new []byte) []string {
			if name == "revocations/1.json" && !strings.HasPrefix(string(new), string(old)) {
				return []string{"it no longer denies " + string(old)}
			}
			return nil
		}}, nil)
		publish := func(content string) error {
			_, err := o.repo.PublishRevocations(t.Context(), map[string][]byte{"revocations/1.json": []byte(content)}, signersOf(o.responders[:2]), o.online.Signer)
			return err
		}
		check(t, publish("a"))
		check(t, publish("a b"))
		check(t, publish("a b"))
		unchanged(t, o.dir, func() { refused(t, publish("a"), "it no longer denies a b. Responders can only widen") })
		refused(t, o.repo.CheckRevocations(map[string][]byte{"revocations/1.json": []byte("b")}), "it no longer denies a b")
		check(t, o.repo.CheckRevocations(map[string][]byte{"revocations/1.json": []byte("a b c"), "revocations/2.json": []byte("b")}))
		// Not in a signing event either, unless it says so; and then the holders of targets sign, too.
		narrower := []Change{SetTarget{Name: "revocations/1.json", Data: []byte("b")}}
		_, err := o.repo.Propose(t.Context(), Proposal{Changes: narrower})
		if !errors.As(err, new(*LossError)) {
			t.Errorf("proposed: %v", err)
		}
		e, err := o.repo.Propose(t.Context(), Proposal{Changes: narrower, Accept: []string{"revocations/1.json"}})
		check(t, err)
		if want := []string{"targets", "revocations"}; !slices.Equal(e.Roles, want) {
			t.Errorf("%v sign it, want %v", e.Roles, want)
		}
		o.sign(t, o.responders...)
		_, err = o.repo.Publish(t.Context(), o.online.Signer)
		refused(t, err, "targets lacks 2 signature(s)")
		o.sign(t, o.holders...)
		o.publish(t)
		// What cannot be compared is not replaced.
		for _, dir := range []string{o.dir, o.published} {
			files, err := filepath.Glob(filepath.Join(dir, "targets", "revocations", "*1.json"))
			check(t, err)
			for _, f := range files {
				check(t, os.Remove(f))
			}
		}
		refused(t, publish("b c"), "is not to be had")
	})
	t.Run("removed responder", func(t *testing.T) {
		o := newOrg(t)
		gone := o.responders[0]
		o.change(t, RemoveHolder{"revocations", "@dave"})
		_, err := o.repo.PublishRevocations(t.Context(), nil, signersOf([]person{gone, o.responders[1]}), o.online.Signer)
		refused(t, err, "not a key of role")
	})
	t.Run("pipe in place of a file", func(t *testing.T) {
		o := newOrg(t)
		o.revoke(t, map[string][]byte{"revocations/1.json": []byte("1")})
		now := time.Now().AddDate(0, 0, 6) // the timestamp is due
		check(t, sandbox.Pipes(o.dir, t.TempDir(), func(dir, name string) {
			r, err := Open(dir, Options{Now: func() time.Time { return now }})
			if err == nil {
				_, err = r.Refresh(t.Context(), o.online.Signer, true)
			}
			if err == nil {
				_, err = r.Republish(t.Context(), nil)
			}
			if err != nil && !strings.Contains(err.Error(), "no regular file") && !strings.Contains(err.Error(), filepath.Base(name)) {
				t.Errorf("%s: %v", name, err)
			}
			rebuilt := filepath.Join(t.TempDir(), "rebuilt")
			if _, _, err := Rebuild(t.Context(), rebuilt, Options{}, DirMirror(filepath.Join(dir, publishedDir)), o.pinned); err != nil && !strings.Contains(err.Error(), "no regular file") {
				t.Errorf("rebuilt from %s: %v", name, err)
			}
		}))
		cache := t.TempDir()
		o.revocations(t, cache)
		check(t, sandbox.Pipes(cache, t.TempDir(), func(dir, name string) {
			if _, err := Revocations(t.Context(), FetchOptions{URL: o.url, Root: o.pinned, CacheDir: dir}); err != nil && !strings.Contains(err.Error(), filepath.Base(name)) {
				t.Errorf("cache with %s: %v", name, err)
			}
		}))
	})
	t.Run("prepared change altered where it lies", func(t *testing.T) {
		o := newOrg(t)
		o.repo.hook = func(point, name string) error {
			if name == "metadata/timestamp.json" {
				return errCrash
			}
			return nil
		}
		_, err := o.repo.Refresh(t.Context(), o.online.Signer, true)
		if !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		o.repo.hook = nil
		staged, err := filepath.Glob(filepath.Join(o.dir, "event", "pending", "*"))
		check(t, err)
		for _, f := range staged {
			check(t, os.WriteFile(f, []byte("{}"), 0o644))
		}
		unchanged(t, o.published, func() {
			_, err = o.repo.Refresh(t.Context(), o.online.Signer, true)
			refused(t, err, "damaged")
		})
	})
}

// cutOffDenial publishes a denial on a disk that is full when it comes to the metadata.
func cutOffDenial(o *org) {
	o.repo.hook = func(point, name string) error {
		if strings.HasPrefix(name, "metadata/") {
			return errCrash
		}
		return nil
	}
	_, _ = o.repo.PublishRevocations(context.Background(), map[string][]byte{"revocations/one.json": []byte("one")}, signersOf(o.responders[:2]), o.online.Signer)
	o.repo.hook = nil
}

// withoutReplaces makes of a change that was cut off what a version before would have written.
func withoutReplaces(t *testing.T, r *Repository) {
	t.Helper()
	data, err := r.read(pendingFile)
	check(t, err)
	p, err := parsePending(data)
	check(t, err)
	p.Replaces = ""
	data, err = json.Marshal(p)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(r.dir, pendingFile), data, 0o644))
}

// forward publishes, as a thief of the online key would, a timestamp of version 50 that leads to s.
func (o *org) forward(t *testing.T, s *state, published string) {
	t.Helper()
	d := o.repo.draft(s)
	m := d.next().Timestamp
	m.Signed.Version = 49
	data, err := o.repo.signTimestamp(t.Context(), d, m, o.online.Signer)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(published, "timestamp.json"), data, 0o644))
}

// Five steps from a compromise to a denial that clients see, with responders and the online signer only.
func TestDenialTakesSeconds(t *testing.T) {
	o := newOrg(t)
	cache := t.TempDir()
	o.revocations(t, cache)
	start := time.Now()
	o.revoke(t, map[string][]byte{"revocations/index.json": []byte("1"), "revocations/1.json": []byte("deny")})
	if got := o.revocations(t, cache); len(got) != 2 {
		t.Errorf("got %q", got)
	}
	took := time.Since(start)
	t.Logf("from the denial to a refreshed client: %s", took)
	if took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}
