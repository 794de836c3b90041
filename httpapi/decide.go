package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/rlstore/rlstore/api"
	"github.com/rlstore/rlstore/limiter"
	"github.com/rlstore/rlstore/policy"
)

func (e *edge) take(w http.ResponseWriter, r *http.Request) error {
	var req takeRequest
	return e.decision(w, r, api.Take, &req, func(opts limiter.Options) (*answer, error) {
		return e.one(r.Context(), api.Take, &req, opts)
	})
}

// decision serves what is allowed or denied: it reads the request into req, and then
// has decide decide it. A binary request may hold operations of kind only.
func (e *edge) decision(w http.ResponseWriter, r *http.Request, kind api.Kind, req any, decide func(limiter.Options) (*answer, error)) error {
	denied, err := denyStatus(r)
	if err != nil {
		return err
	}
	body, opts, err := e.open(r, req)
	switch {
	case err != nil:
		return err
	case body != nil && denied != http.StatusOK:
		return api.NewProblem(api.InvalidRequest, "deny_status: the binary form does not have it")
	case body != nil:
		return e.binary(w, r, body, opts, kind)
	}
	a, err := decide(opts)
	if err != nil {
		return err
	}
	if e.XRateLimit != nil && e.XRateLimit(a.set.Policy) {
		a.setXRateLimit(w.Header())
	}
	return a.respondTake(w, r, denied)
}

func (e *edge) takeBatch(w http.ResponseWriter, r *http.Request) error {
	var req batchRequest
	body, opts, err := e.open(r, &req)
	if err != nil {
		return err
	}
	if body != nil {
		return e.binary(w, r, body, opts, anyKind)
	}
	res, err := e.many(r.Context(), &req, opts)
	if err != nil {
		return err
	}
	for i := range res.Results {
		if p := res.Results[i].Error; p != nil {
			p.Instance, p.RequestID = r.URL.EscapedPath(), w.Header().Get(api.HeaderRequestID)
		}
	}
	respond(w, http.StatusOK, api.MediaJSON, res)
	return nil
}

func (e *edge) peek(w http.ResponseWriter, r *http.Request) error {
	stale, err := wantsStale(r)
	if err != nil {
		return err
	}
	var req keyRequest
	body, opts, err := e.open(r, &req)
	switch {
	case err != nil:
		return err
	case body != nil && stale:
		return api.NewProblem(api.InvalidRequest, "consistency: the binary form has no stale peeks")
	case body != nil:
		return e.binary(w, r, body, opts, api.Peek)
	case stale:
		return e.stalePeek(w, r, &req)
	}
	a, err := e.one(r.Context(), api.Peek, req.take(), opts)
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, api.MediaJSON, api.PeekResponse{State: a.state(true)})
	return nil
}

func (e *edge) stalePeek(w http.ResponseWriter, r *http.Request, req *keyRequest) error {
	b := batch{inline: e.AllowInline}
	if e.StalePeek == nil {
		return api.NewProblem(api.InvalidRequest, "consistency: stale peeks are not supported on this node")
	}
	if err := b.add(api.Peek, req.take()); err != nil {
		return err
	}
	reply, age, err := e.StalePeek(r.Context(), &b.Batch)
	if err != nil {
		return err
	}
	a, err := onlyAnswer(reply, *req.Key)
	if err != nil {
		return err
	}
	ms := api.Millis(max(age, 0))
	respond(w, http.StatusOK, api.MediaJSON, api.PeekResponse{State: a.state(true), AgeMS: &ms})
	return nil
}

func (e *edge) refund(w http.ResponseWriter, r *http.Request) error {
	var req refundRequest
	body, opts, err := e.open(r, &req)
	if err != nil {
		return err
	}
	if body != nil {
		return e.binary(w, r, body, opts, api.Refund)
	}
	a, err := e.one(r.Context(), api.Refund, req.take(), opts)
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, api.MediaJSON, api.RefundResponse{State: a.state(false), Refunded: a.res.Refunded, Duplicate: a.res.Duplicate})
	return nil
}

