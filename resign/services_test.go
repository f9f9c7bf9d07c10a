package resign

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/internal/services"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// identity is a keyless signer.Source with a new certificate after some uses.
type identity struct {
	*sandbox.World
	sandbox.Principal
	uses   int // of one certificate
	used   atomic.Int64
	issued atomic.Int64
	last   atomic.Pointer[signer.Credential]
}

func (b *bench) newIdentity() *identity {
	return &identity{World: b.World, Principal: sandbox.Principal{Email: "recovery@example.com", Issuer: "https://oidc.example"}, uses: 1 << 20}
}

func (i *identity) Identity() signer.Identity {
	return signer.Identity{Kind: signer.Keyless, Subject: i.Email, Issuer: i.Issuer}
}

func (i *identity) Credential(ctx context.Context) (signer.Credential, error) {
	if c := i.last.Load(); c != nil && i.used.Add(1)%int64(i.uses) != 0 {
		return *c, nil
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return signer.Credential{}, err
	}
	cert, err := i.Issue(ctx, i.Principal, private.Public())
	if err != nil {
		return signer.Credential{}, err
	}
	i.issued.Add(1)
	c := signer.Credential{Signer: &ecKey{private: private, id: i.Identity()}, Certificate: cert.Raw, Until: cert.NotAfter}
	i.last.Store(&c)
	return c, nil
}

// judgeOf is cosign's verification of one image by who signed it.
func (b *bench) judgeOf(t *testing.T, ref name.Digest, f inventory.Format, key crypto.PublicKey, id signer.Identity, logged, stamped bool) error {
	t.Helper()
	trusted, err := b.TrustedRoot()
	must(t, err)
	co := &cosign.CheckOpts{TrustedMaterial: trusted, Offline: true, IgnoreTlog: !logged, UseSignedTimestamps: stamped,
		NewBundleFormat: f == inventory.Bundle, ClaimVerifier: cosign.IntotoSubjectClaimVerifier}
	if key != nil {
		co.IgnoreSCT = true
		co.SigVerifier, err = signature.LoadVerifier(key, crypto.SHA256)
		must(t, err)
	} else {
		co.Identities = []cosign.Identity{{Issuer: id.Issuer, Subject: id.Subject}}
	}
	if f == inventory.Legacy {
		co.ClaimVerifier = cosign.SimpleClaimVerifier
		_, _, err = cosign.VerifyImageSignatures(t.Context(), ref, co)
	} else {
		_, _, err = cosign.VerifyImageAttestations(t.Context(), ref, co)
	}
	return err
}

// TestServices signs with a key and as a keyless identity, with every sensible
// combination of services, in every format, and has cosign judge it as strictly
// as what the signature carries allows.
func TestServices(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	second := httptest.NewServer(forward(t, b.TSAURL(), nil))
	t.Cleanup(second.Close)
	trusted, err := b.TrustedRoot()
	must(t, err)
	for _, tc := range []struct {
		name string
		services.Endpoints
		legacyLog bool
		stamps    int
	}{
		{"none", services.Endpoints{}, false, 0},
		{"timestamp", services.Endpoints{Timestamps: []string{b.TSAURL()}}, false, 1},
		{"two timestamps", services.Endpoints{Timestamps: []string{b.TSAURL(), second.URL}}, false, 2},
		{"Rekor v1", services.Endpoints{RekorV1: []string{b.RekorURL()}}, true, 0},
		{"Rekor v1 and timestamp", services.Endpoints{RekorV1: []string{b.RekorURL()}, Timestamps: []string{b.TSAURL()}}, true, 1},
		{"Rekor v2 and timestamp", services.Endpoints{RekorV2: []string{b.RekorV2URL()}, Timestamps: []string{b.TSAURL()}}, false, 1},
		{"both logs and timestamp", services.Endpoints{RekorV1: []string{b.RekorURL()}, RekorV2: []string{b.RekorV2URL()}, Timestamps: []string{b.TSAURL()}}, true, 1},
	} {
		for _, keyless := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, keyless=%v", tc.name, keyless), func(t *testing.T) {
				t.Parallel()
				k := b.newCase(t)
				ref := k.push(t, "app")
				k.all(t, ref)
				k.plan(t, ref)
				e := k.engine(k.client)
				e.Root, e.Parallel = trusted, 0
				e.Services, err = services.Open(tc.Endpoints)
				must(t, err)
				id, key := k.next.id, k.next.PublicKey()
				if keyless {
					who := b.newIdentity()
					e.Signer, id, key = who, who.Identity(), nil
				}
				e.Failed = func(f Failure) { t.Logf("%s %s: %s", f.Item.PredicateType, f.Format, f.Why) }
				got, err := e.Run(t.Context(), list{items: k.items})
				if keyless && tc.name == "none" {
					if err == nil || !strings.Contains(err.Error(), "outlives its certificate") {
						t.Errorf("got %v, want a keyless signature without a proof of its time refused", err)
					}
					return
				}
				must(t, err)
				wantEqual(t, "result", got, Result{Planned: 4, Signed: 4})
				for _, f := range []inventory.Format{inventory.Legacy, inventory.LegacyAtt, inventory.Bundle} {
					logged := tc.legacyLog || f == inventory.Bundle && len(tc.RekorV2) > 0
					if err := b.judgeOf(t, ref, f, key, id, logged, tc.stamps > 0); err != nil {
						t.Errorf("cosign refuses the %s: %v", f, err)
					}
				}
				// What it proves is in the inventory.
				sigs, err := k.SignaturesOf(t.Context(), inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr()}, "")
				must(t, err)
				for _, s := range sigs {
					if s.Signer != id {
						continue
					}
					var roles []inventory.Role
					for _, bound := range s.Bounds {
						if !bound.Verified {
							t.Errorf("%s %s: %s", s.Format, bound.Authority.Role, bound.Why)
						}
						if bound.Side == inventory.Upper {
							roles = append(roles, bound.Authority.Role)
						}
					}
					slices.Sort(roles)
					roles = slices.Compact(roles)
					var want []inventory.Role
					if tc.legacyLog {
						want = append(want, inventory.RoleLog)
					}
					if tc.stamps > 0 {
						want = append(want, inventory.RoleTSA)
					}
					wantEqual(t, fmt.Sprintf("time proofs of the %s", s.Format), roles, want)
				}
				k.checkJournal(t)
			})
		}
	}
}

