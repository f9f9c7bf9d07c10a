package rehearsal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/tuf"
)

// A Scenario is one rotation or recovery.
type Scenario struct {
	Name     string
	Recovery bool
	// Behind is how far in the past the organisation has to have been founded.
	Behind time.Duration
	// Last: the line of roots ends with it, nothing can be played after it.
	Last bool
	play func(context.Context, *World) error
}

const day = 24 * time.Hour

// evil is what attackers want clients to get.
const evil = "evil"

// FastForward is the version that an attacker raises metadata to.
const FastForward = 1 << 40

// Rotations are all that a trust root changes by when nothing is wrong.
func Rotations() []Scenario {
	return []Scenario{
		{Name: "holder joins", play: func(ctx context.Context, w *World) error {
			h, err := w.holder("@grace", Ed25519)
			if err != nil {
				return err
			}
			return w.done(ctx, tuf.AddHolder{Role: "root", Holder: h}, tuf.AddHolder{Role: "targets", Holder: h})
		}},
		{Name: "holder leaves", play: func(ctx context.Context, w *World) error {
			h, err := w.holder("@heidi", P256)
			if err != nil {
				return err
			}
			if err := w.done(ctx, tuf.AddHolder{Role: "root", Holder: h}, tuf.RemoveHolder{Role: "targets", Name: "@bob"}); err != nil {
				return err
			}
			return w.done(ctx, tuf.RemoveHolder{Role: "root", Name: "@heidi"}, tuf.AddHolder{Role: "targets", Holder: w.current["@bob"]})
		}},
		{Name: "same person, new key", play: func(ctx context.Context, w *World) error {
			h, err := w.holder("@bob", P256)
			if err != nil {
				return err
			}
			return w.done(ctx, tuf.ReplaceKey{Holder: h})
		}},
		{Name: "threshold up", play: func(ctx context.Context, w *World) error {
			return w.done(ctx, tuf.SetThreshold{Role: "root", Threshold: 3}, tuf.SetThreshold{Role: "targets", Threshold: 3})
		}},
		{Name: "threshold down", play: func(ctx context.Context, w *World) error {
			if err := w.done(ctx, tuf.SetThreshold{Role: "root", Threshold: 3}, tuf.SetThreshold{Role: "targets", Threshold: 3}); err != nil {
				return err
			}
			return w.done(ctx, tuf.SetThreshold{Role: "root", Threshold: 2}, tuf.SetThreshold{Role: "targets", Threshold: 2})
		}},
		{Name: "online key", play: func(ctx context.Context, w *World) error {
			c, err := w.newOnline(P256)
			if err != nil {
				return err
			}
			return w.done(ctx, c)
		}},
		{Name: "algorithm", play: func(ctx context.Context, w *World) error {
			var changes []tuf.Change
			for name, kind := range map[string]string{"@alice": P384, "@dave": Ed25519} {
				h, err := w.holder(name, kind)
				if err != nil {
					return err
				}
				changes = append(changes, tuf.ReplaceKey{Holder: h})
			}
			c, err := w.newOnline(Ed25519)
			if err != nil {
				return err
			}
			return w.done(ctx, append(changes, c)...)
		}},
		{Name: "responders", play: func(ctx context.Context, w *World) error {
			h, err := w.holder("@ivan", P256)
			if err != nil {
				return err
			}
			return w.done(ctx, tuf.AddHolder{Role: "revocations", Holder: h}, tuf.RemoveHolder{Role: "revocations", Name: "@erin"})
		}},
		{Name: "periods", play: func(ctx context.Context, w *World) error {
			return w.done(ctx, tuf.SetPeriod{Role: "root", Period: tuf.Period{Expiry: 400, Signing: 50}}, tuf.SetPeriod{Role: "timestamp", Period: tuf.Period{Expiry: 5, Signing: 4}},
				tuf.SetPeriod{Role: "snapshot", Period: tuf.Period{Expiry: 30, Signing: 10}}, tuf.SetPeriod{Role: "revocations", Period: tuf.Period{Expiry: 300, Signing: 30}})
		}},
		{Name: "role with bins", play: func(ctx context.Context, w *World) error {
			h, err := w.holder("@judy", Ed25519)
			if err != nil {
				return err
			}
			if err := w.done(ctx, tuf.AddRole{Name: "files", Paths: []string{"files/*"}, Terminating: true, Holders: []tuf.Holder{h}, Threshold: 1, BinBits: 2},
				tuf.SetTarget{Name: "files/one", Data: []byte("one")}); err != nil {
				return err
			}
			if err := w.change(ctx, nil, tuf.SetTarget{Name: "files/two", Data: []byte("two")}); err != nil {
				return err
			}
			if _, err := w.Repo.Propose(ctx, tuf.Proposal{Changes: []tuf.Change{tuf.RemoveRole{Name: "files"}}}); err == nil {
				return errors.New("a role with targets was removed without a word")
			}
			if _, err := w.Repo.Propose(ctx, tuf.Proposal{Changes: []tuf.Change{tuf.RemoveRole{Name: "files"}}, Accept: []string{"files"}}); err != nil {
				return err
			}
			if err := w.signAndPublish(ctx); err != nil {
				return err
			}
			return w.look(ctx, "removed")
		}},
		{Name: "several at once", play: func(ctx context.Context, w *World) error {
			in, err := w.holder("@mike", P256)
			if err != nil {
				return err
			}
			again, err := w.holder("@alice", Ed25519)
			if err != nil {
				return err
			}
			c, err := w.newOnline(P256)
			if err != nil {
				return err
			}
			return w.done(ctx, c, tuf.AddHolder{Role: "root", Holder: in}, tuf.AddHolder{Role: "targets", Holder: in}, tuf.ReplaceKey{Holder: again},
				tuf.RemoveHolder{Role: "root", Name: "@carol"}, tuf.RemoveHolder{Role: "targets", Name: "@carol"},
				tuf.SetThreshold{Role: "root", Threshold: 3}, tuf.SetPeriod{Role: "targets", Period: tuf.Period{Expiry: 100, Signing: 20}})
		}},
	}
}

