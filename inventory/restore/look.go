package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// maxReferrers bounds what is read of the referrers of one artifact. Beyond it
// nobody can say what is missing.
const maxReferrers = 1000

// task is one artifact.
type task struct {
	*run
	artifact inventory.Artifact
	rows     []*row
	byID     map[string]*row
	places   []*place
	stored   map[string]*manifest // read from the vault, by place, format and digest
	missing  bool                 // the artifact is not in the registry
	err      error                // nothing can be said of it

	units   []*unit // what is to be written
	tried   []*unit
	again   bool // somebody else wrote to it
	counted bool // against the ceiling
}

// row is a signature that the inventory knows.
type row struct {
	inventory.Signature
	place  *place               // nil: it is a file
	found  *inventory.Signature // as the registry has it
	best   *held                // the best copy in the vault, once sought
	sought bool
	reason Reason // why it is left out
	why    string
	unit   *unit // that puts it back
	last   *unit // that was carried out and may have done so
	moved  bool  // the manifest that holds it was replaced by one that holds more
}

// place is where signatures of one artifact are stored: a tag of cosign's, or
// the referrers.
type place struct {
	repository string
	tag        string // empty: the referrers
	rows       []*row
	formats    []inventory.Format // of the rows
	err        error              // why it could not be read

	there *registry.Manifest // what the tag names; nil: nothing
	holds []*manifest        // what stands there
	lost  []held             // signatures whose blobs are lost, in manifests that stand there
}

// held is a signature in a layer of a manifest.
type held struct {
	in    *manifest
	layer int
	row   *row
	sig   inventory.Signature // as it verifies there
}

func (h held) digest() string { return h.in.image.Layers[h.layer].Digest.String() }

// look finds out what the registry has, what may go back, and what is to be
// written. An error means that the run has to stop.
func (t *task) look(ctx context.Context) error {
	t.units, t.again, t.err = nil, false, nil
	if t.rows == nil {
		if err := t.load(ctx); err != nil {
			return err
		}
	}
	for _, row := range t.rows {
		row.found, row.reason, row.why, row.unit = nil, "", "", nil
	}
	if len(t.places) == 0 {
		return nil
	}
	switch _, err := t.registry.Head(ctx, t.artifact.Repository, t.artifact.Digest, ""); {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, registry.ErrNotFound):
		t.missing = true
		return nil
	case err != nil:
		t.err = err
		return nil
	}
	for _, p := range t.places {
		if err := t.read(ctx, p); err != nil {
			return err
		}
	}
	if err := t.decide(ctx); err != nil {
		return err
	}
	for _, p := range t.places {
		if p.err != nil {
			continue
		}
		if err := t.plan(ctx, p); err != nil {
			return err
		}
	}
	for _, u := range t.tried { // of which the outcome was unknown
		u.done = u.done || u.err == nil && u.sent && !slices.ContainsFunc(u.holds, func(h held) bool {
			return h.row.found == nil || h.row.found.Manifest != u.digest
		})
	}
	slices.SortStableFunc(t.units, func(a, b *unit) int { return cmp.Compare(a.rank(), b.rank()) })
	return nil
}

// load reads the signatures of the artifact from the inventory.
func (t *task) load(ctx context.Context) error {
	known, err := t.store.SignaturesEver(ctx, t.artifact)
	if err != nil {
		return err
	}
	t.byID, t.stored = map[string]*row{}, map[string]*manifest{}
	for _, s := range known {
		row := &row{Signature: s}
		t.rows = append(t.rows, row)
		t.byID[s.ID] = row
		if s.Repository == inventory.Files || s.Format.InFiles() {
			continue
		}
		row.place = t.placeOf(s)
		row.place.rows = append(row.place.rows, row)
		if !slices.Contains(row.place.formats, s.Format) {
			row.place.formats = append(row.place.formats, s.Format)
		}
	}
	return nil
}

func (t *task) placeOf(s inventory.Signature) *place {
	p := &place{repository: cmp.Or(s.Location, s.Repository)}
	if s.Format == inventory.Legacy || s.Format == inventory.LegacyAtt {
		p.tag = verify.Tag(s.Digest, s.Format)
	}
	for _, have := range t.places {
		if have.repository == p.repository && have.tag == p.tag {
			return have
		}
	}
	t.places = append(t.places, p)
	return p
}

