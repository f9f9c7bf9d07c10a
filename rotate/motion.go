package rotate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
)

// Motion is what people approve beside plans: the withdrawal of an incident, or
// a change of who may approve. It is void once the approver set it was made
// under is no longer in force.
type Motion struct {
	Schema    string     `json:"schema"`
	Kind      string     `json:"kind"`    // WithdrawalKind or ApproversKind
	Subject   string     `json:"subject"` // the incident's name, or "approvers"
	Proposer  string     `json:"proposer"`
	Reason    string     `json:"reason"`
	MadeAt    time.Time  `json:"made_at"`
	ExpiresAt time.Time  `json:"expires_at"`
	Approvers *Approvers `json:"approvers,omitempty"` // the new set
	Base      string     `json:"base"`                // digest of the approver set in force when it was made
	Incident  string     `json:"incident,omitempty"`  // of a withdrawal: digest of the incident as it stood when it was made
}

// MotionState is a motion and how far it has come.
type MotionState struct {
	Digest string `json:"digest"`
	Motion
	ApprovedBy []string `json:"approved_by"`
	Carried    *Carried `json:"carried,omitempty"`
}

// Carried says when a motion was carried and by whose approvals.
type Carried struct {
	Schema    string    `json:"schema"`
	Motion    string    `json:"motion"`
	At        time.Time `json:"at"`
	Approvers []string  `json:"approvers"`
}

// carried ends the ID under which it is kept that a motion was carried.
const carried = " carried"

func (m Motion) ballot(digest string) ballot {
	return ballot{kind: m.Kind, digest: digest, subject: m.Subject, proposer: m.Proposer, expires: m.ExpiresAt, approvers: m.Base}
}

// check refuses a motion that could not be carried as things stand, however
// many approve it. It returns the severity that its quorum goes by.
func (m Motion) check(ctx context.Context, s *store.Store, set Approvers, incidents []Incident) (severity string, err error) {
	switch m.Kind {
	case ApproversKind:
		if m.Approvers == nil || m.Subject != ApproversKind {
			return "", fmt.Errorf("a motion to change the approvers is about %q and holds the new set", ApproversKind)
		}
		if err := m.Approvers.Check(); err != nil {
			return "", err
		}
		if m.Approvers.Digest() == set.Digest() {
			return "", errors.New("the approvers are as the motion would have them already")
		}
		// Of no severity: whoever changes the set can change every quorum in it, so
		// it takes the highest.
		if err := m.Approvers.checkStandby(ctx, s); err != nil {
			return "", err
		}
		return "", m.Approvers.checkOutside(counting(incidents))
	case WithdrawalKind:
		if m.Approvers != nil {
			return "", errors.New("a motion to withdraw an incident holds no approvers")
		}
		at := slices.IndexFunc(incidents, func(i Incident) bool { return i.ID == m.Subject })
		if at < 0 {
			return "", fmt.Errorf("incident %q: %w: \"reseal incident list\" lists those that are known", m.Subject, inventory.ErrNotFound)
		}
		if incidents[at].State == Withdrawn {
			return "", fmt.Errorf("incident %s is withdrawn already", m.Subject)
		}
		now, err := incidentDigest(ctx, s, m.Subject)
		if err == nil && m.Incident != now {
			err = fmt.Errorf("incident %s changed after the motion to withdraw it was made: look at it again and make a new motion", m.Subject)
		}
		return incidents[at].Severity, err
	}
	return "", fmt.Errorf("a motion is about %s or %s, not about %q", WithdrawalKind, ApproversKind, m.Kind)
}

func incidentDigest(ctx context.Context, s *store.Store, id string) (string, error) {
	body, err := s.Document(ctx, store.KindIncident, id)
	return inventory.Digest(body), err
}

// Move makes a motion, keeps it, and returns its digest, which people approve
// with Approve. m needs its kind, subject, proposer, reason and times, and the
// new set where it changes the approvers; the rest is added here.
func Move(ctx context.Context, s *store.Store, by journal.Author, m Motion) (string, error) {
	m.Schema = MotionSchema
	if m.Kind == ApproversKind {
		m.Subject = ApproversKind
	}
	if m.Approvers != nil {
		next := *m.Approvers
		next.Schema = ApproversSchema
		m.Approvers = &next
	}
	switch {
	case strings.TrimSpace(m.Proposer) == "":
		return "", errors.New("the motion names no proposer")
	case strings.TrimSpace(m.Reason) == "":
		return "", errors.New("the motion gives no reason: state one, it is what people approve")
	case !m.ExpiresAt.After(m.MadeAt):
		return "", errors.New("the motion expires before it is made: give it a time in which people can approve it")
	}
	var digest string
	err := s.Update(ctx, by, func(tx *store.Tx) error {
		set, incidents, err := people(ctx, s)
		if err != nil {
			return err
		}
		m.Base = set.Digest()
		if m.Kind == WithdrawalKind {
			if m.Incident, err = incidentDigest(ctx, s, m.Subject); err != nil {
				return err
			}
		}
		if _, err := m.check(ctx, s, set, incidents); err != nil {
			return err
		}
		body, err := canonical(m)
		if err != nil {
			return err
		}
		digest = inventory.Digest(body)
		if _, err := s.Document(ctx, store.KindMotion, digest); err == nil {
			return fmt.Errorf("the motion %s was made already", digest)
		} else if !errors.Is(err, inventory.ErrNotFound) {
			return err
		}
		return tx.PutDocument(ctx, store.KindMotion, digest, "motion.made", body)
	})
	return digest, err
}

