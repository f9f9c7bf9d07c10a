// Verify-pack checks an evidence pack of reseal. It is written for an auditor:
// it shares no code with reseal, imports nothing but Go's standard library, and
// is meant to be read before it is run.
//
//	go run ./testdata/verify-pack PACK [journal.pub]
//
// PACK is the directory or the tar file. journal.pub is the journal's verifier
// key, which you should have from elsewhere than the pack. One line is printed
// for each check; the exit code is 0 if none failed, and 1 otherwise. The pack
// is read into memory.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"time"
)

const limit = 2 << 30 // bytes of a pack, and of anything in it

var (
	files     = map[string][]byte{}    // the pack
	journaled = map[string]time.Time{} // digest → time of the first journal entry with it
	failed    bool
)

func main() {
	if len(os.Args) < 2 || len(os.Args) > 3 {
		fmt.Fprintln(os.Stderr, "usage: verify-pack PACK [journal.pub]")
		os.Exit(2)
	}
	check("the pack can be read", func() { load(os.Args[1]) })
	key := string(files["journal/journal.pub"])
	if len(os.Args) == 3 {
		check("the pack is of the journal whose key you gave", func() {
			raw, err := os.ReadFile(os.Args[2])
			need(err == nil && strings.TrimSpace(string(raw)) == strings.TrimSpace(key), "it is of another (%v)", err)
		})
	} else {
		fmt.Println("WARNING    the journal's key is taken from the pack itself: get it from elsewhere")
	}
	if !failed {
		verify(strings.TrimSpace(key))
	}
	if failed {
		fmt.Println("REFUSED")
		os.Exit(1)
	}
	fmt.Println("accepted")
}

// check runs one check: it failed if it panics, which is what need does.
func check(name string, f func()) {
	defer func() {
		if why := recover(); why != nil {
			failed = true
			fmt.Printf("FAILED     %q: %q\n", name, fmt.Sprint(why))
		}
	}()
	f()
	fmt.Printf("ok         %q\n", name)
}

func need(ok bool, format string, args ...any) {
	if !ok {
		panic(fmt.Sprintf(format, args...))
	}
}

func digest(b []byte) string { h := sha256.Sum256(b); return "sha256:" + hex.EncodeToString(h[:]) }

// load reads a directory, or the one tar that its files make: tar headers,
// padding and end are compared with what they must be.
func load(name string) {
	st, err := os.Stat(name)
	need(err == nil, "%v", err)
	if st.IsDir() {
		dir := os.DirFS(name)
		total := int64(0)
		err := fs.WalkDir(dir, ".", func(at string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			need(d.Type().IsRegular(), "%s is no regular file", at)
			info, err := d.Info()
			need(err == nil, "%v", err)
			total += info.Size()
			need(total < limit, "the pack is too large")
			files[at], err = fs.ReadFile(dir, at)
			return err
		})
		need(err == nil, "%v", err)
		return
	}
	need(st.Size() < limit, "the pack is too large")
	raw, err := os.ReadFile(name)
	need(err == nil, "%v", err)
	var again bytes.Buffer
	tr, tw := tar.NewReader(bytes.NewReader(raw)), tar.NewWriter(&again)
	for h, err := tr.Next(); err != io.EOF; h, err = tr.Next() {
		need(err == nil, "%v", err)
		need(files[h.Name] == nil, "%s is there twice", h.Name)
		body, err := io.ReadAll(io.LimitReader(tr, limit))
		need(err == nil, "%s: %v", h.Name, err)
		files[h.Name] = append([]byte{}, body...)
		err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: h.Name, Size: h.Size, Mode: 0o644, ModTime: h.ModTime, Format: tar.FormatUSTAR})
		need(err == nil, "%s: %v", h.Name, err)
		_, err = tw.Write(body)
		need(err == nil, "%s: %v", h.Name, err)
	}
	need(tw.Close() == nil && bytes.Equal(again.Bytes(), raw), "the tar has something in it besides its files")
}

type ref struct {
	Digest  string `json:"digest"`
	Applied bool   `json:"applied"`
}

