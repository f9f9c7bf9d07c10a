package keyless

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/signer"
)

var (
	_ signer.Source = (*Source)(nil)
	_ signer.Signer = (*credential)(nil)

	robot = sandbox.Principal{Issuer: "https://issuer.example", Email: "release@example.com"}
	who   = signer.Identity{Kind: signer.Keyless, Issuer: robot.Issuer, Subject: robot.Email}
)

// bench is a sandbox with a clock that stands an hour back and is moved by hand.
type bench struct {
	*sandbox.World
	t      *testing.T
	mu     sync.Mutex
	at     time.Time
	waits  []time.Duration
	events []string // what happened, in order
	life   time.Duration
}

func start(t *testing.T) *bench {
	t.Helper()
	w, err := sandbox.Start(t.Context(), sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &bench{World: w, t: t, life: time.Hour}
	b.move(0)
	return b
}

// now moves only by hand; the sandbox's own clock is set to it, and runs.
func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at
}

func (b *bench) move(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at.IsZero() {
		b.at = time.Now().Add(-time.Hour).Truncate(time.Second)
	}
	b.at = b.at.Add(d)
	b.Clock().Rewind(b.at)
}

// wait moves the clock instead of waiting.
func (b *bench) wait(ctx context.Context, d time.Duration) error {
	b.note(fmt.Sprintf("wait %s", d))
	b.mu.Lock()
	b.waits = append(b.waits, d)
	b.mu.Unlock()
	b.move(d)
	return ctx.Err()
}

func (b *bench) note(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, what)
}

// tokens are issued when they are asked for.
func (b *bench) tokens(p sandbox.Principal) Tokens {
	return Tokens{Name: "the test", Read: func(context.Context) (string, error) {
		b.note("token")
		return b.Fulcio().Token(p, b.life)
	}}
}

func (b *bench) options() Options {
	return Options{Fulcio: b.FulcioURL(), Tokens: b.tokens(robot), Now: b.now, wait: b.wait,
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			b.note("certificate")
			return http.DefaultTransport.RoundTrip(r)
		})}
}

func (b *bench) open() *Source {
	b.t.Helper()
	s, err := Open(b.t.Context(), b.options())
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *bench) wantRequests(want int) {
	b.t.Helper()
	if got := b.Fulcio().Requests(); got != want {
		b.t.Errorf("%d certificates were asked for, want %d", got, want)
	}
}

// signs makes a signature and checks it with the certificate it goes with.
func signs(t *testing.T, s *Source) *x509.Certificate {
	t.Helper()
	c, err := s.Credential(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return check(t, c)
}

func check(t *testing.T, c signer.Credential) *x509.Certificate {
	t.Helper()
	message := []byte("a message")
	sig, err := c.Sign(t.Context(), message)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(c.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(message)
	if !ecdsa.VerifyASN1(cert.PublicKey.(*ecdsa.PublicKey), digest[:], sig) {
		t.Error("the certificate does not verify the signature")
	}
	return cert
}

func TestReuse(t *testing.T) {
	t.Parallel()
	b := start(t)
	s := b.open()
	if s.Identity() != who {
		t.Errorf("signs as %v, want %v", s.Identity(), who)
	}
	first := signs(t, s)
	for range 99 {
		if cert := signs(t, s); !cert.Equal(first) {
			t.Fatal("the certificate changed")
		}
	}
	b.wantRequests(1)
	b.move(useFor - time.Second)
	signs(t, s)
	b.wantRequests(1)
	b.move(time.Minute + time.Second) // nine minutes
	second := signs(t, s)
	if second.Equal(first) || second.PublicKey.(*ecdsa.PublicKey).Equal(first.PublicKey) {
		t.Error("the second certificate is the first, or of its key")
	}
	for range 100 {
		signs(t, s)
	}
	b.wantRequests(2)
	if !slices.Equal(b.events, []string{"token", "certificate", "token", "certificate"}) {
		t.Errorf("happened: %v", b.events)
	}
}

// TestUntil says when a certificate is no longer used: a caller that waited has
// to ask anew, and whoever does not is refused.
func TestUntil(t *testing.T) {
	t.Parallel()
	b := start(t)
	s := b.open()
	c, err := s.Credential(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := b.now().Add(useFor); c.Until.Sub(want).Abs() > time.Second {
		t.Errorf("used until %s, want %s", c.Until, want)
	}
	b.move(9 * time.Minute)
	check(t, c) // in its life
	b.move(2 * time.Minute)
	if _, err := c.Sign(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "expired at") {
		t.Errorf("signing with a certificate that expired: %v", err)
	}
	b.move(-time.Hour) // the clock is set back: nobody knows how old it is
	signs(t, s)
	b.wantRequests(2)
}

// TestConcurrent lets many ask for the next certificate at once.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	b := start(t)
	s := b.open()
	for round := 2; round <= 4; round++ {
		b.move(useFor)
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				c, err := s.Credential(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				check(t, c)
			})
		}
		wg.Wait()
		b.wantRequests(round)
	}

	t.Run("who waits for a certificate may give up", func(t *testing.T) {
		b.move(useFor)
		b.Fulcio().Fail(sandbox.FulcioSilent, 1)
		asking, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { _, err := s.Credential(asking); done <- err }()
		for b.Fulcio().Requests() < 5 {
			time.Sleep(time.Millisecond)
		}
		waiting, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer stop()
		if _, err := s.Credential(waiting); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting: got %v", err)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("asking: got %v", err)
		}
		signs(t, s)
	})
}

