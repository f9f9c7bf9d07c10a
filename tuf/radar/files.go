package radar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/reseal/reseal/internal/durable"
)

// How much of a file is read, in bytes, where nothing says its length: go-tuf's limits, beyond which it refuses.
const (
	maxRoot      = 512_000
	maxTimestamp = 16_384
	maxSnapshot  = 2_000_000
	maxTargets   = 5_000_000
	maxDeclared  = 256 << 20 // a length that a snapshot declares is believed up to here
)

// How many versions of root are read, and how many bytes of them from a web address.
const (
	maxRoots    = 4096
	maxAllRoots = 64 << 20
)

// requestTimeout bounds one request; the context bounds the whole.
const requestTimeout = 30 * time.Second

var (
	errForbidden = errors.New("the server answers 403")
	errTooLong   = errors.New("too long")
)

// files is where a repository's files are.
type files struct {
	layout Layout
	dir    *os.Root // nil: a web address
	base   *url.URL
	client *http.Client
	date   time.Time // what the server's clock said last
	here   time.Time // and ours then
	now    func() time.Time
}

// open finds out what a directory or web address holds.
func open(source string, o Options) (*files, error) {
	f := &files{layout: Published, now: o.Now}
	if strings.HasPrefix(source, "http://") || strings.HasPrefix(source, "https://") {
		u, err := url.Parse(source)
		if err != nil {
			return nil, errors.New("that is no web address")
		}
		if u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, errors.New("give the address of the directory that holds timestamp.json, without query or fragment")
		}
		f.base, f.client = u, o.Client
		if f.client == nil {
			f.client = &http.Client{Timeout: requestTimeout}
		}
		return f, nil
	}
	dir, err := durable.OpenRoot(source) // nothing in the metadata, and no symbolic link, leads out of it
	if err != nil {
		return nil, err
	}
	f.dir = dir
	if st, err := dir.Stat("metadata"); err == nil && st.IsDir() {
		f.layout = Source
	}
	return f, nil
}

func (f *files) close() {
	if f.dir != nil {
		f.dir.Close()
	}
}

// root returns the name of a version of root.
func (f *files) root(version int64) string {
	if f.layout == Source {
		return fmt.Sprintf("metadata/root_history/%d.root.json", version)
	}
	return fmt.Sprintf("%d.root.json", version)
}

// role returns the name of the metadata of a role. Role names are escaped as go-tuf does it.
func (f *files) role(name string, version int64, consistent bool) string {
	switch escaped := url.PathEscape(name); {
	case f.layout == Source:
		return "metadata/" + escaped + ".json"
	case consistent && name != "timestamp":
		return fmt.Sprintf("%d.%s.json", version, escaped)
	default:
		return escaped + ".json"
	}
}

// target returns the name of the file of a target.
func (f *files) target(name, hash string, consistent bool) string {
	if f.layout == Source || !consistent {
		return path.Join("targets", name)
	}
	dir, base := path.Split(name)
	return path.Join("targets", dir, hash+"."+base)
}

// read returns the content of a file. It fails with fs.ErrNotExist when there is none, with errForbidden when the
// server will not say, and with errTooLong when there is more than limit bytes.
func (f *files) read(ctx context.Context, name string, limit int64) ([]byte, error) {
	r, err := f.open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: it has more than %d bytes", errTooLong, limit)
	}
	return data, nil
}

func (f *files) open(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if f.dir == nil {
		return f.get(ctx, name)
	}
	r, err := durable.OpenIn(f.dir, name)
	if err != nil {
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err // the name is said by the caller
		}
		return nil, err
	}
	return r, nil
}

func (f *files) get(ctx context.Context, name string) (io.ReadCloser, error) {
	u := *f.base
	u.RawPath, u.Path = "", strings.TrimSuffix(f.base.Path, "/")+"/"+name // String escapes what go-tuf escaped once more
	if unescaped, err := url.PathUnescape(name); err == nil {
		u.Path = strings.TrimSuffix(f.base.Path, "/") + "/" + unescaped
		u.RawPath = strings.TrimSuffix(f.base.EscapedPath(), "/") + "/" + name
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := f.client.Do(req)
	if err != nil {
		var urlErr *url.Error
		if errors.As(err, &urlErr) && ctx.Err() == nil {
			err = urlErr.Err // without the address, which may hold a password
		}
		return nil, err
	}
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil && resp.Header.Get("Age") == "" {
		f.date, f.here = at, f.now()
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return resp.Body, nil
	case http.StatusNotFound:
		err = fs.ErrNotExist
	case http.StatusForbidden:
		err = errForbidden
	default:
		err = fmt.Errorf("the server answers %d", resp.StatusCode)
	}
	return nil, errors.Join(err, resp.Body.Close())
}

// roots returns the versions of root that lie in the directory, in order.
func (f *files) roots() ([]int64, error) {
	dir := "."
	if f.layout == Source {
		dir = "metadata/root_history"
	}
	entries, err := durable.ReadDirIn(f.dir, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []int64
	for _, e := range entries {
		number, ok := strings.CutSuffix(e.Name(), ".root.json")
		n, err := strconv.ParseInt(number, 10, 64)
		if ok && err == nil && n > 0 && strconv.FormatInt(n, 10) == number {
			list = append(list, n)
		}
	}
	if len(list) > maxRoots {
		return nil, fmt.Errorf("there are more than %d versions of root", maxRoots)
	}
	slices.Sort(list)
	return list, nil
}

// events returns the metadata of an open signing event, by role. What makes the event is event/event.json: without it
// the rest is nobody's.
func (f *files) events() map[string]string {
	if f.dir == nil || f.layout != Source {
		return nil
	}
	if _, err := f.dir.Stat("event/event.json"); err != nil {
		return nil
	}
	const dir = "event/metadata"
	entries, err := durable.ReadDirIn(f.dir, dir)
	if err != nil {
		return nil
	}
	out := map[string]string{}
	for _, e := range entries {
		if role, ok := strings.CutSuffix(e.Name(), ".json"); ok && e.Type().IsRegular() && len(out) < 1000 {
			out[role] = dir + "/" + e.Name()
		}
	}
	return out
}

// shown returns a web address without a password in it.
func shown(source string) string {
	if u, err := url.Parse(source); err == nil && u.User != nil {
		return u.Redacted()
	}
	return source
}

// same reports whether two files of metadata sign the same.
func same(a, b *document) bool { return bytes.Equal(a.payload, b.payload) }
