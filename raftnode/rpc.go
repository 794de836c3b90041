package raftnode

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rlstore/rlstore/api"
)

// Handler answers one call. from is who the calling node says it is; its
// ClusterID is zero if it belongs to no cluster yet, and then the handler
// decides. ctx ends when the connection breaks or the mux closes. payload is
// the handler's to keep; the reply must not be changed after.
//
// An error travels as an api.Problem: [Mux.Call] returns one with the same code
// and outcome.
type Handler func(ctx context.Context, from Identity, payload []byte) ([]byte, error)

var (
	// ErrNotSent: the call surely did not reach a handler.
	ErrNotSent = errors.New("not sent")
	// ErrNoReply: the call was sent and no reply came; its handler may have run,
	// or may still run.
	ErrNoReply = errors.New("no reply")
)

const (
	// callTick is how often a connection with calls under way looks whether the
	// peer is alive.
	callTick = time.Second
	// silentTicks: when nothing at all, not even the reply to a ping, was read
	// for that many whole ticks, the connection is closed. Ticks are counted
	// rather than time, so that a process which was stopped and goes on does
	// not take the pause for the peer's.
	silentTicks = 5

	// writeTimeout: a peer that takes no bytes for so long is gone.
	writeTimeout = 5 * time.Second
	// writeBatch is about how many bytes of frames go into one Write.
	writeBatch = 1 << 20

	// maxQueuedBytes of calls may wait for one connection's writer.
	maxQueuedBytes = 64 << 20
	// redialPause: calls so soon after a failed dial share its failure.
	redialPause = 50 * time.Millisecond
)

// Handle sets the handler of a method, below 127, before Start.
func (m *Mux) Handle(method uint8, h Handler) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.started || int(method) >= methods || m.handlers[method] != nil {
		panic(fmt.Sprintf("raftnode: method %d cannot be handled: started, too high, or handled twice", method))
	}
	m.handlers[method] = h
}

// Call sends payload to the handler of method on the node at addr, which is as for
// dial, over the one connection to it, and returns its reply. Calls that wait at the
// same time leave in one write.
//
// The payload must not be changed any more, not even after Call has returned.
//
// An error is one of three: an *api.Problem, from the handler or from the
// peer's or this node's bounds; ErrNotSent; or ErrNoReply. The last two wrap
// their cause too, such as ctx's error.
func (m *Mux) Call(ctx context.Context, addr string, method uint8, payload []byte) ([]byte, error) {
	return m.call(ctx, peerKey{addr: addr}, method, payload)
}

// peerKey names a connection. Beats have one of their own, so that they don't wait
// behind forwarded batches, and are not refused for the number of those.
type peerKey struct {
	addr  string
	beats bool
}

func (m *Mux) call(ctx context.Context, key peerKey, method uint8, payload []byte) ([]byte, error) {
	addr := key.addr
	if int(method) >= methods {
		return nil, callError(addr, ErrNotSent, fmt.Errorf("there is no method %d", method))
	}
	if len(payload) > maxPayload {
		return nil, api.NewProblem(api.PayloadTooLarge, "a call of %d bytes to a node; at most %d are possible", len(payload), maxPayload)
	}
	if err := ctx.Err(); err != nil {
		return nil, callError(addr, ErrNotSent, err)
	}
	p := m.peer(key)
	var broken error
	for range 3 {
		conn, err := p.connect(ctx)
		if err != nil {
			return nil, callError(addr, ErrNotSent, err)
		}
		c := &call{method: method, payload: payload, done: make(chan callResult, 1)}
		if broken = conn.enqueue(c); broken == nil {
			return conn.wait(ctx, c)
		}
		var full *api.Problem
		if errors.As(broken, &full) {
			return nil, full
		}
		// It broke, or was retired, since connect; nothing was sent.
	}
	return nil, callError(addr, ErrNotSent, broken)
}

func callError(addr string, kind, cause error) error {
	return fmt.Errorf("call to the node at %s: %w: %w", addr, kind, cause)
}

func (m *Mux) peer(key peerKey) *peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[key]
	if p == nil {
		p = &peer{mux: m, addr: key.addr}
		m.peers[key] = p
	}
	return p
}

// peer holds the connection for calls to one address.
type peer struct {
	mux  *Mux
	addr string

	mu      sync.Mutex
	conn    *callConn     // nil, or the one in use; may be broken
	dialing chan struct{} // closed when the dial under way ends; nil if none is
	failure error         // of the last dial, if it failed
	failed  time.Time
}