// done makes the changes with everybody's signatures and lets clients look.
func (w *World) done(ctx context.Context, changes ...tuf.Change) error {
	if err := w.change(ctx, nil, changes...); err != nil {
		return err
	}
	return w.look(ctx, "published")
}

func (w *World) newOnline(kind string) (tuf.Change, error) {
	s, public, err := w.key(kind)
	if err != nil {
		return nil, err
	}
	w.online = s
	return tuf.SetOnline{Online: tuf.Online{Key: public, URI: fmt.Sprintf("file:online-%d", w.changes)}}, nil
}

// stolen are the newest keys of people.
func (w *World) stolen(names ...string) []signer.Signer {
	var out []signer.Signer
	for _, name := range names {
		keys := w.holders[name]
		out = append(out, keys[len(keys)-1])
	}
	return out
}

// admins are those who hold root keys now.
func (w *World) admins() ([]string, int, error) {
	root, err := metadata.Root().FromBytes(w.Roots[len(w.Roots)-1])
	if err != nil {
		return nil, 0, err
	}
	var out []string
	role := root.Signed.Roles[metadata.ROOT]
	for _, id := range role.KeyIDs {
		if name, ok := root.Signed.Keys[id].UnrecognizedFields["x-tuf-on-ci-keyowner"].(string); ok {
			out = append(out, name)
		}
	}
	return out, role.Threshold, nil
}

// targetsHolders are those who hold targets keys now, as many as must sign.
func (w *World) targetsHolders() ([]string, error) {
	root, err := metadata.Root().FromBytes(w.Roots[len(w.Roots)-1])
	if err != nil {
		return nil, err
	}
	var out []string
	role := root.Signed.Roles[metadata.TARGETS]
	for _, id := range role.KeyIDs[:role.Threshold] {
		if name, ok := root.Signed.Keys[id].UnrecognizedFields["x-tuf-on-ci-keyowner"].(string); ok {
			out = append(out, name)
		}
	}
	return out, nil
}

// Recoveries are all that a trust root has to be saved from.
func Recoveries() []Scenario {
	return []Scenario{
		{Name: "online key stolen, fast-forward", Recovery: true, play: fastForward},
		{Name: "targets keys stolen", Recovery: true, play: targetsStolen},
		{Name: "snapshot rolled back", Recovery: true, play: rolledBack},
		{Name: "root key stolen, below threshold", Recovery: true, play: rootBelow},
		{Name: "keys lost, below threshold", Recovery: true, play: lostBelow},
		{Name: "repository directory lost", Recovery: true, play: directoryLost},
		{Name: "published directory lost", Recovery: true, play: publishedLost},
		{Name: "timestamp expired", Recovery: true, Behind: 10 * day, play: timestampExpired},
		{Name: "targets expired", Recovery: true, Behind: 190 * day, play: targetsExpired},
		{Name: "root expired", Recovery: true, Behind: 400 * day, play: rootExpired},
		{Name: "root keys stolen, at threshold", Recovery: true, Last: true, play: rootAt},
		{Name: "keys lost, at threshold", Recovery: true, Last: true, play: lostAt},
	}
}

