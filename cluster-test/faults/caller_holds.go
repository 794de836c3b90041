package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/cluster-test/check"
	"github.com/rlstore/rlstore/cluster-test/record"
)

// The calls below make reservations and permits, and settle, renew and release them;
// some are left to expire, and all that a process had when it was killed. Their
// policies are their own.

// held is a hold that the caller was given, and has not ended.
type held struct {
	policy, key string
	id          string // as the API names it
	bytes       [16]byte
	cost        int64 // of a reservation; 0 of a permit
}

// mostHeld is how many holds a caller has at most; it ends the oldest first.
const mostHeld = 4

// hold makes a hold, or does something with one.
func (c *caller) hold(ctx context.Context) {
	if n := len(c.holds); n >= mostHeld || n > 0 && c.rng.IntN(2) == 0 {
		h := c.holds[0]
		c.holds = c.holds[1:]
		if c.rng.IntN(8) > 0 { // else it expires
			c.act(ctx, h)
		}
		return
	}
	p := c.plan.Holds[c.rng.IntN(len(c.plan.Holds))]
	op := check.Op{Kind: "reserve", Policy: p.Name, Key: fmt.Sprintf("hold-%d", c.rng.IntN(c.plan.Keys)), Cost: 1 + c.rng.Int64N(20)}
	if p.Limits[0].Max > 0 {
		op.Kind, op.Cost = "acquire", 1
	}
	if c.rng.IntN(4) > 0 {
		op.TTLMS = 200 + c.rng.Int64N(6000)
	}
	op.CancelOnExpiry = op.Kind == "reserve" && c.rng.IntN(2) == 0
	if c.rng.IntN(2) == 0 {
		c.make(op)
	} else {
		c.makeHTTP(ctx, op)
	}
}

// make makes a hold through the Go client.
func (c *caller) make(op check.Op) {
	var opts []client.TakeOption
	if op.TTLMS > 0 {
		opts = append(opts, client.TTL(time.Duration(op.TTLMS)*time.Millisecond))
	}
	if op.CancelOnExpiry {
		opts = append(opts, client.CancelOnExpiry())
	}
	c.did(op, func(op *check.Op) error {
		var d client.Decision
		var id string
		if op.Kind == "acquire" {
			p, err := c.client.Acquire(context.Background(), op.Policy, op.Key, opts...)
			if err != nil {
				return err
			}
			d, id = p.Decision, p.ID
		} else {
			r, err := c.client.Reserve(context.Background(), op.Policy, op.Key, op.Cost, opts...)
			if err != nil {
				return err
			}
			d, id = r.Decision, r.ID
		}
		c.made(op, record.Decision(&d), id)
		return nil
	})
}

// makeHTTP makes a hold over HTTP. Under a request id it asks again elsewhere.
func (c *caller) makeHTTP(ctx context.Context, op check.Op) {
	tries := 1
	if c.rng.IntN(2) == 0 {
		op.RequestID = fmt.Sprintf("r%d-%d", c.journal.process, c.journal.groups.Add(1))
		tries += c.rng.IntN(6)
	}
	ttl := api.Duration(op.TTLMS) * api.Duration(time.Millisecond)
	path, body := "/v1/permits", any(api.PermitRequest{Policy: op.Policy, Key: op.Key, TTL: ttl, RequestID: op.RequestID})
	if op.Kind == "reserve" {
		r := api.ReservationRequest{Policy: op.Policy, Key: op.Key, Cost: &op.Cost, TTL: ttl, RequestID: op.RequestID}
		if op.CancelOnExpiry {
			r.OnExpiry = "cancel"
		}
		path, body = "/v1/reservations", r
	}
	c.did(op, func(op *check.Op) error {
		var answer struct {
			wireAnswer
			ReservationID string `json:"reservation_id"`
			PermitID      string `json:"permit_id"`
		}
		op.Outcome, op.Code = c.insist(ctx, path, body, &answer, tries, time.Second)
		if op.Outcome == check.Done {
			c.made(op, answer.check(), answer.ReservationID+answer.PermitID)
		}
		return nil
	})
}

