package tuf

import (
	"bytes"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestOneEventAtATime(t *testing.T) {
	o := newOrg(t)
	_, err := o.repo.Event()
	if !errors.Is(err, ErrNoEvent) {
		t.Errorf("got %v", err)
	}
	for _, f := range []func() error{
		func() error { _, err := o.repo.Export(); return err },
		func() error { _, err := o.repo.Check(); return err },
		func() error { _, err := o.repo.Diff(); return err },
		func() error { return o.repo.Withdraw(t.Context()) },
		func() error { _, err := o.repo.Publish(t.Context(), o.online.Signer); return err },
		func() error {
			_, err := o.repo.Amend(t.Context(), Proposal{Changes: []Change{Renew{"root"}}})
			return err
		},
	} {
		if err := f(); !errors.Is(err, ErrNoEvent) {
			t.Errorf("got %v", err)
		}
	}
	before := listing(t, o.dir)
	e := o.propose(t, SetThreshold{"root", 3})
	unchanged(t, o.dir, func() {
		_, err := o.repo.Propose(t.Context(), Proposal{Changes: []Change{Renew{"targets"}}})
		if !errors.Is(err, ErrEventOpen) || !strings.Contains(err.Error(), e.ID) || !strings.Contains(err.Error(), "root") {
			t.Errorf("a second event: %v", err)
		}
	})
	// The event is only ever below event/, and withdrawn it leaves no trace.
	check(t, o.repo.Withdraw(t.Context()))
	after := listing(t, o.dir)
	if len(before) != len(after) {
		t.Errorf("%d files, before %d", len(after), len(before))
	}
	if _, err := os.Stat(filepath.Join(o.dir, eventDir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("event/ is there: %v", err)
	}
	// While one is open, responders and the online key go on, and the event is published all the same.
	o.propose(t, SetTarget{Name: "a.json", Data: []byte("a")})
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("1")})
	_, err = o.repo.Refresh(t.Context(), o.online.Signer, true)
	check(t, err)
	o.sign(t, o.holders...)
	o.publish(t)
	if got := o.revocations(t, ""); len(got) != 1 {
		t.Errorf("got %q", got)
	}
}

func TestPartialSignaturesAreVisible(t *testing.T) {
	o := newOrg(t)
	o.propose(t, SetThreshold{"root", 3}, RemoveHolder{"targets", "@carol"})
	signatures := func() (signed, waiting int) {
		data, err := os.ReadFile(filepath.Join(o.dir, "event", "metadata", "root.json"))
		check(t, err)
		var m struct {
			Signatures []struct{ KeyID, Sig string }
		}
		check(t, json.Unmarshal(data, &m))
		for _, s := range m.Signatures {
			if s.Sig == "" {
				waiting++
			} else {
				signed++
			}
		}
		return signed, waiting
	}
	if s, w := signatures(); s != 0 || w != 3 {
		t.Errorf("%d signed, %d waiting", s, w)
	}
	o.sign(t, o.holders[0])
	if s, w := signatures(); s != 1 || w != 2 {
		t.Errorf("%d signed, %d waiting", s, w)
	}
	o.sign(t, o.holders[0]) // again: it replaces
	c, err := o.repo.Check()
	check(t, err)
	if len(c.Problems) != 2 || !strings.Contains(c.Problems[0], "root lacks 1 signature(s) of the old holders: ask @bob, @carol") ||
		!strings.Contains(c.Problems[1], "root lacks 2 signature(s) of the new holders: ask @bob, @carol") {
		t.Errorf("problems %q", c.Problems)
	}
	unchanged(t, o.dir, func() {
		_, err := o.repo.Publish(t.Context(), o.online.Signer)
		var not *NotReadyError
		if !errors.As(err, &not) || len(not.Problems) != 2 {
			t.Errorf("got %v", err)
		}
	})
	o.sign(t, o.holders...)
	o.publish(t)
	for file, text := range listing(t, o.published) {
		if strings.Contains(text, `"sig": ""`) {
			t.Errorf("%s has a placeholder", file)
		}
	}
}

