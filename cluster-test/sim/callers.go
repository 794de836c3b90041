package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/client"
	"github.com/rlstore/rlstore/cluster-test/check"
	"github.com/rlstore/rlstore/cluster-test/record"
)

// caller is one user of the cluster, who asks one thing after the other.
type caller struct {
	w    *world
	id   int
	host string
	rng  *rand.Rand
	cl   *client.Client
	http *http.Client

	leases []lent // given, and not ended yet
	holds  []held
}

// width is how many numbers of [check.Op.Client] a caller has: one for each
// request of a batch.
const width = 16

// run asks until ctx ends; what is under way then ends first.
func (c *caller) run(ctx context.Context) {
	for sleep(ctx, c.w.pace/2+time.Duration(c.rng.Int64N(int64(c.w.pace)))) {
		switch k := c.rng.IntN(100); {
		case k < 30:
			c.take()
		case k < 38:
			c.batch(false)
		case k < 44:
			c.batch(true)
		case k < 50:
			c.refund()
		case k < 56:
			c.peek()
		case k < 58:
			c.reset()
		case k < 68:
			c.lease()
		case k < 75:
			c.spend()
		case k < 77:
			c.spendBatch()
		case k < 86:
			c.hold()
		case k < 96:
			c.post(true)
		default:
			c.post(false)
		}
	}
}

// draw picks whom to charge, and how much.
func (c *caller) draw() (policy, key string, cost int64) {
	policy = c.w.policies[c.rng.IntN(len(c.w.policies)-1)]
	switch c.rng.IntN(40) {
	case 0:
		policy = "nobody-has-written-it"
	case 1:
		policy = "jobs"
	}
	key = fmt.Sprintf("{t%d}-%d", c.rng.IntN(6), c.rng.IntN(2))
	cost = 1 + c.rng.Int64N(3)
	if c.rng.IntN(10) == 0 {
		cost = 1 + c.rng.Int64N(30)
	}
	return policy, key, cost
}

func (c *caller) begin(kind string) *check.Op {
	policy, key, cost := c.draw()
	op := &check.Op{Client: c.id * width, Call: c.w.rec.now(), Kind: kind, Policy: policy, Key: key}
	if kind == "take" || kind == "refund" {
		op.Cost = cost
	}
	if op.Cost > 0 && c.rng.IntN(3) == 0 {
		op.RequestID = c.w.nextID()
	}
	return op
}

func (c *caller) end(op *check.Op, a *check.Answer, err error) {
	c.w.rec.returned(op, a, err, false)
	c.w.rec.add(*op)
}

// patience is how long a caller of the Go client waits.
func (c *caller) patience() (context.Context, context.CancelFunc) {
	d := 5 * time.Second
	if c.rng.IntN(4) == 0 { // many give up in the midst of the commit
		d = time.Duration(c.rng.Int64N(int64(20 * time.Millisecond)))
	}
	return context.WithTimeout(context.Background(), d)
}

// mostWait draws how long a take may wait: mostly not at all.
func (c *caller) mostWait() time.Duration {
	if c.rng.IntN(4) > 0 {
		return 0
	}
	return time.Duration(1+c.rng.Int64N(5000)) * time.Millisecond
}

func withID(id string) (o []client.TakeOption) {
	if id != "" {
		o = append(o, client.RequestID(id))
	}
	return o
}

func (c *caller) take() {
	ctx, cancel := c.patience()
	defer cancel()
	op := c.begin("take")
	most := c.mostWait()
	op.MaxWaitMS = most.Milliseconds()
	d, err := c.cl.Take(ctx, op.Policy, op.Key, op.Cost, append(withID(op.RequestID), client.MaxWait(most))...)
	c.end(op, record.Decision(&d), err)
}

func (c *caller) refund() {
	ctx, cancel := c.patience()
	defer cancel()
	op := c.begin("refund")
	r, err := c.cl.RefundN(ctx, op.Policy, op.Key, op.Cost, withID(op.RequestID)...)
	a := record.State(&r.State)
	a.Refunded, a.Duplicate = r.Refunded, r.Duplicate
	c.end(op, a, err)
}

