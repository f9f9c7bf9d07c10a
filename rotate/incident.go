// Package rotate takes a signer out of trust: it declares the incident, makes
// the plan, counts the approvals, and says what may be done.
//
// The verdicts and decisions are rotate/trust's, which this package applies to
// the inventory. What it does to registries and verifiers it does through the
// small interfaces it is given.
package rotate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

// Schemas of the documents this package keeps.
const (
	IncidentSchema   = "reseal.incident/v1"
	RotationSchema   = "reseal.rotation/v1"
	PlanSchema       = "reseal.plan/v1"
	ApproversSchema  = "reseal.approvers/v1"
	ApprovalSchema   = "reseal.approval/v1"
	MotionSchema     = "reseal.motion/v1"
	CarriedSchema    = "reseal.motion-carried/v1"
	VoucherSchema    = "reseal.voucher/v1"
	BreakGlassSchema = "reseal.break-glass/v1"
)

// IncidentState is where an incident stands.
type IncidentState string

// The states of an incident.
const (
	Open      IncidentState = "open"
	Closed    IncidentState = "closed"    // dealt with; it is still true and counts in every judgement
	Withdrawn IncidentState = "withdrawn" // a false alarm; it counts nowhere
)

// Incident is a declared compromise with its circumstances.
type Incident struct {
	Schema string `json:"schema"`
	trust.Incident
	Title       string                  `json:"title"`
	Severity    string                  `json:"severity"`
	State       IncidentState           `json:"state"`
	OpenedBy    string                  `json:"opened_by"`
	OpenedAt    time.Time               `json:"opened_at"`
	Rogue       map[string]string       `json:"rogue,omitempty"`        // digest → why it is known to be bad
	Changes     []Change                `json:"changes,omitempty"`      // every amendment, oldest first
	PriorStates map[string]signer.State `json:"prior_states,omitempty"` // signer ID → state before any incident tainted it
	ClosedAt    *time.Time              `json:"closed_at,omitempty"`
	WithdrawnBy string                  `json:"withdrawn_by,omitempty"` // digest of the motion
}

// Change is one amendment of an incident.
type Change struct {
	At     time.Time `json:"at"`
	Actor  string    `json:"actor"`
	Reason string    `json:"reason"`
	What   string    `json:"what"`
}

// incidentName keeps names usable as file and target names.
var incidentName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Check refuses an incident that nothing could be decided by.
func (i Incident) Check() error {
	if !incidentName.MatchString(i.ID) {
		return fmt.Errorf("incident %q: give it a name of letters, digits, dots, dashes and underscores, e.g. INC-2026-11-22", i.ID)
	}
	for d := range i.Rogue {
		if err := inventory.CheckDigest(d); err != nil {
			return fmt.Errorf("incident %s: rogue %w", i.ID, err)
		}
	}
	return i.Incident.Check()
}

// OpenIncident declares an incident and taints the signers it is about, in one
// step. Keys must be enrolled; of keyless identities, those are tainted that
// the inventory knows.
func OpenIncident(ctx context.Context, s *store.Store, by journal.Author, i Incident) error {
	i.Schema, i.State, i.PriorStates = IncidentSchema, Open, nil
	if err := i.Check(); err != nil {
		return err
	}
	if strings.EqualFold(revocationName(i.ID), revocationName("index")) {
		return fmt.Errorf("incident %q: its revocation would be taken for the index of revocations: choose another name", i.ID)
	}
	return s.Update(ctx, by, func(tx *store.Tx) error {
		if _, err := s.Document(ctx, store.KindIncident, i.ID); err == nil {
			return fmt.Errorf("incident %s exists already: \"reseal incident show %s\" shows it; choose another name for another incident", i.ID, i.ID)
		} else if !errors.Is(err, inventory.ErrNotFound) {
			return err
		}
		if _, err := s.Document(ctx, store.KindRotation, i.ID); err == nil {
			return fmt.Errorf("%s is the name of a rotation: choose another name, else plans of both could be taken for one another", i.ID)
		} else if !errors.Is(err, inventory.ErrNotFound) {
			return err
		}
		if err := i.taint(ctx, tx, s); err != nil {
			return err
		}
		return i.put(ctx, tx, "incident.opened")
	})
}

func (i Incident) put(ctx context.Context, tx *store.Tx, action string) error {
	body, err := canonical(i)
	if err != nil {
		return err
	}
	return tx.PutDocument(ctx, store.KindIncident, i.ID, action, body)
}

