// Package rehearsal plays every rotation and every recovery of a trust root, with made-up holders and an attacker, so
// that real clients of any kind can be walked through them.
//
// It does not judge: whoever watches a [Stage] lets clients look at what is served and holds them to what the stage
// says of it.
package rehearsal

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/tuf"
)

// Target is the target that every stage is told by: clients ask for it and compare what they get.
const Target = "trusted_root.json"

// Key kinds of made-up keys.
const (
	Ed25519 = "ed25519"
	P256    = "p256"
	P384    = "p384"
)

// A World is an organisation with a repository, the private keys of everybody in it, and what is served to clients.
type World struct {
	Dir       string // of the repository
	Published string
	Repo      *tuf.Repository
	Roots     [][]byte // every root that clients may have been installed with, oldest first

	base    string                     // for whatever else has to be put somewhere
	holders map[string][]signer.Signer // by name, the newest key last: they sign with all they have
	current map[string]tuf.Holder
	online  signer.Signer
	behind  time.Duration // how far the organisation's clock is behind the real one
	files   map[string][]byte
	content Content
	changes int
	watch   func(context.Context, Stage) error
	step    Stage
}

// A Stage is a moment at which clients look.
type Stage struct {
	Scenario string
	Step     string
	Served   string   // the directory that they look at
	Roots    [][]byte // what they may start from: any of these
	Want     []byte   // the content of Target that they are to get; nil: whatever is there
	// Attack: what is served was made by an attacker. Those who look at it and have nothing better believe it, unless
	// Refused.
	Attack bool
	// Refused: clients that were at the stage before must not follow. Those that were not may know no better when
	// Fooled.
	Refused bool
	Fooled  bool
	// Repinned: only clients installed anew with Roots follow; all others must not.
	Repinned bool
}

// Make makes up a key.
func Make(kind string) (crypto.Signer, error) {
	switch kind {
	case P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	}
	_, private, err := ed25519.GenerateKey(nil)
	return private, err
}

func (w *World) key(kind string) (signer.Signer, []byte, error) {
	private, err := Make(kind)
	if err != nil {
		return nil, nil, err
	}
	s, err := signer.InMemory(private)
	if err != nil {
		return nil, nil, err
	}
	public, err := cryptoutils.MarshalPublicKeyToPEM(private.Public())
	return s, public, err
}

// holder makes a new key for a person.
func (w *World) holder(name, kind string) (tuf.Holder, error) {
	s, public, err := w.key(kind)
	if err != nil {
		return tuf.Holder{}, err
	}
	h := tuf.Holder{Name: name, Key: public}
	w.holders[name] = append(w.holders[name], s)
	w.current[name] = h
	return h, nil
}

func (w *World) options() tuf.Options {
	o := tuf.Options{Published: w.Published, TrustClock: true} // some scenarios let a year pass
	if behind := w.behind; behind > 0 {
		o.Now = func() time.Time { return time.Now().Add(-behind) }
	}
	return o
}

// A Content makes what Target says in a state that is told by a number, or, for "evil", what attackers want clients to
// get. The same state has the same content.
type Content func(state string) []byte

func plain(state string) []byte {
	return fmt.Appendf(nil, `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","state":%q}`, state)
}

// Found makes a world in dir whose organisation lives that far in the past: root and targets are held by @alice, @bob
// and @carol, two of whom must sign, revocations by @dave and @erin, both of whom must.
func Found(ctx context.Context, dir string, behind time.Duration, watch func(context.Context, Stage) error) (*World, error) {
	return FoundWith(ctx, dir, behind, plain, watch)
}

