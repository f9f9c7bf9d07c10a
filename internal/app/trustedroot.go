package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/inventory/evidence"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/tuf/trustedroot"
)

// ErrWouldStop is returned for a change of trust after which signatures would
// stop verifying, or may, and that nobody has agreed to by name.
var ErrWouldStop = errors.New("signatures would stop verifying")

// TrustEdit is a change of a trusted root or of a signing config, with what it
// does. Where it goes, a file or a signing event of a TUF repository, is not its
// concern.
type TrustEdit struct {
	Old, New []byte               // the file; Old is nil where there is none yet
	Changes  []trustedroot.Change // in words
	Warnings []string             // what some clients make of it
	Lost     []trustedroot.Loss   // what of the authorities no longer counts; nothing for a signing config
}

// EditTrustedRoot makes an edit of a trusted root; old is nil for a new one.
func EditTrustedRoot(old []byte, edit func(*trustedroot.Root) ([]string, error)) (TrustEdit, error) {
	e := TrustEdit{Old: old}
	r := trustedroot.New()
	var err error
	if old != nil {
		if r, err = trustedroot.Parse(old); err != nil {
			return e, err
		}
	}
	before, err := r.Bytes()
	if err != nil {
		return e, err
	}
	if e.Warnings, err = edit(r); err != nil {
		return e, err
	}
	if e.New, err = r.Bytes(); err != nil {
		return e, err
	}
	if e.Changes, err = trustedroot.Diff(before, e.New); err != nil {
		return e, err
	}
	e.Warnings = append(e.Warnings, r.Notes()...)
	e.Lost, err = trustedroot.Lost(before, e.New)
	return e, err
}

// EditSigningConfig makes an edit of a signing config; old is nil for a new one.
func EditSigningConfig(old []byte, edit func(*trustedroot.Config) ([]string, error)) (TrustEdit, error) {
	e := TrustEdit{Old: old}
	c := trustedroot.NewConfig()
	var err error
	if old != nil {
		if c, err = trustedroot.ParseConfig(old); err != nil {
			return e, err
		}
	}
	before, err := c.Bytes()
	if err != nil {
		return e, err
	}
	if e.Warnings, err = edit(c); err != nil {
		return e, err
	}
	if e.New, err = c.Bytes(); err != nil {
		return e, err
	}
	e.Changes, err = trustedroot.DiffConfig(before, e.New)
	return e, err
}

// CompareTrustedRoots says what somebody else's edit does.
func CompareTrustedRoots(old, new []byte) (TrustEdit, error) {
	e := TrustEdit{Old: old, New: new}
	var err error
	if e.Changes, err = trustedroot.Diff(old, new); err != nil {
		return e, err
	}
	r, err := trustedroot.Parse(new)
	if err != nil {
		return e, err
	}
	e.Warnings = r.Notes()
	e.Lost, err = trustedroot.Lost(old, new)
	return e, err
}

// Stops is what the inventory says of the signatures that a change would stop.
type Stops struct {
	Counted []trustedroot.Toll  `json:"counted"`          // by what rests on each authority: at most this many
	Judged  evidence.Difference `json:"judged"`           // by verifying each under both trusted roots
	Known   int64               `json:"known"`            // signatures in the inventory at all
	Another bool                `json:"another"`          // the inventory's evidence was verified against another trusted root than the one edited
	Untold  []string            `json:"untold,omitempty"` // what the inventory cannot tell
}

// WhatStops asks the inventory what a change of the trusted root would stop: it
// counts what rests on each authority, and verifies it all under both.
func (a *App) WhatStops(ctx context.Context, e TrustEdit, progress func(evidence.Difference)) (Stops, error) {
	s := Stops{Counted: []trustedroot.Toll{}}
	var touched []inventory.Authority
	for _, l := range e.Lost {
		for _, by := range l.Evidence {
			if !slices.Contains(touched, by) {
				touched = append(touched, by)
			}
		}
	}
	all, err := a.store.Counts(ctx)
	if err != nil {
		return s, err
	}
	s.Known = all.Signatures
	uses, err := a.store.RestingOn(ctx, touched)
	if err != nil {
		return s, err
	}
	var facts []trustedroot.Fact
	for _, u := range uses {
		facts = append(facts, trustedroot.Fact{Authority: u.Authority, Signatures: u.Signatures, Alone: u.Alone, Deployed: u.Deployed, Latest: u.Latest})
	}
	s.Counted = append(s.Counted, trustedroot.Tolls(e.Lost, facts)...)
	for _, l := range e.Lost {
		// A log that gave a time is one of Rekor v1.
		timed := slices.ContainsFunc(facts, func(f trustedroot.Fact) bool { return slices.Contains(l.Evidence, f.Authority) && !f.Latest.IsZero() })
		if l.Untold != "" && !timed {
			s.Untold = append(s.Untold, l.Untold)
		}
	}
	have, err := a.verifier(ctx)
	if err != nil {
		return s, err
	}
	now, err := a.under(ctx, e.Old)
	if err != nil {
		return s, err
	}
	then, err := a.under(ctx, e.New)
	if err != nil {
		return s, err
	}
	s.Another = have.Fingerprint() != now.Fingerprint()
	s.Judged, err = evidence.WhatIf(ctx, a.store, now, then, touched, progress)
	return s, err
}

