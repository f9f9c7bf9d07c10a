package tuf

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/reseal/reseal/signer"
)

// A Publication is what was published.
type Publication struct {
	Versions map[string]int64     `json:"versions"` // of every role that changed
	Expires  map[string]time.Time `json:"expires"`
	Files    []string             `json:"files"`  // written to the published directory, in their order
	Walked   []Walked             `json:"walked"` // the clients that reached it before it was published
	// Finished: it was published by a call that was cut off, and this one finished it; the rest is not known any more.
	Finished bool `json:"finished,omitempty"`
}

// Publish publishes the open event, when it has its signatures, with a snapshot and a timestamp by the online key.
//
// Nothing is written unless clients that start from every past root, and from what they cached of the last state, reach
// the new one. Files are written durably, timestamp.json last: until it is in place clients see the state before, from
// then on the new one; a new root appears in the same moment. A publication that was cut off at any point, even by
// kill -9, is finished by the next call of anything that changes the repository.
func (r *Repository) Publish(ctx context.Context, online signer.Signer) (*Publication, error) {
	var out *Publication
	cut, err := r.cutOff()
	if err != nil {
		return nil, fmt.Errorf("tuf: publish: %w", err)
	}
	err = r.change(ctx, func() error {
		s, err := r.load()
		if err != nil {
			return err
		}
		e, d, err := r.openEvent(s)
		if cut && errors.Is(err, ErrNoEvent) {
			out = &Publication{Finished: true}
			return nil
		}
		if err != nil {
			return err
		}
		c, err := r.check(e, d)
		if err != nil {
			return err
		}
		if err := notReady(c.Problems); err != nil {
			return err
		}
		clear, err := r.clearEvent()
		if err != nil {
			return err
		}
		out, err = r.publish(ctx, d, online, clear)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tuf: publish: %w", err)
	}
	return out, nil
}

// PublishRevocations adds or replaces targets (name → content) directly under revocations/, signed by the responders
// and the online key only, also while a signing event is open. With no files it renews the role's expiry. Its
// guarantees are those of Publish. There is no deleting, and what takes a published target's place is refused when the
// guard of [Options] says that something would be lost by it: responders can only widen what is revoked.
func (r *Repository) PublishRevocations(ctx context.Context, files map[string][]byte, responders []signer.Signer, online signer.Signer) (*Publication, error) {
	var out *Publication
	err := r.change(ctx, func() error {
		s, err := r.loadToExtend()
		if err != nil {
			return err
		}
		d, err := r.revoke(s, files)
		if err != nil {
			return err
		}
		if problems := d.expired(r.now()); len(problems) > 0 {
			return errors.New(problems[0])
		}
		doc, err := d.document(revocationsRole)
		if err != nil {
			return err
		}
		ring, err := d.ring(revocationsRole)
		if err != nil {
			return err
		}
		if err := sign(ctx, doc, ring, responders...); err != nil {
			return err
		}
		out, err = r.publish(ctx, d, online, nil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tuf: publish %s in %s: %w", revocationsRole, r.dir, err)
	}
	return out, nil
}

// CheckRevocations refuses the files that [Repository.PublishRevocations] would refuse, by their names or because they
// would narrow what is revoked.
func (r *Repository) CheckRevocations(files map[string][]byte) error {
	s, err := r.load()
	if err == nil && s.empty() {
		err = errNothingPublished
	}
	if err == nil {
		_, err = r.revoke(s, files)
	}
	if err != nil {
		return fmt.Errorf("tuf: publish %s in %s: %w", revocationsRole, r.dir, err)
	}
	return nil
}

// revoke makes a draft of the deny list with files in it.
func (r *Repository) revoke(s *state, files map[string][]byte) (*draft, error) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := checkRevocation(name); err != nil {
			return nil, err
		}
	}
	d := r.draft(s)
	m, err := d.edit(revocationsRole)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		was := m.Targets[name]
		if err := addTarget(m, name, files[name]); err != nil {
			return nil, err
		}
		d.files[name] = append([]byte{}, files[name]...)
		if was == nil || sameTarget(was, m.Targets[name]) {
			continue
		}
		lost, err := r.lost(d, name, was, m.Targets[name])
		if err != nil {
			return nil, err
		}
		if len(lost) > 0 {
			return nil, fmt.Errorf("%s is published, and in its place this one would narrow it: %s. Responders can only widen what is revoked: publish it under another name; to take something back, the holders of targets have to sign, too (a signing event)", name, strings.Join(lost, "; "))
		}
	}
	return d, nil
}

