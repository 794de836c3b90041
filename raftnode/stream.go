package raftnode

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// groupLayer is the stream layer of one Raft group on a [Mux].
//
// It remembers the connections it hands out and closes them with itself: the
// library's transport leaves the goroutines of accepted connections, and the
// dialled ones in its pool, until somebody closes the connections.
type groupLayer struct {
	mux      *Mux
	id       uint32
	accepted chan net.Conn // never closed
	done     chan struct{} // closed by Close

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{} // handed out or in accepted
}

// Accept returns the next connection of another node.
func (g *groupLayer) Accept() (net.Conn, error) {
	select {
	case c := <-g.accepted:
		select {
		case <-g.done: // c is closed
		default:
			return c, nil
		}
	case <-g.done:
	}
	return nil, net.ErrClosed
}

// Dial connects to the same group on the node at address.
func (g *groupLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx := g.mux.ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	conn, err := g.mux.dial(ctx, string(address), hello{protocol: protocolRaft, group: g.id, from: g.mux.ident()})
	if err != nil {
		return nil, fmt.Errorf("group %d: %w", g.id, err)
	}
	c := &streamConn{Conn: conn, group: g}
	if !g.add(c) {
		g.mux.drop(conn)
		return nil, net.ErrClosed
	}
	return c, nil
}

// offer hands an accepted connection to Accept, or closes it when nobody takes
// it within the time of a handshake.
func (g *groupLayer) offer(conn net.Conn) {
	c := &streamConn{Conn: conn, group: g}
	if !g.add(c) {
		g.mux.drop(conn)
		return
	}
	t := time.NewTimer(g.mux.patience)
	defer t.Stop()
	select {
	case g.accepted <- c:
	case <-g.done:
		c.Close()
	case <-t.C:
		g.mux.warn("closed a connection that a Raft group did not take", "group", g.id)
		c.Close()
	}
}

func (g *groupLayer) add(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.conns[c] = struct{}{}
	return true
}

// Addr is the address under which other nodes reach this one.
func (g *groupLayer) Addr() net.Addr { return advertised(g.mux.advertise) }

// Close takes the group off the mux and closes all its connections.
func (g *groupLayer) Close() error {
	g.mux.mu.Lock()
	if g.mux.groups[g.id] == g {
		delete(g.mux.groups, g.id)
	}
	g.mux.mu.Unlock()

	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return nil
	}
	g.closed = true
	close(g.done)
	conns := make([]net.Conn, 0, len(g.conns))
	for c := range g.conns {
		conns = append(conns, c)
	}
	g.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	return nil
}

// streamConn is a connection of a group, which forgets it when it is closed.
type streamConn struct {
	net.Conn
	group *groupLayer
}

func (c *streamConn) Close() error {
	c.group.mu.Lock()
	delete(c.group.conns, c)
	c.group.mu.Unlock()
	c.group.mux.drop(c.Conn)
	return nil
}

// advertised is an address as text; it may be a name.
type advertised string

func (a advertised) Network() string { return "tcp" }
func (a advertised) String() string  { return string(a) }
