package drill

import (
	"bytes"
	"context"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	ssldsse "github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	sgbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	sigdsse "github.com/sigstore/sigstore/pkg/signature/dsse"
	"golang.org/x/sync/errgroup"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate"
)

const (
	probeParallel = 4                     // artifacts that a sweep looks at at once
	probePause    = 15 * time.Millisecond // between two probes of the watch: it shares the machine with what it watches
	probeTries    = 3                     // before a registry that does not answer ends the drill
)

// prober verifies what is in the registry, as it is now, with cosign's library
// and nothing of the product's.
type prober struct {
	scenario *scenario
	root     root.TrustedMaterial
	next     signature.Verifier // the new signer's key
	probes   atomic.Int64
	tracker  *tracker
	last     sweep // the latest
	// Sweeps are taken one at a time; what was laundered once counts, even if
	// it was taken away again.
	everLaundered map[string]bool
}

func newProber(s *scenario) (*prober, error) {
	p := &prober{scenario: s, tracker: newTracker(s.consumers, s.firstRogue), everLaundered: map[string]bool{}}
	var err error
	if p.root, err = s.world.TrustedRoot(); err != nil {
		return nil, err
	}
	if p.next, err = loadVerifier(s.standby.PublicKeyPEM()); err != nil {
		return nil, err
	}
	return p, nil
}

// loadVerifier reads a key as cosign's --key does.
func loadVerifier(pem []byte) (signature.Verifier, error) {
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(pem)
	if err != nil {
		return nil, err
	}
	return signature.LoadVerifier(pub, crypto.SHA256)
}

// evidence is what hangs on an artifact in the registry, unverified.
type evidence struct {
	gone    bool // the artifact itself is
	hash    v1.Hash
	sigs    []oci.Signature
	atts    []oci.Signature
	bundles []*sgbundle.Bundle
}

// fetch reads what hangs on an artifact. An error means that the registry did
// not answer, which proves neither that an image passes nor that it does not.
func (p *prober) fetch(ctx context.Context, ref name.Digest) (e evidence, err error) {
	for range probeTries {
		if e, err = p.fetchOnce(ctx, ref); err == nil || ctx.Err() != nil {
			return e, err
		}
	}
	return e, fmt.Errorf("probing %s: %w", ref, err)
}

func (p *prober) fetchOnce(ctx context.Context, ref name.Digest) (evidence, error) {
	// No credentials of the user are read or sent.
	opts := []remote.Option{remote.WithContext(ctx), remote.WithAuth(authn.Anonymous)}
	e := evidence{}
	var err error
	if e.hash, err = v1.NewHash(ref.DigestStr()); err != nil {
		return e, err
	}
	if _, err := remote.Head(ref, opts...); isNotFound(err) {
		e.gone = true
		return e, nil
	} else if err != nil {
		return e, err
	}
	registry := ociremote.WithRemoteOptions(opts...)
	for suffix, into := range map[string]*[]oci.Signature{"sig": &e.sigs, "att": &e.atts} {
		tag := ref.Context().Tag(e.hash.Algorithm + "-" + e.hash.Hex + "." + suffix)
		set, err := ociremote.Signatures(tag, registry)
		if err != nil && !isNotFound(err) {
			return e, err
		}
		if err == nil {
			if *into, err = set.Get(); err != nil && !isNotFound(err) {
				return e, err
			}
		}
	}
	bundles, _, err := cosign.GetBundles(ctx, ref, &cosign.CheckOpts{RegistryClientOpts: []ociremote.Option{registry}})
	if none := (*cosign.ErrNoMatchingAttestations)(nil); err != nil && !errors.As(err, &none) && !isNotFound(err) {
		return e, err
	}
	e.bundles = bundles
	return e, ctx.Err()
}

func isNotFound(err error) bool {
	var t *transport.Error
	return errors.As(err, &t) && t.StatusCode == http.StatusNotFound
}

// options are those of "cosign verify --key --insecure-ignore-tlog --offline".
func (p *prober) options(key signature.Verifier) *cosign.CheckOpts {
	p.probes.Add(1)
	return &cosign.CheckOpts{SigVerifier: key, TrustedMaterial: p.root, Offline: true, IgnoreSCT: true, IgnoreTlog: true,
		ClaimVerifier: cosign.SimpleClaimVerifier}
}

// guarded turns a panic of the library into a refusal: what it reads was
// written by an attacker.
func guarded(do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the verifier panicked: %v", r)
		}
	}()
	return do()
}

var (
	errGone     = errors.New("it is no longer in the registry")
	errUnsigned = errors.New("it has no signature in the format this consumer reads")
)

