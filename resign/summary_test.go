package resign

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/verify"
)

const slsa = "https://slsa.dev/provenance/v1"

// summarise replaces the items about provenance by one about a summary of it.
func (k *kase) summarise(t testing.TB, ref name.Digest) []byte {
	t.Helper()
	s := inventory.Summary{Artifact: inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr()},
		Verifier: "https://example.com/recovery", Time: time.Now(), Plan: inventory.Digest([]byte(plan)), About: "INC-1"}
	var rest []Item
	one := Item{Formats: []inventory.Format{}}
	for _, i := range k.items {
		if i.PredicateType != slsa {
			rest = append(rest, i)
			continue
		}
		formats := append(one.Formats, i.Formats...)
		one = i
		one.Formats = formats
		s.Inputs = append(s.Inputs, inventory.SummaryInput{Digest: i.SourceContent, Signer: k.oldID(t).ID(), Verdict: "proven-before", Why: "existed before"})
	}
	var err error
	one.Summary, err = s.Payload()
	must(t, err)
	one.Decided, one.PredicateType, one.StatementKey = one.StatementKey, inventory.SummaryPredicate, inventory.SummaryPredicate+"#"+inventory.Digest(one.Summary)
	k.items = append(rest, one)
	for n := range k.items {
		k.items[n].Seq = int64(n + 1)
	}
	return one.Summary
}

// TestResignSummary has provenance that is not signed again, but summarised.
// cosign's library verifies what was written, as an image signature where it is
// a bundle.
func TestResignSummary(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k := b.newCase(t)
	ref := k.push(t, "app")
	must(t, errors.Join(k.old.SignLegacy(t.Context(), ref, sandbox.NoProof), k.old.SignBundle(t.Context(), ref, sandbox.NoProof),
		k.old.AttestLegacy(t.Context(), ref, slsa, map[string]any{"builder": "x"}, sandbox.NoProof),
		k.old.AttestBundle(t.Context(), ref, slsa, map[string]any{"builder": "x"}, sandbox.NoProof)))
	k.plan(t, ref)
	summary := k.summarise(t, ref)
	before := k.found(t, ref)
	wantEqual(t, "result", k.run(t, k.client), Result{Planned: 4, Signed: 4})
	for _, f := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt, inventory.Bundle} {
		cosignAccepts(t, b, ref, k.next.PublicKey(), f, false)
		cosignAccepts(t, b, ref, k.old.PublicKey(), f, false)
	}
	after := k.found(t, ref)
	k.keptAll(t, before, after)
	key := inventory.SummaryPredicate + "#" + inventory.Digest(summary)
	wantEqual(t, "what the new signer says", count(after, k.next.id), map[string]int{"legacy " + inventory.SignPredicate: 1, "bundle " + inventory.SignPredicate: 1,
		"legacy-att " + key: 1, "bundle " + key: 1})
	for _, f := range after {
		if f.PredicateType != inventory.SummaryPredicate {
			continue
		}
		payload, err := verify.Payload(f.Format, f.Content)
		must(t, err)
		wantEqual(t, "payload", string(payload), string(summary))
	}
	signed := k.next.signed
	wantEqual(t, "again", k.run(t, k.client), Result{Planned: 4, Already: 4})
	wantEqual(t, "signed again", k.next.signed, signed)
	k.checkJournal(t)
	wantIntents(t, k)
}

func TestResignRefusesAnotherSummary(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	ref := k.push(t, "app")
	must(t, k.old.AttestLegacy(t.Context(), ref, slsa, map[string]any{"builder": "x"}, sandbox.NoProof))
	k.plan(t, ref)
	k.summarise(t, ref)
	k.items[0].Summary = []byte(strings.Replace(string(k.items[0].Summary), "PASSED", "FAILED", 1))
	e := k.engine(k.client)
	var why string
	e.Failed = func(f Failure) { why = f.Why }
	got, err := e.Run(t.Context(), list{items: k.items})
	must(t, err)
	wantEqual(t, "result", got, Result{Planned: 1, Failed: 1})
	if !strings.Contains(why, "not the one that was approved") || k.next.signed > 0 {
		t.Errorf("%q, %d signatures", why, k.next.signed)
	}
}
