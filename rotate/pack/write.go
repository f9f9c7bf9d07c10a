package pack

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/reseal/reseal/inventory"
)

// Form is how a pack is kept.
type Form string

// The forms of a pack.
const (
	Directory Form = "directory"
	Tar       Form = "tar"
)

// Write writes a pack and returns the digest of its manifest. seal is called
// once, when all other files are written: it journals that digest under
// SealedAction and returns the proof. Under the target's name there is either
// the whole pack or nothing, whatever happens; a target that exists is refused.
// The same contents and seal give the same bytes.
func Write(target string, form Form, c Contents, seal func(manifest string) (Seal, error)) (digest string, err error) {
	if form != Directory && form != Tar {
		return "", fmt.Errorf("evidence pack: %q is no form of a pack: use %s or %s", form, Directory, Tar)
	}
	if err := absent(target); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(filepath.Dir(filepath.Clean(target)), ".evidence-*")
	if err != nil {
		return "", fmt.Errorf("evidence pack: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	w := &writer{dir: filepath.Join(dir, "pack"), content: c}
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		return "", fmt.Errorf("evidence pack: %w", err)
	}
	if digest, err = w.write(seal); err != nil {
		return "", fmt.Errorf("evidence pack %s: %w", target, err)
	}
	ready := w.dir
	if form == Tar {
		ready = filepath.Join(dir, "tar")
		if err := w.tar(ready); err != nil {
			return "", fmt.Errorf("evidence pack %s: %w", target, err)
		}
	}
	// What stands there by now was put there while this pack was written.
	if err := absent(target); err != nil {
		return "", err
	}
	if err := os.Rename(ready, target); err != nil {
		return "", fmt.Errorf("evidence pack: %w", err)
	}
	return digest, syncDir(filepath.Dir(filepath.Clean(target)))
}

func absent(target string) error {
	_, err := os.Lstat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil:
		return fmt.Errorf("evidence pack: %s exists already: a pack is never overwritten, choose another name", target)
	default:
		return fmt.Errorf("evidence pack: %w", err)
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}

type writer struct {
	dir      string
	content  Contents
	manifest Manifest
}

func (w *writer) write(seal func(string) (Seal, error)) (string, error) {
	c := w.content
	at := c.MadeAt.UTC()
	if at.Nanosecond() != 0 || at.Unix() <= 0 {
		return "", fmt.Errorf("%s is no time it can have been made at: give a time in whole seconds", at)
	}
	var incident struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(c.Incident, &incident); err != nil {
		return "", fmt.Errorf("the incident: %w", err)
	}
	if incident.ID == "" {
		return "", errors.New("the incident has no id")
	}
	w.manifest = Manifest{Schema: Schema, Incident: incident.ID, Plans: []PlanRef{}, Motions: []PlanRef{}, MadeAt: at, Files: []File{}}
	if err := w.documents(); err != nil {
		return "", err
	}
	for _, p := range c.Plans {
		if err := w.plan(p); err != nil {
			return "", fmt.Errorf("plan %s: %w", p.Digest, err)
		}
	}
	for _, m := range c.Motions {
		if err := w.motion(m); err != nil {
			return "", fmt.Errorf("motion: %w", err)
		}
	}
	if _, err := w.lines(beforeName, c.Before); err != nil {
		return "", err
	}
	if _, err := w.lines(afterName, c.After); err != nil {
		return "", err
	}
	if err := w.entries(); err != nil {
		return "", err
	}
	if err := w.report(); err != nil {
		return "", err
	}
	return w.seal(seal)
}

// documents writes what is one file each.
func (w *writer) documents() error {
	c := w.content
	single := map[string][]byte{incidentName: c.Incident, checkpointName: c.Checkpoint, keyName: []byte(strings.TrimSpace(c.JournalKey) + "\n")}
	for _, set := range c.Approvers {
		single["approvers/"+strings.TrimPrefix(inventory.Digest(set), "sha256:")+".json"] = set
	}
	folded := map[string]string{}
	for name, body := range c.Revocations {
		other, twice := folded[strings.ToLower(name)]
		switch {
		case !goodRevocation.MatchString(name):
			return fmt.Errorf("revocation %q: use letters, digits, dots, dashes and underscores in its name", name)
		case twice:
			return fmt.Errorf("revocations %s and %s are the same file on some systems", name, other)
		}
		folded[strings.ToLower(name)] = name
		single["revocations/"+name] = body
	}
	for _, name := range slices.Sorted(maps.Keys(single)) {
		if err := w.file(name, single[name]); err != nil {
			return err
		}
	}
	return errors.Join(w.numbered("history/", c.History), w.numbered("receipts/", c.Receipts))
}

func (w *writer) numbered(dir string, bodies [][]byte) error {
	if len(bodies) > 9999 {
		return fmt.Errorf("%s would have %d files: %w", dir, len(bodies), errTooLong)
	}
	for n, b := range bodies {
		if err := w.file(fmt.Sprintf("%s%04d.json", dir, n+1), b); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) ballots(dir string, proposal []byte, approvals [][]byte) error {
	if proposal != nil {
		if err := w.file(dir+"proposal.json", proposal); err != nil {
			return err
		}
	}
	return w.numbered(dir+"approvals/", approvals)
}

func (w *writer) plan(p Plan) error {
	if err := inventory.CheckDigest(p.Digest); err != nil {
		return err
	}
	dir := planDir(p.Digest)
	got, err := w.lines(dir+"plan.jsonl.gz", p.Lines)
	if err != nil {
		return err
	}
	if got != p.Digest {
		return fmt.Errorf("its lines hash to %s: it was changed after it was made", got)
	}
	w.manifest.Plans = append(w.manifest.Plans, PlanRef{p.Digest, p.Applied})
	return errors.Join(w.ballots(dir, p.Proposal, p.Approvals), w.numbered(dir+"break-glass/", p.BreakGlass))
}

func (w *writer) motion(m Motion) error {
	digest := inventory.Digest(m.Body)
	dir := motionDir(digest)
	w.manifest.Motions = append(w.manifest.Motions, PlanRef{digest, m.Carried})
	return errors.Join(w.file(dir+"motion.json", m.Body), w.ballots(dir, m.Proposal, m.Approvals))
}

func (w *writer) entries() error {
	last := int64(-1)
	_, err := w.lines(entriesName, func(yield func([]byte, error) bool) {
		if w.content.Entries == nil {
			return
		}
		for e, err := range w.content.Entries {
			if err == nil && e.Index <= last {
				err = fmt.Errorf("entry %d comes after entry %d", e.Index, last)
			}
			var l []byte
			if err == nil {
				last = e.Index
				l, err = line(e.proven())
			}
			if !yield(l, err) {
				return
			}
		}
	})
	return err
}

func (w *writer) report() error {
	var html, markdown bytes.Buffer
	r := w.content.Report
	if err := errors.Join(r.HTML(&html), r.Markdown(&markdown)); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	text, err := readme(w.manifest)
	if err != nil {
		return err
	}
	return errors.Join(w.file(htmlName, html.Bytes()), w.file(markdownName, markdown.Bytes()), w.file(readmeName, text))
}

func (w *writer) seal(seal func(string) (Seal, error)) (string, error) {
	slices.SortFunc(w.manifest.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	raw, err := marshal(w.manifest)
	if err != nil {
		return "", err
	}
	if len(w.manifest.Files) > maxFiles || len(raw) > maxDocument {
		return "", fmt.Errorf("%d files: %w", len(w.manifest.Files), errTooLong)
	}
	digest := inventory.Digest(raw)
	if err := w.put(manifestName, raw); err != nil {
		return "", err
	}
	s, err := seal(digest)
	if err != nil {
		return "", fmt.Errorf("sealing: %w", err)
	}
	if s.Consistency == nil {
		s.Consistency = [][]byte{}
	}
	raw, err = marshal(sealFile{SealSchema, digest, s.Entry.proven(), string(s.Checkpoint), s.Consistency})
	if err != nil {
		return "", err
	}
	if err := w.put(sealName, raw); err != nil {
		return "", err
	}
	dirs := map[string]bool{".": true}
	for _, f := range w.manifest.Files {
		for d := filepath.Dir(f.Path); d != "."; d = filepath.Dir(d) {
			dirs[d] = true
		}
	}
	for _, d := range slices.Sorted(maps.Keys(dirs)) {
		if err := syncDir(filepath.Join(w.dir, d)); err != nil {
			return "", err
		}
	}
	return digest, nil
}

// tar writes the finished directory as a tar file.
func (w *writer) tar(name string) error {
	var names []string
	for _, f := range w.manifest.Files {
		names = append(names, f.Path)
	}
	names = append(names, manifestName, sealName)
	slices.Sort(names)
	return create(name, func(out io.Writer) error { return writeTar(out, w.dir, names, w.manifest.MadeAt) })
}

// create makes a file that survives a crash.
func create(name string, fill func(io.Writer) error) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	b := bufio.NewWriterSize(f, 1<<16)
	err = fill(b)
	return errors.Join(err, b.Flush(), f.Sync(), f.Close())
}

// put writes a file that the manifest does not list.
func (w *writer) put(name string, body []byte) error {
	return create(filepath.Join(w.dir, name), func(out io.Writer) error {
		_, err := out.Write(body)
		return err
	})
}

// file writes a file from memory and lists it.
func (w *writer) file(name string, body []byte) error {
	if len(body) > maxDocument {
		return fmt.Errorf("%s has %d bytes: %w", name, len(body), errTooLong)
	}
	return w.stream(name, func(out io.Writer) error {
		_, err := out.Write(body)
		return err
	})
}

// lines writes a compressed file of lines and returns the digest of what is in
// it: of every line with its newline. Memory does not grow with their number.
func (w *writer) lines(name string, seq iter.Seq2[[]byte, error]) (string, error) {
	sum := sha256.New()
	err := w.stream(name, func(out io.Writer) error {
		zw := gzip.NewWriter(out)
		if seq == nil {
			return zw.Close()
		}
		both := io.MultiWriter(zw, sum)
		for l, err := range seq {
			if err != nil {
				return err
			}
			if len(l) > maxLine || bytes.ContainsRune(l, '\n') {
				return fmt.Errorf("a line of %d bytes is too long or has a line break in it", len(l))
			}
			if _, err := both.Write(l); err != nil {
				return err
			}
			if _, err := both.Write([]byte{'\n'}); err != nil {
				return err
			}
		}
		return zw.Close()
	})
	return digestOf(sum), err
}

func digestOf(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

func (w *writer) stream(name string, fill func(io.Writer) error) error {
	if err := checkPath(name); err != nil {
		return err
	}
	full := filepath.Join(w.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return err
	}
	sum := sha256.New()
	var n count
	if err := create(full, func(out io.Writer) error { return fill(io.MultiWriter(out, sum, &n)) }); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	w.manifest.Files = append(w.manifest.Files, File{name, int64(n), hex.EncodeToString(sum.Sum(nil))})
	return nil
}

// count counts the bytes written to it.
type count int64

func (c *count) Write(b []byte) (int, error) {
	*c += count(len(b))
	return len(b), nil
}
