package drill

import (
	"slices"
	"sync"
	"time"

	"github.com/reseal/reseal/rotate"
)

// tracker turns single observations into times.
type tracker struct {
	mu        sync.Mutex
	consumers []*tracked
}

// tracked is one consumer.
type tracked struct {
	rotate.Consumer
	firstRogue time.Time
	closed     time.Time // since when nothing rogue is accepted; zero: something is
	artifacts  map[*artifact]*light
	out        int       // deployed good images that are refused now
	outSince   time.Time // while out > 0
	outage     time.Duration
}

// light is whether one deployed good image is accepted.
type light struct {
	at      time.Time // of the newest observation
	refused error
	ever    error // the first refusal
}

func newTracker(consumers []rotate.Consumer, firstRogue time.Time) *tracker {
	t := &tracker{}
	for _, c := range consumers {
		t.consumers = append(t.consumers, &tracked{Consumer: c, firstRogue: firstRogue, artifacts: map[*artifact]*light{}})
	}
	return t
}

func (t *tracker) of(consumer string) *tracked {
	return t.consumers[slices.IndexFunc(t.consumers, func(c *tracked) bool { return c.Name == consumer })]
}

// seen takes note of one probe of a deployed good image, begun at a time.
func (t *tracker) seen(consumer string, a *artifact, at time.Time, refused error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.of(consumer)
	l := c.artifacts[a]
	if l == nil {
		l = &light{}
		c.artifacts[a] = l
	}
	if at.Before(l.at) {
		// The watch and a sweep look at the same time: an older look that took
		// longer changes the past only.
		if refused != nil && l.ever == nil {
			l.ever = refused
		}
		return
	}
	was := l.refused
	l.at, l.refused = at, refused
	switch {
	case refused != nil && was == nil:
		if l.ever == nil {
			l.ever = refused
		}
		if c.out++; c.out == 1 {
			c.outSince = at
		}
	case refused == nil && was != nil:
		if c.out--; c.out == 0 {
			c.outage += at.Sub(c.outSince)
		}
	}
}

// swept takes note of what a whole sweep found of the attacker's.
func (t *tracker) swept(s sweep) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.consumers {
		switch {
		case len(s.rogue[c.Name]) > 0:
			c.closed = time.Time{}
		case c.closed.IsZero():
			c.closed = s.at
		}
	}
}

// consumer is how a consumer fared until now.
func (c *tracked) score(now time.Time) Consumer {
	out := Consumer{Name: c.Name, Reads: string(c.Reads), Exposed: c.closed.IsZero()}
	end, outage := c.closed, c.outage
	if out.Exposed {
		end = now
	}
	if c.out > 0 {
		outage += now.Sub(c.outSince)
	}
	out.Exposure, out.Outage = seconds(end.Sub(c.firstRogue)), seconds(outage)
	return out
}

// score returns how the consumers fared until now, and every image that was
// dark at any time, with the first reason.
func (t *tracker) score(now time.Time) (consumers []Consumer, dark map[*artifact]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	dark = map[*artifact]string{}
	for _, c := range t.consumers {
		consumers = append(consumers, c.score(now))
		for a, l := range c.artifacts {
			if l.ever != nil {
				dark[a] = c.Name + ": " + l.ever.Error()
			}
		}
	}
	return consumers, dark
}

// seconds rounds to milliseconds: what is beyond is noise.
func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }
