package pack

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
)

// Judge verifies what takes a trusted root: the Sigstore bundle of a keyless
// approval, over the bytes that were approved.
type Judge interface {
	Blob(bundle, content []byte) (inventory.Signature, error)
}

// Options is what a verifier knows besides the pack.
type Options struct {
	Journal note.Verifier // the journal's key, from elsewhere; nil: the pack's own, with a warning
	Judge   Judge         // nil: keyless approvals are reported as not checked
}

// Check is one thing that was checked.
type Check struct {
	Name      string `json:"name"`
	OK        bool   `json:"ok"`
	Unchecked bool   `json:"unchecked,omitempty"` // part of it could not be checked here; Detail says what and why
	Detail    string `json:"detail"`
}

// Result is what a verifier found.
type Result struct {
	Schema     string    `json:"schema"`
	Incident   string    `json:"incident"`
	Manifest   string    `json:"manifest"` // digest of the manifest, which the journal has
	MadeAt     time.Time `json:"made_at"`
	Checks     []Check   `json:"checks"`
	Warnings   []string  `json:"warnings"`
	BreakGlass []string  `json:"break_glass"` // what was done without a quorum, by whom and why
}

// OK reports whether nothing failed. A pack is only as good as the journal key
// it was checked with: see Warnings.
func (r Result) OK() bool {
	return len(r.Checks) > 0 && !slices.ContainsFunc(r.Checks, func(c Check) bool { return !c.OK })
}

// Verify checks a pack. It never trusts what it reads: sizes are bounded, and a
// file is hashed again each time it is used.
func Verify(fsys fs.FS, opt Options) Result {
	v := &verifier{fsys: fsys, opt: opt, files: map[string]File{}, journaled: map[string]time.Time{}, severity: map[string]string{}}
	v.res = Result{Schema: "reseal.evidence-check/v1", Checks: []Check{}, Warnings: []string{}, BreakGlass: []string{}}
	if !v.check("manifest", v.readManifest) {
		v.res.Checks[0].Detail = visible(v.res.Checks[0].Detail)
		return v.res
	}
	v.check("files", v.checkFiles)
	v.check("seal", v.checkSeal)
	v.check("incident", v.checkIncident)
	for _, ref := range v.manifest.Plans {
		v.plan(ref)
	}
	for _, ref := range v.manifest.Motions {
		v.motion(ref)
	}
	// Last, because the documents whose entries are wanted are known by now.
	v.check("journal", v.checkJournal)
	v.expired()
	v.check("statements", v.checkStatements)
	for n := range v.res.Checks {
		v.res.Checks[n].Detail = visible(v.res.Checks[n].Detail)
	}
	for n := range v.res.BreakGlass {
		v.res.BreakGlass[n] = visible(v.res.BreakGlass[n])
	}
	return v.res
}

type verifier struct {
	fsys      fs.FS
	opt       Options
	manifest  Manifest
	digest    string // of the manifest
	files     map[string]File
	key       note.Verifier
	sealed    journal.Checkpoint
	seal      sealFile
	severity  map[string]string // digest of a version of the incident → its severity
	documents []document
	journaled map[string]time.Time // digest → time of the first journal entry with it; zero: none yet
	res       Result
}

// document is something that must have been journaled.
type document struct {
	path, digest string
	expires      time.Time // and by then; zero: at any time
}

// check runs one check and keeps what it found. It reports whether it passed.
func (v *verifier) check(name string, f func() (string, error)) bool {
	detail, err := f()
	if err != nil {
		detail = err.Error()
	}
	v.res.Checks = append(v.res.Checks, Check{Name: name, OK: err == nil, Detail: detail})
	return err == nil
}

