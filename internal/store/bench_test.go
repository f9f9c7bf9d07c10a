//go:build bench

package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/signer"
)

// generated is an inventory of a size: two signatures an artifact, a fifth of
// the artifacts signed by one signer, 4,999 signers for the rest, a repository
// of 500 artifacts signed by a few of them.
type generated struct{ artifacts int }

const (
	perBatch      = 1000
	perRepository = 500
	signersInAll  = 5000
)

// identity returns a signer; the first is the one that signed a fifth of it all.
func identity(n int, kind signer.Kind) signer.Identity {
	if kind == signer.Key {
		return key(n)
	}
	return signer.Identity{Kind: signer.Keyless, Issuer: "https://token.actions.githubusercontent.com",
		Subject: fmt.Sprintf("https://github.com/acme/service-%d/.github/workflows/release.yaml@refs/heads/main", n)}
}

var (
	fulcio = inventory.Authority{Role: inventory.RoleCA, ID: strings.Repeat("ca", 32)}
	rekor  = inventory.Authority{Role: inventory.RoleLog, ID: strings.Repeat("10", 32)}
	stamps = inventory.Authority{Role: inventory.RoleTSA, ID: strings.Repeat("75", 32)}
)

// batch returns the artifacts and signatures of one transaction, as a scan finds them.
func (g generated) batch(n int) (arts []inventory.Artifact, sigs []inventory.Signature) {
	for i := n * perBatch; i < min((n+1)*perBatch, g.artifacts); i++ {
		repository := i / perRepository
		a := inventory.Artifact{Repository: fmt.Sprintf("registry.example/team-%02d/service-%05d", repository%40, repository),
			Digest: inventory.Digest(fmt.Append(nil, "artifact", i)), MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 1200 + int64(i%700)}
		made := start.Add(time.Duration(i) * time.Minute)
		by := identity(1+(repository*2+i%2)%(signersInAll/2), signer.Key)
		if i%5 == 0 {
			by = identity(0, signer.Key)
		}
		workflow := identity(1+repository%(signersInAll/2-1), signer.Keyless)
		payload := inventory.Digest(fmt.Append(nil, "payload", i))
		legacy := inventory.Signature{Repository: a.Repository, Digest: a.Digest, Format: inventory.Legacy, Manifest: inventory.Digest(fmt.Append(nil, "sig", i)),
			Content: payload, PredicateType: inventory.SignPredicate, PayloadDigest: payload, Names: a.Repository, Signer: by, Verified: true,
			Bounds: []inventory.Bound{{Side: inventory.Upper, Time: made, Authority: rekor, Verified: true}}}
		legacy.ID = inventory.SignatureID(a.Repository, a.Digest, legacy.Format, by, payload, []byte("signature"))
		bundle := inventory.Signature{Repository: a.Repository, Digest: a.Digest, Format: inventory.Bundle, Manifest: inventory.Digest(fmt.Append(nil, "bundle manifest", i)),
			Content: inventory.Digest(fmt.Append(nil, "bundle", i)), PredicateType: inventory.SignPredicate, PayloadDigest: inventory.Digest(fmt.Append(nil, "statement", i)),
			Signer: workflow, Verified: true, Requires: []inventory.Authority{fulcio},
			Certificate: &signer.Certificate{Serial: fmt.Sprintf("%040x", i), CA: fulcio.ID, NotBefore: made, NotAfter: made.Add(10 * time.Minute),
				Workflow: workflow.Subject, Ref: "refs/heads/main", SHA: fmt.Sprintf("%040x", i*7), Repository: fmt.Sprintf("https://github.com/acme/service-%d", repository),
				Trigger: "push", Run: fmt.Sprintf("https://github.com/acme/service-%d/actions/runs/%d/attempts/1", repository, i), Runner: "github-hosted"},
			Bounds: []inventory.Bound{{Side: inventory.Upper, Time: made.Add(2 * time.Second), Authority: rekor, Verified: true},
				{Side: inventory.Upper, Time: made.Add(time.Second), Authority: stamps, Verified: true},
				{Side: inventory.Lower, Time: made, Authority: fulcio, Verified: true}}}
		bundle.ID = inventory.SignatureID(a.Repository, a.Digest, bundle.Format, workflow, bundle.PayloadDigest, []byte("signature"))
		arts, sigs = append(arts, a), append(sigs, legacy, bundle)
	}
	return arts, sigs
}

