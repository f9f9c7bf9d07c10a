package tuf

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A draft is a published state with changes that nobody has published yet. It answers every question about roles and
// keys as it will be afterwards.
type draft struct {
	*state
	root  *rootMeta               // nil: unchanged
	roles map[string]*targetsMeta // those that change
	files map[string][]byte       // new target files, by target name
	event bool                    // it is the open event's, whose files lie in event/
	docs  map[string]document     // of what changes, when it changes no more; nil before: see seal

	back []comesBack // see Restore

	expiry    func(time.Duration) time.Time
	target    func(name string, t *metadata.TargetFiles) ([]byte, error) // the content of a published target
	published func(role string, version int64) ([]byte, error)           // metadata as it lies in the published directory
}

func (r *Repository) draft(s *state) *draft {
	return &draft{state: s, roles: map[string]*targetsMeta{}, files: map[string][]byte{}, expiry: r.expiry, target: r.target,
		published: func(role string, version int64) ([]byte, error) { return r.readPublished(versioned(role, version)) }}
}

// target returns the content of a published target, from wherever it is still to be had, and only if it is the listed
// one.
func (r *Repository) target(name string, t *metadata.TargetFiles) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("target %q: %w", name, err)
	}
	for _, read := range []func() ([]byte, error){
		func() ([]byte, error) { return r.read(targetsDir + "/" + name) },
		func() ([]byte, error) {
			return r.readPublished(prefixedTarget(name, t.Hashes["sha256"].String()))
		},
	} {
		if data, err := read(); err == nil && t.VerifyLengthHashes(data) == nil {
			return data, nil
		}
	}
	return nil, fmt.Errorf("target %s with SHA-256 %s is in neither directory: %w; restore it from a backup or a mirror", name, t.Hashes["sha256"], fs.ErrNotExist)
}

// content returns the content of a target as it will be.
func (d *draft) content(name string, t *metadata.TargetFiles) ([]byte, error) {
	if data := d.files[name]; data != nil && t.VerifyLengthHashes(data) == nil {
		return data, nil
	}
	return d.target(name, t)
}

// rootView is root as it will be.
func (d *draft) rootView() *rootMeta {
	if d.root != nil {
		return d.root
	}
	return d.Root
}

// get is a role as it will be.
func (d *draft) get(role, by string) (*targetsMeta, error) {
	if m := d.roles[role]; m != nil {
		return m, nil
	}
	if d.empty() {
		return nil, fmt.Errorf("role %q: %w", role, errNoRole)
	}
	if m := d.Targets[role]; m != nil {
		return m, nil
	}
	// Verified by the delegation that was in force when it was published.
	if m, err := d.state.role(role); err == nil || !errors.Is(err, errNoRole) {
		return m, err
	}
	return nil, fmt.Errorf("role %q: %w", role, errNoRole)
}

func (d *draft) view(role string) (*targetsMeta, error) {
	if _, err := d.delegator(role); err != nil {
		return nil, err
	}
	return d.get(role, "")
}

func (d *draft) delegator(role string) (string, error) { return delegatorOf(role, d.get) }

// ring returns who may sign a role, as it will be.
func (d *draft) ring(role string) (keyring, error) {
	switch role {
	case metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP:
		return rootRing(d.rootView(), role)
	}
	by, err := d.delegator(role)
	if err != nil {
		return keyring{}, err
	}
	m, err := d.get(by, "")
	if err != nil {
		return keyring{}, err
	}
	return delegatedRing(m, role)
}

// rings returns every group of keys that has to sign a role: for root both the old holders and the new (5.3.4).
func (d *draft) rings(role string) ([]keyring, error) {
	var out []keyring
	if role == metadata.ROOT && !d.empty() {
		old, err := rootRing(d.Root, metadata.ROOT)
		if err != nil {
			return nil, err
		}
		out = append(out, old)
	}
	ring, err := d.ring(role)
	if err != nil {
		return nil, err
	}
	return append(out, ring), nil
}

// seal says that the draft changes no more, but for its signatures.
func (d *draft) seal() { d.docs = map[string]document{} }

