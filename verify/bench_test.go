//go:build bench && linux

package verify

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ggcrstatic "github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/reseal/reseal/internal/sandbox"
	"github.com/reseal/reseal/inventory"
)

const (
	benchImages = 10_000 // verified in process
	benchPeer   = 200    // of them, pushed to a registry and verified by cosign
	benchOthers = 500    // of each kind that has no peer
)

// TestBench verifies 10,000 stored signatures in process and the first of the
// same with the real cosign, four at a time, out of a real registry. Of the two
// kinds of signature the row has the one that compares worse.
func TestBench(t *testing.T) {
	w := must(sandbox.Start(t.Context(), sandbox.Options{}))(t)
	t.Cleanup(func() { _ = w.Close() })
	tr := must(w.TrustedRoot())(t)
	images := make([]v1.Image, benchPeer)
	for i := range images {
		images[i] = must(random.Image(512, 1))(t)
	}
	digestOf := func(i int) string {
		if i < len(images) {
			return must(images[i].Digest())(t).String()
		}
		return inventory.Digest(fmt.Append(nil, i))
	}

	peers := findPeers(t)
	var worst row
	for _, k := range []struct {
		name  string
		flags []string // of cosign
		opts  sign.BundleOptions
	}{
		{"bundle, key", []string{"--insecure-ignore-tlog=true"}, sign.BundleOptions{}},
		{"bundle, key, Rekor v2 and TSA", []string{"--use-signed-timestamps"}, sign.BundleOptions{
			TransparencyLogs: []sign.Transparency{sign.NewRekor(&sign.RekorOptions{BaseURL: w.RekorV2URL(), Timeout: time.Minute, Version: 2})},
			TimestampAuthorities: []*sign.TimestampAuthority{
				sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: w.TSAURL(), Timeout: time.Minute})},
		}},
	} {
		kp := must(sign.NewEphemeralKeypair(nil))(t)
		start := time.Now()
		set := make([]storedBundle, benchImages)
		var g errgroup.Group
		g.SetLimit(4 * runtime.GOMAXPROCS(0))
		for i := range set {
			g.Go(func() error {
				digest := digestOf(i)
				b, err := sign.Bundle(&sign.DSSEData{Data: statement(digest, inventory.SignPredicate), PayloadType: intotoPayload}, kp, k.opts)
				if err != nil {
					return err
				}
				set[i].sub = Subject{Repository: repo, Digest: digest}
				set[i].format = inventory.Bundle
				set[i].content, err = protojson.Marshal(b)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: made %d signatures in %s", k.name, len(set), time.Since(start).Round(time.Millisecond))
		v := verifier(t, tr, kp.GetPublicKey())
		ours := rate(t, v, set)
		if peers == nil {
			t.Logf("%s: ours %.0f images/s; no peer", k.name, ours)
			continue
		}
		peer := peers.rate(t, w, kp.GetPublicKey(), images, set, k.flags)
		// The middle one of three, on both sides of the peer: the machine may
		// have other work now and then.
		runs := []float64{ours, rate(t, v, set), rate(t, v, set)}
		slices.Sort(runs)
		ours = runs[1]
		t.Logf("%s: ours %.0f images/s, cosign3 %.1f images/s: %.0f times", k.name, ours, peer, ours/peer)
		if r := (row{"verify/vs-cosign3", ours, peer, "images/s", ours / peer}); worst.Name == "" || r.Ratio < worst.Ratio {
			worst = r
		}
	}
	benchOtherKinds(t)
	if peers == nil {
		t.Skip("cosign3 and registry are not built: run \"make peers\", or set RESEAL_PEERS to where they are")
	}
	worst.report(t)
}

// row is one figure beside the peer's, as bench.json has it.
type row struct {
	Name  string  `json:"name"`
	Ours  float64 `json:"ours"`
	Peer  float64 `json:"peer"`
	Unit  string  `json:"unit"`
	Ratio float64 `json:"ratio"`
}

type storedBundle struct {
	sub         Subject
	format      inventory.Format
	annotations map[string]string
	content     []byte
}

// rate verifies a set on all cores, each signature once, and returns how many
// a second.
func rate(t testing.TB, v *Verifier, set []storedBundle) float64 {
	t.Helper()
	start := time.Now()
	var next atomic.Int64
	var g errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(set) {
					return nil
				}
				if s := v.Stored(set[i].sub, set[i].format, set[i].annotations, set[i].content); !s.Verified {
					return fmt.Errorf("signature %d: %s", i, s.Why)
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return float64(len(set)) / time.Since(start).Seconds()
}

// benchOtherKinds says how fast the kinds of signature are that have no peer
// measured beside them.
func benchOtherKinds(t *testing.T) {
	vw, k := newWorld(t), newECDSA(t)
	keyed, keyless := verifier(t, vw, k.Public()), verifier(t, vw)
	at := time.Now().Add(-time.Minute)
	cert := vw.issue(t, k.Public(), true)
	for _, kind := range []struct {
		name string
		v    *Verifier
		make func() storedBundle
	}{
		{".sig layer, key", keyed, func() storedBundle {
			pl := simple(t)
			return storedBundle{format: inventory.Legacy, content: pl,
				annotations: map[string]string{"dev.cosignproject.cosign/signature": b64(signRaw(t, k, pl))}}
		}},
		{".sig layer, key, Rekor v1 and TSA", keyed, func() storedBundle {
			ann, pl := legacyLayer(t, vw, k, at)
			return storedBundle{format: inventory.Legacy, annotations: ann, content: pl}
		}},
		{".att layer, key, Rekor v1 and TSA", keyed, func() storedBundle {
			ann, env := attestationLayer(t, vw, k, statement(subject().Digest, "https://spdx.dev/Document"), at)
			return storedBundle{format: inventory.LegacyAtt, annotations: ann, content: env}
		}},
		{"bundle, keyless, Rekor v1 and TSA", keyless, func() storedBundle {
			b, cert := keylessBundle(t, vw, true)
			vw.prove(t, b, certPEM(cert), time.Now())
			return storedBundle{format: inventory.Bundle, content: raw(t, b)}
		}},
		{".sig layer, keyless, Rekor v1", keyless, func() storedBundle {
			pl := simple(t)
			sig := signRaw(t, k, pl)
			return storedBundle{format: inventory.Legacy, content: pl, annotations: map[string]string{
				"dev.cosignproject.cosign/signature": b64(sig),
				"dev.sigstore.cosign/certificate":    string(certPEM(cert)),
				"dev.sigstore.cosign/bundle": rekorAnnotation(vw.promise(t, "hashedrekord",
					hashedrekord(hashOf(pl), sig, certPEM(cert)), time.Now())),
			}}
		}},
	} {
		set := make([]storedBundle, benchOthers)
		for i := range set {
			set[i] = kind.make()
			set[i].sub = subject()
		}
		t.Logf("%s: %.0f images/s", kind.name, rate(t, kind.v, set))
	}
}

// peers is where the real programs are.
type peers struct{ cosign3, registry string }

func findPeers(t *testing.T) *peers {
	dir := os.Getenv("RESEAL_PEERS")
	if dir == "" {
		dir = filepath.Join("..", "bin", "peers")
	}
	dir = must(filepath.Abs(dir))(t)
	p := &peers{filepath.Join(dir, "cosign3"), filepath.Join(dir, "registry")}
	for _, path := range []string{p.cosign3, p.registry} {
		if _, err := os.Stat(path); err != nil {
			return nil
		}
	}
	return p
}

// rate pushes images with their signatures to a registry of their own and
// returns how many of them cosign verifies a second, four at a time.
func (p *peers) rate(t *testing.T, w *sandbox.World, pub crypto.PublicKey, images []v1.Image, set []storedBundle, flags []string) float64 {
	t.Helper()
	dir := t.TempDir()
	host := p.serve(t, dir)
	repository := must(name.NewRepository(host + "/acme/app"))(t)
	var refs bytes.Buffer
	var g errgroup.Group
	g.SetLimit(8)
	for i, img := range images {
		ref := repository.Digest(set[i].sub.Digest)
		fmt.Fprintln(&refs, ref)
		g.Go(func() error {
			if err := remote.Write(ref, img); err != nil {
				return err
			}
			layer := ggcrstatic.NewLayer(set[i].content, types.MediaType(bundleV03))
			return ociremote.WriteReferrer(ref, bundleV03, []v1.Layer{layer}, nil)
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	write := func(name string, content []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("cosign.pub", pemOf(t, pub))
	write("tr.json", must(w.TrustedRootJSON())(t))
	args := append([]string{"-P4", "-n1", p.cosign3, "verify", "--key", "cosign.pub", "--trusted-root", "tr.json", "--offline"}, flags...)
	cmd := exec.CommandContext(t.Context(), "xargs", args...)
	cmd.Dir, cmd.Stdin = dir, &refs
	cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	var out bytes.Buffer
	cmd.Stderr = &out
	start := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out.String()[:min(out.Len(), 2000)])
	}
	return float64(len(images)) / time.Since(start).Seconds()
}

// serve runs a registry until the test ends.
func (p *peers) serve(t *testing.T, dir string) (host string) {
	t.Helper()
	ln := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	host = ln.Addr().String()
	_ = ln.Close()
	config := filepath.Join(dir, "registry.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"+
		"storage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n", filepath.Join(dir, "storage"), host), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, p.registry, "serve", config)
	cmd.Env = []string{"OTEL_TRACES_EXPORTER=none"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); _ = cmd.Wait() })
	for range 100 {
		if resp, err := http.Get("http://" + host + "/v2/"); err == nil {
			_ = resp.Body.Close()
			return host
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the registry does not answer")
	return ""
}

// report adds a row to the file that "make bench" collects.
func (r row) report(t *testing.T) {
	t.Helper()
	path := os.Getenv("RESEAL_BENCH_OUT")
	if path == "" {
		return
	}
	line := must(json.Marshal(r))(t)
	f := must(os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644))(t)
	if _, err := f.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
