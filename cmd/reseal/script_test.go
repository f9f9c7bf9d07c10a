package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	cbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	sgbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/sandbox"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"reseal": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
	}})
}

// TestScripts runs the command line as people would. Each script has a sandbox
// of its own; $REGISTRY names its registry.
func TestScripts(t *testing.T) {
	t.Parallel()
	type key struct{}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			w, err := sandbox.Start(context.Background(), sandbox.Options{})
			if err != nil {
				return err
			}
			env.Defer(func() { _ = w.Close() })
			root, err := w.TrustedRootJSON()
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(env.WorkDir, "root.json"), root, 0o644); err != nil {
				return err
			}
			vault := sandbox.NewTransit("token-of-the-test")
			server := httptest.NewServer(vault)
			env.Defer(server.Close)
			env.Values[key{}] = &scriptWorld{World: w, vault: vault, actors: map[string]*sandbox.Actor{}, principals: map[string]sandbox.Principal{}, tuf: map[string]*sandbox.TUF{}}
			env.Setenv("FULCIO", w.FulcioURL())
			env.Setenv("VAULT_ADDR", server.URL)
			env.Setenv("VAULT_TOKEN", "token-of-the-test")
			env.Setenv("REGISTRY", w.Registry())
			env.Setenv("TSA", w.TSAURL())
			env.Setenv("REKOR", w.RekorURL())
			env.Setenv("REKOR2", w.RekorV2URL())
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("RESEAL_HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("RESEAL_ACTOR", "carol")
			env.Setenv("COSIGN_PASSWORD", "secret-of-the-test")
			env.Setenv("WORKFLOW", "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main")
			env.Setenv("ESC", "\x1b")
			env.Setenv("HOSTILE", "key in a log\x1b[2J\nforged: incident closed\u202e")
			env.Setenv("WINDOW_FROM", time.Now().Add(-24*time.Hour-4*time.Minute).UTC().Format(time.RFC3339))
			env.Setenv("WINDOW_UNTIL", time.Now().Add(-23*time.Hour-58*time.Minute).UTC().Format(time.RFC3339))
			env.Setenv("EARLIER", time.Now().Add(-48*time.Hour).UTC().Format(time.RFC3339))
			env.Setenv("MIDDLE", time.Now().Add(-36*time.Hour).UTC().Format(time.RFC3339))
			env.Setenv("LONG_AGO", time.Now().Add(-1000*time.Hour).UTC().Format(time.RFC3339))
			env.Setenv("FROM", time.Now().Add(-24*time.Hour).UTC().Format(time.RFC3339))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"actor":    func(ts *testscript.TestScript, _ bool, args []string) { sandboxOf(ts, key{}).actor(ts, args) },
			"identity": func(ts *testscript.TestScript, _ bool, args []string) { sandboxOf(ts, key{}).identity(ts, args) },
			"image":    func(ts *testscript.TestScript, _ bool, args []string) { sandboxOf(ts, key{}).image(ts, args) },
			"sign":     func(ts *testscript.TestScript, _ bool, args []string) { sandboxOf(ts, key{}).sign(ts, args) },
			"attest":   func(ts *testscript.TestScript, _ bool, args []string) { sandboxOf(ts, key{}).attest(ts, args) },
			"break":    func(ts *testscript.TestScript, _ bool, args []string) { sandboxOf(ts, key{}).breakIt(ts, args) },
			"token":    func(ts *testscript.TestScript, _ bool, args []string) { sandboxOf(ts, key{}).token(ts, args) },
			"vault":    func(ts *testscript.TestScript, _ bool, args []string) { sandboxOf(ts, key{}).rotate(ts, args) },
			"blob":     func(ts *testscript.TestScript, _ bool, args []string) { sandboxOf(ts, key{}).signBlob(ts, args) },
			"lose":     func(ts *testscript.TestScript, _ bool, args []string) { sandboxOf(ts, key{}).lose(ts, args) },
			"tufrepo":  func(ts *testscript.TestScript, _ bool, args []string) { sandboxOf(ts, key{}).repository(ts, args) },
			"web":      serveDirectory,
			"forward":  func(ts *testscript.TestScript, _ bool, args []string) { fastForward(ts, args) },
			"cosign":   cosignVerify,
			"cosigned": cosignBlob,
			"records":  writeRecords,
			"pems":     func(ts *testscript.TestScript, _ bool, args []string) { sandboxOf(ts, key{}).pems(ts) },
			"stranger": verifyPack,
			"exits":    checkExit,
			"flip":     flip,
			"plan":     saveDigest,
			"motion":   saveDigest,
		},
	})
}

