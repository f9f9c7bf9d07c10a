package inventory

// Anchor is a place where signers are pinned for a consumer: a policy, a
// trusted root, a public key in a file.
type Anchor struct {
	ID      string   `json:"id"`   // the same place has the same ID, however often it is read
	Kind    string   `json:"kind"` // "ClusterImagePolicy", "policy.json", ...
	File    string   `json:"file"`
	Name    string   `json:"name,omitempty"`    // of the policy, rule or scope within the file
	Scope   []string `json:"scope,omitempty"`   // which images it is for, in the policy's own words
	Formats []Format `json:"formats,omitempty"` // which signatures its consumer reads, where that is known
	Pins    []Pin    `json:"pins"`
}

// Pin is what an anchor accepts: a key, a keyless identity or an authority.
type Pin struct {
	Key           string    `json:"key,omitempty"` // fingerprint, hex
	Issuer        string    `json:"issuer,omitempty"`
	IssuerRegexp  string    `json:"issuer_regexp,omitempty"`
	Subject       string    `json:"subject,omitempty"`
	SubjectRegexp string    `json:"subject_regexp,omitempty"`
	Authority     Authority `json:"authority,omitzero"`
	Reference     string    `json:"reference,omitempty"` // what is pinned by a name that only the consumer can resolve: a KMS URI, a Secret
}