func TestAmend(t *testing.T) {
	o := newOrg(t)
	o.propose(t, SetThreshold{"root", 3}, SetTarget{Name: "a.json", Data: []byte("a")})
	o.sign(t, o.holders[0])
	e, err := o.repo.Amend(t.Context(), Proposal{Changes: []Change{SetTarget{Name: "b.json", Data: []byte("b")}}})
	check(t, err)
	if len(e.Dropped) != 1 || !strings.HasPrefix(e.Dropped[0], "targets by @alice") {
		t.Errorf("dropped %q", e.Dropped)
	}
	c, err := o.repo.Check()
	check(t, err)
	if len(c.Roles[0].Groups[0].Signed) != 1 || len(c.Roles[1].Groups[0].Signed) != 0 {
		t.Errorf("signed: %+v", c.Roles)
	}
	if c.Roles[0].Version != 2 || c.Roles[1].Version != 2 {
		t.Errorf("an amendment is no new version: %+v", c.Roles)
	}
	unchanged(t, o.dir, func() {
		_, err = o.repo.Amend(t.Context(), Proposal{Changes: []Change{SetThreshold{"targets", 4}}})
		refused(t, err, "threshold 4 of 3")
	})
	o.sign(t, o.holders...)
	o.publish(t)
	if got := o.sigstoreTarget(t, t.TempDir(), "b.json"); string(got) != "b" {
		t.Errorf("got %q", got)
	}
}

func TestChangesRefused(t *testing.T) {
	o := newOrg(t)
	o.change(t, AddRole{Name: "files", Paths: []string{"files/*"}, Holders: []Holder{o.holders[0].Holder}, Threshold: 1})
	dave := o.responders[0]
	for want, changes := range map[string][]Change{
		"no changes":                          {},
		"is a holder of role":                 {AddHolder{"root", newP256(t, "@alice").Holder}},
		"@Alice holds role \"root\" with two": {AddHolder{"root", newP256(t, "@Alice").Holder}},
		"@dave holds role \"x\" with two":     {AddRole{Name: "x", Paths: []string{"x/*"}, Holders: []Holder{dave.Holder, newP256(t, "@dave").Holder}, Threshold: 2}},
		"one key twice":                       {AddHolder{"root", Holder{"@other", o.holders[0].Key}}},
		"@zoe is no holder":                   {RemoveHolder{"root", "@zoe"}},
		"threshold 2 of 1":                    {RemoveHolder{"root", "@alice"}, RemoveHolder{"root", "@bob"}},
		"at least 1":                          {SetThreshold{"root", 0}},
		"keys of their own":                   {AddHolder{"root", dave.Holder}, AddHolder{"revocations", o.holders[0].Holder}},
		"held by the online key":              {SetThreshold{"timestamp", 2}},
		"refresh it instead":                  {Renew{"snapshot"}},
		"no such role":                        {Renew{"nothing"}},
		"has this very key already":           {ReplaceKey{o.holders[0].Holder}},
		"no holder of any role":               {ReplaceKey{newP256(t, "@zoe").Holder}},
		"online key already":                  {SetOnline{Online{o.online.Key, "gcpkms:projects/p/locations/global/keyRings/r/cryptoKeys/k"}}},
		"says the PIN":                        {SetOnline{Online{newP256(t, "").Key, "pkcs11:object=online?pin-value=123456"}}},
		"one of its own":                      {SetOnline{Online{o.holders[0].Key, ""}}},
		"signing period":                      {SetPeriod{"root", Period{10, 10}}},
		"exists already":                      {AddRole{Name: "files", Paths: []string{"x/*"}, Holders: []Holder{dave.Holder}, Threshold: 1}},
		"name of a top-level role":            {AddRole{Name: "snapshot", Paths: []string{"x/*"}, Holders: []Holder{dave.Holder}, Threshold: 1}},
		"a name is letters":                   {AddRole{Name: "../x", Paths: []string{"x/*"}, Holders: []Holder{dave.Holder}, Threshold: 1}},
		"give the paths":                      {AddRole{Name: "x", Holders: []Holder{dave.Holder}, Threshold: 1}},
		"belongs to the role \"revocations\"": {AddRole{Name: "x", Paths: []string{"revocations/*"}, Holders: []Holder{dave.Holder}, Threshold: 1}},
		"stays inside":                        {AddRole{Name: "x", Paths: []string{"../*"}, Holders: []Holder{dave.Holder}, Threshold: 1}},
		"bits of bins":                        {AddRole{Name: "x", Paths: []string{"x/*"}, Holders: []Holder{dave.Holder}, Threshold: 1, BinBits: 13}},
		"one of its bins would be \"a-0\"": {AddRole{Name: "a-0", Paths: []string{"x/*"}, Holders: []Holder{dave.Holder}, Threshold: 1},
			AddRole{Name: "a", Paths: []string{"a/*"}, Holders: []Holder{dave.Holder}, Threshold: 1, BinBits: 1}},
		"role \"a-1\" exists already": {AddRole{Name: "a", Paths: []string{"a/*"}, Holders: []Holder{dave.Holder}, Threshold: 1, BinBits: 1},
			AddRole{Name: "a-1", Paths: []string{"x/*"}, Holders: []Holder{dave.Holder}, Threshold: 1}},
		"cannot be removed": {RemoveRole{"targets"}},
		"not \"targets\"":   {SetTarget{Name: "files/x", Data: nil, Role: "targets"}},
		"no JSON":           {SetTarget{Name: "x", Custom: json.RawMessage("{")}},
		"has no target":     {RemoveTarget{Name: "nothing"}},
		"lists no targets":  {Restore{"root", nil}},
		"known metadata":    {Restore{"targets", []byte("{}")}},
	} {
		unchanged(t, o.dir, func() {
			_, err := o.repo.Propose(t.Context(), Proposal{Changes: changes})
			refused(t, err, want)
		})
	}
}

