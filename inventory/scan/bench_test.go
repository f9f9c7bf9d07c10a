//go:build bench && linux

package scan

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What tells a process that it is to scan, and what.
const (
	childHost = "RESEAL_BENCH_CHILD_HOST"
	childKey  = "RESEAL_BENCH_CHILD_KEY"
)

// TestBench measures the memory that a scan takes, with a generated registry in
// another process: of RESEAL_BENCH_ARTIFACTS artifacts, a million by default,
// and of a hundredth of them. Memory is anonymous memory (RssAnon) at its
// highest.
func TestBench(t *testing.T) {
	if os.Getenv(childHost) != "" {
		benchChild(t)
		return
	}
	n := 1_000_000
	if s := os.Getenv("RESEAL_BENCH_ARTIFACTS"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		must(t, err)
	}
	few, many := benchMemory(t, n/100), benchMemory(t, n)
	row := struct {
		Name  string  `json:"name"`
		Ours  float64 `json:"ours"`
		Peer  float64 `json:"peer"`
		Unit  string  `json:"unit"`
		Ratio float64 `json:"ratio"`
	}{"inventory/memory-1m-vs-10k", many, few, "MB", few / many}
	raw, err := json.Marshal(row)
	must(t, err)
	fmt.Printf("bench  memory of a scan of %d artifacts: %.1f MB, of %d: %.1f MB\n", n, many, n/100, few)
	if file := os.Getenv("RESEAL_BENCH_OUT"); file != "" {
		f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		must(t, err)
		_, err = f.Write(append(raw, '\n'))
		must(t, err)
		must(t, f.Close())
	}
}

// benchMemory returns the most memory a scan of n artifacts took, in MB.
func benchMemory(t *testing.T, n int) float64 {
	t.Helper()
	g := newGenerated(t, n)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &http.Server{Handler: g, ReadHeaderTimeout: time.Minute}
	go s.Serve(l)
	defer s.Close()
	der, err := x509.MarshalPKIXPublicKey(g.key.Public())
	must(t, err)
	cmd := exec.Command(os.Args[0], "-test.run=^TestBench$", "-test.v", "-test.timeout=2h")
	cmd.Env = append(os.Environ(), childHost+"="+l.Addr().String(), childKey+"="+base64.StdEncoding.EncodeToString(der))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	start := time.Now()
	must(t, cmd.Start())
	peak := 0.0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 3 && fields[0] == "peak" {
			kib, err := strconv.ParseFloat(fields[1], 64)
			must(t, err)
			peak = kib * 1024 / 1e6
			if fields[2] != strconv.Itoa(n) {
				t.Errorf("%s signatures are verified, want %d", fields[2], n)
			}
		}
	}
	must(t, cmd.Wait())
	fmt.Printf("bench  scan of %d artifacts: %.1f s\n", n, time.Since(start).Seconds())
	return peak
}

// benchChild scans and tells how much memory that took, and what it found.
func benchChild(t *testing.T) {
	der, err := base64.StdEncoding.DecodeString(os.Getenv(childKey))
	must(t, err)
	pub, err := x509.ParsePKIXPublicKey(der)
	must(t, err)
	g := &generated{key: &ecdsa.PrivateKey{PublicKey: *pub.(*ecdsa.PublicKey)}}
	done, peak := make(chan struct{}), make(chan int)
	go func() {
		most := 0
		for {
			select {
			case <-done:
				peak <- max(most, anonymous(t))
				return
			case <-time.After(20 * time.Millisecond):
				most = max(most, anonymous(t))
			}
		}
	}()
	r := g.scan(t.Context(), t, os.Getenv(childHost), nil, nil)
	close(done)
	fmt.Printf("peak %d %d\n", <-peak, r.Verified)
}

// anonymous returns the anonymous memory of this process, in KiB.
func anonymous(t *testing.T) int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "RssAnon:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Error(err)
			}
			return n
		}
	}
	t.Error("there is no RssAnon in /proc/self/status")
	return 0
}
