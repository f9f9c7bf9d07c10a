//go:build e2e && linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/internal/sandbox"
)

// TestTUFBundle carries a repository across an air gap, and has cosign's clients start from every root there ever was.
func TestTUFBundle(t *testing.T) {
	w := &world{T: t, dir: t.TempDir(), host: freeAddress(t)}
	w.check(os.Mkdir(w.path("home"), 0o700))
	w.check(w.cosign2("generate-key-pair", "--output-key-prefix", "bundle").failure())
	w.ok(w.cosign3("trusted-root", "create", "--out", "trusted_root.json"))
	w.ok(w.cosign3("signing-config", "create", "--out", "signing_config.json"))

	repo, err := sandbox.NewTUF(time.Now)
	w.check(err)
	w.check(repo.Put("trusted_root.json", []byte(w.read("trusted_root.json"))))
	w.check(repo.Put("signing_config.v0.2.json", []byte(w.read("signing_config.json"))))
	w.check(repo.Put("revocations/index.json", []byte("[]")))
	w.check(repo.Publish())
	w.check(sandbox.WriteFiles(w.path("published"), repo.Files()))
	w.ok(w.run("reseal", "tuf", "bundle", "export", "published", "one.tar.gz", "--key", "bundle.key"))

	// What signs a bundle is what cosign signs files with.
	unpack := exec.Command("tar", "-xzf", "one.tar.gz", "manifest.json", "manifest.json.sig")
	unpack.Dir = w.dir
	w.check(unpack.Run())
	for _, cosign := range []string{"cosign2", "cosign3"} {
		w.ok(w.run(cosign, "verify-blob", "--key", "bundle.pub", "--signature", "manifest.json.sig", "--insecure-ignore-tlog", "manifest.json"))
	}

	w.ok(w.run("reseal", "tuf", "bundle", "import", "one.tar.gz", "mirror", "--root", "published/1.root.json", "--key", "bundle.pub", "--apply"))
	repo.Lose("@carol")
	w.check(repo.Hold("root", 2, sandbox.TUFHolders...))
	w.check(repo.Rotate())
	repo.Lose(sandbox.TUFOnline)
	w.check(repo.Hold("snapshot", 1, sandbox.TUFOnline))
	w.check(repo.Hold("timestamp", 1, sandbox.TUFOnline))
	w.check(repo.Rotate())
	w.check(repo.Put("revocations/1.json", []byte("denied")))
	w.check(repo.Publish())
	w.check(sandbox.WriteFiles(w.path("published"), repo.Files()))

	port := w.host[strings.LastIndex(w.host, ":")+1:]
	mirror := "http://" + w.host
	w.serve(mirror+"/timestamp.json", "reseal", "tuf", "serve", "mirror", "--port", port)
	for _, cosign := range []string{"cosign2", "cosign3"} { // they have seen the first state
		w.check(os.Mkdir(w.path("home-"+cosign), 0o700))
		w.ok(w.with("HOME="+w.path("home-"+cosign)).run(cosign, "initialize", "--mirror", mirror, "--root", "published/1.root.json"))
	}
	w.ok(w.run("reseal", "tuf", "bundle", "export", "published", "two.tar.gz", "--key", "bundle.key"))
	w.ok(w.run("reseal", "tuf", "bundle", "import", "two.tar.gz", "mirror", "--apply"))
	w.ok(w.run("reseal", "tuf", "status", mirror, "--root", "published/1.root.json"))
	for _, cosign := range []string{"cosign2", "cosign3"} {
		w.ok(w.with("HOME="+w.path("home-"+cosign)).run(cosign, "initialize", "--mirror", mirror, "--root", "published/1.root.json"))
		for v := 1; v <= 3; v++ {
			home := w.path(fmt.Sprintf("home-%s-%d", cosign, v))
			w.check(os.Mkdir(home, 0o700))
			w.ok(w.with("HOME="+home).run(cosign, "initialize", "--mirror", mirror, "--root", fmt.Sprintf("published/%d.root.json", v)))
		}
	}
	w.check(w.run("reseal", "tuf", "bundle", "import", "one.tar.gz", "mirror", "--apply").unless(exitRefused))
}