// signedBy verifies the ".sig" tag.
func (p *prober) signedBy(ctx context.Context, e evidence, key signature.Verifier) error {
	err := errUnsigned
	for _, s := range e.sigs {
		// One by one and here: cosign's own loop runs in goroutines whose panics
		// nobody can catch.
		err = guarded(func() error {
			_, err := cosign.VerifyImageSignature(ctx, s, e.hash, p.options(key))
			return err
		})
		if err == nil {
			return nil
		}
	}
	return err
}

// bundlePayloads returns what the bundles state that the key signed.
func (p *prober) bundlePayloads(ctx context.Context, e evidence, key signature.Verifier) ([][]byte, error) {
	var out [][]byte
	digest, err := hex.DecodeString(e.hash.Hex)
	if err != nil {
		return nil, err
	}
	err = errUnsigned
	for _, b := range e.bundles {
		verr := guarded(func() error {
			_, err := cosign.VerifyNewBundle(ctx, p.options(key), sgverify.WithArtifactDigest(e.hash.Algorithm, digest), b)
			if err == nil && b.GetDsseEnvelope() == nil {
				err = errors.New("the bundle has no DSSE envelope")
			}
			return err
		})
		if verr != nil {
			err = verr
			continue
		}
		out = append(out, b.GetDsseEnvelope().GetPayload())
	}
	if len(out) > 0 {
		err = nil
	}
	return out, err
}

// attPayloads returns what the ".att" tag states that the key signed.
func (p *prober) attPayloads(e evidence, key signature.Verifier) [][]byte {
	var out [][]byte
	for _, s := range e.atts {
		var payload []byte
		err := guarded(func() error {
			p.probes.Add(1)
			raw, err := s.Payload()
			if err != nil {
				return err
			}
			if err := sigdsse.WrapVerifier(key).VerifySignature(bytes.NewReader(raw), nil); err != nil {
				return err
			}
			if err := cosign.IntotoSubjectClaimVerifier(s, e.hash, nil); err != nil {
				return err
			}
			var envelope ssldsse.Envelope
			if err := json.Unmarshal(raw, &envelope); err != nil {
				return err
			}
			payload, err = envelope.DecodeB64Payload()
			return err
		})
		if err == nil {
			out = append(out, payload)
		}
	}
	return out
}

// accepts is whether a consumer that reads a format and pins a key accepts the
// image; the error says why not. A bundle reader accepts an image for any
// bundle on it, whatever that says: cosign does.
func (p *prober) accepts(ctx context.Context, e evidence, f inventory.Format, key signature.Verifier) error {
	if e.gone {
		return errGone
	}
	if f == inventory.Legacy {
		return p.signedBy(ctx, e, key)
	}
	_, err := p.bundlePayloads(ctx, e, key)
	return err
}

// keeps is accepts for an image that must stay lit. It is stricter: once there
// is a bundle on an image, newer cosigns no longer look at its ".sig", and the
// bundles have to pass as well.
func (p *prober) keeps(ctx context.Context, e evidence, f inventory.Format, key signature.Verifier) error {
	err := p.accepts(ctx, e, f, key)
	if err == nil && f == inventory.Legacy && len(e.bundles) > 0 {
		if _, err = p.bundlePayloads(ctx, e, key); err != nil {
			err = fmt.Errorf("a bundle on it hides its \".sig\" from cosign, and no bundle passes: %w", err)
		}
	}
	return err
}

// states reports whether a key makes a claim about the image, in the given
// formats.
func (p *prober) states(ctx context.Context, e evidence, key signature.Verifier, predicateType string, predicate any, formats ...inventory.Format) bool {
	if e.gone {
		return false
	}
	var payloads [][]byte
	for _, f := range formats {
		if f == inventory.Legacy {
			payloads = append(payloads, p.attPayloads(e, key)...)
		} else if found, err := p.bundlePayloads(ctx, e, key); err == nil {
			payloads = append(payloads, found...)
		}
	}
	want, err := json.Marshal(predicate)
	if err != nil {
		return false
	}
	for _, payload := range payloads {
		var st struct {
			PredicateType string          `json:"predicateType"`
			Predicate     json.RawMessage `json:"predicate"`
		}
		// By meaning, not by bytes: other white space makes it no better.
		if json.Unmarshal(payload, &st) == nil && st.PredicateType == predicateType && sameJSON(st.Predicate, want) {
			return true
		}
	}
	return false
}

func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// anchor returns the key that stands in a consumer's anchor now.
func anchor(c rotate.Consumer) (raw []byte, key signature.Verifier, err error) {
	if raw, err = os.ReadFile(c.Anchor); err != nil {
		return nil, nil, err
	}
	if key, err = loadVerifier(raw); err != nil {
		return raw, nil, fmt.Errorf("the anchor of %s: %w", c.Name, err)
	}
	return raw, key, nil
}

