package rotate

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
	sshsig "github.com/sigstore/rekor/pkg/pki/ssh"
	"github.com/sigstore/sigstore/pkg/signature"
	"golang.org/x/crypto/ssh"
)

// Credential is one thing a person signs with: a public key, an SSH key or a
// keyless identity. Exactly one of the three is given.
type Credential struct {
	PublicKey string `json:"public_key,omitempty"` // PEM SubjectPublicKeyInfo, as in cosign.pub
	SSH       string `json:"ssh,omitempty"`        // one line as in authorized_keys, without options
	Issuer    string `json:"issuer,omitempty"`     // OIDC issuer of a keyless identity
	Subject   string `json:"subject,omitempty"`    // its certificate's SAN
}

// Identity returns whom the credential signs as. An SSH key and a PEM of the
// same key have one identity. A credential too weak to approve with is refused.
func (c Credential) Identity() (signer.Identity, error) {
	keyless := c.Issuer != "" || c.Subject != ""
	switch {
	case c.PublicKey != "" && c.SSH == "" && !keyless:
		_, id, err := c.key()
		return id, err
	case c.SSH != "" && c.PublicKey == "" && !keyless:
		_, id, err := parseSSH(c.SSH)
		return id, err
	case keyless && c.PublicKey == "" && c.SSH == "":
		if c.Issuer == "" || c.Subject == "" {
			return signer.Identity{}, errors.New("a keyless identity needs both its issuer and its subject")
		}
		return signer.Identity{Kind: signer.Keyless, Issuer: c.Issuer, Subject: c.Subject}, nil
	}
	return signer.Identity{}, errors.New("a credential is one of: a public key, an SSH key, an issuer with a subject")
}

// String says whose signatures the credential is for.
func (c Credential) String() string {
	id, err := c.Identity()
	switch {
	case err != nil:
		return "not usable: " + err.Error()
	case c.SSH != "":
		return "SSH " + id.String()
	}
	return id.String()
}

func (c Credential) key() (crypto.PublicKey, signer.Identity, error) {
	pub, id, err := signer.ParsePublicKey([]byte(c.PublicKey))
	if err != nil {
		return nil, id, err
	}
	return pub, id, checkStrength(pub)
}

func parseSSH(line string) (ssh.PublicKey, signer.Identity, error) {
	line = strings.TrimSpace(line)
	if strings.ContainsAny(line, "\r\n") {
		return nil, signer.Identity{}, errors.New("SSH key: expected exactly one line, as in a .pub file")
	}
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return nil, signer.Identity{}, fmt.Errorf("SSH key: expected a line as in a .pub file: %w", err)
	}
	if len(options) > 0 {
		return nil, signer.Identity{}, fmt.Errorf("SSH key: options (%s) would not be kept to: give the line without them", strings.Join(options, ","))
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
	default:
		return nil, signer.Identity{}, fmt.Errorf("SSH key: type %s is not supported: use ssh-ed25519, ecdsa-sha2-nistp256, ssh-rsa of 2048 bits or more, or a security key's", key.Type())
	}
	known, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return nil, signer.Identity{}, fmt.Errorf("SSH key: type %s has no fingerprint", key.Type())
	}
	pub := known.CryptoPublicKey()
	if err := checkStrength(pub); err != nil {
		return nil, signer.Identity{}, fmt.Errorf("SSH key: %w", err)
	}
	id, err := signer.OfKey(pub)
	return key, id, err
}

// checkStrength refuses keys that others could sign with.
func checkStrength(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521() {
			return nil
		}
		return fmt.Errorf("ECDSA keys on %s are not supported: use P-256, P-384 or P-521", k.Curve.Params().Name)
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return fmt.Errorf("an RSA key of %d bits is too weak: use 2048 or more", k.N.BitLen())
		}
		return nil
	}
	return fmt.Errorf("keys of type %T are not supported: use Ed25519, ECDSA or RSA", pub)
}

// Person is somebody who proposes and approves.
type Person struct {
	Name         string       `json:"name"`
	Aliases      []string     `json:"aliases,omitempty"` // account names the journal knows them by
	Roles        []string     `json:"roles,omitempty"`
	Credentials  []Credential `json:"credentials"`
	ProposesOnly bool         `json:"proposes_only,omitempty"` // never counts as an approver
}

