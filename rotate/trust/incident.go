package trust

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// Class is the kind of thing that was compromised.
type Class string

// The classes of incident.
const (
	SigningKey      Class = "signing-key"      // a private key whose bytes the attacker may hold
	KMSKey          Class = "kms-key"          // the use of a key that never left its service
	KeylessIdentity Class = "keyless-identity" // an OIDC identity
	CIWorkflow      Class = "ci-workflow"      // runs of a workflow, whichever identity they sign as
	OIDCIssuer      Class = "oidc-issuer"      // every identity of an issuer
	FulcioCA        Class = "fulcio-ca"        // a certificate authority, root or intermediate
	RekorLog        Class = "rekor-log"        // a transparency log
	CTLog           Class = "ct-log"           // a certificate transparency log
	TSA             Class = "tsa"              // a timestamp authority
	TUFRole         Class = "tuf-role"         // a role of a TUF repository
)

// Classes lists every class.
func Classes() []Class {
	return []Class{SigningKey, KMSKey, KeylessIdentity, CIWorkflow, OIDCIssuer, FulcioCA, RekorLog, CTLog, TSA, TUFRole}
}

// Ends reports whether an incident of the class can end: whether the power to
// sign can be taken from the attacker for good. Whoever copied a key keeps it.
func (c Class) Ends() bool {
	return slices.Contains([]Class{KMSKey, KeylessIdentity, CIWorkflow, OIDCIssuer}, c)
}

// Incident is a declared compromise, as the rules see it.
type Incident struct {
	ID          string                `json:"id"`
	Class       Class                 `json:"class"`
	Signers     []signer.Identity     `json:"signers,omitempty"`
	Selectors   []Selector            `json:"selectors,omitempty"` // keyless signatures by what their certificates say
	Authorities []inventory.Authority `json:"authorities,omitempty"`
	From        *time.Time            `json:"from,omitempty"`  // start of the window; nil: unknown, the signer's first use
	Until       *time.Time            `json:"until,omitempty"` // end of the window; nil: no end

	patterns []patterns // of Selectors, where Compiled made them
	// witnesses are those whose times may prove "before", where closed says that
	// nobody else's do: see ProvenBy.
	witnesses []inventory.Authority
	closed    bool
}

// ProvenBy returns the incident as whoever is told of it has it: only the times
// of these authorities prove that a signature is older, and without any nothing
// does. Nothing else about it changes.
func (i Incident) ProvenBy(witnesses []inventory.Authority) Incident {
	i.witnesses, i.closed = slices.Clone(witnesses), true
	return i
}

// witness returns the earliest upper bound of a signature that may prove it
// older than the incident, of those that no incident takes away.
func (i *Incident) witness(s *inventory.Signature, incidents []Incident, upper *inventory.Bound) *inventory.Bound {
	if !i.closed || upper == nil {
		return upper
	}
	of := *s
	of.Bounds = slices.DeleteFunc(slices.Clone(s.Bounds), func(b inventory.Bound) bool { return !slices.Contains(i.witnesses, b.Authority) })
	upper, _ = bounds(&of, incidents)
	return upper
}

// Check refuses what no incident of its class can say.
func (i Incident) Check() error {
	if err := i.checkScope(); err != nil {
		return fmt.Errorf("incident %s: %w", i.ID, err)
	}
	if i.Until != nil && !i.Class.Ends() {
		return fmt.Errorf("incident %s: the window of class %s has no end, because whoever copied a key keeps it: leave out the end", i.ID, i.Class)
	}
	if i.From != nil && i.Until != nil && !i.From.Before(*i.Until) {
		return fmt.Errorf("incident %s: its window ends before it starts", i.ID)
	}
	return nil
}

