package drill

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

// Predicate types of the scenario's claims.
const (
	provenance = "https://slsa.dev/provenance/v1"
	sbom       = "https://spdx.dev/Document"
	vex        = "https://openvex.dev/ns/v0.2.0"
)

// builderID is what the provenance of an honest build says.
const builderID = "https://ci.example/builder"

// When things happen, before now.
const (
	day           = 24 * time.Hour
	historyStarts = 60 * day
	historyEnds   = 20 * day
	preparedAgo   = 7 * day
	theftAgo      = 2 * time.Hour
	attackAfter   = 10 * time.Minute // of the theft, and between the attacker's acts
	skew          = 5 * time.Minute
)

// The groups of the scenario.
const (
	groupRekor    = "rekor-proven"
	groupTSA      = "tsa-proven"
	groupVouched  = "vouched"
	groupUnproven = "proofless"
	groupIndex    = "multi-arch"
	groupSBOM     = "with SBOM"
	groupSignedBy = "good image + rogue signature"
	groupVEX      = "good image + rogue VEX"
	groupRogue    = "rogue image"
	groupBackDate = "rogue, back-dated"
	groupNewTag   = "rogue, new tag in a known repository"
)

// groups lists the groups in the order in which they are shown.
func groups() []string {
	return []string{groupRekor, groupTSA, groupVouched, groupIndex, groupSBOM, groupUnproven,
		groupSignedBy, groupVEX, groupRogue, groupBackDate, groupNewTag}
}

// artifact is an image of the scenario, with what is true of it.
type artifact struct {
	group    string
	seed     string
	repo     string // without the registry
	tag      string
	format   inventory.Format // Legacy or Bundle: how it was signed and who reads it
	signed   time.Time
	deployed bool
	good     bool // made by the organisation
	proven   bool // and something proves that: it has to be signed again
	rogue    bool // made by the attacker
	hasSBOM  bool
	vex      map[string]any // the attacker's claim about it

	ref name.Digest
}

// String names the image as a person would, by a tag it had.
func (a *artifact) String() string { return a.repo + ":" + a.tag }

// sbom is what its SBOM says.
func (a *artifact) sbom() map[string]any {
	return map[string]any{
		"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "dataLicense": "CC0-1.0", "name": a.String(),
		"documentNamespace": "https://sbom.example/" + a.seed, "packages": []any{},
	}
}

// sign signs the image in the format that the image's consumer reads. A legacy image
// must never get a bundle: with any bundle on it, cosign no longer looks at
// its ".sig".
func (a *artifact) sign(ctx context.Context, by *sandbox.Actor, p sandbox.Proof) error {
	if a.format == inventory.Legacy {
		return by.SignLegacy(ctx, a.ref, p)
	}
	return by.SignBundle(ctx, a.ref, p)
}

// attest makes a claim about the image, in the same format.
func (a *artifact) attest(ctx context.Context, by *sandbox.Actor, predicateType string, predicate any, p sandbox.Proof) error {
	if a.format == inventory.Legacy {
		return by.AttestLegacy(ctx, a.ref, predicateType, predicate, p)
	}
	return by.AttestBundle(ctx, a.ref, predicateType, predicate, p)
}

// scenario is the supply chain of the drill and the truth about it.
type scenario struct {
	world        *sandbox.World
	dirs         dirs
	repositories []string
	artifacts    []*artifact
	late         []*artifact // signed by the attacker after the recovery

	prepared, theft, firstRogue time.Time

	release, standby, builder *sandbox.Actor
	approvers                 []*sandbox.Actor
	consumers                 []rotate.Consumer
}

