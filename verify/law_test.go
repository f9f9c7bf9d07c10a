package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/cosign/v2/pkg/oci/static"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// sample is a stored signature with every proof its format can carry.
type sample struct {
	format      inventory.Format
	annotations map[string]string
	content     []byte
	keyless     bool
	message     []byte // what was signed
	signature   []byte
	signed      time.Time // when its log saw it
}

func (s sample) verify(v *Verifier) inventory.Signature {
	return v.Stored(subject(), s.format, s.annotations, s.content)
}

// samples has one signature by the key and one by a certificate of the CA in
// every format.
func samples(t testing.TB, w *world, priv *ecdsa.PrivateKey, chain ...*x509.Certificate) []sample {
	t.Helper()
	at := time.Now().Add(-time.Minute)
	cert := w.issue(t, priv.Public(), true)
	chainPEM := ""
	for _, c := range chain {
		chainPEM += string(certPEM(c))
	}
	var out []sample
	for _, keyless := range []bool{false, true} {
		named := pemOf(t, priv.Public())
		extra := map[string]string{}
		if keyless {
			named = certPEM(cert)
			extra = map[string]string{static.CertificateAnnotationKey: string(certPEM(cert)), static.ChainAnnotationKey: chainPEM}
		}
		pl := simple(t)
		sig := signRaw(t, priv, pl)
		layer := map[string]string{
			static.SignatureAnnotationKey:        b64(sig),
			static.BundleAnnotationKey:           rekorAnnotation(w.promise(t, "hashedrekord", hashedrekord(hashOf(pl), sig, named), at)),
			static.RFC3161TimestampAnnotationKey: tokenAnnotation(must(w.TimestampResponse(sig))(t)),
		}
		body := statement(subject().Digest, "https://spdx.dev/Document")
		env, envSig := envelope(t, priv, body)
		attestation := map[string]string{
			static.BundleAnnotationKey:           rekorAnnotation(w.promise(t, "dsse", dsseBody(env, body, envSig, named), at)),
			static.RFC3161TimestampAnnotationKey: tokenAnnotation(must(w.TimestampResponse(env))(t)),
		}
		for k, v := range extra {
			layer[k], attestation[k] = v, v
		}
		b := keypair{signer: signerOver{t, priv}, pub: priv.Public(), hash: crypto.SHA256}.bundle(t, body)
		if keyless {
			b.VerificationMaterial.Content = &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: cert.Raw}}
			if len(chain) > 0 {
				certs := []*protocommon.X509Certificate{{RawBytes: cert.Raw}}
				for _, c := range chain {
					certs = append(certs, &protocommon.X509Certificate{RawBytes: c.Raw})
				}
				b.MediaType = bundleV02
				b.VerificationMaterial.Content = &protobundle.VerificationMaterial_X509CertificateChain{
					X509CertificateChain: &protocommon.X509CertificateChain{Certificates: certs}}
			}
		}
		w.prove(t, b, named, at)
		blobSig := signRaw(t, priv, artifact)
		blob := BlobSignature{Signature: blobSig, Certificate: extra[static.CertificateAnnotationKey],
			Entry:     json.RawMessage(rekorAnnotation(w.promise(t, "hashedrekord", hashedrekord(hashOf(artifact), blobSig, named), at))),
			Timestamp: json.RawMessage(tokenAnnotation(must(w.TimestampResponse(blobSig))(t)))}
		pae := paeOf(body)
		for _, f := range inventory.Formats() {
			s := sample{format: f, keyless: keyless, signed: at}
			switch f {
			case inventory.Legacy, inventory.Referrer:
				s.annotations, s.content, s.message, s.signature = layer, pl, pl, sig
			case inventory.LegacyAtt, inventory.ReferrerAtt:
				s.annotations, s.content, s.message, s.signature = attestation, env, pae, envSig
			case inventory.Blob:
				if keyless && len(chain) > 0 {
					continue // it has no place for a chain
				}
				s.content, s.message, s.signature = must(blob.Content())(t), artifact, blobSig
			default:
				s.content, s.message, s.signature = raw(t, b), pae, sigOf(b)
			}
			out = append(out, s)
		}
	}
	return out
}

