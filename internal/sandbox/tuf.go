package sandbox

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Holders of the keys of a TUF repository.
var (
	TUFHolders    = []string{"@alice", "@bob", "@carol"} // root and targets, two of three
	TUFResponders = []string{"@dave", "@erin", "@frank"} // revocations, two of three
)

// TUFOnline names the key that signs snapshot and timestamp.
const TUFOnline = "online"

// TUFRevocations is the role that denies.
const TUFRevocations = "revocations"

// TUF is a repository whose keys are all at hand, so that it can be kept well or badly. Its metadata may be changed
// freely between publications; every key that a role has signs.
type TUF struct {
	Root      *metadata.RootType
	Targets   map[string]*metadata.TargetsType // by role
	Snapshot  *metadata.SnapshotType
	Timestamp *metadata.TimestampType
	// Absent holders do not sign.
	Absent map[string]bool
	// Days each role lives.
	Days map[string]int

	now   func() time.Time
	keys  map[string]crypto.Signer // by holder
	known map[string]*metadata.Key // by key id
	owner map[string]string        // key id → holder
	last  *metadata.RootType       // as published
	files map[string][]byte        // the published layout
	dirty map[string]bool
	blobs map[string][]byte // content of targets by name
}

// NewTUF makes a repository at version 1 that has published nothing yet.
func NewTUF(now func() time.Time) (*TUF, error) {
	t := &TUF{
		Root: &metadata.Root().Signed, Snapshot: &metadata.Snapshot().Signed, Timestamp: &metadata.Timestamp().Signed,
		Targets: map[string]*metadata.TargetsType{metadata.TARGETS: &metadata.Targets().Signed, TUFRevocations: &metadata.Targets().Signed},
		Absent:  map[string]bool{},
		Days:    map[string]int{metadata.ROOT: 365, metadata.TARGETS: 180, TUFRevocations: 365, metadata.SNAPSHOT: 21, metadata.TIMESTAMP: 7},
		now:     now, keys: map[string]crypto.Signer{}, known: map[string]*metadata.Key{}, owner: map[string]string{},
		files: map[string][]byte{}, dirty: map[string]bool{metadata.TARGETS: true, TUFRevocations: true}, blobs: map[string][]byte{},
	}
	t.Root.Version, t.Snapshot.Version, t.Timestamp.Version = 0, 0, 0
	for _, m := range t.Targets {
		m.Version = 0
	}
	t.Root.Roles = map[string]*metadata.Role{}
	for _, role := range []string{metadata.ROOT, metadata.TARGETS} {
		if err := t.Hold(role, 2, TUFHolders...); err != nil {
			return nil, err
		}
	}
	for _, role := range []string{metadata.SNAPSHOT, metadata.TIMESTAMP} {
		if err := t.Hold(role, 1, TUFOnline); err != nil {
			return nil, err
		}
	}
	d := metadata.DelegatedRole{Name: TUFRevocations, Threshold: 2, Terminating: true, Paths: []string{TUFRevocations + "/*"}}
	t.Targets[metadata.TARGETS].Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	for _, who := range TUFResponders {
		id, err := t.Key(who)
		if err != nil {
			return nil, err
		}
		d.KeyIDs = append(d.KeyIDs, id)
		t.Targets[metadata.TARGETS].Delegations.Keys[id] = t.known[id]
	}
	t.Targets[metadata.TARGETS].Delegations.Roles = []metadata.DelegatedRole{d}
	return t, nil
}

// Key returns the id of a holder's key, which is made when there is none.
func (t *TUF) Key(holder string) (string, error) {
	private, ok := t.keys[holder]
	if !ok {
		_, made, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return "", err
		}
		private = made
		t.keys[holder] = made
	}
	key, err := metadata.KeyFromPublicKey(private.Public())
	if err != nil {
		return "", err
	}
	key.UnrecognizedFields = map[string]any{"x-tuf-on-ci-keyowner": holder}
	if !strings.HasPrefix(holder, "@") {
		key.UnrecognizedFields = map[string]any{"x-tuf-on-ci-online-uri": "file:" + holder}
	}
	id, err := key.ID()
	t.known[id], t.owner[id] = key, holder
	return id, err
}

// Lose forgets a holder's key, so that they get another.
func (t *TUF) Lose(holder string) { delete(t.keys, holder) }

