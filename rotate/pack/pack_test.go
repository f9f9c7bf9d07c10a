package pack

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/elliptic"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/signer"
)

// keyFile writes the journal's key as an auditor would have it.
func (k *kase) keyFile(t testing.TB) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "journal.pub")
	must(t, os.WriteFile(name, []byte(k.log.key+"\n"), 0o644))
	return name
}

// accepted fails unless both programs accept a pack.
func (k *kase) accepted(t testing.TB, name string) Result {
	t.Helper()
	r := verifyPath(t, name, Options{Journal: k.log.verify})
	if !r.OK() {
		t.Errorf("refused:\n%s", failures(r))
	}
	if out, ok := strangerSays(t, name, k.keyFile(t)); !ok {
		t.Errorf("the second program refuses:\n%s", out)
	}
	return r
}

// refused fails unless both programs refuse a pack, ours for the reason given.
func (k *kase) refused(t testing.TB, name, why string) {
	t.Helper()
	r := verifyPath(t, name, Options{Journal: k.log.verify})
	if r.OK() || !strings.Contains(failures(r), why) {
		t.Errorf("want %q, got:\n%s", why, failures(r))
	}
	if out, ok := strangerSays(t, name, k.keyFile(t)); ok {
		t.Errorf("the second program accepts:\n%s", out)
	}
}

func TestPack(t *testing.T) {
	t.Parallel()
	for _, form := range []Form{Directory, Tar} {
		t.Run(string(form), func(t *testing.T) {
			t.Parallel()
			k := full(t)
			name := k.write(t, form)
			r := k.accepted(t, name)
			if len(r.Warnings) != 0 || len(r.BreakGlass) != 1 || !strings.Contains(r.BreakGlass[0], "bob acted alone") || r.Incident != incidentID || !r.MadeAt.Equal(made) {
				t.Errorf("%+v", r)
			}
			out, _ := strangerSays(t, name)
			if !strings.Contains(out, "BREAK-GLASS") || !strings.Contains(out, "WARNING") || !strings.Contains(out, "accepted") {
				t.Errorf("the second program says\n%s", out)
			}
			if r := verifyPath(t, name, Options{}); !r.OK() || len(r.Warnings) != 1 {
				t.Errorf("with the pack's own key: %+v", r)
			}
			if left := entriesOf(t, filepath.Dir(name)); len(left) != 1 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func entriesOf(t testing.TB, dir string) (out []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

// TestDocumentedByHand does what the pack's own README says.
func TestDocumentedByHand(t *testing.T) {
	t.Parallel()
	k := full(t)
	files := readPack(t, k.write(t, Directory))
	var s sealFile
	decode(t, files[sealName], &s)
	if s.Manifest != inventory.Digest(files[manifestName]) {
		t.Error("seal.json has another digest of manifest.json")
	}
	for name, body := range files {
		if !strings.HasSuffix(name, "plan.jsonl.gz") {
			continue
		}
		zr, err := gzip.NewReader(bytes.NewReader(body))
		must(t, err)
		raw, err := io.ReadAll(zr)
		must(t, err)
		digest := strings.TrimPrefix(inventory.Digest(raw), "sha256:")
		if name != "plans/"+digest+"/plan.jsonl.gz" || !bytes.Contains(files[readmeName], []byte("zcat "+name)) {
			t.Errorf("%s has the digest %s", name, digest)
		}
	}
}

func TestSameContentsSameBytes(t *testing.T) {
	t.Parallel()
	for _, form := range []Form{Directory, Tar} {
		k := full(t)
		c := k.contents(t)
		var s Seal
		once := func(seal func(string) (Seal, error)) map[string][]byte {
			dir := filepath.Join(t.TempDir(), "pack")
			_, err := Write(dir, form, c, seal)
			must(t, err)
			if form == Tar {
				raw, err := os.ReadFile(dir)
				must(t, err)
				return map[string][]byte{"tar": raw}
			}
			return readPack(t, dir)
		}
		first := once(func(m string) (_ Seal, err error) {
			s, err = k.log.seal(t, int64(len(k.log.lines)))(m)
			return s, err
		})
		if second := once(func(string) (Seal, error) { return s, nil }); !reflect.DeepEqual(first, second) {
			t.Errorf("%s: the same contents give other bytes", form)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	k := newKase(t)
	base := t.TempDir()
	rapid.Check(t, func(r *rapid.T) {
		k.log = newLog(t)
		for range rapid.IntRange(0, 40).Draw(r, "earlier entries") {
			k.log.add(t, "earlier", "")
		}
		object := rapid.Custom(func(r *rapid.T) []byte {
			return encode(t, map[string]string{"v": rapid.String().Draw(r, "value")})
		})
		before, after := rapid.SliceOf(object).Draw(r, "before"), rapid.SliceOf(object).Draw(r, "after")
		k.items, k.decisions = nil, map[string]int64{}
		for n, d := range rapid.SliceOf(rapid.SampledFrom([]string{"none", "resign", "hold", "deny"})).Draw(r, "decisions") {
			k.items = append(k.items, encode(t, map[string]any{"seq": n + 1, "decision": d}))
			k.decisions[d]++
		}
		k.change = func(c *Contents) {
			c.Before, c.After, c.Receipts = each(before...), each(after...), rapid.SliceOf(object).Draw(r, "receipts")
			for n := range rapid.IntRange(0, 5).Draw(r, "versions") {
				c.History = append(c.History, encode(t, map[string]any{"id": incidentID, "n": n}))
			}
		}
		form := rapid.SampledFrom([]Form{Directory, Tar}).Draw(r, "form")
		dir, err := os.MkdirTemp(base, "")
		must(t, err)
		name := filepath.Join(dir, "pack")
		c := k.contents(t)
		if _, err := Write(name, form, c, k.log.seal(t, int64(len(k.log.lines)))); err != nil {
			r.Fatal(err)
		}
		res := verifyPath(t, name, Options{Journal: k.log.verify})
		if !res.OK() {
			r.Fatalf("refused: %s", failures(res))
		}
		if want := fmt.Sprintf("%d before, %d after", len(before), len(after)); res.Checks[len(res.Checks)-1].Detail != want {
			r.Errorf("%s, want %s", res.Checks[len(res.Checks)-1].Detail, want)
		}
		fsys, closer, err := Open(name)
		must(t, err)
		defer closer.Close()
		raw, err := fs.ReadFile(fsys, beforeName)
		must(t, err)
		zr, err := gzip.NewReader(bytes.NewReader(raw))
		must(t, err)
		got, err := io.ReadAll(zr)
		must(t, err)
		if want := bytes.Join(append(before, nil), []byte{'\n'}); !bytes.Equal(got, want) {
			r.Errorf("read %q, wrote %q", got, want)
		}
	})
}

// TestAttack is what somebody who has the pack does to it, with both programs.
func TestAttack(t *testing.T) {
	t.Parallel()
	t.Run("report", attackReport)
	t.Run("every file", attackFiles)
	t.Run("tar", attackTar)
	t.Run("people", attackPeople)
	t.Run("journal", attackJournal)
	t.Run("resealed", attackResealed)
	t.Run("hostile", attackHostile)
}

// attackFiles changes every file in every way; each must be found by both.
func attackFiles(t *testing.T) {
	t.Parallel()
	k := full(t)
	files := readPack(t, k.write(t, Directory))
	key := k.keyFile(t)
	dir := filepath.Join(t.TempDir(), "pack")
	lay := func(t *testing.T, files map[string][]byte) {
		t.Helper()
		must(t, os.RemoveAll(dir))
		for name, body := range files {
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
			must(t, os.WriteFile(filepath.Join(dir, name), body, 0o644))
		}
	}
	// Ours sees every change; the second program, which is started anew for
	// each, sees those with both.
	try := func(t *testing.T, what string, files map[string][]byte, both bool) {
		t.Helper()
		mem := fstest.MapFS{}
		for name, body := range files {
			mem[name] = &fstest.MapFile{Data: body}
		}
		if r := Verify(mem, Options{Journal: k.log.verify}); r.OK() {
			t.Errorf("%s: accepted", what)
		}
		if both {
			lay(t, files)
			if out, ok := strangerSays(t, dir, key); ok {
				t.Errorf("%s: the second program accepts\n%s", what, out)
			}
		}
	}
	with := func(name string, body []byte) map[string][]byte {
		out := maps.Clone(files)
		out[name] = body
		return out
	}
	lay(t, files)
	k.accepted(t, dir)
	list := names(files)
	for n, name := range list {
		body := files[name]
		step := max(1, len(body)/20)
		if name == sealName || name == manifestName {
			step = 1 // nothing but their form guards them
		}
		for at := 0; at < len(body); at += step {
			flipped := bytes.Clone(body)
			flipped[at] ^= 1 << (at % 8)
			try(t, fmt.Sprintf("%s, byte %d flipped", name, at), with(name, flipped), at == 0 || at >= len(body)-step || at%(len(body)/4+1) == 0)
		}
		try(t, name+" appended", with(name, append(bytes.Clone(body), '\n')), true)
		try(t, name+" truncated", with(name, body[:len(body)-1]), true)
		try(t, name+" emptied", with(name, nil), true)
		removed := maps.Clone(files)
		delete(removed, name)
		try(t, name+" removed", removed, true)
		other := list[(n+1)%len(list)]
		swapped := with(name, files[other])
		swapped[other] = body
		try(t, name+" swapped with "+other, swapped, true)
	}
	for _, added := range []string{"extra", ".hidden", "plans/extra", "history/0099.json", "README.MD", "journal/entries.jsonl", "approvers/" + strings.Repeat("0", 64) + ".json"} {
		try(t, added+" added", with(added, []byte("{}")), true)
	}
	lay(t, files)
	must(t, os.Mkdir(filepath.Join(dir, "empty"), 0o755))
	if verifyPath(t, dir, Options{Journal: k.log.verify}).OK() {
		t.Error("a directory added: accepted")
	}
	// The same bytes by another way are no file of the pack.
	lay(t, files)
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, files[readmeName], 0o644))
	must(t, os.Remove(filepath.Join(dir, readmeName)))
	must(t, os.Symlink(outside, filepath.Join(dir, readmeName)))
	k.refused(t, dir, "README.md")
	for _, name := range []string{manifestName, sealName} {
		lay(t, files)
		must(t, os.Rename(filepath.Join(dir, name), filepath.Join(dir, "../"+name)))
		must(t, os.Symlink("../"+name, filepath.Join(dir, name)))
		if verifyPath(t, dir, Options{Journal: k.log.verify}).OK() {
			t.Errorf("%s is a link: accepted", name)
		}
	}
	lay(t, files)
	must(t, os.Remove(filepath.Join(dir, readmeName)))
	must(t, syscall.Mkfifo(filepath.Join(dir, readmeName), 0o644))
	k.refused(t, dir, "no regular file")
}

// attackTar flips every byte of a tar, also those between the files.
func attackTar(t *testing.T) {
	t.Parallel()
	k := full(t)
	raw, err := os.ReadFile(k.write(t, Tar))
	must(t, err)
	accepts := func(raw []byte) bool {
		a, err := newArchive(bytes.NewReader(raw), int64(len(raw)))
		return err == nil && Verify(a, Options{Journal: k.log.verify}).OK()
	}
	if !accepts(raw) {
		t.Fatal("the pack itself is refused")
	}
	key, name := k.keyFile(t), filepath.Join(t.TempDir(), "pack.tar")
	both := func(what string, raw []byte) {
		t.Helper()
		if accepts(raw) {
			t.Errorf("%s: accepted", what)
		}
		must(t, os.WriteFile(name, raw, 0o644))
		if out, ok := strangerSays(t, name, key); ok {
			t.Errorf("%s: the second program accepts\n%s", what, out)
		}
	}
	for at := 0; at < len(raw); at += 7 {
		flipped := bytes.Clone(raw)
		flipped[at] ^= 1 << (at % 8)
		if accepts(flipped) {
			t.Errorf("byte %d flipped: accepted", at)
		}
		if at%(7*97) == 0 {
			both(fmt.Sprintf("byte %d flipped", at), flipped)
		}
	}
	both("a trailing byte", append(bytes.Clone(raw), 0))
	both("a trailing block", append(bytes.Clone(raw), make([]byte, block)...))
	both("half an end", raw[:len(raw)-block])
	both("no end", raw[:len(raw)-2*block])
	both("nothing", nil)
	both("only an end", make([]byte, 2*block))
	both("the first file twice", append(bytes.Clone(raw[:2*block]), raw...))
	for what, h := range map[string]struct {
		name string
		at   time.Time
	}{
		"a path that leads out": {"../README.md", made}, "an absolute path": {"/README.md", made}, "a path with a dot": {"./README.md", made},
		"another time": {readmeName, made.Add(time.Second)}, "a backslash": {`history\0001.json`, made},
	} {
		header, err := tarHeader(h.name, 0, h.at)
		must(t, err)
		both(what, append(header, raw...))
	}
	both("a file that is larger than the tar", func() []byte {
		header, err := tarHeader(readmeName, 1<<32, made)
		must(t, err)
		return append(header, raw...)
	}())
}

// TestArchive holds the tar to what fs.FS promises.
func TestArchive(t *testing.T) {
	t.Parallel()
	k := full(t)
	fsys, closer, err := Open(k.write(t, Tar))
	must(t, err)
	defer closer.Close()
	if err := fstest.TestFS(fsys, append(required(), manifestName, sealName)...); err != nil {
		t.Error(err)
	}
}

// attackPeople is packs that their writer made wrong: all digests are right,
// what was signed is not.
func attackPeople(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(*testing.T, *kase)
		why    string // "": accepted
		say    string // by an accepting one
	}{
		{"as it should be", func(*testing.T, *kase) {}, "", "3 of 2 approvals: bob (key), carol (SSH key), dave (key)"},
		{"too few", func(_ *testing.T, k *kase) { k.by = []actor{k.dave} }, "1 of 2 approvals", ""},
		{"too few, but nothing was done", func(_ *testing.T, k *kase) { k.by, k.applied = []actor{k.dave}, false }, "", "nothing was to be done"},
		{"too few, glass broken", func(_ *testing.T, k *kase) { k.by, k.glass = nil, true }, "", "the glass was broken"},
		{"the role is missing", func(_ *testing.T, k *kase) { k.by = []actor{k.bob, k.carol} }, "role security 0 of 1", ""},
		{"the proposer approves", func(_ *testing.T, k *kase) { k.by = []actor{k.alice, k.dave} }, "1 of 2 approvals", ""},
		{"the proposer approves under another name", func(_ *testing.T, k *kase) {
			k.header["proposer"] = "Bobby"
			k.set.People[1].Aliases = []string{"bobby"}
			k.by = []actor{k.bob, k.dave}
		}, "1 of 2 approvals", ""},
		{"nobody proved who proposed", func(_ *testing.T, k *kase) { k.proposal, k.by = false, []actor{k.bob, k.dave} }, "2 of 3 approvals", ""},
		{"nobody proved who proposed, one more approves", func(_ *testing.T, k *kase) { k.proposal, k.set.Roles["security"] = false, 0 }, "", "3 of 3"},
		{"a robot approves", func(_ *testing.T, k *kase) {
			k.set.People[1].ProposesOnly = true
			k.by = []actor{k.bob, k.dave}
		}, "1 of 2 approvals", ""},
		{"the same person twice", func(_ *testing.T, k *kase) { k.by = []actor{k.dave, k.dave} }, "1 of 2 approvals", ""},
		{"a stranger approves", func(t *testing.T, k *kase) { k.by = append(k.by, edActor(t, "mallory")) }, "not among the approvers", ""},
		{"a stranger approves as bob", func(t *testing.T, k *kase) { k.by = []actor{edActor(t, "bob"), k.dave} }, "approval by bob does not verify", ""},
		{"a stranger approves as carol", func(t *testing.T, k *kase) { k.by = []actor{inProcessSSH(t, "carol"), k.dave} }, "approval by carol does not verify", ""},
		{"SSH where a key is enrolled", func(t *testing.T, k *kase) { k.by = []actor{inProcessSSH(t, "bob"), k.dave} }, "approval by bob does not verify", ""},
		{"keyless where a key is enrolled", func(_ *testing.T, k *kase) { k.by = []actor{keylessActor("bob"), k.dave} }, "none of their credentials is a keyless", ""},
		{"the key is under an incident", func(t *testing.T, k *kase) {
			_, id, err := signer.ParsePublicKey([]byte(k.dave.Credentials[0].PublicKey))
			must(t, err)
			k.header["incidents"] = []any{map[string]any{"signers": []signer.Identity{id}}}
		}, "itself under an incident", ""},
		{"a proposal as an approval", func(t *testing.T, k *kase) {
			k.change = func(c *Contents) { c.Plans[0].Approvals[0] = c.Plans[0].Proposal }
		}, "a proposal is no approval", ""},
		{"an approval as the proposal", func(t *testing.T, k *kase) {
			k.change = func(c *Contents) { c.Plans[0].Proposal = c.Plans[0].Approvals[0] }
		}, "is an approval", ""},
		{"an approval of another plan", func(t *testing.T, k *kase) {
			k.change = func(c *Contents) {
				c.Plans[0].Approvals[0] = k.approval(t, k.bob, "plan", "sha256:"+strings.Repeat("0", 64), incidentID, false)
			}
		}, "approves plan sha256:000", ""},
		{"an approval of a withdrawal", func(t *testing.T, k *kase) {
			k.change = func(c *Contents) {
				c.Plans[0].Approvals[0] = k.approval(t, k.bob, "withdrawal", c.Plans[0].Digest, incidentID, false)
			}
		}, "approves withdrawal", ""},
		{"an approval for another incident", func(t *testing.T, k *kase) {
			k.change = func(c *Contents) {
				c.Plans[0].Approvals[0] = k.approval(t, k.bob, "plan", c.Plans[0].Digest, "INC-2", false)
			}
		}, "approval by bob does not verify", ""},
		{"break-glass with another reason", func(t *testing.T, k *kase) {
			k.glass = true
			k.change = func(c *Contents) {
				c.Plans[0].BreakGlass[0] = bytes.Replace(c.Plans[0].BreakGlass[0], []byte("answers"), []byte("objects"), 1)
			}
		}, "by bob does not verify", ""},
		{"the approvers are not those of the plan", func(t *testing.T, k *kase) {
			k.change = func(c *Contents) { c.Approvers[0] = append(c.Approvers[0], ' ') }
		}, "is missing", ""},
		{"the totals are not those of the items", func(_ *testing.T, k *kase) { k.decisions["hold"] = 0 }, "its totals say", ""},
		{"an item is missing", func(_ *testing.T, k *kase) { k.items = k.items[1:]; k.decisions["resign"] = 1 }, "item 2 stands at place 1", ""},
		{"the plan is of another incident", func(_ *testing.T, k *kase) { k.header["incident"] = "INC-2" }, `about incident "INC-2"`, ""},
		{"a motion of a low severity", func(_ *testing.T, k *kase) {
			k.motion, k.withdraws, k.set.Severity["low"] = true, "low", 2
			k.set.Severity["critical"] = 3
		}, "", "2 of 2 approvals: bob (key), dave (key)"},
		{"a motion of a critical severity", func(_ *testing.T, k *kase) {
			k.motion, k.withdraws, k.set.Severity["critical"] = true, "critical", 3
		}, "2 of 3 approvals: bob (key), dave (key); no quorum", ""},
		{"a motion about an unknown version", func(_ *testing.T, k *kase) {
			k.motion, k.set.Severity["critical"] = true, 3
		}, "2 of 3 approvals: bob (key), dave (key); no quorum", ""},
		{"another expiry than was signed", func(_ *testing.T, k *kase) { k.header["expires_at"] = expires.AddDate(1, 0, 0) }, "does not verify", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := newKase(t)
			tc.change(t, k)
			name := k.write(t, Directory)
			if tc.why != "" {
				r := verifyPath(t, name, Options{Journal: k.log.verify})
				if r.OK() || !strings.Contains(failures(r), tc.why) {
					t.Errorf("want %q, got:\n%s", tc.why, failures(r))
				}
				// The second program leaves totals and incidents to the first.
				if out, ok := strangerSays(t, name, k.keyFile(t)); ok && !slices.Contains([]string{"its totals say", "item 2 stands at place 1", "itself under an incident", "none of their credentials is a keyless"}, tc.why) {
					t.Errorf("the second program accepts:\n%s", out)
				}
				return
			}
			r := k.accepted(t, name)
			if !slices.ContainsFunc(r.Checks, func(c Check) bool { return strings.Contains(c.Detail, tc.say) }) {
				t.Errorf("nothing says %q: %+v", tc.say, r.Checks)
			}
		})
	}
}

// TestCredentials verifies one approval with every kind of key.
func TestCredentials(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(testing.TB, string) actor{
		"P-256":    func(t testing.TB, n string) actor { return ecdsaActor(t, n, elliptic.P256()) },
		"P-384":    func(t testing.TB, n string) actor { return ecdsaActor(t, n, elliptic.P384()) },
		"P-521":    func(t testing.TB, n string) actor { return ecdsaActor(t, n, elliptic.P521()) },
		"Ed25519":  edActor,
		"RSA":      rsaActor,
		"SSH":      func(t testing.TB, n string) actor { return sshActor(t, n, "ed25519") },
		"SSH RSA":  func(t testing.TB, n string) actor { return sshActor(t, n, "rsa", "-b", "2048") },
		"SSH P256": func(t testing.TB, n string) actor { return sshActor(t, n, "ecdsa", "-b", "256") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKase(t)
			k.bob = make(t, "bob")
			k.set.People[1] = k.bob.person
			k.by = []actor{k.bob, k.dave}
			k.accepted(t, k.write(t, Directory))
			message := []byte("message")
			if _, err := k.bob.signed(k.bob.sign(t, message), []byte("another"), nil, nil); err == nil {
				t.Error("a signature over something else verifies")
			}
		})
	}
}

func TestSSHNamespace(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("ssh-keygen is not installed")
	}
	key := filepath.Join(t.TempDir(), "id")
	b := sshActorAt(t, "bob", key, "ed25519")
	// The same key may sign commits every day.
	sig := sshKeygenSign(t, key, "git", []byte("m"))
	if _, err := b.signed(sig, []byte("m"), nil, nil); err == nil || !strings.Contains(err.Error(), "ssh-keygen -Y sign -n file") {
		t.Errorf("a signature for git: %v", err)
	}
}

type judge struct{ sig inventory.Signature }

func (j judge) Blob(bundle, content []byte) (inventory.Signature, error) {
	if string(bundle) != keyless || !bytes.Contains(content, []byte(approvalSchema)) {
		return inventory.Signature{}, errors.New("unknown bundle")
	}
	return j.sig, nil
}

func TestKeyless(t *testing.T) {
	t.Parallel()
	k := newKase(t)
	k.by = []actor{k.erin, k.dave}
	name := k.write(t, Directory)
	r := k.accepted(t, name)
	unchecked := slices.ContainsFunc(r.Checks, func(c Check) bool {
		return c.Unchecked && strings.Contains(c.Detail, "erin (keyless: not checked here")
	})
	if !unchecked {
		t.Errorf("it is not said that nobody checked: %+v", r.Checks)
	}
	erin := inventory.Signature{Verified: true, Signer: signer.Identity{Kind: signer.Keyless, Issuer: "https://issuer.example", Subject: "erin@example.com"}}
	r = verifyPath(t, name, Options{Journal: k.log.verify, Judge: judge{erin}})
	if !r.OK() || slices.ContainsFunc(r.Checks, func(c Check) bool { return c.Unchecked }) {
		t.Errorf("with a judge: %+v", r.Checks)
	}
	for what, change := range map[string]func(*inventory.Signature){
		"another subject": func(s *inventory.Signature) { s.Signer.Subject = "mallory@example.com" },
		"another issuer":  func(s *inventory.Signature) { s.Signer.Issuer = "https://evil.example" },
		"a key":           func(s *inventory.Signature) { s.Signer.Kind = signer.Key },
		"not verified":    func(s *inventory.Signature) { s.Verified = false },
	} {
		other := erin
		change(&other)
		if verifyPath(t, name, Options{Journal: k.log.verify, Judge: judge{other}}).OK() {
			t.Errorf("%s: accepted", what)
		}
	}
}

// attackJournal is packs that another journal, or another part of it, vouches for.
func attackJournal(t *testing.T) {
	t.Parallel()
	size := func(k *kase) int64 { return int64(len(k.log.lines)) }
	for name, tc := range map[string]struct {
		seal func(t *testing.T, k *kase, m string) (Seal, error)
		why  string
	}{
		"an entry that seals something else": {func(t *testing.T, k *kase, m string) (Seal, error) {
			return k.log.seal(t, size(k))(inventory.Digest(nil))
		}, "does not seal this manifest"},
		"an entry that does something else": {func(t *testing.T, k *kase, m string) (Seal, error) {
			old := size(k)
			n := k.log.add(t, "signature.seen", m)
			p, err := tlog.ProveTree(n+1, old, tlog.HashReaderFunc(k.log.read))
			return Seal{k.log.entry(t, n, n+1), k.log.checkpoint(t, n+1), raws(p)}, err
		}, "does not seal this manifest"},
		"an entry that is not in the journal": {func(t *testing.T, k *kase, m string) (Seal, error) {
			s, err := k.log.seal(t, size(k))(m)
			s.Entry.Line = bytes.Replace(s.Entry.Line, []byte("alice"), []byte("mallo"), 1)
			return s, err
		}, "is not in the journal"},
		"a proof that is too long": {func(t *testing.T, k *kase, m string) (Seal, error) {
			s, err := k.log.seal(t, size(k))(m)
			s.Entry.Hashes = append(s.Entry.Hashes, make([]byte, 32))
			return s, err
		}, "is not in the journal"},
		"a proof that is too short": {func(t *testing.T, k *kase, m string) (Seal, error) {
			s, err := k.log.seal(t, size(k))(m)
			s.Entry.Hashes = s.Entry.Hashes[1:]
			return s, err
		}, "is not in the journal"},
		"a hash that is none": {func(t *testing.T, k *kase, m string) (Seal, error) {
			s, err := k.log.seal(t, size(k))(m)
			s.Entry.Hashes[0] = s.Entry.Hashes[0][1:]
			return s, err
		}, "has 31 bytes"},
		"another place": {func(t *testing.T, k *kase, m string) (Seal, error) {
			s, err := k.log.seal(t, size(k))(m)
			s.Entry.Index++
			return s, err
		}, "is shown at place"},
		"a journal that was rewritten": {func(t *testing.T, k *kase, m string) (Seal, error) {
			old := size(k)
			k.log.lines, k.log.hashes = nil, nil
			for range old {
				k.log.add(t, "rewritten", "")
			}
			return k.log.seal(t, old)(m)
		}, "does not begin with"},
		"no consistency": {func(t *testing.T, k *kase, m string) (Seal, error) {
			s, err := k.log.seal(t, size(k))(m)
			s.Consistency = nil
			return s, err
		}, "does not begin with"},
		"another key": {func(t *testing.T, k *kase, m string) (Seal, error) {
			secret, _, err := note.GenerateKey(nil, "reseal.test")
			must(t, err)
			k.log.signer, err = note.NewSigner(secret)
			must(t, err)
			return k.log.seal(t, size(k))(m)
		}, "checkpoint"},
		"a second signature": {func(t *testing.T, k *kase, m string) (Seal, error) {
			s, err := k.log.seal(t, size(k))(m)
			s.Checkpoint = append(s.Checkpoint, []byte("— other AAAAAA==\n")...)
			return s, err
		}, "checkpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKase(t)
			c := k.contents(t)
			dir := filepath.Join(t.TempDir(), "pack")
			_, err := Write(dir, Directory, c, func(m string) (Seal, error) { return tc.seal(t, k, m) })
			must(t, err)
			k.refused(t, dir, tc.why)
		})
	}
	t.Run("a document that was never journaled", func(t *testing.T) {
		t.Parallel()
		for _, forget := range []string{`{"id":"INC-1","title":"last"}`, `{"id":"INC-1","title":"first"}`} {
			k := newKase(t)
			k.forget = inventory.Digest([]byte(forget))
			k.refused(t, k.write(t, Directory), "never journaled")
		}
	})
	t.Run("an approval that was journaled too late", func(t *testing.T) {
		t.Parallel()
		k := newKase(t)
		k.change = func(*Contents) { k.log.late = expires.Sub(made) + time.Hour }
		k.refused(t, k.write(t, Directory), "had expired")
	})
	t.Run("a key of another journal", func(t *testing.T) {
		t.Parallel()
		k := newKase(t)
		name := k.write(t, Directory)
		_, key, err := note.GenerateKey(nil, "reseal.test")
		must(t, err)
		k.log.key = key
		k.log.verify, err = note.NewVerifier(key)
		must(t, err)
		k.refused(t, name, "another journal")
	})
	t.Run("entries out of order", func(t *testing.T) {
		t.Parallel()
		k := newKase(t)
		c := k.contents(t)
		size := int64(len(k.log.lines))
		c.Entries = func(yield func(Entry, error) bool) {
			_ = yield(k.log.entry(t, 1, size), nil) && yield(k.log.entry(t, 0, size), nil)
		}
		if _, err := Write(filepath.Join(t.TempDir(), "pack"), Directory, c, k.log.seal(t, size)); err == nil || !strings.Contains(err.Error(), "entry 0 comes after entry 1") {
			t.Errorf("got %v", err)
		}
	})
}

