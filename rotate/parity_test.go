package rotate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
)

// exceptions are those of a proof, in short.
func exceptions(p Parity) (out []string) {
	for _, x := range p.Exceptions {
		out = append(out, fmt.Sprintf("%s %s %s", x.Artifact[len(x.Artifact)-2:], x.What, x.Format))
	}
	return out
}

func TestParity(t *testing.T) {
	t.Parallel()
	const sbom = 63
	bundles := func(p *Plan) { p.Formats = []inventory.Format{inventory.Bundle} }
	both := func(p *Plan) { p.Formats = []inventory.Format{inventory.Bundle, inventory.Legacy} }
	for _, tc := range []struct {
		name   string
		to     func(*kase) person
		change func(*Plan)
		given  func(k *kase) []inventory.Signature // on artifact 20, the only one
		want   string                              // equal and summarised of statements
		except []string
	}{
		{"another signer, in the formats it is consumed in", func(k *kase) person { return k.next }, nil, func(k *kase) []inventory.Signature {
			return []inventory.Signature{signed(k.old, inventory.Legacy, true), claim(k.old, inventory.Bundle, spdx, sbom, true), signed(k.next, inventory.Legacy, true), claim(k.next, inventory.Bundle, spdx, sbom, true)}
		}, "2+0 of 2", nil},
		{"another signer, in another format than it is consumed in", func(k *kase) person { return k.next }, nil, func(k *kase) []inventory.Signature {
			return []inventory.Signature{signed(k.old, inventory.Legacy, true), signed(k.next, inventory.Bundle, true)}
		}, "0+0 of 1", []string{"14 missing legacy"}},
		{"another signer, in both", func(k *kase) person { return k.next }, both, func(k *kase) []inventory.Signature {
			return []inventory.Signature{signed(k.old, inventory.Legacy, true), signed(k.next, inventory.Legacy, true)}
		}, "1+0 of 2", []string{"14 missing bundle"}},
		{"the same signer", func(k *kase) person { return k.old }, bundles, func(k *kase) []inventory.Signature {
			return []inventory.Signature{signed(k.old, inventory.Legacy, true), claim(k.old, inventory.LegacyAtt, spdx, sbom, true), signed(k.old, inventory.Bundle, true), claim(k.old, inventory.Bundle, spdx, sbom, true)}
		}, "2+0 of 2", nil},
		{"the same signer, and another payload", func(k *kase) person { return k.old }, bundles, func(k *kase) []inventory.Signature {
			return []inventory.Signature{signed(k.old, inventory.Legacy, true), claim(k.old, inventory.LegacyAtt, spdx, sbom, true), signed(k.old, inventory.Bundle, true), claim(k.old, inventory.Bundle, spdx, sbom+1, true)}
		}, "1+0 of 2", []string{"14 missing bundle", "14 added bundle"}},
		{"the same signer, one that does not verify", func(k *kase) person { return k.old }, bundles, func(k *kase) []inventory.Signature {
			bad := signed(k.old, inventory.Bundle, true)
			bad.Verified, bad.Why = false, "it is over another digest"
			return []inventory.Signature{signed(k.old, inventory.Legacy, true), bad}
		}, "0+0 of 1", []string{"14 missing bundle"}},
		{"by another signer than was named", func(k *kase) person { return k.old }, bundles, func(k *kase) []inventory.Signature {
			return []inventory.Signature{signed(k.old, inventory.Legacy, true), signed(k.builder, inventory.Bundle, true)}
		}, "0+0 of 1", []string{"14 missing bundle"}},
		{"said in the new format alone", func(k *kase) person { return k.old }, bundles, func(k *kase) []inventory.Signature {
			return []inventory.Signature{signed(k.old, inventory.Bundle, true)}
		}, "0+0 of 0", nil},
		{"kept elsewhere", func(k *kase) person { return k.old }, bundles, func(k *kase) []inventory.Signature {
			g := signed(k.old, inventory.Legacy, true)
			g.Location = "registry.example/signatures"
			return []inventory.Signature{g}
		}, "0+0 of 1", []string{"14 missing bundle"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := newCase(t)
			for n := range 8 { // leave 20 alone
				for _, r := range []string{repo, elsewhere} {
					k.update(t, func(tx *store.Tx) error {
						return tx.KeepSignatures(t.Context(), r, digest(n), "", inventory.Formats(), nil)
					})
				}
			}
			k.put(t, repo, 20, tc.given(k)...)
			plan, _, err := k.tryRotate(t, turn, k.old, tc.to(k), tc.change)
			must(t, err)
			got, err := CheckParity(t.Context(), k.Store, turn, plan, nil)
			must(t, err)
			wantEqual(t, "counts", fmt.Sprintf("%d+%d of %d", got.Equal, got.Summarised, got.Statements), tc.want)
			wantEqual(t, "exceptions", exceptions(got), tc.except)
			wantEqual(t, "holds", got.Holds, len(tc.except) == 0)
		})
	}
	t.Run("provenance that is summarised", func(t *testing.T) {
		t.Parallel()
		k := newCase(t)
		k.attested(t, 20, true)
		plan, _ := k.rotate(t, nil)
		k.carryOut(t, plan)
		i := k.item(t, plan, 20, slsa)
		got, err := CheckParity(t.Context(), k.Store, turn, plan, nil)
		must(t, err)
		wantEqual(t, "without the summary", exceptions(got), []string{"14 missing legacy"})
		p, _, err := LoadPlan(t.Context(), k.Store, plan)
		must(t, err)
		payload, err := p.Summary(plan, i)
		must(t, err)
		k.made(t, plan, i, k.next, inventory.SummaryPredicate, payload)
		got, err = CheckParity(t.Context(), k.Store, turn, plan, nil)
		must(t, err)
		wantEqual(t, "with it", []any{got.Holds, got.Summarised}, []any{true, int64(1)})
		// One of another attestation is more than was said.
		other, err := inventory.Summary{Artifact: inventory.Artifact{Repository: repo, Digest: digest(20)}, Verifier: "urn:x", Plan: plan,
			Inputs: []inventory.SummaryInput{{Digest: digest(999)}}}.Payload()
		must(t, err)
		k.made(t, plan, i, k.next, inventory.SummaryPredicate, other)
		got, err = CheckParity(t.Context(), k.Store, turn, plan, nil)
		must(t, err)
		wantEqual(t, "with one more", exceptions(got), []string{"14 added legacy"})
	})
	t.Run("what cannot be read", func(t *testing.T) {
		t.Parallel()
		k := newCase(t)
		plan, _ := k.rotate(t, nil)
		got, err := CheckParity(t.Context(), k.Store, turn, plan, func(context.Context, inventory.Artifact) (Sight, error) {
			return Sight{}, errors.New("the registry does not answer")
		})
		must(t, err)
		wantEqual(t, "holds", []any{got.Holds, got.Registry, len(got.Exceptions)}, []any{false, true, 6})
		wantEqual(t, "exception", []string{got.Exceptions[0].What, got.Exceptions[0].Why}, []string{ParityUnknown, "the registry does not answer"})
	})
	t.Run("of a plan that is none", func(t *testing.T) {
		t.Parallel()
		k, plan, _ := approved(t, nil)
		for _, digest := range []string{"", plan} {
			if _, err := CheckParity(t.Context(), k.Store, turn, digest, nil); err == nil || !strings.Contains(err.Error(), turn) {
				t.Errorf("got %v", err)
			}
		}
	})
}