// connect returns a connection that was not broken a moment ago and that was
// greeted with this node's present identity.
func (p *peer) connect(ctx context.Context) (*callConn, error) {
	dialed := false
	for {
		ident := p.mux.ident()
		p.mu.Lock()
		if c := p.conn; c != nil {
			err := c.usable()
			switch {
			case err == nil && c.as == ident:
				p.mu.Unlock()
				return c, nil
			case err == nil:
				// With another identity, the peer would take our calls for those
				// of a node that we no longer are.
				c.retire()
			case dialed:
				p.mu.Unlock()
				return nil, err // it broke at once
			}
			p.conn = nil
		}
		if p.failure != nil && (dialed || time.Since(p.failed) < redialPause) {
			err := p.failure
			p.mu.Unlock()
			return nil, err
		}
		if p.dialing == nil {
			done := make(chan struct{})
			if !p.mux.spawn(func() { p.dial(ident, done) }) {
				p.mu.Unlock()
				return nil, net.ErrClosed
			}
			p.dialing = done
		}
		done := p.dialing
		p.mu.Unlock()
		select {
		case <-done:
			dialed = true
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (p *peer) dial(ident Identity, done chan struct{}) {
	conn, err := p.mux.dial(p.mux.ctx, p.addr, hello{protocol: protocolCalls, from: ident})
	var c *callConn
	if err == nil {
		c = &callConn{
			mux: p.mux, addr: p.addr, as: ident, conn: conn,
			wake: make(chan struct{}, 1), broken: make(chan struct{}),
			sent: make(map[uint64]*call),
		}
		if !p.mux.spawn(c.read) || !p.mux.spawn(c.write) {
			c.fail(net.ErrClosed, nil)
		}
	}
	p.mu.Lock()
	p.conn, p.failure, p.failed = c, err, time.Now()
	p.dialing = nil
	p.mu.Unlock()
	close(done)
}

// call is one call under way. Its state is guarded by the connection's lock.
type call struct {
	method  byte
	payload []byte
	state   callState
	done    chan callResult // holds 1; sent to once, unless withdrawn
}

type callState uint8

const (
	callQueued    callState = iota
	callSent                // the writer took it: bytes of it may be with the peer
	callWithdrawn           // its caller left before the writer came
	callDone                // done holds its result
)

type callResult struct {
	reply []byte
	err   error
}

// callConn is the calling side of a connection.
type callConn struct {
	mux  *Mux
	addr string
	as   Identity // what this node said it was
	conn net.Conn

	wake   chan struct{} // holds 1: the queue is not empty
	broken chan struct{} // closed with the first error
	heard  atomic.Bool   // something was read since the last tick

	mu      sync.Mutex
	err     error // why it is broken
	retired bool  // takes no new calls; closes after the last reply
	queue   []*call
	queued  int              // bytes in queue
	sent    map[uint64]*call // by id
	lastID  uint64
}

var errRetired = errors.New("the connection was greeted under another identity")

// usable returns why the connection takes no calls, nil if it does.
func (c *callConn) usable() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && c.retired {
		return errRetired
	}
	return c.err
}

// enqueue gives a call to the writer; after an error it is not sent.
func (c *callConn) enqueue(k *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return c.err
	case c.retired:
		return errRetired
	case c.queued+len(k.payload) > maxQueuedBytes:
		return api.NewProblem(api.Overloaded, "%d bytes of calls wait for the node at %s already", c.queued, c.addr)
	}
	c.queue = append(c.queue, k)
	c.queued += frameHeader + len(k.payload)
	if len(c.queue) == 1 {
		c.wakeUp()
	}
	return nil
}

func (c *callConn) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// wait returns the call's reply; when ctx ends first, it leaves the call.
func (c *callConn) wait(ctx context.Context, k *call) ([]byte, error) {
	select {
	case r := <-k.done:
		return r.reply, r.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	state := k.state
	switch state {
	case callQueued:
		k.state = callWithdrawn // the writer skips it
	case callSent:
		k.state = callWithdrawn // the reader drops its reply
	}
	c.mu.Unlock()
	switch state {
	case callQueued:
		return nil, callError(c.addr, ErrNotSent, ctx.Err())
	case callSent:
		return nil, callError(c.addr, ErrNoReply, ctx.Err())
	}
	r := <-k.done
	return r.reply, r.err
}

// retire lets the calls under way end, and then closes the connection.
func (c *callConn) retire() {
	c.mu.Lock()
	c.retired = true
	idle := len(c.queue) == 0 && len(c.sent) == 0
	c.mu.Unlock()
	if idle {
		c.fail(errRetired, nil)
	}
}

// fail closes the connection for err and ends all its calls at once. unsent are
// calls that the writer took but surely wrote no byte of.
func (c *callConn) fail(err error, unsent []*call) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	close(c.broken)
	for _, k := range append(unsent, c.queue...) {
		c.finish(k, callResult{err: callError(c.addr, ErrNotSent, err)})
	}
	for _, k := range c.sent {
		c.finish(k, callResult{err: callError(c.addr, ErrNoReply, err)})
	}
	c.queue, c.sent = nil, nil
	c.mu.Unlock()
	c.mux.drop(c.conn)
}

// finish hands a call its result, unless its caller has left or it has one.
func (c *callConn) finish(k *call, r callResult) {
	if k.state == callQueued || k.state == callSent {
		k.state = callDone
		k.done <- r
	}
}

// write is the writer's goroutine: it drains the queue into one Write, and
// watches over the peer while calls are under way.
func (c *callConn) write() {
	tick := time.NewTicker(c.mux.tick)
	defer tick.Stop()
	var (
		buf    []byte
		batch  []*call
		starts []int // of each call's frame in buf
		silent int
	)
	for {
		select {
		case <-c.broken:
			return
		case <-c.mux.ctx.Done():
			c.fail(net.ErrClosed, nil)
			return
		case <-c.wake:
			var first uint64
			batch, first = c.take(batch[:0])
			buf, starts = buf[:0], starts[:0]
			for i, k := range batch {
				starts = append(starts, len(buf))
				buf = frame{id: first + uint64(i), method: k.method, payload: k.payload}.append(buf)
			}
		case <-tick.C:
			batch, buf, starts = batch[:0], buf[:0], starts[:0]
			if c.heard.Swap(false) || !c.busy() {
				silent = 0
				continue
			}
			if silent++; silent > silentTicks {
				c.fail(fmt.Errorf("silent for %v", silentTicks*c.mux.tick), nil)
				return
			}
			buf = frame{method: methodPing}.append(buf)
		}
		if len(buf) == 0 {
			continue
		}
		c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if n, err := c.conn.Write(buf); err != nil {
			i := 0
			for i < len(starts) && starts[i] < n {
				i++
			}
			c.fail(err, batch[i:])
			return
		}
		clear(batch)
		if cap(buf) > 2*writeBatch {
			buf = nil
		}
	}
}

func (c *callConn) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.sent) > 0
}

