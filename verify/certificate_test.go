package verify

import (
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/cosign/v2/pkg/oci/static"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/proto"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// der is a Fulcio extension as they are written today, raw as the older ones were.
func der(t testing.TB, n int, value string) pkix.Extension {
	return pkix.Extension{Id: fulcioOID(n), Value: must(asn1.MarshalWithParams(value, "utf8"))(t)}
}

func rawExtension(n int, value string) pkix.Extension {
	return pkix.Extension{Id: fulcioOID(n), Value: []byte(value)}
}

func TestCertificate(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	const repository, commit = "https://github.com/acme/app", "f0b49a04e5a62250e0f60fb128004a73110fe311"
	github := []pkix.Extension{rawExtension(2, "push"), rawExtension(3, "older sha"), rawExtension(4, "Release"),
		rawExtension(5, "acme/app"), rawExtension(6, "refs/heads/older")}
	today := []pkix.Extension{der(t, 9, repository+"/.github/workflows/release.yml@refs/heads/main"), der(t, 11, "github-hosted"),
		der(t, 12, repository), der(t, 13, commit), der(t, 14, "refs/heads/main"), der(t, 18, repository+"/.github/workflows/caller.yml@refs/heads/main"),
		der(t, 20, "schedule"), der(t, 21, repository+"/actions/runs/1/attempts/1")}
	for _, tc := range []struct {
		name string
		ext  []pkix.Extension
		want signer.Certificate
	}{
		{"none", nil, signer.Certificate{}},
		{"today's", today, signer.Certificate{Workflow: repository + "/.github/workflows/release.yml@refs/heads/main", Ref: "refs/heads/main", SHA: commit,
			Repository: repository, Trigger: "schedule", Run: repository + "/actions/runs/1/attempts/1", Runner: "github-hosted"}},
		{"older", github, signer.Certificate{Workflow: "Release", Ref: "refs/heads/older", SHA: "older sha", Repository: "acme/app", Trigger: "push"}},
		{"both", append(github[:5:5], today...), signer.Certificate{Workflow: repository + "/.github/workflows/release.yml@refs/heads/main", Ref: "refs/heads/main",
			SHA: commit, Repository: repository, Trigger: "schedule", Run: repository + "/actions/runs/1/attempts/1", Runner: "github-hosted"}},
		{"build config alone", today[5:6], signer.Certificate{Workflow: repository + "/.github/workflows/caller.yml@refs/heads/main"}},
		{"hostile text", []pkix.Extension{rawExtension(2, "pu\x00sh\n"), rawExtension(5, "\xff"), rawExtension(6, strings.Repeat("ä", maxText))},
			signer.Certificate{Trigger: "pu\uFFFDsh\uFFFD", Repository: "\uFFFD", Ref: strings.Repeat("ä", maxText/2) + "…"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cert := w.issue(t, k.Public(), true, tc.ext...)
			pl := simple(t)
			sig := signRaw(t, k, pl)
			ann := map[string]string{static.SignatureAnnotationKey: b64(sig), static.CertificateAnnotationKey: string(certPEM(cert)),
				static.BundleAnnotationKey: rekorAnnotation(w.promise(t, "hashedrekord", hashedrekord(hashOf(pl), sig, certPEM(cert)), time.Now()))}
			tc.want.Serial, tc.want.CA = "2", fingerprintOf(w.ca)
			tc.want.NotBefore, tc.want.NotAfter = moment(cert.NotBefore), moment(cert.NotAfter)
			s := verifier(t, w).Stored(subject(), inventory.Legacy, ann, pl)
			wantVerified(t, s)
			if !reflect.DeepEqual(s.Certificate, &tc.want) {
				t.Errorf("got %+v, want %+v", s.Certificate, tc.want)
			}

			// One that does not verify says the same of itself.
			s = verifier(t, w).Stored(subject(), inventory.Legacy, with(ann, static.SignatureAnnotationKey, "AAAA"), pl)
			wantRefused(t, s)
			if !reflect.DeepEqual(s.Certificate, &tc.want) {
				t.Errorf("unverified: got %+v, want %+v", s.Certificate, tc.want)
			}

			// Nobody at hand issued it.
			tc.want.CA = ""
			for _, v := range []*Verifier{verifier(t, nil), verifier(t, newWorld(t))} {
				s = v.Stored(subject(), inventory.Legacy, ann, pl)
				wantRefused(t, s)
				if !reflect.DeepEqual(s.Certificate, &tc.want) {
					t.Errorf("of another CA: got %+v, want %+v", s.Certificate, tc.want)
				}
			}
		})
	}

	t.Run("an extension that cannot be read", func(t *testing.T) {
		t.Parallel()
		cert := w.issue(t, k.Public(), true, rawExtension(12, "not DER"), der(t, 13, commit))
		id, c, err := readCertificate(cert)
		if err == nil || id.Kind != signer.Keyless || c.SHA != commit || c.Repository != "" || c.Serial != "2" {
			t.Errorf("%v, %+v, %v", id, c, err)
		}
	})
	t.Run("keys have none", func(t *testing.T) {
		t.Parallel()
		ann, pl := legacyLayer(t, w, k, time.Now())
		if s := verifier(t, w, k.Public()).Stored(subject(), inventory.Legacy, ann, pl); s.Certificate != nil {
			t.Errorf("%+v", s.Certificate)
		}
	})
	t.Run("one that cannot be read", func(t *testing.T) {
		t.Parallel()
		if s := verifier(t, w).Stored(subject(), inventory.Legacy, map[string]string{static.CertificateAnnotationKey: "x"}, simple(t)); s.Certificate != nil {
			t.Errorf("%+v", s.Certificate)
		}
	})
}

// chained are the places where a signature brings intermediates along.
func chained(t testing.TB, w *world, chain ...*x509.Certificate) map[string]func(*Verifier) inventory.Signature {
	k := newECDSA(t)
	cert := w.issue(t, k.Public(), true)
	pl := simple(t)
	sig := signRaw(t, k, pl)
	var text strings.Builder
	for _, c := range chain {
		text.Write(certPEM(c))
	}
	layer := map[string]string{
		static.SignatureAnnotationKey: b64(sig), static.CertificateAnnotationKey: string(certPEM(cert)), static.ChainAnnotationKey: text.String(),
		static.BundleAnnotationKey: rekorAnnotation(w.promise(t, "hashedrekord", hashedrekord(hashOf(pl), sig, certPEM(cert)), time.Now()))}
	b, leaf := keylessBundle(t, w, true)
	w.prove(t, b, certPEM(leaf), time.Now())
	certs := []*protocommon.X509Certificate{{RawBytes: leaf.Raw}}
	for _, c := range chain {
		certs = append(certs, &protocommon.X509Certificate{RawBytes: c.Raw})
	}
	b.VerificationMaterial.Content = &protobundle.VerificationMaterial_X509CertificateChain{
		X509CertificateChain: &protocommon.X509CertificateChain{Certificates: certs}}
	out := map[string]func(*Verifier) inventory.Signature{
		"legacy": func(v *Verifier) inventory.Signature { return v.Stored(subject(), inventory.Legacy, layer, pl) },
	}
	for _, mt := range []string{bundleV01, bundleV02} {
		c := proto.Clone(b).(*protobundle.Bundle)
		c.MediaType = mt
		raw := raw(t, c)
		out[mt] = func(v *Verifier) inventory.Signature { return v.Stored(subject(), inventory.Detached, nil, raw) }
	}
	return out
}

func TestIntermediates(t *testing.T) {
	t.Parallel()
	anchor := newWorld(t)
	w := anchor.intermediate(t)
	ca := func(c *x509.Certificate) inventory.Authority {
		return inventory.Authority{Role: inventory.RoleCA, ID: fingerprintOf(c)}
	}
	withRoot := map[string]bool{"legacy": false, bundleV01: true, bundleV02: true} // where a root brought along is refused

	t.Run("brought along, under a root alone", func(t *testing.T) {
		t.Parallel()
		for name, verify := range chained(t, w, w.ca) {
			s := verify(verifier(t, w))
			wantVerified(t, s)
			if !reflect.DeepEqual(s.Requires, []inventory.Authority{ca(w.ca), ca(anchor.ca), w.ct()}) {
				t.Errorf("%s: requires %v", name, s.Requires)
			}
			if s.Certificate.CA != "" {
				t.Errorf("%s: the trusted root does not have its CA, and it is said to be %s", name, s.Certificate.CA)
			}
			if b := s.Bounds[len(s.Bounds)-1]; b.Side != inventory.Lower || !b.Verified || b.Authority != ca(w.ca) {
				t.Errorf("%s: %+v", name, b)
			}
		}
	})
	t.Run("two of them", func(t *testing.T) {
		t.Parallel()
		below := w.intermediate(t)
		below.anchors = w.anchors
		for name, verify := range chained(t, below, below.ca, w.ca) {
			s := verify(verifier(t, below))
			wantVerified(t, s)
			if !reflect.DeepEqual(s.Requires, []inventory.Authority{ca(below.ca), ca(w.ca), ca(anchor.ca), below.ct()}) {
				t.Errorf("%s: requires %v", name, s.Requires)
			}
		}
	})
	t.Run("with its root, as cosign writes it", func(t *testing.T) {
		t.Parallel()
		for name, verify := range chained(t, w, w.ca, anchor.ca) {
			s := verify(verifier(t, w))
			if s.Verified == withRoot[name] {
				t.Errorf("%s: verified %v: %s", name, s.Verified, s.Why)
			}
			if withRoot[name] {
				wantRefused(t, s, "its own root")
			}
		}
	})
	t.Run("missing", func(t *testing.T) {
		t.Parallel()
		for _, verify := range chained(t, w) {
			wantRefused(t, verify(verifier(t, w)), "does not chain to a CA")
		}
	})
	t.Run("held by the trusted root", func(t *testing.T) {
		t.Parallel()
		full := *w
		full.anchors = []root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: anchor.ca, Intermediates: []*x509.Certificate{w.ca}}}
		for name, verify := range chained(t, w) {
			s := verify(verifier(t, &full))
			wantVerified(t, s)
			if s.Certificate.CA != fingerprintOf(w.ca) || !reflect.DeepEqual(s.Requires, []inventory.Authority{ca(w.ca), ca(anchor.ca), w.ct()}) {
				t.Errorf("%s: CA %s, requires %v", name, s.Certificate.CA, s.Requires)
			}
		}
	})
	t.Run("taken out of the trusted root", func(t *testing.T) {
		t.Parallel()
		rotated := *w
		rotated.anchors = []root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: anchor.ca,
			Intermediates: []*x509.Certificate{anchor.intermediate(t).ca}}}
		for _, verify := range chained(t, w, w.ca) {
			wantRefused(t, verify(verifier(t, &rotated)), "does not chain to a CA")
		}
	})
	t.Run("after the end of its CA", func(t *testing.T) {
		t.Parallel()
		ended := *w
		ended.anchors = []root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: anchor.ca, ValidityPeriodEnd: time.Now().Add(-time.Hour)}}
		for _, verify := range chained(t, w, w.ca) {
			wantRefused(t, verify(verifier(t, &ended)), "does not chain to a CA")
		}
	})
	t.Run("a whole CA of its own", func(t *testing.T) {
		t.Parallel()
		mine := newWorld(t)
		below := mine.intermediate(t)
		for name, verify := range chained(t, below, below.ca, mine.ca) {
			trusting := *below
			trusting.anchors = anchor.FulcioCertificateAuthorities()
			s := verify(verifier(t, &trusting))
			wantRefused(t, s, "does not chain to a CA")
			if len(s.Requires) != 0 || s.Certificate.CA != "" {
				t.Errorf("%s: %+v", name, s)
			}
		}
	})
	t.Run("a leaf is no CA", func(t *testing.T) {
		t.Parallel()
		// Whoever holds a certificate issues another with its key.
		forger := *w
		forger.caKey = newECDSA(t)
		forger.ca = anchor.issue(t, forger.caKey.Public(), true)
		for _, verify := range chained(t, &forger, forger.ca, w.ca) {
			wantRefused(t, verify(verifier(t, w)), "does not chain to a CA")
		}
	})
	t.Run("too many", func(t *testing.T) {
		t.Parallel()
		many := make([]*x509.Certificate, maxChain+1)
		for i := range many {
			many[i] = w.ca
		}
		for name, verify := range chained(t, w, many...) {
			if s := verify(verifier(t, w)); name != "legacy" {
				wantRefused(t, s, "at most 16 are read")
			}
		}
	})
	t.Run("garbage", func(t *testing.T) {
		t.Parallel()
		if got := parseChain([]byte("x" + strings.Repeat("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 100))); len(got) != 0 {
			t.Errorf("%d certificates", len(got))
		}
	})
	t.Run("v0.3 holds no chain", func(t *testing.T) {
		t.Parallel()
		b, leaf := keylessBundle(t, w, true)
		w.prove(t, b, certPEM(leaf), time.Now())
		b.VerificationMaterial.Content = &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: &protocommon.X509CertificateChain{
			Certificates: []*protocommon.X509Certificate{{RawBytes: leaf.Raw}, {RawBytes: w.ca.Raw}}}}
		for _, mt := range []string{bundleV03, bundleV03Old} {
			b.MediaType = mt
			wantRefused(t, verifier(t, w).Stored(subject(), inventory.Bundle, nil, raw(t, b)), "not a chain")
		}
	})
}

