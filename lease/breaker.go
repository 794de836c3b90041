package lease

import (
	"sync"
	"sync/atomic"
)

// Breaker keeps a store that does not answer from costing every call its timeout.
// The zero value is closed. It is safe for concurrent use.
//
// Closed, it lets every call go. A failure opens it; then one call at a time is
// let go as a probe, at growing intervals, and the others are told at once. Any
// success closes it, also one of a call that went out before.
type Breaker struct {
	// Random returns random bits, so that clients do not probe in step; nil is
	// none. It is set before the first use.
	Random func() uint64

	open atomic.Bool

	mu      sync.Mutex
	wait    int64 // nanoseconds between probes, without the jitter
	probe   int64 // when the next one may go; while one is under way, when it counts as lost
	probing bool  // one is under way
	opened  int64 // when it opened
}

// The wait between probes doubles from the first to the last.
const (
	firstProbe = 100_000_000
	lastProbe  = 2_000_000_000
	// lostProbe is when a probe without an outcome counts as lost, whose caller
	// has left without a word.
	lostProbe = 10_000_000_000
)

// Open tells whether the last that was heard of the store is a failure.
func (b *Breaker) Open() bool { return b.open.Load() }

// Since is when it opened, while it is open.
func (b *Breaker) Since() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opened
}

// Go tells whether a call may go to the store. A call that may has to report
// Success or Failure.
func (b *Breaker) Go(now int64) bool {
	if !b.open.Load() {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.open.Load():
		return true
	case now < b.probe:
		return false
	}
	b.probe, b.probing = now+lostProbe, true
	return true
}

// Success reports that the store has answered. It tells whether that has closed
// the breaker.
func (b *Breaker) Success() (closed bool) {
	if !b.open.Load() {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	closed = b.open.Load()
	b.open.Store(false)
	b.wait, b.probing = 0, false
	return closed
}

// Failure reports that the store has not answered, or cannot decide. It tells
// whether that has opened the breaker.
func (b *Breaker) Failure(now int64) (opened bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch opened = !b.open.Load(); {
	case opened:
		b.opened = now
	case !b.probing: // of a call that went out before
		return false
	}
	b.probing = false
	b.wait = min(max(2*b.wait, firstProbe), lastProbe)
	jitter := int64(0)
	if b.Random != nil {
		jitter = int64(b.Random() % uint64(b.wait/2))
	}
	b.probe = now + b.wait/2 + jitter
	b.open.Store(true)
	return opened
}