// fastForward: somebody with the online key shows clients versions that no honest one will ever exceed. A new online
// key in a new root makes clients drop what they cached under the old.
func fastForward(ctx context.Context, w *World) error {
	a, err := w.attack("fast-forward")
	if err != nil {
		return err
	}
	old := w.online
	if err := a.serve(ctx, FastForward, old); err != nil {
		return err
	}
	if err := w.show(ctx, Stage{Step: "attack", Served: a.dir, Attack: true, Want: w.files[Target]}); err != nil {
		return err
	}
	// The web root had been overwritten too.
	if err := os.CopyFS(w.Published+"-evil", os.DirFS(a.dir)); err != nil {
		return err
	}
	if err := os.RemoveAll(w.Published); err != nil {
		return err
	}
	if err := os.Rename(w.Published+"-evil", w.Published); err != nil {
		return err
	}
	c, err := w.newOnline(P256)
	if err != nil {
		return err
	}
	if _, err := w.Repo.Propose(ctx, tuf.Proposal{Changes: []tuf.Change{c, tuf.SetTarget{Name: Target, Data: w.note()}}, Accept: []string{Target}}); err != nil {
		return err
	}
	if err := w.signAndPublish(ctx); err == nil || !strings.Contains(err.Error(), "republish") {
		return fmt.Errorf("published over somebody else's state: %w", err)
	}
	if _, err := w.Repo.Republish(ctx, nil); err != nil {
		return err
	}
	if err := w.signAndPublish(ctx); err != nil {
		return err
	}
	if err := w.look(ctx, "recovered"); err != nil {
		return err
	}
	// With the old key, under the new root.
	if a, err = w.attack("fast-forward-again"); err != nil {
		return err
	}
	if err := a.serve(ctx, FastForward+1, old); err != nil {
		return err
	}
	if err := w.show(ctx, Stage{Step: "attack again", Served: a.dir, Attack: true, Refused: true}); err != nil {
		return err
	}
	return w.done(ctx)
}

// targetsStolen: enough targets keys and the online key published malicious targets, even from the repository itself.
// Root replaces the targets keys and the online key, and the targets are those of the last known good version.
func targetsStolen(ctx context.Context, w *World) error {
	good := w.files[Target]
	thieves, err := w.targetsHolders()
	if err != nil {
		return err
	}
	a, err := w.attack("targets-stolen")
	if err != nil {
		return err
	}
	if err := a.target(ctx, Target, w.content(evil), w.stolen(thieves...)...); err != nil {
		return err
	}
	if err := a.serve(ctx, a.timestamp.Signed.Version+10, w.online); err != nil {
		return err
	}
	if err := w.show(ctx, Stage{Step: "attack", Served: a.dir, Attack: true, Want: w.content(evil)}); err != nil {
		return err
	}
	known := a.targets.Signed.Version - 1
	// And from inside: an event that looks like any other.
	if err := w.only(ctx, thieves, tuf.SetTarget{Name: Target, Data: []byte(`{"state":"evil from inside"}`)}); err != nil {
		return err
	}
	old := w.online
	data, err := w.Repo.PublishedRole("targets", known)
	if err != nil {
		return err
	}
	var changes []tuf.Change
	stolen := w.stolen(thieves...)
	for _, name := range thieves {
		h, err := w.holder(name, P256)
		if err != nil {
			return err
		}
		changes = append(changes, tuf.ReplaceKey{Holder: h})
	}
	c, err := w.newOnline(P256)
	if err != nil {
		return err
	}
	w.files[Target] = good
	if err := w.only(ctx, nil, append(changes, c, tuf.Restore{Role: "targets", Known: data})...); err != nil {
		return err
	}
	if err := w.look(ctx, "recovered"); err != nil {
		return err
	}
	if a, err = w.attack("targets-stolen-again"); err != nil {
		return err
	}
	if err := a.target(ctx, Target, w.content(evil), stolen...); err != nil {
		return err
	}
	if err := a.serve(ctx, a.timestamp.Signed.Version+20, old); err != nil {
		return err
	}
	if err := w.show(ctx, Stage{Step: "attack again", Served: a.dir, Attack: true, Refused: true}); err != nil {
		return err
	}
	return w.done(ctx)
}

