package restore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
)

// maxLayers is how many signatures verifiers read of one manifest.
const maxLayers = 1000

// errChanged means that somebody else wrote to the same place.
var errChanged = errors.New("it was changed meanwhile")

// unit is one manifest to be written, or whose lost blobs are.
type unit struct {
	*task
	place     *place
	was       string // what the tag named when it was looked at, "" if nothing
	digest    string
	raw       []byte // nil: the manifest stands there, blobs of it are lost
	image     v1.Manifest
	mediaType string
	identical bool
	blobs     []blob
	made      [][]byte // what is not in the vault yet
	holds     []held   // the signatures that are put back

	sent bool // it may have been written
	done bool
	err  error
}

// rank is the order of writing. Verifiers that find any bundle on an artifact
// do not look for its ".sig" any more: bundles that are no image signatures come
// last.
func (u *unit) rank() int {
	s := u.holds[0].row.Signature
	switch {
	case s.Format == inventory.Legacy:
		return 0
	case s.Format == inventory.Bundle && s.PredicateType != inventory.SignPredicate:
		return 3
	case s.PredicateType == inventory.SignPredicate:
		return 1
	}
	return 2
}

func (u *unit) where() string {
	if u.place.tag != "" {
		return u.place.repository + ":" + u.place.tag
	}
	return u.place.repository + "@" + u.digest
}

func (u *unit) entry(stage string) journal.Draft {
	return journal.Draft{Action: "restore." + stage, Digest: u.digest,
		Subject: fmt.Sprintf("%d signatures of %s at %s", len(u.holds), u.artifact.Ref(), u.where())}
}

// plan says what is to be written at a place.
func (t *task) plan(ctx context.Context, p *place) error {
	var wanted []held
	for _, row := range p.rows {
		if row.found == nil && row.reason == "" && row.best != nil {
			wanted = append(wanted, *row.best)
		}
	}
	t.planLost(p)
	wanted = slices.DeleteFunc(wanted, func(h held) bool { return h.row.unit != nil })
	if len(wanted) == 0 {
		return nil
	}
	var err error
	if p.tag == "" {
		err = t.planReferrers(ctx, p, wanted)
	} else {
		err = t.planTag(ctx, p, wanted)
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

// add adds a unit to what is to be written.
func (t *task) add(u *unit) {
	u.task = t
	for _, h := range u.holds {
		h.row.unit = u
	}
	t.units = append(t.units, u)
}

// planLost puts back the blobs of manifests that stand in the registry.
func (t *task) planLost(p *place) {
	for _, m := range p.holds {
		u := &unit{place: p, digest: m.digest, identical: true}
		for _, h := range p.lost {
			if h.in == m && h.row.found == nil && h.row.unit == nil && h.row.reason == "" {
				u.holds = append(u.holds, h)
				u.blobs = append(u.blobs, blob{h.digest(), nil})
			}
		}
		if len(u.holds) > 0 {
			t.add(u)
		}
	}
}

// planTag adds the layers of lost signatures to what a tag names. It names the
// exact manifest of old again where that has just these layers.
func (t *task) planTag(ctx context.Context, p *place, wanted []held) error {
	u := &unit{place: p, holds: inOrder(wanted)}
	model := u.holds[0].in
	var layers []json.RawMessage
	var keys []string
	if p.there != nil {
		u.was = p.there.Digest
		if len(p.holds) != 1 || p.holds[0].digest != u.was || !p.holds[0].isImage() {
			return fmt.Errorf("%s is a %s that signatures cannot be added to: move it away first", u.where(), p.there.MediaType)
		}
		model = p.holds[0]
		layers, keys = slices.Clone(model.layers), model.keys()
	}
	for _, h := range u.holds {
		layers = append(layers, h.in.layers[h.layer])
		keys = append(keys, h.in.key(h.layer))
	}
	if len(layers) > maxLayers {
		return fmt.Errorf("%s would have %d signatures, and verifiers read no more than %d: remove what does not belong there first", u.where(), len(layers), maxLayers)
	}
	slices.Sort(keys)
	for _, h := range u.holds {
		m := h.in
		if !slices.Equal(m.keys(), keys) || !m.isImage() || !m.isAbout(t.artifact.Digest, false) || !maps.Equal(m.image.Annotations, model.image.Annotations) {
			continue
		}
		if ok, err := t.exactly(ctx, u, m); ok || err != nil {
			return err
		}
	}
	return t.made(u, model, layers)
}

// inOrder puts signatures in the order in which they stood: those that shared a
// manifest together, the fullest manifest first.
func inOrder(wanted []held) []held {
	shared := map[*manifest]int{}
	for _, h := range wanted {
		shared[h.in]++
	}
	out := slices.Clone(wanted)
	slices.SortFunc(out, func(a, b held) int {
		return cmp.Or(cmp.Compare(shared[b.in], shared[a.in]), cmp.Compare(a.in.digest, b.in.digest), cmp.Compare(a.layer, b.layer))
	})
	return out
}

// isAbout reports whether a manifest refers to an artifact. Only a referrer has
// to; what refers to another would be listed there.
func (m *manifest) isAbout(digest string, referrer bool) bool {
	if m.image.Subject == nil {
		return !referrer
	}
	return m.image.Subject.Digest.String() == digest
}

// planReferrers puts back the fewest manifests that hold all lost signatures:
// those of which nothing is left out first.
func (t *task) planReferrers(ctx context.Context, p *place, wanted []held) error {
	var choices []*manifest
	for _, h := range inOrder(wanted) {
		if !slices.Contains(choices, h.in) {
			choices = append(choices, h.in)
		}
	}
	// gives returns which of the signatures that are still wanted a manifest
	// holds with all their evidence.
	gives := func(m *manifest) (out []held) {
		for _, h := range m.held {
			if h.row.unit == nil && slices.ContainsFunc(wanted, func(w held) bool { return w.row == h.row && covers(h.sig, w.sig) }) {
				out = append(out, h)
			}
		}
		return out
	}
	slices.SortStableFunc(choices, func(a, b *manifest) int {
		return cmp.Or(cmp.Compare(t.leaves(a), t.leaves(b)), cmp.Compare(len(gives(b)), len(gives(a))))
	})
	var odd error
	for _, m := range choices {
		u := &unit{place: p, holds: gives(m)}
		if len(u.holds) == 0 {
			continue // others hold them too
		}
		if !m.isAbout(t.artifact.Digest, true) {
			odd = errors.Join(odd, fmt.Errorf("the manifest %s does not refer to the artifact: it was listed as a referrer all the same, and cannot be put back", m.digest))
			continue
		}
		if t.leaves(m) == 0 {
			ok, err := t.exactly(ctx, u, m)
			if err != nil {
				return err
			}
			if ok {
				continue
			}
		}
		var layers []json.RawMessage
		for _, h := range u.holds {
			layers = append(layers, m.layers[h.layer])
		}
		if err := t.made(u, m, layers); err != nil {
			return err
		}
	}
	return odd
}

// leaves returns how many layers of a manifest may not go back.
func (t *task) leaves(m *manifest) int {
	n := len(m.image.Layers)
	for _, h := range m.held {
		if h.row.reason == "" {
			n--
		}
	}
	return n
}

// exactly plans the exact bytes of a manifest, if all that it names can be had.
func (t *task) exactly(ctx context.Context, u *unit, m *manifest) (bool, error) {
	config, known, err := t.config(ctx, u.place, m)
	if err != nil || !known {
		return false, err
	}
	u.digest, u.raw, u.image, u.mediaType, u.identical = m.digest, m.raw, m.image, string(m.mediaType()), true
	t.complete(u, m.held, config)
	return true, nil
}

// made plans a manifest that there never was.
func (t *task) made(u *unit, model *manifest, layers []json.RawMessage) error {
	m, config, err := compose(model, layers, u.place.tag == "")
	if err != nil {
		return fmt.Errorf("%s: %w", u.where(), err)
	}
	u.digest, u.raw, u.image, u.mediaType = m.digest, m.raw, m.image, string(m.mediaType())
	u.made = [][]byte{m.raw}
	t.complete(u, u.holds, config)
	return nil
}

// complete adds the blobs that registries want to have before a manifest.
func (t *task) complete(u *unit, layers []held, config []blob) {
	for _, h := range layers {
		same := func(b blob) bool { return b.digest == h.digest() } // signers of one image may share a payload
		if h.row.reason == "" && !slices.ContainsFunc(u.blobs, same) {
			u.blobs = append(u.blobs, blob{h.digest(), nil})
		}
	}
	u.blobs = append(u.blobs, config...)
	for _, b := range config {
		if b.content != nil {
			u.made = append(u.made, b.content)
		}
	}
	t.add(u)
}

// write writes what was planned for an artifact. An error means that the run
// has to stop.
func (t *task) write(ctx context.Context) error {
	for _, u := range t.units {
		err := registry.Anew(ctx, func() error { return u.write(ctx) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.As(err, new(fatal)) {
			return err
		}
		t.tried = append(t.tried, u)
		switch {
		case err == nil:
			u.done = true
			u.found()
		case errors.Is(err, errChanged), errors.Is(err, registry.ErrAmbiguous):
			t.again = true
		default:
			u.err = err
		}
		if u.sent {
			for _, h := range u.holds {
				h.row.last = u
			}
		}
	}
	t.units = nil
	return nil
}

// found notes that the signatures stand in the manifest that was written.
func (u *unit) found() {
	for _, h := range u.holds {
		sig := h.sig
		sig.Manifest = u.digest
		h.row.found = &sig
	}
	for _, row := range u.place.rows { // what stood there is in it too
		if row.found != nil && row.found.Manifest == u.was {
			row.found.Manifest, row.moved = u.digest, true
		}
	}
}

func (u *unit) write(ctx context.Context) error {
	unlock, err := u.registry.Serialise(ctx, u.place.repository, u.artifact.Digest)
	if err != nil {
		return err
	}
	defer unlock()
	for _, b := range u.blobs {
		if err := u.put(ctx, b); err != nil {
			return err
		}
	}
	if u.raw != nil && u.place.tag != "" {
		// The tag has no compare-and-swap: this is as near to one as can be.
		if now, err := u.tagged(ctx); err != nil || now != u.was {
			return cmp.Or(err, errChanged)
		}
	}
	if u.raw == nil {
		u.sent = true
		return nil
	}
	u.sent = true
	if u.place.tag == "" {
		return u.attach(ctx)
	}
	if _, _, err := u.registry.PutManifest(ctx, u.place.repository, u.place.tag, u.mediaType, u.raw); err != nil || !u.apply {
		return err
	}
	if now, err := u.tagged(ctx); err != nil || now != u.digest {
		return cmp.Or(err, errChanged)
	}
	return nil
}

// tagged returns the digest that the tag names now, "" if it is not there.
func (u *unit) tagged(ctx context.Context) (string, error) {
	m, err := u.registry.Manifest(ctx, u.place.repository, u.place.tag)
	if errors.Is(err, registry.ErrNotFound) {
		return "", nil
	}
	return m.Digest, err
}

func (u *unit) put(ctx context.Context, b blob) error {
	has, err := u.registry.HasBlob(ctx, u.place.repository, b.digest)
	if err != nil || has {
		return err
	}
	if b.content == nil {
		if b.content, err = u.store.Vault(ctx, b.digest); err != nil {
			return fatal{err}
		}
	}
	_, err = u.registry.PutBlob(ctx, u.place.repository, b.content)
	return err
}

func (u *unit) attach(ctx context.Context) error {
	d := v1.Descriptor{ArtifactType: cmp.Or(u.image.ArtifactType, string(u.image.Config.MediaType)), Annotations: u.image.Annotations}
	if _, err := u.registry.Attach(ctx, u.place.repository, u.raw, u.mediaType, d, u.artifact.Digest); err != nil || !u.apply {
		return err
	}
	list, err := u.registry.Referrers(ctx, u.place.repository, u.artifact.Digest)
	if err != nil && !errors.Is(err, registry.ErrMalformed) {
		return err
	}
	if !slices.ContainsFunc(list, func(d v1.Descriptor) bool { return d.Digest.String() == u.digest }) {
		return errChanged
	}
	_, err = u.registry.Manifest(ctx, u.place.repository, u.digest)
	return err
}
