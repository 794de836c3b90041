package clustertest

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
)

// hundred is a policy that admits 100 tokens, and one more a year later.
func (c *cluster) hundred(t testing.TB, name string) api.Policy {
	t.Helper()
	return c.nodes[0].put(t, unique(name), 1, year, 100)
}

// mustHaveSpent fails the test unless the takes of key in h were granted
// exactly want tokens and the bucket, as every node tells, is down by as many.
func (c *cluster) mustHaveSpent(t testing.TB, h *history, p api.Policy, key string, want int64) {
	t.Helper()
	h.mustHold(t)
	if got := h.allowed(p.Name, key); got != want {
		t.Errorf("%d tokens of %s %s were granted, want exactly %d", got, p.Name, key, want)
	}
	for _, n := range c.nodes {
		if s := n.mustPeek(t, p.Name, key); s.Remaining != p.Limits[0].Burst-want {
			t.Errorf("%s peeks %d tokens of %s %s left, want %d", n.id, s.Remaining, p.Name, key, p.Limits[0].Burst-want)
		}
	}
}

func TestAThousandTakesOnThreeNodesAdmitExactlyAHundred(t *testing.T) {
	c := shared(t)
	t.Run("plain HTTP", func(t *testing.T) {
		p := c.hundred(t, "thousand-http")
		h := newHistory(p)
		crowd(t, 1000, func(i int) error {
			called := h.now()
			d, err := c.nodes[i%3].takeOnce(api.TakeRequest{Policy: p.Name, Key: "k"})
			if err == nil {
				h.take(called, 1, &d)
			}
			return err
		})()
		c.mustHaveSpent(t, h, p, "k", 100)
	})
	t.Run("Go client", func(t *testing.T) {
		p := c.hundred(t, "thousand-client")
		h, cl := newHistory(p), c.client(t)
		crowd(t, 1000, func(int) error {
			called := h.now()
			d, err := cl.Take(context.Background(), p.Name, "k", 1)
			if err == nil {
				h.taken(called, &d)
			}
			return err
		})()
		c.mustHaveSpent(t, h, p, "k", 100)
	})
}

func TestAThousandTakesAdmitExactlyAHundredWhileTheLeaderIsKilled(t *testing.T) {
	c := shared(t)
	p := c.hundred(t, "thousand-killed")
	h, cl := newHistory(p), c.client(t)
	leader := c.leaderOf(t, "k")

	// 50 callers with 20 takes each: the kill strikes when some have passed.
	var answered atomic.Int64
	some := make(chan struct{})
	wait := crowd(t, 50, func(int) error {
		for range 20 {
			called := h.now()
			d, err := cl.Take(context.Background(), p.Name, "k", 1)
			if err != nil {
				return err
			}
			h.taken(called, &d)
			if answered.Add(1) == 40 {
				close(some)
			}
		}
		return nil
	})
	select {
	case <-some:
	case <-time.After(patience):
		t.Error("not even 40 takes were answered")
	}
	leader.kill(t)
	leader.start(t)
	wait()
	leader.waitReady(t)
	c.mustHaveSpent(t, h, p, "k", 100)
}

func TestARollingRestartUnderLoadFailsNoTake(t *testing.T) {
	c := shared(t)
	p := c.nodes[0].put(t, unique("rolling"), 1, year, 1_000_000)
	h, cl := newHistory(p), c.client(t)
	var keys []string
	for shard := range uint32(shards) {
		keys = append(keys, keyIn(shard+1, "rolling"))
	}
	l := drive(t, cl, h, p.Name, keys, 12)
	for _, n := range c.nodes {
		l.flows(t, 200)
		n.terminate(t)
		l.flows(t, 200)
		n.start(t)
		n.waitReady(t)
	}
	l.flows(t, 200)
	l.finish(t)
	for _, key := range keys {
		c.mustHaveSpent(t, h, p, key, h.allowed(p.Name, key))
	}
}

