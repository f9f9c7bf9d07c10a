package app

import (
	"strings"
	"testing"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
)

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
