// Package inventory has the nouns of the inventory: artifacts, where they are,
// the signatures on them, and what bounds each signature in time.
//
// It has no I/O. internal/store keeps these, inventory/scan finds them, and
// rotate/trust judges them.
package inventory

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/reseal/reseal/signer"
)

// Format is how a signature is stored, and so which verifiers can read it.
type Format string

// The storage formats.
const (
	Legacy      Format = "legacy"       // cosign ".sig" tag, simple signing payload
	LegacyAtt   Format = "legacy-att"   // cosign ".att" tag, DSSE envelope
	Bundle      Format = "bundle"       // Sigstore bundle as an OCI referrer
	Referrer    Format = "referrer"     // cosign's experimental OCI 1.1 referrer with the layers of a ".sig"
	ReferrerAtt Format = "referrer-att" // the same with the layers of an ".att"
	Detached    Format = "detached"     // Sigstore bundle in a file
	Blob        Format = "blob"         // signature in a file (cosign sign-blob --output-signature), with what goes with it in others
)

// Formats lists every storage format.
func Formats() []Format {
	return []Format{Legacy, LegacyAtt, Bundle, Referrer, ReferrerAtt, Detached, Blob}
}

// InFiles reports whether signatures of the format are kept in files, not in a
// registry.
func (f Format) InFiles() bool { return f == Detached || f == Blob }

// Files is the repository of artifacts that are files: their signatures are
// detached bundles and blob signatures, and no registry has them.
const Files = "file"

// SignPredicate is the statement type of an image signature. cosign v3 writes
// it into bundles; a legacy ".sig" layer says the same thing, so both are one
// statement type here.
const SignPredicate = "https://sigstore.dev/cosign/sign/v1"

// SLSA provenance speaks for its builder and is never re-asserted by another:
// see Summary.
const slsaProvenancePrefix = "https://slsa.dev/provenance/"

// IsProvenance reports whether a predicate type is SLSA provenance.
func IsProvenance(predicateType string) bool {
	return strings.HasPrefix(predicateType, slsaProvenancePrefix)
}

// Artifact is content in a repository, named by digest.
type Artifact struct {
	Repository string // registry and path, without tag: "registry.example/acme/app"
	Digest     string // "sha256:<hex>"
	MediaType  string
	Size       int64 // of the manifest, in bytes; 0 when the manifest was not to be had
	Deployed   bool
	Tags       []string
	FirstSeen  time.Time
}

// Ref returns the artifact as an image reference by digest.
func (a Artifact) Ref() string { return a.Repository + "@" + a.Digest }

// Role is what an authority does.
type Role string

// The roles of authorities.
const (
	RoleCA      Role = "ca"
	RoleLog     Role = "log"
	RoleTSA     Role = "tsa"
	RoleCT      Role = "ct"      // a certificate transparency log
	RoleTUF     Role = "tuf"     // a role of a TUF repository, by its name
	RoleJournal Role = "journal" // our own journal, anchored by the timestamp authority of this ID: the time is that one's word
)

// Authority vouches for a signer or for a time.
type Authority struct {
	Role Role   `json:"role"`
	ID   string `json:"id"` // log ID or certificate fingerprint, hex
}

// Side says on which side of a time a signature was made.
type Side string

// The sides of a bound.
const (
	Upper Side = "upper" // the signature existed by this time
	Lower Side = "lower" // the signature did not exist before this time
)

// Bound is one piece of evidence about when a signature was made. A bound that
// did not verify proves nothing; it is kept with the reason.
type Bound struct {
	Side      Side      `json:"side"`
	Time      time.Time `json:"time"`
	Authority Authority `json:"authority"`
	Verified  bool      `json:"verified"`
	Why       string    `json:"why,omitempty"` // why it did not verify
}

// Signature is one signed statement about an artifact, as found at one place.
type Signature struct {
	ID            string // see SignatureID
	Repository    string
	Digest        string // of the artifact it is attached to
	Format        Format
	Manifest      string // digest of the manifest that holds it
	Content       string // digest of the layer: simple signing payload, envelope or bundle
	PredicateType string // SignPredicate for image signatures
	PayloadDigest string // "sha256:<hex>" of the signed payload
	Names         string // repository the signed payload itself names, or empty
	Location      string // repository that holds it, where that is not the artifact's (COSIGN_REPOSITORY)
	Signer        signer.Identity
	Certificate   *signer.Certificate // of a keyless signer
	Requires      []Authority         // authorities without which it does not verify at all (the CA of a keyless signer)
	Verified      bool                // cryptographically, over this artifact's digest
	Why           string              // why it did not verify
	Bounds        []Bound
	FirstSeen     time.Time
	Gone          bool   // no longer found at its place
	Value         []byte // the signature itself, where it was just read; the inventory keeps it in its stored content
}

// SignatureID names a signature: the same bytes by the same signer on the same
// artifact at the same place in the same format are the same signature. The
// signer is part of it because for any ECDSA signature a second key can be
// computed that verifies it too.
func SignatureID(repository, digest string, f Format, by signer.Identity, payloadDigest string, signature []byte) string {
	h := sha256.New()
	for _, s := range []string{repository, digest, string(f), by.ID(), payloadDigest} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	h.Write(signature)
	return hex.EncodeToString(h.Sum(nil))
}

// StatementKey says which signatures of an artifact make the same statement.
// All image signatures do; claims such as SBOM and VEX are told apart by their
// payload, so that a good claim never vouches for another.
func (s Signature) StatementKey() string {
	if s.PredicateType == SignPredicate {
		return SignPredicate
	}
	return s.PredicateType + "#" + s.PayloadDigest
}

// Statement is one thing said about one artifact in one repository, with
// every signature that says it.
type Statement struct {
	Artifact   Artifact
	Key        string // see Signature.StatementKey
	Signatures []Signature
}

// PredicateType returns the type of what is stated.
func (s Statement) PredicateType() string {
	if n := strings.LastIndexByte(s.Key, '#'); n >= 0 {
		return s.Key[:n]
	}
	return s.Key
}

// Statements groups the signatures of one artifact by what they state, in
// order of first appearance.
func Statements(a Artifact, sigs []Signature) []Statement {
	var out []Statement
	at := map[string]int{}
	for _, s := range sigs {
		k := s.StatementKey()
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k] = i
			out = append(out, Statement{Artifact: a, Key: k})
		}
		out[i].Signatures = append(out[i].Signatures, s)
	}
	return out
}

// Problem is something a scan could not read. One broken image never stops a
// scan; it is kept, listed and counted.
type Problem struct {
	Repository string `json:"repository"`
	Reference  string `json:"reference"` // digest or tag, or empty for the whole repository
	Problem    string `json:"problem"`
}

// Digest returns the "sha256:<hex>" form of the digest of b.
func Digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// ErrNotFound is returned when what was asked for is not in the inventory.
var ErrNotFound = errors.New("not found")

// CheckDigest refuses anything but "sha256:" and 64 lower-case hex digits.
func CheckDigest(d string) error {
	h, ok := strings.CutPrefix(d, "sha256:")
	if !ok || len(h) != sha256.Size*2 || strings.Trim(h, "0123456789abcdef") != "" {
		return fmt.Errorf("digest %q: expected sha256: and 64 lower-case hex digits", d)
	}
	return nil
}
