package sim

import (
	"sync"
	"time"
)

// clock is the boot clock of one node, or its time of day: true time, which it may run ahead of or
// behind by a rate, plus whatever jumps it has made.
type clock struct {
	mu    sync.Mutex
	true0 time.Time     // when rate was set
	base  time.Duration // what the clock showed then
	ppm   int64         // parts in a million by which it runs fast; negative is slow
}

func newClock(start time.Duration) *clock { return &clock{true0: time.Now(), base: start} }

// Now implements raftnode.Clock.
func (c *clock) Now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(c.now())
}

func (c *clock) now() time.Duration {
	d := time.Since(c.true0)
	return c.base + d + time.Duration(int64(d)/1000*c.ppm/1000)
}

// jump moves the clock at once.
func (c *clock) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base += d
}

// drift sets its rate from now on.
func (c *clock) drift(ppm int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base = c.now()
	c.true0, c.ppm = time.Now(), ppm
}