// forward passes requests on, except for those that spoil answers itself.
func forward(t *testing.T, to string, spoil func(w http.ResponseWriter, r *http.Request, pass http.HandlerFunc)) http.Handler {
	t.Helper()
	target, err := url.Parse(to)
	must(t, err)
	pass := func(w http.ResponseWriter, r *http.Request) {
		proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = target.Scheme, target.Host, target.Host
			if target.Path != "" && target.Path != "/" {
				p.Out.URL.Path = target.Path
			}
		}, ErrorLog: nil}
		proxy.ServeHTTP(w, r)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if spoil != nil {
			spoil(w, r, pass)
			return
		}
		pass(w, r)
	})
}

// TestFaultServices has the timestamp authority and the logs misbehave: what is
// published carries every proof, or it is listed as failed and signed by the next
// run.
func TestFaultServices(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	trusted, err := b.TrustedRoot()
	must(t, err)
	first := func(n int64, do http.HandlerFunc) func(http.ResponseWriter, *http.Request, http.HandlerFunc) {
		var seen atomic.Int64
		return func(w http.ResponseWriter, r *http.Request, pass http.HandlerFunc) {
			if seen.Add(1) <= n {
				do(w, r)
				return
			}
			pass(w, r)
		}
	}
	status := func(code int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for n := 0; n+1 < len(header); n += 2 {
				w.Header().Set(header[n], header[n+1])
			}
			w.WriteHeader(code)
			io.WriteString(w, "no") //nolint:errcheck // the client will tell
		}
	}
	reset := func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }
	cutOff := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "5000")
		io.WriteString(w, "half an answ") //nolint:errcheck // it is cut off
		panic(http.ErrAbortHandler)
	}
	garbage := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			io.WriteString(w, "garbage") //nolint:errcheck // the client will tell
		}
	}
	always := int64(1) << 40
	// A log that takes an entry, but whose answer is lost: asked again it says
	// that it has the entry already.
	taken := func(n int64) func(http.ResponseWriter, *http.Request, http.HandlerFunc) {
		var seen atomic.Int64
		return func(w http.ResponseWriter, r *http.Request, pass http.HandlerFunc) {
			if seen.Add(1) > n {
				pass(w, r)
				return
			}
			pass(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
	}
	for _, tc := range []struct {
		name  string
		spoil func(http.ResponseWriter, *http.Request, http.HandlerFunc)
		fails bool
	}{
		{"429", first(2, status(http.StatusTooManyRequests)), false},
		{"429 with Retry-After", first(2, status(http.StatusTooManyRequests, "Retry-After", "1")), false},
		{"a burst of 5xx", first(3, status(http.StatusServiceUnavailable)), false},
		{"connection reset", first(2, reset), false},
		{"answer cut off", first(2, cutOff), false},
		{"done but the answer lost", taken(1), false},
		{"garbage once", first(1, garbage(http.StatusCreated)), false},
		{"refuses", first(always, status(http.StatusForbidden)), true},
		{"garbage always", first(always, garbage(http.StatusCreated)), true},
	} {
		for _, service := range []string{"timestamp", "Rekor v1", "Rekor v2"} {
			t.Run(service+" "+tc.name, func(t *testing.T) {
				t.Parallel()
				k := b.newCase(t)
				ref := k.push(t, "app")
				must(t, errors.Join(k.old.SignLegacy(t.Context(), ref, sandbox.NoProof), k.old.SignBundle(t.Context(), ref, sandbox.NoProof)))
				k.plan(t, ref)
				ends := map[string]string{"timestamp": b.TSAURL(), "Rekor v1": b.RekorURL(), "Rekor v2": b.RekorV2URL()}
				good := services.Endpoints{Timestamps: []string{ends["timestamp"]}, RekorV1: []string{ends["Rekor v1"]}, RekorV2: []string{ends["Rekor v2"]}}
				spoilt := httptest.NewServer(forward(t, ends[service], tc.spoil))
				t.Cleanup(spoilt.Close)
				bad := good
				switch service {
				case "timestamp":
					bad.Timestamps = []string{spoilt.URL}
				case "Rekor v1":
					bad.RekorV1 = []string{spoilt.URL}
				case "Rekor v2":
					bad.RekorV2 = []string{spoilt.URL}
				}
				e := k.engine(k.client)
				e.Root, e.Making = trusted, 1
				e.Services, err = services.Open(bad)
				must(t, err)
				e.Failed = func(f Failure) { t.Logf("%s: %s", f.Format, f.Why) }
				got, err := e.Run(t.Context(), list{items: k.items})
				must(t, err)
				wantFailed := int64(0)
				if tc.fails {
					wantFailed = 2
					if service == "Rekor v2" { // a legacy signature carries no entry of it
						wantFailed = 1
					}
				}
				wantEqual(t, "result", got, Result{Planned: 2, Signed: 2 - wantFailed, Failed: wantFailed})
				wantEqual(t, "published", int64(len(count(k.found(t, ref), k.next.id))), 2-wantFailed)
				e.Services, err = services.Open(good)
				must(t, err)
				got, err = e.Run(t.Context(), list{items: k.items})
				must(t, err)
				wantEqual(t, "result once it is good", got, Result{Planned: 2, Signed: wantFailed, Already: 2 - wantFailed})
				for _, f := range []inventory.Format{inventory.Legacy, inventory.Bundle} {
					if err := b.judgeOf(t, ref, f, k.next.PublicKey(), k.next.id, true, true); err != nil {
						t.Errorf("cosign refuses the %s: %v", f, err)
					}
				}
				for statement, n := range count(k.found(t, ref), k.next.id) {
					wantEqual(t, statement, n, 1)
				}
				k.checkJournal(t)
			})
		}
	}
}

// TestCertificates uses one certificate for many signatures, and signs with what
// is good at that moment.
func TestCertificates(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	trusted, err := b.TrustedRoot()
	must(t, err)
	k := b.newCase(t)
	for n := range 20 {
		ref := k.push(t, fmt.Sprint(n))
		must(t, k.old.SignBundle(t.Context(), ref, sandbox.NoProof))
		k.plan(t, ref)
	}
	who := b.newIdentity()
	who.uses = 8
	e := k.engine(k.client)
	e.Signer, e.Root, e.Parallel = who, trusted, 0
	e.Services, err = services.Open(services.Endpoints{Timestamps: []string{b.TSAURL()}})
	must(t, err)
	got, err := e.Run(t.Context(), list{items: k.items})
	must(t, err)
	wantEqual(t, "result", got, Result{Planned: 20, Signed: 20})
	if n := who.issued.Load(); n < 3 || n > 20/2 {
		t.Errorf("%d certificates for 20 signatures, at most 8 each", n)
	}
}

// TestAnnotations re-signs what a proven signature annotated the image with, and
// nothing that is not proven.
func TestAnnotations(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	ref := k.push(t, "app")
	sub := subjectOf(ref)
	statement := func(value string) string {
		return fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"%s"},"annotations":{"stage":"%s","team":"web"}}],"predicateType":"%s","predicate":{}}`,
			strings.TrimPrefix(sub.Digest, "sha256:"), value, inventory.SignPredicate)
	}
	legacy := fmt.Sprintf(`{"critical":{"identity":{"docker-reference":"%s"},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":{"stage":"production"}}`,
		sub.Repository, sub.Digest)
	must(t, k.old.SignLegacy(t.Context(), ref, sandbox.NoProof))
	k.plan(t, ref)
	k.items[0].Formats = []inventory.Format{inventory.Legacy, inventory.Bundle}
	k.items[0].Proven = []Source{
		{inventory.Legacy, k.vault(t, legacy)},
		{inventory.Bundle, k.vault(t, fmt.Sprintf(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"x"}},"dsseEnvelope":{"payload":"%s","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"c2ln"}]}}`,
			encode(statement("another"))))},
	}
	// Nobody ever said both: nothing says both now.
	wantEqual(t, "result where they differ", k.run(t, k.client), Result{Planned: 2, Failed: 2})
	k.items[0].Proven[1].Content = k.vault(t, fmt.Sprintf(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"x"}},"dsseEnvelope":{"payload":"%s","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"c2ln"}]}}`,
		encode(statement("production"))))
	wantEqual(t, "result where one says it all", k.run(t, k.client), Result{Planned: 2, Signed: 2})
	for _, f := range k.found(t, ref) {
		if f.Signer != k.next.id {
			continue
		}
		notes, err := verify.Annotations(sub, f.Format, f.Content)
		must(t, err)
		wantEqual(t, string(f.Format), notes, map[string]any{"stage": "production", "team": "web"})
	}
	for _, f := range []inventory.Format{inventory.Legacy, inventory.Bundle} {
		cosignAccepts(t, k.bench, ref, k.next.PublicKey(), f, false)
	}
}

