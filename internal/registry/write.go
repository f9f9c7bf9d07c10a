package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// What a rehearsal's Would.Op says, and error texts begin with.
const (
	opPutBlob     = "put blob"
	opPutManifest = "put manifest"
	opAttach      = "attach"
	opDetach      = "delete referrer"
	opDelete      = "delete"
)

// maxMonolithic is up to which size content goes along with the first request,
// in bytes. A registry that does not take it so closes the connection on a
// large body, which can hide its answer.
const maxMonolithic = 128 << 10

// PutBlob uploads content and returns its digest. In one request where the
// registry takes it, in two otherwise, and in none when this process uploaded
// it to this repository before (distribution-spec, "Pushing a blob monolithically").
func (c *Client) PutBlob(ctx context.Context, repo string, content []byte) (digest string, err error) {
	at, err := parseRepository(repo)
	if err != nil {
		return "", err
	}
	digest = digestOf(content)
	if c.would != nil {
		c.would.add(opPutBlob, repo, digest, digest)
		return digest, nil
	}
	if c.wasPushed(at, digest) {
		return digest, nil
	}
	for try := 1; ; try++ {
		again, err := c.upload(ctx, at, digest, content)
		if err == nil {
			break
		}
		if !again || try == maxAttempts || c.wire.sleep(ctx, c.wire.delay(try, nil)) != nil {
			return "", err
		}
	}
	c.setPushed(at, digest)
	return digest, nil
}

// upload uploads a blob. again reports whether to begin anew: an upload that
// was cut off at the end may have used up its URL.
func (c *Client) upload(ctx context.Context, at place, digest string, content []byte) (again bool, err error) {
	post := request{
		op: opPutBlob, ref: digest, at: at, access: push,
		method: http.MethodPost, path: at.repo.RepositoryStr() + "/blobs/uploads/",
		want: []int{http.StatusCreated, http.StatusAccepted}, limit: maxErrorBody,
		replay: true, // at worst an upload session is left over, which expires
	}
	if len(content) <= maxMonolithic && !c.isTwoStep(at) {
		post.query = url.Values{"digest": {digest}}
		post.contentType, post.body = "application/octet-stream", content
	}
	a, err := c.do(ctx, post)
	if err != nil {
		return false, err
	}
	if a.status == http.StatusCreated {
		return false, post.checkAnnounced(a, digest)
	}
	if post.body != nil {
		c.setTwoStep(at)
	}
	location, err := post.location(a)
	if err != nil {
		return false, err
	}
	put := request{
		op: opPutBlob, ref: digest, at: at, access: push,
		method: http.MethodPut, url: location, query: url.Values{"digest": {digest}},
		contentType: "application/octet-stream", body: content,
		want: []int{http.StatusCreated}, limit: maxErrorBody,
	}
	a, err = c.do(ctx, put)
	if err != nil {
		return errors.Is(err, ErrAmbiguous), err
	}
	return false, put.checkAnnounced(a, digest)
}

// location returns where an upload goes on. It can be on another host, to
// which no credentials go, but not without TLS where the registry has it.
func (q request) location(a answer) (*url.URL, error) {
	u, err := a.url.Parse(a.header.Get("Location"))
	if err != nil || a.header.Get("Location") == "" {
		return nil, q.bad(ErrMalformed, "the registry does not say where to upload to")
	}
	// The session corrects the scheme on the registry's own host, as is needed
	// behind a proxy that ends TLS.
	if u.Scheme != "https" && a.url.Scheme == "https" && u.Host != a.url.Host {
		return nil, q.bad(ErrMalformed, "the registry wants the upload without TLS on another host")
	}
	return u, nil
}

// checkAnnounced compares the digest of what was written with the one the
// registry says it wrote, if it says so.
func (q request) checkAnnounced(a answer, digest string) error {
	said := a.header.Get("Docker-Content-Digest")
	if h, err := v1.NewHash(said); err == nil && h.Algorithm == "sha256" && said != digest {
		return q.bad(ErrDigest, "wrote "+digest+", the registry has "+said)
	}
	return nil
}

// PutManifest writes a manifest under a tag or its digest and returns its
// digest. indexed reports whether the registry itself lists it as a referrer of
// its subject: it then answered OCI-Subject (distribution-spec, "Pushing
// Manifests with Subject"). When the outcome of writing a tag is unknown, it is
// not written again and the error is ErrAmbiguous. Nor is the writing of a tag
// put off: see Anew.
func (c *Client) PutManifest(ctx context.Context, repo, reference, mediaType string, raw []byte) (digest string, indexed bool, err error) {
	return c.putManifest(ctx, opPutManifest, repo, reference, mediaType, raw, "")
}

