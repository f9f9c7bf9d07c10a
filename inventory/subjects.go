package inventory

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Subjects returns every digest ("<algorithm>:<value>") by which an in-toto
// statement, given its payload, names what it is about, each once, in order.
// Verifiers accept a signed statement for whatever has one of them, also for a
// file that they hash by another algorithm than the inventory does.
func Subjects(payload []byte) ([]string, error) {
	var st struct {
		Subject []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	if err := json.Unmarshal(payload, &st); err != nil {
		return nil, fmt.Errorf("the payload is not an in-toto statement: %w", err)
	}
	if err := CheckStatement(payload); err != nil {
		return nil, fmt.Errorf("the statement can be read in two ways: %w", err)
	}
	var out []string
	for _, s := range st.Subject {
		for algorithm, value := range s.Digest {
			out = append(out, strings.ToLower(algorithm+":"+value))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
