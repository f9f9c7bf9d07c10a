package airgap

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/reseal/reseal/signer"
)

// sign signs a manifest as "cosign sign-blob" does, in base64, and verifies the result.
func sign(ctx context.Context, s signer.Signer, manifest []byte) ([]byte, error) {
	if s == nil {
		return nil, nil
	}
	sig, err := s.Sign(ctx, manifest)
	if err != nil {
		return nil, fmt.Errorf("signing the manifest: %w", err)
	}
	out := []byte(base64.StdEncoding.EncodeToString(sig))
	if err := verifySignature(s.PublicKey(), manifest, out); err != nil {
		return nil, fmt.Errorf("signing the manifest: the signature does not verify with the signer's own public key: %w", err)
	}
	return out, nil
}

// verifySignature verifies a signature over a blob in the forms that cosign writes: a key has one form of them that
// cosign uses by default and one that it used before.
func verifySignature(key crypto.PublicKey, manifest, sig []byte) error {
	if len(bytes.TrimSpace(sig)) == 0 {
		return errors.New("it is not signed")
	}
	raw, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(sig)))
	if err != nil {
		return errors.New("the signature is no base64")
	}
	for _, load := range []func() (signature.Verifier, error){
		func() (signature.Verifier, error) { return signature.LoadVerifier(key, crypto.SHA256) },
		func() (signature.Verifier, error) {
			return signature.LoadDefaultVerifier(key, options.WithED25519ph())
		},
	} {
		v, err := load()
		if err == nil {
			err = v.VerifySignature(bytes.NewReader(raw), bytes.NewReader(manifest))
		}
		if err == nil {
			return nil
		}
	}
	return errors.New("the signature does not verify")
}

// encodeKey returns a public key as PEM.
func encodeKey(key crypto.PublicKey) (string, error) {
	data, err := cryptoutils.MarshalPublicKeyToPEM(key)
	return string(data), err
}
