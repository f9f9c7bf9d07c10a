package app

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/inventory/anchors"
	"github.com/reseal/reseal/inventory/evidence"
	"github.com/reseal/reseal/inventory/records"
	"github.com/reseal/reseal/inventory/scan"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/signer"
	"github.com/reseal/reseal/verify"
)

const (
	maxBundle  = 128 << 20 // bytes of one detached bundle
	maxRecords = 1 << 30   // bytes of one file of CI records: its signature covers all of it
	maxPolicy  = 16 << 20  // bytes of one policy file
)

// bundleSuffixes are the names that Sigstore clients give detached bundles.
var bundleSuffixes = []string{".sigstore.json", ".sigstore", ".bundle"}

// ImportBundles takes in detached bundles: files, and directories in which
// every file named as a bundle is taken.
func (a *App) ImportBundles(ctx context.Context, paths []string, repository, digest string, keys []crypto.PublicKey, progress func(evidence.Imported)) (evidence.Imported, error) {
	var r evidence.Imported
	v, err := a.scanning(ctx, keys)
	if err != nil {
		return r, err
	}
	for path, err := range bundleFiles(paths) {
		if err != nil {
			return r, err
		}
		content, err := readFile(path, maxBundle)
		if err != nil {
			return r, err
		}
		f := evidence.File{Name: path, Digest: digest, Repository: repository, Content: content}
		for _, suffix := range bundleSuffixes {
			if name, ok := strings.CutSuffix(filepath.Base(path), suffix); ok {
				f.Artifact = name
				break
			}
		}
		if err := evidence.Import(ctx, a.store, v, a.by("import of %s", path), []evidence.File{f}, &r); err != nil {
			return r, err
		}
		if progress != nil {
			progress(r)
		}
	}
	if r.Problems > 0 {
		return r, fmt.Errorf("%w: %d problems", ErrIncomplete, r.Problems)
	}
	return r, nil
}

// The names of a blob signature's files, after that of the signed file. Of a
// certificate's the first is the one that re-signing writes.
const (
	signatureSuffix = ".sig"
	stampSuffix     = ".rfc3161.json"
)

var certificateSuffixes = []string{".pem", ".crt", ".cert"}

// BlobImport says which blob signatures to take in. Where only paths are given,
// what goes with a signature stands beside it.
type BlobImport struct {
	Paths       []string // signatures, or directories in which every *.sig is taken
	File        string   // the signed file
	Digest      string   // or its digest
	Certificate string   // file
	Timestamp   string   // file
}

// ImportBlobs takes in signatures over files as "cosign sign-blob" writes them
// with --output-signature.
func (a *App) ImportBlobs(ctx context.Context, o BlobImport, keys []crypto.PublicKey, progress func(evidence.Imported)) (evidence.Imported, error) {
	var r evidence.Imported
	v, err := a.scanning(ctx, keys)
	if err != nil {
		return r, err
	}
	for path, err := range namedFiles(o.Paths, []string{signatureSuffix}) {
		if err != nil {
			return r, err
		}
		f, err := o.file(path)
		if err != nil {
			return r, err
		}
		if o.Certificate == "" {
			f = byKey(v, f)
		}
		if err := evidence.Import(ctx, a.store, v, a.by("import of %s", path), []evidence.File{f}, &r); err != nil {
			return r, err
		}
		if progress != nil {
			progress(r)
		}
	}
	if r.Problems > 0 {
		return r, fmt.Errorf("%w: %d problems", ErrIncomplete, r.Problems)
	}
	return r, nil
}

// byKey takes the certificate that was found beside a signature from it where a
// key made it: a certificate may stand there for another reason, and nothing that
// somebody puts there keeps a good signature from being known as one.
func byKey(v *verify.Verifier, f evidence.File) evidence.File {
	b, err := verify.ParseBlobSignature(f.Content)
	if err != nil || b.Certificate == "" || f.Digest == "" {
		return f
	}
	verifies := func(content []byte) bool {
		return v.Stored(verify.Subject{Repository: inventory.Files, Digest: f.Digest, Content: f.Subject}, inventory.Blob, nil, content).Verified
	}
	b.Certificate = ""
	if content, err := b.Content(); err == nil && !verifies(f.Content) && verifies(content) {
		f.Content = content
	}
	return f
}

