package verify

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	sgbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/signature"
	sumdbnote "golang.org/x/mod/sumdb/note"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// TestStored holds every format against the one it is stored like: only the
// place differs, and so the signature is another.
func TestStored(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	at := time.Now().Add(-30 * time.Minute)
	sigAnn, pl := legacyLayer(t, w, k, at)
	attAnn, env := attestationLayer(t, w, k, statement(subject().Digest, "https://spdx.dev/Document"), at)
	b, pub := signBundle(t)
	w.prove(t, b, pemOf(t, pub), at)
	v := verifier(t, w, k.Public(), pub)
	ids := map[string]inventory.Format{}
	for _, c := range []struct {
		formats     []inventory.Format
		annotations map[string]string
		content     []byte
	}{
		{[]inventory.Format{inventory.Legacy, inventory.Referrer}, sigAnn, pl},
		{[]inventory.Format{inventory.LegacyAtt, inventory.ReferrerAtt}, attAnn, env},
		{[]inventory.Format{inventory.Bundle, inventory.Detached}, nil, raw(t, b)},
		{[]inventory.Format{inventory.Blob}, nil, samples(t, w, k)[len(inventory.Formats())-1].content},
	} {
		var first inventory.Signature
		for i, f := range c.formats {
			s := v.Stored(subject(), f, c.annotations, c.content)
			wantVerified(t, s)
			wantBounds(t, s, "log upper verified", "tsa upper verified")
			if s.Format != f || s.ID != inventory.SignatureID(repo, subject().Digest, f, s.Signer, s.PayloadDigest, s.Value) || len(s.Value) == 0 {
				t.Errorf("%s: %+v", f, s)
			}
			if other, ok := ids[s.ID]; ok {
				t.Errorf("%s and %s are one signature", f, other)
			}
			ids[s.ID] = f
			if i == 0 {
				first = s
			}
			s.ID, s.Format = first.ID, first.Format
			if got, want := must(json.Marshal(s))(t), must(json.Marshal(first))(t); !bytes.Equal(got, want) {
				t.Errorf("%s: got %s, want %s", f, got, want)
			}
		}
	}
	if len(ids) != len(inventory.Formats()) {
		t.Errorf("%d formats, want %d", len(ids), len(inventory.Formats()))
	}
	s := v.Stored(subject(), "carrier pigeon", nil, pl)
	wantRefused(t, s, `"carrier pigeon" is not known`)
	sane(t, s)
	wantRefused(t, v.Stored(Subject{Repository: repo, Digest: subject().Digest, Content: []byte("another")}, inventory.Bundle, nil, raw(t, b)), "the artifact at hand is not")
}

func TestSubjects(t *testing.T) {
	t.Parallel()
	plain, _ := keyBundle(t, &sign.PlainData{Data: artifact}, nil)
	envelope := func(payloadType, body string) []byte {
		b, _ := keyBundle(t, &sign.DSSEData{Data: []byte(body), PayloadType: payloadType}, nil)
		return raw(t, b)
	}
	hash := func(c byte) string { return strings.Repeat(string(c), 64) }
	about := func(subjects string) string {
		return `{"_type":"https://in-toto.io/Statement/v1","subject":[` + subjects + `],"predicateType":"x"}`
	}
	other := proto.Clone(plain).(*protobundle.Bundle)
	other.GetMessageSignature().MessageDigest = &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_512, Digest: sum(crypto.SHA512, artifact)}
	short := proto.Clone(plain).(*protobundle.Bundle)
	short.GetMessageSignature().MessageDigest.Digest = []byte("short")
	many := strings.Repeat(`{"digest":{"sha256":"`+hash('a')+`"}},`, maxSubjects)
	for _, tc := range []struct {
		name    string
		content []byte
		want    []string
		says    string
	}{
		{"message", raw(t, plain), []string{subject().Digest}, ""},
		{"statement", envelope(intotoPayload, string(statement(subject().Digest, "x"))), []string{subject().Digest}, ""},
		{"several", envelope(intotoPayload, about(`{"digest":{"sha256":"`+hash('a')+`"}},{"digest":{"sha512":"x"}},{"digest":{"sha256":"`+strings.ToUpper(hash('b'))+`"}},
			{"digest":{"sha256":"`+hash('a')+`"}},{"digest":{"sha256":"../x"}},{}`)), []string{"sha256:" + hash('a'), "sha256:" + hash('b')}, ""},
		{"message by SHA-512", raw(t, other), nil, "SHA2_512"},
		{"message of no digest", raw(t, short), nil, "5 bytes"},
		{"no sha256", envelope(intotoPayload, about(`{"digest":{"sha512":"x"}}`)), nil, "no artifact by sha256"},
		{"another payload", envelope("text/plain", "x"), nil, `"text/plain"`},
		{"no statement", envelope(intotoPayload, "[]"), nil, "not an in-toto statement"},
		{"too many", envelope(intotoPayload, about(many+`{}`)), nil, "at most 1024"},
		{"no content", []byte(`{"mediaType":"` + bundleV03 + `"}`), nil, "neither an envelope"},
		{"no bundle", []byte(`x`), nil, "not a Sigstore bundle"},
		{"nothing", nil, nil, "not a Sigstore bundle"},
	} {
		got, err := Subjects(tc.content)
		if !slices.Equal(got, tc.want) || (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v, %v, want %v and %q", tc.name, got, err, tc.want, tc.says)
		}
	}
}

