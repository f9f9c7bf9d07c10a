package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
)

// stored is a signature with the number of its row.
type stored struct {
	seq int64
	inventory.Signature
}

// requires is the side of the rows that hold Signature.Requires.
const requires = "requires"

// PutSignature adds a signature, or what is new about one that is known. The
// first sighting is kept and journaled with the digest of the stored bytes.
// Proofs are only ever added: a copy of the signature without them, which
// anybody can push, takes nothing away.
func (t *Tx) PutSignature(ctx context.Context, s inventory.Signature) error {
	s = normal(s)
	if err := checkNames(s.ID, s.Manifest); err != nil {
		return err
	}
	if err := t.attach(ctx, s); err != nil {
		return err
	}
	s.FirstSeen, s.Gone = t.now, false
	added, err := t.insertSignature(ctx, s)
	if err != nil {
		return err
	}
	if added {
		return t.sightSignature(ctx, signatureSeen, s)
	}
	known, err := t.signature(ctx, s.ID)
	if err != nil {
		return err
	}
	changed, err := t.merge(ctx, known, s)
	if err != nil || !changed {
		return err
	}
	return t.sightSignature(ctx, "signature.reverified", s)
}

// The actions of the sightings that give a signature its ID: when it is first
// seen, and when its signer becomes known.
const (
	signatureSeen       = "signature.seen"
	signatureIdentified = "signature.identified"
)

// sightedSignature returns the ID of the signature that a sighting brought, the
// ID that it had before its signer was known, and the artifact it is on.
func sightedSignature(d journal.Draft) (id, was, on string, ok bool) {
	about, on, ok := strings.Cut(d.Subject, " on ")
	switch {
	case !ok:
		return "", "", "", false
	case d.Action == signatureSeen:
		return about, "", on, true
	case d.Action == signatureIdentified:
		id, was, ok = strings.Cut(about, " was ")
		return id, was, on, ok
	}
	return "", "", "", false
}

func (t *Tx) sightSignature(ctx context.Context, action string, s inventory.Signature) error {
	return t.sight(ctx, action, s.ID+" on "+s.Repository+"@"+s.Digest, s.Content)
}

// attach makes sure that the artifact of a signature is in the inventory:
// whoever asks which artifacts a signer signed must be told of it.
func (t *Tx) attach(ctx context.Context, s inventory.Signature) error {
	if t.artifact == [2]string{s.Repository, s.Digest} {
		return nil
	}
	return t.PutArtifact(ctx, inventory.Artifact{Repository: s.Repository, Digest: s.Digest})
}

// normal returns a signature as the database gives it back.
func normal(s inventory.Signature) inventory.Signature {
	s.Value = nil
	if s.Location == s.Repository {
		s.Location = ""
	}
	s.Why, s.Names, s.PredicateType = clean(s.Why), clean(s.Names), clean(s.PredicateType)
	if len(s.Requires) == 0 {
		s.Requires = nil
	}
	s.Bounds = slices.Clone(s.Bounds)
	if len(s.Bounds) == 0 {
		s.Bounds = nil
	}
	for i := range s.Bounds {
		b := &s.Bounds[i]
		b.Time, b.Why, b.Authority.ID = moment(b.Time.Unix()), clean(b.Why), clean(b.Authority.ID)
	}
	return s
}

// insertSignature adds a signature and reports whether its ID was free.
func (t *Tx) insertSignature(ctx context.Context, s inventory.Signature) (bool, error) {
	if t.next == 0 {
		if err := row(ctx, t.tx, []any{&t.next}, `SELECT COALESCE(MAX(seq), 0) + 1 FROM signatures`); err != nil {
			return false, err
		}
	}
	by, err := t.observe(ctx, s.Signer)
	if err != nil {
		return false, err
	}
	certificate, err := marshalCertificate(s)
	if err != nil {
		return false, err
	}
	after, before := window(s.Bounds)
	n, err := t.exec(ctx, `INSERT INTO signatures (seq, id, repository, digest, format, location, manifest, content, predicate_type,
			payload_digest, names, signer, certificate, verified, why, not_before, not_after, first_seen, gone)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, FALSE)
		ON CONFLICT (id) DO NOTHING`,
		t.next, s.ID, s.Repository, s.Digest, string(s.Format), s.Location, s.Manifest, s.Content, s.PredicateType,
		s.PayloadDigest, s.Names, by, certificate, s.Verified, s.Why, after, before, s.FirstSeen.Unix())
	if err != nil {
		return false, fmt.Errorf("signature %.80q: %w", s.ID, err)
	}
	if n == 0 {
		return false, nil
	}
	t.next++
	return true, t.insertBounds(ctx, stored{t.next - 1, s})
}

