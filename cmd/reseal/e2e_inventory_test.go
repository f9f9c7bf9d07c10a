//go:build e2e && linux

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestInventory has real cosign sign images in every way it knows, writes down
// what was signed, and holds reseal's inventory against that list: after a first
// scan, after changes, after scans that were killed, and after every signature
// was deleted from the registry and restored.
func TestInventory(t *testing.T) {
	if isolated(t) {
		return
	}
	w := newWorld(t)
	f := newForge(w)
	step := w.steps()

	f.orders()
	w.parallel(len(f.pieces), func(n int) error { return f.produce(f.pieces[n]) })
	step("push %d images and let real cosign make %d signatures", len(f.pieces), len(f.signings))
	f.judged()
	step("real cosign verifies each of them")

	f.initialise("reseal")
	f.scan("reseal")
	table := f.table(f.listed("after the first scan"))
	f.grouped()
	step("scan: every signature is listed as it was made, and none else")

	undisturbed := f.undisturbed()
	f.killed(undisturbed)
	if url, ok := w.postgres(); ok {
		f.sameInPostgres(url, undisturbed.export)
		step("the same inventory in PostgreSQL")
	} else {
		fmt.Println("e2e  PostgreSQL is not installed: no scan into it")
	}

	f.changed()
	step("a layer more in a signature tag, a moved tag, a bundle more: each is seen")
	f.unchanged()
	step("nothing changed: no blob is fetched")
	f.identified()
	step("a key that becomes known names its signatures, without the registry")

	f.restored()
	step("every signature is deleted and collected as garbage, restored, and verified by real cosign again")
	fmt.Print(table)
	t.Log("\n" + table)
}

// A party signs: with a key, or as somebody whom the issuer knows.
type party struct {
	name    string // in reseal, of those it is told about
	kind    string
	subject string
	issuer  string
	sign    []string // how cosign signs as the party
	verify  []string // how cosign is told whom to accept
	hidden  bool     // the key is not known to reseal
}

// An order is what one run of real cosign is asked for.
type order struct {
	cosign   string
	format   string // legacy or bundle
	by       *party
	services string // see noServices
	claim    string // predicate type, or empty for a signature
	whole    bool   // an index with everything in it
	location string // COSIGN_REPOSITORY
}

// A signing is one signature that real cosign made: what the inventory must
// say of it.
type signing struct {
	repository, digest, location, format, predicate string
	by                                              *party
	stamped                                         bool
	from, until                                     time.Time // it was made in between
}

// key says which signature of the inventory it is. A bundle names its key, but
// a legacy signature says nothing of a key that is not known.
func (s *signing) key() string {
	by := fmt.Sprintf("%s %s (%s)", s.by.kind, s.by.subject, s.by.issuer)
	if s.by.hidden && s.format != bundle {
		by = "unknown  ()"
	}
	return fmt.Sprintf("%s@%s %s in %q: %s by %s", s.repository, s.digest, s.format, s.location, s.predicate, by)
}

// A piece is an image with everything that is signed about it.
type piece struct {
	image
	orders []order
}

// A forge has real cosign make signatures and keeps the list of them.
type forge struct {
	*world
	sigstore                                     *sigstore
	release, nightly, builder, alice, bob, robot *party
	vendor                                       *party // whom reseal does not know at first

	pieces []*piece

	mu       sync.Mutex
	signings []*signing
}

// claims are the attestations that are made, by the name that cosign has for
// their type.
var claims = map[string]struct{ cosign, file string }{
	sbomType:       {"spdxjson", "sbom.json"},
	provenanceType: {"slsaprovenance1", "provenance.json"},
}

