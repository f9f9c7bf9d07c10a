package tuf

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

type (
	rootMeta    = metadata.Metadata[metadata.RootType]
	targetsMeta = metadata.Metadata[metadata.TargetsType]
)

const day = 24 * time.Hour

// state is one published state of a repository: verified from its first root down to the top-level targets, and below
// that as far as it is asked for. What nobody asks for is neither read nor verified, so that a change costs the same
// however many roles there are. A repository that has published nothing has a state without a root.
type state struct {
	*trustedmetadata.TrustedMetadata
	read  func(name string) ([]byte, error)
	first int64    // the version of the first root at hand
	start int64    // the version of the first root that clients can start from
	roots [][]byte // every root from the first on
	raw   map[string][]byte
}

func newState(read func(string) ([]byte, error)) *state {
	return &state{TrustedMetadata: &trustedmetadata.TrustedMetadata{Targets: map[string]*targetsMeta{}}, read: read, raw: map[string][]byte{}}
}

func (s *state) empty() bool { return s.Root == nil }

// load reads and verifies the state that a repository's metadata directory holds, with the very checks clients make
// (5.3 to 5.6), except for expiry: an expired repository must still be opened to be renewed. Every error names the file
// it is about. Target files are not read.
func load(read func(name string) ([]byte, error)) (s *state, err error) {
	name := metadataDir + "/root.json"
	fail := func(err error) (*state, error) {
		// Not os's own wording: its path may be relative to the repository.
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is missing: %w", name, fs.ErrNotExist)
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer func() {
		if p := recover(); p != nil {
			s, err = fail(fmt.Errorf("malformed metadata: %v", p))
		}
	}()

	s = newState(read)
	last, err := read(name)
	if err != nil {
		return fail(err)
	}
	newest, err := parseRoot(last)
	if err != nil {
		return fail(err)
	}
	if newest.Signed.Version < 1 || newest.Signed.Version > maxRoots {
		return fail(fmt.Errorf("has version %d", newest.Signed.Version))
	}
	for v := newest.Signed.Version; v >= 1; v-- {
		name = historyFile(v)
		data, err := read(name)
		if errors.Is(err, fs.ErrNotExist) && v < newest.Signed.Version {
			// A repository rebuilt from a root pinned later may begin later; one that has its first root lacks none.
			if _, err := read(historyFile(1)); err == nil {
				return fail(fs.ErrNotExist)
			}
			break
		}
		if err != nil {
			return fail(err)
		}
		s.roots = append(s.roots, data)
	}
	slices.Reverse(s.roots)
	if string(s.roots[len(s.roots)-1]) != string(last) {
		return fail(errors.New("is not the same as metadata/root.json"))
	}
	if err := s.chain(s.roots, historyFile); err != nil {
		return nil, err
	}
	if s.Root.Signed.Version != newest.Signed.Version || s.first != newest.Signed.Version-int64(len(s.roots))+1 {
		return fail(fmt.Errorf("its name says version %d and it holds another", newest.Signed.Version))
	}
	s.RefTime = time.Time{} // nothing has expired at that time

	name = metadataDir + "/timestamp.json"
	data, err := read(name)
	if err != nil {
		return fail(err)
	}
	timestamp, err := s.UpdateTimestamp(data)
	if err != nil {
		return fail(err)
	}
	s.raw[metadata.TIMESTAMP] = data
	if timestamp.Signed.Meta["snapshot.json"] == nil {
		return fail(errors.New("malformed metadata: lists no snapshot.json"))
	}

	name = metadataDir + "/snapshot.json"
	if data, err = read(name); err != nil {
		return fail(err)
	}
	snapshot, err := s.UpdateSnapshot(data, false)
	if err != nil {
		return fail(err)
	}
	s.raw[metadata.SNAPSHOT] = data
	for role, meta := range snapshot.Signed.Meta {
		if meta == nil {
			return fail(fmt.Errorf("malformed metadata: %s is null", role))
		}
	}
	if _, err := s.fetch(metadata.TARGETS, metadata.ROOT); err != nil {
		return nil, err
	}
	return s, nil
}

// maxRoots bounds the versions a chain of roots is looked for in.
const maxRoots = 1 << 20

func historyFile(version int64) string { return historyDir + "/" + versioned(metadata.ROOT, version) }

func roleFile(role string) string { return metadataDir + "/" + role + ".json" }

// fetch reads a targets role and verifies it as its delegator has it.
func (s *state) fetch(role, delegator string) (m *targetsMeta, err error) {
	if m := s.Targets[role]; m != nil {
		return m, nil
	}
	if s.read == nil { // a state of which nothing more is to be had
		return nil, fmt.Errorf("role %q: %w", role, errNoRole)
	}
	name := roleFile(role)
	defer func() {
		if p := recover(); p != nil {
			m, err = nil, fmt.Errorf("%s: malformed metadata: %v", name, p)
		}
	}()
	if s.empty() || s.Snapshot.Signed.Meta[role+".json"] == nil {
		return nil, fmt.Errorf("%s/snapshot.json: lists no %s.json: %w", metadataDir, role, fs.ErrNotExist)
	}
	data, err := s.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing: %w", name, fs.ErrNotExist)
	}
	if err == nil {
		m, err = s.UpdateDelegatedTargets(data, role, delegator)
	}
	if err == nil {
		err = checkTargets(m)
	}
	if err != nil {
		delete(s.Targets, role)
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s.raw[role] = data
	return m, nil
}

// role returns a targets role, after finding who delegates to it.
func (s *state) role(name string) (*targetsMeta, error) {
	if m := s.Targets[name]; m != nil {
		return m, nil
	}
	delegator, err := delegatorOf(name, s.fetch)
	if err != nil {
		return nil, err
	}
	return s.fetch(name, delegator)
}

var errNoRole = errors.New("there is no such role in this repository")

// delegatorOf finds who delegates to a role, from the top, breadth first. Bins are not looked into: they hold targets.
func delegatorOf(role string, get func(name, delegator string) (*targetsMeta, error)) (string, error) {
	if role == metadata.TARGETS {
		return metadata.ROOT, nil
	}
	type edge struct{ name, by string }
	queue := []edge{{metadata.TARGETS, metadata.ROOT}}
	seen := map[string]bool{}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		if seen[at.name] {
			continue
		}
		seen[at.name] = true
		m, err := get(at.name, at.by)
		if errors.Is(err, errNoRole) {
			continue // of a signing request, which brings only what it is about
		}
		if err != nil {
			return "", err
		}
		d := m.Signed.Delegations
		if d == nil {
			continue
		}
		if d.SuccinctRoles != nil && d.SuccinctRoles.IsDelegatedRole(role) {
			return at.name, nil
		}
		for _, r := range d.Roles {
			if r.Name == role {
				return at.name, nil
			}
			queue = append(queue, edge{r.Name, at.name})
		}
	}
	return "", fmt.Errorf("role %q: %w", role, errNoRole)
}

