package airgap

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/signer"
)

// stateName is what an import remembers, in the mirror. Web servers and clients take no notice of it.
const stateName = ".reseal-bundle.json"

// ImportOptions say what is believed.
type ImportOptions struct {
	// Root is the content of a trusted root, received some other way. It is needed for the first import; later ones
	// follow from what was imported before, and from it, too, when it is given.
	Root []byte
	// Key is the public key that signs bundles, and with it their date. A mirror that has taken a signed bundle takes
	// no other, unless a key is given. Nil: that of the import before; without one the signature is not looked at.
	Key crypto.PublicKey
	// MaxAge is how old a bundle may be; 0: as old as the repository's own expiry allows.
	MaxAge time.Duration
	// MaxSize is how many bytes the files of a bundle may have; 0 means DefaultMaxSize.
	MaxSize int64
	// Check looks at everything and writes nothing.
	Check bool
	// Now is the clock; nil means time.Now.
	Now func() time.Time

	hook func(point, name string) error
}

// Imported is what came of an import.
type Imported struct {
	Directory string           `json:"directory"`
	Manifest  string           `json:"manifest"` // SHA-256 of it
	Created   time.Time        `json:"created"`
	Expires   time.Time        `json:"expires"`
	Signer    string           `json:"signer,omitempty"` // whose signature was verified
	Versions  map[string]int64 `json:"versions"`
	Former    map[string]int64 `json:"former"` // versions before; empty: there was nothing
	DenyList  []string         `json:"deny_list"`
	Files     int              `json:"files"`
	Written   int              `json:"written"` // files that were not there already, or would be written
	Applied   bool             `json:"applied"`
}

// memory is what is remembered of the last import.
type memory struct {
	Schema   string    `json:"schema"`
	Manifest string    `json:"manifest"`
	Created  time.Time `json:"created"`
	Key      string    `json:"key,omitempty"` // PEM of the key whose signature was verified
}

const memorySchema = "reseal.tuf-mirror/v1"

// Import brings a bundle into a directory, where clients find it as a published repository. It takes the bundle as a whole
// or refuses it with a [Refusal] and leaves the directory as it is. The same bundle twice changes nothing; one that was
// cut off, even by kill -9, is completed by the same import.
//
// A root that takes the online keys away shows to clients a moment before the timestamp that the new ones signed: in
// between, and after a crash there until the import is run again, those who come for the first time are refused.
func Import(ctx context.Context, file, dir string, o ImportOptions) (Imported, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxSize <= 0 {
		o.MaxSize = DefaultMaxSize
	}
	out, err := importBundle(ctx, file, dir, o)
	if err != nil {
		return Imported{}, fmt.Errorf("import %s: %w", file, err)
	}
	return out, nil
}

func importBundle(ctx context.Context, file, dir string, o ImportOptions) (Imported, error) {
	in, err := durable.Open(file) // it is read twice
	if err != nil {
		return Imported{}, err
	}
	defer in.Close()
	target, err := durable.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		dry := o
		dry.Check = true
		out, err := look(ctx, in, nil, dir, dry) // no directory is made for a bundle that is refused
		if err != nil || o.Check {
			return out, err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return Imported{}, err
		}
		if _, err := in.Seek(0, io.SeekStart); err != nil {
			return Imported{}, err
		}
		target, err = durable.OpenRoot(dir)
		if err != nil {
			return Imported{}, err
		}
	} else if err != nil {
		return Imported{}, err
	}
	defer target.Close()
	unlock, err := durable.Lock(ctx, dir)
	if err != nil {
		return Imported{}, err
	}
	defer unlock()
	return look(ctx, in, target, dir, o)
}

// look reads the bundle, decides, and writes. The target is nil where there is none yet.
func look(ctx context.Context, in *os.File, target *os.Root, dir string, o ImportOptions) (out Imported, err error) {
	now := o.Now().UTC()
	before, err := remembered(target)
	if err != nil {
		return Imported{}, err
	}
	key, err := before.key(o.Key)
	if err != nil {
		return Imported{}, err
	}
	b, err := openBundle(in, o.MaxSize, signedBy(key))
	if err != nil {
		return Imported{}, err
	}
	m := b.manifest
	if err := before.admit(m, now, o.MaxAge); err != nil {
		return Imported{}, err
	}
	content := map[string][]byte{}
	var names []string
	if err := b.each(ctx, func(f File, r io.Reader) error {
		names = append(names, f.Name)
		if !isMetadata(f.Name) {
			return nil
		}
		data, err := io.ReadAll(r)
		content[f.Name] = data
		return err
	}); err != nil {
		return Imported{}, err
	}
	s, former, err := judge(m, names, content, target, o.Root, now)
	if err != nil {
		return Imported{}, err
	}
	out = Imported{
		Directory: dir, Manifest: digest(b.raw), Created: m.Created, Expires: s.expires, Versions: s.versions, Former: former,
		DenyList: append([]string{}, s.denied...), Files: len(m.Files), Applied: !o.Check,
	}
	if key != nil {
		id, err := signer.OfKey(key)
		if err != nil {
			return Imported{}, err
		}
		out.Signer = id.ID()
	}
	todo := map[string]bool{}
	for _, f := range m.Files {
		if target == nil || !has(target, f) {
			todo[f.Name] = true
		}
	}
	out.Written = len(todo)
	if o.Check {
		return out, nil
	}
	next := memory{Schema: memorySchema, Manifest: out.Manifest, Created: m.Created, Key: before.Key}
	if key != nil {
		if next.Key, err = encodeKey(key); err != nil {
			return Imported{}, err
		}
	}
	return out, apply(ctx, in, mirror{target, o.hook}, m, content, todo, before, next, o.MaxSize)
}

// judge verifies the repository in a bundle against the trusted root and against the mirror, and that the bundle has all
// of it and nothing else. It also returns the versions in the mirror.
func judge(m Manifest, names []string, content map[string][]byte, target *os.Root, pinned []byte, now time.Time) (*state, map[string]int64, error) {
	oldest, last, err := span(names)
	if err != nil {
		return nil, nil, err
	}
	t := trust{root: pinned, now: now}
	former := map[string]int64{}
	if target != nil {
		known, err := fs.Glob(target.FS(), "*.root.json")
		if err != nil {
			return nil, nil, err
		}
		known = slices.DeleteFunc(known, func(name string) bool { return !rootFile.MatchString(name) })
		if len(known) > 0 {
			_, had, err := span(known)
			if err != nil {
				return nil, nil, fmt.Errorf("the mirror is damaged: %w", err)
			}
			if had > last {
				return nil, nil, refuse(Rollback, "ask whoever made it for the newest one", "root %d was imported before, and the bundle ends with root %d", had, last)
			}
			for _, name := range known {
				there, err := readFile(target, name, maxMetadata)
				if err != nil {
					return nil, nil, err
				}
				if data, ok := content[name]; ok && !bytes.Equal(there, data) {
					return nil, nil, refuse(Untrusted, "find out which is true, from the key holders", "%s is another file than the one that was imported before", name)
				}
			}
			t.old = func(name string) ([]byte, error) { return readFile(target, name, maxMetadata) }
			if t.root == nil {
				if t.root, err = t.old(versioned(metadata.ROOT, had)); err != nil {
					return nil, nil, err
				}
			}
			former = formerVersions(t.old, had)
		}
	}
	if t.root == nil {
		return nil, nil, refuse(Untrusted, "give a root that you got from the key holders, or with the software that uses it", "nothing is known of this repository here: no root is pinned, and nothing was imported before")
	}
	s, err := verify(func(name string) ([]byte, error) {
		if data, ok := content[name]; ok {
			return data, nil
		}
		return nil, fs.ErrNotExist
	}, oldest, last, t)
	if err != nil {
		return nil, nil, err
	}
	return s, former, s.match(m, content)
}

// match holds a manifest against the repository: everything clients may ask for, and nothing else.
func (s *state) match(m Manifest, content map[string][]byte) error {
	listed := map[string]bool{}
	for _, f := range m.Files {
		listed[f.Name] = true
		if _, known := s.files[f.Name]; !known {
			return refuse(Unknown, "export it anew", "%s is in the bundle, and nothing that is signed knows of it", f.Name)
		}
		if want, target := s.targets[f.Name]; target && (f.Size != want.size || f.SHA256 != want.sha256) {
			return refuse(Corrupt, "export it anew", "%s is not the file that is signed", f.Name)
		}
	}
	required := slices.Sorted(func(yield func(string) bool) {
		for name, must := range s.files {
			if must && !yield(name) {
				return
			}
		}
	})
	if missing := diff(required, listed); len(missing) > 0 {
		return refuse(Incomplete, "export it anew", "the bundle lacks %s", some(missing))
	}
	if m.Oldest != s.oldest || !maps.Equal(m.Versions, s.versions) || m.Root != digest(content[versioned(metadata.ROOT, s.oldest)]) ||
		!m.Expires.Equal(s.expires) || !slices.Equal(m.DenyList, s.denied) {
		return refuse(Corrupt, "export it anew", "the manifest does not say what the metadata in the bundle says: versions, expiry or deny list")
	}
	return nil
}

// formerVersions tells the versions in a mirror, for people.
func formerVersions(old reader, root int64) map[string]int64 {
	out := map[string]int64{metadata.ROOT: root}
	head := func(data []byte, err error) map[string]int64 {
		var x struct {
			Signed struct {
				Version int64 `json:"version"`
				Meta    map[string]struct {
					Version int64 `json:"version"`
				} `json:"meta"`
			} `json:"signed"`
		}
		if err != nil || json.Unmarshal(data, &x) != nil {
			return nil
		}
		list := map[string]int64{"": x.Signed.Version}
		for name, m := range x.Signed.Meta {
			list[strings.TrimSuffix(name, ".json")] = m.Version
		}
		return list
	}
	t := head(old("timestamp.json"))
	if t == nil {
		return out
	}
	out[metadata.TIMESTAMP] = t[""]
	for role, v := range head(newest(old, metadata.SNAPSHOT), nil) {
		if role == "" {
			role = metadata.SNAPSHOT
		}
		out[role] = v
	}
	return out
}

