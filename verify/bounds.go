package verify

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/digitorus/pkcs7"
	"github.com/digitorus/timestamp"
	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/reseal/reseal/inventory"
)

// token is one RFC 3161 token, as claimed.
type token struct {
	der  []byte
	over []byte // what it must stamp
	err  error
}

// upperBounds judges every log entry and token of a claim. It returns the
// bounds, the times that are proven, the logs that confirm the signature without
// saying when, where none says when, and, when logs in the trusted root were
// asked and none confirms it, why.
func (v *Verifier) upperBounds(c *claim, by key) (bounds []inventory.Bound, times []time.Time, timeless []string, logProblem error) {
	logged, timed := false, false
	for i, e := range c.entries {
		if i == maxEntries {
			bounds = append(bounds, unread(inventory.RoleLog, "log entries", len(c.entries), maxEntries))
			break
		}
		known, err := v.checkEntry(c, e, by)
		logged = logged || err == nil
		if err == nil && !slices.Contains(timeless, e.log) {
			timeless = append(timeless, e.log)
		}
		if err != nil && known && logProblem == nil {
			logProblem = err
		}
		if err == nil && !e.promised && e.time != 0 {
			err = errors.New("the log did not sign this time: it stands beside a mere inclusion proof")
		}
		b := inventory.Bound{Side: inventory.Upper, Authority: inventory.Authority{Role: inventory.RoleLog, ID: e.log}}
		if e.time != 0 {
			b.Time = moment(time.Unix(e.time, 0))
		}
		switch {
		case err != nil && (e.time != 0 || e.promised):
			b.Why = err.Error()
			bounds = append(bounds, b)
		case err == nil && e.time != 0:
			b.Verified, timed = true, true
			bounds = append(bounds, b)
			times = append(times, time.Unix(e.time, 0))
		}
	}
	for i, t := range c.tokens {
		if i == maxTokens {
			bounds = append(bounds, unread(inventory.RoleTSA, "timestamps", len(c.tokens), maxTokens))
			break
		}
		b := v.stamped(t)
		bounds = append(bounds, b)
		if b.Verified {
			times = append(times, b.Time)
		}
	}
	if logged {
		logProblem = nil
	}
	if timed {
		timeless = nil
	}
	return bounds, times, timeless, logProblem
}

func unread(r inventory.Role, what string, have, read int) inventory.Bound {
	return inventory.Bound{Side: inventory.Upper, Authority: inventory.Authority{Role: r},
		Why: fmt.Sprintf("it carries %d %s: only the first %d were read", have, what, read)}
}

// Timestamp judges an RFC 3161 token (the DER of a TimeStampResp) over some
// bytes: the upper bound it returns is verified exactly when a timestamp
// authority of the trusted root made the token over them.
func (v *Verifier) Timestamp(der, over []byte) inventory.Bound {
	return v.stamped(token{der: der, over: over})
}

// stamped judges one RFC 3161 token (a TimeStampResp, RFC 3161 section 2.4.2).
func (v *Verifier) stamped(t token) inventory.Bound {
	b := inventory.Bound{Side: inventory.Upper, Authority: inventory.Authority{Role: inventory.RoleTSA}}
	switch {
	case t.err != nil:
		b.Why = t.err.Error()
		return b
	case len(t.over) == 0:
		b.Why = "there is no signature the timestamp could be about"
		return b
	case len(t.der) > maxEvidence:
		b.Why = fmt.Sprintf("the timestamp is larger than %d bytes", maxEvidence)
		return b
	}
	var why []string
	if v.root != nil {
		for _, tsa := range v.root.tsas {
			var ts *root.Timestamp
			err := guard(func() (err error) { ts, err = tsa.Verify(t.der, t.over); return err })
			if err != nil {
				why = append(why, err.Error())
				continue
			}
			if b.Authority.ID = stamper(tsa); b.Authority.ID == "" {
				why = append(why, "the trusted root does not say whose stamp it is")
				continue
			}
			b.Time, b.Verified = moment(ts.Time), true
			return b
		}
	}
	at, by, err := parseStamp(t.der)
	if by != nil {
		b.Authority.ID = fingerprintOf(by)
	}
	if err != nil {
		b.Why = "the timestamp cannot be read: " + brief(err.Error())
		return b
	}
	b.Time = moment(at)
	switch {
	case v.root == nil:
		b.Why = noRoot
	case len(v.root.tsas) == 0:
		b.Why = "the trusted root has no timestamp authority"
	default:
		b.Why = "no timestamp authority in the trusted root verifies it: " + brief(strings.Join(why, "; "))
	}
	return b
}

// stamper returns the fingerprint of the certificate in the trusted root that
// a stamp rests on: that of the authority itself or, where the trusted root
// leaves that to the token, of the CA above it.
func stamper(tsa root.TimestampingAuthority) string {
	s, ok := tsa.(*root.SigstoreTimestampingAuthority)
	switch {
	case ok && s.Leaf != nil:
		return fingerprintOf(s.Leaf)
	case ok && s.Root != nil:
		return fingerprintOf(s.Root)
	}
	return ""
}

// parseStamp reads what a token says of itself: when, and by whom where it
// carries the certificate.
func parseStamp(der []byte) (at time.Time, by *x509.Certificate, err error) {
	err = guard(func() error {
		ts, err := timestamp.ParseResponse(der)
		if err != nil {
			return err
		}
		at = ts.Time
		p7, err := pkcs7.Parse(ts.RawToken)
		if err != nil {
			return err
		}
		by = p7.GetOnlySigner()
		return nil
	})
	return at, by, err
}
