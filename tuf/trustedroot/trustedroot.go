// Package trustedroot edits what clients of Sigstore trust and use: the files
// trusted_root.json and signing_config.v0.2.json of a TUF repository.
//
// Every edit is made on the protobuf, so that nothing in the file is lost, and
// is checked: the result is read by sigstore-go as clients read it, and an edit
// that clients would ignore, that would do something else in some of them, or
// after which nobody could sign is refused or comes with a warning. Nothing is
// ever dropped silently: Diff says in words what a change does, and Lost what
// would stop verifying.
//
// The package is pure: no I/O and no clock.
package trustedroot

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/proto"

	"github.com/reseal/reseal/inventory"
)

// The media types of a trusted root (sigstore_trustroot.proto). Sigstore's own
// has the oldest, and clients built on sigstore-go, cosign among them, read no
// other.
const (
	mediaType01    = root.TrustedRootMediaType01
	mediaTypeNew01 = "application/vnd.dev.sigstore.trustedroot.v0.1+json"
	mediaType02    = "application/vnd.dev.sigstore.trustedroot.v0.2+json"
)

// rootOrder is the order of fields in Sigstore's own trusted root.
var rootOrder = []string{"mediaType", "tlogs", "certificateAuthorities", "ctlogs", "timestampAuthorities"}

// ErrAmbiguous is returned for a selector that several authorities or services
// match.
var ErrAmbiguous = errors.New("ambiguous")

// Kind is what an entry of a trusted root is.
type Kind string

// The kinds of entries.
const (
	CA    Kind = "ca"    // a certificate authority for signers, as Fulcio
	Log   Kind = "log"   // a transparency log of signatures, as Rekor
	CTLog Kind = "ctlog" // a certificate transparency log
	TSA   Kind = "tsa"   // a timestamp authority, RFC 3161
)

// Kinds lists every kind, in the order of the file.
func Kinds() []Kind { return []Kind{Log, CA, CTLog, TSA} }

// ParseKind reads a kind.
func ParseKind(s string) (Kind, error) {
	if k := Kind(s); slices.Contains(Kinds(), k) {
		return k, nil
	}
	return "", fmt.Errorf("%q is no kind of authority: use ca, log, ctlog or tsa", s)
}

// role is what the inventory calls the kind.
func (k Kind) role() inventory.Role {
	switch k {
	case CA:
		return inventory.RoleCA
	case Log:
		return inventory.RoleLog
	case CTLog:
		return inventory.RoleCT
	}
	return inventory.RoleTSA
}

// Authority is one entry of a trusted root.
type Authority struct {
	Kind         Kind      `json:"kind"`
	ID           string    `json:"id"`                     // log ID, or SHA-256 of the certificate that issues or stamps; hex
	Subject      string    `json:"subject,omitempty"`      // of that certificate
	URL          string    `json:"url,omitempty"`          // where clients of it are sent
	Operator     string    `json:"operator,omitempty"`     //
	Key          string    `json:"key,omitempty"`          // of a log: its kind, PKIX_ECDSA_P256_SHA_256 for example
	KeySHA256    string    `json:"key_sha256,omitempty"`   // of a log: SHA-256 of its SPKI DER, hex
	Start        time.Time `json:"start,omitzero"`         // nothing of it counts before
	End          time.Time `json:"end,omitzero"`           // nor after; zero: it has no end
	Certificates []string  `json:"certificates,omitempty"` // SHA-256 of its chain, the trust anchor last; hex

	subjects []string // of Certificates
	names    []string // common names of Certificates
}

// String names an authority for a message.
func (a Authority) String() string {
	s := string(a.Kind)
	if a.Subject != "" {
		s += " " + a.Subject
	}
	if a.URL != "" {
		s += " at " + a.URL
	}
	return s + " (" + a.ID + ")"
}

// at reports whether evidence of a time counts.
func (a Authority) at(t time.Time) bool {
	return !t.Before(a.Start) && (a.End.IsZero() || !t.After(a.End))
}

// Root is a trusted root that is being edited. Its methods change it only where
// they return no error.
type Root struct {
	pb  *prototrustroot.TrustedRoot
	doc document
}

// New returns a trusted root that trusts nobody, with the media type that every
// client reads.
func New() *Root {
	return &Root{pb: &prototrustroot.TrustedRoot{MediaType: mediaType01}}
}

// Parse reads a trusted root. What it does not know, it refuses by name.
func Parse(text []byte) (*Root, error) {
	r := &Root{pb: &prototrustroot.TrustedRoot{}}
	var err error
	if r.doc, err = decode("trusted root", text, r.pb); err != nil {
		return nil, err
	}
	switch r.pb.GetMediaType() {
	case mediaType01, mediaTypeNew01, mediaType02:
		return r, nil
	}
	return nil, fmt.Errorf("the file is no trusted root that is known here: its media type is %q, expected %s", r.pb.GetMediaType(), mediaType01)
}