func TestBlob(t *testing.T) {
	t.Parallel()
	content := []byte(`{"digest":"sha256:0","signer":"ci"}` + "\n")
	p256, other := newECDSA(t), newECDSA(t)
	p521 := must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))(t)
	edPub, ed, _ := ed25519.GenerateKey(rand.Reader)
	v := verifier(t, nil, other.Public(), p256.Public(), p521.Public(), edPub)
	for name, c := range map[string]struct {
		signer signature.Signer
		pub    crypto.PublicKey
	}{
		"P-256":     {must(signature.LoadECDSASigner(p256, crypto.SHA256))(t), p256.Public()},
		"P-521":     {must(signature.LoadECDSASigner(p521, crypto.SHA512))(t), p521.Public()},
		"Ed25519":   {must(signature.LoadED25519Signer(ed))(t), edPub},
		"Ed25519ph": {must(signature.LoadED25519phSigner(ed))(t), edPub},
	} {
		sig := must(c.signer.SignMessage(bytes.NewReader(content)))(t)
		for form, text := range map[string][]byte{"raw": sig, "base64": []byte(b64(sig)), "base64 line": []byte(b64(sig) + "\r\n")} {
			id, err := v.Blob(content, text)
			if err != nil || id != must(signer.OfKey(c.pub))(t) {
				t.Errorf("%s, %s: %v, %v", name, form, id, err)
			}
			if id, err := v.Blob(append(slices.Clone(content), ' '), text); err == nil || id.Kind != signer.Unknown {
				t.Errorf("%s, %s: another file is signed by %v", name, form, id)
			}
			if _, err := verifier(t, nil, newECDSA(t).Public()).Blob(content, text); err == nil {
				t.Errorf("%s, %s: verifies with no key", name, form)
			}
		}
	}
	for name, sig := range map[string][]byte{"nothing": nil, "space": []byte(" \n"), "text": []byte("x"), "base64 of nothing": []byte("===="),
		"huge": make([]byte, maxEvidence+1)} {
		if _, err := v.Blob(content, sig); err == nil {
			t.Errorf("%s is a signature", name)
		}
	}
	if id, err := v.Blob(nil, signRaw(t, p256, nil)); err != nil || id.Kind != signer.Key {
		t.Errorf("an empty file: %v, %v", id, err)
	}
}

func FuzzBlob(f *testing.F) {
	k := newECDSA(f)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	content := []byte("a line\n")
	v := verifier(f, nil, k.Public(), ed.Public())
	f.Add(content, signRaw(f, k, content))
	f.Add(content, []byte(b64(signRaw(f, k, content))+"\n"))
	f.Add([]byte(nil), []byte("===="))
	f.Fuzz(func(t *testing.T, c, sig []byte) {
		id, err := v.Blob(c, sig)
		if (err == nil) != (id.Kind == signer.Key) || err == nil && !bytes.Equal(c, content) {
			t.Errorf("%q is signed by %v, %v", c, id, err)
		}
	})
}

