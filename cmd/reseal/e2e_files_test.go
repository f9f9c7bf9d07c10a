//go:build e2e && linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/reseal/reseal/internal/sandbox"
)

// What a consumer reads of a file.
const (
	readsFile      = "file bundle"
	readsSignature = "file .sig"
	readsFileClaim = "file attestation"
)

// fileGroup is the files that one signer re-signs with one set of services, in a
// home of its own.
type fileGroup struct {
	*world
	holder
	services string
	with     []string // flags of "resign" for the services
	plan     string
}

func (g *fileGroup) id() string {
	return "files-" + (&group{holder: g.holder, services: g.services}).id()
}

func (g *fileGroup) reseal(args ...string) result {
	return g.world.with(g.needs...).run(g.binary, append([]string{"--home", "home-" + g.id(), "--actor", "carol"}, args...)...)
}

// TestResignFiles re-signs files with every kind of signer and every set of
// services, and lets real cosign judge what it can read. It is the row of
// TestResign that needs no registry, and prints its own table.
func TestResignFiles(t *testing.T) {
	token := installToken(t) // while there is a network
	if isolated(t) {
		return
	}
	w := newWorld(t)
	step := w.steps()
	stand, err := sandbox.Start(t.Context(), sandbox.Options{})
	w.check(err)
	t.Cleanup(func() { stand.Close() }) //nolint:errcheck // the test is over
	w.write("rekor1.pub", w.get(stand.RekorURL()+"/api/v1/log/publicKey"))
	s := w.sigstore("--rekor", "url="+stand.RekorURL()+",public-key=rekor1.pub,start-time=2020-01-01T00:00:00Z")
	holders := []holder{w.keyHolder(), w.keylessHolder(s), w.transitHolder()}
	if token {
		holders = append(holders, w.tokenHolder())
	} else {
		fmt.Println("e2e  SoftHSM is not installed: no key in a token")
	}
	step("registry, timestamp authority, Fulcio, CT log, Rekor v2, a stand-in for Vault")

	w.signFiles()
	step("sign %d files with the old key, in each way", perCell)
	from := w.theft()
	var groups []*fileGroup
	for _, h := range holders {
		for _, services := range []string{byNothing, byTSA, byRekorV2} {
			with := map[string][]string{byTSA: {"--timestamp-server-url", w.tsa}, byRekorV2: {"--signing-config", timesAndV2}}[services]
			if h.public != "" || services != byNothing { // keyless without a proof of time is refused
				groups = append(groups, &fileGroup{world: w, holder: h, services: services, with: with})
			}
		}
	}
	w.parallel(len(groups), func(n int) error { return groups[n].decide(from) })
	step("init, import, incident, plan, approve in %d homes", len(groups))
	for _, g := range groups {
		g.resigned()
	}
	step("re-sign")
	w.judgeFiles(groups)
	step("real consumers")
}

func fileName(n int) string { return fmt.Sprintf("dist/app-%d.tar.gz", n) }

// signFiles has real cosign sign files: in a bundle, as a signature of its own,
// and an SBOM about each.
func (w *world) signFiles() {
	w.Helper()
	w.check(os.Mkdir(w.path("dist"), 0o700))
	w.parallel(perCell, func(n int) error {
		file := fileName(n)
		if err := os.WriteFile(w.path(file), []byte(fmt.Sprintf("archive %d", n)), 0o600); err != nil {
			return err
		}
		by := []string{"--key", "old.key", "--yes", "--trusted-root", "trusted_root.json", "--signing-config", timestamps}
		return errors.Join(
			w.cosign3(append(append([]string{"sign-blob"}, by...), "--bundle", file+".sigstore.json", file)...).failure(),
			w.cosign2("sign-blob", "--key", "old.key", "--yes", "--tlog-upload=false", "--timestamp-server-url", w.tsa,
				"--rfc3161-timestamp", file+".rfc3161.json", "--output-signature", file+".sig", file).failure(),
			w.cosign3(append(append([]string{"attest-blob"}, by...), "--type", "spdxjson", "--predicate", "sbom.json", "--bundle", file+".sbom.sigstore.json", file)...).failure())
	})
}

// decide makes a home that knows the files, plans and approves.
func (g *fileGroup) decide(from time.Time) error {
	steps := [][]string{append([]string{"init", "--quorum", "1", "--approver", "alice=alice.pub", "--approver", "bob=bob.pub",
		"--signer", "release=old.pub", "--trusted-root", "trusted_root.json"}, g.enrol...)}
	if g.enrolBy != nil {
		steps = append(steps, append([]string{"signer", "add", "next", "--reason", "e2e"}, g.enrolBy...))
	}
	steps = append(steps, []string{"import", "bundle", "dist"}, []string{"import", "blob", "dist"},
		[]string{"incident", "open", "INC-1", "--signer", "release", "--from", from.Format(time.RFC3339), "--reason", "e2e"})
	for _, args := range steps {
		if err := g.reseal(args...).failure(); err != nil {
			return err
		}
	}
	r := g.reseal("incident", "plan", "INC-1", "--new-signer", "next", "--skew", "1s", "--home-repository", "file", "--json")
	if err := r.failure(); err != nil {
		return err
	}
	g.plan = decode[struct{ Plan string }](g.world, r).Plan
	for _, who := range []string{"alice", "bob"} {
		if err := g.reseal("incident", "approve", g.plan, "--as", who, "--key", who+".key").failure(); err != nil {
			return err
		}
	}
	return os.Mkdir(g.path(g.id()), 0o700)
}

