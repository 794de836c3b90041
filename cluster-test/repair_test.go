package clustertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// flipBit changes one bit of the newest file that matches pattern below the node's
// data folder, and returns its name there.
func (n *node) flipBit(t testing.TB, pattern string, at int) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(n.dir, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("node %s has no %s: %v", n.id, pattern, err)
	}
	slices.Sort(files)
	path := files[len(files)-1]
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Base(path)
}

// hasSetAside tells whether the node has set a file of that name aside.
func (n *node) hasSetAside(name string) bool {
	found := false
	_ = filepath.WalkDir(filepath.Join(n.dir, "damaged"), func(_ string, d fs.DirEntry, err error) error {
		found = found || err == nil && d.Name() == name
		return nil
	})
	return found
}

// voteEverywhere says which replica is no voter, or is being repaired.
func (c *cluster) voteEverywhere() error {
	s, err := c.nodes[0].status()
	if err != nil {
		return err
	}
	for _, shard := range s.Shards {
		for _, m := range shard.Members {
			if !m.Voter || m.Repairing {
				return fmt.Errorf("%s in shard %d: %+v", m.ID, shard.ID, m)
			}
		}
	}
	return nil
}

// TestFlippedBitsOnOneNodeAreRepaired flips a bit in each kind of file of a node that
// is down. Each time it comes back by itself, with all that it had, and votes; and at
// the end no token was lost, and none granted twice.
func TestFlippedBitsOnOneNodeAreRepaired(t *testing.T) {
	c := start(t, func(n *node) { withSeams(n, snapshotsEnv+"=65536,16384") })
	c.spread(t)
	p := c.nodes[0].put(t, unique("flipped"), 1, year, 1_000_000)
	h, cl := newHistory(p), c.client(t)
	key, spent := keyIn(1, "flipped"), int64(0)
	take := func() {
		t.Helper()
		for range 20 {
			called := h.now()
			d, err := cl.Take(context.Background(), p.Name, key, 1)
			if err != nil {
				t.Fatal(err)
			}
			h.taken(called, &d)
			spent++
		}
	}
	damaged := c.nodes[2]
	// Entries that are small: with large ones a snapshot would hold fewer of them than
	// stay in the log behind it, and the log alone would make good for its damage.
	filler := []client.Request{{Policy: p.Name, Key: fmt.Sprintf("%s{%s}", strings.Repeat("x", 200), key), Cost: 1}}
	from := damaged.logSize()
	eventually(t, "the node has truncated the log of shard 1 twice", func() error {
		for range 50 {
			if _, err := cl.TakeBatch(context.Background(), filler); err != nil {
				return err
			}
		}
		taken := 0
		for line := range strings.Lines(damaged.logSince(t, from)) {
			if strings.Contains(line, `msg="snapshot taken"`) && strings.Contains(line, " group=1 ") {
				taken++
			}
		}
		if taken < 2 {
			return fmt.Errorf("it has taken %d snapshots", taken)
		}
		return nil
	})
	for _, kind := range []struct {
		file string
		at   int
		log  string // what the node says of it
	}{
		{"node.json", 30, "its spare has taken its place"},
		{"groups/001/snapshots/*/state.bin", 100, "has its vote again"},
		{"groups/001/snapshots/*/meta.json", 20, "has its vote again"},
		{"logs.db", 17, "has its vote again"},
	} {
		t.Run(filepath.Base(kind.file), func(t *testing.T) {
			take()
			damaged.kill(t)
			name := damaged.flipBit(t, kind.file, kind.at)
			take()
			from := damaged.logSize()
			damaged.start(t)
			damaged.waitReady(t)
			eventually(t, "it votes again", func() error {
				if err := c.voteEverywhere(); err != nil {
					return err
				}
				if log := damaged.logSince(t, from); !strings.Contains(log, kind.log) {
					return fmt.Errorf("its log does not say that it %s", kind.log)
				}
				return nil
			})
			if !damaged.hasSetAside(name) {
				t.Errorf("the damaged %s was not set aside", name)
			}
			take()
			eventually(t, "its own copy is the others'", func() error {
				s, err := damaged.peek(p.Name, key, "?consistency=stale")
				if want := p.Limits[0].Burst - spent; err == nil && s.Remaining != want {
					err = fmt.Errorf("%d tokens left, want %d", s.Remaining, want)
				}
				return err
			})
		})
	}
	// Its word counts again: without another one, shards are decided by it.
	c.nodes[0].kill(t)
	take()
	c.startAll(t)
	c.mustHaveSpent(t, h, p, key, spent)
}