// TestRate takes a turn under the rate before the token is read: a token that
// lives less long than the wait still serves.
func TestRate(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.life = 5 * time.Second
	o := b.options()
	o.Rate = 0.1 // one in ten minutes
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	b.move(useFor)
	signs(t, s)
	if len(b.waits) != 1 || b.waits[0] < time.Minute || b.waits[0] > 2*time.Minute {
		t.Errorf("waited %v, want the two minutes that were left", b.waits)
	}
	if want := []string{"token", "certificate", "wait " + fmt.Sprint(b.waits[0]), "token", "certificate"}; !slices.Equal(b.events, want) {
		t.Errorf("happened: %v, want %v", b.events, want)
	}

	b.move(useFor)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Credential(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while it waits for its turn: %v", err)
	}
	b.wantRequests(2)

	for name, rate := range map[string]float64{"negative": -1} {
		o.Rate = rate
		if _, err := Open(t.Context(), o); err == nil {
			t.Errorf("a rate that is %s is taken", name)
		}
	}
}

// TestFault gives every answer that Fulcio may give.
func TestFault(t *testing.T) {
	t.Parallel()
	const always = 1000
	for _, tc := range []struct {
		name     string
		fault    sandbox.FulcioFault
		times    int
		says     string // empty: it goes well in the end
		requests int    // for the second certificate
	}{
		{"too many requests, for a while", sandbox.FulcioThrottled, 2, "", 3},
		{"too many requests", sandbox.FulcioThrottled, always, "429 Too Many Requests: {\"code\":8,\"message\":\"rate limit exceeded\"}; asked 4 times", attempts},
		{"down, for a while", sandbox.FulcioBroken, 3, "", 4},
		{"down", sandbox.FulcioBroken, always, "503 Service Unavailable", attempts},
		{"another key", sandbox.FulcioOtherKey, 1, "it certifies another key", 1},
		{"somebody else", sandbox.FulcioOtherName, 1, "the next certificate names somebody-else@example.com", 1},
		{"no life left", sandbox.FulcioBackdated, 1, "is the clock right?", 1},
		{"refused, with the token in the answer", sandbox.FulcioIndiscreet, 1, "cannot use the token [the token]", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := start(t)
			s := b.open()
			b.move(useFor)
			b.Fulcio().Fail(tc.fault, tc.times)
			c, err := s.Credential(t.Context())
			if tc.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				check(t, c)
			} else {
				if err == nil || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "eyJ") {
					t.Errorf("got %v, want %q and no token", err, tc.says)
				}
				if c.Signer != nil {
					t.Error("there is something to sign with")
				}
			}
			b.wantRequests(1 + tc.requests)
			b.Fulcio().Fail(sandbox.FulcioHealthy, 0)
			if cert := signs(t, s); cert.EmailAddresses[0] != robot.Email {
				t.Errorf("afterwards it signs as %v", cert.EmailAddresses)
			}
		})
	}

	t.Run("the token expired", func(t *testing.T) {
		t.Parallel()
		b := start(t)
		file := filepath.Join(t.TempDir(), "token")
		rotate := func() {
			raw, err := b.Fulcio().Token(robot, 5*time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(raw+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		rotate()
		o := b.options()
		o.Tokens = File(file)
		s, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		issued := b.now()
		b.move(useFor)
		_, err = s.Credential(t.Context())
		for _, says := range []string{"the file " + file, "of release@example.com, issued by https://issuer.example", "expired at " + stamp(issued.Add(5*time.Minute)), "3m0s ago"} {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("got %v, want %q", err, says)
			}
		}
		b.wantRequests(1)
		rotate() // as kubelet does
		signs(t, s)
		b.wantRequests(2)
	})

	t.Run("nobody answers", func(t *testing.T) {
		t.Parallel()
		b := start(t)
		o := b.options()
		o.Fulcio = "http://127.0.0.1:1"
		if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "refused") || len(b.waits) > 0 {
			t.Errorf("got %v after %v, want it told at once", err, b.waits)
		}
	})

	t.Run("a certificate that names nobody yet", func(t *testing.T) {
		t.Parallel()
		b := start(t)
		b.Fulcio().Fail(sandbox.FulcioOtherKey, 1)
		if s, err := Open(t.Context(), b.options()); err == nil {
			t.Errorf("opened %v", s)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	tokens := Tokens{Name: "the test", Read: func(context.Context) (string, error) { t.Error("a token was read"); return "", nil }}
	for fulcio, says := range map[string]string{
		"":                                "expected https://HOST",
		"fulcio.example":                  "expected https://HOST",
		"http://fulcio.example":           "use https",
		"http://10.0.0.1:8080":            "use https",
		"ftp://127.0.0.1":                 "use https",
		"https://user:hunter2@fulcio.xyz": "expected https://HOST",
		"https://user:hunter2@%zz":        "expected https://HOST",
	} {
		_, err := Open(t.Context(), Options{Fulcio: fulcio, Tokens: tokens})
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: got %v, want %q", fulcio, err, says)
		}
	}
	if _, err := Open(t.Context(), Options{Fulcio: "https://fulcio.example"}); err == nil {
		t.Error("opened without tokens")
	}
}

func TestAmbient(t *testing.T) {
	t.Parallel()
	const bearer, token = "bearer-of-the-runner", "eyJh.eyJzdWIiOiJ4In0.c2ln"
	var broken bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case broken:
			http.Error(w, "no use for "+r.Header.Get("Authorization"), http.StatusForbidden)
		case r.Header.Get("Authorization") != "bearer "+bearer || r.URL.Query().Get("audience") != "sigstore" || r.URL.Query().Get("api-version") != "2":
			http.Error(w, "bad request", http.StatusBadRequest)
		default:
			_ = json.NewEncoder(w).Encode(map[string]string{"value": token})
		}
	}))
	defer server.Close()
	projected := filepath.Join(t.TempDir(), "oidc-token")
	env := func(list map[string]string) func(string) string {
		return func(name string) string { return list[name] }
	}
	actions := map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": server.URL + "/token?api-version=2", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": bearer}

	if _, err := ambient(env(nil), projected); err == nil || !strings.Contains(err.Error(), "--identity-token") {
		t.Errorf("no token anywhere: got %v", err)
	}
	wantToken := func(list map[string]string, name string) Tokens {
		t.Helper()
		tokens, err := ambient(env(list), projected)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tokens.read(t.Context(), time.Now())
		if err != nil || got != token || !strings.Contains(tokens.Name, name) {
			t.Errorf("got %q of %v, %v", got, tokens, err)
		}
		return tokens
	}
	github := wantToken(actions, "GitHub Actions")
	broken = true
	if _, err := github.read(t.Context(), time.Now()); err == nil || !strings.Contains(err.Error(), "403") || strings.Contains(err.Error(), bearer) {
		t.Errorf("refused by GitHub: got %v", err)
	}
	server.Close()
	if _, err := github.read(t.Context(), time.Now()); err == nil || strings.Contains(err.Error(), bearer) ||
		strings.Contains(err.Error(), "api-version") || !strings.Contains(err.Error(), "GitHub Actions: it cannot be reached") {
		t.Errorf("GitHub is gone: got %v", err)
	}
	if err := os.WriteFile(projected, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	wantToken(actions, projected)
	actions["SIGSTORE_ID_TOKEN"] = token
	wantToken(actions, "SIGSTORE_ID_TOKEN")
}