// Losses have to be accepted by name.
func TestLossNeedsAWord(t *testing.T) {
	guard := func(name string, old, new []byte) []string {
		if name != "trusted_root.json" {
			return nil
		}
		if bytes.Contains(old, []byte("log-2021")) && !bytes.Contains(new, []byte("log-2021")) {
			return []string{"the log log-2021 goes: 3 signatures rest on it alone"}
		}
		return nil
	}
	o := newOrgIn(t, t.TempDir(), Options{Guard: guard}, func(f *Founding) { f.Files["trusted_root.json"] = []byte("log-2021, log-2025") })
	propose := func(accept []string, changes ...Change) error {
		_, err := o.repo.Propose(t.Context(), Proposal{Changes: changes, Accept: accept})
		if err == nil {
			d, err := o.repo.Diff()
			check(t, err)
			if !strings.Contains(fmt.Sprint(d), "3 signatures rest") && !strings.Contains(fmt.Sprint(d), "removed") && len(accept) > 0 {
				t.Errorf("those who sign are not told: %v", d)
			}
			check(t, o.repo.Withdraw(t.Context()))
		}
		return err
	}
	for want, changes := range map[string][]Change{
		"trusted_root.json: the log log-2021 goes": {SetTarget{Name: "trusted_root.json", Data: []byte("log-2025")}},
		"trusted_root.json: the target is removed": {RemoveTarget{Name: "trusted_root.json"}},
		"signing_config.v0.2.json: the target":     {RemoveTarget{Name: "signing_config.v0.2.json"}},
		"revocations: the role is removed":         {RemoveRole{"revocations"}},
	} {
		name, _, _ := strings.Cut(want, ":")
		unchanged(t, o.dir, func() {
			err := propose([]string{"another"}, changes...)
			var loss *LossError
			if !errors.As(err, &loss) || loss.Losses[0].Name != name {
				t.Errorf("%s: %v", name, err)
			}
			refused(t, err, want)
		})
		check(t, propose([]string{name}, changes...))
	}
	check(t, propose(nil, SetTarget{Name: "trusted_root.json", Data: []byte("log-2021, log-2025, log-2026")}))
	// What is accepted once need not be again when the event is amended, and what is new does.
	_, err := o.repo.Propose(t.Context(), Proposal{Changes: []Change{SetTarget{Name: "trusted_root.json", Data: []byte("log-2025")}}, Accept: []string{"trusted_root.json"}})
	check(t, err)
	_, err = o.repo.Amend(t.Context(), Proposal{Changes: []Change{SetTarget{Name: "x.json", Data: []byte("x")}}})
	check(t, err)
	_, err = o.repo.Amend(t.Context(), Proposal{Changes: []Change{RemoveTarget{Name: "signing_config.v0.2.json"}}})
	refused(t, err, "signing_config")
	// The holder's own tool says it too, from the content that comes with the request.
	request, err := o.repo.Export()
	check(t, err)
	q, err := ReadRequest(request, o.pinned, Options{Guard: guard})
	check(t, err)
	if !strings.Contains(fmt.Sprint(q.Diff()), "3 signatures rest") {
		t.Errorf("the holder is not told: %+v", q.Diff())
	}
}

