package pack

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
)

const (
	incidentID = "INC-1"
	keyless    = `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`
)

var (
	made    = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	expires = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := line(v)
	must(t, err)
	return b
}

// actor is a person with one credential.
type actor struct {
	person
	sign func(t testing.TB, message []byte) string
}

func pemKey(t testing.TB, public crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func encoded(sig []byte, err error) func(testing.TB) string {
	return func(t testing.TB) string {
		t.Helper()
		must(t, err)
		return base64.StdEncoding.EncodeToString(sig)
	}
}

func ecdsaActor(t testing.TB, name string, curve elliptic.Curve) actor {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	must(t, err)
	return actor{person{Name: name, Credentials: []credential{{PublicKey: pemKey(t, key.Public())}}}, func(t testing.TB, m []byte) string {
		sum := sha256.Sum256(m)
		digest := sum[:]
		switch curve {
		case elliptic.P384():
			sum := sha512.Sum384(m)
			digest = sum[:]
		case elliptic.P521():
			sum := sha512.Sum512(m)
			digest = sum[:]
		}
		return encoded(ecdsa.SignASN1(rand.Reader, key, digest))(t)
	}}
}

func edActor(t testing.TB, name string) actor {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	return actor{person{Name: name, Credentials: []credential{{PublicKey: pemKey(t, public)}}}, func(t testing.TB, m []byte) string {
		return encoded(ed25519.Sign(key, m), nil)(t)
	}}
}

func rsaActor(t testing.TB, name string) actor {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	return actor{person{Name: name, Credentials: []credential{{PublicKey: pemKey(t, key.Public())}}}, func(t testing.TB, m []byte) string {
		sum := sha256.Sum256(m)
		return encoded(rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:]))(t)
	}}
}

// sshActor signs with the real ssh-keygen.
func sshActor(t testing.TB, name string, kind ...string) actor {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("ssh-keygen is not installed")
	}
	return sshActorAt(t, name, filepath.Join(t.TempDir(), "id"), kind...)
}

func sshActorAt(t testing.TB, name, file string, kind ...string) actor {
	args := append([]string{"-q", "-N", "", "-C", "comment of " + name, "-f", file, "-t"}, kind...)
	if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	public, err := os.ReadFile(file + ".pub")
	must(t, err)
	return actor{person{Name: name, Credentials: []credential{{SSH: strings.TrimSpace(string(public))}}}, func(t testing.TB, m []byte) string {
		return sshKeygenSign(t, file, sshNamespace, m)
	}}
}

func sshKeygenSign(t testing.TB, key, namespace string, m []byte) string {
	t.Helper()
	c := exec.Command("ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", key)
	c.Stdin = bytes.NewReader(m)
	out, err := c.Output()
	must(t, err)
	return string(out)
}

// inProcessSSH signs as ssh-keygen does, where none is installed.
func inProcessSSH(t testing.TB, name string) actor {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	s, err := ssh.NewSignerFromKey(key)
	must(t, err)
	return actor{person{Name: name, Credentials: []credential{{SSH: string(ssh.MarshalAuthorizedKey(s.PublicKey()))}}}, func(t testing.TB, m []byte) string {
		sum := sha512.Sum512(m)
		over := append([]byte(sshMagic), ssh.Marshal(struct {
			Namespace, Reserved, HashAlg string
			Digest                       []byte
		}{sshNamespace, "", "sha512", sum[:]})...)
		sig, err := s.Sign(rand.Reader, over)
		must(t, err)
		blob := append([]byte(sshMagic), ssh.Marshal(sshsig{1, s.PublicKey().Marshal(), sshNamespace, "", "sha512", ssh.Marshal(sig)})...)
		return string(pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: blob}))
	}}
}

func keylessActor(name string) actor {
	return actor{person{Name: name, Credentials: []credential{{Issuer: "https://issuer.example", Subject: name + "@example.com"}}}, func(testing.TB, []byte) string { return keyless }}
}

// log is a journal in memory.
type log struct {
	lines  [][]byte
	hashes []tlog.Hash
	signer note.Signer
	key    string
	verify note.Verifier
	late   time.Duration // added to the time of every entry
}

func newLog(t testing.TB) *log {
	t.Helper()
	// The same key each time: packs are compared byte by byte, and fuzzed in many processes.
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	key, err := note.NewEd25519VerifierKey("reseal.test", private.Public().(ed25519.PublicKey))
	must(t, err)
	v, err := note.NewVerifier(key)
	must(t, err)
	return &log{signer: fixedSigner{v, private}, key: key, verify: v}
}

type fixedSigner struct {
	note.Verifier
	private ed25519.PrivateKey
}

func (s fixedSigner) Sign(m []byte) ([]byte, error) { return ed25519.Sign(s.private, m), nil }

func (l *log) read(at []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(at))
	for n, i := range at {
		out[n] = l.hashes[i]
	}
	return out, nil
}

