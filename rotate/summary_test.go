package rotate

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

// envelope is a statement as an ".att" layer holds it.
func envelope(payload []byte) []byte {
	return fmt.Appendf(nil, `{"payloadType":"application/vnd.in-toto+json","payload":%q,"signatures":[{"sig":"AAAA"}]}`, base64.StdEncoding.EncodeToString(payload))
}

// attested puts provenance by the old signer on an artifact that has a proven
// image signature.
func (k *kase) attested(t testing.TB, n int, proven bool) {
	t.Helper()
	g := claim(k.old, inventory.LegacyAtt, slsa, 70+n, proven)
	g.Content = digest(80 + n)
	k.set(before)
	k.put(t, repo, n, g, signed(k.old, inventory.Legacy, true))
	k.set(today)
}

// made keeps a signature that a plan made for an item.
func (k *kase) made(t testing.TB, plan string, i Item, by person, predicateType string, payload []byte) inventory.Signature {
	t.Helper()
	g := claim(by, inventory.LegacyAtt, predicateType, 0, false)
	g.Repository, g.Digest, g.PayloadDigest = i.Repository, i.Digest, inventory.Digest(payload)
	g.ID = inventory.SignatureID(g.Repository, g.Digest, g.Format, by.id, g.PayloadDigest, nil)
	k.update(t, func(tx *store.Tx) (err error) {
		if g.Content, err = tx.PutVault(t.Context(), envelope(payload)); err != nil {
			return err
		}
		return errors.Join(tx.PutSignature(t.Context(), g),
			tx.PutReissue(t.Context(), store.Reissue{Plan: plan, Seq: i.Seq, Format: g.Format, State: "done", Content: g.Content, SignatureID: g.ID}))
	})
	return g
}

func TestPlanSummary(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.attested(t, 20, true)
	k.attested(t, 21, false)
	k.open(t, leak, k.old.id)
	plan, totals := k.plan(t, func(p *Plan) { p.Verifier = "https://example.com/recovery" })
	wantEqual(t, "summaries", totals.Summaries, int64(1))
	wantEqual(t, "unproven", k.item(t, plan, 21, slsa).Decision, trust.Hold)
	i := k.item(t, plan, 20, slsa)
	wantEqual(t, "proven", []any{i.Decision, i.Summary}, []any{trust.Resign, true})
	p, _, err := LoadPlan(t.Context(), k.Store, plan)
	must(t, err)
	payload, err := p.Summary(plan, i)
	must(t, err)
	again, err := p.Summary(plan, k.item(t, plan, 20, slsa))
	must(t, err)
	wantEqual(t, "whoever makes it again", string(again), string(payload))
	wantEqual(t, "names", inventory.Summarises(payload, inventory.Artifact{Repository: repo, Digest: digest(20)}), []string{digest(100)})
	var st struct {
		Predicate struct {
			Verifier     struct{ ID string }
			TimeVerified any
			Policy       struct{ Digest map[string]string }
		}
	}
	must(t, json.Unmarshal(payload, &st))
	wantEqual(t, "verifier, time, policy", fmt.Sprint(st.Predicate), fmt.Sprintf("{{https://example.com/recovery} %s {map[sha256:%s]}}", today.Format("2006-01-02T15:04:05Z"), trimAlgorithm(plan)))
	if !strings.Contains(string(payload), `"verdict":"proven-before"`) || !strings.Contains(string(payload), `"authority":{"role":"tsa","id":"tsa"}`) {
		t.Errorf("it does not say on what evidence: %s", payload)
	}
	k.wantSame(t, plan, i)

	k.made(t, plan, i, k.next, inventory.SummaryPredicate, payload)
	next, _ := k.plan(t, nil)
	wantEqual(t, "summarised", k.item(t, next, 20, slsa).Decision, trust.None)
	k.wantSame(t, plan, i) // a run that resumes decides as the first did
	p, _, err = LoadPlan(t.Context(), k.Store, next)
	must(t, err)
	wantEqual(t, "verifier where nobody names one", p.Verifier, "urn:reseal:verifier:"+k.next.id.ID())
	bad := k.draft()
	bad.Verifier = "recovery"
	if _, _, _, err := MakePlan(t.Context(), k.Store, by, bad); err == nil || !strings.Contains(err.Error(), "expected a URI") {
		t.Errorf("got %v", err)
	}
}

