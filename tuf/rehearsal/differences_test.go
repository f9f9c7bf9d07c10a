//go:build e2e && linux

package rehearsal

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/reseal/reseal/tuf"
)

// asUsed are clients in the ways that people run them. A client that is "again" was initialized before, and is
// initialized again with the root that it was installed with.
var asUsed = []string{"reseal", "go-tuf", "sigstore-go", "cosign2", "cosign2 again", "cosign3", "cosign3 again", "tuf-js"}

// A difference is a situation in which clients may do different things.
type difference struct {
	name string
	// make returns what clients have looked at before, one after the other, and what they look at then.
	make    func(ctx context.Context, w *World) (seen []string, offered string, err error)
	missing int // the status that the server has for files that are not there; 404 when 0
	// Those that follow, and those that succeed with what they had, by commas. All others refuse.
	follow, keep string
}

const everybody = "reseal, go-tuf, sigstore-go, cosign2, cosign2 again, cosign3, cosign3 again, tuf-js"

// differences is what is known of clients; docs/tuf-clients.md says the same.
var differences = []difference{
	{name: "the root replaced the online key, and the timestamp by the new key is not there yet", make: func(ctx context.Context, w *World) ([]string, string, error) {
		seen, between, err := w.replacingOnline(ctx)
		return []string{seen}, between, err
	}},
	{name: "the same, and nothing was seen before", make: func(ctx context.Context, w *World) ([]string, string, error) {
		_, between, err := w.replacingOnline(ctx)
		return nil, between, err
	}},
	{name: "both were seen, and the timestamp by the new key is there", follow: everybody, make: func(ctx context.Context, w *World) ([]string, string, error) {
		seen, between, err := w.replacingOnline(ctx)
		return []string{seen, between}, w.Published, err
	}},
	{name: "the server serves what it did before the root replaced the online key", follow: "go-tuf, sigstore-go, cosign2 again, cosign3 again",
		make: func(ctx context.Context, w *World) ([]string, string, error) {
			seen, _, err := w.replacingOnline(ctx)
			return []string{w.Published}, seen, err
		}},
	{name: "the server serves what it did before, under the same root", follow: "cosign3 again", keep: "cosign2 again", make: func(ctx context.Context, w *World) ([]string, string, error) {
		old, err := w.copyOf("old")
		if err != nil {
			return nil, "", err
		}
		return []string{w.Published}, old, w.change(ctx, nil)
	}},
	{name: "the server answers 403 where there is no newer root", missing: 403, follow: "tuf-js", make: func(_ context.Context, w *World) ([]string, string, error) {
		return nil, w.Published, nil
	}},
	{name: "root's threshold needs the signature of a P-384 key", follow: "reseal, go-tuf, sigstore-go, cosign2, cosign2 again, cosign3, cosign3 again",
		make: func(ctx context.Context, w *World) ([]string, string, error) {
			seen, err := w.copyOf("seen")
			if err != nil {
				return nil, "", err
			}
			h, err := w.holder("@alice", P384)
			if err != nil {
				return nil, "", err
			}
			return []string{seen}, w.Published, w.change(ctx, nil, tuf.ReplaceKey{Holder: h}, tuf.SetThreshold{Role: "root", Threshold: 3})
		}},
}

// replacingOnline returns copies of what was published before a root replaced the online key, and in the middle of it.
func (w *World) replacingOnline(ctx context.Context) (before, between string, err error) {
	if before, err = w.copyOf("before"); err != nil {
		return "", "", err
	}
	if between, err = w.copyOf("between"); err != nil {
		return "", "", err
	}
	c, err := w.newOnline(P256)
	if err != nil {
		return "", "", err
	}
	if err := w.change(ctx, nil, c); err != nil {
		return "", "", err
	}
	name := fmt.Sprintf("%d.root.json", len(w.Roots))
	return before, between, os.WriteFile(filepath.Join(between, name), w.Roots[len(w.Roots)-1], 0o644)
}

// TestDifferences puts clients in situations in which not all do the same, and prints what each does. It fails when
// that is not what is known of them, or not what docs/tuf-clients.md says.
func TestDifferences(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "tuf-clients.md"))
	if err != nil {
		t.Fatal(err)
	}
	s := newStack(t)
	head := "| | " + strings.Join(asUsed, " | ") + " |"
	rows := []string{head}
	for _, d := range differences {
		t.Run(d.name, func(t *testing.T) {
			p := newPeers(t, s)
			w, err := FoundWith(t.Context(), t.TempDir(), 0, s.content, func(context.Context, Stage) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			oldest := w.Roots[0]
			seen, offered, err := d.make(t.Context(), w)
			if err != nil {
				t.Fatal(err)
			}
			row := "| " + d.name + " |"
			for _, client := range asUsed {
				did, why := p.does(client, oldest, seen, offered, d.missing)
				want := "refuses"
				switch {
				case slices.Contains(strings.Split(d.follow, ", "), client):
					want = "follows"
				case slices.Contains(strings.Split(d.keep, ", "), client):
					want = "keeps"
				}
				if did != want {
					t.Errorf("%s %s: %v", client, did, why)
				}
				row += " " + did + " |"
			}
			rows = append(rows, row)
		})
	}
	for _, row := range rows {
		t.Log(row)
		if !strings.Contains(string(doc), row+"\n") {
			t.Errorf("docs/tuf-clients.md does not say: %s", row)
		}
	}
}

// does says what a client does that has seen some states, the first of them for sure, and is offered another.
func (p *peers) does(client string, root []byte, seen []string, offered string, missing int) (did string, why error) {
	kind, again := strings.CutSuffix(client, " again")
	cache := p.cache(client)
	var before, after []byte
	var err error
	for i, served := range seen {
		got, err := p.get(kind, served, root, cache, "good")
		if err == nil {
			before = got
		} else if i == 0 {
			return "fails before", err
		}
	}
	p.site.missing.Store(int64(missing))
	defer p.site.missing.Store(0)
	if again {
		p.site.dir.Store(offered)
		after, err = p.initialize(kind, root, cache)
	} else {
		after, err = p.get(kind, offered, root, cache, "good")
	}
	switch {
	case err != nil:
		return "refuses", err
	case bytes.Equal(before, after):
		return "keeps", nil
	}
	return "follows", nil
}