// marshalCertificate returns what the certificate column holds.
func marshalCertificate(s inventory.Signature) (string, error) {
	if s.Certificate == nil {
		return "", nil
	}
	raw, err := json.Marshal(s.Certificate)
	if err != nil {
		return "", fmt.Errorf("signature %s: certificate: %w", s.ID, err)
	}
	return string(raw), nil
}

// window returns the latest verified lower and the earliest verified upper
// bound, in seconds, or 0.
func window(bounds []inventory.Bound) (notBefore, notAfter int64) {
	for _, b := range bounds {
		at := b.Time.Unix()
		switch {
		case !b.Verified:
		case b.Side == inventory.Lower && (notBefore == 0 || at > notBefore):
			notBefore = at
		case b.Side == inventory.Upper && (notAfter == 0 || at < notAfter):
			notAfter = at
		}
	}
	return notBefore, notAfter
}

// alone reports whether a verified upper bound is the only proof of its kind:
// no other authority proves by when the signature existed. Our own journal
// proves it to us and to no consumer: a signature with one timestamp rests on
// its authority alone, whatever the journal says, and rests on the journal alone
// only if nobody else proves its time.
func alone(b inventory.Bound, all []inventory.Bound) bool {
	return b.Verified && b.Side == inventory.Upper && !slices.ContainsFunc(all, func(o inventory.Bound) bool {
		return o.Verified && o.Side == inventory.Upper && o.Authority != b.Authority &&
			(o.Authority.Role != inventory.RoleJournal || b.Authority.Role == inventory.RoleJournal)
	})
}

func (t *Tx) insertBounds(ctx context.Context, s stored) error {
	rows := make([]any, 0, (len(s.Bounds)+len(s.Requires))*boundColumns)
	for i, b := range s.Bounds {
		if b.Verified { // an index has these
			if err := checkNames(b.Authority.ID); err != nil {
				return err
			}
		}
		rows = append(rows, s.seq, int64(i), string(b.Side), b.Time.Unix(), string(b.Authority.Role), b.Authority.ID,
			b.Verified, s.Verified && alone(b, s.Bounds), b.Why)
	}
	for i, a := range s.Requires {
		if err := checkNames(a.ID); err != nil {
			return err
		}
		rows = append(rows, s.seq, int64(len(s.Bounds)+i), requires, int64(0), string(a.Role), a.ID, s.Verified, s.Verified, "")
	}
	most := 1 // SQLite keeps a journal of its own for a statement of more
	if t.store.postgres {
		most = len(insertBounds)
	}
	for len(rows) > 0 {
		n := min(len(rows)/boundColumns, most)
		if _, err := t.exec(ctx, insertBounds[n-1], rows[:n*boundColumns]...); err != nil {
			return err
		}
		rows = rows[n*boundColumns:]
	}
	return nil
}

const boundColumns = 9

// insertBounds are the statements that insert one bound, two, ... at once.
var insertBounds = func() (out [8]string) {
	rows := ""
	for n := range out {
		marks := make([]string, boundColumns)
		for i := range marks {
			marks[i] = "$" + strconv.Itoa(n*boundColumns+i+1)
		}
		rows += ", (" + strings.Join(marks, ", ") + ")"
		out[n] = `INSERT INTO bounds (signature, n, side, time, role, authority, verified, alone, why) VALUES ` + rows[2:]
	}
	return out
}()

// signature returns one signature as this transaction sees it.
func (t *Tx) signature(ctx context.Context, id string) (stored, error) {
	all, err := signatures(ctx, t.tx, ` WHERE g.id = $1 ORDER BY g.id, b.n`, id)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("signature %.80q: %w", id, inventory.ErrNotFound)
	}
	if err != nil {
		return stored{}, err
	}
	return all[0], nil
}

