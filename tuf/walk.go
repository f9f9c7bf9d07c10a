package tuf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	sigstore "github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"
	"golang.org/x/sync/errgroup"
)

// Walked is one client that reached a state.
type Walked struct {
	Client string `json:"client"` // go-tuf or sigstore-go
	Root   int64  `json:"root"`   // the version of the root it started from
	Cached bool   `json:"cached"` // with what it had cached of the state before
}

func (w Walked) String() string {
	from := fmt.Sprintf("%s from root %d", w.Client, w.Root)
	if w.Cached {
		from += " with a cache"
	}
	return from
}

// walk is where clients are to come from and to arrive.
type walk struct {
	before, after *state
	published     changedFiles      // over what is published
	want          map[string][]byte // targets to be had afterwards
	gone          []string          // targets not to be had
	roles         []string          // delegated roles to be reached
}

// How many roots go-tuf's and sigstore-go's clients take in one refresh, and from how many on there is a warning.
const (
	clientRoots = 256
	manyRoots   = 200
)

// tooManyRoots warns when clients that start from the first root will soon not reach the newest, or do not.
func tooManyRoots(first, newest int64) string {
	n := newest - first
	if n < manyRoots {
		return ""
	}
	return fmt.Sprintf("root %d is %d roots after root %d, and clients take no more than %d in one refresh: have those that are installed anew start from a newer root, and publish fewer roots", newest, n, first, clientRoots)
}

// walkURL is never connected to. The cache of a client is named after it.
const walkURL = "http://walk.invalid"

// Walk walks clients to what is published, without changing anything: one from every root there ever was.
func (r *Repository) Walk(ctx context.Context) ([]Walked, error) {
	s, err := r.load()
	if err != nil {
		return nil, fmt.Errorf("tuf: walk: %w", err)
	}
	if s.empty() {
		return nil, errors.New("tuf: walk: nothing was published yet")
	}
	w := walk{before: newState(nil), after: s, want: map[string][]byte{}}
	top := s.Targets[metadata.TARGETS].Signed.Targets
	for _, name := range []string{"trusted_root.json", "signing_config.v0.2.json"} {
		if t := top[name]; t != nil {
			if w.want[name], err = r.target(name, t); err != nil {
				return nil, fmt.Errorf("tuf: walk: %w", err)
			}
		}
	}
	out, err := r.walk(ctx, w)
	if err != nil {
		return nil, fmt.Errorf("tuf: walk: %w", err)
	}
	return out, nil
}