// publish makes a draft the published state. Its roles are signed.
func (r *Repository) publish(ctx context.Context, d *draft, online signer.Signer, and []step) (*Publication, error) {
	steps, next, out, err := r.prepare(ctx, d, online)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStopped, err)
	}
	if out.Walked, err = r.reachable(ctx, d, next, steps); err != nil {
		return nil, fmt.Errorf("%w: %w", errStopped, err)
	}
	for _, s := range steps {
		if s.In == inPublished {
			out.Files = append(out.Files, s.Name)
		}
	}
	return out, r.commit(ctx, append(steps, and...))
}

// prepare makes, in memory, the files that publish a draft, in the order they are to be written, and the state that they
// make.
func (r *Repository) prepare(ctx context.Context, d *draft, online signer.Signer) ([]step, *state, *Publication, error) {
	steps, next, out, err := r.prepareRoles(d)
	if err != nil {
		return nil, nil, nil, err
	}
	data, err := r.signSnapshot(ctx, d, next.Snapshot, online)
	if err != nil {
		return nil, nil, nil, err
	}
	out.Versions[metadata.SNAPSHOT], out.Expires[metadata.SNAPSHOT] = next.Snapshot.Signed.Version, next.Snapshot.Signed.Expires
	steps.source = append(steps.source, write(inSource, roleFile(metadata.SNAPSHOT), data))
	steps.published = append(steps.published, write(inPublished, versioned(metadata.SNAPSHOT, next.Snapshot.Signed.Version), data))

	next.Timestamp.Signed.Meta["snapshot.json"] = metaFile(next.Snapshot.Signed.Version, data)
	if data, err = r.signTimestamp(ctx, d, next.Timestamp, online); err != nil {
		return nil, nil, nil, err
	}
	out.Versions[metadata.TIMESTAMP], out.Expires[metadata.TIMESTAMP] = next.Timestamp.Signed.Version, next.Timestamp.Signed.Expires
	steps.source = append(steps.source, write(inSource, roleFile(metadata.TIMESTAMP), data))
	published := append(r.only(steps.published), append(steps.root, reveal("timestamp.json", data))...)
	return append(steps.source, published...), next, out, nil
}

// next is the state that a draft will be, its snapshot and timestamp still to be made from those before.
func (d *draft) next() *state {
	s := newState(d.read)
	s.Root, s.first, s.start, s.roots = d.rootView(), d.first, d.start, slices.Clone(d.roots)
	s.Snapshot, s.Timestamp = metadata.Snapshot(), metadata.Timestamp()
	if d.empty() {
		s.first, s.start = s.Root.Signed.Version, s.Root.Signed.Version
		s.Snapshot.Signed.Version, s.Timestamp.Signed.Version = 0, 0
		s.Snapshot.Signed.Meta, s.Timestamp.Signed.Meta = map[string]*metadata.MetaFiles{}, map[string]*metadata.MetaFiles{}
	} else {
		*s.Snapshot, *s.Timestamp = *d.Snapshot, *d.Timestamp
		s.Snapshot.Signed.Meta, s.Timestamp.Signed.Meta = maps.Clone(d.Snapshot.Signed.Meta), maps.Clone(d.Timestamp.Signed.Meta)
		maps.Copy(s.Targets, d.Targets)
	}
	maps.Copy(s.Targets, d.roles)
	return s
}

type prepared struct{ source, published, root []step }

