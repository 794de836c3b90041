package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/cluster-test/check"
)

// throughHTTP does one operation as a caller without a library does: it asks a
// node, gives up early, asks another one under the same request id, and
// sometimes loses interest, so that its request's outcome stays unknown.
func (c *caller) throughHTTP(ctx context.Context) {
	policy, key, cost := c.pick()
	op := check.Op{
		Client: c.lane(0), Kind: "take", Policy: policy, Key: key, Cost: cost,
		RequestID: fmt.Sprintf("r%d-%d", c.journal.process, c.journal.groups.Add(1)),
	}
	op.MaxWaitMS = c.mostWait().Milliseconds()
	path, body := "/v1/take", any(api.TakeRequest{Policy: policy, Key: key, Cost: &cost, RequestID: op.RequestID, MaxWaitMS: op.MaxWaitMS})
	switch kind := c.rng.IntN(10); {
	case kind < 2:
		op.Kind, op.MaxWaitMS, path = "refund", 0, "/v1/refund"
		body = api.RefundRequest{Policy: policy, Key: key, Cost: &cost, RequestID: op.RequestID}
	case kind < 3:
		op.Kind, op.Cost, op.RequestID, op.MaxWaitMS, path = "peek", 0, "", 0, "/v1/peek"
		body = api.KeyRequest{Policy: policy, Key: key}
	}
	ops := []check.Op{op}
	tries := 1 + c.rng.IntN(8)
	if op.RequestID == "" {
		tries = 1
	}
	wait := time.Duration(c.rng.Int64N(int64(30 * time.Millisecond)))
	returned := c.journal.call(ops)
	var answer wireAnswer
	ops[0].Outcome, ops[0].Code = c.insist(ctx, path, body, &answer, tries, wait)
	if ops[0].Outcome == check.Done {
		ops[0].Answer = answer.check()
	}
	returned()
	if ops[0].Outcome == check.Unknown {
		c.leaveLane(0)
	}
}

// atomic charges two or three buckets that share a tag, all or none.
func (c *caller) atomic(ctx context.Context) {
	if c.rng.IntN(3) > 0 {
		return
	}
	n, tag := 2+c.rng.IntN(2), c.rng.IntN(c.plan.Keys)
	ops, group := make([]check.Op, n), c.journal.group()
	req := api.BatchRequest{Atomic: true}
	for i := range n {
		policy, _, cost := c.pick()
		key := fmt.Sprintf("{tag-%d}-%d", tag, c.rng.IntN(3))
		ops[i] = check.Op{Client: c.lane(0), Kind: "take", Policy: policy, Key: key, Cost: cost, Atomic: group, MaxWaitMS: c.mostWait().Milliseconds()}
		req.Requests = append(req.Requests, api.TakeRequest{Policy: policy, Key: key, Cost: &cost, MaxWaitMS: ops[i].MaxWaitMS})
	}
	returned := c.journal.call(ops)
	var answer struct {
		Results []struct {
			wireAnswer
			Error *api.Problem `json:"error"`
		} `json:"results"`
	}
	outcome, code := c.insist(ctx, "/v1/take/batch", req, &answer, 1, time.Second)
	if outcome == check.Done && len(answer.Results) != n {
		outcome, code = check.Unknown, api.Internal
	}
	for i := range n {
		ops[i].Outcome, ops[i].Code = outcome, code
		if outcome != check.Done {
			continue
		}
		if p := answer.Results[i].Error; p != nil {
			ops[i].Outcome, ops[i].Code = problemOutcome(p), p.Code
			continue
		}
		ops[i].Answer = answer.Results[i].check()
	}
	returned()
	if ops[0].Outcome == check.Unknown {
		c.leaveLane(0)
	}
}

// stale asks a node for what it knows without asking the others.
func (c *caller) stale(ctx context.Context) {
	policy, key, _ := c.pick()
	ops := []check.Op{{Client: c.lane(0), Kind: "peek", Policy: policy, Key: key, Stale: true}}
	returned := c.journal.call(ops)
	var answer wireAnswer
	ops[0].Outcome, ops[0].Code = c.insist(ctx, "/v1/peek?consistency=stale", api.KeyRequest{Policy: policy, Key: key}, &answer, 1, time.Second)
	if ops[0].Outcome == check.Done {
		ops[0].Answer = answer.check()
	}
	returned()
	if ops[0].Outcome == check.Unknown {
		c.leaveLane(0)
	}
}

// wireAnswer is every field of the answers that this file reads.
type wireAnswer struct {
	Allowed bool `json:"allowed"`
	api.State
	Refunded  int64 `json:"refunded"`
	Duplicate bool  `json:"duplicate"`
	WaitMS    int64 `json:"wait_ms"`
	Shadowed  bool  `json:"shadowed"`
}

func (w *wireAnswer) check() *check.Answer {
	commit := w.Commit
	return &check.Answer{
		Allowed: w.Allowed, Limit: w.Limit, Remaining: w.Remaining,
		RetryAfterMS: w.RetryAfterMS, ResetAfterMS: w.ResetAfterMS, Limits: w.Limits,
		WaitMS: w.WaitMS, Shadowed: w.Shadowed, Source: w.Source,
		Refunded: w.Refunded, Duplicate: w.Duplicate, Revision: w.PolicyRevision, Commit: &commit,
	}
}

// insist sends a request to nodes at random until it is answered, at most so
// many times. Its patience with a node begins with wait and grows.
func (c *caller) insist(ctx context.Context, path string, in, out any, tries int, wait time.Duration) (check.Outcome, api.Code) {
	body := encode(in)
	outcome, code := check.NotApplied, api.Code("")
	for try := range tries {
		if try > 0 {
			if outcome == check.NotApplied && ctx.Err() != nil {
				break
			}
			wait = 2*wait + 5*time.Millisecond
		}
		o, p := c.attempt(c.node(), path, body, out, min(wait, 2*time.Second))
		if o == check.Done {
			return check.Done, ""
		}
		if p != nil {
			code = p.Code
		}
		if o == check.Unknown {
			outcome = check.Unknown // whatever follows, this attempt may have been applied
		}
		if p != nil && !p.Retryable {
			break
		}
	}
	return outcome, code
}

// encode is the body of a request.
func encode(in any) []byte {
	body, err := json.Marshal(in)
	if err != nil {
		panic(err)
	}
	return body
}

// attempt sends a request once. A request that found no connection was surely
// not applied; one that broke off later may have been.
func (c *caller) attempt(node, path string, body []byte, out any, wait time.Duration) (check.Outcome, *api.Problem) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://"+node+path, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Content-Type", api.MediaJSON)
	resp, err := c.http.Do(req)
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "dial":
		return check.NotApplied, nil
	case err != nil:
		return check.Unknown, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return check.Unknown, nil
	}
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(b, out); err != nil {
			return check.Unknown, nil
		}
		return check.Done, nil
	}
	var p api.Problem
	if err := json.Unmarshal(b, &p); err != nil || p.Code == "" {
		return check.Unknown, nil
	}
	return problemOutcome(&p), &p
}

func problemOutcome(p *api.Problem) check.Outcome {
	if p.Outcome == api.NotApplied {
		return check.NotApplied
	}
	return check.Unknown
}
