package app

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/rotate"
	"github.com/reseal/reseal/signer"
)

// home is a home with one signed image in its inventory.
type home struct {
	*App
	world  *sandbox.World
	image  string // digest
	actors map[string]*sandbox.Actor
}

func newHome(t *testing.T) home {
	t.Helper()
	ctx := context.Background()
	world, err := sandbox.Start(ctx, sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = world.Close() })
	in := InitOptions{Approvers: rotate.Approvers{Quorum: 1}}
	var release *sandbox.Actor
	actors := map[string]*sandbox.Actor{}
	for _, name := range []string{"alice", "bob", "release"} {
		who, err := world.NewActor(name)
		if err != nil {
			t.Fatal(err)
		}
		actors[name] = who
		if name == "release" {
			release = who
			in.Signers = []signer.Record{{Name: name, State: signer.Active, PublicKey: who.PublicKeyPEM()}}
			continue
		}
		in.Approvers.People = append(in.Approvers.People, rotate.Person{Name: name, Credentials: []rotate.Credential{{PublicKey: string(who.PublicKeyPEM())}}})
	}
	if in.TrustedRoot, err = world.TrustedRootJSON(); err != nil {
		t.Fatal(err)
	}
	image, err := world.PushImage(ctx, "shop/api", "1.0", "one")
	if err != nil {
		t.Fatal(err)
	}
	if err := release.SignLegacy(ctx, image, sandbox.NoProof); err != nil {
		t.Fatal(err)
	}
	o := Options{Home: filepath.Join(t.TempDir(), "home"), Actor: "carol"}
	if err := Init(ctx, o, in); err != nil {
		t.Fatal(err)
	}
	h := home{world: world, image: image.DigestStr(), actors: actors}
	if h.App, err = Open(ctx, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.App.Close() })
	if _, err := h.Scan(ctx, ScanOptions{Targets: Targets(world.Registry() + "/shop/api")}, nil); err != nil {
		t.Fatal(err)
	}
	return h
}

// record journals some entries.
func (h home) record(t *testing.T, n int) {
	t.Helper()
	if err := h.store.Update(context.Background(), h.by("test"), func(tx *store.Tx) error {
		for i := range n {
			tx.Record(journal.Draft{Action: "test.noted", Subject: fmt.Sprint(i)})
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// exec changes the database as whoever owns it can.
func (h home) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", h.options.Database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r, err := db.Exec(statement, args...)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("%s changed %d rows, %v", statement, n, err)
	}
}

// journalBounds returns the bounds that rest on the anchored journal.
func (h home) journalBounds(t *testing.T) (out []inventory.Bound) {
	t.Helper()
	for sig, err := range h.Signatures(context.Background(), store.SignatureFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range sig.Bounds {
			if b.Authority.Role == inventory.RoleJournal {
				out = append(out, b)
			}
		}
	}
	return out
}

func TestJournalNamesWhatWasEdited(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	h := newHome(t)
	if _, err := h.VerifyJournal(ctx); err != nil {
		t.Fatal(err)
	}
	h.exec(t, `UPDATE documents SET body = replace(body, '"quorum":1', '"quorum":0') WHERE kind = $1`, store.KindApprovers)
	if _, err := h.VerifyJournal(ctx); err == nil || !strings.Contains(err.Error(), `approvers" was changed`) {
		t.Errorf("a quorum edited by hand: got %v", err)
	}
	h.exec(t, `UPDATE signatures SET digest = $1`, "sha256:"+strings.Repeat("e", 64))
	if _, err := h.VerifyJournal(ctx); err == nil || !strings.Contains(err.Error(), "was changed: the database has it with") {
		t.Errorf("a signature moved to another artifact: got %v", err)
	}
}

// TestAttackCutJournal cuts the journal, and signs what is left with the key of
// the home: only a checkpoint that was kept elsewhere tells.
func TestAttackCutJournal(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	h := newHome(t)
	h.record(t, 4)
	elsewhere := filepath.Join(t.TempDir(), "checkpoint")
	signed, err := h.signedCheckpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.anchorFile(ctx, elsewhere, signed); err != nil {
		t.Fatal(err)
	}
	size := must(h.store.JournalCheckpoint(ctx)).Size
	h.exec(t, `DELETE FROM journal WHERE seq >= $1`, size-3)
	// What is left is made whole again, by the very code that makes it.
	rebuilt := must(journal.OpenCheckpoint(h.rebuild(t), must(h.journalVerifier())))
	if rebuilt.Size != size-3 {
		t.Fatalf("the forged journal has %d entries", rebuilt.Size)
	}
	if err := os.Remove(filepath.Join(h.options.Home, checkpointFile)); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := h.checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := h.VerifyJournal(ctx); err != nil {
		t.Fatalf("the forgery is not good enough to need the kept checkpoint: %v", err)
	}
	kept := must(ReadReceipt(elsewhere, must(os.ReadFile(elsewhere))))
	if _, err := h.VerifyJournal(ctx, kept); err == nil || !strings.Contains(err.Error(), "cut") || !strings.Contains(err.Error(), elsewhere) {
		t.Errorf("cut and signed anew: got %v", err)
	}
	h.record(t, 10) // grown again beyond the kept one
	if _, err := h.VerifyJournal(ctx, kept); err == nil || !strings.Contains(err.Error(), "contradicts the checkpoint") {
		t.Errorf("cut, grown and signed anew: got %v", err)
	}
	if err := h.anchorFile(ctx, elsewhere, signed); err == nil || !strings.Contains(err.Error(), "left as it is") {
		t.Errorf("anchoring over the kept checkpoint: got %v", err)
	}
}

// rebuild stores the hashes of the journal's entries anew and returns a signed
// checkpoint over them.
func (h home) rebuild(t *testing.T) []byte {
	t.Helper()
	ctx := context.Background()
	h.exec(t, `DELETE FROM journal_hashes`)
	var hashes []tlog.Hash
	next := h.store.Journal(ctx, 0)
	for n := int64(0); ; n++ {
		line, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		more := must(tlog.StoredHashes(n, line, tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
			out := make([]tlog.Hash, len(at))
			for i, x := range at {
				out[i] = hashes[x]
			}
			return out, nil
		})))
		hashes = append(hashes, more...)
	}
	for n, x := range hashes {
		h.exec(t, `INSERT INTO journal_hashes (seq, hash) VALUES ($1, $2)`, n, x[:])
	}
	return must(h.signedCheckpoint(ctx))
}

