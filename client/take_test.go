package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within is a context that bounds a test's call.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestTakeTellsWhatTheStoreDecided(t *testing.T) {
	f := newFake(t, 3, 4)
	c := f.client(t)
	ctx := within(t, 10*time.Second)

	d, err := c.Take(ctx, "api", "user:42", 10)
	if err != nil {
		t.Fatal(err)
	}
	want := client.Decision{Allowed: true, Cost: 10, State: client.State{
		Policy: "api", Key: "user:42", Limit: 1000, Remaining: 990, ResetAfter: 10 * time.Millisecond,
		Mode: "strict", Source: "store", PolicyRevision: 1, Commit: d.Commit,
	}}
	if fmt.Sprintf("%+v", d) != fmt.Sprintf("%+v", want) {
		t.Errorf("got  %+v\nwant %+v", d, want)
	}
	if d.Commit.Index == 0 || d.Commit.Shard != f.shardOf("user:42") {
		t.Errorf("commit %+v", d.Commit)
	}

	if d, err = c.Take(ctx, "api", "user:42", 1000); err != nil || d.Allowed {
		t.Errorf("a take of more than is left: %+v, %v; want a denial without an error", d, err)
	}
	if d.RetryAfter != 20*time.Millisecond || d.Remaining != 990 {
		t.Errorf("denial %+v", d)
	}

	s, err := c.Peek(ctx, "api", "user:42")
	if err != nil || s.Remaining != 990 || len(s.Limits) != 1 || s.Limits[0].Name != "burst" {
		t.Errorf("peek: %+v, %v", s, err)
	}
	if err := c.Reset(ctx, "api", "user:42"); err != nil {
		t.Error(err)
	}
	if s, err = c.Peek(ctx, "api", "user:42"); err != nil || s.Remaining != 1000 {
		t.Errorf("peek after a reset: %+v, %v", s, err)
	}
}

func TestErrorsOfOneRequestKeepToIt(t *testing.T) {
	f := newFake(t, 1, 2)
	c := f.client(t)
	ctx := within(t, 10*time.Second)

	for _, x := range []struct {
		policy, key string
		cost        int64
		want        error
	}{
		{"nope", "user:1", 1, client.ErrUnknownPolicy},
		{"api", "user:1", 1001, client.ErrCostExceedsBurst},
		{"api", "user:1", 0, client.ErrInvalidRequest},
		{"api", "", 1, client.ErrInvalidRequest},
		{"api", "user\n", 1, client.ErrInvalidRequest},
		{"", "user:1", 1, client.ErrInvalidRequest},
	} {
		_, err := c.Take(ctx, x.policy, x.key, x.cost)
		var p *api.Problem
		if !errors.Is(err, x.want) || !errors.As(err, &p) {
			t.Errorf("%+v: %v", x, err)
		}
		if errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrOutcomeUnknown) {
			t.Errorf("%+v: %v is two kinds at once", x, err)
		}
	}

	rs, err := c.TakeBatch(ctx, []client.Request{
		{Policy: "api", Key: "a"}, {Policy: "nope", Key: "b"}, {Policy: "api", Key: ""},
		{Policy: "api", Key: "a", Cost: 5}, {Key: "c", Limits: []api.Limit{{Name: "x", Rate: 3, Per: 1, Burst: 3}}},
		{Policy: "api", Key: "d", Limits: []api.Limit{{Rate: 3, Per: 1}}},
	})
	if err != nil || len(rs) != 6 {
		t.Fatal(rs, err)
	}
	for i, want := range []error{nil, client.ErrUnknownPolicy, client.ErrInvalidRequest, nil, nil, client.ErrInvalidRequest} {
		if !errors.Is(rs[i].Err, want) || want == nil && !rs[i].Allowed {
			t.Errorf("result %d: %+v", i, rs[i])
		}
	}
	if rs[0].Remaining != 999 || rs[3].Remaining != 994 || rs[4].Limit != 3 {
		t.Errorf("results %+v", rs)
	}
}

func TestTakeBatchKeepsOrderHoweverLarge(t *testing.T) {
	f := newFake(t, 3, 5)
	f.policy("big", 1_000_000)
	c := f.client(t)
	reqs := make([]client.Request, 23_456)
	for i := range reqs {
		reqs[i] = client.Request{Policy: "big", Key: fmt.Sprintf("user:%d", i%100)}
	}
	rs, err := c.TakeBatch(within(t, 20*time.Second), reqs)
	if err != nil || len(rs) != len(reqs) {
		t.Fatal(len(rs), err)
	}
	for i, r := range rs {
		if r.Err != nil || r.Key != reqs[i].Key || r.Remaining != 1_000_000-int64(i/100)-1 {
			t.Fatalf("result %d: %+v", i, r)
		}
	}
	if rs, err := c.TakeBatch(within(t, time.Second), nil); len(rs) != 0 || err != nil {
		t.Error(rs, err)
	}
}

