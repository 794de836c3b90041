package raftnode

import (
	"context"
	"sync"
	"time"
)

// Clock reads a steady clock of the machine: nanoseconds since an arbitrary
// origin. No wall clock is one: whoever may set the time may not move a bucket.
// But see [WallClock].
type Clock interface {
	Now() int64
}

// WallClock is the machine's time of day, in nanoseconds since 1970. Only windows
// of the calendar come from it, and only through entries that slew: see
// [fsm.EncodeClock].
func WallClock() Clock { return wallClock{} }

type wallClock struct{}

// Now implements [Clock].
func (wallClock) Now() int64 { return time.Now().UnixNano() }

const (
	// maxStep is the largest growth between two readings that counts. A larger
	// one is a jump: the clock was stepped, or nobody ran to read it.
	maxStep = int64(time.Second)

	// readEvery is how often [Steady.Run] reads the clock: ten times within
	// maxStep, so that a busy machine is not mistaken for a jump.
	readEvery = 100 * time.Millisecond
)

// Steady is a guard over a [Clock] that no jump can move. It adds up the
// growth between readings and counts a growth below 0 or above one second as
// nothing, so it must be read often: a node runs [Steady.Run] beside its uses.
//
// One machine alone cannot tell a clock that was stepped forward from a
// machine that was suspended for as long, so both count as nothing. That is
// the safe side: time that runs slow admits less, time that runs fast admits
// too much. Nothing is lost for the cluster by it, since a leader that was
// suspended is deposed by others who did measure meanwhile.
//
// A forward step of less than a second between two readings looks like a late
// reading and counts; nothing but a faulty clock source makes one.
//
// A Steady is safe for concurrent use.
type Steady struct {
	clock Clock

	mu    sync.Mutex // also held while the clock is read: readings keep their order
	last  int64      // the last reading
	high  int64      // growth is counted from here; last <= high <= last + maxStep
	sum   int64      // what was counted; never shrinks
	jumps uint64
}

// NewSteady returns a guard over c that stands at 0.
func NewSteady(c Clock) *Steady {
	now := c.Now()
	return &Steady{clock: c, last: now, high: now}
}

// Now returns the nanoseconds counted since the guard was made. It never
// shrinks, and between any two calls grows by no more than the clock did.
func (s *Steady) Now() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	switch d := now - s.high; {
	case d > maxStep, d < -maxStep:
		s.jumps++
		s.high = now
	case d >= 0:
		s.sum += d
		s.high = now
	case now < s.last:
		// A small step back: stand still until the clock is where it was.
		// Counting on from here would count the same stretch twice when the
		// clock only wavered.
		s.jumps++
	}
	s.last = now
	return s.sum
}

// Jumps returns how many steps of the clock were not counted.
func (s *Steady) Jumps() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.jumps
}

// Run reads the clock ten times a second until ctx ends, so that no growth is
// lost while nobody else reads.
func (s *Steady) Run(ctx context.Context) {
	t := time.NewTicker(readEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.Now()
		}
	}
}
