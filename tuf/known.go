package tuf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/reseal/reseal/internal/durable"
)

const knownSchema = "reseal.tuf-known-roots/v1"

// knownRoots is what a holder's machine remembers of one repository, by version: the digests of what was signed of each
// root that requests showed to be published, and of each root that was signed here. A request is made by whoever holds
// the repository's directory, and a past that ends before the newest root looks whole: only who remembers that root
// sees that another one is to take its place.
type knownRoots struct {
	Schema    string             `json:"schema"`
	Published map[int64]string   `json:"published"`
	Signed    map[int64][]string `json:"signed"` // several: a request was withdrawn or amended, and its holder said so
}

// A StaleRequestError is returned for a signing request that contradicts what the holder's machine remembers.
type StaleRequestError struct {
	Reason string
	File   string // where it remembers that
	Signed bool   // a root of the same version was signed here: that is no lie where an event was amended or withdrawn
}

func (e *StaleRequestError) Error() string {
	return fmt.Sprintf("%s (it is remembered in %s)", e.Reason, e.File)
}

// readKnown reads everything that is remembered, by file. What cannot be read fails: it may be what tells the lie.
func readKnown(dir string) (map[string]knownRoots, error) {
	out := map[string]knownRoots{}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" || strings.HasPrefix(e.Name(), ".") {
			continue // of a write that was cut off
		}
		file := filepath.Join(dir, e.Name())
		data, err := durable.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var k knownRoots
		if err := strictJSON(data, &k); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if k.Schema != knownSchema {
			return nil, fmt.Errorf("%s: schema %q: this version reads %s", file, k.Schema, knownSchema)
		}
		out[file] = k
	}
	return out, nil
}

// about reports whether what is remembered is about the repository that has these roots.
func (k knownRoots) about(roots map[int64]string) bool {
	for v, digest := range roots {
		if k.Published[v] == digest || slices.Contains(k.Signed[v], digest) {
			return true
		}
	}
	return false
}

// newest is the highest version that is known to be published.
func (k knownRoots) newest() (v int64) {
	for at := range k.Published {
		v = max(v, at)
	}
	return v
}

// contradicts says what in a request is not as it is remembered: roots are those that it says are published, next is
// the root that it asks to sign, of version v; empty: none.
func (k knownRoots) contradicts(roots map[int64]string, v int64, next string) *StaleRequestError {
	last := int64(0)
	for at, digest := range roots {
		last = max(last, at)
		if was := k.Published[at]; was != "" && was != digest {
			return &StaleRequestError{Reason: fmt.Sprintf("root %d of it is not the root %d that this machine was shown before: two roots of one version were signed, and one of them is a thief's; ask the other holders by another way", at, at)}
		}
	}
	if newest := k.newest(); newest > last {
		return &StaleRequestError{Reason: fmt.Sprintf("it begins at root %d, and this machine was shown root %d before: it is old, or somebody hides the newer root to have another one signed in its place; ask the repository's operator by another way", last, newest)}
	}
	if signed := k.Signed[v]; next != "" && len(signed) > 0 && !slices.Contains(signed, next) {
		return &StaleRequestError{Signed: true, Reason: fmt.Sprintf("another root %d than this one (SHA-256 %s) was signed on this machine before (%s): if that one was published, somebody hides it to have this one signed in its place; only if its event was amended or withdrawn, which another holder can tell, say that another root is meant", v, next, list(signed))}
	}
	return nil
}

// rootDigests returns the digests of the roots that the request says are published, and of the root that it asks to
// sign, with its version.
func (q *Request) rootDigests() (roots map[int64]string, v int64, next string, err error) {
	roots = map[int64]string{}
	for i, data := range q.draft.roots {
		m, err := parseRoot(data)
		if err != nil {
			return nil, 0, "", err
		}
		doc, err := newDocument(metadata.ROOT, m)
		if err != nil {
			return nil, 0, "", err
		}
		roots[q.draft.first+int64(i)] = doc.digest()
	}
	if q.draft.root != nil {
		doc, err := q.draft.document(metadata.ROOT)
		if err != nil {
			return nil, 0, "", err
		}
		v, next = doc.version, doc.digest()
	}
	return roots, v, next, nil
}

// contradicted holds the request against what is remembered.
func (q *Request) contradicted() error {
	roots, v, next, err := q.rootDigests()
	if err != nil {
		return err
	}
	known, err := readKnown(q.known)
	if err != nil {
		return err
	}
	for file, k := range known {
		if !k.about(roots) {
			continue
		}
		if e := k.contradicts(roots, v, next); e != nil && !(e.Signed && q.another) {
			e.File = file
			return e
		}
	}
	return nil
}

// remember keeps what the request shows, and that its root is signed here if it is. It is held against what is
// remembered once more, since another process may have signed in the meantime.
func (q *Request) remember(ctx context.Context, signs bool) error {
	if q.known == "" {
		return nil
	}
	if err := os.MkdirAll(q.known, 0o700); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	unlock, err := durable.Lock(ctx, q.known)
	if err != nil {
		return err
	}
	defer unlock()
	if err := q.contradicted(); err != nil {
		return err
	}
	roots, v, next, err := q.rootDigests()
	if err != nil {
		return err
	}
	known, err := readKnown(q.known)
	if err != nil {
		return err
	}
	name := next
	if len(roots) > 0 {
		name = roots[q.draft.first]
	}
	file := filepath.Join(q.known, name[:32]+".json")
	k := knownRoots{Schema: knownSchema}
	for at, was := range known {
		if was.about(roots) {
			file, k = at, was
			break
		}
	}
	if k.Published == nil {
		k.Published = map[int64]string{}
	}
	if k.Signed == nil {
		k.Signed = map[int64][]string{}
	}
	for at, digest := range roots {
		k.Published[at] = digest
	}
	if signs && !slices.Contains(k.Signed[v], next) {
		k.Signed[v] = append(k.Signed[v], next)
	}
	data, err := json.MarshalIndent(k, "", " ")
	if err != nil {
		return err
	}
	return durable.WriteFile(file, append(data, '\n'), 0o600)
}
