package verify

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	sgbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/reseal/reseal/inventory"
)

// Subject is the artifact a signature is attached to.
type Subject struct {
	Repository string
	Digest     string // "sha256:<hex>"
	// Content is the artifact itself, where it is at hand. Only detached
	// bundles ever need it: those that know the artifact by another hash than
	// SHA-256, or sign it with Ed25519, which hashes nothing beforehand.
	Content []byte
}

// named reports whether a set of digests by algorithm, as in-toto has them,
// names the artifact.
func (s Subject) named(digests map[string]string) bool {
	if d := digests["sha256"]; d != "" {
		return strings.EqualFold("sha256:"+d, s.Digest)
	}
	for name, h := range map[string]crypto.Hash{"sha384": crypto.SHA384, "sha512": crypto.SHA512} {
		if d := digests[name]; d != "" && s.Content != nil {
			return strings.EqualFold(d, hex.EncodeToString(sum(h, s.Content)))
		}
	}
	return false
}

func sum(h crypto.Hash, b []byte) []byte {
	w := h.New()
	w.Write(b)
	return w.Sum(nil)
}

// hashNames are the names of hash functions in logs and statements.
var hashNames = map[crypto.Hash]string{crypto.SHA256: "sha256", crypto.SHA384: "sha384", crypto.SHA512: "sha512"}

// claim is a stored signature taken apart, before any of it is believed.
type claim struct {
	sub       Subject
	signature []byte

	// message is what was signed, byte for byte. A message signature says only
	// what its digest is, by which hash; both are empty when what was signed
	// could not be read.
	message []byte
	hash    crypto.Hash
	digests map[crypto.Hash][]byte

	enveloped   bool   // in a DSSE envelope with this one signature
	payloadType string // of the envelope
	payload     []byte // in it
	stored      []byte // the envelope as stored

	leaf          *x509.Certificate
	intermediates []*x509.Certificate // that it brings along: nobody vouches for them
	hint          string
	entries       []entry
	tokens        []token
	problems      []string // why it cannot verify, whoever signed

	certified bool // a certificate was meant to name the signer
}

func newClaim(sub Subject) *claim {
	c := &claim{sub: sub, digests: map[crypto.Hash][]byte{}}
	if err := inventory.CheckDigest(sub.Digest); err != nil {
		c.problem("the artifact cannot be checked: %s", brief(err.Error()))
	}
	if sub.Content != nil && inventory.Digest(sub.Content) != sub.Digest {
		c.sub.Content = nil
		c.problem("the artifact at hand is not %s", brief(sub.Digest))
	}
	return c
}

func (c *claim) problem(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// digest is that of what was signed, or nil when it cannot be known.
func (c *claim) digest(h crypto.Hash) []byte {
	if c.digests[h] == nil && c.message != nil {
		c.digests[h] = sum(h, c.message)
	}
	return c.digests[h]
}

// content is what was signed, as sigstore-go sees it. A log may have recorded
// another hash of the payload than SHA-256; algorithm is the one it names.
func (c *claim) content(algorithm string) (sgverify.SignatureContent, error) {
	if c.enveloped {
		return &sgbundle.Envelope{Envelope: &dsse.Envelope{
			PayloadType: c.payloadType,
			Payload:     base64.StdEncoding.EncodeToString(c.payload),
			Signatures:  []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(c.signature)}},
		}}, nil
	}
	h := c.hash
	if h == 0 {
		h = crypto.SHA256
		for other, name := range hashNames {
			if name == algorithm {
				h = other
			}
		}
	}
	if d := c.digest(h); d != nil {
		return sgbundle.NewMessageSignature(d, hashNames[h], c.signature), nil
	}
	return nil, errUnreadable
}

var errUnreadable = errors.New("what was signed cannot be read")

// readable reports whether anything is known of what was signed.
func (c *claim) readable() bool { return c.message != nil || c.hash != 0 }