// file reads one signature with what goes with it.
func (o BlobImport) file(path string) (evidence.File, error) {
	f := evidence.File{Name: path, Digest: o.Digest, Format: inventory.Blob}
	signed, named := strings.CutSuffix(path, signatureSuffix)
	sig, err := readFile(path, maxBlobPart)
	if err != nil {
		return f, err
	}
	f.Parts = [][]byte{sig}
	certificate, err := beside(o.Certificate, signed, named, certificateSuffixes...)
	if err != nil {
		return f, err
	}
	stamp, err := beside(o.Timestamp, signed, named, stampSuffix)
	if err != nil {
		return f, err
	}
	b, err := verify.NewBlobSignature(sig, certificate, stamp)
	if err != nil && o.Certificate == "" && o.Timestamp == "" { // what stands beside it may have to do with something else
		certificate, stamp = nil, nil
		b, err = verify.NewBlobSignature(sig, nil, nil)
	}
	if err != nil && (o.Certificate != "" || o.Timestamp != "") {
		return f, fmt.Errorf("%s: %w", path, err)
	}
	for _, part := range [][]byte{certificate, stamp} {
		if part != nil {
			f.Parts = append(f.Parts, part)
		}
	}
	if f.Content = sig; err == nil { // else it is kept as it is, and does not verify
		if f.Content, err = b.Content(); err != nil {
			return f, err
		}
	}
	if o.File != "" {
		signed, named = o.File, true
	}
	if !named || o.Digest != "" {
		return f, nil
	}
	err = about(&f, signed)
	if errors.Is(err, fs.ErrNotExist) && o.File == "" {
		return f, nil // it is listed as a problem
	}
	f.Artifact = filepath.Base(signed)
	return f, err
}

// maxBlobPart bounds a signature, a certificate and a timestamp, in bytes.
const maxBlobPart = 1 << 20

// beside reads a file that was named, or the first there is of those beside a
// signed one; nil: there is none.
func beside(named, signed string, known bool, suffixes ...string) ([]byte, error) {
	if named != "" {
		return readFile(named, maxBlobPart)
	}
	if !known {
		return nil, nil
	}
	for _, suffix := range suffixes {
		content, err := readFile(signed+suffix, maxBlobPart)
		if !errors.Is(err, fs.ErrNotExist) {
			return content, err
		}
	}
	return nil, nil
}

func bundleFiles(paths []string) iter.Seq2[string, error] { return namedFiles(paths, bundleSuffixes) }

// namedFiles yields files, and of directories those below that end in a suffix.
func namedFiles(paths []string, suffixes []string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, path := range paths {
			err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
				named := slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(p, s) })
				if err == nil && (d.IsDir() || p != path && (!named || !d.Type().IsRegular())) {
					return nil
				}
				if !yield(p, err) {
					return fs.SkipAll
				}
				return nil
			})
			if err != nil {
				return // it was yielded
			}
		}
	}
}

// about takes the digest of the signed file, and the file itself unless it is
// large: only some keys sign files in a way that takes it to verify.
func about(f *evidence.File, path string) error {
	file, err := durable.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	head, err := io.ReadAll(io.LimitReader(file, maxBundle+1))
	if err != nil {
		return err
	}
	h := sha256.New()
	h.Write(head)
	rest, err := io.Copy(h, file)
	if err != nil {
		return err
	}
	if f.Digest = "sha256:" + hex.EncodeToString(h.Sum(nil)); rest == 0 && len(head) <= maxBundle {
		f.Subject = head
	}
	return nil
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := durable.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return content, err
}

// ImportLayout takes in the artifacts and signatures of an OCI image layout
// directory. In the inventory their repository is the name given.
func (a *App) ImportLayout(ctx context.Context, dir, name string, keys []crypto.PublicKey, progress func(scan.Progress)) (scan.Result, error) {
	var r scan.Result
	v, err := a.scanning(ctx, keys)
	if err != nil {
		return r, err
	}
	layout, err := registry.OpenLayout(dir)
	if err != nil {
		return r, err
	}
	defer layout.Close()
	s := scan.Scanner{Registry: layout, Store: a.store, Verifier: v, Progress: progress}
	r, err = s.Import(ctx, a.by("import of layout %s", dir), name)
	if err == nil && r.Problems > 0 {
		err = fmt.Errorf("%w: %d problems", ErrIncomplete, r.Problems)
	}
	return r, err
}

// RecordSource is a kind of file of records.
type RecordSource string

