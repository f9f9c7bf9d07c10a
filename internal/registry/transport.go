package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/reseal/reseal/internal/clock"
)

const (
	maxAttempts   = 5
	firstBackoff  = 200 * time.Millisecond
	maxBackoff    = 10 * time.Second
	maxRetryAfter = time.Minute

	// attemptTimeout bounds one attempt, reading the answer included, so that
	// a host that stops in the middle of an answer does not hold a place forever.
	attemptTimeout = 2 * time.Minute

	// maxErrorBody bounds the body of an answer that is no success, in bytes.
	maxErrorBody = 64 << 10
)

// call travels in the context from do to the wire, below go-containerregistry.
type call struct {
	replay bool
	prompt bool // it is sent at once, once or not at all
	limit  int64
	unsure bool          // set by the wire: a write may have been acted upon
	wait   time.Duration // set by the wire: a prompt one was not acted upon, and may be after that
}

type callKey struct{}

func callOf(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{limit: maxErrorBody}
}

// wire sends requests: bounded per host, repeated where that is safe, with the
// answer read in full. It is below authentication, so that pings and tokens
// are repeated too, and so that a request sent anew after a token expired has
// its body again (go-containerregistry sends it with the body used up).
type wire struct {
	base    http.RoundTripper
	perHost int
	sent    atomic.Int64
	retried atomic.Int64
	sleep   func(context.Context, time.Duration) error
	now     func() time.Time

	mu    sync.Mutex
	hosts map[string]*host
}

func newWire(base http.RoundTripper, perHost int) *wire {
	return &wire{base: base, perHost: perHost, sleep: clock.Sleep, now: time.Now, hosts: map[string]*host{}}
}

// host holds back requests to one host.
type host struct {
	slots chan struct{}

	mu    sync.Mutex
	until time.Time // the host asked for silence until then
}

func (w *wire) host(name string) *host {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.hosts[name]
	if h == nil {
		h = &host{slots: make(chan struct{}, w.perHost)}
		w.hosts[name] = h
	}
	return h
}

func (h *host) silence(until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if until.After(h.until) {
		h.until = until
	}
}

func (h *host) silent(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.until.Sub(now)
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		defer req.Body.Close() // every attempt opens its own, see attempt
	}
	ctx, fate, h := req.Context(), callOf(req.Context()), w.host(req.URL.Host)
	if d := h.silent(w.now()); d > 0 {
		if fate.prompt {
			fate.wait = d
			return nil, notSent{ErrThrottled}
		}
		if err := w.sleep(ctx, d); err != nil {
			return nil, notSent{err}
		}
	}
	for try := 1; ; try++ {
		resp, err := w.attempt(req, h, fate.limit)
		again, unsure := judge(isWrite(req), fate.replay, resp, err)
		if unsure {
			fate.unsure = true
		}
		if !again || try == maxAttempts || ctx.Err() != nil {
			return resp, err
		}
		d := w.delay(try, resp)
		if resp != nil && resp.StatusCode == http.StatusTooManyRequests {
			h.silence(w.now().Add(d))
		}
		w.retried.Add(1) // now, so that who watches sees that it waits
		if fate.prompt {
			fate.wait = d
			return resp, err
		}
		if w.sleep(ctx, d) != nil {
			return resp, err
		}
	}
}

func isWrite(req *http.Request) bool {
	return req.Method != http.MethodGet && req.Method != http.MethodHead
}

// judge decides whether to send a request again, and whether this attempt, a
// write, may have been acted upon without our learning of it.
func judge(write, replay bool, resp *http.Response, err error) (again, unsure bool) {
	if err != nil {
		sent := !neverSent(err)
		return !permanent(err) && (!sent || !write || replay), write && sent
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests:
		return true, false // refused before acting
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		// A proxy says so too when the registry behind it was cut off while acting.
		return !write || replay, write
	case http.StatusInternalServerError:
		return false, write
	}
	return false, false
}

