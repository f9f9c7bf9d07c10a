package resign

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/sigstore/cosign/v2/pkg/oci/static"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

// Files says where files are, and where the signatures that are made of them go.
type Files struct {
	Out FileStore  // nil: nowhere, and nothing about files is signed
	In  FileSource // nil: no file is at hand

	// ByDigest has files signed that are not at hand, where the signer can. What a
	// digest stands for cannot be seen: it may be what somebody else takes for more
	// than a file.
	ByDigest bool
}

// FileStore is what re-signing needs of the directory that signatures are put in.
type FileStore interface {
	// Read returns a file; the error wraps fs.ErrNotExist where there is none.
	Read(name string, limit int64) ([]byte, error)
	// Create writes a file, all of it or none, and durably. What has the name
	// already is left alone, and the error wraps fs.ErrExist.
	Create(name string, content []byte) error
	// Sync makes a file last that is there: who wrote it may have been stopped
	// before it did.
	Sync(name string) error
	// Find returns the names of the files with a digest, as they were when it was
	// first called.
	Find(ctx context.Context, digest string) ([]string, error)
}

// FileSource is what re-signing needs of the directory that files are found in.
type FileSource interface {
	// Find returns the names of the files with a digest, as they were when it was
	// first called.
	Find(ctx context.Context, digest string) ([]string, error)
	Reader(name string) (io.ReadCloser, error)
}

// maxFile bounds what is read of a signature file, in bytes: as much as of a
// bundle that is imported.
const maxFile = 128 << 20

// The names that signatures get, after that of their file. They are those that
// cosign's documentation uses; for a timestamp it has none.
const (
	bundleSuffix      = ".sigstore.json"
	signatureSuffix   = ".sig"
	certificateSuffix = ".pem"
	stampSuffix       = ".rfc3161.json"
)

// errAsk is wrapped by what a person has to give: that it is missing says nothing
// about signer, services and registries.
var errAsk = errors.New("it takes something more to be given")

func ask(format string, args ...any) error {
	return asked{fmt.Errorf(format, args...)}
}

// asked is an error that wraps errAsk and does not say so.
type asked struct{ error }

func (asked) Is(target error) bool { return target == errAsk }

// bases returns the names that the signatures of a file are put beside: those of
// the files at hand that have its digest, or the digest. What a bundle's own file
// was called decides nothing: whoever planted it has chosen that.
func (r *run) bases(ctx context.Context, u *unit) ([]string, error) {
	if r.Files.In != nil {
		names, err := r.Files.In.Find(ctx, u.Digest)
		if err != nil || len(names) > 0 {
			return names, err
		}
	}
	return []string{strings.Replace(u.Digest, ":", "-", 1)}, nil
}

// part is a file that a signature, or a piece of it, is put in.
type part struct {
	suffix  string
	content []byte
}

// parts returns what a signature is put in. Whoever finds the last has them all.
func (u *unit) parts(content []byte) ([]part, error) {
	return partsOf(u.format, u.bundleSuffix(), content)
}

func partsOf(f inventory.Format, suffix string, content []byte) ([]part, error) {
	if f == inventory.Detached {
		return []part{{suffix, content}}, nil
	}
	b, err := verify.ParseBlobSignature(content)
	if err != nil {
		return nil, err
	}
	var out []part
	if b.Certificate != "" {
		out = append(out, part{certificateSuffix, []byte(b.Certificate)})
	}
	if b.Timestamp != nil {
		out = append(out, part{stampSuffix, b.Timestamp})
	}
	return append(out, part{signatureSuffix, base64.StdEncoding.AppendEncode(nil, b.Signature)}), nil
}

