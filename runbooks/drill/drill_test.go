package drill

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/runbooks"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/reseal/reseal/internal/sandbox"
)

// fake is a responder whose every step is a function of the truth.
type fake struct {
	s      *scenario
	setup  Setup
	do     map[runbooks.Action]func(context.Context) (Outcome, error)
	closed bool
}

func (f *fake) Prepare(_ context.Context, s Setup) error { f.setup = s; return nil }

func (f *fake) Do(ctx context.Context, a runbooks.Action) (Outcome, error) {
	if do := f.do[a]; do != nil {
		return do(ctx)
	}
	return Outcome{Summary: "did nothing"}, nil
}

func (f *fake) Close() error { f.closed = true; return nil }

// right is a plan without a mistake.
func (f *fake) right(context.Context) (Outcome, error) {
	expected := f.s.expectedHolds()
	var out Outcome
	item := func(a *artifact, predicateType string, otherwise trust.Decision) {
		i := rotate.Item{Repository: a.ref.Context().Name(), Digest: a.ref.DigestStr(), Statement: predicateType, Decision: otherwise,
			Signatures: []rotate.ItemSignature{{Verdict: trust.Unproven}}}
		if predicateType != inventory.SignPredicate {
			i.Statement += "#sha256:00"
		}
		if expected[expectedHold{a.ref.Name(), predicateType}] != nil {
			i.Decision, i.Reason = trust.Hold, "nothing proves it good"
		}
		out.Items = append(out.Items, i)
	}
	for _, a := range f.s.artifacts {
		d := trust.Resign
		if a.group == groupRogue {
			d = trust.Deny
		}
		item(a, inventory.SignPredicate, d)
		if a.hasSBOM {
			item(a, sbom, trust.Resign)
		}
		if a.vex != nil {
			item(a, vex, trust.Resign)
		}
	}
	return out, nil
}

// resign signs with the new key what which says.
func (f *fake) resign(which func(*artifact) bool, withVEX bool) func(context.Context) (Outcome, error) {
	return func(ctx context.Context) (Outcome, error) {
		for _, a := range f.s.artifacts {
			if !which(a) {
				continue
			}
			if err := a.sign(ctx, f.s.standby, sandbox.NoProof); err != nil {
				return Outcome{}, err
			}
			if a.hasSBOM {
				if err := a.attest(ctx, f.s.standby, sbom, a.sbom(), sandbox.NoProof); err != nil {
					return Outcome{}, err
				}
			}
			if withVEX && a.vex != nil {
				if err := a.attest(ctx, f.s.standby, vex, a.vex, sandbox.NoProof); err != nil {
					return Outcome{}, err
				}
			}
		}
		return Outcome{Summary: "signed"}, nil
	}
}

func (f *fake) cutover(context.Context) (Outcome, error) {
	for _, c := range f.setup.Consumers {
		if err := durable.WriteFile(c.Anchor, f.s.standby.PublicKeyPEM(), 0o644); err != nil {
			return Outcome{}, err
		}
	}
	return Outcome{Summary: "anchors replaced"}, nil
}

func proven(a *artifact) bool { return a.proven }

type steps = map[runbooks.Action]func(context.Context) (Outcome, error)

