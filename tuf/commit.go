package tuf

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/reseal/reseal/internal/durable"
)

// Changes to the repository are made as one: everything that is to be written lies durably in event/pending, in one file
// however much it is, before event/pending.json decides that it is done. From then on whoever comes next finishes it,
// needing no keys, and doing again what was done already does no harm. Without that file nothing was decided and nothing
// has changed.
const (
	pendingDir     = "event/pending"
	pendingContent = pendingDir + "/content"
	pendingFile    = "event/pending.json"
	pendingSchema  = "reseal.tuf-pending/v2"
)

type place string

const (
	inSource    place = "repository"
	inPublished place = "published"
)

// A step is one change to one file.
type step struct {
	Do     string `json:"do"` // write, remove or reveal
	In     place  `json:"in"`
	Name   string `json:"name"`
	Digest string `json:"digest,omitempty"` // of what is written, by which it is found in event/pending
	From   string `json:"from,omitempty"`   // a file of the repository that has it and is to go: it is moved, if it is still there
	data   []byte
}

func write(in place, name string, data []byte) step {
	sum := sha256.Sum256(data)
	return step{Do: "write", In: in, Name: name, Digest: hex.EncodeToString(sum[:]), data: data}
}

// move is write for a file that lies elsewhere in the repository, where it is not needed any more.
func move(from, name string, data []byte) step {
	s := write(inSource, name, data)
	s.From = from
	return s
}

func remove(in place, name string) step { return step{Do: "remove", In: in, Name: name} }

// reveal writes files that clients must come to see at the same moment: see revealAll.
func reveal(name string, data []byte) step {
	s := write(inPublished, name, data)
	s.Do = "reveal"
	return s
}

type pending struct {
	Schema string `json:"schema"`
	// Published is the directory that is served to clients, when it is another than the usual one and something changes
	// in it: whoever finishes the change has to finish it there.
	Published string `json:"published,omitempty"`
	// Replaces is the published timestamp that was there when the change was decided on: see publishedTimestamp. It is
	// empty when nothing is published, and in what versions before this one wrote.
	Replaces string    `json:"replaces,omitempty"`
	Content  []content `json:"content"` // of event/pending/content, in this order, without gaps
	Steps    []step    `json:"steps"`

	data map[string][]byte // the parts of the content, by digest
}

// content is a part of event/pending/content.
type content struct {
	Digest string `json:"digest"` // SHA-256
	Length int    `json:"length"` // in bytes
}

// parts returns what is to be written, by its digest.
func (p pending) parts(all []byte) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, c := range p.Content {
		if c.Length < 0 || c.Length > len(all) {
			return nil, fmt.Errorf("%s is damaged, it is too short: restore it from a backup", pendingContent)
		}
		part := all[:c.Length]
		all = all[c.Length:]
		if sum := sha256.Sum256(part); hex.EncodeToString(sum[:]) != c.Digest {
			return nil, fmt.Errorf("%s is damaged: restore it from a backup", pendingContent)
		}
		out[c.Digest] = part
	}
	for _, s := range p.Steps {
		if s.Digest != "" && out[s.Digest] == nil {
			return nil, fmt.Errorf("%s: there is no content %s for %s", pendingFile, s.Digest, s.Name)
		}
	}
	return out, nil
}

func (p pending) publishes() bool {
	return slices.ContainsFunc(p.Steps, func(s step) bool { return s.In == inPublished })
}

// What publishedTimestamp returns when there is no digest.
const (
	noTimestamp         = "none"
	unreadableTimestamp = "unreadable"
)

