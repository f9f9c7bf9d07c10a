package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A test as docs/attacks.md names it: `rotate/trust TestAttack/rogue image without proof`.
var named = regexp.MustCompile("`([a-z0-9/]+) (Test[A-Za-z0-9]+)(?:/([^`]+))?`")

// TestAttacksAreTested holds docs/attacks.md to the tests there are: each attack
// names a law and at least one test, and each of these exists.
func TestAttacksAreTested(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "attacks.md"))
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]tests{}
	attacks := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 || strings.HasPrefix(strings.TrimSpace(cells[0]), "---") || strings.TrimSpace(cells[0]) == "Attack" {
			continue
		}
		attacks++
		if !laws.MatchString(strings.TrimSpace(cells[1])) {
			t.Errorf("%s: no law is named by its number", cells[0])
		}
		list := named.FindAllStringSubmatch(cells[2], -1)
		if len(list) == 0 || len(list) != strings.Count(cells[2], "`")/2 {
			t.Errorf("%s: %d tests are named, in a cell that quotes %d things", cells[0], len(list), strings.Count(cells[2], "`")/2)
		}
		for _, name := range list {
			pkg, test, sub := name[1], name[2], name[3]
			if packages[pkg] == nil {
				packages[pkg] = parse(t, filepath.Join("..", "..", pkg))
			}
			if !packages[pkg].have(test, sub) {
				t.Errorf("%s: there is no %s %s/%s", cells[0], pkg, test, sub)
			}
		}
	}
	if attacks < 30 {
		t.Errorf("docs/attacks.md names %d attacks", attacks)
	}
}

var laws = regexp.MustCompile(`^[0-9]+(, [0-9]+)*$`)

// tests are the functions of a package's tests, by name.
type tests map[string]*function

// function is what the search for a subtest needs to know of one.
type function struct {
	names map[string]bool // literals that stand where names of subtests do
	uses  map[string]bool // every identifier in it
}

// parse reads the tests of a package. The scripts of a directory
// testdata/script are subtests of TestScripts.
func parse(t *testing.T, dir string) tests {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no tests (%v)", dir, err)
	}
	out := tests{}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if d, ok := d.(*ast.FuncDecl); ok {
				out[d.Name.Name] = look(d)
			}
		}
	}
	scripts, err := filepath.Glob(filepath.Join(dir, "testdata", "script", "*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	if f := out["TestScripts"]; f != nil {
		for _, s := range scripts {
			f.names[strings.TrimSuffix(filepath.Base(s), ".txtar")] = true
		}
	}
	return out
}

// look collects what may name a subtest in a function: the first argument of a
// Run, the first field or the field "name" of a row of a table, the key of a
// row of a map.
func look(d *ast.FuncDecl) *function {
	f := &function{names: map[string]bool{}, uses: map[string]bool{}}
	name := func(e ast.Expr) {
		if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
			if text, err := strconv.Unquote(l.Value); err == nil {
				f.names[text] = true
			}
		}
	}
	ast.Inspect(d, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Ident:
			f.uses[n.Name] = true
		case *ast.CallExpr:
			if s, ok := n.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Run" && len(n.Args) == 2 {
				name(n.Args[0])
			}
		case *ast.CompositeLit:
			_, isMap := n.Type.(*ast.MapType)
			for at, e := range n.Elts {
				kv, keyed := e.(*ast.KeyValueExpr)
				switch {
				case keyed && isMap:
					name(kv.Key)
				case keyed:
					if id, ok := kv.Key.(*ast.Ident); ok && id.Name == "name" {
						name(kv.Value)
					}
				case at == 0 && n.Type == nil: // a row of a table does not repeat its type
					name(e)
				}
			}
		}
		return true
	})
	return f
}

// have reports whether a test is there and has, itself or in the functions it
// uses, a subtest of such a name. The name of a subtest's subtest follows a
// slash.
func (all tests) have(test, sub string) bool {
	if all[test] == nil {
		return false
	}
	names, queue, seen := map[string]bool{}, []string{test}, map[string]bool{test: true}
	for ; len(queue) > 0; queue = queue[1:] {
		f := all[queue[0]]
		for n := range f.names {
			names[n] = true
		}
		for use := range f.uses {
			if all[use] != nil && !seen[use] && !strings.HasPrefix(use, "Test") {
				seen[use] = true
				queue = append(queue, use)
			}
		}
	}
	if sub == "" || names[sub] {
		return true
	}
	for _, part := range strings.Split(sub, "/") {
		if !names[part] {
			return false
		}
	}
	return true
}

// TestNamesOfSubtests is about what counts as a subtest's name.
func TestNamesOfSubtests(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	source := `package p
func TestAttack(t *testing.T) {
	for _, tc := range []struct{ name, other string }{{"in a table", "no name"}, {name: "in a field", other: "no name either"}} {
		t.Run(tc.name, func(t *testing.T) { fail("a message") })
	}
	for name := range map[string]int{"in a map": 1} { t.Run(name, nil) }
	t.Run("at once", helper)
	_ = []string{"in a list"}
}
func helper(t *testing.T) { t.Run("in a helper", nil) }
func TestOther(t *testing.T) { t.Run("of another test", nil) }
// "in a comment"
`
	if err := os.WriteFile(filepath.Join(dir, "p_test.go"), []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	all := parse(t, dir)
	for _, name := range []string{"", "in a table", "in a field", "in a map", "at once", "in a helper", "at once/in a helper"} {
		if !all.have("TestAttack", name) {
			t.Errorf("%q is not found", name)
		}
	}
	for _, name := range []string{"no name", "no name either", "a message", "in a list", "of another test", "in a comment", "at once/no name", "in a"} {
		if all.have("TestAttack", name) {
			t.Errorf("%q is taken for a subtest", name)
		}
	}
	if all.have("TestNothing", "") {
		t.Error("a test that is not there is found")
	}
}
