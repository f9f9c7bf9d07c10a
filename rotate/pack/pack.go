// Package pack writes and verifies evidence packs: everything about one
// incident in one directory or tar file, for somebody who has nothing else and
// believes nobody.
//
// A pack holds the incident, the plans line by line, who approved them, what
// was published, what every statement was before and is now, and the journal's
// entries with their inclusion proofs. A manifest lists every file with its
// digest. The journal has an entry with the manifest's digest, and the seal
// proves that entry under a checkpoint that the journal signed, so that neither
// a file nor the list can be changed afterwards without breaking the proof.
//
// The package takes values and gives files. It knows no database and no network.
package pack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/inventory"
)

// Schemas of the documents this package writes.
const (
	Schema     = "reseal.evidence/v1"
	SealSchema = "reseal.evidence-seal/v1"
)

// SealedAction is the action of the journal entry that seals a pack. Its digest
// is the manifest's.
const SealedAction = "evidence.sealed"

// Contents is what goes into a pack. Documents are the exact bytes that were
// journaled. Sequences are read once, in order; Write holds one line of them at
// a time.
type Contents struct {
	MadeAt      time.Time // UTC, whole seconds; every file's time in a tar
	Incident    []byte    // its last version
	History     [][]byte  // its earlier versions, oldest first
	Plans       []Plan
	Motions     []Motion
	Approvers   [][]byte          // every set that a plan or a motion of the pack names
	Revocations map[string][]byte // file name → statement, as published
	// Before and After tell of every statement, one JSON object a line: what it
	// was decided on, and how it stands now.
	Before, After iter.Seq2[[]byte, error]
	// Entries are the journal's entries about the incident in ascending order,
	// each proven under Checkpoint. Those of all Documents must be among them.
	Entries    iter.Seq2[Entry, error]
	Checkpoint []byte   // of the journal as it was when the entries were proven: a signed note
	JournalKey string   // the journal's verifier key, see golang.org/x/mod/sumdb/note
	Receipts   [][]byte // of anchored checkpoints, JSON
	Report     Report
}

// Plan is one plan of the incident.
type Plan struct {
	Digest     string                   // "sha256:<hex>" over Lines, each with its newline
	Applied    bool                     // something was done under it, so a quorum or a break-glass must be shown
	Lines      iter.Seq2[[]byte, error] // header, items, totals
	Approvals  [][]byte
	Proposal   []byte // the proposer's own signature; nil: nobody proved who proposed
	BreakGlass [][]byte
}

// Motion is a change that was put to a quorum: another set of approvers, or the
// withdrawal of the incident.
type Motion struct {
	Body      []byte
	Carried   bool
	Approvals [][]byte
	Proposal  []byte
}

// Entry is one entry of the journal with its inclusion proof.
type Entry struct {
	Line   []byte   // the canonical bytes of the entry: the leaf
	Index  int64    // its place, from 0
	Hashes [][]byte // the audit path of RFC 6962, from the leaf up
}

// Seal ties a pack to the journal.
type Seal struct {
	Entry       Entry    // its digest is the manifest's; proven under Checkpoint
	Checkpoint  []byte   // signed note, of a journal that has the entry
	Consistency [][]byte // that the journal of Contents.Checkpoint is the beginning of this one (RFC 6962, section 2.1.2)
}

// Documents returns the digests of the documents whose journal entries must be
// among the pack's: Verify refuses a document that was never journaled.
func (c Contents) Documents() []string {
	docs := map[string]bool{}
	add := func(bodies ...[]byte) {
		for _, b := range bodies {
			if b != nil {
				docs[inventory.Digest(b)] = true
			}
		}
	}
	add(c.Incident)
	add(c.History...)
	add(c.Approvers...)
	for _, p := range c.Plans {
		add(p.Proposal)
		add(p.Approvals...)
		add(p.BreakGlass...)
	}
	for _, m := range c.Motions {
		add(m.Body, m.Proposal)
		add(m.Approvals...)
	}
	return slices.Sorted(maps.Keys(docs))
}

// Manifest lists the files of a pack.
type Manifest struct {
	Schema   string    `json:"schema"`
	Incident string    `json:"incident"`
	Plans    []PlanRef `json:"plans"`
	Motions  []PlanRef `json:"motions"`
	MadeAt   time.Time `json:"made_at"`
	Files    []File    `json:"files"` // in order of path; all but manifest.json and seal.json
}

