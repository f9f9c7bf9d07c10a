package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

func TestLegacyKey(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	at := time.Now().Add(-30 * time.Minute)
	ann, pl := legacyLayer(t, w, k, at)
	id := must(signer.OfKey(k.Public()))(t)

	for name, v := range map[string]*Verifier{
		"trusted":              verifier(t, w, newECDSA(t).Public(), k.Public()),
		"only in the log":      verifier(t, w),
		"trusted by something": verifier(t, w, newECDSA(t).Public()),
	} {
		t.Run(name, func(t *testing.T) {
			s := v.Stored(subject(), inventory.Legacy, ann, pl)
			wantVerified(t, s)
			wantBounds(t, s, "log upper verified", "tsa upper verified")
			if s.Signer != id || s.Names != repo || s.PredicateType != inventory.SignPredicate ||
				s.Format != inventory.Legacy || s.Content != inventory.Digest(pl) || s.PayloadDigest != s.Content || len(s.Requires) != 0 {
				t.Errorf("%+v", s)
			}
			if !s.Bounds[0].Time.Equal(at.Truncate(time.Second)) {
				t.Errorf("time %s, want %s", s.Bounds[0].Time, at)
			}
			sig := must(base64.StdEncoding.DecodeString(ann[static.SignatureAnnotationKey]))(t)
			if s.ID != inventory.SignatureID(repo, subject().Digest, inventory.Legacy, s.Signer, inventory.Digest(pl), sig) {
				t.Error("ID is not that of the signature bytes")
			}
		})
	}

	t.Run("no root", func(t *testing.T) {
		s := verifier(t, nil, k.Public()).Stored(subject(), inventory.Legacy, ann, pl)
		wantVerified(t, s)
		wantBounds(t, s, "log upper unverified", "tsa upper unverified")
		for _, b := range s.Bounds {
			if b.Why != noRoot || b.Time.IsZero() {
				t.Errorf("%+v", b)
			}
		}
	})
	t.Run("no proof, unknown key", func(t *testing.T) {
		s := verifier(t, w).Stored(subject(), inventory.Legacy, map[string]string{static.SignatureAnnotationKey: ann[static.SignatureAnnotationKey]}, pl)
		wantRefused(t, s, "no known key verifies it", "--key")
		wantBounds(t, s)
		if s.Signer.Kind != signer.Unknown {
			t.Errorf("signer %v", s.Signer)
		}
	})
	t.Run("token survives an unknown key", func(t *testing.T) {
		a := with(ann, static.BundleAnnotationKey, "")
		s := verifier(t, w).Stored(subject(), inventory.Legacy, a, pl)
		wantRefused(t, s)
		wantBounds(t, s, "tsa upper verified")
	})
	t.Run("another world", func(t *testing.T) {
		s := verifier(t, newWorld(t), k.Public()).Stored(subject(), inventory.Legacy, ann, pl)
		wantVerified(t, s)
		wantBounds(t, s, "log upper unverified", "tsa upper unverified")
	})
	t.Run("edited integrated time", func(t *testing.T) {
		a := with(ann, static.BundleAnnotationKey, editTime(t, ann[static.BundleAnnotationKey], at.Add(-time.Hour).Unix()))
		s := verifier(t, w, k.Public()).Stored(subject(), inventory.Legacy, a, pl)
		wantVerified(t, s)
		wantBounds(t, s, "log upper unverified", "tsa upper verified")
	})
	t.Run("token over another signature", func(t *testing.T) {
		a := with(ann, static.RFC3161TimestampAnnotationKey, tokenAnnotation(must(w.TimestampResponse([]byte("another")))(t)))
		s := verifier(t, w, k.Public()).Stored(subject(), inventory.Legacy, a, pl)
		wantVerified(t, s)
		wantBounds(t, s, "log upper verified", "tsa upper unverified")
	})
	t.Run("entry of another signature", func(t *testing.T) {
		other, _ := legacyLayer(t, w, k, at)
		a := with(ann, static.BundleAnnotationKey, other[static.BundleAnnotationKey])
		s := verifier(t, w, k.Public()).Stored(subject(), inventory.Legacy, a, pl)
		wantVerified(t, s)
		wantBounds(t, s, "log upper unverified", "tsa upper verified")
	})
	t.Run("a substitute key hides no known one", func(t *testing.T) {
		sig := must(base64.StdEncoding.DecodeString(ann[static.SignatureAnnotationKey]))(t)
		sub := substitute(t, &k.PublicKey, sig, pl)
		a := with(ann, static.BundleAnnotationKey, rekorAnnotation(w.promise(t, "hashedrekord", hashedrekord(hashOf(pl), sig, pemOf(t, sub)), at)))
		s := verifier(t, w, k.Public()).Stored(subject(), inventory.Legacy, a, pl)
		wantVerified(t, s)
		wantBounds(t, s, "log upper unverified", "tsa upper verified")
		if s.Signer != id {
			t.Errorf("signer %v, want %v", s.Signer, id)
		}
		// Nothing at hand shows that another key signed.
		s = verifier(t, w).Stored(subject(), inventory.Legacy, a, pl)
		wantVerified(t, s)
		if s.Signer != must(signer.OfKey(sub))(t) {
			t.Errorf("signer %v", s.Signer)
		}
	})
}

func with(ann map[string]string, k, v string) map[string]string {
	out := map[string]string{}
	for a, b := range ann {
		out[a] = b
	}
	out[k] = v
	return out
}

func editTime(t testing.TB, ann string, to int64) string {
	var b map[string]any
	dec := json.NewDecoder(strings.NewReader(ann))
	dec.UseNumber()
	if err := dec.Decode(&b); err != nil {
		t.Fatal(err)
	}
	b["Payload"].(map[string]any)["integratedTime"] = to
	return string(must(json.Marshal(b))(t))
}

func TestLegacyKeyless(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	cert := w.issue(t, k.Public(), true)
	pl := simple(t)
	sig := signRaw(t, k, pl)
	ann := map[string]string{
		static.SignatureAnnotationKey:   b64(sig),
		static.CertificateAnnotationKey: string(certPEM(cert)),
		static.ChainAnnotationKey:       string(certPEM(w.ca)),
		static.BundleAnnotationKey: rekorAnnotation(w.promise(t, "hashedrekord",
			hashedrekord(hashOf(pl), sig, certPEM(cert)), time.Now())),
	}
	s := verifier(t, w).Stored(subject(), inventory.Legacy, ann, pl)
	wantVerified(t, s)
	wantBounds(t, s, "log upper verified", "ca lower verified")
	want := signer.Identity{Kind: signer.Keyless, Issuer: testOIDC, Subject: testSAN}
	authority := inventory.Authority{Role: inventory.RoleCA, ID: fingerprintOf(w.ca)}
	if s.Signer != want || !slices.Equal(s.Requires, []inventory.Authority{authority, w.ct()}) {
		t.Errorf("%+v", s)
	}

	s = verifier(t, nil).Stored(subject(), inventory.Legacy, ann, pl)
	wantRefused(t, s, noRoot)
	wantBounds(t, s, "log upper unverified", "ca lower unverified")
	if s.Signer != want {
		t.Errorf("signer %v", s.Signer)
	}

	s = verifier(t, w).Stored(subject(), inventory.Legacy, with(ann, static.BundleAnnotationKey, ""), pl)
	wantRefused(t, s, "no verified time")
	wantBounds(t, s, "ca lower unverified")
	if len(s.Requires) != 1 || s.Requires[0] != authority {
		t.Errorf("requires %v", s.Requires)
	}

	s = verifier(t, w).Stored(subject(), inventory.Legacy, with(ann, static.SignatureAnnotationKey, b64(signRaw(t, newECDSA(t), pl))), pl)
	wantRefused(t, s, "does not verify with the key in its certificate")
}

