package verify

import (
	"bytes"
	"cmp"
	"encoding/json"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/reseal/reseal/inventory"
)

// emptyType is a configuration that says nothing (image-spec, "Guidance for an
// Empty Descriptor").
const emptyType = types.MediaType("application/vnd.oci.empty.v1+json")

// Compose makes a manifest of signatures from layers, just as they stand in
// others, and a model for the rest: a manifest that stands somewhere or once
// did. Its configuration, which is returned too, says nothing but which layers
// there are, as cosign writes it, or is as empty as the model's. Only a referrer
// has the model's subject.
func Compose(model v1.Manifest, layers []json.RawMessage, referrer bool) (raw, config []byte, err error) {
	out := struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     types.MediaType   `json:"mediaType"`
		ArtifactType  string            `json:"artifactType,omitempty"`
		Config        v1.Descriptor     `json:"config"`
		Layers        []json.RawMessage `json:"layers"`
		Subject       *v1.Descriptor    `json:"subject,omitempty"`
		Annotations   map[string]string `json:"annotations,omitempty"`
	}{SchemaVersion: 2, MediaType: cmp.Or(model.MediaType, types.OCIManifestSchema1), Config: model.Config, Layers: layers, Annotations: model.Annotations}
	if out.Layers == nil {
		out.Layers = []json.RawMessage{} // null is no list
	}
	if referrer {
		out.ArtifactType, out.Subject = model.ArtifactType, model.Subject
	}
	c := v1.ConfigFile{RootFS: v1.RootFS{Type: "layers"}}
	for _, raw := range layers {
		var l v1.Descriptor
		if err := json.Unmarshal(raw, &l); err != nil {
			return nil, nil, err
		}
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.Digest)
		c.History = append(c.History, v1.History{})
	}
	if config, err = json.Marshal(c); err != nil {
		return nil, nil, err
	}
	if out.Config.MediaType == emptyType {
		config = []byte("{}")
	}
	out.Config.Size, out.Config.Data, out.Config.MediaType = int64(len(config)), nil, cmp.Or(out.Config.MediaType, types.OCIConfigJSON)
	if out.Config.Digest, err = v1.NewHash(inventory.Digest(config)); err != nil {
		return nil, nil, err
	}
	// The layers stay as they are, to the byte: < and & would be escaped.
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(out); err != nil {
		return nil, nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), config, nil
}
