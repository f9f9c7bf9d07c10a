package anchors

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/reseal/reseal/inventory"
)

// kyverno reads a ClusterPolicy or Policy of Kyverno (api/kyverno/v1). Each
// entry of verifyImages is an anchor, and so is each attestation in it and
// what signs manifests of resources (validate.manifests).
//
// Type Cosign, the default, reads legacy signatures; SigstoreBundle reads
// bundles; Notary reads what is not in the inventory.
func (p policy) kyverno() {
	spec := p.spec()
	spec.skip("applyRules", "failurePolicy", "validationFailureActionOverrides", "emitWarning", "admission", "background", "schemaValidation", "webhookTimeoutSeconds",
		"mutateExistingOnPolicyUpdate", "generateExistingOnPolicyUpdate", "generateExisting", "useServerSideApply", "webhookConfiguration")
	audits := !strings.EqualFold(spec.text("validationFailureAction"), "enforce") // Audit is the default
	for i, rule := range spec.objects("rules") {
		rule.skip("context", "reportProperties", "match", "exclude", "imageExtractors", "preconditions", "celPreconditions", "mutate", "generate", "skipBackgroundRequests")
		name := rule.text("name")
		if name = short(name); name == "" {
			name = fmt.Sprintf("rules[%d]", i)
		}
		// What else a rule validates is none of ours.
		if validate, ok := rule.fields["validate"].(map[string]any); ok && validate["manifests"] != nil {
			d := p.anchor(name + "/manifests")
			o := d.object(rule.at("validate")+".manifests", validate["manifests"])
			o.skip("annotationDomain", "ignoreFields", "dryRun", "repository")
			for _, set := range o.objects("attestors") {
				d.attestors(set, kyvernoCosign, 0)
			}
			p.in.add(d)
		}
		rule.skip("validate")
		entries := rule.list("verifyImages")
		for i, value := range entries {
			part := name
			if len(entries) > 1 {
				part += fmt.Sprintf("/verifyImages[%d]", i)
			}
			p.verifyImages(part, fmt.Sprintf("%s[%d]", rule.at("verifyImages"), i), value, audits)
		}
	}
}

// kyvernoType says how Kyverno takes an identity.
type kyvernoType string

const (
	kyvernoCosign kyvernoType = "Cosign"
	kyvernoBundle kyvernoType = "SigstoreBundle"
	kyvernoNotary kyvernoType = "Notary"
)

