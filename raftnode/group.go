package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"golang.org/x/sync/semaphore"

	"github.com/rlstore/rlstore/fsm"
	"github.com/rlstore/rlstore/internal/slogbridge"
)

// group is one Raft group on this node: the catalog (id 0) or a shard.
type group struct {
	id      uint32
	raft    *raft.Raft
	started atomic.Pointer[raft.Raft] // the same, for goroutines that raft starts
	store   *LogStore
	entries *parallelLog // the store, as Raft writes entries to it
	snaps   Snapshots
	trans   *transport
	time    *Timekeeper
	machine *machine
	metrics *groupMetrics
	log     *slog.Logger

	buckets   *fsm.Buckets // nil for the catalog
	coalescer *coalescer   // nil for the catalog

	leading atomic.Bool // this node leads, and its Barrier has passed
	repair  *repair     // nil but for a group that was lost when it was opened
	// heldUntil keeps a leadership that was moved here by request; see hold.
	heldUntil atomic.Pointer[time.Time]
	// handover is held whole while the leadership is handed over, and one share of
	// it by each entry of the catalog on its way; a shard's are the coalescer's.
	// It is waited for with a context, since it is held for as long as a commit.
	handover       *semaphore.Weighted
	handoverFailed map[string]time.Time // by target, lately; under the whole of handover
	// changing is held by each change of the members, on the leader, while it
	// looks at them and changes them. It is waited for like handover.
	changing  *semaphore.Weighted
	snapshots snapshotBudget
	reloading sync.Mutex    // held by each change of the library's settings; see reload
	bereft    atomic.Uint64 // the last term whose leader's process was found to be gone

	quiet func() // silences the library's log
	stop  context.CancelFunc
	done  sync.WaitGroup
}

// openGroup opens a group's disk state and starts its Raft. first is its first
// configuration, used if there is no state yet; nil for a node that joins. Of a
// complete node, a missing log is a loss. lost, if not nil, says that the group is
// being repaired; see repair.go.
func (n *Node) openGroup(id uint32, first *raft.Configuration, complete bool, lost *loss) (_ *group, err error) {
	has, err := n.disk.HasLog(id)
	if err != nil {
		return nil, fmt.Errorf("look for the log of group %d: %w", id, err)
	}
	if !has && complete && lost == nil {
		return nil, fmt.Errorf("the log of group %d is missing from %s: this node has forgotten its votes and must not go on; start with an empty folder under a new --node-id", id, n.cfg.DataDir)
	}
	g := &group{
		id: id, metrics: n.metrics.group(id), log: n.log.With("group", id),
		handover: semaphore.NewWeighted(handoverShares), handoverFailed: map[string]time.Time{},
		changing: semaphore.NewWeighted(1),
	}
	g.time = NewTimekeeper(n.steady)
	backend, err := n.disk.OpenLog(id)
	if err != nil {
		return nil, fmt.Errorf("group %d: %w", id, err)
	}
	g.store, err = NewLogStore(fmt.Sprintf("of group %d", id), backend, LogStoreOptions{
		Stamp:      fsm.EntryStamp,
		OnAppend:   func(last uint64) { g.trans.appending(last) },
		OnArrival:  g.time.Arrived,
		OnTruncate: g.time.Truncated,
		OnFatal:    func(err error) { n.fail(fmt.Errorf("%s: %w", n.cfg.DataDir, err)) },
		Halt:       runtime.Goexit,
		OnStore:    g.metrics.stored,
		Logger:     g.log,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			g.store.Close()
		}
	}()

	g.entries = &parallelLog{store: g.store, leads: func() bool {
		r := g.started.Load()
		return r != nil && r.State() == raft.Leader
	}}
	raftLog, seen := newRaftLog(g.log, n.isDraining)
	g.quiet = seen.close
	hlog := slogbridge.New(raftLog)
	g.snaps, err = n.disk.OpenSnapshots(id, hlog.Named("snapshot"))
	if err != nil {
		return nil, fmt.Errorf("open the snapshots of group %d: %w", id, err)
	}
	if lost != nil {
		g.repair = newRepair(*lost)
	}
	g.trans = newTransport(id, raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: addressProvider{n.peers},
		Logger:                hlog.Named("transport"),
		Stream:                n.mux.Group(id),
		MaxPool:               pooledConns,
		MaxRPCsInFlight:       1, // no pipelining: it can stall behind healthy heartbeats
		Timeout:               transportTimeout,
	}), n.beats, n.peers, g.repair, g.entries)
	if id == 0 {
		g.machine = catalogMachine(n.catalog, n.catalogApplied)
	} else {
		g.buckets = fsm.NewBuckets(id)
		g.machine = bucketMachine(id, g.buckets)
	}
	g.machine.stored, g.machine.fatal, g.machine.onApply, g.machine.metrics = g.entries.stored, n.fail, n.cfg.OnApply, g.metrics
	// In a goroutine of its own, which a write that fails ends.
	started, returned := make(chan struct{}), false
	go func() {
		defer close(started)
		err = g.startRaft(n, first, hlog)
		returned = true
	}()
	<-started
	if !returned {
		err = fmt.Errorf("start group %d: %w", id, g.store.Err())
	}
	if err != nil {
		g.trans.Close()
		return nil, err
	}
	g.trans.serve(g.servers)
	if g.buckets != nil {
		g.coalescer = newCoalescer(id, g.raft, g.time, n.cfg.WallClock, g.buckets.Stats, g.metrics)
	}
	ctx, stop := context.WithCancel(context.Background())
	g.stop = stop
	g.done.Go(func() { g.follow(ctx, n) })
	return g, nil
}

