package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/internal/sandbox"
)

// TestStatusOfSigstore prints the real history of Sigstore's root.
func TestStatusOfSigstore(t *testing.T) {
	t.Parallel()
	const dir = "../../../shared/data/sigstore-root-signing"
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the real Sigstore roots are not there: ../shared/data/sigstore-root-signing beside the repository")
	}
	var out, problems bytes.Buffer
	// Only the roots are in the data, and by now the last one may have expired.
	if code := run(context.Background(), []string{"reseal", "tuf", "status", "--history", dir}, nil, &out, &problems); code != exitRefused {
		t.Errorf("exit code %d: %s", code, problems.String())
	}
	t.Logf("\n%s", out.String())
	if !strings.Contains(out.String(), "roots 1 to 15: whole") {
		t.Error("the chain is not whole")
	}
	for _, want := range []string{
		`(?m)^1 +\? +2021-12-18  3 of 5  @dlorenc bdde902f @mnm678 @santiagotorres @bobcallaway`,
		`(?m)^4 +\? +2023-01-12  3 of 5 .* \+@joshuagl −bdde902f$`,
		`(?m)^5 +\? .* root: the same keys under new ids$`,
		`(?m)^13 +2025-07-09 +2026-01-22  3 of 5 .* \+@lance −@dlorenc$`,
		`(?m)^15 +2026-05-07 +2026-11-20  3 of 5  @mnm678 @santiagotorres @bobcallaway @joshuagl @lance`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no line %s", want)
		}
	}
}

// TestDenialInSeconds measures the time from the command that denies a digest to a client that has refreshed and refuses
// it, with the keys of two responders and the online key, while the holders of root and targets are asleep.
func TestDenialInSeconds(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	t.Setenv("COSIGN_PASSWORD", "secret-of-the-test")
	t.Setenv("RESEAL_ACTOR", "carol")
	t.Chdir(dir)
	w, err := sandbox.Start(ctx, sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	release, err := w.NewActor("release")
	if err != nil {
		t.Fatal(err)
	}
	image, err := w.PushImage(ctx, "acme/app", "v1", "EVIL")
	if err != nil {
		t.Fatal(err)
	}
	if err := release.SignBundle(ctx, image, sandbox.NoProof); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("release.pub", release.PublicKeyPEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	do := func(want int, line ...string) string {
		t.Helper()
		var out, problems bytes.Buffer
		if code := run(ctx, append([]string{"reseal"}, line...), nil, &out, &problems); code != want {
			t.Fatalf("%v: exit code %d, want %d: %s", line, code, want, problems.String())
		}
		return out.String() + problems.String()
	}
	for _, who := range []string{"alice", "bob", "carol", "dave", "erin", "online"} {
		do(0, "tuf", "key", "new", who)
	}
	do(0, "tuf", "init", "trust", "--holder", "@alice=alice.pub", "--holder", "@bob=bob.pub", "--holder", "@carol=carol.pub",
		"--responder", "@dave=dave.pub", "--responder", "@erin=erin.pub", "--responder-threshold", "2", "--online", "online.pub", "--reason", "founding")
	for _, who := range []string{"alice", "bob", "dave", "erin"} {
		do(0, "tuf", "sign", "trust", "--first", "--key", who+".key", "--yes")
	}
	do(0, "tuf", "publish", "trust", "--online-key", "online.key", "--apply")
	for _, who := range []string{"alice", "bob", "carol"} {
		if err := os.Remove(who + ".key"); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(http.FileServer(http.Dir("trust/published")))
	t.Cleanup(server.Close)
	t.Setenv("RESEAL_HOME", "client")
	do(0, "init", "--approver", "alice=alice.pub", "--approver", "bob=bob.pub", "--proposer", "carol=carol.pub", "--signer", "release=release.pub")
	verify := []string{"verify", image.String(), "--tuf-url", server.URL, "--tuf-root", "trust/published/1.root.json"}
	do(0, verify...)

	start := time.Now()
	t.Setenv("RESEAL_HOME", "")
	t.Setenv("HOME", dir)
	do(0, "tuf", "revoke", "trust", image.DigestStr(), "--reason", "leaked key", "--key", "dave.key", "--key", "erin.key", "--online-key", "online.key", "--apply")
	published := time.Since(start)
	t.Setenv("RESEAL_HOME", "client")
	if said := do(exitRefused, verify...); !strings.Contains(said, "the digest is denied") {
		t.Errorf("refused for another reason: %s", said)
	}
	took := time.Since(start)
	t.Logf("from the command to a client that refuses the digest: %s (published after %s)", took.Round(time.Millisecond), published.Round(time.Millisecond))
	if took > time.Minute {
		t.Errorf("a denial takes %s", took)
	}
}
