package verify

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/certificate-transparency-go/x509util"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// maxChain bounds the certificates a signature may bring along.
const maxChain = 16

// readCertificate names a keyless signer as sigstore-go does, by issuer
// extension and first SAN, and takes down what else its certificate says. A
// certificate without a SAN is named by its subject.
func readCertificate(leaf *x509.Certificate) (signer.Identity, *signer.Certificate, error) {
	id := signer.Identity{Kind: signer.Keyless}
	var sum certificate.Summary
	err := guard(func() (err error) { sum, err = certificate.SummarizeCertificate(leaf); return err })
	if err != nil {
		id.Subject, _ = clean(leaf.Subject.String())
		return id, details(leaf, readableExtensions(leaf)), fmt.Errorf("its certificate names no signer: %s", brief(err.Error()))
	}
	var okIssuer, okSubject bool
	id.Issuer, okIssuer = clean(sum.Issuer)
	id.Subject, okSubject = clean(sum.SubjectAlternativeName)
	if !okIssuer || !okSubject {
		err = errors.New("its certificate names a signer no text can hold (control characters or excessive length)")
	}
	return id, details(leaf, sum.Extensions), err
}

// readableExtensions leaves out the Fulcio extensions that cannot be read.
func readableExtensions(leaf *x509.Certificate) certificate.Extensions {
	var ext certificate.Extensions
	_ = guard(func() (err error) { // what cannot be read says nothing
		ext, err = certificate.ParseExtensions(slices.DeleteFunc(slices.Clone(leaf.Extensions), func(e pkix.Extension) bool {
			_, err := certificate.ParseExtensions([]pkix.Extension{e})
			return err != nil
		}))
		return err
	})
	return ext
}

// details takes down what a certificate says of the run it was issued to. For
// GitHub, older certificates say it in extensions of their own
// (1.3.6.1.4.1.57264.1.2 to .6).
func details(leaf *x509.Certificate, ext certificate.Extensions) *signer.Certificate {
	first := func(values ...string) string {
		for _, v := range values {
			if v != "" {
				c, _ := clean(v)
				return c
			}
		}
		return ""
	}
	out := &signer.Certificate{
		NotBefore:  moment(leaf.NotBefore),
		NotAfter:   moment(leaf.NotAfter),
		Workflow:   first(ext.BuildSignerURI, ext.BuildConfigURI, ext.GithubWorkflowName),
		Ref:        first(ext.SourceRepositoryRef, ext.GithubWorkflowRef),
		SHA:        first(ext.SourceRepositoryDigest, ext.GithubWorkflowSHA),
		Repository: first(ext.SourceRepositoryURI, ext.GithubWorkflowRepository),
		Trigger:    first(ext.BuildTrigger, ext.GithubWorkflowTrigger),
		Run:        first(ext.RunInvocationURI),
		Runner:     first(ext.RunnerEnvironment),
	}
	if leaf.SerialNumber != nil {
		out.Serial, _ = clean(leaf.SerialNumber.Text(16))
	}
	return out
}

// readChain takes the certificates that a signature brings along beside its
// own. Roots among them are left out: the root of trust is the verifier's to
// choose.
func (c *claim) readChain(certs []*x509.Certificate) (broughtRoot bool) {
	for _, cert := range certs {
		switch {
		case bytes.Equal(cert.RawSubject, cert.RawIssuer) && cert.CheckSignatureFrom(cert) == nil:
			broughtRoot = true
		case cert.IsCA && len(c.intermediates) < maxChain:
			c.intermediates = append(c.intermediates, cert)
		}
	}
	return broughtRoot
}

// parseChain reads the certificates of a PEM file, as far as they can be read.
func parseChain(text []byte) []*x509.Certificate {
	var out []*x509.Certificate
	if len(text) > maxEvidence {
		return nil
	}
	for len(out) < maxChain {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, cert)
		}
	}
	return out
}

// issuance checks a keyless signer's certificate: a chain to a CA of the root
// at every proven time, as the Sigstore client specification has it, and a
// certificate timestamp of a log in the root. The lower bound it returns is
// verified exactly when both hold. The signature requires every CA of the
// chain, the issuer first: whoever holds the key of one can forge all below.
// Where one CT log alone vouches for the certificate it requires that, too.
func (v *Verifier) issuance(c *claim, times []time.Time, upper []inventory.Bound) (inventory.Bound, []inventory.Authority, error) {
	b := inventory.Bound{Side: inventory.Lower, Time: moment(c.leaf.NotBefore), Authority: inventory.Authority{Role: inventory.RoleCA}}
	if v.root == nil {
		b.Why = noRoot
		return b, nil, errors.New(noRoot)
	}
	chain, err := v.root.chain(c, times, upper)
	var cas []*x509.Certificate
	if len(chain) < 2 {
		cas = v.root.issuersOf(c.leaf)
	} else {
		cas = chain[1:]
	}
	var requires []inventory.Authority
	for _, ca := range cas {
		requires = append(requires, inventory.Authority{Role: inventory.RoleCA, ID: fingerprintOf(ca)})
	}
	if len(requires) > 0 {
		b.Authority = requires[0]
	}
	if err != nil {
		b.Why = err.Error()
		return b, requires, err
	}
	if logs := v.root.certifiedBy(chain); len(logs) == 1 {
		requires = append(requires, inventory.Authority{Role: inventory.RoleCT, ID: logs[0]})
	}
	b.Verified = true
	return b, requires, nil
}

