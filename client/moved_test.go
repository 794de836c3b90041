package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

func TestSlotMapChange(t *testing.T) {
	f := newFake(t, 2, 2)
	c := f.client(t)
	a, b := f.keyIn(1, 1), f.keyIn(2, 1)
	mustTake(t, c, a)
	mustTake(t, c, b)
	// Everything moves to shard 2 now, and batches of both lanes go there.
	f.with(func() {
		f.slots = api.SlotMap{Version: 2, Ranges: []api.SlotRange{{From: 0, To: api.Slots - 1, Shard: 2}}}
	})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { mustTake(t, c, a) })
		wg.Go(func() { mustTake(t, c, b) })
	}
	wg.Wait()
	if f.spent(a) != 21 || f.spent(b) != 21 {
		t.Errorf("charged %d and %d, want 21 each", f.spent(a), f.spent(b))
	}
	// And all spreads over three shards; a batch straddles two of them.
	f.with(func() {
		f.slots = api.EvenSlotMap(3)
		f.slots.Version = 3
		f.shards[3] = &fakeShard{leader: 0, term: 1, sessions: map[[16]byte]*fakeSession{}}
	})
	reqs := make([]client.Request, 300)
	for i := range reqs {
		reqs[i] = client.Request{Policy: "api", Key: fmt.Sprintf("u:%d", i)}
	}
	rs, err := c.TakeBatch(within(t, 10*time.Second), reqs)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range rs {
		if r.Err != nil || f.spent(r.Key) != 1 || r.Commit.Shard != f.shardOf(r.Key) {
			t.Errorf("result %d: %+v; charged %d", i, r, f.spent(r.Key))
		}
	}
}

func TestItemsOfAnotherShardAreSentAgainAsNewOnes(t *testing.T) {
	f := newFake(t, 1, 1)
	var replies atomic.Int32
	f.handleBatch = func(w http.ResponseWriter, b *api.Batch) bool {
		if replies.Add(1) > 1 {
			return false
		}
		reply := api.BeginReply(nil, b.N, api.Commit{Shard: 1, Index: 1})
		for range b.N {
			reply = api.AppendResult(reply, &api.Result{Status: api.StatusError, Code: api.NotLeader, Detail: "the slot has moved"})
		}
		w.Write(api.FinishReply(reply, 0, nil))
		return true
	}
	c := f.client(t)
	mustTake(t, c, "k")
	if replies.Load() != 2 || f.spent("k") != 1 {
		t.Errorf("%d attempts, charged %d", replies.Load(), f.spent("k"))
	}
}

func TestDoubtfulBatchIsNotRepeatedInAnotherShard(t *testing.T) {
	f := newFake(t, 1, 2)
	c := f.client(t)
	k := f.keyIn(1, 1)
	mustTake(t, c, k)
	f.inject(func(int, *api.Batch) *fault {
		return &fault{cut: true, then: func() {
			f.with(func() {
				f.slots = api.SlotMap{Version: 2, Ranges: []api.SlotRange{{From: 0, To: api.Slots - 1, Shard: 2}}}
				f.fault = nil
			})
		}}
	})
	_, err := c.Take(within(t, 10*time.Second), "api", k, 1)
	if !errors.Is(err, client.ErrOutcomeUnknown) || errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if n := f.spent(k); n != 2 {
		t.Errorf("charged %d, want 2", n)
	}
}

func TestRefusedSessionIsReplaced(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.client(t)
	mustTake(t, c, "k")
	f.with(func() {
		for _, s := range f.shards[1].sessions {
			s.acked = 1000
		}
	})
	mustTake(t, c, "k")
	mustTake(t, c, "k")
	f.with(func() {
		if n := len(f.shards[1].sessions); n != 2 {
			t.Errorf("%d sessions, want a second one", n)
		}
	})
	// In doubt, the refusal of a repetition leaves it unknown.
	var hits atomic.Int32
	f.inject(func(int, *api.Batch) *fault {
		if hits.Add(1) == 1 {
			return &fault{cut: true}
		}
		return &fault{problem: api.NewProblem(api.SessionStale, "the session has acknowledged it")}
	})
	if _, err := c.Take(within(t, 10*time.Second), "api", "k", 1); !errors.Is(err, client.ErrOutcomeUnknown) || errors.Is(err, client.ErrRequestIDReused) {
		t.Error(err)
	}
}

// A refusal of the whole batch that is one caller's fault must not hit others.
func TestOneCallersRefusalIsNotTheOthers(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.client(t, client.WithMaxInFlight(1))
	mustTake(t, c, "k")
	gate := make(chan struct{})
	f.inject(func(_ int, b *api.Batch) *fault {
		for rest, i := b.Ops, 0; i < b.N; i++ {
			var op api.Op
			op, rest, _ = api.DecodeOp(rest)
			if op.Key == "poison" {
				return &fault{wait: gate, problem: api.NewProblem(api.InvalidRequest, "this key is bad")}
			}
		}
		return &fault{wait: gate}
	})
	before := f.count()
	var wg sync.WaitGroup
	wg.Go(func() { mustTake(t, c, "k") })
	poll(t, "a flight", func() bool { return f.count() == before+1 })
	wg.Go(func() {
		if _, err := c.Take(within(t, 10*time.Second), "api", "poison", 1); !errors.Is(err, client.ErrInvalidRequest) {
			t.Error(err)
		}
	})
	for range 10 {
		wg.Go(func() { mustTake(t, c, "good") })
	}
	poll(t, "12 takes", func() bool { return client.Waiting(c) == 12 })
	close(gate)
	wg.Wait()
	if f.spent("good") != 10 {
		t.Errorf("charged %d", f.spent("good"))
	}
}
