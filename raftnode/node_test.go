package raftnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/fsm"
)

// Three nodes with the same flags make one cluster, decide through every shard,
// and refuse on a follower as not applied.
func TestThreeNodesFormOneCluster(t *testing.T) {
	c := startCluster(t, 3)
	id := c.nodes[0].ClusterID()
	for _, n := range c.nodes {
		if n.ClusterID() != id || id == "" {
			t.Fatalf("cluster ids %q and %q", n.ClusterID(), id)
		}
		if got := n.Catalog().ClusterID; got != id {
			t.Errorf("the catalog says cluster %q, want %q", got, id)
		}
	}
	for shard := uint32(1); shard <= 2; shard++ {
		for want := int64(9); want >= 0; want-- {
			res := c.mustTake(shard)
			if res.Status != api.StatusAllowed || res.Limits[0].Remaining != want {
				t.Fatalf("shard %d: %+v, want allowed with %d left", shard, res, want)
			}
		}
		if res := c.mustTake(shard); res.Status != api.StatusDenied {
			t.Fatalf("shard %d: %+v, want denied", shard, res)
		}
		at, _ := c.leader(shard)
		_, err := take(t, c.nodes[(at+1)%3], shard, "")
		if p := api.AsProblem(err); err == nil || p.Code != api.NotLeader || p.Outcome != api.NotApplied {
			t.Errorf("a follower of shard %d said %v", shard, err)
		}
	}
}

// --join may name any nodes: one seed for all, the seed itself none, or each its
// neighbour only.
func TestAnyConnectedJoinFormsOneCluster(t *testing.T) {
	for name, join := range map[string]func(i int, addrs []string) []string{
		"the last as seed": func(i int, addrs []string) []string {
			if i == 2 {
				return nil
			}
			return addrs[2:]
		},
		"the first as seed": func(_ int, addrs []string) []string { return addrs[:1] },
		"a chain": func(i int, addrs []string) []string {
			if i == 2 {
				return nil
			}
			return addrs[i+1 : i+2]
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := startJoined(t, 3, join)
			for _, n := range c.nodes {
				if got := len(n.Cluster().Nodes); got != 3 || n.ClusterID() != c.nodes[0].ClusterID() {
					t.Errorf("%s is in cluster %s with %d nodes", n.NodeID(), n.ClusterID(), got)
				}
			}
		})
	}
}

