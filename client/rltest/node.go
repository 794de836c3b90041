package rltest

import (
	"context"
	"sync"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
	"github.com/rlstore/rlstore/limiter"
	"github.com/rlstore/rlstore/policy"
)

const (
	nodeID  = "n1"
	address = "http://rltest"
	shards  = 6 // as many as a new cluster has
)

// node is a node of raftnode without consensus: what is submitted is applied.
type node struct {
	start time.Time // what the wall clock shows at first
	since time.Time // when time began to pass by itself; zero if it does not

	mu       sync.Mutex // guards all below
	advanced time.Duration
	index    uint64 // of the last entry, of all logs
	catalog  *fsm.Catalog
	shards   map[uint32]*fsm.Buckets
	broken   error // a machine refused an entry; nothing is decided any more
}

func newNode(opts []Option) (*node, error) {
	n := &node{
		start:   time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		catalog: fsm.NewCatalog(), shards: map[uint32]*fsm.Buckets{},
	}
	for _, o := range opts {
		o(n)
	}
	slots := api.EvenSlotMap(shards)
	if _, err := n.ChangeCatalog(context.Background(), fsm.CatalogCommand{
		Init: &fsm.CatalogInit{ClusterID: "rltest", SlotMap: slots},
	}, false); err != nil {
		return nil, err
	}
	for id := uint32(1); id <= shards; id++ {
		n.shards[id] = fsm.NewBuckets(id)
		n.apply(id, fsm.EncodeOwn(n.stamp(), slots.Version, slots.Ranges))
		n.apply(id, fsm.EncodeClock(n.stamp(), n.start.Add(n.elapsed()).UnixNano()))
	}
	return n, n.broken
}

// Now is [Store.Now].
func (n *node) Now() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.start.Add(n.elapsed())
}

// advance is [Store.Advance].
func (n *node) advance(d time.Duration) {
	if d < 0 {
		panic("rltest: time does not run back")
	}
	n.mu.Lock()
	n.advanced += d
	n.mu.Unlock()
	n.tick()
}

// elapsed is the time since the store began. n.mu is held, or n is not shared yet.
func (n *node) elapsed() time.Duration {
	d := n.advanced
	if !n.since.IsZero() {
		d += time.Since(n.since)
	}
	return d
}

// stamp is cluster time, which begins anywhere but at 0.
func (n *node) stamp() uint64 { return uint64(time.Hour + n.elapsed()) }

// apply puts an entry into a shard's log. n.mu is held, or n is not shared yet.
func (n *node) apply(shard uint32, entry []byte) *fsm.Applied {
	n.index++
	a, err := n.shards[shard].Apply(n.index, entry)
	if err != nil {
		n.broken = err
	}
	return a
}

// tick does what nodes do from time to time: it moves the time of shards without
// takes, and removes overrides whose time is over.
func (n *node) tick() {
	n.mu.Lock()
	for id := uint32(1); id <= shards; id++ {
		n.apply(id, fsm.EncodeTick(n.stamp()))
	}
	due := n.catalog.View().NextExpiry() <= n.stamp()
	n.mu.Unlock()
	if due {
		// A catalog that is broken says so to whoever asks it next.
		_, _ = n.ChangeCatalog(context.Background(), fsm.CatalogCommand{ExpireOverrides: &fsm.ExpireOverrides{}}, false)
	}
}

// The node of package catalog.

// Catalog returns the catalog.
func (n *node) Catalog() *fsm.CatalogView { return n.catalog.View() }

// CatalogCurrent is true.
func (n *node) Barred() bool { return false }

func (n *node) CatalogCurrent() bool { return true }

// Removed is false.
func (n *node) Removed() bool { return false }

// CatalogTime is the time of the catalog as of all shards.
func (n *node) CatalogTime() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stamp()
}

// ChangeCatalog applies a command at once.
func (n *node) ChangeCatalog(_ context.Context, cmd fsm.CatalogCommand, _ bool) (fsm.CatalogResult, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	entry, err := fsm.EncodeCatalog(n.stamp(), cmd)
	if err != nil {
		return fsm.CatalogResult{}, api.AsProblem(err)
	}
	n.index++
	res, err := n.catalog.Apply(n.index, entry)
	switch {
	case err != nil:
		return fsm.CatalogResult{}, api.AsProblem(err)
	case res.Err != nil:
		return *res, res.Err
	}
	return *res, nil
}

// The log of package limiter.

// Leader is this node, of every shard.
func (n *node) Leader(uint32) limiter.Leader {
	return limiter.Leader{ID: nodeID, HTTP: address, Local: true, Known: true}
}

// Submit applies a part at once.
func (n *node) Submit(shard uint32, p *limiter.Part) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !p.Seal() {
		return
	}
	var e fsm.EntryWriter
	e.Add(p.Batch(), p.Sets())
	a := n.apply(shard, e.Seal(n.stamp()))
	if n.broken != nil {
		p.Done(nil, n.broken)
		return
	}
	p.Done(a.Replies[0], nil)
}

// Forward has nowhere to go.
func (n *node) Forward(context.Context, string, uint32, []byte) ([]byte, error) {
	return nil, api.NewProblem(api.NoLeader, "the store of rltest has one node only")
}

// StalePeek is never stale.
func (n *node) StalePeek(shard uint32, op api.Op, set *policy.Set) ([]byte, time.Duration, error) {
	return n.shards[shard].PeekStale(op, set), 0, nil
}

// cluster is what the store tells of itself.
func (n *node) cluster() api.Cluster {
	n.mu.Lock()
	index := n.index
	n.mu.Unlock()
	v, leader := n.catalog.View(), nodeID
	c := api.Cluster{
		ClusterID: v.ClusterID, NodeID: nodeID, SlotMap: v.SlotMap, Enforcement: v.Enforcement.Enforcement,
		Nodes: []api.ClusterNode{{ID: nodeID, HTTP: address, Reachable: true}},
	}
	for id := range uint32(shards + 1) {
		c.Shards = append(c.Shards, api.ShardStatus{
			ID: id, Leader: &leader, Term: 1,
			Members: []api.MemberStatus{{ID: nodeID, Voter: true, CommitIndex: index, AppliedIndex: index}},
		})
	}
	return c
}

// alone is a cluster that stays as it is.
type alone struct{}

var errAlone = api.NewProblem(api.Conflict, "the store of rltest has one node only")

func (alone) Transfer(context.Context, uint32, string, bool) (string, error) { return nodeID, nil }
func (alone) AddMember(context.Context, string, string, string) error        { return errAlone }
func (alone) RemoveMember(context.Context, string) error                     { return errAlone }
func (alone) StandDown(context.Context) error                                { return errAlone }
