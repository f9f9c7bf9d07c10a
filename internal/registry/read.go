package registry

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/reseal/reseal/inventory"
)

const (
	// pageSize is what registries allow when nothing else is configured; more is
	// refused by some.
	pageSize = 1000

	maxPages          = 20_000
	maxReferrersPages = 256

	// maxReferrers bounds the referrers of one digest over all pages, in bytes.
	maxReferrers = 64 << 20
)

// Manifest is a manifest as the registry has it.
type Manifest struct {
	Digest    string
	MediaType string
	Raw       []byte
	Size      int64
}

// Manifest returns a manifest by tag or digest. One of more than 8 MiB is ErrTooLarge.
func (c *Client) Manifest(ctx context.Context, repo, reference string) (Manifest, error) {
	at, err := parseRepository(repo)
	if err != nil {
		return Manifest{}, err
	}
	q := request{
		op: "get manifest", ref: reference, at: at, access: pull,
		method: http.MethodGet, path: at.repo.RepositoryStr() + "/manifests/" + reference,
		accept: acceptManifest, want: []int{http.StatusOK}, limit: maxManifest,
	}
	if err := q.checkReference(); err != nil {
		return Manifest{}, err
	}
	a, err := c.do(ctx, q)
	if err != nil {
		return Manifest{}, err
	}
	if a.isPage() {
		return Manifest{}, q.bad(ErrMalformed, a.diagnostic()+": is this a registry?")
	}
	digest, err := q.checkDigest(a)
	if err != nil {
		return Manifest{}, err
	}
	mediaType, err := q.mediaType(a)
	if err != nil {
		return Manifest{}, err
	}
	return Manifest{Digest: digest, MediaType: mediaType, Raw: a.body, Size: int64(len(a.body))}, nil
}

// Head asks what digest a tag has, without its content. When it still is the
// known one, which may be empty, most registries answer after looking at the
// tag alone, and Docker Hub does not count it as a pull. A registry that does
// not tell a digest so is asked for the content.
//
// The digest is the registry's word: nothing was read that it could be held
// against.
func (c *Client) Head(ctx context.Context, repo, reference, known string) (digest string, err error) {
	at, err := parseRepository(repo)
	if err != nil {
		return "", err
	}
	q := request{
		op: "head manifest", ref: reference, at: at, access: pull,
		method: http.MethodHead, path: at.repo.RepositoryStr() + "/manifests/" + reference,
		accept: acceptManifest, want: []int{http.StatusOK},
	}
	if err := q.checkReference(); err != nil {
		return "", err
	}
	if known != "" {
		if err := inventory.CheckDigest(known); err != nil {
			return "", q.bad(ErrMalformed, err.Error())
		}
		q.ifNoneMatch, q.want = `"`+known+`"`, []int{http.StatusOK, http.StatusNotModified}
	}
	a, err := c.do(ctx, q)
	switch {
	case a.status == http.StatusMethodNotAllowed || a.status == http.StatusNotImplemented:
	case err != nil:
		return "", err
	case a.status == http.StatusNotModified:
		return known, nil
	default:
		if said := a.header.Get("Docker-Content-Digest"); inventory.CheckDigest(said) == nil {
			return said, nil
		}
	}
	m, err := c.Manifest(ctx, repo, reference)
	return m.Digest, err
}

// acceptManifest leaves out Docker's schema 1: its digest is not that of its bytes.
var acceptManifest = strings.Join([]string{
	string(types.OCIManifestSchema1),
	string(types.OCIImageIndex),
	string(types.DockerManifestSchema2),
	string(types.DockerManifestList),
	"application/vnd.oci.artifact.manifest.v1+json", // image-spec 1.1 before its release
}, ", ")

// Blob returns a blob of at most limit bytes.
func (c *Client) Blob(ctx context.Context, repo, digest string, limit int64) ([]byte, error) {
	at, err := parseRepository(repo)
	if err != nil {
		return nil, err
	}
	q := request{
		op: "get blob", ref: digest, at: at, access: pull,
		method: http.MethodGet, path: at.repo.RepositoryStr() + "/blobs/" + digest,
		want: []int{http.StatusOK}, limit: limit,
	}
	if _, err := v1.NewHash(digest); err != nil {
		return nil, q.bad(ErrMalformed, err.Error())
	}
	a, err := c.do(ctx, q)
	if err != nil {
		return nil, err
	}
	if _, err := q.checkDigest(a); err != nil {
		return nil, err
	}
	return a.body, nil
}

