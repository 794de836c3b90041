package clustertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
)

// whileTheLeaderIsKilled runs f for n callers, and kills the leader of key when
// half of the work is done, as f tells by calling progress.
func (c *cluster) whileTheLeaderIsKilled(t *testing.T, key string, n, half int, f func(i int, progress func()) error) {
	t.Helper()
	leader := c.leaderOf(t, key)
	var done atomic.Int64
	some := make(chan struct{})
	wait := crowd(t, n, func(i int) error {
		return f(i, func() {
			if done.Add(1) == int64(half) {
				close(some)
			}
		})
	})
	select {
	case <-some:
	case <-time.After(patience):
		t.Error("the callers come to nothing")
	}
	leader.kill(t)
	leader.start(t)
	wait()
	leader.waitReady(t)
}

// TestReservationsAreConservedWhileTheLeaderIsKilled has callers reserve, commit
// more or less, cancel, or leave it: in the end the bucket is down by what was
// committed and by what is outstanding, to the token.
func TestReservationsAreConservedWhileTheLeaderIsKilled(t *testing.T) {
	rng := seeded(t)
	c := shared(t)
	const burst = 1_000_000
	p := c.nodes[0].put(t, unique("reservations"), 1, year, burst)
	cl := c.client(t)
	const callers, rounds = 20, 20
	var committed, outstanding atomic.Int64
	seeds := make([]uint64, callers)
	for i := range seeds {
		seeds[i] = rng.Uint64()
	}
	c.whileTheLeaderIsKilled(t, "k", callers, callers*rounds/2, func(i int, progress func()) error {
		r := rand.New(rand.NewPCG(seeds[i], 0))
		ctx := context.Background()
		for range rounds {
			h, err := cl.Reserve(ctx, p.Name, "k", 10+r.Int64N(50), client.TTL(24*time.Hour))
			if err != nil || !h.Allowed {
				return fmt.Errorf("reserve: %+v, %w", h, err)
			}
			progress()
			var s client.Settlement
			var cost int64
			switch r.IntN(4) {
			case 0:
				outstanding.Add(h.Cost)
				continue
			case 1:
				s, err = h.Cancel(ctx)
			default:
				cost = r.Int64N(100)
				s, err = h.Commit(ctx, cost)
			}
			if err != nil {
				return fmt.Errorf("settle %s: %w", h.ID, err)
			}
			if s.Committed != cost || s.Committed != h.Cost-s.Refunded+s.Charged {
				return fmt.Errorf("a reservation of %d settled by %d: %+v", h.Cost, cost, s)
			}
			committed.Add(s.Committed)
			if r.IntN(3) == 0 { // nothing changes it, by whatever process
				other, err := cl.Reservation(h.ID)
				if err != nil {
					return err
				}
				if _, err := other.Commit(ctx, cost+1); !errors.Is(err, client.ErrAlreadySettled) {
					return fmt.Errorf("a second commit: %w", err)
				}
			}
		}
		return nil
	})
	want := burst - committed.Load() - outstanding.Load()
	for _, n := range c.nodes {
		if s := n.mustPeek(t, p.Name, "k"); s.Remaining != want {
			t.Errorf("%s has %d tokens left; %d were committed and %d are outstanding, so it should be %d",
				n.id, s.Remaining, committed.Load(), outstanding.Load(), want)
		}
	}
}

// TestNeverMorePermitsThanSlotsWhileTheLeaderIsKilled counts the permits that are
// surely alive: those that were given and whose release was not asked for yet.
func TestNeverMorePermitsThanSlotsWhileTheLeaderIsKilled(t *testing.T) {
	c := shared(t)
	const slots = 5
	name := unique("permits")
	limits := []api.Limit{{Name: "jobs", Algorithm: "concurrency", Max: slots}}
	if err := insist(func() error {
		return c.nodes[0].call("PUT", "/v1/policies/"+name, api.Policy{Name: name, Limits: limits}, nil)
	}); err != nil {
		t.Fatal(err)
	}
	cl := c.client(t)
	var alive, given, denied atomic.Int64
	c.whileTheLeaderIsKilled(t, "k", 20, 60, func(_ int, progress func()) error {
		ctx := context.Background()
		for mine := 0; mine < 10; {
			p, err := cl.Acquire(ctx, name, "k", client.TTL(time.Hour))
			if err != nil {
				return fmt.Errorf("acquire: %w", err)
			}
			if !p.Allowed {
				denied.Add(1)
				continue
			}
			mine++
			given.Add(1)
			if n := alive.Add(1); n > slots {
				return fmt.Errorf("%d permits are alive, of %d", n, slots)
			}
			progress()
			if err := p.Renew(ctx, time.Hour); err != nil {
				return fmt.Errorf("renew: %w", err)
			}
			alive.Add(-1)
			if err := p.Release(ctx); err != nil {
				return fmt.Errorf("release: %w", err)
			}
			if err := p.Renew(ctx, time.Hour); !errors.Is(err, client.ErrAlreadySettled) {
				return fmt.Errorf("renew of a released permit: %w", err)
			}
		}
		return nil
	})
	if given.Load() != 200 || denied.Load() == 0 {
		t.Errorf("%d permits were given, %d denied", given.Load(), denied.Load())
	}
	if s := c.nodes[0].mustPeek(t, name, "k"); s.Remaining != slots {
		t.Errorf("%d slots are free after all releases", s.Remaining)
	}
}

// A holder that dies gives its slot back by not renewing it, and one that is kept
// alive keeps it.
func TestAPermitLivesAsLongAsItsHolder(t *testing.T) {
	c := shared(t)
	name := unique("holders")
	if err := insist(func() error {
		return c.nodes[0].call("PUT", "/v1/policies/"+name, api.Policy{Name: name, Limits: []api.Limit{{Algorithm: "concurrency", Max: 1}}}, nil)
	}); err != nil {
		t.Fatal(err)
	}
	cl, ctx := c.client(t), context.Background()
	// A holder renews at a third of the time: a busy machine may hold it up for the rest.
	const ttl = 6 * time.Second
	first, err := cl.Acquire(ctx, name, "k", client.TTL(ttl))
	if err != nil || !first.Allowed {
		t.Fatalf("%+v, %v", first, err)
	}
	held, stop := first.KeepAlive(ctx)
	defer stop()
	for lived := time.Duration(0); lived < ttl*5/4; {
		p, err := cl.Acquire(ctx, name, "k")
		if err != nil || p.Allowed {
			t.Fatalf("a second permit after %v: %+v, %v", lived, p, err)
		}
		lived = time.Duration(p.Commit.TimeNS - first.Commit.TimeNS)
		if held.Err() != nil {
			t.Fatalf("the permit was lost: %v", context.Cause(held))
		}
	}
	stop()
	eventually(t, "the permit expires", func() error {
		p, err := cl.Acquire(ctx, name, "k")
		if err != nil {
			return err
		}
		if !p.Allowed {
			return errNotYet
		}
		return nil
	})
	if err := first.Renew(ctx, ttl); !errors.Is(err, client.ErrAlreadySettled) {
		t.Errorf("renew of an expired permit: %v", err)
	}
	held, _ = first.KeepAlive(ctx)
	<-held.Done()
	if cause := context.Cause(held); !errors.Is(cause, client.ErrPermitLost) {
		t.Errorf("the cause is %v", cause)
	}
}
