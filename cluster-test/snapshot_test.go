package clustertest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/client"
)

// TestANodeThatWasAwayComesBackThroughASnapshot keeps a node down until the
// others have truncated what it misses, then has it lead and count.
func TestANodeThatWasAwayComesBackThroughASnapshot(t *testing.T) {
	c := start(t, func(n *node) { withSeams(n, snapshotsEnv+"=65536,16384") })
	c.spread(t)
	away := c.nodes[2]
	// A shard that the node leads while all are well: it will lead it again.
	var shard uint32
	for id := uint32(1); id <= shards; id++ {
		if c.leader(t, id) == away {
			shard = id
		}
	}
	p := c.nodes[0].put(t, unique("away"), 1, year, 1_000_000)
	key := keyIn(shard, "away")
	h, cl := newHistory(p), c.client(t)
	take := func(n int64) {
		t.Helper()
		called := h.now()
		d, err := cl.Take(context.Background(), p.Name, key, n)
		if err != nil {
			t.Fatal(err)
		}
		h.taken(called, &d)
	}
	for range 50 {
		take(1)
	}
	away.kill(t)
	fall := map[*node]int64{}
	for _, n := range c.others(away) {
		fall[n] = n.logSize()
	}

	// Other buckets of the same shard fill the log, an entry a batch.
	group := fmt.Sprintf(" group=%d ", shard)
	filler := make([]client.Request, 20)
	eventually(t, "both others have truncated the shard's log twice", func() error {
		for batch := range 100 {
			for i := range filler {
				filler[i] = client.Request{Policy: p.Name, Key: fmt.Sprintf("%s{%s}%d", strings.Repeat("x", 200), key, i+batch%7), Cost: 1}
			}
			results, err := cl.TakeBatch(context.Background(), filler)
			if err != nil {
				return err
			}
			for _, r := range results {
				if r.Err != nil {
					return r.Err
				}
			}
		}
		for n, from := range fall {
			taken := 0
			for line := range strings.Lines(n.logSince(t, from)) {
				if strings.Contains(line, "snapshot taken") && strings.Contains(line, group) {
					taken++
				}
			}
			if taken < 2 {
				return fmt.Errorf("%d snapshots on %s", taken, n.id)
			}
		}
		return nil
	})
	for range 50 {
		take(1)
	}

	back := away.logSize()
	away.args = append(away.args, "--log-level=debug") // Raft's own words are told at that level
	away.start(t)
	away.waitReady(t)
	eventually(t, "all replicas of all shards have applied the same", func() error {
		s, err := c.nodes[0].status()
		if err != nil {
			return err
		}
		for _, shard := range s.Shards {
			if len(shard.Members) != 3 {
				return fmt.Errorf("shard %d has %d members", shard.ID, len(shard.Members))
			}
			for _, m := range shard.Members {
				if m.AppliedIndex == 0 || m.AppliedIndex != shard.Members[0].AppliedIndex {
					return fmt.Errorf("shard %d: %+v", shard.ID, shard.Members)
				}
			}
		}
		return nil
	})
	if log := away.logSince(t, back); !strings.Contains(log, "nstalled remote snapshot") {
		t.Error("the node came back without an installed snapshot: this test shows nothing")
	}
	if s, err := away.peek(p.Name, key, "?consistency=stale"); err != nil || s.Remaining != p.Limits[0].Burst-100 {
		t.Errorf("its own copy has %d left (%v), want %d", s.Remaining, err, p.Limits[0].Burst-100)
	}

	eventually(t, "the node leads its shard again", func() error {
		if l := c.leader(t, shard); l != away {
			return fmt.Errorf("%s does", l.id)
		}
		return nil
	})
	for range 50 {
		take(1)
	}
	c.mustHaveSpent(t, h, p, key, 150)
}