// scriptWorld is the sandbox of one script.
type scriptWorld struct {
	*sandbox.World
	vault      *sandbox.Transit
	actors     map[string]*sandbox.Actor
	principals map[string]sandbox.Principal // of keyless actors
	tuf        map[string]*sandbox.TUF      // by directory
}

func sandboxOf(ts *testscript.TestScript, key any) *scriptWorld { return ts.Value(key).(*scriptWorld) }

// actor NAME: makes a key, NAME.key and NAME.pub.
func (w *scriptWorld) actor(ts *testscript.TestScript, args []string) {
	for _, who := range args {
		a, err := w.NewActor(who)
		ts.Check(err)
		private, err := a.EncryptedKey([]byte("secret-of-the-test"))
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(who+".key"), private, 0o600))
		ts.Check(os.WriteFile(ts.MkAbs(who+".pub"), a.PublicKeyPEM(), 0o644))
		w.actors[who] = a
	}
}

// identity NAME ISSUER SUBJECT [RUN]: makes a keyless signer, whose
// certificates name the workflow and run.
func (w *scriptWorld) identity(ts *testscript.TestScript, args []string) {
	p := sandbox.Principal{Issuer: args[1]}
	if strings.HasPrefix(args[2], "https://") {
		p.URI, p.Extensions.BuildSignerURI = args[2], args[2]
	} else {
		p.Email = args[2]
	}
	if len(args) > 3 {
		p.Extensions.RunInvocationURI = args[3]
	}
	a, err := w.NewIdentity(args[0], p)
	ts.Check(err)
	w.actors[args[0]], w.principals[args[0]] = a, p
}

// token NAME FILE LIFE: writes an identity token of a keyless signer.
func (w *scriptWorld) token(ts *testscript.TestScript, args []string) {
	life, err := time.ParseDuration(args[2])
	ts.Check(err)
	raw, err := w.Fulcio().Token(w.principals[args[0]], life)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(raw), 0o600))
}

// vault KEY: makes a key in Vault, hashivault://KEY, or a new version of it.
func (w *scriptWorld) rotate(ts *testscript.TestScript, args []string) {
	ts.Check(w.vault.Rotate(args[0]))
}

// tufrepo DIR [WORD [NAME]]: publishes a TUF repository in DIR whose keys are all at hand, or something new in it: "deny"
// a statement; "rotate", @carol gets another key; "online", the online key is replaced; "weak", all
// holders must sign root; "source" writes it to NAME as
// tuf-on-ci keeps it; "propose" a root there that only @alice has signed.
func (w *scriptWorld) repository(ts *testscript.TestScript, args []string) {
	r := w.tuf[args[0]]
	if r == nil {
		var err error
		r, err = sandbox.NewTUF(time.Now)
		ts.Check(err)
		w.tuf[args[0]] = r
		ts.Check(r.Put("trusted_root.json", []byte("{}")))
		ts.Check(r.Put("revocations/index.json", []byte("[]")))
	}
	word := ""
	if len(args) > 1 {
		word = args[1]
	}
	switch word {
	case "deny":
		ts.Check(r.Put("revocations/"+args[2], []byte("denied")))
	case "rotate":
		r.Lose("@carol")
		ts.Check(r.Hold("root", 2, sandbox.TUFHolders...))
		ts.Check(r.Rotate())
	case "weak":
		ts.Check(r.Hold("root", 3, sandbox.TUFHolders...))
		ts.Check(r.Rotate())
	case "online":
		r.Lose(sandbox.TUFOnline)
		ts.Check(r.Hold("snapshot", 1, sandbox.TUFOnline))
		ts.Check(r.Hold("timestamp", 1, sandbox.TUFOnline))
		ts.Check(r.Rotate())
	case "source":
		ts.Check(sandbox.WriteFiles(ts.MkAbs(args[2]), r.Source()))
		return
	case "propose":
		for _, who := range []string{"@bob", "@carol", "@grace"} {
			r.Absent[who] = true
		}
		ts.Check(r.Hold("root", 2, "@alice", "@bob", "@grace"))
		before := r.Root.Version
		ts.Check(r.Rotate())
		ts.Check(os.WriteFile(ts.MkAbs(args[2]+"/metadata/root.json"), r.Files()[fmt.Sprintf("%d.root.json", before+1)], 0o644))
		return
	}
	ts.Check(r.Publish())
	ts.Check(sandbox.WriteFiles(ts.MkAbs(args[0]), r.Files()))
}

