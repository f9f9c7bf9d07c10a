package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"maps"
	"math/big"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	"github.com/google/certificate-transparency-go/x509util"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

const (
	repo     = "registry.example/acme/app"
	testSAN  = "https://ci.example/acme/app/release.yml"
	testOIDC = "https://oidc.example"
)

var artifact = []byte("an image manifest")

func subject() Subject { return Subject{Repository: repo, Digest: inventory.Digest(artifact)} }

func statement(digest, predicateType string) []byte {
	return []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` +
		strings.TrimPrefix(digest, "sha256:") + `"}}],"predicateType":"` + predicateType + `","predicate":{}}`)
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// world is a log, a TSA, a CA and a CT log: the log and TSA of sigstore-go's
// virtual Sigstore, and a CA whose certificates carry certificate timestamps.
type world struct {
	*ca.VirtualSigstore
	ca      *x509.Certificate // that issues certificates
	caKey   *ecdsa.PrivateKey
	ctKey   *ecdsa.PrivateKey
	anchors []root.CertificateAuthority // nil: ca itself
	logs    map[string]*root.TransparencyLog
	ctMore  []*ecdsa.PrivateKey // other CT logs of the root
	forged  *ecdsa.PrivateKey   // CT log whose timestamps another signs
	logged  []*ecdsa.PrivateKey // CT logs that certificates carry timestamps of; nil: ctKey alone
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		VirtualSigstore: must(ca.NewVirtualSigstore())(t),
		caKey:           newECDSA(t),
		ctKey:           newECDSA(t),
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-5 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der := must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, w.caKey.Public(), w.caKey))(t)
	w.ca = must(x509.ParseCertificate(der))(t)
	return w
}

func newECDSA(t testing.TB) *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
}

// intermediate returns the world with a CA below its own, which is no anchor.
func (w *world) intermediate(t testing.TB) *world {
	t.Helper()
	key := newECDSA(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "test intermediate of " + w.ca.Subject.CommonName},
		NotBefore: time.Now().Add(-4 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, BasicConstraintsValid: true, IsCA: true,
	}
	der := must(x509.CreateCertificate(rand.Reader, tmpl, w.ca, key.Public(), w.caKey))(t)
	c := *w
	c.anchors = w.FulcioCertificateAuthorities()
	c.ca, c.caKey = must(x509.ParseCertificate(der))(t), key
	return &c
}

func (w *world) RekorLogs() map[string]*root.TransparencyLog {
	logs := w.VirtualSigstore.RekorLogs()
	maps.Copy(logs, w.logs)
	return logs
}

func (w *world) FulcioCertificateAuthorities() []root.CertificateAuthority {
	if w.anchors != nil {
		return w.anchors
	}
	return []root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: w.ca}}
}

func (w *world) CTLogs() map[string]*root.TransparencyLog {
	out := map[string]*root.TransparencyLog{}
	for _, k := range append([]*ecdsa.PrivateKey{w.ctKey}, w.ctMore...) {
		out[ctID(k)] = &root.TransparencyLog{PublicKey: k.Public(), HashFunc: crypto.SHA256}
	}
	return out
}

// ctID is the ID of a CT log.
func ctID(k *ecdsa.PrivateKey) string {
	id, err := signer.OfKey(k.Public())
	if err != nil {
		panic(err)
	}
	return id.Subject
}

// ct is the CT log that certificates of the world rest on.
func (w *world) ct() inventory.Authority {
	return inventory.Authority{Role: inventory.RoleCT, ID: ctID(w.ctKey)}
}

