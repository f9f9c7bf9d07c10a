// Package tuf is the repository half that go-tuf does not have, and a client that fetches from it.
//
// A [Repository] is a directory in tuf-on-ci's layout, so that either tool can take it over:
//
//	metadata/root.json, targets.json, snapshot.json, timestamp.json, <role>.json   as last published
//	metadata/root_history/N.root.json                                              every root there ever was
//	targets/<file>                                                                 what the roles list
//	event/                                                                         while a signing event is open
//
// and a published directory in the layout Sigstore's clients read (N.root.json, N.<role>.json, N.snapshot.json,
// timestamp.json, targets/<sha256>.<name>), which any static web server can serve.
//
// What needs the signatures of people is changed by a signing event: [Repository.Propose] → [Repository.Export] → each
// holder, on a machine of their own, [ReadRequest] and [Request.Sign] → [Repository.Import] → [Repository.Check] →
// [Repository.Publish]. Beside the usual roles there is a delegated, terminating role "revocations" for the paths
// revocations/*, held by on-call responders, who publish in one step with [Repository.PublishRevocations]: holders of
// root and targets keys take days to gather, a denial must take minutes.
//
// Nothing is published that clients starting from any past root, or from what they have cached, would not follow; and a
// publication that is cut off at any point leaves a state that clients can refresh from, and is finished by running it
// again.
//
// Section numbers in this package refer to the TUF specification, version 1.0.
package tuf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/reseal/reseal/internal/durable"
)

// Where things are below the repository's directory.
const (
	metadataDir  = "metadata"
	historyDir   = "metadata/root_history"
	targetsDir   = "targets"
	publishedDir = "published"
)

// A Repository is one directory and what it publishes. It holds no state but the files: every call reads them, so it
// is safe for concurrent use, also by several processes on one machine.
type Repository struct {
	dir       string
	published string
	guard     Guard
	words     Words
	clock     func() time.Time               // nil: the machine's
	hook      func(point, name string) error // for tests: see reach

	trustClock bool
}

// Options say how a repository is used.
type Options struct {
	// Published is the directory that is served to clients. Empty means "published" within the repository.
	Published string
	// Guard says what would stop verifying when a target changes. Nil asks nothing, except when a target is removed.
	Guard Guard
	// Words says what changes within a target. Nil says nothing: signers see no more of it than its digest.
	Words Words
	// Now is the clock; nil means the machine's. Clients that know no other clock than the machine's are left out of
	// the walk when there is another.
	Now func() time.Time
	// Known is a directory of a holder's own, outside of the repository, where it is remembered which roots requests
	// showed and which were signed. Empty remembers nothing.
	Known string
	// AnotherRoot says that a root is meant though another one of its version was signed before, of an event that was
	// amended or withdrawn.
	AnotherRoot bool
	// TrustClock says that the clock is right, though it is behind the last timestamp or far ahead of it, which is
	// refused otherwise.
	TrustClock bool
}

// A Guard says in words what would stop verifying when the target name changes from old (nil: there was none) to new
// (nil: it is removed).
type Guard func(name string, old, new []byte) []string

// Words says what the target name says otherwise in new than in old (nil: there was none), nothing for one that it knows
// nothing of.
type Words func(name string, old, new []byte) []string

func newRepository(dir string, o Options) (*Repository, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	r := &Repository{dir: dir, published: filepath.Join(dir, publishedDir), guard: o.Guard, words: o.Words, clock: o.Now, trustClock: o.TrustClock}
	if o.Published != "" {
		if r.published, err = filepath.Abs(o.Published); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Open returns the repository in dir, after verifying its state from its first root down to its targets, with the
// checks clients make, or its first signing event when nothing was published yet. Expired metadata is no error: it can
// be renewed. An error names the file that is missing or wrong.
func Open(dir string, o Options) (*Repository, error) {
	r, err := newRepository(dir, o)
	if err != nil {
		return nil, fmt.Errorf("tuf: open: %w", err)
	}
	if _, err := r.load(); err != nil {
		if errors.Is(err, ErrCutOff) {
			return r, nil // the next call that changes anything finishes it
		}
		return nil, fmt.Errorf("tuf: open %s: %w", dir, err)
	}
	return r, nil
}

// Dir returns the repository's directory.
func (r *Repository) Dir() string { return r.dir }

// Published returns the directory that is served to clients.
func (r *Repository) Published() string { return r.published }

func (r *Repository) now() time.Time {
	if r.clock == nil {
		return time.Now()
	}
	return r.clock()
}

// expiry is whole seconds in UTC, the one form the specification allows (4.2).
func (r *Repository) expiry(period time.Duration) time.Time {
	return r.now().UTC().Add(period).Truncate(time.Second)
}

// read returns a file of the repository, by its slash-separated path. A symbolic link that leads out of it is refused.
func (r *Repository) read(name string) ([]byte, error) { return readIn(r.dir, name) }

// readPublished returns a file of the published directory.
func (r *Repository) readPublished(name string) ([]byte, error) { return readIn(r.published, name) }

func readIn(dir, name string) ([]byte, error) {
	root, err := durable.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return durable.ReadFileIn(root, filepath.FromSlash(name))
}

// change runs do alone, after finishing what a process before it was cut off in.
func (r *Repository) change(ctx context.Context, do func() error) error {
	return r.changeAfter(ctx, r.inPlace, do)
}

// changeAfter is change for one who says when a publication may be finished.
func (r *Repository) changeAfter(ctx context.Context, may func(pending) error, do func() error) error {
	unlock, err := durable.Lock(ctx, r.dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := r.finish(ctx, may); err != nil {
		return err
	}
	return do()
}

// ErrCutOff is why nothing is said about a repository that is between two states: the next change finishes it.
var ErrCutOff = errors.New("the last change to this repository was cut off: run a refresh, or that command again, to finish it")

// load returns the repository's published state.
func (r *Repository) load() (*state, error) {
	cut, err := r.cutOff()
	if err != nil {
		return nil, err
	}
	if cut {
		return nil, ErrCutOff
	}
	if _, err := r.read(metadataDir + "/root.json"); errors.Is(err, fs.ErrNotExist) {
		if _, err := r.read(eventFile); err == nil {
			return newState(r.read), nil // the first event has not been published yet
		}
		if entries, _ := os.ReadDir(filepath.Join(r.dir, metadataDir)); len(entries) > 0 {
			return nil, fmt.Errorf("metadata/root.json is missing: %w; restore it from a backup, or rebuild the directory from a mirror", fs.ErrNotExist)
		}
		return nil, fmt.Errorf("there is no repository: %w; make one with init, or rebuild it from a mirror", fs.ErrNotExist)
	}
	s, err := load(r.read)
	if err != nil {
		return nil, fmt.Errorf("%w; restore that file from a backup, or rebuild the directory from a mirror", err)
	}
	return s, nil
}
