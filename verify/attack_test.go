package verify

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/cosign/v2/pkg/oci/static"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/proto"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/inventory"
)

// TestAttack gives a signature proofs that are not its own, in every format: by
// the key and by a certificate. Whatever is genuine about them proves nothing
// about this signature.
func TestAttack(t *testing.T) {
	t.Parallel()
	w, k := newWorld(t), newECDSA(t)
	v := verifier(t, w, k.Public())
	good := samples(t, w, k)
	donors := samples(t, w, k) // the same signer signs once more
	for n, s := range good {
		whole := s.verify(v)
		wantVerified(t, whole)
		if !proves(whole, inventory.RoleLog) || !proves(whole, inventory.RoleTSA) {
			t.Fatalf("%s: without an attack its times are not proven: %+v", s.format, whole.Bounds)
		}
		if string(s.signature) == string(donors[n].signature) {
			t.Fatalf("%s: there is only one signature", s.format)
		}
	}

	t.Run("a payload that verifiers read in two ways", func(t *testing.T) {
		sub := subject()
		other := inventory.Digest([]byte("another"))
		head := `{"_type":"https://in-toto.io/Statement/v1","predicateType":"` + inventory.SignPredicate + `",`
		about := func(d string) string {
			return `[{"digest":{"sha256":"` + strings.TrimPrefix(d, "sha256:") + `"},"annotations":{"a":"b"}}]`
		}
		fine := head + `"subject":` + about(sub.Digest) + `}`
		for _, body := range []string{
			head + `"subject":` + about(other) + `,"subject":` + about(sub.Digest) + `}`,
			head + `"subject":` + about(other) + `,"Subject":` + about(sub.Digest) + `}`,
			head + `"SUBJECT":` + about(sub.Digest) + `}`,
			head + `"predicateType":"https://spdx.dev/Document","subject":` + about(sub.Digest) + `}`,
			head + `"predicate_type":"https://spdx.dev/Document","subject":` + about(sub.Digest) + `}`,
			head + `"predicate":{"a":1},"predicate":{"a":2},"subject":` + about(sub.Digest) + `}`,
			strings.Replace(fine, `{"sha256":`, `{"sha256":"`+strings.TrimPrefix(other, "sha256:")+`","sha256":`, 1),
		} {
			env, _ := envelope(t, k, []byte(body))
			wantRefused(t, v.Stored(sub, inventory.LegacyAtt, nil, env), "can be read in two ways")
			b, key := keyBundle(t, &sign.DSSEData{Data: []byte(body), PayloadType: intotoPayload}, nil)
			wantRefused(t, verifier(t, w, key).Stored(sub, inventory.Bundle, nil, raw(t, b)), "can be read in two ways")
			if got, err := StatementSubjects([]byte(body)); err == nil {
				t.Errorf("%s is about %v", body, got)
			}
			if got, err := Subjects(raw(t, b)); err == nil {
				t.Errorf("a bundle with %s is about %v", body, got)
			}
			if got, err := Annotations(sub, inventory.Bundle, raw(t, b)); err == nil {
				t.Errorf("%s says %v", body, got)
			}
		}
		env, _ := envelope(t, k, []byte(fine))
		wantVerified(t, v.Stored(sub, inventory.LegacyAtt, nil, env))

		pl := string(simple(t))
		for _, body := range []string{
			strings.Replace(pl, `"critical":`, `"critical":{"image":{"docker-manifest-digest":"`+other+`"}},"critical":`, 1),
			strings.Replace(pl, `"critical":`, `"Critical":{"image":{"docker-manifest-digest":"`+other+`"}},"critical":`, 1),
			strings.Replace(pl, `"docker-manifest-digest":`, `"docker-manifest-digest":"`+other+`","docker-manifest-digest":`, 1),
			strings.Replace(pl, `"docker-reference":`, `"docker-reference":"registry.example/other","docker-reference":`, 1),
			strings.Replace(pl, `"optional":null`, `"optional":{"a":"b","a":"c"}`, 1),
		} {
			if body == pl {
				t.Fatal("nothing was changed")
			}
			sig := map[string]string{static.SignatureAnnotationKey: b64(signRaw(t, k, []byte(body)))}
			wantRefused(t, v.Stored(sub, inventory.Legacy, sig, []byte(body)), "can be read in two ways")
			if got, err := Annotations(sub, inventory.Legacy, []byte(body)); err == nil {
				t.Errorf("%s says %v", body, got)
			}
		}
	})
	t.Run("integrated time edited", func(t *testing.T) {
		for _, s := range good {
			got := s.edited(t, func(e *protorekor.TransparencyLogEntry) { e.IntegratedTime -= 365 * 24 * 3600 }).verify(v)
			notProven(t, s, got, inventory.RoleLog)
			if !proves(got, inventory.RoleTSA) {
				t.Errorf("%s: the token, which is its own, proves nothing any more", s.format)
			}
		}
	})
	t.Run("integrated time edited beside a genuine inclusion proof", func(t *testing.T) {
		w := must(sandbox.Start(t.Context(), sandbox.Options{}))(t)
		t.Cleanup(func() { _ = w.Close() })
		kp := must(sign.NewEphemeralKeypair(nil))(t)
		b := must(sign.Bundle(&sign.DSSEData{Data: statement(subject().Digest, inventory.SignPredicate), PayloadType: intotoPayload}, kp, sign.BundleOptions{
			TransparencyLogs: []sign.Transparency{sign.NewRekor(&sign.RekorOptions{BaseURL: w.RekorURL(), Timeout: time.Minute})}}))(t)
		v := verifier(t, must(w.TrustedRoot())(t), kp.GetPublicKey())
		stored := func() inventory.Signature { return v.Stored(subject(), inventory.Detached, nil, raw(t, b)) }
		if s := stored(); !proves(s, inventory.RoleLog) {
			t.Fatalf("untouched: %+v", s.Bounds)
		}
		e := b.VerificationMaterial.TlogEntries[0]
		if e.InclusionProof == nil {
			t.Fatal("the entry has no inclusion proof")
		}
		e.IntegratedTime -= 365 * 24 * 3600
		s := stored()
		wantBounds(t, s, "log upper unverified")
		e.InclusionPromise = nil // only the genuine proof is left
		s = stored()
		wantBounds(t, s, "log upper unverified")
		if !strings.Contains(s.Bounds[0].Why, "the log did not sign this time") {
			t.Errorf("why %q: the inclusion proof is genuine and says nothing of the time", s.Bounds[0].Why)
		}
	})
	t.Run("token over another signature", func(t *testing.T) {
		for n, s := range good {
			got := s.tokenOf(t, donors[n]).verify(v)
			notProven(t, s, got, inventory.RoleTSA)
			if got.ID != s.verify(v).ID {
				t.Errorf("%s: it is another signature", s.format)
			}
		}
	})
	t.Run("log entry of another signature", func(t *testing.T) {
		for n, s := range good {
			var entry *protorekor.TransparencyLogEntry
			donors[n].edited(t, func(e *protorekor.TransparencyLogEntry) { entry = proto.Clone(e).(*protorekor.TransparencyLogEntry) })
			got := s.edited(t, func(e *protorekor.TransparencyLogEntry) { proto.Reset(e); proto.Merge(e, entry) }).verify(v)
			notProven(t, s, got, inventory.RoleLog)
		}
	})
	t.Run("good signature and its proofs on another artifact", func(t *testing.T) {
		other := Subject{Repository: repo, Digest: inventory.Digest([]byte("of the thief"))}
		for _, s := range good {
			got := v.Stored(other, s.format, s.annotations, s.content)
			if wantRefused(t, got); s.format != inventory.Blob { // which does not say what it signs
				wantRefused(t, got, other.Digest)
			}
		}
	})
	t.Run("certificate alone, dated before", func(t *testing.T) {
		for _, s := range good {
			if !s.keyless {
				continue
			}
			got := s.stripped(t, 1|4).verify(v) // neither log entry nor token
			if slices.ContainsFunc(got.Bounds, func(b inventory.Bound) bool { return b.Verified }) || got.Verified {
				t.Errorf("%s: a certificate alone proves something: %+v", s.format, got)
			}
			for _, b := range s.verify(v).Bounds {
				if b.Authority.Role == inventory.RoleCA && b.Side != inventory.Lower {
					t.Errorf("%s: the certificate's date proves that something is older: %+v", s.format, b)
				}
			}
		}
	})
}