// stripped returns the sample without some of its proofs: bit 0 is the log
// entry, bit 1 its signed entry timestamp alone, bit 2 the token.
func (s sample) stripped(t testing.TB, what int) sample {
	t.Helper()
	if s.annotations != nil {
		a := s.annotations
		switch {
		case what&1 != 0:
			a = with(a, static.BundleAnnotationKey, "")
		case what&2 != 0:
			a = with(a, static.BundleAnnotationKey, withoutPromise(t, a[static.BundleAnnotationKey]))
		}
		if what&4 != 0 {
			a = with(a, static.RFC3161TimestampAnnotationKey, "")
		}
		s.annotations = a
		return s
	}
	if s.format == inventory.Blob {
		b := must(ParseBlobSignature(s.content))(t)
		switch {
		case what&1 != 0:
			b.Entry = nil
		case what&2 != 0:
			b.Entry = json.RawMessage(withoutPromise(t, string(b.Entry)))
		}
		if what&4 != 0 {
			b.Timestamp = nil
		}
		s.content = must(b.Content())(t)
		return s
	}
	b, _, err := parseBundle(s.content)
	if err != nil {
		t.Fatal(err)
	}
	m := b.VerificationMaterial
	switch {
	case what&1 != 0:
		m.TlogEntries = nil
	case what&2 != 0:
		m.TlogEntries[0].InclusionPromise = nil
	}
	if what&4 != 0 {
		m.TimestampVerificationData = nil
	}
	s.content = raw(t, b)
	return s
}

func withoutPromise(t testing.TB, annotation string) string {
	var b map[string]any
	if err := json.Unmarshal([]byte(annotation), &b); err != nil {
		t.Fatal(err)
	}
	delete(b, "SignedEntryTimestamp")
	return string(must(json.Marshal(b))(t))
}

// TestLawAnnotations: what an annotation says that nobody signed proves
// nothing, and changes nothing.
func TestLawAnnotations(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	v := verifier(t, w, k.Public())
	all := slices.DeleteFunc(samples(t, w, k), func(s sample) bool { return s.annotations == nil })
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"2020-01-01T00:00:00Z", "1577836800", "true", repo, "https://spdx.dev/Document"}))
	name := rapid.OneOf(rapid.StringMatching(`[a-z.]{1,20}/[a-zA-Z0-9]{1,20}`), rapid.SampledFrom([]string{"org.opencontainers.image.created", "predicateType",
		"dev.sigstore.cosign/integratedTime", "dev.sigstore.cosign/timestamp", "dev.sigstore.bundle.predicateType", "dev.cosignproject.cosign/signedAt"}))
	rapid.Check(t, func(rt *rapid.T) {
		s := rapid.SampledFrom(all).Draw(rt, "signature").stripped(t, rapid.IntRange(0, 7).Draw(rt, "stripped"))
		want := s.verify(v)
		for k, v := range rapid.MapOf(name, text).Draw(rt, "annotations") {
			if _, known := s.annotations[k]; !known {
				s.annotations = with(s.annotations, k, v)
			}
		}
		if got := s.verify(v); string(must(json.Marshal(got))(t)) != string(must(json.Marshal(want))(t)) {
			rt.Errorf("annotations %v change %+v into %+v", s.annotations, want, got)
		}
	})
}

// TestLawStripped: a copy that lost proofs is the same signature. It shows
// what the proofs that are left show, and never more.
func TestLawStripped(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	below := w.intermediate(t)
	v := verifier(t, w, k.Public())
	for _, s := range append(samples(t, w, k), samples(t, below, k, below.ca)...) {
		whole := s.verify(v)
		wantVerified(t, whole)
		for what := range 8 {
			part := s.stripped(t, what).verify(v)
			name := fmt.Sprintf("%s, keyless %v, without %03b", s.format, s.keyless, what)
			if part.ID != whole.ID || part.Signer != whole.Signer || part.PayloadDigest != whole.PayloadDigest || part.PredicateType != whole.PredicateType {
				t.Errorf("%s: another signature: %+v", name, part)
			}
			proven := 0
			for _, b := range part.Bounds {
				if !b.Verified {
					continue
				}
				if b.Side == inventory.Upper {
					proven++
				}
				if !slices.Contains(whole.Bounds, b) {
					t.Errorf("%s: shows %+v, which the whole does not", name, b)
				}
			}
			logged, stamped := what&3 == 0, what&4 == 0
			if want := count(logged, stamped); proven != want {
				t.Errorf("%s: %d times are proven, want %d", name, proven, want)
			}
			// An entry whose time the log did not sign is false to those who ask
			// for a log; with none at all the token suffices.
			want := !s.keyless || logged || stamped && what&1 != 0
			if part.Verified != want {
				t.Errorf("%s: verified %v: %s", name, part.Verified, part.Why)
			}
		}
	}
}

func count(list ...bool) (n int) {
	for _, b := range list {
		if b {
			n++
		}
	}
	return n
}

