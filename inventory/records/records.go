// Package records reads what other systems tell: what a CI system signed, each
// use of a key of a key service, and what runs in a cluster.
//
// Every parser takes a stream and yields what it finds, one at a time. The
// input is hostile: lines and objects are bounded, and nothing panics. An error
// names the line or the number of the entry and the field. After a broken entry
// the next one is read, unless the JSON itself is broken where it is not one
// object a line: then nothing tells where the next entry starts, and the error
// is the last that is yielded.
//
// Whether a file is to be believed is its reader's affair: nothing here checks
// who wrote it.
package records

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/reseal/reseal/inventory"
)

// maxText bounds names, URLs and the like, in bytes.
const maxText = 4096

// checkText refuses what cannot be stored and printed.
func checkText(field, value string) error {
	switch {
	case len(value) > maxText:
		return fmt.Errorf("%s is longer than %d bytes", field, maxText)
	case !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl):
		return fmt.Errorf("%s %.60q has characters that are no text", field, value)
	}
	return nil
}

// moment reads a time in the form of RFC 3339.
func moment(field, value string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s %.60q: expected a time like 2026-05-11T19:20:00Z (RFC 3339)", field, value)
	}
	if t = t.UTC(); t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}, fmt.Errorf("%s %.60q: the year is out of range", field, value)
	}
	return t, nil
}

// recordID names a record by what names it where it comes from.
func recordID(source string, parts ...string) string {
	h := sha256.New()
	for _, s := range append([]string{source}, parts...) {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// finished checks what all records of key services have in common, and says
// where they are from.
func finished(source string, r inventory.Record, when string, whenField string) (inventory.Record, error) {
	var err error
	if r.Time, err = moment(whenField, when); err != nil {
		return r, err
	}
	r.Source, r.Kind = source, inventory.RecordKMS
	if r.Key == "" && !r.Failed {
		return r, fmt.Errorf("it names no key")
	}
	if err := checkText("key", r.Key); err != nil {
		return r, err
	}
	return r, checkText("principal", r.Principal)
}

// read turns every entry into a record; those that are none of ours are
// passed over.
func read(list iter.Seq2[entry, error], one func(json.RawMessage) (r inventory.Record, ours bool, err error)) iter.Seq2[inventory.Record, error] {
	return func(yield func(inventory.Record, error) bool) {
		for e, err := range list {
			if err != nil {
				if !yield(inventory.Record{}, err) {
					return
				}
				continue
			}
			r, ours, err := one(e.object)
			switch {
			case err != nil:
				if !yield(inventory.Record{}, fmt.Errorf("%s: %w", e.at, err)) {
					return
				}
			case ours:
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}

// unmarshal decodes an entry, which must be an object.
func unmarshal(object json.RawMessage, into any) error {
	if len(object) == 0 || object[0] != '{' {
		return fmt.Errorf("%.40q is no JSON object", object)
	}
	return json.Unmarshal(object, into)
}
