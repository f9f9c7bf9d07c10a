package radar

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// version is a root that could be read.
type version struct {
	*document
	root *metadata.RootType
	ring ring // of the role root
}

// A client of go-tuf follows so many new roots in one refresh and fails at more; from how many on that is said.
const (
	maxRotations  = 256
	manyRotations = 200
)

// roots reads the history of root, verifies it and returns the root that the other roles are judged by; nil when there
// is none.
func (l *look) roots(ctx context.Context) (*version, error) {
	found, err := l.findRoots(ctx)
	if err != nil {
		return nil, err
	}
	versions := map[int64]*version{}
	for _, n := range slices.Sorted(maps.Keys(found)) {
		v, err := l.parseRoot(l.files.root(n), found[n])
		if err == nil && v.version != n {
			err = fmt.Errorf("it holds version %d", v.version)
		}
		if err != nil {
			l.say(Error, "malformed", "root", "restore the file from a backup or a mirror", "root %d cannot be read: %v: no client can pass it", n, err)
			continue
		}
		versions[n] = v
	}
	waiting := l.unpublished(ctx, versions)
	if l.o.Root != nil {
		if err := l.pin(versions); err != nil {
			return nil, err
		}
	}
	if len(versions) == 0 {
		if len(found) > 0 || waiting != nil || l.said("unreadable", "root") {
			return nil, nil
		}
		return nil, fmt.Errorf("no root metadata: %w; give a directory or address that holds N.root.json, or metadata/", fs.ErrNotExist)
	}
	current := l.chain(versions, waiting)
	if waiting != nil {
		l.rootEvent(current, waiting)
	}
	l.openEvent(ctx, current)
	return current, nil
}

func (l *look) parseRoot(name string, data []byte) (*version, error) {
	d, err := parse(name, data)
	if err != nil {
		return nil, err
	}
	root, err := decode[metadata.RootType](d, "root")
	if err != nil {
		return nil, err
	}
	r, ok := rootRing(root, "root")
	if !ok {
		return nil, errors.New("it lists no role root")
	}
	return &version{document: d, root: root, ring: r}, nil
}

// findRoots returns the content of each version of root at hand.
func (l *look) findRoots(ctx context.Context) (map[int64][]byte, error) {
	out := map[int64][]byte{}
	if l.files.dir == nil {
		return out, l.walk(ctx, out)
	}
	list, err := l.files.roots()
	if err != nil {
		return nil, err
	}
	for _, n := range list {
		data, err := l.files.read(ctx, l.files.root(n), maxRoot)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			l.say(Error, "unreadable", "root", "make the file readable, or restore it", "root %d cannot be read: %s: %v", n, l.files.root(n), err)
			continue
		}
		out[n] = data
	}
	return out, nil
}

// walk asks a server for one root after the other, as clients do, from the pinned one or from the first.
func (l *look) walk(ctx context.Context, out map[int64][]byte) error {
	const gap = 2 // so many versions may be missing before the rest is taken for not there
	missing, n, size := 0, int64(1), 0
	for ; len(out) < maxRoots && size < maxAllRoots; n++ {
		data, err := l.files.read(ctx, l.files.root(n), maxRoot)
		switch {
		case err == nil:
			out[n], missing = data, 0
			size += len(data)
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, errForbidden):
			if missing == 0 {
				l.refuse(Error, "forbidden", "root", goTUF, "have the server answer 404 for what is not there: on S3 that takes the right to list the bucket",
					"the server answers 403 for root %d: clients stop with an error there instead of taking root %d for the newest", n, n-1)
			}
		case errors.Is(err, errTooLong):
			l.refuse(Error, "too-long", "root", goTUF, "take unneeded fields out of root", "root %d: %v", n, err)
		default:
			if len(out) == 0 {
				return err // the server is not there, or does not want to
			}
			l.say(Error, "unreadable", "root", "look at the server, and try again", "root %d cannot be read: %v", n, err)
			return nil
		}
		// A repository whose first roots were dropped begins somewhere.
		if missing++; missing >= gap && (len(out) > 0 || missing >= 32) {
			return nil
		}
	}
	l.say(Error, "too-many-roots", "root", "find out who runs the server; of a repository that is yours look at a copy in a directory",
		"the server has more roots than root %d, which is %d bytes so far: the rest was not looked at", n-1, size)
	return nil
}