// startRaft writes the group's first configuration, if there is one to write and
// no state yet, and starts its Raft.
func (g *group) startRaft(n *Node, first *raft.Configuration, hlog hclog.Logger) error {
	snaps := g.snaps
	if err := g.mendSnapshots(); err != nil {
		return fmt.Errorf("read the snapshots of group %d: %w", g.id, err)
	}
	if err := g.store.dropBehind(snaps); err != nil {
		return fmt.Errorf("read the log of group %d: %w", g.id, err)
	}
	logs, err := raft.NewLogCache(cachedLogs, g.entries)
	if err != nil {
		return err
	}
	if first != nil {
		begun, err := raft.HasExistingState(logs, g.store, snaps)
		if err == nil && begun {
			begun, err = g.pastFirst()
		}
		if err != nil {
			return fmt.Errorf("read the log of group %d: %w", g.id, err)
		}
		if !begun {
			if err := raft.BootstrapCluster(g.config(n, hlog), logs, g.store, snaps, g.trans, *first); err != nil {
				return fmt.Errorf("write the first configuration of group %d: %w", g.id, err)
			}
		}
	}
	g.raft, err = raft.NewRaft(g.config(n, hlog), g.machine, logs, g.store, snaps, g.trans)
	if err != nil {
		return fmt.Errorf("start group %d: %w", g.id, err)
	}
	g.started.Store(g.raft)
	return nil
}

// pastFirst tells whether a group that has state has its first configuration. The
// library writes that in two steps, term 1 and then the entry; a full disk or a crash
// in between left a group that could never elect. Term 1 is taken back then, so that
// both can be written: nobody is elected in it, so no vote and no entry is forgotten.
func (g *group) pastFirst() (bool, error) {
	last, errLog := g.store.LastIndex()
	list, errSnaps := g.snaps.List()
	if err := errors.Join(errLog, errSnaps); err != nil || last > 0 || len(list) > 0 {
		return true, err
	}
	term, err := g.store.GetUint64(keyTerm)
	if err != nil || term != 1 {
		return true, err
	}
	return false, g.store.SetUint64(keyTerm, 0)
}

// keyTerm is where the library keeps the current term.
var keyTerm = []byte("CurrentTerm")

// mendSnapshots reads the newest snapshot, if there is one, and goes back to an older
// one if that loses nothing. The library would do so at any price, and panic where
// the log does not follow on.
func (g *group) mendSnapshots() error {
	first, err := g.store.FirstIndex()
	if err != nil {
		return err
	}
	last, err := g.store.LastIndex()
	if err != nil {
		return err
	}
	return g.snaps.Mend(first, last)
}

// dropBehind empties a log that ends before the newest snapshot: what a crash
// leaves between storing a snapshot that a leader sent and clearing the log.
// Entries from there would not follow on from the snapshot.
func (s *LogStore) dropBehind(snaps raft.SnapshotStore) error {
	list, err := snaps.List()
	if err != nil || len(list) == 0 {
		return err
	}
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.LastIndex()
	if err != nil || last == 0 || last >= list[0].Index {
		return err
	}
	return s.DeleteRange(first, last)
}

const (
	// stuckTransfer election timeouts: a hand-over of the leadership ends within
	// two, or never.
	stuckTransfer = 5
	// handoverShares bounds the entries of the catalog on their way at once.
	handoverShares = 1 << 16
	// snapshotsKept on disk for each group: the last one and a spare.
	snapshotsKept = 2
	// cachedLogs are kept in memory, so that replication reads none from disk.
	// Entries may be 256 KiB, hence few.
	cachedLogs = 64
)

// config gives every setting with a reason beside it; see also docs/raft.md.
func (g *group) config(n *Node, hlog hclog.Logger) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(n.cfg.NodeID)
	c.Logger = hlog
	c.HeartbeatTimeout = n.cfg.ElectionTimeout
	c.ElectionTimeout = n.cfg.ElectionTimeout
	c.LeaderLeaseTimeout = n.cfg.ElectionTimeout / 2
	// Idle groups send an empty AppendEntries this often, on top of heartbeats.
	c.CommitTimeout = 200 * time.Millisecond
	// Times 256 KiB of an entry: 4 MiB a message at most.
	c.MaxAppendEntries = 16
	// The library counts entries; snapshots.go counts bytes and asks for them.
	c.SnapshotThreshold = math.MaxUint64
	c.SnapshotInterval = time.Hour
	c.TrailingLogs = trailingMax
	// A removed node stays up to say so.
	c.ShutdownOnRemove = false
	c.NoLegacyTelemetry = true
	if g.repair.underWay() {
		c.HeartbeatTimeout, c.ElectionTimeout = never, never // it must not stand for election
	}
	return c
}