func (g generated) batches() int { return (g.artifacts + perBatch - 1) / perBatch }

// put imports one batch through the API.
func put(t *testing.T, s *Store, arts []inventory.Artifact, sigs []inventory.Signature) {
	t.Helper()
	ctx := t.Context()
	must(t, s.Update(ctx, by, func(tx *Tx) error {
		for i, a := range arts {
			if err := tx.PutArtifact(ctx, a); err != nil {
				return err
			}
			for _, g := range sigs[2*i : 2*i+2] {
				if err := tx.PutSignature(ctx, g); err != nil {
					return err
				}
			}
		}
		return nil
	}))
}

// bare inserts the same rows into the same schema with nothing but prepared
// statements.
type bare struct {
	db      *sql.DB
	next    int64
	signers map[string]bool
}

// rows are the values of one batch, made before the time is taken.
type rows struct{ signers, artifacts, signatures, bounds [][]any }

func (b *bare) rows(t *testing.T, arts []inventory.Artifact, sigs []inventory.Signature) (r rows) {
	t.Helper()
	for _, a := range arts {
		r.artifacts = append(r.artifacts, []any{a.Repository, a.Digest, a.MediaType, a.Size, false, start.Unix(), "", int64(0)})
	}
	for _, g := range sigs {
		by := g.Signer.ID()
		if !b.signers[by] {
			b.signers[by] = true
			r.signers = append(r.signers, []any{by, string(g.Signer.Kind), g.Signer.Subject, g.Signer.Issuer, "", string(signer.Observed), ""})
		}
		certificate, err := marshalCertificate(g)
		must(t, err)
		b.next++
		lower, upper := window(g.Bounds)
		r.signatures = append(r.signatures, []any{b.next, g.ID, g.Repository, g.Digest, string(g.Format), g.Location, g.Manifest, g.Content, g.PredicateType,
			g.PayloadDigest, g.Names, by, certificate, g.Verified, g.Why, lower, upper, start.Unix(), false})
		for i, u := range g.Bounds {
			r.bounds = append(r.bounds, []any{b.next, int64(i), string(u.Side), u.Time.Unix(), string(u.Authority.Role), u.Authority.ID, u.Verified, alone(u, g.Bounds), u.Why})
		}
		for i, a := range g.Requires {
			r.bounds = append(r.bounds, []any{b.next, int64(len(g.Bounds) + i), requires, int64(0), string(a.Role), a.ID, g.Verified, g.Verified, ""})
		}
	}
	return r
}

func (r rows) count() int { return len(r.artifacts) + len(r.signatures) + len(r.bounds) }

func (b *bare) put(t *testing.T, r rows) {
	t.Helper()
	ctx := context.Background() // watching a context costs a goroutine for each statement
	tx, err := b.db.BeginTx(ctx, nil)
	must(t, err)
	for _, part := range []struct {
		table string
		rows  [][]any
	}{{"signers", r.signers}, {"artifacts", r.artifacts}, {"signatures", r.signatures}, {"bounds", r.bounds}} {
		if len(part.rows) == 0 {
			continue
		}
		marks := make([]string, len(part.rows[0]))
		for i := range marks {
			marks[i] = fmt.Sprintf("$%d", i+1)
		}
		stmt, err := tx.PrepareContext(ctx, `INSERT INTO `+part.table+` VALUES (`+strings.Join(marks, ", ")+`)`)
		must(t, err)
		for _, values := range part.rows {
			if _, err := stmt.ExecContext(ctx, values...); err != nil {
				t.Fatal(err)
			}
		}
	}
	must(t, tx.Commit())
}

// rssAnon is the anonymous memory of this process, in MiB.
func rssAnon(t *testing.T) float64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "RssAnon:" {
			kib, err := strconv.ParseFloat(f[1], 64)
			must(t, err)
			return kib / 1024
		}
	}
	t.Fatal("no RssAnon")
	return 0
}

