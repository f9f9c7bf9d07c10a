//go:build bench && linux

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/jackc/pgx/v5"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/signer"
)

const (
	resignImages  = 5000 // of ours, in one run
	resignSample  = 48   // images that the peer signs in one run
	resignLogged  = 1000 // of ours, with a log and timestamps
	resignMany    = 100_000
	resignFew     = 1000
	resignSlow    = 1600 // over a line with latency
	resignLatency = 50 * time.Millisecond
	resignWriters = 8 // requests that the bare client has in flight, and reseal artifacts
)

// TestBenchResign re-signs by an approved plan in a real registry, beside real
// cosign signing images one by one and beside a client that does nothing but send
// the requests. What is re-signed has no signature in the registry any more, so
// that nothing was signed there before.
func TestBenchResign(t *testing.T) {
	if isolated(t) {
		return
	}
	w := newWorld(t)
	w.sigstore()
	var cpu []row
	for _, f := range []resignFormat{
		{"legacy", inventory.Legacy, "cosign2", []string{"--tlog-upload=false"}},
		{"bundle", inventory.Bundle, "cosign3", []string{"--signing-config", noServices, "--trusted-root", "trusted_root.json"}},
	} {
		var rates, ceilings, requests, used []row
		for n := range benchRuns { // one after the other, so that all have the machine as it is
			ours := w.resigns(f, fmt.Sprintf("%s-%d", f.name, n), resignImages)
			peer := w.signs(f, fmt.Sprintf("peer-%s-%d", f.name, n), resignSample)
			bare := w.bareRequests(f, fmt.Sprintf("bare-%s-%d", f.name, n), resignImages)
			rates = append(rates, row{"resign/" + f.name + "/vs-" + f.cosign, ours.rate, peer.rate, "images/s", ours.rate / peer.rate})
			ceilings = append(ceilings, row{"resign/" + f.name + "/vs-ceiling", ours.rate, bare, "images/s", ours.rate / bare})
			requests = append(requests, row{"resign/" + f.name + "/requests-per-image", ours.requests, peer.requests, "requests/image", peer.requests / ours.requests})
			used = append(used, row{"resign/cpu-vs-cosign", 1000 * ours.cpu, 1000 * peer.cpu, "ms/image", peer.cpu / ours.cpu})
			fmt.Printf("bench  %s: %.0f images/s with %.3f requests and %.2f ms of CPU each; %s -P4 %.2f images/s with %.1f and %.0f ms; bare client %.0f images/s\n",
				f.name, ours.rate, ours.requests, 1000*ours.cpu, f.cosign, peer.rate, peer.requests, 1000*peer.cpu, bare)
		}
		w.keep(middle(rates))
		w.keep(middle(ceilings))
		w.keep(middle(requests))
		cpu = append(cpu, middle(used))
	}
	if worse(cpu[0], cpu[1]) > 0 {
		cpu[0] = cpu[1]
	}
	w.keep(cpu[0])

	f := resignFormat{"logged", inventory.Bundle, "cosign3", []string{"--signing-config", timesAndV2, "--trusted-root", "trusted_root.json"}}
	ours := w.resigns(f, "logged", resignLogged, "--signing-config", timesAndV2)
	peer := w.signs(f, "peer-logged", resignSample)
	w.keep(row{"resign/rekor2-tsa/vs-cosign3", ours.rate, peer.rate, "images/s", ours.rate / peer.rate})

	one, two := w.workers(1), w.workers(2)
	w.keep(row{"resign/workers-2-vs-1", two, one, "images/s", two / one})

	few := w.resigns(resignFormat{name: "few", format: inventory.Legacy}, "few", resignFew)
	images := resignMany
	if text := os.Getenv("RESEAL_BENCH_RESIGN"); text != "" {
		var err error
		images, err = strconv.Atoi(text)
		w.check(err)
	}
	many := w.resigns(resignFormat{name: "many", format: inventory.Legacy}, "many", images)
	fmt.Printf("bench  anonymous memory: %.0f MiB at %d images, %.0f MiB at %d (%.0f images/s)\n", few.memory, resignFew, many.memory, images, many.rate)
	w.keep(row{"resign/memory-100k-vs-1k", many.memory, few.memory, "MiB", few.memory / many.memory})
}

// A resignFormat is what is signed, and who signs it one by one.
type resignFormat struct {
	name   string
	format inventory.Format
	cosign string
	flags  []string
}

// A resignCost is what signing cost.
type resignCost struct {
	rate, requests, cpu float64 // images a second, and of an image
	memory              float64 // the most anonymous memory, in MiB
}