// A role whose holders change is signed by the new ones in the same event.
func TestNewHoldersSignTheirRoles(t *testing.T) {
	o := newOrg(t)
	ivan, judy := newP256(t, "@ivan"), newP256(t, "@judy")
	e := o.propose(t, AddHolder{"revocations", ivan.Holder}, AddHolder{"revocations", judy.Holder}, RemoveHolder{"revocations", "@dave"}, RemoveHolder{"revocations", "@erin"},
		RemoveHolder{"revocations", "@frank"})
	if list(e.Roles) != "targets, revocations" {
		t.Errorf("to be signed: %v", e.Roles)
	}
	o.sign(t, o.holders...)
	_, err := o.repo.Publish(t.Context(), o.online.Signer)
	refused(t, err, "revocations lacks 2 signature(s): ask @ivan, @judy")
	o.sign(t, ivan, judy)
	o.publish(t)
	o.responders = []person{ivan, judy}
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("1")})

	// Responders who publish while their role is in an event make the event stale: it says so.
	o.propose(t, SetThreshold{"revocations", 1}, Renew{"revocations"})
	o.revoke(t, map[string][]byte{"revocations/2.json": []byte("2")})
	_, err = o.repo.Export()
	refused(t, err, "withdraw the event")
	_, err = o.repo.Publish(t.Context(), o.online.Signer)
	refused(t, err, "revocations was published as version 4 since this event was made from version 3")
	_, err = o.repo.Amend(t.Context(), Proposal{Changes: []Change{Renew{"root"}}})
	refused(t, err, "withdraw the event")
}

