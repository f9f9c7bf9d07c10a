// Package sandbox is a software supply chain in one process on loopback: an
// OCI registry with the referrers API, a certificate authority with SCTs,
// Rekor v1 and v2, a timestamp authority, a web root for a TUF repository,
// and a clock that can lie in the past. Actors sign in it as cosign would;
// thieves forge.
//
// What it guarantees: everything listens on 127.0.0.1 only; what an Actor
// signs with the promised proofs is accepted by unmodified verifiers (cosign,
// sigstore-go) that are given TrustedRoot; what an Actor forges carries no
// time that they accept; whatever the sandbox stamps, it stamps with its
// Clock.
//
// What it does not: it is not for production. Keys live in memory and die
// with the process, nobody authenticates, the authority certifies whoever
// asks, the logs and the registry forget everything on Close and have no
// witness. The CT log is a signing key without entries. Certificates come from
// World.Issue, and over HTTP for tokens that Fulcio.Token issued.
package sandbox

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	rekortiles "github.com/sigstore/rekor-tiles/v2/pkg/client"
	rekorwrite "github.com/sigstore/rekor-tiles/v2/pkg/client/write"
	rekorclient "github.com/sigstore/rekor/pkg/client"
	rekorapi "github.com/sigstore/rekor/pkg/generated/client"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
)

const (
	// defaultHistory is how far back the authorities exist by default.
	defaultHistory = 90 * 24 * time.Hour
	// requestTimeout bounds what actors ask of logs and timestamp authority.
	requestTimeout = 30 * time.Second
	// loopback is both where everything listens and the origin of checkpoints:
	// verifiers expect that to be the host name of the log's URL.
	loopback = "127.0.0.1"
)

// Options configure a World. The zero value is usable.
type Options struct {
	// Dir is the web root of the TUF repository; it is created when missing.
	// Empty means a temporary directory, removed by Close.
	Dir string
	// Start is where the validity of every authority (CA, logs, timestamp
	// authority) starts; it must lie before any time the clock is rewound to.
	// Default: 90 days ago.
	Start time.Time
}

// Address is where a service of the sandbox listens.
type Address struct {
	Name string
	URL  string
}

// World is a running sandbox.
type World struct {
	clock   Clock
	start   time.Time
	dir     string
	tempDir bool

	authority *authority
	fulcio    *Fulcio
	rekor1    *rekorV1
	rekor2    *rekorV2
	tsa       *timestampAuthority

	registry, rekorURL, rekorV2URL, tsaBase, tufURL, fulcioURL string
	addresses                                                  []Address
	trustedRoot                                                []byte // JSON

	servers  []*http.Server
	serving  sync.WaitGroup
	mu       sync.Mutex
	serveErr error
	close    func() error

	// What actors sign with. Built here, complete, because sigstore-go fills
	// in missing options on first use without a lock.
	rekorClient  *rekorapi.Rekor
	transparency map[Proof]sign.Transparency
	timestamps   *sign.TimestampAuthority

	writers stripedMutex
}

