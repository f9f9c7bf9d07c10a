package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/reseal/reseal/internal/durable"
)

const (
	// Bounds on index.json, in bytes and in entries.
	maxLayoutIndex   = 64 << 20
	maxLayoutEntries = 500_000

	// refName names the tag of an entry (image-spec, "Pre-Defined Annotation Keys").
	refName = "org.opencontainers.image.ref.name"

	// cosignKind says what "cosign save" wrote an entry for (cosign, pkg/oci/layout).
	cosignKind       = "kind"
	cosignImage      = "dev.cosignproject.cosign/image"
	cosignImageIndex = "dev.cosignproject.cosign/imageIndex"
	cosignSigs       = "dev.cosignproject.cosign/sigs"
	cosignAtts       = "dev.cosignproject.cosign/atts"
)

// Layout is an OCI image layout directory (image-spec, "Image Layout") read as
// a registry, with what callers may rely on of a [Client]: content is what its
// digest says, and everything is bounded. Wherever a method takes repo, that is
// whatever the caller calls the layout. It is safe for concurrent use.
//
// A layout has neither cosign's signature tags nor a referrers API. In their
// place answer what "cosign save" wrote, as the tags ".sig" and ".att" of the
// image it belongs to, and every manifest in the directory that has a subject,
// as a referrer of that: cosign v3 saves bundles without listing them anywhere.
//
// Nothing outside of the directory is read, and no symbolic link followed.
type Layout struct {
	root  *os.Root
	tags  map[string]string // to digest
	names []string          // the tags, in the order of index.json
	bare  []string          // the digests that have no tag
	types map[string]string // media types, by digest

	mu       sync.Mutex
	subjects map[string][]string // digests of referrers, by that of their subject; nil: not looked for yet
}

// OpenLayout opens an OCI image layout directory. It refuses one whose
// index.json is not what it must be.
func OpenLayout(dir string) (*Layout, error) {
	root, err := durable.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening OCI layout: %w: name the directory that has the file oci-layout in it", err)
	}
	l := &Layout{root: root, tags: map[string]string{}, types: map[string]string{}}
	if err := l.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("OCI layout %s: %w", dir, err), root.Close())
	}
	return l, nil
}

// Close releases the directory.
func (l *Layout) Close() error { return l.root.Close() }

func (l *Layout) open() error {
	raw, err := l.file("oci-layout", maxErrorBody)
	if err != nil {
		return fmt.Errorf("oci-layout: %w: is this an OCI layout?", err)
	}
	var marker struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := json.Unmarshal(raw, &marker); err != nil || !strings.HasPrefix(marker.Version, "1.") {
		return fmt.Errorf("oci-layout: %w: expected the imageLayoutVersion 1.0.0", ErrMalformed)
	}
	if raw, err = l.file("index.json", maxLayoutIndex); err != nil {
		return fmt.Errorf("index.json: %w", err)
	}
	if err := l.parse(raw); err != nil {
		return fmt.Errorf("index.json: %w", err)
	}
	return nil
}

