package signer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
)

// InMemory returns a Signer for a private key that is held in memory: an
// Ed25519 key, or an ECDSA key of P-256 or P-384, which signs with the hash
// that goes with its curve (SHA-256, SHA-384). It is for rehearsals; keys that
// matter are held in files, services and tokens.
func InMemory(private crypto.Signer) (Signer, error) {
	m := memory{private: private}
	switch k := private.Public().(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		switch size := k.Curve.Params().BitSize; size {
		case 256:
			m.hash = crypto.SHA256
		case 384:
			m.hash = crypto.SHA384
		default:
			return nil, fmt.Errorf("ECDSA key of %d bits: use P-256 or P-384", size)
		}
	default:
		return nil, fmt.Errorf("key of type %T: use Ed25519 or ECDSA", k)
	}
	var err error
	m.identity, err = OfKey(private.Public())
	return m, err
}

type memory struct {
	private  crypto.Signer
	hash     crypto.Hash
	identity Identity
}

func (m memory) Identity() Identity { return m.identity }

func (m memory) PublicKey() crypto.PublicKey { return m.private.Public() }

func (m memory) Sign(ctx context.Context, message []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return crypto.SignMessage(m.private, rand.Reader, message, m.hash)
}

// String keeps the private half out of any message.
func (m memory) String() string { return m.identity.ID() }

// GoString does the same for %#v.
func (m memory) GoString() string { return m.identity.ID() }