// verifyImages reads one ImageVerification.
func (p policy) verifyImages(part, path string, value any, audits bool) {
	entry := &reader{}
	o := entry.object(path, value)
	anchor := func(part string) *draft {
		d := p.anchor(part)
		d.shared = append(d.shared, entry)
		return d
	}
	o.skip("annotations", "repository", "mutateDigest", "verifyDigest", "required", "imageRegistryCredentials", "useCache", "additionalExtensions")
	if action := o.text("failureAction"); action != "" {
		audits = !strings.EqualFold(action, "enforce")
	}
	if audits {
		entry.note("its failure action is Audit: it admits what does not verify")
	}
	if o.has("validate") {
		o.skip("validate")
		entry.note("%s asks for more, which was not read", o.at("validate"))
	}
	references := o.texts("imageReferences")
	if image := o.text("image"); image != "" {
		references = append(references, image)
	}
	for _, skipped := range o.texts("skipImageReferences") {
		references = append(references, "!"+skipped)
	}
	scope := entry.scope(references)
	kind := kyvernoCosign
	if t := o.text("type"); t != "" {
		kind = kyvernoType(t)
	}
	var formats, attested []inventory.Format
	oci11 := o.is("cosignOCI11")
	switch kind {
	case kyvernoCosign:
		formats, attested = []inventory.Format{inventory.Legacy}, []inventory.Format{inventory.LegacyAtt}
		if oci11 {
			formats, attested = append(formats, inventory.Referrer), append(attested, inventory.ReferrerAtt)
		}
	case kyvernoBundle:
		formats, attested = []inventory.Format{inventory.Bundle}, []inventory.Format{inventory.Bundle}
	case kyvernoNotary:
		entry.note("type Notary: signatures of Notary Project are not in the inventory")
	default:
		entry.note("type %.100q is not known here", kind)
	}
	sets, attestations := o.list("attestors"), o.list("attestations")
	d := anchor(part)
	d.Scope, d.Formats = scope, formats
	for i, set := range sets {
		d.attestors(d.object(fmt.Sprintf("%s[%d]", o.at("attestors"), i), set), kind, 0)
	}
	// What is directly in the entry is deprecated, and means an attestor: of
	// the attestations where there are any (ImageVerification.Convert).
	direct := d
	if len(attestations) > 0 {
		direct = anchor(part)
	}
	direct.kyvernoKeys(o.at("key"), o.text("key"))
	if issuer, subject := o.text("issuer"), o.text("subject"); issuer != "" {
		direct.kyvernoIdentity(path, kind, inventory.Pin{Issuer: issuer, Subject: subject})
	}
	named := len(direct.Pins) > 0
	direct.kyvernoPEM(inventory.RoleCA, o.at("roots"), o.text("roots"))
	if len(attestations) == 0 && len(sets) == 0 && len(d.Pins) == 0 {
		d.note("it names no attestor")
	}
	if len(attestations) == 0 || len(sets) > 0 {
		p.in.add(d)
	}
	for i, value := range attestations {
		a := anchor(fmt.Sprintf("%s/attestations[%d]", part, i))
		a.Scope, a.Formats = scope, attested
		a.notes, a.errs = append(a.notes, direct.notes...), append(a.errs, direct.errs...)
		for _, pin := range direct.Pins {
			a.pin(pin)
		}
		att := a.object(fmt.Sprintf("%s[%d]", o.at("attestations"), i), value)
		att.skip("name", "type", "predicateType")
		if att.has("conditions") {
			att.skip("conditions")
			a.note("%s asks for more, which was not read", att.at("conditions"))
		}
		sets := att.objects("attestors")
		for _, set := range sets {
			a.attestors(set, kind, 0)
		}
		if len(sets) == 0 && !named {
			// Kyverno puts an empty attestor there (verifyAttestations in pkg/engine/internal/imageverifier.go).
			a.everybody("%s names no attestor: every keyless signer is accepted", att.path)
		}
		p.in.add(a)
	}
}

// maxNested bounds attestors within attestors.
const maxNested = 10

// attestors reads an AttestorSet. How many of its entries must agree is not
// kept: each of them is pinned.
func (d *draft) attestors(set *object, kind kyvernoType, depth int) {
	set.skip("count")
	for _, e := range set.objects("entries") {
		e.skip("annotations", "repository", "signatureAlgorithm")
		if e.has("keys") {
			k := e.object("keys")
			k.skip("signatureAlgorithm")
			d.kyvernoKeys(k.at("publicKeys"), k.text("publicKeys"))
			d.elsewhere("", k.text("kms"))
			if k.has("secret") {
				s := k.object("secret")
				d.elsewhere("", "k8s://"+s.text("namespace")+"/"+s.text("name"))
			}
			d.kyvernoLogs(k)
		}
		if e.has("certificates") {
			c := e.object("certificates")
			d.kyvernoCertificates(c, kind)
			d.kyvernoLogs(c)
		}
		if e.has("keyless") {
			k := e.object("keyless")
			p := inventory.Pin{Issuer: k.text("issuer"), IssuerRegexp: k.text("issuerRegExp"), Subject: k.text("subject"), SubjectRegexp: k.text("subjectRegExp")}
			d.narrowed(k)
			d.kyvernoIdentity(k.path, kind, p)
			d.kyvernoPEM(inventory.RoleCA, k.at("roots"), k.text("roots"))
			d.kyvernoLogs(k)
		}
		if e.has("attestor") {
			nested := e.object("attestor")
			if depth == maxNested {
				d.note("%s is nested more than %d deep: it was not read", nested.path, maxNested)
				continue
			}
			d.attestors(nested, kind, depth+1)
		}
	}
}

// narrowed notes that a certificate must have more than the pin says.
func (d *draft) narrowed(o *object) {
	if o.has("additionalExtensions") {
		o.skip("additionalExtensions")
		d.note("%s ask for more of the certificate", o.at("additionalExtensions"))
	}
}

// variable reports whether a text has a variable of Kyverno in it, which only
// a request gives a value.
func variable(text string) bool { return strings.Contains(text, "{{") }