// Start starts a sandbox. Everything listens on 127.0.0.1, on ports of the
// system's choice. The context bounds the start, not the life of the World.
func Start(ctx context.Context, o Options) (_ *World, err error) {
	w := &World{start: o.Start, dir: o.Dir}
	w.close = sync.OnceValue(w.shutdown)
	defer func() {
		if err != nil {
			err = fmt.Errorf("sandbox: starting: %w", err)
			if closeErr := w.Close(); closeErr != nil {
				err = errors.Join(err, closeErr)
			}
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if w.start.IsZero() {
		w.start = time.Now().Add(-defaultHistory)
	}
	// Certificates know seconds; authorities in the trusted root must not
	// start later than they do.
	w.start = w.start.UTC().Truncate(time.Second)
	if w.start.After(time.Now()) {
		return nil, fmt.Errorf("the authorities would start in the future, at %s", w.start.Format(time.RFC3339))
	}
	if err := w.openDir(); err != nil {
		return nil, err
	}
	if err := w.createAuthorities(ctx); err != nil {
		return nil, err
	}
	if err := w.listen(ctx); err != nil {
		return nil, err
	}
	if w.trustedRoot, err = w.makeTrustedRoot(); err != nil {
		return nil, fmt.Errorf("trusted root: %w", err)
	}
	if err := w.createClients(); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *World) openDir() error {
	if w.dir == "" {
		dir, err := os.MkdirTemp("", "reseal-sandbox-")
		if err != nil {
			return fmt.Errorf("web root: %w", err)
		}
		w.dir, w.tempDir = dir, true
		return nil
	}
	dir, err := filepath.Abs(w.dir)
	if err != nil {
		return fmt.Errorf("web root: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("web root: %w", err)
	}
	w.dir = dir
	return nil
}

func (w *World) createAuthorities(ctx context.Context) error {
	var err error
	if w.authority, err = newAuthority(&w.clock, w.start); err != nil {
		return fmt.Errorf("certificate authority: %w", err)
	}
	if w.fulcio, err = newFulcio(w.authority); err != nil {
		return fmt.Errorf("fulcio: %w", err)
	}
	if w.tsa, err = newTimestampAuthority("sandbox tsa", w.start, w.clock.Now); err != nil {
		return fmt.Errorf("timestamp authority: %w", err)
	}
	key, err := newSigningKey()
	if err != nil {
		return fmt.Errorf("rekor v1: %w", err)
	}
	w.rekor1 = &rekorV1{clock: &w.clock, key: key, host: loopback}
	if w.rekor2, err = newRekorV2(ctx, loopback); err != nil {
		return fmt.Errorf("rekor v2: %w", err)
	}
	return nil
}

// listen starts every server.
func (w *World) listen(ctx context.Context) error {
	for _, s := range []struct {
		name    string
		handler http.Handler
		url     *string
	}{
		{"registry", newRegistryServer(), &w.registry},
		{"rekor v1", w.rekor1.handler(), &w.rekorURL},
		{"rekor v2", w.rekor2.handler(), &w.rekorV2URL},
		{"tsa", w.tsa.handler(), &w.tsaBase},
		{"fulcio", w.fulcio.handler(), &w.fulcioURL},
		{"tuf", webRoot(w.dir), &w.tufURL},
	} {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(loopback, "0"))
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		srv := &http.Server{
			Handler:           s.handler,
			ReadHeaderTimeout: 10 * time.Second,
			IdleTimeout:       2 * time.Minute,
			ErrorLog:          log.New(io.Discard, "", 0),
		}
		w.servers = append(w.servers, srv)
		w.serving.Go(func() {
			if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				w.mu.Lock()
				w.serveErr = errors.Join(w.serveErr, fmt.Errorf("serving %s: %w", s.name, err))
				w.mu.Unlock()
			}
		})
		*s.url = "http://" + ln.Addr().String()
		w.addresses = append(w.addresses, Address{Name: s.name, URL: *s.url})
	}
	w.registry = w.registry[len("http://"):]
	return nil
}

// webRoot serves a directory read-only.
func webRoot(dir string) http.Handler {
	files := http.FileServer(http.Dir(dir))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "read only", http.StatusMethodNotAllowed)
			return
		}
		files.ServeHTTP(w, r)
	})
}

func (w *World) createClients() error {
	var err error
	w.rekorClient, err = rekorclient.GetRekorClient(w.rekorURL, rekorclient.WithRetryCount(0), rekorclient.WithNoDisableKeepalives(true))
	if err != nil {
		return fmt.Errorf("rekor v1 client: %w", err)
	}
	v2, err := rekorwrite.NewWriter(w.rekorV2URL, rekortiles.WithTimeout(requestTimeout))
	if err != nil {
		return fmt.Errorf("rekor v2 client: %w", err)
	}
	w.transparency = map[Proof]sign.Transparency{
		RekorV1: sign.NewRekor(&sign.RekorOptions{Version: 1, BaseURL: w.rekorURL, Timeout: requestTimeout, Client: w.rekorClient.Entries}),
		RekorV2: sign.NewRekor(&sign.RekorOptions{Version: 2, BaseURL: w.rekorV2URL, Timeout: requestTimeout, ClientV2: v2}),
	}
	w.timestamps = sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: w.TSAURL(), Timeout: requestTimeout})
	return nil
}

// Close stops every listener and connection, and removes the web root if it
// was temporary. Further calls return what the first one did.
func (w *World) Close() error { return w.close() }

func (w *World) shutdown() error {
	var errs []error
	for _, s := range w.servers {
		if err := s.Close(); err != nil {
			errs = append(errs, err)
		}
	}
	w.serving.Wait()
	w.mu.Lock()
	errs = append(errs, w.serveErr)
	w.mu.Unlock()
	if w.tempDir {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sandbox: closing: %w", err)
	}
	return nil
}

// Clock is the clock of every authority of the sandbox.
func (w *World) Clock() *Clock { return &w.clock }

// Registry is the registry's host and port, as it stands in image references.
func (w *World) Registry() string { return w.registry }

