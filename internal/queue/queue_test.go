package queue

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/riverqueue/river/rivertype"
)

// What the queue does with a database is tested with real workers, see TestWorkers
// in cmd/reseal.

func TestBackOff(t *testing.T) {
	t.Parallel()
	for attempt, want := range map[int]time.Duration{0: time.Second, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 8: 128 * time.Second,
		9: MaxPause, 20: MaxPause, 1000: MaxPause} {
		got := time.Until(backOff{}.NextRetry(&rivertype.JobRow{Attempt: attempt}))
		if got > want || got < want*3/4-time.Second/10 {
			t.Errorf("after attempt %d it waits for %s, want up to %s", attempt, got, want)
		}
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	const secret = "pa55"
	for _, location := range []string{"postgres://u:" + secret + "@127.0.0.1:1/db", "postgres://u:" + secret + "@127.0.0.1:port/db", "postgres://u:" + secret + "@127.0.0.1/db?sslmode=maybe"} {
		err := Migrate(context.Background(), location, slog.New(slog.DiscardHandler))
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("got %v", err)
		}
	}
}
