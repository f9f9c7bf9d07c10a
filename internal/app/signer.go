package app

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/reseal/reseal/internal/keyfile"
	"github.com/reseal/reseal/internal/keyless"
	"github.com/reseal/reseal/internal/kms"
	"github.com/reseal/reseal/internal/pkcs11"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// SignerOptions say how a signer is reached: a key by its reference, or a
// keyless identity by its certificate authority. They print without secrets.
type SignerOptions struct {
	// Key is a cosign key file, a KMS URI (awskms://, ...) or a PKCS #11 URI
	// (pkcs11:...).
	Key string
	// Password gives the password of a key file, PIN that of a token.
	Password func() ([]byte, error)
	PIN      func() ([]byte, error)
	// Metadata: it signs TUF metadata. An Ed25519 key file then signs the message
	// itself, as TUF has it, and not its digest, as cosign does.
	Metadata bool
	// Fulcio is the base URL of the CA that certifies a keyless identity.
	Fulcio string
	// IdentityToken is the file of the identity token; empty: the environment
	// has one.
	IdentityToken string
	// CertificateRate is how many certificates may be asked for in a minute; 0:
	// as keyless has it.
	CertificateRate float64
	// Getenv reads the environment; default os.Getenv.
	Getenv func(string) string
}

// String says how the signer is reached.
func (o SignerOptions) String() string {
	switch {
	case o.Key == "":
		return "keyless by " + kms.Redact(o.Fulcio)
	case pkcs11.Is(o.Key):
		return pkcs11.Redact(o.Key)
	}
	return kms.Redact(o.Key)
}

// GoString does the same for %#v.
func (o SignerOptions) GoString() string { return o.String() }

// Check refuses options that lead to no signer, or to two.
func (o SignerOptions) Check() error {
	switch {
	case o.Key == "" && o.Fulcio == "" && o.IdentityToken != "":
		return errors.New("--identity-token needs --fulcio-url: which CA certifies the identity?")
	case o.Key == "" && o.Fulcio == "":
		return errors.New("who signs? give --key (a file, a KMS URI or a PKCS #11 URI), or --fulcio-url for a keyless identity")
	case o.Key != "" && (o.Fulcio != "" || o.IdentityToken != ""):
		return errors.New("who signs? --key is one signer, --fulcio-url and --identity-token are another: give one of them")
	case keyless.LooksLikeToken(o.IdentityToken):
		return errors.New("--identity-token takes a file: a token on the command line can be seen by everybody on this machine, and is not renewed. Write it to a file, or set SIGSTORE_ID_TOKEN; take this one for leaked")
	case o.CertificateRate < 0:
		return errors.New("--certificate-rate must be positive")
	}
	return nil
}

// OpenSigner opens a signer.
func (a *App) OpenSigner(ctx context.Context, o SignerOptions) (signer.Source, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Key != "" {
		key, err := a.OpenKey(ctx, o)
		if err != nil {
			return nil, err
		}
		return signer.Always(key), nil
	}
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	var err error
	tokens := keyless.File(o.IdentityToken)
	if o.IdentityToken == "" {
		if tokens, err = keyless.Ambient(o.Getenv); err != nil {
			return nil, err
		}
	}
	s, err := keyless.Open(ctx, keyless.Options{Fulcio: o.Fulcio, Tokens: tokens, Rate: o.CertificateRate, Now: a.options.Now})
	if err != nil {
		return nil, err // and no typed nil
	}
	return s, nil
}

// OpenKey opens a key by its reference: a cosign key file, a KMS URI or a
// PKCS #11 URI.
func (a *App) OpenKey(ctx context.Context, o SignerOptions) (signer.Signer, error) {
	switch {
	case pkcs11.Is(o.Key):
		return pkcs11.Open(o.Key, given(o.PIN))
	case kms.Is(o.Key):
		k, err := kms.Open(ctx, o.Key, kms.Options{Plugins: a.config.KMSPlugins})
		if err != nil {
			return nil, err // and no typed nil
		}
		return k, nil
	}
	load := keyfile.Load
	if o.Metadata {
		load = keyfile.LoadPure
	}
	return load(o.Key, given(o.Password))
}

// given returns a function that gives a secret, an empty one where there is none.
func given(secret func() ([]byte, error)) func() ([]byte, error) {
	if secret != nil {
		return secret
	}
	return func() ([]byte, error) { return nil, nil }
}

// ProbePredicate is the type of what a signer signs to be tried. It says
// nothing about any artifact.
const ProbePredicate = "https://reseal.dev/probe/v1"

// SignerTest is what trying a signer showed.
type SignerTest struct {
	Reference   string           `json:"reference"` // how it was reached, without secrets
	OK          bool             `json:"ok"`
	Problem     string           `json:"problem,omitempty"`
	ID          string           `json:"id,omitempty"`
	Kind        signer.Kind      `json:"kind,omitempty"`
	Subject     string           `json:"subject,omitempty"`
	Issuer      string           `json:"issuer,omitempty"`
	Name        string           `json:"name,omitempty"`  // as enrolled
	State       signer.State     `json:"state,omitempty"` // empty: not known here
	OpenSeconds float64          `json:"open_seconds"`    // to reach it, its first certificate included
	SignSeconds float64          `json:"sign_seconds"`
	Certificate *TestCertificate `json:"certificate,omitempty"`
}

// TestCertificate is the certificate that a keyless signer was tried with.
type TestCertificate struct {
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	UsedUntil time.Time `json:"used_until"` // when the next one is asked for
}

