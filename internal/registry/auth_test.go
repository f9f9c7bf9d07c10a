package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
)

const secret = "hunter2-is-the-secret-password"

// login is a keychain with one password for all registries.
type login struct{ password string }

func (l login) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig{Username: "reseal", Password: l.password}), nil
}

func refuse(w http.ResponseWriter, challenge string) {
	w.Header().Set("WWW-Authenticate", challenge)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":"`+secret+`"}]}`)
}

func TestBasic(t *testing.T) {
	inner := fakeHandler(false)
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "reseal" || password != secret {
			refuse(w, `Basic realm="x"`)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	c, rec, _ := newTestClient(t, Options{Keychain: login{secret}})
	image(t, c, host+"/a/b", "v1")
	image(t, c, host+"/c/d", "v1")
	if got := rec.take(); len(got) != 5 { // a ping, and for each image blob and manifest
		t.Errorf("requests %q", got)
	}
	wrong, _, _ := newTestClient(t, Options{Keychain: login{"wrong-" + secret}})
	_, err := wrong.Manifest(t.Context(), host+"/a/b", "v1")
	checkDenied(t, err, host)
	_, err = wrong.PutBlob(t.Context(), host+"/a/b", []byte("x"))
	checkDenied(t, err, host)
}

func checkDenied(t *testing.T, err error, host string) {
	t.Helper()
	var e *Error
	if !errors.Is(err, ErrDenied) || errors.Is(err, ErrAmbiguous) || !errors.As(err, &e) || e.Status != 401 {
		t.Fatalf("error: %v", err)
	}
	for _, want := range []string{host + "/a/b", "docker login " + host} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	for ; err != nil; err = errors.Unwrap(err) {
		if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, secret) {
			t.Errorf("the password is in %q", text)
		}
	}
}

// tokenServer hands out tokens that end after some requests.
func tokenServer(t *testing.T, lasts int64) (host string, tokens *atomic.Int64) {
	t.Helper()
	tokens = &atomic.Int64{}
	var left atomic.Int64
	inner := fakeHandler(false)
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			if _, password, _ := r.BasicAuth(); password != secret {
				refuse(w, `Basic realm="x"`)
				return
			}
			left.Store(lasts)
			json.NewEncoder(w).Encode(map[string]any{"token": fmt.Sprintf("token-%d", tokens.Add(1)), "expires_in": 1})
			return
		}
		current := fmt.Sprintf("Bearer token-%d", tokens.Load())
		if r.Header.Get("Authorization") != current || left.Add(-1) < 0 {
			refuse(w, `Bearer realm="`+s.URL+`/token",service="test",scope="repository:a/b:pull,push"`)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), tokens
}

func TestBearer(t *testing.T) {
	host, tokens := tokenServer(t, 1<<30)
	c, _, _ := newTestClient(t, Options{Keychain: login{secret}})
	image(t, c, host+"/a/b", "v1")
	if _, err := c.Manifest(t.Context(), host+"/a/b", "v1"); err != nil {
		t.Fatal(err)
	}
	if tokens.Load() != 1 {
		t.Errorf("%d tokens, want 1: writing includes reading", tokens.Load())
	}
	if c.Requests() != 5 { // ping, token, blob, manifest, manifest
		t.Errorf("%d requests", c.Requests())
	}
	wrong, _, _ := newTestClient(t, Options{Keychain: login{"wrong-" + secret}})
	_, err := wrong.Manifest(t.Context(), host+"/a/b", "v1")
	checkDenied(t, err, host)
}

// When a token ends in the middle of a run, a write is sent again with its body.
func TestBearerExpires(t *testing.T) {
	host, tokens := tokenServer(t, 1)
	c, _, _ := newTestClient(t, Options{Keychain: login{secret}})
	for i := range 3 {
		image(t, c, host+"/a/b", fmt.Sprintf("v%d", i))
	}
	if tokens.Load() < 3 {
		t.Errorf("%d tokens", tokens.Load())
	}
}

func TestTokenServerTellsSecrets(t *testing.T) {
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			fmt.Fprintf(w, `{"refresh_token":%q}`, secret)
			return
		}
		refuse(w, `Bearer realm="`+s.URL+`/token?key=`+secret+`",service="test"`)
	}))
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "http://")
	c, _, _ := newTestClient(t, Options{})
	_, err := c.Manifest(t.Context(), host+"/a/b", "v1")
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("error: %v", err)
	}
}

// A 404 from what is no registry says nothing about the manifest.
func TestNoRegistry(t *testing.T) {
	host := serve(t, http.NotFoundHandler())
	c, _, _ := newTestClient(t, Options{})
	_, err := c.Manifest(t.Context(), host+"/a/b", "v1")
	if err == nil || errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "is this a registry?") {
		t.Errorf("error: %v", err)
	}
	if err := c.Delete(t.Context(), host+"/a/b", "v1"); err == nil {
		t.Error("deleting from what is no registry succeeded")
	}
}

func TestRefusedConnection(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	host := strings.TrimPrefix(s.URL, "http://")
	s.Close()
	c, _, _ := newTestClient(t, Options{})
	_, err := c.Manifest(t.Context(), host+"/a/b", "v1")
	if err == nil || !strings.Contains(err.Error(), "is the registry running and reachable?") || !strings.Contains(err.Error(), host+"/a/b:v1") {
		t.Errorf("error: %v", err)
	}
	if _, _, err := c.PutManifest(t.Context(), host+"/a/b", "v1", ociManifest, []byte("{}")); errors.Is(err, ErrAmbiguous) {
		t.Errorf("a write that never left is called ambiguous: %v", err)
	}
	if c.Requests() != 0 {
		t.Errorf("%d requests counted", c.Requests())
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"put https://u:p@host/x?_state=abc: no":                  "put https://host/x?...",
		"echo Authorization: Basic cmVzZWFsOmh1bnRlcjItaXMtdGhl": "echo Authorization: Basic ...",
		"basic authentication is needed":                         "basic authentication is needed",
		"\x1b[31mred\nsecond line":                               "[31mred",
	} {
		if got := clean(in); got != want && !strings.HasPrefix(got, want) {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}