// merge adds what a sighting says to a known signature and reports whether
// that changed anything.
func (t *Tx) merge(ctx context.Context, known stored, now inventory.Signature) (bool, error) {
	out := stored{known.seq, inventory.Merge(known.Signature, now)}
	out.Gone = known.Gone && now.Gone
	if now.FirstSeen.Before(known.FirstSeen) {
		out.FirstSeen = now.FirstSeen
	}
	if now.Manifest != known.Manifest {
		// A tag has one manifest; any number of referrers and files may hold one
		// signature.
		tagged := now.Format == inventory.Legacy || now.Format == inventory.LegacyAtt
		whole, adds := gives(now, out.Signature), !gives(known.Signature, out.Signature)
		if !now.Gone && (tagged || known.Gone || whole && adds) {
			out.Manifest = now.Manifest
		}
		if open(known.Signature) || open(now) {
			err := t.remember(ctx, known.seq, known.Manifest, now.Manifest)
			if err != nil {
				return false, err
			}
		} else if err := t.copied(ctx, known, out.Manifest, now.Manifest, whole, adds); err != nil {
			return false, err
		}
	}
	if reflect.DeepEqual(out, known) {
		return false, nil
	}
	return true, t.updateSignature(ctx, out)
}

// open reports whether a signature has evidence that a wider trust may yet
// verify. Until then a lookalike, which claims the same, cannot be told from
// it, and takes its place in no list.
func open(s inventory.Signature) bool {
	return !s.Verified || slices.ContainsFunc(s.Bounds, func(b inventory.Bound) bool { return !b.Verified })
}

// maxCopies bounds the manifests remembered of one signature, the first come
// first: whoever can push can make more of them.
const maxCopies = 256

// remember keeps manifests that may give evidence of a signature.
func (t *Tx) remember(ctx context.Context, seq int64, manifests ...string) error {
	for _, m := range manifests {
		if _, err := t.scratch(ctx, `INSERT INTO copies (signature, manifest)
			SELECT seq, $2 FROM signatures WHERE seq = $1 AND (SELECT COUNT(*) FROM copies WHERE signature = $1) < $3
			ON CONFLICT (signature, manifest) DO NOTHING`, seq, m, int64(maxCopies)); err != nil {
			return err
		}
	}
	return nil
}

// gives reports whether one sighting has all the evidence of another that a
// manifest can give: what the journal proves is in none.
func gives(s, all inventory.Signature) bool {
	if all.Verified && !s.Verified {
		return false
	}
	for _, b := range all.Bounds {
		if b.Authority.Role != inventory.RoleJournal && !slices.ContainsFunc(s.Bounds, func(o inventory.Bound) bool {
			return o.Side == b.Side && o.Time.Equal(b.Time) && o.Authority == b.Authority && o.Verified == b.Verified
		}) {
			return false
		}
	}
	return true
}

// copied remembers which manifests together give the evidence of a signature
// that is held in the manifest now from here on. Another manifest was seen:
// whole says that it alone gives all there is, adds that it gives some that was
// not known. A manifest that gives nothing new is not remembered, or whoever
// can push would fill the database.
func (t *Tx) copied(ctx context.Context, known stored, now, other string, whole, adds bool) error {
	if now == other && whole {
		_, err := t.exec(ctx, `DELETE FROM copies WHERE signature = $1`, known.seq)
		return err
	}
	if now != other && !adds {
		return nil
	}
	// The manifest so far gave all there was, unless others are remembered.
	if _, err := t.exec(ctx, `INSERT INTO copies (signature, manifest) SELECT seq, manifest FROM signatures
		WHERE seq = $1 AND NOT EXISTS (SELECT 1 FROM copies WHERE signature = $1)`, known.seq); err != nil || !adds {
		return err
	}
	_, err := t.exec(ctx, `INSERT INTO copies (signature, manifest) VALUES ($1, $2) ON CONFLICT (signature, manifest) DO NOTHING`, known.seq, other)
	return err
}

