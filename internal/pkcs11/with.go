//go:build pkcs11key

package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/sigstore/cosign/v2/pkg/cosign/pkcs11key"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/reseal/reseal/signer"
)

// Key is a key in a token. It is safe for concurrent use, and prints as its
// fingerprint.
type Key struct {
	reference string // without a PIN
	identity  signer.Identity
	public    crypto.PublicKey
	verifier  signature.Verifier

	mu      sync.Mutex // not every module lets several sessions sign at once
	private *pkcs11key.Key
}

// Open logs in to the token and finds the key. The PIN is the reference's
// pin-value, which everybody on the machine can see, or what pin returns; empty
// for a token without one.
func Open(reference string, pin func() ([]byte, error)) (signer.Signer, error) {
	shown := Redact(reference)
	config := pkcs11key.NewPkcs11UriConfig()
	if err := config.Parse(reference); err != nil {
		if strings.Contains(strings.ToLower(reference), "pin") { // what the library says may repeat it
			err = errors.New("expected pkcs11:token=LABEL;object=LABEL?module-path=/PATH (RFC 7512)")
		}
		return nil, fmt.Errorf("key %s: %w", shown, err)
	}
	if config.Pin == "" {
		secret, err := pin()
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", shown, err)
		}
		config.Pin = string(secret)
	}
	k := &Key{reference: shown}
	err := guard(func() (err error) {
		k.private, err = pkcs11key.GetKeyWithURIConfig(config, false)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", shown, without(config.Pin, err))
	}
	if err := k.check(); err != nil {
		k.Close()
		return nil, fmt.Errorf("key %s: %w", shown, err)
	}
	return k, nil
}

// check learns whose key it is.
func (k *Key) check() error {
	err := guard(func() (err error) { // a token may hold no such key
		k.public, err = k.private.PublicKey()
		return err
	})
	if err != nil {
		return fmt.Errorf("the token has no such key pair: %w", err)
	}
	if k.identity, err = signer.OfKey(k.public); err != nil {
		return err
	}
	// SHA-256 whatever the key, as the library signs and as cosign verifies.
	k.verifier, err = signature.LoadVerifier(k.public, crypto.SHA256)
	return err
}

// guard turns a panic of the library into an error: it has no key where the
// token has none.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return f()
}

func without(secret string, err error) error {
	if secret == "" || !strings.Contains(err.Error(), secret) {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), secret, "[the PIN]"))
}

// Identity returns who signs with the key.
func (k *Key) Identity() signer.Identity { return k.identity }

// PublicKey returns the public half.
func (k *Key) PublicKey() crypto.PublicKey { return k.public }

// String keeps the token's session out of any message.
func (k *Key) String() string { return k.identity.ID() }

// GoString does the same for %#v.
func (k *Key) GoString() string { return k.identity.ID() }

// Sign implements signer.Signer. What the token returns is verified before
// anybody sees it.
func (k *Key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var sig []byte
	err := guard(func() (err error) {
		sig, err = k.private.SignMessage(bytes.NewReader(message))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("key %s: signing: is the token still there? %w", k.reference, err)
	}
	if err := k.verifier.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message)); err != nil {
		return nil, fmt.Errorf("key %s: the token's signature does not verify with its public key %s: use an ECDSA P-256 key", k.reference, k.identity.ID())
	}
	return sig, nil
}

// Close logs out. The key is of no use afterwards.
func (k *Key) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = guard(func() error { k.private.Close(); return nil }) // nothing is left to lose
}
