package durable

import (
	"context"
	"fmt"
	"os"
	"time"
)

// Lock takes the advisory lock of a directory, waiting until ctx ends. The
// operating system frees it if the process dies. The directory itself is
// locked, so there is no lock file to be left behind or served to anybody.
func Lock(ctx context.Context, dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		ok, err := tryLock(d)
		if err != nil {
			d.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		if ok {
			return func() { d.Close() }, nil
		}
		select {
		case <-ctx.Done():
			d.Close()
			return nil, fmt.Errorf("%s is in use by another process; wait for it to end: %w", dir, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
