package records

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"github.com/reseal/reseal/inventory"
)

// hex64 is the hex part of a digest, made of one character.
func hex64(c string) string { return strings.Repeat(c, 64) }

func digest(c string) string { return "sha256:" + hex64(c) }

// collect returns what a parser yields: values, and the errors one by one.
func collect[T any](seq iter.Seq2[T, error]) (list []T, problems []string) {
	for v, err := range seq {
		if err != nil {
			problems = append(problems, err.Error())
			continue
		}
		list = append(list, v)
	}
	return list, problems
}

func fixture(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// compact is a JSON text on one line.
func compact(t testing.TB, text string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// says fails unless there are exactly these problems, each told by a part of it.
func says(t testing.TB, problems []string, parts ...string) {
	t.Helper()
	if len(problems) != len(parts) {
		t.Fatalf("got problems %q, want %d that say %q", problems, len(parts), parts)
	}
	for i, part := range parts {
		if !strings.Contains(problems[i], part) {
			t.Errorf("problem %q does not say %q", problems[i], part)
		}
	}
}

func ciLine(fields string) string {
	return fmt.Sprintf(`{"digest":%q,"run":"https://ci.example.com/runs/42","time":"2026-05-11T19:20:00Z"%s}`, digest("a"), fields)
}

func TestCI(t *testing.T) {
	t.Parallel()
	list, problems := collect(CI(strings.NewReader("\ufeff" + ciLine(`,"signer":"release","principal":"alice@example.com"`) + "\r\n\n  " +
		ciLine(`,"signer":"keyless:sha256:`+hex64("0")+`"`) + "\n" + ciLine(""))))
	says(t, problems)
	when := time.Date(2026, 5, 11, 19, 20, 0, 0, time.UTC)
	for i, signer := range []string{"release", "keyless:sha256:" + hex64("0"), ""} {
		want := inventory.Record{ID: list[i].ID, Source: "ci", Kind: inventory.RecordCI, Signer: signer, Digest: digest("a"), Run: "https://ci.example.com/runs/42", Time: when}
		if i == 0 {
			want.Principal = "alice@example.com"
		}
		if list[i] != want || len(list[i].ID) != 64 {
			t.Errorf("got %+v, want %+v", list[i], want)
		}
	}
	if len(list) != 3 || list[0].ID == list[1].ID || list[1].ID == list[2].ID {
		t.Errorf("got %+v, want three records with IDs of their own", list)
	}
}

// TestCISameRecord writes one record in several ways.
func TestCISameRecord(t *testing.T) {
	t.Parallel()
	d := digest("a")
	list, problems := collect(CI(strings.NewReader(strings.Join([]string{
		`{"digest":"` + d + `","run":"r","time":"2026-05-11T19:20:00Z","signer":"s"}`,
		`{ "signer" : "s", "time":"2026-05-11T21:20:00+02:00", "run":"\u0072", "digest":"` + d + `" }`,
		`{"digest":"` + d + `","run":"r","time":"2026-05-11T19:20:00.0Z","signer":"s","principal":""}`,
	}, "\n"))))
	says(t, problems)
	if len(list) != 3 || list[0] != list[1] || list[0] != list[2] {
		t.Errorf("one record in three spellings became %+v", list)
	}
	// Moving text from one field to the next makes another record.
	other, _ := collect(CI(strings.NewReader(`{"digest":"` + d + `","run":"r","time":"2026-05-11T19:20:00Z","signer":"","principal":"s"}`)))
	if len(other) != 1 || other[0].ID == list[0].ID {
		t.Errorf("another record has the same ID: %+v", other)
	}
}

func TestCIRefuses(t *testing.T) {
	t.Parallel()
	good := ciLine("")
	for name, tc := range map[string]struct{ line, says string }{
		"not JSON":            {"digest: x", "not JSON"},
		"cut off":             {good[:len(good)-3], "not JSON"},
		"two objects":         {good + good, "more after the object"},
		"rubbish after":       {good + "]", "more after the object"},
		"array":               {"[" + good + "]", "no JSON object"},
		"null":                {"null", "no JSON object"},
		"unknown field":       {ciLine(`,"status":"ok"`), `"status" is not known`},
		"another case":        {ciLine(`,"Signer":"s"`), `"Signer" is not known`},
		"twice":               {ciLine(`,"run":"other"`), `"run" appears twice`},
		"twice, escaped":      {ciLine(`,"\u0072un":"other"`), `"run" appears twice`},
		"number":              {ciLine(`,"signer":7`), "signer is no string"},
		"nested":              {ciLine(`,"signer":{"id":"x"}`), "signer is no string"},
		"null signer":         {ciLine(`,"signer":null`), "signer is no string"},
		"no digest":           {`{"run":"r","time":"2026-05-11T19:20:00Z"}`, "digest is missing"},
		"no run":              {`{"digest":"` + digest("a") + `","time":"2026-05-11T19:20:00Z"}`, "run is missing"},
		"no time":             {`{"digest":"` + digest("a") + `","run":"r"}`, "time is missing"},
		"empty object":        {"{}", "digest is missing"},
		"digest in capitals":  {strings.Replace(good, digest("a"), "sha256:"+hex64("A"), 1), "lower-case hex"},
		"digest of another":   {strings.Replace(good, "sha256:", "sha512:", 1), "lower-case hex"},
		"a date":              {strings.Replace(good, "2026-05-11T19:20:00Z", "2026-05-11", 1), "RFC 3339"},
		"seconds since 1970":  {strings.Replace(good, `"2026-05-11T19:20:00Z"`, "1778527200", 1), "time is no string"},
		"year 0":              {strings.Replace(good, "2026-05-11T19:20:00Z", "0000-01-01T00:00:00Z", 1), "year"},
		"key ID cut off":      {ciLine(`,"signer":"key:sha256:abc"`), `signer "key:sha256:abc"`},
		"keyless ID in error": {ciLine(`,"signer":"keyless:` + hex64("a") + `"`), "keyless:sha256:"},
		"control characters":  {ciLine(`,"signer":"\u001b[2J"`), "no text"},
		"a line feed":         {ciLine(`,"principal":"a\nb"`), "no text"},
		"long":                {ciLine(`,"signer":"` + strings.Repeat("s", maxText+1) + `"`), "longer than"},
		"very long":           {ciLine(`,"signer":"` + strings.Repeat("s", maxLine) + `"`), "longer than"},
	} {
		// The lines around it are read all the same.
		list, problems := collect(CI(strings.NewReader(good + "\n" + tc.line + "\n" + good)))
		if len(problems) != 1 || !strings.HasPrefix(problems[0], "line 2: ") || !strings.Contains(problems[0], tc.says) {
			t.Errorf("%s: got %q, want an error in line 2 that says %q", name, problems, tc.says)
		}
		if len(list) != 2 {
			t.Errorf("%s: got %d records, want the two good lines", name, len(list))
		}
	}
}

func TestCloudTrail(t *testing.T) {
	t.Parallel()
	const arn = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	records := fixture(t, "cloudtrail.json")
	list, problems := collect(CloudTrail(strings.NewReader(records)))
	says(t, problems)
	want := []inventory.Record{
		{Source: "cloudtrail", Kind: inventory.RecordKMS, Key: arn, Principal: "arn:aws:sts::111122223333:assumed-role/release/GitHubActions", Time: time.Date(2026, 5, 11, 19, 20, 3, 0, time.UTC)},
		{Source: "cloudtrail", Kind: inventory.RecordKMS, Key: "alias/release", Failed: true, Principal: "arn:aws:iam::111122223333:user/mallory", Time: time.Date(2026, 5, 11, 19, 21, 44, 0, time.UTC)},
		{Source: "cloudtrail", Kind: inventory.RecordKMS, Key: arn, Principal: "AIDAQRSTUVWXYZEXAMPLE", Time: time.Date(2026, 5, 11, 19, 25, 0, 0, time.UTC)},
	}
	ids := map[string]bool{}
	for i := range list {
		ids[list[i].ID] = true
		list[i].ID = ""
	}
	if !slices.Equal(list, want) || len(ids) != len(want) {
		t.Errorf("got %+v\nwant %+v, each with an ID of its own", list, want)
	}

	var file struct{ Records []json.RawMessage }
	if err := json.Unmarshal([]byte(records), &file); err != nil {
		t.Fatal(err)
	}
	var events, listed, listedLines []string
	for _, e := range file.Records {
		events = append(events, compact(t, string(e)))
		text, err := json.Marshal(compact(t, string(e)))
		if err != nil {
			t.Fatal(err)
		}
		// As the AWS CLI prints it; other versions print EventTime as a number.
		item := `{"EventId":"x","EventName":"Sign","ReadOnly":"true","EventTime":1778527203.0,"EventSource":"kms.amazonaws.com","Username":"alice",` +
			`"Resources":[{"ResourceType":"AWS::KMS::Key","ResourceName":"y"}],"CloudTrailEvent":` + string(text) + `}`
		listed, listedLines = append(listed, item), append(listedLines, item)
	}
	first, _ := collect(CloudTrail(strings.NewReader(records)))
	for form, text := range map[string]string{
		"one line":               compact(t, records),
		"events one a line":      strings.Join(events, "\n") + "\n",
		"events in an array":     "[" + strings.Join(events, ",\n") + "]",
		"one after the other":    "\n\n" + records[:1] + "\n" + records[1:],
		"lookup-events":          `{"Events": [` + strings.Join(listed, ",") + `], "NextToken": "t"}`,
		"lookup-events, lines":   strings.Join(listedLines, "\n"),
		"several files in one":   compact(t, records) + "\n" + `{"Records":[]}` + "\n" + `{"Records":null}`,
		"several, pretty":        records + records[:0] + "\n[]\n",
		"with a byte order mark": "\ufeff" + records,
	} {
		got, problems := collect(CloudTrail(strings.NewReader(text)))
		if len(problems) > 0 || !slices.Equal(got, first) {
			t.Errorf("%s: got %+v, %q, want %+v", form, got, problems, first)
		}
	}
}

func TestCloudTrailRefuses(t *testing.T) {
	t.Parallel()
	event := func(fields string) string {
		return `{"eventSource":"kms.amazonaws.com","eventName":"Sign","eventID":"e","eventTime":"2026-05-11T19:20:00Z","requestParameters":{"keyId":"k"}` + fields + `}`
	}
	for name, tc := range map[string]struct{ event, says string }{
		"something else": {`{"kind":"Pod"}`, "no CloudTrail event"},
		"no object":      {`{"Records":[7]}`, "no JSON object"},
		"no array":       {`{"Records":{"a":1}}`, "Records is no array"},
		"no event ID":    {event(`,"eventID":""`), "eventID is missing"},
		"no key":         {event(`,"requestParameters":null,"requestParameters":{"keyId":""}`), "names no key"},
		"no time":        {event(`,"eventTime":""`), "eventTime"},
		"a bad type":     {event(`,"userIdentity":"alice"`), "userIdentity"},
		"bad principal":  {event(`,"userIdentity":{"arn":"\u0007"}`), "principal"},
		"bad text":       {`{"CloudTrailEvent":"nothing"}`, "no JSON object"},
	} {
		list, problems := collect(CloudTrail(strings.NewReader(event("") + "\n" + tc.event + "\n" + event(`,"eventID":"f"`))))
		if len(problems) != 1 || !strings.HasPrefix(problems[0], "line 2: ") || !strings.Contains(problems[0], tc.says) || len(list) != 2 {
			t.Errorf("%s: got %+v and %q, want an error in line 2 that says %q", name, list, problems, tc.says)
		}
	}
	// Events of other services may have anything in the fields read here.
	list, problems := collect(CloudTrail(strings.NewReader(`{"eventSource":"s3.amazonaws.com","eventName":"PutObject","requestParameters":[1],"resources":"x"}`)))
	if says(t, problems); len(list) != 0 {
		t.Errorf("got %+v of another service", list)
	}
	// A call that was logged in two accounts is one.
	list, problems = collect(CloudTrail(strings.NewReader(event(`,"sharedEventID":"s"`) + "\n" + event(`,"eventID":"other","sharedEventID":"s"`))))
	if says(t, problems); len(list) != 2 || list[0].ID != list[1].ID {
		t.Errorf("a call in two accounts has two IDs: %+v", list)
	}
}

func TestGCPAudit(t *testing.T) {
	t.Parallel()
	const key = "projects/acme-release/locations/europe-west1/keyRings/release/cryptoKeys/images/cryptoKeyVersions/1"
	array := fixture(t, "gcp-audit.json")
	list, problems := collect(GCPAudit(strings.NewReader(array)))
	says(t, problems)
	want := []inventory.Record{
		{Source: "gcp-audit", Kind: inventory.RecordKMS, Key: key, Message: "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
			Principal: "release@acme-release.iam.gserviceaccount.com", Time: time.Date(2026, 5, 11, 19, 20, 3, 123456789, time.UTC)},
		{Source: "gcp-audit", Kind: inventory.RecordKMS, Key: key, Failed: true,
			Principal: "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/ci/subject/repo:acme/app:ref:refs/heads/main",
			Time:      time.Date(2026, 5, 11, 19, 22, 0, 0, time.UTC)},
	}
	ids := map[string]bool{}
	for i := range list {
		ids[list[i].ID] = true
		list[i].ID = ""
	}
	if !slices.Equal(list, want) || len(ids) != len(want) {
		t.Errorf("got %+v\nwant %+v, each with an ID of its own", list, want)
	}
	var all []json.RawMessage
	if err := json.Unmarshal([]byte(array), &all); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, e := range all {
		lines = append(lines, compact(t, string(e)))
	}
	first, _ := collect(GCPAudit(strings.NewReader(array)))
	for form, text := range map[string]string{
		"lines":            strings.Join(lines, "\n"),
		"entries.list":     `{"entries":` + array + `,"nextPageToken":"t"}`,
		"one line":         compact(t, array),
		"the method whole": strings.ReplaceAll(array, `"AsymmetricSign"`, `"google.cloud.kms.v1.KeyManagementService.AsymmetricSign"`),
	} {
		got, problems := collect(GCPAudit(strings.NewReader(text)))
		if len(problems) > 0 || !slices.Equal(got, first) {
			t.Errorf("%s: got %+v, %q, want %+v", form, got, problems, first)
		}
	}
}

func TestGCPAuditRefuses(t *testing.T) {
	t.Parallel()
	entry := func(payload, rest string) string {
		return `{"logName":"projects/p/logs/cloudaudit.googleapis.com%2Fdata_access","insertId":"i","timestamp":"2026-05-11T19:20:00Z",` +
			`"protoPayload":{"serviceName":"cloudkms.googleapis.com","methodName":"AsymmetricSign","resourceName":"k"` + payload + `}` + rest + `}`
	}
	for name, tc := range map[string]struct{ entry, says string }{
		"something else": {`{"eventSource":"kms.amazonaws.com"}`, "no log entry"},
		"no insert ID":   {entry("", `,"insertId":""`), "insertId is missing"},
		"no key":         {entry(`,"resourceName":""`, ""), "names no key"},
		"no time":        {entry("", `,"timestamp":"yesterday"`), "timestamp"},
		"bad digest":     {entry(`,"request":{"digest":{"sha256":"AAAA"}}`, ""), "no SHA-256"},
		"no base64":      {entry(`,"request":{"digest":{"sha256":"!"}}`, ""), "no SHA-256"},
		"a bad type":     {entry(`,"status":"OK"`, ""), "status"},
	} {
		list, problems := collect(GCPAudit(strings.NewReader(entry("", "") + "\n" + tc.entry + "\n" + entry("", ""))))
		if len(problems) != 1 || !strings.HasPrefix(problems[0], "line 2: ") || !strings.Contains(problems[0], tc.says) || len(list) != 2 {
			t.Errorf("%s: got %+v and %q, want an error in line 2 that says %q", name, list, problems, tc.says)
		}
	}
	// What is no signature of a key pair is none of ours.
	for _, other := range []string{"MacSign", "AsymmetricDecrypt", "Encrypt", "google.cloud.kms.v1.KeyManagementService.MacSign", "NotAsymmetricSign", ""} {
		list, problems := collect(GCPAudit(strings.NewReader(strings.Replace(entry("", ""), `"AsymmetricSign"`, `"`+other+`"`, 1))))
		if says(t, problems); len(list) != 0 {
			t.Errorf("%q is taken for a signature", other)
		}
	}
}

// TestStream feeds the JSON parsers texts that are broken, endless or odd.
func TestStream(t *testing.T) {
	t.Parallel()
	const ok = `{"eventSource":"kms.amazonaws.com","eventName":"Sign","eventID":"e","eventTime":"2026-05-11T19:20:00Z","requestParameters":{"keyId":"k"}}`
	long := `{"a":"` + strings.Repeat("x", maxEntry) + `"}`
	huge := `{"a":"` + strings.Repeat("x", 3*maxEntry) + `"}` // however much was read ahead
	for name, tc := range map[string]struct {
		text   string
		want   int
		errors []string
	}{
		"nothing":                        {"", 0, nil},
		"blank":                          {" \n\n\t", 0, nil},
		"empty array":                    {"[]", 0, nil},
		"no JSON":                        {"Date,Event\n", 0, []string{"entry 1: it is not JSON"}},
		"text":                           {`"x"`, 0, []string{"entry 1: x is no JSON object"}},
		"numbers":                        {"1\n2\n", 0, []string{"entry 1: 1 is no", "entry 2: 2 is no"}},
		"a broken line":                  {ok + "\n{\"a\":}\n" + ok, 2, []string{"line 2: it is not JSON"}},
		"a broken first line":            {"{\"a\":}\n" + ok, 1, []string{"line 1: it is not JSON"}},
		"a last line that is cut off":    {ok + "\n" + ok[:40], 1, []string{"line 2: it is not JSON"}},
		"a long line":                    {ok + "\n" + long + "\n" + ok, 2, []string{"line 2: it is longer than"}},
		"a long last line":               {ok + "\n" + long, 1, []string{"line 2: it is longer than"}},
		"a long first line":              {long + "\n" + ok, 1, []string{"line 1: it is longer than"}},
		"a huge line":                    {ok + "\n" + huge + "\n" + ok, 2, []string{"line 2: it is longer than"}},
		"a huge first line":              {huge + "\n" + ok, 0, []string{"entry 1: it is larger than"}},
		"an array that breaks":           {"[" + ok + ",\n" + ok + ",\n}]", 2, []string{"entry 3: it is not JSON"}},
		"an array that is cut off":       {"[" + ok + ",\n" + ok, 2, []string{"entry 3: it is not JSON"}},
		"an array that ends wrongly":     {"[" + ok + "}", 1, []string{"entry 2: it is not JSON"}},
		"a list that is cut off":         {"{\"Records\": [\n" + ok, 1, []string{"it is not JSON"}},
		"a list that breaks":             {"{\"Records\": [\n" + ok + "]\n\"x\"}", 1, []string{"it is not JSON"}},
		"an element that is too large":   {"[\n" + ok + "," + huge + "," + ok + "]", 1, []string{"entry 2: it is larger than"}},
		"a wrapper with much beside":     {"{\n\"Records\":[" + ok + "],\"x\":\"" + strings.Repeat("x", 3*maxEntry) + "\"}", 1, []string{"it is larger than"}},
		"an element that is none":        {"[\n7," + ok + "]", 1, []string{"entry 1: \"7\" is no JSON object"}},
		"two lists":                      {"{\"Records\":[" + ok + "],\"Events\":[" + ok + "]}", 2, nil},
		"two entries in a line":          {ok + " " + ok + "\n" + ok, 3, nil},
		"an error in the second of them": {ok + " {}\n" + ok, 2, []string{"line 1 entry 2: it is no CloudTrail event"}},
		"deep":                           {"[\n" + strings.Repeat("[", 100000), 0, []string{"it is not JSON"}},
	} {
		list, problems := collect(CloudTrail(strings.NewReader(tc.text)))
		good := len(list) == tc.want && len(problems) == len(tc.errors)
		for i := 0; good && i < len(problems); i++ {
			good = strings.Contains(problems[i], tc.errors[i]) && len(problems[i]) < 300
		}
		if !good {
			t.Errorf("%s: got %d records and %q, want %d and %q", name, len(list), problems, tc.want, tc.errors)
		}
	}
}

// endless repeats one piece, and remembers how much was taken.
type endless struct {
	piece string
	taken int
}

func (e *endless) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		c := copy(p[n:], e.piece[e.taken%len(e.piece):])
		n, e.taken = n+c, e.taken+c
	}
	return n, nil
}

