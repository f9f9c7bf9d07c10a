package sandbox

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	tsx509 "github.com/sigstore/timestamp-authority/v2/pkg/x509"
)

const (
	timestampPath = "/api/v1/timestamp"
	// maxTimestampRequest bounds a request, which is a hash and a nonce.
	maxTimestampRequest = 64 << 10
)

// timestampPolicy is Sigstore's.
var timestampPolicy = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}

// timestampAuthority issues RFC 3161 tokens. A token says what now says,
// except for its CMS signingTime attribute, which the library takes from the
// real clock and verifiers ignore.
type timestampAuthority struct {
	now        func() time.Time
	key        *signingKey
	leaf, root *x509.Certificate
}

func newTimestampAuthority(name string, start time.Time, now func() time.Time) (*timestampAuthority, error) {
	rootKey, err := newSigningKey()
	if err != nil {
		return nil, err
	}
	key, err := newSigningKey()
	if err != nil {
		return nil, err
	}
	root, err := newCACertificate(name+" root", start, rootKey, nil, nil)
	if err != nil {
		return nil, err
	}
	// RFC 3161 wants the extended key usage critical, which crypto/x509 does
	// not write from ExtKeyUsage.
	eku, err := asn1.Marshal([]asn1.ObjectIdentifier{tsx509.EKUTimestampingOID})
	if err != nil {
		return nil, fmt.Errorf("encoding key usage: %w", err)
	}
	leaf, err := newCertificate(&x509.Certificate{
		Subject:         pkix.Name{CommonName: name},
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: tsx509.EKUOID, Critical: true, Value: eku}},
	}, start, key, root, rootKey)
	if err != nil {
		return nil, err
	}
	return &timestampAuthority{now: now, key: key, leaf: leaf, root: root}, nil
}

// respond makes the response to a request.
func (t *timestampAuthority) respond(req *timestamp.Request) ([]byte, error) {
	switch req.HashAlgorithm {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return nil, fmt.Errorf("unsupported hash algorithm %v", req.HashAlgorithm)
	}
	if len(req.HashedMessage) != req.HashAlgorithm.Size() {
		return nil, fmt.Errorf("message imprint has %d bytes, %v has %d", len(req.HashedMessage), req.HashAlgorithm, req.HashAlgorithm.Size())
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	token := timestamp.Timestamp{
		HashAlgorithm:     req.HashAlgorithm,
		HashedMessage:     req.HashedMessage,
		Time:              t.now(),
		Nonce:             req.Nonce,
		SerialNumber:      serial,
		Policy:            timestampPolicy,
		Accuracy:          time.Second,
		AddTSACertificate: req.Certificates,
		ExtraExtensions:   req.Extensions,
	}
	resp, err := token.CreateResponseWithOpts(t.leaf, t.key.PrivateKey, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing token: %w", err)
	}
	return resp, nil
}

func (t *timestampAuthority) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+timestampPath, func(w http.ResponseWriter, r *http.Request) {
		body, ok := readBody(w, r, maxTimestampRequest)
		if !ok {
			return
		}
		req, err := timestamp.ParseRequest(body)
		if err != nil {
			http.Error(w, "parsing timestamp query: "+err.Error(), http.StatusBadRequest)
			return
		}
		resp, err := t.respond(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/timestamp-reply")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(resp) // the client went away: nobody to tell
	})
	mux.HandleFunc("GET "+timestampPath+"/certchain", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		_, _ = w.Write(certificatesPEM(t.leaf, t.root))
	})
	return mux
}

func certificatesPEM(certs ...*x509.Certificate) []byte {
	var buf bytes.Buffer
	for _, c := range certs {
		buf.Write(cryptoutils.PEMEncode(cryptoutils.CertificatePEMType, c.Raw))
	}
	return buf.Bytes()
}

// readBody reads a bounded request body; when it cannot, it has answered.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err == nil {
		return body, true
	}
	code := http.StatusBadRequest
	if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
		code = http.StatusRequestEntityTooLarge
	}
	http.Error(w, "reading request: "+err.Error(), code)
	return nil, false
}