// Addresses lists the services and where they listen.
func (w *World) Addresses() []Address { return append([]Address(nil), w.addresses...) }

// TUFURL is the URL of the TUF repository's web root.
func (w *World) TUFURL() string { return w.tufURL }

// TUFDir is the directory served at TUFURL.
func (w *World) TUFDir() string { return w.dir }

// TSAURL is the endpoint of the timestamp authority.
func (w *World) TSAURL() string { return w.tsaBase + timestampPath }

// RekorURL is the base URL of the Rekor v1 log.
func (w *World) RekorURL() string { return w.rekorURL }

// RekorV2URL is the base URL of the Rekor v2 log.
func (w *World) RekorV2URL() string { return w.rekorV2URL }

// FulcioURL is the base URL of Fulcio.
func (w *World) FulcioURL() string { return w.fulcioURL }

// Fulcio is the front door of the certificate authority.
func (w *World) Fulcio() *Fulcio { return w.fulcio }

// Issue issues a code-signing certificate with an embedded SCT, valid for ten
// minutes from the sandbox clock's now; the SCT has the same time.
func (w *World) Issue(ctx context.Context, p Principal, pub crypto.PublicKey) (*x509.Certificate, error) {
	cert, err := w.authority.issue(ctx, p, pub)
	if err != nil {
		return nil, fmt.Errorf("sandbox: issuing certificate: %w", err)
	}
	return cert, nil
}

// CAChain is the chain above the certificates of Issue: intermediate, root.
func (w *World) CAChain() []*x509.Certificate {
	return []*x509.Certificate{w.authority.intermediate, w.authority.root}
}

// TrustedRoot is what a verifier needs to trust this sandbox, and no other.
// Each call returns a copy of its own.
func (w *World) TrustedRoot() (*root.TrustedRoot, error) {
	tr, err := root.NewTrustedRootFromJSON(w.trustedRoot)
	if err != nil {
		return nil, fmt.Errorf("sandbox: trusted root: %w", err)
	}
	return tr, nil
}

// TrustedRootJSON is the trusted root as a Sigstore trusted_root.json. Every
// call returns the same bytes.
func (w *World) TrustedRootJSON() ([]byte, error) {
	return bytes.Clone(w.trustedRoot), nil
}

func (w *World) makeTrustedRoot() ([]byte, error) {
	log := func(key *signingKey, url string) *root.TransparencyLog {
		return &root.TransparencyLog{
			BaseURL:             url,
			ID:                  key.id[:],
			ValidityPeriodStart: w.start,
			HashFunc:            crypto.SHA256,
			PublicKey:           key.Public(),
			SignatureHashFunc:   crypto.SHA256,
		}
	}
	tr, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{
			Root:                w.authority.root,
			Intermediates:       []*x509.Certificate{w.authority.intermediate},
			ValidityPeriodStart: w.start,
			URI:                 w.fulcioURL,
		}},
		map[string]*root.TransparencyLog{
			w.authority.ct.hexID(): log(w.authority.ct, "https://ct.sandbox.invalid"), // not served
		},
		[]root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{
			Root:                w.tsa.root,
			Leaf:                w.tsa.leaf,
			ValidityPeriodStart: w.start,
			URI:                 w.TSAURL(),
		}},
		map[string]*root.TransparencyLog{
			w.rekor1.key.hexID(): log(w.rekor1.key, w.rekorURL),
			w.rekor2.key.hexID(): log(w.rekor2.key, w.rekorV2URL),
		})
	if err != nil {
		return nil, err
	}
	raw, err := tr.MarshalJSON()
	if err != nil {
		return nil, err
	}
	// protojson puts spaces in at random: through encoding/json the same
	// content has the same bytes.
	var compact, out bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return nil, err
	}
	if err := json.Indent(&out, compact.Bytes(), "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// lockDigest makes writers to one digest take turns, by whichever name they
// know the registry.
func (w *World) lockDigest(ref name.Digest) (unlock func()) {
	return w.writers.lock(ref.RepositoryStr() + "@" + ref.DigestStr())
}

// stripedMutex is a mutex per key in bounded memory; keys may share one.
type stripedMutex struct {
	once    sync.Once
	seed    maphash.Seed
	stripes [256]sync.Mutex
}

// lock locks a key and returns how to unlock it. A goroutine may hold one key
// at a time.
func (m *stripedMutex) lock(key string) (unlock func()) {
	m.once.Do(func() { m.seed = maphash.MakeSeed() })
	s := &m.stripes[maphash.String(m.seed, key)%uint64(len(m.stripes))]
	s.Lock()
	return s.Unlock
}