type file struct {
	Path   string `json:"path"`
	Size   int    `json:"size"`
	SHA256 string `json:"sha256"`
}

type entry struct {
	Entry  string   `json:"entry"`
	Index  int64    `json:"index"`
	Hashes [][]byte `json:"hashes"`
}

type logged struct { // what Entry of an entry says
	Index  int64
	Time   time.Time
	Action string
	Digest string
}

// strict reads JSON that must be in exactly the form it is written in.
func strict(name string, into any) {
	err := json.Unmarshal(files[name], into)
	need(err == nil, "%s: %v", name, err)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	need(enc.Encode(into) == nil && bytes.Equal(b.Bytes(), files[name]), "%s is not in the form it was written in", name)
}

func verify(key string) {
	var m struct {
		Schema   string `json:"schema"`
		Incident string `json:"incident"`
		Plans    []ref  `json:"plans"`
		Motions  []ref  `json:"motions"`
		MadeAt   string `json:"made_at"`
		Files    []file `json:"files"`
	}
	check("files: all that the manifest lists, as it lists them, and no other", func() {
		strict("manifest.json", &m)
		need(m.Schema == "reseal.evidence/v1", "the schema is %q", m.Schema)
		listed := map[string]bool{"manifest.json": true, "seal.json": true}
		for _, f := range m.Files {
			body, there := files[f.Path]
			need(there && !listed[f.Path], "%s is missing, or listed twice", f.Path)
			need(len(body) == f.Size && digest(body) == "sha256:"+f.SHA256, "%s was changed", f.Path)
			listed[f.Path] = true
		}
		for name := range files {
			need(listed[name], "%s was added", name)
		}
	})
	var s struct {
		Schema      string   `json:"schema"`
		Manifest    string   `json:"manifest"`
		Entry       entry    `json:"entry"`
		Checkpoint  string   `json:"checkpoint"`
		Consistency [][]byte `json:"consistency"`
	}
	var size int64
	var root []byte
	check("seal: the journal, signed with its key, has an entry with the manifest's digest", func() {
		strict("seal.json", &s)
		size, root = checkpoint(s.Checkpoint, key)
		e := included(s.Entry, size, root)
		want := digest(files["manifest.json"])
		need(s.Schema == "reseal.evidence-seal/v1" && e.Action == "evidence.sealed" && s.Manifest == want && e.Digest == want,
			"%s of %s (in seal.json: %s), the manifest is %s", e.Action, e.Digest, s.Manifest, want)
	})
	check("journal: all entries are in it, and it only grew until the seal", func() {
		oldSize, oldRoot := checkpoint(string(files["journal/checkpoint"]), key)
		consistent(oldSize, size, oldRoot, root, s.Consistency)
		last := int64(-1)
		for _, l := range lines("journal/entries.jsonl.gz") {
			var e entry
			err := json.Unmarshal(l, &e)
			need(err == nil && e.Index > last, "entry %d after %d: %v", e.Index, last, err)
			j := included(e, oldSize, oldRoot)
			if _, seen := journaled[j.Digest]; !seen {
				journaled[j.Digest] = j.Time
			}
			last = e.Index
		}
	})
	check("documents: every one was journaled", func() {
		for name, body := range files {
			switch dir, _, _ := strings.Cut(name, "/"); dir {
			case "incident.json", "history", "approvers", "plans", "motions":
				_, ok := journaled[digest(body)]
				need(ok || strings.HasSuffix(name, "plan.jsonl.gz"), "%s was not", name)
			}
		}
	})
	for _, r := range m.Plans {
		plan(r, m.Incident)
	}
	for _, r := range m.Motions {
		motion(r)
	}
}

// lines unpacks a file of lines.
func lines(name string) [][]byte {
	zr, err := gzip.NewReader(bytes.NewReader(files[name]))
	need(err == nil, "%s: %v", name, err)
	most := min(limit, 64<<20+200*int64(len(files[name])))
	raw, err := io.ReadAll(io.LimitReader(zr, most))
	need(err == nil && int64(len(raw)) < most, "%s is too large: %v", name, err)
	all := bytes.SplitAfter(raw, []byte("\n"))
	need(len(all[len(all)-1]) == 0, "%s is cut off", name)
	return all[:len(all)-1]
}

