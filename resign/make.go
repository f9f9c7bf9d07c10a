package resign

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	cbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	sigstore "github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/reseal/reseal/internal/services"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// Media types and annotations, as cosign writes them.
const (
	simpleSigningType = "application/vnd.dev.cosign.simplesigning.v1+json"
	envelopeType      = "application/vnd.dsse.envelope.v1+json"
	intotoType        = "application/vnd.in-toto+json"
	bundleType        = "application/vnd.dev.sigstore.bundle.v0.3+json"

	predicateAnnotation = "predicateType"
)

// layer is the persisted form of a legacy signature or attestation: the blob
// and the annotations that go with it. A bundle is persisted as it is.
type layer struct {
	MediaType   types.MediaType   `json:"media_type"`
	Annotations map[string]string `json:"annotations"`
	Blob        []byte            `json:"blob"`
}

// reissue is a signature that was made, in the form it is stored in.
type reissue struct {
	verify.Found // as its consumer's verifier took it, before it is anywhere
	mediaType    types.MediaType
	blob         []byte
	fresh        bool // made by this run
}

// kept reports whether an old signature in the same place most likely has the
// same content: nothing is to be uploaded then.
func (u *unit) kept() bool {
	return slices.ContainsFunc(u.Proven, func(o Source) bool { return o.Format == u.format && o.Content == u.made.Signature.Content })
}