// addressProvider finds members under the addresses that they last announced.
type addressProvider struct{ peers *peers }

// ServerAddr implements raft.ServerAddressProvider.
func (a addressProvider) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	m, ok := a.peers.member(string(id))
	if !ok {
		return "", fmt.Errorf("no address of node %s is known", id)
	}
	return raft.ServerAddress(m.at()), nil
}

// follow watches the group's leadership. It reads LeaderCh at once, always;
// true after true means that it was lost and won again.
func (g *group) follow(ctx context.Context, n *Node) {
	var r reign
	defer r.end()
	for {
		select {
		case <-ctx.Done():
			return
		case lead := <-g.raft.LeaderCh():
			r.end()
			g.leading.Store(false)
			if g.coalescer != nil {
				g.coalescer.setOpen(false)
			}
			g.metrics.leadership(lead)
			if lead {
				r.begin(ctx, func(ctx context.Context) { g.lead(ctx, n) })
			}
		}
	}
}

// reign is what runs during one leadership.
type reign struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func (r *reign) begin(ctx context.Context, f func(context.Context)) {
	ctx, r.cancel = context.WithCancel(ctx)
	r.done.Go(func() { f(ctx) })
}

// end stops it and waits; there may be none.
func (r *reign) end() {
	if r.cancel != nil {
		r.cancel()
		r.done.Wait()
	}
}

// lead begins a reign: Barrier, anchor cluster time, make sure that what the
// group needs is in its log, then serve.
func (g *group) lead(ctx context.Context, n *Node) {
	start := time.Now()
	for ctx.Err() == nil {
		err := g.establish(ctx, n)
		if err == nil {
			if ctx.Err() == nil {
				g.leading.Store(true)
				if g.coalescer != nil {
					g.coalescer.setOpen(true)
				}
				// A reign that ended meanwhile has been closed by follow, which
				// waits for this goroutine first and closes again.
				g.log.Info("leading", "term", g.raft.CurrentTerm())
				select {
				case n.elected <- struct{}{}:
				default:
				}
			}
			return
		}
		g.log.Debug("not leading yet", "error", err)
		if errors.Is(err, raft.ErrLeadershipTransferInProgress) && time.Since(start) > stuckTransfer*n.cfg.ElectionTimeout {
			n.fail(fmt.Errorf("group %d: this node was elected, and the Raft library refuses every entry because of a hand-over from an earlier leadership that never ended (github.com/hashicorp/raft/issues/696); only a restart of the process helps", g.id))
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (g *group) establish(ctx context.Context, n *Node) error {
	if err := await(ctx, g.raft.Barrier(enqueueTimeout)); err != nil {
		return err
	}
	stamp, index := g.machine.last()
	g.time.Lead(index, stamp)
	var birth []byte
	if g.id == 0 {
		birth = n.catalogBirth(g.time.Now())
	} else if g.buckets.Stats().SlotsFrom == 0 {
		view := n.catalog.View()
		if view.SlotMapVersion() == 0 {
			return errors.New("the catalog has no slot map yet")
		}
		birth = fsm.EncodeOwn(g.time.Now(), view.SlotMapVersion(), ownedBy(view.SlotMap, g.id))
	}
	if birth != nil {
		if err := await(ctx, g.raft.Apply(birth, enqueueTimeout)); err != nil {
			return err
		}
	}
	if g.id != 0 {
		// Before any take of this reign, and nobody has to wait for it.
		g.raft.Apply(fsm.EncodeClock(g.time.Now(), n.cfg.WallClock.Now()), enqueueTimeout)
	}
	return nil
}

// close stops the group: first its watcher, then Raft, then what rests on it.
func (g *group) close() error {
	g.quiet()
	g.stop()
	g.done.Wait()
	if g.coalescer != nil {
		g.coalescer.setOpen(false)
	}
	stopped := g.raft.Shutdown()
	// Raft waits for its calls to peers; without the connections they end now.
	err := g.trans.Close()
	err = errors.Join(err, stopped.Error())
	_ = g.entries.settle(context.Background()) // what was accepted is kept; the store has told of a failure
	if g.coalescer != nil {
		g.coalescer.close()
	}
	return errors.Join(err, g.store.Close())
}

// leader is the id of the group's leader as this node believes, or "".
func (g *group) leader() string {
	_, id := g.raft.LeaderWithID()
	return string(id)
}

// committed is the index up to which the group's log is committed, as this node knows.
func (g *group) committed() uint64 { return g.entries.known(g.raft.CommitIndex()) }

// status is what this node tells of its replica.
func (g *group) status() groupStatus {
	_, command := g.machine.last()
	commit := g.committed()
	return groupStatus{
		ID: g.id, Term: g.raft.CurrentTerm(), Leader: g.leader(),
		Commit: commit, Applied: min(g.raft.AppliedIndex(), commit), Last: g.raft.LastIndex(),
		Command: command, Serving: g.leading.Load(),
		Lost: g.repair.isLost(), Repairing: g.repair.underWay(),
	}
}