// issue returns a code signing certificate, with a certificate timestamp when
// logged.
func (w *world) issue(t testing.TB, pub crypto.PublicKey, logged bool, extra ...pkix.Extension) *x509.Certificate {
	t.Helper()
	issuer := must(asn1.MarshalWithParams(testOIDC, "utf8"))(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		NotBefore:    time.Now().Add(-10 * time.Minute), NotAfter: time.Now().Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		URIs:            []*url.URL{must(url.Parse(testSAN))(t)},
		ExtraExtensions: append([]pkix.Extension{{Id: fulcioOID(8), Value: issuer}}, extra...),
	}
	der := must(x509.CreateCertificate(rand.Reader, tmpl, w.ca, pub, w.caKey))(t)
	cert := must(x509.ParseCertificate(der))(t)
	if !logged {
		return cert
	}
	logs := w.logged
	if logs == nil {
		logs = []*ecdsa.PrivateKey{w.ctKey}
	}
	var scts []*ct.SignedCertificateTimestamp
	for _, k := range logs {
		logID := sha256.Sum256(must(x509.MarshalPKIXPublicKey(k.Public()))(t))
		sct := ct.SignedCertificateTimestamp{SCTVersion: ct.V1, LogID: ct.LogID{KeyID: logID}, Timestamp: uint64(time.Now().UnixMilli())}
		input := must(ct.SerializeSCTSignatureInput(sct, ct.LogEntry{Leaf: ct.MerkleTreeLeaf{
			Version: ct.V1, LeafType: ct.TimestampedEntryLeafType,
			TimestampedEntry: &ct.TimestampedEntry{
				Timestamp: sct.Timestamp, EntryType: ct.PrecertLogEntryType,
				PrecertEntry: &ct.PreCert{
					IssuerKeyHash:  sha256.Sum256(w.ca.RawSubjectPublicKeyInfo),
					TBSCertificate: cert.RawTBSCertificate,
				},
			},
		}}))(t)
		if k == w.forged {
			k = newECDSA(t)
		}
		sct.Signature = ct.DigitallySigned(must(cttls.CreateSignature(*k, cttls.SHA256, input))(t))
		scts = append(scts, &sct)
	}
	list := must(x509util.MarshalSCTsIntoSCTList(scts))(t)
	value := must(asn1.Marshal(must(cttls.Marshal(*list))(t)))(t)
	tmpl.ExtraExtensions = append(tmpl.ExtraExtensions,
		pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: value})
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, tmpl, w.ca, pub, w.caKey))(t)))(t)
}

func fulcioOID(n int) asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, n}
}

// promise returns a log entry with a signed entry timestamp.
func (w *world) promise(t testing.TB, kind string, body []byte, at time.Time) *protorekor.TransparencyLogEntry {
	t.Helper()
	id := must(w.RekorLogID())(t)
	set := must(w.RekorSignPayload(tlog.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(body), IntegratedTime: at.Unix(), LogIndex: 7, LogID: id}))(t)
	return &protorekor.TransparencyLogEntry{
		LogIndex: 7, LogId: &protocommon.LogId{KeyId: must(hex.DecodeString(id))(t)},
		KindVersion:       &protorekor.KindVersion{Kind: kind, Version: "0.0.1"},
		IntegratedTime:    at.Unix(),
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: set},
		CanonicalizedBody: body,
	}
}

func hashOf(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }
func b64(b []byte) string    { return base64.StdEncoding.EncodeToString(b) }

func hashedrekord(hash string, sig, pemKey []byte) []byte {
	return []byte(`{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"` + hash +
		`"}},"signature":{"content":"` + b64(sig) + `","publicKey":{"content":"` + b64(pemKey) + `"}}}}`)
}

func dsseBody(envelope, payload, sig, pemKey []byte) []byte {
	return []byte(`{"apiVersion":"0.0.1","kind":"dsse","spec":{"envelopeHash":{"algorithm":"sha256","value":"` + hashOf(envelope) +
		`"},"payloadHash":{"algorithm":"sha256","value":"` + hashOf(payload) + `"},"signatures":[{"signature":"` + b64(sig) +
		`","verifier":"` + b64(pemKey) + `"}]}}`)
}

func intoto001Body(envelope, payload, pemKey []byte) []byte {
	return []byte(`{"apiVersion":"0.0.1","kind":"intoto","spec":{"content":{"hash":{"algorithm":"sha256","value":"` + hashOf(envelope) +
		`"},"payloadHash":{"algorithm":"sha256","value":"` + hashOf(payload) + `"}},"publicKey":"` + b64(pemKey) + `"}}`)
}

func rekorAnnotation(e *protorekor.TransparencyLogEntry) string {
	b, _ := json.Marshal(map[string]any{
		"SignedEntryTimestamp": e.GetInclusionPromise().GetSignedEntryTimestamp(),
		"Payload": map[string]any{"body": b64(e.GetCanonicalizedBody()), "integratedTime": e.GetIntegratedTime(),
			"logIndex": e.GetLogIndex(), "logID": hex.EncodeToString(e.GetLogId().GetKeyId())},
	})
	return string(b)
}

