package tuf

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// fold is what a name is to a file system that does not tell upper from lower case. There are no other forms of one name
// to be told apart: checkName admits no letters that Unicode can write in two ways.
func fold(name string) string { return strings.ToLower(name) }

// alike says which new targets and roles of the draft have a name that differs from another's by letter case alone, or
// from that of a directory another target lies in. On a Mac's or a Windows disk the one would take the other's place, in
// this directory, a checkout or a mirror of it. What is published as it is stays.
//
// Bins are not read for it: the targets that they list are looked for in the repository's directory.
func (r *Repository) alike(d *draft) []string {
	var out []string
	say := func(what, a, b string) {
		out = append(out, fmt.Sprintf("%s %s and %s are one name on disks that do not tell upper from lower case, where the one would take the other's place: choose another name", what, a, b))
	}
	published := map[string]bool{}
	names := map[string][]string{} // by what a disk may take them for
	see := func(name string) {
		if f := fold(name); !slices.Contains(names[f], name) {
			names[f] = append(names[f], name)
		}
	}
	for _, m := range d.Targets {
		for name := range m.Signed.Targets {
			published[name] = true
			see(name)
		}
	}
	var fresh []string
	for _, role := range slices.Sorted(maps.Keys(d.roles)) {
		for name := range d.roles[role].Signed.Targets {
			if !published[name] {
				fresh = append(fresh, name)
				see(name)
			}
		}
	}
	slices.Sort(fresh)
	stored := folded{dir: os.DirFS(r.dir), entries: map[string]map[string][]string{}}
	for _, name := range slices.Compact(fresh) {
		others := slices.Clone(names[fold(name)])
		for up := path.Dir(name); up != "."; up = path.Dir(up) {
			others = append(others, slices.DeleteFunc(slices.Clone(names[fold(up)]), func(n string) bool { return n == up })...)
		}
		for _, other := range append(others, stored.find(name)...) {
			if other != name {
				say("target", name, other)
				break
			}
		}
	}
	roles := slices.Clone(metadata.TOP_LEVEL_ROLE_NAMES[:])
	if !d.empty() {
		for file := range d.Snapshot.Signed.Meta {
			roles = append(roles, strings.TrimSuffix(file, ".json"))
		}
	}
	for _, role := range slices.Sorted(maps.Keys(d.roles)) {
		if i := slices.IndexFunc(roles, func(other string) bool { return other != role && fold(other) == fold(role) }); i >= 0 && !slices.Contains(roles, role) {
			say("role", role, roles[i])
		}
		roles = append(roles, role)
	}
	return out
}

// folded looks for files by names whose letter case is not told apart, and reads each directory once.
type folded struct {
	dir     fs.FS
	entries map[string]map[string][]string // directory → folded name → names
}

// find returns the targets in the repository's directory that a disk may take for name, name itself left out, and for
// one that name would have to lie below.
func (f folded) find(name string) []string {
	dirs := []string{targetsDir}
	var out []string
	parts := strings.Split(name, "/")
	for i, part := range parts {
		var next []string
		for _, dir := range dirs {
			for _, entry := range f.read(dir)[fold(part)] {
				next = append(next, path.Join(dir, entry))
			}
		}
		for _, at := range next {
			other := strings.TrimPrefix(at, targetsDir+"/")
			info, err := fs.Stat(f.dir, at)
			if err == nil && (i == len(parts)-1 || !info.IsDir()) && other != strings.Join(parts[:i+1], "/") {
				out = append(out, other)
			}
		}
		dirs = next
	}
	return out
}

func (f folded) read(dir string) map[string][]string {
	if in, ok := f.entries[dir]; ok {
		return in
	}
	in := map[string][]string{}
	entries, _ := fs.ReadDir(f.dir, dir) // none where it is a file or not there: who writes to it finds out
	for _, e := range entries {
		in[fold(e.Name())] = append(in[fold(e.Name())], e.Name())
	}
	f.entries[dir] = in
	return in
}