// Agreed reports whether a change may be made without an explicit word: nothing
// that counts by now is lost, or no signature in the inventory, which is nil
// where there is none, rests on it. The error wraps ErrWouldStop.
func (e TrustEdit) Agreed(s *Stops, now time.Time) error {
	for _, l := range e.Lost {
		if l.After.After(now) {
			continue // an end to come takes nothing that is signed by now
		}
		switch {
		case s == nil, s.Known == 0:
			return fmt.Errorf("%w, perhaps: %s: %s, and there is no inventory to ask how many, or an empty one: agree to it with --accept-loss", ErrWouldStop, l.Authority, l.Why)
		case s.Judged.Takes():
			return fmt.Errorf("%w: %d are refused, %d are without their log entry, %d without proof of time; %d deployed artifacts have such a signature and %d no other: "+
				"sign them again before, or agree to it with --accept-loss", ErrWouldStop, s.Judged.Refused, s.Judged.Unlogged, s.Judged.Untimed, s.Judged.Deployed, s.Judged.Dark)
		case s.Another:
			return fmt.Errorf("%w, perhaps: the inventory was verified against another trusted root than this one, and does not know what rests on %s: "+
				"run \"reseal reverify --trusted-root\" with this one, or agree to it with --accept-loss", ErrWouldStop, l.Authority)
		case len(s.Untold) > 0:
			return fmt.Errorf("%w, perhaps: %s: agree to it with --accept-loss", ErrWouldStop, s.Untold[0])
		}
	}
	return nil
}

// HasHome reports whether there is a home to work with.
func HasHome(o Options) bool {
	_, err := os.Stat(filepath.Join(o.Home, configFile))
	return err == nil
}

// TrustFile is a trusted root or a signing config in a file of its own.
type TrustFile struct {
	Path string
	Home *App // whose journal the changes are in; nil: nobody's
}

// Read returns the file, or nil where there is none yet.
func (f TrustFile) Read() ([]byte, error) {
	b, err := readFile(f.Path, maxPolicy)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// Write puts a change into the file, for a reason. It is refused when the file
// is not what the change was made from any more. With a home, both contents are
// in the vault and the journal has the intent before and the outcome after.
func (f TrustFile) Write(ctx context.Context, e TrustEdit, reason string) error {
	unlock, err := durable.Lock(ctx, filepath.Dir(f.Path))
	if err != nil {
		return err
	}
	defer unlock()
	now, err := f.Read()
	if err != nil {
		return err
	}
	if (now == nil) != (e.Old == nil) || !bytes.Equal(now, e.Old) {
		return fmt.Errorf("%s was changed by another hand in the meantime: look at it, and run the command again", f.Path)
	}
	if err := f.record(ctx, "trustfile.intended", e, reason); err != nil {
		return err
	}
	if err := durable.WriteFile(f.Path, e.New, 0o644); err != nil {
		return err
	}
	return f.record(ctx, "trustfile.written", e, reason)
}

func (f TrustFile) record(ctx context.Context, action string, e TrustEdit, reason string) error {
	if f.Home == nil {
		return nil
	}
	path, err := filepath.Abs(f.Path)
	if err != nil {
		return err
	}
	return f.Home.store.Update(ctx, f.Home.by("%s", reason), func(tx *store.Tx) error {
		for _, content := range [][]byte{e.Old, e.New} {
			if content == nil {
				continue
			}
			if _, err := tx.PutVault(ctx, content); err != nil {
				return err
			}
		}
		tx.Record(journal.Draft{Action: action, Subject: path, Digest: inventory.Digest(e.New)})
		return nil
	})
}
