package sim

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"time"
)

// conn is one end of a connection.
type conn struct {
	n                     *network
	id                    int    // of the connection, counted up
	local, remote         string // hosts
	localAddr, remoteAddr string
	in, out               *half
	other                 *conn

	// Under n.mu.
	shut                        bool
	readDeadline, writeDeadline deadline
}

// half is one direction of a connection: segments on their way, then bytes that
// have arrived. All of it is under n.mu.
type half struct {
	n        *network
	from, to string

	segments []segment     // on their way, in order
	bytes    int           // in segments and arrived
	arrived  []byte        // and not read yet
	last     time.Time     // when the last segment will arrive: none overtakes another
	timer    *time.Timer   // of the first segment
	eof      bool          // all that was sent has arrived
	closed   bool          // the sender sends no more
	err      error         // the connection is broken: for both ends of this half
	changed  chan struct{} // closed and replaced at each change of the above
}

type segment struct {
	data []byte // nil is the end
	at   time.Time
}

// signal wakes all who wait for a change.
func (h *half) signal() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// send puts data on its way.
func (h *half) send(data []byte) {
	at := time.Now().Add(h.n.way(h.from, h.to))
	if at.Before(h.last) {
		at = h.last
	}
	h.last = at
	h.segments = append(h.segments, segment{data, at})
	h.bytes += len(data)
	if len(h.segments) == 1 {
		h.schedule()
	}
}

// schedule sets the timer for the first segment.
func (h *half) schedule() {
	if len(h.segments) == 0 || h.err != nil {
		return
	}
	h.timer = time.AfterFunc(time.Until(h.segments[0].at), func() {
		h.n.mu.Lock()
		defer h.n.mu.Unlock()
		h.arrive()
	})
}

// arrive hands what is due to the reader, unless the link is cut; then resume
// goes on.
func (h *half) arrive() {
	if h.err != nil || h.n.link(h.from, h.to).cut {
		return
	}
	now := time.Now()
	i := 0
	for ; i < len(h.segments) && !h.segments[i].at.After(now); i++ {
		if s := h.segments[i]; s.data == nil {
			h.eof = true
		} else {
			h.arrived = append(h.arrived, s.data...)
		}
	}
	if i > 0 {
		h.segments = append(h.segments[:0:0], h.segments[i:]...)
		h.signal()
	}
	h.schedule()
}

// resume goes on after a cut: what was held back comes after d.
func (h *half) resume(d time.Duration) {
	if h.timer != nil {
		h.timer.Stop()
	}
	at := time.Now().Add(d)
	for i := range h.segments {
		if h.segments[i].at.Before(at) {
			h.segments[i].at = at
		}
	}
	if h.last.Before(at) {
		h.last = at
	}
	h.schedule()
}

// lose drops what is on its way, from some byte on.
func (h *half) lose(rng *rand.Rand) {
	if len(h.segments) == 0 {
		return
	}
	keep := rng.IntN(len(h.segments) + 1)
	if keep < len(h.segments) {
		if d := h.segments[keep].data; len(d) > 1 {
			h.segments[keep].data = d[:rng.IntN(len(d))]
			if len(h.segments[keep].data) > 0 {
				keep++
			}
		}
	}
	h.segments = h.segments[:keep]
}

// fail breaks this direction: the reader gets what has arrived, then err.
func (h *half) fail(err error) {
	if h.err != nil {
		return
	}
	h.err = err
	h.segments = nil
	if h.timer != nil {
		h.timer.Stop()
	}
	h.signal()
}

// deadline is a time after which a call ends.
type deadline struct {
	at      time.Time
	changed chan struct{} // closed and replaced when at is set
}

func (d *deadline) set(t time.Time) {
	d.at = t
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
}

// wait waits for a change of h or for the deadline, without n.mu, and returns
// with it held.
func (c *conn) wait(h *half, d *deadline) {
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	changed, moved := h.changed, d.changed
	var expired <-chan time.Time
	if !d.at.IsZero() {
		t := time.NewTimer(time.Until(d.at))
		defer t.Stop()
		expired = t.C
	}
	c.n.mu.Unlock()
	select {
	case <-changed:
	case <-moved:
	case <-expired:
	}
	c.n.mu.Lock()
}

func (d *deadline) over() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	for {
		switch {
		case c.shut:
			return 0, net.ErrClosed
		case c.readDeadline.over():
			return 0, os.ErrDeadlineExceeded
		case len(c.in.arrived) > 0:
			n := copy(b, c.in.arrived)
			c.in.arrived = c.in.arrived[n:]
			c.in.bytes -= n
			c.in.signal()
			return n, nil
		case c.in.eof:
			return 0, io.EOF
		case c.in.err != nil:
			return 0, &net.OpError{Op: "read", Net: "tcp", Err: c.in.err}
		case len(b) == 0:
			return 0, nil
		}
		c.wait(c.in, &c.readDeadline)
	}
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (n int, err error) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	for {
		switch {
		case c.shut:
			return n, net.ErrClosed
		case c.out.err != nil:
			return n, &net.OpError{Op: "write", Net: "tcp", Err: c.out.err}
		case c.writeDeadline.over():
			return n, os.ErrDeadlineExceeded
		case n == len(b):
			return n, nil
		case !c.out.closed && c.out.bytes < window:
			k := min(len(b)-n, window-c.out.bytes, 64<<10)
			c.out.send(append([]byte(nil), b[n:n+k]...))
			n += k
			continue
		}
		c.wait(c.out, &c.writeDeadline)
	}
}

// CloseWrite ends this direction, as of a *net.TCPConn.
func (c *conn) CloseWrite() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.finish()
	return nil
}

func (c *conn) finish() {
	if !c.out.closed && c.out.err == nil {
		c.out.closed = true
		c.out.send(nil)
	}
}

// Close implements net.Conn. What was written still arrives; the other end's
// writes fail once it hears of it.
func (c *conn) Close() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.shut {
		return nil
	}
	c.shut = true
	c.finish()
	c.in.signal()
	c.out.signal()
	in := c.in
	time.AfterFunc(c.n.way(c.local, c.remote), func() {
		c.n.mu.Lock()
		defer c.n.mu.Unlock()
		in.fail(errReset) // nobody reads any more
	})
	if c.other.shut {
		delete(c.n.conns, c)
		delete(c.n.conns, c.other)
	}
	return nil
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return address(c.localAddr) }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return address(c.remoteAddr) }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.readDeadline.set(t)
	c.writeDeadline.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.readDeadline.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.writeDeadline.set(t)
	return nil
}
