//go:build bench && linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/reseal/reseal/internal/sandbox"
)

const (
	benchImages = 2000 // of each format
	benchSample = 200  // of them, which the peer verifies
	benchRuns   = 3    // of which the middle one counts
)

// A row is one figure beside the peer's, as bench.json has it. Ratio says how
// many times better ours is.
type row struct {
	Name  string  `json:"name"`
	Ours  float64 `json:"ours"`
	Peer  float64 `json:"peer"`
	Unit  string  `json:"unit"`
	Ratio float64 `json:"ratio"`
}

// TestBench scans signed images in a real registry beside real cosign, and
// asserts no time. It runs last: it puts the rows of every package, which are
// in the file that RESEAL_BENCH_OUT names, into bench.json beside that file.
func TestBench(t *testing.T) {
	if isolated(t) {
		return
	}
	w := newWorld(t)
	actor := w.actor()
	var compared, repeated []row
	for _, format := range []benchFormat{
		{"legacy", "cosign2", actor.SignLegacy},
		{"bundle", "cosign3", actor.SignBundle},
	} {
		images := w.signed(format)
		var rates, rescans, requests []row
		for n := range benchRuns { // one after the other, so that both have the machine as it is
			first, second := w.scans(format, images, n)
			cosign := w.verifies(format, images)
			perImage := float64(first.requests) / benchImages
			rate := benchImages / first.seconds
			requests = append(requests, row{"scan/" + format.name + "/requests-per-image", perImage, cosign.requests, "requests/image", cosign.requests / perImage})
			rates = append(rates, row{"scan/vs-cosign", rate, cosign.rate, "images/s", rate / cosign.rate})
			rescans = append(rescans, row{"rescan/vs-scan", second.seconds, first.seconds, "s", first.seconds / second.seconds})
			fmt.Printf("bench  %s: first scan %.2f s with %d requests, second %.2f s with %d, %s -P4 %.1f images/s with %.1f requests each\n",
				format.name, first.seconds, first.requests, second.seconds, second.requests, format.cosign, cosign.rate, cosign.requests)
		}
		w.keep(middle(requests))
		compared, repeated = append(compared, middle(rates)), append(repeated, middle(rescans))
	}
	w.keep(slices.MinFunc(compared, worse))
	w.keep(slices.MinFunc(repeated, worse))
	w.plans()
	w.merge()
}

func worse(a, b row) int { return cmp.Compare(a.Ratio, b.Ratio) }

// middle returns the row of the middle ratio.
func middle(rows []row) row {
	slices.SortFunc(rows, worse)
	return rows[len(rows)/2]
}

// A benchFormat is how images are signed and who verifies them one by one.
type benchFormat struct {
	name   string
	cosign string
	sign   func(ctx context.Context, ref name.Digest, proofs sandbox.Proof) error
}

// actor returns who signs in process, as cosign would. The key is signer.pub.
func (w *world) actor() *sandbox.Actor {
	w.Helper()
	s, err := sandbox.Start(w.Context(), sandbox.Options{})
	w.check(err)
	w.Cleanup(func() { w.check(s.Close()) })
	a, err := s.NewActor("signer")
	w.check(err)
	w.write("signer.pub", string(a.PublicKeyPEM()))
	return a
}

// signed pushes images into four repositories and signs them, with a key and
// nothing else. The images differ in their manifests only.
func (w *world) signed(f benchFormat) []name.Digest {
	w.Helper()
	start := time.Now()
	layers, err := random.Image(512, 1)
	w.check(err)
	layers = mutate.MediaType(layers, types.OCIManifestSchema1)
	pusher, err := remote.NewPusher()
	w.check(err)
	images := make([]name.Digest, benchImages)
	publish := func(n int) error {
		repository, err := name.NewRepository(fmt.Sprintf("%s/%s/app-%d", w.host, f.name, n%4))
		if err != nil {
			return err
		}
		img := mutate.Annotations(layers, map[string]string{"n": fmt.Sprint(n)}).(v1.Image)
		hash, err := img.Digest()
		if err != nil {
			return err
		}
		images[n] = repository.Digest(hash.String())
		if err := pusher.Push(w.Context(), repository.Tag(fmt.Sprintf("1.%d", n)), img); err != nil {
			return err
		}
		return f.sign(w.Context(), images[n], sandbox.NoProof)
	}
	w.parallel(benchImages, publish)
	fmt.Printf("bench  %s: %d images pushed and signed in %.1f s\n", f.name, benchImages, time.Since(start).Seconds())
	return images
}

