package app

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/resign"
	"github.com/reseal/reseal/rotate"
)

// ResignStatus is how far the re-signing of a plan has come, whoever works on
// it. Units are signatures: an item in each of its formats.
type ResignStatus struct {
	Incident string `json:"incident"`
	Plan     string `json:"plan"`
	Items    int64  `json:"items"`
	Planned  int64  `json:"planned"` // units
	Signed   int64  `json:"signed"`  // made for this plan, published and read back
	Already  int64  `json:"already"` // found signed
	Held     int64  `json:"held"`
	Failed   int64  `json:"failed"` // so far: they are tried again
	Left     int64  `json:"left"`   // neither of these yet

	Rate    float64        `json:"rate"` // units a second, over the last minute
	ETA     *float64       `json:"eta_seconds"`
	Shards  ShardStates    `json:"shards"`
	Workers []WorkerStatus `json:"workers"`
	Hosts   []HostStatus   `json:"hosts"`
	Reasons []store.Reason `json:"reasons"` // the most frequent
}

// ShardStates counts the shards of a plan by state.
type ShardStates struct {
	Total   int64 `json:"total"` // 0: the step was never started
	Ready   int64 `json:"ready"`
	Running int64 `json:"running"`
	Done    int64 `json:"done"`
	Failed  int64 `json:"failed"`
}

// WorkerStatus is what one worker has in hand.
type WorkerStatus struct {
	Owner  string    `json:"owner"` // host/process/run
	Shards []int64   `json:"shards"`
	Since  time.Time `json:"since"` // when it claimed the oldest of them
	Until  time.Time `json:"until"` // when it counts as dead, unless it is heard of
	Rate   float64   `json:"rate"`  // units a second of these shards, over the last minute
}

// HostStatus is how far the work on one registry has come, in units.
type HostStatus struct {
	Host    string `json:"host"`
	Planned int64  `json:"planned"`
	Done    int64  `json:"done"` // signed or found signed
	Held    int64  `json:"held"`
	Failed  int64  `json:"failed"`
}

const (
	rateOver     = time.Minute
	reasonsShown = 20
)

// Status tells how far the re-signing of a plan has come. It reads the database
// and nothing else.
func (a *App) Status(ctx context.Context, digest string) (ResignStatus, error) {
	plan, err := rotate.FindPlan(ctx, a.store, digest)
	if err != nil {
		return ResignStatus{}, err
	}
	p, totals, err := rotate.LoadPlan(ctx, a.store, plan)
	if err != nil {
		return ResignStatus{}, err
	}
	s := ResignStatus{Incident: p.Incident, Plan: plan, Workers: []WorkerStatus{}, Hosts: []HostStatus{}, Reasons: []store.Reason{}}
	shards, err := a.store.Shards(ctx, plan)
	if err != nil {
		return s, err
	}
	s.Shards.Total = int64(len(shards))
	if len(shards) == 0 {
		if shards, err = rotate.Shards(ctx, a.store, plan, totals); err != nil {
			return s, err
		}
	}
	units, err := a.store.ShardProgress(ctx, plan, a.now().Add(-rateOver))
	if err != nil {
		return s, err
	}
	reasons, err := a.store.ReissueReasons(ctx, plan, reasonsShown)
	if err != nil {
		return s, err
	}
	s.Reasons = append(s.Reasons, reasons...)
	s.add(shards, units)
	return s, nil
}