// play runs a drill with a fake.
func play(t *testing.T, o Options, choose func(*fake) steps) Report {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	f := &fake{}
	r, err := run(t.Context(), o, func(_ string, s *scenario) (Responder, error) {
		f.s = s
		f.do = choose(f)
		return f, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !f.closed {
		t.Error("the responder was not closed")
	}
	return r
}

func finding(r Report, word string) bool {
	return slices.ContainsFunc(r.Findings, func(f string) bool { return strings.HasPrefix(f, word) })
}

// TestAttack plays drills that have to be lost, each for its own reason.
func TestAttack(t *testing.T) {
	t.Run("nobody does anything", func(t *testing.T) {
		r := play(t, Options{}, func(*fake) steps { return nil })
		if r.Passed || !finding(r, "exposed: cluster") || !finding(r, "exposed: ci") || !finding(r, "not recovered") || !finding(r, "not held") || !finding(r, "not denied") {
			t.Errorf("passed %v, findings %q", r.Passed, r.Findings)
		}
		if r.Laundered != 0 || r.Dark != 0 || r.TimeToContain != nil || r.TimeToRecover != nil {
			t.Errorf("laundered %d, dark %d, contained %v, recovered %v", r.Laundered, r.Dark, r.TimeToContain, r.TimeToRecover)
		}
		for _, c := range r.Consumers {
			if !c.Exposed || c.Exposure < 6000 {
				t.Errorf("%+v", c)
			}
		}
	})
	t.Run("everything is signed again", func(t *testing.T) {
		r := play(t, Options{}, func(f *fake) steps {
			return steps{runbooks.Plan: f.right, runbooks.Resign: f.resign(func(*artifact) bool { return true }, true), runbooks.CutOver: f.cutover}
		})
		// 2 proofless, 3 rogue images, the VEX.
		if r.Passed || r.Laundered != 6 || !finding(r, "laundered") || r.Dark != 0 {
			t.Errorf("passed %v, laundered %d, dark %d, findings %q", r.Passed, r.Laundered, r.Dark, r.Findings)
		}
		if !strings.Contains(strings.Join(r.Findings, "\n"), "rogue VEX") {
			t.Errorf("the VEX is not named: %q", r.Findings)
		}
	})
	t.Run("only the VEX is laundered", func(t *testing.T) {
		r := play(t, Options{}, func(f *fake) steps {
			return steps{runbooks.Plan: f.right, runbooks.Resign: f.resign(proven, true), runbooks.CutOver: f.cutover}
		})
		if r.Passed || r.Laundered != 1 || len(r.Findings) != 2 || !finding(r, "laundered") || !finding(r, "exposed: ci") {
			t.Errorf("passed %v, laundered %d, findings %q", r.Passed, r.Laundered, r.Findings)
		}
	})
	t.Run("laundered and cleaned up", func(t *testing.T) {
		r := play(t, Options{}, func(f *fake) steps {
			rogue := func(a *artifact) bool { return a.group == groupRogue }
			return steps{runbooks.Plan: f.right, runbooks.Impact: f.resign(rogue, false), runbooks.Resign: f.resign(proven, false),
				runbooks.Contain: func(ctx context.Context) (Outcome, error) {
					for _, a := range f.s.artifacts {
						if rogue(a) {
							return Outcome{}, remote.Delete(a.ref, remote.WithContext(ctx), remote.WithAuth(authn.Anonymous))
						}
					}
					return Outcome{}, nil
				}, runbooks.CutOver: f.cutover}
		})
		if r.Passed || r.Laundered != 1 {
			t.Errorf("passed %v, laundered %d, findings %q", r.Passed, r.Laundered, r.Findings)
		}
	})
	t.Run("only the anchors are replaced", func(t *testing.T) {
		r := play(t, Options{}, func(f *fake) steps { return steps{runbooks.Plan: f.right, runbooks.CutOver: f.cutover} })
		if r.Passed || r.Dark != r.Deployed || r.Outage <= 0 || !finding(r, "dark") || r.TimeToContain == nil || r.Laundered != 0 {
			t.Errorf("passed %v, dark %d of %d, outage %v, findings %q", r.Passed, r.Dark, r.Deployed, r.Outage, r.Findings)
		}
	})
	t.Run("dark for a moment", func(t *testing.T) {
		r := play(t, Options{}, func(f *fake) steps {
			return steps{runbooks.Plan: f.right, runbooks.Resign: f.resign(proven, false), runbooks.CutOver: func(ctx context.Context) (Outcome, error) {
				anchor := f.setup.Consumers[0].Anchor
				if err := os.Remove(anchor); err != nil {
					return Outcome{}, err
				}
				time.Sleep(500 * time.Millisecond)
				return f.cutover(ctx)
			}}
		})
		// No sweep sees it, only the watch does.
		if r.Passed || r.Dark == 0 || r.Outage <= 0 || r.Outage > 5 || r.Consumers[1].Outage != 0 || len(r.Findings) != 1 {
			t.Errorf("passed %v, dark %d, %+v, findings %q", r.Passed, r.Dark, r.Consumers, r.Findings)
		}
	})
	t.Run("known rogue digests are deleted, the key stays", func(t *testing.T) {
		r := play(t, Options{}, func(f *fake) steps {
			return steps{runbooks.Plan: f.right, runbooks.Resign: f.resign(proven, false), runbooks.CutOver: func(ctx context.Context) (Outcome, error) {
				for _, a := range f.s.artifacts {
					if a.rogue {
						if err := remote.Delete(a.ref, remote.WithContext(ctx), remote.WithAuth(authn.Anonymous)); err != nil {
							return Outcome{}, err
						}
					}
				}
				return Outcome{}, nil
			}}
		})
		if r.Passed || r.TimeToContain != nil || !strings.Contains(strings.Join(r.Findings, "\n"), "next-cluster") {
			t.Errorf("passed %v, contained %v, findings %q", r.Passed, r.TimeToContain, r.Findings)
		}
	})
	t.Run("a bundle on a legacy image", func(t *testing.T) {
		r := play(t, Options{}, func(f *fake) steps {
			return steps{runbooks.Plan: f.right, runbooks.CutOver: f.cutover, runbooks.Resign: func(ctx context.Context) (Outcome, error) {
				out, err := f.resign(proven, false)(ctx)
				for _, a := range f.s.artifacts {
					if err == nil && a.deployed && a.format == inventory.Legacy {
						return out, f.s.builder.AttestBundle(ctx, a.ref, provenance, nil, sandbox.NoProof)
					}
				}
				return out, err
			}}
		})
		if r.Passed || r.Dark != 1 || !strings.Contains(strings.Join(r.Findings, "\n"), "hides its") {
			t.Errorf("passed %v, dark %d, findings %q", r.Passed, r.Dark, r.Findings)
		}
	})
	t.Run("the plan holds too much and too little", func(t *testing.T) {
		r := play(t, Options{}, func(f *fake) steps {
			return steps{runbooks.Resign: f.resign(proven, false), runbooks.CutOver: f.cutover, runbooks.Plan: func(ctx context.Context) (Outcome, error) {
				out, err := f.right(ctx)
				for n := range out.Items {
					i := &out.Items[n]
					if i.Decision == trust.Hold {
						i.Decision = trust.None
					} else {
						i.Decision = trust.Hold
					}
				}
				return out, err
			}}
		})
		if r.Passed || !finding(r, "not held") || !finding(r, "held without need") || !finding(r, "not denied") {
			t.Errorf("passed %v, findings %q", r.Passed, r.Findings)
		}
	})
	t.Run("a step fails", func(t *testing.T) {
		r := play(t, Options{}, func(f *fake) steps {
			return steps{runbooks.Impact: func(context.Context) (Outcome, error) { return Outcome{}, os.ErrPermission }}
		})
		if r.Passed || !finding(r, "step impact failed") || !finding(r, "step cutover was not reached") {
			t.Errorf("findings %q", r.Findings)
		}
	})
}

func TestPassed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "drill")
	var events []Event
	kept := false
	r := play(t, Options{Dir: dir, Keep: true, Observe: func(e Event) { events = append(events, e) }, Kept: func(_ context.Context, r Report) error {
		kept = true
		return nil
	}}, func(f *fake) steps {
		return steps{runbooks.Plan: f.right, runbooks.Resign: f.resign(proven, false), runbooks.CutOver: f.cutover}
	})
	if !r.Passed || len(r.Findings) != 0 || r.Laundered != 0 || r.Dark != 0 || r.Outage != 0 {
		t.Fatalf("laundered %d, dark %d, outage %v, findings %q", r.Laundered, r.Dark, r.Outage, r.Findings)
	}
	if r.TimeToContain == nil || r.TimeToRecover == nil || *r.TimeToContain <= 0 || *r.TimeToRecover < *r.TimeToContain {
		t.Errorf("contained %v, recovered %v", r.TimeToContain, r.TimeToRecover)
	}
	// The attack began an hour and fifty minutes before the response.
	if r.Exposure < 6600 || r.Exposure > 6900 || r.Probes == 0 || len(r.Consumers) != 2 || len(r.Holds) != 5 {
		t.Errorf("exposure %v, probes %d, consumers %v, holds %v", r.Exposure, r.Probes, r.Consumers, r.Holds)
	}
	if len(r.Steps) != 10 || len(r.Groups) != 11 || len(r.Addresses) != 6 || !kept {
		t.Errorf("%d steps, %d groups, addresses %v, kept %v", len(r.Steps), len(r.Groups), r.Addresses, kept)
	}
	for _, e := range events {
		t.Logf("%s %-8s %-8s %s", e.Time.Format(time.DateTime), e.Step, e.State, e.Text)
	}
	for n := 1; n < len(events); n++ {
		if events[n].Time.Before(events[n-1].Time) {
			t.Errorf("event %d goes back in time: %s after %s", n, events[n].Text, events[n-1].Text)
		}
	}
	raw, err := os.ReadFile(r.JSONPath)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"schema", "name", "passed", "time_to_contain_seconds", "time_to_recover_seconds", "exposure_seconds", "outage_seconds",
		"laundered", "dark", "accepted_dark", "steps", "groups", "consumers", "holds", "findings", "report"} {
		if _, ok := m[field]; !ok {
			t.Errorf("the report has no %s", field)
		}
	}
	html, err := os.ReadFile(r.ReportPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"PASSED", "rogue, back-dated", "shop/", "cluster", "<svg"} {
		if !strings.Contains(string(html), want) {
			t.Errorf("the page does not have %q", want)
		}
	}
	if _, err := Run(t.Context(), Options{Dir: dir}, nil); err == nil {
		t.Error("a directory with another drill in it was taken")
	}
}

