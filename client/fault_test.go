package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// mustTake is a take that has to be allowed.
func mustTake(t *testing.T, c *client.Client, key string) client.Decision {
	t.Helper()
	d, err := c.Take(within(t, 10*time.Second), "api", key, 1)
	if err != nil || !d.Allowed {
		t.Fatalf("%+v, %v", d, err)
	}
	return d
}

func TestGoesStraightToTheLeaderAndFollowsIt(t *testing.T) {
	f := newFake(t, 3, 1)
	c := f.client(t)
	mustTake(t, c, "k")
	f.with(func() {
		if f.batches != 1 || f.direct != 1 || f.asked != 1 {
			t.Errorf("first take: %d batches, %d direct, asked %d times", f.batches, f.direct, f.asked)
		}
	})
	f.lead(1, 0) // it was node 1
	mustTake(t, c, "k")
	mustTake(t, c, "k")
	f.with(func() {
		if f.batches != 4 || f.direct != 4 || f.asked != 1 {
			t.Errorf("after the leader moved: %d batches, %d direct, asked %d times; want one detour", f.batches, f.direct, f.asked)
		}
	})
}

func TestWithoutALeaderNothingIsInDoubt(t *testing.T) {
	f := newFake(t, 3, 1)
	f.lead(1, -1)
	c := f.client(t)
	done := make(chan client.Decision, 1)
	go func() {
		d, _ := c.Take(context.Background(), "api", "k", 1)
		done <- d
	}()
	poll(t, "some attempts", func() bool { return f.count() >= 3 })
	f.with(func() {
		if f.direct != f.batches {
			t.Errorf("%d of %d attempts left it to a node to wait for a leader", f.batches-f.direct, f.batches)
		}
	})
	f.lead(1, 2)
	if d := <-done; !d.Allowed {
		t.Errorf("%+v", d)
	}
}

