package registry

import (
	"context"
	"net/http"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// HasBlob reports whether a repository has a blob (distribution-spec, "Checking
// if content exists in the registry").
func (c *Client) HasBlob(ctx context.Context, repo, digest string) (bool, error) {
	at, err := parseRepository(repo)
	if err != nil {
		return false, err
	}
	q := request{
		op: "head blob", ref: digest, at: at, access: pull,
		method: http.MethodHead, path: at.repo.RepositoryStr() + "/blobs/" + digest,
		want: []int{http.StatusOK, http.StatusNotFound},
	}
	if _, err := v1.NewHash(digest); err != nil {
		return false, q.bad(ErrMalformed, err.Error())
	}
	a, err := c.do(ctx, q)
	if err != nil {
		return false, err
	}
	if a.status == http.StatusNotFound {
		c.setLost(at, digest)
		return false, nil
	}
	return true, nil
}

// setLost forgets that a blob was uploaded: it was deleted since.
func (c *core) setLost(at place, digest string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pushed, at.key()+"@"+digest)
}
