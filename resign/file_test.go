package resign

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	cbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	sgbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/reseal/reseal/internal/files"
	"github.com/reseal/reseal/internal/services"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// digestKey is a key that signs digests, too.
type digestKey struct{ *ecKey }

func (k digestKey) SignDigest(_ context.Context, digest []byte) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.signed++
	return ecdsa.SignASN1(rand.Reader, k.private, digest)
}

// fileCase is a case with a directory of files and one for their signatures.
type fileCase struct {
	*kase
	in, out string
	signed  *ecKey // the old key
	source  signer.Source
}

func (b *bench) newFileCase(t testing.TB) *fileCase {
	t.Helper()
	k := &fileCase{kase: b.newCase(t), in: t.TempDir(), out: t.TempDir(), signed: newKey(t)}
	k.source = signer.Always(digestKey{k.next})
	return k
}

func openDir(t testing.TB, dir string) *files.Dir {
	t.Helper()
	d, err := files.Open(dir)
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	return d
}

func (k *fileCase) put(t testing.TB, name string, content []byte) string {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(filepath.Join(k.in, name)), 0o755))
	must(t, os.WriteFile(filepath.Join(k.in, name), content, 0o644))
	return inventory.Digest(content)
}

func spdxOf(digests ...string) []byte {
	var subjects []string
	for _, d := range digests {
		subjects = append(subjects, fmt.Sprintf(`{"name":"a","digest":{"sha256":%q}}`, strings.TrimPrefix(d, "sha256:")))
	}
	return []byte(`{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"` + spdx + `", "subject":[` + strings.Join(subjects, ",") + `],"predicate":{"b": "<a> & c"}}`)
}

// old returns what the old key signed of a file, as it is stored.
func (k *fileCase) old(t testing.TB, content sign.Content) []byte {
	t.Helper()
	pair, err := newKeypair(k.signed)
	must(t, err)
	b, err := sign.Bundle(content, pair, sign.BundleOptions{})
	must(t, err)
	raw, err := compact(b)
	must(t, err)
	return raw
}

func (k *fileCase) oldBlob(t testing.TB, message []byte) []byte {
	t.Helper()
	sig, err := k.signed.Sign(t.Context(), message)
	must(t, err)
	raw, err := verify.BlobSignature{Signature: sig}.Content()
	must(t, err)
	return raw
}

// enter enters a signature of the old key into the inventory and into the work.
func (k *fileCase) enter(t testing.TB, digest string, f inventory.Format, content []byte) Item {
	t.Helper()
	v, err := verify.New(verify.Trust{Keys: []crypto.PublicKey{k.signed.PublicKey()}})
	must(t, err)
	sig := v.Stored(verify.Subject{Repository: inventory.Files, Digest: digest}, f, nil, content)
	if !sig.Verified {
		t.Fatalf("what is to be re-signed does not verify: %s", sig.Why)
	}
	sig.Manifest = sig.Content
	must(t, k.Update(t.Context(), by, func(tx *store.Tx) error {
		_, err := tx.PutVault(t.Context(), content)
		return errors.Join(err, tx.PutArtifact(t.Context(), inventory.Artifact{Repository: inventory.Files, Digest: digest}), tx.PutSignature(t.Context(), sig))
	}))
	i := Item{Seq: int64(len(k.items) + 1), Repository: inventory.Files, Digest: digest, PredicateType: sig.PredicateType,
		StatementKey: sig.StatementKey(), Formats: []inventory.Format{f}, SourceFormat: f, SourceContent: sig.Content}
	k.items = append(k.items, i)
	return i
}

// all signs a file in every way there is.
func (k *fileCase) all(t testing.TB, content []byte) string {
	t.Helper()
	digest := inventory.Digest(content)
	k.enter(t, digest, inventory.Detached, k.old(t, &sign.PlainData{Data: content}))
	k.enter(t, digest, inventory.Blob, k.oldBlob(t, content))
	k.enter(t, digest, inventory.Detached, k.old(t, &sign.DSSEData{Data: spdxOf(digest), PayloadType: intotoType}))
	return digest
}

func (k *fileCase) engine(t testing.TB) Engine {
	t.Helper()
	e := k.kase.engine(nil) // no registry is asked
	e.Signer = k.source
	e.Files = Files{In: openDir(t, k.in), Out: openDir(t, k.out)}
	return e
}

func (k *fileCase) work(t testing.TB, e Engine, want Result) (why []string) {
	t.Helper()
	e.Failed = func(f Failure) { why = append(why, f.Why) }
	got, err := e.Run(t.Context(), list{items: k.items})
	must(t, err)
	if got != want {
		t.Errorf("result %+v, want %+v: %q", got, want, why)
	}
	return why
}

// listed lists what is below a directory.
func listed(t testing.TB, dir string) (names []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			name, relErr := filepath.Rel(dir, path)
			names, err = append(names, name), relErr
		}
		return err
	}))
	return names
}

