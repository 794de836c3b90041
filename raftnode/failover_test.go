package raftnode

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// patience is the election timeout of these tests: long enough to see what comes
// before an election.
const patience = 3 * time.Second

// slowElections starts a cluster with that, and tells which node leads shard 1.
func slowElections(t *testing.T) (c *testCluster, at int) {
	t.Helper()
	c = &testCluster{t: t, dir: t.TempDir(), elections: patience, log: countLines("the leader's process is gone")}
	c.start(3, joinAll)
	at, _ = c.leader(1)
	return c, at
}

// waits tells whether the followers' and candidates' timeouts are both d.
func (g *group) waits(d time.Duration) bool {
	rc := g.raft.ReloadableConfig()
	return rc.HeartbeatTimeout == d && rc.ElectionTimeout == d
}

// Once the process of a leader is gone, its followers elect within the lease, and
// have their patience back after that. They notice once, of whatever connections end.
func TestFollowersOfAProcessThatIsGoneElectSooner(t *testing.T) {
	c, at := slowElections(t)
	gone := c.nodes[at].NodeID()
	followers := []*Node{c.nodes[(at+1)%3], c.nodes[(at+2)%3]}
	// As a kill does: the port and the connections go first, and at once.
	if err := c.nodes[at].mux.Close(); err != nil {
		t.Fatal(err)
	}
	for _, n := range followers {
		eventually(t, "a follower hurries", func() bool { return n.groupList()[1].waits(patience / 2) })
		n.suspect(t.Context(), gone)
	}
	c.close(at)
	c.mustTake(1)
	for _, n := range followers {
		for _, g := range n.groupList() {
			eventually(t, "it has its patience back", func() bool {
				return g.leader() != "" && g.leader() != gone && g.waits(patience)
			})
		}
	}
	for rest, times := range c.log.(*lineCount).counts() {
		if times != 1 {
			t.Errorf("told %d times:%s", times, rest)
		}
	}
}

// A connection that ends proves nothing about a process that listens; and a node
// that was removed stays as quiet as it is.
func TestOnlyAPortThatRefusesMakesFollowersHurry(t *testing.T) {
	c, at := slowElections(t)
	n := c.nodes[(at+1)%3]
	g := n.groupList()[1]
	n.suspect(t.Context(), c.nodes[at].NodeID())
	if !g.waits(patience) {
		t.Error("the leader lives, and its follower hurries")
	}
	if err := g.reload(func(rc *raft.ReloadableConfig) { rc.HeartbeatTimeout, rc.ElectionTimeout = never, never }); err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	g.hurry(ended, patience)
	if !g.waits(never) {
		t.Error("a removed node asks for votes again")
	}
}

// Nothing is handed over to a peer whose process has ended, nor waited for it, until it
// is heard again.
func TestAPeerThatIsGoneAnswersNoMore(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{cfg: Config{NodeID: "a", Dial: func(ctx context.Context, addr string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}}, peers: newPeers(nil)}
	b := status{Member: Member{ID: "b", Raft: l.Addr().String()}}
	hear := func() {
		known, _ := n.peers.member("b")
		n.peers.note(b, known)
		n.peers.measure(b, nil)
	}
	hear()
	n.suspect(t.Context(), "b")
	if _, ok := n.peers.fresh("b"); !ok || n.peers.silent("b") {
		t.Error("a peer whose port answers counts as gone")
	}
	l.Close()
	n.suspect(t.Context(), "b")
	if _, ok := n.peers.fresh("b"); ok || !n.peers.silent("b") {
		t.Error("a peer whose port refuses counts as answering")
	}
	hear()
	if _, ok := n.peers.fresh("b"); !ok || n.peers.silent("b") {
		t.Error("a peer that is heard again counts as gone")
	}
}

// A peer that lives is dialled once, however often its connections end; one that is
// ending may accept before it refuses.
func TestAPortIsAskedOnceUnlessItEndsTheConnection(t *testing.T) {
	for ends, dials := range map[bool]int32{false: 1, true: 2} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		var dialled atomic.Int32
		n := &Node{cfg: Config{Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			dialled.Add(1)
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}}}
		if ends {
			go func() {
				if conn, err := l.Accept(); err == nil {
					l.Close()
					conn.Close()
				}
			}()
		}
		if n.refuses(t.Context(), l.Addr().String()) != ends {
			t.Errorf("a port whose process is ending: %v; it refuses: %v", ends, !ends)
		}
		if got := dialled.Load(); got != dials {
			t.Errorf("a port whose process is ending: %v; dialled %d times, want %d", ends, got, dials)
		}
	}
}