// document returns a changed role for signing.
func (d *draft) document(role string) (document, error) {
	if doc, ok := d.docs[role]; ok {
		return doc, nil
	}
	doc, err := d.newDocument(role)
	if err == nil && d.docs != nil {
		d.docs[role] = doc
	}
	return doc, err
}

func (d *draft) newDocument(role string) (document, error) {
	if role == metadata.ROOT {
		return newDocument(role, d.root)
	}
	return newDocument(role, d.roles[role])
}

// changed lists the roles that change: root, targets, then the others by name.
func (d *draft) changed() []string {
	out := slices.Sorted(maps.Keys(d.roles))
	slices.SortStableFunc(out, func(a, b string) int {
		rank := func(s string) int {
			if s == metadata.TARGETS {
				return 0
			}
			return 1
		}
		return rank(a) - rank(b)
	})
	if d.root != nil {
		out = append([]string{metadata.ROOT}, out...)
	}
	return out
}

// period returns how long a newly signed role lives: what the repository says about itself, else the default.
func (d *draft) period(role string) Period {
	switch role {
	case metadata.SNAPSHOT, metadata.TIMESTAMP:
		return onlinePeriod(d.rootView(), role)
	case metadata.ROOT:
		if p, ok := periodIn(d.rootView().Signed.UnrecognizedFields); ok {
			return p
		}
	default:
		if m, err := d.get(role, ""); err == nil {
			if p, ok := periodIn(m.Signed.UnrecognizedFields); ok {
				return p
			}
		}
	}
	return defaultPeriod(role)
}

// editRoot returns root to change, one version on.
func (d *draft) editRoot() (*metadata.RootType, error) {
	d.docs = nil
	if d.root == nil {
		m, err := parseRoot(d.roots[len(d.roots)-1])
		if err != nil {
			return nil, err
		}
		if m.Signed.Version, err = nextVersion(metadata.ROOT, m.Signed.Version); err != nil {
			return nil, err
		}
		m.Signatures = []metadata.Signature{}
		d.root = m
		m.Signed.Expires = d.expiry(d.period(metadata.ROOT).expiry())
	}
	return &d.root.Signed, nil
}

// edit returns a targets role to change, one version on.
func (d *draft) edit(role string) (*metadata.TargetsType, error) {
	d.docs = nil
	if m := d.roles[role]; m != nil {
		return &m.Signed, nil
	}
	if _, err := d.view(role); err != nil {
		return nil, err
	}
	m, err := parseTargets(d.raw[role])
	if err != nil {
		return nil, err
	}
	if m.Signed.Version, err = nextVersion(role, m.Signed.Version); err != nil {
		return nil, err
	}
	m.Signatures = []metadata.Signature{}
	d.roles[role] = m
	m.Signed.Expires = d.expiry(d.period(role).expiry())
	return &m.Signed, nil
}

// add begins a targets role, or begins again one that there was before: clients refuse a lower version than the
// snapshot ever listed.
func (d *draft) add(role string, p Period) (*metadata.TargetsType, error) {
	d.docs = nil
	m := metadata.Targets(d.expiry(p.expiry()))
	if !d.empty() {
		if before := d.Snapshot.Signed.Meta[role+".json"]; before != nil {
			v, err := nextVersion(role, before.Version)
			if err != nil {
				return nil, err
			}
			m.Signed.Version = v
		}
	}
	m.Signed.UnrecognizedFields = p.fields()
	m.Signatures = []metadata.Signature{}
	d.roles[role] = m
	return &m.Signed, nil
}

// roleFor finds the role that clients ask for a target: the first that lists it, or that it is delegated to, in the
// order in which they walk (5.6.7).
func (d *draft) roleFor(name string) (string, error) {
	return d.roleBelow(metadata.TARGETS, name, 0)
}

