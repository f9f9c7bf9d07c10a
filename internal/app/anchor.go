package app

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	neturl "net/url"
	"os"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/sigstore/sigstore-go/pkg/sign"

	"github.com/reseal/reseal/internal/durable"
	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/verify"
)

// AnchorOptions say where a checkpoint of the journal is put.
type AnchorOptions struct {
	TimestampURLs []string // RFC 3161 authorities of the trusted root
	Files         []string
	Images        []string // repositories
	Progress      func(signatures int64)
}

// Anchored is a checkpoint put elsewhere.
type Anchored struct {
	Where      string    `json:"where"`
	Size       int64     `json:"size"` // entries under the checkpoint
	Time       time.Time `json:"time"`
	Signatures int64     `json:"signatures"` // that it gave a time proof
}

// AnchorJournal puts a checkpoint of the journal as it is now where nobody here
// can change it. A timestamp token makes it a time proof for every signature
// that the journal says was sighted.
func (a *App) AnchorJournal(ctx context.Context, o AnchorOptions) ([]Anchored, error) {
	if err := a.checkpoint(ctx); err != nil { // a journal that was changed is not anchored
		return nil, err
	}
	signed, err := a.signedCheckpoint(ctx)
	if err != nil {
		return nil, err
	}
	key, err := a.journalVerifier()
	if err != nil {
		return nil, err
	}
	c, err := journal.OpenCheckpoint(signed, key)
	if err != nil {
		return nil, err
	}
	out := []Anchored{}
	keep := func(r journal.Receipt) error {
		r.Schema, r.Checkpoint = journal.ReceiptSchema, string(signed)
		if err := a.keepReceipt(ctx, anchored{Receipt: r, size: c.Size}); err != nil {
			return err
		}
		out = append(out, Anchored{Where: r.Where, Size: c.Size, Time: r.Time})
		return nil
	}
	var failed []error // one place that cannot be reached does not keep the others from being used
	for _, file := range o.Files {
		err := a.anchorFile(ctx, file, signed)
		if err == nil {
			err = keep(journal.Receipt{Kind: journal.ReceiptFile, Where: file, Time: a.now()})
		}
		failed = append(failed, err)
	}
	for _, image := range o.Images {
		ref, err := a.anchorImage(ctx, image, c, signed)
		if err == nil {
			err = keep(journal.Receipt{Kind: journal.ReceiptOCI, Where: ref, Time: a.now()})
		}
		failed = append(failed, err)
	}
	for _, url := range o.TimestampURLs {
		r, err := a.stamp(ctx, url, signed)
		if err == nil {
			err = keep(r)
		}
		failed = append(failed, err)
	}
	proven, err := a.applyReceipts(ctx, o.Progress)
	for i, x := range out {
		out[i].Signatures = proven[x.Where]
	}
	return out, errors.Join(append(failed, err)...)
}

// anchorFile puts a checkpoint into a file. One that is there already must be
// of this journal, and older.
func (a *App) anchorFile(ctx context.Context, file string, signed []byte) error {
	old, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("anchoring the journal: %w", err)
	default:
		if err := a.extends(ctx, old); err != nil {
			return fmt.Errorf("%s: %w: it is left as it is", file, err)
		}
	}
	return durable.WriteFile(file, signed, 0o644)
}

// extends checks that the journal still has what an earlier checkpoint commits
// to.
func (a *App) extends(ctx context.Context, signed []byte) error {
	key, err := a.journalVerifier()
	if err != nil {
		return err
	}
	old, err := journal.OpenCheckpoint(signed, key)
	if err != nil {
		return err
	}
	now, err := a.store.JournalCheckpoint(ctx)
	if err != nil {
		return err
	}
	if now.Size >= old.Size {
		if now, err = a.store.JournalCheckpointAt(ctx, old.Size); err != nil {
			return err
		}
	}
	if now != old {
		return fmt.Errorf("the journal contradicts this checkpoint of %d entries: it was cut or changed", old.Size)
	}
	return nil
}

const checkpointType = "application/vnd.reseal.checkpoint.v1+text"

