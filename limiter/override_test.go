package limiter

import (
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/policy"
)

// exceptions are the sets of some keys.
type exceptions map[string]*policy.Set

func (e exceptions) Override(key string) *policy.Set { return e[key] }

// withOverrides gives the policy small, whose burst is 3, other limits for keys.
func withOverrides(c *fakeCluster, keys exceptions) {
	for _, n := range c.nodes {
		base := *n.sets["small"]
		base.Overrides = keys
		n.sets["small"] = &base
	}
}

func TestAnOverrideDecidesAboutItsKeyOnly(t *testing.T) {
	c := newFake(t)
	vip, poor := keyIn(1, 0), keyIn(1, 1)
	withOverrides(c, exceptions{vip: testSet("small", 8, 1000), poor: testSet("small", 8, 1)})
	b := batchOf(take("small", keyIn(1, 2)), take("small", vip).cost(500), take("small", poor), take("small", poor).cost(2),
		take("small", vip), take("api", vip))
	reply, err := c.nodes["n2"].Do(bg, b, Options{}) // it travels to n1, which resolves it again
	if err != nil {
		t.Fatal(err)
	}
	r, all := results(t, reply)
	for i, want := range []struct {
		burst, left int64
	}{{3, 2}, {1000, 500}, {1, 0}, {}, {1000, 499}, {100, 99}} {
		if want.burst == 0 {
			if all[i].Code != api.CostExceedsBurst {
				t.Errorf("result %d: %+v", i, all[i])
			}
			continue
		}
		if burst := r.Sets[all[i].Set].Limits[0].Burst; burst != want.burst || all[i].Limits[0].Remaining != want.left {
			t.Errorf("result %d: %d of %d left, want %d of %d", i, all[i].Limits[0].Remaining, burst, want.left, want.burst)
		}
	}
}

func TestABatchWithOverridesIsStillOnePart(t *testing.T) {
	c := newFake(t)
	vip := keyIn(1, 0)
	withOverrides(c, exceptions{vip: testSet("small", 8, 1000)})
	n := c.nodes["n1"]
	b := atomically(batchOf(take("small", keyIn(1, 1)), take("small", vip).cost(900), take("small", keyIn(1, 1))))
	pl, err := n.plan(bg, b, true)
	if err != nil || !pl.whole() || len(pl.works[0].sets) != 2 || !pl.works[0].batch.Atomic {
		t.Fatalf("%+v, %v", pl, err)
	}
	reply, err := n.Do(bg, b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, all := results(t, reply)
	if r.Commit.Index != 1 || all[1].OwnCommit || all[1].Limits[0].Remaining != 100 {
		t.Errorf("%+v", all)
	}
	plain, err := n.plan(bg, batchOf(take("small", keyIn(1, 1)), take("small", keyIn(1, 2))), true)
	if err != nil || !plain.whole() || plain.works[0].batch != plain.batch {
		t.Errorf("a batch that meets no override was taken apart: %+v, %v", plain, err)
	}
	_, err = n.Do(bg, atomically(batchOf(take("small", vip).cost(1001))), Options{})
	wantProblem(t, err, api.CostExceedsBurst)
}

func TestAStalePeekKnowsOverrides(t *testing.T) {
	c := newFake(t)
	vip := keyIn(1, 0)
	withOverrides(c, exceptions{vip: testSet("small", 8, 1000)})
	r := &replicas{}
	l := New(Config{Catalog: c.nodes["n1"], Log: c.nodes["n1"], Replicas: r})
	for key, burst := range map[string]int64{vip: 1000, keyIn(1, 1): 3} {
		if _, _, err := l.StalePeek(bg, batchOf(take("small", key).as(api.Peek).cost(0))); err != nil || r.set.MinBurst != burst {
			t.Errorf("%q: a burst of %d, %v", key, r.set.MinBurst, err)
		}
	}
}

// replicas notes what it is asked with.
type replicas struct{ set *policy.Set }

func (r *replicas) StalePeek(_ uint32, _ api.Op, s *policy.Set) ([]byte, time.Duration, error) {
	r.set = s
	return nil, 0, nil
}
