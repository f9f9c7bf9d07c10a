package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
)

// Document kinds.
const (
	KindApprovers  = "approvers"
	KindIncident   = "incident"
	KindRotation   = "rotation" // a change of signers that no incident asks for
	KindPlan       = "plan"
	KindMotion     = "motion"      // what else people approve: a withdrawal, a change of the approvers
	KindApproval   = "approval"    // of a plan or a motion
	KindBreakGlass = "break-glass" // a plan carried out without its quorum
	KindVoucher    = "voucher"     // a standing policy
	KindSource     = "source"      // a source of records declared complete
	KindCheckpoint = "checkpoint"  // where a checkpoint of the journal was anchored, and the receipt
	KindAnchor     = "anchor"      // where signers are pinned for a consumer
	KindPruned     = "pruned"      // a signature that was taken away on purpose
)

// PutDocument keeps the next version of a document and journals it. Earlier
// versions stay.
func (t *Tx) PutDocument(ctx context.Context, kind, id, action string, body []byte) error {
	if err := checkNames(kind, id); err != nil {
		return err
	}
	if _, err := t.exec(ctx, `INSERT INTO documents (kind, id, version, body)
		SELECT $1, $2, COALESCE(MAX(version)+1, 1), $3 FROM documents WHERE kind = $1 AND id = $2`, kind, id, string(body)); err != nil {
		return err
	}
	t.Record(journal.Draft{Action: action, Subject: id, Digest: inventory.Digest(body), Kind: kind})
	return nil
}

// Document returns the newest version of a document, or inventory.ErrNotFound.
func (s *Store) Document(ctx context.Context, kind, id string) ([]byte, error) {
	var body []byte
	err := row(ctx, s.read, []any{&body}, `SELECT body FROM documents WHERE kind = $1 AND id = $2 ORDER BY version DESC LIMIT 1`, kind, id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("%s %q: %w", kind, id, inventory.ErrNotFound)
	}
	return body, err
}

// DocumentVersions returns every version of a document, the oldest first, or
// inventory.ErrNotFound.
func (s *Store) DocumentVersions(ctx context.Context, kind, id string) ([][]byte, error) {
	all, err := queryAll(ctx, s.read, scanBytes, `SELECT body FROM documents WHERE kind = $1 AND id = $2 ORDER BY version`, kind, id)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("%s %q: %w", kind, id, inventory.ErrNotFound)
	}
	return all, err
}

// Documents returns the newest version of every document of a kind whose ID
// starts with prefix, in order of ID.
func (s *Store) Documents(ctx context.Context, kind, prefix string) ([][]byte, error) {
	q := documents(kind, prefix)
	return queryAll(ctx, s.read, scanBytes, `SELECT body FROM documents d`+q.where()+`
		AND version = (SELECT MAX(version) FROM documents m WHERE m.kind = d.kind AND m.id = d.id) ORDER BY id`, q.args...)
}

// DocumentIDs returns the IDs of the documents of a kind that start with prefix.
func (s *Store) DocumentIDs(ctx context.Context, kind, prefix string) ([]string, error) {
	q := documents(kind, prefix)
	return queryAll(ctx, s.read, scanString, `SELECT DISTINCT id FROM documents`+q.where()+` ORDER BY id`, q.args...)
}

func documents(kind, prefix string) (q query) {
	q.and("kind = %s", kind)
	q.starts("id", prefix)
	return q
}

// AddPlanItem keeps one line of a plan that is being made.
func (t *Tx) AddPlanItem(ctx context.Context, plan string, seq int64, body []byte) error {
	_, err := t.exec(ctx, `INSERT INTO plan_items (plan, seq, body) VALUES ($1, $2, $3)`, plan, seq, string(body))
	return err
}

