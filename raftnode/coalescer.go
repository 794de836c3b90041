package raftnode

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
	"github.com/rlstore/rlstore/policy"
)

// Proposal is one caller's operations for one shard.
type Proposal interface {
	// Batch holds the operations; their policy indexes index Sets.
	Batch() *api.Batch
	// Sets holds the resolved limits of each of Batch().Policies.
	Sets() []*policy.Set
	// Seal is called once, right before the proposal goes into an entry. False
	// says that its caller has gone: it is dropped, without a call of Done.
	Seal() bool
	// Done is called exactly once for a proposal that was not dropped, with the
	// encoded reply or an *api.Problem. It must not block.
	Done(reply []byte, err error)
}

const (
	// maxEntryBytes closes an entry. Larger ones gain nothing and delay the
	// next; one proposal alone may exceed it, up to the size of a body.
	maxEntryBytes = 256 << 10
	// maxQueueBytes and maxQueueProposals bound what waits for one shard: about
	// a quarter of a second of the fastest load measured.
	maxQueueBytes     = 16 << 20
	maxQueueProposals = 64 << 10
	// maxInFlight entries overlap one entry's disk write and replication with
	// the gathering of the next; more would only make entries smaller.
	maxInFlight = 2
	// overlapBytes must wait before a second entry goes out: while the first is
	// on its way to the disks, a small one would cost them another write each,
	// and what waits gathers instead.
	overlapBytes = 64 << 10
	// enqueueTimeout bounds the hand-over of an entry to Raft's main loop, which
	// is busy for the length of one write of the log.
	enqueueTimeout = 5 * time.Second
	// tickAfter idle time, a leader whose machine holds buckets, request ids or
	// sessions proposes an entry that only carries time: it drops the full, the
	// forgotten and the idle ones.
	tickAfter = 5 * time.Second
	// settleGrace is how long a closing coalescer still waits for an entry that
	// Raft, which is shut down by then, has answered or never will.
	settleGrace = 100 * time.Millisecond
)

// coalescer turns proposals into log entries: one goroutine seals all that
// waits, with no timer, into one entry; a second one hands results back in
// order. Batches grow by themselves as the disk gets slower.
type coalescer struct {
	group   uint32
	log     proposer
	time    *Timekeeper
	wall    Clock
	holds   func() fsm.Stats // of the group's machine
	overlap int              // overlapBytes, but in tests
	metrics *groupMetrics

	mu       sync.Mutex // guards the next five
	open     bool       // this node leads, and is not handing over
	queue    []Proposal
	bytes    int           // of operations in queue
	inFlight int           // entries with Raft
	idle     chan struct{} // non-nil: closed when inFlight falls to 0

	wake  chan struct{}      // capacity 1: the queue is not empty, or a slot is free
	calls chan proposedEntry // capacity maxInFlight
	stop  chan struct{}
	done  sync.WaitGroup
}

// proposer is the part of *raft.Raft that a coalescer uses.
type proposer interface {
	Apply(entry []byte, enqueue time.Duration) raft.ApplyFuture
}

// proposedEntry is an entry with Raft. It owns its proposals.
type proposedEntry struct {
	future    raft.ApplyFuture
	proposals []Proposal
	start     time.Time
}

func newCoalescer(group uint32, log proposer, t *Timekeeper, wall Clock, holds func() fsm.Stats, gm *groupMetrics) *coalescer {
	c := &coalescer{
		group: group, log: log, time: t, wall: wall, holds: holds, overlap: overlapBytes, metrics: gm,
		wake:  make(chan struct{}, 1),
		calls: make(chan proposedEntry, maxInFlight),
		stop:  make(chan struct{}),
	}
	c.done.Add(2)
	go c.seal()
	go c.complete()
	return c
}

// submit queues p, or completes it at once when it can't be taken.
func (c *coalescer) submit(p Proposal) {
	size := len(p.Batch().Ops)
	c.mu.Lock()
	var refused *api.Problem
	switch {
	case !c.open:
		refused = notLeader(c.group)
	case len(c.queue) >= maxQueueProposals || c.bytes > 0 && c.bytes+size > maxQueueBytes:
		refused = api.NewProblem(api.Overloaded, "the queue of shard %d is full", c.group)
		refused.RetryAfter = time.Second
	default:
		c.queue = append(c.queue, p)
		c.bytes += size
	}
	c.mu.Unlock()
	if refused != nil {
		if p.Seal() {
			p.Done(nil, refused)
		}
		return
	}
	c.signal()
}

func (c *coalescer) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// setOpen lets proposals in, or refuses those that wait and all that come.
func (c *coalescer) setOpen(open bool) {
	c.mu.Lock()
	c.open = open
	var refused []Proposal
	if !open {
		refused, c.queue, c.bytes = c.queue, nil, 0
	}
	c.mu.Unlock()
	for _, p := range refused {
		if p.Seal() {
			p.Done(nil, notLeader(c.group))
		}
	}
}