func newScenario(w *sandbox.World, d dirs, images int, now time.Time) (*scenario, error) {
	s := &scenario{world: w, dirs: d, repositories: []string{"shop/web", "shop/api", "shop/worker", "infra/gateway"},
		prepared: now.Add(-preparedAgo), theft: now.Add(-theftAgo).Truncate(time.Second)}
	s.firstRogue = s.theft.Add(attackAfter)
	actors := []struct {
		name string
		into **sandbox.Actor
	}{{"release", &s.release}, {"release-standby", &s.standby}, {"builder", &s.builder}}
	var err error
	for _, a := range actors {
		if *a.into, err = w.NewActor(a.name); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"ana", "ben", "chloe"} {
		a, err := w.NewActor(name)
		if err != nil {
			return nil, err
		}
		s.approvers = append(s.approvers, a)
	}
	for _, c := range []rotate.Consumer{{Name: "cluster", Reads: inventory.Legacy}, {Name: "ci", Reads: inventory.Bundle}} {
		c.Anchor = filepath.Join(d.anchors, c.Name+".pub")
		if err := os.WriteFile(c.Anchor, s.release.PublicKeyPEM(), 0o644); err != nil {
			return nil, err
		}
		s.consumers = append(s.consumers, c)
	}
	s.cast(images, now)
	return s, nil
}

// cast hands out the parts: what each image is, where, and since when.
func (s *scenario) cast(images int, now time.Time) {
	step := (historyStarts - historyEnds) / time.Duration(images)
	for n, group := range parts(images) {
		a := &artifact{
			group: group, seed: fmt.Sprintf("good-%d", n), good: true, proven: group != groupUnproven,
			// Pairs share a repository, so that each has both formats.
			repo: s.repositories[n/2%len(s.repositories)], tag: fmt.Sprintf("1.%d.0", n),
			format: inventory.Legacy, hasSBOM: group == groupSBOM,
			signed: now.Add(-historyStarts + time.Duration(n)*step),
		}
		if n%2 == 1 {
			a.format = inventory.Bundle
		}
		switch group {
		case groupSignedBy:
			a.format, a.deployed = inventory.Legacy, true
		case groupVEX:
			a.format, a.deployed = inventory.Bundle, true
			a.vex = map[string]any{
				"@context": vex, "@id": "https://security.example/vex/1", "author": "security", "version": 1,
				"statements": []any{map[string]any{"vulnerability": map[string]any{"name": "CVE-2026-0001"}, "status": "not_affected",
					"justification": "vulnerable_code_not_in_execute_path"}},
			}
		case groupUnproven:
		default:
			a.deployed = n%3 != 2
		}
		s.artifacts = append(s.artifacts, a)
	}
	for n, a := range []*artifact{
		{group: groupRogue, repo: "shop/api", tag: "stable", format: inventory.Bundle},
		{group: groupBackDate, repo: "shop/web", tag: "1.0.1", format: inventory.Legacy},
		{group: groupNewTag, repo: "infra/gateway", tag: "hotfix", format: inventory.Legacy},
	} {
		a.seed, a.rogue, a.signed = fmt.Sprintf("rogue-%d", n), true, s.firstRogue.Add(time.Duration(n)*attackAfter)
		s.artifacts = append(s.artifacts, a)
	}
}

// parts returns the group of every good image. The groups grow in proportion;
// the two that the attacker meddles with are one image each.
func parts(images int) []string {
	shares := []struct {
		group string
		of22  int
	}{{groupRekor, 6}, {groupTSA, 4}, {groupVouched, 4}, {groupUnproven, 2}, {groupIndex, 2}, {groupSBOM, 4}}
	rest := images - 2
	out := make([]string, 0, images)
	total := 0
	for _, sh := range shares {
		total += sh.of22
		// Even cuts keep every group half legacy, half bundles.
		for end := total * rest / 22 / 2 * 2; len(out) < end; {
			out = append(out, sh.group)
		}
	}
	for len(out) < rest {
		out = append(out, groupRekor)
	}
	if rest%2 == 1 {
		return append(out, groupVEX, groupSignedBy)
	}
	return append(out, groupSignedBy, groupVEX)
}

