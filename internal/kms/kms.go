// Package kms signs with keys that a key management service holds, through
// Sigstore's providers.
//
// A provider is built in unless a build tag leaves it out (nokms_aws,
// nokms_azure, nokms_gcp, nokms_hashivault). Any other scheme is a program,
// sigstore-kms-SCHEME, that is run only when the configuration allows it by
// name.
package kms

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/reseal/reseal/internal/clock"
	"github.com/reseal/reseal/signer"
)

const (
	// callTimeout bounds one call of the service. Not every provider heeds a
	// context: one that does not answer is left behind.
	callTimeout = 30 * time.Second
	// attempts is how often a call is made while the service is too busy.
	attempts = 7
	// firstWait is the longest wait before the second attempt; it doubles up to
	// lastWait.
	firstWait = 250 * time.Millisecond
	lastWait  = 8 * time.Second
)

// Options say what may be used, and how.
type Options struct {
	// Plugins are the schemes for which a program sigstore-kms-SCHEME may be
	// run from the PATH.
	Plugins []string

	timeout time.Duration                              // of one call; 0: callTimeout
	wait    func(context.Context, time.Duration) error // nil: really waits
}

// Key is a key in a key management service. It is safe for concurrent use, and
// prints as its fingerprint.
type Key struct {
	reference string // as it is opened
	shown     string // as it is told
	identity  signer.Identity
	public    crypto.PublicKey
	verifier  signature.Verifier
	remote    kms.SignerVerifier
	options   Options
}

// Redact returns a reference without what may be a password in it.
func Redact(reference string) string {
	scheme, rest, ok := strings.Cut(reference, "://")
	if at := strings.LastIndex(rest, "@"); ok && at >= 0 {
		return scheme + "://..." + rest[at:]
	}
	return reference
}

// Is reports whether a reference names a key by a URI, SCHEME://..., rather
// than a file.
func Is(reference string) bool { return strings.Contains(reference, "://") }

// Builtin lists the schemes that need no program.
func Builtin() []string {
	var out []string
	for _, prefix := range kms.SupportedProviders() {
		out = append(out, strings.TrimSuffix(prefix, "://"))
	}
	slices.Sort(out)
	return out
}

// plugin is what the name of a plugin may be: nothing that leads out of the
// PATH.
var plugin = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

// leftOut are the providers that a build may be without.
var leftOut = []string{"awskms", "azurekms", "gcpkms", "hashivault", "openbao"}

// permit refuses a reference whose provider is neither built in nor allowed.
func permit(reference string, plugins []string) error {
	scheme, _, _ := strings.Cut(reference, "://")
	reference = Redact(reference)
	switch {
	case slices.Contains(Builtin(), scheme):
		return nil
	case !plugin.MatchString(scheme):
		return fmt.Errorf("KMS key %q: there is no provider %q", reference, scheme)
	case slices.Contains(plugins, scheme):
		return nil
	case slices.Contains(leftOut, scheme):
		return fmt.Errorf("KMS key %s: this reseal was built without %s (a nokms build tag): use another build", reference, scheme)
	}
	return fmt.Errorf("KMS key %s: %s is not built in (%s are), and the plugin sigstore-kms-%s may not be run: "+
		"allow it with \"kms_plugins: [%s]\" in config.yaml of the home, or use another reference", reference, scheme, strings.Join(Builtin(), ", "), scheme, scheme)
}

// Open finds a key and asks for its public half, once.
func Open(ctx context.Context, reference string, o Options) (*Key, error) {
	if err := permit(reference, o.Plugins); err != nil {
		return nil, err
	}
	k := &Key{reference: reference, shown: Redact(reference), options: o}
	var err error
	if k.remote, k.public, err = k.fetch(ctx); err != nil {
		return nil, err
	}
	if k.identity, err = signer.OfKey(k.public); err != nil {
		return nil, fmt.Errorf("KMS key %s: %w", k.shown, err)
	}
	// SHA-256 whatever the key, as cosign loads a key given with --key.
	if k.verifier, err = signature.LoadVerifier(k.public, crypto.SHA256); err != nil {
		return nil, fmt.Errorf("KMS key %s: %w", k.shown, err)
	}
	return k, nil
}

// fetch connects to the service and asks for the public key as it is now.
func (k *Key) fetch(ctx context.Context) (kms.SignerVerifier, crypto.PublicKey, error) {
	type connection struct {
		remote kms.SignerVerifier
		public crypto.PublicKey
	}
	c, err := retry(ctx, k.options, func(call context.Context) (connection, error) {
		// The connection outlives the call.
		remote, err := kms.Get(context.WithoutCancel(ctx), k.reference, crypto.SHA256)
		if err != nil {
			return connection{}, err
		}
		public, err := remote.PublicKey(options.WithContext(call))
		return connection{remote, public}, err
	})
	if notFound := (*kms.ProviderNotFoundError)(nil); errors.As(err, &notFound) {
		scheme, _, _ := strings.Cut(k.reference, "://")
		return nil, nil, fmt.Errorf("KMS key %s: the plugin sigstore-kms-%s is allowed and not on the PATH: install it", k.shown, scheme)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("KMS key %s: asking for its public key: %w", k.shown, err)
	}
	return c.remote, c.public, nil
}

