//go:build e2e

package rehearsal

const everyPair = true