// reseal changes files of a pack and lists and seals them anew, as somebody can
// who has the journal's key: what is left are the rules.
func (k *kase) reseal(t testing.TB, dir string, change func(files map[string][]byte, m *Manifest)) {
	t.Helper()
	files := readPack(t, dir)
	var m Manifest
	decode(t, files[manifestName], &m)
	delete(files, manifestName)
	delete(files, sealName)
	var refs Manifest
	change(files, &refs)
	if refs.Plans != nil {
		m.Plans = refs.Plans
	}
	if refs.Schema != "" {
		m.Schema = refs.Schema
	}
	m.Files = refs.Files
	if m.Files == nil {
		for _, name := range names(files) {
			m.Files = append(m.Files, File{name, int64(len(files[name])), strings.TrimPrefix(inventory.Digest(files[name]), "sha256:")})
		}
	}
	raw, err := marshal(m)
	must(t, err)
	c, err := journal.OpenCheckpoint(files[checkpointName], k.log.verify)
	must(t, err)
	s, err := k.log.seal(t, c.Size)(inventory.Digest(raw))
	must(t, err)
	files[manifestName] = raw
	files[sealName], err = marshal(sealFile{SealSchema, inventory.Digest(raw), s.Entry.proven(), string(s.Checkpoint), s.Consistency})
	must(t, err)
	must(t, os.RemoveAll(dir))
	for name, body := range files {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), body, 0o644))
	}
}

