package tuf

import (
	"encoding/json"
	"testing"
)

func TestFirst(t *testing.T) {
	o := newOrg(t)
	o.revoke(t, map[string][]byte{"revocations/1.json": []byte("one")})
	if got := o.revocations(t, ""); len(got) != 1 {
		t.Errorf("got %q", got)
	}
	mallory := newP256(t, "@mallory")
	online := newEd25519(t, "")
	o.propose(t, AddHolder{"root", mallory.Holder}, RemoveHolder{"root", "@bob"}, RemoveHolder{"targets", "@bob"}, SetOnline{Online{online.Key, "x"}},
		SetTarget{Name: "trusted_root.json", Data: []byte("new")})
	d, err := o.repo.Diff()
	check(t, err)
	text, _ := json.MarshalIndent(d, "", " ")
	t.Logf("%s", text)
	o.sign(t, append(o.holders, mallory)...)
	c, err := o.repo.Check()
	check(t, err)
	text, _ = json.MarshalIndent(c, "", " ")
	t.Logf("%s", text)
	o.online = online
	p := o.publish(t)
	t.Logf("%+v", p)
	for f := range listing(t, o.dir) {
		t.Log(f)
	}
	if got := o.sigstoreTarget(t, t.TempDir(), "trusted_root.json"); string(got) != "new" {
		t.Errorf("got %q", got)
	}
}
