package tuf

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestSignerRefusesOtherKeys(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	check(t, err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	for want, key := range map[string]crypto.Signer{"P-384": p384, "rsa": rsaKey, "no private key": nil} {
		if _, err := NewSigner(key, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestKeyIDCoversTheOwner(t *testing.T) {
	plain := newEd25519(t, "")
	owned := newTestSigner(t, plain.private, "@alice")
	if plain.KeyID() == owned.KeyID() {
		t.Error("same id with and without owner")
	}
	want, err := (&metadata.Key{Type: "ed25519", Scheme: "ed25519", Value: owned.key.Value, UnrecognizedFields: map[string]any{fieldOwner: "@alice"}}).ID()
	check(t, err)
	if owned.KeyID() != want {
		t.Errorf("id %s, want %s", owned.KeyID(), want)
	}
}

func TestSigningAgainReplaces(t *testing.T) {
	root := metadata.Root(time.Now().UTC().Truncate(time.Second))
	signers := []Signer{newEd25519(t, "@alice"), newP256(t, "")}
	for _, s := range signers {
		check(t, root.Signed.AddKey(s.key, metadata.ROOT))
	}
	ring, err := rootRing(root, metadata.ROOT)
	check(t, err)
	for range 2 {
		check(t, sign(t.Context(), root, ring, append(signers, signers...)...))
	}
	data, err := root.ToBytes(false)
	check(t, err)
	root, err = metadata.Root().FromBytes(data)
	check(t, err)
	if len(root.Signatures) != 2 {
		t.Errorf("%d signatures", len(root.Signatures))
	}
	check(t, root.VerifyDelegate(metadata.ROOT, root))
}

// A token stands for a device that signs with another key than it shows, or not at all.
type token struct {
	crypto.Signer
	sign func([]byte) ([]byte, error)
}

func (k token) Sign(_ io.Reader, b []byte, _ crypto.SignerOpts) ([]byte, error) { return k.sign(b) }

func TestBrokenSignerPublishesNothing(t *testing.T) {
	o := newOrg(t)
	other := newEd25519(t, "").private
	for want, f := range map[string]func([]byte) ([]byte, error){
		"does not verify": func(b []byte) ([]byte, error) { return other.Sign(nil, b, crypto.Hash(0)) },
		"token removed":   func([]byte) ([]byte, error) { return nil, errors.New("token removed") },
	} {
		broken := newTestSigner(t, token{o.responders[1].private, f}, "")
		unchanged(t, o.dir, func() {
			err := o.repo.PublishRevocations(t.Context(), nil, []Signer{o.responders[0], broken}, o.online)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}