// TestJournalWhileOthersWrite verifies and exports a journal that another
// process appends to.
func TestJournalWhileOthersWrite(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	h := newHome(t)
	h.record(t, 3000) // more than is read at once
	appending := writerFunc(func() { h.record(t, 1) })
	var out bytes.Buffer
	if err := h.ExportJournal(ctx, io.MultiWriter(&out, appending)); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.VerifyExport(&out, must(h.journalVerifier())); err != nil {
		t.Errorf("an export of a journal that grew meanwhile: %v", err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = h.store.Update(ctx, h.by("test"), func(tx *store.Tx) error {
					tx.Record(journal.Draft{Action: "test.noted"})
					return nil
				})
			}
		}
	}()
	for range 5 {
		if _, err := h.VerifyJournal(ctx); err != nil {
			t.Errorf("a journal that grew meanwhile: %v", err)
			break
		}
	}
	close(stop)
	<-done
}

// writerFunc is called for each write.
type writerFunc func()

func (f writerFunc) Write(b []byte) (int, error) {
	f()
	return len(b), nil
}

// TestAnchorResumes leaves a token without the bounds it gives, as a crash
// between the two does.
func TestAnchorResumes(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	h := newHome(t)
	signed := must(h.signedCheckpoint(ctx))
	r := must(h.stamp(ctx, h.world.TSAURL(), signed))
	r.Schema, r.Checkpoint = journal.ReceiptSchema, string(signed)
	if err := h.keepReceipt(ctx, anchored{Receipt: r, size: must(h.opened(signed)).Size}); err != nil {
		t.Fatal(err)
	}
	if b := h.journalBounds(t); len(b) != 0 {
		t.Fatalf("bounds before they were given: %v", b)
	}
	if _, err := h.AnchorJournal(ctx, AnchorOptions{Files: []string{filepath.Join(t.TempDir(), "checkpoint")}}); err != nil {
		t.Fatal(err)
	}
	if b := h.journalBounds(t); len(b) != 1 || !b[0].Time.Equal(r.Time) {
		t.Errorf("bounds after anchoring elsewhere: %v, want one at %s", b, r.Time)
	}
}

// TestAnchorOneOfTwo anchors at an authority that answers and one that does not.
func TestAnchorOneOfTwo(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	h := newHome(t)
	list, err := h.AnchorJournal(ctx, AnchorOptions{TimestampURLs: []string{"http://127.0.0.1:1/", h.world.TSAURL()}})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1/") {
		t.Errorf("the one that does not answer: got %v", err)
	}
	if len(list) != 1 || list[0].Signatures != 1 || len(h.journalBounds(t)) != 1 {
		t.Errorf("the one that answers: %+v, bounds %v", list, h.journalBounds(t))
	}
}

// TestAttackForgedJournalBound writes a time proof of the journal into the
// database of a home whose journal was never anchored.
func TestAttackForgedJournalBound(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	h := newHome(t)
	h.exec(t, `INSERT INTO bounds (signature, n, side, time, role, authority, verified, alone, why)
		SELECT seq, 100, 'upper', $1, 'journal', 'forged', TRUE, TRUE, '' FROM signatures`, time.Now().Add(-1000*time.Hour).Unix())
	h.exec(t, `UPDATE signatures SET not_after = $1`, time.Now().Add(-1000*time.Hour).Unix())
	if _, err := h.Reverify(ctx, nil, nil); err != nil {
		t.Fatal(err)
	}
	if b := h.journalBounds(t); len(b) != 0 {
		t.Errorf("a forged bound is still there: %v", b)
	}
}

// TestCheckpointNeverShrinks lets two processes end one after the other, the
// later one with the older checkpoint.
func TestCheckpointNeverShrinks(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	h := newHome(t)
	older := must(h.signedCheckpoint(ctx))
	h.record(t, 3)
	if err := h.checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.keepCheckpoint(older); err != nil {
		t.Fatal(err)
	}
	if last, now := must(h.lastCheckpoint()), must(h.store.JournalCheckpoint(ctx)); last != now {
		t.Errorf("the kept checkpoint is of %d entries, the newer one of %d was lost", last.Size, now.Size)
	}
}

// must returns what cannot fail in a test.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