// Bytes returns the file. Entries that were not edited are as they were, to the
// letter; the same edits of the same file give the same bytes.
func (r *Root) Bytes() ([]byte, error) { return r.doc.encode(r.pb, rootOrder) }

// Authorities lists the entries of every kind, in the order of the file.
func (r *Root) Authorities() []Authority {
	var out []Authority
	for _, k := range Kinds() {
		for _, e := range entries(r.pb, k) {
			out = append(out, e.Authority)
		}
	}
	return out
}

// Notes says what about the file as it is some clients do not take.
func (r *Root) Notes() []string {
	var out []string
	if r.pb.GetMediaType() != mediaType01 {
		out = append(out, fmt.Sprintf("its media type is %s: cosign and other clients built on sigstore-go read only %s", r.pb.GetMediaType(), mediaType01))
	}
	if err := readable(r.pb); err != nil {
		out = append(out, fmt.Sprintf("sigstore-go, and with it cosign, refuses the file: %v", err))
	}
	for _, k := range []Kind{Log, CTLog} {
		seen := map[string]bool{}
		for _, e := range entries(r.pb, k) {
			if seen[e.ID] {
				out = append(out, fmt.Sprintf("%s %s is there twice: clients use one of the two", k, e.ID))
			}
			seen[e.ID] = true
		}
	}
	return out
}

// Material returns what a verifier with the file trusts, as sigstore-go reads
// it, its media type aside.
func (r *Root) Material() (root.TrustedMaterial, error) {
	tr, err := material(r.pb)
	if err != nil {
		return nil, fmt.Errorf("sigstore-go does not read the trusted root: %w", err)
	}
	return tr, nil
}

func material(pb *prototrustroot.TrustedRoot) (*root.TrustedRoot, error) {
	c := proto.Clone(pb).(*prototrustroot.TrustedRoot)
	c.MediaType = mediaType01
	return root.NewTrustedRootFromProtobuf(c)
}

// readable reports why sigstore-go would not read the file.
func readable(pb *prototrustroot.TrustedRoot) error {
	_, err := material(pb)
	return err
}

// entry is an authority where it stands.
type entry struct {
	Authority
	kind  Kind
	index int // in the list of its kind
	ca    *prototrustroot.CertificateAuthority
	log   *prototrustroot.TransparencyLogInstance
}

// message returns the entry's part of the file.
func (e entry) message() proto.Message {
	if e.log != nil {
		return e.log
	}
	return e.ca
}

// validity returns the period in which the entry counts: for a log it stands
// with the key. It is nil where the file gives none.
func (e entry) validity() *protocommon.TimeRange {
	if e.log != nil {
		return e.log.GetPublicKey().GetValidFor()
	}
	return e.ca.GetValidFor()
}

// entries lists what a trusted root has of one kind.
func entries(pb *prototrustroot.TrustedRoot, k Kind) []entry {
	var out []entry
	logs, cas := pb.GetTlogs(), pb.GetCertificateAuthorities()
	switch k {
	case CTLog:
		logs = pb.GetCtlogs()
	case TSA:
		cas = pb.GetTimestampAuthorities()
	}
	if k == Log || k == CTLog {
		for i, l := range logs {
			out = append(out, entry{Authority: describeLog(k, l), kind: k, index: i, log: l})
		}
		return out
	}
	for i, c := range cas {
		out = append(out, entry{Authority: describeCA(k, c), kind: k, index: i, ca: c})
	}
	return out
}

func describeLog(k Kind, l *prototrustroot.TransparencyLogInstance) Authority {
	a := Authority{Kind: k, ID: hex.EncodeToString(l.GetLogId().GetKeyId()), URL: l.GetBaseUrl(), Operator: l.GetOperator(),
		Key: l.GetPublicKey().GetKeyDetails().String(), KeySHA256: sha256Hex(l.GetPublicKey().GetRawBytes())}
	a.Start, a.End = period(l.GetPublicKey().GetValidFor())
	return a
}

// describeCA names a CA by the certificate that issues, and a TSA by the one
// that stamps or, where that comes with the stamp, by the CA above it: as the
// evidence in the inventory does.
func describeCA(k Kind, c *prototrustroot.CertificateAuthority) Authority {
	a := Authority{Kind: k, URL: c.GetUri(), Operator: c.GetOperator()}
	a.Start, a.End = period(c.GetValidFor())
	chain := c.GetCertChain().GetCertificates()
	for _, raw := range chain {
		a.Certificates = append(a.Certificates, sha256Hex(raw.GetRawBytes()))
		subject, name := "a certificate that cannot be read", ""
		if cert, err := x509.ParseCertificate(raw.GetRawBytes()); err == nil {
			subject, name = cert.Subject.String(), cert.Subject.CommonName
		}
		a.subjects, a.names = append(a.subjects, subject), append(a.names, name)
	}
	if len(chain) == 0 {
		return a
	}
	n := 0
	if cert, err := x509.ParseCertificate(chain[0].GetRawBytes()); k == TSA && err == nil && cert.IsCA {
		n = len(chain) - 1
	}
	a.ID, a.Subject = a.Certificates[n], a.subjects[n]
	return a
}

