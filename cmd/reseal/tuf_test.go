package main

import (
	"bytes"
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
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
