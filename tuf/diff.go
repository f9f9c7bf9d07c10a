package tuf

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A Diff says what an event changes, computed from the metadata to be signed and the published metadata it replaces,
// never from what was asked for.
type Diff struct {
	Event  string     `json:"event"`
	By     string     `json:"by,omitempty"`     // as the proposer says
	Reason string     `json:"reason,omitempty"` // as the proposer says
	Roles  []RoleDiff `json:"roles"`
}

// RoleDiff says what changes in one metadata file.
type RoleDiff struct {
	Role    string    `json:"role"`
	From    int64     `json:"from"` // the published version; 0: there is none
	To      int64     `json:"to"`
	Was     time.Time `json:"was,omitzero"` // when the published version expires
	Expires time.Time `json:"expires"`
	Digest  string    `json:"digest"` // SHA-256 of what is signed
	Changes []Line    `json:"changes"`
	// Warnings is what a signer should be sure of before signing.
	Warnings []string `json:"warnings,omitempty"`
}

// A Line is one change.
type Line struct {
	What string `json:"what"` // key, holder, threshold, delegation, target, content, period or field
	Text string `json:"text"`
}

// Diff says what the open event changes.
func (r *Repository) Diff() (Diff, error) {
	s, err := r.load()
	if err != nil {
		return Diff{}, fmt.Errorf("tuf: diff: %w", err)
	}
	e, d, err := r.openEvent(s)
	if err != nil {
		return Diff{}, fmt.Errorf("tuf: diff: %w", err)
	}
	out := d.diff(r.guard, r.words, r.now())
	out.Event, out.By, out.Reason = e.ID, visible(e.By), visible(e.Reason)
	return out, nil
}

func (d *draft) diff(guard Guard, content Words, now time.Time) Diff {
	out := Diff{Roles: []RoleDiff{}}
	for _, role := range d.changed() {
		w := &words{now: now, RoleDiff: RoleDiff{Role: role, Changes: []Line{}}}
		if role == metadata.ROOT {
			w.root(d.Root, d.root)
		} else {
			old := d.Targets[role]
			if old == nil && !d.empty() {
				old, _ = d.state.role(role) // nil for a new one
			}
			w.targets(old, d.roles[role])
			w.content(d, guard, old)
			w.within(d, content, old)
		}
		out.Roles = append(out.Roles, w.RoleDiff)
	}
	return out
}

// words collects what is to be said about one role.
type words struct {
	RoleDiff
	now time.Time
}

func (w *words) say(what, format string, args ...any) {
	w.Changes = append(w.Changes, Line{what, visible(fmt.Sprintf(format, args...))})
}

func (w *words) warn(format string, args ...any) {
	w.Warnings = append(w.Warnings, visible(fmt.Sprintf(format, args...)))
}

// visible spells out characters by which names that others chose could hide what is said: those that move a terminal's
// cursor or turn the direction of text.
func visible(text string) string {
	var b strings.Builder
	for _, c := range text {
		if unicode.IsPrint(c) {
			b.WriteRune(c)
		} else {
			fmt.Fprintf(&b, "\\u%04x", c)
		}
	}
	return b.String()
}

// keyWords describes a key so that its holder can compare it.
func keyWords(id string, key *metadata.Key) string {
	kind, print := key.Type+" key", "which this version cannot read"
	if public, err := publicKeyOf(key); err == nil {
		kind, print = keyKind(public), "SHA256:"+fingerprint(key)
	}
	owner := ownerOf(key)
	if owner == "" {
		owner = "nobody named"
	}
	return fmt.Sprintf("%s of %s, %s, key id %s", kind, owner, print, id)
}

// versions says when it expires and is no good.
func (w *words) versions(from, to int64, was, expires time.Time) {
	w.From, w.To, w.Was, w.Expires = from, to, was, expires
	if from > 0 && to != from+1 {
		w.warn("version %d follows %d: versions in between are left out", to, from)
	}
	if from == 0 && to > 1 {
		w.warn("no version before %d is shown, and there may be one: what it takes away cannot be seen here", to)
	}
	if !w.now.Before(expires) {
		w.warn("it is expired already: it expires on %s, and this machine's clock says %s", expires.Format(time.RFC3339), w.now.UTC().Format(time.RFC3339))
	}
	if expires.Before(was) {
		w.warn("it expires on %s, earlier than the published one, which expires on %s", expires.Format(time.RFC3339), was.Format(time.RFC3339))
	}
}

