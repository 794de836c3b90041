package raftnode

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
	"github.com/rlstore/rlstore/policy"
)

// Config is what a node needs to know. The zero value of a field marked so
// means its default.
type Config struct {
	NodeID          string // "": drawn at the first start, then kept in the data folder
	DataDir         string
	RaftAdvertise   string // host:port
	HTTPAdvertise   string // base URL, told to peers and clients
	BootstrapExpect int
	Join            []string
	Shards          int // of a new cluster
	Version         string

	// Listener takes all traffic between nodes. Open owns it.
	Listener net.Listener
	// Dial connects to the Listener of another node; nil is TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// LogStore is LogStoreBolt or LogStoreWAL; "" is LogStoreBolt. A data folder
	// keeps the one that it was begun with.
	LogStore string
	// OpenDisk opens what the node keeps; nil is [OpenFiles] of DataDir.
	OpenDisk func() (Disk, error)
	// OnApply hears of every command that this node has applied, in the order of
	// the group's log, from the goroutine that applies. It must not keep the
	// entry. Nil is nobody.
	OnApply func(group uint32, l *raft.Log)
	// Clock is read for cluster time; nil is BootClock().
	Clock Clock
	// WallClock is read for windows of the calendar; nil is WallClock().
	WallClock Clock
	// OnForward answers a peer that forwards a binary batch to this node.
	OnForward func(ctx context.Context, shard uint32, batch []byte) ([]byte, error)
	// OnTop answers a peer that asks for the heaviest keys, with what marshals to
	// JSON; nil is that there is no answer.
	OnTop func(by string) (any, error)
	// OnFatal is told, once, of an error after which the process must end.
	OnFatal func(error)
	Logger  *slog.Logger

	// ElectionTimeout is how long a follower waits for a leader's word; 0 is
	// 1 s, right for a LAN. All nodes need the same.
	ElectionTimeout time.Duration
	// SnapshotBytes of log make a group take a snapshot; 0 is 64 MiB.
	SnapshotBytes uint64
	// TrailingBytes of log stay behind a snapshot for followers that were away
	// for a moment; 0 is 16 MiB.
	TrailingBytes uint64
}

