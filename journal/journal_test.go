package journal

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

var when = time.Date(2026, 11, 22, 10, 30, 0, 0, time.UTC)

func entry(index int64) Entry {
	return Entry{Index: index, Time: when.Add(time.Duration(index) * time.Second), Actor: "alice", Reason: "weekly scan",
		Action: "artifact.seen", Subject: fmt.Sprintf("registry.example/app@sha256:%064x", index), Digest: fmt.Sprintf("sha256:%064x", index)}
}

func marshal(t testing.TB, e Entry) []byte {
	t.Helper()
	line, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// lines returns the canonical bytes of the first n entries.
func lines(t testing.TB, n int) [][]byte {
	t.Helper()
	out := make([][]byte, n)
	for i := range out {
		out[i] = marshal(t, entry(int64(i)))
	}
	return out
}

func newKey(t testing.TB) (note.Signer, note.Verifier) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(nil, "reseal.test")
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

// fixedKey is the same key in every process: a fuzz test has several.
type fixedKey struct {
	note.Verifier
	private ed25519.PrivateKey
}

func (k fixedKey) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(k.private, msg), nil }

func newFixedKey(t testing.TB) fixedKey {
	t.Helper()
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	vkey, err := note.NewEd25519VerifierKey("reseal.test", private.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return fixedKey{v, private}
}

func treeOf(t testing.TB, entries [][]byte) *Tree {
	t.Helper()
	var tree Tree
	for _, line := range entries {
		if err := tree.Add(line); err != nil {
			t.Fatal(err)
		}
	}
	return &tree
}

func signed(t testing.TB, c Checkpoint, s note.Signer) []byte {
	t.Helper()
	out, err := c.Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// each yields entries as WriteExport wants them.
func each(entries [][]byte) func() ([]byte, error) {
	return func() ([]byte, error) {
		if len(entries) == 0 {
			return nil, io.EOF
		}
		line := entries[0]
		entries = entries[1:]
		return line, nil
	}
}

func export(t testing.TB, entries [][]byte, checkpoint []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteExport(&b, each(entries), checkpoint); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAuthor(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		by   Author
		want string // in the error; empty: accepted
	}{
		{"both given", Author{"alice", "weekly scan"}, ""},
		{"nobody", Author{"", "weekly scan"}, "--actor"},
		{"a blank name", Author{" \t", "weekly scan"}, "--actor"},
		{"no reason", Author{"alice", ""}, "--reason"},
		{"a blank reason", Author{"alice", "\n"}, "--reason"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.by.Check()
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestMarshal(t *testing.T) {
	t.Parallel()
	e := entry(7)
	zone := time.FixedZone("elsewhere", 2*60*60)
	local, fraction, plain := e, e, e
	local.Time = e.Time.In(zone)
	fraction.Time = e.Time.Add(999 * time.Millisecond)
	plain.Subject, plain.Digest = "a < b && c > d", ""
	const head = `{"index":7,"time":"2026-11-22T10:30:07Z","actor":"alice","reason":"weekly scan","action":"artifact.seen","subject":`
	subject := fmt.Sprintf(`"registry.example/app@sha256:%064x","digest":"sha256:%064x"}`, 7, 7)
	for _, tc := range []struct {
		name string
		e    Entry
		want string
	}{
		{"fields in order", e, head + subject},
		{"local time becomes UTC", local, head + subject},
		{"fractions of a second are cut", fraction, head + subject},
		{"no HTML escapes, no empty digest", plain, head + `"a < b && c > d"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := marshal(t, tc.e)
			if string(got) != tc.want {
				t.Fatalf("got  %s\nwant %s", got, tc.want)
			}
			back, err := ParseEntry(got)
			if err != nil {
				t.Fatal(err)
			}
			want := tc.e
			want.Time = e.Time
			if back != want {
				t.Errorf("read back %+v, want %+v", back, want)
			}
		})
	}
}

func TestParseEntryRefuses(t *testing.T) {
	t.Parallel()
	good := string(marshal(t, entry(3)))
	replace := func(old, with string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the entry has no %q", old)
		}
		return strings.Replace(good, old, with, 1)
	}
	for _, tc := range []struct{ name, line string }{
		{"nothing", ""},
		{"no JSON", "entry"},
		{"another type", "[]"},
		{"null", "null"},
		{"space before", " " + good},
		{"space after", good + " "},
		{"newline after", good + "\n"},
		{"space within", replace(`,"time"`, `, "time"`)},
		{"garbage after", good + "x"},
		{"two entries", good + good},
		{"unknown field", replace(`{`, `{"extra":1,`)},
		{"field twice", replace(`{"index":3`, `{"index":9,"index":3`)},
		{"field in another case", replace(`"actor"`, `"Actor"`)},
		{"fields in another order", replace(`"index":3,"time":"2026-11-22T10:30:03Z"`, `"time":"2026-11-22T10:30:03Z","index":3`)},
		{"missing field", replace(`"reason":"weekly scan",`, ``)},
		{"time in another zone", replace("10:30:03Z", "12:30:03+02:00")},
		{"fraction of a second", replace("10:30:03Z", "10:30:03.5Z")},
		{"escaped character", replace("alice", `\u0061lice`)},
		{"invalid UTF-8", replace("alice", "\xff")},
		{"number in another form", replace(`"index":3`, `"index":3e0`)},
		{"empty digest spelt out", replace(fmt.Sprintf(`"digest":"sha256:%064x"`, 3), `"digest":""`)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if e, err := ParseEntry([]byte(tc.line)); err == nil {
				t.Errorf("accepted %s as %+v", tc.line, e)
			}
		})
	}
}

func drawEntry(t *rapid.T) Entry {
	text := rapid.String()
	return Entry{
		Index:  rapid.Int64().Draw(t, "index"),
		Time:   time.Unix(rapid.Int64Range(0, 253402300799).Draw(t, "time"), 0).UTC(),
		Actor:  text.Draw(t, "actor"),
		Reason: text.Draw(t, "reason"), Action: text.Draw(t, "action"),
		Subject: text.Draw(t, "subject"), Digest: text.Draw(t, "digest"),
	}
}

func TestEntryRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e := drawEntry(t)
		line, err := e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.ContainsAny(line, "\n\r") {
			t.Fatalf("an entry has more than one line: %q", line)
		}
		got, err := ParseEntry(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if got != e {
			t.Fatalf("got %+v, want %+v", got, e)
		}
	})
}

// TestAlteredByte changes one byte of one entry: it is refused, or the root
// says so.
func TestAlteredByte(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var original, altered Tree
		n := rapid.IntRange(1, 9).Draw(t, "entries")
		victim := rapid.IntRange(0, n-1).Draw(t, "victim")
		refused := false
		for i := range n {
			e := drawEntry(t)
			e.Index = int64(i)
			line, err := e.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if err := original.Add(line); err != nil {
				t.Fatal(err)
			}
			if i == victim {
				line = bytes.Clone(line)
				line[rapid.IntRange(0, len(line)-1).Draw(t, "at")] ^= rapid.ByteRange(1, 255).Draw(t, "bits")
			}
			if err := altered.Add(line); err != nil {
				refused = true
				break
			}
		}
		if !refused && altered.Check(original.Checkpoint()) == nil {
			t.Fatal("a changed byte went unnoticed")
		}
	})
}

func TestTreeIsRFC6962(t *testing.T) {
	t.Parallel()
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, at := range indexes {
			out[i] = stored[at]
		}
		return out, nil
	})
	var tree Tree
	for n := int64(0); n <= 200; n++ {
		want, err := tlog.TreeHash(n, reader)
		if err != nil {
			t.Fatal(err)
		}
		if got := tree.Checkpoint(); got != (Checkpoint{Size: n, Root: want}) {
			t.Fatalf("size %d: got %v, want root %v", n, got, want)
		}
		if err := tree.Check(Checkpoint{Size: n, Root: want}); err != nil {
			t.Fatal(err)
		}
		line := marshal(t, entry(n))
		hashes, err := tlog.StoredHashes(n, line, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
		if err := tree.Add(line); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTreeRefusesOutOfOrder(t *testing.T) {
	t.Parallel()
	for _, index := range []int64{-1, 0, 1, 3} { // entry 2 is due
		tree := treeOf(t, lines(t, 2))
		before := tree.Checkpoint()
		if err := tree.Add(marshal(t, entry(index))); err == nil {
			t.Errorf("took entry %d for entry 2", index)
		}
		if got := tree.Checkpoint(); got != before {
			t.Errorf("refusing entry %d changed the tree from %v to %v", index, before, got)
		}
	}
}

func TestCheckpoint(t *testing.T) {
	t.Parallel()
	s, v := newKey(t)
	for _, size := range []int{0, 1, 2, 3, 64, 100} {
		want := treeOf(t, lines(t, size)).Checkpoint()
		got, err := OpenCheckpoint(signed(t, want, s), v)
		if err != nil || got != want {
			t.Errorf("size %d: got %v, %v, want %v", size, got, err, want)
		}
	}
}

func TestOpenCheckpointRefuses(t *testing.T) {
	t.Parallel()
	s, v := newKey(t)
	root := strings.Repeat("A", 43) + "="
	for _, tc := range []struct{ name, text string }{
		{"another origin", "example.com/other\n3\n" + root + "\n"},
		{"no root", Origin + "\n3\n"},
		{"a line too many", Origin + "\n3\n" + root + "\nmore\n"},
		{"negative size", Origin + "\n-3\n" + root + "\n"},
		{"size is no number", Origin + "\nthree\n" + root + "\n"},
		{"size too large", Origin + "\n9223372036854775808\n" + root + "\n"},
		{"root too short", Origin + "\n3\nAAAA\n"},
		{"root is no base64", Origin + "\n3\n" + strings.Repeat("*", 44) + "\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n, err := note.Sign(&note.Note{Text: tc.text}, s)
			if err != nil {
				t.Fatal(err)
			}
			if c, err := OpenCheckpoint(n, v); err == nil {
				t.Errorf("accepted as %v", c)
			}
		})
	}
	t.Run("no note", func(t *testing.T) {
		if _, err := OpenCheckpoint([]byte("hello\n"), v); err == nil {
			t.Error("accepted")
		}
	})
}

func TestExport(t *testing.T) {
	t.Parallel()
	s, v := newKey(t)
	for _, size := range []int{0, 1, 2, 7, 200} {
		entries := lines(t, size)
		want := treeOf(t, entries).Checkpoint()
		got, err := VerifyExport(bytes.NewReader(export(t, entries, signed(t, want, s))), v)
		if err != nil || got != want {
			t.Errorf("size %d: got %v, %v, want %v", size, got, err, want)
		}
	}
}

func TestWriteExportPassesErrorsOn(t *testing.T) {
	t.Parallel()
	broken := errors.New("database is gone")
	if err := WriteExport(io.Discard, func() ([]byte, error) { return nil, broken }, nil); !errors.Is(err, broken) {
		t.Errorf("reading: got %v, want %v", err, broken)
	}
	full := errors.New("disk is full")
	if err := WriteExport(failing{full}, each(lines(t, 3)), nil); !errors.Is(err, full) {
		t.Errorf("writing: got %v, want %v", err, full)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestAttack(t *testing.T) {
	t.Parallel()
	s, v := newKey(t)
	stranger, _ := newKey(t)
	entries := lines(t, 8)
	whole := treeOf(t, entries).Checkpoint()
	good := signed(t, whole, s)
	renumber := func(from [][]byte) [][]byte {
		out := make([][]byte, len(from))
		for i, line := range from {
			e, err := ParseEntry(line)
			if err != nil {
				t.Fatal(err)
			}
			e.Index = int64(i)
			out[i] = marshal(t, e)
		}
		return out
	}
	edit := func(at int, change func(*Entry)) [][]byte {
		out := append([][]byte(nil), entries...)
		e := entry(int64(at))
		change(&e)
		out[at] = marshal(t, e)
		return out
	}
	without := func(at int) [][]byte {
		return append(append([][]byte(nil), entries[:at]...), entries[at+1:]...)
	}
	swapped := append([][]byte(nil), entries...)
	swapped[2], swapped[5] = swapped[5], swapped[2]
	dropped := without(3)
	all := export(t, entries, good)
	if _, err := VerifyExport(bytes.NewReader(all), v); err != nil {
		t.Fatalf("the untouched export: %v", err)
	}

	for _, tc := range []struct {
		name   string
		export []byte
		want   string // in the error
	}{
		{"entry edited: actor", export(t, edit(4, func(e *Entry) { e.Actor = "mallory" }), good), "was changed"},
		{"entry edited: time", export(t, edit(0, func(e *Entry) { e.Time = e.Time.Add(-time.Hour) }), good), "was changed"},
		{"entry edited: digest of the last", export(t, edit(7, func(e *Entry) { e.Digest = "" }), good), "was changed"},
		{"entry edited out of canonical form", bytes.Replace(all, []byte(`"actor"`), []byte(` "actor"`), 1), "canonical"},
		{"entry dropped", export(t, dropped, good), "missing or moved"},
		{"entry dropped and the rest renumbered", export(t, renumber(dropped), good), "commits to 8"},
		{"first entry dropped", export(t, without(0), good), "missing or moved"},
		{"entries swapped", export(t, swapped, good), "missing or moved"},
		{"entries swapped and renumbered", export(t, renumber(swapped), good), "was changed"},
		{"entry repeated", export(t, append(append([][]byte(nil), entries...), entries[7]), good), "missing or moved"},
		{"entry added", export(t, lines(t, 9), good), "commits to 8"},
		{"journal truncated at its end", export(t, entries[:6], good), "commits to 8"},
		{"journal emptied", export(t, nil, good), "commits to 8"},
		{"file cut within an entry", all[:200], "ends before its checkpoint"},
		{"file cut before the checkpoint", all[:len(all)-len(good)], "checkpoint"},
		{"file cut before the empty line", all[:len(all)-len(good)-1], "ends before its checkpoint"},
		{"file cut within the checkpoint", all[:len(all)-10], "checkpoint"},
		{"empty file", nil, "ends before its checkpoint"},
		{"checkpoint by another key", export(t, entries, signed(t, whole, stranger)), "checkpoint"},
		{"checkpoint of another size", export(t, entries, signed(t, treeOf(t, entries[:7]).Checkpoint(), s)), "commits to 7"},
		{"checkpoint that lies about its size", export(t, entries, signed(t, Checkpoint{Size: 7, Root: whole.Root}, s)), "commits to 7"},
		{"checkpoint of another journal", export(t, entries, signed(t, Checkpoint{Size: 8, Root: tlog.RecordHash([]byte("x"))}, s)), "was changed"},
		{"checkpoint edited after signing", bytes.Replace(all, []byte(Origin+"\n8\n"), []byte(Origin+"\n9\n"), 1), "checkpoint"},
		{"trailing garbage", append(bytes.Clone(all), "more"...), "checkpoint"},
		{"trailing second export", append(bytes.Clone(all), all...), "checkpoint"},
		{"a line without end", bytes.Repeat([]byte("a"), 2*maxEntry), "longer than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := VerifyExport(bytes.NewReader(tc.export), v)
			if err == nil {
				t.Fatalf("accepted as %v", c)
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %q, want it to say %q", err, tc.want)
			}
		})
	}
	attackAnchored(t)
	attackProofs(t)
}

func FuzzParseEntry(f *testing.F) {
	f.Add(marshal(f, entry(0)))
	f.Add(marshal(f, Entry{Actor: "a\u2028b<&>", Time: when}))
	f.Add([]byte(`{"index":0}`))
	f.Add([]byte(`{"index":1e3,"time":"0000-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := ParseEntry(line)
		if err != nil {
			return
		}
		again, err := e.Marshal()
		if err != nil || !bytes.Equal(again, line) {
			t.Errorf("accepted %q, which it writes as %q (%v)", line, again, err)
		}
	})
}

func FuzzVerifyExport(f *testing.F) {
	k := newFixedKey(f)
	entries := lines(f, 5)
	want := treeOf(f, entries).Checkpoint()
	good := export(f, entries, signed(f, want, k))
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte("\n"))
	f.Add(append(bytes.Clone(good), '\n'))
	f.Fuzz(func(t *testing.T, file []byte) {
		c, err := VerifyExport(bytes.NewReader(file), k)
		if err == nil && (c != want || !bytes.Equal(file, good)) {
			t.Errorf("accepted another journal as %v: %q", c, file)
		}
	})
}
