package sandbox

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

const month = 30 * 24 * time.Hour

func startWorld(t *testing.T) *World {
	t.Helper()
	w, err := Start(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func newActor(t *testing.T, w *World, name string) *Actor {
	t.Helper()
	a, err := w.NewActor(name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func pushImage(t *testing.T, w *World, repo string) name.Digest {
	t.Helper()
	d, err := w.PushImage(t.Context(), repo, "", repo)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func trustedRoot(t *testing.T, w *World) *root.TrustedRoot {
	t.Helper()
	tr, err := w.TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// near fails unless got is within a minute of want.
func near(t *testing.T, what string, got, want time.Time) {
	t.Helper()
	if d := got.Sub(want).Abs(); d > time.Minute {
		t.Errorf("%s is %s, want about %s", what, got, want)
	}
}

func TestClock(t *testing.T) {
	var c Clock
	near(t, "zero clock", c.Now(), time.Now())
	past := time.Now().Add(-month)
	c.Rewind(past)
	first := c.Now()
	near(t, "rewound clock", first, past)
	time.Sleep(5 * time.Millisecond)
	if !c.Now().After(first) {
		t.Error("a rewound clock stands still")
	}
	c.Live()
	near(t, "live clock", c.Now(), time.Now())
}

func TestStartRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		ctx  context.Context
		o    Options
		want string
	}{
		"a future start":   {t.Context(), Options{Start: time.Now().Add(time.Hour)}, "future"},
		"a file as Dir":    {t.Context(), Options{Dir: filepath.Join(file, "sub")}, "web root"},
		"a cancelled call": {cancelled, Options{}, "canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := Start(tc.ctx, tc.o)
			if err == nil {
				_ = w.Close()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %q does not say %q", err, tc.want)
			}
		})
	}
}

func TestCloseStopsEverything(t *testing.T) {
	w := startWorld(t)
	if got := len(w.Addresses()); got != 6 {
		t.Errorf("%d addresses", got)
	}
	for _, a := range w.Addresses() {
		host := strings.TrimPrefix(a.URL, "http://")
		if !strings.HasPrefix(host, "127.0.0.1:") {
			t.Errorf("%s listens on %s", a.Name, a.URL)
		}
		conn, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatalf("%s: %v", a.Name, err)
		}
		_ = conn.Close()
	}
	for range 2 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range w.Addresses() {
		if conn, err := net.Dial("tcp", strings.TrimPrefix(a.URL, "http://")); err == nil {
			_ = conn.Close()
			t.Errorf("%s still listens on %s", a.Name, a.URL)
		}
	}
	if _, err := os.Stat(w.TUFDir()); !os.IsNotExist(err) {
		t.Errorf("temporary web root is still there: %v", err)
	}
}

func TestTUFRoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "tuf")
	w, err := Start(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.TUFDir(), "1.root.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		method, path string
		code         int
	}{
		{http.MethodGet, "/1.root.json", http.StatusOK},
		{http.MethodGet, "/2.root.json", http.StatusNotFound}, // TUF clients stop at 404 only
		{http.MethodPut, "/1.root.json", http.StatusMethodNotAllowed},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tc.method, w.TUFURL()+tc.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != tc.code {
			t.Errorf("%s %s: %s", tc.method, tc.path, resp.Status)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "1.root.json")); err != nil {
		t.Errorf("Close took away a directory that is not its own: %v", err)
	}
}

func TestTrustedRootIsStable(t *testing.T) {
	w := startWorld(t)
	first, err := w.TrustedRootJSON()
	if err != nil {
		t.Fatal(err)
	}
	first[0] = 'x' // a caller's copy
	a, err := w.TrustedRootJSON()
	if err != nil {
		t.Fatal(err)
	}
	b, err := w.TrustedRootJSON()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) || a[0] != '{' {
		t.Error("trusted root JSON is not stable")
	}
	if bytes.Contains(a, []byte(":  ")) {
		t.Error("trusted root JSON carries protojson's random spaces")
	}
	tr := trustedRoot(t, w)
	if n := len(tr.RekorLogs()); n != 2 {
		t.Errorf("%d Rekor logs", n)
	}
	start := time.Now().Add(-defaultHistory)
	for _, l := range tr.RekorLogs() {
		near(t, "log's start", l.ValidityPeriodStart, start)
	}
	near(t, "root certificate's start", w.CAChain()[1].NotBefore, start)
	near(t, "TSA certificate's start", w.tsa.leaf.NotBefore, start)
}

// certifier is World.Issue as sigstore-go asks for certificates.
type certifier struct {
	w *World
	p Principal
}

func (c certifier) GetCertificate(ctx context.Context, k sign.Keypair, _ *sign.CertificateProviderOptions) ([]byte, error) {
	cert, err := c.w.Issue(ctx, c.p, k.GetPublicKey())
	if err != nil {
		return nil, err
	}
	return cert.Raw, nil
}

