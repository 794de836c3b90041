package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/api"
)

// How a replica is repaired whose files are damaged; docs/repair.md has the proof.
//
// A replica that has lost entries which it confirmed, or votes which it gave, must
// not take part in an election or in a commit: others rely on what it has
// forgotten. So:
//
//  1. the node notes the group as lost, in node.json, and sets its files aside;
//  2. it opens the group with nothing in it, answers nobody, and never stands for
//     election: to the others this replica is down;
//  3. it asks the group's leader to take its vote away. The leader answers once a
//     majority of the other voters has that on disk, with the term and an index of
//     the log by which it is so. Both are noted in node.json;
//  4. the node now takes entries and snapshots, from leaders of that term and later
//     ones. It still neither votes nor stands: a candidate that knows only of an
//     older set of members might win by the vote of a replica that has lost them all;
//  5. once it has applied all up to that index, it has again what it ever confirmed.
//     It notes the group as lost no more, and is an ordinary replica without a vote,
//     which the leader gives back as to any node that joins (balance.go).
//
// A crash in between goes on from what node.json says. Without a majority of the
// voters that are whole there is no leader, and the replica waits.

// loss is a group whose files were damaged on this node.
type loss struct {
	Group uint32 `json:"group"`
	// Term and Index are from where on the leader had taken the vote away; 0 before.
	Term  uint64 `json:"term,omitempty"`
	Index uint64 `json:"index,omitempty"`
}

// openOrLose opens a group. What is damaged of it is set aside, and it is opened as
// lost.
func (n *Node) openOrLose(id uint32, first *raft.Configuration, complete bool) (*group, error) {
	n.idMu.Lock()
	lost := n.id.lossOf(id)
	n.idMu.Unlock()
	if lost == nil || lost.Index > 0 {
		g, err := n.openGroup(id, first, complete, lost)
		if !errors.Is(err, ErrDamaged) {
			return g, err
		}
		if err := n.lose([]uint32{id}, err); err != nil {
			return nil, err
		}
	} else if err := n.disk.SetAside([]uint32{id}); err != nil { // a crash may have come before
		return nil, err
	}
	return n.openGroup(id, nil, true, &loss{Group: id})
}

// lossOf returns a copy, or nil.
func (id *identity) lossOf(group uint32) *loss {
	for _, l := range id.Lost {
		if l.Group == group {
			return &l
		}
	}
	return nil
}

// without returns the losses but for those of some groups.
func (id *identity) without(groups ...uint32) []loss {
	return slices.DeleteFunc(slices.Clone(id.Lost), func(l loss) bool { return slices.Contains(groups, l.Group) })
}

// lose notes that these groups have lost what they had here because of cause, then
// sets that aside. It refuses where nobody could send it again.
func (n *Node) lose(groups []uint32, cause error) error {
	n.idMu.Lock()
	defer n.idMu.Unlock()
	if !slices.ContainsFunc(n.id.Members, func(m Member) bool { return m.ID != n.cfg.NodeID }) {
		return fmt.Errorf("%w; this node is the only one of its cluster, so nobody can send it again: put a backup of the data folder %s in its place, or keep what can be read with 'rlstore recover --data-dir %[2]s'", cause, n.cfg.DataDir)
	}
	next := n.id
	next.Lost = n.id.without(groups...)
	for _, g := range groups {
		next.Lost = append(next.Lost, loss{Group: g})
	}
	if err := n.keep(next); err != nil {
		return err
	}
	if err := n.disk.SetAside(groups); err != nil {
		return fmt.Errorf("%w; and it can't be set aside: %w", cause, err)
	}
	for _, g := range groups {
		n.metrics.repairs.WithLabelValues(strconv.Itoa(int(g))).Inc()
	}
	n.log.Error("files are damaged and were set aside; this node has no vote in these groups until their leaders have sent it all again", "groups", groups, "error", cause)
	return nil
}