func (c *caller) peek() {
	ctx, cancel := c.patience()
	defer cancel()
	op := c.begin("peek")
	s, err := c.cl.Peek(ctx, op.Policy, op.Key)
	c.end(op, record.State(&s), err)
}

func (c *caller) reset() {
	ctx, cancel := c.patience()
	defer cancel()
	op := c.begin("reset")
	err := c.cl.Reset(ctx, op.Policy, op.Key)
	c.end(op, &check.Answer{}, err)
}

// batch takes from several buckets at once: of one shard if atomic.
func (c *caller) batch(atomic bool) {
	ctx, cancel := c.patience()
	defer cancel()
	ops := make([]check.Op, 1+c.rng.IntN(4))
	var opts []client.BatchOption
	var number int64
	if atomic {
		opts, number = append(opts, client.Atomic()), c.w.rec.nextBatch()
	}
	tag := c.rng.IntN(6)
	var requests []client.Request
	for i := range ops {
		op := c.begin("take")
		if atomic {
			op.Key, op.Atomic = fmt.Sprintf("{t%d}-%d", tag, c.rng.IntN(2)), number
		} else {
			op.Client += i
		}
		op.Call = ops[0].Call
		if i == 0 {
			op.Call = c.w.rec.now()
		}
		most := c.mostWait()
		op.MaxWaitMS = most.Milliseconds()
		ops[i] = *op
		requests = append(requests, client.Request{Policy: op.Policy, Key: op.Key, Cost: op.Cost, RequestID: op.RequestID, MaxWait: most})
	}
	results, err := c.cl.TakeBatch(ctx, requests, opts...)
	for i := range ops {
		e, a := err, (*check.Answer)(nil)
		if err == nil {
			e, a = results[i].Err, record.Decision(&results[i].Decision)
		}
		c.w.rec.returned(&ops[i], a, e, false)
		if i > 0 && ops[i].Return != check.Forever && ops[0].Return != check.Forever {
			ops[i].Return = ops[0].Return
		}
	}
	c.w.rec.add(ops...)
}

// post takes or refunds over HTTP, from any node. With an id it is sent again
// when no answer comes, now and then to two nodes at the same time; without one,
// who gets no answer does not know.
func (c *caller) post(again bool) {
	op := c.begin("take")
	path := "/v1/take"
	if c.rng.IntN(5) == 0 {
		op.Kind, path = "refund", "/v1/refund"
	}
	op.RequestID = ""
	if again {
		op.RequestID = c.w.nextID()
	}
	request := api.TakeRequest{Policy: op.Policy, Key: op.Key, Cost: &op.Cost, RequestID: op.RequestID}
	if op.Kind == "take" {
		request.MaxWaitMS = c.mostWait().Milliseconds()
		op.MaxWaitMS = request.MaxWaitMS
	}
	body, err := json.Marshal(request)
	if err != nil {
		panic(err)
	}
	if again && c.rng.IntN(8) == 0 {
		c.twice(op, path, body)
		return
	}
	attempts, doubt := 1, false
	if again {
		attempts = 1 + c.rng.IntN(5)
	}
	var a *check.Answer
	for i := range attempts {
		wait := 3 * time.Second
		if i == 0 && c.rng.IntN(3) == 0 {
			wait = time.Duration(c.rng.Int64N(int64(10 * time.Millisecond)))
		}
		if a, err = c.ask(c.anyNode(), path, body, wait); err == nil {
			break
		}
		var p *api.Problem
		if errors.As(err, &p) && p.Outcome == api.NotApplied && !p.Retryable {
			break
		}
		doubt = doubt || !notApplied(err)
		time.Sleep(time.Duration(c.rng.Int64N(int64(100 * time.Millisecond))))
	}
	c.w.rec.returned(op, a, err, doubt)
	c.w.rec.add(*op)
}

