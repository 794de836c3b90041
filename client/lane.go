package client

import (
	"context"
	"crypto/rand"
	mathrand "math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/lease"
)

// Bounds of a batch.
const (
	joinOps   = 4096    // operations of a batch that others may still join
	largeOps  = 512     // operations that do not wait for a batch to land
	joinBytes = 1 << 20 // and its size; a larger entry only delays its shard
	partBytes = 2 << 20 // of one caller's own part; with its policies it stays below api.MaxBody
)

// lane carries the operations of one shard: callers push items onto the queue,
// flights take batches off it.
//
// A flight is a goroutine that is started when there is something to carry and
// fewer than maxInFlight of them; it carries batches until the queue is empty,
// and ends. So there is no goroutine while nothing happens, and none a call.
type lane struct {
	c     *Client
	shard uint32

	mu       sync.Mutex
	closed   bool
	queue    []*batch // not sealed, oldest first; the last may be joined
	flying   []*batch // sealed
	flights  int      // goroutines, those included that have not looked at the queue yet
	starting int      // those
	session  [16]byte
	seq      uint64 // the last one given out in this session
	waiting  int64  // since when something waits without an answer, if something does; of Client.now
	failed   error  // why the last call failed that got none

	breaker lease.Breaker
	heard   atomic.Int64 // when the store answered last, of memory.now
}

// batch is what goes out in one request: one session number. Its fields are
// guarded by lane.mu; only the flight that carries it changes them once it is
// sealed.
type batch struct {
	lane   *lane
	items  []item
	bytes  int
	own    bool // nobody else may join
	atomic bool

	sealed  bool
	session api.Session
	live    int                // items whose caller still waits
	gone    map[*call]bool     // callers that left after sealing
	cancel  context.CancelFunc // ends the flight; nil before it
	attempt *attempt           // on the wire now, or nil
	body    []byte             // encoded; the flight's own
	touched byte               // means nothing, but keeps the compiler from leaving touch out
	stale   bool               // callers have left: number and encode it anew

	// applied: an attempt reached the store, and no answer said that it did
	// nothing. Only the answer to the batch itself clears the doubt.
	applied bool
	why     error // the last thing that went wrong; nil while nothing has
}

func newLane(c *Client, shard uint32) *lane {
	l := &lane{c: c, shard: shard}
	l.breaker.Random = mathrand.Uint64
	l.heard.Store(c.memory.now())
	l.newSession()
	return l
}

// newSession starts counting anew, under a name that the store has never seen.
func (l *lane) newSession() {
	rand.Read(l.session[:]) // never fails
	l.seq = 0
}

// itemSlices recycles the memory of items, the largest thing on their way.
var itemSlices = sync.Pool{New: func() any { s := make([]item, 0, 64); return &s }}

func newItems() []item { return *itemSlices.Get().(*[]item) }

// freeItems takes back what nobody looks at any more.
func freeItems(items []item) {
	if cap(items) <= 2*joinOps {
		clear(items)
		items = items[:0]
		itemSlices.Put(&items)
	}
}

// push queues items, in order. Items whose call has failed meanwhile are
// dropped. own keeps them apart from others in a batch of their own.
//
// It returns the earliest deadline, or 0; watching it is left to the caller.
func (l *lane) push(items []item, own, atomic bool) (deadline int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, fail(ErrClosed, nil, ErrUnavailable)
	}
	if len(l.queue) == 0 && len(l.flying) == 0 {
		l.waiting = l.c.now()
	}
	var b *batch
	if n := len(l.queue); n > 0 && !own {
		b = l.queue[n-1]
	}
	if b == nil || !b.takes(items) {
		b = &batch{lane: l, own: own, atomic: atomic, items: newItems()}
		l.queue = append(l.queue, b)
	}
	for i := 0; i < len(items); {
		w := items[i].call
		w.mu.Lock()
		for ; i < len(items) && items[i].call == w; i++ {
			if w.failed {
				continue
			}
			w.where[items[i].at] = b
			b.items = append(b.items, items[i])
			b.bytes += items[i].size()
			b.live++
		}
		if d := w.deadline.Load(); d != 0 && (deadline == 0 || d < deadline) {
			deadline = d
		}
		w.mu.Unlock()
	}
	if b.live == 0 {
		l.queue = l.queue[:len(l.queue)-1] // a new batch, all of whose callers are gone
		return deadline, nil
	}
	l.launch()
	return deadline, nil
}

