package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/reseal/reseal/internal/app"
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

// TestHostWords tells registries apart where there are several, in a line that
// does not grow with them.
func TestHostWords(t *testing.T) {
	t.Parallel()
	var list []app.HostStatus
	for n, want := range []string{
		"; a.example 3 of 10", "; a.example 3 of 10; b.example 6 of 10 (1 failed, 2 held)", "; a.example 3 of 10; b.example 6 of 10 (1 failed, 2 held); c.example 3 of 10",
		"; a.example 3 of 10; b.example 6 of 10 (1 failed, 2 held); c.example 3 of 10; d.example 3 of 10",
		"; a.example 3 of 10; b.example 6 of 10 (1 failed, 2 held); c.example 3 of 10; d.example 3 of 10; 1 more registries",
	} {
		h := app.HostStatus{Host: string(rune('a'+n)) + ".example", Planned: 10, Done: 3}
		if n == 1 {
			h.Failed, h.Held = 1, 2
		}
		if list = append(list, h); hostWords(list) != want {
			t.Errorf("got %q, want %q", hostWords(list), want)
		}
	}
	if got := hostWords(nil); got != "" {
		t.Errorf("one registry: %q", got)
	}
	var out bytes.Buffer
	(&ui{out: &out}).hosts(list[1:2])
	if got, want := out.String(), "registry:   b.example: 3 of 10 done, 2 held back, 1 failed\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
}
