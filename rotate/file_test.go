package rotate

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/reseal/reseal/internal/registry"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/rotate/trust"
)

// fileSigned is a signature over a file.
func fileSigned(p person, f inventory.Format, proven bool) inventory.Signature {
	g := signed(p, f, proven)
	g.Names = ""
	return g
}

// files puts files into a case: 40 and 41 deployed and good, in a bundle and as a
// blob signature, 42 deployed and on hold, 43 rogue.
func (k *kase) files(t *testing.T) {
	t.Helper()
	k.put(t, inventory.Files, 40, fileSigned(k.old, inventory.Detached, true))
	k.put(t, inventory.Files, 41, fileSigned(k.old, inventory.Blob, true))
	k.put(t, inventory.Files, 42, fileSigned(k.old, inventory.Detached, false))
	k.put(t, inventory.Files, 43, fileSigned(k.old, inventory.Blob, false))
	for n := 40; n < 43; n++ {
		k.deploy(t, inventory.Files, n)
	}
}

func fileRef(n int) string { return inventory.Files + "@" + digest(n) }

// home says that files are at home.
func home(p *Plan) { p.Homes = []string{inventory.Files} }

// noFiles is a registry that is asked about no file.
type noFiles struct {
	*fakeRegistry
	t *testing.T
}

func (n noFiles) Manifest(ctx context.Context, repository, reference string) (registry.Manifest, error) {
	if repository == inventory.Files {
		n.t.Errorf("the registry is asked for the file %s", reference)
	}
	return n.fakeRegistry.Manifest(ctx, repository, reference)
}

func (n noFiles) Delete(ctx context.Context, repository, reference string) error {
	if repository == inventory.Files {
		n.t.Errorf("the file %s is to be deleted in the registry", reference)
	}
	return n.fakeRegistry.Delete(ctx, repository, reference)
}

func TestContainFiles(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.files(t)
	k.open(t, leak, k.old.id, 3, 43)
	plan, _ := k.plan(t, home)
	wantEqual(t, "decision", k.item(t, plan, 43, inventory.SignPredicate).Decision, trust.Deny)
	k.approve(t, plan, k.bob, k.carol)
	f := newFakeRegistry()
	for _, apply := range []bool{false, true} {
		c, err := Contain(t.Context(), k.Store, noFiles{f, t}, f.publish, by, k.permit(t, plan), apply)
		must(t, err)
		wantEqual(t, "quarantined", c.Quarantined, []string{repo + "@" + digest(3)})
		wantEqual(t, "elsewhere", c.Elsewhere, []string{fileRef(43) + ": it is a file, which no registry holds: whoever keeps it takes it away"})
	}
	if !strings.Contains(f.state()["published "+revocation], strings.TrimPrefix(digest(43), "sha256:")) {
		t.Error("the revocation statement does not deny the file")
	}
}

// TestCutOverFiles has the gate wait for files as their consumers read them.
func TestCutOverFiles(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		refuse int
		dark   []int // accepted by name
		want   string
	}{
		{"held", 0, nil, "artifacts " + fileRef(42)},
		{"held, and accepted", 0, []int{42}, ""},
		{"a bundle that is not signed yet", 40, []int{42}, "artifacts " + fileRef(40)},
		{"a blob signature that is not signed yet", 41, []int{42}, "hosts " + fileRef(41)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := newCase(t)
			k.files(t)
			k.open(t, leak, k.old.id, 3, 43)
			dir := t.TempDir()
			consumers := []Consumer{{Name: "artifacts", Reads: inventory.Detached, Anchor: filepath.Join(dir, "artifacts.pub")},
				{Name: "hosts", Reads: inventory.Blob, Anchor: filepath.Join(dir, "hosts.pub")}}
			for _, c := range consumers {
				must(t, os.WriteFile(c.Anchor, k.old.pem, 0o644))
			}
			plan, _ := k.plan(t, func(p *Plan) {
				home(p)
				p.Consumers = consumers
				for _, n := range tc.dark {
					p.AcceptDark = append(p.AcceptDark, digest(n))
				}
			})
			k.approve(t, plan, k.bob, k.carol)
			w := &wall{refuse: map[string]bool{digest(42): true, digest(tc.refuse): true}}
			c, err := CutOver(t.Context(), k.Store, w.accepts, by, k.permit(t, plan), true)
			var dark []string
			for _, d := range c.Dark {
				if !d.Accepted {
					dark = append(dark, d.Consumer+" "+d.Artifact)
				}
			}
			wantEqual(t, "dark", strings.Join(dark, ", "), tc.want)
			if (err == nil) != (tc.want == "") {
				t.Errorf("got %v", err)
			}
			slices.Sort(w.asked)
			wantEqual(t, "asked", w.asked, []string{fileRef(40) + " detached next", fileRef(41) + " blob next", fileRef(42) + " detached next"})
			want := k.old
			if tc.want == "" {
				want = k.next
			}
			for _, c := range consumers {
				content, err := os.ReadFile(c.Anchor)
				must(t, err)
				wantEqual(t, c.Name, string(content), string(want.pem))
			}
		})
	}
}

