package app

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/reseal/reseal/internal/services"
	"github.com/reseal/reseal/resign"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/runbooks"
	"github.com/reseal/reseal/runbooks/drill"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/tuf"
)

// Drill runs a drill with the same code that recovers for real.
func Drill(ctx context.Context, o drill.Options) (drill.Report, error) {
	return drill.Run(ctx, o, func(home string) (drill.Responder, error) { return &responder{home: home}, nil })
}

// responder is the people in a drill, using reseal.
type responder struct {
	home    string
	setup   drill.Setup
	app     *App
	revoker *revoker
	plan    string
}

// Prepare implements drill.Responder.
func (r *responder) Prepare(ctx context.Context, s drill.Setup) error {
	r.setup = s
	var err error
	if r.revoker, err = newRevoker(ctx, s); err != nil {
		return err
	}
	in := InitOptions{Approvers: rotate.Approvers{Quorum: s.Quorum}, Consumers: s.Consumers, TrustedRoot: s.TrustedRoot}
	for _, p := range s.Approvers {
		in.Approvers.People = append(in.Approvers.People, rotate.Person{Name: p.Name, Credentials: []rotate.Credential{{PublicKey: string(p.PublicKeyPEM)}}})
	}
	for _, p := range s.Signers {
		in.Signers = append(in.Signers, signer.Record{Name: p.Name, State: p.State, PublicKey: p.PublicKeyPEM})
	}
	o := Options{Home: r.home, Actor: s.Proposer, Now: s.Now, Publish: r.revoker.publish}
	if err := Init(ctx, o, in); err != nil {
		return err
	}
	if r.app, err = Open(ctx, o); err != nil {
		return err
	}
	if _, err := r.app.Scan(ctx, ScanOptions{Targets: Targets(s.Repositories...)}, nil); err != nil {
		return err
	}
	running, err := r.app.MarkDeployed(ctx, "the cluster", strings.NewReader(strings.Join(s.Deployed, "\n")), false)
	if err == nil && len(running.Unknown) > 0 {
		err = fmt.Errorf("deployed, but not in the inventory: %s", strings.Join(running.Unknown, ", "))
	}
	return err
}

// Close releases the home.
func (r *responder) Close() error {
	if r.app == nil {
		return nil
	}
	return r.app.Close()
}

// Do implements drill.Responder.
func (r *responder) Do(ctx context.Context, action runbooks.Action) (drill.Outcome, error) {
	switch action {
	case runbooks.Scan:
		return r.scan(ctx)
	case runbooks.Declare:
		return r.declare(ctx)
	case runbooks.Impact:
		return r.impact(ctx)
	case runbooks.Plan:
		return r.makePlan(ctx)
	case runbooks.Approve:
		return r.approve(ctx)
	case runbooks.Contain:
		return r.contain(ctx)
	case runbooks.Resign:
		return r.resign(ctx)
	case runbooks.CutOver:
		return r.cutOver(ctx)
	case runbooks.Verify:
		return r.verify(ctx)
	case runbooks.Report:
		return r.report(ctx)
	}
	return drill.Outcome{}, fmt.Errorf("nobody knows how to %q", action)
}

func summary(format string, args ...any) drill.Outcome {
	return drill.Outcome{Summary: fmt.Sprintf(format, args...)}
}

func (r *responder) scan(ctx context.Context) (drill.Outcome, error) {
	res, err := r.app.Scan(ctx, ScanOptions{Targets: Targets(r.setup.Repositories...)}, nil)
	return summary("%d artifacts with %d signatures in %d repositories: %d verify, %d do not",
		res.Artifacts, res.Signatures, res.Repositories, res.Verified, res.Unverified), err
}

func (r *responder) declare(ctx context.Context) (drill.Outcome, error) {
	i := r.setup.Incident
	scope := Scope{Matches: -1}
	for _, id := range i.Signers {
		scope.Signers = append(scope.Signers, id.ID())
	}
	i.Signers = nil
	i, err := r.app.OpenIncident(ctx, i, scope, "drill: "+i.Title)
	if err != nil {
		return drill.Outcome{}, err
	}
	return summary("%s is open: %s", i.ID, i.Title), nil
}

func (r *responder) impact(ctx context.Context) (drill.Outcome, error) {
	t, err := r.app.Impact(ctx, r.setup.Incident.ID, "", r.setup.Skew, nil)
	return summary("%d artifacts touched, %d of them deployed: %s", t.Artifacts, t.Deployed, verdictWords(t)), err
}

