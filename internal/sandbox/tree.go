package sandbox

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// merkleTree is an append-only RFC 6962 tree in memory; tlog's hashing is
// RFC 6962's. Its owner serialises access.
type merkleTree struct {
	size   int64
	hashes []tlog.Hash         // in tlog's storage order
	leaves map[tlog.Hash]int64 // leaf hash to index: logs refuse duplicates
}

// inclusion proves one leaf against the tree as it stands.
type inclusion struct {
	index, size int64
	root        tlog.Hash
	path        tlog.RecordProof
}

// ReadHashes implements tlog.HashReader.
func (t *merkleTree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(t.hashes)) {
			return nil, fmt.Errorf("hash %d of %d does not exist", x, len(t.hashes))
		}
		out[i] = t.hashes[x]
	}
	return out, nil
}

// append adds a leaf and returns its index; a leaf already there keeps its
// index and added is false.
func (t *merkleTree) append(leaf []byte) (index int64, added bool, err error) {
	h := tlog.RecordHash(leaf)
	if i, ok := t.leaves[h]; ok {
		return i, false, nil
	}
	stored, err := tlog.StoredHashesForRecordHash(t.size, h, t)
	if err != nil {
		return 0, false, fmt.Errorf("appending leaf %d: %w", t.size, err)
	}
	if t.leaves == nil {
		t.leaves = make(map[tlog.Hash]int64)
	}
	t.hashes = append(t.hashes, stored...)
	t.leaves[h] = t.size
	t.size++
	return t.size - 1, true, nil
}

// root is the head of the tree as it stands.
func (t *merkleTree) root() (tlog.Hash, error) {
	h, err := tlog.TreeHash(t.size, t)
	if err != nil {
		return tlog.Hash{}, fmt.Errorf("hashing tree of %d: %w", t.size, err)
	}
	return h, nil
}

// prove proves the leaf at index to be in the tree as it stands.
func (t *merkleTree) prove(index int64) (inclusion, error) {
	root, err := t.root()
	if err != nil {
		return inclusion{}, err
	}
	path, err := tlog.ProveRecord(t.size, index, t)
	if err != nil {
		return inclusion{}, fmt.Errorf("proving leaf %d: %w", index, err)
	}
	return inclusion{index: index, size: t.size, root: root, path: path}, nil
}