// pin replaces the published root of the pinned version by the pinned one, and takes away what is older.
func (l *look) pin(versions map[int64]*version) error {
	v, err := l.parseRoot("the pinned root", l.o.Root)
	if err != nil {
		return fmt.Errorf("the pinned root: %w", err)
	}
	l.Pinned = v.version
	if there := versions[v.version]; there != nil && !same(there.document, v.document) {
		l.say(Error, "root-differs", "root", "find out who wrote it, from where the pinned root came and from the key holders; believe neither until then",
			"root %d is another one than the one that is pinned", v.version)
	}
	for n := range versions {
		if n < v.version {
			delete(versions, n)
		}
	}
	versions[v.version] = v
	return nil
}

// chain verifies each root by the one before and by itself, compares them, and returns the newest that a client gets to.
func (l *look) chain(versions map[int64]*version, waiting *version) *version {
	order := slices.Sorted(maps.Keys(versions))
	l.name(versions, order)
	c := &l.RootChain
	c.First, c.Verified, c.Roots = order[0], true, []Root{}
	var current, former *version // the newest that is reached; the one of the number before
	var unreadable []int64       // versions a go-tuf client cannot start from
	for _, n := range order {
		v := versions[n]
		if former != nil && former.version != n-1 {
			l.gap(former.version, n)
			c.Verified, former = false, nil
		}
		r := l.compare(former, v)
		reached := former == nil || current == former
		by := v.ring.signers(v.document)
		switch {
		case v.ring.threshold < 1:
			r.Why = fmt.Sprintf("its own threshold is %d", v.ring.threshold)
		case former != nil && len(former.ring.signers(v.document)) < former.ring.threshold:
			r.Why = fmt.Sprintf("it is signed by %d of the keys of root %d, and %d must", r.Previous, former.version, former.ring.threshold)
		case len(by) < v.ring.threshold:
			r.Why = fmt.Sprintf("it is signed by %d of its own keys, and %d must", len(by), v.ring.threshold)
		case !reached:
			r.Why = fmt.Sprintf("root %d before it is refused", former.version)
		}
		r.Verified = r.Why == ""
		r.GoTUF = accepts[metadata.RootType, metadata.RootType](v.root, "root", v.data) == nil
		if !r.GoTUF && r.Verified {
			unreadable = append(unreadable, n)
		}
		if r.Verified {
			current = v
		} else {
			c.Verified = false
			l.say(Error, "root-refused", "root", "take that file away, or restore the root that was signed: until then no client gets past the one before", "root %d is refused: %s", n, r.Why)
		}
		c.Roots = append(c.Roots, r)
		former = v
	}
	if c.First > 1 && l.Pinned == 0 {
		l.lacking(c.First)
	}
	if current == nil {
		return versions[order[len(order)-1]]
	}
	c.Last = current.version
	l.goTUFWalk(versions, unreadable, current)
	switch n := c.Last - c.First; {
	case n > maxRotations:
		l.refuse(Warning, "long-chain", "root", goTUF, "publish a new first root to new clients, and let root live longer",
			"%d roots lie between the first and the last: a client that follows more than %d in one refresh fails", n, maxRotations)
	case n >= manyRotations:
		l.say(Warning, "long-chain", "root", "publish a new first root to new clients, and let root live longer",
			"%d roots lie between the first and the last: a client that has to follow more than %d in one refresh will fail", n, maxRotations)
	}
	return current
}