func TestRoleWithBins(t *testing.T) {
	o := newOrg(t)
	judy, mike := newEd25519(t, "@judy"), newP256(t, "@mike")
	e := o.propose(t, AddRole{Name: "files", Paths: []string{"files/*"}, Terminating: true, Holders: holdersOf([]person{judy, mike}), Threshold: 1, BinBits: 3},
		SetTarget{Name: "files/one", Data: []byte("one")})
	if len(e.Roles) != 1+1+8 {
		t.Errorf("roles %v", e.Roles)
	}
	o.sign(t, append(o.holders, judy)...)
	o.publish(t)
	e = o.propose(t, SetTarget{Name: "files/two", Data: []byte("two")})
	if len(e.Roles) != 1 || !strings.HasPrefix(e.Roles[0], "files-") {
		t.Errorf("one target changes %v", e.Roles)
	}
	o.sign(t, judy)
	p := o.publish(t)
	if len(p.Files) != 4 {
		t.Errorf("one target writes %v", p.Files)
	}
	for _, name := range []string{"one", "two"} {
		if got := o.sigstoreTarget(t, t.TempDir(), "files/"+name); string(got) != name {
			t.Errorf("got %q", got)
		}
	}
	// Replacing the key of whoever signed means that every bin is signed again.
	again := newEd25519(t, "@judy")
	e = o.propose(t, ReplaceKey{again.Holder})
	if len(e.Roles) != 1+1+8 {
		t.Errorf("roles %v", e.Roles)
	}
	o.sign(t, append(o.holders, again)...)
	o.publish(t)
	// Bins that a holder of theirs signed need not be, when others go.
	e = o.propose(t, RemoveHolder{"files", "@mike"})
	if list(e.Roles) != "targets, files" {
		t.Errorf("roles %v", e.Roles)
	}
	o.sign(t, append(o.holders, again)...)
	o.publish(t)
	if got := o.sigstoreTarget(t, t.TempDir(), "files/two"); string(got) != "two" {
		t.Errorf("got %q", got)
	}
	// Removed and made again, versions go on where the snapshot left them.
	_, err := o.repo.Propose(t.Context(), Proposal{Changes: []Change{RemoveRole{"files"}}, Accept: []string{"files"}})
	check(t, err)
	o.sign(t, o.holders...)
	o.publish(t)
	o.propose(t, AddRole{Name: "files", Paths: []string{"files/*"}, Holders: holdersOf([]person{judy}), Threshold: 1}, SetTarget{Name: "files/one", Data: []byte("again")})
	o.sign(t, append(o.holders, judy)...)
	p = o.publish(t)
	if p.Versions["files"] != 4 {
		t.Errorf("versions %v", p.Versions)
	}
}

// The order of changes within an event makes no difference to what is checked at its end.
func TestSeveralChangesInOneEvent(t *testing.T) {
	o := newOrg(t)
	in := newP256(t, "@dan")
	o.propose(t, RemoveHolder{"root", "@alice"}, RemoveHolder{"root", "@bob"}, AddHolder{"root", in.Holder}, SetThreshold{"root", 2}, SetPeriod{"root", Period{30, 3}},
		SetPeriod{"timestamp", Period{2, 1}}, SetTarget{Name: "x.json", Data: []byte("x"), Custom: json.RawMessage(`{"a":1}`)}, RemoveTarget{Name: "trusted_root.json"})
	o.sign(t, append(o.holders, in)...)
	p := o.publish(t)
	if d := p.Expires["timestamp"].Sub(o.repo.now()); d > 2*day || d < day {
		t.Errorf("the timestamp expires in %s", d)
	}
	if _, err := os.Stat(filepath.Join(o.dir, "targets", "trusted_root.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed target: %v", err)
	}
	published, err := filepath.Glob(filepath.Join(o.published, "targets", "*.trusted_root.json"))
	if err != nil || len(published) != 1 {
		t.Errorf("clients that have not refreshed ask for it still: %v, %v", published, err)
	}
	s, err := o.repo.load()
	check(t, err)
	if got := s.Root.Signed.Roles["root"]; len(got.KeyIDs) != 2 || slices.ContainsFunc(got.KeyIDs, func(id string) bool { return s.Root.Signed.Keys[id] == nil }) {
		t.Errorf("root: %+v", got)
	}
	if got := string(*s.Targets[metadata.TARGETS].Signed.Targets["x.json"].Custom); !strings.Contains(got, `"a"`) {
		t.Errorf("custom %s", got)
	}
}

