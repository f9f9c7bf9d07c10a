package sandbox

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/go-openapi/strfmt"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcrstatic "github.com/google/go-containerregistry/pkg/v1/static"
	ggcrtypes "github.com/google/go-containerregistry/pkg/v1/types"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	cbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/mutate"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/cosign/v2/pkg/types"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/rekor/pkg/pki"
	rekortypes "github.com/sigstore/rekor/pkg/types"
	"github.com/sigstore/rekor/pkg/types/hashedrekord"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/signature"
	sigdsse "github.com/sigstore/sigstore/pkg/signature/dsse"
	"github.com/sigstore/sigstore/pkg/signature/options"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"google.golang.org/protobuf/encoding/protojson"
)

// Proof is a set of proofs that a signature carries of when it was made.
type Proof int

// The proofs; combine them with |.
const (
	NoProof   Proof = 0
	RekorV1   Proof = 1 << (iota - 1) // entry in the Rekor v1 log: a time by its SET
	RekorV2                           // entry in the Rekor v2 log: no time; bundles only
	Timestamp                         // RFC 3161 token
)

// String lists the proofs of the set.
func (p Proof) String() string {
	var names []string
	for _, x := range []struct {
		proof Proof
		name  string
	}{{RekorV1, "rekor-v1"}, {RekorV2, "rekor-v2"}, {Timestamp, "timestamp"}} {
		if p&x.proof != 0 {
			names = append(names, x.name)
		}
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, "+")
}

var errNoLegacyRekorV2 = errors.New("only bundles carry Rekor v2 entries")

// Actor signs as cosign would, with a key of its own. It is safe for
// concurrent use: writers to one digest take turns, because the tags of legacy
// signatures are read, extended and written back.
type Actor struct {
	world     *World
	name      string
	key       *signingKey
	alg       signature.AlgorithmDetails
	principal *Principal // of a keyless actor, who signs bundles only
}

// NewActor makes an actor with a new P-256 key, held in memory. The name is
// for people.
func (w *World) NewActor(name string) (*Actor, error) {
	key, err := newSigningKey()
	if err != nil {
		return nil, fmt.Errorf("sandbox: actor %q: %w", name, err)
	}
	alg, err := signature.GetDefaultAlgorithmDetails(key.Public())
	if err != nil {
		return nil, fmt.Errorf("sandbox: actor %q: %w", name, err)
	}
	return &Actor{world: w, name: name, key: key, alg: alg}, nil
}

// NewIdentity makes a keyless actor: for every signature the sandbox's CA issues
// it a certificate that names the principal. It signs bundles only.
func (w *World) NewIdentity(name string, p Principal) (*Actor, error) {
	a, err := w.NewActor(name)
	if err != nil {
		return nil, err
	}
	a.principal = &p
	return a, nil
}

// Name is what the actor is called.
func (a *Actor) Name() string { return a.name }

// PublicKey is the key that verifies what the actor signs.
func (a *Actor) PublicKey() crypto.PublicKey { return a.key.Public() }

// PublicKeyPEM is PublicKey as cosign.pub would hold it.
func (a *Actor) PublicKeyPEM() []byte { return bytes.Clone(a.key.pem) }

// EncryptedKey is the private key as cosign.key would hold it, encrypted with
// the password. It costs a key derivation, a fifth of a second.
func (a *Actor) EncryptedKey(password []byte) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("sandbox: encoding key of %q: %w", a.name, err)
	}
	sealed, err := encrypted.Encrypt(der, password)
	if err != nil {
		return nil, fmt.Errorf("sandbox: encrypting key of %q: %w", a.name, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: cosign.SigstorePrivateKeyPemType, Bytes: sealed}), nil
}

