package tuf

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// maxVersion is the highest version number used here: the highest whole number that every JSON implementation reads as
// it was written. Whoever holds a stolen key can publish higher ones; nothing honest comes near.
const maxVersion = 1<<53 - 1

func nextVersion(role string, v int64) (int64, error) {
	if v < 0 || v >= maxVersion {
		return 0, fmt.Errorf("%s has version %d, which no version can follow: somebody may have raised it on purpose (a fast-forward attack); restore the metadata from before", role, v)
	}
	return v + 1, nil
}

// A document is one metadata file as far as signing is concerned, whatever its type.
type document struct {
	role       string
	version    int64
	payload    []byte // what is signed: the canonical form
	signatures *[]metadata.Signature
	encode     func() ([]byte, error)
}

func newDocument[T metadata.Roles](role string, m *metadata.Metadata[T]) (document, error) {
	payload, err := cjson.EncodeCanonical(m.Signed)
	if err != nil {
		return document{}, fmt.Errorf("canonical form of %s: %w", role, err)
	}
	d := document{role: role, payload: payload, signatures: &m.Signatures, encode: func() ([]byte, error) {
		data, err := m.ToBytes(true)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", role, err)
		}
		return data, nil
	}}
	switch s := any(&m.Signed).(type) {
	case *metadata.RootType:
		d.version = s.Version
	case *metadata.TargetsType:
		d.version = s.Version
	case *metadata.SnapshotType:
		d.version = s.Version
	case *metadata.TimestampType:
		d.version = s.Version
	}
	return d, nil
}

// digest identifies what is signed.
func (d document) digest() string {
	sum := sha256.Sum256(d.payload)
	return hex.EncodeToString(sum[:])
}

// put puts sig in place of an earlier signature by the same key. The key ids of signatures must be unique (4.2):
// clients refuse a file that has one twice, which is what go-tuf's own Sign would produce.
func (d document) put(sig metadata.Signature) {
	*d.signatures = slices.DeleteFunc(*d.signatures, func(old metadata.Signature) bool { return old.KeyID == sig.KeyID })
	*d.signatures = append(*d.signatures, sig)
}

// keep drops every signature but those that one of rings counts, and returns the key ids of the others that were no
// placeholders.
func (d document) keep(rings ...keyring) (dropped []string) {
	var good []string
	for _, ring := range rings {
		for _, id := range ring.ids {
			i := slices.IndexFunc(*d.signatures, func(s metadata.Signature) bool { return s.KeyID == id })
			if i >= 0 && verifySignature(ring.keys[id], d.payload, (*d.signatures)[i].Signature) == nil {
				good = append(good, id)
			}
		}
	}
	var kept []metadata.Signature
	for _, s := range *d.signatures {
		switch {
		case slices.Contains(good, s.KeyID):
			kept = append(kept, s)
		case len(s.Signature) > 0:
			dropped = append(dropped, s.KeyID)
		}
	}
	*d.signatures = append([]metadata.Signature{}, kept...)
	return dropped
}

// invite adds tuf-on-ci's placeholder, an empty signature, for every key of rings that has not signed.
func (d document) invite(rings ...keyring) {
	for _, ring := range rings {
		for _, id := range ring.ids {
			if !slices.ContainsFunc(*d.signatures, func(s metadata.Signature) bool { return s.KeyID == id }) {
				*d.signatures = append(*d.signatures, metadata.Signature{KeyID: id, Signature: metadata.HexBytes{}})
			}
		}
	}
}

// metaFile lists a metadata file with its length, without which clients stop reading at a fixed limit (5 MB for
// targets), and its hash, so that a mirror cannot slip in other bytes of the same version (4.4).
func metaFile(version int64, data []byte) *metadata.MetaFiles {
	sum := sha256.Sum256(data)
	return &metadata.MetaFiles{Version: version, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

func versioned(role string, version int64) string { return fmt.Sprintf("%d.%s.json", version, role) }

// parse reads a metadata file. go-tuf panics on null in place of a key or a file entry.
func parse[T metadata.Roles](m *metadata.Metadata[T], data []byte) (out *metadata.Metadata[T], err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, fmt.Errorf("malformed metadata: %v", p)
		}
	}()
	return m.FromBytes(data)
}

func parseRoot(data []byte) (*metadata.Metadata[metadata.RootType], error) {
	m, err := parse(metadata.Root(), data)
	if err != nil {
		return nil, err
	}
	for id, k := range m.Signed.Keys {
		if k == nil {
			return nil, fmt.Errorf("malformed metadata: key %s is null", id)
		}
	}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		if m.Signed.Roles[role] == nil {
			return nil, fmt.Errorf("malformed metadata: no role %s", role)
		}
	}
	return m, nil
}

func parseTargets(data []byte) (*metadata.Metadata[metadata.TargetsType], error) {
	m, err := parse(metadata.Targets(), data)
	if err == nil {
		err = checkTargets(m)
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// checkTargets refuses what the library reads and nobody can use.
func checkTargets(m *metadata.Metadata[metadata.TargetsType]) error {
	for name, t := range m.Signed.Targets {
		if t == nil {
			return fmt.Errorf("malformed metadata: target %q is null", name)
		}
	}
	d := m.Signed.Delegations
	if d == nil {
		return nil
	}
	for id, k := range d.Keys {
		if k == nil {
			return fmt.Errorf("malformed metadata: key %s is null", id)
		}
	}
	for _, r := range d.Roles {
		if err := checkRole(r.Name); err != nil {
			return fmt.Errorf("malformed metadata: %w", err)
		}
	}
	if d.SuccinctRoles == nil {
		return nil
	}
	if d.SuccinctRoles.BitLength > 16 {
		return fmt.Errorf("2^%d bins are more than this version takes", d.SuccinctRoles.BitLength)
	}
	if err := checkRole(d.SuccinctRoles.NamePrefix); err != nil {
		return fmt.Errorf("malformed metadata: %w", err)
	}
	return nil
}