// is reports whether a name is the person's own or an alias of theirs.
func (p Person) is(name string) bool {
	return slices.ContainsFunc(p.names(), func(n string) bool { return fold(n) == fold(name) })
}

// holds reports whether the person signs as an identity. Mail addresses that
// differ in case alone are one mailbox.
func (p Person) holds(id signer.Identity) bool {
	return slices.ContainsFunc(p.Credentials, func(c Credential) bool {
		own, err := c.Identity()
		if err == nil && own.Kind == signer.Keyless && id.Kind == signer.Keyless {
			return own.Issuer == id.Issuer && fold(own.Subject) == fold(id.Subject)
		}
		return err == nil && own == id
	})
}

func (p Person) names() []string { return append([]string{p.Name}, p.Aliases...) }

// able reports whether the person has a credential that no incident is about.
func (p Person) able(incidents []trust.Incident) bool {
	return slices.ContainsFunc(p.Credentials, func(c Credential) bool {
		id, err := c.Identity()
		return err == nil && namedBy(id, incidents) == ""
	})
}

// fold makes names that differ in case alone equal. Upper case comes first
// because some letters have one upper case and several lower ones.
func fold(name string) string { return strings.ToLower(strings.ToUpper(strings.TrimSpace(name))) }

// Approvers is who may propose and approve, and how many of them must approve.
type Approvers struct {
	Schema   string         `json:"schema"`
	Quorum   int            `json:"quorum"`
	Severity map[string]int `json:"severity,omitempty"` // severity → quorum, at least Quorum
	Roles    map[string]int `json:"roles,omitempty"`    // role → how many of the approvers must have it
	People   []Person       `json:"people"`
}

// Needed returns how many people must approve at a severity, the proposer not
// counted. It takes no fewer than what is less grave; what is of no known
// severity needs as many as the gravest.
func (a Approvers) Needed(severity string) int {
	n := a.Quorum
	for _, s := range Severities() {
		if n = max(n, a.Severity[s]); s == severity {
			break
		}
	}
	return n
}

// Check refuses a set in which two people could be one, or that could never
// approve anything, not even a better set.
func (a Approvers) Check() error {
	names, credentials := map[string]int{}, map[signer.Identity]int{}
	for n, p := range a.People {
		for _, name := range p.names() {
			if err := checkName(name); err != nil {
				return err
			}
			if other, ok := names[fold(name)]; ok && other != n {
				if a.People[other].Name == p.Name {
					return fmt.Errorf("approvers: %s is listed twice", p.Name)
				}
				return fmt.Errorf("approvers: %s and %s are both known as %q", a.People[other].Name, p.Name, name)
			}
			names[fold(name)] = n
		}
		if len(p.Credentials) == 0 {
			return fmt.Errorf("approvers: %s has nothing to sign with: give a public key, an SSH key or a keyless identity", p.Name)
		}
		for _, c := range p.Credentials {
			id, err := c.Identity()
			if err != nil {
				return fmt.Errorf("approvers: %s: %w", p.Name, err)
			}
			if id.Kind == signer.Keyless { // mail addresses that differ in case alone are one mailbox
				id.Subject = fold(id.Subject)
			}
			if other, ok := credentials[id]; ok && other != n {
				return fmt.Errorf("approvers: %s and %s have the same key or identity (%s)", a.People[other].Name, p.Name, id)
			}
			credentials[id] = n
		}
		for _, role := range p.Roles {
			if role == "" || role != strings.TrimSpace(role) {
				return fmt.Errorf("approvers: %s: %q is no role", p.Name, role)
			}
		}
	}
	return a.checkQuorum()
}

