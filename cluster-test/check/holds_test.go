package check

import (
	"fmt"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

// handmade is an oracle of one shard that owns everything.
func handmade() *oracle {
	o := newOracle(1)
	o.own(ownRanges{1, []slotRange{{0, slotCount - 1, 1}}})
	return o
}

// decides has an operation decided after so many entries of one operation would have
// settled what is overdue, and tells what became of it.
func (o *oracle) decides(ns uint64, op logOp) string {
	o.pass(ns)
	o.expire(settledEntry+settledOp, settledEntry+settledOp)
	if op.set == nil {
		op.set = nobody
	}
	ways := o.apply(&op)
	o.settle([]*place{{op: &op}}, ways)
	out := ways[0].outcomes[0]
	a := out.answer
	switch {
	case len(ways) != 1:
		return fmt.Sprintf("%d ways", len(ways))
	case a == nil:
		return fmt.Sprintf("%s %s", out.verdict, out.code)
	case op.acts():
		return fmt.Sprintf("%s %d -%d +%d", out.verdict, a.Committed, a.Given, a.Charged)
	}
	text := out.verdict.String()
	for _, l := range a.Limits {
		text += fmt.Sprintf(" %d/%d/%d", l.Remaining, l.RetryAfterMS, l.ResetAfterMS)
	}
	return text
}

func id(n byte) (id [16]byte) {
	id[0], id[1], id[15] = byte(slotOf("k")>>8), byte(slotOf("k")), n
	return id
}

// TestHoldsByHand: the figures were worked out on paper.
func TestHoldsByHand(t *testing.T) {
	const s = 1_000_000_000
	bucket := one(1, 1, time.Second, 10)
	window := resolve(&api.Policy{Name: "w", Revision: 1, Limits: []api.Limit{{Name: "l", Algorithm: "sliding_window", Rate: 10, Per: api.Duration(10 * time.Second)}}})
	slots := resolve(&api.Policy{Name: "s", Revision: 1, Limits: []api.Limit{{Name: "c", Algorithm: "concurrency", Max: 2}}})
	fewer := resolve(&api.Policy{Name: "s", Revision: 2, Limits: []api.Limit{{Name: "c", Algorithm: "concurrency", Max: 1}}})
	tokens := resolve(&api.Policy{Name: "s", Revision: 3, Limits: []api.Limit{{Name: "c", Rate: 1, Per: api.Duration(time.Second), Burst: 5}}})
	makes := func(kind string, set *numbers, n byte, cost, ttl int64, rule byte) logOp {
		return logOp{kind: kind, set: set, key: "k", hold: id(n), cost: cost, ttl: ttl, rule: rule}
	}
	acts := func(kind string, n byte, cost int64) logOp { return logOp{kind: kind, hold: id(n), cost: cost} }
	takes := func(set *numbers, cost int64) logOp { return logOp{kind: take, set: set, key: "k", cost: cost} }
	o := handmade()
	for i, step := range []struct {
		at   uint64
		op   logOp
		want string
	}{
		{0, makes(reserve, bucket, 1, 6, 60_000, 0), "allowed 4/0/6000"},
		{0, makes(reserve, bucket, 1, 6, 60_000, 0), "known 4/0/6000"},
		{0, makes(reserve, bucket, 1, 5, 60_000, 0), "refused request-id-reused"},
		{0, makes(reserve, bucket, 2, 6, 60_000, 0), "denied 4/2000/6000"},
		{0, acts(commit, 1, 2), "settled 2 -4 +0"},
		{0, acts(commit, 1, 2), "known 2 -4 +0"},
		{0, acts(commit, 1, 3), "refused already-settled"},
		{0, acts(cancel, 1, 0), "refused already-settled"},
		{0, acts(release, 1, 0), "refused not-found"},
		{0, acts(commit, 9, 1), "refused not-found"},
		{0, takes(bucket, 1), "allowed 7/0/3000"},
		// Into debt, down to one burst: 6 are left of which 17 come on top of 1.
		{0, makes(reserve, bucket, 3, 1, 60_000, 0), "allowed 6/0/4000"},
		{0, acts(commit, 3, 100), "settled 17 -0 +16"},
		{0, takes(bucket, 1), "denied 0/11000/20000"},
		// Full again; it expires and is given back, and then full gets nothing back.
		{20 * s, makes(reserve, bucket, 4, 3, 1000, 1), "allowed 7/0/3000"},
		{20*s + 999_999_999, takes(bucket, 7), "allowed 0/0/9001"},
		{21 * s, takes(bucket, 4), "allowed 0/0/10000"},
		{21 * s, acts(cancel, 4, 0), "known 0 -3 +0"},
		{21 * s, makes(reserve, bucket, 5, 0, 1000, 1), "refused invalid-request"},
		{40 * s, makes(reserve, bucket, 5, 4, 60_000, 1), "allowed 6/0/4000"},
		{50 * s, acts(cancel, 5, 0), "settled 4 -0 +0"},
		// By its rule it is committed.
		{50 * s, makes(reserve, bucket, 6, 4, 1, 0), "allowed 6/0/4000"},
		{51 * s, acts(commit, 6, 4), "known 4 -0 +0"},
		{51 * s, acts(cancel, 6, 0), "refused already-settled"},
		{351 * s, acts(commit, 6, 4), "refused not-found"}, // five minutes later
		// A reset takes them along.
		{400 * s, makes(reserve, bucket, 7, 4, 60_000, 0), "allowed 6/0/4000"},
		{400 * s, logOp{kind: reset, set: bucket, key: "k"}, "reset "},
		{400 * s, acts(commit, 7, 4), "refused not-found"},
		// A window: back to where it was charged, while that counts.
		{500 * s, makes(reserve, window, 11, 4, 60_000, 0), "allowed 6/0/20000"},
		{500 * s, makes(reserve, window, 12, 2, 60_000, 0), "allowed 4/0/20000"},
		{500 * s, makes(reserve, window, 13, 2, 60_000, 0), "allowed 2/0/20000"},
		{500 * s, acts(cancel, 11, 0), "settled 0 -4 +0"},
		{510 * s, acts(cancel, 12, 0), "settled 0 -2 +0"},
		{510 * s, logOp{kind: peek, set: window, key: "k"}, "told 8/0/10000"},
		{520 * s, acts(cancel, 13, 0), "settled 2 -0 +0"},
		// Permits.
		{600 * s, makes(acquire, bucket, 20, 1, 1000, 0), "refused invalid-request"},
		{600 * s, makes(reserve, slots, 20, 1, 1000, 0), "refused permit-required"},
		{600 * s, makes(acquire, slots, 21, 1, 3000, 0), "allowed 1/0/3000"},
		{600 * s, makes(acquire, slots, 22, 7, 5000, 0), "allowed 0/0/5000"},
		{600 * s, makes(acquire, slots, 23, 1, 1000, 0), "denied 0/3000/5000"},
		{601 * s, acts(renew, 21, 0), "refused invalid-request"},
		{601 * s, logOp{kind: renew, hold: id(21), ttl: 9000}, "renewed 0 -0 +0"},
		{601 * s, makes(acquire, slots, 23, 1, 1000, 0), "denied 0/4000/9000"},
		{601 * s, makes(acquire, fewer, 23, 1, 1000, 0), "denied 0/9000/9000"},
		{605*s - 1, makes(acquire, slots, 23, 1, 1000, 0), "denied 0/1/5001"},
		{605 * s, logOp{kind: renew, hold: id(22), ttl: 9000}, "refused already-settled"},
		{605 * s, makes(acquire, slots, 24, 1, 1000, 0), "allowed 0/0/5000"},
		{605 * s, acts(release, 22, 0), "known 0 -0 +0"},
		{605 * s, acts(release, 24, 0), "settled 0 -0 +0"},
		{605 * s, acts(release, 24, 0), "known 0 -0 +0"},
		{605 * s, acts(commit, 24, 0), "refused not-found"},
		// What the permits held is consumed of what is no concurrency limit any more.
		{606 * s, takes(tokens, 2), "allowed 2/0/3000"},
	} {
		if got := o.decides(step.at, step.op); got != step.want {
			t.Errorf("step %d, %s %d at %d ns: got %s, want %s", i, step.op.kind, step.op.hold[15], step.at, got, step.want)
		}
	}
}

// TestLateSettlementsByHand: of what is overdue the oldest is settled first, and no more
// than an entry pays for.
func TestLateSettlementsByHand(t *testing.T) {
	o := handmade()
	set := one(1, 1, time.Hour, 100)
	for n := range byte(10) {
		o.decides(0, logOp{kind: reserve, set: set, key: "k", hold: id(n), cost: 10, ttl: int64(n) + 1, rule: 1})
	}
	peeks := logOp{kind: peek, set: set, key: "k"}
	for i, want := range []string{"told 60/0/144000000", "told 100/0/0"} { // 6 of them, and the rest
		if got := o.decides(1e9, peeks); got[:8] != want[:8] {
			t.Errorf("entry %d: got %s, want %s", i, got, want)
		}
	}
}
