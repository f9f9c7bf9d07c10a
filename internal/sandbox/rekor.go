package sandbox

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	"github.com/go-openapi/runtime"
	"github.com/go-openapi/strfmt"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/sigstore/pkg/signature"
	"golang.org/x/mod/sumdb/tlog"

	// The kinds of entry the log takes.
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.2"
)

const (
	rekorEntriesPath = "/api/v1/log/entries"
	// rekorTreeID is arbitrary. It stands in entry ids and in the origin of
	// checkpoints, where its form tells verifiers v1 from v2.
	rekorTreeID = 1193046
	// maxLogRequest bounds a proposed entry, which carries whole attestations.
	maxLogRequest = 32 << 20
)

// rekorV1 is a Rekor v1 log: entries with a signed entry timestamp (SET), an
// inclusion proof and a checkpoint. Proofs are against the tree as it is when
// the entry is read. It has no search index.
type rekorV1 struct {
	clock *Clock
	key   *signingKey
	host  string // of the checkpoints' origin

	mu      sync.Mutex
	tree    merkleTree
	entries []rekorEntry // by index
}

// rekorEntry is what the log keeps of an entry.
type rekorEntry struct {
	body       []byte // canonical
	integrated int64  // Unix time
}

// add logs a proposed entry. An entry already there is not logged again, and
// added is false.
func (l *rekorV1) add(ctx context.Context, proposed models.ProposedEntry) (uuid string, index int64, added bool, err error) {
	body, err := canonicalEntry(ctx, proposed)
	if err != nil {
		return "", 0, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	index, added, err = l.tree.append(body)
	if err != nil {
		return "", 0, false, err
	}
	if added {
		l.entries = append(l.entries, rekorEntry{body: body, integrated: l.clock.Now().Unix()})
	}
	return entryUUID(body), index, added, nil
}

// entry renders the entry at index. Signing happens outside the lock.
func (l *rekorV1) entry(ctx context.Context, index int64) (models.LogEntry, error) {
	l.mu.Lock()
	stored := l.entries[index]
	proof, err := l.tree.prove(index)
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	logID := l.key.hexID()
	set, err := signEntryTimestamp(l.key.sv, stored, index, logID)
	if err != nil {
		return nil, err
	}
	checkpoint, err := l.checkpoint(ctx, proof.size, proof.root)
	if err != nil {
		return nil, err
	}
	hashes := make([]string, 0, len(proof.path))
	for _, h := range proof.path {
		hashes = append(hashes, hex.EncodeToString(h[:]))
	}
	rootHash := hex.EncodeToString(proof.root[:])
	return models.LogEntry{entryUUID(stored.body): models.LogEntryAnon{
		Body:           base64.StdEncoding.EncodeToString(stored.body),
		IntegratedTime: &stored.integrated,
		LogIndex:       &index,
		LogID:          &logID,
		Verification: &models.LogEntryAnonVerification{
			SignedEntryTimestamp: strfmt.Base64(set),
			InclusionProof: &models.InclusionProof{
				Checkpoint: &checkpoint,
				Hashes:     hashes,
				LogIndex:   &proof.index,
				RootHash:   &rootHash,
				TreeSize:   &proof.size,
			},
		},
	}}, nil
}

func (l *rekorV1) checkpoint(ctx context.Context, size int64, root tlog.Hash) (string, error) {
	cp, err := util.CreateAndSignCheckpoint(ctx, l.host, rekorTreeID, uint64(size), root[:], l.key.sv)
	if err != nil {
		return "", fmt.Errorf("signing checkpoint: %w", err)
	}
	return string(cp), nil
}

// lookup finds an entry by its leaf hash, with or without the tree id in
// front.
func (l *rekorV1) lookup(uuid string) (int64, bool) {
	var leaf tlog.Hash
	if tree := len(uuid) - 2*len(leaf); tree == 16 {
		if uuid[:tree] != fmt.Sprintf("%016x", rekorTreeID) {
			return 0, false
		}
		uuid = uuid[tree:]
	}
	raw, err := hex.DecodeString(uuid)
	if err != nil || len(raw) != len(leaf) {
		return 0, false
	}
	copy(leaf[:], raw)
	l.mu.Lock()
	defer l.mu.Unlock()
	index, ok := l.tree.leaves[leaf]
	return index, ok
}

// canonicalEntry checks a proposed entry, its signature included, and returns
// the bytes that are logged.
func canonicalEntry(ctx context.Context, proposed models.ProposedEntry) ([]byte, error) {
	entry, err := types.CreateVersionedEntry(proposed)
	if err != nil {
		return nil, fmt.Errorf("proposed entry: %w", err)
	}
	body, err := types.CanonicalizeEntry(ctx, entry)
	if err != nil {
		return nil, fmt.Errorf("canonicalising entry: %w", err)
	}
	return body, nil
}

// entryUUID is the entry's id as Rekor shows it: tree id and leaf hash.
func entryUUID(body []byte) string {
	leaf := tlog.RecordHash(body)
	return fmt.Sprintf("%016x%x", rekorTreeID, leaf[:])
}

// signEntryTimestamp makes the SET: a signature over the canonical JSON of
// what the log promises.
func signEntryTimestamp(signer signature.Signer, e rekorEntry, index int64, logID string) ([]byte, error) {
	raw, err := json.Marshal(map[string]any{
		"body":           base64.StdEncoding.EncodeToString(e.body),
		"integratedTime": e.integrated,
		"logIndex":       index,
		"logID":          logID,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding entry: %w", err)
	}
	canonical, err := jsoncanonicalizer.Transform(raw)
	if err != nil {
		return nil, fmt.Errorf("canonicalising entry: %w", err)
	}
	set, err := signer.SignMessage(bytes.NewReader(canonical))
	if err != nil {
		return nil, fmt.Errorf("signing entry timestamp: %w", err)
	}
	return set, nil
}

func (l *rekorV1) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+rekorEntriesPath, l.serveCreate)
	mux.HandleFunc("GET "+rekorEntriesPath, func(w http.ResponseWriter, r *http.Request) {
		index, err := strconv.ParseInt(r.URL.Query().Get("logIndex"), 10, 64)
		if err != nil {
			rekorError(w, http.StatusBadRequest, fmt.Errorf("logIndex: %w", err))
			return
		}
		l.mu.Lock()
		exists := index >= 0 && index < l.tree.size
		l.mu.Unlock()
		l.serveEntry(w, r, index, exists)
	})
	mux.HandleFunc("GET "+rekorEntriesPath+"/{uuid}", func(w http.ResponseWriter, r *http.Request) {
		index, ok := l.lookup(r.PathValue("uuid"))
		l.serveEntry(w, r, index, ok)
	})
	mux.HandleFunc("GET /api/v1/log", l.serveInfo)
	mux.HandleFunc("GET /api/v1/log/publicKey", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write(l.key.pem)
	})
	return mux
}