// A measure is what a scan cost.
type measure struct {
	seconds  float64
	requests int
}

// scans scans all images into a new home, and once more.
func (w *world) scans(f benchFormat, images []name.Digest, n int) (first, second measure) {
	w.Helper()
	repositories := map[string]bool{}
	for _, ref := range images {
		repositories[ref.Context().Name()] = true
	}
	args := append([]string{"scan", "--json"}, slices.Sorted(maps.Keys(repositories))...)
	home := fmt.Sprintf("%s-%d", f.name, n)
	scan := func() measure {
		before, start := len(w.requests()), time.Now()
		r := w.run("reseal", append([]string{"--home", home, "--actor", "bench"}, args...)...)
		m := measure{seconds: time.Since(start).Seconds()}
		got := decode[struct{ Artifacts, Signatures, Verified int }](w, r)
		if got.Artifacts != benchImages || got.Verified != benchImages {
			w.Fatalf("%s: expected %d images with as many verified signatures: %+v", f.name, benchImages, got)
		}
		m.requests = len(w.requests()) - before
		return m
	}
	w.ok(w.run("reseal", "--home", home, "--actor", "bench", "init", "--quorum", "1", "--approver", "alice=alice.pub", "--approver", "bob=bob.pub",
		"--signer", "signer=signer.pub", "--trusted-root", "trusted_root.json"))
	first, second = scan(), scan()
	return first, second
}

// A peerMeasure is what verifying images one by one costs.
type peerMeasure struct {
	rate     float64 // images a second
	requests float64 // per image
}

// verifies runs "cosign verify" for each image of a sample, four at a time.
func (w *world) verifies(f benchFormat, images []name.Digest) peerMeasure {
	w.Helper()
	var list strings.Builder
	for n := 0; n < len(images); n += len(images) / benchSample {
		fmt.Fprintln(&list, images[n])
	}
	count := strings.Count(list.String(), "\n")
	xargs, err := exec.LookPath("xargs")
	w.check(err)
	args := []string{xargs, "-n1", "-P4", binary(w.T, f.cosign), "verify", "--key", "signer.pub", "--insecure-ignore-tlog"}
	if f.cosign == "cosign3" {
		args = append(args, "--trusted-root", "trusted_root.json")
	}
	var output bytes.Buffer
	cmd := w.command(f.cosign) // for its directory and environment
	cmd.Path, cmd.Args = xargs, args
	cmd.Stdin, cmd.Stderr = strings.NewReader(list.String()), &output
	before, start := len(w.requests()), time.Now()
	if err := cmd.Run(); err != nil {
		w.Fatalf("%s: %v: %s", strings.Join(args, " "), err, output.String())
	}
	seconds := time.Since(start).Seconds()
	return peerMeasure{float64(count) / seconds, float64(len(w.requests())-before) / float64(count)}
}

// keep appends a row to those of the other packages.
func (w *world) keep(r row) {
	w.Helper()
	line, err := json.Marshal(r)
	w.check(err)
	fmt.Printf("bench  %s\n", line)
	path := os.Getenv("RESEAL_BENCH_OUT")
	if path == "" {
		return
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	w.check(err)
	_, err = out.Write(append(line, '\n'))
	w.check(errors.Join(err, out.Close()))
}

// merge makes bench.json of the rows and prints them.
func (w *world) merge() {
	w.Helper()
	path := os.Getenv("RESEAL_BENCH_OUT")
	if path == "" {
		return
	}
	content, err := os.ReadFile(path)
	w.check(err)
	rows := []row{}
	for dec := json.NewDecoder(bytes.NewReader(content)); dec.More(); {
		var r row
		w.check(dec.Decode(&r))
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(a.Name, b.Name) })
	content, err = json.MarshalIndent(rows, "", "  ")
	w.check(err)
	w.check(os.WriteFile(filepath.Join(filepath.Dir(path), "bench.json"), append(content, '\n'), 0o644))
	table := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tOURS\tPEER\tUNIT\tRATIO")
	for _, r := range rows {
		fmt.Fprintf(table, "%s\t%.4g\t%.4g\t%s\t%.2f\n", r.Name, r.Ours, r.Peer, r.Unit, r.Ratio)
	}
	w.check(table.Flush())
}
