package fsm

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// oneLimit is a set of one limit: rate tokens a minute, of any algorithm.
func oneLimit(revision uint64, algorithm uint8, rate, per int64) *policy.Set {
	return policy.NewSet(api.SetInfo{Policy: "p", Revision: revision, Limits: []api.LimitInfo{
		{Name: "l", Algorithm: algorithm, Rate: rate, Per: per, Burst: rate}}})
}

// admission is what passed, and when it acts.
type admission struct {
	at     uint64
	tokens int64
}

// storm takes, some takes waiting, under s for a while, and returns what passed
// in the order in which it acts.
func storm(t *testing.T, r *rig, rng *rand.Rand, s *policy.Set, per uint64) (passed []admission) {
	now := uint64(second)
	for range 3000 {
		now += rng.Uint64N(per / 20)
		op := take("k", 1+rng.Int64N(s.MinBurst/2))
		if rng.IntN(3) == 0 {
			op.MaxWait = rng.Int64N(int64(4 * per / 1_000_000))
		}
		if res := r.one(now, s, op); res.Status == api.StatusAllowed {
			if res.Wait*1000 > uint64(op.MaxWait)*1_000_000 {
				t.Fatalf("a take waits %d µs, and may wait %d ms", res.Wait, op.MaxWait)
			}
			passed = append(passed, admission{now + res.Wait*1000, op.Cost})
		}
	}
	return passed
}

// TestNoWindowAdmitsMoreThanItsRate counts what acts inside each window, takes
// that waited included: the promise of both kinds of windows. Of the sliding one
// also any interval of its length is counted: less than twice the rate.
func TestNoWindowAdmitsMoreThanItsRate(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	const per, rate = 60 * second, 20
	for _, algorithm := range []uint8{api.FixedWindow, api.SlidingWindow} {
		r := newRig(t)
		r.apply(EncodeClock(0, 0)) // so that both kinds are aligned alike
		passed := storm(t, r, rng, oneLimit(1, algorithm, rate, per), per)
		used := map[uint64]int64{}
		for _, a := range passed {
			if used[a.at/per] += a.tokens; used[a.at/per] > rate {
				t.Fatalf("algorithm %d: window %d admits %d, over %d", algorithm, a.at/per, used[a.at/per], rate)
			}
			sum := int64(0)
			for _, b := range passed {
				if b.at >= a.at && b.at < a.at+per {
					sum += b.tokens
				}
			}
			if algorithm == api.SlidingWindow && sum >= 2*rate {
				t.Fatalf("%d tokens act in the minute after %d", sum, a.at)
			}
		}
		if len(used) < 20 {
			t.Fatalf("only %d windows were used", len(used))
		}
	}
}

// TestMixedLimitsHoldTogether: with every algorithm in one policy, a take waits
// for the slowest, and each still admits no more than it may where the take acts.
func TestMixedLimitsHoldTogether(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t)
	r.apply(EncodeClock(0, 0))
	s := policy.NewSet(api.SetInfo{Policy: "p", Limits: []api.LimitInfo{
		{Name: "bucket", Rate: 15, Per: 60 * second, Burst: 30},
		{Name: "fixed", Algorithm: api.FixedWindow, Rate: 40, Per: 120 * second, Burst: 40},
		{Name: "sliding", Algorithm: api.SlidingWindow, Rate: 24, Per: 60 * second, Burst: 24},
	}})
	used := map[string]int64{}
	waited := 0
	for _, a := range storm(t, r, rng, s, 60*second) {
		for name, l := range map[string][2]uint64{"fixed": {120 * second, 40}, "sliding": {60 * second, 24}} {
			window := fmt.Sprint(name, a.at/l[0])
			if used[window] += a.tokens; used[window] > int64(l[1]) {
				t.Fatalf("window %s admits %d", window, used[window])
			}
		}
		waited++
	}
	if waited == 0 {
		t.Fatal("nothing passed")
	}
}

// TestWhatWasConsumedStaysConsumed edits a limit of which 6 of 10 are used into
// every other kind, up and down, and by its period.
func TestWhatWasConsumedStaysConsumed(t *testing.T) {
	kinds := []uint8{api.TokenBucket, api.FixedWindow, api.SlidingWindow}
	for _, from := range kinds {
		for _, to := range kinds {
			for _, rate := range []int64{8, 10, 20, 4} {
				for _, per := range []int64{60 * second, 3600 * second} {
					r := newRig(t)
					r.one(0, oneLimit(1, from, 10, 60*second), take("k", 6))
					s := oneLimit(2, to, rate, per)
					got := r.one(0, s, api.Op{Kind: api.Peek, Key: "k"}).Limits[0]
					if want := max(0, rate-6); got.Remaining != want {
						t.Fatalf("algorithm %d with 6 of 10 used, edited to algorithm %d with %d a %v: %d left, want %d",
							from, to, rate, time.Duration(per), got.Remaining, want)
					}
					if rate == 4 && got.RetryAfter == 0 {
						t.Fatalf("algorithm %d to %d: a debt denies nobody", from, to)
					}
				}
			}
			// A limit that is added starts fresh, and one that is removed and
			// comes back has forgotten.
			r := newRig(t)
			r.one(0, oneLimit(1, from, 10, 60*second), take("k", 6))
			two := policy.NewSet(api.SetInfo{Policy: "p", Revision: 2, Limits: []api.LimitInfo{
				{Name: "l", Algorithm: from, Rate: 10, Per: 60 * second, Burst: 10}, {Name: "new", Algorithm: to, Rate: 7, Per: 60 * second, Burst: 7}}})
			res := r.one(0, two, take("k", 1))
			if res.Limits[0].Remaining != 3 || res.Limits[1].Remaining != 6 {
				t.Fatalf("a limit of algorithm %d was added: %+v", to, res.Limits)
			}
			other := policy.NewSet(api.SetInfo{Policy: "p", Revision: 3, Limits: two.Limits[1:]})
			if res := r.one(0, other, take("k", 1)); res.Limits[0].Remaining != 5 {
				t.Fatalf("a limit of algorithm %d was removed: %+v", from, res.Limits)
			}
			if res := r.one(0, oneLimit(4, from, 10, 60*second), take("k", 1)); res.Limits[0].Remaining != 9 {
				t.Fatalf("a limit of algorithm %d came back: %+v", from, res.Limits)
			}
		}
	}
}

