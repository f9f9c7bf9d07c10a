package journal

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

// hashes are the stored hashes of a tree.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		out[i] = h[at]
	}
	return out, nil
}

// grow returns the stored hashes of a tree of entries.
func grow(t testing.TB, entries [][]byte) (h hashes) {
	t.Helper()
	for i, line := range entries {
		more, err := tlog.StoredHashes(int64(i), line, h)
		if err != nil {
			t.Fatal(err)
		}
		h = append(h, more...)
	}
	return h
}

func prove(t testing.TB, entries [][]byte, index, size int64) Proof {
	t.Helper()
	p, err := tlog.ProveRecord(size, index, grow(t, entries))
	if err != nil {
		t.Fatal(err)
	}
	return Proof{Schema: ProofSchema, Entry: string(entries[index]), Index: index, Size: size, Hashes: p}
}

func consistent(t testing.TB, entries [][]byte, old, size int64) Consistency {
	t.Helper()
	out := Consistency{Schema: ConsistencySchema, Old: old, Size: size, Hashes: tlog.TreeProof{}}
	if old > 0 {
		var err error
		if out.Hashes, err = tlog.ProveTree(size, old, grow(t, entries)); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func toJSON(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestProofs proves every entry in journals of any size, and nothing else: a
// proof with anything about it changed is refused.
func TestProofs(t *testing.T) {
	all := lines(t, 40)
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.Int64Range(1, 40).Draw(rt, "size")
		index := rapid.Int64Range(0, size-1).Draw(rt, "index")
		c := treeOf(t, all[:size]).Checkpoint()
		p, err := ParseProof(toJSON(t, prove(t, all, index, size)))
		if err != nil {
			rt.Fatal(err)
		}
		if err := p.Check(c); err != nil {
			rt.Fatal(err)
		}
		bad := p
		bad.Hashes = slices.Clone(p.Hashes)
		switch rapid.IntRange(0, 5).Draw(rt, "change") {
		case 0:
			e := entry(index)
			e.Actor = "mallory"
			bad.Entry = string(marshal(t, e))
		case 1: // another entry under this one's number
			e := entry((index + 1) % 40)
			e.Index = index
			bad.Entry = string(marshal(t, e))
		case 2:
			bad.Index, bad.Entry = (index+1)%40, string(all[(index+1)%40])
		case 3:
			bad.Hashes = append(bad.Hashes, tlog.Hash{})
		case 4:
			if len(bad.Hashes) == 0 {
				return
			}
			bad.Hashes = bad.Hashes[1:]
		case 5:
			if len(bad.Hashes) == 0 {
				return
			}
			bad.Hashes[rapid.IntRange(0, len(bad.Hashes)-1).Draw(rt, "hash")][rapid.IntRange(0, 31).Draw(rt, "byte")] ^= 1
		}
		if bad.Check(c) == nil {
			rt.Fatalf("accepted %+v for %+v", bad, p)
		}
	})
}

// TestConsistency proves that any journal begins with any shorter one, and no
// other.
func TestConsistency(t *testing.T) {
	all := lines(t, 40)
	forged := lines(t, 40)
	e := entry(3)
	e.Reason = "something else"
	forged[3] = marshal(t, e)
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.Int64Range(0, 40).Draw(rt, "size")
		old := rapid.Int64Range(0, size).Draw(rt, "old")
		p, err := ParseConsistency(toJSON(t, consistent(t, all, old, size)))
		if err != nil {
			rt.Fatal(err)
		}
		before, after := treeOf(t, all[:old]).Checkpoint(), treeOf(t, all[:size]).Checkpoint()
		if err := p.Check(before, after); err != nil {
			rt.Fatal(err)
		}
		if old > 3 { // the entry was replaced in one of them
			if p.Check(before, treeOf(t, forged[:size]).Checkpoint()) == nil {
				rt.Fatal("accepted a rewritten journal")
			}
			if consistent(t, forged, old, size).Check(before, treeOf(t, forged[:size]).Checkpoint()) == nil {
				rt.Fatal("accepted a rewritten journal with a proof of its own")
			}
		}
		if p.Check(Checkpoint{before.Size, tlog.Hash{1}}, after) == nil || p.Check(before, Checkpoint{after.Size, tlog.Hash{1}}) == nil && size > 0 && old > 0 {
			rt.Fatal("accepted another root")
		}
		if p.Check(Checkpoint{before.Size + 1, before.Root}, after) == nil || p.Check(before, Checkpoint{after.Size + 1, after.Root}) == nil {
			rt.Fatal("accepted another size")
		}
		p.Hashes = append(p.Hashes, tlog.Hash{})
		if p.Check(before, after) == nil {
			rt.Fatal("accepted a hash too many")
		}
	})
}

