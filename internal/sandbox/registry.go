package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	maxManifest = 4 << 20   // the limit registries agree on
	maxUpload   = 256 << 20 // blobs live in memory
)

// registryServer is an OCI registry in memory. Blobs and uploads are
// go-containerregistry's; manifests, tags and referrers are kept here, because
// that package's
//
//   - deleting a digest leaves the tags that point to it,
//   - referrers answer with the config's media type as artifactType, know no
//     filter, cost a walk over the repository, and are not announced by the
//     OCI-Subject header on a push,
//   - lists of tags carry no Link, so clients stop after the first page.
//
// Like most registries it refuses a manifest whose blobs or children it does
// not have, and keeps referrers whose subject is gone.
type registryServer struct {
	blobs    http.Handler
	blobStat registry.BlobStatHandler

	mu    sync.RWMutex
	repos map[string]*repository
}

type repository struct {
	manifests map[string]storedManifest  // by digest
	tags      map[string]string          // to digest
	referrers map[string][]v1.Descriptor // by the subject's digest, oldest first
}

type storedManifest struct {
	mediaType string
	body      []byte
	subject   string // digest; empty without one
}

// manifestFields is what the registry reads in a manifest of any kind.
type manifestFields struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Config       *v1.Descriptor    `json:"config"`
	Layers       []v1.Descriptor   `json:"layers"`
	Manifests    []v1.Descriptor   `json:"manifests"`
	Subject      *v1.Descriptor    `json:"subject"`
	Annotations  map[string]string `json:"annotations"`
}

// registryError is an error of the distribution protocol.
type registryError struct {
	status  int
	code    string
	message string
}

func (e *registryError) Error() string { return e.code + ": " + e.message }

