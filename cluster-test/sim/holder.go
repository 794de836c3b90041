package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/cluster-test/check"
)

// holder makes reservations and permits, under policies that are its own, and
// keeps book of them: whatever faults befall the cluster, what it was told of
// must add up in the end. The checker judges them as it does all others; this is a
// second opinion, without a look at any log.
type holder struct {
	caller

	// What the reservations cost, at least and at most: of some it is not known
	// whether they were made, or how they were settled.
	least, most int64
	permits     []*client.Permit // that surely live
	slots       bool             // a slot may be taken that is not in permits
	lost        bool             // a reset of which nothing is known may come at any time
	wrong       []string
}

const (
	holderBurst = 100_000_000 // more than is spent
	holderSlots = 3
	holderTTL   = 24 * time.Hour
	holderKey   = "{h}-0"
)

// holderPolicies refill nothing to speak of while a simulation lasts.
var holderPolicies = []api.Policy{
	{Name: "estimates", Limits: []api.Limit{{Name: "only", Rate: 1, Per: api.Duration(time.Hour), Burst: holderBurst}}},
	{Name: "slots", Limits: []api.Limit{{Name: "only", Algorithm: "concurrency", Max: holderSlots}}},
}

func (w *world) holder() *holder {
	h := &holder{caller: *w.caller(w.callers + 4)}
	h.rng = w.source(ofHolder)
	return h
}

// run works until ctx ends; what is under way then ends first.
func (h *holder) run(ctx context.Context) {
	for sleep(ctx, h.w.pace/2+time.Duration(h.rng.Int64N(int64(h.w.pace)))) {
		if h.lost || h.rng.IntN(2) == 0 {
			h.reservation()
		} else {
			h.permit()
		}
	}
}

func (h *holder) lie(format string, args ...any) {
	h.wrong = append(h.wrong, fmt.Sprintf(format, args...))
}

// reservation makes one and settles it, unless it is left to expire.
func (h *holder) reservation() {
	ctx, cancel := h.patience()
	defer cancel()
	cost := 1 + h.rng.Int64N(100)
	expires := h.rng.IntN(4) == 0
	op := &check.Op{Client: h.id * width, Kind: "reserve", Policy: "estimates", Key: holderKey, Cost: cost, TTLMS: holderTTL.Milliseconds()}
	opts := []client.TakeOption{client.TTL(holderTTL)}
	if expires {
		op.TTLMS, op.CancelOnExpiry = int64(1+h.rng.IntN(2000)), true
		opts = []client.TakeOption{client.TTL(time.Duration(op.TTLMS) * time.Millisecond), client.CancelOnExpiry()}
	}
	op.Call = h.w.rec.now()
	r, err := h.cl.Reserve(ctx, op.Policy, op.Key, cost, opts...)
	h.end(op, reserved(r), err)
	switch {
	case errors.Is(err, client.ErrOutcomeUnknown):
		if !expires {
			h.most += cost
		}
		return
	case err != nil:
		return
	case !r.Allowed:
		h.lie("a reservation of %d was denied: %+v", cost, r.Decision)
		return
	case expires:
		return
	}
	want := h.rng.Int64N(200)
	id, _ := api.ParseReservation(r.ID) // it is one
	op = &check.Op{Client: op.Client, Kind: "commit", Policy: op.Policy, Key: op.Key, Cost: want, Hold: id[:]}
	if h.rng.IntN(4) == 0 {
		want, op.Kind, op.Cost = 0, "cancel", 0
	}
	op.Call = h.w.rec.now()
	s, err := settle(ctx, op, r)
	h.end(op, s, err)
	switch {
	case errors.Is(err, client.ErrOutcomeUnknown):
		h.least += min(cost, want)
		h.most += max(cost, want)
	case errors.Is(err, client.ErrUnavailable): // it is outstanding
		h.least += cost
		h.most += cost
	case err != nil:
		h.lie("a reservation of %d is not settled by %d: %v", cost, want, err)
	case s.Committed != want || s.Duplicate || s.Committed != cost-s.Given+s.Charged:
		h.lie("a reservation of %d was settled by %d: %+v", cost, want, s)
	default:
		h.least += want
		h.most += want
	}
}

// permit takes one, or lets go of one, or of all.
func (h *holder) permit() {
	ctx, cancel := h.patience()
	defer cancel()
	n := len(h.permits)
	switch k := h.rng.IntN(10); {
	case k < 5 || n == 0:
		op := &check.Op{Client: h.id * width, Kind: "acquire", Policy: "slots", Key: holderKey, TTLMS: holderTTL.Milliseconds(), Call: h.w.rec.now()}
		p, err := h.cl.Acquire(ctx, op.Policy, op.Key, client.TTL(holderTTL))
		h.end(op, permitted(p), err)
		switch {
		case errors.Is(err, client.ErrOutcomeUnknown):
			h.slots = true
		case err != nil:
		case !p.Allowed && n < holderSlots && !h.slots:
			h.lie("a permit was denied with %d of %d alive", n, holderSlots)
		case p.Allowed:
			if h.permits = append(h.permits, p); n+1 > holderSlots {
				h.lie("%d permits are alive, of %d", n+1, holderSlots)
			}
		}
	case k < 9:
		p := h.permits[0]
		h.permits = h.permits[1:]
		id, _ := api.ParsePermit(p.ID) // it is one
		op := &check.Op{Client: h.id * width, Kind: "release", Policy: "slots", Key: holderKey, Hold: id[:], Call: h.w.rec.now()}
		err := p.Release(ctx)
		h.end(op, &check.Answer{}, err)
		if err != nil {
			h.slots = true // it may be alive still
			if !errors.Is(err, client.ErrOutcomeUnknown) && !errors.Is(err, client.ErrUnavailable) {
				h.lie("a permit is not released: %v", err)
			}
		}
	default:
		op := &check.Op{Client: h.id * width, Kind: "reset", Policy: "slots", Key: holderKey, Call: h.w.rec.now()}
		err := h.cl.Reset(ctx, op.Policy, op.Key)
		h.end(op, &check.Answer{}, err)
		if err == nil {
			h.permits = nil
		}
		h.lost = errors.Is(err, client.ErrOutcomeUnknown)
	}
}

// settled compares the books with the store, once every reservation that was left
// to expire has had the time.
func (h *holder) settled() []string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		s, err := h.cl.Peek(ctx, "estimates", holderKey)
		spent := holderBurst - s.Remaining
		if err == nil && h.least <= spent && spent <= h.most {
			break
		}
		if ctx.Err() != nil {
			h.lie("%d tokens are spent on reservations, not %d to %d: %v", spent, h.least, h.most, err)
			return h.wrong
		}
		time.Sleep(100 * time.Millisecond)
	}
	if h.lost {
		return h.wrong
	}
	s, err := h.cl.Peek(ctx, "slots", holderKey)
	if want := int64(holderSlots - len(h.permits)); err != nil || s.Remaining > want || s.Remaining < want && !h.slots {
		h.lie("%d slots are free with %d permits alive: %v", s.Remaining, len(h.permits), err)
	}
	return h.wrong
}