func TestAllNodesKilledAtOnceForgetAndRefillNothing(t *testing.T) {
	c := shared(t)
	slow := c.nodes[0].put(t, unique("killed-slow"), 1, year, 1_000_000)
	quick := c.nodes[0].put(t, unique("killed-quick"), 10, time.Second, 100)
	h, cl := newHistory(slow, quick), c.client(t)

	request := api.TakeRequest{Policy: slow.Name, Key: "id", Cost: cost(7), RequestID: unique("before")}
	first := c.nodes[0].mustTake(t, request)
	called := h.now()
	drained, err := cl.Take(context.Background(), quick.Name, "k", 100)
	if err != nil {
		t.Fatal(err)
	}
	h.taken(called, &drained)
	l := drive(t, cl, h, slow.Name, []string{"a", "b", "c"}, 12)
	l.flows(t, 200)
	for _, n := range c.nodes {
		n.signal(t, 9)
	}
	for _, n := range c.nodes {
		<-n.proc.Ended()
	}
	killed := h.now()
	outage(2 * time.Second) // 20 tokens' worth, if it counted
	restarted := h.now()
	c.startAll(t)
	l.flows(t, 200)
	l.finish(t)

	for _, key := range []string{"a", "b", "c"} {
		c.mustHaveSpent(t, h, slow, key, h.allowed(slow.Name, key))
	}
	again := c.nodes[1].mustTake(t, request)
	if !again.Duplicate || again.Commit != first.Commit || !again.Allowed {
		t.Errorf("the take that was repeated after the restart says %+v, want the duplicate of %+v", again, first)
	}
	if s := c.nodes[2].mustPeek(t, slow.Name, "id"); s.Remaining != slow.Limits[0].Burst-7 {
		t.Errorf("%d tokens left after one take of 7 that was sent twice", s.Remaining)
	}
	s := c.nodes[2].mustPeek(t, quick.Name, "k")
	up := h.now() - restarted + killed - called
	if passed := time.Duration(s.Commit.TimeNS - drained.Commit.TimeNS); passed > up {
		t.Errorf("%v of cluster time passed while nodes ran for %v: the outage counted", passed, up)
	}
	o := newOracle(10, time.Second, 100)
	o.to(drained.Commit.TimeNS)
	o.take(100)
	if o.to(s.Commit.TimeNS); s.Remaining != o.remaining() {
		t.Errorf("%d tokens left, the oracle says %d", s.Remaining, o.remaining())
	}
}

func TestATakeRepeatedAcrossAChangeOfLeaderChargesOnce(t *testing.T) {
	c := shared(t)
	p := c.hundred(t, "repeated")
	leader := c.leaderOf(t, "k")
	others := c.others(leader)
	request := api.TakeRequest{Policy: p.Name, Key: "k", Cost: cost(30), RequestID: unique("once")}
	first := others[0].mustTake(t, request)
	leader.kill(t)
	var again api.Decision
	eventually(t, "the new leader answers", func() (err error) {
		again, err = others[1].take(request)
		return err
	})
	if first.Duplicate || !again.Duplicate || again.Commit != first.Commit || !again.Allowed || again.Remaining != 70 {
		t.Errorf("first answer %+v\nsecond answer %+v: want the same decision as a duplicate", first, again)
	}
	if s := others[0].mustPeek(t, p.Name, "k"); s.Remaining != 70 {
		t.Errorf("%d of 100 tokens left, want 70", s.Remaining)
	}
	// Another request under the same id is no repetition.
	request.Cost = cost(31)
	if _, err := others[0].take(request); api.AsProblem(err).Code != api.RequestIDReused {
		t.Errorf("another cost under the same request id: %v, want %s", err, api.RequestIDReused)
	}
}

func TestAFrozenLeaderChargesNothingTwice(t *testing.T) {
	c := shared(t)
	p := c.nodes[0].put(t, unique("frozen"), 1, year, 1_000_000)
	h, cl := newHistory(p), c.client(t)
	leader := c.leaderOf(t, "k")
	l := drive(t, cl, h, p.Name, []string{"k"}, 12)
	l.flows(t, 200)
	leader.freeze(t)
	outage(3 * time.Second)
	c.leader(t, shardOf("k"), c.others(leader)...)
	l.flows(t, 200)
	leader.thaw(t)
	leader.waitReady(t)
	l.flows(t, 200)
	l.finish(t)
	c.mustHaveSpent(t, h, p, "k", h.allowed(p.Name, "k"))
}

func cost(n int64) *int64 { return &n }