func (k *kase) vault(t *testing.T, content string) (digest string) {
	t.Helper()
	must(t, k.Update(t.Context(), by, func(tx *storeTx) (err error) {
		digest, err = tx.PutVault(t.Context(), []byte(content))
		return err
	}))
	return digest
}

// TestBatch signs many images of two repositories with one statement each, and
// has cosign accept each image.
func TestBatch(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k := b.newCase(t)
	var refs []name.Digest
	for n := range 24 {
		if n == 12 {
			k.repo += "-other"
		}
		ref := k.push(t, fmt.Sprint(n))
		must(t, errors.Join(k.old.SignLegacy(t.Context(), ref, sandbox.NoProof), k.old.SignBundle(t.Context(), ref, sandbox.NoProof)))
		k.plan(t, ref)
		refs = append(refs, ref)
	}
	// One of them was annotated: that is said of it, and of no other.
	annotated := refs[3]
	for n, i := range k.items {
		if i.Digest == annotated.DigestStr() {
			k.items[n].Proven = []Source{{inventory.Legacy, k.vault(t, fmt.Sprintf(`{"critical":{"identity":{"docker-reference":"%s"},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":{"stage":"production"}}`,
				i.Repository, i.Digest))}}
		}
	}
	e := k.engine(k.client)
	e.Batch, e.Parallel = true, 0
	got, err := e.Run(t.Context(), list{items: k.items})
	must(t, err)
	wantEqual(t, "result", got, Result{Planned: 48, Signed: 48})
	wantEqual(t, "uses of the key", k.next.signed, 24+2) // ".sig" one by one, bundles by repository
	named := map[string][]string{}
	for _, ref := range refs {
		for _, f := range []inventory.Format{inventory.Legacy, inventory.Bundle} {
			cosignAccepts(t, b, ref, k.next.PublicKey(), f, false)
		}
		for _, f := range k.found(t, ref) {
			if f.Signer == k.next.id && f.Format == inventory.Bundle {
				notes, err := verify.Annotations(subjectOf(ref), f.Format, f.Content)
				must(t, err)
				if annotated == ref != (len(notes) == 1) {
					t.Errorf("%s is annotated with %v", ref, notes)
				}
				message, err := verify.Payload(f.Format, f.Content)
				must(t, err)
				var s struct {
					Subject []struct{ Digest map[string]string }
				}
				must(t, json.Unmarshal(message, &s))
				wantEqual(t, "subjects", len(s.Subject), 12)
				for _, d := range s.Subject {
					named[ref.Context().Name()] = append(named[ref.Context().Name()], "sha256:"+d.Digest["sha256"])
				}
			}
		}
	}
	for _, ref := range refs { // never across repositories
		for repository, digests := range named {
			if slices.Contains(digests, ref.DigestStr()) != (repository == ref.Context().Name()) {
				t.Errorf("%s is named in %s", ref, repository)
			}
		}
	}
	wantEqual(t, "result once more", k.batchAgain(t), Result{Planned: 48, Already: 48})
}

