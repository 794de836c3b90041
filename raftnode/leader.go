package raftnode

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/rlstore/rlstore/api"
)

// leaderPatience bounds the search for a leader that takes a change. An
// election fits in, and callers who wait 5 s hear that nothing was applied. Of those
// who wait for less, three quarters of their time bound it.
const leaderPatience = 3 * time.Second

// leaderOf is the id of the node that leads g as this node believes, or "". A
// removed node hears no more from leaders, and one that has lost the group not yet:
// unless it still leads, it goes by what its peers say.
func (n *Node) leaderOf(g *group) string {
	id := g.leader()
	if (n.removed.Load() || g.repair.isLost()) && id != n.cfg.NodeID {
		return cmp.Or(n.peers.leaderOf(g.id), id)
	}
	return id
}

// untilLed repeats try, which carries a change to the leader of g, for as long
// as that says that nothing was applied and that a repetition may help. With
// noForward it tries on this node only, and else says who leads. Its errors are
// *api.Problem.
func (n *Node) untilLed(ctx context.Context, g *group, noForward bool, try func() error) error {
	patience := leaderPatience
	if d, ok := ctx.Deadline(); ok { // so that there is time to say that nothing was applied
		patience = min(patience, time.Until(d)*3/4)
	}
	deadline := time.Now().Add(patience)
	wait := 5 * time.Millisecond
	for {
		if noForward {
			if p := n.elsewhere(g); p != nil {
				return p
			}
		}
		err := try()
		if err == nil {
			return nil
		}
		p := api.AsProblem(err)
		if p.Outcome == api.Unknown || !p.Retryable {
			return p
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			p = api.NewProblem(api.NoLeader, "%s has no leader that answers; the last attempt said: %s", g, p.Detail)
			p.RetryAfter = time.Second
			return p
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
			wait = min(2*wait, 100*time.Millisecond)
		}
	}
}

// elsewhere is the answer to a caller that wants no forwarding, unless this
// node leads g.
func (n *Node) elsewhere(g *group) *api.Problem {
	if g.leading.Load() {
		return nil
	}
	p := notLeader(g.id)
	p.SlotMapVersion = n.catalog.View().SlotMapVersion()
	if m, ok := n.peers.member(n.leaderOf(g)); ok {
		p.Leader = m.HTTP
	}
	return p
}

// callLeader calls the node that is believed to lead g, "" if none is. Its
// errors are *api.Problem.
func (n *Node) callLeader(ctx context.Context, g *group, leader string, method uint8, req, resp any) error {
	m, ok := n.peers.member(leader)
	if leader == "" || !ok {
		return api.NewProblem(api.NoLeader, "%s has no leader now", g)
	}
	err := n.call(ctx, m.at(), method, req, resp)
	var p *api.Problem
	switch {
	case err == nil:
		return nil
	case errors.As(err, &p):
		return p
	case errors.Is(err, ErrNotSent):
		return api.NewProblem(api.NoLeader, "%s is led by node %s, which does not answer: %v", g, leader, err)
	}
	return api.NewProblem(api.OutcomeUnknown, "node %s, which leads %s, took the change and did not answer: %v", leader, g, err)
}
