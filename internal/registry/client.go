// Package registry is the one adapter to OCI registries.
//
// It speaks exactly the requests of the OCI distribution specification 1.1
// that discovering and publishing signatures needs, and no more of them than
// needed. Authentication (pings, challenges, tokens, credential helpers, https
// or http) is go-containerregistry's; the requests are this package's own.
//
// What callers may rely on:
//
//   - Content is what its digest says. The digest of every manifest and blob
//     is computed here and compared with the one asked for or announced.
//   - Every answer is bounded in size, every listing in length, and a listing
//     that goes in circles is refused.
//   - "Not found" comes from a registry: a web page with status 404 is an error.
//   - One ping per registry and one token per repository and access, over
//     shared connections, with at most [Options].PerHost requests in flight
//     per host. When a host answers 429, all requests to it wait.
//   - A request is sent again only when that is safe. A write whose outcome is
//     unknown is reported as [ErrAmbiguous], and the caller looks at the world.
//   - No credential, token or query string of a URL is in an error's text, and
//     the errors underneath, which may have them, are out of reach.
//   - A client made by [ReadOnly] runs the same code and sends no write.
//
// Tags and the referrers fallback index are read-modify-write, and registries
// have no compare-and-swap: hold [Client.Serialise] around every change to the
// signatures of one digest. Writers in other processes are not kept out; read
// back what was written. The write of a tag does not wait for a host that wants
// silence: [Anew] waits, and reads the tag again.
package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	defaultPerHost = 8

	// maxManifest bounds a manifest, in bytes. Registries are only required to
	// take 4 MiB (distribution-spec, "Pushing Manifests").
	maxManifest = 8 << 20

	// maxPage bounds one page of a listing of tags or repositories, in bytes.
	maxPage = 8 << 20

	// maxPushed bounds the memory of blobs already uploaded, in entries.
	maxPushed = 4096
)

// Options configures a Client. The zero value is good.
type Options struct {
	// Keychain finds credentials. Default: authn.DefaultKeychain, that is
	// what docker login and podman login left and the helpers they name.
	Keychain authn.Keychain
	// Transport sends requests. Default: a tuned clone of http.DefaultTransport.
	Transport http.RoundTripper
	// UserAgent goes before go-containerregistry's own in each request.
	UserAgent string
	// PerHost is how many requests may be in flight to one host. Default 8.
	PerHost int
}

// Client talks to registries. It is safe for concurrent use. Wherever a method
// takes repo, that is "host[:port]/path".
type Client struct {
	*core
	would *ledger // not nil in a rehearsal
}

// core is what a client and its read-only twin share.
type core struct {
	keychain authn.Keychain
	wire     *wire
	outer    http.RoundTripper // wire, with pings remembered and a user agent
	locks    *keyed

	mu        sync.Mutex
	sessions  map[sessionKey]http.RoundTripper
	referrers map[string]bool     // by repository: is there a referrers API
	twoStep   map[string]bool     // by registry: POST takes no content
	pushed    map[string]struct{} // "repository@digest" of blobs uploaded
}

// New returns a client.
func New(o Options) *Client {
	if o.Keychain == nil {
		o.Keychain = authn.DefaultKeychain
	}
	if o.PerHost <= 0 {
		o.PerHost = defaultPerHost
	}
	if o.Transport == nil {
		o.Transport = defaultTransport(o.PerHost)
	}
	locks := newKeyed()
	w := newWire(o.Transport, o.PerHost)
	return &Client{core: &core{
		keychain:  o.Keychain,
		wire:      w,
		outer:     transport.NewUserAgent(newPings(w, locks), o.UserAgent),
		locks:     locks,
		sessions:  map[sessionKey]http.RoundTripper{},
		referrers: map[string]bool{},
		twoStep:   map[string]bool{},
		pushed:    map[string]struct{}{},
	}}
}

func defaultTransport(perHost int) http.RoundTripper {
	base, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return http.DefaultTransport
	}
	t := base.Clone()
	// Without this all but two connections are closed after each request.
	t.MaxIdleConnsPerHost = perHost
	t.MaxIdleConns = 0
	t.ResponseHeaderTimeout = time.Minute
	return t
}

// Requests returns how many requests were sent so far, pings, tokens and
// repetitions included.
func (c *Client) Requests() int64 { return c.wire.sent.Load() }

// Retries returns how many of them were sent again, because the registry was
// overloaded or the connection broke.
func (c *Client) Retries() int64 { return c.wire.retried.Load() }

// place is a repository, or with an empty path a registry.
type place struct {
	name     string // as the caller gave it, for messages and results
	registry name.Registry
	repo     name.Repository
}

func parseRepository(repo string) (place, error) {
	host, _, found := strings.Cut(repo, "/")
	// go-containerregistry would take "acme/app" for one on Docker Hub.
	if !found || (host != "localhost" && !strings.ContainsAny(host, ".:")) {
		return place{}, &Error{Op: "parse", Repository: repo, Err: fmt.Errorf("%w: write the repository as host[:port]/path", ErrMalformed)}
	}
	r, err := name.NewRepository(repo, name.WeakValidation)
	if err != nil {
		return place{}, &Error{Op: "parse", Repository: repo, Err: malformed(err)}
	}
	return place{name: repo, registry: r.Registry, repo: r}, nil
}

func parseRegistry(registry string) (place, error) {
	r, err := name.NewRegistry(registry, name.StrictValidation)
	if err != nil {
		return place{}, &Error{Op: "parse", Repository: registry, Err: malformed(err)}
	}
	return place{name: registry, registry: r}, nil
}

