package rotate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/verify"
)

// Registry is what taking rogue artifacts away needs.
type Registry interface {
	Manifest(ctx context.Context, repository, reference string) (registry.Manifest, error)
	Blob(ctx context.Context, repository, digest string, limit int64) ([]byte, error)
	Referrers(ctx context.Context, repository, digest string) ([]v1.Descriptor, error)
	Detach(ctx context.Context, repository, digest, subject string) error
	Delete(ctx context.Context, repository, reference string) error
	Serialise(ctx context.Context, repository, digest string) (unlock func(), err error)
}

// Publish makes a revocation statement known to verifiers under a name. It is
// called again after a crash, with the same bytes.
type Publish func(ctx context.Context, name string, statement []byte) error

// Contained is what containing an incident did, or would do.
type Contained struct {
	Incident    string   `json:"incident"`
	Plan        string   `json:"plan"`
	Applied     bool     `json:"applied"`
	Published   string   `json:"published"`   // name of the revocation statement
	Quarantined []string `json:"quarantined"` // references of the rogue artifacts taken away
	Absent      []string `json:"absent"`      // rogue artifacts that were gone already
	Elsewhere   []string `json:"elsewhere"`   // denied digests that this plan does not take away: no scan saw them, or they were marked since
	Failed      []string `json:"failed"`      // with reasons
}

// Contain publishes the revocation statement of an approved plan and takes
// away every artifact it denies: into the vault first, then out of the
// registry. It may be run again; what is gone already is left alone.
func Contain(ctx context.Context, s *store.Store, reg Registry, publish Publish, by journal.Author, p Permission, apply bool) (Contained, error) {
	c := Contained{Incident: p.plan.Incident, Plan: p.digest, Applied: apply, Published: "revocations/" + p.plan.Incident + ".json",
		Quarantined: []string{}, Absent: []string{}, Elsewhere: []string{}, Failed: []string{}}
	i, err := LoadIncident(ctx, s, p.plan.Incident)
	if err != nil {
		return c, err
	}
	incidents, err := Incidents(ctx, s)
	if err != nil {
		return c, err
	}
	rogue := p.plan.rogueNow(incidents)
	statement, err := Revoke(i, p, rogue)
	if err != nil {
		return c, err
	}
	a := acts{store: s, by: by, apply: apply}
	if err := a.do(ctx, "revocation", c.Published, statement, func() error {
		return publish(ctx, c.Published, statement)
	}); err != nil {
		return c, err
	}
	seen := map[string]bool{}
	err = Items(ctx, s, p.digest, trust.Deny, func(i Item) error {
		delete(rogue, i.Digest)
		ref := i.Repository + "@" + i.Digest
		if seen[ref] {
			return nil
		}
		seen[ref] = true
		switch gone, err := a.quarantine(ctx, reg, i); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			c.Failed = append(c.Failed, ref+": "+err.Error())
		case gone:
			c.Absent = append(c.Absent, ref)
		default:
			c.Quarantined = append(c.Quarantined, ref)
		}
		return nil
	})
	c.Elsewhere = append(c.Elsewhere, slices.Sorted(maps.Keys(rogue))...)
	if err == nil && len(c.Failed) > 0 {
		err = fmt.Errorf("%d rogue artifacts are still in the registry: %s", len(c.Failed), strings.Join(c.Failed, "; "))
	}
	return c, err
}

// acts carries out acts on the outside world. In a dry run it walks the same
// path and does nothing.
type acts struct {
	store *store.Store
	by    journal.Author
	apply bool
}

// do journals what is about to be done, does it, and journals that it was
// done. content, if any, goes to the vault first.
func (a acts) do(ctx context.Context, action, subject string, content []byte, act func() error) error {
	if !a.apply {
		return nil
	}
	note := func(stage string) error {
		return a.store.Update(ctx, a.by, func(tx *store.Tx) error {
			d := journal.Draft{Action: action + stage, Subject: subject}
			if content != nil {
				digest, err := tx.PutVault(ctx, content)
				if err != nil {
					return err
				}
				d.Digest = digest
			}
			tx.Record(d)
			return nil
		})
	}
	if err := note(".intended"); err != nil {
		return err
	}
	if err := act(); err != nil {
		return err
	}
	return note(".done")
}

// quarantine takes one artifact and everything that hangs on it out of the
// registry. The artifact goes first: what is left of it then accepts nothing.
func (a acts) quarantine(ctx context.Context, reg Registry, i Item) (gone bool, err error) {
	ref := i.Repository + "@" + i.Digest
	m, err := reg.Manifest(ctx, i.Repository, i.Digest)
	if errors.Is(err, registry.ErrNotFound) {
		gone = true
	} else if err != nil {
		return false, err
	}
	unlock, err := reg.Serialise(ctx, i.Repository, i.Digest)
	if err != nil {
		return false, err
	}
	defer unlock()
	referrers, err := reg.Referrers(ctx, i.Repository, i.Digest)
	if err != nil {
		return false, err
	}
	if !gone {
		if err := a.do(ctx, "quarantine", ref, m.Raw, func() error {
			return reg.Delete(ctx, i.Repository, i.Digest)
		}); err != nil {
			return false, err
		}
	}
	for _, d := range referrers {
		raw, err := reg.Manifest(ctx, i.Repository, d.Digest.String())
		if errors.Is(err, registry.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		if err := a.keepLayers(ctx, reg, i.Repository, raw); err != nil {
			return false, err
		}
		if err := a.do(ctx, "quarantine", i.Repository+"@"+d.Digest.String(), raw.Raw, func() error {
			return reg.Detach(ctx, i.Repository, d.Digest.String(), i.Digest)
		}); err != nil {
			return false, err
		}
	}
	for _, f := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt} {
		tag := verify.Tag(i.Digest, f)
		sig, err := reg.Manifest(ctx, i.Repository, tag)
		if errors.Is(err, registry.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		if err := a.keepLayers(ctx, reg, i.Repository, sig); err != nil {
			return false, err
		}
		if err := a.do(ctx, "quarantine", i.Repository+":"+tag, sig.Raw, func() error {
			return reg.Delete(ctx, i.Repository, sig.Digest)
		}); err != nil {
			return false, err
		}
	}
	if !a.apply {
		return gone, nil
	}
	return gone, a.store.Update(ctx, a.by, func(tx *store.Tx) error {
		return tx.KeepSignatures(ctx, i.Repository, i.Digest, nil)
	})
}

// maxEvidence bounds one layer that is kept, in bytes.
const maxEvidence = 100 << 20

// keepLayers puts what a signature's manifest holds into the vault: it may be
// newer than the last scan. What cannot be read any more cannot be kept.
func (a acts) keepLayers(ctx context.Context, reg Registry, repository string, m registry.Manifest) error {
	var image v1.Manifest
	if err := json.Unmarshal(m.Raw, &image); err != nil {
		return nil // the manifest itself is kept, and holds nothing a verifier could read
	}
	for _, l := range image.Layers {
		content, err := reg.Blob(ctx, repository, l.Digest.String(), maxEvidence)
		if errors.Is(err, registry.ErrNotFound) || errors.Is(err, registry.ErrTooLarge) || errors.Is(err, registry.ErrDigest) {
			continue
		}
		if err != nil {
			return err
		}
		if err := a.do(ctx, "evidence", repository+"@"+l.Digest.String(), content, func() error { return nil }); err != nil {
			return err
		}
	}
	return nil
}