// The kinds of files of records.
const (
	SourceCI         RecordSource = "ci"
	SourceCloudTrail RecordSource = "cloudtrail"
	SourceGCPAudit   RecordSource = "gcp-audit"
)

// RecordImport says how to take in a file of records.
type RecordImport struct {
	File      string
	Source    RecordSource
	Signer    string // name or ID of the signer the records are about; for CI records each names its own
	Bundle    string // of CI records: file of the Sigstore bundle over File
	Signature string // or file of the detached signature over it
}

// ImportedRecords counts what an import of records took in.
type ImportedRecords struct {
	Records int64    `json:"records"`
	Failed  int64    `json:"failed"`       // uses of a key that were refused: nothing was signed
	By      string   `json:"by,omitempty"` // signer whose signature authenticates the file
	Unread  []string `json:"unread"`       // entries that could not be read
}

// maxUnread bounds the list of entries that could not be read.
const maxUnread = 100

// ImportRecords takes in what another system tells of signatures made. CI
// records count only as the word of a trusted signer, who signed the file.
func (a *App) ImportRecords(ctx context.Context, o RecordImport) (ImportedRecords, error) {
	r := ImportedRecords{Unread: []string{}}
	about := ""
	if o.Signer != "" {
		known, err := a.store.Signer(ctx, o.Signer)
		if err != nil {
			return r, err
		}
		about = known.Identity.ID()
	}
	var entries iter.Seq2[inventory.Record, error]
	switch o.Source {
	case SourceCI:
		content, err := readFile(o.File, maxRecords)
		if err != nil {
			return r, err
		}
		by, err := a.signedBy(ctx, o.File, o.Bundle, o.Signature, content)
		if err != nil {
			return r, err
		}
		r.By = by.Identity.ID()
		entries = records.CI(strings.NewReader(string(content)))
	case SourceCloudTrail, SourceGCPAudit:
		f, err := os.Open(o.File)
		if err != nil {
			return r, err
		}
		defer f.Close()
		entries = records.CloudTrail(f)
		if o.Source == SourceGCPAudit {
			entries = records.GCPAudit(f)
		}
	default:
		return r, fmt.Errorf("records of kind %q are not known: use %s, %s or %s", o.Source, SourceCI, SourceCloudTrail, SourceGCPAudit)
	}
	names, err := a.signerNames(ctx)
	if err != nil {
		return r, err
	}
	var pending []inventory.Record
	flush := func() error {
		if len(pending) == 0 {
			return nil
		}
		err := a.store.Update(ctx, a.by("records of %s", o.File), func(tx *store.Tx) error {
			for _, rec := range pending {
				if err := tx.PutRecord(ctx, rec); err != nil {
					return err
				}
			}
			return nil
		})
		pending = pending[:0]
		return err
	}
	for rec, err := range entries {
		if err != nil {
			if len(r.Unread) < maxUnread {
				r.Unread = append(r.Unread, fmt.Sprintf("%s: %v", o.File, err))
			}
			continue
		}
		rec.Source = string(o.Source)
		if r.By != "" {
			// The same words of two signers are two records: one may be under an
			// incident one day.
			rec.By, rec.ID = r.By, strings.TrimPrefix(inventory.Digest([]byte(rec.ID+" "+r.By)), "sha256:")
		}
		if id, ok := names[rec.Signer]; ok {
			rec.Signer = id
		}
		if about != "" {
			rec.Signer = about
		}
		r.Records++
		if rec.Failed {
			r.Failed++
		}
		if pending = append(pending, rec); len(pending) == 1000 {
			if err := flush(); err != nil {
				return r, err
			}
		}
	}
	if err := flush(); err != nil {
		return r, err
	}
	if len(r.Unread) > 0 {
		return r, fmt.Errorf("%w: %d entries", ErrIncomplete, len(r.Unread))
	}
	return r, nil
}

// signerNames maps the names of enrolled signers to their IDs.
func (a *App) signerNames(ctx context.Context) (map[string]string, error) {
	list, err := a.store.Records(ctx)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, r := range list {
		if r.Name != "" {
			names[r.Name] = r.Identity.ID()
		}
	}
	return names, nil
}