// goTUFWalk says from which roots a client of go-tuf cannot come to the current one.
func (l *look) goTUFWalk(versions map[int64]*version, unreadable []int64, current *version) {
	if len(unreadable) > 0 {
		s, do := Notice, "nothing: clients pin a later root"
		if slices.Contains(unreadable, current.version) {
			s, do = Error, "publish a next root with keys that go-tuf can read: P-256 or Ed25519, in PEM"
		}
		l.refuse(s, "go-tuf-start", "root", goTUF, do, "no client of go-tuf can start from root %s: %v", spans(unreadable),
			accepts[metadata.RootType, metadata.RootType](versions[unreadable[0]].root, "root", versions[unreadable[0]].data))
	}
	for n := range versions {
		next, v := versions[n+1], versions[n]
		if next == nil || next.version > current.version || slices.Contains(unreadable, n) || slices.Contains(unreadable, n+1) {
			continue
		}
		if err := accepts[metadata.RootType, metadata.RootType](v.root, "root", next.data); err != nil {
			l.refuse(Error, "go-tuf-walk", "root", goTUF, "sign that root anew, with the holders of both", "a client of go-tuf does not follow from root %d to %d: %v", n, n+1, err)
		}
	}
}

// spans writes ascending numbers as "1 to 4, 9".
func spans(list []int64) string {
	var out []string
	for n := 0; n < len(list); n++ {
		first := list[n]
		for n+1 < len(list) && list[n+1] == list[n]+1 {
			n++
		}
		if list[n] == first {
			out = append(out, fmt.Sprint(first))
		} else {
			out = append(out, fmt.Sprintf("%d to %d", first, list[n]))
		}
	}
	return strings.Join(out, ", ")
}

func (l *look) gap(before, after int64) {
	missing := fmt.Sprint(before + 1)
	if after-before > 2 {
		missing += fmt.Sprintf(" to %d", after-1)
	}
	l.say(Error, "root-gap", "root", "restore the missing files from a backup, a mirror or a client's cache, unchanged: a root cannot be made again",
		"root %s is missing: clients that know root %d or an older one cannot walk on", missing, before)
}

func (l *look) lacking(first int64) {
	if first == 2 {
		l.say(Warning, "root-gap", "root", "restore 1.root.json from a backup or a mirror", "root 1 is missing: clients that start from it have nowhere to get it")
		return
	}
	l.say(Error, "root-gap", "root", "restore them from a backup, a mirror or a client's cache, unchanged; or pin a root with which every client is known to begin",
		"root 1 to %d are missing: clients that know root %d or an older one cannot walk on", first-1, first-2)
}

// name learns what the holders of keys are called. A key keeps the name that a later root gives it.
func (l *look) name(versions map[int64]*version, order []int64) {
	for _, n := range order {
		for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
			r, _ := rootRing(versions[n].root, role)
			l.learn(r)
		}
	}
}

func (l *look) learn(r ring) {
	for _, h := range r.keys {
		if owner := h.field(fieldOwner); owner != "" {
			l.owners[h.fingerprint] = owner
		} else if l.owners[h.fingerprint] == "" {
			l.owners[h.fingerprint] = short(h.id)
		}
	}
}

func short(id string) string { return id[:min(len(id), 8)] }

// who names the holder of a key.
func (l *look) who(h holder) string {
	if name := l.owners[h.fingerprint]; name != "" {
		return name
	}
	if owner := h.field(fieldOwner); owner != "" {
		return owner
	}
	return short(h.id)
}