// updateSignature writes what may change about a signature.
func (t *Tx) updateSignature(ctx context.Context, s stored) error {
	by, err := t.observe(ctx, s.Signer)
	if err != nil {
		return err
	}
	certificate, err := marshalCertificate(s.Signature)
	if err != nil {
		return err
	}
	after, before := window(s.Bounds)
	if _, err := t.exec(ctx, `UPDATE signatures SET id = $2, location = $3, manifest = $4, content = $5, predicate_type = $6, payload_digest = $7,
			names = $8, signer = $9, certificate = $10, verified = $11, why = $12, not_before = $13, not_after = $14, first_seen = $15, gone = $16
		WHERE seq = $1`,
		s.seq, s.ID, s.Location, s.Manifest, s.Content, s.PredicateType, s.PayloadDigest, s.Names, by, certificate, s.Verified, s.Why,
		after, before, s.FirstSeen.Unix(), s.Gone); err != nil {
		return fmt.Errorf("signature %.80q: %w", s.ID, err)
	}
	if _, err := t.exec(ctx, `DELETE FROM bounds WHERE signature = $1`, s.seq); err != nil {
		return err
	}
	return t.insertBounds(ctx, s)
}

// Reverified replaces what is known of a signature by what was recomputed from
// its bytes in the vault: evidence that no longer verifies is taken away. When
// the signer was unknown and now is known the signature has another ID, and
// keeps its first sighting. old is the signature as it was read; evidence that
// came after that stays. So do the bounds that the journal gave (Anchored), for
// they are not in the bytes: whether their anchors still hold is for the caller
// to check.
func (t *Tx) Reverified(ctx context.Context, old, now inventory.Signature) error {
	known, err := t.signature(ctx, old.ID)
	if err != nil {
		return err
	}
	old, now = normal(old), normal(now)
	if known.Verified && !old.Verified && !now.Verified {
		now.Verified, now.Why, now.Requires = true, "", known.Requires
	}
	since := now
	since.Bounds = slices.DeleteFunc(slices.Clone(known.Bounds), func(b inventory.Bound) bool {
		return b.Authority.Role != inventory.RoleJournal && slices.Contains(old.Bounds, b)
	})
	now = normal(inventory.Merge(now, since))
	now.Location, now.Manifest, now.FirstSeen, now.Gone = known.Location, known.Manifest, known.FirstSeen, known.Gone
	out := stored{known.seq, now}
	if reflect.DeepEqual(out, known) {
		return nil
	}
	if now.ID == known.ID {
		if err := t.updateSignature(ctx, out); err != nil {
			return err
		}
		return t.sightSignature(ctx, "signature.reverified", now)
	}
	if err := t.identified(ctx, known, out); err != nil {
		return err
	}
	return t.sight(ctx, signatureIdentified, now.ID+" was "+old.ID+" on "+now.Repository+"@"+now.Digest, now.Content)
}

// identified gives a signature another ID, or adds its evidence to the
// signature that has that ID already.
func (t *Tx) identified(ctx context.Context, known, now stored) error {
	if _, err := t.exec(ctx, `UPDATE reissues SET signature_id = $1 WHERE signature_id = $2`, now.ID, known.ID); err != nil {
		return err
	}
	if _, err := t.exec(ctx, `INSERT INTO renamed (id, now) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET now = excluded.now`, known.ID, now.ID); err != nil {
		return err
	}
	twin, err := t.signature(ctx, now.ID)
	if errors.Is(err, inventory.ErrNotFound) {
		return t.updateSignature(ctx, now)
	}
	if err != nil {
		return err
	}
	// Its evidence may come from several manifests: all of them stay.
	if err := t.remember(ctx, twin.seq, twin.Manifest, known.Manifest); err != nil {
		return err
	}
	if _, err := t.exec(ctx, `INSERT INTO copies (signature, manifest)
		SELECT $2, manifest FROM copies WHERE signature = $1 ON CONFLICT (signature, manifest) DO NOTHING`, known.seq, twin.seq); err != nil {
		return err
	}
	for _, table := range []string{"copies", "bounds"} {
		if _, err := t.exec(ctx, `DELETE FROM `+table+` WHERE signature = $1`, known.seq); err != nil {
			return err
		}
	}
	if _, err := t.exec(ctx, `DELETE FROM signatures WHERE seq = $1`, known.seq); err != nil {
		return err
	}
	_, err = t.merge(ctx, twin, now.Signature)
	return err
}