// SignLegacy adds a signature to the digest's .sig tag.
func (a *Actor) SignLegacy(ctx context.Context, ref name.Digest, proofs Proof) error {
	return a.wrap("signing", ref, func() error {
		if proofs&RekorV2 != 0 {
			return errNoLegacyRekorV2
		}
		body, sig, err := a.simpleSign(ctx, ref)
		if err != nil {
			return err
		}
		var opts []static.Option
		if proofs&RekorV1 != 0 {
			digest := sha256.New()
			digest.Write(body)
			entry, err := cosign.TLogUpload(ctx, a.world.rekorClient, sig, digest, a.key.pem)
			if err != nil {
				return fmt.Errorf("logging: %w", err)
			}
			opts = append(opts, static.WithBundle(cbundle.EntryToBundle(entry)))
		}
		if opts, err = a.stamp(ctx, sig, proofs, opts); err != nil {
			return err
		}
		return a.appendSignature(ctx, ref, body, sig, opts)
	})
}

// SignLegacyForged adds a signature to the digest's .sig tag as a thief would
// back-date it: with a log entry that claims a time, in the name of the Rekor
// v1 log, under an entry timestamp signed with the thief's own key.
func (a *Actor) SignLegacyForged(ctx context.Context, ref name.Digest, claimed time.Time) error {
	return a.wrap("forging signature", ref, func() error {
		body, sig, err := a.simpleSign(ctx, ref)
		if err != nil {
			return err
		}
		digest := sha256.Sum256(body)
		proposed, err := hashedrekord.New().CreateProposedEntry(ctx, "", rekortypes.ArtifactProperties{
			PublicKeyBytes: [][]byte{a.key.pem},
			PKIFormat:      string(pki.X509),
			SignatureBytes: sig,
			ArtifactHash:   fmt.Sprintf("sha256:%x", digest),
		})
		if err != nil {
			return fmt.Errorf("log entry: %w", err)
		}
		canonical, err := canonicalEntry(ctx, proposed)
		if err != nil {
			return err
		}
		const index = 0 // as good as any: no verifier gets that far
		entry := rekorEntry{body: canonical, integrated: claimed.Unix()}
		logID := a.world.rekor1.key.hexID()
		set, err := signEntryTimestamp(a.key.sv, entry, index, logID)
		if err != nil {
			return err
		}
		return a.appendSignature(ctx, ref, body, sig, []static.Option{static.WithBundle(&cbundle.RekorBundle{
			SignedEntryTimestamp: strfmt.Base64(set),
			Payload: cbundle.RekorPayload{
				Body:           base64.StdEncoding.EncodeToString(canonical),
				IntegratedTime: entry.integrated,
				LogIndex:       index,
				LogID:          logID,
			},
		})})
	})
}

// AttestLegacy adds an attestation to the digest's .att tag.
func (a *Actor) AttestLegacy(ctx context.Context, ref name.Digest, predicateType string, predicate any, proofs Proof) error {
	return a.wrap("attesting", ref, func() error {
		if proofs&RekorV2 != 0 {
			return errNoLegacyRekorV2
		}
		if a.principal != nil {
			return errKeyless
		}
		// cosign's legacy attestations are v0.1 statements naming the repository.
		statement, err := makeStatement("https://in-toto.io/Statement/v0.1", ref.Context().Name(), ref, predicateType, predicate)
		if err != nil {
			return err
		}
		envelope, err := sigdsse.WrapSigner(a.key.sv, types.IntotoPayloadType).SignMessage(bytes.NewReader(statement), options.WithContext(ctx))
		if err != nil {
			return fmt.Errorf("signing statement: %w", err)
		}
		// WithAnnotations replaces what came before it: it goes first.
		opts := []static.Option{
			static.WithLayerMediaType(types.DssePayloadType),
			static.WithAnnotations(map[string]string{"predicateType": predicateType}),
		}
		if proofs&RekorV1 != 0 {
			entry, err := cosign.TLogUploadDSSEEnvelope(ctx, a.world.rekorClient, envelope, a.key.pem)
			if err != nil {
				return fmt.Errorf("logging: %w", err)
			}
			opts = append(opts, static.WithBundle(cbundle.EntryToBundle(entry)))
		}
		// Legacy attestations are stamped over the whole envelope, bundles over
		// the signature in it.
		if opts, err = a.stamp(ctx, envelope, proofs, opts); err != nil {
			return err
		}
		att, err := static.NewAttestation(envelope, opts...)
		if err != nil {
			return fmt.Errorf("making attestation: %w", err)
		}
		return a.publishLegacy(ctx, ref, ociremote.WriteAttestations, func(e oci.SignedEntity) (oci.SignedEntity, error) {
			return mutate.AttachAttestationToEntity(e, att)
		})
	})
}