func (k *fileCase) read(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(k.out, name))
	must(t, err)
	return content
}

// wantBlob has the cosign library verify a blob signature over the file itself.
func wantBlob(t *testing.T, opts *cosign.CheckOpts, file, sig, certificate, stamp []byte) {
	t.Helper()
	var with []static.Option
	if certificate != nil {
		with = append(with, static.WithCertChain(certificate, nil))
	}
	if stamp != nil {
		var b cbundle.RFC3161Timestamp
		must(t, json.Unmarshal(stamp, &b))
		with = append(with, static.WithRFC3161Timestamp(&b))
	}
	s, err := static.NewSignature(file, string(sig), with...)
	must(t, err)
	if _, err := cosign.VerifyBlobSignature(t.Context(), s, opts); err != nil {
		t.Errorf("cosign refuses the blob signature: %v", err)
	}
	other, err := static.NewSignature([]byte("another"), string(sig), with...)
	must(t, err)
	if _, err := cosign.VerifyBlobSignature(t.Context(), other, opts); err == nil {
		t.Error("cosign accepts the blob signature for another file")
	}
}

func wantBundle(t *testing.T, opts *cosign.CheckOpts, file, raw []byte) {
	t.Helper()
	var b sgbundle.Bundle
	must(t, b.UnmarshalJSON(raw))
	if _, err := cosign.VerifyNewBundle(t.Context(), opts, sgverify.WithArtifact(bytes.NewReader(file)), &b); err != nil {
		t.Errorf("cosign refuses the bundle: %v", err)
	}
	if _, err := cosign.VerifyNewBundle(t.Context(), opts, sgverify.WithArtifact(strings.NewReader("another")), &b); err == nil {
		t.Error("cosign accepts the bundle for another file")
	}
}

func TestResignFiles(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	trusted, err := b.TrustedRoot()
	must(t, err)
	none, stamped := services.Endpoints{}, services.Endpoints{Timestamps: []string{b.TSAURL()}}
	logged1 := services.Endpoints{Timestamps: []string{b.TSAURL()}, RekorV1: []string{b.RekorURL()}}
	logged2 := services.Endpoints{Timestamps: []string{b.TSAURL()}, RekorV2: []string{b.RekorV2URL()}}
	for _, who := range []string{"key", "key without digests", "keyless"} {
		for name, ends := range map[string]services.Endpoints{"none": none, "TSA": stamped, "Rekor v1 and TSA": logged1, "Rekor v2 and TSA": logged2} {
			if who == "keyless" && name == "none" {
				continue // it is refused, whatever is signed
			}
			t.Run(who+", "+name, func(t *testing.T) {
				t.Parallel()
				k := b.newFileCase(t)
				keyless := who == "keyless"
				switch who {
				case "key without digests":
					k.source = signer.Always(k.next)
				case "keyless":
					k.source = b.newIdentity()
				}
				content := []byte("the content of a file")
				digest := k.all(t, content)
				k.put(t, "dist/app.tar.gz", content)
				k.put(t, "copy", content)
				k.put(t, "other", []byte("other"))
				e := k.engine(t)
				var err error
				e.Services, err = services.Open(ends)
				must(t, err)
				if name != "none" {
					e.Root = trusted
				}
				dry := e
				dry.Apply = false
				k.work(t, dry, Result{Planned: 3})
				wantEqual(t, "after a dry run", listed(t, k.out), []string(nil))
				k.work(t, e, Result{Planned: 3, Signed: 3})
				wantIntents(t, k.kase)

				claim := fmt.Sprintf(".%s.sigstore.json", sum(spdxOf(digest))[:16])
				var want []string
				for _, base := range []string{"copy", "dist/app.tar.gz"} {
					names := []string{base + claim, base + ".sig", base + ".sigstore.json"}
					if keyless {
						names = append(names, base+".pem")
					}
					if name != "none" {
						names = append(names, base+".rfc3161.json")
					}
					slices.Sort(names)
					want = append(want, names...)
				}
				wantEqual(t, "files", listed(t, k.out), want)
				opts := &cosign.CheckOpts{TrustedMaterial: trusted, Offline: true, IgnoreSCT: true, IgnoreTlog: !strings.HasPrefix(name, "Rekor"), UseSignedTimestamps: name != "none"}
				if keyless {
					opts.Identities = []cosign.Identity{{Issuer: k.source.Identity().Issuer, Subject: k.source.Identity().Subject}}
				} else {
					opts.SigVerifier, err = signature.LoadVerifier(k.next.PublicKey(), crypto.SHA256)
					must(t, err)
				}
				if name == "none" {
					opts.TrustedMaterial = &root.BaseTrustedMaterial{}
				}
				blobOpts := *opts
				blobOpts.IgnoreTlog = true // a log entry is in no file
				for _, base := range []string{"copy", "dist/app.tar.gz"} {
					var certificate, stamp []byte
					if keyless {
						certificate = k.read(t, base+".pem")
					}
					if name != "none" {
						stamp = k.read(t, base+".rfc3161.json")
					}
					wantBlob(t, &blobOpts, content, k.read(t, base+".sig"), certificate, stamp)
					wantBundle(t, opts, content, k.read(t, base+".sigstore.json"))
					wantBundle(t, opts, content, k.read(t, base+claim))
				}
				// A claim is the same bytes again.
				again, err := verify.Payload(inventory.Detached, k.read(t, "copy"+claim))
				must(t, err)
				wantEqual(t, "claim", string(again), string(spdxOf(digest)))

				// What is there is found, by this plan and by another.
				before := snapshot(t, k.out)
				used := k.next.signed
				for _, plan := range []string{plan, "sha256:another"} {
					e.Plan = plan
					k.work(t, e, Result{Planned: 3, Already: 3})
				}
				e.Apply = false
				k.work(t, e, Result{Planned: 3, Already: 3})
				wantEqual(t, "files of a second run", snapshot(t, k.out), before)
				wantEqual(t, "uses of the key", k.next.signed, used)

				// What became of it is on record, and in the vault.
				sigs, err := k.SignaturesOf(t.Context(), inventory.Artifact{Repository: inventory.Files, Digest: digest}, "")
				must(t, err)
				wantEqual(t, "signatures in the inventory", len(sigs), 6)
				for _, row := range k.reissues(t) {
					at := slices.IndexFunc(sigs, func(g inventory.Signature) bool { return g.ID == row.SignatureID })
					if row.State != Done || at < 0 || sigs[at].Signer != k.source.Identity() || !sigs[at].Verified {
						t.Errorf("reissue %+v is not done by a signature that is known", row)
						continue
					}
					for _, d := range []string{row.Content, sigs[at].Content, sigs[at].Manifest} {
						if _, err := k.Vault(t.Context(), d); err != nil {
							t.Error(err)
						}
					}
				}
				k.checkJournal(t)
			})
		}
	}
}

