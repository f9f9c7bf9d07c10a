// Package tuf is the repository half that go-tuf does not have, and a client that fetches revocations from it.
//
// A [Repository] is a directory in the layout Sigstore publishes (N.root.json, N.targets.json, N.snapshot.json,
// timestamp.json, targets/<sha256>.<name>) that any static web server can serve and any TUF client can read. Beside
// the usual roles it has a delegated, terminating role "revocations" for the paths revocations/*, held by on-call
// responders: holders of root and targets keys take days to gather, a denial must take minutes.
//
// Section numbers in this package refer to the TUF specification, version 1.0.
package tuf

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"github.com/reseal/reseal/internal/durable"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

const (
	day     = 24 * time.Hour
	maxDays = 100 * 365
)

// defaultPeriods are how long a signature lasts. The revocations role may live long because freshness comes from the
// timestamp: a client learns of a new revocation, or that it is cut off, within the timestamp's period.
var defaultPeriods = map[string]time.Duration{
	metadata.ROOT:      365 * day,
	metadata.TARGETS:   180 * day,
	revocationsRole:    365 * day,
	metadata.SNAPSHOT:  21 * day,
	metadata.TIMESTAMP: 7 * day,
}

// A Repository publishes into one directory. It holds no state but the directory: every call reads what is published,
// so it is safe for concurrent use, also by several processes on one machine.
type Repository struct {
	dir  string
	now  func() time.Time
	hook func(point, name string) error // for tests: see reach
}

// InitOptions says what a new repository starts with.
type InitOptions struct {
	// The holders of each role and how many of them must sign. There is no default threshold: it is the decision
	// that matters most. Root and targets may share keys; the responders' and the online key stand apart, since a key
	// on call or online must not be able to do more than its role.
	RootKeys, TargetsKeys, RevocationKeys                []Signer
	RootThreshold, TargetsThreshold, RevocationThreshold int
	OnlineKey                                            Signer // signs snapshot and timestamp

	// How long a signature of each role lasts, in whole days. Zero means 365, 180, 365, 21 and 7 days. The
	// repository remembers them for later publishes.
	RootExpiry, TargetsExpiry, RevocationsExpiry, SnapshotExpiry, TimestampExpiry time.Duration

	Targets map[string][]byte // the first top-level targets, such as trusted_root.json
	Now     func() time.Time  // the clock; nil means time.Now
}

// Init creates a repository in dir and returns it. All holders sign the first version of their role; nothing is
// written unless clients would accept the whole. It refuses a directory that already holds TUF metadata: root
// metadata, once pinned by a client, cannot be made again. The file to hand to clients is 1.root.json.
func Init(dir string, o InitOptions) (*Repository, error) {
	r, err := initialise(dir, o)
	if err != nil {
		return nil, fmt.Errorf("tuf: init %s: %w", dir, err)
	}
	return r, nil
}