func TestAttackOnSummaries(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		test func(t *testing.T, k *kase, plan string, i Item, payload []byte) // the summary is made
	}{
		{"what it summarises is no longer proven", func(t *testing.T, k *kase, plan string, made Item, payload []byte) {
			_, err := Amend(t.Context(), k.Store, by, leak, Amendment{At: today, From: earlier(20)})
			must(t, err)
			recall, _ := k.plan(t, nil)
			i := k.item(t, recall, 20, slsa)
			if !i.Recall || i.Decision != trust.Hold || i.Summary || !strings.Contains(i.Reason, plan) {
				t.Errorf("%s, recall %v, summary %v: %s", i.Decision, i.Recall, i.Summary, i.Reason)
			}
			// What is to be pruned for it is the summary.
			policy, err := k.may(t, recall).Current(t.Context(), k.Store)
			must(t, err)
			a := inventory.Artifact{Repository: repo, Digest: digest(20)}
			sigs, err := k.SignaturesOf(t.Context(), a, "")
			must(t, err)
			now, err := decideOne(t.Context(), k.Store, a, sigs, policy)
			must(t, err)
			at := slices.IndexFunc(now, func(o Item) bool { return o.Statement == made.Statement })
			wantEqual(t, "recalled", now[at].recall, []string{inventory.SignatureID(repo, digest(20), inventory.LegacyAtt, k.next.id, inventory.Digest(payload), nil)})
		}},
		{"and it was signed again by the next signer since", func(t *testing.T, k *kase, plan string, i Item, payload []byte) {
			last := k.standby(t, "last")
			k.put(t, repo, 20, signed(k.next, inventory.Legacy, false)) // the image was signed again, too
			k.update(t, func(tx *store.Tx) error { return tx.PutSigner(t.Context(), k.next.record(signer.Active)) })
			second, _, err := k.tryRotate(t, turn, k.next, last, nil)
			must(t, err)
			again := k.item(t, second, 20, inventory.SummaryPredicate)
			wantEqual(t, "the summary is a claim of ours", []any{again.Decision, again.Summary}, []any{trust.Resign, false})
			k.made(t, second, again, last, inventory.SummaryPredicate, payload)
			_, err = Amend(t.Context(), k.Store, by, leak, Amendment{At: today, From: earlier(20)})
			must(t, err)
			k.update(t, func(tx *store.Tx) error { // only the last one's is left
				return tx.KeepSignatures(t.Context(), repo, digest(20), "", inventory.Formats(), []string{
					inventory.SignatureID(repo, digest(20), inventory.LegacyAtt, last.id, inventory.Digest(payload), nil)})
			})
			recall, _ := k.plan(t, func(p *Plan) { p.NewSigner = last.id })
			if i := k.item(t, recall, 20, slsa); !i.Recall || i.Decision != trust.Hold || !strings.Contains(i.Reason, second) {
				t.Errorf("%s, recall %v: %s", i.Decision, i.Recall, i.Reason)
			}
		}},
		{"it is taken away", func(t *testing.T, k *kase, plan string, i Item, payload []byte) {
			k.update(t, func(tx *store.Tx) error {
				return tx.KeepSignatures(t.Context(), repo, digest(20), "", []inventory.Format{inventory.LegacyAtt}, []string{
					inventory.SignatureID(repo, digest(20), inventory.LegacyAtt, k.old.id, digest(90)+slsa, nil)})
			})
			next, _ := k.plan(t, nil)
			wantEqual(t, "it is made again", k.item(t, next, 20, slsa).Decision, trust.Resign)
		}},
		{"the thief makes one that names rogue provenance", func(t *testing.T, k *kase, plan string, _ Item, _ []byte) {
			forged, err := inventory.Summary{Artifact: inventory.Artifact{Repository: repo, Digest: digest(21)}, Verifier: "urn:x", Plan: plan,
				Inputs: []inventory.SummaryInput{{Digest: digest(101)}}}.Payload()
			must(t, err)
			g := claim(k.old, inventory.LegacyAtt, inventory.SummaryPredicate, 0, false)
			g.PayloadDigest = inventory.Digest(forged)
			k.update(t, func(tx *store.Tx) error {
				g.Content, err = tx.PutVault(t.Context(), envelope(forged))
				return err
			})
			k.put(t, repo, 21, g)
			next, _ := k.plan(t, nil)
			for _, what := range []string{slsa, inventory.SummaryPredicate} {
				wantEqual(t, what, k.item(t, next, 21, what).Decision, trust.Hold)
			}
		}},
		{"the image turns out rogue", func(t *testing.T, k *kase, _ string, _ Item, _ []byte) {
			_, err := MarkRogue(t.Context(), k.Store, by, leak, map[string]string{digest(20): rogueFor})
			must(t, err)
			next, _ := k.plan(t, nil)
			i := k.item(t, next, 20, slsa)
			wantEqual(t, "provenance", []any{i.Decision, i.Recall}, []any{trust.Deny, true})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := newCase(t)
			k.attested(t, 20, true)
			k.attested(t, 21, false)
			k.open(t, leak, k.old.id)
			plan, _ := k.plan(t, nil)
			i := k.item(t, plan, 20, slsa)
			p, _, err := LoadPlan(t.Context(), k.Store, plan)
			must(t, err)
			payload, err := p.Summary(plan, i)
			must(t, err)
			k.made(t, plan, i, k.next, inventory.SummaryPredicate, payload)
			tc.test(t, k, plan, i, payload)
		})
	}
}
