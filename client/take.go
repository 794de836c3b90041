package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/rlstore/rlstore/api"
)

// Take charges cost tokens, 1 to 2^31-1, of policy to key: all limits or none.
// A denial is no error: it is a decision with Allowed false.
//
// Takes of many goroutines travel in common batches, so a take costs little
// more than the wait for its answer. Without options, those of policies of mode
// leased or soft are decided from memory wherever that suffices. If the store does
// not answer, the policy's on_unavailable decides; see [WithUnavailable]. Which it
// was is in [State.Source].
func (c *Client) Take(ctx context.Context, policy, key string, cost int64, opts ...TakeOption) (d Decision, err error) {
	if len(opts) == 0 && c.memory.table.Len() > 0 && cost > 0 && ctx.Err() == nil {
		err, ok := c.memory.take(ctx, policy, key, cost, &d)
		if ok && err != nil && c.memory.decide(policy, key, cost, err, &d) {
			err = nil
		}
		if ok {
			return d, err
		}
	}
	it := item{kind: api.Take, policy: policy, key: key, cost: cost}
	w, err := c.do(ctx, it, opts)
	if err == nil {
		d, err = w.out[0].Decision, w.out[0].Err
		c.recycle(w)
	}
	if err != nil && c.memory.decide(policy, key, cost, err, &d) {
		return d, nil
	}
	return d, err
}

// Peek returns the state of a bucket, linearizably: it sees every take that was
// answered before the call.
func (c *Client) Peek(ctx context.Context, policy, key string, opts ...TakeOption) (State, error) {
	s, _, err := c.peek(ctx, policy, key, opts)
	return s, err
}

// Explain tells why a take of cost would be decided as it would, and changes
// nothing.
func (c *Client) Explain(ctx context.Context, policy, key string, cost int64) (api.Explanation, error) {
	var x api.Explanation
	body, err := json.Marshal(api.ExplainRequest{Policy: policy, Key: key, Cost: &cost})
	if err != nil {
		return x, fail(ErrInvalidRequest, err, nil)
	}
	_, err = c.ask(ctx, &exchange{method: http.MethodPost, path: "/v1/explain", media: api.MediaJSON, body: body, answer: &x, pure: true})
	return x, err
}

// meanMonth is a twelfth of the mean year of the calendar.
const meanMonth = 31_556_952 * time.Second / 12

// peek is Peek, and also the rate of the limit that binds, in tokens a second.
func (c *Client) peek(ctx context.Context, policy, key string, opts []TakeOption) (State, float64, error) {
	it := item{kind: api.Peek, policy: policy, key: key}
	w, err := c.do(ctx, it, opts)
	if err != nil {
		return State{}, 0, err
	}
	s, err := w.out[0].State, w.out[0].Err
	rate, per := float64(w.rate), time.Duration(w.per)
	if per == 0 { // the windows of a month; of a limit of permits the rate is 0
		per = meanMonth
	}
	rate /= per.Seconds()
	c.recycle(w)
	return s, rate, err
}

// Refund gives back what d took, once: a decision is refunded at most once by
// whatever client, within the store's window of request ids. Of a denial there
// is nothing to give back, nor of what passed in shadow or off, and Refund
// returns nil. A bucket never gets fuller
// than its burst.
//
// What was spent from a lease or a soft bucket goes back there if it can, and else
// to the store; what a failure rule decided was never charged there. Of these only
// the caller sees to it that nothing is given back twice.
func (c *Client) Refund(ctx context.Context, d Decision) error {
	if !d.Allowed || d.Shadowed || d.Source == api.SourceOff || c.memory.refund(&d) {
		return nil
	}
	// The commit names the decision like nothing else does.
	id := fmt.Sprintf("refund:%d/%d/%d", d.Commit.Shard, d.Commit.Index, d.Commit.Offset)
	if d.Source == sourceLease || d.Source == sourceSoft {
		id = "" // many takes share that place
	}
	it := item{kind: api.Refund, policy: d.Policy, key: d.Key, cost: d.Cost, requestID: id}
	if d.inline != "" {
		it.policy, it.inline = d.inline, true
	}
	w, err := c.do(ctx, it, nil)
	if err != nil {
		return err
	}
	err = w.out[0].Err
	c.recycle(w)
	return err
}

