package app

import (
	"strings"
	"testing"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// TestAttackApproversOwnKey has a signer on standby that an approver signs
// approvals as, from before that was refused.
func TestAttackApproversOwnKey(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	ctx, spare := t.Context(), signer.Record{Name: "spare", State: signer.Standby, PublicKey: h.actors["alice"].PublicKeyPEM()}
	if err := checkSigner(&spare); err != nil {
		t.Fatal(err)
	}
	if err := h.store.Update(ctx, h.by("test"), func(tx *store.Tx) error { return tx.PutSigner(ctx, spare) }); err != nil {
		t.Fatal(err)
	}
	want := "signer spare: alice signs approvals as"
	if _, err := h.EnrollSigner(ctx, spare, "again"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("enrolled: %v", err)
	}
	if _, _, err := h.PromoteSigner(ctx, "spare", "", "a change"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("promoted: %v", err)
	}
	spare.State = signer.Old // trusted no more for anything new
	if _, err := h.EnrollSigner(ctx, spare, "out of use"); err != nil {
		t.Error(err)
	}
}

// TestAttackLookalike has a plan whose digest starts as a motion's does, which
// whoever makes plans can search for: neither is what people sign then.
func TestAttackLookalike(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	ctx, start := t.Context(), "sha256:"+strings.Repeat("ab", 10)
	if err := h.store.Update(ctx, h.by("test"), func(tx *store.Tx) error {
		if err := tx.PutDocument(ctx, store.KindMotion, start+strings.Repeat("0", 44), "test", []byte("{}")); err != nil {
			return err
		}
		return tx.PutDocument(ctx, store.KindPlan, start+strings.Repeat("1", 44), "test", []byte("{}"))
	}); err != nil {
		t.Fatal(err)
	}
	if err := inventory.CheckDigest(start + strings.Repeat("0", 44)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.ApprovalRequest(ctx, start, "alice"); err == nil || !strings.Contains(err.Error(), "a plan and a motion start so") {
		t.Errorf("got %v", err)
	}
}
