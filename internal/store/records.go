package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/reseal/reseal/inventory"
)

// PutRecord keeps what another system tells of a signature. A record that is
// known changes nothing.
func (t *Tx) PutRecord(ctx context.Context, r inventory.Record) error {
	if err := checkNames(r.ID, r.By, r.Signer, r.Digest, r.Message); err != nil {
		return err
	}
	r.Source, r.Run, r.Principal, r.Time = clean(r.Source), clean(r.Run), clean(r.Principal), moment(r.Time.Unix())
	digest, err := recordDigest(r)
	if err != nil {
		return err
	}
	n, err := t.exec(ctx, `INSERT INTO records (`+evidenceColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (id) DO NOTHING`,
		r.ID, r.Source, r.By, string(r.Kind), r.Signer, r.Key, r.Digest, r.Message, r.Run, r.Principal, r.Time.Unix(), r.Failed)
	if err != nil {
		return fmt.Errorf("record %.80q: %w", r.ID, err)
	}
	if n == 0 {
		return nil
	}
	return t.sight(ctx, recordSeen, r.ID, digest)
}

// recordSeen is the action of the sighting of a record.
const recordSeen = "record.seen"

// recordDigest is what the journal has of a record: the digest of all that is
// kept of it.
func recordDigest(r inventory.Record) (string, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("record %.80q: %w", r.ID, err)
	}
	return inventory.Digest(body), nil
}

const evidenceColumns = `id, source, signed_by, kind, signer, key_name, digest, message, run, principal, time, failed`

func scanEvidence(rows *sql.Rows) (r inventory.Record, err error) {
	var at int64
	err = rows.Scan(&r.ID, &r.Source, &r.By, &r.Kind, &r.Signer, &r.Key, &r.Digest, &r.Message, &r.Run, &r.Principal, &at, &r.Failed)
	r.Time = moment(at)
	return r, err
}

// RecordFilter says which records are meant. Empty fields leave nothing out.
type RecordFilter struct {
	Kind        inventory.RecordKind
	Signer      string    // ID
	Digest      string    // of the artifact
	Message     string    // digest of the bytes signed
	From, Until time.Time // in [From, Until)
}

// EvidenceRecords returns one page of the records selected, after a record's
// ID and in order of ID.
func (s *Store) EvidenceRecords(ctx context.Context, f RecordFilter, after string, limit int) ([]inventory.Record, error) {
	var q query
	if f.Signer != "" {
		q.and("signer = %s", f.Signer)
	}
	if f.Kind != "" {
		q.and("kind = %s", string(f.Kind))
	}
	if f.Digest != "" {
		q.and("digest = %s", f.Digest)
	}
	if f.Message != "" {
		q.and("message = %s", f.Message)
	}
	q.and("id > %s", after)
	if !f.From.IsZero() {
		q.and("time >= %s", ceiling(f.From))
	}
	if !f.Until.IsZero() {
		q.and("time < %s", ceiling(f.Until))
	}
	return queryAll(ctx, s.read, scanEvidence, `SELECT `+evidenceColumns+` FROM records`+q.where()+` ORDER BY id LIMIT `+count(limit), q.args...)
}