// regain gets a lost group back: its place, then all that belongs there, then the
// vote. It ends with ctx, or once that is done.
func (n *Node) regain(ctx context.Context, g *group) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for tries := 0; ; tries++ {
		switch lost := g.repair.what(); {
		case lost == nil && slices.Contains(voterIDs(g), n.cfg.NodeID):
			g.log.Info("what was damaged is repaired, and this node has its vote again", "took", g.repair.end().Round(time.Millisecond))
			return
		case lost == nil: // the leader is to give the vote
		case lost.Index == 0:
			err := n.readmit(ctx, g)
			switch {
			case err == nil:
				g.log.Info("the leader has taken this node back, without a vote, and sends what was damaged")
			case tries == 3 && ctx.Err() == nil: // some 12 s; an election takes three
				g.log.Warn("nobody takes this node back; if that stays so, more replicas of the group are damaged or away than it can do without: start those that are whole, or see 'rlstore recover --help'", "error", err)
			default:
				g.log.Debug("not taken back yet", "error", err)
			}
		case g.raft.AppliedIndex() >= lost.Index:
			if err := n.restored(g); err != nil {
				g.log.Warn("could not note that the group is whole again; trying again", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// readmit has the leader take this node's vote away, and then lets the group hear
// of leaders.
func (n *Node) readmit(ctx context.Context, g *group) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	a, err := n.changeGroup(ctx, g, memberChange{Group: g.id, Lost: n.cfg.NodeID})
	if err != nil {
		return err
	}
	if a.Term == 0 || a.Index == 0 {
		return fmt.Errorf("the leader of %s does not know how to take a damaged node back", g)
	}
	l := loss{g.id, a.Term, a.Index}
	n.idMu.Lock()
	defer n.idMu.Unlock()
	next := n.id
	next.Lost = append(n.id.without(g.id), l)
	if err := n.keep(next); err != nil {
		return err
	}
	g.repair.set(&l)
	return nil
}

// restored makes the group an ordinary replica again.
func (n *Node) restored(g *group) error {
	n.idMu.Lock()
	defer n.idMu.Unlock()
	next := n.id
	next.Lost = n.id.without(g.id)
	if err := n.keep(next); err != nil {
		return err
	}
	g.repair.set(nil)
	g.setTimeouts(never, n.cfg.ElectionTimeout)
	return nil
}

// disown takes the vote of a node away that has lost what it had of g, which this
// node leads. It returns the term, and an index of the log by which that is so.
func (n *Node) disown(ctx context.Context, g *group, id string) (term, index uint64, err error) {
	switch {
	case n.catalog.View().IsRemoved(id):
		return 0, 0, barred(id)
	case id == n.cfg.NodeID:
		return 0, 0, api.NewProblem(api.InvalidRequest, "node %s leads %s, and has not lost it", id, g)
	}
	term = g.raft.CurrentTerm()
	n.peers.forgetLag(id)
	if slices.Contains(voterIDs(g), id) {
		g.log.Warn("a node has lost its replica; its vote is taken away until it has all again", "peer", id)
		if err := await(ctx, g.raft.DemoteVoter(raft.ServerID(id), 0, enqueueTimeout)); err != nil {
			return 0, 0, outcome(g.id, err)
		}
	}
	// Whoever has taken the vote away, by now a majority has that on disk.
	if err := await(ctx, g.raft.Barrier(enqueueTimeout)); err != nil {
		return 0, 0, outcome(g.id, err)
	}
	index = g.committed() // behind all that the node ever confirmed to this one, and it stays
	// All of that in one term, in which nobody else has changed the members.
	if slices.Contains(voterIDs(g), id) || g.raft.CurrentTerm() != term || !g.leading.Load() {
		return 0, 0, notLeader(g.id)
	}
	return term, index, nil
}

// repair is how far the repair of a group has come. A nil one is of a group that
// was whole when it was opened.
type repair struct {
	begun time.Time

	mu    sync.Mutex // guards the next two
	lost  *loss      // nil once all is there again
	voted bool       // the vote is there, too
}

func newRepair(l loss) *repair {
	return &repair{begun: time.Now(), lost: &l}
}

// what is lost, nil if nothing is any more.
func (r *repair) what() *loss {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lost
}

func (r *repair) set(l *loss) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = l
}

// isLost tells whether the leader has yet to take the vote away.
func (r *repair) isLost() bool {
	l := r.what()
	return l != nil && l.Index == 0
}

// underWay tells whether the node has yet to get its vote again.
func (r *repair) underWay() bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.voted
}

// end returns how long it took.
func (r *repair) end() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.voted = true
	return time.Since(r.begun)
}

// refuses tells whether the group must not answer a request of another node.
func (r *repair) refuses(command any) bool {
	l := r.what()
	if l == nil {
		return false
	}
	switch c := command.(type) {
	case *raft.AppendEntriesRequest:
		return l.Index == 0 || c.Term < l.Term
	case *raft.InstallSnapshotRequest:
		return l.Index == 0 || c.Term < l.Term
	}
	return true // votes, and the word to stand for election
}

var errLost = errors.New("this replica has lost what it had, and can't answer that yet")

// refuse answers a request. What follows a snapshot's is read first, since the other
// side sends it all.
func refuse(rpc raft.RPC, err error) {
	if rpc.Reader == nil {
		rpc.Respond(nil, err)
		return
	}
	go func() {
		_, _ = io.Copy(io.Discard, rpc.Reader)
		rpc.Respond(nil, err)
	}()
}

// unrepaired says why the group can't be served from here, "" if it can.
func (g *group) unrepaired(leader string) string {
	switch l := g.repair.what(); {
	case l == nil:
		return ""
	case l.Index > 0:
		return "its leader is sending again what was damaged here"
	case leader == "":
		return "its files here were damaged and are set aside, and no leader is known who could send them again"
	}
	return "its files here were damaged and are set aside; the leader is asked to send them again"
}
