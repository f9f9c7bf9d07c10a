package verify

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
)

// Fresh checks a certificate that was issued a moment ago to whoever asks: its
// chain to a CA of the trusted root now, and a certificate timestamp of a log in
// it. It is for a signer that is tried, and for no signature that is found
// somewhere: there the time has to be proven.
func Fresh(leaf *x509.Certificate, now time.Time, r root.TrustedMaterial) error {
	if r == nil {
		return errors.New(noRoot)
	}
	// This machine's clock may be a little slow.
	if early := leaf.NotBefore.Sub(now); early > 0 && early < time.Minute {
		now = leaf.NotBefore
	}
	return guard(func() error {
		chains, err := sgverify.VerifyLeafCertificate(now, leaf, r)
		if err != nil {
			return fmt.Errorf("its certificate does not chain to a CA of the trusted root at %s: %s", moment(now).Format(time.RFC3339), brief(err.Error()))
		}
		if err := sgverify.VerifySignedCertificateTimestamp(chains, 1, r); err != nil {
			return fmt.Errorf("its certificate was not logged: %s", brief(err.Error()))
		}
		return nil
	})
}
