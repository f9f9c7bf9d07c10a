package scan

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/sandbox"
)

// TestAttackHides has somebody who can push, or stand between, try to hide
// signatures from the inventory or to take them out of it.
func TestAttack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	pushed(t, b)
	for site, host := range b.sites() {
		t.Run("a tag on a rogue bundle, "+site, func(t *testing.T) {
			t.Parallel()
			k := b.newCaseAt(t, host, "acme/tagged-"+site[:3])
			ref := k.push(t, "app")
			must(t, k.actor.SignBundle(t.Context(), ref, sandbox.NoProof))
			k.scan(t, k.client)
			must(t, k.actor.SignBundle(t.Context(), ref, sandbox.RekorV1))
			list, err := k.client.Referrers(t.Context(), k.repo, ref.DigestStr())
			must(t, err)
			for i, d := range list {
				m, err := k.client.Manifest(t.Context(), k.repo, d.Digest.String())
				must(t, err)
				_, _, err = k.client.PutManifest(t.Context(), k.repo, fmt.Sprintf("x%d", i), m.MediaType, m.Raw)
				must(t, err)
			}
			for range 2 {
				k.scan(t, k.client)
				wantEqual(t, "signatures", len(k.signatures(t, ref)), 2)
			}
		})
	}
	t.Run("an empty layout under the name of a repository", func(t *testing.T) {
		t.Parallel()
		k := b.newCase(t, "acme/layout")
		ref := k.push(t, "app")
		must(t, errors.Join(k.actor.SignLegacy(t.Context(), ref, sandbox.NoProof), k.actor.SignBundle(t.Context(), ref, sandbox.NoProof)))
		k.scan(t, k.client)
		had := k.formats(t, ref)
		dir := t.TempDir()
		must(t, errors.Join(os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644),
			os.WriteFile(filepath.Join(dir, "index.json"), []byte(`{"schemaVersion":2,"manifests":[]}`), 0o644), os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755)))
		layout, err := registry.OpenLayout(dir)
		must(t, err)
		defer layout.Close()
		_, err = k.scanner(layout).Import(t.Context(), by, k.repo)
		must(t, err)
		wantEqual(t, "formats", k.formats(t, ref), had)
		requests := k.client.Requests()
		k.scan(t, k.client)
		if n := k.client.Requests() - requests; n > 5 {
			t.Errorf("the scan after the import sent %d requests: what was known of the registry is forgotten", n)
		}
	})
	t.Run("one answer that there is no referrers API", func(t *testing.T) {
		t.Parallel()
		k := b.newCase(t, "acme/blip")
		for i := range 8 {
			must(t, k.actor.SignBundle(t.Context(), k.push(t, fmt.Sprint("app", i)), sandbox.NoProof))
		}
		k.scan(t, k.client)
		var asked atomic.Int64
		k.wire.answer(func(r *http.Request) *http.Response {
			if strings.Contains(r.URL.Path, "/referrers/") {
				if asked.Add(1) == 3 {
					return reply(http.StatusNotFound, "text/plain", io.NopCloser(strings.NewReader("404 page not found")))
				}
			}
			return nil
		})
		var r Result
		r, err := k.scanner(k.client).Run(t.Context(), by, targets(k.repo))
		must(t, err)
		n, err := k.Counts(t.Context())
		must(t, err)
		wantEqual(t, "signatures", n.Signatures, int64(8))
		if asked.Load() < 3 || r.Problems == 0 {
			t.Errorf("asked %d times, %+v", asked.Load(), r)
		}
	})
	t.Run("a name in the catalog that no database takes", func(t *testing.T) {
		t.Parallel()
		k := b.newCase(t, "acme/catalog")
		k.push(t, "app")
		k.wire.answer(func(r *http.Request) *http.Response {
			if strings.HasSuffix(r.URL.Path, "/_catalog") {
				return reply(http.StatusOK, "application/json", io.NopCloser(strings.NewReader(`{"repositories":["`+strings.Repeat("a", 900)+`","acme/catalog"]}`)))
			}
			return nil
		})
		r, err := k.scanner(k.client).Run(t.Context(), by, targets(k.host))
		must(t, err)
		wantEqual(t, "repositories and problems", [2]int64{r.Repositories, r.Problems}, [2]int64{1, 1})
	})
}
