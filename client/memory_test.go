package client_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/client/rltest"
)

const modes = `
name: leased
limits: [{name: burst, rate: 1000000000, per: 1s}, {name: daily, rate: 1000000000, per: 1s}]
mode: leased
---
name: one
limits: [{rate: 1000000000, per: 1s}]
mode: leased
---
name: soft
limits: [{name: burst, rate: 1000000000, per: 1s}, {name: daily, rate: 1000000000, per: 1s}]
mode: soft
---
name: small
limits: [{rate: 100, per: 1s, burst: 100}]
mode: leased
---
name: strict
limits: [{rate: 100, per: 1s}]
`

// plainClient is a client of a store in memory that goes by the machine's clock, as
// one in production does.
func plainClient(tb testing.TB, opts ...client.Option) (*rltest.Store, *client.Client) {
	store := rltest.New(tb, modes, rltest.Running())
	c, err := client.New([]string{"http://store"}, append(opts, client.WithHTTPClient(&http.Client{Transport: store}))...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return store, c
}

// warm takes until takes come from memory.
func warm(tb testing.TB, c *client.Client, policy string) {
	for range 100_000 {
		d, err := c.Take(context.Background(), policy, "k", 1)
		if err != nil {
			tb.Fatal(err)
		}
		if d.Source != "store" {
			return
		}
	}
	tb.Fatal("every take goes to the store")
}

// TestTakesFromMemoryAllocateNothing: neither allowed nor denied.
func TestTakesFromMemoryAllocateNothing(t *testing.T) {
	_, c := plainClient(t)
	for _, policy := range []string{"leased", "soft"} {
		warm(t, c, policy)
		// What renews the lease, or syncs the bucket, allocates a little, and is
		// part of the average of so many takes.
		if n := testing.AllocsPerRun(200_000, func() {
			if d, err := c.Take(context.Background(), policy, "k", 1); err != nil || !d.Allowed {
				t.Fatalf("%+v, %v", d, err)
			}
		}); n != 0 {
			t.Errorf("a take of policy %s allocates %v times", policy, n)
		}
	}
}

func benchTake(b *testing.B, policy string) {
	_, c := plainClient(b)
	warm(b, c, policy)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if d, err := c.Take(context.Background(), policy, "k", 1); err != nil || !d.Allowed {
				b.Fatalf("%+v, %v", d, err)
			}
		}
	})
}

func BenchmarkTakeLeased(b *testing.B)      { benchTake(b, "one") }
func BenchmarkTakeLeasedOfTwo(b *testing.B) { benchTake(b, "leased") }
func BenchmarkTakeSoft(b *testing.B)        { benchTake(b, "soft") }

// BenchmarkRateLimiter is what takes from memory are measured by.
func BenchmarkRateLimiter(b *testing.B) {
	l := rate.NewLimiter(1e9, 1e9)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if !l.AllowN(time.Now(), 1) {
				b.Fatal("denied")
			}
		}
	})
}

// TestManyGoroutinesShareALease: with several clients, and goroutines of each, on
// one bucket, no more passes than there is, and little goes to the store.
func TestManyGoroutinesShareALease(t *testing.T) {
	store := rltest.New(t, modes) // whose time stands still: 100 tokens, and no more
	var allowed, fromStore atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		c := store.Client()
		for range 8 {
			wg.Go(func() {
				for range 200 {
					d, err := c.Take(t.Context(), "small", "k", 1)
					if err != nil {
						t.Error(err)
						return
					}
					if d.Allowed {
						allowed.Add(1)
					}
					if d.Source == "store" {
						fromStore.Add(1)
					}
				}
			})
		}
	}
	wg.Wait()
	// A client that was denied does not hear of what others give back after that.
	if n := allowed.Load(); n > 100 || n < 80 {
		t.Errorf("%d passed, of 100", n)
	}
	if n := fromStore.Load(); n > 3*8*3 {
		t.Errorf("%d of 4800 takes went to the store", n)
	}
}

