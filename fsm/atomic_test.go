package fsm

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// TestAnAtomicGroupIsItsTakesOrNothing compares each group with the same takes
// one by one, on a copy of the machine.
func TestAnAtomicGroupIsItsTakesOrNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t)
	sets := []*policy.Set{testSet("p", 1, 3, second, 5), testSet("q", 1, 7, second, 9, 1, 2*second, 4)}
	clone := func() *rig {
		c := &rig{t: t, m: NewBuckets(testShard), index: r.index}
		if err := c.m.Restore(bytes.NewReader(takeSnapshot(t, r.m))); err != nil {
			t.Fatal(err)
		}
		return c
	}
	outcomes := map[api.Status]int{}
	now := uint64(0)
	for range 600 {
		now += rnd.Uint64N(2 * second)
		group := api.Batch{Atomic: true}
		for range 1 + rnd.IntN(5) {
			group.Add(api.Op{Kind: api.Take, Policy: rnd.IntN(2), Key: string(rune('a' + rnd.IntN(3))), Cost: 1 + rnd.Int64N(3)})
		}
		single := group
		single.Atomic = false

		oneByOne := clone()
		want, _ := oneByOne.do(now, &single, sets...)
		pass := true
		for i := range want {
			pass = pass && want[i].Status == api.StatusAllowed
		}
		untouched := clone()
		got, _ := r.do(now, &group, sets...)
		outcomes[got[0].Status]++
		for i := range got {
			if got[i].Status != got[0].Status {
				t.Fatalf("one is %d, another %d", got[0].Status, got[i].Status)
			}
		}
		switch got[0].Status {
		case api.StatusAllowed:
			if !pass || !bytes.Equal(takeSnapshot(t, r.m), takeSnapshot(t, oneByOne.m)) {
				t.Fatal("the group passed, and its takes would not, or not so")
			}
		case api.StatusDenied:
			wait := got[0].Limits[got[0].Binding].RetryAfter * 1000
			early, late := clone(), clone()
			if res, _ := early.do(now+wait-1000, &group, sets...); res[0].Status != api.StatusDenied {
				t.Fatal("it passes before its retry-after")
			}
			if res, _ := late.do(now+wait, &group, sets...); res[0].Status != api.StatusAllowed {
				t.Fatal("it does not pass after its retry-after")
			}
			fallthrough
		default:
			if pass {
				t.Fatalf("the group did not pass, and its takes would: %+v", got)
			}
			// Nothing changed but for the time, the index and the sweep's round.
			untouched.do(now, &api.Batch{N: 1, Ops: api.AppendOp(nil, api.Op{Kind: api.Peek, Key: "z"})}, sets[0])
			for _, s := range sets {
				for _, key := range []string{"a", "b", "c"} {
					op := api.Op{Kind: api.Peek, Key: key}
					x, xr := decodeReply(t, r.m.PeekStale(op, s))
					y, yr := decodeReply(t, untouched.m.PeekStale(op, s))
					if resultText(&x[0], xr) != resultText(&y[0], yr) {
						t.Fatalf("the group did not pass, yet changed %s", key)
					}
				}
			}
		}
	}
	for _, s := range []api.Status{api.StatusAllowed, api.StatusDenied, api.StatusError} {
		if outcomes[s] == 0 {
			t.Fatalf("no group had the status %d: %v", s, outcomes)
		}
	}
}

// TestOthersMayLookWhileEntriesAreApplied is for the race detector, and checks
// that a stale peek sees whole entries only: each charges 2.
func TestOthersMayLookWhileEntriesAreApplied(t *testing.T) {
	r := newRig(t)
	set := testSet("p", 1, 1, maxPer, 1_000_000)
	var pair api.Batch
	pair.Add(take("k", 1))
	pair.Add(take("k", 1))
	var done atomic.Bool
	var looking sync.WaitGroup
	for range 2 {
		looking.Add(1)
		go func() {
			defer looking.Done()
			for !done.Load() {
				res, _ := decodeReply(t, r.m.PeekStale(api.Op{Kind: api.Peek, Key: "k"}, set))
				if res[0].Limits[0].Remaining%2 != 0 {
					t.Error("a peek saw half an entry")
					return
				}
				r.m.Stats()
			}
		}()
	}
	for range 2000 {
		r.do(0, &pair, set)
	}
	done.Store(true)
	looking.Wait()
	if res := r.one(0, set, api.Op{Kind: api.Peek, Key: "k"}); res.Limits[0].Remaining != 1_000_000-4000 {
		t.Fatalf("%d left", res.Limits[0].Remaining)
	}
}

func TestAStalePeekRefusesWhatNeedsTheLog(t *testing.T) {
	r := newRig(t)
	set := testSet("p", 1, 1, second, 5)
	for _, op := range []api.Op{take("k", 1), {Kind: api.Refund, Key: "k", Cost: 1}, {Kind: api.Reset, Key: "k"}, {Kind: api.Peek}} {
		if res, _ := decodeReply(t, r.m.PeekStale(op, set)); res[0].Code != api.InvalidRequest {
			t.Errorf("%v of %q: %+v", op.Kind, op.Key, res[0])
		}
	}
}