// KeepSignatures marks the signatures of an artifact as gone that are held in
// the repository location ("": the artifact's own) in one of the formats and
// are not among those just seen.
func (t *Tx) KeepSignatures(ctx context.Context, repository, digest, location string, formats []inventory.Format, seen []string) error {
	if len(formats) == 0 {
		return nil
	}
	if location == repository {
		location = ""
	}
	q := query{}
	q.and("repository = %s", repository)
	q.and("digest = %s", digest)
	q.and("location = %s", location)
	in(&q, "format", formats)
	q.and("NOT gone")
	known, err := queryAll(ctx, t.tx, scanString, `SELECT id FROM signatures`+q.where()+` ORDER BY id`, q.args...)
	if err != nil {
		return err
	}
	present := make(map[string]bool, len(seen))
	for _, id := range seen {
		present[id] = true
	}
	for _, id := range known {
		if present[id] {
			continue
		}
		if _, err := t.exec(ctx, `UPDATE signatures SET gone = TRUE WHERE id = $1`, id); err != nil {
			return err
		}
		if err := t.sight(ctx, "signature.gone", id+" on "+repository+"@"+digest, ""); err != nil {
			return err
		}
	}
	return nil
}

// Copies returns the digests of the manifests in the vault that give the
// evidence of a signature, its own first.
func (s *Store) Copies(ctx context.Context, id string) ([]string, error) {
	all, err := queryAll(ctx, s.read, scanString, `SELECT manifest FROM (
			SELECT 0 AS late, manifest FROM signatures WHERE id = $1
			UNION ALL SELECT 1, c.manifest FROM signatures g JOIN copies c ON c.signature = g.seq WHERE g.id = $1 AND c.manifest <> g.manifest
		) m ORDER BY late, manifest`, id)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("signature %.80q: %w", id, inventory.ErrNotFound)
	}
	return all, err
}

// SignaturesOf returns the signatures of one artifact that are at their place,
// without those that the plan named made itself ("" leaves none out).
func (s *Store) SignaturesOf(ctx context.Context, a inventory.Artifact, exceptPlan string) ([]inventory.Signature, error) {
	return plain(signatures(ctx, s.read, ` WHERE g.repository = $1 AND g.digest = $2 AND NOT g.gone
		AND NOT EXISTS (SELECT 1 FROM reissues i WHERE i.signature_id = g.id AND i.plan = $3) ORDER BY g.id, b.n`,
		a.Repository, a.Digest, exceptPlan))
}

// SignaturesOfAll returns the signatures of each of some artifacts that are at
// their place, in the order of the artifacts: one question for all of them.
func (s *Store) SignaturesOfAll(ctx context.Context, arts []inventory.Artifact) ([][]inventory.Signature, error) {
	return s.SignaturesOfAllBut(ctx, arts, "")
}

// SignaturesOfAllBut is SignaturesOfAll without those that the plan named made
// itself.
func (s *Store) SignaturesOfAllBut(ctx context.Context, arts []inventory.Artifact, exceptPlan string) ([][]inventory.Signature, error) {
	out := make([][]inventory.Signature, len(arts))
	if len(arts) == 0 {
		return out, nil
	}
	var q query
	at := make(map[[2]string]int, len(arts))
	wanted := make([]string, len(arts))
	for n, a := range arts {
		at[[2]string{a.Repository, a.Digest}] = n
		wanted[n] = "(" + q.mark(a.Repository) + ", " + q.mark(a.Digest) + ")"
	}
	except := ""
	if exceptPlan != "" {
		except = ` AND NOT EXISTS (SELECT 1 FROM reissues i WHERE i.signature_id = g.id AND i.plan = ` + q.mark(exceptPlan) + `)`
	}
	found, err := signatures(ctx, s.read, ` WHERE (g.repository, g.digest) IN (VALUES `+strings.Join(wanted, ", ")+`) AND NOT g.gone`+except+` ORDER BY g.id, b.n`, q.args...)
	for _, x := range found {
		n := at[[2]string{x.Repository, x.Digest}]
		out[n] = append(out[n], x.Signature)
	}
	return out, err
}

