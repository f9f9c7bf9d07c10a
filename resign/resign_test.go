package resign

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// cosignAccepts verifies an image with the cosign library and one key.
func cosignAccepts(t *testing.T, b *bench, ref name.Digest, key crypto.PublicKey, f inventory.Format, stamped bool) {
	t.Helper()
	v, err := signature.LoadVerifier(key, crypto.SHA256)
	must(t, err)
	root, err := b.TrustedRoot()
	must(t, err)
	co := &cosign.CheckOpts{SigVerifier: v, TrustedMaterial: root, Offline: true, IgnoreSCT: true, IgnoreTlog: true,
		UseSignedTimestamps: stamped, NewBundleFormat: f == inventory.Bundle, ClaimVerifier: cosign.IntotoSubjectClaimVerifier}
	if f == inventory.Legacy {
		co.ClaimVerifier = cosign.SimpleClaimVerifier
		_, _, err = cosign.VerifyImageSignatures(t.Context(), ref, co)
	} else {
		_, _, err = cosign.VerifyImageAttestations(t.Context(), ref, co)
	}
	if err != nil {
		t.Errorf("cosign refuses the %s: %v", f, err)
	}
}

func TestResign(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, stamped := range []bool{false, true} {
		t.Run(fmt.Sprintf("timestamp=%v", stamped), func(t *testing.T) {
			t.Parallel()
			k := b.newCase(t)
			ref := k.push(t, "app")
			k.all(t, ref)
			k.plan(t, ref)
			before := k.found(t, ref)
			e := k.engine(k.client)
			if stamped {
				e.Services.Timestamps = []*sign.TimestampAuthority{sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: b.TSAURL(), Timeout: time.Minute})}
			}
			var progress []Result
			e.Progress = func(_ int64, r Result) { progress = append(progress, r) }
			e.Failed = func(f Failure) { t.Errorf("%s %s: %s", f.Item.PredicateType, f.Format, f.Why) }
			got, err := e.Run(t.Context(), list{items: k.items})
			must(t, err)
			wantEqual(t, "result", got, Result{Planned: 4, Signed: 4})
			wantEqual(t, "progress", progress[len(progress)-1], got)

			for _, f := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt, inventory.Bundle} {
				cosignAccepts(t, b, ref, k.next.PublicKey(), f, stamped)
				cosignAccepts(t, b, ref, k.old.PublicKey(), f, false)
			}
			after := k.found(t, ref)
			wantEqual(t, "statements", count(after, k.next.id), count(before, k.oldID(t)))
			for statement, n := range count(after, k.next.id) {
				wantEqual(t, statement, n, 1)
			}
			k.keptAll(t, before, after)

			// A claim is the same bytes again; an image signature says the same.
			for _, f := range after {
				if f.PredicateType != spdx || f.Signer != k.next.id {
					continue
				}
				payload, err := verify.Payload(f.Format, f.Content)
				must(t, err)
				if !slices.ContainsFunc(before, func(o verify.Found) bool {
					original, err := verify.Payload(o.Format, o.Content)
					return err == nil && o.Format == f.Format && bytes.Equal(original, payload)
				}) {
					t.Errorf("the %s states other bytes than the original: %s", f.Format, payload)
				}
			}
			// What became of it is on record.
			sigs, err := k.SignaturesOf(t.Context(), inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr()}, "")
			must(t, err)
			wantEqual(t, "signatures in the inventory", len(sigs), 8)
			sigs, err = k.SignaturesOf(t.Context(), inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr()}, plan)
			must(t, err)
			wantEqual(t, "signatures not made by the plan", len(sigs), 4)
			for _, r := range k.reissues(t) {
				at := slices.IndexFunc(after, func(f verify.Found) bool { return f.ID == r.SignatureID })
				if r.State != Done || at < 0 || after[at].Signer != k.next.id {
					t.Errorf("reissue %+v is not done by a signature that is there", r)
				}
				for _, d := range []string{r.Content, after[max(at, 0)].Manifest} { // a restore takes both
					if _, err := k.Vault(t.Context(), d); err != nil {
						t.Error(err)
					}
				}
			}
			k.checkJournal(t)
			wantIntents(t, k)
		})
	}
}

