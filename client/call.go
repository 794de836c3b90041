package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/lease"
)

// item is one operation on its way: what to do, and where the answer goes.
type item struct {
	call *call // nil once answered
	at   int   // index into call.out

	kind      api.Kind
	inline    bool  // policy is a JSON array of limits
	both      bool  // limits and a policy were given
	atomic    bool  // part of an atomic batch
	tries     uint8 // times it had to look for its shard again
	policy    string
	key       string
	cost      int64 // of the kinds that have one, else 0
	maxWait   int64 // of a take: milliseconds
	requestID string
	hold      *api.Hold // of the kinds that have one, else nil
	instance  uint64    // of a sync
}

// op is the item's operation, but for the policy.
func (it *item) op() api.Op {
	return api.Op{Kind: it.kind, Cost: it.cost, Key: it.key, RequestID: it.requestID, MaxWait: it.maxWait, Hold: it.hold, Instance: it.instance}
}

// slot is the slot that the item belongs to.
func (it *item) slot() uint16 {
	if it.kind.OnHold() {
		return it.hold.ID.Slot()
	}
	return api.Slot(it.key)
}

// check finds what the store would refuse, so that one caller's mistake never
// reaches a batch of many callers.
func (it *item) check() error {
	op := it.op()
	if it.maxWait != 0 && it.kind != api.Take {
		return refuse(api.NewProblem(api.InvalidRequest, "a %s does not wait", it.kind))
	}
	if err := op.Check(); err != nil {
		return refuseLocally(err)
	}
	if it.kind.OnHold() {
		return nil
	}
	if it.policy == "" || it.both {
		return refuse(api.NewProblem(api.InvalidRequest, "a request needs either a policy or limits"))
	}
	if len(it.policy) > maxPolicyName && !it.inline {
		return refuse(api.NewProblem(api.UnknownPolicy, "there is no policy %.140q", it.policy))
	}
	return nil
}

const maxPolicyName = 129 // namespace/name, 64 bytes each

// size is at least what the item takes in a batch, without its policy.
func (it *item) size() int {
	n := len(it.key) + len(it.requestID) + 16
	if it.hold != nil {
		n += 32
	}
	if it.inline {
		n += len(it.policy)
	}
	return n
}

// call is one caller waiting for the answers to its items.
//
// Calls are pooled, and done is reused, so that a take allocates next to
// nothing. A call that failed is not reused: flights may still hold it.
type call struct {
	// done gets one element when nothing is left to wait for.
	done chan struct{}
	// deadline is when the client's own timeout ends, in nanoseconds of
	// Client.now; 0 when the context has a deadline of its own.
	deadline atomic.Int64

	mu     sync.Mutex
	failed bool          // no more answers are taken
	left   int           // items without an answer
	out    []BatchResult // owned by the caller after done
	where  []*batch      // of each item: the batch it is in; nil if certainly not applied; or answered

	// Of a call of one item, which is not a take.
	refunded  int64
	rate, per int64 // of the limit that binds
	hold      api.HoldOutcome

	ask *lease.Ask // that it carries, with nobody waiting; or nil
	m   *memory    // whose ask it is

	oneOut   [1]BatchResult
	oneWhere [1]*batch
}

// answered marks items that have their answer.
var answered = new(batch)

// newCall returns a call for n items, bounded by the client's own timeout if
// ctx has no deadline.
func (c *Client) newCall(ctx context.Context, n int) *call {
	w, _ := c.calls.Get().(*call)
	if w == nil {
		w = &call{done: make(chan struct{}, 1)}
	}
	w.left = n
	if n == 1 {
		w.out, w.where = w.oneOut[:], w.oneWhere[:]
	} else {
		w.out, w.where = make([]BatchResult, n), make([]*batch, n)
	}
	if _, ok := ctx.Deadline(); !ok {
		w.deadline.Store(c.now() + int64(c.timeout))
	} else {
		w.deadline.Store(0)
	}
	return w
}

// recycle takes a call back whose answers were copied out. The pool is the
// client's own, since batches that are about to end may still name the call.
func (c *Client) recycle(w *call) {
	if w.failed {
		return
	}
	w.oneOut[0], w.oneWhere[0] = BatchResult{}, nil
	w.out, w.where = nil, nil
	w.refunded, w.rate, w.per, w.hold = 0, 0, 0, api.HoldOutcome{}
	w.ask, w.m = nil, nil
	c.calls.Put(w)
}

// wait returns when every item has its answer, or ctx ended.
func (w *call) wait(ctx context.Context) {
	select {
	case <-w.done:
	case <-ctx.Done():
		w.fail(ctx.Err(), 0)
		<-w.done
	}
}

// answer gives item i its answer. It is for those who hold w.mu, and must be
// their last deed to w but unlocking it.
func (w *call) answer(i int) {
	w.where[i] = answered
	if w.left--; w.left > 0 {
		return
	}
	if w.ask == nil {
		w.done <- struct{}{}
		return
	}
	// Not here: locks are held, and this may send the next ask.
	w.m.c.running.Add(1)
	go w.m.ended(w)
}

// fail ends the wait because of cause: items without an answer get an error
// that tells what is known of them. With now, it does so only if the client's
// timeout has passed.
func (w *call) fail(cause error, now int64) {
	w.mu.Lock()
	if d := w.deadline.Load(); now != 0 && (d == 0 || d > now) || w.failed || w.left == 0 {
		w.mu.Unlock()
		return
	}
	w.failed = true // from here on, out and where are ours
	w.mu.Unlock()

	errs := map[*batch]error{}
	for i, b := range w.where {
		if b == answered {
			continue
		}
		err, ok := errs[b]
		if !ok {
			kind, why := ErrUnavailable, error(nil)
			if b != nil {
				var applied bool
				if applied, why = b.lane.leave(b, w); applied {
					kind = ErrOutcomeUnknown
				}
				if !errors.Is(cause, ErrClosed) {
					b.lane.notHeardOf(why)
				}
			}
			err = fail(kind, why, cause)
			errs[b] = err
		}
		w.out[i].Err = err
	}
	if w.ask != nil {
		w.m.end(w)
		return
	}
	w.done <- struct{}{}
}

// The client's own timeout costs no timer a call: all such calls have the same
// timeout, so one timer for the earliest of them serves all.

// now is the time since the client was made, in nanoseconds, never 0.
func (c *Client) now() int64 { return int64(time.Since(c.start)) + 1 }

// watch makes sure that reap runs at the time at, or before.
func (c *Client) watch(at int64) {
	if at == 0 {
		return
	}
	if next := c.reapAt.Load(); next != 0 && next <= at {
		return
	}
	c.reaperMu.Lock()
	defer c.reaperMu.Unlock()
	if next := c.reapAt.Load(); next != 0 && next <= at || c.closed.Load() {
		return
	}
	c.reapAt.Store(at)
	d := time.Duration(max(at-c.now(), 0))
	if c.reaper == nil {
		c.reaper = time.AfterFunc(d, c.reap)
	} else {
		c.reaper.Reset(d)
	}
}

// reap fails the calls whose time is up, and goes on watching the others.
func (c *Client) reap() {
	// First this: a call enqueued from now on is watched anew, and one enqueued
	// before is found below.
	c.reapAt.Store(0)
	now, next := c.now(), int64(0)
	var due []*call
	for _, l := range c.dir.allLanes() {
		due, next = l.overdue(now, due, next)
	}
	cause := fmt.Errorf("no answer within the client's timeout of %v: %w", c.timeout, context.DeadlineExceeded)
	for _, w := range due {
		w.fail(cause, now)
	}
	c.watch(next)
}