// period reads a period of validity. A time that no calendar writes is none.
func period(v *protocommon.TimeRange) (start, end time.Time) {
	if v.GetStart().IsValid() {
		start = v.GetStart().AsTime()
	}
	if v.GetEnd().IsValid() {
		end = v.GetEnd().AsTime()
	}
	return start, end
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// minPrefix is how many hex digits of an ID or fingerprint select an authority.
const minPrefix = 6

// matches reports whether a selector means the authority: its URL, the subject
// or common name of one of its certificates, the beginning of its ID or of the
// SHA-256 of one of its certificates or of its key in hex, or its log ID as the
// file has it, in base64.
func (a Authority) matches(selector string) bool {
	if selector == "" {
		return false
	}
	if selector == a.URL || slices.Contains(a.subjects, selector) || slices.Contains(a.names, selector) {
		return true
	}
	if id, err := base64.StdEncoding.DecodeString(selector); err == nil && len(id) == sha256.Size && hex.EncodeToString(id) == a.ID {
		return true
	}
	h := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(selector, "sha256:"), ":", ""))
	if len(h) < minPrefix || strings.Trim(h, "0123456789abcdef") != "" {
		return false
	}
	for _, id := range append([]string{a.ID, a.KeySHA256}, a.Certificates...) {
		if strings.HasPrefix(id, h) {
			return true
		}
	}
	return false
}

// Find returns the one authority of a kind that a selector means; see
// Authority.ID and the other fields for what it may be. When several match, the
// error lists them and wraps ErrAmbiguous; when none does it wraps
// inventory.ErrNotFound.
func (r *Root) Find(k Kind, selector string) (Authority, error) {
	e, err := find(r.pb, k, selector)
	return e.Authority, err
}

func find(pb *prototrustroot.TrustedRoot, k Kind, selector string) (entry, error) {
	all := entries(pb, k)
	if len(all) == 0 {
		return entry{}, fmt.Errorf("%s %q: %w: the file has no %s", k, selector, inventory.ErrNotFound, k)
	}
	var found []entry
	for _, e := range all {
		if e.matches(selector) {
			found = append(found, e)
		}
	}
	// The whole of an ID means its bearer, whoever else has that certificate in
	// its chain.
	if len(found) > 1 {
		if exact := slices.DeleteFunc(slices.Clone(found), func(e entry) bool { return !strings.EqualFold(e.ID, strings.TrimPrefix(selector, "sha256:")) }); len(exact) == 1 {
			found = exact
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return entry{}, fmt.Errorf("%s %q: %w: there are\n%s", k, selector, inventory.ErrNotFound, listed(all))
	}
	return entry{}, fmt.Errorf("%s %q is %w: it may be any of these, give more of its ID\n%s", k, selector, ErrAmbiguous, listed(found))
}

func listed(list []entry) string {
	var lines []string
	for _, e := range list {
		lines = append(lines, "  "+e.String()+", "+window(e.Start, e.End))
	}
	return strings.Join(lines, "\n")
}

// window says when something counts.
func window(start, end time.Time) string {
	switch {
	case start.IsZero() && end.IsZero():
		return "valid at any time"
	case start.IsZero():
		return "valid until " + stamp(end)
	case end.IsZero():
		return "valid from " + stamp(start)
	}
	return "valid from " + stamp(start) + " until " + stamp(end)
}

// stamp writes a time as the file does.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// rekorV2 reports whether a log is one of Rekor v2, and how that shows. A
// trusted root does not say so itself. The ID of a Rekor v1 log is the hash of
// its key, as is that of a Rekor v2 log with an ECDSA key and no other
// (c2sp.org/signed-note): of those only a signing config tells.
func rekorV2(l *prototrustroot.TransparencyLogInstance, c *Config) (why string, ok bool) {
	spki := l.GetPublicKey().GetRawBytes()
	sum := sha256.Sum256(spki)
	switch {
	case c != nil && slices.ContainsFunc(c.pb.GetRekorTlogUrls(), func(s *prototrustroot.Service) bool {
		return s.GetMajorApiVersion() >= 2 && sameAddress(s.GetUrl(), l.GetBaseUrl())
	}):
		return "the signing config has it with API version 2", true
	case len(l.GetCheckpointKeyId().GetKeyId()) > 0:
		return "it has a checkpoint key ID", true
	case len(l.GetLogId().GetKeyId()) > 0 && !bytes.Equal(l.GetLogId().GetKeyId(), sum[:]):
		return "its ID is not the hash of its key, which that of a Rekor v1 log is", true
	}
	return "", false
}
