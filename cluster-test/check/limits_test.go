package check

import (
	"fmt"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

// one is a policy of one limit.
func one(revision uint64, rate int64, per time.Duration, burst int64) *numbers {
	return resolve(&api.Policy{Name: "p", Revision: revision, Limits: []api.Limit{{Name: "l", Rate: rate, Per: api.Duration(per), Burst: burst}}})
}

// TestTheOracleCountsByHand: the figures were worked out on paper.
func TestTheOracleCountsByHand(t *testing.T) {
	set := one(1, 3, time.Second, 10)
	b := fresh(set, instant{})
	for i, step := range []struct {
		at   uint64 // ns
		kind string
		cost int64
		want string // verdict, remaining, retry-after, reset-after, refunded
	}{
		{0, take, 8, "allowed 2 0 2667 0"},
		{0, take, 3, "denied 2 334 2667 0"},
		{333_333_333, take, 3, "denied 2 1 2334 0"}, // a nanosecond too early
		{333_333_334, take, 3, "allowed 0 0 3334 0"},
		{333_333_334, peek, 0, "told 0 334 3334 0"},
		{333_333_334, refund, 4, "refunded 4 0 2000 4"},
		{333_333_334, refund, 20, "refunded 10 0 0 6"},
		{333_333_334, take, 11, "refused cost-exceeds-burst"},
		{333_333_334, take, 10, "allowed 0 0 3334 0"},
		{5_000_000_000, take, 10, "allowed 0 0 3334 0"},
		{9_000_000_000, take, 1, "allowed 9 0 334 0"},
	} {
		b.advance(instant{now: step.at})
		out, _ := decide(&logOp{kind: step.kind, set: set, key: "k", cost: step.cost}, b, nil)
		got := fmt.Sprintf("%s %s", out.verdict, out.code)
		if a := out.answer; a != nil {
			got = fmt.Sprintf("%s %d %d %d %d", out.verdict, a.Remaining, a.RetryAfterMS, a.ResetAfterMS, a.Refunded)
		}
		if got != step.want {
			t.Errorf("step %d, %s of %d at %d ns: got %s, want %s", i, step.kind, step.cost, step.at, got, step.want)
		}
	}
}

// TestAnEditForgivesNothing follows a bucket through edits.
func TestAnEditForgivesNothing(t *testing.T) {
	b := fresh(one(1, 1, time.Second, 10), instant{})
	b.charge(9, 0)
	b.advance(instant{now: 500_000_000}) // 1.5 tokens
	for i, step := range []struct {
		to    *numbers
		want  int64 // whole tokens
		units int64 // of them and of the fraction
	}{
		{one(2, 1, time.Second, 5), -4, -3_500_000_000},
		{one(3, 7, 3*time.Second, 20), 11, 34_500_000_000},
		{one(2, 1, time.Second, 5), 11, 34_500_000_000}, // older: changes nothing
		{one(4, 1, time.Second, 10), 1, 1_500_000_000},
		{one(5, 1, time.Millisecond, 9), 0, 500_000},
	} {
		b.adopt(step.to)
		if got := b.set.limits[0].tokens(b.levels[0].units); got != step.want || b.levels[0].units.Int64() != step.units {
			t.Errorf("step %d: %d tokens, %v units; want %d, %d", i, got, b.levels[0].units, step.want, step.units)
		}
	}
}

// TestAFullBucketMayBeGone: then an older revision decides afresh.
func TestAFullBucketMayBeGone(t *testing.T) {
	stored := fresh(one(2, 1, time.Second, 10), instant{})
	stored.charge(1, 0)
	older := one(1, 1, time.Second, 4)
	if got := possible(stored, older, instant{now: 999_999_999}); len(got) != 1 || got[0].set != stored.set {
		t.Errorf("a bucket that is not full may be %d things", len(got))
	}
	if got := possible(stored, older, instant{now: 1_000_000_000}); len(got) != 2 || got[1].set != older {
		t.Errorf("a full bucket may be %d things", len(got))
	}
	if got := possible(stored, one(3, 1, time.Second, 4), instant{now: 1_000_000_000}); len(got) != 1 {
		t.Errorf("to a newer revision a full bucket may be %d things", len(got))
	}
}

// A Go client tells 292 years of all that takes longer, and of nothing else.
func TestTimesThatNoDurationHolds(t *testing.T) {
	for _, c := range []struct{ got, want, told int64 }{
		{longestMS, longestMS + 5, longestMS}, {longestMS, 7, 7}, {7, longestMS + 5, longestMS + 5}, {-1, longestMS + 5, longestMS + 5},
	} {
		if told := tellable(c.got, c.want); told != c.told {
			t.Errorf("got %d where it is %d: wants %d told, not %d", c.got, c.want, told, c.told)
		}
	}
}