// NamePlan gives a plan that was made under a provisional name the one it
// keeps: its digest. Making the same plan again changes nothing.
func (t *Tx) NamePlan(ctx context.Context, provisional, digest string) error {
	var n int
	if err := row(ctx, t.tx, []any{&n}, `SELECT COUNT(*) FROM documents WHERE kind = $1 AND id = $2`, KindPlan, digest); err != nil {
		return err
	}
	query := `UPDATE plan_items SET plan = $2 WHERE plan = $1`
	if n > 0 {
		query = `DELETE FROM plan_items WHERE plan = $1 AND $2 <> ''`
	}
	_, err := t.exec(ctx, query, provisional, digest)
	return err
}

// PlanItem is one line of a plan as it is kept.
type PlanItem struct {
	Seq  int64
	Body []byte
}

// PlanItems returns one page of a plan's lines after seq, in order.
func (s *Store) PlanItems(ctx context.Context, plan string, after int64, limit int) ([]PlanItem, error) {
	return queryAll(ctx, s.read, func(rows *sql.Rows) (i PlanItem, err error) {
		err = rows.Scan(&i.Seq, &i.Body)
		return i, err
	}, `SELECT seq, body FROM plan_items WHERE plan = $1 AND seq > $2 ORDER BY seq LIMIT $3`, plan, after, limit)
}

// Reissue is one signature that a plan makes: what became of one item in one
// format.
type Reissue struct {
	Plan        string
	Seq         int64
	Format      inventory.Format
	State       string
	Content     string // vault digest of the signed bytes, once there are any
	SignatureID string
	Why         string
}

// PutReissue keeps the state of a reissue.
func (t *Tx) PutReissue(ctx context.Context, r Reissue) error {
	_, err := t.exec(ctx, `INSERT INTO reissues (plan, seq, format, state, content, signature_id, why, at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (plan, seq, format) DO UPDATE SET state = excluded.state, content = excluded.content,
			signature_id = excluded.signature_id, why = excluded.why, at = excluded.at`,
		r.Plan, r.Seq, r.Format, r.State, r.Content, r.SignatureID, r.Why, t.now.Unix())
	return err
}

// Reissues returns what is recorded for the items of a plan from seq low to
// seq high, both included.
func (s *Store) Reissues(ctx context.Context, plan string, low, high int64) ([]Reissue, error) {
	return queryAll(ctx, s.read, scanReissue, `SELECT `+reissueColumns+` FROM reissues
		WHERE plan = $1 AND seq BETWEEN $2 AND $3 ORDER BY seq, format`, plan, low, high)
}

const reissueColumns = `plan, seq, format, state, content, signature_id, why`

func scanReissue(rows *sql.Rows) (r Reissue, err error) {
	err = rows.Scan(&r.Plan, &r.Seq, &r.Format, &r.State, &r.Content, &r.SignatureID, &r.Why)
	return r, err
}

// ReissuesBySignature returns what plans recorded of making some signatures, by
// the IDs of these, ordered by signature, plan, item and format.
func (s *Store) ReissuesBySignature(ctx context.Context, ids []string) (out []Reissue, err error) {
	ids = slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(ids))), func(id string) bool { return id == "" }) // none is signed yet
	for some := range slices.Chunk(ids, 500) {
		var q query
		in(&q, "signature_id", some)
		found, err := queryAll(ctx, s.read, scanReissue, `SELECT `+reissueColumns+` FROM reissues`+q.where()+` ORDER BY signature_id, plan, seq, format`, q.args...)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// ReissueCounts counts the reissues of a plan by state.
func (s *Store) ReissueCounts(ctx context.Context, plan string) (map[string]int64, error) {
	type row struct {
		state string
		n     int64
	}
	rows, err := queryAll(ctx, s.read, func(rows *sql.Rows) (r row, err error) {
		err = rows.Scan(&r.state, &r.n)
		return r, err
	}, `SELECT state, COUNT(*) FROM reissues WHERE plan = $1 GROUP BY state`, plan)
	out := map[string]int64{}
	for _, r := range rows {
		out[r.state] = r.n
	}
	return out, err
}