// FoundWith is [Found] with a Target that clients can make use of.
func FoundWith(ctx context.Context, dir string, behind time.Duration, content Content, watch func(context.Context, Stage) error) (*World, error) {
	w := &World{Dir: filepath.Join(dir, "repository"), Published: filepath.Join(dir, "web"), base: dir, behind: behind, watch: watch, content: content,
		holders: map[string][]signer.Signer{}, current: map[string]tuf.Holder{}, files: map[string][]byte{}}
	if err := w.found(ctx, map[string]string{"@alice": Ed25519, "@bob": P256, "@carol": P256, "@dave": P256, "@erin": Ed25519}); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *World) found(ctx context.Context, kinds map[string]string) error {
	var group []tuf.Holder
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		h, err := w.holder(name, kinds[name])
		if err != nil {
			return err
		}
		group = append(group, h)
	}
	online, public, err := w.key(P256)
	if err != nil {
		return err
	}
	w.online = online
	w.note()
	n := len(group) - 2
	admins := tuf.Group{Holders: group[:n], Threshold: 2}
	if w.Repo, _, err = tuf.Init(ctx, w.Dir, w.options(), tuf.Founding{Root: admins, Targets: admins, Revocations: tuf.Group{Holders: group[n:], Threshold: 2},
		Online: tuf.Online{Key: public, URI: "file:online"}, Files: w.files}); err != nil {
		return err
	}
	return w.signAndPublish(ctx)
}

// note changes what is published, so that clients can tell one state from another.
func (w *World) note() []byte {
	w.changes++
	w.files[Target] = w.content(strconv.Itoa(w.changes))
	w.files["signing_config.v0.2.json"] = []byte(`{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json"}`)
	return w.files[Target]
}

// change proposes, lets those who are named sign (nobody named: everybody there is), and publishes. The target changes
// with it.
func (w *World) change(ctx context.Context, signers []string, changes ...tuf.Change) error {
	changes = append(changes, tuf.SetTarget{Name: Target, Data: w.note()})
	return w.only(ctx, signers, changes...)
}

func (w *World) only(ctx context.Context, signers []string, changes ...tuf.Change) error {
	if _, err := w.Repo.Propose(ctx, tuf.Proposal{By: "@alice", Reason: "rehearsal", Changes: changes, Accept: []string{Target}}); err != nil {
		return err
	}
	return w.signAndPublish(ctx, signers...)
}

func (w *World) signAndPublish(ctx context.Context, signers ...string) error {
	request, err := w.Repo.Export()
	if err != nil {
		return err
	}
	var known []byte
	if len(w.Roots) > 0 {
		known = w.Roots[0]
	}
	o := w.options()
	o.Published = ""
	q, err := tuf.ReadRequest(request, known, o)
	if err != nil {
		return err
	}
	if len(signers) == 0 {
		signers = slices.Sorted(maps.Keys(w.holders))
	}
	for _, name := range signers {
		for _, key := range w.holders[name] {
			signed, err := q.Sign(ctx, key)
			if err != nil {
				continue // not asked
			}
			if _, err := w.Repo.Import(ctx, signed); err != nil {
				return err
			}
		}
	}
	if _, err := w.Repo.Publish(ctx, w.online); err != nil {
		return err
	}
	return w.remember()
}

// remember notes the roots there are.
func (w *World) remember() error {
	for v := len(w.Roots) + 1; ; v++ {
		data, err := os.ReadFile(filepath.Join(w.Published, fmt.Sprintf("%d.root.json", v)))
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		w.Roots = append(w.Roots, data)
	}
}

// look lets clients look at the honest state.
func (w *World) look(ctx context.Context, step string) error {
	return w.show(ctx, Stage{Step: step, Served: w.Published, Want: w.files[Target]})
}

func (w *World) show(ctx context.Context, s Stage) error {
	if w.behind > 0 {
		return nil // nobody lives in the past
	}
	s.Scenario = w.step.Scenario
	if s.Roots == nil {
		s.Roots = w.Roots
	}
	if err := w.watch(ctx, s); err != nil {
		return fmt.Errorf("%s, %s: %w", s.Scenario, s.Step, err)
	}
	return nil
}

// Play plays scenarios one after the other in the same world. Clients look at the beginning and after every step, but not
// while the organisation lives in the past.
func (w *World) Play(ctx context.Context, scenarios ...Scenario) error {
	for _, s := range scenarios {
		w.step.Scenario = s.Name
		if err := w.look(ctx, "before"); err != nil {
			return err
		}
		if err := s.play(ctx, w); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return nil
}

// Scratch returns a new empty directory of the world.
func (w *World) scratch(name string) (string, error) { return os.MkdirTemp(w.base, name+"-") }

// copyOf copies what is published.
func (w *World) copyOf(name string) (string, error) {
	dir, err := w.scratch(name)
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "web")
	return dir, os.CopyFS(dir, os.DirFS(w.Published))
}
