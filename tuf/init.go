package tuf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A Group is the holders of a role and how many of them must sign.
type Group struct {
	Holders   []Holder `json:"holders"`
	Threshold int      `json:"threshold"` // 0: more than half for root and targets, 1 for the responders
}

// Founding says what a new repository starts with. It takes public keys only: the holders sign afterwards.
type Founding struct {
	By, Reason string

	// Root and targets may share holders; the responders' keys and the online key stand apart, since a key on call or
	// online must not be able to do more than its role.
	Root, Targets, Revocations Group
	Online                     Online // signs snapshot and timestamp

	Periods map[string]Period // by role; those missing are 365, 180, 365 (revocations), 21 and 7 days
	Files   map[string][]byte // the first top-level targets, such as trusted_root.json
}

// Init makes a repository in dir and opens its first signing event: root, targets and the role revocations, each to be
// signed by its holders. Publishing that event writes 1.root.json, the file to hand to clients. It refuses a directory
// that already holds metadata: root metadata, once pinned by a client, cannot be made again.
func Init(ctx context.Context, dir string, o Options, f Founding) (*Repository, *Event, error) {
	r, err := newRepository(dir, o)
	if err != nil {
		return nil, nil, fmt.Errorf("tuf: init: %w", err)
	}
	e, err := r.init(ctx, f)
	if err != nil {
		return nil, nil, fmt.Errorf("tuf: init %s: %w", dir, err)
	}
	return r, e, nil
}

func (r *Repository) init(ctx context.Context, f Founding) (*Event, error) {
	if err := r.refuseExisting(); err != nil {
		return nil, err
	}
	d, err := r.found(f)
	if err != nil {
		return nil, err
	}
	if err := makeDir(r.dir); err != nil {
		return nil, err
	}
	var e *Event
	err = r.change(ctx, func() error {
		if err := r.refuseExisting(); err != nil { // again, under the lock
			return err
		}
		e, err = r.store(ctx, eventState{By: f.By, Reason: f.Reason, Opened: r.now().UTC().Truncate(time.Second)}, d)
		return err
	})
	return e, err
}

// found makes the draft of a first state.
func (r *Repository) found(f Founding) (*draft, error) {
	period := func(role string) Period {
		if p, ok := f.Periods[role]; ok {
			return p
		}
		return defaultPeriod(role)
	}
	for role := range f.Periods {
		if role != revocationsRole && !slices.Contains(metadata.TOP_LEVEL_ROLE_NAMES[:], role) {
			return nil, fmt.Errorf("a period is given for role %q, which there will not be", role)
		}
	}
	for _, role := range []string{metadata.ROOT, metadata.TARGETS, revocationsRole, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		if err := period(role).check(role); err != nil {
			return nil, err
		}
	}
	for _, g := range []*Group{&f.Root, &f.Targets} {
		if g.Threshold == 0 {
			g.Threshold = len(g.Holders)/2 + 1
		}
	}
	if f.Revocations.Threshold == 0 {
		f.Revocations.Threshold = 1
	}

	d := r.draft(newState(r.read))
	d.root = metadata.Root(r.expiry(period(metadata.ROOT).expiry()))
	d.root.Signed.UnrecognizedFields = period(metadata.ROOT).fields()
	for role, g := range map[string]Group{metadata.ROOT: f.Root, metadata.TARGETS: f.Targets} {
		entry := &metadata.Role{KeyIDs: []string{}, Threshold: g.Threshold}
		for _, h := range g.Holders {
			id, key, err := h.publish()
			if err != nil {
				return nil, err
			}
			d.root.Signed.Keys[id] = key
			entry.KeyIDs = append(entry.KeyIDs, id)
		}
		d.root.Signed.Roles[role] = entry
	}
	id, key, err := f.Online.publish()
	if err != nil {
		return nil, err
	}
	d.root.Signed.Keys[id] = key
	for _, role := range []string{metadata.SNAPSHOT, metadata.TIMESTAMP} {
		d.root.Signed.Roles[role] = &metadata.Role{KeyIDs: []string{id}, Threshold: 1, UnrecognizedFields: period(role).fields()}
	}

	if _, err := d.add(metadata.TARGETS, period(metadata.TARGETS)); err != nil {
		return nil, err
	}
	changes := []Change{AddRole{Name: revocationsRole, Paths: []string{revocationsPattern}, Terminating: true, // no later delegation can speak for these paths (4.5)
		Holders: f.Revocations.Holders, Threshold: f.Revocations.Threshold, Period: period(revocationsRole)}}
	for _, name := range slices.Sorted(maps.Keys(f.Files)) {
		changes = append(changes, SetTarget{Name: name, Data: f.Files[name], Role: metadata.TARGETS})
	}
	for _, c := range changes {
		if err := c.apply(d); err != nil {
			return nil, err
		}
	}
	if err := d.validate(); err != nil {
		return nil, err
	}
	losses, err := r.losses(d)
	if err == nil && len(losses) > 0 {
		err = fmt.Errorf("%s: %s", losses[0].Name, strings.Join(losses[0].What, "; "))
	}
	return d, err
}

// refuseExisting fails when one of the directories holds the metadata of a repository, whole or not.
func (r *Repository) refuseExisting() error {
	if _, err := r.read(eventFile); err == nil {
		return fmt.Errorf("%w: publish or withdraw it", ErrEventOpen)
	}
	// What lies in event/ is removed when an event ends.
	entries, err := os.ReadDir(filepath.Join(r.dir, eventDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if at := path.Join(eventDir, e.Name()); at != pendingDir && at != pendingFile && e.Name() != metadataDir && e.Name() != targetsDir && e.Name() != tempName {
			return fmt.Errorf("%s is in the way, and is no part of a repository: choose another directory", filepath.Join(r.dir, at))
		}
	}
	for _, at := range []struct{ dir, sub string }{{r.dir, metadataDir}, {r.dir, historyDir}, {r.published, "."}} {
		entries, err := os.ReadDir(filepath.Join(at.dir, filepath.FromSlash(at.sub)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".json") {
				return fmt.Errorf("there is a repository already (%s in %s): open it, rebuild its directory from the published one, or choose another directory; its root cannot be made again",
					e.Name(), filepath.Join(at.dir, at.sub))
			}
		}
	}
	return nil
}