func TestTargetsInEachOthersWay(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	deny := func(name string) {
		t.Helper()
		o.revoke(t, map[string][]byte{"revocations/" + name: []byte("{}")})
	}
	deny("a.json")
	o.change(t, SetTarget{Name: "a", Data: []byte("a")})
	for _, c := range []struct {
		why     string
		changes []Change
	}{
		{"below targets/b", []Change{SetTarget{Name: "b", Data: []byte("b")}, SetTarget{Name: "b/c", Data: []byte("c")}}},
		{"below targets/a", []Change{SetTarget{Name: "a/b", Data: []byte("b")}}},
		{"is a directory", []Change{SetTarget{Name: "revocations", Data: []byte("b")}}},
	} {
		unchanged(t, o.dir, func() {
			_, err := o.repo.Propose(t.Context(), Proposal{Changes: c.changes})
			refused(t, err, c.why)
		})
	}
	// What comes in the way while an event is open stops that event, and nothing else.
	o.propose(t, SetTarget{Name: "late", Data: []byte("late")})
	o.sign(t, o.holders...)
	check(t, os.Mkdir(filepath.Join(o.dir, targetsDir, "late"), 0o755))
	_, err := o.repo.Publish(t.Context(), o.online.Signer)
	refused(t, err, "nothing was changed: targets/late is a directory")
	deny("b.json")
	if got := o.revocations(t, ""); len(got) != 2 {
		t.Errorf("clients see %d denials", len(got))
	}
}

// tuf-js counts no signatures by P-384 keys: who such a key leaves without a threshold is told, and whom to ask.
func TestP384IsWarnedOf(t *testing.T) {
	o := newOrg(t) // @carol has a P-384 key
	warnings := func() (by []string, diff string) {
		t.Helper()
		c, err := o.repo.Check()
		check(t, err)
		d, err := o.repo.Diff()
		check(t, err)
		var said []string
		for _, r := range d.Roles {
			said = append(said, r.Warnings...)
		}
		return c.Warnings, strings.Join(said, "\n")
	}
	withdraw := func() { check(t, o.repo.Withdraw(t.Context())) }

	// Two others reach the threshold; whether they did shows when enough have signed.
	o.propose(t, SetTarget{Name: "x.json", Data: []byte("x")})
	if got, diff := warnings(); len(got) != 0 || strings.Contains(diff, "tuf-js") {
		t.Errorf("warns without a need: %q, %q", got, diff)
	}
	o.sign(t, o.holders[0], o.holders[2])
	want := "targets is signed by 1 of 2 as tuf-js 3.1.0 counts, which leaves out the P-384 keys of @carol ("
	if got, _ := warnings(); len(got) != 1 || !strings.HasPrefix(got[0], want) || !strings.HasSuffix(got[0], "ask @bob, too") {
		t.Errorf("warns %q, want %q", got, want)
	}
	if c, err := o.repo.Check(); err != nil || len(c.Problems) != 0 {
		t.Errorf("it stops the event: %v, %v", c.Problems, err)
	}
	o.sign(t, o.holders[1])
	if got, _ := warnings(); len(got) != 0 {
		t.Errorf("warns after @bob signed, too: %q", got)
	}
	withdraw()

	for role, changes := range map[string][]Change{
		"root":        {SetThreshold{"root", 3}},
		"targets":     {RemoveHolder{"targets", "@bob"}},
		"timestamp":   {SetOnline{Online{newECDSA(t, "", elliptic.P384()).Key, "gcpkms:x"}}},
		"revocations": {ReplaceKey{newECDSA(t, "@dave", elliptic.P384()).Holder}, SetThreshold{"revocations", 3}},
		"files":       {AddRole{Name: "files", Paths: []string{"files/*"}, Threshold: 1, Holders: holdersOf(o.holders[2:]), BinBits: 2}},
		"files-…":     {AddRole{Name: "files", Paths: []string{"files/*"}, Threshold: 1, Holders: holdersOf(o.holders[2:]), BinBits: 2}},
	} {
		o.propose(t, changes...)
		got, diff := warnings()
		want := "role " + role + ": tuf-js 3.1.0 does not count signatures by P-384 keys, as of "
		if !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("check warns %q, want %q", got, want)
		}
		if want := strings.TrimSuffix(want, "-…: tuf-js 3.1.0 does not count signatures by P-384 keys, as of "); !strings.Contains(diff, want) || !strings.Contains(diff, "npm's clients would refuse it for good") {
			t.Errorf("those who sign are told %q, want %q", diff, want)
		}
		withdraw()
	}
	// One key of three is no harm, whoever else changes.
	o.propose(t, AddHolder{"root", newP256(t, "@gina").Holder})
	if got, diff := warnings(); len(got) != 0 || strings.Contains(diff, "tuf-js") {
		t.Errorf("warns without a need: %q, %q", got, diff)
	}
}

