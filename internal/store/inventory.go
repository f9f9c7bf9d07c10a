package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/signer"
)

// maxVaultItem bounds one decompressed vault item, in bytes.
const maxVaultItem = 128 << 20

// PutSigner enrols a signer or changes its name, state or key. It journals the
// change; nothing happens when all is as it was.
func (t *Tx) PutSigner(ctx context.Context, r signer.Record) error {
	n, err := t.exec(ctx, `INSERT INTO signers (id, kind, subject, issuer, name, state, public_key)
		VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, state = excluded.state, public_key = excluded.public_key
		WHERE signers.name <> excluded.name OR signers.state <> excluded.state OR signers.public_key <> excluded.public_key`,
		r.Identity.ID(), r.Identity.Kind, r.Identity.Subject, r.Identity.Issuer, r.Name, r.State, string(r.PublicKey))
	if err != nil || n == 0 {
		return err
	}
	t.Record(journal.Draft{Action: "signer." + string(r.State), Subject: r.Identity.ID(), Digest: inventory.Digest(r.PublicKey)})
	return nil
}

// observe makes sure a signer that was only seen has a row to point at.
func (t *Tx) observe(ctx context.Context, id signer.Identity) error {
	_, err := t.exec(ctx, `INSERT INTO signers (id, kind, subject, issuer, name, state, public_key)
		VALUES ($1, $2, $3, $4, '', $5, '') ON CONFLICT (id) DO NOTHING`,
		id.ID(), id.Kind, id.Subject, id.Issuer, signer.Observed)
	return err
}

// PutArtifact adds an artifact or refreshes what is known of it. The first
// sighting and the deployment mark stay.
func (t *Tx) PutArtifact(ctx context.Context, a inventory.Artifact) error {
	n, err := t.exec(ctx, `INSERT INTO artifacts (repository, digest, media_type, size, deployed, first_seen)
		VALUES ($1, $2, $3, $4, FALSE, $5) ON CONFLICT (repository, digest) DO NOTHING`,
		a.Repository, a.Digest, a.MediaType, a.Size, t.now.Unix())
	if err != nil {
		return err
	}
	if n == 0 && a.Size > 0 { // known by its signatures before its manifest was seen
		if n, err = t.exec(ctx, `UPDATE artifacts SET media_type = $1, size = $2
			WHERE repository = $3 AND digest = $4 AND size = 0`, a.MediaType, a.Size, a.Repository, a.Digest); err != nil {
			return err
		}
	}
	if n > 0 {
		t.Record(journal.Draft{Action: "artifact.seen", Subject: a.Ref(), Digest: a.Digest})
	}
	for _, tag := range a.Tags {
		n, err := t.exec(ctx, `INSERT INTO tags (repository, tag, digest) VALUES ($1, $2, $3)
			ON CONFLICT (repository, tag) DO UPDATE SET digest = excluded.digest WHERE tags.digest <> excluded.digest`,
			a.Repository, tag, a.Digest)
		if err != nil {
			return err
		}
		if n > 0 {
			t.Record(journal.Draft{Action: "tag.seen", Subject: a.Repository + ":" + tag, Digest: a.Digest})
		}
	}
	return nil
}

// SetDeployed marks an artifact as running somewhere, in every repository it
// is known in or in the one given. It returns inventory.ErrNotFound when the
// inventory has no such artifact.
func (t *Tx) SetDeployed(ctx context.Context, repository, digest string) error {
	n, err := t.exec(ctx, `UPDATE artifacts SET deployed = TRUE WHERE digest = $1 AND ($2 = '' OR repository = $2)`, digest, repository)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%s@%s: %w in the inventory: scan its repository first", repository, digest, inventory.ErrNotFound)
	}
	t.Record(journal.Draft{Action: "artifact.deployed", Subject: repository + "@" + digest, Digest: digest})
	return nil
}

