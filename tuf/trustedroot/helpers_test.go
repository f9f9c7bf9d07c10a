package trustedroot

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
)

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	now   = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// shared returns a file of Sigstore's own repository.
func shared(t testing.TB, name string) []byte {
	t.Helper()
	data := os.Getenv("RESEAL_TESTDATA")
	if data == "" {
		data = filepath.Join("..", "..", "..", "shared", "data")
	}
	b, err := os.ReadFile(filepath.Join(data, "sigstore-root-signing", "targets", name))
	if err != nil {
		t.Skipf("no files of Sigstore in %s: set RESEAL_TESTDATA to where they are", data)
	}
	return b
}

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(c, rand.Reader))(t)
}

func publicPEM(t testing.TB, pub crypto.PublicKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(pub))(t)})
}

// certificates makes chains to try.
type certificates struct {
	t    testing.TB
	keys map[*x509.Certificate]*ecdsa.PrivateKey
}

func newCertificates(t testing.TB) *certificates {
	return &certificates{t, map[*x509.Certificate]*ecdsa.PrivateKey{}}
}

// issue makes a certificate; without a parent it is self-signed.
func (c *certificates) issue(name string, parent *x509.Certificate, change func(*x509.Certificate)) *x509.Certificate {
	c.t.Helper()
	key := ecKey(c.t, elliptic.P256())
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(c.keys) + 1)), Subject: pkix.Name{CommonName: name, Organization: []string{"acme.example"}},
		NotBefore: start, NotAfter: start.AddDate(10, 0, 0), BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if change != nil {
		change(tmpl)
	}
	by, byKey := parent, c.keys[parent]
	if parent == nil {
		by, byKey = tmpl, key
	}
	cert := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, by, key.Public(), byKey))(c.t)))(c.t)
	c.keys[cert] = key
	return cert
}

// stamper makes a template that of a timestamp authority.
func stamper(critical bool) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature
		value, _ := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
		c.ExtraExtensions = []pkix.Extension{{Id: oidExtKeyUsage, Critical: critical, Value: value}}
	}
}

func chainPEM(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// stack is a whole private stack, in a trusted root.
func stack(t testing.TB) (*Root, map[string]Addition) {
	t.Helper()
	c := newCertificates(t)
	anchor := c.issue("acme root", nil, nil)
	issuer := c.issue("acme intermediate", anchor, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} })
	tsaRoot := c.issue("acme tsa root", nil, nil)
	edPub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]Addition{
		"ca":    {Kind: CA, PEM: chainPEM(anchor, issuer), URL: "https://fulcio.acme.example"},
		"tsa":   {Kind: TSA, PEM: chainPEM(c.issue("acme tsa", tsaRoot, stamper(true)), tsaRoot), URL: "https://tsa.acme.example/api/v1/timestamp"},
		"log":   {Kind: Log, PEM: publicPEM(t, ecKey(t, elliptic.P256()).Public()), URL: "https://rekor.acme.example", Start: start, RekorVersion: 1},
		"log2":  {Kind: Log, PEM: publicPEM(t, edPub), URL: "https://log2026.acme.example", Start: start.AddDate(0, 1, 0), RekorVersion: 2},
		"ctlog": {Kind: CTLog, PEM: publicPEM(t, ecKey(t, elliptic.P256()).Public()), URL: "https://ct.acme.example/2026", Start: start},
	}
	r := New()
	for _, name := range []string{"ca", "tsa", "log", "log2", "ctlog"} {
		if _, _, err := r.Add(parts[name], now); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return r, parts
}

func bytesOf(t testing.TB, d interface{ Bytes() ([]byte, error) }) []byte {
	t.Helper()
	return must(d.Bytes())(t)
}

// reread gives back what a file says, having shown it to sigstore-go.
func reread(t testing.TB, r *Root) *Root {
	t.Helper()
	b := bytesOf(t, r)
	if _, err := root.NewTrustedRootFromJSON(b); err != nil {
		t.Fatalf("sigstore-go does not read it: %v\n%s", err, b)
	}
	return must(Parse(b))(t)
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	return must(rsa.GenerateKey(rand.Reader, bits))(t)
}
