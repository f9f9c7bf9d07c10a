package rehearsal

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/reseal/reseal/signer"
)

// An attacker has a copy of what is published and keys that were stolen. It heeds no rule of this project's.
type attacker struct {
	dir       string
	root      *metadata.Metadata[metadata.RootType]
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	targets   *metadata.Metadata[metadata.TargetsType]
	files     map[string][]byte
}

func (w *World) attack(name string) (*attacker, error) {
	dir, err := w.copyOf(name)
	if err != nil {
		return nil, err
	}
	a := &attacker{dir: dir, files: map[string][]byte{}}
	if a.root, err = metadata.Root().FromBytes(w.Roots[len(w.Roots)-1]); err != nil {
		return nil, err
	}
	if a.timestamp, err = metadata.Timestamp().FromFile(filepath.Join(dir, "timestamp.json")); err != nil {
		return nil, err
	}
	v := a.timestamp.Signed.Meta["snapshot.json"].Version
	if a.snapshot, err = metadata.Snapshot().FromFile(filepath.Join(dir, fmt.Sprintf("%d.snapshot.json", v))); err != nil {
		return nil, err
	}
	v = a.snapshot.Signed.Meta["targets.json"].Version
	a.targets, err = metadata.Targets().FromFile(filepath.Join(dir, fmt.Sprintf("%d.targets.json", v)))
	return a, err
}

// signWith signs with every key, under whichever id root lists it, or the key's own.
func signWith[T metadata.Roles](ctx context.Context, root *metadata.RootType, m *metadata.Metadata[T], keys ...signer.Signer) error {
	payload, err := cjson.EncodeCanonical(m.Signed)
	if err != nil {
		return err
	}
	m.Signatures = []metadata.Signature{}
	for _, k := range keys {
		id := ""
		for keyID, listed := range root.Keys {
			public, err := listed.ToPublicKey()
			if err != nil {
				return err
			}
			if of, err := signer.OfKey(public); err == nil && of == k.Identity() {
				id = keyID
			}
		}
		if id == "" {
			own, err := metadata.KeyFromPublicKey(k.PublicKey())
			if err == nil {
				id, err = own.ID()
			}
			if err != nil {
				return err
			}
		}
		sig, err := k.Sign(ctx, payload)
		if err != nil {
			return err
		}
		m.Signatures = append(m.Signatures, metadata.Signature{KeyID: id, Signature: sig})
	}
	return nil
}

func (a *attacker) write(name string, data []byte) error {
	name = filepath.Join(a.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, data, 0o644)
}

func put[T metadata.Roles](a *attacker, name string, m *metadata.Metadata[T]) (*metadata.MetaFiles, error) {
	data, err := m.ToBytes(true)
	if err != nil {
		return nil, err
	}
	return &metadata.MetaFiles{Length: int64(len(data))}, a.write(name, data)
}

func soon() time.Time { return time.Now().UTC().Add(24 * time.Hour).Truncate(time.Second) }

// target makes the targets say something else.
func (a *attacker) target(ctx context.Context, name string, data []byte, keys ...signer.Signer) error {
	t, err := metadata.TargetFile().FromBytes(name, data, "sha256")
	if err != nil {
		return err
	}
	a.targets.Signed.Targets[name] = t
	a.targets.Signed.Version++
	a.targets.Signed.Expires = soon()
	if err := signWith(ctx, &a.root.Signed, a.targets, keys...); err != nil {
		return err
	}
	dir, base := path.Split(name)
	return a.write(path.Join("targets", dir, t.Hashes["sha256"].String()+"."+base), data)
}

// serve signs a snapshot and a timestamp of those versions, over the targets as they are.
func (a *attacker) serve(ctx context.Context, version int64, keys ...signer.Signer) error {
	meta, err := put(a, fmt.Sprintf("%d.targets.json", a.targets.Signed.Version), a.targets)
	if err != nil {
		return err
	}
	meta.Version = a.targets.Signed.Version
	a.snapshot.Signed.Meta["targets.json"] = meta
	a.snapshot.Signed.Version, a.snapshot.Signed.Expires = version, soon()
	if err := signWith(ctx, &a.root.Signed, a.snapshot, keys...); err != nil {
		return err
	}
	if meta, err = put(a, fmt.Sprintf("%d.snapshot.json", version), a.snapshot); err != nil {
		return err
	}
	meta.Version = version
	a.timestamp.Signed.Meta["snapshot.json"] = meta
	a.timestamp.Signed.Version, a.timestamp.Signed.Expires = version, soon()
	if err := signWith(ctx, &a.root.Signed, a.timestamp, keys...); err != nil {
		return err
	}
	_, err = put(a, "timestamp.json", a.timestamp)
	return err
}

// usurp makes a root after the newest in which every role is held by one key of the attacker's, signed with the keys
// given and that one.
func (a *attacker) usurp(ctx context.Context, own signer.Signer, stolen ...signer.Signer) error {
	key, err := metadata.KeyFromPublicKey(own.PublicKey())
	if err != nil {
		return err
	}
	id, err := key.ID()
	if err != nil {
		return err
	}
	before := a.root.Signed
	next := metadata.Root(soon())
	next.Signed.Version = before.Version + 1
	next.Signed.Keys = map[string]*metadata.Key{id: key}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		next.Signed.Roles[role] = &metadata.Role{KeyIDs: []string{id}, Threshold: 1}
	}
	if err := signWith(ctx, &before, next, append(stolen, own)...); err != nil {
		return err
	}
	a.root = next
	_, err = put(a, fmt.Sprintf("%d.root.json", next.Signed.Version), next)
	return err
}