// kyvernoKeys pins PEM keys, of which one text may hold several, or what names
// a key: a Secret, a KMS URI, a variable.
func (d *draft) kyvernoKeys(path, text string) {
	if strings.Contains(text, "-----BEGIN") {
		d.keys(path, text)
		return
	}
	d.elsewhere("", text)
}

// kyvernoPEM pins authorities by PEM text, or by a variable.
func (d *draft) kyvernoPEM(r inventory.Role, path, text string) {
	if variable(text) {
		d.elsewhere(r, text)
		return
	}
	d.authorities(r, path, text)
}

// kyvernoLogs reads the log and timestamp settings of an attestor.
func (d *draft) kyvernoLogs(o *object) {
	rekor, ctlog := o.object("rekor"), o.object("ctlog")
	rekor.skip("url", "ignoreTlog")
	ctlog.skip("ignoreSCT")
	d.kyvernoPEM(inventory.RoleLog, rekor.at("pubkey"), rekor.text("pubkey"))
	d.kyvernoPEM(inventory.RoleCT, ctlog.at("pubkey"), ctlog.text("pubkey"))
	d.kyvernoPEM(inventory.RoleTSA, ctlog.at("tsaCertChain"), ctlog.text("tsaCertChain"))
}

// kyvernoCertificates reads a CertificateAttestor. A certificate stands for its
// key; a chain alone stands for everybody it certifies. To Notary both are
// authorities.
func (d *draft) kyvernoCertificates(o *object, kind kyvernoType) {
	cert, chain := o.text("cert"), o.text("certChain")
	switch {
	case kind == kyvernoNotary:
		d.kyvernoPEM(inventory.RoleCA, o.at("cert"), cert)
	case variable(cert):
		d.elsewhere("", cert)
	case cert != "":
		d.keys(o.at("cert"), cert)
	case chain != "":
		d.everybody("%s stands alone: whoever it certifies is accepted, and the pin says everybody", o.at("certChain"))
	}
	d.kyvernoPEM(inventory.RoleCA, o.at("certChain"), chain)
}

// kyvernoIdentity pins an identity. With type SigstoreBundle all of it must
// hold, as sigstore-go has it. With type Cosign (matchCertificateData in
// pkg/image/verifiers/cpol/cosign/cosign.go) exact values are patterns with *
// and ?, a subject matches one way or the other, and an issuer both ways.
func (d *draft) kyvernoIdentity(path string, kind kyvernoType, p inventory.Pin) {
	for _, text := range []*string{&p.Issuer, &p.IssuerRegexp, &p.Subject, &p.SubjectRegexp} {
		if variable(*text) {
			p.Reference, *text = *text, ""
		}
	}
	if p.Reference != "" || kind == kyvernoBundle {
		d.identity(path, p)
		return
	}
	if pattern := wildcard(p.Issuer); pattern != "" {
		if p.IssuerRegexp != "" {
			d.note("%s: the issuer must match %.200q too, which the pin does not say", path, p.Issuer)
			pattern = p.IssuerRegexp
		}
		p.Issuer, p.IssuerRegexp = "", pattern
	}
	if exact := p; exact.Subject != "" {
		exact.SubjectRegexp = wildcard(p.Subject)
		if exact.SubjectRegexp != "" {
			exact.Subject = ""
		}
		d.identity(path, exact)
		p.Subject = ""
		if p.SubjectRegexp == "" {
			return
		}
	}
	d.identity(path, p)
}

// wildcard returns the regular expression for a pattern in which * is any text
// and ? any character, or "" for one that has neither.
func wildcard(pattern string) string {
	if !strings.ContainsAny(pattern, "*?") {
		return ""
	}
	return "(?s)^" + strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(pattern)) + "$"
}