// rolledBack: the web root says again what it said before, as after a restore from a backup or on a mirror of the
// attacker's.
func rolledBack(ctx context.Context, w *World) error {
	old, err := w.copyOf("old")
	if err != nil {
		return err
	}
	if err := w.done(ctx, tuf.Renew{Role: "targets"}); err != nil {
		return err
	}
	if err := w.show(ctx, Stage{Step: "attack", Served: old, Attack: true, Refused: true, Fooled: true}); err != nil {
		return err
	}
	if err := os.RemoveAll(w.Published); err != nil {
		return err
	}
	if err := os.CopyFS(w.Published, os.DirFS(old)); err != nil {
		return err
	}
	if _, err := w.Repo.Refresh(ctx, w.online, true); err == nil {
		return errors.New("refreshed a state that was rolled back")
	}
	if _, err := w.Repo.Republish(ctx, nil); err != nil {
		return err
	}
	if err := w.look(ctx, "republished"); err != nil {
		return err
	}
	return w.done(ctx)
}

// rootBelow: a root key was stolen, fewer than it takes.
func rootBelow(ctx context.Context, w *World) error {
	admins, _, err := w.admins()
	if err != nil {
		return err
	}
	own, _, err := w.key(P256)
	if err != nil {
		return err
	}
	usurp := func(step string, stolen ...signer.Signer) error {
		a, err := w.attack("usurper")
		if err != nil {
			return err
		}
		if err := a.usurp(ctx, own, stolen...); err != nil {
			return err
		}
		if err := a.target(ctx, Target, w.content(evil), own); err != nil {
			return err
		}
		if err := a.serve(ctx, a.timestamp.Signed.Version+10, own); err != nil {
			return err
		}
		return w.show(ctx, Stage{Step: step, Served: a.dir, Attack: true, Refused: true})
	}
	stolen := w.stolen(admins[0])
	if err := usurp("attack", stolen...); err != nil {
		return err
	}
	h, err := w.holder(admins[0], P256)
	if err != nil {
		return err
	}
	if err := w.done(ctx, tuf.ReplaceKey{Holder: h}); err != nil {
		return err
	}
	if err := usurp("attack again", append(stolen, w.stolen(admins[1])...)...); err != nil {
		return err
	}
	return w.done(ctx)
}

// lostBelow: a holder's key is gone, and enough are left.
func lostBelow(ctx context.Context, w *World) error {
	admins, threshold, err := w.admins()
	if err != nil {
		return err
	}
	if threshold >= len(admins) { // an earlier rotation left none to spare
		if err := w.change(ctx, nil, tuf.SetThreshold{Role: "root", Threshold: 2}, tuf.SetThreshold{Role: "targets", Threshold: 2}); err != nil {
			return err
		}
	}
	lost := admins[0]
	w.holders[lost] = nil
	h, err := w.holder(lost, Ed25519)
	if err != nil {
		return err
	}
	return w.done(ctx, tuf.ReplaceKey{Holder: h})
}

// directoryLost: the repository's directory is gone, what it published is not.
func directoryLost(ctx context.Context, w *World) error {
	if err := os.RemoveAll(w.Dir); err != nil {
		return err
	}
	repo, _, err := tuf.Rebuild(ctx, w.Dir, w.options(), tuf.DirMirror(w.Published), w.Roots[len(w.Roots)/2])
	if err != nil {
		return err
	}
	w.Repo = repo
	if err := w.look(ctx, "rebuilt"); err != nil {
		return err
	}
	return w.done(ctx, tuf.Renew{Role: "root"})
}

func publishedLost(ctx context.Context, w *World) error {
	if err := os.RemoveAll(w.Published); err != nil {
		return err
	}
	if _, err := w.Repo.Republish(ctx, nil); err != nil {
		return err
	}
	if err := w.look(ctx, "republished"); err != nil {
		return err
	}
	return w.done(ctx)
}

// awake brings the organisation's clock to now.
func (w *World) awake() (err error) {
	w.behind = 0
	w.Repo, err = tuf.Open(w.Dir, w.options())
	return err
}

func (w *World) expired(ctx context.Context) error {
	if err := w.awake(); err != nil {
		return err
	}
	return w.show(ctx, Stage{Step: "expired", Served: w.Published, Attack: true, Refused: true})
}

func timestampExpired(ctx context.Context, w *World) error {
	if err := w.expired(ctx); err != nil {
		return err
	}
	if _, err := w.Repo.Refresh(ctx, w.online, false); err != nil {
		return err
	}
	if err := w.look(ctx, "refreshed"); err != nil {
		return err
	}
	return w.done(ctx)
}