// trustOf is a trust whose parts can be changed one by one.
func trustOf(t testing.TB, w *world, keys ...crypto.PublicKey) (*root.TrustedRoot, []crypto.PublicKey) {
	logs := map[string]*root.TransparencyLog{}
	for i, k := range []*ecdsa.PrivateKey{newECDSA(t), newECDSA(t)} {
		id := must(signer.OfKey(k.Public()))(t).Subject
		logs[id] = &root.TransparencyLog{BaseURL: fmt.Sprintf("https://log%d.example", i), ID: must(decodeHex(id))(t),
			ValidityPeriodStart: time.Unix(1, 0), HashFunc: crypto.SHA256, PublicKey: k.Public(), SignatureHashFunc: crypto.SHA256}
	}
	below := w.intermediate(t)
	return must(root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{
			&root.FulcioCertificateAuthority{Root: w.ca, ValidityPeriodStart: time.Unix(1, 0)},
			&root.FulcioCertificateAuthority{Root: w.ca, Intermediates: []*x509.Certificate{below.ca, w.intermediate(t).ca}, ValidityPeriodStart: time.Unix(1, 0)},
		}, logs, []root.TimestampingAuthority{
			&root.SigstoreTimestampingAuthority{Root: w.ca, Leaf: w.issue(t, newECDSA(t).Public(), false)},
			&root.SigstoreTimestampingAuthority{Root: below.ca},
		}, logs))(t), keys
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tr, keys := trustOf(t, w, newECDSA(t).Public(), newECDSA(t).Public(), newECDSA(t).Public())
	base := verifier(t, tr, keys...).Fingerprint()
	if inventory.CheckDigest(base) != nil {
		t.Fatalf("fingerprint %q", base)
	}
	again := must(root.NewTrustedRootFromJSON(must(tr.MarshalJSON())(t)))(t)
	if got := verifier(t, again, append(keys[1:3:3], keys[0], keys[1])...).Fingerprint(); got != base {
		t.Errorf("the same trust, read again and in another order, has another fingerprint: %s, %s", got, base)
	}
	rapid.Check(t, func(rt *rapid.T) {
		shuffled := shuffledRoot{tr, rapid.Permutation([]int{0, 1}).Draw(rt, "authorities")}
		if got := must(New(Trust{Root: shuffled, Keys: rapid.Permutation(keys).Draw(rt, "keys")}))(t).Fingerprint(); got != base {
			rt.Errorf("order matters: %s, %s", got, base)
		}
	})

	seen := map[string]string{base: "the trust itself"}
	for name, change := range map[string]func() *Verifier{
		"no root":   func() *Verifier { return verifier(t, nil, keys...) },
		"no keys":   func() *Verifier { return verifier(t, tr) },
		"key less":  func() *Verifier { return verifier(t, tr, keys[:2]...) },
		"key more":  func() *Verifier { return verifier(t, tr, append(keys[:3:3], newECDSA(t).Public())...) },
		"nothing":   func() *Verifier { return verifier(t, nil) },
		"bare root": func() *Verifier { return verifier(t, &root.BaseTrustedMaterial{}, keys...) },
		"CA less":   func() *Verifier { return changed(t, tr, keys, func(r *parts) { r.cas = r.cas[:1] }) },
		"CA ended": func() *Verifier {
			return changed(t, tr, keys, func(r *parts) { r.ca(0).ValidityPeriodEnd = time.Unix(9, 0) })
		},
		"CA began": func() *Verifier {
			return changed(t, tr, keys, func(r *parts) { r.ca(0).ValidityPeriodStart = time.Unix(9, 0) })
		},
		"intermediate less": func() *Verifier {
			return changed(t, tr, keys, func(r *parts) { ca := r.ca(1); ca.Intermediates = ca.Intermediates[:1] })
		},
		"TSA less": func() *Verifier { return changed(t, tr, keys, func(r *parts) { r.tsas = r.tsas[:1] }) },
		"TSA leaf": func() *Verifier { return changed(t, tr, keys, func(r *parts) { r.tsa(0).Leaf = nil }) },
		"TSA ended": func() *Verifier {
			return changed(t, tr, keys, func(r *parts) { r.tsa(0).ValidityPeriodEnd = time.Unix(9, 0) })
		},
		"log less": func() *Verifier { return changed(t, tr, keys, func(r *parts) { delete(r.logs, r.log().id) }) },
		"log ended": func() *Verifier {
			return changed(t, tr, keys, func(r *parts) { r.log().ValidityPeriodEnd = time.Unix(9, 0) })
		},
		"log moved": func() *Verifier {
			return changed(t, tr, keys, func(r *parts) { r.log().BaseURL = "https://else.example" })
		},
		"log key": func() *Verifier {
			return changed(t, tr, keys, func(r *parts) { r.log().PublicKey = newECDSA(t).Public() })
		},
		"log hash": func() *Verifier {
			return changed(t, tr, keys, func(r *parts) { r.log().SignatureHashFunc = crypto.SHA512 })
		},
		"CT less": func() *Verifier { return changed(t, tr, keys, func(r *parts) { r.ct = nil }) },
		"CA of no known kind": func() *Verifier {
			return changed(t, tr, keys, func(r *parts) { r.cas = append(r.cas, odd{}) })
		},
	} {
		got := change().Fingerprint()
		if other, ok := seen[got]; ok {
			t.Errorf("%s: the fingerprint is that of %s", name, other)
		}
		seen[got] = name
	}
	unlike := func() string {
		return changed(t, tr, keys, func(r *parts) { r.cas = append(r.cas, odd{}) }).Fingerprint()
	}
	if one, two := unlike(), unlike(); one == two {
		t.Errorf("authorities that cannot be told apart have the fingerprint %s", one)
	}
}

type shuffledRoot struct {
	*root.TrustedRoot
	order []int
}

func (s shuffledRoot) FulcioCertificateAuthorities() (out []root.CertificateAuthority) {
	for _, i := range s.order {
		out = append(out, s.TrustedRoot.FulcioCertificateAuthorities()[i])
	}
	return out
}

func (s shuffledRoot) TimestampingAuthorities() (out []root.TimestampingAuthority) {
	for _, i := range s.order {
		out = append(out, s.TrustedRoot.TimestampingAuthorities()[i])
	}
	return out
}

type odd struct{}

func (odd) Verify(*x509.Certificate, time.Time) ([][]*x509.Certificate, error) { return nil, nil }

// parts is a trusted root in parts.
type parts struct {
	root.BaseTrustedMaterial
	cas      []root.CertificateAuthority
	tsas     []root.TimestampingAuthority
	logs, ct map[string]*root.TransparencyLog
}

type namedLog struct {
	id string
	*root.TransparencyLog
}

func (r *parts) FulcioCertificateAuthorities() []root.CertificateAuthority { return r.cas }
func (r *parts) TimestampingAuthorities() []root.TimestampingAuthority     { return r.tsas }
func (r *parts) RekorLogs() map[string]*root.TransparencyLog               { return r.logs }
func (r *parts) CTLogs() map[string]*root.TransparencyLog                  { return r.ct }
func (r *parts) ca(i int) *root.FulcioCertificateAuthority {
	c := *r.cas[i].(*root.FulcioCertificateAuthority)
	r.cas[i] = &c
	return &c
}
func (r *parts) tsa(i int) *root.SigstoreTimestampingAuthority {
	c := *r.tsas[i].(*root.SigstoreTimestampingAuthority)
	r.tsas[i] = &c
	return &c
}
func (r *parts) log() namedLog {
	id := slices.Min(slices.Collect(maps.Keys(r.logs)))
	c := *r.logs[id]
	r.logs[id] = &c
	return namedLog{id, &c}
}

