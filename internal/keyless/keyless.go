// Package keyless signs as an OIDC identity, with certificates of Fulcio.
//
// One certificate serves as many signatures as fit safely in its life. Each
// certificate has a key of its own, which is held in memory and forgotten with
// it. What a certificate is worth is not judged here: whoever verifies the
// signatures does that, with the trusted root.
package keyless

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"golang.org/x/time/rate"

	"github.com/reseal/reseal/internal/clock"
	"github.com/reseal/reseal/signer"
)

const (
	// useFor is how old a certificate may get before another is asked for.
	useFor = 8 * time.Minute
	// margin is the end of a certificate's life that is not used: a signature
	// may still wait for its timestamp.
	margin = 2 * time.Minute
	// defaultRate is how many certificates are asked for in a minute.
	defaultRate = 6
	// requestTimeout bounds one request for a certificate or a token.
	requestTimeout = 30 * time.Second
	// attempts is how often a certificate is asked for while Fulcio is too busy.
	attempts = 4
	// maxWait bounds the time between two attempts, whatever Fulcio asks for.
	maxWait = time.Minute
	// maxBody bounds what is read of an answer that is an error, in bytes; it
	// holds any token.
	maxBody = 2 * maxToken
	// maxSaid bounds what an error repeats of it.
	maxSaid = 300
	// redacted stands for a secret.
	redacted = "[the token]"
)

// Options say whom to ask for certificates, and how often.
type Options struct {
	// Fulcio is the base URL of the certificate authority. A token is sent
	// there, so it is https, or plain http on this machine.
	Fulcio string
	// Tokens gives the identity token, anew for each certificate.
	Tokens Tokens
	// Rate is how many certificates may be asked for in a minute. Default 6:
	// one serves for minutes, so more than that is a loop that fails.
	Rate float64
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Transport carries the requests; default http.DefaultTransport.
	Transport http.RoundTripper

	// wait waits; tests replace it.
	wait func(context.Context, time.Duration) error
}

// Source is a keyless identity. It is safe for concurrent use, and prints as
// the identity.
type Source struct {
	options  Options
	identity signer.Identity
	limit    *rate.Limiter
	turn     chan struct{} // held by whoever asks for a certificate
	mu       sync.Mutex
	current  *credential
}

// Open asks for the first certificate, so that it is known who will sign.
func Open(ctx context.Context, o Options) (*Source, error) {
	if err := checkURL(o.Fulcio); err != nil {
		return nil, err
	}
	if o.Tokens.Read == nil {
		return nil, errors.New("keyless: there is no identity token to ask for a certificate with")
	}
	if o.Rate == 0 {
		o.Rate = defaultRate
	}
	if o.Rate < 0 {
		return nil, errors.New("keyless: the rate of certificates is negative")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
	}
	if o.wait == nil {
		o.wait = clock.Sleep
	}
	s := &Source{options: o, limit: rate.NewLimiter(rate.Limit(o.Rate/60), 1), turn: make(chan struct{}, 1)}
	first, err := s.ask(ctx)
	if err != nil {
		return nil, err
	}
	s.identity, s.current = first.identity, first
	return s, nil
}

// checkURL refuses to send a token where others can read it.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil {
		return fmt.Errorf("fulcio URL %q: expected https://HOST", redactURL(text))
	}
	loopback := u.Hostname() == "localhost"
	if ip := net.ParseIP(u.Hostname()); ip != nil {
		loopback = ip.IsLoopback()
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return fmt.Errorf("fulcio URL %s: the identity token would be sent where others can read it: use https", text)
	}
	return nil
}

// redactURL takes the password out of a URL that may not even be one.
func redactURL(text string) string {
	if at := strings.LastIndex(text, "@"); at >= 0 {
		return "..." + text[at:]
	}
	return text
}

// Identity returns who signs: the issuer and subject of the first certificate.
func (s *Source) Identity() signer.Identity { return s.identity }

// String keeps keys and tokens out of any message.
func (s *Source) String() string { return s.identity.String() }