// RefundN gives cost tokens back to key: the call is applied once, but two calls
// are two refunds, unless they share a [RequestID].
func (c *Client) RefundN(ctx context.Context, policy, key string, cost int64, opts ...TakeOption) (RefundResult, error) {
	it := item{kind: api.Refund, policy: policy, key: key, cost: cost}
	w, err := c.do(ctx, it, opts)
	if err != nil {
		return RefundResult{}, err
	}
	r := RefundResult{State: w.out[0].State, Refunded: w.refunded, Duplicate: w.out[0].Duplicate}
	err = w.out[0].Err
	c.recycle(w)
	return r, err
}

// Reset forgets the bucket: the next take finds it full.
func (c *Client) Reset(ctx context.Context, policy, key string, opts ...TakeOption) error {
	it := item{kind: api.Reset, policy: policy, key: key}
	w, err := c.do(ctx, it, opts)
	if err != nil {
		return err
	}
	err = w.out[0].Err
	c.recycle(w)
	return err
}

// do carries one item and returns its call, answered, to be recycled.
func (c *Client) do(ctx context.Context, it item, opts []TakeOption) (*call, error) {
	if len(opts) > 0 {
		it = with(it, opts)
	}
	if err := it.check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fail(ErrUnavailable, nil, err)
	}
	if c.closed.Load() {
		return nil, fail(ErrClosed, nil, ErrUnavailable)
	}
	r, err := c.dir.ready(ctx)
	if err != nil {
		return nil, err
	}
	l := r.lane(&it)
	if err := l.admit(&it); err != nil {
		return nil, err
	}
	w := c.newCall(ctx, 1)
	if it.kind == api.Take && c.memory.rules(it.policy) {
		w.deadline.Store(c.now() + int64(c.timeout))
	}
	it.call = w
	deadline, err := l.push([]item{it}, it.inline, false)
	if err != nil {
		return nil, err
	}
	c.watch(deadline)
	w.wait(ctx)
	return w, nil
}

// with applies options to a copy, which unlike do's own lives on the heap.
func with(it item, opts []TakeOption) item {
	for _, o := range opts {
		o(&it)
	}
	return it
}

// TakeBatch decides many takes and returns their results in order. Requests for
// the same shard travel together, and are decided in their order; those of
// different shards are decided at the same time.
//
// Each result carries its own error. The error of TakeBatch itself means that
// nothing was applied of any request.
//
// More than 10,000 requests are sent as several batches, one after the other;
// with [Atomic] they are refused.
func (c *Client) TakeBatch(ctx context.Context, requests []Request, opts ...BatchOption) ([]BatchResult, error) {
	var cfg batchConfig
	for _, o := range opts {
		o(&cfg)
	}
	if len(requests) <= api.MaxBatch {
		return c.takeBatch(ctx, requests, cfg)
	}
	if cfg.atomic {
		return nil, refuse(api.NewProblem(api.InvalidRequest, "an atomic batch has at most %d requests", api.MaxBatch))
	}
	// The rest of the batch shares the time of the first.
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	results := make([]BatchResult, 0, len(requests))
	for part := range slices.Chunk(requests, api.MaxBatch) {
		rs, err := c.takeBatch(ctx, part, cfg)
		if err != nil && len(results) == 0 {
			return nil, err
		}
		if err != nil {
			for range part {
				results = append(results, BatchResult{Err: err})
			}
			continue
		}
		results = append(results, rs...)
	}
	return results, nil
}

