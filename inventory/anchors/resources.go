package anchors

import "strings"

// resources reads Kubernetes resources, and lists of them as kubectl prints.
func (in *input) resources(documents []map[string]any) error {
	known := false
	for _, doc := range documents {
		items, isList := doc["items"].([]any)
		if kind, _ := doc["kind"].(string); !isList || !strings.HasSuffix(kind, "List") {
			items = []any{doc}
		}
		for _, item := range items {
			fields, _ := item.(map[string]any)
			known = in.resource(fields) || known
		}
	}
	if !known {
		return ErrUnknown
	}
	return nil
}

// resource reads one resource, and reports whether it is of a kind that can pin
// signers.
func (in *input) resource(fields map[string]any) bool {
	api, _ := fields["apiVersion"].(string)
	kind, _ := fields["kind"].(string)
	group, _, _ := strings.Cut(api, "/")
	r := &reader{}
	top := r.object("", fields)
	top.skip("apiVersion", "kind", "metadata", "status")
	meta, _ := fields["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	if ns, _ := meta["namespace"].(string); ns != "" {
		name = short(ns) + "/" + name
	}
	p := policy{reader: r, in: in, top: top, kind: kind, name: short(name)}
	switch group + " " + kind {
	case "policy.sigstore.dev ClusterImagePolicy":
		p.clusterImagePolicy()
	case "policy.sigstore.dev TrustRoot":
		p.trustRoot()
	case "kyverno.io ClusterPolicy", "kyverno.io Policy":
		p.kyverno()
	case "policies.kyverno.io ImageValidatingPolicy", "policies.kyverno.io NamespacedImageValidatingPolicy":
		p.imageValidating()
	case "config.openshift.io ClusterImagePolicy", "config.openshift.io ImagePolicy":
		p.kind = "OpenShift " + kind
		p.openShift()
	default:
		if group != "policy.sigstore.dev" || kind == "" {
			return false
		}
		top.skip("spec")
		p.kind = short(kind)
		d := p.anchor("")
		d.note("this kind is not known here: what it pins was not read")
		in.add(d)
	}
	return true
}

// policy is a resource as it is read.
type policy struct {
	*reader
	in         *input
	top        *object
	kind, name string
}

// spec reads what is common to its anchors.
func (p policy) spec() *object { return p.top.object("spec") }

// anchor starts an anchor of the policy. part names it within the policy.
func (p policy) anchor(part string) *draft {
	name := p.name
	if part != "" {
		name += "/" + short(part)
	}
	d := p.in.draft(p.kind, "")
	d.Name, d.shared = name, []*reader{p.reader}
	return d
}