// A --join that leads to two clusters is a mistake that nobody may guess about. The
// node tells it once; who runs the node tells it again.
func TestJoinThatLeadsToTwoClustersIsRefused(t *testing.T) {
	a, b := startCluster(t, 1), startCluster(t, 1)
	log := countLines("leads to two clusters")
	a.log = log
	fatal := make(chan error, 1)
	l := a.listen(1)
	cfg := a.config(1)
	cfg.Join = []string{a.addrs[0], b.addrs[0]}
	cfg.OnFatal = func(err error) { fatal <- err }
	a.nodes = append(a.nodes, a.open(cfg, l))
	select {
	case err := <-fatal:
		if !strings.Contains(err.Error(), "two clusters") {
			t.Fatal(err)
		}
		for rest, times := range log.counts() {
			if times != 1 {
				t.Errorf("told %d times: %s", times, rest)
			}
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it was not refused")
	}
}

// A policy written through any node is seen by all once the write returns.
func TestCatalogWriteIsSeenEverywhere(t *testing.T) {
	c := startCluster(t, 3)
	for i := range 9 {
		name := fmt.Sprintf("p%d", i)
		insist(t, func() error {
			_, err := c.nodes[i%3].ChangeCatalog(request(t), fsm.CatalogCommand{PutPolicy: &fsm.PutPolicy{Policy: api.Policy{
				Name: name, Mode: "strict", OnUnavailable: "closed", Enforcement: "enforce",
				Limits: []api.Limit{{Name: "default", Algorithm: "token_bucket", Rate: 1, Per: api.Duration(time.Second), Burst: 1}},
			}}}, false)
			return err
		})
		for j, n := range c.nodes {
			if _, ok := n.Catalog().Policy(name); !ok {
				t.Fatalf("node %d does not know %s after its write through node %d returned", j+1, name, i%3+1)
			}
		}
	}
}

// What is wrong with a catalog write is told as it is, without a second code
// before it.
func TestARefusedCatalogWriteSaysWhatIsWrong(t *testing.T) {
	c := startCluster(t, 1)
	_, err := c.nodes[0].ChangeCatalog(request(t), fsm.CatalogCommand{SetEnforcement: &fsm.SetEnforcement{Enforcement: "on"}}, false)
	if p := api.AsProblem(err); err == nil || p.Code != api.InvalidRequest || !strings.HasPrefix(p.Detail, "enforcement: ") {
		t.Fatalf("%v", err)
	}
}

// Whoever has less time than a search for a leader takes hears within it that nothing
// was applied.
func TestASearchForALeaderEndsWithinTheCallersTime(t *testing.T) {
	c := startCluster(t, 3)
	for i := range c.nodes[1:] {
		c.close(i + 1)
	}
	eventually(t, "the last node leads nothing", func() bool { return !c.nodes[0].groupList()[0].leading.Load() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := c.nodes[0].ChangeCatalog(ctx, fsm.CatalogCommand{SetEnforcement: &fsm.SetEnforcement{Enforcement: "off"}}, false)
	if p := api.AsProblem(err); err == nil || p.Code != api.NoLeader || p.Outcome != api.NotApplied || ctx.Err() != nil {
		t.Errorf("%v; %v", err, ctx.Err())
	}
}

// A drained node leads nothing, and its state survives the restart of all.
func TestDrainHandsOverAndNothingIsForgotten(t *testing.T) {
	c := startCluster(t, 3)
	at, leader := c.leader(1)
	for range 4 {
		c.mustTake(1)
	}
	eventually(t, "the leader is drained", func() bool { return leader.Drain(request(t)) == nil })
	for _, g := range leader.groupList() {
		if g.leader() == leader.NodeID() {
			t.Errorf("group %d is still led by the drained node", g.id)
		}
	}
	c.close(at)
	if res := c.mustTake(1); res.Limits[0].Remaining != 5 {
		t.Fatalf("after the hand-over %d are left, want 5", res.Limits[0].Remaining)
	}
	for i := range c.nodes {
		c.close(i)
	}
	for i := range c.nodes {
		cfg := c.config(i) // no --bootstrap-expect and no --join: the folder knows
		cfg.NodeID = ""
		c.nodes[i] = c.open(cfg, c.listen(i))
	}
	c.ready()
	if res := c.mustTake(1); res.Limits[0].Remaining != 4 {
		t.Fatalf("after the restart of all %d are left, want 4", res.Limits[0].Remaining)
	}
}

// A node that stands down answers on and leads nothing; the last one that could lead
// is refused, and leads.
func TestTheLastNodeThatCouldLeadDoesNotStandDown(t *testing.T) {
	c := startCluster(t, 3)
	for _, n := range c.nodes[:2] {
		eventually(t, "a node stands down", func() bool { return n.StandDown(request(t)) == nil })
	}
	for _, n := range c.nodes[:2] {
		for _, g := range n.groupList() {
			if g.leader() == n.NodeID() {
				t.Errorf("%s leads group %d after it stood down", n.NodeID(), g.id)
			}
		}
	}
	last := c.nodes[2]
	eventually(t, "the last one knows that the others have stood down", func() bool {
		return !last.canLead(c.nodes[0].NodeID()) && !last.canLead(c.nodes[1].NodeID())
	})
	err := last.StandDown(request(t))
	if p := api.AsProblem(err); err == nil || p.Code != api.Conflict {
		t.Fatalf("the last one stood down: %v", err)
	}
	if last.isDraining() {
		t.Error("the last one is draining after it was refused")
	}
	c.mustTake(1)
}

// A drained node that is elected, as it may be while the others are away, hands over
// again.
func TestADrainedNodeDoesNotGoOnLeading(t *testing.T) {
	c := startCluster(t, 3)
	_, drained := c.leader(1)
	eventually(t, "a node stands down", func() bool { return drained.StandDown(request(t)) == nil })
	term := uint64(0)
	eventually(t, "it is elected", func() bool {
		_, leader := c.leader(1)
		g := leader.groupList()[1]
		term = g.raft.CurrentTerm()
		return leader != drained && await(request(t), g.raft.LeadershipTransferToServer(raft.ServerID(drained.NodeID()), raft.ServerAddress(drained.cfg.RaftAdvertise))) == nil
	})
	eventually(t, "another one leads again", func() bool {
		_, leader := c.leader(1)
		return leader != drained && leader.groupList()[1].raft.CurrentTerm() > term+1
	})
	c.mustTake(1)
}

// What makes a node the last voter while it stands down leaves it leading, and open.
func TestTheOnlyVoterThatStandsDownDecidesOn(t *testing.T) {
	c := startCluster(t, 1)
	n := c.nodes[0]
	if err := n.drain(request(t), true); err == nil {
		t.Error("it has handed over to nobody")
	}
	n.draining.Add(-1)
	c.mustTake(1)
}

// A cluster of one node decides on after it was asked to stand down.
func TestASingleNodeDoesNotStandDown(t *testing.T) {
	c := startCluster(t, 1)
	err := c.nodes[0].StandDown(request(t))
	if p := api.AsProblem(err); err == nil || p.Code != api.Conflict {
		t.Fatalf("it stood down: %v", err)
	}
	c.mustTake(1)
}

// A node with an empty folder joins as a new member, and gets its vote in every
// group once it has caught up.
func TestNewNodeJoins(t *testing.T) {
	c := startCluster(t, 3)
	c.mustTake(1)
	l := c.listen(3)
	cfg := c.config(3)
	cfg.Join = c.addrs[:1]
	c.nodes = append(c.nodes, c.open(cfg, l))
	eventually(t, "the fourth node votes in every group", func() bool {
		groups := c.nodes[3].groupList()
		for _, g := range groups {
			if len(voterIDs(g)) != 4 {
				return false
			}
		}
		return groups != nil
	})
	if got := c.nodes[3].Cluster().Nodes; len(got) != 4 {
		t.Errorf("the cluster lists %d nodes, want 4", len(got))
	}
}

// A node may be told to join by one that has itself joined a moment ago and has
// not heard of any member: it waits until somebody knows them, and then knocks at
// all of them.
func TestNewNodeJoinsThroughOneThatKnowsNobodyYet(t *testing.T) {
	c := startCluster(t, 3)
	c.mustTake(1)
	cluster := c.nodes[0].ClusterID()
	members := c.nodes[0].configured()
	for i := range 3 {
		c.close(i)
	}
	// The fourth has entered the cluster, and no leader has added it yet.
	fourth := c.listen(3)
	cfg := c.config(3)
	disk, err := OpenFiles(cfg.DataDir, FilesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id := identity{Format: dataFormat, NodeID: cfg.NodeID, ClusterID: cluster, Shards: 2, Members: members}
	if err := errors.Join(saveIdentity(disk, id), disk.Close()); err != nil {
		t.Fatal(err)
	}
	c.nodes = append(c.nodes, c.open(cfg, fourth))
	fifth := c.listen(4)
	cfg = c.config(4)
	cfg.Join = c.addrs[3:4]
	c.nodes = append(c.nodes, c.open(cfg, fifth))
	if _, err := c.nodes[4].askToJoin(t.Context(), c.addrs[3]); api.AsProblem(err).Code != api.NoLeader {
		t.Errorf("a node without members lets another one join: %v", err)
	}
	for i := range 3 {
		c.nodes[i] = c.open(c.config(i), c.listen(i))
	}
	eventually(t, "both vote in every group", func() bool {
		for _, n := range c.nodes[3:] {
			groups := n.groupList()
			for _, g := range groups {
				if len(voterIDs(g)) != 5 {
					return false
				}
			}
			if groups == nil {
				return false
			}
		}
		return true
	})
}

// A node that joins at the address of a member hears whose it is, and waits until
// that one has been removed: nobody takes it for the member.
func TestNewNodeAtTheAddressOfAMember(t *testing.T) {
	c := startCluster(t, 3)
	c.mustTake(1)
	c.close(2)
	cfg := c.config(2)
	cfg.NodeID, cfg.DataDir, cfg.Join = "n4", filepath.Join(c.dir, "3"), c.addrs
	l := c.listen(2)
	c.addrs = append(c.addrs, c.addrs[2])
	c.nodes = append(c.nodes, c.open(cfg, l))
	if _, err := c.nodes[3].askToJoin(t.Context(), c.addrs[0]); err == nil || !strings.Contains(err.Error(), "is the raft address of its member n3") {
		t.Errorf("it was told: %v", err)
	}
	c.mustTake(1)
	if _, ok := c.nodes[0].peers.member("n4"); ok {
		t.Error("it joined all the same")
	}
	insist(t, func() error { return c.nodes[0].RemoveMember(request(t), "n3") })
	eventually(t, "it votes in every group", func() bool {
		groups := c.nodes[3].groupList()
		for _, g := range groups {
			if len(voterIDs(g)) != 3 || !g.has("n4") {
				return false
			}
		}
		return groups != nil
	})
	c.mustTake(1)
}

// A member that was away while the others moved finds one of them at the address of
// the other: it is refused there, until it hears where each of them is now.
func TestAStaleAddressLeadsToNobodyElse(t *testing.T) {
	c := startCluster(t, 3)
	c.mustTake(1)
	c.close(0)
	move := func(i int, l net.Listener) {
		c.close(i)
		c.addrs[i] = l.Addr().String()
		c.nodes[i] = c.open(c.config(i), l)
		c.ready()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	left := c.addrs[2]
	move(2, l)
	if l, err = net.Listen("tcp", left); err != nil {
		t.Fatal(err)
	}
	move(1, l)
	c.nodes[0] = c.open(c.config(0), c.listen(0))
	var refused *RefusedError
	if _, err := c.nodes[0].ask(t.Context(), addrOf("n3", left)); !errors.As(err, &refused) || !strings.Contains(err.Error(), "is n2, not n3") {
		t.Errorf("at the address that n3 has left: %v", err)
	}
	eventually(t, "n1 hears from both where they are", func() bool {
		two, ok := c.nodes[0].peers.fresh("n2")
		three, ok2 := c.nodes[0].peers.fresh("n3")
		return ok && ok2 && two.Raft == c.addrs[1] && three.Raft == c.addrs[2]
	})
	c.ready()
	c.mustTake(1)
}

// A member that lost its folder has forgotten its votes, and is refused.
func TestWipedMemberIsRefused(t *testing.T) {
	c := startCluster(t, 3)
	c.close(2)
	if err := os.RemoveAll(filepath.Join(c.dir, "2")); err != nil {
		t.Fatal(err)
	}
	fatal := make(chan error, 1)
	cfg := c.config(2)
	cfg.BootstrapExpect, cfg.Join = 3, c.addrs
	cfg.OnFatal = func(err error) { fatal <- err }
	c.nodes[2] = c.open(cfg, c.listen(2))
	select {
	case err := <-fatal:
		if !strings.Contains(err.Error(), "forgotten its votes") {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the wiped node was not refused")
	}
}

// What is wrong with a data folder is said in one sentence, before anything
// starts.
func TestDataFolderOfSomebodyElse(t *testing.T) {
	c := &testCluster{t: t, dir: t.TempDir()}
	l := c.listen(0)
	cfg := c.config(0)
	lost := cfg // a fresh node that is told nothing
	cfg.BootstrapExpect = 1
	c.nodes = []*Node{c.open(cfg, l)}
	<-c.nodes[0].Formed()

	try := func(cfg Config, want string) {
		t.Helper()
		other, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cfg.Listener = other
		n, err := Open(cfg)
		if err == nil {
			n.Close()
			t.Fatalf("it started; want %q", want)
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("it said %q; want one line with %q", err, want)
		}
		if _, err := other.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the listener was left open: %v", err)
		}
	}
	try(cfg, "in use by another process")
	lost.DataDir = t.TempDir()
	try(lost, "belongs to no cluster yet")
	c.close(0)
	stranger := cfg
	stranger.NodeID = "somebody"
	try(stranger, "belongs to node n1")

	file := filepath.Join(cfg.DataDir, "node.json")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(s string) {
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other := func(format string) { // its sum is none of format 2
		write(strings.NewReplacer(`"format": 2`, `"format": `+format, `"crc32c": "`, `"crc32c": "0`).Replace(string(b)))
	}
	other("9")
	try(cfg, "format 9")
	if err := os.Remove(filepath.Join(cfg.DataDir, "node.spare.json")); err != nil {
		t.Fatal(err)
	}
	write(string(b[:len(b)/2]))
	try(cfg, "damaged")
	for _, torn := range []string{
		`{"format": 2}`,
		`{"format": 2, "node_id": "n1", "complete": true}`,
		`{"format": 2, "node_id": "n1", "cluster_id": "0123", "shards": 2}`,
		`{"format": 2, "node_id": "n1", "cluster_id": "` + strings.Repeat("ab", 16) + `", "shards": 1000000000}`,
		`{"format": 2, "node_id": "n1", "bootstrap": {}}`,
	} {
		write(torn)
		try(cfg, "node.json is damaged")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	try(cfg, "no node.json")
	write(string(b))
	other("1")
	try(cfg, "format 1, and this version reads format 2 only")
	write(string(b))
	if err := os.Remove(filepath.Join(cfg.DataDir, "logs.db")); err != nil {
		t.Fatal(err)
	}
	try(cfg, "log of group 0 is missing")
	f, err := openBolt(filepath.Join(cfg.DataDir, "logs.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range []uint32{0, 2} {
		if _, err := f.group(group); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	try(cfg, "log of group 1 is missing")
}

// What is asked for five times a second is the same, without what costs.
func TestAnOutlineIsTheClusterWithoutItsReplicas(t *testing.T) {
	c := startCluster(t, 3)
	for _, n := range c.nodes {
		eventually(t, "both tell the same", func() bool { // a leader may change between the two
			whole, outline := n.Cluster(), n.Outline()
			for i := range whole.Shards {
				if len(whole.Shards[i].Members) != 3 {
					t.Fatalf("shard %d has %d replicas", i, len(whole.Shards[i].Members))
				}
				whole.Shards[i].Members = outline.Shards[i].Members
			}
			return len(whole.Shards) == 3 && len(outline.Shards[0].Members) == 0 && reflect.DeepEqual(whole, outline)
		})
	}
}
