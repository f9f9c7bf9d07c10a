package evidence

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/inventory/scan"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

var by = journal.Author{Actor: "alice", Reason: "test"}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bench is a sandbox with an inventory.
type bench struct {
	*sandbox.World
	*store.Store
	client *registry.Client
	root   *root.TrustedRoot
	actor  *sandbox.Actor
}

func newBench(t testing.TB) *bench {
	t.Helper()
	w, err := sandbox.Start(t.Context(), sandbox.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, w.Close()) })
	s, err := store.Create(t.Context(), filepath.Join(t.TempDir(), "reseal.db"), time.Now)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	b := &bench{World: w, Store: s, client: registry.New(registry.Options{Keychain: authn.NewMultiKeychain()})}
	b.root, err = w.TrustedRoot()
	must(t, err)
	b.actor, err = w.NewActor("release")
	must(t, err)
	return b
}

func (b *bench) verifier(t testing.TB, r root.TrustedMaterial, actors ...*sandbox.Actor) *verify.Verifier {
	t.Helper()
	trust := verify.Trust{Root: r}
	for _, a := range actors {
		trust.Keys = append(trust.Keys, a.PublicKey())
	}
	v, err := verify.New(trust)
	must(t, err)
	return v
}

func (b *bench) image(t testing.TB, tag string) name.Digest {
	t.Helper()
	ref, err := b.PushImage(t.Context(), "acme/app", tag, tag)
	must(t, err)
	return ref
}

func (b *bench) scan(t testing.TB, v *verify.Verifier) {
	t.Helper()
	s := scan.Scanner{Registry: b.client, Store: b.Store, Verifier: v}
	r, err := s.Run(t.Context(), by, func(yield func(string, error) bool) { yield(b.Registry()+"/acme/app", nil) })
	must(t, err)
	if r.Problems > 0 {
		t.Fatalf("scan: %+v", r)
	}
}

func (b *bench) signatures(t testing.TB) []inventory.Signature {
	t.Helper()
	all, _, err := b.Signatures(t.Context(), store.SignatureFilter{Gone: true}, store.SignaturePlace{}, 1000)
	must(t, err)
	return all
}

// proofs counts the verified upper bounds of every signature.
func (b *bench) proofs(t testing.TB) (n int) {
	t.Helper()
	for _, s := range b.signatures(t) {
		for _, x := range s.Bounds {
			if x.Verified && x.Side == inventory.Upper {
				n++
			}
		}
	}
	return n
}

func (b *bench) reverify(t testing.TB, v *verify.Verifier) Reverified {
	t.Helper()
	r, err := Reverify(t.Context(), b.Store, v, by, nil)
	must(t, err)
	return r
}

// TestReverify takes trust away and gives it back: what is known follows, and
// no registry is asked.
func TestReverify(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	for tag, p := range map[string]sandbox.Proof{"none": sandbox.NoProof, "rekor": sandbox.RekorV1, "tsa": sandbox.Timestamp, "both": sandbox.RekorV1 | sandbox.Timestamp} {
		ref := b.image(t, tag)
		must(t, b.actor.SignLegacy(ctx, ref, p))
		must(t, b.actor.SignBundle(ctx, ref, p))
	}
	must(t, b.actor.AttestLegacy(ctx, b.image(t, "att"), "https://spdx.dev/Document", nil, sandbox.Timestamp))
	full := b.verifier(t, b.root, b.actor)
	b.scan(t, full)
	before := b.signatures(t)
	if len(before) != 9 || b.proofs(t) != 9 {
		t.Fatalf("%d signatures with %d proofs", len(before), b.proofs(t))
	}
	requests := b.client.Requests()

	if r := b.reverify(t, full); r.Signatures != 9 || r.Changed != 0 || r.Unaffected != 2 || r.Verified != 9 || r.Lost != 0 {
		t.Errorf("the same trust: %+v", r)
	}
	if r := b.reverify(t, b.verifier(t, nil, b.actor)); r.Changed != 7 || r.Verified != 9 || b.proofs(t) != 0 {
		t.Errorf("no trusted root: %+v, %d proofs", r, b.proofs(t))
	}
	if r := b.reverify(t, full); r.Changed != 7 {
		t.Errorf("the root is back: %+v", r)
	}
	after := b.signatures(t)
	if len(after) != len(before) {
		t.Fatalf("%d signatures, were %d", len(after), len(before))
	}
	for i := range after {
		if !same(after[i], before[i]) {
			t.Errorf("changed for good:\n%+v\n%+v", before[i], after[i])
		}
	}
	if b.client.Requests() != requests {
		t.Errorf("the registry was asked %d times", b.client.Requests()-requests)
	}
	if problems, err := b.Check(ctx); err != nil || len(problems) > 0 {
		t.Errorf("check: %v, %v", problems, err)
	}
}

