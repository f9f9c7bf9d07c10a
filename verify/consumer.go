package verify

import (
	"context"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	cbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	sgbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// Consumer verifies as a deployed cosign would, with one public key or for one
// keyless identity. It is for reading back what was written and for probes, not
// for judging evidence.
type Consumer struct {
	Key      crypto.PublicKey     // nil: Identity
	Identity signer.Identity      // of certificates, without a Key
	Root     root.TrustedMaterial // may be nil with a Key, when no timestamp is required
	// RequireTimestamp asks for a proof of time, and that each kind of proof
	// the signature carries verifies. Without it the consumer is one that runs
	// with --insecure-ignore-tlog.
	RequireTimestamp bool
}

// options are what cosign's flags set for "verify --key --offline".
func (c Consumer) options(ctx context.Context, sub Subject, logged, stamped bool) (*cosign.CheckOpts, v1.Hash, error) {
	if err := ctx.Err(); err != nil {
		return nil, v1.Hash{}, err
	}
	if err := inventory.CheckDigest(sub.Digest); err != nil {
		return nil, v1.Hash{}, err
	}
	if c.RequireTimestamp && !logged && !stamped {
		return nil, v1.Hash{}, errors.New("it carries no proof of time, which this consumer requires")
	}
	if c.RequireTimestamp && c.Root == nil {
		return nil, v1.Hash{}, errors.New("a proof of time is required, but " + noRoot)
	}
	opts := &cosign.CheckOpts{
		TrustedMaterial:     c.Root,
		ClaimVerifier:       cosign.SimpleClaimVerifier,
		IgnoreSCT:           true,
		IgnoreTlog:          !c.RequireTimestamp || !logged,
		UseSignedTimestamps: c.RequireTimestamp && stamped,
		Offline:             true,
	}
	if c.Key == nil {
		if c.Root == nil {
			return nil, v1.Hash{}, errors.New("a keyless signature needs a trusted root to verify: " + noRoot)
		}
		opts.Identities = []cosign.Identity{{Issuer: c.Identity.Issuer, Subject: c.Identity.Subject}}
		opts.IgnoreSCT = len(c.Root.CTLogs()) == 0
	} else {
		// SHA-256 whatever the key, as cosign loads a key given with --key.
		v, err := signature.LoadVerifier(c.Key, crypto.SHA256)
		if err != nil {
			return nil, v1.Hash{}, fmt.Errorf("the consumer's key: %w", err)
		}
		opts.SigVerifier = v
	}
	return opts, v1.Hash{Algorithm: "sha256", Hex: strings.TrimPrefix(sub.Digest, "sha256:")}, nil
}

// Legacy verifies a layer of a ".sig" manifest with cosign itself.
func (c Consumer) Legacy(ctx context.Context, sub Subject, annotations map[string]string, payload []byte) error {
	return c.layer(ctx, sub, annotations, payload, cosign.SimpleClaimVerifier, cosign.VerifyImageSignature)
}

// Attestation verifies a layer of an ".att" manifest with cosign itself.
func (c Consumer) Attestation(ctx context.Context, sub Subject, annotations map[string]string, envelope []byte) error {
	return c.layer(ctx, sub, annotations, envelope, cosign.IntotoSubjectClaimVerifier, cosign.VerifyBlobAttestation)
}

// layer verifies a layer with one of cosign's functions.
func (c Consumer) layer(ctx context.Context, sub Subject, annotations map[string]string, payload []byte,
	claims func(oci.Signature, v1.Hash, map[string]any) error,
	verify func(context.Context, oci.Signature, v1.Hash, *cosign.CheckOpts) (bool, error),
) error {
	rekor, token := annotations[static.BundleAnnotationKey], annotations[static.RFC3161TimestampAnnotationKey]
	opts, hash, err := c.options(ctx, sub, rekor != "", token != "")
	if err != nil {
		return err
	}
	opts.ClaimVerifier = claims
	// cosign takes the body of a log entry for text without looking, so the
	// annotations are read here first.
	var with []static.Option
	if rekor != "" {
		if _, _, _, err := decodeRekorBundle(rekor); err != nil {
			return err
		}
		var b cbundle.RekorBundle
		if err := json.Unmarshal([]byte(rekor), &b); err != nil {
			return fmt.Errorf("the annotation %s is not a Rekor bundle: %w", static.BundleAnnotationKey, err)
		}
		if _, ok := b.Payload.Body.(string); !ok {
			return fmt.Errorf("the annotation %s has no entry body", static.BundleAnnotationKey)
		}
		with = append(with, static.WithBundle(&b))
	}
	if token != "" {
		t := parseToken(token, nil)
		if t.err != nil {
			return t.err
		}
		with = append(with, static.WithRFC3161Timestamp(&cbundle.RFC3161Timestamp{SignedRFC3161Timestamp: t.der}))
	}
	if cert := annotations[static.CertificateAnnotationKey]; cert != "" {
		with = append(with, static.WithCertChain([]byte(cert), []byte(annotations[static.ChainAnnotationKey])))
	}
	return guard(func() error {
		sig, err := static.NewSignature(payload, annotations[static.SignatureAnnotationKey], with...)
		if err != nil {
			return err
		}
		_, err = verify(ctx, sig, hash, opts)
		return err
	})
}

// Bundle verifies a Sigstore bundle attached to an image as cosign does:
// through sigstore-go's whole verifier, and refusing what is no DSSE envelope.
func (c Consumer) Bundle(ctx context.Context, sub Subject, raw []byte) error {
	return guard(func() error {
		var b sgbundle.Bundle
		if err := b.UnmarshalJSON(raw); err != nil {
			return fmt.Errorf("it is not a Sigstore bundle: %w", err)
		}
		if err := c.verify(ctx, sub, &b); err != nil {
			return err
		}
		if b.GetDsseEnvelope() == nil {
			return errors.New("the bundle does not contain a DSSE envelope: cosign verifies no other on an image")
		}
		return nil
	})
}

// File verifies what is detached from a file as "cosign verify-blob" and
// "verify-blob-attestation" do with the file's digest. What is no Sigstore
// bundle, a blob signature, is held against the same verifier as one.
func (c Consumer) File(ctx context.Context, sub Subject, f inventory.Format, raw []byte) error {
	return guard(func() error {
		var b sgbundle.Bundle
		if l := parseLocal(f, raw); l != nil {
			bundle, err := l.bundle(sub)
			if err != nil {
				return err
			}
			whole, err := sgbundle.NewBundle(bundle)
			if err != nil {
				return fmt.Errorf("it verifies as no Sigstore bundle would: %w", err)
			}
			return c.verify(ctx, sub, whole)
		}
		if err := b.UnmarshalJSON(raw); err != nil {
			return fmt.Errorf("it is not a Sigstore bundle: %w", err)
		}
		return c.verify(ctx, sub, &b)
	})
}

// verify has sigstore-go verify a bundle by cosign's options.
func (c Consumer) verify(ctx context.Context, sub Subject, b *sgbundle.Bundle) error {
	m := b.GetVerificationMaterial()
	opts, hash, err := c.options(ctx, sub, len(m.GetTlogEntries()) > 0,
		len(m.GetTimestampVerificationData().GetRfc3161Timestamps()) > 0)
	if err != nil {
		return err
	}
	if opts.TrustedMaterial == nil {
		// cosign wants trusted material even where nothing is asked of it.
		opts.TrustedMaterial = &root.BaseTrustedMaterial{}
	}
	digest, err := hex.DecodeString(hash.Hex)
	if err != nil {
		return err
	}
	_, err = cosign.VerifyNewBundle(ctx, opts, sgverify.WithArtifactDigest(hash.Algorithm, digest), b)
	return err
}