// putManifest is PutManifest, recorded in a rehearsal as op on ref.
func (c *Client) putManifest(ctx context.Context, op, repo, reference, mediaType string, raw []byte, ref string) (digest string, indexed bool, err error) {
	at, err := parseRepository(repo)
	if err != nil {
		return "", false, err
	}
	q := request{
		op: opPutManifest, ref: reference, at: at, access: push,
		method: http.MethodPut, path: at.repo.RepositoryStr() + "/manifests/" + reference,
		contentType: mediaType, body: raw,
		want: []int{http.StatusCreated, http.StatusOK, http.StatusAccepted}, limit: maxErrorBody,
		replay: isDigest(reference), prompt: !isDigest(reference),
	}
	if err := q.checkReference(); err != nil {
		return "", false, err
	}
	if len(raw) > maxManifest {
		return "", false, q.bad(ErrTooLarge, fmt.Sprintf("the manifest has %d bytes, the most is %d", len(raw), maxManifest))
	}
	digest = digestOf(raw)
	if isDigest(reference) && reference != digest {
		return "", false, q.bad(ErrMalformed, "the manifest is "+digest)
	}
	if c.would != nil {
		if ref == "" {
			ref = reference
		}
		c.would.add(op, repo, ref, digest)
		has, _ := c.hasReferrers(at)
		return digest, has, nil
	}
	a, err := c.do(ctx, q)
	if err != nil {
		if a.status == http.StatusBadRequest || a.status == http.StatusNotFound {
			c.forgetPushed(at) // a blob may have been collected meanwhile
		}
		return "", false, err
	}
	if err := q.checkAnnounced(a, digest); err != nil {
		return "", false, err
	}
	indexed = a.header.Get("OCI-Subject") != ""
	if indexed {
		c.learnReferrers(at, true)
	}
	return digest, indexed, nil
}

// Attach writes a manifest whose subject is the digest subject, and makes it
// be listed: where the registry does not do so itself, desc is added to the
// fallback index, whose other entries stay as they are, except for such as list
// what is gone where that makes the registry refuse the index. Digest, size and
// media type of desc are set here. Attaching again changes nothing.
//
// The fallback index is read-modify-write: hold Serialise.
func (c *Client) Attach(ctx context.Context, repo string, manifest []byte, mediaType string, desc v1.Descriptor, subject string) (digest string, err error) {
	digest = digestOf(manifest)
	at, err := parseRepository(repo)
	if err != nil {
		return "", err
	}
	q := request{op: opAttach, at: at, ref: digest}
	if err := q.checkSubject(manifest, subject); err != nil {
		return "", err
	}
	_, indexed, err := c.putManifest(ctx, opAttach, repo, digest, mediaType, manifest, subject)
	if err != nil || indexed {
		return digest, err
	}
	desc.MediaType = types.MediaType(mediaType)
	if desc.Digest, err = v1.NewHash(digest); err != nil {
		return digest, q.bad(ErrMalformed, err.Error())
	}
	desc.Size = int64(len(manifest))
	return digest, c.Extend(ctx, repo, subject, Listing{}, desc)
}

// Extend makes manifests be listed as referrers of subject, where PutManifest
// said that the registry does not do so itself: they are added to the fallback
// index, whose other entries stay as they are, except for such as list what is
// gone where that makes the registry refuse the index. l is the list as it was
// read a moment ago; the zero value has it read here. Extending again changes
// nothing.
//
// The fallback index is read-modify-write: hold Serialise.
func (c *Client) Extend(ctx context.Context, repo, subject string, l Listing, add ...v1.Descriptor) error {
	known := l.fallback
	if time.Since(l.at) > Old {
		known = nil
	}
	return anew(ctx, c.wire.sleep, func() error {
		x := known
		if known = nil; x == nil {
			var err error
			if x, err = c.fallback(ctx, repo, subject); err != nil {
				return err
			}
		}
		x = &index{fields: x.fields, manifests: slices.Clone(x.manifests)}
		changed := false
		for _, d := range add {
			if x.has(d.Digest.String()) {
				continue
			}
			if err := x.add(d); err != nil {
				return err
			}
			changed = true
		}
		if !changed {
			return nil
		}
		return c.putFallback(ctx, repo, subject, x)
	})
}

// checkSubject keeps a caller from attaching what a registry with a referrers
// API would not list, or would list under something else.
func (q request) checkSubject(manifest []byte, subject string) error {
	var m struct {
		Subject *v1.Descriptor `json:"subject"`
	}
	if err := json.Unmarshal(manifest, &m); err != nil {
		return q.bad(ErrMalformed, "the manifest is no JSON: "+err.Error())
	}
	if m.Subject == nil || m.Subject.Digest.String() != subject {
		return q.bad(ErrMalformed, "the manifest's subject is not "+subject)
	}
	return nil
}

