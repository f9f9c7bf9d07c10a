package tuf

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestServe(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	for name, content := range map[string]string{"timestamp.json": "{}", ".secret": "no", "targets/a/b.txt": "b", "2.a%2Fb.json": "{}", "targets/.hidden/x": "no"} {
		check(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	check(t, os.WriteFile(filepath.Join(outside, "x"), []byte("no"), 0o644))
	check(t, os.Symlink(filepath.Join(outside, "x"), filepath.Join(dir, "link")))
	check(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, dir) }()
	url := "http://" + l.Addr().String()
	client := &http.Client{Timeout: 10 * time.Second}
	for path, want := range map[string]string{
		"/timestamp.json": "200 {}", "/targets/a/b.txt": "200 b", "/2.a%2Fb.json": "200 {}",
		"/": "404", "/targets/": "404", "/targets": "404", "/9.root.json": "404", "/.secret": "404", "/targets/.hidden/x": "404",
		"/link": "404", "/pipe": "404", "/targets/%2e%2e/.secret": "404", "/%2e%2e/%2e%2e/etc/passwd": "404", "/..%2f..%2fetc%2fpasswd": "404",
	} {
		resp, err := client.Get(url + path)
		check(t, err)
		body, err := io.ReadAll(resp.Body)
		check(t, err)
		resp.Body.Close()
		got := resp.Status[:3] + " " + string(body)
		if !strings.HasPrefix(got, want) || strings.Contains(got, "no") && want != "404" {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	resp, err := http.Post(url+"/timestamp.json", "text/plain", strings.NewReader("x"))
	check(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", resp.Status)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
	if _, err := http.Get(url + "/timestamp.json"); err == nil {
		t.Error("it still answers")
	}
	if err := Serve(t.Context(), l, filepath.Join(dir, "none")); err == nil {
		t.Error("it serves what is not there")
	}
}
