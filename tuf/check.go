package tuf

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A Check says how far the open event is.
type Check struct {
	Event *Event       `json:"event"`
	Roles []RoleSigned `json:"roles"`
	// Problems is everything that stops publication, in words that say what to do. None: it can be published.
	Problems []string `json:"problems"`
	// Warnings is what does not stop it, and that some clients would stumble over.
	Warnings []string `json:"warnings,omitempty"`
}

// RoleSigned is who signed one role. Root has two groups, since its old holders have to agree to the new.
type RoleSigned struct {
	Role    string        `json:"role"`
	Version int64         `json:"version"`
	Groups  []GroupSigned `json:"groups"`
}

// GroupSigned is who signed of one group of holders.
type GroupSigned struct {
	Of        string   `json:"of,omitempty"` // "old" or "new" for root
	Threshold int      `json:"threshold"`
	Signed    []Signer `json:"signed"`
	Missing   []Signer `json:"missing"`
}

// A Signer is a key of a role.
type Signer struct {
	KeyID       string `json:"key_id"`
	Fingerprint string `json:"fingerprint,omitempty"` // SHA-256 of the public key; empty when this version cannot read it
	Owner       string `json:"owner,omitempty"`
}

func newSigner(id string, key *metadata.Key) Signer {
	return Signer{id, fingerprint(key), visible(ownerOf(key))}
}

// String returns the owner, or what stands for one.
func (s Signer) String() string {
	if s.Owner != "" {
		return s.Owner
	}
	return visible(s.KeyID[:min(len(s.KeyID), 12)])
}

// Done reports whether the group has signed as often as it must.
func (g GroupSigned) Done() bool { return len(g.Signed) >= g.Threshold }

// Check says who signed the open event, who is missing, and what else stops its publication.
func (r *Repository) Check() (Check, error) {
	s, err := r.load()
	if err != nil {
		return Check{}, fmt.Errorf("tuf: check: %w", err)
	}
	e, d, err := r.openEvent(s)
	if err != nil {
		return Check{}, fmt.Errorf("tuf: check: %w", err)
	}
	c, err := r.check(e, d)
	if err != nil {
		return Check{}, fmt.Errorf("tuf: check: %w", err)
	}
	return c, nil
}

// checkSignatures says who signed.
func (r *Repository) checkSignatures(e eventState, d *draft) (Check, error) {
	c := Check{Event: e.event(), Problems: []string{}}
	for _, role := range e.Roles {
		doc, err := d.document(role)
		if err != nil {
			return c, err
		}
		rings, err := d.rings(role)
		if err != nil {
			return c, err
		}
		out := RoleSigned{Role: role, Version: doc.version}
		for i, ring := range rings {
			g := GroupSigned{Threshold: ring.threshold, Signed: []Signer{}, Missing: []Signer{}}
			of := ""
			if len(rings) == 2 {
				g.Of = []string{"old", "new"}[i]
				of = " of the " + g.Of + " holders"
			}
			valid := ring.valid(doc.payload, *doc.signatures)
			for _, id := range ring.ids {
				if slices.Contains(valid, id) {
					g.Signed = append(g.Signed, newSigner(id, ring.keys[id]))
				} else {
					g.Missing = append(g.Missing, newSigner(id, ring.keys[id]))
				}
			}
			if !g.Done() {
				var names []string
				for _, m := range g.Missing {
					names = append(names, m.String())
				}
				c.Problems = append(c.Problems, fmt.Sprintf("%s lacks %d signature(s)%s: ask %s", role, g.Threshold-len(g.Signed), of, list(names)))
			}
			c.warn(ring.outOfReach())
			if lost := ring.uncounted(valid); g.Done() && len(valid)-len(lost) < g.Threshold && ring.outOfReach() == "" {
				var names []string
				for i, id := range ring.ids {
					if !slices.Contains(valid, id) && len(ring.uncounted(ring.ids[i:i+1])) == 0 {
						names = append(names, newSigner(id, ring.keys[id]).String())
					}
				}
				c.warn(fmt.Sprintf("%s is signed by %d of %d%s as tuf-js 3.1.0 counts, which leaves out the P-384 keys of %s: npm's clients would refuse it; ask %s, too",
					role, len(valid)-len(lost), g.Threshold, of, keyring{ids: lost, keys: ring.keys}.names(), list(names)))
			}
			out.Groups = append(out.Groups, g)
		}
		c.Roles = append(c.Roles, out)
		for _, ring := range d.named(role) {
			c.warn(ring.outOfReach())
		}
	}
	return c, nil
}

// warn adds a warning, if it is one, once.
func (c *Check) warn(text string) {
	if text != "" && !slices.Contains(c.Warnings, text) {
		c.Warnings = append(c.Warnings, text)
	}
}

// named returns the keys of every role whose holders a changed role names.
func (d *draft) named(by string) []keyring {
	var out []keyring
	add := func(ring keyring, err error) {
		if err == nil { // else validated, or a problem of its own
			out = append(out, ring)
		}
	}
	if by == metadata.ROOT {
		for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
			add(rootRing(d.root, role))
		}
		return out
	}
	g := d.roles[by].Signed.Delegations
	if g == nil {
		return nil
	}
	for _, r := range g.Roles {
		add(delegatedRing(d.roles[by], r.Name))
	}
	if s := g.SuccinctRoles; s != nil {
		add(newRing(s.NamePrefix+"-…", s.KeyIDs, g.Keys, s.Threshold))
	}
	return out
}