// checkpoint opens a signed note (golang.org/x/mod/sumdb/note) that has exactly
// one signature, by the given key, and returns the tree it commits to.
func checkpoint(text, vkey string) (size int64, root []byte) {
	parts := strings.SplitN(vkey, "+", 3) // name + hash + base64(algorithm, key)
	need(len(parts) == 3, "%q is no verifier key", vkey)
	pub, err := base64.StdEncoding.DecodeString(parts[2])
	need(err == nil && len(pub) == 33 && pub[0] == 1, "%q is no Ed25519 verifier key", vkey)
	id := sha256.Sum256(append([]byte(parts[0]+"\n"), pub...))
	need(hex.EncodeToString(id[:4]) == parts[1], "%q is damaged", vkey)
	body, signature, _ := strings.Cut(text, "\n\n")
	body += "\n"
	sig, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(strings.TrimPrefix(signature, "— "+parts[0]+" "), "\n"))
	need(err == nil && len(sig) == 68 && signature == "— "+parts[0]+" "+base64.StdEncoding.EncodeToString(sig)+"\n", "the checkpoint's signature is malformed")
	need(bytes.Equal(sig[:4], id[:4]) && ed25519.Verify(pub[1:], []byte(body), sig[4:]), "the checkpoint's signature does not verify")
	l := strings.Split(body, "\n")
	need(len(l) == 4 && l[0] == "reseal.dev/journal/v1", "the checkpoint is of no journal of reseal")
	size, err = strconv.ParseInt(l[1], 10, 64)
	root, err2 := base64.StdEncoding.DecodeString(l[2])
	need(err == nil && err2 == nil && size > 0 && len(root) == 32, "the checkpoint has no size or root")
	return size, root
}

func hash(prefix byte, parts ...[]byte) []byte { // RFC 6962: 0 for leaves, 1 for nodes
	h := sha256.Sum256(append([]byte{prefix}, bytes.Join(parts, nil)...))
	return h[:]
}

// included verifies an inclusion proof (RFC 9162, section 2.1.3.2).
func included(e entry, size int64, root []byte) (j logged) {
	err := json.Unmarshal([]byte(e.Entry), &j)
	need(err == nil && j.Index == e.Index && e.Index >= 0 && e.Index < size, "entry %d is not what it says, or not among the first %d", e.Index, size)
	r, fn, sn := hash(0, []byte(e.Entry)), e.Index, size-1
	for _, h := range e.Hashes {
		need(sn != 0 && len(h) == 32, "the proof of entry %d is malformed", e.Index)
		if fn&1 == 1 || fn == sn {
			r = hash(1, h, r)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			r = hash(1, r, h)
		}
		fn, sn = fn>>1, sn>>1
	}
	need(sn == 0 && bytes.Equal(r, root), "entry %d is not in the journal", e.Index)
	return j
}

// consistent verifies a consistency proof (RFC 9162, section 2.1.4.2).
func consistent(old, size int64, oldRoot, root []byte, path [][]byte) {
	need(old > 0 && old < size, "the checkpoint of %d entries is not earlier than the one of %d", old, size)
	if bits.OnesCount64(uint64(old)) == 1 {
		path = append([][]byte{oldRoot}, path...)
	}
	need(len(path) > 0, "no proof of consistency")
	fn, sn, fr, sr := old-1, size-1, path[0], path[0]
	for fn&1 == 1 {
		fn, sn = fn>>1, sn>>1
	}
	for _, c := range path[1:] {
		need(sn != 0 && len(c) == 32, "the proof of consistency is malformed")
		if fn&1 == 1 || fn == sn {
			fr, sr = hash(1, c, fr), hash(1, c, sr)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			sr = hash(1, sr, c)
		}
		fn, sn = fn>>1, sn>>1
	}
	need(sn == 0 && bytes.Equal(fr, oldRoot) && bytes.Equal(sr, root), "the journal of %d entries does not begin with the one of %d", size, old)
}