// TestCloseGivesBack: a lease and what a soft bucket has spent reach the store when
// the client is closed, and nothing is decided after that.
func TestCloseGivesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := rltest.New(t, modes+"\n---\nname: sometimes\nlimits: [{rate: 100, per: 1s}]\nmode: soft\n")
		defer store.Close()
		c, other := store.Client(), store.Client()
		for range 10 {
			for _, policy := range []string{"small", "sometimes"} {
				if d, err := c.Take(t.Context(), policy, "k", 1); err != nil || !d.Allowed {
					t.Fatalf("%+v, %v", d, err)
				}
			}
		}
		c.Close()
		for _, policy := range []string{"small", "sometimes"} {
			s, err := other.Peek(t.Context(), policy, "k")
			if err != nil || s.Remaining != 90 {
				t.Errorf("the store has %d left of policy %s, %v", s.Remaining, policy, err)
			}
			if _, err := c.Take(t.Context(), policy, "k", 1); !errors.Is(err, client.ErrClosed) {
				t.Errorf("a closed client: %v", err)
			}
		}
	})
}

// TestCloseDoesNotWaitForever: for a store that is away, it waits a second.
func TestCloseDoesNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := rltest.New(t, modes, rltest.Running())
		defer store.Close()
		c := store.Client()
		warm(t, c, "small")
		store.SetOutage(rltest.NoLeader)
		began := time.Now()
		c.Close()
		if d := time.Since(began); d > time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// TestAnIdleClientDoesNothing: after the last take leases are given back, and then
// there is no timer and no request.
func TestAnIdleClientDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := rltest.New(t, modes, rltest.Running())
		defer store.Close()
		counting := &counter{next: store}
		c, err := client.New([]string{"http://store"}, client.WithHTTPClient(&http.Client{Transport: counting}))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		warm(t, c, "small")
		warm(t, c, "soft")
		time.Sleep(time.Minute)
		before := counting.n.Load()
		time.Sleep(time.Hour)
		if n := counting.n.Load(); n != before {
			t.Errorf("%d requests in an idle hour", n-before)
		}
		if n := client.Remembered(c); n != 0 {
			t.Errorf("%d keys are remembered", n)
		}
	})
}

// counter counts requests.
type counter struct {
	next http.RoundTripper
	n    atomic.Int64
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	c.n.Add(1)
	return c.next.RoundTrip(r)
}

// TestEntriesGrowWithTimeNotWithTakes: a busy key costs the log a few entries for
// each horizon of a lease, whatever the number of takes.
func TestEntriesGrowWithTimeNotWithTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := rltest.New(t, modes, rltest.Running())
		defer store.Close()
		counting := &counter{next: store}
		c, err := client.New([]string{"http://store"}, client.WithHTTPClient(&http.Client{Transport: counting}))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		warm(t, c, "one")
		time.Sleep(10 * time.Millisecond)
		before := counting.n.Load()
		const takes = 100_000
		for range takes {
			if d, err := c.Take(t.Context(), "one", "k", 1); err != nil || !d.Allowed {
				t.Fatalf("%+v, %v", d, err)
			}
			time.Sleep(200 * time.Microsecond) // 20 seconds, hence 16 horizons of 1.25 s
		}
		if n := counting.n.Load() - before; n < 16 || n > 100 {
			t.Errorf("%d requests for %d takes in 20 seconds", n, takes)
		}
	})
}

// TestBatchesSpendFromMemoryToo: as far as it suffices; the rest goes to the store.
func TestBatchesSpendFromMemoryToo(t *testing.T) {
	store := rltest.New(t, modes)
	c := store.Client()
	warm(t, c, "one")
	requests := []client.Request{
		{Policy: "one", Key: "k"}, {Policy: "strict", Key: "k"}, {Policy: "one", Key: "k", Cost: 2},
		{Policy: "none", Key: "k"}, {Policy: "one", Key: "k", RequestID: "r"},
	}
	results, err := c.TakeBatch(t.Context(), requests)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"lease", "store", "lease", "", "store"} {
		if results[i].Source != want || (results[i].Err != nil) != (i == 3) {
			t.Errorf("request %d: source %q, %v", i, results[i].Source, results[i].Err)
		}
	}
	results, err = c.TakeBatch(t.Context(), requests[:3], client.Atomic())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Source != "store" {
			t.Errorf("an atomic batch is the store's: %+v", r)
		}
	}
}

