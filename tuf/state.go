package tuf

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// state is one published state of a repository, verified from its first root down to the revocations.
type state struct {
	*trustedmetadata.TrustedMetadata
}

// load reads and verifies the state that timestamp.json commits to, with the very checks clients make (TUF
// specification 5.3 to 5.6), except for expiry: an expired repository must still be opened to be renewed. Every
// error names the file it is about. Target files are not read.
func load(read func(name string) ([]byte, error)) (s *state, err error) {
	name := "1.root.json"
	defer func() {
		if p := recover(); p != nil { // go-tuf does not expect null in place of a key or a file entry
			s, err = nil, fmt.Errorf("%s: malformed metadata: %v", name, p)
		}
	}()
	fail := func(err error) (*state, error) {
		// Not os's own wording: its path may be relative to the repository.
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is missing: %w", name, fs.ErrNotExist)
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}

	data, err := read(name)
	if err != nil {
		return fail(err)
	}
	trusted, err := trustedmetadata.New(data)
	if err != nil {
		return fail(err)
	}
	if v := trusted.Root.Signed.Version; v != 1 {
		return fail(fmt.Errorf("holds version %d", v))
	}
	trusted.RefTime = time.Time{} // nothing has expired at that time
	for {
		name = versioned(metadata.ROOT, trusted.Root.Signed.Version+1)
		data, err := read(name)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return fail(err)
		}
		if _, err := trusted.UpdateRoot(data); err != nil {
			return fail(err)
		}
	}

	name = "timestamp.json"
	if data, err = read(name); err != nil {
		return fail(err)
	}
	timestamp, err := trusted.UpdateTimestamp(data)
	if err != nil {
		return fail(err)
	}
	if timestamp.Signed.Meta["snapshot.json"] == nil {
		return fail(errors.New("lists no snapshot.json"))
	}

	name = versioned(metadata.SNAPSHOT, timestamp.Signed.Meta["snapshot.json"].Version)
	if data, err = read(name); err != nil {
		return fail(err)
	}
	snapshot, err := trusted.UpdateSnapshot(data, false)
	if err != nil {
		return fail(err)
	}

	roles := [][2]string{{metadata.TARGETS, metadata.ROOT}, {revocationsRole, metadata.TARGETS}}
	for _, r := range roles {
		role, delegator := r[0], r[1]
		if role == revocationsRole && delegation(trusted.Targets[metadata.TARGETS]) == nil {
			break // a repository of another origin may do without
		}
		meta := snapshot.Signed.Meta[role+".json"]
		if meta == nil {
			return fail(fmt.Errorf("lists no %s.json", role)) // still the snapshot's fault
		}
		name = versioned(role, meta.Version)
		if data, err = read(name); err != nil {
			return fail(err)
		}
		if _, err = trusted.UpdateDelegatedTargets(data, role, delegator); err != nil {
			return fail(err)
		}
	}
	return &state{trusted}, nil
}

func versioned(role string, version int64) string { return fmt.Sprintf("%d.%s.json", version, role) }

// delegation returns what targets says about the revocations role, or nil.
func delegation(targets *metadata.Metadata[metadata.TargetsType]) *metadata.DelegatedRole {
	if targets == nil || targets.Signed.Delegations == nil {
		return nil
	}
	roles := targets.Signed.Delegations.Roles
	if i := slices.IndexFunc(roles, func(d metadata.DelegatedRole) bool { return d.Name == revocationsRole }); i >= 0 {
		return &roles[i]
	}
	return nil
}

// ring returns the keys and the threshold of a role as its delegator publishes them.
func (s *state) ring(role string) (keyring, error) {
	if role == revocationsRole {
		targets := s.Targets[metadata.TARGETS]
		d := delegation(targets)
		if d == nil {
			return keyring{}, fmt.Errorf("role %q does not exist in this repository: its targets delegate nothing to responders", role)
		}
		return newRing(role, d.KeyIDs, targets.Signed.Delegations.Keys, d.Threshold)
	}
	return rootRing(s.Root, role)
}

func rootRing(root *metadata.Metadata[metadata.RootType], role string) (keyring, error) {
	r := root.Signed.Roles[role]
	if r == nil {
		return keyring{}, fmt.Errorf("root lists no role %q", role)
	}
	return newRing(role, r.KeyIDs, root.Signed.Keys, r.Threshold)
}

func newRing(role string, ids []string, keys map[string]*metadata.Key, threshold int) (keyring, error) {
	for _, id := range ids {
		if keys[id] == nil {
			return keyring{}, fmt.Errorf("role %q names key %s, which its delegator does not publish", role, id)
		}
	}
	return keyring{role: role, ids: ids, keys: keys, threshold: threshold}, nil
}

// period returns how long a newly signed role lives: what the repository says about itself, in tuf-on-ci's words, else
// the default. Snapshot and timestamp have their period in root, so that an online key cannot extend its own.
func (s *state) period(role string) time.Duration {
	var fields map[string]any
	switch role {
	case metadata.SNAPSHOT, metadata.TIMESTAMP:
		if r := s.Root.Signed.Roles[role]; r != nil {
			fields = r.UnrecognizedFields
		}
	default:
		if m := s.Targets[role]; m != nil {
			fields = m.Signed.UnrecognizedFields
		}
	}
	if days, ok := fields[fieldExpiry].(float64); ok && days >= 1 && days <= maxDays {
		return time.Duration(days) * day
	}
	return defaultPeriods[role]
}