// report prints a row of the benchmark and appends it, as an element of a JSON
// array, to the file RESEAL_BENCH_OUT names.
func report(t *testing.T, name string, ours, peer float64, unit string, ratio float64) {
	t.Helper()
	t.Logf("%-32s ours %12.1f  peer %12.1f  %-10s ratio %.2f", name, ours, peer, unit, ratio)
	file := os.Getenv("RESEAL_BENCH_OUT")
	if file == "" {
		return
	}
	line, err := json.Marshal(struct {
		Name  string  `json:"name"`
		Ours  float64 `json:"ours"`
		Peer  float64 `json:"peer"`
		Unit  string  `json:"unit"`
		Ratio float64 `json:"ratio"`
	}{name, ours, peer, unit, ratio})
	must(t, err)
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	must(t, err)
	_, err = f.Write(append(line, '\n'))
	must(t, err)
	must(t, f.Close())
}

// fill imports a generated inventory through the API alone.
func fill(t *testing.T, file string, g generated) *Store {
	t.Helper()
	s, err := Create(t.Context(), file, clock())
	must(t, err)
	for n := range g.batches() {
		arts, sigs := g.batch(n)
		put(t, s, arts, sigs)
	}
	return s
}

// answers are what TestAsk measured.
type answers struct {
	Blast      Blast
	Page       int
	BlastTime  time.Duration
	BareTime   time.Duration
	PageTime   time.Duration
	SignerTime time.Duration
	Signers    int
	Memory     float64 // the most anonymous memory, in MiB
}

// askEnv names the database that TestAsk asks, as a process of its own: what an
// import before it left in memory does not count.
const askEnv = "RESEAL_BENCH_ASK"