// FindMotion returns the digest of the one motion that the given text names, as
// FindPlan does.
func FindMotion(ctx context.Context, s *store.Store, text string) (string, error) {
	return find(ctx, s, store.KindMotion, text)
}

// find returns the ID of the one document of a kind whose digest starts so, with
// or without "sha256:".
func find(ctx context.Context, s *store.Store, kind, text string) (string, error) {
	prefix := "sha256:" + trimAlgorithm(text)
	if len(prefix) < len("sha256:")+6 {
		return "", fmt.Errorf("%s %q: give its digest, or at least the first 6 digits of it", kind, text)
	}
	ids, err := s.DocumentIDs(ctx, kind, prefix)
	if err != nil {
		return "", err
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return inventory.CheckDigest(id) != nil }) // what is kept beside it
	switch len(ids) {
	case 0:
		return "", fmt.Errorf("%s %s: %w: \"reseal incident show\" lists the plans and motions about an incident, \"reseal approvers show\" those about the approvers", kind, text, inventory.ErrNotFound)
	case 1:
		return ids[0], nil
	}
	return "", fmt.Errorf("%s %s: %d of them start so: give more digits", kind, text, len(ids))
}

// LoadMotion returns a motion, after checking that it still hashes to its
// digest.
func LoadMotion(ctx context.Context, s *store.Store, digest string) (Motion, error) {
	var m Motion
	body, err := s.Document(ctx, store.KindMotion, digest)
	if err != nil {
		return m, err
	}
	if got := inventory.Digest(body); got != digest {
		return m, fmt.Errorf("the motion %s was changed after it was made (it now hashes to %s): make a new one and have it approved", digest, got)
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return m, fmt.Errorf("motion %s: %w", digest, err)
	}
	return m, nil
}

// Motions returns every motion, in order of the time it was made.
func Motions(ctx context.Context, s *store.Store) ([]MotionState, error) {
	ids, err := s.DocumentIDs(ctx, store.KindMotion, "sha256:")
	if err != nil {
		return nil, err
	}
	var out []MotionState
	for _, id := range ids {
		if strings.HasSuffix(id, carried) {
			continue
		}
		st := MotionState{Digest: id}
		if st.Motion, err = LoadMotion(ctx, s, id); err != nil {
			return nil, err
		}
		if st.ApprovedBy, err = ApprovedBy(ctx, s, id); err != nil {
			return nil, err
		}
		if st.Carried, err = loadCarried(ctx, s, id); err != nil {
			return nil, err
		}
		out = append(out, st)
	}
	slices.SortStableFunc(out, func(x, y MotionState) int { return x.MadeAt.Compare(y.MadeAt) })
	return out, nil
}

// loadCarried returns how a motion was carried, or nil.
func loadCarried(ctx context.Context, s *store.Store, digest string) (*Carried, error) {
	var c Carried
	err := load(ctx, s, store.KindMotion, digest+carried, &c)
	if errors.Is(err, inventory.ErrNotFound) {
		return nil, nil
	}
	return &c, err
}

// Carry does what a motion says if a quorum of the approver set in force
// approved it: it enrols the new set, or withdraws the incident. Every approval
// is verified anew, at the time now. A motion is carried once. Without a quorum
// the error wraps ErrNeedsApproval.
func Carry(ctx context.Context, s *store.Store, judge Judge, by journal.Author, digest string, now time.Time) error {
	return s.Update(ctx, by, func(tx *store.Tx) error {
		// All is read within the transaction: of two who carry at the same time,
		// one finds it done.
		m, err := LoadMotion(ctx, s, digest)
		if err != nil {
			return err
		}
		done, err := loadCarried(ctx, s, digest)
		if err != nil {
			return err
		}
		if done != nil {
			return fmt.Errorf("the motion %s was carried already, at %s: make a new one", digest, done.At.UTC().Format(time.RFC3339))
		}
		set, incidents, err := people(ctx, s)
		if err != nil {
			return err
		}
		b := m.ballot(digest)
		if err := b.checkStanding(set, now); err != nil {
			return err
		}
		severity, err := m.check(ctx, s, set, incidents)
		if err != nil {
			return err
		}
		rules := counting(incidents)
		v, err := b.count(ctx, s, judge, set, rules)
		if err != nil {
			return err
		}
		if err := v.checkQuorum(b, set, []string{severity}, rules); err != nil {
			return err
		}
		if m.Kind == ApproversKind {
			err = putApprovers(ctx, tx, "approvers.changed", *m.Approvers)
		} else {
			err = withdrawIncident(ctx, tx, s, m.Subject, digest)
		}
		if err != nil {
			return err
		}
		body, err := canonical(Carried{Schema: CarriedSchema, Motion: digest, At: now.UTC(), Approvers: v.names()})
		if err != nil {
			return err
		}
		return tx.PutDocument(ctx, store.KindMotion, digest+carried, "motion.carried", body)
	})
}
