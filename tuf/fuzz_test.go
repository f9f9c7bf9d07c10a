package tuf

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// FuzzRequest: no request makes a holder's tool fail in any other way than by an error, and none that is accepted is of
// anything but a root that the holder knows.
func FuzzRequest(f *testing.F) {
	o := newOrg(f)
	o.propose(f, SetThreshold{"root", 3}, SetTarget{Name: "x.json", Data: []byte("x")}, AddRole{Name: "files", Paths: []string{"files/*"}, Holders: holdersOf(o.holders), Threshold: 1, BinBits: 1})
	good, err := o.repo.Export()
	check(f, err)
	f.Add(good)
	var parts map[string]json.RawMessage
	check(f, json.Unmarshal(good, &parts))
	for name := range parts {
		less := map[string]json.RawMessage{}
		for k, v := range parts {
			if k != name {
				less[k] = v
			}
		}
		data, err := json.Marshal(less)
		check(f, err)
		f.Add(data)
	}
	f.Add([]byte(`{"schema":"reseal.tuf-request/v1","event":"","roots":[null],"before":{"targets":null},"after":{"root":null}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		q, err := ReadRequest(data, o.pinned, Options{})
		if err != nil {
			return
		}
		q.Diff()
		if q.draft.Root.Signed.Version < 1 {
			t.Error("accepted without a published root")
		}
	})
}

// FuzzSignatures: nothing but a signature that verifies is ever taken into an event.
func FuzzSignatures(f *testing.F) {
	o := newOrg(f)
	o.propose(f, SetThreshold{"root", 3}, Renew{"targets"})
	request, err := o.repo.Export()
	check(f, err)
	good, err := SignRequest(f.Context(), request, o.holders[0].Signer, o.pinned, Options{})
	check(f, err)
	f.Add(good)
	f.Add([]byte(`{"schema":"reseal.tuf-signature/v1","event":"","signatures":[{"role":"root","version":2,"digest":"","keyid":"","sig":""}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseSignatures(data)
		if err != nil {
			return
		}
		signed, err := o.repo.Import(t.Context(), data)
		if err == nil && len(signed) != len(file.Signatures) {
			t.Errorf("%d of %d taken", len(signed), len(file.Signatures))
		}
		for _, s := range signed {
			if s.Owner != "@alice" {
				t.Errorf("signed by %+v", s)
			}
		}
	})
}

// FuzzEvent: whatever stands in an event's own file is refused or is an event.
func FuzzEvent(f *testing.F) {
	o := newOrg(f)
	o.propose(f, SetTarget{Name: "x.json", Data: []byte("x")})
	good, err := os.ReadFile(filepath.Join(o.dir, "event", "event.json"))
	check(f, err)
	f.Add(good)
	f.Add([]byte(`{"schema":"reseal.tuf-event/v1","roles":["../x"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parseEvent(data)
		if err != nil {
			return
		}
		for _, role := range e.Roles {
			if filepath.Dir(eventRoleFile(role)) != filepath.Join("event", "metadata") {
				t.Errorf("role %q leads elsewhere", role)
			}
		}
		for _, name := range e.Files {
			if !filepath.IsLocal(name) {
				t.Errorf("target %q leads elsewhere", name)
			}
		}
	})
}

// FuzzPending: what was prepared is read back or refused, and leads nowhere else.
func FuzzPending(f *testing.F) {
	good, err := json.Marshal(pending{Schema: pendingSchema, Replaces: noTimestamp, Steps: []step{write(inSource, "metadata/root.json", []byte("x")), remove(inPublished, "a/b"), reveal("timestamp.json", []byte("y"))}})
	check(f, err)
	f.Add(good)
	f.Add([]byte(`{"schema":"reseal.tuf-pending/v1","steps":[{"do":"remove","in":"repository","name":"../x"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parsePending(data)
		if err != nil {
			return
		}
		for _, s := range p.Steps {
			if !filepath.IsLocal(s.Name) || s.In != inSource && s.In != inPublished {
				t.Errorf("step %+v leads elsewhere", s)
			}
		}
	})
}