func verdictWords(t rotate.Totals) string {
	var words []string
	for _, v := range []string{"proven-before", "proven-after", "inside", "unproven", "unaffected", "unverifiable"} {
		for verdict, n := range t.Verdicts {
			if string(verdict) == v && n > 0 {
				words = append(words, fmt.Sprintf("%d %s", n, v))
			}
		}
	}
	return strings.Join(words, ", ")
}

func (r *responder) newSigner() string {
	for _, s := range r.setup.Signers {
		if s.State == signer.Standby {
			return s.Name
		}
	}
	return ""
}

func (r *responder) makePlan(ctx context.Context) (drill.Outcome, error) {
	_, digest, t, err := r.app.MakePlan(ctx, PlanOptions{Incident: r.setup.Incident.ID, NewSigner: r.newSigner(),
		Vouchers: r.setup.Vouchers, Skew: r.setup.Skew, Limits: rotate.Limits{MaxArtifacts: 100000}})
	if err != nil {
		return drill.Outcome{}, err
	}
	r.plan = digest
	out := summary("plan %s: %d to re-sign, %d on hold, %d denied", digest[len("sha256:"):][:12], t.Decisions["resign"], t.Decisions["hold"], t.Decisions["deny"])
	err = r.app.Items(ctx, digest, "", func(i rotate.Item) error { out.Items = append(out.Items, i); return nil })
	return out, err
}

func (r *responder) approve(ctx context.Context) (drill.Outcome, error) {
	var names []string
	for _, p := range r.setup.Approvers {
		proposes := p.Name == r.setup.Proposer
		if !proposes && len(names) == r.setup.Quorum {
			continue
		}
		key, err := r.key(p.EncryptedKey, p.Password)
		if err != nil {
			return drill.Outcome{}, err
		}
		if _, err := r.app.ApproveWithKey(ctx, r.plan, p.Name, key, proposes); err != nil {
			return drill.Outcome{}, err
		}
		if !proposes {
			names = append(names, p.Name)
		}
	}
	return summary("%s approved; %s proposed it and could not", strings.Join(names, " and "), r.setup.Proposer), nil
}

