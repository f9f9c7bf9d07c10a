package app

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/tuf"
	"github.com/reseal/reseal/tuf/trustedroot"
)

// tufDir is where a home remembers the newest state of TUF repositories, and every statement it ever got from them.
const tufDir = "tuf"

// isIndex reports whether a target is the index that lies among revocation statements, kept for a list of them. A
// statement that has its name, of an incident named so, is one all the same: it denies something.
func isIndex(name string, content []byte) bool {
	_, err := rotate.ParseRevocation(content)
	return name == revocationsDir+"/index.json" && err != nil
}

// withdrawnFile is the target by which the holders of targets withdraw revocation statements. No other role can.
const withdrawnFile = "withdrawn.json"

const withdrawnSchema = "reseal.withdrawn/v1"

// seenWithdrawn is where the newest of it is remembered, beside the statements seen.
const seenWithdrawn = "withdrawn"

// parseWithdrawn reads which statements are withdrawn, by the SHA-256 of their content, in hex.
func parseWithdrawn(content []byte) (map[string]bool, error) {
	var w struct {
		Schema     string   `json:"schema"`
		Statements []string `json:"statements"`
	}
	dec := json.NewDecoder(bytes.NewReader(content))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&w); err != nil {
		return nil, fmt.Errorf("%s: %w", withdrawnFile, err)
	}
	if w.Schema != withdrawnSchema {
		return nil, fmt.Errorf("%s: schema %q: this version reads %s", withdrawnFile, w.Schema, withdrawnSchema)
	}
	out := map[string]bool{}
	for _, digest := range w.Statements {
		if err := inventory.CheckDigest(digest); err != nil {
			return nil, fmt.Errorf("%s: %w", withdrawnFile, err)
		}
		out[strings.TrimPrefix(digest, "sha256:")] = true
	}
	return out, nil
}

// believedAgain says which statements new withdraws that old (nil: none) does not.
func believedAgain(old, new []byte) []string {
	if new == nil {
		return nil // what was withdrawn is denied again
	}
	was := map[string]bool{}
	if old != nil {
		if w, err := parseWithdrawn(old); err == nil {
			was = w
		}
	}
	now, err := parseWithdrawn(new)
	if err != nil {
		return []string{fmt.Sprintf("clients could not read it, and would accept nothing: %v", err)}
	}
	var out []string
	for _, digest := range slices.Sorted(maps.Keys(now)) {
		if !was[digest] {
			out = append(out, "the revocation statement with SHA-256 "+digest+" no longer counts: what it alone denies is believed again")
		}
	}
	return out
}

// signingConfigFile is what Sigstore calls the file beside its trusted root.
const signingConfigFile = "signing_config.v0.2.json"

// Guard says what would stop verifying when the trusted root among a repository's targets changes: which authorities no
// longer count, and by the inventory, if there is one, what rests on them. Of a signing config it says that clients could
// not read it, and of a revocation statement what would be believed again. a may be nil.
func (a *App) Guard(ctx context.Context) tuf.Guard {
	return func(name string, old, new []byte) []string {
		if strings.HasPrefix(name, revocationsDir+"/") {
			return unrevoked(name, old, new)
		}
		if name == withdrawnFile {
			return believedAgain(old, new)
		}
		if name == signingConfigFile {
			return unreadableConfig(old, new)
		}
		if name != trustedRootFile {
			return nil
		}
		lost, err := a.lost(ctx, old, new)
		if err != nil {
			return []string{fmt.Sprintf("nobody can say what would stop verifying: %v", err)}
		}
		return lost
	}
}

// unrevoked says what would be believed again when new (nil: none) takes the place of a revocation statement. Where old
// cannot be read nobody can say, and where new cannot be read clients would refuse everything.
func unrevoked(name string, old, new []byte) []string {
	if isIndex(name, old) {
		return nil
	}
	var was, now rotate.Revocation
	var err error
	if old != nil {
		if was, err = rotate.ParseRevocation(old); err != nil {
			return []string{fmt.Sprintf("nobody can say what it denies as it is published: %v", err)}
		}
	}
	if new != nil {
		if now, err = rotate.ParseRevocation(new); err != nil {
			return []string{fmt.Sprintf("clients could not read it, and would accept nothing: %v", err)}
		}
	}
	return now.Lacks(was)
}

// unreadableConfig says that clients could not read a signing config, where they can read old or there is none.
func unreadableConfig(old, new []byte) []string {
	if new == nil {
		return nil
	}
	if old != nil {
		if _, err := root.NewSigningConfigFromJSON(old); err != nil {
			return nil
		}
	}
	if _, err := root.NewSigningConfigFromJSON(new); err != nil {
		return []string{fmt.Sprintf("sigstore-go, and with it cosign, refuses the file, and nobody could sign by it: %v", err)}
	}
	return nil
}

