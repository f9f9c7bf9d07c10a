//go:build e2e && linux

package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// evidence anchors the journal, packs what was done about the incident, has the
// pack verified by reseal and by a program that shares no code with it, and
// closes the incident, under which so many signatures were made. It returns how
// many files were tampered with.
func (w *world) evidence(signed int) int {
	w.Helper()
	w.ok(w.reseal("journal", "anchor", "--file", "kept-checkpoint", "--image", w.host+"/audit/reseal", "--timestamp-server-url", w.tsa))
	w.ok(w.reseal("journal", "verify", "--checkpoint", "kept-checkpoint"))
	r := w.exits(w.reseal("incident", "close", "INC-1", "--reason", "recovered"), 5)
	if !strings.Contains(r.stdout, "evidence pack is not sealed") || strings.Count(r.stdout, "missing:") != 1 {
		w.Errorf("closing misses other things: %s", r)
	}

	if r := w.ok(w.reseal("report", "INC-1")); strings.Count(r.stdout, fmt.Sprintf("%d signatures, the last on", signed)) != 1 {
		w.Errorf("the report does not tell %d signatures as one event: %s", signed, r)
	}
	w.ok(w.reseal("evidence", "pack", "INC-1", "evidence"))
	w.ok(w.reseal("evidence", "pack", "INC-1", "evidence.tar"))
	w.ok(w.reseal("incident", "close", "INC-1", "--reason", "recovered"))
	stranger := w.path("verify-pack")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", stranger, "../../testdata/verify-pack")
	if out, err := build.CombinedOutput(); err != nil {
		w.Fatalf("building the second verifier: %v: %s", err, out)
	}
	verified := func(path string) (ours, theirs int) {
		ours = w.run("reseal", "evidence", "verify", path, "--key", "reseal/journal.pub").code
		cmd := exec.Command(stranger, w.path(path), w.path("reseal", "journal.pub"))
		if err := cmd.Run(); err != nil {
			theirs = cmd.ProcessState.ExitCode()
		}
		return ours, theirs
	}
	for _, path := range []string{"evidence", "evidence.tar"} {
		if ours, theirs := verified(path); ours != 0 || theirs != 0 {
			w.Errorf("%s: reseal exits with %d, the other program with %d", path, ours, theirs)
		}
	}
	tampered := 0
	w.check(filepath.WalkDir(w.path("evidence"), func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		at := len(content) / 2
		content[at] ^= 1
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return err
		}
		if ours, theirs := verified("evidence"); ours != 3 || theirs == 0 {
			w.Errorf("%s with byte %d flipped: reseal exits with %d, the other program with %d", file, at, ours, theirs)
		}
		content[at] ^= 1
		tampered++
		return os.WriteFile(file, content, 0o644)
	}))
	if ours, theirs := verified("evidence"); ours != 0 || theirs != 0 {
		w.Errorf("put right again: reseal exits with %d, the other program with %d", ours, theirs)
	}
	return tampered
}
