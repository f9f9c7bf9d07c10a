package resign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/reseal/reseal/internal/clock"
	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/verify"
)

const (
	// tries is how often a place is written that others keep overwriting.
	tries = 6
	// wholeOf is of how many signatures one is read back with all its content. Of
	// the others the manifest or the list is: what it names by digest, the
	// registry took under that digest a moment before.
	wholeOf = 32
	// maxContended bounds how many places are looked at once more. Where others
	// write everywhere there is no end to it: the next run looks at all of them.
	maxContended = 2000
	// maxLayers is how many signatures cosign reads of one manifest.
	maxLayers = 1000
)

// place is where the signatures of one artifact in one format are kept: a tag,
// or the list of referrers. It is read, changed and written as one, without a
// compare-and-swap, which is why writers are serialised and what was written is
// read back.
type place struct {
	verify.Subject
	format    inventory.Format
	units     []*unit
	contended bool // somebody else writes there, too
}

// places groups units by artifact, and those by place. Bundles come last,
// because any bundle on a digest makes cosign look past its ".sig", and the
// image's before those of claims.
func places(units []*unit) [][]*place {
	var out [][]*place
	for n, u := range units {
		if n == 0 || !sameArtifact(units[n-1].Item, u.Item) {
			out = append(out, nil)
		}
		list := &out[len(out)-1]
		at := slices.IndexFunc(*list, func(p *place) bool { return p.format == u.format })
		if at < 0 {
			at = len(*list)
			*list = append(*list, &place{Subject: verify.Subject{Repository: u.Repository, Digest: u.Digest}, format: u.format})
		}
		(*list)[at].units = append((*list)[at].units, u)
	}
	for _, list := range out {
		slices.SortStableFunc(list, func(a, b *place) int { return order(a.format) - order(b.format) })
		for _, p := range list {
			slices.SortStableFunc(p.units, func(a, b *unit) int { return imageFirst(a) - imageFirst(b) })
		}
	}
	return out
}

func order(f inventory.Format) int {
	return slices.Index([]inventory.Format{inventory.Legacy, inventory.LegacyAtt, inventory.Bundle}, f)
}

func imageFirst(u *unit) int {
	if u.PredicateType == inventory.SignPredicate {
		return 0
	}
	return 1
}

func (p *place) open() bool { return slices.ContainsFunc(p.units, (*unit).open) }

// fail gives up on what is left to do there.
func (p *place) fail(err error) {
	for _, u := range p.units {
		if u.open() {
			u.err = err
		}
	}
}

// look finds what an earlier run, or somebody else with the same key, has
// published already. In earnest it is only done here for what cannot be told
// otherwise: a unit that was never intended is looked for when it is written, and
// one whose bytes are kept, too.
func (r *run) look(ctx context.Context, p *place) error {
	switch {
	case !r.looksAt(p):
		return nil
	case p.format.InFiles():
		return r.lookForFiles(ctx, p)
	}
	return r.find(ctx, p, r.base(p))
}

func (r *run) looksAt(p *place) bool {
	return !r.Apply || p.format.InFiles() ||
		slices.ContainsFunc(p.units, func(u *unit) bool { return u.open() && u.record.State != "" && u.record.Content == "" })
}

// find takes note of the units whose signature is there, as their consumer
// accepts it, read whole.
func (r *run) find(ctx context.Context, p *place, base *base) error {
	fetched := verify.Fetcher{Registry: base, Verifier: r.verifier}.Signatures(ctx, p.Subject, verify.Only(p.format))
	if !slices.ContainsFunc(p.units, func(u *unit) bool { return u.open() && len(r.candidates(u, fetched)) > 0 }) {
		if fetched.Unknown != nil { // what could not be read may be it
			return fmt.Errorf("looking for an earlier signature: %w", fetched.Unknown)
		}
		return nil
	}
	// Something of ours is there. The base may have been read from the vault.
	fetched = r.fetcher.Signatures(ctx, p.Subject, verify.Only(p.format))
	for _, u := range p.units {
		if !u.open() {
			continue
		}
		f, refused, err := r.match(ctx, u, fetched)
		if err != nil {
			return err
		}
		switch {
		case f != nil:
			u.settle(*f, fetched.Holders)
			u.good = r.Apply
		case fetched.Unknown != nil:
			u.err = fmt.Errorf("looking for an earlier signature: %w", fetched.Unknown)
		case refused != nil && u.record.Content == "" && u.made == nil:
			u.err = fmt.Errorf("the signature that is there is not accepted by its consumer's verifier: %w", refused)
		}
	}
	return nil
}