// resigns makes a home that knows images signed by a key under an incident, and
// re-signs them.
func (w *world) resigns(f resignFormat, home string, images int, flags ...string) (c resignCost) {
	w.Helper()
	reseal := func(args ...string) result {
		return w.run("reseal", append([]string{"--home", home, "--actor", "bench"}, args...)...)
	}
	plan := w.prepare(reseal, w.path(home, "reseal.db"), w.host+"/"+home, f.format, images)
	before := len(w.requests())
	m := w.measured("reseal", append([]string{"--home", home, "--actor", "bench", "resign", plan, "--key", "new.key", "--apply", "--json",
		"--parallel", strconv.Itoa(resignWriters)}, flags...)...)
	got := m.result(w)
	if got.Planned != images || got.Signed != images {
		w.Fatalf("%s: expected %d images to be re-signed: %+v", f.name, images, got)
	}
	c.requests = float64(len(w.requests())-before) / float64(images)
	c.rate, c.memory = float64(images)/m.seconds, m.memory
	c.cpu = m.cpu / float64(images)
	return c
}

// prepare makes a home that knows images signed by a key under an incident, and
// an approved plan to re-sign them.
func (w *world) prepare(reseal func(...string) result, database, repository string, f inventory.Format, images int) (plan string) {
	w.Helper()
	w.ok(reseal("init", "--quorum", "1", "--approver", "alice=alice.pub", "--approver", "bob=bob.pub",
		"--signer", "release=old.pub", "--standby", "next=new.pub", "--trusted-root", "trusted_root.json"))
	_, release, err := signer.ParsePublicKey([]byte(w.read("old.pub")))
	w.check(err)
	w.check(fillSigned(w.Context(), database, repository, f, release, images))
	w.ok(reseal("incident", "open", "INC-1", "--signer", "release", "--from", generatedSince.AddDate(1, 0, 0).Format(time.RFC3339), "--reason", "bench"))
	plan = decode[struct{ Plan string }](w, reseal("incident", "plan", "INC-1", "--new-signer", "next", "--max-artifacts", "0", "--max-share", "0", "--json")).Plan
	for _, who := range []string{"alice", "bob"} {
		w.ok(reseal("incident", "approve", plan, "--as", who, "--key", who+".key"))
	}
	return plan
}

// result reads what re-signing printed.
func (f footprint) result(w *world) (r struct{ Planned, Signed int }) {
	w.Helper()
	w.check(json.Unmarshal(f.stdout, &r))
	return r
}