// checkScope refuses signers, selectors and authorities that the class cannot
// be about, and an incident about nothing.
func (i Incident) checkScope() error {
	switch i.Class {
	case SigningKey, KMSKey:
		return i.checkSigners(signer.Key, false)
	case KeylessIdentity:
		return i.checkSigners(signer.Keyless, true)
	case CIWorkflow, OIDCIssuer:
		if len(i.Signers) > 0 {
			return fmt.Errorf("class %s names no single signer: name it by a selector, or declare class %s", i.Class, KeylessIdentity)
		}
		return i.checkSigners("", true)
	case FulcioCA:
		return i.checkAuthorities(inventory.RoleCA)
	case RekorLog:
		return i.checkAuthorities(inventory.RoleLog)
	case CTLog:
		return i.checkAuthorities(inventory.RoleCT)
	case TSA:
		return i.checkAuthorities(inventory.RoleTSA)
	case TUFRole:
		return i.checkAuthorities(inventory.RoleTUF)
	}
	return fmt.Errorf("unknown class %q: use one of %s", i.Class, join(Classes()))
}

func (i Incident) checkSigners(kind signer.Kind, selectors bool) error {
	switch {
	case len(i.Authorities) > 0:
		return fmt.Errorf("class %s is about signers, not about the %s %s: declare another incident for that", i.Class, i.Authorities[0].Role, i.Authorities[0].ID)
	case len(i.Selectors) > 0 && !selectors:
		return fmt.Errorf("class %s has no certificates to select by: name the key", i.Class)
	case len(i.Signers) == 0 && len(i.Selectors) == 0:
		return fmt.Errorf("class %s: name the compromised signer, or select its certificates", i.Class)
	}
	for _, id := range i.Signers {
		switch {
		case id.Kind != kind:
			return fmt.Errorf("class %s is about a %s signer, not about %s", i.Class, kind, id)
		case kind == signer.Key && (!isHex(id.Subject, 64) || id.Issuer != ""):
			return fmt.Errorf("key %q: expected the SHA-256 of its public key, 64 lower-case hex digits, and no issuer", id.Subject)
		case kind == signer.Keyless && (id.Subject == "" || id.Issuer == ""):
			return errors.New("a keyless signer has an issuer and a subject: use a selector to name one of them only")
		}
	}
	for _, s := range i.Selectors {
		if err := s.Check(); err != nil {
			return err
		}
		switch {
		case i.Class == CIWorkflow && !s.namesRun():
			return fmt.Errorf("class %s: a selector names at least one of workflow, ref, sha, repository, trigger and run", i.Class)
		case i.Class != CIWorkflow && s.namesRun():
			return fmt.Errorf("class %s: a selector names issuer and subject only: for runs of a workflow declare class %s", i.Class, CIWorkflow)
		case i.Class == KeylessIdentity && s.Subject == "" && s.SubjectRegexp == "":
			return fmt.Errorf("class %s: a selector names a subject: for a whole issuer declare class %s", i.Class, OIDCIssuer)
		case i.Class == OIDCIssuer && (s.Subject != "" || s.SubjectRegexp != ""):
			return fmt.Errorf("class %s: a selector names the issuer only: for some of its identities declare class %s", i.Class, KeylessIdentity)
		}
	}
	return nil
}

func (i Incident) checkAuthorities(role inventory.Role) error {
	switch {
	case len(i.Signers) > 0 || len(i.Selectors) > 0:
		return fmt.Errorf("class %s is about authorities, not about signers: declare another incident for those", i.Class)
	case len(i.Authorities) == 0:
		return fmt.Errorf("class %s: name the compromised authority", i.Class)
	}
	for _, a := range i.Authorities {
		switch {
		case a.Role != role:
			return fmt.Errorf("class %s is about authorities of role %s, not about the %s %s", i.Class, role, a.Role, a.ID)
		case a.ID == "" || strings.TrimSpace(a.ID) != a.ID:
			return fmt.Errorf("class %s: the authority %q has no usable ID", i.Class, a.ID)
		case role != inventory.RoleTUF && strings.ToLower(a.ID) != a.ID:
			return fmt.Errorf("authority %s: its ID is kept in lower case, so this one names none: write %s", a.ID, strings.ToLower(a.ID))
		}
	}
	return nil
}

func isHex(s string, digits int) bool {
	return len(s) == digits && strings.Trim(s, "0123456789abcdef") == ""
}

func join(classes []Class) string {
	var out []string
	for _, c := range classes {
		out = append(out, string(c))
	}
	return strings.Join(out, ", ")
}

// link is how an incident is connected with a signature.
type link int