// history makes and signs the good images, oldest first.
func (s *scenario) history(ctx context.Context) (first, last time.Time, err error) {
	for n, a := range s.artifacts {
		if !a.good {
			continue
		}
		s.world.Clock().Rewind(a.signed)
		if n == 0 {
			first = a.signed
		}
		last = a.signed
		push := s.world.PushImage
		if a.group == groupIndex {
			push = s.world.PushIndex
		}
		if a.ref, err = push(ctx, a.repo, a.tag, a.seed); err != nil {
			return first, last, err
		}
		if err := a.sign(ctx, s.release, a.proof(n)); err != nil {
			return first, last, err
		}
		switch a.group {
		case groupVouched:
			err = a.attest(ctx, s.builder, provenance, map[string]any{
				"buildDefinition": map[string]any{"buildType": "https://ci.example/build/v1", "externalParameters": map[string]any{"repository": "https://git.example/" + a.repo}},
				"runDetails":      map[string]any{"builder": map[string]any{"id": builderID}},
			}, sandbox.NoProof)
		case groupSBOM:
			err = a.attest(ctx, s.release, sbom, a.sbom(), a.proof(n))
		}
		if err != nil {
			return first, last, err
		}
	}
	return first, last, s.moveTags(ctx)
}

// moveTags gives an image of the repository the tag that the attacker will
// move: a list of names does not show that.
func (s *scenario) moveTags(ctx context.Context) error {
	for _, r := range s.artifacts {
		if r.group != groupRogue {
			continue
		}
		for _, a := range s.artifacts {
			if a.good && a.repo == r.repo && a.group != groupIndex {
				_, err := s.world.PushImage(ctx, a.repo, r.tag, a.seed)
				return err
			}
		}
	}
	return nil
}

// proof is what shows when a good image was signed.
func (a *artifact) proof(n int) sandbox.Proof {
	switch a.group {
	case groupVouched, groupUnproven:
		return sandbox.NoProof
	case groupTSA:
		if a.format == inventory.Bundle && n%4 == 1 {
			return sandbox.RekorV2 | sandbox.Timestamp
		}
		return sandbox.Timestamp
	case groupIndex:
		return sandbox.RekorV1 | sandbox.Timestamp
	}
	return sandbox.RekorV1
}