func (e *edge) reset(w http.ResponseWriter, r *http.Request) error {
	var req keyRequest
	body, opts, err := e.open(r, &req)
	if err != nil {
		return err
	}
	if body != nil {
		return e.binary(w, r, body, opts, api.Reset)
	}
	if _, err := e.one(r.Context(), api.Reset, req.take(), opts); err != nil {
		return err
	}
	respond(w, http.StatusOK, api.MediaJSON, api.ResetResponse{Reset: true})
	return nil
}

func (k *keyRequest) take() *takeRequest {
	return &takeRequest{Policy: k.Policy, Limits: k.Limits, Key: k.Key}
}

func (k *refundRequest) take() *takeRequest {
	return &takeRequest{Policy: k.Policy, Limits: k.Limits, Key: k.Key, Cost: k.Cost, RequestID: k.RequestID}
}

// open reads the request: its options, and its body either into v, if it is
// JSON, or as the bytes of a binary batch.
func (e *edge) open(r *http.Request, v any) (binary []byte, o limiter.Options, err error) {
	if o.NoForward, err = noForward(r); err != nil {
		return nil, o, err
	}
	media, err := mediaType(r, api.MediaJSON, api.MediaBatch)
	if err != nil {
		return nil, o, err
	}
	body, err := readBody(r)
	if err != nil {
		return nil, o, err
	}
	if media == api.MediaBatch {
		return body, o, nil
	}
	return nil, o, decodeJSON(body, v)
}

// noForward tells whether the caller wants no forwarding to the leader.
func noForward(r *http.Request) (bool, error) {
	switch h := r.Header.Get(api.HeaderForward); h {
	case "":
		return false, nil
	case "never":
		return true, nil
	default:
		return false, api.NewProblem(api.InvalidRequest, "the header %s is %.80q; it takes \"never\" only", api.HeaderForward, h)
	}
}

// one decides a single operation.
func (e *edge) one(ctx context.Context, kind api.Kind, t *takeRequest, o limiter.Options) (*answer, error) {
	return e.hold(ctx, kind, t, nil, o)
}

// hold decides a single operation, which may make a hold.
func (e *edge) hold(ctx context.Context, kind api.Kind, t *takeRequest, h *api.Hold, o limiter.Options) (*answer, error) {
	b := batch{inline: e.AllowInline, hold: h}
	if err := b.add(kind, t); err != nil {
		return nil, err
	}
	reply, err := e.Limiter.Do(ctx, &b.Batch, o)
	if err != nil {
		return nil, err
	}
	a, err := onlyAnswer(reply, *t.Key)
	return a, withErrors(err, t)
}

// withErrors lists every error of limits that came with the request; binary
// replies hold the first only.
func withErrors(err error, t *takeRequest) error {
	if p, ok := err.(*api.Problem); ok && p.Code == api.InvalidPolicy && t.Limits != nil {
		if _, all := policy.ParseInline(t.Limits); all != nil {
			return all
		}
	}
	return err
}

// onlyAnswer decodes the reply to a single operation. An error that is its
// result is an error of the request.
func onlyAnswer(reply []byte, key string) (*answer, error) {
	rep, err := api.DecodeReply(reply)
	if err != nil {
		return nil, err
	}
	a := &answer{key: key}
	if ok, err := rep.Next(&a.res); err != nil || !ok {
		return nil, fmt.Errorf("a reply without a result: %w", errors.Join(err))
	}
	if a.res.Status == api.StatusError {
		return nil, api.NewProblem(a.res.Code, "%s", a.res.Detail)
	}
	if !a.res.Status.Bare() {
		a.set = &rep.Sets[a.res.Set]
	}
	return a, nil
}