// keptAll checks that no signature was lost or changed.
func (k *kase) keptAll(t *testing.T, before, after []verify.Found) {
	t.Helper()
	for _, f := range before {
		at := slices.IndexFunc(after, func(o verify.Found) bool { return o.ID == f.ID })
		if at < 0 {
			t.Errorf("the %s %s by %s is lost", f.Format, f.PredicateType, f.Signer)
			continue
		}
		if !bytes.Equal(after[at].Content, f.Content) {
			t.Errorf("the content of the %s %s changed", f.Format, f.PredicateType)
		}
		wantEqual(t, "annotations", after[at].Annotations, f.Annotations)
	}
}

// wantIntents checks that every signature was intended before it was made, and
// made before it was done.
func wantIntents(t *testing.T, k *kase) {
	t.Helper()
	stage := map[string]string{}
	for _, e := range k.entries(t) {
		switch e.Action {
		case "resign.signed":
			if stage[e.Subject] == "" {
				t.Errorf("%s was signed without an intent", e.Subject)
			}
		case "resign.done":
			if stage[e.Subject] != "resign.signed" {
				t.Errorf("%s was done after %q", e.Subject, stage[e.Subject])
			}
		}
		if strings.HasPrefix(e.Action, "resign.") {
			stage[e.Subject] = e.Action
		}
	}
}

func TestDryRun(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	ref := k.push(t, "app")
	k.all(t, ref)
	k.plan(t, ref)
	journaled := len(k.entries(t))
	w := &wrapper{Registry: k.client}
	e := k.engine(w)
	e.Apply = false
	got, err := e.Run(t.Context(), list{items: k.items})
	must(t, err)
	wantEqual(t, "result", got, Result{Planned: 4})
	wantEqual(t, "writes", w.writes, []string(nil))
	wantEqual(t, "signed", k.next.signed, 0)
	wantEqual(t, "journal", len(k.entries(t)), journaled)
	wantEqual(t, "reissues", len(k.reissues(t)), 0)
	wantEqual(t, "by the new signer", len(count(k.found(t, ref), k.next.id)), 0)

	k.run(t, k.client)
	got, err = e.Run(t.Context(), list{items: k.items})
	must(t, err)
	wantEqual(t, "result once it is signed", got, Result{Planned: 4, Already: 4})
}

// TestEnvelopeMakesABundle is why no claim about an image on hold is signed, in
// whatever format: whoever writes to the registry makes a bundle of what is in an
// ".att", and that makes cosign accept the image.
func TestEnvelopeMakesABundle(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	ref := k.push(t, "app")
	must(t, k.old.AttestLegacy(t.Context(), ref, spdx, sbom, sandbox.NoProof))
	k.plan(t, ref)
	wantEqual(t, "result", k.run(t, k.client), Result{Planned: 1, Signed: 1})
	for _, f := range k.found(t, ref) {
		if f.Signer != k.next.id {
			continue
		}
		bundle := fmt.Appendf(nil, `{"mediaType":"%s","verificationMaterial":{"publicKey":{"hint":"x"}},"dsseEnvelope":%s}`, bundleType, f.Content)
		if err := (verify.Consumer{Key: k.next.PublicKey()}).Bundle(t.Context(), subjectOf(ref), bundle); err != nil {
			t.Errorf("cosign refuses it: %v", err)
		}
		return
	}
	t.Error("nothing was signed")
}

// TestDryRunAfterFailure tells what would be done now, not what failed once.
func TestDryRunAfterFailure(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	ref := k.push(t, "app")
	must(t, k.old.SignLegacy(t.Context(), ref, sandbox.NoProof))
	k.plan(t, ref)
	dry := k.engine(k.client)
	dry.Apply = false
	dry.Failed = func(f Failure) { t.Errorf("told of %s: %s", f.Format, f.Why) }
	for _, tc := range []struct {
		what string
		reg  Registry
		want Result
	}{
		{"nothing could be written", &wrapper{Registry: k.client, failAt: -1, fault: lost}, Result{Planned: 1}},
		{"it was written, and reported failed", &wrapper{Registry: k.client, afterTag: func(string, string) error { return errFault }}, Result{Planned: 1, Already: 1}},
	} {
		wantEqual(t, tc.what, k.run(t, tc.reg), Result{Planned: 1, Failed: 1})
		got, err := dry.Run(t.Context(), list{items: k.items})
		must(t, err)
		wantEqual(t, "dry run after "+tc.what, got, tc.want)
	}
}