// Tags lists the tags of a repository. After an error it ends.
func (c *Client) Tags(ctx context.Context, repo string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		at, err := parseRepository(repo)
		if err != nil {
			yield("", err)
			return
		}
		q := listing("list tags", at)
		q.path = at.repo.RepositoryStr() + "/tags/list"
		c.list(ctx, q, func(body []byte) ([]string, error) {
			var page struct {
				Tags []string `json:"tags"`
			}
			err := json.Unmarshal(body, &page)
			return page.Tags, err
		}, yield)
	}
}

// Repositories lists the repositories of a registry, as "host/path". After an
// error it ends. Many public registries have no such listing.
func (c *Client) Repositories(ctx context.Context, registry string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		at, err := parseRegistry(registry)
		if err != nil {
			yield("", err)
			return
		}
		q := listing("list repositories", at)
		q.path = "_catalog"
		c.list(ctx, q, func(body []byte) ([]string, error) {
			var page struct {
				Repositories []string `json:"repositories"`
			}
			err := json.Unmarshal(body, &page)
			for i, path := range page.Repositories {
				page.Repositories[i] = registry + "/" + path
			}
			return page.Repositories, err
		}, yield)
	}
}

func listing(op string, at place) request {
	return request{
		op: op, at: at, access: pull, method: http.MethodGet,
		query: url.Values{"n": {strconv.Itoa(pageSize)}},
		want:  []int{http.StatusOK}, limit: maxPage,
	}
}

// list walks the pages of a listing (distribution-spec, "Listing Tags").
func (c *Client) list(ctx context.Context, q request, decode func([]byte) ([]string, error), yield func(string, error) bool) {
	fail := func(err error) { yield("", err) }
	walk := pager{pages: maxPages, size: pageSize}
	a, err := c.do(ctx, q)
	if a.status == http.StatusBadRequest && a.hasCode("PAGINATION_NUMBER_INVALID") {
		q.query, walk.size = nil, 0 // the registry was set to allow less: its own size then
		a, err = c.do(ctx, q)
	}
	for {
		if err != nil {
			fail(err)
			return
		}
		names, err2 := decode(a.body)
		if err2 != nil {
			fail(q.bad(ErrMalformed, "the answer is no listing: "+err2.Error()))
			return
		}
		if walk.stalled(names) {
			return
		}
		for _, n := range names {
			if !yield(n, nil) {
				return
			}
		}
		next, more, err2 := walk.next(q, a, names)
		if err2 != nil {
			fail(err2)
			return
		}
		if !more {
			return
		}
		q = next
		a, err = c.do(ctx, q)
	}
}

// pager follows Link headers and does not go in circles.
type pager struct {
	pages  int // at most
	size   int // of a page, as asked for; 0 when the registry chooses
	linked bool
	seen   map[string]bool
	last   string // asked for names after this one, without a Link
}

// next returns the request for the page after a.
func (p *pager) next(q request, a answer, names []string) (request, bool, error) {
	p.last = ""
	u, err := nextLink(a)
	if err != nil {
		return q, false, q.bad(ErrMalformed, err.Error())
	}
	p.linked = p.linked || u != nil
	if u == nil {
		// Some registries cut a listing at n names and never send a Link. That
		// would pass for the whole: after a full page ask for one more.
		if p.linked || p.size == 0 || len(names) < p.size {
			return q, false, nil
		}
		p.last = names[len(names)-1]
		u = &url.URL{Scheme: a.url.Scheme, Host: a.url.Host, Path: a.url.Path}
		u.RawQuery = url.Values{"n": {strconv.Itoa(p.size)}, "last": {p.last}}.Encode()
	}
	if p.seen == nil {
		p.seen = map[string]bool{a.url.String(): true}
	}
	if p.seen[u.String()] {
		return q, false, q.bad(ErrMalformed, "the listing goes in circles: a Link leads to a page already read")
	}
	if len(p.seen) >= p.pages {
		return q, false, q.bad(ErrTooLarge, fmt.Sprintf("the listing has more than %d pages", p.pages))
	}
	p.seen[u.String()] = true
	q.url, q.query = u, nil
	return q, true, nil
}

