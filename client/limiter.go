package client

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rlstore/rlstore/api"
)

// Limiter limits one key by one policy, with the methods of
// golang.org/x/time/rate's Limiter, so that it can stand in for one. Since the
// store decides, and many processes share its bucket, some things differ:
//
//   - Every method asks the store, but what a lease or a soft bucket of this
//     client covers. Those without a context are bounded by [WithTimeout].
//   - Methods that take a time ignore it: the store's own time decides, and no
//     client's clock is trusted.
//   - Wait and Reserve borrow from the future in one request, at most for a day:
//     waiting callers are served in turn, and nobody asks twice.
//   - Without an answer, nothing is allowed: Allow is false, a reservation is
//     not OK. [Client.Take] tells an outage from a denial.
//   - The limit belongs to the policy: there is no SetLimit and no SetBurst.
//
// A Limiter is two strings and a Client: it holds no state, needs no closing,
// and is safe for concurrent use. [Client.Limiter] makes one.
type Limiter struct {
	c           *Client
	policy, key string
}

// Limiter returns the limiter of key by policy. It does not use the network.
func (c *Client) Limiter(policy, key string) *Limiter {
	return &Limiter{c: c, policy: policy, key: key}
}

// Allow takes one token now, if it is there.
func (l *Limiter) Allow() bool { return l.AllowN(time.Time{}, 1) }

// AllowN takes n tokens now, if they are all there. The time is ignored. Zero
// tokens are always there.
func (l *Limiter) AllowN(_ time.Time, n int) bool {
	if n <= 0 {
		return true
	}
	d, err := l.c.Take(context.Background(), l.policy, l.key, int64(n))
	return err == nil && d.Allowed
}

// Wait takes one token as soon as it is there.
func (l *Limiter) Wait(ctx context.Context) error { return l.WaitN(ctx, 1) }

// WaitN takes n tokens now, and waits until they are there. It fails without
// waiting if ctx would end before, with [context.DeadlineExceeded]; if n exceeds
// the burst, with [ErrCostExceedsBurst]; and if the store does not answer. If ctx
// ends while it waits, it gives the tokens back. On an error nothing was taken,
// unless it is [ErrOutcomeUnknown].
func (l *Limiter) WaitN(ctx context.Context, n int) error {
	if n <= 0 {
		return ctx.Err()
	}
	for {
		var d Decision
		if !l.c.memory.takeNow(l.policy, l.key, int64(n), &d) || ctx.Err() != nil {
			break
		}
		if d.Allowed {
			return nil
		}
		if d.Source != sourceSoft {
			break
		}
		// Who waits for a soft bucket waits here, for it needs no store.
		if end, ok := ctx.Deadline(); ok && time.Until(end) < d.RetryAfter {
			return tooLong(&d)
		}
		if err := sleep(ctx, d.RetryAfter); err != nil {
			return err
		}
	}
	most := longestWait
	if end, ok := ctx.Deadline(); ok {
		most = min(most, time.Until(end))
	}
	d, err := l.c.Take(ctx, l.policy, l.key, int64(n), MaxWait(most))
	if err != nil {
		return err
	}
	if !d.Allowed {
		return tooLong(&d)
	}
	if d.Wait == 0 {
		return nil
	}
	if err := sleep(ctx, d.Wait); err != nil {
		_ = l.c.Refund(context.WithoutCancel(ctx), d) // as well as it can
		return err
	}
	return nil
}

// tooLong is the error of a wait that would outlast its caller's time.
func tooLong(d *Decision) error {
	return fmt.Errorf("rlstore: %d tokens of %s for %s need a wait of %v: %w", d.Cost, d.Policy, d.Key, d.RetryAfter, context.DeadlineExceeded)
}

// longestWait is the longest that the store lends for.
const longestWait = api.MaxWait * time.Millisecond

// Reserve is [Limiter.ReserveN] of one token.
func (l *Limiter) Reserve() *Reservation { return l.ReserveN(time.Time{}, 1) }

// ReserveN takes n tokens now, those that are not there yet from the future, and
// lets them be given back. The time is ignored. It is not OK if n exceeds the
// burst, if the tokens are more than a day away, or without an answer.
func (l *Limiter) ReserveN(_ time.Time, n int) *Reservation {
	r := &Reservation{c: l.c}
	if n <= 0 {
		r.ok = true
		return r
	}
	if l.c.memory.takeNow(l.policy, l.key, int64(n), &r.d) && r.d.Allowed {
		r.ok, r.act = true, time.Now()
		return r
	}
	d, err := l.c.Take(context.Background(), l.policy, l.key, int64(n), MaxWait(longestWait))
	r.d, r.ok = d, err == nil && d.Allowed
	r.act = time.Now().Add(d.Wait)
	return r
}

// Burst returns the burst of the limit that binds now, or 0 if the store does
// not answer.
func (l *Limiter) Burst() int {
	s, _, err := l.peek()
	if err != nil {
		return 0
	}
	return int(s.Limit)
}

// Limit returns the tokens that the limit that binds now refills in a second, or
// 0 if the store does not answer. A month counts as a twelfth of a mean year.
func (l *Limiter) Limit() float64 {
	_, rate, err := l.peek()
	if err != nil {
		return 0
	}
	return rate
}

// Tokens returns the whole tokens there now, or 0 if the store does not answer.
func (l *Limiter) Tokens() float64 { return l.TokensAt(time.Time{}) }

// TokensAt is [Limiter.Tokens]: the time is ignored.
func (l *Limiter) TokensAt(time.Time) float64 {
	s, _, err := l.peek()
	if err != nil {
		return 0
	}
	return float64(s.Remaining)
}

func (l *Limiter) peek() (State, float64, error) {
	return l.c.peek(context.Background(), l.policy, l.key, nil)
}

// InfDuration is the delay of a reservation that is not OK.
const InfDuration = time.Duration(1<<63 - 1)

// Reservation is tokens that were taken and can be given back.
type Reservation struct {
	c   *Client
	ok  bool
	d   Decision
	act time.Time // when to act

	cancel sync.Once
}

// OK tells whether the tokens were taken.
func (r *Reservation) OK() bool { return r.ok }

// Delay is how long to wait, from now on, before acting; [InfDuration] if the
// reservation is not OK.
func (r *Reservation) Delay() time.Duration { return r.DelayFrom(time.Time{}) }

// DelayFrom is [Reservation.Delay]: the time is ignored.
func (r *Reservation) DelayFrom(time.Time) time.Duration {
	if !r.ok {
		return InfDuration
	}
	return max(0, time.Until(r.act))
}

// Cancel gives the tokens back, once, as well as it can: [WithTimeout] bounds
// it, and nobody learns of a failure. Use [Client.Refund] to know.
func (r *Reservation) Cancel() { r.CancelAt(time.Time{}) }

// CancelAt is [Reservation.Cancel]: the time is ignored.
func (r *Reservation) CancelAt(time.Time) {
	if !r.ok {
		return
	}
	r.cancel.Do(func() { _ = r.c.Refund(context.Background(), r.d) })
}
