package kms

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	sigkms "github.com/sigstore/sigstore/pkg/signature/kms"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/handler"
	"github.com/sigstore/sigstore/pkg/signature/kms/fake"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/signer"
)

var _ signer.Signer = (*Key)(nil)

// pluginLog is where the plugin of these tests notes that it ran; beside it is
// its key.
const pluginLog = "RESEAL_TEST_PLUGIN_LOG"

// TestMain makes the test binary the plugin sigstore-kms-acme when it is run
// by that name.
func TestMain(m *testing.M) {
	if strings.HasPrefix(filepath.Base(os.Args[0]), "sigstore-kms-") {
		if err := actAsPlugin(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func actAsPlugin() error {
	log := os.Getenv(pluginLog)
	f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(f, "ran"); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	sealed, err := os.ReadFile(log + ".key")
	if err != nil {
		return err
	}
	block, _ := pem.Decode(sealed)
	priv, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return err
	}
	impl, err := fake.LoadSignerVerifier(withKey(context.Background(), priv), crypto.SHA256)
	if err != nil {
		return err
	}
	args, err := handler.GetPluginArgs(os.Args)
	if err != nil {
		return err
	}
	_, err = handler.Dispatch(os.Stdout, os.Stdin, args, impl)
	return err
}

func withKey(ctx context.Context, priv crypto.PrivateKey) context.Context {
	return context.WithValue(ctx, fake.KmsCtxKey{}, priv)
}

func generate(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	priv, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return priv
}

// wantSigns makes a signature and checks it as anybody else would.
func wantSigns(t *testing.T, k *Key) {
	t.Helper()
	message := []byte("a message")
	sig, err := k.Sign(t.Context(), message)
	if err != nil {
		t.Error(err)
		return
	}
	digest := sha256.Sum256(message)
	if !ecdsa.VerifyASN1(k.PublicKey().(*ecdsa.PublicKey), digest[:], sig) {
		t.Error("the signature does not verify")
	}
}

// wantSignsDigest does the same with the digest alone.
func wantSignsDigest(t *testing.T, k *Key) {
	t.Helper()
	digest := sha256.Sum256([]byte("a message"))
	if sig, err := signer.DigestSigner(k).SignDigest(t.Context(), digest[:]); err != nil || !ecdsa.VerifyASN1(k.PublicKey().(*ecdsa.PublicKey), digest[:], sig) {
		t.Errorf("the signature over the digest does not verify: %v", err)
	}
}

func wantError(t *testing.T, err error, says ...string) {
	t.Helper()
	for _, s := range says {
		if err == nil || !strings.Contains(err.Error(), s) {
			t.Errorf("got %v, want %q", err, s)
		}
	}
}

// waits counts waits instead of waiting.
type waits struct {
	mu   sync.Mutex
	list []time.Duration
}

func (w *waits) wait(ctx context.Context, d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, d)
	return ctx.Err()
}

func TestFake(t *testing.T) {
	t.Parallel()
	priv := generate(t, elliptic.P256())
	k, err := Open(withKey(t.Context(), priv), "fakekms://key", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if id, err := signer.OfKey(priv.Public()); err != nil || k.Identity() != id {
		t.Errorf("it is %v, want %v, %v", k.Identity(), id, err)
	}
	wantSigns(t, k)
	wantSignsDigest(t, k)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, k); got != k.Identity().ID() {
			t.Errorf("%s prints %q", verb, got)
		}
	}
}

// TestPermit runs no program that is not allowed by name, and none that a name
// could lead to.
func TestPermit(t *testing.T) {
	t.Parallel()
	allowed := []string{"acme", "../../bin/sh", "a/b", ""}
	for _, tc := range []struct{ reference, says string }{
		{"awskms:///alias/release", ""},
		{"gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k", ""},
		{"azurekms://release.vault.azure.net/k", ""},
		{"hashivault://release", ""},
		{"acme://key", ""},
		{"evil://key", `the plugin sigstore-kms-evil may not be run: allow it with "kms_plugins: [evil]" in config.yaml`},
		{"https://registry.example/cosign.key", "sigstore-kms-https may not be run"},
		{"k8s://namespace/key", "may not be run"},
		{"../../bin/sh://key", "there is no provider"},
		{"a/b://key", "there is no provider"},
		{"ACME://key", "there is no provider"},
		{"://key", "there is no provider"},
		{"-acme://key", "there is no provider"},
		{"acme\n://key", "there is no provider"},
	} {
		err := permit(tc.reference, allowed)
		if tc.says == "" {
			if err != nil {
				t.Errorf("%s: %v", tc.reference, err)
			}
			continue
		}
		wantError(t, err, tc.says)
	}
}