// PlanRef is a plan or a motion of a pack.
type PlanRef struct {
	Digest  string `json:"digest"`
	Applied bool   `json:"applied"`
}

// File is one file of a pack.
type File struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"` // in bytes
	SHA256 string `json:"sha256"`
}

// proven is an Entry as files have it.
type proven struct {
	Entry  string   `json:"entry"`
	Index  int64    `json:"index"`
	Hashes [][]byte `json:"hashes"`
}

func (p proven) entry() Entry { return Entry{Line: []byte(p.Entry), Index: p.Index, Hashes: p.Hashes} }

func (e Entry) proven() proven {
	p := proven{string(e.Line), e.Index, e.Hashes}
	if p.Hashes == nil {
		p.Hashes = [][]byte{}
	}
	return p
}

// sealFile is seal.json.
type sealFile struct {
	Schema      string   `json:"schema"`
	Manifest    string   `json:"manifest"` // "sha256:<hex>" of manifest.json
	Entry       proven   `json:"entry"`
	Checkpoint  string   `json:"checkpoint"`
	Consistency [][]byte `json:"consistency"`
}

// The two files that the manifest cannot list.
const (
	manifestName = "manifest.json"
	sealName     = "seal.json"
)

// The other files.
const (
	readmeName     = "README.md"
	incidentName   = "incident.json"
	beforeName     = "statements/before.jsonl.gz"
	afterName      = "statements/after.jsonl.gz"
	entriesName    = "journal/entries.jsonl.gz"
	checkpointName = "journal/checkpoint"
	keyName        = "journal/journal.pub"
	htmlName       = "report.html"
	markdownName   = "report.md"
)

// required are the files that every pack has.
func required() []string {
	return []string{readmeName, incidentName, beforeName, afterName, entriesName, checkpointName, keyName, htmlName, markdownName}
}

// layout is every path there can be besides the required ones.
var layout = regexp.MustCompile(`^(` + strings.Join([]string{
	`(history|receipts)/[0-9]{4}\.json`,
	`approvers/[0-9a-f]{64}\.json`,
	`revocations/` + revocationName,
	`(plans|motions)/[0-9a-f]{64}/(proposal\.json|approvals/[0-9]{4}\.json)`,
	`plans/[0-9a-f]{64}/(plan\.jsonl\.gz|break-glass/[0-9]{4}\.json)`,
	`motions/[0-9a-f]{64}/motion\.json`,
}, "|") + `)$`)

const revocationName = `[A-Za-z0-9][A-Za-z0-9._-]{0,79}`

var goodRevocation = regexp.MustCompile(`^` + revocationName + `$`)

func planDir(digest string) string   { return "plans/" + strings.TrimPrefix(digest, "sha256:") + "/" }
func motionDir(digest string) string { return "motions/" + strings.TrimPrefix(digest, "sha256:") + "/" }

// marshal returns the one form that manifest.json and seal.json have.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(v)
	return b.Bytes(), err
}

// line returns a value as one line of JSON, without the newline: the form that
// is signed, and that lists of values have.
func line(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// parse reads what marshal wrote and refuses anything else: another order,
// another spelling, a field too many, a trailing byte.
func parse(raw []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	again, err := marshal(into)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, raw) {
		return errors.New("it is not in the form it was written in")
	}
	return nil
}

// Limits on what is read from a pack. A pack is made by whoever had the
// incident; reading one must not be a second incident.
const (
	maxFiles    = 20_000
	maxDocument = 16 << 20 // bytes of a file that is read at once
	maxLine     = 16 << 20 // bytes of a line
	maxPath     = 200      // bytes
	// Compressed files may grow to freely, and beyond that by ratio: digests do
	// not compress, so lines of ours stay far below it.
	freely = 64 << 20
	ratio  = 200
)

// errTooLong is returned for a line or file beyond the limits.
var errTooLong = errors.New("longer than any pack needs")

// readAll reads a file that must fit in memory.
func readAll(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(b) > maxDocument {
		err = fmt.Errorf("%w: more than %d bytes", errTooLong, maxDocument)
	}
	return b, err
}
