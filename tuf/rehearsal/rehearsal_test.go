package rehearsal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sigstore "github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/fetcher"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"
)

// kinds of clients.
var kinds = []string{"go-tuf", "sigstore-go"}

const address = "http://rehearsal.test"

// web is a fetcher of files.
type web string

func (w web) DownloadFile(at string, maxLength int64, _ time.Duration) ([]byte, error) {
	name, err := url.PathUnescape(strings.TrimPrefix(at, address+"/"))
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(string(w), filepath.FromSlash(name)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: at}
	}
	if err == nil && int64(len(data)) > maxLength {
		err = &metadata.ErrDownloadLengthMismatch{Msg: name}
	}
	return data, err
}

// get is one run of a client: what it gets for the target.
func get(kind, served string, root []byte, cache string) ([]byte, error) {
	return getBy(kind, address, web(served), root, cache)
}

func getBy(kind, address string, by fetcher.Fetcher, root []byte, cache string) ([]byte, error) {
	if kind == "sigstore-go" {
		c, err := sigstore.New(&sigstore.Options{Root: root, RepositoryBaseURL: address, CachePath: cache, Fetcher: by})
		if err != nil {
			return nil, err
		}
		return c.GetTarget(Target)
	}
	cfg, err := config.New(address, root)
	if err != nil {
		return nil, err
	}
	cfg.Fetcher, cfg.LocalMetadataDir, cfg.LocalTargetsDir = by, cache, filepath.Join(cache, "targets")
	up, err := updater.New(cfg)
	if err != nil {
		return nil, err
	}
	info, err := up.GetTargetInfo(Target)
	if err != nil {
		return nil, err
	}
	_, data, err := up.DownloadTarget(info, "", "")
	return data, err
}

// A crowd is clients of both kinds, some of which are fooled by whoever serves something, and some of which only ever
// look at what is honest. There is one of each for every root, installed when that root was the newest.
type crowd struct {
	dir    string
	caches map[string]string // by name
	fresh  int
	walks  map[string]int // by kind
}

func newCrowd(t *testing.T) *crowd {
	return &crowd{dir: t.TempDir(), caches: map[string]string{}, walks: map[string]int{}}
}

func (c *crowd) cache(name string) string {
	if c.caches[name] == "" {
		c.caches[name] = filepath.Join(c.dir, fmt.Sprint(len(c.caches)))
	}
	return c.caches[name]
}

// watch holds the crowd to what a stage says.
func (c *crowd) watch(_ context.Context, s Stage) error {
	for _, kind := range kinds {
		for i, root := range s.Roots {
			look := func(who, cache string, follow bool) error {
				c.walks[kind]++
				got, err := get(kind, s.Served, root, cache)
				switch {
				case follow && err != nil:
					return fmt.Errorf("%s, %s from root %d, does not follow: %w", kind, who, i+1, err)
				case follow && s.Want != nil && string(got) != string(s.Want):
					return fmt.Errorf("%s, %s from root %d, gets %s instead of %s", kind, who, i+1, got, s.Want)
				case !follow && err == nil:
					return fmt.Errorf("%s, %s from root %d, follows: it gets %s", kind, who, i+1, got)
				}
				return nil
			}
			c.fresh++
			if !s.Fooled {
				if err := look("installed anew", filepath.Join(c.dir, fmt.Sprintf("fresh-%d", c.fresh)), !s.Refused); err != nil {
					return err
				}
			}
			if s.Repinned {
				continue
			}
			if !s.Attack || s.Refused {
				if err := look("faithful", c.cache(fmt.Sprint("faithful ", kind, i)), !s.Refused); err != nil {
					return err
				}
			}
			if err := look("fooled", c.cache(fmt.Sprint("fooled ", kind, i)), !s.Refused); err != nil {
				return err
			}
		}
		if !s.Repinned || s.Attack {
			continue
		}
		// Those that were there before stay where they are.
		for name, cache := range c.caches {
			if root, err := os.ReadFile(filepath.Join(cache, "root.json")); err == nil && strings.Contains(name, kind) {
				if got, err := get(kind, s.Served, root, cache); err == nil {
					return fmt.Errorf("%s follows a line that its root says nothing of: it gets %s", name, got)
				}
			}
		}
	}
	return nil
}

