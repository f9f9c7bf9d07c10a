package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// TestInert prints what an attacker may have named something. Nothing of it
// reaches the terminal as it is, and JSON still says the same.
func TestInert(t *testing.T) {
	t.Parallel()
	const hostile = "a\x1b[2J\rb\nforged: ok\tc\u009b1m\u202ed\u2028e\xff\U000e0001 ü 漢"
	const inert = `a\u{1b}[2J\u{d}b\u{a}forged: ok\u{9}c\u{9b}1m\u{202e}d\u{2028}e\u{fffd}\u{e0001} ü 漢`
	var out bytes.Buffer
	u := &ui{out: &out, err: &out}
	for name, print := range map[string]func() error{
		"printf": func() error { u.printf("%s", hostile); return nil },
		"notef":  func() error { u.notef("%s", hostile); return nil },
		"table":  func() error { u.table([][]string{{hostile}}); return nil },
		"rows":   func() error { return (&rows{ui: u}).put(nil, hostile) },
		"csv":    func() error { return u.csv([][]string{{hostile}}) },
		"progress": func() error {
			p := u.progress("scan", 0)
			p.every = 0
			p.at(1, hostile)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			out.Reset()
			if err := print(); err != nil {
				t.Fatal(err)
			}
			if got := out.String(); !strings.Contains(got, inert) || strings.Count(got, "\n") != 1 {
				t.Errorf("printed %q", got)
			}
		})
	}
	t.Run("error", func(t *testing.T) { // several are a line each, and no line looks like another command's
		out.Reset()
		u.fail(errors.New(hostile))
		if got := out.String(); strings.ContainsAny(got, "\x1b\r\t\u009b\u202e") || !strings.Contains(got, "\n        forged") {
			t.Errorf("printed %q", got)
		}
	})
	t.Run("json", func(t *testing.T) {
		for _, print := range []func(any) error{u.line, func(v any) error { return u.object("x", v) }} {
			out.Reset()
			if err := print(map[string]string{"name": hostile}); err != nil {
				t.Fatal(err)
			}
			var got map[string]string
			if err := json.Unmarshal(out.Bytes(), &got); err != nil || got["name"] != strings.ToValidUTF8(hostile, "\ufffd") {
				t.Errorf("read back %q, %v", got["name"], err)
			}
			if strings.ContainsAny(out.String(), "\x1b\u009b\u202e\u2028\U000e0001") {
				t.Errorf("printed %q", out.String())
			}
		}
	})
}
