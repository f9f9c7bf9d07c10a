//go:build !pkcs11key

package pkcs11

import (
	"errors"
	"strings"
	"testing"
)

func TestWithout(t *testing.T) {
	t.Parallel()
	_, err := Open("pkcs11:token=dr;object=k1?module-path=/usr/lib/m.so", func() ([]byte, error) { return nil, errors.New("it asked for a PIN") })
	for _, says := range []string{"pkcs11:token=dr;object=k1", "make build-pkcs11", "cgo"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q", err, says)
		}
	}
}
