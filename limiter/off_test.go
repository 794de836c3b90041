package limiter

import (
	"testing"

	"github.com/rlstore/rlstore/api"
)

// off turns the policy off on every node of the fake.
func (c *fakeCluster) off(name string) {
	for _, n := range c.nodes {
		s := *n.sets[name]
		s.Enforcement = api.Off
		n.sets[name] = &s
	}
}

func TestATakeOfAPolicyThatIsOffNeedsNoLog(t *testing.T) {
	c := newFake(t)
	c.off("small")
	for shard := range uint32(3) {
		c.setLeader(shard+1, "")
	}
	reply, err := c.nodes["n1"].Do(short(t), batchOf(take("small", keyIn(1, 0)), take("small", keyIn(2, 0)).cost(1000)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, all := results(t, reply)
	for i, res := range all {
		if res.Status != api.StatusAllowed || res.Limits[0].Remaining != 3 || res.Commit != (api.Commit{}) || r.Sets[res.Set].Enforcement != api.Off {
			t.Errorf("take %d: %+v of %+v", i, res, r.Sets)
		}
	}
	if submits, forwards := c.counts(); submits != 0 || forwards != 0 {
		t.Errorf("%d parts reached a log, %d operations a peer", submits, forwards)
	}
}

func TestWhatIsOffAndWhatIsNotTravelApart(t *testing.T) {
	c := newFake(t)
	c.off("small")
	k := keyIn(1, 0)
	b := func() *api.Batch {
		return batchOf(take("api", k), take("small", k), take("api", k).cost(2), take("small", k).as(api.Peek).cost(0))
	}
	reply, err := c.nodes["n1"].Do(bg, b(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, all := results(t, reply); all[0].Limits[0].Remaining != 99 || all[1].Commit.Index != 0 || all[2].Limits[0].Remaining != 97 || all[3].Status != api.StatusState || all[3].Commit.Index == 0 {
		t.Errorf("%+v", all)
	}
	// One outcome, or one number: the state machine sees all of them.
	for _, whole := range []*api.Batch{atomically(batchOf(take("api", k), take("small", k))), session(b(), 1)} {
		pl, err := c.nodes["n1"].plan(bg, whole, true)
		if err != nil || len(pl.works) != 1 || pl.works[0].batch.N != whole.N {
			t.Errorf("a batch that must stay whole was taken apart: %+v, %v", pl, err)
		}
	}
	// A session whose takes are all off needs no log either.
	if pl, err := c.nodes["n1"].plan(bg, session(batchOf(take("small", k)), 2), true); err != nil || len(pl.works) != 0 {
		t.Errorf("%+v, %v", pl, err)
	}
}