var (
	errNameUnknown     = &registryError{http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry"}
	errManifestUnknown = &registryError{http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown to registry"}
	errUnsupported     = &registryError{http.StatusMethodNotAllowed, "UNSUPPORTED", "the operation is unsupported"}
)

func newRegistryServer() *registryServer {
	store := registry.NewInMemoryBlobHandler()
	s := &registryServer{
		blobs: registry.New(
			registry.WithBlobHandler(store),
			registry.WithReferrersSupport(true),
			registry.Logger(log.New(io.Discard, "", 0)),
		),
		repos: map[string]*repository{},
	}
	s.blobStat, _ = store.(registry.BlobStatHandler)
	return s
}

// ServeHTTP routes by the end of the path: repository names contain slashes.
func (s *registryServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	elems := strings.Split(path, "/")
	var err error
	switch n := len(elems); {
	case path == "_catalog":
		err = s.serveCatalog(w, r)
	case n >= 3 && elems[n-2] == "manifests":
		err = s.serveManifest(w, r, strings.Join(elems[:n-2], "/"), elems[n-1])
	case n >= 3 && elems[n-2] == "tags" && elems[n-1] == "list":
		err = s.serveTags(w, r, strings.Join(elems[:n-2], "/"))
	case n >= 3 && elems[n-2] == "referrers":
		err = s.serveReferrers(w, r, strings.Join(elems[:n-2], "/"), elems[n-1])
	default:
		r.Body = http.MaxBytesReader(w, r.Body, maxUpload)
		s.blobs.ServeHTTP(w, r)
	}
	if err != nil {
		writeRegistryError(w, err)
	}
}

func (s *registryServer) serveManifest(w http.ResponseWriter, r *http.Request, name, ref string) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return s.getManifest(w, r, name, ref)
	case http.MethodPut:
		return s.putManifest(w, r, name, ref)
	case http.MethodDelete:
		if err := s.deleteManifest(name, ref); err != nil {
			return err
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	default:
		return errUnsupported
	}
}

func (s *registryServer) getManifest(w http.ResponseWriter, r *http.Request, name, ref string) error {
	s.mu.RLock()
	repo, ok := s.repos[name]
	if !ok {
		s.mu.RUnlock()
		return errNameUnknown
	}
	digest := ref
	if !isDigest(ref) {
		digest = repo.tags[ref]
	}
	m, ok := repo.manifests[digest]
	s.mu.RUnlock()
	if !ok {
		return errManifestUnknown
	}
	h := w.Header()
	h.Set("Docker-Content-Digest", digest)
	h.Set("Content-Type", m.mediaType)
	h.Set("Content-Length", strconv.Itoa(len(m.body)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(m.body) // the client went away: nobody to tell
	}
	return nil
}

func (s *registryServer) putManifest(w http.ResponseWriter, r *http.Request, name, ref string) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxManifest))
	if err != nil {
		if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
			return &registryError{http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", err.Error()}
		}
		return &registryError{http.StatusBadRequest, "MANIFEST_INVALID", err.Error()}
	}
	sum := sha256.Sum256(body)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	if isDigest(ref) && ref != digest {
		return &registryError{http.StatusBadRequest, "DIGEST_INVALID", fmt.Sprintf("content is %s", digest)}
	}
	var fields manifestFields
	if err := json.Unmarshal(body, &fields); err != nil {
		return &registryError{http.StatusBadRequest, "MANIFEST_INVALID", err.Error()}
	}
	if err := s.checkBlobs(r, name, fields); err != nil {
		return err
	}
	m := storedManifest{mediaType: r.Header.Get("Content-Type"), body: body}
	if m.mediaType == "" {
		m.mediaType = fields.MediaType
	}
	if fields.Subject != nil {
		m.subject = fields.Subject.Digest.String()
		w.Header().Set("OCI-Subject", m.subject)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	repo, ok := s.repos[name]
	if !ok {
		repo = &repository{manifests: map[string]storedManifest{}, tags: map[string]string{}, referrers: map[string][]v1.Descriptor{}}
	}
	for _, child := range fields.Manifests {
		if _, ok := repo.manifests[child.Digest.String()]; !ok && (child.MediaType.IsImage() || child.MediaType.IsIndex()) {
			return &registryError{http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", fmt.Sprintf("manifest %s unknown to registry", child.Digest)}
		}
	}
	s.repos[name] = repo
	if _, known := repo.manifests[digest]; !known && m.subject != "" {
		repo.referrers[m.subject] = append(repo.referrers[m.subject], referrer(digest, sum, m, fields))
	}
	repo.manifests[digest] = m
	if !isDigest(ref) {
		repo.tags[ref] = digest
	}
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Location", "/v2/"+name+"/manifests/"+digest)
	w.WriteHeader(http.StatusCreated)
	return nil
}

// checkBlobs refuses a manifest whose config or layers were not uploaded.
func (s *registryServer) checkBlobs(r *http.Request, name string, fields manifestFields) error {
	if s.blobStat == nil {
		return nil
	}
	blobs := fields.Layers
	if fields.Config != nil {
		blobs = append([]v1.Descriptor{*fields.Config}, blobs...)
	}
	for _, b := range blobs {
		if !b.MediaType.IsDistributable() {
			continue
		}
		if _, err := s.blobStat.Stat(r.Context(), name, b.Digest); err != nil {
			return &registryError{http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", fmt.Sprintf("blob %s unknown to registry", b.Digest)}
		}
	}
	return nil
}

// referrer describes a manifest in the list of its subject (distribution
// spec, "Listing Referrers").
func referrer(digest string, sum [sha256.Size]byte, m storedManifest, fields manifestFields) v1.Descriptor {
	artifactType := fields.ArtifactType
	if artifactType == "" && fields.Config != nil {
		artifactType = string(fields.Config.MediaType)
	}
	return v1.Descriptor{
		MediaType:    types.MediaType(m.mediaType),
		Size:         int64(len(m.body)),
		Digest:       v1.Hash{Algorithm: strings.SplitN(digest, ":", 2)[0], Hex: hex.EncodeToString(sum[:])},
		ArtifactType: artifactType,
		Annotations:  fields.Annotations,
	}
}

// deleteManifest removes a tag, or a manifest with every tag that points to
// it and its entry in the list of its subject.
func (s *registryServer) deleteManifest(name, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	repo, ok := s.repos[name]
	if !ok {
		return errNameUnknown
	}
	if !isDigest(ref) {
		if _, ok := repo.tags[ref]; !ok {
			return errManifestUnknown
		}
		delete(repo.tags, ref)
		return nil
	}
	m, ok := repo.manifests[ref]
	if !ok {
		return errManifestUnknown
	}
	delete(repo.manifests, ref)
	for tag, digest := range repo.tags {
		if digest == ref {
			delete(repo.tags, tag)
		}
	}
	if m.subject != "" {
		// A new slice: an answer being written may still read the old one.
		var rest []v1.Descriptor
		for _, d := range repo.referrers[m.subject] {
			if d.Digest.String() != ref {
				rest = append(rest, d)
			}
		}
		if rest == nil {
			delete(repo.referrers, m.subject)
		} else {
			repo.referrers[m.subject] = rest
		}
	}
	return nil
}

// serveReferrers never answers 404: that would send clients to the fallback
// tag.
func (s *registryServer) serveReferrers(w http.ResponseWriter, r *http.Request, name, subject string) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return errUnsupported
	}
	if _, err := v1.NewHash(subject); err != nil {
		return &registryError{http.StatusBadRequest, "DIGEST_INVALID", err.Error()}
	}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	s.mu.RLock()
	var all []v1.Descriptor
	if repo, ok := s.repos[name]; ok {
		all = repo.referrers[subject]
	}
	s.mu.RUnlock()
	wanted := r.URL.Query().Get("artifactType")
	for _, d := range all {
		if wanted == "" || d.ArtifactType == wanted {
			index.Manifests = append(index.Manifests, d)
		}
	}
	if wanted != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return writeRegistryJSON(w, string(types.OCIImageIndex), index)
}

