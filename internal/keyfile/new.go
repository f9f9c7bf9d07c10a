package keyfile

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore/pkg/signature"
)

// types are the keys that can be made, all of which TUF clients verify.
var types = []struct {
	name    string
	details protocommon.PublicKeyDetails
}{
	{"ecdsa-p256", protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256},
	{"ed25519", protocommon.PublicKeyDetails_PKIX_ED25519},
	{"ecdsa-p384", protocommon.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384},
}

// Types lists the kinds of keys that New makes, the usual one first.
func Types() []string {
	var out []string
	for _, t := range types {
		out = append(out, t.name)
	}
	return out
}

// New makes a key pair: the private half encrypted as cosign does, and the public half (PEM). An empty password would
// encrypt nothing, and is refused.
func New(kind string, password []byte) (private, public []byte, err error) {
	if len(password) == 0 {
		return nil, nil, errors.New("no password: a key file is only as good as its password")
	}
	for _, t := range types {
		if t.name != kind {
			continue
		}
		details, err := signature.GetAlgorithmDetails(t.details)
		if err != nil {
			return nil, nil, fmt.Errorf("new %s key: %w", kind, err)
		}
		keys, err := cosign.GenerateKeyPairWithAlgorithm(&details, func(bool) ([]byte, error) { return password, nil })
		if err != nil {
			return nil, nil, fmt.Errorf("new %s key: %w", kind, err)
		}
		return keys.PrivateBytes, keys.PublicBytes, nil
	}
	return nil, nil, fmt.Errorf("key type %q is not one of %s", kind, strings.Join(Types(), ", "))
}
