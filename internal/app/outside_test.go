package app

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/internal/services"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/resign"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

// TestAttackServiceInIncident re-signs with the service that an incident is about.
func TestAttackServiceInIncident(t *testing.T) {
	t.Parallel()
	for what, tc := range map[string]struct {
		proof sandbox.Proof
		role  inventory.Role
		class trust.Class
		at    func(*sandbox.World) services.Endpoints
		says  string
	}{
		"timestamp authority": {sandbox.Timestamp, inventory.RoleTSA, trust.TSA,
			func(w *sandbox.World) services.Endpoints { return services.Endpoints{Timestamps: []string{w.TSAURL()}} }, "--timestamp-server-url"},
		"log": {sandbox.RekorV1, inventory.RoleLog, trust.RekorLog,
			func(w *sandbox.World) services.Endpoints { return services.Endpoints{RekorV1: []string{w.RekorURL()}} }, "--rekor-url"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			ctx := t.Context()
			repo := h.world.Registry() + "/shop/api"
			from := time.Now().Add(-24 * time.Hour).UTC().Truncate(time.Second)
			h.actors["next"] = must(h.world.NewActor("next"))
			next := h.key(t, "next")
			check(t, h.store.Update(ctx, h.by("test"), func(tx *store.Tx) error {
				return tx.PutSigner(ctx, signer.Record{Identity: next.Identity(), Name: "next", State: signer.Standby, PublicKey: h.actors["next"].PublicKeyPEM()})
			}))
			check(t, h.actors["release"].SignLegacy(ctx, must(name.NewDigest(repo+"@"+h.image)), tc.proof))
			must(h.Scan(ctx, ScanOptions{Targets: Targets(repo)}, nil))
			var lost inventory.Authority
			for _, g := range must(h.store.SignaturesOf(ctx, inventory.Artifact{Repository: repo, Digest: h.image}, "")) {
				for _, b := range g.Bounds {
					if b.Verified && b.Authority.Role == tc.role {
						lost = b.Authority
					}
				}
			}
			plan := func(incident string) (string, trust.Decision) {
				t.Helper()
				_, plan, totals, err := h.MakePlan(ctx, PlanOptions{Incident: incident, NewSigner: "next", Skew: time.Minute, Homes: []string{repo}})
				check(t, err)
				for _, d := range trust.Decisions() {
					if totals.Decisions[d] > 0 {
						return plan, d
					}
				}
				return plan, ""
			}
			sign := func(plan string, s services.Services) (Resigned, error) {
				t.Helper()
				for _, person := range []string{"alice", "bob"} {
					_, err := h.ApproveWithKey(ctx, plan, person, h.key(t, person), false)
					if err != nil && !strings.Contains(err.Error(), "already") {
						t.Fatal(err)
					}
				}
				return h.Resign(ctx, ResignOptions{Plan: plan, Signer: signer.Always(next), Services: s, Apply: true,
					Failed: func(f resign.Failure) { t.Errorf("%s: %s", f.Format, f.Why) }})
			}
			with := must(services.Open(tc.at(h.world)))

			must(h.OpenIncident(ctx, rotate.Incident{Incident: trust.Incident{ID: "LOST-1", Class: tc.class, From: &from}, Severity: "high"},
				Scope{Authorities: []inventory.Authority{lost}, Matches: -1}, "test"))
			first, d := plan("LOST-1")
			if d != trust.Resign {
				t.Fatalf("decided %q, want something to re-sign", d)
			}
			before := h.tag(t, repo)
			got, err := sign(first, with)
			if err == nil || got.Signed != 0 {
				t.Errorf("%+v, %v: it is signed with the service that the incident is about", got.Result, err)
			} else if text := err.Error(); !strings.Contains(text, "LOST-1") || !strings.Contains(text, lost.ID) || !strings.Contains(text, tc.says) {
				t.Errorf("the error %q does not name incident, authority and flag", text)
			}
			if now := h.tag(t, repo); now != before {
				t.Error("something was published")
			}
			if got, err := sign(first, services.Services{}); err != nil || got.Signed != 1 {
				t.Errorf("without that service: %+v, %v", got.Result, err)
			}
			if _, d := plan("LOST-1"); d != trust.None {
				t.Errorf("the next plan decides %q", d)
			}
		})
	}
}

// tag returns what the ".sig" tag of the home's image names.
func (h home) tag(t *testing.T, repo string) string {
	t.Helper()
	return must(h.options.Registry.Manifest(t.Context(), repo, strings.Replace(h.image, ":", "-", 1)+".sig")).Digest
}
