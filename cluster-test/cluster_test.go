package clustertest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// shards is the number of bucket shards of a cluster that is told nothing else.
const shards = 6

// cluster is some nodes that belong together.
type cluster struct {
	root  string
	nodes []*node // n1, n2, …
}

// three describes n1, n2 and n3, not started; adapt, if not nil, changes each.
func three(t testing.TB, adapt func(*node)) *cluster {
	t.Helper()
	root, err := os.MkdirTemp(scratch, strings.ReplaceAll(t.Name(), "/", "_")+"-")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{root: root}
	var join []string
	for i := range 3 {
		n := newNode(t, root, fmt.Sprintf("n%d", i+1), "--bootstrap-expect=3")
		join = append(join, n.raft)
		c.nodes = append(c.nodes, n)
	}
	for _, n := range c.nodes {
		n.args = append(n.args, "--join="+strings.Join(join, ","))
		if adapt != nil {
			adapt(n)
		}
	}
	return c
}

// start runs a cluster of three for this test alone.
func start(t testing.TB, adapt func(*node)) *cluster {
	t.Helper()
	c := three(t, adapt)
	c.own(t)
	return c
}

// own starts the cluster, which ends with this test.
func (c *cluster) own(t testing.TB) {
	t.Helper()
	t.Cleanup(c.end)
	c.reportFailure(t)
	c.startAll(t)
}

var (
	sharedMu      sync.Mutex
	sharedCluster *cluster
)

// shared returns the cluster that all tests have in common, whole and ready.
// Each test uses policies and keys of its own. A test that failed takes the
// cluster down with it.
func shared(t testing.TB) *cluster {
	t.Helper()
	sharedMu.Lock()
	defer sharedMu.Unlock()
	if sharedCluster == nil {
		sharedCluster = three(t, nil)
	}
	c := sharedCluster
	t.Cleanup(func() {
		if t.Failed() {
			endShared()
		}
	})
	c.reportFailure(t)
	c.startAll(t)
	return c
}

func endShared() {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	if sharedCluster != nil {
		sharedCluster.end()
		sharedCluster = nil
	}
}

// startAll runs the nodes that do not, and waits until every node is ready.
func (c *cluster) startAll(t testing.TB) {
	t.Helper()
	for _, n := range c.nodes {
		if !n.running() {
			n.start(t)
		}
	}
	for _, n := range c.nodes {
		n.waitReady(t)
	}
}

func (c *cluster) end() {
	for _, n := range c.nodes {
		n.end()
	}
}

// reportFailure shows what the nodes logged in this test, should it fail.
func (c *cluster) reportFailure(t testing.TB) {
	from := make(map[*node]int64)
	for _, n := range c.nodes {
		from[n] = n.logSize()
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range c.nodes {
				t.Logf("log of %s:\n%s", n.id, n.tail(from[n]))
			}
		}
	})
}

// node returns the node with this id.
func (c *cluster) node(id string) *node {
	i := slices.IndexFunc(c.nodes, func(n *node) bool { return n.id == id })
	if i < 0 {
		return nil
	}
	return c.nodes[i]
}

// others are all nodes but n.
func (c *cluster) others(n *node) []*node {
	return slices.DeleteFunc(slices.Clone(c.nodes), func(o *node) bool { return o == n })
}

// urls are the base URLs of all nodes.
func (c *cluster) urls() []string {
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, "http://"+n.http)
	}
	return urls
}

// client returns a Go client of the cluster.
func (c *cluster) client(t testing.TB) *client.Client {
	t.Helper()
	cl, err := client.New(c.urls(), client.WithTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	return cl
}

// status is what n knows of its cluster.
func (n *node) status() (api.Cluster, error) {
	var s api.Cluster
	return s, n.call("GET", "/v1/cluster", nil, &s)
}

// shardOf returns the shard that key lives in, by the map of a new cluster.
func shardOf(key string) uint32 {
	table, err := api.EvenSlotMap(shards).Table()
	if err != nil {
		panic(err)
	}
	return table[api.Slot(key)]
}

// keyIn returns a key with this prefix that lives in a shard.
func keyIn(shard uint32, prefix string) string {
	for i := 0; ; i++ {
		if key := fmt.Sprintf("%s-%d", prefix, i); shardOf(key) == shard {
			return key
		}
	}
}

// leader waits until the running nodes among those given (none is all) agree on
// a shard's leader, which is one of them, and returns it.
func (c *cluster) leader(t testing.TB, shard uint32, among ...*node) *node {
	t.Helper()
	if among == nil {
		among = c.nodes
	}
	var found *node
	eventually(t, fmt.Sprintf("the nodes agree on the leader of shard %d", shard), func() error {
		var id string
		for _, n := range among {
			s, err := n.status()
			if err != nil {
				return err
			}
			if int(shard) >= len(s.Shards) || s.Shards[shard].Leader == nil {
				return fmt.Errorf("node %s knows no leader", n.id)
			}
			switch l := *s.Shards[shard].Leader; {
			case id == "":
				id = l
			case id != l:
				return fmt.Errorf("%s or %s", id, l)
			}
		}
		found = c.node(id)
		if !slices.Contains(among, found) {
			return fmt.Errorf("%s, which is down", id)
		}
		return nil
	})
	return found
}

// leaderOf is leader for the shard of a key.
func (c *cluster) leaderOf(t testing.TB, key string) *node {
	t.Helper()
	return c.leader(t, shardOf(key))
}

// spread waits until no node leads more than one bucket shard more than
// another one.
func (c *cluster) spread(t testing.TB) {
	t.Helper()
	eventually(t, "leaders are spread evenly", func() error {
		for _, n := range c.nodes {
			s, err := n.status()
			if err != nil {
				return err
			}
			load := map[string]int{}
			for _, shard := range s.Shards[1:] {
				if shard.Leader == nil {
					return fmt.Errorf("shard %d has no leader", shard.ID)
				}
				load[*shard.Leader]++
			}
			for _, o := range c.nodes {
				if load[o.id] < (len(s.Shards)-1)/len(c.nodes) {
					return fmt.Errorf("as %s sees it: %v", n.id, load)
				}
			}
		}
		return nil
	})
}

// seeded returns a source of randomness whose seed the test's log tells;
// RLSTORE_CLUSTERTEST_SEED sets it.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("RLSTORE_CLUSTERTEST_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatalf("RLSTORE_CLUSTERTEST_SEED: %v", err)
		}
	}
	t.Logf("seed %d; repeat with RLSTORE_CLUSTERTEST_SEED=%d", seed, seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// tempFile is a path inside the cluster's folder.
func (c *cluster) tempFile(name string) string { return filepath.Join(c.root, name) }