func TestPlugin(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "sigstore-kms-acme")); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	t.Setenv("PATH", dir)
	t.Setenv(pluginLog, log)
	priv := generate(t, elliptic.P256())
	writeKey := func(priv *ecdsa.PrivateKey) {
		der, err := x509.MarshalECPrivateKey(priv)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(log+".key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	writeKey(priv)

	_, err = Open(t.Context(), "acme://key", Options{})
	wantError(t, err, "may not be run", "config.yaml")
	if _, err := os.Stat(log); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the plugin ran without being allowed: %v", err)
	}
	k, err := Open(t.Context(), "acme://key", Options{Plugins: []string{"acme"}})
	if err != nil {
		t.Fatal(err)
	}
	wantSigns(t, k)
	if ran, err := os.ReadFile(log); err != nil || strings.Count(string(ran), "ran") != 2 {
		t.Errorf("the plugin ran: %q, %v; want once for the key, once to sign", ran, err)
	}
	writeKey(generate(t, elliptic.P256()))
	_, err = k.Sign(t.Context(), nil)
	wantError(t, err, "was rotated")

	_, err = Open(t.Context(), "other://key", Options{Plugins: []string{"other"}})
	wantError(t, err, "sigstore-kms-other is allowed and not on the PATH")
}

// TestVault talks to a stand-in for Vault.
func TestVault(t *testing.T) {
	const token = "hvs.token-of-the-test"
	vault := sandbox.NewTransit(token)
	server := httptest.NewServer(vault)
	defer server.Close()
	defer server.CloseClientConnections() // those that nobody waits for any more
	t.Setenv("VAULT_ADDR", server.URL)
	t.Setenv("VAULT_TOKEN", token)
	open := func(t *testing.T, name string, o Options) *Key {
		t.Helper()
		if err := vault.Rotate(name); err != nil {
			t.Fatal(err)
		}
		k, err := Open(t.Context(), "hashivault://"+name, o)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}

	t.Run("the public key is asked for once", func(t *testing.T) {
		k := open(t, "once", Options{})
		reads, signs := vault.Requests()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { wantSigns(t, k) })
		}
		wg.Wait()
		if r, s := vault.Requests(); r != reads || s != signs+50 {
			t.Errorf("%d keys read and %d signatures made, want 0 and 50", r-reads, s-signs)
		}
	})

	t.Run("a digest", func(t *testing.T) {
		k := open(t, "digest", Options{})
		wantSignsDigest(t, k)
		if err := vault.Rotate("digest"); err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte("a message"))
		_, err := k.SignDigest(t.Context(), digest[:])
		wantError(t, err, "was rotated")
	})

	t.Run("rotated", func(t *testing.T) {
		k := open(t, "rotated", Options{})
		wantSigns(t, k)
		if err := vault.Rotate("rotated"); err != nil {
			t.Fatal(err)
		}
		sig, err := k.Sign(t.Context(), []byte("a message"))
		wantError(t, err, "hashivault://rotated was rotated", k.Identity().ID(), "that is another signer")
		if sig != nil {
			t.Error("a signature of the other version is handed out")
		}
		next, err := Open(t.Context(), "hashivault://rotated", Options{})
		if err != nil || next.Identity() == k.Identity() {
			t.Fatalf("opened anew it is %v, %v", next, err)
		}
		wantSigns(t, next)
	})

	t.Run("throttled, for a while", func(t *testing.T) {
		var w waits
		k := open(t, "throttled", Options{wait: w.wait})
		vault.Throttle(3)
		wantSigns(t, k)
		if len(w.list) != 3 || w.list[0] > firstWait || w.list[2] > 4*firstWait || w.list[2] < firstWait {
			t.Errorf("waited %v", w.list)
		}
		w.list = nil
		vault.Throttle(2)
		if _, err := Open(t.Context(), "hashivault://throttled", Options{wait: w.wait}); err != nil || len(w.list) != 2 {
			t.Errorf("opened: %v, after %v", err, w.list)
		}
	})

	t.Run("throttled", func(t *testing.T) {
		var w waits
		k := open(t, "throttled-for-good", Options{wait: w.wait})
		vault.Throttle(1000)
		defer vault.Throttle(0)
		_, err := k.Sign(t.Context(), nil)
		wantError(t, err, "hashivault://throttled-for-good", "too busy, asked 7 times", "--parallel", "429")
		if len(w.list) != attempts-1 || slices.Max(w.list) > lastWait {
			t.Errorf("waited %v", w.list)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := k.Sign(ctx, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: got %v", err)
		}
	})

	t.Run("no answer", func(t *testing.T) {
		k := open(t, "silent", Options{})
		k.options.timeout = 50 * time.Millisecond
		vault.Silence(1000)
		_, err := k.Sign(t.Context(), nil)
		wantError(t, err, "hashivault://silent", "no answer within 50ms")
		k.options.timeout = time.Minute
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := k.Sign(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("out of time: got %v", err)
		}
		vault.Silence(0)
		wantSigns(t, k)
	})

	t.Run("no key", func(t *testing.T) {
		_, err := Open(t.Context(), "hashivault://none", Options{})
		wantError(t, err, "hashivault://none", "public key")
		_, err = Open(t.Context(), "hashivault://a/b", Options{})
		wantError(t, err, "hashivault://a/b")
	})

	t.Run("no permission", func(t *testing.T) {
		k := open(t, "secret", Options{})
		t.Setenv("VAULT_TOKEN", "hvs.hunter2")
		_, err := Open(t.Context(), "hashivault://secret", Options{})
		wantError(t, err, "403", "permission denied")
		for _, text := range []string{err.Error(), fmt.Sprintf("%+v %#v", k, k)} {
			if strings.Contains(text, "hunter2") || strings.Contains(text, token) {
				t.Errorf("it has the token in it: %s", text)
			}
		}
	})
}

