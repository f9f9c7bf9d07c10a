package sandbox

import (
	"sync/atomic"
	"time"
)

// Clock is the sandbox's time. While it is rewound, certificates, log entries
// and timestamp tokens are issued in the past; Live returns it to now. The
// zero value is real time. It is safe for concurrent use.
//
// It never runs ahead of a real verifier unless it is told to: history lies in
// the past and ends at now, because verifiers judge by real time.
type Clock struct {
	offset atomic.Int64 // nanoseconds added to real time
}

// Now is the sandbox's present.
func (c *Clock) Now() time.Time {
	// Round strips the monotonic reading: two times taken on either side of a
	// Rewind must compare by what they say.
	return time.Now().Add(time.Duration(c.offset.Load())).Round(0)
}

// Rewind sets the clock to the given time, from which it runs on. A time
// before Options.Start yields evidence that no verifier accepts, because the
// authorities did not exist then.
func (c *Clock) Rewind(to time.Time) {
	c.offset.Store(int64(time.Until(to)))
}

// Live returns the clock to real time.
func (c *Clock) Live() {
	c.offset.Store(0)
}