// candidates are the signatures that may be a unit's among those found.
func (r *run) candidates(u *unit, fetched verify.Fetched) (out []*verify.Found) {
	for n := range fetched.Found {
		if f := &fetched.Found[n]; f.Verified && f.Signer == r.Signer.Identity() && f.StatementKey() == u.StatementKey {
			out = append(out, f)
		}
	}
	return out
}

// match returns the signature of a unit among those found: one that its consumer
// accepts and that proves no less than the unit's own bytes, where there are any.
// Whoever writes to the registry can put copies beside it that lack proofs.
func (r *run) match(ctx context.Context, u *unit, fetched verify.Fetched) (_ *verify.Found, refused, err error) {
	own := -1
	if u.made == nil && u.record.Content != "" {
		content, err := r.Store.Vault(ctx, u.record.Content)
		if err != nil {
			return nil, nil, err
		}
		// What can no longer be verified, for a service left the trusted root, or came
		// under an incident, is nothing to compare with.
		if made, err := r.judge(ctx, u, content); err == nil && r.outside(ctx, made, false) == nil {
			u.made = made
		}
	}
	if u.made != nil {
		own = proofs(u.made.Bounds)
	}
	for _, f := range r.candidates(u, fetched) {
		if proofs(f.Bounds) < own {
			continue
		}
		if r.Outside != nil {
			why, err := r.Outside(ctx, f.Signature, false)
			if err != nil {
				return nil, nil, err
			}
			if why != "" {
				continue
			}
		}
		if refused = r.accepts(ctx, *f); refused == nil {
			return f, nil, nil
		}
	}
	return nil, refused, ctx.Err()
}

// proofs counts the proofs of time that verify.
func proofs(bounds []inventory.Bound) (n int) {
	for _, b := range bounds {
		if b.Side == inventory.Upper && b.Verified {
			n++
		}
	}
	return n
}

// settle takes note of where the signature of a unit is.
func (u *unit) settle(f verify.Found, holders []verify.Holder) {
	u.found, u.record.SignatureID = &f, f.ID
	for _, h := range holders {
		if h.Digest == f.Manifest {
			u.holder = h.Raw
		}
	}
}

// publish puts the signed bytes of a place where consumers look, unless they
// are there, and reads them back. When somebody else overwrites them it begins
// anew.
func (r *run) publish(ctx context.Context, p *place) error {
	if p.format.InFiles() {
		return r.publishFiles(ctx, p)
	}
	for try := 1; p.open(); try++ {
		if try > tries {
			return errors.New("reading back: the signature is not there: another writer overwrites it again and again: run again when that is done")
		}
		if try > 1 {
			p.contended = true
			if err := clock.Sleep(ctx, time.Duration(try)*(50*time.Millisecond+rand.N(100*time.Millisecond))); err != nil {
				return err
			}
		}
		if err := registry.Anew(ctx, func() error {
			if err := r.fence(ctx); err != nil {
				return err
			}
			return r.write(ctx, p)
		}); err != nil {
			return err
		}
	}
	if p.contended {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.contended) < maxContended {
			r.contended = append(r.contended, p)
		}
	}
	return nil
}