func TestLegacyAttestation(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	at := time.Now().Add(-30 * time.Minute)
	const spdx = "https://spdx.dev/Document"
	body := statement(subject().Digest, spdx)
	ann, env := attestationLayer(t, w, k, body, at)
	for name, v := range map[string]*Verifier{"trusted": verifier(t, w, k.Public()), "only in the log": verifier(t, w)} {
		t.Run(name, func(t *testing.T) {
			s := v.Stored(subject(), inventory.LegacyAtt, ann, env)
			wantVerified(t, s)
			wantBounds(t, s, "log upper verified", "tsa upper verified")
			if s.PredicateType != spdx || s.PayloadDigest != inventory.Digest(body) || s.Content != inventory.Digest(env) ||
				s.Format != inventory.LegacyAtt || s.Signer != must(signer.OfKey(k.Public()))(t) {
				t.Errorf("%+v", s)
			}
		})
	}
	t.Run("statement v0.1", func(t *testing.T) {
		b := []byte(strings.Replace(string(body), "Statement/v1", "Statement/v0.1", 1))
		e, _ := envelope(t, k, b)
		wantVerified(t, verifier(t, w, k.Public()).Stored(subject(), inventory.LegacyAtt, nil, e))
	})
	t.Run("intoto 0.0.1 entry", func(t *testing.T) {
		a := map[string]string{static.BundleAnnotationKey: rekorAnnotation(w.promise(t, "intoto", intoto001Body(env, body, pemOf(t, k.Public())), at))}
		s := verifier(t, w).Stored(subject(), inventory.LegacyAtt, a, env)
		wantVerified(t, s)
		wantBounds(t, s, "log upper verified")
		a = map[string]string{static.BundleAnnotationKey: rekorAnnotation(w.promise(t, "intoto", intoto001Body([]byte("another"), body, pemOf(t, k.Public())), at))}
		s = verifier(t, w).Stored(subject(), inventory.LegacyAtt, a, env)
		wantVerified(t, s)
		wantBounds(t, s, "log upper unverified")
		a = map[string]string{static.BundleAnnotationKey: rekorAnnotation(w.promise(t, "intoto", intoto001Body(env, body, pemOf(t, newECDSA(t).Public())), at))}
		s = verifier(t, w, k.Public()).Stored(subject(), inventory.LegacyAtt, a, env)
		wantVerified(t, s)
		wantBounds(t, s, "log upper unverified")
	})
	t.Run("token over the signature", func(t *testing.T) {
		_, sig := envelope(t, k, body)
		a := with(ann, static.RFC3161TimestampAnnotationKey, tokenAnnotation(must(w.TimestampResponse(sig))(t)))
		wantBounds(t, verifier(t, w).Stored(subject(), inventory.LegacyAtt, a, env), "log upper verified", "tsa upper unverified")
	})
	t.Run("keyless", func(t *testing.T) {
		cert := w.issue(t, k.Public(), true)
		a := with(ann, static.CertificateAnnotationKey, string(certPEM(cert)))
		a[static.BundleAnnotationKey] = ""
		s := verifier(t, w).Stored(subject(), inventory.LegacyAtt, a, env)
		wantVerified(t, s)
		wantBounds(t, s, "tsa upper verified", "ca lower verified")
	})

	refused := map[string]struct {
		env []byte
		why string
	}{
		"other subject":   {first(envelope(t, k, statement("sha256:"+strings.Repeat("a", 64), spdx))), "the statement is about sha256:aaaa"},
		"no subject":      {first(envelope(t, k, []byte(`{"_type":"https://in-toto.io/Statement/v1","predicateType":"x"}`))), "names no artifact by sha256"},
		"other type":      {first(envelope(t, k, []byte(strings.Replace(string(body), "Statement/v1", "Statement/v9", 1)))), "Statement/v9"},
		"not a statement": {first(envelope(t, k, []byte(`[]`))), "not an in-toto statement"},
		"two signatures":  {editEnvelope(t, env, func(e *dsse.Envelope) { e.Signatures = append(e.Signatures, e.Signatures[0]) }), "holds 2 signatures"},
		"no signature":    {editEnvelope(t, env, func(e *dsse.Envelope) { e.Signatures = nil }), "holds 0 signatures"},
		"payload type":    {editEnvelope(t, env, func(e *dsse.Envelope) { e.PayloadType = "text/plain" }), `holds "text/plain"`},
		"payload base64":  {editEnvelope(t, env, func(e *dsse.Envelope) { e.Payload = "%" }), "not base64"},
		"sig base64":      {editEnvelope(t, env, func(e *dsse.Envelope) { e.Signatures[0].Sig = "%" }), "not base64"},
		"other payload":   {editEnvelope(t, env, func(e *dsse.Envelope) { e.Payload = b64(append(body, ' ')) }), "no known key verifies it"},
		"empty":           {nil, "not a DSSE envelope"},
		"number":          {[]byte("5"), "not a DSSE envelope"},
	}
	for name, c := range refused {
		t.Run(name, func(t *testing.T) {
			wantRefused(t, verifier(t, w, k.Public()).Stored(subject(), inventory.LegacyAtt, nil, c.env), c.why)
		})
	}
}

func first(b, _ []byte) []byte { return b }

func editEnvelope(t testing.TB, env []byte, f func(*dsse.Envelope)) []byte {
	var e dsse.Envelope
	if err := json.Unmarshal(env, &e); err != nil {
		t.Fatal(err)
	}
	f(&e)
	return must(json.Marshal(e))(t)
}

func TestBundleKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := time.Now().Add(-30 * time.Minute)
	b, pub := signBundle(t)
	id := must(signer.OfKey(pub))(t)
	w.prove(t, b, pemOf(t, pub), at)
	for name, v := range map[string]*Verifier{"trusted": verifier(t, w, newECDSA(t).Public(), pub), "only in the log": verifier(t, w)} {
		t.Run(name, func(t *testing.T) {
			s := v.Stored(subject(), inventory.Bundle, nil, raw(t, b))
			wantVerified(t, s)
			wantBounds(t, s, "log upper verified", "tsa upper verified")
			if s.Signer != id || s.PredicateType != inventory.SignPredicate || s.PayloadDigest != inventory.Digest(b.GetDsseEnvelope().GetPayload()) {
				t.Errorf("%+v", s)
			}
		})
	}
	t.Run("all media types", func(t *testing.T) {
		for _, mt := range []string{bundleV01, bundleV02, bundleV03Old, bundleV03} {
			c := proto.Clone(b).(*protobundle.Bundle)
			c.MediaType = mt
			wantVerified(t, verifier(t, w, pub).Stored(subject(), inventory.Bundle, nil, raw(t, c)))
		}
		c := proto.Clone(b).(*protobundle.Bundle)
		c.MediaType = "application/vnd.dev.sigstore.bundle.v0.9+json"
		wantRefused(t, verifier(t, w, pub).Stored(subject(), inventory.Bundle, nil, raw(t, c)), "v0.9")
	})
	t.Run("free text hint", func(t *testing.T) {
		c, p := keyBundle(t, &sign.DSSEData{Data: statement(subject().Digest, inventory.SignPredicate), PayloadType: intotoPayload}, []byte("our key"))
		wantVerified(t, verifier(t, nil, p).Stored(subject(), inventory.Bundle, nil, raw(t, c)))
		wantRefused(t, verifier(t, nil).Stored(subject(), inventory.Bundle, nil, raw(t, c)), "no known key verifies it")
	})
	t.Run("key not at hand", func(t *testing.T) {
		c, p := signBundle(t)
		s := verifier(t, w, pub).Stored(subject(), inventory.Bundle, nil, raw(t, c))
		wantRefused(t, s, "the key "+must(signer.OfKey(p))(t).ID()+" is not at hand: give it with --key")
		if s.Signer != must(signer.OfKey(p))(t) {
			t.Errorf("signer %v", s.Signer)
		}
	})
	t.Run("times of a proof alone", func(t *testing.T) {
		c := proto.Clone(b).(*protobundle.Bundle)
		e := c.VerificationMaterial.TlogEntries[0]
		e.InclusionPromise = nil
		s := verifier(t, w, pub).Stored(subject(), inventory.Bundle, nil, raw(t, c))
		wantVerified(t, s)
		wantBounds(t, s, "log upper unverified", "tsa upper verified")
		e.IntegratedTime = 0
		wantBounds(t, verifier(t, w, pub).Stored(subject(), inventory.Bundle, nil, raw(t, c)), "tsa upper verified")
	})
	t.Run("one broken entry hides nothing", func(t *testing.T) {
		c := proto.Clone(b).(*protobundle.Bundle)
		m := c.VerificationMaterial
		m.TlogEntries = append([]*protorekor.TransparencyLogEntry{{}, {
			LogIndex: 3, LogId: &protocommon.LogId{KeyId: []byte("x")}, IntegratedTime: 1 << 62,
			KindVersion: &protorekor.KindVersion{Kind: "dsse", Version: "0.0.2"}, CanonicalizedBody: []byte(`{"kind":"dsse","apiVersion":"0.0.2"}`),
		}}, m.TlogEntries...)
		m.TimestampVerificationData.Rfc3161Timestamps = append(
			[]*protocommon.RFC3161SignedTimestamp{{}, {SignedTimestamp: []byte("x")}}, m.TimestampVerificationData.Rfc3161Timestamps...)
		w.stamp(t, c)
		s := verifier(t, w, pub).Stored(subject(), inventory.Bundle, nil, raw(t, c))
		wantVerified(t, s)
		wantBounds(t, s, "log upper unverified", "log upper verified",
			"tsa upper unverified", "tsa upper unverified", "tsa upper verified", "tsa upper verified")
		if _, err := json.Marshal(s); err != nil {
			t.Error(err)
		}
	})
	t.Run("proof without checkpoint", func(t *testing.T) {
		c := proto.Clone(b).(*protobundle.Bundle)
		c.MediaType = bundleV01
		c.VerificationMaterial.TlogEntries[0].InclusionProof = &protorekor.InclusionProof{TreeSize: 1}
		wantBounds(t, verifier(t, w, pub).Stored(subject(), inventory.Bundle, nil, raw(t, c)), "log upper verified", "tsa upper verified")
		c.MediaType = bundleV02
		wantBounds(t, verifier(t, w, pub).Stored(subject(), inventory.Bundle, nil, raw(t, c)), "log upper unverified", "tsa upper verified")
	})
	t.Run("too many entries", func(t *testing.T) {
		c := proto.Clone(b).(*protobundle.Bundle)
		for range maxEntries + 5 {
			c.VerificationMaterial.TlogEntries = append(c.VerificationMaterial.TlogEntries, c.VerificationMaterial.TlogEntries[0])
		}
		if s := verifier(t, w, pub).Stored(subject(), inventory.Bundle, nil, raw(t, c)); len(s.Bounds) != maxEntries+2 || s.Bounds[maxEntries].Verified {
			t.Errorf("%d bounds", len(s.Bounds))
		}
	})
	t.Run("other subject", func(t *testing.T) {
		wantRefused(t, verifier(t, w, pub).Stored(Subject{Repository: repo, Digest: "sha256:" + strings.Repeat("b", 64)}, inventory.Bundle, nil, raw(t, b)), "the statement is about")
		wantRefused(t, verifier(t, w, pub).Stored(Subject{Repository: repo, Digest: "latest"}, inventory.Bundle, nil, raw(t, b)), "cannot be checked")
	})
	t.Run("two signatures", func(t *testing.T) {
		c := proto.Clone(b).(*protobundle.Bundle)
		c.GetDsseEnvelope().Signatures = append(c.GetDsseEnvelope().Signatures, c.GetDsseEnvelope().Signatures[0])
		wantRefused(t, verifier(t, w, pub).Stored(subject(), inventory.Bundle, nil, raw(t, c)), "holds 2 signatures")
	})
}

func TestBundleMessageSignature(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, pub := keyBundle(t, &sign.PlainData{Data: artifact}, nil)
	w.prove(t, b, pemOf(t, pub), time.Now())
	s := verifier(t, w, pub).Stored(subject(), inventory.Bundle, nil, raw(t, b))
	wantVerified(t, s)
	wantBounds(t, s, "log upper verified", "tsa upper verified")
	if s.PredicateType != inventory.SignPredicate || s.PayloadDigest != subject().Digest {
		t.Errorf("%+v", s)
	}
	other := Subject{Repository: repo, Digest: "sha256:" + strings.Repeat("b", 64)}
	s = verifier(t, w, pub).Stored(other, inventory.Bundle, nil, raw(t, b))
	wantRefused(t, s, subject().Digest, other.Digest)
	if s.Signer != must(signer.OfKey(pub))(t) {
		t.Error("who signed the other artifact is known")
	}
	if _, err := Payload(inventory.Bundle, raw(t, b)); err == nil {
		t.Error("a message signature has no payload")
	}
}

