package check

import (
	"cmp"
	"maps"
	"slices"
)

// order checks what callers saw of the places in each shard's log, without the
// logs: that real time and cluster time both ascend with them.
func (c *checker) order() {
	byShard := map[uint32][]int{}
	for at := range c.h.Ops {
		if op := &c.h.Ops[at]; op.placed() && !op.Stale && op.malformed() == "" {
			byShard[op.Answer.Commit.Shard] = append(byShard[op.Answer.Commit.Shard], at)
		}
	}
	for _, shard := range slices.Sorted(maps.Keys(byShard)) {
		ops := byShard[shard]
		slices.SortFunc(ops, func(a, b int) int {
			x, y := &c.h.Ops[a], &c.h.Ops[b]
			return cmp.Or(
				cmp.Compare(x.Answer.Commit.Index, y.Answer.Commit.Index),
				cmp.Compare(x.Answer.Commit.Offset, y.Answer.Commit.Offset),
				cmp.Compare(x.Call, y.Call))
		})
		c.distinct(ops)
		c.realTime(ops)
		c.clusterTime(ops)
	}
	c.requestIDs()
}

// distinct finds places that two requests were told as the one that decided
// them. ops are sorted by place, here and below.
func (c *checker) distinct(ops []int) {
	last := -1 // the last that was no duplicate
	for _, at := range ops {
		op := &c.h.Ops[at]
		if op.Answer.Duplicate {
			continue
		}
		if last >= 0 {
			a, b := c.h.Ops[last].Answer.Commit, op.Answer.Commit
			if a.Index == b.Index && a.Offset == b.Offset {
				c.report.add(OnePlaceTwice, "%s and %s were both told shard %d, index %d, offset %d", c.h.Ops[last].describe(last), op.describe(at), a.Shard, a.Index, a.Offset)
			}
		}
		last = at
	}
}

// realTime checks that an operation that returned before another one was called
// stands before it in the log. A duplicate's place was there before it returned,
// but may have been there long before it was called.
func (c *checker) realTime(ops []int) {
	latest := -1 // of those so far, the one that was called last
	for _, at := range ops {
		op := &c.h.Ops[at]
		if latest >= 0 && op.Return < c.h.Ops[latest].Call {
			c.report.add(OrderInverted, "%s returned before %s was called, and stands behind it in shard %d: index %d, offset %d after index %d, offset %d",
				op.describe(at), c.h.Ops[latest].describe(latest), op.Answer.Commit.Shard,
				op.Answer.Commit.Index, op.Answer.Commit.Offset, c.h.Ops[latest].Answer.Commit.Index, c.h.Ops[latest].Answer.Commit.Offset)
		}
		if !op.Answer.Duplicate && (latest < 0 || op.Call > c.h.Ops[latest].Call) {
			latest = at
		}
	}
}

// clusterTime checks that cluster time does not go back along a log, and that
// between two places no more of it passes than on the recorder's clock, from the
// call of the first to the return of the second: "for any two stamps in the log,
// the later minus the earlier is at most the true time that passed between the
// two stampings".
//
// With t the cluster time, that is t[j] - t[i] <= return[j] - call[i] + slack
// for all i before j, so of all i the one with the least t[i] - call[i] counts.
func (c *checker) clusterTime(ops []int) {
	drift := func(ns int64) int64 { return ns + ns/1e6*c.in.DriftPPM }
	var highest uint64
	least := -1
	ahead := func(at int) int64 { return int64(c.h.Ops[at].Answer.Commit.TimeNS) - drift(c.h.Ops[at].Call) }
	for _, at := range ops {
		op := &c.h.Ops[at]
		now := op.Answer.Commit.TimeNS
		if now < highest {
			c.report.add(TimeWentBack, "%s was decided at cluster time %d ns, and one before it in the log at %d ns", op.describe(at), now, highest)
		}
		highest = max(highest, now)
		if least >= 0 {
			if excess := int64(now) - drift(op.Return) - ahead(least) - int64(c.in.Slack); excess > 0 {
				c.report.add(TimeRanAhead, "from %s to %s %d ns of cluster time passed, %d ns more than on the recorder's clock",
					c.h.Ops[least].describe(least), op.describe(at), now-c.h.Ops[least].Answer.Commit.TimeNS, excess+int64(c.in.Slack))
			}
		}
		if !op.Answer.Duplicate && (least < 0 || ahead(at) < ahead(least)) {
			least = at
		}
	}
}

// requestIDs finds ids that were decided twice within the window, as their
// callers saw it: "the same id again returns the first decision".
func (c *checker) requestIDs() {
	type id struct {
		shard uint32
		text  string
	}
	last := map[id]int{}
	decided := make([]int, 0, len(c.h.Ops))
	for at := range c.h.Ops {
		op := &c.h.Ops[at]
		if op.placed() && op.RequestID != "" && !op.Answer.Duplicate {
			decided = append(decided, at)
		}
	}
	if len(decided) > maxIDs { // some may have been forgotten before their time
		return
	}
	slices.SortStableFunc(decided, func(a, b int) int {
		return cmp.Compare(c.h.Ops[a].Answer.Commit.Index, c.h.Ops[b].Answer.Commit.Index)
	})
	for _, at := range decided {
		op := &c.h.Ops[at]
		key := id{op.Answer.Commit.Shard, op.RequestID}
		if before, ok := last[key]; ok && op.Answer.Commit.TimeNS-c.h.Ops[before].Answer.Commit.TimeNS < idWindow {
			c.report.add(DoubleCharge, "%s and %s have one request id and were both decided", c.h.Ops[before].describe(before), op.describe(at))
		}
		last[key] = at
	}
}