// write reads a place, adds what is missing there, and reads it back.
func (r *run) write(ctx context.Context, p *place) error {
	for _, u := range p.units { // before the place is read, so that little time passes until it is written
		if u.open() && u.made != nil && u.made.fresh && !u.kept() {
			if err := r.upload(ctx, u); err != nil {
				return err
			}
		}
	}
	unlock, err := r.Registry.Serialise(ctx, p.Repository, p.Digest)
	if err != nil {
		return err
	}
	defer unlock()
	base := r.base(p)
	err = r.find(ctx, p, base)
	p.contended = p.contended || base.fresh
	if err != nil || !p.open() {
		return err
	}
	var missing []*unit
	for _, u := range p.units {
		if u.open() && r.ready(ctx, u) {
			missing = append(missing, u)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(missing) == 0 {
		return nil
	}
	if p.format == inventory.Bundle {
		return r.attach(ctx, p, base, missing)
	}
	return r.append(ctx, p, base, missing)
}

// ready reports whether there are bytes to publish for a unit that is not there.
// Bytes that an earlier run persisted and that are not accepted any more, for a
// service left the trusted root, are given up: the next run signs anew.
func (r *run) ready(ctx context.Context, u *unit) bool {
	if u.made == nil && u.record.Content != "" {
		if err := r.resume(ctx, u); err != nil {
			if ctx.Err() == nil {
				u.record.Content = ""
				u.err = fmt.Errorf("what an earlier run signed is given up, the next run signs anew: %w", err)
			}
			return false
		}
	}
	if u.made == nil {
		u.err = errors.New("the signature that was there is gone, and it was not made under this plan: run again")
		return false
	}
	return true
}

// upload puts the content of a unit's signature into the repository.
func (r *run) upload(ctx context.Context, u *unit) error {
	if u.uploaded {
		return nil
	}
	_, err := r.Registry.PutBlob(ctx, u.Repository, u.made.blob)
	u.uploaded = err == nil
	return err
}

// whole reports whether one more signature in a repository is to be read back
// with all its content.
func (r *run) whole(repository string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sampled++
	first := !r.seen[repository]
	r.seen[repository] = true
	return first || r.sampled%wholeOf == 0
}

// published takes note of signatures that were read back. there tells, of what
// was read back, which manifest holds a unit's signature, if any.
func (r *run) published(ctx context.Context, p *place, units []*unit, there func(*unit) (digest string, raw []byte)) error {
	for _, u := range units {
		if u.wrote = true; r.whole(p.Repository) {
			fetched := r.fetcher.Signatures(ctx, p.Subject, verify.Only(p.format))
			f, refused, err := r.match(ctx, u, fetched)
			if err != nil {
				return err
			}
			switch {
			case f != nil:
				u.settle(*f, fetched.Holders)
			case fetched.Unknown != nil:
				return fmt.Errorf("reading back: %w", fetched.Unknown)
			case refused != nil:
				u.err = fmt.Errorf("the signature read back is not accepted by its consumer's verifier: %w", refused)
				continue
			default:
				continue // overwritten
			}
		} else {
			digest, raw := there(u)
			if digest == "" {
				continue
			}
			f := u.made.Found
			f.Manifest = digest
			u.found, u.holder, u.record.SignatureID = &f, raw, f.ID
		}
		u.good = true
	}
	return nil
}

// settle looks once more at the places where others write, too: one of them may
// have read before we wrote and written after we read back.
func (r *run) settle(ctx context.Context) error {
	for round := 0; len(r.contended) > 0 && round < tries; round++ {
		if err := clock.Sleep(ctx, r.Settle); err != nil {
			return err
		}
		again := r.contended
		r.contended = nil
		for _, p := range again {
			for _, u := range p.units {
				u.good, u.wrote = u.record.State != Done, false
			}
			err := r.find(ctx, p, r.base(p))
			if err == nil && p.open() {
				err = r.publish(ctx, p)
			}
			if err != nil {
				if errors.As(err, new(stopped)) || ctx.Err() != nil {
					return err
				}
				p.fail(err)
			}
			if err := r.resettled(ctx, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// resettled records what was lost to another writer after it was counted as
// signed, and what was put back.
func (r *run) resettled(ctx context.Context, p *place) error {
	for _, u := range p.units {
		lost := u.err != nil && u.record.State == Done
		if !lost && !(u.good && u.wrote) {
			continue
		}
		if lost {
			u.record.State, u.record.Why = Failed, u.err.Error()
		}
		if err := r.update(ctx, func(tx *store.Tx) error { return r.enter(ctx, tx, u) }); err != nil {
			return err
		}
		r.recount(u, lost)
	}
	return nil
}

// recount corrects what was counted of a unit.
func (r *run) recount(u *unit, lost bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u.already {
		r.result.Already--
	} else {
		r.result.Signed--
	}
	u.already = false
	if !lost {
		r.result.Signed++
		return
	}
	r.result.Failed++
	if r.Failed != nil {
		r.Failed(Failure{Item: u.Item, Format: u.format, Why: u.record.Why})
	}
}

// base is a place as it was read, to be written with changes. What is at hand
// by its digest is not fetched.
type base struct {
	Registry
	store *store.Store
	place *place
	tag   registry.Manifest // what the tag names; zero: nothing
	at    time.Time         // when it was read
	torn  error             // why what the tag names cannot be read
	list  registry.Listing
	fresh bool // something is there that the inventory does not know: somebody wrote since it was scanned
}

func (r *run) base(p *place) *base { return &base{Registry: r.Registry, store: r.Store, place: p} }

// Manifest implements verify.Registry.
func (b *base) Manifest(ctx context.Context, repository, reference string) (registry.Manifest, error) {
	if inventory.CheckDigest(reference) == nil {
		if raw, err := b.store.Vault(ctx, reference); err == nil {
			var m struct {
				MediaType string `json:"mediaType"`
			}
			if json.Unmarshal(raw, &m) == nil && m.MediaType != "" {
				return registry.Manifest{Digest: reference, MediaType: m.MediaType, Raw: raw, Size: int64(len(raw))}, nil
			}
		}
		m, err := b.Registry.Manifest(ctx, repository, reference)
		b.fresh = b.fresh || err == nil && !verify.OpenReferrer(m).Empty()
		return m, err
	}
	m, err := b.Registry.Manifest(ctx, repository, reference)
	b.at = time.Now()
	switch {
	case err == nil:
		b.tag = m
		_, known := b.store.Vault(ctx, m.Digest)
		b.fresh = b.fresh || known != nil
	case !errors.Is(err, registry.ErrNotFound):
		b.torn = err
	}
	return m, err
}

// Blob implements verify.Registry.
func (b *base) Blob(ctx context.Context, repository, digest string, limit int64) ([]byte, error) {
	for _, u := range b.place.units {
		if u.made != nil && inventory.Digest(u.made.blob) == digest {
			return u.made.blob, nil
		}
	}
	if content, err := b.store.Vault(ctx, digest); err == nil && int64(len(content)) <= limit {
		return content, nil
	}
	return b.Registry.Blob(ctx, repository, digest, limit)
}

// Referrers implements verify.Registry.
func (b *base) Referrers(ctx context.Context, repository, digest string) ([]v1.Descriptor, error) {
	var err error
	b.list, err = b.Registry.Listing(ctx, repository, digest)
	return b.list.Descriptors, err
}

// attach puts bundles on an artifact and reads back the list of its referrers.
func (r *run) attach(ctx context.Context, p *place, base *base, units []*unit) error {
	empty := []byte("{}")
	if _, err := r.Registry.PutBlob(ctx, p.Repository, empty); err != nil {
		return err
	}
	manifests := map[*unit][]byte{}
	var unlisted []v1.Descriptor
	for _, u := range units {
		if err := r.upload(ctx, u); err != nil {
			return err
		}
		manifest, entry, err := bundleManifest(u, empty)
		if err != nil {
			return err
		}
		if err := r.fence(ctx); err != nil {
			return err
		}
		_, listed, err := r.Registry.PutManifest(ctx, p.Repository, entry.Digest.String(), string(types.OCIManifestSchema1), manifest)
		if err != nil {
			return err
		}
		manifests[u] = manifest
		if !listed {
			unlisted = append(unlisted, entry)
		}
	}
	if len(unlisted) > 0 {
		// Whoever had these items meanwhile may have added some that are not in the
		// list.
		if err := r.fence(ctx); err != nil {
			return err
		}
		if err := r.Registry.Extend(ctx, p.Repository, p.Digest, base.list, unlisted...); err != nil {
			return err
		}
	}
	list, err := r.Registry.Referrers(ctx, p.Repository, p.Digest)
	if err != nil && !errors.Is(err, registry.ErrMalformed) { // what is odd in a list does not hide the rest
		return fmt.Errorf("reading back: %w", err)
	}
	if len(list) != len(base.list.Descriptors)+len(units) { // somebody else was there
		p.contended = true
	}
	return r.published(ctx, p, units, func(u *unit) (string, []byte) {
		digest := inventory.Digest(manifests[u])
		if !slices.ContainsFunc(list, func(d v1.Descriptor) bool { return d.Digest.String() == digest }) {
			return "", nil
		}
		return digest, manifests[u]
	})
}

// bundleManifest is the manifest that attaches a bundle, and how it is listed.
func bundleManifest(u *unit, config []byte) ([]byte, v1.Descriptor, error) {
	subject, err := v1.NewHash(u.Digest)
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	annotations := map[string]string{"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": u.PredicateType}
	manifest, err := json.Marshal(struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     types.MediaType   `json:"mediaType"`
		ArtifactType  string            `json:"artifactType"`
		Config        v1.Descriptor     `json:"config"`
		Layers        []v1.Descriptor   `json:"layers"`
		Subject       v1.Descriptor     `json:"subject"`
		Annotations   map[string]string `json:"annotations"`
	}{2, types.OCIManifestSchema1, bundleType,
		describe("application/vnd.oci.empty.v1+json", config),
		[]v1.Descriptor{describe(bundleType, u.made.blob)},
		v1.Descriptor{MediaType: types.MediaType(u.MediaType), Size: u.Size, Digest: subject}, annotations})
	entry := describe(types.OCIManifestSchema1, manifest)
	entry.ArtifactType, entry.Annotations = bundleType, annotations
	return manifest, entry, err
}

// append adds layers to the ".sig" or ".att" manifest, keeps every layer that
// is there, and reads back what the tag names.
func (r *run) append(ctx context.Context, p *place, base *base, units []*unit) error {
	tag := verify.Tag(p.Digest, p.format)
	if base.torn != nil { // no verifier reads it so, but what is there may be whole
		return fmt.Errorf("%s:%s cannot be read, and would be lost by writing it anew: look at it, and run again: %w", p.Repository, tag, base.torn)
	}
	image := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	if m := base.tag; m.Digest != "" {
		if !types.MediaType(m.MediaType).IsImage() {
			return fmt.Errorf("%s:%s is a %s and would be lost by adding to it: move it away first", p.Repository, tag, m.MediaType)
		}
		if err := json.Unmarshal(m.Raw, &image); err != nil {
			return fmt.Errorf("%s:%s is malformed and would be lost by adding to it: move it away first: %w", p.Repository, tag, err)
		}
	}
	if n := len(image.Layers) + len(units); n > maxLayers {
		return fmt.Errorf("%s:%s would have %d signatures, and verifiers read no more than %d: remove what does not belong there first", p.Repository, tag, n, maxLayers)
	}
	for _, u := range units {
		d := describe(u.made.mediaType, u.made.blob)
		if !slices.ContainsFunc(image.Layers, func(have v1.Descriptor) bool { return have.Digest == d.Digest }) {
			if err := r.upload(ctx, u); err != nil {
				return err
			}
		}
		d.Annotations = u.made.Annotations
		image.Layers = append(image.Layers, d)
	}
	config, err := verify.LayersConfig([]v1.Descriptor{})
	if err == nil && base.tag.Digest != "" && image.Config.Digest.String() != inventory.Digest(config) {
		config, err = verify.LayersConfig(image.Layers) // as cosign has it, where cosign was first
	}
	if err != nil {
		return err
	}
	image.Config = describe(types.OCIConfigJSON, config)
	if _, err := r.Registry.PutBlob(ctx, p.Repository, config); err != nil {
		return err
	}
	raw, err := json.Marshal(image)
	if err != nil {
		return err
	}
	if err := r.fence(ctx); err != nil { // as in attach
		return err
	}
	if same, err := r.same(ctx, p, base, tag); err != nil || !same {
		return err
	}
	digest, _, err := r.Registry.PutManifest(ctx, p.Repository, tag, string(image.MediaType), raw)
	if registry.Refused(err) {
		// The layer of which this one has the content stands in the manifest, and its
		// content was lost, or what was uploaded is gone again.
		for _, u := range units {
			u.uploaded = false
			if err := r.upload(ctx, u); err != nil {
				return err
			}
		}
		if same, err := r.same(ctx, p, base, tag); err != nil || !same {
			return err
		}
		digest, _, err = r.Registry.PutManifest(ctx, p.Repository, tag, string(image.MediaType), raw)
	}
	if err != nil {
		return err
	}
	now, err := r.Registry.Manifest(ctx, p.Repository, tag)
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	if now.Digest != digest { // somebody else was there: on top of ours, or over it
		p.contended = true
	}
	return r.published(ctx, p, units, func(*unit) (string, []byte) {
		if now.Digest != digest {
			return "", nil
		}
		return digest, now.Raw
	})
}

// same reports whether a tag still names what was read, where that was long ago:
// uploads may have had to wait.
func (r *run) same(ctx context.Context, p *place, base *base, tag string) (bool, error) {
	if time.Since(base.at) < registry.Old {
		return true, nil
	}
	now, err := r.Registry.Manifest(ctx, p.Repository, tag)
	if errors.Is(err, registry.ErrNotFound) {
		err = nil
	}
	return now.Digest == base.tag.Digest, err
}
