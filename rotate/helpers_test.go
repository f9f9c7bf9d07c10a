package rotate

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	_ "modernc.org/sqlite" // to edit a database as somebody else would

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

const (
	repo         = "registry.example/acme/app"
	elsewhere    = "registry.example/acme/other"
	spdx         = "https://spdx.dev/Document"
	leak         = "INC-1"
	rogueFor     = "built by the thief"
	ociImage     = "application/vnd.oci.image.manifest.v1+json"
	slsa         = "https://slsa.dev/provenance/v1"
	proposerName = "alice"
)

var (
	leaked = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	before = leaked.AddDate(0, 0, -10)
	today  = leaked.AddDate(0, 0, 7)
	ends   = today.AddDate(0, 3, 0) // of plans
	by     = journal.Author{Actor: proposerName, Reason: "test"}
	tsa    = inventory.Authority{Role: inventory.RoleTSA, ID: "tsa"}
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantEqual(t testing.TB, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\ngot  %+v\nwant %+v", what, got, want)
	}
}

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n) }

// person has a key and signs with it.
type person struct {
	name string
	key  *ecdsa.PrivateKey
	pem  []byte
	id   signer.Identity
}

func newPerson(t testing.TB, name string) person {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	id, err := signer.OfKey(key.Public())
	must(t, err)
	return person{name, key, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), id}
}

func (p person) sign(t testing.TB, message []byte) string {
	t.Helper()
	sum := sha256.Sum256(message)
	sig, err := ecdsa.SignASN1(rand.Reader, p.key, sum[:])
	must(t, err)
	return base64.StdEncoding.EncodeToString(sig)
}

func (p person) record(state signer.State) signer.Record {
	return signer.Record{Identity: p.id, Name: p.name, State: state, PublicKey: p.pem}
}

// kase is a store filled by hand, with everything a plan needs:
//
//	1 in repo, deployed: image signature and SBOM, both proven older, legacy
//	2 in repo, deployed: image signature nobody can date
//	3 in repo: made by the thief, known to be rogue
//	4 in repo: signed by the new signer too
//	5 in repo: signed by the builder alone
//	6 in elsewhere: image signature proven older, in a bundle
//	7 in elsewhere, deployed: the same, but first seen there after the leak
type kase struct {
	*store.Store
	file                         string
	alice, bob, carol, dave      person
	old, next, builder, stranger person
	mu                           sync.Mutex
	now                          time.Time
}

func (k *kase) clock() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

func (k *kase) set(now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now = now
}

func newCase(t testing.TB) *kase {
	t.Helper()
	k := &kase{file: filepath.Join(t.TempDir(), "reseal.db"), now: before}
	k.alice, k.bob, k.carol, k.dave = newPerson(t, proposerName), newPerson(t, "bob"), newPerson(t, "carol"), newPerson(t, "dave")
	k.old, k.next, k.builder, k.stranger = newPerson(t, "old"), newPerson(t, "next"), newPerson(t, "builder"), newPerson(t, "stranger")
	var err error
	k.Store, err = store.Create(t.Context(), k.file, k.clock)
	must(t, err)
	t.Cleanup(func() { must(t, k.Close()) })
	must(t, Enroll(t.Context(), k.Store, by, k.approvers(2)))
	k.update(t, func(tx *store.Tx) error {
		return errors.Join(tx.PutSigner(t.Context(), k.old.record(signer.Active)), tx.PutSigner(t.Context(), k.next.record(signer.Standby)),
			tx.PutSigner(t.Context(), k.builder.record(signer.Active)))
	})
	k.fill(t)
	return k
}

func (k *kase) approvers(quorum int) Approvers {
	a := Approvers{Schema: ApproversSchema, Quorum: quorum}
	for _, p := range []person{k.alice, k.bob, k.carol, k.dave} {
		a.People = append(a.People, Person{Name: p.name, Credentials: []Credential{{PublicKey: string(p.pem)}}})
	}
	return a
}

