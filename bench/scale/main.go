// Command scale measures what a cluster of real processes costs when it is full
// and when it is idle: memory with millions of live buckets, the stall of takes
// while snapshots of them are written, the time of a restart, and the processor
// time of shards that do nothing.
//
//	make scale
//	go run ./bench/scale -buckets 10000000 -idle 0
//	go run ./bench/scale -buckets 0 -idle-shards 64
//
// It starts three `rlstore serve` on free ports of this machine, with default
// settings and folders of their own, and drives them through the Go client. The
// nodes and the load share the machine, so read the times as an upper bound.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

type options struct {
	bin        string
	dir        string
	buckets    int
	shards     int
	load       time.Duration
	idleShards int
	idle       time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin/rlstore", "the rlstore `program`")
	flag.StringVar(&o.dir, "dir", "", "`folder` for the nodes' data; a temporary one if empty")
	flag.IntVar(&o.buckets, "buckets", 10_000_000, "live buckets to fill in, keys of 20 bytes; 0 leaves that part out")
	flag.IntVar(&o.shards, "shards", 6, "bucket shards of the full cluster")
	flag.DurationVar(&o.load, "load", 90*time.Second, "how long to take from the full buckets, at most: it ends once every shard of every node has written a snapshot")
	flag.IntVar(&o.idleShards, "idle-shards", 64, "bucket shards of the idle cluster")
	flag.DurationVar(&o.idle, "idle", time.Minute, "how long to watch the idle cluster; 0 leaves that part out")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "rlstore-scale-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	}
	if o.buckets > 0 {
		if err := full(ctx, o); err != nil {
			return err
		}
	}
	if o.idle > 0 {
		return idle(ctx, o)
	}
	return nil
}

// idle measures the processor time of a cluster that does nothing.
func idle(ctx context.Context, o options) error {
	c, err := startCluster(ctx, o.bin, filepath.Join(o.dir, "idle"), o.idleShards)
	if err != nil {
		return err
	}
	defer c.end()
	// Leaders move once every two seconds for each node until they are even.
	settle := 10*time.Second + time.Duration(o.idleShards)*time.Second/2
	fmt.Printf("idle      %d shards on three nodes; %v to settle\n", o.idleShards, settle)
	if err := pause(ctx, settle); err != nil {
		return err
	}
	before, err := c.processorTime()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := pause(ctx, o.idle); err != nil {
		return err
	}
	after, err := c.processorTime()
	if err != nil {
		return err
	}
	share := float64(after-before) / float64(time.Since(start))
	fmt.Printf("idle      %.2f %% of one core, all three together, over %v\n", 100*share, o.idle)
	return c.printMemory("idle")
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
