package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/journal"
)

// actions returns what the journal has of probes, in order.
func (h home) actions(t *testing.T) (out []string) {
	t.Helper()
	next := h.store.Journal(t.Context(), 0)
	for {
		line, err := next()
		if errors.Is(err, io.EOF) {
			return out
		}
		var e journal.Entry
		if err != nil || json.Unmarshal(line, &e) != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if strings.HasPrefix(e.Action, "probe.") {
			out = append(out, e.Action)
		}
	}
}

// TestSignerJournal looks at the journal at the moment a key is used: what is
// about to be signed stands there already, and afterwards what came of it.
func TestSignerJournal(t *testing.T) {
	h := newHome(t)
	const token = "hvs.token-of-the-test"
	vault := sandbox.NewTransit(token)
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/sign/") {
			seen = h.actions(t)
		}
		vault.ServeHTTP(w, r)
	}))
	defer server.Close()
	t.Setenv("VAULT_ADDR", server.URL)
	t.Setenv("VAULT_TOKEN", token)
	if err := vault.Rotate("release"); err != nil {
		t.Fatal(err)
	}
	r, err := h.TestSigner(t.Context(), SignerOptions{Key: "hashivault://release"})
	if err != nil || !r.OK || r.SignSeconds <= 0 || r.Name != "" || r.Certificate != nil {
		t.Errorf("got %+v, %v", r, err)
	}
	if !slices.Equal(seen, []string{"probe.intended"}) {
		t.Errorf("when the key was used the journal had %v", seen)
	}
	if r, err := h.TestSigner(t.Context(), SignerOptions{Key: "hashivault://none"}); err == nil || r.OK || r.Problem != err.Error() {
		t.Errorf("got %+v, %v", r, err)
	}
	if got := h.actions(t); !slices.Equal(got, []string{"probe.intended", "probe.signed", "probe.intended", "probe.failed"}) {
		t.Errorf("afterwards it has %v", got)
	}

	h.options.Actor = ""
	if _, err := h.TestSigner(t.Context(), SignerOptions{Key: "hashivault://release"}); err == nil || !strings.Contains(err.Error(), "nobody is named") {
		t.Errorf("nobody is named: got %v", err)
	}
	if _, signs := vault.Requests(); signs != 1 {
		t.Errorf("the key was used %d times, once of them by nobody", signs)
	}
}

// TestSignerSecrets finds no password, PIN or token in what is said of a signer.
func TestSignerSecrets(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	const secret = "hunter2"
	give := func() ([]byte, error) { return []byte(secret), nil }
	for _, o := range []SignerOptions{
		{Key: "none.key", Password: give},
		{Key: "pkcs11:token=dr;object=k1?module-path=/none.so&pin-value=" + secret},
		{Key: "pkcs11:token=dr;object=k1;pin-value=" + secret + "?module-path=/none.so"},
		{Key: "pkcs11:token=dr;object=k1?module-path=/none.so", PIN: give},
		{Key: "acme://user:" + secret + "@host/key"},
		{Key: "https://user:" + secret + "@registry.example/cosign.key"},
		{Key: "hashivault://user:" + secret + "@vault/key"},
		{Fulcio: "https://user:" + secret + "@fulcio.example", IdentityToken: "token"},
		{Fulcio: "https://fulcio.example", IdentityToken: "eyJhbGciOiJub25lIn0." + secret + ".c2ln"},
	} {
		_, openErr := h.OpenSigner(t.Context(), o)
		r, testErr := h.TestSigner(t.Context(), o)
		if openErr == nil || testErr == nil {
			t.Errorf("%v: opened", o)
		}
		for _, text := range []string{fmt.Sprint(openErr), fmt.Sprint(testErr), fmt.Sprintf("%v %+v %#v %s", o, o, o, o), fmt.Sprintf("%+v", r)} {
			if strings.Contains(text, secret) {
				t.Errorf("it tells the secret: %s", text)
			}
		}
	}
	next := h.store.Journal(t.Context(), 0)
	for line, err := next(); err == nil; line, err = next() {
		if strings.Contains(string(line), secret) {
			t.Errorf("the journal has the secret: %s", line)
		}
	}
}

// TestSignerOptions refuses what leads to no signer, or to two.
func TestSignerOptions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		o    SignerOptions
		says string
	}{
		{SignerOptions{Key: "next.key"}, ""},
		{SignerOptions{Fulcio: "https://fulcio.example"}, ""},
		{SignerOptions{Fulcio: "https://fulcio.example", IdentityToken: "/run/a.b.c"}, ""},
		{SignerOptions{}, "who signs?"},
		{SignerOptions{IdentityToken: "token"}, "--fulcio-url"},
		{SignerOptions{Key: "next.key", Fulcio: "https://fulcio.example"}, "give one of them"},
		{SignerOptions{Key: "next.key", IdentityToken: "token"}, "give one of them"},
		{SignerOptions{Fulcio: "https://fulcio.example", CertificateRate: -1}, "positive"},
		{SignerOptions{Fulcio: "https://fulcio.example", IdentityToken: "eyJh.eyJh.x"}, "take this one for leaked"},
	} {
		err := tc.o.Check()
		if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%v: got %v, want %q", tc.o, err, tc.says)
		}
	}
}
