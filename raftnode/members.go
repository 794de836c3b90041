package raftnode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
)

// How a node leaves for good. Whichever node is asked drives:
//
//  1. it asks the leader of every group whether the group can do without the
//     node, so that nothing begins that can't be finished;
//  2. the catalog remembers the node as removed. From then on nobody adds it
//     again, gives it a vote or hands it a leadership; and it is told, by the
//     catalog itself or by the answer to its next question, and says so;
//  3. each group's leader takes it out, a shard after the other, the catalog
//     last. A leader that is the node itself hands over first.
//
// Each step finds what an earlier attempt has done already, so a removal that
// was cut off is finished by asking again. The members are those of the catalog's
// configuration: the node counts as one until the last step.

// memberChange is asked of the leader of a group.
type memberChange struct {
	Group  uint32  `json:"group"`
	Add    *Member `json:"add,omitempty"`    // as a nonvoter; see promote
	Remove string  `json:"remove,omitempty"` // node id
	Check  bool    `json:"check,omitempty"`  // of a removal: only tell whether it can be
	Lost   string  `json:"lost,omitempty"`   // id of a node that has lost its replica; see repair.go
}

// memberAnswer tells what the group was like before the change.
type memberAnswer struct {
	Present bool `json:"present"`
	// Of a lost replica: an index of the log by which it has no vote, and the term.
	Index uint64 `json:"index,omitempty"`
	Term  uint64 `json:"term,omitempty"`
}

// settlePatience bounds the wait until this node, too, has heard of a change of
// the members that it drove.
const settlePatience = time.Second

// RemoveMember takes a node out of every group, and bars it from coming back. Its
// errors are *api.Problem.
func (n *Node) RemoveMember(ctx context.Context, id string) error {
	catalog, err := n.group(0)
	if err != nil {
		return err
	}
	present := false
	for _, g := range n.groupList() {
		a, err := n.changeGroup(ctx, g, memberChange{Group: g.id, Remove: id, Check: true})
		if err != nil {
			return err
		}
		present = present || a.Present
	}
	switch removed := n.catalog.View().IsRemoved(id); {
	case !present && removed:
		return nil
	case !present:
		return api.NewProblem(api.NotFound, "there is no node %s in this cluster", id)
	case !removed:
		if _, err := n.ChangeCatalog(ctx, fsm.CatalogCommand{RemoveMember: &fsm.RemoveMember{ID: id}}, false); err != nil {
			return err
		}
	}
	for _, g := range append(slices.Clone(n.groupList()[1:]), catalog) {
		if _, err := n.changeGroup(ctx, g, memberChange{Group: g.id, Remove: id}); err != nil {
			return err
		}
	}
	n.log.Info("a node was removed from every group", "removed", id)
	settle(ctx, func() bool { return !n.belongs(id) })
	n.forgetStrangers()
	return nil
}

// joinPatience bounds the wait for a node that is to be added: it may have started
// this moment.
const joinPatience = 3 * time.Second

// AddMember makes a node a member of every group, without a vote until it has
// caught up with all of them. The node has to run already, with a --join that leads
// here: only then it knows that it is a member, which one without a log could not
// tell from having lost it. It asks for the same by itself, so mostly this finds it
// added. Its errors are *api.Problem.
func (n *Node) AddMember(ctx context.Context, id, raftAddr, httpURL string) error {
	m := Member{ID: id, Raft: raftAddr, HTTP: httpURL}
	if _, err := n.group(0); err != nil {
		return err
	}
	if n.catalog.View().IsRemoved(id) {
		return barred(id)
	}
	if id != n.cfg.NodeID {
		if err := n.awaitJoiner(ctx, m); err != nil {
			return err
		}
	} else if m != n.self() {
		return misnamed(m, n.self())
	}
	for _, g := range n.groupList() {
		if _, err := n.changeGroup(ctx, g, memberChange{Group: g.id, Add: &m}); err != nil {
			return err
		}
	}
	settle(ctx, func() bool { return n.groupList()[0].has(id) })
	n.peers.learn([]Member{m})
	return nil
}

