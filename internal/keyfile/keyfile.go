// Package keyfile signs with the encrypted private keys that cosign writes.
package keyfile

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"fmt"
	"os"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/reseal/reseal/signer"
)

// maxKey bounds a key file, in bytes.
const maxKey = 64 << 10

// Key is a decrypted private key. It prints as its fingerprint.
type Key struct {
	identity signer.Identity
	public   crypto.PublicKey
	private  signature.SignerVerifier
}

// Load decrypts a key file (cosign.key). It costs cosign's key derivation,
// about a fifth of a second: load once.
func Load(file string, password func() ([]byte, error)) (Key, error) {
	return load(file, password, nil)
}

// LoadPure is Load for signatures over TUF metadata: an Ed25519 key signs the
// message itself (RFC 8032), where cosign signs its digest (Ed25519ph). An
// ECDSA key signs alike in both, with the hash that goes with its curve:
// SHA-384 for P-384, as TUF's ecdsa-sha2-nistp384 has it.
func LoadPure(file string, password func() ([]byte, error)) (Key, error) {
	return load(file, password, &[]signature.LoadOption{})
}

func load(file string, password func() ([]byte, error), how *[]signature.LoadOption) (Key, error) {
	info, err := os.Stat(file)
	if err != nil {
		return Key{}, fmt.Errorf("private key: %w", err)
	}
	if info.Size() > maxKey {
		return Key{}, fmt.Errorf("private key %s is %d bytes long: that is no cosign key", file, info.Size())
	}
	sealed, err := os.ReadFile(file)
	if err != nil {
		return Key{}, fmt.Errorf("private key: %w", err)
	}
	pass, err := password()
	if err != nil {
		return Key{}, err
	}
	private, err := cosign.LoadPrivateKey(sealed, pass, how)
	if err != nil {
		// The library's words differ by cause and version; none is more use to
		// a person than this.
		return Key{}, fmt.Errorf("private key %s cannot be decrypted: is the password right (COSIGN_PASSWORD), and is it a key made by \"cosign generate-key-pair\"? (%w)", file, err)
	}
	public, err := private.PublicKey()
	if err != nil {
		return Key{}, fmt.Errorf("private key %s: %w", file, err)
	}
	id, err := signer.OfKey(public)
	if err != nil {
		return Key{}, fmt.Errorf("private key %s: %w", file, err)
	}
	return Key{identity: id, public: public, private: private}, nil
}

// Identity returns who signs with the key.
func (k Key) Identity() signer.Identity { return k.identity }

// PublicKey returns the public half.
func (k Key) PublicKey() crypto.PublicKey { return k.public }

// Sign implements signer.Signer.
func (k Key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	return k.private.SignMessage(bytes.NewReader(message), options.WithContext(ctx))
}

// SignDigest implements signer.DigestSigner.
func (k Key) SignDigest(ctx context.Context, digest []byte) ([]byte, error) {
	if _, unhashed := k.public.(ed25519.PublicKey); unhashed {
		return nil, fmt.Errorf("private key %s: an Ed25519 key signs no SHA-256 digest, only the message itself", k.identity.ID())
	}
	return k.private.SignMessage(nil, options.WithContext(ctx), options.WithDigest(digest), options.WithCryptoSignerOpts(crypto.SHA256))
}

// String keeps the private half out of any message.
func (k Key) String() string { return k.identity.ID() }

// GoString does the same for %#v.
func (k Key) GoString() string { return k.identity.ID() }
