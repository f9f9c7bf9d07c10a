package tuf

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A Change is one thing that a signing event changes.
type Change interface {
	apply(*draft) error
}

// AddHolder gives a person a key of a role.
type AddHolder struct {
	Role   string
	Holder Holder
}

// RemoveHolder takes the keys of a person from a role.
type RemoveHolder struct {
	Role string
	Name string // "@alice", or the key id of a key that has no owner
}

// ReplaceKey gives a person a new key in place of the old, in every role that has it.
type ReplaceKey struct {
	Holder Holder
}

// SetThreshold says how many holders of a role must sign.
type SetThreshold struct {
	Role      string
	Threshold int
}

// SetPeriod says how long signatures of a role last.
type SetPeriod struct {
	Role   string
	Period Period
}

// SetOnline replaces the key that signs snapshot and timestamp. It makes clients drop the snapshot and timestamp they
// have (5.3.11), which is what heals those that saw a fast-forward attack with the old key.
type SetOnline struct {
	Online Online
}

// AddRole delegates paths to a new role.
type AddRole struct {
	Name        string
	Parent      string   // empty: targets
	Paths       []string // patterns; a wildcard stays within one directory
	Terminating bool     // no later role can speak for these paths
	Holders     []Holder
	Threshold   int
	Period      Period // zero: 365 days, due 60 before
	// BinBits spreads the role's targets over 2^BinBits bins by hash (succinct_roles, TAP 15), held by the same people.
	// Each file is then as small as its bin, however many targets there are. Zero: no bins.
	BinBits int
}

// RemoveRole ends a delegation. The snapshot goes on listing the role, as clients demand.
type RemoveRole struct {
	Name string
}

// SetTarget adds or replaces a target.
type SetTarget struct {
	Name   string
	Data   []byte
	Role   string          // empty: the role that clients ask for it; another one is refused, since they would not find it
	Custom json.RawMessage // what to publish beside it; nil keeps what there is
}

// RemoveTarget removes a target.
type RemoveTarget struct {
	Name string
	Role string // empty: the role that clients get it from
}

// Renew signs a role again as it is, for another period.
type Renew struct {
	Role string
}

// Restore makes a role what it was in known metadata, with a new version: all of it but version and expiry. It is how
// malicious targets are undone. The known metadata must be signed as it had to be at one time in the repository's past,
// and the target files be in one of the directories. That a key comes back with it which holds a role no longer needs a
// word: see [Proposal].
type Restore struct {
	Role  string
	Known []byte // metadata that the role had before
}

// group is a role's entry at its delegator.
type group struct {
	ids       *[]string
	threshold *int
	keys      map[string]*metadata.Key
}

func onlineRole(role string) bool { return role == metadata.SNAPSHOT || role == metadata.TIMESTAMP }

// group returns a role's holders to change.
func (d *draft) group(role string) (group, error) {
	switch role {
	case metadata.SNAPSHOT, metadata.TIMESTAMP:
		return group{}, fmt.Errorf("role %q is held by the online key, not by people: set the online key instead", role)
	case metadata.ROOT, metadata.TARGETS:
		root, err := d.editRoot()
		if err != nil {
			return group{}, err
		}
		r := root.Roles[role]
		return group{&r.KeyIDs, &r.Threshold, root.Keys}, nil
	}
	by, err := d.delegator(role)
	if err != nil {
		return group{}, err
	}
	m, err := d.edit(by)
	if err != nil {
		return group{}, err
	}
	g := m.Delegations
	for i := range g.Roles {
		if g.Roles[i].Name == role {
			return group{&g.Roles[i].KeyIDs, &g.Roles[i].Threshold, g.Keys}, nil
		}
	}
	return group{&g.SuccinctRoles.KeyIDs, &g.SuccinctRoles.Threshold, g.Keys}, nil
}

// bins returns the entry of a role's bins, which the same people hold, and false when it has none.
func (d *draft) bins(role string) (group, bool, error) {
	if role == metadata.ROOT || role == metadata.TARGETS {
		return group{}, false, nil
	}
	m, err := d.get(role, "")
	if err != nil || m.Signed.Delegations == nil || m.Signed.Delegations.SuccinctRoles == nil {
		return group{}, false, err
	}
	s, err := d.edit(role)
	if err != nil {
		return group{}, false, err
	}
	g := s.Delegations
	return group{&g.SuccinctRoles.KeyIDs, &g.SuccinctRoles.Threshold, g.Keys}, true, nil
}