// quiesce refuses new proposals and waits until no entry is in flight, so that
// a hand-over of the leadership leaves no outcome unknown.
func (c *coalescer) quiesce(ctx context.Context) error {
	c.setOpen(false)
	c.mu.Lock()
	if c.inFlight == 0 {
		c.mu.Unlock()
		return nil
	}
	if c.idle == nil {
		c.idle = make(chan struct{})
	}
	idle := c.idle
	c.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// depth is the number of proposals and of bytes that wait.
func (c *coalescer) depth() (proposals, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue), c.bytes
}

// close refuses what waits and ends the goroutines, once the entries with Raft
// have their outcome: shut Raft down first. Those that it leaves without one are
// of unknown outcome.
func (c *coalescer) close() {
	c.setOpen(false)
	close(c.stop)
	c.done.Wait()
}

// seal is the goroutine that makes entries.
func (c *coalescer) seal() {
	defer c.done.Done()
	defer close(c.calls)
	var w fsm.EntryWriter
	tick := time.NewTimer(tickAfter)
	defer tick.Stop()
	clock := time.NewTicker(fsm.ClockInterval)
	defer clock.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-c.wake:
			for c.sealOne(&w) {
			}
			tick.Reset(tickAfter)
		case <-tick.C:
			// Does the machine hold what time alone makes obsolete?
			if s := c.holds(); s.Buckets > 0 || s.DedupIDs > 0 || s.Sessions > 0 || s.Holds > 0 || s.Settled > 0 {
				c.propose(fsm.EncodeTick)
			}
			tick.Reset(tickAfter)
		case <-clock.C:
			if c.holds().Calendar > 0 {
				c.propose(func(stamp uint64) []byte { return fsm.EncodeClock(stamp, c.wall.Now()) })
			}
		}
	}
}

// take removes up to one entry's worth from the queue and claims a slot.
func (c *coalescer) take() []Proposal {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open || len(c.queue) == 0 || c.inFlight == maxInFlight ||
		c.inFlight > 0 && c.bytes < c.overlap {
		return nil
	}
	n, size := 0, 0
	for n < len(c.queue) {
		size += len(c.queue[n].Batch().Ops)
		if n > 0 && size > maxEntryBytes {
			size -= len(c.queue[n].Batch().Ops)
			break
		}
		n++
	}
	taken := c.queue[:n:n]
	if c.queue = c.queue[n:]; len(c.queue) == 0 {
		c.queue = nil // taken keeps the array
	}
	c.bytes -= size
	c.inFlight++
	return taken
}

// release gives a slot back.
func (c *coalescer) release() {
	c.mu.Lock()
	c.inFlight--
	if c.inFlight == 0 && c.idle != nil {
		close(c.idle)
		c.idle = nil
	}
	c.mu.Unlock()
	c.signal()
}

// sealOne proposes one entry; false when nothing waits or no slot is free.
func (c *coalescer) sealOne(w *fsm.EntryWriter) bool {
	taken := c.take()
	if taken == nil {
		return false
	}
	w.Reset()
	sealed := taken[:0]
	for _, p := range taken {
		if p.Seal() {
			w.Add(p.Batch(), p.Sets())
			sealed = append(sealed, p)
		}
	}
	if len(sealed) == 0 {
		c.release()
		return true
	}
	ops := w.Ops()
	entry := w.Seal(c.time.Now())
	c.metrics.entry(len(entry), ops)
	start := time.Now()
	c.calls <- proposedEntry{c.log.Apply(entry, enqueueTimeout), sealed, start}
	return true
}

// propose proposes an entry without operations, if a slot is free: another one
// will follow.
func (c *coalescer) propose(entry func(stamp uint64) []byte) {
	c.mu.Lock()
	ok := c.open && c.inFlight < maxInFlight
	if ok {
		c.inFlight++
	}
	c.mu.Unlock()
	if ok {
		c.calls <- proposedEntry{c.log.Apply(entry(c.time.Now()), enqueueTimeout), nil, time.Now()}
	}
}

// complete is the goroutine that hands results back, in the order of entries.
func (c *coalescer) complete() {
	defer c.done.Done()
	for e := range c.calls {
		err := c.settle(e.future)
		c.metrics.committed(time.Since(e.start), err)
		if err != nil {
			problem := outcome(c.group, err)
			for _, p := range e.proposals {
				p.Done(nil, problem)
			}
		} else if e.proposals != nil {
			applied := e.future.Response().(*fsm.Applied)
			for i, p := range e.proposals {
				p.Done(applied.Replies[i], nil)
			}
		}
		c.release()
	}
}

// settle waits for an entry's outcome. Raft never answers an entry that was
// committed but not applied yet when it shut down, so a coalescer that closes
// does not wait for it.
func (c *coalescer) settle(f raft.ApplyFuture) error {
	settled := answered(f)
	select {
	case err := <-settled:
		return err
	case <-c.stop:
	}
	select {
	case err := <-settled:
		return err
	case <-time.After(settleGrace):
		return raft.ErrRaftShutdown
	}
}