// parse takes in index.json.
func (l *Layout) parse(raw []byte) error {
	var index struct {
		MediaType types.MediaType `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return malformed(err)
	}
	if index.MediaType != "" && index.MediaType != types.OCIImageIndex {
		return malformed(fmt.Errorf("it is no image index but %q", index.MediaType))
	}
	// One by one: all at once, empty entries would take a hundred times the
	// memory of the file.
	list := json.NewDecoder(bytes.NewReader(index.Manifests))
	if t, err := list.Token(); err != nil || t != json.Delim('[') {
		return malformed(errors.New("it has no list of manifests"))
	}
	image := "" // whose signatures and attestations follow
	for n := 1; list.More(); n++ {
		if n > maxLayoutEntries {
			return fmt.Errorf("%w: it has more than %d entries", ErrTooLarge, maxLayoutEntries)
		}
		var d v1.Descriptor
		if err := list.Decode(&d); err != nil {
			return malformed(fmt.Errorf("entry %d: %w", n, err))
		}
		if d.Digest.Hex == "" {
			return malformed(fmt.Errorf("entry %d has no digest", n))
		}
		digest, tag := d.Digest.String(), d.Annotations[refName]
		switch kind := d.Annotations[cosignKind]; kind {
		case cosignImage, cosignImageIndex:
			image = digest
		case cosignSigs, cosignAtts:
			if image == "" {
				return malformed(fmt.Errorf("entry %d has signatures, and no image is before it that they belong to", n))
			}
			if tag = fallbackTag(image) + ".sig"; kind == cosignAtts {
				tag = fallbackTag(image) + ".att"
			}
			if l.tags[tag] != "" {
				return malformed(fmt.Errorf("entry %d is a second %s", n, tag))
			}
		}
		if t, known := l.types[digest]; known && t != string(d.MediaType) {
			return malformed(fmt.Errorf("%s is listed as %q and as %q", digest, t, d.MediaType))
		}
		l.types[digest] = string(d.MediaType)
		l.enter(digest, tag)
	}
	return nil
}

// enter takes in an entry of index.json. A name that is no tag (some tools
// write a whole reference), or is one that another entry has, is no name: the
// entry is found by its digest.
func (l *Layout) enter(digest, tag string) {
	if !isTag(tag) || l.tags[tag] != "" {
		l.bare = append(l.bare, digest)
		return
	}
	l.tags[tag] = digest
	l.names = append(l.names, tag)
}

// Tags lists the tags of the layout. An artifact without one would be missed:
// it is listed by its referrers tag, "sha256-<hex>", which names the referrers
// of whatever index.json lists. After an error it ends.
func (l *Layout) Tags(ctx context.Context, repo string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, tag := range l.names {
			if !yield(tag, nil) {
				return
			}
		}
		subjects, err := l.look(ctx)
		if err != nil {
			yield("", layoutError("list tags", repo, "", err))
			return
		}
		known := map[string]bool{} // tagged, listed, or a referrer and no artifact of its own
		for _, digest := range l.tags {
			known[digest] = true
		}
		for _, referrers := range subjects {
			for _, digest := range referrers {
				known[digest] = true
			}
		}
		for _, digest := range l.bare {
			if tag := fallbackTag(digest); !known[digest] && l.tags[tag] == "" && !yield(tag, nil) {
				return
			}
			known[digest] = true
		}
	}
}

// Manifest returns a manifest by tag or digest. One of more than 8 MiB is ErrTooLarge.
func (l *Layout) Manifest(ctx context.Context, repo, reference string) (Manifest, error) {
	m, err := l.manifest(ctx, reference)
	if err != nil {
		return Manifest{}, layoutError("get manifest", repo, reference, err)
	}
	return m, nil
}

func (l *Layout) manifest(ctx context.Context, reference string) (Manifest, error) {
	digest, made, err := l.resolve(ctx, reference)
	if err != nil {
		return Manifest{}, err
	}
	if made != nil {
		return Manifest{Digest: digest, MediaType: string(types.OCIImageIndex), Raw: made, Size: int64(len(made))}, nil
	}
	raw, err := l.blob(digest, maxManifest)
	if err != nil {
		return Manifest{}, err
	}
	m, err := parseStored(raw, l.types[digest])
	return Manifest{Digest: digest, MediaType: m.MediaType, Raw: raw, Size: int64(len(raw))}, err
}

// Head returns the digest of a manifest without reading its content. What is
// known of it already makes no difference.
func (l *Layout) Head(ctx context.Context, repo, reference, _ string) (digest string, err error) {
	digest, made, err := l.resolve(ctx, reference)
	if err == nil && made == nil {
		_, err = l.stat(blobPath(digest))
	}
	if err != nil {
		return "", layoutError("head manifest", repo, reference, err)
	}
	return digest, nil
}

// Blob returns a blob of at most limit bytes.
func (l *Layout) Blob(ctx context.Context, repo, digest string, limit int64) ([]byte, error) {
	err := ctx.Err()
	var content []byte
	if err == nil {
		content, err = l.blob(digest, limit)
	}
	if err != nil {
		return nil, layoutError("get blob", repo, digest, err)
	}
	return content, nil
}

// Referrers returns the descriptors of the manifests whose subject is digest,
// and of what a referrers tag in the layout lists beside them. None is no
// error. As in a [Client], what is no descriptor does not hide the others.
func (l *Layout) Referrers(ctx context.Context, repo, digest string) ([]v1.Descriptor, error) {
	list, err := l.referrers(ctx, digest)
	if err != nil {
		err = layoutError("list referrers", repo, digest, err)
	}
	return list, err
}

// ReferrersAPI is Referrers: a layout always knows them.
func (l *Layout) ReferrersAPI(ctx context.Context, repo, digest string) ([]v1.Descriptor, error) {
	return l.Referrers(ctx, repo, digest)
}

func (l *Layout) referrers(ctx context.Context, digest string) ([]v1.Descriptor, error) {
	if _, err := v1.NewHash(digest); err != nil {
		return nil, malformed(err)
	}
	subjects, err := l.look(ctx)
	if err != nil {
		return nil, err
	}
	var list []v1.Descriptor
	size := 0
	for _, d := range subjects[digest] {
		raw, err := l.blob(d, maxManifest)
		if err != nil {
			return list, err
		}
		if size += len(raw); size > maxReferrers {
			return list, fmt.Errorf("%w: the referrers are too many", ErrTooLarge)
		}
		m, err := parseStored(raw, l.types[d])
		if err != nil {
			return list, err
		}
		list = append(list, m.descriptor(raw, d))
	}
	if l.tags[fallbackTag(digest)] == "" {
		return list, nil
	}
	raw, err := l.blob(l.tags[fallbackTag(digest)], maxManifest)
	if err != nil {
		return list, err
	}
	q := request{op: "read the referrers index"}
	x, err := q.parseIndex(raw)
	if err != nil {
		return list, err
	}
	tagged, err := x.descriptors(q)
	for _, d := range tagged {
		if !slices.ContainsFunc(list, func(have v1.Descriptor) bool { return have.Digest == d.Digest }) {
			list = append(list, d)
		}
	}
	return list, err
}

// resolve returns the digest that a reference names, and the content of a
// referrers tag that stands in no file.
func (l *Layout) resolve(ctx context.Context, reference string) (digest string, made []byte, err error) {
	if err := ctx.Err(); err != nil {
		return "", nil, err
	}
	if isDigest(reference) {
		if _, err := v1.NewHash(reference); err != nil {
			return "", nil, malformed(err)
		}
		return reference, nil, nil
	}
	if !isTag(reference) {
		return "", nil, malformed(errors.New("the reference is neither a tag nor a digest"))
	}
	if digest = l.tags[reference]; digest != "" {
		return digest, nil, nil
	}
	subject := strings.Replace(reference, "-", ":", 1)
	if _, listed := l.types[subject]; !listed {
		return "", nil, ErrNotFound
	}
	list, err := l.referrers(ctx, subject)
	if err != nil {
		return "", nil, err
	}
	x := newIndex()
	for _, d := range list {
		if err := x.add(d); err != nil {
			return "", nil, malformed(err)
		}
	}
	made, err = x.marshal()
	return digestOf(made), made, err
}

// look finds the referrers in the directory, once.
func (l *Layout) look(ctx context.Context) (map[string][]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.subjects != nil {
		return l.subjects, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	subjects := map[string][]string{}
	dir, err := l.root.OpenFile("blobs/sha256", os.O_RDONLY|syscall.O_NONBLOCK, 0) // if it is a pipe, it is no directory
	if errors.Is(err, fs.ErrNotExist) {
		return subjects, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	for {
		files, err := dir.ReadDir(1000)
		for _, f := range files {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			digest := "sha256:" + f.Name()
			subject, err := l.subject(digest)
			if err != nil {
				return nil, err
			}
			if subject != "" {
				subjects[subject] = append(subjects[subject], digest)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	for _, list := range subjects {
		slices.Sort(list)
	}
	l.subjects = subjects
	return subjects, nil
}

// subject returns the digest that a blob refers to, if it is a manifest that
// does. What no verifier could read refers to nothing.
func (l *Layout) subject(digest string) (string, error) {
	raw, err := l.blob(digest, maxManifest)
	for _, unreadable := range []error{ErrNotFound, ErrDigest, ErrTooLarge, ErrMalformed} {
		if errors.Is(err, unreadable) {
			return "", nil
		}
	}
	if err != nil || !bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("{")) {
		return "", err
	}
	m, err := parseStored(raw, l.types[digest])
	if err != nil || m.Subject == nil {
		return "", nil
	}
	return m.Subject.Digest.String(), nil
}

// stored is what is read of a manifest of any kind in a layout.
type stored struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Config       *v1.Descriptor    `json:"config"`
	Layers       json.RawMessage   `json:"layers"`
	Manifests    json.RawMessage   `json:"manifests"`
	Subject      *v1.Descriptor    `json:"subject"`
	Annotations  map[string]string `json:"annotations"`
}

// parseStored reads a manifest. Its media type is the one that index.json and
// the manifest agree on; without either it is that of its fields, which the
// specification did not always want to be named.
func parseStored(raw []byte, listed string) (stored, error) {
	var m stored
	if err := json.Unmarshal(raw, &m); err != nil {
		return stored{}, malformed(fmt.Errorf("it is no manifest: %w", err))
	}
	image, index := m.Config != nil || m.Layers != nil, m.Manifests != nil
	switch {
	case m.MediaType != "" && listed != "" && m.MediaType != listed:
		return stored{}, malformed(fmt.Errorf("index.json says %q, the manifest %q", listed, m.MediaType))
	case m.MediaType != "":
	case listed != "":
		m.MediaType = listed
	case image && !index:
		m.MediaType = string(types.OCIManifestSchema1)
	case index && !image:
		m.MediaType = string(types.OCIImageIndex)
	default:
		return stored{}, malformed(errors.New("it is neither an image manifest nor an image index"))
	}
	return m, nil
}

// descriptor describes a referrer (distribution-spec, "Listing Referrers").
func (m stored) descriptor(raw []byte, digest string) v1.Descriptor {
	d := v1.Descriptor{MediaType: types.MediaType(m.MediaType), Size: int64(len(raw)), ArtifactType: m.ArtifactType, Annotations: m.Annotations}
	d.Digest, _ = v1.NewHash(digest) // it is the name of a file that was read by it
	if d.ArtifactType == "" && m.Config != nil {
		d.ArtifactType = string(m.Config.MediaType)
	}
	return d
}

// blob reads content and compares it with its digest.
func (l *Layout) blob(digest string, limit int64) ([]byte, error) {
	h, err := v1.NewHash(digest) // so that no path hides in it
	if err != nil {
		return nil, malformed(err)
	}
	content, err := l.file(blobPath(digest), limit)
	if err != nil {
		return nil, err
	}
	got, err := digestBy(h.Algorithm, content)
	if err != nil {
		return nil, malformed(err)
	}
	if got != digest {
		return nil, fmt.Errorf("%w: wanted %s, got %s", ErrDigest, digest, got)
	}
	return content, nil
}

func blobPath(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }

// stat looks for a regular file: to open anything else might wait forever.
func (l *Layout) stat(path string) (fs.FileInfo, error) {
	info, err := l.root.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrNotFound
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, malformed(errors.New("it is no regular file: links are not followed"))
	}
	return info, nil
}

func (l *Layout) file(path string, limit int64) ([]byte, error) {
	info, err := l.stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%w: it has %d bytes, the most is %d", ErrTooLarge, info.Size(), limit)
	}
	f, err := durable.OpenIn(l.root, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%w: it has more than %d bytes", ErrTooLarge, limit)
	}
	return content, err
}

func layoutError(op, repo, reference string, err error) error {
	return &Error{Op: op, Repository: repo, Reference: reference, Err: cleaned{err}}
}
