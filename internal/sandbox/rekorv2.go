package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	rekortilespb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/rekor-tiles/v2/pkg/types/hashedrekord"
	"github.com/sigstore/sigstore/pkg/signature"
	f_log "github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/protobuf/encoding/protojson"
)

// rekorV2Algorithms are those the log accepts.
var rekorV2Algorithms = []protocommon.PublicKeyDetails{
	protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
	protocommon.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384,
	protocommon.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512,
	protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256,
	protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256,
	protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256,
	protocommon.PublicKeyDetails_PKIX_ED25519_PH,
}

// rekorV2 is a Rekor v2 log: inclusion proof and checkpoint, and no time of
// its own. It takes hashedrekord 0.0.2 and serves no tiles.
type rekorV2 struct {
	key        *signingKey
	origin     string // verifiers expect the host name of the log's base URL
	signer     note.Signer
	algorithms *signature.AlgorithmRegistryConfig

	mu   sync.Mutex
	tree merkleTree
}

func newRekorV2(ctx context.Context, origin string) (*rekorV2, error) {
	key, err := newSigningKey()
	if err != nil {
		return nil, err
	}
	// The signer keeps its context for life; the caller's ends with Start.
	signer, err := rekornote.NewNoteSigner(context.WithoutCancel(ctx), origin, key.sv)
	if err != nil {
		return nil, fmt.Errorf("checkpoint signer: %w", err)
	}
	algorithms, err := signature.NewAlgorithmRegistryConfig(rekorV2Algorithms)
	if err != nil {
		return nil, fmt.Errorf("algorithms: %w", err)
	}
	return &rekorV2{key: key, origin: origin, signer: signer, algorithms: algorithms}, nil
}

// duplicateError says that the entry stands in the log already.
type duplicateError struct{ index int64 }

func (e duplicateError) Error() string {
	return fmt.Sprintf("an equivalent entry already exists in the transparency log with index %d", e.index)
}

// errInvalidEntry marks an entry the log refuses, as opposed to a failure of
// the log.
var errInvalidEntry = errors.New("invalid entry")

// add checks an entry, its signature included, and logs it.
func (l *rekorV2) add(req *rekortilespb.HashedRekordRequestV002) (*protorekor.TransparencyLogEntry, error) {
	entry, err := hashedrekord.ToLogEntry(req, l.algorithms)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalidEntry, err)
	}
	raw, err := protojson.Marshal(entry)
	if err != nil {
		return nil, fmt.Errorf("encoding entry: %w", err)
	}
	body, err := jsoncanonicalizer.Transform(raw)
	if err != nil {
		return nil, fmt.Errorf("canonicalising entry: %w", err)
	}
	proof, err := l.append(body)
	if err != nil {
		return nil, err
	}
	checkpoint, err := note.Sign(&note.Note{
		Text: string(f_log.Checkpoint{Origin: l.origin, Size: uint64(proof.size), Hash: proof.root[:]}.Marshal()),
	}, l.signer)
	if err != nil {
		return nil, fmt.Errorf("signing checkpoint: %w", err)
	}
	hashes := make([][]byte, len(proof.path))
	for i := range proof.path {
		hashes[i] = proof.path[i][:]
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex:    proof.index,
		LogId:       &protocommon.LogId{KeyId: l.key.id[:]},
		KindVersion: &protorekor.KindVersion{Kind: entry.Kind, Version: entry.ApiVersion},
		InclusionProof: &protorekor.InclusionProof{
			LogIndex:   proof.index,
			TreeSize:   proof.size,
			RootHash:   proof.root[:],
			Hashes:     hashes,
			Checkpoint: &protorekor.Checkpoint{Envelope: string(checkpoint)},
		},
		CanonicalizedBody: body,
	}, nil
}

func (l *rekorV2) append(body []byte) (inclusion, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	index, added, err := l.tree.append(body)
	if err != nil {
		return inclusion{}, err
	}
	if !added {
		return inclusion{}, duplicateError{index}
	}
	return l.tree.prove(index)
}

func (l *rekorV2) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/log/entries", func(w http.ResponseWriter, r *http.Request) {
		body, ok := readBody(w, r, maxLogRequest)
		if !ok {
			return
		}
		req := &rekortilespb.CreateEntryRequest{}
		if err := protojson.Unmarshal(body, req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		hashed := req.GetHashedRekordRequestV002()
		if hashed == nil {
			http.Error(w, "invalid type, must be hashedrekord", http.StatusBadRequest)
			return
		}
		entry, err := l.add(hashed)
		var dup duplicateError
		switch {
		case errors.As(err, &dup):
			w.Header().Set("X-Log-Index", strconv.FormatInt(dup.index, 10))
			http.Error(w, err.Error(), http.StatusConflict)
			return
		case errors.Is(err, errInvalidEntry):
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		out, err := protojson.Marshal(entry)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(out) // the client went away: nobody to tell
	})
	return mux
}