func (w *words) expiresWithin(p Period, ok bool, expires time.Time) {
	if latest := w.now.Add(p.expiry() + day); ok && expires.After(latest) {
		w.warn("it expires on %s, in %s, and its period is %d days: the clock that it was made with may be wrong", expires.Format(time.RFC3339), days(expires.Sub(w.now)), p.Expiry)
	} else if !ok && expires.After(w.now.AddDate(10, 0, 0)) {
		w.warn("it expires on %s, in more than ten years", expires.Format(time.RFC3339))
	}
}

// holders compares who may sign a role.
func (w *words) holders(role string, old, new keyring) {
	for _, id := range new.ids {
		switch {
		case !slices.Contains(old.ids, id):
			w.say("holder", "role %s gets the %s", role, keyWords(id, new.keys[id]))
			if want, err := freshID(new.keys[id]); err != nil || want != id {
				w.warn("the id of key %s is not the digest of the key as it is published: some clients refuse that", id)
			}
			if fingerprint(new.keys[id]) == "" {
				w.warn("key %s of role %s is of a kind that this version cannot read", id, role)
			}
		case !reflect.DeepEqual(plainKey(old.keys[id]), plainKey(new.keys[id])):
			w.say("key", "role %s: key id %s now stands for the %s, before for the %s", role, id, keyWords(id, new.keys[id]), keyWords(id, old.keys[id]))
			w.warn("key id %s stands for another key than before", id)
		}
	}
	for _, id := range old.ids {
		if !slices.Contains(new.ids, id) {
			w.say("holder", "role %s loses the %s", role, keyWords(id, old.keys[id]))
		}
	}
	owners, prints := map[string]string{}, map[string]string{}
	for _, id := range new.ids {
		owner := ownerOf(new.keys[id])
		if f := fingerprint(new.keys[id]); prints[f] != "" && f != "" {
			w.warn("role %s has one key twice, as %s and %s: some clients count it twice", role, keyName(prints[f], new.keys[prints[f]]), keyName(id, new.keys[id]))
		} else {
			prints[f] = id
		}
		if other := owners[owner]; owner != "" && other != "" {
			w.warn("%s has two keys of role %s, %s and %s: a person would count twice", owner, role, other[:min(12, len(other))], id[:min(12, len(id))])
		}
		owners[owner] = id
		if f := fingerprint(new.keys[id]); f != "" && !slices.Contains(old.ids, id) {
			for _, was := range old.ids {
				if fingerprint(old.keys[was]) == f {
					w.warn("the key of %s is one that role %s had before, of %s, under another id: it is not a new key", orNobody(owner), role, orNobody(ownerOf(old.keys[was])))
				}
			}
		}
	}
	if old.threshold != new.threshold {
		w.say("threshold", "role %s: %d of %d must sign, before %d of %d", role, new.threshold, len(new.ids), old.threshold, len(old.ids))
	} else if len(old.ids) != len(new.ids) {
		w.say("threshold", "role %s: still %d must sign, now of %d, before of %d", role, new.threshold, len(new.ids), len(old.ids))
	}
	if new.threshold <= 1 && !onlineRole(role) && (old.threshold != new.threshold || !slices.Equal(old.ids, new.ids)) {
		w.warn("role %s: one key alone can sign: who steals it has all of its power", role)
	}
	if new.threshold == len(new.ids) && new.threshold > 1 && (old.threshold != new.threshold || len(old.ids) != len(new.ids)) {
		w.warn("role %s: every key must sign: with one lost, it can be changed no more", role)
	}
	if text := (keyring{role, new.ids, new.keys, new.threshold}).outOfReach(); text != "" && (old.threshold != new.threshold || !slices.Equal(old.ids, new.ids)) {
		w.warn("%s", text)
	}
	kept := 0
	for _, id := range new.ids {
		if slices.Contains(old.ids, id) {
			kept++
		}
	}
	if len(old.ids) > 0 && kept == 0 && !onlineRole(role) {
		w.warn("role %s: none of the holders' keys stays", role)
	}
}

func orNobody(owner string) string {
	if owner == "" {
		return "nobody named"
	}
	return visible(owner)
}

// plainKey is a key without what the library computed of it.
func plainKey(k *metadata.Key) any {
	if k == nil {
		return nil
	}
	return []any{k.Type, k.Scheme, k.Value.PublicKey, empty(k.Value.UnrecognizedFields), empty(k.UnrecognizedFields)}
}