// TestAsk asks what an incident about one signer asks first.
func TestAsk(t *testing.T) {
	file := os.Getenv(askEnv)
	if file == "" {
		t.Skip("part of TestBench")
	}
	ctx := t.Context()
	by := identity(0, signer.Key).ID()
	s, err := Open(ctx, file, clock())
	must(t, err)
	defer s.Close()
	var a answers
	best := func(into *time.Duration, fn func()) {
		at := time.Now()
		fn()
		if d := time.Since(at); *into == 0 || d < *into {
			*into = d
		}
		a.Memory = max(a.Memory, rssAnon(t))
	}
	for range 7 { // in turn, so that whatever else the machine does slows both
		best(&a.BlastTime, func() {
			a.Blast, err = s.Blast(ctx, []string{by})
			must(t, err)
		})
		best(&a.BareTime, func() {
			var signatures, artifacts int64
			must(t, s.read.QueryRowContext(ctx, `SELECT COUNT(*) FROM signatures WHERE signer = $1`, by).Scan(&signatures))
			must(t, s.read.QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT DISTINCT repository, digest FROM signatures WHERE signer = $1) d`, by).Scan(&artifacts))
			if a.Blast.Signatures != signatures || a.Blast.Artifacts != artifacts {
				t.Fatalf("we count %d and %d, SQL counts %d and %d", a.Blast.Signatures, a.Blast.Artifacts, signatures, artifacts)
			}
		})
		best(&a.PageTime, func() {
			page, _, err := s.Artifacts(ctx, Selection{Signers: []string{by}}, Place{}, 500)
			must(t, err)
			a.Page = len(page)
		})
	}
	for at := (Place{}); ; { // and all of it, as a plan reads it
		page, next, err := s.Artifacts(ctx, Selection{Signers: []string{by}}, at, 500)
		must(t, err)
		if len(page) == 0 {
			break
		}
		at, a.Memory = next, max(a.Memory, rssAnon(t))
	}
	at := time.Now()
	all, err := s.Signers(ctx)
	must(t, err)
	a.SignerTime, a.Signers = time.Since(at), len(all)
	line, err := json.Marshal(a)
	must(t, err)
	fmt.Printf("\n%s%s\n", askEnv, line)
}

// ask runs TestAsk.
func ask(t *testing.T, file string) (a answers) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), self, "-test.run", "^TestAsk$", "-test.v")
	cmd.Env = append(os.Environ(), askEnv+"="+file)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if text, ok := strings.CutPrefix(line, askEnv); ok {
			must(t, json.Unmarshal([]byte(text), &a))
			return a
		}
	}
	t.Fatalf("no answer:\n%s", out)
	return a
}

func TestBench(t *testing.T) {
	g := generated{artifacts: 1_000_000}
	if text := os.Getenv("RESEAL_BENCH_ARTIFACTS"); text != "" {
		var err error
		g.artifacts, err = strconv.Atoi(text)
		must(t, err)
	}
	dir := t.TempDir()
	small := generated{artifacts: min(g.artifacts, 10_000)}
	smallFile, file := filepath.Join(dir, "small.db"), filepath.Join(dir, "reseal.db")
	s := fill(t, smallFile, small)
	markDeployed(t, s, small)
	must(t, s.Close())

	s, err := Create(t.Context(), file, clock())
	must(t, err)
	empty, err := Create(t.Context(), filepath.Join(dir, "bare.db"), clock())
	must(t, err)
	must(t, empty.Close())
	db, err := sql.Open("sqlite", dsn(filepath.Join(dir, "bare.db"), writerPragmas))
	must(t, err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	b := &bare{db: db, signers: map[string]bool{}}

	const slice = 5 // batches of one, then as many of the other
	var ours, theirs time.Duration
	total := 0
	began := time.Now()
	for from := 0; from < g.batches(); from += slice {
		var arts [slice][]inventory.Artifact
		var sigs [slice][]inventory.Signature
		var values [slice]rows
		for n := range min(slice, g.batches()-from) {
			arts[n], sigs[n] = g.batch(from + n)
			values[n] = b.rows(t, arts[n], sigs[n])
			total += values[n].count()
		}
		runtime.GC() // nobody pays for what was made here
		at := time.Now()
		for n := range min(slice, g.batches()-from) {
			put(t, s, arts[n], sigs[n])
		}
		ours += time.Since(at)
		runtime.GC()
		at = time.Now()
		for n := range min(slice, g.batches()-from) {
			b.put(t, values[n])
		}
		theirs += time.Since(at)
		if from/slice%20 == 0 {
			t.Logf("%d artifacts in %v: %.0f rows/s, bare %.0f rows/s", min(from+slice, g.batches())*perBatch, time.Since(began).Round(time.Second),
				float64(total)/ours.Seconds(), float64(total)/theirs.Seconds())
		}
	}
	rate := func(d time.Duration) float64 { return float64(total) / d.Seconds() }
	report(t, "import/vs-bare-insert", rate(ours), rate(theirs), "rows/s", theirs.Seconds()/ours.Seconds())
	must(t, db.Close())

	markDeployed(t, s, g)
	at := time.Now()
	authorities, err := s.Authorities(t.Context())
	must(t, err)
	t.Logf("%d authorities in %v: %+v", len(authorities), time.Since(at).Round(time.Millisecond), authorities)
	must(t, s.Close())
	before, a := ask(t, smallFile), ask(t, file)
	report(t, "impact/vs-sql", a.BlastTime.Seconds()*1000, a.BareTime.Seconds()*1000, "ms", a.BareTime.Seconds()/a.BlastTime.Seconds())
	t.Logf("blast radius: %+v", a.Blast)
	t.Logf("first page of %d artifacts in %v, %d signers in %v", a.Page, a.PageTime.Round(10*time.Microsecond), a.Signers, a.SignerTime.Round(time.Millisecond))
	t.Logf("RssAnon of these questions: %.1f MiB of %d artifacts, %.1f MiB of %d", before.Memory, small.artifacts, a.Memory, g.artifacts)

	s, err = Open(t.Context(), file, clock())
	must(t, err)
	benchAnchored(t, s, 200_000)
	must(t, s.Close())
	benchJournal(t, dir, g.artifacts)
}

// markDeployed marks one artifact of a hundred.
func markDeployed(t *testing.T, s *Store, g generated) {
	t.Helper()
	for n := range g.batches() {
		arts, _ := g.batch(n)
		must(t, s.Update(t.Context(), by, func(tx *Tx) error {
			for i := 0; i < len(arts); i += 100 {
				if err := tx.SetDeployed(t.Context(), arts[i].Repository, arts[i].Digest); err != nil {
					return err
				}
			}
			return nil
		}))
	}
}