func (s *ResignStatus) add(shards []store.Shard, units []store.ShardUnits) {
	hosts, workers := newHosts(shards), map[string]*WorkerStatus{}
	at := map[int64]store.Shard{}
	for _, sh := range shards {
		at[sh.N] = sh
		s.Items += sh.Items
		s.Planned += sh.Units
		switch sh.State {
		case store.ShardReady:
			s.Shards.Ready++
		case store.ShardDone:
			s.Shards.Done++
		case store.ShardFailed:
			s.Shards.Failed++
		case store.ShardRunning:
			s.Shards.Running++
			w := workers[sh.Owner]
			if w == nil {
				w = &WorkerStatus{Owner: sh.Owner, Since: sh.Since, Until: sh.Until}
				workers[sh.Owner] = w
			}
			w.Shards = append(w.Shards, sh.N)
			if sh.Since.Before(w.Since) {
				w.Since = sh.Since
			}
		}
		if sh.State == store.ShardFailed && sh.Failed == 0 { // no unit says why
			s.Reasons = append(s.Reasons, store.Reason{State: store.ShardFailed, Why: sh.Why, Units: sh.Units - sh.Signed - sh.Held})
		}
	}
	recent := int64(0)
	for _, u := range units {
		if at[u.N].N == 0 {
			continue // another process has cut the plan otherwise meanwhile
		}
		hosts.add(at[u.N].Repository, u.State, u.Units)
		switch u.State {
		case resign.Done:
			if u.Made {
				s.Signed += u.Units
			} else {
				s.Already += u.Units
			}
			recent += u.Recent
			if w := workers[at[u.N].Owner]; w != nil {
				w.Rate += float64(u.Recent) / rateOver.Seconds()
			}
		case resign.Held:
			s.Held += u.Units
		case resign.Failed:
			s.Failed += u.Units
		}
	}
	s.Left = s.Planned - s.Signed - s.Already - s.Held - s.Failed
	s.Rate = float64(recent) / rateOver.Seconds()
	if s.Rate > 0 || s.Left == 0 {
		left := 0.0
		if s.Left > 0 {
			left = float64(s.Left) / s.Rate
		}
		s.ETA = &left
	}
	for _, owner := range slices.Sorted(maps.Keys(workers)) {
		s.Workers = append(s.Workers, *workers[owner])
	}
	s.Hosts = append(s.Hosts, hosts.list()...)
	slices.SortStableFunc(s.Reasons, func(x, y store.Reason) int { return cmp.Compare(y.Units, x.Units) })
}

// hosts counts units by the host of their registry.
type hosts map[string]*HostStatus

// newHosts plans the units of shards.
func newHosts(shards []store.Shard) hosts {
	h := hosts{}
	for _, s := range shards {
		h.of(s.Repository).Planned += s.Units
	}
	return h
}

func (h hosts) of(repository string) *HostStatus {
	host := hostOf(repository)
	if h[host] == nil {
		h[host] = &HostStatus{Host: host}
	}
	return h[host]
}

// add counts units in a state, as package resign calls it.
func (h hosts) add(repository, state string, units int64) {
	switch s := h.of(repository); state {
	case resign.Done:
		s.Done += units
	case resign.Held:
		s.Held += units
	case resign.Failed:
		s.Failed += units
	}
}

// list returns the hosts in order of name.
func (h hosts) list() (out []HostStatus) {
	for _, host := range slices.Sorted(maps.Keys(h)) {
		out = append(out, *h[host])
	}
	return out
}

// several returns the hosts where there are more than one, or nil.
func (h hosts) several() []HostStatus {
	if len(h) < 2 {
		return nil
	}
	return h.list()
}

// hosts tells how far the work on some shards of a plan has come, whoever did it.
func (a *App) hosts(ctx context.Context, plan string, sel store.ShardSelection) (hosts, error) {
	all, err := a.store.Shards(ctx, plan)
	if err != nil {
		return nil, err
	}
	at := map[int64]string{}
	all = slices.DeleteFunc(all, func(s store.Shard) bool { return !sel.Has(s) })
	for _, s := range all {
		at[s.N] = s.Repository
	}
	units, err := a.store.ShardProgress(ctx, plan, a.now())
	h := newHosts(all)
	for _, u := range units {
		if repository, ok := at[u.N]; ok {
			h.add(repository, u.State, u.Units)
		}
	}
	return h, err
}

func hostOf(repository string) string {
	host, _, _ := strings.Cut(repository, "/")
	return host
}