// TestLawTimes: a time that its authority did not sign proves nothing, in any
// format.
func TestLawTimes(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	v := verifier(t, w, k.Public())
	for _, s := range samples(t, w, k) {
		for name, edit := range map[string]func(*protorekor.TransparencyLogEntry){
			"edited":                      func(e *protorekor.TransparencyLogEntry) { e.IntegratedTime -= 3600 },
			"without its promise":         func(e *protorekor.TransparencyLogEntry) { e.InclusionPromise = nil },
			"with an empty promise":       func(e *protorekor.TransparencyLogEntry) { e.InclusionPromise.SignedEntryTimestamp = []byte{0} },
			"of another index":            func(e *protorekor.TransparencyLogEntry) { e.LogIndex++ },
			"of another log":              func(e *protorekor.TransparencyLogEntry) { e.LogId.KeyId[0] ^= 1 },
			"of another body":             func(e *protorekor.TransparencyLogEntry) { e.CanonicalizedBody = append(e.CanonicalizedBody, ' ') },
			"before there were calendars": func(e *protorekor.TransparencyLogEntry) { e.IntegratedTime = -1 << 62 },
		} {
			got := s.edited(t, edit).verify(v)
			for _, b := range got.Bounds {
				if b.Authority.Role == inventory.RoleLog && (b.Verified || b.Why == "") {
					t.Errorf("%s, %s: %+v", s.format, name, b)
				}
			}
			if s.keyless == got.Verified && name != "of another log" {
				t.Errorf("%s, %s: keyless %v, verified %v: %s", s.format, name, s.keyless, got.Verified, got.Why)
			}
		}
	}
}

// edited returns the sample with another log entry.
func (s sample) edited(t testing.TB, edit func(*protorekor.TransparencyLogEntry)) sample {
	t.Helper()
	if s.format == inventory.Blob {
		b := must(ParseBlobSignature(s.content))(t)
		l := sample{annotations: map[string]string{static.BundleAnnotationKey: string(b.Entry)}}.edited(t, edit)
		b.Entry = json.RawMessage(l.annotations[static.BundleAnnotationKey])
		s.content = must(b.Content())(t)
		return s
	}
	if s.annotations != nil {
		b, body, log, err := decodeRekorBundle(s.annotations[static.BundleAnnotationKey])
		if err != nil {
			t.Fatal(err)
		}
		e := &protorekor.TransparencyLogEntry{LogIndex: b.Payload.LogIndex, LogId: &protocommon.LogId{KeyId: log}, IntegratedTime: b.Payload.IntegratedTime,
			InclusionPromise: &protorekor.InclusionPromise{SignedEntryTimestamp: b.SignedEntryTimestamp}, CanonicalizedBody: body}
		edit(e)
		s.annotations = with(s.annotations, static.BundleAnnotationKey, rekorAnnotation(e))
		return s
	}
	b, _, err := parseBundle(s.content)
	if err != nil {
		t.Fatal(err)
	}
	edit(b.VerificationMaterial.TlogEntries[0])
	s.content = raw(t, b)
	return s
}

// TestLawInclusion: an entry that is provably in the log, beside a time the
// log did not sign, has no time.
func TestLawInclusion(t *testing.T) {
	t.Parallel()
	w := must(sandbox.Start(t.Context(), sandbox.Options{}))(t)
	t.Cleanup(func() { _ = w.Close() })
	kp := must(sign.NewEphemeralKeypair(nil))(t)
	b := must(sign.Bundle(&sign.DSSEData{Data: statement(subject().Digest, inventory.SignPredicate), PayloadType: intotoPayload}, kp, sign.BundleOptions{
		TransparencyLogs: []sign.Transparency{sign.NewRekor(&sign.RekorOptions{BaseURL: w.RekorURL(), Timeout: time.Minute}),
			sign.NewRekor(&sign.RekorOptions{BaseURL: w.RekorV2URL(), Timeout: time.Minute, Version: 2})}}))(t)
	v := verifier(t, must(w.TrustedRoot())(t), kp.GetPublicKey())
	check := func(says string, want ...string) {
		t.Helper()
		s := v.Stored(subject(), inventory.Detached, nil, raw(t, b))
		wantVerified(t, s)
		wantBounds(t, s, want...)
		if says != "" && !strings.Contains(s.Bounds[len(s.Bounds)-1].Why, says) {
			t.Errorf("why %q", s.Bounds[len(s.Bounds)-1].Why)
		}
	}
	check("", "log upper verified") // v1; v2 gives no time
	entries := b.VerificationMaterial.TlogEntries
	promise := entries[0].InclusionPromise
	entries[0].InclusionPromise = nil
	check("the log did not sign this time", "log upper unverified")
	entries[0].IntegratedTime = 0
	check("")
	entries[1].IntegratedTime = time.Now().Add(-time.Hour).Unix()
	check("the log did not sign this time", "log upper unverified")
	entries[1].InclusionPromise = promise
	check("does not verify", "log upper unverified")
	// The proofs are checked, not merely there.
	entries[1].InclusionPromise = nil
	entries[1].InclusionProof.Checkpoint.Envelope = entries[0].InclusionProof.Checkpoint.Envelope
	s := v.Stored(subject(), inventory.Detached, nil, raw(t, b))
	if strings.Contains(s.Bounds[0].Why, "did not sign this time") {
		t.Errorf("a checkpoint of another log: %+v", s.Bounds[0])
	}
}