// TestSigner tries a signer: it signs a statement that names itself a probe,
// which is published nowhere, and verifies it. What it is about to do is
// journaled before, and what came of it after.
func (a *App) TestSigner(ctx context.Context, o SignerOptions) (SignerTest, error) {
	out := SignerTest{Reference: o.String()}
	if err := o.Check(); err != nil {
		return out, err
	}
	probe, err := newProbe(a.now())
	if err != nil {
		return out, err
	}
	note := func(ctx context.Context, action, subject string) error {
		return a.store.Update(ctx, a.by("signer test of %s", out.Reference), func(tx *store.Tx) error {
			tx.Record(journal.Draft{Action: action, Subject: subject, Digest: inventory.Digest(probe)})
			return nil
		})
	}
	if err := note(ctx, "probe.intended", out.Reference); err != nil {
		return out, err
	}
	testErr := a.try(ctx, o, probe, &out)
	action, subject := "probe.signed", out.ID
	if testErr != nil {
		out.Problem, action = testErr.Error(), "probe.failed"
	}
	if subject == "" {
		subject = out.Reference
	}
	out.OK = testErr == nil
	// Also when it was interrupted: what was done is done.
	return out, errors.Join(testErr, note(context.WithoutCancel(ctx), action, subject))
}

// try opens a signer, signs the probe and verifies it.
func (a *App) try(ctx context.Context, o SignerOptions, probe []byte, out *SignerTest) error {
	start := time.Now()
	source, err := a.OpenSigner(ctx, o)
	out.OpenSeconds = time.Since(start).Seconds()
	if err != nil {
		return err
	}
	id := source.Identity()
	out.ID, out.Kind, out.Subject, out.Issuer = id.ID(), id.Kind, id.Subject, id.Issuer
	known, err := a.store.Signer(ctx, id.ID())
	if err != nil && !errors.Is(err, inventory.ErrNotFound) {
		return err
	}
	out.Name, out.State = known.Name, known.State
	c, err := source.Credential(ctx)
	if err != nil {
		return err
	}
	message := dsse.PAE("application/vnd.in-toto+json", probe)
	start = time.Now()
	sig, err := c.Sign(ctx, message)
	out.SignSeconds = time.Since(start).Seconds()
	if err != nil {
		return err
	}
	v, err := verify.New(verify.Trust{Keys: []crypto.PublicKey{c.PublicKey()}})
	if err != nil {
		return err
	}
	if _, err := v.Blob(message, sig); err != nil {
		return fmt.Errorf("the signature of %s does not verify with its own key", id)
	}
	if c.Certificate == nil {
		return nil
	}
	leaf, err := x509.ParseCertificate(c.Certificate)
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", id, err)
	}
	out.Certificate = &TestCertificate{NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC(), UsedUntil: c.Until.UTC()}
	if err := verify.Fresh(leaf, a.options.Now(), a.root); err != nil {
		return fmt.Errorf("%s signs, and nobody would accept it by the trusted root of this home: %w", id, err)
	}
	return nil
}

// newProbe makes a statement about a digest that nothing has.
func newProbe(now time.Time) ([]byte, error) {
	random := make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		Type      string           `json:"_type"`
		Subject   []map[string]any `json:"subject"`
		Predicate string           `json:"predicateType"`
		Body      map[string]any   `json:"predicate"`
	}{"https://in-toto.io/Statement/v1",
		[]map[string]any{{"name": "reseal signer test", "digest": map[string]string{"sha256": hex.EncodeToString(random)}}},
		ProbePredicate, map[string]any{"note": "a probe of the signer; it says nothing about any artifact", "at": now}})
}

// PromoteSigner makes a standby signer the active one, and the one that was
// active old. Where several are active, replaces names which. An incident's
// signer is not promoted.
func (a *App) PromoteSigner(ctx context.Context, name, replaces, reason string) (promoted signer.Record, old *signer.Record, err error) {
	err = a.store.Update(ctx, a.by("%s", reason), func(tx *store.Tx) error {
		if promoted, err = a.store.Signer(ctx, name); err != nil {
			return err
		}
		incidents, err := rotate.Incidents(ctx, a.store)
		if err != nil {
			return err
		}
		for _, i := range rotate.Rules(incidents) {
			if i.Names(promoted.Identity) {
				return fmt.Errorf("signer %s is under incident %s: it is not promoted", name, i.ID)
			}
		}
		if promoted.State != signer.Standby {
			return fmt.Errorf("signer %s is %s: only a standby one is promoted", name, promoted.State)
		}
		if err := a.checkApart(ctx, promoted); err != nil {
			return err
		}
		if old, err = a.replacedBy(ctx, replaces); err != nil {
			return err
		}
		promoted.State = signer.Active
		if old != nil {
			old.State = signer.Old
			if err := tx.PutSigner(ctx, *old); err != nil {
				return err
			}
		}
		return tx.PutSigner(ctx, promoted)
	})
	return promoted, old, err
}

// replacedBy returns the active signer that a promotion makes old; nil when
// none is active.
func (a *App) replacedBy(ctx context.Context, name string) (*signer.Record, error) {
	if name != "" {
		r, err := a.store.Signer(ctx, name)
		if err == nil && r.State != signer.Active {
			err = fmt.Errorf("signer %s is %s: only an active one is replaced", name, r.State)
		}
		return &r, err
	}
	records, err := a.store.Records(ctx)
	if err != nil {
		return nil, err
	}
	var active *signer.Record
	for _, r := range records {
		if r.State != signer.Active {
			continue
		}
		if active != nil {
			return nil, fmt.Errorf("%s and %s are both active: say with --replaces which becomes old", active.Name, r.Name)
		}
		active = &r
	}
	return active, nil
}
