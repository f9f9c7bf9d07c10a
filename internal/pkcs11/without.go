//go:build !pkcs11key

package pkcs11

import (
	"fmt"

	"github.com/reseal/reseal/signer"
)

// Open refuses: this build has no PKCS #11.
func Open(reference string, _ func() ([]byte, error)) (signer.Signer, error) {
	return nil, fmt.Errorf("key %s: this reseal was built without PKCS #11: \"make build-pkcs11\" makes bin/reseal-pkcs11, which needs cgo", Redact(reference))
}
