package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/tlog"
)

// The schemas of the JSON forms.
const (
	ProofSchema       = "reseal.journal-proof/v1"
	ConsistencySchema = "reseal.journal-consistency/v1"
)

// maxProof is how many hashes a proof can have: two for each level of a tree.
const maxProof = 2 * 63

// Proof shows that one entry is in the journal that a checkpoint commits to,
// without the other entries (RFC 6962, section 2.1.1).
type Proof struct {
	Schema string           `json:"schema"`
	Entry  string           `json:"entry"` // its canonical bytes
	Index  int64            `json:"index"`
	Size   int64            `json:"size"`   // of the journal, in entries
	Hashes tlog.RecordProof `json:"hashes"` // base64
}

// ParseProof reads a proof. Anything but one object with the fields of a proof
// is refused. What it shows is Check's to say.
func ParseProof(raw []byte) (Proof, error) {
	var p Proof
	if err := parse(raw, &p); err != nil {
		return Proof{}, fmt.Errorf("journal proof: %w", err)
	}
	e, err := ParseEntry([]byte(p.Entry))
	switch {
	case p.Schema != ProofSchema:
		return Proof{}, fmt.Errorf("journal proof: its schema is %q, not %s", p.Schema, ProofSchema)
	case err != nil:
		return Proof{}, fmt.Errorf("journal proof: %w", err)
	case e.Index != p.Index:
		return Proof{}, fmt.Errorf("journal proof: it is of entry %d and has entry %d", p.Index, e.Index)
	case p.Index < 0 || p.Index >= p.Size:
		return Proof{}, fmt.Errorf("journal proof: entry %d is not among the first %d", p.Index, p.Size)
	case p.Hashes == nil || len(p.Hashes) > maxProof:
		return Proof{}, errors.New("journal proof: it has no list of hashes, or one that is too long")
	}
	return p, nil
}

// Check reports whether the entry is in the journal that the checkpoint commits
// to.
func (p Proof) Check(c Checkpoint) error {
	e, err := ParseEntry([]byte(p.Entry))
	switch {
	case err != nil:
		return fmt.Errorf("journal proof: %w", err)
	case e.Index != p.Index:
		return fmt.Errorf("journal proof: it is of entry %d and has entry %d", p.Index, e.Index)
	case p.Size != c.Size:
		return fmt.Errorf("journal proof: it is for %d entries, the checkpoint commits to %d: ask for one of that size", p.Size, c.Size)
	}
	if err := tlog.CheckRecord(p.Hashes, c.Size, c.Root, p.Index, tlog.RecordHash([]byte(p.Entry))); err != nil {
		return fmt.Errorf("journal proof: entry %d is not in the journal of %d entries with the root %s: %w", p.Index, c.Size, c.Root, err)
	}
	return nil
}

// Consistency shows that a journal begins with all that an earlier checkpoint
// commits to (RFC 6962, section 2.1.2).
type Consistency struct {
	Schema string         `json:"schema"`
	Old    int64          `json:"old"`    // size of the earlier journal, in entries
	Size   int64          `json:"size"`   // of the journal, in entries
	Hashes tlog.TreeProof `json:"hashes"` // base64
}

// ParseConsistency reads a consistency proof as strictly as ParseProof does.
func ParseConsistency(raw []byte) (Consistency, error) {
	var p Consistency
	if err := parse(raw, &p); err != nil {
		return Consistency{}, fmt.Errorf("consistency proof: %w", err)
	}
	switch {
	case p.Schema != ConsistencySchema:
		return Consistency{}, fmt.Errorf("consistency proof: its schema is %q, not %s", p.Schema, ConsistencySchema)
	case p.Old < 0 || p.Old > p.Size:
		return Consistency{}, fmt.Errorf("consistency proof: a journal of %d entries does not begin with %d", p.Size, p.Old)
	case p.Hashes == nil || len(p.Hashes) > maxProof:
		return Consistency{}, errors.New("consistency proof: it has no list of hashes, or one that is too long")
	}
	return p, nil
}

// Check reports whether the journal that now commits to begins with the one
// that old commits to.
func (p Consistency) Check(old, now Checkpoint) (err error) {
	switch {
	case p.Old != old.Size || p.Size != now.Size:
		return fmt.Errorf("consistency proof: it is from %d entries to %d, the checkpoints are of %d and %d: ask for one of these sizes", p.Old, p.Size, old.Size, now.Size)
	case old.Size > 0:
		err = tlog.CheckTree(p.Hashes, now.Size, now.Root, old.Size, old.Root)
	case old.Root != empty || len(p.Hashes) > 0 || now.Size == 0 && now.Root != empty:
		err = errors.New("a journal without entries has another root, and needs no proof")
	}
	if err != nil {
		return fmt.Errorf("consistency proof: the journal of %d entries with the root %s does not begin with the one of %d with the root %s: %w", now.Size, now.Root, old.Size, old.Root, err)
	}
	return nil
}

// empty is the root of a tree without entries (RFC 6962, section 2.1).
var empty = tlog.Hash(sha256.Sum256(nil))

// parse reads one JSON object and refuses fields that it should not have, and
// whatever follows it.
func parse(raw []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows it")
	}
	return nil
}