// SignBundle attaches a Sigstore bundle to the digest as cosign v3 signs: a
// statement of predicate type https://sigstore.dev/cosign/sign/v1.
func (a *Actor) SignBundle(ctx context.Context, ref name.Digest, proofs Proof) error {
	return a.wrap("signing", ref, func() error {
		return a.attachBundle(ctx, ref, types.CosignSignPredicateType, nil, proofs, nil)
	})
}

// AttestBundle attaches a Sigstore bundle with a statement of the given
// predicate to the digest. A nil predicate is an empty object.
func (a *Actor) AttestBundle(ctx context.Context, ref name.Digest, predicateType string, predicate any, proofs Proof) error {
	return a.wrap("attesting", ref, func() error {
		return a.attachBundle(ctx, ref, predicateType, predicate, proofs, nil)
	})
}

// SignBlob signs content as "cosign sign-blob --bundle" does and returns the
// Sigstore bundle: a message signature over the content's digest.
func (a *Actor) SignBlob(ctx context.Context, content []byte, proofs Proof) ([]byte, error) {
	b, err := sign.Bundle(&sign.PlainData{Data: content}, keypair{a}, a.options(ctx, proofs))
	if err != nil {
		return nil, fmt.Errorf("sandbox: signing a file by %q: %w", a.name, err)
	}
	return protojson.Marshal(b)
}

// AttestBlob signs a statement about content as "cosign attest-blob --bundle"
// does and returns the Sigstore bundle. A nil predicate is an empty object.
func (a *Actor) AttestBlob(ctx context.Context, content []byte, predicateType string, predicate any, proofs Proof) ([]byte, error) {
	sum := sha256.Sum256(content)
	ref, err := name.NewDigest("file.example/file@sha256:" + hex.EncodeToString(sum[:]))
	if err != nil {
		return nil, err
	}
	statement, err := makeStatement(intoto.StatementTypeUri, "", ref, predicateType, predicate)
	if err != nil {
		return nil, err
	}
	b, err := sign.Bundle(&sign.DSSEData{Data: statement, PayloadType: types.IntotoPayloadType}, keypair{a}, a.options(ctx, proofs))
	if err != nil {
		return nil, fmt.Errorf("sandbox: attesting a file by %q: %w", a.name, err)
	}
	return protojson.Marshal(b)
}

// options asks for the proofs that a bundle is to carry.
func (a *Actor) options(ctx context.Context, proofs Proof) sign.BundleOptions {
	opts := sign.BundleOptions{Context: ctx}
	if a.principal != nil {
		opts.CertificateProvider = issuer{a}
	}
	for _, log := range []Proof{RekorV1, RekorV2} {
		if proofs&log != 0 {
			opts.TransparencyLogs = append(opts.TransparencyLogs, a.world.transparency[log])
		}
	}
	if proofs&Timestamp != 0 {
		opts.TimestampAuthorities = []*sign.TimestampAuthority{a.world.timestamps}
	}
	return opts
}

// issuer gives a keyless actor its certificates, in sigstore-go's terms.
type issuer struct{ a *Actor }

// GetCertificate implements sign.CertificateProvider.
func (i issuer) GetCertificate(ctx context.Context, _ sign.Keypair, _ *sign.CertificateProviderOptions) ([]byte, error) {
	cert, err := i.a.world.authority.issue(ctx, *i.a.principal, i.a.key.Public())
	if err != nil {
		return nil, err
	}
	return cert.Raw, nil
}

var errKeyless = errors.New("a keyless actor signs bundles only")

