package tuf

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

const (
	eventDir    = "event"
	eventFile   = "event/event.json" // what makes an event: without it the rest of event/ is nobody's
	eventSchema = "reseal.tuf-event/v1"
)

// A Proposal is what a signing event is to change.
type Proposal struct {
	By, Reason string // who proposes, and why: shown to those who are asked to sign
	Changes    []Change
	// Accept names the targets and roles whose loss is meant: without it, an event that would make something stop
	// verifying is refused with a [LossError].
	Accept []string
}

// An Event is a signing event: changed metadata on its way to the signatures it needs. There is one at a time.
type Event struct {
	ID       string    `json:"id"` // changes with whatever there is to sign
	By       string    `json:"by,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Opened   time.Time `json:"opened"`
	Roles    []string  `json:"roles"` // that are to be signed
	Accepted []Loss    `json:"accepted,omitempty"`
	Dropped  []string  `json:"dropped,omitempty"` // signatures that no longer fit after this amendment: "root by @alice (…)"
}

// A Loss is what would stop verifying, or a key that would be trusted again.
type Loss struct {
	Name string   `json:"name"` // of the target or role
	What []string `json:"what"`
}

// LossError is returned for a proposal that would make something stop verifying without saying that it is meant.
type LossError struct {
	Losses []Loss
}

func (e *LossError) Error() string {
	var lines []string
	for _, l := range e.Losses {
		lines = append(lines, l.Name+": "+strings.Join(l.What, "; "))
	}
	return "something would stop verifying, or be trusted again: " + strings.Join(lines, ". ") + ". If that is meant, accept it by name"
}

var (
	// ErrNoEvent is returned where an open signing event is needed.
	ErrNoEvent = errors.New("no signing event is open: propose one")
	// ErrEventOpen is returned for a second signing event.
	ErrEventOpen = errors.New("a signing event is open already")
)

// eventState is what event.json holds. The changed metadata and target files lie beside it, as tuf-on-ci has them.
type eventState struct {
	Schema   string           `json:"schema"`
	ID       string           `json:"id"`
	By       string           `json:"by,omitempty"`
	Reason   string           `json:"reason,omitempty"`
	Opened   time.Time        `json:"opened"`
	Roles    []string         `json:"roles"`
	Base     map[string]int64 `json:"base"`            // the published version that each was made from; 0: none
	Files    []string         `json:"files,omitempty"` // new target files, by target name
	Accepted []Loss           `json:"accepted,omitempty"`
}

func (s eventState) check() error {
	if s.Schema != eventSchema {
		return fmt.Errorf("%s: schema %q: this version reads %s", eventFile, s.Schema, eventSchema)
	}
	if len(s.Roles) == 0 {
		return fmt.Errorf("%s: names no roles", eventFile)
	}
	for i, role := range s.Roles {
		if role != metadata.ROOT && role != metadata.TARGETS {
			if err := checkRole(role); err != nil {
				return fmt.Errorf("%s: %w", eventFile, err)
			}
		}
		if slices.Contains(s.Roles[:i], role) {
			return fmt.Errorf("%s: names role %q twice", eventFile, role)
		}
	}
	for _, name := range s.Files {
		if err := checkName(name); err != nil {
			return fmt.Errorf("%s: target %q: %w", eventFile, name, err)
		}
	}
	return nil
}

// parseEvent reads event.json strictly: it is written by this program alone.
func parseEvent(data []byte) (eventState, error) {
	var s eventState
	if err := strictJSON(data, &s); err != nil {
		return s, fmt.Errorf("%s: %w", eventFile, err)
	}
	return s, s.check()
}

// strictJSON refuses unknown fields and anything after the value.
func strictJSON(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if dec.More() {
		return errors.New("there is more after the end")
	}
	return nil
}

func eventRoleFile(role string) string { return eventDir + "/" + metadataDir + "/" + role + ".json" }

func eventTarget(name string) string { return eventDir + "/" + targetsDir + "/" + name }

// openEvent reads the open event as a draft of what it changes. Placeholders are taken off.
func (r *Repository) openEvent(s *state) (eventState, *draft, error) {
	data, err := r.read(eventFile)
	if errors.Is(err, fs.ErrNotExist) {
		return eventState{}, nil, ErrNoEvent
	}
	if err != nil {
		return eventState{}, nil, err
	}
	e, err := parseEvent(data)
	if err != nil {
		return e, nil, err
	}
	d := r.draft(s)
	d.event = true
	for _, role := range e.Roles {
		name := eventRoleFile(role)
		data, err := r.read(name)
		if err != nil {
			return e, nil, fmt.Errorf("%s: %w; restore it or withdraw the event", name, err)
		}
		var signatures *[]metadata.Signature
		if role == metadata.ROOT {
			d.root, err = parseRoot(data)
			if err == nil {
				signatures = &d.root.Signatures
			}
		} else {
			d.roles[role], err = parseTargets(data)
			if err == nil {
				signatures = &d.roles[role].Signatures
			}
		}
		if err != nil {
			return e, nil, fmt.Errorf("%s: %w; restore it or withdraw the event", name, err)
		}
		*signatures = slices.DeleteFunc(*signatures, func(s metadata.Signature) bool { return len(s.Signature) == 0 })
	}
	if d.rootView() == nil {
		return e, nil, fmt.Errorf("%s: there is no root, published or proposed", eventFile)
	}
	for _, name := range e.Files {
		data, err := r.read(eventTarget(name))
		if err != nil {
			return e, nil, fmt.Errorf("%s: %w; restore it or withdraw the event", eventTarget(name), err)
		}
		d.files[name] = data
	}
	d.seal()
	if id, err := d.id(e.By, e.Reason); err != nil {
		return e, nil, err
	} else if id != e.ID {
		return e, nil, fmt.Errorf("the event's metadata is not what was proposed (%s, now %s): restore the directory %s or withdraw the event", e.ID, id, eventDir)
	}
	return e, d, nil
}

// Event returns the open signing event, or ErrNoEvent.
func (r *Repository) Event() (*Event, error) {
	s, err := r.load()
	if err != nil {
		return nil, fmt.Errorf("tuf: event: %w", err)
	}
	e, _, err := r.openEvent(s)
	if err != nil {
		return nil, fmt.Errorf("tuf: event: %w", err)
	}
	return e.event(), nil
}

func (s eventState) event() *Event {
	return &Event{ID: s.ID, By: s.By, Reason: s.Reason, Opened: s.Opened, Roles: s.Roles, Accepted: s.Accepted}
}

// Propose opens a signing event with all of its changes. Nothing that clients see changes before it is published. It is
// refused while another event is open, and when its result would be no sound repository; nothing is written then.
func (r *Repository) Propose(ctx context.Context, p Proposal) (*Event, error) {
	var out *Event
	err := r.change(ctx, func() error {
		s, err := r.load()
		if err != nil {
			return err
		}
		if e, _, err := r.openEvent(s); err == nil {
			return fmt.Errorf("%w: %s, since %s, for %s: publish or withdraw it, or amend it", ErrEventOpen, e.ID, e.Opened.Format(time.RFC3339), list(e.Roles))
		} else if !errors.Is(err, ErrNoEvent) {
			return err
		}
		if s.empty() {
			return errors.New("nothing was published yet: propose the first state with init")
		}
		out, err = r.propose(ctx, eventState{Opened: r.now().UTC().Truncate(time.Second)}, r.draft(s), p)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tuf: propose: %w", err)
	}
	return out, nil
}

// Amend makes further changes to the open event. Signatures that no longer fit are dropped, and named.
func (r *Repository) Amend(ctx context.Context, p Proposal) (*Event, error) {
	var out *Event
	err := r.change(ctx, func() error {
		s, err := r.load()
		if err != nil {
			return err
		}
		e, d, err := r.openEvent(s)
		if err != nil {
			return err
		}
		if e.Roles == nil {
			return ErrNoEvent
		}
		if stale := e.stale(s); len(stale) > 0 {
			return errors.New(stale[0])
		}
		out, err = r.propose(ctx, e, d, p)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tuf: amend: %w", err)
	}
	return out, nil
}

// stale says which roles were published since the event was made from them.
func (s eventState) stale(published *state) []string {
	var out []string
	for _, role := range s.Roles {
		if now := publishedVersion(published, role); now != s.Base[role] {
			out = append(out, fmt.Sprintf("%s was published as version %d since this event was made from version %d: withdraw the event and propose it again", role, now, s.Base[role]))
		}
	}
	return out
}

// publishedVersion is the newest version that clients may have seen of a role, 0 when there is none.
func publishedVersion(s *state, role string) int64 {
	switch {
	case s.empty():
		return 0
	case role == metadata.ROOT:
		return s.Root.Signed.Version
	}
	if m := s.Snapshot.Signed.Meta[role+".json"]; m != nil {
		return m.Version
	}
	return 0
}

// propose applies the changes to a draft and stores it as the event.
func (r *Repository) propose(ctx context.Context, e eventState, d *draft, p Proposal) (*Event, error) {
	if len(p.Changes) == 0 {
		return nil, errors.New("no changes were given")
	}
	for _, c := range p.Changes {
		if err := c.apply(d); err != nil {
			return nil, err
		}
	}
	if err := d.validate(); err != nil {
		return nil, err
	}
	losses, err := r.losses(d)
	if err != nil {
		return nil, err
	}
	var refused []Loss
	for _, l := range losses {
		accepted := slices.Contains(p.Accept, l.Name) || slices.ContainsFunc(e.Accepted, func(a Loss) bool { return a.Name == l.Name && slices.Equal(a.What, l.What) })
		if !accepted {
			refused = append(refused, l)
		}
	}
	if len(refused) > 0 {
		return nil, &LossError{refused}
	}
	e.Accepted = losses
	if slices.ContainsFunc(losses, func(l Loss) bool { return strings.HasPrefix(l.Name, revocationsPrefix) }) {
		// Responders can only widen what is revoked: whoever takes something back needs the holders of targets, too.
		if _, err := d.edit(metadata.TARGETS); err != nil {
			return nil, err
		}
	}
	if p.By != "" || p.Reason != "" {
		e.By, e.Reason = p.By, p.Reason
	}
	return r.store(ctx, e, d)
}

// losses says what would stop verifying.
func (r *Repository) losses(d *draft) ([]Loss, error) {
	var out []Loss
	for _, role := range d.changed() {
		if role == metadata.ROOT {
			continue
		}
		before := &targetsMeta{} // of a new one
		if !d.empty() {
			m, err := d.state.role(role)
			if err == nil {
				before = m
			} else if !errors.Is(err, errNoRole) {
				return nil, err
			}
		}
		if r.guard != nil {
			now := d.roles[role].Signed.Targets
			for _, name := range slices.Sorted(maps.Keys(now)) {
				if before.Signed.Targets[name] != nil {
					continue
				}
				data, err := d.content(name, now[name])
				if err != nil {
					return nil, err
				}
				if what := r.guard(name, nil, data); len(what) > 0 {
					out = append(out, Loss{name, what})
				}
			}
		}
		for _, name := range slices.Sorted(maps.Keys(before.Signed.Targets)) {
			old, now := before.Signed.Targets[name], d.roles[role].Signed.Targets[name]
			if now != nil && sameTarget(old, now) {
				continue
			}
			if now == nil {
				by, err := d.roleFor(name)
				if err != nil {
					return nil, err
				}
				if m, err := d.get(by, ""); err == nil {
					now = m.Signed.Targets[name] // it may have moved
				}
			}
			what, err := r.lost(d, name, old, now)
			if err != nil {
				return nil, err
			}
			if len(what) > 0 {
				out = append(out, Loss{name, what})
			}
		}
		if before.Signed.Delegations == nil {
			continue
		}
		for _, was := range before.Signed.Delegations.Roles {
			if delegation(d.roles[role], was.Name) == nil {
				out = append(out, Loss{was.Name, []string{"the role is removed: nothing under " + list(was.Paths) + " that it lists will verify"}})
			}
		}
	}
	for _, b := range d.back {
		ring, err := d.ring(b.role)
		if err != nil || !slices.Contains(ring.ids, b.id) {
			continue // taken out again by the same event
		}
		if i := slices.IndexFunc(out, func(l Loss) bool { return l.Name == b.role }); i >= 0 {
			out[i].What = append(out[i].What, b.what)
		} else {
			out = append(out, Loss{b.role, []string{b.what}})
		}
	}
	return out, nil
}

// takesBack says what of the deny list the event takes back without the holders of targets. Propose asks for them; this is
// for an event that was made by other means.
func (r *Repository) takesBack(d *draft) ([]string, error) {
	if d.roles[revocationsRole] == nil || d.roles[metadata.TARGETS] != nil || d.empty() {
		return nil, nil
	}
	losses, err := r.losses(d)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, l := range losses {
		if strings.HasPrefix(l.Name, revocationsPrefix) {
			out = append(out, fmt.Sprintf("%s: %s: responders can only widen what is revoked; withdraw the event and propose it again, so that the holders of targets sign it, too", visible(l.Name), strings.Join(l.What, "; ")))
		}
	}
	return out, nil
}

func sameTarget(a, b *metadata.TargetFiles) bool {
	return a.Length == b.Length && maps.EqualFunc(a.Hashes, b.Hashes, func(x, y metadata.HexBytes) bool { return string(x) == string(y) })
}

func (r *Repository) lost(d *draft, name string, old, now *metadata.TargetFiles) ([]string, error) {
	if now != nil && r.guard == nil {
		return nil, nil
	}
	var out []string
	if now == nil {
		out = []string{"the target is removed"}
	}
	if r.guard == nil {
		return out, nil
	}
	before, err := r.target(name, old)
	if err != nil {
		return append(out, "its present content is not to be had, so that nobody can say what would stop verifying"), nil
	}
	var after []byte
	if now != nil {
		if after, err = d.content(name, now); err != nil {
			return nil, err
		}
	}
	return append(out, r.guard(name, before, after)...), nil
}

// store writes the draft as the open event, all of it or nothing.
func (r *Repository) store(ctx context.Context, e eventState, d *draft) (*Event, error) {
	if alike := r.alike(d); len(alike) > 0 {
		return nil, errors.New(alike[0])
	}
	old := e
	e.Schema, e.Roles, e.Base = eventSchema, d.changed(), map[string]int64{}
	if len(e.Roles) == 0 {
		return nil, errors.New("nothing would change")
	}
	var err error
	if e.ID, err = d.id(e.By, e.Reason); err != nil {
		return nil, err
	}
	e.Files = slices.Sorted(maps.Keys(d.files))
	event := e.event()
	var steps []step
	for _, role := range e.Roles {
		e.Base[role] = publishedVersion(d.state, role)
		data, dropped, err := r.encode(d, role)
		if err != nil {
			return nil, err
		}
		event.Dropped = append(event.Dropped, dropped...)
		steps = append(steps, write(inSource, eventRoleFile(role), data))
	}
	var targets []step // as publishing will write them
	for _, name := range e.Files {
		steps = append(steps, write(inSource, eventTarget(name), d.files[name]))
		targets = append(targets, write(inSource, targetsDir+"/"+name, d.files[name]))
	}
	if err := r.room(targets); err != nil {
		return nil, err
	}
	for _, role := range old.Roles {
		if !slices.Contains(e.Roles, role) {
			steps = append(steps, remove(inSource, eventRoleFile(role)))
		}
	}
	for _, name := range old.Files {
		if d.files[name] == nil {
			steps = append(steps, remove(inSource, eventTarget(name)))
		}
	}
	data, err := json.MarshalIndent(e, "", " ")
	if err != nil {
		return nil, err
	}
	steps = append(steps, write(inSource, eventFile, append(data, '\n')))
	return event, r.commit(ctx, steps)
}

// encode returns a changed role as it lies in the event: with the signatures that fit, and a placeholder for each that
// is missing.
func (r *Repository) encode(d *draft, role string) (data []byte, dropped []string, err error) {
	doc, err := d.document(role)
	if err != nil {
		return nil, nil, err
	}
	rings, err := d.rings(role)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range doc.keep(rings...) {
		name := visible(id[:min(len(id), 12)])
		for _, ring := range rings {
			if ring.keys[id] != nil {
				name = keyName(id, ring.keys[id])
			}
		}
		dropped = append(dropped, role+" by "+name)
	}
	kept := slices.Clone(*doc.signatures)
	doc.invite(rings...)
	data, err = doc.encode()
	*doc.signatures = kept
	return data, dropped, err
}

// Withdraw ends the open event without a trace: nothing of it was ever published. It is refused once the publication of
// the event has begun.
func (r *Repository) Withdraw(ctx context.Context) error {
	err := r.change(ctx, func() error {
		if _, err := r.read(eventFile); errors.Is(err, fs.ErrNotExist) {
			return ErrNoEvent
		}
		steps, err := r.clearEvent()
		if err != nil {
			return err
		}
		return r.commit(ctx, steps)
	})
	if err != nil {
		return fmt.Errorf("tuf: withdraw: %w", err)
	}
	return nil
}

// clearEvent lists what removes every file of the event, the one that makes it an event first. It also clears an event
// whose files are damaged.
func (r *Repository) clearEvent() ([]step, error) {
	steps := []step{remove(inSource, eventFile)}
	for _, sub := range []string{metadataDir, targetsDir} {
		at := filepath.Join(r.dir, eventDir, sub)
		err := filepath.WalkDir(at, func(p string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || e.IsDir() {
				return err
			}
			rel, err := filepath.Rel(r.dir, p)
			if err == nil {
				steps = append(steps, remove(inSource, filepath.ToSlash(rel)))
			}
			return err
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return steps, nil
}
