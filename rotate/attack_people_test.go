package rotate

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	sshsig "github.com/sigstore/rekor/pkg/pki/ssh"
	"golang.org/x/crypto/ssh"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
	"github.com/reseal/reseal/signer"
)

const issuer = "https://oidc.example"

var (
	fulcio = inventory.Authority{Role: inventory.RoleCA, ID: "fulcio"}
	rekor  = inventory.Authority{Role: inventory.RoleLog, ID: "rekor"}
)

// fakeBundle is what fakeJudge takes for a Sigstore bundle.
type fakeBundle struct {
	Issuer, Subject string
	Content         string         // digest of what is signed
	Side            inventory.Side // of the one bound, upper if it says nothing
	Unproven        bool           // the bound did not verify
}

// fakeJudge verifies fakeBundles.
type fakeJudge struct{}

func (fakeJudge) Blob(bundle, content []byte) (inventory.Signature, error) {
	var b fakeBundle
	if err := json.Unmarshal(bundle, &b); err != nil {
		return inventory.Signature{}, err
	}
	g := inventory.Signature{Signer: signer.Identity{Kind: signer.Keyless, Issuer: b.Issuer, Subject: b.Subject},
		Certificate: &signer.Certificate{}, Requires: []inventory.Authority{fulcio}}
	if b.Content != inventory.Digest(content) {
		g.Why = "it does not verify over this content"
		return g, nil
	}
	g.Verified = true
	g.Bounds = []inventory.Bound{{Side: cmp.Or(b.Side, inventory.Upper), Time: today, Authority: rekor, Verified: !b.Unproven}}
	return g, nil
}

func keyless(t testing.TB, subject string, content []byte, change func(*fakeBundle)) string {
	t.Helper()
	b := fakeBundle{Issuer: issuer, Subject: subject, Content: inventory.Digest(content)}
	if change != nil {
		change(&b)
	}
	out, err := json.Marshal(b)
	must(t, err)
	return string(out)
}

// sshKey is a key as ssh-keygen keeps it: the line of its .pub file and the
// private file.
type sshKey struct {
	line, private string
	signer        ssh.Signer
}

func newSSH(t testing.TB, key crypto.PrivateKey) sshKey {
	t.Helper()
	s, err := ssh.NewSignerFromKey(key)
	must(t, err)
	block, err := ssh.MarshalPrivateKey(key, "")
	must(t, err)
	return sshKey{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey()))), string(pem.EncodeToMemory(block)), s}
}

func newEd25519(t testing.TB) sshKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	return newSSH(t, key)
}

func (k sshKey) sign(t testing.TB, content []byte) string {
	t.Helper()
	out, err := sshsig.Sign(k.private, bytes.NewReader(content))
	must(t, err)
	return string(out)
}

// signAs signs content for a namespace with an algorithm, as the format says
// and the library's own Sign does not offer.
func (k sshKey) signAs(t testing.TB, content []byte, namespace, algorithm string) string {
	t.Helper()
	sum := sha512.Sum512(content)
	message := append([]byte("SSHSIG"), ssh.Marshal(sshsig.MessageWrapper{Namespace: namespace, HashAlgorithm: "sha512", Hash: string(sum[:])})...)
	made, err := k.signer.(ssh.AlgorithmSigner).SignWithAlgorithm(rand.Reader, message, algorithm)
	must(t, err)
	w := sshsig.WrappedSig{Version: 1, PublicKey: string(k.signer.PublicKey().Marshal()), Namespace: namespace, HashAlgorithm: "sha512", Signature: string(ssh.Marshal(made))}
	copy(w.MagicHeader[:], "SSHSIG")
	return string(pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: ssh.Marshal(w)}))
}

// enrolled puts another approver set in force by hand and makes a plan under
// it, which alice signs.
func (k *kase) enrolled(t testing.TB, change func(*Approvers)) string {
	t.Helper()
	k.enrol(t, change)
	plan, _ := k.plan(t, nil)
	return plan
}

func (k *kase) enrol(t testing.TB, change func(*Approvers)) {
	t.Helper()
	a, err := LoadApprovers(t.Context(), k.Store)
	must(t, err)
	change(&a)
	must(t, a.Check())
	k.update(t, func(tx *store.Tx) error { return putApprovers(t.Context(), tx, "approvers.changed", a) })
}

// with gives bob one more credential.
func with(c Credential) func(*Approvers) {
	return func(a *Approvers) { a.People[1].Credentials = append(a.People[1].Credentials, c) }
}

// only gives bob one credential instead of his own.
func only(c Credential) func(*Approvers) {
	return func(a *Approvers) { a.People[1].Credentials = []Credential{c} }
}

var bobKeyless = Credential{Issuer: issuer, Subject: "bob@acme.example"}

// by bob, with a signature made by sign over what he has to sign.
func (k *kase) byBob(t testing.TB, digest string, sign func(request []byte) string) Approval {
	t.Helper()
	kind, request := k.request(t, digest, "bob")
	return Approval{Kind: kind, Digest: digest, Approver: "bob", Signature: sign(request), At: today}
}

// declare opens an incident about something other than the leaked key.
func (k *kase) declare(t testing.TB, i trust.Incident) {
	t.Helper()
	i.From = &leaked
	for _, id := range i.Signers {
		if id.Kind == signer.Key {
			k.update(t, func(tx *store.Tx) error {
				return tx.PutSigner(t.Context(), signer.Record{Identity: id, Name: i.ID, State: signer.Active})
			})
		}
	}
	must(t, OpenIncident(t.Context(), k.Store, by, Incident{Incident: i, Title: "another", Severity: "high", OpenedBy: proposerName, OpenedAt: today}))
}

func (k *kase) wantMissing(t testing.TB, plan string, says ...string) {
	t.Helper()
	_, err := k.tryPermit(t, plan)
	if !errors.Is(err, ErrNeedsApproval) {
		t.Fatalf("got %v, want it to need approval", err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("got %q, want it to say %q", err, s)
		}
	}
}