// TestSecrets finds neither token nor key in what is printed of a signer, nor
// in any error.
func TestSecrets(t *testing.T) {
	t.Parallel()
	b := start(t)
	s := b.open()
	c, err := s.Credential(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%s", "%#v"} {
		for what, v := range map[string]any{"source": s, "signer": c.Signer} {
			if got := fmt.Sprintf(verb, v); got != who.String() {
				t.Errorf("%s of the %s is %q", verb, what, got)
			}
		}
		for what, v := range map[string]any{"credential": c, "source in a struct": struct{ S signer.Source }{s}, "tokens": b.options().Tokens} {
			if got := fmt.Sprintf(verb, v); strings.Contains(got, "PrivateKey") || strings.Contains(got, "eyJ") {
				t.Errorf("%s of the %s is %q", verb, what, got)
			}
		}
	}
	for _, raw := range []string{"", "hunter2", "eyJ.hunter2.x", "eyJ.aHVudGVyMg.x", "eyJhbGciOiJub25lIn0.!hunter2!.x", "a.b.c.hunter2",
		strings.Repeat("hunter2", maxToken)} {
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(raw), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := File(file).read(t.Context(), b.now())
		if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), file) {
			t.Errorf("token %.40q: got %v", raw, err)
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4IiwiZXhwIjoxfQ.x")
	f.Add("eyJ.e30.x")
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, raw string) {
		c, err := parseToken(raw)
		if err != nil {
			if len(raw) > 8 && strings.Contains(err.Error(), raw) {
				t.Errorf("the error repeats the token: %v", err)
			}
			return
		}
		if end := c.expiry(); end.Before(time.Time{}) {
			t.Errorf("it expires at %s", end)
		}
	})
}
