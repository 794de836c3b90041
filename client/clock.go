package client

import "github.com/rlstore/rlstore/lease"

// Clock is the time by which leases and local buckets go. It never runs back.
// The default is the machine's monotonic clock; package rltest has one that a
// test moves.
type Clock = lease.Clock

// WithClock sets the time by which leases and local buckets go. Timeouts go by the
// machine's clock in any case.
func WithClock(clock Clock) Option { return func(c *config) { c.clock = clock } }