// key decrypts a key the way people do: from a file.
func (r *responder) key(encrypted, password []byte) (_ signer.Signer, err error) {
	f, err := os.CreateTemp(r.home, "key-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	if _, err := f.Write(encrypted); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	return LoadKey(f.Name(), func() ([]byte, error) { return password, nil })
}

func (r *responder) contain(ctx context.Context) (drill.Outcome, error) {
	if _, err := r.app.Contain(ctx, r.plan, false); err != nil {
		return drill.Outcome{}, fmt.Errorf("dry run: %w", err)
	}
	c, err := r.app.Contain(ctx, r.plan, true)
	if err != nil {
		return drill.Outcome{}, err
	}
	if err := r.revoker.check(ctx, c.Published); err != nil {
		return drill.Outcome{}, err
	}
	return summary("%s is published through TUF and a client has it; %d rogue artifacts taken away", c.Published, len(c.Quarantined)), nil
}

func (r *responder) resign(ctx context.Context) (drill.Outcome, error) {
	key, err := r.key(r.setup.NewSignerKey, r.setup.Password)
	if err != nil {
		return drill.Outcome{}, err
	}
	var out drill.Outcome
	stamps, err := services.Open(services.Endpoints{Timestamps: []string{r.setup.TSAURL}})
	if err != nil {
		return out, err
	}
	o := ResignOptions{Plan: r.plan, Signer: signer.Always(key), Services: stamps}
	if _, err := r.app.Resign(ctx, o); err != nil {
		return out, fmt.Errorf("dry run: %w", err)
	}
	o.Apply = true
	o.Failed = func(f resign.Failure) {
		out.Held = append(out.Held, drill.Held{Artifact: f.Item.Repository + "@" + f.Item.Digest, Reason: f.Why})
	}
	res, err := r.app.Resign(ctx, o)
	out.Summary = fmt.Sprintf("%d statements signed again and read back, %d held back, %d failed; %d requests in %.1f s",
		res.Signed, res.Held, res.Failed, res.Requests, res.DurationSeconds)
	return out, err
}

func (r *responder) cutOver(ctx context.Context) (drill.Outcome, error) {
	if _, err := r.app.CutOver(ctx, r.plan, resign.Files{}, false); err != nil {
		return drill.Outcome{}, fmt.Errorf("dry run: %w", err)
	}
	c, err := r.app.CutOver(ctx, r.plan, resign.Files{}, true)
	return summary("%d checks of deployed images passed under the new trust; anchors rewritten: %s", c.Checked, strings.Join(c.Anchors, ", ")), err
}

func (r *responder) verify(ctx context.Context) (drill.Outcome, error) {
	accepted := 0
	for _, image := range r.setup.Deployed {
		v, err := r.app.Verify(ctx, image, VerifyOptions{Skew: r.setup.Skew})
		if err != nil {
			return drill.Outcome{}, err
		}
		if !v.Accepted {
			return drill.Outcome{}, fmt.Errorf("%s is deployed and refused: %s", image, v.Why)
		}
		accepted++
	}
	for digest := range r.setup.Incident.Rogue {
		for _, repository := range r.setup.Repositories {
			if v, err := r.app.Verify(ctx, repository+"@"+digest, VerifyOptions{Skew: r.setup.Skew}); err == nil && v.Accepted {
				return drill.Outcome{}, fmt.Errorf("%s is rogue and accepted: %s", v.Subject, v.Why)
			}
		}
	}
	return summary("%d deployed images are accepted, the rogue ones are not", accepted), nil
}

func (r *responder) report(ctx context.Context) (drill.Outcome, error) {
	st, err := r.app.VerifyJournal(ctx)
	return summary("the journal is whole: %d entries", st.Entries), err
}

// revoker publishes revocation statements through a TUF repository, signed by
// responders on call, and fetches them back as a client.
type revoker struct {
	repository *tuf.Repository
	responders []signer.Signer
	online     signer.Signer
	client     tuf.FetchOptions
	published  map[string][]byte
}

// newRevoker founds the repository in a ceremony: three holders sign its first
// event, each from the exported file alone.
func newRevoker(ctx context.Context, s drill.Setup) (*revoker, error) {
	signers := make([]signer.Signer, 6)
	holders := make([]tuf.Holder, 6)
	for n, name := range []string{"@root-1", "@root-2", "@root-3", "@responder-1", "@responder-2", ""} {
		_, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		if signers[n], err = signer.InMemory(private); err != nil {
			return nil, err
		}
		public, err := cryptoutils.MarshalPublicKeyToPEM(private.Public())
		if err != nil {
			return nil, err
		}
		holders[n] = tuf.Holder{Name: name, Key: public}
	}
	root, responders := tuf.Group{Holders: holders[:3], Threshold: 2}, tuf.Group{Holders: holders[3:5], Threshold: 2}
	// What is published is what the sandbox serves; the rest lies beside it.
	repository, _, err := tuf.Init(ctx, filepath.Join(s.TUFDir, ".repository"), tuf.Options{Published: s.TUFDir}, tuf.Founding{
		Root: root, Targets: root, Revocations: responders, Online: tuf.Online{Key: holders[5].Key},
		Files: map[string][]byte{"trusted_root.json": s.TrustedRoot}})
	if err != nil {
		return nil, err
	}
	request, err := repository.Export()
	if err != nil {
		return nil, err
	}
	for _, key := range signers[:5] {
		signed, err := tuf.SignRequest(ctx, request, key, nil, tuf.Options{})
		if err != nil {
			return nil, err
		}
		if _, err := repository.Import(ctx, signed); err != nil {
			return nil, err
		}
	}
	if _, err := repository.Publish(ctx, signers[5]); err != nil {
		return nil, err
	}
	pinned, err := os.ReadFile(filepath.Join(s.TUFDir, "1.root.json"))
	if err != nil {
		return nil, err
	}
	return &revoker{repository: repository, responders: signers[3:5], online: signers[5], published: map[string][]byte{},
		client: tuf.FetchOptions{URL: s.TUFURL, Root: pinned}}, nil
}

func (r *revoker) publish(ctx context.Context, name string, statement []byte) error {
	r.published[name] = statement
	_, err := r.repository.PublishRevocations(ctx, map[string][]byte{name: statement}, r.responders, r.online)
	return err
}

// check fetches what was published as any client would.
func (r *revoker) check(ctx context.Context, name string) error {
	got, err := tuf.Revocations(ctx, r.client)
	if err != nil {
		return fmt.Errorf("fetching the revocation back: %w", err)
	}
	if !bytes.Equal(got[name], r.published[name]) {
		return fmt.Errorf("a TUF client does not get the %s that was published", name)
	}
	return nil
}
