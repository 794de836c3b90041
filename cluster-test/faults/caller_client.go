package main

import (
	"context"
	"errors"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/cluster-test/check"
	"github.com/rlstore/rlstore/cluster-test/record"
)

// The calls below go through the Go client, which repeats what it must under a
// session of its own: each is one operation, with one outcome. They are not cut
// off by the end of the run, so that it leaves few unknown outcomes.

// throughClient does one operation.
func (c *caller) throughClient(context.Context) {
	ctx := context.Background()
	policy, key, cost := c.pick()
	op := check.Op{Client: c.lane(0), Policy: policy, Key: key}
	ops := []check.Op{op}
	switch kind := c.rng.IntN(20); {
	case kind < 12:
		most := c.mostWait()
		ops[0].Kind, ops[0].Cost, ops[0].MaxWaitMS = "take", cost, most.Milliseconds()
		returned := c.journal.call(ops)
		d, err := c.client.Take(ctx, policy, key, cost, client.MaxWait(most))
		conclude(&ops[0], err, func() *check.Answer { return record.Decision(&d) })
		returned()
	case kind < 15:
		ops[0].Kind, ops[0].Cost = "refund", cost
		returned := c.journal.call(ops)
		r, err := c.client.RefundN(ctx, policy, key, cost)
		conclude(&ops[0], err, func() *check.Answer {
			a := record.State(&r.State)
			a.Refunded, a.Duplicate = r.Refunded, r.Duplicate
			return a
		})
		returned()
	case kind < 19:
		ops[0].Kind = "peek"
		returned := c.journal.call(ops)
		s, err := c.client.Peek(ctx, policy, key)
		conclude(&ops[0], err, func() *check.Answer { return record.State(&s) })
		returned()
	default:
		ops[0].Kind = "reset"
		returned := c.journal.call(ops)
		err := c.client.Reset(ctx, policy, key)
		conclude(&ops[0], err, func() *check.Answer { return &check.Answer{} })
		returned()
	}
	if ops[0].Outcome == check.Unknown {
		c.leaveLane(0)
	}
}

// batch takes several at once; each element is an operation of its own.
func (c *caller) batch(context.Context) {
	if c.rng.IntN(4) > 0 {
		return // a batch is several operations
	}
	n := 2 + c.rng.IntN(5)
	ops, reqs := make([]check.Op, n), make([]client.Request, n)
	for i := range n {
		policy, key, cost := c.pick()
		ops[i] = check.Op{Client: c.lane(i), Kind: "take", Policy: policy, Key: key, Cost: cost}
		reqs[i] = client.Request{Policy: policy, Key: key, Cost: cost, MaxWait: c.mostWait()}
		ops[i].MaxWaitMS = reqs[i].MaxWait.Milliseconds()
	}
	c.takeBatch(ops, reqs)
}

// takeBatch takes of several buckets at once.
func (c *caller) takeBatch(ops []check.Op, reqs []client.Request) {
	returned := c.journal.call(ops)
	res, err := c.client.TakeBatch(context.Background(), reqs)
	for i := range ops {
		if err != nil { // then nothing was applied of any
			ops[i].Outcome = check.NotApplied
			continue
		}
		conclude(&ops[i], res[i].Err, func() *check.Answer { return record.Decision(&res[i].Decision) })
	}
	returned()
	for i := range ops {
		if ops[i].Outcome == check.Unknown {
			c.leaveLane(i)
		}
	}
}

// conclude fills in what a call of the Go client came to.
func conclude(op *check.Op, err error, answer func() *check.Answer) {
	var p *api.Problem
	if errors.As(err, &p) {
		op.Code = p.Code
	}
	switch {
	case err == nil:
		op.Outcome, op.Answer = check.Done, answer()
	case errors.Is(err, client.ErrOutcomeUnknown):
		op.Outcome = check.Unknown
	default:
		op.Outcome = check.NotApplied
	}
}