func TestAgain(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	ref := k.push(t, "app")
	k.all(t, ref)
	k.plan(t, ref)
	k.run(t, k.client)
	before, rows := k.found(t, ref), k.reissues(t)
	journaled := len(k.entries(t))
	w := &wrapper{Registry: k.client}
	wantEqual(t, "result", k.run(t, w), Result{Planned: 4, Already: 4})
	wantEqual(t, "writes", w.writes, []string(nil))
	wantEqual(t, "signed", k.next.signed, 4)
	wantEqual(t, "reissues", k.reissues(t), rows)
	k.keptAll(t, before, k.found(t, ref))
	t.Run("nothing is journaled", func(t *testing.T) {
		wantEqual(t, "journal", len(k.entries(t)), journaled)
	})

	// Another plan with the same signer finds it signed, too.
	e := k.engine(w)
	e.Plan = "sha256:another"
	got, err := e.Run(t.Context(), list{items: k.items})
	must(t, err)
	wantEqual(t, "result of another plan", got, Result{Planned: 4, Already: 4})
	// It is only known when there is something to write. Its content, which is
	// uploaded before, is in no manifest.
	wantEqual(t, "writes of another plan", w.writes, []string{"blob", "blob", "blob", "blob"})
	k.keptAll(t, before, k.found(t, ref))
	wantEqual(t, "signatures", len(k.found(t, ref)), len(before))
}

func TestHeld(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	good, bad := k.push(t, "good"), k.push(t, "bad")
	k.all(t, good)
	k.all(t, bad)
	k.plan(t, good)
	k.plan(t, bad)
	changed := func(i Item) (string, error) {
		if i.Digest == good.DigestStr() {
			return "", nil
		}
		return "it changed", nil
	}
	var failures []Failure
	e := k.engine(k.client)
	e.Failed = func(f Failure) { failures = append(failures, f) }
	got, err := e.Run(t.Context(), list{k.items, changed})
	must(t, err)
	wantEqual(t, "result", got, Result{Planned: 8, Signed: 4, Held: 4})
	for _, f := range failures {
		wantEqual(t, "reason", []string{f.Item.Digest, f.Why}, []string{bad.DigestStr(), "it changed"})
	}
	wantEqual(t, "told of", len(failures), 4)
	wantEqual(t, "on what is held", len(count(k.found(t, bad), k.next.id)), 0)
	wantEqual(t, "signed", k.next.signed, 4)

	broken := errors.New("database is gone")
	if _, err := e.Run(t.Context(), list{k.items, func(Item) (string, error) { return "", broken }}); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	t.Run("signed once the decision holds again", func(t *testing.T) {
		got, err := e.Run(t.Context(), list{items: k.items})
		must(t, err)
		wantEqual(t, "result", got, Result{Planned: 8, Signed: 4, Already: 4})
		wantEqual(t, "on what was held", len(count(k.found(t, bad), k.next.id)), 4)
	})
}