func newForge(w *world) *forge {
	f := &forge{world: w, sigstore: w.sigstore()}
	w.ok(w.cosign2("generate-key-pair", "--output-key-prefix", "vendor"))
	key := func(name, file string) *party {
		return &party{name: name, kind: "key", subject: w.publicKey(file + ".pub"), sign: []string{"--key", file + ".key"}, verify: []string{"--key", file + ".pub"}}
	}
	keyless := func(token, subject, issuer string) *party {
		return &party{kind: "keyless", subject: subject, issuer: issuer, sign: []string{"--identity-token", token},
			verify: []string{"--certificate-identity", subject, "--certificate-oidc-issuer", issuer}}
	}
	f.release, f.nightly, f.builder = key("release", "old"), key("nightly", "new"), key("builder", "builder")
	f.vendor = key("", "vendor")
	f.vendor.hidden = true
	f.alice = keyless("alice.token", "alice@e2e.example", f.sigstore.issuer)
	f.bob = keyless("bob.token", "bob@e2e.example", f.sigstore.issuer)
	f.robot = keyless("workflow.token", "https://github.com/e2e/app/.github/workflows/release.yml@refs/heads/main", f.sigstore.actions)
	return f
}

// orders makes up 200 images and what is signed about each.
func (f *forge) orders() {
	keys, people := []*party{f.release, f.nightly, f.builder}, []*party{f.alice, f.bob, f.robot}
	repositories := []string{"/platform/api", "/platform/web", "/edge/gateway", "/edge/agent", "/shop/cart"}
	elsewhere := f.host + "/signatures"
	for _, g := range []struct {
		n      int
		index  bool
		orders func(n int) []order
	}{
		{40, false, func(n int) []order {
			return []order{{cosign: "cosign2", format: legacy, by: keys[n%3], services: noServices}}
		}},
		{30, false, func(n int) []order {
			return []order{{cosign: "cosign2", format: legacy, by: keys[n%3], services: timestamps}}
		}},
		{20, false, func(n int) []order {
			return []order{{cosign: "cosign2", format: legacy, by: people[n%3], services: timestamps}}
		}},
		{10, false, func(n int) []order {
			return []order{
				{cosign: "cosign2", format: legacy, by: f.release, services: timestamps},
				{cosign: "cosign2", format: legacy, by: f.release, services: timestamps, claim: sbomType},
				{cosign: "cosign2", format: legacy, by: f.robot, services: timestamps, claim: provenanceType},
			}
		}},
		{5, false, func(n int) []order {
			return []order{{cosign: "cosign2", format: legacy, by: f.nightly, services: noServices, location: elsewhere}}
		}},
		{1, true, func(n int) []order {
			return []order{{cosign: "cosign2", format: legacy, by: f.release, services: noServices, whole: true}}
		}},
		{30, false, func(n int) []order {
			return []order{{cosign: "cosign3", format: bundle, by: keys[n%3], services: noServices}}
		}},
		{25, false, func(n int) []order {
			return []order{{cosign: "cosign3", format: bundle, by: keys[n%3], services: timesAndV2}}
		}},
		{15, false, func(n int) []order {
			return []order{{cosign: "cosign3", format: bundle, by: people[n%3], services: timesAndV2}}
		}},
		{12, false, func(n int) []order {
			return []order{
				{cosign: "cosign3", format: bundle, by: f.nightly, services: timestamps},
				{cosign: "cosign3", format: bundle, by: f.nightly, services: timesAndV2, claim: sbomType},
				{cosign: "cosign3", format: bundle, by: f.robot, services: timesAndV2, claim: provenanceType},
			}
		}},
		{1, true, func(n int) []order {
			return []order{{cosign: "cosign3", format: bundle, by: f.alice, services: timesAndV2, whole: true}}
		}},
		{6, false, func(n int) []order {
			return []order{{cosign: "cosign2", format: bundle, by: keys[n%3], services: timestamps}} // Rekor v2 refuses its DSSE entries
		}},
		{5, false, func(n int) []order {
			return []order{
				{cosign: "cosign2", format: legacy, by: f.release, services: timestamps},
				{cosign: "cosign3", format: bundle, by: f.bob, services: timestamps},
			}
		}},
	} {
		for n := range g.n {
			p := &piece{image: image{repository: f.host + repositories[n%len(repositories)], tag: fmt.Sprintf("1.%d", len(f.pieces)), index: g.index}, orders: g.orders(n)}
			if p.orders[0].location != "" {
				p.repository = f.host + "/shop/elsewhere"
			}
			f.pieces = append(f.pieces, p)
		}
	}
}

