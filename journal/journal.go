// Package journal is the tamper-evident record of everything reseal does.
//
// It is a Merkle log as in RFC 6962: each entry is a leaf, a checkpoint (a
// signed note, see golang.org/x/mod/sumdb/note) commits to all entries before
// it, and anyone with an export and the verifier key can check the whole of it
// offline. Someone who owns the database can rewrite it; they cannot do so
// without contradicting a checkpoint that was anchored elsewhere.
//
// The package defines the format and the checks. It does no I/O but reading
// from the io.Reader it is given; internal/store keeps the entries.
package journal

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Author is who acts and why. Every change of state takes one.
type Author struct {
	Actor  string
	Reason string
}

// Check refuses an author without a name or a reason.
func (a Author) Check() error {
	if strings.TrimSpace(a.Actor) == "" {
		return errors.New("nobody is named as the actor: give --actor or set RESEAL_ACTOR")
	}
	if strings.TrimSpace(a.Reason) == "" {
		return errors.New("no reason is given: state one with --reason")
	}
	return nil
}

// Draft is what an entry says, before the log gives it a place and a time.
type Draft struct {
	Action  string // what happened, e.g. "signature.seen"
	Subject string // to what, e.g. an image digest or an incident's name
	Digest  string // "sha256:<hex>" of the bytes concerned, or empty
	Kind    string // of the document that is kept with these bytes as its next version, or empty
}

// Entry is one record of the journal.
type Entry struct {
	Index   int64     `json:"index"`
	Time    time.Time `json:"time"` // UTC, whole seconds
	Actor   string    `json:"actor"`
	Reason  string    `json:"reason"`
	Action  string    `json:"action"`
	Subject string    `json:"subject"`
	Digest  string    `json:"digest,omitempty"`
	Kind    string    `json:"kind,omitempty"` // of a document: Subject is its ID, Digest that of its next version
}

// Marshal returns the canonical bytes of the entry: the leaf of the Merkle
// tree. It is one line of JSON with the fields in the order of the type.
func (e Entry) Marshal() ([]byte, error) {
	e.Time = e.Time.UTC().Truncate(time.Second)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, fmt.Errorf("journal entry %d: %w", e.Index, err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// ParseEntry reads one entry. It refuses bytes that are not the canonical form
// of what they say, so that an entry has exactly one leaf hash.
func ParseEntry(line []byte) (Entry, error) {
	var e Entry
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		return Entry{}, fmt.Errorf("journal entry: %w", err)
	}
	canonical, err := e.Marshal()
	if err != nil {
		return Entry{}, err
	}
	if !bytes.Equal(canonical, line) {
		return Entry{}, fmt.Errorf("journal entry %d is not in canonical form", e.Index)
	}
	return e, nil
}

// Origin is the first line of every checkpoint.
const Origin = "reseal.dev/journal/v1"

// Checkpoint commits to the first Size entries of the journal.
type Checkpoint struct {
	Size int64
	Root tlog.Hash
}

// Sign returns the checkpoint as a signed note.
func (c Checkpoint) Sign(s note.Signer) ([]byte, error) {
	text := fmt.Sprintf("%s\n%d\n%s\n", Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
	return note.Sign(&note.Note{Text: text}, s)
}

// OpenCheckpoint verifies a signed checkpoint and returns what it commits to.
func OpenCheckpoint(signed []byte, v note.Verifier) (Checkpoint, error) {
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[0] != Origin {
		return Checkpoint{}, fmt.Errorf("checkpoint: not a reseal journal checkpoint (%s)", Origin)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 {
		return Checkpoint{}, fmt.Errorf("checkpoint: bad size %q", lines[1])
	}
	raw, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(raw) != tlog.HashSize {
		return Checkpoint{}, fmt.Errorf("checkpoint: bad root hash %q", lines[2])
	}
	c := Checkpoint{Size: size}
	copy(c.Root[:], raw)
	return c, nil
}
