package inventory

import (
	"regexp"

	"github.com/reseal/reseal/signer"
)

// Anchor is a place where signers are pinned for a consumer: a policy, a
// trusted root, a public key in a file.
type Anchor struct {
	ID      string   `json:"id"`   // the same place has the same ID, however often it is read
	Kind    string   `json:"kind"` // "ClusterImagePolicy", "policy.json", ...
	File    string   `json:"file"`
	Name    string   `json:"name,omitempty"`    // of the policy, rule or scope within the file
	Scope   []string `json:"scope,omitempty"`   // which images it is for, in the policy's own words; "!" before what it leaves out
	Formats []Format `json:"formats,omitempty"` // which signatures its consumer reads, where that is known
	Pins    []Pin    `json:"pins"`              // none: it accepts or refuses without looking at who signed, or Notes say why
	Notes   []string `json:"notes,omitempty"`   // what was not understood, or makes the pins mean less or more than they say
}

// Pin is what an anchor accepts: a key, a keyless identity or an authority.
// All that it says of an identity must hold at once.
type Pin struct {
	Key           string    `json:"key,omitempty"` // fingerprint, hex
	Issuer        string    `json:"issuer,omitempty"`
	IssuerRegexp  string    `json:"issuer_regexp,omitempty"`
	Subject       string    `json:"subject,omitempty"`
	SubjectRegexp string    `json:"subject_regexp,omitempty"`
	Authority     Authority `json:"authority,omitzero"`
	Reference     string    `json:"reference,omitempty"` // what is pinned by a name that only the consumer can resolve: a KMS URI, a Secret, a file there
}

// Matches reports whether the pin accepts signatures of a signer. A pin of an
// authority names no signer, and what stands behind a reference is not known:
// both match none.
//
// Regular expressions are Go's and match anywhere in the value unless they are
// anchored, as the consumers take them: cosign's CheckCertificatePolicy (which
// policy-controller and Kyverno's ImageValidatingPolicy call), sigstore-go's
// NewSANMatcher and Kyverno's matchCertificateData all use
// regexp.MatchString. One that does not compile matches nothing.
func (p Pin) Matches(id signer.Identity) bool {
	switch {
	case p.Reference != "" || p.Authority != (Authority{}):
		return false
	case p.Key != "":
		return id.Kind == signer.Key && id.Subject == p.Key
	case id.Kind != signer.Keyless || p == (Pin{}):
		return false
	}
	return (p.Issuer == "" || p.Issuer == id.Issuer) && (p.Subject == "" || p.Subject == id.Subject) &&
		found(p.IssuerRegexp, id.Issuer) && found(p.SubjectRegexp, id.Subject)
}

// found reports whether a value is what a regular expression asks for; none
// asks for nothing.
func found(expression, value string) bool {
	if expression == "" {
		return true
	}
	re, err := regexp.Compile(expression)
	return err == nil && re.MatchString(value)
}
