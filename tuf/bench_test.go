//go:build bench

package tuf

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const (
	benchFew, benchMany = 1_000, 100_000 // targets
	benchBits           = 8              // of bins
	benchRuns           = 15
)

// TestBench publishes one changed target in a repository of 100,000 targets and in one of 1,000, laid out alike: 256
// bins by hash, which are chosen once, when the role is made. One change reads, signs and writes one bin, of four
// hundred targets instead of four, and the snapshot, which lists the bins and not the targets. Beside them it logs what
// it takes with 1,000 targets in no more bins than they need.
func TestBench(t *testing.T) {
	few, many, small := benchRepository(t, benchFew, benchBits), benchRepository(t, benchMany, benchBits), benchRepository(t, benchFew, 5)
	var a, b, c []time.Duration
	for n := range benchRuns { // in turn: the machine may have other work now and then
		a = append(a, few.publishOne(t, n))
		b = append(b, many.publishOne(t, n))
		c = append(c, small.publishOne(t, n))
	}
	median := func(d []time.Duration) float64 { slices.Sort(d); return d[benchRuns/2].Seconds() }
	ours, peer, least := median(b), median(a), median(c)
	t.Logf("publish one of %d targets: %.0f ms; one of %d: %.0f ms, %.2f times as long; one of %d in 32 bins: %.0f ms", benchFew, peer*1000, benchMany, ours*1000, ours/peer, benchFew, least*1000)
	report(t, "tuf/publish-100k-vs-1k", ours, peer, "s", peer/ours)
}

// TestPublishMany logs how long it takes to propose, sign and publish 10,000 new files at once.
func TestPublishMany(t *testing.T) {
	o := newOrg(t)
	var changes []Change
	for n := range 10_000 {
		changes = append(changes, SetTarget{Name: benchName(n), Data: fmt.Append(nil, n)})
	}
	start := time.Now()
	lap := func(what string) {
		t.Logf("%s: %s", what, time.Since(start).Round(time.Millisecond))
		start = time.Now()
	}
	o.propose(t, changes...)
	lap("propose")
	o.sign(t, o.holders[:2]...)
	lap("sign")
	p := o.publish(t)
	lap("publish")
	if len(p.Files) != len(changes)+3 {
		t.Fatalf("%d files were written", len(p.Files))
	}
}

type benchOrg struct {
	*org
	targets int
}

// benchRepository publishes the targets without the files behind them, which are 100,000 small files more and of no
// account when one of them changes.
func benchRepository(t *testing.T, targets, binBits int) benchOrg {
	o := benchOrg{newOrg(t), targets}
	o.force(t, o.online, func(d *draft) {
		check(t, AddRole{Name: "files", Paths: []string{"files/*"}, Terminating: true, Holders: holdersOf(o.holders[:1]), Threshold: 1, BinBits: binBits}.apply(d))
		for i := range targets {
			check(t, SetTarget{Name: benchName(i), Data: fmt.Append(nil, i)}.apply(d))
		}
		d.files = map[string][]byte{}
	}, o.holders...)
	largest := int64(0)
	files, err := filepath.Glob(filepath.Join(o.published, "*.files-*.json"))
	check(t, err)
	for _, f := range files {
		info, err := os.Stat(f)
		check(t, err)
		largest = max(largest, info.Size())
	}
	snapshot, err := os.Stat(filepath.Join(o.dir, "metadata", "snapshot.json"))
	check(t, err)
	t.Logf("%d targets in %d bins: the largest has %d bytes, the snapshot %d", targets, len(files), largest, snapshot.Size())
	return o
}

func benchName(i int) string { return fmt.Sprintf("files/artifact-%d.json", i) }

// publishOne changes one target and returns how long publishing took.
func (o benchOrg) publishOne(t *testing.T, n int) time.Duration {
	t.Helper()
	name := benchName(n * o.targets / benchRuns)
	o.propose(t, SetTarget{Name: name, Data: fmt.Append(nil, "changed ", n)})
	o.sign(t, o.holders[0])
	start := time.Now()
	p := o.publish(t)
	took := time.Since(start)
	if len(p.Files) != 4 {
		t.Fatalf("one target: %v were written", p.Files)
	}
	return took
}

// report adds a row to bench.json.
func report(t *testing.T, name string, ours, peer float64, unit string, ratio float64) {
	t.Helper()
	path := os.Getenv("RESEAL_BENCH_OUT")
	if path == "" {
		return
	}
	line, err := json.Marshal(map[string]any{"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio})
	check(t, err)
	f, err := os.OpenFile(filepath.Clean(path), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	check(t, err)
	_, err = f.Write(append(line, '\n'))
	check(t, err)
	check(t, f.Close())
}
