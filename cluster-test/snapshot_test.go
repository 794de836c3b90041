package clustertest

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/rlstore/rlstore/client"
)

// TestANodeThatWasAwayComesBackThroughASnapshot keeps a node down until the
// others have truncated what it misses, of every shard, then has it lead again.
func TestANodeThatWasAwayComesBackThroughASnapshot(t *testing.T) {
	c := start(t, func(n *node) { withSeams(n, snapshotsEnv+"=65536,16384") })
	c.spread(t)
	away := c.nodes[2]
	p := c.nodes[0].put(t, unique("away"), 1, year, 1_000_000)
	h, cl := newHistory(p), c.client(t)
	var keys []string
	for shard := range uint32(shards) {
		keys = append(keys, keyIn(shard+1, "away"))
	}
	take := func() {
		t.Helper()
		for _, key := range keys {
			for range 20 {
				called := h.now()
				d, err := cl.Take(context.Background(), p.Name, key, 1)
				if err != nil {
					t.Fatal(err)
				}
				h.taken(called, &d)
			}
		}
	}
	take()
	away.kill(t)
	fall := map[*node]int64{}
	for _, n := range c.others(away) {
		fall[n] = n.logSize()
	}

	// Other buckets fill the logs, an entry a shard and batch.
	var filler []client.Request
	for _, key := range keys {
		for i := range 5 {
			filler = append(filler, client.Request{Policy: p.Name, Key: fmt.Sprintf("%s{%s}%d", strings.Repeat("x", 200), key, i), Cost: 1})
		}
	}
	eventually(t, "both others have truncated every shard's log twice", func() error {
		for range 50 {
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
			log := n.logSince(t, from)
			for shard := range shards {
				taken := regexp.MustCompile(fmt.Sprintf(`(?m)msg="snapshot taken".* group=%d `, shard+1)).FindAllString(log, -1)
				if len(taken) < 2 {
					return fmt.Errorf("%s has taken %d snapshots of shard %d", n.id, len(taken), shard+1)
				}
			}
		}
		return nil
	})
	take()

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
	log := away.logSince(t, back)
	for shard := range shards {
		if !regexp.MustCompile(fmt.Sprintf(`(?mi)installed remote snapshot.* group=%d\b`, shard+1)).MatchString(log) {
			t.Errorf("the node came back to shard %d without a snapshot: this test shows nothing", shard+1)
		}
	}
	for _, key := range keys {
		if s, err := away.peek(p.Name, key, "?consistency=stale"); err != nil || s.Remaining != p.Limits[0].Burst-40 {
			t.Errorf("its own copy of %s has %d left (%v), want %d", key, s.Remaining, err, p.Limits[0].Burst-40)
		}
	}

	c.spread(t) // so it leads two of the shards again
	take()
	for _, key := range keys {
		c.mustHaveSpent(t, h, p, key, 60)
	}
}