// TestEndless reads what never ends: it stops when the reader does, or when
// one entry is too much.
func TestEndless(t *testing.T) {
	t.Parallel()
	const many = 20000
	pods := &endless{piece: fmt.Sprintf(`{"kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"r.example/a@%s"}]}},`, digest("a"))}
	n := 0
	for run, err := range Pods(io.MultiReader(strings.NewReader(`{"kind":"List","items":[`), pods)) {
		if err != nil || run.Digest != digest("a") {
			t.Fatalf("got %+v, %v", run, err)
		}
		if n++; n == many {
			break
		}
	}
	if most := many*len(pods.piece) + maxEntry; n != many || pods.taken > most {
		t.Errorf("read %d bytes for %d pods, want at most %d", pods.taken, n, most)
	}
	for _, piece := range []string{"x", " ", "[", `"a",`, "\n"} {
		e := &endless{piece: piece}
		_, problems := collect(Pods(io.MultiReader(strings.NewReader(`{"kind":`), e)))
		if len(problems) == 0 || e.taken > 4*maxEntry {
			t.Errorf("%q without end: read %d bytes, problems %q", piece, e.taken, problems)
		}
	}
	// Blank lines are no entry, and not looked at again and again.
	blank := &endless{piece: "\n"}
	if _, problems := collect(Pods(io.LimitReader(blank, 4*maxEntry))); len(problems) > 1 {
		t.Errorf("blank lines: %q", problems)
	}
	// A line without end is passed over without being kept.
	e := &endless{piece: "x"}
	_, problems := collect(CI(io.LimitReader(e, 16<<20)))
	says(t, problems, "line 1: it is longer than")
}

