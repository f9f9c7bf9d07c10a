package trustedroot

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/reseal/reseal/signer"
)

// Addition is an authority to be added.
type Addition struct {
	Kind     Kind
	PEM      []byte // the certificate chain of a CA or TSA, the public key of a log
	URL      string // where clients of it are sent; of a Rekor v2 log its host is the origin of the checkpoints
	Operator string // who runs it, a URI without scheme; optional

	// Start and End are when its evidence counts. Without a start that of a CA or
	// TSA is where all of its certificates are valid; a log needs one. Without an
	// end there is none.
	Start, End time.Time

	RekorVersion int    // of a Log: 1 or 2
	LogID        []byte // of a log, where it is known otherwise: it must be the ID of the key
}

// Add adds an authority and returns it, with what some clients make of it. Its
// place among those of its kind is by its start, the oldest first, as in
// Sigstore's file.
func (r *Root) Add(a Addition, now time.Time) (Authority, []string, error) {
	a.Start, a.End = a.Start.UTC(), a.End.UTC()
	var e entry
	var warnings []string
	var err error
	switch a.Kind {
	case CA, TSA:
		e, warnings, err = newCA(a)
	case Log, CTLog:
		e, warnings, err = newLog(a)
	default:
		_, err = ParseKind(string(a.Kind))
	}
	if err != nil {
		return Authority{}, nil, err
	}
	if a.Operator != "" {
		if err := checkOperator(a.Operator); err != nil {
			return Authority{}, nil, err
		}
		if r.pb.GetMediaType() != mediaType02 {
			warnings = append(warnings, "the field \"operator\" is meant for media type v0.2: clients built before protobuf-specs 0.4.2 do not know it, and some then refuse the whole file; without an operator all read it")
		}
	}
	switch {
	case !e.End.IsZero() && e.End.Before(e.Start):
		return Authority{}, nil, fmt.Errorf("%s: its end %s is before its start %s", e, stamp(e.End), stamp(e.Start))
	case e.Start.After(now):
		warnings = append(warnings, fmt.Sprintf("nothing of it counts before its start, %s", stamp(e.Start)))
	case !e.End.IsZero() && e.End.Before(now):
		warnings = append(warnings, fmt.Sprintf("it has ended, at %s: only what was made before counts", stamp(e.End)))
	}
	for _, other := range entries(r.pb, a.Kind) {
		if other.ID == e.ID {
			return Authority{}, nil, fmt.Errorf("%s is in the file already, %s: to change it remove it first, a second entry would hide one of the two from clients", other, window(other.Start, other.End))
		}
		if a.Kind == TSA && e.Operator != "" && other.Operator == e.Operator && other.at(e.Start) {
			warnings = append(warnings, fmt.Sprintf("%s is of the same operator: to clients that ask for two timestamps the two count as one", other))
		}
	}
	err = r.edit(func(pb *prototrustroot.TrustedRoot) {
		switch a.Kind {
		case Log:
			pb.Tlogs = insert(pb.Tlogs, e.log, a.Kind)
		case CTLog:
			pb.Ctlogs = insert(pb.Ctlogs, e.log, a.Kind)
		case CA:
			pb.CertificateAuthorities = insert(pb.CertificateAuthorities, e.ca, a.Kind)
		case TSA:
			pb.TimestampAuthorities = insert(pb.TimestampAuthorities, e.ca, a.Kind)
		}
	})
	if err != nil {
		return Authority{}, nil, err
	}
	return e.Authority, warnings, nil
}

// edit makes a change unless sigstore-go would not read the result. Of a file
// that it does not read as it is, it need not.
func (r *Root) edit(change func(*prototrustroot.TrustedRoot)) error {
	pb := proto.Clone(r.pb).(*prototrustroot.TrustedRoot)
	change(pb)
	if err := readable(pb); err != nil && readable(r.pb) == nil {
		return fmt.Errorf("clients would not read the file any more: %w", err)
	}
	r.pb = pb
	return nil
}

// insert puts an entry before the first that is later, by start and then by ID.
func insert[M proto.Message](list []M, m M, k Kind) []M {
	order := func(m M) (time.Time, string) {
		var a Authority
		switch m := any(m).(type) {
		case *prototrustroot.TransparencyLogInstance:
			a = describeLog(k, m)
		case *prototrustroot.CertificateAuthority:
			a = describeCA(k, m)
		}
		return a.Start, a.ID
	}
	start, id := order(m)
	at := slices.IndexFunc(list, func(other M) bool {
		s, i := order(other)
		return cmp.Or(s.Compare(start), strings.Compare(i, id)) > 0
	})
	if at < 0 {
		at = len(list)
	}
	return slices.Insert(slices.Clone(list), at, m)
}