// image VAR REPOSITORY TAG: pushes an image and sets $VAR to its reference by
// digest and $VAR_DIGEST to the digest.
func (w *scriptWorld) image(ts *testscript.TestScript, args []string) {
	d, err := w.PushImage(context.Background(), args[1], args[2], args[0])
	ts.Check(err)
	ts.Setenv(args[0], d.String())
	ts.Setenv(args[0]+"_DIGEST", d.DigestStr())
}

func reference(ts *testscript.TestScript, text string) name.Digest {
	ref, err := name.NewDigest(text)
	ts.Check(err)
	return ref
}

// at rewinds the clock to some hours ago while do runs.
func (w *scriptWorld) at(ts *testscript.TestScript, ago string, do func() error) {
	d, err := time.ParseDuration(ago)
	if n, plain := strconv.Atoi(ago); plain == nil { // hours
		d, err = time.Duration(n)*time.Hour, nil
	}
	ts.Check(err)
	w.Clock().Rewind(time.Now().Add(-d))
	defer w.Clock().Live()
	ts.Check(do())
}

func proof(ts *testscript.TestScript, word string) sandbox.Proof {
	p, ok := map[string]sandbox.Proof{"none": sandbox.NoProof, "rekor": sandbox.RekorV1, "tsa": sandbox.Timestamp}[word]
	if !ok {
		ts.Fatalf("unknown proof %q", word)
	}
	return p
}

// sign ACTOR FORMAT PROOF HOURS_AGO REFERENCE
func (w *scriptWorld) sign(ts *testscript.TestScript, args []string) {
	a, p, ref := w.actors[args[0]], proof(ts, args[2]), reference(ts, args[4])
	w.at(ts, args[3], func() error {
		if args[1] == "legacy" {
			return a.SignLegacy(context.Background(), ref, p)
		}
		return a.SignBundle(context.Background(), ref, p)
	})
}

// attest ACTOR FORMAT TYPE HOURS_AGO REFERENCE [PROOF]
func (w *scriptWorld) attest(ts *testscript.TestScript, args []string) {
	a, ref := w.actors[args[0]], reference(ts, args[4])
	predicate := map[string]any{"builder": map[string]any{"id": "https://builder.example"}}
	p := sandbox.NoProof
	if len(args) > 5 {
		p = proof(ts, args[5])
	}
	w.at(ts, args[3], func() error {
		if args[1] == "legacy" {
			return a.AttestLegacy(context.Background(), ref, args[2], predicate, p)
		}
		return a.AttestBundle(context.Background(), ref, args[2], predicate, p)
	})
}

