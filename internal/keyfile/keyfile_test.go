package keyfile

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/reseal/reseal/signer"
)

const password = "correct horse battery staple"

var _ signer.Signer = Key{}

func pass(p string) func() ([]byte, error) { return func() ([]byte, error) { return []byte(p), nil } }

func write(t *testing.T, content []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "cosign.key")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func generate(t *testing.T) *cosign.KeysBytes {
	t.Helper()
	keys, err := cosign.GenerateKeyPair(pass2(password))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func pass2(p string) cosign.PassFunc { return func(bool) ([]byte, error) { return []byte(p), nil } }

func TestLoad(t *testing.T) {
	t.Parallel()
	keys := generate(t)
	k, err := Load(write(t, keys.PrivateBytes), pass(password))
	if err != nil {
		t.Fatal(err)
	}
	pub, id, err := signer.ParsePublicKey(keys.PublicBytes)
	if err != nil {
		t.Fatal(err)
	}
	if k.Identity() != id || !k.PublicKey().(*ecdsa.PublicKey).Equal(pub) {
		t.Errorf("loaded %s, want %s", k.Identity(), id)
	}
	message := []byte("a message")
	sig, err := k.Sign(t.Context(), message)
	if err != nil {
		t.Fatal(err)
	}
	v, err := signature.LoadVerifier(pub, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message)); err != nil {
		t.Errorf("the signature does not verify: %v", err)
	}

	t.Run("signs a digest", func(t *testing.T) {
		sum := sha256.Sum256(message)
		sig, err := signer.DigestSigner(k).SignDigest(t.Context(), sum[:])
		if err != nil {
			t.Fatal(err)
		}
		if err := v.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message)); err != nil {
			t.Errorf("the signature does not verify: %v", err)
		}
		if sig, err := k.SignDigest(t.Context(), sum[:20]); err == nil {
			t.Errorf("it signs what is no digest: %x", sig)
		}
	})

	t.Run("prints its fingerprint only", func(t *testing.T) {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			for what, text := range map[string]string{"value": fmt.Sprintf(verb, k), "pointer": fmt.Sprintf(verb, &k), "interface": fmt.Sprintf(verb, signer.Signer(k))} {
				if text != id.ID() {
					t.Errorf("%s of the %s is %q, want %q", verb, what, text, id.ID())
				}
			}
			for what, text := range map[string]string{"in a slice": fmt.Sprintf(verb, []Key{k}), "in a struct": fmt.Sprintf(verb, struct{ Key Key }{k}),
				"as a signer in a struct": fmt.Sprintf(verb, struct{ S signer.Signer }{k})} {
				if !strings.Contains(text, id.ID()) || len(text) > 300 {
					t.Errorf("%s %s is %q", verb, what, text)
				}
			}
		}
		for _, verb := range []string{"%d", "%x", "%q"} {
			text := fmt.Sprintf(verb, k)
			if private := k.private.(*signature.ECDSASignerVerifier); strings.Contains(text, fmt.Sprint(private)) || len(text) > 2000 {
				t.Errorf("%s tells %d bytes", verb, len(text))
			}
		}
		//lint:ignore SA9005 that nothing of a key is marshaled is what this checks
		if raw, err := json.Marshal(k); err != nil || string(raw) != "{}" {
			t.Errorf("as JSON it is %s, %v", raw, err)
		}
	})
}

