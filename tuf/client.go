package tuf

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/fetcher"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/reseal/reseal/internal/durable"
)

// requestTimeout bounds one request of the default client; the whole fetch is bounded by the caller's context.
const requestTimeout = 30 * time.Second

// FetchOptions says what to fetch and whom to believe.
type FetchOptions struct {
	URL  string // of the directory that holds timestamp.json
	Root []byte // the pinned root metadata the chain of trust starts from: any N.root.json of the repository

	// CacheDir remembers the newest state seen, which is what protects from a mirror that serves an older one (5.3 to
	// 5.5); several repositories may share it. Empty means no memory and so no such protection.
	CacheDir string

	// Names lists the targets wanted. Instead of it, Prefix (with its last slash, "revocations/") asks for every
	// target directly under it, whichever role publishes it.
	Names  []string
	Prefix string
	// Own lists targets that are wanted besides, and only if the top-level targets list them: no role that they delegate
	// to speaks for these, whatever its paths. One that is not there is left out.
	Own []string

	HTTPClient *http.Client // nil means one with a timeout
}

// Revocations fetches every target under revocations/, verified, by full name. It fails rather than return fewer:
// when the repository has no revocations role, when any of its files cannot be had, and when anything has expired.
func Revocations(ctx context.Context, o FetchOptions) (map[string][]byte, error) {
	o.Names, o.Prefix = nil, revocationsPrefix
	return Fetch(ctx, o)
}

// Fetch brings the cache up to date with the repository and returns the wanted targets by name, verified from the
// pinned root down. It returns all that was asked for or an error, and honours ctx during every request.
func Fetch(ctx context.Context, o FetchOptions) (map[string][]byte, error) {
	var who *url.Userinfo
	o.URL, who = apart(o.URL)
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("tuf: fetch: %w", err)
	}
	out, err := fetch(ctx, o, who)
	if err != nil {
		if ctx.Err() != nil { // what the updater makes of it need not say so
			return nil, fmt.Errorf("tuf: fetch from %s: %w: %w", o.URL, ctx.Err(), err)
		}
		return nil, fmt.Errorf("tuf: fetch from %s: %w; %s", o.URL, err, advice(err))
	}
	return out, nil
}

func (o FetchOptions) check() error {
	u, err := url.Parse(o.URL)
	if err != nil {
		return err
	}
	if (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		return fmt.Errorf("URL %q: give the http or https address of the directory that holds timestamp.json", o.URL)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("URL %q: file names are appended to it, so it can have no query or fragment", o.URL)
	}
	if len(o.Root) == 0 {
		return errors.New("no pinned root: give the content of the repository's root metadata, received by a way you trust")
	}
	if (len(o.Names) == 0) == (o.Prefix == "") {
		return errors.New("give either names or a prefix")
	}
	if o.Prefix != "" && !strings.HasSuffix(o.Prefix, "/") {
		return fmt.Errorf("prefix %q must end with a slash", o.Prefix)
	}
	return nil
}

func fetch(ctx context.Context, o FetchOptions, who *url.Userinfo) (out map[string][]byte, err error) {
	defer func() {
		if p := recover(); p != nil { // go-tuf does not expect null in place of a key or a file entry
			out, err = nil, fmt.Errorf("malformed metadata: %v", p)
		}
	}()
	cfg, err := config.New(o.URL, o.Root)
	if err != nil {
		return nil, err
	}
	f := fetcher.NewDefaultFetcher()
	f.SetHTTPClient(requester(ctx, o.HTTPClient, who))
	cfg.Fetcher = f
	if o.CacheDir == "" {
		cfg.DisableLocalCache = true
		// The updater looks for cached metadata all the same, by default in the working directory.
		cfg.LocalMetadataDir = filepath.Join(os.DevNull, "none")
	} else {
		unlock, err := openCache(ctx, cfg, o)
		if err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
		defer unlock()
	}
	up, err := updater.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("pinned root: %w", err)
	}
	if err := up.Refresh(); err != nil {
		return nil, err
	}
	names := o.Names
	if o.Prefix != "" {
		if names, err = targetsUnder(up, o.Prefix); err != nil {
			return nil, err
		}
	}
	top := up.GetTopLevelTargets()
	for _, name := range o.Own {
		if top[name] != nil { // where clients look first, so that this one is what they get
			names = append(slices.Clip(names), name)
		}
	}
	out = make(map[string][]byte, len(names))
	for _, name := range names {
		// Looked up by path from the top, so that a role speaks only for what is delegated to it (5.6).
		info, err := up.GetTargetInfo(name)
		if err != nil {
			return nil, fmt.Errorf("target %s: %w", name, err)
		}
		cached, data, err := up.FindCachedTarget(info, "")
		if err == nil && cached == "" {
			_, data, err = up.DownloadTarget(info, "", "")
		}
		if err != nil {
			return nil, fmt.Errorf("target %s: %w", name, err)
		}
		out[name] = data
	}
	return out, nil
}