func tokenAnnotation(der []byte) string {
	b, _ := json.Marshal(map[string]any{"SignedRFC3161Timestamp": der})
	return string(b)
}

func pemOf(t testing.TB, pub crypto.PublicKey) []byte {
	return must(cryptoutils.MarshalPublicKeyToPEM(pub))(t)
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func signRaw(t testing.TB, k *ecdsa.PrivateKey, msg []byte) []byte {
	sum := sha256.Sum256(msg)
	return must(ecdsa.SignASN1(rand.Reader, k, sum[:]))(t)
}

// simple is the payload cosign signs for the test artifact.
func simple(t testing.TB) []byte {
	d := must(name.NewDigest(repo + "@" + subject().Digest))(t)
	return must(payload.Cosign{Image: d}.MarshalJSON())(t)
}

// legacyLayer is a ".sig" layer with a Rekor entry and a token.
func legacyLayer(t testing.TB, w *world, k *ecdsa.PrivateKey, at time.Time) (map[string]string, []byte) {
	pl := simple(t)
	sig := signRaw(t, k, pl)
	return map[string]string{
		static.SignatureAnnotationKey: b64(sig),
		static.BundleAnnotationKey:    rekorAnnotation(w.promise(t, "hashedrekord", hashedrekord(hashOf(pl), sig, pemOf(t, k.Public())), at)),

		static.RFC3161TimestampAnnotationKey: tokenAnnotation(must(w.TimestampResponse(sig))(t)),
	}, pl
}

func envelope(t testing.TB, k *ecdsa.PrivateKey, body []byte) (env, sig []byte) {
	sig = signRaw(t, k, dsse.PAE(intotoPayload, body))
	return must(json.Marshal(dsse.Envelope{PayloadType: intotoPayload, Payload: b64(body),
		Signatures: []dsse.Signature{{Sig: b64(sig)}}}))(t), sig
}

// attestationLayer is an ".att" layer with a Rekor entry and a token.
func attestationLayer(t testing.TB, w *world, k *ecdsa.PrivateKey, body []byte, at time.Time) (map[string]string, []byte) {
	env, sig := envelope(t, k, body)
	return map[string]string{
		static.BundleAnnotationKey:           rekorAnnotation(w.promise(t, "dsse", dsseBody(env, body, sig, pemOf(t, k.Public())), at)),
		static.RFC3161TimestampAnnotationKey: tokenAnnotation(must(w.TimestampResponse(env))(t)),
	}, env
}

// keyBundle signs content with a fresh key through sigstore-go.
func keyBundle(t testing.TB, content sign.Content, hint []byte) (*protobundle.Bundle, crypto.PublicKey) {
	kp := must(sign.NewEphemeralKeypair(&sign.EphemeralKeypairOptions{Hint: hint}))(t)
	return must(sign.Bundle(content, kp, sign.BundleOptions{}))(t), kp.GetPublicKey()
}

func signBundle(t testing.TB) (*protobundle.Bundle, crypto.PublicKey) {
	return keyBundle(t, &sign.DSSEData{Data: statement(subject().Digest, inventory.SignPredicate), PayloadType: intotoPayload}, nil)
}

func sigOf(b *protobundle.Bundle) []byte {
	if m := b.GetMessageSignature(); m != nil {
		return m.GetSignature()
	}
	return b.GetDsseEnvelope().GetSignatures()[0].GetSig()
}

// prove adds a log entry and a token to a bundle of a key or certificate.
func (w *world) prove(t testing.TB, b *protobundle.Bundle, pemKey []byte, at time.Time) {
	var body []byte
	kind := "dsse"
	if m := b.GetMessageSignature(); m != nil {
		kind, body = "hashedrekord", hashedrekord(hex.EncodeToString(m.GetMessageDigest().GetDigest()), m.GetSignature(), pemKey)
	} else {
		e := b.GetDsseEnvelope()
		body = dsseBody([]byte("any"), e.GetPayload(), sigOf(b), pemKey)
	}
	b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, w.promise(t, kind, body, at))
	w.stamp(t, b)
}

