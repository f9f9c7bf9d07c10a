package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/verify"
)

// Verified is whether an image may be believed, and why.
type Verified struct {
	Subject    string              `json:"subject"`
	Accepted   bool                `json:"accepted"`
	Why        string              `json:"why"`
	Signatures []VerifiedSignature `json:"signatures"`
}

// VerifiedSignature is one signature on a verified image.
type VerifiedSignature struct {
	Signer        string           `json:"signer"`
	Name          string           `json:"name,omitempty"`
	State         string           `json:"state"`
	Format        inventory.Format `json:"format"`
	PredicateType string           `json:"predicate_type"`
	Verdict       trust.Verdict    `json:"verdict"`
	Time          *time.Time       `json:"time"` // earliest verified proof of its time
	TimeAuthority string           `json:"time_authority"`
	Why           string           `json:"why"`
	Counts        bool             `json:"counts"` // it makes the image accepted
}

// VerifyOptions say how to verify.
type VerifyOptions struct {
	Skew time.Duration // between honest clocks
	TUF  TUFSource     // whose revocations are honoured beside the inventory's incidents
}

// Verify says whether an image, as it is in the registry now, may be believed:
// it carries an image signature by a trusted signer that no incident touches,
// or one by a signer of an incident that is proven to be older, and it is not
// known to be rogue. Every incident in the inventory is honoured, and every
// revocation that was published, with exact times.
func (a *App) Verify(ctx context.Context, image string, o VerifyOptions) (Verified, error) {
	if o.Skew < 0 {
		return Verified{}, errors.New("clocks cannot differ by less than nothing: --skew is negative")
	}
	ref, err := name.ParseReference(image)
	if err != nil {
		return Verified{}, fmt.Errorf("image %q: %w", image, err)
	}
	incidents, err := rotate.Incidents(ctx, a.store)
	if err != nil {
		return Verified{}, err
	}
	statements, err := a.revoked(ctx, o.TUF)
	if err != nil {
		return Verified{}, err
	}
	rules, rogue := rotate.Revoked(statements)
	rules = append(rules, rotate.Rules(incidents)...)
	maps.Copy(rogue, rotate.Rogue(incidents))
	if why, denied := rogue[ref.Identifier()]; denied { // whether it is still there or not
		return Verified{Subject: ref.Name(), Why: "the digest is denied: " + why, Signatures: []VerifiedSignature{}}, nil
	}
	m, err := a.options.Registry.Manifest(ctx, ref.Context().Name(), ref.Identifier())
	if err != nil {
		return Verified{}, err
	}
	sub := verify.Subject{Repository: ref.Context().Name(), Digest: m.Digest}
	out := Verified{Subject: sub.Repository + "@" + sub.Digest, Signatures: []VerifiedSignature{}}
	v, err := a.verifier(ctx)
	if err != nil {
		return out, err
	}
	signers, err := a.store.Records(ctx)
	if err != nil {
		return out, err
	}
	got := verify.Fetcher{Registry: a.options.Registry, Verifier: v}.Signatures(ctx, sub, verify.Everywhere)
	for _, f := range got.Found {
		j := trust.Judge(f.Signature, rules, o.Skew)
		s := VerifiedSignature{Signer: f.Signer.ID(), State: "observed", Format: f.Format, PredicateType: f.PredicateType,
			Verdict: j.Verdict, Why: j.Reason}
		enrolled, trusted := false, false
		for _, r := range signers {
			if r.Identity == f.Signer {
				s.Name, s.State = r.Name, string(r.State)
				enrolled, trusted = r.Name != "", r.State.Trusted()
			}
		}
		if !enrolled && j.Verdict == trust.Unaffected {
			s.Why = "the signer is not enrolled: nobody here trusts it"
		}
		for _, b := range f.Bounds {
			if t := b.Time; b.Verified && b.Side == inventory.Upper && (s.Time == nil || t.Before(*s.Time)) {
				s.Time, s.TimeAuthority = &t, string(b.Authority.Role)+":"+b.Authority.ID
			}
		}
		s.Counts = f.PredicateType == inventory.SignPredicate && enrolled &&
			(j.Verdict == trust.Unaffected && trusted || j.Verdict.Proven())
		out.Signatures = append(out.Signatures, s)
		out.Accepted = out.Accepted || s.Counts
	}
	switch why, denied := rogue[m.Digest]; {
	case denied:
		out.Accepted, out.Why = false, "the digest is denied: "+why
	case out.Accepted:
		out.Why = "a signature counts"
	case len(got.Problems) > 0:
		return out, fmt.Errorf("%s: signatures cannot be read: %s", out.Subject, got.Problems[0].Problem)
	case len(out.Signatures) == 0:
		out.Why = "it carries no signature"
	default:
		out.Why = "no signature on it can be believed"
	}
	return out, nil
}
