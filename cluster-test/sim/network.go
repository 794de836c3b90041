package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// network joins the hosts of a simulation with connections that behave as TCP
// does: bytes arrive in order, once, or not at all. What it may do to them:
//
//   - delay them, by link and at random;
//   - hold them while the link is cut, in that direction only, and deliver them
//     late when it heals, as retransmissions would, or never, if the connection
//     breaks first;
//   - break connections, with what was on its way lost from some byte on.
//
// A packet that is lost is a packet that is late, and TCP delivers nothing
// twice; requests that arrive twice are the business of the callers, who send
// them again.
//
// One lock guards everything, and nobody waits under it.
type network struct {
	rng *rand.Rand // under mu

	mu        sync.Mutex
	listeners map[string]*listener // by address
	conns     map[*conn]struct{}   // one end of each connection that is up
	links     map[[2]string]*link  // by host from, host to; what is not here is well
	lastConn  int                  // number of the last connection
}

// link is one direction between two hosts.
type link struct {
	cut   bool
	since time.Time
	delay time.Duration // on top of the usual
}

const (
	// latency of a way is between these; most are near the first.
	latencyMin = 50 * time.Microsecond
	latencyMax = 2 * time.Millisecond
	// window is how many bytes may be under way in a direction.
	window = 256 << 10
	// keepAlive is how long a connection outlives the silence of the other end.
	keepAlive = 11 * time.Second
	// retransmit bounds how late bytes are that a cut held back.
	retransmit = 400 * time.Millisecond
)

var (
	errRefused = syscall.ECONNREFUSED
	errReset   = errors.New("connection reset by peer")
	errTimeout = errors.New("connection timed out")
)

func newNetwork(rng *rand.Rand) *network {
	return &network{
		rng: rng, listeners: map[string]*listener{}, conns: map[*conn]struct{}{},
		links: map[[2]string]*link{},
	}
}

// hostOf is the host in an address.
func hostOf(addr string) string { host, _, _ := strings.Cut(addr, ":"); return host }

// link returns a direction's state; n.mu is held.
func (n *network) link(from, to string) *link {
	l := n.links[[2]string{from, to}]
	if l == nil {
		l = &link{}
		n.links[[2]string{from, to}] = l
	}
	return l
}

// way draws the latency of one way; n.mu is held.
func (n *network) way(from, to string) time.Duration {
	d := latencyMin + time.Duration(n.rng.ExpFloat64()*float64(100*time.Microsecond))
	return min(d, latencyMax) + n.link(from, to).delay
}

// cut stops what from sends to to. What has arrived stays.
func (n *network) cut(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.link(from, to)
	if l.cut {
		return
	}
	l.cut, l.since = true, time.Now()
	time.AfterFunc(keepAlive, func() { n.silence(from, to) })
}

// silence breaks the connections over a link that has been cut all the while.
func (n *network) silence(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.link(from, to)
	if !l.cut || time.Since(l.since) < keepAlive {
		return
	}
	for _, c := range n.between(from, to) {
		c.in.fail(errTimeout)
		c.out.fail(errTimeout)
		delete(n.conns, c)
	}
}

// between lists the connections of two hosts, either of which may have dialled,
// oldest first; n.mu is held.
func (n *network) between(a, b string) (list []*conn) {
	for c := range n.conns {
		if c.local == a && c.remote == b || c.local == b && c.remote == a {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b *conn) int { return cmp.Compare(a.id, b.id) })
	return list
}

// heal lets from reach to again. What the cut held back arrives late.
func (n *network) heal(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.link(from, to)
	if !l.cut {
		return
	}
	l.cut = false
	for _, c := range n.between(from, to) {
		for _, h := range []*half{c.in, c.out} {
			if h.from == from && h.to == to {
				h.resume(time.Duration(n.rng.Int64N(int64(retransmit))))
			}
		}
	}
}

// slow adds a delay to a direction.
func (n *network) slow(from, to string, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.link(from, to).delay = d
}

// breakAll resets every connection of two hosts: what was on its way is lost
// from some byte on.
func (n *network) breakAll(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.between(a, b) {
		for _, h := range []*half{c.in, c.out} {
			h.lose(n.rng)
			h.fail(errReset)
		}
		delete(n.conns, c)
	}
}