// stalled reports whether a page asked for without a Link brings nothing new:
// a registry that does not know "last" begins anew.
func (p *pager) stalled(names []string) bool {
	return p.last != "" && (len(names) == 0 || names[0] <= p.last)
}

// nextLink returns the URL of the next page (RFC 8288), nil on the last one.
func nextLink(a answer) (*url.URL, error) {
	for _, header := range a.header.Values("Link") {
		for {
			_, after, _ := strings.Cut(header, "<")
			target, rest, ok := strings.Cut(after, ">")
			if !ok {
				break
			}
			params, rest, _ := strings.Cut(rest, ",")
			header = rest
			if !isNext(params) {
				continue
			}
			u, err := a.url.Parse(target)
			if err != nil {
				return nil, errors.New("the Link header has no URL")
			}
			if u.Host != a.url.Host {
				return nil, errors.New("the Link header leads to another host")
			}
			return u, nil
		}
	}
	return nil, nil
}

func isNext(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(k, "rel") && strings.EqualFold(strings.Trim(v, `"`), "next") {
			return true
		}
	}
	return false
}

// Referrers returns the descriptors of the manifests whose subject is digest,
// as the registry lists them: by the referrers API, or where there is none from
// the fallback tag (distribution-spec, "Listing Referrers"). None is no error.
//
// Do not filter by ArtifactType: go-containerregistry's registry puts the
// config's media type there. Entries that make no descriptor do not hide the
// others: those are returned, beside an error that is ErrMalformed.
func (c *Client) Referrers(ctx context.Context, repo, digest string) ([]v1.Descriptor, error) {
	l, err := c.Listing(ctx, repo, digest)
	return l.Descriptors, err
}

// Listing is a list of referrers as it was read, for Extend to add to.
type Listing struct {
	Descriptors []v1.Descriptor
	fallback    *index    // what the fallback tag names; nil where the registry keeps the list
	at          time.Time // when it was read
}

// Listing is Referrers, with what adding to the list takes.
func (c *Client) Listing(ctx context.Context, repo, digest string) (Listing, error) {
	q, err := referrersRequest(repo, digest)
	if err != nil {
		return Listing{}, err
	}
	if list, supported, err := c.askReferrers(ctx, q); supported {
		return Listing{Descriptors: list}, err
	}
	x, err := c.fallback(ctx, repo, digest)
	if err != nil {
		return Listing{}, err
	}
	list, err := x.descriptors(q)
	return Listing{list, x, time.Now()}, err
}

// ReferrersAPI is Referrers by the referrers API alone. It is ErrUnsupported
// where there is none, which costs one request for each repository: which
// fallback tags it has stands in its listing of tags. It is ErrNotFound where
// the answer tells nothing of the API, because digest is not there.
func (c *Client) ReferrersAPI(ctx context.Context, repo, digest string) ([]v1.Descriptor, error) {
	q, err := referrersRequest(repo, digest)
	if err != nil {
		return nil, err
	}
	if list, supported, err := c.askReferrers(ctx, q); supported {
		return list, err
	}
	if has, known := c.hasReferrers(q.at); has || !known {
		return nil, q.bad(ErrNotFound, "the registry does not have what they would refer to")
	}
	return nil, q.bad(ErrUnsupported, "the registry has no referrers API")
}

func referrersRequest(repo, digest string) (request, error) {
	at, err := parseRepository(repo)
	if err != nil {
		return request{}, err
	}
	q := request{
		op: "list referrers", ref: digest, at: at, access: pull,
		method: http.MethodGet, path: at.repo.RepositoryStr() + "/referrers/" + digest,
		accept: string(types.OCIImageIndex), want: []int{http.StatusOK}, limit: maxManifest,
	}
	if _, err := v1.NewHash(digest); err != nil {
		return q, q.bad(ErrMalformed, err.Error())
	}
	return q, nil
}

// askReferrers asks the referrers API, unless it is known that there is none.
func (c *Client) askReferrers(ctx context.Context, q request) (list []v1.Descriptor, supported bool, err error) {
	if has, known := c.hasReferrers(q.at); known && !has {
		return nil, false, nil
	}
	return c.referrersAPI(ctx, q)
}

func (c *core) hasReferrers(at place) (has, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	has, known = c.referrers[at.key()]
	return has, known
}

func (c *core) learnReferrers(at place, has bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.referrers[at.key()] = has
}

// errUnlearned is a registry that says that it has no referrers API, and has.
var errUnlearned = errors.New("the registry says that it has no referrers API")

func (c *Client) referrersAPI(ctx context.Context, q request) (list []v1.Descriptor, supported bool, err error) {
	a, err := c.do(ctx, q)
	if err != nil && lacksReferrers(a) {
		// An existing API answers 404 to nothing, but some say so of a repository
		// or manifest that is not there: that teaches nothing about the API.
		if a.hasCode(transport.NameUnknownErrorCode, transport.ManifestUnknownErrorCode) {
			return nil, false, nil
		}
		if has, _ := c.hasReferrers(q.at); has {
			// It listed some before: a proxy's answer must not make everything that
			// it lists look gone.
			return nil, true, q.bad(errUnlearned, "it had one before")
		}
		c.learnReferrers(q.at, false)
		return nil, false, nil
	}
	walk, size, odd := pager{pages: maxReferrersPages}, 0, error(nil)
	for {
		if err != nil {
			return nil, true, err
		}
		page, err2 := q.index(a)
		if err2 != nil {
			return nil, true, err2
		}
		c.learnReferrers(q.at, true)
		if size += len(a.body); size > maxReferrers {
			return nil, true, q.bad(ErrTooLarge, "the referrers are too many")
		}
		found, err2 := page.descriptors(q)
		list, odd = append(list, found...), errors.Join(odd, err2)
		next, more, err2 := walk.next(q, a, nil)
		if err2 != nil {
			return nil, true, err2
		}
		if !more {
			return list, true, odd
		}
		q = next
		a, err = c.do(ctx, q)
	}
}

// lacksReferrers reports whether an answer says that there is no such API.
func lacksReferrers(a answer) bool {
	switch a.status {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	case http.StatusBadRequest:
		return a.hasCode(transport.UnsupportedErrorCode, "METHOD_UNKNOWN")
	}
	return false
}

// fallbackTag is the referrers tag of a digest (distribution-spec, "Referrers
// Tag Schema"). A tag is no longer than 128 characters, hence the cuts.
func fallbackTag(digest string) string {
	algorithm, encoded, _ := strings.Cut(digest, ":")
	return algorithm[:min(len(algorithm), 32)] + "-" + encoded[:min(len(encoded), 64)]
}

// fallback reads the fallback index of a digest, an empty one if there is none.
func (c *Client) fallback(ctx context.Context, repo, digest string) (*index, error) {
	m, err := c.Manifest(ctx, repo, fallbackTag(digest))
	if errors.Is(err, ErrNotFound) {
		return newIndex(), nil
	}
	if err != nil {
		return nil, err
	}
	at, err := parseRepository(repo)
	if err != nil {
		return nil, err
	}
	q := request{op: "read the referrers index", at: at, ref: fallbackTag(digest)}
	if types.MediaType(m.MediaType) != types.OCIImageIndex {
		return nil, q.bad(ErrMalformed, "it is no image index but "+m.MediaType)
	}
	return q.parseIndex(m.Raw)
}

// Descriptors returns what an image index or manifest list lists, in its order.
// Entries that make no descriptor do not hide the others: those are returned,
// beside an error that is ErrMalformed.
func Descriptors(repo string, m Manifest) ([]v1.Descriptor, error) {
	q := request{op: "read the index", at: place{name: repo}, ref: m.Digest}
	x, err := q.parseIndex(m.Raw)
	if err != nil {
		return nil, err
	}
	return x.descriptors(q)
}

// index is an image index whose every field and entry is kept as it is.
type index struct {
	fields    map[string]json.RawMessage
	manifests []json.RawMessage
}

func newIndex() *index {
	return &index{fields: map[string]json.RawMessage{
		"schemaVersion": json.RawMessage("2"),
		"mediaType":     json.RawMessage(`"` + string(types.OCIImageIndex) + `"`),
	}}
}

// index reads an answer of the referrers API.
func (q request) index(a answer) (*index, error) {
	kind, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	if kind != string(types.OCIImageIndex) && !isGeneric(kind) {
		return nil, q.bad(ErrMalformed, fmt.Sprintf("the answer is no image index but %q", kind))
	}
	return q.parseIndex(a.body)
}

func (q request) parseIndex(raw []byte) (*index, error) {
	x := &index{}
	if err := json.Unmarshal(raw, &x.fields); err != nil {
		return nil, q.bad(ErrMalformed, "the image index is no JSON object")
	}
	list, ok := x.fields["manifests"]
	if !ok {
		return nil, q.bad(ErrMalformed, "the image index has no manifests")
	}
	if err := json.Unmarshal(list, &x.manifests); err != nil {
		return nil, q.bad(ErrMalformed, "the manifests of the image index are no list")
	}
	return x, nil
}

func (x *index) descriptors(q request) ([]v1.Descriptor, error) {
	var list []v1.Descriptor
	odd := 0
	for _, raw := range x.manifests {
		var d v1.Descriptor
		if err := json.Unmarshal(raw, &d); err != nil || d.Digest.Hex == "" {
			odd++
			continue
		}
		list = append(list, d)
	}
	if odd > 0 {
		return list, q.bad(ErrMalformed, fmt.Sprintf("%d of the entries are no descriptors", odd))
	}
	return list, nil
}

// checkDigest returns the digest of an answer, after comparing it with the one
// asked for, or else with the one the registry announced.
func (q request) checkDigest(a answer) (string, error) {
	want, err := v1.NewHash(q.ref)
	if err != nil {
		want, err = v1.NewHash(a.header.Get("Docker-Content-Digest"))
	}
	if err != nil {
		return digestOf(a.body), nil
	}
	got, err := digestBy(want.Algorithm, a.body)
	if err != nil {
		return "", q.bad(ErrMalformed, err.Error())
	}
	if got != want.String() {
		return "", q.bad(ErrDigest, "wanted "+want.String()+", got "+got)
	}
	if isDigest(q.ref) {
		return got, nil
	}
	return digestOf(a.body), nil
}

func isDigest(reference string) bool { return strings.Contains(reference, ":") }

func digestOf(content []byte) string {
	d, _ := digestBy("sha256", content) // always known
	return d
}

func digestBy(algorithm string, content []byte) (string, error) {
	h, err := v1.Hasher(algorithm)
	if err != nil {
		return "", err
	}
	h.Write(content)
	return algorithm + ":" + hex.EncodeToString(h.Sum(nil)), nil
}

// mediaType returns a manifest's media type. Where header and content both
// name one they must agree: a manifest that can be read as two things may be
// signed as one and run as the other (CVE-2021-41190).
func (q request) mediaType(a answer) (string, error) {
	var manifest struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(a.body, &manifest); err != nil {
		return "", q.bad(ErrMalformed, "the answer is no manifest: is this a registry?")
	}
	said, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	switch {
	case isGeneric(said) && manifest.MediaType != "":
		return manifest.MediaType, nil
	case isGeneric(said):
		return "", q.bad(ErrMalformed, "neither the answer nor the manifest has a media type")
	case manifest.MediaType != "" && manifest.MediaType != said:
		return "", q.bad(ErrMalformed, fmt.Sprintf("the registry says %q, the manifest %q", said, manifest.MediaType))
	}
	return said, nil
}

// isGeneric reports whether a content type says nothing about what is in it.
func isGeneric(contentType string) bool {
	switch contentType {
	case "", "application/json", "text/plain", "application/octet-stream":
		return true
	}
	return false
}

// checkReference keeps out what would make another URL of the request.
func (q request) checkReference() error {
	if isDigest(q.ref) {
		if _, err := v1.NewHash(q.ref); err != nil {
			return q.bad(ErrMalformed, err.Error())
		}
		return nil
	}
	if !isTag(q.ref) {
		return q.bad(ErrMalformed, "the reference is neither a tag nor a digest")
	}
	return nil
}

// isTag checks [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127} (distribution-spec, "Pulling manifests").
func isTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		b := s[i]
		alnum := 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9'
		if !alnum && b != '_' && b != '.' && b != '-' {
			return false
		}
	}
	return true
}