var token = base64.StdEncoding.EncodeToString([]byte("a token"))

// receipt anchors the first entries of a journal in a timestamp.
func receipt(signed []byte) Receipt {
	return Receipt{Schema: ReceiptSchema, Kind: ReceiptRFC3161, Where: "https://tsa.example", Checkpoint: string(signed), Token: token,
		Time: when, Authority: &Authority{Role: "journal", ID: "ab"}}
}

func TestReceipt(t *testing.T) {
	t.Parallel()
	s, v := newKey(t)
	stranger, _ := newKey(t)
	want := treeOf(t, lines(t, 5)).Checkpoint()
	good := receipt(signed(t, want, s))
	for _, kind := range []ReceiptKind{ReceiptFile, ReceiptOCI, ReceiptRFC3161} {
		r := good
		if r.Kind = kind; kind != ReceiptRFC3161 {
			r.Token, r.Authority = "", nil
		}
		got, err := ParseReceipt(toJSON(t, r))
		if err != nil {
			t.Fatal(err)
		}
		if c, err := got.Check(v); err != nil || c != want {
			t.Errorf("%s: got %v, %v, want %v", kind, c, err, want)
		}
	}
	if der, err := good.DER(); err != nil || string(der) != "a token" {
		t.Errorf("the token is %q, %v", der, err)
	}
	for _, tc := range []struct {
		name   string
		change func(*Receipt)
		want   string // in the error
	}{
		{"another schema", func(r *Receipt) { r.Schema = "reseal.checkpoint/v2" }, "schema"},
		{"another kind", func(r *Receipt) { r.Kind = "blockchain" }, "kind"},
		{"nowhere", func(r *Receipt) { r.Where = "" }, "where"},
		{"a file with a time", func(r *Receipt) { r.Kind = ReceiptFile }, "proves no time"},
		{"no token", func(r *Receipt) { r.Token = "" }, "no base64"},
		{"a token in another alphabet", func(r *Receipt) { r.Token = "_-__" }, "no base64"},
		{"a token over two lines", func(r *Receipt) { r.Token = token[:4] + "\n" + token[4:] }, "no base64"},
		{"a token that is too long", func(r *Receipt) { r.Token = strings.Repeat("AAAA", maxToken/3+1) }, "no base64"},
		{"no authority", func(r *Receipt) { r.Authority = nil }, "authority"},
		{"an authority of another role", func(r *Receipt) { r.Authority = &Authority{Role: "tsa", ID: "ab"} }, "authority"},
		{"an authority without a name", func(r *Receipt) { r.Authority = &Authority{Role: "journal"} }, "authority"},
		{"no time", func(r *Receipt) { r.Time = time.Time{} }, "time"},
		{"a time elsewhere", func(r *Receipt) { r.Time = when.In(time.FixedZone("", 3600)) }, "time"},
		{"part of a second", func(r *Receipt) { r.Time = when.Add(1) }, "time"},
		{"no checkpoint", func(r *Receipt) { r.Checkpoint = "" }, "not of this journal"},
		{"a checkpoint by another key", func(r *Receipt) { r.Checkpoint = string(signed(t, want, stranger)) }, "not of this journal"},
		{"a checkpoint edited", func(r *Receipt) { r.Checkpoint = strings.Replace(r.Checkpoint, "\n5\n", "\n6\n", 1) }, "not of this journal"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := good
			tc.change(&r)
			if _, err := r.Check(v); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
			if _, err := Against(v, r); err == nil {
				t.Error("a journal may be held against it")
			}
		})
	}
}