func changed(t testing.TB, tr root.TrustedMaterial, keys []crypto.PublicKey, change func(*parts)) *Verifier {
	r := &parts{cas: slices.Clone(tr.FulcioCertificateAuthorities()), tsas: slices.Clone(tr.TimestampingAuthorities()),
		logs: maps.Clone(tr.RekorLogs()), ct: maps.Clone(tr.CTLogs())}
	change(r)
	return verifier(t, r, keys...)
}

// keypair is one key with one way to sign, as sigstore-go asks for it.
type keypair struct {
	*sign.EphemeralKeypair
	signer signature.Signer
	pub    crypto.PublicKey
	hash   crypto.Hash
}

func (k keypair) bundle(t testing.TB, body []byte) *protobundle.Bundle {
	id := must(signer.OfKey(k.pub))(t)
	b, _ := keyBundle(t, &sign.DSSEData{Data: body, PayloadType: intotoPayload}, []byte(b64(must(decodeHex(id.Subject))(t))))
	b.GetDsseEnvelope().Signatures[0].Sig = must(k.signer.SignMessage(bytes.NewReader(dsse.PAE(intotoPayload, body))))(t)
	return b
}

// message is a bundle with a signature over the artifact itself.
func (k keypair) message(t testing.TB, content []byte) *protobundle.Bundle {
	b := k.bundle(t, nil)
	h := k.hash
	if h == 0 {
		h = crypto.SHA256 // for want of one of its own
	}
	alg := map[crypto.Hash]protocommon.HashAlgorithm{crypto.SHA256: protocommon.HashAlgorithm_SHA2_256,
		crypto.SHA384: protocommon.HashAlgorithm_SHA2_384, crypto.SHA512: protocommon.HashAlgorithm_SHA2_512}[h]
	b.Content = &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
		MessageDigest: &protocommon.HashOutput{Algorithm: alg, Digest: sum(h, content)},
		Signature:     must(k.signer.SignMessage(bytes.NewReader(content)))(t)}}
	return b
}

// keypairs are the keys that Sigstore clients and key services sign with.
func keypairs(t testing.TB) map[string]keypair {
	out := map[string]keypair{}
	add := func(name string, pub crypto.PublicKey, h crypto.Hash, s signature.Signer, err error) {
		out[name] = keypair{signer: must(s, err)(t), pub: pub, hash: h}
	}
	for name, c := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		k := must(ecdsa.GenerateKey(c, rand.Reader))(t)
		h := map[string]crypto.Hash{"P-256": crypto.SHA256, "P-384": crypto.SHA384, "P-521": crypto.SHA512}[name]
		s, err := signature.LoadECDSASigner(k, h)
		add(name, k.Public(), h, s, err)
		s, err = signature.LoadECDSASigner(k, crypto.SHA256)
		add(name+" with SHA-256", k.Public(), crypto.SHA256, s, err)
	}
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		s, err := signature.LoadRSAPKCS1v15Signer(rsaKey, h)
		add("RSA PKCS #1 "+h.String(), rsaKey.Public(), h, s, err)
		pss, err := signature.LoadRSAPSSSigner(rsaKey, h, nil)
		add("RSA PSS "+h.String(), rsaKey.Public(), h, pss, err)
		pss, err = signature.LoadRSAPSSSigner(rsaKey, h, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		add("RSA PSS of a key service "+h.String(), rsaKey.Public(), h, pss, err)
	}
	edPub, ed, _ := ed25519.GenerateKey(rand.Reader)
	s, err := signature.LoadED25519Signer(ed)
	add("Ed25519", edPub, 0, s, err)
	ph, err := signature.LoadED25519phSigner(ed)
	add("Ed25519ph", edPub, crypto.SHA512, ph, err)
	return out
}