// read reads what stands at a place.
func (t *task) read(ctx context.Context, p *place) error {
	p.there, p.holds, p.lost, p.err = nil, nil, nil, nil
	standing, err := t.manifests(ctx, p)
	if err == nil {
		for _, m := range standing {
			opened, err := t.open(ctx, p, m.Digest, m.Raw, p.formats)
			if err != nil {
				return err
			}
			p.holds = append(p.holds, opened)
		}
		for _, m := range p.holds {
			if err = t.sight(ctx, p, m); err != nil {
				break
			}
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.As(err, new(fatal)) {
		return err
	}
	p.err = err
	return nil
}

// fatal is an error of the database: the run has to stop.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// manifests returns the manifests that hold signatures at a place.
func (t *task) manifests(ctx context.Context, p *place) ([]registry.Manifest, error) {
	if p.tag == "" {
		return t.referrers(ctx, p)
	}
	m, err := t.registry.Manifest(ctx, p.repository, p.tag)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p.there = &m
	return t.images(ctx, p, p.tag, m)
}

func (t *task) referrers(ctx context.Context, p *place) ([]registry.Manifest, error) {
	list, err := t.registry.Referrers(ctx, p.repository, t.artifact.Digest)
	if err != nil && !errors.Is(err, registry.ErrMalformed) { // what is malformed in a listing is no signature
		return nil, err
	}
	if len(list) > maxReferrers {
		return nil, fmt.Errorf("%s@%s has %d referrers, no more than %d are read: remove what does not belong there first",
			p.repository, t.artifact.Digest, len(list), maxReferrers)
	}
	var out []registry.Manifest
	for _, d := range list {
		m, err := t.registry.Manifest(ctx, p.repository, d.Digest.String())
		if unreadable(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		images, err := t.images(ctx, p, m.Digest, m)
		if err != nil {
			return nil, err
		}
		out = append(out, images...)
	}
	return out, nil
}

// unreadable reports whether no verifier can read what gives this error: it is
// no signature.
func unreadable(err error) bool {
	return slices.ContainsFunc([]error{registry.ErrNotFound, registry.ErrMalformed, registry.ErrTooLarge, registry.ErrDigest},
		func(kind error) bool { return errors.Is(err, kind) })
}

// images returns the manifests in which verifiers look: the one given, or if it
// is an index those that it lists.
func (t *task) images(ctx context.Context, p *place, reference string, m registry.Manifest) ([]registry.Manifest, error) {
	if !types.MediaType(m.MediaType).IsIndex() {
		return []registry.Manifest{m}, nil
	}
	digests, _ := verify.Images(t.subject(), reference, m) // what is malformed in an index is no signature
	var out []registry.Manifest
	for _, d := range digests {
		image, err := t.registry.Manifest(ctx, p.repository, d)
		switch {
		case unreadable(err):
		case err != nil:
			return nil, err
		default:
			out = append(out, image)
		}
	}
	return out, nil
}

func (t *task) subject() verify.Subject {
	return verify.Subject{Repository: t.artifact.Repository, Digest: t.artifact.Digest}
}

// sight notes which signatures a manifest that stands in the registry holds.
// One without the evidence that the vault has is not enough, nor is one whose
// blob is lost.
func (t *task) sight(ctx context.Context, p *place, m *manifest) error {
	for _, h := range m.held {
		if h.row.found != nil {
			continue
		}
		if !covers(h.sig, h.row.Signature) {
			if err := t.seek(ctx, h.row); err != nil {
				return err
			}
			if h.row.best != nil && !covers(h.sig, h.row.best.sig) {
				continue
			}
		}
		has, err := t.registry.HasBlob(ctx, p.repository, h.digest())
		if err != nil {
			return err
		}
		if !has {
			p.lost = append(p.lost, h)
			continue
		}
		sig := h.sig
		h.row.found = &sig
	}
	return nil
}

// covers reports whether one sighting of a signature has all the verified
// evidence of another.
func covers(s, other inventory.Signature) bool {
	if other.Verified && !s.Verified {
		return false
	}
	for _, b := range other.Bounds {
		if b.Verified && !slices.ContainsFunc(s.Bounds, func(o inventory.Bound) bool {
			return o.Verified && o.Side == b.Side && o.Time.Equal(b.Time) && o.Authority == b.Authority
		}) {
			return false
		}
	}
	return true
}

// seek finds the best copy of a signature in the vault: the first that has all
// the evidence any copy has.
func (t *task) seek(ctx context.Context, row *row) error {
	if row.sought {
		return nil
	}
	row.sought = true
	copies, err := t.store.Copies(ctx, row.ID)
	if err != nil {
		return fatal{err}
	}
	for _, digest := range copies {
		key := row.place.repository + " " + string(row.Format) + " " + digest
		if t.stored[key] == nil {
			raw, err := t.store.Vault(ctx, digest)
			if errors.Is(err, inventory.ErrNotFound) {
				continue
			}
			if err != nil {
				return fatal{err}
			}
			if t.stored[key], err = t.open(ctx, row.place, digest, raw, []inventory.Format{row.Format}); err != nil {
				return err
			}
		}
		for _, h := range t.stored[key].held {
			if h.row == row && (row.best == nil || covers(h.sig, row.best.sig) && !covers(row.best.sig, h.sig)) {
				row.best = &h
			}
		}
	}
	return nil
}

// decide says what may not go back, and why.
func (t *task) decide(ctx context.Context) error {
	artifactDenied := ""
	if t.DeniedArtifact != nil {
		artifactDenied = t.DeniedArtifact(t.artifact)
	}
	var image standing
	for _, row := range t.rows {
		if row.place == nil {
			continue
		}
		state, err := t.state(ctx, row.Signer)
		if err != nil {
			return err
		}
		row.reason, row.why = ArtifactDenied, artifactDenied
		if artifactDenied == "" {
			if err := t.judge(ctx, row, state); err != nil {
				return err
			}
		}
		if row.PredicateType == inventory.SignPredicate {
			image.add(row, state)
		}
	}
	for _, row := range t.rows {
		if row.place != nil && row.reason == "" && row.Format == inventory.Bundle && row.PredicateType != inventory.SignPredicate && !image.good() {
			row.reason = ImageUnsigned
			row.why = "verifiers take a bundle of any predicate for an image signature, and no image signature that is trusted may stand on the artifact"
		}
	}
	return nil
}

// standing says how the image signatures of an artifact stand.
type standing struct {
	signed   bool // one verified
	stands   bool // one stands in the registry, or may
	suspect  bool // one is by a signer that is tainted or revoked, or denied
	believed bool // one that stands, or may, is by a signer that is trusted
}

func (s *standing) add(row *row, state signer.State) {
	s.signed = s.signed || row.Verified
	switch row.reason {
	case SignerTainted, SignerRevoked, Denied:
		s.suspect = true
	case "":
		s.stands = true
		s.believed = s.believed || state.Trusted()
	}
}

// good reports whether claims may go onto the artifact. What no signer of
// images ever vouched for is as it was; beside a suspect signature that of a
// stranger, which anybody can add, counts for nothing.
func (s standing) good() bool {
	return !s.signed || s.stands && (s.believed || !s.suspect)
}

func (t *task) judge(ctx context.Context, row *row, state signer.State) error {
	row.reason, row.why = "", ""
	denied := ""
	if t.Denied != nil {
		denied = t.Denied(row.Signature)
	}
	switch {
	case !row.Verified:
		row.reason, row.why = Unverified, row.Why
	case state == signer.Tainted:
		row.reason, row.why = SignerTainted, row.Signer.String()
	case state == signer.Revoked:
		row.reason, row.why = SignerRevoked, row.Signer.String()
	case denied != "":
		row.reason, row.why = Denied, denied
	case row.found == nil && row.place.err == nil && !slices.ContainsFunc(row.place.lost, func(h held) bool { return h.row == row }):
		if err := t.seek(ctx, row); err != nil {
			return err
		}
		switch {
		case row.best == nil:
			row.reason, row.why = NoCopy, "the vault has no manifest that holds it"
		case !row.best.sig.Verified:
			row.reason, row.why = NoCopy, "it does not verify any more: "+row.best.sig.Why
		}
	}
	return nil
}

// item says what became of a signature; known is false when the run stopped
// before it came to that.
func (t *task) item(row *row, stopped bool) (i Item, known bool) {
	i.Signature = row.Signature
	if row.found != nil {
		i.Manifest = row.found.Manifest
	}
	if u := cmp.Or(row.unit, row.last); u != nil {
		i.Place, i.Manifest, i.Identical = u.where(), u.digest, u.identical
	}
	switch {
	case row.place == nil:
		i.Outcome = Skipped
	case t.missing:
		i.Outcome, i.Why = MissingSubject, "the registry does not have the artifact"
	case row.unit != nil && row.unit.done, row.last != nil && row.found != nil:
		i.Outcome = Restored
	case row.found != nil:
		i.Outcome = Already
	case row.reason != "":
		i.Outcome, i.Reason, i.Why = LeftOut, row.reason, row.why
	case t.err != nil:
		i.Outcome, i.Why = Failed, t.err.Error()
	case row.place.err != nil:
		i.Outcome, i.Why = Failed, row.place.err.Error()
	case row.unit == nil:
		return i, false // it was not looked for yet
	case row.unit.err != nil:
		i.Outcome, i.Why = Failed, row.unit.err.Error()
	case stopped:
		return i, false
	default:
		i.Outcome, i.Why = Failed, "another writer keeps changing what is there: run again when it is done"
	}
	return i, true
}
