package resign

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// throttled answers 429 to the first writes of a tag.
type throttled struct {
	times  int
	header http.Header
	before func() // the first of them

	mu sync.Mutex
}

func (h *throttled) RoundTrip(q *http.Request) (*http.Response, error) {
	_, reference, _ := strings.Cut(q.URL.Path, "/manifests/sha256-")
	h.mu.Lock()
	hit := q.Method == http.MethodPut && reference != "" && h.times > 0
	if hit {
		h.times--
	}
	before := h.before
	if hit {
		h.before = nil
	}
	h.mu.Unlock()
	if !hit {
		return http.DefaultTransport.RoundTrip(q)
	}
	if before != nil {
		before()
	}
	return &http.Response{StatusCode: http.StatusTooManyRequests, Status: "429 Too Many Requests", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: q,
		Header: h.header.Clone(), Body: io.NopCloser(strings.NewReader(`{}`))}, nil
}

// TestFaultThrottled has another writer add a signature while the registry has us
// wait with ours: none of the two is lost.
func TestFaultThrottled(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	stranger, err := b.NewActor("stranger")
	must(t, err)
	id, err := signer.OfKey(stranger.PublicKey())
	must(t, err)
	for what, header := range map[string]http.Header{"429": {}, "429 with Retry-After": {"Retry-After": {"1"}}} {
		for _, format := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt, inventory.Bundle} {
			t.Run(what+" "+string(format), func(t *testing.T) {
				t.Parallel()
				k := b.newCase(t)
				h := &throttled{times: 2, header: header}
				var rt http.RoundTripper = h
				if format == inventory.Bundle {
					k.bench = &bench{World: b.World, client: withoutReferrers(), old: b.old, listed: b.client}
					rt = noReferrers{h}
				}
				ref := k.push(t, "app")
				k.all(t, ref)
				k.plan(t, ref, format)
				h.before = func() {
					switch format {
					case inventory.Legacy:
						must(t, stranger.SignLegacy(context.Background(), ref, sandbox.NoProof))
					case inventory.LegacyAtt:
						must(t, stranger.AttestLegacy(context.Background(), ref, spdx, sbom, sandbox.NoProof))
					default:
						must(t, stranger.SignBundle(context.Background(), ref, sandbox.NoProof))
						list, err := b.client.Referrers(context.Background(), ref.Context().Name(), ref.DigestStr())
						must(t, err)
						must(t, k.client.Extend(context.Background(), ref.Context().Name(), ref.DigestStr(), registry.Listing{}, list[len(list)-1]))
					}
				}
				want := int64(len(k.items))
				got := k.run(t, registry.New(registry.Options{Keychain: authn.NewMultiKeychain(), Transport: rt}))
				wantEqual(t, "result", got, Result{Planned: want, Signed: want})
				wantEqual(t, "uses of the key", int64(k.next.signed), want)
				found := k.found(t, ref, stranger.PublicKey())
				wantEqual(t, "the other writer's signatures", len(count(found, id)), 1)
				wantEqual(t, "new signatures", int64(len(count(found, k.next.id))), want)
				wantEqual(t, "old signatures", len(count(found, k.oldID(t))), 4)
			})
		}
	}
}

// late is a registry in which the upload of a config takes long.
type late struct {
	Registry
	meanwhile func()
}

func (l *late) PutBlob(ctx context.Context, repository string, content []byte) (string, error) {
	if do := l.meanwhile; do != nil && strings.Contains(string(content), "rootfs") {
		l.meanwhile = nil
		do()
		time.Sleep(registry.Old)
	}
	return l.Registry.PutBlob(ctx, repository, content)
}

// TestFaultLateConfig has another writer add a signature while an upload between
// the read and the write of the tag takes long.
func TestFaultLateConfig(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	stranger, err := b.NewActor("stranger")
	must(t, err)
	id, err := signer.OfKey(stranger.PublicKey())
	must(t, err)
	k := b.newCase(t)
	ref := k.push(t, "app")
	must(t, k.old.SignLegacy(t.Context(), ref, sandbox.NoProof))
	k.plan(t, ref)
	l := &late{Registry: k.client, meanwhile: func() { must(t, stranger.SignLegacy(t.Context(), ref, sandbox.NoProof)) }}
	wantEqual(t, "result", k.run(t, l), Result{Planned: 1, Signed: 1})
	if l.meanwhile != nil {
		t.Error("no config was uploaded")
	}
	found := k.found(t, ref, stranger.PublicKey())
	wantEqual(t, "the other writer's signatures", len(count(found, id)), 1)
	wantEqual(t, "new signatures", len(count(found, k.next.id)), 1)
}