// produce pushes an image and has everything about it signed, in turn.
func (f *forge) produce(p *piece) error {
	if err := push(f.Context(), &p.image); err != nil {
		return fmt.Errorf("push %s: %w", p.ref(), err)
	}
	for _, o := range p.orders {
		if err := f.carryOut(p, o); err != nil {
			return err
		}
	}
	return nil
}

// carryOut has real cosign sign, and writes down what.
func (f *forge) carryOut(p *piece, o order) error {
	s := signing{repository: p.repository, digest: p.digest, location: o.location, format: o.format, predicate: signType, by: o.by, stamped: o.services != noServices}
	args := []string{"sign", "--yes"}
	if o.claim != "" {
		s.predicate = o.claim
		if o.format == legacy {
			s.format = "legacy-att"
		}
		args = []string{"attest", "--yes", "--type", claims[o.claim].cosign, "--predicate", claims[o.claim].file}
	}
	args = append(args, o.by.sign...)
	w := f.world
	switch {
	case o.format == legacy:
		args = append(args, "--tlog-upload=false")
		if o.by.kind == "keyless" {
			args = append(args, "--fulcio-url", f.sigstore.fulcio)
			w = w.with("SIGSTORE_ROOT_FILE=fulcio.pem", "SIGSTORE_CT_LOG_PUBLIC_KEY_FILE=ct.pub")
		}
		if s.stamped {
			args = append(args, "--timestamp-server-url", w.tsa)
		}
	default:
		args = append(args, "--trusted-root", "trusted_root.json", "--signing-config", o.services)
		if o.cosign == "cosign2" {
			args = append(args, "--new-bundle-format")
		}
	}
	if o.location != "" {
		w = w.with("COSIGN_REPOSITORY=" + o.location)
	}
	digests := []string{p.digest}
	if o.whole {
		args = append(args, "--recursive")
		ref, err := name.NewDigest(p.ref())
		if err != nil {
			return err
		}
		index, err := manifest(ref)
		if err != nil {
			return err
		}
		for _, m := range index.Manifests {
			digests = append(digests, m.Digest.String())
		}
	}
	s.from = time.Now().Truncate(time.Second) // timestamps count seconds
	if err := w.run(o.cosign, append(args, p.ref())...).failure(); err != nil {
		return err
	}
	s.until = time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, digest := range digests {
		made := s
		made.digest = digest
		f.signings = append(f.signings, &made)
	}
	return nil
}

// judged has real cosign verify everything that was ordered.
func (f *forge) judged() {
	f.Helper()
	f.parallel(len(f.pieces), func(n int) error {
		p := f.pieces[n]
		var errs []error
		for _, o := range p.orders {
			errs = append(errs, f.judgeOrder(p, o).failure())
		}
		return errors.Join(errs...)
	})
}

func (f *forge) judgeOrder(p *piece, o order) result {
	cosign, w := o.cosign, f.world
	args := []string{"verify"}
	if o.claim != "" {
		args = []string{"verify-attestation", "--type", claims[o.claim].cosign}
	}
	args = append(args, o.by.verify...)
	switch {
	case o.claim != "" && o.format == legacy: // no trusted root here
		args = append(args, "--timestamp-certificate-chain", "tsa.pem")
		if o.by.kind == "keyless" {
			args = append(args, "--ca-roots", "fulcio.pem")
			w = w.with("SIGSTORE_CT_LOG_PUBLIC_KEY_FILE=ct.pub")
		}
	default:
		args = append(args, "--trusted-root", "trusted_root.json")
	}
	if o.services != timesAndV2 {
		args = append(args, "--insecure-ignore-tlog")
	}
	if o.services != noServices {
		args = append(args, "--use-signed-timestamps")
	}
	if o.location != "" {
		w = w.with("COSIGN_REPOSITORY=" + o.location)
	}
	if o.format == legacy && slices.ContainsFunc(p.orders, func(o order) bool { return o.format == bundle }) {
		// Beside a bundle no cosign looks at a legacy signature, unless told to.
		cosign, args = "cosign3", append(args, "--new-bundle-format=false")
	}
	if o.format == bundle && cosign == "cosign2" {
		args = append(args, "--new-bundle-format")
	}
	return w.run(cosign, append(args, p.ref())...)
}

