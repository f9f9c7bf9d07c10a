package anchors

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/reseal/reseal/inventory"
)

// clusterImagePolicy reads a ClusterImagePolicy of policy-controller
// (policy.sigstore.dev/v1alpha1 and v1beta1, pkg/apis/policy). Each authority
// is an anchor of its own: any of them admits an image, and each says which
// signatures it reads, the legacy ones unless signatureFormat is "bundle".
func (p policy) clusterImagePolicy() {
	spec := p.spec()
	var globs []string
	for _, image := range spec.objects("images") {
		globs = append(globs, image.text("glob"))
	}
	scope := p.scope(globs)
	spec.skip("match")
	switch mode := spec.text("mode"); mode {
	case "", "enforce":
	case "warn":
		p.note("mode is warn: it admits what does not verify")
	default:
		p.note("mode %.100q is not known here", mode)
	}
	if spec.has("policy") {
		spec.skip("policy")
		p.note("spec.policy asks for more, which was not read")
	}
	authorities := spec.list("authorities")
	if len(authorities) == 0 {
		d := p.anchor("")
		d.Scope = scope
		d.note("it names no authority")
		p.in.add(d)
	}
	for i, value := range authorities {
		fields, _ := value.(map[string]any)
		name, _ := fields["name"].(string)
		if name == "" {
			name = fmt.Sprintf("authority-%d", i) // as the controller names it
		}
		d := p.anchor(name)
		d.Scope = scope
		d.policyControllerAuthority(d.object(fmt.Sprintf("spec.authorities[%d]", i), value))
		p.in.add(d)
	}
}

func (d *draft) policyControllerAuthority(o *object) {
	o.skip("name", "source")
	d.policyControllerKey(o.object("key"))
	if o.has("keyless") {
		d.policyControllerKeyless(o.object("keyless"))
	}
	if o.has("static") {
		static := o.object("static")
		static.skip("message")
		switch action := static.text("action"); action {
		case "pass":
			d.note("static pass: every image is admitted, signed or not")
		case "fail":
			d.note("static fail: no image is admitted")
		default:
			d.note("static action %.100q is not known here", action)
		}
		return
	}
	for _, service := range []struct {
		field string
		role  inventory.Role
	}{{"ctlog", inventory.RoleLog}, {"rfc3161timestamp", inventory.RoleTSA}} {
		s := o.object(service.field)
		s.skip("url")
		d.trustRootRef(service.role, s.text("trustRootRef"))
	}
	attested := o.objects("attestations")
	for _, a := range attested {
		a.skip("name", "predicateType")
		if a.has("policy") {
			a.skip("policy")
			d.note("%s asks for more, which was not read", a.at("policy"))
		}
	}
	switch format := o.text("signatureFormat"); {
	case format == "bundle":
		d.Formats = []inventory.Format{inventory.Bundle}
	case format != "" && format != "legacy":
		d.note("signatureFormat %.100q is not known here", format)
	case len(attested) > 0: // then the signatures of the image itself are not looked at
		d.Formats = []inventory.Format{inventory.LegacyAtt}
	default:
		d.Formats = []inventory.Format{inventory.Legacy}
	}
}

// policyControllerKey reads a KeyRef of public keys.
func (d *draft) policyControllerKey(o *object) {
	o.skip("hashAlgorithm")
	d.keys(o.at("data"), o.text("data"))
	d.policyControllerReferences("", o)
}

// policyControllerReferences pins what a KeyRef has elsewhere. A Secret has the
// URI that cosign has for it.
func (d *draft) policyControllerReferences(r inventory.Role, o *object) {
	d.elsewhere(r, o.text("kms"))
	if o.has("secretRef") {
		secret := o.object("secretRef")
		ns := secret.text("namespace")
		if ns == "" {
			ns = "cosign-system" // where policy-controller runs by default
		}
		d.elsewhere(r, "k8s://"+ns+"/"+secret.text("name"))
	}
}