func TestDirIsTidied(t *testing.T) {
	dir := t.TempDir()
	r := play(t, Options{Dir: dir, Images: 25}, func(*fake) steps { return nil })
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"report.html", "report.json"}) || r.Addresses != nil {
		t.Errorf("left: %v, addresses %v", names, r.Addresses)
	}
}

func TestRefusals(t *testing.T) {
	for _, n := range []int{-1, 1, 23, maxImages + 1} {
		if _, err := Run(t.Context(), Options{Images: n}, nil); err == nil {
			t.Errorf("%d images were accepted", n)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := run(ctx, Options{Dir: t.TempDir()}, func(_ string, s *scenario) (Responder, error) {
		return &fake{s: s, do: steps{runbooks.Plan: func(context.Context) (Outcome, error) { cancel(); return Outcome{}, nil }}}, nil
	})
	if err == nil {
		t.Error("an interrupted drill has a result")
	}
}

func TestScenario(t *testing.T) {
	for images, want := range map[int]map[string]int{
		24: {groupRekor: 6, groupTSA: 4, groupVouched: 4, groupUnproven: 2, groupIndex: 2, groupSBOM: 4, groupSignedBy: 1, groupVEX: 1, groupRogue: 1, groupBackDate: 1, groupNewTag: 1},
		25: {groupRekor: 7, groupTSA: 4, groupVouched: 4, groupUnproven: 2, groupIndex: 2, groupSBOM: 4, groupSignedBy: 1, groupVEX: 1, groupRogue: 1, groupBackDate: 1, groupNewTag: 1},
		50: {groupRekor: 12, groupTSA: 8, groupVouched: 10, groupUnproven: 4, groupIndex: 4, groupSBOM: 10, groupSignedBy: 1, groupVEX: 1, groupRogue: 1, groupBackDate: 1, groupNewTag: 1},
	} {
		s := &scenario{repositories: []string{"a", "b", "c", "d"}, firstRogue: time.Now()}
		s.cast(images, time.Now())
		got, repos, formats, seeds := map[string]int{}, map[string]bool{}, map[inventory.Format]int{}, map[string]bool{}
		deployed := map[string]int{}
		good := 0
		for _, a := range s.artifacts {
			got[a.group]++
			if seeds[a.seed] {
				t.Errorf("%d images: the seed %q is used twice", images, a.seed)
			}
			seeds[a.seed] = true
			if a.good {
				good++
				repos[a.repo] = true
				formats[a.format]++
			}
			if a.deployed {
				deployed[a.group]++
			}
			if a.deployed && !a.proven {
				t.Errorf("%d images: %s is deployed and not proven", images, a)
			}
		}
		for group, n := range want {
			if got[group] != n {
				t.Errorf("%d images: %d %s, want %d", images, got[group], group, n)
			}
		}
		if good != images || len(s.artifacts) != images+3 || len(repos) != 4 {
			t.Errorf("%d images: %d good, %d in all, in %d repositories", images, good, len(s.artifacts), len(repos))
		}
		if d := formats[inventory.Legacy] - formats[inventory.Bundle]; d < 0 || d > 1 {
			t.Errorf("%d images: formats %v", images, formats)
		}
		for _, group := range []string{groupRekor, groupTSA, groupVouched, groupIndex, groupSBOM, groupSignedBy, groupVEX} {
			if deployed[group] == 0 {
				t.Errorf("%d images: none deployed of %s", images, group)
			}
		}
	}
}