func (l *rekorV1) serveCreate(w http.ResponseWriter, r *http.Request) {
	body, ok := readBody(w, r, maxLogRequest)
	if !ok {
		return
	}
	proposed, err := models.UnmarshalProposedEntry(bytes.NewReader(body), runtime.JSONConsumer())
	if err != nil {
		rekorError(w, http.StatusBadRequest, err)
		return
	}
	uuid, index, added, err := l.add(r.Context(), proposed)
	if err != nil {
		rekorError(w, http.StatusBadRequest, err)
		return
	}
	w.Header().Set("Location", rekorEntriesPath+"/"+uuid)
	if !added {
		rekorError(w, http.StatusConflict, fmt.Errorf("an equivalent entry already exists in the transparency log with UUID %s", uuid))
		return
	}
	entry, err := l.entry(r.Context(), index)
	if err != nil {
		rekorError(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("ETag", uuid)
	writeJSON(w, http.StatusCreated, entry)
}

func (l *rekorV1) serveEntry(w http.ResponseWriter, r *http.Request, index int64, exists bool) {
	if !exists {
		rekorError(w, http.StatusNotFound, fmt.Errorf("entry not found"))
		return
	}
	entry, err := l.entry(r.Context(), index)
	if err != nil {
		rekorError(w, http.StatusInternalServerError, err)
		return
	}
	writeJSON(w, http.StatusOK, entry)
}

// serveInfo answers with the state of the log, so that all of it can be read.
func (l *rekorV1) serveInfo(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	size := l.tree.size
	root, err := l.tree.root()
	l.mu.Unlock()
	if err != nil {
		rekorError(w, http.StatusInternalServerError, err)
		return
	}
	checkpoint, err := l.checkpoint(r.Context(), size, root)
	if err != nil {
		rekorError(w, http.StatusInternalServerError, err)
		return
	}
	rootHash, treeID := hex.EncodeToString(root[:]), strconv.Itoa(rekorTreeID)
	writeJSON(w, http.StatusOK, models.LogInfo{
		RootHash:       &rootHash,
		SignedTreeHead: &checkpoint,
		TreeID:         &treeID,
		TreeSize:       &size,
		InactiveShards: []*models.InactiveShardLogInfo{},
	})
}

func rekorError(w http.ResponseWriter, code int, err error) {
	writeJSON(w, code, models.Error{Code: int64(code), Message: err.Error()})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(body) // the client went away: nobody to tell
}
