package resign

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/reseal/reseal/internal/services"
	"github.com/reseal/reseal/inventory"
)

// TestOutside declares an incident about the timestamp authority before, while
// and after signatures are made that it stamps.
func TestOutside(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	trusted, err := b.TrustedRoot()
	must(t, err)
	stamped, err := services.Open(services.Endpoints{Timestamps: []string{b.TSAURL()}})
	must(t, err)
	isStamped := func(_ context.Context, s inventory.Signature, _ bool) (string, error) {
		if slices.ContainsFunc(s.Bounds, func(b inventory.Bound) bool { return b.Authority.Role == inventory.RoleTSA }) {
			return "the timestamp authority is under INC-1", nil
		}
		return "", nil
	}
	begin := func(t *testing.T) (*kase, name.Digest) {
		k := b.newCase(t)
		ref := k.push(t, "app")
		k.all(t, ref)
		k.plan(t, ref)
		return k, ref
	}
	run := func(k *kase, reg Registry, with services.Services, known bool) (Result, string, error) {
		e := k.engine(reg)
		e.Root, e.Services = trusted, with
		if known {
			e.Outside = isStamped
		}
		why := ""
		e.Failed = func(f Failure) { why = f.Why }
		got, err := e.Run(t.Context(), list{items: k.items})
		return got, why, err
	}
	check := func(t *testing.T, k *kase, ref name.Digest, stamped, plain int) {
		t.Helper()
		var got [2]int
		for _, f := range k.found(t, ref) {
			if f.Signer == k.next.id {
				got[min(1, len(f.Bounds))]++
			}
		}
		wantEqual(t, "new signatures without and with a timestamp", got, [2]int{plain, stamped})
	}
	t.Run("before", func(t *testing.T) {
		t.Parallel()
		k, ref := begin(t)
		w := &wrapper{Registry: k.client}
		got, _, err := run(k, w, stamped, true)
		if err == nil || !strings.Contains(err.Error(), "INC-1") || got.Signed+got.Failed != 0 {
			t.Errorf("%+v, %v: want the run to stop", got, err)
		}
		wantEqual(t, "writes", len(w.writes), 0)
		for _, r := range k.reissues(t) {
			if r.State != Intended || r.Content != "" {
				t.Errorf("persisted as %s: %q", r.State, r.Content)
			}
		}
		got, _, err = run(k, k.client, services.Services{}, true)
		must(t, err)
		wantEqual(t, "result without that service", got, Result{Planned: 4, Signed: 4})
		check(t, k, ref, 0, 4)
	})
	t.Run("between persisting and publishing", func(t *testing.T) {
		t.Parallel()
		k, ref := begin(t)
		got, _, err := run(k, &wrapper{Registry: k.client, failAt: -1, fault: lost}, stamped, false)
		must(t, err)
		wantEqual(t, "result while nothing can be written", got, Result{Planned: 4, Failed: 4})
		got, why, err := run(k, k.client, services.Services{}, true)
		must(t, err)
		wantEqual(t, "result", got, Result{Planned: 4, Failed: 4})
		if !strings.Contains(why, "INC-1") || !strings.Contains(why, "signs anew") {
			t.Errorf("the reason is %q", why)
		}
		got, _, err = run(k, k.client, services.Services{}, true)
		must(t, err)
		wantEqual(t, "result of the next run", got, Result{Planned: 4, Signed: 4})
		check(t, k, ref, 0, 4)
	})
	t.Run("after another plan published them", func(t *testing.T) {
		t.Parallel()
		k, ref := begin(t)
		got, _, err := run(k, k.client, stamped, false)
		must(t, err)
		wantEqual(t, "result", got, Result{Planned: 4, Signed: 4})
		next := b.newCase(t)
		next.repo, next.next, next.items = k.repo, k.next, k.items
		for _, i := range k.items {
			content, err := k.Vault(t.Context(), i.SourceContent)
			must(t, err)
			next.vault(t, string(content))
		}
		got, why, err := run(next, next.client, services.Services{}, true)
		must(t, err)
		if want := (Result{Planned: 4, Signed: 4}); got != want {
			t.Errorf("result %+v (%s), want %+v", got, why, want)
		}
		check(t, k, ref, 4, 4)
		got, _, err = run(next, next.client, services.Services{}, true)
		must(t, err)
		wantEqual(t, "result of the next run", got, Result{Planned: 4, Already: 4})
	})
}