// fillSigned puts images with one proven signature each into a database. The
// images themselves are nowhere: re-signing does not read them.
func fillSigned(ctx context.Context, file, repository string, f inventory.Format, release signer.Identity, images int) (err error) {
	s, err := store.Open(ctx, file, time.Now)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	log := inventory.Authority{Role: inventory.RoleLog, ID: strings.Repeat("10", 32)}
	for n := 0; n < images; n += 1000 {
		if err := s.Update(ctx, journal.Author{Actor: "bench", Reason: "generated"}, func(tx *store.Tx) error {
			for i := n; i < min(n+1000, images); i++ {
				ref, err := name.NewDigest(fmt.Sprintf("%s/app-%d@%s", repository, i*4/images, inventory.Digest(fmt.Append(nil, "image", i))))
				if err != nil {
					return err
				}
				content, err := oldContent(ref, f)
				if err != nil {
					return err
				}
				digest, err := tx.PutVault(ctx, content)
				if err != nil {
					return err
				}
				a := inventory.Artifact{Repository: ref.Context().Name(), Digest: ref.DigestStr(), MediaType: string(types.OCIManifestSchema1), Size: 1200}
				sig := inventory.Signature{Repository: a.Repository, Digest: a.Digest, Format: f, Manifest: inventory.Digest(fmt.Append(nil, "manifest", i)),
					Content: digest, PredicateType: inventory.SignPredicate, PayloadDigest: digest, Names: a.Repository, Signer: release, Verified: true,
					Bounds: []inventory.Bound{{Side: inventory.Upper, Time: generatedSince.Add(time.Duration(i) * time.Second), Authority: log, Verified: true}}}
				sig.ID = inventory.SignatureID(a.Repository, a.Digest, f, release, digest, []byte("signature"))
				if err := errors.Join(tx.PutArtifact(ctx, a), tx.PutSignature(ctx, sig)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// oldContent is what an old signature holds.
func oldContent(ref name.Digest, f inventory.Format) ([]byte, error) {
	if f == inventory.Legacy {
		return payload.Cosign{Image: ref}.MarshalJSON()
	}
	statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":%q,"predicate":{}}`,
		strings.TrimPrefix(ref.DigestStr(), "sha256:"), inventory.SignPredicate)
	return fmt.Appendf(nil, `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"old"}},
"dsseEnvelope":{"payload":%q,"payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"c2lnbmF0dXJl"}]}}`, base64.StdEncoding.EncodeToString([]byte(statement))), nil
}

// workers leaves a plan on PostgreSQL to some workers, which reach the registry
// over a line that is 50 ms long, and returns how many images a second they sign.
func (w *world) workers(n int) float64 {
	w.Helper()
	target := &url.URL{Scheme: "http", Host: w.host}
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(target)
		p.Out.Host = p.In.Host // uploads go on at the address that was asked
	}, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	slow := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		time.Sleep(resignLatency)
		proxy.ServeHTTP(rw, r)
	}))
	defer slow.Close()
	database, ok := w.database()
	if !ok {
		w.Fatal("PostgreSQL is not installed: apt-get install postgresql")
	}
	home := fmt.Sprintf("workers-%d", n)
	reseal := func(args ...string) result {
		return w.run("reseal", append([]string{"--home", home, "--db", database, "--actor", "bench"}, args...)...)
	}
	plan := w.prepare(reseal, database, strings.TrimPrefix(slow.URL, "http://")+"/"+home, inventory.Legacy, resignSlow)
	w.ok(reseal("resign", plan, "--workers", "--apply"))
	start := time.Now()
	var workers []*exec.Cmd
	for range n {
		cmd := w.command("reseal", "--home", home, "--db", database, "--actor", "bench", "worker", "--key", "new.key")
		w.check(cmd.Start())
		workers = append(workers, cmd)
	}
	for {
		s := decode[struct{ Planned, Signed, Failed int }](w, reseal("resign", plan, "--status", "--json"))
		if s.Signed == resignSlow {
			break
		}
		if s.Failed > 0 || time.Since(start) > patience {
			w.Fatalf("%d workers: %+v", n, s)
		}
		time.Sleep(time.Second) // a look takes the machine a fifth of a second
	}
	rate := resignSlow / time.Since(start).Seconds()
	for _, cmd := range workers {
		w.check(cmd.Process.Signal(syscall.SIGTERM))
		w.check(cmd.Wait())
	}
	return rate
}

// database starts PostgreSQL once and makes a database in it.
func (w *world) database() (location string, ok bool) {
	w.Helper()
	if w.databases == 0 {
		if w.server, ok = w.postgres(); !ok {
			return "", false
		}
	}
	w.databases++
	made := fmt.Sprintf("bench%d", w.databases)
	c, err := pgx.Connect(w.Context(), w.server)
	w.check(err)
	_, err = c.Exec(w.Context(), "CREATE DATABASE "+made+" ENCODING 'UTF8' TEMPLATE template0")
	w.check(errors.Join(err, c.Close(w.Context())))
	return strings.Replace(w.server, "/postgres?", "/"+made+"?", 1), true
}

// signs pushes images and lets real cosign sign them, four at a time.
func (w *world) signs(f resignFormat, path string, images int) (c resignCost) {
	w.Helper()
	layers, err := random.Image(512, 1)
	w.check(err)
	layers = mutate.MediaType(layers, types.OCIManifestSchema1)
	pusher, err := remote.NewPusher()
	w.check(err)
	var list strings.Builder
	for n := range images {
		repository, err := name.NewRepository(w.host + "/" + path)
		w.check(err)
		img := mutate.Annotations(layers, map[string]string{"n": fmt.Sprint(n)}).(v1.Image)
		hash, err := img.Digest()
		w.check(err)
		w.check(pusher.Push(w.Context(), repository.Tag(fmt.Sprint(n)), img))
		fmt.Fprintln(&list, repository.Digest(hash.String()))
	}
	xargs, err := exec.LookPath("xargs")
	w.check(err)
	cmd := w.command(f.cosign) // for its directory and environment
	cmd.Path = xargs
	cmd.Args = append([]string{xargs, "-n1", "-P4", binary(w.T, f.cosign), "sign", "--yes", "--key", "new.key"}, f.flags...)
	var output bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(list.String()), &output
	before, start := len(w.requests()), time.Now()
	if err := cmd.Run(); err != nil {
		w.Fatalf("%s: %v: %s", strings.Join(cmd.Args, " "), err, output.String())
	}
	seconds := time.Since(start).Seconds()
	return resignCost{rate: float64(images) / seconds, requests: float64(len(w.requests())-before) / float64(images),
		cpu: (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds() / float64(images)}
}

// bareRequests sends the requests that no client of the protocol can do without,
// with contents of the same size, and returns how many images a second that is.
// It looks at what is there before it writes, and reads back what was written.
func (w *world) bareRequests(f resignFormat, path string, images int) float64 {
	w.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: resignWriters}}
	send := func(method, at, mediaType string, body []byte, want int) (*http.Response, []byte, error) {
		req, err := http.NewRequestWithContext(w.Context(), method, at, bytes.NewReader(body))
		if err != nil {
			return nil, nil, err
		}
		if mediaType != "" {
			req.Header.Set("Content-Type", mediaType)
		}
		if method == http.MethodGet { // else the registry says that it has no such thing
			req.Header.Set("Accept", string(types.OCIManifestSchema1)+", "+string(types.OCIImageIndex))
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, nil, err
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != want {
			err = fmt.Errorf("%s %s: %s", method, at, resp.Status)
		}
		return resp, got, err
	}
	put := func(base string, blob []byte) error {
		resp, _, err := send(http.MethodPost, base+"/blobs/uploads/", "", nil, http.StatusAccepted)
		if err != nil {
			return err
		}
		at, err := resp.Request.URL.Parse(resp.Header.Get("Location"))
		if err != nil {
			return err
		}
		q := at.Query()
		q.Set("digest", inventory.Digest(blob))
		at.RawQuery = q.Encode()
		_, _, err = send(http.MethodPut, at.String(), "application/octet-stream", blob, http.StatusCreated)
		return err
	}
	// tagged looks at a tag, lets it be written, and reads it back.
	tagged := func(tag, mediaType string, content []byte, before func() error) error {
		if _, _, err := send(http.MethodGet, tag, "", nil, http.StatusNotFound); err != nil {
			return err
		}
		if err := before(); err != nil {
			return err
		}
		if _, _, err := send(http.MethodPut, tag, mediaType, content, http.StatusCreated); err != nil {
			return err
		}
		_, got, err := send(http.MethodGet, tag, "", nil, http.StatusOK)
		if err == nil && !bytes.Equal(got, content) {
			err = fmt.Errorf("%s is not what was written", tag)
		}
		return err
	}
	const bundle, notes = "application/vnd.dev.sigstore.bundle.v0.3+json",
		`"annotations":{"dev.sigstore.bundle.content":"dsse-envelope","dev.sigstore.bundle.predicateType":"https://sigstore.dev/cosign/sign/v1"}`
	descriptor := func(mediaType string, content []byte, more string) string {
		return fmt.Sprintf(`{"mediaType":%q,"size":%d,"digest":%q%s}`, mediaType, len(content), inventory.Digest(content), more)
	}
	config := []byte("{}")
	if f.format == inventory.Legacy {
		config = fmt.Appendf(nil, "%-113s", "{}")
	}
	one := func(n int) error {
		base := (&url.URL{Scheme: "http", Host: w.host, Path: fmt.Sprintf("/v2/%s/app-%d", path, n*4/images)}).String()
		hex := strings.TrimPrefix(inventory.Digest(fmt.Append(nil, base, n)), "sha256:") // new to the registry, which keeps equal contents once
		if f.format == inventory.Legacy {
			blob := fmt.Appendf(nil, "%-249s", hex)
			manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, types.OCIManifestSchema1, descriptor(string(types.OCIConfigJSON), config, ""),
				descriptor("application/vnd.dev.cosign.simplesigning.v1+json", blob, fmt.Sprintf(`,"annotations":{"dev.cosignproject.cosign/signature":"%096d"}`, n)))
			return tagged(base+"/manifests/sha256-"+hex+".sig", string(types.OCIManifestSchema1), manifest, func() error { return put(base, blob) })
		}
		blob := fmt.Appendf(nil, "%-635s", hex)
		manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":%q,"config":%s,"layers":[%s],"subject":{"mediaType":%q,"size":1200,"digest":"sha256:%s"},%s}`,
			types.OCIManifestSchema1, bundle, descriptor("application/vnd.oci.empty.v1+json", config, ""), descriptor(bundle, blob, ""), types.OCIManifestSchema1, hex, notes)
		index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, types.OCIImageIndex,
			descriptor(string(types.OCIManifestSchema1), manifest, fmt.Sprintf(`,"artifactType":%q,%s`, bundle, notes)))
		return tagged(base+"/manifests/sha256-"+hex, string(types.OCIImageIndex), index, func() error {
			if err := put(base, blob); err != nil {
				return err
			}
			_, _, err := send(http.MethodPut, base+"/manifests/"+inventory.Digest(manifest), string(types.OCIManifestSchema1), manifest, http.StatusCreated)
			return err
		})
	}
	for n := range 4 {
		w.check(put(fmt.Sprintf("http://%s/v2/%s/app-%d", w.host, path, n), config))
	}
	var next atomic.Int64
	start := time.Now()
	errs := make(chan error, resignWriters)
	for range resignWriters {
		go func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= images {
					errs <- nil
					return
				}
				if err := one(n); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	for range resignWriters {
		w.check(<-errs)
	}
	return float64(images) / time.Since(start).Seconds()
}