// TestBatchOfWhatCannotBeSaid has one image in a batch of which nobody can say how
// it is annotated: the others are signed all the same.
func TestBatchOfWhatCannotBeSaid(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	for n := range 4 {
		ref := k.push(t, fmt.Sprint(n))
		must(t, k.old.SignBundle(t.Context(), ref, sandbox.NoProof))
		k.plan(t, ref)
	}
	odd := &k.items[2]
	for _, stage := range []string{"test", "production"} {
		odd.Proven = append(odd.Proven, Source{inventory.Legacy, k.vault(t, fmt.Sprintf(`{"critical":{"identity":{"docker-reference":"%s"},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":{"stage":"%s"}}`,
			odd.Repository, odd.Digest, stage))})
	}
	wantEqual(t, "result", k.batchAgain(t), Result{Planned: 4, Signed: 3, Failed: 1})
	wantEqual(t, "uses of the key", k.next.signed, 1)
	for _, row := range k.reissues(t) {
		if odd.Seq == row.Seq != strings.Contains(row.Why, "annotate the image differently") {
			t.Errorf("%d: %q", row.Seq, row.Why)
		}
	}
}

func (k *kase) batchAgain(t *testing.T) Result {
	t.Helper()
	e := k.engine(k.client)
	e.Batch = true
	got, err := e.Run(t.Context(), list{items: k.items})
	must(t, err)
	return got
}

