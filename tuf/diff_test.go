package tuf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// rich returns root and targets metadata with something in every place.
func rich(t *testing.T) (root, targets []byte) {
	t.Helper()
	o := newOrg(t)
	s, err := o.repo.load()
	check(t, err)
	d := o.repo.draft(s)
	r, err := d.editRoot()
	check(t, err)
	x := map[string]any{"x-field": "value"}
	r.UnrecognizedFields["x-field"] = "value"
	for _, role := range r.Roles {
		if role.UnrecognizedFields == nil {
			role.UnrecognizedFields = map[string]any{}
		}
		role.UnrecognizedFields["x-field"] = "value"
	}
	m, err := d.edit("targets")
	check(t, err)
	m.Delegations.UnrecognizedFields = x
	m.Delegations.Roles[0].UnrecognizedFields = x
	for _, target := range m.Targets {
		custom := json.RawMessage(`{"a":"b"}`)
		target.Custom, target.UnrecognizedFields = &custom, x
	}
	root, err = json.Marshal(d.root)
	check(t, err)
	targets, err = json.Marshal(d.roles["targets"])
	check(t, err)
	return root, targets
}

// leaves calls f with every change of one value in a JSON document: another text, another number, another truth, and
// every member and element left out.
func leaves(t *testing.T, doc []byte, f func(path string, changed []byte)) {
	t.Helper()
	var tree any
	check(t, json.Unmarshal(doc, &tree))
	emit := func(path string) {
		data, err := json.Marshal(tree)
		check(t, err)
		f(path, data)
	}
	var walk func(path string, v any, set func(any))
	walk = func(path string, v any, set func(any)) {
		switch v := v.(type) {
		case map[string]any:
			for key, sub := range v {
				at := path + "." + key
				walk(at, sub, func(n any) { v[key] = n })
				delete(v, key)
				emit(at + " left out")
				v[key] = sub
			}
			v["x-added"] = "new"
			emit(path + " with a field more")
			delete(v, "x-added")
		case []any:
			for i, sub := range v {
				at := fmt.Sprintf("%s[%d]", path, i)
				walk(at, sub, func(n any) { v[i] = n })
				set(slices.Delete(slices.Clone(v), i, i+1))
				emit(at + " left out")
				set(v)
			}
		case string:
			set(v + "0")
			emit(path)
			set("0" + v)
			emit(path)
			set(v)
		case float64:
			set(v + 1)
			emit(path)
			set(v)
		case bool:
			set(!v)
			emit(path)
			set(v)
		}
	}
	walk("", tree, func(any) {})
}

// TestDiffTellsEverything changes every single value of root and targets metadata: whatever can still be read must be
// told.
func TestDiffTellsEverything(t *testing.T) {
	root, targets := rich(t)
	now := time.Now()
	plain := func(r RoleDiff) string {
		r.Digest = ""
		return fmt.Sprint(r)
	}
	told := 0
	try := func(doc []byte, diff func([]byte) (string, string, bool)) {
		same, digest, ok := diff(doc)
		if !ok {
			t.Fatal("the metadata cannot be read")
		}
		leaves(t, doc, func(path string, changed []byte) {
			if strings.HasPrefix(path, ".signatures") {
				return
			}
			got, d, ok := diff(changed)
			if !ok || d == digest && !strings.HasPrefix(path, ". ") && !strings.HasPrefix(path, " ") {
				return // clients cannot read it either, or it signs the same
			}
			if got == same {
				t.Errorf("a change of %s is not told", path)
			}
			told++
		})
	}
	old, err := parseRoot(root)
	check(t, err)
	try(root, func(data []byte) (string, string, bool) {
		m, err := parseRoot(data)
		if err != nil {
			return "", "", false
		}
		w := &words{now: now}
		w.root(old, m)
		return plain(w.RoleDiff), w.Digest, true
	})
	oldTargets, err := parseTargets(targets)
	check(t, err)
	try(targets, func(data []byte) (string, string, bool) {
		m, err := parseTargets(data)
		if err != nil {
			return "", "", false
		}
		w := &words{now: now}
		w.targets(oldTargets, m)
		return plain(w.RoleDiff), w.Digest, true
	})
	if told < 150 {
		t.Errorf("only %d changes were tried", told)
	}
}

// What a signer must be warned of.
func TestDiffWarns(t *testing.T) {
	o := newOrg(t)
	again := newP256(t, "@alice")
	for want, changes := range map[string][]Change{
		"root: one key alone can sign":                              {SetThreshold{"root", 1}},
		"every key must sign":                                       {SetThreshold{"root", 3}},
		"@alice is a holder before and after, with another key":     {ReplaceKey{again.Holder}},
		"the key of @zoe is one that role root had before, of @bob": {RemoveHolder{"root", "@bob"}, AddHolder{"root", Holder{"@zoe", o.holders[1].Key}}},
		"none of the holders' keys stays": {RemoveHolder{"targets", "@alice"}, RemoveHolder{"targets", "@bob"}, RemoveHolder{"targets", "@carol"},
			AddHolder{"targets", newP256(t, "@y").Holder}, AddHolder{"targets", newP256(t, "@z").Holder}},
		"leaves role root and still holds role targets": {AddHolder{"root", newP256(t, "@dan").Holder}, RemoveHolder{"root", "@bob"}},
		"earlier than the published one":                {SetPeriod{"root", Period{30, 3}}},
		"trusted_root.json is removed":                  {RemoveTarget{Name: "trusted_root.json"}},
		"nothing that it lists will verify":             {RemoveRole{"revocations"}},
		"SHA256:" + fingerprintOf(t, again):             {ReplaceKey{again.Holder}},
		"3 of 3 must sign, before 2 of 3":               {SetThreshold{"targets", 3}},
		"bins: 4 named files-…, before none":            {AddRole{Name: "files", Paths: []string{"files/*"}, Holders: []Holder{again.Holder}, Threshold: 1, BinBits: 2}},
		"signatures last (days): 9, before 7":           {SetPeriod{"timestamp", Period{9, 6}}},
		"x.json is new: SHA256:2d711642b726b0":          {SetTarget{Name: "x.json", Data: []byte("x")}},
	} {
		_, err := o.repo.Propose(t.Context(), Proposal{Changes: changes, Accept: []string{"trusted_root.json", "revocations"}})
		check(t, err)
		d, err := o.repo.Diff()
		check(t, err)
		if got := fmt.Sprint(d); !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
		// The holder's tool says the same.
		data, err := o.repo.Export()
		check(t, err)
		q, err := ReadRequest(data, o.pinned, Options{})
		check(t, err)
		a, err := json.Marshal(d)
		check(t, err)
		b, err := json.Marshal(q.Diff())
		check(t, err)
		if !bytes.Equal(a, b) && len(a) != len(b) {
			t.Errorf("the repository says %s, the holder's tool %s", a, b)
		}
		check(t, o.repo.Withdraw(t.Context()))
	}
}

func fingerprintOf(t *testing.T, p person) string {
	t.Helper()
	_, key, err := p.publish()
	check(t, err)
	return fingerprint(key)
}

func TestNextVersion(t *testing.T) {
	for v, ok := range map[int64]bool{0: true, 1: true, maxVersion - 1: true, maxVersion: false, 1<<63 - 1: false, -1: false} {
		if got, err := nextVersion(metadata.ROOT, v); (err == nil) != ok || ok && got != v+1 {
			t.Errorf("after %d: %d, %v", v, got, err)
		}
	}
}