func (l *log) add(t testing.TB, action, digest string) int64 {
	t.Helper()
	n := int64(len(l.lines))
	raw, err := journal.Entry{Index: n, Time: made.Add(time.Duration(n)*time.Second + l.late), Actor: "alice", Reason: "test <&>", Action: action, Subject: "s", Digest: digest}.Marshal()
	must(t, err)
	hashes, err := tlog.StoredHashes(n, raw, tlog.HashReaderFunc(l.read))
	must(t, err)
	l.lines, l.hashes = append(l.lines, raw), append(l.hashes, hashes...)
	return n
}

func (l *log) checkpoint(t testing.TB, size int64) []byte {
	t.Helper()
	root, err := tlog.TreeHash(size, tlog.HashReaderFunc(l.read))
	must(t, err)
	c, err := journal.Checkpoint{Size: size, Root: root}.Sign(l.signer)
	must(t, err)
	return c
}

func raws(hashes []tlog.Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for n := range hashes {
		out[n] = hashes[n][:]
	}
	return out
}

func (l *log) entry(t testing.TB, n, size int64) Entry {
	t.Helper()
	p, err := tlog.ProveRecord(size, n, tlog.HashReaderFunc(l.read))
	must(t, err)
	return Entry{l.lines[n], n, raws(p)}
}

// seal journals a manifest and proves it, as the caller of Write does. size is
// of the journal when the entries were proven.
func (l *log) seal(t testing.TB, size int64) func(string) (Seal, error) {
	return func(manifest string) (Seal, error) {
		l.add(t, "something.else", "")
		n := l.add(t, SealedAction, manifest)
		l.add(t, "something.else", "")
		p, err := tlog.ProveTree(n+2, size, tlog.HashReaderFunc(l.read))
		return Seal{l.entry(t, n, n+2), l.checkpoint(t, n+2), raws(p)}, err
	}
}

func each(bodies ...[]byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, b := range bodies {
			if !yield(b, nil) {
				return
			}
		}
	}
}

// kase is an incident with everything that a pack can hold.
type kase struct {
	log         *log
	set         approverSet
	alice       actor // proposes
	bob         actor // RSA
	carol       actor // SSH
	dave        actor // P-256, of the role security
	erin        actor // keyless
	header      map[string]any
	items       [][]byte
	decisions   map[string]int64
	applied     bool
	by          []actor // approve
	proposal    bool
	glass       bool
	motion      bool
	withdraws   string // severity of the incident that the motion withdraws; empty: it names no version
	forget      string
	change      func(*Contents)
	revocations map[string][]byte
}

func newKase(t testing.TB) *kase {
	k := &kase{log: newLog(t), alice: edActor(t, "alice"), bob: rsaActor(t, "bob"), carol: inProcessSSH(t, "carol"), dave: ecdsaActor(t, "dave", elliptic.P256()), erin: keylessActor("erin")}
	k.dave.Roles = []string{"security"}
	for _, a := range []actor{k.alice, k.bob, k.carol, k.dave, k.erin} {
		k.set.People = append(k.set.People, a.person)
	}
	k.set.Quorum, k.set.Severity, k.set.Roles = 1, map[string]int{"high": 2}, map[string]int{"security": 1}
	k.header = map[string]any{"schema": "reseal.plan/v1", "incident": incidentID, "proposer": "alice", "severity": "high", "quorum": 2, "expires_at": expires}
	k.decisions = map[string]int64{"resign": 2, "hold": 1, "none": 0}
	for n, d := range []string{"resign", "hold", "resign"} {
		k.items = append(k.items, encode(t, map[string]any{"seq": n + 1, "decision": d, "reason": "because <&>", "digest": fmt.Sprintf("sha256:%064x", n)}))
	}
	k.applied, k.proposal, k.by = true, true, []actor{k.bob, k.carol, k.dave}
	k.revocations = map[string][]byte{"0001-INC-1.json": []byte(`{"_type":"https://in-toto.io/Statement/v1"}`)}
	return k
}

func (k *kase) approval(t testing.TB, a actor, kind, digest, subject string, proposal bool) []byte {
	request, err := approvalRequest(kind, digest, subject, a.Name, expires)
	must(t, err)
	return encode(t, map[string]any{"schema": approvalSchema, "kind": kind, "digest": digest, "approver": a.Name, "signature": a.sign(t, request), "at": made, "proposal": proposal})
}

