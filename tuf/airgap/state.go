package airgap

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// reader returns the content of a file of metadata, or fs.ErrNotExist.
type reader func(name string) ([]byte, error)

// state is a published repository, verified.
type state struct {
	*trustedmetadata.TrustedMetadata
	oldest, newest int64
	versions       map[string]int64
	expires        time.Time
	files          map[string]bool   // every file it is made of; true: it must be there
	targets        map[string]wanted // target files
	denied         []string          // names of targets under revocations/
	metadata       map[string][]byte // content of the files of metadata, but roots
}

// wanted is what is signed about a target file.
type wanted struct {
	sha256 string
	size   int64
}

const revocations = "revocations/"

// trust is what a repository has to follow from.
type trust struct {
	root []byte // content of a root
	old  reader // the state seen before; nil: none
	now  time.Time
}

// verify reads a published repository from a trusted root down, with the very checks of a client that has seen the old
// state (TUF specification 5.3 to 5.6). Its roots are oldest to newest.
func verify(read reader, oldest, newest int64, t trust) (s *state, err error) {
	name := "root"
	defer func() {
		if p := recover(); p != nil { // go-tuf does not expect null in place of a key or a file entry
			s, err = nil, refuse(Untrusted, "find out who made it", "%s: malformed metadata: %v", name, p)
		}
	}()
	s = &state{
		oldest: oldest, newest: newest, versions: map[string]int64{}, files: map[string]bool{}, targets: map[string]wanted{},
		metadata: map[string][]byte{},
	}
	if s.TrustedMetadata, err = trustedmetadata.New(t.root); err != nil {
		return nil, advise("the trusted root", err)
	}
	s.RefTime = t.now
	if v := s.Root.Signed.Version; v < oldest || v > newest {
		return nil, refuse(Rollback, "export it with every root", "root %d is trusted, and there are root %d to %d: a root that is missing cannot be walked past", v, oldest, newest)
	}
	for v := oldest; v <= newest; v++ {
		name = versioned(metadata.ROOT, v)
		s.files[name] = true
		data, err := read(name)
		if err != nil {
			return nil, advise(name, err)
		}
		switch at := s.Root.Signed.Version; {
		case v < at: // clients that start from it judge it by themselves
		case v == at:
			if !sameRoot(data, t.root) {
				return nil, refuse(Untrusted, "find out which is true, from the key holders", "%s is another root %d than the trusted one", name, v)
			}
		default:
			if _, err := s.UpdateRoot(data); err != nil {
				return nil, advise(name, err)
			}
		}
	}
	if !s.Root.Signed.ConsistentSnapshot {
		return nil, refuse(Untrusted, "set consistent_snapshot in the next root", "root %d says that files are replaced in place: such a repository cannot be carried as a whole", newest)
	}
	s.versions[metadata.ROOT] = newest
	s.soonest(s.Root.Signed.Expires)

	name = "timestamp.json"
	data, err := s.take(read, name)
	if err != nil {
		return nil, err
	}
	if err := s.timestamp(data, t.old); err != nil {
		return nil, advise(name, err)
	}
	name = versioned(metadata.SNAPSHOT, s.Timestamp.Signed.Meta["snapshot.json"].Version)
	if data, err = s.take(read, name); err != nil {
		return nil, err
	}
	if err := s.snapshot(data, t.old); err != nil {
		return nil, advise(name, err)
	}
	s.versions[metadata.TIMESTAMP], s.versions[metadata.SNAPSHOT] = s.Timestamp.Signed.Version, s.Snapshot.Signed.Version
	s.soonest(s.Timestamp.Signed.Expires)
	s.soonest(s.Snapshot.Signed.Expires)

	queue := [][2]string{{metadata.TARGETS, metadata.ROOT}}
	for len(queue) > 0 {
		role, delegator := queue[0][0], queue[0][1]
		queue = queue[1:]
		if s.Targets[role] != nil {
			continue // delegated by two
		}
		meta := s.Snapshot.Signed.Meta[role+".json"]
		if meta == nil {
			if role == metadata.TARGETS {
				return nil, refuse(Incomplete, "publish it anew", "the snapshot lists no targets.json")
			}
			if err := s.notBefore(role, delegator, t.old); err != nil {
				return nil, err
			}
			continue // not published yet: no client of the original finds it either
		}
		name = versioned(role, meta.Version)
		if data, err = s.take(read, name); err != nil {
			return nil, err
		}
		m, err := s.UpdateDelegatedTargets(data, role, delegator)
		if err != nil {
			return nil, advise(name, err)
		}
		if err := s.notBefore(role, delegator, t.old); err != nil {
			return nil, err
		}
		s.versions[role] = m.Signed.Version
		s.soonest(m.Signed.Expires)
		if err := s.list(m.Signed.Targets); err != nil {
			return nil, err
		}
		if d := m.Signed.Delegations; d != nil {
			for _, x := range d.Roles {
				queue = append(queue, [2]string{x.Name, role})
			}
			if d.SuccinctRoles != nil && d.SuccinctRoles.BitLength >= 1 && d.SuccinctRoles.BitLength <= 16 {
				for _, bin := range d.SuccinctRoles.GetRoles() {
					queue = append(queue, [2]string{bin, role})
				}
			} else if d.SuccinctRoles != nil {
				return nil, refuse(TooLarge, "", "%s shares its targets among 2 to the %d roles", role, d.SuccinctRoles.BitLength)
			}
		}
	}
	slices.Sort(s.denied)
	return s, nil
}