// snapshot returns what is in a directory.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, name := range listed(t, dir) {
		content, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		out[name] = string(content)
	}
	return out
}

// TestFilesNotAtHand signs what is known by its digest alone, or says what to
// give.
func TestFilesNotAtHand(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	content := []byte("the content of a file")
	for _, tc := range []struct {
		name   string
		change func(*fileCase, *Engine)
		signed int64
		says   string
	}{
		{"no directory for signatures", func(_ *fileCase, e *Engine) { e.Files.Out = nil }, 0, "--files-out"},
		{"not there", func(*fileCase, *Engine) {}, 0, "--files-by-digest"},
		{"no directory of files", func(_ *fileCase, e *Engine) { e.Files.In = nil }, 0, "--files-by-digest"},
		{"by its digest", func(_ *fileCase, e *Engine) { e.Files.ByDigest = true }, 3, ""},
		{"by its digest, without a directory of files", func(_ *fileCase, e *Engine) { e.Files.In, e.Files.ByDigest = nil, true }, 3, ""},
		{"by its digest, with a key that cannot", func(k *fileCase, e *Engine) { e.Files.ByDigest, e.Signer = true, signer.Always(k.next) }, 1, "cannot sign a digest"},
	} {
		for _, apply := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, apply %v", tc.name, apply), func(t *testing.T) {
				t.Parallel()
				k := b.newFileCase(t)
				digest := k.all(t, content)
				e := k.engine(t)
				tc.change(k, &e)
				e.Apply = apply
				want := Result{Planned: 3, Failed: 3 - tc.signed}
				if apply {
					want.Signed = tc.signed
				}
				for _, why := range k.work(t, e, want) {
					if !strings.Contains(why, tc.says) {
						t.Errorf("why %q, want %q in it", why, tc.says)
					}
				}
				if apply && tc.signed == 3 {
					base := strings.Replace(digest, ":", "-", 1)
					wantEqual(t, "files", listed(t, k.out), []string{base + fmt.Sprintf(".%s.sigstore.json", sum(spdxOf(digest))[:16]), base + ".sig", base + ".sigstore.json"})
				}
				if tc.signed == 0 {
					wantEqual(t, "uses of the key", k.next.signed, 0)
				}
			})
		}
	}
	t.Run("what has to be given stops no run", func(t *testing.T) {
		t.Parallel()
		k := b.newFileCase(t)
		for n := range patience + 5 {
			k.enter(t, inventory.Digest([]byte(fmt.Sprint(n))), inventory.Blob, k.oldBlob(t, []byte(fmt.Sprint(n))))
		}
		k.work(t, k.engine(t), Result{Planned: patience + 5, Failed: patience + 5})
	})
	t.Run("later it is there", func(t *testing.T) {
		t.Parallel()
		k := b.newFileCase(t)
		k.all(t, content)
		k.work(t, k.engine(t), Result{Planned: 3, Failed: 3})
		k.put(t, "app", content)
		k.work(t, k.engine(t), Result{Planned: 3, Signed: 3})
	})
}