// Holds looks whether the signature of a file, in its stored form, is in the
// directory of signatures now, as it was made: beside each copy of the file that is
// at hand, or else under any name. The error says what is missing.
func (f Files) Holds(ctx context.Context, digest string, format inventory.Format, content []byte) error {
	parts, err := partsOf(format, bundleSuffix, content)
	if err != nil {
		return err
	}
	if f.In != nil {
		bases, err := f.In.Find(ctx, digest)
		if err != nil {
			return err
		}
		if len(bases) > 0 {
			var missing []error
			for _, base := range bases {
				missing = append(missing, f.hold(base, parts))
			}
			return errors.Join(missing...)
		}
	}
	last := parts[len(parts)-1]
	names, err := f.Out.Find(ctx, inventory.Digest(last.content))
	if err != nil {
		return err
	}
	why := fmt.Errorf("no file *%s is there with the signature that was made", last.suffix)
	for _, name := range names {
		if base, ok := strings.CutSuffix(name, last.suffix); ok {
			if why = f.hold(base, parts); why == nil {
				return nil
			}
		}
	}
	return why
}

// hold looks whether all that a signature is put in is there, as it was made.
func (f Files) hold(base string, parts []part) error {
	for _, x := range parts {
		there, err := f.Out.Read(base+x.suffix, maxFile)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%s is missing", base+x.suffix)
		case err != nil:
			return err
		case !bytes.Equal(there, x.content):
			return fmt.Errorf("%s is not what was made", base+x.suffix)
		}
	}
	return nil
}

// bundleSuffix tells the bundle of a file from those of claims about it.
func (u *unit) bundleSuffix() string {
	_, payload, claim := strings.Cut(u.StatementKey, "#sha256:")
	if !claim {
		return bundleSuffix
	}
	return "." + payload[:min(16, len(payload))] + bundleSuffix
}

// read returns the signature that has a unit's name beside a file, in its stored
// form; nil: there is none. known is that form of what the unit was signed with,
// or nil: a log entry is in no file.
func (r *run) read(u *unit, base string, known []byte) ([]byte, error) {
	optional := func(suffix string) ([]byte, error) {
		content, err := r.Files.Out.Read(base+suffix, maxFile)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return content, err
	}
	if u.format == inventory.Detached {
		return optional(u.bundleSuffix())
	}
	sig, err := optional(signatureSuffix)
	if err != nil || sig == nil {
		return nil, err
	}
	var certificate []byte
	if r.Signer.Identity().Kind == signer.Keyless { // whoever has the key needs none
		if certificate, err = optional(certificateSuffix); err != nil {
			return nil, err
		}
	}
	stamp, err := optional(stampSuffix)
	if err != nil {
		return nil, err
	}
	b, err := verify.NewBlobSignature(sig, certificate, stamp)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", base+signatureSuffix, err)
	}
	if own, err := verify.ParseBlobSignature(known); err == nil && bytes.Equal(own.Signature, b.Signature) &&
		own.Certificate == b.Certificate && bytes.Equal(own.Timestamp, b.Timestamp) {
		return known, nil
	}
	return b.Content()
}

// beside verifies what is beside a file as its consumer does. nil: there is nothing.
// Whatever else has the name is an error.
func (r *run) beside(ctx context.Context, u *unit, base string) (*verify.Found, error) {
	var known []byte
	if u.record.Content != "" {
		var err error
		if known, err = r.Store.Vault(ctx, u.record.Content); err != nil {
			return nil, err
		}
	}
	content, err := r.read(u, base, known)
	if err != nil || content == nil {
		return nil, err
	}
	f := verify.Found{Content: content,
		Signature: r.verifier.Stored(verify.Subject{Repository: u.Repository, Digest: u.Digest}, u.format, nil, content)}
	f.Manifest = f.Signature.Content // nothing else holds it
	got, refused, err := r.match(ctx, u, verify.Fetched{Found: []verify.Found{f}})
	if err != nil || got != nil {
		return got, err
	}
	parts, err := u.parts(content)
	if err != nil {
		return nil, err
	}
	why := "it is not the one that is to be there"
	switch {
	case refused != nil:
		why = refused.Error()
	case !f.Verified:
		why = f.Why
	}
	return nil, fmt.Errorf("%s is there already, and nothing is overwritten (%s): look at it, and move it away or have the signatures put elsewhere (--files-out)",
		base+parts[len(parts)-1].suffix, why)
}

