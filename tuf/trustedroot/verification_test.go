package trustedroot

import (
	"context"
	"crypto/sha256"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/verify"
)

// TestVerification signs, edits the trusted root, and asks sigstore-go's whole
// verifier and our own whether the signature still verifies: an end works where
// End says so, and what Lost names is what stops verifying.
func TestVerification(t *testing.T) {
	ctx := context.Background()
	w := must(sandbox.Start(ctx, sandbox.Options{}))(t)
	defer w.Close()
	keyless := must(w.NewIdentity("robot", sandbox.Principal{Issuer: "https://issuer.example", Email: "release@example.com"}))(t)
	text := must(w.TrustedRootJSON())(t)
	artifact := []byte("an artifact")
	sum := sha256.Sum256(artifact)
	signed := time.Now().Add(-48 * time.Hour).Truncate(time.Second)
	w.Clock().Rewind(signed)
	sign := func(p sandbox.Proof) []byte { return must(keyless.SignBlob(ctx, artifact, p))(t) }
	v1, v2 := sign(sandbox.RekorV1), sign(sandbox.RekorV2|sandbox.Timestamp)

	sigstore := func(text, raw []byte) bool {
		tr := must(root.NewTrustedRootFromJSON(text))(t)
		v := must(sgverify.NewVerifier(tr, sgverify.WithTransparencyLog(1), sgverify.WithObserverTimestamps(1), sgverify.WithSignedCertificateTimestamps(1)))(t)
		var b bundle.Bundle
		if err := b.UnmarshalJSON(raw); err != nil {
			t.Fatal(err)
		}
		id := must(sgverify.NewShortCertificateIdentity("https://issuer.example", "", "release@example.com", ""))(t)
		_, err := v.Verify(&b, sgverify.NewPolicy(sgverify.WithArtifactDigest("sha256", sum[:]), sgverify.WithCertificateIdentity(id)))
		return err == nil
	}
	ours := func(text, raw []byte) inventory.Signature {
		v := must(verify.New(verify.Trust{Root: must(root.NewTrustedRootFromJSON(text))(t)}))(t)
		return v.Stored(verify.Subject{Repository: inventory.Files, Digest: inventory.Digest(artifact)}, inventory.Detached, nil, raw)
	}
	if !sigstore(text, v1) || !sigstore(text, v2) || !ours(text, v1).Verified || !ours(text, v2).Verified {
		t.Fatal("they do not verify to begin with")
	}
	config := configWith(t,
		Service{Kind: Rekor, URL: w.RekorURL(), Version: 1, Operator: "acme.example", Start: start},
		Service{Kind: Rekor, URL: w.RekorV2URL(), Version: 2, Operator: "acme.example", Start: start})
	of := func(r *Root, url string) string {
		for _, a := range r.Authorities() {
			if a.Kind == Log && a.URL == url {
				return a.ID
			}
		}
		t.Fatalf("no log at %s", url)
		return ""
	}
	only := func(r *Root, k Kind) string {
		for _, a := range r.Authorities() {
			if a.Kind == k {
				return a.ID
			}
		}
		return ""
	}
	for name, test := range map[string]struct {
		edit   func(*Root) error
		v1, v2 bool // still verify
		lost   Kind
	}{
		"CA ended before":  {func(r *Root) error { return second(r.End(CA, only(r, CA), signed.Add(-time.Hour), nil, now)) }, false, false, CA},
		"CA ended after":   {func(r *Root) error { return second(r.End(CA, only(r, CA), signed.Add(time.Hour), nil, now)) }, true, true, CA},
		"CA removed":       {func(r *Root) error { return second(r.Remove(CA, only(r, CA))) }, false, false, CA},
		"TSA ended before": {func(r *Root) error { return second(r.End(TSA, only(r, TSA), signed.Add(-time.Hour), nil, now)) }, true, false, TSA},
		"TSA removed":      {func(r *Root) error { return second(r.Remove(TSA, only(r, TSA))) }, true, false, TSA},
		"log ended before": {func(r *Root) error {
			return second(r.End(Log, of(r, w.RekorURL()), signed.Add(-time.Hour), config, now))
		}, false, true, Log},
		"log removed":          {func(r *Root) error { return second(r.Remove(Log, of(r, w.RekorURL()))) }, false, true, Log},
		"Rekor v2 log removed": {func(r *Root) error { return second(r.Remove(Log, of(r, w.RekorV2URL()))) }, true, false, Log},
		"CT log ended before":  {func(r *Root) error { return second(r.End(CTLog, only(r, CTLog), signed.Add(-time.Hour), nil, now)) }, false, false, CTLog},
		"CT log removed":       {func(r *Root) error { return second(r.Remove(CTLog, only(r, CTLog))) }, false, false, CTLog},
	} {
		r := must(Parse(text))(t)
		if err := test.edit(r); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		edited := bytesOf(t, r)
		if got := sigstore(edited, v1); got != test.v1 {
			t.Errorf("%s: sigstore-go says %v of a bundle with a Rekor v1 entry", name, got)
		}
		if got := sigstore(edited, v2); got != test.v2 {
			t.Errorf("%s: sigstore-go says %v of a bundle with a Rekor v2 entry", name, got)
		}
		if a, b := ours(edited, v1), ours(edited, v2); stands(a) != test.v1 || stands(b) != test.v2 {
			t.Errorf("%s: ours are %v (%s) and %v (%s)", name, stands(a), a.Why, stands(b), b.Why)
		}
		lost := must(Lost(text, edited))(t)
		if len(lost) != 1 || lost[0].Authority.Kind != test.lost {
			t.Errorf("%s: lost %v", name, lost)
			continue
		}
		// Whatever stopped verifying rested on what Lost names.
		for _, raw := range [][]byte{v1, v2} {
			was := ours(text, raw)
			if stands(ours(edited, raw)) {
				continue
			}
			if rests := evidenceOf(was); !slices.ContainsFunc(rests, func(a inventory.Authority) bool { return slices.Contains(lost[0].Evidence, a) }) {
				t.Errorf("%s: what stopped verifying rests on %v, not on %v", name, rests, lost[0].Evidence)
			}
		}
	}

	// The trap that the refusal is for: sigstore-go takes a Rekor v2 entry of a
	// log that ended long ago.
	r := must(Parse(text))(t)
	id := of(r, w.RekorV2URL())
	if _, _, err := r.End(Log, id, signed.Add(-time.Hour), config, now); err == nil || !strings.Contains(err.Error(), "Remove the log") {
		t.Errorf("the end of a Rekor v2 log: %v", err)
	}
	if _, _, err := r.End(Log, id, signed.Add(-time.Hour), nil, now); err != nil { // the sandbox's has an ECDSA key
		t.Fatal(err)
	}
	if !sigstore(bytesOf(t, r), v2) {
		t.Error("sigstore-go looks at the end of a Rekor v2 log by now: let End do it")
	}
}

// evidenceOf lists what a signature rests on.
func evidenceOf(s inventory.Signature) []inventory.Authority {
	rests := slices.Clone(s.Requires)
	for _, b := range s.Bounds {
		if b.Verified {
			rests = append(rests, b.Authority)
		}
	}
	return rests
}

// stands reports whether a signature verifies for who asks for a log entry, as
// the verifier of the test does.
func stands(s inventory.Signature) bool {
	return s.Verified && slices.ContainsFunc(evidenceOf(s), func(a inventory.Authority) bool { return a.Role == inventory.RoleLog })
}