// TestIdentified scans before the signer's key is known.
func TestIdentified(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	must(t, b.actor.SignLegacy(t.Context(), b.image(t, "1"), sandbox.NoProof))
	b.scan(t, b.verifier(t, b.root))
	first := b.signatures(t)
	if len(first) != 1 || first[0].Signer.Kind != signer.Unknown || first[0].Verified {
		t.Fatalf("scanned without the key: %+v", first)
	}
	full := b.verifier(t, b.root, b.actor)
	if r := b.reverify(t, full); r.Identified != 1 || r.Verified != 1 {
		t.Errorf("%+v", r)
	}
	now := b.signatures(t)
	want, err := signer.OfKey(b.actor.PublicKey())
	must(t, err)
	if len(now) != 1 || now[0].Signer != want || !now[0].Verified || !now[0].FirstSeen.Equal(first[0].FirstSeen) || now[0].Manifest != first[0].Manifest {
		t.Errorf("identified: %+v", now)
	}
	if r := b.reverify(t, full); r.Changed != 0 {
		t.Errorf("again: %+v", r)
	}
	b.scan(t, full) // a scan finds the same signature
	if now := b.signatures(t); len(now) != 1 || now[0].Gone {
		t.Errorf("after a scan: %+v", now)
	}
}

// TestStripped replaces a stamped signature by a copy without its proof: the
// proof was seen, and still counts after everything is judged anew.
func TestStripped(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	ref := b.image(t, "1")
	must(t, b.actor.SignLegacy(ctx, ref, sandbox.Timestamp))
	full := b.verifier(t, b.root, b.actor)
	b.scan(t, full)
	repo, tag := ref.Context().Name(), verify.Tag(ref.DigestStr(), inventory.Legacy)
	m, err := b.client.Manifest(ctx, repo, tag)
	must(t, err)
	var image v1.Manifest
	must(t, json.Unmarshal(m.Raw, &image))
	delete(image.Layers[0].Annotations, "dev.sigstore.cosign/rfc3161timestamp")
	raw, err := json.Marshal(image)
	must(t, err)
	_, _, err = b.client.PutManifest(ctx, repo, tag, string(image.MediaType), raw)
	must(t, err)
	b.scan(t, full)
	if len(b.signatures(t)) != 1 || b.proofs(t) != 1 {
		t.Fatalf("after the stripped copy: %+v", b.signatures(t))
	}
	if r := b.reverify(t, full); r.Changed != 0 || b.proofs(t) != 1 {
		t.Errorf("judged anew: %+v, %+v", r, b.signatures(t))
	}
}