// Hold says who holds a top-level role. The next root publishes it.
func (t *TUF) Hold(role string, threshold int, holders ...string) error {
	r := &metadata.Role{Threshold: threshold}
	if role == metadata.SNAPSHOT || role == metadata.TIMESTAMP {
		r.UnrecognizedFields = map[string]any{"x-tuf-on-ci-expiry-period": float64(t.Days[role])}
	}
	for _, who := range holders {
		id, err := t.Key(who)
		if err != nil {
			return err
		}
		r.KeyIDs = append(r.KeyIDs, id)
	}
	t.Root.Roles[role] = r
	t.Root.Keys = map[string]*metadata.Key{}
	for _, r := range t.Root.Roles {
		for _, id := range r.KeyIDs {
			t.Root.Keys[id] = t.known[id]
		}
	}
	return nil
}

// Put adds or replaces a target. Those under revocations/ are the responders'.
func (t *TUF) Put(name string, data []byte) error {
	if strings.HasPrefix(name, TUFRevocations+"/") {
		return t.PutIn(TUFRevocations, name, data)
	}
	return t.PutIn(metadata.TARGETS, name, data)
}

// PutIn adds or replaces a target of a role.
func (t *TUF) PutIn(role, name string, data []byte) error {
	f, err := metadata.TargetFile().FromBytes(name, data, "sha256")
	if err != nil {
		return err
	}
	t.Targets[role].Targets[name] = f
	t.blobs[name] = data
	t.dirty[role] = true
	return nil
}

// Delegate adds a role below another one, whose holders are given.
func (t *TUF) Delegate(by string, role metadata.DelegatedRole, holders ...string) error {
	m := t.Targets[by]
	if m.Delegations == nil {
		m.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	}
	for _, who := range holders {
		id, err := t.Key(who)
		if err != nil {
			return err
		}
		role.KeyIDs = append(role.KeyIDs, id)
		m.Delegations.Keys[id] = t.known[id]
	}
	m.Delegations.Roles = append(m.Delegations.Roles, role)
	t.dirty[by] = true
	if t.Targets[role.Name] == nil {
		t.Targets[role.Name] = &metadata.Targets().Signed
		t.Targets[role.Name].Version = 0
		t.dirty[role.Name] = true
	}
	return nil
}

// Touch has a targets role signed anew by the next publication.
func (t *TUF) Touch(role string) { t.dirty[role] = true }