// TestRefundsOfMemory: into the lease that lives, else to the store.
func TestRefundsOfMemory(t *testing.T) {
	store := rltest.New(t, modes)
	c, other := store.Client(), store.Client()
	warm(t, c, "small")
	var last client.Decision
	for {
		d, err := c.Take(t.Context(), "small", "k", 1)
		if err != nil {
			t.Fatal(err)
		}
		if !d.Allowed {
			break
		}
		last = d
	}
	if err := c.Refund(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if d, err := c.Take(t.Context(), "small", "k", 1); err != nil || !d.Allowed {
		t.Errorf("after the refund: %+v, %v", d, err)
	}
	// Of another client, which holds no lease.
	if err := other.Refund(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if s, err := other.Peek(t.Context(), "small", "k"); err != nil || s.Remaining != 1 {
		t.Errorf("the store has %d, %v", s.Remaining, err)
	}
}

// TestPolicyEditsAreSeen: a policy that is strict from now on is so at the latest
// when the lease is over.
func TestPolicyEditsAreSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := rltest.New(t, modes, rltest.Running())
		defer store.Close()
		c := store.Client()
		warm(t, c, "small")
		if _, err := c.PutPolicy(t.Context(), api.Policy{
			Name: "small", Limits: []api.Limit{{Rate: 100, Per: api.Duration(time.Second)}}, Mode: "strict",
		}); err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			d, err := c.Take(t.Context(), "small", "k", 1)
			if err != nil {
				t.Fatal(err)
			}
			if d.Source == "store" && d.Mode == "strict" {
				break
			}
			if time.Since(began) > 5*time.Second {
				t.Fatalf("after a lease's life: %+v", d)
			}
		}
		for range 20 {
			if d, err := c.Take(t.Context(), "small", "k", 1); err != nil || d.Source != "store" {
				t.Fatalf("%+v, %v", d, err)
			}
		}
	})
}

// TestADeletedPolicyIsMissedWhenTheLeaseIsOver: what is leased is charged, and may
// be spent; then there is no such policy.
func TestADeletedPolicyIsMissedWhenTheLeaseIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := rltest.New(t, modes, rltest.Running())
		defer store.Close()
		c := store.Client()
		warm(t, c, "small")
		if err := c.DeletePolicy(t.Context(), "small"); err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			d, err := c.Take(t.Context(), "small", "k", 1)
			switch {
			case errors.Is(err, client.ErrUnknownPolicy):
				return
			case err != nil || d.Source != "lease":
				t.Fatalf("%+v, %v", d, err)
			case time.Since(began) > 5*time.Second:
				t.Fatalf("after a lease's life: %+v", d)
			}
		}
	})
}

// TestLimiterOverALease: Allow, Wait and Reserve spend from it, and wait in the
// store when it is dry.
func TestLimiterOverALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := rltest.New(t, modes+"\n---\nname: few\nlimits: [{rate: 10, per: 1s}]\nmode: soft\n", rltest.Running())
		defer store.Close()
		c := store.Client()
		for _, policy := range []string{"small", "few"} {
			l := c.Limiter(policy, "k")
			n := 0
			for l.Allow() {
				n++
			}
			if n < 10 || n > 101 {
				t.Errorf("policy %s: %d pass at once", policy, n)
			}
			began := time.Now()
			for range 30 {
				if err := l.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if d := time.Since(began); d < 250*time.Millisecond || d > 4*time.Second {
				t.Errorf("policy %s: 30 waits took %v", policy, d)
			}
			time.Sleep(2 * time.Second)
			r := l.Reserve()
			if !r.OK() || r.Delay() != 0 {
				t.Errorf("policy %s: %v after %v", policy, r.OK(), r.Delay())
			}
			r.Cancel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			if err := l.WaitN(ctx, 1000); err == nil {
				t.Errorf("policy %s: a thousand tokens at once", policy)
			}
			cancel()
		}
	})
}