// TestLawIssuance: when a certificate was issued never shows that anything
// existed by then.
func TestLawIssuance(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	below := w.intermediate(t)
	for _, v := range []*Verifier{verifier(t, w), verifier(t, newWorld(t)), verifier(t, nil)} {
		for _, s := range append(samples(t, w, k), samples(t, below, k, below.ca)...) {
			for what := range 8 {
				got := s.stripped(t, what).verify(v)
				sane(t, got)
				upper := slices.ContainsFunc(got.Bounds, func(b inventory.Bound) bool { return b.Side == inventory.Upper && b.Verified })
				for _, b := range got.Bounds {
					if b.Authority.Role != inventory.RoleCA {
						continue
					}
					if !b.Time.Equal(got.Certificate.NotBefore) || b.Verified && !upper {
						t.Errorf("%s: %+v with a proven time %v", s.format, b, upper)
					}
				}
			}
		}
	}
}

// TestLawSubstitute: in no format does a key that was made up to verify a
// signature take the place of one we know.
func TestLawSubstitute(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	id := must(signer.OfKey(k.Public()))(t)
	trusted := verifier(t, w, newECDSA(t).Public(), k.Public())
	for _, s := range samples(t, w, k) {
		if s.keyless {
			continue
		}
		forged := substitute(t, &k.PublicKey, s.signature, s.message)
		named := pemOf(t, forged)
		f := s.edited(t, func(e *protorekor.TransparencyLogEntry) {
			kind, body := "hashedrekord", hashedrekord(hashOf(s.message), s.signature, named)
			if s.format != inventory.Legacy && s.format != inventory.Referrer && s.format != inventory.Blob {
				kind, body = "dsse", dsseBody([]byte("any"), statement(subject().Digest, "https://spdx.dev/Document"), s.signature, named)
			}
			proto.Reset(e)
			proto.Merge(e, w.promise(t, kind, body, s.signed))
		})
		if f.annotations == nil && f.format != inventory.Blob {
			b, _, err := parseBundle(f.content)
			if err != nil {
				t.Fatal(err)
			}
			b.VerificationMaterial.GetPublicKey().Hint = b64(must(decodeHex(must(signer.OfKey(forged))(t).Subject))(t))
			f.content = raw(t, b)
		}
		got := f.verify(trusted)
		wantVerified(t, got)
		wantBounds(t, got, "log upper unverified", "tsa upper verified")
		if got.Signer != id {
			t.Errorf("%s: signer %v, want %v", s.format, got.Signer, id)
		}
		// Where nobody knows either key, it is what it says: someone else's.
		if got := f.verify(verifier(t, w)); got.Signer != must(signer.OfKey(forged))(t) || got.ID == s.verify(trusted).ID {
			t.Errorf("%s: signer %v", s.format, got.Signer)
		}
	}
}

// TestLawHint: naming one trusted key does not put another's signature on it,
// and the order in which keys were given decides nothing.
func TestLawHint(t *testing.T) {
	t.Parallel()
	w, a, b := newWorld(t), newECDSA(t), newECDSA(t)
	of := func(k crypto.PublicKey) string {
		return b64(must(decodeHex(must(signer.OfKey(k))(t).Subject))(t))
	}
	signed := keypair{signer: signerOver{t, a}, pub: a.Public(), hash: crypto.SHA256}.bundle(t, statement(subject().Digest, inventory.SignPredicate))
	for _, hint := range []string{of(a.Public()), of(b.Public()), of(newECDSA(t).Public()), "", "free text", strings.Repeat("x", 1<<16)} {
		signed.VerificationMaterial.GetPublicKey().Hint = hint
		for _, v := range []*Verifier{verifier(t, w, a.Public(), b.Public()), verifier(t, w, b.Public(), a.Public())} {
			s := v.Stored(subject(), inventory.Detached, nil, raw(t, signed))
			wantVerified(t, s)
			if s.Signer != must(signer.OfKey(a.Public()))(t) {
				t.Errorf("hint %.60q: signer %v", hint, s.Signer)
			}
		}
	}
	signed.VerificationMaterial.GetPublicKey().Hint = of(b.Public())
	s := verifier(t, w, b.Public()).Stored(subject(), inventory.Detached, nil, raw(t, signed))
	wantRefused(t, s, "it does not verify with the key "+must(signer.OfKey(b.Public()))(t).ID()+" it names")
}