// signedBy returns the trusted signer who signed a file with "cosign
// sign-blob".
func (a *App) signedBy(ctx context.Context, file, bundleFile, signatureFile string, content []byte) (signer.Record, error) {
	if (bundleFile == "") == (signatureFile == "") {
		return signer.Record{}, fmt.Errorf("%s counts only when a signer vouches for it: sign it with \"cosign sign-blob\" and give its bundle or its signature", file)
	}
	v, err := a.verifier(ctx)
	if err != nil {
		return signer.Record{}, err
	}
	var by signer.Identity
	if bundleFile != "" {
		bundle, err := readFile(bundleFile, maxBundle)
		if err != nil {
			return signer.Record{}, err
		}
		sig, err := judge{v}.Blob(bundle, content)
		if err != nil {
			return signer.Record{}, err
		}
		if !sig.Verified {
			return signer.Record{}, fmt.Errorf("the bundle %s does not verify over %s: %s", bundleFile, file, sig.Why)
		}
		by = sig.Signer
	} else {
		raw, err := readFile(signatureFile, maxBundle)
		if err != nil {
			return signer.Record{}, err
		}
		if by, err = v.Blob(content, raw); err != nil {
			return signer.Record{}, fmt.Errorf("the signature %s does not verify over %s: %w", signatureFile, file, err)
		}
	}
	known, err := a.store.Signer(ctx, by.ID())
	if err != nil || !known.Enrolled() || !known.State.Trusted() {
		return known, fmt.Errorf("%s is signed by %s, who is not trusted here: enrol the signer with \"reseal signer add\"", file, by)
	}
	return known, nil
}

// Reverify recomputes the evidence of every signature against the trusted root
// in force and every key known here, and that of the journal's timestamps. With
// root given, that becomes the trusted root first.
func (a *App) Reverify(ctx context.Context, newRoot []byte, progress func(evidence.Reverified)) (evidence.Reverified, error) {
	if newRoot != nil {
		material, err := root.NewTrustedRootFromJSON(newRoot)
		if err != nil {
			return evidence.Reverified{}, fmt.Errorf("trusted root: %w", err)
		}
		if err := a.store.Update(ctx, a.by("a new trusted root"), func(tx *store.Tx) error {
			digest, err := tx.PutVault(ctx, newRoot)
			if err != nil {
				return err
			}
			tx.Record(journal.Draft{Action: "trust.root", Subject: trustedRootFile, Digest: digest})
			return nil
		}); err != nil {
			return evidence.Reverified{}, err
		}
		if err := durable.WriteFile(filepath.Join(a.options.Home, trustedRootFile), newRoot, 0o644); err != nil {
			return evidence.Reverified{}, err
		}
		a.root = material
	}
	v, err := a.verifier(ctx)
	if err != nil {
		return evidence.Reverified{}, err
	}
	r, err := evidence.Reverify(ctx, a.store, v, a.by("reverify"), progress)
	if err != nil {
		return r, err
	}
	if err := a.reanchor(ctx); err != nil {
		return r, err
	}
	return r, a.trusting(ctx, v)
}

// The document that says against what trust the inventory was verified.
const (
	kindTrust = "trust"
	trustID   = "inventory"
)

type trustDocument struct {
	Fingerprint string `json:"fingerprint"` // verify.Verifier.Fingerprint
}

// trusting records that the whole inventory is verified against v.
func (a *App) trusting(ctx context.Context, v *verify.Verifier) error {
	body, err := json.Marshal(trustDocument{v.Fingerprint()})
	if err != nil {
		return err
	}
	if known, err := a.store.Document(ctx, kindTrust, trustID); err == nil && string(known) == string(body) {
		return nil
	}
	return a.store.Update(ctx, a.by("the trust that the inventory is verified against"), func(tx *store.Tx) error {
		return tx.PutDocument(ctx, kindTrust, trustID, "trust.applied", body)
	})
}

// Stale reports whether the inventory was verified against another trusted
// root or other keys than those in force: Reverify is due.
func (a *App) Stale(ctx context.Context) (bool, error) {
	v, err := a.verifier(ctx)
	if err != nil {
		return false, err
	}
	body, err := a.store.Document(ctx, kindTrust, trustID)
	if errors.Is(err, inventory.ErrNotFound) {
		return false, nil // nothing was verified yet
	}
	if err != nil {
		return false, err
	}
	var was trustDocument
	if err := json.Unmarshal(body, &was); err != nil {
		return false, fmt.Errorf("trust document: %w", err)
	}
	return was.Fingerprint != v.Fingerprint(), nil
}

