package tuf

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
)

// TestTUFOnCI checks one by one the rules by which tuf-on-ci (v0.20) reads a repository. Each is what its signer or its
// repository module refuses, or would do otherwise.
func TestTUFOnCI(t *testing.T) {
	o := newOrg(t)
	judy := newP256(t, "@judy")
	o.propose(t, AddRole{Name: "team", Paths: []string{"team/*"}, Holders: []Holder{judy.Holder}, Threshold: 1}, SetTarget{Name: "team/a.json", Data: []byte("a")}, SetThreshold{"root", 3})
	o.sign(t, append(o.holders, judy)...)
	o.publish(t)
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("1")})
	read := func(name string) map[string]any {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(o.dir, filepath.FromSlash(name)))
		check(t, err)
		var m map[string]any
		check(t, json.Unmarshal(data, &m))
		return m
	}
	object := func(m map[string]any, path ...string) map[string]any {
		t.Helper()
		for _, p := range path {
			next, ok := m[p].(map[string]any)
			if !ok {
				t.Fatalf("no %s in %v", p, m)
			}
			m = next
		}
		return m
	}
	roles := []string{"root", "targets", "snapshot", "timestamp", "team", "revocations"}

	t.Run("metadata is unversioned, one file for each role", func(t *testing.T) {
		var got []string
		files, err := filepath.Glob(filepath.Join(o.dir, "metadata", "*.json"))
		check(t, err)
		for _, f := range files {
			got = append(got, strings.TrimSuffix(filepath.Base(f), ".json"))
		}
		want := slices.Sorted(slices.Values(roles))
		if !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	})
	t.Run("every root lies in root_history, the last as root.json", func(t *testing.T) {
		for v := 1; v <= 2; v++ {
			m := read(fmt.Sprintf("metadata/root_history/%d.root.json", v))
			if got := object(m, "signed")["version"]; got != float64(v) {
				t.Errorf("%d.root.json has version %v", v, got)
			}
		}
		a, err := os.ReadFile(filepath.Join(o.dir, "metadata", "root.json"))
		check(t, err)
		b, err := os.ReadFile(filepath.Join(o.dir, "metadata", "root_history", "2.root.json"))
		check(t, err)
		if string(a) != string(b) {
			t.Error("they differ")
		}
	})
	t.Run("key ids are digests of the keys as published, x- fields and all", func(t *testing.T) {
		for where, keys := range map[string]map[string]any{"root": object(read("metadata/root.json"), "signed", "keys"), "targets": object(read("metadata/targets.json"), "signed", "delegations", "keys")} {
			for id, key := range keys {
				canonical, err := cjson.EncodeCanonical(key)
				check(t, err)
				if sum := sha256.Sum256(canonical); id != hex.EncodeToString(sum[:]) {
					t.Errorf("%s: key %s is the digest of something else", where, id)
				}
			}
		}
	})
	t.Run("offline keys name their owner, online keys their URI, and none both", func(t *testing.T) {
		root := object(read("metadata/root.json"), "signed")
		online := object(root, "roles", "timestamp")["keyids"].([]any)
		for id, key := range object(root, "keys") {
			owner, _ := key.(map[string]any)["x-tuf-on-ci-keyowner"].(string)
			uri, _ := key.(map[string]any)["x-tuf-on-ci-online-uri"].(string)
			if isOnline := slices.Contains(online, any(id)); isOnline != (uri != "") || isOnline != (owner == "") || !isOnline && owner[0] != '@' {
				t.Errorf("key %s: owner %q, uri %q", id, owner, uri)
			}
		}
	})
	t.Run("key types and schemes are those it knows", func(t *testing.T) {
		for _, key := range object(read("metadata/root.json"), "signed", "keys") {
			k := key.(map[string]any)
			got := fmt.Sprint(k["keytype"], " ", k["scheme"])
			if !slices.Contains([]string{"ed25519 ed25519", "ecdsa ecdsa-sha2-nistp256", "ecdsa ecdsa-sha2-nistp384"}, got) {
				t.Errorf("key of type %s", got)
			}
		}
	})
	t.Run("periods of offline roles stand in what they sign", func(t *testing.T) {
		for _, role := range []string{"root", "targets", "team", "revocations"} {
			signed := object(read("metadata/"+role+".json"), "signed")
			e, s := signed["x-tuf-on-ci-expiry-period"], signed["x-tuf-on-ci-signing-period"]
			if e == nil || s == nil || e.(float64) <= s.(float64) {
				t.Errorf("%s: %v, %v", role, e, s)
			}
		}
	})
	t.Run("periods of online roles stand in root's entries", func(t *testing.T) {
		for _, role := range []string{"snapshot", "timestamp"} {
			entry := object(read("metadata/root.json"), "signed", "roles", role)
			e, s := entry["x-tuf-on-ci-expiry-period"], entry["x-tuf-on-ci-signing-period"]
			if e == nil || s == nil || e.(float64) <= s.(float64) {
				t.Errorf("%s: %v, %v", role, e, s)
			}
			if read("metadata/" + role + ".json")["signed"].(map[string]any)["x-tuf-on-ci-expiry-period"] != nil {
				t.Errorf("%s says its own period", role)
			}
		}
	})
	t.Run("snapshot and timestamp have one online key, threshold 1", func(t *testing.T) {
		for _, role := range []string{"snapshot", "timestamp"} {
			entry := object(read("metadata/root.json"), "signed", "roles", role)
			if len(entry["keyids"].([]any)) != 1 || entry["threshold"] != float64(1) {
				t.Errorf("%s: %v", role, entry)
			}
		}
	})
	t.Run("targets lie unprefixed, by role and file", func(t *testing.T) {
		for _, name := range []string{"trusted_root.json", "team/a.json", "revocations/1.json"} {
			if _, err := os.Stat(filepath.Join(o.dir, "targets", filepath.FromSlash(name))); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("a delegated role speaks for the directory of its name", func(t *testing.T) {
		for _, r := range object(read("metadata/targets.json"), "signed", "delegations")["roles"].([]any) {
			m := r.(map[string]any)
			if got := fmt.Sprint(m["paths"]); got != fmt.Sprintf("[%s/*]", m["name"]) {
				t.Errorf("%s: %s", m["name"], got)
			}
		}
	})
	t.Run("consistent snapshots, expiry in whole seconds of UTC, specification 1.0", func(t *testing.T) {
		if object(read("metadata/root.json"), "signed")["consistent_snapshot"] != true {
			t.Error("no consistent snapshots")
		}
		for _, role := range roles {
			signed := object(read("metadata/"+role+".json"), "signed")
			if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`).MatchString(fmt.Sprint(signed["expires"])) {
				t.Errorf("%s expires %v", role, signed["expires"])
			}
			if !strings.HasPrefix(fmt.Sprint(signed["spec_version"]), "1.0.") {
				t.Errorf("%s: version %v", role, signed["spec_version"])
			}
		}
	})
	t.Run("the snapshot lists every role and no root", func(t *testing.T) {
		meta := object(read("metadata/snapshot.json"), "signed", "meta")
		if len(meta) != 3 || meta["root.json"] != nil || meta["team.json"] == nil {
			t.Errorf("%v", meta)
		}
	})
	t.Run("in an event, those who are to sign have an empty signature", func(t *testing.T) {
		o.propose(t, SetThreshold{"root", 2})
		sigs := read("event/metadata/root.json")["signatures"].([]any)
		if len(sigs) != 3 {
			t.Errorf("%v", sigs)
		}
		for _, s := range sigs {
			m := s.(map[string]any)
			if m["sig"] != "" || len(m["keyid"].(string)) != 64 {
				t.Errorf("%v", m)
			}
		}
		check(t, o.repo.Withdraw(t.Context()))
	})
	t.Run("what is published is Sigstore's layout", func(t *testing.T) {
		for _, pattern := range []string{"1.root.json", "2.root.json", "2.targets.json", "1.team.json", "2.revocations.json", "3.snapshot.json", "timestamp.json",
			"targets/*.trusted_root.json", "targets/team/*.a.json", "targets/revocations/*.1.json"} {
			got, err := filepath.Glob(filepath.Join(o.published, filepath.FromSlash(pattern)))
			if err != nil || len(got) != 1 {
				t.Errorf("%s: %v, %v", pattern, got, err)
			}
		}
	})
}

// sigstoreRoots is where the roots of the public-good instance are, when they are at hand.
const sigstoreRoots = "../../shared/data/sigstore-root-signing/metadata/root_history"

// TestSigstoreRoots follows the fifteen roots that Sigstore has published, and has a sixteenth by strangers refused.
func TestSigstoreRoots(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(filepath.FromSlash(sigstoreRoots), "*.root.json"))
	check(t, err)
	if len(files) != 15 {
		t.Skipf("%d of the 15 roots of Sigstore's public-good instance are in %s: they are public data and no part of the project", len(files), sigstoreRoots)
	}
	read := func(v int) []byte {
		data, err := os.ReadFile(filepath.Join(filepath.FromSlash(sigstoreRoots), fmt.Sprintf("%d.root.json", v)))
		check(t, err)
		return data
	}
	roots := func(n int) []json.RawMessage {
		var out []json.RawMessage
		for v := 1; v <= n; v++ {
			out = append(out, read(v))
		}
		return out
	}
	for known := 1; known <= 15; known++ {
		s := newState(nil)
		if err := s.follow(roots(15), read(known)); err != nil {
			t.Errorf("from root %d: %v", known, err)
		} else if s.Root.Signed.Version != 15 || s.first != 1 || s.start != 5 {
			t.Errorf("from root %d: to %d, from %d", known, s.Root.Signed.Version, s.first)
		}
	}
	// A root without its fifth: the chain is broken there.
	s := newState(nil)
	if err := s.follow(append(roots(4), read(6)), read(1)); err == nil {
		t.Error("followed over a gap")
	}

	d := &draft{state: newState(nil), roles: map[string]*targetsMeta{}, expiry: (&Repository{}).expiry}
	check(t, d.follow(roots(15), read(15)))
	root, err := d.editRoot()
	check(t, err)
	if root.Version != 16 {
		t.Errorf("version %d", root.Version)
	}
	x, y := newP256(t, "@x"), newP256(t, "@y")
	for _, c := range []Change{AddHolder{"root", x.Holder}, AddHolder{"root", y.Holder}} {
		check(t, c.apply(d))
	}
	// Every field of theirs that this program does not know is still there.
	before, err := parseRoot(read(15))
	check(t, err)
	if fmt.Sprint(root.UnrecognizedFields) != fmt.Sprint(before.Signed.UnrecognizedFields) || len(root.UnrecognizedFields) == 0 {
		t.Errorf("fields %v, before %v", root.UnrecognizedFields, before.Signed.UnrecognizedFields)
	}
	doc, err := d.document("root")
	check(t, err)
	rings, err := d.rings("root")
	check(t, err)
	for _, p := range []person{x, y} {
		id := rings[1].idOf(p.PublicKey())
		sig, err := signOne(t.Context(), doc, id, rings[1].keys[id], p.Signer)
		check(t, err)
		doc.put(sig)
	}
	e := eventState{Roles: []string{"root"}, Base: map[string]int64{"root": 15}}
	r := &Repository{dir: t.TempDir(), published: t.TempDir()}
	d.Timestamp, d.Snapshot = nil, nil
	c, err := r.checkSignatures(e, d)
	check(t, err)
	if len(c.Problems) != 2 || !strings.Contains(c.Problems[0], "root lacks 3 signature(s) of the old holders: ask ") || !strings.Contains(c.Problems[0], "@bobcallaway") ||
		!strings.Contains(c.Problems[1], "root lacks 1 signature(s) of the new holders") {
		t.Errorf("problems %q", c.Problems)
	}
	data, err := doc.encode()
	check(t, err)
	if err := newState(nil).follow(append(roots(15), data), read(1)); err == nil || !strings.Contains(err.Error(), "not enough signatures, got 0, want 3") {
		t.Errorf("clients: %v", err)
	}
}