// contents signs, journals and proves everything.
func (k *kase) contents(t testing.TB) Contents {
	t.Helper()
	set := encode(t, k.set)
	k.header["approvers"] = inventory.Digest(set)
	lines := append([][]byte{encode(t, k.header)}, k.items...)
	lines = append(lines, encode(t, map[string]any{"decisions": k.decisions}))
	digest := inventory.Digest(append(bytes.Join(lines, []byte{'\n'}), '\n'))
	p := Plan{Digest: digest, Applied: k.applied, Lines: each(lines...)}
	for _, a := range k.by {
		p.Approvals = append(p.Approvals, k.approval(t, a, "plan", digest, incidentID, false))
	}
	if k.proposal {
		p.Proposal = k.approval(t, k.alice, "plan", digest, incidentID, true)
	}
	if k.glass {
		request, err := breakGlassRequest(digest, incidentID, "bob", "nobody <b>answers</b>", expires)
		must(t, err)
		p.BreakGlass = [][]byte{encode(t, breakGlass{breakGlassSchema, digest, "bob", "nobody <b>answers</b>", k.bob.sign(t, request), made})}
	}
	c := Contents{
		MadeAt: made, Incident: []byte(`{"id":"INC-1","title":"last"}`), History: [][]byte{[]byte(`{"id":"INC-1","title":"first"}`)},
		Plans: []Plan{p}, Approvers: [][]byte{set}, Revocations: k.revocations,
		Before: each([]byte(`{"decision":"resign"}`), []byte(`{"decision":"hold"}`)), After: each([]byte(`{"decision":"none"}`)),
		JournalKey: k.log.key, Receipts: [][]byte{[]byte(`{"size":1}`)}, Report: report(),
	}
	if k.motion {
		was := ""
		if k.withdraws != "" {
			c.History = append(c.History, encode(t, map[string]string{"id": incidentID, "severity": k.withdraws}))
			was = inventory.Digest(c.History[1])
		}
		body := encode(t, map[string]any{"incident": was, "kind": "withdrawal", "subject": incidentID, "proposer": "alice", "expires_at": expires, "base": inventory.Digest(set)})
		m := Motion{Body: body, Carried: true, Proposal: k.approval(t, k.alice, "withdrawal", inventory.Digest(body), incidentID, true)}
		for _, a := range []actor{k.bob, k.dave} {
			m.Approvals = append(m.Approvals, k.approval(t, a, "withdrawal", inventory.Digest(body), incidentID, false))
		}
		c.Motions = []Motion{m}
	}
	if k.change != nil {
		k.change(&c)
	}
	k.prove(t, &c)
	return c
}

// prove journals the documents and adds their entries.
func (k *kase) prove(t testing.TB, c *Contents) {
	var own []int64
	for n, d := range c.Documents() {
		if n%2 == 0 {
			k.log.add(t, "somebody.else", "")
		}
		if d != k.forget {
			own = append(own, k.log.add(t, "document.put", d))
		}
	}
	size := int64(len(k.log.lines))
	c.Checkpoint = k.log.checkpoint(t, size)
	c.Entries = func(yield func(Entry, error) bool) {
		for _, n := range own {
			if !yield(k.log.entry(t, n, size), nil) {
				return
			}
		}
	}
}

// write makes a pack of the contents and returns its name.
func (k *kase) write(t testing.TB, form Form) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "pack")
	c := k.contents(t)
	_, err := Write(name, form, c, k.log.seal(t, int64(len(k.log.lines))))
	must(t, err)
	return name
}

// full is an incident in which everything there can be has happened.
func full(t testing.TB) *kase {
	k := newKase(t)
	k.glass, k.motion = true, true
	return k
}

func verifyPath(t testing.TB, name string, opt Options) Result {
	t.Helper()
	fsys, closer, err := Open(name)
	if err != nil {
		return Result{Checks: []Check{{Name: "open", Detail: err.Error()}}}
	}
	defer closer.Close()
	return Verify(fsys, opt)
}

func failures(r Result) string {
	var out []string
	for _, c := range r.Checks {
		if !c.OK {
			out = append(out, c.Name+": "+c.Detail)
		}
	}
	return strings.Join(out, "\n")
}

// program is where the second program is, once TestMain has made the directory.
var program string

// stranger is the second program, built once.
var stranger = sync.OnceValues(func() (string, error) {
	file := filepath.Join(program, "verify-pack")
	out, err := exec.Command("go", "build", "-o", file, "../../testdata/verify-pack").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return file, err
})

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "verify-pack")
	if err != nil {
		panic(err)
	}
	program = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// strangerSays runs the second program over a pack.
func strangerSays(t testing.TB, args ...string) (out string, ok bool) {
	t.Helper()
	file, err := stranger()
	must(t, err)
	raw, err := exec.Command(file, args...).CombinedOutput()
	if _, refused := err.(*exec.ExitError); err != nil && !refused {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "goroutine ") {
		t.Errorf("it crashed: %s", raw)
	}
	return string(raw), err == nil
}

// readPack returns the files of a directory.
func readPack(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	must(t, fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		out[name], err = os.ReadFile(filepath.Join(dir, name))
		return err
	}))
	return out
}

func names(files map[string][]byte) []string {
	var out []string
	for n := range files {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func decode(t testing.TB, raw []byte, into any) {
	t.Helper()
	must(t, json.Unmarshal(raw, into))
}