// FuzzCertificate reads certificates and chains nobody vouches for.
func FuzzCertificate(f *testing.F) {
	w, k := newWorld(f), newECDSA(f)
	below := w.intermediate(f)
	plain := below.issue(f, k.Public(), true)
	f.Add(plain.Raw, certPEM(below.ca))
	f.Add(w.issue(f, k.Public(), false, rawExtension(2, "push"), der(f, 12, "https://github.com/acme/app")).Raw, append(certPEM(w.ca), certPEM(below.ca)...))
	f.Add([]byte{0x30}, []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"))
	v := verifier(f, below)
	f.Fuzz(func(t *testing.T, raw, chain []byte) {
		c := newClaim(subject())
		c.readChain(parseChain(chain))
		if len(c.intermediates) > maxChain {
			t.Errorf("%d intermediates", len(c.intermediates))
		}
		c.readLeaf(raw)
		if c.leaf == nil {
			return
		}
		id, cert, _ := readCertificate(c.leaf)
		if id.Kind != signer.Keyless || cert == nil {
			t.Fatalf("%v, %+v", id, cert)
		}
		wholesome(t, *cert)
		if _, err := json.Marshal(cert); err != nil {
			t.Error(err)
		}
		b, requires, err := v.issuance(c, []time.Time{time.Now()}, nil)
		if b.Verified != (err == nil) || err == nil && len(requires) == 0 {
			t.Errorf("%+v, %v, %v", b, requires, err)
		}
	})
}

// TestRequiredLogs is about logs without which a keyless signature does not
// verify: the one that alone has its certificate, and the one that alone has the
// signature and gives it no time.
func TestRequiredLogs(t *testing.T) {
	t.Parallel()
	other, foreign := newECDSA(t), newECDSA(t)
	required := func(t *testing.T, w *world, prove func(*protobundle.Bundle, *x509.Certificate), role inventory.Role) []inventory.Authority {
		b, cert := keylessBundle(t, w, true)
		prove(b, cert)
		s := verifier(t, w).Stored(subject(), inventory.Bundle, nil, raw(t, b))
		wantVerified(t, s)
		if s.Requires[0].Role != inventory.RoleCA || s.Requires[0].ID != s.Certificate.CA {
			t.Errorf("the issuer does not come first: %v", s.Requires)
		}
		return slices.DeleteFunc(s.Requires, func(a inventory.Authority) bool { return a.Role != role })
	}
	for _, tc := range []struct {
		name     string
		more     bool                               // the other log is in the trusted root, too
		of       func(w *world) []*ecdsa.PrivateKey // logs the certificate carries timestamps of
		forged   *ecdsa.PrivateKey                  // whose timestamp is another's
		required func(w *world) []*ecdsa.PrivateKey // nil: none alone
	}{
		{"one", true, func(w *world) []*ecdsa.PrivateKey { return []*ecdsa.PrivateKey{w.ctKey} }, nil, func(w *world) []*ecdsa.PrivateKey { return []*ecdsa.PrivateKey{w.ctKey} }},
		{"the same twice", true, func(w *world) []*ecdsa.PrivateKey { return []*ecdsa.PrivateKey{w.ctKey, w.ctKey} }, nil, func(w *world) []*ecdsa.PrivateKey { return []*ecdsa.PrivateKey{w.ctKey} }},
		{"two", true, func(w *world) []*ecdsa.PrivateKey { return []*ecdsa.PrivateKey{w.ctKey, other} }, nil, func(*world) []*ecdsa.PrivateKey { return nil }},
		{"two, one not trusted", false, func(w *world) []*ecdsa.PrivateKey { return []*ecdsa.PrivateKey{foreign, w.ctKey} }, nil, func(w *world) []*ecdsa.PrivateKey { return []*ecdsa.PrivateKey{w.ctKey} }},
		{"two, one forged", true, func(w *world) []*ecdsa.PrivateKey { return []*ecdsa.PrivateKey{w.ctKey, other} }, other,
			func(w *world) []*ecdsa.PrivateKey { return []*ecdsa.PrivateKey{w.ctKey} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			if tc.more {
				w.ctMore = []*ecdsa.PrivateKey{other}
			}
			w.logged = tc.of(w)
			w.forged = tc.forged
			var want []inventory.Authority
			for _, k := range tc.required(w) {
				want = append(want, inventory.Authority{Role: inventory.RoleCT, ID: ctID(k)})
			}
			got := required(t, w, func(b *protobundle.Bundle, cert *x509.Certificate) { w.prove(t, b, certPEM(cert), time.Now()) }, inventory.RoleCT)
			if !slices.Equal(got, want) {
				t.Errorf("requires %v, want %v", got, want)
			}
		})
	}

	entry := func(w *world, b *protobundle.Bundle, cert *x509.Certificate) *protorekor.TransparencyLogEntry {
		return logV2(t, w, dsse002Body(b.GetDsseEnvelope().GetPayload(), sigOf(b), `"x509Certificate":{"rawBytes":"`+b64(cert.Raw)+`"}`))
	}
	for _, tc := range []struct {
		name string
		logs int // without a time
		set  bool
		want bool
	}{{"no log", 0, false, false}, {"one without a time", 1, false, true}, {"two without a time", 2, false, false}, {"one beside one with a time", 1, true, false}, {"one with a time", 0, true, false}} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			logs := maps.Clone(w.RekorLogs())
			var want []inventory.Authority
			got := required(t, w, func(b *protobundle.Bundle, cert *x509.Certificate) {
				if tc.set {
					w.prove(t, b, certPEM(cert), time.Now())
				} else {
					w.stamp(t, b)
				}
				for range tc.logs {
					e := entry(w, b, cert)
					maps.Copy(logs, w.logs)
					b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, e)
					if tc.want {
						want = []inventory.Authority{{Role: inventory.RoleLog, ID: hexOf(e.GetLogId().GetKeyId())}}
					}
				}
				w.logs = logs
			}, inventory.RoleLog)
			if !slices.Equal(got, want) {
				t.Errorf("requires %v, want %v", got, want)
			}
		})
	}
}