// images plans so many images, which are nowhere, in repositories in turn.
func (k *kase) images(n int, repositories ...string) {
	for range n {
		at := len(k.items)
		k.items = append(k.items, Item{Seq: int64(at + 1), Repository: repositories[at%len(repositories)], Digest: inventory.Digest([]byte{byte(at), byte(at >> 8)}),
			PredicateType: inventory.SignPredicate, StatementKey: inventory.SignPredicate, Formats: []inventory.Format{inventory.Legacy}})
	}
}

// TestGivesUp stops when nothing works, instead of trying everything.
func TestGivesUp(t *testing.T) {
	t.Parallel()
	k := newBench(t).newCase(t)
	k.images(5*chunk, k.Registry()+"/"+k.repo)
	readOnly := &wrapper{Registry: k.client, failAt: -1, fault: lost}
	e := k.engine(readOnly)
	e.Parallel = 0
	got, err := e.Run(t.Context(), list{items: k.items})
	if !errors.Is(err, ErrGaveUp) || got.Signed != 0 || got.Failed < patience || got.Failed > 4*chunk || got.Failed+got.Left != got.Planned {
		t.Errorf("got %+v, %v, want it to stop early", got, err)
	}
	for _, r := range k.reissues(t)[got.Failed:] {
		t.Errorf("unit %d was left alone, and is recorded as %s", r.Seq, r.State)
	}
	got, err = k.engine(k.client).Run(t.Context(), list{items: k.items})
	must(t, err)
	wantEqual(t, "result once it takes writes", got, Result{Planned: 5 * chunk, Signed: 5 * chunk})
	wantEqual(t, "uses of the key", k.next.signed, 5*chunk)
}

// down is a registry, or a signer, that does not work.
type down struct {
	Registry
	host string
	err  error
}

func (d down) PutBlob(ctx context.Context, repository string, content []byte) (string, error) {
	if strings.HasPrefix(repository, d.host+"/") {
		return "", d.err
	}
	return d.Registry.PutBlob(ctx, repository, content)
}

type brokenKey struct{ *ecKey }

func (k brokenKey) Sign(ctx context.Context, message []byte) ([]byte, error) {
	_, err := k.ecKey.Sign(ctx, message)
	return nil, errors.Join(errFault, err)
}