// PutSignature adds a signature, or what is new about one that is known. The
// first sighting is kept and journaled with the digest of the stored bytes.
// Proofs are only ever added: a copy of the signature without them, which
// anybody can push, takes nothing away.
func (t *Tx) PutSignature(ctx context.Context, s inventory.Signature) error {
	known, err := queryAll(ctx, t.tx, func(rows *sql.Rows) (g inventory.Signature, err error) {
		var gone bool
		g, err = scanSignature(rows, &gone)
		g.Gone = gone
		return g, err
	}, `SELECT `+signatureColumns+`, g.gone FROM signatures g JOIN signers r ON r.id = g.signer WHERE g.id = $1`, s.ID)
	if err != nil {
		return err
	}
	action := "signature.seen"
	if len(known) > 0 {
		if s = merge(known[0], s); reflect.DeepEqual(s, known[0]) {
			return nil
		}
		action = "signature.reverified"
	} else {
		s.FirstSeen = t.now
	}
	if err := t.observe(ctx, s.Signer); err != nil {
		return err
	}
	requires, err := json.Marshal(s.Requires)
	if err != nil {
		return err
	}
	bounds, err := json.Marshal(s.Bounds)
	if err != nil {
		return err
	}
	if _, err := t.exec(ctx, `INSERT INTO signatures (id, repository, digest, format, manifest, content, predicate_type,
			payload_digest, names, signer, requires, verified, why, bounds, first_seen, gone)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, FALSE)
		ON CONFLICT (id) DO UPDATE SET manifest = excluded.manifest,
			requires = excluded.requires, verified = excluded.verified, why = excluded.why, bounds = excluded.bounds, gone = FALSE`,
		s.ID, s.Repository, s.Digest, s.Format, s.Manifest, s.Content, s.PredicateType, s.PayloadDigest, s.Names,
		s.Signer.ID(), string(requires), s.Verified, s.Why, string(bounds), s.FirstSeen.Unix()); err != nil {
		return err
	}
	t.Record(journal.Draft{Action: action, Subject: s.ID + " on " + s.Repository + "@" + s.Digest, Digest: s.Content})
	return nil
}

// maxBounds is how many bounds are kept of one signature before those that did
// not verify are left out: anybody can push more of them.
const maxBounds = 64

// merge returns what two sightings of one signature say together. That it
// verified once stays true, and so does every proof that verified.
func merge(known, now inventory.Signature) inventory.Signature {
	out := known
	out.Gone = false
	if now.Verified || !known.Verified {
		out.Requires, out.Verified, out.Why = now.Requires, now.Verified, now.Why
	}
	if now.Format != inventory.Bundle || known.Gone { // two bundles may hold one signature; a tag has one manifest
		out.Manifest = now.Manifest
	}
	out.Bounds = slices.Clone(known.Bounds)
	for _, b := range now.Bounds {
		at := slices.IndexFunc(out.Bounds, func(k inventory.Bound) bool {
			return k.Side == b.Side && k.Time.Equal(b.Time) && k.Authority == b.Authority
		})
		switch {
		case at < 0 && (b.Verified || len(out.Bounds) < maxBounds):
			out.Bounds = append(out.Bounds, b)
		case at >= 0 && b.Verified:
			out.Bounds[at] = b
		}
	}
	return out
}

// KeepSignatures marks every signature of an artifact as gone that is not
// among those just seen.
func (t *Tx) KeepSignatures(ctx context.Context, repository, digest string, seen []string) error {
	known, err := queryAll(ctx, t.tx, scanString,
		`SELECT id FROM signatures WHERE repository = $1 AND digest = $2 AND NOT gone`, repository, digest)
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
		t.Record(journal.Draft{Action: "signature.gone", Subject: id + " on " + repository + "@" + digest})
	}
	return nil
}