// attempt sends a request once. The answer's body is in memory, at most one
// byte longer than the limit.
func (w *wire) attempt(req *http.Request, h *host, limit int64) (*http.Response, error) {
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-req.Context().Done():
		return nil, notSent{req.Context().Err()}
	}
	ctx, cancel := context.WithTimeout(req.Context(), attemptTimeout)
	defer cancel()
	r := req.Clone(ctx)
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, notSent{err}
		}
		r.Body = body
	}
	resp, err := w.base.RoundTrip(r)
	if err == nil || !neverSent(err) {
		w.sent.Add(1)
	}
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		limit = maxErrorBody
	}
	limit = max(0, min(limit, math.MaxInt64-1))
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil && !isWrite(req) {
		return nil, err // cut off: as good as a reset
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	resp.Request = req
	return resp, nil
}

func (w *wire) delay(try int, resp *http.Response) time.Duration {
	d := backoff(try)
	if resp != nil {
		d = max(d, w.retryAfter(resp.Header.Get("Retry-After")))
	}
	return d
}

func backoff(try int) time.Duration {
	d := min(firstBackoff<<(try-1), maxBackoff)
	return d/2 + rand.N(d) // 50 to 150 %, so that clients do not come back as one
}

// retryAfter reads the header in both its forms (RFC 9110 section 10.2.3).
func (w *wire) retryAfter(value string) time.Duration {
	if seconds, err := strconv.Atoi(value); err == nil {
		if seconds > int(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(at.Sub(w.now()), maxRetryAfter)
	}
	return 0
}

// notSent marks an error from before the first byte.
type notSent struct{ error }

func (e notSent) Unwrap() error { return e.error }

// neverSent reports whether a request surely did not reach the registry. In
// doubt it did.
func neverSent(err error) bool {
	var before notSent
	var op *net.OpError
	return errors.As(err, &before) || isPlain(err) || isCertificate(err) ||
		errors.As(err, &op) && op.Op == "dial"
}

// permanent reports whether sending again will end the same way.
func permanent(err error) bool {
	var dns *net.DNSError
	return isPlain(err) || isCertificate(err) || errors.As(err, &dns) && dns.IsNotFound
}

// isPlain reports whether the other side does not speak TLS. The second form
// is what http.Client makes of the first.
func isPlain(err error) bool {
	var record tls.RecordHeaderError
	return errors.As(err, &record) || errors.Is(err, http.ErrSchemeMismatch)
}

func isCertificate(err error) bool {
	var bad *tls.CertificateVerificationError
	return errors.As(err, &bad)
}

// pings answers a second GET /v2/ on a host from memory. What it tells, the
// scheme and where tokens are to be had, is the same for all repositories, but
// go-containerregistry asks anew for each.
type pings struct {
	inner http.RoundTripper
	locks *keyed

	mu   sync.Mutex
	memo map[string]pong // by scheme://host
}

type pong struct {
	status int
	header http.Header
}

func newPings(inner http.RoundTripper, locks *keyed) *pings {
	return &pings{inner: inner, locks: locks, memo: map[string]pong{}}
}

// RoundTrip implements http.RoundTripper.
func (p *pings) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method != http.MethodGet || req.URL.Path != "/v2/" {
		return p.inner.RoundTrip(req)
	}
	key := req.URL.Scheme + "://" + req.URL.Host
	unlock, err := p.locks.lock(req.Context(), "ping\x00"+key)
	if err != nil {
		return nil, notSent{err}
	}
	defer unlock()
	if resp, err := p.remembered(req, key); resp != nil || err != nil {
		return resp, err
	}
	resp, err := p.inner.RoundTrip(req)
	if err == nil && (resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusUnauthorized) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.memo[key] = pong{resp.StatusCode, resp.Header.Clone()}
	}
	return resp, err
}

func (p *pings) remembered(req *http.Request, key string) (*http.Response, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if was, ok := p.memo[key]; ok {
		return &http.Response{
			StatusCode: was.status, Status: http.StatusText(was.status), Header: was.header.Clone(),
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody, Request: req,
		}, nil
	}
	if _, ok := p.memo["http://"+req.URL.Host]; ok {
		return nil, http.ErrSchemeMismatch // settled: https was tried first, and failed
	}
	return nil, nil
}
