package registry

import (
	"slices"
	"sync"
)

// Would is a write that a rehearsal did not send.
type Would struct {
	Op         string // "put blob", "put manifest", "attach", "delete referrer" or "delete"
	Repository string
	Reference  string // tag or digest; of attach and delete referrer, the subject
	Digest     string // of what would be written or deleted; empty for a deleted tag
}

type ledger struct {
	mu   sync.Mutex
	list []Would
}

func (l *ledger) add(op, repo, reference, digest string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, Would{Op: op, Repository: repo, Reference: reference, Digest: digest})
}

// ReadOnly returns a client that reads as c does, over its connections and
// sessions, and sends no write: a write is checked and recorded, each request
// that would write as one Would, and answered as if it had succeeded. Reads do
// not see the writes that were not sent, so an index to which two entries would
// be added is recorded twice, each time with one.
func ReadOnly(c *Client) *Client {
	return &Client{core: c.core, would: &ledger{}}
}

// Would returns the writes recorded so far, in order. It is empty for a client
// that writes.
func (c *Client) Would() []Would {
	if c.would == nil {
		return nil
	}
	c.would.mu.Lock()
	defer c.would.mu.Unlock()
	return slices.Clone(c.would.list)
}