func attacksOnApprovals() []attack {
	return []attack{
		{"proposer approves", func(t *testing.T, k *kase, plan string) {
			wantError(t, k.tryApprove(t, k.approval(t, k.alice, plan)), nil, "alice", "proposed")
		}},
		{"approver is not enrolled", func(t *testing.T, k *kase, plan string) {
			wantError(t, k.tryApprove(t, k.approval(t, k.stranger, plan)), nil, "stranger", "not an enrolled")
		}},
		{"stranger approves in the name of an approver", func(t *testing.T, k *kase, plan string) {
			impostor := k.stranger
			impostor.name = "bob"
			wantError(t, k.tryApprove(t, k.approval(t, impostor, plan)), nil, "does not verify")
		}},
		{"one person approves twice", func(t *testing.T, k *kase, plan string) {
			k.approve(t, plan, k.bob, k.bob)
			_, err := k.tryPermit(t, plan)
			wantError(t, err, ErrNeedsApproval, "1 of 2", "carol, dave")
		}},
		{"one person's approval is filed under two names", func(t *testing.T, k *kase, plan string) {
			k.approve(t, plan, k.bob)
			k.edit(t, `INSERT INTO documents (kind, id, version, body) SELECT kind, $1, 1, body FROM documents WHERE kind = 'approval' AND id = $2`, plan+" carol", plan+" bob")
			_, err := k.tryPermit(t, plan)
			wantError(t, err, ErrNeedsApproval, "1 of 2")
		}},
		{"one person's approval is renamed", func(t *testing.T, k *kase, plan string) {
			k.approve(t, plan, k.bob)
			k.edit(t, `INSERT INTO documents (kind, id, version, body)
				SELECT kind, $1, 1, replace(body, '"bob"', '"carol"') FROM documents WHERE kind = 'approval' AND id = $2`, plan+" carol", plan+" bob")
			_, err := k.tryPermit(t, plan)
			wantError(t, err, nil, "carol", "does not verify")
		}},
		{"two approvers have one key", func(t *testing.T, k *kase, _ string) {
			a := k.approvers(2)
			a.People[2].Credentials[0].PublicKey = a.People[1].Credentials[0].PublicKey
			wantError(t, a.Check(), nil, "bob and carol have the same key")
		}},
		{"two approvers have one key, written differently", func(t *testing.T, k *kase, _ string) {
			a := k.approvers(2)
			a.People[2].Credentials[0].PublicKey = "comment before\n" + strings.ReplaceAll(a.People[1].Credentials[0].PublicKey, "\n", "\r\n")
			wantError(t, a.Check(), nil, "bob and carol have the same key")
		}},
		{"approval copied from another plan", func(t *testing.T, k *kase, plan string) {
			other, _ := k.plan(t, func(p *Plan) { p.Limits.MaxArtifacts = 1 })
			a := k.approval(t, k.bob, other)
			must(t, k.tryApprove(t, a))
			a.Digest = plan
			wantError(t, k.tryApprove(t, a), nil, "does not verify")
			// Filed by hand.
			for _, body := range []string{"body", "replace(body, $2, $3)"} {
				k.edit(t, `INSERT INTO documents (kind, id, version, body) SELECT kind, $1, (SELECT COUNT(*) FROM documents), `+body+` FROM documents
					WHERE kind = 'approval' AND id = $2 || ' bob' AND $3 <> ''`, plan+" bob", other, plan)
				if _, err := k.tryPermit(t, plan); err == nil {
					t.Fatal("permitted")
				}
			}
		}},
		{"approval signature over other bytes", func(t *testing.T, k *kase, plan string) {
			_, request := k.request(t, plan, "bob")
			for what, signature := range map[string]string{
				"the plan's digest alone": k.bob.sign(t, []byte(plan)),
				"another incident":        k.bob.sign(t, []byte(strings.Replace(string(request), leak, "INC-2", 1))),
				"another approver":        k.bob.sign(t, []byte(strings.Replace(string(request), "bob", "carol", 1))),
				"a newline more":          k.bob.sign(t, append(request, '\n')),
				"nothing":                 "",
				"no base64":               "%%%",
				"noise":                   base64.StdEncoding.EncodeToString([]byte("noise")),
			} {
				if err := k.tryApprove(t, Approval{Kind: PlanKind, Digest: plan, Approver: "bob", Signature: signature, At: today}); err == nil {
					t.Errorf("%s: accepted", what)
				}
			}
		}},
		{"approver's key is under an incident", func(t *testing.T, k *kase, plan string) {
			k.update(t, func(tx *store.Tx) error { return tx.PutSigner(t.Context(), k.bob.record(signer.Active)) })
			k.open(t, "INC-2", k.bob.id)
			wantError(t, k.tryApprove(t, k.approval(t, k.bob, plan)), nil, "bob", "under an incident")
		}},
		{"approver's key is under an incident since the approval", func(t *testing.T, k *kase, plan string) {
			k.approve(t, plan, k.bob, k.carol)
			k.permit(t, plan)
			k.update(t, func(tx *store.Tx) error { return tx.PutSigner(t.Context(), k.bob.record(signer.Active)) })
			k.open(t, "INC-2", k.bob.id)
			_, err := k.tryPermit(t, plan)
			wantError(t, err, nil, "bob", "under an incident")
		}},
		{"approver set changed after the plan", func(t *testing.T, k *kase, plan string) {
			k.approve(t, plan, k.bob, k.carol)
			k.edit(t, `UPDATE documents SET body = replace(body, '"quorum":2', '"quorum":1') WHERE kind = 'approvers'`)
			_, err := k.tryPermit(t, plan)
			wantError(t, err, ErrNeedsApproval, "approver set changed")
		}},
		{"approvers enrolled a second time", func(t *testing.T, k *kase, _ string) {
			wantError(t, Enroll(t.Context(), k.Store, by, k.approvers(1)), nil, "enrolled already")
		}},
		{"quorum not met", func(t *testing.T, k *kase, plan string) {
			_, err := k.tryPermit(t, plan)
			wantError(t, err, ErrNeedsApproval, "0 of 2", "bob, carol, dave")
			k.approve(t, plan, k.carol)
			_, err = k.tryPermit(t, plan)
			wantError(t, err, ErrNeedsApproval, "1 of 2", "bob, dave")
			if strings.Contains(err.Error(), "alice") {
				t.Errorf("the proposer is named as able to approve: %v", err)
			}
			k.approve(t, plan, k.dave)
			wantEqual(t, "approvers", k.permit(t, plan).Approvers(), []string{"carol", "dave"})
		}},
		{"proposer approves under another name of theirs", func(t *testing.T, k *kase, _ string) {
			k.enrol(t, func(a *Approvers) { a.People[1].Aliases = []string{"bob@laptop"} })
			plan, _ := k.unsigned(t, func(p *Plan) { p.Proposer = " Bob@Laptop" })
			wantError(t, k.tryApprove(t, k.approval(t, k.bob, plan)), nil, "bob", "proposed")
		}},
		{"proposer approves with another credential", func(t *testing.T, k *kase, _ string) {
			second := newEd25519(t)
			plan := k.enrolled(t, func(a *Approvers) {
				a.People[0].Credentials = append(a.People[0].Credentials, Credential{SSH: second.line})
			})
			kind, request := k.request(t, plan, "alice")
			wantError(t, k.tryApprove(t, Approval{Kind: kind, Digest: plan, Approver: "alice", Signature: second.sign(t, request), At: today}), nil, "alice", "proposed")
			k.approve(t, plan, k.bob)
			k.wantMissing(t, plan, "1 of 2")
		}},
		{"proposer makes up a name and approves", func(t *testing.T, k *kase, _ string) {
			plan, _ := k.unsigned(t, func(p *Plan) { p.Proposer = "nobody" })
			k.approve(t, plan, k.bob, k.carol) // one of them made the plan
			k.wantMissing(t, plan, "2 of 3", "alice, dave", "the proposal is not signed", `2 approvals are enough once "nobody" signs it`)
			k.approve(t, plan, k.alice)
			wantEqual(t, "approvers", k.permit(t, plan).Approvers(), []string{"alice", "bob", "carol"})
		}},
		{"unsigned proposal in an enrolled name", func(t *testing.T, k *kase, _ string) {
			plan, _ := k.unsigned(t, func(p *Plan) { p.Homes = []string{repo} })
			k.approve(t, plan, k.bob, k.carol)
			k.wantMissing(t, plan, "2 of 3", "dave")
			must(t, k.tryApprove(t, k.proposal(t, k.alice, plan)))
			k.permit(t, plan)
		}},
		{"somebody else signs as the proposer", func(t *testing.T, k *kase, _ string) {
			plan, _ := k.unsigned(t, func(p *Plan) { p.Homes = []string{repo} })
			wantError(t, k.tryApprove(t, k.proposal(t, k.bob, plan)), nil, "bob", "alice")
			forged := k.proposal(t, k.bob, plan)
			forged.Approver = "alice"
			wantError(t, k.tryApprove(t, forged), nil, "does not verify")
		}},
		{"proposer's key is under an incident", func(t *testing.T, k *kase, plan string) {
			k.approve(t, plan, k.bob, k.carol)
			k.permit(t, plan)
			k.declare(t, trust.Incident{ID: "INC-2", Class: trust.SigningKey, Signers: []signer.Identity{k.alice.id}})
			k.wantMissing(t, plan, "2 of 3", "under an incident")
		}},
		{"an approval is filed as the proposal", func(t *testing.T, k *kase, _ string) {
			plan, _ := k.unsigned(t, func(p *Plan) { p.Proposer = "nobody" })
			k.approve(t, plan, k.bob, k.carol)
			k.edit(t, `INSERT INTO documents (kind, id, version, body) SELECT kind, $1, 1, replace(body, '}', ',"proposal":true}') FROM documents
				WHERE kind = 'approval' AND id = $2`, plan+" proposal", plan+" bob")
			k.wantMissing(t, plan, "2 of 3")
		}},
		{"a proposal is filed as an approval", func(t *testing.T, k *kase, plan string) {
			k.approve(t, plan, k.bob)
			k.edit(t, `INSERT INTO documents (kind, id, version, body) SELECT kind, $1, 1, replace(body, ',"proposal":true', '') FROM documents
				WHERE kind = 'approval' AND id = $2`, plan+" alice", plan+" proposal")
			k.wantMissing(t, plan, "1 of 2", "alice proposed")
		}},
		{"who only proposes approves", func(t *testing.T, k *kase, _ string) {
			plan := k.enrolled(t, func(a *Approvers) { a.People[1].ProposesOnly = true })
			wantError(t, k.tryApprove(t, k.approval(t, k.bob, plan)), nil, "bob", "propose only")
			k.approve(t, plan, k.carol)
			k.wantMissing(t, plan, "1 of 2", "still able to approve: dave")
		}},
		{"a role is missing", func(t *testing.T, k *kase, _ string) {
			plan := k.enrolled(t, func(a *Approvers) {
				a.Roles, a.People[3].Roles = map[string]int{"security": 1}, []string{"security"}
			})
			k.approve(t, plan, k.bob, k.carol)
			k.wantMissing(t, plan, "1 of role security", "dave")
			k.approve(t, plan, k.dave)
			k.permit(t, plan)
		}},
		{"the only one of a role may be the proposer", func(t *testing.T, k *kase, _ string) {
			k.enrol(t, func(a *Approvers) {
				a.Roles, a.People[3].Roles = map[string]int{"security": 1}, []string{"security"}
			})
			plan, _ := k.unsigned(t, func(p *Plan) { p.Proposer = "nobody" })
			k.approve(t, plan, k.alice, k.bob, k.carol, k.dave)
			k.wantMissing(t, plan, "1 of role security")
		}},
		{"a graver incident needs more people", func(t *testing.T, k *kase, _ string) {
			plan := k.enrolled(t, func(a *Approvers) { a.Severity = map[string]int{"high": 3} })
			k.approve(t, plan, k.bob, k.carol)
			k.wantMissing(t, plan, "2 of 3")
			k.approve(t, plan, k.dave)
			k.permit(t, plan)
		}},
		{"the incident turns out graver after the plan", func(t *testing.T, k *kase, _ string) {
			plan := k.enrolled(t, func(a *Approvers) { a.Severity = map[string]int{"critical": 3} })
			k.approve(t, plan, k.bob, k.carol)
			k.permit(t, plan)
			k.edit(t, `UPDATE documents SET body = replace(body, '"severity":"high"', '"severity":"critical"') WHERE kind = 'incident'`)
			k.wantMissing(t, plan, "2 of 3")
			k.edit(t, `UPDATE documents SET body = replace(body, '"severity":"critical"', '"severity":"low"') WHERE kind = 'incident'`)
			k.permit(t, plan)
		}},
		{"a severity nobody knows asks for the most", func(t *testing.T, k *kase, _ string) {
			k.edit(t, `UPDATE documents SET body = replace(body, '"severity":"high"', '"severity":"lowest"') WHERE kind = 'incident'`)
			plan := k.enrolled(t, func(a *Approvers) { a.Severity = map[string]int{"critical": 3} })
			k.approve(t, plan, k.bob, k.carol)
			k.wantMissing(t, plan, "2 of 3")
		}},
		{"expired", func(t *testing.T, k *kase, plan string) {
			k.approve(t, plan, k.bob, k.carol)
			k.set(ends.Add(-time.Second))
			k.permit(t, plan)
			k.set(ends)
			k.wantMissing(t, plan, "expired at "+ends.Format(time.RFC3339))
			late := k.approval(t, k.dave, plan)
			late.At = ends
			wantError(t, k.tryApprove(t, late), ErrNeedsApproval, "expired")
		}},
		{"a plan that never expires", func(t *testing.T, k *kase, _ string) {
			set := k.approvers(2)
			wantError(t, ballot{kind: PlanKind, digest: digest(9), approvers: set.Digest()}.checkStanding(set, today), ErrNeedsApproval, "no end")
		}},
		{"approval signed for a later end", func(t *testing.T, k *kase, plan string) {
			a := k.approval(t, k.bob, plan)
			request, err := ApprovalRequest(PlanKind, plan, leak, "bob", ends.Add(time.Hour))
			must(t, err)
			a.Signature = k.bob.sign(t, request)
			wantError(t, k.tryApprove(t, a), nil, "does not verify")
		}},
		{"a plan of a withdrawn incident", func(t *testing.T, k *kase, plan string) {
			k.approve(t, plan, k.bob, k.carol)
			k.update(t, func(tx *store.Tx) error { return withdrawIncident(t.Context(), tx, k.Store, leak, digest(9)) })
			k.wantMissing(t, plan, "withdrawn")
		}},
		{"approval of a motion with the digest of a plan", func(t *testing.T, k *kase, plan string) {
			a := k.approval(t, k.bob, plan)
			for _, kind := range []string{WithdrawalKind, ApproversKind, ""} {
				request, err := ApprovalRequest(kind, plan, leak, "bob", ends)
				must(t, err)
				a.Kind, a.Signature = kind, k.bob.sign(t, request)
				if err := k.tryApprove(t, a); err == nil {
					t.Errorf("%q: accepted", kind)
				}
				a.Kind = PlanKind
				wantError(t, k.tryApprove(t, a), nil, "does not verify")
				k.edit(t, `INSERT INTO documents (kind, id, version, body) SELECT 'approval', $1, 1 + (SELECT COUNT(*) FROM documents), $2`, plan+" bob",
					fmt.Sprintf(`{"kind":%q,"digest":%q,"approver":"bob","signature":%q}`, kind, plan, a.Signature))
				k.wantMissing(t, plan, "0 of 2", "is of the "+kind)
			}
		}},
		{"an approval that cannot be read", func(t *testing.T, k *kase, plan string) {
			k.approve(t, plan, k.bob, k.carol)
			k.edit(t, `INSERT INTO documents (kind, id, version, body) SELECT 'approval', $1, 1, 'no JSON'`, plan+" aaa")
			wantEqual(t, "approvers", k.permit(t, plan).Approvers(), []string{"bob", "carol"})
		}},
	}
}

func attacksOnCredentials() []attack {
	return []attack{
		{"one person approves with two keys", func(t *testing.T, k *kase, _ string) {
			second := newEd25519(t)
			plan := k.enrolled(t, with(Credential{SSH: second.line}))
			k.approve(t, plan, k.bob)
			must(t, k.tryApprove(t, k.byBob(t, plan, func(r []byte) string { return second.sign(t, r) })))
			k.edit(t, `INSERT INTO documents (kind, id, version, body) SELECT kind, $1, 1, body FROM documents WHERE kind = 'approval' AND id = $2 AND version = 1`, plan+" bob2", plan+" bob")
			k.wantMissing(t, plan, "1 of 2")
		}},
		{"one key of two people, as PEM and as SSH", func(t *testing.T, k *kase, _ string) {
			a := k.approvers(2)
			a.People[2].Credentials = []Credential{{SSH: newSSH(t, k.bob.key).line}}
			wantError(t, a.Check(), nil, "bob and carol have the same key")
		}},
		{"approver under an incident signs with another key", func(t *testing.T, k *kase, _ string) {
			second := newEd25519(t)
			plan := k.enrolled(t, with(Credential{SSH: second.line}))
			k.approve(t, plan, k.bob, k.carol)
			k.declare(t, trust.Incident{ID: "INC-2", Class: trust.SigningKey, Signers: []signer.Identity{k.bob.id}})
			k.wantMissing(t, plan, "1 of 2", "under an incident", "still able to approve: bob, dave")
			must(t, k.tryApprove(t, k.byBob(t, plan, func(r []byte) string { return second.sign(t, r) })))
			wantEqual(t, "approvers", k.permit(t, plan).Approvers(), []string{"bob", "carol"})
		}},
		{"key under an incident is enrolled as an SSH key", func(t *testing.T, k *kase, _ string) {
			plan := k.enrolled(t, only(Credential{SSH: newSSH(t, k.bob.key).line}))
			k.declare(t, trust.Incident{ID: "INC-2", Class: trust.SigningKey, Signers: []signer.Identity{k.bob.id}})
			wantError(t, k.tryApprove(t, k.byBob(t, plan, func(r []byte) string { return newSSH(t, k.bob.key).sign(t, r) })), nil, "under an incident (INC-2)")
		}},
		{"SSH signature by another key", func(t *testing.T, k *kase, _ string) {
			own, other := newEd25519(t), newEd25519(t)
			plan := k.enrolled(t, with(Credential{SSH: own.line}))
			wantError(t, k.tryApprove(t, k.byBob(t, plan, func(r []byte) string { return other.sign(t, r) })), nil, "not enrolled for bob")
			// It names bob's key and is made by another.
			wantError(t, k.tryApprove(t, k.byBob(t, plan, func(r []byte) string {
				made, err := sshsig.Decode([]byte(other.sign(t, r)))
				must(t, err)
				body, err := made.CanonicalValue()
				must(t, err)
				block, _ := pem.Decode(body)
				var w sshsig.WrappedSig
				must(t, ssh.Unmarshal(block.Bytes, &w))
				w.PublicKey = string(own.signer.PublicKey().Marshal())
				return string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: ssh.Marshal(w)}))
			})), nil, "did not verify")
		}},
		{"SSH signature of another namespace", func(t *testing.T, k *kase, _ string) {
			own := newEd25519(t)
			plan := k.enrolled(t, only(Credential{SSH: own.line}))
			for _, namespace := range []string{"git", "", "file "} {
				wantError(t, k.tryApprove(t, k.byBob(t, plan, func(r []byte) string { return own.signAs(t, r, namespace, "") })), nil, "namespace", "-n file")
			}
			// It is signed for another namespace and says that it was for "file".
			wantError(t, k.tryApprove(t, k.byBob(t, plan, func(r []byte) string {
				block, _ := pem.Decode([]byte(own.signAs(t, r, "git", "")))
				var w sshsig.WrappedSig
				must(t, ssh.Unmarshal(block.Bytes, &w))
				w.Namespace = "file"
				return string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: ssh.Marshal(w)}))
			})), nil, "did not verify")
			must(t, k.tryApprove(t, k.byBob(t, plan, func(r []byte) string { return own.signAs(t, r, "file", "") })))
		}},
		{"SSH signature over other bytes", func(t *testing.T, k *kase, _ string) {
			own := newEd25519(t)
			plan := k.enrolled(t, only(Credential{SSH: own.line}))
			wantError(t, k.tryApprove(t, k.byBob(t, plan, func(r []byte) string { return own.sign(t, append(r, '\n')) })), nil, "did not verify")
		}},
		{"SSH signature that is none", func(t *testing.T, k *kase, _ string) {
			own := newEd25519(t)
			plan := k.enrolled(t, only(Credential{SSH: own.line}))
			for _, text := range []string{"-----BEGIN", own.private, "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n",
				own.sign(t, []byte("one")) + own.sign(t, []byte("two"))} {
				if err := k.tryApprove(t, k.byBob(t, plan, func([]byte) string { return text })); err == nil {
					t.Errorf("%s: accepted", text)
				} else if strings.Contains(err.Error(), "PRIVATE") {
					t.Errorf("the error shows what was given: %v", err)
				}
			}
		}},
		{"SSH signature with SHA-1", func(t *testing.T, k *kase, _ string) {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			must(t, err)
			own := newSSH(t, key)
			plan := k.enrolled(t, only(Credential{SSH: own.line}))
			wantError(t, k.tryApprove(t, k.byBob(t, plan, func(r []byte) string { return own.signAs(t, r, "file", ssh.KeyAlgoRSA) })), nil, "SHA-1")
			must(t, k.tryApprove(t, k.byBob(t, plan, func(r []byte) string { return own.signAs(t, r, "file", ssh.KeyAlgoRSASHA512) })))
		}},
		{"security key that nobody touched", func(t *testing.T, k *kase, _ string) {
			own := newSecurityKey(t)
			plan := k.enrolled(t, only(Credential{SSH: own.line}))
			wantError(t, k.tryApprove(t, k.byBob(t, plan, func(r []byte) string { return own.sign(t, r, 0) })), nil, "user presence")
			must(t, k.tryApprove(t, k.byBob(t, plan, func(r []byte) string { return own.sign(t, r, 1) })))
		}},
		{"keys too weak or of no use", func(t *testing.T, k *kase, _ string) {
			weak, err := rsa.GenerateKey(rand.Reader, 1024)
			must(t, err)
			der, err := x509.MarshalPKIXPublicKey(weak.Public())
			must(t, err)
			p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
			must(t, err)
			small, err := x509.MarshalPKIXPublicKey(p224.Public())
			must(t, err)
			good := newEd25519(t)
			other := newEd25519(t)
			cert := &ssh.Certificate{Key: good.signer.PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
			must(t, cert.SignCert(rand.Reader, other.signer))
			for name, c := range map[string]Credential{
				"RSA of 1024 bits":         {PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))},
				"RSA of 1024 bits, as SSH": {SSH: newSSH(t, weak).line},
				"P-224":                    {PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: small}))},
				"SSH certificate":          {SSH: string(ssh.MarshalAuthorizedKey(cert))},
				"SSH key with options":     {SSH: `expiry-time="20200101" ` + good.line},
				"SSH authority":            {SSH: "cert-authority " + good.line},
				"two SSH keys":             {SSH: good.line + "\n" + other.line},
				"SSH private key":          {SSH: good.private},
				"PEM in place of SSH":      {SSH: string(k.bob.pem)},
				"SSH in place of PEM":      {PublicKey: good.line},
				"nothing":                  {},
			} {
				a := k.approvers(2)
				only(c)(&a)
				if err := a.Check(); err == nil {
					t.Errorf("%s: accepted", name)
				} else if strings.Contains(err.Error(), "PRIVATE") {
					t.Errorf("%s: the error shows what was given: %v", name, err)
				}
			}
		}},
		{"bundle of another identity", func(t *testing.T, k *kase, _ string) {
			plan := k.enrolled(t, only(bobKeyless))
			for name, change := range map[string]func(*fakeBundle){
				"subject":                 func(b *fakeBundle) { b.Subject = "mallory@acme.example" },
				"subject's case":          func(b *fakeBundle) { b.Subject = "Bob@acme.example" },
				"issuer":                  func(b *fakeBundle) { b.Issuer = "https://oidc.attacker.example" },
				"of carol":                func(b *fakeBundle) { b.Subject = "carol@acme.example" },
				"content":                 func(b *fakeBundle) { b.Content = digest(1) },
				"bound":                   func(b *fakeBundle) { b.Side = inventory.Lower },
				"bound that verifies not": func(b *fakeBundle) { b.Unproven = true },
			} {
				if err := k.tryApprove(t, k.byBob(t, plan, func(r []byte) string { return keyless(t, bobKeyless.Subject, r, change) })); err == nil {
					t.Errorf("another %s: accepted", name)
				}
			}
			a := k.byBob(t, plan, func(r []byte) string { return keyless(t, bobKeyless.Subject, r, nil) })
			wantError(t, Approve(t.Context(), k.Store, nil, by, a), nil, "trusted root")
			must(t, k.tryApprove(t, a))
			k.approve(t, plan, k.carol)
			k.permit(t, plan)
			_, err := Permit(t.Context(), k.Store, nil, plan, today)
			wantError(t, err, ErrNeedsApproval, "1 of 2", "trusted root")
		}},
		{"bundle by somebody who has a key alone", func(t *testing.T, k *kase, plan string) {
			wantError(t, k.tryApprove(t, k.byBob(t, plan, func(r []byte) string { return keyless(t, bobKeyless.Subject, r, nil) })), nil, "not enrolled for bob")
		}},
		{"bundle under an incident", func(t *testing.T, k *kase, _ string) {
			plan := k.enrolled(t, only(bobKeyless))
			id, err := bobKeyless.Identity()
			must(t, err)
			must(t, k.tryApprove(t, k.byBob(t, plan, func(r []byte) string { return keyless(t, bobKeyless.Subject, r, nil) })))
			k.approve(t, plan, k.carol)
			k.permit(t, plan)
			for _, i := range []trust.Incident{
				{ID: "INC-issuer", Class: trust.OIDCIssuer, Selectors: []trust.Selector{{Issuer: issuer}}},
				{ID: "INC-identity", Class: trust.KeylessIdentity, Selectors: []trust.Selector{{Issuer: id.Issuer, Subject: id.Subject}}},
				{ID: "INC-workflow", Class: trust.CIWorkflow, Selectors: []trust.Selector{{Issuer: issuer, Workflow: "https://ci.example/build"}}},
				{ID: "INC-ca", Class: trust.FulcioCA, Authorities: []inventory.Authority{fulcio}},
				{ID: "INC-log", Class: trust.RekorLog, Authorities: []inventory.Authority{rekor}},
			} {
				k.declare(t, i)
				k.wantMissing(t, plan, "1 of 2", "bob")
				if err := k.tryApprove(t, k.byBob(t, plan, func(r []byte) string { return keyless(t, bobKeyless.Subject, r, nil) })); err == nil {
					t.Errorf("%s: accepted", i.ID)
				}
				k.update(t, func(tx *store.Tx) error { return withdrawIncident(t.Context(), tx, k.Store, i.ID, digest(9)) })
				k.permit(t, plan) // a false alarm no longer counts
			}
		}},
	}
}

// breaking is a break-glass of a plan with a signature by p.
func (k *kase) breaking(t testing.TB, p person, plan, reason string) BreakGlass {
	t.Helper()
	request, err := BreakGlassRequest(plan, leak, p.name, reason, ends)
	must(t, err)
	return BreakGlass{Plan: plan, By: p.name, Reason: reason, Signature: p.sign(t, request), At: today}
}

func (k *kase) tryBreak(t testing.TB, g BreakGlass) error {
	t.Helper()
	return Break(t.Context(), k.Store, fakeJudge{}, by, g)
}

const emergency = "customers are being attacked, nobody else answers"

func attacksOnBreakGlass() []attack {
	return []attack{
		{"break-glass without a reason", func(t *testing.T, k *kase, plan string) {
			for _, reason := range []string{"", "urgent", "         urgent        ", "ééééé"} {
				wantError(t, k.tryBreak(t, k.breaking(t, k.bob, plan, reason)), nil, "reason")
			}
			k.wantMissing(t, plan)
		}},
		{"break-glass with another reason than was signed", func(t *testing.T, k *kase, plan string) {
			g := k.breaking(t, k.bob, plan, emergency)
			g.Reason = "routine maintenance, approved by all"
			wantError(t, k.tryBreak(t, g), nil, "does not verify")
			must(t, k.tryBreak(t, k.breaking(t, k.bob, plan, emergency)))
			k.permit(t, plan)
			k.edit(t, `UPDATE documents SET body = replace(body, 'nobody else answers', 'all agreed to it') WHERE kind = 'break-glass'`)
			k.wantMissing(t, plan, "does not verify")
		}},
		{"break-glass by a stranger", func(t *testing.T, k *kase, plan string) {
			wantError(t, k.tryBreak(t, k.breaking(t, k.stranger, plan, emergency)), nil, "not an enrolled")
			g := k.breaking(t, k.stranger, plan, emergency)
			g.By = "bob"
			wantError(t, k.tryBreak(t, g), nil, "does not verify")
		}},
		{"break-glass by a person under an incident", func(t *testing.T, k *kase, plan string) {
			must(t, k.tryBreak(t, k.breaking(t, k.bob, plan, emergency)))
			k.permit(t, plan)
			k.declare(t, trust.Incident{ID: "INC-2", Class: trust.SigningKey, Signers: []signer.Identity{k.bob.id}})
			wantError(t, k.tryBreak(t, k.breaking(t, k.bob, plan, emergency)), nil, "under an incident")
			k.wantMissing(t, plan, "under an incident")
			must(t, k.tryBreak(t, k.breaking(t, k.carol, plan, emergency)))
			wantEqual(t, "who broke the glass", k.permit(t, plan).BreakGlass().By, "carol")
		}},
		{"break-glass for another plan", func(t *testing.T, k *kase, plan string) {
			other, _ := k.plan(t, func(p *Plan) { p.Limits.MaxArtifacts = 1 })
			g := k.breaking(t, k.bob, other, emergency)
			must(t, k.tryBreak(t, g))
			k.wantMissing(t, plan)
			g.Plan = plan
			wantError(t, k.tryBreak(t, g), nil, "does not verify")
			k.edit(t, `INSERT INTO documents (kind, id, version, body) SELECT kind, $1, 1, body FROM documents WHERE kind = 'break-glass'`, plan+" bob")
			k.wantMissing(t, plan, "is about plan "+other)
			k.permit(t, other)
		}},
		{"an approval is filed as a break-glass", func(t *testing.T, k *kase, plan string) {
			a := k.approval(t, k.bob, plan)
			wantError(t, k.tryBreak(t, BreakGlass{Plan: plan, By: "bob", Reason: emergency, Signature: a.Signature, At: today}), nil, "does not verify")
		}},
		{"a break-glass is filed as an approval", func(t *testing.T, k *kase, plan string) {
			a := k.approval(t, k.bob, plan)
			a.Signature = k.breaking(t, k.bob, plan, emergency).Signature
			wantError(t, k.tryApprove(t, a), nil, "does not verify")
		}},
		{"break-glass of an expired or edited plan", func(t *testing.T, k *kase, plan string) {
			must(t, k.tryBreak(t, k.breaking(t, k.bob, plan, emergency)))
			k.permit(t, plan)
			k.set(ends)
			k.wantMissing(t, plan, "expired")
			late := k.breaking(t, k.carol, plan, emergency)
			late.At = k.clock()
			wantError(t, k.tryBreak(t, late), ErrNeedsApproval, "expired")
			k.set(today)
			k.edit(t, `UPDATE plan_items SET body = replace(body, '"decision":"hold"', '"decision":"resign"')`)
			_, err := k.tryPermit(t, plan)
			wantError(t, err, nil, "was changed after it was made")
		}},
		{"break-glass under another approver set", func(t *testing.T, k *kase, plan string) {
			must(t, k.tryBreak(t, k.breaking(t, k.bob, plan, emergency)))
			k.enrol(t, func(a *Approvers) { a.Quorum = 1 })
			k.wantMissing(t, plan, "approver set changed")
		}},
		{"break-glass is forgotten when a quorum approves", func(t *testing.T, k *kase, plan string) {
			must(t, k.tryBreak(t, k.breaking(t, k.alice, plan, emergency))) // the proposer
			p := k.permit(t, plan)
			wantEqual(t, "approvers", p.Approvers(), []string{})
			wantEqual(t, "reason", p.BreakGlass().Reason, emergency)
			k.approve(t, plan, k.bob, k.carol)
			wantEqual(t, "who broke the glass", k.permit(t, plan).BreakGlass().By, "alice")
			k.declare(t, trust.Incident{ID: "INC-2", Class: trust.KMSKey, Signers: []signer.Identity{k.next.id}})
			k.declare(t, trust.Incident{ID: "INC-3", Class: trust.SigningKey, Signers: []signer.Identity{k.alice.id}})
			k.approve(t, plan, k.dave) // alice's proposal proves nothing any more
			wantEqual(t, "who broke the glass, though it counts no more", k.permit(t, plan).BreakGlass().By, "alice")
			all, err := BreakGlasses(t.Context(), k.Store, "")
			must(t, err)
			wantEqual(t, "times the glass was broken", len(all), 1)
			wantEqual(t, "journaled", slices.ContainsFunc(k.actions(t), func(a string) bool { return a == "plan.break-glass" }), true)
		}},
	}
}

func (k *kase) actions(t testing.TB) (out []string) {
	t.Helper()
	for _, e := range k.entries(t) {
		out = append(out, e.Action)
	}
	return out
}

// withdrawal and change are motions of alice's.
func withdrawal(of string) Motion {
	return Motion{Kind: WithdrawalKind, Subject: of, Proposer: proposerName, Reason: "the key never left the safe", MadeAt: today, ExpiresAt: today.Add(time.Hour)}
}

func (k *kase) change(t testing.TB, change func(*Approvers)) Motion {
	t.Helper()
	a, err := LoadApprovers(t.Context(), k.Store)
	must(t, err)
	a.People = slices.Clone(a.People)
	change(&a)
	return Motion{Kind: ApproversKind, Proposer: proposerName, Reason: "people come and go", MadeAt: today, ExpiresAt: today.Add(time.Hour), Approvers: &a}
}

// move makes a motion that alice signs.
func (k *kase) move(t testing.TB, m Motion) string {
	t.Helper()
	d, err := Move(t.Context(), k.Store, by, m)
	must(t, err)
	must(t, k.tryApprove(t, k.proposal(t, k.alice, d)))
	return d
}

func (k *kase) carry(t testing.TB, motion string) error {
	t.Helper()
	return Carry(t.Context(), k.Store, fakeJudge{}, by, motion, k.clock())
}

