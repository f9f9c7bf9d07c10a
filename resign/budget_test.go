package resign

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// claims plans a claim of some size about each of so many images, in both formats.
func (k *kase) claims(t *testing.T, n, size int) {
	t.Helper()
	for range n {
		at := len(k.items)
		ref := k.push(t, fmt.Sprint(at))
		m, err := k.client.Manifest(t.Context(), ref.Context().Name(), ref.DigestStr())
		must(t, err)
		statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"%s"}}],"predicateType":"%s","predicate":{"x":"%s"}}`,
			strings.TrimPrefix(ref.DigestStr(), "sha256:"), spdx, strings.Repeat("y", size))
		source := k.vault(t, fmt.Sprintf(`{"payload":"%s","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"c2ln"}]}`, encode(statement)))
		k.items = append(k.items, Item{Seq: int64(at + 1), Repository: ref.Context().Name(), Digest: ref.DigestStr(), MediaType: m.MediaType, Size: m.Size,
			PredicateType: spdx, StatementKey: spdx + "#" + inventory.Digest([]byte(statement)), Formats: []inventory.Format{inventory.LegacyAtt, inventory.Bundle},
			SourceFormat: inventory.LegacyAtt, SourceContent: source})
	}
}

// counted counts the bytes of what was signed and is not yet recorded as published.
type counted struct {
	*ecKey
	mu                sync.Mutex
	now, most         int
	waiting, together int // signatures
}

func (h *counted) add(bytes, signatures int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now, h.waiting = h.now+bytes, h.waiting+signatures
	h.most, h.together = max(h.most, h.now), max(h.together, h.waiting)
}

func (h *counted) Sign(ctx context.Context, message []byte) ([]byte, error) {
	h.add(len(message), 1)
	return h.ecKey.Sign(ctx, message)
}

// TestMemory signs claims of which not all can be in memory at once: what is in the
// making and waiting to be published never has more bytes than there may be, and
// one that is larger by itself is signed alone.
func TestMemory(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const size, n = 8 << 10, 3*chunk + 10
	for what, c := range map[string]struct {
		memory int64
		most   int // signatures at once
	}{"some at once": {20 * (light + heavy*size*3/2), 20}, "one is larger": {heavy * size / 2, 1}} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			k := b.newCase(t)
			k.claims(t, n, size)
			h := &counted{ecKey: k.next}
			e := k.engine(k.client)
			e.Signer, e.Memory, e.Parallel = signer.Always(h), c.memory, 8
			pae := size + len(fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"%064d"}}],"predicateType":"%s","predicate":{"x":""}}`, 0, spdx))
			pae += len(fmt.Sprintf("DSSEv1 %d %s %d ", len(intotoType), intotoType, pae))
			e.Settled = func(_ Item, state string) {
				wantEqual(t, "state", state, Done)
				h.add(-pae, -1)
			}
			got, err := e.Run(t.Context(), list{items: k.items})
			must(t, err)
			wantEqual(t, "result", got, Result{Planned: 2 * n, Signed: 2 * n})
			wantEqual(t, "left in memory", []int{h.now, h.waiting}, []int{0, 0})
			if c.most > 1 && int64(heavy*h.most) > c.memory || h.together > c.most {
				t.Errorf("%d bytes of %d signatures at once, want no more than %d of %d", h.most, h.together, c.memory/heavy, c.most)
			}
			if c.most > 1 && h.together < 2 {
				t.Error("nothing is signed at once")
			}
		})
	}
}

// TestMemoryOfBatch signs images with one statement although the claims beside them
// do not fit in memory together.
func TestMemoryOfBatch(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	k.claims(t, 10, 4<<10)
	for n := range 10 {
		image := k.items[n]
		image.PredicateType, image.StatementKey, image.Formats = inventory.SignPredicate, inventory.SignPredicate, []inventory.Format{inventory.Bundle}
		k.items = append(k.items, image)
	}
	for n, at := 0, append([]Item(nil), k.items...); n < 10; n++ { // those of one artifact follow one another
		k.items[2*n], k.items[2*n+1] = at[n], at[10+n]
	}
	for n := range k.items {
		k.items[n].Seq = int64(n + 1)
	}
	e := k.engine(k.client)
	e.Batch, e.Memory = true, heavy*4<<10
	got, err := e.Run(t.Context(), list{items: k.items})
	must(t, err)
	wantEqual(t, "result", got, Result{Planned: 30, Signed: 30})
	wantEqual(t, "uses of the key", k.next.signed, 20+1)
}

// TestMemoryOfHeap looks at the memory that is in use itself.
func TestMemoryOfHeap(t *testing.T) {
	k := newBench(t).newCase(t)
	k.claims(t, chunk, 1<<20)
	var s runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&s)
	before, peak := s.HeapAlloc, s.HeapAlloc
	stop := make(chan struct{})
	var g sync.WaitGroup
	g.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
				runtime.GC()
				var s runtime.MemStats
				runtime.ReadMemStats(&s)
				peak = max(peak, s.HeapAlloc)
			}
		}
	})
	e := k.engine(k.client)
	e.Memory = 64 << 20
	got, err := e.Run(t.Context(), list{items: k.items})
	close(stop)
	g.Wait()
	must(t, err)
	wantEqual(t, "result", got, Result{Planned: 2 * chunk, Signed: 2 * chunk})
	// The sandbox's registry has some 175 MiB of it. Without a bound it is 680 MiB.
	if grown := peak - before; grown > 350<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}
