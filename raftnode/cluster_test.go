package raftnode

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

// testCluster is nodes in this process, over loopback, with their real disks.
type testCluster struct {
	t     *testing.T
	dir   string
	addrs []string // of the nodes' ports
	nodes []*Node
	takes int // made so far
	// elections is the nodes' election timeout; 0 is 300 ms.
	elections time.Duration
	logStore  string
	log       io.Writer // of what all nodes log; nil is nobody
	// openDisk opens the disk of node i, nil is as users get it.
	openDisk func(i int) (Disk, error)
}

// lineCount is a log that counts the lines with a text, by what follows it.
type lineCount struct {
	text string

	mu   sync.Mutex // guards seen
	seen map[string]int
}

func countLines(text string) *lineCount { return &lineCount{text: text, seen: map[string]int{}} }

func (l *lineCount) Write(p []byte) (int, error) {
	if _, rest, ok := strings.Cut(string(p), l.text); ok {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.seen[rest]++
	}
	return len(p), nil
}

func (l *lineCount) counts() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.seen)
}

func (c *testCluster) config(i int) Config {
	cfg := Config{
		NodeID: fmt.Sprintf("n%d", i+1), DataDir: filepath.Join(c.dir, fmt.Sprint(i)),
		RaftAdvertise: c.addrs[i], HTTPAdvertise: fmt.Sprintf("http://127.0.0.1:%d", 10+i),
		Shards: 2, Version: "test", LogStore: c.logStore,
		ElectionTimeout: cmp.Or(c.elections, 300*time.Millisecond),
		OnFatal:         func(err error) { c.t.Errorf("node %d: fatal: %v", i+1, err) },
		OnForward: func(context.Context, uint32, []byte) ([]byte, error) {
			return nil, api.NewProblem(api.NotLeader, "no front door")
		},
		Logger: slog.New(slog.NewTextHandler(cmp.Or(c.log, io.Discard), nil)),
	}
	if c.openDisk != nil {
		cfg.OpenDisk = func() (Disk, error) { return c.openDisk(i) }
	}
	return cfg
}

// listen takes node i's port, for the first time or again.
func (c *testCluster) listen(i int) net.Listener {
	c.t.Helper()
	addr := "127.0.0.1:0"
	if i < len(c.addrs) {
		addr = c.addrs[i]
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		c.t.Fatal(err)
	}
	if i == len(c.addrs) {
		c.addrs = append(c.addrs, l.Addr().String())
	}
	return l
}

func (c *testCluster) open(cfg Config, l net.Listener) *Node {
	c.t.Helper()
	cfg.Listener = l
	n, err := Open(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// startCluster starts n nodes that bootstrap together.
func startCluster(t *testing.T, n int) *testCluster {
	t.Helper()
	return startJoined(t, n, joinAll)
}

// joinAll is a --join that names every node.
func joinAll(_ int, addrs []string) []string { return addrs }

// startJoined is startCluster with a choice of each node's --join.
func startJoined(t *testing.T, n int, join func(i int, addrs []string) []string) *testCluster {
	t.Helper()
	c := &testCluster{t: t, dir: t.TempDir()}
	c.start(n, join)
	return c
}

func (c *testCluster) start(n int, join func(i int, addrs []string) []string) {
	c.t.Helper()
	c.nodes = make([]*Node, n)
	listeners := make([]net.Listener, n)
	for i := range n {
		listeners[i] = c.listen(i)
	}
	for i := range n {
		cfg := c.config(i)
		cfg.BootstrapExpect, cfg.Join = n, join(i, c.addrs)
		c.nodes[i] = c.open(cfg, listeners[i])
	}
	c.t.Cleanup(func() {
		for i := range c.nodes {
			c.close(i)
		}
	})
	c.ready()
}

func (c *testCluster) close(i int) {
	if c.nodes[i] == nil {
		return
	}
	if err := c.nodes[i].Close(); err != nil {
		c.t.Errorf("close node %d: %v", i+1, err)
	}
	c.nodes[i] = nil
}

// ready waits until every running node passes its checks.
func (c *testCluster) ready() {
	c.t.Helper()
	eventually(c.t, "every node is ready", func() bool {
		for _, n := range c.nodes {
			if n == nil {
				continue
			}
			for _, check := range n.Ready() {
				if !check.OK {
					return false
				}
			}
		}
		return true
	})
}

// leader returns the running node that leads and serves a shard.
func (c *testCluster) leader(shard uint32) (int, *Node) {
	c.t.Helper()
	var at int
	eventually(c.t, fmt.Sprintf("shard %d has a leader", shard), func() bool {
		for i, n := range c.nodes {
			if n != nil {
				if _, local, _ := n.Leader(shard); local {
					at = i
					return true
				}
			}
		}
		return false
	})
	return at, c.nodes[at]
}

// keyOf returns a key that shard owns.
func keyOf(n *Node, shard uint32) string {
	for i := 0; ; i++ {
		if k := fmt.Sprintf("key-%d", i); n.Catalog().Route(api.Slot(k)) == shard {
			return k
		}
	}
}

// take carries one take through the log, under a request id, and returns its
// result.
func take(t *testing.T, n *Node, shard uint32, id string) (api.Result, error) {
	t.Helper()
	b := &api.Batch{}
	b.Add(api.Op{Kind: api.Take, Policy: b.Ref("p"), Cost: 1, Key: keyOf(n, shard), RequestID: id})
	p := &fakeProposal{batch: b, done: make(chan struct{})}
	n.Submit(shard, p)
	p.wait(t)
	if p.err != nil {
		return api.Result{}, p.err
	}
	r, err := api.DecodeReply([]byte(p.reply))
	if err != nil {
		t.Fatal(err)
	}
	var res api.Result
	if ok, err := r.Next(&res); !ok || err != nil {
		t.Fatalf("an empty reply: %v", err)
	}
	return res, nil
}

// mustTake takes through whoever leads the shard, until it is decided: on a busy
// machine a leadership may end at any time.
func (c *testCluster) mustTake(shard uint32) (res api.Result) {
	c.t.Helper()
	c.takes++
	id := fmt.Sprintf("take-%d", c.takes)
	eventually(c.t, "a take is decided", func() bool {
		_, n := c.leader(shard)
		var err error
		res, err = take(c.t, n, shard, id)
		if err != nil && !api.AsProblem(err).Retryable {
			c.t.Fatal(err)
		}
		return err == nil
	})
	return res
}

// mustSnapshot has node i write a snapshot of a group, and keep as little log as it may.
// The library refuses while a leadership is handed over, or if the last thing committed
// is no command.
func (c *testCluster) mustSnapshot(i int, group uint32) {
	c.t.Helper()
	eventually(c.t, "a snapshot is written", func() bool {
		return c.nodes[i].groupList()[group].snapshot(c.t.Context(), 0) == nil
	})
}
