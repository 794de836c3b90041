// Command compare measures rlstore beside Redis with a token bucket in Lua, etcd
// with compare-and-swap, the bare Raft library, and a bare HTTP handler: all on this
// machine, one after the other, with the same keys, callers and generator. It prints
// one table with ratios, since ratios of one run are what can be compared. Run it by
//
//	make compare
//
// which installs what is missing. With -growth it measures rlstore alone: how cost
// grows with keys, batches, callers, shards and nodes, and what fsync costs. Each peer
// is at its best, and the table says how it is not what rlstore is. Servers listen on free ports of the loopback interface
// and keep their files in a temporary folder; both are gone at the end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rlstore/rlstore/bench/load"
)

func main() {
	log.SetFlags(0)
	var r run
	flag.StringVar(&r.rlstore, "rlstore", "bin/rlstore", "the program to measure")
	flag.IntVar(&r.keys, "keys", 100_000, "how many keys")
	flag.DurationVar(&r.duration, "duration", 5*time.Second, "of each measurement; a fifth of it goes before, as a warm-up")
	flag.BoolVar(&r.growth, "growth", false, "instead, measure how rlstore's cost grows with keys, batches, callers, shards, nodes, and fsync")
	rounds := flag.Int("rounds", 1, "how often all is measured; the table has the medians")
	dir := flag.String("dir", os.TempDir(), "where the servers' files go; the disk matters")
	bare := flag.String("serve-bare", "", "be the bare HTTP handler, at this address")
	flag.Parse()
	var err error
	if *bare != "" {
		err = serveBare(*bare)
	} else {
		err = r.all(*dir, *rounds)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// run is one run of everything.
type run struct {
	rlstore  string
	keys     int
	duration time.Duration
	growth   bool

	lab
	figures figures
	fsync   fsyncs
	steal   float64 // share of the processors that the host took
}

func (r *run) all(dir string, rounds int) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if r.lab.dir, err = os.MkdirTemp(dir, "rlstore-compare-"); err != nil {
		return err
	}
	defer os.RemoveAll(r.lab.dir)
	if r.rlstore, err = filepath.Abs(r.rlstore); err != nil {
		return err
	}
	if r.growth {
		err := r.measureGrowth(ctx, os.Stdout)
		r.stop()
		return err
	}
	r.figures = figures{}
	engine := filepath.Join(r.lab.dir, "engine.test")
	if _, err := output(ctx, "go", "test", "-c", "-o", engine, "./bench"); err != nil {
		return err
	}
	steal := startSteal()
	if r.fsync, err = measureFsync(r.lab.dir); err != nil {
		return err
	}
	for i := range rounds {
		for _, part := range []struct {
			name string
			f    func(context.Context) error
		}{
			{"redis", func(ctx context.Context) error { return r.redis(ctx, "redis", "--appendonly", "no") }},
			{"redis with fsync always", func(ctx context.Context) error {
				return r.redis(ctx, "redis-fsync", "--appendonly", "yes", "--appendfsync", "always")
			}},
			{"etcd", r.etcd},
			{"the bare engine", func(ctx context.Context) error { return r.engine(ctx, engine) }},
			{"the bare handler", r.bare},
			{"rlstore", r.ours},
			{"rlstore with --log-store wal", r.wal},
		} {
			log.Printf("round %d of %d: %s", i+1, rounds, part.name)
			err := part.f(ctx)
			r.stop()
			if err := errors.Join(err, ctx.Err()); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
		}
	}
	r.steal = steal()
	return r.print(ctx, os.Stdout)
}

// load is the load that all have in common.
func (r *run) load(callers, batch int) load.Config {
	return load.Config{
		Policy: defaultPolicy, Keys: r.keys, Distribution: load.Uniform, Concurrency: callers, Batch: batch, Cost: 1,
		Warmup: r.duration / 5, Duration: r.duration, Seed: 1,
	}
}

// drive measures a peer and keeps what it found as name.
func (r *run) drive(ctx context.Context, name string, s load.Store, c load.Config) error {
	result, err := load.Run(ctx, s, c, nil)
	if err != nil {
		return err
	}
	return r.keep(name, result)
}

// keep notes the figures of a result; one with errors is none.
func (r *run) keep(name string, result *load.Result) error {
	if result.Errors > 0 || result.Denied > 0 {
		return fmt.Errorf("%s: %d takes failed and %d were denied", name, result.Errors, result.Denied)
	}
	r.figures.add(name, result.TakesPerSecond)
	r.figures.add(name+" p50", result.Latency.P50)
	r.figures.add(name+" p99", result.Latency.P99)
	r.figures.add(name+" p99.9", result.Latency.P999)
	log.Printf("  %s: %.0f /s, p50 %.3g ms, p99 %.3g ms", name, result.TakesPerSecond, result.Latency.P50, result.Latency.P99)
	return nil
}
