package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/resign"
	"github.com/reseal/reseal/signer"
)

func TestIsDead(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	for owner, want := range map[string]bool{
		newOwner(): false, fmt.Sprintf("%s/%d/x", host, os.Getppid()): false,
		fmt.Sprintf("%s/%d/x", host, gone.Process.Pid):           true,
		fmt.Sprintf("%s-elsewhere/%d/x", host, gone.Process.Pid): false,
		"": false, "a/b": false, host + "/none/x": false,
	} {
		if got := isDead(owner); got != want {
			t.Errorf("%q is dead: %t, want %t", owner, got, want)
		}
	}
}

// TestShareCountsOnce has shards looked at once more, as another process asks that
// lost them while this one was at work on them.
func TestShareCountsOnce(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	ctx := t.Context()
	plan := h.migration(t)
	var told []int64
	r, err := h.Resign(ctx, ResignOptions{Plan: plan, Signer: signer.Always(h.key(t, "release")), Apply: true, Progress: func(done int64, _ resign.Result, _ []HostStatus) {
		if told = append(told, done); len(told) > 1 {
			return
		}
		lost := store.Claim{Plan: plan, Owner: "another", Epoch: -1, Shards: must(h.store.Shards(ctx, plan))}
		if err := h.store.Update(ctx, h.by("test"), func(tx *store.Tx) error { return tx.RecheckShards(ctx, lost) }); err != nil {
			t.Error(err)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if want := (resign.Result{Planned: 1, Signed: 1}); r.Result != want {
		t.Errorf("result %+v, want %+v", r.Result, want)
	}
	if len(told) != 1 || told[0] != 1 {
		t.Errorf("progress %v, want it to end at the one signature there is", told)
	}
	if all := must(h.store.Shards(ctx, plan)); len(all) != 1 || all[0].Attempts != 2 {
		t.Errorf("shards %+v, want one that was looked at twice", all)
	}
}

// TestSharePermittedAgain has a plan expire while a process works on it: it takes
// no more shards.
func TestSharePermittedAgain(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	ctx := t.Context()
	plan := h.migration(t)
	r, err := h.Resign(ctx, ResignOptions{Plan: plan, Signer: signer.Always(h.key(t, "release")), Apply: true, Progress: func(int64, resign.Result, []HostStatus) {
		lost := store.Claim{Plan: plan, Owner: "another", Epoch: -1, Shards: must(h.store.Shards(ctx, plan))}
		check(t, h.store.Update(ctx, h.by("test"), func(tx *store.Tx) error { return tx.RecheckShards(ctx, lost) }))
		h.options.Now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	}})
	if err == nil || !strings.Contains(err.Error(), "expired") || r.Signed != 1 {
		t.Errorf("%+v, %v: want it to stop because the plan expired", r.Result, err)
	}
	if all := must(h.store.Shards(ctx, plan)); len(all) != 1 || all[0].Attempts != 1 {
		t.Errorf("shards %+v, want one that was looked at once", all)
	}
}

// TestResignPerHost has two registries, of which progress and report tell apart
// what was done in each.
func TestResignPerHost(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	ctx := t.Context()
	first := h.world.Registry()
	second := strings.Replace(first, "127.0.0.1", "localhost", 1)
	if _, err := h.Scan(ctx, ScanOptions{Targets: Targets(second + "/shop/api")}, nil); err != nil {
		t.Fatal(err)
	}
	o := RotationOptions{Rotation: "BUNDLES", From: "release", To: "release", Formats: []string{"bundle"}, Homes: []string{second + "/shop/api"}, Skew: time.Minute, Expires: time.Hour}
	_, plan, _, err := h.PlanRotation(ctx, o, "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, person := range []string{"alice", "bob"} {
		must(h.ApproveWithKey(ctx, plan, person, h.key(t, person), false))
	}
	wall := &refusing{http.DefaultTransport, []byte(`"dev.sigstore.bundle.predicateType":"` + inventory.SignPredicate)}
	h.options.Registry = registry.New(registry.Options{Keychain: authn.NewMultiKeychain(), Transport: wall})
	work := func(apply bool, only ...string) (told, report []HostStatus) {
		r, _ := h.Resign(ctx, ResignOptions{Plan: plan, Signer: signer.Always(h.key(t, "release")), Apply: apply, Only: Selection{Repositories: only},
			Progress: func(_ int64, _ resign.Result, hosts []HostStatus) { told = hosts }})
		return told, r.Hosts
	}
	want := func(what string, got []HostStatus, want ...HostStatus) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", what, got, want)
		}
	}
	told, report := work(false)
	want("dry run", told, HostStatus{Host: first, Planned: 1}, HostStatus{Host: second, Planned: 1})
	want("report of the dry run", report, told...)
	told, report = work(true, first+"/*")
	want("one registry is chosen", append(told, report...))
	told, report = work(true)
	want("refused", told, HostStatus{Host: first, Planned: 1, Failed: 1}, HostStatus{Host: second, Planned: 1, Failed: 1})
	want("report", report, told...)
	wall.text = nil
	told, report = work(true, second+"/*", first+"/*")
	want("resumed", told, HostStatus{Host: first, Planned: 1, Done: 1}, HostStatus{Host: second, Planned: 1, Done: 1})
	want("report", report, told...)
	want("status", must(h.Status(ctx, plan)).Hosts, told...)
}

// frozen refuses what is written to one repository.
type frozen struct {
	http.RoundTripper
	repository string // its path; "": none
}

func (f *frozen) RoundTrip(q *http.Request) (*http.Response, error) {
	if q.Method != http.MethodPut || f.repository == "" || !strings.HasPrefix(q.URL.Path, "/v2/"+f.repository+"/manifests/") {
		return f.RoundTripper.RoundTrip(q)
	}
	return &http.Response{StatusCode: http.StatusForbidden, Status: "403 Forbidden", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: q, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(`{"errors":[{"code":"DENIED","message":"tags are immutable"}]}`))}, nil
}

// TestResignLeaves has a repository in which nothing can be written before others:
// these are signed, and the report and the shards tell what was left alone.
func TestResignLeaves(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	ctx := t.Context()
	const many, bad = 320, "aaa/bad"
	homes := []string{h.world.Registry() + "/" + bad, h.world.Registry() + "/shop/api"}
	for n := range many {
		ref := must(h.world.PushImage(ctx, bad, fmt.Sprint(n), fmt.Sprint(n)))
		if err := h.actors["release"].SignLegacy(ctx, ref, sandbox.NoProof); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Scan(ctx, ScanOptions{Targets: Targets(homes...)}, nil); err != nil {
		t.Fatal(err)
	}
	o := RotationOptions{Rotation: "BUNDLES", From: "release", To: "release", Formats: []string{"bundle"}, Homes: homes, Skew: time.Minute, Expires: time.Hour}
	_, plan, _, err := h.PlanRotation(ctx, o, "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, person := range []string{"alice", "bob"} {
		must(h.ApproveWithKey(ctx, plan, person, h.key(t, person), false))
	}
	wall := &frozen{http.DefaultTransport, bad}
	h.options.Registry = registry.New(registry.Options{Keychain: authn.NewMultiKeychain(), Transport: wall})
	for _, want := range []resign.Result{{Signed: 1}, {Already: 1}} {
		r, err := h.Resign(ctx, ResignOptions{Plan: plan, Signer: signer.Always(h.key(t, "release")), Apply: true})
		var left resign.LeftError
		if !errors.As(err, &left) || len(left.Why) != 1 || !strings.Contains(left.In(homes[0]), "tags are immutable") {
			t.Errorf("got %v, want it to name %s and the reason", err, homes[0])
		}
		if r.Planned != many+1 || r.Signed != want.Signed || r.Already != want.Already || r.Left == 0 || r.Failed < 50 || r.Failed+r.Left != many {
			t.Errorf("got %+v, want %+v of the other repository, and the rest left alone", r.Result, want)
		}
		status := must(h.Status(ctx, plan))
		if status.Left != r.Left || status.Failed != r.Failed || status.Signed+status.Already != 1 {
			t.Errorf("status %+v, want what the run has reported: %+v", status, r.Result)
		}
		for _, s := range must(h.store.Shards(ctx, plan)) {
			if whole := s.Repository != homes[0]; whole != (s.State == store.ShardDone) || !whole && (s.State != store.ShardFailed || !strings.Contains(s.Why, "immutable")) {
				t.Errorf("shard %+v", s)
			}
		}
	}
	wall.repository = ""
	r, err := h.Resign(ctx, ResignOptions{Plan: plan, Signer: signer.Always(h.key(t, "release")), Apply: true})
	if want := (resign.Result{Planned: many + 1, Signed: many, Already: 1}); err != nil || r.Result != want {
		t.Errorf("got %+v, %v, want %+v", r.Result, err, want)
	}
}

// TestLease keeps a claim beyond its lease, and tells when it was lost.
func TestLease(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, err := store.Create(ctx, filepath.Join(t.TempDir(), "reseal.db"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	by := journal.Author{Actor: "alice", Reason: "test"}
	update := func(fn func(*store.Tx) error) {
		t.Helper()
		if err := s.Update(ctx, by, fn); err != nil {
			t.Fatal(err)
		}
	}
	claim := func(owner string) (c store.Claim) {
		t.Helper()
		update(func(tx *store.Tx) (err error) {
			c, err = tx.ClaimShards(ctx, "p", owner, 300*time.Millisecond, store.ShardSelection{}, 1)
			return err
		})
		return c
	}
	update(func(tx *store.Tx) error {
		_, err := tx.StartShards(ctx, "p", []store.Shard{{Plan: "p", N: 1, Repository: "r", First: 1, Last: 1, Items: 1, Units: 1}}, store.ShardSelection{}, false)
		return err
	})
	l := &lease{store: s, by: by, length: 300 * time.Millisecond}
	l.last(time.Now())
	l.claim = claim("first")
	kept, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.keep(kept, cancel)
	}()
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if c := claim("second"); len(c.Shards) > 0 {
			t.Fatal("a lease that is kept was taken over")
		}
	}
	cancel(nil)
	<-done

	time.Sleep(400 * time.Millisecond) // as if paused
	if err := l.fence(ctx); err != nil {
		t.Errorf("nobody else wanted it: %v", err)
	}
	time.Sleep(400 * time.Millisecond)
	if c := claim("second"); len(c.Shards) != 1 {
		t.Fatal("a lease that ended was not taken over")
	}
	if err := l.fence(ctx); !errors.Is(err, store.ErrLeaseLost) {
		t.Errorf("got %v, want it lost", err)
	}
	kept, cancel = context.WithCancelCause(ctx)
	l.keep(kept, cancel)
	if cause := context.Cause(kept); !errors.Is(cause, store.ErrLeaseLost) {
		t.Errorf("the work goes on: %v", cause)
	}
	// What it may have written is looked at, although it cannot even release.
	if err := l.release(ctx, "", 0); err != nil {
		t.Error(err)
	}
}
