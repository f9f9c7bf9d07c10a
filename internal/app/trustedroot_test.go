package app

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/reseal/reseal/inventory/evidence"
	"github.com/reseal/reseal/tuf/trustedroot"
)

// emptyRoot is an edit that makes a trusted root without anybody in it.
func emptyRoot(t *testing.T, old []byte) TrustEdit {
	t.Helper()
	return must(EditTrustedRoot(old, func(*trustedroot.Root) ([]string, error) { return nil, nil }))
}

// TestFaultTrustFile: a file that is not what it was, or a journal that cannot record it,
// and the file stays as it is.
func TestFaultTrustFile(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	ctx := t.Context()
	before := must(os.ReadFile(filepath.Join(h.options.Home, trustedRootFile)))
	remove := must(EditTrustedRoot(before, func(r *trustedroot.Root) ([]string, error) {
		_, w, err := r.Remove(trustedroot.CTLog, r.Authorities()[len(r.Authorities())-2].ID)
		return w, err
	}))
	fresh := func(t *testing.T, content []byte) TrustFile {
		t.Helper()
		f := TrustFile{Path: filepath.Join(t.TempDir(), "trusted_root.json"), Home: h.App}
		if content != nil {
			if err := os.WriteFile(f.Path, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return f
	}
	stays := func(t *testing.T, f TrustFile, want []byte) {
		t.Helper()
		if got := must(f.Read()); !bytes.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("the file is now %q", got)
		}
		if left := must(os.ReadDir(filepath.Dir(f.Path))); len(left) > 1 {
			t.Errorf("left behind: %v", left)
		}
	}
	t.Run("another hand", func(t *testing.T) {
		other := append(bytes.Clone(before), '\n')
		f := fresh(t, other)
		if err := f.Write(ctx, remove, "test"); err == nil || !strings.Contains(err.Error(), "another hand") {
			t.Errorf("written: %v", err)
		}
		stays(t, f, other)
	})
	t.Run("made in the meantime", func(t *testing.T) {
		f := fresh(t, before)
		if err := f.Write(ctx, emptyRoot(t, nil), "test"); err == nil || !strings.Contains(err.Error(), "another hand") {
			t.Errorf("written: %v", err)
		}
		stays(t, f, before)
	})
	t.Run("gone in the meantime", func(t *testing.T) {
		f := fresh(t, nil)
		if err := f.Write(ctx, remove, "test"); err == nil || !strings.Contains(err.Error(), "another hand") {
			t.Errorf("written: %v", err)
		}
		stays(t, f, nil)
	})
	t.Run("no reason, no journal, no write", func(t *testing.T) {
		f := fresh(t, before)
		if err := f.Write(ctx, remove, ""); err == nil {
			t.Error("written without a reason")
		}
		stays(t, f, before)
		off, cancel := context.WithCancel(ctx)
		cancel()
		if err := f.Write(off, remove, "test"); err == nil {
			t.Error("written without a journal")
		}
		stays(t, f, before)
	})
	t.Run("written", func(t *testing.T) {
		f := fresh(t, before)
		if err := f.Write(ctx, remove, "test"); err != nil {
			t.Fatal(err)
		}
		stays(t, f, remove.New)
	})
}

// TestAgreed is when a change needs an explicit word.
func TestAgreed(t *testing.T) {
	now := time.Now()
	dropped, ended, later := trustedroot.Loss{}, trustedroot.Loss{After: now.Add(-time.Hour)}, trustedroot.Loss{After: now.Add(time.Hour)}
	nothing := func() *Stops { return &Stops{Known: 10} }
	with := func(change func(*Stops)) *Stops { s := nothing(); change(s); return s }
	for name, test := range map[string]struct {
		lost []trustedroot.Loss
		s    *Stops
		want string
	}{
		"nothing is lost":            {nil, nil, ""},
		"an end to come":             {[]trustedroot.Loss{later}, nil, ""},
		"nobody to ask":              {[]trustedroot.Loss{later, ended}, nil, "no inventory"},
		"an empty inventory":         {[]trustedroot.Loss{dropped}, &Stops{}, "an empty one"},
		"nothing rests on it":        {[]trustedroot.Loss{dropped, ended}, nothing(), ""},
		"one is refused":             {[]trustedroot.Loss{dropped}, with(func(s *Stops) { s.Judged = evidence.Difference{Refused: 1} }), "1 are refused"},
		"one is without its log":     {[]trustedroot.Loss{dropped}, with(func(s *Stops) { s.Judged = evidence.Difference{Unlogged: 1} }), "1 are without their log entry"},
		"one is without its time":    {[]trustedroot.Loss{ended}, with(func(s *Stops) { s.Judged = evidence.Difference{Untimed: 1} }), "1 without proof of time"},
		"another root was asked":     {[]trustedroot.Loss{dropped}, with(func(s *Stops) { s.Another = true }), "another trusted root"},
		"what nobody can tell":       {[]trustedroot.Loss{dropped}, with(func(s *Stops) { s.Untold = []string{"who knows"} }), "who knows"},
		"to come, and nobody to ask": {[]trustedroot.Loss{later}, &Stops{}, ""},
	} {
		err := TrustEdit{Lost: test.lost}.Agreed(test.s, now)
		if test.want == "" && err != nil || test.want != "" && (!errors.Is(err, ErrWouldStop) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// Those who are asked to sign a trusted root see whom it adds, and not a digest alone.
func TestTargetWords(t *testing.T) {
	t.Parallel()
	root := must(os.ReadFile(filepath.Join(newHome(t).options.Home, trustedRootFile)))
	r := must(trustedroot.Parse(root))
	said := strings.Join(TargetWords(trustedRootFile, nil, root), "\n")
	for _, a := range r.Authorities() {
		if !strings.Contains(said, a.ID) {
			t.Errorf("%s is added, and it says %s", a.ID, said)
		}
	}
	config := must(must(trustedroot.ParseConfig([]byte(`{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json","caUrls":[{"url":"https://mallory.example","majorApiVersion":1,"validFor":{"start":"2026-01-01T00:00:00Z"},"operator":"mallory"}]}`))).Bytes())
	if said := strings.Join(TargetWords(signingConfigFile, nil, config), "\n"); !strings.Contains(said, "mallory.example") {
		t.Errorf("it says %q", said)
	}
	for name, content := range map[string]string{trustedRootFile: "{", signingConfigFile: "[]"} {
		for _, old := range [][]byte{nil, []byte(content)} {
			if said := TargetWords(name, old, []byte(content)); len(said) != 1 || !strings.Contains(said[0], "nobody can say") {
				t.Errorf("%s: %q", name, said)
			}
		}
		if said := TargetWords(name, nil, nil); len(said) != 1 {
			t.Errorf("%s: %q", name, said)
		}
	}
	if said := TargetWords("other.json", nil, []byte("x")); len(said) != 0 {
		t.Errorf("it says %q of what it does not know", said)
	}
	if said := TargetWords(trustedRootFile, root, root); len(said) != 0 {
		t.Errorf("it says %q of what is the same", said)
	}
}

// TestGuardNamesWhatClientsRefuse: a trusted root that reads well here and that clients refuse takes everything away.
func TestGuardNamesWhatClientsRefuse(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	before := must(os.ReadFile(filepath.Join(h.options.Home, trustedRootFile)))
	compact := must(EditTrustedRoot(before, func(*trustedroot.Root) ([]string, error) { return nil, nil })).New
	after := bytes.Replace(compact, []byte("trustedroot+json;version=0.1"), []byte("trustedroot.v0.2+json"), 1)
	if bytes.Equal(after, compact) {
		t.Fatal("the media type is written in another way")
	}
	for name, a := range map[string]*App{"no home": nil, "a home": h.App} {
		guard := a.Guard(t.Context())
		if got := guard(trustedRootFile, compact, after); len(got) != 1 || !strings.Contains(got[0], "refuses the file") {
			t.Errorf("%s: %q", name, got)
		}
		if got := guard(trustedRootFile, after, compact); len(got) != 0 {
			t.Errorf("%s, the way back: %q", name, got)
		}
		if got := guard(trustedRootFile, nil, after); len(got) != 1 || !strings.Contains(got[0], "refuses the file") {
			t.Errorf("%s, the first: %q", name, got)
		}
		if got := guard(trustedRootFile, nil, compact); len(got) != 0 {
			t.Errorf("%s, a first that clients read: %q", name, got)
		}
		config := must(trustedroot.NewConfig().Bytes())
		if _, err := root.NewSigningConfigFromJSON(config); err != nil {
			t.Fatal(err)
		}
		for what, c := range map[string]struct {
			old, new []byte
			want     int
		}{
			"in place of one": {config, []byte("nonsense"), 1}, "a later version": {config, bytes.Replace(config, []byte("v0.2"), []byte("v0.9"), 1), 1}, "the first": {nil, []byte("nonsense"), 1},
			"the way back": {[]byte("nonsense"), config, 0}, "a good one": {nil, config, 0}, "removed": {config, nil, 0},
		} {
			if got := guard(signingConfigFile, c.old, c.new); len(got) != c.want || c.want > 0 && !strings.Contains(got[0], "refuses the file") {
				t.Errorf("%s, a signing config, %s: %q", name, what, got)
			}
		}
	}
}