// awaitJoiner returns once the node answers under its address, as who it is said to
// be, and has found this cluster.
func (n *Node) awaitJoiner(ctx context.Context, m Member) error {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	for {
		var why string
		s, err := n.ask(ctx, m.Raft)
		var refused *RefusedError
		switch {
		case errors.As(err, &refused) && !refused.Retryable:
			return api.NewProblem(api.Conflict, "the node at %s belongs to another cluster", m.Raft)
		case err != nil:
			why = fmt.Sprintf("no node answers at %s; start it first, with --join and the raft address of a member: %v", m.Raft, err)
		case s.Member != m:
			return misnamed(m, s.Member)
		case s.ClusterID == n.ClusterID():
			return nil
		default:
			why = fmt.Sprintf("the node at %s has not found this cluster yet; its --join needs the raft address of a member", m.Raft)
		}
		select {
		case <-ctx.Done():
			return api.NewProblem(api.Conflict, "%s", why)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// misnamed refuses addresses that are not those which the node itself announces.
func misnamed(asked, is Member) error {
	return api.NewProblem(api.InvalidRequest, "the node at %s is %s with raft %s and http %s, not %s with raft %s and http %s",
		asked.Raft, is.ID, is.Raft, is.HTTP, asked.ID, asked.Raft, asked.HTTP)
}

// barred refuses a node that was removed.
func barred(id string) error {
	return api.NewProblem(api.Conflict, "node %s was removed from this cluster; start it with an empty folder under a new --node-id", id)
}

// settle waits for what will come about without it, but not for long.
func settle(ctx context.Context, f func() bool) {
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	for !f() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// changeGroup has the leader of g make a change, wherever it is.
func (n *Node) changeGroup(ctx context.Context, g *group, c memberChange) (a memberAnswer, err error) {
	err = n.untilLed(ctx, g, false, func() (err error) {
		leader := n.leaderOf(g)
		if leader == n.cfg.NodeID {
			a, err = n.changeMember(ctx, &c)
			return err
		}
		return n.callLeader(ctx, g, leader, methodMember, c, &a)
	})
	return a, err
}

// changeMember is changeGroup on the node that leads.
func (n *Node) changeMember(ctx context.Context, c *memberChange) (a memberAnswer, err error) {
	g, err := n.group(c.Group)
	if err != nil {
		return a, err
	}
	// One change after the other: what one has looked at, no other changes.
	if err := g.changing.Acquire(ctx, 1); err != nil {
		return a, api.NewProblem(api.Overloaded, "another change of the members of %s is under way", g)
	}
	defer g.changing.Release(1)
	if !g.leading.Load() {
		return a, notLeader(g.id)
	}
	id := cmp.Or(c.Remove, c.Lost)
	if c.Add != nil {
		id = c.Add.ID
	}
	a.Present = g.has(id)
	switch {
	case c.Lost != "":
		a.Term, a.Index, err = n.disown(ctx, g, id)
		return a, err
	case c.Add != nil && !a.Present:
		return a, n.addNonvoter(ctx, g, c.Add)
	case c.Add == nil && a.Present:
		return a, n.removeServer(ctx, g, id, c.Check)
	}
	return a, nil
}

func (n *Node) addNonvoter(ctx context.Context, g *group, m *Member) error {
	if n.catalog.View().IsRemoved(m.ID) {
		return barred(m.ID)
	}
	g.log.Info("a new node joins", "peer", m.ID, "raft", m.Raft)
	if err := await(ctx, g.raft.AddNonvoter(raft.ServerID(m.ID), raft.ServerAddress(m.Raft), 0, enqueueTimeout)); err != nil {
		return outcome(g.id, err)
	}
	return nil
}

func (n *Node) removeServer(ctx context.Context, g *group, id string, check bool) error {
	if err := n.canSpare(g, id); err != nil || check {
		return err
	}
	if id == n.cfg.NodeID {
		if _, err := n.transfer(ctx, &handing{Shard: g.id}); err != nil {
			return err
		}
		return notLeader(g.id) // the next leader goes on
	}
	if err := await(ctx, g.raft.RemoveServer(raft.ServerID(id), 0, enqueueTimeout)); err != nil {
		return outcome(g.id, err)
	}
	g.log.Info("a node was removed", "removed", id)
	return nil
}

// canSpare refuses the removal of a node whose group could then decide nothing:
// of the voters that remain, a majority has to answer. To remove one that does
// not answer itself never makes that worse.
func (n *Node) canSpare(g *group, id string) error {
	voters := voterIDs(g)
	if !slices.Contains(voters, id) {
		return nil
	}
	left := slices.DeleteFunc(voters, func(v string) bool { return v == id })
	away := slices.DeleteFunc(slices.Clone(left), func(v string) bool {
		s, ok := n.peers.group(v, g.id)
		return ok && !s.Lost || v == n.cfg.NodeID
	})
	switch {
	case len(left) == 0:
		return api.NewProblem(api.Conflict, "node %s is the only voter of %s", id, g)
	case len(left)-len(away) <= len(left)/2:
		return api.NewProblem(api.Conflict, "without node %s, %s would have %d voters without a majority that answers; not answering: %s; bring it back, or remove it first",
			id, g, len(left), strings.Join(away, ", "))
	}
	return nil
}

// has tells whether a node is in the group's configuration.
func (g *group) has(id string) bool {
	return slices.ContainsFunc(g.servers(), func(s raft.Server) bool { return string(s.ID) == id })
}

// belongs tells whether a node is in the configuration of any group, as far as
// this node knows: one that has yet to learn a configuration takes anybody for a
// member.
func (n *Node) belongs(id string) bool {
	groups := n.groupList()
	for _, g := range groups {
		if g.has(id) || len(g.servers()) == 0 {
			return true
		}
	}
	return groups == nil
}

// forgetStrangers takes those out of the address book that are members no more.
func (n *Node) forgetStrangers() {
	changed := false
	for _, m := range n.peers.members() {
		if m.ID != n.cfg.NodeID && !n.belongs(m.ID) {
			n.peers.forget(m.ID)
			n.log.Info("a node is not a member any more", "peer", m.ID)
			changed = true
		}
	}
	if changed {
		n.saveMembers()
	}
}

// farewell is what a removed node says of itself.
const farewell = "this node was removed from the cluster; stop it, and start it with an empty folder under a new --node-id to come back"

// quieten keeps a removed node from asking for votes. Nobody would give it one, but
// it may never get the entry that tells its Raft so, and would ask every second.
func (n *Node) quieten() {
	for _, g := range n.groupList() {
		// A leader's pace is a tenth of its timeout: first it hands over.
		if g.raft.State() == raft.Leader {
			continue
		}
		err := g.reload(func(rc *raft.ReloadableConfig) { rc.HeartbeatTimeout, rc.ElectionTimeout = never, never })
		if err != nil {
			g.log.Warn("the removed node goes on asking for votes", "error", err)
		}
	}
}

// never is longer than a removed node runs.
const never = 10_000 * time.Hour

// Removed says that this node was removed from its cluster.
func (n *Node) Removed() bool { return n.removed.Load() }

// Barred says that the catalog bars this node, as it does from the beginning of its
// removal on, whether or not it has found out and ended its work.
func (n *Node) Barred() bool { return n.removed.Load() || n.catalog.View().IsRemoved(n.cfg.NodeID) }

// beRemoved notes, for good, that this node was removed. It stays up to say so, and
// to tell clients where the others are.
func (n *Node) beRemoved() {
	if n.removed.Swap(true) {
		return
	}
	n.log.Error(farewell)
	n.idMu.Lock()
	defer n.idMu.Unlock()
	next := n.id
	next.Removed = true
	if err := n.keep(next); err != nil {
		n.log.Warn("could not note that this node was removed", "error", err)
	}
}
