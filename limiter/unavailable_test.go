package limiter

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rlstore/rlstore/api"
)

// one has a single operation decided, and returns its result with the set's source.
func (n *fakeNode) one(t *testing.T, op namedOp) (api.Result, uint8, error) {
	t.Helper()
	reply, err := n.Do(bg, batchOf(op), Options{})
	if err != nil {
		return api.Result{}, 0, err
	}
	r, all := results(t, reply)
	if len(all) != 1 {
		t.Fatalf("%d results", len(all))
	}
	if all[0].Status == api.StatusError {
		return all[0], 0, nil
	}
	return all[0], r.Sets[all[0].Set].Source, nil
}

// giveBack ends what goes on beside the callers.
func (c *fakeCluster) giveBack() {
	for _, n := range c.nodes {
		ctx, cancel := context.WithTimeout(bg, time.Second)
		n.GiveBack(ctx)
		cancel()
	}
}

func (c *fakeCluster) nobodyLeads() {
	for s := range uint32(3) {
		c.setLeader(s+1, "")
	}
}

func TestOpenLetsPassWhileThereIsNoStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		defer c.giveBack()
		c.policy("open", 3, func(s *api.SetInfo) { s.Unavailable = api.FailOpen })
		n, k := c.nodes["n1"], keyIn(1, 0)
		if res, source, err := n.one(t, take("open", k)); err != nil || res.Limits[0].Remaining != 2 || source != api.FromStore {
			t.Fatalf("%+v from %d, %v", res, source, err)
		}
		c.nobodyLeads()
		start := time.Now()
		for i := range 9 { // more than the burst
			res, source, err := n.one(t, take("open", k))
			if err != nil || res.Status != api.StatusAllowed || source != api.FromOpen || res.Commit != (api.Commit{}) {
				t.Fatalf("take %d: %+v from %d, %v", i, res, source, err)
			}
			if waited := time.Since(start); waited > rulePatience {
				t.Fatalf("take %d came after %v; only the first may wait, for %v", i, waited, rulePatience)
			}
		}
		c.setLeader(1, "n1")
		for source := api.FromOpen; source != api.FromStore; time.Sleep(50 * time.Millisecond) { // in the bubble
			var err error
			if _, source, err = n.one(t, take("open", k)); err != nil {
				t.Fatal(err)
			}
			if time.Since(start) > time.Minute {
				t.Fatal("it does not come back")
			}
		}
	})
}

func TestLocalGoesOnFromWhatWasKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		defer c.giveBack()
		c.policy("local", 4, func(s *api.SetInfo) {
			s.Unavailable = api.FailLocal
			s.Limits[0].Per = int64(time.Hour) // so that nothing flows in
		})
		n, known, fresh := c.nodes["n1"], keyIn(1, 0), keyIn(1, 1)
		if _, source, err := n.one(t, take("local", known).cost(3)); err != nil || source != api.FromStore {
			t.Fatal(source, err)
		}
		c.nobodyLeads()
		for key, left := range map[string]int{known: 1, fresh: 4} {
			for i := range left + 2 {
				res, source, err := n.one(t, take("local", key))
				want := api.StatusAllowed
				if i >= left {
					want = api.StatusDenied
				}
				if err != nil || res.Status != want || source != api.FromLocal || res.Commit != (api.Commit{}) {
					t.Errorf("take %d of %d: %+v from %d, %v", i, left, res, source, err)
				}
				if res.Status == api.StatusDenied && res.Limits[0].RetryAfter == 0 {
					t.Errorf("a denial without a time: %+v", res)
				}
			}
		}
	})
}

func TestARuleEndsWhenItsTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		defer c.giveBack()
		c.policy("open", 3, func(s *api.SetInfo) { s.Unavailable, s.UnavailableFor = api.FailOpen, 10_000 })
		c.nobodyLeads()
		n, k := c.nodes["n1"], keyIn(1, 0)
		if _, source, err := n.one(t, take("open", k)); err != nil || source != api.FromOpen {
			t.Fatal(source, err)
		}
		time.Sleep(9 * time.Second)
		if _, source, err := n.one(t, take("open", k)); err != nil || source != api.FromOpen {
			t.Fatal(source, err)
		}
		time.Sleep(time.Second)
		start := time.Now()
		_, _, err := n.one(t, take("open", k))
		wantProblem(t, err, api.NoLeader)
		if time.Since(start) > 0 {
			t.Error("it waited for a store that is known to be gone")
		}
	})
}

func TestRulesAreForTakesOfPoliciesThatHaveThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		defer c.giveBack()
		c.policy("open", 3, func(s *api.SetInfo) { s.Unavailable = api.FailOpen })
		c.nobodyLeads()
		n, k := c.nodes["n1"], keyIn(1, 0)
		for name, b := range map[string]*api.Batch{
			"closed":  batchOf(take("small", k)),
			"refund":  batchOf(take("open", k).as(api.Refund)),
			"peek":    batchOf(take("open", k).as(api.Peek).cost(0)),
			"reset":   batchOf(take("open", k).as(api.Reset).cost(0)),
			"atomic":  atomically(batchOf(take("open", k))),
			"session": session(batchOf(take("open", k)), 1),
			"mixed":   batchOf(take("open", k), take("open", k).as(api.Peek).cost(0)),
		} {
			if reply, err := n.Do(bg, b, Options{}); err == nil {
				_, all := results(t, reply)
				t.Errorf("%s: %+v", name, all)
			} else {
				wantProblem(t, err, api.NoLeader)
			}
		}
		// In one batch, each take goes by its own policy.
		reply, err := n.Do(bg, batchOf(take("small", k), take("open", k), take("open", keyIn(2, 0)), take("small", keyIn(2, 0))), Options{})
		if err != nil {
			t.Fatal(err)
		}
		r, all := results(t, reply)
		for i, res := range all {
			if i == 0 || i == 3 {
				if res.Code != api.NoLeader {
					t.Errorf("take %d: %+v", i, res)
				}
			} else if res.Status != api.StatusAllowed || r.Sets[res.Set].Source != api.FromOpen {
				t.Errorf("take %d: %+v of %+v", i, res, r.Sets)
			}
		}
	})
}