// TestFlippedBitsOnEveryNode: if no majority is whole, nothing is decided and nothing
// deleted, the nodes say why, and whole copies are the way back.
func TestFlippedBitsOnEveryNode(t *testing.T) {
	c := start(t, nil)
	p := c.hundred(t, "flipped")
	for i, n := range c.nodes {
		n.mustTake(t, api.TakeRequest{Policy: p.Name, Key: "k", Cost: cost(int64(10 + i))})
	}
	for _, n := range c.nodes {
		n.kill(t)
	}
	for _, n := range c.nodes {
		if err := os.CopyFS(n.dir+".backup", os.DirFS(n.dir)); err != nil {
			t.Fatal(err)
		}
		n.flipBit(t, "logs.db", 17)
		n.start(t)
	}
	eventually(t, "every node says that nobody can help", func() error {
		for _, n := range c.nodes {
			err := n.ready()
			if err == nil {
				t.Fatalf("%s is ready, without anything", n.id)
			}
			if !n.running() {
				t.Fatal(err)
			}
			if !strings.Contains(err.Error(), "shard-1 failed: its files here were damaged and are set aside, and no leader is known") {
				return err
			}
		}
		return nil
	})
	var problem *api.Problem
	if _, err := c.nodes[0].take(api.TakeRequest{Policy: p.Name, Key: "k"}); !errors.As(err, &problem) || problem.Outcome != api.NotApplied {
		t.Errorf("a take: %v", err)
	}
	for _, n := range c.nodes {
		if !n.hasSetAside("logs.db") {
			t.Errorf("%s did not keep what was damaged", n.id)
		}
		n.kill(t)
		mustRename(t, n.dir, n.dir+".damaged")
		mustRename(t, n.dir+".backup", n.dir)
	}
	c.startAll(t)
	if s := c.nodes[0].mustPeek(t, p.Name, "k"); s.Remaining != 67 {
		t.Errorf("%d tokens left, want 67", s.Remaining)
	}
}

// recoverFolder runs rlstore recover on a folder, and returns what it tells.
func recoverFolder(t *testing.T, args ...string) (told struct {
	NewClusterID string `json:"new_cluster_id"`
	Damaged      []string
	Groups       []struct {
		Lost          bool
		Index, Beyond uint64
		Buckets       int
		Losses        map[string]any
	}
}) {
	t.Helper()
	cmd := exec.Command(rlstore, append([]string{"recover", "-o", "json"}, args...)...)
	var prose strings.Builder
	cmd.Stderr = &prose
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("recover %v: %v\n%s", args, err, prose.String())
	}
	if !strings.Contains(prose.String(), "may be missing: ") {
		t.Errorf("recover %v does not say what may be missing:\n%s", args, prose.String())
	}
	if err := json.Unmarshal(out, &told); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return told
}

// rejoin starts all nodes but the first one with empty folders and the flags that they
// had, and waits until they vote.
func (c *cluster) rejoin(t *testing.T) {
	t.Helper()
	for _, n := range c.nodes[1:] {
		mustRename(t, n.dir, n.dir+".old")
		n.start(t)
	}
	c.startAll(t)
	eventually(t, "all vote", func() error {
		s, err := c.nodes[0].status()
		if err == nil && len(s.Nodes) != len(c.nodes) {
			err = fmt.Errorf("%d nodes", len(s.Nodes))
		}
		return errors.Join(err, c.voteEverywhere())
	})
}

