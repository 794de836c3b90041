package httpapi

import (
	"encoding/json"

	"github.com/rlstore/rlstore/api"
)

// The JSON bodies, with a pointer or raw text wherever "absent" differs from
// the zero value. Their fields are those of the types of the same name in
// package api, which clients use.

type takeRequest struct {
	Policy    *string         `json:"policy"`
	Limits    json.RawMessage `json:"limits"`
	Key       *string         `json:"key"`
	Cost      *int64          `json:"cost"`
	RequestID *string         `json:"request_id"`
	MaxWaitMS int64           `json:"max_wait_ms"`
}

type batchRequest struct {
	Atomic   bool          `json:"atomic"`
	Requests []takeRequest `json:"requests"`
}

type keyRequest struct {
	Policy *string         `json:"policy"`
	Limits json.RawMessage `json:"limits"`
	Key    *string         `json:"key"`
}

type refundRequest struct {
	Policy    *string         `json:"policy"`
	Limits    json.RawMessage `json:"limits"`
	Key       *string         `json:"key"`
	Cost      *int64          `json:"cost"`
	RequestID *string         `json:"request_id"`
}

// batch gathers operations for the limiter.
type batch struct {
	api.Batch
	inline bool           // limits in requests are allowed
	hold   *api.Hold      // of an operation that makes one, but for its id
	refs   map[string]int // by refID; nil while there is one policy at most
}

// add checks what only JSON can get wrong, or the binary form cannot hold, and
// adds the operation. Its error is about this one operation.
func (b *batch) add(kind api.Kind, t *takeRequest) error {
	switch {
	case t.Policy != nil && t.Limits != nil:
		return api.NewProblem(api.InvalidRequest, "policy and limits: give one of them, not both")
	case t.Policy == nil && t.Limits == nil:
		return api.NewProblem(api.InvalidRequest, "policy: the field is missing")
	case t.Limits != nil && !b.inline:
		return api.NewProblem(api.InvalidRequest, "limits: limits in requests are not allowed on this server; name a policy, or start it with --allow-inline-limits")
	case t.Key == nil:
		return api.NewProblem(api.InvalidRequest, "key: the field is missing")
	case t.RequestID != nil && *t.RequestID == "":
		return api.NewProblem(api.InvalidRequest, "request_id: it has 0 bytes; it needs 1 to %d, or leave the field out", api.MaxRequestID)
	}
	if err := api.CheckMaxWait(t.MaxWaitMS); err != nil {
		return err
	}
	op := api.Op{Kind: kind, Key: *t.Key, MaxWait: t.MaxWaitMS}
	if kind == api.Take || kind == api.Refund || kind.MakesHold() {
		op.Cost = 1
	}
	if kind.MakesHold() {
		op.Hold = b.hold
		op.Hold.ID = newHoldID(op.Key)
	}
	if t.Cost != nil {
		op.Cost = *t.Cost
	}
	if t.RequestID != nil {
		op.RequestID = *t.RequestID
	}
	if err := op.Check(); err != nil {
		return err
	}
	op.Policy = b.ref(t)
	b.Add(op)
	return nil
}

// ref returns the index of the operation's limits among the batch's policies.
func (b *batch) ref(t *takeRequest) int {
	var ref api.PolicyRef
	if t.Policy != nil {
		ref.Name = *t.Policy
	} else {
		ref.Inline = t.Limits
	}
	switch {
	case len(b.Policies) == 0:
		b.Policies = []api.PolicyRef{ref}
		return 0
	case b.refs == nil:
		b.refs = map[string]int{refID(b.Policies[0]): 0}
	}
	id := refID(ref)
	if n, ok := b.refs[id]; ok {
		return n
	}
	n := len(b.Policies)
	b.Policies = append(b.Policies, ref)
	b.refs[id] = n
	return n
}

func refID(ref api.PolicyRef) string {
	if ref.Inline != nil {
		return "\x00" + string(ref.Inline)
	}
	return ref.Name
}
