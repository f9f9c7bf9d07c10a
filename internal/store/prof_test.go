//go:build bench

package store

import (
	"bufio"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestFill(t *testing.T) {
	os.Remove("/tmp/st/reseal.db")
	s := fill(t, "/tmp/st/reseal.db", generated{artifacts: 200000})
	markDeployed(t, s, generated{artifacts: 200000})
	s.Close()
}

func TestSQL(t *testing.T) {
	db, err := sql.Open("sqlite", dsn("/tmp/st/reseal.db", readerPragmas+os.Getenv("PRAGMAS")))
	must(t, err)
	db.SetMaxOpenConns(1)
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	text, _ := os.ReadFile("/tmp/st/q.sql")
	for _, q := range strings.Split(string(text), ";\n") {
		if strings.TrimSpace(q) == "" {
			continue
		}
		fmt.Println("----", strings.TrimSpace(q))
		rows, err := db.Query("EXPLAIN QUERY PLAN " + q)
		if err != nil {
			fmt.Println(err)
			continue
		}
		for rows.Next() {
			var a, b, c int
			var d string
			rows.Scan(&a, &b, &c, &d)
			fmt.Println("   ", a, b, d)
		}
		best := time.Hour; cpu0 := cpuNow()
		for range 3 {
			at := time.Now()
			rows, err = db.Query(q)
			must(t, err)
			cols, _ := rows.Columns()
			n := 0
			var first []any
			for rows.Next() {
				v := make([]any, len(cols))
				p := make([]any, len(cols))
				for i := range v {
					p[i] = &v[i]
				}
				rows.Scan(p...)
				if n == 0 {
					first = v
				}
				n++
			}
			rows.Close()
			best = min(best, time.Since(at))
			if best == time.Since(at) || best > 0 {
				_ = first
			}
			if best < time.Hour && n >= 0 {
				defer func() {}()
			}
			if best > 0 && first != nil && n < 3 {
				fmt.Println("   ", first)
				first = nil
			}
		}
		fmt.Println("   ", best, "cpu per run", (cpuNow()-cpu0)/3)
	}
}

func TestDDL(t *testing.T) {
	db, err := sql.Open("sqlite", dsn("/tmp/st/reseal.db", writerPragmas))
	must(t, err)
	for _, q := range []string{"DROP INDEX artifacts_deployed", "CREATE INDEX artifacts_deployed ON artifacts (repository, digest, deployed) WHERE deployed",
		"DROP INDEX bounds_by_authority", "CREATE INDEX bounds_by_authority ON bounds (role, authority, signature, alone, verified) WHERE verified"} {
		_, err := db.Exec(q)
		must(t, err)
	}
	db.Close()
}

func cpuNow() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(0, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