// blob ACTOR FILE BUNDLE [HOURS_AGO [TYPE]]: signs a file as cosign sign-blob does,
// or attests something about it as attest-blob does. Where BUNDLE ends in .sig it is
// a signature, and its timestamp is put beside it.
func (w *scriptWorld) signBlob(ts *testscript.TestScript, args []string) {
	a, file, ctx := w.actors[args[0]], []byte(ts.ReadFile(args[1])), context.Background()
	w.at(ts, slices.Concat(args, []string{"0"})[3], func() error {
		var raw []byte
		var err error
		if len(args) > 4 {
			raw, err = a.AttestBlob(ctx, file, args[4], map[string]any{"about": args[1]}, sandbox.Timestamp)
		} else {
			raw, err = a.SignBlob(ctx, file, sandbox.Timestamp)
		}
		if err != nil {
			return err
		}
		signed, bare := strings.CutSuffix(args[2], ".sig")
		if !bare {
			return os.WriteFile(ts.MkAbs(args[2]), raw, 0o644)
		}
		var b protobundle.Bundle
		if err := protojson.Unmarshal(raw, &b); err != nil {
			return err
		}
		token := b.GetVerificationMaterial().GetTimestampVerificationData().GetRfc3161Timestamps()[0].GetSignedTimestamp()
		stamp, err := json.Marshal(cbundle.RFC3161Timestamp{SignedRFC3161Timestamp: token})
		sig := base64.StdEncoding.EncodeToString(b.GetMessageSignature().GetSignature())
		return errors.Join(err, os.WriteFile(ts.MkAbs(args[2]), []byte(sig), 0o644), os.WriteFile(ts.MkAbs(signed+".rfc3161.json"), stamp, 0o644))
	})
}

// [!] cosigned KEY FILE BUNDLE: has the cosign library verify a file with one
// key, by a bundle or, where BUNDLE ends in .sig, by a signature.
func cosignBlob(ts *testscript.TestScript, not bool, args []string) {
	key, err := cryptoutils.UnmarshalPEMToPublicKey([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	verifier, err := signature.LoadVerifier(key, crypto.SHA256)
	ts.Check(err)
	material, err := root.NewTrustedRootFromPath(ts.MkAbs("root.json"))
	ts.Check(err)
	o := &cosign.CheckOpts{SigVerifier: verifier, TrustedMaterial: material, Offline: true, IgnoreSCT: true, IgnoreTlog: true}
	file, text := []byte(ts.ReadFile(args[1])), ts.ReadFile(args[2])
	if strings.HasSuffix(args[2], ".sig") {
		sig, sigErr := static.NewSignature(file, text)
		ts.Check(sigErr)
		_, err = cosign.VerifyBlobSignature(context.Background(), sig, o)
	} else {
		var b sgbundle.Bundle
		ts.Check(b.UnmarshalJSON([]byte(text)))
		_, err = cosign.VerifyNewBundle(context.Background(), o, sgverify.WithArtifact(bytes.NewReader(file)), &b)
	}
	if (err == nil) == not {
		ts.Fatalf("cosign says %v", err)
	}
	ts.Logf("cosign says %v", err)
}

// lose REFERENCE: takes every signature of an image out of the registry.
func (w *scriptWorld) lose(ts *testscript.TestScript, args []string) {
	ctx, ref := context.Background(), reference(ts, args[0])
	client := registry.New(registry.Options{Keychain: authn.NewMultiKeychain()})
	repo := ref.Context().Name()
	list, err := client.Referrers(ctx, repo, ref.DigestStr())
	ts.Check(err)
	for _, d := range list {
		ts.Check(client.Detach(ctx, repo, d.Digest.String(), ref.DigestStr()))
	}
	for _, suffix := range []string{".sig", ".att"} {
		m, err := client.Manifest(ctx, repo, strings.Replace(ref.DigestStr(), ":", "-", 1)+suffix)
		if !errors.Is(err, registry.ErrNotFound) {
			ts.Check(err)
			ts.Check(client.Delete(ctx, repo, m.Digest))
		}
	}
}

// break KIND REFERENCE: puts something hostile into the registry: an annotation
// that makes cosign panic, a bundle that is none, a signature without its blob.
func (w *scriptWorld) breakIt(ts *testscript.TestScript, args []string) {
	ref := reference(ts, args[1])
	tag := strings.Replace(ref.DigestStr(), ":", "-", 1) + ".sig"
	payload := []byte(`{"critical":{"of":"` + args[0] + `"}}`)
	layer := w.blob(ts, ref.Context(), payload)
	config := w.blob(ts, ref.Context(), []byte("{}"))
	annotations := `{"dev.cosignproject.cosign/signature":"AAAA","dev.sigstore.cosign/bundle":"{\"Payload\":{\"body\":5}}"}`
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
		"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},
		"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","digest":%q,"size":%d,"annotations":%s}]}`,
		config, layer, len(payload), annotations)
	if args[0] == "bundle" {
		w.attachBundle(ts, ref, []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":[]}`))
		return
	}
	w.put(ts, "/v2/"+ref.Context().RepositoryStr()+"/manifests/"+tag, "application/vnd.oci.image.manifest.v1+json", []byte(manifest))
	if args[0] == "blob" { // a layer that is lost
		req, err := http.NewRequest(http.MethodDelete, "http://"+w.Registry()+"/v2/"+ref.Context().RepositoryStr()+"/blobs/"+layer, nil)
		ts.Check(err)
		resp, err := http.DefaultClient.Do(req)
		ts.Check(err)
		defer resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			ts.Fatalf("deleting a blob: %s", resp.Status)
		}
	}
}

