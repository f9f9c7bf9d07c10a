package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
)

// checkpoint signs what commits to the journal as it is now and keeps it
// beside the database. A journal that contradicts the checkpoint before is not
// signed: that checkpoint is the proof that it was changed.
func (a *App) checkpoint(ctx context.Context) error {
	last, err := a.lastCheckpoint()
	if err != nil {
		return err
	}
	then, err := a.store.JournalCheckpointAt(ctx, last.Size)
	if err != nil || last.Size > 0 && then != last {
		return errors.Join(errors.New("the journal contradicts its last signed checkpoint, which is kept: \"reseal journal verify\" says more"), err)
	}
	signed, err := a.signedCheckpoint(ctx)
	if err != nil {
		return err
	}
	return a.keepCheckpoint(signed)
}

// keepCheckpoint keeps a signed checkpoint, unless another process kept one of
// as many entries or more meanwhile.
func (a *App) keepCheckpoint(signed []byte) error {
	now, err := a.opened(signed)
	if err != nil {
		return err
	}
	last, err := a.lastCheckpoint()
	if err != nil || last.Size >= now.Size && last.Size > 0 {
		return err
	}
	return durable.WriteFile(filepath.Join(a.options.Home, checkpointFile), signed, 0o644)
}

// lastCheckpoint returns the last signed checkpoint; an empty one if there is
// none yet.
func (a *App) lastCheckpoint() (journal.Checkpoint, error) {
	v, err := a.journalVerifier()
	if err != nil {
		return journal.Checkpoint{}, err
	}
	signed, err := os.ReadFile(filepath.Join(a.options.Home, checkpointFile))
	if errors.Is(err, fs.ErrNotExist) {
		return journal.Checkpoint{}, nil
	}
	if err != nil {
		return journal.Checkpoint{}, fmt.Errorf("journal checkpoint: %w", err)
	}
	return journal.OpenCheckpoint(signed, v)
}

func (a *App) signedCheckpoint(ctx context.Context) ([]byte, error) {
	private, err := os.ReadFile(filepath.Join(a.options.Home, journalKeyFile))
	if err != nil {
		return nil, fmt.Errorf("journal key: %w", err)
	}
	key, err := note.NewSigner(strings.TrimSpace(string(private)))
	if err != nil {
		// Not wrapped: the library's error may quote the key.
		return nil, fmt.Errorf("journal key %s is malformed", filepath.Join(a.options.Home, journalKeyFile))
	}
	c, err := a.store.JournalCheckpoint(ctx)
	if err != nil {
		return nil, err
	}
	return c.Sign(key)
}

// JournalState is what verifying the journal found.
type JournalState struct {
	Entries    int64  `json:"entries"`
	Root       string `json:"root"`
	Checkpoint int64  `json:"checkpoint"` // entries that the last signed checkpoint covers
	Anchored   int64  `json:"anchored"`   // checkpoints kept elsewhere that hold
}

// VerifyJournal recomputes the journal's Merkle tree from its entries, compares
// it with the stored hashes, the last signed checkpoint, every anchored one and
// those given, and each row of the database with what the journal says of it.
func (a *App) VerifyJournal(ctx context.Context, kept ...journal.Receipt) (JournalState, error) {
	last, err := a.lastCheckpoint()
	if err != nil {
		return JournalState{}, err
	}
	key, err := a.journalVerifier()
	if err != nil {
		return JournalState{}, err
	}
	receipts, err := a.anchored(ctx)
	if err != nil {
		return JournalState{}, err
	}
	for _, x := range receipts {
		kept = append(kept, x.Receipt)
	}
	anchors, err := journal.Against(key, kept...)
	if err != nil {
		return JournalState{}, err
	}
	now, err := a.store.JournalCheckpoint(ctx)
	if err != nil {
		return JournalState{}, err
	}
	var tree journal.Tree
	next := a.store.Journal(ctx, 0)
	covered := last.Size == 0
	for {
		if err := anchors.Compare(&tree); err != nil {
			return JournalState{}, err
		}
		if tree.Size() == now.Size { // what others append meanwhile is not under it
			break
		}
		line, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return JournalState{}, err
		}
		if err := tree.Add(line); err != nil {
			return JournalState{}, fmt.Errorf("journal: %w", err)
		}
		if tree.Size() == last.Size {
			if err := tree.Check(last); err != nil {
				return JournalState{}, fmt.Errorf("against the signed checkpoint: %w", err)
			}
			covered = true
		}
	}
	if !covered {
		return JournalState{}, fmt.Errorf("journal was cut: it has %d entries, the signed checkpoint commits to %d", tree.Size(), last.Size)
	}
	if err := anchors.End(&tree); err != nil {
		return JournalState{}, err
	}
	if err := tree.Check(now); err != nil {
		return JournalState{}, err
	}
	var problems []error
	if err := a.store.CheckJournal(ctx, func(problem string) {
		if len(problems) < maxProblems {
			problems = append(problems, errors.New(problem))
		}
	}); err != nil {
		return JournalState{}, err
	}
	return JournalState{Entries: now.Size, Root: now.Root.String(), Checkpoint: last.Size, Anchored: int64(len(kept))}, errors.Join(problems...)
}

// maxProblems bounds how many changed rows are named.
const maxProblems = 100

// Journal returns a function that yields the entries from the one given on,
// then io.EOF.
func (a *App) Journal(ctx context.Context, from int64) func() (journal.Entry, error) {
	next := a.store.Journal(ctx, from)
	return func() (journal.Entry, error) {
		line, err := next()
		if err != nil {
			return journal.Entry{}, err
		}
		return journal.ParseEntry(line)
	}
}

// Sightings returns what a sighting entry, by its digest, says was seen.
func (a *App) Sightings(ctx context.Context, digest string) ([]journal.Draft, error) {
	return a.store.Sightings(ctx, digest)
}

// Vault returns the exact bytes kept under a digest.
func (a *App) Vault(ctx context.Context, digest string) ([]byte, error) {
	if err := inventory.CheckDigest(digest); err != nil {
		return nil, err
	}
	return a.store.Vault(ctx, digest)
}

// ExportJournal writes a fresh checkpoint and every entry under it to w.
func (a *App) ExportJournal(ctx context.Context, w io.Writer) error {
	signed, err := a.signedCheckpoint(ctx)
	if err != nil {
		return err
	}
	c, err := a.opened(signed)
	if err != nil {
		return err
	}
	next, left := a.store.Journal(ctx, 0), c.Size
	return journal.WriteExport(w, func() ([]byte, error) {
		if left--; left < 0 { // others append meanwhile
			return nil, io.EOF
		}
		return next()
	}, signed)
}

func (a *App) journalVerifier() (note.Verifier, error) {
	public, err := os.ReadFile(filepath.Join(a.options.Home, journalPubFile))
	if err != nil {
		return nil, fmt.Errorf("journal public key: %w", err)
	}
	return JournalKey(public)
}

// JournalKey reads a journal's public key (journal.pub).
func JournalKey(public []byte) (note.Verifier, error) {
	v, err := note.NewVerifier(strings.TrimSpace(string(public)))
	if err != nil {
		return nil, fmt.Errorf("journal public key: %w", err)
	}
	return v, nil
}