func TestAtomicBatchStaysInOneShard(t *testing.T) {
	f := newFake(t, 2, 4)
	c := f.client(t)
	ctx := within(t, 10*time.Second)
	var atomics atomic.Int32
	f.inject(func(_ int, b *api.Batch) *fault {
		if b.Atomic {
			atomics.Add(1)
		}
		return nil
	})
	a, b := f.keyIn(1, 1), f.keyIn(2, 1)
	if _, err := c.TakeBatch(ctx, []client.Request{{Policy: "api", Key: a}, {Policy: "api", Key: b}}, client.Atomic()); !errors.Is(err, client.ErrCrossShard) ||
		!strings.Contains(err.Error(), fmt.Sprintf("key %q lives in shard 1 and key %q in shard 2;", a, b)) {
		t.Error(err)
	}
	if _, err := c.TakeBatch(ctx, []client.Request{{Policy: "api", Key: "{u}a"}, {Policy: "api"}}, client.Atomic()); !errors.Is(err, client.ErrInvalidRequest) {
		t.Error(err)
	}
	if _, err := c.TakeBatch(ctx, make([]client.Request, api.MaxBatch+1), client.Atomic()); !errors.Is(err, client.ErrInvalidRequest) {
		t.Error(err)
	}
	if n := f.count(); n != 0 {
		t.Errorf("%d refused batches reached the store", n)
	}
	rs, err := c.TakeBatch(ctx, []client.Request{{Policy: "api", Key: "{u}a"}, {Policy: "api", Key: "{u}b"}}, client.Atomic())
	if err != nil || !rs[0].Allowed || !rs[1].Allowed || atomics.Load() != 1 {
		t.Error(rs, err, atomics.Load())
	}
}

func TestRefundIsAppliedOnce(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.client(t)
	ctx := within(t, 10*time.Second)
	remaining := func() int64 {
		t.Helper()
		s, err := c.Peek(ctx, "api", "k")
		if err != nil {
			t.Fatal(err)
		}
		return s.Remaining
	}
	d, err := c.Take(ctx, "api", "k", 100)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = c.Take(ctx, "api", "k", 50); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := c.Refund(ctx, d); err != nil {
			t.Fatal(err)
		}
	}
	if n := remaining(); n != 950 {
		t.Errorf("%d remain after refunding one decision three times, want 950", n)
	}
	denied, err := c.Take(ctx, "api", "k", 999)
	if err != nil || denied.Allowed {
		t.Fatal(denied, err)
	}
	before := f.count()
	if err := c.Refund(ctx, denied); err != nil || f.count() != before {
		t.Errorf("refund of a denial: %v, %d requests", err, f.count()-before)
	}
	r, err := c.RefundN(ctx, "api", "k", 70)
	if err != nil || r.Refunded != 50 || r.Remaining != 1000 {
		t.Errorf("%+v, %v", r, err)
	}
	inline, err := c.Take(ctx, "", "k2", 2, client.Inline(api.Limit{Name: "x", Rate: 5, Per: 1, Burst: 5}))
	if err != nil || inline.Remaining != 3 {
		t.Fatal(inline, err)
	}
	if err := c.Refund(ctx, inline); err != nil {
		t.Error(err)
	}
	s, err := c.Peek(ctx, "", "k2", client.Inline(api.Limit{Name: "x", Rate: 5, Per: 1, Burst: 5}))
	if err != nil || s.Remaining != 5 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestRequestIDGivesTheFirstDecisionAgain(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.client(t)
	ctx := within(t, 10*time.Second)
	first, err := c.Take(ctx, "api", "k", 1, client.RequestID("r1"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Take(ctx, "api", "k", 1, client.RequestID("r1"))
	if err != nil || !again.Duplicate || again.Commit != first.Commit || f.spent("k") != 1 {
		t.Errorf("%+v, %v; spent %d", again, err, f.spent("k"))
	}
	if _, err = c.Take(ctx, "api", "k", 2, client.RequestID("r1")); !errors.Is(err, client.ErrRequestIDReused) {
		t.Error(err)
	}
}

func TestConcurrentTakesTravelTogether(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.client(t)
	ctx := within(t, 10*time.Second)
	if _, err := c.Take(ctx, "api", "k", 1); err != nil {
		t.Fatal(err)
	}
	// One batch is on its way until everybody else has queued.
	gate := make(chan struct{})
	arrived := make(chan int, 1000)
	f.inject(func(_ int, b *api.Batch) *fault {
		arrived <- b.N
		return &fault{wait: gate}
	})
	var wg sync.WaitGroup
	take := func() {
		if d, err := c.Take(ctx, "api", "k", 1); err != nil || !d.Allowed {
			t.Error(d, err)
		}
	}
	seen := 0
	wg.Go(take)
	seen += <-arrived
	for range 500 {
		wg.Go(take)
	}
	poll(t, "500 takes to queue", func() bool { return client.Waiting(c) == 500+1 })
	close(gate)
	wg.Wait()
	f.inject(nil)
	close(arrived)
	batches := 0
	for n := range arrived {
		seen += n
		batches++
	}
	if seen != 501 || batches != 1 {
		t.Errorf("%d takes in one batch and %d more, want 501 and 1", seen, batches)
	}
	if n := f.spent("k"); n != 502 {
		t.Errorf("spent %d, want 502", n)
	}
}

// poll waits for a condition.
func poll(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("gave up waiting for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// heads counts the writes of a connection that are the head of a request and not
// its body.
type heads struct {
	net.Conn
	alone, batches *atomic.Int32
}

func (c heads) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("POST /v1/take/batch ")) {
		c.batches.Add(1)
		if bytes.HasSuffix(p, []byte("\r\n\r\n")) {
			c.alone.Add(1)
		}
	}
	return c.Conn.Write(p)
}

// A server that gets the head first wakes twice.
func TestABatchIsOneWrite(t *testing.T) {
	f := newFake(t, 1, 1)
	var alone, batches atomic.Int32
	c := f.client(t)
	client.WrapConns(c, func(conn net.Conn) net.Conn { return heads{conn, &alone, &batches} })
	for range 3 {
		mustTake(t, c, "k")
	}
	if batches.Load() < 3 || alone.Load() != 0 {
		t.Errorf("of %d batches, %d came after their heads", batches.Load(), alone.Load())
	}
}