func TestBundleKeyless(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, cert := keylessBundle(t, w, true)
	w.prove(t, b, certPEM(cert), time.Now())
	s := verifier(t, w).Stored(subject(), inventory.Bundle, nil, raw(t, b))
	wantVerified(t, s)
	wantBounds(t, s, "log upper verified", "tsa upper verified", "ca lower verified")
	if s.Signer != (signer.Identity{Kind: signer.Keyless, Issuer: testOIDC, Subject: testSAN}) {
		t.Errorf("signer %v", s.Signer)
	}
	if !s.Bounds[2].Time.Equal(cert.NotBefore) || s.Bounds[2].Authority != s.Requires[0] {
		t.Errorf("%+v", s.Bounds[2])
	}

	t.Run("not in a CT log", func(t *testing.T) {
		b, cert := keylessBundle(t, w, false)
		w.prove(t, b, certPEM(cert), time.Now())
		s := verifier(t, w).Stored(subject(), inventory.Bundle, nil, raw(t, b))
		wantRefused(t, s, "was not logged")
		wantBounds(t, s, "log upper verified", "tsa upper verified", "ca lower unverified")
	})
	t.Run("another CA", func(t *testing.T) {
		b, cert := keylessBundle(t, newWorld(t), true)
		w.prove(t, b, certPEM(cert), time.Now())
		s := verifier(t, w).Stored(subject(), inventory.Bundle, nil, raw(t, b))
		wantRefused(t, s, "does not chain to a CA")
		if s.Signer.Subject != testSAN || len(s.Requires) != 0 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("logged outside its validity", func(t *testing.T) {
		b, cert := keylessBundle(t, w, true)
		w.prove(t, b, certPEM(cert), time.Now().Add(-30*time.Minute))
		s := verifier(t, w).Stored(subject(), inventory.Bundle, nil, raw(t, b))
		wantRefused(t, s, "outside certificate validity")
		wantBounds(t, s, "log upper unverified", "tsa upper verified", "ca lower verified")
	})
	t.Run("certificate chain", func(t *testing.T) {
		c := proto.Clone(b).(*protobundle.Bundle)
		chain := &protocommon.X509CertificateChain{Certificates: []*protocommon.X509Certificate{{RawBytes: cert.Raw}}}
		c.VerificationMaterial.Content = &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: chain}
		c.MediaType = bundleV02
		wantVerified(t, verifier(t, w).Stored(subject(), inventory.Bundle, nil, raw(t, c)))
		c.MediaType = bundleV03
		wantRefused(t, verifier(t, w).Stored(subject(), inventory.Bundle, nil, raw(t, c)), "not a chain")
		chain.Certificates = nil
		wantRefused(t, verifier(t, w).Stored(subject(), inventory.Bundle, nil, raw(t, c)), "chain is empty")
	})
}

func TestKeyKinds(t *testing.T) {
	t.Parallel()
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	pl := simple(t)
	for name, c := range map[string]struct {
		priv crypto.PrivateKey
		load func() (signature.Signer, error)
		pub  crypto.PublicKey
	}{
		"P-384 SHA-384": {load: func() (signature.Signer, error) { return signature.LoadECDSASigner(p384, crypto.SHA384) }, pub: p384.Public()},
		"P-384 SHA-256": {load: func() (signature.Signer, error) { return signature.LoadECDSASigner(p384, crypto.SHA256) }, pub: p384.Public()},
		"Ed25519":       {load: func() (signature.Signer, error) { return signature.LoadED25519Signer(ed) }, pub: ed.Public()},
		"Ed25519ph":     {load: func() (signature.Signer, error) { return signature.LoadED25519phSigner(ed) }, pub: ed.Public()},
	} {
		t.Run(name, func(t *testing.T) {
			sig := must(must(c.load())(t).SignMessage(strings.NewReader(string(pl))))(t)
			wantVerified(t, verifier(t, nil, c.pub).Stored(subject(), inventory.Legacy, map[string]string{static.SignatureAnnotationKey: b64(sig)}, pl))
		})
	}
	if _, err := New(Trust{Keys: []crypto.PublicKey{"no key"}}); err == nil {
		t.Error("a key of no kind was accepted")
	}
}

func TestHostileLegacy(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	ann, pl := legacyLayer(t, w, k, time.Now())
	v := verifier(t, w, k.Public())
	huge := strings.Repeat("A", maxEvidence+4)

	for name, c := range map[string]struct {
		key, value string
		refused    bool // the signature itself
	}{
		"body is a number":       {static.BundleAnnotationKey, `{"Payload":{"body":5}}`, false},
		"bundle null":            {static.BundleAnnotationKey, `null`, false},
		"bundle empty object":    {static.BundleAnnotationKey, `{}`, false},
		"bundle array":           {static.BundleAnnotationKey, `[]`, false},
		"bundle not JSON":        {static.BundleAnnotationKey, `{`, false},
		"bundle huge":            {static.BundleAnnotationKey, `{"Payload":{"body":"` + huge + `"}}`, false},
		"body not base64":        {static.BundleAnnotationKey, `{"Payload":{"body":"%%%"}}`, false},
		"body not JSON":          {static.BundleAnnotationKey, `{"SignedEntryTimestamp":"AA==","Payload":{"body":"AAAA","integratedTime":1,"logIndex":1,"logID":"00"}}`, false},
		"negative index":         {static.BundleAnnotationKey, `{"Payload":{"body":"e30=","integratedTime":1,"logIndex":-1,"logID":"00"}}`, false},
		"log ID not hex":         {static.BundleAnnotationKey, `{"Payload":{"body":"e30=","logID":"zz"}}`, false},
		"entry without spec":     {static.BundleAnnotationKey, `{"SignedEntryTimestamp":"AA==","Payload":{"body":"` + b64([]byte(`{"kind":"dsse","apiVersion":"0.0.1","spec":{"signatures":[]}}`)) + `","integratedTime":9223372036854775807,"logID":"00"}}`, false},
		"token null":             {static.RFC3161TimestampAnnotationKey, `null`, false},
		"token number":           {static.RFC3161TimestampAnnotationKey, `{"SignedRFC3161Timestamp":5}`, false},
		"token not base64":       {static.RFC3161TimestampAnnotationKey, `{"SignedRFC3161Timestamp":"%"}`, false},
		"token garbage":          {static.RFC3161TimestampAnnotationKey, `{"SignedRFC3161Timestamp":"MIAwgDCA"}`, false},
		"token huge":             {static.RFC3161TimestampAnnotationKey, `{"SignedRFC3161Timestamp":"` + huge + huge + `"}`, false},
		"signature missing":      {static.SignatureAnnotationKey, ``, true},
		"signature not base64":   {static.SignatureAnnotationKey, `%`, true},
		"signature huge":         {static.SignatureAnnotationKey, huge, true},
		"signature of nothing":   {static.SignatureAnnotationKey, `AAAA`, true},
		"certificate not PEM":    {static.CertificateAnnotationKey, `x`, true},
		"certificate garbage":    {static.CertificateAnnotationKey, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", true},
		"certificate of another": {static.CertificateAnnotationKey, string(certPEM(w.ca)), true},
	} {
		t.Run(name, func(t *testing.T) {
			s := v.Stored(subject(), inventory.Legacy, with(ann, c.key, c.value), pl)
			if s.Verified == c.refused {
				t.Errorf("verified %v: %s", s.Verified, s.Why)
			}
			for _, b := range s.Bounds {
				role := map[string]inventory.Role{static.BundleAnnotationKey: inventory.RoleLog, static.RFC3161TimestampAnnotationKey: inventory.RoleTSA}[c.key]
				if b.Authority.Role == role && (b.Verified || b.Why == "") {
					t.Errorf("%+v", b)
				}
			}
			must(json.Marshal(s))(t)
			// The consumer refuses or accepts; it does not break off.
			con := Consumer{Key: k.Public(), Root: w, RequireTimestamp: true}
			if err := con.Legacy(t.Context(), subject(), with(ann, c.key, c.value), pl); err == nil {
				t.Error("the consumer accepts it")
			}
		})
	}

	sign := func(payload string) inventory.Signature {
		return v.Stored(subject(), inventory.Legacy, map[string]string{static.SignatureAnnotationKey: b64(signRaw(t, k, []byte(payload)))}, []byte(payload))
	}
	other := "sha256:" + strings.Repeat("c", 64)
	wantRefused(t, sign(strings.Replace(string(pl), subject().Digest, other, 1)), other, subject().Digest)
	wantRefused(t, sign(strings.Replace(string(pl), "cosign container image signature", "atomic container signature", 1)), "atomic container signature")
	wantRefused(t, sign(""), "not simple signing JSON")
	wantRefused(t, sign("5"), "not simple signing JSON")
	wantRefused(t, sign(`{"critical":[]}`), "not simple signing JSON")
	wantRefused(t, v.Stored(subject(), inventory.Legacy, nil, nil), "no signature")
	if s := sign(strings.Replace(string(pl), repo, "busybox:1.36", 1)); s.Names != "index.docker.io/library/busybox" {
		t.Errorf("names %q", s.Names)
	}
}

func TestHostileBundle(t *testing.T) {
	t.Parallel()
	v := verifier(t, newWorld(t))
	for name, raw := range map[string]string{
		"empty": ``, "null": `null`, "object": `{}`, "array": `[]`,
		"no content":    `{"mediaType":"` + bundleV03 + `","verificationMaterial":{"publicKey":{"hint":"x"}}}`,
		"no signature":  `{"mediaType":"` + bundleV03 + `","messageSignature":{},"verificationMaterial":{"publicKey":{}}}`,
		"empty parts":   `{"mediaType":"` + bundleV03 + `","dsseEnvelope":{},"verificationMaterial":{"tlogEntries":[{}],"timestampVerificationData":{"rfc3161Timestamps":[{}]}}}`,
		"bad cert":      `{"mediaType":"` + bundleV03 + `","dsseEnvelope":{"signatures":[{"sig":"AAAA"}]},"verificationMaterial":{"certificate":{"rawBytes":"AAAA"}}}`,
		"unknown field": `{"mediaType":"` + bundleV03 + `","future":1,"dsseEnvelope":{"payload":"` + b64(statement(subject().Digest, "a\x01b")) + `"}}`,
		"deep":          strings.Repeat(`{"a":`, 100000),
	} {
		t.Run(name, func(t *testing.T) {
			s := v.Stored(subject(), inventory.Bundle, nil, []byte(raw))
			wantRefused(t, s)
			must(json.Marshal(s))(t)
		})
	}
	a, b := v.Stored(subject(), inventory.Bundle, nil, []byte("{")), v.Stored(subject(), inventory.Bundle, nil, []byte("["))
	if a.ID == b.ID || a.ID == "" {
		t.Error("two broken bundles are one signature")
	}
}

func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bKey, pub := signBundle(t)
	w.prove(t, bKey, pemOf(t, pub), time.Now())
	bMsg, pubMsg := keyBundle(t, &sign.PlainData{Data: artifact}, nil)
	bCert, cert := keylessBundle(t, w, true)
	w.prove(t, bCert, certPEM(cert), time.Now())
	v := verifier(t, w, pub, pubMsg)
	for _, b := range []*protobundle.Bundle{bKey, bMsg, bCert} {
		wantVerified(t, v.Stored(subject(), inventory.Bundle, nil, raw(t, b)))
	}
	rapid.Check(t, func(t *rapid.T) {
		b := proto.Clone(rapid.SampledFrom([]*protobundle.Bundle{bKey, bMsg, bCert}).Draw(t, "bundle")).(*protobundle.Bundle)
		sub := subject()
		at := func(s []byte) {
			s[rapid.IntRange(0, len(s)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "by"))
		}
		switch what := rapid.SampledFrom([]string{"signature", "payload", "subject"}).Draw(t, "what"); {
		case what == "signature":
			at(sigOf(b))
		case what == "subject":
			sum := sha256.Sum256(artifact)
			at(sum[:])
			sub.Digest = "sha256:" + hexOf(sum[:])
		case b.GetDsseEnvelope() != nil:
			at(b.GetDsseEnvelope().Payload)
		default:
			at(b.GetMessageSignature().MessageDigest.Digest)
		}
		bytes, err := protojsonMarshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if s := v.Stored(sub, inventory.Bundle, nil, bytes); s.Verified || s.Why == "" {
			t.Fatalf("still verified: %+v", s)
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, cert := keylessBundle(t, w, true)
	w.prove(t, b, certPEM(cert), time.Now())
	v, bytes := verifier(t, w), raw(t, b)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if s := v.Stored(subject(), inventory.Bundle, nil, bytes); !s.Verified {
				t.Error(s.Why)
			}
		})
	}
	wg.Wait()
}

func TestConsumer(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	ann, pl := legacyLayer(t, w, k, time.Now())
	ctx := t.Context()
	bare := map[string]string{static.SignatureAnnotationKey: ann[static.SignatureAnnotationKey]}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	no := func(err error) {
		t.Helper()
		if err == nil {
			t.Error("accepted")
		}
	}

	ok(Consumer{Key: k.Public()}.Legacy(ctx, subject(), bare, pl))
	ok(Consumer{Key: k.Public()}.Legacy(ctx, subject(), ann, pl))
	ok(Consumer{Key: k.Public(), Root: w, RequireTimestamp: true}.Legacy(ctx, subject(), ann, pl))
	ok(Consumer{Key: k.Public(), Root: w, RequireTimestamp: true}.Legacy(ctx, subject(), with(ann, static.BundleAnnotationKey, ""), pl))
	no(Consumer{Key: k.Public(), Root: w, RequireTimestamp: true}.Legacy(ctx, subject(), bare, pl))
	no(Consumer{Key: k.Public(), RequireTimestamp: true}.Legacy(ctx, subject(), ann, pl))
	no(Consumer{Key: k.Public(), Root: newWorld(t), RequireTimestamp: true}.Legacy(ctx, subject(), ann, pl))
	no(Consumer{Key: newECDSA(t).Public()}.Legacy(ctx, subject(), bare, pl))
	no(Consumer{Key: k.Public()}.Legacy(ctx, Subject{Repository: repo, Digest: "sha256:" + strings.Repeat("d", 64)}, bare, pl))
	no(Consumer{}.Legacy(ctx, subject(), bare, pl))

	b, pub := signBundle(t)
	ok(Consumer{Key: pub}.Bundle(ctx, subject(), raw(t, b)))
	no(Consumer{Key: k.Public()}.Bundle(ctx, subject(), raw(t, b)))
	no(Consumer{Key: pub}.Bundle(ctx, Subject{Repository: repo, Digest: "sha256:" + strings.Repeat("d", 64)}, raw(t, b)))
	no(Consumer{Key: pub, Root: w, RequireTimestamp: true}.Bundle(ctx, subject(), raw(t, b)))
	w.stamp(t, b)
	ok(Consumer{Key: pub, Root: w, RequireTimestamp: true}.Bundle(ctx, subject(), raw(t, b)))
	no(Consumer{Key: pub, Root: newWorld(t), RequireTimestamp: true}.Bundle(ctx, subject(), raw(t, b)))
	no(Consumer{Key: pub}.Bundle(ctx, subject(), []byte("{")))
	m, mpub := keyBundle(t, &sign.PlainData{Data: artifact}, nil)
	no(Consumer{Key: mpub}.Bundle(ctx, subject(), raw(t, m)))
}

func TestPayload(t *testing.T) {
	t.Parallel()
	body := statement(subject().Digest, "x")
	env, _ := envelope(t, newECDSA(t), body)
	b, _ := signBundle(t)
	for _, c := range []struct {
		f    inventory.Format
		in   []byte
		want []byte
	}{
		{inventory.Legacy, simple(t), simple(t)},
		{inventory.LegacyAtt, env, body},
		{inventory.Bundle, raw(t, b), b.GetDsseEnvelope().GetPayload()},
	} {
		got, err := Payload(c.f, c.in)
		if err != nil || string(got) != string(c.want) {
			t.Errorf("%s: %q, %v", c.f, got, err)
		}
	}
	for _, f := range []inventory.Format{inventory.LegacyAtt, inventory.Bundle, "other"} {
		if _, err := Payload(f, []byte("{")); err == nil {
			t.Errorf("%s: no error", f)
		}
	}
}

func FuzzLegacy(f *testing.F) {
	w, k := newWorld(f), newECDSA(f)
	ann, pl := legacyLayer(f, w, k, time.Now())
	v := verifier(f, w, k.Public())
	cert := string(certPEM(w.issue(f, k.Public(), true)))
	f.Add(ann[static.SignatureAnnotationKey], "", ann[static.BundleAnnotationKey], ann[static.RFC3161TimestampAnnotationKey], pl)
	f.Add(ann[static.SignatureAnnotationKey], cert, ann[static.BundleAnnotationKey], "", pl)
	f.Add("", "x", `{"Payload":{"body":5}}`, `{}`, []byte("{}"))
	f.Fuzz(func(t *testing.T, sig, cert, bundle, token string, payload []byte) {
		a := map[string]string{static.SignatureAnnotationKey: sig, static.CertificateAnnotationKey: cert,
			static.BundleAnnotationKey: bundle, static.RFC3161TimestampAnnotationKey: token}
		s := v.Stored(subject(), inventory.Legacy, a, payload)
		sane(t, s)
		if s.Verified && string(payload) != string(pl) {
			t.Error("another payload verified")
		}
	})
}

func FuzzLegacyAttestation(f *testing.F) {
	w, k := newWorld(f), newECDSA(f)
	ann, env := attestationLayer(f, w, k, statement(subject().Digest, "x"), time.Now())
	v := verifier(f, w, k.Public())
	f.Add("", ann[static.BundleAnnotationKey], ann[static.RFC3161TimestampAnnotationKey], env)
	f.Add(string(certPEM(w.issue(f, k.Public(), true))), "", ann[static.RFC3161TimestampAnnotationKey], env)
	f.Add("x", `{"Payload":{"body":"e30="}}`, `{}`, []byte("{}"))
	f.Fuzz(func(t *testing.T, cert, bundle, token string, envelope []byte) {
		sane(t, v.Stored(subject(), inventory.LegacyAtt, map[string]string{static.CertificateAnnotationKey: cert,
			static.BundleAnnotationKey: bundle, static.RFC3161TimestampAnnotationKey: token}, envelope))
	})
}

func FuzzBundle(f *testing.F) {
	w := newWorld(f)
	b, pub := signBundle(f)
	w.prove(f, b, pemOf(f, pub), time.Now())
	c, cert := keylessBundle(f, w, true)
	w.prove(f, c, certPEM(cert), time.Now())
	m, mpub := keyBundle(f, &sign.PlainData{Data: artifact}, nil)
	v := verifier(f, w, pub, mpub)
	for _, b := range []*protobundle.Bundle{b, c, m} {
		f.Add(raw(f, b))
	}
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, raw []byte) { sane(t, v.Stored(subject(), inventory.Bundle, nil, raw)) })
}

// sane holds of whatever comes out.
func sane(t *testing.T, s inventory.Signature) {
	if s.Verified != (s.Why == "") || s.ID == "" || s.Signer.Kind == "" || s.Content == "" || s.PayloadDigest == "" {
		t.Errorf("%+v", s)
	}
	proven := false
	for _, b := range s.Bounds {
		if b.Verified != (b.Why == "") || b.Verified && b.Authority.ID == "" {
			t.Errorf("%+v", b)
		}
		if (b.Side == inventory.Lower) != (b.Authority.Role == inventory.RoleCA) {
			t.Errorf("no such authority bounds that side: %+v", b)
		}
		proven = proven || b.Verified && b.Side == inventory.Upper
	}
	keyless := s.Signer.Kind == signer.Keyless
	if keyless != (s.Certificate != nil) || keyless && s.Verified && (!proven || len(s.Requires) == 0) || !keyless && len(s.Requires) > 0 {
		t.Errorf("%+v", s)
	}
	s.Value = nil
	wholesome(t, s)
	if _, err := json.Marshal(s); err != nil {
		t.Error(err)
	}
	if strings.Contains(s.Why, "malformed, reading it broke off") && s.Signer.Kind == "" {
		t.Error(s.Why)
	}
}