// apply writes what is not there: targets first, then what lists them, then the roots, and the timestamp last.
func apply(ctx context.Context, in *os.File, to mirror, m Manifest, content map[string][]byte, todo map[string]bool, before, next memory, maxSize int64) error {
	stopped := func(name string, err error) error {
		return fmt.Errorf("write %s: stopped: run the same import again when the cause is removed: %w", name, err)
	}
	if slices.ContainsFunc(m.Files, func(f File) bool { return todo[f.Name] && !isMetadata(f.Name) }) {
		if _, err := in.Seek(0, io.SeekStart); err != nil {
			return err
		}
		b, err := openBundle(in, maxSize, func([]byte, []byte) error { return nil })
		if err != nil {
			return err
		}
		if digest(b.raw) != next.Manifest {
			return refuse(Corrupt, "import it again", "the bundle changed while it was read")
		}
		if err := b.each(ctx, func(f File, r io.Reader) error {
			if isMetadata(f.Name) || !todo[f.Name] {
				return nil
			}
			if err := to.write(f.Name, r); err != nil {
				return stopped(f.Name, err)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	var metas, roots []string
	for _, name := range slices.Sorted(maps.Keys(content)) {
		switch {
		case !todo[name] || name == "timestamp.json":
		case rootFile.MatchString(name):
			roots = append(roots, name)
		default:
			metas = append(metas, name)
		}
	}
	slices.SortFunc(roots, func(a, b string) int { return len(a)*1000 - len(b)*1000 + strings.Compare(a, b) }) // 9 before 10
	for _, name := range slices.Concat(metas, roots) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := to.write(name, bytes.NewReader(content[name])); err != nil {
			return stopped(name, err)
		}
	}
	// The date before the timestamp: once clients see the new state no older bundle may be taken.
	if next != before {
		data, err := json.Marshal(next)
		if err != nil {
			return err
		}
		if err := to.write(stateName, bytes.NewReader(append(data, '\n'))); err != nil {
			return stopped(stateName, err)
		}
	}
	if todo["timestamp.json"] {
		if err := to.write("timestamp.json", bytes.NewReader(content["timestamp.json"])); err != nil {
			return stopped("timestamp.json", err)
		}
	}
	return nil
}

// has reports whether a file is there with its content.
func has(target *os.Root, f File) bool {
	r, err := durable.OpenIn(target, f.Name)
	if err != nil {
		return false
	}
	defer r.Close()
	if st, err := r.Stat(); err != nil || st.Size() != f.Size {
		return false
	}
	h := sha256.New()
	_, err = io.Copy(h, r)
	return err == nil && hex.EncodeToString(h.Sum(nil)) == f.SHA256
}

// remembered returns what the import before left.
func remembered(target *os.Root) (memory, error) {
	if target == nil {
		return memory{}, nil
	}
	data, err := readFile(target, stateName, maxSignature)
	if errors.Is(err, fs.ErrNotExist) {
		return memory{}, nil
	}
	var m memory
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err == nil && m.Schema != memorySchema {
		err = fmt.Errorf("the format %q is not %q", m.Schema, memorySchema)
	}
	if err != nil {
		return memory{}, fmt.Errorf("%s, which remembers the import before: %w; restore it, or import into a new directory", stateName, err)
	}
	return m, nil
}

// key returns the key whose signature a bundle must have: the given one, or that of the import before.
func (m memory) key(given crypto.PublicKey) (crypto.PublicKey, error) {
	if given != nil || m.Key == "" {
		return given, nil
	}
	key, _, err := signer.ParsePublicKey([]byte(m.Key))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", stateName, err)
	}
	return key, nil
}

func signedBy(key crypto.PublicKey) func(manifest, signature []byte) error {
	return func(manifest, sig []byte) error {
		if key == nil {
			return nil
		}
		if err := verifySignature(key, manifest, sig); err != nil {
			return refuse(Unsigned, "find out who made it; if bundles are signed by a new key now, give that one", "the manifest is not signed by the key that is pinned: %v", err)
		}
		return nil
	}
}

// admit refuses a bundle by its date.
func (m memory) admit(x Manifest, now time.Time, maxAge time.Duration) error {
	age := now.Sub(x.Created)
	switch {
	case x.Created.Before(m.Created):
		return refuse(Rollback, "ask whoever made it for the newest one", "the bundle was made on %s, and one of %s was imported before", stamp(x.Created), stamp(m.Created))
	case age < -maxSkew:
		return refuse(Stale, "set the clock that is wrong: this machine's, or that of whoever made the bundle", "the bundle was made on %s, which is yet to come: it is %s here", stamp(x.Created), stamp(now))
	case maxAge > 0 && age > maxAge:
		return refuse(Stale, "ask for a new one", "the bundle was made on %s, %s ago, and %s are allowed", stamp(x.Created), age.Round(time.Second), maxAge)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