// PutVault keeps bytes under their digest, which it returns. It needs no entry
// in the journal: bytes under their own digest change nothing that is believed
// until something journaled refers to them.
func (t *Tx) PutVault(ctx context.Context, content []byte) (string, error) {
	digest := inventory.Digest(content)
	if _, err := t.tx.ExecContext(ctx, `INSERT INTO vault (digest, body) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING`,
		digest, t.store.enc.EncodeAll(content, nil)); err != nil {
		return "", fmt.Errorf("vault: %w", err)
	}
	return digest, nil
}

// PutProblem keeps what a scan could not read.
func (t *Tx) PutProblem(ctx context.Context, p inventory.Problem) error {
	_, err := t.exec(ctx, `INSERT INTO problems (repository, reference, problem, seen) VALUES ($1, $2, $3, $4)
		ON CONFLICT (repository, reference) DO UPDATE SET problem = excluded.problem, seen = excluded.seen`,
		p.Repository, p.Reference, p.Problem, t.now.Unix())
	if err == nil {
		t.Record(journal.Draft{Action: "scan.problem", Subject: p.Repository + " " + p.Reference})
	}
	return err
}

// ClearProblems forgets the problems of a repository that is scanned anew.
func (t *Tx) ClearProblems(ctx context.Context, repository string) error {
	n, err := t.exec(ctx, `DELETE FROM problems WHERE repository = $1`, repository)
	if err == nil && n > 0 {
		t.Record(journal.Draft{Action: "scan.problems.cleared", Subject: repository})
	}
	return err
}