// compare says what a root changed; before is nil when the one before it is not at hand.
func (l *look) compare(before, v *version) Root {
	r := Root{Version: v.version, Expires: v.root.Expires.UTC(), Threshold: v.ring.threshold, Holders: []string{}, SignedBy: []string{}, SelfOnly: before == nil}
	if days := period(v.root.UnrecognizedFields, fieldExpiry); days > 0 {
		at := r.Expires.Add(-time.Duration(days) * day)
		r.SignedAbout = &at
	}
	signed := v.ring.signers(v.document)
	for _, h := range v.ring.keys {
		if name := l.who(h); !slices.Contains(r.Holders, name) {
			r.Holders = append(r.Holders, name)
			if signed[h.fingerprint] {
				r.SignedBy = append(r.SignedBy, name)
			}
		}
	}
	if before == nil {
		return r
	}
	r.Previous = len(before.ring.signers(v.document))
	was, is := before.ring.byKey(), v.ring.byKey()
	for _, h := range v.ring.keys {
		old, known := was[h.fingerprint]
		if known && old.id != h.id {
			r.Renamed = append(r.Renamed, l.who(h))
		}
		if known {
			continue
		}
		if o := slices.IndexFunc(before.ring.keys, func(o holder) bool {
			_, stays := is[o.fingerprint]
			return !stays && l.who(o) == l.who(h)
		}); o >= 0 {
			r.Replaced = append(r.Replaced, Replacement{l.who(h), before.ring.keys[o].id, h.id})
		} else {
			r.Joined = append(r.Joined, l.who(h))
		}
	}
	for _, o := range before.ring.keys {
		_, stays := is[o.fingerprint]
		if !stays && !slices.ContainsFunc(r.Replaced, func(x Replacement) bool { return x.From == o.id }) {
			r.Left = append(r.Left, l.who(o))
		}
	}
	r.Changes = l.changes(before, v)
	return r
}

// byKey returns the holders by the fingerprint of their key.
func (r ring) byKey() map[string]holder {
	out := map[string]holder{}
	for _, h := range r.keys {
		out[h.fingerprint] = h
	}
	return out
}

// changes tells in words what became of thresholds and of the keys of the other roles.
func (l *look) changes(before, v *version) []string {
	var out []string
	if before.ring.threshold != v.ring.threshold {
		out = append(out, fmt.Sprintf("root: threshold %d → %d", before.ring.threshold, v.ring.threshold))
	}
	rootDelta := l.delta(before.ring, v.ring)
	for _, role := range []string{metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		was, ok1 := rootRing(before.root, role)
		is, ok2 := rootRing(v.root, role)
		if !ok1 || !ok2 {
			continue
		}
		if was.threshold != is.threshold {
			out = append(out, fmt.Sprintf("%s: threshold %d → %d", role, was.threshold, is.threshold))
		}
		d := l.delta(was, is)
		if d == "" && role != metadata.TARGETS && !slices.EqualFunc(was.keys, is.keys, func(a, b holder) bool { return a.id == b.id }) {
			out = append(out, role+": the same key under a new id")
		}
		if d == "" || role == metadata.TARGETS && d == rootDelta {
			continue
		}
		out = append(out, role+": "+d)
	}
	if before.root.ConsistentSnapshot != v.root.ConsistentSnapshot {
		out = append(out, fmt.Sprintf("consistent snapshots: %t → %t", before.root.ConsistentSnapshot, v.root.ConsistentSnapshot))
	}
	return out
}

// delta says which keys a role lost and got.
func (l *look) delta(was, is ring) string {
	var lost, got []string
	before, after := was.byKey(), is.byKey()
	for _, h := range was.keys {
		if _, ok := after[h.fingerprint]; !ok {
			lost = append(lost, l.who(h))
		}
	}
	for _, h := range is.keys {
		if _, ok := before[h.fingerprint]; !ok {
			got = append(got, l.who(h))
		}
	}
	switch {
	case len(lost) == 0 && len(got) == 0:
		return ""
	case len(lost) == 0:
		return "+" + strings.Join(got, " +")
	case len(got) == 0:
		return "−" + strings.Join(lost, " −")
	}
	return "−" + strings.Join(lost, " −") + " +" + strings.Join(got, " +")
}
