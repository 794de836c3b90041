package raftnode

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/api"
)

const (
	// balanceEvery is the pace of leader moves: one a node each time.
	balanceEvery = 2 * time.Second
	// caughtUp is how many entries a replica may be behind and still get the
	// leadership, or a vote.
	caughtUp = 16
)

// balance spreads leaders evenly over the nodes, slowly, and turns nonvoters
// that have caught up into voters, until ctx ends.
func (n *Node) balance(ctx context.Context) {
	tick := time.NewTicker(balanceEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.elected: // a drained node hands over at once
			if n.isDraining() {
				n.standAside(ctx, true)
			}
			continue
		case <-tick.C:
		}
		n.promote(ctx)
		if n.isDraining() {
			n.standAside(ctx, true)
			continue
		}
		for _, g := range n.groupList() {
			target := n.preferred(g)
			if !g.leading.Load() || g.isHeld() || target == "" || target == n.cfg.NodeID || !n.isCaughtUp(target, g) {
				continue
			}
			err := n.handOver(ctx, g, target)
			if errors.Is(err, errSpared) { // it was told when it failed; others can move meanwhile
				continue
			}
			if err != nil {
				g.log.Warn("could not move the leadership", "to", target, "error", err)
			} else {
				g.log.Info("moved the leadership to spread the load", "to", target)
			}
			break
		}
	}
}

// preferred is the node that should lead g: the first one that can, in an order
// that differs from group to group, so that the groups of a dead node fall to
// all the others. It depends only on the members and on who answers.
func (n *Node) preferred(g *group) string {
	voters := voterIDs(g)
	k := len(voters)
	if k == 0 {
		return ""
	}
	start, step := int(g.id)%k, 1
	if int(g.id)/k%2 == 1 {
		step = k - 1
	}
	for i := range k {
		id := voters[(start+i*step)%k]
		if id == n.cfg.NodeID && !n.removed.Load() {
			return id
		}
		if n.canLead(id) {
			return id
		}
	}
	return ""
}

// canLead tells whether a peer answers and stays.
func (n *Node) canLead(id string) bool {
	s, ok := n.peers.fresh(id)
	return ok && !s.Draining && !n.catalog.View().IsRemoved(id)
}

// voterIDs lists the group's voters, sorted.
func voterIDs(g *group) []string {
	var ids []string
	for _, s := range g.servers() {
		if s.Suffrage == raft.Voter {
			ids = append(ids, string(s.ID))
		}
	}
	sort.Strings(ids)
	return ids
}

// servers is the group's latest configuration.
func (g *group) servers() []raft.Server {
	f := g.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

// isCaughtUp tells whether a peer had applied, a moment ago, nearly all that
// this node had of g then.
func (n *Node) isCaughtUp(id string, g *group) bool {
	lag, ok := n.peers.lag(id, g.id)
	return ok && lag <= caughtUp
}

// handOverAgain is how long a target is spared after a hand-over to it failed.
//
// The library asks the goroutine that replicates to the target to catch it up,
// through a channel of one. If that goroutine waits, at most some 14 s for a
// call and a back-off, a second transfer blocks on the channel; and if the
// leadership is lost meanwhile, for ever, with a mark left behind by which this
// node refuses every entry in all its leaderships to come
// (github.com/hashicorp/raft/issues/696).
const handOverAgain = 30 * time.Second

// errSpared: nothing was tried, since a hand-over to the same node failed lately.
var errSpared = fmt.Errorf("a hand-over to it failed less than %v ago", handOverAgain)

// handOver moves g's leadership to target: it lets the entries in flight
// finish, so that no outcome is lost, then transfers.
func (n *Node) handOver(ctx context.Context, g *group, target string) error {
	if err := g.handover.Acquire(ctx, handoverShares); err != nil {
		return err
	}
	defer g.handover.Release(handoverShares)
	if failed, ok := g.handoverFailed[target]; ok && time.Since(failed) < handOverAgain {
		return errSpared
	}
	m, ok := n.peers.member(target)
	if !ok {
		return fmt.Errorf("no address of node %s is known", target)
	}
	if g.coalescer != nil {
		qctx, cancel := context.WithTimeout(ctx, enqueueTimeout)
		err := g.coalescer.quiesce(qctx)
		cancel()
		if err != nil {
			g.reopen()
			return fmt.Errorf("entries are still in flight: %w", err)
		}
	}
	err := await(ctx, g.raft.LeadershipTransferToServer(raft.ServerID(target), raft.ServerAddress(m.Raft)))
	if err != nil {
		if !neverBegun(err) {
			g.handoverFailed[target] = time.Now()
		}
		g.reopen()
	}
	return err
}

// neverBegun tells errors of hand-overs that the library refused at once.
func neverBegun(err error) bool {
	return errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipTransferInProgress) || errors.Is(err, raft.ErrEnqueueTimeout)
}