func TestAlgorithms(t *testing.T) {
	t.Parallel()
	pl := simple(t)
	for name, k := range keypairs(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, none := verifier(t, nil, newECDSA(t).Public(), k.pub), verifier(t, nil, newECDSA(t).Public())
			id := must(signer.OfKey(k.pub))(t)
			by := func(s inventory.Signature) inventory.Signature {
				t.Helper()
				if s.Signer != id {
					t.Errorf("signer %v, want %v: %s", s.Signer, id, s.Why)
				}
				return s
			}
			layer := map[string]string{static.SignatureAnnotationKey: b64(must(k.signer.SignMessage(bytes.NewReader(pl)))(t))}
			wantVerified(t, by(v.Stored(subject(), inventory.Referrer, layer, pl)))
			wantRefused(t, none.Stored(subject(), inventory.Referrer, layer, pl), "no known key")
			wantRefused(t, v.Stored(subject(), inventory.Referrer, layer, append(slices.Clone(pl), ' ')), "no known key")

			body := statement(subject().Digest, "x")
			signed := k.bundle(t, body)
			wantVerified(t, by(v.Stored(subject(), inventory.Bundle, nil, raw(t, signed))))
			signed.GetDsseEnvelope().Payload[3] ^= 1
			wantRefused(t, v.Stored(subject(), inventory.Bundle, nil, raw(t, signed)), "it does not verify with the key")

			// Of an artifact known by SHA-256 alone only a signature by SHA-256 can
			// be checked; with the artifact at hand, any.
			b := raw(t, k.message(t, artifact))
			file := Subject{Repository: inventory.Files, Digest: subject().Digest}
			alone := v.Stored(file, inventory.Detached, nil, b)
			switch k.hash {
			case crypto.SHA256:
				wantVerified(t, by(alone))
			case 0:
				wantRefused(t, by(alone), "without the artifact itself its signature cannot be checked")
			default:
				wantRefused(t, by(alone), "cannot be said without the artifact itself")
			}
			file.Content = artifact
			whole := by(v.Stored(file, inventory.Detached, nil, b))
			wantVerified(t, whole)
			if whole.ID != alone.ID || whole.PayloadDigest != file.Digest {
				t.Errorf("with the artifact at hand it is another signature: %+v, %+v", whole, alone)
			}
			wantRefused(t, none.Stored(file, inventory.Detached, nil, b))
			another := Subject{Repository: inventory.Files, Digest: inventory.Digest([]byte("y")), Content: []byte("y")}
			wantRefused(t, v.Stored(another, inventory.Detached, nil, b), "it signs")
		})
	}
}