const (
	unlinked   link = iota
	bySigner        // it names the signer
	bySelector      // it selects the certificate
	byRequired      // it names an authority without which the signature does not verify
	byShown         // it names an authority of a log entry or timestamp that verified
)

// linked says how the incident is connected with a signature, whatever other
// incidents there are.
func (i *Incident) linked(s *inventory.Signature) link {
	switch {
	case slices.Contains(i.Signers, s.Signer):
		return bySigner
	case i.selects(s):
		return bySelector
	case len(i.Authorities) == 0:
		return unlinked
	case slices.ContainsFunc(s.Requires, i.namesAuthority):
		return byRequired
	}
	for n := range s.Bounds {
		if b := &s.Bounds[n]; shown(s, b) && i.namesAuthority(b.Authority) {
			return byShown
		}
	}
	return unlinked
}

// concerns reports whether the incident takes from a signature something that
// consumers demand. bare says whether all its log entries and timestamps are
// lost to incidents.
func (i *Incident) concerns(s *inventory.Signature, bare bool) bool {
	l := i.linked(s)
	return l != unlinked && (l != byShown || bare)
}

// judges reports whether a signature is judged by the window of the incident.
// A keyless signature without any proof of its time does not verify; one by a
// key does.
func (i *Incident) judges(s *inventory.Signature, bare bool) bool {
	l := i.linked(s)
	return l != unlinked && (l != byShown || bare && s.Signer.Kind != signer.Key)
}

// Touches reports whether the incident, by itself, is about the signature's
// signer or about an authority without which it does not verify.
func (i Incident) Touches(s inventory.Signature) bool {
	return touched(&s, []Incident{i}, stripped(&s, []Incident{i}))
}

// Touched reports whether the incidents, together, are about the signature's
// signer or about authorities without which it does not verify.
func Touched(s inventory.Signature, incidents []Incident) bool {
	return touched(&s, incidents, stripped(&s, incidents))
}

func touched(s *inventory.Signature, incidents []Incident, bare bool) bool {
	for n := range incidents {
		if incidents[n].judges(s, bare) {
			return true
		}
	}
	return false
}

// Names reports whether the incident may be about a signer, whatever it signed:
// such a one vouches for nothing, approves nothing and replaces nobody.
func (i Incident) Names(id signer.Identity) bool {
	if slices.Contains(i.Signers, id) {
		return true
	}
	for n := range i.Selectors {
		if i.Selectors[n].names(id, i.patternsOf(n)) {
			return true
		}
	}
	return false
}

func named(id signer.Identity, incidents []Incident) (by *Incident) {
	for n := range incidents {
		if incidents[n].Names(id) {
			return &incidents[n]
		}
	}
	return nil
}

// namesAuthority reports whether the incident is about an authority. A time in
// our own journal is the word of the timestamp authority that anchored it.
func (i *Incident) namesAuthority(a inventory.Authority) bool {
	return slices.Contains(i.Authorities, a) ||
		a.Role == inventory.RoleJournal && slices.Contains(i.Authorities, inventory.Authority{Role: inventory.RoleTSA, ID: a.ID})
}

func (i *Incident) selects(s *inventory.Signature) bool {
	for n := range i.Selectors {
		if i.Selectors[n].matches(s.Signer, s.Certificate, i.patternsOf(n)) {
			return true
		}
	}
	return false
}

// patterns are the compiled patterns of a selector, nil where there are none.
type patterns struct{ issuer, subject *regexp.Regexp }

func (i *Incident) patternsOf(selector int) patterns {
	if selector < len(i.patterns) {
		return i.patterns[selector]
	}
	return patterns{}
}

// Compiled returns the incidents with their patterns compiled, for who judges
// many signatures by them.
func Compiled(incidents []Incident) []Incident {
	out := slices.Clone(incidents)
	for n := range out {
		i := &out[n]
		i.patterns = make([]patterns, len(i.Selectors))
		for m, s := range i.Selectors {
			// What does not compile stays nil and is met again when it is used.
			i.patterns[m].issuer, _ = Pattern(s.IssuerRegexp)
			i.patterns[m].subject, _ = Pattern(s.SubjectRegexp)
		}
	}
	return out
}