// Vault returns the bytes kept under a digest, or inventory.ErrNotFound.
func (s *Store) Vault(ctx context.Context, digest string) ([]byte, error) {
	var packed []byte
	err := s.read.QueryRowContext(ctx, `SELECT body FROM vault WHERE digest = $1`, digest).Scan(&packed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("vault has no %s: %w", digest, inventory.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	content, err := s.dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("vault: %s: %w", digest, err)
	}
	if inventory.Digest(content) != digest {
		return nil, fmt.Errorf("vault: the bytes kept under %s are not those bytes: the database was changed by another hand", digest)
	}
	return content, nil
}

// SignerSummary is a signer with what it did.
type SignerSummary struct {
	signer.Record
	Artifacts  int64
	Signatures int64
	FirstSeen  time.Time // of its signatures, by us
	LastSeen   time.Time
}

// Signers lists every signer, enrolled ones first.
func (s *Store) Signers(ctx context.Context) ([]SignerSummary, error) {
	return queryAll(ctx, s.read, func(rows *sql.Rows) (SignerSummary, error) {
		var r SignerSummary
		var first, last int64
		err := rows.Scan(&r.Identity.Kind, &r.Identity.Subject, &r.Identity.Issuer, &r.Name, &r.State, &r.PublicKey,
			&r.Signatures, &r.Artifacts, &first, &last)
		if first > 0 {
			r.FirstSeen, r.LastSeen = time.Unix(first, 0).UTC(), time.Unix(last, 0).UTC()
		}
		return r, err
	}, `SELECT kind, subject, issuer, name, state, public_key,
			(SELECT COUNT(*) FROM signatures g WHERE g.signer = s.id AND NOT g.gone),
			(SELECT COUNT(*) FROM (SELECT DISTINCT repository, digest FROM signatures g WHERE g.signer = s.id AND NOT g.gone) d),
			(SELECT COALESCE(MIN(first_seen), 0) FROM signatures g WHERE g.signer = s.id),
			(SELECT COALESCE(MAX(first_seen), 0) FROM signatures g WHERE g.signer = s.id)
		FROM signers s ORDER BY name = '', name, id`)
}

// Signer returns one signer by ID or by enrolled name, or
// inventory.ErrNotFound.
func (s *Store) Signer(ctx context.Context, idOrName string) (signer.Record, error) {
	found, err := queryAll(ctx, s.read, scanRecord, `SELECT `+recordColumns+` FROM signers WHERE id = $1 OR (name = $1 AND name <> '') LIMIT 2`, idOrName)
	switch {
	case err != nil:
		return signer.Record{}, err
	case len(found) == 0:
		return signer.Record{}, fmt.Errorf("signer %q: %w: \"reseal signers\" lists those that are known", idOrName, inventory.ErrNotFound)
	case len(found) > 1:
		return signer.Record{}, fmt.Errorf("signer %q is ambiguous: use its ID from \"reseal signers\"", idOrName)
	}
	return found[0], nil
}

// Place is a position in the order artifacts are listed in: deployed first,
// then by repository and digest. The zero value stands before the first.
type Place struct {
	Listed     bool // whether the listing has got past the deployed ones
	Repository string
	Digest     string
}

const artifactColumns = `a.repository, a.digest, a.media_type, a.size, a.deployed, a.first_seen,
	COALESCE((SELECT GROUP_CONCAT(tag, ' ') FROM tags t WHERE t.repository = a.repository AND t.digest = a.digest), '')`

func scanArtifact(rows *sql.Rows) (inventory.Artifact, error) {
	var a inventory.Artifact
	var first int64
	var tags string
	err := rows.Scan(&a.Repository, &a.Digest, &a.MediaType, &a.Size, &a.Deployed, &first, &tags)
	a.FirstSeen = time.Unix(first, 0).UTC()
	a.Tags = strings.Fields(tags)
	return a, err
}

// Selection says which artifacts are meant. Empty fields select everything.
type Selection struct {
	Signers    []string // IDs: artifacts with a signature by any of them
	Digests    []string // and these artifacts besides
	Repository string   // only in this repository
	Digest     string   // only this artifact
}

// Artifacts returns one page of the artifacts selected, deployed first, and
// the place to go on from; an empty page is the end.
func (s *Store) Artifacts(ctx context.Context, sel Selection, after Place, limit int) ([]inventory.Artifact, Place, error) {
	for {
		args := []any{!after.Listed, after.Repository, after.Digest, limit, sel.Repository, sel.Digest}
		where := ""
		if len(sel.Signers)+len(sel.Digests) > 0 {
			signers := bind(&args, sel.Signers)
			digests := bind(&args, sel.Digests)
			where = ` AND (a.digest IN (` + digests + `) OR EXISTS (SELECT 1 FROM signatures g
				WHERE g.repository = a.repository AND g.digest = a.digest AND g.signer IN (` + signers + `)))`
		}
		page, err := queryAll(ctx, s.read, scanArtifact, `SELECT `+artifactColumns+` FROM artifacts a
			WHERE a.deployed = $1 AND (a.repository, a.digest) > ($2, $3)
			AND ($5 = '' OR a.repository = $5) AND ($6 = '' OR a.digest = $6)`+where+`
			ORDER BY a.repository, a.digest LIMIT $4`, args...)
		if err != nil {
			return nil, after, err
		}
		if len(page) > 0 {
			last := page[len(page)-1]
			return page, Place{Listed: after.Listed, Repository: last.Repository, Digest: last.Digest}, nil
		}
		if after.Listed {
			return nil, after, nil
		}
		after = Place{Listed: true}
	}
}

// bind appends values to args and returns their placeholders.
func bind(args *[]any, values []string) string {
	if len(values) == 0 {
		return "NULL"
	}
	marks := make([]string, len(values))
	for i, v := range values {
		*args = append(*args, v)
		marks[i] = fmt.Sprintf("$%d", len(*args))
	}
	return strings.Join(marks, ", ")
}

// SignaturesOf returns the signatures of one artifact that are at their place,
// without those that the plan named made itself ("" leaves none out).
func (s *Store) SignaturesOf(ctx context.Context, a inventory.Artifact, exceptPlan string) ([]inventory.Signature, error) {
	return queryAll(ctx, s.read, func(rows *sql.Rows) (inventory.Signature, error) { return scanSignature(rows) }, `SELECT `+signatureColumns+`
		FROM signatures g JOIN signers r ON r.id = g.signer
		WHERE g.repository = $1 AND g.digest = $2 AND NOT g.gone
		AND NOT EXISTS (SELECT 1 FROM reissues i WHERE i.signature_id = g.id AND i.plan = $3)
		ORDER BY g.id`, a.Repository, a.Digest, exceptPlan)
}

// SignaturesEver returns every signature ever seen on one artifact, also those
// that are no longer at their place.
func (s *Store) SignaturesEver(ctx context.Context, a inventory.Artifact) ([]inventory.Signature, error) {
	return queryAll(ctx, s.read, func(rows *sql.Rows) (g inventory.Signature, err error) {
		var gone bool
		g, err = scanSignature(rows, &gone)
		g.Gone = gone
		return g, err
	}, `SELECT `+signatureColumns+`, g.gone FROM signatures g JOIN signers r ON r.id = g.signer
		WHERE g.repository = $1 AND g.digest = $2 ORDER BY g.id`, a.Repository, a.Digest)
}

// Records returns every signer, without what it did.
func (s *Store) Records(ctx context.Context) ([]signer.Record, error) {
	return queryAll(ctx, s.read, scanRecord, `SELECT `+recordColumns+` FROM signers ORDER BY id`)
}

const recordColumns = `kind, subject, issuer, name, state, public_key`

func scanRecord(rows *sql.Rows) (r signer.Record, err error) {
	err = rows.Scan(&r.Identity.Kind, &r.Identity.Subject, &r.Identity.Issuer, &r.Name, &r.State, &r.PublicKey)
	return r, err
}

const signatureColumns = `g.id, g.repository, g.digest, g.format, g.manifest, g.content, g.predicate_type, g.payload_digest, g.names,
	r.kind, r.subject, r.issuer, g.requires, g.verified, g.why, g.bounds, g.first_seen`

// scanSignature reads signatureColumns and what is selected after them.
func scanSignature(rows *sql.Rows, more ...any) (inventory.Signature, error) {
	var g inventory.Signature
	var requires, bounds string
	var first int64
	into := []any{&g.ID, &g.Repository, &g.Digest, &g.Format, &g.Manifest, &g.Content, &g.PredicateType, &g.PayloadDigest,
		&g.Names, &g.Signer.Kind, &g.Signer.Subject, &g.Signer.Issuer, &requires, &g.Verified, &g.Why, &bounds, &first}
	if err := rows.Scan(append(into, more...)...); err != nil {
		return g, err
	}
	g.FirstSeen = time.Unix(first, 0).UTC()
	if err := json.Unmarshal([]byte(requires), &g.Requires); err != nil {
		return g, fmt.Errorf("signature %s: %w", g.ID, err)
	}
	if err := json.Unmarshal([]byte(bounds), &g.Bounds); err != nil {
		return g, fmt.Errorf("signature %s: %w", g.ID, err)
	}
	return g, nil
}

// Problems lists what the last scans could not read.
func (s *Store) Problems(ctx context.Context) ([]inventory.Problem, error) {
	return queryAll(ctx, s.read, func(rows *sql.Rows) (p inventory.Problem, err error) {
		err = rows.Scan(&p.Repository, &p.Reference, &p.Problem)
		return p, err
	}, `SELECT repository, reference, problem FROM problems ORDER BY repository, reference LIMIT 10000`)
}

// Counts is the size of the inventory.
type Counts struct{ Artifacts, Signatures int64 }

// Counts returns the size of the inventory.
func (s *Store) Counts(ctx context.Context) (c Counts, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT (SELECT COUNT(*) FROM artifacts), (SELECT COUNT(*) FROM signatures WHERE NOT gone)`).
		Scan(&c.Artifacts, &c.Signatures)
	if err != nil {
		err = fmt.Errorf("database: %w", err)
	}
	return c, err
}

func scanString(rows *sql.Rows) (string, error) {
	var v string
	err := rows.Scan(&v)
	return v, err
}