// delegation returns what m says about the role name, or nil.
func delegation(m *targetsMeta, name string) *metadata.DelegatedRole {
	if m == nil || m.Signed.Delegations == nil {
		return nil
	}
	roles := m.Signed.Delegations.Roles
	if i := slices.IndexFunc(roles, func(d metadata.DelegatedRole) bool { return d.Name == name }); i >= 0 {
		return &roles[i]
	}
	return nil
}

// delegatedRing returns the keys of a role as its delegator publishes them.
func delegatedRing(by *targetsMeta, role string) (keyring, error) {
	d := by.Signed.Delegations
	if r := delegation(by, role); r != nil {
		return newRing(role, r.KeyIDs, d.Keys, r.Threshold)
	}
	if d != nil && d.SuccinctRoles != nil && d.SuccinctRoles.IsDelegatedRole(role) {
		return newRing(role, d.SuccinctRoles.KeyIDs, d.Keys, d.SuccinctRoles.Threshold)
	}
	return keyring{}, fmt.Errorf("role %q: %w", role, errNoRole)
}

// A Period says how long a signature of a role lasts, and how long before its end it is due to be made again, in whole
// days.
type Period struct {
	Expiry  int `json:"expiry"`
	Signing int `json:"signing"`
}

const maxDays = 100 * 365

func (p Period) check(role string) error {
	if p.Expiry < 1 || p.Expiry > maxDays {
		return fmt.Errorf("expiry period of %d days for %s: it must be from 1 to %d", p.Expiry, role, maxDays)
	}
	if p.Signing < 0 || p.Signing >= p.Expiry {
		return fmt.Errorf("signing period of %d days for %s: it must be less than the expiry period of %d days", p.Signing, role, p.Expiry)
	}
	return nil
}

func (p Period) expiry() time.Duration { return time.Duration(p.Expiry) * day }

// due reports whether what expires then is due to be signed again.
func (p Period) due(now, expires time.Time) bool {
	return !now.Before(expires.Add(-time.Duration(p.Signing) * day))
}

// defaultPeriods are what a new repository starts with. The revocations role may live long because freshness comes from
// the timestamp: a client learns of a new revocation, or that it is cut off, within the timestamp's period.
var defaultPeriods = map[string]Period{
	metadata.ROOT:      {365, 60},
	metadata.TARGETS:   {180, 45},
	metadata.SNAPSHOT:  {21, 14},
	metadata.TIMESTAMP: {7, 6},
}

// otherPeriod is the default of delegated roles.
var otherPeriod = Period{365, 60}

func defaultPeriod(role string) Period {
	if p, ok := defaultPeriods[role]; ok {
		return p
	}
	return otherPeriod
}

func (p Period) fields() map[string]any {
	return map[string]any{fieldExpiry: float64(p.Expiry), fieldSigning: float64(p.Signing)} // as they read back from JSON
}

// periodIn reads a period in tuf-on-ci's words; ok is false when there is none that makes sense.
func periodIn(fields map[string]any) (p Period, ok bool) {
	number := func(name string) (int, bool) {
		v, ok := fields[name].(float64)
		return int(v), ok && v >= 0 && v <= maxDays && v == float64(int(v))
	}
	if p.Expiry, ok = number(fieldExpiry); !ok || p.Expiry < 1 {
		return Period{}, false
	}
	if p.Signing, ok = number(fieldSigning); !ok {
		p.Signing = p.Expiry / 2 // as tuf-on-ci has it
	}
	return p, p.check("") == nil
}

// onlinePeriod is the period of snapshot or timestamp. It stands in root, so that an online key cannot extend its own.
func onlinePeriod(root *rootMeta, role string) Period {
	if r := root.Signed.Roles[role]; r != nil {
		if p, ok := periodIn(r.UnrecognizedFields); ok {
			return p
		}
	}
	return defaultPeriod(role)
}

// rootVersion reads the version of root metadata without verifying it.
func rootVersion(data []byte) (int64, error) {
	var m struct {
		Signed struct {
			Version int64 `json:"version"`
		} `json:"signed"`
	}
	err := json.Unmarshal(data, &m)
	return m.Signed.Version, err
}
