package app

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/pack"
	"github.com/reseal/reseal/rotate/trust"
)

// TestSealed holds the gate of closing against what can happen between packing
// and closing.
func TestSealed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	h := newHome(t)
	i := rotate.Incident{Severity: "high"}
	i.ID, i.Class = "INC-1", trust.SigningKey
	if _, err := h.OpenIncident(ctx, i, Scope{Signers: []string{"release"}, Matches: -1}, "reported"); err != nil {
		t.Fatal(err)
	}
	want := func(when string, want bool) {
		t.Helper()
		if got := must(h.sealed(ctx, "INC-1")); got != want {
			t.Errorf("%s: sealed is %v", when, got)
		}
	}
	note := func(d journal.Draft, reason string) {
		t.Helper()
		if err := h.store.Update(ctx, h.by("%s", reason), func(tx *store.Tx) error { tx.Record(d); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	want("never packed", false)
	note(journal.Draft{Action: pack.SealedAction, Subject: "INC-1", Digest: "sha256:" + strings.Repeat("1", 64)}, "evidence pack of INC-1")
	want("a crash after the seal and before the pack was there", false)
	target := filepath.Join(t.TempDir(), "pack")
	if _, err := h.PackEvidence(ctx, "INC-1", target); err != nil {
		t.Fatal(err)
	}
	want("packed", true)
	note(journal.Draft{Action: "test.noted"}, "as in INC-10")
	want("another incident was spoken of", true)
	_, size, err := h.evidence(ctx, "INC-1")
	if err != nil {
		t.Fatal(err)
	}
	note(journal.Draft{Action: "test.noted"}, "this is about INC-1.")
	want("something happened since", false)
	if _, _, err := h.seal(ctx, "INC-1", "sha256:"+strings.Repeat("2", 64), size); err == nil || !strings.Contains(err.Error(), "pack it again") {
		t.Errorf("something happened while it was packed: got %v", err)
	}
	want("the seal was refused", false)
	r := pack.Verify(must2(pack.Open(target)), pack.Options{Journal: must(h.journalVerifier())})
	if !r.OK() || time.Since(r.MadeAt) > time.Hour {
		t.Errorf("the pack: %+v", r)
	}
}

// must2 is must for what also gives something to close.
func must2[T, U any](v T, _ U, err error) T { return must(v, err) }
