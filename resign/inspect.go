package resign

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

const (
	// maxMessage bounds a file that is read into memory to be signed, in bytes.
	maxMessage = 1 << 30
	// maxText bounds what is looked into of a file that may be text, in bytes: no
	// verifier reads more of what it might be.
	maxText = 128 << 20
)

// suits says why a statement about a file must not be signed as it is, or nil. A
// signature over a file is one over its bytes, whatever they are: of the payload
// of an image signature it is that image signature. And a bundle with a claim can
// be attached to every image that the claim is about.
func (r *run) suits(ctx context.Context, u *unit) error {
	about := []string{u.Digest}
	if u.PredicateType != inventory.SignPredicate {
		message, err := r.message(ctx, u)
		if err != nil {
			return err
		}
		if about, err = verify.StatementSubjects(message); err != nil {
			return fmt.Errorf("the claim to re-issue: %w", err)
		}
	}
	for _, digest := range about {
		arts, _, err := r.Store.Artifacts(ctx, store.Selection{Digest: digest}, store.Place{}, 2) // one may be the file
		if err != nil {
			return err
		}
		for _, a := range arts {
			if a.Repository != inventory.Files {
				return fmt.Errorf("it is about %s, too, which is no file: re-signed as the signature of a file it would speak for that, whatever is decided about it", a.Ref())
			}
		}
	}
	var names []string
	if r.Files.In != nil {
		var err error
		if names, err = r.Files.In.Find(ctx, u.Digest); err != nil {
			return err
		}
	}
	if len(names) > 0 {
		_, err := r.content(u.Digest, names[0], false)
		return err
	}
	if !r.Files.ByDigest {
		return ask("the file %s is not at hand, and its digest alone does not show that it is one, not what signs an image: give the directory it is in (--files), or have it signed by its digest (--files-by-digest)", u.Digest)
	}
	if known, err := r.Store.Vault(ctx, u.Digest); err == nil {
		if _, err := inspect(bytes.NewReader(known)); err != nil {
			return err
		}
	}
	if u.PredicateType != inventory.SignPredicate {
		return nil
	}
	if r.Signer.Identity().Kind != signer.Keyless {
		c, err := r.Signer.Credential(ctx)
		if err != nil {
			return err
		}
		if _, can := c.Signer.(signer.DigestSigner); can {
			return nil
		}
	}
	return ask("the file %s is not at hand, and %s cannot sign a digest: give the directory it is in (--files)", u.Digest, r.Signer.Identity())
}

// content reads a file, checks that it is what it was and nothing more than a
// file, and returns it if it is wanted.
func (r *run) content(digest, name string, wanted bool) ([]byte, error) {
	f, err := r.Files.In.Reader(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var kept bytes.Buffer
	var in io.Reader = f
	if wanted {
		in = io.TeeReader(io.LimitReader(f, maxMessage+1), &kept)
	}
	sum, err := inspect(in)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	case kept.Len() > maxMessage:
		return nil, fmt.Errorf("%s is longer than %d bytes, and the signer takes it whole: use a key that signs digests (a key file or a KMS), or sign it by hand", name, maxMessage)
	case sum != digest:
		return nil, fmt.Errorf("%s was changed while it was worked with: it is not %s any more: run again", name, digest)
	}
	return kept.Bytes(), nil
}

// inspect returns the digest of a file, and refuses one that is more than a file
// to some verifier who trusts the key.
func inspect(in io.Reader) (digest string, err error) {
	h := sha256.New()
	b := bufio.NewReader(io.TeeReader(in, h))
	head, err := b.Peek(len(paeStart))
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	switch {
	case string(head) == paeStart:
		return "", errors.New("it is what is signed in an envelope (DSSE), not a file: a signature over it would be one over the claim in it")
	case strings.HasPrefix(string(head), sshStart):
		return "", errors.New("it is what an SSH key signs, not a file: a signature over it would be one over what it names by its hash")
	}
	for {
		c, err := b.ReadByte()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		if strings.IndexByte(" \t\r\n", c) >= 0 {
			continue
		}
		if err := b.UnreadByte(); err != nil {
			return "", err
		}
		if c == '{' {
			text, err := io.ReadAll(io.LimitReader(b, maxText))
			if err != nil {
				return "", err
			}
			if what := known(text); what != "" {
				return "", fmt.Errorf("it is %s: a signature over it would be more than that of a file", what)
			}
		}
		break
	}
	if _, err := io.Copy(io.Discard, b); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// paeStart is how what is signed in a DSSE envelope begins (DSSE 1.0.2).
const paeStart = "DSSEv1 "

// sshStart is how what an SSH key signs for people begins (OpenSSH, PROTOCOL.sshsig).
const sshStart = "SSHSIG"

// known says what a JSON object is to verifiers that take a signature over its
// bytes, or an attestation about its digest, for more than that of a file; or "".
func known(text []byte) string {
	var o struct {
		Critical      json.RawMessage `json:"critical"` // containers-signature(5)
		SchemaVersion json.RawMessage `json:"schemaVersion"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		FSLayers      json.RawMessage `json:"fsLayers"`
		Manifests     json.RawMessage `json:"manifests"`
		SpecVersion   json.RawMessage `json:"spec_version"` // of the signed part of TUF metadata
		Type          json.RawMessage `json:"_type"`
		Schema        json.RawMessage `json:"schema"` // of what people sign to approve a plan
		Approver      json.RawMessage `json:"approver"`
		Plan          json.RawMessage `json:"plan"` // of what one of them signs to do without approvals
		By            json.RawMessage `json:"by"`
	}
	// Whatever follows the first value: what reads no further must not see more.
	if json.NewDecoder(bytes.NewReader(text)).Decode(&o) != nil {
		return ""
	}
	switch {
	case o.Critical != nil:
		return "the payload of an image signature"
	case o.SchemaVersion != nil && (o.Config != nil || o.Layers != nil || o.FSLayers != nil || o.Manifests != nil),
		describes(o.Config) && o.Layers != nil, describes(o.Manifests): // few ask for the version
		return "the manifest of an image"
	case o.SpecVersion != nil && o.Type != nil:
		return "the signed part of TUF metadata"
	case o.Schema != nil && o.Approver != nil:
		return "somebody's approval of a plan"
	case o.Schema != nil && o.Plan != nil && o.By != nil:
		return "somebody's word that a plan is carried out without approvals"
	}
	return ""
}

// describes reports whether a JSON value is a descriptor, or a list with one in it
// (OCI image specification, "OCI Content Descriptors").
func describes(value json.RawMessage) bool {
	type descriptor struct {
		Digest string `json:"digest"`
	}
	var one descriptor
	var list []json.RawMessage
	if json.Unmarshal(value, &list) == nil {
		return slices.ContainsFunc(list, func(v json.RawMessage) bool {
			var d descriptor
			return json.Unmarshal(v, &d) == nil && d.Digest != ""
		})
	}
	return json.Unmarshal(value, &one) == nil && one.Digest != ""
}