func (c *Config) setDefaults() {
	if c.Clock == nil {
		c.Clock = BootClock()
	}
	if c.WallClock == nil {
		c.WallClock = WallClock()
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Dial == nil {
		c.Dial = dialTCP
	}
	if c.OnApply == nil {
		c.OnApply = func(uint32, *raft.Log) {}
	}
	c.LogStore = cmp.Or(c.LogStore, LogStoreBolt)
	if c.ElectionTimeout == 0 {
		c.ElectionTimeout = time.Second
	}
	if c.SnapshotBytes == 0 {
		c.SnapshotBytes = 64 << 20
	}
	if c.TrailingBytes == 0 {
		c.TrailingBytes = 16 << 20
	}
}

// Node is one node's part in the cluster.
type Node struct {
	cfg     Config
	log     *slog.Logger
	disk    Disk
	process string // see status
	mux     *Mux
	beats   *beats
	peers   *peers
	steady  *Steady
	metrics *Metrics
	catalog *fsm.Catalog

	idMu sync.Mutex // guards id, and the writing of node.json
	id   identity
	said atomic.Pointer[Identity] // id, as every call between nodes carries it

	groups   atomic.Pointer[[]*group] // by id; nil before the node belongs to a cluster
	formed   chan struct{}            // closed when groups is set
	applied  chan struct{}            // capacity 1: the catalog has applied an entry
	elected  chan struct{}            // capacity 1: this node leads a group more
	waiters  catalogWaiters
	current  atomic.Bool  // see CatalogCurrent
	draining atomic.Int32 // how many reasons there are to lead nothing; see Drain and StandDown
	removed  atomic.Bool  // from the cluster; see members.go
	failOnce sync.Once

	stop context.CancelFunc
	done sync.WaitGroup
}

// Open locks the data folder and starts the node. It returns before the node
// belongs to a cluster: wait for Formed. On an error it has closed Listener.
func Open(cfg Config) (_ *Node, err error) {
	cfg.setDefaults()
	defer func() {
		if err != nil {
			cfg.Listener.Close()
		}
	}()
	metrics := newMetrics()
	if cfg.OpenDisk == nil {
		cfg.OpenDisk = func() (Disk, error) {
			return OpenFiles(cfg.DataDir, FilesOptions{LogStore: cfg.LogStore, OnCommit: metrics.logCommitted, Logger: cfg.Logger})
		}
	}
	disk, err := cfg.OpenDisk()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			disk.Close()
		}
	}()
	id, err := readIdentity(disk, cfg.DataDir)
	if err != nil {
		return nil, err
	}
	switch {
	case id.NodeID != "" && cfg.NodeID != "" && id.NodeID != cfg.NodeID:
		return nil, fmt.Errorf("the data folder %s belongs to node %s, and this node is %s; give it the folder or the --node-id that is its own", cfg.DataDir, id.NodeID, cfg.NodeID)
	case id.NodeID != "" && cmp.Or(id.LogStore, LogStoreBolt) != cfg.LogStore:
		return nil, fmt.Errorf("the data folder %s was begun with --log-store %s, and this node is told %s; the entries can't be carried over: go on with the former, or start with an empty folder under a new --node-id", cfg.DataDir, cmp.Or(id.LogStore, LogStoreBolt), cfg.LogStore)
	case id.NodeID != "":
		cfg.NodeID = id.NodeID
	case cfg.NodeID == "":
		cfg.NodeID = fmt.Sprintf("node-%08x", rand.Uint32())
	}
	if id.Removed {
		return nil, fmt.Errorf("node %s was removed from its cluster; start it with an empty folder under a new --node-id to come back", cfg.NodeID)
	}
	if id.ClusterID == "" && cfg.BootstrapExpect == 0 && len(cfg.Join) == 0 {
		return nil, errors.New("this node belongs to no cluster yet: give --bootstrap-expect 1 to start a cluster of one, --bootstrap-expect N with --join to start one of N nodes, or --join alone to join a running one")
	}
	if id.NodeID == "" {
		id.NodeID, id.LogStore = cfg.NodeID, cfg.LogStore
		if err := saveIdentity(disk, id); err != nil {
			return nil, err
		}
	}
	n := &Node{
		cfg: cfg, log: cfg.Logger.With("node", cfg.NodeID), disk: disk, id: id,
		process: fmt.Sprintf("%016x", rand.Uint64()),
		peers:   newPeers(id.Members), steady: NewSteady(cfg.Clock),
		metrics: metrics, catalog: fsm.NewCatalog(),
		formed: make(chan struct{}), applied: make(chan struct{}, 1), elected: make(chan struct{}, 1),
	}
	n.said.Store(id.said())
	n.peers.put(n.self()) // Raft looks its own address up, too
	n.metrics.node = n
	n.mux = NewMux(cfg.Listener, cfg.RaftAdvertise, n.identity, n.log)
	n.mux.dialConn, n.mux.onLeft = cfg.Dial, n.suspect
	n.beats = newBeats(n.mux, cfg.ElectionTimeout)
	n.handle()

	ctx, stop := context.WithCancel(context.Background())
	n.stop = stop
	if id.ClusterID != "" { // open at once, so that a damaged folder stops the start
		if err := n.openGroups(); err != nil {
			stop()
			n.mux.Close()
			return nil, err
		}
	}
	n.mux.Start()
	n.done.Go(func() { n.steady.Run(ctx) })
	n.done.Go(func() { n.run(ctx) })
	return n, nil
}

// run forms the cluster if need be, then does the upkeep until ctx ends.
func (n *Node) run(ctx context.Context) {
	if n.groups.Load() == nil {
		if err := n.form(ctx); err != nil {
			if ctx.Err() == nil {
				n.fail(err)
			}
			return
		}
	}
	n.done.Go(func() { n.probe(ctx) })
	n.done.Go(func() { n.balance(ctx) })
	n.done.Go(func() { n.keepSnapshots(ctx) })
	n.done.Go(func() { n.expireOverrides(ctx) })
	n.done.Go(func() { n.waiters.run(ctx, n.applied, n.catalog) })
	n.done.Go(func() { n.checkJoin(ctx) })
	for _, g := range n.groupList() {
		if g.repair != nil {
			n.done.Go(func() { n.regain(ctx, g) })
		}
	}
	n.knock(ctx)
}

