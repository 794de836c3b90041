package raftnode

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

// Any node moves any leadership, and says so once the new leader serves. Balance
// leaves it there.
func TestLeadershipMovesByRequestAndStays(t *testing.T) {
	c := startCluster(t, 3)
	preferred := c.preferredLeads(1)
	for i := range 3 {
		to := c.nodes[(preferred+1+i)%3] // last of all the preferred one, to where balance would move it
		through := c.nodes[(preferred+i)%3]
		insist(t, func() error {
			got, err := through.Transfer(request(t), 1, to.NodeID(), false)
			if err == nil && got != to.NodeID() {
				t.Fatalf("transfer to %s through %s: to %q", to.NodeID(), through.NodeID(), got)
			}
			return err
		})
		if g := to.groupList()[1]; g.leading.Load() && !g.isHeld() {
			t.Errorf("%s does not hold what it was given", to.NodeID())
		}
		c.mustTake(1)
	}
	// The catalog is a group like any other; and without a name, anybody else.
	insist(t, func() error {
		got, err := c.nodes[0].Transfer(request(t), 0, "", false)
		if err == nil && !slices.Contains([]string{"n1", "n2", "n3"}, got) {
			t.Errorf("the catalog went to %q", got)
		}
		return err
	})
}

// insist repeats f while it fails as a leadership that is lost on a busy machine
// makes it fail: with what a repetition may cure, or because a hand-over failed
// just before.
func insist(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		p := api.AsProblem(err)
		if time.Now().After(deadline) || !p.Retryable && !strings.Contains(p.Detail, errSpared.Error()) {
			t.Fatal(err)
		}
		<-time.After(time.Millisecond)
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
	away := map[uint32]*Node{}
	for shard := uint32(1); shard <= 2; shard++ {
		away[shard] = c.nodes[(c.preferredLeads(shard)+1)%3]
		insist(t, func() error {
			_, err := c.nodes[0].Transfer(request(t), shard, away[shard].NodeID(), false)
			return err
		})
	}
	away[1].groupList()[1].heldUntil.Store(nil)
	eventually(t, "shard 1 is back where balance wants it", func() bool {
		at, leader := c.leader(1)
		return c.nodes[at] != away[1] && leader.preferred(leader.groupList()[1]) == leader.NodeID()
	})
	// Unless an election took it away, and with it what was held.
	if g := away[2].groupList()[2]; g.isHeld() && !g.leading.Load() {
		t.Errorf("shard 2 went away from %s though it was held", away[2].NodeID())
	}
}

func TestTransferThatCannotBeIsRefused(t *testing.T) {
	c := startCluster(t, 3)
	refused := func(what string, err error, code api.Code) {
		t.Helper()
		if p := api.AsProblem(err); err == nil || p.Code != code || p.Outcome != api.NotApplied {
			t.Errorf("%s: %v, want %s", what, err, code)
		}
	}
	at, leader := c.leader(1)
	other := c.nodes[(at+1)%3]
	transfer := func(shard uint32, to string) error {
		return refusal(t, func() error { _, err := other.Transfer(request(t), shard, to, false); return err })
	}
	refused("an unknown shard", transfer(3, ""), api.NotFound)
	refused("an unknown node", transfer(1, "n9"), api.InvalidRequest)
	_, err := other.Transfer(request(t), 1, other.NodeID(), true)
	refused("through another node that must not forward", err, api.NotLeader)

	gone := (at + 2) % 3
	id := c.nodes[gone].NodeID()
	c.close(gone)
	eventually(t, "the leader misses the stopped node", func() bool { _, ok := leader.peers.fresh(id); return !ok })
	refused("a node that is down", transfer(1, id), api.Conflict)
	insist(t, func() error {
		got, err := other.Transfer(request(t), 1, "", false)
		if err == nil && got != leader.NodeID() && got != other.NodeID() {
			t.Errorf("to whom it may concern: %q", got)
		}
		return err
	})
}