// resigned re-signs everything, and once more, which signs nothing. Where the
// signer can sign digests, the files are not at hand at first.
func (g *fileGroup) resigned() {
	g.Helper()
	made := 3 * perCell
	resign := func(with ...string) result {
		return g.reseal(slices.Concat([]string{"resign", g.plan, "--apply", "--json", "--files-out", g.id()}, g.flags, g.with, with)...)
	}
	run := func(with ...string) resigned {
		g.Helper()
		return decode[resigned](g.world, resign(with...))
	}
	missing := g.exits(resign(), 1)
	missing.code = 0 // for decode
	g.equal(g.id()+": without the files", decode[resigned](g.world, missing).counts(), resigned{Planned: made, Failed: made}.counts())
	g.equal(g.id()+": re-signed", run("--files", "dist").counts(), resigned{Planned: made, Signed: made}.counts())
	g.equal(g.id()+": re-signed again", run("--files", "dist").counts(), resigned{Planned: made, Already: made}.counts())
	if g.holder.name == "key" || g.holder.name == "hashivault" {
		// Under names of their own the same files are signed by digest: the bytes
		// that were persisted are put there.
		g.equal(g.id()+": by digest", run("--files-by-digest").counts(), resigned{Planned: made, Signed: made}.counts())
	}
}

// fileBundles returns the names of a file's new bundles.
func (g *fileGroup) bundles(n int) (signed, claim string, err error) {
	base := g.path(g.id(), filepath.Base(fileName(n)))
	found, err := filepath.Glob(base + ".*.sigstore.json")
	if err != nil || len(found) != 1 {
		return "", "", fmt.Errorf("%s: expected the bundle of one claim, there are %v, %v", base, found, err)
	}
	return base + ".sigstore.json", found[0], nil
}

// ask has a cosign verify one file, as strictly as the services allow.
func (g *fileGroup) ask(cosign, what string, who []string, n int, file string) (result, error) {
	signed, claim, err := g.bundles(n)
	if err != nil {
		return result{}, err
	}
	base := strings.TrimSuffix(signed, ".sigstore.json")
	args, w := append([]string{"verify-blob"}, who...), g.world
	if what == readsSignature { // its files hold no entry of a log
		args = append(args, "--signature", base+".sig", "--insecure-ignore-tlog")
		w = w.with("SIGSTORE_CT_LOG_PUBLIC_KEY_FILE=ct.pub")
		if g.services != byNothing {
			args = append(args, "--rfc3161-timestamp", base+".rfc3161.json", "--timestamp-certificate-chain", "tsa.pem")
		}
		if g.public == "" {
			args = append(args, "--certificate", base+".pem", "--ca-roots", "fulcio.pem")
		}
		return w.run(cosign, append(args, file)...), nil
	}
	bundle := signed
	if what == readsFileClaim {
		args = append([]string{"verify-blob-attestation", "--type", "spdxjson"}, who...)
		bundle = claim
	}
	args = append(args, "--bundle", bundle, "--trusted-root", "trusted_root.json")
	if g.services != byRekorV2 {
		args = append(args, "--insecure-ignore-tlog")
	}
	if g.services != byNothing {
		args = append(args, "--use-signed-timestamps")
	}
	return w.run(cosign, append(args, file)...), nil
}

// judgeFiles asks real cosign about every file of every group, and whether it
// refuses another signer and another file.
func (w *world) judgeFiles(groups []*fileGroup) {
	w.Helper()
	type question struct {
		*fileGroup
		cosign, what string
	}
	var all []question
	for _, g := range groups {
		for _, cosign := range []string{"cosign2", "cosign3"} {
			for _, what := range []string{readsFile, readsFileClaim, readsSignature} {
				all = append(all, question{g, cosign, what})
			}
		}
	}
	var mu sync.Mutex
	asked, said := 0, map[string]tally{}
	w.parallel(len(all), func(n int) error {
		q := all[n]
		var errs []error
		ask := func(who []string, n int, file string, accepted bool) {
			r, err := q.ask(q.cosign, q.what, who, n, file)
			if err == nil && (r.code < 0 || (r.code == 0) != accepted) {
				err = fmt.Errorf("%s, %s, %s: expected accepted=%t of: %s", q.id(), q.what, q.cosign, accepted, r)
			}
			errs = append(errs, err)
		}
		for n := range perCell {
			ask(q.accept, n, fileName(n), true)
		}
		ask(q.refuse, 0, fileName(0), false)
		ask(q.accept, 0, fileName(1), false)
		err := errors.Join(errs...)
		mu.Lock()
		defer mu.Unlock()
		asked += perCell + 2
		key := strings.Join([]string{q.cosign, q.what, q.services, q.holder.name}, "\t")
		sum := said[key]
		if err == nil {
			sum.accepted += perCell
		}
		said[key] = tally{sum.accepted, sum.of + perCell}
		return err
	})
	fmt.Printf("e2e  %d judgements of files\n", asked)
	for _, line := range slices.Sorted(func(yield func(string) bool) {
		for key, got := range said {
			if !yield(fmt.Sprintf("e2e  %s\t%d/%d", key, got.accepted, got.of)) {
				return
			}
		}
	}) {
		fmt.Println(line)
	}
}