// CheckStatement refuses a target in the place of a revocation statement, or of the list of withdrawn ones, that is none:
// every client would fail that cannot read one.
func CheckStatement(name string, content []byte) error {
	if name == withdrawnFile {
		_, err := parseWithdrawn(content)
		return err
	}
	if !strings.HasPrefix(name, revocationsDir+"/") || isIndex(name, content) {
		return nil
	}
	if _, err := rotate.ParseRevocation(content); err != nil {
		return fmt.Errorf("target %s: every client that gets it would accept nothing any more: %w", name, err)
	}
	return nil
}

// TargetWords says what changes in a trusted root or a signing config, and what a revocation statement says, for those
// who are asked to sign it: what is added there is trusted, or denied, by every client. It says that it cannot tell of one
// that nobody can read, nil included.
func TargetWords(name string, old, new []byte) []string {
	if strings.HasPrefix(name, revocationsDir+"/") && !isIndex(name, new) {
		r, err := rotate.ParseRevocation(new)
		if err != nil {
			return []string{fmt.Sprintf("nobody can say what it denies: %v", err)}
		}
		return r.Words()
	}
	var changes []trustedroot.Change
	var err error
	switch name {
	case trustedRootFile:
		if old == nil {
			old, err = trustedroot.New().Bytes()
		}
		if err == nil {
			changes, err = trustedroot.Diff(old, new)
		}
	case signingConfigFile:
		if old == nil {
			old, err = trustedroot.NewConfig().Bytes()
		}
		if err == nil {
			changes, err = trustedroot.DiffConfig(old, new)
		}
	}
	if err != nil {
		return []string{fmt.Sprintf("nobody can say what changes in it: %v", err)}
	}
	var out []string
	for _, c := range changes {
		line := c.What + " " + c.Subject
		if len(c.Details) > 0 {
			line += ": " + strings.Join(c.Details, "; ")
		}
		out = append(out, line)
	}
	return out
}

func (a *App) lost(ctx context.Context, old, new []byte) ([]string, error) {
	now := time.Now()
	if old == nil {
		if _, err := root.NewTrustedRootFromJSON(new); err != nil {
			return []string{fmt.Sprintf("sigstore-go, and with it cosign, refuses the file, and all that it trusts: %v", err)}, nil
		}
		return nil, nil
	}
	if new == nil {
		var err error
		if new, err = trustedroot.New().Bytes(); err != nil {
			return nil, err
		}
	}
	e, err := CompareTrustedRoots(old, new)
	if err != nil {
		return nil, err
	}
	var out []string
	_, before := root.NewTrustedRootFromJSON(old)
	if _, after := root.NewTrustedRootFromJSON(new); before == nil && after != nil {
		out = append(out, fmt.Sprintf("sigstore-go, and with it cosign, refuses the file, and all that it trusts: %v", after))
	}
	var stops *Stops
	if a != nil && len(e.Lost) > 0 {
		s, err := a.WhatStops(ctx, e, nil)
		if err != nil {
			return nil, err
		}
		now, stops = a.now(), &s
	}
	if e.Agreed(stops, now) == nil {
		return out, nil
	}
	for _, l := range e.Lost {
		out = append(out, fmt.Sprintf("%s: %s", l.Authority, l.Why))
	}
	if stops != nil && stops.Judged.Takes() {
		j := stops.Judged
		out = append(out, fmt.Sprintf("by the inventory: %d signatures are refused, %d are without their log entry, %d without proof of time; %d deployed artifacts have such a signature and %d no other",
			j.Refused, j.Unlogged, j.Untimed, j.Deployed, j.Dark))
	}
	return out, nil
}

// Journaled journals an act on the outside world before it is done, with its content if there is one, and that it was
// done after. a may be nil: then nobody's journal has it.
func (a *App) Journaled(ctx context.Context, action, subject, reason string, content []byte, act func() error) error {
	return a.JournaledAs(ctx, action, subject, reason, content, func() (string, error) { return subject, act() })
}