// many decides a JSON batch. The problems in its results are the caller's to
// change.
func (e *edge) many(ctx context.Context, req *batchRequest, o limiter.Options) (*api.BatchResponse, error) {
	n := len(req.Requests)
	if n == 0 || n > api.MaxBatch {
		return nil, api.NewProblem(api.InvalidRequest, "requests: there are %d of them; a batch takes 1 to %d", n, api.MaxBatch)
	}
	b := batch{Batch: api.Batch{Atomic: req.Atomic}, inline: e.AllowInline}
	out := &api.BatchResponse{Results: make([]api.BatchResult, n)}
	for i := range req.Requests {
		if err := b.add(api.Take, &req.Requests[i]); err != nil {
			p := api.AsProblem(err)
			if req.Atomic {
				return nil, api.NewProblem(p.Code, "request %d: %s", i, p.Detail)
			}
			out.Results[i].Error = p
		}
	}
	if b.N == 0 {
		return out, nil
	}
	o.Each = true
	reply, err := e.Limiter.Do(ctx, &b.Batch, o)
	if err != nil {
		return nil, err
	}
	rep, err := api.DecodeReply(reply)
	if err != nil {
		return nil, err
	}
	for i := range out.Results {
		if out.Results[i].Error != nil {
			continue
		}
		a := answer{key: *req.Requests[i].Key}
		if ok, err := rep.Next(&a.res); err != nil || !ok {
			return nil, fmt.Errorf("a reply without result %d: %w", i, errors.Join(err))
		}
		if a.res.Status == api.StatusError {
			p := api.AsProblem(withErrors(api.NewProblem(a.res.Code, "%s", a.res.Detail), &req.Requests[i]))
			if p.Code == api.NotLeader {
				to := e.Limiter.NotLeader(a.key)
				p.Leader, p.Shard, p.SlotMapVersion = to.Leader, to.Shard, to.SlotMapVersion
			}
			out.Results[i].Error = p
			continue
		}
		a.set = &rep.Sets[a.res.Set]
		d := a.decision()
		out.Results[i].Decision = &d
	}
	return out, nil
}

// anyKind lets the operations of a binary batch be of several kinds.
const anyKind api.Kind = 0xff

// binary decides a binary batch and answers in the same form.
func (e *edge) binary(w http.ResponseWriter, r *http.Request, body []byte, o limiter.Options, kind api.Kind) error {
	if e.SlotMapVersion != nil {
		w.Header().Set(api.HeaderSlotMap, strconv.FormatUint(e.SlotMapVersion(), 10))
	}
	b, err := api.DecodeBatch(body)
	if err != nil {
		return err
	}
	if kind != anyKind {
		if err := onlyKind(b, kind); err != nil {
			return err
		}
	}
	reply, err := e.Limiter.Do(r.Context(), b, o)
	if err != nil {
		return err
	}
	respondBytes(w, http.StatusOK, api.MediaBatch, reply)
	return nil
}

func onlyKind(b *api.Batch, kind api.Kind) error {
	rest := b.Ops
	for i := range b.N {
		var op api.Op
		var err error
		if op, rest, err = api.DecodeOp(rest); err != nil {
			return api.NewProblem(api.InvalidRequest, "operation %d is malformed: %v", i, err)
		}
		if op.Kind != kind {
			return api.NewProblem(api.InvalidRequest, "operation %d is a %s; this route takes no other kind than %s, and /v1/take/batch all", i, op.Kind, kind)
		}
	}
	return nil
}

// denyStatus is the status that the caller wants for a denial.
func denyStatus(r *http.Request) (int, error) {
	if r.URL.RawQuery == "" {
		return http.StatusOK, nil
	}
	v, ok := r.URL.Query()["deny_status"]
	switch {
	case !ok:
		return http.StatusOK, nil
	case len(v) == 1 && v[0] == "429":
		return http.StatusTooManyRequests, nil
	case len(v) == 1 && v[0] == "403":
		return http.StatusForbidden, nil
	}
	return 0, api.NewProblem(api.InvalidRequest, "deny_status: it takes 429 or 403")
}

// wantsStale tells whether the caller is content with this node's own view.
func wantsStale(r *http.Request) (bool, error) {
	v, ok := r.URL.Query()["consistency"]
	switch {
	case !ok, len(v) == 1 && v[0] == "linearizable":
		return false, nil
	case len(v) == 1 && v[0] == "stale":
		return true, nil
	}
	return false, api.NewProblem(api.InvalidRequest, "consistency: it takes linearizable, which is the default, or stale")
}
