package app

import (
	"context"

	"github.com/reseal/reseal/signer"
)

// OpenKey opens a key where there is no home, as on a machine without a network. A KMS plugin, which is a program that
// is run, needs a home that allows it.
func OpenKey(ctx context.Context, o SignerOptions) (signer.Signer, error) {
	return new(App).OpenKey(ctx, o)
}
