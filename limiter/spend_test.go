package limiter

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rlstore/rlstore/api"
)

func leased(s *api.SetInfo) {
	s.Mode, s.LeaseTTL = api.Leased, 5000
	s.Limits[0].Per = int64(time.Hour)
}

func soft(s *api.SetInfo) {
	s.Mode, s.SyncInterval = api.Soft, 1000
	s.Limits[0].Per = int64(time.Hour)
}

// left is what the fake's log knows of a bucket.
func (c *fakeCluster) left(shard uint32, policy, key string) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machines[shard].left[policy+" "+key][0]
}

func TestLeasesAdmitWhatTheBurstSaysAndAreGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		c.policy("l", 10_000, leased)
		k := keyIn(1, 0)
		var mu sync.Mutex
		var wg sync.WaitGroup
		allowed := map[uint8]int64{}
		for _, n := range c.nodes { // each node holds leases of its own
			for range 4 {
				wg.Go(func() {
					for range 60 {
						res, source, err := n.one(t, take("l", k))
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						if res.Status == api.StatusAllowed {
							allowed[source]++
						}
						if source == api.FromLease && res.Commit.Index == 0 {
							t.Errorf("from a lease that is nowhere in the log: %+v", res)
						}
						mu.Unlock()
						time.Sleep(10 * time.Millisecond)
					}
				})
			}
		}
		wg.Wait()
		submits, _ := c.counts()
		if n := allowed[api.FromLease]; n < 500 || n+allowed[api.FromStore] != 720 {
			t.Errorf("allowed by source: %v; 720 are far from the burst", allowed)
		}
		if submits > 200 {
			t.Errorf("%d parts in the log for 720 takes", submits)
		}
		c.giveBack()
		if got := c.left(1, "l", k); got != 10_000-720 {
			t.Errorf("the store has %d left of 10000 when 720 were spent and the rest was given back", got)
		}
		if _, source, err := c.nodes["n1"].one(t, take("l", k)); err != nil || source != api.FromStore {
			t.Errorf("after everything was given back, from %d, %v", source, err)
		}
	})
}

func TestNothingBeyondTheBurstPassesByLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		defer c.giveBack()
		c.policy("l", 100, leased)
		k := keyIn(2, 0)
		var mu sync.Mutex
		var wg sync.WaitGroup
		passed := int64(0)
		for _, n := range c.nodes {
			for range 8 {
				wg.Go(func() {
					for range 50 {
						if res, _, err := n.one(t, take("l", k)); err != nil {
							t.Error(err)
						} else if res.Status == api.StatusAllowed {
							mu.Lock()
							passed++
							mu.Unlock()
						}
						time.Sleep(time.Millisecond)
					}
				})
			}
		}
		wg.Wait()
		if passed > 100 || passed < 30 {
			t.Errorf("%d of 100 passed", passed)
		}
	})
}

func TestSoftBucketsAreChargedWithTheNextSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		c.policy("s", 100, soft)
		k := keyIn(1, 0)
		for id, n := range c.nodes {
			for i := range 30 {
				if res, source, err := n.one(t, take("s", k)); err != nil || res.Status != api.StatusAllowed || source != api.FromSoft {
					t.Fatalf("%s, take %d: %+v from %d, %v", id, i, res, source, err)
				}
			}
		}
		if submits, _ := c.counts(); submits != 0 {
			t.Errorf("%d parts in the log before the first sync", submits)
		}
		time.Sleep(2 * time.Second)
		if got := c.left(1, "s", k); got != 10 {
			t.Errorf("the store has %d left of 100 when 90 were spent", got)
		}
		if _, source, err := c.nodes["n1"].one(t, take("s", k)); err != nil || source != api.FromSoft {
			t.Errorf("from %d, %v", source, err)
		}
		c.giveBack()
		if got := c.left(1, "s", k); got != 9 {
			t.Errorf("at the end the store has %d left of 100 when 91 were spent", got)
		}
	})
}

// What was charged by a sync whose answer was lost is not charged again.
func TestASyncOfUnknownOutcomeIsChargedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		c.policy("s", 100, soft)
		k := keyIn(1, 0)
		n := c.nodes["n1"]
		c.script(1, unknownApplied, unknownLost, unknownApplied)
		for range 30 {
			if _, _, err := n.one(t, take("s", k)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(3 * time.Second)
		c.giveBack()
		if got := c.left(1, "s", k); got != 70 {
			t.Errorf("the store has %d left of 100 when 30 were spent", got)
		}
	})
}