func (d *draft) policyControllerKeyless(o *object) {
	o.skip("url", "insecureIgnoreSCT")
	identities := o.objects("identities")
	if len(identities) == 0 {
		d.everybody("%s names no identity: every keyless signer is accepted", o.path)
	}
	for _, id := range identities {
		d.identity(id.path, cosignIdentity(id))
	}
	d.trustRootRef(inventory.RoleCA, o.text("trustRootRef"))
	if o.has("ca-cert") {
		ca := o.object("ca-cert")
		ca.skip("hashAlgorithm")
		d.authorities(inventory.RoleCA, ca.at("data"), ca.text("data"))
		d.policyControllerReferences(inventory.RoleCA, ca)
	}
}

// trustRootRef pins the authorities of a role that a TrustRoot resource has.
func (d *draft) trustRootRef(r inventory.Role, name string) {
	if name != "" {
		d.elsewhere(r, "TrustRoot/"+name)
	}
}

// trustRoot reads a TrustRoot of policy-controller: keys and certificates, a
// TUF repository, or a copy of one.
func (p policy) trustRoot() {
	d := p.anchor("")
	p.in.add(d)
	p.top.skip("spec")
	spec := d.object("spec", p.top.fields["spec"])
	if spec.has("remote") {
		remote := spec.object("remote")
		remote.skip("root", "targets", "trustedRootTarget")
		d.elsewhere("", "TUF "+remote.text("mirror"))
	}
	if spec.has("repository") {
		repository := spec.object("repository")
		repository.skip("root", "targets")
		target := repository.text("trustedRootTarget")
		if target == "" {
			target = "trusted_root.json"
		}
		at, archive := repository.at("mirrorFS"), repository.decoded("mirrorFS")
		if err := d.tufRepository(at, archive, target); archive != nil && err != nil {
			d.note("%s cannot be read, and what it pins is not known: %v", at, err)
		}
	}
	keys := spec.object("sigstoreKeys")
	for _, list := range []struct {
		field string
		role  inventory.Role
	}{{"certificateAuthorities", inventory.RoleCA}, {"timestampAuthorities", inventory.RoleTSA}} {
		for _, a := range keys.objects(list.field) {
			a.skip("subject", "uri")
			d.authorities(list.role, a.at("certChain"), string(a.decoded("certChain")))
		}
	}
	for _, list := range []struct {
		field string
		role  inventory.Role
	}{{"tLogs", inventory.RoleLog}, {"ctLogs", inventory.RoleCT}} {
		for _, l := range keys.objects(list.field) {
			l.skip("baseURL", "hashAlgorithm")
			d.authorities(list.role, l.at("publicKey"), string(l.decoded("publicKey")))
		}
	}
}

// maxArchive bounds what a copy of a TUF repository may unpack to, in bytes.
const maxArchive = 64 << 20

// tufRepository reads every trusted root in a copy of a TUF repository, which
// is a gzipped tar archive. Consistent snapshots have a digest before the name
// of the target.
func (d *draft) tufRepository(at string, archive []byte, target string) error {
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return err
	}
	bounded := &io.LimitedReader{R: unzipped, N: maxArchive}
	files := tar.NewReader(bounded)
	found := false
	for {
		head, err := files.Next()
		if bounded.N <= 0 {
			return fmt.Errorf("it unpacks to more than %d bytes", maxArchive)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if base := path.Base(head.Name); head.Typeflag != tar.TypeReg || base != target && !strings.HasSuffix(base, "."+target) {
			continue
		}
		content, err := io.ReadAll(io.LimitReader(files, maxContent+1))
		if err != nil {
			return err
		}
		if len(content) > maxContent {
			return fmt.Errorf("%.200s is larger than %d bytes", head.Name, maxContent)
		}
		found = true
		if err := d.trustedRoot(fmt.Sprintf("%s: %.200s: ", at, head.Name), content); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("it has no target %.100q", target)
	}
	return nil
}