// TestOtherHashes is about statements that name artifacts by SHA-512, as those
// of npm do.
func TestOtherHashes(t *testing.T) {
	t.Parallel()
	k := newECDSA(t)
	v := verifier(t, nil, k.Public())
	about := func(digests string) []byte {
		env, _ := envelope(t, k, []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{`+digests+`}}],"predicateType":"x"}`))
		return env
	}
	file := Subject{Repository: inventory.Files, Digest: subject().Digest, Content: artifact}
	for _, h := range []crypto.Hash{crypto.SHA384, crypto.SHA512} {
		env := about(`"` + hashNames[h] + `":"` + hexOf(sum(h, artifact)) + `"`)
		wantVerified(t, v.Stored(file, inventory.LegacyAtt, nil, env))
		wantRefused(t, v.Stored(subject(), inventory.LegacyAtt, nil, env), "names no artifact by sha256")
		env = about(`"sha256":"` + strings.Repeat("0", 64) + `","` + hashNames[h] + `":"` + hexOf(sum(h, artifact)) + `"`)
		wantRefused(t, v.Stored(file, inventory.LegacyAtt, nil, env), "is about sha256:0000")
	}
}

// logV2 is a Rekor v2 log of one entry.
func logV2(t testing.TB, w *world, body []byte) *protorekor.TransparencyLogEntry {
	t.Helper()
	k := newECDSA(t)
	id := must(signer.OfKey(k.Public()))(t).Subject
	w.logs = map[string]*root.TransparencyLog{id: {BaseURL: "https://log2.example/prefix", ID: must(decodeHex(id))(t), ValidityPeriodStart: time.Unix(1, 0),
		HashFunc: crypto.SHA256, PublicKey: k.Public(), SignatureHashFunc: crypto.SHA256}}
	leaf := sha256.Sum256(append([]byte{0}, body...))
	s := must(note.NewNoteSigner(t.Context(), "log2.example", must(signature.LoadECDSASignerVerifier(k, crypto.SHA256))(t)))(t)
	checkpoint := must(sumdbnote.Sign(&sumdbnote.Note{Text: "log2.example\n1\n" + b64(leaf[:]) + "\n"}, s))(t)
	return &protorekor.TransparencyLogEntry{
		LogId: &protocommon.LogId{KeyId: must(decodeHex(id))(t)}, KindVersion: &protorekor.KindVersion{Kind: "dsse", Version: "0.0.2"},
		InclusionProof: &protorekor.InclusionProof{TreeSize: 1, RootHash: leaf[:],
			Checkpoint: &protorekor.Checkpoint{Envelope: string(checkpoint)}},
		CanonicalizedBody: body,
	}
}

func dsse002Body(payload, sig []byte, verifier string) []byte {
	return []byte(`{"apiVersion":"0.0.2","kind":"dsse","spec":{"dsseV002":{"payloadHash":{"algorithm":"SHA2_256","digest":"` + b64(sum(crypto.SHA256, payload)) +
		`"},"signatures":[{"content":"` + b64(sig) + `","verifier":{"keyDetails":"PKIX_ECDSA_P256_SHA_256",` + verifier + `}}]}}}`)
}

// TestRekorV2DSSE is about log entries that sigstore-go reads no more.
func TestRekorV2DSSE(t *testing.T) {
	t.Parallel()
	b, pub := signBundle(t)
	named := `"publicKey":{"rawBytes":"` + b64(must(x509.MarshalPKIXPublicKey(pub))(t)) + `"}`
	payload := b.GetDsseEnvelope().GetPayload()
	good := dsse002Body(payload, sigOf(b), named)
	bundle := func(w *world, body []byte) []byte {
		c := proto.Clone(b).(*protobundle.Bundle)
		c.VerificationMaterial.Content = &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{Hint: "free text"}}
		c.VerificationMaterial.TlogEntries = []*protorekor.TransparencyLogEntry{logV2(t, w, body)}
		w.stamp(t, c)
		return raw(t, c)
	}
	w := newWorld(t)
	content := bundle(w, good)
	var parsed sgbundle.Bundle
	if parsed.UnmarshalJSON(content) == nil {
		t.Error("sigstore-go reads it: nothing is shown here")
	}
	for name, v := range map[string]*Verifier{"trusted": verifier(t, w, pub), "only in the log": verifier(t, w)} {
		s := v.Stored(subject(), inventory.Bundle, nil, content)
		wantVerified(t, s)
		wantBounds(t, s, "tsa upper verified") // the log itself gives no time
		if s.Signer != must(signer.OfKey(pub))(t) {
			t.Errorf("%s: signer %v", name, s.Signer)
		}
	}

	// A keyless signature stands or falls with the entry.
	keyless := func(t *testing.T, change func(w *world, c *protobundle.Bundle, cert *x509.Certificate)) inventory.Signature {
		w := newWorld(t)
		c, cert := keylessBundle(t, w, true)
		w.stamp(t, c)
		c.VerificationMaterial.TlogEntries = []*protorekor.TransparencyLogEntry{logV2(t, w, dsse002Body(c.GetDsseEnvelope().GetPayload(), sigOf(c),
			`"x509Certificate":{"rawBytes":"`+b64(cert.Raw)+`"}`))}
		if change != nil {
			change(w, c, cert)
		}
		return verifier(t, w).Stored(subject(), inventory.Bundle, nil, raw(t, c))
	}
	wantVerified(t, keyless(t, nil))
	entry := func(c *protobundle.Bundle) *protorekor.TransparencyLogEntry {
		return c.VerificationMaterial.TlogEntries[0]
	}
	for why, change := range map[string]func(*world, *protobundle.Bundle, *x509.Certificate){
		"about another payload": func(w *world, c *protobundle.Bundle, cert *x509.Certificate) {
			c.VerificationMaterial.TlogEntries[0] = logV2(t, w, dsse002Body([]byte("x"), sigOf(c), `"x509Certificate":{"rawBytes":"`+b64(cert.Raw)+`"}`))
		},
		"about another signature": func(w *world, c *protobundle.Bundle, cert *x509.Certificate) {
			c.VerificationMaterial.TlogEntries[0] = logV2(t, w, dsse002Body(c.GetDsseEnvelope().GetPayload(), []byte("x"), `"x509Certificate":{"rawBytes":"`+b64(cert.Raw)+`"}`))
		},
		"about another signer": func(w *world, c *protobundle.Bundle, _ *x509.Certificate) {
			c.VerificationMaterial.TlogEntries[0] = logV2(t, w, dsse002Body(c.GetDsseEnvelope().GetPayload(), sigOf(c), named))
		},
		"verifying inclusion": func(_ *world, c *protobundle.Bundle, _ *x509.Certificate) {
			entry(c).CanonicalizedBody = append(entry(c).CanonicalizedBody, ' ')
		},
		"checkpoint signature": func(_ *world, c *protobundle.Bundle, _ *x509.Certificate) {
			entry(c).InclusionProof.Checkpoint.Envelope = "log2.example\n1\nAAAA\n\n— log2.example AAAAAAAA\n"
		},
		"must have an inclusion proof": func(_ *world, c *protobundle.Bundle, _ *x509.Certificate) { entry(c).InclusionProof = nil },
		"no signed entry timestamp": func(_ *world, c *protobundle.Bundle, _ *x509.Certificate) {
			entry(c).InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: []byte("x")}
		},
		"no URL of the log": func(w *world, c *protobundle.Bundle, _ *x509.Certificate) {
			w.logs[hexOf(entry(c).GetLogId().GetKeyId())].BaseURL = ""
		},
	} {
		wantRefused(t, keyless(t, change), "its transparency log entry does not verify", why)
	}
	// It claims a time that no log signs.
	s := keyless(t, func(_ *world, c *protobundle.Bundle, _ *x509.Certificate) {
		entry(c).IntegratedTime = time.Now().Unix()
	})
	wantVerified(t, s)
	wantBounds(t, s, "log upper unverified", "tsa upper verified", "ca lower verified")
}

