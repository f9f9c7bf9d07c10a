//go:build e2e && linux

package main

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// writersEach is how many recoveries, and how many runs of real cosign, write to
// one image at once.
const writersEach = 8

// A writer is one recovery: a home, a plan and a key of its own.
type writer struct {
	home, key, plan string
}

// TestWriters has 16 writers sign one image at the same moment: 8 times reseal,
// 8 times real cosign, which read, change and write back the same two tags.
// cosign loses what others wrote in between. That reseal's own signatures are
// lost must not go unnoticed: a run says that it failed, or the same command run
// again puts exactly that signature back.
func TestWriters(t *testing.T) {
	if isolated(t) {
		return
	}
	w := newWorld(t)
	step := w.steps()
	i := &image{repository: w.host + "/platform/api", tag: "1.0", format: legacy, both: true, timestamp: true}
	w.check(w.publish(i))
	var writers []*writer
	var keys []string
	for n := range writersEach {
		writers = append(writers, &writer{home: fmt.Sprintf("writer-%d", n), key: fmt.Sprintf("ours%d", n)})
		keys = append(keys, writers[n].key, fmt.Sprintf("theirs%d", n))
	}
	w.parallel(len(keys), func(n int) error { return w.cosign2("generate-key-pair", "--output-key-prefix", keys[n]).failure() })
	w.parallel(len(writers), func(n int) error {
		own := writers[n]
		return errors.Join(w.as(own, "init", "--quorum", "1", "--approver", "alice=alice.pub", "--approver", "bob=bob.pub",
			"--signer", "release=old.pub", "--standby", "next="+own.key+".pub", "--trusted-root", "trusted_root.json").failure(),
			w.as(own, "scan", i.repository).failure())
	})
	from := w.theft()
	w.parallel(len(writers), func(n int) error {
		own := writers[n]
		if err := w.as(own, "incident", "open", "INC-1", "--signer", "release", "--from", from.Format(time.RFC3339), "--reason", "e2e").failure(); err != nil {
			return err
		}
		r := w.as(own, "incident", "plan", "INC-1", "--new-signer", "next", "--skew", "1s", "--json")
		if err := r.failure(); err != nil {
			return err
		}
		own.plan = decode[struct{ Plan string }](w, r).Plan
		return errors.Join(w.as(own, "incident", "approve", own.plan, "--as", "alice", "--key", "alice.key").failure(),
			w.as(own, "incident", "approve", own.plan, "--as", "bob", "--key", "bob.key").failure())
	})
	step("%d homes, each with a key and an approved plan for one image", len(writers))

	resign := func(own *writer) result {
		return w.as(own, "resign", own.plan, "--key", own.key+".key", "--timestamp-server-url", w.tsa, "--apply", "--json")
	}
	first := make([]result, writersEach)
	theirs := make([]result, writersEach)
	var all sync.WaitGroup
	for n := range writersEach {
		all.Go(func() { first[n] = resign(writers[n]) })
		all.Go(func() {
			by := i
			if n%2 > 0 {
				by = i.other()
			}
			args := append([]string{"sign", "--key", fmt.Sprintf("theirs%d.key", n), "--yes"}, w.services(by, true)...)
			theirs[n] = w.cosignFor(by, append(args, by.ref()))
		})
	}
	all.Wait()
	for _, r := range theirs {
		w.ok(r)
	}
	step("%d runs of reseal and %d of real cosign wrote at once", writersEach, writersEach)

	read := w.reader(keys...)
	formats := []string{legacy, bundle}
	present := func() map[string][]string { // by key and format, the IDs of signatures
		found, err := read.attached(i)
		w.check(err)
		out := map[string][]string{}
		for _, a := range found {
			if a.key == "nobody" {
				t.Fatalf("nobody's signature is there: %s", a)
			}
			by, err := signer.OfKey(read.keys[a.key])
			w.check(err)
			at := a.key + " " + a.format
			out[at] = append(out[at], inventory.SignatureID(i.repository, i.digest, inventory.Format(a.format), by, a.payload, a.signature))
		}
		return out
	}
	before := present()
	for _, format := range formats {
		w.equal("signatures by the old key as "+format, len(before["old "+format]), 1)
	}
	lost, reported := 0, 0
	made := map[string]string{} // by key and format: what the home says it made, by its ID
	for n, own := range writers {
		said := decodeResigned(w, first[n])
		w.equal(own.home+": units", said.Planned, len(formats))
		if said.Signed+said.Already+said.Failed != said.Planned || (first[n].code == 0) != (said.Failed == 0) {
			t.Errorf("%s does not account for what it planned: %s", own.home, first[n])
		}
		reported += said.Failed
		maps.Copy(made, w.madeBy(own, i))
		missing := 0
		for _, format := range formats {
			if len(before[own.key+" "+format]) == 0 {
				missing++
			}
		}
		lost += missing
	}
	foreign := 0
	for n := range writersEach {
		for _, format := range formats[n%2 : n%2+1] {
			if len(before[fmt.Sprintf("theirs%d %s", n, format)]) == 0 {
				foreign++
			}
		}
	}

	restored := 0
	for _, own := range writers {
		again := decode[resigned](w, resign(own))
		w.equal(own.home+": run again", again.Failed, 0)
		w.equal(own.home+": run again, signed or there", again.Signed+again.Already, len(formats))
		restored += again.Signed
	}
	after := present()
	kept := 0
	for _, own := range writers {
		for _, format := range formats {
			at := own.key + " " + format
			if n := len(after[at]); n != 1 {
				t.Errorf("%s: expected one signature as %s, there are %d", own.home, format, n)
				continue
			}
			switch {
			case made[at] != "" && after[at][0] != made[at]:
				t.Errorf("%s: the signature as %s was made anew: %s, it was %s", own.home, format, after[at][0], made[at])
			case len(before[at]) > 0 && before[at][0] != after[at][0]:
				t.Errorf("%s: the signature as %s was replaced", own.home, format)
			case made[at] != "":
				kept++
			}
		}
		w.equal(own.home+": recorded by the second run", fmt.Sprint(w.madeBy(own, i)), fmt.Sprint(idsOf(own, after)))
		w.equal(own.home+": times it signed", w.timesSigned(own), len(formats))
		w.ok(w.as(own, "journal", "verify"))
		w.ok(w.judge("cosign2", own.key+".pub", i, "--use-signed-timestamps"))
		w.ok(w.judge("cosign3", own.key+".pub", i, "--use-signed-timestamps", "--new-bundle-format=false"))
	}
	for at := range before {
		if strings.HasPrefix(at, "theirs") || strings.HasPrefix(at, "old") {
			w.equal("signatures that others had there: "+at, len(after[at]), len(before[at]))
		}
	}
	if restored != lost {
		t.Errorf("%d signatures of ours were lost, and %d restored", lost, restored)
	}
	fmt.Printf("e2e  of %d signatures of ours %d were lost when all had ended (%d reported as failed), %d restored with the bytes they had; of %d by cosign %d were lost\n",
		len(formats)*writersEach, lost, reported, restored, writersEach, foreign)
	step("every signature of ours is there once, %d of %d with the bytes of the first run", kept, len(formats)*writersEach)
}