// made notes the answer to what makes a hold.
func (c *caller) made(op *check.Op, a *check.Answer, id string) {
	op.Outcome, op.Answer = check.Done, a
	if !a.Allowed {
		return
	}
	h := held{policy: op.Policy, key: op.Key, id: id}
	parse := api.ParsePermit
	if op.Kind == "reserve" {
		h.cost, parse = op.Cost, api.ParseReservation
	}
	bytes, err := parse(id)
	if err != nil {
		c.journal.wrong("a %s was allowed, and its answer names no hold: %v", op.Kind, err)
		return
	}
	h.bytes, a.Hold = bytes, bytes[:]
	c.holds = append(c.holds, h)
}

// act settles a reservation, or renews or releases a permit: now and then twice.
func (c *caller) act(ctx context.Context, h held) {
	op := check.Op{Policy: h.policy, Key: h.key, Hold: h.bytes[:]}
	switch {
	case h.cost > 0 && c.rng.IntN(3) == 0:
		op.Kind = "cancel"
	case h.cost > 0:
		op.Kind, op.Cost = "commit", c.rng.Int64N(2*h.cost)
	case c.rng.IntN(2) == 0:
		op.Kind, op.TTLMS = "renew", 200+c.rng.Int64N(4000)
		c.holds = append(c.holds, h)
	default:
		op.Kind = "release"
	}
	for range 1 + c.rng.IntN(8)/7 {
		if h.cost > 0 && c.rng.IntN(2) == 0 {
			c.settle(op, h)
		} else {
			c.actHTTP(ctx, op, h)
		}
	}
}

// settle ends a reservation through the Go client.
func (c *caller) settle(op check.Op, h held) {
	c.did(op, func(op *check.Op) error {
		r, err := c.client.Reservation(h.id)
		if err != nil {
			return err
		}
		var s client.Settlement
		if op.Kind == "commit" {
			s, err = r.Commit(context.Background(), op.Cost)
		} else {
			s, err = r.Cancel(context.Background())
		}
		if err != nil {
			return err
		}
		c.acted(op, h, &check.Answer{Committed: s.Committed, Given: s.Refunded, Charged: s.Charged, Duplicate: s.Duplicate, Commit: &s.Commit})
		return nil
	})
}

// actHTTP does so over HTTP. All of these may be repeated.
func (c *caller) actHTTP(ctx context.Context, op check.Op, h held) {
	path, body := "/v1/permits/"+h.id+"/"+op.Kind, any(struct{}{})
	switch op.Kind {
	case "commit":
		path, body = "/v1/reservations/"+h.id+"/commit", api.SettleRequest{Cost: op.Cost}
	case "cancel":
		path = "/v1/reservations/" + h.id + "/cancel"
	case "renew":
		body = api.RenewRequest{TTL: api.Duration(op.TTLMS) * api.Duration(time.Millisecond)}
	}
	tries := 1 + c.rng.IntN(4)
	if op.Kind == "renew" {
		tries = 1 // a second one begins anew
	}
	c.did(op, func(op *check.Op) error {
		var s struct { // of a settlement, a renewal or a release
			Committed int64      `json:"committed"`
			Refunded  int64      `json:"refunded"`
			Charged   int64      `json:"charged"`
			Duplicate bool       `json:"duplicate"`
			Commit    api.Commit `json:"commit"`
		}
		op.Outcome, op.Code = c.insist(ctx, path, body, &s, tries, time.Second)
		if op.Outcome == check.Done {
			c.acted(op, h, &check.Answer{Committed: s.Committed, Given: s.Refunded, Charged: s.Charged, Duplicate: s.Duplicate, Commit: &s.Commit})
		}
		return nil
	})
}

// acted notes the answer to what acts on a hold.
func (c *caller) acted(op *check.Op, h held, a *check.Answer) {
	op.Outcome, op.Answer = check.Done, a
	if h.cost > 0 && a.Committed != h.cost-a.Given+a.Charged {
		c.journal.wrong("the %s of %d of a reservation of %d does not add up: %+v", op.Kind, op.Cost, h.cost, *a)
	}
}
