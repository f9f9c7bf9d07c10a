package app

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/internal/keyfile"
	"github.com/reseal/reseal/signer"
)

// OpenKey opens a key where there is no home, as on a machine without a network. A KMS plugin, which is a program that
// is run, needs a home that allows it.
func OpenKey(ctx context.Context, o SignerOptions) (signer.Signer, error) {
	return new(App).OpenKey(ctx, o)
}

// KeyTypes lists the kinds of keys that NewKeyFile makes, the usual one first.
func KeyTypes() []string { return keyfile.Types() }

// NewKeyFile makes a key, writes its private half encrypted to one file and its public half to another, and returns the
// public one (PEM). It overwrites nothing, and makes no key without a password.
func NewKeyFile(private, public, kind string, password func() ([]byte, error)) ([]byte, error) {
	for _, file := range []string{private, public} {
		if _, err := os.Lstat(file); err == nil {
			return nil, fmt.Errorf("%s exists: choose another name; a key that is overwritten is lost", file)
		}
	}
	pass, err := password()
	if err != nil {
		return nil, err
	}
	sealed, pem, err := keyfile.New(kind, pass)
	if err != nil {
		return nil, err
	}
	if err := durable.CreateFile(private, sealed, 0o600); err != nil {
		return nil, err
	}
	if err := durable.CreateFile(public, pem, 0o644); err != nil {
		return nil, errors.Join(err, os.Remove(private)) // made just now, and nobody has its public half
	}
	return pem, nil
}
