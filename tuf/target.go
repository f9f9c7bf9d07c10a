package tuf

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

const (
	revocationsRole   = "revocations"
	revocationsPrefix = "revocations/"
	// In TUF a wildcard stays within one path component (4.5): this covers revocations/a.json but
	// not revocations/2026/a.json.
	revocationsPattern = revocationsPrefix + "*"
)

// maxName keeps <sha256>.<name> and a client's escaped cache file below the 255 bytes that file systems allow.
const maxName = 150

// checkRevocation refuses a target name that responders may not publish.
func checkRevocation(name string) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("target %q: %w", name, err)
	}
	rest, under := strings.CutPrefix(name, revocationsPrefix)
	switch {
	case !under:
		return fmt.Errorf("target %q does not lie under %s: responders may publish nothing else; ask the holders of the targets keys", name, revocationsPrefix)
	case strings.Contains(rest, "/"):
		return fmt.Errorf("target %q is not directly under %s: clients match the delegation %s within one directory", name, revocationsPrefix, revocationsPattern)
	}
	return nil
}

var roleName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// checkRole admits the name of a delegated role that means the same as part of a file name and of a URL.
func checkRole(name string) error {
	if !roleName.MatchString(name) {
		return fmt.Errorf("role %q: a name is letters, digits and . _ -, and begins with a letter or a digit", name)
	}
	if slices.Contains(metadata.TOP_LEVEL_ROLE_NAMES[:], name) {
		return fmt.Errorf("role %q: this is the name of a top-level role", name)
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

// addTarget lists data under name in m. One hash only: with more, go-tuf clients pick one at random for the URL.
func addTarget(m *metadata.TargetsType, name string, data []byte) error {
	t, err := metadata.TargetFile().FromBytes(name, data, "sha256")
	if err != nil {
		return fmt.Errorf("target %q: %w", name, err)
	}
	if old := m.Targets[name]; old != nil {
		t.Custom, t.UnrecognizedFields = old.Custom, old.UnrecognizedFields
	}
	if m.Targets == nil {
		m.Targets = map[string]*metadata.TargetFiles{}
	}
	m.Targets[name] = t
	return nil
}

// publishedTarget is where the published directory has a target: <dir>/<sha256>.<base>, as consistent snapshots want
// it (6.2).
func publishedTarget(name string, data []byte) string {
	sum := sha256.Sum256(data)
	return prefixedTarget(name, hex.EncodeToString(sum[:]))
}

func prefixedTarget(name, digest string) string {
	dir, base := path.Split(name)
	return path.Join(targetsDir, dir, digest+"."+base)
}