func (w *world) as(own *writer, args ...string) result {
	return w.run("reseal", append([]string{"--home", own.home, "--actor", "carol"}, args...)...)
}

// decodeResigned reads what a run printed that may have failed.
func decodeResigned(w *world, r result) resigned {
	w.Helper()
	r.code = min(r.code, 0) // killed is not all right
	return decode[resigned](w, r)
}

// madeBy returns the signatures of an image that a home has recorded as made by
// it, by key and format.
func (w *world) madeBy(own *writer, i *image) map[string]string {
	w.Helper()
	out := map[string]string{}
	for _, l := range decodeLines[line](w, w.as(own, "signatures", "--json")) {
		if l.Signer.Name == "next" && l.Digest == i.digest {
			out[own.key+" "+l.Format] = l.ID
		}
	}
	return out
}

// timesSigned counts the signatures that the journal of a home says were made.
func (w *world) timesSigned(own *writer) int {
	w.Helper()
	n := 0
	for _, e := range decodeLines[struct{ Action string }](w, w.as(own, "journal", "show", "--json")) {
		if e.Action == "resign.signed" {
			n++
		}
	}
	return n
}

func idsOf(own *writer, found map[string][]string) map[string]string {
	out := map[string]string{}
	for at, list := range found {
		if strings.HasPrefix(at, own.key+" ") {
			out[at] = list[0]
		}
	}
	return out
}
