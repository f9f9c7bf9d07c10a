package evidence

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/tuf/trustedroot"
)

// TestWhatIf takes one authority after the other out of the trusted root and
// says what would stop verifying, without touching what is known.
func TestWhatIf(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	robot, err := b.NewIdentity("robot", sandbox.Principal{Issuer: "https://issuer.example", Email: "release@example.com"})
	must(t, err)
	// An image each: a key's without proof, with a log entry, a token, both; a
	// keyless signature of Rekor v1, and one of Rekor v2 with a token.
	deployed := map[string]string{}
	for tag, p := range map[string]sandbox.Proof{"none": sandbox.NoProof, "log": sandbox.RekorV1, "tsa": sandbox.Timestamp, "both": sandbox.RekorV1 | sandbox.Timestamp} {
		ref := b.image(t, tag)
		must(t, b.actor.SignLegacy(ctx, ref, p))
		deployed[tag] = ref.DigestStr()
	}
	v1, v2 := b.image(t, "v1"), b.image(t, "v2")
	must(t, robot.SignBundle(ctx, v1, sandbox.RekorV1))
	must(t, robot.SignBundle(ctx, v2, sandbox.RekorV2|sandbox.Timestamp))
	// The deployed image of Rekor v1 has a key's signature beside it.
	must(t, b.actor.SignLegacy(ctx, v1, sandbox.NoProof))
	full := b.verifier(t, b.root, b.actor)
	b.scan(t, full)
	must(t, b.Update(ctx, by, func(tx *store.Tx) error {
		for _, digest := range []string{deployed["log"], deployed["tsa"], v1.DigestStr(), v2.DigestStr()} {
			if err := tx.SetDeployed(ctx, b.Registry()+"/acme/app", digest); err != nil {
				return err
			}
		}
		return nil
	}))
	known := b.signatures(t)

	text, err := b.TrustedRootJSON()
	must(t, err)
	for name, test := range map[string]struct {
		edit func(*trustedroot.Root, trustedroot.Authority) error
		kind trustedroot.Kind
		url  string
		want Difference
		dark []string
	}{
		"nothing":    {edit: func(*trustedroot.Root, trustedroot.Authority) error { return nil }},
		"the CA":     {remove, trustedroot.CA, "", Difference{Signatures: 3, Refused: 2, Artifacts: 2, Deployed: 2, Dark: 1}, []string{v2.DigestStr()}},
		"the CT log": {remove, trustedroot.CTLog, "", Difference{Signatures: 3, Refused: 2, Artifacts: 2, Deployed: 2, Dark: 1}, []string{v2.DigestStr()}},
		"the CA, from some day on": {func(r *trustedroot.Root, a trustedroot.Authority) error {
			_, _, err := r.End(a.Kind, a.ID, time.Now().Add(time.Hour), nil, time.Now())
			return err
		}, trustedroot.CA, "", Difference{Signatures: 3}, nil},
		"the CA, from before": {func(r *trustedroot.Root, a trustedroot.Authority) error {
			_, _, err := r.End(a.Kind, a.ID, time.Now().Add(-time.Hour), nil, time.Now())
			return err
		}, trustedroot.CA, "", Difference{Signatures: 3, Refused: 2, Artifacts: 2, Deployed: 2, Dark: 1}, []string{v2.DigestStr()}},
		"the log of Rekor v1":     {remove, trustedroot.Log, b.RekorURL(), Difference{Signatures: 4, Refused: 1, Unlogged: 2, Artifacts: 3, Deployed: 2, Dark: 1}, []string{deployed["log"]}},
		"the log of Rekor v2":     {remove, trustedroot.Log, b.RekorV2URL(), Difference{Signatures: 1, Unlogged: 1, Artifacts: 1, Deployed: 1, Dark: 1}, []string{v2.DigestStr()}},
		"the timestamp authority": {remove, trustedroot.TSA, "", Difference{Signatures: 3, Refused: 1, Untimed: 1, Artifacts: 2, Deployed: 2, Dark: 2}, []string{deployed["tsa"], v2.DigestStr()}},
	} {
		r, err := trustedroot.Parse(text)
		must(t, err)
		for _, a := range r.Authorities() {
			if a.Kind == test.kind && (test.url == "" || a.URL == test.url) {
				must(t, test.edit(r, a))
			}
		}
		edited, err := r.Bytes()
		must(t, err)
		lost, err := trustedroot.Lost(text, edited)
		must(t, err)
		var authorities []inventory.Authority
		for _, l := range lost {
			authorities = append(authorities, l.Evidence...)
		}
		tr, err := root.NewTrustedRootFromJSON(edited)
		must(t, err)
		then := b.verifier(t, tr, b.actor)
		got, err := WhatIf(ctx, b.Store, full, then, authorities, nil)
		must(t, err)
		test.want.DarkArtifacts = []string{}
		for _, digest := range test.dark {
			test.want.DarkArtifacts = append(test.want.DarkArtifacts, b.Registry()+"/acme/app@"+digest)
		}
		slices.Sort(test.want.DarkArtifacts)
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, test.want)
		}

		// The count of the inventory is an upper bound of it.
		uses, err := b.RestingOn(ctx, authorities)
		must(t, err)
		var facts []trustedroot.Fact
		for _, u := range uses {
			facts = append(facts, trustedroot.Fact{Authority: u.Authority, Signatures: u.Signatures, Alone: u.Alone, Deployed: u.Deployed, Latest: u.Latest})
		}
		for _, toll := range trustedroot.Tolls(lost, facts) {
			if takes := got.Refused + got.Unlogged + got.Untimed; toll.Signatures < takes || toll.Deployed < got.Deployed {
				t.Errorf("%s: %d signatures on %d deployed artifacts were counted, %d on %d lose something", name, toll.Signatures, toll.Deployed, takes, got.Deployed)
			}
		}
	}
	if now := b.signatures(t); !reflect.DeepEqual(now, known) {
		t.Error("asking changed what is known")
	}

	// What is not in the vault any more is judged by what is known of it.
	if s := without(inventory.Signature{Verified: true, Requires: []inventory.Authority{{Role: inventory.RoleCA, ID: "a"}}}, []inventory.Authority{{Role: inventory.RoleCA, ID: "a"}}); s.Verified {
		t.Error("a signature without its CA is taken for verified")
	}
}

func remove(r *trustedroot.Root, a trustedroot.Authority) error {
	_, _, err := r.Remove(a.Kind, a.ID)
	return err
}
