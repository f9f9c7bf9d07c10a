package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
)

// Scan is one reading of a repository, from its list of tags to its last
// signature. Where it stands is kept, so that it goes on after an interruption.
type Scan struct {
	ID         int64
	Repository string
	Started    time.Time
}

// resumable is how old an interrupted scan may be to be continued. What it has
// looked at is not looked at again, and must be as good as seen now. An older one
// begins anew, and what it fetched is not fetched again all the same.
const resumable = 15 * time.Minute

// BeginScan starts the scan of a repository. One that was interrupted and is
// less than a quarter of an hour old is continued under its ID.
func (s *Store) BeginScan(ctx context.Context, by journal.Author, repository string) (Scan, error) {
	if err := checkNames(repository); err != nil {
		return Scan{}, err
	}
	var sc Scan
	err := s.Update(ctx, by, func(tx *Tx) error {
		found, err := queryAll(ctx, tx.tx, func(rows *sql.Rows) (Scan, error) {
			sc, started := Scan{Repository: repository}, int64(0)
			err := rows.Scan(&sc.ID, &started)
			sc.Started = moment(started)
			return sc, err
		}, `SELECT id, started FROM scans WHERE repository = $1 AND ended = 0 AND started > $2 ORDER BY id DESC LIMIT 1`,
			repository, tx.now.Add(-resumable).Unix())
		if err != nil {
			return err
		}
		if len(found) > 0 {
			sc = found[0]
			return nil
		}
		sc = Scan{Repository: repository, Started: tx.now}
		if err := row(ctx, tx.tx, []any{&sc.ID}, `SELECT COALESCE(MAX(id), 0) + 1 FROM scans`); err != nil {
			return err
		}
		if _, err := tx.scratch(ctx, `INSERT INTO scans (id, repository, started, ended) VALUES ($1, $2, $3, 0)`,
			sc.ID, repository, tx.now.Unix()); err != nil {
			return err
		}
		_, err = tx.scratch(ctx, `DELETE FROM scans WHERE repository = $1 AND id < $2`, repository, sc.ID)
		return err
	})
	return sc, err
}

// Listed keeps the names of tags that the registry lists. What they name is not
// known until PutTag.
func (t *Tx) Listed(ctx context.Context, sc Scan, tags []string) error {
	if err := checkNames(tags...); err != nil {
		return err
	}
	for _, tag := range tags {
		if _, err := t.scratch(ctx, `INSERT INTO tags (repository, tag, digest, signature, listed, checked) VALUES ($1, $2, '', $3, $4, 0)
			ON CONFLICT (repository, tag) DO UPDATE SET listed = excluded.listed WHERE tags.listed < excluded.listed`,
			sc.Repository, tag, signatureTag.MatchString(tag), sc.ID); err != nil {
			return err
		}
	}
	return nil
}

// PutTag says what a tag names, and that this scan has looked. A later scan by
// somebody else, which this one did not notice, keeps what it noted.
func (t *Tx) PutTag(ctx context.Context, sc Scan, tag, digest string) error {
	if err := checkNames(tag, digest); err != nil {
		return err
	}
	same, err := t.scratch(ctx, `UPDATE tags SET listed = CASE WHEN listed < $1 THEN $1 ELSE listed END,
		checked = CASE WHEN checked < $1 THEN $1 ELSE checked END WHERE repository = $2 AND tag = $3 AND digest = $4`,
		sc.ID, sc.Repository, tag, digest)
	if err != nil || same > 0 {
		return err
	}
	if _, err := t.exec(ctx, `INSERT INTO tags (repository, tag, digest, signature, listed, checked) VALUES ($1, $2, $3, $4, $5, $5)
		ON CONFLICT (repository, tag) DO UPDATE SET digest = excluded.digest,
			listed = CASE WHEN tags.listed < excluded.listed THEN excluded.listed ELSE tags.listed END,
			checked = CASE WHEN tags.checked < excluded.checked THEN excluded.checked ELSE tags.checked END`,
		sc.Repository, tag, digest, signatureTag.MatchString(tag), sc.ID); err != nil {
		return err
	}
	return t.sight(ctx, "tag.seen", sc.Repository+":"+tag, digest)
}

// RemoveTag forgets a tag that is not in the repository any more.
func (t *Tx) RemoveTag(ctx context.Context, sc Scan, tag string) error {
	q := query{}
	q.and("repository = %s", sc.Repository)
	q.and("tag = %s", tag)
	return t.removeTags(ctx, sc, q)
}

func (t *Tx) removeTags(ctx context.Context, sc Scan, q query) error {
	for {
		gone, err := queryAll(ctx, t.tx, scanTag, `SELECT tag, digest FROM tags`+q.where()+` ORDER BY tag LIMIT 1000`, q.args...)
		if err != nil || len(gone) == 0 {
			return err
		}
		for _, tag := range gone {
			if _, err := t.scratch(ctx, `DELETE FROM tags WHERE repository = $1 AND tag = $2`, sc.Repository, tag.Name); err != nil {
				return err
			}
			if tag.Digest == "" {
				continue // nothing was ever said of it
			}
			t.changed = true
			if err := t.sight(ctx, "tag.gone", sc.Repository+":"+tag.Name, tag.Digest); err != nil {
				return err
			}
		}
	}
}

