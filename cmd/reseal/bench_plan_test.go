//go:build bench && linux

package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/reseal/reseal/internal/store"
	"github.com/reseal/reseal/inventory"
	"github.com/reseal/reseal/journal"
	"github.com/reseal/reseal/signer"
)

// plans takes the time of impact and plan in a large generated inventory, of
// which the signer under the incident signed a fifth, beside the bare query that
// reads the same rows.
func (w *world) plans() {
	w.Helper()
	artifacts := 1_000_000
	if text := os.Getenv("RESEAL_BENCH_ARTIFACTS"); text != "" {
		var err error
		artifacts, err = strconv.Atoi(text)
		w.check(err)
	}
	w.ok(w.run("reseal", "--home", "large", "--actor", "bench", "init", "--quorum", "1", "--approver", "alice=alice.pub", "--approver", "bob=bob.pub",
		"--signer", "release=signer.pub", "--standby", "next=alice.pub", "--trusted-root", "trusted_root.json"))
	_, release, err := signer.ParsePublicKey([]byte(w.read("signer.pub")))
	w.check(err)
	began := time.Now()
	w.check(fillLarge(context.Background(), w.path("large", "reseal.db"), release, artifacts))
	fmt.Printf("bench  %d artifacts with %d signatures generated in %.0f s\n", artifacts, 2*artifacts, time.Since(began).Seconds())
	bare, rows := w.bare(w.path("large", "reseal.db"), release)

	from := generatedSince.Add(time.Duration(artifacts/2) * time.Second).Format(time.RFC3339)
	impact := w.measured("reseal", "--home", "large", "--actor", "bench", "impact", "--signer", "release", "--json")
	w.ok(w.run("reseal", "--home", "large", "--actor", "bench", "incident", "open", "INC-1", "--signer", "release", "--from", from, "--reason", "bench"))
	plan := w.measured("reseal", "--home", "large", "--actor", "bench", "incident", "plan", "INC-1", "--new-signer", "next", "--max-artifacts", "0", "--json")
	for _, m := range []struct {
		name string
		footprint
	}{{"impact", impact}, {"incident-plan", plan}} {
		fmt.Printf("bench  %s of %d artifacts: %.1f s, %.0f MiB of anonymous memory at most; the bare query of its %d rows %.1f s\n",
			m.name, artifacts, m.seconds, m.memory, rows, bare)
		w.keep(row{m.name + "/vs-query", m.seconds, bare, "s", bare / m.seconds})
	}
}

var generatedSince = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// fillLarge puts artifacts into a database, two signatures on each, as a scan
// would find them.
func fillLarge(ctx context.Context, file string, release signer.Identity, artifacts int) (err error) {
	s, err := store.Open(ctx, file, time.Now)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	log := inventory.Authority{Role: inventory.RoleLog, ID: strings.Repeat("10", 32)}
	const batch = 1000
	for n := 0; n < artifacts; n += batch {
		if err := s.Update(ctx, journal.Author{Actor: "bench", Reason: "generated"}, func(tx *store.Tx) error {
			for i := n; i < min(n+batch, artifacts); i++ {
				a := inventory.Artifact{Repository: fmt.Sprintf("registry.example/team-%02d/service-%05d", i/500%40, i/500),
					Digest: inventory.Digest(fmt.Append(nil, "artifact", i)), MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 1200}
				if err := tx.PutArtifact(ctx, a); err != nil {
					return err
				}
				by := signer.Identity{Kind: signer.Key, Subject: fmt.Sprintf("%064x", 1+i/500)}
				if i%5 == 0 {
					by = release
				}
				made := generatedSince.Add(time.Duration(i) * time.Second)
				for f, format := range []inventory.Format{inventory.Legacy, inventory.Bundle} {
					payload := inventory.Digest(fmt.Append(nil, "payload", f, i))
					sig := inventory.Signature{Repository: a.Repository, Digest: a.Digest, Format: format, Manifest: inventory.Digest(fmt.Append(nil, "manifest", f, i)),
						Content: payload, PredicateType: inventory.SignPredicate, PayloadDigest: payload, Names: a.Repository, Signer: by, Verified: true,
						Bounds: []inventory.Bound{{Side: inventory.Upper, Time: made, Authority: log, Verified: true}}}
					sig.ID = inventory.SignatureID(a.Repository, a.Digest, format, by, payload, []byte("signature"))
					if err := tx.PutSignature(ctx, sig); err != nil {
						return err
					}
				}
				if i%100 == 0 {
					if err := tx.SetDeployed(ctx, a.Repository, a.Digest); err != nil {
						return err
					}
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// bare reads what an assessment of a signer reads, with one query.
func (w *world) bare(file string, by signer.Identity) (seconds float64, n int64) {
	w.Helper()
	db, err := sql.Open("sqlite", "file:"+file+"?mode=ro")
	w.check(err)
	defer db.Close()
	start := time.Now()
	rows, err := db.Query(`SELECT a.repository, a.digest, a.media_type, a.deployed, g.id, g.format, g.content, g.predicate_type, g.payload_digest, g.names, g.signer,
			g.verified, g.first_seen, b.side, b.time, b.role, b.authority, b.verified
		FROM (SELECT DISTINCT repository, digest FROM signatures WHERE signer = ?) d
		JOIN artifacts a ON a.repository = d.repository AND a.digest = d.digest
		JOIN signatures g ON g.repository = a.repository AND g.digest = a.digest
		JOIN bounds b ON b.signature = g.seq`, by.ID())
	w.check(err)
	defer rows.Close()
	values := make([]any, 18)
	for i := range values {
		values[i] = new(any)
	}
	for rows.Next() {
		w.check(rows.Scan(values...))
		n++
	}
	w.check(rows.Err())
	return time.Since(start).Seconds(), n
}

// A footprint is what a command took.
type footprint struct {
	seconds float64
	memory  float64 // the most anonymous memory, in MiB
	cpu     float64 // seconds
	stdout  []byte
}

// measured runs a command, which must succeed, and watches its memory.
func (w *world) measured(name string, args ...string) (f footprint) {
	w.Helper()
	cmd := w.command(name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	w.check(cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case err := <-done:
			if err != nil {
				w.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, stderr.String())
			}
			f.seconds, f.stdout = time.Since(start).Seconds(), stdout.Bytes()
			f.cpu = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
			return f
		case <-time.After(10 * time.Millisecond):
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
			if err != nil {
				continue // it has ended
			}
			for line := range strings.Lines(string(status)) {
				if field := strings.Fields(line); len(field) == 3 && field[0] == "RssAnon:" {
					kib, err := strconv.ParseFloat(field[1], 64)
					w.check(err)
					f.memory = max(f.memory, kib/1024)
				}
			}
		}
	}
}
