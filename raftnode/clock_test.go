package raftnode

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeClock is set by hand.
type fakeClock struct{ now atomic.Int64 }

func (c *fakeClock) Now() int64              { return c.now.Load() }
func (c *fakeClock) advance(d time.Duration) { c.now.Add(int64(d)) }

func TestBootClockMovesForward(t *testing.T) {
	c := BootClock()
	a := c.Now()
	eventually(t, "the clock moves", func() bool { return c.Now() > a })
}

func TestSteadyCountsGrowthAndNoJump(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		steps []time.Duration // of the clock, with a reading after each
		want  time.Duration
		jumps uint64
	}{
		"small steps":                {[]time.Duration{1, 100 * ms, 0, 5 * ms}, 105*ms + 1, 0},
		"just the largest step":      {[]time.Duration{time.Second}, time.Second, 0},
		"a step too far":             {[]time.Duration{time.Second + 1}, 0, 1},
		"goes on after a jump":       {[]time.Duration{10 * ms, time.Hour, 10 * ms}, 20 * ms, 1},
		"goes on after a jump back":  {[]time.Duration{10 * ms, -time.Hour, 10 * ms}, 20 * ms, 1},
		"there and back":             {[]time.Duration{time.Hour, 5 * ms, -time.Hour, 5 * ms}, 10 * ms, 2},
		"wavering counts once":       {[]time.Duration{10 * ms, -4 * ms, 4 * ms, -4 * ms, 4 * ms}, 10 * ms, 2},
		"stands still behind itself": {[]time.Duration{10 * ms, -500 * ms, 400 * ms, 100 * ms, 7 * ms}, 17 * ms, 1},
	} {
		clock := new(fakeClock)
		clock.advance(time.Hour)
		s := NewSteady(clock)
		var last int64
		for _, d := range c.steps {
			clock.advance(d)
			now := s.Now()
			if now < last {
				t.Errorf("%s: went back from %d to %d", name, last, now)
			}
			last = now
		}
		if got := time.Duration(s.Now()); got != c.want || s.Jumps() != c.jumps {
			t.Errorf("%s: counted %v with %d jumps, want %v with %d", name, got, s.Jumps(), c.want, c.jumps)
		}
	}
}

func TestSteadyIsNoFasterThanItsClockUnderConcurrentReaders(t *testing.T) {
	c := BootClock()
	begin := c.Now()
	s := NewSteady(c)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			last := int64(0)
			for range 5000 {
				now := s.Now()
				if now < last {
					t.Errorf("went back from %d to %d", last, now)
				}
				last = now
			}
		})
	}
	wg.Wait()
	if got := s.Now(); got > c.Now()-begin || s.Jumps() > 0 {
		t.Errorf("counted %d ns of %d, %d jumps", got, c.Now()-begin, s.Jumps())
	}
}

// bubbleClock is synctest's time.
type bubbleClock struct{}

func (bubbleClock) Now() int64 { return time.Now().UnixNano() }

func TestSteadyLosesNothingWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSteady(bubbleClock{})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { s.Run(ctx) })
		time.Sleep(time.Hour)
		if got := time.Duration(s.Now()); got != time.Hour {
			t.Errorf("counted %v of an hour", got)
		}
		cancel()
		wg.Wait()
		time.Sleep(time.Hour)
		if got := time.Duration(s.Now()); got != time.Hour {
			t.Errorf("counted %v, an hour of it unwatched", got)
		}
	})
}

func BenchmarkSteadyNow(b *testing.B) {
	s := NewSteady(BootClock())
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s.Now()
		}
	})
}