// TestAClientThatDecidesIsToldTheRules: it may meet a policy for the first time while
// the store is away. Callers without a session are answered by the rule itself.
func TestAClientThatDecidesIsToldTheRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		defer c.giveBack()
		c.policy("open", 3, func(s *api.SetInfo) { s.Unavailable = api.FailOpen })
		c.policy("soft", 5, func(s *api.SetInfo) { s.Mode, s.SyncInterval = api.Soft, 100 })
		n, k := c.nodes["n1"], keyIn(1, 0)
		all := func() *api.Batch {
			return batchOf(take("small", k), take("open", k), take("soft", k), take("nowhere", k))
		}
		ask := func(b *api.Batch) (told []string) {
			_, err := n.Do(short(t), b, Options{})
			for _, s := range wantProblem(t, err, api.NoLeader).PolicySets() {
				told = append(told, fmt.Sprintf("%s %d %d %d", s.Policy, s.Mode, s.Unavailable, s.Limits[0].Burst))
			}
			return told
		}
		c.nobodyLeads()
		if told := ask(session(all(), 1)); !slices.Equal(told, []string{"small 0 0 3", "open 0 1 3", fmt.Sprintf("soft %d 0 5", api.Soft)}) {
			t.Errorf("%q", told)
		}
		if told := ask(atomically(batchOf(take("open", k)))); told != nil {
			t.Errorf("%q without a session", told)
		}
	})
}

func TestWhateverKeepsTheStoreFromAnsweringIsUnavailability(t *testing.T) {
	for name, f := range map[string]fault{
		"overloaded": refusedOverloaded, "draining": refusedDraining, "unknown": unknownLost, "applied": unknownApplied,
		"stuck before": neverSealed, "stuck after": sealedForever,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newFake(t)
				defer c.giveBack()
				c.policy("open", 3, func(s *api.SetInfo) { s.Unavailable = api.FailOpen })
				var all []fault
				for range 200 { // for as many attempts as it likes
					all = append(all, f)
				}
				c.script(1, all...)
				if _, source, err := c.nodes["n1"].one(t, take("open", keyIn(1, 0))); err != nil || source != api.FromOpen {
					t.Errorf("from %d, %v", source, err)
				}
			})
		})
	}
}

func TestACallerWhoLeavesIsNoFailureOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		defer c.giveBack()
		c.policy("open", 3, func(s *api.SetInfo) { s.Unavailable = api.FailOpen })
		c.script(1, neverSealed)
		ctx, cancel := context.WithCancel(bg)
		time.AfterFunc(time.Millisecond, cancel)
		if reply, err := c.nodes["n1"].Do(ctx, batchOf(take("open", keyIn(1, 0))), Options{}); err == nil {
			t.Errorf("answered with %x", reply)
		}
		if _, source, err := c.nodes["n1"].one(t, take("open", keyIn(1, 1))); err != nil || source != api.FromStore {
			t.Errorf("from %d, %v", source, err)
		}
	})
}

func TestACallerWithoutTimeOpensNoBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		defer c.giveBack()
		c.policy("open", 3, func(s *api.SetInfo) { s.Unavailable, s.UnavailableFor = api.FailOpen, 1000 })
		time.Sleep(time.Minute)
		c.script(1, neverSealed)
		ctx, cancel := context.WithTimeout(bg, 50*time.Millisecond)
		defer cancel()
		n := c.nodes["n1"]
		reply, err := n.Do(ctx, batchOf(take("open", keyIn(1, 0))), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if r, _ := results(t, reply); r.Sets[0].Source != api.FromOpen {
			t.Errorf("%+v", r.Sets)
		}
		if _, source, err := n.one(t, take("open", keyIn(1, 1))); err != nil || source != api.FromStore {
			t.Errorf("the next caller is answered from %d, %v", source, err)
		}
	})
}

// A shard that is gone says nothing of another.
func TestEachShardHasItsOwnBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		defer c.giveBack()
		c.policy("open", 3, func(s *api.SetInfo) { s.Unavailable = api.FailOpen })
		c.setLeader(2, "")
		n := c.nodes["n1"]
		for shard, want := range map[uint32]uint8{1: api.FromStore, 2: api.FromOpen, 3: api.FromStore} {
			if _, source, err := n.one(t, take("open", keyIn(shard, 0))); err != nil || source != want {
				t.Errorf("shard %d: from %d, %v", shard, source, err)
			}
		}
		n.shards.each(func(id uint32, sh *shard) {
			if sh.breaker.Open() != (id == 2) {
				t.Errorf("the breaker of shard %d is open: %v", id, sh.breaker.Open())
			}
		})
	})
}
