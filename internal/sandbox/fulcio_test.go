package sandbox

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// TestFulcio asks for certificates as sigstore-go does.
func TestFulcio(t *testing.T) {
	t.Parallel()
	w := startWorld(t)
	pair, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(token string) (*x509.Certificate, error) {
		der, err := sign.NewFulcio(&sign.FulcioOptions{BaseURL: w.FulcioURL()}).GetCertificate(t.Context(), pair, &sign.CertificateProviderOptions{IDToken: token})
		if err != nil {
			return nil, err
		}
		return x509.ParseCertificate(der)
	}
	token := func(of *World, p Principal, life time.Duration) string {
		raw, err := of.Fulcio().Token(p, life)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for _, p := range []Principal{
		{Issuer: "https://issuer.example", Email: "release@example.com"},
		{Issuer: "https://issuer.example", URI: "https://ci.example/release.yml"},
	} {
		cert, err := ask(token(w, p, time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if sum, err := certificate.SummarizeCertificate(cert); err != nil || sum.SubjectAlternativeName != p.Email+p.URI || sum.Issuer != p.Issuer {
			t.Errorf("it names %+v, %v", sum, err)
		}
		chains, err := verify.VerifyLeafCertificate(w.Clock().Now(), cert, trustedRoot(t, w))
		if err != nil {
			t.Fatal(err)
		}
		if err := verify.VerifySignedCertificateTimestamp(chains, 1, trustedRoot(t, w)); err != nil {
			t.Error(err)
		}
	}
	p := Principal{Issuer: "https://issuer.example", Email: "release@example.com"}
	good := token(w, p, time.Minute)
	for what, raw := range map[string]string{
		"expired":              token(w, p, -time.Second),
		"of another sandbox":   token(startWorld(t), p, time.Minute),
		"with another subject": strings.Join([]string{strings.Split(good, ".")[0], strings.Split(token(w, Principal{Issuer: p.Issuer, Email: "x@example.com"}, time.Minute), ".")[1], strings.Split(good, ".")[2]}, "."),
	} {
		if _, err := ask(raw); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("a token %s: got %v", what, err)
		}
	}
	// A key whose holder does not prove to have it.
	other, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := other.GetPublicKeyPem()
	if err != nil {
		t.Fatal(err)
	}
	resp, body := do(t, http.MethodPost, w.FulcioURL()+signingCertPath, map[string]string{"Authorization": "Bearer " + good},
		[]byte(`{"publicKeyRequest":{"publicKey":{"content":`+quote(pem)+`},"proofOfPossession":"AAAA"}}`))
	if resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "could not be verified") {
		t.Errorf("a key of somebody else: %s %s", resp.Status, body)
	}
}

func quote(s string) string { return `"` + strings.ReplaceAll(s, "\n", `\n`) + `"` }

// TestTransit speaks to the stand-in for Vault as Vault's clients do.
func TestTransit(t *testing.T) {
	t.Parallel()
	vault := NewTransit("root")
	server := httptest.NewServer(vault)
	defer server.Close()
	call := func(method, path, body string) (int, string) {
		t.Helper()
		resp, out := do(t, method, server.URL+"/v1/transit/"+path, map[string]string{"X-Vault-Token": "root"}, []byte(body))
		return resp.StatusCode, string(out)
	}
	want := func(method, path, body string, status int, says string) string {
		t.Helper()
		got, out := call(method, path, body)
		if got != status || !strings.Contains(out, says) {
			t.Errorf("%s %s: %d %s, want %d %q", method, path, got, out, status, says)
		}
		return out
	}
	const digest = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	signature := func(out string) string {
		_, rest, _ := strings.Cut(out, `"signature":"`)
		sig, _, _ := strings.Cut(rest, `"`)
		return sig
	}
	verify := func(sig string, status int, says string) {
		t.Helper()
		want("PUT", "verify/k/sha2-256", `{"input":"`+digest+`","prehashed":true,"signature":"`+sig+`"}`, status, says)
	}
	want("GET", "keys/k", "", 404, "not found")
	want("PUT", "keys/k", `{"type":"ecdsa-p256"}`, 204, "")
	want("PUT", "keys/k", `{"type":"ecdsa-p256"}`, 204, "") // stays
	want("GET", "keys/k", "", 200, `"latest_version":1`)
	first := signature(want("PUT", "sign/k/sha2-256", `{"input":"`+digest+`","prehashed":true,"key_version":"0"}`, 200, "vault:v1:"))
	want("POST", "keys/k/rotate", "", 204, "")
	want("GET", "keys/k", "", 200, `"latest_version":2`)
	second := signature(want("PUT", "sign/k/sha2-256", `{"input":"`+digest+`","prehashed":true}`, 200, "vault:v2:"))
	want("PUT", "sign/k/sha2-256", `{"input":"`+digest+`","prehashed":true,"key_version":"1"}`, 200, "vault:v1:")
	want("PUT", "sign/k/sha2-256", `{"input":"`+digest+`","prehashed":true,"key_version":"3"}`, 400, "higher than the latest")
	want("PUT", "sign/k/sha2-256", `{"input":"`+digest+`"}`, 400, "digests")
	verify(first, 200, `"valid":true`)
	verify(second, 200, `"valid":true`)
	verify(strings.Replace(second, "v2", "v1", 1), 200, `"valid":false`)
	verify(strings.Replace(second, "v2", "v3", 1), 400, "invalid signature")
	vault.Throttle(1)
	want("GET", "keys/k", "", 429, "quota")
	want("GET", "keys/k", "", 200, "")
	resp, _ := do(t, "GET", server.URL+"/v1/transit/keys/k", nil, nil)
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("without a token: %s", resp.Status)
	}
}