// newCA makes the entry of a CA or TSA.
func newCA(a Addition) (entry, []string, error) {
	what := map[Kind]string{CA: "the CA", TSA: "the timestamp authority"}[a.Kind]
	u, err := checkURL(what, a.URL)
	if err != nil {
		return entry{}, nil, err
	}
	chain, err := parseChain(a.PEM)
	if err != nil {
		return entry{}, nil, err
	}
	start, end, warnings, err := checkChain(a.Kind, chain)
	if err != nil {
		return entry{}, nil, err
	}
	// The file says when the whole chain is valid, or less (sigstore_trustroot.proto).
	switch {
	case a.Start.IsZero():
		a.Start = start
	case a.Start.Before(start), a.Start.After(end):
		return entry{}, nil, fmt.Errorf("%s starts at %s: its chain is valid from %s until %s, and a start lies within", what, stamp(a.Start), stamp(start), stamp(end))
	}
	if a.End.After(end) {
		return entry{}, nil, fmt.Errorf("%s ends at %s: its chain is valid until %s, and no end lies after that", what, stamp(a.End), stamp(end))
	}
	anchor := chain[len(chain)-1]
	ca := &prototrustroot.CertificateAuthority{
		Subject:   &protocommon.DistinguishedName{CommonName: anchor.Subject.CommonName},
		Uri:       a.URL,
		CertChain: &protocommon.X509CertificateChain{},
		ValidFor:  validFor(a.Start, a.End),
		Operator:  a.Operator,
	}
	if len(anchor.Subject.Organization) > 0 {
		ca.Subject.Organization = anchor.Subject.Organization[0]
	}
	for _, c := range chain {
		ca.CertChain.Certificates = append(ca.CertChain.Certificates, &protocommon.X509Certificate{RawBytes: c.Raw})
	}
	return entry{Authority: describeCA(a.Kind, ca), kind: a.Kind, ca: ca}, append(warnings, urlWarnings(u)...), nil
}

// newLog makes the entry of a log.
func newLog(a Addition) (entry, []string, error) {
	what := map[Kind]string{Log: "the log", CTLog: "the CT log"}[a.Kind]
	u, err := checkURL(what, a.URL)
	if err != nil {
		return entry{}, nil, err
	}
	if a.Start.IsZero() {
		return entry{}, nil, fmt.Errorf("%s needs a start: clients refuse a log without one", what)
	}
	pub, _, err := signer.ParsePublicKey(a.PEM)
	if err != nil {
		return entry{}, nil, fmt.Errorf("the key of %s: %w", what, err)
	}
	details := detailsOf(pub)
	if details == protocommon.PublicKeyDetails_PUBLIC_KEY_DETAILS_UNSPECIFIED {
		return entry{}, nil, fmt.Errorf("the key of %s is of a kind that clients do not know: use ECDSA P-256, or else P-384, P-521, Ed25519, or RSA with 2048, 3072 or 4096 bits", what)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return entry{}, nil, fmt.Errorf("the key of %s: %w", what, err)
	}
	id, err := logID(a, u.Hostname(), pub, spki)
	if err != nil {
		return entry{}, nil, err
	}
	if len(a.LogID) > 0 && !bytes.Equal(a.LogID, id) {
		return entry{}, nil, fmt.Errorf("%s has the ID %s by its key and address, not %x: is it this key, and is the host of the address the origin of its checkpoints?",
			what, hex.EncodeToString(id), a.LogID)
	}
	l := &prototrustroot.TransparencyLogInstance{
		BaseUrl:       a.URL,
		HashAlgorithm: protocommon.HashAlgorithm_SHA2_256,
		PublicKey:     &protocommon.PublicKey{RawBytes: spki, KeyDetails: details, ValidFor: validFor(a.Start, a.End)},
		LogId:         &protocommon.LogId{KeyId: id},
		Operator:      a.Operator,
	}
	warnings := append(keyWarnings(details), urlWarnings(u)...)
	if a.Kind == Log && a.RekorVersion == 2 && !a.End.IsZero() {
		return entry{}, nil, fmt.Errorf("%s cannot have an end: %s", what, whyNoEnd)
	}
	return entry{Authority: describeLog(a.Kind, l), kind: a.Kind, log: l}, warnings, nil
}

// logID returns the ID by which the evidence of a log names it: the hash of its
// key (RFC 6962, section 3.2), of a Rekor v2 log that of its origin and key
// (c2sp.org/signed-note).
func logID(a Addition, origin string, pub crypto.PublicKey, spki []byte) ([]byte, error) {
	sum := sha256.Sum256(spki)
	switch {
	case a.Kind == CTLog:
		return sum[:], nil
	case a.RekorVersion == 1:
		return sum[:], nil
	case a.RekorVersion == 2:
		_, id, err := note.KeyHash(origin, pub)
		if err != nil {
			return nil, fmt.Errorf("the log ID: %w", err)
		}
		return id, nil
	}
	return nil, fmt.Errorf("is the log Rekor v1 or v2? its ID depends on it: give the version, 1 or 2")
}

func validFor(start, end time.Time) *protocommon.TimeRange {
	v := &protocommon.TimeRange{Start: timestamppb.New(start)}
	if !end.IsZero() {
		v.End = timestamppb.New(end)
	}
	return v
}