// walk lets clients start from every root that they can start from, and from what a client of the state before has
// cached, and fails unless all reach w.after.
func (r *Repository) walk(ctx context.Context, w walk) ([]Walked, error) {
	temp, err := os.MkdirTemp("", "reseal-walk-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	f := fetcherOf(func(name string) ([]byte, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if data, ok := w.published[name]; ok {
			return data, nil
		}
		return r.readPublished(name)
	})
	clients := []string{"go-tuf", "sigstore-go"}
	if r.clock != nil {
		clients = clients[:1] // the other goes by the machine's clock
	}
	var starts []Walked
	for v := w.after.start; v <= w.after.Root.Signed.Version; v++ {
		for _, client := range clients {
			if client == "sigstore-go" && w.after.Root.Signed.Version-v > clientRoots {
				continue // it would not get there: see tooManyRoots
			}
			starts = append(starts, Walked{Client: client, Root: v})
		}
	}
	if !w.before.empty() {
		for _, client := range clients {
			starts = append(starts, Walked{Client: client, Root: w.before.Root.Signed.Version, Cached: true})
		}
	}
	now, newest := r.now(), w.after.Root.Signed.Version
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, at := range starts {
		root := w.after.roots[at.Root-w.after.first]
		cache := ""
		if at.Cached {
			cache = filepath.Join(temp, fmt.Sprint(i))
			if err := w.before.cacheIn(filepath.Join(cache, sigstore.URLToPath(walkURL)), root); err != nil {
				return nil, err
			}
		}
		group.Go(func() error {
			// What comes after refreshing is the same for all: one of each kind asks for every target, and it is one
			// without a cache, which would take a file for each. Who has a cache asks for one of each role that changes:
			// it would refuse a role that goes back.
			all := !at.Cached && (at.Root == newest || w.before.empty())
			if err := w.arrive(at, root, cache, all, f, now); err != nil {
				return fmt.Errorf("a client would not follow (%s): %w", at, err)
			}
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return starts, nil
}

// cacheIn writes what a client has cached that started from root and refreshed when s was published.
func (s *state) cacheIn(dir string, root []byte) error {
	if err := os.MkdirAll(filepath.Join(dir, targetsDir), 0o700); err != nil {
		return err
	}
	for role, data := range s.raw {
		if err := os.WriteFile(filepath.Join(dir, url.PathEscape(role)+".json"), data, 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "root.json"), root, 0o600)
}

func (w walk) arrive(at Walked, root []byte, cache string, all bool, f fetcherOf, now time.Time) (err error) {
	defer func() {
		if p := recover(); p != nil { // go-tuf does not expect null in place of a key or a file entry
			err = fmt.Errorf("malformed metadata: %v", p)
		}
	}()
	var get func(name string) ([]byte, error)
	if at.Client == "sigstore-go" {
		o := &sigstore.Options{Root: root, RepositoryBaseURL: walkURL, CachePath: cache, DisableLocalCache: cache == "", Fetcher: f}
		if cache == "" {
			o.CachePath = filepath.Join(os.DevNull, "none") // it looks there all the same
		}
		c, err := sigstore.New(o)
		if err != nil {
			return err
		}
		get = c.GetTarget
	} else {
		up, err := w.goTUF(root, cache, all || at.Cached, f, now)
		if err != nil {
			return err
		}
		get = func(name string) ([]byte, error) {
			info, err := up.GetTargetInfo(name)
			if err != nil {
				return nil, err
			}
			_, data, err := up.DownloadTarget(info, "", "")
			return data, err
		}
	}
	wanted := map[string][]byte{}
	switch {
	case all:
		wanted = w.want
	case at.Cached:
		wanted = w.sample()
	}
	for name, want := range wanted {
		got, err := get(name)
		if err != nil {
			return fmt.Errorf("target %s: %w", name, err)
		}
		if string(got) != string(want) {
			return fmt.Errorf("target %s: it gets other content", name)
		}
	}
	if !all {
		return nil
	}
	for _, name := range w.gone {
		if _, err := get(name); err == nil {
			return fmt.Errorf("target %s was removed, and it still gets it", name)
		}
	}
	return nil
}

// sample is one wanted target of each role that changes, where there is one.
func (w walk) sample() map[string][]byte {
	out := map[string][]byte{}
	for _, role := range append([]string{metadata.TARGETS}, w.roles...) {
		m := w.after.Targets[role]
		if m == nil {
			continue
		}
		for name := range m.Signed.Targets {
			if want, ok := w.want[name]; ok {
				out[name] = want
				break
			}
		}
	}
	return out
}

// goTUF refreshes go-tuf's updater and checks that it sees the state that is to be reached.
func (w walk) goTUF(root []byte, cache string, all bool, f fetcherOf, now time.Time) (*updater.Updater, error) {
	cfg, err := config.New(walkURL, root)
	if err != nil {
		return nil, err
	}
	cfg.Fetcher = f
	cfg.MaxRootRotations = maxRoots // a chain that is too long for clients is no reason to publish nothing
	cfg.LocalMetadataDir = filepath.Join(cache, sigstore.URLToPath(walkURL))
	if cache == "" {
		cfg.DisableLocalCache = true
		cfg.LocalMetadataDir = filepath.Join(os.DevNull, "none")
	}
	cfg.LocalTargetsDir = filepath.Join(cfg.LocalMetadataDir, targetsDir)
	up, err := updater.New(cfg)
	if err != nil {
		return nil, err
	}
	up.UnsafeSetRefTime(now)
	if err := up.Refresh(); err != nil {
		return nil, err
	}
	got := up.GetTrustedMetadataSet()
	for _, v := range []struct {
		role      string
		got, want int64
	}{
		{metadata.ROOT, got.Root.Signed.Version, w.after.Root.Signed.Version},
		{metadata.TIMESTAMP, got.Timestamp.Signed.Version, w.after.Timestamp.Signed.Version},
		{metadata.SNAPSHOT, got.Snapshot.Signed.Version, w.after.Snapshot.Signed.Version},
		{metadata.TARGETS, got.Targets[metadata.TARGETS].Signed.Version, w.after.Targets[metadata.TARGETS].Signed.Version},
	} {
		if v.got != v.want {
			return nil, fmt.Errorf("it stays at version %d of %s instead of %d", v.got, v.role, v.want)
		}
	}
	for _, role := range w.roles {
		name := ""
		if all {
			name = w.after.probe(role)
		}
		if name == "" {
			continue
		}
		_, err := up.GetTargetInfo(name)
		if m := up.GetTrustedMetadataSet().Targets[role]; m == nil || m.Signed.Version != w.after.Targets[role].Signed.Version {
			return nil, fmt.Errorf("it does not reach role %s: %w", role, err)
		}
	}
	return up, nil
}

// probe returns a name that makes clients load a role, "" when no short search finds one.
func (s *state) probe(role string) string {
	by, err := delegatorOf(role, s.fetch)
	if err != nil || by == metadata.ROOT {
		return ""
	}
	first := func(name string) bool {
		roles := s.Targets[by].Signed.Delegations.GetRolesForTarget(name)
		return len(roles) > 0 && roles[0].Name == role
	}
	if d := delegation(s.Targets[by], role); d != nil {
		for _, p := range d.Paths {
			// Listed by no role, so that the search gets this far.
			name := strings.NewReplacer("*", "x-probe", "?", "x").Replace(p)
			if first(name) && by == metadata.TARGETS {
				return name
			}
		}
		return ""
	}
	for name := range s.Targets[role].Signed.Targets {
		if first(name) {
			return name
		}
	}
	return ""
}

// fetcherOf is a fetcher of go-tuf over files instead of a network.
type fetcherOf func(name string) ([]byte, error)

// DownloadFile implements fetcher.Fetcher.
func (f fetcherOf) DownloadFile(address string, maxLength int64, _ time.Duration) ([]byte, error) {
	name, err := url.PathUnescape(strings.TrimPrefix(address, walkURL+"/"))
	if err != nil {
		return nil, err
	}
	data, err := f(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: address}
	}
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > maxLength {
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: fmt.Sprintf("%s is longer than the %d bytes it may have", name, maxLength)}
	}
	return slices.Clone(data), nil
}