// requester puts ctx on the requests of the updater, which knows no contexts, and who asks, which no address is to have:
// errors and caches tell addresses.
func requester(ctx context.Context, client *http.Client, who *url.Userinfo) doer {
	if client == nil {
		client = &http.Client{Timeout: requestTimeout}
	}
	return func(req *http.Request) (*http.Response, error) {
		if password, ok := who.Password(); ok || who.Username() != "" {
			req.SetBasicAuth(who.Username(), password)
		}
		return client.Do(req.WithContext(ctx))
	}
}

// apart takes user name and password out of an address.
func apart(address string) (string, *url.Userinfo) {
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return address, nil
	}
	who := u.User
	u.User = nil
	return u.String(), who
}

// A Mirror reads files of a published directory, up to limit bytes each. It returns fs.ErrNotExist for one that is not
// there. What it returns is not believed.
type Mirror func(ctx context.Context, name string, limit int64) ([]byte, error)

// DirMirror reads a published directory on this machine.
func DirMirror(dir string) Mirror {
	return func(_ context.Context, name string, limit int64) ([]byte, error) {
		data, err := readIn(dir, name)
		if err == nil && int64(len(data)) > limit {
			return nil, fmt.Errorf("%s is longer than the %d bytes it may have", name, limit)
		}
		return data, err
	}
}

// URLMirror reads what is published at the http or https address of a published directory. A nil client means one with
// a timeout.
func URLMirror(base string, client *http.Client) Mirror {
	base, who := apart(base)
	return func(ctx context.Context, name string, limit int64) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/"+name, nil)
		if err != nil {
			return nil, err
		}
		resp, err := requester(ctx, client, who).Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusOK:
		case http.StatusNotFound:
			return nil, fmt.Errorf("%s: %w", req.URL, fs.ErrNotExist)
		default:
			return nil, fmt.Errorf("%s: %s", req.URL, resp.Status)
		}
		data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
		if err == nil && int64(len(data)) > limit {
			return nil, fmt.Errorf("%s is longer than the %d bytes it may have", req.URL, limit)
		}
		return data, err
	}
}

type doer func(*http.Request) (*http.Response, error)

// Do sends the request, in the manner of http.Client.
func (d doer) Do(req *http.Request) (*http.Response, error) { return d(req) }

// openCache points cfg at the cache of the repository that the pinned root stands for, and locks it.
//
// The updater by itself starts every time from the pinned root. A mirror, with an online key stolen before it was
// rotated out, could then hide the rotation from a client that has already seen it. So the newest root in the cache is
// where trust starts (5.2, 5.3). That root was verified, from the pinned one, when it was stored.
func openCache(ctx context.Context, cfg *config.UpdaterConfig, o FetchOptions) (unlock func(), err error) {
	sum := sha256.Sum256(o.Root) // a root pinned anew starts afresh
	dir := filepath.Join(o.CacheDir, hex.EncodeToString(sum[:8]))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	unlock, err = durable.Lock(ctx, dir)
	if err != nil {
		return nil, err
	}
	if err := dropTorn(dir); err != nil {
		unlock()
		return nil, err
	}
	cached, err := durable.ReadFile(filepath.Join(dir, "root.json"))
	switch {
	case err == nil:
		cfg.LocalTrustedRoot = cached
	case !errors.Is(err, os.ErrNotExist):
		unlock()
		return nil, err
	}
	cfg.LocalMetadataDir = dir
	cfg.LocalTargetsDir = filepath.Join(dir, "targets")
	return unlock, nil
}

