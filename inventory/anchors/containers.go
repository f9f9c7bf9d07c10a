package anchors

import (
	"fmt"
	"maps"
	"slices"

	"github.com/reseal/reseal/inventory"
)

// containersPolicy reads policy.json of containers/image (podman, skopeo,
// CRI-O; containers-policy.json(5)). Each scope of each transport is an anchor.
// Signatures are read where registries.d says use-sigstore-attachments, and
// only legacy ones.
//
// A scope that rejects everything is one too, a denial in force, except the
// default: that pins nobody and denies nothing in particular.
func (in *input) containersPolicy(document map[string]any) {
	r := &reader{}
	top := r.object("", document)
	add := func(path, name, scope string, value any) {
		d := in.draft("policy.json", name)
		d.shared = []*reader{r}
		if scope != "" {
			d.Scope = r.scope([]string{scope})
		}
		if d.requirements(path, value); len(d.Pins) > 0 || len(d.notes) > 0 {
			in.add(d)
		}
	}
	top.skip("default", "transports")
	add("default", "default", "", document["default"])
	transports := r.object("transports", document["transports"])
	for _, transport := range slices.Sorted(maps.Keys(transports.fields)) {
		scopes := transports.object(transport)
		for _, scope := range slices.Sorted(maps.Keys(scopes.fields)) {
			scopes.skip(scope)
			name := transport
			if scope != "" {
				name += ":" + scope
			}
			add(fmt.Sprintf("%s[%.100q]", transports.at(transport), scope), name, scope, scopes.fields[scope])
		}
	}
}

// requirements reads a list of PolicyRequirements, all of which must hold.
func (d *draft) requirements(path string, value any) {
	list, ok := value.([]any)
	if !ok && value != nil {
		d.note("%s is no list: it was not read", path)
	}
	for i, value := range list {
		o := d.object(fmt.Sprintf("%s[%d]", path, i), value)
		switch kind := o.text("type"); kind {
		case "insecureAcceptAnything":
			if len(list) == 1 {
				d.note("every image is accepted, signed or not")
			}
		case "reject":
			if d.Name != "default" {
				d.note("no image is accepted")
			}
		case "signedBy":
			o.skip("keyType", "keyPath", "keyPaths", "keyData", "signedIdentity")
			d.note("%s: signatures by GPG keys are not in the inventory", o.path)
		case "signedBaseLayer":
			o.skip("baseLayerIdentity")
			d.note("%s: no consumer implements signedBaseLayer", o.path)
		case "sigstoreSigned":
			d.Formats = []inventory.Format{inventory.Legacy}
			d.sigstoreSigned(o)
		default:
			d.note("%s: type %.100q is not known here", o.path, kind)
		}
	}
}

func (d *draft) sigstoreSigned(o *object) {
	o.skip("signedIdentity")
	for _, file := range append(o.texts("keyPaths"), o.text("keyPath")) {
		d.elsewhere("", file)
	}
	for _, data := range o.encoded("keyData", "keyDatas") {
		d.keys(data.path, data.text)
	}
	if o.has("fulcio") {
		f := o.object("fulcio")
		d.identity(f.path, inventory.Pin{Issuer: f.text("oidcIssuer"), Subject: f.text("subjectEmail")})
		d.elsewhere(inventory.RoleCA, f.text("caPath"))
		d.authorities(inventory.RoleCA, f.at("caData"), string(f.decoded("caData")))
	}
	if o.has("pki") {
		p := o.object("pki")
		d.subjects(p.path, p.text("subjectEmail"), p.text("subjectHostname"))
		for _, name := range []string{"caRoots", "caIntermediates"} {
			d.elsewhere(inventory.RoleCA, p.text(name+"Path"))
			d.authorities(inventory.RoleCA, p.at(name+"Data"), string(p.decoded(name+"Data")))
		}
	}
	for _, file := range append(o.texts("rekorPublicKeyPaths"), o.text("rekorPublicKeyPath")) {
		d.elsewhere(inventory.RoleLog, file)
	}
	for _, data := range o.encoded("rekorPublicKeyData", "rekorPublicKeyDatas") {
		d.authorities(inventory.RoleLog, data.path, data.text)
	}
}

// subjects pins whom a PKI certified for an address or a host. A certificate
// must name both where both are given, and is known by the first.
func (d *draft) subjects(path, email, hostname string) {
	for _, subject := range []string{email, hostname} {
		if subject != "" {
			d.pin(inventory.Pin{Subject: subject})
		}
	}
	if email == "" && hostname == "" {
		d.identity(path, inventory.Pin{})
	}
}

type located struct{ path, text string }

// encoded returns what is in base64 in a field, and in the list in another.
func (o *object) encoded(one, many string) []located {
	var out []located
	if text := o.text(one); text != "" {
		out = append(out, located{o.at(one), string(decoded(o.r, o.at(one), text))})
	}
	for i, text := range o.texts(many) {
		path := fmt.Sprintf("%s[%d]", o.at(many), i)
		out = append(out, located{path, string(decoded(o.r, path, text))})
	}
	return out
}

// openShift reads a ClusterImagePolicy or ImagePolicy of OpenShift
// (config.openshift.io), which the Machine Config Operator writes into
// policy.json on the nodes.
func (p policy) openShift() {
	d := p.anchor("")
	p.in.add(d)
	d.Formats = []inventory.Format{inventory.Legacy}
	spec := p.spec()
	d.Scope = p.scope(spec.texts("scopes"))
	pol := spec.object("policy")
	pol.skip("signedIdentity")
	root := d.object("spec.policy.rootOfTrust", pol.fields["rootOfTrust"])
	pol.skip("rootOfTrust")
	switch kind := root.text("policyType"); kind {
	case "PublicKey", "FulcioCAWithRekor", "PKI":
	default:
		d.note("policyType %.100q is not known here", kind)
	}
	if root.has("publicKey") {
		k := root.object("publicKey")
		d.keys(k.at("keyData"), string(k.decoded("keyData")))
		d.authorities(inventory.RoleLog, k.at("rekorKeyData"), string(k.decoded("rekorKeyData")))
	}
	if root.has("fulcioCAWithRekor") {
		f := root.object("fulcioCAWithRekor")
		s := f.object("fulcioSubject")
		d.identity(s.path, inventory.Pin{Issuer: s.text("oidcIssuer"), Subject: s.text("signedEmail")})
		d.authorities(inventory.RoleCA, f.at("fulcioCAData"), string(f.decoded("fulcioCAData")))
		d.authorities(inventory.RoleLog, f.at("rekorKeyData"), string(f.decoded("rekorKeyData")))
	}
	if root.has("pki") {
		k := root.object("pki")
		s := k.object("pkiCertificateSubject")
		d.subjects(s.path, s.text("email"), s.text("hostname"))
		for _, name := range []string{"caRootsData", "caIntermediatesData"} {
			d.authorities(inventory.RoleCA, k.at(name), string(k.decoded(name)))
		}
	}
}