func (a Approvers) checkQuorum() error {
	if a.Quorum < 1 {
		return fmt.Errorf("approvers: a quorum of %d approves everything: use 1 or more", a.Quorum)
	}
	for _, severity := range slices.Sorted(maps.Keys(a.Severity)) {
		if !slices.Contains(Severities(), severity) {
			return fmt.Errorf("approvers: severity %q: use low, medium, high or critical", severity)
		}
		if n := a.Severity[severity]; n < a.Quorum {
			return fmt.Errorf("approvers: the quorum of %d for severity %s is below the general one of %d", n, severity, a.Quorum)
		}
	}
	for _, role := range slices.Sorted(maps.Keys(a.Roles)) {
		if n := a.Roles[role]; n < 1 {
			return fmt.Errorf("approvers: %d approvers of role %s: use 1 or more, or leave the role out", n, role)
		}
	}
	// There must be somebody whose proposal the others can approve.
	reachable := slices.ContainsFunc(a.People, func(proposer Person) bool {
		var all []Person
		for _, p := range a.People {
			if !p.ProposesOnly && p.Name != proposer.Name {
				all = append(all, p)
			}
		}
		return len(all) >= a.Needed("") && len(missingRoles(a.Roles, all, 0)) == 0
	})
	if !reachable {
		able := 0
		for _, p := range a.People {
			if !p.ProposesOnly {
				able++
			}
		}
		return fmt.Errorf("approvers: a quorum of %d cannot be reached: %d people may approve, and who proposes a plan does not approve it: enrol more people, or ask for fewer, also of a role", a.Needed(""), able)
	}
	return nil
}

func checkName(name string) error {
	if name == "" || name != strings.TrimSpace(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("approvers: %q is no name: use one of printable characters, without spaces around it", name)
	}
	if fold(name) == proposal {
		return fmt.Errorf("approvers: nobody can be called %q: proposals are kept under it", name)
	}
	return nil
}

// missingRoles says which roles too few of the people have, each with how many
// are missing. extra is asked for beyond each minimum.
func missingRoles(minimum map[string]int, people []Person, extra int) (missing []string) {
	for _, role := range slices.Sorted(maps.Keys(minimum)) {
		n := minimum[role] + extra
		for _, p := range people {
			if slices.Contains(p.Roles, role) {
				n--
			}
		}
		if n > 0 {
			missing = append(missing, fmt.Sprintf("%d of role %s", n, role))
		}
	}
	return missing
}

// Able returns how many people may approve.
func (a Approvers) Able() (n int) {
	for _, p := range a.People {
		if !p.ProposesOnly {
			n++
		}
	}
	return n
}

// person returns the person enrolled under a name, spelt exactly so.
func (a Approvers) person(name string) (Person, error) {
	at := slices.IndexFunc(a.People, func(p Person) bool { return p.Name == name })
	if at < 0 {
		return Person{}, fmt.Errorf("%q is not an enrolled approver", name)
	}
	return a.People[at], nil
}

// Digest identifies the set.
func (a Approvers) Digest() string {
	a.Schema = ApproversSchema
	body, err := canonical(a)
	if err != nil { // strings and numbers always marshal
		return ""
	}
	return inventory.Digest(body)
}

// CheckApart refuses a signer that is to become trusted where a person of the set
// signs as it: nobody approves a plan and holds the key that it makes trusted. Who
// only proposes counts, too: they may break the glass.
func (a Approvers) CheckApart(id signer.Identity) error {
	for _, p := range a.People {
		if p.holds(id) {
			return fmt.Errorf("%s signs approvals as %s: who approves holds no key that a plan makes trusted. Choose another signer, or have %s enrol another credential", p.Name, id, p.Name)
		}
	}
	return nil
}

// checkStandby refuses a set with a person who signs as a signer on standby.
func (a Approvers) checkStandby(ctx context.Context, s *store.Store) error {
	records, err := s.Records(ctx)
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.State != signer.Standby {
			continue
		}
		if err := a.CheckApart(r.Identity); err != nil {
			return fmt.Errorf("approvers: signer %s is on standby: %w", r.Name, err)
		}
	}
	return nil
}

// checkOutside refuses a set with a credential that an incident is about: who
// holds it could approve, or nobody could.
func (a Approvers) checkOutside(incidents []trust.Incident) error {
	for _, p := range a.People {
		for _, c := range p.Credentials {
			id, err := c.Identity()
			if err != nil {
				return fmt.Errorf("approvers: %s: %w", p.Name, err)
			}
			if i := namedBy(id, incidents); i != "" {
				return fmt.Errorf("approvers: %s of %s is under incident %s: leave it out", id, p.Name, i)
			}
		}
	}
	return nil
}

