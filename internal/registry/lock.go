package registry

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/reseal/reseal/internal/clock"
)

// keyed is a set of mutexes by key, which exist while someone wants them.
type keyed struct {
	mu   sync.Mutex
	held map[string]*slot
}

type slot struct {
	token chan struct{} // holds one element while the lock is taken
	users int           // holders and waiters, guarded by keyed.mu
}

func newKeyed() *keyed { return &keyed{held: map[string]*slot{}} }

// lock waits for the key, or for the end of ctx. Calling unlock again does nothing.
func (k *keyed) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	s := k.held[key]
	if s == nil {
		s = &slot{token: make(chan struct{}, 1)}
		k.held[key] = s
	}
	s.users++
	k.mu.Unlock()

	select {
	case s.token <- struct{}{}:
	case <-ctx.Done():
		k.leave(key, s)
		return nil, ctx.Err()
	}
	return sync.OnceFunc(func() {
		<-s.token
		k.leave(key, s)
	}), nil
}

func (k *keyed) leave(key string, s *slot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(k.held, key)
	}
}

// Serialise waits until no other writer in this process works on the
// signatures of one digest, and keeps others out until unlock is called. Hold
// it around any read-modify-write of a ".sig" or ".att" tag and around Attach
// and Detach, which do not take it themselves: a caller may so make several
// changes under one lock. It is not reentrant, and to hold two at once is to
// invite a deadlock.
func (c *Client) Serialise(ctx context.Context, repo, digest string) (unlock func(), err error) {
	at, err := parseRepository(repo)
	if err != nil {
		return nil, err
	}
	unlock, err = c.locks.lock(ctx, "subject\x00"+at.key()+"@"+digest)
	if err != nil {
		return nil, (request{op: "wait for the other writers of", at: at, ref: digest}).failed(err, false)
	}
	return unlock, nil
}

// Old is the age at which what was read of a tag is read again before the tag is
// written.
const Old = 2 * time.Second

// maxSilences bounds how often Anew finds that the host asked another request for
// silence.
const maxSilences = 50

// Anew calls do, which reads a tag, changes it and writes it. A tag has no
// compare-and-swap, so its write is not kept waiting: where the registry, or the
// network, does not take it now, do is called again after as long a wait as is
// asked for, reads what others wrote meanwhile, and writes that. Serialise is to be
// held within do, if at all, so that nobody else waits, too.
func Anew(ctx context.Context, do func() error) error { return anew(ctx, clock.Sleep, do) }

func anew(ctx context.Context, sleep func(context.Context, time.Duration) error, do func() error) error {
	for refused, silent := 0, 0; ; {
		err := do()
		var e *Error
		if !errors.As(err, &e) || e.wait <= 0 {
			return err
		}
		wait := e.wait
		if e.Status == 0 && errors.Is(e.Err, ErrThrottled) {
			silent++
		} else {
			refused++
			wait = max(wait, backoff(refused))
		}
		if refused == maxAttempts || silent == maxSilences || sleep(ctx, wait) != nil {
			e.wait = 0 // whoever calls has no more patience
			return err
		}
	}
}
