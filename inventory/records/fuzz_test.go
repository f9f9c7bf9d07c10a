package records

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"iter"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/reseal/reseal/inventory"
)

// checkRecords holds what every record promises, and that reading it again
// gives the same.
func checkRecords(t *testing.T, data []byte, kind inventory.RecordKind, parse func([]byte) iter.Seq2[inventory.Record, error]) []inventory.Record {
	t.Helper()
	list, problems := collect(parse(data))
	again, problemsAgain := collect(parse(data))
	if !slices.Equal(list, again) || !slices.Equal(problems, problemsAgain) {
		t.Fatalf("read twice: %+v %q and %+v %q", list, problems, again, problemsAgain)
	}
	for _, r := range list {
		if id, err := hex.DecodeString(r.ID); err != nil || len(id) != 32 || r.Kind != kind || r.Source == "" || r.Time.Location() != time.UTC || r.Time.Year() < 1 || r.Time.Year() > 9999 {
			t.Fatalf("got %+v", r)
		}
		for _, d := range []string{r.Digest, r.Message} {
			if d != "" && inventory.CheckDigest(d) != nil {
				t.Fatalf("digest %q", d)
			}
		}
		for _, text := range []string{r.Signer, r.Key, r.Run, r.Principal} {
			if !utf8.ValidString(text) || len(text) > maxText {
				t.Fatalf("text %q", text)
			}
		}
		if kind == inventory.RecordKMS && (r.Digest != "" || r.Key == "" && !r.Failed) || kind == inventory.RecordCI && (r.Digest == "" || r.Run == "") {
			t.Fatalf("got %+v", r)
		}
	}
	for _, p := range problems {
		if p == "" || len(p) > 8<<10 {
			t.Fatalf("problem of %d bytes: %.100q", len(p), p)
		}
	}
	return list
}

func FuzzCI(f *testing.F) {
	f.Add([]byte(ciLine(`,"signer":"release"`) + "\n" + ciLine(`,"principal":"p"`)))
	f.Add([]byte(ciLine(`,"signer":"key:sha256:` + hex64("0") + `"`)))
	f.Add([]byte("{}\n\xef\xbb\xbf{\"digest\":"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, r := range checkRecords(t, data, inventory.RecordCI, func(b []byte) iter.Seq2[inventory.Record, error] { return CI(bytes.NewReader(b)) }) {
			line, err := json.Marshal(map[string]string{"digest": r.Digest, "run": r.Run, "time": r.Time.Format(time.RFC3339Nano), "signer": r.Signer, "principal": r.Principal})
			if err != nil {
				t.Fatal(err)
			}
			if again, problems := collect(CI(bytes.NewReader(line))); len(problems) > 0 || len(again) != 1 || again[0] != r {
				t.Fatalf("%s: got %+v, %q, want %+v", line, again, problems, r)
			}
		}
	})
}

func FuzzCloudTrail(f *testing.F) {
	text := fixture(f, "cloudtrail.json")
	f.Add([]byte(text))
	f.Add([]byte(compact(f, text)))
	f.Add([]byte(`{"Events":[{"CloudTrailEvent":"{\"eventSource\":\"kms.amazonaws.com\",\"eventName\":\"Sign\",\"eventID\":\"e\",\"eventTime\":\"2026-05-11T19:20:00Z\",\"requestParameters\":{\"keyId\":\"k\"}}"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		checkRecords(t, data, inventory.RecordKMS, func(b []byte) iter.Seq2[inventory.Record, error] { return CloudTrail(bytes.NewReader(b)) })
	})
}

func FuzzGCPAudit(f *testing.F) {
	text := fixture(f, "gcp-audit.json")
	f.Add([]byte(text))
	f.Add([]byte(compact(f, text)))
	f.Add([]byte(`{"entries":null}` + "\n7\n[[]]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		checkRecords(t, data, inventory.RecordKMS, func(b []byte) iter.Seq2[inventory.Record, error] { return GCPAudit(bytes.NewReader(b)) })
	})
}

// checkRunning holds that what runs has a digest, or says why not.
func checkRunning(t *testing.T, list []Running) {
	t.Helper()
	for _, r := range list {
		if (r.Digest == "") == (r.Why == "") || r.Digest != "" && inventory.CheckDigest(r.Digest) != nil {
			t.Fatalf("got %+v", r)
		}
	}
}

func FuzzPods(f *testing.F) {
	text := fixture(f, "pods.json")
	f.Add([]byte(text))
	f.Add([]byte(compact(f, text)))
	f.Add([]byte(`{"kind":"Pod","spec":{"containers":[{"name":"c","image":"sha256:` + hex64("a") + `"}]},"status":{"containerStatuses":[{"name":"c","imageID":"x://a@sha256:` + hex64("b") + `"}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, _ := collect(Pods(bytes.NewReader(data)))
		checkRunning(t, list)
	})
}

func FuzzRunningList(f *testing.F) {
	f.Add([]byte("# x\nr.example/app:v1@" + digest("a") + "\n" + digest("b") + "\nnginx"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, _ := collect(List(bytes.NewReader(data)))
		checkRunning(t, list)
		for _, r := range list {
			line := r.Digest
			if r.Repository != "" {
				line = r.Repository + "@" + r.Digest
			}
			if again, problems := collect(List(bytes.NewReader([]byte(line)))); len(problems) > 0 || len(again) != 1 || again[0] != r {
				t.Fatalf("%q: got %+v, %q, want %+v", line, again, problems, r)
			}
		}
	})
}