// sign makes and persists the signatures that are missing. Every intent is on
// disk before the key is used, and every signed byte before anything is
// published.
func (r *run) sign(ctx context.Context, units []*unit) error {
	var missing []*unit
	for _, u := range units {
		if u.open() && u.record.Content == "" {
			missing = append(missing, u)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := r.fence(ctx); err != nil {
		return err
	}
	if err := r.update(ctx, func(tx *store.Tx) error {
		for _, u := range missing {
			u.record.State, u.record.Why = Intended, ""
			if err := r.put(ctx, tx, u); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	contents := make([][]byte, len(missing))
	made := r.makeAll(ctx, missing, contents)
	ctx = context.WithoutCancel(ctx) // stopped or not: what was made need not be made again
	return errors.Join(made, r.update(ctx, func(tx *store.Tx) error {
		for n, u := range missing {
			if u.made == nil || u.err != nil {
				continue
			}
			var err error
			if u.record.Content, err = tx.PutVault(ctx, contents[n]); err != nil {
				return err
			}
			u.record.State, u.record.SignatureID = Signed, u.made.ID
			if err := r.put(ctx, tx, u); err != nil {
				return err
			}
		}
		return nil
	}))
}

// makeAll makes signatures, many at once, and returns what is to be persisted
// of each.
func (r *run) makeAll(ctx context.Context, units []*unit, contents [][]byte) error {
	r.batches(ctx, units)
	g, gctx := errgroup.WithContext(ctx)
	for n, u := range units {
		select {
		case r.making <- struct{}{}:
		case <-gctx.Done():
			return errors.Join(gctx.Err(), g.Wait())
		}
		g.Go(func() error {
			defer func() { <-r.making }()
			var err error
			if contents[n], err = r.makeOne(gctx, u); err == nil {
				if u.made, err = r.judge(context.WithoutCancel(gctx), u, contents[n]); err != nil {
					err = unmade{err}
				}
			}
			if err == nil {
				if err = r.outside(context.WithoutCancel(gctx), u.made, true); err != nil {
					u.made, err = nil, stopped{err} // it would be the same for every other signature
				}
			}
			if err == nil {
				u.made.fresh = true
			}
			if err != nil && gctx.Err() != nil {
				return gctx.Err()
			}
			if errors.As(err, new(stopped)) {
				return err
			}
			if why := held(""); errors.As(err, &why) {
				u.record.State, u.record.Why = Held, string(why)
				return nil
			}
			u.err = err
			return nil
		})
	}
	return g.Wait()
}

// held is why a unit is not to be signed any more.
type held string

func (h held) Error() string { return string(h) }

// turn waits until the key may be used for some units, and returns those that are
// still to be signed: waiting can take long.
func (r *run) turn(ctx context.Context, units []*unit) (good []*unit, err error) {
	ask := func() (err error) {
		good = nil
		for _, u := range units {
			why, askErr := u.decisions.of(ctx, u.Seq, r.Recheck)
			switch {
			case askErr != nil:
				return stopped{askErr}
			case why != "":
				err = held(why)
			default:
				good = append(good, u)
			}
		}
		if len(good) > 0 {
			return nil
		}
		return err
	}
	if err := ask(); err != nil { // no turn is taken for nothing
		return nil, err
	}
	if err := r.pace.Wait(ctx); err != nil {
		return nil, err
	}
	err = ask()
	return good, err
}

// makeOne makes one signature, or the one that serves its batch. A proof that
// could not be had is asked for once more, with a new signature: a log refuses one
// that it has seen already.
func (r *run) makeOne(ctx context.Context, u *unit) ([]byte, error) {
	members := []*unit{u}
	if u.batch != nil {
		members = u.batch.units
	}
	twice := func() (content []byte, err error) {
		for range 2 {
			content, err = r.make(ctx, members)
			if err == nil || ctx.Err() != nil || r.Services.None() || errors.As(err, new(stopped)) {
				break
			}
		}
		return content, err
	}
	if u.batch != nil {
		content, err := u.batch.make(twice)
		if why := u.decisions.known(u.Seq); err == nil && why != "" { // the statement is about the others
			err = held(why)
		}
		return content, err
	}
	return twice()
}

// outside refuses a signature that is under an incident, see Engine.Outside.
func (r *run) outside(ctx context.Context, s *reissue, made bool) error {
	if r.Outside == nil {
		return nil
	}
	why, err := r.Outside(ctx, s.Signature, made)
	if err == nil && why != "" {
		err = fmt.Errorf("the signature that was made is not published: %s", why)
	}
	return err
}

// resume takes up a signature that an earlier run persisted.
func (r *run) resume(ctx context.Context, u *unit) error {
	content, err := r.Store.Vault(ctx, u.record.Content)
	if err != nil {
		return err
	}
	made, err := r.judge(ctx, u, content)
	if err == nil {
		err = r.outside(ctx, made, false)
	}
	if err == nil {
		u.made = made
	}
	return err
}

// judge takes persisted bytes apart and verifies them as whoever consumes them
// will: nothing else is published.
func (r *run) judge(ctx context.Context, u *unit, content []byte) (*reissue, error) {
	s := &reissue{mediaType: bundleType, blob: content}
	if u.format == inventory.Legacy || u.format == inventory.LegacyAtt {
		var l layer
		if err := json.Unmarshal(content, &l); err != nil {
			return nil, fmt.Errorf("persisted signature: %w", err)
		}
		s.mediaType, s.blob, s.Annotations = l.MediaType, l.Blob, l.Annotations
	}
	s.Found.Content = s.blob
	s.Signature = r.verifier.Stored(verify.Subject{Repository: u.Repository, Digest: u.Digest}, u.format, s.Annotations, s.blob)
	switch {
	case !s.Verified:
		return nil, fmt.Errorf("the signature that was made does not verify and is not published: %s", s.Why)
	case s.Signer != r.Signer.Identity() || s.StatementKey() != u.StatementKey:
		return nil, fmt.Errorf("the signature that was made is by %s and states %s, not by %s and %s: it is not published", s.Signer, s.StatementKey(), r.Signer.Identity(), u.StatementKey)
	}
	if err := r.accepts(ctx, s.Found); err != nil {
		return nil, fmt.Errorf("the signature that was made is not accepted by its consumer's verifier and is not published: %w", err)
	}
	return s, nil
}

// accepts verifies a signature as its consumer does. Where there is a trusted
// root, that is one who wants each proof the signature carries to verify.
func (r *run) accepts(ctx context.Context, f verify.Found) error {
	c := r.consumer
	c.RequireTimestamp = r.Root != nil && slices.ContainsFunc(f.Bounds, func(b inventory.Bound) bool { return b.Side == inventory.Upper })
	err := c.Accepts(ctx, f)
	if err != nil && c.RequireTimestamp {
		err = fmt.Errorf("%w (do the services that are asked stand in the trusted root?)", err)
	}
	return err
}

// payload returns what a unit states, byte for byte. There are several units in a
// batch: image signatures of one repository, in one statement.
func (r *run) payload(ctx context.Context, units []*unit) ([]byte, error) {
	u := units[0]
	if u.PredicateType != inventory.SignPredicate {
		return r.message(ctx, u)
	}
	if u.format == inventory.Bundle {
		subjects := make([]subject, len(units))
		for n, u := range units { // what is said of one image is not said of another
			var err error
			if subjects[n], err = r.subject(ctx, u); err != nil {
				return nil, err
			}
		}
		return signStatement(subjects)
	}
	notes, err := r.annotations(ctx, u)
	if err != nil {
		return nil, err
	}
	ref, err := name.NewDigest(u.Repository + "@" + u.Digest)
	if err != nil {
		return nil, err
	}
	return payload.Cosign{Image: ref, Annotations: notes}.MarshalJSON()
}

// subject is what a statement is about, and what it says of it besides.
type subject struct {
	Digest      map[string]string `json:"digest"`
	Annotations map[string]any    `json:"annotations,omitempty"`
}

func (r *run) subject(ctx context.Context, u *unit) (subject, error) {
	notes, err := r.annotations(ctx, u)
	algorithm, hex, _ := strings.Cut(u.Digest, ":")
	return subject{map[string]string{algorithm: hex}, notes}, err
}

// annotations returns what a proven signature of the image annotates it with,
// which policies may ask for ("cosign verify -a"). Where there are several it is
// the one that says all that the others do: nobody ever stated more at once.
func (r *run) annotations(ctx context.Context, u *unit) (map[string]any, error) {
	var most map[string]any
	var all []map[string]any
	for _, from := range u.Proven {
		stored, err := r.Store.Vault(ctx, from.Content)
		if err != nil {
			return nil, err
		}
		notes, err := verify.Annotations(verify.Subject{Repository: u.Repository, Digest: u.Digest}, from.Format, stored)
		if err != nil {
			return nil, fmt.Errorf("the annotations to keep: %w", err)
		}
		all = append(all, notes)
		if len(notes) > len(most) {
			most = notes
		}
	}
	for _, notes := range all {
		for key, value := range notes {
			if !reflect.DeepEqual(most[key], value) {
				return nil, fmt.Errorf("proven signatures annotate the image differently (%q), and no one of them says it all: sign it by hand, with what is right", key)
			}
		}
	}
	return most, nil
}

// make signs a unit, or those of a batch, and returns the bytes to persist.
func (r *run) make(ctx context.Context, units []*unit) ([]byte, error) {
	u := units[0]
	if u.format.InFiles() {
		return r.makeFile(ctx, u)
	}
	units, err := r.turn(ctx, units)
	if err != nil {
		return nil, err
	}
	message, err := r.payload(ctx, units)
	if err != nil {
		return nil, err
	}
	switch u.format {
	case inventory.Legacy:
		return r.makeLegacy(ctx, message)
	case inventory.LegacyAtt:
		return r.makeEnvelope(ctx, u.PredicateType, message)
	case inventory.Bundle:
		b, _, err := r.bundle(ctx, &sign.DSSEData{Data: message, PayloadType: intotoType}, r.Services.Timestamps, r.Services.Logs)
		if err != nil {
			return nil, err
		}
		return compact(b)
	}
	return nil, fmt.Errorf("format %q cannot be written", u.format)
}

// compact returns a bundle as it is stored.
func compact(b *protobundle.Bundle) ([]byte, error) {
	raw, err := protojson.Marshal(b)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer // protojson varies its white space on purpose
	err = json.Compact(&out, raw)
	return out.Bytes(), err
}

// bundle signs, and asks for proofs. The credential is asked for last, after
// all waiting: a certificate does not live long.
func (r *run) bundle(ctx context.Context, content sign.Content, stamps []*sign.TimestampAuthority, logs []services.Log) (*protobundle.Bundle, signer.Credential, error) {
	if err := r.fence(ctx); err != nil {
		return nil, signer.Credential{}, err
	}
	// Once begun it is brought to an end, if that does not take long: the key is
	// used and the log written for it.
	ctx, cancel := finishing(ctx)
	defer cancel()
	c, err := r.Signer.Credential(ctx)
	if err != nil { // it would be the same for every other signature
		return nil, c, stopped{fmt.Errorf("signing: %w", err)}
	}
	pair, err := newKeypair(c)
	if err != nil {
		return nil, c, err
	}
	if f, ok := content.(*fileMessage); ok {
		pair = fileKeypair{pair, c.Signer, f, r}
	}
	options := sign.BundleOptions{Context: ctx, TimestampAuthorities: stamps}
	if c.Certificate != nil {
		options.CertificateProvider = certificate(c.Certificate)
	}
	for _, l := range logs {
		options.TransparencyLogs = append(options.TransparencyLogs, l)
	}
	b, err := await(ctx, func() (*protobundle.Bundle, error) { return sign.Bundle(content, pair, options) })
	if err != nil {
		return nil, c, unmade{fmt.Errorf("signing: %w", err)}
	}
	return b, c, nil
}

// grace is how long what was begun may take after a run is stopped.
const grace = 5 * time.Second

// finishing returns a context that ends a while after ctx does.
func finishing(ctx context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return out, func() {
		stop()
		cancel()
	}
}

// await returns when ctx ends, although what is called knows no context: the
// library asks timestamp authorities without one.
func await[T any](ctx context.Context, call func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		v, err := call()
		done <- answer{v, err}
	}()
	select {
	case a := <-done:
		return a.value, a.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// certificate gives sigstore-go the certificate that goes with a key.
type certificate []byte

// GetCertificate implements sign.CertificateProvider.
func (c certificate) GetCertificate(context.Context, sign.Keypair, *sign.CertificateProviderOptions) ([]byte, error) {
	return c, nil
}

// legacyLogs are the logs whose entries a legacy signature can hold.
func (r *run) legacyLogs() (logs []services.Log) {
	for _, l := range r.Services.Logs {
		if l.Version == services.RekorV1 && len(logs) == 0 {
			logs = append(logs, l)
		}
	}
	return logs
}

// legacyStamps are the authorities whose tokens a legacy signature can hold:
// the first.
func (r *run) legacyStamps() []*sign.TimestampAuthority {
	return r.Services.Timestamps[:min(1, len(r.Services.Timestamps))]
}

// makeLegacy makes a layer of a ".sig" manifest (cosign, "Cosign Signature
// Specifications").
func (r *run) makeLegacy(ctx context.Context, message []byte) ([]byte, error) {
	b, c, err := r.bundle(ctx, &sign.PlainData{Data: message}, r.legacyStamps(), r.legacyLogs())
	if err != nil {
		return nil, err
	}
	l := layer{MediaType: simpleSigningType, Blob: message, Annotations: map[string]string{
		static.SignatureAnnotationKey: base64.StdEncoding.EncodeToString(b.GetMessageSignature().GetSignature())}}
	for _, t := range b.GetVerificationMaterial().GetTimestampVerificationData().GetRfc3161Timestamps() {
		if err := l.stamp(t.GetSignedTimestamp()); err != nil {
			return nil, err
		}
	}
	return r.pack(l, b, c)
}

// makeEnvelope makes a layer of an ".att" manifest. What is stamped differs from
// a bundle: the whole envelope, not the signature in it.
func (r *run) makeEnvelope(ctx context.Context, predicateType string, message []byte) ([]byte, error) {
	b, c, err := r.bundle(ctx, &sign.DSSEData{Data: message, PayloadType: intotoType}, nil, r.legacyLogs())
	if err != nil {
		return nil, err
	}
	// Byte for byte what sigstore-go enters in a log: cosign compares its digest.
	envelope, err := json.Marshal(b.GetDsseEnvelope())
	if err != nil {
		return nil, err
	}
	l := layer{MediaType: envelopeType, Blob: envelope,
		Annotations: map[string]string{static.SignatureAnnotationKey: "", predicateAnnotation: predicateType}}
	ctx, cancel := finishing(ctx)
	defer cancel()
	for _, authority := range r.legacyStamps() {
		token, err := await(ctx, func() ([]byte, error) { return authority.GetTimestamp(ctx, envelope) })
		if err != nil {
			return nil, unmade{fmt.Errorf("timestamp: %w", err)}
		}
		if err := l.stamp(token); err != nil {
			return nil, err
		}
	}
	return r.pack(l, b, c)
}

func (l *layer) stamp(token []byte) error {
	note, err := json.Marshal(cbundle.RFC3161Timestamp{SignedRFC3161Timestamp: token})
	l.Annotations[static.RFC3161TimestampAnnotationKey] = string(note)
	return err
}

// pack adds the certificate and the log entry to a layer and returns it as it is
// persisted.
func (r *run) pack(l layer, b *protobundle.Bundle, c signer.Credential) ([]byte, error) {
	if c.Certificate != nil {
		l.Annotations[static.CertificateAnnotationKey] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate}))
		l.Annotations[static.ChainAnnotationKey] = string(r.chain)
	}
	for _, e := range b.GetVerificationMaterial().GetTlogEntries() {
		note, err := json.Marshal(cbundle.RekorBundle{
			SignedEntryTimestamp: e.GetInclusionPromise().GetSignedEntryTimestamp(),
			Payload: cbundle.RekorPayload{
				Body:           base64.StdEncoding.EncodeToString(e.GetCanonicalizedBody()),
				IntegratedTime: e.GetIntegratedTime(),
				LogIndex:       e.GetLogIndex(),
				LogID:          hex.EncodeToString(e.GetLogId().GetKeyId()),
			},
		})
		if err != nil {
			return nil, err
		}
		l.Annotations[static.BundleAnnotationKey] = string(note)
	}
	return json.Marshal(l)
}

// chainOf returns the certificates of the certificate authorities of a trusted
// root, as PEM: legacy verifiers take intermediate ones from the signature.
func chainOf(trusted root.TrustedMaterial) []byte {
	var out []byte
	for _, ca := range trusted.FulcioCertificateAuthorities() {
		f, ok := ca.(*root.FulcioCertificateAuthority)
		if !ok {
			continue
		}
		for _, c := range append(slices.Clone(f.Intermediates), f.Root) {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
	}
	return out
}

// signStatement is the in-toto statement of a cosign v3 image signature.
func signStatement(subjects []subject) ([]byte, error) {
	return json.Marshal(struct {
		Type      string         `json:"_type"`
		Subject   []subject      `json:"subject"`
		Predicate string         `json:"predicateType"`
		Body      map[string]any `json:"predicate"`
	}{"https://in-toto.io/Statement/v1", subjects, inventory.SignPredicate, map[string]any{}})
}

// batch is one bundle that signs several artifacts of one repository.
type batch struct {
	units   []*unit
	once    sync.Once
	content []byte
	err     error
}

func (b *batch) make(sign func() ([]byte, error)) ([]byte, error) {
	b.once.Do(func() { b.content, b.err = sign() })
	return b.content, b.err
}

// batches puts image signatures together that one statement can make: bundles in
// one repository. Of what something keeps from being signed, the rest is signed all
// the same: that one fails alone, and says why.
func (r *run) batches(ctx context.Context, units []*unit) {
	if !r.Batch {
		return
	}
	open := map[string]*batch{}
	for _, u := range units {
		if u.format != inventory.Bundle || u.PredicateType != inventory.SignPredicate {
			continue
		}
		if _, err := r.subject(ctx, u); err != nil {
			continue
		}
		b := open[u.Repository]
		if b == nil || len(b.units) == maxSubjects {
			b = &batch{}
			open[u.Repository] = b
		}
		b.units = append(b.units, u)
		u.batch = b
	}
}

// unbatch gives up persisted statements about several images of which one is not
// to be signed any more: whoever takes such a bundle from one image can attach it
// to another that it names. What of them is published is found all the same.
func (r *run) unbatch(ctx context.Context, units []*unit) error {
	good := map[string]bool{} // "repository@digest"
	for _, u := range units {
		if u.record.State != Held && u.PredicateType == inventory.SignPredicate {
			good[u.Repository+"@"+u.Digest] = true
		}
	}
	verdicts := map[string]bool{} // by content
	for _, u := range units {
		if u.record.Content == "" || u.record.State == Held || u.format != inventory.Bundle || u.PredicateType != inventory.SignPredicate {
			continue
		}
		fine, known := verdicts[u.record.Content]
		if !known {
			content, err := r.Store.Vault(ctx, u.record.Content)
			if err != nil {
				return err
			}
			subjects, err := verify.Subjects(content)
			fine = err == nil && !slices.ContainsFunc(subjects, func(d string) bool { return len(subjects) > 1 && !good[u.Repository+"@"+d] })
			verdicts[u.record.Content] = fine
		}
		if !fine {
			u.record.Content = ""
		}
	}
	return nil
}

func describe(mediaType types.MediaType, content []byte) v1.Descriptor {
	h, _, err := v1.SHA256(bytes.NewReader(content))
	if err != nil { // reading from memory does not fail
		return v1.Descriptor{}
	}
	return v1.Descriptor{MediaType: mediaType, Size: int64(len(content)), Digest: h}
}

// keypair lets sigstore-go sign with a signer.Signer.
type keypair struct {
	signer.Signer
	pem       string
	hint      string
	details   sigstore.AlgorithmDetails
	algorithm string
}

func newKeypair(s signer.Signer) (sign.Keypair, error) {
	pem, err := cryptoutils.MarshalPublicKeyToPEM(s.PublicKey())
	if err != nil {
		return nil, err
	}
	id, err := signer.OfKey(s.PublicKey())
	if err != nil {
		return nil, err
	}
	algorithm := "ECDSA"
	if _, isRSA := s.PublicKey().(*rsa.PublicKey); isRSA {
		algorithm = "RSA"
	}
	details, err := sigstore.GetDefaultAlgorithmDetails(s.PublicKey())
	if err != nil {
		return nil, fmt.Errorf("key %s cannot sign bundles: %w", id.ID(), err)
	}
	if details.GetHashType() == crypto.Hash(0) {
		return nil, fmt.Errorf("key %s cannot sign bundles: use an ECDSA P-256 key", id.ID())
	}
	// The hint cosign writes: base64 of the fingerprint.
	fingerprint, err := hex.DecodeString(id.Subject)
	return keypair{Signer: s, pem: string(pem), hint: base64.StdEncoding.EncodeToString(fingerprint), details: details, algorithm: algorithm}, err
}

func (k keypair) GetHashAlgorithm() protocommon.HashAlgorithm { return k.details.GetProtoHashType() }
func (k keypair) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	return k.details.GetSignatureAlgorithm()
}
func (k keypair) GetHint() []byte                  { return []byte(k.hint) }
func (k keypair) GetKeyAlgorithm() string          { return k.algorithm }
func (k keypair) GetPublicKey() crypto.PublicKey   { return k.Signer.PublicKey() }
func (k keypair) GetPublicKeyPem() (string, error) { return k.pem, nil }

func (k keypair) SignData(ctx context.Context, data []byte) (sig, digest []byte, err error) {
	h := k.details.GetHashType().New()
	h.Write(data)
	sig, err = k.Signer.Sign(ctx, data)
	return sig, h.Sum(nil), err
}