// TestFaultDown has something that does not work any more: the run goes on where
// it does not matter, and nowhere else.
func TestFaultDown(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	second := strings.Replace(b.Registry(), "127.0.0.1", "localhost", 1)
	repositories := func(host string) (out []string) {
		for n := range 100 {
			out = append(out, fmt.Sprintf("%s/%s%d", host, "acme/"+strings.ToLower(rand.Text()), n))
		}
		return out
	}
	t.Run("a registry", func(t *testing.T) {
		t.Parallel()
		k := b.newCase(t)
		k.images(6*chunk, repositories(b.Registry())...)
		good := repositories(second)
		k.images(100, good...)
		e := k.engine(down{k.client, b.Registry(), &registry.Error{Op: "put blob", Status: http.StatusServiceUnavailable}})
		e.Parallel = 8
		got, err := e.Run(t.Context(), list{items: k.items})
		var left LeftError
		if !errors.As(err, &left) || len(left.Why) != 1 || left.In(repositories(b.Registry())[0]) == "" || left.In(good[0]) != "" {
			t.Errorf("got %v, want all of %s left alone", err, b.Registry())
		}
		if got.Signed != 100 || got.Failed > 4*chunk || got.Failed+got.Left != 6*chunk {
			t.Errorf("got %+v, want the other registry's signed", got)
		}
	})
	t.Run("a registry that refuses", func(t *testing.T) { // what somebody may not write says nothing of the rest
		t.Parallel()
		k := b.newCase(t)
		k.images(6*chunk, repositories(b.Registry())...)
		e := k.engine(down{k.client, b.Registry(), &registry.Error{Op: "put blob", Status: http.StatusForbidden}})
		e.Parallel = 8
		got, err := e.Run(t.Context(), list{items: k.items})
		must(t, err)
		wantEqual(t, "result", got, Result{Planned: 6 * chunk, Failed: 6 * chunk})
	})
	t.Run("the signer", func(t *testing.T) {
		t.Parallel()
		k := b.newCase(t)
		k.images(6*chunk, repositories(b.Registry())...)
		e := k.engine(k.client)
		e.Signer = signer.Always(brokenKey{k.next})
		got, err := e.Run(t.Context(), list{items: k.items})
		if !errors.Is(err, ErrGaveUp) || errors.As(err, new(LeftError)) || got.Signed != 0 || got.Failed > 4*chunk || k.next.signed > 4*chunk {
			t.Errorf("got %+v, %v and %d uses of the key, want it to stop early", got, err, k.next.signed)
		}
	})
}

// TestResumeWithoutProofs publishes what an earlier run persisted, although that
// one asked no service for proofs and this one does.
func TestResumeWithoutProofs(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	k := b.newCase(t)
	ref := k.push(t, "app")
	must(t, errors.Join(k.old.SignLegacy(t.Context(), ref, sandbox.NoProof), k.old.SignBundle(t.Context(), ref, sandbox.NoProof)))
	k.plan(t, ref)
	wantEqual(t, "result while nothing can be written", k.run(t, &wrapper{Registry: k.client, failAt: -1, fault: lost}), Result{Planned: 2, Failed: 2})
	persisted := k.reissues(t)
	e := k.engine(k.client)
	var err error
	e.Root, err = b.TrustedRoot()
	must(t, err)
	e.Services, err = services.Open(services.Endpoints{Timestamps: []string{b.TSAURL()}})
	must(t, err)
	e.Failed = func(f Failure) { t.Errorf("%s: %s", f.Format, f.Why) }
	got, err := e.Run(t.Context(), list{items: k.items})
	must(t, err)
	wantEqual(t, "result", got, Result{Planned: 2, Signed: 2})
	wantEqual(t, "uses of the key", k.next.signed, 2)
	for n, r := range k.reissues(t) {
		wantEqual(t, "content", r.Content, persisted[n].Content)
	}
}

