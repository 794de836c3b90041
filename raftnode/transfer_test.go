package raftnode

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

// Any node moves any leadership, and says so once the new leader serves. Balance
// leaves it there.
func TestLeadershipMovesByRequestAndStays(t *testing.T) {
	c := startCluster(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	preferred := c.preferredLeads(1)
	for i := range 3 {
		to := c.nodes[(preferred+1+i)%3] // last of all the preferred one, to where balance would move it
		through := c.nodes[(preferred+i)%3]
		got, err := through.Transfer(ctx, 1, to.NodeID(), false)
		if err != nil || got != to.NodeID() {
			t.Fatalf("transfer to %s through %s: %q, %v", to.NodeID(), through.NodeID(), got, err)
		}
		c.mustTake(1)
		if g := to.groupList()[1]; !g.isHeld() {
			t.Errorf("%s does not hold what it was given", to.NodeID())
		}
	}
	// The catalog is a group like any other; and without a name, anybody else.
	from := c.nodes[0].groupList()[0].leader()
	got, err := c.nodes[0].Transfer(ctx, 0, "", false)
	if err != nil || got == from {
		t.Fatalf("transfer of the catalog from %s: to %q, %v", from, got, err)
	}
}

// preferredLeads waits until a shard is led by the node that balance prefers.
func (c *testCluster) preferredLeads(shard uint32) (at int) {
	c.t.Helper()
	eventually(c.t, "balance is content", func() bool {
		var leader *Node
		at, leader = c.leader(shard)
		return leader.preferred(leader.groupList()[shard]) == leader.NodeID()
	})
	return at
}

// Balance spares a leadership that is held, and no other.
func TestBalanceMovesWhatIsNotHeld(t *testing.T) {
	c := startCluster(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	away := map[uint32]*Node{}
	for shard := uint32(1); shard <= 2; shard++ {
		away[shard] = c.nodes[(c.preferredLeads(shard)+1)%3]
		if _, err := c.nodes[0].Transfer(ctx, shard, away[shard].NodeID(), false); err != nil {
			t.Fatal(err)
		}
	}
	away[1].groupList()[1].heldUntil.Store(nil)
	eventually(t, "shard 1 is back where balance wants it", func() bool {
		at, leader := c.leader(1)
		return c.nodes[at] != away[1] && leader.preferred(leader.groupList()[1]) == leader.NodeID()
	})
	if _, leader := c.leader(2); leader != away[2] {
		t.Errorf("shard 2 went from %s to %s though it was held", away[2].NodeID(), leader.NodeID())
	}
}

func TestTransferThatCannotBeIsRefused(t *testing.T) {
	c := startCluster(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	refused := func(what string, err error, code api.Code) {
		t.Helper()
		if p := api.AsProblem(err); err == nil || p.Code != code || p.Outcome != api.NotApplied {
			t.Errorf("%s: %v, want %s", what, err, code)
		}
	}
	at, leader := c.leader(1)
	other := c.nodes[(at+1)%3]
	_, err := other.Transfer(ctx, 3, "", false)
	refused("an unknown shard", err, api.NotFound)
	_, err = other.Transfer(ctx, 1, "n9", false)
	refused("an unknown node", err, api.InvalidRequest)
	_, err = other.Transfer(ctx, 1, other.NodeID(), true)
	refused("through another node that must not forward", err, api.NotLeader)

	gone := (at + 2) % 3
	id := c.nodes[gone].NodeID()
	c.close(gone)
	eventually(t, "the leader misses the stopped node", func() bool { _, ok := leader.peers.fresh(id); return !ok })
	_, err = other.Transfer(ctx, 1, id, false)
	refused("a node that is down", err, api.Conflict)
	if got, err := other.Transfer(ctx, 1, "", false); err != nil || !slices.Contains([]string{leader.NodeID(), other.NodeID()}, got) {
		t.Errorf("to whom it may concern: %q, %v", got, err)
	}
}