// lit is whether an image that must stay accepted is, at its consumer.
func (p *prober) lit(ctx context.Context, a *artifact, c rotate.Consumer) (refused, err error) {
	for {
		before, key, aerr := anchor(c)
		e, err := p.fetch(ctx, a.ref)
		if err != nil {
			return nil, err
		}
		if refused = aerr; refused == nil {
			refused = p.keeps(ctx, e, a.format, key)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if refused == nil {
			return nil, nil
		}
		// A key read before a cut-over and signatures read after it never met.
		if after, _, aerr := anchor(c); aerr != nil || bytes.Equal(before, after) {
			return refused, nil
		}
	}
}

// sweep is what one look at everything found.
type sweep struct {
	at        time.Time
	rogue     map[string][]string // consumer → what it accepts of the attacker's
	refused   []string            // good and proven, and refused at the consumer's anchor
	unsigned  []string            // good and proven, and not signed by the new key
	laundered []string            // accepted with the new key, and nothing proves it good
	dark      int                 // deployed, good and refused
}

func (s sweep) contained() bool {
	for _, items := range s.rogue {
		if len(items) > 0 {
			return false
		}
	}
	return true
}

func (s sweep) recovered() bool { return s.contained() && len(s.refused) == 0 && len(s.unsigned) == 0 }

// sweep looks at every artifact of the scenario.
func (p *prober) sweep(ctx context.Context) (sweep, error) {
	// The start: no step runs during a sweep, so what it finds held since.
	out := sweep{at: p.scenario.world.Clock().Now(), rogue: map[string][]string{}}
	var mu sync.Mutex
	add := func(to *[]string, what string) {
		mu.Lock()
		defer mu.Unlock()
		*to = append(*to, what)
	}
	rogue := func(c rotate.Consumer, what string) {
		mu.Lock()
		defer mu.Unlock()
		out.rogue[c.Name] = append(out.rogue[c.Name], what)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(probeParallel)
	for _, a := range slices.Concat(p.scenario.artifacts, p.scenario.late) {
		g.Go(func() error {
			e, err := p.fetch(gctx, a.ref)
			if err != nil {
				return err
			}
			for _, c := range p.scenario.consumers {
				_, key, aerr := anchor(c)
				if a.proven && c.Reads == a.format {
					at := p.scenario.world.Clock().Now()
					refused, err := p.lit(gctx, a, c)
					if err != nil {
						return err
					}
					if refused != nil {
						add(&out.refused, a.String()+" at "+c.Name+": "+refused.Error())
					}
					if a.deployed {
						p.tracker.seen(c.Name, a, at, refused)
						if refused != nil {
							mu.Lock()
							out.dark++
							mu.Unlock()
						}
					}
				}
				if aerr != nil {
					continue // it accepts nothing
				}
				if a.rogue && p.accepts(gctx, e, c.Reads, key) == nil {
					rogue(c, a.String())
				}
				if a.vex != nil && p.states(gctx, e, key, vex, a.vex, c.Reads) {
					rogue(c, "the rogue VEX on "+a.String())
				}
			}
			switch {
			case a.proven:
				if err := p.keeps(gctx, e, a.format, p.next); err != nil {
					add(&out.unsigned, a.String()+": "+err.Error())
				}
				if a.hasSBOM && !p.states(gctx, e, p.next, sbom, a.sbom(), a.format) {
					add(&out.unsigned, a.String()+": its SBOM is not signed by the new key")
				}
			case p.accepts(gctx, e, inventory.Legacy, p.next) == nil, p.accepts(gctx, e, inventory.Bundle, p.next) == nil,
				!e.gone && len(p.attPayloads(e, p.next)) > 0:
				add(&out.laundered, a.String())
			}
			if a.vex != nil && p.states(gctx, e, p.next, vex, a.vex, inventory.Legacy, inventory.Bundle) {
				add(&out.laundered, "the rogue VEX on "+a.String())
			}
			return gctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return out, err
	}
	p.tracker.swept(out)
	for _, names := range []*[]string{&out.refused, &out.unsigned, &out.laundered} {
		slices.Sort(*names)
	}
	for _, what := range out.laundered {
		p.everLaundered[what] = true
	}
	p.last = out
	return out, nil
}

// watch probes the deployed good images over and over until the returned
// function is called, which says whether it was able to.
func (p *prober) watch(ctx context.Context) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- p.watching(ctx) }()
	return func() error {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	}
}

func (p *prober) watching(ctx context.Context) error {
	pause := time.NewTicker(probePause)
	defer pause.Stop()
	for {
		for _, c := range p.scenario.consumers {
			for _, a := range p.scenario.artifacts {
				if !a.good || !a.deployed || a.format != c.Reads {
					continue
				}
				at := p.scenario.world.Clock().Now()
				refused, err := p.lit(ctx, a, c)
				if err != nil {
					return errors.Join(ctx.Err(), err)
				}
				p.tracker.seen(c.Name, a, at, refused)
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-pause.C:
				}
			}
		}
	}
}