func TestALeaderOutOfReachIsReachedThroughOthers(t *testing.T) {
	f := newFake(t, 3, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	f.with(func() { f.advertised = map[int]string{1: "http://" + l.Addr().String()} })
	c := f.client(t)
	for range 20 {
		mustTake(t, c, "k")
	}
	f.with(func() {
		if f.charged[bucket{"api", "k"}] != 20 || f.batches == f.direct {
			t.Errorf("charged %d in %d batches, of them %d direct", f.charged[bucket{"api", "k"}], f.batches, f.direct)
		}
	})
}

func TestALostReplyIsNotChargedTwice(t *testing.T) {
	f := newFake(t, 3, 2)
	c := f.client(t)
	for _, ft := range []fault{
		{cut: true},
		{drop: true},
		{problem: api.NewProblem(api.OutcomeUnknown, "lost leadership")},
		{problem: api.NewProblem(api.Internal, "a bug")},
	} {
		before := f.spent("k")
		var hits atomic.Int32
		f.inject(func(int, *api.Batch) *fault {
			if hits.Add(1) <= 2 {
				return &ft
			}
			return nil
		})
		mustTake(t, c, "k")
		if n := f.spent("k") - before; n != 1 || hits.Load() < 3 {
			t.Errorf("%+v: charged %d in %d attempts", ft, n, hits.Load())
		}
	}
}

func TestWhatIsNotAppliedIsTriedAgain(t *testing.T) {
	f := newFake(t, 2, 1)
	c := f.client(t)
	for _, code := range []api.Code{api.Overloaded, api.Draining, api.NoLeader, api.NotLeader, api.TooManyRequests} {
		var hits atomic.Int32
		f.inject(func(int, *api.Batch) *fault {
			if hits.Add(1) <= 3 {
				return &fault{problem: api.NewProblem(code, "not now")}
			}
			return nil
		})
		mustTake(t, c, "k")
		if hits.Load() != 4 {
			t.Errorf("%s: %d attempts, want 4", code, hits.Load())
		}
	}
	// Advice is followed.
	var hits atomic.Int32
	f.inject(func(int, *api.Batch) *fault {
		if hits.Add(1) > 1 {
			return nil
		}
		p := api.NewProblem(api.Overloaded, "not now")
		p.RetryAfter = time.Second
		return &fault{problem: p}
	})
	start := time.Now()
	mustTake(t, c, "k")
	if d := time.Since(start); d < time.Second {
		t.Errorf("tried again after %v, the store asked for 1s", d)
	}
}

// In a bubble: on a busy machine, a real deadline may pass before anything was sent.
func TestEndOfTheContextTellsWhatIsKnown(t *testing.T) {
	busy := api.NewProblem(api.Overloaded, "too much to do")
	busy.RetryAfter = 10 * time.Second
	for _, x := range []struct {
		name  string
		fault fault
		hangs bool
		want  error
		not   error
	}{
		{"refused until the end", fault{problem: busy}, false, client.ErrUnavailable, client.ErrOutcomeUnknown},
		{"no answer", fault{}, true, client.ErrOutcomeUnknown, client.ErrUnavailable},
		{"answers get lost", fault{cut: true}, false, client.ErrOutcomeUnknown, client.ErrUnavailable},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newBubbleFake(2, 1)
				c := f.client(t)
				mustTake(t, c, "k")
				if x.hangs {
					x.fault.wait = make(chan struct{})
				}
				f.inject(func(int, *api.Batch) *fault { return &x.fault })
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				_, err := c.Take(ctx, "api", "k", 1)
				if !errors.Is(err, x.want) || errors.Is(err, x.not) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("deadline: %v", err)
				}
				ctx, cancel = context.WithCancel(t.Context())
				go func() {
					synctest.Wait() // until the batch is on the wire, or between two attempts
					cancel()
				}()
				rs, err := c.TakeBatch(ctx, []client.Request{{Policy: "api", Key: "k"}, {Policy: "nope", Key: ""}})
				if err != nil {
					t.Fatal(err)
				}
				if err = rs[0].Err; !errors.Is(err, x.want) || errors.Is(err, x.not) || !errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("cancelled: %v", err)
				}
				if err = rs[1].Err; !errors.Is(err, client.ErrInvalidRequest) {
					t.Error(err)
				}
				ctx, cancel = context.WithCancel(t.Context())
				cancel()
				if _, err := c.Take(ctx, "api", "k", 1); !errors.Is(err, client.ErrUnavailable) || !errors.Is(err, context.Canceled) {
					t.Errorf("ended before: %v", err)
				}
			})
		})
	}
}

// In a bubble, with the real HTTP client, whose dials are refused.
func TestDeadClusterIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuse := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		}}
		c, err := client.New([]string{"http://n1"}, client.WithHTTPClient(&http.Client{Transport: refuse}))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var op *net.OpError
		_, err = c.Take(t.Context(), "api", "k", 1)
		if !errors.Is(err, client.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, client.ErrOutcomeUnknown) || !errors.As(err, &op) {
			t.Errorf("take: %v", err)
		}
		if _, err = c.PutPolicy(t.Context(), api.Policy{Name: "p"}); !errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrOutcomeUnknown) {
			t.Errorf("put: %v", err)
		}
		if _, err = c.Cluster(t.Context()); !errors.Is(err, client.ErrUnavailable) {
			t.Errorf("cluster: %v", err)
		}
	})
}

func TestClusterThatDiesLaterIsUnavailable(t *testing.T) {
	f := newFake(t, 2, 1)
	c := f.client(t, client.WithTimeout(100*time.Millisecond))
	mustTake(t, c, "k")
	for _, s := range f.nodes {
		s.CloseClientConnections()
		s.Close()
	}
	// Nothing can be sent: dialing fails, so it is known that nothing was. Or the
	// breaker is open already, and nothing is sent.
	for range 3 {
		_, err := c.Take(context.Background(), "api", "k", 1)
		if errors.Is(err, client.ErrUnavailable) && !errors.Is(err, client.ErrOutcomeUnknown) {
			return
		}
		// The first may have met a connection that was about to break.
		if !errors.Is(err, client.ErrOutcomeUnknown) {
			t.Fatal(err)
		}
	}
	t.Error("never known to be unavailable")
}