// TestLoadPure signs as TUF clients verify, where cosign has its own way.
func TestLoadPure(t *testing.T) {
	t.Parallel()
	edPublic, ed, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("a message")
	for name, tc := range map[string]struct {
		key    crypto.Signer
		verify func(sig []byte) bool
		cosign bool // signs alike for cosign
	}{
		"Ed25519": {ed, func(sig []byte) bool { return ed25519.Verify(edPublic, message, sig) }, false},
		"P-384": {p384, func(sig []byte) bool {
			d := sha512.Sum384(message)
			return ecdsa.VerifyASN1(&p384.PublicKey, d[:], sig)
		}, true},
	} {
		der, err := x509.MarshalPKCS8PrivateKey(tc.key)
		if err != nil {
			t.Fatal(err)
		}
		plain := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(plain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := cosign.ImportKeyPair(plain, pass2(password))
		if err != nil {
			t.Fatal(err)
		}
		file := write(t, keys.PrivateBytes)
		for how, load := range map[bool]func(string, func() ([]byte, error)) (Key, error){true: LoadPure, false: Load} {
			k, err := load(file, pass(password))
			if err != nil {
				t.Fatal(err)
			}
			sig, err := k.Sign(t.Context(), message)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := tc.verify(sig), how || tc.cosign; got != want {
				t.Errorf("%s, pure %v: verifies %v, want %v", name, how, got, want)
			}
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	keys := generate(t)
	block, _ := pem.Decode(keys.PrivateBytes)
	cut := pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes[:len(block.Bytes)/2]})
	const wrong = "swordfish-wrong"
	for _, tc := range []struct {
		name, password string
		content        []byte
		says           string
	}{
		{"wrong password", wrong, keys.PrivateBytes, "is the password right"},
		{"no password", "", keys.PrivateBytes, "is the password right"},
		{"public key", password, keys.PublicBytes, "cannot be decrypted"},
		{"empty file", password, nil, "cannot be decrypted"},
		{"text", password, []byte("secret"), "cannot be decrypted"},
		{"cut off", password, cut, "cannot be decrypted"},
		{"too long", password, make([]byte, maxKey+1), "no cosign key"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			file := write(t, tc.content)
			k, err := Load(file, pass(tc.password))
			if err == nil {
				t.Fatalf("loaded %v", k)
			}
			text := err.Error()
			if !strings.Contains(text, tc.says) || !strings.Contains(text, file) {
				t.Errorf("got %q, want it to name the file and say %q", text, tc.says)
			}
			for _, secret := range []string{password, wrong, "\n"} {
				if strings.Contains(text, secret) {
					t.Errorf("the error has %q in it: %q", secret, text)
				}
			}
		})
	}
	t.Run("no file", func(t *testing.T) {
		asked := false
		_, err := Load(filepath.Join(t.TempDir(), "none.key"), func() ([]byte, error) { asked = true; return nil, nil })
		if !errors.Is(err, os.ErrNotExist) || asked {
			t.Errorf("got %v, asked for a password: %v", err, asked)
		}
	})
	t.Run("no password to be had", func(t *testing.T) {
		none := errors.New("no terminal")
		if _, err := Load(write(t, keys.PrivateBytes), func() ([]byte, error) { return nil, none }); !errors.Is(err, none) {
			t.Errorf("got %v, want %v", err, none)
		}
	})
}

func TestNew(t *testing.T) {
	t.Parallel()
	for _, kind := range Types() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			private, public, err := New(kind, []byte(password))
			if err != nil {
				t.Fatal(err)
			}
			k, err := LoadPure(write(t, private), pass(password))
			if err != nil {
				t.Fatal(err)
			}
			if _, id, err := signer.ParsePublicKey(public); err != nil || id != k.Identity() {
				t.Errorf("the public half is of %s, %v, want %s", id, err, k.Identity())
			}
			if _, err := k.Sign(t.Context(), []byte("a message")); err != nil {
				t.Error(err)
			}
			if _, err := LoadPure(write(t, private), pass("wrong")); err == nil {
				t.Error("another password opens it")
			}
		})
	}
	for _, tc := range []struct{ name, kind, password string }{{"no password", Types()[0], ""}, {"another kind", "rsa-1024", password}} {
		if private, _, err := New(tc.kind, []byte(tc.password)); err == nil || private != nil {
			t.Errorf("%s: made a key, %v", tc.name, err)
		}
	}
}
