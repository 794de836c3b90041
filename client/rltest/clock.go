package rltest

import (
	"sync"
	"time"
)

// clock is the store's time as its clients see it, a [client.Clock]: leases and
// local buckets go by it, so that they move as the store does.
type clock struct {
	node *node

	mu     sync.Mutex
	timers map[*timer]bool
}

// timer is a call that is due at some time.
type timer struct {
	at   time.Duration
	f    func()
	real *time.Timer // if time passes by itself
}

// Now implements [client.Clock].
func (c *clock) Now() time.Duration {
	c.node.mu.Lock()
	defer c.node.mu.Unlock()
	return c.node.elapsed()
}

// AfterFunc implements [client.Clock].
func (c *clock) AfterFunc(d time.Duration, f func()) (stop func()) {
	t := &timer{at: c.Now() + d, f: f}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timers == nil {
		c.timers = map[*timer]bool{}
	}
	c.timers[t] = true
	if !c.node.since.IsZero() {
		t.real = time.AfterFunc(d, func() { c.fire(t) })
	}
	return func() { c.take(t) }
}

// take tells whether t is still to be called, and sees to it that nobody else does.
func (c *clock) take(t *timer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	had := c.timers[t]
	delete(c.timers, t)
	if t.real != nil {
		t.real.Stop()
	}
	return had
}

func (c *clock) fire(t *timer) {
	if c.take(t) {
		t.f()
	}
}

// due calls what has become due, the earliest first.
func (c *clock) due() {
	for {
		now := c.Now()
		var first *timer
		c.mu.Lock()
		for t := range c.timers {
			if t.at <= now && (first == nil || t.at < first.at) {
				first = t
			}
		}
		c.mu.Unlock()
		if first == nil {
			return
		}
		c.fire(first)
	}
}