// take reads a file of metadata and keeps it.
func (s *state) take(read reader, name string) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, refuse(Untrusted, "", "%v", err)
	}
	data, err := read(name)
	if err != nil {
		return nil, advise(name, err)
	}
	s.files[name], s.metadata[name] = true, data
	return data, nil
}

// timestamp takes the timestamp, unless the old state has a newer one that its present keys signed. One whose keys were
// replaced since counts no more: that is how a repository recovers from versions that a thief counted up (5.3.11).
func (s *state) timestamp(data []byte, old reader) error {
	if old != nil {
		if before, err := old("timestamp.json"); err == nil {
			_, _ = s.UpdateTimestamp(before) // one that has expired is kept to compare with all the same
		}
	}
	was := s.Timestamp
	_, err := s.UpdateTimestamp(data)
	if equal := new(metadata.ErrEqualVersionNumber); errors.As(err, &equal) {
		now, parseErr := metadata.Timestamp().FromBytes(data)
		if parseErr != nil {
			return parseErr
		}
		if !sameSigned(now.Signed, was.Signed) {
			return refuse(Rollback, "find out who made it", "timestamp.json has the version %d of the one that was imported before, and another content", now.Signed.Version)
		}
		if was.Signed.IsExpired(s.RefTime) {
			return &metadata.ErrExpiredMetadata{Msg: "timestamp.json is expired"}
		}
		err = nil
	}
	if err != nil {
		return err
	}
	if s.Timestamp.Signed.Meta["snapshot.json"] == nil {
		return errors.New("it lists no snapshot.json")
	}
	return nil
}

func (s *state) snapshot(data []byte, old reader) error {
	if old != nil {
		if before := newest(old, metadata.SNAPSHOT); before != nil {
			_, _ = s.UpdateSnapshot(before, true)
		}
	}
	_, err := s.UpdateSnapshot(data, false)
	var repository *metadata.ErrRepository
	if errors.As(err, &repository) {
		return refuse(Rollback, "ask whoever made it for the newest one", "%v", err)
	}
	return err
}

// newest returns the metadata of snapshot that the old timestamp names, or nil.
func newest(old reader, role string) []byte {
	data, err := old("timestamp.json")
	if err != nil {
		return nil
	}
	var head struct {
		Signed struct {
			Meta map[string]struct {
				Version int64 `json:"version"`
			} `json:"meta"`
		} `json:"signed"`
	}
	if json.Unmarshal(data, &head) != nil {
		return nil
	}
	data, err = old(versioned(role, head.Signed.Meta[role+".json"].Version))
	if err != nil {
		return nil
	}
	return data
}