func empty(m map[string]any) map[string]any {
	if len(m) == 0 {
		return nil
	}
	return m
}

// freshID computes a key's id from what is published.
func freshID(k *metadata.Key) (string, error) {
	return (&metadata.Key{Type: k.Type, Scheme: k.Scheme, Value: k.Value, UnrecognizedFields: k.UnrecognizedFields}).ID()
}

// fields compares what is not in the specification, and the periods in it.
func (w *words) fields(where string, old, new map[string]any) {
	names := slices.Collect(maps.Keys(old))
	for name := range new {
		if _, ok := old[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		a, had := old[name]
		b, has := new[name]
		if had == has && reflect.DeepEqual(a, b) {
			continue
		}
		what, label := "field", where+"field "+name
		switch name {
		case fieldExpiry:
			what, label = "period", where+"signatures last (days)"
		case fieldSigning:
			what, label = "period", where+"signing again is due before the end (days)"
		}
		w.say(what, "%s: %s, before %s", label, jsonWords(b, has), jsonWords(a, had))
	}
}

func jsonWords(v any, has bool) string {
	if !has {
		return "none"
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(data)
}

func (w *words) root(old, new *rootMeta) {
	doc, err := newDocument(metadata.ROOT, new)
	if err == nil {
		w.Digest = doc.digest()
	}
	if old == nil {
		old = &rootMeta{}
		w.warn("this is the first root of a repository: nothing published vouches for it; compare every key with its holder")
	}
	a, b := &old.Signed, &new.Signed
	w.versions(a.Version, b.Version, a.Expires, b.Expires)
	p, ok := periodIn(b.UnrecognizedFields)
	w.expiresWithin(p, ok, b.Expires)
	roles := []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP}
	for _, m := range []map[string]*metadata.Role{a.Roles, b.Roles} {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			if !slices.Contains(roles, name) {
				roles = append(roles, name)
			}
		}
	}
	ring := func(m *metadata.RootType, name string) (keyring, map[string]any) {
		r := m.Roles[name]
		if r == nil {
			return keyring{}, nil
		}
		k, err := newRing(name, r.KeyIDs, m.Keys, r.Threshold)
		if err != nil {
			w.warn("%v", err)
		}
		return k, r.UnrecognizedFields
	}
	for _, name := range roles {
		x, xf := ring(a, name)
		y, yf := ring(b, name)
		if old.Signed.Version > 0 && b.Roles[name] == nil {
			w.say("delegation", "role %s is removed from root", name)
		}
		w.holders(name, x, y)
		w.fields("role "+name+": ", xf, yf)
		for _, id := range x.ids {
			for _, other := range roles {
				if r := b.Roles[other]; r != nil && !slices.Contains(y.ids, id) && slices.Contains(r.KeyIDs, id) {
					w.warn("%s leaves role %s and still holds role %s", keyName(id, x.keys[id]), name, other)
				}
			}
		}
		if name == metadata.ROOT && len(x.ids) > 0 {
			for _, id := range y.ids {
				if slices.Contains(x.ids, id) {
					continue
				}
				if owner := ownerOf(y.keys[id]); owner != "" && slices.ContainsFunc(x.ids, func(o string) bool { return ownerOf(x.keys[o]) == owner }) {
					w.warn("%s is a holder before and after, with another key: ask %s whether that is so", owner, owner)
				}
			}
		}
	}
	w.unused(a.Keys, b.Keys, func(id string) bool {
		for _, r := range b.Roles {
			if r != nil && slices.Contains(r.KeyIDs, id) {
				return true
			}
		}
		return false
	})
	if b.SpecVersion != a.SpecVersion && a.SpecVersion != "" {
		w.say("field", "specification version %s, before %s", b.SpecVersion, a.SpecVersion)
	}
	if b.ConsistentSnapshot != a.ConsistentSnapshot && a.Version > 0 {
		w.say("field", "consistent snapshots: %t, before %t", b.ConsistentSnapshot, a.ConsistentSnapshot)
	}
	w.fields("", a.UnrecognizedFields, b.UnrecognizedFields)
	w.fields("beside what is signed: ", old.UnrecognizedFields, new.UnrecognizedFields)
}