// TestParityOfFiles moves files from one signer or format to another.
func TestParityOfFiles(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		to      func(*kase) person
		formats []inventory.Format
		given   func(*kase) []inventory.Signature
		resign  []inventory.Format // that the plan has it signed in
		except  []string
	}{
		{"as it is consumed", func(k *kase) person { return k.next }, nil, func(k *kase) []inventory.Signature {
			return []inventory.Signature{fileSigned(k.old, inventory.Detached, true), fileSigned(k.next, inventory.Detached, true)}
		}, nil, nil},
		{"as it is consumed, and is not yet", func(k *kase) person { return k.next }, nil, func(k *kase) []inventory.Signature {
			return []inventory.Signature{fileSigned(k.old, inventory.Blob, true), fileSigned(k.next, inventory.Detached, true)}
		}, []inventory.Format{inventory.Blob}, []string{"14 missing legacy"}},
		{"to bundles", func(k *kase) person { return k.old }, []inventory.Format{inventory.Bundle}, func(k *kase) []inventory.Signature {
			return []inventory.Signature{fileSigned(k.old, inventory.Blob, true)}
		}, []inventory.Format{inventory.Detached}, []string{"14 missing bundle"}},
		{"to bundles, done", func(k *kase) person { return k.old }, []inventory.Format{inventory.Bundle}, func(k *kase) []inventory.Signature {
			return []inventory.Signature{fileSigned(k.old, inventory.Blob, true), fileSigned(k.old, inventory.Detached, true)}
		}, nil, nil},
		{"back again", func(k *kase) person { return k.old }, []inventory.Format{inventory.Legacy}, func(k *kase) []inventory.Signature {
			return []inventory.Signature{fileSigned(k.old, inventory.Detached, true)}
		}, []inventory.Format{inventory.Blob}, []string{"14 missing legacy"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k := newCase(t)
			k.put(t, inventory.Files, 20, tc.given(k)...)
			plan, _, err := k.tryRotate(t, turn, k.old, tc.to(k), func(p *Plan) { p.Formats = tc.formats })
			must(t, err)
			var resign []inventory.Format
			for _, i := range k.items(t, plan, trust.Resign) {
				if i.Repository == inventory.Files {
					resign = append(resign, i.Formats...)
				}
			}
			wantEqual(t, "formats", resign, tc.resign)
			got, err := CheckParity(t.Context(), k.Store, turn, plan, nil)
			must(t, err)
			var except []string
			for _, x := range got.Exceptions {
				if x.Artifact == fileRef(20) {
					except = append(except, fmt.Sprintf("14 %s %s", x.What, x.Format))
				}
			}
			wantEqual(t, "exceptions", except, tc.except)
		})
	}
}

// TestRecalledFiles closes an incident after what was signed on a file turned
// out to be wrong: nobody can take a file back, so somebody has to say that it is
// offered no more.
func TestRecalledFiles(t *testing.T) {
	t.Parallel()
	k := newCase(t)
	k.put(t, inventory.Files, 40, fileSigned(k.old, inventory.Detached, true))
	k.open(t, leak, k.old.id, 3)
	plan, _ := k.plan(t, home)
	k.approve(t, plan, k.bob, k.carol)
	k.carryOut(t, plan)
	_, err := Amend(t.Context(), k.Store, by, leak, Amendment{At: today, From: earlier(20)})
	must(t, err)
	for _, dark := range []bool{false, true} {
		plan, _ := k.plan(t, func(p *Plan) {
			home(p)
			if dark {
				p.AcceptDark = []string{digest(40)}
			}
		})
		if i := k.item(t, plan, 40, inventory.SignPredicate); !i.Recall {
			t.Fatalf("it is not recalled: %+v", i)
		}
		k.approve(t, plan, k.bob, k.carol)
		f := newFakeRegistry()
		_, err := Contain(t.Context(), k.Store, noFiles{f, t}, f.publish, by, k.permit(t, plan), true)
		must(t, err)
		c, err := Missing(t.Context(), k.Store, leak, quietWorld{})
		must(t, err)
		says := slices.ContainsFunc(c.Missing, func(s string) bool {
			return strings.HasPrefix(s, fileRef(40)) && strings.Contains(s, "nobody offers its new signature any more")
		})
		wantEqual(t, "missing and accepted", []bool{says, slices.Contains(c.Accepted, fileRef(40))}, []bool{!dark, dark})
	}
}