func compress(t testing.TB, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	_, err := zw.Write(body)
	must(t, errors.Join(err, zw.Close()))
	return b.Bytes()
}

func attackResealed(t *testing.T) {
	t.Parallel()
	plan := func(files map[string][]byte) string {
		for name := range files {
			if strings.HasSuffix(name, "plan.jsonl.gz") {
				return name
			}
		}
		return ""
	}
	for name, tc := range map[string]struct {
		change func(t *testing.T, files map[string][]byte, m *Manifest)
		why    string // "": still a good pack
		ours   bool   // only ours must see it
	}{
		"nothing": {func(*testing.T, map[string][]byte, *Manifest) {}, "", false},
		"a plan that is not what its directory says": {func(t *testing.T, files map[string][]byte, _ *Manifest) {
			files[plan(files)] = compress(t, []byte("{}\n{}\n"))
		}, "another plan", false},
		"a plan that is cut off": {func(t *testing.T, files map[string][]byte, _ *Manifest) {
			files[plan(files)] = compress(t, []byte("{}\n{}"))
		}, "cut off", false},
		"a plan that is empty":   {func(t *testing.T, files map[string][]byte, _ *Manifest) { files[plan(files)] = compress(t, nil) }, "another plan", false},
		"a plan that is no gzip": {func(t *testing.T, files map[string][]byte, _ *Manifest) { files[plan(files)] = []byte("{}\n{}\n") }, "EOF", false},
		"a bomb": {func(t *testing.T, files map[string][]byte, _ *Manifest) {
			files[afterName] = compress(t, bytes.Repeat([]byte("{"+strings.Repeat(" ", 1<<16)+"}\n"), 2000))
		}, "longer than any pack needs", true},
		"a line without an end": {func(t *testing.T, files map[string][]byte, _ *Manifest) {
			files[beforeName] = compress(t, bytes.Repeat([]byte("x"), maxLine+2))
		}, "longer than any pack needs", true},
		"an incident of another name": {func(t *testing.T, files map[string][]byte, _ *Manifest) {
			files[incidentName] = []byte(`{"id":"INC-2"}`)
		}, `of incident "INC-2"`, false},
		"statements that are none": {func(t *testing.T, files map[string][]byte, _ *Manifest) { files[afterName] = compress(t, []byte("\n")) }, "no JSON object", true},
		"a plan that nothing names": {func(t *testing.T, files map[string][]byte, m *Manifest) {
			m.Plans = []PlanRef{{"sha256:" + strings.Repeat("0", 64), true}}
		}, "belongs to nothing", false},
		"a file that no pack has": {func(t *testing.T, files map[string][]byte, _ *Manifest) { files["run.sh"] = []byte("x") }, "no file of a pack", true},
		"another schema":          {func(t *testing.T, files map[string][]byte, m *Manifest) { m.Schema = "reseal.evidence/v2" }, "its schema is", false},
		"a file that leads out": {func(t *testing.T, files map[string][]byte, m *Manifest) {
			m.Files = []File{{"../outside", 0, strings.Repeat("0", 64)}}
		}, "no path in a pack", false},
		"a file that is missing": {func(t *testing.T, files map[string][]byte, m *Manifest) { delete(files, readmeName) }, "README.md is missing", true},
		"two files of one name": {func(t *testing.T, files map[string][]byte, m *Manifest) {
			files["revocations/a.json"], files["revocations/A.json"] = []byte("{}"), []byte("{}")
		}, "there twice", true},
		"a document that is too large": {func(t *testing.T, files map[string][]byte, m *Manifest) {
			files[incidentName] = append([]byte(`{"id":"INC-1"}`), bytes.Repeat([]byte(" "), maxDocument)...)
		}, "longer than any pack needs", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKase(t)
			dir := k.write(t, Directory)
			k.reseal(t, dir, func(files map[string][]byte, m *Manifest) { tc.change(t, files, m) })
			switch {
			case tc.why == "":
				k.accepted(t, dir)
			case tc.ours:
				if r := verifyPath(t, dir, Options{Journal: k.log.verify}); r.OK() || !strings.Contains(failures(r), tc.why) {
					t.Errorf("want %q, got:\n%s", tc.why, failures(r))
				}
			default:
				k.refused(t, dir, tc.why)
			}
		})
	}
}