// TestATokenBucketIsChargedBeforeTheWaitForAWindow: what waits for a window has its
// tokens from the bucket beside it at once, and not when it acts.
func TestATokenBucketIsChargedBeforeTheWaitForAWindow(t *testing.T) {
	s := policy.NewSet(api.SetInfo{Policy: "p", Revision: 1, Limits: []api.LimitInfo{
		{Name: "bucket", Rate: 1, Per: second, Burst: 2},
		{Name: "window", Algorithm: api.FixedWindow, Rate: 4, Per: 60 * second, Burst: 4},
	}})
	r := newRig(t)
	r.apply(EncodeClock(0, 0))
	acts := map[uint64]int{}
	for at := uint64(0); at < 20; at += 2 {
		for range 2 {
			op := take("k", 1)
			op.MaxWait = 60_000
			if res := r.one(at*second, s, op); res.Status == api.StatusAllowed {
				when := at + res.Wait/1_000_000
				acts[when]++
				if want := int64(acts[when] % 2); res.Limits[0].Remaining != want { // two takes come at a time
					t.Errorf("at %d s the bucket has %d left, not %d", at, res.Limits[0].Remaining, want)
				}
			}
		}
	}
	if want := map[uint64]int{0: 2, 2: 2, 60: 4}; !maps.Equal(acts, want) {
		t.Errorf("takes act at seconds %v, want %v", acts, want)
	}
}

// TestAtomicGroupsOverEveryAlgorithm: all or none, in shadow and off too.
func TestAtomicGroupsOverEveryAlgorithm(t *testing.T) {
	sets := []*policy.Set{
		testSet("bucket", 1, 5, 60*second, 5),
		policy.NewSet(api.SetInfo{Policy: "fixed", Revision: 1, Limits: []api.LimitInfo{{Name: "a", Algorithm: api.FixedWindow, Rate: 5, Per: 60 * second, Burst: 5}}}),
		policy.NewSet(api.SetInfo{Policy: "sliding", Revision: 1, Limits: []api.LimitInfo{{Name: "a", Algorithm: api.SlidingWindow, Rate: 5, Per: 60 * second, Burst: 5}}}),
		policy.NewSet(api.SetInfo{Policy: "shadow", Revision: 1, Enforcement: api.Shadow, Limits: []api.LimitInfo{{Name: "a", Rate: 1, Per: 60 * second, Burst: 1}}}),
		policy.NewSet(api.SetInfo{Policy: "off", Revision: 1, Enforcement: api.Off, Limits: []api.LimitInfo{{Name: "a", Rate: 1, Per: 60 * second, Burst: 1}}}),
	}
	r := newRig(t)
	group := func(cost, wait int64) []api.Result {
		b := api.Batch{Atomic: true}
		for i := range sets {
			op := api.Op{Kind: api.Take, Policy: i, Key: "k", Cost: cost, MaxWait: wait}
			if i > 2 {
				op.Cost = 1
			}
			b.Add(op)
		}
		res, _ := r.do(0, &b, sets...)
		return res
	}
	left := func() (n []int64) {
		for _, s := range sets {
			n = append(n, r.one(0, s, api.Op{Kind: api.Peek, Key: "k"}).Limits[0].Remaining)
		}
		return n
	}
	for i, res := range group(2, 0) {
		if res.Status != api.StatusAllowed || res.Shadowed || fmt.Sprint(left()) != "[3 3 3 0 1]" {
			t.Fatalf("take %d of the first group: %+v, %v", i, res, left())
		}
	}
	if res := group(2, 0); !res[3].Shadowed || res[4].Shadowed || fmt.Sprint(left()) != "[1 1 1 0 1]" {
		t.Fatalf("the shadow of the second group: %+v, %v", res[3], left())
	}
	for _, res := range group(2, 0) {
		if res.Status != api.StatusDenied || res.Shadowed {
			t.Fatalf("the third group does not fit, and was answered %+v", res)
		}
	}
	if fmt.Sprint(left()) != "[1 1 1 0 1]" {
		t.Fatalf("a denied group left %v", left())
	}
	for i, res := range group(2, 120_000) {
		if res.Status != api.StatusAllowed || (res.Wait > 0) != (i < 4) {
			t.Fatalf("take %d of a group that may wait: %+v", i, res)
		}
	}
}
