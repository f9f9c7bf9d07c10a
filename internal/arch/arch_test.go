// Package arch holds the code to its import rules and draws them.
package arch

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/reseal/reseal"

var update = flag.Bool("update", false, "write docs/architecture.md")

// layers is the architecture, from the top: a package may import only packages
// of lower layers, never one of its own.
var layers = []struct {
	name, about string
	packages    []string
}{
	{"command line", "flags, words, exit codes; the only place that prints", []string{"cmd/reseal"}},
	{"wiring", "configuration becomes stores, clients and signers", []string{"internal/app"}},
	{"drills", "the whole product, rehearsed", []string{"runbooks/drill"}},
	{"runbooks", "what is done, in which order, and why", []string{"runbooks"}},
	{"rehearsals", "what the packages below do, played with made-up people and an attacker", []string{"tuf/rehearsal"}},
	{"acting", "the packages that do things; siblings do not know each other", []string{"rotate", "resign", "tuf", "tuf/radar", "tuf/airgap", "inventory/scan", "inventory/evidence", "inventory/restore", "rotate/pack"}},
	{"rules", "pure functions: verdicts, decisions, verifier files, edits of trusted roots", []string{"rotate/trust", "rotate/emit", "tuf/trustedroot"}},
	{"verification", "stored signatures become evidence", []string{"verify"}},
	{"adapters", "the world outside, one package each", []string{"internal/store", "internal/registry", "internal/files", "internal/web", "internal/sandbox", "internal/keyfile", "internal/kms", "internal/pkcs11", "internal/keyless", "internal/services", "internal/queue"}},
	{"plumbing", "files that survive a crash, waiting that ends", []string{"internal/durable", "internal/clock"}},
	{"sources", "what other systems write becomes records, usage and anchors", []string{"inventory/records", "inventory/anchors"}},
	{"inventory", "artifacts, signatures, statements, bounds", []string{"inventory"}},
	{"vocabulary", "who signs, and what was done", []string{"signer", "journal"}},
}

// outside says which packages alone may use something dangerous or heavy.
var outside = map[string][]string{
	"database/sql":                {"internal/store"},
	"github.com/urfave/cli/v2":    {"cmd/reseal"},
	"github.com/riverqueue/river": {"internal/queue"},
	"github.com/jackc/pgx/v5":     {"internal/store", "internal/queue", "internal/app"}, // the app joins the queue to the store's transactions
	"os/exec":                     {},
	"net/http":                    {"internal/registry", "internal/services", "internal/keyless", "internal/sandbox", "tuf", "tuf/radar", "runbooks/drill"},
	"os/signal":                   {"cmd/reseal"},
	"testing":                     {},
}

type source struct {
	pkg  string // directory below the module
	file string
	ast  *ast.File
}

// sources parses every file of the module that is no test.
func sources(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	var out []source
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "bin" || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && d.Name() != "..") && p != root {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		out = append(out, source{pkg: path.Dir(filepath.ToSlash(rel)), file: rel, ast: f})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func layerOf(pkg string) int {
	return slices.IndexFunc(layers, func(l struct {
		name, about string
		packages    []string
	}) bool {
		return slices.Contains(l.packages, pkg)
	})
}

// imports returns the packages of this module that each package imports.
func imports(t *testing.T) map[string][]string {
	out := map[string][]string{}
	for _, s := range sources(t) {
		for _, i := range s.ast.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if in, ok := strings.CutPrefix(p, module+"/"); ok && !slices.Contains(out[s.pkg], in) {
				out[s.pkg] = append(out[s.pkg], in)
			}
		}
		slices.Sort(out[s.pkg])
	}
	return out
}

func TestImportsPointDown(t *testing.T) {
	for pkg, list := range imports(t) {
		from := layerOf(pkg)
		if from < 0 {
			t.Errorf("package %s has no layer: give it one here, with a reason", pkg)
			continue
		}
		for _, i := range list {
			if to := layerOf(i); to <= from {
				t.Errorf("%s (%s) imports %s (%s): imports only point down", pkg, layers[from].name, i, layers[max(to, 0)].name)
			}
		}
	}
}

func TestWhoMayUseWhat(t *testing.T) {
	for _, s := range sources(t) {
		for _, i := range s.ast.Imports {
			p, _ := strconv.Unquote(i.Path.Value)
			if allowed, ok := outside[p]; ok && !slices.Contains(allowed, s.pkg) {
				t.Errorf("%s imports %s, which is for %v alone", s.file, p, allowed)
			}
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, _ := sel.X.(*ast.Ident)
			if x == nil {
				return true
			}
			call := x.Name + "." + sel.Sel.Name
			prints := x.Name == "fmt" && strings.HasPrefix(sel.Sel.Name, "Print") || call == "os.Stdout" || call == "os.Stderr" || call == "os.Exit"
			if prints && s.pkg != "cmd/reseal" {
				t.Errorf("%s uses %s: only cmd/reseal prints and exits", s.file, call)
			}
			return true
		})
		for _, d := range s.ast.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s has an init function", s.file)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	described := map[string]bool{}
	for _, s := range sources(t) {
		described[s.pkg] = described[s.pkg] || s.ast.Doc != nil
	}
	for pkg, ok := range described {
		if !ok {
			t.Errorf("package %s has no comment", pkg)
		}
	}
}

// TestDrawing keeps the picture in the docs true. Run with -update to redraw.
func TestDrawing(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Architecture\n\nDrawn from the imports by `go test ./internal/arch -update`. An import only points down; the test holds the code to it.\n\n```mermaid\ngraph TD\n")
	id := func(pkg string) string { return strings.NewReplacer("/", "_").Replace(pkg) }
	for n, l := range layers {
		fmt.Fprintf(&b, "  subgraph L%d[\"%s: %s\"]\n", n, l.name, l.about)
		for _, p := range l.packages {
			fmt.Fprintf(&b, "    %s[%s]\n", id(p), p)
		}
		b.WriteString("  end\n")
	}
	list := imports(t)
	for _, l := range layers {
		for _, p := range l.packages {
			for _, i := range list[p] {
				fmt.Fprintf(&b, "  %s --> %s\n", id(p), id(i))
			}
		}
	}
	b.WriteString("```\n")
	file := filepath.Join("..", "..", "docs", "architecture.md")
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != b.String() {
		t.Error("docs/architecture.md is not what the code looks like: run go test ./internal/arch -update")
	}
}