// twice sends one request under one id to two nodes at the same time. It is
// charged once, and both hear the same.
func (c *caller) twice(op *check.Op, path string, body []byte) {
	type answer struct {
		a   *check.Answer
		err error
	}
	answers := make(chan answer, 2)
	at := [2]string{c.anyNode(), c.anyNode()}
	for _, node := range at {
		go func() {
			a, err := c.ask(node, path, body, 3*time.Second)
			answers <- answer{a, err}
		}()
	}
	first, second := <-answers, <-answers
	if first.err != nil {
		first, second = second, first
	}
	if first.err == nil && second.err == nil {
		if *first.a.Commit != *second.a.Commit || first.a.Allowed != second.a.Allowed || first.a.Refunded != second.a.Refunded {
			c.w.rec.lie("request %s sent twice has two answers: %+v at %+v and %+v at %+v",
				op.RequestID, first.a, first.a.Commit, second.a, second.a.Commit)
		}
		// Both may say duplicate: a node sends a request again, too.
		if !second.a.Duplicate && !first.a.Duplicate {
			c.w.rec.lie("request %s sent twice: both answers claim to be the first", op.RequestID)
		}
		if first.a.Duplicate {
			first = second
		}
	}
	c.w.rec.returned(op, first.a, first.err, first.err != nil && (!notApplied(first.err) || !notApplied(second.err)))
	c.w.rec.add(*op)
}

func (c *caller) anyNode() string {
	known := c.w.known()
	return known[c.rng.IntN(len(known))]
}

// notApplied says whether an error leaves no doubt.
func notApplied(err error) bool {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.Outcome == api.NotApplied
	}
	return errors.Is(err, errNotSent)
}

// ask sends one request and waits so long for its answer.
func (c *caller) ask(node, path string, body []byte, wait time.Duration) (*check.Answer, error) {
	var r struct {
		api.Decision
		Refunded int64 `json:"refunded"`
	}
	if err := c.call("POST", node, path, body, nil, wait, &r); err != nil {
		return nil, err
	}
	a := fromWire(&r.State)
	a.Allowed, a.Duplicate, a.Refunded = r.Allowed, r.Duplicate, r.Refunded
	a.WaitMS, a.Shadowed = r.WaitMS, r.Shadowed
	return a, nil
}

// call makes one HTTP request. A problem comes back as one; errNotSent says that
// nothing has left.
func (c *caller) call(method, node, path string, body []byte, header http.Header, wait time.Duration, out any) error {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+node+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if header != nil {
		req.Header = header
	}
	if body != nil && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", api.MediaJSON)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			return fmt.Errorf("%w: %w", errNotSent, err)
		}
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode >= 300:
		var p api.Problem
		if err := json.Unmarshal(answer, &p); err != nil || p.Code == "" {
			return fmt.Errorf("%s %s: status %d: %.200q", method, path, resp.StatusCode, answer)
		}
		return &p
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*out = answer
		return nil
	}
	return json.Unmarshal(answer, out)
}

func dialHTTP(dial func(context.Context, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) { return dial(ctx, addr) }
}

// editor changes policies while they are in use.
type editor struct {
	caller
	known map[string]api.Policy // as last stored, as far as it knows
}

func (e *editor) run(ctx context.Context) {
	for sleep(ctx, time.Second+time.Duration(e.rng.Int64N(int64(4*time.Second)))) {
		name := e.w.policies[e.rng.IntN(len(e.w.policies))]
		switch n := e.rng.IntN(15); {
		case n > 11:
			p := elsewhere[e.rng.IntN(len(elsewhere))]
			e.put(e.change(p, p.Name))
		case n == 0:
			e.delete(name)
		case n < 3:
			e.override(name)
		default:
			e.put(e.change(e.known[name], name))
		}
	}
}

// override gives some keys limits of their own, for a time or for good, or takes
// them away. The history does not tell of it: the catalog's log does.
func (e *editor) override(name string) {
	key := []string{"*", "{t*", "{t1}*", "{t2}-0", "{t3}-1"}[e.rng.IntN(5)]
	at := "/v1/policies/" + name + "/overrides"
	if e.rng.IntN(3) == 0 {
		_ = e.call("DELETE", e.anyNode(), at+"?key="+url.QueryEscape(key), nil, http.Header{}, 6*time.Second, nil)
		return
	}
	o := api.Override{Key: key, Limits: []api.Limit{e.limit("only")}}
	if name == "jobs" && e.rng.IntN(2) == 0 {
		o.Limits = []api.Limit{{Name: "only", Algorithm: "concurrency", Max: 1 + e.rng.Int64N(4)}}
	}
	if e.rng.IntN(2) == 0 {
		o.TTL = api.Duration(time.Second + time.Duration(e.rng.Int64N(int64(8*time.Second))))
	}
	body, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	_ = e.call("PUT", e.anyNode(), at, body, http.Header{}, 6*time.Second, nil)
}

