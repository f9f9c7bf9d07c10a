// Package anchors reads the files that pin signers for their consumers: policies
// of policy-controller, Kyverno, OpenShift and containers/image, Sigstore
// trusted roots, and public keys.
//
// An anchor that is missed keeps trusting a revoked signer. So in a file of a
// known kind everything is read that can be, and what is not understood is said
// in the anchor's notes instead of being passed over. Where a consumer accepts
// more than one pin can say, the pins say more rather than less.
//
// The package has no I/O: what only the consumer can resolve (a KMS URI, a
// Secret, a path on its disk) stays a reference.
package anchors

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/reseal/reseal/inventory"
)

// Bounds on what is read.
const (
	maxContent = 8 << 20  // bytes of a file, and of its YAML with every alias replaced
	maxPins    = 100000   // of a file
	maxAnchors = 10000    // of a file
	maxNotes   = 50       // of one anchor
	maxScope   = 1000     // patterns of one anchor
	maxName    = 512      // bytes of a name, pattern or note; longer ones are cut
	maxRegexp  = 16 << 10 // bytes of a regular expression
)

// ErrUnknown is returned for a file in which nothing is known to pin signers.
var ErrUnknown = errors.New("nothing in it is known to pin signers: expected a ClusterImagePolicy, a TrustRoot, a Kyverno policy, " +
	"a containers policy.json, a trusted_root.json, or public keys or certificates in PEM")