// SignBundleForged attaches a bundle to the digest as a thief would back-date
// it: with an RFC 3161 token of a timestamp authority of the thief's own,
// which no trusted root knows.
func (a *Actor) SignBundleForged(ctx context.Context, ref name.Digest, claimed time.Time) error {
	return a.wrap("forging bundle", ref, func() error {
		tsa, err := newTimestampAuthority("sandbox tsa", claimed.AddDate(-1, 0, 0), func() time.Time { return claimed })
		if err != nil {
			return fmt.Errorf("timestamp authority: %w", err)
		}
		return a.attachBundle(ctx, ref, types.CosignSignPredicateType, nil, NoProof, func(b *protobundle.Bundle) error {
			sigs := b.GetDsseEnvelope().GetSignatures()
			if len(sigs) != 1 {
				return fmt.Errorf("bundle has %d signatures", len(sigs))
			}
			digest := sha256.Sum256(sigs[0].GetSig())
			token, err := tsa.respond(&timestamp.Request{HashAlgorithm: crypto.SHA256, HashedMessage: digest[:], Certificates: true})
			if err != nil {
				return fmt.Errorf("timestamp: %w", err)
			}
			b.VerificationMaterial.TimestampVerificationData = &protobundle.TimestampVerificationData{
				Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: token}},
			}
			return nil
		})
	})
}

// wrap runs an act on a digest, and says in its error who did what to which.
func (a *Actor) wrap(act string, ref name.Digest, do func() error) error {
	err := checkLoopback(ref)
	if err == nil {
		err = do()
	}
	if err != nil {
		return fmt.Errorf("sandbox: %s %s by %q: %w", act, ref, a.name, err)
	}
	return nil
}

// simpleSign makes a simple signing payload that names ref, and its
// signature.
func (a *Actor) simpleSign(ctx context.Context, ref name.Digest) (body, sig []byte, err error) {
	if a.principal != nil {
		return nil, nil, errKeyless
	}
	body, err = payload.Cosign{Image: ref}.MarshalJSON()
	if err != nil {
		return nil, nil, fmt.Errorf("making payload: %w", err)
	}
	sig, err = a.key.sv.SignMessage(bytes.NewReader(body), options.WithContext(ctx))
	if err != nil {
		return nil, nil, fmt.Errorf("signing payload: %w", err)
	}
	return body, sig, nil
}

// stamp adds an RFC 3161 token over data, if that is among the proofs.
func (a *Actor) stamp(ctx context.Context, data []byte, proofs Proof, opts []static.Option) ([]static.Option, error) {
	if proofs&Timestamp == 0 {
		return opts, nil
	}
	token, err := a.world.timestamps.GetTimestamp(ctx, data)
	if err != nil {
		return nil, fmt.Errorf("timestamp: %w", err)
	}
	return append(opts, static.WithRFC3161Timestamp(cbundle.TimestampToRFC3161Timestamp(token))), nil
}

func (a *Actor) appendSignature(ctx context.Context, ref name.Digest, body, sig []byte, opts []static.Option) error {
	s, err := static.NewSignature(body, base64.StdEncoding.EncodeToString(sig), opts...)
	if err != nil {
		return fmt.Errorf("making signature: %w", err)
	}
	return a.publishLegacy(ctx, ref, ociremote.WriteSignatures, func(e oci.SignedEntity) (oci.SignedEntity, error) {
		return mutate.AttachSignatureToEntity(e, s)
	})
}

// publishLegacy reads what is attached to the digest, lets attach add to it,
// and writes it back, while no other actor writes to the digest.
func (a *Actor) publishLegacy(ctx context.Context, ref name.Digest,
	write func(name.Repository, oci.SignedEntity, ...ociremote.Option) error,
	attach func(oci.SignedEntity) (oci.SignedEntity, error),
) error {
	opts := ociremote.WithRemoteOptions(a.world.remoteOptions(ctx)...)
	unlock := a.world.lockDigest(ref)
	defer unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	entity, err := attach(ociremote.SignedUnknown(ref, opts))
	if err != nil {
		return fmt.Errorf("attaching: %w", err)
	}
	if err := write(ref.Context(), entity, opts); err != nil {
		return fmt.Errorf("publishing: %w", err)
	}
	return nil
}