// takes tells whether items may join.
func (b *batch) takes(items []item) bool {
	if b.own {
		return false
	}
	size := 0
	for i := range items {
		size += items[i].size()
	}
	return len(b.items)+len(items) <= joinOps && b.bytes+size <= joinBytes
}

// launch starts a flight if one is needed. l.mu is held.
//
// While a small batch is on its way the others gather behind it: measured on a
// busy store, that is worth more than having them leave at once. So another
// flight starts only for a batch that is large by itself, or if those that fly
// have met trouble.
func (l *lane) launch() {
	if len(l.queue) <= l.starting || l.flights >= l.c.maxInFlight || l.closed {
		return
	}
	waiting := 0
	for _, b := range l.queue {
		waiting += len(b.items)
	}
	for _, b := range l.flying {
		if b.why == nil && waiting < largeOps {
			return
		}
	}
	l.flights++
	l.starting++
	l.c.running.Add(1)
	go l.fly()
}

// fly carries batches until none waits.
func (l *lane) fly() {
	defer l.c.running.Done()
	runtime.Gosched() // see below
	l.mu.Lock()
	l.starting--
	for {
		if len(l.queue) == 0 || l.closed {
			l.flights--
			l.mu.Unlock()
			return
		}
		b := l.queue[0]
		l.queue = slices.Delete(l.queue, 0, 1)
		ctx, cancel := context.WithTimeout(l.c.ctx, patience)
		b.sealed, b.cancel = true, cancel
		l.flying = append(l.flying, b)
		l.launch() // for what is left, if this is not the last slot
		l.mu.Unlock()

		l.carry(ctx, b)

		cancel()
		// Callers that are ready to run may want to come along: those that this batch
		// has just answered, above all. Where nothing else is to run, this takes no time.
		runtime.Gosched()
		l.mu.Lock()
		l.flying = slices.DeleteFunc(l.flying, func(f *batch) bool { return f == b })
		l.release(b)
	}
}

// release gives a batch's memory back. Callers that still point to b find no
// items, and what became of them in b.applied.
func (l *lane) release(b *batch) {
	freeItems(b.items)
	b.items, b.body = nil, nil
}

// number gives b the next number of the session, without the callers that have
// left it since it had one. l.mu is held, and b is in l.flying.
//
// Acked is below every number that still flies: the store may forget those
// answers, and will never apply such a batch that is late.
func (l *lane) number(b *batch) {
	if b.session.Seq != 0 {
		b.drop(func(it *item) bool { return b.gone[it.call] })
	}
	l.seq++
	b.session = api.Session{ID: l.session, Seq: l.seq}
	acked := l.seq - 1
	for _, f := range l.flying {
		if f.session.ID == l.session && f.session.Seq != 0 {
			acked = min(acked, f.session.Seq-1)
		}
	}
	b.session.Acked = acked
	b.stale = false
}

// encode writes the request. Only the flight calls it, without the lock: no one
// else changes a sealed batch's items.
func (b *batch) encode() []byte {
	out := api.Batch{Atomic: b.atomic, Session: b.session, Ops: make([]byte, 0, b.bytes)}
	var refs map[string]int // by name, once they are many
	var last *item          // that has a policy
	policy := 0             // its index
	for i := range b.items {
		if i%touchAhead == 0 {
			b.touch(b.items[i:min(i+touchAhead, len(b.items))])
		}
		it := &b.items[i]
		op := it.op()
		if !it.kind.OnHold() {
			if last == nil || last.policy != it.policy || last.inline != it.inline {
				policy, refs = ref(&out, it, refs)
			}
			last, op.Policy = it, policy
		}
		out.Add(op)
	}
	return api.AppendBatch(make([]byte, 0, len(out.Ops)+64+32*len(out.Policies)), &out)
}

