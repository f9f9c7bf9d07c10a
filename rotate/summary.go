package rotate

import (
	"fmt"
	"net/url"
	"slices"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

// Summary returns the payload of what is signed for an item of the plan whose
// own words are not signed again. It is a function of the plan, of which digest
// is the digest, and of the item alone: whoever resumes looks for the same.
func (p Plan) Summary(digest string, i Item) ([]byte, error) {
	s := inventory.Summary{Artifact: inventory.Artifact{Repository: i.Repository, Digest: i.Digest}, Verifier: p.Verifier, Time: p.MadeAt, Plan: digest, About: p.Incident}
	for _, g := range i.Signatures {
		if g.Proves {
			s.Inputs = append(s.Inputs, inventory.SummaryInput{Digest: g.Content, Signer: g.Signer, Verdict: string(g.Verdict), Why: g.Why, Bound: g.Bound})
		}
	}
	return s.Payload()
}

// checkVerifier names who verified where the plan does not: the new signer.
func (p *Plan) checkVerifier() error {
	if p.NewSigner == (signer.Identity{}) {
		p.Verifier = ""
		return nil
	}
	if p.Verifier == "" {
		p.Verifier = "urn:reseal:verifier:" + p.NewSigner.ID()
	}
	if u, err := url.Parse(p.Verifier); err != nil || !u.IsAbs() {
		return fmt.Errorf("verifier %q: expected a URI, as in https://example.com/signing-recovery", p.Verifier)
	}
	return nil
}

// madeFor returns the key of the statement for which a plan made a signature on
// an artifact: its own, or that of the attestation which it summarises.
func madeFor(g inventory.Signature, a inventory.Artifact, ever []inventory.Signature, p trust.Policy) (string, error) {
	if g.PredicateType != inventory.SummaryPredicate || p.Payload == nil {
		return g.StatementKey(), nil
	}
	payload, err := p.Payload(g)
	if err != nil {
		return "", fmt.Errorf("the summary that a plan made of %s: %w", a.Ref(), err)
	}
	digests := inventory.Summarises(payload, a)
	at := slices.IndexFunc(ever, func(o inventory.Signature) bool {
		return inventory.IsProvenance(o.PredicateType) && slices.Contains(digests, o.Content)
	})
	if at < 0 {
		return g.StatementKey(), nil
	}
	return ever[at].StatementKey(), nil
}