func (k *kase) update(t testing.TB, fn func(*store.Tx) error) {
	t.Helper()
	must(t, k.Update(t.Context(), by, fn))
}

func (k *kase) put(t testing.TB, repository string, n int, sigs ...inventory.Signature) {
	t.Helper()
	k.update(t, func(tx *store.Tx) error {
		a := inventory.Artifact{Repository: repository, Digest: digest(n), MediaType: ociImage, Size: 100, Tags: []string{fmt.Sprintf("v%d", n)}}
		if err := tx.PutArtifact(t.Context(), a); err != nil {
			return err
		}
		for _, g := range sigs {
			g.Repository, g.Digest = repository, digest(n)
			if g.Names == "named" {
				g.Names = repository
			}
			if g.PredicateType != inventory.SignPredicate && g.Content == digest(51) { // what a claim is about is looked at
				var err error
				if g.Content, err = tx.PutVault(t.Context(), stored(g.Format, about(g.Digest))); err != nil {
					return err
				}
			}
			g.ID = inventory.SignatureID(repository, g.Digest, g.Format, g.Signer, g.PayloadDigest+g.PredicateType, nil)
			if err := tx.PutSignature(t.Context(), g); err != nil {
				return err
			}
		}
		return nil
	})
}

func (k *kase) deploy(t testing.TB, repository string, n int) {
	t.Helper()
	k.update(t, func(tx *store.Tx) error { return tx.SetDeployed(t.Context(), repository, digest(n)) })
}

// signed is an image signature, dated if proven.
func signed(p person, f inventory.Format, proven bool) inventory.Signature {
	g := inventory.Signature{Format: f, PredicateType: inventory.SignPredicate, PayloadDigest: digest(50), Content: digest(51), Manifest: digest(52),
		Signer: p.id, Verified: true}
	if f != inventory.Bundle {
		g.Names = "named" // see put
	}
	if proven {
		g.Bounds = []inventory.Bound{{Side: inventory.Upper, Time: before, Authority: tsa, Verified: true}}
	}
	return g
}

func claim(p person, f inventory.Format, predicateType string, payload int, proven bool) inventory.Signature {
	g := signed(p, f, proven)
	g.PredicateType, g.PayloadDigest, g.Names = predicateType, digest(payload), ""
	return g
}