// groups returns a role's entry and that of its bins.
func (d *draft) groups(role string) ([]group, error) {
	g, err := d.group(role)
	if err != nil {
		return nil, err
	}
	out := []group{g}
	b, ok, err := d.bins(role)
	if ok {
		out = append(out, b)
	}
	return out, err
}

func (c AddHolder) apply(d *draft) error {
	id, key, err := c.Holder.publish()
	if err != nil {
		return err
	}
	groups, err := d.groups(c.Role)
	if err != nil {
		return err
	}
	for _, g := range groups {
		for _, had := range *g.ids {
			if ownerOf(g.keys[had]) == c.Holder.Name {
				return fmt.Errorf("%s is a holder of role %q already, with key %s: replace their key instead", c.Holder.Name, c.Role, keyName(had, g.keys[had]))
			}
		}
		g.keys[id] = key
		*g.ids = append(*g.ids, id)
	}
	return nil
}

func (c RemoveHolder) apply(d *draft) error {
	groups, err := d.groups(c.Role)
	if err != nil {
		return err
	}
	for _, g := range groups {
		before := len(*g.ids)
		*g.ids = slices.DeleteFunc(*g.ids, func(id string) bool { return id == c.Name || ownerOf(g.keys[id]) == c.Name })
		if len(*g.ids) == before {
			return fmt.Errorf("%s is no holder of role %q", c.Name, c.Role)
		}
	}
	return nil
}

