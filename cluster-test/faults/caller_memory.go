package main

import (
	"context"
	"fmt"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/cluster-test/check"
	"github.com/rlstore/rlstore/cluster-test/record"
)

// The calls below are for policies that somebody else than the log may decide:
// modes leased and soft, and failure rules. A caller learns from the answer who did.
// The Go client spends leases and soft buckets of its own, and callers of HTTP those
// of the node that they ask.

// pickElsewhere draws what to ask for of these policies: few keys and small costs,
// since a lease pays only where many take.
func (c *caller) pickElsewhere() (policy, key string, cost int64) {
	p := c.plan.Elsewhere[c.rng.IntN(len(c.plan.Elsewhere))]
	key = fmt.Sprintf("hot-%d", c.rng.IntN(hotKeys))
	if c.rng.IntN(8) == 0 {
		key = forgiven
	}
	return p.Name, key, 1 + c.rng.Int64N(3)
}

// Of each such policy everybody takes from so many keys, and from one more, which is
// also refunded and reset, so that nothing is known of how much may pass.
const (
	hotKeys  = 2
	forgiven = "forgiven"
)

// spendClient takes through the Go client, a few times in a row.
func (c *caller) spendClient(context.Context) {
	policy, key, cost := c.pickElsewhere()
	if c.rng.IntN(8) == 0 {
		c.spendBatch()
		return
	}
	for range 1 + c.rng.IntN(12) { // of a lease, in no time
		c.did(check.Op{Kind: "take", Policy: policy, Key: key, Cost: cost}, func(op *check.Op) error {
			d, err := c.client.Take(context.Background(), policy, key, cost)
			if err == nil {
				op.Outcome, op.Answer = check.Done, record.Decision(&d)
			}
			return err
		})
	}
}

// spendBatch takes several at once: of each the client decides what it can.
func (c *caller) spendBatch() {
	n := 2 + c.rng.IntN(5)
	ops, reqs := make([]check.Op, n), make([]client.Request, n)
	for i := range n {
		policy, key, cost := c.pickElsewhere()
		ops[i] = check.Op{Client: c.lane(i), Kind: "take", Policy: policy, Key: key, Cost: cost}
		reqs[i] = client.Request{Policy: policy, Key: key, Cost: cost}
	}
	c.takeBatch(ops, reqs)
}

// spendHTTP takes of any node, looks at a bucket, or forgives it. A request id, or a wait, makes
// a take the log's.
func (c *caller) spendHTTP(context.Context) {
	if c.rng.IntN(40) == 0 {
		c.visit()
		return
	}
	policy, key, cost := c.pickElsewhere()
	op := check.Op{Kind: "take", Policy: policy, Key: key, Cost: cost}
	path := "/v1/take"
	switch kind := c.rng.IntN(20); {
	case key == forgiven && kind < 6:
		op.Kind, path = "refund", "/v1/refund"
	case key == forgiven && kind < 9:
		op.Kind, op.Cost, path = "reset", 0, "/v1/reset"
	case kind < 1:
		op.Kind, op.Cost, path = "peek", 0, "/v1/peek"
	case kind < 3:
		op.RequestID = fmt.Sprintf("r%d-%d", c.journal.process, c.journal.groups.Add(1))
	}
	body := any(api.TakeRequest{Policy: policy, Key: key, Cost: &cost, RequestID: op.RequestID})
	switch op.Kind {
	case "refund":
		body = api.RefundRequest{Policy: policy, Key: key, Cost: &cost}
	case "peek", "reset":
		body = api.KeyRequest{Policy: policy, Key: key}
	}
	c.once(op, c.node(), path, body)
}

// visit takes all that there is of one node's soft bucket, of a key to which nobody
// comes otherwise: what the node forgets between two visits would pass once more.
func (c *caller) visit() {
	op := check.Op{Kind: "take", Policy: softBudget, Key: "visited", Cost: 1}
	node, body := c.node(), api.TakeRequest{Policy: op.Policy, Key: op.Key, Cost: &op.Cost}
	for range 50 {
		if a := c.once(op, node, "/v1/take", body); a == nil || !a.Allowed {
			return
		}
	}
}

// once sends a request to a node, once. It returns the answer, or nil.
func (c *caller) once(op check.Op, node, path string, body any) (a *check.Answer) {
	c.did(op, func(op *check.Op) error {
		var answer wireAnswer
		var p *api.Problem
		// Nodes wait for two seconds until a rule decides.
		if op.Outcome, p = c.attempt(node, path, encode(body), &answer, patience); p != nil {
			op.Code = p.Code
		}
		if op.Outcome == check.Done {
			if a = answer.check(); op.Kind == "reset" {
				a = &check.Answer{} // which tells nothing
			}
			op.Answer = a
		}
		return nil
	})
	return a
}
