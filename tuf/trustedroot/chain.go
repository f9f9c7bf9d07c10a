package trustedroot

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
)

// maxChain bounds the certificates of one authority.
const maxChain = 16

// parseChain reads a chain of certificates in PEM, in whatever order, and
// returns it in that of the file: the certificate that issues or stamps first,
// the trust anchor last.
func parseChain(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if len(bytes.TrimSpace(rest)) > 0 {
				return nil, errors.New("the certificate chain has something in it that is no PEM")
			}
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("the certificate chain has a PEM block of type %q: expected CERTIFICATE", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the chain cannot be read: %w", len(certs)+1, err)
		}
		if slices.ContainsFunc(certs, c.Equal) {
			return nil, fmt.Errorf("certificate %s is in the chain twice", c.Subject)
		}
		if certs = append(certs, c); len(certs) > maxChain {
			return nil, fmt.Errorf("the chain has more than %d certificates", maxChain)
		}
	}
	if len(certs) == 0 {
		return nil, errors.New("there is no certificate in PEM")
	}
	issued := func(parent, child *x509.Certificate) bool {
		return parent != child && bytes.Equal(parent.RawSubject, child.RawIssuer) && child.CheckSignatureFrom(parent) == nil
	}
	// The first is the one that issued no other; from there on upwards.
	first := slices.IndexFunc(certs, func(c *x509.Certificate) bool {
		return !slices.ContainsFunc(certs, func(other *x509.Certificate) bool { return issued(c, other) })
	})
	if first < 0 {
		return nil, errors.New("the certificates issued each other in a circle")
	}
	chain := []*x509.Certificate{certs[first]}
	for rest := slices.Delete(slices.Clone(certs), first, first+1); len(rest) > 0; {
		last := chain[len(chain)-1]
		i := slices.IndexFunc(rest, func(c *x509.Certificate) bool { return issued(c, last) })
		if i < 0 {
			return nil, fmt.Errorf("the chain does not build: none of the other certificates issued %s (%s), whose issuer is %s",
				last.Subject, sha256Hex(last.Raw), last.Issuer)
		}
		chain, rest = append(chain, rest[i]), slices.Delete(rest, i, i+1)
	}
	return chain, nil
}

// selfSigned reports whether a certificate is a root.
func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil
}

// checkChain holds a chain to what clients ask of an authority of the kind, and
// returns the period in which all of it is valid.
func checkChain(k Kind, chain []*x509.Certificate) (start, end time.Time, warnings []string, err error) {
	cas, usage := chain, x509.ExtKeyUsageCodeSigning
	if k == TSA {
		usage = x509.ExtKeyUsageTimeStamping
		if !chain[0].IsCA {
			if err := checkStamper(chain[0]); err != nil {
				return start, end, nil, err
			}
			if cas = chain[1:]; len(cas) == 0 {
				return start, end, nil, fmt.Errorf("%s has no CA above it in the chain: clients need one to anchor it", chain[0].Subject)
			}
		}
	}
	for _, c := range cas {
		switch {
		case !c.BasicConstraintsValid || !c.IsCA:
			return start, end, nil, fmt.Errorf("%s is no CA: its basic constraints do not say so", c.Subject)
		case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
			return start, end, nil, fmt.Errorf("%s may not sign certificates: its key usage does not say so", c.Subject)
		}
	}
	for i, c := range chain {
		if start.Before(c.NotBefore) {
			start = c.NotBefore
		}
		if i == 0 || c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	if end.Before(start) {
		return start, end, nil, fmt.Errorf("the certificates of the chain are at no time valid together: one begins at %s, another ends at %s", stamp(start), stamp(end))
	}
	anchor := chain[len(chain)-1]
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: start, KeyUsages: []x509.ExtKeyUsage{usage}}
	opts.Roots.AddCert(anchor)
	for _, c := range chain[:len(chain)-1] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return start, end, nil, fmt.Errorf("the chain does not build for %s: %w", map[Kind]string{CA: "signing code", TSA: "timestamps"}[k], err)
	}
	if !selfSigned(anchor) {
		warnings = append(warnings, fmt.Sprintf("the trust anchor %s is not self-signed: some clients want the root itself (sigstore_trustroot.proto)", anchor.Subject))
	}
	return start, end, warnings, nil
}

var oidExtKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}

// checkStamper holds the certificate of a timestamp authority to RFC 3161
// section 2.3: one extended key usage, timeStamping, and critical.
func checkStamper(c *x509.Certificate) error {
	if len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageTimeStamping || len(c.UnknownExtKeyUsage) > 0 {
		return fmt.Errorf("%s cannot be a timestamp authority: its extended key usage must be timeStamping and nothing else (RFC 3161, 2.3)", c.Subject)
	}
	for _, x := range c.Extensions {
		if x.Id.Equal(oidExtKeyUsage) && x.Critical {
			return nil
		}
	}
	return fmt.Errorf("%s cannot be a timestamp authority: its extended key usage must be critical (RFC 3161, 2.3)", c.Subject)
}

// detailsOf returns what the protobuf calls a kind of key of a log.
func detailsOf(pub crypto.PublicKey) protocommon.PublicKeyDetails {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256
		case 384:
			return protocommon.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384
		case 521:
			return protocommon.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512
		}
	case ed25519.PublicKey:
		return protocommon.PublicKeyDetails_PKIX_ED25519
	case *rsa.PublicKey:
		switch k.N.BitLen() {
		case 2048:
			return protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256
		case 3072:
			return protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256
		case 4096:
			return protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256
		}
	}
	return protocommon.PublicKeyDetails_PUBLIC_KEY_DETAILS_UNSPECIFIED
}

// keyWarnings says which clients do not take a log's key.
func keyWarnings(d protocommon.PublicKeyDetails) []string {
	switch d {
	case protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
		protocommon.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384,
		protocommon.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512:
		return nil
	}
	return []string{fmt.Sprintf("a log key of kind %s makes some clients refuse the whole file, not only this log: sigstore-ruby where it does not know the kind (#263), "+
		"policy-controller with signatureFormat legacy for any key that is not ECDSA: try your clients before it is published", d)}
}

// checkURL reads the address of an authority or service.
func checkURL(what, text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return nil, fmt.Errorf("%s needs a URL", what)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", what, err)
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return nil, fmt.Errorf("%s: %q is no address: expected https://HOST[/PATH]", what, text)
	case u.User != nil:
		return nil, fmt.Errorf("%s: an address with a user name or password in it would be published", what)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%s: %q has a query or fragment: clients append paths to it", what, text)
	}
	return u, nil
}

// urlWarnings says what about an address clients trip over.
func urlWarnings(u *url.URL) []string {
	if u.Scheme == "http" {
		return []string{u.String() + " is not encrypted: use https outside of a test"}
	}
	return nil
}

// checkOperator holds the name of an operator to sigstore_trustroot.proto: a
// URI without scheme.
func checkOperator(s string) error {
	if strings.ContainsAny(s, " \t\r\n:") || strings.Contains(s, "//") {
		return fmt.Errorf("operator %q: expected a URI without scheme, such as sigstore.dev", s)
	}
	return nil
}

// sameAddress reports whether two addresses are of one service. A log's may
// lack its scheme.
func sameAddress(a, b string) bool {
	bare := func(s string) string {
		if _, rest, ok := strings.Cut(s, "://"); ok {
			s = rest
		}
		return strings.ToLower(strings.TrimRight(s, "/"))
	}
	return bare(a) != "" && bare(a) == bare(b)
}