// TestFilesLost has signatures vanish, and be put back as they were.
func TestFilesLost(t *testing.T) {
	t.Parallel()
	k := newBench(t).newFileCase(t)
	content := []byte("the content of a file")
	k.all(t, content)
	k.put(t, "app", content)
	k.work(t, k.engine(t), Result{Planned: 3, Signed: 3})
	before, used := snapshot(t, k.out), k.next.signed
	for _, name := range listed(t, k.out) {
		must(t, os.Remove(filepath.Join(k.out, name)))
		k.work(t, k.engine(t), Result{Planned: 3, Already: 2, Signed: 1})
		wantEqual(t, "files", snapshot(t, k.out), before)
	}
	wantEqual(t, "uses of the key", k.next.signed, used)
}

// TestFilesHeld takes away or changes each file that signatures were put in: they
// are there no more.
func TestFilesHeld(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	trusted, err := b.TrustedRoot()
	must(t, err)
	k := b.newFileCase(t)
	k.source = b.newIdentity()
	content := []byte("the content of a file")
	digest := inventory.Digest(content)
	k.enter(t, digest, inventory.Detached, k.old(t, &sign.PlainData{Data: content}))
	k.enter(t, digest, inventory.Blob, k.oldBlob(t, content))
	k.put(t, "app", content)
	k.put(t, "sub/copy", content)
	e := k.engine(t)
	e.Root = trusted
	e.Services, err = services.Open(services.Endpoints{Timestamps: []string{b.TSAURL()}})
	must(t, err)
	k.work(t, e, Result{Planned: 2, Signed: 2})
	holds := func(atHand bool) error { // as another process sees it
		f := Files{Out: openDir(t, k.out)}
		if atHand {
			f.In = openDir(t, k.in)
		}
		var missing []error
		for _, row := range k.reissues(t) {
			persisted, err := k.Vault(t.Context(), row.Content)
			must(t, err)
			missing = append(missing, f.Holds(t.Context(), digest, row.Format, persisted))
		}
		return errors.Join(missing...)
	}
	must(t, holds(true))
	must(t, holds(false))
	names := listed(t, k.out)
	wantEqual(t, "files", len(names), 8)
	for _, name := range names {
		was := k.read(t, name)
		for what, change := range map[string]func() error{
			"is missing":           func() error { return os.Remove(filepath.Join(k.out, name)) },
			"is not what was made": func() error { return os.WriteFile(filepath.Join(k.out, name), append(was, '\n'), 0o644) },
		} {
			must(t, change())
			if err := holds(true); err == nil || !strings.Contains(err.Error(), name+" "+what) {
				t.Errorf("%s: got %v, want it to say that it %s", name, err, what)
			}
			must(t, holds(false)) // the other copy has them all
			must(t, os.WriteFile(filepath.Join(k.out, name), was, 0o644))
		}
	}
	must(t, os.Rename(filepath.Join(k.out, "app.sig"), filepath.Join(k.out, "other.sig")))
	must(t, os.Remove(filepath.Join(k.out, "sub/copy.pem")))
	if err := holds(false); err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("no copy has them all: got %v", err)
	}
}

// TestFilesAmongImages re-signs images and files in one run.
func TestFilesAmongImages(t *testing.T) {
	t.Parallel()
	k := newBench(t).newFileCase(t)
	ref := k.push(t, "app")
	k.kase.all(t, ref)
	k.kase.plan(t, ref)
	content := []byte("the content of a file")
	k.all(t, content)
	k.put(t, "app", content)
	e := k.engine(t)
	e.Registry = k.client
	k.work(t, e, Result{Planned: 7, Signed: 7})
	wantEqual(t, "on the image", len(count(k.found(t, ref), k.next.id)), 4)
	wantEqual(t, "files", len(listed(t, k.out)), 3)
	k.checkJournal(t)
}

// shelf counts the writes to a directory and disturbs one of them.
type shelf struct {
	FileStore
	w   wrapper
	err error // of a fault that is none of wrapper's
}

func (s *shelf) Create(name string, content []byte) error {
	return s.w.write(context.Background(), name, func() error {
		if s.err != nil && (len(s.w.writes) == s.w.failAt || s.w.failAt < 0) {
			return s.err
		}
		return s.FileStore.Create(name, content)
	})
}

// drive is a directory on a disk that loses what is not synced.
type drive struct {
	FileStore
	cut     bool // before anything is synced
	lasting map[string]bool
}

func (d *drive) Create(name string, content []byte) error {
	switch err := d.FileStore.Create(name, content); {
	case err != nil:
		return err
	case d.cut:
		return errFault
	}
	d.lasting[name] = true
	return nil
}

func (d *drive) Sync(name string) error {
	d.lasting[name] = true
	return d.FileStore.Sync(name)
}

