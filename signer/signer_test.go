package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"strings"
	"testing"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestParsePublicKey(t *testing.T) {
	t.Parallel()
	p256 := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t)
	edPub, edPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	for name, pub := range map[string]crypto.PublicKey{"P-256": p256.Public(), "P-384": p384.Public(), "Ed25519": edPub, "RSA": rsaKey.Public()} {
		der := must(x509.MarshalPKIXPublicKey(pub))(t)
		fingerprint := sha256.Sum256(der)
		want := Identity{Kind: Key, Subject: hex.EncodeToString(fingerprint[:])}
		for form, text := range map[string][]byte{
			"as it is": encode("PUBLIC KEY", der), "text before": append([]byte("key of the release team\n"), encode("PUBLIC KEY", der)...),
			"blank lines after": append(encode("PUBLIC KEY", der), "\n\n"...), "CRLF": []byte(strings.ReplaceAll(string(encode("PUBLIC KEY", der)), "\n", "\r\n")),
		} {
			got, id, err := ParsePublicKey(text)
			if err != nil || id != want || !got.(interface{ Equal(crypto.PublicKey) bool }).Equal(pub) {
				t.Errorf("%s, %s: got %v, %v, want %v", name, form, id, err, want)
			}
		}
	}
	spki := must(x509.MarshalPKIXPublicKey(p256.Public()))(t)
	pkcs8 := must(x509.MarshalPKCS8PrivateKey(edPrivate))(t)
	sec1 := must(x509.MarshalECPrivateKey(p256))(t)
	good := encode("PUBLIC KEY", spki)
	for _, tc := range []struct {
		name, says string
		data       []byte
	}{
		{"nothing", "no PEM", nil},
		{"DER", "no PEM", spki},
		{"private key, PKCS #8", "not a private one", encode("PRIVATE KEY", pkcs8)},
		{"private key, SEC 1", "not a private one", encode("EC PRIVATE KEY", sec1)},
		{"private key of cosign", "not a private one", encode("ENCRYPTED SIGSTORE PRIVATE KEY", []byte("sealed"))},
		{"certificate", "expected PUBLIC KEY", encode("CERTIFICATE", spki)},
		{"RSA public key, PKCS #1", "expected PUBLIC KEY", encode("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey))},
		{"two keys", "exactly one", append(append([]byte(nil), good...), good...)},
		{"text after", "exactly one", append(append([]byte(nil), good...), "more"...)},
		{"private key in a public one's clothes", "parsing", encode("PUBLIC KEY", pkcs8)},
		{"cut off", "parsing", encode("PUBLIC KEY", spki[:20])},
	} {
		_, id, err := ParsePublicKey(tc.data)
		if err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v, %v, want an error that says %q", tc.name, id, err, tc.says)
		}
	}
	if _, err := OfKey("no key"); err == nil {
		t.Error("a string has a fingerprint")
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	key := Identity{Kind: Key, Subject: strings.Repeat("a", 64)}
	keyless := Identity{Kind: Keyless, Subject: "ci@example", Issuer: "https://oidc.example"}
	for _, tc := range []struct {
		id           Identity
		text, prefix string
	}{
		{key, "key:sha256:" + key.Subject, "key:sha256:" + key.Subject},
		{keyless, "ci@example (issuer https://oidc.example)", "keyless:sha256:"},
		{Identity{Kind: Unknown}, "unknown", "unknown"},
		{Identity{}, "unknown", "unknown"},
	} {
		if got := tc.id.String(); got != tc.text {
			t.Errorf("got %q, want %q", got, tc.text)
		}
		if got := tc.id.ID(); !strings.HasPrefix(got, tc.prefix) {
			t.Errorf("got %q, want it to start with %q", got, tc.prefix)
		}
	}
	ids := map[string]Identity{}
	for _, id := range []Identity{key, keyless, {Kind: Keyless, Subject: "ci@examplehttps", Issuer: "://oidc.example"},
		{Kind: Keyless, Subject: keyless.Issuer, Issuer: keyless.Subject}, {Kind: Keyless, Subject: keyless.Subject}, {Kind: Key, Subject: strings.Repeat("b", 64)}} {
		if other, ok := ids[id.ID()]; ok {
			t.Errorf("%+v and %+v have one ID", id, other)
		}
		ids[id.ID()] = id
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		state                     State
		trusted, enrollable, once bool // once: enrolled, given a name
	}{
		{Observed, false, false, false}, {Standby, true, true, true}, {Active, true, true, true}, {Old, true, true, true},
		{Tainted, false, false, true}, {Revoked, false, false, true}, {"", false, false, true},
	} {
		if got := tc.state.Trusted(); got != tc.trusted {
			t.Errorf("%q: trusted is %v", tc.state, got)
		}
		got, err := ParseState(string(tc.state))
		if (err == nil) != tc.enrollable || err == nil && got != tc.state {
			t.Errorf("%q: parsed as %q, %v", tc.state, got, err)
		}
		if got := (Record{Name: "n", State: tc.state}).Enrolled(); got != tc.once {
			t.Errorf("%q: enrolled is %v", tc.state, got)
		}
		if (Record{State: tc.state}).Enrolled() {
			t.Errorf("%q without a name is enrolled", tc.state)
		}
	}
}

type fixed struct{ Signer }

func (fixed) Identity() Identity { return Identity{Kind: Key, Subject: "a"} }

func TestAlways(t *testing.T) {
	t.Parallel()
	source := Always(fixed{})
	c, err := source.Credential(t.Context())
	if err != nil || c.Signer != (fixed{}) || c.Certificate != nil || !c.Until.IsZero() || source.Identity() != c.Identity() {
		t.Errorf("got %+v, %v: a key is itself, without a certificate and without an end", c, err)
	}
}