// Names that a Mac's or a Windows disk takes for one are not given to two targets or roles.
func TestNamesAlike(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	set := func(names ...string) (out []Change) {
		for _, n := range names {
			out = append(out, SetTarget{Name: n, Data: []byte(n)})
		}
		return out
	}
	files := AddRole{Name: "files", Paths: []string{"files/*", "Files/*"}, Threshold: 1, Holders: holdersOf(o.holders[:1]), BinBits: 3}
	o.change(t, append([]Change{files}, set("files/one.json", "dir/a.json", "plain", "Upper/b.json")...)...)
	for want, changes := range map[string][]Change{
		"target TRUSTED_ROOT.json and trusted_root.json are one name": set("TRUSTED_ROOT.json"),
		"target X.json and x.json are one name":                       set("x.json", "X.json"),
		"target files/One.json and files/one.json":                    set("files/One.json"), // in another bin
		"target Files/one.json and files/one.json":                    set("Files/one.json"),
		"target DIR/A.json and dir/a.json":                            set("DIR/A.json"),
		"target upper/B.json and Upper/b.json":                        set("upper/B.json"),
		"target Plain/x and plain":                                    set("Plain/x"),
		"target Dir and dir":                                          set("Dir"),
		"target new/x and New":                                        set("New", "new/x"),
		"target Plain and plain":                                      append([]Change{RemoveTarget{Name: "plain"}}, set("Plain")...),
		"role Files and files":                                        {AddRole{Name: "Files", Paths: []string{"f/*"}, Threshold: 1, Holders: holdersOf(o.holders[:1])}},
		"role Timestamp and timestamp":                                {AddRole{Name: "Timestamp", Paths: []string{"f/*"}, Threshold: 1, Holders: holdersOf(o.holders[:1])}},
		"character 'é' is not allowed":                                set("caf\u00e9"), // and so there is no other way to write it
		"character '\u0301' is not allowed":                           set("cafe\u0301"),
	} {
		unchanged(t, o.dir, func() {
			_, err := o.repo.Propose(t.Context(), Proposal{Changes: changes, Accept: []string{"plain"}})
			refused(t, err, want)
		})
	}
	// Directories may share a name, and a target may be replaced under its own.
	o.change(t, set("Dir/b.json", "files/one.json", "files/two.json", "plain")...)
	// An event in which it slipped in by another way is not published.
	o.propose(t, set("late.json")...)
	o.sign(t, o.holders...)
	check(t, os.WriteFile(filepath.Join(o.dir, targetsDir, "LATE.json"), nil, 0o644))
	c, err := o.repo.Check()
	check(t, err)
	if len(c.Problems) != 1 || !strings.Contains(c.Problems[0], "target late.json and LATE.json are one name") {
		t.Errorf("problems: %q", c.Problems)
	}
	_, err = o.repo.Publish(t.Context(), o.online.Signer)
	refused(t, err, "are one name")
	check(t, os.Remove(filepath.Join(o.dir, targetsDir, "LATE.json")))
	o.publish(t)
	// A tool of somebody's own published both: what is there stays as it is.
	o.force(t, o.online, func(d *draft) {
		for _, c := range set("both.json", "BOTH.json") {
			check(t, c.apply(d))
		}
	}, o.holders...)
	o.change(t, set("both.json", "other.json")...)
}
