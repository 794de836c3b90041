package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

const (
	policyName = "scale"
	// fillers and takers are how many callers send batches at once.
	fillers, fillBatch = 8, 10_000
	takers, takeBatch  = 8, 5_000
	// probeEvery is the pace of the caller whose stalls are measured.
	probeEvery = 2 * time.Millisecond
)

// key is 20 bytes.
func key(i int) string { return fmt.Sprintf("user:%015d", i) }

// full measures a cluster that holds o.buckets.
func full(ctx context.Context, o options) error {
	c, err := startCluster(ctx, o.bin, filepath.Join(o.dir, "full"), o.shards)
	if err != nil {
		return err
	}
	defer c.end()
	cl, err := client.New(c.urls(), client.WithTimeout(time.Minute))
	if err != nil {
		return err
	}
	defer cl.Close()
	// Nothing refills while this runs, so no bucket is dropped.
	p := api.Policy{Name: policyName, Limits: []api.Limit{{Name: "only", Rate: 1, Per: api.Duration(24 * time.Hour), Burst: 1_000_000}}}
	if _, err := cl.PutPolicy(ctx, p); err != nil {
		return err
	}

	start := time.Now()
	var next atomic.Int64
	err = parallel(fillers, func(int) error {
		for {
			to := int(next.Add(fillBatch))
			from := to - fillBatch
			if from >= o.buckets {
				return nil
			}
			if err := batch(ctx, cl, min(fillBatch, o.buckets-from), func(i int) int { return from + i }); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return err
	}
	took := time.Since(start)
	fmt.Printf("fill      %d buckets in %v, %.0f takes/s\n", o.buckets, took.Round(time.Millisecond), float64(o.buckets)/took.Seconds())
	if err := c.waitBuckets(ctx, o.buckets); err != nil {
		return err
	}
	if err := c.printMemory("filled"); err != nil {
		return err
	}

	if err := load(ctx, o, c, cl); err != nil {
		return err
	}
	if err := c.printMemory("loaded"); err != nil {
		return err
	}
	if err := pause(ctx, 5*time.Second); err != nil {
		return err
	}
	if err := c.printMemory("quiet"); err != nil {
		return err
	}
	return c.restart(ctx, o.buckets)
}

// load takes from random buckets, so that the logs outgrow their budget and
// every shard of every node writes a snapshot, and probes meanwhile.
func load(ctx context.Context, o options, c *cluster, cl *client.Client) error {
	start := time.Now()
	lctx, cancel := context.WithTimeout(ctx, o.load)
	defer cancel()
	var takes atomic.Int64
	var busy, writing []time.Duration // stalls without and with a snapshot under way
	seen := make([]int, len(c.nodes))
	for i, n := range c.nodes {
		var err error
		if seen[i], err = n.snapshots(); err != nil {
			return err
		}
	}
	first := slices.Clone(seen)
	err := parallel(takers+1, func(i int) error {
		if i < takers {
			for lctx.Err() == nil {
				if err := batch(lctx, cl, takeBatch, func(int) int { return rand.IntN(o.buckets) }); err != nil && lctx.Err() == nil {
					return err
				}
				takes.Add(takeBatch)
			}
			return nil
		}
		// Snapshots are told at their end; stalls since the last look belong to it.
		var since []time.Duration
		look := time.Now()
		for lctx.Err() == nil {
			start := time.Now()
			if _, err := cl.Take(lctx, policyName, key(rand.IntN(o.buckets)), 1); err != nil && lctx.Err() == nil {
				return err
			}
			since = append(since, time.Since(start))
			if time.Since(look) > 2*time.Second {
				more := false
				for i, n := range c.nodes {
					s, err := n.snapshots()
					if err != nil {
						return err
					}
					more = more || s > seen[i]
					seen[i] = s
				}
				if slices.Min(seen) >= o.shards {
					cancel()
				}
				if more {
					writing = append(writing, since...)
				} else {
					busy = append(busy, since...)
				}
				since, look = nil, time.Now()
			}
			if pause(lctx, probeEvery) != nil {
				break
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, n := range c.nodes {
		fmt.Printf("load      %s wrote %d snapshots\n", n.id, seen[i]-first[i])
	}
	fmt.Printf("load      %.0f takes/s\n", float64(takes.Load())/time.Since(start).Seconds())
	printStalls("without a snapshot", busy)
	printStalls("with snapshots", writing)
	for _, n := range c.nodes {
		apply, err := n.worstApply(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("load      %s applied every entry within %v\n", n.id, apply)
	}
	return nil
}

func printStalls(what string, d []time.Duration) {
	if len(d) == 0 {
		fmt.Printf("probe     %s: none\n", what)
		return
	}
	slices.Sort(d)
	at := func(q float64) time.Duration { return d[int(q*float64(len(d)-1))].Round(10 * time.Microsecond) }
	fmt.Printf("probe     %s: %d takes, p50 %v, p99 %v, worst %v\n", what, len(d), at(0.5), at(0.99), at(1))
}

// restart stops one node cleanly and times its way back, then kills all.
func (c *cluster) restart(ctx context.Context, buckets int) error {
	n := c.nodes[len(c.nodes)-1]
	if err := n.stop(); err != nil {
		return err
	}
	start := time.Now()
	if err := n.start(); err != nil {
		return err
	}
	if err := n.waitReady(ctx); err != nil {
		return err
	}
	fmt.Printf("restart   %s was ready after %v\n", n.id, time.Since(start).Round(10*time.Millisecond))
	if err := c.waitBuckets(ctx, buckets); err != nil {
		return err
	}
	fmt.Printf("restart   %s held every bucket after %v\n", n.id, time.Since(start).Round(10*time.Millisecond))
	c.end()
	start = time.Now()
	for _, n := range c.nodes {
		if err := n.start(); err != nil {
			return err
		}
	}
	for _, n := range c.nodes {
		if err := n.waitReady(ctx); err != nil {
			return err
		}
	}
	fmt.Printf("restart   all three, killed together, were ready after %v\n", time.Since(start).Round(10*time.Millisecond))
	return c.printMemory("restarted")
}

// batch takes one token from each of n buckets.
func batch(ctx context.Context, cl *client.Client, n int, number func(i int) int) error {
	requests := make([]client.Request, n)
	for i := range requests {
		requests[i] = client.Request{Policy: policyName, Key: key(number(i)), Cost: 1}
	}
	results, err := cl.TakeBatch(ctx, requests)
	if err != nil {
		return err
	}
	for _, r := range results {
		if r.Err != nil {
			return r.Err
		}
		if !r.Allowed {
			return errors.New("a take of a bucket with plenty was denied")
		}
	}
	return nil
}

// waitBuckets waits until every node holds n buckets.
func (c *cluster) waitBuckets(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, node := range c.nodes {
		for {
			got, err := node.metric(ctx, "rlstore_shard_buckets")
			if err == nil && int(got) == n {
				break
			}
			if pause(ctx, 100*time.Millisecond) != nil {
				return fmt.Errorf("node %s holds %.0f buckets, not %d: %w", node.id, got, n, err)
			}
		}
	}
	return nil
}

// parallel runs f n times at once and returns their errors.
func parallel(n int, f func(i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
