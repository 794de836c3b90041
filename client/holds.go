package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rlstore/rlstore/api"
)

// TTL sets how long a reservation or a permit lives, by the store's own time: 1ms
// to 24h, rounded up to milliseconds; 30 seconds without it.
func TTL(d time.Duration) TakeOption {
	return func(it *item) {
		if it.hold != nil {
			it.hold.TTL = api.Millis(d)
		}
	}
}

// CancelOnExpiry gives a reservation back that is not settled in time; without
// it, it counts as committed as it was made.
func CancelOnExpiry() TakeOption {
	return func(it *item) {
		if it.hold != nil {
			it.hold.CancelOnExpiry = true
		}
	}
}

// Hold is a reservation: tokens that are charged, and will be settled by what
// they are needed for. It is safe for concurrent use.
type Hold struct {
	Decision        // Allowed false holds nothing
	ID       string // "rsv_01f3…", by which any process can settle it; "" if it was denied

	c  *Client
	id api.HoldID
}

// Settlement is how a reservation ended.
type Settlement struct {
	Committed int64      // what it cost in the end: 70
	Refunded  int64      // what it let go of: 30
	Charged   int64      // beyond what was reserved: 0; less than asked for where the debt would be too deep
	Duplicate bool       // it was settled so before
	Commit    api.Commit // the place in the shard's log that says so
}

// Reserve charges cost tokens of policy to key, as an estimate that [Hold.Commit]
// or [Hold.Cancel] settles. A denial is no error: it is a hold with Allowed false.
// [TTL], [CancelOnExpiry], [RequestID] and [Inline] may be given.
func (c *Client) Reserve(ctx context.Context, policy, key string, cost int64, opts ...TakeOption) (*Hold, error) {
	d, id, err := c.makeHold(ctx, item{kind: api.Reserve, policy: policy, key: key, cost: cost}, opts)
	if err != nil {
		return nil, err
	}
	h := &Hold{Decision: d, c: c, id: id}
	if d.Allowed {
		h.ID = id.Reservation()
	}
	return h, nil
}

// Reservation is the reservation of this id, made by whatever process. It does
// not use the network; the decision's fields but for Allowed are not known.
func (c *Client) Reservation(id string) (*Hold, error) {
	parsed, err := api.ParseReservation(id)
	if err != nil {
		return nil, refuseLocally(err)
	}
	return &Hold{Decision: Decision{Allowed: true}, ID: id, c: c, id: parsed}, nil
}

// Commit settles the reservation by what it came to, from 0 on: it gives the rest
// back, or charges what is missing, into debt down to one burst below 0. The same
// commit may be repeated; another one is [ErrAlreadySettled], and one of a
// reservation that is not known, or no longer, [ErrNotFound].
func (h *Hold) Commit(ctx context.Context, cost int64) (Settlement, error) {
	return h.settle(ctx, api.Settle, cost)
}

// Cancel gives the reservation back. Its errors are those of [Hold.Commit].
func (h *Hold) Cancel(ctx context.Context) (Settlement, error) {
	return h.settle(ctx, api.Cancel, 0)
}

func (h *Hold) settle(ctx context.Context, kind api.Kind, cost int64) (Settlement, error) {
	if !h.Allowed {
		return Settlement{}, refuse(api.NewProblem(api.InvalidRequest, "the reservation was denied: there is nothing to settle"))
	}
	d, out, err := h.c.onHold(ctx, kind, cost, &api.Hold{ID: h.id})
	if err != nil {
		return Settlement{}, err
	}
	return Settlement{
		Committed: out.Committed, Refunded: out.Refunded, Charged: out.Charged,
		Duplicate: d.Duplicate, Commit: d.Commit,
	}, nil
}

// Permit is a slot of the concurrency limits of a policy, for as long as it is
// renewed. It is safe for concurrent use.
type Permit struct {
	Decision        // Allowed false is no permit
	ID       string // "pmt_01f3…"; "" if it was denied

	c   *Client
	id  api.HoldID
	ttl time.Duration

	mu    sync.Mutex
	until time.Time // it surely lives until then, by this process's clock
}