// whyNoEnd is what is wrong with the end of a Rekor v2 log.
const whyNoEnd = "clients do not look at the validity of a Rekor v2 log, whose entries have no time of their own (sigstore-go checks it against that of Rekor v1 alone): " +
	"an end would look like protection and be none. Remove the log, once nothing needed rests on it"

// End makes the evidence of an authority count until a time and no longer. Only
// an earlier end takes the place of an end: a later one would trust again what
// somebody had cut off. Config, which may be nil, tells which logs are Rekor v2:
// clients do not look at the end of those, so it is refused.
func (r *Root) End(k Kind, selector string, at time.Time, c *Config, now time.Time) (Authority, []string, error) {
	at = at.UTC()
	e, err := find(r.pb, k, selector)
	if err != nil {
		return Authority{}, nil, err
	}
	switch {
	case at.IsZero():
		return Authority{}, nil, fmt.Errorf("%s: when does it end?", e)
	case at.Before(e.Start):
		return Authority{}, nil, fmt.Errorf("%s starts at %s: an end at %s lies before it, to trust nothing of it remove it", e, stamp(e.Start), stamp(at))
	case !e.End.IsZero() && !at.Before(e.End):
		return Authority{}, nil, fmt.Errorf("%s has an end, %s: a later one would trust again what that cut off; where that is meant, remove it and add it anew", e, stamp(e.End))
	}
	var warnings []string
	if k == Log {
		why, is := rekorV2(e.log, c)
		switch {
		case is:
			return Authority{}, nil, fmt.Errorf("%s is a log of Rekor v2 (%s): %s", e, why, whyNoEnd)
		case c == nil || !c.mentions(e.URL):
			warnings = append(warnings, "if this is a log of Rekor v2, which only a signing config tells of one with an ECDSA key, clients do not look at its end: remove it then")
		}
	}
	warnings = append(warnings, backDating[k])
	if at.After(now) {
		warnings = append(warnings, fmt.Sprintf("until then, %s, all of it counts", stamp(at)))
	}
	place := func(pb *prototrustroot.TrustedRoot) entry { return entries(pb, k)[e.index] }
	err = r.edit(func(pb *prototrustroot.TrustedRoot) {
		e := place(pb)
		v := e.validity()
		if v == nil {
			v = &protocommon.TimeRange{}
			switch {
			case e.ca != nil:
				e.ca.ValidFor = v
			case e.log.GetPublicKey() != nil:
				e.log.PublicKey.ValidFor = v
			}
		}
		v.End = timestamppb.New(at)
	})
	if err != nil {
		return Authority{}, nil, err
	}
	return place(r.pb).Authority, warnings, nil
}

// backDating is what an end does not do.
var backDating = map[Kind]string{
	TSA:   "whoever has its key can put any time before the end into a timestamp: an end retires a timestamp authority, it does not stop a stolen one; remove that",
	Log:   "whoever has its key can put any time before the end into an entry: an end retires a log, it does not stop a stolen one; remove that",
	CTLog: "whoever has its key can put any time before the end into a certificate timestamp: an end retires a CT log, it does not stop a stolen one; remove that",
	CA: "only bundles are judged by a time that the CA has no hand in: for a .sig cosign takes the time in the certificate, which whoever has the CA's key writes; " +
		"policy-controller with signatureFormat legacy ignores the end, and Kyverno's legacy path refuses all of an ended CA: where its key is stolen, sign again and remove it",
}

// Remove takes an authority out of the file: nothing of it counts any more, of
// whatever time. Lost says what that takes away.
func (r *Root) Remove(k Kind, selector string) (Authority, []string, error) {
	e, err := find(r.pb, k, selector)
	if err != nil {
		return Authority{}, nil, err
	}
	var warnings []string
	if len(entries(r.pb, k)) == 1 {
		warnings = append(warnings, lastOf[k])
	}
	err = r.edit(func(pb *prototrustroot.TrustedRoot) {
		switch k {
		case Log:
			pb.Tlogs = slices.Delete(pb.Tlogs, e.index, e.index+1)
		case CTLog:
			pb.Ctlogs = slices.Delete(pb.Ctlogs, e.index, e.index+1)
		case CA:
			pb.CertificateAuthorities = slices.Delete(pb.CertificateAuthorities, e.index, e.index+1)
		case TSA:
			pb.TimestampAuthorities = slices.Delete(pb.TimestampAuthorities, e.index, e.index+1)
		}
	})
	if err != nil {
		return Authority{}, nil, err
	}
	return e.Authority, warnings, nil
}

// lastOf is what follows when nothing of a kind is left.
var lastOf = map[Kind]string{
	CA:    "it is the last CA: no keyless signature verifies any more",
	Log:   "it is the last log: no signature verifies any more for clients that ask for a log entry, as cosign does",
	CTLog: "it is the last CT log: clients that ask for a certificate timestamp, as cosign does, refuse every keyless signature",
	TSA:   "it is the last timestamp authority: no bundle of a Rekor v2 log verifies any more, which have no other time",
}