// takeBatch is TakeBatch for at most MaxBatch requests.
func (c *Client) takeBatch(ctx context.Context, requests []Request, cfg batchConfig) ([]BatchResult, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, fail(ErrUnavailable, nil, err)
	}
	if c.closed.Load() {
		return nil, fail(ErrClosed, nil, ErrUnavailable)
	}
	w := c.newCall(ctx, len(requests))
	if cfg.atomic {
		return c.carryBatch(ctx, requests, cfg, w)
	}
	if c.memory.takeAll(requests, w) {
		return w.out, nil
	}
	results, err := c.carryBatch(ctx, requests, cfg, w)
	return c.memory.decideAll(requests, w, results, err)
}

// carryBatch has the store decide those requests that have no answer in w.
func (c *Client) carryBatch(ctx context.Context, requests []Request, cfg batchConfig, w *call) ([]BatchResult, error) {
	r, err := c.dir.ready(ctx)
	if err != nil {
		return nil, err
	}
	parts := make([]part, 0, 8)
	at := 0 // of the part used last
	for i := range requests {
		if w.where[i] == answered {
			continue
		}
		it := requests[i].item()
		it.call, it.at, it.atomic = w, i, cfg.atomic
		if !cfg.atomic && w.deadline.Load() == 0 && c.memory.rules(it.policy) {
			w.deadline.Store(c.now() + int64(c.timeout))
		}
		if err := it.check(); err != nil {
			if cfg.atomic {
				return nil, fmt.Errorf("request %d: %w", i, err)
			}
			w.out[i].Err = err
			w.where[i] = answered
			w.left--
			continue
		}
		l := r.lane(&it)
		if len(parts) == 0 || parts[at].lane != l {
			at = slices.IndexFunc(parts, func(p part) bool { return p.lane == l })
			if at < 0 {
				at = len(parts)
				parts = append(parts, part{lane: l, items: newItems()})
			}
		}
		p := &parts[at]
		p.items = append(p.items, it)
		p.apart = p.apart || it.inline
	}
	if cfg.atomic {
		if len(parts) > 1 {
			return nil, refuse(api.NewProblem(api.CrossShard,
				"an atomic batch must stay within one shard, but key %q lives in shard %d and key %q in shard %d; the same {tag} inside both keys puts them together",
				parts[0].items[0].key, parts[0].lane.shard, parts[1].items[0].key, parts[1].lane.shard))
		}
		size := 0
		for i := range parts[0].items {
			size += parts[0].items[i].size()
		}
		if size > partBytes {
			return nil, refuse(api.NewProblem(api.PayloadTooLarge, "an atomic batch has at most %d bytes", partBytes))
		}
	}
	if len(parts) == 0 { // every request is wrong
		return w.out, nil
	}
	for i := range parts {
		if err := parts[i].lane.admit(&parts[i].items[0]); err != nil {
			answerAll(parts[i].items, err)
			continue
		}
		parts[i].push(cfg.atomic)
	}
	w.wait(ctx)
	return w.out, nil
}

// item is the operation of a request.
func (r *Request) item() item {
	it := item{kind: api.Take, policy: r.Policy, key: r.Key, cost: r.Cost, requestID: r.RequestID, maxWait: wholeMillis(r.MaxWait)}
	if it.cost == 0 {
		it.cost = 1
	}
	if r.Limits != nil {
		it.setInline(r.Limits)
	}
	return it
}

// part is what one lane has to carry of a batch.
type part struct {
	lane  *lane
	items []item
	apart bool // not with those of other callers
}

// push hands the part over, in pieces if it is too large for one batch.
func (p *part) push(atomic bool) {
	for rest := p.items; len(rest) > 0; {
		n, size := 0, 0
		for n < len(rest) && (n == 0 || size+rest[n].size() <= partBytes) {
			size += rest[n].size()
			n++
		}
		p.lane.pushOrFail(rest[:n], p.apart || atomic, atomic)
		rest = rest[n:]
	}
	freeItems(p.items)
	p.items = nil
}