// TestLookalike scans before the trusted root is known, and meanwhile somebody
// puts a copy in the place of the signature that claims the same time and proves
// nothing: once the root is there, the real proof counts.
func TestLookalike(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	ref := b.image(t, "1")
	must(t, b.actor.SignLegacy(ctx, ref, sandbox.RekorV1))
	b.scan(t, b.verifier(t, nil, b.actor))
	repo, tag := ref.Context().Name(), verify.Tag(ref.DigestStr(), inventory.Legacy)
	m, err := b.client.Manifest(ctx, repo, tag)
	must(t, err)
	var image v1.Manifest
	must(t, json.Unmarshal(m.Raw, &image))
	const bundle = "dev.sigstore.cosign/bundle"
	var claims map[string]any
	must(t, json.Unmarshal([]byte(image.Layers[0].Annotations[bundle]), &claims))
	claims["SignedEntryTimestamp"] = "MEUCIQDforged"
	forged, err := json.Marshal(claims)
	must(t, err)
	image.Layers[0].Annotations[bundle] = string(forged)
	raw, err := json.Marshal(image)
	must(t, err)
	_, _, err = b.client.PutManifest(ctx, repo, tag, string(image.MediaType), raw)
	must(t, err)
	b.scan(t, b.verifier(t, nil, b.actor))
	b.reverify(t, b.verifier(t, b.root, b.actor))
	if n := b.proofs(t); n != 1 {
		t.Errorf("%d proofs, want the one that was there first: %+v", n, b.signatures(t))
	}
}

// TestManyLayers has a manifest name one large layer again and again: judging
// it anew must not take a thousand times the memory.
func TestManyLayers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	ref := b.image(t, "1")
	must(t, b.actor.AttestLegacy(ctx, ref, "https://spdx.dev/Document", map[string]string{"text": strings.Repeat("x", 1<<20)}, sandbox.NoProof))
	repo, tag := ref.Context().Name(), verify.Tag(ref.DigestStr(), inventory.LegacyAtt)
	m, err := b.client.Manifest(ctx, repo, tag)
	must(t, err)
	var image v1.Manifest
	must(t, json.Unmarshal(m.Raw, &image))
	for n := range 200 {
		layer := image.Layers[0]
		layer.Annotations = maps.Clone(layer.Annotations)
		if n%2 == 0 {
			layer.Annotations["n"] = "same"
		}
		image.Layers = append(image.Layers, layer)
	}
	raw, err := json.Marshal(image)
	must(t, err)
	digest, _, err := b.client.PutManifest(ctx, repo, tag, string(image.MediaType), raw)
	must(t, err)
	full := b.verifier(t, b.root, b.actor)
	s := scan.Scanner{Registry: b.client, Store: b.Store, Verifier: full}
	_, err = s.Run(ctx, by, func(yield func(string, error) bool) { yield(b.Registry()+"/acme/app", nil) })
	must(t, err)
	n := 0
	for _, err := range copiesOf(ctx, b.Store, inventory.Signature{ID: b.signatures(t)[0].ID, Format: inventory.LegacyAtt, Content: image.Layers[0].Digest.String()}) {
		must(t, err)
		n++
	}
	if kept := b.signatures(t)[0].Manifest; kept != digest || n != 2 {
		t.Errorf("%d copies of %s, want 2 of %s", n, kept, digest)
	}
}