func (r *Repository) prepareRoles(d *draft) (out prepared, next *state, p *Publication, err error) {
	p = &Publication{Versions: map[string]int64{}, Expires: map[string]time.Time{}}
	next = d.next()
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		if d.event {
			out.source = append(out.source, move(eventTarget(name), targetsDir+"/"+name, d.files[name]))
		} else {
			out.source = append(out.source, write(inSource, targetsDir+"/"+name, d.files[name]))
		}
		out.published = append(out.published, write(inPublished, publishedTarget(name, d.files[name]), d.files[name]))
	}
	for _, role := range d.changed() {
		doc, err := d.document(role)
		if err != nil {
			return out, nil, nil, err
		}
		rings, err := d.rings(role)
		if err != nil {
			return out, nil, nil, err
		}
		doc.keep(rings...) // what does not count is not published
		data, err := doc.encode()
		if err != nil {
			return out, nil, nil, err
		}
		p.Versions[role] = doc.version
		if role == metadata.ROOT {
			p.Expires[role] = d.root.Signed.Expires
			next.roots = append(next.roots, data)
			out.source = append(out.source, write(inSource, historyFile(doc.version), data), write(inSource, roleFile(role), data))
			out.root = append(out.root, reveal(versioned(role, doc.version), data))
			continue
		}
		p.Expires[role] = d.roles[role].Signed.Expires
		next.Snapshot.Signed.Meta[role+".json"] = metaFile(doc.version, data)
		out.source = append(out.source, write(inSource, roleFile(role), data))
		out.published = append(out.published, write(inPublished, versioned(role, doc.version), data))
	}
	out.source = append(out.source, r.gone(d)...)
	return out, next, p, nil
}

// gone lists the target files that no role lists any more. Only the repository's own copy goes: clients that have not
// refreshed still ask for the published one.
func (r *Repository) gone(d *draft) []step {
	var out []step
	for _, role := range d.changed() {
		old := d.Targets[role]
		if role == metadata.ROOT || old == nil {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(old.Signed.Targets)) {
			if d.roles[role].Signed.Targets[name] != nil || d.files[name] != nil || checkName(name) != nil {
				continue
			}
			if by, err := d.roleFor(name); err == nil {
				if m, err := d.get(by, ""); err == nil && m.Signed.Targets[name] != nil {
					continue // it has moved
				}
			}
			out = append(out, remove(inSource, targetsDir+"/"+name))
		}
	}
	return out
}

// signSnapshot makes the next snapshot of m.
func (r *Repository) signSnapshot(ctx context.Context, d *draft, m *metadata.Metadata[metadata.SnapshotType], online signer.Signer) ([]byte, error) {
	var err error
	if m.Signed.Version, err = nextVersion(metadata.SNAPSHOT, m.Signed.Version); err != nil {
		return nil, err
	}
	m.Signed.Expires = r.expiry(d.period(metadata.SNAPSHOT).expiry())
	return signRole(ctx, d, metadata.SNAPSHOT, m, online)
}

func (r *Repository) signTimestamp(ctx context.Context, d *draft, m *metadata.Metadata[metadata.TimestampType], online signer.Signer) ([]byte, error) {
	var err error
	if m.Signed.Version, err = nextVersion(metadata.TIMESTAMP, m.Signed.Version); err != nil {
		return nil, err
	}
	m.Signed.Expires = r.expiry(d.period(metadata.TIMESTAMP).expiry())
	return signRole(ctx, d, metadata.TIMESTAMP, m, online)
}

func signRole[T metadata.Roles](ctx context.Context, d *draft, role string, m *metadata.Metadata[T], online signer.Signer) ([]byte, error) {
	ring, err := d.ring(role)
	if err != nil {
		return nil, err
	}
	doc, err := newDocument(role, m)
	if err != nil {
		return nil, err
	}
	if online == nil {
		return nil, fmt.Errorf("no online signer was given: %s signs %s", ring.names(), role)
	}
	if err := sign(ctx, doc, ring, online); err != nil {
		return nil, err
	}
	return doc.encode()
}

// reachable walks clients to what a draft will be.
func (r *Repository) reachable(ctx context.Context, d *draft, next *state, steps []step) ([]Walked, error) {
	if !d.empty() {
		for name := range d.Snapshot.Signed.Meta {
			if next.Snapshot.Signed.Meta[name] == nil {
				return nil, fmt.Errorf("clients would refuse the result: the snapshot no longer lists %s", name)
			}
		}
	}
	w := walk{before: d.state, after: next, want: d.files, published: r.willBe(steps)}
	for _, role := range d.changed() {
		if old := d.Targets[role]; role != metadata.ROOT && old != nil {
			for name := range old.Signed.Targets {
				if by, err := d.roleFor(name); err == nil && d.roles[role].Signed.Targets[name] == nil {
					if m, err := d.get(by, ""); err != nil || m.Signed.Targets[name] == nil {
						w.gone = append(w.gone, name)
					}
				}
			}
		}
		if role != metadata.ROOT && role != metadata.TARGETS {
			w.roles = append(w.roles, role)
		}
	}
	slices.SortFunc(w.gone, strings.Compare)
	return r.walk(ctx, w)
}