// initialise makes a home that knows the keys but the vendor's.
func (f *forge) initialise(home string) {
	f.Helper()
	f.ok(f.run("reseal", "--home", home, "--actor", "carol", "init", "--quorum", "2",
		"--approver", "alice=alice.pub", "--approver", "bob=bob.pub", "--approver", "carol=carol.pub",
		"--signer", "release=old.pub", "--signer", "nightly=new.pub", "--signer", "builder=builder.pub",
		"--trusted-root", "trusted_root.json"))
}

// targets are the arguments of the commands that read and write a registry:
// the repositories whose signatures are beside the images, and the one whose
// signatures are elsewhere.
func (f *forge) targets() [][]string {
	beside, elsewhere := map[string]bool{}, map[string]string{}
	for _, p := range f.pieces {
		if l := p.orders[0].location; l != "" {
			elsewhere[p.repository] = l
		} else {
			beside[p.repository] = true
		}
	}
	out := [][]string{slices.Sorted(maps.Keys(beside))}
	for _, repository := range slices.Sorted(maps.Keys(elsewhere)) {
		out = append(out, []string{"--cosign-repository", elsewhere[repository], repository})
	}
	return out
}

func (f *forge) scan(home string) {
	f.Helper()
	for _, target := range f.targets() {
		f.ok(f.run("reseal", append([]string{"--home", home, "--actor", "carol", "scan", "--json"}, target...)...))
	}
}

// A line is what "reseal signatures --json" prints of one signature.
type line struct {
	Schema, ID, Repository, Digest, Format, Location string

	Signer        struct{ ID, Kind, Subject, Issuer, Name, State string }
	PredicateType string `json:"predicate_type"`
	Verified      bool
	Why           string
	Gone          bool
	FirstSeen     time.Time `json:"first_seen"`
	Certificate   *struct {
		Serial, CA, Workflow, Ref, SHA, Repository, Trigger, Run, Runner string

		NotBefore time.Time `json:"not_before"`
	}
	Bounds []struct {
		Side      string
		Time      time.Time
		Authority struct{ Role, ID string }
		Verified  bool
		Why       string
	}
}

func (l line) key() string {
	by := party{kind: l.Signer.Kind, subject: l.Signer.Subject, issuer: l.Signer.Issuer}
	s := signing{repository: l.Repository, digest: l.Digest, location: l.Location, format: l.Format, predicate: l.PredicateType, by: &by}
	return s.key()
}

// decodeLines reads the JSON lines that a command printed.
func decodeLines[T any](w *world, r result) []T {
	w.Helper()
	w.ok(r)
	var out []T
	for dec := json.NewDecoder(strings.NewReader(r.stdout)); dec.More(); {
		var v T
		if err := dec.Decode(&v); err != nil {
			w.Fatalf("%v in the output of: %s", err, r)
		}
		out = append(out, v)
	}
	return out
}