func (w *scriptWorld) attachBundle(ts *testscript.TestScript, ref name.Digest, content []byte) {
	desc, err := remote.Head(ref)
	ts.Check(err)
	const kind = "application/vnd.dev.sigstore.bundle.v0.3+json"
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":%q,
		"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},
		"layers":[{"mediaType":%q,"digest":%q,"size":%d}],
		"subject":{"mediaType":%q,"digest":%q,"size":%d}}`, kind, w.blob(ts, ref.Context(), []byte("{}")), kind,
		w.blob(ts, ref.Context(), content), len(content), desc.MediaType, ref.DigestStr(), desc.Size)
	w.put(ts, "/v2/"+ref.Context().RepositoryStr()+"/manifests/"+sum([]byte(manifest)), "application/vnd.oci.image.manifest.v1+json", []byte(manifest))
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(s[:])
}

func (w *scriptWorld) blob(ts *testscript.TestScript, repo name.Repository, content []byte) string {
	u := "http://" + w.Registry() + "/v2/" + repo.RepositoryStr() + "/blobs/uploads/?digest=" + sum(content)
	resp, err := http.Post(u, "application/octet-stream", bytes.NewReader(content))
	ts.Check(err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		ts.Fatalf("pushing a blob: %s", resp.Status)
	}
	return sum(content)
}

func (w *scriptWorld) put(ts *testscript.TestScript, path, mediaType string, content []byte) {
	req, err := http.NewRequest(http.MethodPut, "http://"+w.Registry()+path, bytes.NewReader(content))
	ts.Check(err)
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		ts.Fatalf("pushing %s: %s", path, resp.Status)
	}
}

// pems: writes what a trusted root of the sandbox is made of: ca.pem, tsa.pem,
// rekor.pub, rekor2.pub and ct.pub.
func (w *scriptWorld) pems(ts *testscript.TestScript) {
	tr, err := w.TrustedRoot()
	ts.Check(err)
	write := func(name string, content []byte, err error) {
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(name), content, 0o644))
	}
	chain, err := cryptoutils.MarshalCertificatesToPEM(w.CAChain())
	write("ca.pem", chain, err)
	tsa := tr.TimestampingAuthorities()[0].(*root.SigstoreTimestampingAuthority)
	chain, err = cryptoutils.MarshalCertificatesToPEM([]*x509.Certificate{tsa.Leaf, tsa.Root})
	write("tsa.pem", chain, err)
	for _, l := range tr.RekorLogs() {
		key, err := cryptoutils.MarshalPublicKeyToPEM(l.PublicKey)
		write(map[string]string{w.RekorURL(): "rekor.pub", w.RekorV2URL(): "rekor2.pub"}[l.BaseURL], key, err)
	}
	for _, l := range tr.CTLogs() {
		key, err := cryptoutils.MarshalPublicKeyToPEM(l.PublicKey)
		write("ct.pub", key, err)
	}
}

// stranger PACK KEY: verifies an evidence pack with the program for auditors,
// which shares no code with reseal.
func verifyPack(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command("go", "run", "../../testdata/verify-pack", ts.MkAbs(args[0]), ts.MkAbs(args[1]))
	out, err := cmd.CombinedOutput()
	ts.Logf("%s", out)
	ts.Check(err)
}

// cosign KEY COUNT REFERENCE: checks how many signatures of an image by a key
// cosign's own library accepts, as "cosign verify --offline
// --insecure-ignore-tlog" uses it: the bundles if there are any, or else the
// ".sig".
func cosignVerify(ts *testscript.TestScript, _ bool, args []string) {
	ctx, ref := context.Background(), reference(ts, args[2])
	key, err := cryptoutils.UnmarshalPEMToPublicKey([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	verifier, err := signature.LoadVerifier(key, crypto.SHA256)
	ts.Check(err)
	material, err := root.NewTrustedRootFromPath(ts.MkAbs("root.json"))
	ts.Check(err)
	o := &cosign.CheckOpts{SigVerifier: verifier, TrustedMaterial: material, Offline: true, IgnoreSCT: true, IgnoreTlog: true, ClaimVerifier: cosign.SimpleClaimVerifier}
	var accepted []oci.Signature
	if bundles, _, listErr := cosign.GetBundles(ctx, ref, o); listErr == nil && len(bundles) > 0 {
		o.NewBundleFormat, o.ClaimVerifier = true, cosign.IntotoSubjectClaimVerifier
		accepted, _, err = cosign.VerifyImageAttestations(ctx, ref, o)
	} else {
		accepted, _, err = cosign.VerifyImageSignatures(ctx, ref, o)
	}
	if got := strconv.Itoa(len(accepted)); got != args[1] {
		ts.Fatalf("cosign accepts %s signatures, want %s (%v)", got, args[1], err)
	}
	ts.Logf("cosign accepts %d signatures", len(accepted))
}

// records FILE SIGNER (DIGEST AGO)...: writes what a CI system tells of its runs.
func writeRecords(ts *testscript.TestScript, _ bool, args []string) {
	var b strings.Builder
	for i := 2; i+1 < len(args); i += 2 {
		ago, err := time.ParseDuration(args[i+1])
		ts.Check(err)
		fmt.Fprintf(&b, `{"digest":%q,"signer":%q,"run":"https://ci.example/runs/%d","time":%q}`+"\n",
			args[i], args[1], i/2, time.Now().Add(-ago).UTC().Format(time.RFC3339))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(b.String()), 0o644))
}

// exits CODE COMMAND...: runs a command and checks its exit code.
func checkExit(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// plan VAR, motion VAR: sets $VAR to the first digest that the last command
// printed.
func saveDigest(ts *testscript.TestScript, _ bool, args []string) {
	digest := regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(ts.ReadFile("stdout"))
	if digest == "" {
		ts.Fatalf("no digest on standard output")
	}
	ts.Setenv(args[0], digest)
}

// web VAR DIR: serves a directory until the end of the script and sets $VAR to its address.
func serveDirectory(ts *testscript.TestScript, _ bool, args []string) {
	server := httptest.NewServer(http.FileServer(http.Dir(ts.MkAbs(args[1]))))
	ts.Defer(server.Close)
	ts.Setenv(args[0], server.URL)
}

// forward DIR KEY: what a thief of the online key does: publishes a timestamp in DIR with the highest version there is.
func fastForward(ts *testscript.TestScript, args []string) {
	m, err := metadata.Timestamp().FromFile(ts.MkAbs(args[0] + "/timestamp.json"))
	ts.Check(err)
	key, err := app.OpenKey(context.Background(), app.SignerOptions{Key: ts.MkAbs(args[1]), Metadata: true,
		Password: func() ([]byte, error) { return []byte("secret-of-the-test"), nil }})
	ts.Check(err)
	id := m.Signatures[0].KeyID
	m.Signed.Version = math.MaxInt32
	payload, err := cjson.EncodeCanonical(m.Signed)
	ts.Check(err)
	sig, err := key.Sign(context.Background(), payload)
	ts.Check(err)
	m.Signatures = []metadata.Signature{{KeyID: id, Signature: sig}}
	ts.Check(m.ToFile(ts.MkAbs(args[0]+"/timestamp.json"), true))
}

// flip FILE AT: changes one bit of the byte of a file there.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	content := []byte(ts.ReadFile(args[0]))
	content[at] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), content, 0o644))
}