// TestAClusterIsRecoveredFromOneFolder: a bit has flipped in the log of every node, so
// that none of them goes on, and two are given up. What one folder has makes a new
// cluster, with each bucket as it was, to the token; and a node of the old one, should
// it come back, is none of it.
func TestAClusterIsRecoveredFromOneFolder(t *testing.T) {
	c := start(t, nil)
	p := c.hundred(t, "recovered")
	left := map[string]int64{}
	for shard := range uint32(shards) {
		key := keyIn(shard+1, "recovered")
		left[key] = 100 - int64(10+shard)
		c.nodes[0].mustTake(t, api.TakeRequest{Policy: p.Name, Key: key, Cost: cost(100 - left[key])})
	}
	once := api.TakeRequest{Policy: p.Name, Key: keyIn(1, "recovered"), Cost: cost(5), RequestID: "once"}
	c.nodes[0].mustTake(t, once)
	left[once.Key] -= 5
	survivor, old := c.nodes[0], ""
	eventually(t, "the node that will be left has everything", func() error {
		s, err := survivor.status()
		if err != nil {
			return err
		}
		old = s.ClusterID
		for key, want := range left {
			if s, err := survivor.peek(p.Name, key, "?consistency=stale"); err != nil || s.Remaining != want {
				return fmt.Errorf("%s has %d left, want %d: %v", key, s.Remaining, want, err)
			}
		}
		return nil
	})
	for _, n := range c.nodes {
		n.kill(t)
		n.flipBit(t, "logs.db", 17)
	}
	survivor.start(t)
	eventually(t, "the node says that nobody can help", func() error {
		if err := survivor.ready(); err == nil || !strings.Contains(err.Error(), "no leader is known") {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	survivor.terminate(t)

	found := recoverFolder(t, "--data-dir", survivor.dir)
	if found.NewClusterID != "" || len(found.Damaged) != 1 || len(found.Groups) != shards+1 {
		t.Errorf("before: %+v", found)
	}
	done := recoverFolder(t, "--data-dir", survivor.dir, "--yes")
	for i, g := range done.Groups {
		if g.Lost || g.Beyond != 0 || len(g.Losses) > 0 {
			t.Errorf("shard %d: %+v", i, g)
		}
	}
	survivor.start(t)
	survivor.waitReady(t)
	s, err := survivor.status()
	if err != nil || s.ClusterID != done.NewClusterID || s.ClusterID == old {
		t.Errorf("its cluster is %s, want %s; %v", s.ClusterID, done.NewClusterID, err)
	}

	// A node of the old cluster starts by mistake.
	lost := c.nodes[1]
	from := survivor.logSize()
	lost.start(t)
	eventually(t, "the new cluster refuses it", func() error {
		if log := survivor.logSince(t, from) + lost.logSince(t, 0); !strings.Contains(log, "belongs to another cluster") {
			return errors.New("nobody says so")
		}
		return nil
	})
	if s, err := survivor.status(); err != nil || len(s.Nodes) != 1 {
		t.Errorf("the members are %+v, %v", s.Nodes, err)
	}
	lost.kill(t)

	c.rejoin(t)
	for key, want := range left {
		if s := c.nodes[2].mustPeek(t, p.Name, key); s.Remaining != want {
			t.Errorf("%s has %d left, want %d", key, s.Remaining, want)
		}
	}
	if d := c.nodes[1].mustTake(t, once); !d.Duplicate {
		t.Errorf("a take that is sent again is charged again: %+v", d)
	}
	survivor.kill(t) // and without it the other two are a majority
	if d := c.nodes[1].mustTake(t, api.TakeRequest{Policy: p.Name, Key: once.Key}); d.Remaining != left[once.Key]-1 {
		t.Errorf("%d left, want %d", d.Remaining, left[once.Key]-1)
	}
}

// TestARecordDamagedOnEveryNodeResetsItsBucketsOnly: no healthy copy is left of some
// buckets of one shard. Until somebody decides, that shard decides nothing, and the
// others go on; then those buckets start full, are counted, and all else is as it was.
func TestARecordDamagedOnEveryNodeResetsItsBucketsOnly(t *testing.T) {
	c := start(t, nil)
	p := c.hundred(t, "record")
	first, elsewhere := c.nodes[0], keyIn(2, "record")
	const many = 150 // of some 500 bytes each, in records of 32 KiB
	var keys []string
	var batch []client.Request
	for i := range many {
		key := fmt.Sprintf("{%s}%s%d", keyIn(1, "record"), strings.Repeat("x", 460), i)
		keys = append(keys, key)
		batch = append(batch, client.Request{Policy: p.Name, Key: key, Cost: 40})
	}
	decided, err := c.client(t).TakeBatch(context.Background(), append(batch, client.Request{Policy: p.Name, Key: elsewhere, Cost: 40}))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range decided {
		if d.Err != nil || !d.Allowed {
			t.Fatalf("%+v", d)
		}
	}
	eventually(t, "the first node has it all", func() error {
		for _, key := range append(keys, elsewhere) {
			if s, err := first.peek(p.Name, key, "?consistency=stale"); err != nil || s.Remaining != 60 {
				return fmt.Errorf("%d left, %v", s.Remaining, err)
			}
		}
		return nil
	})
	for _, n := range c.nodes {
		n.kill(t)
	}
	recoverFolder(t, "--data-dir", first.dir, "--yes") // so that snapshots are all there is
	first.start(t)
	first.waitReady(t)
	c.rejoin(t)

	for _, n := range c.nodes {
		n.kill(t)
		n.flipIn(t, "groups/001/snapshots/*/state.bin", keys[many/2])
		n.start(t)
	}
	eventually(t, "every node says that nobody can help with shard 1, and the others go on", func() error {
		for _, n := range c.nodes {
			if err := n.ready(); err == nil || !strings.Contains(err.Error(), "shard-1 failed: its files here were damaged and are set aside, and no leader is known") {
				return fmt.Errorf("%s: %v", n.id, err)
			}
			if s, err := n.peek(p.Name, elsewhere, ""); err != nil || s.Remaining != 60 {
				return fmt.Errorf("%d left elsewhere, %v", s.Remaining, err)
			}
		}
		return nil
	})
	var problem *api.Problem
	if _, err := first.take(api.TakeRequest{Policy: p.Name, Key: keys[0]}); !errors.As(err, &problem) || problem.Outcome != api.NotApplied {
		t.Errorf("a take of shard 1: %v", err)
	}
	for _, n := range c.nodes {
		n.kill(t)
	}
	told := recoverFolder(t, "--data-dir", first.dir, "--yes")
	lost, _ := told.Groups[1].Losses["buckets"].(float64)
	if lost == 0 || int(lost)+told.Groups[1].Buckets != many || len(told.Groups[1].Losses) != 2 || len(told.Groups[2].Losses) > 0 {
		t.Errorf("%+v", told)
	}
	first.start(t)
	first.waitReady(t)
	full := 0
	for i, key := range keys {
		switch s := first.mustPeek(t, p.Name, key); s.Remaining {
		case 100:
			full++
		case 60:
			if i == many/2 {
				t.Error("the damaged one is not reset")
			}
		default:
			t.Errorf("a bucket has %d left", s.Remaining)
		}
	}
	if full != int(lost) || full > many*2/3 {
		t.Errorf("%d of %d buckets start full, and %v are told to be lost", full, many, lost)
	}
	if s := first.mustPeek(t, p.Name, elsewhere); s.Remaining != 60 {
		t.Errorf("%d left elsewhere, want 60", s.Remaining)
	}
}

// flipIn changes a bit of the text in the newest file that matches pattern below the
// node's data folder.
func (n *node) flipIn(t testing.TB, pattern, text string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(n.dir, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("node %s has no %s: %v", n.id, pattern, err)
	}
	slices.Sort(files)
	b, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte(text))
	if at < 0 {
		t.Fatalf("%s does not hold it", files[len(files)-1])
	}
	n.flipBit(t, pattern, at)
}
