package tuf

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
)

var errCrash = errors.New("crash")

// TestFault stops a publish at every point of every file write, as a crash would, and looks at it with clients.
func TestFault(t *testing.T) {
	before := map[string][]byte{"revocations/index.json": []byte("1"), "revocations/1.json": []byte("one")}
	change := map[string][]byte{"revocations/index.json": []byte("2"), "revocations/2.json": []byte("two")}
	after := map[string][]byte{"revocations/index.json": []byte("2"), "revocations/1.json": []byte("one"), "revocations/2.json": []byte("two")}
	t.Run("publish revocations", func(t *testing.T) {
		testFault(t, before, after, func(ctx context.Context, o *org) error {
			return o.repo.PublishRevocations(ctx, change, o.responders[:2], o.online)
		})
	})
	t.Run("publish targets", func(t *testing.T) {
		testFault(t, before, before, func(ctx context.Context, o *org) error {
			return o.repo.PublishTargets(ctx, map[string][]byte{"trusted_root.json": []byte("new")}, o.holders[:2], o.online)
		})
	})
}

func testFault(t *testing.T, before, after map[string][]byte, publish func(context.Context, *org) error) {
	for stop := 0; ; stop++ {
		o := newOrg(t)
		o.revoke(t, before)
		oldRoot := string(o.trustedRoot)
		cached, sigstoreCached := t.TempDir(), t.TempDir()
		o.revocations(t, cached)
		o.sigstoreTarget(t, sigstoreCached, "trusted_root.json")

		var reached, where string
		n, committed := 0, false
		o.repo.hook = func(point, name string) error {
			committed = committed || (name == "timestamp.json" && point == "renamed")
			if n++; n > stop {
				reached, where = point, name
				return errCrash
			}
			return nil
		}
		err := publish(t.Context(), o)
		if err == nil {
			if stop < 20 {
				t.Errorf("only %d points: the hook misses writes", stop)
			}
			return // every point was tried
		}
		if !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		t.Run(fmt.Sprintf("%02d %s %s", stop, filepath.Base(where), reached), func(t *testing.T) {
			see := func(when string, newState bool) {
				t.Helper()
				want := before
				if newState {
					want = after
				}
				for who, cache := range map[string]string{"cached": cached, "fresh": ""} {
					if got := o.revocations(t, cache); !sameFiles(got, want) {
						t.Errorf("%s: %s client sees %q, want %q", when, who, got, want)
					}
				}
				for who, cache := range map[string]string{"cached": sigstoreCached, "fresh": t.TempDir()} {
					got := string(o.sigstoreTarget(t, cache, "trusted_root.json"))
					if !newState && got != oldRoot {
						t.Errorf("%s: %s sigstore client sees %q", when, who, got)
					}
				}
			}
			see("after the crash", committed)
			// The next process.
			repo, err := Open(o.dir)
			check(t, err)
			o.repo = repo
			check(t, publish(t.Context(), o))
			see("after the next publish", true)
			// An unlike one must do as well: its files differ from what the crash left under the same names.
			o.revoke(t, map[string][]byte{"revocations/last.json": []byte("last")})
			if got := o.revocations(t, cached); string(got["revocations/last.json"]) != "last" || len(got) != len(after)+1 {
				t.Errorf("after another publish: %q", got)
			}
		})
	}
}

// A publish that follows one cut off before its commit, with other content, overwrites what that one left.
func TestUnlikePublishAfterCrash(t *testing.T) {
	o := newOrg(t)
	cache := t.TempDir()
	o.revocations(t, cache)
	o.repo.hook = func(point, name string) error {
		if name == "timestamp.json" {
			return errCrash
		}
		return nil
	}
	err := o.repo.PublishRevocations(t.Context(), map[string][]byte{"revocations/a.json": []byte("abandoned")}, o.responders, o.online)
	if !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	o.repo.hook = nil
	want := map[string][]byte{"revocations/b.json": []byte("b")}
	o.revoke(t, want)
	for _, c := range []string{cache, ""} {
		if got := o.revocations(t, c); !sameFiles(got, want) {
			t.Errorf("got %q", got)
		}
	}
}
