package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// fault is one kind of fault.
type fault struct {
	kind, about       string
	shortest, longest time.Duration
	// strike does the fault, waits until it is over, and heals it. Once ctx has
	// ended it heals at once. What it returns is errNotNow, a violation, or the
	// runner's own trouble.
	strike func(ctx context.Context, b *blow) error
}

// kinds is every fault, by family.
var kinds = slices.Concat(processFaults, networkFaults, diskFaults, clusterFaults, clockFaults, callerFaults)

// blow is a fault that strikes: a step of the plan, in a cluster.
type blow struct {
	*world
	step
	rng  *rand.Rand
	note func(format string, args ...any) // says what it does to whom
}

// errNotNow: the cluster is in no state for this fault, such as too few nodes.
var errNotNow = errors.New("not now")

// nemesis carries out a plan's steps.
type nemesis struct {
	world *world
	done  sync.WaitGroup
}

// run strikes at the times of the plan, until the last fault is healed. Faults
// overlap.
func (n *nemesis) run(ctx context.Context) {
	start := time.Now()
	for _, s := range n.world.plan.Steps {
		if !wait(ctx, s.At-time.Since(start)) {
			break
		}
		f := kinds[slices.IndexFunc(kinds, func(f fault) bool { return f.kind == s.Kind })]
		n.done.Go(func() { n.strike(ctx, f, s) })
	}
	if wait(ctx, n.world.plan.Length-time.Since(start)) {
		n.world.say("the faults end")
	}
}

func (n *nemesis) strike(ctx context.Context, f fault, s step) {
	var what string
	b := &blow{world: n.world, step: s, rng: rand.New(rand.NewPCG(s.Draw, 0))}
	b.note = func(format string, args ...any) {
		what = fmt.Sprintf(format, args...)
		n.world.say("%s: %s", f.kind, what)
	}
	err := f.strike(ctx, b)
	switch {
	case errors.Is(err, errNotNow):
		n.world.count(func(r *report) { r.Skipped[f.kind]++ })
		n.world.say("%s: %v", f.kind, err)
		return
	case err != nil:
		n.world.violation("%s: %s: %v", f.kind, what, err)
	}
	n.world.count(func(r *report) { r.Faults[f.kind]++ })
}

// wait returns after d, false if ctx ended before.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// hold takes a node's process into the fault's hands: the leader of some
// shard, or any node. It waits for a while for one that no other fault has.
func (b *blow) hold(ctx context.Context) (*node, func(), error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var leader string
	if b.rng.IntN(2) == 0 {
		leader = b.leader(ctx, uint32(b.rng.IntN(b.plan.Shards+1)))
	}
	for {
		list := b.members()
		b.rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		slices.SortStableFunc(list, func(x, y *node) int { return boolInt(y.id == leader) - boolInt(x.id == leader) })
		for _, n := range list {
			if n.running() && n.tryHold() {
				return n, n.release, nil
			}
		}
		if !wait(ctx, pollEvery) {
			return nil, nil, fmt.Errorf("%w: other faults have all nodes", errNotNow)
		}
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (n *node) tryHold() bool {
	select {
	case n.held <- struct{}{}:
		return true
	default:
		return false
	}
}

func (n *node) release() { <-n.held }

// back starts a node and lets it catch up. It is no failure if it can't: other
// faults may be at work, and whether the cluster comes back is asked in the end.
func (b *blow) back(ctx context.Context, n *node) error {
	if err := n.start(); err != nil {
		return err
	}
	if ctx.Err() == nil {
		_ = n.waitReady(ctx, b.operator, 10*time.Second)
	}
	return nil
}
