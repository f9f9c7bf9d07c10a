package tuf

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/reseal/reseal/signer"
)

// Fields that tuf-on-ci keeps in published metadata. Using the same ones lets either tool take a repository over.
const (
	fieldOwner     = "x-tuf-on-ci-keyowner"
	fieldOnlineURI = "x-tuf-on-ci-online-uri"
	fieldExpiry    = "x-tuf-on-ci-expiry-period"  // whole days
	fieldSigning   = "x-tuf-on-ci-signing-period" // whole days before expiry
)

// A Holder is a person and the public key whose private half only they have.
type Holder struct {
	Name string `json:"name"` // "@alice", as it is published with the key
	Key  []byte `json:"key"`  // PEM
}

// Online is the key that signs snapshot and timestamp unattended.
type Online struct {
	Key []byte `json:"key"`           // public half, PEM
	URI string `json:"uri,omitempty"` // where the private half lives ("gcpkms:projects/…"), published with it
}

var holderName = regexp.MustCompile(`^@[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (h Holder) publish() (string, *metadata.Key, error) {
	if !holderName.MatchString(h.Name) {
		return "", nil, fmt.Errorf("holder %q: a name is @ and then letters, digits and . _ -", h.Name)
	}
	id, key, err := publishKey(h.Key, fieldOwner, h.Name)
	if err != nil {
		return "", nil, fmt.Errorf("holder %s: %w", h.Name, err)
	}
	return id, key, nil
}

func (o Online) publish() (string, *metadata.Key, error) {
	if strings.Contains(o.URI, "pin-value=") || strings.Contains(o.URI, "pin-source=") {
		return "", nil, errors.New("online key: its URI says the PIN, or where it is, and would be published: leave that out")
	}
	id, key, err := publishKey(o.Key, fieldOnlineURI, o.URI)
	if err != nil {
		return "", nil, fmt.Errorf("online key: %w", err)
	}
	return id, key, nil
}

// publishKey returns the TUF key of a public key and its id: the SHA-256 of its canonical published form (4.2), which
// as in tuf-on-ci covers its extra field.
func publishKey(pemKey []byte, field, value string) (string, *metadata.Key, error) {
	public, _, err := signer.ParsePublicKey(pemKey)
	if err != nil {
		return "", nil, err
	}
	scheme := ""
	switch k := public.(type) {
	case ed25519.PublicKey:
		scheme = metadata.KeySchemeEd25519
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			scheme = metadata.KeySchemeECDSA_SHA2_P256
		case elliptic.P384():
			scheme = metadata.KeySchemeECDSA_SHA2_P384
		default:
			return "", nil, fmt.Errorf("ECDSA curve %s is not one that TUF clients verify: use a P-256, P-384 or Ed25519 key", k.Curve.Params().Name)
		}
	default:
		return "", nil, fmt.Errorf("a %s is not supported: use an ECDSA P-256 or P-384 or an Ed25519 key", keyKind(public))
	}
	key, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return "", nil, err
	}
	key.Scheme = scheme // the library says nistp256 of every curve
	if value != "" {
		key.UnrecognizedFields = map[string]any{field: value} // before ID, which is computed once and kept
	}
	id, err := key.ID()
	return id, key, err
}

func keyKind(public crypto.PublicKey) string {
	switch k := public.(type) {
	case ed25519.PublicKey:
		return "Ed25519 key"
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name + " key"
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA key of %d bits", k.N.BitLen())
	}
	return fmt.Sprintf("key of type %T", public)
}

// fingerprint is what people compare: the hex SHA-256 of the key itself, whatever is published with it. Empty for a key
// that this version cannot read.
func fingerprint(key *metadata.Key) string {
	public, err := publicKeyOf(key)
	if err != nil {
		return ""
	}
	id, err := signer.OfKey(public)
	if err != nil {
		return ""
	}
	return id.Subject
}

// ownerOf is who a published key says it belongs to: a person's name, the URI of an online key, or nothing.
func ownerOf(key *metadata.Key) string {
	if key != nil {
		for _, field := range []string{fieldOwner, fieldOnlineURI} {
			if v, ok := key.UnrecognizedFields[field].(string); ok {
				return v
			}
		}
	}
	return ""
}

// keyName is how errors call a key.
func keyName(id string, key *metadata.Key) string {
	short := id[:min(len(id), 12)]
	if owner := ownerOf(key); owner != "" {
		return visible(owner + " (" + short + ")")
	}
	return visible(short)
}

// A keyring is what a delegator says about a role: which keys, under which ids, and how many must sign.
type keyring struct {
	role      string
	ids       []string
	keys      map[string]*metadata.Key
	threshold int
}

func newRing(role string, ids []string, keys map[string]*metadata.Key, threshold int) (keyring, error) {
	for _, id := range ids {
		if keys[id] == nil {
			return keyring{}, fmt.Errorf("role %q names key %s, which its delegator does not publish", role, id)
		}
	}
	return keyring{role: role, ids: ids, keys: keys, threshold: threshold}, nil
}

func rootRing(root *metadata.Metadata[metadata.RootType], role string) (keyring, error) {
	r := root.Signed.Roles[role]
	if r == nil {
		return keyring{}, fmt.Errorf("root lists no role %q", role)
	}
	return newRing(role, r.KeyIDs, root.Signed.Keys, r.Threshold)
}

// idOf returns the id under which the ring lists a public key, or "".
func (k keyring) idOf(public crypto.PublicKey) string {
	for _, id := range k.ids {
		listed, err := publicKeyOf(k.keys[id])
		if err != nil {
			continue // a key this version cannot read cannot be this one
		}
		if p, ok := listed.(interface{ Equal(crypto.PublicKey) bool }); ok && p.Equal(public) {
			return id
		}
	}
	return ""
}

func (k keyring) names() string {
	names := make([]string, len(k.ids))
	for i, id := range k.ids {
		names[i] = keyName(id, k.keys[id])
	}
	return strings.Join(names, ", ")
}

// valid returns the ids of the ring's keys that signed payload, one for each distinct key: clients count keys, not ids.
func (k keyring) valid(payload []byte, signatures []metadata.Signature) []string {
	var ids, keys []string
	for _, id := range k.ids {
		i := slices.IndexFunc(signatures, func(s metadata.Signature) bool { return s.KeyID == id })
		if i < 0 || verifySignature(k.keys[id], payload, signatures[i].Signature) != nil {
			continue
		}
		if f := fingerprint(k.keys[id]); !slices.Contains(keys, f) {
			ids, keys = append(ids, id), append(keys, f)
		}
	}
	return ids
}

func (k keyring) met(d document) bool {
	return k.threshold > 0 && len(k.valid(d.payload, *d.signatures)) >= k.threshold
}

// uncounted keeps of ids those whose signatures tuf-js 3.1.0, and so npm's clients, does not count: it checks every ECDSA
// signature with SHA-256, which those of scheme ecdsa-sha2-nistp384 do not use.
func (k keyring) uncounted(ids []string) []string {
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return k.keys[id].Scheme != metadata.KeySchemeECDSA_SHA2_P384 })
}

// outOfReach says that tuf-js can never count enough keys of the ring, and whose it does not count; "" when it can.
func (k keyring) outOfReach() string {
	lost := k.uncounted(k.ids)
	counts := len(k.ids) - len(lost)
	if len(lost) == 0 || counts >= k.threshold {
		return ""
	}
	return fmt.Sprintf("role %s: tuf-js 3.1.0 does not count signatures by P-384 keys, as of %s; without them it has %d of the %d that must sign, so that npm's clients would refuse it for good: give them P-256 or Ed25519 keys",
		k.role, keyring{ids: lost, keys: k.keys}.names(), counts, k.threshold)
}

// verifySignature checks one signature as clients do: with the hash that the key's scheme names.
func verifySignature(key *metadata.Key, payload, sig []byte) error {
	if len(sig) == 0 {
		return errors.New("no signature")
	}
	public, err := publicKeyOf(key)
	if err != nil {
		return err
	}
	var v signature.Verifier
	switch p := public.(type) {
	case *rsa.PublicKey:
		v, err = signature.LoadRSAPSSVerifier(p, crypto.SHA256, &rsa.PSSOptions{Hash: crypto.SHA256})
	default:
		hash := crypto.SHA256
		if key.Scheme == metadata.KeySchemeECDSA_SHA2_P384 {
			hash = crypto.SHA384
		}
		v, err = signature.LoadVerifier(public, hash)
	}
	if err != nil {
		return err
	}
	return v.VerifySignature(bytes.NewReader(sig), bytes.NewReader(payload))
}

// signOne signs d with s under a published key and checks the result, so that a broken token, a wrong KMS mapping or
// another hash shows here and not at clients.
func signOne(ctx context.Context, d document, id string, key *metadata.Key, s signer.Signer) (metadata.Signature, error) {
	sig, err := s.Sign(ctx, d.payload)
	if err != nil {
		return metadata.Signature{}, fmt.Errorf("sign %s with key %s: %w", d.role, keyName(id, key), err)
	}
	if err := verifySignature(key, d.payload, sig); err != nil {
		return metadata.Signature{}, fmt.Errorf("sign %s with key %s: the signature does not verify as TUF clients do (scheme %s: %s); nothing was kept: is it the right key, and does it sign this way?",
			d.role, keyName(id, key), key.Scheme, schemeMeans(key))
	}
	return metadata.Signature{KeyID: id, Signature: sig}, nil
}

func schemeMeans(key *metadata.Key) string {
	switch key.Scheme {
	case metadata.KeySchemeEd25519:
		return "Ed25519 over the message itself, not Ed25519ph"
	case metadata.KeySchemeECDSA_SHA2_P384:
		return "ECDSA P-384 with SHA-384"
	case metadata.KeySchemeRSASSA_PSS_SHA256:
		return "RSA-PSS with SHA-256"
	}
	return "ECDSA P-256 with SHA-256"
}

// sign replaces the signatures of d by those of signers, each under its published id. It refuses, before a key is
// touched, a signer that is not in the ring and a number of distinct keys below the threshold.
func sign(ctx context.Context, d document, ring keyring, signers ...signer.Signer) error {
	var ids []string
	var use []signer.Signer
	for _, s := range signers {
		if s == nil {
			return fmt.Errorf("no signer was given for %s", d.role)
		}
		id := ring.idOf(s.PublicKey())
		if id == "" {
			return fmt.Errorf("key %s is not a key of role %q, which has: %s", s.Identity().ID(), ring.role, ring.names())
		}
		if !slices.Contains(ids, id) {
			ids, use = append(ids, id), append(use, s)
		}
	}
	if len(ids) < ring.threshold {
		return fmt.Errorf("role %q needs the signatures of %d keys and got signers for %d: add some of: %s", ring.role, ring.threshold, len(ids), ring.names())
	}
	*d.signatures = []metadata.Signature{}
	for i, s := range use {
		if err := ctx.Err(); err != nil {
			return err
		}
		sig, err := signOne(ctx, d, ids[i], ring.keys[ids[i]], s)
		if err != nil {
			return err
		}
		d.put(sig)
	}
	return nil
}
