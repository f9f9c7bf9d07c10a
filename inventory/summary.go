package inventory

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// SummaryPredicate is the statement type of a SLSA Verification Summary
// Attestation (https://slsa.dev/spec/v1.2/verification_summary).
const SummaryPredicate = "https://slsa.dev/verification_summary/v1"

// evidenceField is the extension field with what each attestation was believed
// for. The specification lets producers add fields whose names are URIs.
const evidenceField = "https://github.com/reseal/reseal/verification-evidence/v1"

// Summary says that somebody verified attestations about an artifact, so that
// nobody has to sign again what is another's word.
type Summary struct {
	Artifact Artifact // its repository and digest
	Verifier string   // URI of who verified
	Time     time.Time
	Plan     string // digest of the plan by which it was verified: the policy
	About    string // the incident or rotation that the plan is about
	Inputs   []SummaryInput
}

// SummaryInput is an attestation that was verified, and what it was believed
// for.
type SummaryInput struct {
	Digest  string `json:"digest"` // of the bundle or envelope as it is stored
	Signer  string `json:"signer"` // its ID
	Verdict string `json:"verdict"`
	Why     string `json:"why"`
	Bound   *Bound `json:"bound,omitempty"` // the proof of its time that the verdict rests on, if it rests on one
}

// The JSON form of a summary. The types of the in-toto project have no place for
// an extension and are written in no defined order, but the bytes of a summary
// must be the same whenever they are made.
type summaryStatement struct {
	Type          string              `json:"_type"`
	Subject       []summaryDescriptor `json:"subject"`
	PredicateType string              `json:"predicateType"`
	Predicate     summaryPredicate    `json:"predicate"`
}

type summaryPredicate struct {
	Verifier struct {
		ID string `json:"id"`
	} `json:"verifier"`
	TimeVerified       time.Time           `json:"timeVerified"`
	ResourceURI        string              `json:"resourceUri"`
	Policy             summaryDescriptor   `json:"policy"`
	InputAttestations  []summaryDescriptor `json:"inputAttestations"`
	VerificationResult string              `json:"verificationResult"`
	VerifiedLevels     []string            `json:"verifiedLevels"`
	SLSAVersion        string              `json:"slsaVersion"`
	Evidence           summaryEvidence     `json:"https://github.com/reseal/reseal/verification-evidence/v1"` // evidenceField
}

type summaryDescriptor struct {
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest"`
}

type summaryEvidence struct {
	About        string         `json:"about"`
	Attestations []SummaryInput `json:"attestations"`
}

// passed is the only result there is: nothing negative is attached to an
// artifact.
const passed = "PASSED"

func described(uri, digest string) summaryDescriptor {
	algorithm, value, _ := strings.Cut(digest, ":")
	return summaryDescriptor{URI: uri, Digest: map[string]string{algorithm: value}}
}

// resourceURI names content in a repository; a file by its digest alone
// (RFC 6920), as it has no place of its own.
func resourceURI(repository, digest string) string {
	if repository == Files {
		if sum, err := hex.DecodeString(strings.TrimPrefix(digest, "sha256:")); err == nil {
			return "ni:///sha-256;" + base64.RawURLEncoding.EncodeToString(sum)
		}
	}
	return "oci://" + repository + "@" + digest
}

// Payload returns the in-toto statement of the summary. Its bytes are a function
// of the summary alone.
//
// No SLSA level is claimed: that the attestations are authentic was verified, not
// what they say of the build.
func (s Summary) Payload() ([]byte, error) {
	if len(s.Inputs) == 0 {
		return nil, fmt.Errorf("a summary about %s names no attestation", s.Artifact.Ref())
	}
	inputs := slices.SortedFunc(slices.Values(s.Inputs), func(a, b SummaryInput) int { return strings.Compare(a.Digest, b.Digest) })
	inputs = slices.CompactFunc(inputs, func(a, b SummaryInput) bool { return a.Digest == b.Digest })
	st := summaryStatement{Type: "https://in-toto.io/Statement/v1", Subject: []summaryDescriptor{described("", s.Artifact.Digest)}, PredicateType: SummaryPredicate,
		Predicate: summaryPredicate{TimeVerified: s.Time.UTC().Truncate(time.Second), ResourceURI: resourceURI(s.Artifact.Repository, s.Artifact.Digest),
			Policy: described("urn:reseal:plan:"+s.Plan, s.Plan), VerificationResult: passed, VerifiedLevels: []string{"SLSA_BUILD_LEVEL_UNEVALUATED"}, SLSAVersion: "1.2",
			Evidence: summaryEvidence{About: s.About, Attestations: inputs}}}
	st.Predicate.Verifier.ID = s.Verifier
	for _, in := range inputs {
		st.Predicate.InputAttestations = append(st.Predicate.InputAttestations, described(resourceURI(s.Artifact.Repository, in.Digest), in.Digest))
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(st); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// summaryNames are those of a summary's predicate that are read.
var summaryNames = names{"resourceUri": nil, "verificationResult": nil, "inputAttestations": {"uri": nil, "digest": {}}}

// Summarises returns the digests of the attestations that a statement, given its
// payload, says were verified for an artifact; none where it is no summary that
// passed, or is about another artifact or the same in another place.
func Summarises(payload []byte, a Artifact) (digests []string) {
	var st summaryStatement
	if json.Unmarshal(payload, &st) != nil || summaryNames.ofStatement(payload) != nil || st.PredicateType != SummaryPredicate || st.Predicate.VerificationResult != passed ||
		st.Predicate.ResourceURI != resourceURI(a.Repository, a.Digest) ||
		!slices.ContainsFunc(st.Subject, func(d summaryDescriptor) bool { return "sha256:"+d.Digest["sha256"] == a.Digest }) {
		return nil
	}
	for _, d := range st.Predicate.InputAttestations {
		if value := d.Digest["sha256"]; value != "" {
			digests = append(digests, "sha256:"+value)
		}
	}
	return digests
}