// Enroll keeps the first approver set. A set that exists is changed by a Motion
// alone.
func Enroll(ctx context.Context, s *store.Store, by journal.Author, a Approvers) error {
	if err := a.Check(); err != nil {
		return err
	}
	return s.Update(ctx, by, func(tx *store.Tx) error {
		if _, err := s.Document(ctx, store.KindApprovers, "approvers"); err == nil {
			return errors.New("approvers are enrolled already: changing them takes a motion that they approve")
		} else if !errors.Is(err, inventory.ErrNotFound) {
			return err
		}
		return putApprovers(ctx, tx, "approvers.enrolled", a)
	})
}

func putApprovers(ctx context.Context, tx *store.Tx, action string, a Approvers) error {
	a.Schema = ApproversSchema
	body, err := canonical(a)
	if err != nil {
		return err
	}
	return tx.PutDocument(ctx, store.KindApprovers, "approvers", action, body)
}

// LoadApprovers returns the approver set in force.
func LoadApprovers(ctx context.Context, s *store.Store) (Approvers, error) {
	var a Approvers
	err := load(ctx, s, store.KindApprovers, "approvers", &a)
	if errors.Is(err, inventory.ErrNotFound) {
		return a, errors.New("no approvers are enrolled: \"reseal init --approver NAME=PUB\" enrols them")
	}
	return a, err
}

// Judge verifies keyless signatures.
type Judge interface {
	// Blob verifies a Sigstore bundle over content and returns the signature
	// with its signer, certificate, required authorities and bounds.
	Blob(bundle, content []byte) (inventory.Signature, error)
}

// clockSkew is how far the clocks of approvals' authorities may differ.
const clockSkew = 5 * time.Minute

// SignedByPerson checks that an enrolled person signed content, with a
// credential that no incident is about, and returns which identity did.
func SignedByPerson(ctx context.Context, s *store.Store, judge Judge, name string, content, signature []byte) (signer.Identity, error) {
	set, incidents, err := people(ctx, s)
	if err != nil {
		return signer.Identity{}, err
	}
	p, err := set.person(name)
	if err != nil {
		return signer.Identity{}, err
	}
	return p.checkSigned(judge, string(signature), content, counting(incidents))
}

// checkSigned refuses a signature over content that none of the person's
// credentials made, or one that an incident is about did. The signature is an
// armored SSHSIG, a Sigstore bundle, or a raw signature in base64.
func (p Person) checkSigned(judge Judge, text string, content []byte, incidents []trust.Incident) (signer.Identity, error) {
	text = strings.TrimSpace(text)
	var id signer.Identity
	var err error
	switch {
	case text == "":
		return id, errors.New("there is no signature")
	case strings.HasPrefix(text, "-----BEGIN"):
		id, err = p.signedSSH([]byte(text), content)
	case strings.HasPrefix(text, "{"):
		id, err = p.signedKeyless(judge, []byte(text), content, incidents)
	default:
		id, err = p.signedRaw(text, content)
	}
	if err != nil {
		return id, err
	}
	if i := namedBy(id, incidents); i != "" {
		return id, fmt.Errorf("%s of %s is itself under an incident (%s): sign with another credential", id, p.Name, i)
	}
	return id, nil
}

func (p Person) signedRaw(text string, content []byte) (signer.Identity, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return signer.Identity{}, fmt.Errorf("the signature is neither base64, nor an SSH signature, nor a bundle: %w", err)
	}
	why := fmt.Errorf("%s has no public key enrolled", p.Name)
	for _, c := range p.Credentials {
		if c.PublicKey == "" {
			continue
		}
		pub, id, err := c.key()
		if err != nil {
			why = err
			continue
		}
		v, err := signature.LoadDefaultVerifier(pub)
		if err == nil {
			err = v.VerifySignature(bytes.NewReader(raw), bytes.NewReader(content))
		}
		if err == nil {
			return id, nil
		}
		why = err
	}
	return signer.Identity{}, why
}

