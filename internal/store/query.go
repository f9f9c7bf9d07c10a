package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// query collects the conditions of a statement and its arguments.
type query struct {
	conditions []string
	args       []any
}

// and adds a condition; each %s in it is one of values, which reach the
// database as arguments.
func (q *query) and(condition string, values ...any) {
	marks := make([]any, len(values))
	for i, v := range values {
		marks[i] = q.mark(v)
	}
	q.conditions = append(q.conditions, fmt.Sprintf(condition, marks...))
}

// mark adds an argument and returns its placeholder.
func (q *query) mark(v any) string {
	q.args = append(q.args, v)
	return "$" + strconv.Itoa(len(q.args))
}

// marks adds a list of arguments.
func marks[S ~string](q *query, values []S) string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = q.mark(string(v))
	}
	return strings.Join(out, ", ")
}

// where returns the conditions as the WHERE clause of a statement.
func (q *query) where() string {
	if len(q.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(q.conditions, " AND ")
}

// in asks that an expression is one of values.
func in[S ~string](q *query, expression string, values []S) {
	q.conditions = append(q.conditions, expression+" IN ("+marks(q, values)+")")
}

// starts asks that a column starts with prefix, as a range of its index. A
// prefix is no pattern.
func (q *query) starts(column, prefix string) {
	if prefix == "" {
		return
	}
	q.and(column+" >= %s", prefix)
	if end := prefixEnd(prefix); end != "" {
		q.and(column+" < %s", end)
	}
}

// prefixEnd returns the first string after all those that start with prefix,
// in the order of code points, or "" when there is none.
func prefixEnd(prefix string) string {
	for prefix != "" {
		last, size := utf8.DecodeLastRuneInString(prefix)
		prefix = prefix[:len(prefix)-size]
		switch {
		case last == 0xD7FF: // surrogates are no text
			return prefix + "\uE000"
		case last < utf8.MaxRune:
			return prefix + string(last+1)
		}
	}
	return ""
}

// place asks for what stands after a place in the order of repository and the
// columns rest, among the repositories wanted. It is one range of an index that
// starts with these columns.
func (q *query) place(table, repository, prefix string, rest []string, after ...string) {
	columns, values := table+"repository", []any{after[0]}
	for i, c := range rest {
		columns += ", " + table + c
		values = append(values, after[i+1])
	}
	row := func(columns string, values []any) {
		q.and("("+columns+") > ("+strings.TrimSuffix(strings.Repeat("%s, ", len(values)), ", ")+")", values...)
	}
	switch {
	case repository != "":
		q.and(table+"repository = %s", repository)
		if !strings.HasPrefix(repository, prefix) {
			q.and("1 = 0")
		}
		switch strings.Compare(after[0], repository) {
		case 0:
			if len(rest) > 1 {
				row(strings.TrimPrefix(columns, table+"repository, "), values[1:])
			} else {
				q.and(table+rest[0]+" > %s", values[1])
			}
		case 1:
			q.and("1 = 0")
		}
	case after[0] < prefix:
		q.starts(table+"repository", prefix)
	default:
		row(columns, values)
		if end := prefixEnd(prefix); end != "" {
			q.and(table+"repository < %s", end)
		}
	}
}

// count writes a number of rows.
func count(n int) string { return strconv.Itoa(max(n, 0)) }

// Place is a position in the order artifacts are listed in: deployed first,
// then by repository and digest. The zero value stands before the first.
type Place struct {
	Listed     bool // whether the listing has got past the deployed ones
	Repository string
	Digest     string
}

// Selection says which artifacts are meant. Empty fields select everything.
type Selection struct {
	Signers []string // IDs: artifacts with a signature by any of them
	Digests []string // and these artifacts besides

	// Authorities selects, besides, artifacts with a signature at its place that
	// requires any of these or has a verified bound of it, on whatever side.
	Authorities []inventory.Authority

	Repository string // only in this repository
	Prefix     string // only in repositories whose name starts so
	Digest     string // only this artifact
	Tag        string // only what has this tag now

	// Alone selects artifacts with a signature, by one of Signers where these are
	// given, beside which no verified one by another trusted signer makes a
	// statement of the same type.
	Alone bool
}

// Artifacts returns one page of the artifacts selected, deployed first, and
// the place to go on from; an empty page is the end.
func (s *Store) Artifacts(ctx context.Context, sel Selection, after Place, limit int) (page []inventory.Artifact, next Place, err error) {
	next = after
	err = s.view(ctx, func(q querier) error {
		if !after.Listed {
			if page, err = deployed(ctx, q, sel, after, limit); err != nil || len(page) > 0 {
				return err
			}
			after, next = Place{Listed: true}, Place{Listed: true}
		}
		page, err = s.undeployed(ctx, q, sel, after, limit)
		return err
	})
	if err != nil {
		return nil, after, err
	}
	if len(page) > 0 {
		last := page[len(page)-1]
		next.Repository, next.Digest = last.Repository, last.Digest
	}
	return page, next, nil
}

// filter adds the conditions of a selection on the artifact a, but for Signers,
// Digests and Authorities.
func (sel Selection) filter(q *query) {
	if sel.Digest != "" {
		q.and("a.digest = %s", sel.Digest)
	}
	if sel.Tag != "" {
		q.and(`EXISTS (SELECT 1 FROM tags t WHERE t.repository = a.repository AND t.tag = %s AND t.digest = a.digest)`, sel.Tag)
	}
	if sel.Alone {
		q.conditions = append(q.conditions, `EXISTS (SELECT 1 FROM signatures g WHERE g.repository = a.repository AND g.digest = a.digest
			AND NOT g.gone`+ofAny(q, sel.Signers)+` AND `+aloneBeside(q, sel.Signers)+`)`)
	}
}

// ofAny asks that the signature g, found by its artifact, is by one of signers.
// As an expression the signer keeps SQLite from seeking once for each of them
// rather than once.
func ofAny(q *query, signers []string) string {
	switch len(signers) {
	case 0:
		return ""
	case 1:
		return " AND g.signer = " + q.mark(signers[0])
	}
	return " AND g.signer || '' IN (" + marks(q, signers) + ")"
}

// aloneBeside asks that no verified signature by a trusted signer, other than
// these and its own, says on the artifact what the signature g says.
func aloneBeside(q *query, signers []string) string {
	not := ""
	if len(signers) > 0 {
		not = " AND h.signer NOT IN (" + marks(q, signers) + ")"
	}
	return `NOT EXISTS (SELECT 1 FROM signatures h JOIN signers o ON o.id = h.signer
		WHERE h.repository = g.repository AND h.digest = g.digest AND h.predicate_type = g.predicate_type
		AND h.verified AND NOT h.gone AND h.signer <> g.signer` + not + ` AND o.state IN (` + marks(q, trusted()) + `))`
}

func trusted() (states []signer.State) {
	for _, st := range []signer.State{signer.Observed, signer.Standby, signer.Active, signer.Old, signer.Tainted, signer.Revoked} {
		if st.Trusted() {
			states = append(states, st)
		}
	}
	return states
}

// deployed returns a page of the deployed artifacts selected. There are few of
// them beside the rest, so each is asked for its signers.
func deployed(ctx context.Context, db querier, sel Selection, after Place, limit int) ([]inventory.Artifact, error) {
	var q query
	q.and("d.deployed") // its own index, of which d needs no more
	q.place("d.", sel.Repository, sel.Prefix, []string{"digest"}, after.Repository, after.Digest)
	q.and("a.repository = d.repository AND a.digest = d.digest")
	var by []string
	if len(sel.Signers) > 0 {
		by = append(by, `EXISTS (SELECT 1 FROM signatures g WHERE g.repository = a.repository AND g.digest = a.digest`+ofAny(&q, sel.Signers)+`)`)
	}
	if len(sel.Digests) > 0 {
		by = append(by, `a.digest IN (`+marks(&q, sel.Digests)+`)`)
	}
	if len(sel.Authorities) > 0 {
		by = append(by, restsOnAny(&q, sel.Authorities))
	}
	if len(by) > 0 {
		q.and("(" + strings.Join(by, " OR ") + ")")
	}
	sel.filter(&q)
	return queryAll(ctx, db, scanArtifact, `SELECT `+artifactColumns+` FROM artifacts d CROSS JOIN artifacts a`+q.where()+
		` ORDER BY d.repository, d.digest LIMIT `+count(limit), q.args...)
}

// undeployed returns a page of the other artifacts selected. Each signer's are
// read in order from its part of an index, and the pages merged: what a signer
// adds has to stand before the last of a page that is full already. What rests on
// an authority is in no order of the index by authority: it is sorted where it is
// little, and else found by asking each artifact, most of which then have it.
func (s *Store) undeployed(ctx context.Context, db querier, sel Selection, after Place, limit int) (page []inventory.Artifact, err error) {
	read := func(from, table string, by func(*query)) error {
		var q query
		q.and("NOT a.deployed")
		if by != nil {
			by(&q)
		}
		q.place(table, sel.Repository, sel.Prefix, []string{"digest"}, after.Repository, after.Digest)
		if len(page) == limit {
			last := page[limit-1]
			q.and("("+table+"repository, "+table+"digest) < (%s, %s)", last.Repository, last.Digest)
		}
		sel.filter(&q)
		more, err := queryAll(ctx, db, scanArtifact, `SELECT `+artifactColumns+` FROM `+from+q.where()+
			` ORDER BY `+table+`repository, `+table+`digest LIMIT `+count(limit), q.args...)
		if err != nil {
			return err
		}
		page = append(page, more...)
		slices.SortFunc(page, func(a, b inventory.Artifact) int {
			return compare(a.Repository, b.Repository, a.Digest, b.Digest)
		})
		page = slices.CompactFunc(page, func(a, b inventory.Artifact) bool { return a.Repository == b.Repository && a.Digest == b.Digest })
		page = page[:min(len(page), limit)]
		return nil
	}
	if len(sel.Signers)+len(sel.Digests)+len(sel.Authorities) == 0 {
		err := read("artifacts a", "a.", nil)
		return page, err
	}
	for _, id := range sel.Signers {
		if err := read("signatures g CROSS JOIN artifacts a", "g.", func(q *query) {
			q.and("g.signer = %s", id)
			q.and("a.repository = g.repository AND a.digest = g.digest")
			// The first of its signatures stands for all; to group them would sort them.
			q.and(`NOT EXISTS (SELECT 1 FROM signatures f WHERE f.signer = g.signer AND f.repository = g.repository AND f.digest = g.digest AND f.seq < g.seq)`)
		}); err != nil {
			return nil, err
		}
	}
	if len(sel.Digests) > 0 {
		if err := read("artifacts a", "a.", func(q *query) { in(q, "a.digest", sel.Digests) }); err != nil {
			return nil, err
		}
	}
	var many []inventory.Authority
	for _, by := range sel.Authorities {
		few := query{}
		few.and("c.role = %s AND c.authority = %s AND c.verified", string(by.Role), by.ID)
		if !s.isFew(ctx, db, "bounds c", few) {
			many = append(many, by)
			continue
		}
		if err := read("artifacts a", "a.", func(q *query) {
			q.and(`(a.repository, a.digest) IN (SELECT g.repository, g.digest FROM bounds c CROSS JOIN signatures g
				WHERE c.role = %s AND c.authority = %s AND c.verified AND g.seq = c.signature AND NOT g.gone)`, string(by.Role), by.ID)
		}); err != nil {
			return nil, err
		}
	}
	if len(many) > 0 {
		if err := read("artifacts a", "a.", func(q *query) { q.conditions = append(q.conditions, restsOnAny(q, many)) }); err != nil {
			return nil, err
		}
	}
	return page, nil
}

// restsOnAny asks that the artifact a has a signature at its place with verified
// evidence of any of these authorities.
func restsOnAny(q *query, authorities []inventory.Authority) string {
	of := make([]string, len(authorities))
	for i, by := range authorities {
		of[i] = `EXISTS (SELECT 1 FROM signatures g CROSS JOIN bounds b WHERE g.repository = a.repository AND g.digest = a.digest AND NOT g.gone
			AND b.signature = g.seq AND b.verified AND b.role = ` + q.mark(string(by.Role)) + ` AND b.authority = ` + q.mark(by.ID) + `)`
	}
	return "(" + strings.Join(of, " OR ") + ")"
}

// compare orders by several keys, given in pairs.
func compare(pairs ...string) int {
	for i := 0; i < len(pairs); i += 2 {
		if c := strings.Compare(pairs[i], pairs[i+1]); c != 0 {
			return c
		}
	}
	return 0
}

// filter adds the conditions of a filter on the signature g, but for Signers
// and where it is.
func (f SignatureFilter) filter(q *query) {
	if f.Format != "" {
		q.and("g.format = %s", string(f.Format))
	}
	if f.Predicate != "" {
		q.and("g.predicate_type = %s", f.Predicate)
	}
	if f.Verified != nil {
		q.and("g.verified = %s", *f.Verified)
	}
	if !f.From.IsZero() {
		q.and("CASE WHEN g.not_after <> 0 THEN g.not_after ELSE g.first_seen END >= %s", ceiling(f.From))
	}
	if !f.Until.IsZero() {
		q.and("(g.not_before = 0 OR g.not_before < %s)", ceiling(f.Until))
	}
	if f.Alone {
		q.conditions = append(q.conditions, aloneBeside(q, f.Signers))
	}
	if f.RestsOn != nil {
		q.and("EXISTS (SELECT 1 FROM bounds b WHERE b.signature = g.seq AND b.role = %s AND b.authority = %s AND b.verified AND b.alone)",
			string(f.RestsOn.Role), f.RestsOn.ID)
	}
	if !f.Gone {
		q.and("NOT g.gone")
	}
}

// ceiling returns the first whole second that is not before a time.
func ceiling(t time.Time) int64 {
	s := t.Unix()
	if t.Nanosecond() > 0 {
		s++
	}
	return s
}

// signatureKey is where a signature stands, and its row.
type signatureKey struct {
	SignaturePlace
	seq int64
}

// Signatures returns one page of the signatures selected, by repository,
// digest and ID, and the place to go on from; an empty page is the end.
func (s *Store) Signatures(ctx context.Context, f SignatureFilter, after SignaturePlace, limit int) (page []inventory.Signature, next SignaturePlace, err error) {
	err = s.view(ctx, func(db querier) error {
		keys, err := s.selectSignatures(ctx, db, f, after, limit)
		if err != nil || len(keys) == 0 {
			return err
		}
		q := query{}
		seqs := make([]string, len(keys))
		for i, k := range keys {
			seqs[i] = q.mark(k.seq)
		}
		page, err = plain(signatures(ctx, db, ` WHERE g.seq IN (`+strings.Join(seqs, ", ")+`) ORDER BY g.repository, g.digest, g.id, b.n`, q.args...))
		next = keys[len(keys)-1].SignaturePlace
		return err
	})
	if err != nil || len(page) == 0 {
		return nil, after, err
	}
	return page, next, nil
}

func (s *Store) selectSignatures(ctx context.Context, db querier, f SignatureFilter, after SignaturePlace, limit int) (page []signatureKey, err error) {
	read := func(from string, by func(*query)) error {
		var q query
		if by != nil {
			by(&q)
		}
		q.place("g.", f.Repository, f.Prefix, []string{"digest", "id"}, after.Repository, after.Digest, after.ID)
		if f.Digest != "" {
			q.digest("g.digest", f.Digest)
		}
		if len(page) == limit {
			last := page[limit-1]
			q.and("(g.repository, g.digest, g.id) < (%s, %s, %s)", last.Repository, last.Digest, last.ID)
		}
		f.filter(&q)
		more, err := queryAll(ctx, db, func(rows *sql.Rows) (k signatureKey, err error) {
			err = rows.Scan(&k.Repository, &k.Digest, &k.ID, &k.seq)
			return k, err
		}, `SELECT g.repository, g.digest, g.id, g.seq FROM `+from+q.where()+` ORDER BY g.repository, g.digest, g.id LIMIT `+count(limit), q.args...)
		if err != nil {
			return err
		}
		page = append(page, more...)
		slices.SortFunc(page, func(a, b signatureKey) int {
			return compare(a.Repository, b.Repository, a.Digest, b.Digest, a.ID, b.ID)
		})
		page = slices.Compact(page)
		page = page[:min(len(page), limit)]
		return nil
	}
	byDigest, byAuthority := query{}, query{}
	if f.Digest != "" {
		byDigest.digest("a.digest", f.Digest)
	}
	if f.RestsOn != nil {
		byAuthority.and("c.role = %s AND c.authority = %s AND c.verified", string(f.RestsOn.Role), f.RestsOn.ID)
	}
	switch {
	case f.Repository != "" && len(f.Signers) == 0:
		err = read("signatures g", nil)
	case f.Digest != "" && s.isFew(ctx, db, "artifacts a", byDigest):
		err = read("artifacts a CROSS JOIN signatures g", func(q *query) {
			q.digest("a.digest", f.Digest)
			q.and("g.repository = a.repository AND g.digest = a.digest")
			if len(f.Signers) > 0 {
				in(q, "g.signer || ''", f.Signers)
			}
		})
	case len(f.Signers) > 0:
		for _, id := range f.Signers {
			if err = read("signatures g", func(q *query) { q.and("g.signer = %s", id) }); err != nil {
				break
			}
		}
	case f.RestsOn != nil && s.isFew(ctx, db, "bounds c", byAuthority):
		err = read("bounds c CROSS JOIN signatures g", func(q *query) {
			q.and("c.role = %s AND c.authority = %s AND c.verified AND c.alone", string(f.RestsOn.Role), f.RestsOn.ID)
			q.and("g.seq = c.signature")
		})
	default:
		err = read("signatures g", nil)
	}
	return page, err
}

// digest asks for one digest, or those that start with the text given.
func (q *query) digest(column, text string) {
	if inventory.CheckDigest(text) == nil {
		q.and(column+" = %s", text)
		return
	}
	q.starts(column, text)
}

// isFew reports whether a query has few rows, by reading no more of them. An
// error shows again in the query that follows.
func (s *Store) isFew(ctx context.Context, db querier, from string, q query) bool {
	var n int
	err := row(ctx, db, []any{&n}, `SELECT COUNT(*) FROM (SELECT 1 FROM `+from+q.where()+` LIMIT `+count(s.few+1)+`) x`, q.args...)
	return err == nil && n <= s.few
}

// Blast is how much hangs on a set of signers, counted.
type Blast struct {
	Artifacts    int64
	Signatures   int64 // ever seen: who could sign could also take away
	Gone         int64 // of the signatures: no longer at their place
	Deployed     int64 // of the artifacts
	Repositories int64
	First, Last  time.Time // sightings of the signatures; zero: there are none
}

// Blast counts what hangs on signers, given by ID.
func (s *Store) Blast(ctx context.Context, signers []string) (b Blast, err error) {
	if len(signers) == 0 {
		return b, nil
	}
	err = s.view(ctx, func(db querier) error {
		// Three passes over the signers' part of an index, none of which sorts:
		// together they take less time than one that groups.
		var q query
		in(&q, "signer", signers)
		var first, last int64
		if err := row(ctx, db, []any{&b.Signatures, &b.Gone, &b.Repositories, &first, &last},
			`SELECT COUNT(*), COUNT(*) FILTER (WHERE gone), COUNT(DISTINCT repository), COALESCE(MIN(first_seen), 0), COALESCE(MAX(first_seen), 0)
			FROM signatures`+q.where(), q.args...); err != nil {
			return err
		}
		if first > 0 {
			b.First, b.Last = moment(first), moment(last)
		}
		if err := row(ctx, db, []any{&b.Artifacts}, `SELECT COUNT(*) FROM (SELECT DISTINCT repository, digest FROM signatures`+q.where()+`) d`, q.args...); err != nil {
			return err
		}
		q = query{}
		q.and("a.deployed")
		q.conditions = append(q.conditions, `EXISTS (SELECT 1 FROM signatures g
			WHERE g.repository = a.repository AND g.digest = a.digest`+ofAny(&q, signers)+`)`)
		return row(ctx, db, []any{&b.Deployed}, `SELECT COUNT(*) FROM artifacts a`+q.where(), q.args...)
	})
	return b, err
}

// AuthoritySummary is an authority with what rests on it: signatures at their
// place with verified evidence of it, and those of which all proof of time, or
// the certificate, stands on it alone.
type AuthoritySummary struct {
	inventory.Authority
	Signatures int64
	Alone      int64
}

// Authorities lists the authorities whose evidence verified, by role and ID.
func (s *Store) Authorities(ctx context.Context) (out []AuthoritySummary, err error) {
	err = s.view(ctx, func(db querier) error {
		var gone int64
		if err := row(ctx, db, []any{&gone}, `SELECT COUNT(*) FROM signatures WHERE gone`); err != nil {
			return err
		}
		for at := (inventory.Authority{}); ; {
			// From one authority to the next, along the index.
			found, err := queryAll(ctx, db, func(rows *sql.Rows) (a inventory.Authority, err error) {
				err = rows.Scan(&a.Role, &a.ID)
				return a, err
			}, `SELECT role, authority FROM bounds WHERE verified AND (role, authority) > ($1, $2) ORDER BY role, authority LIMIT 1`, string(at.Role), at.ID)
			if err != nil || len(found) == 0 {
				return err
			}
			at = found[0]
			sum, err := resting(ctx, db, at, gone)
			if err != nil {
				return err
			}
			out = append(out, sum)
		}
	})
	return out, err
}

// resting counts what rests on an authority, where that many signatures are gone.
func resting(ctx context.Context, db querier, on inventory.Authority, gone int64) (AuthoritySummary, error) {
	sum := AuthoritySummary{Authority: on}
	if err := row(ctx, db, []any{&sum.Signatures, &sum.Alone}, restOn("bounds b", "b.verified"), string(on.Role), on.ID); err != nil {
		return sum, err
	}
	if gone > 0 {
		var signatures, alone int64
		if err := row(ctx, db, []any{&signatures, &alone}, restOn("signatures g CROSS JOIN bounds b", "g.gone AND b.signature = g.seq AND b.verified"),
			string(on.Role), on.ID); err != nil {
			return sum, err
		}
		sum.Signatures, sum.Alone = sum.Signatures-signatures, sum.Alone-alone
	}
	return sum, nil
}

// AuthorityUse is how much would be touched if an authority were no longer
// trusted.
type AuthorityUse struct {
	AuthoritySummary
	Deployed int64     // artifacts with a signature at its place that rests on it
	Latest   time.Time // of the verified times it gave; zero: it gives none
}

// RestingOn counts what rests on each of these authorities.
func (s *Store) RestingOn(ctx context.Context, authorities []inventory.Authority) (out []AuthorityUse, err error) {
	err = s.view(ctx, func(db querier) error {
		var gone int64
		if err := row(ctx, db, []any{&gone}, `SELECT COUNT(*) FROM signatures WHERE gone`); err != nil {
			return err
		}
		for _, on := range authorities {
			sum, err := resting(ctx, db, on, gone)
			if err != nil {
				return err
			}
			use := AuthorityUse{AuthoritySummary: sum}
			q := query{}
			q.and("a.deployed")
			q.conditions = append(q.conditions, restsOnAny(&q, []inventory.Authority{on}))
			if err := row(ctx, db, []any{&use.Deployed}, `SELECT COUNT(*) FROM artifacts a`+q.where(), q.args...); err != nil {
				return err
			}
			var latest int64
			if err := row(ctx, db, []any{&latest}, `SELECT COALESCE(MAX(b.time), 0) FROM bounds b WHERE b.role = $1 AND b.authority = $2 AND b.verified AND b.side = $3`,
				string(on.Role), on.ID, string(inventory.Upper)); err != nil {
				return err
			}
			if latest != 0 {
				use.Latest = moment(latest)
			}
			out = append(out, use)
		}
		return nil
	})
	return out, err
}

// restOn counts the signatures with evidence of an authority ($1, $2), and of
// these those that rest on it alone.
func restOn(from, where string) string {
	distinct := `(SELECT COUNT(*) FROM (SELECT DISTINCT b.signature FROM ` + from + ` WHERE ` + where + ` AND b.role = $1 AND b.authority = $2`
	return `SELECT ` + distinct + `) s), ` + distinct + ` AND b.alone) s)`
}