// change draws what becomes of a policy: limits with other numbers and of other
// algorithms, one more, or one less; in another time zone; in shadow for a while.
func (e *editor) change(p api.Policy, name string) api.Policy {
	p.Name, p.Revision, p.ZoneRules, p.TimeZone, p.Enforcement = name, 0, nil, "", ""
	if e.rng.IntN(5) == 0 {
		p.Enforcement = "shadow"
	}
	p.Limits = slices.Clone(p.Limits)
	switch n := len(p.Limits); {
	case name == "jobs" && e.rng.IntN(4) > 0: // else it has no slots for a while
		p.Limits = []api.Limit{{Name: "only", Algorithm: "concurrency", Max: 1 + e.rng.Int64N(4)}}
		if e.rng.IntN(2) == 0 {
			p.Limits = append(p.Limits, e.limit("a"))
		}
	case n == 0:
		p.Limits = []api.Limit{e.limit("only")}
	case n < 3 && e.rng.IntN(4) == 0:
		p.Limits = append(p.Limits, e.limit(fmt.Sprintf("more-%d", e.rng.IntN(100))))
	case n > 1 && e.rng.IntN(3) == 0:
		i := e.rng.IntN(n)
		p.Limits = slices.Delete(p.Limits, i, i+1)
	default:
		i := e.rng.IntN(n)
		p.Limits[i] = e.limit(p.Limits[i].Name)
	}
	zones := []string{"", "Europe/Berlin", "Asia/Kathmandu"}
	if slices.ContainsFunc(p.Limits, func(l api.Limit) bool { return l.Algorithm == "fixed_window" }) {
		p.TimeZone = zones[e.rng.IntN(len(zones))]
	}
	return p
}

// limit draws one that is often at its end.
func (e *editor) limit(name string) api.Limit { return drawLimit(e.rng, name) }

func drawLimit(rng *rand.Rand, name string) api.Limit {
	pers := []time.Duration{time.Millisecond, 100 * time.Millisecond, time.Second, 7 * time.Second, time.Minute, 8760 * time.Hour}
	l := api.Limit{
		Name: name, Rate: 1 + rng.Int64N(40), Per: api.Duration(pers[rng.IntN(len(pers))]), Burst: 1 + rng.Int64N(60),
	}
	switch rng.IntN(4) {
	case 0:
		l.Algorithm, l.Burst = "sliding_window", 0
	case 1:
		l.Algorithm, l.Burst = "fixed_window", 0
		if rng.IntN(8) == 0 {
			l.Per = api.Month
		}
	}
	return l
}

// put writes a policy through any node, once.
func (e *editor) put(p api.Policy) {
	body, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	edit := check.Edit{Call: e.w.rec.now(), Name: p.Name}
	var stored api.Policy
	err = e.call("PUT", e.anyNode(), "/v1/policies/"+p.Name, body, http.Header{}, 6*time.Second, &stored)
	if err == nil {
		edit.Policy = &stored
		e.known[p.Name] = stored
	}
	e.settle(edit, err)
}

func (e *editor) delete(name string) {
	edit := check.Edit{Call: e.w.rec.now(), Name: name, Deletion: true}
	err := e.call("DELETE", e.anyNode(), "/v1/policies/"+name, nil, http.Header{}, 6*time.Second, nil)
	if err == nil {
		delete(e.known, name)
	}
	e.settle(edit, err)
}

func (e *editor) settle(edit check.Edit, err error) {
	edit.Return, edit.Outcome = e.w.rec.now(), check.Done
	if err != nil {
		edit.Outcome = check.NotApplied
		if !notApplied(err) {
			edit.Outcome, edit.Return = check.Unknown, check.Forever
		}
	}
	e.w.rec.edit(edit)
}
