package pack

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/internal/durable"
)

// block is the unit of a tar file, in bytes.
const block = 512

// tarHeader returns the one header that a file of a pack has in a tar.
func tarHeader(name string, size int64, at time.Time) ([]byte, error) {
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: at, Format: tar.FormatUSTAR})
	return b.Bytes(), err
}

// writeTar writes the files of a directory in the order given. The same files
// give the same bytes.
func writeTar(w io.Writer, dir string, names []string, at time.Time) error {
	for _, name := range names {
		if err := tarFile(w, dir, name, at); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	_, err := w.Write(make([]byte, 2*block))
	return err
}

func tarFile(w io.Writer, dir, name string, at time.Time) error {
	f, err := os.Open(path.Join(dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	header, err := tarHeader(name, info.Size(), at)
	if err != nil {
		return err
	}
	if _, err := w.Write(header); err != nil {
		return err
	}
	n, err := io.Copy(w, f)
	if err == nil && n != info.Size() {
		err = fmt.Errorf("it has %d bytes and had %d", n, info.Size())
	}
	if err != nil {
		return err
	}
	_, err = w.Write(make([]byte, padding(n)))
	return err
}

func padding(size int64) int64 { return (block - size%block) % block }

// archive is a tar file as a file system. Only what writeTar writes is one: the
// headers, the padding and the end are compared byte by byte, so that nothing
// can be hidden between the files.
type archive struct {
	r       io.ReaderAt
	at      time.Time
	entries map[string]span
	dirs    map[string][]fs.DirEntry
}

// span is where a file stands in the tar.
type span struct{ offset, size int64 }

// newArchive reads the headers of a tar of the given size in bytes.
func newArchive(r io.ReaderAt, size int64) (*archive, error) {
	a := &archive{r: r, entries: map[string]span{}, dirs: map[string][]fs.DirEntry{".": nil}}
	header := make([]byte, block)
	zero := make([]byte, block)
	for at := int64(0); ; {
		if _, err := r.ReadAt(header, at); err != nil {
			return nil, fmt.Errorf("tar: it ends early, at byte %d: %w", at, err)
		}
		if bytes.Equal(header, zero) {
			rest := make([]byte, block)
			if _, err := r.ReadAt(rest, at+block); err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(rest, zero) || size != at+2*block {
				return nil, fmt.Errorf("tar: at byte %d something follows its end, or the end is cut off", at)
			}
			return a, nil
		}
		h, err := tar.NewReader(bytes.NewReader(header)).Next()
		if err != nil {
			return nil, fmt.Errorf("tar: header at byte %d: %w", at, err)
		}
		if len(a.entries) == 0 {
			a.at = h.ModTime
		}
		want, err := tarHeader(h.Name, h.Size, a.at)
		if err != nil || !bytes.Equal(want, header) {
			return nil, fmt.Errorf("tar: the header at byte %d is not one that is written for a pack: another type, mode, owner or time", at)
		}
		if err := a.add(h.Name, span{at + block, h.Size}); err != nil {
			return nil, err
		}
		end := at + block + h.Size
		if h.Size < 0 || end < at || end > size {
			return nil, fmt.Errorf("tar: %s ends beyond the end", h.Name)
		}
		pad := make([]byte, padding(h.Size))
		if _, err := r.ReadAt(pad, end); len(pad) > 0 && err != nil {
			return nil, fmt.Errorf("tar: it ends early, at byte %d: %w", end, err)
		}
		if !bytes.Equal(pad, zero[:len(pad)]) {
			return nil, fmt.Errorf("tar: something is hidden after %s", h.Name)
		}
		at = end + int64(len(pad))
	}
}

func (a *archive) add(name string, s span) error {
	if err := checkPath(name); err != nil {
		return fmt.Errorf("tar: %w", err)
	}
	if _, ok := a.entries[name]; ok || a.dirs[name] != nil {
		return fmt.Errorf("tar: %s is there twice", name)
	}
	if len(a.entries) >= maxFiles+2 {
		return fmt.Errorf("tar: it has more than %d files", maxFiles+2)
	}
	a.entries[name] = s
	var child fs.DirEntry = fs.FileInfoToDirEntry(info{path.Base(name), s.size, 0o644, a.at})
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		if _, ok := a.entries[dir]; ok {
			return fmt.Errorf("tar: %s is a file and a directory", dir)
		}
		known := len(a.dirs[dir]) > 0
		a.dirs[dir] = append(a.dirs[dir], child)
		if known || dir == "." {
			return nil
		}
		child = fs.FileInfoToDirEntry(info{path.Base(dir), 0, fs.ModeDir | 0o755, a.at})
	}
}

// Open implements fs.FS.
func (a *archive) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if s, ok := a.entries[name]; ok {
		return member{io.NewSectionReader(a.r, s.offset, s.size), info{path.Base(name), s.size, 0o644, a.at}}, nil
	}
	if list, ok := a.dirs[name]; ok {
		list = slices.SortedFunc(slices.Values(list), func(x, y fs.DirEntry) int { return strings.Compare(x.Name(), y.Name()) })
		return &directory{info{path.Base(name), 0, fs.ModeDir | 0o755, a.at}, list}, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

type info struct {
	name string
	size int64
	mode fs.FileMode
	at   time.Time
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return i.at }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }

type member struct {
	*io.SectionReader
	info info
}

func (m member) Stat() (fs.FileInfo, error) { return m.info, nil }
func (m member) Close() error               { return nil }

type directory struct {
	info info
	rest []fs.DirEntry
}

func (d *directory) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *directory) Close() error               { return nil }
func (d *directory) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.name, Err: errors.New("is a directory")}
}

// ReadDir implements fs.ReadDirFile.
func (d *directory) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		n = len(d.rest)
	} else if len(d.rest) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.rest))
	out := d.rest[:n:n]
	d.rest = d.rest[n:]
	return out, nil
}

// checkPath refuses a path that could lead out of the pack or mean two things
// on some file system.
func checkPath(name string) error {
	switch {
	case len(name) > maxPath || !fs.ValidPath(name) || name == ".":
		return fmt.Errorf("%.220q is no path in a pack", name)
	case !slices.Contains(required(), name) && name != manifestName && name != sealName && !layout.MatchString(name):
		return fmt.Errorf("%q is no file of a pack", name)
	}
	return nil
}

// Open opens a pack: a directory, or a tar file. Nothing outside the directory
// can be reached through what is in it.
func Open(name string) (fs.FS, io.Closer, error) {
	st, err := os.Stat(name)
	if err == nil && st.IsDir() {
		root, err := durable.OpenRoot(name)
		if err != nil {
			return nil, nil, fmt.Errorf("evidence pack: %w", err)
		}
		return root.FS(), root, nil
	}
	f, err := durable.Open(name)
	if err != nil {
		return nil, nil, fmt.Errorf("evidence pack: %w", err)
	}
	var a *archive
	if st, err = f.Stat(); err == nil {
		a, err = newArchive(f, st.Size())
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("evidence pack %s: %w", name, err), f.Close())
	}
	return a, f, nil
}
