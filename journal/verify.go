package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxEntry bounds one line of an export, in bytes.
const maxEntry = 1 << 20

// An export is the entries, one a line, then an empty line, then the signed
// checkpoint. It needs neither database nor network to be verified.

// WriteExport writes an export: every entry that next yields, then the
// checkpoint. next returns io.EOF after the last one.
func WriteExport(w io.Writer, next func() ([]byte, error), checkpoint []byte) error {
	b := bufio.NewWriter(w)
	for {
		line, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		b.Write(line)
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	b.Write(checkpoint)
	return b.Flush()
}

// VerifyExport recomputes the Merkle tree of an export and compares it with
// its checkpoint, and on the way with checkpoints that were anchored before.
// The error names the first entry that is out of order or malformed, or the
// anchored checkpoint that is contradicted, or says that some entry was changed.
//
// The checkpoint of the export alone does not tell a journal that was cut or
// rewritten by whoever has its key: an anchored one does.
func VerifyExport(r io.Reader, v note.Verifier, anchored ...Receipt) (Checkpoint, error) {
	anchors, err := Against(v, anchored...)
	if err != nil {
		return Checkpoint{}, err
	}
	br := bufio.NewReaderSize(r, 64<<10)
	var tree Tree
	var line []byte
	for {
		if err := anchors.Compare(&tree); err != nil {
			return Checkpoint{}, err
		}
		line, err = readLine(br, line[:0])
		if err != nil {
			return Checkpoint{}, fmt.Errorf("journal export ends before its checkpoint: %w", err)
		}
		if len(line) == 0 {
			break
		}
		if err := tree.Add(line); err != nil {
			return Checkpoint{}, err
		}
	}
	if err := anchors.End(&tree); err != nil {
		return Checkpoint{}, err
	}
	signed, err := io.ReadAll(io.LimitReader(br, maxEntry))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("journal checkpoint: %w", err)
	}
	c, err := OpenCheckpoint(signed, v)
	if err != nil {
		return Checkpoint{}, err
	}
	return c, tree.Check(c)
}

// Tree recomputes the root of a journal from its entries in order, in memory
// logarithmic in their number. The zero value is an empty tree.
type Tree struct {
	size int64
	// peaks are the roots of the complete subtrees of the entries so far, one
	// for each bit set in size, the largest first.
	peaks []tlog.Hash
}

// Size returns how many entries were added.
func (t *Tree) Size() int64 { return t.size }

// Add appends the canonical bytes of the next entry.
func (t *Tree) Add(line []byte) error {
	e, err := ParseEntry(line)
	if err != nil {
		return fmt.Errorf("entry %d: %w", t.size, err)
	}
	if e.Index != t.size {
		return fmt.Errorf("entry %d stands where entry %d belongs: entries are missing or moved", e.Index, t.size)
	}
	h := tlog.RecordHash(line)
	for s := t.size; s&1 == 1; s >>= 1 {
		last := len(t.peaks) - 1
		h = tlog.NodeHash(t.peaks[last], h)
		t.peaks = t.peaks[:last]
	}
	t.peaks = append(t.peaks, h)
	t.size++
	return nil
}

// Checkpoint returns what commits to the entries added so far.
func (t *Tree) Checkpoint() Checkpoint {
	c := Checkpoint{Size: t.size}
	if len(t.peaks) == 0 {
		c.Root = empty
		return c
	}
	h := t.peaks[len(t.peaks)-1]
	for i := len(t.peaks) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.peaks[i], h)
	}
	c.Root = h
	return c
}

// Check compares the entries added so far with a checkpoint.
func (t *Tree) Check(c Checkpoint) error {
	got := t.Checkpoint()
	if got.Size != c.Size {
		return fmt.Errorf("journal has %d entries, its checkpoint commits to %d", got.Size, c.Size)
	}
	if !bytes.Equal(got.Root[:], c.Root[:]) {
		return fmt.Errorf("journal was changed: its %d entries hash to %s, the checkpoint commits to %s", got.Size, got.Root, c.Root)
	}
	return nil
}

// readLine appends the next line to line, without its end.
func readLine(br *bufio.Reader, line []byte) ([]byte, error) {
	for {
		part, err := br.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxEntry {
			return nil, fmt.Errorf("a line is longer than %d bytes", maxEntry)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
		return bytes.TrimSuffix(line, []byte("\n")), nil
	}
}