// JournaledAs is [App.Journaled] for an act that tells what it was done to.
func (a *App) JournaledAs(ctx context.Context, action, subject, reason string, content []byte, act func() (string, error)) error {
	if a == nil {
		_, err := act()
		return err
	}
	note := func(ctx context.Context, stage, subject string) error {
		return a.store.Update(ctx, a.by("%s", reason), func(tx *store.Tx) error {
			d := journal.Draft{Action: action + stage, Subject: subject}
			if content != nil {
				var err error
				if d.Digest, err = tx.PutVault(ctx, content); err != nil {
					return err
				}
			}
			tx.Record(d)
			return nil
		})
	}
	if err := note(ctx, ".intended", subject); err != nil {
		return err
	}
	done, err := act()
	if err != nil {
		return err
	}
	return note(context.WithoutCancel(ctx), ".done", done) // also when it was interrupted: what is done is done
}

// PlanRevocation returns the revocation statement of an approved plan by what is known now, with every digest that the
// incident denies, the name it is published under, and the digests.
func (a *App) PlanRevocation(ctx context.Context, plan string) (name string, statement []byte, denied []string, err error) {
	p, err := a.permit(ctx, plan)
	if err != nil {
		return "", nil, nil, err
	}
	if name, statement, err = rotate.RevocationOf(ctx, a.store, p); err != nil {
		return "", nil, nil, err
	}
	r, err := rotate.ParseRevocation(statement)
	return name, statement, r.Denied(), err
}

// TUFSource is a TUF repository whose revocations are honoured.
type TUFSource struct {
	URL  string // empty: none
	Root []byte // the pinned root
}

// revoked returns every revocation statement that this home ever saw published, also where no repository is asked now:
// who holds a responder's key cannot take a denial back by replacing it, and who leaves out a flag cannot either. It
// fails when the newest of a repository that is asked cannot be had.
func (a *App) revoked(ctx context.Context, from TUFSource) ([]rotate.Revocation, error) {
	cache := filepath.Join(a.options.Home, tufDir)
	if from.URL != "" {
		if err := keepRevoked(ctx, cache, from); err != nil {
			return nil, err
		}
	}
	return seenRevoked(cache)
}

// keepRevoked keeps the statements that a repository publishes among those seen.
func keepRevoked(ctx context.Context, cache string, from TUFSource) error {
	got, err := tuf.Revocations(ctx, tuf.FetchOptions{URL: from.URL, Root: from.Root, CacheDir: cache, Own: []string{withdrawnFile}})
	if err != nil {
		return fmt.Errorf("what is revoked is not known: %w", err)
	}
	sum := sha256.Sum256(from.Root)
	seen := filepath.Join(cache, "seen-"+hex.EncodeToString(sum[:8]))
	if err := os.MkdirAll(seen, 0o700); err != nil {
		return err
	}
	for name, statement := range got {
		if isIndex(name, statement) || name == withdrawnFile {
			continue
		}
		if _, err := rotate.ParseRevocation(statement); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		digest := sha256.Sum256(statement)
		file := filepath.Join(seen, hex.EncodeToString(digest[:])+".json")
		if had, err := durable.ReadFile(file); err == nil && bytes.Equal(had, statement) {
			continue
		}
		if err := durable.WriteFile(file, statement, 0o600); err != nil {
			return err
		}
	}
	// The newest list holds, not every one there was: who is taken off it is denied again.
	file := filepath.Join(seen, seenWithdrawn)
	list, ok := got[withdrawnFile]
	if !ok {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if _, err := parseWithdrawn(list); err != nil {
		return err
	}
	return durable.WriteFile(file, list, 0o600)
}

// seenRevoked reads the statements seen, whatever root was pinned when: that it is pinned anew takes no denial back.
// What is withdrawn is so only in the repository that says it. Whatever cannot be read fails: it may be what denies.
func seenRevoked(cache string) ([]rotate.Revocation, error) {
	var out []rotate.Revocation
	dirs, err := os.ReadDir(cache)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		if !strings.HasPrefix(dir.Name(), "seen-") {
			continue
		}
		files, err := os.ReadDir(filepath.Join(cache, dir.Name()))
		if err != nil {
			return nil, err
		}
		withdrawn := map[string]bool{}
		if list, err := durable.ReadFile(filepath.Join(cache, dir.Name(), seenWithdrawn)); err == nil {
			if withdrawn, err = parseWithdrawn(list); err != nil {
				return nil, err
			}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, entry := range files {
			if filepath.Ext(entry.Name()) != ".json" {
				continue // of a write that was cut off
			}
			if withdrawn[strings.TrimSuffix(entry.Name(), ".json")] {
				continue
			}
			file := filepath.Join(cache, dir.Name(), entry.Name())
			statement, err := durable.ReadFile(file)
			if err != nil {
				return nil, err
			}
			r, err := rotate.ParseRevocation(statement)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			out = append(out, r)
		}
	}
	return out, nil
}
