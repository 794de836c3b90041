package client

import "time"

// Clock is the time by which leases and local buckets go. It never runs back.
// The default is the machine's monotonic clock; package rltest has one that a
// test moves.
type Clock interface {
	// Now is the time since any moment, which stays the same.
	Now() time.Duration
	// AfterFunc calls f once, d from now on, and not before it returns. stop
	// prevents that if it is not too late.
	AfterFunc(d time.Duration, f func()) (stop func())
}

// WithClock sets the time by which leases and local buckets go. Timeouts go by the
// machine's clock in any case.
func WithClock(clock Clock) Option { return func(c *config) { c.clock = clock } }

// monotonic is the machine's clock.
type monotonic struct{ start time.Time }

// Now implements [Clock].
func (m monotonic) Now() time.Duration { return time.Since(m.start) }

// AfterFunc implements [Clock].
func (m monotonic) AfterFunc(d time.Duration, f func()) (stop func()) {
	t := time.AfterFunc(d, f)
	return func() { t.Stop() }
}
