package raftnode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rlstore/rlstore/api"
)

const (
	// holdFor is how long a leadership that was moved by request stays where it
	// was put before balance may move it on: long enough to look at a machine.
	holdFor = 10 * time.Minute
	// officePatience bounds the wait for a new leader to serve. It takes office
	// within milliseconds, or an election of a second or two comes between.
	officePatience = 3 * time.Second
)

// handing is a leadership and who is to have it.
type handing struct {
	Shard uint32 `json:"shard"`
	To    string `json:"to,omitempty"`   // "": whoever is best
	Hold  bool   `json:"hold,omitempty"` // keep it from balance for a while
}

// Transfer moves the leadership of a shard, or of the catalog as shard 0, to
// the node to, from wherever it is; to "" means the least loaded voter that can
// take it. It returns the new leader once that one serves. With noForward it
// moves nothing unless this node leads, and says who does. Its errors are
// *api.Problem.
//
// The new leader keeps the leadership for holdFor, whatever balance would
// prefer. Only it knows so: when it dies, balance has its way.
func (n *Node) Transfer(ctx context.Context, shard uint32, to string, noForward bool) (leader string, err error) {
	g, err := n.group(shard)
	if err != nil {
		return "", err
	}
	req, done := handing{shard, to, true}, handing{}
	err = n.untilLed(ctx, g, noForward, func() (err error) {
		at := n.leaderOf(g)
		if at == n.cfg.NodeID {
			done, err = n.transfer(ctx, &req)
			return err
		}
		return n.callLeader(ctx, g, at, methodTransfer, req, &done)
	})
	if err != nil {
		return "", err
	}
	return done.To, n.awaitLeader(ctx, g, done.To)
}

// transfer is Transfer on the node that leads; it does not wait for the new
// leader to serve.
func (n *Node) transfer(ctx context.Context, h *handing) (handing, error) {
	g, err := n.group(h.Shard)
	if err != nil {
		return handing{}, err
	}
	if !g.leading.Load() {
		return handing{}, notLeader(g.id)
	}
	if h.To == n.cfg.NodeID {
		return *h, n.held(h)
	}
	candidates := []string{h.To}
	if h.To == "" {
		if candidates = n.successors(voterIDs(g)); len(candidates) == 0 {
			return handing{}, api.NewProblem(api.Conflict, "no other voter of %s answers and stays", g)
		}
	}
	for _, id := range candidates {
		if err = n.mayLead(ctx, g, id, h.Hold); err != nil {
			continue
		}
		err = n.handOver(ctx, g, id)
		switch {
		case err == nil:
			g.heldUntil.Store(nil) // the newest request counts
			g.log.Info("handed the leadership over, as requested", "to", id)
			return handing{Shard: g.id, To: id}, nil
		case errors.Is(err, errSpared):
			err = api.NewProblem(api.Conflict, "node %s can't lead %s now: %v", id, g, err)
			continue
		case neverBegun(err):
			return handing{}, outcome(g.id, err)
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled): // before anything was handed over
			return handing{}, api.NewProblem(api.Overloaded, "%s could not be handed over: %v", g, err)
		}
		return handing{}, api.NewProblem(api.OutcomeUnknown, "it is not known whether node %s has taken %s over: %v", id, g, err)
	}
	return handing{}, err
}

// mayLead says why a node can't be the next leader of g, which this node leads, or
// returns nil. The node is then told what it is about to get.
func (n *Node) mayLead(ctx context.Context, g *group, id string, hold bool) error {
	voters := voterIDs(g)
	s, ok := n.peers.fresh(id)
	switch {
	case !g.has(id):
		return api.NewProblem(api.InvalidRequest, "to: there is no node %.64s in %s; its voters are %s", id, g, strings.Join(voters, ", "))
	case !slices.Contains(voters, id):
		return api.NewProblem(api.Conflict, "node %s has no vote in %s yet; it gets one once it has caught up with every shard", id, g)
	case n.catalog.View().IsRemoved(id):
		return api.NewProblem(api.Conflict, "node %s is being removed from the cluster, so it can't lead %s", id, g)
	case !ok:
		return api.NewProblem(api.Conflict, "node %s does not answer, so it can't lead %s", id, g)
	case s.Draining:
		return api.NewProblem(api.Conflict, "node %s is draining, so it can't lead %s", id, g)
	}
	if !n.isCaughtUp(id, g) { // a second ago
		_, _ = n.ask(ctx, s.at())
	}
	if !n.isCaughtUp(id, g) {
		return api.NewProblem(api.Conflict, "node %s has not caught up with %s yet; try again when its lag is small", id, g)
	}
	if err := n.call(ctx, s.at(), methodHold, handing{g.id, id, hold}, nil); err != nil {
		return api.NewProblem(api.Conflict, "node %s does not answer, so it can't lead %s: %v", id, g, err)
	}
	return nil
}

// awaitLeader returns once the node id leads g and serves, also in the eyes of
// this node.
func (n *Node) awaitLeader(ctx context.Context, g *group, id string) error {
	ctx, cancel := context.WithTimeout(ctx, officePatience)
	defer cancel()
	for {
		if n.leaderOf(g) == id && n.serves(ctx, id, g) {
			return nil
		}
		select {
		case <-ctx.Done():
			return api.NewProblem(api.OutcomeUnknown, "%s was handed over to node %s, which is not known to lead it yet", g, id)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// serves asks a node whether it leads g and has taken office.
func (n *Node) serves(ctx context.Context, id string, g *group) bool {
	if id == n.cfg.NodeID {
		return g.leading.Load()
	}
	m, ok := n.peers.member(id)
	if !ok {
		return false
	}
	s, err := n.ask(ctx, m.at())
	return err == nil && slices.ContainsFunc(s.Groups, func(r groupStatus) bool { return r.ID == g.id && r.Serving })
}

// held is asked of the node that is about to get a leadership.
func (n *Node) held(h *handing) error {
	g, err := n.group(h.Shard)
	if err != nil {
		return err
	}
	if h.Hold {
		g.hold()
	}
	return nil
}

// hold keeps balance from moving the leadership on, for a while.
func (g *group) hold() {
	until := time.Now().Add(holdFor)
	g.heldUntil.Store(&until)
}

func (g *group) isHeld() bool {
	until := g.heldUntil.Load()
	return until != nil && time.Now().Before(*until)
}

// group returns the group of this id, which callers choose.
func (n *Node) group(id uint32) (*group, error) {
	groups := n.groupList()
	switch {
	case groups == nil:
		return nil, api.NewProblem(api.NoLeader, "this node does not belong to a cluster yet")
	case int64(id) >= int64(len(groups)):
		return nil, api.NewProblem(api.NotFound, "there is no shard %d; there are 1 to %d, and 0 is the catalog", id, len(groups)-1)
	}
	return groups[id], nil
}

// String names the group in errors.
func (g *group) String() string {
	if g.id == 0 {
		return "the catalog"
	}
	return fmt.Sprintf("shard %d", g.id)
}
