package sim

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/cluster-test/check"
	"github.com/rlstore/rlstore/raftnode"
	"github.com/rlstore/rlstore/server"
)

// node is one machine of the cluster: its disk and its clocks outlive the
// processes that run on it.
type node struct {
	id    string
	w     *world
	disk  *disk
	clock *clock
	wall  *clock   // the time of day, from 1970
	join  []string // addresses of --join
	// expect is --bootstrap-expect.
	expect int

	proc *process // nil before the first
	held bool     // the nemesis keeps it down
	gone bool     // it is no member any more, or is being removed
	// removed says that the removal has come to its end.
	removed bool

	mu      sync.Mutex // guards applied
	applied []check.Entry
}

func (n *node) http() string { return n.id + ":8101" }
func (n *node) raft() string { return n.id + ":9101" }

// process is one run of a node: the whole server, as `rlstore serve` has it,
// over a simulated disk, network and clock.
type process struct {
	srv   *server.Server
	mount *mount
	alive atomic.Bool
	stop  context.CancelFunc
	ended chan struct{} // closed when Run has returned
	err   error         // of Run, once ended is closed
}

// running tells whether the node's process is there.
func (n *node) running() bool {
	if n.proc == nil {
		return false
	}
	select {
	case <-n.proc.ended:
		return false
	default:
		return true
	}
}

// start runs a new process. A node that can't start says why.
func (n *node) start() error {
	n.w.starts++
	p := &process{mount: n.disk.mount(), ended: make(chan struct{})}
	p.alive.Store(true)
	api, err := n.w.net.listen(n.http())
	if err != nil {
		return err
	}
	nodes, err := n.w.net.listen(n.raft())
	if err != nil {
		api.Close()
		return err
	}
	p.srv, err = server.New(server.Config{
		NodeID: n.id, DataDir: "/" + n.id, HTTPAddr: n.http(), RaftAddr: n.raft(),
		BootstrapExpect: n.expect, Join: n.join, Shards: n.w.shards,
		Logger: slog.New(slog.NewTextHandler(n.w.log, nil)).With("on", n.id),
	}, server.WithListeners(api, nodes), server.WithNode(func(c *raftnode.Config) {
		c.Clock, c.WallClock = n.clock, n.wall
		c.Dial = n.w.net.dialer(n.id, p.alive.Load)
		c.OpenDisk = func() (raftnode.Disk, error) { return p.mount, nil }
		c.SnapshotBytes, c.TrailingBytes = n.w.snapshotBytes, n.w.snapshotBytes/4
		c.OnApply = func(group uint32, l *raft.Log) { n.record(p, group, l) }
	}))
	if err != nil {
		p.alive.Store(false)
		p.mount.crash()
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	n.proc = p
	go func() {
		defer close(p.ended)
		p.err = p.srv.Run(ctx)
		// The process is gone, whatever of it may still wait for its disk.
		p.alive.Store(false)
		p.mount.crash()
		n.w.net.crash(n.id, false)
		stop()
	}()
	return nil
}

// record notes what a process has applied. What it applies after its death,
// nobody can see: it may have read the log, but has no say any more.
func (n *node) record(p *process, group uint32, l *raft.Log) {
	if !p.alive.Load() {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.applied = append(n.applied, check.Entry{Group: group, Index: l.Index, Term: l.Term, Data: append([]byte(nil), l.Data...)})
}

var errKilled = errors.New("killed")

// kill ends the process between two instructions. silent is a machine that
// loses its power: its peers hear nothing.
func (n *node) kill(silent bool) {
	p := n.proc
	if !n.running() {
		return
	}
	p.alive.Store(false)
	p.mount.crash()
	n.w.net.crash(n.id, silent)
	p.srv.Abort(errKilled)
	<-p.ended // what is left of it can reach nothing
}

// terminate asks the process to leave, as SIGTERM does.
func (n *node) terminate() error {
	if !n.running() {
		return nil
	}
	p := n.proc
	p.stop()
	<-p.ended
	return p.err
}

// transport makes HTTP clients of a host.
func (w *world) transport(host string) *http.Transport {
	dial := w.net.dialer(host, func() bool { return true })
	return &http.Transport{DialContext: dialHTTP(dial), MaxIdleConnsPerHost: 64, DisableCompression: true}
}