// ImportAnchors reads policy files and keeps where each pins which signers.
func (a *App) ImportAnchors(ctx context.Context, files []string) ([]inventory.Anchor, error) {
	var all []inventory.Anchor
	for _, file := range files {
		content, err := readFile(file, maxPolicy)
		if err != nil {
			return nil, err
		}
		path, err := filepath.Abs(file)
		if err != nil {
			return nil, err
		}
		list, err := anchors.Parse(path, content)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, a.store.Update(ctx, a.by("anchors of %s", strings.Join(files, ", ")), func(tx *store.Tx) error {
		for _, anchor := range all {
			body, err := json.Marshal(anchor)
			if err != nil {
				return err
			}
			if err := tx.PutDocument(ctx, store.KindAnchor, anchor.ID, "anchor.imported", body); err != nil {
				return err
			}
		}
		return nil
	})
}

// Anchors lists the anchors, or with a signer those that pin it or may do so:
// what a pin's reference stands for is known to its consumer only.
func (a *App) Anchors(ctx context.Context, idOrName string) ([]inventory.Anchor, error) {
	var pinned *signer.Identity
	if idOrName != "" {
		r, err := a.store.Signer(ctx, idOrName)
		if err != nil {
			return nil, err
		}
		pinned = &r.Identity
	}
	bodies, err := a.store.Documents(ctx, store.KindAnchor, "")
	if err != nil {
		return nil, err
	}
	out := []inventory.Anchor{}
	for _, body := range bodies {
		var anchor inventory.Anchor
		if err := json.Unmarshal(body, &anchor); err != nil {
			return nil, fmt.Errorf("anchor: %w", err)
		}
		if pinned == nil || slices.ContainsFunc(anchor.Pins, func(p inventory.Pin) bool {
			return p.Matches(*pinned) || p.Reference != "" && p.Authority == (inventory.Authority{})
		}) {
			out = append(out, anchor)
		}
	}
	return out, nil
}

// Signatures yields the signatures selected, in order of repository, digest
// and ID.
func (a *App) Signatures(ctx context.Context, f store.SignatureFilter) iter.Seq2[inventory.Signature, error] {
	return func(yield func(inventory.Signature, error) bool) {
		var at store.SignaturePlace
		for {
			page, next, err := a.store.Signatures(ctx, f, at, 500)
			if err != nil {
				yield(inventory.Signature{}, err)
				return
			}
			for _, sig := range page {
				if !yield(sig, nil) {
					return
				}
			}
			if len(page) == 0 {
				return
			}
			at = next
		}
	}
}

// SignerRecords returns every signer by ID, without what it did.
func (a *App) SignerRecords(ctx context.Context) (map[string]signer.Record, error) {
	list, err := a.store.Records(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]signer.Record, len(list))
	for _, r := range list {
		out[r.Identity.ID()] = r
	}
	return out, nil
}

// Authorities lists what the inventory's evidence rests on.
func (a *App) Authorities(ctx context.Context) ([]store.AuthoritySummary, error) {
	return a.store.Authorities(ctx)
}

// Blast counts what the signers of an incident, or one signer, signed.
func (a *App) Blast(ctx context.Context, incident, suspect string) (store.Blast, error) {
	var ids []string
	if incident != "" {
		i, err := rotate.LoadIncident(ctx, a.store, incident)
		if err != nil {
			return store.Blast{}, err
		}
		for _, s := range i.Signers {
			ids = append(ids, s.ID())
		}
	} else {
		r, err := a.store.Signer(ctx, suspect)
		if err != nil {
			return store.Blast{}, err
		}
		ids = []string{r.Identity.ID()}
	}
	return a.BlastOf(ctx, ids)
}

// BlastOf counts what signers, by ID, signed.
func (a *App) BlastOf(ctx context.Context, signers []string) (store.Blast, error) {
	return a.store.Blast(ctx, signers)
}

// CheckDatabase looks for what is wrong in the database and the journal.
func (a *App) CheckDatabase(ctx context.Context) ([]string, error) { return a.store.Check(ctx) }

// SchemaVersion returns the version of the database's schema, which is the
// newest known here: opening a database brings it up to date.
func (a *App) SchemaVersion(ctx context.Context) (int, error) {
	have, _, err := a.store.Version(ctx)
	return have, err
}

// BackUp copies the database, while others work with it, to a file or a
// postgres:// URL that does not exist yet or is empty.
func (a *App) BackUp(ctx context.Context, target string) error { return a.store.CopyTo(ctx, target) }