// knock asks the members to add this node, until it is a voter everywhere. A
// node that was there from the start returns at once.
func (n *Node) knock(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for ctx.Err() == nil && !n.removed.Load() {
		missing := false
		for _, g := range n.groupList() {
			if !slices.Contains(voterIDs(g), n.cfg.NodeID) {
				missing = true
			}
		}
		if !missing {
			return
		}
		for _, m := range n.peers.members() {
			if m.ID == n.cfg.NodeID {
				continue
			}
			cctx, cancel := context.WithTimeout(ctx, enqueueTimeout)
			if err := n.call(cctx, m.at(), methodAdd, n.self(), nil); err != nil {
				n.log.Debug("could not ask to be added", "peer", m.ID, "error", err)
			}
			cancel()
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// openGroups opens the catalog and every shard.
func (n *Node) openGroups() error {
	n.idMu.Lock()
	id := n.id
	n.idMu.Unlock()
	var first *raft.Configuration
	if !id.Complete && id.Bootstrap != nil && id.Bootstrap.ClusterID == id.ClusterID {
		first = &raft.Configuration{}
		for _, m := range id.Bootstrap.Members {
			first.Servers = append(first.Servers, raft.Server{
				Suffrage: raft.Voter, ID: raft.ServerID(m.ID), Address: raft.ServerAddress(m.Raft),
			})
		}
	}
	all := make([]uint32, id.Shards+1)
	for i := range all {
		all[i] = uint32(i)
	}
	if _, err := n.disk.HasLog(0); errors.Is(err, ErrDamaged) { // it is of all
		if err := n.lose(all, err); err != nil {
			return err
		}
	}
	// Most of a start is the reading of snapshots and logs: as many groups at a
	// time as there are processors.
	groups := make([]*group, len(all))
	errs := make([]error, len(groups))
	var opening errgroup.Group
	opening.SetLimit(runtime.GOMAXPROCS(0))
	for i := range groups {
		opening.Go(func() error {
			groups[i], errs[i] = n.openOrLose(uint32(i), first, id.Complete)
			return nil
		})
	}
	_ = opening.Wait()
	for _, err := range errs { // that of the first group, whichever came first
		if err == nil {
			continue
		}
		for _, g := range groups {
			if g != nil {
				_ = g.close()
			}
		}
		return err
	}
	if !id.Complete {
		n.idMu.Lock()
		next := n.id
		next.Complete = true
		err := n.keep(next)
		n.idMu.Unlock()
		if err != nil {
			return err
		}
	}
	n.groups.Store(&groups)
	close(n.formed)
	n.log.Info("the node is part of its cluster", "cluster", id.ClusterID, "shards", id.Shards)
	return nil
}

// handle registers the calls of peers.
func (n *Node) handle() {
	n.mux.Handle(methodStatus, func(ctx context.Context, from Identity, req []byte) ([]byte, error) {
		var other string
		if len(req) > 0 {
			var s status
			if err := json.Unmarshal(req, &s); err == nil {
				other = n.heard(ctx, s)
			}
		}
		s := n.status()
		s.OtherAt = other
		s.YouAreRemoved = n.catalog.View().IsRemoved(from.NodeID)
		return json.Marshal(s)
	})
	n.mux.Handle(methodBeat, n.beats.serve)
	n.mux.Handle(methodForward, func(ctx context.Context, _ Identity, req []byte) ([]byte, error) {
		if len(req) < 4 {
			return nil, api.NewProblem(api.InvalidRequest, "a forwarded batch is too short")
		}
		return n.cfg.OnForward(ctx, binary.LittleEndian.Uint32(req), req[4:])
	})
	n.mux.Handle(methodPrepare, jsonCall(func(_ context.Context, p *plan) (any, error) { return nil, n.prepare(p) }))
	n.mux.Handle(methodStart, jsonCall(func(_ context.Context, p *plan) (any, error) { return nil, n.start(p) }))
	n.mux.Handle(methodJoin, jsonCall(func(_ context.Context, m *Member) (any, error) {
		select {
		case <-n.formed:
		default:
			return nil, api.NewProblem(api.NoLeader, "node %s is still starting", n.cfg.NodeID)
		}
		members := n.configured()
		if len(members) == 0 {
			return nil, api.NewProblem(api.NoLeader, "node %s has joined itself, and has not heard of the members yet", n.cfg.NodeID)
		}
		return joinAnswer{n.ClusterID(), len(n.groupList()) - 1, members, n.catalog.View().IsRemoved(m.ID)}, nil
	}))
	n.mux.Handle(methodAdd, jsonCall(func(ctx context.Context, m *Member) (any, error) { return nil, n.add(ctx, m) }))
	n.mux.Handle(methodMember, jsonCall(func(ctx context.Context, c *memberChange) (any, error) { return n.changeMember(ctx, c) }))
	n.mux.Handle(methodTransfer, jsonCall(func(ctx context.Context, h *handing) (any, error) { return n.transfer(ctx, h) }))
	n.mux.Handle(methodTop, jsonCall(n.top))
	n.mux.Handle(methodHold, jsonCall(func(_ context.Context, h *handing) (any, error) { return nil, n.held(h) }))
	n.mux.Handle(methodCatalog, jsonCall(func(ctx context.Context, c *fsm.CatalogCommand) (any, error) {
		return n.applyCatalog(ctx, c)
	}))
	n.mux.Handle(methodApplied, jsonCall(func(ctx context.Context, index *uint64) (any, error) {
		return nil, n.waiters.wait(ctx, *index)
	}))
}

// jsonCall makes a handler of a function that takes and returns JSON.
func jsonCall[T any](f func(context.Context, *T) (any, error)) Handler {
	return func(ctx context.Context, _ Identity, req []byte) ([]byte, error) {
		var v T
		if err := json.Unmarshal(req, &v); err != nil {
			return nil, api.NewProblem(api.InvalidRequest, "a call between nodes can't be read: %v", err)
		}
		answer, err := f(ctx, &v)
		if err != nil || answer == nil {
			return nil, err
		}
		return json.Marshal(answer)
	}
}

// configured is the members of the catalog's configuration, with what the
// address book knows of them.
func (n *Node) configured() []Member {
	var list []Member
	for _, s := range n.groupList()[0].servers() {
		m, ok := n.peers.member(string(s.ID)) // this node among them
		if !ok {
			m = Member{ID: string(s.ID), Raft: string(s.Address)}
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// add makes m a nonvoter of the groups that this node leads; see promote.
func (n *Node) add(ctx context.Context, m *Member) error {
	for _, g := range n.groupList() {
		if !g.leading.Load() || g.has(m.ID) {
			continue
		}
		n.peers.learn([]Member{*m})
		if _, err := n.changeMember(ctx, &memberChange{Group: g.id, Add: m}); err != nil {
			return err
		}
	}
	return nil
}

// Formed is closed once the node belongs to a cluster and its groups are open.
func (n *Node) Formed() <-chan struct{} { return n.formed }

// NodeID is this node's id, also when it was drawn.
func (n *Node) NodeID() string { return n.cfg.NodeID }

// ClusterID is the cluster's id in hex, or "" while there is none.
func (n *Node) ClusterID() string {
	n.idMu.Lock()
	defer n.idMu.Unlock()
	return n.id.ClusterID
}

// identity is what the mux says and checks when nodes meet.
func (n *Node) identity() Identity { return *n.said.Load() }

// keep writes the identity to disk, and makes it the node's if that went well.
// n.idMu is held.
func (n *Node) keep(next identity) error {
	if err := saveIdentity(n.disk, next); err != nil {
		return err
	}
	n.id = next
	n.said.Store(next.said())
	return nil
}

func (n *Node) self() Member {
	return Member{ID: n.cfg.NodeID, Raft: n.cfg.RaftAdvertise, HTTP: n.cfg.HTTPAdvertise}
}

// status is what this node tells its peers.
func (n *Node) status() status {
	n.idMu.Lock()
	s := status{
		Member: n.self(), ClusterID: n.id.ClusterID, Version: n.cfg.Version,
		Draining: n.isDraining(), Expect: n.cfg.BootstrapExpect, Shards: n.cfg.Shards,
		Process: n.process,
	}
	n.idMu.Unlock()
	if s.ClusterID == "" {
		s.Strangers = n.peers.strangers()
	}
	for _, g := range n.groupList() {
		s.Groups = append(s.Groups, g.status())
	}
	return s
}

// heard notes what a peer of this cluster, or as fresh as this node, says of
// itself. Of a process that is not the node's only one it notes nothing, or two disks
// would confirm entries as one voter: other is where the known one answers.
func (n *Node) heard(ctx context.Context, s status) (other string) {
	own := n.ClusterID()
	if s.ID == n.cfg.NodeID || s.ClusterID != own {
		return ""
	}
	if own == "" {
		n.peers.meet(s.Member)
		return ""
	}
	if !n.belongs(s.ID) {
		return "" // it was removed, or joins and is heard of again in a second
	}
	known, ok := n.peers.member(s.ID)
	if ok && known != s.Member {
		moved, err := n.hasMoved(ctx, known, s)
		if err != nil {
			return ""
		}
		if !moved {
			if n.peers.refuse(s) {
				n.log.Error("two processes run with the identity of one node, and the one at the new address is refused; stop it, or give it an empty folder and a new --node-id",
					"peer", s.ID, "raft", known.Raft, "refused", s.Raft)
			}
			return known.Raft
		}
	}
	moved := n.peers.note(s, known)
	if moved {
		n.log.Info("a peer has announced its addresses", "peer", s.ID, "raft", s.Raft, "http", s.HTTP)
	}
	if moved || !n.remembers(s.ID) { // one that has joined was in the book before it spoke
		n.saveMembers()
	}
	return ""
}

// remembers tells whether a node stands in the address book on disk.
func (n *Node) remembers(id string) bool {
	n.idMu.Lock()
	defer n.idMu.Unlock()
	return slices.ContainsFunc(n.id.Members, func(m Member) bool { return m.ID == id })
}

// saveMembers keeps the address book for the next start.
func (n *Node) saveMembers() {
	members := n.peers.members()
	n.idMu.Lock()
	defer n.idMu.Unlock()
	next := n.id
	next.Members = members
	if err := n.keep(next); err != nil {
		n.log.Warn("could not keep the peers' addresses", "error", err)
	}
}

// groupList is the open groups, the catalog first; nil before Formed.
func (n *Node) groupList() []*group {
	if g := n.groups.Load(); g != nil {
		return *g
	}
	return nil
}

func (n *Node) shard(id uint32) *group {
	if g := n.groupList(); id > 0 && int(id) < len(g) {
		return g[id]
	}
	return nil
}

// fail reports an error after which this process must end.
func (n *Node) fail(err error) {
	n.failOnce.Do(func() {
		n.log.Error("the node must stop", "error", err)
		if n.cfg.OnFatal != nil {
			go n.cfg.OnFatal(err)
		}
	})
}

// Submit hands p to the shard's coalescer. A shard that this node does not
// lead, or does not have, completes it at once as not applied.
func (n *Node) Submit(shard uint32, p Proposal) {
	if g := n.shard(shard); g != nil {
		g.coalescer.submit(p)
	} else if p.Seal() {
		p.Done(nil, notLeader(shard))
	}
}

// Waiting tells how many proposals wait for an entry of a shard.
func (n *Node) Waiting(shard uint32) int {
	g := n.shard(shard)
	if g == nil {
		return 0
	}
	proposals, _ := g.coalescer.depth()
	return proposals
}

// Leader tells who leads a shard: local says that this node does and serves;
// otherwise known says whether another node is believed to.
func (n *Node) Leader(shard uint32) (m Member, local, known bool) {
	g := n.shard(shard)
	if g == nil {
		return Member{}, false, false
	}
	id := n.leaderOf(g)
	switch {
	case id == "":
		return Member{}, false, false
	case id == n.cfg.NodeID:
		return n.self(), g.leading.Load(), g.leading.Load()
	}
	m, known = n.peers.member(id)
	return m, false, known
}

// Forward sends a binary batch to the peer that leads the shard. Its errors
// are *api.Problem: NoLeader when it surely did not arrive, OutcomeUnknown
// when it may have.
func (n *Node) Forward(ctx context.Context, nodeID string, shard uint32, batch []byte) ([]byte, error) {
	m, ok := n.peers.member(nodeID)
	if !ok {
		return nil, api.NewProblem(api.NoLeader, "no address of node %s is known", nodeID)
	}
	req := make([]byte, 4, 4+len(batch))
	binary.LittleEndian.PutUint32(req, shard)
	reply, err := n.mux.Call(ctx, m.at(), methodForward, append(req, batch...))
	var p *api.Problem
	switch {
	case err == nil:
		return reply, nil
	case errors.As(err, &p):
		return nil, p
	case errors.Is(err, ErrNotSent):
		return nil, api.NewProblem(api.NoLeader, "shard %d is led by node %s, which does not answer: %v", shard, nodeID, err)
	}
	return nil, api.NewProblem(api.OutcomeUnknown, "node %s took the request of shard %d and did not answer: %v", nodeID, shard, err)
}

// StalePeek reads a bucket from this node's own copy. age is how long ago this
// node last heard of the shard's leader; 0 on the leader.
func (n *Node) StalePeek(shard uint32, op api.Op, set *policy.Set) (reply []byte, age time.Duration, err error) {
	g := n.shard(shard)
	if g == nil {
		return nil, 0, api.NewProblem(api.NoLeader, "this node has no shard %d yet", shard)
	}
	if !g.leading.Load() {
		heard := g.raft.LastContact()
		if heard.IsZero() {
			return nil, 0, api.NewProblem(api.NoLeader, "this node has not heard of a leader of shard %d yet", shard)
		}
		age = time.Since(heard)
	}
	return g.buckets.PeekStale(op, set), age, nil
}

// Check is one line of readiness.
type Check struct {
	Name   string
	OK     bool
	Detail string // why not
}

// Ready says whether this node can serve, check by check.
func (n *Node) Ready() []Check {
	checks := []Check{{Name: "cluster", OK: n.groups.Load() != nil, Detail: "the node does not belong to a cluster yet"}}
	checks = append(checks, Check{Name: "member", OK: !n.removed.Load(), Detail: farewell})
	checks = append(checks, Check{Name: "draining", OK: !n.isDraining(), Detail: "the node is drained, or shutting down"})
	checks = append(checks, Check{Name: "catalog", OK: n.CatalogCurrent(), Detail: "the catalog has not caught up yet"})
	for _, g := range n.groupList() {
		c := Check{Name: fmt.Sprintf("shard-%d", g.id), OK: true}
		unrepaired := g.unrepaired(n.leaderOf(g))
		applied, committed := g.raft.AppliedIndex(), g.committed()
		switch leader := g.leader(); {
		case unrepaired != "":
			c.OK, c.Detail = false, unrepaired
		case leader == "":
			c.OK, c.Detail = false, "no leader is known"
		case leader == n.cfg.NodeID && !g.leading.Load():
			c.OK, c.Detail = false, "its leader, this node, is taking office"
		case applied+caughtUp < committed:
			c.OK, c.Detail = false, fmt.Sprintf("%d entries are yet to be applied", committed-applied)
		}
		checks = append(checks, c)
	}
	return checks
}

// Close stops the node at once; Drain first for a clean leave.
func (n *Node) Close() error {
	n.draining.Add(1)
	n.stop()
	open := n.groupList()
	errs := closeGroups(open)
	if err := n.mux.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		errs = append(errs, err)
	}
	n.done.Wait()
	if open == nil { // it may just have been forming its cluster
		errs = append(errs, closeGroups(n.groupList())...)
	}
	errs = append(errs, n.disk.Close())
	return errors.Join(errs...)
}

// closeGroups closes groups side by side: each waits for its own disk and peers.
func closeGroups(groups []*group) []error {
	errs := make([]error, len(groups))
	var wg sync.WaitGroup
	for i, g := range groups {
		wg.Go(func() {
			if err := g.close(); err != nil {
				errs[i] = fmt.Errorf("close group %d: %w", g.id, err)
			}
		})
	}
	wg.Wait()
	return errs
}
