package verify

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/reseal/reseal/signer"
)

// judgement is the version of what this package makes of the same bytes under
// the same trust. It is raised when that changes, so that what was verified
// before is verified again.
const judgement = "reseal.judgement/v3"

// Fingerprint returns "sha256:<hex>" of everything that is trusted. Verifiers
// of the same keys, authorities and periods of validity have the same one, in
// whatever order those were given: what one of them verified need not be
// verified again by the other.
func (v *Verifier) Fingerprint() string { return v.fingerprint }

// describe has a line for everything that is trusted.
func (v *Verifier) describe() string {
	lines := []string{}
	for _, k := range v.keys {
		lines = append(lines, "key "+k.id.Subject)
	}
	if v.root != nil {
		lines = append(lines, "root")
		for _, ca := range v.root.cas {
			switch f, ok := ca.(*root.FulcioCertificateAuthority); {
			case ok && f.Root != nil:
				lines = append(lines, "ca "+certificates(f.Root, f.Intermediates, nil)+period(f.ValidityPeriodStart, f.ValidityPeriodEnd))
			default:
				lines = append(lines, opaque())
			}
		}
		for _, tsa := range v.root.tsas {
			switch s, ok := tsa.(*root.SigstoreTimestampingAuthority); {
			case ok && s.Root != nil:
				lines = append(lines, "tsa "+certificates(s.Root, s.Intermediates, s.Leaf)+period(s.ValidityPeriodStart, s.ValidityPeriodEnd))
			default:
				lines = append(lines, opaque())
			}
		}
		lines = append(lines, logLines("log", v.root.logs)...)
		lines = append(lines, logLines("ct", v.root.ct)...)
	}
	slices.Sort(lines)
	return judgement + "\n" + strings.Join(slices.Compact(lines), "\n")
}

// opaque stands for an authority that cannot be read, of which nobody can say
// that it is the same as another.
func opaque() string { return "opaque " + rand.Text() }

func certificates(ca *x509.Certificate, intermediates []*x509.Certificate, leaf *x509.Certificate) string {
	var between []string
	for _, c := range intermediates {
		between = append(between, fingerprintOf(c))
	}
	slices.Sort(between)
	s := fingerprintOf(ca) + " [" + strings.Join(between, " ") + "]"
	if leaf != nil {
		s += " " + fingerprintOf(leaf)
	}
	return s
}

func period(from, until time.Time) string {
	return fmt.Sprintf(" %s %s", from.UTC().Format(time.RFC3339Nano), until.UTC().Format(time.RFC3339Nano))
}

func logLines(role string, logs map[string]*root.TransparencyLog) []string {
	var out []string
	for id, l := range logs {
		if l == nil {
			continue
		}
		key, err := signer.OfKey(l.PublicKey)
		if err != nil {
			out = append(out, opaque())
			continue
		}
		// A checkpoint is checked against the host of the log's URL.
		out = append(out, fmt.Sprintf("%s %q %s %d %d %q", role, id, key.Subject, l.HashFunc, l.SignatureHashFunc, l.BaseURL)+
			period(l.ValidityPeriodStart, l.ValidityPeriodEnd))
	}
	return out
}
