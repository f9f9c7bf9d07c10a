package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/reseal/reseal/internal/app"
	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/tuf"
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

// foundedBefore makes the repository trust in this directory as it was founded some days ago, with the key online.key.
// Whoever is asked signs for all of root, targets and revocations.
func foundedBefore(t *testing.T, days int, periods map[string]tuf.Period) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(t.TempDir())
	t.Setenv("COSIGN_PASSWORD", "secret-of-the-test")
	t.Setenv("HOME", t.TempDir())
	var said bytes.Buffer
	if code := run(t.Context(), []string{"reseal", "tuf", "key", "new", "online"}, nil, &said, &said); code != 0 {
		t.Fatal(said.String())
	}
	online, err := os.ReadFile("online.pub")
	must(err)
	var people []signer.Signer
	group := func(names ...string) tuf.Group {
		g := tuf.Group{Threshold: 2}
		for _, who := range names {
			_, key, err := ed25519.GenerateKey(nil)
			must(err)
			s, err := signer.InMemory(key)
			must(err)
			pem, err := cryptoutils.MarshalPublicKeyToPEM(key.Public())
			must(err)
			people, g.Holders = append(people, s), append(g.Holders, tuf.Holder{Name: who, Key: pem})
		}
		return g
	}
	o := tuf.Options{Now: func() time.Time { return time.Now().AddDate(0, 0, -days) }}
	holders := group("@alice", "@bob", "@carol")
	r, _, err := tuf.Init(t.Context(), "trust", o, tuf.Founding{By: "test", Reason: "founding", Root: holders, Targets: holders,
		Revocations: group("@dave", "@erin", "@frank"), Online: tuf.Online{Key: online, URI: "file:online"}, Periods: periods})
	must(err)
	request, err := r.Export()
	must(err)
	q, err := tuf.ReadRequest(request, nil, o)
	must(err)
	for _, s := range people {
		signed, err := q.Sign(t.Context(), s)
		must(err)
		_, err = r.Import(t.Context(), signed)
		must(err)
	}
	key, err := app.OpenKey(t.Context(), app.SignerOptions{Key: "online.key", Metadata: true, Password: func() ([]byte, error) { return []byte("secret-of-the-test"), nil }})
	must(err)
	_, err = r.Publish(t.Context(), key)
	must(err)
}

// TestRefreshNamesOfflineRoles has a cron job of refresh tell of the roles that it cannot sign.
func TestRefreshNamesOfflineRoles(t *testing.T) {
	const ago = 40
	for name, tc := range map[string]struct {
		periods map[string]tuf.Period
		line    string
		want    int
		named   []string // role, holders
		error   string
	}{
		"nothing is near": {want: 0},
		"revocations soon": {
			periods: map[string]tuf.Period{"revocations": {Expiry: ago + 10, Signing: 5}}, want: exitApproval,
			named: []string{"WARNING: revocations 1 expires on %s, %d days left: 2 of @dave @erin @frank must sign it anew"},
			error: "trust needs attention: expires soon: revocations",
		},
		"targets in its signing period, root soon": {
			periods: map[string]tuf.Period{"root": {Expiry: ago + 10, Signing: 5}, "targets": {Expiry: ago + 35, Signing: 36}}, want: exitApproval,
			named: []string{"WARNING: root 1 expires on %s, %d days left: 2 of @alice @bob @carol must sign it anew", "WARNING: targets 1 expires on %s, %d days left"},
			error: "trust needs attention: expires soon: root, targets",
		},
		"not so soon for whom it may concern": {
			periods: map[string]tuf.Period{"revocations": {Expiry: ago + 10, Signing: 5}}, line: "--warn-days 5", want: 0,
		},
		"a delegated role has expired": {
			periods: map[string]tuf.Period{"revocations": {Expiry: ago - 1, Signing: 5}, "targets": {Expiry: ago + 10, Signing: 5}}, want: exitRefused,
			named: []string{"ERROR: revocations 1 expired on %s, every client refuses it: 2 of @dave @erin @frank must sign it anew", "WARNING: targets 1 expires on"},
			error: "expired: revocations",
		},
		"targets has expired": {
			periods: map[string]tuf.Period{"targets": {Expiry: ago - 1, Signing: 5}, "revocations": {Expiry: ago + 10, Signing: 5}}, want: exitRefused,
			named: []string{"ERROR: targets 1 expired on %s", "WARNING: revocations 1 expires on"},
			error: "so that no client would follow",
		},
	} {
		t.Run(name, func(t *testing.T) {
			foundedBefore(t, ago, tc.periods)
			for _, line := range []string{"", "--online-key online.key --apply", "--online-key online.key --apply --json"} {
				var out, problems bytes.Buffer
				args := append(strings.Fields("reseal tuf refresh trust "+line), strings.Fields(tc.line)...)
				if code := run(t.Context(), args, nil, &out, &problems); code != tc.want {
					t.Errorf("%v: exit code %d, want %d\n%s%s", args, code, tc.want, out.String(), problems.String())
				}
				if out.Len() > 0 && strings.Contains(line, "--json") {
					var got struct {
						Timestamp bool
						Expiring  []expiring
					}
					if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Expiring == nil || len(got.Expiring) != len(tc.named) {
						t.Errorf("%v: %v: %s", args, err, out.String())
					}
					for _, x := range got.Expiring {
						if x.Severity == "" || x.Threshold != 2 || len(x.Holders) != 3 || x.Expires.IsZero() || x.DaysLeft > 35 {
							t.Errorf("%v: %+v", args, x)
						}
					}
					continue
				}
				for _, want := range tc.named {
					want = strings.ReplaceAll(regexp.QuoteMeta(want), "%s", `20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
					want = strings.ReplaceAll(want, "%d", `\d+`)
					if !regexp.MustCompile(`(?m)^` + want).MatchString(problems.String()) {
						t.Errorf("%v: no line %s\n%s", args, want, problems.String())
					}
				}
				if n := strings.Count(problems.String(), "must sign it anew"); n != len(tc.named) {
					t.Errorf("%v: %d roles are named, want %d\n%s", args, n, len(tc.named), problems.String())
				}
				if line != "" && !strings.Contains(problems.String(), tc.error) {
					t.Errorf("%v: does not say %q\n%s", args, tc.error, problems.String())
				}
			}
		})
	}
}

// TestRenderedRunbook reads on paper as it was written: in lines.
func TestRenderedRunbook(t *testing.T) {
	t.Parallel()
	var out, problems bytes.Buffer
	if code := run(context.Background(), []string{"reseal", "runbook", "render", "tuf-expired"}, nil, &out, &problems); code != 0 {
		t.Fatalf("exit code %d: %s", code, problems.String())
	}
	if got := out.String(); strings.Contains(got, `\u{`) || !strings.Contains(got, "\n1. Look at the repository\n") {
		t.Errorf("%q", got)
	}
}
