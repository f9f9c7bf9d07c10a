package journal

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// ReceiptSchema is the schema of the JSON form of a receipt.
const ReceiptSchema = "reseal.checkpoint/v1"

// ReceiptKind is where a checkpoint was anchored.
type ReceiptKind string

// The kinds of receipts.
const (
	ReceiptFile    ReceiptKind = "file"
	ReceiptOCI     ReceiptKind = "oci"     // an artifact in a registry
	ReceiptRFC3161 ReceiptKind = "rfc3161" // a token of a timestamp authority
)

// maxToken bounds a token, in bytes.
const maxToken = 1 << 20

// Authority is who proves the time of a receipt. As inventory.Authority, it is
// what bounds of signatures rest on.
type Authority struct {
	Role string `json:"role"` // "journal"
	ID   string `json:"id"`   // fingerprint of the timestamp authority, hex
}

// Receipt is what anchoring a checkpoint leaves. Any receipt proves that the
// journal of later is that of then. Only a timestamp token proves when: the
// entries under its checkpoint existed by that time.
type Receipt struct {
	Schema     string      `json:"schema"`
	Kind       ReceiptKind `json:"kind"`
	Where      string      `json:"where"`               // name of the file, image reference, or URL of the timestamp authority
	Checkpoint string      `json:"checkpoint"`          // the signed note
	Token      string      `json:"token,omitempty"`     // base64 of the DER of a TimeStampResp over the bytes of Checkpoint
	Time       time.Time   `json:"time"`                // UTC, whole seconds; of a token its own, else that of our clock, which proves nothing
	Authority  *Authority  `json:"authority,omitempty"` // of a token
}

// ParseReceipt reads a receipt. Anything but one object with the fields of a
// receipt is refused. Whether to believe it is Check's to say.
func ParseReceipt(raw []byte) (Receipt, error) {
	var r Receipt
	if err := parse(raw, &r); err != nil {
		return Receipt{}, fmt.Errorf("receipt of a checkpoint: %w", err)
	}
	if err := r.form(); err != nil {
		return Receipt{}, err
	}
	return r, nil
}

// form checks what can be without a key.
func (r Receipt) form() error {
	problem := func(format string, args ...any) error {
		return fmt.Errorf("receipt of a checkpoint in %s: %w", r.Where, fmt.Errorf(format, args...))
	}
	if r.Schema != ReceiptSchema {
		return problem("its schema is %q, not %s", r.Schema, ReceiptSchema)
	}
	if r.Where == "" {
		return errors.New("receipt of a checkpoint: it does not say where that was anchored")
	}
	if r.Time.IsZero() || r.Time.Location() != time.UTC || r.Time.Nanosecond() != 0 {
		return problem("its time %s is not in UTC and whole seconds", r.Time.Format(time.RFC3339Nano))
	}
	switch r.Kind {
	case ReceiptFile, ReceiptOCI:
		if r.Token != "" || r.Authority != nil {
			return problem("a %s proves no time, yet it names a timestamp or an authority", r.Kind)
		}
	case ReceiptRFC3161:
		if r.Authority == nil || r.Authority.Role != "journal" || r.Authority.ID == "" {
			return problem("it does not name the timestamp authority")
		}
		if _, err := r.DER(); err != nil {
			return err
		}
	default:
		return problem("its kind %q is none of %s, %s, %s", r.Kind, ReceiptFile, ReceiptOCI, ReceiptRFC3161)
	}
	return nil
}

// DER returns the timestamp token. It must verify over the bytes of Checkpoint,
// which takes a trusted root and is not this package's to do.
func (r Receipt) DER() ([]byte, error) {
	der, err := base64.StdEncoding.Strict().DecodeString(r.Token)
	if err != nil || len(der) == 0 || len(der) > maxToken || base64.StdEncoding.EncodeToString(der) != r.Token {
		return nil, fmt.Errorf("receipt of a checkpoint in %s: its timestamp is no base64 of at most %d bytes", r.Where, maxToken)
	}
	return der, nil
}

// Check returns the checkpoint that was anchored, if the receipt is well formed
// and the journal's key signed the checkpoint. Whether the token verifies, and
// by which authority and when, is not checked here.
func (r Receipt) Check(v note.Verifier) (Checkpoint, error) {
	if err := r.form(); err != nil {
		return Checkpoint{}, err
	}
	c, err := OpenCheckpoint([]byte(r.Checkpoint), v)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("receipt of a checkpoint in %s: not of this journal: %w", r.Where, err)
	}
	return c, nil
}

// Anchors holds a journal against the checkpoints of it that were anchored
// elsewhere, while its tree is recomputed: whoever cuts or rewrites the journal
// and signs it anew contradicts them.
type Anchors struct {
	left []anchored // the smallest first
}

type anchored struct {
	Checkpoint
	receipt Receipt
}

// Against prepares the comparison. It refuses receipts that do not Check.
func Against(v note.Verifier, receipts ...Receipt) (*Anchors, error) {
	var a Anchors
	for _, r := range receipts {
		c, err := r.Check(v)
		if err != nil {
			return nil, err
		}
		a.left = append(a.left, anchored{c, r})
	}
	slices.SortStableFunc(a.left, func(x, y anchored) int { return cmp.Compare(x.Size, y.Size) })
	return &a, nil
}

// Compare is called with the tree when it is empty and after every entry. The
// error names the receipt that the entries so far contradict.
func (a *Anchors) Compare(t *Tree) error {
	for len(a.left) > 0 && a.left[0].Size <= t.size {
		then := a.left[0]
		if then.Size < t.size {
			return fmt.Errorf("the checkpoint of %d entries in %s was not compared", then.Size, then.receipt.Where)
		}
		if now := t.Checkpoint(); now.Root != then.Root {
			return fmt.Errorf("the journal contradicts the checkpoint of %d entries anchored in %s (%s, %s): these entries hash to %s, then they hashed to %s: some were changed since, or the journal was cut and written anew",
				then.Size, then.receipt.Where, then.receipt.Kind, then.receipt.Time.Format(time.RFC3339), now.Root, then.Root)
		}
		a.left = a.left[1:]
	}
	return nil
}

// End is called with the tree of all entries. The error names the receipt that
// commits to more.
func (a *Anchors) End(t *Tree) error {
	if err := a.Compare(t); err != nil || len(a.left) == 0 {
		return err
	}
	then := a.left[len(a.left)-1]
	return fmt.Errorf("the journal was cut: it has %d entries, the checkpoint anchored in %s (%s, %s) commits to %d",
		t.size, then.receipt.Where, then.receipt.Kind, then.receipt.Time.Format(time.RFC3339), then.Size)
}
