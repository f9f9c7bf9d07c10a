package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

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
		r.Identity.ID(), string(r.Identity.Kind), r.Identity.Subject, r.Identity.Issuer, r.Name, string(r.State), string(r.PublicKey))
	if err != nil || n == 0 {
		return err
	}
	t.Record(journal.Draft{Action: "signer." + string(r.State), Subject: r.Identity.ID(), Digest: inventory.Digest(r.PublicKey)})
	return nil
}

// observe makes sure a signer that was only seen has a row to point at, and
// returns its ID.
func (t *Tx) observe(ctx context.Context, id signer.Identity) (string, error) {
	key := id.ID()
	if t.observed[key] || t.store.remembers(key) {
		return key, nil
	}
	if _, err := t.exec(ctx, `INSERT INTO signers (id, kind, subject, issuer, name, state, public_key)
		VALUES ($1, $2, $3, $4, '', $5, '') ON CONFLICT (id) DO NOTHING`,
		key, string(id.Kind), id.Subject, id.Issuer, string(signer.Observed)); err != nil {
		return "", fmt.Errorf("signer %.80q: %w", key, err)
	}
	t.observed[key] = true
	return key, nil
}

// PutArtifact adds an artifact or refreshes what is known of it. The first
// sighting and the deployment mark stay.
func (t *Tx) PutArtifact(ctx context.Context, a inventory.Artifact) error {
	if err := checkNames(append([]string{a.Repository, a.Digest}, a.Tags...)...); err != nil {
		return err
	}
	n, err := t.exec(ctx, insertArtifact, a.Repository, a.Digest, clean(a.MediaType), a.Size, t.now.Unix())
	if err != nil {
		return err
	}
	if n == 0 && a.Size > 0 { // known by its signatures before its manifest was seen
		if n, err = t.exec(ctx, `UPDATE artifacts SET media_type = $1, size = $2
			WHERE repository = $3 AND digest = $4 AND size = 0`, clean(a.MediaType), a.Size, a.Repository, a.Digest); err != nil {
			return err
		}
	}
	if n > 0 {
		if err := t.sight(ctx, "artifact.seen", a.Ref(), a.Digest); err != nil {
			return err
		}
	}
	t.artifact = [2]string{a.Repository, a.Digest}
	for _, tag := range a.Tags {
		n, err := t.exec(ctx, `INSERT INTO tags (repository, tag, digest, signature, listed, checked) VALUES ($1, $2, $3, FALSE, 0, 0)
			ON CONFLICT (repository, tag) DO UPDATE SET digest = excluded.digest WHERE tags.digest <> excluded.digest`,
			a.Repository, tag, a.Digest)
		if err != nil {
			return err
		}
		if n > 0 {
			if err := t.sight(ctx, "tag.seen", a.Repository+":"+tag, a.Digest); err != nil {
				return err
			}
		}
	}
	return nil
}

const insertArtifact = `INSERT INTO artifacts (repository, digest, media_type, size, deployed, first_seen, referrers, asked)
	VALUES ($1, $2, $3, $4, FALSE, $5, '', 0) ON CONFLICT (repository, digest) DO NOTHING`

// SetDeployed marks an artifact as running somewhere, in every repository it
// is known in or in the one given. It returns inventory.ErrNotFound when the
// inventory has no such artifact.
func (t *Tx) SetDeployed(ctx context.Context, repository, digest string) error {
	q := query{}
	q.and("digest = %s", digest)
	if repository != "" {
		q.and("repository = %s", repository)
	}
	n, err := t.exec(ctx, `UPDATE artifacts SET deployed = TRUE`+q.where(), q.args...)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%s@%s: %w in the inventory: scan its repository first", repository, digest, inventory.ErrNotFound)
	}
	t.Record(journal.Draft{Action: "artifact.deployed", Subject: repository + "@" + digest, Digest: digest})
	return nil
}

// PutVault keeps bytes under their digest, which it returns. It needs no entry
// in the journal: bytes under their own digest change nothing that is believed
// until something journaled refers to them.
func (t *Tx) PutVault(ctx context.Context, content []byte) (string, error) {
	digest := inventory.Digest(content)
	if _, err := t.scratch(ctx, `INSERT INTO vault (digest, body) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING`,
		digest, t.store.enc.EncodeAll(content, nil)); err != nil {
		return "", fmt.Errorf("vault: %w", err)
	}
	return digest, nil
}