// crash takes a host's sockets away. A process that died resets its
// connections; a machine that died says nothing, and its peers find out by
// themselves.
func (n *network) crash(host string, silent bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for addr, l := range n.listeners {
		if hostOf(addr) == host {
			l.close()
		}
	}
	var gone []*conn
	for c := range n.conns {
		if c.local == host || c.remote == host {
			gone = append(gone, c)
		}
	}
	slices.SortFunc(gone, func(a, b *conn) int { return cmp.Compare(a.id, b.id) })
	for _, c := range gone {
		sent, heard := c.out, c.in // by the host that is gone
		if c.remote == host {
			sent, heard = c.in, c.out
		}
		sent.lose(n.rng)
		sent.closed = true
		heard.closed = true // nobody reads any more: writers block, as on a dead peer
		after, why := keepAlive, errTimeout
		if !silent {
			after, why = n.way(host, sent.to), errReset
		}
		time.AfterFunc(after, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			sent.fail(why)
			heard.fail(why)
		})
		delete(n.conns, c)
	}
}

// listen opens a listener; an address has one at a time.
func (n *network) listen(addr string) (*listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		return nil, fmt.Errorf("listen %s: address already in use", addr)
	}
	l := &listener{n: n, at: addr, queue: make(chan *conn, 128), done: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// dialer returns the function that dials from a host, for as long as alive says
// so.
func (n *network) dialer(from string, alive func() bool) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		c, err := n.dial(ctx, from, addr, alive)
		if err != nil {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: address(addr), Err: err}
		}
		return c, nil
	}
}

// dial connects: a way there and a way back, and for as long as either is cut,
// nothing.
func (n *network) dial(ctx context.Context, from, addr string, alive func() bool) (net.Conn, error) {
	to := hostOf(addr)
	for try := 0; ; try++ {
		if !alive() {
			// Not at once: the library asks again at once, and in virtual time that
			// would be for ever.
			return nil, errors.Join(pause(ctx, time.Millisecond), errRefused)
		}
		n.mu.Lock()
		there, back := n.link(from, to), n.link(to, from)
		if there.cut || back.cut {
			n.mu.Unlock()
			if err := pause(ctx, 100*time.Millisecond<<min(try, 4)); err != nil { // the next SYN
				return nil, err
			}
			continue
		}
		d := n.way(from, to) + n.way(to, from)
		n.mu.Unlock()
		if err := pause(ctx, d); err != nil {
			return nil, err
		}
		n.mu.Lock()
		l := n.listeners[addr]
		if l == nil || l.closed || !alive() {
			n.mu.Unlock()
			return nil, errRefused
		}
		c := n.connect(from, to, addr)
		select {
		case l.queue <- c.other:
			n.mu.Unlock()
			return c, nil
		default: // the queue is full: the kernel would drop the SYN
			n.mu.Unlock()
			c.Close()
			if err := pause(ctx, 100*time.Millisecond<<min(try, 4)); err != nil {
				return nil, err
			}
		}
	}
}

// connect makes both ends of a connection and returns the dialler's; n.mu is
// held.
func (n *network) connect(from, to, addr string) *conn {
	n.lastConn++
	there := &half{n: n, from: from, to: to, changed: make(chan struct{})}
	back := &half{n: n, from: to, to: from, changed: make(chan struct{})}
	here := fmt.Sprintf("%s:%d", from, 30_000+n.lastConn)
	a := &conn{n: n, id: n.lastConn, local: from, remote: to, localAddr: here, remoteAddr: addr, in: back, out: there}
	b := &conn{n: n, id: n.lastConn, local: to, remote: from, localAddr: addr, remoteAddr: here, in: there, out: back}
	a.other, b.other = b, a
	n.conns[a] = struct{}{}
	return a
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// listener is a socket that listens.
type listener struct {
	n      *network
	at     string
	queue  chan *conn
	closed bool // under n.mu
	done   chan struct{}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	l.close()
	return nil
}

// close refuses who is queued; n.mu is held.
func (l *listener) close() {
	if l.closed {
		return
	}
	l.closed = true
	delete(l.n.listeners, l.at)
	close(l.done)
	for {
		select {
		case c := <-l.queue:
			c.in.fail(errReset)
			c.out.fail(errReset)
			delete(l.n.conns, c.other)
		default:
			return
		}
	}
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return address(l.at) }

type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }
