package rotate

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
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/verify"
)

// carryOut takes signatures away, looks at what came of it, and enters that into
// the inventory.
func (r *pruning) carryOut(ctx context.Context, a inventory.Artifact, place string, on *shelf, known []inventory.Signature, out *outcome) error {
	failures := map[string]error{}
	for _, h := range on.holders {
		var mine []string
		for _, s := range h.sheets {
			for _, id := range s.ids {
				if _, dropped := out.drop[id]; dropped {
					mine = append(mine, id)
				}
			}
		}
		if len(mine) == 0 {
			continue
		}
		err := r.strip(ctx, a, place, h, out.drop)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errOverwritten), errors.As(err, new(atHome)):
			return err
		}
		for _, id := range mine {
			failures[id] = cmp.Or(err, failures[id])
		}
	}
	// What counts is what stands there now, not what was answered.
	now, err := r.look(ctx, a, place)
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	for id := range out.drop {
		if !now.has(id) {
			continue
		}
		if failures[id] == nil {
			return errOverwritten
		}
		out.why[id] = failures[id]
	}
	for id, g := range on.found {
		if _, dropped := out.drop[id]; !dropped && !now.has(id) && now.broken[g.Format] == nil {
			out.failed = append(out.failed, item(a, trust.Removed{Signature: g.Signature},
				"it was to stay and is not there any more: somebody else wrote at the same time; scan, and see \"reseal restore\""))
		}
	}
	if err := r.sweep(ctx, a, place, on, now, out); err != nil {
		return err
	}
	return r.record(ctx, a, place, now, known, out)
}

// strip takes signatures out of what a tag names, or out of a referrer. What is
// left of it stands there as it stood, or nothing does.
func (r *pruning) strip(ctx context.Context, a inventory.Artifact, place string, h *holder, drop map[string]trust.Removed) error {
	var left []json.RawMessage
	for _, s := range h.sheets {
		for n, raw := range s.layers {
			if _, dropped := drop[s.ids[n]]; !dropped || s.ids[n] == "" {
				left = append(left, raw)
			}
		}
	}
	if err := r.keep(ctx, place, h.top); err != nil {
		return err
	}
	if h.tag == "" {
		return r.stripReferrer(ctx, a, place, h, left)
	}
	unchanged := func() error {
		// The tag has no compare-and-swap: this is as near to one as can be.
		now, err := r.registry.Manifest(ctx, place, h.tag)
		if err == nil && now.Digest != h.top.Digest || errors.Is(err, registry.ErrNotFound) {
			return errOverwritten
		}
		return err
	}
	if len(left) == 0 {
		why, err := r.protects(ctx, a, place, h.top)
		if err != nil {
			return err
		}
		if why == "" {
			// By digest: what somebody puts there meanwhile is not touched.
			err := r.do(ctx, "prune", place+":"+h.tag, h.top.Raw, func() error {
				if err := unchanged(); err != nil {
					return err
				}
				return r.registry.Delete(ctx, place, h.top.Digest)
			})
			if !errors.Is(err, registry.ErrUnsupported) {
				return err
			}
		}
	}
	raw, config, err := verify.Compose(h.sheets[0].image, left, false)
	if err != nil {
		return err
	}
	return r.do(ctx, "prune", place+":"+h.tag, raw, func() error {
		if _, err := r.registry.PutBlob(ctx, place, config); err != nil {
			return err
		}
		return registry.Anew(ctx, func() error {
			if err := unchanged(); err != nil {
				return err
			}
			_, _, err := r.registry.PutManifest(ctx, place, h.tag, string(cmp.Or(h.sheets[0].image.MediaType, ociManifest)), raw)
			return err
		})
	})
}

const ociManifest = "application/vnd.oci.image.manifest.v1+json"