// TestFaultFilesUnsynced stops a run after a file has its name and before that is
// sure to last: the run that resumes records nothing that a power cut takes away.
func TestFaultFilesUnsynced(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	trusted, err := b.TrustedRoot()
	must(t, err)
	for _, who := range []string{"key", "keyless"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			k := b.newFileCase(t)
			if who == "keyless" {
				k.source = b.newIdentity()
			}
			content := []byte("the content of a file")
			k.all(t, content)
			for _, name := range []string{"app", "sub/copy"} {
				k.put(t, name, content)
			}
			d := &drive{lasting: map[string]bool{}}
			work := func(cut bool) Result {
				e := k.engine(t)
				e.Root = trusted
				e.Services, err = services.Open(services.Endpoints{Timestamps: []string{b.TSAURL()}})
				must(t, err)
				d.FileStore, d.cut = e.Files.Out, cut
				e.Files.Out = d
				got, err := e.Run(t.Context(), list{items: k.items})
				must(t, err)
				return got
			}
			if got := work(true); got.Failed != 3 {
				t.Errorf("the first run: %+v, want all of it to fail", got)
			}
			if got := work(false); got.Signed+got.Already != 3 {
				t.Errorf("the run that resumes: %+v, want all of it done", got)
			}
			for _, name := range listed(t, k.out) {
				if !d.lasting[name] {
					t.Errorf("%s is recorded as done, and a power cut takes it away", name)
				}
			}
		})
	}
}

// TestFaultFiles disturbs each write to the directory of signatures in each way.
// Every statement ends signed once, as it was first persisted, and nothing that is
// held is signed.
func TestFaultFiles(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	writes := []string{"app.pem", "app.rfc3161.json", "app.sig", "app.sigstore.json", "claim"}
	for at := range writes {
		for _, f := range faults {
			t.Run(fmt.Sprintf("write %d (%s) %s", at+1, writes[at], f.name), func(t *testing.T) {
				t.Parallel()
				testFaultFiles(t, b, len(writes), at+1, f.fault, nil)
			})
		}
		for name, err := range map[string]error{"disk full": syscall.ENOSPC, "read-only": syscall.EROFS} {
			t.Run(fmt.Sprintf("write %d (%s) %s", at+1, writes[at], name), func(t *testing.T) {
				t.Parallel()
				testFaultFiles(t, b, len(writes), at+1, 0, &fs.PathError{Op: "write", Path: writes[at], Err: err})
			})
		}
	}
	t.Run("every write fails", func(t *testing.T) {
		t.Parallel()
		testFaultFiles(t, b, len(writes), -1, lost, nil)
	})
}

