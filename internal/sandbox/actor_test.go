package sandbox

import (
	"context"
	"crypto"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

const spdx = "https://spdx.dev/Document"

var spdxDocument = map[string]any{"spdxVersion": "SPDX-2.3"}

// kinds are the four ways to sign and how cosign verifies them.
var kinds = []struct {
	name   string
	bundle bool
	sign   func(context.Context, *Actor, name.Digest, Proof) error
	verify func(context.Context, name.Reference, *cosign.CheckOpts) ([]oci.Signature, bool, error)
}{
	{"sig", false, func(ctx context.Context, a *Actor, d name.Digest, p Proof) error { return a.SignLegacy(ctx, d, p) }, verifySignatures},
	{"att", false, func(ctx context.Context, a *Actor, d name.Digest, p Proof) error {
		return a.AttestLegacy(ctx, d, spdx, spdxDocument, p)
	}, verifyAttestations},
	{"bundle", true, func(ctx context.Context, a *Actor, d name.Digest, p Proof) error { return a.SignBundle(ctx, d, p) }, verifyAttestations},
	{"bundle-att", true, func(ctx context.Context, a *Actor, d name.Digest, p Proof) error {
		return a.AttestBundle(ctx, d, spdx, spdxDocument, p)
	}, verifyAttestations},
}

func verifySignatures(ctx context.Context, ref name.Reference, co *cosign.CheckOpts) ([]oci.Signature, bool, error) {
	co.ClaimVerifier = cosign.SimpleClaimVerifier
	return cosign.VerifyImageSignatures(ctx, ref, co)
}

func verifyAttestations(ctx context.Context, ref name.Reference, co *cosign.CheckOpts) ([]oci.Signature, bool, error) {
	co.ClaimVerifier = cosign.IntotoSubjectClaimVerifier
	return cosign.VerifyImageAttestations(ctx, ref, co)
}

// checkOpts asks for the given proofs and for the actor's key.
func checkOpts(t *testing.T, a *Actor, p Proof, bundles bool) *cosign.CheckOpts {
	t.Helper()
	sv, err := signature.LoadVerifier(a.PublicKey(), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return &cosign.CheckOpts{
		SigVerifier:         sv,
		TrustedMaterial:     trustedRoot(t, a.world),
		Offline:             true,
		IgnoreSCT:           true,
		IgnoreTlog:          p&(RekorV1|RekorV2) == 0,
		UseSignedTimestamps: p&Timestamp != 0,
		NewBundleFormat:     bundles,
	}
}

func TestSignatures(t *testing.T) {
	w := startWorld(t)
	actor, stranger := newActor(t, w, "release"), newActor(t, w, "stranger")
	defer w.Clock().Live()
	for _, ago := range []time.Duration{0, month} {
		for _, kind := range kinds {
			for p := NoProof; p <= RekorV1|RekorV2|Timestamp; p++ {
				t.Run(fmt.Sprintf("%v ago/%s/%s", ago, kind.name, p), func(t *testing.T) {
					signed := time.Now().Add(-ago)
					w.Clock().Rewind(signed)
					ref := pushImage(t, w, fmt.Sprintf("%s-%d-%v", kind.name, p, ago))
					err := kind.sign(t.Context(), actor, ref, p)
					if p&RekorV2 != 0 && !kind.bundle {
						if err == nil {
							t.Fatal("a legacy signature went to Rekor v2")
						}
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					w.Clock().Live() // verifiers live in the present

					sigs, bundled, err := kind.verify(t.Context(), ref, checkOpts(t, actor, p, kind.bundle))
					if err != nil {
						t.Fatal(err)
					}
					if len(sigs) != 1 {
						t.Errorf("%d signatures", len(sigs))
					}
					if !kind.bundle && bundled != (p&RekorV1 != 0) {
						t.Errorf("bundle verified: %v", bundled)
					}
					if _, _, err := kind.verify(t.Context(), ref, checkOpts(t, stranger, p, kind.bundle)); err == nil {
						t.Error("verified with another key")
					}
					if kind.bundle {
						checkBundle(t, actor, ref, p, signed)
					} else {
						checkLegacyTimes(t, sigs[0], p, signed)
					}
				})
			}
		}
	}
}

// checkLegacyTimes checks that the signature carries exactly the proofs, of
// the given time.
func checkLegacyTimes(t *testing.T, sig oci.Signature, p Proof, signed time.Time) {
	t.Helper()
	b, err := sig.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	if (b != nil) != (p&RekorV1 != 0) {
		t.Errorf("log entry: %v", b)
	}
	if b != nil {
		near(t, "integrated time", time.Unix(b.Payload.IntegratedTime, 0), signed)
	}
	token, err := sig.RFC3161Timestamp()
	if err != nil {
		t.Fatal(err)
	}
	if (token != nil) != (p&Timestamp != 0) {
		t.Errorf("token: %v", token)
	}
	if token != nil {
		ts, err := timestamp.ParseResponse(token.SignedRFC3161Timestamp)
		if err != nil {
			t.Fatal(err)
		}
		near(t, "token's time", ts.Time, signed)
	}
}

func wrapBundle(t *testing.T, b *protobundle.Bundle) *bundle.Bundle {
	t.Helper()
	wrapped, err := bundle.NewBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	return wrapped
}

// keyMaterial is the sandbox's trusted root with the actor's key.
func keyMaterial(t *testing.T, a *Actor) root.TrustedMaterialCollection {
	t.Helper()
	sv, err := signature.LoadVerifier(a.PublicKey(), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return root.TrustedMaterialCollection{
		trustedRoot(t, a.world),
		root.NewTrustedPublicKeyMaterialFromMapping(map[string]*root.ExpiringKey{
			string(keypair{a}.GetHint()): root.NewExpiringKey(sv, time.Time{}, time.Time{}),
		}),
	}
}

func fetchBundle(t *testing.T, ref name.Digest) *bundle.Bundle {
	t.Helper()
	bundles, _, err := cosign.GetBundles(t.Context(), ref, &cosign.CheckOpts{})
	if err != nil {
		t.Fatal(err)
	}
	if len(bundles) != 1 {
		t.Fatalf("%d bundles", len(bundles))
	}
	return bundles[0]
}

func artifactPolicy(t *testing.T, ref name.Digest) verify.PolicyBuilder {
	t.Helper()
	raw, err := hexDigest(ref)
	if err != nil {
		t.Fatal(err)
	}
	return verify.NewPolicy(verify.WithArtifactDigest("sha256", raw), verify.WithKey())
}

// checkBundle verifies the one bundle of ref with sigstore-go, asking for
// every proof it should carry.
func checkBundle(t *testing.T, a *Actor, ref name.Digest, p Proof, signed time.Time) {
	t.Helper()
	var opts []verify.VerifierOption
	times := 0
	if logs := int(p&RekorV1 + (p&RekorV2)/RekorV2); logs > 0 {
		opts = append(opts, verify.WithTransparencyLog(logs))
	}
	if p&RekorV1 != 0 {
		opts = append(opts, verify.WithIntegratedTimestamps(1))
		times++
	}
	if p&Timestamp != 0 {
		opts = append(opts, verify.WithSignedTimestamps(1))
		times++
	}
	if times == 0 {
		opts = append(opts, verify.WithNoObserverTimestamps())
	}
	v, err := verify.NewVerifier(keyMaterial(t, a), opts...)
	if err != nil {
		t.Fatal(err)
	}
	res, err := v.Verify(fetchBundle(t, ref), artifactPolicy(t, ref))
	if err != nil {
		t.Fatal(err)
	}
	if len(res.VerifiedTimestamps) != times {
		t.Errorf("verified times: %+v", res.VerifiedTimestamps)
	}
	for _, ts := range res.VerifiedTimestamps {
		near(t, ts.Type, ts.Timestamp, signed)
	}
}

func TestForgedLegacy(t *testing.T) {
	w := startWorld(t)
	thief := newActor(t, w, "thief")
	ref := pushImage(t, w, "forged")
	claimed := time.Now().Add(-month)
	if err := thief.SignLegacyForged(t.Context(), ref, claimed); err != nil {
		t.Fatal(err)
	}
	sigs, err := ociremote.Signatures(ref.Context().Tag(strings.ReplaceAll(ref.DigestStr(), ":", "-") + ".sig"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := sigs.Get()
	if err != nil || len(list) != 1 {
		t.Fatalf("signatures %v, %v", list, err)
	}
	checkLegacyTimes(t, list[0], RekorV1, claimed) // it does claim the time
	if _, _, err := verifySignatures(t.Context(), ref, checkOpts(t, thief, RekorV1, false)); err == nil {
		t.Error("a forged entry timestamp verified")
	}
	// The signature itself is good: only the time is not.
	if _, bundled, err := verifySignatures(t.Context(), ref, checkOpts(t, thief, NoProof, false)); err != nil || bundled {
		t.Errorf("without the log: bundle verified %v, %v", bundled, err)
	}
}

func TestForgedBundle(t *testing.T) {
	w := startWorld(t)
	thief := newActor(t, w, "thief")
	ref := pushImage(t, w, "forged")
	claimed := time.Now().Add(-month)
	if err := thief.SignBundleForged(t.Context(), ref, claimed); err != nil {
		t.Fatal(err)
	}
	if _, _, err := verifyAttestations(t.Context(), ref, checkOpts(t, thief, Timestamp, true)); err == nil {
		t.Error("cosign believed the thief's timestamp authority")
	}
	if _, _, err := verifyAttestations(t.Context(), ref, checkOpts(t, thief, NoProof, true)); err != nil {
		t.Errorf("without timestamps: %v", err)
	}
	b := fetchBundle(t, ref)
	tokens, err := b.Timestamps()
	if err != nil || len(tokens) != 1 {
		t.Fatalf("tokens %v, %v", tokens, err)
	}
	ts, err := timestamp.ParseResponse(tokens[0])
	if err != nil {
		t.Fatal(err)
	}
	near(t, "claimed time", ts.Time, claimed)
	v, err := verify.NewVerifier(keyMaterial(t, thief), verify.WithSignedTimestamps(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(b, artifactPolicy(t, ref)); err == nil {
		t.Error("sigstore-go believed the thief's timestamp authority")
	}
}

func TestConcurrentWritersLoseNothing(t *testing.T) {
	w := startWorld(t)
	const writers = 16
	ref := pushImage(t, w, "busy")
	actors := []*Actor{newActor(t, w, "a"), newActor(t, w, "b")}
	var wg sync.WaitGroup
	errs := make(chan error, 2*writers)
	for i := range writers {
		wg.Go(func() { errs <- actors[i%2].SignLegacy(t.Context(), ref, RekorV1|Timestamp) })
		wg.Go(func() { errs <- actors[i%2].SignBundle(t.Context(), ref, RekorV1|RekorV2|Timestamp) })
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	sigs, err := ociremote.Signatures(ref.Context().Tag(strings.ReplaceAll(ref.DigestStr(), ":", "-") + ".sig"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := sigs.Get()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != writers {
		t.Errorf("%d legacy signatures, want %d", len(list), writers)
	}
	bundles, _, err := cosign.GetBundles(t.Context(), ref, &cosign.CheckOpts{})
	if err != nil {
		t.Fatal(err)
	}
	if len(bundles) != writers {
		t.Errorf("%d bundles, want %d", len(bundles), writers)
	}
	h, err := v1.NewHash(ref.DigestStr())
	if err != nil {
		t.Fatal(err)
	}
	co := checkOpts(t, actors[0], RekorV1|Timestamp, false)
	co.ClaimVerifier = cosign.SimpleClaimVerifier
	good := 0
	for _, s := range list {
		if _, err := cosign.VerifyImageSignature(t.Context(), s, h, co); err == nil {
			good++
		}
	}
	if good != writers/2 {
		t.Errorf("%d signatures of the first actor verify, want %d", good, writers/2)
	}
}

func TestEncryptedKey(t *testing.T) {
	w := startWorld(t)
	actor := newActor(t, w, "release")
	sealed, err := actor.EncryptedKey([]byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	sv, err := cosign.LoadPrivateKey(sealed, []byte("correct horse"), nil)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := sv.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	fromPEM, err := cryptoutils.UnmarshalPEMToPublicKey(actor.PublicKeyPEM())
	if err != nil {
		t.Fatal(err)
	}
	if k := ecdsaKey(t, actor.PublicKey()); !k.Equal(pub) || !k.Equal(fromPEM) {
		t.Error("the key changed on the way")
	}
	if _, err := cosign.LoadPrivateKey(sealed, []byte("wrong"), nil); err == nil {
		t.Error("any password opens the key")
	}
}

func TestActorsStayAtHome(t *testing.T) {
	w := startWorld(t)
	actor := newActor(t, w, "thief")
	ref, err := name.NewDigest("registry.example.test/app@sha256:" + strings.Repeat("0", 64))
	if err != nil {
		t.Fatal(err)
	}
	for act, err := range map[string]error{
		"SignLegacy":   actor.SignLegacy(t.Context(), ref, NoProof),
		"SignBundle":   actor.SignBundle(t.Context(), ref, NoProof),
		"AttestLegacy": actor.AttestLegacy(t.Context(), ref, spdx, nil, NoProof),
		"AttestBundle": actor.AttestBundle(t.Context(), ref, spdx, nil, NoProof),
	} {
		if err == nil || !strings.Contains(err.Error(), "not on this machine") {
			t.Errorf("%s on another machine: %v", act, err)
		}
	}
}

func TestActorHonoursCancellation(t *testing.T) {
	w := startWorld(t)
	actor := newActor(t, w, "release")
	ref := pushImage(t, w, "app")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, kind := range kinds {
		if err := kind.sign(ctx, actor, ref, NoProof); err == nil {
			t.Errorf("%s signed after cancellation", kind.name)
		}
	}
}