func (c ReplaceKey) apply(d *draft) error {
	id, key, err := c.Holder.publish()
	if err != nil {
		return err
	}
	done := false
	replace := func(ids []string, keys map[string]*metadata.Key) error {
		for i, had := range ids {
			if ownerOf(keys[had]) != c.Holder.Name {
				continue
			}
			if had == id {
				return fmt.Errorf("%s has this very key already", c.Holder.Name)
			}
			keys[id] = key
			ids[i] = id
			done = true
		}
		return nil
	}
	has := func(ids []string, keys map[string]*metadata.Key) bool {
		return slices.ContainsFunc(ids, func(id string) bool { return ownerOf(keys[id]) == c.Holder.Name })
	}
	for _, r := range d.rootView().Signed.Roles {
		if !has(r.KeyIDs, d.rootView().Signed.Keys) {
			continue
		}
		root, err := d.editRoot()
		if err != nil {
			return err
		}
		for _, r := range root.Roles {
			if err := replace(r.KeyIDs, root.Keys); err != nil {
				return err
			}
		}
		break
	}
	var roles []string
	if err := d.each(func(role string, m *targetsMeta) error {
		g := m.Signed.Delegations
		if g != nil && (slices.ContainsFunc(g.Roles, func(r metadata.DelegatedRole) bool { return has(r.KeyIDs, g.Keys) }) ||
			g.SuccinctRoles != nil && has(g.SuccinctRoles.KeyIDs, g.Keys)) {
			roles = append(roles, role)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, role := range roles {
		m, err := d.edit(role)
		if err != nil {
			return err
		}
		for _, r := range m.Delegations.Roles {
			if err := replace(r.KeyIDs, m.Delegations.Keys); err != nil {
				return err
			}
		}
		if s := m.Delegations.SuccinctRoles; s != nil {
			if err := replace(s.KeyIDs, m.Delegations.Keys); err != nil {
				return err
			}
		}
	}
	if !done {
		return fmt.Errorf("%s is no holder of any role: add them to one instead", c.Holder.Name)
	}
	return nil
}

func (c SetThreshold) apply(d *draft) error {
	if c.Threshold < 1 {
		return fmt.Errorf("threshold %d for role %q: it must be at least 1", c.Threshold, c.Role)
	}
	groups, err := d.groups(c.Role)
	if err != nil {
		return err
	}
	for _, g := range groups {
		*g.threshold = c.Threshold
	}
	return nil
}

func (c SetPeriod) apply(d *draft) error {
	if err := c.Period.check(c.Role); err != nil {
		return err
	}
	var fields *map[string]any
	switch {
	case onlineRole(c.Role):
		root, err := d.editRoot()
		if err != nil {
			return err
		}
		fields = &root.Roles[c.Role].UnrecognizedFields
	case c.Role == metadata.ROOT:
		root, err := d.editRoot()
		if err != nil {
			return err
		}
		fields = &root.UnrecognizedFields
		root.Expires = d.expiry(c.Period.expiry())
	default:
		m, err := d.edit(c.Role)
		if err != nil {
			return err
		}
		fields = &m.UnrecognizedFields
		m.Expires = d.expiry(c.Period.expiry())
	}
	if *fields == nil {
		*fields = map[string]any{}
	}
	maps.Copy(*fields, c.Period.fields())
	return nil
}

func (c SetOnline) apply(d *draft) error {
	id, key, err := c.Online.publish()
	if err != nil {
		return err
	}
	root, err := d.editRoot()
	if err != nil {
		return err
	}
	root.Keys[id] = key
	for _, role := range []string{metadata.SNAPSHOT, metadata.TIMESTAMP} {
		if slices.Equal(root.Roles[role].KeyIDs, []string{id}) {
			return errors.New("this is the online key already")
		}
		root.Roles[role].KeyIDs, root.Roles[role].Threshold = []string{id}, 1
	}
	return nil
}

// maxBinBits bounds the bins of one role: every one is listed in the snapshot, of which clients read 2 MB.
const maxBinBits = 12

func (c AddRole) apply(d *draft) error {
	if err := checkRole(c.Name); err != nil {
		return err
	}
	if c.Parent == "" {
		c.Parent = metadata.TARGETS
	}
	if c.Period == (Period{}) {
		c.Period = otherPeriod
	}
	if err := c.Period.check(c.Name); err != nil {
		return err
	}
	if _, err := d.delegator(c.Name); !errors.Is(err, errNoRole) {
		if err == nil {
			err = fmt.Errorf("role %q exists already", c.Name)
		}
		return err
	}
	if len(c.Paths) == 0 {
		return fmt.Errorf("role %q: give the paths that it may publish", c.Name)
	}
	for _, p := range c.Paths {
		if err := checkName(strings.NewReplacer("*", "x", "?", "x").Replace(p)); err != nil {
			return fmt.Errorf("path %q of role %q: %w", p, c.Name, err)
		}
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("path %q of role %q: %w", p, c.Name, err)
		}
		if ok, _ := path.Match(path.Dir(p)+"/", revocationsPrefix); ok && c.Name != revocationsRole {
			return fmt.Errorf("path %q of role %q: what lies directly under %s belongs to the role %q", p, c.Name, revocationsPrefix, revocationsRole)
		}
	}
	if c.BinBits < 0 || c.BinBits > maxBinBits {
		return fmt.Errorf("role %q: %d bits of bins: give 1 to %d, or 0 for none", c.Name, c.BinBits, maxBinBits)
	}
	bins := &metadata.Delegations{Keys: map[string]*metadata.Key{}, SuccinctRoles: &metadata.SuccinctRoles{
		Threshold: c.Threshold, BitLength: c.BinBits, NamePrefix: c.Name}}
	if c.BinBits > 0 {
		// A bin would take the place of a role with its name: its metadata is one file.
		if err := d.each(func(role string, m *targetsMeta) error {
			var names []string
			if g := m.Signed.Delegations; g != nil {
				for _, r := range g.Roles {
					names = append(names, r.Name)
				}
				if g.SuccinctRoles != nil {
					names = append(names, g.SuccinctRoles.GetRoles()...)
				}
			}
			for _, name := range names {
				if bins.SuccinctRoles.IsDelegatedRole(name) {
					return fmt.Errorf("role %q: one of its bins would be %q, and there is a role of that name: choose another name", c.Name, name)
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	parent, err := d.edit(c.Parent)
	if err != nil {
		return err
	}
	if parent.Delegations == nil {
		parent.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	}
	if parent.Delegations.SuccinctRoles != nil {
		return fmt.Errorf("role %q delegates to bins: it can have no other roles", c.Parent)
	}
	if parent.Delegations.Keys == nil {
		parent.Delegations.Keys = map[string]*metadata.Key{}
	}
	role := metadata.DelegatedRole{Name: c.Name, KeyIDs: []string{}, Threshold: c.Threshold, Terminating: c.Terminating, Paths: c.Paths}
	for _, h := range c.Holders {
		id, key, err := h.publish()
		if err != nil {
			return err
		}
		parent.Delegations.Keys[id], bins.Keys[id] = key, key
		role.KeyIDs = append(role.KeyIDs, id)
	}
	bins.SuccinctRoles.KeyIDs = slices.Clone(role.KeyIDs)
	parent.Delegations.Roles = append(parent.Delegations.Roles, role)
	m, err := d.add(c.Name, c.Period)
	if err != nil || c.BinBits == 0 {
		return err
	}
	m.Delegations = bins
	for _, bin := range bins.SuccinctRoles.GetRoles() {
		if _, err := d.add(bin, c.Period); err != nil {
			return err
		}
	}
	return nil
}

func (c RemoveRole) apply(d *draft) error {
	by, err := d.delegator(c.Name)
	if err != nil {
		return err
	}
	if by == metadata.ROOT {
		return fmt.Errorf("role %q is a top-level role: it cannot be removed", c.Name)
	}
	m, err := d.edit(by)
	if err != nil {
		return err
	}
	before := len(m.Delegations.Roles)
	m.Delegations.Roles = slices.DeleteFunc(m.Delegations.Roles, func(r metadata.DelegatedRole) bool { return r.Name == c.Name })
	if len(m.Delegations.Roles) == before {
		return fmt.Errorf("role %q is one of the bins of %q: remove that role", c.Name, by)
	}
	if len(m.Delegations.Roles) == 0 && m.Delegations.SuccinctRoles == nil {
		m.Delegations.Roles = []metadata.DelegatedRole{} // not null: an empty list
	}
	for role := range d.roles {
		if _, err := d.delegator(role); errors.Is(err, errNoRole) {
			delete(d.roles, role) // what this event had changed in it
		}
	}
	return nil
}

func (c SetTarget) apply(d *draft) error {
	if err := checkName(c.Name); err != nil {
		return fmt.Errorf("target %q: %w", c.Name, err)
	}
	role, err := d.roleFor(c.Name)
	if err != nil {
		return err
	}
	if c.Role != "" && c.Role != role {
		return fmt.Errorf("target %q: clients ask role %q for it, not %q: leave the role out, or choose a name that is delegated to it", c.Name, role, c.Role)
	}
	m, err := d.edit(role)
	if err != nil {
		return err
	}
	if err := addTarget(m, c.Name, c.Data); err != nil {
		return err
	}
	if c.Custom != nil {
		if !json.Valid(c.Custom) {
			return fmt.Errorf("target %q: what is to be published beside it is no JSON", c.Name)
		}
		custom := slices.Clone(c.Custom)
		m.Targets[c.Name].Custom = &custom
	}
	d.files[c.Name] = append([]byte{}, c.Data...) // not nil, which means none
	return nil
}

func (c RemoveTarget) apply(d *draft) error {
	role := c.Role
	if role == "" {
		var err error
		if role, err = d.roleFor(c.Name); err != nil {
			return err
		}
	}
	m, err := d.edit(role)
	if err != nil {
		return err
	}
	if m.Targets[c.Name] == nil {
		return fmt.Errorf("role %q has no target %q", role, c.Name)
	}
	delete(m.Targets, c.Name)
	delete(d.files, c.Name)
	return nil
}

func (c Renew) apply(d *draft) error {
	switch {
	case onlineRole(c.Role):
		return fmt.Errorf("role %q is renewed by the online key alone: refresh it instead", c.Role)
	case c.Role == metadata.ROOT:
		_, err := d.editRoot()
		return err
	}
	_, err := d.edit(c.Role)
	return err
}

func (c Restore) apply(d *draft) error {
	if onlineRole(c.Role) || c.Role == metadata.ROOT {
		return fmt.Errorf("role %q lists no targets: only what lists targets can be restored", c.Role)
	}
	known, err := parseTargets(c.Known)
	if err != nil {
		return fmt.Errorf("the known metadata of role %q: %w", c.Role, err)
	}
	if err := d.signedOnce(c.Role, known); err != nil {
		return err
	}
	m, err := d.edit(c.Role)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(known.Signed.Targets)) {
		data, err := d.target(name, known.Signed.Targets[name])
		if err != nil {
			return err
		}
		if had := m.Targets[name]; had == nil || had.VerifyLengthHashes(data) != nil {
			d.files[name] = data
		}
	}
	d.comeBack(m.Delegations, known.Signed.Delegations)
	m.Targets, m.Delegations, m.UnrecognizedFields = known.Signed.Targets, known.Signed.Delegations, known.Signed.UnrecognizedFields
	if m.Delegations == nil {
		return nil
	}
	for _, r := range m.Delegations.Roles {
		if _, err := d.get(r.Name, c.Role); err == nil {
			continue
		}
		// It had been removed: clients must not be told of a role that there is no metadata for.
		if _, err := d.add(r.Name, otherPeriod); err != nil {
			return err
		}
	}
	return nil
}

// signedOnce fails unless metadata of a role is signed as the repository, at some time in its past, demanded: for the
// top-level targets by a root, for another role by metadata of whoever delegates to it that is itself so signed. Where
// it was kept, in the published directory or elsewhere, says nothing about who wrote it.
func (d *draft) signedOnce(role string, m *targetsMeta) error {
	doc, err := newDocument(role, m)
	if err != nil {
		return err
	}
	var asked string
	for ring := range d.ringsOnce(role, 0) {
		if ring.met(doc) {
			return nil
		}
		asked = fmt.Sprintf(": it lacks the signatures of %d of %s, or of who held it before", ring.threshold, ring.names())
	}
	return fmt.Errorf("version %d of %s was not signed by those who held that role at any time of this repository's past%s; somebody altered it: take it from a backup or a mirror, or another version", m.Signed.Version, role, asked)
}

// ringsOnce yields every group of keys that ever held a targets role, as far as published metadata still tells, from
// the newest back.
func (d *draft) ringsOnce(role string, depth int) iter.Seq[keyring] {
	return func(yield func(keyring) bool) {
		if role == metadata.TARGETS {
			for _, data := range slices.Backward(d.roots) {
				if m, err := parseRoot(data); err == nil {
					if ring, err := rootRing(m, role); err == nil && !yield(ring) {
						return
					}
				}
			}
			return
		}
		by, err := d.delegator(role)
		if err != nil || depth > 32 {
			return
		}
		of := func(m *targetsMeta) bool {
			ring, err := delegatedRing(m, role)
			return err != nil || yield(ring)
		}
		now, err := d.state.role(by)
		if err != nil || !of(now) || d.published == nil {
			return
		}
		for v := now.Signed.Version - 1; v >= 1; v-- {
			data, err := d.published(by, v)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return
			}
			m, err := parseTargets(data)
			if err != nil || m.Signed.Version != v {
				continue
			}
			doc, err := newDocument(by, m)
			if err != nil {
				continue
			}
			for ring := range d.ringsOnce(by, depth+1) {
				if ring.met(doc) {
					if !of(m) {
						return
					}
					break
				}
			}
		}
	}
}

// comesBack is a key that holds a role again.
type comesBack struct{ role, id, what string }

// comeBack notes the keys that hold a role again in known delegations and do not now: somebody took them out.
func (d *draft) comeBack(now, known *metadata.Delegations) {
	if known == nil {
		return
	}
	holds := func(role string) []string {
		if now == nil {
			return nil
		}
		for _, r := range now.Roles {
			if r.Name == role {
				return r.KeyIDs
			}
		}
		if s := now.SuccinctRoles; s != nil && s.IsDelegatedRole(role) {
			return s.KeyIDs
		}
		return nil
	}
	note := func(role string, ids []string) {
		for _, id := range ids {
			if key := known.Keys[id]; key != nil && !slices.Contains(holds(role), id) {
				d.back = append(d.back, comesBack{role, id, fmt.Sprintf("the %s comes back, which does not hold role %s any more", visible(keyWords(id, key)), role)})
			}
		}
	}
	for _, r := range known.Roles {
		note(r.Name, r.KeyIDs)
	}
	if s := known.SuccinctRoles; s != nil {
		note(s.GetRoles()[0], s.KeyIDs) // all bins have the same holders
	}
}
