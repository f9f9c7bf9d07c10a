package rotate

import (
	"bytes"
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
	Elsewhere   []string `json:"elsewhere"`   // denied digests that this plan does not take away: no scan saw them, they were marked since, or they are files
	Spared      []string `json:"spared"`      // left where they are: the plan denies them, and what is known by now does not; with reasons
	Failed      []string `json:"failed"`      // with reasons
}

// Contain publishes the revocation statement of an approved plan and takes
// away every artifact it denies: into the vault first, then out of the
// registry. It may be run again; what is gone already is left alone.
func Contain(ctx context.Context, s *store.Store, reg Registry, publish Publish, by journal.Author, p Permission, apply bool) (Contained, error) {
	c := Contained{Incident: p.plan.Incident, Plan: p.digest, Applied: apply, Published: revocationName(p.plan.Incident),
		Quarantined: []string{}, Absent: []string{}, Elsewhere: []string{}, Spared: []string{}, Failed: []string{}}
	if p.plan.rotation() {
		return c, fmt.Errorf("plan %s rotates a signer that nothing is known against: there is nothing to contain. If there is, open an incident: \"reseal incident open\"", p.digest)
	}
	a := acts{store: s, by: by, apply: apply}
	var now denial
	for {
		next, err := p.denial(ctx, s)
		if err != nil {
			return c, err
		}
		// Looked at again after it is published: whoever widened the incident
		// meanwhile may have published a wider statement before this one.
		if bytes.Equal(next.statement, now.statement) {
			break
		}
		now = next
		if err := a.do(ctx, "revocation", c.Published, now.statement, func() error {
			return publish(ctx, c.Published, now.statement)
		}); err != nil {
			return c, err
		}
	}
	rogue := maps.Clone(now.rogue)
	seen := map[string]bool{}
	err := Items(ctx, s, p.digest, trust.Deny, func(i Item) error {
		delete(rogue, i.Digest)
		ref := i.Repository + "@" + i.Digest
		if seen[ref] {
			return nil
		}
		seen[ref] = true
		if why := now.spared[ref]; why != "" {
			c.Spared = append(c.Spared, ref+": "+why)
			return nil
		}
		if i.Repository == inventory.Files {
			c.Elsewhere = append(c.Elsewhere, ref+": it is a file, which no registry holds: whoever keeps it takes it away")
			return nil
		}
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

// denial is what an approved plan denies by what is known now.
type denial struct {
	statement []byte
	rogue     map[string]string // digests marked rogue
	spared    map[string]string // references that the plan denies, left alone after all → why
}

func (p Permission) denial(ctx context.Context, s *store.Store) (d denial, err error) {
	incidents, err := Incidents(ctx, s)
	if err != nil {
		return d, err
	}
	at := slices.IndexFunc(incidents, func(i Incident) bool { return i.ID == p.plan.Incident })
	if at < 0 {
		return d, fmt.Errorf("incident %s: %w", p.plan.Incident, inventory.ErrNotFound)
	}
	i := incidents[at]
	if !i.counts() {
		return d, errWithdrawn(i.ID)
	}
	if err := p.plan.checkKept(i.Incident, p.at); err != nil {
		return d, err
	}
	d.rogue, d.spared = p.plan.rogueNow(incidents), map[string]string{}
	// Not Current: containing must not wait for another new signer.
	policy, err := p.counted().policy(ctx, s, Rules(incidents), d.rogue)
	if err != nil {
		return d, err
	}
	denied := maps.Clone(d.rogue)
	err = Items(ctx, s, p.digest, trust.Deny, func(i Item) error {
		if _, marked := d.rogue[i.Digest]; marked {
			return nil
		}
		why, err := p.spares(ctx, s, policy, i)
		if why != "" {
			d.spared[i.Repository+"@"+i.Digest] = why
		} else {
			denied[i.Digest] = i.Reason
		}
		return err
	})
	if err != nil {
		return d, err
	}
	d.statement, err = Revoke(i, p, Rules(incidents), denied)
	return d, err
}

// spares says why what the plan denies without a mark is left alone after all,
// or "": the mark it was denied for was taken back since, something explains it
// by now, or the same content is good elsewhere.
func (p Permission) spares(ctx context.Context, s *store.Store, policy trust.Policy, i Item) (string, error) {
	a := inventory.Artifact{Repository: i.Repository, Digest: i.Digest}
	sigs, err := s.SignaturesOf(ctx, a, p.digest)
	if err != nil {
		return "", err
	}
	items, err := decideOne(ctx, s, a, sigs, policy)
	if err != nil {
		return "", err
	}
	at := slices.IndexFunc(items, func(o Item) bool { return o.Statement == i.Statement })
	_, wasMarked := p.plan.Rogue[i.Digest]
	switch {
	case at < 0 && wasMarked:
		return "its mark was taken back", nil
	case at >= 0 && items[at].Decision != trust.Deny:
		return fmt.Sprintf("the inventory now says %s (%s)", items[at].Decision, items[at].Reason), nil
	}
	// What is not in the inventory any more is gone, perhaps by our own hand.
	place, err := spokenFor(ctx, s, policy, i.Digest)
	if place != "" {
		return "the same content is not denied in " + place, nil
	}
	return "", err
}

// spokenFor returns a repository in which something other than a denial is
// decided about a digest, or a signer of no concern signed it: a thief who signs
// a copy of a good image must not get the good one denied.
func spokenFor(ctx context.Context, s *store.Store, policy trust.Policy, digest string) (string, error) {
	for at := (store.Place{}); ; {
		arts, next, err := s.Artifacts(ctx, store.Selection{Digest: digest}, at, page)
		if err != nil || len(arts) == 0 {
			return "", err
		}
		at = next
		all, err := s.SignaturesOfAll(ctx, arts)
		if err != nil {
			return "", err
		}
		for n, a := range arts {
			items, err := decideOne(ctx, s, a, all[n], policy)
			if err != nil {
				return "", err
			}
			if slices.ContainsFunc(items, func(i Item) bool { return i.Decision != trust.Deny }) ||
				len(items) == 0 && slices.ContainsFunc(all[n], func(g inventory.Signature) bool { return g.Verified }) {
				return a.Repository, nil
			}
		}
	}
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
	m, err := reg.Manifest(ctx, i.Repository, i.Digest)
	if errors.Is(err, registry.ErrNotFound) {
		gone = true
	} else if err != nil {
		return false, err
	}
	// Whoever pushes the artifact again must not find its signatures waiting,
	// here or in the repository that holds them for this one.
	ever, err := a.store.SignaturesEver(ctx, inventory.Artifact{Repository: i.Repository, Digest: i.Digest})
	if err != nil {
		return false, err
	}
	places := []string{i.Repository}
	for _, g := range ever {
		if g.Location != "" && !slices.Contains(places, g.Location) {
			places = append(places, g.Location)
		}
	}
	for _, place := range places {
		own := place == i.Repository && !gone
		if err := a.strip(ctx, reg, place, i.Digest, own, m.Raw); err != nil {
			return false, err
		}
	}
	if !a.apply {
		return gone, nil
	}
	return gone, a.store.Update(ctx, a.by, func(tx *store.Tx) error {
		for _, place := range places {
			if err := tx.LookAgain(ctx, i.Repository, i.Digest, place); err != nil {
				return err
			}
			if place == i.Repository {
				place = ""
			}
			if err := tx.KeepSignatures(ctx, i.Repository, i.Digest, place, inventory.Formats(), nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// strip takes every signature of an artifact out of one repository, and where
// it is the artifact's own the artifact before them.
func (a acts) strip(ctx context.Context, reg Registry, repository, digest string, own bool, artifact []byte) error {
	unlock, err := reg.Serialise(ctx, repository, digest)
	if err != nil {
		return err
	}
	defer unlock()
	// Read before the artifact goes: some registries list nothing for it then.
	// Garbage in the listing, which anybody can push, must not keep it there.
	referrers, err := reg.Referrers(ctx, repository, digest)
	if err != nil && !errors.Is(err, registry.ErrMalformed) && !errors.Is(err, registry.ErrTooLarge) {
		return err
	}
	var failed []error
	if own {
		if err := a.do(ctx, "quarantine", repository+"@"+digest, artifact, func() error {
			return reg.Delete(ctx, repository, digest)
		}); err != nil {
			return err
		}
	}
	for _, d := range referrers {
		failed = append(failed, a.take(ctx, reg, repository, digest, d.Digest.String(), func(m registry.Manifest) error {
			return reg.Detach(ctx, repository, m.Digest, digest)
		}))
	}
	for _, f := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt} {
		failed = append(failed, a.take(ctx, reg, repository, digest, verify.Tag(digest, f), func(m registry.Manifest) error {
			return reg.Delete(ctx, repository, m.Digest)
		}))
	}
	return errors.Join(failed...)
}

// take vaults a manifest that is found to hang on an artifact with what it holds,
// and takes it away. One that is not there is gone already, and one that belongs to
// something else stays.
func (a acts) take(ctx context.Context, reg Registry, repository, artifact, reference string, away func(registry.Manifest) error) error {
	m, err := reg.Manifest(ctx, repository, reference)
	if errors.Is(err, registry.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	why, err := a.stays(ctx, reg, repository, artifact, reference, m)
	if err != nil {
		return err
	}
	if why != "" {
		return fmt.Errorf("%s names %s@%s, which %s, and stays where it is: look at who put that there, and take the name away", reference, repository, m.Digest, why)
	}
	if err := a.keepLayers(ctx, reg, repository, m); err != nil {
		return err
	}
	subject := repository + ":" + reference
	if reference == m.Digest {
		subject = repository + "@" + reference
	}
	return a.do(ctx, "quarantine", subject, m.Raw, func() error { return away(m) })
}

// stays says why a manifest is left alone that a tag, or the list of referrers, says
// to hang on an artifact, or "". Whoever can push chooses what these name, also what
// no scan has seen yet. Only what says itself that it is about the artifact, or what
// a tag of signatures names alone and is nothing else, is taken away.
func (a acts) stays(ctx context.Context, reg Registry, repository, artifact, reference string, m registry.Manifest) (string, error) {
	known, err := a.store.Known(ctx, repository, m.Digest)
	if err != nil {
		return "", err
	}
	if known {
		return "is an artifact of its own", nil
	}
	var image v1.Manifest // an index has its subject in the same place
	if json.Unmarshal(m.Raw, &image) == nil && image.Subject != nil && image.Subject.Digest.String() == artifact {
		return "", nil
	}
	if reference == m.Digest {
		return "does not say that it is about the artifact", nil
	}
	images, odd := verify.Images(verify.Subject{Repository: repository}, m.Digest, m)
	only := len(odd.Problems) == 0 && (len(images) > 0 || onlySignatures(m))
	for _, digest := range images {
		one, err := reg.Manifest(ctx, repository, digest)
		switch {
		case errors.Is(err, registry.ErrNotFound):
		case unreadable(err):
			only = false
		case err != nil:
			return "", err
		default:
			only = only && onlySignatures(one)
		}
	}
	if !only {
		return "holds more than signatures", nil
	}
	tags, err := a.store.TagsAt(ctx, repository, m.Digest)
	if err != nil {
		return "", err
	}
	own := []string{verify.Tag(artifact, inventory.Legacy), verify.Tag(artifact, inventory.LegacyAtt)}
	if at := slices.IndexFunc(tags, func(tag string) bool { return !slices.Contains(own, tag) }); at >= 0 {
		return "the tag " + tags[at] + " names, too", nil
	}
	return "", nil
}

// maxEvidence bounds one layer that is kept, in bytes.
const maxEvidence = 100 << 20

// keepLayers puts what a signature's manifest holds into the vault: it may be
// newer than the last scan. What cannot be read any more cannot be kept.
func (a acts) keepLayers(ctx context.Context, reg Registry, repository string, m registry.Manifest) error {
	// Verifiers also look into the manifests of an index.
	images, _ := verify.Images(verify.Subject{Repository: repository}, m.Digest, m)
	for _, digest := range images {
		image, err := reg.Manifest(ctx, repository, digest)
		if errors.Is(err, registry.ErrNotFound) || errors.Is(err, registry.ErrTooLarge) || errors.Is(err, registry.ErrDigest) || errors.Is(err, registry.ErrMalformed) {
			continue
		}
		if err != nil {
			return err
		}
		if err := a.do(ctx, "evidence", repository+"@"+digest, image.Raw, func() error { return nil }); err != nil {
			return err
		}
		if err := a.keepImage(ctx, reg, repository, image); err != nil {
			return err
		}
	}
	return a.keepImage(ctx, reg, repository, m)
}

// keepImage puts the layers of one image manifest into the vault.
func (a acts) keepImage(ctx context.Context, reg Registry, repository string, m registry.Manifest) error {
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