func (r *pruning) stripReferrer(ctx context.Context, a inventory.Artifact, place string, h *holder, left []json.RawMessage) error {
	if len(left) > 0 {
		s := h.sheets[0]
		if len(h.sheets) > 1 || s.Digest != h.top.Digest || s.image.Subject == nil || s.image.Subject.Digest.String() != a.Digest {
			return fmt.Errorf("%s@%s holds other things too, in a form that cannot be written anew: take it apart by hand", place, h.top.Digest)
		}
		raw, config, err := verify.Compose(s.image, left, true)
		if err != nil {
			return err
		}
		if err := r.do(ctx, "prune", place+"@"+inventory.Digest(raw), raw, func() error {
			if _, err := r.registry.PutBlob(ctx, place, config); err != nil {
				return err
			}
			d := v1.Descriptor{ArtifactType: cmp.Or(s.image.ArtifactType, string(s.image.Config.MediaType)), Annotations: s.image.Annotations}
			_, err := r.registry.Attach(ctx, place, raw, string(cmp.Or(s.image.MediaType, ociManifest)), d, a.Digest)
			return err
		}); err != nil {
			return err
		}
	}
	return r.do(ctx, "prune", place+"@"+h.top.Digest, h.top.Raw, func() error {
		return r.registry.Detach(ctx, place, h.top.Digest, a.Digest)
	})
}

// keep puts a manifest with what it holds into the vault.
func (r *pruning) keep(ctx context.Context, place string, m registry.Manifest) error {
	if err := r.keepLayers(ctx, r.registry, place, m); err != nil {
		return err
	}
	return r.do(ctx, "evidence", place+"@"+m.Digest, m.Raw, func() error { return nil })
}

// protects says why a manifest must not be deleted although every signature in
// it has to go, or "". Whoever can push a tag chooses what is called a
// signature.
func (r *pruning) protects(ctx context.Context, a inventory.Artifact, place string, m registry.Manifest) (string, error) {
	if m.Digest == a.Digest {
		return "it is the artifact itself", nil
	}
	if !onlySignatures(m) {
		return "it holds more than signatures", nil
	}
	known, err := r.store.Known(ctx, place, m.Digest)
	if err != nil {
		return "", atHome{err}
	}
	if known {
		return "it is an artifact of the inventory", nil
	}
	tags, err := r.store.TagsAt(ctx, place, m.Digest)
	if err != nil {
		return "", atHome{err}
	}
	own := []string{verify.Tag(a.Digest, inventory.Legacy), verify.Tag(a.Digest, inventory.LegacyAtt)} // not where they were seen any more
	if at := slices.IndexFunc(tags, func(tag string) bool { return !slices.Contains(own, tag) }); at >= 0 {
		return "the tag " + tags[at] + " names it too", nil
	}
	return "", nil
}

// onlySignatures reports whether a manifest is an image of layers of the types
// that signatures have.
func onlySignatures(m registry.Manifest) bool {
	var image v1.Manifest
	if json.Unmarshal(m.Raw, &image) != nil || image.Layers == nil {
		return false
	}
	return !slices.ContainsFunc(image.Layers, func(l v1.Descriptor) bool { return !verify.IsSignature(l.MediaType) })
}

