package rotate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/rotate/trust"
)

// itemKey names a statement at its place.
type itemKey [16]byte

func keyOf(i Item) itemKey {
	return itemKey(hashed(i.Repository, i.Digest, i.Statement))
}

func hashed(parts ...string) []byte {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return h.Sum(nil)[:16]
}

// outcomeOf is what is done with an item, without what it was decided on.
func outcomeOf(i Item) [16]byte {
	parts := []string{string(i.Decision), fmt.Sprint(i.Recall, i.Summary)}
	for _, f := range i.Formats {
		parts = append(parts, string(f))
	}
	return [16]byte(hashed(parts...))
}

// line is where an item stands in a plan, and what is done with it.
type line struct {
	seq     int64
	outcome [16]byte
}

// index reads where every item of a plan stands. Plans list what is deployed
// first, so an item may stand anywhere in another plan: the index takes about
// 100 bytes of memory an item.
func index(ctx context.Context, s *store.Store, digest string, into map[itemKey]line) error {
	return Items(ctx, s, digest, "", func(i Item) error {
		into[keyOf(i)] = line{i.Seq, outcomeOf(i)}
		return nil
	})
}

// supplemented returns what tells the items that the plan leaves out: those
// that a plan it supplements lists with the same outcome. The latest counts.
func (p Plan) supplemented(ctx context.Context, s *store.Store) (func(Item) bool, error) {
	if p.Supplements == "" {
		return nil, nil
	}
	var chain []string
	for digest := p.Supplements; digest != ""; {
		earlier, _, err := LoadPlan(ctx, s, digest)
		if err != nil {
			return nil, fmt.Errorf("the plan to supplement: %w", err)
		}
		if earlier.Incident != p.Incident {
			return nil, fmt.Errorf("plan %s is about %s and cannot be supplemented by one about %s", digest, earlier.Incident, p.Incident)
		}
		chain = append(chain, digest)
		digest = earlier.Supplements
	}
	known := map[itemKey]line{}
	for _, digest := range slices.Backward(chain) {
		if err := index(ctx, s, digest, known); err != nil {
			return nil, err
		}
	}
	return func(i Item) bool {
		was, ok := known[keyOf(i)]
		return ok && was.outcome == outcomeOf(i)
	}, nil
}

// PlanDiff is what a plan changes over another.
type PlanDiff struct {
	From    string         `json:"from"`
	To      string         `json:"to"`
	Header  []HeaderChange `json:"header"`
	Lists   []ListChange   `json:"lists"`
	Added   int64          `json:"added"`   // items that only To lists
	Removed int64          `json:"removed"` // items that only From lists
	Changed int64          `json:"changed"` // items with another outcome
	Same    int64          `json:"same"`
}

// HeaderChange is one thing that the headers of two plans do not agree on. What
// lists had or have not is given entry by entry.
type HeaderChange struct {
	What string `json:"what"`
	Was  string `json:"was,omitempty"` // JSON
	Now  string `json:"now,omitempty"`
}

// ListChange is what a known-good list of one plan holds and its counterpart in
// the other, by the same signer and person, does not.
type ListChange struct {
	Signer       string   `json:"signer"`
	Person       string   `json:"person,omitempty"`
	Added        []string `json:"added,omitempty"` // digests, at most 100
	Removed      []string `json:"removed,omitempty"`
	AddedTotal   int64    `json:"added_total"`
	RemovedTotal int64    `json:"removed_total"`
}

// maxNamed bounds the digests that are named of a change of a list.
const maxNamed = 100

// ItemChange is one item on which two plans differ.
type ItemChange struct {
	Was *Item `json:"was,omitempty"` // nil: only the second plan lists it
	Now *Item `json:"now,omitempty"` // nil: only the first does
}

// DiffPlans compares two plans and calls visit with every item they differ on:
// first those that the second lists, in its order, then those it no longer
// lists, in the order of the first. visit may be nil.
func DiffPlans(ctx context.Context, s *store.Store, from, to string, visit func(ItemChange) error) (PlanDiff, error) {
	d := PlanDiff{From: from, To: to, Header: []HeaderChange{}, Lists: []ListChange{}}
	if visit == nil {
		visit = func(ItemChange) error { return nil }
	}
	a, _, err := LoadPlan(ctx, s, from)
	if err != nil {
		return d, err
	}
	b, _, err := LoadPlan(ctx, s, to)
	if err != nil {
		return d, err
	}
	if err := d.headers(a, b); err != nil {
		return d, err
	}
	if err := d.lists(ctx, s, a.Vouchers, b.Vouchers); err != nil {
		return d, err
	}
	known := map[itemKey]line{}
	if err := index(ctx, s, from, known); err != nil {
		return d, err
	}
	err = Items(ctx, s, to, "", func(now Item) error {
		key := keyOf(now)
		was, ok := known[key]
		delete(known, key)
		switch {
		case !ok:
			d.Added++
			return visit(ItemChange{Now: &now})
		case was.outcome == outcomeOf(now):
			d.Same++
			return nil
		}
		d.Changed++
		old, err := itemAt(ctx, s, from, was.seq)
		if err != nil {
			return err
		}
		return visit(ItemChange{Was: &old, Now: &now})
	})
	if err != nil {
		return d, err
	}
	gone := slices.SortedFunc(maps.Values(known), func(a, b line) int { return cmp.Compare(a.seq, b.seq) })
	for _, l := range gone {
		d.Removed++
		old, err := itemAt(ctx, s, from, l.seq)
		if err != nil {
			return d, err
		}
		if err := visit(ItemChange{Was: &old}); err != nil {
			return d, err
		}
	}
	return d, nil
}

