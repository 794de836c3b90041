package raftnode

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// A follower waits for a leader's word for one to three election timeouts before
// it asks for votes: its timer fires every one to two of them, whenever the last
// word came. Most of that is for leaders that are slow. One whose process has ended
// will never speak again, and that can be known: its connections end at once, and
// then its port refuses. A pause, a partition or a machine that lost its power
// shows no such thing, and a process that was started again listens.
//
// On that proof the followers elect within the timeout of hurried, which is the
// leader's lease: nobody asks for votes sooner after a leader's last word than any
// leader would have stepped down by itself.

// portPatience is how long a port may take to refuse after its process's
// connections have ended: the kernel closes them one after the other.
const portPatience = 250 * time.Millisecond

// hurried is how many election timeouts a group stays in a hurry at most, should
// nobody win.
const hurried = 10

// suspect finds out whether the process of a peer whose connection has ended is
// gone, and has the groups that it led elect sooner if so.
func (n *Node) suspect(ctx context.Context, id string) {
	m, ok := n.peers.member(id)
	if !ok || id == n.cfg.NodeID || !n.refuses(ctx, m.Raft) {
		return
	}
	n.peers.lose(id) // nothing is handed over to it
	for _, g := range n.groupList() {
		// Each connection that ends leads here. A term has one leader; it is read first,
		// so that it is not a later leader's.
		term := g.raft.CurrentTerm()
		if g.leader() == id && g.bereft.Swap(term) != term {
			g.log.Info("the leader's process is gone", "leader", id)
			n.mux.spawn(func() { g.hurry(ctx, n.cfg.ElectionTimeout) })
		}
	}
}

// refuses tells whether nobody listens at addr, which the machine there has to say.
// It dials a living peer once.
func (n *Node) refuses(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, portPatience)
	defer cancel()
	for {
		conn, err := n.cfg.Dial(ctx, addr)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return true
		}
		if err == nil && !isEnded(ctx, conn) {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// isEnded tells whether the other side ends a new connection before ctx ends. A node
// waits longer for a hello; a port that accepted while its process was ending does
// not. It closes conn.
func isEnded(ctx context.Context, conn net.Conn) bool {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer conn.Close()
	defer stop()
	_, _ = conn.Read(make([]byte, 1))
	return ctx.Err() == nil
}

// hurry halves the group's timeouts, to the lease, until it has its next leader.
func (g *group) hurry(ctx context.Context, timeout time.Duration) {
	term := g.raft.CurrentTerm()
	g.setTimeouts(timeout, timeout/2)
	defer g.setTimeouts(timeout/2, timeout)
	ctx, cancel := context.WithTimeout(ctx, hurried*timeout)
	defer cancel()
	tick := time.NewTicker(timeout / 10)
	defer tick.Stop()
	for g.leader() == "" || g.raft.CurrentTerm() == term {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// setTimeouts replaces the timeouts of followers and candidates, if they are from.
func (g *group) setTimeouts(from, to time.Duration) {
	err := g.reload(func(rc *raft.ReloadableConfig) {
		if rc.HeartbeatTimeout == from {
			rc.HeartbeatTimeout, rc.ElectionTimeout = to, to
		}
	})
	if err != nil {
		g.log.Warn("could not change the timeouts of elections", "timeout", to, "error", err)
	}
}

// reload changes what the library lets change while it runs.
func (g *group) reload(change func(*raft.ReloadableConfig)) error {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	was := g.raft.ReloadableConfig()
	rc := was
	if change(&rc); rc == was {
		return nil
	}
	return g.raft.ReloadConfig(rc)
}
