package radar

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// unpublished looks at metadata/root.json. It returns the root in it when that waits for signatures: the next version,
// not in the history yet, or the last one with signatures still expected. One that is signed already joins the versions.
func (l *look) unpublished(ctx context.Context, versions map[int64]*version) *version {
	if l.layout() != Source {
		return nil
	}
	const name = "metadata/root.json"
	newest := int64(0)
	for n := range versions {
		newest = max(newest, n)
	}
	data, err := l.files.read(ctx, name, maxRoot)
	if err != nil {
		if newest > 0 {
			l.say(Notice, "missing", "root", "copy the newest root of the history there", "%s cannot be read (%v); root %d of the history is taken for it", name, err, newest)
		}
		return nil
	}
	v, err := l.parseRoot(name, data)
	if err != nil {
		l.say(Error, "malformed", "root", "restore the file from the history", "%s cannot be read: %v", name, err)
		return nil
	}
	there := versions[v.version]
	switch {
	case there != nil && !same(there.document, v.document):
		l.say(Error, "root-differs", "root", "find out who changed it: what is in the history was published", "%s is another root %d than the one in the history", name, v.version)
		return nil
	case there != nil && v.version == newest && v.waits() && !l.signed(versions[newest-1], v):
		delete(versions, newest)
		return v
	case there != nil && v.version < newest:
		l.say(Error, "root-differs", "root", "restore the newest root there", "%s is root %d, and the history has %d", name, v.version, newest)
		return nil
	case there != nil:
		return nil
	case newest > 0 && !l.signed(versions[v.version-1], v):
		return v
	}
	versions[v.version] = v
	return nil
}

func (l *look) layout() Layout { return l.files.layout }

// signed reports whether v has the signatures of the root before, if there is one, and its own.
func (l *look) signed(before, v *version) bool {
	return (before == nil || len(before.ring.signers(v.document)) >= before.ring.threshold) && len(v.ring.signers(v.document)) >= v.ring.threshold
}

// rootEvent tells who has yet to sign the next root.
func (l *look) rootEvent(current, next *version) {
	l.learn(next.ring)
	e := Event{Role: "root", Version: next.version}
	if current.version != next.version {
		e.Needs = append(e.Needs, l.need(fmt.Sprintf("root %d", current.version), current.ring, next.document))
	}
	e.Needs = append(e.Needs, l.need(fmt.Sprintf("root %d", next.version), next.ring, next.document))
	if next.version != current.version+1 {
		l.say(Error, "event-stale", "root", "propose it anew", "a root %d is being signed, and clients follow root %d to %d only", next.version, current.version, current.version+1)
	}
	l.event(e)
}

func (l *look) event(e Event) {
	e.Ready = !slices.ContainsFunc(e.Needs, func(n Need) bool { return len(n.Signed) < n.Threshold })
	l.Events = append(l.Events, e)
}

func (l *look) need(by string, r ring, d *document) Need {
	n := Need{By: by, Threshold: r.threshold, Signed: []string{}, Missing: []string{}}
	signed := r.signers(d)
	for _, h := range r.keys {
		name := l.who(h)
		switch {
		case slices.Contains(n.Signed, name) || slices.Contains(n.Missing, name):
		case signed[h.fingerprint]:
			n.Signed = append(n.Signed, name)
		default:
			n.Missing = append(n.Missing, name)
		}
	}
	return n
}

// openEvent looks at the metadata in event/, which waits for signatures. Each role is judged by what the event itself
// makes of the role above it.
func (l *look) openEvent(ctx context.Context, current *version) {
	if l.files.dir != nil {
		if _, err := l.files.dir.Stat("event/pending.json"); err == nil {
			l.say(Warning, "pending", "", "publish once more: it is finished then, without any key", "a publication was cut off")
		}
	}
	events := l.files.events()
	read := func(role, name string) *document {
		data, err := l.files.read(ctx, name, maxDeclared)
		if err == nil {
			var d *document
			if d, err = parse(name, data); err == nil {
				return d
			}
		}
		l.say(Warning, "malformed", role, "propose it anew, or withdraw the event", "%s cannot be read: %v", name, err)
		return nil
	}
	above := current
	if name, ok := events[metadata.ROOT]; ok {
		if d := read(metadata.ROOT, name); d != nil {
			if v, err := l.parseRoot(name, d.data); err != nil {
				l.say(Warning, "malformed", metadata.ROOT, "propose it anew, or withdraw the event", "%s cannot be read: %v", name, err)
			} else {
				above = v
				l.rootEvent(current, v)
			}
		}
	}
	for _, role := range slices.Sorted(maps.Keys(events)) {
		if role == metadata.ROOT {
			continue
		}
		d := read(role, events[role])
		if d == nil {
			continue
		}
		r, by, ok := ring{}, fmt.Sprintf("root %d", above.version), role == metadata.TARGETS
		if ok {
			r, ok = rootRing(above.root, role)
		} else {
			r, by, ok = l.delegated(ctx, role, events)
		}
		if !ok {
			l.say(Warning, "malformed", role, "propose it anew, or withdraw the event", "%s waits for signatures, and nobody delegates to %s", events[role], role)
			continue
		}
		l.learn(r)
		l.event(Event{Role: role, Version: d.version, Needs: []Need{l.need(by, r, d)}})
	}
}

// delegated returns the keys of a role, by the first role that delegates to it as clients go, in the event or else as it
// is published.
func (l *look) delegated(ctx context.Context, role string, events map[string]string) (ring, string, bool) {
	seen := map[string]bool{}
	for queue := []string{metadata.TARGETS}; len(queue) > 0 && len(seen) < maxDelegatedWeb; queue = queue[1:] {
		by := queue[0]
		name := events[by]
		if name == "" {
			name = l.files.role(by, 0, true)
		}
		if seen[by] {
			continue
		}
		seen[by] = true
		data, err := l.files.read(ctx, name, maxDeclared)
		if err != nil {
			continue
		}
		d, err := parse(name, data)
		if err != nil {
			continue
		}
		t, err := decode[metadata.TargetsType](d, by)
		if err != nil || t.Delegations == nil {
			continue
		}
		for _, x := range t.Delegations.Roles {
			if x.Name == role {
				return newRing(x.KeyIDs, t.Delegations.Keys, x.Threshold, x.UnrecognizedFields), fmt.Sprintf("%s %d", by, d.version), true
			}
			queue = append(queue, x.Name)
		}
	}
	return ring{}, "", false
}

// served compares what a source directory publishes with what was published last, where it is in the usual place.
func (l *look) served(ctx context.Context, timestamp *document) {
	if l.files.layout != Source || timestamp == nil {
		return
	}
	data, err := l.files.read(ctx, "published/timestamp.json", maxTimestamp)
	if err != nil {
		return // it is published elsewhere
	}
	d, err := parse("published/timestamp.json", data)
	switch {
	case err != nil:
		l.say(Error, "malformed", metadata.TIMESTAMP, "publish again", "published/timestamp.json cannot be read: %v", err)
	case !same(d, timestamp):
		l.say(Warning, "unpublished", metadata.TIMESTAMP, "publish again", "published/ has timestamp %d, and metadata/ has %d: clients do not see what is in metadata/", d.version, timestamp.version)
	}
}
