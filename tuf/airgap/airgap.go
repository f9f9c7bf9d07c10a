// Package airgap carries a published TUF repository, with its deny list, to where no network leads.
//
// [Export] makes one file of all that clients need: every root, the metadata in force and every target, with a manifest
// that says when it was made and what is in it, signed like a blob by cosign. [Import] brings it into a directory that
// clients can use as a mirror. It believes nothing in the bundle that does not follow from the root that is pinned, or
// from what was imported before, and takes a bundle as a whole or not at all: one that is older than what is there, or
// stale, incomplete, or has anything in it that does not belong there, is refused with the reason.
//
// Files are written so that a crash at any point leaves a mirror that the same import completes; timestamp.json is
// written last.
package airgap

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// schema names the version of the format.
const schema = "reseal.tuf-bundle/v1"

// Names in a bundle before the files of the repository.
const (
	manifestName  = "manifest.json"
	signatureName = "manifest.json.sig"
)

// Limits of what is read, in bytes where they are no numbers.
const (
	maxManifest  = 64 << 20
	maxSignature = 64 << 10
	maxMetadata  = 256 << 20 // one file of metadata
	maxAllMeta   = 1 << 30
	maxFiles     = 1_000_000
	maxName      = 1024
	// DefaultMaxSize is how much a bundle may hold.
	DefaultMaxSize = 16 << 30
)

// maxSkew is how far the clocks of the two sides may lie apart.
const maxSkew = 5 * time.Minute

// Manifest says what is in a bundle. It is the first file in it, and what is signed.
type Manifest struct {
	Schema   string           `json:"schema"`
	Created  time.Time        `json:"created"`
	Root     string           `json:"root"`       // SHA-256 of the oldest root in it, hex: which repository it is
	Oldest   int64            `json:"first_root"` // its version
	Versions map[string]int64 `json:"versions"`   // of each role
	Expires  time.Time        `json:"expires"`    // when clients begin to refuse it, for the role that expires first
	DenyList []string         `json:"deny_list"`  // targets under revocations/
	Files    []File           `json:"files"`      // sorted by name
}

