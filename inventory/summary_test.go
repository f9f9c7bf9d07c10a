package inventory

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	vsa "github.com/in-toto/attestation/go/predicates/vsa/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

func testSummary() Summary {
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	return Summary{
		Artifact: Artifact{Repository: "r.example/a", Digest: "sha256:" + strings.Repeat("d", 64)},
		Verifier: "https://example.com/recovery", Time: at.Add(123456 * time.Microsecond), Plan: "sha256:" + strings.Repeat("a", 64), About: "INC-1",
		Inputs: []SummaryInput{
			{Digest: "sha256:" + strings.Repeat("c", 64), Signer: "key:sha256:1", Verdict: "proven-before", Why: "existed by <then>",
				Bound: &Bound{Side: Upper, Time: at.AddDate(0, -1, 0), Authority: Authority{Role: RoleTSA, ID: "75a2"}, Verified: true}},
			{Digest: "sha256:" + strings.Repeat("b", 64), Signer: "key:sha256:1", Verdict: "unaffected", Why: "in no incident"},
		},
	}
}

func TestSummaryPayload(t *testing.T) {
	t.Parallel()
	s := testSummary()
	payload, err := s.Payload()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` + strings.Repeat("d", 64) + `"}}],` +
		`"predicateType":"https://slsa.dev/verification_summary/v1","predicate":{"verifier":{"id":"https://example.com/recovery"},` +
		`"timeVerified":"2026-11-01T12:00:00Z","resourceUri":"oci://r.example/a@sha256:` + strings.Repeat("d", 64) + `",` +
		`"policy":{"uri":"urn:reseal:plan:sha256:` + strings.Repeat("a", 64) + `","digest":{"sha256":"` + strings.Repeat("a", 64) + `"}},` +
		`"inputAttestations":[{"uri":"oci://r.example/a@sha256:` + strings.Repeat("b", 64) + `","digest":{"sha256":"` + strings.Repeat("b", 64) + `"}},` +
		`{"uri":"oci://r.example/a@sha256:` + strings.Repeat("c", 64) + `","digest":{"sha256":"` + strings.Repeat("c", 64) + `"}}],` +
		`"verificationResult":"PASSED","verifiedLevels":["SLSA_BUILD_LEVEL_UNEVALUATED"],"slsaVersion":"1.2",` +
		`"https://github.com/reseal/reseal/verification-evidence/v1":{"about":"INC-1","attestations":[` +
		`{"digest":"sha256:` + strings.Repeat("b", 64) + `","signer":"key:sha256:1","verdict":"unaffected","why":"in no incident"},` +
		`{"digest":"sha256:` + strings.Repeat("c", 64) + `","signer":"key:sha256:1","verdict":"proven-before","why":"existed by <then>",` +
		`"bound":{"side":"upper","time":"2026-10-01T12:00:00Z","authority":{"role":"tsa","id":"75a2"},"verified":true}}]}}}`
	if string(payload) != want {
		t.Errorf("got  %s\nwant %s", payload, want)
	}
	// In whatever order and however often the inputs are given.
	slices.Reverse(s.Inputs)
	s.Inputs = append(s.Inputs, s.Inputs[0])
	again, err := s.Payload()
	if err != nil || string(again) != want {
		t.Errorf("again: %s %v", again, err)
	}
	s.Inputs = nil
	if _, err := s.Payload(); err == nil {
		t.Error("a summary of nothing was made")
	}
}

// TestSummaryIsOne reads a summary with the types of the in-toto project.
func TestSummaryIsOne(t *testing.T) {
	t.Parallel()
	payload, err := testSummary().Payload()
	if err != nil {
		t.Fatal(err)
	}
	var st intoto.Statement
	if err := protojson.Unmarshal(payload, &st); err != nil { // unknown fields are refused
		t.Fatal(err)
	}
	if err := st.Validate(); err != nil {
		t.Error(err)
	}
	raw, err := json.Marshal(st.GetPredicate().AsMap())
	if err != nil {
		t.Fatal(err)
	}
	var got vsa.VerificationSummary
	if err := protojson.Unmarshal(raw, &got); err == nil || !strings.Contains(err.Error(), evidenceField) {
		t.Errorf("the extension is not the one thing that the type does not know: %v", err)
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]any{
		"verifier": {got.GetVerifier().GetId(), "https://example.com/recovery"},
		"time":     {got.GetTimeVerified().AsTime(), time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)},
		"policy":   {got.GetPolicy().GetDigest()["sha256"], strings.Repeat("a", 64)},
		"result":   {got.GetVerificationResult(), "PASSED"},
		"levels":   {got.GetVerifiedLevels(), []string{"SLSA_BUILD_LEVEL_UNEVALUATED"}},
		"inputs":   {len(got.GetInputAttestations()), 2},
		"input":    {got.GetInputAttestations()[1].GetDigest()["sha256"], strings.Repeat("c", 64)},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: %v, want %v", what, pair[0], pair[1])
		}
	}
}

func TestSummarises(t *testing.T) {
	t.Parallel()
	s := testSummary()
	payload, err := s.Payload()
	if err != nil {
		t.Fatal(err)
	}
	both := []string{"sha256:" + strings.Repeat("b", 64), "sha256:" + strings.Repeat("c", 64)}
	elsewhere, other := s.Artifact, s.Artifact
	elsewhere.Repository, other.Digest = "r.example/b", "sha256:"+strings.Repeat("e", 64)
	for _, tc := range []struct {
		name    string
		payload string
		about   Artifact
		want    []string
	}{
		{"a summary", string(payload), s.Artifact, both},
		{"of a copy elsewhere", string(payload), elsewhere, nil},
		{"of another artifact", string(payload), other, nil},
		{"that failed", strings.Replace(string(payload), "PASSED", "FAILED", 1), s.Artifact, nil},
		{"of another type", strings.Replace(string(payload), SummaryPredicate, "https://openvex.dev/ns", 1), s.Artifact, nil},
		{"whose subject is another", strings.Replace(string(payload), strings.Repeat("d", 64), strings.Repeat("e", 64), 1), s.Artifact, nil},
		{"that is none", "{", s.Artifact, nil},
	} {
		if got := Summarises([]byte(tc.payload), tc.about); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// TestSummaryOfFile names a file by its digest, as it is in no registry.
func TestSummaryOfFile(t *testing.T) {
	t.Parallel()
	file := Artifact{Repository: Files, Digest: Digest([]byte("a file"))}
	s := Summary{Artifact: file, Verifier: "urn:x", Plan: Digest([]byte("plan")), Inputs: []SummaryInput{{Digest: Digest([]byte("provenance"))}}}
	payload, err := s.Payload()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("a file"))
	if want := `"resourceUri":"ni:///sha-256;` + base64.RawURLEncoding.EncodeToString(sum[:]) + `"`; !strings.Contains(string(payload), want) || strings.Contains(string(payload), "oci://") {
		t.Errorf("%s, want %s in it", payload, want)
	}
	if got := Summarises(payload, file); len(got) != 1 || got[0] != Digest([]byte("provenance")) {
		t.Errorf("it summarises %v", got)
	}
	for _, other := range []Artifact{{Repository: "r.example/a", Digest: file.Digest}, {Repository: Files, Digest: Digest([]byte("another"))}} {
		if got := Summarises(payload, other); got != nil {
			t.Errorf("of %s it summarises %v", other.Ref(), got)
		}
	}
}
