// Package emit turns trust into the files verifiers read.
//
// What it returns is a function of the trust there is, never of the change
// that led to it: emitting twice gives the same bytes, and after a crash it is
// simply done again.
package emit

import (
	"fmt"

	"github.com/reseal/reseal/signer"
)

// CosignKey returns the file that "cosign verify --key" reads: the one public
// key that is trusted. cosign takes exactly one, so there is no overlap of an
// old and a new key in such an anchor.
func CosignKey(r signer.Record) ([]byte, error) {
	if r.Identity.Kind != signer.Key {
		return nil, fmt.Errorf("signer %s is no key: a cosign key file cannot name it", r.Identity)
	}
	_, id, err := signer.ParsePublicKey(r.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("public key of %s: %w", r.Identity, err)
	}
	if id != r.Identity {
		return nil, fmt.Errorf("the public key on record for %s is that of %s", r.Identity, id)
	}
	return r.PublicKey, nil
}
