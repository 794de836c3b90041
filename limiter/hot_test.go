package limiter

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// auto gives the fake a policy of mode auto, and a log with so many that wait.
func (c *fakeCluster) auto(t *testing.T, waiting *int) {
	p, errs := policy.Parse([]byte("limits: [{rate: 1, per: 1h, burst: 1000000}]\nmode: auto\nlease_ttl: 1s\nhot_keys: [named]"), "auto")
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for _, n := range c.nodes {
		n.sets["auto"] = policy.Resolve(&p)
		n.waiting = func(uint32) int { return *waiting }
	}
}

// takes has a key taken from so often, a millisecond apart, and returns the sources.
func (n *fakeNode) takes(t *testing.T, key string, times int) map[uint8]int {
	t.Helper()
	by := map[uint8]int{}
	for range times {
		res, source, err := n.one(t, take("auto", key))
		if err != nil || res.Status != api.StatusAllowed {
			t.Fatalf("%+v, %v", res, err)
		}
		by[source]++
		time.Sleep(time.Millisecond)
	}
	return by
}

func TestKeysThatMeetACrowdAreLeasedUntilTheyCoolDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		defer c.giveBack()
		waiting := 0
		c.auto(t, &waiting)
		leader, other := c.nodes["n1"], c.nodes["n2"]
		k := keyIn(1, 0)
		if by := leader.takes(t, k, 2*hotTakes); by[api.FromStore] != 2*hotTakes {
			t.Errorf("without a crowd: %v", by)
		}
		waiting = crowd
		leader.takes(t, k, hotTakes+10)
		if by := leader.takes(t, k, 100); by[api.FromLease] < 90 {
			t.Errorf("a hot key on the leader: %v", by)
		}
		// Another node learns it from the leader's answers.
		waiting = 0
		if by := other.takes(t, k, 100); by[api.FromLease] < 90 {
			t.Errorf("a hot key elsewhere: %v", by)
		}
		if by := other.takes(t, keyIn(1, 1), 100); by[api.FromStore] != 100 {
			t.Errorf("a cold key: %v", by)
		}
		// It stays hot while it has takes, and cools down without.
		for range 3 {
			if by := leader.takes(t, k, int(hotFor/time.Millisecond)); by[api.FromLease] < int(hotFor/time.Millisecond)-10 {
				t.Errorf("a key that stays hot: %v", by)
			}
		}
		time.Sleep(2 * hotFor)
		for _, n := range []*fakeNode{leader, other} {
			n.takes(t, k, 1)
			if by := n.takes(t, k, 50); by[api.FromStore] != 50 {
				t.Errorf("a key that has cooled down: %v", by)
			}
		}
		if n := leader.hot.n.Load() + other.hot.n.Load(); n != 0 {
			t.Errorf("%d keys are still hot", n)
		}
	})
}

func TestNamedKeysAreHotFromTheFirstTakeOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFake(t)
		defer c.giveBack()
		waiting := 0
		c.auto(t, &waiting)
		for id, n := range c.nodes {
			if by := n.takes(t, "named", 100); by[api.FromLease] < 90 {
				t.Errorf("%s: %v", id, by)
			}
		}
		// A lease is one also to the leader that only hears of the policy.
		reply, err := c.nodes["n1"].Do(bg, session(batchOf(take("auto", "named")), 1), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if r, _ := results(t, reply); r.Sets[0].Mode != api.Leased || r.Sets[0].Source != api.FromStore {
			t.Errorf("a session is told %+v", r.Sets[0])
		}
	})
}

func TestOnlySoManyKeysAreHot(t *testing.T) {
	var h hot
	for i := range 2 * maxHot {
		h.mark(1, subject{"p", string(rune('a' + i))})
	}
	if n := h.n.Load(); n != maxHot {
		t.Errorf("%d keys", n)
	}
}