// TestOthers has signatures of others beside ours: they stay as they are, to
// the byte.
func TestOthers(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	stranger, err := k.NewActor("stranger")
	must(t, err)
	ref := k.push(t, "app")
	k.all(t, ref)
	must(t, errors.Join(stranger.SignLegacy(t.Context(), ref, sandbox.RekorV1|sandbox.Timestamp), stranger.SignBundle(t.Context(), ref, sandbox.RekorV1),
		stranger.AttestLegacy(t.Context(), ref, spdx, sbom, sandbox.RekorV1)))
	repository, ctx := ref.Context().Name(), t.Context()
	// A referrer that is no signature.
	other := attach(t, k, ref, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"text/plain",`)
	k.plan(t, ref, inventory.Legacy, inventory.LegacyAtt, inventory.Bundle)
	k.items = slices.DeleteFunc(k.items, func(i Item) bool { return i.Seq > 4 }) // what the old signer made
	layers := func(f inventory.Format) (out []string) {
		m, err := k.client.Manifest(ctx, repository, verify.Tag(ref.DigestStr(), f))
		must(t, err)
		var image v1.Manifest
		must(t, json.Unmarshal(m.Raw, &image))
		for _, l := range image.Layers {
			line, err := json.Marshal(l)
			must(t, err)
			content, err := k.client.Blob(ctx, repository, l.Digest.String(), 1<<20)
			must(t, err)
			out = append(out, string(line)+sum(content))
		}
		return out
	}
	referrers := func() (out []string) {
		list, err := k.client.Referrers(ctx, repository, ref.DigestStr())
		must(t, err)
		for _, d := range list {
			line, err := json.Marshal(d)
			must(t, err)
			m, err := k.client.Manifest(ctx, repository, d.Digest.String())
			must(t, err)
			out = append(out, string(line)+sum(m.Raw))
		}
		return out
	}
	sig, att, refs := layers(inventory.Legacy), layers(inventory.LegacyAtt), referrers()
	k.run(t, k.client)
	wantEqual(t, "layers of .sig", layers(inventory.Legacy)[:len(sig)], sig)
	wantEqual(t, "layers of .att", layers(inventory.LegacyAtt)[:len(att)], att)
	wantEqual(t, "referrers", referrers()[:len(refs)], refs)
	if !slices.ContainsFunc(referrers(), func(s string) bool { return strings.Contains(s, other) }) {
		t.Error("the referrer that is no signature is lost")
	}
}

// attach attaches a manifest that begins with head and has no layers.
func attach(t *testing.T, k *kase, ref name.Digest, head string) string {
	t.Helper()
	empty := []byte("{}")
	_, err := k.client.PutBlob(t.Context(), ref.Context().Name(), empty)
	must(t, err)
	config, err := json.Marshal(describe("application/vnd.oci.empty.v1+json", empty))
	must(t, err)
	raw := []byte(fmt.Sprintf(`%s"config":%s,"layers":[],"subject":{"mediaType":"%s","size":1,"digest":"%s"}}`, head, config, types.OCIManifestSchema1, ref.DigestStr()))
	d, err := k.client.Attach(t.Context(), ref.Context().Name(), raw, string(types.OCIManifestSchema1), v1.Descriptor{}, ref.DigestStr())
	must(t, err)
	return d
}

// TestTagOfAnotherKind has something else under the signature tag: what is
// there is added to as it should be, or left alone.
func TestTagOfAnotherKind(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, tc := range []struct {
		name   string
		change func(raw []byte) (mediaType string, changed []byte)
		added  bool
	}{
		{"as cosign wrote it", func(raw []byte) (string, []byte) { return string(types.OCIManifestSchema1), raw }, true},
		{"manifest without a media type", func(raw []byte) (string, []byte) {
			return string(types.OCIManifestSchema1), bytes.Replace(raw, []byte(`"mediaType":"`+types.OCIManifestSchema1+`",`), nil, 1)
		}, true},
		{"Docker manifest", func(raw []byte) (string, []byte) {
			return string(types.DockerManifestSchema2), bytes.Replace(raw, []byte(types.OCIManifestSchema1), []byte(types.DockerManifestSchema2), 1)
		}, true},
		{"manifest with an annotation", func(raw []byte) (string, []byte) {
			return string(types.OCIManifestSchema1), bytes.Replace(raw, []byte(`"schemaVersion":2,`), []byte(`"schemaVersion":2,"annotations":{"a":"b"},`), 1)
		}, true},
		{"index", func([]byte) (string, []byte) {
			return string(types.OCIImageIndex), []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := b.newCase(t)
			ref := k.push(t, "app")
			repository, tag := ref.Context().Name(), verify.Tag(ref.DigestStr(), inventory.Legacy)
			must(t, k.old.SignLegacy(t.Context(), ref, sandbox.NoProof))
			k.plan(t, ref)
			m, err := k.client.Manifest(t.Context(), repository, tag)
			must(t, err)
			mediaType, changed := tc.change(m.Raw)
			_, _, err = k.client.PutManifest(t.Context(), repository, tag, mediaType, changed)
			must(t, err)
			if tc.added {
				wantEqual(t, "result", k.run(t, k.client), Result{Planned: 1, Signed: 1})
				wantEqual(t, "by the new signer", len(count(k.found(t, ref), k.next.id)), 1)
				wantEqual(t, "by the old signer", len(count(k.found(t, ref), k.oldID(t))), 1)
				now, err := k.client.Manifest(t.Context(), repository, tag)
				must(t, err)
				wantEqual(t, "media type", now.MediaType, mediaType)
				if bytes.Contains(changed, []byte(`"annotations":{"a":"b"}`)) && !bytes.Contains(now.Raw, []byte(`"annotations":{"a":"b"}`)) {
					t.Errorf("the annotation is lost: %s", now.Raw)
				}
				return
			}
			wantEqual(t, "result", k.run(t, k.client), Result{Planned: 1, Failed: 1})
			now, err := k.client.Manifest(t.Context(), repository, tag)
			must(t, err)
			wantEqual(t, "what is there", string(now.Raw), string(changed))
		})
	}
}

// unread has the registry answer the first reading of a tag with what cannot be
// believed.
type unread struct {
	Registry
	tag  string
	with error
	done bool
}

func (r *unread) Manifest(ctx context.Context, repository, reference string) (registry.Manifest, error) {
	if reference == r.tag && !r.done {
		r.done = true
		return registry.Manifest{}, r.with
	}
	return r.Registry.Manifest(ctx, repository, reference)
}

// TestTagUnread gets no good answer to what is under the signature tag: it is not
// taken for nothing, which would lose the signatures that are there.
func TestTagUnread(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, with := range []error{registry.ErrDigest, registry.ErrMalformed, registry.ErrTooLarge} {
		for _, f := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt} {
			t.Run(fmt.Sprint(f, ": ", with), func(t *testing.T) {
				t.Parallel()
				k := b.newCase(t)
				ref := k.push(t, "app")
				k.all(t, ref)
				k.plan(t, ref, f)
				wantEqual(t, "result", k.run(t, &unread{Registry: k.client, tag: verify.Tag(ref.DigestStr(), f), with: with}), Result{Planned: 1, Failed: 1})
				wantEqual(t, "by the old signer", len(count(k.found(t, ref), k.oldID(t))), 4)
				wantEqual(t, "result of the next run", k.run(t, k.client), Result{Planned: 1, Signed: 1})
				wantEqual(t, "by the old signer then", len(count(k.found(t, ref), k.oldID(t))), 4)
				wantEqual(t, "uses of the key", k.next.signed, 1)
			})
		}
	}
}

// forgetful is a registry that loses what is uploaded first.
type forgetful struct {
	Registry
	lost string // its digest
}

func (f *forgetful) PutBlob(ctx context.Context, repository string, content []byte) (string, error) {
	if f.lost == "" {
		f.lost = inventory.Digest(content)
		return f.lost, nil
	}
	return f.Registry.PutBlob(ctx, repository, content)
}

// TestUploadLost has the content of a signature gone from the registry before the
// manifest that names it is there: it is uploaded once more.
func TestUploadLost(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	ref := k.push(t, "app")
	k.all(t, ref)
	k.plan(t, ref, inventory.LegacyAtt)
	wantEqual(t, "result", k.run(t, &forgetful{Registry: k.client}), Result{Planned: 1, Signed: 1})
	wantEqual(t, "by the new signer", len(count(k.found(t, ref), k.next.id)), 1)
	wantEqual(t, "uses of the key", k.next.signed, 1)
}

func TestOverwritten(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	ref := k.push(t, "app")
	must(t, k.old.SignLegacy(t.Context(), ref, sandbox.NoProof))
	k.plan(t, ref)
	repository, tag := ref.Context().Name(), verify.Tag(ref.DigestStr(), inventory.Legacy)
	was, err := k.client.Manifest(t.Context(), repository, tag)
	must(t, err)
	w := &wrapper{Registry: k.client, afterTag: func(string, string) error {
		_, _, err := k.client.PutManifest(t.Context(), repository, tag, was.MediaType, was.Raw)
		return err
	}}
	wantEqual(t, "result", k.run(t, w), Result{Planned: 1, Failed: 1})
	row := k.reissues(t)[0]
	if row.State != Failed || !strings.Contains(row.Why, "overwrites") {
		t.Errorf("got %+v, want it failed because it was overwritten", row)
	}
	wantEqual(t, "result of the next run", k.run(t, k.client), Result{Planned: 1, Signed: 1})
	found := k.found(t, ref)
	wantEqual(t, "by the new signer", count(found, k.next.id), map[string]int{"legacy " + inventory.SignPredicate: 1})
	wantEqual(t, "by the old signer", count(found, k.oldID(t)), map[string]int{"legacy " + inventory.SignPredicate: 1})
	wantEqual(t, "signature", k.reissues(t)[0].SignatureID, row.SignatureID)
	wantEqual(t, "signed", k.next.signed, 1)
}

// TestLateWriter has somebody with an old view of the tag write after ours was
// read back: it is noticed where they were seen before, and signed once.
func TestLateWriter(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	ref := k.push(t, "app")
	must(t, k.old.SignLegacy(t.Context(), ref, sandbox.NoProof))
	k.plan(t, ref)
	repository, tag := ref.Context().Name(), verify.Tag(ref.DigestStr(), inventory.Legacy)
	was, err := k.client.Manifest(t.Context(), repository, tag)
	must(t, err)
	overwrite := func(context.Context) error {
		_, _, err := k.client.PutManifest(t.Context(), repository, tag, was.MediaType, was.Raw)
		return err
	}
	writes := 0
	w := &wrapper{Registry: k.client, afterTag: func(string, string) error {
		if writes++; writes == 1 {
			return overwrite(t.Context())
		}
		return nil
	}}
	e := k.engine(w)
	e.Settle = 300 * time.Millisecond
	done := make(chan error, 1)
	e.Progress = func(int64, Result) { // recorded as signed
		if writes == 2 {
			done <- overwrite(t.Context())
		}
	}
	got, err := e.Run(t.Context(), list{items: k.items})
	must(t, errors.Join(err, <-done))
	wantEqual(t, "result", got, Result{Planned: 1, Signed: 1})
	wantEqual(t, "writes", writes, 3)
	found := k.found(t, ref)
	wantEqual(t, "by the new signer", count(found, k.next.id), map[string]int{"legacy " + inventory.SignPredicate: 1})
	wantEqual(t, "by the old signer", count(found, k.oldID(t)), map[string]int{"legacy " + inventory.SignPredicate: 1})
	wantEqual(t, "uses of the key", k.next.signed, 1)
}

// TestSideBySide has 16 engines with keys and plans of their own work on one
// digest.
func TestSideBySide(t *testing.T) {
	t.Parallel()
	const engines = 16
	k := newBench(t).newCase(t)
	ref := k.push(t, "app")
	k.all(t, ref)
	k.plan(t, ref)
	before := k.found(t, ref)
	keys, public := make([]*ecKey, engines), make([]crypto.PublicKey, engines)
	var wg sync.WaitGroup
	for n := range keys {
		keys[n] = newKey(t)
		public[n] = keys[n].PublicKey()
		e := k.engine(k.client)
		e.Signer, e.Plan, e.Parallel = signer.Always(keys[n]), fmt.Sprintf("sha256:%d", n), 0
		wg.Go(func() {
			got, err := e.Run(t.Context(), list{items: k.items})
			if err != nil || got != (Result{Planned: 4, Signed: 4}) {
				t.Errorf("engine %d: %+v, %v", n, got, err)
			}
		})
	}
	wg.Wait()
	after := k.found(t, ref, public...)
	k.keptAll(t, before, after)
	wantEqual(t, "signatures", len(after), 4+4*engines)
	for n, key := range keys {
		wantEqual(t, fmt.Sprintf("signatures of engine %d", n), count(after, key.id), count(before, k.oldID(t)))
	}
	k.checkJournal(t)
}

// TestMany has more items than one transaction takes, with several claims
// each.
func TestMany(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	for n := range 45 {
		ref := k.push(t, fmt.Sprintf("v%d", n))
		must(t, errors.Join(k.old.SignLegacy(t.Context(), ref, sandbox.NoProof), k.old.AttestLegacy(t.Context(), ref, spdx, n, sandbox.NoProof)))
		k.plan(t, ref)
	}
	e := k.engine(k.client)
	e.Parallel = 0
	got, err := e.Run(t.Context(), list{items: k.items})
	must(t, err)
	wantEqual(t, "result", got, Result{Planned: 90, Signed: 90})
	counts, err := k.ReissueCounts(t.Context(), plan)
	must(t, err)
	wantEqual(t, "reissues", counts, map[string]int64{Done: 90})
	k.checkJournal(t)
}

func TestNoTimestamp(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }))
	t.Cleanup(refusing.Close)
	for what, url := range map[string]string{"down": down.URL, "refusing": refusing.URL} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			k := b.newCase(t)
			ref := k.push(t, "app")
			k.all(t, ref)
			k.plan(t, ref)
			w := &wrapper{Registry: k.client}
			e := k.engine(w)
			e.Services.Timestamps = []*sign.TimestampAuthority{sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: url, Timeout: 5 * time.Second})}
			got, err := e.Run(t.Context(), list{items: k.items})
			must(t, err)
			wantEqual(t, "result", got, Result{Planned: 4, Failed: 4})
			wantEqual(t, "writes", w.writes, []string(nil))
			wantEqual(t, "by the new signer", len(count(k.found(t, ref), k.next.id)), 0)
			for _, r := range k.reissues(t) {
				if r.State != Failed || r.Why == "" || r.Content != "" {
					t.Errorf("got %+v, want it failed, with a reason and nothing to publish", r)
				}
			}
			e.Services.Timestamps = []*sign.TimestampAuthority{sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: b.TSAURL(), Timeout: time.Minute})}
			got, err = e.Run(t.Context(), list{items: k.items})
			must(t, err)
			wantEqual(t, "result once it is up", got, Result{Planned: 4, Signed: 4})
			cosignAccepts(t, b, ref, k.next.PublicKey(), inventory.Legacy, true)
		})
	}
}

func TestCannotSign(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	ref := k.push(t, "app")
	k.all(t, ref)
	k.plan(t, ref)
	for n := range k.items {
		k.items[n].SourceContent = "sha256:" + strings.Repeat("0", 64) // the vault has no such claim
	}
	got := k.run(t, k.client)
	wantEqual(t, "result", got, Result{Planned: 4, Signed: 2, Failed: 2}) // image signatures need no source
	k.items[0].Formats = []inventory.Format{"paper"}
	k.items[0].Seq, k.items = 99, k.items[:1]
	wantEqual(t, "result in an unknown format", k.run(t, k.client).Failed, int64(1))
}

// TestFault disturbs each write in each way, then runs again: every planned
// statement is signed by the new signer exactly once, nothing held is signed,
// nothing old is lost.
func TestFault(t *testing.T) {
	t.Parallel()
	api := newBench(t)
	tag := &bench{api.World, withoutReferrers(), api.old, api.client}
	for _, b := range []struct {
		name string
		*bench
		writes int // 3 for each of 4 signatures, without the empty configuration of bundles the second time; one list of both bundles
	}{{"referrers API", api, 11}, {"fallback tag", tag, 12}} {
		// How many writes are there?
		probe := b.newCase(t)
		ref := probe.push(t, "app")
		probe.all(t, ref)
		probe.plan(t, ref)
		w := &wrapper{Registry: probe.client}
		probe.run(t, w)
		writes := w.writes
		if len(writes) != b.writes {
			t.Fatalf("%s: %d writes, want %d: %v", b.name, len(writes), b.writes, writes)
		}
		for at := range writes {
			what, _, _ := strings.Cut(writes[at], " ")
			for _, f := range faults {
				t.Run(fmt.Sprintf("%s, write %d (%s) %s", b.name, at+1, what, f.name), func(t *testing.T) {
					t.Parallel()
					testFault(t, b.bench, at+1, f.fault)
				})
			}
		}
	}
}

func testFault(t *testing.T, b *bench, at int, f fault) {
	k := b.newCase(t)
	good, held := k.push(t, "good"), k.push(t, "held")
	k.all(t, good)
	k.all(t, held)
	k.plan(t, good)
	k.plan(t, held)
	old := k.found(t, good)
	work := list{k.items, func(i Item) (string, error) {
		if i.Digest == good.DigestStr() {
			return "", nil
		}
		return "on hold", nil
	}}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &wrapper{Registry: k.client, failAt: at, fault: f, stop: cancel, file: k.file}
	first, err := k.engine(w).Run(ctx, work)
	if stopped := f != lost && f != doneButError; stopped != (err != nil) {
		t.Fatalf("got %v, want an error only when the run had to stop", err)
	}
	if len(w.writes) < at {
		t.Fatalf("only %d writes", len(w.writes))
	}
	published := 0
	for _, n := range count(k.found(t, good), k.next.id) {
		published += n
	}
	if first.Signed > int64(published) {
		t.Errorf("the disturbed run counts %d as signed, published are %d", first.Signed, published)
	}
	if w.copied != "" {
		k.reopen(t, w.copied)
	}
	k.checkJournal(t)
	persisted := map[inventory.Format]map[int64]store.Reissue{}
	for _, r := range k.reissues(t) {
		if persisted[r.Format] == nil {
			persisted[r.Format] = map[int64]store.Reissue{}
		}
		persisted[r.Format][r.Seq] = r
	}

	var failures []Failure
	e := k.engine(k.client)
	e.Failed = func(f Failure) { failures = append(failures, f) }
	second, err := e.Run(t.Context(), work)
	must(t, err)
	wantEqual(t, "planned, failed, held", []int64{second.Planned, second.Failed, second.Held}, []int64{8, 0, 4})
	wantEqual(t, "signed or already", second.Signed+second.Already, int64(4))

	after := k.found(t, good)
	k.keptAll(t, old, after)
	want := count(old, k.oldID(t))
	wantEqual(t, "statements of the new signer", count(after, k.next.id), want)
	wantEqual(t, "statements", len(want), 4)
	wantEqual(t, "signatures", len(after), 8)
	wantEqual(t, "on what is held", len(count(k.found(t, held), k.next.id)), 0)
	if k.next.signed != 4 {
		t.Errorf("the key was used %d times, want 4: once for each statement", k.next.signed)
	}
	for _, r := range k.reissues(t) {
		if r.Seq > 4 {
			wantEqual(t, "held", r.State, Held)
			continue
		}
		wantEqual(t, fmt.Sprintf("reissue %d %s", r.Seq, r.Format), r.State, Done)
		p := persisted[r.Format][r.Seq]
		if p.SignatureID != "" && (p.SignatureID != r.SignatureID || p.Content != r.Content) {
			t.Errorf("reissue %d: persisted was %s, published is %s", r.Seq, p.SignatureID, r.SignatureID)
		}
		if !slices.ContainsFunc(after, func(f verify.Found) bool { return f.ID == r.SignatureID && f.Signer == k.next.id }) {
			t.Errorf("reissue %d: its signature is not in the registry", r.Seq)
		}
	}
	k.checkJournal(t)
	for _, f := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt, inventory.Bundle} {
		cosignAccepts(t, b, good, k.next.PublicKey(), f, false)
	}
	for _, f := range failures {
		wantEqual(t, "listed", f.Item.Digest, held.DigestStr())
	}
}

var _ Registry = (*registry.Client)(nil)