// anchorImage puts a checkpoint into a registry, as an artifact of its own: it
// hangs on no image, so no verifier takes it for a signature of one.
func (a *App) anchorImage(ctx context.Context, repository string, c journal.Checkpoint, signed []byte) (string, error) {
	repo, err := name.NewRepository(repository)
	if err != nil {
		return "", fmt.Errorf("anchoring the journal: %w", err)
	}
	const empty = "{}"
	for _, blob := range [][]byte{[]byte(empty), signed} {
		if _, err := a.options.Registry.PutBlob(ctx, repo.Name(), blob); err != nil {
			return "", err
		}
	}
	descriptor := func(mediaType string, content []byte) map[string]any {
		return map[string]any{"mediaType": mediaType, "digest": inventory.Digest(content), "size": len(content)}
	}
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifestType, "artifactType": checkpointType,
		"config": descriptor("application/vnd.oci.empty.v1+json", []byte(empty)), "layers": []any{descriptor(checkpointType, signed)}})
	if err != nil {
		return "", err
	}
	tag := fmt.Sprintf("journal-%d", c.Size)
	var digest string
	err = registry.Anew(ctx, func() (err error) { // what has this tag is this checkpoint
		digest, _, err = a.options.Registry.PutManifest(ctx, repo.Name(), tag, manifestType, manifest)
		return err
	})
	return repo.Name() + ":" + tag + "@" + digest, err
}

// stamp gets a timestamp token over a checkpoint.
func (a *App) stamp(ctx context.Context, url string, signed []byte) (journal.Receipt, error) {
	at, err := neturl.Parse(url)
	if err != nil {
		return journal.Receipt{}, errors.New("the URL of a timestamp authority is malformed") // not wrapped: the error quotes it, and it may have a password
	}
	where := at.Redacted() // what is journaled, and packed as evidence
	token, err := sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: url, Timeout: 30 * time.Second, Retries: 3}).GetTimestamp(ctx, signed)
	if err != nil {
		return journal.Receipt{}, fmt.Errorf("timestamp authority %s: %w", where, err)
	}
	b, err := a.stamped(token, signed)
	if err != nil {
		return journal.Receipt{}, fmt.Errorf("timestamp authority %s: %w", where, err)
	}
	return journal.Receipt{Kind: journal.ReceiptRFC3161, Where: where, Token: base64.StdEncoding.EncodeToString(token), Time: b.Time,
		Authority: &journal.Authority{Role: string(inventory.RoleJournal), ID: b.Authority.ID}}, nil
}

// stamped verifies a token over a checkpoint against the trusted root.
func (a *App) stamped(token, signed []byte) (inventory.Bound, error) {
	v, err := verify.New(verify.Trust{Root: a.root})
	if err != nil {
		return inventory.Bound{}, err
	}
	b := v.Timestamp(token, signed)
	if !b.Verified {
		return b, fmt.Errorf("its token over the checkpoint does not verify: %s", b.Why)
	}
	return b, nil
}

// anchored is a receipt as it is kept.
type anchored struct {
	Receipt journal.Receipt `json:"receipt"`
	Applied bool            `json:"applied"` // every signature under it has its time proof
	size    int64           // entries under its checkpoint
}

// keepReceipt keeps where a checkpoint was anchored.
func (a *App) keepReceipt(ctx context.Context, x anchored) error {
	body, err := json.Marshal(x)
	if err != nil {
		return err
	}
	return a.store.Update(ctx, a.by("checkpoint anchored at %s", x.Receipt.Where), func(tx *store.Tx) error {
		return tx.PutDocument(ctx, store.KindCheckpoint, fmt.Sprintf("%020d %s", x.size, x.Receipt.Where), "journal.anchor", body)
	})
}

// anchored returns every receipt, that of the smallest checkpoint first.
func (a *App) anchored(ctx context.Context) ([]anchored, error) {
	bodies, err := a.store.Documents(ctx, store.KindCheckpoint, "")
	if err != nil {
		return nil, err
	}
	key, err := a.journalVerifier()
	if err != nil {
		return nil, err
	}
	out := make([]anchored, len(bodies))
	for i, b := range bodies {
		if err := json.Unmarshal(b, &out[i]); err != nil {
			return nil, fmt.Errorf("receipt of a checkpoint: %w", err)
		}
		c, err := out[i].Receipt.Check(key)
		if err != nil {
			return nil, err
		}
		out[i].size = c.Size
	}
	slices.SortStableFunc(out, func(x, y anchored) int {
		return cmp.Or(cmp.Compare(x.size, y.size), x.Receipt.Time.Compare(y.Receipt.Time))
	})
	return out, nil
}

// ReadReceipt reads what anchoring left elsewhere: a receipt, or the checkpoint
// itself.
func ReadReceipt(name string, content []byte) (journal.Receipt, error) {
	if bytes.HasPrefix(bytes.TrimSpace(content), []byte("{")) {
		return journal.ParseReceipt(content)
	}
	return journal.Receipt{Schema: journal.ReceiptSchema, Kind: journal.ReceiptFile, Where: name, Checkpoint: string(content),
		Time: time.Now().UTC().Truncate(time.Second)}, nil
}