// SignaturesEver returns every signature ever seen on one artifact, also those
// that are no longer at their place.
func (s *Store) SignaturesEver(ctx context.Context, a inventory.Artifact) ([]inventory.Signature, error) {
	return plain(signatures(ctx, s.read, ` WHERE g.repository = $1 AND g.digest = $2 ORDER BY g.id, b.n`, a.Repository, a.Digest))
}

func plain(in []stored, err error) ([]inventory.Signature, error) {
	var out []inventory.Signature
	for _, s := range in {
		out = append(out, s.Signature)
	}
	return out, err
}

// signatures reads signatures with their bounds. rest selects and orders them:
// the rows of one signature g are together, in the order of their bounds b.
func signatures(ctx context.Context, q querier, rest string, args ...any) (out []stored, err error) {
	if err := checkArgs(args); err != nil {
		return nil, err
	}
	rows, err := q.QueryContext(ctx, `SELECT g.seq, g.id, g.repository, g.digest, g.format, g.location, g.manifest, g.content, g.predicate_type,
			g.payload_digest, g.names, r.kind, r.subject, r.issuer, g.certificate, g.verified, g.why, g.first_seen, g.gone,
			b.side, b.time, b.role, b.authority, b.verified, b.why
		FROM signatures g JOIN signers r ON r.id = g.signer LEFT JOIN bounds b ON b.signature = g.seq`+rest, args...)
	if err != nil {
		return nil, failed(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var s stored
		var certificate string
		var first int64
		var side, role, authority, why sql.NullString
		var at sql.NullInt64
		var verified sql.NullBool
		if err := rows.Scan(&s.seq, &s.ID, &s.Repository, &s.Digest, &s.Format, &s.Location, &s.Manifest, &s.Content, &s.PredicateType,
			&s.PayloadDigest, &s.Names, &s.Signer.Kind, &s.Signer.Subject, &s.Signer.Issuer, &certificate, &s.Verified, &s.Why, &first, &s.Gone,
			&side, &at, &role, &authority, &verified, &why); err != nil {
			return nil, failed(err)
		}
		if len(out) == 0 || out[len(out)-1].seq != s.seq {
			s.FirstSeen = moment(first)
			if certificate != "" {
				if err := json.Unmarshal([]byte(certificate), &s.Certificate); err != nil {
					return nil, fmt.Errorf("database: signature %s: certificate: %w", s.ID, err)
				}
			}
			out = append(out, s)
		}
		last := &out[len(out)-1]
		by := inventory.Authority{Role: inventory.Role(role.String), ID: authority.String}
		switch {
		case !side.Valid: // it has none
		case side.String == requires:
			last.Requires = append(last.Requires, by)
		default:
			last.Bounds = append(last.Bounds, inventory.Bound{Side: inventory.Side(side.String), Time: moment(at.Int64), Authority: by,
				Verified: verified.Bool, Why: why.String})
		}
	}
	if err := rows.Err(); err != nil {
		return nil, failed(err)
	}
	return out, nil
}

// SignaturePlace is a position in the order signatures are listed in: by
// repository, digest and ID. The zero value stands before the first.
type SignaturePlace struct{ Repository, Digest, ID string }

// SignatureFilter says which signatures are meant. Empty fields leave nothing
// out, but for Gone.
type SignatureFilter struct {
	Signers    []string // IDs
	Repository string
	Prefix     string // what the repository starts with
	Digest     string // of the artifact, or what it starts with
	Format     inventory.Format
	Predicate  string
	Verified   *bool

	// From and Until select what cannot be excluded to have been made in
	// [From, Until): by its earliest verified upper bound, or else by its first
	// sighting, and its latest verified lower bound.
	From, Until time.Time

	// Alone selects signatures beside which no verified one by another trusted
	// signer, none of Signers, makes a statement of the same type.
	Alone bool

	// RestsOn selects signatures of which all proof of time, or the certificate,
	// stands on this authority alone.
	RestsOn *inventory.Authority

	Gone bool // also those no longer at their place
}