// File is one file of a bundle.
type File struct {
	Name   string `json:"name"` // slash-separated, below the repository
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Kind says why a bundle is refused.
type Kind string

// The kinds of refusal.
const (
	Unsigned   Kind = "signature"  // the manifest is not signed by the pinned key
	Untrusted  Kind = "untrusted"  // it does not follow from what is trusted
	Rollback   Kind = "rollback"   // it is older than what was imported before
	Stale      Kind = "stale"      // too old, or clients refuse it by now
	Incomplete Kind = "incomplete" // a file is missing
	Unknown    Kind = "unknown"    // a file is in it that does not belong there
	Corrupt    Kind = "corrupt"    // not what was written
	TooLarge   Kind = "too-large"  //
)

// Refusal is the error of a bundle, or repository, that is not taken.
type Refusal struct {
	Kind Kind
	What string // what is wrong
	Do   string // what to do next
}

// Error says what is wrong and what to do next.
func (r Refusal) Error() string {
	if r.Do == "" {
		return r.What
	}
	return r.What + "; " + r.Do
}

func refuse(k Kind, do, format string, args ...any) error {
	return Refusal{Kind: k, What: fmt.Sprintf(format, args...), Do: do}
}

// The files a published repository may have.
var (
	rootFile = regexp.MustCompile(`^([1-9][0-9]{0,17})\.root\.json$`)
	metaFile = regexp.MustCompile(`^(timestamp\.json|[1-9][0-9]{0,17}\.[^/]+\.json)$`)
	hexHash  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// check refuses a manifest that no export writes.
func (m Manifest) check(maxSize int64) error {
	bad := func(format string, args ...any) error {
		return refuse(Corrupt, "export it anew", "manifest: "+format, args...)
	}
	switch {
	case m.Schema != schema:
		return refuse(Corrupt, "use the version of reseal that made it", "manifest: the format %q is not %q", m.Schema, schema)
	case m.Created.IsZero() || m.Created.Nanosecond() != 0:
		return bad("no date of creation in whole seconds")
	case len(m.Files) > maxFiles:
		return refuse(TooLarge, "", "manifest: more than %d files", maxFiles)
	}
	var size, meta int64
	where := newPlaces()
	for n, f := range m.Files {
		if err := checkName(f.Name); err != nil {
			return refuse(Unknown, "export it anew, from a published repository", "manifest: %v", err)
		}
		if f.Size < 0 || f.Size > maxSize {
			return refuse(TooLarge, "allow more if it is right", "manifest: %s has %d bytes, and %d are allowed", f.Name, f.Size, maxSize)
		}
		if !hexHash.MatchString(f.SHA256) {
			return bad("%s has no SHA-256", f.Name)
		}
		if n > 0 && m.Files[n-1].Name >= f.Name {
			return bad("%s is listed twice or out of order", f.Name)
		}
		if other := where.taken(f); other != "" {
			return refuse(Unknown, "rename one of them, and publish and export anew", "manifest: %s and %s are one name where capitals and small letters are not told apart, or file and directory at once", other, f.Name)
		}
		if size += f.Size; size > maxSize {
			return refuse(TooLarge, "allow more if it is right", "manifest: the files have more than the %d bytes that are allowed", maxSize)
		}
		if isMetadata(f.Name) {
			if meta += f.Size; f.Size > maxMetadata || meta > maxAllMeta {
				return refuse(TooLarge, "", "manifest: the metadata is too large, at %s", f.Name)
			}
		}
	}
	return nil
}

// places are the files of a bundle as a file system has them that does not tell capitals from small letters: one of two
// names would take the place of the other there, in the middle of an import.
type places struct {
	files map[string]File
	dirs  map[string]string // one of the files that is in it
}

func newPlaces() places { return places{map[string]File{}, map[string]string{}} }

// taken returns the name of a file whose place f would take, or adds it. Two names of one content do no harm.
func (p places) taken(f File) string {
	at := strings.ToLower(f.Name)
	if other, ok := p.files[at]; ok {
		if other.SHA256 == f.SHA256 {
			return ""
		}
		return other.Name
	}
	if other := p.dirs[at]; other != "" {
		return other
	}
	for dir := path.Dir(at); dir != "."; dir = path.Dir(dir) {
		if other, ok := p.files[dir]; ok {
			return other.Name
		}
		if p.dirs[dir] != "" {
			break // and so are those above it
		}
		p.dirs[dir] = f.Name
	}
	p.files[at] = f
	return ""
}

func isMetadata(name string) bool { return metaFile.MatchString(name) }

// checkName admits the names of a published repository's files, and no path that leads out of it or means two things on
// some file system.
func checkName(name string) error {
	switch {
	case len(name) > maxName || !fs.ValidPath(name) || name == ".":
		return fmt.Errorf("%.200q is no path in a repository", name)
	case strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\\' || r == ':' }):
		return fmt.Errorf("%.200q has characters that mean something else on some systems", name)
	case isMetadata(name):
		return nil
	case !strings.HasPrefix(name, "targets/"):
		return fmt.Errorf("%.200q is no file of a published repository", name)
	case slices.ContainsFunc(strings.Split(name, "/"), func(part string) bool { return part[0] == '.' }):
		return fmt.Errorf("%.200q has a part that begins with a dot", name)
	}
	return nil
}

// advise makes a refusal of what go-tuf says.
func advise(name string, err error) error {
	var (
		expired  *metadata.ErrExpiredMetadata
		rollback *metadata.ErrBadVersionNumber
		unsigned *metadata.ErrUnsignedMetadata
		mismatch *metadata.ErrLengthOrHashMismatch
		refusal  Refusal
	)
	switch {
	case errors.As(err, &refusal):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return refuse(Incomplete, "export it from a complete repository", "%s is missing", name)
	case errors.As(err, &expired):
		return refuse(Stale, "have the repository renewed, and export it anew; or check this machine's clock", "%s: %v", name, err)
	case errors.As(err, &rollback):
		return refuse(Rollback, "ask whoever made it for the newest one; if there is none, the repository was set back", "%s: %v", name, err)
	case errors.As(err, &unsigned):
		return refuse(Untrusted, "find out who made it: its metadata is not signed by the keys that the trusted root leads to", "%s: %v", name, err)
	case errors.As(err, &mismatch):
		return refuse(Corrupt, "export it anew", "%s is not the file that is signed: %v", name, err)
	}
	return refuse(Untrusted, "find out who made it, and export it anew", "%s: %v", name, err)
}

// byName orders files.
func byName(a, b File) int { return cmp.Compare(a.Name, b.Name) }