// dropTorn removes cached metadata that is not JSON. The updater stores it without syncing, so that a power cut can
// leave an empty file, at which it would then fail forever. What is no file is refused.
func dropTorn(dir string) error {
	files, err := fs.Glob(os.DirFS(dir), "*.json") // the directory itself is no pattern
	if err != nil {
		return err
	}
	for _, name := range files {
		f := filepath.Join(dir, name)
		data, err := durable.ReadFile(f)
		if err != nil {
			return err
		}
		if !json.Valid(data) {
			if err := os.Remove(f); err != nil {
				return err
			}
		}
	}
	targets, err := os.ReadDir(filepath.Join(dir, "targets"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range targets { // the updater opens whatever it finds
		if !e.Type().IsRegular() {
			return &fs.PathError{Op: "open", Path: filepath.Join(dir, "targets", e.Name()), Err: durable.ErrNotRegular}
		}
	}
	return nil
}

// targetsUnder returns the names of all targets directly under prefix, sorted.
func targetsUnder(up *updater.Updater, prefix string) ([]string, error) {
	// No target has this name, so looking for it loads every role that may publish under prefix.
	probe := prefix + "\x00"
	_, probeErr := up.GetTargetInfo(probe)
	loaded := up.GetTrustedMetadataSet().Targets
	top := loaded[metadata.TARGETS].Signed
	names := map[string]bool{}
	add := func(targets map[string]*metadata.TargetFiles, admit func(string) bool) {
		for name := range targets {
			rest, ok := strings.CutPrefix(name, prefix)
			if ok && rest != "" && !strings.Contains(rest, "/") && admit(name) {
				names[name] = true
			}
		}
	}
	add(top.Targets, func(string) bool { return true })
	var roles []metadata.RoleResult
	if top.Delegations != nil {
		roles = top.Delegations.GetRolesForTarget(probe)
	}
	if len(roles) == 0 {
		return nil, fmt.Errorf("the repository delegates %s* to no role", prefix)
	}
	for _, role := range roles {
		m := loaded[role.Name]
		if m == nil {
			return nil, fmt.Errorf("role %q: %w", role.Name, probeErr)
		}
		// A role may list what is not delegated to it; clients take no notice.
		add(m.Signed.Targets, func(name string) bool {
			return slices.ContainsFunc(top.Delegations.GetRolesForTarget(name), func(r metadata.RoleResult) bool { return r.Name == role.Name })
		})
		if role.Terminating {
			break
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}

// advice says what the person who sees err can do.
func advice(err error) string {
	var (
		status   *metadata.ErrDownloadHTTP
		expired  *metadata.ErrExpiredMetadata
		rollback *metadata.ErrBadVersionNumber
		unsigned *metadata.ErrUnsignedMetadata
		mismatch *metadata.ErrLengthOrHashMismatch
		length   *metadata.ErrDownloadLengthMismatch
	)
	switch {
	case errors.As(err, &expired):
		return "have the repository's key holders renew it, or check that the mirror and this machine's clock are not behind"
	case errors.As(err, &rollback):
		return "the mirror serves an older state than was seen before, as in a rollback attack: ask the repository's operator, and do not delete the cache"
	case errors.As(err, &unsigned):
		return "it is not signed by the keys the pinned root leads to: check the URL and the pinned root, and ask the repository's operator"
	case errors.As(err, &mismatch), errors.As(err, &length):
		return "the file is not the one that was signed: try another mirror and tell the repository's operator"
	case errors.As(err, &status):
		return "check that the URL is the directory that holds timestamp.json and that the mirror is complete"
	default:
		return "check the URL, the pinned root and the network, and try again"
	}
}