// imageValidating reads an ImageValidatingPolicy of Kyverno
// (api/policies.kyverno.io). Each attestor is an anchor. It reads bundles where
// an image has them, and legacy signatures where it has none.
func (p policy) imageValidating() {
	spec := p.spec()
	spec.skip("matchConstraints", "failurePolicy", "auditAnnotations", "matchConditions", "variables", "validationConfigurations", "credentials", "images", "validations",
		"webhookConfiguration", "evaluation", "autogen")
	if actions := spec.texts("validationActions"); len(actions) > 0 && !strings.Contains(strings.Join(actions, " "), "Deny") {
		p.note("its validation actions are %.100s: it admits what does not verify", strings.Join(actions, ", "))
	}
	formats := []inventory.Format{inventory.Legacy, inventory.Bundle}
	if len(spec.list("attestations")) > 0 {
		formats = []inventory.Format{inventory.Legacy, inventory.LegacyAtt, inventory.Bundle}
	}
	var patterns []string
	for _, m := range spec.objects("matchImageReferences") {
		if glob := m.text("glob"); glob != "" {
			patterns = append(patterns, glob)
		}
		if expression := m.text("expression"); expression != "" {
			patterns = append(patterns, celReference+expression)
		}
	}
	scope := p.scope(patterns)
	for i, value := range spec.list("attestors") {
		fields, _ := value.(map[string]any)
		name, _ := fields["name"].(string)
		if name == "" {
			name = fmt.Sprintf("attestors[%d]", i)
		}
		d := p.anchor(name)
		d.Scope = scope
		o := d.object(fmt.Sprintf("spec.attestors[%d]", i), value)
		o.skip("name")
		if o.has("cosign") {
			d.Formats = formats
			d.cosignAttestor(o.object("cosign"))
		}
		if o.has("notary") {
			d.note("signatures of Notary Project are not in the inventory")
			notary := o.object("notary")
			certs, tsa := notary.object("certs"), notary.object("tsaCerts")
			d.authorities(inventory.RoleCA, certs.at("value"), certs.text("value"))
			d.computed(inventory.RoleCA, certs)
			d.authorities(inventory.RoleTSA, tsa.at("value"), tsa.text("value"))
			d.computed(inventory.RoleTSA, tsa)
		}
		p.in.add(d)
	}
}

func (d *draft) cosignAttestor(o *object) {
	o.skip("source", "annotations")
	key := o.object("key")
	key.skip("hashAlgorithm")
	d.keys(key.at("data"), key.text("data"))
	d.elsewhere("", key.text("kms"))
	d.computed("", key)
	if o.has("keyless") {
		k := o.object("keyless")
		d.narrowed(k)
		identities := k.objects("identities")
		if len(identities) == 0 {
			d.everybody("%s names no identity: every keyless signer is accepted", k.path)
		}
		for _, id := range identities {
			pin := cosignIdentity(id)
			if expression := id.text("subjectExpression"); expression != "" {
				pin.Reference = celReference + expression
			}
			d.identity(id.path, pin)
		}
		d.authorities(inventory.RoleCA, k.at("roots"), k.text("roots"))
	}
	if o.has("certificate") {
		c := o.object("certificate")
		cert, chain := c.object("cert"), c.object("certChain")
		if !cert.has("value") && !cert.has("expression") {
			d.everybody("%s stands alone: whoever it certifies is accepted, and the pin says everybody", chain.path)
		}
		d.keys(cert.at("value"), cert.text("value"))
		d.computed("", cert)
		d.authorities(inventory.RoleCA, chain.at("value"), chain.text("value"))
		d.computed(inventory.RoleCA, chain)
	}
	ctlog := o.object("ctlog")
	ctlog.skip("url", "insecureIgnoreTlog", "insecureIgnoreSCT")
	d.authorities(inventory.RoleLog, ctlog.at("rekorPubKey"), ctlog.text("rekorPubKey"))
	d.authorities(inventory.RoleCT, ctlog.at("ctLogPubKey"), ctlog.text("ctLogPubKey"))
	d.authorities(inventory.RoleTSA, ctlog.at("tsaCertChain"), ctlog.text("tsaCertChain"))
	if o.has("tuf") {
		tuf := o.object("tuf")
		tuf.object("root").skip("path", "data")
		mirror := tuf.text("mirror")
		if mirror == "" {
			mirror = "https://tuf-repo-cdn.sigstore.dev" // as sigstore-go has it
		}
		d.elsewhere("", "TUF "+mirror)
	}
	root := o.object("trustedRoot")
	d.computed("", root)
	if value := root.text("value"); value != "" {
		if err := d.trustedRoot(root.at("value")+": ", []byte(value)); err != nil {
			d.note("%s: %v", root.at("value"), err)
		}
	}
}

// celReference comes before an expression in a reference.
const celReference = "cel:"

// computed pins what a CEL expression gives.
func (d *draft) computed(r inventory.Role, o *object) {
	if expression := o.text("expression"); expression != "" {
		d.elsewhere(r, celReference+expression)
	}
}
