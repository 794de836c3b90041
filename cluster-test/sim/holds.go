package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/cluster-test/check"
	"github.com/rlstore/rlstore/cluster-test/record"
)

// held is a reservation or a permit that a caller was told of; it may be over.
type held struct {
	kind        string // reserve or acquire
	policy, key string
	id          api.HoldID
	cost        int64
	permit      *client.Permit // if the Go client made it
}

// hold reserves, acquires a permit, or does something with one of those before, of the
// buckets that everybody takes from: through the Go client, over HTTP, or as a binary
// batch, under an id of its own.
func (c *caller) hold() {
	if len(c.holds) > 0 && c.rng.IntN(2) == 0 {
		h := c.holds[0]
		if c.rng.IntN(10) < 7 { // else it comes again, or to another end
			c.holds = c.holds[1:]
		}
		c.act(h)
		return
	}
	op := c.begin("reserve")
	op.Cost, op.RequestID, op.CancelOnExpiry = 1+c.rng.Int64N(5), "", c.rng.IntN(2) == 0
	if c.rng.IntN(2) == 0 {
		op.Kind, op.CancelOnExpiry = "acquire", false
		if c.rng.IntN(6) > 0 {
			op.Policy = "jobs"
		}
	}
	if op.TTLMS = 1 + c.rng.Int64N(4000); c.rng.IntN(8) == 0 {
		op.TTLMS = 24 * 3600 * 1000
	}
	switch c.rng.IntN(3) {
	case 0:
		c.holdByClient(op)
	case 1:
		c.holdByHTTP(op)
	default:
		c.holdByBatch(op)
	}
}

// keep notes what an answer gives, unless it is to be left alone until it expires.
func (c *caller) keep(op *check.Op, id api.HoldID) []byte {
	if c.rng.IntN(6) > 0 {
		c.holds = append(c.holds, held{kind: op.Kind, policy: op.Policy, key: op.Key, id: id, cost: op.Cost})
	}
	return id[:]
}

func (c *caller) holdByClient(op *check.Op) {
	ctx, cancel := c.patience()
	defer cancel()
	if c.rng.IntN(3) == 0 {
		op.RequestID = c.w.nextID()
	}
	opts := append(withID(op.RequestID), client.TTL(time.Duration(op.TTLMS)*time.Millisecond))
	if op.CancelOnExpiry {
		opts = append(opts, client.CancelOnExpiry())
	}
	op.Call = c.w.rec.now()
	if op.Kind == "acquire" { // of 1
		op.Cost = 1
		p, err := c.cl.Acquire(ctx, op.Policy, op.Key, opts...)
		a := permitted(p)
		if err == nil && p.Allowed {
			id := api.HoldID(a.Hold)
			c.holds = append(c.holds, held{"acquire", op.Policy, op.Key, id, 1, p})
		}
		c.end(op, a, err)
		return
	}
	r, err := c.cl.Reserve(ctx, op.Policy, op.Key, op.Cost, opts...)
	a := reserved(r)
	if err == nil && r.Allowed {
		c.keep(op, api.HoldID(a.Hold))
	}
	c.end(op, a, err)
}

// reserved and permitted are the answers of the Go client, nil if there is none.
func reserved(r *client.Hold) *check.Answer {
	if r == nil {
		return nil
	}
	a := record.Decision(&r.Decision)
	if id, err := api.ParseReservation(r.ID); err == nil {
		a.Hold = id[:]
	}
	return a
}

func permitted(p *client.Permit) *check.Answer {
	if p == nil {
		return nil
	}
	a := record.Decision(&p.Decision)
	if id, err := api.ParsePermit(p.ID); err == nil {
		a.Hold = id[:]
	}
	return a
}

// holdByHTTP asks any node, and again under a request id when no answer comes.
func (c *caller) holdByHTTP(op *check.Op) {
	ttl := api.Duration(time.Duration(op.TTLMS) * time.Millisecond)
	attempts := 1
	if c.rng.IntN(2) == 0 {
		op.RequestID, attempts = c.w.nextID(), 1+c.rng.IntN(4)
	}
	path, request := "/v1/permits", any(api.PermitRequest{Policy: op.Policy, Key: op.Key, Cost: &op.Cost, TTL: ttl, RequestID: op.RequestID})
	if op.Kind == "reserve" {
		rule := api.ExpiryCommits
		if op.CancelOnExpiry {
			rule = api.ExpiryCancels
		}
		path, request = "/v1/reservations", api.ReservationRequest{Policy: op.Policy, Key: op.Key, Cost: &op.Cost, TTL: ttl, OnExpiry: rule, RequestID: op.RequestID}
	}
	var r struct {
		api.Decision
		ReservationID string `json:"reservation_id"`
		PermitID      string `json:"permit_id"`
	}
	err, doubt := c.persist(op, path, request, attempts, &r)
	var a *check.Answer
	if err == nil {
		a = fromWire(&r.State)
		a.Allowed, a.Duplicate, a.Shadowed = r.Allowed, r.Duplicate, r.Shadowed
		if id, err := api.ParseReservation(r.ReservationID); err == nil {
			a.Hold = c.keep(op, id)
		} else if id, err := api.ParsePermit(r.PermitID); err == nil {
			a.Hold = c.keep(op, id)
		}
	}
	c.w.rec.returned(op, a, err, doubt)
	c.w.rec.add(*op)
}