// proves reports whether an authority of a role proves that a signature existed
// by a time.
func proves(s inventory.Signature, role inventory.Role) bool {
	return slices.ContainsFunc(s.Bounds, func(b inventory.Bound) bool {
		return b.Authority.Role == role && b.Side == inventory.Upper && b.Verified
	})
}

// notProven requires that the proof by an authority of a role is kept, with the
// reason why it proves nothing.
func notProven(t *testing.T, s sample, got inventory.Signature, role inventory.Role) {
	t.Helper()
	kept := false
	for _, b := range got.Bounds {
		if b.Authority.Role != role {
			continue
		}
		kept = true
		if b.Verified || b.Why == "" {
			t.Errorf("%s, keyless %v: %+v", s.format, s.keyless, b)
		}
	}
	if !kept {
		t.Errorf("%s, keyless %v: the proof was dropped instead of marked: %+v", s.format, s.keyless, got.Bounds)
	}
}

// tokenOf returns the sample with the timestamp token of another one.
func (s sample) tokenOf(t testing.TB, other sample) sample {
	t.Helper()
	if s.format == inventory.Blob {
		b, from := must(ParseBlobSignature(s.content))(t), must(ParseBlobSignature(other.content))(t)
		b.Timestamp = from.Timestamp
		s.content = must(b.Content())(t)
		return s
	}
	if s.annotations != nil {
		s.annotations = with(s.annotations, static.RFC3161TimestampAnnotationKey, other.annotations[static.RFC3161TimestampAnnotationKey])
		return s
	}
	b, _, err := parseBundle(s.content)
	if err != nil {
		t.Fatal(err)
	}
	from, _, err := parseBundle(other.content)
	if err != nil {
		t.Fatal(err)
	}
	b.VerificationMaterial.TimestampVerificationData = from.VerificationMaterial.TimestampVerificationData
	s.content = raw(t, b)
	return s
}