// attachBundle signs a statement about the digest into a bundle and attaches
// it as a referrer. A non-nil tamper has a last go at the bundle.
func (a *Actor) attachBundle(ctx context.Context, ref name.Digest, predicateType string, predicate any, proofs Proof, tamper func(*protobundle.Bundle) error) error {
	statement, err := makeStatement(intoto.StatementTypeUri, "", ref, predicateType, predicate)
	if err != nil {
		return err
	}
	b, err := sign.Bundle(&sign.DSSEData{Data: statement, PayloadType: types.IntotoPayloadType}, keypair{a}, a.options(ctx, proofs))
	if err != nil {
		return fmt.Errorf("signing statement: %w", err)
	}
	if tamper != nil {
		if err := tamper(b); err != nil {
			return err
		}
	}
	raw, err := protojson.Marshal(b)
	if err != nil {
		return fmt.Errorf("encoding bundle: %w", err)
	}
	mediaType, err := bundle.MediaTypeString("0.3")
	if err != nil {
		return fmt.Errorf("media type of bundle: %w", err)
	}
	// What cosign's WriteAttestationNewBundleFormat does, but for the clock.
	annotations := map[string]string{
		"org.opencontainers.image.created":  a.world.clock.Now().UTC().Format(time.RFC3339),
		"dev.sigstore.bundle.content":       "dsse-envelope",
		"dev.sigstore.bundle.predicateType": predicateType,
	}
	layers := []v1.Layer{ggcrstatic.NewLayer(raw, ggcrtypes.MediaType(mediaType))}
	unlock := a.world.lockDigest(ref)
	defer unlock()
	if err := ociremote.WriteReferrer(ref, mediaType, layers, annotations, ociremote.WithRemoteOptions(a.world.remoteOptions(ctx)...)); err != nil {
		return fmt.Errorf("publishing bundle: %w", err)
	}
	return nil
}

// makeStatement makes an in-toto statement about a digest.
func makeStatement(statementType, subject string, ref name.Digest, predicateType string, predicate any) ([]byte, error) {
	hash, err := v1.NewHash(ref.DigestStr())
	if err != nil {
		return nil, fmt.Errorf("subject: %w", err)
	}
	type resource struct {
		Name   string            `json:"name,omitempty"`
		Digest map[string]string `json:"digest"`
	}
	if predicate == nil {
		predicate = struct{}{}
	}
	raw, err := json.Marshal(struct {
		Type          string     `json:"_type"`
		Subject       []resource `json:"subject"`
		PredicateType string     `json:"predicateType"`
		Predicate     any        `json:"predicate"`
	}{statementType, []resource{{subject, map[string]string{hash.Algorithm: hash.Hex}}}, predicateType, predicate})
	if err != nil {
		return nil, fmt.Errorf("encoding statement: %w", err)
	}
	return raw, nil
}

// keypair is an Actor's key in sigstore-go's terms.
type keypair struct{ a *Actor }

var _ sign.Keypair = keypair{}

func (k keypair) GetHashAlgorithm() protocommon.HashAlgorithm { return k.a.alg.GetProtoHashType() }
func (k keypair) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	return k.a.alg.GetSignatureAlgorithm()
}

// GetHint is how cosign and sigstore-go name a key.
func (k keypair) GetHint() []byte {
	return []byte(base64.StdEncoding.EncodeToString(k.a.key.id[:]))
}
func (k keypair) GetKeyAlgorithm() string          { return "ECDSA" }
func (k keypair) GetPublicKey() crypto.PublicKey   { return k.a.key.Public() }
func (k keypair) GetPublicKeyPem() (string, error) { return string(k.a.key.pem), nil }

func (k keypair) SignData(ctx context.Context, data []byte) (sig, digest []byte, err error) {
	sum := sha256.Sum256(data)
	sig, err = k.a.key.sv.SignMessage(bytes.NewReader(data), options.WithContext(ctx))
	return sig, sum[:], err
}