func targetsExpired(ctx context.Context, w *World) error {
	if err := w.expired(ctx); err != nil {
		return err
	}
	if _, err := w.Repo.Refresh(ctx, w.online, false); err == nil {
		return errors.New("refreshed over expired targets")
	}
	if err := w.only(ctx, nil, tuf.Renew{Role: "targets"}); err != nil {
		return err
	}
	if err := w.look(ctx, "renewed"); err != nil {
		return err
	}
	return w.done(ctx)
}

func rootExpired(ctx context.Context, w *World) error {
	if err := w.expired(ctx); err != nil {
		return err
	}
	if err := w.only(ctx, nil, tuf.Renew{Role: "targets"}); err == nil || !strings.Contains(err.Error(), "root expired") {
		return fmt.Errorf("targets were renewed under an expired root: %w", err)
	}
	if err := w.Repo.Withdraw(ctx); err != nil {
		return err
	}
	if err := w.only(ctx, nil, tuf.Renew{Role: "root"}, tuf.Renew{Role: "targets"}, tuf.Renew{Role: "revocations"}); err != nil {
		return err
	}
	if err := w.look(ctx, "renewed"); err != nil {
		return err
	}
	return w.done(ctx)
}

// rootAt: enough root keys were stolen for anything. Clients that have not heard of it believe the thief; nothing in
// band can help. A new line is founded, and clients are installed anew with its first root.
func rootAt(ctx context.Context, w *World) error {
	admins, threshold, err := w.admins()
	if err != nil {
		return err
	}
	own, _, err := w.key(P256)
	if err != nil {
		return err
	}
	a, err := w.attack("usurper")
	if err != nil {
		return err
	}
	if err := a.usurp(ctx, own, w.stolen(admins[:threshold]...)...); err != nil {
		return err
	}
	if err := a.target(ctx, Target, w.content(evil), own); err != nil {
		return err
	}
	if err := a.serve(ctx, FastForward, own); err != nil {
		return err
	}
	if err := w.show(ctx, Stage{Step: "attack", Served: a.dir, Attack: true, Want: w.content(evil)}); err != nil {
		return err
	}
	return w.newLine(ctx, a)
}

// lostAt: so many root keys are gone that the rest cannot sign.
func lostAt(ctx context.Context, w *World) error {
	admins, threshold, err := w.admins()
	if err != nil {
		return err
	}
	for _, name := range admins[:len(admins)-threshold+1] {
		w.holders[name] = nil
	}
	if err := w.only(ctx, nil, tuf.Renew{Role: "root"}); err == nil || !strings.Contains(err.Error(), "lacks") {
		return fmt.Errorf("published with too few signatures: %w", err)
	}
	if err := w.Repo.Withdraw(ctx); err != nil {
		return err
	}
	return w.newLine(ctx, nil)
}

func (w *World) newLine(ctx context.Context, a *attacker) error {
	files, err := w.Repo.Targets()
	if err != nil {
		return err
	}
	dir, err := w.scratch("line")
	if err != nil {
		return err
	}
	line := &World{Dir: filepath.Join(dir, "repository"), Published: filepath.Join(dir, "web"), base: w.base, watch: w.watch, step: w.step, content: w.content,
		holders: map[string][]signer.Signer{}, current: map[string]tuf.Holder{}, files: map[string][]byte{}, changes: w.changes}
	for name, data := range files {
		if !strings.Contains(name, "/") {
			line.files[name] = data
		}
	}
	if err := line.found(ctx, map[string]string{"@nina": P256, "@oscar": Ed25519, "@peggy": P384, "@rupert": P256, "@sybil": P256}); err != nil {
		return err
	}
	kit, err := tuf.RepinKit(line.Roots[0], "the rehearsal", "https://tuf.example.test")
	if err != nil {
		return err
	}
	if string(kit.Root) != string(line.Roots[0]) || !strings.Contains(kit.Text, kit.SHA256) {
		return errors.New("the kit is not for the new root")
	}
	if err := line.show(ctx, Stage{Step: "new line", Served: line.Published, Want: line.files[Target], Repinned: true}); err != nil {
		return err
	}
	if a != nil {
		// What the thief serves is of no use against those who were installed anew.
		if err := line.show(ctx, Stage{Step: "attack again", Served: a.dir, Attack: true, Refused: true, Repinned: true}); err != nil {
			return err
		}
	}
	return nil
}
