package main

import (
	"fmt"
	"strings"
	"testing"
)

// TestReasons has each of very many failures fail for a reason of its own.
func TestReasons(t *testing.T) {
	t.Parallel()
	r := reasons{}
	for n := range 10 * mostReasons {
		r.add(fmt.Sprint("cannot read ", n))
		r.add("cannot read 7")
	}
	lines := r.lines()
	if len(r) != mostReasons+1 || len(lines) != len(r) {
		t.Fatalf("%d reasons in %d lines, want %d and one for the others", len(r), len(lines), mostReasons)
	}
	if want := fmt.Sprintf("%d times: cannot read 7", 10*mostReasons+1); lines[0] != want {
		t.Errorf("first is %q, want %q", lines[0], want)
	}
	if last := lines[mostReasons]; !strings.HasPrefix(last, fmt.Sprintf("%d times: other reasons", 9*mostReasons)) {
		t.Errorf("last is %q, want the others", last)
	}
}
