package radar

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/reseal/reseal/internal/sandbox"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newRepository(t testing.TB) *sandbox.TUF {
	t.Helper()
	r, err := sandbox.NewTUF(func() time.Time { return start })
	check(t, err)
	check(t, r.Put("trusted_root.json", []byte("{}")))
	check(t, r.Put("revocations/index.json", []byte("[]")))
	return r
}

func written(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	check(t, sandbox.WriteFiles(dir, files))
	return dir
}

// at is a clock that shows so many days after the start.
func at(days float64) func() time.Time {
	return func() time.Time { return start.Add(time.Duration(days * float64(day))) }
}

func read(t testing.TB, source string, o Options) Status {
	t.Helper()
	if o.Now == nil {
		o.Now = at(0)
	}
	s, err := Read(t.Context(), source, o)
	check(t, err)
	return s
}

// codes returns what is wrong, as "severity code role".
func codes(s Status) []string {
	out := []string{}
	for _, p := range s.Problems {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", p.Severity, p.Code, p.Role)))
	}
	return out
}

func wantCodes(t *testing.T, s Status, want ...string) {
	t.Helper()
	got := codes(s)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		for _, p := range s.Problems {
			t.Logf("%s %s %s: %s; %s %v", p.Severity, p.Code, p.Role, p.What, p.Do, p.Refuse)
		}
		t.Errorf("problems:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// edit changes the signed part of metadata and leaves the signatures; what is changed by words of JSON.
func edit(t testing.TB, files map[string][]byte, name string, change func(signed map[string]any)) {
	t.Helper()
	var m map[string]any
	check(t, json.Unmarshal(files[name], &m))
	change(m["signed"].(map[string]any))
	data, err := json.MarshalIndent(m, "", "\t")
	check(t, err)
	files[name] = data
}

func TestRead(t *testing.T) {
	r := newRepository(t)
	check(t, r.Publish())
	for _, tc := range []struct {
		name   string
		layout Layout
		files  map[string][]byte
	}{{"published", Published, r.Files()}, {"source", Source, r.Source()}} {
		t.Run(tc.name, func(t *testing.T) {
			s := read(t, written(t, tc.files), Options{})
			wantCodes(t, s)
			if s.Layout != tc.layout || s.Severity != Fine || !s.RootChain.Verified || s.RootChain.Last != 1 {
				t.Errorf("%+v", s)
			}
			want := map[string]int{"root": 365, "timestamp": 7, "snapshot": 21, "targets": 180, "revocations": 365}
			for _, role := range s.Roles {
				if role.DaysLeft != want[role.Name] || role.Version != 1 || !role.Verified || role.ExpiryPeriod != want[role.Name] {
					t.Errorf("%+v", role)
				}
				delete(want, role.Name)
				if role.Online != (role.Name == "timestamp" || role.Name == "snapshot") {
					t.Errorf("%s online: %v", role.Name, role.Online)
				}
			}
			if len(want) > 0 {
				t.Errorf("no roles %v", want)
			}
			revocations := s.Roles[4]
			if !revocations.Terminating || !slices.Equal(revocations.Paths, []string{"revocations/*"}) || revocations.Targets != 1 || revocations.Keys[0].Owner != "@dave" || !revocations.Keys[0].Signed {
				t.Errorf("%+v", revocations)
			}
		})
	}
}

// TestProblems makes one thing wrong after the other.
func TestProblems(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(t *testing.T, r *sandbox.TUF) // before the publication
		then func(t *testing.T, files map[string][]byte)
		o    Options
		want []string
	}{
		{name: "timestamp expired", o: Options{Now: at(8)}, want: []string{"error expired timestamp"}},
		{name: "timestamp at half of its life", o: Options{Now: at(4)}, want: []string{"warning expires-soon timestamp"}},
		{name: "everything expired", o: Options{Now: at(400)}, want: []string{
			"error expired timestamp", "error expired root", "error expired snapshot", "error expired targets", "error expired revocations"}},
		{name: "at the moment of expiry", o: Options{Now: at(7)}, want: []string{"error expired timestamp"}},
		{name: "targets soon", o: Options{Now: at(0), WarnDays: 90}, make: func(t *testing.T, r *sandbox.TUF) { r.Days["targets"] = 181 }, want: nil},
		{name: "targets sooner", make: func(t *testing.T, r *sandbox.TUF) { r.Days["targets"] = 20 }, o: Options{Now: at(11)}, want: []string{
			"error expired timestamp", "warning expires-soon snapshot", "warning expires-soon targets"}},
		{name: "signed by a clock ahead", o: Options{Now: at(-3)}, want: []string{"warning clock-skew timestamp", "warning clock-skew root",
			"warning clock-skew snapshot", "warning clock-skew targets", "warning clock-skew revocations"}},
		{name: "threshold 1", make: func(t *testing.T, r *sandbox.TUF) { check(t, r.Hold("root", 1, "@alice", "@bob")) }, want: []string{"warning threshold-1 root"}},
		{name: "targets threshold 1", make: func(t *testing.T, r *sandbox.TUF) { check(t, r.Hold("targets", 1, "@alice", "@bob")) }, want: []string{"warning threshold-1 targets"}},
		{name: "no spare key", make: func(t *testing.T, r *sandbox.TUF) { check(t, r.Hold("root", 3, sandbox.TUFHolders...)) }, want: []string{"warning no-spare-key root"}},
		{name: "holder short of the threshold", make: func(t *testing.T, r *sandbox.TUF) { check(t, r.Hold("targets", 3, "@alice", "@bob")) }, want: []string{
			"error threshold targets", "error unsigned targets"}},
		{name: "online key in an offline role", make: func(t *testing.T, r *sandbox.TUF) { check(t, r.Hold("timestamp", 1, "@alice")) }, want: []string{
			"warning shared-key root", "warning shared-key targets"}},
		{name: "a responder's key online", make: func(t *testing.T, r *sandbox.TUF) { check(t, r.Hold("timestamp", 1, "@dave")) }, want: []string{"warning shared-key revocations"}},
		{name: "snapshot missing", then: remove("1.snapshot.json"), want: []string{"error missing snapshot"}},
		{name: "timestamp missing", then: remove("timestamp.json"), want: []string{"error incomplete", "error missing timestamp"}},
		{name: "targets missing", then: remove("1.targets.json"), want: []string{"error missing targets"}},
		{name: "revocations missing", then: remove("1.revocations.json"), want: []string{"error missing revocations"}},
		{name: "role not in the snapshot", make: func(t *testing.T, r *sandbox.TUF) {
			check(t, r.Publish())
			delete(r.Snapshot.Meta, "revocations.json")
		}, want: []string{"error unlisted revocations"}},
		{name: "target file missing", then: func(t *testing.T, files map[string][]byte) {
			for name := range files {
				if strings.HasSuffix(name, ".trusted_root.json") {
					delete(files, name)
				}
			}
		}, want: []string{"error target-mismatch targets"}},
		{name: "target file changed", then: func(t *testing.T, files map[string][]byte) {
			for name := range files {
				if strings.HasSuffix(name, ".index.json") {
					files[name] = []byte("()")
				}
			}
		}, want: []string{"error target-mismatch revocations"}},
		{name: "target file longer", then: func(t *testing.T, files map[string][]byte) {
			for name := range files {
				if strings.HasSuffix(name, ".index.json") {
					files[name] = []byte("[] ")
				}
			}
		}, want: []string{"error target-mismatch revocations"}},
		{name: "target files left unread", o: Options{SkipTargets: true}, then: func(t *testing.T, files map[string][]byte) {
			for name := range files {
				if strings.HasPrefix(name, "targets/") {
					delete(files, name)
				}
			}
		}},
		{name: "targets edited", then: func(t *testing.T, files map[string][]byte) {
			edit(t, files, "1.targets.json", func(s map[string]any) {
				s["targets"].(map[string]any)["trusted_root.json"].(map[string]any)["length"] = 3
			})
		}, want: []string{"error unsigned targets", "error hash-mismatch targets", "warning bad-signature targets", "error target-mismatch targets"}},
		{name: "not JSON", then: func(t *testing.T, files map[string][]byte) { files["1.targets.json"] = []byte("<html>") }, want: []string{"error malformed targets"}},
		{name: "another type", then: func(t *testing.T, files map[string][]byte) { files["1.targets.json"] = files["1.snapshot.json"] }, want: []string{"error malformed targets"}},
		{name: "null in place of a target", then: func(t *testing.T, files map[string][]byte) {
			edit(t, files, "1.targets.json", func(s map[string]any) { s["targets"] = map[string]any{"a": nil} })
		}, want: []string{"error malformed targets"}},
		{name: "null in place of a key", then: func(t *testing.T, files map[string][]byte) {
			edit(t, files, "1.root.json", func(s map[string]any) {
				for id := range s["keys"].(map[string]any) {
					s["keys"].(map[string]any)[id] = nil
				}
			})
		}, want: []string{"error root-refused root", "error unknown-key root", "error unknown-key timestamp", "error unknown-key snapshot", "error unknown-key targets",
			"error unsigned timestamp", "error unsigned snapshot", "error unsigned targets",
			"notice unknown-signature timestamp", "notice unknown-signature snapshot", "notice unknown-signature targets"}},
		{name: "signature listed twice", then: func(t *testing.T, files map[string][]byte) {
			var m map[string]any
			check(t, json.Unmarshal(files["timestamp.json"], &m))
			m["signatures"] = append(m["signatures"].([]any), m["signatures"].([]any)...)
			files["timestamp.json"], _ = json.Marshal(m)
		}, want: []string{"error duplicate-signature timestamp", "error go-tuf-refuses timestamp"}},
		{name: "signature by a stranger", then: func(t *testing.T, files map[string][]byte) {
			var m map[string]any
			check(t, json.Unmarshal(files["timestamp.json"], &m))
			m["signatures"] = append(m["signatures"].([]any), map[string]any{"keyid": strings.Repeat("ab", 32), "sig": "00"})
			files["timestamp.json"], _ = json.Marshal(m)
		}, want: []string{"notice unknown-signature timestamp"}},
		{name: "key id from elsewhere", make: func(t *testing.T, r *sandbox.TUF) {
			for _, k := range r.Root.Keys {
				if k.UnrecognizedFields["x-tuf-on-ci-online-uri"] != nil {
					k.UnrecognizedFields["x-tuf-on-ci-online-uri"] = "gcpkms:moved"
				}
			}
		}, want: []string{"notice key-id timestamp", "notice key-id snapshot"}},
		{name: "two hashes", make: func(t *testing.T, r *sandbox.TUF) {
			f, err := metadata.TargetFile().FromBytes("trusted_root.json", []byte("{}"), "sha256", "sha512")
			check(t, err)
			r.Targets["targets"].Targets["trusted_root.json"] = f
		}, want: []string{"error target-mismatch targets", "warning two-hashes targets"}},
		{name: "expiry with a fraction", make: func(t *testing.T, r *sandbox.TUF) {
			check(t, r.Publish())
			resign(t, r, "1.targets.json", func(s map[string]any) { s["expires"] = "2026-08-28T12:00:00.25Z" })
		}, want: []string{"warning expiry-form targets"}},
		{name: "timestamp fast-forwarded", make: func(t *testing.T, r *sandbox.TUF) { r.Timestamp.Version = 1 << 40 }, want: []string{"error fast-forward timestamp"}},
		{name: "targets fast-forwarded", make: func(t *testing.T, r *sandbox.TUF) { r.Targets["targets"].Version = 1 << 40 }, want: []string{"error fast-forward targets"}},
		{name: "root missing in between", make: rotate(4), then: remove("3.root.json"), want: []string{"error root-gap root"}},
		{name: "first root missing", make: rotate(3), then: remove("1.root.json"), want: []string{"warning root-gap root"}},
		{name: "first two roots missing", make: rotate(3), then: remove("1.root.json", "2.root.json"), want: []string{"error root-gap root"}},
		{name: "root under another number", make: rotate(2), then: func(t *testing.T, files map[string][]byte) { files["2.root.json"] = files["1.root.json"] }, want: []string{"error malformed root"}},
		{name: "not consistent", make: func(t *testing.T, r *sandbox.TUF) { r.Root.ConsistentSnapshot = false }, then: func(t *testing.T, files map[string][]byte) {
			for name, data := range maps.Clone(files) {
				dir, base := filepath.Split(name)
				_, rest, _ := strings.Cut(base, ".")
				if name != "1.root.json" {
					files[filepath.Join(dir, strings.TrimPrefix(rest, "."))] = data
				}
			}
		}, want: []string{"warning no-consistent-snapshot root"}},
		{name: "another specification", make: func(t *testing.T, r *sandbox.TUF) { r.Timestamp.SpecVersion = "2.0" }, want: []string{"error spec-version timestamp"}},
		{name: "hash prefixes", make: func(t *testing.T, r *sandbox.TUF) {
			d := r.Targets["targets"].Delegations
			d.Roles[0].Paths, d.Roles[0].PathHashPrefixes = nil, []string{"00", hashPrefix("revocations/index.json", 3)}
		}, want: []string{"warning hash-prefixes targets"}},
		{name: "hash prefixes of something else", make: func(t *testing.T, r *sandbox.TUF) {
			d := r.Targets["targets"].Delegations
			d.Roles[0].Paths, d.Roles[0].PathHashPrefixes = nil, []string{strings.ToUpper(hashPrefix("revocations/index.json", 64)), hashPrefix("x", 3)}
		}, want: []string{"warning hash-prefixes targets", "warning misplaced revocations"}},
		{name: "delegates nothing further", make: func(t *testing.T, r *sandbox.TUF) { r.Targets["revocations"].Delegations = &metadata.Delegations{} }},
		{name: "a target that is not delegated", make: func(t *testing.T, r *sandbox.TUF) { check(t, r.PutIn("revocations", "elsewhere.json", []byte("x"))) }, want: []string{
			"warning misplaced revocations"}},
		{name: "a delegated role with the name of another", make: func(t *testing.T, r *sandbox.TUF) {
			check(t, r.Delegate("targets", metadata.DelegatedRole{Name: "snapshot", Threshold: 2, Paths: []string{"x"}}, sandbox.TUFHolders...))
			delete(r.Targets, "snapshot")
		}, want: []string{"error malformed targets"}},
		{name: "snapshot names nothing", make: func(t *testing.T, r *sandbox.TUF) {
			check(t, r.Publish())
			delete(r.Snapshot.Meta, "targets.json")
		}, want: []string{"error malformed snapshot"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRepository(t)
			if tc.make != nil {
				tc.make(t, r)
			}
			if r.Targets["targets"].Version == 0 || len(r.Files()) == 0 || tc.name == "role not in the snapshot" || tc.name == "snapshot names nothing" {
				check(t, r.Publish())
			}
			if tc.then != nil {
				tc.then(t, r.Files())
			}
			s := read(t, written(t, r.Files()), tc.o)
			wantCodes(t, s, tc.want...)
			if !slices.IsSortedFunc(s.Problems, func(a, b Problem) int { return a.Severity.rank() - b.Severity.rank() }) {
				t.Errorf("not the worst first: %q", codes(s))
			}
			if len(s.Problems) > 0 && s.Severity != s.Problems[0].Severity {
				t.Errorf("severity %q", s.Severity)
			}
			for _, p := range s.Problems {
				if p.What == "" || p.Do == "" {
					t.Errorf("%+v says nothing", p)
				}
			}
		})
	}
}

func remove(names ...string) func(*testing.T, map[string][]byte) {
	return func(t *testing.T, files map[string][]byte) {
		for _, name := range names {
			if _, ok := files[name]; !ok {
				t.Fatalf("there is no %s", name)
			}
			delete(files, name)
		}
	}
}

// rotate publishes a repository with so many roots.
func rotate(n int) func(*testing.T, *sandbox.TUF) {
	return func(t *testing.T, r *sandbox.TUF) {
		for range n {
			check(t, r.Rotate())
		}
		check(t, r.Publish())
	}
}

// resign edits published metadata as JSON, signs that, and lists it anew, as a tool other than go-tuf would.
func resign(t *testing.T, r *sandbox.TUF, name string, change func(map[string]any)) {
	t.Helper()
	files := r.Files()
	edit(t, files, name, change)
	var m struct {
		Signed     json.RawMessage     `json:"signed"`
		Signatures []map[string]string `json:"signatures"`
	}
	check(t, json.Unmarshal(files[name], &m))
	payload, err := cjson.EncodeCanonical(m.Signed)
	check(t, err)
	for _, s := range m.Signatures {
		sig, err := r.SignAs(s["keyid"], payload)
		check(t, err)
		s["sig"] = hex.EncodeToString(sig)
	}
	data, err := json.Marshal(m)
	check(t, err)
	files[name] = data
	_, role, _ := strings.Cut(strings.TrimSuffix(name, ".json"), ".")
	sum := sha256.Sum256(data)
	meta := r.Snapshot.Meta[role+".json"]
	meta.Length, meta.Hashes = int64(len(data)), metadata.Hashes{"sha256": sum[:]}
	check(t, r.Publish())
}

// TestHistory walks one holder's life.
func TestHistory(t *testing.T) {
	r := newRepository(t)
	check(t, r.Publish())
	r.Lose("@carol") // gets another key
	check(t, r.Hold("root", 2, "@alice", "@bob", "@carol"))
	check(t, r.Rotate())
	check(t, r.Hold("root", 3, "@alice", "@bob", "@carol", "@grace"))
	check(t, r.Rotate())
	check(t, r.Hold("root", 3, "@alice", "@carol", "@grace", "@heidi"))
	r.Lose("online")
	check(t, r.Hold("timestamp", 1, "online"))
	check(t, r.Hold("snapshot", 1, "online"))
	r.Absent["@heidi"] = true
	check(t, r.Rotate())
	check(t, r.Publish())
	s := read(t, written(t, r.Files()), Options{})
	if !s.RootChain.Verified || s.RootChain.First != 1 || s.RootChain.Last != 4 {
		t.Fatalf("%+v", s.RootChain)
	}
	roots := s.RootChain.Roots
	if x := roots[1]; len(x.Replaced) != 1 || x.Replaced[0].Owner != "@carol" || len(x.Joined)+len(x.Left) != 0 {
		t.Errorf("%+v", x)
	}
	if x := roots[2]; !slices.Equal(x.Joined, []string{"@grace"}) || !slices.Equal(x.Changes, []string{"root: threshold 2 → 3"}) || x.Threshold != 3 {
		t.Errorf("%+v", x)
	}
	x := roots[3]
	if !slices.Equal(x.Joined, []string{"@heidi"}) || !slices.Equal(x.Left, []string{"@bob"}) || slices.Contains(x.SignedBy, "@heidi") || x.Previous != 4 {
		t.Errorf("%+v", x)
	}
	if len(x.Changes) != 2 || !strings.HasPrefix(x.Changes[0], "snapshot: ") || !strings.HasPrefix(x.Changes[1], "timestamp: ") {
		t.Errorf("%q", x.Changes)
	}
	if x.SignedAbout == nil || !x.SignedAbout.Equal(start) {
		t.Errorf("signed about %v", x.SignedAbout)
	}
	if keys := s.Roles[0].Keys; keys[3].Owner != "@heidi" || keys[3].Signed {
		t.Errorf("%+v", keys)
	}
}

// sigstoreRoots returns a copy of the real roots of Sigstore's public-good instance.
func sigstoreRoots(t testing.TB) map[string][]byte {
	t.Helper()
	const dir = "../../../shared/data/sigstore-root-signing/metadata/root_history"
	list, _ := filepath.Glob(filepath.Join(dir, "*.root.json"))
	if len(list) == 0 {
		t.Skip("the real Sigstore roots are not there: ../shared/data/sigstore-root-signing beside the repository")
	}
	files := map[string][]byte{}
	for _, name := range list {
		data, err := os.ReadFile(name)
		check(t, err)
		files["metadata/root_history/"+filepath.Base(name)] = data
	}
	return files
}

var inAugust = func() time.Time { return time.Date(2026, 8, 21, 0, 0, 0, 0, time.UTC) }

func TestSigstoreRoots(t *testing.T) {
	s := read(t, written(t, sigstoreRoots(t)), Options{Now: inAugust})
	c := s.RootChain
	if !c.Verified || c.First != 1 || c.Last != 15 || len(c.Roots) != 15 {
		t.Fatalf("%+v", c)
	}
	first := "@dlorenc bdde902f @mnm678 @santiagotorres @bobcallaway"
	second := "@dlorenc @mnm678 @santiagotorres @bobcallaway @joshuagl"
	third := "@mnm678 @santiagotorres @bobcallaway @joshuagl @lance"
	for n, r := range c.Roots {
		want := map[bool]string{n < 3: first, n >= 3 && n < 12: second, n >= 12: third}[true]
		holders, expected := slices.Sorted(slices.Values(r.Holders)), strings.Fields(want)
		slices.Sort(expected)
		if r.Version != int64(n+1) || r.Threshold != 3 || !r.Verified || !slices.Equal(holders, expected) || len(r.SignedBy) < 3 {
			t.Errorf("%+v", r)
		}
		if n > 0 && r.Previous < 3 {
			t.Errorf("root %d is signed by %d of the holders before", r.Version, r.Previous)
		}
		if r.GoTUF != (r.Version >= 5) { // the first four have their keys in hexadecimal
			t.Errorf("root %d: go-tuf starts from it: %v", r.Version, r.GoTUF)
		}
		t.Logf("%2d  %s  %d of %d  %v  +%v −%v %q", r.Version, r.Expires.Format(time.DateOnly), r.Threshold, len(r.Holders), r.SignedBy, r.Joined, r.Left, r.Changes)
	}
	if r := c.Roots[3]; !slices.Equal(r.Joined, []string{"@joshuagl"}) || !slices.Equal(r.Left, []string{"bdde902f"}) {
		t.Errorf("%+v", r)
	}
	if r := c.Roots[12]; !slices.Equal(r.Joined, []string{"@lance"}) || !slices.Equal(r.Left, []string{"@dlorenc"}) {
		t.Errorf("%+v", r)
	}
	// Only the history of root is in the data.
	wantCodes(t, s, "notice go-tuf-start root", "notice missing root", "error missing timestamp", "error missing snapshot", "error missing targets")
}

// next makes root 16 of the real root 15.
func next(t *testing.T, files map[string][]byte, change func(m map[string]any)) []byte {
	t.Helper()
	var m map[string]any
	check(t, json.Unmarshal(files["metadata/root_history/15.root.json"], &m))
	signed := m["signed"].(map[string]any)
	signed["version"], signed["expires"] = 16, "2027-03-01T00:00:00Z"
	change(m)
	data, err := json.Marshal(m)
	check(t, err)
	return data
}

// TestProposedRoot has root 16 proposed by those who may not.
func TestProposedRoot(t *testing.T) {
	bare := func(m map[string]any) { m["signatures"] = []any{} }
	own := func(m map[string]any) { // keys made by the thief in place of the holders'
		signed := m["signed"].(map[string]any)
		keys, ids := map[string]any{}, []any{}
		var signers []ed25519.PrivateKey
		for range 5 {
			public, private, err := ed25519.GenerateKey(rand.Reader)
			check(t, err)
			k := map[string]any{"keytype": "ed25519", "scheme": "ed25519", "keyval": map[string]any{"public": hex.EncodeToString(public)}}
			data, err := cjson.EncodeCanonical(k)
			check(t, err)
			sum := sha256.Sum256(data)
			keys[hex.EncodeToString(sum[:])], signers = k, append(signers, private)
			ids = append(ids, hex.EncodeToString(sum[:]))
		}
		for _, role := range signed["roles"].(map[string]any) {
			role.(map[string]any)["keyids"] = ids
		}
		signed["keys"] = keys
		payload, err := cjson.EncodeCanonical(signed)
		check(t, err)
		list := []any{}
		for n, id := range ids {
			list = append(list, map[string]any{"keyid": id, "sig": hex.EncodeToString(ed25519.Sign(signers[n], payload))})
		}
		m["signatures"] = list
	}
	forged := func(m map[string]any) { // the holders' key ids over the thief's signatures
		payload, err := cjson.EncodeCanonical(m["signed"])
		check(t, err)
		_, private, err := ed25519.GenerateKey(rand.Reader)
		check(t, err)
		list := []any{}
		for _, id := range m["signed"].(map[string]any)["roles"].(map[string]any)["root"].(map[string]any)["keyids"].([]any) {
			list = append(list, map[string]any{"keyid": id, "sig": hex.EncodeToString(ed25519.Sign(private, payload))})
		}
		m["signatures"] = list
	}
	replayed := func(map[string]any) {} // the true signatures of root 15
	const why = "it is signed by 0 of the keys of root 15, and 3 must"
	for name, change := range map[string]func(map[string]any){"signed by test keys": own, "real holders and no signature": bare, "forged": forged, "signatures of root 15": replayed} {
		t.Run(name, func(t *testing.T) {
			files := sigstoreRoots(t)
			data := next(t, files, change)
			files["metadata/root_history/16.root.json"] = data
			s := read(t, written(t, files), Options{Now: inAugust})
			if last := s.RootChain.Roots[15]; last.Verified || last.Why != why || s.RootChain.Last != 15 || s.RootChain.Verified {
				t.Errorf("%+v", last)
			}
			if got := codes(s); got[0] != "error root-refused root" || s.Roles[0].Version != 15 {
				t.Errorf("%q, %+v", got, s.Roles[0])
			}
			// As an open signing event it is no error: it waits, for those who may.
			files["metadata/root.json"] = data
			delete(files, "metadata/root_history/16.root.json")
			s = read(t, written(t, files), Options{Now: inAugust})
			if !s.RootChain.Verified || s.RootChain.Last != 15 || len(s.Events) != 1 {
				t.Fatalf("%+v", s.Events)
			}
			e := s.Events[0]
			if need := e.Needs[0]; e.Ready || e.Version != 16 || need.By != "root 15" || need.Threshold != 3 || len(need.Signed) != 0 || len(need.Missing) != 5 {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestEvents(t *testing.T) {
	r := newRepository(t)
	check(t, r.Publish())
	check(t, r.Hold("root", 2, "@alice", "@bob", "@grace"))
	r.Absent["@bob"], r.Absent["@grace"], r.Absent["@carol"] = true, true, true
	before := maps.Clone(r.Files())
	check(t, r.Rotate())
	proposal := r.Files()["2.root.json"]
	source := r.Source()
	delete(source, "metadata/root_history/2.root.json")
	for _, where := range []string{"metadata/root.json", "event/metadata/root.json"} {
		files := maps.Clone(source)
		files["metadata/root.json"] = before["1.root.json"]
		files[where] = proposal
		files["event/event.json"] = []byte(`{"schema":"reseal.tuf-event/v1"}`)
		s := read(t, written(t, files), Options{})
		wantCodes(t, s)
		if len(s.Events) != 1 || s.Events[0].Ready || len(s.Events[0].Needs) != 2 {
			t.Fatalf("%s: %+v", where, s.Events)
		}
		old, own := s.Events[0].Needs[0], s.Events[0].Needs[1]
		if !slices.Equal(old.Signed, []string{"@alice"}) || !slices.Equal(old.Missing, []string{"@bob", "@carol"}) || !slices.Equal(own.Missing, []string{"@bob", "@grace"}) {
			t.Errorf("%s: %+v", where, s.Events[0])
		}
	}

	// What nobody calls an event is none; one that was committed and not finished is told of; so is what is not served.
	files := maps.Clone(source)
	files["metadata/root.json"] = before["1.root.json"]
	files["event/metadata/root.json"] = proposal
	if s := read(t, written(t, files), Options{}); len(s.Events) > 0 {
		t.Errorf("%+v", s.Events)
	}
	files["event/pending.json"] = []byte("{}")
	files["published/timestamp.json"] = before["timestamp.json"]
	wantCodes(t, read(t, written(t, files), Options{}), "warning pending")
	r.Absent = map[string]bool{}
	check(t, r.Publish())
	files["published/timestamp.json"] = r.Files()["timestamp.json"]
	wantCodes(t, read(t, written(t, files), Options{}), "warning pending", "warning unpublished timestamp")

	// A root and the targets by the holders it will have, and a role that targets will delegate to.
	r = newRepository(t)
	check(t, r.Publish())
	files = r.Source()
	check(t, r.Hold("targets", 2, "@alice", "@grace", "@heidi"))
	check(t, r.Rotate())
	r.Absent["@heidi"], r.Absent["@dave"] = true, true
	r.Touch("targets")
	r.Touch("revocations")
	check(t, r.Publish())
	for _, role := range []string{"root", "targets", "revocations"} {
		files["event/metadata/"+role+".json"] = r.Source()["metadata/"+role+".json"]
	}
	files["event/event.json"] = []byte("{}")
	s := read(t, written(t, files), Options{})
	wantCodes(t, s)
	var got []string
	for _, e := range s.Events {
		for _, n := range e.Needs {
			got = append(got, fmt.Sprintf("%s %d by %s: %v, not %v, %v", e.Role, e.Version, n.By, n.Signed, n.Missing, e.Ready))
		}
	}
	want := []string{
		"root 2 by root 1: [@alice @bob @carol], not [], true", "root 2 by root 2: [@alice @bob @carol], not [], true",
		"revocations 2 by targets 2: [@erin @frank], not [@dave], true", "targets 2 by root 2: [@alice @grace], not [@heidi], true",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}

	// Targets with tuf-on-ci's places for the signatures that are expected.
	r = newRepository(t)
	check(t, r.Publish())
	r.Absent["@bob"], r.Absent["@carol"] = true, true
	r.Touch("targets")
	published := r.Source()
	snapshot, timestamp := published["metadata/snapshot.json"], published["metadata/timestamp.json"]
	check(t, r.Publish())
	files = r.Source()
	files["metadata/snapshot.json"], files["metadata/timestamp.json"] = snapshot, timestamp
	var m map[string]any
	check(t, json.Unmarshal(files["metadata/targets.json"], &m))
	m["signatures"] = append(m["signatures"].([]any), map[string]any{"keyid": "waits", "sig": ""})
	files["metadata/targets.json"], _ = json.Marshal(m)
	s = read(t, written(t, files), Options{})
	wantCodes(t, s, "warning unpublished targets")
	if len(s.Events) != 1 || s.Events[0].Role != "targets" || !slices.Equal(s.Events[0].Needs[0].Missing, []string{"@bob", "@carol"}) {
		t.Errorf("%+v", s.Events)
	}
}

func TestBins(t *testing.T) {
	r := newRepository(t)
	dave, err := r.Key("@dave")
	check(t, err)
	erin, err := r.Key("@erin")
	check(t, err)
	frank, err := r.Key("@frank")
	check(t, err)
	d := r.Targets["targets"].Delegations
	d.Roles, d.SuccinctRoles = nil, &metadata.SuccinctRoles{KeyIDs: []string{dave, erin, frank}, Threshold: 2, BitLength: 4, NamePrefix: "bin"}
	delete(r.Targets, "revocations")
	for n := range 16 {
		name := fmt.Sprintf("bin-%x", n)
		r.Targets[name] = &metadata.Targets().Signed
		r.Targets[name].Version = 0
		r.Touch(name)
	}
	check(t, r.Publish())
	s := read(t, written(t, r.Files()), Options{})
	wantCodes(t, s)
	bins := s.Roles[len(s.Roles)-1]
	if bins.Name != "bin-*" || bins.Bins == nil || *bins.Bins != (Bins{Count: 16, Read: 16}) || !bins.Verified {
		t.Errorf("%+v", bins)
	}
	for n := range 3 {
		delete(r.Files(), fmt.Sprintf("1.bin-%x.json", n))
	}
	s = read(t, written(t, r.Files()), Options{})
	wantCodes(t, s, "error missing bin-0")
	if s.Roles[len(s.Roles)-1].Bins.Missing != 3 || !strings.Contains(s.Problems[0].What, "and 2 more") {
		t.Errorf("%+v", s.Problems)
	}
}

// hashPrefix returns the first digits of the hash that places a name in a bin.
func hashPrefix(name string, n int) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])[:n]
}

// TestBinsOfTargets has a target in its bin, and one in another.
func TestBinsOfTargets(t *testing.T) {
	r := newRepository(t)
	d := r.Targets["targets"].Delegations
	d.SuccinctRoles = &metadata.SuccinctRoles{KeyIDs: d.Roles[0].KeyIDs, Threshold: 2, BitLength: 2, NamePrefix: "bin"}
	d.Roles = nil
	delete(r.Targets, "revocations")
	for n := range 4 {
		name := fmt.Sprintf("bin-%d", n)
		r.Targets[name] = &metadata.Targets().Signed
		r.Targets[name].Version = 0
		r.Touch(name)
	}
	for n := range 40 {
		name := fmt.Sprintf("file-%d", n)
		check(t, r.PutIn(d.SuccinctRoles.GetRolesForTarget(name)[0].Name, name, []byte(name)))
	}
	check(t, r.Publish())
	s := read(t, written(t, r.Files()), Options{})
	wantCodes(t, s)
	if got := s.Roles[len(s.Roles)-1].Targets; got != 40 {
		t.Errorf("%d targets", got)
	}
	home := d.SuccinctRoles.GetRolesForTarget("file-0")[0].Name
	other := "bin-0"
	if home == other {
		other = "bin-1"
	}
	check(t, r.PutIn(other, "file-0", []byte("file-0")))
	check(t, r.Publish())
	s = read(t, written(t, r.Files()), Options{})
	wantCodes(t, s, "warning misplaced "+other)
	if !strings.Contains(s.Problems[0].What, "file-0") {
		t.Errorf("%+v", s.Problems)
	}
}

// nest delegates from targets to team, from there to tools and web, and from tools on to deep.
func nest(t *testing.T, r *sandbox.TUF) {
	t.Helper()
	for _, x := range []struct {
		by, role string
		holders  []string
		paths    []string
	}{
		{"targets", "team", []string{"@gina", "@hans", "@ines"}, []string{"team/*/*", "team/*"}}, {"team", "tools", []string{"@judy", "@karl", "@lena"}, []string{"team/tools/*"}},
		{"team", "web", []string{"@gina", "@judy", "@mike"}, []string{"team/web/*"}}, {"tools", "deep", []string{"@nora", "@otto", "@paul"}, []string{"team/tools/*"}},
	} {
		check(t, r.Delegate(x.by, metadata.DelegatedRole{Name: x.role, Threshold: 2, Paths: x.paths, Terminating: x.role == "tools"}, x.holders...))
		r.Days[x.role] = 100
	}
	check(t, r.PutIn("team", "team/readme", []byte("t")))
	check(t, r.PutIn("deep", "team/tools/hammer", []byte("h")))
}

// TestNested looks at roles that delegated roles delegate to.
func TestNested(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(t *testing.T, r *sandbox.TUF)
		then func(t *testing.T, files map[string][]byte)
		o    Options
		want []string
	}{
		{name: "all is well"},
		{name: "the deepest has expired", o: Options{Now: at(3)}, make: func(t *testing.T, r *sandbox.TUF) { r.Days["deep"] = 2 }, want: []string{"error expired deep"}},
		{name: "the deepest soon", o: Options{Now: at(3)}, make: func(t *testing.T, r *sandbox.TUF) { r.Days["deep"] = 6 }, want: []string{"warning expires-soon deep"}},
		{name: "one signature is missing", make: func(t *testing.T, r *sandbox.TUF) { r.Absent["@nora"], r.Absent["@otto"] = true, true }, want: []string{"error unsigned deep"}},
		{name: "a file is missing", then: remove("1.deep.json"), want: []string{"error missing deep"}},
		{name: "not listed", make: func(t *testing.T, r *sandbox.TUF) {
			check(t, r.Publish())
			delete(r.Snapshot.Meta, "deep.json")
		}, want: []string{"error unlisted deep"}},
		{name: "threshold 1", make: func(t *testing.T, r *sandbox.TUF) { r.Targets["tools"].Delegations.Roles[0].Threshold = 1 }, want: []string{"warning threshold-1 deep"}},
		{name: "no spare key", make: func(t *testing.T, r *sandbox.TUF) { r.Targets["tools"].Delegations.Roles[0].Threshold = 3 }, want: []string{"warning no-spare-key deep"}},
		{name: "the online key", make: func(t *testing.T, r *sandbox.TUF) { check(t, r.Hold("timestamp", 1, "@nora")) }, want: []string{"warning shared-key deep"}},
		{name: "a target is gone", then: func(t *testing.T, files map[string][]byte) {
			for name := range files {
				if strings.HasSuffix(name, ".hammer") {
					delete(files, name)
				}
			}
		}, want: []string{"error target-mismatch deep"}},
		{name: "a cycle", make: func(t *testing.T, r *sandbox.TUF) {
			check(t, r.Delegate("deep", metadata.DelegatedRole{Name: "team", Threshold: 2, Paths: []string{"*"}}, "@gina", "@hans", "@ines"))
			check(t, r.Delegate("deep", metadata.DelegatedRole{Name: "deep", Threshold: 2, Paths: []string{"*"}}, "@nora", "@otto", "@paul"))
			check(t, r.Delegate("deep", metadata.DelegatedRole{Name: "targets", Threshold: 2, Paths: []string{"*"}}, "@gina", "@hans", "@ines"))
		}, want: []string{"warning cycle deep", "warning cycle deep", "warning cycle deep"}},
		{name: "hash prefixes below", make: func(t *testing.T, r *sandbox.TUF) {
			x := &r.Targets["tools"].Delegations.Roles[0]
			x.Paths, x.PathHashPrefixes = nil, []string{hashPrefix("team/tools/hammer", 2)}
		}, want: []string{"warning hash-prefixes tools"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRepository(t)
			nest(t, r)
			if tc.make != nil {
				tc.make(t, r)
			}
			check(t, r.Publish())
			if tc.then != nil {
				tc.then(t, r.Files())
			}
			wantCodes(t, read(t, written(t, r.Files()), tc.o), tc.want...)
		})
	}
	r := newRepository(t)
	nest(t, r)
	// Two delegate to web, and name other keys; @judy alone is in both.
	check(t, r.Delegate("tools", metadata.DelegatedRole{Name: "web", Threshold: 2, Paths: []string{"team/web/*"}}, "@judy", "@quin", "@rosa"))
	r.Absent["@quin"], r.Absent["@rosa"] = true, true
	check(t, r.PutIn("web", "team/web/a", []byte("a")))
	check(t, r.Publish())
	s := read(t, written(t, r.Files()), Options{})
	wantCodes(t, s, "error unsigned web", "notice unknown-signature web")
	if !strings.Contains(s.Problems[0].What, "1 of the keys that tools lists for it, and 2 must") {
		t.Errorf("%+v", s.Problems)
	}
	got := map[string]Role{}
	for _, x := range s.Roles {
		got[x.Delegator+" "+x.Name] = x
	}
	for name, want := range map[string]Role{
		"targets team": {Threshold: 2, Signatures: 3, Verified: true, Targets: 1}, "team tools": {Threshold: 2, Signatures: 3, Verified: true, Terminating: true},
		"team web": {Threshold: 2, Signatures: 3, Verified: true, Targets: 1}, "tools web": {Threshold: 2, Signatures: 1, Targets: 1},
		"tools deep": {Threshold: 2, Signatures: 3, Verified: true, Targets: 1},
	} {
		x := got[name]
		if x.Threshold != want.Threshold || x.Signatures != want.Signatures || x.Verified != want.Verified || x.Terminating != want.Terminating || x.Targets != want.Targets || len(x.Keys) != 3 || x.Expires.IsZero() {
			t.Errorf("%s: %+v", name, x)
		}
	}
	// Its holders are asked for a new version.
	files := r.Source()
	files["event/event.json"], files["event/metadata/deep.json"] = []byte("{}"), files["metadata/deep.json"]
	s = read(t, written(t, files), Options{})
	if len(s.Events) != 1 || s.Events[0].Needs[0].By != "tools 1" || !s.Events[0].Ready {
		t.Errorf("%+v", s.Events)
	}
}

// TestP384 reads what tuf-on-ci's users with P-384 tokens publish.
func TestP384(t *testing.T) {
	for scheme, want := range map[string][]string{
		metadata.KeySchemeECDSA_SHA2_P384: nil,
		metadata.KeySchemeECDSA_SHA2_P256: {"warning key-scheme targets"},
	} {
		private, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		check(t, err)
		pem, err := cryptoutils.MarshalPublicKeyToPEM(private.Public())
		check(t, err)
		k := &metadata.Key{Type: "ecdsa", Scheme: scheme, Value: metadata.KeyVal{PublicKey: string(pem)}}
		r := newRepository(t)
		check(t, r.HoldAs("targets", k, private))
		check(t, r.Publish())
		s := read(t, written(t, r.Files()), Options{})
		wantCodes(t, s, want...)
		if got := s.Roles[3]; got.Signatures != 4 || !got.Verified {
			t.Errorf("%s: %+v", scheme, got)
		}
	}
}

func serve(t *testing.T, files map[string][]byte, odd map[string]http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/repo/")
		w.Header().Set("Date", start.Format(http.TimeFormat))
		if h := odd[name]; h != nil {
			h(w, r)
			return
		}
		data, ok := files[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/repo/"
}

func TestWeb(t *testing.T) {
	r := newRepository(t)
	rotate(3)(t, r)
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for _, tc := range []struct {
		name string
		odd  map[string]http.HandlerFunc
		o    Options
		want []string
	}{
		{name: "fine"},
		{name: "403 for the next root", odd: map[string]http.HandlerFunc{"4.root.json": status(403)}, want: []string{"error forbidden root"}},
		{name: "a root is missing", odd: map[string]http.HandlerFunc{"2.root.json": status(404)}, want: []string{"error root-gap root"}},
		{name: "the first roots are missing", odd: map[string]http.HandlerFunc{"1.root.json": status(404), "2.root.json": status(404)}, want: []string{"error root-gap root"}},
		{name: "500 for the next root", odd: map[string]http.HandlerFunc{"4.root.json": status(500)}, want: []string{"error unreadable root"}},
		{name: "500 for targets", odd: map[string]http.HandlerFunc{"1.targets.json": status(500)}, want: []string{"error unreadable targets"}},
		{name: "timestamp without end", odd: map[string]http.HandlerFunc{"timestamp.json": func(w http.ResponseWriter, _ *http.Request) {
			for range 100 {
				_, _ = w.Write(make([]byte, 1<<16))
			}
		}}, want: []string{"error incomplete", "error too-long timestamp"}},
		{name: "targets longer than listed", odd: map[string]http.HandlerFunc{"1.targets.json": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(append(slices.Clone(r.Files()["1.targets.json"]), ' '))
		}}, want: []string{"error too-long targets"}},
		{name: "the server's clock is behind", o: Options{Now: at(0.01)}, want: []string{"warning clock-skew"}},
	} {
		t.Run(tc.name, func(t *testing.T) { wantCodes(t, read(t, serve(t, r.Files(), tc.odd), tc.o), tc.want...) })
	}
}

// A server that hangs is left when the context ends.
func TestContext(t *testing.T) {
	r := newRepository(t)
	check(t, r.Publish())
	for _, hangs := range []string{"1.root.json", "2.root.json", "timestamp.json", "1.targets.json"} {
		ctx, cancel := context.WithCancel(t.Context())
		url := serve(t, r.Files(), map[string]http.HandlerFunc{hangs: func(w http.ResponseWriter, q *http.Request) {
			cancel()
			<-q.Context().Done()
		}})
		if _, err := Read(ctx, url, Options{Now: at(0)}); err == nil || !strings.Contains(err.Error(), "context canceled") {
			t.Errorf("%s hangs: %v", hangs, err)
		}
		cancel()
	}
}

func TestPinned(t *testing.T) {
	r := newRepository(t)
	rotate(3)(t, r)
	s := read(t, written(t, r.Files()), Options{Root: r.Files()["2.root.json"]})
	wantCodes(t, s)
	if s.Pinned != 2 || s.RootChain.First != 2 || s.RootChain.Last != 3 {
		t.Errorf("%+v", s.RootChain)
	}
	other := newRepository(t)
	check(t, other.Publish())
	s = read(t, written(t, r.Files()), Options{Root: other.Files()["1.root.json"]})
	if got := codes(s); !slices.Contains(got, "error root-differs root") || !slices.Contains(got, "error root-refused root") || !slices.Contains(got, "error unsigned timestamp") {
		t.Errorf("%q", got)
	}
	if _, err := Read(t.Context(), written(t, r.Files()), Options{Root: []byte("{")}); err == nil {
		t.Error("a pinned root that is none is taken")
	}
}

func TestReadFails(t *testing.T) {
	for source, want := range map[string]string{
		t.TempDir():                          "no root metadata",
		filepath.Join(t.TempDir(), "no"):     "no such file",
		"http://":                            "give the address",
		"https://tuf.example/?x":             "without query",
		serve(t, map[string][]byte{}, nil):   "no root metadata",
		"http://user:secret@127.0.0.1:1/tuf": "connection refused",
	} {
		_, err := Read(t.Context(), source, Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", source, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("it tells the password: %v", err)
		}
	}
}

func TestAttack(t *testing.T) {
	outside := t.TempDir()
	check(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("{}"), 0o600))
	t.Run("a target whose name leads out", func(t *testing.T) {
		r := newRepository(t)
		f, err := metadata.TargetFile().FromBytes("x", []byte("{}"))
		check(t, err)
		r.Targets["targets"].Targets["../../secret"] = f
		check(t, r.Publish())
		s := read(t, written(t, r.Files()), Options{})
		wantCodes(t, s, "error target-mismatch targets")
		if !strings.Contains(s.Problems[0].What, "leads out") {
			t.Errorf("%+v", s.Problems)
		}
	})
	t.Run("a target that is a symbolic link to outside", func(t *testing.T) {
		r := newRepository(t)
		check(t, r.Publish())
		dir := written(t, r.Files())
		list, err := filepath.Glob(filepath.Join(dir, "targets", "*.trusted_root.json"))
		check(t, err)
		check(t, os.Remove(list[0]))
		check(t, os.Symlink(filepath.Join(outside, "secret"), list[0])) // the very content that is signed
		wantCodes(t, read(t, dir, Options{}), "error target-mismatch targets")
	})
	t.Run("a role whose name leads out", func(t *testing.T) {
		r := newRepository(t)
		d := r.Targets["targets"].Delegations
		d.Roles[0].Name = "../../secret"
		r.Targets[d.Roles[0].Name] = r.Targets["revocations"]
		delete(r.Targets, "revocations")
		r.Touch(d.Roles[0].Name)
		check(t, r.Publish())
		wantCodes(t, read(t, written(t, r.Files()), Options{})) // it lies in the repository, under an escaped name
	})
	t.Run("a pipe in place of a file", func(t *testing.T) {
		r := newRepository(t)
		check(t, r.Rotate())
		check(t, r.Publish())
		source := r.Source()
		source["event/event.json"], source["event/metadata/targets.json"] = []byte("{}"), source["metadata/targets.json"]
		source["published/timestamp.json"] = source["metadata/timestamp.json"]
		for _, files := range []map[string][]byte{r.Files(), source} {
			check(t, sandbox.Pipes(written(t, files), t.TempDir(), func(dir, name string) {
				s, err := Read(t.Context(), dir, Options{Now: at(0)})
				check(t, err)
				if strings.HasPrefix(name, "event/") || strings.HasPrefix(name, "published/") {
					return // what is no file there counts for nothing
				}
				if !slices.ContainsFunc(s.Problems, func(p Problem) bool { return strings.Contains(p.What, "no regular file") && p.Severity != Fine }) {
					t.Errorf("%s: %q", name, codes(s))
				}
				if !strings.HasPrefix(name, "targets/") && !strings.Contains(s.Problems[0].What, name) && !strings.Contains(s.Problems[len(s.Problems)-1].What, name) {
					t.Errorf("%s is not named: %+v", name, s.Problems)
				}
			}))
		}
	})
	t.Run("a pipe in place of a directory", func(t *testing.T) {
		r := newRepository(t)
		check(t, r.Publish())
		for _, name := range []string{".", "metadata", "metadata/root_history", "event", "event/metadata"} {
			dir := filepath.Join(written(t, r.Source()), "copy")
			check(t, sandbox.WriteFiles(dir, r.Source()))
			if name == "event/metadata" {
				check(t, sandbox.WriteFiles(dir, map[string][]byte{"event/event.json": []byte("{}")}))
			}
			check(t, os.RemoveAll(filepath.Join(dir, name)))
			check(t, syscall.Mkfifo(filepath.Join(dir, name), 0o644))
			check(t, sandbox.Ends(name, func() {
				s, err := Read(t.Context(), dir, Options{Now: at(0)})
				if err == nil && s.Severity == Fine && !strings.HasPrefix(name, "event") {
					t.Errorf("%s: nothing is said", name)
				}
			}))
		}
	})
	t.Run("a server with roots without end", func(t *testing.T) {
		t.Parallel()
		content := make([]byte, maxRoot)
		var asked atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) > 2*maxAllRoots/maxRoot {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			_, _ = w.Write(content)
		}))
		t.Cleanup(server.Close)
		s := read(t, server.URL, Options{})
		if !slices.ContainsFunc(s.Problems, func(p Problem) bool { return p.Code == "too-many-roots" }) || asked.Load() > maxAllRoots/maxRoot+1 {
			t.Errorf("%d roots were read, and it is told: %+v", asked.Load(), s.Problems[max(0, len(s.Problems)-1):])
		}
	})
	t.Run("a role that delegates without end", func(t *testing.T) {
		r := newRepository(t)
		for n := range maxDelegatedWeb {
			name := fmt.Sprintf("r%d", n)
			check(t, r.Delegate("targets", metadata.DelegatedRole{Name: name, Threshold: 2, Paths: []string{"x"}}, sandbox.TUFResponders...))
			delete(r.Targets, name)
		}
		check(t, r.Publish())
		server := httptest.NewServer(http.FileServer(http.Dir(written(t, r.Files()))))
		t.Cleanup(server.Close)
		s := read(t, server.URL, Options{})
		unread := slices.IndexFunc(s.Problems, func(p Problem) bool { return p.Code == "unread" })
		if unread < 0 || !strings.Contains(s.Problems[unread].What, fmt.Sprintf("1 delegated roles were not looked at: after %d of them it ends", maxDelegatedWeb)) {
			t.Errorf("%q", codes(s)[max(0, len(s.Problems)-3):])
		}
	})
	t.Run("countless paths for countless targets", func(t *testing.T) {
		r := newRepository(t)
		revocations := &r.Targets["targets"].Delegations.Roles[0]
		for n := range 5000 {
			revocations.Paths = append(revocations.Paths, fmt.Sprintf("%d/*/*/*/*/*/*", n))
			r.Targets["revocations"].Targets[fmt.Sprintf("a/b/c/d/e/f/%d", n)] = r.Targets["revocations"].Targets["revocations/index.json"]
		}
		check(t, r.Publish())
		s := read(t, written(t, r.Files()), Options{SkipTargets: true})
		wantCodes(t, s, "notice unread revocations")
		if !strings.Contains(s.Problems[0].What, fmt.Sprintf("more than %d comparisons", maxMatches)) {
			t.Errorf("%+v", s.Problems)
		}
	})
	t.Run("one key under two ids to reach the threshold", func(t *testing.T) {
		r := newRepository(t)
		alice, err := r.Key("@alice")
		check(t, err)
		k := r.Root.Keys[alice]
		check(t, r.Alias("targets", &metadata.Key{Type: k.Type, Scheme: k.Scheme, Value: k.Value}, "@alice"))
		check(t, r.Rotate())
		r.Absent["@bob"], r.Absent["@carol"] = true, true
		check(t, r.Publish())
		s := read(t, written(t, r.Files()), Options{})
		if got := codes(s); !slices.Contains(got, "error unsigned targets") || !slices.Contains(got, "warning duplicate-key targets") || s.Roles[3].Signatures != 1 {
			t.Errorf("%q", got)
		}
	})
	t.Run("the next root by the online key alone", func(t *testing.T) {
		r := newRepository(t)
		check(t, r.Publish())
		for _, who := range sandbox.TUFHolders {
			r.Absent[who] = true
		}
		check(t, r.Hold("root", 1, "online"))
		check(t, r.Hold("targets", 1, "online"))
		check(t, r.Rotate())
		r.Touch("targets")
		check(t, r.Publish())
		s := read(t, written(t, r.Files()), Options{})
		if s.RootChain.Last != 1 || s.RootChain.Verified || s.Severity != Error {
			t.Errorf("%+v", s.RootChain)
		}
	})
}

