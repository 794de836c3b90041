package raftnode

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
)

// catalogAnswer is what the catalog's leader says of a command.
type catalogAnswer struct {
	Index  uint64            `json:"index"`
	Result fsm.CatalogResult `json:"result"`
}

// peerWait bounds how long a catalog write waits for one peer to apply it. A
// peer that takes longer does not count as reachable.
const peerWait = 2 * time.Second

// catalogBirth is the first entry of a new catalog, or nil for one that has it.
func (n *Node) catalogBirth(stamp uint64) []byte {
	if n.catalog.View().SlotMapVersion() > 0 {
		return nil
	}
	n.idMu.Lock()
	id := n.id
	n.idMu.Unlock()
	entry, err := fsm.EncodeCatalog(stamp, fsm.CatalogCommand{Init: &fsm.CatalogInit{
		ClusterID: id.ClusterID, SlotMap: api.EvenSlotMap(uint32(id.Shards)),
	}})
	if err != nil {
		n.fail(err)
	}
	return entry
}

// ownedBy is the ranges of m that shard owns.
func ownedBy(m api.SlotMap, shard uint32) []api.SlotRange {
	var owned []api.SlotRange
	for _, r := range m.Ranges {
		if r.Shard == shard {
			owned = append(owned, r)
		}
	}
	return owned
}

// Catalog is this node's copy of the catalog: immutable, and replaced by each
// change.
func (n *Node) Catalog() *fsm.CatalogView { return n.catalog.View() }

// CatalogCurrent says whether this node has caught up with the catalog since it
// started. Until then it may lack policies that were written while it was away,
// and must not say of any that it does not exist.
//
// Once caught up it stays so: a catalog write waits for every reachable node.
func (n *Node) CatalogCurrent() bool {
	if n.removed.Load() {
		return false // it hears of no change any more
	}
	if n.current.Load() {
		return true
	}
	groups := n.groupList()
	if groups == nil || n.catalog.View().SlotMapVersion() == 0 {
		return false
	}
	g := groups[0]
	ok := g.leading.Load()
	if !ok {
		// What the leader told since this process started: it had applied
		// every write that was acknowledged before.
		leader := g.leader()
		s, heard := n.peers.group(leader, 0)
		_, command := n.catalog.Last()
		ok = heard && s.Leader == leader && command >= s.Command
	}
	if ok {
		n.current.Store(true)
	}
	return ok
}

// ChangeCatalog carries a command through the catalog's log, wherever its
// leader is, and returns once every reachable node has applied it. With
// noForward it changes nothing unless this node leads, and says who does. Its
// errors are *api.Problem.
func (n *Node) ChangeCatalog(ctx context.Context, c fsm.CatalogCommand, noForward bool) (fsm.CatalogResult, error) {
	g, err := n.group(0)
	if err != nil {
		return fsm.CatalogResult{}, err
	}
	var answer catalogAnswer
	err = n.untilLed(ctx, g, noForward, func() (err error) {
		leader := n.leaderOf(g)
		if leader == n.cfg.NodeID {
			answer, err = n.applyCatalog(ctx, &c)
			return err
		}
		return n.callLeader(ctx, g, leader, methodCatalog, &c, &answer)
	})
	switch {
	case err != nil:
		return fsm.CatalogResult{}, err
	case answer.Result.Err != nil:
		return answer.Result, answer.Result.Err
	}
	n.spreadCatalog(ctx, answer.Index)
	return answer.Result, nil
}

// applyCatalog proposes on this node, which must lead the catalog.
func (n *Node) applyCatalog(ctx context.Context, c *fsm.CatalogCommand) (catalogAnswer, error) {
	groups := n.groupList()
	if groups == nil {
		return catalogAnswer{}, notLeader(0)
	}
	g := groups[0]
	// No hand-over of the leadership cuts off an entry on its way.
	if err := g.handover.Acquire(ctx, 1); err != nil {
		return catalogAnswer{}, api.NewProblem(api.NoLeader, "the catalog is handing its leadership over")
	}
	defer g.handover.Release(1)
	if !g.leading.Load() {
		return catalogAnswer{}, notLeader(0)
	}
	entry, err := fsm.EncodeCatalog(g.time.Now(), *c)
	if err != nil {
		if p := (*api.Problem)(nil); errors.As(err, &p) {
			return catalogAnswer{}, p
		}
		return catalogAnswer{}, api.NewProblem(api.InvalidRequest, "%v", err)
	}
	f := g.raft.Apply(entry, enqueueTimeout)
	select {
	case err := <-answered(f):
		if err != nil {
			return catalogAnswer{}, outcome(0, err)
		}
	case <-ctx.Done():
		return catalogAnswer{}, api.NewProblem(api.OutcomeUnknown, "the change of the catalog was proposed, and its commit is not known yet")
	}
	// Followers learn of a commit with the next entry, or some CommitTimeout
	// later. The writer waits for them: an empty entry tells them now.
	g.raft.Barrier(enqueueTimeout)
	return catalogAnswer{f.Index(), *f.Response().(*fsm.CatalogResult)}, nil
}

// spreadCatalog waits until this node and every peer that answers have applied the
// catalog up to index, so that whatever follows sees it everywhere.
func (n *Node) spreadCatalog(ctx context.Context, index uint64) {
	ctx, cancel := context.WithTimeout(ctx, peerWait)
	defer cancel()
	var wg sync.WaitGroup
	for _, m := range n.configured() {
		if n.peers.silent(m.ID) {
			continue
		}
		wg.Go(func() {
			if m.ID == n.cfg.NodeID {
				_ = n.waiters.wait(ctx, index)
				return
			}
			if err := n.call(ctx, m.at(), methodApplied, index, nil); err != nil {
				n.log.Warn("a peer has not confirmed a change of the catalog; it will follow when it can", "peer", m.ID, "error", err)
			}
		})
	}
	wg.Wait()
}

// catalogApplied is called by the catalog's Apply.
func (n *Node) catalogApplied() {
	select {
	case n.applied <- struct{}{}:
	default:
	}
}

// catalogWaiters are the calls that wait for an index of the catalog.
type catalogWaiters struct {
	mu    sync.Mutex // guards the next two
	index uint64     // last applied one that was announced
	list  map[chan struct{}]uint64
}

// run announces what has been applied, until ctx ends.
func (w *catalogWaiters) run(ctx context.Context, applied <-chan struct{}, c *fsm.Catalog) {
	for {
		_, index := c.Last()
		w.mu.Lock()
		w.index = max(w.index, index)
		for ch, want := range w.list {
			if want <= w.index {
				close(ch)
				delete(w.list, ch)
			}
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-applied:
		}
	}
}

// wait returns once index is applied, or ctx's error.
func (w *catalogWaiters) wait(ctx context.Context, index uint64) error {
	w.mu.Lock()
	if index <= w.index {
		w.mu.Unlock()
		return nil
	}
	ch := make(chan struct{})
	if w.list == nil {
		w.list = map[chan struct{}]uint64{}
	}
	w.list[ch] = index
	w.mu.Unlock()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		w.mu.Lock()
		delete(w.list, ch)
		w.mu.Unlock()
		return ctx.Err()
	}
}
