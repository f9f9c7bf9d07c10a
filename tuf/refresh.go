package tuf

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/reseal/reseal/signer"
)

// Refreshed is what a refresh did.
type Refreshed struct {
	Timestamp bool         `json:"timestamp"` // it was signed again
	Snapshot  bool         `json:"snapshot"`
	Expires   time.Time    `json:"expires"` // of the timestamp now
	Next      time.Time    `json:"next"`    // when the next one is due
	Published *Publication `json:"published,omitempty"`
	Finished  bool         `json:"finished,omitempty"` // a change that was cut off was finished first
}

// Refresh signs timestamp and snapshot again when they are due, by the signing periods that root gives them, or, with
// force, the timestamp in any case. It needs the online key alone, and does no harm when run too often: nothing is
// written when nothing is due. It goes on while a signing event is open.
func (r *Repository) Refresh(ctx context.Context, online signer.Signer, force bool) (*Refreshed, error) {
	out := &Refreshed{}
	var err error
	if out.Finished, err = r.cutOff(); err == nil {
		err = r.change(ctx, func() error { return r.refresh(ctx, online, force, out) })
	}
	if err != nil {
		return nil, fmt.Errorf("tuf: refresh: %w", err)
	}
	return out, nil
}

func (r *Repository) refresh(ctx context.Context, online signer.Signer, force bool, out *Refreshed) error {
	s, err := r.loadToExtend()
	if err != nil {
		return err
	}
	d := r.draft(s)
	now := r.now()
	out.Snapshot = d.period(metadata.SNAPSHOT).due(now, s.Snapshot.Signed.Expires)
	out.Timestamp = out.Snapshot || force || d.period(metadata.TIMESTAMP).due(now, s.Timestamp.Signed.Expires)
	out.Expires = s.Timestamp.Signed.Expires
	if out.Timestamp {
		if problems := d.expired(now); len(problems) > 0 {
			return errors.New(problems[0])
		}
		if out.Snapshot {
			out.Published, err = r.publish(ctx, d, online, nil)
		} else {
			out.Published, err = r.publishTimestamp(ctx, d, online)
		}
		if err != nil {
			return err
		}
		out.Expires = out.Published.Expires[metadata.TIMESTAMP]
	}
	out.Next = out.Expires.Add(-time.Duration(d.period(metadata.TIMESTAMP).Signing) * day)
	snapshot := s.Snapshot.Signed.Expires
	if out.Snapshot {
		snapshot = out.Published.Expires[metadata.SNAPSHOT]
	}
	if at := snapshot.Add(-time.Duration(d.period(metadata.SNAPSHOT).Signing) * day); at.Before(out.Next) {
		out.Next = at
	}
	return nil
}

func (r *Repository) publishTimestamp(ctx context.Context, d *draft, online signer.Signer) (*Publication, error) {
	next := d.next()
	m := next.Timestamp
	data, err := r.signTimestamp(ctx, d, m, online)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStopped, err)
	}
	steps := []step{write(inSource, roleFile(metadata.TIMESTAMP), data), reveal("timestamp.json", data)}
	out := &Publication{Versions: map[string]int64{metadata.TIMESTAMP: m.Signed.Version},
		Expires: map[string]time.Time{metadata.TIMESTAMP: m.Signed.Expires}, Files: []string{"timestamp.json"}}
	if out.Walked, err = r.reachable(ctx, d, next, steps); err != nil {
		return nil, fmt.Errorf("%w: %w", errStopped, err)
	}
	return out, r.commit(ctx, steps)
}