// GoString does the same for %#v.
func (s *Source) GoString() string { return s.identity.String() }

// Credential returns the current certificate and its key, or the next one when
// it has been used long enough. Only one certificate is asked for at a time:
// callers that need it wait.
func (s *Source) Credential(ctx context.Context) (signer.Credential, error) {
	if c := s.usable(); c != nil {
		return c.credential(), nil
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return signer.Credential{}, ctx.Err()
	}
	if c := s.usable(); c != nil {
		return c.credential(), nil
	}
	next, err := s.ask(ctx)
	if err != nil {
		return signer.Credential{}, err
	}
	if next.identity != s.identity {
		return signer.Credential{}, fmt.Errorf("the next certificate names %s, the ones before it %s: whose token does %s hold now?", next.identity, s.identity, s.options.Tokens.Name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = next
	return next.credential(), nil
}

// usable returns the current certificate, nil when it is time for another.
func (s *Source) usable() *credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A clock that was set back says nothing about how old it is.
	if now := s.now(); now.Before(s.current.until) && !now.Before(s.current.asked) {
		return s.current
	}
	return nil
}

// now is the wall clock: the monotonic one stands still while the machine
// sleeps, and certificates do not.
func (s *Source) now() time.Time { return s.options.Now().Round(0) }

// ask asks for a certificate until there is one, or no use in asking.
func (s *Source) ask(ctx context.Context) (*credential, error) {
	for n := 1; ; n++ {
		c, err := s.askOnce(ctx)
		var b busy
		if err == nil || ctx.Err() != nil || !errors.As(err, &b) {
			return c, err
		}
		if n == attempts {
			return nil, fmt.Errorf("%w; asked %d times", err, n)
		}
		after := time.Second << (n - 1)
		if b.after > after {
			after = min(b.after, maxWait)
		}
		if err := s.options.wait(ctx, after); err != nil {
			return nil, err
		}
	}
}

// askOnce takes its turn under the rate first and reads the token after that:
// a token read earlier could expire while it waits.
func (s *Source) askOnce(ctx context.Context) (*credential, error) {
	now := s.now()
	slot := s.limit.ReserveN(now, 1)
	if d := slot.DelayFrom(now); d > 0 {
		if err := s.options.wait(ctx, d); err != nil {
			slot.CancelAt(s.now())
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	token, err := s.options.Tokens.read(ctx, s.now())
	if err != nil {
		return nil, err
	}
	pair, err := sign.NewEphemeralKeypair(nil) // ECDSA P-256
	if err != nil {
		return nil, fmt.Errorf("generating a key: %w", err)
	}
	asked := s.now()
	// sigstore-go sends its request without a context, and has no use for an
	// answer it would retry: both are done here.
	transport := roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := s.options.Transport.RoundTrip(r.WithContext(ctx))
		if dial := (*net.OpError)(nil); err != nil && s.current == nil && errors.As(err, &dial) && dial.Op == "dial" {
			return nil, err // it never answered: the URL may be wrong
		}
		if err != nil {
			return nil, busy{why: err.Error()}
		}
		if resp.StatusCode == http.StatusOK {
			return resp, nil
		}
		defer resp.Body.Close()
		return nil, refusal(resp, token)
	})
	der, err := sign.NewFulcio(&sign.FulcioOptions{BaseURL: strings.TrimRight(s.options.Fulcio, "/"), Timeout: -1, Transport: transport}).
		GetCertificate(ctx, pair, &sign.CertificateProviderOptions{IDToken: token})
	if err != nil {
		if ctxErr := ctx.Err(); ctxErr != nil {
			return nil, fmt.Errorf("asking %s for a certificate: %w", s.options.Fulcio, ctxErr)
		}
		return nil, fmt.Errorf("asking %s for a certificate: %w", s.options.Fulcio, without(token, err))
	}
	return s.accept(der, pair, asked)
}

// accept checks that a certificate is for the key that was made for it, and
// names somebody.
func (s *Source) accept(der []byte, pair *sign.EphemeralKeypair, asked time.Time) (*credential, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", s.options.Fulcio, err)
	}
	if pub, ok := pair.GetPublicKey().(*ecdsa.PublicKey); !ok || !pub.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("certificate of %s: it certifies another key than the one it was asked for: nothing is signed with it", s.options.Fulcio)
	}
	sum, err := certificate.SummarizeCertificate(cert)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: it names no signer: %w", s.options.Fulcio, err)
	}
	if sum.Issuer == "" || sum.SubjectAlternativeName == "" {
		return nil, fmt.Errorf("certificate of %s: it names no signer: issuer %q, subject %q", s.options.Fulcio, sum.Issuer, sum.SubjectAlternativeName)
	}
	// Both, because this machine's clock may be wrong either way.
	until := asked.Add(useFor)
	if end := cert.NotAfter.Add(-margin); end.Before(until) {
		until = end
	}
	if now := s.now(); !now.Before(until) {
		return nil, fmt.Errorf("the certificate that %s has just issued is valid from %s to %s, and by this machine's clock it is %s: is the clock right?",
			s.options.Fulcio, stamp(cert.NotBefore), stamp(cert.NotAfter), stamp(now))
	}
	return &credential{pair: pair, der: der, asked: asked, until: until, notAfter: cert.NotAfter, now: s.now,
		identity: signer.Identity{Kind: signer.Keyless, Subject: sum.SubjectAlternativeName, Issuer: sum.Issuer}}, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// credential is a certificate and its key: the signer.Signer of both.