func TestALeaderThatDiesIsReplaced(t *testing.T) {
	f := newFake(t, 3, 1)
	c := f.client(t)
	mustTake(t, c, "k") // on node 1
	f.nodes[1].CloseClientConnections()
	f.nodes[1].Close()
	f.lead(1, 2)
	mustTake(t, c, "k")
	if n := f.spent("k"); n != 2 {
		t.Errorf("charged %d, want 2", n)
	}
}

// A queued take whose context ends must not be applied later, and must not
// disturb its neighbours.
func TestQueuedTakeIsWithdrawn(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.client(t, client.WithMaxInFlight(1))
	mustTake(t, c, "first")
	gate := make(chan struct{})
	f.inject(func(int, *api.Batch) *fault { return &fault{wait: gate} })
	before := f.count()
	var wg sync.WaitGroup
	wg.Go(func() { mustTake(t, c, "first") })
	poll(t, "a flight", func() bool { return f.count() == before+1 })

	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() {
		_, err := c.Take(ctx, "api", "leaver", 1)
		if !errors.Is(err, client.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
	wg.Go(func() { mustTake(t, c, "stayer") })
	poll(t, "three takes", func() bool { return client.Waiting(c) == 3 })
	cancel()
	poll(t, "one to leave", func() bool { return client.Waiting(c) == 2 })
	close(gate)
	wg.Wait()
	if f.spent("leaver") != 0 || f.spent("stayer") != 1 || f.spent("first") != 2 {
		t.Errorf("charged %d %d %d", f.spent("leaver"), f.spent("stayer"), f.spent("first"))
	}
}

// The same for a batch that was sealed already, but never applied.
func TestTakeIsWithdrawnBetweenAttempts(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.client(t, client.WithMaxInFlight(1))
	mustTake(t, c, "first")
	gate := make(chan struct{})
	f.inject(func(int, *api.Batch) *fault { return &fault{wait: gate} })
	before := f.count()
	var wg sync.WaitGroup
	wg.Go(func() { mustTake(t, c, "first") })
	poll(t, "a flight", func() bool { return f.count() == before+1 })
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan struct{})
	wg.Go(func() {
		defer close(left)
		_, err := c.Take(ctx, "api", "leaver", 1)
		if !errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrOutcomeUnknown) {
			t.Errorf("%v", err)
		}
	})
	wg.Go(func() { mustTake(t, c, "stayer") })
	poll(t, "three takes", func() bool { return client.Waiting(c) == 3 })

	// Both travel in one batch, which is refused until the leaver is gone.
	var refused atomic.Int32
	f.inject(func(_ int, b *api.Batch) *fault {
		select {
		case <-left:
			return nil
		default:
		}
		if b.N == 2 {
			refused.Add(1)
		}
		p := api.NewProblem(api.Overloaded, "not now")
		p.RetryAfter = time.Second
		return &fault{problem: p}
	})
	close(gate)
	poll(t, "the batch of two to be refused", func() bool { return refused.Load() > 0 })
	// While an attempt is on the wire, nobody knows. Between two, there is a
	// second.
	poll(t, "the answer", func() bool { return !client.OnWire(c) })
	cancel()
	wg.Wait()
	if f.spent("leaver") != 0 || f.spent("stayer") != 1 {
		t.Errorf("charged %d %d", f.spent("leaver"), f.spent("stayer"))
	}
}

// One batch that is refused again and again does not hold up its shard.
func TestTroubleOfOneBatchIsItsOwn(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.client(t)
	mustTake(t, c, "k")
	var refused atomic.Int32
	f.inject(func(_ int, b *api.Batch) *fault {
		if op, _, _ := api.DecodeOp(b.Ops); op.Key != "stuck" {
			return nil
		}
		refused.Add(1)
		p := api.NewProblem(api.Overloaded, "not now")
		p.RetryAfter = 30 * time.Second
		return &fault{problem: p}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Take(ctx, "api", "stuck", 1); !errors.Is(err, client.ErrUnavailable) {
			t.Error(err)
		}
	})
	poll(t, "the refusal", func() bool { return refused.Load() == 1 && !client.OnWire(c) })
	for range 10 {
		mustTake(t, c, "k")
	}
	cancel()
	wg.Wait()
}

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

func TestTheClientsOwnTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newBubbleFake(1, 1)
		const timeout = 80 * time.Millisecond
		c := f.client(t, client.WithTimeout(timeout), client.WithMaxInFlight(1))
		other := f.client(t, client.WithTimeout(timeout), client.WithMaxInFlight(1))
		mustTake(t, c, "k")
		mustTake(t, other, "k")
		hang := make(chan struct{})
		f.inject(func(int, *api.Batch) *fault { return &fault{wait: hang} })
		start := time.Now()
		if _, err := other.Take(context.Background(), "api", "k", 1); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, client.ErrOutcomeUnknown) {
			t.Errorf("in flight: %v", err)
		}
		// A context's own deadline goes before, and those behind do not wait for it.
		var wg, behind sync.WaitGroup
		wg.Go(func() { mustTake(t, c, "k") })
		synctest.Wait() // until it flies
		for range 5 {
			behind.Go(func() {
				if _, err := c.Take(context.Background(), "api", "k", 1); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, client.ErrUnavailable) {
					t.Errorf("queued: %v", err)
				}
			})
		}
		behind.Wait()
		if d := time.Since(start); d != 2*timeout {
			t.Errorf("two timeouts of %v took %v", timeout, d)
		}
		close(hang)
		wg.Wait()
	})
}

func TestCloseEndsWhatWaits(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.client(t, client.WithMaxInFlight(1))
	mustTake(t, c, "k")
	hang := make(chan struct{})
	defer close(hang)
	f.inject(func(int, *api.Batch) *fault { return &fault{wait: hang} })
	before := f.count()
	errs := make(chan error, 2)
	take := func() {
		_, err := c.Take(context.Background(), "api", "k", 1)
		errs <- err
	}
	go take()
	poll(t, "the flight", func() bool { return f.count() == before+1 })
	go take()
	poll(t, "the queue", func() bool { return client.Waiting(c) == 2 })
	c.Close()
	c.Close()
	var unknown, unavailable int
	for range 2 {
		err := <-errs
		if !errors.Is(err, client.ErrClosed) {
			t.Error(err)
		}
		if errors.Is(err, client.ErrOutcomeUnknown) {
			unknown++
		}
		if errors.Is(err, client.ErrUnavailable) {
			unavailable++
		}
	}
	if unknown != 1 || unavailable != 1 {
		t.Errorf("%d unknown, %d unavailable", unknown, unavailable)
	}
	if _, err := c.Take(t.Context(), "api", "k", 1); !errors.Is(err, client.ErrClosed) || !errors.Is(err, client.ErrUnavailable) {
		t.Error(err)
	}
	if _, err := c.Policies(t.Context()); !errors.Is(err, client.ErrClosed) {
		t.Error(err)
	}
}

func TestCloseWhileNobodyAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := client.New([]string{"http://" + l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 1)
	go func() {
		_, err := c.Take(context.Background(), "api", "k", 1)
		errs <- err
	}()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c.Close()
	if err := <-errs; !errors.Is(err, client.ErrClosed) || !errors.Is(err, client.ErrUnavailable) {
		t.Error(err)
	}
}

