package verify

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

func TestNewBlobSignature(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	sig := signRaw(t, k, artifact)
	cert := certPEM(w.issue(t, k.Public(), true))
	token := []byte(tokenAnnotation(must(w.TimestampResponse(sig))(t)))
	whole := must(NewBlobSignature([]byte(b64(sig)), cert, token))(t)
	for name, of := range map[string][3][]byte{
		"with a newline":                  {[]byte(b64(sig) + "\n"), cert, token},
		"the bytes themselves":            {sig, cert, token},
		"a certificate in base64, as is":  {[]byte(b64(sig)), []byte(b64(cert)), token},
		"a timestamp with white space":    {[]byte(b64(sig)), cert, append(bytes.Clone(token), '\n')},
		"a certificate with a blank line": {[]byte(b64(sig)), append(bytes.Clone(cert), '\n'), token},
	} {
		got, err := NewBlobSignature(of[0], of[1], of[2])
		if err != nil || !bytes.Equal(must(got.Content())(t), must(whole.Content())(t)) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, whole)
		}
	}
	file := Subject{Repository: inventory.Files, Digest: subject().Digest}
	s := verifier(t, w).Stored(file, inventory.Blob, nil, must(whole.Content())(t))
	wantVerified(t, s)
	wantBounds(t, s, "tsa upper verified", "ca lower verified")
	if s.PredicateType != inventory.SignPredicate || s.PayloadDigest != file.Digest || s.Signer.Subject != testSAN || !bytes.Equal(s.Value, sig) {
		t.Errorf("%+v", s)
	}
	back := must(ParseBlobSignature(must(whole.Content())(t)))(t)
	if again := must(back.Content())(t); !bytes.Equal(again, must(whole.Content())(t)) {
		t.Errorf("stored and read it is %s", again)
	}

	large := bytes.Repeat([]byte("A"), maxEvidence+1)
	for name, of := range map[string][3][]byte{
		"nothing":               {nil, nil, nil},
		"white space":           {[]byte(" \n"), nil, nil},
		"too large":             {large, nil, nil},
		"too large certificate": {sig, large, nil},
		"no certificate":        {sig, []byte("certificate"), nil},
		"a public key":          {sig, pemOf(t, k.Public()), nil},
		"no timestamp":          {sig, nil, []byte("x")},
	} {
		if got, err := NewBlobSignature(of[0], of[1], of[2]); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestBlobHostile reads what is no stored blob signature.
func TestBlobHostile(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	v := verifier(t, w, k.Public())
	file := Subject{Repository: inventory.Files, Digest: subject().Digest}
	for _, text := range []string{"", "{}", "x", `{"base64Signature":""}`, `{"base64Signature":"%"}`, `{"base64Signature":"AAAA","rfc3161Timestamp":5}`,
		`{"base64Signature":"AAAA","cert":"x","rekorBundle":{}}`, strings.Repeat("[", 1<<16)} {
		s := v.Stored(file, inventory.Blob, nil, []byte(text))
		wantRefused(t, s)
		sane(t, s)
	}
	// A timestamp in cosign's own bundle is none: no client reads it there.
	sig := signRaw(t, k, artifact)
	b := BlobSignature{Signature: sig, Timestamp: []byte(tokenAnnotation(must(w.TimestampResponse(sig))(t)))}
	wantBounds(t, v.Stored(file, inventory.Detached, nil, must(b.Content())(t)))
}

// TestFile has the consumer of files judge bundles and blob signatures.
func TestFile(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	other := newECDSA(t)
	file := Subject{Repository: inventory.Files, Digest: subject().Digest}
	another := Subject{Repository: inventory.Files, Digest: inventory.Digest([]byte("another"))}
	by := Consumer{Key: k.Public(), Root: w}
	strangers := Consumer{Key: other.Public(), Root: w}
	certified := Consumer{Identity: signer.Identity{Kind: signer.Keyless, Subject: testSAN, Issuer: testOIDC}, Root: w, RequireTimestamp: true}
	for _, s := range samples(t, w, k) {
		switch s.format {
		case inventory.Blob:
		case inventory.Detached: // of a v0.3 bundle a promise is no proof of inclusion
			s = s.stripped(t, 1)
		default:
			continue
		}
		accepts := func(c Consumer, sub Subject, s sample, want bool) {
			t.Helper()
			if err := c.File(t.Context(), sub, s.format, s.content); (err == nil) != want {
				t.Errorf("%s, keyless %v: %v, want accepted %v", s.format, s.keyless, err, want)
			}
		}
		c := by
		if s.keyless {
			c = certified
		}
		accepts(c, file, s, true)
		accepts(c, another, s, false)
		accepts(strangers, file, s, false)
		c.RequireTimestamp = true
		accepts(c, file, s.stripped(t, 1), true)
		accepts(c, file, s.stripped(t, 4), s.format == inventory.Blob)
		accepts(c, file, s.stripped(t, 5), false)
		wrong := c
		wrong.Identity.Subject = "mallory@example.com"
		if s.keyless {
			accepts(wrong, file, s, false)
		}
	}
	// What cosign wrote before there were Sigstore bundles is read the same way.
	b := BlobSignature{Signature: signRaw(t, k, artifact)}
	for _, f := range []inventory.Format{inventory.Detached, inventory.Blob} {
		if err := by.File(t.Context(), file, f, must(b.Content())(t)); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
	for _, text := range []string{"", "{}", `{"base64Signature":"` + base64.StdEncoding.EncodeToString([]byte(`{"payloadType":"x"}`)) + `"}`, `{"base64Signature":"AAAA","cert":"x"}`} {
		if by.File(t.Context(), file, inventory.Blob, []byte(text)) == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}
