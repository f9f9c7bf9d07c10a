package sandbox

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/sigstore/fulcio/pkg/ca"
	"github.com/sigstore/fulcio/pkg/ca/baseca"
	"github.com/sigstore/fulcio/pkg/certificate"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

const (
	organization = "reseal sandbox"
	// leafValidity is Fulcio's.
	leafValidity = 10 * time.Minute
	// authorityYears is how long authorities live, counted from now.
	authorityYears = 10
)

// signingKey is the P-256 key of an authority.
type signingKey struct {
	*ecdsa.PrivateKey
	id  [sha256.Size]byte // SHA-256 of the public key's DER: the log id of the Sigstore trusted root
	sv  signature.SignerVerifier
	pem []byte // public half
}

func newSigningKey() (*signingKey, error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(priv.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	sv, err := signature.LoadECDSASignerVerifier(priv, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("loading key: %w", err)
	}
	return &signingKey{
		PrivateKey: priv,
		id:         sha256.Sum256(der),
		sv:         sv,
		pem:        cryptoutils.PEMEncode(cryptoutils.PublicKeyPEMType, der),
	}, nil
}

func (k *signingKey) hexID() string { return hex.EncodeToString(k.id[:]) }

// newCertificate issues an authority certificate valid from start. A nil
// parent makes it self-signed.
func newCertificate(template *x509.Certificate, start time.Time, key *signingKey, parent *x509.Certificate, parentKey *signingKey) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.Subject.Organization = []string{organization}
	template.NotBefore = start
	template.NotAfter = time.Now().AddDate(authorityYears, 0, 0)
	template.BasicConstraintsValid = true
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("issuing %q: %w", template.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parsing %q: %w", template.Subject.CommonName, err)
	}
	return cert, nil
}

// newCACertificate issues a certificate that may issue others.
func newCACertificate(name string, start time.Time, key *signingKey, parent *x509.Certificate, parentKey *signingKey, usage ...x509.ExtKeyUsage) (*x509.Certificate, error) {
	return newCertificate(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		IsCA:        true,
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage: usage,
	}, start, key, parent, parentKey)
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("generating serial number: %w", err)
	}
	return serial, nil
}

// Principal is whom a certificate names: one SAN (Email or URI) and the
// issuer of the identity, with the further Fulcio extensions.
type Principal struct {
	Email      string
	URI        string
	Issuer     string
	Extensions certificate.Extensions // its Issuer is overwritten by Issuer
}

// authority is Fulcio's CA without its front door: nobody proves who they
// are. A root and one intermediate issue code-signing certificates with an
// embedded SCT of the sandbox's CT log, which is a key and keeps no entries.
type authority struct {
	clock        *Clock
	base         baseca.BaseCA
	root         *x509.Certificate
	intermediate *x509.Certificate
	ct           *signingKey
}

func newAuthority(clock *Clock, start time.Time) (*authority, error) {
	var keys [3]*signingKey
	for i := range keys {
		k, err := newSigningKey()
		if err != nil {
			return nil, err
		}
		keys[i] = k
	}
	rootKey, interKey, ctKey := keys[0], keys[1], keys[2]
	root, err := newCACertificate("sandbox root", start, rootKey, nil, nil)
	if err != nil {
		return nil, err
	}
	inter, err := newCACertificate("sandbox intermediate", start, interKey, root, rootKey, x509.ExtKeyUsageCodeSigning)
	if err != nil {
		return nil, err
	}
	return &authority{
		clock:        clock,
		base:         baseca.BaseCA{SignerWithChain: &ca.SignerCerts{Certs: []*x509.Certificate{inter, root}, Signer: interKey.PrivateKey}},
		root:         root,
		intermediate: inter,
		ct:           ctKey,
	}, nil
}

func (a *authority) issue(ctx context.Context, p Principal, pub crypto.PublicKey) (*x509.Certificate, error) {
	return a.issueAt(ctx, p, pub, a.clock.Now())
}

func (a *authority) issueAt(ctx context.Context, p Principal, pub crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	pre, err := a.base.CreatePrecertificate(ctx, enrolment{p, now}, pub)
	if err != nil {
		return nil, fmt.Errorf("precertificate: %w", err)
	}
	sct, err := a.sct(pre.PreCert, now)
	if err != nil {
		return nil, fmt.Errorf("SCT: %w", err)
	}
	final, err := a.base.IssueFinalCertificate(ctx, pre, sct)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return final.FinalCertificate, nil
}

// sct signs a certificate timestamp as a CT log would on submission of the
// precertificate (RFC 6962, 3.2).
func (a *authority) sct(pre *x509.Certificate, now time.Time) (*ct.SignedCertificateTimestamp, error) {
	tbs, err := ctx509.RemoveCTPoison(pre.RawTBSCertificate)
	if err != nil {
		return nil, fmt.Errorf("removing poison: %w", err)
	}
	sct := &ct.SignedCertificateTimestamp{
		SCTVersion: ct.V1,
		LogID:      ct.LogID{KeyID: a.ct.id},
		Timestamp:  uint64(now.UnixMilli()),
	}
	input, err := ct.SerializeSCTSignatureInput(*sct, ct.LogEntry{Leaf: ct.MerkleTreeLeaf{
		Version:  ct.V1,
		LeafType: ct.TimestampedEntryLeafType,
		TimestampedEntry: &ct.TimestampedEntry{
			Timestamp: sct.Timestamp,
			EntryType: ct.PrecertLogEntryType,
			PrecertEntry: &ct.PreCert{
				IssuerKeyHash:  sha256.Sum256(a.intermediate.RawSubjectPublicKeyInfo),
				TBSCertificate: tbs,
			},
		},
	}})
	if err != nil {
		return nil, fmt.Errorf("serialising: %w", err)
	}
	digest := sha256.Sum256(input)
	sig, err := ecdsa.SignASN1(rand.Reader, a.ct.PrivateKey, digest[:])
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	sct.Signature = ct.DigitallySigned{
		Algorithm: cttls.SignatureAndHashAlgorithm{Hash: cttls.SHA256, Signature: cttls.ECDSA},
		Signature: sig,
	}
	return sct, nil
}

// enrolment is a Principal at a moment: it implements fulcio's
// identity.Principal.
type enrolment struct {
	Principal
	now time.Time
}

func (e enrolment) Name(context.Context) string { return e.Email + e.URI }

// Embed writes the identity into the certificate, and its validity too:
// fulcio takes that from the real clock but lets the principal have the last
// word.
func (e enrolment) Embed(_ context.Context, cert *x509.Certificate) error {
	switch {
	case (e.Email == "") == (e.URI == ""):
		return errors.New("a principal needs an email address or a URI, and not both")
	case e.Email != "":
		cert.EmailAddresses = []string{e.Email}
	default:
		u, err := url.Parse(e.URI)
		if err != nil {
			return fmt.Errorf("URI of the principal: %w", err)
		}
		cert.URIs = []*url.URL{u}
	}
	ext := e.Extensions
	ext.Issuer = e.Issuer
	rendered, err := ext.Render()
	if err != nil {
		return fmt.Errorf("extensions of the principal: %w", err)
	}
	cert.ExtraExtensions = rendered
	cert.NotBefore = e.now
	cert.NotAfter = e.now.Add(leafValidity)
	return nil
}
