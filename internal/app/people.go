package app

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/reseal/reseal/internal/keyfile"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// judge verifies keyless approvals against the trusted root.
type judge struct{ verifier *verify.Verifier }

// Blob implements rotate.Judge.
func (j judge) Blob(bundle, content []byte) (inventory.Signature, error) {
	sub := verify.Subject{Repository: inventory.Files, Digest: inventory.Digest(content), Content: content}
	return j.verifier.Stored(sub, inventory.Detached, nil, bundle), nil
}

// judge returns what verifies keyless approvals; nil without a trusted root.
func (a *App) judge() (rotate.Judge, error) {
	if a.root == nil {
		return nil, nil
	}
	v, err := verify.New(verify.Trust{Root: a.root})
	return judge{v}, err
}

// A matter is what people approve: a plan or a motion.
type matter struct {
	kind, digest, subject string
	expires               time.Time
}

// matter finds the plan or motion that a digest, or the start of one, names.
func (a *App) matter(ctx context.Context, text string) (matter, error) {
	digest, err := rotate.FindPlan(ctx, a.store, text)
	if err != nil && !errors.Is(err, inventory.ErrNotFound) {
		return matter{}, err
	}
	motion, motionErr := rotate.FindMotion(ctx, a.store, text)
	if err == nil {
		// Whoever makes plans can make one that starts as a motion does.
		if !errors.Is(motionErr, inventory.ErrNotFound) {
			return matter{}, errors.Join(fmt.Errorf("%s: a plan and a motion start so: give more digits", text), motionErr)
		}
		p, _, err := rotate.LoadPlan(ctx, a.store, digest)
		return matter{rotate.PlanKind, digest, p.Incident, p.ExpiresAt}, err
	}
	digest = motion
	if motionErr != nil {
		if errors.Is(motionErr, inventory.ErrNotFound) {
			motionErr = err
		}
		return matter{}, motionErr
	}
	m, err := rotate.LoadMotion(ctx, a.store, digest)
	return matter{m.Kind, digest, m.Subject, m.ExpiresAt}, err
}

// ApprovalRequest returns the bytes that a person signs to approve a plan or a
// motion, or to show that they propose it.
func (a *App) ApprovalRequest(ctx context.Context, digest, approver string) ([]byte, error) {
	m, err := a.matter(ctx, digest)
	if err != nil {
		return nil, err
	}
	return rotate.ApprovalRequest(m.kind, m.digest, m.subject, approver, m.expires)
}

// Approve keeps an approval made elsewhere: a signature over ApprovalRequest as
// "cosign sign-blob" or "ssh-keygen -Y sign -n file" writes it, or a Sigstore
// bundle. With proposal it shows who proposes, and approves nothing.
func (a *App) Approve(ctx context.Context, digest, approver string, signature []byte, proposal bool) (string, error) {
	m, err := a.matter(ctx, digest)
	if err != nil {
		return "", err
	}
	j, err := a.judge()
	if err != nil {
		return "", err
	}
	what := "approval"
	if proposal {
		what = "proposal"
	}
	return m.digest, rotate.Approve(ctx, a.store, j, a.by("%s by %s", what, approver), rotate.Approval{Kind: m.kind, Digest: m.digest,
		Approver: approver, Signature: strings.TrimSpace(string(signature)), At: a.now(), Proposal: proposal})
}

// ApproveWithKey signs the approval with a key at hand.
func (a *App) ApproveWithKey(ctx context.Context, digest, approver string, key signer.Signer, proposal bool) (string, error) {
	request, err := a.ApprovalRequest(ctx, digest, approver)
	if err != nil {
		return "", err
	}
	sig, err := key.Sign(ctx, request)
	if err != nil {
		return "", fmt.Errorf("signing the approval: %w", err)
	}
	return a.Approve(ctx, digest, approver, []byte(base64.StdEncoding.EncodeToString(sig)), proposal)
}

// BreakGlass lets a plan be carried out without its quorum, on the word of one
// enrolled person who signs for it and says why.
func (a *App) BreakGlass(ctx context.Context, digest, person, reason string, key signer.Signer) (string, error) {
	m, err := a.matter(ctx, digest)
	if err != nil {
		return "", err
	}
	if m.kind != rotate.PlanKind {
		return "", fmt.Errorf("%s is a %s: only a plan can be carried out without its quorum", m.digest, m.kind)
	}
	request, err := rotate.BreakGlassRequest(m.digest, m.subject, person, reason, m.expires)
	if err != nil {
		return "", err
	}
	sig, err := key.Sign(ctx, request)
	if err != nil {
		return "", fmt.Errorf("signing for it: %w", err)
	}
	j, err := a.judge()
	if err != nil {
		return "", err
	}
	return m.digest, rotate.Break(ctx, a.store, j, a.by("%s", reason), rotate.BreakGlass{Plan: m.digest, By: person, Reason: reason,
		Signature: base64.StdEncoding.EncodeToString(sig), At: a.now()})
}

// Approvers returns who may approve.
func (a *App) Approvers(ctx context.Context) (rotate.Approvers, error) {
	return rotate.LoadApprovers(ctx, a.store)
}

// motionLife is how long a motion may be approved and carried.
const motionLife = 7 * 24 * time.Hour

// Move proposes what needs the quorum and is no plan: a change of the
// approvers, or the withdrawal of an incident.
func (a *App) Move(ctx context.Context, m rotate.Motion) (string, error) {
	m.Proposer, m.MadeAt = a.options.Actor, a.now()
	m.ExpiresAt = m.MadeAt.Add(motionLife)
	return rotate.Move(ctx, a.store, a.by("%s", m.Reason), m)
}

// Motions lists every motion.
func (a *App) Motions(ctx context.Context) ([]rotate.MotionState, error) {
	return rotate.Motions(ctx, a.store)
}

// Motion returns a motion by its digest or the start of it.
func (a *App) Motion(ctx context.Context, text string) (rotate.Motion, string, error) {
	digest, err := rotate.FindMotion(ctx, a.store, text)
	if err != nil {
		return rotate.Motion{}, "", err
	}
	m, err := rotate.LoadMotion(ctx, a.store, digest)
	return m, digest, err
}

// Carry does what an approved motion says, which must be of the given kind and
// about the given subject.
func (a *App) Carry(ctx context.Context, text, kind, subject string) (rotate.Motion, error) {
	m, digest, err := a.Motion(ctx, text)
	if err != nil {
		return m, err
	}
	if m.Kind != kind || m.Subject != subject {
		return m, fmt.Errorf("motion %s is the %s of %s, not the %s of %s", digest, m.Kind, m.Subject, kind, subject)
	}
	j, err := a.judge()
	if err != nil {
		return m, err
	}
	return m, rotate.Carry(ctx, a.store, j, a.by("%s", m.Reason), digest, a.now())
}

// LoadKey decrypts a cosign private key.
func LoadKey(file string, password func() ([]byte, error)) (signer.Signer, error) {
	return keyfile.Load(file, password)
}

func (a *App) permit(ctx context.Context, digest string) (rotate.Permission, error) {
	full, err := rotate.FindPlan(ctx, a.store, digest)
	if err != nil {
		return rotate.Permission{}, err
	}
	j, err := a.judge()
	if err != nil {
		return rotate.Permission{}, err
	}
	return rotate.Permit(ctx, a.store, j, full, a.now())
}

// again checks whether a plan that was permitted may still be carried out.
func (a *App) again(ctx context.Context, p rotate.Permission) (rotate.Permission, error) {
	j, err := a.judge()
	if err != nil {
		return p, err
	}
	return p.Again(ctx, a.store, j, a.now())
}