// FuzzRead looks at whatever somebody publishes.
func FuzzRead(f *testing.F) {
	r := newRepository(f)
	check(f, r.Publish())
	files := r.Files()
	f.Add(files["1.root.json"], files["timestamp.json"], files["1.snapshot.json"], files["1.targets.json"])
	f.Add([]byte(`{"signed":{"_type":"root","version":1,"expires":"2030-01-01T00:00:00Z","keys":{"a":null},"roles":{"root":{"keyids":["a"],"threshold":1},"timestamp":null}}}`),
		[]byte(`{"signed":{"_type":"timestamp","meta":{"snapshot.json":null}}}`), []byte(`{}`), []byte(`{"signed":{"_type":"targets","delegations":{"succinct_roles":{"bit_length":31}}}}`))
	f.Fuzz(func(t *testing.T, root, timestamp, snapshot, targets []byte) {
		dir := written(t, map[string][]byte{"1.root.json": root, "timestamp.json": timestamp, "1.snapshot.json": snapshot, "1.targets.json": targets})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		s, err := Read(ctx, dir, Options{Now: at(0)})
		if err != nil {
			return
		}
		if _, err := json.Marshal(s); err != nil {
			t.Errorf("the status cannot be written: %v", err)
		}
		// Nobody but the holders can make anything that is fine.
		if s.Severity != Error && string(root) == string(files["1.root.json"]) && !slices.ContainsFunc(s.Roles, func(r Role) bool { return r.Verified && r.Name == "targets" }) {
			t.Errorf("no error, and targets are not verified: %+v", s)
		}
	})
}

// BenchmarkSigstoreRoots is the status of the fifteen real roots.
func BenchmarkSigstoreRoots(b *testing.B) {
	dir := written(b, sigstoreRoots(b))
	for b.Loop() {
		if _, err := Read(b.Context(), dir, Options{Now: inAugust}); err != nil {
			b.Fatal(err)
		}
	}
}