// PutProblem keeps what a scan could not read.
func (t *Tx) PutProblem(ctx context.Context, p inventory.Problem) error {
	if err := checkNames(p.Repository); err != nil {
		return err
	}
	p.Reference = reference(p.Reference)
	if _, err := t.exec(ctx, `INSERT INTO problems (repository, reference, problem, seen) VALUES ($1, $2, $3, $4)
		ON CONFLICT (repository, reference) DO UPDATE SET problem = excluded.problem, seen = excluded.seen`,
		p.Repository, p.Reference, clean(p.Problem), t.now.Unix()); err != nil {
		return err
	}
	return t.sight(ctx, "scan.problem", p.Repository+" "+p.Reference, "")
}

// reference is how a reference is kept that may be the name of any file.
func reference(s string) string {
	if s = clean(s); len(s) <= maxName {
		return s
	}
	return strings.ToValidUTF8(s[:maxName/2], "") + "... " + inventory.Digest([]byte(s))
}

// ClearProblems forgets the problems with a reference that is read anew, or
// with "" those of the whole repository.
func (t *Tx) ClearProblems(ctx context.Context, repository, ref string) error {
	q := query{}
	q.and("repository = %s", repository)
	subject := repository
	if ref != "" {
		q.and("reference = %s", reference(ref))
		subject += " " + reference(ref)
	}
	n, err := t.exec(ctx, `DELETE FROM problems`+q.where(), q.args...)
	if err != nil || n == 0 {
		return err
	}
	return t.sight(ctx, "scan.problems.cleared", subject, "")
}

// Vault returns the bytes kept under a digest, or inventory.ErrNotFound.
func (s *Store) Vault(ctx context.Context, digest string) ([]byte, error) {
	packed, err := packedVault(ctx, s.read, digest)
	if err != nil {
		return nil, err
	}
	return s.unpack(digest, packed)
}

// headSize is how much of what the vault keeps tells its size (RFC 8878, section
// 3.1.1.1).
const headSize = 18

// VaultSizes returns how many bytes the contents with some digests have, as the
// vault says without unpacking them. What it does not know or say is left out.
func (s *Store) VaultSizes(ctx context.Context, digests []string) (map[string]int64, error) {
	var q query
	in(&q, "digest", digests)
	type head struct {
		digest string
		packed []byte
	}
	heads, err := queryAll(ctx, s.read, func(rows *sql.Rows) (h head, err error) {
		err = rows.Scan(&h.digest, &h.packed)
		return h, err
	}, `SELECT digest, SUBSTR(body, 1, `+count(headSize)+`) FROM vault`+q.where(), q.args...)
	out := map[string]int64{}
	for _, h := range heads {
		var frame zstd.Header
		if frame.Decode(h.packed) == nil && frame.HasFCS {
			out[h.digest] = int64(min(frame.FrameContentSize, maxVaultItem))
		}
	}
	return out, err
}