func (p Person) signedSSH(armored, content []byte) (signer.Identity, error) {
	block, rest := pem.Decode(armored)
	if block == nil || block.Type != "SSH SIGNATURE" || len(bytes.TrimSpace(rest)) > 0 {
		return signer.Identity{}, errors.New("it is not one SSH signature as \"ssh-keygen -Y sign\" writes it")
	}
	var wrapped sshsig.WrappedSig
	var made ssh.Signature
	if err := ssh.Unmarshal(block.Bytes, &wrapped); err != nil {
		return signer.Identity{}, fmt.Errorf("SSH signature: %w", err)
	}
	if err := ssh.Unmarshal([]byte(wrapped.Signature), &made); err != nil {
		return signer.Identity{}, fmt.Errorf("SSH signature: %w", err)
	}
	if wrapped.Namespace != "file" {
		return signer.Identity{}, fmt.Errorf("the SSH signature is made for namespace %q: sign with \"ssh-keygen -Y sign -n file\"", wrapped.Namespace)
	}
	if made.Format == ssh.KeyAlgoRSA {
		return signer.Identity{}, errors.New("the SSH signature is made with SHA-1 (ssh-rsa), which can be forged: sign with rsa-sha2-512")
	}
	for _, c := range p.Credentials {
		if c.SSH == "" {
			continue
		}
		key, id, err := parseSSH(c.SSH)
		if err != nil || string(key.Marshal()) != wrapped.PublicKey {
			continue
		}
		if err := sshsig.Verify(bytes.NewReader(content), armored, ssh.MarshalAuthorizedKey(key)); err != nil {
			return signer.Identity{}, fmt.Errorf("SSH signature: %w", err)
		}
		return id, nil
	}
	return signer.Identity{}, fmt.Errorf("the SSH signature is by a key that is not enrolled for %s", p.Name)
}

func (p Person) signedKeyless(judge Judge, bundle, content []byte, incidents []trust.Incident) (signer.Identity, error) {
	if judge == nil {
		return signer.Identity{}, errors.New("keyless signatures cannot be verified: no trusted root is configured")
	}
	sig, err := judge.Blob(bundle, content)
	switch {
	case err != nil:
		return signer.Identity{}, fmt.Errorf("bundle: %w", err)
	case !sig.Verified:
		return signer.Identity{}, fmt.Errorf("bundle: %s", sig.Why)
	case sig.Signer.Kind != signer.Keyless || !slices.ContainsFunc(p.Credentials, func(c Credential) bool {
		id, err := c.Identity()
		return err == nil && id == sig.Signer
	}):
		return signer.Identity{}, fmt.Errorf("the bundle is by %s, who is not enrolled for %s", sig.Signer, p.Name)
	}
	if j := trust.Judge(sig, incidents, clockSkew); j.Verdict != trust.Unaffected {
		return signer.Identity{}, fmt.Errorf("the bundle of %s is itself under an incident: %s", p.Name, j.Reason)
	}
	// A certificate lives for minutes: that the signature was made in them is
	// some authority's word, and that one must be outside every incident.
	if !slices.ContainsFunc(sig.Bounds, func(b inventory.Bound) bool {
		return b.Side == inventory.Upper && b.Verified && b.Authority.Role != inventory.RoleJournal &&
			!slices.ContainsFunc(incidents, func(i trust.Incident) bool { return slices.Contains(i.Authorities, b.Authority) })
	}) {
		return signer.Identity{}, fmt.Errorf("no authority outside every incident proves when the bundle of %s was made", p.Name)
	}
	return sig.Signer, nil
}

// counting returns the incidents that count: all that were not withdrawn.
func counting(incidents []Incident) (out []trust.Incident) {
	for _, i := range incidents {
		if i.State != Withdrawn {
			out = append(out, i.Incident)
		}
	}
	return out
}

// namedBy returns the first incident that names a signer, or "".
func namedBy(id signer.Identity, incidents []trust.Incident) string {
	for _, i := range incidents {
		if i.Names(id) {
			return i.ID
		}
	}
	return ""
}