// attack does what the thief does with the stolen key.
func (s *scenario) attack(ctx context.Context, note func(at time.Time, text string)) error {
	clock := s.world.Clock()
	at, long := s.firstRogue, s.theft.Add(-30*day)
	for _, a := range s.artifacts {
		if !a.rogue {
			continue
		}
		at = a.signed
		clock.Rewind(at)
		var err error
		if a.ref, err = s.world.PushImage(ctx, a.repo, a.tag, a.seed); err != nil {
			return err
		}
		switch {
		case a.group == groupRogue:
			// In the log for all to see: that is how it is noticed.
			err = a.sign(ctx, s.release, sandbox.RekorV1)
			note(at, fmt.Sprintf("the attacker signs an image of their own and moves the tag %s to it", a))
		case a.group == groupBackDate:
			err = s.release.SignLegacyForged(ctx, a.ref, long)
			note(at, fmt.Sprintf("the attacker signs an image of their own, %s, with a forged log entry of %s", a, long.UTC().Format(time.DateOnly)))
		default:
			err = a.sign(ctx, s.release, sandbox.NoProof)
			note(at, fmt.Sprintf("the attacker signs an image of their own under a new tag, %s", a))
		}
		if err != nil {
			return err
		}
	}
	for _, a := range s.artifacts {
		var err error
		switch a.group {
		case groupSignedBy:
			at = at.Add(attackAfter)
			clock.Rewind(at)
			err = a.sign(ctx, s.release, sandbox.NoProof)
			note(at, fmt.Sprintf("the attacker adds a signature to the good image %s", a))
		case groupVEX:
			at = at.Add(attackAfter)
			clock.Rewind(at)
			err = a.attest(ctx, s.release, vex, a.vex, sandbox.RekorV1)
			note(at, fmt.Sprintf("the attacker attaches a false VEX statement to the good image %s", a))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// strikeAgain is the thief signing the next image, in each format: a list of
// known rogue digests is no containment.
func (s *scenario) strikeAgain(ctx context.Context) ([]*artifact, error) {
	var out []*artifact
	for _, c := range s.consumers {
		a := &artifact{group: groupRogue, seed: "afterthought-" + c.Name, repo: "shop/api", tag: "next-" + c.Name, format: c.Reads,
			rogue: true, signed: s.world.Clock().Now()}
		var err error
		if a.ref, err = s.world.PushImage(ctx, a.repo, a.tag, a.seed); err != nil {
			return nil, err
		}
		if err := a.sign(ctx, s.release, sandbox.NoProof); err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// setup is what the responder is given.
func (s *scenario) setup(ctx context.Context) (Setup, error) {
	root, err := s.world.TrustedRootJSON()
	if err != nil {
		return Setup{}, err
	}
	out := Setup{
		Registry: s.world.Registry(), TrustedRoot: root, Quorum: 2, Proposer: s.approvers[2].Name(),
		Consumers: slices.Clone(s.consumers), Skew: skew, Now: s.world.Clock().Now,
		TSAURL: s.world.TSAURL(), TUFDir: s.world.TUFDir(), TUFURL: s.world.TUFURL(),
		Signers: []SignerSetup{
			{s.release.Name(), signer.Active, s.release.PublicKeyPEM()},
			{s.standby.Name(), signer.Standby, s.standby.PublicKeyPEM()},
			{s.builder.Name(), signer.Active, s.builder.PublicKeyPEM()},
		},
		Password: []byte(rand.Text()),
	}
	for _, r := range s.repositories {
		out.Repositories = append(out.Repositories, s.world.Registry()+"/"+r)
	}
	if out.NewSignerKey, err = s.standby.EncryptedKey(out.Password); err != nil {
		return out, err
	}
	for _, a := range s.approvers {
		p := ApproverSetup{Name: a.Name(), PublicKeyPEM: a.PublicKeyPEM(), Password: []byte(rand.Text())}
		if p.EncryptedKey, err = a.EncryptedKey(p.Password); err != nil {
			return out, err
		}
		out.Approvers = append(out.Approvers, p)
	}
	builder, err := signer.OfKey(s.builder.PublicKey())
	if err != nil {
		return out, err
	}
	out.Vouchers = []trust.Voucher{{Signer: builder, PredicateType: provenance, Content: map[string]string{"runDetails.builder.id": builderID}}}
	leaked, err := signer.OfKey(s.release.PublicKey())
	if err != nil {
		return out, err
	}
	out.Incident = rotate.Incident{
		Incident: trust.Incident{ID: "DRILL-1", Class: trust.SigningKey, Signers: []signer.Identity{leaked}, From: &s.theft},
		Title:    "The release key was copied from a build machine", Severity: "critical", Rogue: map[string]string{},
	}
	for _, a := range s.artifacts {
		if a.group == groupRogue {
			// What will be reported is known by its digest, so the image has to be
			// made now. Without tag and signature nobody finds it before its time.
			if a.ref, err = s.world.PushImage(ctx, a.repo, "", a.seed); err != nil {
				return out, err
			}
			out.Incident.Rogue[a.ref.DigestStr()] = "no build of ours made it: reported by the security team, who watch the log"
		}
		if a.deployed {
			out.Deployed = append(out.Deployed, a.ref.Name())
		}
	}
	return out, nil
}

func (s *scenario) count(which func(*artifact) bool) int {
	n := 0
	for _, a := range s.artifacts {
		if which(a) {
			n++
		}
	}
	return n
}