// attackHostile is file systems that are no packs at all.
func attackHostile(t *testing.T) {
	t.Parallel()
	k := newKase(t)
	for name, fsys := range map[string]fs.FS{
		"nothing":               fstest.MapFS{},
		"no JSON":               fstest.MapFS{manifestName: {Data: []byte("x")}},
		"null":                  fstest.MapFS{manifestName: {Data: []byte("null\n")}},
		"a manifest too large":  fstest.MapFS{manifestName: {Data: bytes.Repeat([]byte(" "), maxDocument+1)}},
		"a directory":           fstest.MapFS{manifestName + "/x": {Data: []byte("x")}},
		"fields in other cases": fstest.MapFS{manifestName: {Data: []byte(`{"Schema":"` + Schema + `"}`)}},
	} {
		if r := Verify(fsys, Options{Journal: k.log.verify}); r.OK() || len(r.Checks) != 1 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// What is said of a pack goes to a terminal.
	k.by = []actor{{person{Name: "eve\x1b[2Jil"}, func(testing.TB, []byte) string { return "x" }}}
	k.set.People = append(k.set.People, k.by[0].person)
	for _, c := range verifyPath(t, k.write(t, Directory), Options{}).Checks {
		if strings.ContainsAny(c.Detail, "\x1b\n") {
			t.Errorf("%q", c.Detail)
		}
	}
}

// TestFault breaks off a write at every step: under the final name there is
// nothing, and nothing is left behind.
func TestFault(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	bad := func(yield func([]byte, error) bool) { _ = yield([]byte("{}"), nil) && yield(nil, broken) }
	for name, change := range map[string]func(*Contents){
		"plan":             func(c *Contents) { c.Plans[0].Lines = bad },
		"before":           func(c *Contents) { c.Before = bad },
		"after":            func(c *Contents) { c.After = bad },
		"entries":          func(c *Contents) { c.Entries = func(yield func(Entry, error) bool) { yield(Entry{}, broken) } },
		"plan changed":     func(c *Contents) { c.Plans[0].Lines = each([]byte("{}")) },
		"no digest":        func(c *Contents) { c.Plans[0].Digest = "sha256:../../x" },
		"plan twice":       func(c *Contents) { c.Plans = append(c.Plans, c.Plans[0]) },
		"incident":         func(c *Contents) { c.Incident = []byte("[]") },
		"nameless":         func(c *Contents) { c.Incident = []byte("{}") },
		"time":             func(c *Contents) { c.MadeAt = c.MadeAt.Add(1) },
		"line break":       func(c *Contents) { c.Before = each([]byte("a\nb")) },
		"revocation":       func(c *Contents) { c.Revocations = map[string][]byte{"../x": nil} },
		"revocation cases": func(c *Contents) { c.Revocations = map[string][]byte{"a": nil, "A": nil} },
		"too large":        func(c *Contents) { c.Receipts = [][]byte{make([]byte, maxDocument+1)} },
		"seal":             nil,
	} {
		for _, form := range []Form{Directory, Tar} {
			t.Run(name+" "+string(form), func(t *testing.T) {
				t.Parallel()
				k := newKase(t)
				c := k.contents(t)
				seal := k.log.seal(t, int64(len(k.log.lines)))
				if change != nil {
					change(&c)
				} else {
					seal = func(string) (Seal, error) { return Seal{}, broken }
				}
				dir := t.TempDir()
				_, err := Write(filepath.Join(dir, "pack"), form, c, seal)
				if err == nil {
					t.Error("written all the same")
				}
				if left := entriesOf(t, dir); len(left) != 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		}
	}
	t.Run("exists", func(t *testing.T) {
		k := newKase(t)
		for _, form := range []Form{Directory, Tar} {
			dir := t.TempDir()
			name := filepath.Join(dir, "pack")
			must(t, os.WriteFile(name, []byte("mine"), 0o644))
			c := k.contents(t)
			if _, err := Write(name, form, c, k.log.seal(t, int64(len(k.log.lines)))); err == nil || !strings.Contains(err.Error(), "never overwritten") {
				t.Errorf("%s: %v", form, err)
			}
			// It can also come while the pack is being written.
			must(t, os.Remove(name))
			_, err := Write(name, form, c, func(m string) (Seal, error) {
				must(t, os.WriteFile(name, []byte("mine"), 0o644))
				return k.log.seal(t, int64(len(k.log.lines)))(m)
			})
			if got, _ := os.ReadFile(name); err == nil || string(got) != "mine" || len(entriesOf(t, dir)) != 1 {
				t.Errorf("%s: overwritten while it was written: %v", form, err)
			}
		}
	})
	t.Run("killed", func(t *testing.T) {
		// Another process is killed when everything is written but the seal.
		for _, form := range []Form{Directory, Tar} {
			dir := t.TempDir()
			name := filepath.Join(dir, "pack")
			c := exec.Command(os.Args[0], "-test.run=^TestHelperWrite$")
			c.Env = append(os.Environ(), "PACK_TARGET="+name, "PACK_FORM="+string(form))
			out, err := c.StdoutPipe()
			must(t, err)
			must(t, c.Start())
			said, err := bufio.NewReader(out).ReadString('\n')
			if err != nil || said != "sealing\n" {
				t.Errorf("%q, %v", said, err)
			}
			must(t, c.Process.Kill())
			if err := c.Wait(); err == nil {
				t.Error("it was not killed")
			}
			if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("an unsealed pack is there: %v", err)
			}
			// Written anew, it is whole.
			k := newKase(t)
			contents := k.contents(t)
			_, err = Write(name, form, contents, k.log.seal(t, int64(len(k.log.lines))))
			must(t, err)
			k.accepted(t, name)
		}
	})
	t.Run("form", func(t *testing.T) {
		if _, err := Write(filepath.Join(t.TempDir(), "pack"), "zip", Contents{}, nil); err == nil || !strings.Contains(err.Error(), "no form") {
			t.Error(err)
		}
	})
}

// TestHelperWrite is the process that TestFault kills.
func TestHelperWrite(t *testing.T) {
	target := os.Getenv("PACK_TARGET")
	if target == "" {
		t.Skip("this is run by TestFault")
	}
	_, err := Write(target, Form(os.Getenv("PACK_FORM")), newKase(t).contents(t), func(string) (Seal, error) {
		fmt.Println("sealing")
		select {}
	})
	t.Errorf("it went on: %v", err)
}

// TestMemory writes and verifies a plan with many lines.
func TestMemory(t *testing.T) {
	k := newKase(t)
	k.items, k.decisions = nil, map[string]int64{}
	const many = 100_000
	k.change = func(c *Contents) {
		statement := func(yield func([]byte, error) bool) {
			for n := range many {
				if !yield(fmt.Appendf(nil, `{"digest":"%s","reason":"%0400d"}`, inventory.Digest(fmt.Append(nil, n)), n), nil) {
					return
				}
			}
		}
		c.Before, c.After = statement, statement
	}
	name := filepath.Join(t.TempDir(), "pack")
	c := k.contents(t)
	var peak uint64
	look := func() {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapAlloc)
	}
	look()
	start := peak
	after := c.After
	c.After = func(yield func([]byte, error) bool) {
		n := 0
		for l, err := range after {
			if n++; n%25_000 == 0 {
				look()
			}
			if !yield(l, err) {
				return
			}
		}
	}
	_, err := Write(name, Directory, c, k.log.seal(t, int64(len(k.log.lines))))
	must(t, err)
	if grown := int64(peak) - int64(start); grown > 8<<20 {
		t.Errorf("the heap grew by %d bytes while %d bytes were written", grown, many*500)
	}
	if r := verifyPath(t, name, Options{Journal: k.log.verify}); !r.OK() {
		t.Error(failures(r))
	}
}

func FuzzVerify(f *testing.F) {
	k := full(f)
	files := readPack(f, k.write(f, Directory))
	all := names(files)
	for _, name := range all {
		f.Add(name, files[name])
	}
	want := map[string]string{}
	for name, body := range files {
		want[name] = hex.EncodeToString([]byte(inventory.Digest(body)))
	}
	f.Fuzz(func(t *testing.T, name string, body []byte) {
		if !fs.ValidPath(name) || name == "." {
			return // no file system has it
		}
		changed := fstest.MapFS{}
		for n, b := range files {
			changed[n] = &fstest.MapFile{Data: b}
		}
		changed[name] = &fstest.MapFile{Data: body}
		r := Verify(changed, Options{})
		if same := want[name] == hex.EncodeToString([]byte(inventory.Digest(body))); r.OK() != same {
			t.Errorf("%q with other bytes: accepted is %v", name, r.OK())
		}
		if _, err := json.Marshal(r); err != nil {
			t.Error(err)
		}
	})
}

func FuzzTar(f *testing.F) {
	k := full(f)
	raw, err := os.ReadFile(k.write(f, Tar))
	must(f, err)
	f.Add(raw)
	f.Add(raw[:3*block])
	f.Add(make([]byte, 2*block))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := newArchive(bytes.NewReader(b), int64(len(b)))
		if err == nil && Verify(a, Options{}).OK() && !bytes.Equal(b, raw) {
			// Another process has made another pack: it must be whole all the same.
			if len(b) < 10*block {
				t.Error("accepted")
			}
		}
	})
}
