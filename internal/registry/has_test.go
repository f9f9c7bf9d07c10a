package registry

import (
	"errors"
	"net/http"
	"slices"
	"testing"
)

func TestHasBlob(t *testing.T) {
	t.Parallel()
	c, rec, _ := newTestClient(t, Options{})
	host := serve(t, fakeHandler(true))
	repo, content := host+"/acme/app", []byte("content")
	digest := must[string](t)(c.PutBlob(t.Context(), repo, content))
	rec.take()
	for d, want := range map[string]bool{digest: true, digestOf([]byte("none")): false} {
		if has := must[bool](t)(c.HasBlob(t.Context(), repo, d)); has != want {
			t.Errorf("%s: %v, want %v", d, has, want)
		}
		if got, want := rec.take(), []string{"HEAD /v2/acme/app/blobs/" + d}; !slices.Equal(got, want) {
			t.Errorf("requests %q, want %q", got, want)
		}
	}
	if has := must[bool](t)(ReadOnly(c).HasBlob(t.Context(), repo, digest)); !has {
		t.Error("a rehearsal does not look")
	}

	// What was uploaded and is gone is uploaded again.
	rec.inject("HEAD", 1, reply(http.StatusNotFound, "application/json", ""))
	if has := must[bool](t)(c.HasBlob(t.Context(), repo, digest)); has {
		t.Error("it is not there")
	}
	rec.take()
	must[string](t)(c.PutBlob(t.Context(), repo, content))
	if got := rec.take(); len(got) == 0 {
		t.Error("it was not uploaded again")
	}

	for status, kind := range map[int]error{http.StatusForbidden: ErrDenied, http.StatusMethodNotAllowed: nil} {
		rec.inject("HEAD", 1, reply(status, "application/json", ""))
		has, err := c.HasBlob(t.Context(), repo, digest)
		if has || err == nil || kind != nil && !errors.Is(err, kind) {
			t.Errorf("%d: %v, %v", status, has, err)
		}
	}
	rec.inject("HEAD", 1, reply(http.StatusNotFound, "text/html", "<html>"))
	if _, err := c.HasBlob(t.Context(), repo, digest); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("a web page says that it is not there: %v", err)
	}
	for _, bad := range []string{"", "sha256:x", "sha256:../../x", "tag"} {
		if _, err := c.HasBlob(t.Context(), repo, bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := c.HasBlob(t.Context(), "app", digest); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}