// unused says which keys are published though no role names them.
func (w *words) unused(old, new map[string]*metadata.Key, used func(string) bool) {
	for _, id := range slices.Sorted(maps.Keys(new)) {
		if had, ok := old[id]; !used(id) && (!ok || !reflect.DeepEqual(plainKey(had), plainKey(new[id]))) {
			w.say("key", "the %s is published, and no role names it", keyWords(id, new[id]))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(old)) {
		if _, ok := new[id]; !ok {
			w.say("key", "the %s is no longer published", keyWords(id, old[id]))
		}
	}
}

func (w *words) targets(old, new *targetsMeta) {
	if doc, err := newDocument(w.Role, new); err == nil {
		w.Digest = doc.digest()
	}
	if old == nil {
		old = &targetsMeta{}
	}
	a, b := &old.Signed, &new.Signed
	w.versions(a.Version, b.Version, a.Expires, b.Expires)
	p, ok := periodIn(b.UnrecognizedFields)
	w.expiresWithin(p, ok, b.Expires)
	names := slices.Collect(maps.Keys(a.Targets))
	for name := range b.Targets {
		if a.Targets[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		x, y := a.Targets[name], b.Targets[name]
		switch {
		case y == nil:
			w.say("target", "%s is removed (it has %s)", name, targetWords(x))
			w.warn("%s is removed", name)
		case x == nil:
			w.say("target", "%s is new: %s", name, targetWords(y))
			if err := checkName(name); err != nil {
				w.warn("target %q: %v", name, err)
			}
		case !reflect.DeepEqual(targetJSON(x), targetJSON(y)):
			w.say("target", "%s is now %s, before %s", name, targetWords(y), targetWords(x))
		}
	}
	w.delegations(a.Delegations, b.Delegations)
	if b.SpecVersion != a.SpecVersion && a.SpecVersion != "" {
		w.say("field", "specification version %s, before %s", b.SpecVersion, a.SpecVersion)
	}
	w.fields("", a.UnrecognizedFields, b.UnrecognizedFields)
	w.fields("beside what is signed: ", old.UnrecognizedFields, new.UnrecognizedFields)
}

func targetJSON(t *metadata.TargetFiles) string {
	data, err := json.Marshal(t)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func targetWords(t *metadata.TargetFiles) string {
	var parts []string
	for _, alg := range slices.Sorted(maps.Keys(t.Hashes)) {
		parts = append(parts, strings.ToUpper(alg)+":"+t.Hashes[alg].String())
	}
	parts = append(parts, fmt.Sprintf("%d bytes", t.Length))
	if t.Custom != nil {
		parts = append(parts, "beside it "+string(*t.Custom))
	}
	if len(t.UnrecognizedFields) > 0 {
		parts = append(parts, "with "+jsonWords(t.UnrecognizedFields, true))
	}
	return strings.Join(parts, ", ")
}

func (w *words) delegations(old, new *metadata.Delegations) {
	if old == nil {
		old = &metadata.Delegations{}
	}
	if new == nil {
		new = &metadata.Delegations{}
	}
	find := func(d *metadata.Delegations, name string) (metadata.DelegatedRole, bool) {
		i := slices.IndexFunc(d.Roles, func(r metadata.DelegatedRole) bool { return r.Name == name })
		if i < 0 {
			return metadata.DelegatedRole{}, false
		}
		return d.Roles[i], true
	}
	var before, now []string
	for _, r := range old.Roles {
		before = append(before, r.Name)
		if _, ok := find(new, r.Name); !ok {
			w.say("delegation", "role %s is removed, for %s", r.Name, list(r.Paths))
			w.warn("role %s is removed: nothing that it lists will verify", r.Name)
		}
	}
	for _, r := range new.Roles {
		if slices.Contains(now, r.Name) {
			w.warn("role %s is delegated to twice: clients need not agree on which counts", r.Name)
		}
		now = append(now, r.Name)
		was, had := find(old, r.Name)
		if !had {
			w.say("delegation", "role %s is new, for %s%s", r.Name, list(append(slices.Clone(r.Paths), r.PathHashPrefixes...)), terminating(r.Terminating))
		} else {
			if !slices.Equal(was.Paths, r.Paths) || !slices.Equal(was.PathHashPrefixes, r.PathHashPrefixes) {
				w.say("delegation", "role %s: for %s, before for %s", r.Name, list(append(slices.Clone(r.Paths), r.PathHashPrefixes...)), list(append(slices.Clone(was.Paths), was.PathHashPrefixes...)))
			}
			if was.Terminating != r.Terminating {
				w.say("delegation", "role %s: terminating is %t, before %t", r.Name, r.Terminating, was.Terminating)
			}
		}
		w.compareRing(r.Name, old, new, was.KeyIDs, r.KeyIDs, was.Threshold, r.Threshold)
		w.fields("role "+r.Name+": ", was.UnrecognizedFields, r.UnrecognizedFields)
	}
	kept := func(names, in []string) []string {
		return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !slices.Contains(in, n) })
	}
	if x, y := kept(before, now), kept(now, before); !slices.Equal(x, y) {
		w.say("delegation", "the order of roles, in which clients ask them, is %s, before %s", list(now), list(before))
	}
	x, y := old.SuccinctRoles, new.SuccinctRoles
	if x == nil {
		x = &metadata.SuccinctRoles{}
	}
	if y == nil {
		y = &metadata.SuccinctRoles{}
	}
	if x.BitLength != y.BitLength || x.NamePrefix != y.NamePrefix {
		bins := func(s *metadata.SuccinctRoles) string {
			if s.BitLength == 0 {
				return "none"
			}
			return fmt.Sprintf("%d named %s-…", 1<<min(s.BitLength, 32), s.NamePrefix)
		}
		w.say("delegation", "bins: %s, before %s", bins(y), bins(x))
	}
	if y.BitLength != 0 {
		w.compareRing(y.NamePrefix+"-… (bins)", old, new, x.KeyIDs, y.KeyIDs, x.Threshold, y.Threshold)
	}
	w.fields("bins: ", x.UnrecognizedFields, y.UnrecognizedFields)
	w.unused(old.Keys, new.Keys, func(id string) bool {
		return slices.Contains(y.KeyIDs, id) || slices.ContainsFunc(new.Roles, func(r metadata.DelegatedRole) bool { return slices.Contains(r.KeyIDs, id) })
	})
	w.fields("delegations: ", old.UnrecognizedFields, new.UnrecognizedFields)
}

func (w *words) compareRing(role string, old, new *metadata.Delegations, was, ids []string, t0, t1 int) {
	x, err := newRing(role, was, old.Keys, t0)
	if err != nil {
		w.warn("%v", err)
	}
	y, err := newRing(role, ids, new.Keys, t1)
	if err != nil {
		w.warn("%v", err)
	}
	w.holders(role, x, y)
}

func terminating(t bool) string {
	if t {
		return "; no other role can speak for these"
	}
	return ""
}

// content says what would stop verifying, by the content of targets.
func (w *words) content(d *draft, guard Guard, old *targetsMeta) {
	if guard == nil {
		return
	}
	if old == nil {
		old = &targetsMeta{}
	}
	now := d.roles[w.Role].Signed.Targets
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if old.Signed.Targets[name] != nil {
			continue
		}
		after, err := d.content(name, now[name])
		if err != nil {
			continue // see within
		}
		for _, what := range guard(name, nil, after) {
			w.warn("%s: %s", name, what)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old.Signed.Targets)) {
		x, y := old.Signed.Targets[name], now[name]
		if y != nil && sameTarget(x, y) {
			continue
		}
		before, err := d.target(name, x)
		var after []byte
		if err == nil && y != nil {
			if after = d.files[name]; after == nil || y.VerifyLengthHashes(after) != nil {
				after, err = d.target(name, y)
			}
		}
		if err != nil {
			w.warn("%s: its content is not at hand, so that nobody can say what would stop verifying", name)
			continue
		}
		for _, what := range guard(name, before, after) {
			w.warn("%s: %s", name, what)
		}
	}
}

// within says what changes in the content of targets. What is kept back is warned of: it may be what matters.
func (w *words) within(d *draft, content Words, old *targetsMeta) {
	if content == nil {
		return
	}
	was := map[string]*metadata.TargetFiles{}
	if old != nil {
		was = old.Signed.Targets
	}
	now := d.roles[w.Role].Signed.Targets
	for _, name := range slices.Sorted(maps.Keys(now)) {
		x, y := was[name], now[name]
		if x != nil && sameTarget(x, y) {
			continue
		}
		var before []byte
		var err error
		if x != nil {
			before, err = d.target(name, x)
		}
		after := d.files[name]
		if err == nil && (after == nil || y.VerifyLengthHashes(after) != nil) {
			after, err = d.target(name, y)
		}
		if err != nil {
			if len(content(name, nil, nil)) > 0 {
				w.warn("%s: its content is not at hand, so that nobody can say what it changes", name)
			}
			continue
		}
		for _, line := range content(name, before, after) {
			w.say("content", "%s: %s", name, line)
		}
	}
}