func TestIssue(t *testing.T) {
	w := startWorld(t)
	person := Principal{Email: "release@example.test", Issuer: "https://issuer.example.test"}
	workflow := Principal{URI: "https://ci.example.test/org/repo/.ci/release.yml@refs/heads/main", Issuer: "https://ci.example.test"}
	for name, tc := range map[string]struct {
		p   Principal
		ago time.Duration
		san string
	}{
		"email live":    {person, 0, person.Email},
		"email rewound": {person, month, person.Email},
		"URI rewound":   {workflow, month, workflow.URI},
	} {
		t.Run(name, func(t *testing.T) {
			defer w.Clock().Live()
			issued := time.Now().Add(-tc.ago)
			w.Clock().Rewind(issued)
			kp, err := sign.NewEphemeralKeypair(nil)
			if err != nil {
				t.Fatal(err)
			}
			b, err := sign.Bundle(&sign.PlainData{Data: []byte("artifact")}, kp, sign.BundleOptions{
				Context:              t.Context(),
				CertificateProvider:  certifier{w, tc.p},
				TimestampAuthorities: []*sign.TimestampAuthority{w.timestamps},
				TransparencyLogs:     []sign.Transparency{w.transparency[RekorV1], w.transparency[RekorV2]},
			})
			if err != nil {
				t.Fatal(err)
			}
			cert, err := x509.ParseCertificate(b.GetVerificationMaterial().GetCertificate().GetRawBytes())
			if err != nil {
				t.Fatal(err)
			}
			near(t, "NotBefore", cert.NotBefore, issued)
			summary, err := certificate.SummarizeCertificate(cert)
			if err != nil {
				t.Fatal(err)
			}
			if summary.SubjectAlternativeName != tc.san || summary.Issuer != tc.p.Issuer {
				t.Errorf("certificate names %q by %q", summary.SubjectAlternativeName, summary.Issuer)
			}
			v, err := verify.NewVerifier(trustedRoot(t, w), verify.WithSignedCertificateTimestamps(1), verify.WithTransparencyLog(2), verify.WithSignedTimestamps(1))
			if err != nil {
				t.Fatal(err)
			}
			id, err := verify.NewShortCertificateIdentity(tc.p.Issuer, "", tc.san, "")
			if err != nil {
				t.Fatal(err)
			}
			res, err := v.Verify(wrapBundle(t, b), verify.NewPolicy(verify.WithArtifact(strings.NewReader("artifact")), verify.WithCertificateIdentity(id)))
			if err != nil {
				t.Fatal(err)
			}
			for _, ts := range res.VerifiedTimestamps {
				near(t, ts.Type, ts.Timestamp, issued)
			}
		})
	}
	actor := newActor(t, w, "anyone")
	for name, p := range map[string]Principal{
		"nobody":    {Issuer: "https://issuer.example.test"},
		"two names": {Email: "a@example.test", URI: "https://example.test", Issuer: "https://issuer.example.test"},
		"no issuer": {Email: "a@example.test"},
	} {
		if _, err := w.Issue(t.Context(), p, actor.PublicKey()); err == nil {
			t.Errorf("%s got a certificate", name)
		}
	}
}

func TestImages(t *testing.T) {
	w, other := startWorld(t), startWorld(t)
	a, err := w.PushImage(t.Context(), "org/app", "v1", "seed")
	if err != nil {
		t.Fatal(err)
	}
	b, err := other.PushImage(t.Context(), "org/else", "", "seed")
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.PushImage(t.Context(), "org/app", "v2", "other seed")
	if err != nil {
		t.Fatal(err)
	}
	if a.DigestStr() != b.DigestStr() || a.DigestStr() == c.DigestStr() {
		t.Errorf("digests do not follow seeds: %s %s %s", a, b, c)
	}
	head, err := remote.Head(a.Context().Tag("v1"))
	if err != nil {
		t.Fatal(err)
	}
	if head.Digest.String() != a.DigestStr() {
		t.Errorf("v1 is %s", head.Digest)
	}
	idx, err := w.PushIndex(t.Context(), "org/app", "multi", "seed")
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(idx)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 2 || manifest.Manifests[0].Digest == manifest.Manifests[1].Digest {
		t.Fatalf("index lists %v", manifest.Manifests)
	}
	for _, d := range manifest.Manifests {
		img, err := remote.Image(idx.Context().Digest(d.Digest.String()))
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Platform().String() != d.Platform.String() || cfg.Platform().OS != "linux" {
			t.Errorf("config says %s, index %s", cfg.Platform(), d.Platform)
		}
		layers, err := img.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("layers: %v, %v", layers, err)
		}
		m, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Annotations) != 0 || m.Config.MediaType != "application/vnd.oci.image.config.v1+json" {
			t.Errorf("manifest %+v", m)
		}
	}
	if _, err := w.PushImage(t.Context(), "UPPER", "", ""); err == nil {
		t.Error("an invalid repository name passed")
	}
}

func ecdsaKey(t *testing.T, pub crypto.PublicKey) *ecdsa.PublicKey {
	t.Helper()
	k, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		t.Fatalf("key is a %T", pub)
	}
	return k
}