// touchAhead is how many keys are fetched side by side.
const touchAhead = 32

// touch reads the keys of items, in a loop so tight that the processor waits for many at
// once. A batch has waited for the one before it since its keys were looked at, and they
// lie wherever their callers have them.
func (b *batch) touch(items []item) {
	for i := range items {
		if key := items[i].key; key != "" {
			b.touched += key[0]
		}
	}
}

// ref returns the index of it's policy. Few policies are searched one by one,
// many in refs.
func ref(out *api.Batch, it *item, refs map[string]int) (int, map[string]int) {
	if it.inline {
		out.Policies = append(out.Policies, api.PolicyRef{Inline: []byte(it.policy)})
		return len(out.Policies) - 1, refs
	}
	if len(out.Policies) < 8 {
		return out.Ref(it.policy), refs
	}
	if refs == nil {
		refs = map[string]int{}
		for i, r := range out.Policies {
			if r.Inline == nil {
				refs[r.Name] = i
			}
		}
	}
	at, ok := refs[it.policy]
	if !ok {
		at = len(out.Policies)
		refs[it.policy] = at
		out.Policies = append(out.Policies, api.PolicyRef{Name: it.policy})
	}
	return at, refs
}

// drop removes items without changing the order of the rest. Its memory stays
// the batch's own.
func (b *batch) drop(del func(*item) bool) {
	kept := b.items[:0]
	for i := range b.items {
		if !del(&b.items[i]) {
			kept = append(kept, b.items[i])
		}
	}
	clear(b.items[len(kept):])
	b.items = kept
}

// leave takes a failed call's items out of b, and tells whether they may have
// been applied, or may still be, and what went wrong last.
func (l *lane) leave(b *batch, w *call) (applied bool, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range b.items {
		if b.items[i].call == w {
			b.live--
		}
	}
	if !b.sealed {
		b.drop(func(it *item) bool { return it.call == w })
		if len(b.items) == 0 {
			l.queue = slices.DeleteFunc(l.queue, func(q *batch) bool { return q == b })
		}
		return false, b.why
	}
	if b.gone == nil {
		b.gone = map[*call]bool{}
	}
	b.gone[w] = true
	if !b.applied {
		// It has not left, and must not leave as it is: the flight encodes it
		// anew, without w.
		b.stale = true
		if b.attempt != nil {
			b.attempt.over = true
		}
	}
	if b.live == 0 && b.cancel != nil {
		b.cancel()
	}
	return b.applied, b.why
}

// overdue adds the calls whose own timeout has passed to due, and returns the
// earliest deadline among the others and next.
func (l *lane) overdue(now int64, due []*call, next int64) ([]*call, int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range slices.Concat(l.flying, l.queue) {
		var last *call
		for i := range b.items {
			w := b.items[i].call
			if w == nil || w == last {
				continue
			}
			last = w
			switch d := w.deadline.Load(); {
			case d == 0:
			case d <= now:
				due = append(due, w)
			case next == 0 || d < next:
				next = d
			}
		}
	}
	return due, next
}

// close ends the lane, and returns the calls that wait in it.
func (l *lane) close() (waiting []*call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, b := range slices.Concat(l.flying, l.queue) {
		for i := range b.items {
			if w := b.items[i].call; w != nil && (len(waiting) == 0 || waiting[len(waiting)-1] != w) {
				waiting = append(waiting, w)
			}
		}
	}
	return waiting
}

// patience bounds the repetition of a batch, far below the time for which the
// store remembers a session.
const patience = 60 * time.Second
