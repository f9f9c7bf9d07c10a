package records

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/reseal/reseal/inventory"
)

// maxLine bounds a line of a CI record or of a plain list.
const maxLine = 64 << 10

// sourceCI and its like say where a record is from, and are part of its ID.
const (
	sourceCI         = "ci"
	sourceCloudTrail = "cloudtrail"
	sourceGCPAudit   = "gcp-audit"
)

// CI reads what a CI system says it signed, one JSON object a line:
//
//	{"digest":"sha256:5f…","run":"https://ci.example.com/acme/app/runs/42","time":"2026-05-11T19:20:00Z","signer":"release"}
//
// The fields, all of them strings:
//
//	digest     of the artifact: sha256: and 64 lower-case hex digits
//	run        the completed run that signed it: its URL, or what else names it
//	time       when the run signed it, RFC 3339
//	signer     optional: who signed, by ID as "reseal signers" prints it or by name
//	principal  optional: on whose behalf the run was
//
// Nothing else is taken: a field that is not known, appears twice or is no
// string refuses its line, because somebody meant something by it.
//
// The same record, however it is spaced and in whatever order its fields are,
// has the same ID.
func CI(r io.Reader) iter.Seq2[inventory.Record, error] {
	return func(yield func(inventory.Record, error) bool) {
		for l, err := range lines(bufio.NewReaderSize(r, maxLine), maxLine) {
			var rec inventory.Record
			if err == nil {
				if rec, err = ciRecord(l.text); err != nil {
					rec, err = inventory.Record{}, fmt.Errorf("line %d: %w", l.number, err)
				}
			}
			if !yield(rec, err) {
				return
			}
		}
	}
}

func ciRecord(text []byte) (inventory.Record, error) {
	f, err := texts(text, "digest", "run", "time", "signer", "principal")
	if err != nil {
		return inventory.Record{}, err
	}
	rec := inventory.Record{Source: sourceCI, Kind: inventory.RecordCI, Digest: f["digest"], Run: f["run"], Signer: f["signer"], Principal: f["principal"]}
	for _, required := range []string{"digest", "run", "time"} {
		if f[required] == "" {
			return rec, fmt.Errorf("%s is missing", required)
		}
	}
	if err := inventory.CheckDigest(rec.Digest); err != nil {
		return rec, err
	}
	if rec.Time, err = moment("time", f["time"]); err != nil {
		return rec, err
	}
	if err := checkSigner(rec.Signer); err != nil {
		return rec, err
	}
	rec.ID = recordID(sourceCI, rec.Digest, rec.Run, rec.Time.Format(time.RFC3339Nano), rec.Signer, rec.Principal)
	return rec, nil
}

// checkSigner refuses what looks like an ID (signer.Identity.ID) and is none.
func checkSigner(s string) error {
	kind, digest, isID := strings.Cut(s, ":")
	if !isID || kind != "key" && kind != "keyless" {
		return nil
	}
	if err := inventory.CheckDigest(digest); err != nil {
		return fmt.Errorf("signer %.100q: expected %s:sha256: and 64 lower-case hex digits, or a name", s, kind)
	}
	return nil
}

// texts reads an object that has nothing but text, under known names, each at
// most once.
func texts(object []byte, known ...string) (map[string]string, error) {
	dec := json.NewDecoder(bytes.NewReader(object))
	token, err := dec.Token()
	if err != nil {
		return nil, notJSON(err)
	}
	if token != json.Delim('{') {
		return nil, fmt.Errorf("%.40q is no JSON object", object)
	}
	out := map[string]string{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		field := name.(string)
		if _, twice := out[field]; twice {
			return nil, fmt.Errorf("field %.60q appears twice", field)
		}
		isKnown := false
		for _, k := range known {
			isKnown = isKnown || k == field
		}
		if !isKnown {
			return nil, fmt.Errorf("field %.60q is not known: use %s", field, strings.Join(known, ", "))
		}
		value, err := dec.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		text, ok := value.(string)
		if !ok {
			return nil, fmt.Errorf("%s is no string", field)
		}
		if err := checkText(field, text); err != nil {
			return nil, err
		}
		out[field] = text
	}
	if _, err := dec.Token(); err != nil {
		return nil, notJSON(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("there is more after the object: write one object a line")
	}
	return out, nil
}

func notJSON(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("it is not JSON: %w", err)
}