// applyReceipts gives the signatures under timestamped checkpoints their time
// proof, those first that an interrupted run left. Of one authority the earliest
// checkpoint that covers an entry counts. A token that the trusted root in force
// does not verify proves nothing. It returns how many signatures each place
// proved.
func (a *App) applyReceipts(ctx context.Context, progress func(int64)) (map[string]int64, error) {
	receipts, err := a.anchored(ctx)
	if err != nil {
		return nil, err
	}
	proven, total := map[string]int64{}, int64(0)
	covered := map[string]int64{} // entries, by authority
	for _, x := range receipts {
		if x.Receipt.Kind != journal.ReceiptRFC3161 {
			continue
		}
		b, err := a.believed(x.Receipt)
		if err != nil {
			continue
		}
		from := covered[b.Authority.ID]
		covered[b.Authority.ID] = x.size
		if x.Applied {
			continue
		}
		if err := a.applyReceipt(ctx, x, from, b, func(n int64) {
			proven[x.Receipt.Where] += n
			total += n
			if progress != nil {
				progress(total)
			}
		}); err != nil {
			return proven, fmt.Errorf("the checkpoint of %d entries anchored at %s: %w", x.size, x.Receipt.Where, err)
		}
		x.Applied = true
		if err := a.keepReceipt(ctx, x); err != nil {
			return proven, err
		}
	}
	return proven, nil
}

// believed verifies the token of a receipt: the bound names our journal, and the
// authority whose word its time is.
func (a *App) believed(r journal.Receipt) (inventory.Bound, error) {
	token, err := r.DER()
	if err != nil {
		return inventory.Bound{}, err
	}
	b, err := a.stamped(token, []byte(r.Checkpoint))
	if err != nil {
		return b, err
	}
	if b.Authority.ID != r.Authority.ID || !b.Time.Equal(r.Time) {
		return b, errors.New("its token is of another authority or time than the receipt says")
	}
	b.Authority.Role = inventory.RoleJournal
	return b, nil
}

// applyReceipt gives what the entries from the one given on sighted, up to the
// receipt's checkpoint, its bound. Each entry is proven under the checkpoint
// that was stamped: one edited since proves nothing.
func (a *App) applyReceipt(ctx context.Context, x anchored, from int64, b inventory.Bound, given func(int64)) error {
	c, err := a.opened([]byte(x.Receipt.Checkpoint))
	if err != nil {
		return err
	}
	var changed []error
	next := a.Journal(ctx, from)
	for {
		e, err := next()
		if errors.Is(err, io.EOF) || err == nil && e.Index >= c.Size {
			return errors.Join(changed...)
		}
		if err != nil {
			return err
		}
		if e.Action != store.Sighted {
			continue
		}
		proof, err := a.store.JournalProof(ctx, e.Index, c.Size)
		if err != nil {
			return err
		}
		if err := proof.Check(c); err != nil {
			return err
		}
		if err := a.store.Update(ctx, a.by("journal anchored at %s", x.Receipt.Where), func(tx *store.Tx) error {
			n, err := tx.Anchored(ctx, e, b.Time, b.Authority, func(problem string) { changed = append(changed, errors.New(problem)) })
			given(n)
			return err
		}); err != nil {
			return err
		}
	}
}

// reanchor takes away every time proof of the journal and gives those anew whose
// tokens the trusted root in force verifies. Interrupted, it leaves fewer proofs,
// and anchoring again gives the rest.
func (a *App) reanchor(ctx context.Context) error {
	receipts, err := a.anchored(ctx)
	if err != nil {
		return err
	}
	for _, x := range receipts {
		if x.Applied {
			x.Applied = false
			if err := a.keepReceipt(ctx, x); err != nil {
				return err
			}
		}
	}
	if err := a.store.Update(ctx, a.by("a new trusted root"), func(tx *store.Tx) error {
		_, err := tx.DropAnchored(ctx)
		return err
	}); err != nil {
		return err
	}
	_, err = a.applyReceipts(ctx, nil)
	return err
}

// ProveEntry proves that an entry is in the journal as it is now.
func (a *App) ProveEntry(ctx context.Context, entry int64) (journal.Proof, error) {
	c, err := a.store.JournalCheckpoint(ctx)
	if err != nil {
		return journal.Proof{}, err
	}
	return a.store.JournalProof(ctx, entry, c.Size)
}

// ProveConsistency proves that the journal only grew since it had size entries.
func (a *App) ProveConsistency(ctx context.Context, size int64) (journal.Consistency, error) {
	c, err := a.store.JournalCheckpoint(ctx)
	if err != nil {
		return journal.Consistency{}, err
	}
	return a.store.JournalConsistency(ctx, size, c.Size)
}
