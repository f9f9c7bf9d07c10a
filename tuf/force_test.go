package tuf

import (
	"strings"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// force publishes what no check of the package would let through, as somebody with the keys and a tool of their own.
func (o *org) force(t *testing.T, online person, change func(*draft), people ...person) {
	t.Helper()
	s, err := o.repo.load()
	check(t, err)
	d := o.repo.draft(s)
	change(d)
	for _, role := range d.changed() {
		doc, err := d.document(role)
		check(t, err)
		rings, err := d.rings(role)
		check(t, err)
		for _, ring := range rings {
			for _, p := range people {
				if id := ring.idOf(p.PublicKey()); id != "" {
					sig, err := signOne(t.Context(), doc, id, ring.keys[id], p.Signer)
					check(t, err)
					doc.put(sig)
				}
			}
		}
	}
	steps, _, _, err := o.repo.prepare(t.Context(), d, online.Signer)
	check(t, err)
	check(t, o.repo.commit(t.Context(), steps))
}

// refused fails the test unless err has want in it.
func refused(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want an error with %q", err, want)
	}
}

// editTargets is for changes that force publishes.
func editTargets(t *testing.T, d *draft, role string) *metadata.TargetsType {
	t.Helper()
	m, err := d.edit(role)
	check(t, err)
	return m
}
