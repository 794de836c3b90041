package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/rlstore/rlstore/bench/load"
)

// inMemory is a folder whose files cost no fsync.
const inMemory = "/dev/shm"

// step is a cluster and the loads that it is measured with.
type step struct {
	what   string
	nodes  int
	shards int  // 0 is the default
	memory bool // files in memory
	loads  []load.Config
}

// steps change one thing at a time, starting from three nodes with default settings,
// 100,000 keys, and 16 callers with batches of 1,000.
func (r *run) steps() []step {
	with := func(change func(*load.Config, int), values ...int) (out []load.Config) {
		for _, v := range values {
			c := r.load(batchCallers, batch)
			change(&c, v)
			out = append(out, c)
		}
		return out
	}
	keys := func(c *load.Config, n int) { c.Keys = n }
	sizes := func(c *load.Config, n int) { c.Batch = n }
	single := func(c *load.Config, n int) { c.Batch, c.Concurrency = 1, n }
	both := []load.Config{r.load(batchCallers, batch), r.load(callers, 1)}
	out := []step{
		{what: "keys", nodes: 3, loads: with(keys, 1, 1000, r.keys, 10*r.keys)},
		{what: "batch", nodes: 3, loads: with(sizes, 1, 10, 100, 1000, 10_000)},
		{what: "callers", nodes: 3, loads: with(single, 1, 64, 1000, 4000, 16_000)},
	}
	for _, n := range []int{1, 2, 6, 16} {
		out = append(out, step{what: "shards", nodes: 3, shards: n, loads: both})
	}
	for _, n := range []int{1, 3, 5} {
		out = append(out, step{what: "nodes", nodes: n, loads: both})
	}
	return append(out, step{what: "no fsync to wait for", nodes: 3, memory: true, loads: both})
}

// measureGrowth prints a table of all steps.
func (r *run) measureGrowth(ctx context.Context, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', tabwriter.Debug)
	line := func(cells ...string) { fmt.Fprintf(w, "\t %s \t\n", strings.Join(cells, " \t ")) }
	line("what grows", "nodes", "shards", "keys", "callers", "batch", "takes/s", "p50 ms", "p99 ms", "processor µs a take, all nodes")
	line(strings.Split(strings.Repeat("---,", 9)+"---", ",")...)
	disk := r.lab.dir
	for _, s := range r.steps() {
		if s.memory {
			dir, err := os.MkdirTemp(inMemory, "rlstore-compare-")
			if err != nil {
				log.Printf("left out: %v", err)
				continue
			}
			defer os.RemoveAll(dir)
			r.lab.dir = dir
		}
		shards := "default"
		var flags []string
		if s.shards > 0 {
			shards = strconv.Itoa(s.shards)
			flags = []string{"--shards", shards}
		}
		log.Printf("%s: %d nodes, %s shards", s.what, s.nodes, shards)
		urls, err := r.cluster(ctx, s.nodes, flags...)
		if err != nil {
			return err
		}
		for _, c := range s.loads {
			// The warm-up is a run of its own, so that its takes are not in the
			// processor time.
			warmUp := c
			warmUp.Warmup, warmUp.Duration, c.Warmup = 0, c.Warmup, 0
			if _, err := r.runBench(ctx, urls, warmUp); err != nil {
				return err
			}
			before := r.processorTime()
			result, err := r.runBench(ctx, urls, c)
			if err != nil {
				return err
			}
			if result.Errors > 0 {
				return fmt.Errorf("%s: %d takes failed", s.what, result.Errors)
			}
			used := r.processorTime() - before
			line(s.what, strconv.Itoa(s.nodes), shards, amount(float64(c.Keys)), amount(float64(c.Concurrency)), amount(float64(c.Batch)),
				amount(result.TakesPerSecond), amount(result.Latency.P50), amount(result.Latency.P99), amount(1e6*used/float64(result.Takes)))
		}
		r.stop()
		r.lab.dir = disk
	}
	return w.Flush()
}

// processorTime is what the servers have used, in seconds.
func (r *run) processorTime() (seconds float64) {
	const hertz = 100 // of the kernel's counts, on every platform that Go runs on
	for _, p := range r.procs {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
		if err != nil {
			continue
		}
		// The name in brackets may hold spaces; user and system time are the 12th
		// and 13th field behind it.
		_, rest, _ := strings.Cut(string(text), ") ")
		if f := strings.Fields(rest); len(f) > 12 {
			user, _ := strconv.ParseFloat(f[11], 64)
			system, _ := strconv.ParseFloat(f[12], 64)
			seconds += (user + system) / hertz
		}
	}
	return seconds
}