// TestConformance walks clients through rotations followed by recoveries, and prints how many walks there were: each of
// a client of one kind, from one root, fresh or with a cache, at one stage. "make e2e" plays every pair; here it is
// every rotation before one recovery, and every recovery after one rotation.
func TestConformance(t *testing.T) {
	rotations, recoveries := Rotations(), Recoveries()
	var mu sync.Mutex
	cells := map[string]map[string]string{}
	t.Run("each", func(t *testing.T) {
		for n, rotation := range rotations {
			for m, recovery := range recoveries {
				if !everyPair && m != 0 && n != len(rotations)-1 {
					continue
				}
				t.Run(rotation.Name+"/"+recovery.Name, func(t *testing.T) {
					t.Parallel()
					walks := playPair(t, rotation, recovery)
					mu.Lock()
					defer mu.Unlock()
					if cells[recovery.Name] == nil {
						cells[recovery.Name] = map[string]string{}
					}
					cells[recovery.Name][rotation.Name] = fmt.Sprintf("%d+%d", walks[kinds[0]], walks[kinds[1]])
				})
			}
		}
	})
	t.Logf("walks by %s: each cell is a rotation, then a recovery, from every root", strings.Join(kinds, "+"))
	for n, r := range rotations {
		t.Logf("  column %d: %s", n+1, r.Name)
	}
	for _, r := range recoveries {
		line := fmt.Sprintf("%-34s", r.Name)
		for _, rotation := range rotations {
			line += fmt.Sprintf(" %7s", cells[r.Name][rotation.Name])
		}
		t.Log(line)
	}
}

func playPair(t *testing.T, rotation, recovery Scenario) map[string]int {
	c := newCrowd(t)
	w, err := Found(t.Context(), t.TempDir(), recovery.Behind, c.watch)
	if err != nil {
		t.Fatal(err)
	}
	err = w.Play(t.Context(), rotation, recovery)
	if err != nil {
		t.Fatal(err)
	}
	return c.walks
}

// TestAttack plays the recoveries from an attacker alone, to be found by name: what they serve afterwards is refused by
// everybody who saw the recovery.
func TestAttack(t *testing.T) {
	for _, tc := range []struct{ name string }{
		{"online key stolen, fast-forward"},
		{"targets keys stolen"},
		{"snapshot rolled back"},
		{"root key stolen, below threshold"},
		{"root keys stolen, at threshold"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := newCrowd(t)
			attacks, refusals := 0, 0
			w, err := Found(t.Context(), t.TempDir(), 0, func(ctx context.Context, s Stage) error {
				if s.Attack {
					attacks++
				}
				if s.Refused {
					refusals++
				}
				return c.watch(ctx, s)
			})
			if err != nil {
				t.Fatal(err)
			}
			all := Recoveries()
			i := slices.IndexFunc(all, func(s Scenario) bool { return s.Name == tc.name })
			if err := w.Play(t.Context(), all[i]); err != nil {
				t.Fatal(err)
			}
			if attacks == 0 || refusals == 0 {
				t.Errorf("%d attacks, %d of them refused", attacks, refusals)
			}
		})
	}
}

// TestOneLine plays everything in one world: every root of a long line leads to its end. In between only those look
// that were there from the beginning.
func TestOneLine(t *testing.T) {
	c := newCrowd(t)
	w, err := Found(t.Context(), t.TempDir(), 0, func(ctx context.Context, s Stage) error {
		s.Roots = s.Roots[:1]
		return c.watch(ctx, s)
	})
	if err != nil {
		t.Fatal(err)
	}
	scenarios := Rotations()
	for _, s := range Recoveries() {
		if !s.Last && s.Behind == 0 {
			scenarios = append(scenarios, s)
		}
	}
	if err := w.Play(t.Context(), scenarios...); err != nil {
		t.Fatal(err)
	}
	w.watch = c.watch
	if err := w.look(t.Context(), "the end"); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d roots, walks: %v", len(w.Roots), c.walks)
}