// Rotate signs and publishes the next root, by the holders of the last one and of the next.
func (t *TUF) Rotate() error {
	t.Root.Version++
	t.Root.Expires = t.expiry(metadata.ROOT)
	t.Root.UnrecognizedFields = t.period(metadata.ROOT)
	ids := slices.Clone(t.Root.Roles[metadata.ROOT].KeyIDs)
	if t.last != nil {
		for _, id := range t.last.Roles[metadata.ROOT].KeyIDs {
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	data, err := signTUF(t, *t.Root, ids)
	if err != nil {
		return err
	}
	t.files[fmt.Sprintf("%d.root.json", t.Root.Version)] = data
	m, err := metadata.Root().FromBytes(data)
	if err != nil {
		return err
	}
	t.last = &m.Signed
	return nil
}

// Publish signs what changed, the snapshot and the timestamp; the first time root, too.
func (t *TUF) Publish() error {
	if t.last == nil {
		if err := t.Rotate(); err != nil {
			return err
		}
	}
	for _, role := range slices.Sorted(maps.Keys(t.Targets)) {
		if !t.dirty[role] {
			continue
		}
		m := t.Targets[role]
		m.Version++
		m.Expires = t.expiry(role)
		m.UnrecognizedFields = t.period(role)
		data, err := signTUF(t, *m, t.idsOf(role))
		if err != nil {
			return err
		}
		t.Snapshot.Meta[role+".json"] = metaOf(m.Version, data)
		t.files[fmt.Sprintf("%d.%s.json", m.Version, url.PathEscape(role))] = data
		delete(t.dirty, role)
	}
	t.Snapshot.Version++
	t.Snapshot.Expires = t.expiry(metadata.SNAPSHOT)
	data, err := signTUF(t, *t.Snapshot, t.last.Roles[metadata.SNAPSHOT].KeyIDs)
	if err != nil {
		return err
	}
	t.files[fmt.Sprintf("%d.snapshot.json", t.Snapshot.Version)] = data
	t.Timestamp.Meta["snapshot.json"] = metaOf(t.Snapshot.Version, data)
	t.Timestamp.Version++
	t.Timestamp.Expires = t.expiry(metadata.TIMESTAMP)
	if data, err = signTUF(t, *t.Timestamp, t.last.Roles[metadata.TIMESTAMP].KeyIDs); err != nil {
		return err
	}
	t.files["timestamp.json"] = data
	for _, m := range t.Targets {
		for name, f := range m.Targets {
			if content, ok := t.blobs[name]; ok {
				dir, base := path.Split(name)
				t.files[path.Join("targets", dir, f.Hashes["sha256"].String()+"."+base)] = content
			}
		}
	}
	return nil
}

func (t *TUF) idsOf(role string) []string {
	if r := t.last.Roles[role]; r != nil {
		return r.KeyIDs
	}
	var ids []string
	for _, by := range slices.Sorted(maps.Keys(t.Targets)) {
		d := t.Targets[by].Delegations
		if d == nil {
			continue
		}
		for _, x := range d.Roles {
			if x.Name == role {
				ids = append(ids, x.KeyIDs...)
			}
		}
		if d.SuccinctRoles != nil && d.SuccinctRoles.IsDelegatedRole(role) {
			ids = append(ids, d.SuccinctRoles.KeyIDs...)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func (t *TUF) expiry(role string) time.Time {
	days, ok := t.Days[role]
	if !ok {
		days = t.Days[metadata.TARGETS]
	}
	return t.now().UTC().Truncate(time.Second).AddDate(0, 0, days)
}

func (t *TUF) period(role string) map[string]any {
	days, ok := t.Days[role]
	if !ok {
		return nil
	}
	return map[string]any{"x-tuf-on-ci-expiry-period": float64(days)}
}

func metaOf(version int64, data []byte) *metadata.MetaFiles {
	sum := sha256.Sum256(data)
	return &metadata.MetaFiles{Version: version, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

// signTUF signs metadata with the keys of some ids.
func signTUF[T metadata.Roles](t *TUF, signed T, ids []string) ([]byte, error) {
	m := metadata.Metadata[T]{Signed: signed, Signatures: []metadata.Signature{}}
	payload, err := cjson.EncodeCanonical(signed)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if t.Absent[t.owner[id]] {
			continue
		}
		sig, err := t.SignAs(id, payload)
		if err != nil {
			return nil, err
		}
		if sig == nil {
			continue // the key is lost
		}
		m.Signatures = append(m.Signatures, metadata.Signature{KeyID: id, Signature: sig})
	}
	return m.ToBytes(true)
}

// SignAs signs a payload with the key of an id; nil when it is lost.
func (t *TUF) SignAs(id string, payload []byte) ([]byte, error) {
	key, private := t.known[id], t.keys[t.owner[id]]
	if key == nil || private == nil {
		return nil, nil
	}
	public, err := key.ToPublicKey()
	if err != nil {
		return nil, err
	}
	if p, ok := private.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !p.Equal(public) {
		return nil, nil
	}
	switch {
	case key.Type == metadata.KeyTypeEd25519:
		return private.Sign(rand.Reader, payload, crypto.Hash(0))
	case key.Scheme == metadata.KeySchemeECDSA_SHA2_P384:
		sum := sha512.Sum384(payload)
		return private.Sign(rand.Reader, sum[:], crypto.SHA384)
	}
	sum := sha256.Sum256(payload)
	return private.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// HoldAs adds a holder with a key of any kind to a top-level role.
func (t *TUF) HoldAs(role string, key *metadata.Key, private crypto.Signer) error {
	t.keys[key.Value.PublicKey] = private
	return t.Alias(role, key, key.Value.PublicKey)
}

// Alias adds a key to a top-level role that a holder signs with, too.
func (t *TUF) Alias(role string, key *metadata.Key, holder string) error {
	id, err := key.ID()
	if err != nil {
		return err
	}
	t.known[id], t.owner[id] = key, holder
	t.Root.Keys[id] = key
	t.Root.Roles[role].KeyIDs = append(t.Root.Roles[role].KeyIDs, id)
	return nil
}

// Files returns everything that was published, by name. Changing it changes what is published.
func (t *TUF) Files() map[string][]byte { return t.files }

// Source returns the files as tuf-on-ci keeps them in git.
func (t *TUF) Source() map[string][]byte {
	out := map[string][]byte{"metadata/timestamp.json": t.files["timestamp.json"]}
	for name, data := range t.files {
		if strings.HasSuffix(name, ".root.json") {
			out["metadata/root_history/"+name] = data
		}
	}
	out["metadata/root.json"] = t.files[fmt.Sprintf("%d.root.json", t.last.Version)]
	out["metadata/snapshot.json"] = t.files[fmt.Sprintf("%d.snapshot.json", t.Snapshot.Version)]
	for role, m := range t.Targets {
		out["metadata/"+role+".json"] = t.files[fmt.Sprintf("%d.%s.json", m.Version, role)]
	}
	for name, data := range t.blobs {
		out["targets/"+name] = data
	}
	return out
}

// WriteFiles writes files below a directory.
func WriteFiles(dir string, files map[string][]byte) error {
	for name, data := range files {
		to := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