// TestSalvage is about bundles of which a part is no protobuf JSON.
func TestSalvage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, pub := signBundle(t)
	w.prove(t, b, pemOf(t, pub), time.Now())
	v := verifier(t, w, pub)
	edit := func(f func(material, stamps map[string]any)) []byte {
		var top map[string]any
		if err := json.Unmarshal(raw(t, b), &top); err != nil {
			t.Fatal(err)
		}
		material := top["verificationMaterial"].(map[string]any)
		f(material, material["timestampVerificationData"].(map[string]any))
		return must(json.Marshal(top))(t)
	}
	const key = "rfc3161Timestamps"
	for _, tc := range []struct {
		name    string
		content []byte
		bounds  []string
		refused string
	}{
		{"a broken timestamp beside a good one", edit(func(_, s map[string]any) {
			s[key] = append([]any{map[string]any{"signedTimestamp": "MII\n"}}, s[key].([]any)...)
		}), []string{"log upper verified", "tsa upper verified", "tsa upper unverified"}, "clients give up"},
		{"a broken log entry beside a good one", edit(func(m, _ map[string]any) {
			m["tlogEntries"] = append([]any{map[string]any{"logIndex": "ten"}, 5}, m["tlogEntries"].([]any)...)
		}), []string{"log upper verified", "log upper unverified", "log upper unverified", "tsa upper verified"}, "clients give up"},
		{"proofs of other kinds", edit(func(m, _ map[string]any) { m["tlogEntries"], m["timestampVerificationData"] = 5, "x" }), nil, "clients give up"},
		{"a broken signer", edit(func(m, _ map[string]any) { m["certificate"] = 5 }), nil, "not a Sigstore bundle"},
		{"no material", []byte(`{"mediaType":5,"verificationMaterial":null}`), nil, "not a Sigstore bundle"},
	} {
		s := v.Stored(subject(), inventory.Bundle, nil, tc.content)
		sane(t, s)
		t.Log(tc.name)
		wantRefused(t, s, tc.refused)
		wantBounds(t, s, tc.bounds...)
		if tc.refused == "not a Sigstore bundle" {
			continue
		}
		if s.Signer != must(signer.OfKey(pub))(t) || strings.Contains(s.Why, "key") {
			t.Errorf("%s: signer %v: %s", tc.name, s.Signer, s.Why)
		}
		if p, err := Payload(inventory.Bundle, tc.content); err != nil || !bytes.Equal(p, b.GetDsseEnvelope().GetPayload()) {
			t.Errorf("%s: payload %q, %v", tc.name, p, err)
		}
	}
	many := edit(func(m, s map[string]any) {
		s[key] = slices.Repeat([]any{map[string]any{"signedTimestamp": "MII\n"}}, 100*maxTokens)
		m["tlogEntries"] = slices.Repeat([]any{5}, 100*maxEntries)
	})
	if s := v.Stored(subject(), inventory.Bundle, nil, many); s.Verified || len(s.Bounds) != maxEntries+maxTokens+2 {
		t.Errorf("verified %v with %d bounds: %s", s.Verified, len(s.Bounds), s.Why)
	}
}

// TestLocalBundle is about what cosign 1 and 2 wrote for files.
func TestLocalBundle(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	file := Subject{Repository: inventory.Files, Digest: subject().Digest}
	local := func(p cosign.LocalSignedPayload, rekor string) []byte {
		var m map[string]any
		if err := json.Unmarshal(must(json.Marshal(p))(t), &m); err != nil {
			t.Fatal(err)
		}
		if rekor != "" {
			m["rekorBundle"] = json.RawMessage(rekor)
		}
		return must(json.Marshal(m))(t)
	}
	sig := signRaw(t, k, artifact)
	logged := rekorAnnotation(w.promise(t, "hashedrekord", hashedrekord(hashOf(artifact), sig, pemOf(t, k.Public())), time.Now()))
	id := must(signer.OfKey(k.Public()))(t)

	t.Run("key", func(t *testing.T) {
		t.Parallel()
		blob := local(cosign.LocalSignedPayload{Base64Signature: b64(sig)}, logged)
		for _, v := range []*Verifier{verifier(t, w, k.Public()), verifier(t, w)} {
			s := v.Stored(file, inventory.Detached, nil, blob)
			wantVerified(t, s)
			wantBounds(t, s, "log upper verified")
			if s.Signer != id || s.PredicateType != inventory.SignPredicate || s.PayloadDigest != file.Digest || !bytes.Equal(s.Value, sig) {
				t.Errorf("%+v", s)
			}
		}
		if got, err := Subjects(blob); err != nil || !slices.Equal(got, []string{file.Digest}) {
			t.Errorf("subjects %v, %v", got, err)
		}
		other := file
		other.Digest = inventory.Digest([]byte("another"))
		wantRefused(t, verifier(t, w, k.Public()).Stored(other, inventory.Detached, nil, blob), "no known key verifies it")
		if _, err := Payload(inventory.Detached, blob); err == nil {
			t.Error("the signature of a file has a payload")
		}
		// It is no image signature: no verifier of images reads one.
		wantRefused(t, verifier(t, w, k.Public()).Stored(file, inventory.Bundle, nil, blob), "media type")

		bare := local(cosign.LocalSignedPayload{Base64Signature: b64(sig)}, "")
		wantVerified(t, verifier(t, w, k.Public()).Stored(file, inventory.Detached, nil, bare))
		if got, err := Subjects(bare); err == nil {
			t.Errorf("it says nowhere what it signs, and is about %v", got)
		}
	})
	t.Run("keyless", func(t *testing.T) {
		t.Parallel()
		cert := w.issue(t, k.Public(), true)
		rekor := rekorAnnotation(w.promise(t, "hashedrekord", hashedrekord(hashOf(artifact), sig, certPEM(cert)), time.Now()))
		for _, text := range []string{b64(certPEM(cert)), string(certPEM(cert))} {
			s := verifier(t, w).Stored(file, inventory.Detached, nil, local(cosign.LocalSignedPayload{Base64Signature: b64(sig), Cert: text}, rekor))
			wantVerified(t, s)
			wantBounds(t, s, "log upper verified", "ca lower verified")
			if s.Signer.Subject != testSAN || s.Certificate == nil {
				t.Errorf("%+v", s)
			}
		}
		wantRefused(t, verifier(t, w).Stored(file, inventory.Detached, nil, local(cosign.LocalSignedPayload{Base64Signature: b64(sig), Cert: "x"}, rekor)), "certificate cannot be read")
	})
	t.Run("attestation", func(t *testing.T) {
		t.Parallel()
		body := statement(file.Digest, "https://spdx.dev/Document")
		env, envSig := envelope(t, k, body)
		rekor := rekorAnnotation(w.promise(t, "dsse", dsseBody(env, body, envSig, pemOf(t, k.Public())), time.Now()))
		att := local(cosign.LocalSignedPayload{Base64Signature: base64.StdEncoding.EncodeToString(env)}, rekor)
		s := verifier(t, w).Stored(file, inventory.Detached, nil, att)
		wantVerified(t, s)
		wantBounds(t, s, "log upper verified")
		if s.PredicateType != "https://spdx.dev/Document" || s.PayloadDigest != inventory.Digest(body) {
			t.Errorf("%+v", s)
		}
		if got, err := Subjects(att); err != nil || !slices.Equal(got, []string{file.Digest}) {
			t.Errorf("subjects %v, %v", got, err)
		}
		if got, err := Payload(inventory.Detached, att); err != nil || !bytes.Equal(got, body) {
			t.Errorf("payload %q, %v", got, err)
		}
	})
	t.Run("another key's hash", func(t *testing.T) {
		t.Parallel()
		p384 := keypairs(t)["P-384"]
		blob := local(cosign.LocalSignedPayload{Base64Signature: b64(must(p384.signer.SignMessage(bytes.NewReader(artifact)))(t))}, "")
		s := verifier(t, w, p384.pub).Stored(file, inventory.Detached, nil, blob)
		wantRefused(t, s)
		whole := file
		whole.Content = artifact
		wantVerified(t, verifier(t, w, p384.pub).Stored(whole, inventory.Detached, nil, blob))
	})
	t.Run("hostile", func(t *testing.T) {
		t.Parallel()
		for _, text := range []string{`{"base64Signature":"%"}`, `{"base64Signature":"` + strings.Repeat("A", 2*maxEvidence) + `"}`, `{"base64Signature":5}`,
			`{"base64Signature":"AAAA","rekorBundle":5}`, `{"base64Signature":"AAAA","rekorBundle":{"Payload":{"body":5}}}`,
			`{"base64Signature":"` + b64([]byte(`{"payloadType":"x","payload":"%"}`)) + `"}`} {
			s := verifier(t, w, k.Public()).Stored(file, inventory.Detached, nil, []byte(text))
			wantRefused(t, s)
			sane(t, s)
			if _, err := Subjects([]byte(text)); err == nil {
				t.Errorf("%.40s is about something", text)
			}
		}
	})
}

