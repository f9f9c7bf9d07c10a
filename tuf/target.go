package tuf

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

const (
	revocationsRole   = "revocations"
	revocationsPrefix = "revocations/"
	// In TUF a wildcard stays within one path component (TUF specification 4.5): this covers revocations/a.json but
	// not revocations/2026/a.json.
	revocationsPattern = revocationsPrefix + "*"
)

// maxName keeps <sha256>.<name> and a client's escaped cache file below the 255 bytes that file systems allow.
const maxName = 150

// checkTarget refuses a target name that role may not publish.
func checkTarget(role, name string) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("target %q: %w", name, err)
	}
	rest, under := strings.CutPrefix(name, revocationsPrefix)
	switch {
	case role == revocationsRole && !under:
		return fmt.Errorf("target %q does not lie under %s: responders may publish nothing else; ask the holders of the targets keys", name, revocationsPrefix)
	case role == revocationsRole && strings.Contains(rest, "/"):
		return fmt.Errorf("target %q is not directly under %s: clients match the delegation %s within one directory", name, revocationsPrefix, revocationsPattern)
	case role != revocationsRole && under:
		// Top-level targets win over delegated ones: this would silently hide what the responders publish.
		return fmt.Errorf("target %q belongs to the role %q: publish it with the responders' keys", name, revocationsRole)
	}
	return nil
}

// checkName admits names that mean the same as a relative file path, as part of a URL and on any file system. TUF
// clients build the URL by plain concatenation, so nothing that needs escaping is allowed.
func checkName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("name is longer than %d bytes", maxName)
	}
	if !fs.ValidPath(name) || name == "." {
		return errors.New("name must be a clean relative path that stays inside the repository")
	}
	for _, part := range strings.Split(name, "/") {
		if part[0] == '.' {
			return errors.New("no part of the name may begin with a dot")
		}
	}
	for _, c := range name {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.ContainsRune("/._-+@=", c):
		default:
			return fmt.Errorf("character %q is not allowed: use letters, digits and . _ - + @ =", c)
		}
	}
	return nil
}

// addTarget lists data under name in m and returns the file to store for it: <dir>/<sha256>.<base>, as consistent
// snapshots want it (TUF specification 6.2). One hash only: with more, go-tuf clients pick one at random for the URL.
func addTarget(m *metadata.Metadata[metadata.TargetsType], name string, data []byte) (file, error) {
	t, err := metadata.TargetFile().FromBytes(name, data, "sha256")
	if err != nil {
		return file{}, fmt.Errorf("target %q: %w", name, err)
	}
	if old := m.Signed.Targets[name]; old != nil {
		t.Custom, t.UnrecognizedFields = old.Custom, old.UnrecognizedFields
	}
	if m.Signed.Targets == nil {
		m.Signed.Targets = map[string]*metadata.TargetFiles{}
	}
	m.Signed.Targets[name] = t
	dir, base := path.Split(name)
	return file{path.Join("targets", dir, t.Hashes["sha256"].String()+"."+base), data}, nil
}
