package registry

import (
	"context"
	"sync"
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