// listed compares what the inventory says with what was signed, and returns
// what is listed as it was made.
func (f *forge) listed(when string) (right []*signing) {
	f.Helper()
	missing := map[string]*signing{}
	for _, s := range f.signings {
		if missing[s.key()] != nil {
			f.Fatalf("%s was made twice: the test cannot tell them apart", s.key())
		}
		missing[s.key()] = s
	}
	lines := decodeLines[line](f.world, f.reseal("signatures", "--json"))
	for _, l := range lines {
		s := missing[l.key()]
		delete(missing, l.key())
		if s == nil {
			f.Errorf("%s: nobody made %s: %+v", when, l.key(), l)
		} else if differences := f.differences(s, l); differences != nil {
			f.Errorf("%s: %s: %s", when, l.key(), strings.Join(differences, "; "))
		} else {
			right = append(right, s)
		}
	}
	for key := range missing {
		f.Errorf("%s: missing: %s", when, key)
	}
	fmt.Printf("e2e  %s: %d signatures made, %d listed, %d of them as they were made, %d missing\n",
		when, len(f.signings), len(lines), len(right), len(missing))
	if f.Failed() {
		f.FailNow()
	}
	return right
}

// table counts what was made and what is listed as it was made, in groups.
func (f *forge) table(right []*signing) string {
	type sum struct{ made, right int }
	groups := map[string]sum{}
	for _, s := range f.signings {
		proof, where := "none", "beside the image"
		if s.stamped {
			proof = "timestamp"
		}
		if s.location != "" {
			where = "elsewhere"
		}
		group := fmt.Sprintf("%-10s  %-8s  %-9s  %-16s  %-37s", s.format, s.by.kind, proof, where, s.predicate)
		c := groups[group]
		c.made++
		if slices.Contains(right, s) {
			c.right++
		}
		groups[group] = c
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%-10s  %-8s  %-9s  %-16s  %-37s  %5s  %6s\n", "format", "signer", "proof", "kept", "statement", "made", "listed")
	for _, group := range slices.Sorted(maps.Keys(groups)) {
		fmt.Fprintf(&out, "%s  %5d  %6d\n", group, groups[group].made, groups[group].right)
	}
	return out.String()
}

// differences says what the inventory has other than it was made.
func (f *forge) differences(s *signing, l line) (out []string) {
	expect := func(what string, got, want any) {
		if got != want {
			out = append(out, fmt.Sprintf("%s is %v, expected %v", what, got, want))
		}
	}
	between := func(what string, t time.Time) {
		if t.Before(s.from) || t.After(s.until) {
			out = append(out, fmt.Sprintf("%s is %s, it was made from %s to %s", what, t, s.from, s.until))
		}
	}
	state := "observed"
	if s.by.name != "" {
		state = "active"
	}
	expect("schema", l.Schema, "reseal.signature/v1")
	expect("verified", l.Verified, !s.by.hidden)
	expect("a reason why it does not verify", l.Why != "", s.by.hidden)
	expect("gone", l.Gone, false)
	expect("length of the ID", len(l.ID), 64)
	expect("first seen after it was made", l.FirstSeen.After(s.from), true)
	if !s.by.hidden {
		expect("signer", l.Signer.Name+" "+l.Signer.State, s.by.name+" "+state)
	}
	var bounds, proofs []string
	for _, b := range l.Bounds {
		bounds = append(bounds, fmt.Sprintf("%s by %s %s verified=%t", b.Side, b.Authority.Role, b.Authority.ID, b.Verified))
		between("a bound", b.Time)
	}
	if s.by.kind == "keyless" {
		proofs = append(proofs, "lower by ca "+f.sigstore.ca+" verified=true")
	}
	if s.stamped {
		proofs = append(proofs, "upper by tsa "+f.sigstore.tsa+" verified=true")
	}
	slices.Sort(bounds)
	expect("bounds", strings.Join(bounds, ", "), strings.Join(proofs, ", "))
	expect("certificate", l.Certificate != nil, s.by.kind == "keyless")
	if c := l.Certificate; c != nil && s.by.kind == "keyless" {
		expect("serial number", c.Serial != "", true)
		expect("CA of the certificate", c.CA, f.sigstore.ca)
		between("start of the certificate", c.NotBefore)
		run := strings.Join([]string{c.Workflow, c.Ref, c.SHA, c.Repository, c.Trigger, c.Run, c.Runner}, " ")
		want := strings.Repeat(" ", 6)
		if s.by == f.robot {
			want = f.robot.subject + " refs/heads/main " + strings.Repeat("a", 40) + " https://github.com/e2e/app push https://github.com/e2e/app/actions/runs/7/attempts/1 self-hosted"
		}
		expect("run of the certificate", run, want)
	}
	return out
}

// grouped compares the signers, and what each signed, with what was signed.
func (f *forge) grouped() {
	f.Helper()
	type sum struct{ artifacts, signatures int }
	want, artifacts := map[string]sum{}, map[string]bool{}
	for _, s := range f.signings {
		by := strings.TrimSpace(s.by.name + " " + s.by.kind + " " + s.by.subject + " " + s.by.issuer)
		c := want[by]
		c.signatures++
		if artifact := by + s.repository + s.digest; !artifacts[artifact] {
			artifacts[artifact] = true
			c.artifacts++
		}
		want[by] = c
	}
	got := map[string]sum{}
	list := decode[struct {
		Signers []struct {
			Name, Kind, Subject, Issuer, State string
			Artifacts, Signatures              int
		}
	}](f.world, f.reseal("signers", "--json"))
	for _, s := range list.Signers {
		if s.State == "observed" && s.Signatures == 0 {
			continue // seen once
		}
		got[strings.TrimSpace(s.Name+" "+s.Kind+" "+s.Subject+" "+s.Issuer)] = sum{s.Artifacts, s.Signatures}
	}
	f.equal("signers, with artifacts and signatures", fmt.Sprint(got), fmt.Sprint(want))
}

// scanKills is how many moments of a scan are tried.
const scanKills = 10

// An undisturbed scan is what others are compared with.
type undisturbed struct {
	requests int // of its first part, which is killed in others
	export   []string
}

func (f *forge) undisturbed() undisturbed {
	f.Helper()
	f.initialise("undisturbed")
	before := len(f.requests())
	f.ok(f.run("reseal", f.firstScan("undisturbed")...))
	u := undisturbed{requests: len(f.requests()) - before}
	f.scan("undisturbed")
	u.export = f.export("undisturbed")
	return u
}

func (f *forge) firstScan(home string) []string {
	return append([]string{"--home", home, "--actor", "carol", "scan", "--json"}, f.targets()[0]...)
}

// killed kills a scan at moments spread over its whole run, each in a home of
// its own, runs it again, and compares the inventory with the undisturbed one.
func (f *forge) killed(whole undisturbed) {
	f.Helper()
	step := f.steps()
	amid := 0
	for n := range scanKills {
		home := fmt.Sprintf("killed-%d", n)
		moment := whole.requests * (n + 1) / (scanKills + 1)
		killed := result{}
		for try := 0; killed.code == 0 && try < 5; try++ { // again when it was over before it could be killed
			f.check(os.RemoveAll(f.path(home)))
			f.initialise(home)
			killed = f.runUntil(moment, "reseal", f.firstScan(home)...)
		}
		f.check(killed.unless(-1))
		left := len(decodeLines[line](f.world, f.run("reseal", "--home", home, "signatures", "--json")))
		if 0 < left && left < len(f.signings) {
			amid++
		}
		f.scan(home)
		got := f.export(home)
		fmt.Printf("e2e  killed after %3d of %d requests: %3d of %d signatures in the inventory; resumed: the same inventory: %t\n",
			moment, whole.requests, left, len(f.signings), slices.Equal(got, whole.export))
		if !slices.Equal(got, whole.export) {
			f.Errorf("killed after %d requests and resumed, the inventory is not as an undisturbed scan leaves it:\n%s", moment, difference(got, whole.export))
		}
		f.ok(f.run("reseal", "--home", home, "journal", "verify"))
	}
	step("%d scans killed, %d of them with some signatures kept and others not", scanKills, amid)
	if amid == 0 {
		f.Error("no kill came while signatures were being kept: this run shows nothing")
	}
}

// sameInPostgres scans into a PostgreSQL database.
func (f *forge) sameInPostgres(url string, export []string) {
	f.Helper()
	f.env = []string{"RESEAL_DB=" + url}
	f.initialise("postgres")
	start := time.Now()
	f.scan("postgres")
	fmt.Printf("e2e  scanned into PostgreSQL in %s\n", time.Since(start).Round(time.Millisecond))
	if got := f.export("postgres"); !slices.Equal(got, export) {
		f.Errorf("the inventory in PostgreSQL is not that in SQLite:\n%s", difference(got, export))
	}
	f.ok(f.run("reseal", "--home", "postgres", "db", "check"))
	f.ok(f.run("reseal", "--home", "postgres", "journal", "verify"))
	f.env = nil
}

var sighted = regexp.MustCompile(`"(first_seen|last_seen)":"[^"]*",?`)

// export returns the export of an inventory, a sorted line each, without when
// things were seen.
func (f *forge) export(home string) []string {
	f.Helper()
	r := f.ok(f.run("reseal", "--home", home, "export"))
	lines := strings.Split(strings.TrimSpace(sighted.ReplaceAllString(r.stdout, "")), "\n")
	slices.Sort(lines)
	if len(lines) < len(f.signings) {
		f.Fatalf("%d lines are no export of %d signatures: %s", len(lines), len(f.signings), r)
	}
	return lines
}

// difference shows the first lines that only one side has.
func difference(got, want []string) string {
	var out []string
	for _, side := range []struct {
		mark        string
		have, other []string
	}{{"only here: ", got, want}, {"not here: ", want, got}} {
		for _, l := range side.have {
			if _, found := slices.BinarySearch(side.other, l); !found && len(out) < 10 {
				out = append(out, side.mark+l)
			}
		}
	}
	return strings.Join(out, "\n")
}

// changed adds signatures to images that have some, moves a tag, and expects
// the next scan to see it.
func (f *forge) changed() {
	f.Helper()
	at := func(n int) *piece { return f.pieces[n] }
	for _, add := range []struct {
		to *piece
		order
	}{
		{at(0), order{cosign: "cosign2", format: legacy, by: f.vendor, services: noServices}},
		{at(75), order{cosign: "cosign2", format: legacy, by: f.builder, services: timestamps}},
		{at(92), order{cosign: "cosign2", format: legacy, by: f.builder, services: timestamps, claim: provenanceType}},
		{at(107), order{cosign: "cosign3", format: bundle, by: f.vendor, services: noServices}},
		{at(140), order{cosign: "cosign3", format: bundle, by: f.alice, services: timesAndV2}},
		{at(1), order{cosign: "cosign3", format: bundle, by: f.bob, services: timesAndV2}},
	} {
		f.check(f.carryOut(add.to, add.order))
		add.to.orders = append(add.to.orders, add.order)
	}
	from, to := at(2), at(7) // of one repository
	f.tagged(from.ref(), from.tag)
	f.tagged(to.ref(), to.tag)
	f.ok(f.run("crane", "tag", to.ref(), from.tag))
	f.scan("reseal")
	f.listed("after changes")
	f.tagged(from.ref())
	f.tagged(to.ref(), from.tag, to.tag)
}

// tagged checks which tags the inventory knows an artifact by.
func (f *forge) tagged(ref string, tags ...string) {
	f.Helper()
	repository, _, _ := strings.Cut(ref, "@")
	for _, a := range decodeLines[struct {
		Repository, Digest string
		Tags               []string
	}](f.world, f.reseal("artifacts", "--repository", repository, "--json")) {
		if a.Repository+"@"+a.Digest == ref {
			slices.Sort(a.Tags)
			slices.Sort(tags)
			f.equal("tags of "+ref, fmt.Sprint(a.Tags), fmt.Sprint(tags))
			return
		}
	}
	f.Errorf("%s is not among the artifacts", ref)
}

// unchanged scans again and expects that no blob is fetched.
func (f *forge) unchanged() {
	f.Helper()
	blob := func(r string) bool { return strings.HasPrefix(r, "GET ") && strings.Contains(r, "/blobs/") }
	before := f.requests()
	f.scan("reseal")
	sent := f.requests()[len(before):]
	if len(sent) == 0 || !slices.ContainsFunc(before, blob) {
		f.Fatal("the registry has logged no request of a scan, or never a blob: this shows nothing")
	}
	for _, r := range sent {
		if blob(r) {
			f.Errorf("with nothing changed: %s", r)
		}
	}
	fmt.Printf("e2e  nothing changed: %d requests for %d images\n", len(sent), len(f.pieces))
	f.listed("after a scan with nothing changed")
}

// identified makes the vendor's key known while the registry is down.
func (f *forge) identified() {
	f.Helper()
	f.registry.stop()
	f.ok(f.reseal("signer", "add", "vendor", "--key", "vendor.pub", "--state", "active", "--reason", "e2e"))
	f.ok(f.reseal("reverify"))
	f.vendor.name, f.vendor.hidden = "vendor", false
	f.listed("after the vendor's key was enrolled")
	f.grouped()
	f.startRegistry()
}

// restored deletes every signature from the registry, has the registry collect
// garbage, and expects "reseal restore" to put them back as they were.
func (f *forge) restored() {
	f.Helper()
	repositories := map[string]bool{} // that hold signatures
	for _, s := range f.signings {
		repositories[cmp.Or(s.location, s.repository)] = true
	}
	there := f.attachments(repositories)
	deleted := 0
	for tag, manifests := range there {
		for _, ref := range append(manifests, tag) {
			ref, err := name.ParseReference(ref)
			f.check(err)
			desc, err := remote.Head(ref)
			if isNotFound(err) {
				continue // the tag of a manifest that is gone
			}
			f.check(err)
			f.check(remote.Delete(ref.Context().Digest(desc.Digest.String())))
			deleted++
		}
	}
	f.registry.stop()
	f.ok(f.run("registry", "garbage-collect", "registry.yml"))
	f.startRegistry()
	f.equal("signatures left in the registry", len(f.attachments(repositories)), 0)
	fmt.Printf("e2e  %d manifests deleted\n", deleted)

	f.scan("reseal")
	f.equal("signatures listed when all are deleted", len(decodeLines[line](f.world, f.reseal("signatures", "--json"))), 0)
	bare := f.storage()
	signed := map[string]bool{}
	for _, s := range f.signings {
		signed[s.repository] = true
	}
	restore := append([]string{"restore"}, slices.Sorted(maps.Keys(signed))...)
	f.ok(f.reseal(restore...))
	f.sameStorage("by a dry run of restore", bare)
	f.ok(f.reseal(append(restore, "--apply")...))
	f.equal("what is attached to images", fmt.Sprint(f.attachments(repositories)), fmt.Sprint(there))
	f.judged()
	f.scan("reseal")
	f.listed("after everything was restored")
	f.ok(f.reseal("journal", "verify"))
}

// attachments returns the tags that hold signatures, with the manifest that
// each names, or, for an index of referrers, with those in it: their order
// means nothing.
func (f *forge) attachments(repositories map[string]bool) map[string][]string {
	f.Helper()
	out := map[string][]string{}
	for repository := range repositories {
		repo, err := name.NewRepository(repository)
		f.check(err)
		tags, err := remote.List(repo)
		if isNotFound(err) {
			continue
		}
		f.check(err)
		for _, tag := range tags {
			if !strings.HasPrefix(tag, "sha256-") {
				continue
			}
			m, err := manifest(repo.Tag(tag))
			f.check(err)
			key := repo.Tag(tag).String()
			for _, child := range m.Manifests {
				out[key] = append(out[key], repo.Digest(child.Digest.String()).String())
			}
			slices.Sort(out[key])
			if len(m.Manifests) == 0 {
				desc, err := remote.Head(repo.Tag(tag))
				f.check(err)
				out[key] = append(out[key], repo.Digest(desc.Digest.String()).String())
			}
		}
	}
	return out
}