// everywhere returns the signature that is beside each copy of a file; nil: beside
// some it is not.
func (r *run) everywhere(ctx context.Context, u *unit) (found *verify.Found, err error) {
	bases, err := r.bases(ctx, u)
	if err != nil {
		return nil, err
	}
	for _, base := range bases {
		if found, err = r.beside(ctx, u, base); err != nil || found == nil {
			return nil, err
		}
	}
	return found, nil
}

// lookForFiles is look for what is kept in files: it costs nothing, so it is done
// before anything is signed, and what is missing for that is told.
func (r *run) lookForFiles(ctx context.Context, p *place) error {
	if r.Files.Out == nil {
		return ask("signatures of files are put into a directory: give it (--files-out)")
	}
	for _, u := range p.units {
		if !u.open() {
			continue
		}
		found, err := r.everywhere(ctx, u)
		if err == nil && found == nil && u.record.Content == "" {
			err = r.suits(ctx, u)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			u.err = err
		case found != nil:
			u.settleFile(found)
			if !r.Apply {
				continue
			}
			if u.err = r.last(ctx, u); u.err == nil {
				u.good = true
			}
		}
	}
	return nil
}

// last makes what was found beside each copy of a file last, before it is
// recorded as done.
func (r *run) last(ctx context.Context, u *unit) error {
	bases, err := r.bases(ctx, u)
	if err != nil {
		return err
	}
	for _, base := range bases {
		if err := r.lastBeside(u, base, u.found.Content); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) lastBeside(u *unit, base string, content []byte) error {
	parts, err := u.parts(content)
	if err != nil {
		return err
	}
	for _, x := range parts {
		if err := r.Files.Out.Sync(base + x.suffix); err != nil {
			return err
		}
	}
	return nil
}

func (u *unit) settleFile(f *verify.Found) {
	u.found, u.holder, u.record.SignatureID = f, f.Content, f.ID
}

// publishFiles puts signatures beside files and reads them back.
func (r *run) publishFiles(ctx context.Context, p *place) error {
	for _, u := range p.units {
		if !u.open() {
			continue
		}
		if err := r.publishFile(ctx, u); err != nil {
			if ctx.Err() != nil || errors.As(err, new(stopped)) {
				return err
			}
			u.err = err
		}
	}
	return nil
}

func (r *run) publishFile(ctx context.Context, u *unit) error {
	bases, err := r.bases(ctx, u)
	if err != nil {
		return err
	}
	for _, base := range bases {
		found, err := r.beside(ctx, u, base)
		if err != nil {
			return err
		}
		if found != nil {
			if err := r.lastBeside(u, base, found.Content); err != nil {
				return err
			}
			continue
		}
		if !r.ready(ctx, u) {
			return errors.Join(ctx.Err(), u.err)
		}
		parts, err := u.parts(u.made.blob)
		if err != nil {
			return err
		}
		for _, x := range parts {
			if err := r.fence(ctx); err != nil {
				return err
			}
			if err := r.create(base+x.suffix, x.content); err != nil {
				return err
			}
		}
		u.wrote = true
	}
	found, err := r.everywhere(ctx, u)
	switch {
	case err != nil:
		return fmt.Errorf("reading back: %w", err)
	case found == nil:
		return errors.New("reading back: the signature is not there: somebody else takes it away: run again when that is done")
	}
	u.settleFile(found)
	u.good = true
	return nil
}

// create writes a file, or finds it written.
func (r *run) create(name string, content []byte) error {
	err := r.Files.Out.Create(name, content)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	there, readErr := r.Files.Out.Read(name, maxFile)
	if readErr == nil && bytes.Equal(there, content) {
		return r.Files.Out.Sync(name)
	}
	return errors.Join(fmt.Errorf("%s is there already with other content, and nothing is overwritten: look at it, and move it away or have the signatures put elsewhere (--files-out)", name), readErr)
}

// makeFile signs a unit that is kept in files and returns the bytes to persist.
func (r *run) makeFile(ctx context.Context, u *unit) ([]byte, error) {
	var content sign.Content
	if u.PredicateType == inventory.SignPredicate {
		digest, err := hex.DecodeString(strings.TrimPrefix(u.Digest, "sha256:"))
		if err != nil {
			return nil, err
		}
		content = &fileMessage{digest: digest, load: func() ([]byte, error) { return r.load(ctx, u) }}
	} else {
		message, err := r.message(ctx, u)
		if err != nil {
			return nil, err
		}
		content = &sign.DSSEData{Data: message, PayloadType: intotoType}
	}
	if _, err := r.turn(ctx, []*unit{u}); err != nil {
		return nil, err
	}
	switch {
	case u.format == inventory.Detached:
		b, _, err := r.bundle(ctx, content, r.Services.Timestamps, r.Services.Logs)
		if err != nil {
			return nil, err
		}
		return compact(b)
	case u.PredicateType == inventory.SignPredicate:
		return r.makeBlob(ctx, content)
	}
	return nil, fmt.Errorf("a claim cannot be written in format %q", u.format)
}

// makeBlob makes a blob signature, in its stored form.
func (r *run) makeBlob(ctx context.Context, content sign.Content) ([]byte, error) {
	b, c, err := r.bundle(ctx, content, r.legacyStamps(), r.legacyLogs())
	if err != nil {
		return nil, err
	}
	// What goes with it is what goes with a legacy signature.
	l := layer{Annotations: map[string]string{}}
	for _, t := range b.GetVerificationMaterial().GetTimestampVerificationData().GetRfc3161Timestamps() {
		if err := l.stamp(t.GetSignedTimestamp()); err != nil {
			return nil, err
		}
	}
	if _, err := r.pack(l, b, c); err != nil {
		return nil, err
	}
	raw := func(key string) json.RawMessage {
		if l.Annotations[key] == "" {
			return nil
		}
		return json.RawMessage(l.Annotations[key])
	}
	out := verify.BlobSignature{Signature: b.GetMessageSignature().GetSignature(),
		Entry: raw(static.BundleAnnotationKey), Timestamp: raw(static.RFC3161TimestampAnnotationKey)}
	if c.Certificate != nil {
		out.Certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate}))
	}
	return out.Content()
}