// take moves calls from the queue to batch, about writeBatch bytes of them, and
// numbers them from first.
func (c *callConn) take(batch []*call) (_ []*call, first uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return batch, 0
	}
	first = c.lastID + 1
	bytes, i := 0, 0
	for ; i < len(c.queue) && bytes < writeBatch; i++ {
		k := c.queue[i]
		n := frameHeader + len(k.payload)
		c.queued -= n
		if k.state == callWithdrawn {
			continue
		}
		k.state = callSent
		c.lastID++
		c.sent[c.lastID] = k
		batch = append(batch, k)
		bytes += n
	}
	if i == len(c.queue) {
		clear(c.queue)
		c.queue = c.queue[:0]
	} else {
		c.queue = append(c.queue[:0:0], c.queue[i:]...)
		c.wakeUp()
	}
	return batch, first
}

// read is the reader's goroutine: it hands replies to their calls.
func (c *callConn) read() {
	r := bufio.NewReaderSize(c.conn, 64<<10)
	for {
		f, err := readFrame(r)
		if err != nil {
			c.fail(err, nil)
			return
		}
		c.heard.Store(true)
		if f.method == methodPing|replyBit {
			continue
		}
		c.mu.Lock()
		k := c.sent[f.id]
		delete(c.sent, f.id)
		last := c.retired && len(c.sent) == 0 && len(c.queue) == 0
		known := k != nil && f.method == k.method|replyBit
		if known {
			c.finish(k, result(c.addr, f))
		} else if k != nil {
			c.finish(k, callResult{err: callError(c.addr, ErrNoReply, errors.New("a reply of another method"))})
		}
		c.mu.Unlock()
		switch {
		case !known:
			c.fail(fmt.Errorf("a reply to no call: id %d, method %d", f.id, f.method), nil)
			return
		case last:
			c.fail(errRetired, nil)
			return
		}
	}
}

// problemFrame is how a problem travels: with what its JSON leaves out.
type problemFrame struct {
	*api.Problem
	RetryAfterNS int64 `json:"retry_after_ns,omitempty"`
}

func result(addr string, f frame) callResult {
	switch f.status {
	case replyOK:
		return callResult{reply: f.payload}
	case replyOverloaded:
		return callResult{err: api.NewProblem(api.Overloaded, "the node at %s has too many calls under way", addr)}
	case replyProblem:
		p := problemFrame{Problem: new(api.Problem)}
		// A problem that does not say what became of the call says too little.
		if err := json.Unmarshal(f.payload, &p); err == nil && (p.Outcome == api.NotApplied || p.Outcome == api.Unknown) {
			p.RetryAfter = time.Duration(p.RetryAfterNS)
			return callResult{err: p.Problem}
		}
	}
	return callResult{err: callError(addr, ErrNoReply, fmt.Errorf("a reply of status %d that cannot be read", f.status))}
}