// taint taints the signers the incident is about and remembers what they were
// before.
func (i *Incident) taint(ctx context.Context, tx *store.Tx, s *store.Store) error {
	others, err := Incidents(ctx, s)
	if err != nil {
		return err
	}
	var about []signer.Record
	for _, id := range i.Signers {
		r, err := s.Signer(ctx, id.ID())
		if errors.Is(err, inventory.ErrNotFound) && id.Kind == signer.Keyless {
			continue // named before anything of it was seen
		}
		if err != nil {
			return err
		}
		if id.Kind == signer.Key && !r.Enrolled() {
			return fmt.Errorf("signer %s was never enrolled, so no plan trusts what it signed: if verifiers did accept it, enrol it first with \"reseal signer add NAME --key PUB --state old\"", r.Identity)
		}
		about = append(about, r)
	}
	if len(i.Selectors) > 0 {
		matching, err := Matching(ctx, s, i.Incident)
		if err != nil {
			return err
		}
		about = append(about, matching...)
	}
	for _, r := range about {
		id := r.Identity.ID()
		if _, known := i.PriorStates[id]; known {
			continue
		}
		prior := r.State
		if prior == signer.Tainted {
			for _, o := range others {
				if was, ok := o.PriorStates[id]; ok && o.counts() {
					prior = was
				}
			}
		}
		// The map may be shared with the document it was read from.
		states := map[string]signer.State{id: prior}
		maps.Copy(states, i.PriorStates)
		i.PriorStates = states
		if r.State == signer.Revoked || r.State == signer.Tainted {
			continue
		}
		r.State = signer.Tainted
		if err := tx.PutSigner(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// Matching returns the signers in the inventory that the incident is about, by
// name or by a selector, in order of ID. It shows what a pattern matches before
// it is used; the incident need not be kept.
func Matching(ctx context.Context, s *store.Store, i trust.Incident) ([]signer.Record, error) {
	if err := i.Check(); err != nil {
		return nil, err
	}
	records, err := s.Records(ctx)
	if err != nil {
		return nil, err
	}
	compiled := trust.Compiled([]trust.Incident{i})[0]
	var out []signer.Record
	for _, r := range records {
		matches := compiled.Names(r.Identity)
		if matches && i.Class == trust.CIWorkflow {
			// Whoever signed says nothing of the run it signed in.
			if matches, err = anySelected(ctx, s, compiled, r.Identity); err != nil {
				return nil, err
			}
		}
		if matches {
			out = append(out, r)
		}
	}
	return out, nil
}

// anySelected reports whether a certificate of a signer is selected.
func anySelected(ctx context.Context, s *store.Store, i trust.Incident, id signer.Identity) (bool, error) {
	for at := (store.SignaturePlace{}); ; {
		sigs, next, err := s.Signatures(ctx, store.SignatureFilter{Signers: []string{id.ID()}, Gone: true}, at, page)
		if err != nil || len(sigs) == 0 {
			return false, err
		}
		if slices.ContainsFunc(sigs, i.Touches) {
			return true, nil
		}
		at = next
	}
}

// MarkRogue adds digests that are known to be bad to an incident. From then on
// no plan, approved or not, re-signs them. A closed incident is open again.
func MarkRogue(ctx context.Context, s *store.Store, by journal.Author, id string, rogue map[string]string) (Incident, error) {
	var i Incident
	err := s.Update(ctx, by, func(tx *store.Tx) (err error) {
		// Read within the transaction: marks made at the same time all count.
		if i, err = LoadIncident(ctx, s, id); err != nil {
			return err
		}
		if !i.counts() {
			return errWithdrawn(id)
		}
		all := map[string]string{}
		maps.Copy(all, rogue)
		maps.Copy(all, i.Rogue)
		if len(all) > len(i.Rogue) {
			i.State, i.ClosedAt = Open, nil // there is something to do again
		}
		i.Rogue = all
		if err := i.Check(); err != nil {
			return err
		}
		return i.put(ctx, tx, "incident.rogue")
	})
	return i, err
}

func errWithdrawn(id string) error {
	return fmt.Errorf("incident %s was withdrawn as a false alarm and counts nowhere: open another incident", id)
}

// Amendment is what widens an incident. Empty fields change nothing.
type Amendment struct {
	At          time.Time  // when it is made
	From        *time.Time // an earlier start
	FromUnknown bool       // the start is not known any more
	Until       *time.Time // a later end
	NoEnd       bool       // there is no end any more
	Signers     []signer.Identity
	Selectors   []trust.Selector
	Authorities []inventory.Authority
	Rogue       map[string]string
	Severity    string // a graver one
	Title       string
}

// Severities lists the severities of incidents, the gravest last.
func Severities() []string { return []string{"low", "medium", "high", "critical"} }

// Amend widens an incident: what was learnt since may only take trust away.
// Each change is kept with who made it and by's reason. A closed incident that
// is widened is open again. To narrow one, withdraw it and open another.
func Amend(ctx context.Context, s *store.Store, by journal.Author, id string, a Amendment) (Incident, error) {
	var i Incident
	err := s.Update(ctx, by, func(tx *store.Tx) (err error) {
		if i, err = LoadIncident(ctx, s, id); err != nil {
			return err
		}
		if !i.counts() {
			return errWithdrawn(id)
		}
		what, err := i.widen(a)
		if err != nil {
			return fmt.Errorf("incident %s: %w", id, err)
		}
		if err := i.Check(); err != nil {
			return err
		}
		i.Changes = append(slices.Clone(i.Changes), Change{At: a.At, Actor: by.Actor, Reason: by.Reason, What: strings.Join(what, "; ")})
		i.State, i.ClosedAt = Open, nil
		if err := i.taint(ctx, tx, s); err != nil {
			return err
		}
		return i.put(ctx, tx, "incident.amended")
	})
	return i, err
}

// narrower ends the refusal of a change that would make more believed.
const narrower = "an incident is only ever widened: withdraw it, which takes a quorum, and open another"

// widen applies an amendment and says what it changed.
func (i *Incident) widen(a Amendment) (what []string, err error) {
	say := func(format string, args ...any) { what = append(what, fmt.Sprintf(format, args...)) }
	if err := i.widenWindow(a, say); err != nil {
		return nil, err
	}
	for _, id := range a.Signers {
		if !slices.Contains(i.Signers, id) {
			i.Signers = append(slices.Clone(i.Signers), id)
			say("signer %s added", id)
		}
	}
	for _, x := range a.Selectors {
		if !slices.Contains(i.Selectors, x) {
			i.Selectors = append(slices.Clone(i.Selectors), x)
			text, err := canonical(x)
			if err != nil {
				return nil, err
			}
			say("selector %s added", text)
		}
	}
	for _, x := range a.Authorities {
		if !slices.Contains(i.Authorities, x) {
			i.Authorities = append(slices.Clone(i.Authorities), x)
			say("authority %s %s added", x.Role, x.ID)
		}
	}
	rogue := maps.Clone(i.Rogue)
	for _, d := range slices.Sorted(maps.Keys(a.Rogue)) {
		if _, known := rogue[d]; known {
			continue
		}
		if rogue == nil {
			rogue = map[string]string{}
		}
		rogue[d] = a.Rogue[d]
		say("%s marked rogue: %s", d, a.Rogue[d])
	}
	i.Rogue = rogue
	if a.Severity != "" && a.Severity != i.Severity {
		was, now := slices.Index(Severities(), i.Severity), slices.Index(Severities(), a.Severity)
		if now < 0 {
			return nil, fmt.Errorf("severity %q: use one of %s", a.Severity, strings.Join(Severities(), ", "))
		}
		if was < 0 { // it counts as the gravest
			was = len(Severities()) - 1
		}
		if now < was {
			return nil, fmt.Errorf("severity %s is less grave than %s, and fewer people would have to approve: %s", a.Severity, i.Severity, narrower)
		}
		say("severity from %q to %s", i.Severity, a.Severity)
		i.Severity = a.Severity
	}
	if a.Title != "" && a.Title != i.Title {
		say("title from %q to %q", i.Title, a.Title)
		i.Title = a.Title
	}
	if len(what) == 0 {
		return nil, errors.New("the amendment changes nothing")
	}
	return what, nil
}

func (i *Incident) widenWindow(a Amendment, say func(string, ...any)) error {
	text := func(t *time.Time, none string) string {
		if t == nil {
			return none
		}
		return t.UTC().Format(time.RFC3339)
	}
	was := text(i.From, "unknown")
	switch {
	case a.FromUnknown && a.From != nil:
		return errors.New("the start is given and unknown at once: choose one")
	case a.FromUnknown && i.From != nil:
		i.From = nil
		say("from %s to unknown", was)
	case a.From != nil && i.From == nil:
		return fmt.Errorf("its start is unknown, so %s would be later: %s", text(a.From, ""), narrower)
	case a.From != nil && a.From.After(*i.From):
		return fmt.Errorf("a start at %s is later than %s: %s", text(a.From, ""), was, narrower)
	case a.From != nil && a.From.Before(*i.From):
		i.From = a.From
		say("from %s to %s", was, text(a.From, ""))
	}
	was = text(i.Until, "none")
	switch {
	case a.NoEnd && a.Until != nil:
		return errors.New("an end is given and taken away at once: choose one")
	case a.NoEnd && i.Until != nil:
		i.Until = nil
		say("until %s to none", was)
	case a.Until != nil && i.Until == nil:
		return fmt.Errorf("it has no end, so one at %s would be earlier: %s", text(a.Until, ""), narrower)
	case a.Until != nil && a.Until.Before(*i.Until):
		return fmt.Errorf("an end at %s is earlier than %s: %s", text(a.Until, ""), was, narrower)
	case a.Until != nil && a.Until.After(*i.Until):
		i.Until = a.Until
		say("until %s to %s", was, text(a.Until, ""))
	}
	return nil
}

// withdrawIncident says that an incident was a false alarm, as the motion of a
// digest has it, and gives its signers back the state they had before, unless
// another incident is about them.
func withdrawIncident(ctx context.Context, tx *store.Tx, s *store.Store, id, motion string) error {
	i, err := LoadIncident(ctx, s, id)
	if err != nil {
		return err
	}
	if !i.counts() {
		return fmt.Errorf("incident %s is withdrawn already", id)
	}
	if err := i.untaint(ctx, tx, s); err != nil {
		return err
	}
	i.State, i.WithdrawnBy, i.ClosedAt = Withdrawn, motion, nil
	tx.Record(journal.Draft{Action: "incident.withdrawal", Subject: id, Digest: motion})
	return i.put(ctx, tx, "incident.withdrawn")
}

// untaint gives the signers of an incident back the state they had before it,
// unless another incident is about them.
func (i Incident) untaint(ctx context.Context, tx *store.Tx, s *store.Store) error {
	all, err := Incidents(ctx, s)
	if err != nil {
		return err
	}
	for _, of := range slices.Sorted(maps.Keys(i.PriorStates)) {
		if slices.ContainsFunc(all, func(o Incident) bool {
			_, tainted := o.PriorStates[of]
			return o.ID != i.ID && o.counts() && tainted
		}) {
			continue
		}
		r, err := s.Signer(ctx, of)
		if err != nil {
			return err
		}
		if r.State != signer.Tainted {
			continue // revoked: it stands in no anchor any more, alarm or not
		}
		r.State = i.PriorStates[of]
		if err := tx.PutSigner(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// LoadIncident returns an incident by name.
func LoadIncident(ctx context.Context, s *store.Store, id string) (Incident, error) {
	var i Incident
	err := load(ctx, s, store.KindIncident, id, &i)
	if errors.Is(err, inventory.ErrNotFound) {
		return i, fmt.Errorf("%w: \"reseal incident list\" lists those that are known", err)
	}
	return i, err
}

// Incidents returns every incident, in order of name, also those withdrawn. See
// Rules for those that count.
func Incidents(ctx context.Context, s *store.Store) ([]Incident, error) {
	return loadAll[Incident](ctx, s, store.KindIncident, "")
}

// counts reports whether the incident counts in judgements: a closed one is
// still true, a withdrawn one never was.
func (i Incident) counts() bool { return i.State != Withdrawn }

// Rules returns the incidents that count, as the rules see them.
func Rules(incidents []Incident) []trust.Incident {
	var out []trust.Incident
	for _, i := range incidents {
		if i.counts() {
			out = append(out, i.Incident)
		}
	}
	return out
}

// Rogue returns every digest that an incident which counts marks rogue, and
// why.
func Rogue(incidents []Incident) map[string]string {
	out := map[string]string{}
	for _, i := range incidents {
		if !i.counts() {
			continue
		}
		for d, why := range i.Rogue {
			out[d] = i.ID + ": " + why
		}
	}
	return out
}

// names returns the incident that may be about a signer, or "".
func names(incidents []trust.Incident, id signer.Identity) string {
	for _, i := range incidents {
		if i.Names(id) {
			return i.ID
		}
	}
	return ""
}

func load(ctx context.Context, s *store.Store, kind, id string, into any) error {
	body, err := s.Document(ctx, kind, id)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s %s: %w", kind, id, err)
	}
	return nil
}

// loadAll returns every document of a kind whose ID starts with prefix, in order
// of ID.
func loadAll[T any](ctx context.Context, s *store.Store, kind, prefix string) ([]T, error) {
	bodies, err := s.Documents(ctx, kind, prefix)
	if err != nil {
		return nil, err
	}
	out := make([]T, len(bodies))
	for n, b := range bodies {
		if err := json.Unmarshal(b, &out[n]); err != nil {
			return nil, fmt.Errorf("%s %s: %w", kind, prefix, err)
		}
	}
	return out, nil
}

// canonical returns the one JSON form of a value that is hashed and signed:
// one line, fields in the order of the type, map keys sorted, no HTML escapes.
func canonical(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
