package signer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestInMemory(t *testing.T) {
	t.Parallel()
	p256 := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t)
	edPublic, ed, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("a message")
	for name, tc := range map[string]struct {
		key    crypto.Signer
		verify func(sig []byte) bool
	}{
		"P-256": {p256, func(sig []byte) bool {
			d := sha256.Sum256(message)
			return ecdsa.VerifyASN1(&p256.PublicKey, d[:], sig)
		}},
		"P-384": {p384, func(sig []byte) bool {
			d := sha512.Sum384(message)
			return ecdsa.VerifyASN1(&p384.PublicKey, d[:], sig)
		}},
		"Ed25519": {ed, func(sig []byte) bool { return ed25519.Verify(edPublic, message, sig) }},
	} {
		s := must(InMemory(tc.key))(t)
		id := must(OfKey(tc.key.Public()))(t)
		if s.Identity() != id || !s.PublicKey().(interface{ Equal(crypto.PublicKey) bool }).Equal(tc.key.Public()) {
			t.Errorf("%s: it is %s", name, s.Identity())
		}
		if sig, err := s.Sign(t.Context(), message); err != nil || !tc.verify(sig) {
			t.Errorf("%s: %x, %v", name, sig, err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Sign(ended, message); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: signed after the end: %v", name, err)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if text := fmt.Sprintf(verb, s); text != id.ID() {
				t.Errorf("%s prints as %q", verb, text)
			}
		}
	}
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	p521 := must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))(t)
	for says, key := range map[string]crypto.Signer{"rsa": rsaKey, "521": p521} {
		if _, err := InMemory(key); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}
