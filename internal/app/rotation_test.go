package app

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/resign"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/signer"
)

// refusing is a registry that refuses manifests which hold some text.
type refusing struct {
	http.RoundTripper
	text []byte
}

func (r *refusing) RoundTrip(q *http.Request) (*http.Response, error) {
	if q.Method != http.MethodPut || q.Body == nil || len(r.text) == 0 {
		return r.RoundTripper.RoundTrip(q)
	}
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return nil, err
	}
	q.Body = io.NopCloser(bytes.NewReader(body))
	if !bytes.Contains(body, r.text) {
		return r.RoundTripper.RoundTrip(q)
	}
	return &http.Response{StatusCode: http.StatusForbidden, Status: "403 Forbidden", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: q, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(`{"errors":[{"code":"DENIED","message":"read only"}]}`))}, nil
}

func (h home) key(t *testing.T, of string) signer.Signer {
	t.Helper()
	file := filepath.Join(t.TempDir(), of+".key")
	private := must(h.actors[of].EncryptedKey([]byte("p")))
	if err := os.WriteFile(file, private, 0o600); err != nil {
		t.Fatal(err)
	}
	return must(LoadKey(file, func() ([]byte, error) { return []byte("p"), nil }))
}

// TestFaultMigrationHidesNothing refuses the image's own bundle: no claim may
// follow it then, because cosign would look past the ".sig" that is there.
func TestFaultMigrationHidesNothing(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	ctx := t.Context()
	ref, err := name.NewDigest(h.world.Registry() + "/shop/api@" + h.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.actors["release"].AttestLegacy(ctx, ref, "https://spdx.dev/Document", map[string]any{"name": "x"}, sandbox.NoProof); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Scan(ctx, ScanOptions{Targets: Targets(h.world.Registry() + "/shop/api")}, nil); err != nil {
		t.Fatal(err)
	}
	wall := &refusing{http.DefaultTransport, []byte(`"dev.sigstore.bundle.predicateType":"` + inventory.SignPredicate)}
	h.options.Registry = registry.New(registry.Options{Keychain: authn.NewMultiKeychain(), Transport: wall})
	plan := h.migration(t)
	var only Selection
	resigned := func(apply bool) (resign.Result, []string) {
		var why []string
		var done int64
		r, _ := h.Resign(ctx, ResignOptions{Plan: plan, Signer: signer.Always(h.key(t, "release")), Apply: apply, Only: only,
			Progress: func(n int64, _ resign.Result, _ []HostStatus) { done = n }, Failed: func(f resign.Failure) { why = append(why, f.Why) }})
		if done != r.Planned {
			t.Errorf("progress ends at %d of %d", done, r.Planned)
		}
		return r.Result, why
	}
	bundles := func() int { return len(must(h.options.Registry.Referrers(ctx, ref.Context().Name(), h.image))) }

	if r, why := resigned(false); r != (resign.Result{Planned: 2}) {
		t.Errorf("dry run: %+v %q", r, why)
	}
	only.Limit = 1 // of both parts together
	if r, why := resigned(false); r != (resign.Result{Planned: 1}) {
		t.Errorf("dry run of one: %+v %q", r, why)
	}
	only.Limit = 0
	r, why := resigned(true)
	if r != (resign.Result{Planned: 2, Failed: 1, Held: 1}) || !strings.Contains(strings.Join(why, "; "), "look past its \".sig\"") {
		t.Errorf("%+v %q", r, why)
	}
	if n := bundles(); n != 0 {
		t.Errorf("%d bundles hide the image's signature", n)
	}
	wall.text = nil
	if r, why := resigned(true); r != (resign.Result{Planned: 2, Signed: 2}) {
		t.Errorf("resumed: %+v %q", r, why)
	}
	if n := bundles(); n != 2 {
		t.Errorf("%d bundles", n)
	}
	parity := must(h.Parity(ctx, "BUNDLES", "", true))
	if !parity.Holds || parity.Equal != 2 || !parity.Registry {
		t.Errorf("%+v", parity)
	}
	// What cannot be read proves nothing.
	h.options.Registry = registry.New(registry.Options{Keychain: authn.NewMultiKeychain(), Transport: unreachable{}})
	parity = must(h.Parity(ctx, "BUNDLES", "", true))
	if parity.Holds || len(parity.Exceptions) != 1 || parity.Exceptions[0].What != rotate.ParityUnknown {
		t.Errorf("%+v", parity)
	}
}

// unreachable is a registry that refuses to be read.
type unreachable struct{}

func (unreachable) RoundTrip(q *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusForbidden, Status: "403 Forbidden", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: q, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(`{"errors":[{"code":"DENIED","message":"no"}]}`))}, nil
}

// migration plans a change of the signer's formats to bundles, and has it approved.
func (h home) migration(t *testing.T) (plan string) {
	t.Helper()
	o := RotationOptions{Rotation: "BUNDLES", From: "release", To: "release", Formats: []string{"bundle"}, Skew: time.Minute, Expires: time.Hour}
	_, plan, _, err := h.PlanRotation(t.Context(), o, "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, person := range []string{"alice", "bob"} {
		must(h.ApproveWithKey(t.Context(), plan, person, h.key(t, person), false))
	}
	return plan
}