func itemAt(ctx context.Context, s *store.Store, plan string, seq int64) (Item, error) {
	items, err := ItemPage(ctx, s, plan, "", seq-1, 1)
	if err == nil && len(items) == 0 {
		err = fmt.Errorf("plan %s has no line %d: it was changed after it was made", plan, seq)
	}
	if err != nil {
		return Item{}, err
	}
	return items[0], nil
}

// headers compares the headers field by field and lists entry by entry.
func (d *PlanDiff) headers(a, b Plan) error {
	fields := func(p Plan) (out map[string]json.RawMessage, err error) {
		body, err := canonical(p)
		if err != nil {
			return nil, err
		}
		return out, json.Unmarshal(body, &out)
	}
	was, err := fields(a)
	if err != nil {
		return err
	}
	now, err := fields(b)
	if err != nil {
		return err
	}
	names := maps.Clone(was)
	maps.Copy(names, now)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		x, y := string(was[name]), string(now[name])
		if x == y {
			continue
		}
		var before, after []json.RawMessage
		if isList(x) && isList(y) && json.Unmarshal([]byte(orNone(x)), &before) == nil && json.Unmarshal([]byte(orNone(y)), &after) == nil {
			d.entries(name, before, after)
			continue
		}
		d.Header = append(d.Header, HeaderChange{What: name, Was: x, Now: y})
	}
	return nil
}

func isList(text string) bool { return text == "" || text == "null" || strings.HasPrefix(text, "[") }

func orNone(text string) string {
	if text == "" {
		return "null"
	}
	return text
}

func (d *PlanDiff) entries(name string, before, after []json.RawMessage) {
	in := func(all []json.RawMessage, x json.RawMessage) bool {
		return slices.ContainsFunc(all, func(o json.RawMessage) bool { return string(o) == string(x) })
	}
	for _, x := range before {
		if !in(after, x) {
			d.Header = append(d.Header, HeaderChange{What: name, Was: string(x)})
		}
	}
	for _, x := range after {
		if !in(before, x) {
			d.Header = append(d.Header, HeaderChange{What: name, Now: string(x)})
		}
	}
}

// lists compares what the known-good lists of both plans hold, for each that
// signed any.
func (d *PlanDiff) lists(ctx context.Context, s *store.Store, before, after []trust.Voucher) error {
	type who struct{ signer, person string }
	held := func(vouchers []trust.Voucher) (map[who]list, error) {
		lists, err := loadLists(ctx, s, vouchers)
		if err != nil {
			return nil, err
		}
		out := map[who]list{}
		for _, v := range vouchers {
			if v.Kind == trust.KnownGood {
				w := who{v.Signer.ID(), v.Person}
				out[w] = append(slices.Clone(out[w]), lists[v.List]...)
			}
		}
		for w := range out {
			slices.SortFunc(out[w], compareRaw)
			out[w] = slices.Compact(out[w])
		}
		return out, nil
	}
	was, err := held(before)
	if err != nil {
		return err
	}
	now, err := held(after)
	if err != nil {
		return err
	}
	all := maps.Clone(was)
	maps.Copy(all, now)
	for _, w := range slices.SortedFunc(maps.Keys(all), func(a, b who) int {
		return cmp.Or(cmp.Compare(a.signer, b.signer), cmp.Compare(a.person, b.person))
	}) {
		c := ListChange{Signer: w.signer, Person: w.person}
		c.Added, c.AddedTotal = without(now[w], was[w])
		c.Removed, c.RemovedTotal = without(was[w], now[w])
		if c.AddedTotal+c.RemovedTotal > 0 {
			d.Lists = append(d.Lists, c)
		}
	}
	return nil
}

// without returns the digests of a list that another does not hold, the first
// of them by name, and how many there are.
func without(l, other list) (named []string, n int64) {
	for _, raw := range l {
		if _, found := slices.BinarySearchFunc(other, raw, compareRaw); found {
			continue
		}
		if n++; n <= maxNamed {
			named = append(named, fmt.Sprintf("sha256:%x", raw))
		}
	}
	return named, n
}