// TestImport takes in bundles of files.
func TestImport(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	content := []byte("a release")
	bundle, err := b.actor.SignBlob(ctx, content, sandbox.Timestamp)
	must(t, err)
	full := b.verifier(t, b.root, b.actor)
	var r Imported
	files := []File{{Name: "dist/app.sigstore.json", Artifact: "app", Content: bundle}, {Name: "junk.bundle", Content: []byte("junk")}}
	must(t, Import(ctx, b.Store, full, by, files, &r))
	if want := (Imported{Files: 2, Artifacts: 1, Signatures: 1, Verified: 1, Problems: 1}); r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
	must(t, Import(ctx, b.Store, full, by, files, &r)) // nothing is there twice
	sigs := b.signatures(t)
	if len(sigs) != 1 {
		t.Fatalf("%d signatures", len(sigs))
	}
	s := sigs[0]
	if s.Repository != inventory.Files || s.Digest != inventory.Digest(content) || s.Format != inventory.Detached || !s.Verified || b.proofs(t) != 1 {
		t.Errorf("%+v", s)
	}
	if kept, err := b.Vault(ctx, s.Content); err != nil || string(kept) != string(bundle) {
		t.Errorf("the vault has not the exact bytes: %v", err)
	}
	problems, err := b.Problems(ctx)
	must(t, err)
	if len(problems) != 1 || problems[0].Reference != "junk.bundle" || !strings.Contains(problems[0].Problem, "what it signs") {
		t.Errorf("problems: %+v", problems)
	}
	if _, err := b.Vault(ctx, inventory.Digest([]byte("junk"))); err != nil {
		t.Errorf("what cannot be read is not kept: %v", err)
	}
	// Judged anew without and with the root, and about another file.
	if r := b.reverify(t, b.verifier(t, nil, b.actor)); r.Changed != 1 || b.proofs(t) != 0 {
		t.Errorf("no root: %+v", r)
	}
	if r := b.reverify(t, full); r.Changed != 1 || b.proofs(t) != 1 {
		t.Errorf("root: %+v", r)
	}
	must(t, Import(ctx, b.Store, full, by, []File{{Name: "x", Digest: inventory.Digest([]byte("other")), Content: bundle}}, &r))
	for _, s := range b.signatures(t) {
		if s.Digest != inventory.Digest(content) && s.Verified {
			t.Errorf("a bundle verifies over another file: %+v", s)
		}
	}
}

// TestImportBlob takes in a signature over a file that is in files of its own.
func TestImportBlob(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	content := []byte("a release")
	bundle, err := b.actor.SignBlob(ctx, content, sandbox.Timestamp)
	must(t, err)
	var parsed protobundle.Bundle
	must(t, protojson.Unmarshal(bundle, &parsed))
	sig := []byte(base64.StdEncoding.EncodeToString(parsed.GetMessageSignature().GetSignature()) + "\n")
	stamp, err := json.Marshal(map[string][]byte{"SignedRFC3161Timestamp": parsed.GetVerificationMaterial().GetTimestampVerificationData().GetRfc3161Timestamps()[0].GetSignedTimestamp()})
	must(t, err)
	blob, err := verify.NewBlobSignature(sig, nil, stamp)
	must(t, err)
	stored, err := blob.Content()
	must(t, err)
	full := b.verifier(t, b.root, b.actor)
	f := File{Name: "dist/app.sig", Artifact: "app", Digest: inventory.Digest(content), Format: inventory.Blob, Content: stored, Parts: [][]byte{sig, stamp}}
	unknown, junk := f, f
	unknown.Name, unknown.Digest = "alone.sig", ""
	junk.Name, junk.Content, junk.Parts = "junk.sig", []byte("junk"), nil
	var r Imported
	for range 2 { // nothing is there twice
		r = Imported{}
		must(t, Import(ctx, b.Store, full, by, []File{f, unknown, junk}, &r))
	}
	if want := (Imported{Files: 3, Artifacts: 2, Signatures: 2, Verified: 1, Unverified: 1, Problems: 1}); r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
	for _, s := range b.signatures(t) {
		if s.Repository != inventory.Files || s.Digest != inventory.Digest(content) || s.Format != inventory.Blob || s.Verified != (s.Content == inventory.Digest(stored)) {
			t.Errorf("%+v", s)
		}
	}
	for _, part := range [][]byte{stored, sig, stamp, []byte("junk")} {
		if kept, err := b.Vault(ctx, inventory.Digest(part)); err != nil || string(kept) != string(part) {
			t.Errorf("the vault has not the exact bytes of %q: %v", part, err)
		}
	}
	if r := b.reverify(t, b.verifier(t, nil, b.actor)); r.Changed != 1 || b.proofs(t) != 0 {
		t.Errorf("no root: %+v", r)
	}
	if r := b.reverify(t, full); r.Changed != 1 || b.proofs(t) != 1 {
		t.Errorf("root: %+v", r)
	}
}
