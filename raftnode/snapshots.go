package raftnode

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// trailingMin and trailingMax bound how many entries a group keeps behind a
	// snapshot, whatever their bytes: enough for a follower that was away for a
	// moment, few enough to read back in a second.
	trailingMin = 64
	trailingMax = 10_240
)

// snapshotBudget is a group's account of log bytes since its last snapshot.
type snapshotBudget struct {
	taken    uint64 // LogStore.AppendedBytes at the last snapshot
	replaced uint64 // Snapshots.SetAside then: another one is taken for each damaged one
}

// keepSnapshots takes a snapshot of every group whose log has outgrown its
// budget, one group at a time, until ctx ends. The library counts entries; an
// entry may hold one take or ten thousand, so we count bytes.
func (n *Node) keepSnapshots(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, g := range n.groupList() {
			if ctx.Err() != nil {
				return
			}
			appended := g.store.AppendedBytes()
			damaged := g.snaps.SetAside()
			if appended-g.snapshots.taken < n.cfg.SnapshotBytes && damaged == g.snapshots.replaced {
				continue
			}
			start := time.Now()
			if err := g.snapshot(ctx, n.cfg.TrailingBytes); err != nil {
				g.log.Warn("could not take a snapshot; the log keeps growing until one succeeds", "error", err)
				continue
			}
			g.snapshots.taken, g.snapshots.replaced = appended, damaged
			g.log.Info("snapshot taken", "log_bytes", appended, "took", time.Since(start).Round(time.Millisecond))
		}
	}
}

// snapshot writes the group's state and truncates its log to what fits in
// trailing bytes.
func (g *group) snapshot(ctx context.Context, trailing uint64) error {
	err := g.reload(func(rc *raft.ReloadableConfig) {
		rc.TrailingLogs = g.store.TrailingFor(trailing, trailingMin, trailingMax)
	})
	if err != nil {
		return err
	}
	if err := await(ctx, g.raft.Snapshot()); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return err
	}
	return nil
}