func testFaultFiles(t *testing.T, b *bench, writes, at int, f fault, with error) {
	k := b.newFileCase(t)
	k.source = b.newIdentity()
	content, held := []byte("the content of a file"), []byte("held")
	k.enter(t, inventory.Digest(content), inventory.Blob, k.oldBlob(t, content))
	k.enter(t, inventory.Digest(content), inventory.Detached, k.old(t, &sign.PlainData{Data: content}))
	k.enter(t, inventory.Digest(content), inventory.Detached, k.old(t, &sign.DSSEData{Data: spdxOf(inventory.Digest(content)), PayloadType: intotoType}))
	k.all(t, held)
	k.put(t, "app", content)
	k.put(t, "held", held)
	trusted, err := b.TrustedRoot()
	must(t, err)
	open := func() Engine {
		e := k.engine(t)
		e.Root = trusted
		e.Services, err = services.Open(services.Endpoints{Timestamps: []string{b.TSAURL()}})
		must(t, err)
		return e
	}
	work := list{k.items, func(i Item) (string, error) {
		if i.Digest == inventory.Digest(content) {
			return "", nil
		}
		return "on hold", nil
	}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	e := open()
	s := &shelf{FileStore: e.Files.Out, w: wrapper{failAt: at, fault: f, stop: cancel, file: k.file}, err: with}
	if with != nil { // the write itself fails, and nothing else
		s.w.stop = func() {}
	}
	e.Files.Out = s
	first, err := e.Run(ctx, work)
	if stopped := f >= stoppedBefore; stopped != (err != nil) {
		t.Fatalf("got %v, want an error only when the run had to stop", err)
	}
	if len(s.w.writes) < at {
		t.Fatalf("only %d writes: %v", len(s.w.writes), s.w.writes)
	}
	signed := func() (n int64) {
		for _, name := range listed(t, k.out) {
			if strings.HasSuffix(name, ".sig") || strings.HasSuffix(name, ".sigstore.json") {
				n++
			}
		}
		return n
	}
	if first.Signed > signed() {
		t.Errorf("the disturbed run counts %d as signed, there are %d", first.Signed, signed())
	}
	if s.w.copied != "" {
		k.reopen(t, s.w.copied)
	}
	k.checkJournal(t)
	before := snapshot(t, k.out)

	got, err := open().Run(t.Context(), work)
	must(t, err)
	if got.Signed+got.Already != 3 || got.Held != 3 || got.Failed != 0 {
		t.Errorf("the run that resumes: %+v", got)
	}
	after := snapshot(t, k.out)
	wantEqual(t, "files", len(after), writes)
	for name, was := range before {
		if after[name] != was {
			t.Errorf("%s was signed twice, or overwritten", name)
		}
	}
	for _, row := range k.reissues(t) {
		if row.State == Held {
			continue
		}
		if row.State != Done {
			t.Errorf("reissue %+v", row)
		}
		persisted, err := k.Vault(t.Context(), row.Content)
		must(t, err)
		if row.Format == inventory.Detached && !slices.ContainsFunc(listed(t, k.out), func(name string) bool { return after[name] == string(persisted) }) {
			t.Error("what was persisted is not what was published")
		}
	}
	k.checkJournal(t)
	intended := map[string]bool{}
	for _, e := range k.entries(t) {
		if e.Action == "resign.signed" && !intended[e.Subject] {
			t.Errorf("%s was signed without an intent", e.Subject)
		}
		intended[e.Subject] = intended[e.Subject] || e.Action == "resign.intended"
	}
}

// attackFiles are the attacks on what is signed in files. See TestAttack.
func attackFiles(t *testing.T, b *bench) {
	content := []byte("the content of a file")
	fails := func(t *testing.T, k *fileCase, e Engine, says string) {
		t.Helper()
		n := int64(len(k.items))
		for _, why := range k.work(t, e, Result{Planned: n, Failed: n}) {
			if !strings.Contains(why, says) {
				t.Errorf("why %q, want %q in it", why, says)
			}
		}
		wantEqual(t, "uses of the new key", k.next.signed, 0)
	}
	t.Run("a claim that verifiers read in two ways", func(t *testing.T) {
		t.Parallel()
		k := b.newFileCase(t)
		ref := k.push(t, "app")
		body := bytes.Replace(spdxOf(ref.DigestStr()), []byte(`"subject":`), []byte(`"subject":[],"subject":`), 1)
		stored := k.old(t, &sign.DSSEData{Data: body, PayloadType: intotoType})
		must(t, k.Update(t.Context(), by, func(tx *storeTx) error {
			_, err := tx.PutVault(t.Context(), stored)
			return err
		}))
		k.items = []Item{{Seq: 1, Repository: ref.Context().Name(), Digest: ref.DigestStr(), PredicateType: spdx, StatementKey: spdx + "#" + inventory.Digest(body),
			Formats: []inventory.Format{inventory.Bundle, inventory.LegacyAtt}, SourceFormat: inventory.Bundle, SourceContent: inventory.Digest(stored)}}
		e := k.engine(t)
		e.Registry = k.client
		for _, why := range k.work(t, e, Result{Planned: 2, Failed: 2}) {
			if !strings.Contains(why, "can be read in two ways") {
				t.Errorf("why %q", why)
			}
		}
		wantEqual(t, "uses of the new key", k.next.signed, 0)
	})
	t.Run("the payload of an image signature as a file", func(t *testing.T) {
		t.Parallel()
		for _, where := range []string{"at hand", "by its digest, known from a scan"} {
			k := b.newFileCase(t)
			ref := k.push(t, "app")
			message, err := payload.Cosign{Image: ref}.MarshalJSON()
			must(t, err)
			k.enter(t, inventory.Digest(message), inventory.Blob, k.oldBlob(t, message))
			e := k.engine(t)
			e.Files.ByDigest = true
			if where == "at hand" {
				k.put(t, "innocent.txt", message)
			} else {
				must(t, k.Update(t.Context(), by, func(tx *storeTx) error {
					_, err := tx.PutVault(t.Context(), message)
					return err
				}))
			}
			fails(t, k, e, "the payload of an image signature")
		}
	})
	t.Run("what other keys sign as a file", func(t *testing.T) {
		t.Parallel()
		for says, text := range map[string]string{
			"what is signed in an envelope": string((&sign.DSSEData{Data: spdxOf(inventory.Digest(content)), PayloadType: intotoType}).PreAuthEncoding()),
			"signed part of TUF metadata":   `{"_type":"targets","expires":"2030-01-01T00:00:00Z","spec_version":"1.0.31","targets":{},"version":1}`,
			"somebody's approval of a plan": " \n\t" + `{"approver":"alice","digest":"sha256:00","kind":"plan","schema":"reseal.approval/v1"}`,
			"the payload of an image":       strings.Repeat(" ", 10_000) + `{"x":{},"Critical":null}trailing`,
			"the manifest of an image":      `{"schemaVersion":2,"layers":[]}`,
			"it is the manifest of an":      `{"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":"sha256:00"},"layers":[]}`,
			"is the manifest of an image":   `{"manifests":[0,{"digest":"sha256:00"}]}`,
			"manifest of an image":          `{"schemaVersion":1,"fsLayers":[{"blobSum":"sha256:00"}]}`,
			"carried out without approvals": `{"by":"alice","incident":"i","plan":"sha256:00","reason":"there is no time","schema":"reseal.break-glass/v1"}`,
			"what an SSH key signs":         "SSHSIG\x00\x00\x00\x04file",
		} {
			k := b.newFileCase(t)
			k.enter(t, inventory.Digest([]byte(text)), inventory.Blob, k.oldBlob(t, []byte(text)))
			k.put(t, "innocent.txt", []byte(text))
			fails(t, k, k.engine(t), says)
		}
	})
	t.Run("an image as a file", func(t *testing.T) {
		t.Parallel()
		// An SBOM about a held image, which anybody can take from the registry: a
		// bundle with it by the new key would make cosign accept the image.
		k := b.newFileCase(t)
		ref := k.push(t, "held")
		m, err := k.client.Manifest(t.Context(), ref.Context().Name(), ref.DigestStr())
		must(t, err)
		k.enter(t, ref.DigestStr(), inventory.Detached, k.old(t, &sign.DSSEData{Data: spdxOf(ref.DigestStr()), PayloadType: intotoType}))
		e := k.engine(t)
		e.Files.ByDigest = true
		k.put(t, "innocent.json", m.Raw)
		fails(t, k, e, "the manifest of an image")
		must(t, os.Remove(filepath.Join(k.in, "innocent.json")))
		must(t, k.Update(t.Context(), by, func(tx *storeTx) error {
			return tx.PutArtifact(t.Context(), inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr()})
		}))
		e = k.engine(t)
		e.Files.ByDigest = true
		fails(t, k, e, "which is no file")
	})
	t.Run("a claim about a file and an image", func(t *testing.T) {
		t.Parallel()
		k := b.newFileCase(t)
		ref := k.push(t, "held")
		must(t, k.Update(t.Context(), by, func(tx *storeTx) error {
			return tx.PutArtifact(t.Context(), inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr()})
		}))
		digest := k.put(t, "app", content)
		k.enter(t, digest, inventory.Detached, k.old(t, &sign.DSSEData{Data: spdxOf(digest, ref.DigestStr()), PayloadType: intotoType}))
		fails(t, k, k.engine(t), "which the plan does not know to be good")
		k.items[0].Also = []string{ref.DigestStr()} // it is itself signed again
		fails(t, k, k.engine(t), "which is no file")
	})
	t.Run("a bundle that vouches for another digest", func(t *testing.T) {
		t.Parallel()
		// The database says that the SBOM of another file is about this one.
		k := b.newFileCase(t)
		other := k.put(t, "other", []byte("other"))
		digest := k.put(t, "app", content)
		k.enter(t, other, inventory.Detached, k.old(t, &sign.DSSEData{Data: spdxOf(other), PayloadType: intotoType}))
		k.items[0].Digest, k.items[0].Also = digest, []string{other}
		for _, why := range k.work(t, k.engine(t), Result{Planned: 1, Failed: 1}) {
			if !strings.Contains(why, "is not published") {
				t.Error(why)
			}
		}
		wantEqual(t, "files", listed(t, k.out), []string(nil))
	})
	t.Run("a file that is exchanged while it is worked with", func(t *testing.T) {
		t.Parallel()
		k := b.newFileCase(t)
		k.all(t, content)
		k.put(t, "app", content)
		e := k.engine(t)
		_, err := e.Files.In.Find(t.Context(), inventory.Digest(content))
		must(t, err)
		k.put(t, "app", []byte("of the thief"))
		fails(t, k, e, "was changed")
	})
	t.Run("files beside which something stands, before others", func(t *testing.T) {
		t.Parallel()
		k := b.newFileCase(t)
		const n = 4 * chunk
		for m := range n + 10 {
			one := fmt.Appendf(nil, "file %d", m)
			k.enter(t, k.put(t, fmt.Sprint(m), one), inventory.Blob, k.oldBlob(t, one))
			if m < n {
				must(t, os.WriteFile(filepath.Join(k.out, fmt.Sprint(m, ".sig")), []byte("c2ln"), 0o644))
			}
		}
		k.work(t, k.engine(t), Result{Planned: n + 10, Signed: 10, Failed: n})
	})
	t.Run("something planted where a signature goes", func(t *testing.T) {
		t.Parallel()
		thief := newKey(t)
		pair, err := newKeypair(thief)
		must(t, err)
		planted, err := sign.Bundle(&sign.PlainData{Data: content}, pair, sign.BundleOptions{})
		must(t, err)
		bundle, err := compact(planted)
		must(t, err)
		sig, err := thief.Sign(t.Context(), content)
		must(t, err)
		for name, text := range map[string][]byte{"app.sigstore.json": bundle, "app.sig": []byte(base64.StdEncoding.EncodeToString(sig)), "garbage": nil, "empty": {}} {
			k := b.newFileCase(t)
			k.all(t, content)
			k.put(t, "app", content)
			names := []string{name}
			if name == "garbage" || name == "empty" {
				names = []string{"app.sigstore.json", "app.sig", fmt.Sprintf("app.%s.sigstore.json", sum(spdxOf(inventory.Digest(content)))[:16])}
			}
			for _, n := range names {
				must(t, os.WriteFile(filepath.Join(k.out, n), text, 0o644))
			}
			n := int64(len(names))
			for _, why := range k.work(t, k.engine(t), Result{Planned: 3, Signed: 3 - n, Failed: n}) {
				if !strings.Contains(why, "is there already, and nothing is overwritten") && !strings.Contains(why, "signature is empty") {
					t.Errorf("%s: %s", name, why)
				}
			}
			for _, n := range names {
				wantEqual(t, name, string(k.read(t, n)), string(text))
			}
		}
	})
	t.Run("our own signature of another file where this one's goes", func(t *testing.T) {
		t.Parallel()
		k := b.newFileCase(t)
		k.all(t, content)
		k.put(t, "app", content)
		k.work(t, k.engine(t), Result{Planned: 3, Signed: 3})
		other := []byte("other")
		k.items = nil
		k.enter(t, inventory.Digest(other), inventory.Detached, k.old(t, &sign.PlainData{Data: other}))
		k.put(t, "zap", other)
		must(t, os.WriteFile(filepath.Join(k.out, "zap.sigstore.json"), k.read(t, "app.sigstore.json"), 0o644))
		e := k.engine(t)
		e.Plan = "sha256:another"
		k.work(t, e, Result{Planned: 1, Failed: 1})
	})
	t.Run("a copy without its proofs where a signature goes", func(t *testing.T) {
		t.Parallel()
		k := b.newFileCase(t)
		k.enter(t, inventory.Digest(content), inventory.Blob, k.oldBlob(t, content))
		k.put(t, "app", content)
		trusted, err := b.TrustedRoot()
		must(t, err)
		e := k.engine(t)
		e.Root = trusted
		e.Services, err = services.Open(services.Endpoints{Timestamps: []string{b.TSAURL()}})
		must(t, err)
		k.work(t, e, Result{Planned: 1, Signed: 1})
		must(t, os.Remove(filepath.Join(k.out, "app.rfc3161.json")))
		k.work(t, e, Result{Planned: 1, Failed: 1})
	})
	t.Run("links where signatures go", func(t *testing.T) {
		t.Parallel()
		outside := t.TempDir()
		must(t, os.WriteFile(filepath.Join(outside, "victim"), []byte("mine"), 0o644))
		for name, plant := range map[string]func(out string) error{
			"the file, dangling": func(out string) error {
				must(t, os.MkdirAll(filepath.Join(out, "dist"), 0o755))
				return os.Symlink(filepath.Join(outside, "planted"), filepath.Join(out, "dist/app.sig"))
			},
			"the file": func(out string) error {
				must(t, os.MkdirAll(filepath.Join(out, "dist"), 0o755))
				return os.Symlink(filepath.Join(outside, "victim"), filepath.Join(out, "dist/app.sig"))
			},
			"the directory": func(out string) error { return os.Symlink(outside, filepath.Join(out, "dist")) },
			"the directory, relative": func(out string) error {
				rel, err := filepath.Rel(out, outside)
				return errors.Join(err, os.Symlink(rel, filepath.Join(out, "dist")))
			},
		} {
			k := b.newFileCase(t)
			k.enter(t, inventory.Digest(content), inventory.Blob, k.oldBlob(t, content))
			k.put(t, "dist/app", content)
			must(t, plant(k.out))
			if why := k.work(t, k.engine(t), Result{Planned: 1, Failed: 1}); len(why) != 1 {
				t.Errorf("%s: %q", name, why)
			}
			wantEqual(t, name, snapshot(t, outside), map[string]string{"victim": "mine"})
		}
	})
	t.Run("a file by a name of the thief's", func(t *testing.T) {
		t.Parallel()
		// The name that a bundle was imported by is the thief's choice: it leads
		// nowhere.
		k := b.newFileCase(t)
		i := k.enter(t, inventory.Digest(content), inventory.Blob, k.oldBlob(t, content))
		must(t, k.Update(t.Context(), by, func(tx *storeTx) error {
			return tx.PutArtifact(t.Context(), inventory.Artifact{Repository: inventory.Files, Digest: i.Digest, Tags: []string{"../../escape", "good-app.tar.gz"}})
		}))
		e := k.engine(t)
		e.Files.ByDigest = true
		k.work(t, e, Result{Planned: 1, Signed: 1})
		wantEqual(t, "files", listed(t, k.out), []string{strings.Replace(i.Digest, ":", "-", 1) + ".sig"})
		if _, err := os.Lstat(filepath.Join(k.out, "../../escape.sig")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it escaped: %v", err)
		}
	})
}