func (s *registryServer) serveTags(w http.ResponseWriter, r *http.Request, name string) error {
	if r.Method != http.MethodGet {
		return errUnsupported
	}
	s.mu.RLock()
	repo, ok := s.repos[name]
	var tags []string
	if ok {
		for tag := range repo.tags {
			tags = append(tags, tag)
		}
	}
	s.mu.RUnlock()
	if !ok {
		return errNameUnknown
	}
	page, err := paginate(w, r, tags)
	if err != nil {
		return err
	}
	return writeRegistryJSON(w, "application/json", map[string]any{"name": name, "tags": page})
}

func (s *registryServer) serveCatalog(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		return errUnsupported
	}
	var names []string
	s.mu.RLock()
	for name := range s.repos {
		names = append(names, name)
	}
	s.mu.RUnlock()
	page, err := paginate(w, r, names)
	if err != nil {
		return err
	}
	return writeRegistryJSON(w, "application/json", map[string]any{"repositories": page})
}

// paginate sorts names, cuts out the page that the query asks for (n, last)
// and links to the next one.
func paginate(w http.ResponseWriter, r *http.Request, names []string) ([]string, error) {
	slices.Sort(names)
	query := r.URL.Query()
	if last := query.Get("last"); last != "" {
		i, found := slices.BinarySearch(names, last)
		if found {
			i++
		}
		names = names[i:]
	}
	if limit := query.Get("n"); limit != "" {
		n, err := strconv.Atoi(limit)
		if err != nil || n < 0 {
			return nil, &registryError{http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", fmt.Sprintf("n=%q is no number of results", limit)}
		}
		if n < len(names) {
			names = names[:n]
			if n > 0 {
				next := url.URL{Path: r.URL.Path, RawQuery: url.Values{"n": {limit}, "last": {names[n-1]}}.Encode()}
				w.Header().Set("Link", fmt.Sprintf("<%s>; rel=\"next\"", next.String()))
			}
		}
	}
	if names == nil {
		names = []string{}
	}
	return names, nil
}

// isDigest tells a digest from a tag, which cannot hold a colon.
func isDigest(ref string) bool { return strings.Contains(ref, ":") }

func writeRegistryJSON(w http.ResponseWriter, mediaType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding answer: %w", err)
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the client went away: nobody to tell
	return nil
}

func writeRegistryError(w http.ResponseWriter, err error) {
	re := (*registryError)(nil)
	if !errors.As(err, &re) {
		re = &registryError{http.StatusInternalServerError, "UNKNOWN", err.Error()}
	}
	writeJSON(w, re.status, map[string]any{"errors": []any{map[string]string{"code": re.code, "message": re.message}}})
}