func (d *draft) roleBelow(role, name string, depth int) (string, error) {
	if depth > 32 {
		return "", fmt.Errorf("target %q: delegations go round in circles", name)
	}
	m, err := d.get(role, "")
	if err != nil {
		return "", err
	}
	if m.Signed.Targets[name] != nil || m.Signed.Delegations == nil {
		return role, nil
	}
	for _, r := range m.Signed.Delegations.GetRolesForTarget(name) {
		return d.roleBelow(r.Name, name, depth+1)
	}
	return role, nil
}

// each calls f for every role whose metadata may delegate to others or that a whole-repository change concerns, from
// the top, bins left out.
func (d *draft) each(f func(role string, m *targetsMeta) error) error {
	queue := []string{metadata.TARGETS}
	for seen := map[string]bool{}; len(queue) > 0; {
		role := queue[0]
		queue = queue[1:]
		if seen[role] {
			continue
		}
		seen[role] = true
		m, err := d.get(role, "")
		if err != nil {
			return err
		}
		if err := f(role, m); err != nil {
			return err
		}
		if m.Signed.Delegations != nil {
			for _, r := range m.Signed.Delegations.Roles {
				queue = append(queue, r.Name)
			}
		}
	}
	return nil
}

// settle makes the draft whole after changes: keys that no role names any more go, and roles that those who may sign
// them now have not signed are to be signed again.
func (d *draft) settle() error {
	if d.root != nil {
		used := map[string]bool{}
		for _, r := range d.root.Signed.Roles {
			for _, id := range r.KeyIDs {
				used[id] = true
			}
		}
		maps.DeleteFunc(d.root.Signed.Keys, func(id string, _ *metadata.Key) bool { return !used[id] })
	}
	for _, m := range d.roles {
		if g := m.Signed.Delegations; g != nil {
			used := map[string]bool{}
			for _, r := range g.Roles {
				for _, id := range r.KeyIDs {
					used[id] = true
				}
			}
			if g.SuccinctRoles != nil {
				for _, id := range g.SuccinctRoles.KeyIDs {
					used[id] = true
				}
			}
			maps.DeleteFunc(g.Keys, func(id string, _ *metadata.Key) bool { return !used[id] })
		}
	}
	if d.empty() {
		return nil
	}
	for _, role := range d.unmet() {
		if _, err := d.edit(role); err != nil {
			return err
		}
	}
	return nil
}

// unmet lists the published roles that do not change and whose signatures no longer suffice, because those who
// delegate to them do change.
func (d *draft) unmet() []string {
	var out []string
	look := func(role string) {
		if d.roles[role] != nil {
			return
		}
		m, err := d.get(role, "")
		if err != nil {
			return // a problem that the check names
		}
		doc, err := newDocument(role, m)
		if err != nil {
			return
		}
		if ring, err := d.ring(role); err == nil && !ring.met(doc) {
			out = append(out, role)
		}
	}
	if d.root != nil {
		look(metadata.TARGETS)
	}
	for _, by := range slices.Sorted(maps.Keys(d.roles)) {
		g := d.roles[by].Signed.Delegations
		if g == nil {
			continue
		}
		for _, r := range g.Roles {
			look(r.Name)
		}
		if g.SuccinctRoles != nil && d.succinctChanged(by) {
			for _, bin := range g.SuccinctRoles.GetRoles() {
				look(bin)
			}
		}
	}
	return out
}

// succinctChanged reports whether the keys of a role's bins change: only then is every bin worth a look.
func (d *draft) succinctChanged(role string) bool {
	old := d.Targets[role]
	if old == nil || old.Signed.Delegations == nil || old.Signed.Delegations.SuccinctRoles == nil {
		return false // new: its bins are in the draft
	}
	a, b := old.Signed.Delegations, d.roles[role].Signed.Delegations
	return a.SuccinctRoles.Threshold != b.SuccinctRoles.Threshold || !slices.Equal(a.SuccinctRoles.KeyIDs, b.SuccinctRoles.KeyIDs)
}