type credential struct {
	identity signer.Identity
	pair     *sign.EphemeralKeypair
	der      []byte
	asked    time.Time
	until    time.Time
	notAfter time.Time
	now      func() time.Time
}

func (c *credential) credential() signer.Credential {
	return signer.Credential{Signer: c, Certificate: c.der, Until: c.until}
}

// Identity implements signer.Signer.
func (c *credential) Identity() signer.Identity { return c.identity }

// PublicKey implements signer.Signer.
func (c *credential) PublicKey() crypto.PublicKey { return c.pair.GetPublicKey() }

// Sign implements signer.Signer. Nothing is signed after the certificate's end:
// no verifier would accept it.
func (c *credential) Sign(ctx context.Context, message []byte) ([]byte, error) {
	if now := c.now(); now.After(c.notAfter) {
		return nil, fmt.Errorf("the certificate of %s expired at %s", c.identity, stamp(c.notAfter))
	}
	sig, _, err := c.pair.SignData(ctx, message)
	return sig, err
}

// String keeps the key out of any message.
func (c *credential) String() string { return c.identity.String() }

// GoString does the same for %#v.
func (c *credential) GoString() string { return c.identity.String() }

// busy is the answer of a Fulcio that may give a better one later.
type busy struct {
	why   string
	after time.Duration // as it asks for; 0: it does not say
}

func (b busy) Error() string { return b.why }

// refusal turns an answer that is not what was asked for into an error, whose
// text does not have the secret that was sent along.
func refusal(resp *http.Response, secret string) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody)) // what can be read of it
	said := strings.TrimSpace(strings.ReplaceAll(string(body), secret, redacted))
	if len(said) > maxSaid {
		said = said[:maxSaid] + "..."
	}
	why := fmt.Sprintf("it answers %s: %s", resp.Status, said)
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode < http.StatusInternalServerError {
		return errors.New(why)
	}
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		seconds = 0
	}
	return busy{why, min(time.Duration(seconds)*time.Second, maxWait)}
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// without returns an error whose text does not have the secret in it.
func without(secret string, err error) error {
	text := err.Error()
	var b busy
	temporary := errors.As(err, &b)
	if !strings.Contains(text, secret) {
		return err
	}
	text = strings.ReplaceAll(text, secret, redacted)
	if temporary {
		return busy{text, b.after}
	}
	return errors.New(text)
}