func initialise(dir string, o InitOptions) (*Repository, error) {
	periods, err := o.check()
	if err != nil {
		return nil, err
	}
	r := &Repository{dir: dir, now: o.Now}
	if r.now == nil {
		r.now = time.Now
	}
	if err := refuseExisting(dir); err != nil { // before any key is touched; again below, under the lock
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	root := metadata.Root(r.expiry(periods[metadata.ROOT]))
	root.Signed.UnrecognizedFields = periodFields(periods[metadata.ROOT])
	holders := func(role string, signers []Signer, threshold int) *metadata.Role {
		out := &metadata.Role{KeyIDs: []string{}, Threshold: threshold}
		for _, s := range signers {
			root.Signed.Keys[s.id] = s.key
			out.KeyIDs = append(out.KeyIDs, s.id)
		}
		root.Signed.Roles[role] = out
		return out
	}
	online := []Signer{o.OnlineKey}
	holders(metadata.ROOT, o.RootKeys, o.RootThreshold)
	holders(metadata.TARGETS, o.TargetsKeys, o.TargetsThreshold)
	holders(metadata.SNAPSHOT, online, 1).UnrecognizedFields = periodFields(periods[metadata.SNAPSHOT])
	holders(metadata.TIMESTAMP, online, 1).UnrecognizedFields = periodFields(periods[metadata.TIMESTAMP])

	targets := metadata.Targets(r.expiry(periods[metadata.TARGETS]))
	targets.Signed.UnrecognizedFields = periodFields(periods[metadata.TARGETS])
	responders := metadata.DelegatedRole{
		Name:        revocationsRole,
		Threshold:   o.RevocationThreshold,
		Terminating: true, // no later delegation can speak for these paths (4.5)
		Paths:       []string{revocationsPattern},
	}
	targets.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	for _, s := range o.RevocationKeys {
		targets.Signed.Delegations.Keys[s.id] = s.key
		responders.KeyIDs = append(responders.KeyIDs, s.id)
	}
	targets.Signed.Delegations.Roles = []metadata.DelegatedRole{responders}
	revocations := metadata.Targets(r.expiry(periods[revocationsRole]))
	revocations.Signed.UnrecognizedFields = periodFields(periods[revocationsRole])

	files, err := addTargets(metadata.TARGETS, targets, o.Targets)
	if err != nil {
		return nil, err
	}
	s := &state{&trustedmetadata.TrustedMetadata{
		Root:      root,
		Snapshot:  metadata.Snapshot(),
		Timestamp: metadata.Timestamp(),
		Targets:   map[string]*metadata.Metadata[metadata.TargetsType]{metadata.TARGETS: targets, revocationsRole: revocations},
	}}
	// commit counts up from the state before.
	s.Snapshot.Signed.Version, s.Timestamp.Signed.Version = 0, 0

	ring, err := s.ring(metadata.ROOT)
	if err != nil {
		return nil, err
	}
	if err := sign(ctx, root, ring, o.RootKeys...); err != nil {
		return nil, err
	}
	data, err := root.ToBytes(true)
	if err != nil {
		return nil, fmt.Errorf("encode root: %w", err)
	}
	files = append(files, file{versioned(metadata.ROOT, 1), data})
	for _, d := range []struct {
		role    string
		signers []Signer
	}{{metadata.TARGETS, o.TargetsKeys}, {revocationsRole, o.RevocationKeys}} {
		f, err := s.signTargets(ctx, d.role, d.signers)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	commit, err := r.commit(ctx, s, o.OnlineKey)
	if err != nil {
		return nil, err
	}
	files = append(files, commit...)
	if err := r.accept(files); err != nil {
		return nil, err
	}

	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	unlock, err := durable.Lock(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := refuseExisting(dir); err != nil {
		return nil, err
	}
	if err := r.writeAll(ctx, files); err != nil {
		return nil, fmt.Errorf("%w; remove what was written there and init again", err)
	}
	if parent, err := os.OpenRoot(filepath.Dir(filepath.Clean(dir))); err == nil {
		// The directory's own name must last too; a parent that may not be read cannot be synced.
		err := syncDir(parent, ".")
		parent.Close()
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

// refuseExisting fails when dir holds the metadata of a repository, whole or not.
func refuseExisting(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var root string
	for _, e := range entries {
		if e.Name() == "timestamp.json" {
			return errors.New("there is a repository already: open it, or choose another directory")
		}
		if strings.HasSuffix(e.Name(), ".root.json") {
			root = e.Name()
		}
	}
	if root != "" {
		return fmt.Errorf("there is a %s but no timestamp.json: if an init was interrupted, remove the directory and init again; if this was a published repository, restore it from a backup, for its root cannot be made again", root)
	}
	return nil
}

// check refuses options no sound repository can be made of, and returns the period of each role.
func (o InitOptions) check() (map[string]time.Duration, error) {
	holders := []struct {
		role      string
		signers   []Signer
		threshold int
	}{
		{metadata.ROOT, o.RootKeys, o.RootThreshold},
		{metadata.TARGETS, o.TargetsKeys, o.TargetsThreshold},
		{revocationsRole, o.RevocationKeys, o.RevocationThreshold},
		{"online", []Signer{o.OnlineKey}, 1},
	}
	owner := map[string]string{} // public key → the role that has it
	ids := map[string]string{}   // public key → key id
	for _, h := range holders {
		seen := map[string]bool{}
		for _, s := range h.signers {
			if s.private == nil {
				return nil, fmt.Errorf("an empty signer was given for role %q: make signers with NewSigner", h.role)
			}
			// Clients count keys, not key ids, towards a threshold.
			public := s.key.Value.PublicKey
			if seen[public] {
				return nil, fmt.Errorf("key %s was given twice for role %q", s.name(), h.role)
			}
			seen[public] = true
			if id, ok := ids[public]; ok && id != s.id {
				return nil, fmt.Errorf("key %s was given under two owners: publish it under one", s.name())
			}
			ids[public] = s.id
			other, taken := owner[public]
			if taken && (h.role == revocationsRole || h.role == "online") {
				return nil, fmt.Errorf("key %s is given for %s and %s: the responders and the online signer need keys of their own", s.name(), other, h.role)
			}
			owner[public] = h.role
		}
		if h.threshold < 1 || h.threshold > len(h.signers) {
			return nil, fmt.Errorf("threshold %d of %d keys for role %q: it must be between 1 and the number of keys", h.threshold, len(h.signers), h.role)
		}
	}
	periods := map[string]time.Duration{
		metadata.ROOT:      o.RootExpiry,
		metadata.TARGETS:   o.TargetsExpiry,
		revocationsRole:    o.RevocationsExpiry,
		metadata.SNAPSHOT:  o.SnapshotExpiry,
		metadata.TIMESTAMP: o.TimestampExpiry,
	}
	for role, p := range periods {
		if p == 0 {
			p = defaultPeriods[role]
		}
		if p < day || p%day != 0 || p > maxDays*day {
			return nil, fmt.Errorf("expiry period %s for role %q: it must be a whole number of days from 1 to %d", p, role, maxDays)
		}
		periods[role] = p
	}
	return periods, nil
}

func periodFields(p time.Duration) map[string]any {
	return map[string]any{fieldExpiry: float64(p / day)} // as it reads back from JSON
}

// Open returns the repository in dir after verifying what it publishes, from its first root down to the revocations,
// with the checks clients make. Expired metadata is no error: it can be renewed by publishing. An error names the
// file that is missing or wrong. Target files are not read.
func Open(dir string) (*Repository, error) {
	r := &Repository{dir: dir, now: time.Now}
	if _, err := load(r.read); err != nil {
		return nil, fmt.Errorf("tuf: open %s: %w; restore that file from a backup or a mirror", dir, err)
	}
	return r, nil
}

func (r *Repository) read(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(r.dir, filepath.FromSlash(name)))
}

// PublishRevocations adds or replaces targets (name → content) directly under revocations/, signed by the responders
// and the online key only. With no files it renews the role's expiry.
//
// Nothing is written unless there are enough signatures and clients would accept the result. Files are written
// durably, timestamp.json last: until it is in place clients see the state before, from then on the new one, and a
// publish that was cut off at any point, even by kill -9, is simply run again. There is no deleting: responders can
// only widen what is denied.
func (r *Repository) PublishRevocations(ctx context.Context, files map[string][]byte, responders []Signer, online Signer) error {
	return r.publish(ctx, revocationsRole, files, responders, online)
}

// PublishTargets adds or replaces top-level targets (name → content), anywhere but under revocations/, signed by
// holders of the targets keys and the online key. With no files it renews the role's expiry. Its guarantees are those
// of PublishRevocations.
func (r *Repository) PublishTargets(ctx context.Context, files map[string][]byte, holders []Signer, online Signer) error {
	return r.publish(ctx, metadata.TARGETS, files, holders, online)
}

func (r *Repository) publish(ctx context.Context, role string, targets map[string][]byte, signers []Signer, online Signer) error {
	unlock, err := durable.Lock(ctx, r.dir)
	if err != nil {
		return fmt.Errorf("tuf: publish %s: %w", role, err)
	}
	defer unlock()
	files, err := r.prepare(ctx, role, targets, signers, online)
	if err != nil {
		return fmt.Errorf("tuf: publish %s in %s: nothing was written: %w", role, r.dir, err)
	}
	if err := r.writeAll(ctx, files); err != nil {
		return fmt.Errorf("tuf: publish %s in %s: stopped; clients see the state before or, if timestamp.json was replaced, the new one; remove the cause and publish again: %w", role, r.dir, err)
	}
	return nil
}

// prepare makes and checks, in memory, the files that publish targets, in the order they are to be written.
func (r *Repository) prepare(ctx context.Context, role string, targets map[string][]byte, signers []Signer, online Signer) ([]file, error) {
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		if err := checkTarget(role, name); err != nil {
			return nil, err
		}
	}
	// What is published counts, not what an earlier call remembers: that one may have been cut off, or another
	// process may have published since. What a publish that was cut off left behind has version numbers no timestamp
	// ever named; it is overwritten.
	s, err := load(r.read)
	if err != nil {
		return nil, fmt.Errorf("the published state is damaged: %w; restore that file from a backup or a mirror", err)
	}
	m := s.Targets[role]
	if m == nil {
		_, err := s.ring(role)
		return nil, err
	}
	files, err := addTargets(role, m, targets)
	if err != nil {
		return nil, err
	}
	m.Signed.Version++
	m.Signed.Expires = r.expiry(s.period(role))
	for _, e := range []struct {
		role    string
		expires time.Time
	}{{metadata.ROOT, s.Root.Signed.Expires}, {metadata.TARGETS, s.Targets[metadata.TARGETS].Signed.Expires}} {
		// Clients check these before they come to what is published here. Order of repair: root, targets, revocations.
		if r.now().After(e.expires) {
			return nil, fmt.Errorf("%s expired on %s, so that no client would see this: have its key holders renew it first", e.role, e.expires.Format(time.RFC3339))
		}
	}
	f, err := s.signTargets(ctx, role, signers)
	if err != nil {
		return nil, err
	}
	commit, err := r.commit(ctx, s, online)
	if err != nil {
		return nil, err
	}
	files = append(append(files, f), commit...)
	return files, r.accept(files)
}

func addTargets(role string, m *metadata.Metadata[metadata.TargetsType], targets map[string][]byte) ([]file, error) {
	var files []file
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		if err := checkTarget(role, name); err != nil {
			return nil, err
		}
		f, err := addTarget(m, name, targets[name])
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// signTargets signs a targets role, enters it into the snapshot and returns its file.
func (s *state) signTargets(ctx context.Context, role string, signers []Signer) (file, error) {
	ring, err := s.ring(role)
	if err != nil {
		return file{}, err
	}
	m := s.Targets[role]
	if err := sign(ctx, m, ring, signers...); err != nil {
		return file{}, err
	}
	data, err := m.ToBytes(true)
	if err != nil {
		return file{}, fmt.Errorf("encode %s: %w", role, err)
	}
	s.Snapshot.Signed.Meta[role+".json"] = metaFile(m.Signed.Version, data)
	return file{versioned(role, m.Signed.Version), data}, nil
}

// commit makes the next snapshot and the timestamp that commits to it.
func (r *Repository) commit(ctx context.Context, s *state, online Signer) ([]file, error) {
	s.Snapshot.Signed.Version++
	s.Snapshot.Signed.Expires = r.expiry(s.period(metadata.SNAPSHOT))
	ring, err := s.ring(metadata.SNAPSHOT)
	if err != nil {
		return nil, err
	}
	if err := sign(ctx, s.Snapshot, ring, online); err != nil {
		return nil, err
	}
	snapshot, err := s.Snapshot.ToBytes(true)
	if err != nil {
		return nil, fmt.Errorf("encode snapshot: %w", err)
	}

	s.Timestamp.Signed.Meta["snapshot.json"] = metaFile(s.Snapshot.Signed.Version, snapshot)
	s.Timestamp.Signed.Version++
	s.Timestamp.Signed.Expires = r.expiry(s.period(metadata.TIMESTAMP))
	if ring, err = s.ring(metadata.TIMESTAMP); err != nil {
		return nil, err
	}
	if err := sign(ctx, s.Timestamp, ring, online); err != nil {
		return nil, err
	}
	timestamp, err := s.Timestamp.ToBytes(true)
	if err != nil {
		return nil, fmt.Errorf("encode timestamp: %w", err)
	}
	return []file{{versioned(metadata.SNAPSHOT, s.Snapshot.Signed.Version), snapshot}, {"timestamp.json", timestamp}}, nil
}

// metaFile lists a metadata file with its length, without which clients stop reading at a fixed limit (5 MB for
// targets), and its hash, so that a mirror cannot slip in other bytes of the same version (4.4).
func metaFile(version int64, data []byte) *metadata.MetaFiles {
	sum := sha256.Sum256(data)
	return &metadata.MetaFiles{Version: version, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

// accept verifies the repository as it will be once files are written, as a client does.
func (r *Repository) accept(files []file) error {
	_, err := load(func(name string) ([]byte, error) {
		for _, f := range files {
			if f.name == name {
				return f.data, nil
			}
		}
		return r.read(name)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the result would be incomplete: %w", err)
	}
	if err != nil {
		return fmt.Errorf("clients would refuse the result: %w", err)
	}
	return nil
}

// expiry is whole seconds in UTC, the one form the specification allows (4.2).
func (r *Repository) expiry(period time.Duration) time.Time {
	return r.now().UTC().Add(period).Truncate(time.Second)
}