// notBefore refuses a role that is older than in the old state, or gone, even when the online keys were replaced in between and
// the old snapshot counts no more: what the holders of the role signed last still binds it, as long as they hold it.
func (s *state) notBefore(role, delegator string, old reader) error {
	if old == nil {
		return nil
	}
	data := newest(old, metadata.SNAPSHOT)
	if data == nil {
		return nil
	}
	snapshot, err := metadata.Snapshot().FromBytes(data)
	if err != nil || snapshot.Signed.Meta[role+".json"] == nil {
		return nil
	}
	if data, err = old(versioned(role, snapshot.Signed.Meta[role+".json"].Version)); err != nil {
		return nil
	}
	before, err := metadata.Targets().FromBytes(data)
	if err != nil {
		return nil
	}
	if delegator == metadata.ROOT {
		err = s.Root.VerifyDelegate(role, before)
	} else {
		err = s.Targets[delegator].VerifyDelegate(role, before)
	}
	if err != nil {
		return nil
	}
	if s.Targets[role] == nil {
		return refuse(Rollback, "have the repository published with it, and export it anew", "the snapshot lists no %s.json, and version %d was imported before", role, before.Signed.Version)
	}
	if now := s.Targets[role].Signed.Version; now < before.Signed.Version {
		return refuse(Rollback, "ask whoever made it for the newest one", "%s is at version %d, and version %d was imported before", role, now, before.Signed.Version)
	}
	return nil
}

// list enters the files of targets. With several hashes a file has several names, and clients may ask for any.
func (s *state) list(targets map[string]*metadata.TargetFiles) error {
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		f := targets[name]
		if f == nil || f.Hashes["sha256"] == nil {
			return refuse(Untrusted, "publish it anew with sha256", "target %q has no SHA-256", name)
		}
		dir, base := path.Split(name)
		for algorithm, sum := range f.Hashes {
			file := "targets/" + dir + sum.String() + "." + base
			if err := checkName(file); err != nil {
				return refuse(Untrusted, "publish it under another name", "target: %v", err)
			}
			s.files[file] = s.files[file] || algorithm == "sha256"
			s.targets[file] = wanted{f.Hashes["sha256"].String(), f.Length}
		}
		if strings.HasPrefix(name, revocations) && !slices.Contains(s.denied, name) {
			s.denied = append(s.denied, name)
		}
	}
	return nil
}

func (s *state) soonest(t time.Time) {
	if s.expires.IsZero() || t.Before(s.expires) {
		s.expires = t.UTC()
	}
}

// versioned names a file of metadata; role names are escaped as go-tuf's client does it.
func versioned(role string, version int64) string {
	return fmt.Sprintf("%d.%s.json", version, url.PathEscape(role))
}

// sameRoot reports whether two files hold the same root, whoever signed it.
func sameRoot(a, b []byte) bool {
	x, errX := metadata.Root().FromBytes(a)
	y, errY := metadata.Root().FromBytes(b)
	return errX == nil && errY == nil && sameSigned(x.Signed, y.Signed)
}

func sameSigned(a, b any) bool {
	x, errX := cjson.EncodeCanonical(a)
	y, errY := cjson.EncodeCanonical(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// span returns the versions of root among names, which must have no gap.
func span(names []string) (oldest, newest int64, err error) {
	var list []int64
	for _, name := range names {
		if m := rootFile.FindStringSubmatch(name); m != nil {
			var v int64
			if _, err := fmt.Sscan(m[1], &v); err == nil {
				list = append(list, v)
			}
		}
	}
	if len(list) == 0 {
		return 0, 0, refuse(Incomplete, "give a published repository: the directory that holds timestamp.json and N.root.json", "there is no root: %v", fs.ErrNotExist)
	}
	slices.Sort(list)
	for n, v := range list[1:] {
		if v != list[n]+1 {
			return 0, 0, refuse(Incomplete, "restore it from a backup or a mirror", "root %d is missing: clients that know root %d cannot walk on", list[n]+1, list[n])
		}
	}
	return list[0], list[len(list)-1], nil
}