// sweep deletes the manifests that held what was taken away and that no
// verifier finds any more: they could still be had by digest. What the registry
// does not delete is left to its own garbage collection.
func (r *pruning) sweep(ctx context.Context, a inventory.Artifact, place string, on, now *shelf, out *outcome) error {
	old := map[string][]string{} // which signatures each held
	for _, h := range on.holders {
		for _, s := range h.sheets {
			for _, id := range s.ids {
				if _, dropped := out.drop[id]; dropped {
					old[h.top.Digest], old[s.Digest] = append(old[h.top.Digest], id), append(old[s.Digest], id)
				}
			}
		}
	}
	ids := slices.Collect(maps.Keys(out.drop))
	for _, x := range out.gone {
		if x.Kept == "" {
			ids = append(ids, x.ID)
		}
	}
	for _, id := range ids {
		copies, err := r.store.Copies(ctx, id)
		if err != nil {
			return atHome{err}
		}
		for _, d := range copies {
			old[d] = append(old[d], id)
		}
	}
	for _, h := range now.holders {
		delete(old, h.top.Digest)
		for _, s := range h.sheets {
			delete(old, s.Digest)
		}
	}
	for _, d := range slices.Sorted(maps.Keys(old)) {
		if inventory.CheckDigest(d) != nil {
			continue
		}
		m, err := r.registry.Manifest(ctx, place, d)
		if unreadable(err) {
			continue
		}
		if err != nil {
			return err
		}
		why, err := r.protects(ctx, a, place, m)
		if err != nil {
			return err
		}
		if why == "" {
			err := r.keep(ctx, place, m)
			if err == nil {
				err = r.do(ctx, "prune", place+"@"+d, m.Raw, func() error { return r.registry.Delete(ctx, place, d) })
			}
			switch {
			case err == nil:
				continue
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.As(err, new(atHome)):
				return err
			case !errors.Is(err, registry.ErrUnsupported): // the next run tries again
				for _, id := range old[d] {
					out.why[id] = fmt.Errorf("no verifier finds it any more, but %s@%s, which holds it, could not be deleted: %w", place, d, err)
				}
				continue
			}
			why = "the registry deletes nothing: its garbage collection or retention decides how long it stays"
		}
		out.left = append(out.left, place+"@"+d+": "+why)
	}
	return nil
}

// record enters what was taken away into the inventory, and what stands in
// another manifest now.
func (r *pruning) record(ctx context.Context, a inventory.Artifact, place string, now *shelf, known []inventory.Signature, out *outcome) error {
	away := map[string]trust.Removed{}
	for id, x := range out.drop {
		if out.why[id] == nil {
			away[id] = x
		}
	}
	absent := map[string]bool{}
	for _, x := range out.gone {
		if out.why[x.ID] != nil {
			continue
		}
		if absent[x.ID] = true; x.Kept == "" { // perhaps by our own hand
			away[x.ID] = x
		}
	}
	if len(away)+len(absent) == 0 {
		return nil
	}
	made, err := r.store.ReissuesBySignature(ctx, slices.Collect(maps.Keys(away)))
	if err != nil {
		return atHome{err}
	}
	err = r.store.Update(ctx, r.by, func(tx *store.Tx) error {
		var stay []string
		for _, g := range known {
			if _, gone := away[g.ID]; !gone && !absent[g.ID] {
				stay = append(stay, g.ID)
			}
		}
		for _, id := range slices.Sorted(maps.Keys(away)) {
			mark := PruneMark{Schema: PruneSchema, Signature: id, Artifact: a.Ref(), Format: away[id].Format, Location: away[id].Location,
				Incident: r.permission.plan.Incident, Plan: r.permission.digest, Cause: away[id].Cause, Why: away[id].Why}
			for _, x := range made {
				if x.SignatureID == id && !slices.Contains(mark.Made, x.Plan) {
					mark.Made = append(mark.Made, x.Plan)
				}
			}
			body, err := canonical(mark)
			if err != nil {
				return err
			}
			if err := tx.PutDocument(ctx, store.KindPruned, id, "signature.pruned", body); err != nil {
				return err
			}
		}
		if err := tx.LookAgain(ctx, a.Repository, a.Digest, place); err != nil {
			return err
		}
		location := place
		if place == a.Repository {
			location = ""
		}
		if err := tx.KeepSignatures(ctx, a.Repository, a.Digest, location, inventory.Formats(), stay); err != nil {
			return err
		}
		for _, g := range known {
			found, ok := now.found[g.ID]
			if !ok || found.Manifest == g.Manifest || cmp.Or(g.Location, g.Repository) != place {
				continue
			}
			for _, content := range [][]byte{found.Content, now.raw[found.Manifest]} {
				if _, err := tx.PutVault(ctx, content); err != nil {
					return err
				}
			}
			if err := tx.PutSignature(ctx, found.Signature); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return atHome{err}
	}
	return nil
}
