package client_test

import (
	"context"
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

// A node that looks for a leader says within the caller's time that it found none. So
// a change is known not to have been made, whatever the timeout.
func TestAChangeWithoutALeaderIsKnownNotToBeMade(t *testing.T) {
	for _, timeout := range []time.Duration{200 * time.Millisecond, time.Second, 5 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			attempts := 0
			searching := roundTripper(func(r *http.Request) (*http.Response, error) {
				attempts++
				waits, err := time.ParseDuration(r.Header.Get(api.HeaderTimeout))
				if err != nil || waits > timeout {
					t.Errorf("the node is told %v, %v", waits, err)
				}
				select {
				case <-time.After(waits * 3 / 4):
				case <-r.Context().Done():
					return nil, r.Context().Err()
				}
				w := httptest.NewRecorder()
				writeProblem(w, api.NewProblem(api.NoLeader, "the catalog has no leader"))
				resp := w.Result()
				resp.Request = r
				return resp, nil
			})
			c, err := client.New([]string{"http://n1"}, client.WithHTTPClient(&http.Client{Transport: searching}), client.WithTimeout(timeout))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = c.PutPolicy(t.Context(), api.Policy{Name: "p"})
			if !errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("within %v: %v", timeout, err)
			}
			if timeout == 5*time.Second && attempts < 3 {
				t.Errorf("%d attempts within %v", attempts, timeout)
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

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