// load reads the file that a unit is about.
func (r *run) load(ctx context.Context, u *unit) ([]byte, error) {
	if r.Files.In != nil {
		names, err := r.Files.In.Find(ctx, u.Digest)
		if err != nil {
			return nil, err
		}
		if len(names) > 0 {
			return r.content(u.Digest, names[0], true)
		}
	}
	return nil, ask("the file %s is not at hand, and %s cannot sign a digest: give the directory it is in (--files)", u.Digest, r.Signer.Identity())
}

// fileMessage is a file to be signed: by its digest where the signer can, else
// whole.
type fileMessage struct {
	sign.PlainData // without the file: see fileKeypair
	digest         []byte
	load           func() ([]byte, error)
}

// fileKeypair signs a file for sigstore-go. Files are known by their SHA-256
// digest, whatever the key: so does cosign sign them with a key.
type fileKeypair struct {
	sign.Keypair
	signer signer.Signer
	file   *fileMessage
	run    *run
}

func (k fileKeypair) GetHashAlgorithm() protocommon.HashAlgorithm {
	return protocommon.HashAlgorithm_SHA2_256
}

func (k fileKeypair) SignData(ctx context.Context, _ []byte) (sig, digest []byte, err error) {
	if s, can := k.signer.(signer.DigestSigner); can {
		sig, err = s.SignDigest(ctx, k.file.digest)
		return sig, k.file.digest, err
	}
	k.run.loading.Lock() // one at a time: it may be large
	defer k.run.loading.Unlock()
	message, err := k.file.load()
	if err != nil {
		return nil, nil, asked{err} // it is not up to the signer
	}
	sig, err = k.signer.Sign(ctx, message)
	return sig, k.file.digest, err
}
