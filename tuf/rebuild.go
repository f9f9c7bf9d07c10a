package tuf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/reseal/reseal/internal/durable"
)

// How large a file may be that is read before anything says how large it is, in bytes. Root and timestamp as clients
// have it; the others more generously.
const (
	maxRoot      = 512_000
	maxTimestamp = 16_384
	maxOther     = 64 << 20

	maxMirrorRoots = 4096
)

// Rebuilt is what a repository was rebuilt to.
type Rebuilt struct {
	Versions map[string]int64 `json:"versions"`
	First    int64            `json:"first"`   // the oldest root that could be had
	Targets  int              `json:"targets"` // files
	// Expired names what has expired: nobody can say that the mirror has the newest of these.
	Expired []string `json:"expired,omitempty"`
}

// Rebuild makes a repository's directory again from a mirror of what it published, verified from a pinned root down to
// every target. Use it when the directory is lost. The pinned root is any version; earlier ones are taken from the
// mirror when they lead to it. Only what is published can be had: an open signing event is lost.
func Rebuild(ctx context.Context, dir string, o Options, mirror Mirror, pinned []byte) (*Repository, *Rebuilt, error) {
	r, err := newRepository(dir, o)
	if err != nil {
		return nil, nil, fmt.Errorf("tuf: rebuild: %w", err)
	}
	out, err := r.rebuild(ctx, mirror, pinned)
	if err != nil {
		return nil, nil, fmt.Errorf("tuf: rebuild %s: %w", dir, err)
	}
	return r, out, nil
}

func (r *Repository) rebuild(ctx context.Context, mirror Mirror, pinned []byte) (out *Rebuilt, err error) {
	if err := makeDir(r.dir); err != nil {
		return nil, err
	}
	unlock, err := durable.Lock(ctx, r.dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := r.read(roleFile(metadata.ROOT)); err == nil {
		return nil, errors.New("there is a repository already: choose an empty directory")
	}
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, fmt.Errorf("malformed metadata: %v", p)
		}
	}()
	s, err := fetchState(ctx, mirror, pinned)
	if err != nil {
		return nil, err
	}
	out = &Rebuilt{Versions: map[string]int64{metadata.ROOT: s.Root.Signed.Version, metadata.TIMESTAMP: s.Timestamp.Signed.Version,
		metadata.SNAPSHOT: s.Snapshot.Signed.Version}, First: s.first}
	now := r.now()
	expired := func(role string, at time.Time) {
		if now.After(at) {
			out.Expired = append(out.Expired, fmt.Sprintf("%s on %s", role, at.Format(time.RFC3339)))
		}
	}
	expired(metadata.ROOT, s.Root.Signed.Expires)
	expired(metadata.TIMESTAMP, s.Timestamp.Signed.Expires)
	expired(metadata.SNAPSHOT, s.Snapshot.Signed.Expires)

	// Targets first, the root last: it is what makes a repository.
	var names []string
	for _, role := range slices.Sorted(maps.Keys(s.Targets)) {
		m := s.Targets[role]
		out.Versions[role] = m.Signed.Version
		expired(role, m.Signed.Expires)
		for _, name := range slices.Sorted(maps.Keys(m.Signed.Targets)) {
			t := m.Signed.Targets[name]
			if err := checkName(name); err != nil {
				return nil, fmt.Errorf("target %q: %w", name, err)
			}
			data, err := mirror(ctx, prefixedTarget(name, t.Hashes["sha256"].String()), t.Length)
			if err == nil {
				err = t.VerifyLengthHashes(data)
			}
			if err != nil {
				return nil, fmt.Errorf("target %s: %w; try another mirror", name, err)
			}
			if slices.Contains(names, name) {
				continue // two roles list it; the directory has room for one, and the published one has both
			}
			names = append(names, name)
			if err := r.writeAll(ctx, r.dir, []file{{name: targetsDir + "/" + name, data: data}}); err != nil {
				return nil, err
			}
			out.Targets++
		}
	}
	var files []file
	for i, root := range s.roots {
		files = append(files, file{name: historyFile(s.first + int64(i)), data: root})
	}
	for _, role := range slices.Sorted(maps.Keys(s.raw)) {
		files = append(files, file{name: roleFile(role), data: s.raw[role]})
	}
	for _, f := range [][]file{files, {{name: roleFile(metadata.ROOT), data: s.roots[len(s.roots)-1]}}} {
		if err := r.writeAll(ctx, r.dir, f); err != nil {
			return nil, err
		}
	}
	if _, err := r.load(); err != nil {
		return nil, err
	}
	return out, nil
}