// about is a statement about some digests.
func about(digests ...string) []byte {
	var subjects []string
	for _, d := range digests {
		subjects = append(subjects, fmt.Sprintf(`{"digest":{"sha256":%q}}`, strings.TrimPrefix(d, "sha256:")))
	}
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[%s],"predicateType":%q,"predicate":{}}`, strings.Join(subjects, ","), spdx)
}

// stored is a statement as it is kept in a format.
func stored(f inventory.Format, statement []byte) []byte {
	if f != inventory.Bundle {
		return envelope(statement)
	}
	return fmt.Appendf(nil, `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"x"}},"dsseEnvelope":%s}`, envelope(statement))
}

func (k *kase) fill(t testing.TB) {
	t.Helper()
	k.put(t, repo, 1, claim(k.old, inventory.LegacyAtt, spdx, 60, true), signed(k.old, inventory.Legacy, true))
	k.put(t, repo, 2, signed(k.old, inventory.Legacy, false))
	k.put(t, repo, 3, signed(k.old, inventory.Legacy, false))
	k.put(t, repo, 4, signed(k.old, inventory.Legacy, true), signed(k.next, inventory.Legacy, true))
	k.put(t, repo, 5, signed(k.builder, inventory.Legacy, true))
	k.put(t, elsewhere, 6, signed(k.old, inventory.Bundle, true))
	k.set(today)
	k.put(t, elsewhere, 7, signed(k.old, inventory.Bundle, true))
	k.deploy(t, repo, 1)
	k.deploy(t, repo, 2)
	k.deploy(t, elsewhere, 7)
}

func (k *kase) open(t testing.TB, id string, of signer.Identity, rogue ...int) {
	t.Helper()
	i := Incident{Incident: trust.Incident{ID: id, Class: trust.SigningKey, Signers: []signer.Identity{of}, From: &leaked},
		Title: "key copied", Severity: "high", OpenedBy: proposerName, OpenedAt: today, Rogue: map[string]string{}}
	for _, n := range rogue {
		i.Rogue[digest(n)] = rogueFor
	}
	must(t, OpenIncident(t.Context(), k.Store, by, i))
}

// draft is the plan as its proposer fills it in.
func (k *kase) draft() Plan {
	return Plan{Incident: leak, Proposer: proposerName, MadeAt: today, ExpiresAt: ends, NewSigner: k.next.id, Skew: time.Minute}
}

// plan makes a plan, which alice signs if she is the proposer.
func (k *kase) plan(t testing.TB, change func(*Plan)) (string, Totals) {
	t.Helper()
	d, totals := k.unsigned(t, change)
	if p, _, err := LoadPlan(t.Context(), k.Store, d); err == nil && p.Proposer == proposerName {
		must(t, k.tryApprove(t, k.proposal(t, k.alice, d)))
	}
	return d, totals
}

// unsigned makes a plan that nobody signs.
func (k *kase) unsigned(t testing.TB, change func(*Plan)) (string, Totals) {
	t.Helper()
	p := k.draft()
	if change != nil {
		change(&p)
	}
	_, d, totals, err := MakePlan(t.Context(), k.Store, by, p)
	must(t, err)
	return d, totals
}

// request is what a person signs to approve a plan or a motion.
func (k *kase) request(t testing.TB, digest, name string) (kind string, request []byte) {
	t.Helper()
	kind = PlanKind
	if m, err := LoadMotion(t.Context(), k.Store, digest); err == nil {
		kind = m.Kind
	}
	b, err := loadBallot(t.Context(), k.Store, kind, digest)
	must(t, err)
	request, err = ApprovalRequest(kind, digest, b.subject, name, b.expires)
	must(t, err)
	return kind, request
}

func (k *kase) approval(t testing.TB, p person, digest string) Approval {
	t.Helper()
	kind, request := k.request(t, digest, p.name)
	return Approval{Kind: kind, Digest: digest, Approver: p.name, Signature: p.sign(t, request), At: today}
}

// proposal is the proposer's signature.
func (k *kase) proposal(t testing.TB, p person, digest string) Approval {
	t.Helper()
	a := k.approval(t, p, digest)
	a.Proposal = true
	return a
}

func (k *kase) tryApprove(t testing.TB, a Approval) error {
	t.Helper()
	return Approve(t.Context(), k.Store, fakeJudge{}, by, a)
}

func (k *kase) approve(t testing.TB, digest string, people ...person) {
	t.Helper()
	for _, p := range people {
		must(t, k.tryApprove(t, k.approval(t, p, digest)))
	}
}

func (k *kase) tryPermit(t testing.TB, plan string) (Permission, error) {
	t.Helper()
	return Permit(t.Context(), k.Store, fakeJudge{}, plan, k.clock())
}

func (k *kase) permit(t testing.TB, plan string) Permission {
	t.Helper()
	p, err := k.tryPermit(t, plan)
	must(t, err)
	return p
}

// approved is a case with an open incident and an approved plan.
func approved(t testing.TB, change func(*Plan)) (*kase, string, Permission) {
	t.Helper()
	k := newCase(t)
	k.open(t, leak, k.old.id, 3)
	plan, _ := k.plan(t, change)
	k.approve(t, plan, k.bob, k.carol)
	return k, plan, k.permit(t, plan)
}

// edit changes the database as somebody with access to the file would.
func (k *kase) edit(t testing.TB, query string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+k.file+"?_pragma=busy_timeout(10000)")
	must(t, err)
	defer db.Close()
	r, err := db.ExecContext(t.Context(), query, args...)
	must(t, err)
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("the edit changed nothing (%v): %s", err, query)
	}
}

func (k *kase) items(t testing.TB, plan string, d trust.Decision) (out []Item) {
	t.Helper()
	must(t, Items(t.Context(), k.Store, plan, d, func(i Item) error {
		out = append(out, i)
		return nil
	}))
	return out
}

func (k *kase) item(t testing.TB, plan string, n int, predicateType string) Item {
	t.Helper()
	all := k.items(t, plan, "")
	at := slices.IndexFunc(all, func(i Item) bool { return i.Digest == digest(n) && i.PredicateType() == predicateType })
	if at < 0 {
		t.Fatalf("the plan has no item about %s (%s)", digest(n), predicateType)
	}
	return all[at]
}

func (k *kase) entries(t testing.TB) (out []journal.Entry) {
	t.Helper()
	for next := k.Journal(t.Context(), 0); ; {
		line, err := next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		e, err := journal.ParseEntry(line)
		must(t, err)
		out = append(out, e)
	}
}

func (k *kase) checkJournal(t testing.TB) {
	t.Helper()
	var tree journal.Tree
	for _, e := range k.entries(t) {
		line, err := e.Marshal()
		must(t, err)
		must(t, tree.Add(line))
	}
	c, err := k.JournalCheckpoint(t.Context())
	must(t, err)
	must(t, tree.Check(c))
}

func (k *kase) state(t testing.TB, p person) signer.State {
	t.Helper()
	r, err := k.Signer(t.Context(), p.id.ID())
	must(t, err)
	return r.State
}

// fault is what goes wrong with one external write.
type fault int

const (
	lost         fault = iota + 1 // not done, and said so
	doneButError                  // done, but reported failed
	killedBefore                  // the process ends before it
	killedAfter                   // the process ends after it
)

var faults = map[string]fault{"lost": lost, "done but reported failed": doneButError, "killed before": killedBefore, "killed after": killedAfter}

var errFault = errors.New("injected fault")

// fakeRegistry is a registry of one repository in memory that records writes.
// Each write is first shown to intend, then disturbed by the fault set for its
// number.
type fakeRegistry struct {
	blobs     map[string][]byte
	manifests map[string][]byte
	tags      map[string]string
	subjects  map[string]string // referrer to subject
	writes    []string
	intend    func(ref string, content []byte)
	failAt    int // number of the write, from 1
	fault     fault
	kill      context.CancelFunc
	locked    bool
	listing   error // beside the list of referrers
}

// What is in a new fakeRegistry.
var (
	rogueImage      = "rogue image"
	itsSignatures   = layered("application/vnd.dev.cosign.simplesigning.v1+json", "")
	itsAttestations = layered("application/vnd.dsse.envelope.v1+json", "")
	itsBundle       = layered("application/vnd.dev.sigstore.bundle.v0.3+json", digest(3))
	anotherReferrer = layered("text/plain", digest(3))
)

// layered is a manifest with a layer of a type.
func layered(mediaType, subject string) string {
	if subject != "" {
		subject = fmt.Sprintf(`"subject":{"digest":%q,"size":1},`, subject)
	}
	return fmt.Sprintf(`{"schemaVersion":2,%s"layers":[{"mediaType":%q,"digest":%q,"size":1}]}`, subject, mediaType, digest(90))
}

// newFakeRegistry has the rogue artifact 3 of a case with everything that can
// hang on it. Real digests do not matter here: names are looked up.
func newFakeRegistry() *fakeRegistry {
	f := &fakeRegistry{manifests: map[string][]byte{}, tags: map[string]string{}, subjects: map[string]string{}}
	for n, what := range map[int]string{3: rogueImage, 30: itsSignatures, 31: itsAttestations, 32: itsBundle, 33: anotherReferrer, 1: "good image", 40: "good signatures"} {
		f.manifests[digest(n)] = []byte(what)
	}
	f.tags["v3"] = digest(3)
	f.tags[verify.Tag(digest(3), inventory.Legacy)] = digest(30)
	f.tags[verify.Tag(digest(3), inventory.LegacyAtt)] = digest(31)
	f.tags[verify.Tag(digest(1), inventory.Legacy)] = digest(40)
	f.subjects[digest(32)], f.subjects[digest(33)] = digest(3), digest(3)
	return f
}

func (f *fakeRegistry) Manifest(ctx context.Context, repository, reference string) (registry.Manifest, error) {
	if err := ctx.Err(); err != nil {
		return registry.Manifest{}, err
	}
	d := reference
	if tagged, ok := f.tags[reference]; ok {
		d = tagged
	}
	raw, ok := f.manifests[d]
	if !ok || repository != repo {
		return registry.Manifest{}, fmt.Errorf("%s@%s: %w", repository, reference, registry.ErrNotFound)
	}
	return registry.Manifest{Digest: d, MediaType: ociImage, Raw: raw, Size: int64(len(raw))}, nil
}

func (f *fakeRegistry) Blob(_ context.Context, repository, d string, _ int64) ([]byte, error) {
	if content, ok := f.blobs[d]; ok {
		return content, nil
	}
	return nil, fmt.Errorf("%s@%s: %w", repository, d, registry.ErrNotFound)
}

func (f *fakeRegistry) Referrers(ctx context.Context, _, d string) (out []v1.Descriptor, err error) {
	for ref, subject := range f.subjects {
		if subject == d {
			h, err := v1.NewHash(ref)
			if err != nil {
				return nil, err
			}
			out = append(out, v1.Descriptor{Digest: h})
		}
	}
	slices.SortFunc(out, func(a, b v1.Descriptor) int { return bytes.Compare([]byte(a.Digest.Hex), []byte(b.Digest.Hex)) })
	return out, cmp.Or(ctx.Err(), f.listing)
}

func (f *fakeRegistry) Serialise(ctx context.Context, _, _ string) (func(), error) {
	if f.locked {
		return nil, errors.New("locked already")
	}
	f.locked = true
	return func() { f.locked = false }, ctx.Err()
}

func (f *fakeRegistry) Detach(ctx context.Context, _, d, subject string) error {
	if f.subjects[d] != subject {
		return fmt.Errorf("%s is no referrer of %s", d, subject)
	}
	return f.write(ctx, "detach", d, func() {
		delete(f.manifests, d)
		delete(f.subjects, d)
	})
}

func (f *fakeRegistry) Delete(ctx context.Context, _, reference string) error {
	return f.write(ctx, "delete", reference, func() {
		delete(f.manifests, reference)
		for tag, d := range f.tags {
			if d == reference {
				delete(f.tags, tag)
			}
		}
	})
}

func (f *fakeRegistry) publish(ctx context.Context, name string, statement []byte) error {
	return f.write(ctx, "publish", name, func() { f.manifests["published "+name] = statement })
}

func (f *fakeRegistry) write(ctx context.Context, op, ref string, act func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.intend != nil {
		f.intend(ref, f.manifests[ref])
	}
	f.writes = append(f.writes, op+" "+ref)
	if len(f.writes) != f.failAt {
		act()
		return nil
	}
	switch f.fault {
	case killedBefore:
		f.kill()
		return ctx.Err()
	case killedAfter:
		act()
		f.kill()
		return ctx.Err()
	case doneButError:
		act()
	}
	return errFault
}

func (f *fakeRegistry) state() map[string]string {
	out := map[string]string{}
	for d, raw := range f.manifests {
		out[d] = string(raw)
	}
	for tag, d := range f.tags {
		out["tag "+tag] = d
	}
	for d, subject := range f.subjects {
		out["referrer "+d] = subject
	}
	return out
}