func attacksOnMotions() []attack {
	return []attack{
		{"approver set changed by one person", func(t *testing.T, k *kase, _ string) {
			m := k.move(t, k.change(t, func(a *Approvers) { a.Quorum = 1 }))
			wantError(t, k.carry(t, m), ErrNeedsApproval, "0 of 2")
			k.approve(t, m, k.bob)
			wantError(t, k.carry(t, m), ErrNeedsApproval, "1 of 2")
			wantError(t, k.tryApprove(t, k.approval(t, k.alice, m)), nil, "alice proposed")
			set, err := LoadApprovers(t.Context(), k.Store)
			must(t, err)
			wantEqual(t, "quorum in force", set.Quorum, 2)
			k.approve(t, m, k.carol)
			must(t, k.carry(t, m))
			set, err = LoadApprovers(t.Context(), k.Store)
			must(t, err)
			wantEqual(t, "quorum in force", set.Quorum, 1)
		}},
		{"new approvers approve their own enrolment", func(t *testing.T, k *kase, _ string) {
			m := k.move(t, k.change(t, func(a *Approvers) {
				a.People = append(a.People, Person{Name: "stranger", Credentials: []Credential{{PublicKey: string(k.stranger.pem)}}})
			}))
			wantError(t, k.tryApprove(t, k.approval(t, k.stranger, m)), nil, "not an enrolled")
		}},
		{"a change of the approvers needs the highest quorum", func(t *testing.T, k *kase, _ string) {
			k.enrol(t, func(a *Approvers) { a.Severity = map[string]int{"critical": 3} })
			m := k.move(t, k.change(t, func(a *Approvers) { a.Severity = nil }))
			k.approve(t, m, k.bob, k.carol)
			wantError(t, k.carry(t, m), ErrNeedsApproval, "2 of 3")
			k.approve(t, m, k.dave)
			must(t, k.carry(t, m))
		}},
		{"unsigned motion", func(t *testing.T, k *kase, _ string) {
			w := withdrawal(leak)
			w.Proposer = "nobody"
			m, err := Move(t.Context(), k.Store, by, w)
			must(t, err)
			k.approve(t, m, k.bob, k.carol)
			wantError(t, k.carry(t, m), ErrNeedsApproval, "2 of 3", "not signed")
			k.approve(t, m, k.dave)
			must(t, k.carry(t, m))
		}},
		{"incident withdrawn by one person", func(t *testing.T, k *kase, _ string) {
			m := k.move(t, withdrawal(leak))
			k.approve(t, m, k.bob)
			wantError(t, k.carry(t, m), ErrNeedsApproval, "1 of 2")
			i, err := LoadIncident(t.Context(), k.Store, leak)
			must(t, err)
			wantEqual(t, "state", i.State, Open)
			k.approve(t, m, k.carol)
			must(t, k.carry(t, m))
			i, err = LoadIncident(t.Context(), k.Store, leak)
			must(t, err)
			wantEqual(t, "state", i.State, Withdrawn)
			wantEqual(t, "journaled", slices.Contains(k.actions(t), "motion.carried") && slices.Contains(k.actions(t), "incident.withdrawn"), true)
		}},
		{"a grave incident is withdrawn by few", func(t *testing.T, k *kase, _ string) {
			k.enrol(t, func(a *Approvers) { a.Severity = map[string]int{"high": 3} })
			m := k.move(t, withdrawal(leak))
			k.approve(t, m, k.bob, k.carol)
			wantError(t, k.carry(t, m), ErrNeedsApproval, "2 of 3")
		}},
		{"those under an incident withdraw it", func(t *testing.T, k *kase, _ string) {
			k.declare(t, trust.Incident{ID: "INC-2", Class: trust.SigningKey, Signers: []signer.Identity{k.bob.id, k.carol.id}})
			m := k.move(t, withdrawal("INC-2"))
			wantError(t, k.tryApprove(t, k.approval(t, k.bob, m)), nil, "under an incident")
			k.approve(t, m, k.dave)
			wantError(t, k.carry(t, m), ErrNeedsApproval, "1 of 2", "still able to approve: nobody")
		}},
		{"motion carried twice", func(t *testing.T, k *kase, _ string) {
			first := k.move(t, k.change(t, func(a *Approvers) { a.Quorum = 1 }))
			k.approve(t, first, k.bob, k.carol)
			must(t, k.carry(t, first))
			wantError(t, k.carry(t, first), nil, "carried already")
			// Back to the old set: the approvals would count once more.
			back := k.move(t, k.change(t, func(a *Approvers) { a.Quorum = 2 }))
			k.approve(t, back, k.bob)
			must(t, k.carry(t, back))
			wantError(t, k.carry(t, first), nil, "carried already")
			_, err := Move(t.Context(), k.Store, by, k.change(t, func(a *Approvers) { a.Quorum = 1 }))
			wantError(t, err, nil, "made already")
			all, err := Motions(t.Context(), k.Store)
			must(t, err)
			wantEqual(t, "motions", len(all), 2)
			for _, m := range all {
				if m.Carried == nil || len(m.ApprovedBy) == 0 || !slices.Equal(m.Carried.Approvers, m.ApprovedBy) {
					t.Errorf("motion %s: %+v", m.Digest, m)
				}
			}
		}},
		{"incident withdrawn twice", func(t *testing.T, k *kase, _ string) {
			m := k.move(t, withdrawal(leak))
			w := withdrawal(leak)
			w.Reason = "once more"
			again := k.move(t, w)
			k.approve(t, m, k.bob, k.carol)
			k.approve(t, again, k.bob, k.carol)
			must(t, k.carry(t, m))
			wantError(t, k.carry(t, m), nil, "carried already")
			wantError(t, k.carry(t, again), nil, "withdrawn already")
			_, err := Move(t.Context(), k.Store, by, withdrawal(leak))
			wantError(t, err, nil, "withdrawn already")
		}},
		{"motion of the old approvers", func(t *testing.T, k *kase, _ string) {
			old := k.move(t, withdrawal(leak))
			k.approve(t, old, k.bob, k.carol)
			m := k.move(t, k.change(t, func(a *Approvers) { a.People = slices.Delete(a.People, 1, 2) })) // bob leaves
			k.approve(t, m, k.bob, k.carol)
			must(t, k.carry(t, m))
			wantError(t, k.carry(t, old), ErrNeedsApproval, "approver set changed")
			wantError(t, k.tryApprove(t, k.approval(t, k.dave, old)), ErrNeedsApproval, "approver set changed")
		}},
		{"plan of the old approvers", func(t *testing.T, k *kase, plan string) {
			k.approve(t, plan, k.bob, k.carol)
			m := k.move(t, k.change(t, func(a *Approvers) { a.Quorum = 1 }))
			k.approve(t, m, k.bob, k.carol)
			must(t, k.carry(t, m))
			k.wantMissing(t, plan, "approver set changed")
		}},
		{"the incident changed since the motion to withdraw it", func(t *testing.T, k *kase, _ string) {
			m := k.move(t, withdrawal(leak))
			k.approve(t, m, k.bob, k.carol)
			_, err := MarkRogue(t.Context(), k.Store, by, leak, map[string]string{digest(1): rogueFor})
			must(t, err)
			wantError(t, k.carry(t, m), nil, "changed after the motion")
		}},
		{"motion edited after the approvals", func(t *testing.T, k *kase, _ string) {
			k.declare(t, trust.Incident{ID: "INC-2", Class: trust.SigningKey, Signers: []signer.Identity{k.builder.id}})
			m := k.move(t, withdrawal("INC-2"))
			k.approve(t, m, k.bob, k.carol)
			k.edit(t, `UPDATE documents SET body = replace(body, '"INC-2"', '"INC-1"') WHERE kind = 'motion'`)
			wantError(t, k.carry(t, m), nil, "was changed after it was made")
		}},
		{"motion expired", func(t *testing.T, k *kase, _ string) {
			m := k.move(t, withdrawal(leak))
			k.approve(t, m, k.bob, k.carol)
			k.set(today.Add(time.Hour))
			wantError(t, k.carry(t, m), ErrNeedsApproval, "expired")
		}},
		{"approval of one motion used for another", func(t *testing.T, k *kase, _ string) {
			k.declare(t, trust.Incident{ID: "INC-2", Class: trust.SigningKey, Signers: []signer.Identity{k.builder.id}})
			one, other := k.move(t, withdrawal("INC-2")), k.move(t, withdrawal(leak))
			a := k.approval(t, k.bob, one)
			a.Digest = other
			wantError(t, k.tryApprove(t, a), nil, "does not verify")
			a.Digest, a.Kind = one, ApproversKind
			wantError(t, k.tryApprove(t, a), nil, "is a motion about withdrawal")
			a.Kind = PlanKind
			wantError(t, k.tryApprove(t, a), inventory.ErrNotFound)
		}},
		{"break-glass of a motion", func(t *testing.T, k *kase, _ string) {
			m := k.move(t, withdrawal(leak))
			wantError(t, k.tryBreak(t, k.breaking(t, k.bob, m, emergency)), inventory.ErrNotFound)
		}},
		{"motions that say nothing or too much", func(t *testing.T, k *kase, _ string) {
			k.declare(t, trust.Incident{ID: "INC-2", Class: trust.SigningKey, Signers: []signer.Identity{k.bob.id}})
			for name, m := range map[string]Motion{
				"no kind":                          {Proposer: "alice", Reason: "r", MadeAt: today, ExpiresAt: today.Add(time.Hour)},
				"no new set":                       {Kind: ApproversKind, Proposer: "alice", Reason: "r", MadeAt: today, ExpiresAt: today.Add(time.Hour)},
				"no such incident":                 withdrawal("INC-9"),
				"no change":                        k.change(t, func(a *Approvers) {}),
				"no proposer":                      {Kind: WithdrawalKind, Subject: leak, Reason: "r", MadeAt: today, ExpiresAt: today.Add(time.Hour)},
				"no reason":                        {Kind: WithdrawalKind, Subject: leak, Proposer: "alice", MadeAt: today, ExpiresAt: today.Add(time.Hour)},
				"no end":                           {Kind: WithdrawalKind, Subject: leak, Proposer: "alice", Reason: "r", MadeAt: today},
				"bad set":                          k.change(t, func(a *Approvers) { a.Quorum = 0 }),
				"set with a key under an incident": k.change(t, func(a *Approvers) { a.Quorum = 1 }),
				"withdrawal with a set":            {Kind: WithdrawalKind, Subject: leak, Proposer: "alice", Reason: "r", MadeAt: today, ExpiresAt: today.Add(time.Hour), Approvers: &Approvers{}},
			} {
				if _, err := Move(t.Context(), k.Store, by, m); err == nil {
					t.Errorf("%s: accepted", name)
				}
			}
			// bob's key is replaced: that is what the motion is for.
			m := k.move(t, k.change(t, only(Credential{SSH: newEd25519(t).line})))
			k.approve(t, m, k.carol, k.dave)
			must(t, k.carry(t, m))
		}},
	}
}

