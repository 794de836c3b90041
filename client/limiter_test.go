package client_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/client/rltest"
)

// What a Limiter shares with rate.Limiter, where no type of the packages' own
// is in the way.
type limiter interface {
	Allow() bool
	AllowN(t time.Time, n int) bool
	Wait(ctx context.Context) error
	WaitN(ctx context.Context, n int) error
	Burst() int
	Tokens() float64
	TokensAt(t time.Time) float64
}

type reservation interface {
	OK() bool
	Delay() time.Duration
	DelayFrom(t time.Time) time.Duration
	Cancel()
	CancelAt(t time.Time)
}

// And with the types in the way.
type reserver[R reservation, L ~float64] interface {
	Reserve() R
	ReserveN(t time.Time, n int) R
	Limit() L
}

var (
	_ limiter                                 = (*rate.Limiter)(nil)
	_ limiter                                 = (*client.Limiter)(nil)
	_ reserver[*rate.Reservation, rate.Limit] = (*rate.Limiter)(nil)
	_ reserver[*client.Reservation, float64]  = (*client.Limiter)(nil)
)

func TestLimiterTakesFromTheStore(t *testing.T) {
	f := newFake(t, 1, 1)
	f.policy("api", 10)
	c := f.client(t)
	l := c.Limiter("api", "k")

	if !l.Allow() || !l.AllowN(time.Now(), 4) || l.AllowN(time.Now(), 6) || !l.AllowN(time.Now(), 0) {
		t.Error("Allow")
	}
	if l.Tokens() != 5 || l.TokensAt(time.Now().Add(time.Hour)) != 5 || l.Burst() != 10 || l.Limit() != 10 {
		t.Error(l.Tokens(), l.Burst(), l.Limit())
	}

	r := l.ReserveN(time.Now(), 5)
	if !r.OK() || r.Delay() != 0 || r.DelayFrom(time.Now()) != 0 || l.Tokens() != 0 {
		t.Error("a reservation of what is there:", r.OK(), r.Delay(), l.Tokens())
	}
	later := l.ReserveN(time.Now(), 5)
	if d := later.Delay(); !later.OK() || d <= 0 || d > 5*fakeWait {
		t.Error("a reservation of what is not there yet:", later.OK(), later.Delay())
	}
	later.Cancel()
	if none := l.ReserveN(time.Now(), 11); none.OK() || none.Delay() != client.InfDuration {
		t.Error("a reservation of what never will be:", none.OK(), none.Delay())
	} else {
		none.Cancel()
	}
	r.Cancel()
	r.CancelAt(time.Now())
	if l.Tokens() != 5 {
		t.Errorf("%v tokens after cancelling, want 5", l.Tokens())
	}
	l.ReserveN(time.Now(), 0).Cancel()
}

// In a bubble: on a busy machine, an answer may come later than the wait that it orders.
func TestLimiterWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newBubbleFake(1, 1)
		f.policy("api", 10)
		c := f.client(t)
		l := c.Limiter("api", "k")
		ctx := within(t, 10*time.Second)
		if err := l.WaitN(ctx, 10); err != nil {
			t.Fatal(err)
		}
		if err := l.WaitN(ctx, 11); !errors.Is(err, client.ErrCostExceedsBurst) {
			t.Error(err)
		}
		used := func() (n int64) {
			f.with(func() { n = f.used[bucket{"api", "k"}] })
			return n
		}
		// It fails at once, and takes nothing, if the context ends before.
		short, cancel := context.WithTimeout(ctx, fakeWait-time.Millisecond)
		defer cancel()
		if err := l.Wait(short); !errors.Is(err, context.DeadlineExceeded) || used() != 10 {
			t.Error(err, used())
		}
		// It asks once, and waits.
		before, start := f.count(), time.Now()
		if err := l.WaitN(ctx, 3); err != nil || time.Since(start) < 3*fakeWait || f.count() != before+1 || used() != 13 {
			t.Error(err, time.Since(start), f.count()-before, used())
		}
		if err := l.WaitN(ctx, 0); err != nil {
			t.Error(err)
		}
	})
}

// In a bubble, so that the caller certainly sleeps when its context ends: sooner,
// the answer to the take may still be on its way, and the outcome is unknown.
func TestWaitGivesBackWhenTheContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := rltest.New(t, "name: api\nlimits: [{rate: 10, per: 1s}]", rltest.Running())
		l := store.Client().Limiter("api", "k")
		if err := l.WaitN(t.Context(), 10); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.WaitN(ctx, 10) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		// Had it kept them, it would take two seconds.
		start := time.Now()
		if err := l.WaitN(t.Context(), 10); err != nil || time.Since(start) != time.Second {
			t.Error(err, time.Since(start))
		}
	})
}

func TestLimiterIsClosedWithoutTheStore(t *testing.T) {
	f := newFake(t, 1, 1)
	c := f.client(t, client.WithTimeout(50*time.Millisecond))
	f.inject(func(int, *api.Batch) *fault { return &fault{problem: api.NewProblem(api.NoLeader, "none")} })
	l := c.Limiter("api", "k")
	if l.Allow() || l.Reserve().OK() || l.Burst() != 0 || l.Limit() != 0 || l.Tokens() != 0 {
		t.Error("something was allowed while nobody could say so")
	}
	if err := l.Wait(t.Context()); !errors.Is(err, client.ErrUnavailable) && !errors.Is(err, client.ErrOutcomeUnknown) {
		t.Error(err)
	}
}
