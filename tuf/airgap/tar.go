package airgap

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// writer writes a bundle. The same files give the same bytes: nothing of this machine or of now is in it.
type writer struct {
	gz *gzip.Writer
	tw *tar.Writer
	at time.Time
}

func newWriter(w io.Writer, at time.Time) (*writer, error) {
	gz, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	return &writer{gz: gz, tw: tar.NewWriter(gz), at: at}, nil
}

func (w *writer) file(name string, size int64, r io.Reader) error {
	if err := w.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: w.at}); err != nil {
		return err
	}
	_, err := io.Copy(w.tw, r)
	return err
}

func (w *writer) close() error { return errors.Join(w.tw.Close(), w.gz.Close()) }

// bundle is a bundle being read, from its beginning.
type bundle struct {
	manifest  Manifest
	raw       []byte // the manifest's bytes, which are signed
	signature []byte // base64; empty: it is not signed
	in        *bufio.Reader
	gz        *gzip.Reader
	tr        *tar.Reader
}

// openBundle reads the manifest, and has its signature verified before it believes a word of it. No more than what a
// limit allows is unpacked, whatever the bundle says of itself.
func openBundle(r io.Reader, maxSize int64, verify func(manifest, signature []byte) error) (*bundle, error) {
	b := &bundle{in: bufio.NewReaderSize(r, 1<<16)}
	var err error
	if b.gz, err = gzip.NewReader(b.in); err != nil {
		return nil, corrupt("", err)
	}
	b.gz.Multistream(false)
	// The headers of a tar and the padding take some more, and long names more headers.
	b.tr = tar.NewReader(io.LimitReader(b.gz, maxSize+maxManifest+maxFiles*4096))
	if b.raw, err = b.small(manifestName, maxManifest); err != nil {
		return nil, err
	}
	if b.signature, err = b.small(signatureName, maxSignature); err != nil {
		return nil, err
	}
	if err := verify(b.raw, b.signature); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b.raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&b.manifest); err != nil {
		return nil, corrupt(manifestName, err)
	}
	if d.More() {
		return nil, refuse(Corrupt, "export it anew", "manifest: something follows it")
	}
	return b, b.manifest.check(maxSize)
}

// next returns the file that comes next, which must have this name.
func (b *bundle) next(name string) (*tar.Header, error) {
	h, err := b.tr.Next()
	if errors.Is(err, io.EOF) {
		return nil, refuse(Incomplete, "copy or export it anew", "%s is missing: the bundle ends before it", name)
	}
	if err != nil {
		return nil, corrupt(name, err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil, refuse(Unknown, "export it anew", "%.200q is no regular file", h.Name)
	}
	if h.Name != name {
		return nil, refuse(Unknown, "export it anew", "%.200q stands where %s is expected: a file is missing, or one is there that does not belong there", h.Name, name)
	}
	return h, nil
}

func (b *bundle) small(name string, limit int64) ([]byte, error) {
	h, err := b.next(name)
	if err != nil {
		return nil, err
	}
	if h.Size > limit {
		return nil, refuse(TooLarge, "", "%s has %d bytes, and %d are allowed", name, h.Size, limit)
	}
	data, err := io.ReadAll(io.LimitReader(b.tr, limit))
	if err != nil {
		return nil, corrupt(name, err)
	}
	return data, nil
}

// each calls do with every file, in order, and verifies size and hash of what do leaves unread, too. do's reader ends
// with an error when the content is not what the manifest says.
func (b *bundle) each(ctx context.Context, do func(File, io.Reader) error) error {
	for _, f := range b.manifest.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := b.next(f.Name)
		if err != nil {
			return err
		}
		if h.Size != f.Size {
			return refuse(Corrupt, "copy or export it anew", "%s has %d bytes, and the manifest says %d", f.Name, h.Size, f.Size)
		}
		r := &checked{r: b.tr, file: f}
		if err := do(f, r); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
	}
	if h, err := b.tr.Next(); err == nil {
		return refuse(Unknown, "export it anew", "%.200q is in the bundle and not in its manifest", h.Name)
	} else if !errors.Is(err, io.EOF) {
		return corrupt("", err)
	}
	// The whole file belongs to the bundle: nothing may hide behind its end.
	if n, err := io.Copy(io.Discard, io.LimitReader(b.gz, 1)); err != nil {
		return corrupt("", err)
	} else if n > 0 {
		return refuse(Unknown, "export it anew", "something follows the last file")
	}
	if _, err := b.in.ReadByte(); !errors.Is(err, io.EOF) {
		return refuse(Unknown, "export it anew", "something follows the end of the bundle")
	}
	return nil
}

// checked reads a file and holds it against the manifest at its end.
type checked struct {
	r    io.Reader
	file File
	read int64
	hash interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func (c *checked) Read(p []byte) (int, error) {
	if c.hash == nil {
		c.hash = sha256.New()
	}
	n, err := c.r.Read(p)
	c.read += int64(n)
	_, _ = c.hash.Write(p[:n]) // a hash never fails
	if err == nil {
		return n, nil
	}
	if !errors.Is(err, io.EOF) {
		return n, corrupt(c.file.Name, err)
	}
	if hex.EncodeToString(c.hash.Sum(nil)) != c.file.SHA256 || c.read != c.file.Size {
		return n, refuse(Corrupt, "copy or export it anew", "%s is not the file that the manifest says", c.file.Name)
	}
	return n, io.EOF
}

func corrupt(name string, err error) error {
	if name != "" {
		name += ": "
	}
	return refuse(Corrupt, "copy or export it anew", "%sthe bundle cannot be read: %v", name, err)
}

// diff returns what is in one sorted list of names and not in another.
func diff(a []string, b map[string]bool) []string {
	return slices.DeleteFunc(slices.Clone(a), func(name string) bool { _, ok := b[name]; return ok })
}

// some names a few of many.
func some(list []string) string {
	const most = 3
	if len(list) <= most {
		return fmt.Sprint(list)
	}
	return fmt.Sprintf("%v and %d more", list[:most], len(list)-most)
}