// fetchState reads everything from a mirror that a state consists of, and verifies it as clients do, but for expiry.
func fetchState(ctx context.Context, mirror Mirror, pinned []byte) (*state, error) {
	known, err := parseRoot(pinned)
	if err != nil {
		return nil, fmt.Errorf("pinned root: %w", err)
	}
	s := newState(nil)
	// From the first root there is, which has to lead to the pinned one; else from that.
	var roots [][]byte
	first := int64(1)
	for v := first; ; v++ {
		data, err := mirror(ctx, versioned(metadata.ROOT, v), maxRoot)
		if errors.Is(err, fs.ErrNotExist) && v == 1 && known.Signed.Version > 1 {
			first, v, roots = known.Signed.Version, known.Signed.Version, append(roots, pinned)
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", versioned(metadata.ROOT, v), err)
		}
		if roots = append(roots, data); len(roots) > maxMirrorRoots {
			return nil, fmt.Errorf("the mirror has more than %d roots: it does not mean well", maxMirrorRoots)
		}
	}
	const elsewhere = "it is a mirror of another repository, or not a whole one"
	at := known.Signed.Version - first
	if at < 0 || at >= int64(len(roots)) {
		return nil, fmt.Errorf("the mirror has %d roots and not the pinned one, %d: %s", len(roots), known.Signed.Version, elsewhere)
	}
	if same, err := sameRoot(pinned, roots[at]); err != nil || !same {
		return nil, fmt.Errorf("root %d of the mirror is not the pinned root: %s", known.Signed.Version, elsewhere)
	}
	if err := s.chain(roots, func(v int64) string { return versioned(metadata.ROOT, v) }); err != nil {
		return nil, err
	}
	s.RefTime = time.Time{} // nothing has expired at that time

	data, err := mirror(ctx, "timestamp.json", maxTimestamp)
	if err == nil {
		_, err = s.UpdateTimestamp(data)
	}
	if err != nil {
		return nil, fmt.Errorf("timestamp.json: %w", err)
	}
	s.raw[metadata.TIMESTAMP] = data
	meta := s.Timestamp.Signed.Meta["snapshot.json"]
	if meta == nil {
		return nil, errors.New("timestamp.json: malformed metadata: lists no snapshot.json")
	}
	name := versioned(metadata.SNAPSHOT, meta.Version)
	if data, err = mirror(ctx, name, limitOf(meta)); err == nil {
		_, err = s.UpdateSnapshot(data, false)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s.raw[metadata.SNAPSHOT] = data

	type edge struct{ role, by string }
	for queue := []edge{{metadata.TARGETS, metadata.ROOT}}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if s.Targets[at.role] != nil {
			continue
		}
		meta := s.Snapshot.Signed.Meta[at.role+".json"]
		if meta == nil {
			return nil, fmt.Errorf("%s lists no %s.json", name, at.role)
		}
		file := versioned(at.role, meta.Version)
		data, err := mirror(ctx, file, limitOf(meta))
		var m *targetsMeta
		if err == nil {
			m, err = s.UpdateDelegatedTargets(data, at.role, at.by)
		}
		if err == nil {
			err = checkTargets(m)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		s.raw[at.role] = data
		d := s.Targets[at.role].Signed.Delegations
		if d == nil {
			continue
		}
		for _, r := range d.Roles {
			queue = append(queue, edge{r.Name, at.role})
		}
		if d.SuccinctRoles != nil {
			for _, bin := range d.SuccinctRoles.GetRoles() {
				if s.Snapshot.Signed.Meta[bin+".json"] != nil { // a bin without targets need not be there
					queue = append(queue, edge{bin, at.role})
				}
			}
		}
	}
	return s, nil
}

func limitOf(m *metadata.MetaFiles) int64 {
	if m.Length > 0 && m.Length < maxOther {
		return m.Length
	}
	return maxOther
}
