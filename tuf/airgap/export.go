package airgap

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/signer"
)

// ExportOptions say how a bundle is made.
type ExportOptions struct {
	// Signer signs the manifest; nil: it is not signed, and whoever imports it knows of its date nothing for sure.
	Signer signer.Signer
	// Root is the content of a trusted root; nil: the oldest root from which go-tuf can walk to the newest is.
	Root []byte
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Exported is what came of an export.
type Exported struct {
	Path     string           `json:"path"`
	SHA256   string           `json:"sha256"` // of the bundle
	Size     int64            `json:"size"`
	Created  time.Time        `json:"created"`
	Expires  time.Time        `json:"expires"`
	Versions map[string]int64 `json:"versions"`
	DenyList []string         `json:"deny_list"`
	Files    int              `json:"files"`
	Signer   string           `json:"signer,omitempty"` // its id
}

// Export writes the repository published in a directory, with its deny list, into one file. What clients or Import would
// refuse is not exported. The file is there as a whole or not at all, and one that exists is not overwritten. The same
// repository at the same second, signed by a key that signs the same way twice, gives the same bytes.
func Export(ctx context.Context, dir, file string, o ExportOptions) (out Exported, err error) {
	fail := func(err error) (Exported, error) { return Exported{}, fmt.Errorf("export %s: %w", dir, err) }
	if o.Now == nil {
		o.Now = time.Now
	}
	if _, err := os.Stat(filepath.Join(dir, "metadata")); err == nil {
		if _, err := os.Stat(filepath.Join(dir, "published", "timestamp.json")); err == nil {
			dir = filepath.Join(dir, "published") // where a repository's own directory publishes to, unless told otherwise
		}
	}
	root, err := durable.OpenRoot(dir) // no target's name, not even by way of a symbolic link, leads out of it
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	now := o.Now().UTC().Truncate(time.Second)
	s, err := published(root, o.Root, now)
	if err != nil {
		return fail(err)
	}
	m := Manifest{
		Schema: schema, Created: now, Oldest: s.oldest, Versions: s.versions, Expires: s.expires,
		DenyList: append([]string{}, s.denied...), Files: []File{},
	}
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		f, err := s.file(root, name)
		if errors.Is(err, fs.ErrNotExist) && !s.files[name] {
			continue // the same target has another name, under another hash
		}
		if err != nil {
			return fail(advise(name, err))
		}
		m.Files = append(m.Files, f)
		if name == versioned(metadata.ROOT, s.oldest) {
			m.Root = f.SHA256
		}
	}
	slices.SortFunc(m.Files, byName)
	if err := m.check(DefaultMaxSize); err != nil {
		return fail(err)
	}
	manifest, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return fail(err)
	}
	sig, err := sign(ctx, o.Signer, manifest)
	if err != nil {
		return fail(err)
	}
	out = Exported{Path: file, Created: now, Expires: m.Expires, Versions: m.Versions, DenyList: m.DenyList, Files: len(m.Files)}
	if o.Signer != nil {
		out.Signer = o.Signer.Identity().ID()
	}
	if out.SHA256, out.Size, err = pack(ctx, root, file, m, manifest, sig); err != nil {
		return fail(err)
	}
	return out, nil
}

// published verifies what a directory publishes.
func published(root *os.Root, pinned []byte, now time.Time) (*state, error) {
	read := func(name string) ([]byte, error) { return readFile(root, name, maxMetadata) }
	names, err := fs.Glob(root.FS(), "*.root.json")
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		if st, err := root.Stat("metadata"); err == nil && st.IsDir() {
			return nil, errors.New("that is a repository's source: give the directory it is published to, that holds timestamp.json")
		}
	}
	oldest, last, err := span(names)
	if err != nil {
		return nil, err
	}
	if pinned != nil {
		return verify(read, oldest, last, trust{root: pinned, now: now})
	}
	// The first roots of a repository may be written as go-tuf cannot read them; clients then pin a later one.
	var first error
	for v := oldest; v <= last; v++ {
		data, err := read(versioned(metadata.ROOT, v))
		if err != nil {
			return nil, advise(versioned(metadata.ROOT, v), err)
		}
		s, err := verify(read, oldest, last, trust{root: data, now: now})
		if err == nil {
			return s, nil
		}
		if first == nil {
			first = err
		}
		if m, err := metadata.Root().FromBytes(data); err == nil && readable(m) {
			return nil, first // it is not the way that the keys are written
		}
		first = err
	}
	return nil, first
}

// readable reports whether go-tuf can read the keys of a root.
func readable(root *metadata.Metadata[metadata.RootType]) bool {
	for _, k := range root.Signed.Keys {
		if k == nil {
			return false
		}
		if _, err := k.ToPublicKey(); err != nil {
			return false
		}
	}
	return true
}

// file describes a file and holds it against what is signed about it.
func (s *state) file(root *os.Root, name string) (File, error) {
	f, err := durable.OpenIn(root, name)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return File{}, err
	}
	out := File{Name: name, Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))}
	if want, ok := s.targets[name]; ok && (n != want.size || out.SHA256 != want.sha256) {
		return File{}, refuse(Corrupt, "restore the file from a backup or a mirror, or publish it anew", "%s is not the file that is signed", name)
	}
	if data, ok := s.metadata[name]; ok && digest(data) != out.SHA256 {
		return File{}, errors.New("it changed while it was read: export again when nothing is being published")
	}
	return out, nil
}

// pack writes the bundle.
func pack(ctx context.Context, root *os.Root, file string, m Manifest, manifest, sig []byte) (sum string, size int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	defer f.Close() // for the error paths; the result that counts is checked below
	h := sha256.New()
	w, err := newWriter(io.MultiWriter(f, h), m.Created)
	if err != nil {
		return "", 0, err
	}
	if err := errors.Join(w.file(manifestName, int64(len(manifest)), bytes.NewReader(manifest)),
		w.file(signatureName, int64(len(sig)), bytes.NewReader(sig))); err != nil {
		return "", 0, err
	}
	for _, x := range m.Files {
		if err := ctx.Err(); err != nil {
			return "", 0, err
		}
		if err := packFile(w, root, x); err != nil {
			return "", 0, err
		}
	}
	if err := errors.Join(w.close(), f.Chmod(0o644), f.Sync()); err != nil {
		return "", 0, err
	}
	st, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	if err := errors.Join(f.Close(), os.Link(f.Name(), file)); err != nil { // fails when it exists
		return "", 0, err
	}
	d, err := os.Open(filepath.Dir(file))
	if err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(h.Sum(nil)), st.Size(), errors.Join(d.Sync(), d.Close())
}

func packFile(w *writer, root *os.Root, x File) error {
	f, err := durable.OpenIn(root, x.Name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := w.file(x.Name, x.Size, &checked{r: io.LimitReader(f, x.Size), file: x}); err != nil {
		return fmt.Errorf("%s changed while it was read: export again when nothing is being published: %w", x.Name, err)
	}
	return nil
}

func readFile(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := durable.OpenIn(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = refuse(TooLarge, "", "%s has more than %d bytes", name, limit)
	}
	return data, err
}