func (w *world) stamp(t testing.TB, b *protobundle.Bundle) {
	if b.VerificationMaterial.TimestampVerificationData == nil {
		b.VerificationMaterial.TimestampVerificationData = &protobundle.TimestampVerificationData{}
	}
	d := b.VerificationMaterial.TimestampVerificationData
	d.Rfc3161Timestamps = append(d.Rfc3161Timestamps,
		&protocommon.RFC3161SignedTimestamp{SignedTimestamp: must(w.TimestampResponse(sigOf(b)))(t)})
}

// keyless replaces the signature of a bundle by one of a certified key.
func keylessBundle(t testing.TB, w *world, logged bool) (*protobundle.Bundle, *x509.Certificate) {
	k := newECDSA(t)
	cert := w.issue(t, k.Public(), logged)
	b, _ := signBundle(t)
	b.GetDsseEnvelope().Signatures[0].Sig = signRaw(t, k, dsse.PAE(intotoPayload, b.GetDsseEnvelope().GetPayload()))
	b.VerificationMaterial.Content = &protobundle.VerificationMaterial_Certificate{
		Certificate: &protocommon.X509Certificate{RawBytes: cert.Raw}}
	return b, cert
}

func raw(t testing.TB, b *protobundle.Bundle) []byte { return must(protojson.Marshal(b))(t) }

func verifier(t testing.TB, tm root.TrustedMaterial, keys ...crypto.PublicKey) *Verifier {
	t.Helper()
	return must(New(Trust{Root: tm, Keys: keys}))(t)
}

func wantBounds(t testing.TB, s inventory.Signature, want ...string) {
	t.Helper()
	var got []string
	for _, b := range s.Bounds {
		v := "unverified"
		if b.Verified {
			v = "verified"
			if b.Why != "" || b.Time.IsZero() || b.Time.Location() != time.UTC || b.Time.Nanosecond() != 0 || len(b.Authority.ID) != 64 {
				t.Errorf("bound is not complete: %+v", b)
			}
		} else if b.Why == "" {
			t.Errorf("bound without a reason: %+v", b)
		}
		got = append(got, string(b.Authority.Role)+" "+string(b.Side)+" "+v)
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("bounds %v, want %v: %+v", got, want, s.Bounds)
	}
}
func wantVerified(t testing.TB, s inventory.Signature) {
	t.Helper()
	if !s.Verified || s.Why != "" {
		t.Errorf("not verified: %s", s.Why)
	}
}

func wantRefused(t testing.TB, s inventory.Signature, why ...string) {
	t.Helper()
	if s.Verified || s.Why == "" {
		t.Errorf("verified %v, why %q", s.Verified, s.Why)
	}
	for _, w := range why {
		if !strings.Contains(s.Why, w) {
			t.Errorf("why %q, want %q in it", s.Why, w)
		}
	}
}

func hexOf(b []byte) string                                  { return hex.EncodeToString(b) }
func protojsonMarshal(b *protobundle.Bundle) ([]byte, error) { return protojson.Marshal(b) }

// wholesome fails when a text in v could not be kept by a database.
func wholesome(t testing.TB, v any) {
	t.Helper()
	var walk func(reflect.Value)
	walk = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			if s := v.String(); !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
				t.Errorf("a text that cannot be kept: %q", s)
			}
		case reflect.Pointer:
			if !v.IsNil() {
				walk(v.Elem())
			}
		case reflect.Struct:
			if v.Type() == reflect.TypeFor[time.Time]() {
				return
			}
			for i := range v.NumField() {
				walk(v.Field(i))
			}
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i))
			}
		}
	}
	walk(reflect.ValueOf(v))
}

func decodeHex(s string) ([]byte, error) { return hex.DecodeString(s) }

func paeOf(body []byte) []byte { return dsse.PAE(intotoPayload, body) }

// signerOver signs as cosign does with a P-256 key.
type signerOver struct {
	testing.TB
	key *ecdsa.PrivateKey
}

func (s signerOver) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return s.key.Public(), nil
}

func (s signerOver) SignMessage(message io.Reader, _ ...signature.SignOption) ([]byte, error) {
	body, err := io.ReadAll(message)
	return signRaw(s.TB, s.key, body), err
}