// securityKey signs as a FIDO key with an Ed25519 key does (PROTOCOL.u2f).
type securityKey struct {
	line string
	wire []byte
	key  ed25519.PrivateKey
}

func newSecurityKey(t testing.TB) securityKey {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	wire := ssh.Marshal(struct {
		Type        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, pub, "ssh:"})
	return securityKey{ssh.KeyAlgoSKED25519 + " " + base64.StdEncoding.EncodeToString(wire), wire, key}
}

func (k securityKey) sign(t testing.TB, content []byte, flags byte) string {
	t.Helper()
	sum := sha512.Sum512(content)
	message := append([]byte("SSHSIG"), ssh.Marshal(sshsig.MessageWrapper{Namespace: "file", HashAlgorithm: "sha512", Hash: string(sum[:])})...)
	application, inner := sha256.Sum256([]byte("ssh:")), sha256.Sum256(message)
	rest := []byte{flags, 0, 0, 0, 7}
	signed := slices.Concat(application[:], rest, inner[:])
	made := ssh.Signature{Format: ssh.KeyAlgoSKED25519, Blob: ed25519.Sign(k.key, signed), Rest: rest}
	w := sshsig.WrappedSig{Version: 1, PublicKey: string(k.wire), Namespace: "file", HashAlgorithm: "sha512", Signature: string(ssh.Marshal(made))}
	copy(w.MagicHeader[:], "SSHSIG")
	return string(pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: ssh.Marshal(w)}))
}

// TestApprovalForms approves one plan in every form there is.
func TestApprovalForms(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.open(t, leak, k.old.id)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	sshKeys := map[string]sshKey{"SSH Ed25519": newEd25519(t), "SSH RSA": newSSH(t, rsaKey), "SSH P-384": newSSH(t, p384), "SSH of the PEM key": newSSH(t, k.bob.key)}
	credentials := []Credential{bobKeyless}
	for _, key := range sshKeys {
		credentials = append(credentials, Credential{SSH: key.line + " bob@laptop\n"})
	}
	k.enrol(t, func(a *Approvers) { a.People[1].Credentials = append(a.People[1].Credentials, credentials...) })
	forms := map[string]func([]byte) string{
		"raw":         func(r []byte) string { return k.bob.sign(t, r) },
		"raw, spaced": func(r []byte) string { return "\n" + k.bob.sign(t, r) + "\n" },
		"bundle":      func(r []byte) string { return keyless(t, bobKeyless.Subject, r, nil) },
	}
	for name, key := range sshKeys {
		forms[name] = func(r []byte) string { return key.sign(t, r) }
	}
	for name, sign := range forms {
		plan, _ := k.plan(t, func(p *Plan) { p.Homes = []string{name} })
		must(t, k.tryApprove(t, k.byBob(t, plan, sign)))
		k.approve(t, plan, k.carol)
		p := k.permit(t, plan)
		wantEqual(t, name, p.Approvers(), []string{"bob", "carol"})
		if p.BreakGlass() != nil {
			t.Errorf("%s: the glass is broken", name)
		}
	}
}

// TestSSHKeygen approves with what OpenSSH itself writes.
func TestSSHKeygen(t *testing.T) {
	t.Parallel()
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("ssh-keygen is not installed; signatures by the library are tested all the same")
	}
	run := func(dir string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), keygen, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen %v: %v\n%s", args, err, out)
		}
	}
	for _, tc := range []struct{ kind, bits, namespace, says string }{
		{"ed25519", "", "file", ""}, {"ecdsa", "256", "file", ""}, {"ecdsa", "521", "file", ""}, {"rsa", "3072", "file", ""},
		{"ed25519", "", "git", `namespace "git"`},
	} {
		k := newCase(t)
		k.open(t, leak, k.old.id)
		dir := t.TempDir()
		args := []string{"-q", "-t", tc.kind, "-N", "", "-C", "bob@laptop", "-f", "id"}
		if tc.bits != "" {
			args = append(args, "-b", tc.bits)
		}
		run(dir, args...)
		line, err := os.ReadFile(filepath.Join(dir, "id.pub"))
		must(t, err)
		plan := k.enrolled(t, only(Credential{SSH: string(line)}))
		a := k.byBob(t, plan, func(request []byte) string {
			must(t, os.WriteFile(filepath.Join(dir, "request"), request, 0o600))
			run(dir, "-Y", "sign", "-q", "-f", "id", "-n", tc.namespace, "request")
			armored, err := os.ReadFile(filepath.Join(dir, "request.sig"))
			must(t, err)
			return string(armored)
		})
		err = k.tryApprove(t, a)
		if tc.says != "" {
			wantError(t, err, nil, tc.says)
			continue
		}
		if err != nil {
			t.Errorf("%s %s: %v", tc.kind, tc.bits, err)
		}
	}
}

func TestApproversCheck(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	for name, change := range map[string]func(*Approvers){
		"quorum of all, though one must propose": func(a *Approvers) { a.Quorum = 4 },
		"quorum of a severity of all":            func(a *Approvers) { a.Severity = map[string]int{"critical": 4} },
		"quorum of a severity below the general": func(a *Approvers) { a.Severity = map[string]int{"low": 1} },
		"unknown severity":                       func(a *Approvers) { a.Severity = map[string]int{"urgent": 3} },
		"role that nobody has":                   func(a *Approvers) { a.Roles = map[string]int{"security": 1} },
		"role of no people":                      func(a *Approvers) { a.Roles = map[string]int{"security": 0} },
		"role that only one who does not approve has": func(a *Approvers) {
			a.Roles, a.People[3].Roles, a.People[3].ProposesOnly = map[string]int{"security": 1}, []string{"security"}, true
		},
		"empty role":                             func(a *Approvers) { a.People[0].Roles = []string{""} },
		"a name twice in another case":           func(a *Approvers) { a.People[1].Name = "ALICE" },
		"a name that folds to another":           func(a *Approvers) { a.People[0].Name, a.People[1].Name = "bos", "bo\u017f" },
		"a name that is another's alias":         func(a *Approvers) { a.People[1].Aliases = []string{"Carol"} },
		"an alias of two people":                 func(a *Approvers) { a.People[1].Aliases, a.People[2].Aliases = []string{"root"}, []string{"Root"} },
		"an alias that is none":                  func(a *Approvers) { a.People[1].Aliases = []string{""} },
		"a name that hides characters":           func(a *Approvers) { a.People[1].Name = "bob\u202e" },
		"the name that proposals are kept under": func(a *Approvers) { a.People[1].Name = "Proposal" },
		"nothing to sign with":                   func(a *Approvers) { a.People[1].Credentials = nil },
		"two forms in one credential": func(a *Approvers) {
			a.People[1].Credentials[0].Issuer, a.People[1].Credentials[0].Subject = issuer, "bob"
		},
		"issuer alone":  func(a *Approvers) { a.People[1].Credentials = []Credential{{Issuer: issuer}} },
		"subject alone": func(a *Approvers) { a.People[1].Credentials = []Credential{{Subject: "bob"}} },
		"a keyless identity of two people": func(a *Approvers) {
			a.People[1].Credentials = []Credential{{Issuer: issuer, Subject: "ops@acme.example"}}
			a.People[2].Credentials = []Credential{{Issuer: issuer, Subject: "OPS@acme.example"}}
		},
		"nobody":            func(a *Approvers) { a.People = nil },
		"quorum of none":    func(a *Approvers) { a.Quorum = 0 },
		"quorum below none": func(a *Approvers) { a.Quorum = -1 },
		"quorum above all":  func(a *Approvers) { a.Quorum = 4 },
		"a name twice":      func(a *Approvers) { a.People[1].Name = a.People[0].Name },
		"no name":           func(a *Approvers) { a.People[1].Name = " " },
		"no key":            func(a *Approvers) { a.People[1].Credentials[0].PublicKey = "" },
		"a private key": func(a *Approvers) {
			a.People[1].Credentials[0].PublicKey = strings.ReplaceAll(a.People[1].Credentials[0].PublicKey, "PUBLIC", "PRIVATE")
		},
		"two keys for one name":  func(a *Approvers) { a.People[1].Credentials[0].PublicKey += a.People[2].Credentials[0].PublicKey },
		"one key for two people": func(a *Approvers) { a.People[3].Credentials[0].PublicKey = a.People[0].Credentials[0].PublicKey },
	} {
		a := k.approvers(2)
		change(&a)
		if a.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for quorum := 1; quorum <= 3; quorum++ {
		must(t, k.approvers(quorum).Check())
	}
	wantEqual(t, "digest", k.approvers(2).Digest(), k.approvers(2).Digest())
	if k.approvers(2).Digest() == k.approvers(3).Digest() {
		t.Error("two sets have one digest")
	}
	names, err := ApprovedBy(t.Context(), k.Store, digest(1))
	wantEqual(t, "approvals of no plan", fmt.Sprint(names, err), "[] <nil>")
}