// persist posts a request up to so many times, each to any node, until it has an
// answer. doubt says that one of those without may have been applied.
func (c *caller) persist(op *check.Op, path string, request any, attempts int, out any) (err error, doubt bool) {
	body, err := json.Marshal(request)
	if err != nil {
		panic(err)
	}
	op.Call = c.w.rec.now()
	for range attempts {
		wait := 3 * time.Second
		if c.rng.IntN(4) == 0 {
			wait = time.Duration(c.rng.Int64N(int64(10 * time.Millisecond)))
		}
		if err = c.call("POST", c.anyNode(), path, body, nil, wait, out); err == nil {
			return nil, doubt
		}
		var p *api.Problem
		if errors.As(err, &p) && p.Outcome == api.NotApplied && !p.Retryable {
			return err, doubt
		}
		doubt = doubt || !notApplied(err)
		time.Sleep(time.Duration(c.rng.Int64N(int64(100 * time.Millisecond))))
	}
	return err, doubt
}

// holdByBatch chooses the id itself, and now and then one that is taken.
func (c *caller) holdByBatch(op *check.Op) {
	var random [14]byte
	for i := range random {
		random[i] = byte(c.rng.Uint32())
	}
	h := &api.Hold{ID: api.NewHoldID(op.Key, random), TTL: op.TTLMS, CancelOnExpiry: op.CancelOnExpiry}
	if n := len(c.holds); n > 0 && c.holds[n-1].key == op.Key && c.rng.IntN(2) == 0 {
		h.ID = c.holds[n-1].id
	}
	op.Hold = h.ID[:]
	b := &api.Batch{}
	kind := api.Reserve
	if op.Kind == "acquire" {
		kind = api.Acquire
	}
	b.Add(api.Op{Kind: kind, Policy: b.Ref(op.Policy), Key: op.Key, Cost: op.Cost, Hold: h})
	c.binary(op, b)
}

// binary sends a batch of one operation, without a session, to any node, once.
func (c *caller) binary(op *check.Op, b *api.Batch) {
	op.Call = c.w.rec.now()
	var reply []byte
	var a *check.Answer
	header := http.Header{"Content-Type": {api.MediaBatch}}
	err := c.call("POST", c.anyNode(), "/v1/take/batch", api.AppendBatch(nil, b), header, 3*time.Second, &reply)
	if err == nil {
		a, err = c.told(op, reply)
	}
	c.end(op, a, err)
}

// act commits or cancels a reservation, renews or releases a permit.
func (c *caller) act(h held) {
	op := &check.Op{Client: c.id * width, Policy: h.policy, Key: h.key, Hold: h.id[:], Kind: "commit", Cost: c.rng.Int64N(2*h.cost + 2)}
	k := c.rng.IntN(4)
	switch {
	case h.kind == "acquire" && k < 2:
		op.Kind, op.Cost, op.TTLMS = "renew", 0, 1+c.rng.Int64N(4000)
	case h.kind == "acquire":
		op.Kind, op.Cost = "release", 0
	case k == 0:
		op.Kind, op.Cost = "cancel", 0
	case k == 1: // deeper into debt than there is credit, perhaps
		op.Cost = c.rng.Int64N(200)
	}
	if op.Kind == "renew" {
		c.holds = append(c.holds, h)
	}
	if c.rng.IntN(2) == 0 || h.kind == "acquire" && h.permit == nil {
		c.actByHTTP(op, h)
		return
	}
	ctx, cancel := c.patience()
	defer cancel()
	op.Call = c.w.rec.now()
	a, err := c.actByClient(ctx, op, h)
	c.end(op, a, err)
}

func (c *caller) actByClient(ctx context.Context, op *check.Op, h held) (*check.Answer, error) {
	switch op.Kind {
	case "renew":
		return &check.Answer{}, h.permit.Renew(ctx, time.Duration(op.TTLMS)*time.Millisecond)
	case "release":
		return &check.Answer{}, h.permit.Release(ctx)
	}
	r, err := c.cl.Reservation(h.id.Reservation())
	if err != nil {
		panic(err) // the id is one
	}
	return settle(ctx, op, r)
}

// settle commits or cancels a reservation, whichever op is.
func settle(ctx context.Context, op *check.Op, r *client.Hold) (*check.Answer, error) {
	var s client.Settlement
	var err error
	if op.Kind == "cancel" {
		s, err = r.Cancel(ctx)
	} else {
		s, err = r.Commit(ctx, op.Cost)
	}
	return &check.Answer{Committed: s.Committed, Given: s.Refunded, Charged: s.Charged, Duplicate: s.Duplicate, Commit: commit(s.Commit)}, err
}

// actByHTTP asks any node, and again when no answer comes: the hold's id makes that
// safe.
func (c *caller) actByHTTP(op *check.Op, h held) {
	var r struct {
		api.SettleResponse
		Renewed, Released bool
		TTLMS             int64 `json:"ttl_ms"`
	}
	base, request := "/v1/reservations/"+h.id.Reservation(), any(struct{}{})
	switch op.Kind {
	case "commit":
		request = api.SettleRequest{Cost: op.Cost}
	case "renew":
		request = api.RenewRequest{TTL: api.Duration(time.Duration(op.TTLMS) * time.Millisecond)}
		base = "/v1/permits/" + h.id.Permit()
	case "release":
		base = "/v1/permits/" + h.id.Permit()
	}
	err, doubt := c.persist(op, fmt.Sprintf("%s/%s", base, op.Kind), request, 1+c.rng.IntN(3), &r)
	a := &check.Answer{Committed: r.Committed, Given: r.Refunded, Charged: r.Charged, Duplicate: r.Duplicate, Commit: commit(r.Commit)}
	c.w.rec.returned(op, a, err, doubt)
	c.w.rec.add(*op)
}