// Many callers against a cluster in which everything goes wrong: each take that
// was answered as allowed is charged once, each that failed as not applied is
// not charged, and nothing else is charged but what is unknown.
func TestChargesAddUpUnderFaults(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	f := newFake(t, 3, 4)
	f.with(func() { f.policy("api", 1<<40) })
	c := f.client(t, client.WithTimeout(2*time.Second))
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(seed, 1))
	dice := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rnd.IntN(n)
	}
	f.inject(func(_ int, b *api.Batch) *fault {
		switch dice(16) {
		case 0:
			return &fault{cut: true}
		case 1:
			return &fault{drop: true}
		case 2:
			return &fault{problem: api.NewProblem(api.OutcomeUnknown, "lost")}
		case 3:
			return &fault{problem: api.NewProblem(api.NoLeader, "lost")}
		case 4:
			return &fault{problem: api.NewProblem(api.Overloaded, "busy")}
		case 5:
			wait := make(chan struct{})
			time.AfterFunc(time.Duration(dice(20))*time.Millisecond, func() { close(wait) })
			return &fault{wait: wait, cut: dice(2) == 0}
		case 6:
			f.lead(uint32(1+dice(4)), dice(3))
		}
		return nil
	})
	const callers, takes = 24, 40
	var wg sync.WaitGroup
	for g := range callers {
		wg.Go(func() {
			key := fmt.Sprintf("caller:%d", g)
			var allowed, unknown int64
			count := func(d client.Decision, err error) {
				switch {
				case err == nil && d.Allowed:
					allowed++
				case errors.Is(err, client.ErrOutcomeUnknown):
					unknown++
				case !errors.Is(err, client.ErrUnavailable):
					t.Errorf("%+v, %v", d, err)
				}
			}
			for i := range takes {
				ctx, cancel := context.Background(), context.CancelFunc(func() {})
				if dice(3) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(dice(15))*time.Millisecond)
				}
				if i%4 == 0 {
					rs, err := c.TakeBatch(ctx, []client.Request{{Policy: "api", Key: key}, {Policy: "api", Key: key}})
					if err != nil {
						count(client.Decision{}, err)
					}
					for _, r := range rs {
						count(r.Decision, r.Err)
					}
				} else {
					count(c.Take(ctx, "api", key, 1))
				}
				cancel()
			}
			if n := f.spent(key); n < allowed || n > allowed+unknown {
				t.Errorf("%s: charged %d; %d were allowed and %d are unknown", key, n, allowed, unknown)
			}
		})
	}
	wg.Wait()
	poll(t, "the last flights to land", func() bool { return client.Waiting(c) == 0 })
}

func TestCredentialsAndTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			writeProblem(w, api.NewProblem(api.Unauthorized, "no"))
			return
		}
		w.Write([]byte(`{"version":"v1","added_later":true}`))
	}))
	defer s.Close()
	trust := s.Client().Transport.(*http.Transport).TLSClientConfig
	for token, want := range map[string]error{"secret": nil, "": client.ErrUnauthorized} {
		c, err := client.New([]string{s.URL}, client.WithTLS(trust), client.WithToken(token))
		if err != nil {
			t.Fatal(err)
		}
		if v, err := c.Version(t.Context()); !errors.Is(err, want) || err == nil && v.Version != "v1" {
			t.Error(v, err)
		}
		if want != nil {
			if _, err := c.Take(t.Context(), "api", "k", 1); !errors.Is(err, want) {
				t.Error(err)
			}
		}
		c.Close()
		if _, err := client.New([]string{s.URL}, client.WithTLS(&tls.Config{}), client.WithHTTPClient(s.Client())); !errors.Is(err, client.ErrInvalidRequest) {
			t.Error(err)
		}
	}
}

func TestNewChecksItsArguments(t *testing.T) {
	for _, endpoints := range [][]string{nil, {""}, {"127.0.0.1:8101"}, {"ftp://x"}, {"http://"}, {"http://x?y"}, {"http://ok", "::"}} {
		if c, err := client.New(endpoints); !errors.Is(err, client.ErrInvalidRequest) || c != nil {
			t.Errorf("%q: %v", endpoints, err)
		}
	}
	for _, o := range []client.Option{client.WithTimeout(0), client.WithMaxInFlight(0)} {
		if _, err := client.New([]string{"http://x"}, o); !errors.Is(err, client.ErrInvalidRequest) {
			t.Error(err)
		}
	}
}