// packedVault returns what the vault keeps under a digest, compressed.
func packedVault(ctx context.Context, db querier, digest string) (packed []byte, err error) {
	err = row(ctx, db, []any{&packed}, `SELECT body FROM vault WHERE digest = $1`, digest)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("vault has no %s: %w", digest, inventory.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	return packed, nil
}

// unpack returns what was compressed, and nothing but what the digest is of.
func (s *Store) unpack(digest string, packed []byte) ([]byte, error) {
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
	// The counts of each signer come from its part of an index, in whose order
	// nothing has to be sorted: hence queries within the query, and one value for
	// three.
	return queryAll(ctx, s.read, func(rows *sql.Rows) (SignerSummary, error) {
		var r SignerSummary
		var did string
		if err := rows.Scan(&r.Identity.Kind, &r.Identity.Subject, &r.Identity.Issuer, &r.Name, &r.State, &r.PublicKey, &r.Artifacts, &did); err != nil {
			return r, err
		}
		var first, last int64
		if _, err := fmt.Sscan(did, &r.Signatures, &first, &last); err != nil {
			return r, fmt.Errorf("signer %s: %w", r.Identity.ID(), err)
		}
		if first > 0 {
			r.FirstSeen, r.LastSeen = moment(first), moment(last)
		}
		return r, nil
	}, `SELECT `+recordColumns+`,
			(SELECT COUNT(*) FROM (SELECT DISTINCT repository, digest FROM signatures g WHERE g.signer = s.id AND NOT gone) d),
			(SELECT COUNT(*) FILTER (WHERE NOT gone) || ' ' || COALESCE(MIN(first_seen), 0) || ' ' || COALESCE(MAX(first_seen), 0)
				FROM signatures g WHERE g.signer = s.id)
		FROM signers s ORDER BY name = '', name, id`)
}

// moment is a time as the database keeps it.
func moment(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }

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

// Records returns every signer, without what it did.
func (s *Store) Records(ctx context.Context) ([]signer.Record, error) {
	return queryAll(ctx, s.read, scanRecord, `SELECT `+recordColumns+` FROM signers ORDER BY id`)
}

const recordColumns = `kind, subject, issuer, name, state, public_key`

func scanRecord(rows *sql.Rows) (r signer.Record, err error) {
	err = rows.Scan(&r.Identity.Kind, &r.Identity.Subject, &r.Identity.Issuer, &r.Name, &r.State, &r.PublicKey)
	return r, err
}

// Problems lists all that the last scans could not read. ProblemPage has them
// page by page.
func (s *Store) Problems(ctx context.Context) (all []inventory.Problem, err error) {
	for after := (inventory.Problem{}); ; after = all[len(all)-1] {
		some, err := s.ProblemPage(ctx, after, page)
		if err != nil || len(some) == 0 {
			return all, err
		}
		all = append(all, some...)
	}
}

// ProblemPage returns one page of what the last scans could not read, by
// repository and reference, after the last one of the page before.
func (s *Store) ProblemPage(ctx context.Context, after inventory.Problem, limit int) ([]inventory.Problem, error) {
	return queryAll(ctx, s.read, func(rows *sql.Rows) (p inventory.Problem, err error) {
		err = rows.Scan(&p.Repository, &p.Reference, &p.Problem)
		return p, err
	}, `SELECT repository, reference, problem FROM problems WHERE (repository, reference) > ($1, $2) ORDER BY repository, reference LIMIT $3`,
		after.Repository, after.Reference, limit)
}

// Counts is the size of the inventory.
type Counts struct{ Artifacts, Signatures int64 }

// Counts returns the size of the inventory, without signatures that are gone.
func (s *Store) Counts(ctx context.Context) (c Counts, err error) {
	err = row(ctx, s.read, []any{&c.Artifacts, &c.Signatures}, `SELECT (SELECT COUNT(*) FROM artifacts),
		(SELECT COUNT(*) FROM signatures) - (SELECT COUNT(*) FROM signatures WHERE gone)`)
	return c, err
}

// RepositoryCounts is the size of one repository: what is at its place.
type RepositoryCounts struct {
	Artifacts, Signatures int64
	Verified              int64 // of the signatures
	Problems              int64
}

// RepositoryCounts returns the size of one repository.
func (s *Store) RepositoryCounts(ctx context.Context, repository string) (c RepositoryCounts, err error) {
	err = row(ctx, s.read, []any{&c.Artifacts, &c.Signatures, &c.Verified, &c.Problems}, `SELECT
		(SELECT COUNT(*) FROM artifacts WHERE repository = $1),
		(SELECT COUNT(*) FROM signatures WHERE repository = $1 AND NOT gone),
		(SELECT COUNT(*) FROM signatures WHERE repository = $1 AND NOT gone AND verified),
		(SELECT COUNT(*) FROM problems WHERE repository = $1)`, repository)
	return c, err
}

// Known reports whether the manifest of an artifact has been read.
func (s *Store) Known(ctx context.Context, repository, digest string) (known bool, err error) {
	if err := checkArgs([]any{repository, digest}); err != nil {
		return false, err
	}
	err = s.known.QueryRowContext(ctx, repository, digest).Scan(&known)
	return known, failed(err)
}

// isKnown is prepared once: a scan asks it for every artifact.
const isKnown = `SELECT EXISTS (SELECT 1 FROM artifacts WHERE repository = $1 AND digest = $2 AND size > 0)`

var signatureTag = regexp.MustCompile(`^sha256-[0-9a-f]{64}(\..*)?$`)

// separator stands between the tags of an artifact as a query returns them. No
// tag and no file name has one.
const separator = "\x1f"

const artifactColumns = `a.repository, a.digest, a.media_type, a.size, a.deployed, a.first_seen,
	COALESCE((SELECT string_agg(t.tag, '` + separator + `' ORDER BY t.tag) FROM tags t
		WHERE t.repository = a.repository AND t.digest = a.digest AND NOT t.signature), '')`

func scanArtifact(rows *sql.Rows) (inventory.Artifact, error) {
	var a inventory.Artifact
	var first int64
	var tags string
	err := rows.Scan(&a.Repository, &a.Digest, &a.MediaType, &a.Size, &a.Deployed, &first, &tags)
	a.FirstSeen = moment(first)
	a.Tags = strings.FieldsFunc(tags, func(r rune) bool { return string(r) == separator })
	return a, err
}
