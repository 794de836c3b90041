package load

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// Bounds of a run.
const (
	maxConcurrency = 100_000
	maxRate        = 1_000_000_000
)

// Store is what takes are driven at: a [*client.Client].
type Store interface {
	Take(ctx context.Context, policy, key string, cost int64, opts ...client.TakeOption) (client.Decision, error)
	TakeBatch(ctx context.Context, requests []client.Request, opts ...client.BatchOption) ([]client.BatchResult, error)
}

// Config is a load.
type Config struct {
	Policy       string        // must exist
	Keys         int           // how many there are
	Distribution string        // of the takes over the keys: "uniform", "zipf" or "one"
	Concurrency  int           // callers
	Batch        int           // takes of a call; 1 is Take, which the client coalesces
	Cost         int64         // of a take
	Rate         int64         // takes a second, an open loop; 0 is a closed loop
	Warmup       time.Duration // before the measurement; 0 is none
	Duration     time.Duration // of the measurement
	Seed         uint64        // of the choice of keys
}

// Check tells what is wrong with a load, by the name of the flag.
func (c *Config) Check() error {
	switch {
	case c.Keys < 1 || c.Keys > maxKeys:
		return fmt.Errorf("keys is %d; it needs to be 1 to %d", c.Keys, maxKeys)
	case c.Distribution != Uniform && c.Distribution != Zipf && c.Distribution != One:
		return fmt.Errorf("distribution is %s, %s or %s, not %q", Uniform, Zipf, One, c.Distribution)
	case c.Concurrency < 1 || c.Concurrency > maxConcurrency:
		return fmt.Errorf("concurrency is %d; it needs to be 1 to %d", c.Concurrency, maxConcurrency)
	case c.Batch < 1 || c.Batch > api.MaxBatch:
		return fmt.Errorf("batch is %d; it needs to be 1 to %d", c.Batch, api.MaxBatch)
	case c.Rate < 0 || c.Rate > maxRate:
		return fmt.Errorf("rate is %d; it needs to be 1 to %d, or 0 for as fast as it goes", c.Rate, maxRate)
	case c.Cost < 1 || c.Cost > api.MaxCost:
		return fmt.Errorf("cost is %d; it needs to be 1 to %d", c.Cost, api.MaxCost)
	case c.Warmup < 0:
		return fmt.Errorf("warmup is %s; it needs to be 0 or more", c.Warmup)
	case c.Duration <= 0 || c.Duration > maxLatency:
		return fmt.Errorf("duration is %s; it needs to be above 0 and at most %s", c.Duration, api.Duration(maxLatency))
	}
	return nil
}

// Run warms up, measures and returns what came out. When ctx ends it makes no new
// calls, and returns what it has. Every second of the measurement it calls
// progress, if there is one.
//
// A refusal that every other take would meet as well, such as an unknown policy,
// ends the run with its error. Trouble that may pass does not: it is counted. Only
// if nothing at all was decided is the last of it Run's error.
func Run(ctx context.Context, s Store, c Config, progress func(Progress)) (*Result, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	names := makeKeys(c.Keys)
	spread := newSpread(c.Distribution, c.Keys)
	if c.Warmup > 0 {
		p := &phase{Config: c, store: s, length: c.Warmup, record: newRecorder()}
		p.run(ctx, names, spread, 0)
		if err := p.record.fatal(); err != nil {
			return nil, err
		}
	}
	p := &phase{Config: c, store: s, length: c.Duration, record: newRecorder()}
	stop := p.record.watch(progress)
	elapsed := p.run(ctx, names, spread, 1)
	stop()
	if err := p.record.fatal(); err != nil {
		return nil, err
	}
	r := p.record.result(c, elapsed)
	if r.Takes == 0 {
		return nil, p.record.lastError()
	}
	if r.Interrupted = ctx.Err() != nil; !r.Interrupted {
		r.Unsent = p.unsent()
	}
	return r, nil
}

// phase is the warm-up, or the measurement.
type phase struct {
	Config
	store  Store
	length time.Duration
	record *recorder

	start time.Time
	next  atomic.Int64 // open loop: number of the next call
	sent  atomic.Int64 // open loop: calls made
}

