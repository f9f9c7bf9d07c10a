package app

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/resign"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// TestAttackClaimAboutSeveral has a claim that is proven good name an image that is
// marked rogue, too: no bundle by the new signer makes cosign accept that.
func TestAttackClaimAboutSeveral(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	ctx := t.Context()
	repo := h.world.Registry() + "/shop/api"
	_, old, err := signer.ParsePublicKey(h.actors["release"].PublicKeyPEM())
	check(t, err)
	h.actors["next"] = must(h.world.NewActor("next"))
	next := h.key(t, "next")
	rogue := must(h.world.PushImage(ctx, "shop/api", "evil", "evil")).DigestStr()
	from := time.Now().Add(-24 * time.Hour).UTC().Truncate(time.Second)

	m := must(h.options.Registry.Manifest(ctx, repo, h.image))
	put := func(f inventory.Format, predicateType, payload, content string) inventory.Signature {
		g := inventory.Signature{Repository: repo, Digest: h.image, Format: f, PredicateType: predicateType, PayloadDigest: inventory.Digest([]byte(payload)),
			Content: inventory.Digest([]byte(content)), Manifest: m.Digest, Signer: old, Verified: true,
			Bounds: []inventory.Bound{{Side: inventory.Upper, Time: from.Add(-24 * time.Hour), Verified: true, Authority: inventory.Authority{Role: inventory.RoleTSA, ID: "tsa"}}}}
		g.ID = inventory.SignatureID(repo, h.image, f, old, g.PayloadDigest, []byte(content))
		return g
	}
	simple := fmt.Sprintf(`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, repo, h.image)
	statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}},{"digest":{"sha256":%q}}],"predicateType":"https://spdx.dev/Document","predicate":{}}`,
		strings.TrimPrefix(h.image, "sha256:"), strings.TrimPrefix(rogue, "sha256:"))
	bundle := fmt.Sprintf(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"x"}},"dsseEnvelope":{"payload":%q,"payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"c2ln"}]}}`,
		base64.StdEncoding.EncodeToString([]byte(statement)))
	check(t, h.store.Update(ctx, h.by("test"), func(tx *store.Tx) error {
		image := put(inventory.Legacy, inventory.SignPredicate, simple, simple)
		image.Names = repo
		_, err1 := tx.PutVault(ctx, []byte(simple))
		_, err2 := tx.PutVault(ctx, []byte(bundle))
		return errors.Join(err1, err2, tx.PutSigner(ctx, signer.Record{Identity: next.Identity(), Name: "next", State: signer.Standby, PublicKey: h.actors["next"].PublicKeyPEM()}),
			tx.PutArtifact(ctx, inventory.Artifact{Repository: repo, Digest: h.image, MediaType: m.MediaType, Size: m.Size}),
			tx.PutSignature(ctx, image), tx.PutSignature(ctx, put(inventory.Bundle, "https://spdx.dev/Document", statement, bundle)))
	}))

	must(h.OpenIncident(ctx, rotate.Incident{Incident: trust.Incident{ID: "INC-1", Class: trust.SigningKey, From: &from}, Severity: "high",
		Rogue: map[string]string{rogue: "built by the thief"}}, Scope{Signers: []string{"release"}, Matches: -1}, "test"))
	_, plan, totals, err := h.MakePlan(ctx, PlanOptions{Incident: "INC-1", NewSigner: "next", Skew: time.Minute, Homes: []string{repo}})
	check(t, err)
	if totals.Decisions[trust.Resign] != 1 || totals.Decisions[trust.Hold] != 1 {
		t.Errorf("decisions: %v", totals.Decisions)
	}
	for _, person := range []string{"alice", "bob"} {
		must(h.ApproveWithKey(ctx, plan, person, h.key(t, person), false))
	}
	got := must(h.Resign(ctx, ResignOptions{Plan: plan, Signer: signer.Always(next), Apply: true}))
	if want := (resign.Result{Planned: 1, Signed: 1}); got.Result != want {
		t.Errorf("%+v, want %+v", got.Result, want)
	}
	pub, _, err := signer.ParsePublicKey(h.actors["next"].PublicKeyPEM())
	check(t, err)
	f := verify.Fetcher{Registry: h.options.Registry, Verifier: must(h.verifier(ctx))}
	for _, found := range f.Signatures(ctx, verify.Subject{Repository: repo, Digest: h.image}, verify.Everywhere).Found {
		if found.Signer != next.Identity() || found.Format != inventory.Bundle {
			continue
		}
		if err := (verify.Consumer{Key: pub}).Bundle(ctx, verify.Subject{Repository: repo, Digest: rogue}, found.Content); err == nil {
			t.Errorf("a bundle (%s) makes cosign accept %s, which is marked rogue", found.PredicateType, rogue)
		}
	}
}