// validate refuses a draft that no sound repository can be made of.
func (d *draft) validate() error {
	if err := d.settle(); err != nil {
		return err
	}
	offline := map[string]string{} // fingerprint → role, of those that are held by people
	check := func(ring keyring) error {
		seen, owners := map[string]string{}, map[string]bool{}
		for _, id := range ring.ids {
			// GitHub, whose names tuf-on-ci has, does not tell @Alice from @alice.
			owner := strings.ToLower(ownerOf(ring.keys[id]))
			if strings.HasPrefix(owner, "@") && owners[owner] {
				return fmt.Errorf("%s holds role %q with two keys: one person would count twice", visible(ownerOf(ring.keys[id])), ring.role)
			}
			owners[owner] = true
			f := fingerprint(ring.keys[id])
			if f == "" {
				f = id // of a kind this version cannot read: kept as it is
			}
			if other, ok := seen[f]; ok {
				return fmt.Errorf("role %q has one key twice, as %s and %s: clients count it once", ring.role, keyName(other, ring.keys[other]), keyName(id, ring.keys[id]))
			}
			seen[f] = id
		}
		if ring.threshold < 1 || ring.threshold > len(ring.ids) {
			return fmt.Errorf("threshold %d of %d keys for role %q: it must be between 1 and the number of keys", ring.threshold, len(ring.ids), ring.role)
		}
		for f := range seen {
			if of := offline[f]; ring.role == revocationsRole && (of == metadata.ROOT || of == metadata.TARGETS) {
				return fmt.Errorf("a key of role %q is a key of %s: the responders need keys of their own, since a key on call must not be able to do more", ring.role, offline[f])
			}
			if offline[f] == "" && ring.role != metadata.SNAPSHOT && ring.role != metadata.TIMESTAMP {
				offline[f] = ring.role
			}
		}
		return nil
	}
	for _, role := range []string{metadata.ROOT, metadata.TARGETS} {
		ring, err := d.ring(role)
		if err == nil {
			err = check(ring)
		}
		if err != nil {
			return err
		}
	}
	delegators := maps.Clone(d.roles)
	if d.root != nil && d.Targets[metadata.TARGETS] != nil {
		// Root's keys and the online key are held against those of every role, also of those that stay as they are.
		if err := d.each(func(role string, m *targetsMeta) error {
			delegators[role] = m
			return nil
		}); err != nil {
			return err
		}
	}
	for _, by := range slices.Sorted(maps.Keys(delegators)) {
		g := delegators[by].Signed.Delegations
		if g == nil {
			continue
		}
		var names []string
		for _, r := range g.Roles {
			names = append(names, r.Name)
		}
		if g.SuccinctRoles != nil {
			names = append(names, g.SuccinctRoles.GetRoles()[0])
		}
		for _, name := range names {
			ring, err := delegatedRing(delegators[by], name)
			if err == nil {
				err = check(ring)
			}
			if err != nil {
				return err
			}
		}
	}
	for _, role := range []string{metadata.SNAPSHOT, metadata.TIMESTAMP} {
		ring, err := d.ring(role)
		if err == nil {
			err = check(ring)
		}
		if err != nil {
			return err
		}
		for _, id := range ring.ids {
			if of := offline[fingerprint(ring.keys[id])]; of != "" && (d.root != nil || of != metadata.ROOT && of != metadata.TARGETS) {
				return fmt.Errorf("the online key is a key of role %q too: it needs to be one of its own, since a key online must not be able to do more than its role", of)
			}
		}
	}
	return nil
}

// id identifies what there is to sign, and what those who are asked are told of it: it changes whenever anything of it
// does. It is told by voice, and long enough that nobody makes two events with the same one.
func (d *draft) id(by, reason string) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "by %q\nreason %q\n", by, reason)
	for _, role := range d.changed() {
		doc, err := d.document(role)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %s\n", role, doc.digest())
	}
	return hex.EncodeToString(h.Sum(nil))[:32], nil
}

// days is a period of time for people.
func days(t time.Duration) string {
	n := int(t.Round(day) / day)
	if n == 1 {
		return "1 day"
	}
	return fmt.Sprintf("%d days", n)
}

func list(names []string) string { return strings.Join(names, ", ") }
