package sandbox

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekortilespb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	rekorverify "github.com/sigstore/rekor-tiles/v2/pkg/verify"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	sigdsse "github.com/sigstore/sigstore/pkg/signature/dsse"
	tsaverification "github.com/sigstore/timestamp-authority/v2/pkg/verification"
	"google.golang.org/protobuf/encoding/protojson"
)

func hexDigest(ref name.Digest) ([]byte, error) {
	return hex.DecodeString(strings.TrimPrefix(ref.DigestStr(), "sha256:"))
}

// do makes a request and returns the answer with its body read.
func do(t *testing.T, method, url string, header map[string]string, body []byte) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, out
}

// logSomething logs a new signature of the actor in Rekor v1.
func logSomething(t *testing.T, a *Actor, text string) (*models.LogEntryAnon, error) {
	sig, err := a.key.sv.SignMessage(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	digest := sha256.New()
	digest.Write([]byte(text))
	return cosign.TLogUpload(t.Context(), a.world.rekorClient, sig, digest, a.PublicKeyPEM())
}

func TestRekorV1(t *testing.T) {
	w := startWorld(t)
	actor := newActor(t, w, "release")
	trusted := trustedRoot(t, w)
	const n = 33
	entries := make([]*models.LogEntryAnon, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { entries[i], errs[i] = logSomething(t, actor, fmt.Sprint(i)) })
	}
	wg.Wait()
	seen := map[int64]bool{}
	for i, e := range entries {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		seen[*e.LogIndex] = true
		if err := cosign.VerifyTLogEntryOffline(t.Context(), e, nil, trusted); err != nil {
			t.Errorf("entry %d as created: %v", *e.LogIndex, err)
		}
		leaf, err := cosign.ComputeLeafHash(e)
		if err != nil {
			t.Fatal(err)
		}
		for _, uuid := range []string{hex.EncodeToString(leaf), fmt.Sprintf("%016x%x", rekorTreeID, leaf)} {
			again, err := cosign.GetTlogEntry(t.Context(), w.rekorClient, uuid)
			if err != nil {
				t.Fatal(err)
			}
			if *again.LogIndex != *e.LogIndex || *again.IntegratedTime != *e.IntegratedTime || *again.Verification.InclusionProof.TreeSize != n {
				t.Errorf("entry %d reads back as %+v", *e.LogIndex, again)
			}
			if err := cosign.VerifyTLogEntryOffline(t.Context(), again, nil, trusted); err != nil {
				t.Errorf("entry %d as read back: %v", *e.LogIndex, err)
			}
		}
	}
	for i := range int64(n) {
		if !seen[i] {
			t.Errorf("no entry has index %d", i)
		}
		resp, _ := do(t, http.MethodGet, fmt.Sprintf("%s%s?logIndex=%d", w.RekorURL(), rekorEntriesPath, i), nil, nil)
		if resp.StatusCode != http.StatusOK {
			t.Errorf("entry by index %d: %s", i, resp.Status)
		}
	}
	var info models.LogInfo
	_, body := do(t, http.MethodGet, w.RekorURL()+"/api/v1/log", nil, nil)
	if err := json.Unmarshal(body, &info); err != nil || *info.TreeSize != n {
		t.Errorf("log info %s, %v", body, err)
	}
	_, body = do(t, http.MethodGet, w.RekorURL()+"/api/v1/log/publicKey", nil, nil)
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(body)
	if err != nil || !w.rekor1.key.PublicKey.Equal(pub) {
		t.Errorf("public key %s, %v", body, err)
	}

	t.Run("the same entry again", func(t *testing.T) {
		text := []byte("once")
		sig, err := actor.key.sv.SignMessage(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		var indexes [2]int64
		for i := range indexes {
			digest := sha256.New()
			digest.Write(text)
			e, err := cosign.TLogUpload(t.Context(), w.rekorClient, sig, digest, actor.PublicKeyPEM())
			if err != nil {
				t.Fatal(err)
			}
			indexes[i] = *e.LogIndex
		}
		if indexes[0] != indexes[1] {
			t.Errorf("logged twice: %v", indexes)
		}
	})
	t.Run("in-toto", func(t *testing.T) {
		statement, err := makeStatement("https://in-toto.io/Statement/v0.1", "x", pushImage(t, w, "app"), spdx, spdxDocument)
		if err != nil {
			t.Fatal(err)
		}
		envelope, err := sigdsse.WrapSigner(actor.key.sv, "application/vnd.in-toto+json").SignMessage(bytes.NewReader(statement))
		if err != nil {
			t.Fatal(err)
		}
		e, err := cosign.TLogUploadInTotoAttestation(t.Context(), w.rekorClient, envelope, actor.PublicKeyPEM())
		if err != nil {
			t.Fatal(err)
		}
		if err := cosign.VerifyTLogEntryOffline(t.Context(), e, nil, trusted); err != nil {
			t.Error(err)
		}
	})
	t.Run("refuses", func(t *testing.T) {
		digest := sha256.New()
		digest.Write([]byte("something else"))
		sig, err := actor.key.sv.SignMessage(strings.NewReader("something"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cosign.TLogUpload(t.Context(), w.rekorClient, sig, digest, actor.PublicKeyPEM()); err == nil {
			t.Error("a bad signature was logged")
		}
		for _, tc := range []struct {
			method, path string
			body         []byte
			code         int
		}{
			{http.MethodPost, "", []byte("{"), http.StatusBadRequest},
			{http.MethodPost, "", []byte(`{"kind":"hashedrekord","apiVersion":"0.0.1","spec":{}}`), http.StatusBadRequest},
			{http.MethodPost, "", bytes.Repeat([]byte(" "), maxLogRequest+1), http.StatusRequestEntityTooLarge},
			{http.MethodGet, "/" + strings.Repeat("0", 64), nil, http.StatusNotFound},
			{http.MethodGet, "/" + strings.Repeat("0", 80), nil, http.StatusNotFound},
			{http.MethodGet, "/x", nil, http.StatusNotFound},
			{http.MethodGet, "?logIndex=-1", nil, http.StatusNotFound},
			{http.MethodGet, "?logIndex=99999", nil, http.StatusNotFound},
			{http.MethodGet, "?logIndex=x", nil, http.StatusBadRequest},
		} {
			if resp, _ := do(t, tc.method, w.RekorURL()+rekorEntriesPath+tc.path, nil, tc.body); resp.StatusCode != tc.code {
				t.Errorf("%s %s: %s, want %d", tc.method, tc.path, resp.Status, tc.code)
			}
		}
	})
}

func TestRekorV2(t *testing.T) {
	w := startWorld(t)
	actor := newActor(t, w, "release")
	der := func() []byte {
		raw, err := cryptoutils.MarshalPublicKeyToDER(actor.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}()
	request := func(signed, claimed string) *rekortilespb.HashedRekordRequestV002 {
		sig, err := actor.key.sv.SignMessage(strings.NewReader(signed))
		if err != nil {
			t.Error(err)
		}
		digest := sha256.Sum256([]byte(claimed))
		return &rekortilespb.HashedRekordRequestV002{Digest: digest[:], Signature: &rekortilespb.Signature{
			Content: sig,
			Verifier: &rekortilespb.Verifier{
				KeyDetails: protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
				Verifier:   &rekortilespb.Verifier_PublicKey{PublicKey: &rekortilespb.PublicKey{RawBytes: der}},
			},
		}}
	}
	verifier, err := signature.LoadVerifier(w.rekor2.key.Public(), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	noteVerifier, err := rekornote.NewNoteVerifier(loopback, verifier)
	if err != nil {
		t.Fatal(err)
	}
	const n = 33
	indexes := make([]int64, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			text := fmt.Sprint(i)
			entry, err := w.rekor2.add(request(text, text))
			if err != nil {
				t.Error(err)
				return
			}
			indexes[i] = entry.GetLogIndex()
			if err := rekorverify.VerifyLogEntry(entry, noteVerifier); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[int64]bool{}
	for _, i := range indexes {
		seen[i] = true
	}
	if len(seen) != n {
		t.Errorf("%d different indexes, want %d", len(seen), n)
	}

	post := func(body []byte) int {
		resp, _ := do(t, http.MethodPost, w.RekorV2URL()+"/api/v2/log/entries", nil, body)
		return resp.StatusCode
	}
	encode := func(r *rekortilespb.HashedRekordRequestV002) []byte {
		raw, err := protojson.Marshal(&rekortilespb.CreateEntryRequest{Spec: &rekortilespb.CreateEntryRequest_HashedRekordRequestV002{HashedRekordRequestV002: r}})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	once := encode(request("once", "once"))
	for _, tc := range []struct {
		name string
		body []byte
		code int
	}{
		{"new", once, http.StatusCreated},
		{"duplicate", once, http.StatusConflict},
		{"bad signature", encode(request("this", "that")), http.StatusBadRequest},
		{"empty", []byte("{}"), http.StatusBadRequest},
		{"no JSON", []byte("{"), http.StatusBadRequest},
		{"too long", bytes.Repeat([]byte(" "), maxLogRequest+1), http.StatusRequestEntityTooLarge},
	} {
		if code := post(tc.body); code != tc.code {
			t.Errorf("%s: %d, want %d", tc.name, code, tc.code)
		}
	}
}

func TestTimestampAuthority(t *testing.T) {
	w := startWorld(t)
	_, chain := do(t, http.MethodGet, w.TSAURL()+"/certchain", nil, nil)
	certs, err := cryptoutils.UnmarshalCertificatesFromPEM(chain)
	if err != nil || len(certs) != 2 {
		t.Fatalf("chain %s, %v", chain, err)
	}
	past := time.Now().Add(-month)
	w.Clock().Rewind(past)
	message := []byte("message")
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		query, err := timestamp.CreateRequest(bytes.NewReader(message), &timestamp.RequestOptions{Hash: h, Certificates: true})
		if err != nil {
			t.Fatal(err)
		}
		resp, body := do(t, http.MethodPost, w.TSAURL(), nil, query)
		if resp.StatusCode != http.StatusCreated {
			t.Fatalf("%v: %s %s", h, resp.Status, body)
		}
		ts, err := tsaverification.VerifyTimestampResponse(body, bytes.NewReader(message), tsaverification.VerifyOpts{
			TSACertificate: certs[0], Roots: certs[1:],
		})
		if err != nil {
			t.Fatalf("%v: %v", h, err)
		}
		near(t, "token", ts.Time, past)
	}
	weak, err := timestamp.CreateRequest(bytes.NewReader(message), &timestamp.RequestOptions{Hash: crypto.SHA1})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		body []byte
		code int
	}{
		"SHA-1":    {weak, http.StatusBadRequest},
		"garbage":  {[]byte("x"), http.StatusBadRequest},
		"too long": {make([]byte, maxTimestampRequest+1), http.StatusRequestEntityTooLarge},
	} {
		if resp, _ := do(t, http.MethodPost, w.TSAURL(), nil, tc.body); resp.StatusCode != tc.code {
			t.Errorf("%s: %s, want %d", name, resp.Status, tc.code)
		}
	}
}

func TestRegistryDelete(t *testing.T) {
	w := startWorld(t)
	actor := newActor(t, w, "release")
	ref, err := w.PushImage(t.Context(), "org/app", "v1", "app")
	if err != nil {
		t.Fatal(err)
	}
	if err := actor.SignBundle(t.Context(), ref, NoProof); err != nil {
		t.Fatal(err)
	}
	if err := actor.AttestBundle(t.Context(), ref, spdx, nil, NoProof); err != nil {
		t.Fatal(err)
	}
	referrers := func(filter string) []v1.Descriptor {
		url := fmt.Sprintf("http://%s/v2/org/app/referrers/%s?artifactType=%s", w.Registry(), ref.DigestStr(), filter)
		_, body := do(t, http.MethodGet, url, nil, nil)
		var index v1.IndexManifest
		if err := json.Unmarshal(body, &index); err != nil {
			t.Fatal(err)
		}
		return index.Manifests
	}
	const bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	listed := referrers("")
	if len(listed) != 2 || listed[0].ArtifactType != bundleType || listed[0].Annotations["dev.sigstore.bundle.content"] != "dsse-envelope" {
		t.Fatalf("referrers %+v", listed)
	}
	if len(referrers("x/y")) != 0 || len(referrers("application%2Fvnd.dev.sigstore.bundle.v0.3%2Bjson")) != 2 {
		t.Error("the filter of referrers does not work")
	}
	if got := listed[1].Annotations["dev.sigstore.bundle.predicateType"]; got != spdx {
		t.Errorf("predicate type %q", got)
	}

	first := ref.Context().Digest(listed[0].Digest.String())
	if err := remote.Delete(first); err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Head(first); err == nil {
		t.Error("a deleted referrer is still there")
	}
	if left := referrers(""); len(left) != 1 || left[0].Digest != listed[1].Digest {
		t.Errorf("referrers after deletion: %+v", left)
	}
	if err := remote.Delete(first); err == nil {
		t.Error("deleted twice")
	}

	// A digest takes its tags along; a tag leaves the digest.
	if err := actor.SignLegacy(t.Context(), ref, NoProof); err != nil {
		t.Fatal(err)
	}
	sigTag := ref.Context().Tag(strings.ReplaceAll(ref.DigestStr(), ":", "-") + ".sig")
	if err := remote.Delete(sigTag); err != nil {
		t.Fatal(err)
	}
	if err := remote.Delete(ref); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []name.Reference{ref, ref.Context().Tag("v1"), sigTag} {
		if _, err := remote.Get(gone); err == nil {
			t.Errorf("%s is still there", gone)
		}
	}
	if tags, err := remote.List(ref.Context()); err != nil || len(tags) != 0 {
		t.Errorf("tags %v, %v", tags, err)
	}

	// What was deleted can be restored, as new.
	if again, err := w.PushImage(t.Context(), "org/app", "v1", "app"); err != nil || again != ref {
		t.Errorf("pushing again: %s, %v", again, err)
	}
	if err := actor.SignBundle(t.Context(), ref, NoProof); err != nil {
		t.Fatal(err)
	}
	if got := len(referrers("")); got != 2 {
		t.Errorf("%d referrers after signing again, want 2", got)
	}
}

func TestRegistryProtocol(t *testing.T) {
	w := startWorld(t)
	base := "http://" + w.Registry()
	ref := pushImage(t, w, "org/app")
	for i := range 5 {
		if _, err := w.PushImage(t.Context(), "org/app", fmt.Sprintf("v%d", i), "app"); err != nil {
			t.Fatal(err)
		}
	}
	tags, err := remote.List(ref.Context(), remote.WithPageSize(2))
	if err != nil || strings.Join(tags, " ") != "v0 v1 v2 v3 v4" {
		t.Errorf("tags in pages: %v, %v", tags, err)
	}
	if _, body := do(t, http.MethodGet, base+"/v2/org/app/tags/list?last=v4", nil, nil); !bytes.Contains(body, []byte(`"tags":[]`)) {
		t.Errorf("tags past the end: %s", body)
	}
	if _, body := do(t, http.MethodGet, base+"/v2/_catalog", nil, nil); !bytes.Contains(body, []byte(`["org/app"]`)) {
		t.Errorf("catalog: %s", body)
	}
	unknown := "sha256:" + strings.Repeat("0", 64)
	image := map[string]string{"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
	missingLayer := fmt.Appendf(nil, `{"schemaVersion":2,"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":1}]}`, unknown)
	missingChild := fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":1}]}`, unknown)
	for _, tc := range []struct {
		name, method, path string
		body               []byte
		code               int
	}{
		{"ping", http.MethodGet, "/v2/", nil, http.StatusOK},
		{"unknown repository", http.MethodGet, "/v2/none/manifests/v1", nil, http.StatusNotFound},
		{"unknown tag", http.MethodGet, "/v2/org/app/manifests/none", nil, http.StatusNotFound},
		{"tags of nothing", http.MethodGet, "/v2/none/tags/list", nil, http.StatusNotFound},
		{"bad page size", http.MethodGet, "/v2/org/app/tags/list?n=x", nil, http.StatusBadRequest},
		{"no referrers", http.MethodGet, "/v2/org/app/referrers/" + unknown, nil, http.StatusOK},
		{"referrers of no digest", http.MethodGet, "/v2/org/app/referrers/x", nil, http.StatusBadRequest},
		{"digest that does not match", http.MethodPut, "/v2/org/app/manifests/" + unknown, []byte("{}"), http.StatusBadRequest},
		{"no JSON", http.MethodPut, "/v2/org/app/manifests/x", []byte("{"), http.StatusBadRequest},
		{"missing layer", http.MethodPut, "/v2/org/app/manifests/x", missingLayer, http.StatusBadRequest},
		{"missing child", http.MethodPut, "/v2/org/app/manifests/x", missingChild, http.StatusBadRequest},
		{"too long", http.MethodPut, "/v2/org/app/manifests/x", bytes.Repeat([]byte(" "), maxManifest+1), http.StatusRequestEntityTooLarge},
		{"delete unknown tag", http.MethodDelete, "/v2/org/app/manifests/none", nil, http.StatusNotFound},
		{"delete in unknown repository", http.MethodDelete, "/v2/none/manifests/none", nil, http.StatusNotFound},
		{"patch", http.MethodPatch, "/v2/org/app/manifests/v1", nil, http.StatusMethodNotAllowed},
	} {
		if resp, body := do(t, tc.method, base+tc.path, image, tc.body); resp.StatusCode != tc.code {
			t.Errorf("%s: %s %s, want %d", tc.name, resp.Status, body, tc.code)
		}
	}
	// A subject need not exist, and the answer says that it was understood.
	withSubject := fmt.Appendf(nil, `{"schemaVersion":2,"artifactType":"a/b","subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":1}}`, unknown)
	if resp, _ := do(t, http.MethodPut, base+"/v2/org/app/manifests/x", image, withSubject); resp.Header.Get("OCI-Subject") != unknown {
		t.Errorf("push with subject: %s %v", resp.Status, resp.Header)
	}
}