// Parse reads the anchors of a file; what kind of file it is shows in the
// content. Kubernetes resources may be several documents, of which others are
// passed over, and lists of resources. The name of the file becomes part of the
// anchors' IDs.
//
// It returns an error, and no anchors, when the file cannot be read as what it
// is or a regular expression in it does not compile: a consumer would refuse
// it, or match nothing with it.
func Parse(file string, content []byte) ([]inventory.Anchor, error) {
	if len(content) > maxContent {
		return nil, fmt.Errorf("%s: it is larger than %d bytes", file, maxContent)
	}
	in := &input{anchors: maxAnchors, pins: maxPins}
	if err := in.parse(bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if in.anchors < 0 || in.pins < 0 {
		return nil, fmt.Errorf("%s: it has more than %d anchors or %d pins: split it", file, maxAnchors, maxPins)
	}
	out := make([]inventory.Anchor, 0, len(in.drafts))
	type place struct{ kind, name string }
	places := map[place]int{}
	var errs []error
	for _, d := range in.drafts {
		a := d.Anchor
		// Two of a name, in two documents, are told apart by their order.
		at := place{a.Kind, a.Name}
		for first := at; places[at] > 0; at.name = fmt.Sprintf("%s#%d", a.Name, places[first]) {
			places[first]++
		}
		places[at]++
		a.Name = at.name
		for _, err := range d.errs {
			errs = append(errs, fmt.Errorf("%s: %s %s: %w", file, a.Kind, a.Name, err))
		}
		a.File, a.ID, a.Notes = file, anchorID(file, a.Kind, a.Name), d.allNotes()
		if len(a.Pins) == 0 {
			a.Pins = []inventory.Pin{}
			if len(a.Notes) == 0 {
				a.Notes = []string{"it pins nobody"}
			}
		}
		out = append(out, a)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

// anchorID names a place.
func anchorID(parts ...string) string {
	h := sha256.New()
	for _, s := range parts {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// input is a file as it is read.
type input struct {
	drafts        []*draft
	anchors, pins int // how many more are taken; below 0 there were too many
}

func (in *input) parse(content []byte) error {
	if text := bytes.TrimSpace(content); len(text) > 0 && text[0] == '{' {
		documents, err := jsonDocuments(content)
		if err != nil {
			return err
		}
		if len(documents) == 1 && documents[0]["apiVersion"] == nil {
			return in.jsonFile(documents[0], content)
		}
		return in.resources(documents)
	}
	// In YAML a PEM block is indented, and so is none.
	if block, _ := pem.Decode(content); block != nil {
		return in.pemFile(content)
	}
	documents, err := yamlDocuments(content)
	if err != nil {
		return err
	}
	return in.resources(documents)
}

// jsonFile reads JSON that is no Kubernetes resource.
func (in *input) jsonFile(document map[string]any, content []byte) error {
	has := func(name string) bool { _, ok := document[name]; return ok }
	switch {
	case has("tlogs") || has("certificateAuthorities") || has("timestampAuthorities") || has("ctlogs"):
		d := in.draft("trusted_root.json", "")
		in.add(d)
		return d.trustedRoot("", content)
	case has("default") || has("transports"):
		in.containersPolicy(document)
		return nil
	}
	return ErrUnknown
}

// draft is an anchor as it is read.
type draft struct {
	inventory.Anchor
	reader
	in     *input
	shared []*reader // of what it has in common with other anchors
	pinned map[inventory.Pin]bool
	errs   []error
}

func (in *input) draft(kind, name string) *draft {
	return &draft{Anchor: inventory.Anchor{Kind: kind, Name: short(name)}, in: in}
}

// add keeps a draft, unless there are too many.
func (in *input) add(d *draft) {
	if in.anchors--; in.anchors >= 0 {
		in.drafts = append(in.drafts, d)
	}
}

// short cuts a text that is too long.
func short(text string) string {
	if len(text) > maxName {
		return strings.ToValidUTF8(text[:maxName], "") + "…"
	}
	return text
}

// scope says which images the anchor is for.
func (r *reader) scope(patterns []string) []string {
	if len(patterns) > maxScope {
		r.note("it is for %d patterns of images: the first %d are given", len(patterns), maxScope)
		patterns = patterns[:maxScope]
	}
	var out []string
	for _, p := range patterns {
		out = append(out, short(p))
	}
	return out
}

// allNotes ends the reading and returns the notes, first the anchor's own,
// without repetition.
func (d *draft) allNotes() []string {
	d.end()
	all := slices.Clone(d.notes)
	for _, r := range d.shared {
		r.end()
		all = append(all, r.notes...)
	}
	var out []string
	for _, n := range all {
		if len(out) == maxNotes {
			return append(out, fmt.Sprintf("and more: only the first %d notes are given", maxNotes))
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// pin adds a pin, once.
func (d *draft) pin(p inventory.Pin) {
	if p == (inventory.Pin{}) || d.pinned[p] {
		return
	}
	if d.pinned == nil {
		d.pinned = map[inventory.Pin]bool{}
	}
	d.pinned[p] = true
	if d.in.pins--; d.in.pins >= 0 {
		d.Pins = append(d.Pins, p)
	}
}

// everybody pins every keyless signer, and says why.
func (d *draft) everybody(format string, args ...any) {
	d.note(format, args...)
	d.pin(inventory.Pin{IssuerRegexp: ".*", SubjectRegexp: ".*"})
}

// authority pins an authority by its ID.
func (d *draft) authority(r inventory.Role, id string) {
	d.pin(inventory.Pin{Authority: inventory.Authority{Role: r, ID: id}})
}

// elsewhere pins what only the consumer can resolve: a key, or with a role an
// authority.
func (d *draft) elsewhere(r inventory.Role, reference string) {
	if reference = strings.TrimSpace(reference); reference != "" {
		d.pin(inventory.Pin{Authority: inventory.Authority{Role: r}, Reference: reference})
	}
}

// identity pins a keyless identity, or everybody where it names nobody.
func (d *draft) identity(path string, p inventory.Pin) {
	if p == (inventory.Pin{}) {
		d.everybody("%s names neither issuer nor subject: every keyless signer is accepted", path)
		return
	}
	for _, expression := range []string{p.IssuerRegexp, p.SubjectRegexp} {
		if len(expression) > maxRegexp {
			d.errs = append(d.errs, fmt.Errorf("%s: a regular expression is longer than %d bytes", path, maxRegexp))
		} else if _, err := regexp.Compile(expression); err != nil {
			d.errs = append(d.errs, fmt.Errorf("%s: the regular expression %.200q does not compile: %w", path, expression, err))
		}
	}
	d.pin(p)
}

// cosignIdentity is an identity as cosign takes one: a regular expression
// beside an exact value replaces it (CheckCertificatePolicy in
// pkg/cosign/verify.go).
func cosignIdentity(o *object) inventory.Pin {
	p := inventory.Pin{Issuer: o.text("issuer"), IssuerRegexp: o.text("issuerRegExp"), Subject: o.text("subject"), SubjectRegexp: o.text("subjectRegExp")}
	if p.IssuerRegexp != "" {
		p.Issuer = ""
	}
	if p.SubjectRegexp != "" {
		p.Subject = ""
	}
	return p
}