// putFallback writes the fallback index of a digest. Registries refuse an index
// that lists what they do not have. Someone who deleted a referrer and left its
// entry would so keep everyone from signing: when an index is refused, entries
// that the registry itself says are not there are left out.
func (c *Client) putFallback(ctx context.Context, repo, subject string, x *index) error {
	for pruned := false; ; pruned = true {
		raw, err := x.marshal()
		if err != nil {
			return err
		}
		_, _, err = c.PutManifest(ctx, repo, fallbackTag(subject), string(types.OCIImageIndex), raw)
		if pruned || !Refused(err) {
			return err
		}
		if found, err2 := c.prune(ctx, repo, x); err2 != nil || !found {
			return err
		}
	}
}

// prune takes entries out of an index that are not in the registry.
func (c *Client) prune(ctx context.Context, repo string, x *index) (found bool, err error) {
	for _, raw := range slices.Clone(x.manifests) {
		digest := entryDigest(raw)
		if !isDigest(digest) {
			continue
		}
		_, err := c.Manifest(ctx, repo, digest)
		switch {
		case errors.Is(err, ErrNotFound):
			found = x.remove(digest) || found
		case err != nil:
			return false, err
		}
	}
	return found, nil
}

// Detach deletes the referrer digest of subject and takes it out of the
// fallback index if it is there. The index goes first, because registries
// refuse an index with entries that are not there. Detaching again changes nothing.
//
// The fallback index is read-modify-write: hold Serialise.
func (c *Client) Detach(ctx context.Context, repo, digest, subject string) error {
	if err := anew(ctx, c.wire.sleep, func() error {
		x, err := c.fallback(ctx, repo, subject)
		switch {
		case errors.Is(err, ErrMalformed):
			// What stands there is no list of referrers, so nothing is to be taken
			// out, and it must not protect the referrer from deletion.
		case err != nil:
			return err
		case x.remove(digest):
			return c.putFallback(ctx, repo, subject, x)
		}
		return nil
	}); err != nil {
		return err
	}
	return c.erase(ctx, opDetach, repo, digest, subject)
}

// Delete deletes a manifest by digest, or a tag. That it is not there is no error.
func (c *Client) Delete(ctx context.Context, repo, reference string) error {
	return c.erase(ctx, opDelete, repo, reference, reference)
}

func (c *Client) erase(ctx context.Context, op, repo, reference, ref string) error {
	at, err := parseRepository(repo)
	if err != nil {
		return err
	}
	q := request{
		op: op, ref: reference, at: at, access: erase,
		method: http.MethodDelete, path: at.repo.RepositoryStr() + "/manifests/" + reference,
		want:   []int{http.StatusAccepted, http.StatusOK, http.StatusNoContent, http.StatusNotFound},
		limit:  maxErrorBody,
		replay: isDigest(reference), prompt: !isDigest(reference), // a tag may be someone's new one by then
	}
	if err := q.checkReference(); err != nil {
		return err
	}
	if c.would != nil {
		digest := ""
		if isDigest(reference) {
			digest = reference
		}
		c.would.add(op, repo, ref, digest)
		return nil
	}
	_, err = c.do(ctx, q)
	return err
}

func (x *index) has(digest string) bool {
	return slices.ContainsFunc(x.manifests, func(raw json.RawMessage) bool { return entryDigest(raw) == digest })
}

func (x *index) add(d v1.Descriptor) error {
	raw, err := json.Marshal(d)
	x.manifests = append(x.manifests, raw)
	return err
}

func (x *index) remove(digest string) (removed bool) {
	before := len(x.manifests)
	x.manifests = slices.DeleteFunc(x.manifests, func(raw json.RawMessage) bool { return entryDigest(raw) == digest })
	return len(x.manifests) < before
}

func entryDigest(raw json.RawMessage) string {
	var entry struct {
		Digest string `json:"digest"`
	}
	if json.Unmarshal(raw, &entry) != nil {
		return ""
	}
	return entry.Digest
}

func (x *index) marshal() ([]byte, error) {
	fields := maps.Clone(x.fields)
	list := x.manifests
	if list == nil {
		list = []json.RawMessage{} // null is no list
	}
	var err error
	if fields["manifests"], err = encode(list); err != nil {
		return nil, err
	}
	return encode(fields)
}

// encode is json.Marshal that leaves <, > and & as they are.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

func (c *core) isTwoStep(at place) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.twoStep[at.registry.Name()]
}

func (c *core) setTwoStep(at place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.twoStep[at.registry.Name()] = true
}

func (c *core) wasPushed(at place, digest string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.pushed[at.key()+"@"+digest]
	return ok
}

// setPushed remembers a blob. What repeats, the empty config and the bundle of
// a batch, repeats soon: when the memory is full it starts over.
func (c *core) setPushed(at place, digest string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pushed) >= maxPushed {
		clear(c.pushed)
	}
	c.pushed[at.key()+"@"+digest] = struct{}{}
}

func (c *core) forgetPushed(at place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	prefix := at.key() + "@"
	maps.DeleteFunc(c.pushed, func(k string, _ struct{}) bool { return len(k) > len(prefix) && k[:len(prefix)] == prefix })
}