// publishedTimestamp is the SHA-256 of the timestamp that clients read, in hex, or what stands for one.
func (r *Repository) publishedTimestamp() string {
	data, err := r.readPublished("timestamp.json")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return noTimestamp
	case err != nil:
		return unreadableTimestamp
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// elsewhere is the published directory when it is not the usual one, which moves with the repository.
func (r *Repository) elsewhere() string {
	if r.published == filepath.Join(r.dir, publishedDir) {
		return ""
	}
	return r.published
}

func parsePending(data []byte) (pending, error) {
	var p pending
	if err := strictJSON(data, &p); err != nil {
		return p, fmt.Errorf("%s: %w", pendingFile, err)
	}
	if p.Schema != pendingSchema {
		return p, fmt.Errorf("%s: schema %q: this version reads %s", pendingFile, p.Schema, pendingSchema)
	}
	if digest, err := hex.DecodeString(p.Replaces); p.Replaces != "" && p.Replaces != noTimestamp && p.Replaces != unreadableTimestamp && (err != nil || len(digest) != sha256.Size) {
		return p, fmt.Errorf("%s: malformed digest %q", pendingFile, p.Replaces)
	}
	for _, s := range p.Steps {
		digest, err := hex.DecodeString(s.Digest)
		ok := err == nil && (s.In == inSource || s.In == inPublished) && fs.ValidPath(s.Name) && s.Name != "."
		switch s.Do {
		case "write":
			ok = ok && len(digest) == sha256.Size && (s.From == "" || s.In == inSource && fs.ValidPath(s.From))
		case "reveal":
			ok = ok && len(digest) == sha256.Size && s.In == inPublished && path.Dir(s.Name) == "." && s.From == ""
		case "remove":
			ok = ok && s.Digest == "" && s.From == ""
		default:
			ok = false
		}
		if !ok {
			return p, fmt.Errorf("%s: malformed step %q %q", pendingFile, s.Do, s.Name)
		}
	}
	return p, nil
}

// cutOff reports whether a change was decided on and not finished.
func (r *Repository) cutOff() (bool, error) {
	_, err := r.read(pendingFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// commit makes changes as one. When it fails before they are decided on, nothing has changed; after that, they are
// finished by the next call of anything that changes the repository.
func (r *Repository) commit(ctx context.Context, steps []step) error {
	p := pending{Schema: pendingSchema, Content: []content{}, Steps: steps}
	staged := map[string]bool{}
	var parts [][]byte
	for _, s := range steps {
		if s.Digest != "" && !staged[s.Digest] {
			staged[s.Digest] = true
			p.Content = append(p.Content, content{s.Digest, len(s.data)})
			parts = append(parts, s.data)
		}
	}
	if p.publishes() {
		p.Published, p.Replaces = r.elsewhere(), r.publishedTimestamp()
	}
	manifest, err := json.MarshalIndent(p, "", " ")
	if err != nil {
		return err
	}
	err = r.room(steps)
	if err == nil {
		err = r.writeAll(ctx, r.dir, []file{{name: pendingContent, data: bytes.Join(parts, nil)}})
	}
	if err == nil {
		err = r.writeAll(ctx, r.dir, []file{{name: pendingFile, data: manifest}})
	}
	if err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	return r.finish(ctx, r.inPlace)
}

// room refuses files that would have to lie where there is a directory, or below a file: found out later, it would stop
// the repository in the middle of a change that nothing can finish.
func (r *Repository) room(steps []step) error {
	type at struct {
		in   place
		name string
	}
	files := map[at]bool{}
	for _, s := range steps {
		if s.Do != "remove" {
			files[at{s.In, s.Name}] = true
		}
	}
	for f := range files {
		dir := r.dir
		if f.in == inPublished {
			dir = r.published
		}
		look := func(name string) fs.FileMode { // 0: nothing is there, or nobody can tell
			info, err := os.Stat(filepath.Join(dir, filepath.FromSlash(name)))
			if err != nil {
				return 0
			}
			return info.Mode().Type() | 1
		}
		if look(f.name).IsDir() {
			return fmt.Errorf("%s is a directory, and was to be a file: choose another name, or remove the directory if it is empty", f.name)
		}
		for up := path.Dir(f.name); up != "."; up = path.Dir(up) {
			if mode := look(up); files[at{f.in, up}] || mode != 0 && !mode.IsDir() {
				return fmt.Errorf("%s cannot lie below %s, which is a file: choose another name", f.name, up)
			}
		}
	}
	return nil
}

// decided returns the change that was decided on, with all its content; [fs.ErrNotExist] where there is none.
func (r *Repository) decided() (pending, error) {
	manifest, err := r.read(pendingFile)
	if err != nil {
		return pending{}, err
	}
	p, err := parsePending(manifest)
	if err != nil {
		return p, err
	}
	all, err := r.read(pendingContent)
	if err != nil {
		return p, fmt.Errorf("%s is there without its content: restore it from a backup: %v", pendingFile, err)
	}
	p.data, err = p.parts(all)
	return p, err
}

// finish carries out what was decided on, if anything was. The context does not stop it half way: it is bounded, and
// what it leaves undone somebody else would have to finish first. A publication is finished when may allows it.
func (r *Repository) finish(ctx context.Context, may func(pending) error) error {
	p, err := r.decided()
	if errors.Is(err, fs.ErrNotExist) {
		return r.clearPending()
	}
	if err != nil {
		return err
	}
	if p.publishes() && p.Published != r.elsewhere() {
		if p.Published == "" {
			p.Published = filepath.Join(r.dir, publishedDir)
		}
		return fmt.Errorf("a publication to %s was cut off, and the published directory given now is %s: give the one that it was begun with, to finish it", p.Published, r.published)
	}
	if p.publishes() {
		if err := may(p); err != nil {
			return err
		}
	}
	if err := r.carryOut(context.WithoutCancel(ctx), p.Steps, p.data); err != nil {
		return fmt.Errorf("stopped in the middle of a change; remove the cause and run this again, which finishes it: %w", err)
	}
	return nil
}

// inPlace refuses to finish a publication when something else was published since it was decided on: the directory was
// restored from a backup, and what is published may hold a denial that would be gone; or somebody has the online key.
func (r *Repository) inPlace(p pending) error {
	now := r.publishedTimestamp()
	if now == p.Replaces || slices.ContainsFunc(p.Steps, func(s step) bool { return s.Do == "reveal" && s.Name == "timestamp.json" && s.Digest == now }) {
		return nil
	}
	if now == noTimestamp { // lost in the meantime, or not there yet
		return r.supersedes(p, nil)
	}
	s, err := r.after(p)
	if err != nil {
		return err
	}
	what := "that cannot be read"
	if data, err := r.readPublished("timestamp.json"); err == nil {
		if m, err := parse(metadata.Timestamp(), data); err == nil {
			if p.Replaces == "" && m.Signed.Version < s.Timestamp.Signed.Version {
				return nil // of a version of this program that did not note what it replaces
			}
			what = fmt.Sprintf("of version %d", m.Signed.Version)
		}
	}
	return fmt.Errorf("a publication with timestamp version %d was cut off here, and a timestamp %s was published since by somebody else: if this directory was restored from a backup, rebuild it from the published one, in an empty directory; if somebody has the online key, republish, which finishes what was cut off", s.Timestamp.Signed.Version, what)
}

// supersedes refuses to finish a publication when what is published is newer than what it makes: see newest.
func (r *Repository) supersedes(p pending, discard map[string]int64) error {
	s, err := r.after(p)
	if err == nil {
		_, err = r.newest(s, discard)
	}
	return err
}

// after returns the state that the repository will have once p is finished.
func (r *Repository) after(p pending) (*state, error) {
	files := map[string]step{}
	for _, s := range p.Steps {
		if s.In == inSource {
			files[s.Name] = s
		}
	}
	return load(func(name string) ([]byte, error) {
		s, ok := files[name]
		switch {
		case !ok:
			return r.read(name)
		case s.Do == "remove":
			return nil, fs.ErrNotExist
		}
		return p.data[s.Digest], nil
	})
}

func (r *Repository) carryOut(ctx context.Context, steps []step, data map[string][]byte) error {
	for len(steps) > 0 {
		// Steps of one kind in one place are taken together.
		n := slices.IndexFunc(steps, func(s step) bool { return s.Do != steps[0].Do || s.In != steps[0].In })
		if n < 0 {
			n = len(steps)
		}
		if err := r.carryOutAlike(ctx, steps[:n], data); err != nil {
			return err
		}
		steps = steps[n:]
	}
	if err := r.remove(r.dir, pendingFile); err != nil {
		return err
	}
	return r.clearPending()
}

func (r *Repository) carryOutAlike(ctx context.Context, steps []step, data map[string][]byte) error {
	dir := r.dir
	if steps[0].In == inPublished {
		dir = r.published
	}
	if steps[0].Do == "remove" {
		names := make([]string, len(steps))
		for i, s := range steps {
			names[i] = s.Name
		}
		return r.remove(dir, names...)
	}
	files := make([]file, len(steps))
	for i, s := range steps {
		files[i] = file{name: s.Name, data: data[s.Digest], from: s.From}
	}
	if steps[0].Do == "reveal" {
		return r.revealAll(ctx, files)
	}
	return r.writeAll(ctx, dir, files)
}

// clearPending removes what was prepared and is not wanted any more, and directories of the event that are empty.
func (r *Repository) clearPending() error {
	root, err := durable.OpenRoot(r.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Lstat(eventDir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := r.reach("remove", pendingDir); err != nil {
		return err
	}
	if err := root.RemoveAll(pendingDir); err != nil {
		return err
	}
	if _, err := root.Lstat(eventFile); errors.Is(err, fs.ErrNotExist) {
		return root.RemoveAll(eventDir)
	}
	return nil
}

// The name of the directory by which files are revealed together, within the published directory, and of its parts.
const (
	revealDir = ".reveal"
	current   = revealDir + "/current" // a link to one of the two below
	before    = "before"
	after     = "after"
)

// revealAll replaces several files of the published directory, the last of them being timestamp.json, so that at every
// moment clients find either all of the old or all of the new.
//
// A new root and the timestamp must change together: with a root that has another online key, clients refuse the
// timestamp before, and without it the timestamp after. For the time of the change both names are symbolic links through
// one link, whose replacement is a single rename; then plain files take their place again. On a file system without
// links the files are replaced one after the other: a crash between two renames then leaves clients unable to refresh
// until the publication is finished.
func (r *Repository) revealAll(ctx context.Context, files []file) error {
	if err := makeDir(r.published); err != nil {
		return err
	}
	root, err := durable.OpenRoot(r.published)
	if err != nil {
		return err
	}
	defer root.Close()
	last := files[len(files)-1]
	if _, err := root.Lstat(revealDir); err == nil && len(files) == 1 {
		// What is there is of a change that was abandoned: this one makes no links. Others than this file may lead there.
		if err := r.abandon(ctx, root); err != nil {
			return err
		}
	}
	old, err := durable.ReadFileIn(root, last.name)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && string(old) == string(last.data) && !isLink(root, last.name), len(files) == 1:
		// Nobody has seen anything yet, or all have seen everything: or there is but one file.
		return r.settleRevealed(ctx, root, files)
	case err != nil:
		return err
	}
	to, _ := root.Readlink(current)
	if to != "" {
		// What is there is of this change, or of another that was abandoned when the repository was restored.
		if data, err := durable.ReadFileIn(root, path.Join(revealDir, after, last.name)); err != nil || string(data) != string(last.data) {
			if err := r.abandon(ctx, root); err != nil {
				return err
			}
			to = ""
		}
	}
	if to != after {
		var hidden []file
		for _, f := range files {
			hidden = append(hidden, file{name: path.Join(revealDir, after, f.name), data: f.data})
		}
		if to != before {
			hidden = append(hidden, file{name: path.Join(revealDir, before, last.name), data: old})
		}
		if err := r.writeIn(ctx, root, hidden); err != nil {
			return err
		}
		if to != before {
			if err := r.link(root, before, current); errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
				return r.settleRevealed(ctx, root, files)
			} else if err != nil {
				return err
			}
		}
		// The timestamp first: through the link it is the same as before. The others are not there before.
		for _, f := range append([]file{last}, files[:len(files)-1]...) {
			if err := r.link(root, path.Join(current, f.name), f.name); err != nil {
				return err
			}
		}
		if err := r.link(root, after, current); err != nil {
			return err
		}
	}
	return r.settleRevealed(ctx, root, files)
}

func (r *Repository) settleRevealed(ctx context.Context, root *os.Root, files []file) error {
	for _, f := range files { // one after the other
		if err := r.writeIn(ctx, root, []file{f}); err != nil {
			return err
		}
	}
	if _, err := root.Lstat(revealDir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := r.reach("remove", revealDir); err != nil {
		return err
	}
	if err := root.Remove(current); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := root.RemoveAll(revealDir); err != nil {
		return err
	}
	return durable.SyncDir(root, ".")
}

// abandon puts plain files in place of all links, with what they lead to, and removes those that lead nowhere.
func (r *Repository) abandon(ctx context.Context, root *os.Root) error {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	var files []file
	for _, e := range entries {
		if to, err := root.Readlink(e.Name()); err != nil || path.Dir(to) != current {
			continue
		}
		data, err := durable.ReadFileIn(root, e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			err = root.Remove(e.Name())
		} else if err == nil {
			files = append(files, file{name: e.Name(), data: data})
		}
		if err != nil {
			return err
		}
	}
	return r.settleRevealed(ctx, root, files)
}

func isLink(root *os.Root, name string) bool {
	info, err := root.Lstat(name)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// changedFiles are files by name, of the published directory as it will be.
type changedFiles map[string][]byte

func (r *Repository) willBe(steps []step) changedFiles {
	out := changedFiles{}
	for _, s := range steps {
		if s.In == inPublished && s.data != nil {
			out[s.Name] = s.data
		}
	}
	return out
}

// only keeps of steps those that change something.
func (r *Repository) only(steps []step) []step {
	return slices.DeleteFunc(steps, func(s step) bool {
		if s.Do != "write" {
			return false
		}
		read := r.read
		if s.In == inPublished {
			read = r.readPublished
		}
		had, err := read(s.Name)
		return err == nil && string(had) == string(s.data)
	})
}