func (r *Repository) check(e eventState, d *draft) (Check, error) {
	c, err := r.checkSignatures(e, d)
	if err != nil {
		return c, err
	}
	c.Problems = append(c.Problems, e.stale(d.state)...)
	for _, role := range d.unmet() {
		c.Problems = append(c.Problems, fmt.Sprintf("%s is published with signatures that no longer suffice: amend the event to renew it", role))
	}
	back, err := r.takesBack(d)
	if err != nil {
		return c, err
	}
	c.Problems = append(c.Problems, back...)
	c.Problems = append(c.Problems, d.expired(r.now())...)
	c.Problems = append(c.Problems, r.alike(d)...)
	if !d.empty() {
		c.warn(tooManyRoots(d.start, d.rootView().Signed.Version))
	}
	if !d.empty() {
		if err := r.samePublished(d.state); err != nil {
			c.Problems = append(c.Problems, err.Error())
		}
		if err := r.clockSound(d.state); err != nil {
			c.Problems = append(c.Problems, err.Error())
		}
	}
	return c, nil
}

// expired says which roles clients would refuse once the draft is published, in the order of repair: clients check root
// before targets, and targets before what it delegates to.
func (d *draft) expired(now time.Time) []string {
	var out []string
	say := func(role string, expires time.Time, how string) {
		if now.After(expires) {
			out = append(out, fmt.Sprintf("%s expired on %s, so that no client would follow: %s", role, expires.Format(time.RFC3339), how))
		}
	}
	how := "have its holders renew it"
	say(metadata.ROOT, d.rootView().Signed.Expires, how)
	if m, err := d.get(metadata.TARGETS, ""); err == nil {
		say(metadata.TARGETS, m.Signed.Expires, how)
	}
	for _, role := range d.changed() {
		if role != metadata.ROOT && role != metadata.TARGETS {
			say(role, d.roles[role].Signed.Expires, how)
		}
	}
	return out
}

// loadToExtend loads the state that a publication without an event adds to: it is what clients see, and no younger than
// the clock.
func (r *Repository) loadToExtend() (*state, error) {
	s, err := r.load()
	if err != nil {
		return nil, err
	}
	if s.empty() {
		return nil, errNothingPublished
	}
	if err := r.samePublished(s); err != nil {
		return nil, err
	}
	return s, r.clockSound(s)
}

// samePublished checks that what clients see is what the repository last published. It is not when the published
// directory was restored from a backup, lost, or changed by somebody else.
func (r *Repository) samePublished(s *state) error {
	data, err := r.readPublished("timestamp.json")
	if err == nil && string(data) == string(s.raw[metadata.TIMESTAMP]) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the published directory %s has no readable timestamp.json: if it was lost, republish; if it is elsewhere, say where: %w", r.published, err)
	}
	m, err := parse(metadata.Timestamp(), data)
	switch {
	case err != nil:
		return fmt.Errorf("the published timestamp.json is not the one that was published, and cannot be read: republish: %w", err)
	case m.Signed.Version > s.Timestamp.Signed.Version:
		return fmt.Errorf("the published timestamp.json has version %d, and version %d was published from here: if somebody has the online key, republish, after which denials go on, and replace that key then; if this directory was restored from a backup, rebuild it from the published one", m.Signed.Version, s.Timestamp.Signed.Version)
	}
	return fmt.Errorf("the published timestamp.json (version %d) is not the one that was published (version %d): republish", m.Signed.Version, s.Timestamp.Signed.Version)
}

// skew is how far clocks may be apart.
const skew = 10 * time.Minute

// idle is how long after the last timestamp has expired the next one may be signed without a word: clients refuse
// everything by then, and a clock that is ahead by mistake is the likelier reason.
const idle = 60 * day

// clockSound refuses a clock that is behind the last publication, since what it dates would expire too soon, and an
// expired role would seem valid; and one that is far ahead of it, since every honest clock would be behind afterwards.
// Clients compare versions and expiry, and not when something was signed: who knows that the clock is right may go on.
func (r *Repository) clockSound(s *state) error {
	if r.trustClock {
		return nil
	}
	now, expires := r.now().UTC(), s.Timestamp.Signed.Expires
	if now.After(expires.Add(idle)) {
		return fmt.Errorf("this machine's clock says %s, and the last timestamp expired on %s, more than %d days before: if the clock is wrong, set the clock, since what it signs would lock the repository until then; if it is right, say so (--trust-clock)",
			now.Format(time.RFC3339), expires.Format(time.RFC3339), int(idle/day))
	}
	role := s.Root.Signed.Roles[metadata.TIMESTAMP]
	p, ok := periodIn(role.UnrecognizedFields)
	if !ok {
		return nil // nobody says when it was signed
	}
	if signed := expires.Add(-p.expiry()); now.Add(skew).Before(signed) {
		return fmt.Errorf("this machine's clock says %s, and the last timestamp was signed on %s: set the clock; if it is right, and was ahead when that was signed, say so (--trust-clock)", now.Format(time.RFC3339), signed.Format(time.RFC3339))
	}
	return nil
}

// NotReadyError is returned when an event is published before it can be.
type NotReadyError struct {
	Problems []string
}

func (e *NotReadyError) Error() string {
	return fmt.Sprintf("the event cannot be published yet: %s", list(e.Problems))
}

// notReady returns nil for no problems.
func notReady(problems []string) error {
	if len(problems) == 0 {
		return nil
	}
	return &NotReadyError{problems}
}

var errNothingPublished = errors.New("nothing was published yet: publish the first event")

// errStopped is why nothing was published.
var errStopped = errors.New("nothing was published")
