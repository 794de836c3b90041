package client_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

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

// inFlight is a client whose only flight at a time is under way, until gate is closed, and
// has its second take of first.
func inFlight(t *testing.T, wg *sync.WaitGroup) (f *fake, c *client.Client, gate chan struct{}) {
	t.Helper()
	f = newFake(t, 1, 1)
	c = f.client(t, client.WithMaxInFlight(1))
	mustTake(t, c, "first")
	gate = make(chan struct{})
	f.inject(func(int, *api.Batch) *fault { return &fault{wait: gate} })
	before := f.count()
	wg.Go(func() { mustTake(t, c, "first") })
	poll(t, "a flight", func() bool { return f.count() == before+1 })
	return f, c, gate
}

// A queued take whose context ends must not be applied later, and must not
// disturb its neighbours.
func TestQueuedTakeIsWithdrawn(t *testing.T) {
	var wg sync.WaitGroup
	f, c, gate := inFlight(t, &wg)

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
	var wg sync.WaitGroup
	f, c, gate := inFlight(t, &wg)
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

// Nor must it leave when its callers have gone while it waited for a connection,
// whoever's transport carries it.
func TestNothingLeavesThatWasWithdrawnBefore(t *testing.T) {
	for name, opts := range map[string][]client.Option{
		"own transport":    nil,
		"users' transport": {client.WithHTTPClient(&http.Client{Transport: &http.Transport{}})},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, 1, 1)
			c := f.client(t, opts...)
			mustTake(t, c, "k") // over a connection that is idle after it
			before := f.count()
			for range 3 {
				if !client.SendWithdrawn(t.Context(), c) {
					t.Error("the attempt does not know that it was withdrawn")
				}
			}
			mustTake(t, c, "k")
			if n := f.count() - before; n != 1 {
				t.Errorf("%d batches arrived, one was sent", n)
			}
		})
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