// reopen serves on after a hand-over that failed.
func (g *group) reopen() {
	if g.coalescer != nil && g.leading.Load() && g.raft.State() == raft.Leader {
		g.coalescer.setOpen(true)
	}
}

// promote makes voters of the nonvoters that have caught up with every group.
// Each leader does so for its own groups.
func (n *Node) promote(ctx context.Context) {
	groups := n.groupList()
	for _, g := range groups {
		if !g.leading.Load() {
			continue
		}
		if !g.changing.TryAcquire(1) { // such as a removal
			continue
		}
		for _, s := range g.servers() {
			id := string(s.ID)
			if s.Suffrage != raft.Nonvoter || !n.ready(id, groups) || n.catalog.View().IsRemoved(id) {
				continue
			}
			// It was so a moment ago. A voter that has gone since is missed in every majority.
			if m, ok := n.peers.member(id); !ok {
				continue
			} else if _, err := n.ask(ctx, m.at()); err != nil || !n.ready(id, groups) {
				continue
			}
			g.log.Info("a new node has caught up and gets its vote", "peer", id)
			if err := await(ctx, g.raft.AddVoter(s.ID, s.Address, 0, enqueueTimeout)); err != nil {
				g.log.Warn("could not give a node its vote; trying again", "peer", id, "error", err)
			}
		}
		g.changing.Release(1)
	}
}

// ready tells whether a peer is close behind this node in every group.
func (n *Node) ready(id string, groups []*group) bool {
	for _, g := range groups {
		if !n.isCaughtUp(id, g) {
			return false
		}
	}
	return true
}

// Drain hands every leadership to a caught-up peer and takes none again; new
// takes are sent on to the new leaders. It returns once this node leads
// nothing, when nobody is left to take over, or when ctx ends.
func (n *Node) Drain(ctx context.Context) error { return n.drain(ctx, false) }

// drain is Drain, for a node that stays or goes.
func (n *Node) drain(ctx context.Context, stays bool) error {
	n.draining.Add(1)
	n.probeOnce(ctx) // tell the peers, so that none hands a leadership to us
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		left, hopeless := n.standAside(ctx, stays)
		switch {
		case left == 0:
			return nil
		case left == hopeless:
			return fmt.Errorf("%d groups have no other node that answers and stays", left)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d groups could not be handed over: %w", left, ctx.Err())
		case <-tick.C:
		}
	}
}

// standAside hands what this node leads to caught-up peers, once. It returns how many
// groups it led, and of how many of them no peer answers and stays. Of a group that
// has no other voter, a node that goes finishes the entries in flight, and does not
// count it: nobody else can have it.
func (n *Node) standAside(ctx context.Context, stays bool) (left, hopeless int) {
	for _, g := range n.groupList() {
		if g.raft.State() != raft.Leader {
			continue
		}
		voters := voterIDs(g)
		if !stays && len(voters) == 1 && voters[0] == n.cfg.NodeID {
			if g.coalescer != nil {
				_ = g.coalescer.quiesce(ctx)
			}
			continue
		}
		left++
		successors := n.successors(voters)
		if len(successors) == 0 {
			hopeless++
		}
		for _, id := range successors {
			if n.isCaughtUp(id, g) {
				if err := n.handOver(ctx, g, id); err == nil {
					break
				} else {
					g.log.Debug("could not hand the leadership over; trying again", "to", id, "error", err)
				}
			}
		}
	}
	return left, hopeless
}

// StandDown is Drain for a node that stays up: it goes on answering, forwarding and
// replicating, and leads nothing, until it is restarted. It is refused, and the node
// leads on, where nobody else could lead. If it is elected later, since the others had
// failed, it hands over again as soon as one of them can lead. Its errors are
// *api.Problem.
func (n *Node) StandDown(ctx context.Context) error {
	if _, err := n.group(0); err != nil {
		return err
	}
	for _, g := range n.groupList() {
		if len(n.successors(voterIDs(g))) == 0 {
			return api.NewProblem(api.Conflict, "nobody could lead %s without node %s: no other voter of it answers and stays", g, n.cfg.NodeID)
		}
	}
	if err := n.drain(ctx, true); err != nil {
		n.draining.Add(-1) // balance brings back what was handed over
		return api.NewProblem(api.Conflict, "node %s leads on: %v", n.cfg.NodeID, err)
	}
	n.log.Info("the node is drained: it leads nothing until it is restarted")
	return nil
}

// isDraining tells whether the node is to lead nothing.
func (n *Node) isDraining() bool { return n.draining.Load() > 0 }

// successors are the peers that may take a leadership over, least loaded first.
func (n *Node) successors(voters []string) []string {
	load := map[string]int{}
	for _, g := range n.groupList() {
		load[g.leader()]++
	}
	var ids []string
	for _, id := range voters {
		if n.canLead(id) {
			ids = append(ids, id)
		}
	}
	sort.SliceStable(ids, func(i, j int) bool { return load[ids[i]] < load[ids[j]] })
	return ids
}