// TestAttack has somebody who can write to the registry, and has no key, go
// against what is signed again.
func TestAttack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	trusted, err := b.TrustedRoot()
	must(t, err)
	stamped, err := services.Open(services.Endpoints{Timestamps: []string{b.TSAURL()}})
	must(t, err)
	attackFiles(t, b)
	signed := func(t *testing.T) (*kase, name.Digest) {
		k := b.newCase(t)
		ref := k.push(t, "app")
		must(t, k.old.SignLegacy(t.Context(), ref, sandbox.NoProof))
		k.plan(t, ref)
		e := k.engine(k.client)
		e.Root, e.Services = trusted, stamped
		got, err := e.Run(t.Context(), list{items: k.items})
		must(t, err)
		wantEqual(t, "result", got, Result{Planned: 1, Signed: 1})
		return k, ref
	}
	again := func(t *testing.T, k *kase, want Result) {
		e := k.engine(k.client)
		e.Root, e.Services = trusted, stamped
		e.Failed = func(f Failure) { t.Errorf("%s: %s", f.Format, f.Why) }
		got, err := e.Run(t.Context(), list{items: k.items})
		must(t, err)
		wantEqual(t, "result of the next run", got, want)
	}
	change := func(t *testing.T, k *kase, ref name.Digest, do func(*v1.Manifest)) {
		repository, tag := ref.Context().Name(), verify.Tag(ref.DigestStr(), inventory.Legacy)
		m, err := k.client.Manifest(t.Context(), repository, tag)
		must(t, err)
		var image v1.Manifest
		must(t, json.Unmarshal(m.Raw, &image))
		do(&image)
		raw, err := json.Marshal(image)
		must(t, err)
		_, _, err = k.client.PutManifest(t.Context(), repository, tag, m.MediaType, raw)
		must(t, err)
	}
	strict := func(t *testing.T, k *kase, ref name.Digest) {
		if err := b.judgeOf(t, ref, inventory.Legacy, k.next.PublicKey(), k.next.id, false, true); err != nil {
			t.Errorf("cosign, which asks for the timestamp, refuses it: %v", err)
		}
	}
	t.Run("a copy without its proofs in the place of the new signature", func(t *testing.T) {
		t.Parallel()
		k, ref := signed(t)
		change(t, k, ref, func(m *v1.Manifest) {
			delete(m.Layers[len(m.Layers)-1].Annotations, "dev.sigstore.cosign/rfc3161timestamp")
		})
		again(t, k, Result{Planned: 1, Signed: 1})
		strict(t, k, ref)
		wantEqual(t, "uses of the key", k.next.signed, 1)
	})
	t.Run("a copy with a broken proof before the new signature", func(t *testing.T) {
		t.Parallel()
		k, ref := signed(t)
		change(t, k, ref, func(m *v1.Manifest) {
			broken := *m.Layers[len(m.Layers)-1].DeepCopy()
			broken.Annotations["dev.sigstore.cosign/rfc3161timestamp"] = `{"SignedRFC3161Timestamp":"AAAA"}`
			m.Layers = append([]v1.Descriptor{broken}, m.Layers...)
		})
		again(t, k, Result{Planned: 1, Already: 1})
		wantEqual(t, "uses of the key", k.next.signed, 1)
	})
	t.Run("a claim that is also about another image", func(t *testing.T) {
		t.Parallel()
		k := b.newCase(t)
		good, rogue := k.push(t, "good"), k.push(t, "rogue")
		must(t, k.old.SignBundle(t.Context(), good, sandbox.NoProof))
		k.plan(t, good)
		statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}},{"digest":{"sha256":%q}}],"predicateType":%q,"predicate":{}}`,
			strings.TrimPrefix(good.DigestStr(), "sha256:"), strings.TrimPrefix(rogue.DigestStr(), "sha256:"), spdx)
		i := k.items[0]
		i.Seq, i.PredicateType, i.StatementKey, i.Formats = 2, spdx, spdx+"#"+inventory.Digest([]byte(statement)), []inventory.Format{inventory.Bundle, inventory.LegacyAtt}
		i.SourceFormat = inventory.LegacyAtt
		i.SourceContent = k.vault(t, fmt.Sprintf(`{"payload":%q,"payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"c2ln"}]}`, encode(statement)))
		k.items = append(k.items, i)
		wantEqual(t, "result", k.run(t, k.client), Result{Planned: 3, Signed: 1, Failed: 2})
		k.items[1].Also = []string{rogue.DigestStr()} // the plan knows it to be good
		wantEqual(t, "result where both are good", k.run(t, k.client), Result{Planned: 3, Signed: 2, Already: 1})
	})
	t.Run("a repository in which nothing can be added, before others", func(t *testing.T) {
		t.Parallel()
		k := b.newCase(t)
		bad, good := k.Registry()+"/"+k.repo, k.Registry()+"/"+k.repo+"-other"
		k.images(6*chunk, bad)
		for _, i := range k.items {
			_, _, err := k.client.PutManifest(t.Context(), bad, verify.Tag(i.Digest, inventory.Legacy), string(types.OCIImageIndex),
				[]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`))
			must(t, err)
		}
		k.images(10, good)
		e := k.engine(k.client)
		e.Parallel = 8
		for _, want := range []Result{{Signed: 10}, {Already: 10}} {
			got, err := e.Run(t.Context(), list{items: k.items})
			var left LeftError
			if !errors.As(err, &left) || left.In(bad) == "" || left.In(good) != "" || !errors.Is(err, ErrGaveUp) || !strings.Contains(err.Error(), bad+" (") {
				t.Errorf("got %v, want %s left alone", err, bad)
			}
			if got.Signed != want.Signed || got.Already != want.Already || got.Left == 0 || got.Failed < patience || got.Failed+got.Left != 6*chunk {
				t.Errorf("got %+v, want %+v and nothing more", got, want)
			}
		}
	})
	t.Run("a bundle that names an image which is held by now", func(t *testing.T) {
		t.Parallel()
		k := b.newCase(t)
		var refs []name.Digest
		for n := range 4 {
			refs = append(refs, k.push(t, fmt.Sprint(n)))
			must(t, k.old.SignBundle(t.Context(), refs[n], sandbox.NoProof))
			k.plan(t, refs[n])
		}
		e := k.engine(&wrapper{Registry: k.client, failAt: -1, fault: lost})
		e.Batch = true
		got, err := e.Run(t.Context(), list{items: k.items})
		must(t, err)
		wantEqual(t, "result while nothing can be written", got, Result{Planned: 4, Failed: 4})
		rogue := refs[2].DigestStr()
		e.Registry = k.client
		got, err = e.Run(t.Context(), list{k.items, func(i Item) (string, error) {
			if i.Digest == rogue {
				return "marked rogue", nil
			}
			return "", nil
		}})
		must(t, err)
		wantEqual(t, "result", got, Result{Planned: 4, Signed: 3, Held: 1})
		for _, ref := range refs {
			for _, f := range k.found(t, ref) {
				if f.Signer != k.next.id {
					continue
				}
				subjects, err := verify.Subjects(f.Content)
				must(t, err)
				if slices.Contains(subjects, rogue) {
					t.Errorf("the new signer states %s, which is held, on %s", rogue, ref)
				}
			}
		}
	})
}

// TestServiceLeftTheRoot gives up persisted bytes that no verifier accepts any
// more, and signs anew; what is published and accepted stays.
func TestServiceLeftTheRoot(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	elsewhere := newBench(t)
	k := b.newCase(t)
	ref := k.push(t, "app")
	must(t, k.old.SignLegacy(t.Context(), ref, sandbox.NoProof))
	k.plan(t, ref)
	e := k.engine(&wrapper{Registry: k.client, failAt: -1, fault: lost})
	var err error
	e.Root, err = elsewhere.TrustedRoot()
	must(t, err)
	e.Services, err = services.Open(services.Endpoints{Timestamps: []string{elsewhere.TSAURL()}})
	must(t, err)
	got, err := e.Run(t.Context(), list{items: k.items})
	must(t, err)
	wantEqual(t, "result while nothing can be written", got, Result{Planned: 1, Failed: 1})
	e.Registry = k.client
	e.Root, err = b.TrustedRoot()
	must(t, err)
	e.Services, err = services.Open(services.Endpoints{Timestamps: []string{b.TSAURL()}})
	must(t, err)
	got, err = e.Run(t.Context(), list{items: k.items})
	must(t, err)
	wantEqual(t, "result once the authority left the root", got, Result{Planned: 1, Failed: 1})
	got, err = e.Run(t.Context(), list{items: k.items})
	must(t, err)
	wantEqual(t, "result of the run after that", got, Result{Planned: 1, Signed: 1})
	wantEqual(t, "signatures by the new signer", count(k.found(t, ref), k.next.id), map[string]int{"legacy " + inventory.SignPredicate: 1})
	k.checkJournal(t)
}

// TestRequests holds the requests of an image, with the look and the read-back,
// where nothing was signed before and the registry has a referrers API.
func TestRequests(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for f, most := range map[inventory.Format]float64{inventory.Legacy: 5.2, inventory.Bundle: 5.2} {
		k := b.newCase(t)
		client := registry.New(registry.Options{Keychain: authn.NewMultiKeychain()})
		const images = 2 * chunk
		for n := range images {
			k.items = append(k.items, Item{Seq: int64(n + 1), Repository: k.Registry() + "/" + k.repo, Digest: inventory.Digest(fmt.Append(nil, f, n)), MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 1,
				PredicateType: inventory.SignPredicate, StatementKey: inventory.SignPredicate, Formats: []inventory.Format{f}})
		}
		wantEqual(t, "result", k.run(t, client), Result{Planned: images, Signed: images})
		if got := float64(client.Requests()) / images; got > most {
			t.Errorf("%s: %.3f requests an image, want %.1f at most", f, got, most)
		} else {
			t.Logf("%s: %.3f requests an image", f, got)
		}
	}
}