// TestBrokenReader says what the reader says, and ends.
func TestBrokenReader(t *testing.T) {
	t.Parallel()
	broken := errors.New("the disk is gone")
	for name, parse := range map[string]func(io.Reader) []string{
		"CI":         func(r io.Reader) []string { _, p := collect(CI(r)); return p },
		"CloudTrail": func(r io.Reader) []string { _, p := collect(CloudTrail(r)); return p },
		"GCPAudit":   func(r io.Reader) []string { _, p := collect(GCPAudit(r)); return p },
		"Pods":       func(r io.Reader) []string { _, p := collect(Pods(r)); return p },
		"List":       func(r io.Reader) []string { _, p := collect(List(r)); return p },
	} {
		for _, start := range []string{"", "{", "\n \n"} {
			problems := parse(io.MultiReader(strings.NewReader(start), iotest.ErrReader(broken)))
			if len(problems) != 1 || !strings.Contains(problems[0], broken.Error()) {
				t.Errorf("%s after %q: got %q", name, start, problems)
			}
		}
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	list, problems := collect(List(strings.NewReader("# what runs\n\nr.example/acme/app@" + digest("a") + "\r\n " + digest("b") + "\nnginx@" + digest("c") +
		"\nr.example:5000/app:v1@" + digest("d") + "\nr.example/app:v1\nr.example/APP@" + digest("e") + "\n@" + digest("e") + "\nr.example/app@sha256:xyz\n  # end")))
	want := []Running{{Repository: "r.example/acme/app", Digest: digest("a")}, {Digest: digest("b")}, {Repository: "index.docker.io/library/nginx", Digest: digest("c")},
		{Repository: "r.example:5000/app", Digest: digest("d")}}
	if !slices.Equal(list, want) {
		t.Errorf("got %+v\nwant %+v", list, want)
	}
	says(t, problems, "line 7: ", "line 8: ", "line 9: ", "line 10: ")
}

func TestPods(t *testing.T) {
	t.Parallel()
	text := fixture(t, "pods.json")
	list, problems := collect(Pods(strings.NewReader(text)))
	says(t, problems)
	of := func(ns, pod, container, repository, digest, why string) Running {
		return Running{Namespace: ns, Pod: pod, Container: container, Repository: repository, Digest: digest, Why: why}
	}
	want := []Running{
		of("shop", "web-0", "migrate", "r.example.com/shop/migrate", digest("1"), ""),
		of("shop", "web-0", "web", "r.example.com/shop/web", digest("2"), ""),
		of("shop", "web-0", "web", "r.example.com/shop/web", digest("3"), ""), // the index in the specification
		of("shop", "web-0", "proxy", "index.docker.io/library/nginx", digest("4"), ""),
		of("shop", "web-0", "debug", "index.docker.io/library/busybox", digest("5"), ""),
		of("shop", "web-0", "model", "r.example.com/ml/model", digest("6"), ""),
		of("shop", "docker-0", "app", "mirror.example.com/acme/app", digest("7"), ""),
		of("shop", "docker-0", "app", "r.example.com/acme/app", digest("7"), ""), // the one that was asked for
		of("shop", "docker-0", "built-here", "index.docker.io/library/built-here", "", "configuration"),
		of("shop", "docker-0", "pinned", "r.example.com/acme/pinned", digest("8"), ""),
		of("shop", "waiting-0", "app", "r.example.com/acme/app", "", "no runtime reports"),
		of("shop", "waiting-0", "pinned", "r.example.com/acme/pinned", digest("8"), ""),
		of("shop", "odd-0", "app", "r.example.com/acme/app", "", "which is none"),
	}
	for i := range max(len(list), len(want)) {
		switch {
		case i >= len(list):
			t.Errorf("missing: %+v", want[i])
		case i >= len(want):
			t.Errorf("too many: %+v", list[i])
		default:
			why := list[i].Why
			list[i].Why = want[i].Why
			if list[i] != want[i] || !strings.Contains(why, want[i].Why) || (why == "") != (want[i].Why == "") {
				t.Errorf("got %+v %q, want %+v", list[i], why, want[i])
			}
		}
	}

	var file struct{ Items []json.RawMessage }
	if err := json.Unmarshal([]byte(text), &file); err != nil {
		t.Fatal(err)
	}
	var pretty, lines, bare []string
	for _, p := range file.Items {
		pretty, lines = append(pretty, string(p)), append(lines, compact(t, string(p)))
		// The items of a PodList, as the API server sends it, do not say what they are.
		bare = append(bare, strings.Replace(compact(t, string(p)), `"kind":"Pod",`, "", 1))
	}
	first, _ := collect(Pods(strings.NewReader(text)))
	for form, text := range map[string]string{
		"one line":                     compact(t, text),
		"several documents":            strings.Join(pretty, "\n"),
		"lines":                        strings.Join(lines, "\n"),
		"PodList of the API":           `{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[` + strings.Join(bare, ",") + `]}`,
		"with another kind before it":  `{"kind":"Deployment","spec":{"template":{}}}` + "\n" + compact(t, text),
		"items first":                  strings.Replace(compact(t, text), `{"apiVersion":"v1",`, "{", 1),
		"with empty lists":             `{"kind":"List","items":null}` + "\n" + compact(t, text),
		"one a line, space between it": strings.Join(lines, "\n\n  "),
	} {
		got, problems := collect(Pods(strings.NewReader(text)))
		if len(problems) > 0 || !slices.Equal(got, first) {
			t.Errorf("%s: got %+v, %q, want %+v", form, got, problems, first)
		}
	}
	one, problems := collect(Pods(strings.NewReader(pretty[1])))
	if says(t, problems); len(one) != 4 {
		t.Errorf("one pod: got %+v", one)
	}
}

func TestPodsRefuses(t *testing.T) {
	t.Parallel()
	good := `{"kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"r.example/a@` + digest("a") + `"}]}}`
	for name, tc := range map[string]struct{ pod, says string }{
		"no object":    {`[7]`, "no JSON object"},
		"no kind":      {`{"a":1}`, "kind is missing"},
		"no container": {`{"kind":"Pod","spec":{}}`, "spec.containers is missing"},
		"a bad type":   {`{"kind":"Pod","spec":{"containers":"x"}}`, "containers"},
		"a bad name":   {`{"kind":"Pod","metadata":{"name":"\u0000"},"spec":{"containers":[{}]}}`, "no text"},
		"a bad one":    {`{"kind":"Pod","spec":{"containers":[{"name":"\u0000"}]}}`, "no text"},
	} {
		list, problems := collect(Pods(strings.NewReader(good + "\n" + tc.pod + "\n" + good)))
		if len(problems) != 1 || !strings.Contains(problems[0], "line 2") || !strings.Contains(problems[0], tc.says) || len(list) != 2 {
			t.Errorf("%s: got %+v and %q, want an error in line 2 that says %q", name, list, problems, tc.says)
		}
	}
}

// TestEarlyEnd stops after any number of values: no parser goes on by itself
// after that, which an iterator answers with a panic.
func TestEarlyEnd(t *testing.T) {
	t.Parallel()
	for name, seq := range map[string]iter.Seq2[Running, error]{
		"pods": Pods(strings.NewReader(fixture(t, "pods.json"))),
		"list": List(strings.NewReader(digest("a") + "\nx\n" + digest("b"))),
	} {
		for range seq {
			break
		}
		_ = name
	}
	texts := []string{fixture(t, "cloudtrail.json"), compact(t, fixture(t, "cloudtrail.json")), "[7,7,7]", "7 7 7", "{}\n{}\n{}", "{\"a\":\n{}\n{}", strings.Repeat("{\n", 9)}
	for _, text := range texts {
		for stop := 1; stop < 5; stop++ {
			n := 0
			for range CloudTrail(strings.NewReader(text)) {
				if n++; n == stop {
					break
				}
			}
		}
	}
}

// TestAnyChunks holds that how a stream is cut into reads changes nothing.
func TestAnyChunks(t *testing.T) {
	t.Parallel()
	texts := []string{fixture(t, "cloudtrail.json"), compact(t, fixture(t, "cloudtrail.json")), "{}\n\n" + compact(t, fixture(t, "cloudtrail.json")) + "\n{", "[{}, 1"}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SampledFrom(texts).Draw(t, "text")
		want, wantProblems := collect(CloudTrail(strings.NewReader(text)))
		sizes := rapid.SliceOfN(rapid.IntRange(1, 200), 1, 20).Draw(t, "sizes")
		got, problems := collect(CloudTrail(&chunks{text: text, sizes: sizes}))
		if !slices.Equal(got, want) || !slices.Equal(problems, wantProblems) {
			t.Fatalf("got %+v %q, want %+v %q", got, problems, want, wantProblems)
		}
	})
}

type chunks struct {
	text  string
	sizes []int
	turn  int
}

func (c *chunks) Read(p []byte) (int, error) {
	if c.text == "" {
		return 0, io.EOF
	}
	n := copy(p, c.text[:min(len(c.text), c.sizes[c.turn%len(c.sizes)])])
	c.turn++
	c.text = c.text[n:]
	return n, nil
}