// TestStrictParsing refuses what is not exactly one object of its kind.
func TestStrictParsing(t *testing.T) {
	t.Parallel()
	s, _ := newKey(t)
	all := lines(t, 5)
	parsers := map[string]struct {
		raw   []byte
		parse func([]byte) error
	}{
		"proof":       {toJSON(t, prove(t, all, 2, 5)), func(b []byte) error { _, err := ParseProof(b); return err }},
		"consistency": {toJSON(t, consistent(t, all, 2, 5)), func(b []byte) error { _, err := ParseConsistency(b); return err }},
		"receipt":     {toJSON(t, receipt(signed(t, treeOf(t, all).Checkpoint(), s))), func(b []byte) error { _, err := ParseReceipt(b); return err }},
	}
	for name, p := range parsers {
		if err := p.parse(p.raw); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for what, raw := range map[string][]byte{
			"nothing": nil, "null": []byte("null"), "a list": []byte("[]"), "an empty object": []byte("{}"), "cut": p.raw[:len(p.raw)-1],
			"a field too many":  bytes.Replace(p.raw, []byte("{"), []byte(`{"verified":true,`), 1),
			"something after":   append(bytes.Clone(p.raw), "{}"...),
			"another schema":    bytes.Replace(p.raw, []byte("/v1"), []byte("/v2"), 1),
			"a negative size":   bytes.Replace(p.raw, []byte(`"size":5`), []byte(`"size":-5`), 1),
			"a short hash":      bytes.Replace(p.raw, []byte(`="`), []byte(`"`), 1),
			"no hashes":         slices.Concat(p.raw[:max(0, bytes.Index(p.raw, []byte(`"hashes"`)))], []byte(`"hashes":null}`)),
			"too many hashes":   bytes.Replace(p.raw, []byte(`"hashes":[`), []byte(`"hashes":[`+strings.Repeat(`"`+tlog.Hash{}.String()+`",`, maxProof+1)), 1),
			"an index too high": bytes.ReplaceAll(bytes.ReplaceAll(p.raw, []byte(`"index":2`), []byte(`"index":5`)), []byte(`\"index\":2`), []byte(`\"index\":5`)),
		} {
			if bytes.Equal(raw, p.raw) {
				continue // it has no such field
			}
			if err := p.parse(raw); err == nil {
				t.Errorf("%s: accepted %s", name, what)
			}
		}
	}
}

// TestAnchorsMiss holds that a comparison that left entries out does not pass.
func TestAnchorsMiss(t *testing.T) {
	t.Parallel()
	s, v := newKey(t)
	all := lines(t, 5)
	a, err := Against(v, receipt(signed(t, treeOf(t, all[:3]).Checkpoint(), s)))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.End(treeOf(t, all)); err == nil || !strings.Contains(err.Error(), "not compared") {
		t.Errorf("got %v", err)
	}
}

// attackAnchored has an attacker with the database and the journal's key, and
// somebody who kept what anchoring left.
func attackAnchored(t *testing.T) {
	s, v := newKey(t)
	stranger, _ := newKey(t)
	all := lines(t, 8)
	anchor := func(n int, where string) Receipt {
		r := receipt(signed(t, treeOf(t, all[:n]).Checkpoint(), s))
		r.Where = where
		return r
	}
	file := anchor(6, "checkpoint.txt")
	file.Kind, file.Token, file.Authority = ReceiptFile, "", nil
	none := anchor(0, "before-the-first")
	foreign := anchor(4, "another-journal")
	foreign.Checkpoint = string(signed(t, treeOf(t, all[:4]).Checkpoint(), stranger))
	other := anchor(4, "same-key")
	other.Checkpoint = string(signed(t, Checkpoint{4, tlog.RecordHash([]byte("x"))}, s))
	resigned := func(entries [][]byte) []byte {
		return export(t, entries, signed(t, treeOf(t, entries).Checkpoint(), s))
	}
	replaced := func(at int) [][]byte {
		out := slices.Clone(all)
		e := entry(int64(at))
		e.Actor = "mallory"
		out[at] = marshal(t, e)
		return out
	}
	honest := []Receipt{anchor(8, "https://tsa.example/8"), none, anchor(3, "https://tsa.example/3"), file, anchor(3, "https://other.example/3")}
	if c, err := VerifyExport(bytes.NewReader(resigned(all)), v, honest...); err != nil || c.Size != 8 {
		t.Fatalf("the untouched journal: %v, %v", c, err)
	}
	longer := lines(t, 11)
	if _, err := VerifyExport(bytes.NewReader(resigned(longer)), v, honest...); err != nil {
		t.Fatalf("the journal later on: %v", err)
	}
	for _, tc := range []struct {
		name     string
		export   []byte
		receipts []Receipt
		want     []string // in the error
	}{
		{"journal truncated and signed anew", resigned(all[:5]), []Receipt{anchor(3, "first"), file}, []string{"was cut", "5 entries", "checkpoint.txt", "commits to 6"}},
		{"journal emptied and signed anew", resigned(nil), []Receipt{file}, []string{"was cut", "0 entries", "checkpoint.txt"}},
		{"journal truncated, grown again and signed anew", resigned(append(slices.Clone(all[:5]), replaced(5)[5:]...)), []Receipt{anchor(3, "first"), file}, []string{"contradicts", "6 entries", "checkpoint.txt"}},
		{"entry replaced and signed anew", resigned(replaced(2)), []Receipt{file, anchor(3, "the-first")}, []string{"contradicts", "3 entries", "the-first"}},
		{"entry replaced between two anchors", resigned(replaced(4)), []Receipt{file, anchor(3, "the-first")}, []string{"contradicts", "6 entries", "checkpoint.txt"}},
		{"receipt of another journal", resigned(all), []Receipt{foreign}, []string{"another-journal", "not of this journal"}},
		{"receipt of another journal by the same key", resigned(all), []Receipt{other}, []string{"contradicts", "same-key"}},
		{"receipt without its checkpoint's signature", resigned(all), []Receipt{{Schema: ReceiptSchema, Kind: ReceiptFile, Where: "unsigned", Time: when, Checkpoint: "x"}}, []string{"unsigned"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := VerifyExport(bytes.NewReader(tc.export), v, tc.receipts...)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want it to say %q", err, want)
				}
			}
			if tc.receipts[0].Where == file.Where || tc.receipts[len(tc.receipts)-1].Where == file.Where {
				if _, err := VerifyExport(bytes.NewReader(tc.export), v); err != nil {
					t.Errorf("without a receipt it is refused too, so this shows nothing: %v", err)
				}
			}
		})
	}
}