// scripted answers to signing with errors, then with signatures of a key.
type scripted struct {
	sigkms.SignerVerifier
	errs []error
}

func (s *scripted) SignMessage(m io.Reader, o ...signature.SignOption) ([]byte, error) {
	if len(s.errs) > 0 {
		err := s.errs[0]
		s.errs = s.errs[1:]
		return nil, err
	}
	return s.SignerVerifier.SignMessage(m, o...)
}

// TestFault says which answers of each service are worth another try.
func TestFault(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, answer string
		again        bool
	}{
		{"AWS throttles", "operation error KMS: Sign, https response error StatusCode: 400, RequestID: 1, ThrottlingException: Rate exceeded", true},
		{"AWS quota", "api error LimitExceededException: too much", true},
		{"Google", "rpc error: code = ResourceExhausted desc = Quota exceeded for quota metric", true},
		{"Google is down", "rpc error: code = Unavailable desc = transport is closing", true},
		{"Azure", "RESPONSE 429: 429 Too Many Requests\nERROR CODE: Throttled", true},
		{"Vault", "Error making API request.\n\nCode: 429. Errors:\n\n* rate limit quota exceeded", true},
		{"a plugin", "plugin returned error: Too many requests", true},
		{"a proxy", "Code: 503. Errors:", true},
		{"a connection lost", "read tcp 127.0.0.1:1: connection reset by peer", true},
		{"not permitted", "AccessDeniedException: not authorized to perform: kms:Sign", false},
		{"disabled", "DisabledException: arn:aws:kms:eu-west-1:429000503000:key/1 is disabled", false},
		{"no such key", "NotFoundException", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var w waits
			k, err := Open(t.Context(), "fakekms://key", Options{wait: w.wait})
			if err != nil {
				t.Fatal(err)
			}
			k.remote = &scripted{k.remote, []error{errors.New(tc.answer), errors.New(tc.answer)}}
			if tc.again {
				wantSigns(t, k)
				if len(w.list) != 2 {
					t.Errorf("waited %v", w.list)
				}
				return
			}
			_, err = k.Sign(t.Context(), nil)
			wantError(t, err, tc.answer, "fakekms://key")
			if len(w.list) != 0 {
				t.Errorf("waited %v", w.list)
			}
		})
	}

	t.Run("a signature of another hash", func(t *testing.T) {
		t.Parallel()
		ctx := withKey(t.Context(), generate(t, elliptic.P384()))
		k, err := Open(ctx, "fakekms://key", Options{})
		if err != nil {
			t.Fatal(err)
		}
		other, err := signature.LoadSignerVerifier(ctx.Value(fake.KmsCtxKey{}).(crypto.PrivateKey), crypto.SHA384)
		if err != nil {
			t.Fatal(err)
		}
		k.remote = hashed{k.remote, other}
		_, err = k.Sign(ctx, []byte("a message"))
		wantError(t, err, "as cosign verifies: use an ECDSA P-256 key")
	})
}

// hashed signs with another hash than it is asked to, as some services do for
// larger keys.
type hashed struct {
	sigkms.SignerVerifier
	with signature.SignerVerifier
}

func (h hashed) SignMessage(m io.Reader, o ...signature.SignOption) ([]byte, error) {
	return h.with.SignMessage(m, o...)
}