// Identity returns who signs with the key.
func (k *Key) Identity() signer.Identity { return k.identity }

// PublicKey returns the public half, as it was when the key was opened.
func (k *Key) PublicKey() crypto.PublicKey { return k.public }

// String says which key it is.
func (k *Key) String() string { return k.identity.ID() }

// GoString does the same for %#v.
func (k *Key) GoString() string { return k.identity.ID() }

// Sign implements signer.Signer. What the service returns is verified before
// anybody sees it: a service whose key was rotated signs with the new one.
func (k *Key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	sig, err := retry(ctx, k.options, func(call context.Context) ([]byte, error) {
		return k.remote.SignMessage(bytes.NewReader(message), options.WithContext(call))
	})
	if err != nil {
		return nil, fmt.Errorf("KMS key %s: signing: %w", k.shown, err)
	}
	if k.verifier.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message)) != nil {
		return nil, k.mismatch(ctx)
	}
	return sig, nil
}

// SignDigest implements signer.DigestSigner.
func (k *Key) SignDigest(ctx context.Context, digest []byte) ([]byte, error) {
	if _, unhashed := k.public.(ed25519.PublicKey); unhashed {
		return nil, fmt.Errorf("KMS key %s: an Ed25519 key signs no SHA-256 digest, only the message itself", k.shown)
	}
	sig, err := retry(ctx, k.options, func(call context.Context) ([]byte, error) {
		return k.remote.SignMessage(bytes.NewReader(nil), options.WithContext(call), options.WithDigest(digest), options.WithCryptoSignerOpts(crypto.SHA256))
	})
	if err != nil {
		return nil, fmt.Errorf("KMS key %s: signing: %w", k.shown, err)
	}
	if k.verifier.VerifySignature(bytes.NewReader(sig), nil, options.WithDigest(digest)) != nil {
		return nil, k.mismatch(ctx)
	}
	return sig, nil
}

// mismatch says why a signature does not verify. It connects anew, because
// providers remember the public key for minutes.
func (k *Key) mismatch(ctx context.Context) error {
	_, public, err := k.fetch(ctx)
	if err != nil {
		return fmt.Errorf("KMS key %s: the signature does not verify with the public key it had before (%s), and it cannot be asked for now: %w", k.shown, k.identity.ID(), err)
	}
	if now, err := signer.OfKey(public); err == nil && now != k.identity {
		return fmt.Errorf("KMS key %s was rotated: it is %s now, and was %s when this began: that is another signer; "+
			"enrol it and make a plan that names it, or refer to the version that was approved", k.shown, now.ID(), k.identity.ID())
	}
	return fmt.Errorf("KMS key %s: the signature does not verify with its public key %s and SHA-256, as cosign verifies: use an ECDSA P-256 key", k.shown, k.identity.ID())
}

// tooBusy are the words in which services say that a call may go well later:
// AWS, Google, Azure, Vault, and whatever stands before them. Plugins pass on
// nothing but words.
var tooBusy = regexp.MustCompile(`(?i)throttl|too many requests|rate exceeded|limit ?exceeded|resource ?exhausted|\b(429|502|503|504)\b|unavailable|connection reset`)

// retry makes a call until it goes well, as long as the service is too busy.
func retry[T any](ctx context.Context, o Options, call func(context.Context) (T, error)) (T, error) {
	wait := o.wait
	if wait == nil {
		wait = clock.Sleep
	}
	longest := firstWait
	for n := 1; ; n++ {
		v, err := bounded(ctx, o, call)
		if err == nil || ctx.Err() != nil || !tooBusy.MatchString(err.Error()) {
			return v, err
		}
		if n == attempts {
			return v, fmt.Errorf("it is too busy, asked %d times: ask for a higher quota, or for less at once (--parallel): %w", n, err)
		}
		if err := wait(ctx, longest/2+rand.N(longest/2)); err != nil {
			return v, err
		}
		longest = min(2*longest, lastWait)
	}
}

// bounded makes one call and waits for it no longer than it may.
func bounded[T any](ctx context.Context, o Options, call func(context.Context) (T, error)) (T, error) {
	timeout := o.timeout
	if timeout == 0 {
		timeout = callTimeout
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	type result struct {
		v   T
		err error
	}
	if err := ctx.Err(); err != nil {
		return *new(T), err
	}
	done := make(chan result, 1)
	go func() {
		v, err := call(limited)
		done <- result{v, err}
	}()
	var r result
	select {
	case r = <-done:
	case <-limited.Done():
		r.err = limited.Err()
	}
	if r.err != nil && ctx.Err() != nil {
		return r.v, ctx.Err()
	}
	if r.err != nil && limited.Err() != nil {
		return r.v, fmt.Errorf("no answer within %s", timeout)
	}
	return r.v, r.err
}