// attackProofs has an attacker who makes up proofs for a journal that is not
// the one a checkpoint was kept of.
func attackProofs(t *testing.T) {
	all, forged := lines(t, 8), lines(t, 8)
	e := entry(2)
	e.Digest = ""
	forged[2] = marshal(t, e)
	at := func(entries [][]byte, n int) Checkpoint { return treeOf(t, entries[:n]).Checkpoint() }
	moved := prove(t, all, 2, 8)
	moved.Index = 3
	for name, err := range map[string]error{
		"inclusion of an entry in a rewritten journal":   prove(t, forged, 2, 8).Check(at(all, 8)),
		"inclusion in a journal of another size":         prove(t, all, 2, 8).Check(at(all, 7)),
		"inclusion under another number":                 moved.Check(at(all, 8)),
		"consistency of a rewritten journal":             consistent(t, forged, 5, 8).Check(at(all, 5), at(forged, 8)),
		"consistency of another journal":                 consistent(t, all, 5, 8).Check(at(all, 5), at(forged, 8)),
		"consistency the wrong way round":                consistent(t, all, 5, 8).Check(at(all, 8), at(all, 5)),
		"consistency of a journal cut":                   consistent(t, all, 4, 4).Check(at(all, 5), at(all, 4)),
		"consistency with nothing, of another root":      consistent(t, all, 0, 8).Check(Checkpoint{0, tlog.Hash{}}, at(all, 8)),
		"consistency of nothing with nothing, forged":    consistent(t, all, 0, 0).Check(at(all, 0), Checkpoint{0, tlog.Hash{}}),
		"consistency of the same size with another root": consistent(t, all, 8, 8).Check(at(all, 8), at(forged, 8)),
	} {
		t.Run(name, func(t *testing.T) {
			if err == nil {
				t.Error("accepted")
			}
		})
	}
}

func FuzzParseReceipt(f *testing.F) {
	k := newFixedKey(f)
	want := treeOf(f, lines(f, 3)).Checkpoint()
	r := receipt(signed(f, want, k))
	f.Add(toJSON(f, r))
	r.Kind, r.Token, r.Authority = ReceiptFile, "", nil
	f.Add(toJSON(f, r))
	f.Add([]byte(`{"schema":"` + ReceiptSchema + `"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := ParseReceipt(raw)
		if err != nil {
			return
		}
		again, err := ParseReceipt(toJSON(t, r))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(r) && r.Authority == nil {
			t.Errorf("accepted %q, which is read back as %+v (%v)", raw, again, err)
		}
		if c, err := r.Check(k); err == nil && c != want {
			t.Errorf("accepted another checkpoint %v", c)
		}
	})
}

func FuzzParseProof(f *testing.F) {
	all := lines(f, 6)
	c := treeOf(f, all).Checkpoint()
	for i := range all {
		f.Add(toJSON(f, prove(f, all, int64(i), 6)))
	}
	f.Add(toJSON(f, consistent(f, all, 4, 6)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if p, err := ParseProof(raw); err == nil && p.Check(c) == nil && (p.Index > 5 || p.Entry != string(all[p.Index])) {
			t.Errorf("proved an entry that is not there: %+v", p)
		}
		if p, err := ParseConsistency(raw); err == nil && p.Old > 0 && p.Old <= 6 {
			if old := treeOf(t, all[:p.Old]).Checkpoint(); p.Check(Checkpoint{p.Old, tlog.Hash{1}}, c) == nil || p.Size != 6 && p.Check(old, c) == nil {
				t.Errorf("proved what is not so: %+v", p)
			}
		}
	})
}