// readWhole reads one file that must fit in memory. It refuses anything that
// is no regular file before opening it.
func (v *verifier) readWhole(name string) ([]byte, error) {
	f, err := v.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := readAll(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

func (v *verifier) open(name string) (fs.File, error) {
	st, err := fs.Lstat(v.fsys, name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	return v.fsys.Open(name)
}

func (v *verifier) readManifest() (string, error) {
	raw, err := v.readWhole(manifestName)
	if err != nil {
		return "", err
	}
	if err := parse(raw, &v.manifest); err != nil {
		return "", fmt.Errorf("%s: %w", manifestName, err)
	}
	m := v.manifest
	v.digest = inventory.Digest(raw)
	v.res.Incident, v.res.Manifest, v.res.MadeAt = m.Incident, v.digest, m.MadeAt
	if m.Schema != Schema {
		return "", fmt.Errorf("its schema is %q, this program reads %s", m.Schema, Schema)
	}
	if len(m.Files) > maxFiles {
		return "", fmt.Errorf("%d files: %w", len(m.Files), errTooLong)
	}
	folded := map[string]bool{}
	for n, f := range m.Files {
		sum, err := hex.DecodeString(f.SHA256)
		switch {
		case checkPath(f.Path) != nil:
			return "", checkPath(f.Path)
		case f.Path == manifestName || f.Path == sealName:
			return "", fmt.Errorf("%s cannot list itself or the seal", manifestName)
		case n > 0 && m.Files[n-1].Path >= f.Path || folded[strings.ToLower(f.Path)]:
			return "", fmt.Errorf("%s is out of order, or there twice", f.Path)
		case err != nil || len(sum) != sha256.Size || f.Size < 0:
			return "", fmt.Errorf("%s has no size or digest", f.Path)
		}
		folded[strings.ToLower(f.Path)] = true
		v.files[f.Path] = f
	}
	for _, name := range required() {
		if _, ok := v.files[name]; !ok {
			return "", fmt.Errorf("%s is missing", name)
		}
	}
	return fmt.Sprintf("%d files of incident %s, made at %s; sha256 %s", len(m.Files), m.Incident, m.MadeAt.Format(time.RFC3339), v.digest), v.checkRefs()
}

// checkRefs holds the lists of plans and motions against the files.
func (v *verifier) checkRefs() error {
	want := map[string]bool{}
	for _, list := range []struct {
		refs []PlanRef
		dir  func(string) string
	}{{v.manifest.Plans, planDir}, {v.manifest.Motions, motionDir}} {
		for _, r := range list.refs {
			if err := inventory.CheckDigest(r.Digest); err != nil {
				return err
			}
			if want[list.dir(r.Digest)] {
				return fmt.Errorf("%s is there twice", r.Digest)
			}
			want[list.dir(r.Digest)] = true
		}
	}
	for name := range v.files {
		if strings.HasPrefix(name, "plans/") || strings.HasPrefix(name, "motions/") {
			parts := strings.SplitAfterN(name, "/", 3)
			if !want[parts[0]+parts[1]] {
				return fmt.Errorf("%s belongs to nothing that %s names", name, manifestName)
			}
		}
	}
	return nil
}

// checkFiles compares every file with the manifest, and the directories with
// what the manifest needs.
func (v *verifier) checkFiles() (string, error) {
	dirs := map[string]bool{".": true}
	for name := range v.files {
		for d := path.Dir(name); d != "."; d = path.Dir(d) {
			dirs[d] = true
		}
	}
	if t, ok := v.fsys.(*archive); ok && !t.at.Equal(v.manifest.MadeAt) {
		return "", fmt.Errorf("the files of the tar are of %s, the pack was made at %s", t.at.UTC().Format(time.RFC3339), v.manifest.MadeAt.Format(time.RFC3339))
	}
	err := fs.WalkDir(v.fsys, ".", func(name string, d fs.DirEntry, err error) error {
		_, listed := v.files[name]
		switch {
		case err != nil:
			return err
		case d.IsDir() && dirs[name]:
			return nil
		case !listed && name != manifestName && name != sealName:
			return fmt.Errorf("%q is in no list: it was added", name)
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is no regular file", name)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	var bytes int64
	for _, name := range slices.Sorted(maps.Keys(v.files)) {
		if err := v.stream(name, func(io.Reader) error { return nil }); err != nil {
			return "", err
		}
		bytes += v.files[name].Size
	}
	return fmt.Sprintf("%d files, %d bytes, are those of the manifest, and there is no other", len(v.files), bytes), nil
}

// stream gives f the content of a file, and fails unless all of it, whatever f
// read, is what the manifest says.
func (v *verifier) stream(name string, f func(io.Reader) error) error {
	want, ok := v.files[name]
	if !ok {
		return fmt.Errorf("%s is missing", name)
	}
	in, err := v.open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	sum := sha256.New()
	r := io.TeeReader(io.LimitReader(in, want.Size+1), sum)
	if err := f(r); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want.SHA256 {
		return fmt.Errorf("%s was changed: its sha256 is %s, the manifest says %s", name, got, want.SHA256)
	}
	return nil
}

// read returns a listed file.
func (v *verifier) read(name string) (body []byte, err error) {
	err = v.stream(name, func(r io.Reader) (err error) {
		body, err = readAll(r)
		return err
	})
	return body, err
}

// lines calls visit with every line of a listed, compressed file and returns
// the digest of what is in it.
func (v *verifier) lines(name string, visit func([]byte) error) (string, error) {
	sum := sha256.New()
	err := v.stream(name, func(r io.Reader) error {
		zr, err := gzip.NewReader(r)
		if err != nil {
			return err
		}
		limit := int64(freely) + ratio*v.files[name].Size
		limited := &io.LimitedReader{R: zr, N: limit}
		br := bufio.NewReaderSize(io.TeeReader(limited, sum), 64<<10)
		for {
			l, err := readLine(br)
			if limited.N == 0 {
				return fmt.Errorf("%w: it grows to more than %d bytes", errTooLong, limit)
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := visit(l); err != nil {
				return err
			}
		}
	})
	return digestOf(sum), err
}

func readLine(br *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, fmt.Errorf("a line: %w", errTooLong)
		}
		switch {
		case err == nil && line == nil:
			return part[:len(part)-1], nil
		case errors.Is(err, io.EOF) && len(line)+len(part) > 0:
			return nil, errors.New("its last line is cut off")
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
		line = append(line, part...)
		if err == nil {
			return line[:len(line)-1], nil
		}
	}
}

func (v *verifier) checkSeal() (string, error) {
	raw, err := v.readWhole(sealName)
	if err != nil {
		return "", err
	}
	if err := parse(raw, &v.seal); err != nil {
		return "", fmt.Errorf("%s: %w", sealName, err)
	}
	s := v.seal
	if s.Schema != SealSchema {
		return "", fmt.Errorf("its schema is %q, this program reads %s", s.Schema, SealSchema)
	}
	if s.Manifest != v.digest {
		return "", fmt.Errorf("it seals the manifest %s, this one is %s", s.Manifest, v.digest)
	}
	if err := v.loadKey(); err != nil {
		return "", err
	}
	if v.sealed, err = openCheckpoint([]byte(s.Checkpoint), v.key); err != nil {
		return "", err
	}
	e, err := included(s.Entry.entry(), v.sealed)
	if err != nil {
		return "", err
	}
	if e.Action != SealedAction || e.Digest != v.digest {
		return "", fmt.Errorf("entry %d of the journal is %q of %q, it does not seal this manifest", e.Index, e.Action, e.Digest)
	}
	return fmt.Sprintf("entry %d of a journal of %d entries, signed by %s, has the manifest's digest: by %s at %s", e.Index, v.sealed.Size, v.key.Name(), e.Actor, e.Time.Format(time.RFC3339)), nil
}

func (v *verifier) loadKey() error {
	raw, err := v.read(keyName)
	if err != nil {
		return err
	}
	own, err := note.NewVerifier(strings.TrimSpace(string(raw)))
	if err != nil {
		return fmt.Errorf("%s: %w", keyName, err)
	}
	if v.opt.Journal == nil {
		v.key = own
		v.res.Warnings = append(v.res.Warnings, fmt.Sprintf(
			"the journal's key was taken from the pack itself (%s+%08x): whoever can write a pack can write such a key; get it from elsewhere and verify again", own.Name(), own.KeyHash()))
		return nil
	}
	v.key = v.opt.Journal
	if own.Name() != v.key.Name() || own.KeyHash() != v.key.KeyHash() {
		return fmt.Errorf("%s is %s+%08x, you gave %s+%08x: the pack is of another journal", keyName, own.Name(), own.KeyHash(), v.key.Name(), v.key.KeyHash())
	}
	return nil
}

// openCheckpoint opens a checkpoint that has the journal's signature, nothing
// else, and not a byte that could be otherwise.
func openCheckpoint(signed []byte, key note.Verifier) (journal.Checkpoint, error) {
	c, err := journal.OpenCheckpoint(signed, key)
	if err != nil {
		return c, err
	}
	n, err := note.Open(signed, note.VerifierList(key))
	if err != nil {
		return c, err
	}
	if len(n.Sigs) != 1 || len(n.UnverifiedSigs) != 0 {
		return c, errors.New("checkpoint: it has other signatures than the journal's")
	}
	raw, err := base64.StdEncoding.DecodeString(n.Sigs[0].Base64)
	if err != nil {
		return c, fmt.Errorf("checkpoint: %w", err)
	}
	if want := fmt.Sprintf("%s\n— %s %s\n", n.Text, n.Sigs[0].Name, base64.StdEncoding.EncodeToString(raw)); want != string(signed) {
		return c, errors.New("checkpoint: it is not in the form it was written in")
	}
	return c, nil
}

// included checks that an entry is in the journal of a checkpoint.
func included(e Entry, c journal.Checkpoint) (journal.Entry, error) {
	j, err := journal.ParseEntry(e.Line)
	if err != nil {
		return j, err
	}
	if j.Index != e.Index {
		return j, fmt.Errorf("entry %d is shown at place %d", j.Index, e.Index)
	}
	hashes, err := hashList(e.Hashes)
	if err != nil {
		return j, fmt.Errorf("entry %d: %w", e.Index, err)
	}
	if err := tlog.CheckRecord(hashes, c.Size, c.Root, e.Index, tlog.RecordHash(e.Line)); err != nil {
		return j, fmt.Errorf("entry %d is not in the journal of %d entries: %w", e.Index, c.Size, err)
	}
	return j, nil
}

func hashList(list [][]byte) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(list))
	for n, h := range list {
		if len(h) != tlog.HashSize {
			return nil, fmt.Errorf("a hash of its proof has %d bytes", len(h))
		}
		copy(out[n][:], h)
	}
	return out, nil
}

func (v *verifier) checkIncident() (string, error) {
	var versions int
	for _, name := range slices.Sorted(maps.Keys(v.files)) {
		if name != incidentName && !strings.HasPrefix(name, "history/") {
			continue
		}
		raw, err := v.document(name, time.Time{})
		if err != nil {
			return "", err
		}
		var i struct {
			ID       string `json:"id"`
			Severity string `json:"severity"`
		}
		if err := json.Unmarshal(raw, &i); err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		if i.ID != v.manifest.Incident {
			return "", fmt.Errorf("%s is of incident %q, the pack of %q", name, i.ID, v.manifest.Incident)
		}
		v.severity[inventory.Digest(raw)] = i.Severity
		versions++
	}
	return fmt.Sprintf("%s, in %d versions", v.manifest.Incident, versions), nil
}

// document reads a file whose bytes must have been journaled.
func (v *verifier) document(name string, expires time.Time) ([]byte, error) {
	raw, err := v.read(name)
	if err != nil {
		return nil, err
	}
	d := document{name, inventory.Digest(raw), expires}
	v.documents = append(v.documents, d)
	v.journaled[d.digest] = time.Time{}
	return raw, nil
}

func (v *verifier) checkJournal() (string, error) {
	if v.key == nil || v.sealed.Size == 0 {
		return "", errors.New("without a seal there is no journal to check against")
	}
	raw, err := v.read(checkpointName)
	if err != nil {
		return "", err
	}
	c, err := openCheckpoint(raw, v.key)
	if err != nil {
		return "", err
	}
	hashes, err := hashList(v.seal.Consistency)
	if err != nil {
		return "", fmt.Errorf("consistency: %w", err)
	}
	if err := tlog.CheckTree(hashes, v.sealed.Size, v.sealed.Root, c.Size, c.Root); err != nil {
		return "", fmt.Errorf("the journal of %d entries that sealed the pack does not begin with the one of %d: %w", v.sealed.Size, c.Size, err)
	}
	var n, last int64 = 0, -1
	_, err = v.lines(entriesName, func(l []byte) error {
		var p proven
		dec := json.NewDecoder(bytes.NewReader(l))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&p); err != nil {
			return err
		}
		if p.Index <= last {
			return fmt.Errorf("entry %d comes after entry %d", p.Index, last)
		}
		last = p.Index
		n++
		e, err := included(p.entry(), c)
		if err != nil {
			return err
		}
		if at, wanted := v.journaled[e.Digest]; wanted && at.IsZero() {
			v.journaled[e.Digest] = e.Time
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	for _, d := range v.documents {
		if v.journaled[d.digest].IsZero() {
			return "", fmt.Errorf("%s was never journaled: no entry of the pack has its digest %s", d.path, d.digest)
		}
	}
	return fmt.Sprintf("%d entries are in the journal of %d entries, of which the sealing one is a continuation; all %d documents are among them", n, c.Size, len(v.documents)), nil
}

// expired fails approvals that came too late, by the journal's clock.
func (v *verifier) expired() {
	for _, d := range v.documents {
		if at := v.journaled[d.digest]; !d.expires.IsZero() && !at.IsZero() && at.After(d.expires) {
			v.check("in time", func() (string, error) {
				return "", fmt.Errorf("%s was journaled at %s, after what it approves had expired (%s)", d.path, at.Format(time.RFC3339), d.expires.Format(time.RFC3339))
			})
		}
	}
}

func (v *verifier) checkStatements() (string, error) {
	count := map[string]int64{}
	for _, name := range []string{beforeName, afterName} {
		_, err := v.lines(name, func(l []byte) error {
			count[name]++
			if !json.Valid(l) || l[0] != '{' {
				return fmt.Errorf("line %d is no JSON object", count[name])
			}
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d before, %d after", count[beforeName], count[afterName]), nil
}
