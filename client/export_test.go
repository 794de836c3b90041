package client

import (
	"context"
	"errors"
	"net"
	"net/http"
)

// WrapConns has wrap look at what goes over the connections of a client's own transport.
// It is to be called before the first request.
func WrapConns(c *Client, wrap func(net.Conn) net.Conn) {
	t := c.http.Transport.(*http.Transport)
	dial := t.DialContext
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return wrap(conn), nil
	}
}

// SendWithdrawn makes an attempt of what must not leave any more, and tells whether
// it knows that nothing has left.
func SendWithdrawn(ctx context.Context, c *Client) bool {
	l := c.dir.allLanes()[0]
	a := &attempt{b: &batch{lane: l}, body: []byte("what nobody may get"), over: true}
	r := c.send(ctx, c.dir.target(l.shard), a)
	return errors.Is(r.err, errWithdrawn) && !a.read
}

// Waiting counts the operations that lanes hold, sealed or not.
func Waiting(c *Client) (n int) {
	for _, l := range c.dir.allLanes() {
		l.mu.Lock()
		for _, b := range l.queue {
			n += b.live
		}
		for _, b := range l.flying {
			n += b.live
		}
		l.mu.Unlock()
	}
	return n
}

// OnWire tells whether an attempt is being made.
func OnWire(c *Client) bool {
	for _, l := range c.dir.allLanes() {
		l.mu.Lock()
		for _, b := range l.flying {
			if b.attempt != nil {
				l.mu.Unlock()
				return true
			}
		}
		l.mu.Unlock()
	}
	return false
}

// Remembered counts the keys that are spent from memory.
func Remembered(c *Client) int { return c.memory.table.Len() }