// run drives the load for the phase's length and returns how long it took, until
// the last answer.
func (p *phase) run(ctx context.Context, names keys, spread spread, nth uint64) time.Duration {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.start = time.Now()
	var callers sync.WaitGroup
	for i := range p.Concurrency {
		callers.Go(func() {
			c := &caller{phase: p, names: names, pick: spread.picker(p.Seed, nth<<32|uint64(i)), mine: p.record.part(i)}
			if p.Batch > 1 {
				c.requests = make([]client.Request, p.Batch)
				for j := range c.requests {
					c.requests[j] = client.Request{Policy: p.Policy, Cost: p.Cost}
				}
			}
			if err := c.run(ctx); err != nil {
				p.record.refuse(err)
				cancel(err)
			}
		})
	}
	callers.Wait()
	elapsed := time.Since(p.start)
	if ctx.Err() == nil {
		elapsed = max(elapsed, p.length) // the schedule's end counts, though the last call was earlier
	}
	return elapsed
}

// gap is the time between two calls of an open loop, in nanoseconds.
func (p *phase) gap() float64 { return 1e9 * float64(p.Batch) / float64(p.Rate) }

// unsent is how many takes of an open loop's schedule were not sent by its end.
func (p *phase) unsent() int64 {
	if p.Rate == 0 {
		return 0
	}
	due := int64(float64(p.length-1)/p.gap()) + 1
	return max(due-p.sent.Load(), 0) * int64(p.Batch)
}

// caller is one of the goroutines of a phase.
type caller struct {
	*phase
	names    keys
	pick     func() int
	mine     *part
	requests []client.Request // of a batch, filled in anew for each call
	touched  byte             // means nothing; see call
}

// run makes calls until the phase or ctx ends. Calls under way are never cut off:
// their outcome would be unknown.
func (c *caller) run(ctx context.Context) error {
	callCtx := context.WithoutCancel(ctx)
	wake := time.NewTimer(0)
	defer wake.Stop()
	for {
		intended, ok := c.turn(ctx, wake)
		if !ok {
			return nil
		}
		if err := c.call(callCtx, intended); err != nil {
			return err
		}
	}
}

// turn waits for the time of the caller's next call and returns it. ok is false
// at the end.
func (c *caller) turn(ctx context.Context, wake *time.Timer) (intended time.Time, ok bool) {
	if c.Rate == 0 {
		now := time.Now()
		return now, now.Sub(c.start) < c.length && ctx.Err() == nil
	}
	at := time.Duration(float64(c.next.Add(1)-1) * c.gap())
	if at >= c.length {
		return time.Time{}, false
	}
	intended = c.start.Add(at)
	if wait := time.Until(intended); wait > 0 {
		wake.Reset(wait)
		select {
		case <-wake.C:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil || time.Since(c.start) >= c.length {
		return time.Time{}, false
	}
	c.sent.Add(1)
	return intended, true
}

// call makes one call and notes what came of it. Its error is one that ends the
// run.
func (c *caller) call(ctx context.Context, intended time.Time) error {
	var n tally
	var err error
	if c.requests == nil {
		var d client.Decision
		d, err = c.store.Take(ctx, c.Policy, c.names.at(c.pick()), c.Cost)
		err = n.count(d.Allowed, err)
	} else {
		for i := range c.requests {
			c.requests[i].Key = c.names.at(c.pick())
		}
		// Names lie all over memory, as those of a server's requests do not: they have
		// just been read. In a loop so tight the processor waits for many at once.
		for i := range c.requests {
			c.touched += c.requests[i].Key[0]
		}
		var results []client.BatchResult
		results, err = c.store.TakeBatch(ctx, c.requests)
		if err != nil { // of every take in it
			for range c.requests {
				err = n.count(false, err)
			}
		}
		for i := range results {
			if e := n.count(results[i].Allowed, results[i].Err); err == nil {
				err = e
			}
		}
	}
	c.mine.add(&n, time.Since(intended))
	return err
}
