package restore

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/verify"
)

// manifest is a manifest that holds signatures, taken apart.
type manifest struct {
	digest string
	raw    []byte
	image  v1.Manifest
	layers []json.RawMessage // as they stand in raw
	held   []held            // in the order of their layers
}

// open takes a manifest apart and verifies what its layers hold, where that is
// a signature the inventory knows at this place. The inventory's signatures
// have their bytes in the vault, so no layer is fetched.
func (t *task) open(ctx context.Context, p *place, digest string, raw []byte, formats []inventory.Format) (*manifest, error) {
	m := &manifest{digest: digest, raw: raw}
	parts := struct {
		Layers *[]json.RawMessage `json:"layers"`
	}{&m.layers}
	if json.Unmarshal(raw, &m.image) != nil || json.Unmarshal(raw, &parts) != nil || len(m.layers) != len(m.image.Layers) {
		return &manifest{digest: digest, raw: raw}, nil // no verifier reads it
	}
	for n, l := range m.image.Layers {
		content, err := t.store.Vault(ctx, l.Digest.String())
		switch {
		case errors.Is(err, inventory.ErrNotFound):
			continue
		case err != nil:
			return nil, fatal{err}
		case int64(len(content)) > l.Size: // verifiers do not read on
			continue
		}
		for _, f := range formats {
			annotations := l.Annotations
			if f == inventory.Bundle {
				if annotations = nil; len(m.image.Layers) != 1 {
					continue
				}
			}
			sig := t.Verifier.Stored(t.subject(), f, annotations, content)
			if row := t.byID[sig.ID]; row != nil && row.place == p {
				sig.Manifest, sig.Location = digest, row.Location
				m.held = append(m.held, held{in: m, layer: n, row: row, sig: sig})
				break
			}
		}
	}
	return m, nil
}

func (m *manifest) mediaType() types.MediaType {
	if m.image.MediaType != "" {
		return m.image.MediaType
	}
	return types.OCIManifestSchema1
}

// isImage reports whether layers may be added to it.
func (m *manifest) isImage() bool { return m.image.Layers != nil && m.mediaType().IsImage() }

// key is the same for layers that say the same.
func (m *manifest) key(layer int) string {
	b, err := json.Marshal(m.image.Layers[layer])
	if err != nil { // it was read from JSON
		return ""
	}
	return string(b)
}

func (m *manifest) keys() []string {
	var out []string
	for n := range m.image.Layers {
		out = append(out, m.key(n))
	}
	slices.Sort(out)
	return out
}

// blob is content that a manifest needs.
type blob struct {
	digest  string
	content []byte // nil: it is in the vault
}

// config returns the blob of a manifest's configuration; known is false when
// nobody has it any more.
func (t *task) config(ctx context.Context, p *place, m *manifest) (b []blob, known bool, err error) {
	d := m.image.Config.Digest.String()
	if m.image.Config.Digest.Hex == "" {
		return nil, true, nil
	}
	if content, ok := verify.Config(m.image); ok {
		return []blob{{d, content}}, true, nil
	}
	_, err = t.store.Vault(ctx, d)
	if err == nil {
		return []blob{{d, nil}}, true, nil
	}
	if !errors.Is(err, inventory.ErrNotFound) {
		return nil, false, fatal{err}
	}
	has, err := t.registry.HasBlob(ctx, p.repository, d)
	return nil, has, err
}

// compose makes a manifest of layers like a model, see verify.Compose.
func compose(model *manifest, layers []json.RawMessage, referrer bool) (*manifest, []blob, error) {
	raw, config, err := verify.Compose(model.image, layers, referrer)
	if err != nil {
		return nil, nil, err
	}
	m := &manifest{digest: inventory.Digest(raw), raw: raw, layers: layers}
	return m, []blob{{inventory.Digest(config), config}}, json.Unmarshal(raw, &m.image)
}