// EndScan finishes a scan. Tags that neither it nor a later one listed are removed: what they
// held is for the scanner to mark as gone before, see TagsGone.
func (t *Tx) EndScan(ctx context.Context, sc Scan) error {
	q := query{}
	q.and("repository = %s", sc.Repository)
	q.and("listed < %s", sc.ID)
	if err := t.removeTags(ctx, sc, q); err != nil {
		return err
	}
	_, err := t.scratch(ctx, `UPDATE scans SET ended = $1 WHERE id = $2`, t.now.Unix(), sc.ID)
	return err
}

// Tag is a tag of a repository.
type Tag struct {
	Name   string
	Digest string // what it named when last looked at; empty: not known yet
}

func scanTag(rows *sql.Rows) (t Tag, err error) {
	err = rows.Scan(&t.Name, &t.Digest)
	return t, err
}

// Unchecked returns one page of the tags that a scan has listed and not looked
// at, after a name and in order of name: those that hold signatures, or the
// others.
func (s *Store) Unchecked(ctx context.Context, sc Scan, signature bool, after string, limit int) ([]Tag, error) {
	return queryAll(ctx, s.read, scanTag, `SELECT tag, digest FROM tags
		WHERE repository = $1 AND tag > $2 AND listed = $3 AND checked < $3 AND signature = $4 ORDER BY tag LIMIT $5`,
		sc.Repository, after, sc.ID, signature, limit)
}

// TagsGone returns one page of the tags of a repository that neither a scan nor
// a later one listed, after a name and in order of name. It is meant for when
// all is listed.
func (s *Store) TagsGone(ctx context.Context, sc Scan, after string, limit int) ([]Tag, error) {
	return queryAll(ctx, s.read, scanTag, `SELECT tag, digest FROM tags
		WHERE repository = $1 AND tag > $2 AND listed < $3 ORDER BY tag LIMIT $4`, sc.Repository, after, sc.ID, limit)
}

// TagCounts counts the tags that a scan has listed, and those it has looked at.
func (s *Store) TagCounts(ctx context.Context, sc Scan) (images, signatures, checked int64, err error) {
	err = row(ctx, s.read, []any{&images, &signatures, &checked}, `SELECT COUNT(*) FILTER (WHERE NOT signature), COUNT(*) FILTER (WHERE signature),
		COUNT(*) FILTER (WHERE checked = $2) FROM tags WHERE repository = $1 AND listed = $2`, sc.Repository, sc.ID)
	return images, signatures, checked, err
}

// TagsNamed returns those of some tags that a repository has, with what they
// named when last looked at: empty for one that was listed and no more.
func (s *Store) TagsNamed(ctx context.Context, repository string, names []string) (map[string]string, error) {
	out := make(map[string]string, len(names))
	for len(names) > 0 {
		n := min(len(names), 500)
		var q query
		q.and("repository = %s", repository)
		in(&q, "tag", names[:n])
		found, err := queryAll(ctx, s.read, scanTag, `SELECT tag, digest FROM tags`+q.where(), q.args...)
		if err != nil {
			return nil, err
		}
		for _, t := range found {
			out[t.Name] = t.Digest
		}
		names = names[n:]
	}
	return out, nil
}

// TagsAt returns the tags of a repository that named a digest when last looked
// at, those that hold signatures included.
func (s *Store) TagsAt(ctx context.Context, repository, digest string) ([]string, error) {
	return queryAll(ctx, s.read, scanString, `SELECT tag FROM tags WHERE repository = $1 AND digest = $2 ORDER BY tag`, repository, digest)
}

// ReferrerState is an artifact with the fingerprint of the list of its
// referrers as last seen; empty: never.
type ReferrerState struct{ Digest, Fingerprint string }

// UnreadReferrers returns one page of the artifacts of a repository whose
// referrers a scan has not asked for, after a digest and in order.
func (s *Store) UnreadReferrers(ctx context.Context, sc Scan, after string, limit int) ([]ReferrerState, error) {
	return queryAll(ctx, s.read, func(rows *sql.Rows) (r ReferrerState, err error) {
		err = rows.Scan(&r.Digest, &r.Fingerprint)
		return r, err
	}, `SELECT digest, referrers FROM artifacts WHERE repository = $1 AND digest > $2 AND asked <> $3 ORDER BY digest LIMIT $4`,
		sc.Repository, after, sc.ID, limit)
}

// PutReferrers keeps the fingerprint of the list of an artifact's referrers,
// and that this scan has asked for it.
func (t *Tx) PutReferrers(ctx context.Context, sc Scan, digest, fingerprint string) error {
	n, err := t.scratch(ctx, `UPDATE artifacts SET referrers = $1, asked = $2 WHERE repository = $3 AND digest = $4`,
		fingerprint, sc.ID, sc.Repository, digest)
	if err == nil && n == 0 {
		err = fmt.Errorf("%s@%s: %w in the inventory", sc.Repository, digest, inventory.ErrNotFound)
	}
	return err
}

// LookAgain makes the next scan of a repository read anew what is said about an
// artifact there, though it may be as it was: what was taken away may be pushed
// again, byte for byte. location is the repository that holds it.
func (t *Tx) LookAgain(ctx context.Context, repository, digest, location string) error {
	tag := strings.Replace(digest, ":", "-", 1)
	if _, err := t.scratch(ctx, `UPDATE tags SET digest = '' WHERE repository = $1 AND tag IN ($2, $3, $4)`, location, tag, tag+".sig", tag+".att"); err != nil {
		return err
	}
	_, err := t.scratch(ctx, `UPDATE artifacts SET referrers = '' WHERE repository = $1 AND digest = $2`, repository, digest)
	return err
}
