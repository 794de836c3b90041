package raftnode

import (
	"context"
	"math"
	"time"

	"github.com/rlstore/rlstore/fsm"
)

const (
	// expireEvery is how late an override may go, beside the time of a commit.
	expireEvery = time.Second
	// catalogTick is how often, in nanoseconds, the catalog's log gets a stamp while
	// something in it expires: what nodes that restart forget of the time that
	// passed is no more than that, beside the time that they are away.
	catalogTick = 60 * 1_000_000_000
)

// CatalogTime is about the cluster time of the catalog, and not ahead of it.
func (n *Node) CatalogTime() uint64 {
	stamp, index := n.catalog.Last()
	groups := n.groupList()
	if groups == nil {
		return stamp
	}
	return groups[0].time.Estimate(index, stamp)
}

// expireOverrides removes the overrides whose time is over, while this node leads
// the catalog, until ctx ends.
func (n *Node) expireOverrides(ctx context.Context) {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		groups := n.groupList()
		if groups == nil || !groups[0].leading.Load() {
			continue
		}
		next := n.catalog.View().NextExpiry()
		if next == math.MaxUint64 {
			continue
		}
		now := groups[0].time.Now()
		if stamp, _ := n.catalog.Last(); now < next && now < stamp+catalogTick {
			continue
		}
		cctx, cancel := context.WithTimeout(ctx, enqueueTimeout)
		if _, err := n.applyCatalog(cctx, &fsm.CatalogCommand{ExpireOverrides: &fsm.ExpireOverrides{}}); err != nil {
			n.log.Debug("could not remove overrides whose time is over; it will be tried again", "error", err)
		}
		cancel()
	}
}
