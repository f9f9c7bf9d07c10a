package tuf

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/reseal/reseal/internal/durable"
)

// Serve gives a published repository to clients on this machine, for trying, until ctx ends; requests that are being
// answered then are finished. It serves files and nothing else: no listings, nothing whose name begins with a dot, and
// nothing outside the directory, wherever a symbolic link leads. What is not there is 404, which is what tells clients
// that they know the newest root (TUF specification 5.3.3). Of a repository's own directory it serves what that publishes.
func Serve(ctx context.Context, l net.Listener, dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "metadata")); err == nil {
		dir = filepath.Join(dir, "published")
	}
	root, err := durable.OpenRoot(dir)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer root.Close()
	server := &http.Server{
		Handler:           plain(root),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      10 * time.Minute,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(last); err != nil {
		return errors.Join(err, server.Close())
	}
	return nil
}

// plain serves the regular files of a directory.
func plain(root *os.Root) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		name := strings.TrimPrefix(path.Clean("/"+r.URL.Path), "/")
		if name == "" || strings.HasPrefix(name, ".") || strings.Contains(name, "/.") {
			http.NotFound(w, r)
			return
		}
		f, err := durable.OpenIn(root, escaped(root, name, r.URL.EscapedPath()))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Cache-Control", "no-cache") // a repository that is being tried changes
		w.Header().Set("Content-Type", "application/octet-stream")
		if strings.HasSuffix(name, ".json") {
			w.Header().Set("Content-Type", "application/json")
		}
		http.ServeContent(w, r, "", st.ModTime(), f)
	})
}

// escaped returns the name under which a file is stored: that of the metadata of a role is escaped, and clients ask for
// it in that form.
func escaped(root *os.Root, name, asked string) string {
	raw := strings.TrimPrefix(path.Clean(asked), "/")
	if raw != name && raw != "" && !strings.HasPrefix(raw, ".") && !strings.Contains(raw, "/.") {
		if _, err := root.Stat(raw); err == nil {
			return raw
		}
	}
	return name
}
