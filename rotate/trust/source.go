package trust

import (
	"errors"
	"fmt"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// Source is a declared complete source: within its interval, every use of the
// signer is in its records. A signature it covers and has no record of was made
// behind the back of whoever keeps the records.
type Source struct {
	Name   string               `json:"name"`
	Kind   inventory.RecordKind `json:"kind"`
	By     signer.Identity      `json:"by"` // who authenticates its records; zero for the audit log of a key service
	Signer signer.Identity      `json:"signer"`
	From   *time.Time           `json:"from,omitempty"`  // nil: since the signer's first use
	Until  *time.Time           `json:"until,omitempty"` // nil: to this day
}

// Check refuses a source that covers nothing, and CI records that nobody
// authenticates.
func (s Source) Check() error {
	switch {
	case s.Name == "":
		return errors.New("source: give it a name")
	case s.Signer.Kind != signer.Key && s.Signer.Kind != signer.Keyless:
		return fmt.Errorf("source %s: name the signer whose uses it records", s.Name)
	case s.Kind != inventory.RecordCI && s.Kind != inventory.RecordKMS:
		return fmt.Errorf("source %s: unknown kind %q: use %s or %s", s.Name, s.Kind, inventory.RecordCI, inventory.RecordKMS)
	case s.Kind == inventory.RecordCI && s.By.Kind != signer.Key && s.By.Kind != signer.Keyless:
		return fmt.Errorf("source %s: name the signer who authenticates its records", s.Name)
	case s.By == s.Signer:
		return fmt.Errorf("source %s: a signer's own records of itself explain nothing: who has the signer has the records", s.Name)
	case s.From != nil && s.Until != nil && !s.From.Before(*s.Until):
		return fmt.Errorf("source %s: its interval ends before it starts", s.Name)
	}
	return nil
}

// Covers reports whether a source is about the signer of a signature and the
// signature was surely made in its interval. Where the time is not known well
// enough it does not: nobody is accused for want of a record that need not
// exist. Times of authorities in incidents prove nothing here either: a thief
// who dates a good signature into the interval would have it denied.
func Covers(src Source, s inventory.Signature, incidents []Incident) bool {
	if !s.Verified || s.Signer != src.Signer {
		return false
	}
	upper, lower := bounds(&s, incidents)
	if src.From != nil && (lower == nil || lower.Time.Before(*src.From)) {
		return false
	}
	if src.Until == nil {
		return true
	}
	by := s.FirstSeen
	if upper != nil && (by.IsZero() || upper.Time.Before(by)) {
		by = upper.Time
	}
	return !by.IsZero() && !by.After(*src.Until)
}