// certifiedBy returns the CT logs of the trusted root of which a certificate
// timestamp in the first certificate of the chain verifies, in order.
func (m *material) certifiedBy(chain []*x509.Certificate) []string {
	var named, logs []string
	_ = guard(func() error { // it was read before
		scts, err := x509util.ParseSCTsFromCertificate(chain[0].Raw)
		for _, s := range scts {
			if id := hex.EncodeToString(s.LogID.KeyID[:]); m.ct[id] != nil && !slices.Contains(named, id) {
				named = append(named, id)
			}
		}
		return err
	})
	if len(named) == 1 {
		return named // it is the one that verified
	}
	slices.Sort(named)
	for _, id := range named {
		alone := *m
		alone.ct = map[string]*root.TransparencyLog{id: m.ct[id]}
		if guard(func() error {
			return sgverify.VerifySignedCertificateTimestamp([][]*x509.Certificate{chain}, 1, &alone)
		}) == nil {
			logs = append(logs, id)
		}
	}
	return logs
}

// chain finds the chain of a claim's certificate, leaf first, even when
// something else is wrong with the certificate.
func (m *material) chain(c *claim, times []time.Time, upper []inventory.Bound) ([]*x509.Certificate, error) {
	if len(times) == 0 {
		why := ""
		for _, u := range upper {
			why += "; " + string(u.Authority.Role) + ": " + u.Why
		}
		return nil, errors.New("no verified time says when it was signed, so its certificate cannot be checked" + brief(why))
	}
	// Go leaves a SAN of type OtherName unhandled; sigstore-go reads it itself.
	cert := *c.leaf
	cert.UnhandledCriticalExtensions = nil
	for _, oid := range c.leaf.UnhandledCriticalExtensions {
		if !oid.Equal(cryptoutils.SANOID) {
			cert.UnhandledCriticalExtensions = append(cert.UnhandledCriticalExtensions, oid)
		}
	}
	m = m.withIntermediates(c.intermediates)
	var chains [][]*x509.Certificate
	for _, t := range times {
		if err := guard(func() (err error) {
			chains, err = sgverify.VerifyLeafCertificate(t, &cert, m)
			return err
		}); err != nil {
			return nil, fmt.Errorf("its certificate does not chain to a CA of the trusted root at %s: %s",
				moment(t).Format(time.RFC3339), brief(err.Error()))
		}
	}
	if len(chains) == 0 || len(chains[0]) < 2 {
		return nil, errors.New("its certificate is not issued by a CA of the trusted root")
	}
	if err := guard(func() error { return sgverify.VerifySignedCertificateTimestamp(chains, 1, m) }); err != nil {
		return chains[0], fmt.Errorf("its certificate was not logged: %s", brief(err.Error()))
	}
	return chains[0], nil
}

// withIntermediates returns the material with what a signature brought along
// between its certificate and those CAs of which the trusted root holds the
// root only, as cosign does. Where the trusted root says which intermediates a
// CA has, there are no others: one may have been taken out for a reason.
func (m *material) withIntermediates(certs []*x509.Certificate) *material {
	if len(certs) == 0 {
		return m
	}
	out := *m
	out.cas = slices.Clone(m.cas)
	for i, ca := range out.cas {
		if f, ok := ca.(*root.FulcioCertificateAuthority); ok && len(f.Intermediates) == 0 {
			with := *f
			with.Intermediates = certs
			out.cas[i] = &with
		}
	}
	return &out
}

// issuersOf finds the CAs above a certificate, at whatever time, issuer first.
func (m *material) issuersOf(leaf *x509.Certificate) []*x509.Certificate {
	for _, certs := range m.issuers {
		var out []*x509.Certificate
		for child := leaf; len(out) < len(certs); child = out[len(out)-1] {
			i := slices.IndexFunc(certs, func(c *x509.Certificate) bool {
				return !c.Equal(child) && bytes.Equal(c.RawSubject, child.RawIssuer) && child.CheckSignatureFrom(c) == nil
			})
			if i < 0 {
				break
			}
			out = append(out, certs[i])
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

func fingerprintOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}