func (p place) isRegistry() bool { return p.repo.RepositoryStr() == "" }

// key is the same for all spellings of one place.
func (p place) key() string {
	if p.isRegistry() {
		return p.registry.Name()
	}
	return p.repo.Name()
}

func (p place) resource() authn.Resource {
	if p.isRegistry() {
		return p.registry
	}
	return p.repo
}

func (p place) scope(a access) string {
	if p.isRegistry() {
		return p.registry.Scope(string(a))
	}
	return p.repo.Scope(string(a))
}

// access is what a token allows. Each of accesses includes those before it.
type access string

const (
	pull  = access(transport.PullScope)
	push  = access(transport.PushScope)
	erase = access(transport.DeleteScope)
)

type sessionKey struct {
	place  string
	access access
}

// session returns a transport that authenticates to a place. A session with
// wider access serves as well, so that reading what was just written costs no
// second token.
func (c *core) session(ctx context.Context, p place, a access) (http.RoundTripper, error) {
	if s := c.cached(p, a); s != nil {
		return s, nil
	}
	unlock, err := c.locks.lock(ctx, "session\x00"+p.key()+"\x00"+string(a))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if s := c.cached(p, a); s != nil {
		return s, nil
	}
	auth, err := authn.Resolve(ctx, c.keychain, p.resource())
	if err != nil {
		return nil, fmt.Errorf("finding credentials: %w", err)
	}
	s, err := transport.NewWithContext(ctx, p.registry, auth, c.outer, []string{p.scope(a)})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions[sessionKey{p.key(), a}] = s
	return s, nil
}

func (c *core) cached(p place, a access) http.RoundTripper {
	order := []access{pull, push, erase}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, wider := range order[slices.Index(order, a):] {
		if s := c.sessions[sessionKey{p.key(), wider}]; s != nil {
			return s
		}
	}
	return nil
}

// forget drops the sessions of a place, so that the next request asks the
// keychain again: a long-running process outlives a login.
func (c *core) forget(p place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range []access{pull, push, erase} {
		delete(c.sessions, sessionKey{p.key(), a})
	}
}

// request is one request to a registry.
type request struct {
	op     string // for messages: "get manifest"
	ref    string // for messages: tag or digest
	at     place
	access access

	method      string
	path        string   // below /v2/
	url         *url.URL // instead of path, where the registry named the URL
	query       url.Values
	accept      string
	ifNoneMatch string
	contentType string
	body        []byte

	want   []int // the statuses that are no error
	limit  int64 // of the answer's body, in bytes
	replay bool  // sending it twice does no more than sending it once
	prompt bool  // sending it later may undo what others did meanwhile: it is not waited with
}

// answer is what came back, read in full.
type answer struct {
	status int
	header http.Header
	body   []byte
	url    *url.URL // after redirects
}

// do sends a request. When the status is not a wanted one, the error is an
// [*Error] and the answer is returned beside it.
func (c *core) do(ctx context.Context, q request) (answer, error) {
	fate := &call{replay: q.replay, prompt: q.prompt, limit: q.limit}
	a, err := c.send(context.WithValue(ctx, callKey{}, fate), q, fate)
	var e *Error
	if errors.As(err, &e) && !fate.unsure {
		e.wait = fate.wait
	}
	return a, err
}

func (c *core) send(ctx context.Context, q request, fate *call) (answer, error) {
	session, err := c.session(ctx, q.at, q.access)
	if err != nil {
		return answer{}, q.failed(err, false)
	}
	req, err := q.build(ctx)
	if err != nil {
		return answer{}, q.failed(err, false)
	}
	// The client follows redirects, as blob downloads need. Credentials go to
	// the registry's own host only, the session sees to that.
	client := http.Client{Transport: session}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, q.failed(err, fate.unsure)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body) // from memory, see wire.attempt
	if err != nil {
		return answer{}, q.failed(err, fate.unsure)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: body, url: resp.Request.URL}
	if a.status == http.StatusUnauthorized {
		c.forget(q.at)
	}
	return a, q.check(a, fate.unsure)
}

func (q request) build(ctx context.Context) (*http.Request, error) {
	u := q.url
	if u == nil {
		// The session corrects the scheme to the one the ping settled on.
		u = &url.URL{Scheme: "https", Host: q.at.registry.RegistryStr(), Path: "/v2/" + q.path}
	}
	if len(q.query) > 0 {
		with := *u
		values := with.Query()
		for k, v := range q.query {
			values[k] = v
		}
		with.RawQuery = values.Encode()
		u = &with
	}
	var body io.Reader
	if q.body != nil {
		body = bytes.NewReader(q.body)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if q.accept != "" {
		req.Header.Set("Accept", q.accept)
	}
	if q.ifNoneMatch != "" {
		req.Header.Set("If-None-Match", q.ifNoneMatch)
	}
	if q.contentType != "" {
		req.Header.Set("Content-Type", q.contentType)
	}
	return req, nil
}

func (q request) check(a answer, unsure bool) error {
	if !slices.Contains(q.want, a.status) {
		return q.refused(a, unsure)
	}
	if a.status == http.StatusNotFound && a.isPage() {
		return q.refused(a, unsure)
	}
	if int64(len(a.body)) > q.limit && a.status/100 == 2 && q.method == http.MethodGet {
		return q.bad(ErrTooLarge, fmt.Sprintf("the answer has more than %d bytes", q.limit))
	}
	return nil
}