// Acquire takes a slot of each concurrency limit of policy for key, and charges
// the policy's other limits 1. A denial is no error: it is a permit with Allowed
// false. [TTL], [RequestID] and [Inline] may be given.
func (c *Client) Acquire(ctx context.Context, policy, key string, opts ...TakeOption) (*Permit, error) {
	it := item{kind: api.Acquire, policy: policy, key: key, cost: 1}
	began := time.Now()
	d, id, err := c.makeHold(ctx, it, opts)
	if err != nil {
		return nil, err
	}
	probe := with(item{hold: &api.Hold{TTL: api.DefaultTTL}}, opts)
	p := &Permit{Decision: d, c: c, id: id, ttl: time.Duration(probe.hold.TTL) * time.Millisecond}
	p.until = began.Add(p.ttl)
	if d.Allowed {
		p.ID = id.Permit()
	}
	return p, nil
}

// Renew makes the permit live for ttl from now on. A permit that has expired or
// was released is [ErrAlreadySettled], later [ErrNotFound].
func (p *Permit) Renew(ctx context.Context, ttl time.Duration) error {
	if !p.Allowed {
		return deniedPermit()
	}
	began := time.Now()
	_, _, err := p.c.onHold(ctx, api.Renew, 0, &api.Hold{ID: p.id, TTL: api.Millis(ttl)})
	if err == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.until = began.Add(ttl)
	}
	return err
}

// Release gives the slot back. It may be repeated, also after the permit has
// expired.
func (p *Permit) Release(ctx context.Context) error {
	if !p.Allowed {
		return deniedPermit()
	}
	_, _, err := p.c.onHold(ctx, api.Release, 0, &api.Hold{ID: p.id})
	return err
}

func deniedPermit() error {
	return refuse(api.NewProblem(api.InvalidRequest, "the permit was denied: there is none"))
}

// ErrPermitLost is the cause with which the context of [Permit.KeepAlive] ends
// when the permit may have expired.
var ErrPermitLost = errors.New("the permit was not renewed in time")

// KeepAlive renews the permit, each time that a third of its [TTL] has passed,
// until ctx ends or stop is called. The context that it returns ends at the latest
// when the permit may have expired, with the cause [ErrPermitLost]: work that needs
// the slot runs under it. stop does not release the permit.
func (p *Permit) KeepAlive(ctx context.Context) (held context.Context, stop context.CancelFunc) {
	held, cancel := context.WithCancelCause(ctx)
	stop = func() { cancel(context.Canceled) }
	if !p.Allowed {
		cancel(fmt.Errorf("%w: it was denied", ErrPermitLost))
		return held, stop
	}
	go func() {
		for {
			p.mu.Lock()
			left := time.Until(p.until)
			p.mu.Unlock()
			if left <= 0 {
				cancel(ErrPermitLost)
				return
			}
			// At a third of its time, and then more and more often.
			if sleep(held, min(p.ttl/3, max(left/2, time.Millisecond))) != nil {
				return
			}
			p.mu.Lock()
			end := p.until
			p.mu.Unlock()
			attempt, done := context.WithDeadline(held, end)
			err := p.Renew(attempt, p.ttl)
			done()
			if errors.Is(err, ErrAlreadySettled) || errors.Is(err, ErrNotFound) {
				cancel(fmt.Errorf("%w: %w", ErrPermitLost, err))
				return
			}
		}
	}()
	return held, stop
}

// makeHold carries an operation that makes a hold, under an id of chance.
func (c *Client) makeHold(ctx context.Context, it item, opts []TakeOption) (Decision, api.HoldID, error) {
	var random [14]byte
	rand.Read(random[:]) // never fails
	it.hold = &api.Hold{ID: api.NewHoldID(it.key, random), TTL: api.DefaultTTL}
	w, err := c.do(ctx, it, opts)
	if err != nil {
		return Decision{}, api.HoldID{}, err
	}
	d, id, err := w.out[0].Decision, w.hold.ID, w.out[0].Err
	c.recycle(w)
	return d, id, err
}

// onHold carries an operation on a hold that there is.
func (c *Client) onHold(ctx context.Context, kind api.Kind, cost int64, h *api.Hold) (Decision, api.HoldOutcome, error) {
	w, err := c.do(ctx, item{kind: kind, cost: cost, hold: h}, nil)
	if err != nil {
		return Decision{}, api.HoldOutcome{}, err
	}
	d, out, err := w.out[0].Decision, w.hold, w.out[0].Err
	c.recycle(w)
	return d, out, err
}
