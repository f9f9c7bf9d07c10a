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
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

// Schemas of the documents this package keeps.
const (
	IncidentSchema  = "reseal.incident/v1"
	PlanSchema      = "reseal.plan/v1"
	ApproversSchema = "reseal.approvers/v1"
	ApprovalSchema  = "reseal.approval/v1"
)

// IncidentState is where an incident stands.
type IncidentState string

// The states of an incident.
const (
	Open IncidentState = "open"
)

// Incident is a declared compromise with its circumstances.
type Incident struct {
	Schema string `json:"schema"`
	trust.Incident
	Title    string            `json:"title"`
	Severity string            `json:"severity"`
	State    IncidentState     `json:"state"`
	OpenedBy string            `json:"opened_by"`
	OpenedAt time.Time         `json:"opened_at"`
	Rogue    map[string]string `json:"rogue,omitempty"` // digest → why it is known to be bad
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

// OpenIncident declares an incident and taints its signers, in one step.
func OpenIncident(ctx context.Context, s *store.Store, by journal.Author, i Incident) error {
	i.Schema, i.State = IncidentSchema, Open
	if err := i.Check(); err != nil {
		return err
	}
	body, err := canonical(i)
	if err != nil {
		return err
	}
	return s.Update(ctx, by, func(tx *store.Tx) error {
		if _, err := s.Document(ctx, store.KindIncident, i.ID); err == nil {
			return fmt.Errorf("incident %s exists already: \"reseal incident show %s\" shows it; choose another name for another incident", i.ID, i.ID)
		} else if !errors.Is(err, inventory.ErrNotFound) {
			return err
		}
		for _, id := range i.Signers {
			r, err := s.Signer(ctx, id.ID())
			if err != nil {
				return err
			}
			if !r.Enrolled() {
				return fmt.Errorf("signer %s was never enrolled, so no plan trusts what it signed: if verifiers did accept it, enrol it first with \"reseal signer add NAME --key PUB --state old\"", r.Identity)
			}
			r.State = signer.Tainted
			if err := tx.PutSigner(ctx, r); err != nil {
				return err
			}
		}
		return tx.PutDocument(ctx, store.KindIncident, i.ID, "incident.opened", body)
	})
}

// MarkRogue adds digests that are known to be bad to an open incident. From
// then on no plan, approved or not, re-signs them.
func MarkRogue(ctx context.Context, s *store.Store, by journal.Author, id string, rogue map[string]string) (Incident, error) {
	var i Incident
	err := s.Update(ctx, by, func(tx *store.Tx) (err error) {
		// Read within the transaction: marks made at the same time all count.
		if i, err = LoadIncident(ctx, s, id); err != nil {
			return err
		}
		all := maps.Clone(rogue)
		maps.Copy(all, i.Rogue)
		i.Rogue = all
		if err := i.Check(); err != nil {
			return err
		}
		body, err := canonical(i)
		if err != nil {
			return err
		}
		return tx.PutDocument(ctx, store.KindIncident, i.ID, "incident.rogue", body)
	})
	return i, err
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

// Incidents returns every incident, oldest name first. All of them count in
// every judgement: a closed incident is still true.
func Incidents(ctx context.Context, s *store.Store) ([]Incident, error) {
	bodies, err := s.Documents(ctx, store.KindIncident, "")
	if err != nil {
		return nil, err
	}
	out := make([]Incident, len(bodies))
	for n, b := range bodies {
		if err := json.Unmarshal(b, &out[n]); err != nil {
			return nil, fmt.Errorf("incident: %w", err)
		}
	}
	return out, nil
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