// A node that has failed says nothing more, and no goroutine of it stays: the bubble
// would not end.
func TestAFailedNodeGivesNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		c.policy("s", 100, soft)
		c.policy("l", 100, leased)
		n, k := c.nodes["n1"], keyIn(1, 0)
		for range 30 {
			for _, p := range []string{"s", "l"} {
				if res, _, err := n.one(t, take(p, k)); err != nil || res.Status != api.StatusAllowed {
					t.Fatalf("%s: %+v, %v", p, res, err)
				}
			}
		}
		before := c.applied(1)
		c.nobodyLeads() // so the sync waits
		time.Sleep(3 * time.Second)
		n.Abandon()
		c.setLeader(1, "n1")
		time.Sleep(time.Minute)
		if after := c.applied(1); before == 0 || after != before {
			t.Errorf("%d operations were applied, and %d before it failed", after, before)
		}
	})
}

func TestWhatIsOnlyForTheLogGoesThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		defer c.giveBack()
		c.policy("s", 100, soft)
		n, k := c.nodes["n1"], keyIn(1, 0)
		waits := take("s", k)
		waits.MaxWait = 5
		for name, b := range map[string]*api.Batch{
			"request id": batchOf(take("s", k).id("x")),
			"max wait":   batchOf(waits),
			"atomic":     atomically(batchOf(take("s", k))),
			"session":    session(batchOf(take("s", k)), 1),
			"mixed":      batchOf(take("s", k), take("s", k).as(api.Peek).cost(0)),
		} {
			reply, err := n.Do(bg, b, Options{})
			if err != nil {
				t.Fatal(name, err)
			}
			r, all := results(t, reply)
			if r.Sets[all[0].Set].Source != api.FromStore || all[0].Commit.Index == 0 && r.Commit.Index == 0 {
				t.Errorf("%s: %+v of %+v", name, all[0], r.Sets)
			}
		}
		// Whom a peer asks is asked for the log.
		body := api.AppendBatch(nil, batchOf(take("s", k)))
		reply, err := n.Forwarded(bg, 1, body)
		if err != nil {
			t.Fatal(err)
		}
		if r, _ := results(t, reply); r.Sets[0].Source != api.FromStore || r.Commit.Index == 0 {
			t.Errorf("a forwarded take was spent here: %+v", r)
		}
	})
}

func TestABatchIsSpentAsFarAsItMayAndAnsweredInItsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		defer c.giveBack()
		c.policy("s", 5, soft)
		n := c.nodes["n3"]
		var ops []namedOp
		for i := range 40 {
			k := keyIn(uint32(i%3)+1, i/12)
			ops = append(ops, take([]string{"s", "api"}[i%2], k))
		}
		ops = append(ops, take("s", "bad\n"), take("s", "k").cost(6))
		reply, err := n.Do(bg, batchOf(ops...), Options{})
		if err != nil {
			t.Fatal(err)
		}
		r, all := results(t, reply)
		for i, res := range all[:40] {
			set := r.Sets[res.Set]
			if set.Policy != ops[i].policy || (set.Source == api.FromSoft) != (ops[i].policy == "s") || res.Status != api.StatusAllowed {
				t.Errorf("take %d of %s: %+v of %+v", i, ops[i].policy, res, set)
			}
		}
		if all[40].Code != api.InvalidRequest || all[41].Code != api.CostExceedsBurst {
			t.Errorf("%+v", all[40:])
		}
	})
}

func TestADryLeaseLeavesTakesToTheFailureRule(t *testing.T) {
	for rule, want := range map[uint8]uint8{api.FailOpen: api.FromOpen, api.FailLocal: api.FromLocal} {
		t.Run(fmt.Sprint(rule), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newFake(t)
				defer c.giveBack()
				c.policy("l", 1000, func(s *api.SetInfo) { leased(s); s.Unavailable = rule })
				n, k := c.nodes["n1"], keyIn(1, 0)
				for range 100 {
					if _, _, err := n.one(t, take("l", k)); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Millisecond)
				}
				c.nobodyLeads()
				sources := map[uint8]int{}
				var longest time.Duration
				for range 1000 {
					start := time.Now()
					_, source, err := n.one(t, take("l", k))
					if err != nil {
						t.Fatal(err)
					}
					longest = max(longest, time.Since(start))
					sources[source]++
				}
				if sources[api.FromLease] == 0 || sources[want] < 500 || sources[api.FromLease]+sources[want] != 1000 {
					t.Errorf("by source: %v", sources)
				}
				if longest > 2*rulePatience {
					t.Errorf("a take lasted %v", longest)
				}
			})
		})
	}
}