// TestStamper is about trusted roots that leave it to the token who stamped:
// then the stamp rests on the CA, which can let anybody stamp.
func TestStamper(t *testing.T) {
	t.Parallel()
	w := must(sandbox.Start(t.Context(), sandbox.Options{}))(t)
	t.Cleanup(func() { _ = w.Close() })
	tr := must(w.TrustedRoot())(t)
	signed, pub := signBundle(t)
	query := must(timestamp.CreateRequest(bytes.NewReader(sigOf(signed)), &timestamp.RequestOptions{Hash: crypto.SHA256, Certificates: true}))(t)
	resp := must(http.Post(w.TSAURL(), "application/timestamp-query", bytes.NewReader(query)))(t)
	der := must(io.ReadAll(resp.Body))(t)
	_ = resp.Body.Close()
	signed.VerificationMaterial.TimestampVerificationData = &protobundle.TimestampVerificationData{
		Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: der}}}
	content := raw(t, signed)
	stamp := func(change func(*parts)) inventory.Bound {
		t.Helper()
		s := changed(t, tr, []crypto.PublicKey{pub}, change).Stored(subject(), inventory.Bundle, nil, content)
		wantVerified(t, s)
		if len(s.Bounds) != 1 {
			t.Fatalf("%+v", s.Bounds)
		}
		return s.Bounds[0]
	}
	tsa := tr.TimestampingAuthorities()[0].(*root.SigstoreTimestampingAuthority)
	if b := stamp(func(*parts) {}); !b.Verified || b.Authority.ID != fingerprintOf(tsa.Leaf) {
		t.Errorf("%+v", b)
	}
	if b := stamp(func(r *parts) { r.tsa(0).Leaf = nil }); !b.Verified || b.Authority.ID != fingerprintOf(tsa.Root) {
		t.Errorf("without its certificate: %+v", b)
	}
	if b := stamp(func(r *parts) { r.tsa(0).ValidityPeriodEnd = time.Now().Add(-time.Hour) }); b.Verified || b.Authority.ID != fingerprintOf(tsa.Leaf) {
		t.Errorf("after its end: %+v", b)
	}
	if b := stamp(func(r *parts) { r.tsas = []root.TimestampingAuthority{nobody{}} }); b.Verified || !strings.Contains(b.Why, "does not say whose stamp") {
		t.Errorf("of nobody: %+v", b)
	}
}

// nobody stamps everything.
type nobody struct{}

func (nobody) Verify([]byte, []byte) (*root.Timestamp, error) {
	return &root.Timestamp{Time: time.Now()}, nil
}
